//! STUN messages (RFC 8489): the Binding method, in a view and a writer.
//!
//! Knowingly not here yet: authentication, RFC 5780's attributes and TURN; they
//! come with the paths. Comprehension-required attributes that are unknown are
//! reported by [`Message::unknown_required`], as section 6.3.1 asks.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::crc::crc32;

/// Length of a STUN header.
pub const HEADER_LEN: usize = 20;
/// RFC 8489 section 5.
pub const MAGIC_COOKIE: u32 = 0x2112_A442;
/// Binding request.
pub const BINDING_REQUEST: u16 = 0x0001;
/// Binding success response.
pub const BINDING_SUCCESS: u16 = 0x0101;
/// Binding error response.
pub const BINDING_ERROR: u16 = 0x0111;

/// MAPPED-ADDRESS.
pub const MAPPED_ADDRESS: u16 = 0x0001;
/// ERROR-CODE.
pub const ERROR_CODE: u16 = 0x0009;
/// UNKNOWN-ATTRIBUTES.
pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
/// XOR-MAPPED-ADDRESS.
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// SOFTWARE.
pub const SOFTWARE: u16 = 0x8022;
/// FINGERPRINT.
pub const FINGERPRINT: u16 = 0x8028;

const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// Names one request and its answer.
pub type TransactionId = [u8; 12];

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StunError {
    /// First two bits or magic cookie: something else on the same socket.
    NotStun,
    /// The length field does not fit the datagram.
    Length,
    /// An attribute reaches beyond the message.
    Attribute,
    /// FINGERPRINT is there and does not match.
    Fingerprint,
    /// No room in the caller's buffer.
    NoRoom,
}

/// A view of a message whose attributes all lie inside it.
#[derive(Clone, Copy)]
pub struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    /// Checks header, attribute lengths and FINGERPRINT (if present).
    ///
    /// # Errors
    ///
    /// [`StunError`] names the first thing that is wrong.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, StunError> {
        let header = datagram.first_chunk::<HEADER_LEN>().ok_or(StunError::NotStun)?;
        let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if header[0] & 0xC0 != 0 || cookie != MAGIC_COOKIE {
            return Err(StunError::NotStun);
        }
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if len % 4 != 0 || datagram.len() != HEADER_LEN + len {
            return Err(StunError::Length);
        }
        let message = Self(datagram);
        let mut at = HEADER_LEN;
        while at < datagram.len() {
            let (kind, value) = attribute(datagram, at).ok_or(StunError::Attribute)?;
            if kind == FINGERPRINT {
                let sum = crc32(&datagram[..at]) ^ FINGERPRINT_XOR;
                if value != sum.to_be_bytes() || at + 8 != datagram.len() {
                    return Err(StunError::Fingerprint);
                }
            }
            at += 4 + value.len().next_multiple_of(4);
        }
        Ok(message)
    }

    /// Class and method.
    pub const fn kind(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// The transaction id.
    pub fn transaction(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.0[8..HEADER_LEN]);
        id
    }

    /// Iterates over `(type, value)`.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let bytes = self.0;
        let mut at = HEADER_LEN;
        core::iter::from_fn(move || {
            let (kind, value) = attribute(bytes, at)?;
            at += 4 + value.len().next_multiple_of(4);
            Some((kind, value))
        })
    }

    /// The first comprehension-required attribute outside `known`.
    pub fn unknown_required(&self, known: &[u16]) -> Option<u16> {
        self.attributes().map(|(kind, _)| kind).find(|kind| *kind < 0x8000 && !known.contains(kind))
    }

    /// The address that the server saw: XOR-MAPPED-ADDRESS, else MAPPED-ADDRESS.
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        let find = |wanted| self.attributes().find(|(kind, _)| *kind == wanted);
        match find(XOR_MAPPED_ADDRESS) {
            Some((_, value)) => read_address(value, Some(self.transaction())),
            None => find(MAPPED_ADDRESS).and_then(|(_, value)| read_address(value, None)),
        }
    }
}

fn attribute(bytes: &[u8], at: usize) -> Option<(u16, &[u8])> {
    let header = bytes.get(at..at + 4)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let padded = bytes.get(at + 4..at + 4 + len.next_multiple_of(4))?;
    Some((kind, &padded[..len]))
}

fn mask(transaction: Option<TransactionId>) -> [u8; 16] {
    let mut mask = [0; 16];
    if let Some(id) = transaction {
        mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        mask[4..].copy_from_slice(&id);
    }
    mask
}

fn read_address(value: &[u8], transaction: Option<TransactionId>) -> Option<SocketAddr> {
    let mask = mask(transaction);
    let unmask = |bytes: &mut [u8]| bytes.iter_mut().zip(mask).for_each(|(b, m)| *b ^= m);
    let (&[_, family, p0, p1], address) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([p0 ^ mask[0], p1 ^ mask[1]]);
    let address = match family {
        1 => {
            let mut octets: [u8; 4] = address.try_into().ok()?;
            unmask(&mut octets);
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        2 => {
            let mut octets: [u8; 16] = address.try_into().ok()?;
            unmask(&mut octets);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// Writes one message into a caller's buffer.
pub struct MessageWriter<'a> {
    buffer: &'a mut [u8],
    len: usize,
    transaction: TransactionId,
}

impl<'a> MessageWriter<'a> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn new(
        kind: u16,
        transaction: TransactionId,
        buffer: &'a mut [u8],
    ) -> Result<Self, StunError> {
        let header = buffer.get_mut(..HEADER_LEN).ok_or(StunError::NoRoom)?;
        header[..2].copy_from_slice(&kind.to_be_bytes());
        header[2..4].fill(0);
        header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        header[8..].copy_from_slice(&transaction);
        Ok(Self { buffer, len: HEADER_LEN, transaction })
    }

    /// Appends an attribute, padded with zero bytes.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> Result<(), StunError> {
        let len = u16::try_from(value.len()).map_err(|_| StunError::NoRoom)?;
        let end = self.len + 4 + value.len().next_multiple_of(4);
        let room = self.buffer.get_mut(self.len..end).ok_or(StunError::NoRoom)?;
        room[..2].copy_from_slice(&kind.to_be_bytes());
        room[2..4].copy_from_slice(&len.to_be_bytes());
        room[4..4 + value.len()].copy_from_slice(value);
        room[4 + value.len()..].fill(0);
        self.len = end;
        self.set_length();
        Ok(())
    }

    /// Appends XOR-MAPPED-ADDRESS.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn xor_mapped_address(&mut self, address: SocketAddr) -> Result<(), StunError> {
        let mask = mask(Some(self.transaction));
        let mut value = [0; 20];
        value[2..4].copy_from_slice(&address.port().to_be_bytes());
        let len = match address.ip() {
            IpAddr::V4(ip) => {
                value[1] = 1;
                value[4..8].copy_from_slice(&ip.octets());
                8
            }
            IpAddr::V6(ip) => {
                value[1] = 2;
                value[4..].copy_from_slice(&ip.octets());
                20
            }
        };
        value[2] ^= mask[0];
        value[3] ^= mask[1];
        value[4..].iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        self.attribute(XOR_MAPPED_ADDRESS, &value[..len])
    }

    /// Appends FINGERPRINT and returns the message's length.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn finish(mut self) -> Result<usize, StunError> {
        // The length field counts the attribute that the sum goes into
        // (RFC 8489 section 14.7).
        let before = self.len;
        self.attribute(FINGERPRINT, &[0; 4])?;
        let sum = crc32(&self.buffer[..before]) ^ FINGERPRINT_XOR;
        self.buffer[before + 4..self.len].copy_from_slice(&sum.to_be_bytes());
        Ok(self.len)
    }

    fn set_length(&mut self) {
        let len = (self.len - HEADER_LEN) as u16;
        self.buffer[2..4].copy_from_slice(&len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 section 2.2: sample IPv4 response.
    const IPV4_RESPONSE: &[u8] = &[
        0x01, 0x01, 0x00, 0x3c, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6,
        0x86, 0xfa, 0x87, 0xdf, 0xae, 0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74, 0x20, 0x76,
        0x65, 0x63, 0x74, 0x6f, 0x72, 0x20, 0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1,
        0x12, 0xa6, 0x43, 0x00, 0x08, 0x00, 0x14, 0x2b, 0x91, 0xf5, 0x99, 0xfd, 0x9e, 0x90, 0xc3,
        0x8c, 0x74, 0x89, 0xf9, 0x2a, 0xf9, 0xba, 0x53, 0xf0, 0x6b, 0xe7, 0xd7, 0x80, 0x28, 0x00,
        0x04, 0xc0, 0x7d, 0x4c, 0x96,
    ];

    #[test]
    fn rfc_5769_ipv4_response() {
        let message = Message::parse(IPV4_RESPONSE).unwrap();
        assert_eq!(message.kind(), BINDING_SUCCESS);
        assert_eq!(message.mapped_address(), Some("192.0.2.1:32853".parse().unwrap()));
        let mut wrong = IPV4_RESPONSE.to_vec();
        wrong[44] ^= 1;
        assert_eq!(Message::parse(&wrong).err(), Some(StunError::Fingerprint));
    }

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut buffer = [0; 128];
            let mut writer = MessageWriter::new(BINDING_SUCCESS, [7; 12], &mut buffer).unwrap();
            writer.xor_mapped_address(address).unwrap();
            writer.attribute(SOFTWARE, b"odd").unwrap();
            let len = writer.finish().unwrap();
            let message = Message::parse(&buffer[..len]).unwrap();
            assert_eq!(message.mapped_address(), Some(address));
            assert_eq!(message.unknown_required(&[]), Some(XOR_MAPPED_ADDRESS));
            assert_eq!(message.unknown_required(&[XOR_MAPPED_ADDRESS]), None);
        }
    }

    #[test]
    fn cut_messages_are_refused_without_a_panic() {
        for len in 0..IPV4_RESPONSE.len() {
            assert!(Message::parse(&IPV4_RESPONSE[..len]).is_err());
        }
        // CVE-2026-54909's class: an empty XOR-MAPPED-ADDRESS.
        let mut buffer = [0; 64];
        let mut writer = MessageWriter::new(BINDING_SUCCESS, [0; 12], &mut buffer).unwrap();
        writer.attribute(XOR_MAPPED_ADDRESS, &[]).unwrap();
        let len = writer.finish().unwrap();
        assert_eq!(Message::parse(&buffer[..len]).unwrap().mapped_address(), None);
    }

    #[test]
    fn every_small_buffer_is_an_error() {
        for size in 0..48 {
            let mut buffer = [0; 48];
            let written = MessageWriter::new(BINDING_REQUEST, [1; 12], &mut buffer[..size])
                .and_then(|mut writer| {
                    writer.xor_mapped_address("192.0.2.1:1".parse().unwrap())?;
                    writer.finish()
                });
            assert_eq!(written.is_ok(), size >= HEADER_LEN + 12 + 8);
        }
    }
}
