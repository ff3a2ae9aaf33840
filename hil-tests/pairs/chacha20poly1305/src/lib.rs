//! A checksum in place of a cipher, with the part of chacha20poly1305's interface
//! that `weft-noise` uses. The text stays readable; a wrong key, nonce or bit is
//! noticed, unless somebody means it.

#![no_std]
#![forbid(unsafe_code)]

/// The traits of the `aead` crate, as far as they are used.
pub mod aead {
    /// The tag is wrong.
    #[derive(Clone, Copy, Debug)]
    pub struct Error;

    /// Made from a key.
    pub trait KeyInit {
        /// With this key.
        fn new(key: &[u8; 32]) -> Self;
    }

    /// Seals and opens in place.
    pub trait AeadInOut {
        /// The nonce's type.
        type Nonce;

        /// The tag of a text, which stays what it is.
        ///
        /// # Errors
        ///
        /// None.
        fn encrypt_inout_detached(
            &self,
            nonce: &Self::Nonce,
            associated: &[u8],
            text: &mut [u8],
        ) -> Result<[u8; 16], Error>;

        /// Compares the tag of a text.
        ///
        /// # Errors
        ///
        /// It is another one.
        fn decrypt_inout_detached(
            &self,
            nonce: &Self::Nonce,
            associated: &[u8],
            text: &mut [u8],
            tag: &[u8; 16],
        ) -> Result<(), Error>;
    }
}

use aead::{AeadInOut, Error, KeyInit};

const ONE: u64 = 0x9E37_79B9_7F4A_7C15;
const OTHER: u64 = 0xC2B2_AE3D_27D4_EB4F;

/// Multiplies and turns, eight bytes at a time.
#[derive(Clone, Copy)]
struct Sum([u64; 2]);

impl Sum {
    fn word(&mut self, word: u64) {
        let [one, other] = &mut self.0;
        *one = (*one ^ word).wrapping_mul(ONE).rotate_left(29);
        *other = (*other ^ word.rotate_left(17)).wrapping_mul(OTHER).rotate_left(31) ^ *one;
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
        self
    }

    fn tag(self) -> [u8; 16] {
        let mut tag = [0; 16];
        tag[..8].copy_from_slice(&self.0[0].to_le_bytes());
        tag[8..].copy_from_slice(&self.0[1].to_le_bytes());
        tag
    }
}

/// A checksum with nonces of `NONCE` bytes.
pub struct Checksum<const NONCE: usize>(Sum);

/// In place of ChaCha20-Poly1305.
pub type ChaCha20Poly1305 = Checksum<12>;
/// In place of XChaCha20-Poly1305.
pub type XChaCha20Poly1305 = Checksum<24>;

impl<const NONCE: usize> KeyInit for Checksum<NONCE> {
    fn new(key: &[u8; 32]) -> Self {
        Self(Sum([ONE, OTHER]).bytes(key))
    }
}

impl<const NONCE: usize> AeadInOut for Checksum<NONCE> {
    type Nonce = [u8; NONCE];

    fn encrypt_inout_detached(
        &self,
        nonce: &[u8; NONCE],
        associated: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; 16], Error> {
        Ok(self.0.bytes(nonce).bytes(associated).bytes(text).tag())
    }

    fn decrypt_inout_detached(
        &self,
        nonce: &[u8; NONCE],
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), Error> {
        let right = self.0.bytes(nonce).bytes(associated).bytes(text).tag();
        if right == *tag { Ok(()) } else { Err(Error) }
    }
}
