//! Values that are derived rather than stored, and the one comparison of
//! secrets.
//!
//! Each derivation is keyed BLAKE2s over a label of its own and fields of fixed
//! length, so that no two derivations ever hash the same bytes.

use core::fmt;

use subtle::ConstantTimeEq;
use weft_wire::base32::{self, Case};
use weft_wire::frame::PskKind;
use weft_wire::id::{DeviceId, Inbox, KeyId, NetworkId, PublicKey, Secret, ShortSecret};

use crate::hash;

/// Compares in constant time; `false` for different lengths. The only
/// comparison of MACs, passwords and tokens in the house.
#[must_use]
pub fn verify(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// BLAKE2s-256 of the parts one after another. Where parts have varying length,
/// put their lengths in too.
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    hash::hash(parts)
}

/// BLAKE2s-256 keyed with `key`.
pub fn keyed_hash(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    hash::mac32(key, parts)
}

/// The PSK of a control session: `KDF(master, version, kind, id)`. `version` is
/// the master's (0 to 15); `id` is an enrolment key's 8 bytes
/// ([`KeyId::to_bytes`]) or a device's identity public key.
pub fn psk(master: &Secret, version: u8, kind: PskKind, id: &[u8]) -> Secret {
    let kind = match kind {
        PskKind::Enrolment => 1,
        PskKind::Device => 2,
    };
    Secret(hash::mac32(&master.0, &[b"weft psk v1", &[version, kind], id]))
}

/// The PSK of a relay's enrolment string: of a master as [`psk`], and of no use to
/// a device.
pub fn relay_enrolment_psk(master: &Secret, version: u8, key: KeyId) -> Secret {
    Secret(hash::mac32(&master.0, &[b"weft relay enrolment v1", &[version], &key.to_bytes()]))
}

/// The PSK of an enrolled relay's control session.
pub fn relay_psk(master: &Secret, version: u8, identity: &PublicKey) -> Secret {
    Secret(hash::mac32(&master.0, &[b"weft relay psk v1", &[version], &identity.0]))
}

/// What one relay and the coordinator make users' passwords with. In Base64 it is
/// the shared secret of TURN's REST scheme.
pub fn relay_secret(master: &Secret, version: u8, identity: &PublicKey) -> Secret {
    Secret(hash::mac32(&master.0, &[b"weft relay secret v1", &[version], &identity.0]))
}

/// The secret that two devices of a network share; their order does not matter.
/// A new `generation` is a new secret. Their keys are not in it: it outlasts
/// their rotation, and [`crate::wg::bind_psk`] binds it to two of them.
pub fn pair_secret(
    master: &Secret,
    network: NetworkId,
    a: DeviceId,
    b: DeviceId,
    generation: u32,
) -> Secret {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    Secret(hash::mac32(
        &master.0,
        &[
            b"weft pair secret v1",
            &network.0.to_le_bytes(),
            &low.0.to_le_bytes(),
            &high.0.to_le_bytes(),
            &generation.to_le_bytes(),
        ],
    ))
}

/// The MQTT password of an enrolled device: `MAC(broker secret, inbox, expiry)`.
/// `expiry` is Unix time in seconds.
pub fn broker_password(secret: &Secret, inbox: &Inbox, expiry: u32) -> ShortSecret {
    let label = b"weft broker v1";
    ShortSecret(hash::mac16(&secret.0, &[label, &inbox.0, &expiry.to_le_bytes()]))
}

/// The MQTT password of an enrolling device, as in its join string:
/// `MAC(broker secret, "enrol", key id, expiry)`.
pub fn enrol_password(secret: &Secret, key: KeyId, expiry: u32) -> ShortSecret {
    let label = b"weft enrol v1";
    ShortSecret(hash::mac16(&secret.0, &[label, &key.to_bytes(), &expiry.to_le_bytes()]))
}

/// The secret behind the MQTT passwords of enrolling devices whose join strings
/// pin the coordinator's key of some generation: a string of an older one is not
/// let in. That of generation 0 is the broker secret itself.
pub fn enrol_secret(broker: &Secret, generation: u32) -> Secret {
    match generation {
        0 => broker.duplicate(),
        _ => Secret(hash::mac32(&broker.0, &[b"weft enrol secret v1", &generation.to_le_bytes()])),
    }
}

/// The first 80 bits of a public key's BLAKE2s: what people compare, as
/// `BKDL-AME4-GXHL-EGZ3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 10]);

/// The fingerprint of a public key.
pub fn fingerprint(key: &PublicKey) -> Fingerprint {
    let mut short = [0; 10];
    short.copy_from_slice(&hash::hash(&[&key.0])[..10]);
    Fingerprint(short)
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; base32::encoded_len(10)];
        base32::encode(&self.0, Case::Upper, &mut text);
        for (group, characters) in text.chunks(4).enumerate() {
            if group > 0 {
                f.write_str("-")?;
            }
            for character in characters {
                fmt::Write::write_char(f, char::from(*character))?;
            }
        }
        Ok(())
    }
}
