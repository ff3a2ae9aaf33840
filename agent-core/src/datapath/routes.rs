//! Which peer has which addresses: the longest prefix wins.

use core::net::IpAddr;

use heapless::Vec;
use weft_wire::map::Prefix;

use crate::event::PeerSlot;

/// There is no room for another route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutesFull;

/// An address as a number, with its family's width in bits.
trait Key: Copy + Ord {
    const BITS: u8;

    /// The first `len` bits, the rest zero.
    fn masked(self, len: u8) -> Self;
}

impl Key for u32 {
    const BITS: u8 = 32;

    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(32 - Self::from(len.min(32))).unwrap_or(0)
    }
}

impl Key for u128 {
    const BITS: u8 = 128;

    fn masked(self, len: u8) -> Self {
        self & Self::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
    }
}

#[derive(Clone, Copy)]
struct Route<K> {
    len: u8,
    network: K,
    slot: PeerSlot,
}

/// Routes of one family, sorted by length and network: a look-up is a binary
/// search per length that is in use, longest first.
struct Table<K, const ROUTES: usize> {
    routes: Vec<Route<K>, ROUTES>,
    /// Bit n: there is a route of this length.
    lens: [u64; 3],
}

impl<K: Key, const ROUTES: usize> Table<K, ROUTES> {
    const fn new() -> Self {
        Self { routes: Vec::new(), lens: [0; 3] }
    }

    fn position(&self, len: u8, network: K) -> Result<usize, usize> {
        self.routes.binary_search_by_key(&(len, network), |route| (route.len, route.network))
    }

    fn insert(&mut self, network: K, len: u8, slot: PeerSlot) -> Result<(), RoutesFull> {
        let len = len.min(K::BITS);
        let network = network.masked(len);
        match self.position(len, network) {
            // The newest owner counts, as with WireGuard's allowed IPs.
            Ok(position) => {
                if let Some(route) = self.routes.get_mut(position) {
                    route.slot = slot;
                }
                Ok(())
            }
            Err(position) => {
                let route = Route { len, network, slot };
                self.routes.insert(position, route).map_err(|_| RoutesFull)?;
                self.count_lens();
                Ok(())
            }
        }
    }

    fn remove(&mut self, slot: PeerSlot) {
        self.routes.retain(|route| route.slot != slot);
        self.count_lens();
    }

    fn count_lens(&mut self) {
        self.lens = [0; 3];
        for route in &self.routes {
            if let Some(word) = self.lens.get_mut(usize::from(route.len / 64)) {
                *word |= 1 << (route.len % 64);
            }
        }
    }

    /// Tries the lengths in use, longest first.
    fn lookup(&self, address: K) -> Option<PeerSlot> {
        for (base, word) in [128u8, 64, 0].into_iter().zip(self.lens.iter().rev()) {
            let mut left = *word;
            while left != 0 {
                let bit = 63 - left.leading_zeros() as u8;
                left &= !(1 << bit);
                let len = base + bit;
                if let Ok(position) = self.position(len, address.masked(len)) {
                    return self.routes.get(position).map(|route| route.slot);
                }
            }
        }
        None
    }
}

/// Up to `ROUTES` routes per family; 8 bytes per IPv4 route, 32 per IPv6 route.
pub struct RouteTable<const ROUTES: usize> {
    v4: Table<u32, ROUTES>,
    v6: Table<u128, ROUTES>,
}

impl<const ROUTES: usize> Default for RouteTable<ROUTES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const ROUTES: usize> RouteTable<ROUTES> {
    /// No routes.
    #[inline(never)]
    pub const fn new() -> Self {
        Self { v4: Table::new(), v6: Table::new() }
    }

    /// Routes a prefix to a peer; takes it from the peer that had it. Bits after
    /// the prefix are ignored.
    ///
    /// # Errors
    ///
    /// [`RoutesFull`]; nothing changes.
    pub fn insert(&mut self, prefix: Prefix, slot: PeerSlot) -> Result<(), RoutesFull> {
        match prefix {
            Prefix::V4(network, len) => self.v4.insert(network.to_bits(), len, slot),
            Prefix::V6(network, len) => self.v6.insert(network.to_bits(), len, slot),
        }
    }

    /// Removes every route of a peer.
    pub fn remove(&mut self, slot: PeerSlot) {
        self.v4.remove(slot);
        self.v6.remove(slot);
    }

    /// Whose address this is.
    pub fn lookup(&self, address: IpAddr) -> Option<PeerSlot> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        }
    }
}
