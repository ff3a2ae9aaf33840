//! What the filter and the router need of an IP packet, read once and checked
//! against the buffer: addresses, protocol, fragment, ports, TCP flags, ICMP.
//!
//! [`Packet::parse`] is total. It refuses what no honest stack sends and what
//! filters are tricked with: lengths that lie, upper-layer headers split over
//! fragments (RFC 1858, RFC 7112), routing header type 0 (RFC 5095),
//! hop-by-hop options out of place (RFC 8200 section 4.1), jumbograms.

pub mod checksum;
pub mod icmp;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IANA protocol numbers that are told apart here.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Datagram congestion control; ports where UDP has them.
    pub const DCCP: u8 = 33;
    /// Stream control transmission; ports where UDP has them.
    pub const SCTP: u8 = 132;
    /// UDP-Lite; ports where UDP has them.
    pub const UDP_LITE: u8 = 136;
}

mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HOST_IDENTITY: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
    /// More extension headers than this in one packet are refused.
    pub(super) const MOST: usize = 8;
}

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;
/// Bytes of an IPv6 header without extension headers.
pub const IPV6_HEADER_LEN: usize = 40;

/// The packet is no IP packet, or lies about its lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedPacket;

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The packet is whole.
    Whole,
    /// The first fragment: holds the upper-layer header.
    First,
    /// Another fragment: holds no upper-layer header.
    Later,
}

/// The bits of the upper-layer header that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The flags byte.
        flags: u8,
    },
    /// UDP and others with ports in the same place.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP or ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The identifier of an echo, zero in other messages.
        identifier: u16,
    },
    /// A protocol without ports, or a fragment without the header.
    Opaque,
}

/// TCP's SYN flag.
pub const TCP_SYN: u8 = 0x02;
/// TCP's ACK flag.
pub const TCP_ACK: u8 = 0x10;

/// A parsed packet; `bytes` is cut to the packet's own length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The whole packet without what follows it.
    pub bytes: &'a [u8],
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IANA number of the upper layer.
    pub protocol: u8,
    /// Which fragment.
    pub fragment: Fragment,
    /// What follows the IP headers.
    pub upper: Upper,
    /// Where the upper layer begins in `bytes`.
    pub upper_at: usize,
}

/// The length that the packet names in its own header. Bytes beyond it are
/// padding. `None` when the header is cut off, of another version, or names
/// more bytes than there are.
pub fn stated_len(bytes: &[u8]) -> Option<usize> {
    let len = match bytes.first()? >> 4 {
        4 => usize::from(u16_at(bytes, 2)?),
        6 => IPV6_HEADER_LEN + usize::from(u16_at(bytes, 4)?),
        _ => return None,
    };
    (len <= bytes.len()).then_some(len)
}

/// Reads as much of a packet as an ICMP error quotes. Unlike
/// [`Packet::parse`] it does not expect the whole packet to be there.
fn quoted(bytes: &[u8]) -> Option<icmp::Quoted> {
    let (source, destination, protocol, fragment, upper_at) = match bytes.first()? >> 4 {
        4 => {
            let word = u16_at(bytes, 6)?;
            let fragment = fragment_kind(word & 0x2000 != 0, word & 0x1FFF);
            let upper_at = usize::from(bytes.first()? & 0x0F) * 4;
            if upper_at < IPV4_HEADER_LEN {
                return None;
            }
            let (source, destination) = (ipv4_at(bytes, 12)?, ipv4_at(bytes, 16)?);
            (source.into(), destination.into(), *bytes.get(9)?, fragment, upper_at)
        }
        6 => {
            let (protocol, fragment, upper_at) = extension_headers(bytes)?;
            let (source, destination) = (ipv6_at(bytes, 8)?, ipv6_at(bytes, 24)?);
            (source.into(), destination.into(), protocol, fragment, upper_at)
        }
        _ => return None,
    };
    // 8 bytes hold ports and identifiers; flags are not needed, so the rest of
    // the header is taken for zero.
    let mut head = [0; IPV4_HEADER_LEN];
    head.get_mut(..8)?.copy_from_slice(bytes.get(upper_at..)?.get(..8)?);
    let upper = upper(protocol, fragment, &head)?;
    Some(icmp::Quoted { source, destination, protocol, upper, head_len: upper_at + 8 })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*field))
}

fn ipv4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn ipv6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?))
}

impl<'a> Packet<'a> {
    /// Reads a packet; what follows its own length is ignored.
    ///
    /// # Errors
    ///
    /// [`MalformedPacket`], see the module head.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MalformedPacket> {
        let len = stated_len(bytes).ok_or(MalformedPacket)?;
        let bytes = bytes.get(..len).ok_or(MalformedPacket)?;
        let parsed = match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::parse_v4(bytes),
            _ => Self::parse_v6(bytes),
        };
        parsed.ok_or(MalformedPacket)
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let upper_at = usize::from(bytes.first()? & 0x0F) * 4;
        if upper_at < IPV4_HEADER_LEN || upper_at > bytes.len() {
            return None;
        }
        let word = u16_at(bytes, 6)?;
        let (more, offset) = (word & 0x2000 != 0, word & 0x1FFF);
        let fragment = fragment_kind(more, offset);
        let protocol = *bytes.get(9)?;
        Some(Self {
            bytes,
            source: ipv4_at(bytes, 12)?.into(),
            destination: ipv4_at(bytes, 16)?.into(),
            protocol,
            fragment,
            upper: upper(protocol, fragment, bytes.get(upper_at..)?)?,
            upper_at,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let (protocol, fragment, upper_at) = extension_headers(bytes)?;
        Some(Self {
            bytes,
            source: ipv6_at(bytes, 8)?.into(),
            destination: ipv6_at(bytes, 24)?.into(),
            protocol,
            fragment,
            upper: upper(protocol, fragment, bytes.get(upper_at..)?)?,
            upper_at,
        })
    }

    /// Bytes of the upper layer.
    pub fn upper_bytes(&self) -> &'a [u8] {
        self.bytes.get(self.upper_at..).unwrap_or_default()
    }

    /// Whether this is a TCP segment that opens a connection.
    pub const fn opens_tcp(&self) -> bool {
        matches!(self.upper, Upper::Tcp { flags, .. } if flags & (TCP_SYN | TCP_ACK) == TCP_SYN)
    }

    /// Whether this is IPv4.
    pub const fn is_v4(&self) -> bool {
        matches!(self.source, IpAddr::V4(_))
    }
}

const fn fragment_kind(more: bool, offset: u16) -> Fragment {
    match (more, offset) {
        (false, 0) => Fragment::Whole,
        (true, 0) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// Walks IPv6 extension headers to `(protocol, fragment, offset)`.
fn extension_headers(bytes: &[u8]) -> Option<(u8, Fragment, usize)> {
    let mut next = *bytes.get(6)?;
    let mut at = IPV6_HEADER_LEN;
    let mut fragment = Fragment::Whole;
    for position in 0..=extension::MOST {
        let len = match next {
            extension::HOP_BY_HOP if position > 0 => return None,
            extension::HOP_BY_HOP
            | extension::DESTINATION
            | extension::MOBILITY
            | extension::HOST_IDENTITY
            | extension::SHIM6 => 8 * (usize::from(*bytes.get(at + 1)?) + 1),
            extension::ROUTING => {
                // Type 0 lets a sender choose the way (RFC 5095).
                if *bytes.get(at + 2)? == 0 {
                    return None;
                }
                8 * (usize::from(*bytes.get(at + 1)?) + 1)
            }
            extension::AUTHENTICATION => 4 * (usize::from(*bytes.get(at + 1)?) + 2),
            extension::FRAGMENT => {
                // A second one would hide which fragment this is.
                if fragment != Fragment::Whole {
                    return None;
                }
                let word = u16_at(bytes, at + 2)?;
                fragment = fragment_kind(word & 1 != 0, word >> 3);
                if fragment == Fragment::Later {
                    return Some((*bytes.get(at)?, fragment, at.checked_add(8)?));
                }
                8
            }
            protocol => return Some((protocol, fragment, at)),
        };
        next = *bytes.get(at)?;
        at = at.checked_add(len)?;
        if at > bytes.len() {
            return None;
        }
    }
    None
}

/// Reads what decides of the upper layer. `None` when a whole packet or first
/// fragment does not hold it.
fn upper(protocol: u8, fragment: Fragment, bytes: &[u8]) -> Option<Upper> {
    if fragment == Fragment::Later {
        return Some(Upper::Opaque);
    }
    Some(match protocol {
        protocol::TCP => Upper::Tcp {
            source: u16_at(bytes, 0)?,
            destination: u16_at(bytes, 2)?,
            flags: *bytes.get(..20)?.get(13)?,
        },
        protocol::UDP | protocol::UDP_LITE => {
            bytes.get(..8)?;
            ports(bytes)?
        }
        protocol::SCTP | protocol::DCCP => {
            bytes.get(..12)?;
            ports(bytes)?
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let kind = *bytes.get(..8)?.first()?;
            Upper::Icmp {
                kind,
                code: *bytes.get(1)?,
                identifier: if icmp::is_echo(protocol, kind) { u16_at(bytes, 4)? } else { 0 },
            }
        }
        _ => Upper::Opaque,
    })
}

fn ports(bytes: &[u8]) -> Option<Upper> {
    Some(Upper::Ports { source: u16_at(bytes, 0)?, destination: u16_at(bytes, 2)? })
}
