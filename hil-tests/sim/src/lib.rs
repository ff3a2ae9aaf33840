//! A network on virtual time, and nodes on it.
//!
//! Nothing here reads a clock or a random device: a [`World`] with the same seed
//! and the same calls does the same, to the byte. Time jumps from one event to
//! the next, so a simulated day without traffic costs nothing.
//!
//! - [`net`]: hosts, links with latency, jitter, loss, duplication, reordering
//!   and corruption, and middleboxes between a site and the world.
//! - [`nat`]: NAT boxes by behaviour, such a middlebox each.
//! - [`world`]: a clock, a network, and anything that implements
//!   [`world::Node`].
//! - [`tunnel`]: our tunnel and data path as such a node.
//! - [`relay`]: our relay as a host of such a network.
//! - [`replay`]: runs a recorded agent again.
//! - [`pairs`]: two agents behind random NATs, and what is promised of their paths.
//! - [`mesh`]: whole agents, with a coordinator in memory and lines to it.
//!
//! # Panics
//!
//! Test code: a mistake in a scenario (a host that is not there) panics.

pub mod mesh;
pub mod nat;
pub mod net;
pub mod pairs;
pub mod relay;
pub mod replay;
pub mod rng;
pub mod tunnel;
pub mod world;

pub use mesh::Mesh;
pub use nat::Nat;
pub use net::{Datagram, GatewayId, HostId, Link, Middlebox, Network};
pub use rng::Rng;
pub use tunnel::TunnelNode;
pub use world::{Delivery, Node, World};
