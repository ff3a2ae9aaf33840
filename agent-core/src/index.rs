//! Receiver indices: 32-bit numbers that a peer puts into its datagrams so that
//! we find the handshake or session.

use crate::event::PeerSlot;

#[derive(Clone, Copy)]
struct Entry {
    index: u32,
    slot: PeerSlot,
}

/// Which peer an index belongs to; each peer has at most `EACH`. Sorted, 8 bytes
/// per entry.
pub struct IndexTable<const PEERS: usize, const EACH: usize> {
    entries: [[Entry; EACH]; PEERS],
    len: usize,
}

impl<const PEERS: usize, const EACH: usize> Default for IndexTable<PEERS, EACH> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PEERS: usize, const EACH: usize> IndexTable<PEERS, EACH> {
    /// An empty table.
    pub const fn new() -> Self {
        let empty = Entry { index: 0, slot: PeerSlot(0) };
        Self { entries: [[empty; EACH]; PEERS], len: 0 }
    }

    fn used(&self) -> &[Entry] {
        self.entries.as_flattened().get(..self.len).unwrap_or_default()
    }

    fn position(&self, index: u32) -> Result<usize, usize> {
        self.used().binary_search_by_key(&index, |entry| entry.index)
    }

    /// Whose index this is.
    pub fn get(&self, index: u32) -> Option<PeerSlot> {
        let position = self.position(index).ok()?;
        self.used().get(position).map(|entry| entry.slot)
    }

    /// Adds an index. `false` when it is there, or the table is full.
    #[must_use]
    pub fn insert(&mut self, index: u32, slot: PeerSlot) -> bool {
        let Err(position) = self.position(index) else {
            return false;
        };
        let end = self.len + 1;
        let Some(entries) = self.entries.as_flattened_mut().get_mut(position..end) else {
            return false;
        };
        entries.rotate_right(1);
        if let Some(entry) = entries.first_mut() {
            *entry = Entry { index, slot };
        }
        self.len = end;
        true
    }

    /// Removes an index, if it is there.
    pub fn remove(&mut self, index: u32) {
        if let Ok(position) = self.position(index)
            && let Some(entries) = self.entries.as_flattened_mut().get_mut(position..self.len)
        {
            entries.rotate_left(1);
            self.len -= 1;
        }
    }

    /// Indices in use.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no index is in use.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no index can be added.
    pub const fn is_full(&self) -> bool {
        self.len >= PEERS * EACH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_found_until_removed() {
        let mut table = IndexTable::<8, 4>::new();
        let mut held: Vec<(u32, PeerSlot)> = Vec::new();
        for round in 0..1_000u32 {
            let (index, slot) = (round.wrapping_mul(0x9E37_79B9), PeerSlot((round % 8) as u16));
            let inserted = table.insert(index, slot);
            assert_eq!(inserted, held.len() < 32);
            if inserted {
                held.push((index, slot));
                assert!(!table.insert(index, PeerSlot(7)));
            }
            if round % 3 == 0 {
                let (index, _) = held.swap_remove(round as usize % held.len());
                table.remove(index);
                table.remove(index);
                assert_eq!(table.get(index), None);
            }
            assert_eq!(table.len(), held.len());
            for &(index, slot) in &held {
                assert_eq!(table.get(index), Some(slot));
            }
        }
    }
}
