//! Rate limits: token buckets as one instant each (GCRA).

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
}
