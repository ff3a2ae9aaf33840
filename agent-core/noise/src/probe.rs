//! The key that authenticates path probes between two peers.

use weft_wire::id::{PublicKey, Secret};
use zeroize::Zeroizing;

use crate::hash::{hash, mac16};
use crate::mac;

const LABEL: &[u8] = b"weft probe v1";

/// `BLAKE2s("weft probe v1" ‖ DH(static, static) ‖ psk)` of the active pair of
/// WireGuard keys; both sides compute the same. Erased when dropped.
pub struct ProbeKey(Zeroizing<[u8; 32]>);

/// The first four bytes of BLAKE2s of a WireGuard key, little-endian: what names the
/// sender of a probe to somebody whose handle it does not know.
pub fn hint(key: &PublicKey) -> u32 {
    let [a, b, c, d, ..] = hash(&[&key.0]);
    u32::from_le_bytes([a, b, c, d])
}

impl ProbeKey {
    pub(crate) fn derive(static_static: &[u8; 32], psk: &Secret) -> Self {
        Self(Zeroizing::new(hash(&[LABEL, static_static, &psk.0])))
    }

    /// Keyed BLAKE2s-128 over a probe without its MAC.
    pub fn mac(&self, probe: &[u8]) -> [u8; 16] {
        mac16(&self.0, &[probe])
    }

    /// Whether a probe's MAC is right; compares in constant time.
    pub fn verify(&self, probe: &[u8], mac: &[u8; 16]) -> bool {
        mac::verify(&self.mac(probe), mac)
    }
}
