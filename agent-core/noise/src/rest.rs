//! Records at rest, sealed under a key that lies elsewhere: in a chip's fuses, beside the
//! flash memory that anybody can read.
//!
//! The salt of a record is a MAC of it, and its key follows from the salt (as in SIV,
//! RFC 5297): so nothing is drawn, and no counter can be lost with the power. Equal records
//! look equal, and how long one is can be seen. Who can write the memory can put an older
//! record back.

use zeroize::{Zeroize, Zeroizing};

use crate::aead::{Key, TAG_LEN};
use crate::{hash, mac};

const SALT_LEN: usize = 16;

/// What sealing adds to a record, in bytes.
pub const OVERHEAD: usize = SALT_LEN + TAG_LEN;

/// What records are sealed with. Erased when dropped.
pub struct RestKey(Zeroizing<[u8; 32]>);

impl RestKey {
    /// Of a secret that this machine has and its memory has not.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(Zeroizing::new(hash::mac32(secret, &[b"weft rest v1"])))
    }

    fn salt(&self, number: u8, plain: &[u8]) -> [u8; SALT_LEN] {
        hash::mac16(&self.0, &[b"salt", &[number], plain])
    }

    fn key(&self, number: u8, salt: &[u8; SALT_LEN]) -> Key {
        Key::new(&Zeroizing::new(hash::mac32(&self.0, &[b"record", &[number], salt])))
    }

    /// Seals the first `len` bytes of `buffer` where they lie, as the record of this number:
    /// `len` + [`OVERHEAD`] bytes. `None` if the buffer is shorter; it is as it was.
    pub fn seal(&self, number: u8, buffer: &mut [u8], len: usize) -> Option<usize> {
        let sealed = buffer.get_mut(..len.checked_add(OVERHEAD)?)?;
        sealed.copy_within(..len, SALT_LEN);
        let (salt, rest) = sealed.split_first_chunk_mut::<SALT_LEN>()?;
        let (data, tag) = rest.split_last_chunk_mut::<TAG_LEN>()?;
        *salt = self.salt(number, data);
        *tag = self.key(number, salt).seal(0, &[], data);
        Some(sealed.len())
    }

    /// Opens a record where it lies; its plain text is the first bytes of `sealed` then, as
    /// many as this says. `None` for one of another number, of another key, or one that was
    /// changed; of its plain text nothing is left then.
    pub fn open(&self, number: u8, sealed: &mut [u8]) -> Option<usize> {
        let (salt, rest) = sealed.split_first_chunk_mut::<SALT_LEN>()?;
        let (data, tag) = rest.split_last_chunk_mut::<TAG_LEN>()?;
        let is_ours = self.key(number, salt).open(0, &[], data, tag)
            && mac::verify(&self.salt(number, data), salt);
        if !is_ours {
            sealed.zeroize();
            return None;
        }
        let len = data.len();
        sealed.copy_within(SALT_LEN..SALT_LEN + len, 0);
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(secret: u8, number: u8, plain: &[u8]) -> Vec<u8> {
        let mut buffer = plain.to_vec();
        buffer.resize(plain.len() + OVERHEAD, 0);
        let len = RestKey::new(&[secret; 32]).seal(number, &mut buffer, plain.len());
        assert_eq!(len, Some(buffer.len()));
        buffer
    }

    #[test]
    fn a_record_opens_under_its_number_and_key_only() {
        for len in [0, 1, 31, 32, 448, 1_280] {
            let plain: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let record = sealed(1, 7, &plain);
            let open = |secret: u8, number: u8| {
                let mut copy = record.clone();
                let len = RestKey::new(&[secret; 32]).open(number, &mut copy)?;
                copy.truncate(len);
                Some(copy)
            };
            assert_eq!(open(1, 7).as_ref(), Some(&plain));
            assert_eq!(open(1, 8), None);
            assert_eq!(open(2, 7), None);
        }
    }

    #[test]
    fn every_bit_counts_and_nothing_shows_through() {
        let plain = b"a private key of thirty-two byte";
        let record = sealed(3, 1, plain);
        assert!(record.windows(8).all(|part| !plain.windows(8).any(|of| of == part)));
        for bit in 0..record.len() * 8 {
            let mut copy = record.clone();
            copy[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RestKey::new(&[3; 32]).open(1, &mut copy), None, "bit {bit}");
            assert!(copy.iter().all(|byte| *byte == 0));
        }
        for len in 0..record.len() {
            assert_eq!(RestKey::new(&[3; 32]).open(1, &mut record[..len].to_vec()), None);
        }
    }

    #[test]
    fn without_room_the_record_is_as_it_was() {
        let mut buffer = *b"0123456789";
        assert_eq!(RestKey::new(&[0; 32]).seal(1, &mut buffer, 10), None);
        assert_eq!(RestKey::new(&[0; 32]).seal(1, &mut buffer, usize::MAX), None);
        assert_eq!(buffer, *b"0123456789");
    }
}
