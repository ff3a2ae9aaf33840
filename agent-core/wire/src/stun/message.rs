//! A view of a message.

use core::net::SocketAddr;

use super::names::*;
use super::{Algorithm, Family, Integrity, StunError, TransactionId, address, integrity};
use crate::crc::crc32;

pub(super) const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// CHANGE-REQUEST: where the answer is to come from (RFC 5780 section 7.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeRequest {
    /// From the server's other address.
    pub address: bool,
    /// From the server's other port.
    pub port: bool,
}

/// A view of a message whose attributes all lie inside it.
#[derive(Clone, Copy)]
pub struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    /// Checks header, attribute lengths, the length of MESSAGE-INTEGRITY and
    /// FINGERPRINT (if present).
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
        let badly = |(kind, value): (u16, &[u8])| {
            Algorithm::of(kind).is_some_and(|algorithm| !algorithm.admits(value.len()))
        };
        if message.attributes().any(badly) {
            return Err(StunError::Attribute);
        }
        Ok(message)
    }

    /// Class and method.
    pub const fn kind(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// What it is within its method.
    pub const fn class(&self) -> Class {
        class_of(self.kind())
    }

    /// The method.
    pub const fn method(&self) -> u16 {
        method_of(self.kind())
    }

    /// The transaction id.
    pub fn transaction(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.0[8..HEADER_LEN]);
        id
    }

    /// Iterates over `(type, value)`. Behind MESSAGE-INTEGRITY nobody vouches
    /// for an attribute: there only MESSAGE-INTEGRITY-SHA256 and FINGERPRINT
    /// count, behind the latter's only FINGERPRINT (RFC 8489 sections 14.5, 14.6).
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        self.placed().map(|(_, kind, value)| (kind, value))
    }

    /// The same, with the place of each.
    fn placed(&self) -> impl Iterator<Item = (usize, u16, &'a [u8])> + use<'a> {
        let bytes = self.0;
        let mut at = HEADER_LEN;
        let mut vouched = 0;
        core::iter::from_fn(move || {
            loop {
                let (kind, value) = attribute(bytes, at)?;
                let here = at;
                at += 4 + value.len().next_multiple_of(4);
                let rank = match kind {
                    FINGERPRINT => u8::MAX,
                    MESSAGE_INTEGRITY_SHA256 => 2,
                    MESSAGE_INTEGRITY => 1,
                    _ => 0,
                };
                if rank > vouched || (rank == 0 && vouched == 0) {
                    vouched = rank.max(vouched);
                    return Some((here, kind, value));
                }
            }
        })
    }

    /// The value of the first attribute of this type; more than one is read only
    /// where a method says so (RFC 8489 section 14).
    pub fn get(&self, wanted: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// The first comprehension-required attribute outside `known`.
    pub fn unknown_required(&self, known: &[u16]) -> Option<u16> {
        self.attributes()
            .map(|(kind, _)| kind)
            .find(|kind| *kind < COMPREHENSION_OPTIONAL && !known.contains(kind))
    }

    /// What the last MAC of this algorithm covers, and the MAC.
    pub fn integrity(&self, algorithm: Algorithm) -> Option<Integrity<'a>> {
        let (at, _, mac) = self.placed().find(|(_, kind, _)| *kind == algorithm.attribute())?;
        Some(integrity::view(self.0, at, mac))
    }

    /// The address that the server saw: XOR-MAPPED-ADDRESS, else MAPPED-ADDRESS.
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        match self.get(XOR_MAPPED_ADDRESS) {
            Some(value) => address::read(value, Some(self.transaction())),
            None => self.address(MAPPED_ADDRESS),
        }
    }

    /// A masked address: [`XOR_PEER_ADDRESS`], [`XOR_RELAYED_ADDRESS`].
    pub fn xor_address(&self, kind: u16) -> Option<SocketAddr> {
        address::read(self.get(kind)?, Some(self.transaction()))
    }

    /// All masked addresses of this type; `None` for one that is malformed. A
    /// CreatePermission names several peers, a dual allocation has two addresses.
    pub fn xor_addresses(&self, wanted: u16) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
        let transaction = self.transaction();
        self.attributes()
            .filter(move |(kind, _)| *kind == wanted)
            .map(move |(_, value)| address::read(value, Some(transaction)))
    }

    /// A plain address: [`RESPONSE_ORIGIN`], [`OTHER_ADDRESS`],
    /// [`ALTERNATE_SERVER`].
    pub fn address(&self, kind: u16) -> Option<SocketAddr> {
        address::read(self.get(kind)?, None)
    }

    /// ERROR-CODE: the number from 300 to 699, and the reason.
    pub fn error(&self) -> Option<(u16, &'a str)> {
        let (&[_, _, class, number], reason) = self.get(ERROR_CODE)?.split_first_chunk::<4>()?;
        let (class, number) = (u16::from(class & 7), u16::from(number));
        let reason = core::str::from_utf8(reason).ok()?;
        ((3..7).contains(&class) && number < 100).then_some((class * 100 + number, reason))
    }

    /// LIFETIME in seconds.
    pub fn lifetime(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(LIFETIME)?.try_into().ok()?))
    }

    /// REQUESTED-TRANSPORT: a protocol number.
    pub fn requested_transport(&self) -> Option<u8> {
        let value: [u8; 4] = self.get(REQUESTED_TRANSPORT)?.try_into().ok()?;
        Some(value[0])
    }

    /// The number in [`REQUESTED_ADDRESS_FAMILY`] or
    /// [`ADDITIONAL_ADDRESS_FAMILY`]; [`Family::from_number`] knows two.
    pub fn family(&self, kind: u16) -> Option<u8> {
        let value: [u8; 4] = self.get(kind)?.try_into().ok()?;
        Some(value[0])
    }

    /// EVEN-PORT; `true` asks that the next port is kept.
    pub fn even_port(&self) -> Option<bool> {
        let value: [u8; 1] = self.get(EVEN_PORT)?.try_into().ok()?;
        Some(value[0] & 0x80 != 0)
    }

    /// RESERVATION-TOKEN.
    pub fn reservation_token(&self) -> Option<[u8; 8]> {
        self.get(RESERVATION_TOKEN)?.try_into().ok()
    }

    /// CHANNEL-NUMBER, whatever it is.
    pub fn channel_number(&self) -> Option<u16> {
        let value: [u8; 4] = self.get(CHANNEL_NUMBER)?.try_into().ok()?;
        Some(u16::from_be_bytes([value[0], value[1]]))
    }

    /// CHANGE-REQUEST.
    pub fn change_request(&self) -> Option<ChangeRequest> {
        let value: [u8; 4] = self.get(CHANGE_REQUEST)?.try_into().ok()?;
        Some(ChangeRequest { address: value[3] & 4 != 0, port: value[3] & 2 != 0 })
    }

    /// RESPONSE-PORT.
    pub fn response_port(&self) -> Option<u16> {
        let (port, _) = self.get(RESPONSE_PORT)?.split_first_chunk::<2>()?;
        Some(u16::from_be_bytes(*port))
    }

    /// [`REQUESTED_ADDRESS_FAMILY`] as one of the two that there are.
    pub fn requested_family(&self) -> Option<Family> {
        self.family(REQUESTED_ADDRESS_FAMILY).and_then(Family::from_number)
    }
}

fn attribute(bytes: &[u8], at: usize) -> Option<(u16, &[u8])> {
    let header = bytes.get(at..at + 4)?;
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let padded = bytes.get(at + 4..at + 4 + len.next_multiple_of(4))?;
    Some((kind, &padded[..len]))
}
