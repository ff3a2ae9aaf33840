//! What a packet on a gateway's uplink is there for, told from outside: by where it
//! goes and by the first bytes of what it carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use weft_wire::probe::PROBE;

use crate::net::capture::Frame;

/// Why a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// TCP with the coordinator, or its broker.
    Control,
    /// Where are we seen from?
    Stun,
    /// Between two devices, of ours.
    Probe,
    /// WireGuard's first three messages.
    Handshake,
    /// WireGuard's empty packet.
    Keepalive,
    /// What the tunnel is there for.
    Payload,
    /// With a relay, whatever it carries.
    Relay,
    Dns,
    Other,
}

impl Cause {
    pub(crate) const ALL: [Self; 9] = [
        Self::Control,
        Self::Stun,
        Self::Probe,
        Self::Handshake,
        Self::Keepalive,
        Self::Payload,
        Self::Relay,
        Self::Dns,
        Self::Other,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Stun => "stun",
            Self::Probe => "probes",
            Self::Handshake => "handshake",
            Self::Keepalive => "keepalive",
            Self::Payload => "payload",
            Self::Relay => "relay",
            Self::Dns => "dns",
            Self::Other => "other",
        }
    }
}

/// Who is who on the internet.
#[derive(Clone, Default)]
pub(crate) struct Known {
    /// The coordinator's port, by any of its addresses.
    pub(crate) coordinator: Vec<SocketAddr>,
    /// Addresses of relays.
    pub(crate) relays: Vec<IpAddr>,
}

/// One IP packet, or all that one large frame is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) at: Instant,
    /// It leaves the host; otherwise it arrives there.
    pub(crate) leaves: bool,
    /// With the headers of IP, of every packet that it is cut into.
    pub(crate) bytes: u64,
    /// The other end; port 0 for what has none.
    pub(crate) far: SocketAddr,
    pub(crate) cause: Cause,
}

impl Sight {
    /// `None` for what is not IP, or is cut off.
    pub(crate) fn of(frame: &Frame<'_>, known: &Known) -> Option<Self> {
        let packet = Packet::of(frame.bytes)?;
        let [source, destination] = packet.addresses;
        let (source_port, destination_port) = packet.ports();
        let (far, port) =
            if frame.leaves { (destination, destination_port) } else { (source, source_port) };
        let far = SocketAddr::new(far, port);
        Some(Self {
            at: frame.at,
            leaves: frame.leaves,
            bytes: packet.on_the_wire(frame.segment.into()),
            far,
            cause: packet.cause(far, known),
        })
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

struct Packet<'a> {
    protocol: u8,
    /// Source, destination.
    addresses: [IpAddr; 2],
    /// Bytes of the headers of IP.
    header: usize,
    /// All of the packet, as its header says.
    len: usize,
    /// Behind the headers of IP.
    inner: &'a [u8],
}

impl<'a> Packet<'a> {
    fn of(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, rest) = frame.split_at_checked(14)?;
        match [ethernet[12], ethernet[13]] {
            [0x08, 0x00] => {
                let head = rest.first_chunk::<20>()?;
                let header = usize::from(head[0] & 15) * 4;
                let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
                let address = |at: usize| -> IpAddr {
                    Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]).into()
                };
                Some(Self {
                    protocol: head[9],
                    addresses: [address(12), address(16)],
                    header,
                    len,
                    inner: rest.get(header..len)?,
                })
            }
            [0x86, 0xdd] => {
                let head = rest.first_chunk::<40>()?;
                let len = 40 + usize::from(u16::from_be_bytes([head[4], head[5]]));
                let address = |at: usize| -> Option<IpAddr> {
                    Some(Ipv6Addr::from(*head.get(at..)?.first_chunk::<16>()?).into())
                };
                Some(Self {
                    protocol: head[6],
                    addresses: [address(8)?, address(24)?],
                    header: 40,
                    len,
                    inner: rest.get(40..len)?,
                })
            }
            _ => None,
        }
    }

    /// Of source and destination; zeros where there are none.
    fn ports(&self) -> (u16, u16) {
        match self.inner.first_chunk::<4>() {
            Some(ports) if matches!(self.protocol, TCP | UDP) => {
                (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]))
            }
            _ => (0, 0),
        }
    }

    /// Bytes of all packets that it becomes on a wire that carries `segment` bytes
    /// of payload in each; 0 if it is not cut.
    fn on_the_wire(&self, segment: usize) -> u64 {
        let transport = match self.protocol {
            TCP => self.inner.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4),
            _ => 8,
        };
        let headers = self.header + transport;
        let payload = self.len.saturating_sub(headers);
        if segment == 0 || payload <= segment {
            return self.len as u64;
        }
        (payload + payload.div_ceil(segment) * headers) as u64
    }

    fn cause(&self, far: SocketAddr, known: &Known) -> Cause {
        match self.protocol {
            TCP if known.coordinator.contains(&far) => Cause::Control,
            TCP if known.relays.contains(&far.ip()) => Cause::Relay,
            TCP | UDP if far.port() == 53 => Cause::Dns,
            UDP => {
                let carried = self.inner.get(8..).unwrap_or_default();
                match datagram(carried) {
                    // A relay answers Binding like any server of STUN.
                    Cause::Stun => Cause::Stun,
                    _ if known.relays.contains(&far.ip()) => Cause::Relay,
                    cause => cause,
                }
            }
            _ => Cause::Other,
        }
    }
}

/// By what begins a datagram on a gateway's socket.
fn datagram(bytes: &[u8]) -> Cause {
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    match *bytes {
        // The method Binding in any of its classes (RFC 8489 section 5).
        [first, 0x01 | 0x11, _, _, a, b, c, d, ..] if first <= 1 && [a, b, c, d] == COOKIE => {
            Cause::Stun
        }
        [first, _, _, _, a, b, c, d, ..] if first <= 0x3f && [a, b, c, d] == COOKIE => Cause::Relay,
        [PROBE, ..] => Cause::Probe,
        [1..=3, 0, 0, 0, ..] => Cause::Handshake,
        // Header, counter and the tag of nothing.
        [4, 0, 0, 0, ..] if bytes.len() == 32 => Cause::Keepalive,
        [4, 0, 0, 0, ..] => Cause::Payload,
        _ => Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const COORDINATOR: &str = "203.0.113.10:7420";
    const RELAY: &str = "203.0.113.11:3478";

    fn frame(protocol: u8, to: &str, carried: &[u8]) -> Vec<u8> {
        let to: std::net::SocketAddrV4 = to.parse().unwrap();
        let transport = if protocol == TCP { 20 } else { 8 };
        let len = 20 + transport + carried.len();
        let mut bytes = vec![0; 14 + 20 + transport];
        bytes[12] = 0x08;
        bytes[14] = 0x45;
        bytes[16..18].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        bytes[23] = protocol;
        bytes[26..30].copy_from_slice(&[10, 30, 0, 2]);
        bytes[30..34].copy_from_slice(&to.ip().octets());
        bytes[34..36].copy_from_slice(&51_871_u16.to_be_bytes());
        bytes[36..38].copy_from_slice(&to.port().to_be_bytes());
        if protocol == TCP {
            bytes[46] = 5 << 4;
        }
        bytes.extend(carried);
        bytes
    }

    fn seen(bytes: &[u8], segment: u16) -> Option<Sight> {
        let known = Known {
            coordinator: vec![COORDINATOR.parse().unwrap()],
            relays: vec![RELAY.parse::<SocketAddr>().unwrap().ip()],
        };
        Sight::of(&Frame { at: clock::now(), leaves: true, segment, bytes }, &known)
    }

    #[test]
    fn a_datagram_is_told_by_its_first_bytes_and_by_where_it_goes() {
        let peer = "203.0.113.60:51871";
        let stun = |method: u8| [&[0, method, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12]].concat();
        let data = [&[4, 0, 0, 0][..], &[7; 60]].concat();
        let cases = [
            (TCP, COORDINATOR, vec![], Cause::Control),
            (TCP, RELAY, vec![], Cause::Relay),
            (TCP, peer, vec![], Cause::Other),
            (UDP, "203.0.113.10:7420", stun(1), Cause::Stun),
            (UDP, RELAY, stun(1), Cause::Stun),
            (UDP, RELAY, stun(3), Cause::Relay),
            (UDP, RELAY, data.clone(), Cause::Relay),
            (UDP, RELAY, vec![0x40, 0, 0, 0], Cause::Relay),
            (UDP, peer, vec![PROBE, 0x11], Cause::Probe),
            (UDP, peer, vec![1, 0, 0, 0, 9], Cause::Handshake),
            (UDP, peer, [&[4, 0, 0, 0][..], &[7; 28]].concat(), Cause::Keepalive),
            (UDP, peer, data, Cause::Payload),
            (UDP, "203.0.113.60:53", vec![0; 30], Cause::Dns),
            // Whose first byte could be that of a relay's channel.
            (UDP, "10.30.0.1:1900", b"M-SEARCH * HTTP/1.1".to_vec(), Cause::Other),
            (1, peer, vec![], Cause::Other),
        ];
        for (protocol, to, carried, cause) in cases {
            let bytes = frame(protocol, to, &carried);
            let sight = seen(&bytes, 0).unwrap();
            assert_eq!(sight.cause, cause, "{protocol} {to} {carried:?}");
            assert_eq!(sight.bytes, bytes.len() as u64 - 14);
        }
    }

    #[test]
    fn a_large_frame_counts_the_headers_of_every_packet_that_it_becomes() {
        let bytes = frame(TCP, COORDINATOR, &[0; 3_000]);
        assert_eq!(seen(&bytes, 0).unwrap().bytes, 3_040);
        assert_eq!(seen(&bytes, 1_400).unwrap().bytes, 3_000 + 3 * 40);
        assert_eq!(seen(&bytes, 3_000).unwrap().bytes, 3_040);
    }

    #[test]
    fn what_is_cut_off_or_no_ip_is_not_counted() {
        let bytes = frame(UDP, RELAY, &[0; 30]);
        assert_eq!(seen(&bytes[..bytes.len() - 1], 0), None);
        assert_eq!(seen(&bytes[..20], 0), None);
        let mut arp = bytes;
        arp[13] = 0x06;
        assert_eq!(seen(&arp, 0), None);
    }
}
