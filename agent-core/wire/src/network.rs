//! What a device finds out about its network when an operator asks for it.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use serde::{Deserialize as De, Serialize as Ser};

use crate::id::CommandId;
use crate::item::{Outcome, item};
use crate::relay::RELAYS;

item!(
    /// A command to the device: look at the network, and answer with
    /// [`NetcheckDone`].
    17 Netcheck {
        /// Repeated commands keep their id and are done once.
        id: CommandId,
        /// Not to be begun after this Unix time in milliseconds.
        expires_ms: u64,
    }
);

/// How a NAT chooses the public port (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Ser, De)]
pub enum NatMapping {
    /// Not to be told.
    #[default]
    Unknown,
    /// There is no NAT: the public address is the device's own.
    NoNat,
    /// The same port for every destination.
    EndpointIndependent,
    /// Another one for every address.
    Address,
    /// Another one for every destination; no pattern was looked for.
    AddressAndPort,
    /// Another one for every destination, in steps.
    Sequential(i16),
    /// Another one for every destination, within a block of this many.
    Window(u16),
    /// Another one for every destination, without a pattern.
    Random,
}

crate::body!(enum NatMapping, else Self::Unknown; {
    0 = Unknown, 1 = NoNat, 2 = EndpointIndependent, 3 = Address, 4 = AddressAndPort,
    5 = Sequential(value), 6 = Window(value), 7 = Random,
});

/// Whose packets a NAT lets in (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Ser, De)]
pub enum NatFiltering {
    /// Not to be told.
    #[default]
    Unknown,
    /// Everybody's.
    EndpointIndependent,
    /// Those of addresses that were sent to.
    Address,
    /// Those of addresses and ports that were sent to.
    AddressAndPort,
}

crate::body!(enum NatFiltering, else Self::Unknown; {
    0 = Unknown, 1 = EndpointIndependent, 2 = Address, 3 = AddressAndPort,
});

/// A protocol by which a router lets packets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub enum MappedBy {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// The Internet Gateway Device of UPnP.
    Upnp,
}

crate::body!(enum MappedBy, else Self::Pcp; { 0 = Pcp, 1 = NatPmp, 2 = Upnp });

/// A way to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub enum RelayRung {
    /// Datagrams.
    Udp,
    /// A connection.
    Tcp,
    /// A connection in TLS.
    Tls,
}

crate::body!(enum RelayRung, else Self::Udp; { 0 = Udp, 1 = Tcp, 2 = Tls });

/// How a relay answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub struct RelayReached {
    /// [`crate::relay::Relay::number`].
    pub relay: u16,
    /// The first way that answered, and its round trip in microseconds; `None` =
    /// none did.
    pub answered: Option<(RelayRung, u32)>,
}

crate::body!(struct RelayReached { relay, answered });

/// A device's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Ser, De)]
pub struct NetworkReport {
    /// Where servers see it by IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Where servers see it by IPv6.
    pub v6: Option<Ipv6Addr>,
    /// How ports are chosen.
    pub mapping: NatMapping,
    /// Who is let in.
    pub filtering: NatFiltering,
    /// Whether hosts behind the NAT reach each other by its public address.
    pub hairpin: Option<bool>,
    /// What a router lets in to the tunnel's port.
    pub mapped: Option<(MappedBy, SocketAddrV4)>,
    /// Whether bytes cost money there, so that less was tested.
    pub metered: bool,
    /// The relays of the map.
    pub relays: heapless::Vec<RelayReached, RELAYS>,
}

crate::body!(struct NetworkReport {
    v4, v6, mapping, filtering, hairpin, mapped, metered, relays,
});

item!(
    /// The device's word on a [`Netcheck`].
    18 NetcheckDone {
        /// Which.
        id: CommandId,
        /// How it went.
        outcome: Outcome,
        /// What was found, if it was done.
        report: Option<NetworkReport>,
    }
);
