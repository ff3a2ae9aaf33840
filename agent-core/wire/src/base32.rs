//! Base32 of RFC 4648 section 6, without padding.
//!
//! Readers ignore case, spaces and dashes, since people copy these strings by
//! hand; writers emit one case.

const UPPER: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const LOWER: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Which letters a writer emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// `A-Z2-7`, for join strings (keeps QR codes in alphanumeric mode).
    Upper,
    /// `a-z2-7`, for topics and ids.
    Lower,
}

/// Why a text is not base32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Base32Error {
    /// The character at this offset (in bytes of the text) is not in the alphabet.
    Character(usize),
    /// The decoded bytes do not fit the caller's buffer.
    NoRoom,
    /// The text ends in the middle of a byte, or its last bits are not zero.
    Length,
}

/// Characters needed for `bytes` bytes.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Writes `data` as base32 and returns the number of characters, or `None` when
/// `out` is shorter than [`encoded_len`].
pub fn encode(data: &[u8], case: Case, out: &mut [u8]) -> Option<usize> {
    let alphabet = match case {
        Case::Upper => UPPER,
        Case::Lower => LOWER,
    };
    let out = out.get_mut(..encoded_len(data.len()))?;
    let (mut bits, mut held) = (0u32, 0u32);
    let mut input = data.iter();
    for slot in out.iter_mut() {
        if held < 5 {
            // The last group is filled up with zero bits.
            bits = (bits << 8) | u32::from(input.next().copied().unwrap_or(0));
            held += 8;
        }
        held -= 5;
        *slot = alphabet[(bits >> held) as usize & 31];
    }
    Some(out.len())
}

/// The value of one character, or `None` outside the alphabet.
pub const fn value(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a'),
        b'2'..=b'7' => Some(character - b'2' + 26),
        _ => None,
    }
}

/// Reads base32, skipping spaces, line ends and dashes. Returns the number of
/// bytes written to `out`.
///
/// # Errors
///
/// [`Base32Error`] names the first offending character.
pub fn decode(text: &[u8], out: &mut [u8]) -> Result<usize, Base32Error> {
    let (mut bits, mut held, mut len) = (0u32, 0u32, 0usize);
    for (offset, &character) in text.iter().enumerate() {
        if matches!(character, b' ' | b'-' | b'\t' | b'\r' | b'\n') {
            continue;
        }
        let value = value(character).ok_or(Base32Error::Character(offset))?;
        bits = (bits << 5) | u32::from(value);
        held += 5;
        if held >= 8 {
            held -= 8;
            *out.get_mut(len).ok_or(Base32Error::NoRoom)? = (bits >> held) as u8;
            len += 1;
            bits &= (1 << held) - 1;
        }
    }
    // Canonical only: a non-zero tail would give two texts for one value.
    if held >= 5 || bits != 0 {
        return Err(Base32Error::Length);
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4648_vectors() {
        for (plain, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            let mut out = [0; 16];
            let len = encode(plain.as_bytes(), Case::Upper, &mut out).unwrap();
            assert_eq!(&out[..len], text.as_bytes());
            let mut back = [0; 16];
            assert_eq!(decode(text.as_bytes(), &mut back), Ok(plain.len()));
            assert_eq!(&back[..plain.len()], plain.as_bytes());
        }
    }

    #[test]
    fn readers_ignore_case_spaces_and_dashes() {
        let mut out = [0; 8];
        assert_eq!(decode(b"mzxw-6ytb oi", &mut out), Ok(6));
        assert_eq!(&out[..6], b"foobar");
    }

    #[test]
    fn refuses_what_is_not_canonical() {
        let mut out = [0; 8];
        assert_eq!(decode(b"MZ1W", &mut out), Err(Base32Error::Character(2)));
        assert_eq!(decode(b"MZ", &mut out), Err(Base32Error::Length));
        assert_eq!(decode(b"MYA", &mut out), Err(Base32Error::Length));
        assert_eq!(decode(b"MZXW6YTBOI", &mut [0; 5]), Err(Base32Error::NoRoom));
    }
}
