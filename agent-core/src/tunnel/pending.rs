//! Our own initiations that wait for their answers. An answer takes a round trip, so a chip
//! has places for a few, and its peers take turns.

use heapless::Vec;
use weft_noise::wg::InitiationSent;

use crate::event::PeerSlot;
use crate::time::{Duration, Instant};

/// An initiation keeps its place at least this long. Who is late finds no handshake, and
/// is asked again when its timer says so.
pub(super) const LEAST: Duration = Duration::from_secs(1);

/// An initiation on its way.
pub(super) struct Pending {
    pub(super) slot: PeerSlot,
    pub(super) sent: InitiationSent,
    pub(super) sent_at: Instant,
    /// Responses that did not open.
    pub(super) invalid: u8,
}

/// What a peer's initiation has to do for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Free,
    /// Take this one's, which is its own if it has one.
    Of(PeerSlot),
    /// Wait until then, or until one ends.
    At(Instant),
}

/// Up to `PLACES` initiations, one of a peer at most.
pub(super) struct Pendings<const PLACES: usize> {
    list: Vec<Pending, PLACES>,
}

impl<const PLACES: usize> Pendings<PLACES> {
    pub(super) const fn new() -> Self {
        Self { list: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&self, slot: PeerSlot) -> Option<&Pending> {
        self.list.iter().find(|pending| pending.slot == slot)
    }

    pub(super) fn get_mut(&mut self, slot: PeerSlot) -> Option<&mut Pending> {
        self.list.iter_mut().find(|pending| pending.slot == slot)
    }

    /// Where a peer could have an initiation now.
    pub(super) fn place(&self, slot: PeerSlot, now: Instant) -> Place {
        if self.get(slot).is_some() {
            return Place::Of(slot);
        }
        if !self.list.is_full() {
            return Place::Free;
        }
        match self.list.iter().min_by_key(|pending| pending.sent_at) {
            Some(oldest) if now.since(oldest.sent_at) >= LEAST => Place::Of(oldest.slot),
            Some(oldest) => Place::At(oldest.sent_at + LEAST),
            None => Place::At(now + LEAST),
        }
    }

    /// In a place that is free, or was made free, see [`Pendings::place`].
    pub(super) fn put(&mut self, pending: Pending) {
        let _ = self.list.push(pending);
    }

    /// Ends a peer's initiation; its index is to be freed, or goes on as its session's.
    pub(super) fn take(&mut self, slot: PeerSlot) -> Option<Pending> {
        let place = self.list.iter().position(|pending| pending.slot == slot)?;
        Some(self.list.swap_remove(place))
    }
}
