//! RustCrypto's implementation: every target.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use super::{Aead, NONCE_LEN, TAG_LEN};

/// Erased when dropped (feature `zeroize` of the cipher).
pub(crate) struct Key(ChaCha20Poly1305);

impl Aead for Key {
    fn new(key: &[u8; 32]) -> Self {
        Self(ChaCha20Poly1305::new(key.into()))
    }

    fn seal(&self, nonce: [u8; NONCE_LEN], associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        // Fails only above 256 GiB, and then the zero tag does not verify.
        self.0
            .encrypt_inout_detached(&nonce.into(), associated, data.into())
            .map_or([0; TAG_LEN], Into::into)
    }

    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        self.0.decrypt_inout_detached(&nonce.into(), associated, data.into(), tag.into()).is_ok()
    }
}
