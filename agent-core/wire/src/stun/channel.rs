//! ChannelData (RFC 8656 section 12.4): four bytes before what is relayed.

use core::ops::RangeInclusive;

use super::StunError;

/// Channel number and length.
pub const CHANNEL_HEADER_LEN: usize = 4;
/// The numbers that may be bound (RFC 8656 section 12).
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x4FFF;
/// The numbers of RFC 5766, from which clients of its age choose.
pub const LEGACY_CHANNELS: RangeInclusive<u16> = 0x4000..=0x7FFF;

/// A view of one ChannelData message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// The channel.
    pub channel: u16,
    /// What is relayed, without padding.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Reads a datagram, or a frame of a stream. At most 3 bytes of padding may
    /// follow: over a stream they must, over UDP they may (section 12.5).
    ///
    /// # Errors
    ///
    /// [`StunError::NotStun`] for another first byte, [`StunError::Length`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StunError> {
        let (header, rest) =
            bytes.split_first_chunk::<CHANNEL_HEADER_LEN>().ok_or(StunError::NotStun)?;
        let channel = u16::from_be_bytes([header[0], header[1]]);
        if !LEGACY_CHANNELS.contains(&channel) {
            return Err(StunError::NotStun);
        }
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if rest.len() > len.next_multiple_of(4) {
            return Err(StunError::Length);
        }
        let data = rest.get(..len).ok_or(StunError::Length)?;
        Ok(Self { channel, data })
    }

    /// The header before `len` bytes of data.
    pub const fn header(channel: u16, len: u16) -> [u8; CHANNEL_HEADER_LEN] {
        let [high, low] = channel.to_be_bytes();
        let [long, short] = len.to_be_bytes();
        [high, low, long, short]
    }

    /// Writes the message; returns its length. `padded` as streams want it.
    ///
    /// # Errors
    ///
    /// [`StunError::NoRoom`].
    pub fn emit(&self, padded: bool, out: &mut [u8]) -> Result<usize, StunError> {
        let len = u16::try_from(self.data.len()).map_err(|_| StunError::NoRoom)?;
        let data = self.data.len();
        let whole = CHANNEL_HEADER_LEN + if padded { data.next_multiple_of(4) } else { data };
        let out = out.get_mut(..whole).ok_or(StunError::NoRoom)?;
        out[..CHANNEL_HEADER_LEN].copy_from_slice(&Self::header(self.channel, len));
        out[CHANNEL_HEADER_LEN..CHANNEL_HEADER_LEN + data].copy_from_slice(self.data);
        out[CHANNEL_HEADER_LEN + data..].fill(0);
        Ok(whole)
    }
}
