//! STUN and TURN messages (RFC 8489, RFC 5780, RFC 8656), in a view and a
//! writer, and the framing of [`ChannelData`].
//!
//! No crypto: [`Message::integrity`] hands out the bytes that a MAC covers, with
//! the length field that it covers (RFC 8489 section 14.5), and
//! [`MessageWriter::integrity`] takes the MAC from the caller.
//!
//! Deviations: a message that carries FINGERPRINT somewhere else than at its end
//! is refused, and so is one with a MESSAGE-INTEGRITY of another length than
//! its algorithm has. [`Message::attributes`] leaves out what follows
//! MESSAGE-INTEGRITY, as section 14.5 asks. Comprehension-required attributes
//! that are unknown are reported by [`Message::unknown_required`]
//! (section 6.3.1). Channel numbers are read in RFC 5766's range, which clients
//! of that age still choose from, and belong to RFC 8656's when we choose.

mod address;
mod channel;
mod integrity;
mod message;
mod names;
mod stream;
mod writer;

#[cfg(test)]
mod tests;

pub use address::Family;
pub use channel::{CHANNEL_HEADER_LEN, CHANNELS, ChannelData, LEGACY_CHANNELS};
pub use integrity::{Algorithm, Integrity};
pub use message::{ChangeRequest, Message};
pub use names::*;
pub use stream::{Deframer, Frame, frame_len};
pub use writer::MessageWriter;

/// Names one request and its answer.
pub type TransactionId = [u8; 12];

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StunError {
    /// First two bits or magic cookie: something else on the same socket.
    NotStun,
    /// The length field does not fit the datagram.
    Length,
    /// An attribute reaches beyond the message.
    Attribute,
    /// FINGERPRINT is there and does not match.
    Fingerprint,
    /// No room in the caller's buffer.
    NoRoom,
}
