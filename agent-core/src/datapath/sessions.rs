//! Sessions of all peers. Nearly always a peer has one, and while a handshake is new two or
//! three. So there is a place for each peer and `MORE` that all share; `tunnel` sees to it
//! that they suffice. A session stays where it is put: moved keys would leave a copy.

use weft_noise::wg::{Opener, Sealer, SessionKeys};

use crate::empty;
use crate::event::{PeerSlot, SessionTimes};
use crate::index::IndexTable;

/// A session: both directions, and until when each is used.
pub(super) struct Session<const WORDS: usize> {
    pub(super) index: u32,
    pub(super) slot: PeerSlot,
    /// The counter has reached where either side replaces the session.
    pub(super) used_up: bool,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener<WORDS>,
    pub(super) sealing: SessionTimes,
    pub(super) opening: SessionTimes,
}

/// Where a session lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u16);

/// The sessions.
pub(super) struct Sessions<const PEERS: usize, const MORE: usize, const WORDS: usize> {
    each: [Option<Session<WORDS>>; PEERS],
    more: [Option<Session<WORDS>>; MORE],
    indices: IndexTable<PEERS, MORE>,
}

impl<const PEERS: usize, const MORE: usize, const WORDS: usize> Sessions<PEERS, MORE, WORDS> {
    #[inline(never)]
    pub(super) const fn new() -> Self {
        Self { each: empty::nothing(), more: empty::nothing(), indices: IndexTable::new() }
    }

    pub(super) fn get(&self, Place(place): Place) -> Option<&Session<WORDS>> {
        let place = usize::from(place);
        let more = || self.more.get(place.checked_sub(PEERS)?);
        self.each.get(place).or_else(more)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, Place(place): Place) -> Option<&mut Session<WORDS>> {
        let place = usize::from(place);
        match self.each.get_mut(place) {
            Some(session) => session.as_mut(),
            None => self.more.get_mut(place.checked_sub(PEERS)?)?.as_mut(),
        }
    }

    fn places(&mut self) -> impl Iterator<Item = (Place, &mut Option<Session<WORDS>>)> {
        (0..=u16::MAX).map(Place).zip(self.each.iter_mut().chain(&mut self.more))
    }

    /// Whose session has this index, and where it lies.
    pub(super) fn find(&self, index: u32) -> Option<(PeerSlot, Place)> {
        let place = Place(self.indices.get(index)?);
        Some((self.get(place)?.slot, place))
    }

    /// Puts a session into a free place. `None` when there is none, or the index is taken,
    /// which the tunnel's order of drops and installs rules out.
    pub(super) fn put(
        &mut self,
        slot: PeerSlot,
        keys: SessionKeys,
        sealing: SessionTimes,
        opening: SessionTimes,
    ) -> Option<Place> {
        let index = keys.local_index();
        let (place, _) = self.places().find(|(_, session)| session.is_none())?;
        if !self.indices.insert(index, place.0) {
            return None;
        }
        let (sealer, opener) = keys.split();
        let session = Session { index, slot, used_up: false, sealer, opener, sealing, opening };
        let (_, free) = self.places().find(|&(at, _)| at == place)?;
        *free = Some(session);
        Some(place)
    }

    /// Erases a peer's session; gives where it lay.
    pub(super) fn remove(&mut self, slot: PeerSlot, index: u32) -> Option<Place> {
        let (holder, place) = self.find(index)?;
        if holder != slot {
            return None;
        }
        self.indices.remove(index);
        let (_, session) = self.places().find(|&(at, _)| at == place)?;
        *session = None;
        Some(place)
    }

    /// Erases all sessions of a peer.
    pub(super) fn remove_all(&mut self, slot: PeerSlot) {
        let sessions = self.each.iter_mut().chain(&mut self.more);
        for place in sessions {
            if let Some(session) = place.take_if(|session| session.slot == slot) {
                self.indices.remove(session.index);
            }
        }
    }
}
