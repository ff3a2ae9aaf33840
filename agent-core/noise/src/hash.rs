//! BLAKE2s in the three ways WireGuard uses it (section 5.4): plain hash,
//! keyed MAC of 16 bytes, and HMAC for the key derivation (RFC 2104, RFC 5869).

use blake2::digest::typenum::{U16, U32};
use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use zeroize::Zeroizing;

const BLOCK_LEN: usize = 64;

/// `HASH(a ‖ b ‖ …)`.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::default();
    for part in parts {
        state.update(part);
    }
    state.finalize_fixed().into()
}

/// `MAC(key, a ‖ b ‖ …)`: keyed BLAKE2s with 16 bytes of output.
pub(crate) fn mac16(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    let mut state = Blake2sMac::<U16>::new(key.into());
    for part in parts {
        state.update(part);
    }
    state.finalize_fixed().into()
}

/// Keyed BLAKE2s with 32 bytes of output.
pub(crate) fn mac32(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2sMac::<U32>::new(key.into());
    for part in parts {
        state.update(part);
    }
    state.finalize_fixed().into()
}

/// The MAC under a cookie, whose key is the cookie's 16 bytes (section 5.4.4).
pub(crate) fn mac16_short(key: &[u8; 16], message: &[u8]) -> [u8; 16] {
    let mut state =
        Blake2sMac::<U16>::new_from_slice(key).expect("BLAKE2s takes keys of up to 32 bytes");
    state.update(message);
    state.finalize_fixed().into()
}

/// HMAC-BLAKE2s with a key of 32 bytes, whose two padded blocks are hashed
/// once for all outputs of a derivation.
struct Hmac {
    inner: Blake2s256,
    outer: Blake2s256,
}

impl Hmac {
    fn new(key: &[u8; 32]) -> Self {
        let mut pad = Zeroizing::new([0x36; BLOCK_LEN]);
        for (byte, key) in pad.iter_mut().zip(key) {
            *byte ^= key;
        }
        let mut inner = Blake2s256::default();
        inner.update(&*pad);
        for byte in pad.iter_mut() {
            *byte ^= 0x36 ^ 0x5C;
        }
        let mut outer = Blake2s256::default();
        outer.update(&*pad);
        Self { inner, outer }
    }

    fn sign(&self, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut inner = self.inner.clone();
        for part in parts {
            inner.update(part);
        }
        let inner = Zeroizing::new(<[u8; 32]>::from(inner.finalize_fixed()));
        let mut outer = self.outer.clone();
        outer.update(&*inner);
        Zeroizing::new(outer.finalize_fixed().into())
    }
}

/// `KDFn(chain, input)` of section 5.4: HKDF with BLAKE2s and n outputs.
pub(crate) fn kdf<const N: usize>(chain: &[u8; 32], input: &[u8]) -> [Zeroizing<[u8; 32]>; N] {
    let secret = Hmac::new(chain).sign(&[input]);
    let expand = Hmac::new(&secret);
    let mut outputs = [(); N].map(|()| Zeroizing::new([0; 32]));
    for index in 0..N {
        let counter = [index as u8 + 1];
        outputs[index] = match index.checked_sub(1) {
            None => expand.sign(&[&counter]),
            Some(before) => expand.sign(&[&*outputs[before], &counter]),
        };
    }
    outputs
}
