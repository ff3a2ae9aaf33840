//! What the commands ask over the socket.

use std::net::IpAddr;

use weft_agent_core::ip::icmp::Problem;

use crate::daemon::end::End;
use crate::daemon::{Daemon, LEAVE_US, now, texts};
use crate::failure::{Code, Failure};
use crate::ipc::protocol::{Answer, Request, Stopped};
use crate::ipc::server::ClientId;
use crate::net::icmp::{HEADERS_V4, HEADERS_V6};
use crate::os::clock;

/// Lines of one answer.
const LINES: usize = 500;
/// A ping waits at most this long, in microseconds.
const LONGEST_WAIT_US: u64 = 60_000_000;

/// The coordinator has not let this device go yet; the agent goes on asking.
pub(super) fn leave_unconfirmed(host: &str) -> Failure {
    Failure::new(
        Code::LeaveUnconfirmed,
        format!("{host} did not answer in 15 s; this machine leaves as soon as it does"),
    )
    .try_command("weft leave --forget        (erases the keys now)")
}

impl Daemon {
    pub(super) fn answer(&mut self, client: ClientId, request: Request) {
        match request {
            Request::Status => {
                let status = Box::new(self.status());
                self.server.answer(client, Answer::Status(status));
            }
            Request::Servers => {
                let known = self.known_servers();
                self.server.answer(client, Answer::Servers(known));
            }
            Request::Why { peer } => {
                let evidence = self.evidence(&peer).map(Box::new);
                self.server.answer(client, Answer::Why(evidence));
            }
            Request::Measured { peer, rtt_us } => {
                self.note_rtt(peer, rtt_us);
                let status = Box::new(self.status());
                self.server.answer(client, Answer::Status(status));
            }
            Request::Progress => {
                if !self.watchers.contains(&client) {
                    self.watchers.push(client);
                }
                self.tell_progress(client);
            }
            Request::Echo { to, bytes, wait_ms, .. } => self.begin_echo(client, to, bytes, wait_ms),
            Request::Logs { follow, since_s } => self.answer_logs(client, follow, since_s),
            Request::Down => {
                self.ender = Some(client);
                self.end = Some(End::Stop);
            }
            Request::Leave => self.begin_leave(client),
            Request::Abandon if self.agent.identity().member().is_some() => {
                // A member is not undone by a command that lost its patience.
                self.server.answer(client, Answer::Stopped(Stopped::default()));
            }
            Request::Abandon => {
                self.ender = Some(client);
                self.end = Some(End::Erase);
            }
        }
    }

    fn begin_leave(&mut self, client: ClientId) {
        if self.agent.identity().member().is_none() {
            self.ender = Some(client);
            self.end = Some(End::Erase);
            return;
        }
        self.leaving = Some((clock::boot_micros() + LEAVE_US, client));
        self.agent.leave(now());
    }

    fn begin_echo(&mut self, client: ClientId, to: IpAddr, bytes: u16, wait_ms: u32) {
        let config = self.mesh.config();
        let from = config.map(|config| match to {
            IpAddr::V4(_) => IpAddr::V4(config.overlay.address_v4(config.host)),
            IpAddr::V6(_) => IpAddr::V6(config.overlay.address_v6(config.host)),
        });
        let now_us = clock::boot_micros();
        let wait_us = (u64::from(wait_ms) * 1_000).min(LONGEST_WAIT_US);
        let packet = from.and_then(|from| {
            let times = (now_us, now_us + wait_us);
            self.echoes.begin(client, (from, to), usize::from(bytes), times)
        });
        match packet {
            Some(packet) => {
                if let Some(problem) = self.inject(&packet) {
                    self.refuse_echo(client, to, bytes, problem);
                }
            }
            None => self.server.answer(client, Answer::Echo(to, None)),
        }
    }

    /// The data path does not take the echo: nothing will come back.
    fn refuse_echo(&mut self, client: ClientId, to: IpAddr, bytes: u16, problem: Problem) {
        self.echoes.forget_last();
        let peer = self
            .agent
            .peers()
            .find(|peer| peer.addresses.is_some_and(|(v4, v6)| to == v4 || to == v6));
        let peer = peer.map_or_else(|| to.to_string(), |peer| peer.name.to_string());
        match problem {
            Problem::Prohibited => {
                let own = self.status().device.map_or_else(String::new, |device| device.name);
                self.server.refuse(client, texts::ping_denied(&own, &peer));
            }
            Problem::TooBig { mtu } => {
                let headers = if to.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
                self.server.refuse(client, texts::ping_too_big(bytes, headers, &peer, mtu));
            }
            Problem::Unreachable => self.server.answer(client, Answer::Echo(to, None)),
        }
    }

    fn answer_logs(&mut self, client: ClientId, follow: bool, since_s: Option<u64>) {
        let age_us = since_s.map(|seconds| seconds.saturating_mul(1_000_000));
        let from =
            age_us.map_or(0, |age| self.log.first_after(clock::boot_micros().saturating_sub(age)));
        let (lines, next) = self.log.since(from);
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        let follows = self.log_readers.iter().any(|(reader, _)| *reader == client);
        if follow && !follows {
            self.log_readers.push((client, next));
        }
        let last = lines.len().saturating_sub(LINES);
        self.server.answer(client, Answer::Lines(lines[last..].to_vec()));
    }

    fn tell_progress(&mut self, client: ClientId) {
        self.progress.peers = self.peer_views();
        let progress = Box::new(self.progress.clone());
        self.server.answer(client, Answer::Progress(progress));
    }

    /// Tells everybody who follows what is new.
    pub(super) fn tell(&mut self) {
        if core::mem::take(&mut self.progress_changed) {
            let server = &self.server;
            self.watchers.retain(|client| server.is_connected(*client));
            for client in self.watchers.clone() {
                self.tell_progress(client);
            }
        }
        let server = &mut self.server;
        self.log_readers.retain(|(client, _)| server.is_connected(*client));
        for (client, from) in &mut self.log_readers {
            let (lines, next) = self.log.since(*from);
            if next > *from {
                let lines = lines.map(str::to_owned).collect();
                *from = next;
                server.answer(*client, Answer::Lines(lines));
            }
        }
    }

    /// Remembers a peer's round trip.
    pub(super) fn note_rtt(&mut self, from: IpAddr, us: u64) {
        let peer = self
            .agent
            .peers()
            .find(|peer| peer.addresses.is_some_and(|(v4, v6)| from == v4 || from == v6));
        if let Some(device) = peer.map(|peer| peer.device) {
            self.rtts.insert(device, (us, now()));
        }
    }
}
