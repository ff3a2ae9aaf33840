//! Digests that other people's protocols ask for: a certificate's key is known
//! by its SHA-256, WebSocket's handshake proves itself by SHA-1. Neither guards
//! anything of ours.

use ring::digest::{Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

fn of<const N: usize>(algorithm: &'static Algorithm, parts: &[&[u8]]) -> [u8; N] {
    let mut context = Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    out
}

/// SHA-256 of the parts, one after the other (RFC 6234).
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    of(&SHA256, parts)
}

/// SHA-1 of the parts, one after the other (RFC 3174).
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    of(&SHA1_FOR_LEGACY_USE_ONLY, parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abc_is_hashed_as_the_rfcs_say() {
        // RFC 6234 and RFC 3174, their first test.
        assert_eq!(sha256(&[b"a", b"bc"])[..4], [0xBA, 0x78, 0x16, 0xBF]);
        assert_eq!(sha256(&[b"abc"])[28..], [0xF2, 0x00, 0x15, 0xAD]);
        assert_eq!(sha1(&[b"ab", b"c"])[..4], [0xA9, 0x99, 0x3E, 0x36]);
        assert_eq!(sha1(&[b"abc"])[16..], [0x9C, 0xD0, 0xD8, 0x9D]);
    }
}
