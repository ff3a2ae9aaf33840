//! What STUN and TURN ask for (RFC 8489 sections 9.2 and 14.5): HMAC-SHA1,
//! HMAC-SHA256, an MD5 of user, realm and password. They guard credentials that
//! last for hours and allow no more than having packets relayed; nothing of ours
//! stands on them. The only place that names these digests.

use core::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use weft_wire::base64;
use weft_wire::stun::{Algorithm, Integrity, MessageWriter, StunError};
use zeroize::Zeroize;

use crate::mac;

/// The key of the long-term credential mechanism:
/// `MD5(user ":" realm ":" password)`.
pub struct LongTermKey([u8; 16]);

impl Drop for LongTermKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl LongTermKey {
    /// The key of these credentials. The texts are taken as they are: who needs
    /// OpaqueString (RFC 8265) prepares them before.
    pub fn new(user: &[u8], realm: &[u8], password: &[u8]) -> Self {
        let mut digest = Md5::new();
        for part in [user, b":", realm, b":", password] {
            digest.update(part);
        }
        Self(digest.finalize().into())
    }

    /// Whether the message's MAC of this algorithm was made with this key.
    #[must_use]
    pub fn verify(&self, algorithm: Algorithm, integrity: &Integrity<'_>) -> bool {
        verify(&self.0, algorithm, integrity)
    }

    /// Appends the MAC to a message.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn sign(
        &self,
        algorithm: Algorithm,
        writer: &mut MessageWriter<'_>,
    ) -> Result<(), StunError> {
        writer.integrity(algorithm, |bytes, out| match algorithm {
            Algorithm::Sha1 => out.copy_from_slice(&hmac_sha1(&self.0, &[bytes])),
            Algorithm::Sha256 => out.copy_from_slice(&hmac_sha256(&self.0, &[bytes])),
        })
    }
}

/// Whether a message's MAC was made with this key: a [`LongTermKey`]'s bytes, or
/// the password itself for short-term credentials. One that was cut to a shorter
/// length, as its algorithm admits, is compared in that length.
#[must_use]
pub fn verify(key: &[u8], algorithm: Algorithm, integrity: &Integrity<'_>) -> bool {
    let parts = integrity.parts();
    match algorithm {
        Algorithm::Sha1 => mac::verify(&hmac_sha1(key, &parts), integrity.mac()),
        Algorithm::Sha256 => hmac_sha256(key, &parts)
            .get(..integrity.mac().len())
            .is_some_and(|whole| mac::verify(whole, integrity.mac())),
    }
}

/// HMAC-SHA1 of the parts, one after the other (RFC 2104).
pub fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut mac = keyed::<Hmac<Sha1>>(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// HMAC-SHA256 of the parts, one after the other (RFC 2104).
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed::<Hmac<Sha256>>(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn keyed<M: Mac + KeyInit>(key: &[u8]) -> M {
    match M::new_from_slice(key) {
        Ok(mac) => mac,
        // An HMAC takes a key of any length.
        Err(_) => unreachable!(),
    }
}

/// Characters of a [`SharedPassword`].
pub const PASSWORD_LEN: usize = 28;

/// The password of a user whose name begins with the Unix time at which it
/// ends, as coturn's `use-auth-secret` has it: `base64(HMAC-SHA1(secret, user))`.
pub struct SharedPassword([u8; PASSWORD_LEN]);

impl Drop for SharedPassword {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl SharedPassword {
    /// The password of `user` (`1764230400:name`) under this secret.
    pub fn new(secret: &[u8], user: &[u8]) -> Self {
        Self::from_mac(&hmac_sha1(secret, &[user]))
    }

    /// The password that is made of this MAC, by somebody who was not told the
    /// secret.
    pub fn from_mac(mac: &[u8; 20]) -> Self {
        let mut text = Text::new();
        // Cannot fail: 20 bytes are 28 characters.
        let _ = base64::write(mac, &mut text);
        Self(text.bytes)
    }

    /// The text.
    pub const fn as_bytes(&self) -> &[u8; PASSWORD_LEN] {
        &self.0
    }

    /// The key of these credentials.
    pub fn key(&self, user: &[u8], realm: &[u8]) -> LongTermKey {
        LongTermKey::new(user, realm, &self.0)
    }
}

/// Where base64 is written to.
struct Text {
    bytes: [u8; PASSWORD_LEN],
    len: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; PASSWORD_LEN], len: 0 }
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
