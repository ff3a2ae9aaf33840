//! Base64 of RFC 4648 section 4, mostly for exactly 32 bytes: a WireGuard key as
//! `wg` prints it, 44 characters of which the last is `=`.

use core::fmt::{self, Write};

/// Characters of a key.
pub const KEY_TEXT_LEN: usize = 44;

/// A key's text.
pub type KeyText = heapless::String<KEY_TEXT_LEN>;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Writes a key.
pub fn encode(key: &[u8; 32]) -> KeyText {
    let mut text = KeyText::new();
    // Cannot fail: the capacity is the encoded length.
    let _ = write(key, &mut text);
    text
}

/// Writes bytes of any number, with padding.
///
/// # Errors
///
/// That of `out`, as when it has no room.
pub fn write(bytes: &[u8], out: &mut impl Write) -> fmt::Result {
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(word);
        for position in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * position)) as usize & 63];
            let character = if position > group.len() { b'=' } else { digit };
            out.write_char(char::from(character))?;
        }
    }
    Ok(())
}

const fn value(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// Reads what [`encode`] writes; `None` for every other text, so that one key
/// has one text.
pub fn decode(text: &str) -> Option<[u8; 32]> {
    let (digits, tail) = text.as_bytes().split_at_checked(KEY_TEXT_LEN - 1)?;
    if tail != b"=" {
        return None;
    }
    let mut key = [0; 32];
    for (group, out) in digits.chunks(4).zip(key.chunks_mut(3)) {
        let mut bits = 0u32;
        for position in 0..4 {
            let digit = match group.get(position) {
                Some(&character) => value(character)?,
                None => 0,
            };
            bits = (bits << 6) | u32::from(digit);
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (kept, rest) = bytes.split_at(out.len());
        out.copy_from_slice(kept);
        if rest.iter().any(|&byte| byte != 0) {
            return None;
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts() {
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(encode(&[0; 32]).as_str(), zero);
        assert_eq!(decode(zero), Some([0; 32]));
        let full = "//////////////////////////////////////////8=";
        assert_eq!(encode(&[0xFF; 32]).as_str(), full);
        let counted: [u8; 32] = core::array::from_fn(|at| at as u8);
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert_eq!(encode(&counted).as_str(), text);
        assert_eq!(decode(text), Some(counted));
    }

    #[test]
    fn one_key_has_one_text() {
        for wrong in [
            "",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8==",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh-=",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHé=",
        ] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
