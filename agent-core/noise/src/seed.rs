//! The coordinator's secrets, all derived from one 32-byte seed, which `init`
//! prints once as the recovery key.

use weft_wire::id::Secret;

use crate::hash::mac32;
use crate::key::StaticSecret;

fn derive(seed: &Secret, label: &[u8], number: u32) -> Secret {
    Secret(mac32(&seed.0, &[label, &number.to_le_bytes()]))
}

/// The coordinator's static key. The current key is that of some generation,
/// the next one that of the generation after it.
pub fn static_key(seed: &Secret, generation: u32) -> StaticSecret {
    StaticSecret::from_bytes(derive(seed, b"weft coordinator key v1", generation).0)
}

/// The master of enrolment and device PSKs (see [`crate::mac::psk`]); `version`
/// is 0 to 15.
pub fn psk_master(seed: &Secret, version: u8) -> Secret {
    derive(seed, b"weft psk master v1", u32::from(version))
}

/// The master of WireGuard PSKs between devices (see [`crate::mac::pair_secret`]).
pub fn pair_master(seed: &Secret) -> Secret {
    derive(seed, b"weft pair master v1", 0)
}

/// The secret behind MQTT passwords (see [`crate::mac::broker_password`]).
pub fn broker_secret(seed: &Secret) -> Secret {
    derive(seed, b"weft broker secret v1", 0)
}
