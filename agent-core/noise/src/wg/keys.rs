//! Static keys with what is computed once from them, and mac1.

use weft_wire::id::{PublicKey, Secret};

use super::{HandshakeError, Kind, field, kind};
use crate::hash::{hash, mac16};
use crate::key::{Shared, StaticSecret, WeakKey};
use crate::mac;
use crate::probe::ProbeKey;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// `HASH("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")`.
pub(super) const CHAIN: [u8; 32] = [
    0x60, 0xe2, 0x6d, 0xae, 0xf3, 0x27, 0xef, 0xc0, 0x2e, 0xc3, 0x35, 0xe2, 0xa0, 0x25, 0xd2, 0xd0,
    0x16, 0xeb, 0x42, 0x06, 0xf8, 0x72, 0x77, 0xf5, 0x2d, 0x38, 0xd1, 0x98, 0x8b, 0x78, 0xcd, 0x36,
];

/// `HASH(CHAIN ‖ "WireGuard v1 zx2c4 Jason@zx2c4.com")`.
pub(super) const CHAIN_HASH: [u8; 32] = [
    0x22, 0x11, 0xb3, 0x61, 0x08, 0x1a, 0xc5, 0x66, 0x69, 0x12, 0x43, 0xdb, 0x45, 0x8a, 0xd5, 0x32,
    0x2d, 0x9c, 0x6c, 0x66, 0x22, 0x93, 0xe8, 0xb7, 0x0e, 0xe1, 0x9c, 0x65, 0xba, 0x07, 0x9e, 0xf3,
];

/// The handshake's hash after the responder's static key was mixed in.
fn initial_hash(responder: &PublicKey) -> [u8; 32] {
    hash(&[&CHAIN_HASH, &responder.0])
}

/// The key of mac1 in messages to whoever has this key.
fn mac1_key(to: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_MAC1, &to.0])
}

/// The key of cookie replies from whoever has this key.
fn cookie_key(from: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_COOKIE, &from.0])
}

/// What follows from our own public key: every message of a flood is checked with it.
struct PublicParts {
    public: PublicKey,
    hash: [u8; 32],
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
}

impl PublicParts {
    fn new(public: PublicKey) -> Self {
        Self {
            public,
            hash: initial_hash(&public),
            mac1_key: mac1_key(&public),
            cookie_key: cookie_key(&public),
        }
    }
}

/// One own static key. A device in rotation has two.
pub struct LocalKey {
    pub(super) secret: StaticSecret,
    parts: PublicParts,
}

impl LocalKey {
    /// Computes the public key and what follows from it.
    pub fn new(secret: StaticSecret) -> Self {
        let parts = PublicParts::new(secret.public());
        Self { secret, parts }
    }

    /// The public key.
    pub const fn public(&self) -> &PublicKey {
        &self.parts.public
    }

    /// A peer's static key as this key sees it: one X25519.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when the peer's key has low order.
    pub fn remote(&self, public: &PublicKey) -> Result<RemoteKey, WeakKey> {
        Ok(RemoteKey { static_static: self.secret.diffie_hellman(public)?, public: *public })
    }

    /// Checks length and mac1 of an initiation or response (section 5.4.4).
    /// With two own keys, mac1 tells which of them the sender means: ask both.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::Malformed`] or [`HandshakeError::Mac1`].
    pub fn check_mac1<'a>(&self, datagram: &'a [u8]) -> Result<Mac1Checked<'a>, HandshakeError> {
        let kind = kind(datagram)?;
        if !matches!(kind, Kind::Initiation | Kind::Response) {
            return Err(HandshakeError::Malformed);
        }
        let checked = Mac1Checked { message: datagram, kind };
        let expected = mac16(&self.parts.mac1_key, &[checked.before_mac1()]);
        if mac::verify(&expected, &checked.mac1()) {
            Ok(checked)
        } else {
            Err(HandshakeError::Mac1)
        }
    }

    /// The handshake's first hash when this key is the responder's.
    pub(super) const fn initial_hash(&self) -> [u8; 32] {
        self.parts.hash
    }

    /// The key of cookie replies that this side sends.
    pub(super) const fn cookie_key(&self) -> &[u8; 32] {
        &self.parts.cookie_key
    }
}

/// A peer's static key as one [`LocalKey`] sees it; holds the static-static
/// secret, so it is of use with that local key only. No `Debug`, no `Clone`.
///
/// 64 bytes: the three hashes of the public key are made when a handshake wants them, which
/// costs it a thousandth of its time.
pub struct RemoteKey {
    pub(super) static_static: Shared,
    public: PublicKey,
}

impl RemoteKey {
    /// The public key.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key of path probes between the two; both sides get the same.
    pub fn probe_key(&self, psk: &Secret) -> ProbeKey {
        ProbeKey::derive(&self.static_static, psk)
    }

    /// The handshake's first hash when this peer is the responder.
    pub(super) fn initial_hash(&self) -> [u8; 32] {
        initial_hash(&self.public)
    }

    pub(super) fn mac1_key(&self) -> [u8; 32] {
        mac1_key(&self.public)
    }

    /// The key of cookie replies that this peer sends.
    pub(super) fn cookie_key(&self) -> [u8; 32] {
        cookie_key(&self.public)
    }
}

/// Writes mac1 into its place and zero into mac2's.
pub(super) fn write_macs(message: &mut [u8], mac1_key: &[u8; 32]) {
    let (before, macs) = message.split_at_mut(message.len() - 32);
    macs[..16].copy_from_slice(&mac16(mac1_key, &[before]));
    macs[16..].fill(0);
}

/// An initiation or response whose mac1 is right: its sender knows our public
/// key. Only such a message is worth a Diffie-Hellman, or a cookie reply.
#[derive(Clone, Copy)]
pub struct Mac1Checked<'a> {
    message: &'a [u8],
    kind: Kind,
}

impl<'a> Mac1Checked<'a> {
    /// [`Kind::Initiation`] or [`Kind::Response`].
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The sender's index: where an answer goes.
    pub fn sender(&self) -> u32 {
        u32::from_le_bytes(field(self.message, 4))
    }

    /// A response's receiver index: ours. `None` for an initiation.
    pub fn receiver(&self) -> Option<u32> {
        super::receiver(self.message)
    }

    pub(super) fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        field(self.message, at)
    }

    pub(super) fn before_mac1(&self) -> &'a [u8] {
        &self.message[..self.message.len() - 32]
    }

    pub(super) fn mac1(&self) -> [u8; 16] {
        field(self.message, self.message.len() - 32)
    }

    pub(super) fn before_mac2(&self) -> &'a [u8] {
        &self.message[..self.message.len() - 16]
    }

    pub(super) fn mac2(&self) -> [u8; 16] {
        field(self.message, self.message.len() - 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_hashes_are_what_the_paper_says() {
        assert_eq!(hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]), CHAIN);
        assert_eq!(hash(&[&CHAIN, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]), CHAIN_HASH);
    }
}
