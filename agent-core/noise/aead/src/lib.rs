//! ChaCha20-Poly1305 (RFC 8439), RustCrypto's, on every target.
//!
//! A crate of its own, for weft-noise alone: RustCrypto's code is generic and compiled where
//! it is used, so the opt-level of *this* crate decides how fast a packet is sealed, and all
//! else of weft-noise may be built small. Nothing here is generic or inlined elsewhere.
#![no_std]
#![forbid(unsafe_code)]

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use zeroize::Zeroizing;

/// Bytes of a tag.
pub const TAG_LEN: usize = 16;
/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;

/// Erased when dropped (feature `zeroize` of the cipher).
pub struct Key(ChaCha20Poly1305);

impl Key {
    /// Takes the key's bytes.
    #[inline(never)]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(ChaCha20Poly1305::new(key.into()))
    }

    /// Encrypts `data` and returns the tag over it and `associated`.
    #[inline(never)]
    pub fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        associated: &[u8],
        data: &mut [u8],
    ) -> [u8; TAG_LEN] {
        // Fails only above 256 GiB, and then the zero tag does not verify.
        self.0
            .encrypt_inout_detached(&nonce.into(), associated, data.into())
            .map_or([0; TAG_LEN], Into::into)
    }

    /// Decrypts `data` if `tag` is right. After `false` the content of `data` is not
    /// specified, and is never plain text of a forged message.
    #[must_use]
    #[inline(never)]
    pub fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        self.0.decrypt_inout_detached(&nonce.into(), associated, data.into(), tag.into()).is_ok()
    }
}

/// Seals a cookie with XChaCha20-Poly1305 (section 5.4.7 of the WireGuard paper); the mac1 that is answered is the associated data.
#[inline(never)]
pub fn seal_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    mac1: &[u8; 16],
    cookie: &[u8; 16],
) -> [u8; 32] {
    let mut sealed = [0; 32];
    let (text, tag) = sealed.split_at_mut(16);
    text.copy_from_slice(cookie);
    if let Ok(made) =
        XChaCha20Poly1305::new(key.into()).encrypt_inout_detached(nonce.into(), mac1, text.into())
    {
        tag.copy_from_slice(&made);
    }
    sealed
}

/// Opens what [`seal_cookie`] made.
#[inline(never)]
pub fn open_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    mac1: &[u8; 16],
    sealed: &[u8; 32],
) -> Option<Zeroizing<[u8; 16]>> {
    let (text, tag) = sealed.split_at(16);
    let mut cookie = Zeroizing::new([0; 16]);
    cookie.copy_from_slice(text);
    let tag = <[u8; 16]>::try_from(tag).ok()?;
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(nonce.into(), mac1, (&mut cookie[..]).into(), &tag.into())
        .ok()?;
    Some(cookie)
}
