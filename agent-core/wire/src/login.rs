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

use crate::base32::{self, Case};

/// Characters of a password.
pub const PASSWORD_LEN: usize = base32::encoded_len(BYTES);

/// A password's text.
pub type PasswordText = heapless::String<PASSWORD_LEN>;

const BYTES: usize = 4 + 16;

/// The text of a password that is valid until `expiry` (Unix time in seconds).
pub fn password(expiry: u32, mac: &[u8; 16]) -> PasswordText {
    let mut bytes = [0; BYTES];
    bytes[..4].copy_from_slice(&expiry.to_le_bytes());
    bytes[4..].copy_from_slice(mac);
    let mut out = [0; PASSWORD_LEN];
    base32::encode(&bytes, Case::Lower, &mut out);
    let mut text = PasswordText::new();
    for character in out {
        // Cannot fail: the capacity is the encoded length.
        let _ = text.push(char::from(character));
    }
    text
}

/// Reads a password: its expiry (Unix time in seconds) and its MAC, neither of
/// them checked. `None` for every text that [`password`] does not write.
pub fn parse_password(text: &str) -> Option<(u32, [u8; 16])> {
    if text.len() != PASSWORD_LEN || !text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7')) {
        return None;
    }
    let mut bytes = [0; BYTES];
    base32::decode(text.as_bytes(), &mut bytes).ok()?;
    let (expiry, mac) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*expiry), mac.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_survive_the_round_trip() {
        for (expiry, mac) in [(0, [0; 16]), (0x1234_5678, [0xA5; 16]), (u32::MAX, [0xFF; 16])] {
            let text = password(expiry, &mac);
            assert_eq!(text.len(), 32);
            assert_eq!(parse_password(&text), Some((expiry, mac)));
        }
    }

    #[test]
    fn a_password_has_exactly_one_text() {
        let text = password(7, &[9; 16]);
        for wrong in [
            "",
            &text[1..],
            &text.to_uppercase(),
            &format!("{}-{}", &text[..16], &text[16..]),
            &format!("{text}a"),
        ] {
            assert_eq!(parse_password(wrong), None, "{wrong}");
        }
    }
}
