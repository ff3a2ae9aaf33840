//! STUN and ChannelData in a stream: both begin with their length, and neither
//! with anything else (RFC 8489 section 6.2.2, RFC 8656 section 12.5).

use super::channel::{CHANNEL_HEADER_LEN, ChannelData};
use super::names::{HEADER_LEN, MAGIC_COOKIE};
use super::{Message, StunError};

/// One unit of a stream.
#[derive(Clone, Copy)]
pub enum Frame<'a> {
    /// A STUN message.
    Message(Message<'a>),
    /// ChannelData, without its padding.
    Channel(ChannelData<'a>),
}

impl<'a> Frame<'a> {
    /// Reads a whole datagram or a whole frame.
    ///
    /// # Errors
    ///
    /// Those of the two formats.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StunError> {
        match bytes.first().map(|first| first >> 6) {
            Some(0) => Message::parse(bytes).map(Self::Message),
            Some(1) => ChannelData::parse(bytes).map(Self::Channel),
            _ => Err(StunError::NotStun),
        }
    }
}

/// The length of the frame that `bytes` begin with, padding included; `None`
/// while that cannot be told. What can be no frame is found out by its first
/// byte, a wrong cookie as soon as it is there.
///
/// # Errors
///
/// [`StunError::NotStun`], [`StunError::Length`]: the stream is of no use any
/// more, since nobody knows where the next frame begins.
pub fn frame_len(bytes: &[u8]) -> Result<Option<usize>, StunError> {
    let Some(first) = bytes.first() else { return Ok(None) };
    if first >> 6 > 1 {
        return Err(StunError::NotStun);
    }
    let Some(header) = bytes.first_chunk::<4>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if first >> 6 == 1 {
        return Ok(Some(CHANNEL_HEADER_LEN + len.next_multiple_of(4)));
    }
    if !len.is_multiple_of(4) {
        return Err(StunError::Length);
    }
    match bytes.get(4..8) {
        None => Ok(None),
        Some(cookie) if cookie == MAGIC_COOKIE.to_be_bytes() => Ok(Some(HEADER_LEN + len)),
        Some(_) => Err(StunError::NotStun),
    }
}

/// Cuts a stream into frames, in a buffer of the caller's. Its size is the
/// longest frame that is taken.
pub struct Deframer<B> {
    buffer: B,
    /// Bytes that wait stand from here …
    start: usize,
    /// … to here.
    end: usize,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Deframer<B> {
    /// An empty one.
    pub const fn new(buffer: B) -> Self {
        Self { buffer, start: 0, end: 0 }
    }

    /// Where the next bytes of the stream are to be written; say how many came
    /// with [`Deframer::filled`]. Empty only while a whole frame waits.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.as_mut().copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer.as_mut()[self.end..]
    }

    /// This many bytes were written into [`Deframer::room`].
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.as_ref().len());
    }

    /// The next whole frame; `None` if more bytes are needed. Bytes that wait
    /// stay where they are until [`Deframer::room`] is asked for.
    ///
    /// # Errors
    ///
    /// Those of [`frame_len`], and [`StunError::NoRoom`] for a frame that is
    /// longer than the buffer: the stream is of no use any more. What a frame
    /// holds is not looked at.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, StunError> {
        let bytes = &self.buffer.as_ref()[self.start..self.end];
        let Some(len) = frame_len(bytes)? else { return Ok(None) };
        if len > self.buffer.as_ref().len() {
            return Err(StunError::NoRoom);
        }
        if len > bytes.len() {
            return Ok(None);
        }
        let from = self.start;
        self.start += len;
        Ok(Some(&self.buffer.as_ref()[from..from + len]))
    }

    /// Bytes that wait for the rest of their frame.
    pub const fn waiting(&self) -> usize {
        self.end - self.start
    }
}
