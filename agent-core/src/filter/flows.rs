//! The flow table: which answers are expected, because we asked.

use core::net::IpAddr;

use crate::config::implementation::FLOW_TIME;
use crate::event::PeerSlot;
use crate::time::Instant;

/// Places that one flow may take; the oldest of them makes room.
const WAYS: usize = 8;

/// Who talks to whom, seen from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) slot: PeerSlot,
    pub(super) protocol: u8,
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    /// Port, or echo identifier.
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
}

impl Flow {
    /// Spreads flows over the table. Keyed, so that a peer cannot aim at the
    /// places of others; not a MAC, since a collision only costs a place.
    fn hash(&self, seed: u64) -> u64 {
        let ports = u64::from(self.local_port) << 16 | u64::from(self.remote_port);
        let head = ports << 24 | u64::from(self.slot.0) << 8 | u64::from(self.protocol);
        let mut hash = mix(seed ^ head);
        for address in [self.local, self.remote] {
            match address {
                IpAddr::V4(address) => hash = mix(hash ^ u64::from(address.to_bits())),
                IpAddr::V6(address) => {
                    let bits = address.to_bits();
                    hash = mix(hash ^ bits as u64);
                    hash = mix(hash ^ (bits >> 64) as u64);
                }
            }
        }
        hash
    }
}

const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[derive(Clone, Copy)]
struct Entry {
    flow: Flow,
    until: Instant,
}

/// `FLOWS` entries of 56 bytes; a multiple of 8. Full, it forgets the flow that
/// was quiet longest of those that share its places.
pub(super) struct FlowTable<const FLOWS: usize> {
    entries: [Option<Entry>; FLOWS],
    seed: u64,
}

impl<const FLOWS: usize> FlowTable<FLOWS> {
    pub(super) const fn new(seed: u64) -> Self {
        const { assert!(FLOWS >= WAYS && FLOWS.is_multiple_of(WAYS)) };
        Self { entries: [None; FLOWS], seed }
    }

    fn set(&mut self, flow: &Flow) -> &mut [Option<Entry>] {
        let sets = (FLOWS / WAYS) as u64;
        let first = (flow.hash(self.seed) % sets) as usize * WAYS;
        self.entries.get_mut(first..first + WAYS).unwrap_or_default()
    }

    /// We sent a packet of this flow.
    pub(super) fn note(&mut self, flow: Flow, now: Instant) {
        let set = self.set(&flow);
        let place = set
            .iter()
            .position(|entry| entry.as_ref().is_some_and(|entry| entry.flow == flow))
            .or_else(|| {
                let oldest = set.iter().enumerate().min_by_key(|(_, entry)| {
                    // An empty place comes before every other.
                    entry.as_ref().map_or(Instant::ZERO, |entry| entry.until)
                });
                oldest.map(|(place, _)| place)
            });
        if let Some(entry) = place.and_then(|place| set.get_mut(place)) {
            *entry = Some(Entry { flow, until: now + FLOW_TIME });
        }
    }

    /// Whether an answer in this flow is expected.
    pub(super) fn expects(&mut self, flow: &Flow, now: Instant) -> bool {
        self.set(flow).iter().flatten().any(|entry| entry.flow == *flow && now < entry.until)
    }

    /// Forgets every flow of a peer.
    pub(super) fn forget(&mut self, slot: PeerSlot) {
        for entry in &mut self.entries {
            if entry.as_ref().is_some_and(|entry| entry.flow.slot == slot) {
                *entry = None;
            }
        }
    }
}
