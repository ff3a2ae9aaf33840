//! Calls: what peers tell each other of where they are, and what is told to them.

use heapless::Vec;
use weft_wire::id::DeviceId;
use weft_wire::signal::{CANDIDATES, Call, CallAck, Candidate, CandidateKind};
use weft_wire::verdict::CallFailure;

use super::peer::Named;
use super::{EARLY_FOR, Early, PathSignal, Paths};
use crate::entropy::Entropy;
use crate::event::PeerSlot;
use crate::time::{Duration, Instant};

impl<const PEERS: usize> Paths<PEERS> {
    /// A peer calls: it is answered, and its candidates are tried soon.
    pub fn handle_call(&mut self, call: &Call, entropy: &mut dyn Entropy, now: Instant) {
        let Some(slot) = self.slot_of(call.peer) else {
            self.keep_early(call, now);
            return;
        };
        let named = Named::drawn(call.receiver, call.nat.mapping, entropy);
        let named = self.named_in_call(slot, &call.candidates, named);
        let both = u64::from(self.rtt_ms) + u64::from(call.rtt_ms);
        if let Some(peer) = self.peer_mut(slot) {
            peer.history.set_peer_mapping(call.nat.mapping);
            peer.handle_call(call.call, named, Duration::from_millis(both));
            peer.draw_handle(entropy);
            self.stir();
        }
    }

    /// What a caller named, as far as it is tried now.
    pub(super) fn named_in_call(
        &mut self,
        slot: PeerSlot,
        candidates: &[Candidate],
        named: Named,
    ) -> Named {
        let allowance = self.allowance;
        let declines = self.peer_mut(slot).is_some_and(|peer| peer.declines(allowance));
        let is_tried = |one: &&Candidate| !declines || one.kind == CandidateKind::Relayed;
        let candidates: Vec<Candidate, CANDIDATES> =
            candidates.iter().filter(is_tried).copied().collect();
        self.named(slot, &candidates, true, named)
    }

    /// A peer answered our call: its candidates are tried at once.
    pub fn handle_call_ack(&mut self, ack: &CallAck, entropy: &mut dyn Entropy, now: Instant) {
        let Some(slot) = self.slot_of(ack.peer) else {
            return;
        };
        let named = Named::drawn(ack.receiver, ack.nat.mapping, entropy);
        let named = self.named(slot, &ack.candidates, false, named);
        if let Some(peer) = self.peer_mut(slot) {
            peer.history.set_peer_mapping(ack.nat.mapping);
            peer.handle_call_ack(ack.call, named, now, now);
            self.stir();
        }
    }

    /// The coordinator did not forward a call. `why` is `None` for a reason of
    /// a newer coordinator.
    pub fn handle_call_failed(
        &mut self,
        call: u32,
        device: DeviceId,
        why: Option<CallFailure>,
        now: Instant,
    ) {
        let slot = self.slot_of(device);
        if let Some(peer) = slot.and_then(|slot| self.peer_mut(slot)) {
            peer.handle_call_failed(call, why, now);
            self.stir();
        }
    }

    /// The next thing to tell a peer. Ask only while it can be sent.
    #[must_use]
    pub fn poll_signal(&mut self, now: Instant) -> Option<PathSignal> {
        if !self.signals || self.gathering.holds(now) {
            return None;
        }
        // A relay may be in doubt from now on.
        self.changed = true;
        let rtt_ms = self.rtt_ms;
        let (nat, early) = (self.gathering.nat(now), self.gathering.is_late());
        for place in 0..PEERS {
            let rings = self.peer_at(place).is_some_and(|peer| self.rings(peer));
            let Some(peer) = self.peers.get_mut(place).and_then(Option::as_mut) else { continue };
            let relayed = peer.leans && self.local.has_relayed();
            let candidates = |only_relayed: bool| {
                let mut list = self.local.list(relayed, now);
                list.retain(|one| !only_relayed || one.kind == CandidateKind::Relayed);
                list
            };
            if peer.has_signal(now) {
                peer.history.begin(nat.mapping, now);
            }
            if let Some(call) = peer.take_ack(now) {
                peer.handle_told(relayed, early);
                return Some(PathSignal::CallAck(CallAck {
                    call,
                    peer: peer.kind.device,
                    receiver: peer.checks.own_handle,
                    nat,
                    rtt_ms,
                    candidates: candidates(core::mem::take(&mut peer.declines)),
                }));
            }
            // It goes another way.
            let call = if rings { None } else { peer.take_call(now) };
            if let Some(call) = call {
                peer.handle_told(relayed, early);
                return Some(PathSignal::Call(Call {
                    call,
                    peer: peer.kind.device,
                    receiver: peer.checks.own_handle,
                    nat,
                    rtt_ms,
                    candidates: candidates(false),
                }));
            }
        }
        self.signals = false;
        None
    }

    fn keep_early(&mut self, call: &Call, now: Instant) {
        self.early.retain(|early| early.call.peer != call.peer && now <= early.until);
        if self.early.is_full() {
            self.early.remove(0);
        }
        let call = Call {
            call: call.call,
            peer: call.peer,
            receiver: call.receiver,
            nat: call.nat,
            rtt_ms: call.rtt_ms,
            candidates: call.candidates.clone(),
        };
        // Cannot fail: one place was just made.
        let _ = self.early.push(Early { call, until: now + EARLY_FOR });
    }
}
