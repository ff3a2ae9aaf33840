//! Probes between two agents: what tries an address before data does.
//!
//! They share the WireGuard socket; their first byte is none of WireGuard,
//! STUN and TURN (RFC 7983's ranges are left free). A probe is authenticated
//! and not encrypted, so it carries no key, PSK or name. All numbers are
//! little-endian.
//!
//! ```text
//!  0  u8   0x57
//!  1  u8   version << 4 | kind
//!  2  u8   flags
//!  3  u8   number in its round
//!  4  u32  receiver: the handle that the receiver gave; 0 = not known
//!  8  u32  epoch: id of the call; without a receiver a hint at the sender
//! 12  u64  transaction
//! 20  u32  the sender's clock in milliseconds
//! 24  u32  reserved, zero
//! 28       body
//!     16   MAC under the key of the pair, over all before it
//! ```
//!
//! Ping and pong are equally long, so that who makes a device answer gains
//! nothing: 20 bytes of body, in a pong the address that the ping came from
//! (16, IPv4 mapped into IPv6), its port (2) and how long the answer took in
//! milliseconds (2), in a ping zero.
//!
//! A call, its answer and `go` carry the body of their item
//! ([`crate::signal::put`]), whose `peer` is the sender. The call is the longest
//! probe there is, so that no answer to it is longer.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First byte of every probe.
pub const PROBE: u8 = 0x57;

/// The version that this crate writes and reads.
pub const PROBE_VERSION: u8 = 1;

/// Bytes before the body.
pub const PROBE_HEADER_LEN: usize = 28;

/// Bytes of the MAC.
pub const PROBE_MAC_LEN: usize = 16;

/// Length of a ping and of a pong.
pub const PING_LEN: usize = PROBE_HEADER_LEN + ECHO_LEN + PROBE_MAC_LEN;

/// The longest probe: a signal of [`crate::signal::SIGNAL_LEN`] bytes.
pub const PROBE_LEN: usize = PROBE_HEADER_LEN + crate::signal::SIGNAL_LEN + PROBE_MAC_LEN;

const ECHO_LEN: usize = 20;
const LINE_LEN: usize = 24;

/// What a probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ProbeKind {
    /// Answer, if you hear me.
    Ping = 1,
    /// I heard you, and this is where you came from.
    Pong = 2,
    /// [`crate::signal::Call`], over a path that stands.
    Call = 3,
    /// [`crate::signal::CallAck`], likewise.
    CallAck = 4,
    /// [`crate::signal::Go`], likewise.
    Go = 5,
    /// This path is not used any more.
    Bye = 6,
    /// Opens the sender's own NAT and is not answered.
    Open = 7,
    /// [`Line`]: with number 0 the receiver is asked for its own, which comes with
    /// number 1 and the same transaction.
    Line = 8,
}

impl ProbeKind {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Ping,
            2 => Self::Pong,
            3 => Self::Call,
            4 => Self::CallAck,
            5 => Self::Go,
            6 => Self::Bye,
            7 => Self::Open,
            8 => Self::Line,
            _ => return None,
        })
    }

    /// Bytes of body: exactly, or at most for those that carry a signal.
    const fn takes(self, body: usize) -> bool {
        match self {
            Self::Ping | Self::Pong => body == ECHO_LEN,
            Self::Bye | Self::Open => body == 0,
            Self::Line => body == LINE_LEN,
            Self::Call | Self::CallAck | Self::Go => body != 0 && body <= crate::signal::SIGNAL_LEN,
        }
    }
}

/// Why bytes are not a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeError {
    /// Another first byte: something else on the same socket.
    NotProbe,
    /// A version that is not spoken here.
    Version,
    /// Unknown kind, wrong length for the kind, or a reserved bit.
    Malformed,
    /// No room in the caller's buffer.
    NoRoom,
}

/// What stands before the body, without kind and version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeHead {
    /// The handle that the receiver gave in its call; 0 = not known.
    pub receiver: u32,
    /// Id of the call; with `receiver` 0 the first four bytes of BLAKE2s of the
    /// sender's WireGuard key, which is looked up among known peers alone.
    pub epoch: u32,
    /// Names one ping and its pong.
    pub transaction: u64,
    /// The sender's clock in milliseconds; wraps around.
    pub clock_ms: u32,
    /// It came, or is to go, over a relay.
    pub relayed: bool,
    /// Number in its round.
    pub number: u8,
}

const RELAYED: u8 = 1;

/// Where a relay keeps a line to a device while the coordinator is away: the
/// addresses of an allocation, one of each family. 24 bytes: address and port of
/// IPv4, then of IPv6; zeroes where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Line([u8; LINE_LEN]);

impl Line {
    /// No line.
    pub const NONE: Self = Self([0; LINE_LEN]);

    /// The first address of each family.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut line = Self::NONE;
        for address in addresses {
            let port = address.port().to_le_bytes();
            let at = if address.is_ipv4() { 0 } else { 6 };
            if line.address(at).is_some() {
                continue;
            }
            match address.ip() {
                IpAddr::V4(ip) => line.0[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => line.0[6..22].copy_from_slice(&ip.octets()),
            }
            let at = if at == 0 { 4 } else { 22 };
            line.0[at..at + 2].copy_from_slice(&port);
        }
        line
    }

    /// The line that these bytes say.
    pub const fn from_bytes(bytes: [u8; LINE_LEN]) -> Self {
        Self(bytes)
    }

    /// As it travels.
    pub const fn as_bytes(&self) -> &[u8; LINE_LEN] {
        &self.0
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        [self.address(0), self.address(6)].into_iter().flatten()
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.addresses().next().is_none()
    }

    fn address(&self, at: usize) -> Option<SocketAddr> {
        let (ip, port): (IpAddr, _) = if at == 0 {
            (Ipv4Addr::from(*self.0.first_chunk::<4>()?).into(), [self.0[4], self.0[5]])
        } else {
            let ip = self.0.get(6..)?.first_chunk::<16>()?;
            (Ipv6Addr::from(*ip).into(), [self.0[22], self.0[23]])
        };
        let port = u16::from_le_bytes(port);
        (port != 0).then_some(SocketAddr::new(ip, port))
    }
}

/// A view of a probe whose length fits its kind. Its MAC was not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    kind: ProbeKind,
    bytes: &'a [u8],
}

impl<'a> Probe<'a> {
    /// Checks first byte, version, kind, length and reserved bits.
    ///
    /// # Errors
    ///
    /// [`ProbeError`] names the first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ProbeError> {
        let Some(&[PROBE, kind, flags]) = bytes.first_chunk::<3>() else {
            return Err(ProbeError::NotProbe);
        };
        if kind >> 4 != PROBE_VERSION {
            return Err(ProbeError::Version);
        }
        let kind = ProbeKind::from_bits(kind & 0x0F).ok_or(ProbeError::Malformed)?;
        let body = bytes.len().checked_sub(PROBE_HEADER_LEN + PROBE_MAC_LEN);
        let probe = Self { kind, bytes };
        if !body.is_some_and(|body| kind.takes(body))
            || flags & !RELAYED != 0
            || probe.u32_at(24) != 0
        {
            return Err(ProbeError::Malformed);
        }
        Ok(probe)
    }

    /// What it says.
    pub const fn kind(&self) -> ProbeKind {
        self.kind
    }

    /// Everything before the body.
    pub fn head(&self) -> ProbeHead {
        let mut transaction = [0; 8];
        transaction.copy_from_slice(&self.bytes[12..20]);
        ProbeHead {
            receiver: self.u32_at(4),
            epoch: self.u32_at(8),
            transaction: u64::from_le_bytes(transaction),
            clock_ms: self.u32_at(20),
            relayed: self.bytes[2] & RELAYED != 0,
            number: self.bytes[3],
        }
    }

    /// What lies between header and MAC.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[PROBE_HEADER_LEN..self.bytes.len() - PROBE_MAC_LEN]
    }

    /// What the MAC is made of, and the MAC.
    pub fn authenticated(&self) -> (&'a [u8], &'a [u8; PROBE_MAC_LEN]) {
        let (covered, mac) = self.bytes.split_at(self.bytes.len() - PROBE_MAC_LEN);
        (covered, mac.first_chunk().unwrap_or(&[0; PROBE_MAC_LEN]))
    }

    /// Of a pong: where its ping came from, and how long the answer took in
    /// milliseconds.
    pub fn echo(&self) -> Option<(SocketAddr, u16)> {
        let (address, rest) = self.body().split_first_chunk::<16>()?;
        let &[p0, p1, d0, d1] = rest.first_chunk::<4>()?;
        let ip = Ipv6Addr::from(*address).to_canonical();
        let source = SocketAddr::new(ip, u16::from_le_bytes([p0, p1]));
        (self.kind == ProbeKind::Pong).then_some((source, u16::from_le_bytes([d0, d1])))
    }

    /// What a [`ProbeKind::Line`] says.
    pub fn line(&self) -> Option<Line> {
        let body = self.body().first_chunk().filter(|_| self.kind == ProbeKind::Line)?;
        Some(Line(*body))
    }

    fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_le_bytes(bytes)
    }
}

/// Writes a probe; returns how many bytes of `out` are to be MACed. The MAC goes
/// behind them.
fn write(
    kind: ProbeKind,
    head: &ProbeHead,
    body: &[u8],
    out: &mut [u8],
) -> Result<usize, ProbeError> {
    let covered = PROBE_HEADER_LEN + body.len();
    let room = out.get_mut(..covered + PROBE_MAC_LEN).ok_or(ProbeError::NoRoom)?;
    room[0] = PROBE;
    room[1] = PROBE_VERSION << 4 | kind as u8;
    room[2] = if head.relayed { RELAYED } else { 0 };
    room[3] = head.number;
    room[4..8].copy_from_slice(&head.receiver.to_le_bytes());
    room[8..12].copy_from_slice(&head.epoch.to_le_bytes());
    room[12..20].copy_from_slice(&head.transaction.to_le_bytes());
    room[20..24].copy_from_slice(&head.clock_ms.to_le_bytes());
    room[24..28].fill(0);
    room[28..covered].copy_from_slice(body);
    Ok(covered)
}

/// Writes a probe with the MAC that `mac` makes; returns its length.
///
/// # Errors
///
/// [`ProbeError::NoRoom`]; [`ProbeError::Malformed`] for a body that the kind
/// does not take.
pub fn emit(
    kind: ProbeKind,
    head: &ProbeHead,
    body: &[u8],
    out: &mut [u8],
    mac: impl FnOnce(&[u8]) -> [u8; PROBE_MAC_LEN],
) -> Result<usize, ProbeError> {
    if !kind.takes(body.len()) {
        return Err(ProbeError::Malformed);
    }
    let covered = write(kind, head, body, out)?;
    let (before, after) = out.split_at_mut(covered);
    after[..PROBE_MAC_LEN].copy_from_slice(&mac(before));
    Ok(covered + PROBE_MAC_LEN)
}

/// The body of a ping.
pub const PING_BODY: [u8; ECHO_LEN] = [0; ECHO_LEN];

/// The body of a pong: where the ping came from, and how long the answer took.
pub fn pong_body(source: SocketAddr, delay_ms: u16) -> [u8; ECHO_LEN] {
    let mut body = [0; ECHO_LEN];
    let ip = match source.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    body[..16].copy_from_slice(&ip.octets());
    body[16..18].copy_from_slice(&source.port().to_le_bytes());
    body[18..].copy_from_slice(&delay_ms.to_le_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: ProbeHead = ProbeHead {
        receiver: 0x0403_0201,
        epoch: 0x0807_0605,
        transaction: 0x1817_1615_1413_1211,
        clock_ms: 0x2423_2221,
        relayed: true,
        number: 7,
    };

    fn written(kind: ProbeKind, body: &[u8]) -> Vec<u8> {
        let mut out = [0xEE; PROBE_LEN];
        let len = emit(kind, &HEAD, body, &mut out, |covered| {
            let mut mac = [0; 16];
            covered.iter().enumerate().for_each(|(at, byte)| mac[at % 16] ^= byte);
            mac
        });
        out[..len.unwrap()].to_vec()
    }

    #[test]
    fn every_kind_survives_the_round_trip() {
        for source in ["192.0.2.1:9", "[2001:db8::1]:65535"] {
            let source: SocketAddr = source.parse().unwrap();
            let bytes = written(ProbeKind::Pong, &pong_body(source, 517));
            assert_eq!(bytes.len(), PING_LEN);
            let probe = Probe::parse(&bytes).unwrap();
            assert_eq!((probe.kind(), probe.head()), (ProbeKind::Pong, HEAD));
            assert_eq!(probe.echo(), Some((source, 517)));
            let (covered, mac) = probe.authenticated();
            assert_eq!([covered, mac].concat(), bytes);
        }
        let ping = written(ProbeKind::Ping, &PING_BODY);
        assert_eq!(ping.len(), PING_LEN, "an answer is not longer than its question");
        assert_eq!(Probe::parse(&ping).unwrap().echo(), None);
        for kind in [ProbeKind::Bye, ProbeKind::Open] {
            assert_eq!(Probe::parse(&written(kind, &[])).unwrap().kind(), kind);
        }
        let (v4, v6) = ("192.0.2.1:9".parse().unwrap(), "[2001:db8::1]:65535".parse().unwrap());
        for addresses in [vec![], vec![v4], vec![v6], vec![v4, v6]] {
            let line = Line::new(addresses.iter().copied());
            let bytes = written(ProbeKind::Line, line.as_bytes());
            let read = Probe::parse(&bytes).unwrap().line().unwrap();
            assert_eq!(read.addresses().collect::<Vec<_>>(), addresses);
            assert_eq!(read.is_none(), addresses.is_empty());
        }
        assert_eq!(Line::new([v4, "192.0.2.2:9".parse().unwrap()]), Line::new([v4]));
        for (kind, len) in [(ProbeKind::Call, 256), (ProbeKind::CallAck, 1), (ProbeKind::Go, 4)] {
            let body = vec![9; len];
            let bytes = written(kind, &body);
            let probe = Probe::parse(&bytes).unwrap();
            assert_eq!((probe.kind(), probe.body()), (kind, &*body));
        }
    }

    #[test]
    fn what_is_cut_or_altered_in_its_form_is_refused() {
        let ping = written(ProbeKind::Ping, &PING_BODY);
        for len in 0..ping.len() {
            assert!(Probe::parse(&ping[..len]).is_err(), "{len}");
        }
        let altered = |at: usize, byte: u8| {
            let mut bytes = ping.clone();
            bytes[at] = byte;
            Probe::parse(&bytes).err()
        };
        assert_eq!(altered(0, 0x56), Some(ProbeError::NotProbe));
        assert_eq!(altered(1, 0x21), Some(ProbeError::Version));
        assert_eq!(altered(1, 0x10), Some(ProbeError::Malformed));
        assert_eq!(altered(1, 0x18), Some(ProbeError::Malformed), "too short for a line");
        assert_eq!(altered(1, 0x19), Some(ProbeError::Malformed));
        assert_eq!(altered(1, 0x17), Some(ProbeError::Malformed), "too long for an opener");
        assert_eq!(altered(2, 2), Some(ProbeError::Malformed));
        assert_eq!(altered(27, 1), Some(ProbeError::Malformed));
        let longer = [&ping[..], &[0]].concat();
        assert_eq!(Probe::parse(&longer).err(), Some(ProbeError::Malformed));
    }

    #[test]
    fn no_body_that_does_not_fit_is_written() {
        let mut out = [0; PROBE_LEN + 8];
        let mut put = |kind, len: usize, room: usize| {
            emit(kind, &HEAD, &[1; 300][..len], &mut out[..room], |_| [0; 16])
        };
        assert_eq!(put(ProbeKind::Call, 257, PROBE_LEN + 8), Err(ProbeError::Malformed));
        assert_eq!(put(ProbeKind::Call, 0, PROBE_LEN), Err(ProbeError::Malformed));
        assert_eq!(put(ProbeKind::Bye, 1, PROBE_LEN), Err(ProbeError::Malformed));
        for room in 0..PING_LEN {
            assert_eq!(put(ProbeKind::Ping, 20, room), Err(ProbeError::NoRoom));
        }
        assert_eq!(put(ProbeKind::Ping, 20, PING_LEN), Ok(PING_LEN));
    }
}
