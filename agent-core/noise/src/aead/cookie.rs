//! XChaCha20-Poly1305 for cookie replies (section 5.4.7): portable always,
//! since cookies are sealed under load only, a few in a second.

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use zeroize::Zeroizing;

/// Seals a cookie; the mac1 that is answered is the associated data.
pub(crate) fn seal_cookie(
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
pub(crate) fn open_cookie(
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
