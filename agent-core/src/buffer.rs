//! A packet in a buffer that belongs to the caller, with room before it for
//! the header and after it for padding and tag, so that sealing copies nothing.

use crate::config::implementation::{HEADROOM, TAILROOM};

/// Bytes of a buffer that takes packets of `mtu` bytes.
pub const fn capacity_for(mtu: usize) -> usize {
    HEADROOM + mtu + TAILROOM
}

/// An IP packet at [`HEADROOM`] of a caller's buffer. Sealed in place, the
/// datagram begins at the buffer's first byte.
#[derive(Debug)]
pub struct PacketBuf<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl<'a> PacketBuf<'a> {
    /// A packet of `len` bytes that begins at [`HEADROOM`]. `None` when the
    /// buffer is shorter than [`capacity_for`]`(len)`.
    pub const fn new(bytes: &'a mut [u8], len: usize) -> Option<Self> {
        if bytes.len() < HEADROOM + TAILROOM || bytes.len() - HEADROOM - TAILROOM < len {
            return None;
        }
        Some(Self { bytes, len })
    }

    /// Copies a packet into a buffer. `None` when there is no room.
    pub fn copy_from(bytes: &'a mut [u8], packet: &[u8]) -> Option<Self> {
        let mut buffer = Self::new(bytes, packet.len())?;
        buffer.packet_mut().copy_from_slice(packet);
        Some(buffer)
    }

    /// Puts another packet into its place. `None`, and nothing done, when there is
    /// no room.
    pub fn replace(&mut self, packet: &[u8]) -> Option<()> {
        let place = self.bytes.get_mut(HEADROOM..)?;
        let room = place.len().checked_sub(TAILROOM)?;
        place.get_mut(..room)?.get_mut(..packet.len())?.copy_from_slice(packet);
        self.len = packet.len();
        Some(())
    }

    /// Bytes of the packet.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the packet is empty: a keepalive once it is sealed.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The packet.
    pub fn packet(&self) -> &[u8] {
        self.bytes.get(HEADROOM..HEADROOM + self.len).unwrap_or_default()
    }

    /// The packet, to be written.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(HEADROOM..HEADROOM + self.len).unwrap_or_default()
    }

    /// The whole buffer: headroom, packet, tailroom.
    pub const fn whole_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// The first `len` bytes of the buffer: the datagram after sealing.
    pub fn datagram(&self, len: usize) -> &[u8] {
        self.bytes.get(..len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_needs_room_on_both_sides() {
        let mut bytes = [0; capacity_for(100)];
        assert!(PacketBuf::new(&mut bytes, 101).is_none());
        assert!(PacketBuf::new(&mut bytes, usize::MAX).is_none());
        assert!(PacketBuf::new(&mut [0; 10], 0).is_none());
        let mut buffer = PacketBuf::new(&mut bytes, 100).unwrap();
        buffer.packet_mut().fill(7);
        assert_eq!(buffer.packet(), [7; 100]);
        assert_eq!(buffer.whole_mut()[HEADROOM - 1], 0);
        assert_eq!(buffer.whole_mut()[HEADROOM + 100], 0);
        assert_eq!(buffer.replace(&[8; 101]), None);
        assert_eq!(buffer.packet(), [7; 100]);
        assert_eq!(buffer.replace(&[8; 2]), Some(()));
        assert_eq!(buffer.packet(), [8; 2]);
        assert_eq!(buffer.replace(&[9; 100]), Some(()));
        assert_eq!(buffer.packet(), [9; 100]);
    }
}
