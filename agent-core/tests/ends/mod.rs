//! What the tests of two ends of a way share.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "shared by tests, which may panic")]

use std::net::SocketAddr;

use weft_agent_core::entropy::Entropy;
use weft_agent_core::event::{PeerSlot, SocketId};
use weft_agent_core::path::ProbeMac;
use weft_agent_core::time::Instant;

/// Where each end keeps the other.
pub const SLOT: PeerSlot = PeerSlot(1);
pub const SOCKET: SocketId = SocketId(0);

/// Counts, so that every draw is another.
pub struct Counter(pub u64);

impl Entropy for Counter {
    fn fill(&mut self, out: &mut [u8]) {
        self.0 += 1;
        for (byte, value) in out.iter_mut().zip(self.0.to_le_bytes()) {
            *byte = value;
        }
    }
}

/// A MAC that both ends can make, and that depends on every bit and on this number.
pub struct Key(pub u64);

impl ProbeMac for Key {
    fn mac(&mut self, slot: PeerSlot, bytes: &[u8]) -> Option<[u8; 16]> {
        assert_eq!(slot, SLOT);
        let mut state = self.0;
        for &byte in bytes {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        let mut mac = [0; 16];
        mac[..8].copy_from_slice(&state.to_le_bytes());
        Some(mac)
    }

    fn verify(&mut self, slot: PeerSlot, bytes: &[u8], mac: &[u8; 16]) -> bool {
        self.mac(slot, bytes) == Some(*mac)
    }
}

pub fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
