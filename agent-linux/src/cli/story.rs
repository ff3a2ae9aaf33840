//! The story of a join: its lines as they become true, or its document.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::cli::peer;
use crate::cli::progress::{self, Follower};
use crate::cli::start::Keeper;
use crate::daemon::texts;
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::{Client, Received};
use crate::ipc::protocol::{Answer, Enrolled, Peer, Progress, Request};
use crate::os::clock;
use crate::os::signal::Signals;
use crate::output::{Ui, paint, style, units};

/// How long the first peer may take to answer.
const FIRST_PEER: Duration = Duration::from_secs(10);
/// Peers that are asked at once whether they answer.
const ASKED: usize = 8;

/// What the story says about keys.
pub(super) struct Keys {
    pub(super) coordinator: String,
    pub(super) device: String,
    pub(super) host: String,
}

/// Tells how the join goes, line by line.
pub(super) struct Story {
    pub(super) socket: PathBuf,
    pub(super) started_us: u64,
    pub(super) keys_us: u64,
    pub(super) fingerprint: Keys,
    pub(super) no_wait: bool,
}

fn line(label: &str, text: &str, at_us: Option<u64>) -> String {
    let Some(at_us) = at_us else {
        return format!("  {label:<12} {text}");
    };
    let pad = 57usize.saturating_sub(text.chars().count()).max(1);
    let time = paint(style::DIM, units::step(at_us));
    format!("  {label:<12} {text}{:pad$}{time}", "")
}

impl Story {
    /// Follows the daemon to the end of the join. `true`: a member; `false`:
    /// waiting for approval.
    pub(super) fn tell(&self, ui: &mut Ui, keeper: Option<Keeper>) -> Result<bool> {
        let signals = match keeper {
            Some(_) => Some(Signals::block().map_err(Failure::internal)?),
            None => None,
        };
        let mut follower = Follower::connect(&self.socket, "join", self.started_us, signals)?;
        let enrolled = self.until_enrolled(ui, &mut follower)?;
        self.tell_enrolled(ui, &follower, &enrolled);
        if enrolled.device.standing == "pending" && !self.until_approved(ui, &mut follower)? {
            if ui.json {
                self.document(ui, &follower, &enrolled);
            }
            return Ok(false);
        }
        self.until_map(ui, &mut follower, &enrolled)?;
        let peers =
            if self.no_wait { follower.now.peers.clone() } else { self.first_peer(&follower)? };
        if ui.json {
            self.document(ui, &follower, &enrolled);
        } else {
            ui.answer(&line("peers", &describe_peers(&peers), None));
            ui.answer(&last_line(&follower.now, &enrolled, &peers, keeper));
        }
        Ok(true)
    }

    fn no_answer(&self) -> Failure {
        texts::no_answer(&self.fingerprint.host, &self.fingerprint.device)
    }

    fn until_enrolled(&self, ui: &mut Ui, follower: &mut Follower) -> Result<Enrolled> {
        loop {
            if let Some((enrolled, _)) = &follower.now.enrolled {
                return Ok(enrolled.clone());
            }
            if let Some(failure) = follower.fatal(|| self.no_answer()) {
                return Err(failure);
            }
            let host = &self.fingerprint.host;
            follower.wait_remarking(follower.until_no_answer(), |now, elapsed| {
                let state = match (&now.line, &now.connected) {
                    // Also what it answered over a line that is up: "not now".
                    (Some((tries, failure)), _) => {
                        format!("{} ({})", failure.message(), units::count(*tries as usize, "try"))
                    }
                    (None, Some(_)) => "it has not answered yet".to_owned(),
                    (None, None) => "no connection yet".to_owned(),
                };
                ui.note(&format!(
                    "  waiting for {host} since {}: {state}",
                    units::span_us(elapsed)
                ));
            })?;
        }
    }

    fn tell_enrolled(&self, ui: &mut Ui, follower: &Follower, enrolled: &Enrolled) {
        if ui.json {
            return;
        }
        let (host, key) = (&self.fingerprint.host, &self.fingerprint.coordinator);
        let network = &enrolled.device.network;
        ui.answer(&line("network", &format!("{network} at {host}, coordinator {key}"), None));
        let keys = "made here; private keys never leave this machine";
        ui.answer(&line("keys", keys, Some(self.keys_us)));
        if let Some((address, at)) = &follower.now.connected {
            ui.answer(&line("coordinator", address, Some(follower.since_start(*at))));
        }
        let (name, key) = (&enrolled.device.name, &enrolled.key_name);
        if enrolled.device.standing == "pending" {
            let print = &enrolled.device.fingerprint;
            ui.answer(&line(
                "waiting",
                &format!("for approval as {name}, fingerprint {print}"),
                None,
            ));
        } else {
            let of = match enrolled.max_uses {
                0 => String::new(),
                most => format!(" of {most}"),
            };
            let text = format!("{name}, with key \"{key}\" (use {}{of})", enrolled.uses);
            let at = follower.now.enrolled.as_ref().map(|(_, at)| follower.since_start(*at));
            ui.answer(&line("enrolled", &text, at));
        }
        if *name != enrolled.wanted_name {
            let wanted = &enrolled.wanted_name;
            ui.note(&format!(
                "note: the name {wanted} is taken, this machine is {name} (weft-coordinator device rename …)"
            ));
        }
    }

    /// Waits for an operator, unless nobody wants to wait.
    fn until_approved(&self, ui: &mut Ui, follower: &mut Follower) -> Result<bool> {
        if self.no_wait {
            return Ok(false);
        }
        ui.note("  Ctrl-C leaves it pending; it completes by itself later");
        loop {
            if follower.now.standing.as_deref() == Some("active") {
                return Ok(true);
            }
            if let Some(failed) = &follower.now.failed {
                return Err(failed.clone());
            }
            match follower.wait(Duration::from_secs(3_600)) {
                Err(failure) if failure.is(Code::CliInterrupted) => return Ok(false),
                other => drop(other?),
            }
        }
    }

    fn until_map(&self, ui: &mut Ui, follower: &mut Follower, enrolled: &Enrolled) -> Result<()> {
        let began = clock::boot_micros();
        let mut told = false;
        loop {
            if let Some((name, v4, v6, mtu, at)) = &follower.now.interface
                && !told
            {
                told = true;
                if !ui.json {
                    let text = format!("{name} {v4} {v6}, MTU {mtu}");
                    ui.answer(&line("interface", &text, Some(follower.since_start(*at))));
                }
            }
            if told && follower.now.map_at.is_some() {
                return Ok(());
            }
            if let Some(failed) = &follower.now.failed {
                return Err(failed.clone());
            }
            let waited = clock::boot_micros().saturating_sub(began);
            let left = progress::NO_MAP.saturating_sub(Duration::from_micros(waited));
            if left.is_zero() {
                let device = &enrolled.device;
                return Err(texts::no_map(&self.fingerprint.host, &device.name, &device.network));
            }
            follower.wait_remarking(left, |_, elapsed| {
                ui.note(&format!("  waiting for the map since {}", units::span_us(elapsed)));
            })?;
        }
    }

    /// Asks the first peers whether they answer; the peer that did comes first.
    fn first_peer(&self, follower: &Follower) -> Result<Vec<Peer>> {
        let progress = &follower.now;
        if progress.peers.is_empty() {
            return Ok(Vec::new());
        }
        let mut client = Client::connect(&self.socket, "join")?;
        let echo = |to: IpAddr, sequence| Request::Echo {
            to,
            sequence,
            bytes: 56,
            wait_ms: FIRST_PEER.as_millis() as u32,
        };
        let mut open = 0;
        for peer in progress.peers.iter().take(ASKED) {
            client.send(echo(peer.addresses.0.into(), 1))?;
            open += 1;
        }
        let mut first = None;
        while open > 0 && first.is_none() {
            let patience = FIRST_PEER + Duration::from_secs(1);
            match client.receive_unless_signalled(patience, follower.signals()) {
                Ok(Received::Answer(Answer::Echo(from, Some(_)))) => first = Some(from),
                Ok(Received::Answer(Answer::Echo(_, None))) => open -= 1,
                Ok(Received::Signal) => return Err(progress::interrupted()),
                // A rule that forbids asking is no fault of the join.
                Err(failure) if failure.is(Code::PingDenied) => open -= 1,
                Err(failure) => return Err(failure),
                Ok(_) => break,
            }
        }
        // The first answer waited for a handshake; the second is the path's own.
        let mut rtt = None;
        if let Some(from) = first {
            let mut again = Client::connect(&self.socket, "join")?;
            if let Ok(Answer::Echo(_, measured)) = again.ask(echo(from, 2)) {
                rtt = measured;
            }
        }
        let mut peers = Client::connect(&self.socket, "join")?.status()?.peers;
        let answered = |peer: &Peer| first == Some(peer.addresses.0.into());
        peers.sort_by_key(|peer| (!answered(peer), peer.name.clone()));
        if let Some(peer) = peers.first_mut().filter(|peer| answered(peer)) {
            peer.rtt_us = rtt.or(peer.rtt_us);
        }
        Ok(peers)
    }

    fn document(&self, ui: &mut Ui, follower: &Follower, enrolled: &Enrolled) {
        let interface = follower.now.interface.as_ref();
        let addresses = interface.map(|(_, v4, v6, ..)| (*v4, *v6));
        let addresses = addresses.or(enrolled.device.addresses);
        let carrier = follower
            .now
            .connected
            .as_ref()
            .map_or("", |(address, _)| address.split("://").next().unwrap_or_default());
        let document = Document {
            schema: "weft.join/1",
            device: DeviceDocument {
                id: &enrolled.device.id,
                name: &enrolled.device.name,
                network: &enrolled.device.network,
                fingerprint: &enrolled.device.fingerprint,
                addresses: addresses
                    .iter()
                    .flat_map(|(v4, v6)| [v4.to_string(), v6.to_string()])
                    .collect(),
            },
            coordinator: CoordinatorDocument {
                host: &self.fingerprint.host,
                fingerprint: &self.fingerprint.coordinator,
                carrier,
            },
            key: KeyDocument {
                id: &enrolled.key,
                name: &enrolled.key_name,
                uses: enrolled.uses,
                max_uses: (enrolled.max_uses > 0).then_some(enrolled.max_uses),
            },
            state: if interface.is_some() { "active" } else { "pending" },
            interface: interface.map(|(name, ..)| name.as_str()),
            mtu: interface.map(|(_, _, _, mtu, _)| *mtu),
            took_ms: follower.elapsed_us() / 1_000,
        };
        ui.document(&document);
    }
}

fn describe_peers(peers: &[Peer]) -> String {
    let Some(first) = peers.first() else {
        return "none yet; paste the same line on a second machine".to_owned();
    };
    let (kind, _) = peer::path(first);
    let rtt = first.rtt_us.map_or_else(String::new, |us| format!(" {}", units::span_us(us)));
    let more = match peers.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("{}  {kind}{rtt}{more}", first.name)
}

fn last_line(
    progress: &Progress,
    enrolled: &Enrolled,
    peers: &[Peer],
    keeper: Option<Keeper>,
) -> String {
    let (name, network) = (&enrolled.device.name, &enrolled.device.network);
    let address = progress.interface.as_ref().map(|(_, v4, ..)| v4.to_string());
    let address = address.unwrap_or_default();
    let hint = match (peers.first(), keeper) {
        (Some(first), _) => format!("; try  weft ping {}", first.name),
        (None, Some(Keeper::Unit)) => "; starts at boot (weft.service)".to_owned(),
        (None, Some(Keeper::Background)) => {
            format!("; runs in the background (pid {})", progress.pid)
        }
        (None, None) => String::new(),
    };
    let ok = paint(style::GOOD, "ok:");
    let who = paint(style::BOLD, format_args!("this machine is {name}.{network}, {address}"));
    format!("{ok} {who}{hint}")
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    device: DeviceDocument<'a>,
    coordinator: CoordinatorDocument<'a>,
    key: KeyDocument<'a>,
    state: &'static str,
    interface: Option<&'a str>,
    mtu: Option<u16>,
    took_ms: u64,
}

#[derive(Serialize)]
struct DeviceDocument<'a> {
    id: &'a str,
    name: &'a str,
    network: &'a str,
    fingerprint: &'a str,
    addresses: Vec<String>,
}

#[derive(Serialize)]
struct CoordinatorDocument<'a> {
    host: &'a str,
    fingerprint: &'a str,
    carrier: &'a str,
}

#[derive(Serialize)]
struct KeyDocument<'a> {
    id: &'a str,
    name: &'a str,
    uses: u32,
    max_uses: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_in_one_column() {
        let plain = |text: String| anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            plain(line("keys", "made here; private keys never leave this machine", Some(4_000))),
            "  keys         made here; private keys never leave this machine         0.00 s"
        );
        assert_eq!(
            plain(line("enrolled", "gw-a, with key \"lab\" (use 1 of 10)", Some(114_000))),
            "  enrolled     gw-a, with key \"lab\" (use 1 of 10)                       0.11 s"
        );
        assert_eq!(line("network", "home", None), "  network      home");
    }
}
