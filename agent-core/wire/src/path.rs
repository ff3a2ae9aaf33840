//! How a device reaches its peers, as it tells the coordinator: the evidence of
//! `weft-coordinator why`.
//!
//! A device reports what has changed, several peers in one item, and nothing
//! while nothing changes. Spans are told and no moments: a device may have no
//! clock.

use core::net::SocketAddr;

use serde::{Deserialize as De, Serialize as Ser};

use crate::id::DeviceId;
use crate::item::{RequestId, item};
use crate::signal::{Mapping, NatReport};

/// The most peers in one report.
pub const REPORTED: usize = 8;

/// The longest body of a [`PathReport`], in bytes.
pub const PATH_REPORT_LEN: usize = 640;

/// How a relay is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Ser, De)]
pub enum Rung {
    /// On its first UDP port.
    Udp,
    /// On its second UDP port.
    SecondUdp,
    /// TURN over TCP.
    Tcp,
    /// TURN over TLS.
    Tls,
}

crate::body!(enum Rung, else Self::Udp; { 0 = Udp, 1 = SecondUdp, 2 = Tcp, 3 = Tls });

impl Rung {
    /// The word in lists and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::SecondUdp => "udp, second port",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Whether it passes where UDP does not.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// Which way a peer's data takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Ser, De)]
pub enum Way {
    /// There is no tunnel, and none is wanted.
    Idle,
    /// A tunnel is wanted, and no way is known.
    Nowhere,
    /// Straight to this address.
    Direct(SocketAddr),
    /// Over a relay.
    Relay {
        /// [`crate::relay::Relay::number`].
        relay: u16,
        /// How the reporter reaches it; `None` = the peer does, and the reporter
        /// sends to an address there.
        rung: Option<Rung>,
    },
}

crate::body!(enum Way, else Self::Idle; {
    0 = Idle, 1 = Nowhere, 2 = Direct(value), 3 = Relay { relay, rung },
});

/// How looking for a direct way ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub struct Attempt {
    /// How, see [`crate::verdict::AttemptEnd`].
    pub end: u16,
    /// Seconds since it ended.
    pub ago_s: u32,
    /// Attempts in a row that found nothing, this one counted; 0 after one that
    /// did.
    pub failed: u16,
    /// How the reporter's NAT chose ports then.
    pub own: Mapping,
    /// What the peer said of its own.
    pub peer: Mapping,
    /// Addresses that were tried.
    pub tried: u8,
    /// Addresses that answered.
    pub answered: u8,
    /// Probes sent to them; of an attempt that ended with the handshake,
    /// initiations.
    pub sent: u16,
    /// From the call to the end, in milliseconds.
    pub took_ms: u16,
}

crate::body!(struct Attempt { end, ago_s, failed, own, peer, tried, answered, sent, took_ms });

/// One peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub struct PeerReport {
    /// Who.
    pub peer: DeviceId,
    /// The way its data takes.
    pub way: Way,
    /// Seconds since it takes that.
    pub since_s: u32,
    /// Round trip on it, in milliseconds; 0 = not measured.
    pub rtt_ms: u16,
    /// The last attempt; `None` = there was none since the agent's start.
    pub attempt: Option<Attempt>,
    /// Seconds until the next attempt; `None` = a packet or another network will
    /// cause it.
    pub next_s: Option<u32>,
}

crate::body!(struct PeerReport { peer, way, since_s, rtt_ms, attempt, next_s });

item!(
    /// Request: this is how peers are reached; those that are not named are
    /// reached as before. Answered by [`crate::item::Done`].
    81 PathReport {
        /// Id of this request.
        request: RequestId,
        /// Seconds since the agent started: what was said before holds no more.
        uptime_s: u32,
        /// The reporter's network.
        nat: NatReport,
        /// Where servers see the reporter from, one of each family.
        seen: heapless::Vec<SocketAddr, 2>,
        /// What has changed.
        peers: heapless::Vec<PeerReport, REPORTED>,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_report_is_bounded() {
        let address: SocketAddr = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let mapping = Mapping::Sequential(i16::MIN);
        let attempt = Attempt {
            end: u16::MAX,
            ago_s: u32::MAX,
            failed: u16::MAX,
            own: mapping,
            peer: mapping,
            tried: u8::MAX,
            answered: u8::MAX,
            sent: u16::MAX,
            took_ms: u16::MAX,
        };
        let peer = PeerReport {
            peer: DeviceId(u32::MAX),
            way: Way::Direct(address),
            since_s: u32::MAX,
            rtt_ms: u16::MAX,
            attempt: Some(attempt),
            next_s: Some(u32::MAX),
        };
        let report = PathReport {
            request: u32::MAX,
            uptime_s: u32::MAX,
            nat: NatReport { mapping, lifetime_s: u16::MAX, age_ms: u32::MAX },
            seen: core::iter::repeat_n(address, 2).collect(),
            peers: core::iter::repeat_n(peer, REPORTED).collect(),
        };
        let mut buffer = [0; 1_024];
        let len = postcard::to_slice(&report, &mut buffer).unwrap().len();
        assert!(len <= PATH_REPORT_LEN, "{len}");
    }
}
