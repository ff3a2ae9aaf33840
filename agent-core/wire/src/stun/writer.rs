//! Writes one message into a caller's buffer.

use core::net::SocketAddr;

use super::message::FINGERPRINT_XOR;
use super::names::*;
use super::{Algorithm, Family, StunError, TransactionId, address};
use crate::crc::crc32;

/// Writes one message into a caller's buffer. Whatever has no room there is
/// [`StunError::NoRoom`], and nothing of it is written.
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
        let at = self.len + 4;
        self.attribute_in_place(kind, value.len())?;
        self.buffer[at..at + value.len()].copy_from_slice(value);
        Ok(())
    }

    /// Appends an attribute whose value of `len` bytes stands where it belongs:
    /// 4 bytes behind what was written so far.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn attribute_in_place(&mut self, kind: u16, len: usize) -> Result<(), StunError> {
        let short = u16::try_from(len).map_err(|_| StunError::NoRoom)?;
        let end = self.len + 4 + len.next_multiple_of(4);
        if end - HEADER_LEN > usize::from(u16::MAX) {
            return Err(StunError::NoRoom);
        }
        let room = self.buffer.get_mut(self.len..end).ok_or(StunError::NoRoom)?;
        room[..2].copy_from_slice(&kind.to_be_bytes());
        room[2..4].copy_from_slice(&short.to_be_bytes());
        room[4 + len..].fill(0);
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
        self.xor_address(XOR_MAPPED_ADDRESS, address)
    }

    /// Appends a masked address.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn xor_address(&mut self, kind: u16, address: SocketAddr) -> Result<(), StunError> {
        let (value, len) = address::write(address, Some(self.transaction));
        self.attribute(kind, &value[..len])
    }

    /// Appends a plain address.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn address(&mut self, kind: u16, address: SocketAddr) -> Result<(), StunError> {
        let (value, len) = address::write(address, None);
        self.attribute(kind, &value[..len])
    }

    /// Appends ERROR-CODE without a reason: it is for people, and nobody reads it.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn error(&mut self, code: u16) -> Result<(), StunError> {
        self.attribute(ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8])
    }

    /// Appends LIFETIME.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn lifetime(&mut self, seconds: u32) -> Result<(), StunError> {
        self.attribute(LIFETIME, &seconds.to_be_bytes())
    }

    /// Appends REQUESTED-TRANSPORT with [`UDP`], the only one that there is.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn requested_transport(&mut self, protocol: u8) -> Result<(), StunError> {
        self.attribute(REQUESTED_TRANSPORT, &[protocol, 0, 0, 0])
    }

    /// Appends [`REQUESTED_ADDRESS_FAMILY`] or [`ADDITIONAL_ADDRESS_FAMILY`].
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn family(&mut self, kind: u16, family: Family) -> Result<(), StunError> {
        self.attribute(kind, &[family.number(), 0, 0, 0])
    }

    /// Appends CHANNEL-NUMBER.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn channel_number(&mut self, channel: u16) -> Result<(), StunError> {
        let [high, low] = channel.to_be_bytes();
        self.attribute(CHANNEL_NUMBER, &[high, low, 0, 0])
    }

    /// Appends the attribute of a MAC; `mac` is given the bytes to be hashed and
    /// writes [`Algorithm::mac_len`] bytes. With SHA-1 first both may be there.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn integrity(
        &mut self,
        algorithm: Algorithm,
        mac: impl FnOnce(&[u8], &mut [u8]),
    ) -> Result<(), StunError> {
        let before = self.len;
        // The length field counts the attribute that the MAC goes into
        // (RFC 8489 section 14.5).
        let empty = [0; 32];
        self.attribute(algorithm.attribute(), &empty[..algorithm.mac_len()])?;
        let (covered, rest) = self.buffer[..self.len].split_at_mut(before);
        mac(covered, &mut rest[4..]);
        Ok(())
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

    /// Returns the message's length, without FINGERPRINT: TURN has a socket of
    /// its own, and its clients need none.
    pub const fn finish_bare(self) -> usize {
        self.len
    }

    fn set_length(&mut self) {
        let len = (self.len - HEADER_LEN) as u16;
        self.buffer[2..4].copy_from_slice(&len.to_be_bytes());
    }
}
