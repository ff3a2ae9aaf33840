//! What MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 cover.

use super::names::{HEADER_LEN, MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256};

/// The MAC of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA1, 20 bytes.
    Sha1,
    /// HMAC-SHA256; a reader takes it cut to a multiple of 4 bytes from 16 on.
    Sha256,
}

impl Algorithm {
    /// The attribute that carries it.
    pub const fn attribute(self) -> u16 {
        match self {
            Self::Sha1 => MESSAGE_INTEGRITY,
            Self::Sha256 => MESSAGE_INTEGRITY_SHA256,
        }
    }

    /// Its whole length in bytes.
    pub const fn mac_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    pub(super) const fn of(kind: u16) -> Option<Self> {
        match kind {
            MESSAGE_INTEGRITY => Some(Self::Sha1),
            MESSAGE_INTEGRITY_SHA256 => Some(Self::Sha256),
            _ => None,
        }
    }

    pub(super) const fn admits(self, len: usize) -> bool {
        match self {
            Self::Sha1 => len == 20,
            Self::Sha256 => len >= 16 && len <= 32 && len.is_multiple_of(4),
        }
    }
}

/// Bytes under a MAC, and the MAC.
#[derive(Clone, Copy, Debug)]
pub struct Integrity<'a> {
    /// The header, with the length that ends at the MAC.
    head: [u8; HEADER_LEN],
    attributes: &'a [u8],
    mac: &'a [u8],
}

impl<'a> Integrity<'a> {
    /// What was hashed, in two parts one after the other.
    pub const fn parts(&self) -> [&[u8]; 2] {
        [&self.head, self.attributes]
    }

    /// The MAC that the message carries: 20 bytes, or 16 to 32.
    pub const fn mac(&self) -> &'a [u8] {
        self.mac
    }
}

/// The MAC that stands at `at`. The length field counts the attribute that the
/// MAC stands in and nothing behind it.
pub(super) fn view<'a>(message: &'a [u8], at: usize, mac: &'a [u8]) -> Integrity<'a> {
    let mut head = [0; HEADER_LEN];
    head.copy_from_slice(&message[..HEADER_LEN]);
    let len = (at + 4 + mac.len() - HEADER_LEN) as u16;
    head[2..4].copy_from_slice(&len.to_be_bytes());
    Integrity { head, attributes: &message[HEADER_LEN..at], mac }
}
