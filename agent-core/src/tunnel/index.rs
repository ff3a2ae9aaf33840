//! Receiver indices: random, unique over all peers and slots, freed on erasure.

use crate::entropy::Entropy;
use crate::event::PeerSlot;

/// Indices that one peer can hold at once: three sessions and a handshake.
pub(super) const PER_PEER: usize = 4;

#[derive(Clone, Copy)]
struct Entry {
    index: u32,
    slot: PeerSlot,
}

/// Which peer an index belongs to. Sorted; 8 bytes per entry.
pub(super) struct IndexTable<const PEERS: usize> {
    entries: [[Entry; PER_PEER]; PEERS],
    len: usize,
}

impl<const PEERS: usize> IndexTable<PEERS> {
    pub(super) const fn new() -> Self {
        let empty = Entry { index: 0, slot: PeerSlot(0) };
        Self { entries: [[empty; PER_PEER]; PEERS], len: 0 }
    }

    fn used(&self) -> &[Entry] {
        self.entries.as_flattened().get(..self.len).unwrap_or_default()
    }

    fn position(&self, index: u32) -> Result<usize, usize> {
        self.used().binary_search_by_key(&index, |entry| entry.index)
    }

    /// Whose index this is.
    pub(super) fn get(&self, index: u32) -> Option<PeerSlot> {
        let position = self.position(index).ok()?;
        self.used().get(position).map(|entry| entry.slot)
    }

    /// Draws an index for a peer. `None` when the table is full, which its size
    /// rules out as long as indices are freed.
    pub(super) fn allocate(&mut self, slot: PeerSlot, entropy: &mut dyn Entropy) -> Option<u32> {
        if self.len >= PEERS * PER_PEER {
            return None;
        }
        // A collision has a chance of 2^-32 per index in use; an entropy source
        // that always collides is broken and must not hang the agent.
        for _ in 0..64 {
            let index = entropy.number();
            if let Err(position) = self.position(index) {
                self.len += 1;
                let entries = self.entries.as_flattened_mut().get_mut(position..self.len)?;
                entries.rotate_right(1);
                *entries.first_mut()? = Entry { index, slot };
                return Some(index);
            }
        }
        None
    }

    /// Frees an index.
    pub(super) fn free(&mut self, index: u32) {
        if let Ok(position) = self.position(index)
            && let Some(entries) = self.entries.as_flattened_mut().get_mut(position..self.len)
        {
            entries.rotate_left(1);
            self.len -= 1;
        }
    }

    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rng(u64);

    impl Entropy for Rng {
        fn fill(&mut self, out: &mut [u8]) {
            for byte in out {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (self.0 >> 33) as u8;
            }
        }
    }

    struct Stuck;

    impl Entropy for Stuck {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn indices_are_found_until_freed() {
        let mut table = IndexTable::<8>::new();
        let mut rng = Rng(1);
        let mut held = Vec::new();
        for round in 0..1_000u16 {
            let slot = PeerSlot(round % 8);
            if let Some(index) = table.allocate(slot, &mut rng) {
                held.push((index, slot));
            }
            assert_eq!(table.len(), held.len());
            if held.len() == 32 || round % 3 == 0 {
                let (index, slot) = held.swap_remove(usize::from(round) % held.len());
                assert_eq!(table.get(index), Some(slot));
                table.free(index);
                assert_eq!(table.get(index), None);
            }
            for &(index, slot) in &held {
                assert_eq!(table.get(index), Some(slot));
            }
        }
    }

    #[test]
    fn a_full_table_and_a_stuck_source_give_none() {
        let mut table = IndexTable::<1>::new();
        assert!(table.allocate(PeerSlot(0), &mut Stuck).is_some());
        assert!(table.allocate(PeerSlot(0), &mut Stuck).is_none());
        let mut rng = Rng(1);
        for _ in 0..3 {
            assert!(table.allocate(PeerSlot(0), &mut rng).is_some());
        }
        assert!(table.allocate(PeerSlot(0), &mut rng).is_none());
        table.free(0xFFFF_FFFF);
        assert_eq!(table.len(), 4);
    }
}
