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

/// `HMAC(key, a ‖ b ‖ …)` with BLAKE2s (RFC 2104).
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut pad = Zeroizing::new([0x36; BLOCK_LEN]);
    for (byte, key) in pad.iter_mut().zip(key) {
        *byte ^= key;
    }
    let mut inner = Blake2s256::default();
    inner.update(&*pad);
    for part in parts {
        inner.update(part);
    }
    let inner = Zeroizing::new(<[u8; 32]>::from(inner.finalize_fixed()));
    for byte in pad.iter_mut() {
        *byte ^= 0x36 ^ 0x5C;
    }
    Zeroizing::new(hash(&[&*pad, &*inner]))
}

/// `KDFn(chain, input)` of section 5.4: HKDF with BLAKE2s and n outputs.
pub(crate) fn kdf<const N: usize>(chain: &[u8; 32], input: &[u8]) -> [Zeroizing<[u8; 32]>; N] {
    let secret = hmac(chain, &[input]);
    let mut outputs = [(); N].map(|()| Zeroizing::new([0; 32]));
    for index in 0..N {
        let counter = [index as u8 + 1];
        outputs[index] = match index.checked_sub(1) {
            None => hmac(&secret, &[&counter]),
            Some(before) => hmac(&secret, &[&*outputs[before], &counter]),
        };
    }
    outputs
}
