//! What the tests of the servers' clients share.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "shared by tests, which may panic")]

use std::net::SocketAddr;

use weft_agent_core::entropy::Entropy;

/// Counts, so that every draw is another.
pub struct Count(pub u8);

impl Entropy for Count {
    fn fill(&mut self, out: &mut [u8]) {
        self.0 += 1;
        out.fill(self.0);
    }
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
