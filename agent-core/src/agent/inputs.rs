//! Inputs: each goes to the part it is for, then everything that follows from
//! it is carried on ([`super::wiring`]).

use weft_noise::wg::{self, Kind};
use weft_wire::id::DeviceId;
use weft_wire::network::NetworkReport;
use weft_wire::probe::PROBE;
use weft_wire::signal::{CANDIDATES, Candidate, CandidateKind};

use super::outbox::Persist;
use super::record::{Fate, Head};
use super::relayed::Relayed;
use super::trace::{Entry, Trace};
use super::{Agent, Input, Output, Transmit, TunnelMac};
use crate::buffer::PacketBuf;
use crate::config::specification::REJECT_AFTER_TIME;
use crate::control::{FrameDrop, Held};
use crate::datapath::{PacketError, Sealed};
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot, SocketId, Sockets, Source};
use crate::meter::{self, Cause};
use crate::path::{Pauses, Why, Wish};
use crate::relay::Rung;
use crate::stun;
use crate::time::{Duration, Instant};

/// Peers that are called at most because nobody knows who talks to us: a chip's whole table.
const GREETED: usize = 8;
/// A new session that a peer does not use is confirmed to it again, no more often
/// than this.
const CONFIRM_AGAIN_AFTER: Duration = Duration::from_secs(1);

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
    /// The line is up, and the inbox that [`Agent::poll_line`] named subscribed
    /// to.
    pub fn handle_connected(&mut self, now: Instant) {
        self.now = now;
        self.control.handle_connected(&mut self.recorder, now);
        self.recorder.put(now, &Entry::LineUp);
        self.pump();
    }

    /// The line is down, or could not be opened.
    pub fn handle_disconnected(&mut self, now: Instant) {
        self.now = now;
        self.control.handle_disconnected(&mut self.recorder, now);
        self.recorder.put(now, &Entry::LineDown);
        self.pump();
    }

    /// The line carries nothing down by itself and wants a record to fetch with.
    pub fn handle_fetch(&mut self, now: Instant) {
        self.now = now;
        self.control.handle_fetch();
        self.recorder.put(now, &Entry::Fetch);
    }

    /// A frame from the inbox.
    ///
    /// # Errors
    ///
    /// [`FrameDrop`] when it was of no use.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) -> Result<(), FrameDrop> {
        self.now = now;
        let result = self.control.handle_frame(frame, &mut self.recorder, now);
        self.recorder.put_frame::<FRAME>(frame, result, self.control.opened(), now);
        self.pump();
        result
    }

    /// A datagram from one of the shell's sockets; opened in place.
    ///
    /// # Errors
    ///
    /// Why it went no further; counted.
    pub fn handle_datagram<'a>(
        &mut self,
        source: Source,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Result<Input<'a>, DropReason> {
        self.now = now;
        let (whole, header) = (datagram.len() as u64, meter::datagram_header(source.address));
        match self.relayed(source, datagram) {
            Relayed::No => self.handle_inner(source, datagram, header),
            Relayed::Done(result) => {
                let cause = if result.is_ok() { Cause::RelayOverhead } else { Cause::Payload };
                self.meter.add(cause, whole + header, now);
                result.map(|()| Input::Nothing)
            }
            Relayed::Data(source, at) => {
                let datagram = datagram.get_mut(at).ok_or(DropReason::Malformed)?;
                let around = whole.saturating_sub(datagram.len() as u64);
                self.meter.add(Cause::RelayOverhead, around, now);
                self.handle_inner(source, datagram, header)
            }
        }
    }

    /// What a peer sent, whichever way it came; with `header` bytes around it.
    pub(super) fn handle_inner<'a>(
        &mut self,
        source: Source,
        datagram: &'a mut [u8],
        header: u64,
    ) -> Result<Input<'a>, DropReason> {
        let now = self.now;
        let whole = datagram.len() as u64 + header;
        let head = T::ENABLED.then(|| Head::of_datagram(datagram));
        if stun::is_stun(datagram) {
            let answered = self.stun.handle_datagram(source, datagram, now);
            if let Ok(Some(round_trip)) = answered {
                // Relays are servers too.
                self.relay.handle_round_trip(source.address.ip(), round_trip, now);
            }
            let result = answered.map(drop);
            // Whatever nobody asked for is nobody's to count against a budget.
            let cause = if result.is_ok() { Cause::Probe } else { Cause::Payload };
            self.meter.add(cause, whole, now);
            return self.handled_stun(source, head.as_ref(), result);
        }
        if datagram.first() == Some(&PROBE) {
            return self.handle_probe(source, datagram, whole);
        }
        self.meter.add(Cause::Payload, whole, now);
        let kind = wg::kind(datagram);
        let result = match kind {
            Ok(Kind::Transport) => self
                .datapath
                .handle_datagram(source, datagram, now)
                .map(|received| received.packet.map(<[u8]>::len)),
            Ok(_) => self
                .tunnel
                .handle_datagram(source, datagram, &mut self.recorder, now)
                .map(|()| None),
            Err(wg::Malformed) => {
                self.drops.count(DropReason::Malformed);
                Err(DropReason::Malformed)
            }
        };
        if let Some(head) = head {
            let fate = match (kind, result) {
                (Ok(Kind::Transport), result) => Fate::of_transport(result, datagram),
                (_, Ok(_)) => Fate::Taken,
                (_, Err(reason)) => Fate::Refused(reason),
            };
            self.recorder.put_datagram(source, &head, &fate, now);
        }
        if kind == Ok(Kind::Transport) && result == Err(DropReason::UnknownIndex) {
            self.greet(source);
        }
        self.pump();
        let datagram: &'a [u8] = datagram;
        result.map(|packet| {
            let inner = packet.and_then(|len| datagram.get(wg::HEADER_LEN..wg::HEADER_LEN + len));
            inner.map_or(Input::Nothing, Input::Packet)
        })
    }

    fn handle_probe<'a>(
        &mut self,
        source: Source,
        datagram: &[u8],
        whole: u64,
    ) -> Result<Input<'a>, DropReason> {
        let mut mac = TunnelMac(&self.tunnel);
        let (entropy, now) = (&mut self.recorder, self.now);
        let result = self.paths.handle_probe(source, datagram, &mut mac, entropy, now);
        let cause = match result {
            Ok(slot) if self.paths.is_kept_warm(slot) => Cause::Keepalive,
            Ok(_) => Cause::Probe,
            Err(_) => Cause::Payload,
        };
        self.meter.add(cause, whole, self.now);
        let slot = result.map_or_else(|(slot, _)| slot, Some);
        if let Err((_, reason)) = result {
            self.drops.count(reason);
        }
        self.recorder.put_probe(source, datagram, slot, self.now);
        self.pump();
        result.map(|_| Input::Nothing).map_err(|(_, reason)| reason)
    }

    pub(super) fn handled_stun<'a>(
        &mut self,
        source: Source,
        head: Option<&Head>,
        result: Result<(), DropReason>,
    ) -> Result<Input<'a>, DropReason> {
        if let Err(reason) = result {
            self.drops.count(reason);
        }
        if let Some(head) = head {
            let fate = result.map_or_else(Fate::Refused, |()| Fate::Taken);
            self.recorder.put_datagram(source, head, &fate, self.now);
        }
        self.pump();
        result.map(|()| Input::Nothing)
    }

    /// A packet from the mesh interface; sealed in place.
    ///
    /// # Errors
    ///
    /// [`PacketError`]; [`PacketError::problem`] says what to tell the sender by
    /// ICMP ([`crate::ip::icmp::answer_bytes`]).
    pub fn handle_packet(
        &mut self,
        buffer: &mut PacketBuf<'_>,
        now: Instant,
    ) -> Result<Output, PacketError> {
        self.now = now;
        if T::ENABLED {
            self.recorder.put_packet(&Head::of_packet(buffer.packet()), now);
        }
        let result = match self.datapath.handle_packet(buffer, now) {
            Ok(sealed) => self
                .addressed(sealed, buffer.whole_mut())
                .map(Output::Transmit)
                .ok_or(PacketError::Dropped(DropReason::NoPath)),
            Err(PacketError::NoSession { slot }) => self.stage(slot, buffer),
            Err(error) => Err(error),
        };
        self.pump();
        result
    }

    /// Data of a session that nobody here knows any more: soon after a start, a
    /// peer that goes on where we were before. It would notice after 15 s
    /// without an answer; a handshake of ours is sooner. Once per peer and only
    /// to where the cache has it, so that who forges sources gains nothing. If the
    /// peer goes on all the same, what confirms the new session to it was lost, and is
    /// said again: whoever only receives would say nothing else.
    fn greet(&mut self, source: Source) {
        if self.now - self.started_at >= REJECT_AFTER_TIME {
            return;
        }
        let Some(slot) = self.paths.slot_at(source.address) else {
            return self.greet_all(source);
        };
        self.greet_once(slot);
        let activity = self.datapath.activity(slot);
        let is_silent = activity.sent_at.is_none_or(|at| self.now - at >= CONFIRM_AGAIN_AFTER);
        if activity.heard_from.is_none() && is_silent {
            self.set_keepalive(slot, true);
        }
    }

    /// The same from a relay, in a channel of an allocation that we have no more or from
    /// where nobody is known: a peer talks to us and does not say which. Those are called
    /// who were not heard yet, first of all to whom no way is known; and few, for a source
    /// can be forged.
    pub(super) fn greet_all(&mut self, source: Source) {
        let is_late = self.now - self.started_at >= REJECT_AFTER_TIME;
        if is_late || !self.paths.is_relay(source.address.ip()) {
            return;
        }
        let mut left =
            GREETED.saturating_sub(self.greeted.iter().filter(|greeted| **greeted).count());
        for way in [None, Some(Why::Cached)] {
            for slot in (0..).map(PeerSlot).take(PEERS) {
                if left == 0 {
                    return;
                }
                let is_new = self.greeted.get(slot.index()) == Some(&false);
                let is_there = self.peers.state(slot).is_some();
                if is_new && is_there && self.paths.selected(slot).map(|one| one.why) == way {
                    self.greet_once(slot);
                    left -= 1;
                }
            }
        }
    }

    fn greet_once(&mut self, slot: PeerSlot) {
        let place = self.greeted.get_mut(slot.index());
        let greeted = place.is_none_or(|place| core::mem::replace(place, true));
        if !greeted && !self.datapath.has_session(slot, self.now) && self.peers.handle_wanted(slot)
        {
            self.paths.handle_wanted(slot, &mut self.recorder, self.now);
        }
    }

    /// Where this device may be reached, best first; told to peers in calls.
    /// When that changes, every peer with a session hears from us at once:
    /// authentic data from the new address is what moves its path.
    pub fn set_local_addresses(&mut self, candidates: &[Candidate], now: Instant) {
        self.now = now;
        let before = self.paths.local();
        self.paths.set_local(candidates);
        let kept = self.paths.local();
        // What a router lets in comes and goes while this device stays where it is:
        // calls tell of it, and no way that works is left for it.
        let own = |list: &[Candidate]| {
            let own = list.iter().filter(|one| one.kind != CandidateKind::Mapped);
            own.copied().collect::<heapless::Vec<_, CANDIDATES>>()
        };
        let changed = own(&before) != own(&kept);
        if !before.is_empty() && changed {
            for (slot, wanted) in (0..).map(PeerSlot).zip(&mut self.keepalives) {
                *wanted |= self.datapath.has_session(slot, self.now);
            }
            self.control.handle_moved(now);
        }
        if changed {
            self.handle_network_change();
            self.pump();
        }
        self.recorder.put(self.now, &Entry::Local(kept.iter().copied().collect()));
    }

    /// The way to a peer is to be kept open while nobody talks, or need not be. A
    /// ping in 25 to 170 s, as its routers allow.
    pub fn keep_warm(&mut self, device: DeviceId, is_wanted: bool, now: Instant) {
        self.now = now;
        if let Some(slot) = self.peers.slot_of(device) {
            self.paths.keep_warm(slot, Wish::Device, is_wanted, now);
        }
        self.recorder.put(now, &Entry::Warm(device, is_wanted));
        self.pump();
    }

    /// The relay, and the way to it, that answered when this device was last in this
    /// network: it is asked first. Tell it after a change of the network, which
    /// forgets it.
    pub fn prefer_relay(&mut self, rung: Rung, now: Instant) {
        self.now = now;
        self.relay.prefer(Some(rung));
        self.recorder.put(now, &Entry::PreferRelay(rung.number()));
        self.pump();
    }

    /// What was learned of pauses on ways that are kept open when this device was last
    /// in this network, as [`Agent::pauses`] told it. Tell it after a change of the
    /// network, which forgets it.
    pub fn prefer_pauses(&mut self, pauses: Pauses, now: Instant) {
        self.now = now;
        self.paths.prefer_pauses(pauses, now);
        let Pauses { held_s, most_s, limited_s } = pauses;
        self.recorder.put(now, &Entry::Pauses(held_s, most_s, limited_s));
        self.pump();
    }

    /// The socket of each address family, when they change.
    pub fn set_sockets(&mut self, sockets: Sockets, now: Instant) {
        self.now = now;
        self.paths.set_sockets(sockets);
        self.relay.set_sockets(sockets, self.now);
        self.handle_network_change();
        self.pump();
        let number = |socket: Option<SocketId>| socket.map(|socket| socket.0);
        let entry = Entry::Sockets(number(sockets.v4), number(sockets.v6));
        self.recorder.put(self.now, &entry);
    }

    fn handle_network_change(&mut self) {
        self.stun.forget();
        self.relay.handle_network_change(self.now);
        self.paths.handle_network_change(&mut self.recorder, self.now);
        self.get_to_know();
    }

    /// Storage holds what [`AgentEvent::Persist`](super::AgentEvent) asked for.
    pub fn handle_persisted(&mut self, what: Persist, now: Instant) {
        self.now = now;
        match what {
            Persist::Identity => self.control.handle_identity_stored(),
            Persist::Stamp(floor) => {
                self.recorder.put(now, &Entry::StoredStamp(floor));
                self.tunnel.handle_persisted(floor, now);
            }
            Persist::Cache(held, number) => {
                let Held { epoch, revision } = held;
                self.recorder.put(now, &Entry::StoredCache(epoch, revision, number));
                // An older cache does not hold what was asked for since.
                if number == self.outbox.cache_number {
                    self.outbox.is_cache_urgent = false;
                    self.control.handle_cache_stored(held);
                }
            }
        }
        self.pump();
    }

    /// The network was looked at, as [`AgentEvent::Netcheck`](super::AgentEvent)
    /// asked; `None`: this device cannot.
    pub fn handle_network_report(&mut self, report: Option<NetworkReport>, now: Instant) {
        self.now = now;
        self.recorder.put(now, &Entry::NetworkReport(report.is_some()));
        self.control.handle_network_report(report);
        self.pump();
    }

    /// This device wants to leave its network for good.
    pub fn leave(&mut self, now: Instant) {
        self.now = now;
        self.control.leave(&mut self.recorder);
        self.recorder.put(now, &Entry::Leave);
        self.pump();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.recorder.put(now, &Entry::Timeout);
        // A new day is one for everything that is due.
        self.judge_budget();
        self.control.handle_timeout(&mut self.recorder, now);
        self.tunnel.handle_timeout(&mut self.recorder, now);
        self.stun.handle_timeout(now);
        self.relay.handle_timeout(now);
        self.paths.handle_timeout(&mut self.recorder, now);
        self.peers.handle_timeout();
        self.seat_waiting();
        self.staging.handle_timeout(now);
        self.pump();
    }

    fn stage(&mut self, slot: PeerSlot, buffer: &mut PacketBuf<'_>) -> Result<Output, PacketError> {
        let kept = self.staging.push(slot, buffer, self.now);
        match kept {
            Ok(false) => {}
            Ok(true) => self.drops.count(DropReason::StagingFull),
            Err(reason) => self.drops.count(reason),
        }
        if self.peers.handle_wanted(slot) {
            self.paths.handle_wanted(slot, &mut self.recorder, self.now);
        }
        match kept {
            Ok(false) => Ok(Output::Staged),
            Ok(true) => Ok(Output::Displaced),
            Err(reason) => Err(PacketError::Dropped(reason)),
        }
    }

    /// A sealed datagram at the front of `buffer`, and where it goes.
    pub(super) fn addressed(&mut self, sealed: Sealed, buffer: &mut [u8]) -> Option<Transmit> {
        let endpoint = self.datapath.endpoint(sealed.slot);
        if endpoint.is_none() {
            self.drops.count(DropReason::NoPath);
        }
        self.sent_to(Cause::Payload, endpoint?, buffer, sealed.len)
    }
}
