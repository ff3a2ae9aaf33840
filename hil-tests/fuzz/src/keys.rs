//! Keys that never change, so that stored messages stay genuine.

use weft_noise::key::StaticSecret;
use weft_noise::wg::{LocalKey, RemoteKey};
use weft_wire::id::Secret;

/// Our private key: the one that a target's side under attack has.
pub const OUR_SECRET: [u8; 32] = [0x11; 32];
/// The private key of the peer whose messages are stored.
pub const PEER_SECRET: [u8; 32] = [0x22; 32];
/// The PSK of the two.
pub const PSK: [u8; 32] = [0x33; 32];

pub(crate) fn local(secret: [u8; 32]) -> LocalKey {
    LocalKey::new(StaticSecret::from_bytes(secret))
}

/// The owner of `other`, as the owner of `own` knows it.
pub(crate) fn remote(own: &LocalKey, other: [u8; 32]) -> RemoteKey {
    own.remote(&StaticSecret::from_bytes(other).public()).expect("a key of full order")
}

pub(crate) const fn psk() -> Secret {
    Secret(PSK)
}
