//! The ways to a relay, from the one that costs least to the one that passes
//! everywhere.

use core::net::{IpAddr, SocketAddr};

use weft_wire::relay::Relay;

use crate::event::{SocketId, Sockets};

/// From the beginning of one rung to that of the next, while nobody answers.
pub(super) const STEP_MS: u64 = 100;

/// How a relay is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Its first UDP port over IPv4.
    UdpV4,
    /// Its first UDP port over IPv6.
    UdpV6,
    /// Its second UDP port over IPv4.
    SecondUdpV4,
    /// Its second UDP port over IPv6.
    SecondUdpV6,
    /// TURN over TCP.
    Tcp,
    /// TURN over TLS.
    Tls,
}

/// How many ways there are.
pub(super) const WAYS: usize = 6;

impl Way {
    /// In the order in which they are tried.
    pub const ALL: [Self; WAYS] =
        [Self::UdpV4, Self::UdpV6, Self::SecondUdpV4, Self::SecondUdpV6, Self::Tcp, Self::Tls];

    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UdpV4 | Self::UdpV6 => "udp",
            Self::SecondUdpV4 | Self::SecondUdpV6 => "udp, second port",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Whether the shell opens a connection for it.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// Place among the two streams.
    pub(super) const fn slot(self) -> Option<usize> {
        match self {
            Self::Tcp => Some(0),
            Self::Tls => Some(1),
            _ => None,
        }
    }

    /// The server's address, where this way exists. A connection goes over IPv4
    /// where both families would do: that is what old networks pass.
    pub(super) fn server(self, relay: &Relay, sockets: Sockets) -> Option<SocketAddr> {
        let v4 = relay.v4.map(IpAddr::V4).filter(|_| sockets.v4.is_some());
        let v6 = relay.v6.map(IpAddr::V6).filter(|_| sockets.v6.is_some());
        let [first, second] = relay.udp;
        let (ip, port) = match self {
            Self::UdpV4 => (v4, first),
            Self::UdpV6 => (v6, first),
            Self::SecondUdpV4 => (v4, second),
            Self::SecondUdpV6 => (v6, second),
            Self::Tcp => (v4.or(v6), relay.tcp),
            Self::Tls => (v4.or(v6), relay.tls),
        };
        ip.filter(|_| port != 0).map(|ip| SocketAddr::new(ip, port))
    }

    /// The socket that sends to it; none for a stream.
    pub(super) const fn socket(self, sockets: Sockets) -> Option<SocketId> {
        match self {
            Self::UdpV4 | Self::SecondUdpV4 => sockets.v4,
            Self::UdpV6 | Self::SecondUdpV6 => sockets.v6,
            Self::Tcp | Self::Tls => None,
        }
    }
}

/// A way to a relay that answered, to be kept with the network's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rung {
    /// [`Relay::number`].
    pub relay: u16,
    /// How it is reached.
    pub way: Way,
}

impl Rung {
    /// As a number, for a file.
    pub const fn number(self) -> u32 {
        (self.relay as u32) << 8 | self.way as u32
    }

    /// The rung of this number.
    pub fn from_number(number: u32) -> Option<Self> {
        let way = *Way::ALL.get(usize::try_from(number & 0xFF).ok()?)?;
        Some(Self { relay: u16::try_from(number >> 8).ok()?, way })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rung_comes_back_from_its_number() {
        for relay in [0, 1, u16::MAX] {
            for way in Way::ALL {
                let rung = Rung { relay, way };
                assert_eq!(Rung::from_number(rung.number()), Some(rung));
            }
        }
        assert_eq!(Rung::from_number(6), None);
        assert_eq!(Rung::from_number(1 << 24), None);
    }

    #[test]
    fn a_way_exists_where_the_relay_and_this_device_have_it() {
        let relay = Relay {
            number: 1,
            v4: Some([192, 0, 2, 1].into()),
            v6: Some(core::net::Ipv6Addr::LOCALHOST),
            udp: [3_478, 0],
            tcp: 443,
            tls: 0,
        };
        let ways = |sockets| {
            Way::ALL.into_iter().filter(|way| way.server(&relay, sockets).is_some()).collect()
        };
        let all: Vec<_> = ways(Sockets::both(SocketId(0)));
        assert_eq!(all, [Way::UdpV4, Way::UdpV6, Way::Tcp]);
        let only_v6 = Sockets { v4: None, v6: Some(SocketId(0)) };
        let six: Vec<_> = ways(only_v6);
        assert_eq!(six, [Way::UdpV6, Way::Tcp]);
        assert!(Way::Tcp.server(&relay, only_v6).is_some_and(|server| server.is_ipv6()));
    }
}
