//! WireGuard's messages, handshake, cookies and transport data.
//!
//! What is here is stateless towards time and peers: who may initiate when,
//! which session is current and where datagrams go is decided by
//! `agent-core`'s `tunnel` and `datapath`.
//!
//! ```text
//! initiation 148  0 type 1  4 sender  8 e 32  40 static 48  88 timestamp 28  116 mac1 16  132 mac2 16
//! response    92  0 type 2  4 sender  8 receiver  12 e 32  44 empty 16  60 mac1 16  76 mac2 16
//! cookie      64  0 type 3  4 receiver  8 nonce 24  32 cookie 32
//! transport ≥ 32  0 type 4  4 receiver  8 counter  16 packet n+16
//! ```
//!
//! All integers little-endian; the three bytes after the type are zero.

pub mod cookie;

mod handshake;
mod keys;
mod session;
mod tai64n;

use weft_wire::id::{PublicKey, Secret};

pub use handshake::{Answered, AuthenticInitiation, InitiationSent, ReceivedInitiation};
pub use keys::{LocalKey, Mac1Checked, RemoteKey};
pub use session::{OpenError, Opened, Opener, SealError, Sealer, SessionKeys, padded_len};
pub use tai64n::Tai64n;

/// Bytes of a handshake initiation (section 5.4.2).
pub const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response (section 5.4.3).
pub const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply (section 5.4.7).
pub const COOKIE_REPLY_LEN: usize = 64;
/// Bytes of transport data before the sealed packet (section 5.4.6).
pub const HEADER_LEN: usize = 16;
/// Bytes of the tag after the sealed packet.
pub const TAG_LEN: usize = 16;
/// Bytes of transport data that holds an empty packet: a keepalive.
pub const KEEPALIVE_LEN: usize = HEADER_LEN + TAG_LEN;
/// Packets are padded with zero bytes to a multiple of this.
pub const PADDING: usize = 16;
/// Room that a packet's buffer needs behind the packet to be sealed in place.
pub const TAILROOM: usize = PADDING - 1 + TAG_LEN;

/// A session is to be replaced after this many packets (section 6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// No packet is sealed or opened with this counter or a greater one.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Words of a chip's replay window: 192 packets.
pub const CHIP_WINDOW_WORDS: usize = 4;
/// Words of a gateway's replay window: 8,128 packets, as the Linux kernel's.
pub const GATEWAY_WINDOW_WORDS: usize = 128;

/// The PSK of two static keys whose owners share `secret`; their order does not
/// matter. An all-zero secret stands for no PSK and stays so.
pub fn bind_psk(secret: &Secret, a: &PublicKey, b: &PublicKey) -> Secret {
    if secret.is_none() {
        return Secret([0; 32]);
    }
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    Secret(crate::hash::mac32(&secret.0, &[b"weft bound psk v1", &low.0, &high.0]))
}

/// Four bytes by which people tell that a PSK is another one than before, and the
/// same on both sides. A hash with a key that nobody can guess says no more.
pub fn psk_mark(psk: &Secret) -> [u8; 4] {
    let [a, b, c, d, ..] = crate::hash::mac32(&psk.0, &[b"weft psk mark v1"]);
    [a, b, c, d]
}

/// The four messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Type 1.
    Initiation = 1,
    /// Type 2.
    Response = 2,
    /// Type 3.
    CookieReply = 3,
    /// Type 4.
    Transport = 4,
}

/// The datagram is no WireGuard message: wrong type, length or reserved bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Why a handshake message or cookie reply is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// No message of the kind that is asked for.
    Malformed,
    /// mac1 is not made for this key.
    Mac1,
    /// A sealed field does not open: forged, for another key or another PSK.
    Unauthentic,
    /// A public key of low order.
    WeakKey,
    /// The initiation comes from another peer than the one given.
    WrongPeer,
    /// The message is for another index, or no message is being answered.
    Unexpected,
}

impl From<Malformed> for HandshakeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<crate::key::WeakKey> for HandshakeError {
    fn from(_: crate::key::WeakKey) -> Self {
        Self::WeakKey
    }
}

/// Which message a datagram is, by type, reserved bytes and length.
///
/// # Errors
///
/// [`Malformed`] for everything else.
pub const fn kind(datagram: &[u8]) -> Result<Kind, Malformed> {
    match (datagram, datagram.len()) {
        ([1, 0, 0, 0, ..], INITIATION_LEN) => Ok(Kind::Initiation),
        ([2, 0, 0, 0, ..], RESPONSE_LEN) => Ok(Kind::Response),
        ([3, 0, 0, 0, ..], COOKIE_REPLY_LEN) => Ok(Kind::CookieReply),
        // A packet need not be a multiple of 16: the padding of the Linux
        // kernel stops at the interface's MTU.
        ([4, 0, 0, 0, ..], KEEPALIVE_LEN..) => Ok(Kind::Transport),
        _ => Err(Malformed),
    }
}

/// The receiver index of a response, cookie reply or transport data; `None`
/// for an initiation and for what is no message.
pub fn receiver(datagram: &[u8]) -> Option<u32> {
    match kind(datagram) {
        Ok(Kind::Response) => Some(u32::from_le_bytes(field(datagram, 8))),
        Ok(Kind::CookieReply | Kind::Transport) => Some(u32::from_le_bytes(field(datagram, 4))),
        Ok(Kind::Initiation) | Err(Malformed) => None,
    }
}

/// Bytes at a place; zero where the datagram is shorter, which no caller meets
/// since the length was checked before.
fn field<const N: usize>(datagram: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(part) = datagram.get(at..at + N) {
        out.copy_from_slice(part);
    }
    out
}
