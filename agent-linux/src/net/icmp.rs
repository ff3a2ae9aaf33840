//! ICMP echo: the packet (RFC 792, RFC 4443), and a socket for it. The daemon
//! uses the packet alone, where the caller may not open such a socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::net::socket::{self, RawAddress};
use crate::os::{check_len, would_block};

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const ICMP_HEADER_LEN: usize = 8;
const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const PROTOCOL_ICMP: u8 = 1;
const NEXT_HEADER_ICMPV6: u8 = 58;
const HOP_LIMIT: u8 = 64;

/// Headers of an echo, in bytes: IPv4 20, IPv6 40, ICMP 8.
pub(crate) const HEADERS_V4: u16 = (IPV4_HEADER_LEN + ICMP_HEADER_LEN) as u16;
pub(crate) const HEADERS_V6: u16 = (IPV6_HEADER_LEN + ICMP_HEADER_LEN) as u16;

/// Which echo: the sender's number and the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Echo {
    pub(crate) identifier: u16,
    pub(crate) sequence: u16,
}

/// The Internet checksum (RFC 1071) over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            let high = u32::from(pair[0]) << 8;
            sum += high | pair.get(1).map_or(0, |&low| u32::from(low));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// Writes the ICMP message without a checksum; the kernel's sockets fill that in.
fn message(kind: u8, echo: Echo, payload: usize) -> Vec<u8> {
    let mut out = vec![0; ICMP_HEADER_LEN + payload];
    out[0] = kind;
    out[4..6].copy_from_slice(&echo.identifier.to_be_bytes());
    out[6..8].copy_from_slice(&echo.sequence.to_be_bytes());
    for (at, byte) in out[ICMP_HEADER_LEN..].iter_mut().enumerate() {
        *byte = at as u8;
    }
    out
}

/// A whole echo request from an overlay address to another of the same family,
/// with `payload` bytes of data; `None` for two families.
pub(crate) fn packet(from: IpAddr, to: IpAddr, echo: Echo, payload: usize) -> Option<Vec<u8>> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(packet_v4(from, to, echo, payload)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(packet_v6(from, to, echo, payload)),
        _ => None,
    }
}

fn packet_v4(from: Ipv4Addr, to: Ipv4Addr, echo: Echo, payload: usize) -> Vec<u8> {
    let mut body = message(ECHO_REQUEST_V4, echo, payload);
    let sum = checksum(&[&body]);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = vec![0; IPV4_HEADER_LEN];
    out[0] = 0x45;
    let len = (IPV4_HEADER_LEN + body.len()) as u16;
    out[2..4].copy_from_slice(&len.to_be_bytes());
    out[8] = HOP_LIMIT;
    out[9] = PROTOCOL_ICMP;
    out[12..16].copy_from_slice(&from.octets());
    out[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&[&out]);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&body);
    out
}

fn packet_v6(from: Ipv6Addr, to: Ipv6Addr, echo: Echo, payload: usize) -> Vec<u8> {
    let mut body = message(ECHO_REQUEST_V6, echo, payload);
    let mut pseudo = [0; 8];
    pseudo[..4].copy_from_slice(&(body.len() as u32).to_be_bytes());
    pseudo[7] = NEXT_HEADER_ICMPV6;
    let sum = checksum(&[&from.octets(), &to.octets(), &pseudo, &body]);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = vec![0; IPV6_HEADER_LEN];
    out[0] = 0x60;
    out[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
    out[6] = NEXT_HEADER_ICMPV6;
    out[7] = HOP_LIMIT;
    out[8..24].copy_from_slice(&from.octets());
    out[24..40].copy_from_slice(&to.octets());
    out.extend_from_slice(&body);
    out
}

/// Reads an echo reply out of an IP packet: who answered what.
pub(crate) fn read_reply(packet: &[u8]) -> Option<(IpAddr, Echo)> {
    let (from, body) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            if *packet.get(9)? != PROTOCOL_ICMP {
                return None;
            }
            let from = packet.get(12..16)?.first_chunk::<4>()?;
            (IpAddr::V4(Ipv4Addr::from(*from)), packet.get(header..)?)
        }
        6 => {
            if *packet.get(6)? != NEXT_HEADER_ICMPV6 {
                return None;
            }
            let from = packet.get(8..24)?.first_chunk::<16>()?;
            (IpAddr::V6(Ipv6Addr::from(*from)), packet.get(IPV6_HEADER_LEN..)?)
        }
        _ => return None,
    };
    Some((from, read_message(body, from.is_ipv6())?))
}

/// Reads an echo reply out of an ICMP message.
fn read_message(body: &[u8], v6: bool) -> Option<Echo> {
    let head = body.first_chunk::<ICMP_HEADER_LEN>()?;
    let wanted = if v6 { ECHO_REPLY_V6 } else { ECHO_REPLY_V4 };
    (head[0] == wanted && head[1] == 0).then(|| Echo {
        identifier: u16::from_be_bytes([head[4], head[5]]),
        sequence: u16::from_be_bytes([head[6], head[7]]),
    })
}

/// What an ICMP error said about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A rule forbids it.
    Prohibited,
    /// It does not fit; what does, in bytes, if the kernel knows.
    TooBig(Option<u16>),
    /// It did not arrive.
    Lost,
}

/// What arrived on an [`EchoSocket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Nothing,
    /// The reply to the request with this sequence.
    Reply(u16),
    /// An ICMP error.
    Told(Told),
}

/// A socket that sends echo requests and hears the replies.
pub(crate) struct EchoSocket {
    fd: OwnedFd,
    to: SocketAddr,
    identifier: u16,
    /// A raw IPv4 socket hands out the IP header as well.
    raw: bool,
}

impl EchoSocket {
    /// Opens a ping socket (`ping_group_range`) or, with the right to, a raw one.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` where neither is allowed.
    pub(crate) fn open(to: IpAddr, identifier: u16, interface: &str) -> io::Result<Self> {
        let address = SocketAddr::new(to, 0);
        let protocol = if to.is_ipv6() { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
        let open = |kind| socket::open(&address, kind, protocol);
        let (fd, raw) = match open(libc::SOCK_DGRAM) {
            Ok(fd) => (fd, false),
            Err(_) => (open(libc::SOCK_RAW)?, true),
        };
        bind_to_interface(fd.as_fd(), interface);
        socket::connect(fd.as_fd(), address)?;
        // A ping socket's identifier is the kernel's choice.
        let identifier = if raw { identifier } else { socket::local_address(fd.as_fd())?.port() };
        Ok(Self { fd, to: address, identifier, raw })
    }

    pub(crate) const fn is_v6(&self) -> bool {
        self.to.is_ipv6()
    }

    /// Reads and clears what ICMP said about earlier requests.
    ///
    /// # Errors
    ///
    /// What `getsockopt(2)` reports.
    pub(crate) fn take_error(&self) -> io::Result<Option<Told>> {
        match socket::take_error(self.fd.as_fd()) {
            Ok(()) => Ok(None),
            Err(error) => self.told(error).map(Some),
        }
    }

    /// What an ICMP error was about. The kernel hands those to a connected
    /// socket that it calls final: "prohibited" is `EHOSTUNREACH` in IPv4 and
    /// `EACCES` in IPv6, "too big" is `EMSGSIZE`.
    fn told(&self, error: io::Error) -> io::Result<Told> {
        match error.raw_os_error() {
            Some(libc::EHOSTUNREACH | libc::EACCES) => Ok(Told::Prohibited),
            Some(libc::EMSGSIZE) => Ok(Told::TooBig(self.path_mtu())),
            Some(
                libc::ECONNREFUSED
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPROTO,
            ) => Ok(Told::Lost),
            _ => Err(error),
        }
    }

    /// The largest packet that the kernel knows to pass, in bytes.
    pub(crate) fn path_mtu(&self) -> Option<u16> {
        let (level, name) = if self.is_v6() {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU)
        };
        socket::get_option(self.fd.as_fd(), level, name).ok()?.try_into().ok()
    }

    /// Sends request number `sequence` with `payload` bytes of data.
    ///
    /// # Errors
    ///
    /// What `sendto(2)` reports: `EMSGSIZE` when it does not fit.
    pub(crate) fn send(&self, sequence: u16, payload: usize) -> io::Result<()> {
        let kind = if self.to.is_ipv6() { ECHO_REQUEST_V6 } else { ECHO_REQUEST_V4 };
        let echo = Echo { identifier: self.identifier, sequence };
        let mut body = message(kind, echo, payload);
        if self.raw && !self.to.is_ipv6() {
            let sum = checksum(&[&body]);
            body[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let raw = RawAddress::from(self.to);
        // SAFETY: pointers and lengths describe the body and the address.
        let result = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                body.as_ptr().cast(),
                body.len(),
                0,
                (&raw const raw.storage).cast(),
                raw.len,
            )
        };
        check_len(result).map(drop)
    }

    /// What arrived next for this socket's requests.
    ///
    /// # Errors
    ///
    /// What `recv(2)` reports, if it is no ICMP error.
    pub(crate) fn receive(&self) -> io::Result<Heard> {
        let mut buffer = [0u8; 2048];
        loop {
            // SAFETY: the pointer and length describe the buffer.
            let result = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            let len = match check_len(result) {
                Ok(len) => len,
                Err(error) if would_block(&error) => return Ok(Heard::Nothing),
                Err(error) => return self.told(error).map(Heard::Told),
            };
            let bytes = &buffer[..len];
            let echo = if self.raw && !self.to.is_ipv6() {
                read_reply(bytes).map(|(_, echo)| echo)
            } else {
                read_message(bytes, self.to.is_ipv6())
            };
            match echo {
                Some(echo) if echo.identifier == self.identifier => {
                    return Ok(Heard::Reply(echo.sequence));
                }
                _ => {}
            }
        }
    }
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Keeps a socket's packets on one interface, where the kernel allows it (since
/// 5.7 for everybody); the route leads there anyway.
fn bind_to_interface(socket: BorrowedFd<'_>, name: &str) {
    // SAFETY: the pointer and length describe the name.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        );
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    /// Turns a request into the reply that its receiver would send.
    fn answer(mut packet: Vec<u8>) -> Vec<u8> {
        if packet[0] >> 4 == 4 {
            packet.copy_within(16..20, 12);
            packet[20] = ECHO_REPLY_V4;
        } else {
            packet.copy_within(24..40, 8);
            packet[40] = ECHO_REPLY_V6;
        }
        packet
    }

    #[test]
    fn a_reply_names_its_request() {
        let echo = Echo { identifier: 0xBEEF, sequence: 7 };
        for (from, to) in [("100.93.0.2", "100.93.0.3"), ("fd5c::2", "fd5c::3")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let request = packet(from, to, echo, 56).unwrap();
            assert_eq!(read_reply(&request), None);
            assert_eq!(read_reply(&answer(request)), Some((to, echo)));
        }
        assert!(packet("1.1.1.1".parse().unwrap(), "::1".parse().unwrap(), echo, 0).is_none());
    }

    #[test]
    fn checksums_verify_to_zero() {
        let echo = Echo { identifier: 1, sequence: 2 };
        let v4 = packet_v4([100, 93, 0, 2].into(), [100, 93, 0, 3].into(), echo, 5);
        assert_eq!(checksum(&[&v4[..20]]), 0);
        assert_eq!(checksum(&[&v4[20..]]), 0);
        let (from, to) = (Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        let v6 = packet_v6(from, to, echo, 5);
        let body = &v6[40..];
        let mut pseudo = [0; 8];
        pseudo[3] = body.len() as u8;
        pseudo[7] = NEXT_HEADER_ICMPV6;
        let parts: [&[u8]; 4] = [&from.octets(), &to.octets(), &pseudo, body];
        assert_eq!(checksum(&parts), 0);
    }

    #[test]
    fn cut_packets_are_no_replies() {
        let echo = Echo { identifier: 1, sequence: 2 };
        let whole = answer(packet_v4([1; 4].into(), [2; 4].into(), echo, 0));
        for len in 0..whole.len() {
            assert_eq!(read_reply(&whole[..len]), None);
        }
        assert_eq!(read_reply(&[0xFF; 64]), None);
    }
}
