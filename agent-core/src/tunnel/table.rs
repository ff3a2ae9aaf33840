//! The peers, and beside them what a search over all of them looks at: a few
//! bytes per peer instead of the peer. With a thousand peers a search reads
//! some kilobytes and not a megabyte, also in a flood.

use core::hash::{Hash, Hasher};

use weft_wire::id::PublicKey;

use super::peer::Peer;
use crate::empty;
use crate::event::{PeerSlot, Source};
use crate::time::Instant;
use crate::timer::{Reason, TimerKey};

/// What waits to be polled.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Ready {
    /// Something for the data path.
    Install = 1,
    /// An event.
    Event = 2,
    /// A question for the data path.
    Query = 4,
    /// The slot's peer is gone and the data path still holds its sessions.
    Wipe = 8,
    /// A session for the data path to drop: before any peer gets a new one, which may take
    /// its place.
    Drop = 16,
}

/// Up to `PEERS` peers.
pub(super) struct PeerTable<const PEERS: usize> {
    peers: [Option<Peer>; PEERS],
    /// The earliest timer of each.
    due: [Instant; PEERS],
    /// Bits of [`Ready`].
    ready: [u8; PEERS],
    /// Bits that some peer has.
    any: u8,
    /// A fingerprint of where each was last heard from; 0 = nowhere.
    sources: [u32; PEERS],
    deadline: Option<(Instant, Reason)>,
}

impl<const PEERS: usize> PeerTable<PEERS> {
    #[inline(never)]
    pub(super) const fn new() -> Self {
        Self {
            peers: empty::nothing(),
            due: [Instant::FAR_FUTURE; PEERS],
            ready: [0; PEERS],
            any: 0,
            sources: [0; PEERS],
            deadline: None,
        }
    }

    pub(super) fn get(&self, slot: PeerSlot) -> Option<&Peer> {
        self.peers.get(slot.index())?.as_ref()
    }

    /// A peer to be changed. [`PeerTable::settle`] must follow.
    pub(super) fn get_mut(&mut self, slot: PeerSlot) -> Option<&mut Peer> {
        self.peers.get_mut(slot.index())?.as_mut()
    }

    pub(super) fn insert(&mut self, slot: PeerSlot, peer: Peer) {
        if let Some(place) = self.peers.get_mut(slot.index()) {
            *place = Some(peer);
        }
        self.settle(slot);
    }

    /// Takes a peer out; the data path is to drop its sessions.
    pub(super) fn take(&mut self, slot: PeerSlot) -> Option<Peer> {
        let peer = self.peers.get_mut(slot.index())?.take()?;
        self.settle(slot);
        self.set(slot, Ready::Wipe as u8);
        Some(peer)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = PeerSlot> + use<PEERS> {
        (0..=u16::MAX).take(PEERS).map(PeerSlot)
    }

    /// Which peer has this key, first or second.
    pub(super) fn slot_of(&self, key: &PublicKey) -> Option<PeerSlot> {
        self.slots().find(|&slot| self.get(slot).is_some_and(|peer| peer.keys.has(key)))
    }

    fn set(&mut self, slot: PeerSlot, bits: u8) {
        if let Some(ready) = self.ready.get_mut(slot.index()) {
            *ready |= bits;
            self.any |= bits;
        }
    }

    /// Notes what a changed peer waits for and has to tell.
    pub(super) fn settle(&mut self, slot: PeerSlot) {
        let peer = self.get(slot);
        let due = peer.and_then(|peer| peer.timers.next()).map(|(at, _)| at);
        let bits = peer.map_or(0, Peer::ready);
        let source = peer.and_then(|peer| peer.source).map_or(0, fingerprint);
        if let Some(place) = self.due.get_mut(slot.index()) {
            *place = due.unwrap_or(Instant::FAR_FUTURE);
        }
        if let Some(place) = self.sources.get_mut(slot.index()) {
            *place = source;
        }
        if let Some(place) = self.ready.get_mut(slot.index()) {
            *place &= Ready::Wipe as u8;
        }
        self.set(slot, bits);
        let next = self.slots().zip(&self.due).min_by_key(|&(_, &at)| at);
        self.deadline = next.and_then(|(slot, _)| {
            let (at, timer) = self.get(slot)?.timers.next()?;
            Some((at, timer.reason()))
        });
    }

    /// A peer that has something of this kind.
    pub(super) fn next_ready(&mut self, kind: Ready) -> Option<PeerSlot> {
        let bit = kind as u8;
        if self.any & bit == 0 {
            return None;
        }
        let found = self.slots().zip(&self.ready).find(|(_, ready)| **ready & bit != 0);
        if found.is_none() {
            self.any &= !bit;
        }
        found.map(|(slot, _)| slot)
    }

    /// The data path has been told to drop a slot's sessions.
    pub(super) fn set_wiped(&mut self, slot: PeerSlot) {
        if let Some(ready) = self.ready.get_mut(slot.index()) {
            *ready &= !(Ready::Wipe as u8);
        }
    }

    /// The first peer after `last` whose timer is due.
    pub(super) fn next_due(&self, last: Option<PeerSlot>, now: Instant) -> Option<PeerSlot> {
        let first = last.map_or(0, |last| last.index() + 1);
        let mut due = self.slots().zip(&self.due).skip(first);
        due.find(|&(_, &at)| at <= now && at != Instant::FAR_FUTURE).map(|(slot, _)| slot)
    }

    pub(super) const fn deadline(&self) -> Option<(Instant, Reason)> {
        self.deadline
    }

    /// Whether a peer's newest authenticated word came from here.
    pub(super) fn is_known(&self, source: Source) -> bool {
        let print = fingerprint(source);
        self.slots().zip(&self.sources).any(|(slot, known)| {
            *known == print
                && self
                    .get(slot)
                    .and_then(|peer| peer.source)
                    .is_some_and(|known| known.address == source.address)
        })
    }
}

/// Finds candidates only; the address itself decides.
fn fingerprint(source: Source) -> u32 {
    struct Fnv(u32);

    impl Hasher for Fnv {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
            }
        }

        fn finish(&self) -> u64 {
            u64::from(self.0)
        }
    }

    let mut hasher = Fnv(0x811C_9DC5);
    source.address.hash(&mut hasher);
    // 0 stands for nowhere.
    hasher.0 | 1
}
