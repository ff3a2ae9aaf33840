//! Receiver indices: 32-bit numbers that a peer puts into its datagrams so that
//! we find the handshake or session.

/// What an unused entry is.
const EMPTY: Entry = Entry { index: 0, holder: 0 };

#[derive(Clone, Copy)]
struct Entry {
    index: u32,
    holder: u16,
}

/// Who holds an index: one of each peer, and two for each of `MORE`. Two sorted lists, since
/// no array has as many places as both; 8 bytes per entry.
pub struct IndexTable<const PEERS: usize, const MORE: usize> {
    each: [Entry; PEERS],
    more: [[Entry; 2]; MORE],
    /// How much of each list is used.
    lens: [usize; 2],
}

impl<const PEERS: usize, const MORE: usize> Default for IndexTable<PEERS, MORE> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PEERS: usize, const MORE: usize> IndexTable<PEERS, MORE> {
    /// An empty table.
    pub const fn new() -> Self {
        Self { each: [EMPTY; PEERS], more: [[EMPTY; 2]; MORE], lens: [0; 2] }
    }

    fn lists(&self) -> [&[Entry]; 2] {
        let [each, more] = self.lens;
        let more = self.more.as_flattened().get(..more);
        [self.each.get(..each), more].map(Option::unwrap_or_default)
    }

    /// Who holds this index.
    pub fn get(&self, index: u32) -> Option<u16> {
        self.lists().into_iter().find_map(|list| {
            let position = position(list, index).ok()?;
            list.get(position).map(|entry| entry.holder)
        })
    }

    /// Adds an index. `false` when it is there, or the table is full.
    #[must_use]
    pub fn insert(&mut self, index: u32, holder: u16) -> bool {
        if self.get(index).is_some() {
            return false;
        }
        let lists = [self.each.as_mut_slice(), self.more.as_flattened_mut()];
        lists.into_iter().zip(&mut self.lens).any(|(list, len)| {
            let used = list.get(..*len).unwrap_or_default();
            let (Ok(position) | Err(position)) = position(used, index);
            let Some(entries) = list.get_mut(position..=*len) else {
                return false;
            };
            entries.rotate_right(1);
            if let Some(entry) = entries.first_mut() {
                *entry = Entry { index, holder };
            }
            *len += 1;
            true
        })
    }

    /// Removes an index, if it is there.
    pub fn remove(&mut self, index: u32) {
        let lists = [self.each.as_mut_slice(), self.more.as_flattened_mut()];
        for (list, len) in lists.into_iter().zip(&mut self.lens) {
            let used = list.get_mut(..*len).unwrap_or_default();
            if let Ok(position) = position(used, index)
                && let Some(entries) = used.get_mut(position..)
            {
                entries.rotate_left(1);
                *len -= 1;
            }
        }
    }

    /// Indices in use.
    pub const fn len(&self) -> usize {
        let [each, more] = self.lens;
        each + more
    }

    /// Whether no index is in use.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether no index can be added.
    pub const fn is_full(&self) -> bool {
        self.len() >= PEERS + 2 * MORE
    }
}

fn position(list: &[Entry], index: u32) -> Result<usize, usize> {
    list.binary_search_by_key(&index, |entry| entry.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_found_until_removed() {
        let mut table = IndexTable::<8, 12>::new();
        let mut held: Vec<(u32, u16)> = Vec::new();
        for round in 0..1_000u32 {
            let (index, holder) = (round.wrapping_mul(0x9E37_79B9), (round % 8) as u16);
            let inserted = table.insert(index, holder);
            assert_eq!(inserted, held.len() < 32);
            if inserted {
                held.push((index, holder));
                assert!(!table.insert(index, 7));
            }
            if round % 3 == 0 {
                let (index, _) = held.swap_remove(round as usize % held.len());
                table.remove(index);
                table.remove(index);
                assert_eq!(table.get(index), None);
            }
            assert_eq!(table.len(), held.len());
            for &(index, holder) in &held {
                assert_eq!(table.get(index), Some(holder));
            }
        }
    }
}
