//! Ways to a peer.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::event::{RELAY, SocketId, Source};
use crate::time::Instant;

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// Straight to an address, which may be one that a relay keeps for the peer.
    Direct {
        /// From which of our sockets.
        socket: SocketId,
        /// To where.
        address: SocketAddr,
    },
    /// To an address through our own allocation at a relay.
    Relay {
        /// The peer's address, as the relay sees it.
        address: SocketAddr,
    },
}

impl Route {
    /// The peer's address.
    pub const fn address(&self) -> SocketAddr {
        match self {
            Self::Direct { address, .. } | Self::Relay { address } => *address,
        }
    }

    /// What comes back this way has this source.
    pub const fn source(&self) -> Source {
        match *self {
            Self::Direct { socket, address } => Source { socket, address },
            Self::Relay { address } => Source { socket: RELAY, address },
        }
    }

    /// Whether it goes through our own allocation.
    pub const fn is_ours(&self) -> bool {
        matches!(self, Self::Relay { .. })
    }
}

impl From<Source> for Route {
    fn from(Source { socket, address }: Source) -> Self {
        if socket == RELAY { Self::Relay { address } } else { Self::Direct { socket, address } }
    }
}

/// A route in 20 bytes: each peer remembers a dozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// IPv4 in IPv6's clothes; none of those is ever a candidate itself.
    ip: [u8; 16],
    port: u16,
    socket: SocketId,
}

impl From<Route> for Packed {
    fn from(route: Route) -> Self {
        let Source { socket, address } = route.source();
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: address.port(), socket }
    }
}

impl From<Packed> for Route {
    fn from(Packed { ip, port, socket }: Packed) -> Self {
        let address = SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port);
        Source { socket, address }.into()
    }
}

/// Why a route was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// Authenticated data or a handshake came from there.
    Authenticated,
    /// It was so before the last start.
    Cached,
    /// An operator wrote it down for a WireGuard-only peer.
    Configured,
    /// The peer answered a ping there, and the way before was worse or silent.
    Answered,
}

/// The route that carries a peer's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The way.
    pub route: Route,
    /// The reason.
    pub why: Why,
    /// Since when.
    pub since: Instant,
    /// A relay is on the way: ours, or the peer's.
    pub relayed: bool,
}
