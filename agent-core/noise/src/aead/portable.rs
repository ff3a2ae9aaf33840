//! RustCrypto's implementation: every target.

use super::{Aead, NONCE_LEN, TAG_LEN};

pub(crate) struct Key(weft_aead::Key);

impl Aead for Key {
    fn new(key: &[u8; 32]) -> Self {
        Self(weft_aead::Key::new(key))
    }

    fn seal(&self, nonce: [u8; NONCE_LEN], associated: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        self.0.seal(nonce, associated, data)
    }

    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> bool {
        self.0.open(nonce, associated, data, tag)
    }
}
