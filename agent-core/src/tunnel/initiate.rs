//! Timers: our own initiations, erasure, and the looks at activity.

use weft_noise::wg::INITIATION_LEN;

use super::keys::KeyMark;
use super::peer::{Peer, Timer, jitter};
use super::pending::{Pending, Place};
use super::places;
use super::{OUTGOING, Outgoing, To, Tunnel};
use crate::config::specification::{REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};
use crate::entropy::Entropy;
use crate::event::PeerSlot;
use crate::time::Instant;
use crate::timer::TimerKey;

/// Initiations of others answered per call: a shell gets back to its sockets,
/// and one place is left for an initiation of our own.
const SERVICES_PER_CALL: usize = OUTGOING - 1;

impl<const PEERS: usize, const HANDSHAKES: usize> Tunnel<PEERS, HANDSHAKES> {
    /// Does what is due: answers waiting initiations, repeats our own, erases
    /// keys. What finds no room in the outputs stays due.
    pub fn handle_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        for _ in 0..SERVICES_PER_CALL {
            if self.outgoing.len() >= SERVICES_PER_CALL {
                break;
            }
            if let Some(at) = places::free_at(&self.peers, &self.indices, &self.pendings, now) {
                self.queue.hold_until(at);
                break;
            }
            let Some(waiting) = self.queue.pop(now) else {
                break;
            };
            self.answer(&waiting, entropy, now);
        }
        // Each peer is due at most once: what cannot be done now stays due, and
        // would be found again for ever.
        let mut last = None;
        while let Some(slot) = self.peers.next_due(last, now) {
            self.run_timers(slot, entropy, now);
            self.peers.settle(slot);
            last = Some(slot);
        }
    }

    fn run_timers(&mut self, slot: PeerSlot, entropy: &mut dyn Entropy, now: Instant) {
        for &timer in Timer::ALL {
            let Some(peer) = self.peers.get_mut(slot) else {
                return;
            };
            if !peer.timers.take_expired(timer, now) {
                continue;
            }
            match timer {
                Timer::Initiate => self.initiate(slot, entropy, now),
                Timer::Check => {
                    peer.query = true;
                }
                Timer::Erase => self.erase(slot),
                Timer::SecondKey => self.drop_second_key(slot),
            }
        }
    }

    /// Sends an initiation, unless 90 s of them went unanswered.
    fn initiate(&mut self, slot: PeerSlot, entropy: &mut dyn Entropy, now: Instant) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let Some(since) = peer.attempt_since else {
            return;
        };
        if now.since(since) >= REKEY_ATTEMPT_TIME {
            peer.end_attempt();
            give_up(peer, now);
            self.end_pending(slot, now);
            return;
        }
        if self.outgoing.is_full() {
            peer.timers.set(Timer::Initiate, now);
            return;
        }
        let place = self.pendings.place(slot, now);
        peer.waits_for_place = matches!(place, Place::At(_));
        if let Place::At(at) = place {
            peer.timers.set(Timer::Initiate, at);
            return;
        }
        let Some(stamp) = self.clock.next(now) else {
            peer.waits_for_stamp = true;
            return;
        };
        // Of another peer, whose timer goes on, or of our own before this one.
        if let Place::Of(holder) = place
            && let Some(pending) = self.pendings.take(holder)
        {
            self.indices.remove(pending.sent.sender());
        }
        peer.timers.set(Timer::Initiate, now + REKEY_TIMEOUT + jitter(entropy));
        let Some(index) = self.indices.draw(slot, entropy) else {
            return;
        };
        let mut message = [0; INITIATION_LEN];
        // Who was away may not know our new key yet: every other repetition is
        // made with the one before, as long as it is accepted.
        let before = self.own.previous().filter(|_| peer.tries % 2 == 1);
        let before = before.and_then(|own| Some((own, own.remote(&peer.keys.key).ok()?)));
        let sent = match &before {
            Some((own, remote)) => own.initiate(remote, index, stamp, entropy, &mut message),
            None => {
                let own = self.own.active();
                own.initiate(&peer.remote, index, stamp, entropy, &mut message)
            }
        };
        peer.tries = peer.tries.wrapping_add(1);
        peer.jar.attach(&mut message, now.as_micros());
        self.pendings.put(Pending { slot, sent, sent_at: now, invalid: 0 });
        peer.initiated_at = Some(now);
        let outgoing = Outgoing { to: To::Peer(slot), len: INITIATION_LEN, message };
        // There is room, see above.
        let _ = self.outgoing.push_back(outgoing);
    }

    /// Erases the sessions of a peer; a handshake under way goes on.
    fn erase(&mut self, slot: PeerSlot) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let gone = peer.sessions.retain(|_| false);
        peer.drop_sessions(&gone, &mut self.indices);
        peer.waiting.expired = !gone.is_empty();
    }

    fn drop_second_key(&mut self, slot: PeerSlot) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.keys.second = None;
        let first = KeyMark::of(&peer.keys.key);
        let gone = peer.sessions.retain(|key| key == first);
        peer.drop_sessions(&gone, &mut self.indices);
    }
}

/// The peer does not answer: what is sealed for it is lost, so the next packet
/// is to ask for a handshake instead.
fn give_up(peer: &mut Peer, now: Instant) {
    peer.waiting.failed = true;
    peer.sealing.wanted = None;
    if let Some(every) = peer.keys.keepalive() {
        peer.timers.set(Timer::Check, now + every);
    }
}
