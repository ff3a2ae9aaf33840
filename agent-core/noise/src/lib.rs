//! The two Noise IK handshakes of Weft and what they stand on.
//!
//! - [`wg`]: WireGuard (`Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`): handshake,
//!   cookies, [`wg::Sealer`] and [`wg::Opener`]. Page and section numbers in
//!   this module mean the WireGuard paper (Donenfeld, NDSS 2017, revision of
//!   2020).
//! - [`sealed`]: the control channel between device and coordinator
//!   (`Noise_IKpsk1_25519_ChaChaPoly_BLAKE2s`), in the frames of
//!   `weft_wire::frame`.
//! - [`probe`]: the key that authenticates path probes between two peers.
//! - [`legacy`]: the digests that STUN and TURN ask for.
//! - [`mac`] and [`seed`]: everything that is derived rather than stored.
//!
//! This is the only crate of the house that names a cipher. It does no input
//! or output, reads no clock (`now_us` is an argument: microseconds of any
//! monotonic clock) and draws no randomness of its own ([`entropy::Entropy`]
//! is an argument), needs no allocator and holds no `unsafe`.
//!
//! # States are types
//!
//! ```
//! use weft_noise::{entropy::Entropy, key::StaticSecret, wg};
//!
//! # struct Rng(u64);
//! # impl Entropy for Rng {
//! #     fn fill(&mut self, out: &mut [u8]) {
//! #         for byte in out {
//! #             self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1);
//! #             *byte = (self.0 >> 33) as u8;
//! #         }
//! #     }
//! # }
//! # fn main() -> Result<(), wg::HandshakeError> {
//! # let mut rng = Rng(1);
//! let a = wg::LocalKey::new(StaticSecret::generate(&mut rng));
//! let b = wg::LocalKey::new(StaticSecret::generate(&mut rng));
//! let (a_sees_b, b_sees_a) = (a.remote(b.public())?, b.remote(a.public())?);
//! let psk = weft_wire::id::Secret([7; 32]);
//!
//! let mut initiation = [0; wg::INITIATION_LEN];
//! let stamp = wg::Tai64n::from_steps(1);
//! let mut sent = a.initiate(&a_sees_b, 11, stamp, &mut rng, &mut initiation);
//!
//! let checked = b.check_mac1(&initiation)?;
//! let received = b.receive_initiation(&checked)?;
//! assert_eq!(received.peer(), a.public());
//! let authentic = received.authenticate(&b_sees_a)?;
//! let mut response = [0; wg::RESPONSE_LEN];
//! let b_keys = authentic.respond(22, &psk, &mut rng, &mut response);
//!
//! let checked = a.check_mac1(&response)?;
//! let answered = sent.receive_response(&a, &checked, &[&psk])?;
//! let (mut sealer, _) = answered.keys.split::<{ wg::CHIP_WINDOW_WORDS }>();
//! let (_, mut opener) = b_keys.split::<{ wg::CHIP_WINDOW_WORDS }>();
//!
//! let mut buffer = [0; 128];
//! buffer[wg::HEADER_LEN..][..5].copy_from_slice(b"hello");
//! let len = sealer.seal(&mut buffer, 5, 1280).expect("there is room");
//! let opened = opener.open(&mut buffer[..len]).expect("authentic");
//! assert_eq!(&buffer[opened.range()][..5], b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! - `ring`: adds ring's assembler AEAD beside the portable one and uses it for
//!   everything but cookies.
//! - `precomputed-tables`: 30 KB of tables that make a fresh key pair three
//!   times cheaper.
//!
//! # Panics
//!
//! No function here panics on any input from the network.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "digest")]
pub mod digest;
pub mod entropy;
pub mod key;
pub mod legacy;
pub mod mac;
pub mod probe;
pub mod rest;
pub mod sealed;
pub mod seed;
pub mod wg;

mod aead;
mod hash;
mod replay;
mod symmetric;
