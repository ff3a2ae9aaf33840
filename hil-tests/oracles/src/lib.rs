//! boringtun and gotatun behind one trait: two WireGuard implementations to
//! compare ours with. They descend from one code base and have diverged, so
//! where they disagree is informative.
//!
//! Both read virtual clocks, one per thread: time stands still until
//! [`advance`]. Their TAI64N stamps follow these clocks, so two initiations
//! without an advance between them carry the same stamp.

mod boring;
mod gota;
mod node;

use std::net::SocketAddr;
use std::time::Duration;

pub use boring::Boringtun;
pub use gota::Gotatun;
pub use node::OracleNode;

/// One end of a tunnel, as another implementation sees it.
pub struct Setup {
    /// The oracle's private key.
    pub secret: [u8; 32],
    /// Our public key.
    pub peer: [u8; 32],
    /// The PSK of the two, if any.
    pub psk: Option<[u8; 32]>,
    /// Handshake messages taken before cookies are asked for; 0 = always under
    /// load.
    pub load_limit: u64,
}

/// What an oracle makes of an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing to be done.
    Nothing,
    /// A datagram for the network.
    Datagram(Vec<u8>),
    /// A packet for the interface, without padding; empty for a keepalive.
    Packet(Vec<u8>),
    /// The input was refused, with the oracle's reason.
    Refused(String),
}

/// Another implementation of one WireGuard tunnel.
pub trait Oracle {
    /// Makes the tunnel; nothing is sent.
    fn new(setup: &Setup) -> Self;

    /// A new handshake initiation, whether or not one is pending.
    fn initiate(&mut self) -> Vec<u8>;

    /// Takes a packet from the interface.
    fn handle_packet(&mut self, packet: &[u8]) -> Output;

    /// Takes a datagram from the network.
    fn handle_datagram(&mut self, source: SocketAddr, datagram: &[u8]) -> Output;

    /// The next packet that waited for a session, sealed.
    fn poll_queued(&mut self) -> Output;

    /// Looks at its timers, as its device does every [`TICK`].
    fn handle_tick(&mut self) -> Output;
}

/// How often both devices look at their timers.
pub const TICK: weft_agent_core::time::Duration = weft_agent_core::time::Duration::from_millis(250);

/// Sets the clocks of both oracles, in this thread.
pub fn set_time(time: Duration) {
    mock_instant_boringtun::MockClock::set_time(time);
    mock_instant_gotatun::thread_local::MockClock::set_time(time);
}

/// Moves the clocks of both oracles, in this thread.
pub fn advance(time: Duration) {
    mock_instant_boringtun::MockClock::advance(time);
    mock_instant_gotatun::thread_local::MockClock::advance(time);
}
