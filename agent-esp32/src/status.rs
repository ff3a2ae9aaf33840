//! What an application can see of its agent.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use heapless::Vec;
use weft_agent_core::entropy::Entropy;
use weft_wire::id::{DeviceId, Name};
use weft_wire::item::{Refused, Standing};
use weft_wire::path::Way;

use crate::log::Counters;
use crate::parts::SharedAgent;

/// Peers that [`Status`] lists.
pub const PEERS_SHOWN: usize = 16;

/// Why there is no line to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineTrouble {
    /// Its name is not known to the local network's resolver.
    Name,
    /// Nobody takes a connection there.
    Unreachable,
    /// No answer in 10 s.
    Silent,
    /// The broker does not know this device, or the join string's key is used up.
    Denied,
    /// The broker takes nobody now.
    Busy,
    /// Something answers there that is no broker.
    Protocol,
    /// The connection broke.
    Lost,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The device has an address on the mesh.
    Joined(Ipv4Addr, Ipv6Addr),
    /// The coordinator did not take the device in; the agent has stopped asking unless
    /// the code is that of "unavailable" ([`weft_wire::verdict::Refusal`]).
    Refused(u16),
    /// How the device stands has changed.
    Standing(Standing),
    /// A session with the coordinator is up (`true`), or was lost.
    Online(bool),
    /// The line to the coordinator is in trouble.
    Line(LineTrouble),
    /// Data goes to and fro with a peer (`true`), or no more.
    Peer(DeviceId, bool),
    /// Without a word from the coordinator for the length of the lease, or put out:
    /// there are no peers any more.
    MapDropped,
    /// Peers use another key of this device from now on.
    KeyRotated,
    /// Something could not be written to storage; it is tried again.
    Storage,
    /// The day's budget of data is used up (`true`), or there is a new one.
    Budget(bool),
    /// An operator wants the device restarted: reset the chip.
    Restart,
    /// The device has left its network: its storage was erased.
    Left,
}

impl From<&Refused> for Event {
    fn from(refused: &Refused) -> Self {
        Self::Refused(refused.code)
    }
}

/// The way of a peer's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Straight to this address.
    Direct(SocketAddr),
    /// Over a relay.
    Relay,
    /// Nobody talks; a packet finds a way.
    Idle,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub device: DeviceId,
    /// Its name on the mesh.
    pub name: Name,
    /// Its addresses, once the map is there.
    pub addresses: Option<(Ipv4Addr, Ipv6Addr)>,
    /// The way of its data.
    pub path: Path,
}

/// How an agent does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its addresses on the mesh, once it has some.
    pub addresses: Option<(Ipv4Addr, Ipv6Addr)>,
    /// Whether a session with the coordinator is up.
    pub online: bool,
    /// Round trip to the coordinator in milliseconds; 0 = not known yet.
    pub rtt_ms: u16,
    /// Why there is no line to it.
    pub trouble: Option<LineTrouble>,
    /// How the device stands.
    pub standing: Standing,
    /// Those that the agent knows now.
    pub peers: Vec<Peer, PEERS_SHOWN>,
    /// Bytes sent to and received from peers since the start.
    pub bytes: (u64, u64),
}

/// What an agent says of itself.
pub(crate) trait Inspect {
    fn status(&self, trouble: Option<LineTrouble>) -> Status;
    fn counters(&self, written: u32) -> Counters;
}

impl<E: Entropy, const P: usize, const R: usize> Inspect for SharedAgent<'_, E, P, R> {
    fn counters(&self, written: u32) -> Counters {
        let agent = self.borrow();
        let control = agent.coordinator(crate::clock::now()).counters;
        Counters { data: agent.counters(), drops: agent.drops(), control, written }
    }

    fn status(&self, trouble: Option<LineTrouble>) -> Status {
        let agent = self.borrow();
        let coordinator = agent.coordinator(crate::clock::now());
        let counters = agent.counters();
        let settings = agent.settings().settings();
        let own = settings
            .map(|own| (own.overlay.address_v4(own.host), own.overlay.address_v6(own.host)));
        let peers = agent.peers().take(PEERS_SHOWN).map(|peer| Peer {
            device: peer.device,
            name: peer.name.clone(),
            addresses: peer.addresses,
            path: match agent.way(peer.slot).0 {
                Way::Direct(address) => Path::Direct(address),
                Way::Relay { .. } => Path::Relay,
                _ => Path::Idle,
            },
        });
        Status {
            addresses: own,
            online: coordinator.online,
            rtt_ms: coordinator.rtt_ms,
            trouble: trouble.filter(|_| !coordinator.online),
            standing: coordinator.standing,
            peers: peers.collect(),
            bytes: (counters.sent_bytes, counters.received_bytes),
        }
    }
}
