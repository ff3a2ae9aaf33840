//! Calls that travel over ways between two devices, and not over the coordinator.
//!
//! While the coordinator is away a peer is called over the line that a relay keeps
//! for it ([`super::line`]), and over a relay that carries data to it, if one does:
//! to find a better way.
//!
//! The three messages are probes:
//! - *call*: here is where I am. It names no receiver, since that may have started
//!   anew, but the sender by four bytes of its key's hash. It is the longest probe,
//!   and all that it does is to be answered: an old one that somebody sends again
//!   gains as many bytes as it cost.
//! - *call_ack*: here is where I am, and a number that nobody has seen before.
//! - *go*, with that number: who called is there now. The other side begins as it
//!   comes, and the caller half a round trip after it has sent it, so that both
//!   begin at the same time (DCUtR's way).

use heapless::Vec;
use weft_wire::probe::{self, Probe, ProbeHead, ProbeKind};
use weft_wire::signal::{
    self, CANDIDATES, Call, CallAck, Candidate, CandidateKind, Go, Mapping, SIGNAL_LEN,
};

use super::check::clock_ms;
use super::peer::{Named, PeerPath};
use super::probe::ProbeTransmit;
use super::route::Packed;
use super::{Paths, ProbeMac, Route};
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot};
use crate::time::{Duration, Instant};

/// A call over a way is repeated after these times: a datagram is lost sooner than
/// a record.
const RING_WAITS: [Duration; 6] = [
    Duration::from_millis(300),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_millis(600),
    Duration::from_millis(1_100),
    Duration::from_millis(1_500),
];
/// `go` is not answered: it goes this often, until the peer is heard to have begun …
const GO_COPIES: u8 = 4;
/// … first after this, and each time after twice as long.
const GO_AGAIN: Duration = Duration::from_millis(50);
/// Calls that are answered and wait for their `go`.
const RUNG: usize = 4;
/// How long each does.
const RUNG_FOR: Duration = Duration::from_secs(5);
/// Ways that one call goes: the one in use, and a line in each family.
const WAYS: usize = 3;
/// Copies of a call that wait for answers.
const COPIES: usize = 2;
/// What waits to be sent.
const NOTES: usize = 5;
/// The longest half of a round trip that is waited for.
const LONGEST_HALF: Duration = Duration::from_secs(1);

/// A probe of a few bytes that is to be sent at its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    slot: PeerSlot,
    way: Packed,
    head: ProbeHead,
    /// [`ProbeKind::Go`] or [`ProbeKind::Line`].
    kind: ProbeKind,
    /// How often it has been sent.
    sent: u8,
    at: Instant,
}

impl Note {
    pub(super) fn line(slot: PeerSlot, route: Route, head: ProbeHead, at: Instant) -> Self {
        Self { slot, way: route.into(), head, kind: ProbeKind::Line, sent: 0, at }
    }

    /// When it goes once more.
    fn again(self, now: Instant) -> Option<Self> {
        let (sent, at) = (self.sent + 1, now + GO_AGAIN * (1 << self.sent));
        (self.kind == ProbeKind::Go && sent < GO_COPIES).then_some(Self { sent, at, ..self })
    }
}

/// A call of ours on its way.
struct Ringing {
    slot: PeerSlot,
    call: u32,
    ways: Vec<Packed, WAYS>,
}

/// A peer's call.
struct Rung {
    slot: PeerSlot,
    call: u32,
    /// What our probes to the caller carry.
    receiver: u32,
    mapping: Mapping,
    /// What the caller named.
    named: Vec<(Packed, CandidateKind), CANDIDATES>,
    /// What our answer asks the caller to repeat.
    transaction: u64,
    /// Where answers are due, when the call came there, and its clock.
    due: Vec<(Packed, Instant, u32), COPIES>,
    until: Instant,
}

/// Calls over ways, in and out.
pub(super) struct Bells {
    /// What names us where no handle was given.
    hint: u32,
    rung: Vec<Rung, RUNG>,
    ringing: Option<Ringing>,
    notes: Vec<Note, NOTES>,
}

impl Bells {
    pub(super) const fn new() -> Self {
        Self { hint: 0, rung: Vec::new(), ringing: None, notes: Vec::new() }
    }

    /// Whether a call is to be answered.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.iter().any(|rung| !rung.due.is_empty())
    }

    /// Whether a peer that has answered a call of ours is still being told to begin.
    pub(super) fn goes(&self) -> bool {
        self.notes.iter().any(|note| note.kind == ProbeKind::Go)
    }

    /// Whether a peer that we have answered may still say that it begins, on the way
    /// that its call came.
    pub(super) fn awaits_go(&self) -> bool {
        !self.rung.is_empty()
    }

    /// When [`Bells::handle_timeout`] has something to forget.
    pub(super) fn rung_until(&self) -> Option<Instant> {
        self.rung.iter().map(|rung| rung.until).min()
    }

    /// Calls that have waited in vain are forgotten.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.rung.retain(|rung| now < rung.until);
    }

    /// When [`Paths::poll_bell`] has something, but for calls and their answers.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.notes.iter().map(|note| note.at).min()
    }
}

impl<const PEERS: usize> Paths<PEERS> {
    /// What names us to peers that gave us no handle: the first four bytes of
    /// BLAKE2s of our WireGuard key.
    pub const fn set_hint(&mut self, hint: u32) {
        self.bells.hint = hint;
    }

    /// Whether this peer is called over ways now.
    pub(super) fn rings(&self, peer: &PeerPath) -> bool {
        !self.line.is_online && self.ring_ways(peer).next().is_some()
    }

    fn ring_ways(&self, peer: &PeerPath) -> impl Iterator<Item = Route> + use<PEERS> {
        peer.working_relay().into_iter().chain(self.over_lines(peer))
    }

    /// Whose probe without a handle this is.
    pub(super) fn slot_of_hint(
        &self,
        probe: &Probe<'_>,
        mac: &mut dyn ProbeMac,
    ) -> Result<PeerSlot, DropReason> {
        let hint = probe.head().epoch;
        let is_it = |peer: &PeerPath| hint != 0 && peer.kind.hints.contains(&hint);
        let mut reason = DropReason::UnknownIndex;
        let (covered, tag) = probe.authenticated();
        for (slot, peer) in (0..).map(PeerSlot).zip(&self.peers) {
            if peer.as_ref().is_some_and(is_it) {
                if mac.verify(slot, covered, tag) {
                    return Ok(slot);
                }
                reason = DropReason::Unauthentic;
            }
        }
        Err(reason)
    }

    /// A signal came over a way from an authentic peer.
    pub(super) fn handle_signal(
        &mut self,
        slot: PeerSlot,
        route: Route,
        probe: &Probe<'_>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        let device = self.peer(slot).ok_or(DropReason::UnknownPeer)?.kind.device;
        let (head, body) = (probe.head(), probe.body());
        match probe.kind() {
            ProbeKind::Call => {
                let call = signal::take::<Call>(body).filter(|call| call.peer == device);
                self.handle_ring(
                    slot,
                    route,
                    &head,
                    call.ok_or(DropReason::Malformed)?,
                    entropy,
                    now,
                )
            }
            ProbeKind::CallAck => {
                let ack = signal::take::<CallAck>(body).filter(|ack| ack.peer == device);
                self.handle_ring_ack(
                    slot,
                    route,
                    &head,
                    &ack.ok_or(DropReason::Malformed)?,
                    entropy,
                    now,
                )
            }
            ProbeKind::Go => {
                let go = signal::take::<Go>(body).filter(|go| go.peer == device);
                self.handle_go(slot, &head, &go.ok_or(DropReason::Malformed)?, entropy, now)
            }
            // It says that a way is not used any more: nothing depends on that.
            _ => Err(DropReason::Malformed),
        }
    }

    fn handle_ring(
        &mut self,
        slot: PeerSlot,
        route: Route,
        head: &ProbeHead,
        call: Call,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        let peer = self.peer_mut(slot).ok_or(DropReason::UnknownPeer)?;
        peer.known.may_answer(now)?;
        peer.draw_handle(entropy);
        let due = (route.into(), now, head.clock_ms);
        self.bells.handle_timeout(now);
        let rung = &mut self.bells.rung;
        let is_it = |rung: &&mut Rung| rung.slot == slot && rung.call == call.call;
        if let Some(known) = rung.iter_mut().find(is_it) {
            known.due.push(due).map_err(|_| DropReason::QueueFull)?;
        } else {
            if rung.is_full() {
                rung.remove(0);
            }
            let mut transaction = [0; 8];
            entropy.fill(&mut transaction);
            // Cannot fail: a place was just made.
            let _ = rung.push(Rung {
                slot,
                call: call.call,
                receiver: call.receiver,
                mapping: call.nat.mapping,
                named: call.candidates.iter().map(pack).collect(),
                transaction: u64::from_le_bytes(transaction),
                due: Vec::from_iter([due]),
                until: now + RUNG_FOR,
            });
        }
        Ok(())
    }

    fn handle_ring_ack(
        &mut self,
        slot: PeerSlot,
        route: Route,
        head: &ProbeHead,
        ack: &CallAck,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        let peer = self.peer(slot).filter(|peer| peer.calls(ack.call));
        peer.ok_or(DropReason::Unsolicited)?;
        // Our own clock comes back, as in a pong.
        let passed = clock_ms(now).wrapping_sub(head.clock_ms).saturating_sub(ack.rtt_ms.into());
        let half = Duration::from_millis(u64::from(passed) / 2).min(LONGEST_HALF);
        let named = Named::drawn(ack.receiver, ack.nat.mapping, entropy);
        let named = self.named(slot, &ack.candidates, false, named);
        if let Some(peer) = self.peer_mut(slot) {
            peer.history.set_peer_mapping(ack.nat.mapping);
            peer.handle_call_ack(ack.call, named, now + half, now);
        }
        let head = ProbeHead {
            receiver: ack.receiver,
            epoch: ack.call,
            transaction: head.transaction,
            clock_ms: clock_ms(now),
            relayed: false,
            number: 0,
        };
        let (way, kind) = (route.into(), ProbeKind::Go);
        self.queue(Note { slot, way, head, kind, sent: 0, at: now })
    }

    fn handle_go(
        &mut self,
        slot: PeerSlot,
        head: &ProbeHead,
        go: &Go,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        let is_it = |rung: &Rung| {
            rung.slot == slot
                && rung.call == go.call
                && rung.transaction == head.transaction
                && now < rung.until
        };
        let place = self.bells.rung.iter().position(is_it).ok_or(DropReason::Unsolicited)?;
        let Rung { call, receiver, mapping, named, .. } = self.bells.rung.swap_remove(place);
        let candidates: Vec<Candidate, CANDIDATES> = named.iter().map(unpack).collect();
        let named = Named::drawn(receiver, mapping, entropy);
        let named = self.named_in_call(slot, &candidates, named);
        if let Some(peer) = self.peer_mut(slot) {
            peer.declines = false;
            peer.history.set_peer_mapping(mapping);
            peer.handle_go(call, named, now + Duration::from_millis(go.delay_ms.into()));
        }
        Ok(())
    }

    /// Something small is to be sent.
    pub(super) fn queue(&mut self, note: Note) -> Result<(), DropReason> {
        self.bells.notes.push(note).map_err(|_| DropReason::QueueFull)
    }

    /// The next signal or word about lines that goes over a way.
    pub(super) fn poll_bell(
        &mut self,
        out: &mut [u8],
        mac: &mut dyn ProbeMac,
        now: Instant,
    ) -> Option<ProbeTransmit> {
        loop {
            let (slot, route, kind, head, body) = self
                .poll_note(now)
                .or_else(|| self.poll_question(now))
                .or_else(|| self.poll_ring_ack(now))
                .or_else(|| self.poll_ring(now))?;
            let (body, len) = body;
            let body = body.get(..len)?;
            let mut missing = false;
            let written = probe::emit(kind, &head, body, out, |covered| {
                mac.mac(slot, covered).unwrap_or_else(|| {
                    missing = true;
                    [0; 16]
                })
            });
            // A peer without a key gets none.
            if let Ok(len) = written
                && !missing
            {
                return Some(ProbeTransmit { route, len, keeps: false });
            }
        }
    }

    fn poll_note(&mut self, now: Instant) -> Option<Outgoing> {
        loop {
            let notes = &mut self.bells.notes;
            let place = notes.iter().position(|note| note.at <= now)?;
            let note = notes.swap_remove(place);
            // Cannot fail: a place was just made.
            let _ = note.again(now).map(|again| notes.push(again));
            let Note { slot, head, kind, sent, .. } = note;
            let route = note.way.into();
            if kind == ProbeKind::Line {
                let head = ProbeHead { epoch: self.bells.hint, ..head };
                return Some(self.line_probe(slot, route, head));
            }
            let has_begun = |peer: &PeerPath| peer.checks.best(now).is_some();
            if sent > 0 && self.peer(slot).is_none_or(has_begun) {
                continue;
            }
            let mut body = [0; SIGNAL_LEN];
            let go = Go { call: head.epoch, peer: self.own, delay_ms: 0 };
            let len = signal::put(&go, &mut body)?;
            return Some((slot, route, kind, head, (body, len)));
        }
    }

    fn poll_question(&mut self, now: Instant) -> Option<Outgoing> {
        let is_due = |peer: &Option<PeerPath>| peer.as_ref().is_some_and(|it| it.known.is_due);
        while let Some(place) = self.peers.iter().position(is_due) {
            let peer = self.peers.get_mut(place)?.as_mut()?;
            peer.known.is_due = false;
            let transaction = peer.known.transaction();
            let way = self.line_way(self.peer_at(place)?, now);
            if let Some(route) = way {
                let slot = PeerSlot(u16::try_from(place).ok()?);
                return Some(self.line_probe(slot, route, self.nameless(transaction, now)));
            }
        }
        None
    }

    fn line_probe(&self, slot: PeerSlot, route: Route, head: ProbeHead) -> Outgoing {
        let mut body = [0; SIGNAL_LEN];
        let line = self.own_line().as_bytes();
        body[..line.len()].copy_from_slice(line);
        (slot, route, ProbeKind::Line, head, (body, line.len()))
    }

    /// The head of a probe to somebody who may not know a handle of ours.
    pub(super) const fn nameless(&self, transaction: u64, now: Instant) -> ProbeHead {
        ProbeHead {
            receiver: 0,
            epoch: self.bells.hint,
            transaction,
            clock_ms: clock_ms(now),
            relayed: false,
            number: 0,
        }
    }

    fn poll_ring_ack(&mut self, now: Instant) -> Option<Outgoing> {
        if self.gathering.holds(now) {
            return None;
        }
        let rung = self.bells.rung.iter_mut().find(|rung| !rung.due.is_empty())?;
        let (slot, call, transaction) = (rung.slot, rung.call, rung.transaction);
        let receiver = rung.receiver;
        let (way, heard_at, clock_ms) = rung.due.pop()?;
        let (own, nat, early) = (self.own, self.gathering.nat(now), self.gathering.is_late());
        let (is_held, allowance) = (self.is_line_up(), self.allowance);
        let peer = self.peers.get_mut(slot.index())?.as_mut()?;
        let relayed = (peer.leans || is_held) && self.local.has_relayed();
        peer.history.begin(nat.mapping, now);
        peer.handle_told(relayed, early);
        // Where a budget is used up no better way is looked for.
        let only_relayed = peer.declines(allowance);
        peer.declines = false;
        let mut candidates = self.local.list(relayed, now);
        candidates.retain(|one| !only_relayed || one.kind == CandidateKind::Relayed);
        let waited = u16::try_from((now - heard_at).as_millis()).unwrap_or(u16::MAX);
        let ack = CallAck {
            call,
            peer: own,
            receiver: peer.checks.own_handle,
            nat,
            rtt_ms: waited,
            candidates,
        };
        let head =
            ProbeHead { receiver, epoch: call, transaction, clock_ms, relayed: false, number: 0 };
        let mut body = [0; SIGNAL_LEN];
        let len = signal::put(&ack, &mut body)?;
        Some((slot, way.into(), ProbeKind::CallAck, head, (body, len)))
    }

    fn poll_ring(&mut self, now: Instant) -> Option<Outgoing> {
        if self.bells.ringing.is_none() && !self.gathering.holds(now) {
            self.bells.ringing = self.next_ringing(now);
        }
        let ringing = self.bells.ringing.as_mut()?;
        let (slot, call, way) = (ringing.slot, ringing.call, ringing.ways.pop());
        let (Some(way), Some(peer)) = (way, self.peer(slot)) else {
            self.bells.ringing = None;
            return self.poll_ring_next(now);
        };
        let call = Call {
            call,
            peer: self.own,
            receiver: peer.checks.own_handle,
            nat: self.gathering.nat(now),
            rtt_ms: 0,
            candidates: self.local.list(peer.told_relay, now),
        };
        let mut body = [0; SIGNAL_LEN];
        signal::put(&call, &mut body)?;
        let head = self.nameless(0, now);
        Some((slot, way.into(), ProbeKind::Call, head, (body, SIGNAL_LEN)))
    }

    /// Another peer's, once all ways of a call were gone.
    fn poll_ring_next(&mut self, now: Instant) -> Option<Outgoing> {
        let is_due = |peer: &PeerPath| peer.has_call(now) && self.rings(peer);
        let more = self.peers.iter().flatten().any(is_due) && !self.gathering.holds(now);
        if more { self.poll_ring(now) } else { None }
    }

    fn next_ringing(&mut self, now: Instant) -> Option<Ringing> {
        let is_due = |peer: &PeerPath| peer.has_call(now) && self.rings(peer);
        let place = self.peers.iter().position(|peer| peer.as_ref().is_some_and(is_due))?;
        let ways = self.ring_ways(self.peers.get(place)?.as_ref()?).map(Packed::from);
        let ways = ways.take(WAYS).collect();
        let (nat, early) = (self.gathering.nat(now), self.gathering.is_late());
        let has_relayed = self.local.has_relayed();
        let peer = self.peers.get_mut(place)?.as_mut()?;
        let relayed = peer.leans && has_relayed;
        peer.history.begin(nat.mapping, now);
        let call = peer.take_call_repeated(&RING_WAITS, now)?;
        peer.handle_told(relayed, early);
        Some(Ringing { slot: PeerSlot(u16::try_from(place).ok()?), call, ways })
    }
}

/// What a caller named, in fewer bytes.
fn pack(named: &Candidate) -> (Packed, CandidateKind) {
    let address = named.address;
    (Route::Relay { address }.into(), named.kind)
}

fn unpack(&(packed, kind): &(Packed, CandidateKind)) -> Candidate {
    Candidate { kind, address: Route::from(packed).address() }
}

/// Whose, which way, what, and its body.
type Outgoing = (PeerSlot, Route, ProbeKind, ProbeHead, ([u8; SIGNAL_LEN], usize));

impl PeerPath {
    /// The way over a relay that data takes, if it works.
    fn working_relay(&self) -> Option<Route> {
        let selected = self.selected.filter(|selected| selected.relayed && !self.in_doubt)?;
        let is_used = self.confirmed_at.is_some() && self.listening.due_at().is_some();
        is_used.then_some(selected.route)
    }

    /// The caller has our answer, and begins too.
    fn handle_go(&mut self, call: u32, named: Named, at: Instant) {
        if named.routes.is_empty() {
            return;
        }
        self.accept(call, named);
        self.start(at);
    }
}
