//! Packets that wait for a session.

use heapless::Vec;

use crate::event::{DropReason, PeerSlot};

struct Staged<const LEN: usize> {
    slot: PeerSlot,
    /// There is a session now.
    released: bool,
    packet: Vec<u8, LEN>,
}

/// A pool of `PACKETS` packets of at most `LEN` bytes for all peers together,
/// oldest first. A full pool gives up its oldest packet for a new one.
pub struct Staging<const PACKETS: usize, const LEN: usize> {
    staged: Vec<Staged<LEN>, PACKETS>,
    per_peer: usize,
}

impl<const PACKETS: usize, const LEN: usize> Staging<PACKETS, LEN> {
    /// An empty pool that holds at most `per_peer` packets of one peer.
    pub const fn new(per_peer: usize) -> Self {
        Self { staged: Vec::new(), per_peer }
    }

    /// Keeps a copy of a packet. Returns why a packet was lost: this one, or an
    /// older one that had to make room.
    ///
    /// # Errors
    ///
    /// [`DropReason::TooBig`] for this packet, [`DropReason::StagingFull`] for
    /// an older one.
    pub fn push(&mut self, slot: PeerSlot, packet: &[u8]) -> Result<(), DropReason> {
        let packet = Vec::from_slice(packet).map_err(|_| DropReason::TooBig)?;
        let of_peer = self.staged.iter().filter(|staged| staged.slot == slot).count();
        let oldest = if of_peer >= self.per_peer.max(1) {
            self.staged.iter().position(|staged| staged.slot == slot)
        } else {
            self.staged.is_full().then_some(0)
        };
        if let Some(oldest) = oldest {
            self.staged.remove(oldest);
        }
        // Cannot fail: there was room, or it was just made.
        let _ = self.staged.push(Staged { slot, released: false, packet });
        oldest.map_or(Ok(()), |_| Err(DropReason::StagingFull))
    }

    /// There is a session with this peer: its packets may go. Whether there are
    /// any.
    pub fn release(&mut self, slot: PeerSlot) -> bool {
        let of_peer = self.staged.iter_mut().filter(|staged| staged.slot == slot);
        of_peer.fold(false, |_, staged| {
            staged.released = true;
            true
        })
    }

    /// Takes the oldest packet that may go, copied into `out`: whose it is, and
    /// its length.
    pub fn pop(&mut self, out: &mut [u8]) -> Option<(PeerSlot, usize)> {
        let position = self.staged.iter().position(|staged| staged.released)?;
        let staged = self.staged.remove(position);
        out.get_mut(..staged.packet.len())?.copy_from_slice(&staged.packet);
        Some((staged.slot, staged.packet.len()))
    }

    /// Whether anything waits for this peer.
    pub fn waits(&self, slot: PeerSlot) -> bool {
        self.staged.iter().any(|staged| staged.slot == slot)
    }

    /// Gives up what waits for a peer; the number of packets.
    pub fn discard(&mut self, slot: PeerSlot) -> usize {
        let before = self.staged.len();
        self.staged.retain(|staged| staged.slot != slot);
        before - self.staged.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerSlot = PeerSlot(0);
    const B: PeerSlot = PeerSlot(1);

    fn drain<const N: usize>(pool: &mut Staging<N, 4>, slot: PeerSlot) -> Vec<u8, 16> {
        let mut out = [0; 4];
        let mut all = Vec::new();
        assert_eq!(pool.pop(&mut out), None);
        pool.release(slot);
        while let Some((owner, len)) = pool.pop(&mut out) {
            assert_eq!(owner, slot);
            all.extend_from_slice(&out[..len]).unwrap();
        }
        all
    }

    #[test]
    fn a_peer_loses_its_own_oldest_packet() {
        let mut pool = Staging::<4, 4>::new(2);
        assert_eq!(pool.push(A, &[1]), Ok(()));
        assert_eq!(pool.push(B, &[9]), Ok(()));
        assert_eq!(pool.push(A, &[2]), Ok(()));
        assert_eq!(pool.push(A, &[3]), Err(DropReason::StagingFull));
        assert_eq!(drain(&mut pool, A), [2, 3]);
        assert!(!pool.waits(A));
        assert_eq!(drain(&mut pool, B), [9]);
    }

    #[test]
    fn a_full_pool_loses_its_oldest_packet() {
        let mut pool = Staging::<2, 4>::new(2);
        pool.push(A, &[1]).unwrap();
        pool.push(A, &[2]).unwrap();
        assert_eq!(pool.push(B, &[3]), Err(DropReason::StagingFull));
        assert_eq!(drain(&mut pool, A), [2]);
        assert_eq!(pool.push(B, &[0; 5]), Err(DropReason::TooBig));
        assert_eq!(pool.discard(B), 1);
        assert!(!pool.waits(B));
    }
}
