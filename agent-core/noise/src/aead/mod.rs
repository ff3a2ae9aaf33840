//! ChaCha20-Poly1305 (RFC 8439) with Noise's nonce: four zero bytes and the
//! counter, little-endian.
//!
//! Two backends stand behind one trait; [`Key`] is the one in use. The opt-level of
//! `weft-aead` decides how fast the portable one is.

#[cfg(any(test, not(feature = "ring")))]
mod portable;
#[cfg(feature = "ring")]
mod ring;

#[cfg(test)]
mod tests;

use weft_aead::NONCE_LEN;
pub(crate) use weft_aead::{TAG_LEN, open_cookie, seal_cookie};

/// What a backend does. Both work in place.
pub(crate) trait Aead: Sized {
    fn new(key: &[u8; 32]) -> Self;

    /// Encrypts `data` and returns the tag over it and `associated`.
    fn seal(&self, nonce: [u8; NONCE_LEN], associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN];

    /// Decrypts `data` if `tag` is right. After `false` the content of `data`
    /// is not specified, and is never plain text of a forged message.
    #[must_use]
    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool;
}

const fn nonce(counter: u64) -> [u8; NONCE_LEN] {
    let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

#[cfg(feature = "ring")]
type Backend = ring::Key;
#[cfg(not(feature = "ring"))]
type Backend = portable::Key;

/// A key of the backend in use. Erased when dropped.
pub(crate) struct Key(Backend);

impl Key {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(Backend::new(key))
    }

    pub(crate) fn seal(&self, counter: u64, associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        self.0.seal(nonce(counter), associated, data)
    }

    #[must_use]
    pub(crate) fn open(
        &self,
        counter: u64,
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        self.0.open(nonce(counter), associated, data, tag)
    }
}
