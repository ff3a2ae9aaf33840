//! Outputs: what is to be sent, done and awaited.

use weft_noise::wg::INITIATION_LEN;
use weft_wire::item::ItemError;

use super::cache::CacheUsage;
use super::outbox::{AgentEvent, InterfaceConfig, Persist};
use super::trace::{Entry, Output, Trace};
use super::{Agent, Transmit, TunnelMac};
use crate::buffer::PacketBuf;
use crate::config::implementation::HEADROOM;
use crate::control::{ControlTransmit, LineRequest, Reports};
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot, Source};
use crate::ip::icmp::{self, Problem};
use crate::meter::Cause;
use crate::path::{ProbeTransmit, Targets};
use crate::peers::PeerChange;
use crate::stun::StunTransmit;
use crate::time::Instant;
use crate::timer::Reason;
use crate::tunnel::To;

/// One handshake initiation on its way to several addresses.
pub(super) struct Fanout {
    message: [u8; INITIATION_LEN],
    len: usize,
    /// Those that are left, in reverse order.
    targets: Targets,
}

impl Fanout {
    pub(super) const fn new() -> Self {
        Self { message: [0; INITIATION_LEN], len: 0, targets: Targets::new() }
    }

    /// Begins with a message; [`Fanout::next`] sends it to each target.
    fn begin(&mut self, message: &[u8], mut targets: Targets) {
        if let Some(place) = self.message.get_mut(..message.len()) {
            place.copy_from_slice(message);
            targets.reverse();
            self.len = message.len();
            self.targets = targets;
        }
    }

    /// Writes the message into `out`: its length, and where it goes.
    fn next(&mut self, out: &mut [u8]) -> Option<(usize, Source)> {
        let route = self.targets.pop()?;
        let message = self.message.get(..self.len)?;
        out.get_mut(..self.len)?.copy_from_slice(message);
        Some((self.len, route.source()))
    }
}

impl<
    E: Entropy,
    T: Trace,
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> Agent<E, T, PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>
{
    /// What to do about the line to the coordinator.
    #[must_use]
    pub fn poll_line(&mut self) -> Option<LineRequest> {
        let request = self.control.poll_line(self.now)?;
        self.recorder.put(self.now, &Entry::Polled(Output::Line));
        Some(request)
    }

    /// Writes the next frame for the coordinator into `out`
    /// ([`weft_wire::frame::MAX_FRAME_CHIP`] bytes are enough).
    #[must_use]
    pub fn poll_control(&mut self, out: &mut [u8]) -> Option<ControlTransmit> {
        let mut paths = self.control.wants_path_report(self.now).then(|| self.path_report());
        let told = self.control.wants_usage(self.now).then(|| self.usage_report()).flatten();
        let (usage, report) = told.unzip();
        let mut reports = Reports { paths: paths.as_mut(), usage: report };
        let transmit = self.control.poll_transmit(out, &mut reports, &mut self.recorder, self.now);
        if let (Some(usage), None) = (&usage, &reports.usage) {
            self.meter.handle_reported(usage, self.now);
        }
        self.polled(Output::Control, transmit.is_some());
        transmit
    }

    /// Writes the next datagram into `out`
    /// ([`capacity_for`](crate::buffer::capacity_for)`(1420)` bytes are enough).
    #[must_use]
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<Transmit> {
        // What the relay is asked goes before what it is to pass on. Servers are asked
        // first: a relay may be one of them, and a NAT that counts ports gives both
        // the one that comes first.
        let transmit = self
            .poll_stun(out)
            .or_else(|| self.poll_relay(out))
            .or_else(|| self.poll_fanout(out))
            .or_else(|| self.poll_probe(out))
            .or_else(|| self.poll_handshake(out))
            .or_else(|| self.poll_keepalive(out))
            .or_else(|| self.poll_staged(out));
        self.polled(Output::Transmit, transmit.is_some());
        transmit
    }

    /// Writes an ICMP error for the mesh interface into `out` (1,280 bytes): a
    /// packet found no way to its peer in time. Ask until `None`.
    #[must_use]
    pub fn poll_refusal(&mut self, out: &mut [u8]) -> Option<usize> {
        loop {
            let lost = self
                .staging
                .take_lost(|packet| icmp::answer_bytes(packet, Problem::Unreachable, out))?;
            self.recorder.put(self.now, &Entry::Polled(Output::Refusal));
            self.drops.count(DropReason::NoPath);
            // Some packets are never answered: errors, and those to many.
            if lost.is_some() {
                return lost;
            }
        }
    }

    /// The next thing to store, do or show.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        let (held, control) = (self.control.held(), &self.control);
        let interface = || {
            let settings = control.settings().settings()?;
            Some(InterfaceConfig {
                overlay: settings.overlay,
                host: settings.host,
                name: settings.name.clone(),
                mtu: settings.mtu,
            })
        };
        let event = self.outbox.poll(held, interface).or_else(|| {
            let change = self.peers.poll_change()?;
            // Whoever looks at this device sees it with the next regular word.
            if !self.meter.is_used_up() {
                self.control.handle_change(self.now);
            }
            let PeerChange { slot, device, from, to } = change;
            let entry = Entry::Peer(slot.0, device, from as u8, to as u8);
            self.recorder.put(self.now, &entry);
            Some(AgentEvent::Peer(change))
        });
        match &event {
            Some(AgentEvent::Persist(Persist::Identity)) => self.control.handle_identity_asked(),
            Some(AgentEvent::Peer(change)) => self.note_change(change),
            _ => {}
        }
        self.polled(Output::Event, event.is_some());
        event
    }

    /// When to call [`Agent::handle_timeout`] at the latest, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let parts = [
            self.control.poll_timeout(),
            self.tunnel.poll_timeout(),
            self.stun.poll_timeout(),
            self.relay.poll_timeout(),
            self.paths.poll_timeout(),
            self.peers.poll_timeout(),
            self.staging.poll_timeout(),
            self.meter.due_at().map(|at| (at, Reason::new("meter: a new day"))),
        ];
        parts.into_iter().flatten().min_by_key(|&(at, _)| at)
    }

    /// Hands what is to survive a restart to `write`, piece by piece: give all
    /// of it back to [`Agent::restore`], in order. `scratch` takes one piece at
    /// a time, at most 2,048 bytes.
    ///
    /// # Errors
    ///
    /// [`ItemError::NoRoom`] when `scratch` is too short.
    pub fn write_cache(
        &self,
        scratch: &mut [u8],
        mut write: impl FnMut(&[u8]),
    ) -> Result<(), ItemError> {
        let usage = self.meter.kept().map(|(day, bytes)| CacheUsage { day, bytes });
        let names = self.names.told();
        let told = (usage, names.as_ref());
        super::cache::write(&self.control, &self.peers, &self.paths, told, scratch, &mut write)
    }

    /// Whether the cache that was asked for last has to be in storage before
    /// something else happens: a map that the coordinator is told of, the lease, a
    /// command that is done once. Otherwise only peers' addresses and credentials at
    /// relays are others, and who spares a flash memory writes them late: an older
    /// cache costs calls through the coordinator.
    pub const fn is_cache_urgent(&self) -> bool {
        self.outbox.is_cache_urgent
    }

    fn polled(&mut self, output: Output, some: bool) {
        if some {
            self.recorder.put(self.now, &Entry::Polled(output));
        }
        self.pump();
    }

    /// The trace of this run.
    pub const fn trace(&self) -> &T {
        self.recorder.trace()
    }

    fn poll_stun(&mut self, out: &mut [u8]) -> Option<Transmit> {
        let StunTransmit { socket, to, len } = self.stun.poll_transmit(out, self.now)?;
        let transmit = Transmit::datagram(socket, to, len);
        self.count_sent(Cause::Probe, len, &transmit);
        Some(transmit)
    }

    fn poll_probe(&mut self, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let mut mac = TunnelMac(&self.tunnel);
            let ProbeTransmit { route, len, keeps } =
                self.paths.poll_probe(out, &mut mac, self.now)?;
            let cause = if keeps { Cause::Keepalive } else { Cause::Probe };
            // What waits for a relay is sent again by its burst.
            if let Some(transmit) = self.sent_to(cause, route.source(), out, len) {
                return Some(transmit);
            }
        }
    }

    fn poll_fanout(&mut self, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let (len, to) = self.fanout.next(out)?;
            if let Some(transmit) = self.sent_to(Cause::Payload, to, out, len) {
                return Some(transmit);
            }
        }
    }

    fn poll_handshake(&mut self, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let message = self.tunnel.poll_transmit(out)?;
            let transmit = match message.to {
                To::Reply(source) => self.sent_to(Cause::Payload, source, out, message.len),
                To::Peer(slot) => {
                    self.paths.handle_initiation(slot, &mut self.recorder, self.now);
                    let targets = self.paths.targets(slot, self.now);
                    if targets.is_empty() {
                        self.drops.count(DropReason::NoPath);
                    }
                    self.fanout.begin(out.get(..message.len)?, targets);
                    self.poll_fanout(out)
                }
            };
            if transmit.is_some() {
                return transmit;
            }
        }
    }

    fn poll_keepalive(&mut self, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let position = self.keepalives.iter().position(|&wanted| wanted)?;
            *self.keepalives.get_mut(position)? = false;
            let slot = PeerSlot(u16::try_from(position).ok()?);
            if let Some(sealed) = self.datapath.handle_keepalive(slot, out, self.now)
                && let Some(transmit) = self.addressed(sealed, out)
            {
                return Some(transmit);
            }
        }
    }

    fn poll_staged(&mut self, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let (_, len) = self.staging.pop(out.get_mut(HEADROOM..)?)?;
            let mut buffer = PacketBuf::new(out, len)?;
            let sealed = self.datapath.handle_packet(&mut buffer, self.now);
            if let Ok(sealed) = sealed
                && let Some(transmit) = self.addressed(sealed, out)
            {
                return Some(transmit);
            }
        }
    }
}
