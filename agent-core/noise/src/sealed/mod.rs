//! The sealed control channel: `Noise_IKpsk1_25519_ChaChaPoly_BLAKE2s` between
//! a device (initiator) and the coordinator (responder), in the frames of
//! [`weft_wire::frame`].
//!
//! ```text
//! device                                            coordinator
//! Initiator::hello ───────── HELLO ──────────────►  CoordinatorKey::check_mac1
//!   Pending                                         CoordinatorKey::open_hello → Opened
//!                                                     the device's key is known: choose the PSK
//!                                                   Opened::verify → Verified (and the payload)
//!                                                     nothing is written yet
//! Pending::welcome ◄──────── WELCOME ─────────────  Verified::welcome → Session
//!   Accepted::into_session → Session
//! Session ────────────────── RECORD ─────────────►  Session: the first record confirms it
//! ```
//!
//! The prologue is the first 27 bytes of HELLO (version, type, PSK kind and
//! reference, inbox). "psk1" means that the PSK is mixed after the static keys
//! and before message one's payload, so the coordinator has checked the secret
//! before it answers. A replayed HELLO makes a session that is never confirmed.
//!
//! RETRY and RESET are not authenticated; they are hints and touch no state
//! here.

pub mod coordinator;
pub mod device;
pub mod retry;

mod session;

pub use session::{REJECT_AFTER_RECORDS, REKEY_AFTER_RECORDS, Session};

use weft_wire::frame::FrameError;
use weft_wire::id::PublicKey;

use crate::hash::hash;

/// `HASH("Noise_IKpsk1_25519_ChaChaPoly_BLAKE2s")`: the name is longer than a
/// hash (section 5.2 of the Noise paper).
const CHAIN: [u8; 32] = [
    0x1f, 0xe8, 0x4b, 0xf9, 0xe6, 0x97, 0x0d, 0x8f, 0xf6, 0xfa, 0xe6, 0x72, 0xa4, 0x28, 0xaf, 0x0e,
    0x52, 0xf9, 0xdf, 0x21, 0xea, 0xbf, 0x52, 0x22, 0xc4, 0x13, 0xaf, 0x09, 0x42, 0x2f, 0xfd, 0xc8,
];

const LABEL_MAC1: &[u8] = b"weft hello mac1 v1";

/// Why a frame is refused or not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealedError {
    /// Not a frame of the kind that is asked for.
    Frame(FrameError),
    /// mac1 is not made for this coordinator's key.
    Mac1,
    /// Forged, for another key, or made with another PSK.
    Unauthentic,
    /// A public key of low order.
    WeakKey,
    /// The frame answers another HELLO, or belongs to another session.
    Unexpected,
    /// Seen before, or older than the window.
    Replayed,
    /// The output buffer is too short, or the frame would be longer than
    /// [`weft_wire::frame::MAX_FRAME`].
    NoRoom,
    /// The session's counter is at its end.
    Exhausted,
}

impl From<FrameError> for SealedError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<crate::key::WeakKey> for SealedError {
    fn from(_: crate::key::WeakKey) -> Self {
        Self::WeakKey
    }
}

/// The key of HELLO's mac1: whoever knows the coordinator's public key, which
/// only join strings hold, can make it.
fn mac1_key(coordinator: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_MAC1, &coordinator.0])
}

/// The first 8 bytes of the hash of a whole HELLO, as WELCOME, RETRY and RESET
/// name it.
pub fn hello_hash(frame: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&hash(&[frame])[..8]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chaining_key_starts_as_the_noise_paper_says() {
        assert_eq!(hash(&[b"Noise_IKpsk1_25519_ChaChaPoly_BLAKE2s"]), CHAIN);
    }
}
