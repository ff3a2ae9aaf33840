//! Keys without any secrecy, with the part of x25519-dalek's interface that
//! `weft-noise` uses: thousands of simulated handshakes in a second. Two sides
//! agree on a number and nobody else comes upon it by accident; that is all.

#![no_std]
#![forbid(unsafe_code)]

/// Four odd numbers: products of odd numbers are never zero.
const BASE: [u64; 4] =
    [0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB, 0xD6E8_FEB8_6659_FD93];

fn lanes(bytes: &[u8; 32]) -> [u64; 4] {
    let mut lanes = [0; 4];
    for (lane, chunk) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *lane = u64::from_le_bytes(*chunk);
    }
    lanes
}

/// Commutes: `times(a, times(b, x)) == times(b, times(a, x))`.
fn times(secret: &[u8; 32], with: [u64; 4]) -> [u8; 32] {
    let mut product = [0; 32];
    let factors = lanes(secret).into_iter().zip(with);
    for (chunk, (secret, with)) in product.as_chunks_mut::<8>().0.iter_mut().zip(factors) {
        *chunk = (secret | 1).wrapping_mul(with).to_le_bytes();
    }
    product
}

/// In place of a private key.
pub struct StaticSecret([u8; 32]);

impl StaticSecret {
    /// The number that both sides come to.
    pub fn diffie_hellman(&self, other: &PublicKey) -> SharedSecret {
        SharedSecret(times(&self.0, lanes(&other.0)))
    }

    /// What it was made of.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }
}

impl From<[u8; 32]> for StaticSecret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// In place of a public key.
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }
}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<&StaticSecret> for PublicKey {
    fn from(secret: &StaticSecret) -> Self {
        Self(times(&secret.0, BASE))
    }
}

/// What two sides agree on.
pub struct SharedSecret([u8; 32]);

impl SharedSecret {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Whether the other side's key was one.
    pub fn was_contributory(&self) -> bool {
        self.0 != [0; 32]
    }
}
