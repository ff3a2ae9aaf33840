//! Identifiers and keys, each a type of its own, so that one cannot be passed
//! for another.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::base32::{self, Case};

/// Why a text is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdError {
    /// The text does not start with the prefix of this kind.
    Prefix,
    /// Not 12 characters of lower-case base32 after the prefix.
    Form,
    /// The check bits differ: the id was typed or copied wrongly.
    Check,
}

/// The prefix of a kind of id, as people see it.
const PREFIX_LEN: usize = 4;
const TEXT_LEN: usize = PREFIX_LEN + 12;

/// 60 bits out of 32: the number scrambled (so that neighbours look different
/// and four characters tell devices apart) and 28 check bits (so that a typing
/// error is seen). Not a secret, not a hash to rely on.
const fn scramble(number: u32) -> u64 {
    let mut x = number ^ 0x5745_4654;
    x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
    x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    x ^= x >> 16;
    ((x as u64) << 28) | check(number)
}

const fn check(number: u32) -> u64 {
    let mut x = (number as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)) & 0x0FFF_FFFF
}

const fn unscramble(sixty: u64) -> Option<u32> {
    let mut x = (sixty >> 28) as u32;
    x ^= x >> 16;
    x = x.wrapping_mul(0x43021123); // inverse of 0x846C_A68B modulo 2^32
    x ^= (x >> 15) ^ (x >> 30);
    x = x.wrapping_mul(0x1D69_E2A5); // inverse of 0x7FEB_352D modulo 2^32
    x ^= x >> 16;
    let number = x ^ 0x5745_4654;
    if sixty & 0x0FFF_FFFF == check(number) { Some(number) } else { None }
}

fn write_sixty(prefix: &str, sixty: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    f.write_str(prefix)?;
    for position in (0..12).rev() {
        let character = ALPHABET[(sixty >> (position * 5)) as usize & 31];
        fmt::Write::write_char(f, char::from(character))?;
    }
    Ok(())
}

fn read_sixty(prefix: &str, text: &str) -> Result<u64, IdError> {
    let rest = text.strip_prefix(prefix).ok_or(IdError::Prefix)?.as_bytes();
    if rest.len() != TEXT_LEN - PREFIX_LEN {
        return Err(IdError::Form);
    }
    rest.iter().try_fold(0u64, |sixty, &character| {
        let value = base32::value(character).ok_or(IdError::Form)?;
        Ok((sixty << 5) | u64::from(value))
    })
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub u32);

        crate::body!(struct $name { 0 });

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_sixty($prefix, scramble(self.0), f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                unscramble(read_sixty($prefix, text)?).map(Self).ok_or(IdError::Check)
            }
        }
    };
}

number_id!(
    /// A registered agent, or a WireGuard-only peer; shown as `dev_2j7m5ctnuzov`.
    DeviceId,
    "dev_"
);
number_id!(
    /// A network: one address range, one policy; shown as `net_…`.
    NetworkId,
    "net_"
);
number_id!(
    /// An organisation; shown as `org_…`.
    OrganisationId,
    "org_"
);
number_id!(
    /// A remote command or a job; shown as `job_…`.
    CommandId,
    "job_"
);

/// An enrolment key's public reference: 60 random bits (the upper 4 bits are
/// zero); shown as `key_mfrggzdf2kqw`, 8 bytes big-endian in frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(u64);

crate::body!(struct KeyId { 0 });

impl KeyId {
    /// Takes the lower 60 bits of random bytes.
    pub const fn from_random(random: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(random) & 0x0FFF_FFFF_FFFF_FFFF)
    }

    /// Reads the reference of a frame or join string.
    ///
    /// # Errors
    ///
    /// [`IdError::Form`] when the upper 4 bits are not zero.
    pub const fn from_bytes(bytes: [u8; 8]) -> Result<Self, IdError> {
        let value = u64::from_be_bytes(bytes);
        if value >> 60 == 0 { Ok(Self(value)) } else { Err(IdError::Form) }
    }

    /// The 8 bytes of frames and join strings.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_sixty("key_", self.0, f)
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        read_sixty("key_", text).map(Self)
    }
}

/// Where a device receives: 16 random bytes, 26 base32 characters in topics.
/// Not derivable from any key, and replaceable by the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Inbox(pub [u8; 16]);

crate::body!(struct Inbox { 0 });

/// Characters of an inbox in topics and client ids.
pub const INBOX_TEXT_LEN: usize = base32::encoded_len(16);

impl Inbox {
    /// The 26 lower-case characters used in topics and as client id.
    pub fn text(&self) -> heapless::String<INBOX_TEXT_LEN> {
        let mut out = [0; INBOX_TEXT_LEN];
        base32::encode(&self.0, Case::Lower, &mut out);
        let mut text = heapless::String::new();
        for character in out {
            // Cannot fail: the capacity is the encoded length.
            let _ = text.push(char::from(character));
        }
        text
    }
}

impl fmt::Display for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl FromStr for Inbox {
    type Err = IdError;

    /// Accepts only what [`Inbox::text`] writes: one inbox has one topic.
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != INBOX_TEXT_LEN
            || !text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7'))
        {
            return Err(IdError::Form);
        }
        let mut bytes = [0; 16];
        match base32::decode(text.as_bytes(), &mut bytes) {
            Ok(16) => Ok(Self(bytes)),
            _ => Err(IdError::Form),
        }
    }
}

/// An X25519 public key. Equality is for look-ups; a MAC is never compared so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

crate::body!(struct PublicKey { 0 });

impl PublicKey {
    /// All zero: never a valid key, so the low-order check refuses it.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

/// 32 secret bytes (a PSK or a private key) on their way. Erased when dropped;
/// no `Debug`, no `Clone`, no comparison.
#[derive(Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

crate::body!(struct Secret { 0 });

impl Secret {
    /// Takes the bytes over and erases the source.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let secret = Self(*bytes);
        bytes.zeroize();
        secret
    }

    /// A second copy, named so that every place that makes one is found.
    pub const fn duplicate(&self) -> Self {
        Self(self.0)
    }

    /// Whether all bytes are zero, which stands for "none" in a peer entry.
    /// Reads every byte whatever the first ones are.
    pub fn is_none(&self) -> bool {
        self.0.iter().fold(0, |all, byte| all | byte) == 0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// 16 secret bytes that let a client into a broker: a password, or the token of
/// a join string. As [`Secret`]: erased when dropped, no `Debug`, no `Clone`, no
/// comparison.
#[derive(Serialize, Deserialize)]
pub struct ShortSecret(pub [u8; 16]);

crate::body!(struct ShortSecret { 0 });

impl ShortSecret {
    /// A second copy, named so that every place that makes one is found.
    pub const fn duplicate(&self) -> Self {
        Self(self.0)
    }
}

impl Drop for ShortSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The life of a database. A restored backup draws a new one, so that map
/// revisions of two lives are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

crate::body!(struct Epoch { 0 });

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The counter of a device's map within one [`Epoch`]; only ever rises.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Revision(pub u64);

crate::body!(struct Revision { 0 });

/// Which coordinator process holds a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u16);

crate::body!(struct ReplicaId { 0 });

/// One start of one agent process: 8 random bytes drawn at start, so that two
/// machines with one identity are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Instance(pub [u8; 8]);

crate::body!(struct Instance { 0 });

/// The longest name of a device or network: a lower-case RFC 1123 label.
pub const NAME_LEN: usize = 32;

/// A device's or network's name.
pub type Name = heapless::String<NAME_LEN>;

/// Whether `name` is a lower-case RFC 1123 label of 1 to 32 characters.
pub fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=NAME_LEN).contains(&bytes.len())
        && bytes.iter().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_round_trip() {
        for number in (0..=64).chain([u32::MAX, u32::MAX - 1, 0x8000_0000, 0x1234_5678]) {
            let text = DeviceId(number).to_string();
            assert_eq!(text.len(), TEXT_LEN);
            assert_eq!(text.parse(), Ok(DeviceId(number)));
        }
    }

    #[test]
    fn a_typing_error_in_an_id_is_seen() {
        let text = DeviceId(7).to_string();
        assert_eq!(text.parse::<NetworkId>(), Err(IdError::Prefix));
        for position in PREFIX_LEN..TEXT_LEN {
            let mut wrong = text.clone().into_bytes();
            wrong[position] = if wrong[position] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(wrong.parse::<DeviceId>(), Err(IdError::Check), "{wrong}");
        }
    }

    #[test]
    fn key_ids_hold_sixty_bits() {
        let id = KeyId::from_random([0xFF; 8]);
        assert_eq!(KeyId::from_bytes(id.to_bytes()), Ok(id));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(KeyId::from_bytes([0xFF; 8]), Err(IdError::Form));
    }

    #[test]
    fn an_inbox_has_exactly_one_text() {
        let inbox = Inbox([0xA5; 16]);
        let text = inbox.text();
        assert_eq!(text.len(), INBOX_TEXT_LEN);
        assert_eq!(text.parse(), Ok(inbox));
        assert!(text.to_uppercase().parse::<Inbox>().is_err());
        assert!(text[1..].parse::<Inbox>().is_err());
    }

    #[test]
    fn names_are_labels() {
        for good in ["a", "gw-a", "0", "a2345678901234567890123456789012"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a23456789012345678901234567890123"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
