//! Rate limits: token buckets as one instant each (GCRA).

use core::net::{IpAddr, Ipv6Addr};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How fast a bucket fills and how much it holds.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Time in which one unit comes.
    pub interval: Duration,
    /// Units that may be spent at once.
    pub burst: u32,
}

impl Rate {
    /// `units` per second with a burst.
    pub const fn per_second(units: u32, burst: u32) -> Self {
        Self { interval: Duration::from_nanos(1_000_000_000 / units as u64), burst }
    }

    const fn capacity(&self) -> Duration {
        self.interval.saturating_mul(self.burst)
    }
}

/// A bucket; full when made. Its rate is the caller's, so that thousands of
/// buckets hold one instant each.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// When the bucket is full again.
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub const fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Spends `units` whether they are there or not. What is overdrawn delays
    /// [`Bucket::ready_at`].
    pub fn charge(&mut self, rate: Rate, units: u32, now: Instant) {
        self.full_at = self.full_at.max(now) + rate.interval.saturating_mul(units);
    }

    /// When at least one unit is there.
    pub fn ready_at(&self, rate: Rate) -> Instant {
        let spare = rate.capacity().saturating_sub(rate.interval);
        self.full_at.checked_sub(spare).unwrap_or(self.full_at)
    }

    /// Spends one unit if it is there.
    pub fn try_take(&mut self, rate: Rate, now: Instant) -> bool {
        let allowed = self.full_at.max(now) + rate.interval <= now + rate.capacity();
        if allowed {
            self.charge(rate, 1, now);
        }
        allowed
    }
}

/// Buckets for any number of keys in fixed memory: keys that fall into one cell
/// share its bucket. Nobody outside can tell which those are.
pub struct Limiter {
    rate: Rate,
    hasher: RandomState,
    cells: Mutex<Box<[Option<Bucket>]>>,
}

impl Limiter {
    /// `cells` buckets of this rate.
    pub fn new(rate: Rate, cells: usize) -> Self {
        let cells = Mutex::new(vec![None; cells.max(1)].into_boxed_slice());
        Self { rate, hasher: RandomState::new(), cells }
    }

    /// Spends `units` of this key's bucket whether they are there or not.
    pub fn charge(&self, key: &impl Hash, units: u32, now: Instant) {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = self.hasher.hash_one(key) as usize % cells.len();
        if let Some(cell) = cells.get_mut(cell) {
            cell.get_or_insert(Bucket::new(now)).charge(self.rate, units, now);
        }
    }

    /// Spends one unit of this key's bucket if it is there.
    pub fn try_take(&self, key: &impl Hash, now: Instant) -> bool {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = self.hasher.hash_one(key) as usize % cells.len();
        cells
            .get_mut(cell)
            .is_some_and(|cell| cell.get_or_insert(Bucket::new(now)).try_take(self.rate, now))
    }
}

/// The part of an address that one host or site shares: all of an IPv4 address,
/// the first 64 bits of an IPv6 one.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn gives_the_burst_then_the_rate() {
        let rate = Rate::per_second(20, 40);
        let start = origin();
        let mut bucket = Bucket::new(start);
        let taken = (0..100).filter(|_| bucket.try_take(rate, start)).count();
        assert_eq!(taken, 40);
        let mut taken = 0;
        for step in 1..=1_000 {
            let now = start + Duration::from_millis(step * 10);
            taken += usize::from(bucket.try_take(rate, now));
        }
        assert_eq!(taken, 200);
    }

    #[test]
    fn overdraft_delays() {
        let rate = Rate::per_second(10, 5);
        let start = origin();
        let mut bucket = Bucket::new(start);
        bucket.charge(rate, 4, start);
        assert!(bucket.ready_at(rate) <= start);
        bucket.charge(rate, 1, start);
        assert_eq!(bucket.ready_at(rate), start + Duration::from_millis(100));
        bucket.charge(rate, 10, start);
        assert_eq!(bucket.ready_at(rate), start + Duration::from_millis(1_100));
    }

    #[test]
    fn keys_have_buckets_of_their_own() {
        let limiter = Limiter::new(Rate::per_second(1, 3), 4_096);
        let start = origin();
        let taken = |key: u32, now| (0..10).filter(|_| limiter.try_take(&key, now)).count();
        assert_eq!(taken(1, start), 3);
        assert_eq!(taken(1, start), 0);
        let others = (2..12).filter(|key| taken(*key, start) == 3).count();
        assert!(others >= 8, "cells are shared by chance only");
        assert_eq!(taken(1, start + Duration::from_secs(2)), 2);
        limiter.charge(&1, 10, start + Duration::from_secs(2));
        assert_eq!(taken(1, start + Duration::from_secs(12)), 0);
        assert_eq!(taken(1, start + Duration::from_secs(13)), 1);
    }
}
