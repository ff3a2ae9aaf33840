//! How an MQTT client says who it is to the coordinator's broker.
//!
//! | | client id | user name | password |
//! |---|---|---|---|
//! | enrolled device | its inbox | its inbox | MAC over inbox and expiry |
//! | enrolling device | a random inbox | `e.<key id>` | MAC over key id and expiry |
//!
//! The broker keeps no list of passwords: it computes the MAC again, and for
//! that must know the expiry. So the password is both, as text, since some
//! brokers and libraries take only UTF-8: 32 characters of lower-case base32
//! over `expiry u32 little-endian, MAC 16`.

use zeroize::Zeroize as _;

use crate::base32::{self, Case};
use crate::id::ShortSecret;

/// Characters of a password.
pub const PASSWORD_LEN: usize = base32::encoded_len(BYTES);

/// A password's text. Erased when dropped; no `Debug`, no `Clone`.
pub struct PasswordText([u8; PASSWORD_LEN]);

impl PasswordText {
    /// The text.
    pub fn as_str(&self) -> &str {
        // Base32 is ASCII.
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Drop for PasswordText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

const BYTES: usize = 4 + 16;

/// The text of a password that is valid until `expiry` (Unix time in seconds).
pub fn password(expiry: u32, mac: &ShortSecret) -> PasswordText {
    let mut bytes = [0; BYTES];
    bytes[..4].copy_from_slice(&expiry.to_le_bytes());
    bytes[4..].copy_from_slice(&mac.0);
    let mut text = PasswordText([0; PASSWORD_LEN]);
    base32::encode(&bytes, Case::Lower, &mut text.0);
    bytes.zeroize();
    text
}

/// Reads a password: its expiry (Unix time in seconds) and its MAC, neither of
/// them checked. `None` for every text that [`password`] does not write.
pub fn parse_password(text: &str) -> Option<(u32, ShortSecret)> {
    if text.len() != PASSWORD_LEN || !text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7')) {
        return None;
    }
    let mut bytes = [0; BYTES];
    base32::decode(text.as_bytes(), &mut bytes).ok()?;
    let (expiry, mac) = bytes.split_first_chunk::<4>()?;
    let read = (u32::from_le_bytes(*expiry), ShortSecret(mac.try_into().ok()?));
    bytes.zeroize();
    Some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_survive_the_round_trip() {
        for (expiry, mac) in [(0, [0; 16]), (0x1234_5678, [0xA5; 16]), (u32::MAX, [0xFF; 16])] {
            let text = password(expiry, &ShortSecret(mac));
            assert_eq!(text.as_str().len(), 32);
            let read = parse_password(text.as_str()).map(|(expiry, mac)| (expiry, mac.0));
            assert_eq!(read, Some((expiry, mac)));
        }
    }

    #[test]
    fn a_password_has_exactly_one_text() {
        let text = password(7, &ShortSecret([9; 16]));
        let text = text.as_str();
        for wrong in [
            "",
            &text[1..],
            &text.to_uppercase(),
            &format!("{}-{}", &text[..16], &text[16..]),
            &format!("{text}a"),
        ] {
            assert!(parse_password(wrong).is_none(), "{wrong}");
        }
    }
}
