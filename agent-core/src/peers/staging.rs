//! Packets that wait for a session, and are given back to their sender when none
//! comes in time.

use heapless::Vec;

use crate::buffer::PacketBuf;
use crate::event::{DropReason, PeerSlot};
use crate::time::{Duration, Instant};
use crate::timer::Reason;

/// A packet waits this long: who sent it has tried again by then, or has given up.
pub(super) const HELD_FOR: Duration = Duration::from_secs(2);

/// How far it is with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    /// There is a session now.
    Released,
    /// There is none: its sender is to be told.
    Lost,
}

struct Staged<const LEN: usize> {
    slot: PeerSlot,
    state: State,
    until: Instant,
    packet: Vec<u8, LEN>,
}

/// A pool of `PACKETS` packets of at most `LEN` bytes for all peers together,
/// oldest first. A full pool gives its oldest packet back for a new one.
pub struct Staging<const PACKETS: usize, const LEN: usize> {
    staged: Vec<Staged<LEN>, PACKETS>,
    per_peer: usize,
}

impl<const PACKETS: usize, const LEN: usize> Staging<PACKETS, LEN> {
    /// An empty pool that holds at most `per_peer` packets of one peer.
    #[inline(never)]
    pub const fn new(per_peer: usize) -> Self {
        Self { staged: Vec::new(), per_peer }
    }

    /// Keeps a copy of a packet. Whether an older one had to make room: it lies in
    /// `buffer` now, and its sender is to be told.
    ///
    /// # Errors
    ///
    /// Why this packet was not kept: [`DropReason::TooBig`], or
    /// [`DropReason::StagingFull`] if the older one would not fit into `buffer`.
    pub fn push(
        &mut self,
        slot: PeerSlot,
        buffer: &mut PacketBuf<'_>,
        now: Instant,
    ) -> Result<bool, DropReason> {
        let packet = Vec::from_slice(buffer.packet()).map_err(|_| DropReason::TooBig)?;
        let of_peer = self.staged.iter().filter(|staged| staged.slot == slot).count();
        let oldest = if of_peer >= self.per_peer.max(1) {
            self.staged.iter().position(|staged| staged.slot == slot)
        } else {
            self.staged.is_full().then_some(0)
        };
        if let Some(oldest) = oldest {
            let staged = self.staged.get(oldest).ok_or(DropReason::StagingFull)?;
            buffer.replace(&staged.packet).ok_or(DropReason::StagingFull)?;
            self.staged.remove(oldest);
        }
        // Cannot fail: there was room, or it was just made.
        let (state, until) = (State::Waits, now + HELD_FOR);
        let _ = self.staged.push(Staged { slot, state, until, packet });
        Ok(oldest.is_some())
    }

    /// There is a session with this peer: its packets may go. Whether there are
    /// any.
    pub fn release(&mut self, slot: PeerSlot) -> bool {
        let of_peer = self.staged.iter_mut().filter(|staged| staged.is_waiting_for(slot));
        of_peer.fold(false, |_, staged| {
            staged.state = State::Released;
            true
        })
    }

    /// Takes the oldest packet that may go, copied into `out`: whose it is, and
    /// its length.
    pub fn pop(&mut self, out: &mut [u8]) -> Option<(PeerSlot, usize)> {
        let position = self.staged.iter().position(|staged| staged.state == State::Released)?;
        let staged = self.staged.remove(position);
        out.get_mut(..staged.packet.len())?.copy_from_slice(&staged.packet);
        Some((staged.slot, staged.packet.len()))
    }

    /// Whether anything waits for this peer.
    pub fn waits(&self, slot: PeerSlot) -> bool {
        self.staged.iter().any(|staged| staged.is_waiting_for(slot))
    }

    /// Gives up what waits for a peer; the number of packets.
    pub fn discard(&mut self, slot: PeerSlot) -> usize {
        let of_peer = self.staged.iter_mut().filter(|staged| staged.slot == slot);
        of_peer.map(|staged| staged.state = State::Lost).count()
    }

    /// Time has passed: what has waited for long enough is given up.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = |staged: &&mut Staged<LEN>| staged.state == State::Waits && staged.until <= now;
        self.staged.iter_mut().filter(late).for_each(|staged| staged.state = State::Lost);
    }

    /// When to call [`Staging::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let waiting = self.staged.iter().filter(|staged| staged.state == State::Waits);
        let at = waiting.map(|staged| staged.until).min()?;
        Some((at, Reason::new("peers: give a packet back")))
    }

    /// Hands the oldest packet that was given up to `refuse`, and forgets it.
    pub fn take_lost<R>(&mut self, refuse: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let position = self.staged.iter().position(|staged| staged.state == State::Lost)?;
        Some(refuse(&self.staged.remove(position).packet))
    }
}

impl<const LEN: usize> Staged<LEN> {
    fn is_waiting_for(&self, slot: PeerSlot) -> bool {
        self.slot == slot && self.state == State::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::capacity_for;

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

    /// Pushes a packet. What had to make room for it, if anything had.
    fn push<const N: usize>(
        pool: &mut Staging<N, 4>,
        slot: PeerSlot,
        packet: &[u8],
        now: Instant,
    ) -> Result<Option<std::vec::Vec<u8>>, DropReason> {
        let mut bytes = [0; capacity_for(5)];
        let mut buffer = PacketBuf::copy_from(&mut bytes, packet).unwrap();
        let displaced = pool.push(slot, &mut buffer, now)?;
        Ok(displaced.then(|| buffer.packet().to_vec()))
    }

    #[test]
    fn a_peer_is_given_its_own_oldest_packet_back() {
        let mut pool = Staging::<4, 4>::new(2);
        assert_eq!(push(&mut pool, A, &[1, 1], Instant::ZERO), Ok(None));
        assert_eq!(push(&mut pool, B, &[9], Instant::ZERO), Ok(None));
        assert_eq!(push(&mut pool, A, &[2], Instant::ZERO), Ok(None));
        assert_eq!(push(&mut pool, A, &[3], Instant::ZERO), Ok(Some(vec![1, 1])));
        assert_eq!(drain(&mut pool, A), [2, 3]);
        assert!(!pool.waits(A));
        assert_eq!(drain(&mut pool, B), [9]);
    }

    #[test]
    fn a_full_pool_gives_its_oldest_packet_back() {
        let mut pool = Staging::<2, 4>::new(2);
        push(&mut pool, A, &[1], Instant::ZERO).unwrap();
        push(&mut pool, A, &[2], Instant::ZERO).unwrap();
        assert_eq!(push(&mut pool, B, &[3], Instant::ZERO), Ok(Some(vec![1])));
        assert_eq!(push(&mut pool, B, &[0; 5], Instant::ZERO), Err(DropReason::TooBig));
        // What is lost and was not asked for yet makes room like any other.
        assert_eq!(pool.discard(A), 1);
        assert_eq!(push(&mut pool, B, &[4], Instant::ZERO), Ok(Some(vec![2])));
        assert_eq!(pool.take_lost(<[u8]>::to_vec), None, "told once");
        assert_eq!(pool.discard(B), 2);
        assert!(!pool.waits(B));
    }

    #[test]
    fn what_would_not_fit_where_it_is_given_back_stays() {
        let mut pool = Staging::<1, 4>::new(1);
        push(&mut pool, A, &[1, 2, 3, 4], Instant::ZERO).unwrap();
        let mut bytes = [0; capacity_for(3)];
        let mut buffer = PacketBuf::copy_from(&mut bytes, &[5]).unwrap();
        let full = Err(DropReason::StagingFull);
        assert_eq!(pool.push(A, &mut buffer, Instant::ZERO), full);
        assert_eq!(buffer.packet(), [5], "the packet to answer");
        assert_eq!(drain(&mut pool, A), [1, 2, 3, 4]);
    }

    #[test]
    fn what_waits_for_too_long_is_given_back_once() {
        let mut pool = Staging::<4, 4>::new(4);
        push(&mut pool, A, &[1], Instant::ZERO).unwrap();
        push(&mut pool, A, &[2], Instant::from_millis(500)).unwrap();
        push(&mut pool, B, &[3], Instant::ZERO).unwrap();
        pool.release(B);
        assert_eq!(pool.poll_timeout().unwrap().0, Instant::ZERO + HELD_FOR);
        pool.handle_timeout(Instant::from_millis(1_999));
        assert_eq!(pool.take_lost(<[u8]>::to_vec), None);
        pool.handle_timeout(Instant::from_millis(2_000));
        assert_eq!(pool.take_lost(<[u8]>::to_vec), Some(vec![1]));
        assert_eq!(pool.take_lost(<[u8]>::to_vec), None);
        assert_eq!(pool.pop(&mut [0; 4]), Some((B, 1)), "what may go is never given back");
        assert_eq!(drain(&mut pool, A), [2], "a session in time");
    }
}
