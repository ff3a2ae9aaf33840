//! What the parts of the agent tell each other: names of peers and sources,
//! why something was dropped, what the data path has seen.

use core::net::SocketAddr;

use crate::time::Instant;

/// A peer's place in the agent's tables. The same number in `tunnel`,
/// `datapath`, `path` and `peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerSlot(pub u16);

impl PeerSlot {
    /// The place as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One of the shell's sockets, or an allocation at a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u8);

/// Stands for our allocation at a relay: what comes from there, or goes through
/// it, is a peer's, whose true address is beside it.
pub const RELAY: SocketId = SocketId(u8::MAX);

/// One of the shell's connections to a relay. A number is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub u16);

/// How bytes leave this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// As a datagram.
    Udp {
        /// From this socket.
        socket: SocketId,
        /// To this address.
        to: SocketAddr,
    },
    /// In a connection to a relay.
    Stream(StreamId),
}

/// Which socket sends to which address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// Sends to IPv4 addresses.
    pub v4: Option<SocketId>,
    /// Sends to IPv6 addresses.
    pub v6: Option<SocketId>,
}

impl Sockets {
    /// One socket for both families.
    pub const fn both(socket: SocketId) -> Self {
        Self { v4: Some(socket), v6: Some(socket) }
    }
}

/// Where a datagram came from: the socket that received it and the sender's
/// true address (behind a relay the address that the relay names, so that
/// cookies bind to the peer and not to the relay).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// What received it.
    pub socket: SocketId,
    /// Who sent it.
    pub address: SocketAddr,
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why a datagram or packet went no further. Counted, never logged per
        /// packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $name,)+
        }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name in metrics and in `--json`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// No WireGuard message: type, length or a reserved byte is wrong.
    Malformed = "malformed",
    /// mac1 was not made with one of our keys.
    Mac1 = "mac1",
    /// Under load: answered with a cookie instead.
    UnderLoad = "under_load",
    /// Under load, and this source or peer sends too many initiations.
    RateLimited = "rate_limited",
    /// The queue of initiations is full.
    QueueFull = "queue_full",
    /// An initiation by a key that is no peer's.
    UnknownPeer = "unknown_peer",
    /// Authentication failed: altered, or made with other keys.
    Unauthentic = "unauthentic",
    /// An initiation that is not newer than the last one of this peer.
    Timestamp = "timestamp",
    /// A receiver index that belongs to no handshake or session.
    UnknownIndex = "unknown_index",
    /// Transport data with a counter that was seen or is too old to tell.
    Replayed = "replayed",
    /// The session is older than it may be used, or its counter is used up.
    Expired = "expired",
    /// The inner packet is no IP packet, or lies about its lengths.
    MalformedPacket = "malformed_packet",
    /// The inner source address is not routed to the peer that sent it.
    SourceAddress = "source_address",
    /// No rule and no flow admits the packet.
    Denied = "denied",
    /// The peer's rules would not admit the packet, so it is not sent.
    DeniedByPeer = "denied_by_peer",
    /// No route to the destination address.
    NoRoute = "no_route",
    /// The packet is larger than the peer takes.
    TooBig = "too_big",
    /// The caller's buffer is too small.
    NoRoom = "no_room",
    /// No session yet, and no room to keep the packet until there is one.
    StagingFull = "staging_full",
    /// No path to the peer is known.
    NoPath = "no_path",
    /// A STUN answer to nothing that was asked, or from elsewhere.
    Unsolicited = "unsolicited",
}

/// How often each reason occurred. 4 bytes per reason; saturates.
#[derive(Clone, Debug)]
pub struct DropCounters([u32; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self::new()
    }
}

impl DropCounters {
    /// All zero.
    pub const fn new() -> Self {
        Self([0; DropReason::ALL.len()])
    }

    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter = counter.saturating_add(1);
        }
    }

    /// How often `reason` occurred.
    pub fn get(&self, reason: DropReason) -> u32 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// Reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u32)> + '_ {
        DropReason::ALL
            .iter()
            .map(|&reason| (reason, self.get(reason)))
            .filter(|&(_, count)| count > 0)
    }

    /// All reasons together.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|&count| u64::from(count)).sum()
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (counter, more) in self.0.iter_mut().zip(&other.0) {
            *counter = counter.saturating_add(*more);
        }
    }
}

/// Traffic of one peer. Bytes are those of inner packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Data packets sealed and handed out.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Data packets opened and admitted.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
}

/// How long a session may be used. Both data paths keep it beside the session
/// and compare it with the packet's instant; `tunnel` draws it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimes {
    /// Crossing this makes [`Edges::rekey_due`], once; `FAR_FUTURE` for the
    /// session's responder.
    pub rekey_at: Instant,
    /// From here on the session is not used.
    pub expires_at: Instant,
}

/// What one data path has seen of one peer since the tunnel last heard: what
/// must not wait for a timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// A data packet went out or came in while nothing was being waited for.
    pub active: bool,
    /// The session with this receiver index should be replaced.
    pub rekey_due: Option<u32>,
    /// The first authenticated packet of the session with this receiver index.
    pub first_packet: Option<(u32, Source)>,
    /// The newest authenticated packet came from another source than before.
    pub roamed: Option<Source>,
}

impl Edges {
    /// Nothing to tell.
    pub const NONE: Self =
        Self { active: false, rekey_due: None, first_packet: None, roamed: None };
}

/// The state that timers read: the tunnel asks for it when one is due, so that
/// no packet needs a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// When anything was last sent in a session, keepalives included.
    pub sent_at: Option<Instant>,
    /// When anything authenticated was last received in a session.
    pub received_at: Option<Instant>,
    /// When a data packet was last sent.
    pub data_sent_at: Option<Instant>,
    /// When a data packet was last received.
    pub data_received_at: Option<Instant>,
    /// The first data packet sent since anything authenticated was received.
    pub first_unanswered_at: Option<Instant>,
    /// The first data packet received since anything was sent.
    pub first_unreplied_at: Option<Instant>,
    /// Where the newest authenticated packet came from, in the current session.
    pub heard_from: Option<Source>,
    /// What happened since the last report.
    pub edges: Edges,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut counters = DropCounters::new();
        for (position, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, position);
            for _ in 0..=position {
                counters.count(reason);
            }
        }
        for (position, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(counters.get(reason) as usize, position + 1);
        }
        assert_eq!(counters.iter().count(), DropReason::ALL.len());
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());

        let mut twice = counters.clone();
        twice.merge(&counters);
        assert_eq!(twice.total(), 2 * counters.total());
    }
}
