//! ICMP errors that a router answers with: too big, denied, unreachable
//! (RFC 792, RFC 1191, RFC 4443).
//!
//! The answer's source is the refused packet's destination: an address of our
//! own would be dropped as a martian by a Linux host, and the error is about
//! that destination anyway.

use core::net::IpAddr;

use super::checksum::Sum;
use super::{Fragment, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Packet, Upper, protocol};

/// Echo request and reply of ICMP.
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Echo request and reply of ICMPv6.
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

const ICMP_HEADER_LEN: usize = 8;
/// An ICMP error is at most this long (RFC 1812 section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// An ICMPv6 error is at most this long (RFC 4443 section 2.4 c).
const LONGEST_V6: usize = 1280;

/// What is wrong with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Larger than the way to its destination takes.
    TooBig {
        /// Bytes that would pass.
        mtu: u16,
    },
    /// A rule forbids it.
    Prohibited,
    /// Nothing is known of its destination.
    Unreachable,
}

impl Problem {
    /// Type, code and the second header word of ICMP.
    const fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::TooBig { mtu } => (3, 4, mtu as u32),
            Self::Prohibited => (3, 13, 0),
            Self::Unreachable => (3, 1, 0),
        }
    }

    /// The same of ICMPv6.
    const fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::TooBig { mtu } => (2, 0, mtu as u32),
            Self::Prohibited => (1, 1, 0),
            Self::Unreachable => (1, 3, 0),
        }
    }
}

/// Whether messages of this type carry an echo identifier.
pub const fn is_echo(protocol: u8, kind: u8) -> bool {
    match protocol {
        protocol::ICMP => matches!(kind, ECHO_REQUEST | ECHO_REPLY),
        _ => matches!(kind, ECHO_REQUEST_V6 | ECHO_REPLY_V6),
    }
}

/// Whether this asks for an echo.
pub const fn is_echo_request(protocol: u8, kind: u8) -> bool {
    match protocol {
        protocol::ICMP => kind == ECHO_REQUEST,
        _ => kind == ECHO_REQUEST_V6,
    }
}

/// Whether this is an error about another packet, which it quotes.
pub const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        // Unreachable, source quench, redirect, time exceeded, parameter.
        protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        _ => kind < 128,
    }
}

/// Whether a redirect: it would change the receiver's routes.
pub const fn is_redirect(protocol: u8, kind: u8) -> bool {
    match protocol {
        protocol::ICMP => kind == 5,
        _ => kind == 137,
    }
}

/// Writes the ICMP error about `packet` into `out` and gives its length.
/// `None` when no error may be sent (RFC 1122 section 3.2.2: not about an
/// error, a later fragment, or a packet from or to no single host) or when
/// there is no room for header and the first 8 bytes of the upper layer.
pub fn answer(packet: &Packet<'_>, problem: Problem, out: &mut [u8]) -> Option<usize> {
    if packet.fragment == Fragment::Later || !is_answerable(packet) {
        return None;
    }
    if packet.is_v4() { answer_v4(packet, problem, out) } else { answer_v6(packet, problem, out) }
}

fn is_answerable(packet: &Packet<'_>) -> bool {
    if packet.source.is_unspecified()
        || packet.source.is_multicast()
        || packet.source.is_loopback()
        || packet.destination.is_unspecified()
        || packet.destination.is_multicast()
    {
        return false;
    }
    if let IpAddr::V4(destination) = packet.destination
        && destination.is_broadcast()
    {
        return false;
    }
    match packet.upper {
        Upper::Icmp { kind, .. } => {
            !is_error(packet.protocol, kind) && !is_redirect(packet.protocol, kind)
        }
        _ => true,
    }
}

fn answer_v4(packet: &Packet<'_>, problem: Problem, out: &mut [u8]) -> Option<usize> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (packet.source, packet.destination) else {
        return None;
    };
    let head = IPV4_HEADER_LEN + ICMP_HEADER_LEN;
    let quoted = quoted_len(packet, head, LONGEST_V4, out.len())?;
    let len = head + quoted;
    let out = out.get_mut(..len)?;
    let (header, icmp) = out.split_at_mut_checked(IPV4_HEADER_LEN)?;

    header.copy_from_slice(&[0; IPV4_HEADER_LEN]);
    header[0] = 0x45;
    // Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
    header[1] = 0xC0;
    header[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
    header[8] = 64;
    header[9] = protocol::ICMP;
    header[12..16].copy_from_slice(&destination.octets());
    header[16..20].copy_from_slice(&source.octets());
    let checksum = Sum::new().bytes(header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());

    write_icmp(problem.v4(), packet.bytes.get(..quoted)?, icmp);
    let checksum = Sum::new().bytes(icmp).finish();
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

fn answer_v6(packet: &Packet<'_>, problem: Problem, out: &mut [u8]) -> Option<usize> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
        return None;
    };
    let head = IPV6_HEADER_LEN + ICMP_HEADER_LEN;
    let quoted = quoted_len(packet, head, LONGEST_V6, out.len())?;
    let len = head + quoted;
    let out = out.get_mut(..len)?;
    let (header, icmp) = out.split_at_mut_checked(IPV6_HEADER_LEN)?;

    header.copy_from_slice(&[0; IPV6_HEADER_LEN]);
    header[0] = 0x60;
    header[4..6].copy_from_slice(&u16::try_from(icmp.len()).ok()?.to_be_bytes());
    header[6] = protocol::ICMPV6;
    header[7] = 64;
    header[8..24].copy_from_slice(&destination.octets());
    header[24..40].copy_from_slice(&source.octets());

    write_icmp(problem.v6(), packet.bytes.get(..quoted)?, icmp);
    let checksum = Sum::new()
        .pseudo_header(destination.into(), source.into(), protocol::ICMPV6, icmp.len())
        .bytes(icmp)
        .finish();
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

/// How much of the packet fits the answer; the IP headers and 8 bytes at least.
fn quoted_len(packet: &Packet<'_>, head: usize, longest: usize, room: usize) -> Option<usize> {
    let room = room.min(longest).checked_sub(head)?;
    let least = (packet.upper_at + 8).min(packet.bytes.len());
    (room >= least).then(|| room.min(packet.bytes.len()))
}

/// Fills type, code, second word and quoted packet; the checksum is zero.
fn write_icmp((kind, code, word): (u8, u8, u32), quoted: &[u8], icmp: &mut [u8]) {
    icmp[0] = kind;
    icmp[1] = code;
    icmp[2..4].copy_from_slice(&[0; 2]);
    icmp[4..8].copy_from_slice(&word.to_be_bytes());
    icmp[ICMP_HEADER_LEN..].copy_from_slice(quoted);
}

/// The same for a packet that is not parsed yet.
pub fn answer_bytes(packet: &[u8], problem: Problem, out: &mut [u8]) -> Option<usize> {
    answer(&Packet::parse(packet).ok()?, problem, out)
}

/// What an ICMP error says about the packet that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its source: who the error is for.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its upper layer.
    pub protocol: u8,
    /// What is left of its upper-layer header.
    pub upper: Upper,
    /// Its IP headers and the 8 bytes behind them: how much of the quote was
    /// read. Payload may follow.
    pub head_len: usize,
}

/// How much of an ICMP message is header: of an error also what [`quoted`]
/// reads of the packet inside, and nothing of that packet's payload.
pub fn head_len(packet: &Packet<'_>) -> usize {
    ICMP_HEADER_LEN + quoted(packet).map_or(0, |quoted| quoted.head_len)
}

/// Reads the packet that an ICMP error quotes: IP header and 8 bytes suffice.
/// `None` when this is no error, or the quote is not readable.
pub fn quoted(packet: &Packet<'_>) -> Option<Quoted> {
    let Upper::Icmp { kind, .. } = packet.upper else {
        return None;
    };
    if !is_error(packet.protocol, kind) || is_redirect(packet.protocol, kind) {
        return None;
    }
    super::quoted(packet.upper_bytes().get(ICMP_HEADER_LEN..)?)
}
