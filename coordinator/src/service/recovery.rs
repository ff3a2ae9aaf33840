//! The recovery key: the seed of all secrets as a text that people write down.
//!
//! `WREC1-` and the upper-case base32 of seed and CRC-32 in groups of four.

use weft_wire::base32::{self, Case};
use weft_wire::crc::crc32;
use weft_wire::id::Secret;
use zeroize::Zeroizing;

const PREFIX: &str = "WREC1";
const BYTES: usize = 32 + 4;

/// Why a text is not a recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// Does not start with `WREC1`.
    NotARecoveryKey,
    /// Typed or copied wrongly.
    Damaged,
}

/// Writes the seed for people.
pub fn to_text(seed: &Secret) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    bytes[..32].copy_from_slice(&seed.0);
    bytes[32..].copy_from_slice(&crc32(&seed.0).to_le_bytes());
    let mut characters = Zeroizing::new([0; base32::encoded_len(BYTES)]);
    base32::encode(&*bytes, Case::Upper, &mut *characters);
    // Large enough that it never moves and leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(128));
    text.push_str(PREFIX);
    for group in characters.chunks(4) {
        text.push('-');
        text.extend(group.iter().copied().map(char::from));
    }
    text
}

/// Reads what [`to_text`] writes; case, spaces and dashes do not matter.
///
/// # Errors
///
/// [`RecoveryError`].
pub fn from_text(text: &str) -> Result<Secret, RecoveryError> {
    let text = text.trim();
    let (prefix, body) =
        text.split_at_checked(PREFIX.len()).ok_or(RecoveryError::NotARecoveryKey)?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return Err(RecoveryError::NotARecoveryKey);
    }
    let mut bytes = Zeroizing::new([0; BYTES]);
    let len = base32::decode(body.as_bytes(), &mut *bytes).map_err(|_| RecoveryError::Damaged)?;
    let (seed, crc) = bytes.split_at(32);
    if len != BYTES || crc32(seed).to_le_bytes() != crc {
        return Err(RecoveryError::Damaged);
    }
    let mut copy = [0; 32];
    copy.copy_from_slice(seed);
    Ok(Secret::take(&mut copy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_being_written_down() {
        let seed = Secret([0xA7; 32]);
        let text = to_text(&seed);
        assert!(text.starts_with("WREC1-") && text.len() == 5 + 15 + 58, "{}", text.len());
        let sloppy = text.to_lowercase().replace('-', " ").replacen("wrec1 ", "wrec1-", 1);
        assert_eq!(from_text(&sloppy).ok().unwrap().0, seed.0);
    }

    #[test]
    fn every_substitution_is_seen() {
        let text = to_text(&Secret([0xA7; 32]));
        for at in 6..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            if wrong[at] == b'-' {
                continue;
            }
            wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(from_text(&wrong).err(), Some(RecoveryError::Damaged), "{at}");
        }
        assert_eq!(from_text("WREC2-AAAA").err(), Some(RecoveryError::NotARecoveryKey));
        assert_eq!(from_text("x").err(), Some(RecoveryError::NotARecoveryKey));
        assert_eq!(from_text("WREC1-").err(), Some(RecoveryError::Damaged));
    }
}
