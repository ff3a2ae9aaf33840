//! One peer over time: known → calling → active → idle, and back to calling
//! whenever a packet wants it. Slots, who gives one up, and what waits for a
//! session.
//!
//! A peer whose lease is over or whom the map drops is not in the table any more;
//! a peer that is not in the table and is asked for by address comes with maps
//! on demand.
//!
//! Sees no key material but to carry it from the map to the tunnel and the
//! cache; knows nothing of addresses outside the overlay.

mod staging;
mod table;

pub use staging::Staging;
pub use table::{PeerEntry, Peers, Upserted};

use weft_wire::id::DeviceId;

use crate::event::PeerSlot;
use crate::time::{Duration, Instant};

/// A peer without data for this long is idle: its session has lapsed then.
pub const IDLE_AFTER: Duration = Duration::from_secs(180);
/// A new entry keeps its slot this long, or until its first handshake is done.
pub const FRESH_FOR: Duration = Duration::from_secs(5);
/// An entry keeps its slot this long after its last data.
pub const BUSY_FOR: Duration = Duration::from_secs(1);

/// Where a peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// The map names it; nobody has talked yet.
    Known,
    /// A packet wants it; there is no session yet.
    Calling,
    /// There is a session, and data.
    Active,
    /// There was a session; nobody talks.
    Idle,
}

/// A peer went from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// Its place.
    pub slot: PeerSlot,
    /// Who.
    pub device: DeviceId,
    /// From.
    pub from: PeerState,
    /// To.
    pub to: PeerState,
}

/// Why the map's peer is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpsertError {
    /// Every slot is taken and none may be given up before this instant.
    Busy(Instant),
    /// Every slot is taken, and this device wants all peers.
    Full,
    /// The peer has more routes than there is room for.
    Routes,
}
