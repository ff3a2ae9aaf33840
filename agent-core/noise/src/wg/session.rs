//! Transport data (section 5.4.6): one object seals, another opens.

use weft_wire::id::Secret;

use super::{HEADER_LEN, KEEPALIVE_LEN, Kind, PADDING, REJECT_AFTER_MESSAGES, TAG_LEN, field};
use crate::aead::Key;
use crate::replay::ReplayWindow;

/// The keys of a session, both directions. Erased when dropped. Still raw, so
/// that whoever only hands them on needs 72 bytes, whatever the backend.
pub struct SessionKeys {
    send: Secret,
    receive: Secret,
    local: u32,
    remote: u32,
}

impl SessionKeys {
    pub(super) const fn new(send: Secret, receive: Secret, local: u32, remote: u32) -> Self {
        Self { send, receive, local, remote }
    }

    /// The own index: the receiver field of what comes in.
    pub const fn local_index(&self) -> u32 {
        self.local
    }

    /// The peer's index: the receiver field of what goes out.
    pub const fn remote_index(&self) -> u32 {
        self.remote
    }

    /// Gives the two directions to their owners. `WORDS` is a power of two from
    /// 2 on; the replay window holds `(WORDS - 1) * 64` packets.
    pub fn split<const WORDS: usize>(self) -> (Sealer, Opener<WORDS>) {
        let Self { send, receive, local, remote } = self;
        let sealer = Sealer { key: Key::new(&send.0), receiver: remote, counter: 0 };
        let opener =
            Opener { key: Key::new(&receive.0), index: local, window: ReplayWindow::new() };
        (sealer, opener)
    }
}

/// Why a packet is not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealError {
    /// The buffer does not hold header, packet, padding and tag.
    NoRoom,
    /// [`REJECT_AFTER_MESSAGES`] is reached: the session is at its end.
    Exhausted,
}

/// Why a datagram is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// Not transport data for this session's index.
    Malformed,
    /// Seen before, or older than the replay window.
    Replayed,
    /// The tag is wrong; the datagram's content is lost.
    Unauthentic,
    /// The counter is at or beyond [`REJECT_AFTER_MESSAGES`].
    Exhausted,
}

/// The length of a packet with its padding: the next multiple of 16, but no
/// longer than the MTU, so that the datagram fits the path (as the Linux kernel
/// pads). A packet above the MTU is not padded.
pub const fn padded_len(len: usize, mtu: usize) -> usize {
    // Saturates instead of overflowing; no buffer is that long.
    let padded = match len.checked_next_multiple_of(PADDING) {
        Some(padded) => padded,
        None => len,
    };
    if padded <= mtu {
        padded
    } else if len >= mtu {
        len
    } else {
        mtu
    }
}

/// Type, receiver and counter, in one piece: a chip stores words sooner than it copies slices.
const fn transport_header(receiver: u32, counter: u64) -> [u8; HEADER_LEN] {
    let header = Kind::Transport as u128 | (receiver as u128) << 32 | (counter as u128) << 64;
    header.to_le_bytes()
}

/// The sending direction of a session. No `Clone`: two copies would use one
/// nonce twice.
///
/// ```compile_fail
/// fn is_clone<T: Clone>() {}
/// is_clone::<weft_noise::wg::Sealer>();
/// ```
pub struct Sealer {
    key: Key,
    receiver: u32,
    counter: u64,
}

impl Sealer {
    /// The peer's index: the receiver field of what is sealed.
    pub const fn receiver(&self) -> u32 {
        self.receiver
    }

    /// The next packet's counter: how many were sealed or skipped.
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    /// Leaves counters out, which to the peer looks like lost packets. Never
    /// goes back.
    pub const fn skip(&mut self, counters: u64) {
        self.counter = self.counter.saturating_add(counters);
    }

    /// Makes transport data in place. `buffer` holds [`HEADER_LEN`] bytes of
    /// any content, then the packet of `len` bytes, then room for padding (see
    /// [`padded_len`]) and tag. Returns the datagram's length. A packet of no
    /// bytes makes a keepalive.
    ///
    /// # Errors
    ///
    /// [`SealError`]; the buffer is as it was.
    pub fn seal(&mut self, buffer: &mut [u8], len: usize, mtu: usize) -> Result<usize, SealError> {
        if self.counter >= REJECT_AFTER_MESSAGES {
            return Err(SealError::Exhausted);
        }
        let padded = padded_len(len, mtu);
        let end = padded.checked_add(KEEPALIVE_LEN).ok_or(SealError::NoRoom)?;
        let datagram = buffer.get_mut(..end).ok_or(SealError::NoRoom)?;
        let (header, rest) = datagram.split_first_chunk_mut().ok_or(SealError::NoRoom)?;
        let (packet, tag) = rest.split_at_mut(padded);
        *header = transport_header(self.receiver, self.counter);
        packet[len..].fill(0);
        tag.copy_from_slice(&self.key.seal(self.counter, &[], packet));
        self.counter += 1;
        Ok(end)
    }
}

/// A packet that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of the packet with its padding, behind [`HEADER_LEN`]. 0 = a
    /// keepalive. The packet's own header says where the padding begins.
    pub len: usize,
    /// The packet's counter.
    pub counter: u64,
    /// No packet with a greater counter came before: the source address of
    /// this one is the peer's endpoint (section 2.1).
    pub newest: bool,
    /// The session's first packet: it confirms the handshake.
    pub first: bool,
}

impl Opened {
    /// Where the packet lies in the datagram.
    pub const fn range(&self) -> core::ops::Range<usize> {
        HEADER_LEN..HEADER_LEN + self.len
    }
}

/// The receiving direction of a session. No `Clone`, and `open` takes `&mut`:
/// check, decryption and mark of one packet cannot be torn apart by another
/// thread.
///
/// ```compile_fail
/// fn is_clone<T: Clone>() {}
/// is_clone::<weft_noise::wg::Opener<8>>();
/// ```
pub struct Opener<const WORDS: usize> {
    key: Key,
    index: u32,
    window: ReplayWindow<WORDS>,
}

impl<const WORDS: usize> Opener<WORDS> {
    /// How far behind the newest packet one is still accepted.
    pub const WINDOW: u64 = ReplayWindow::<WORDS>::SIZE;

    /// The own index: the receiver field of what comes in.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Opens transport data in place: counter against the window, then
    /// decryption, then the mark.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; no state changes. Only [`OpenError::Unauthentic`] may have
    /// changed the datagram.
    pub fn open(&mut self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        if super::kind(datagram) != Ok(Kind::Transport)
            || u32::from_le_bytes(field(datagram, 4)) != self.index
        {
            return Err(OpenError::Malformed);
        }
        let counter = u64::from_le_bytes(field(datagram, 8));
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(OpenError::Exhausted);
        }
        if !self.window.check(counter) {
            return Err(OpenError::Replayed);
        }
        let len = datagram.len() - KEEPALIVE_LEN;
        let tag = field(datagram, HEADER_LEN + len);
        let packet = &mut datagram[HEADER_LEN..HEADER_LEN + len];
        if !self.key.open(counter, &[], packet, &tag) {
            return Err(OpenError::Unauthentic);
        }
        let (newest, first) = (self.window.is_newest(counter), self.window.next() == 0);
        if !self.window.mark(counter) {
            return Err(OpenError::Replayed);
        }
        Ok(Opened { len, counter, newest, first })
    }
}

// The tag's length is the cipher's.
const _: () = assert!(TAG_LEN == crate::aead::TAG_LEN && KEEPALIVE_LEN == HEADER_LEN + TAG_LEN);
