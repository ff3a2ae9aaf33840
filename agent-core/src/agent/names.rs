//! What people call relays. No part of the agent asks for it; it is kept where
//! people look.

use weft_wire::id::Name;
use weft_wire::item::{Item as _, ItemWriter, Items};
use weft_wire::relay::RelayNames;

/// The op of the map as it travels, in an agent that has room for it: a chip has
/// none, and pays nothing.
pub(super) struct Names<const ROOM: usize>([u8; ROOM]);

impl<const ROOM: usize> Names<ROOM> {
    pub(super) const fn new() -> Self {
        Self([0; ROOM])
    }

    pub(super) fn set(&mut self, names: &RelayNames) {
        self.0.fill(0);
        // Nothing was written where there is no room.
        let _ = ItemWriter::new(&mut self.0).put(names);
    }

    /// A map begins that names none so far.
    pub(super) fn clear(&mut self) {
        self.set(&RelayNames { names: heapless::Vec::new() });
    }

    /// What was told last; `None` = nothing yet.
    pub(super) fn told(&self) -> Option<RelayNames> {
        let item = Items::new(&self.0).next()?.ok()?;
        (item.tag == RelayNames::TAG).then(|| item.decode().ok())?
    }

    /// The name of the relay with this number.
    pub(super) fn of(&self, relay: u16) -> Option<Name> {
        let named = self.told()?.names.into_iter().find(|named| named.relay == relay)?;
        Some(named.name).filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::relay::RelayName;

    fn names(list: &[(u16, &str)]) -> RelayNames {
        let name = |&(relay, name): &(u16, &str)| RelayName {
            relay,
            name: Name::try_from(name).expect("a name"),
        };
        RelayNames { names: list.iter().map(name).collect() }
    }

    #[test]
    fn the_last_list_counts() {
        let mut kept = Names::<1_536>::new();
        assert!(kept.told().is_none());
        assert_eq!(kept.of(1), None);
        let longest = "a".repeat(32);
        kept.set(&names(&[(1, "fra1"), (300, &longest), (2, ""), (u16::MAX, &longest)]));
        assert_eq!(kept.of(1).as_deref(), Some("fra1"));
        assert_eq!(kept.of(u16::MAX).as_deref(), Some(longest.as_str()));
        assert_eq!((kept.of(2), kept.of(3)), (None, None));
        kept.set(&names(&[(3, "sgp1")]));
        assert_eq!((kept.of(1), kept.of(3).as_deref()), (None, Some("sgp1")));
        kept.clear();
        assert!(kept.told().is_some_and(|told| told.names.is_empty()));
    }

    #[test]
    fn a_chip_keeps_none_at_no_price() {
        let mut kept = Names::<0>::new();
        kept.set(&names(&[(1, "fra1")]));
        assert_eq!(kept.of(1), None);
        assert_eq!(size_of::<Names<0>>(), 0);
    }
}
