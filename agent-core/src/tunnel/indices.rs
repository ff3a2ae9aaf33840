//! Receiver indices in use, and what lies under them for a short time only: keys that the
//! data path has not taken yet. Few sessions are that young, so no peer has a place for them.
//!
//! Each peer can have a session, all together `HANDSHAKES` more, and as many initiations.

use heapless::Vec;
use weft_noise::wg::SessionKeys;

use super::OUTGOING;
use crate::entropy::Entropy;
use crate::event::PeerSlot;
use crate::index::IndexTable;

/// See the module. With the drain rule one input makes no more sessions than messages.
pub(super) struct Indices<const PEERS: usize, const HANDSHAKES: usize> {
    table: IndexTable<PEERS, HANDSHAKES>,
    fresh: Vec<SessionKeys, OUTGOING>,
}

impl<const PEERS: usize, const HANDSHAKES: usize> Indices<PEERS, HANDSHAKES> {
    pub(super) const fn new() -> Self {
        Self { table: IndexTable::new(), fresh: Vec::new() }
    }

    /// Whose index this is.
    pub(super) fn get(&self, index: u32) -> Option<PeerSlot> {
        self.table.get(index).map(PeerSlot)
    }

    /// Indices in use.
    pub(super) const fn len(&self) -> usize {
        self.table.len()
    }

    /// Draws an index: random, so that nobody can guess it, and unique over all peers and
    /// slots. `None` when the table is full, which its size rules out.
    pub(super) fn draw(&mut self, slot: PeerSlot, entropy: &mut dyn Entropy) -> Option<u32> {
        if self.table.is_full() {
            return None;
        }
        // Two equal draws have a chance of 2^-32 per index in use. A source that
        // repeats itself for ever is broken, and must not hang the agent.
        (0..64).find_map(|_| {
            let index = entropy.number();
            self.table.insert(index, slot.0).then_some(index)
        })
    }

    /// The index is free again; keys that nobody took are erased.
    pub(super) fn remove(&mut self, index: u32) {
        self.table.remove(index);
        let _ = self.take(index);
    }

    /// Whether there is room for one session more.
    pub(super) fn has_room(&self) -> bool {
        !self.fresh.is_full()
    }

    /// Keys for the data path. Without room, see [`Indices::has_room`], they are erased and
    /// the session is one that never opens anything.
    pub(super) fn put(&mut self, keys: SessionKeys) {
        let _ = self.fresh.push(keys);
    }

    /// The keys of a session, once.
    pub(super) fn take(&mut self, index: u32) -> Option<SessionKeys> {
        let place = self.fresh.iter().position(|keys| keys.local_index() == index)?;
        Some(self.fresh.swap_remove(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stuck;

    impl Entropy for Stuck {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn a_stuck_entropy_source_gives_no_second_index() {
        let mut indices = Indices::<2, 2>::new();
        assert_eq!(indices.draw(PeerSlot(0), &mut Stuck), Some(0x0707_0707));
        assert_eq!(indices.draw(PeerSlot(1), &mut Stuck), None);
    }
}
