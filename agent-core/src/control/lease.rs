//! How long the map holds without word from the coordinator.
//!
//! Counted in powered-on time: the part that is used up lives in memory, and a
//! *reservation* that is never smaller lives in storage. A device that is
//! switched off and on without the coordinator pays one reservation per start,
//! so its lease ends early and never late. Storage is written when the
//! reservation is used up (at most four times in any lease, and every 6 hours
//! of silence at most), and once a day to lower it again.

use crate::time::{Duration, Instant};

/// Longest step between two reservations.
const STEP: Duration = Duration::from_secs(6 * 3_600);
/// A reservation is lowered at most this often.
const LOWER_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// A shorter lease is taken as this, so that one lost record ends nothing.
const SHORTEST: Duration = Duration::from_secs(60);

/// The lease of the whole map.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None` = no map that could expire.
    length: Option<Duration>,
    /// Used up at `since`.
    consumed: Duration,
    since: Instant,
    /// What storage holds.
    reserved: Duration,
    written_at: Option<Instant>,
}

impl Lease {
    /// No lease runs.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            length: None,
            consumed: Duration::ZERO,
            since: now,
            reserved: Duration::ZERO,
            written_at: None,
        }
    }

    /// Goes on after a restart: all that was reserved counts as used.
    pub(super) const fn restore(&mut self, reserved_s: u32, now: Instant) {
        self.consumed = Duration::from_secs(reserved_s as u64);
        self.since = now;
        self.reserved = self.consumed;
        self.written_at = None;
    }

    /// The map says how long it holds.
    pub(super) fn set_length(&mut self, lease_s: u32) {
        self.length = Some(Duration::from_secs(u64::from(lease_s)).max(SHORTEST));
    }

    /// The coordinator was heard, authenticated.
    pub(super) const fn renew(&mut self, now: Instant) {
        self.consumed = Duration::ZERO;
        self.since = now;
    }

    /// The map is gone: nothing is left to expire.
    pub(super) const fn stop(&mut self) {
        self.length = None;
    }

    /// When the map expires.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.length.map(|length| self.since + length.saturating_sub(self.consumed))
    }

    /// When half of the lease is gone: time to ask.
    pub(super) fn half_at(&self) -> Option<Instant> {
        self.length.map(|length| self.since + (length / 2).saturating_sub(self.consumed))
    }

    /// What is left.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.expires_at().map(|at| at - now)
    }

    /// When [`Lease::reserve`] has something to write.
    pub(super) fn reserve_at(&self) -> Option<Instant> {
        self.length?;
        let Some(written_at) = self.written_at else {
            return Some(self.since);
        };
        let used_up = self.since + self.reserved.saturating_sub(self.consumed);
        if self.reserved > self.step() {
            Some(used_up.min(written_at + LOWER_AFTER))
        } else {
            Some(used_up)
        }
    }

    /// The number of seconds that storage has to hold from now on, if another
    /// one than it holds.
    pub(super) fn reserve(&mut self, now: Instant) -> Option<u32> {
        if self.reserve_at()? > now {
            return None;
        }
        self.written_at = Some(now);
        let reserved = self.consumed + (now - self.since) + self.step();
        if reserved == self.reserved {
            return None;
        }
        self.reserved = reserved;
        Some(self.reserved_s())
    }

    /// What storage has to hold.
    pub(super) fn reserved_s(&self) -> u32 {
        u32::try_from(self.reserved.as_secs()).unwrap_or(u32::MAX)
    }

    fn step(&self) -> Duration {
        self.length.map_or(STEP, |length| (length / 4).min(STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;
    const DAY: u64 = 24 * HOUR;

    fn at(secs: u64) -> Instant {
        Instant::from_secs(secs)
    }

    #[test]
    fn expires_by_powered_time_only() {
        let mut lease = Lease::new(at(0));
        assert_eq!(lease.expires_at(), None);
        lease.set_length(7 * 86_400);
        lease.renew(at(10));
        assert_eq!(lease.expires_at(), Some(at(10 + 7 * DAY)));
        assert_eq!(lease.half_at(), Some(at(10 + 7 * DAY / 2)));
        lease.renew(at(DAY));
        assert_eq!(lease.remaining(at(2 * DAY)), Some(Duration::from_secs(6 * DAY)));
    }

    #[test]
    fn a_restart_never_gains_time() {
        let mut stored = 0;
        let mut powered = 0;
        let mut restarts = 0;
        loop {
            let mut lease = Lease::new(at(0));
            lease.restore(stored, at(0));
            lease.set_length(7 * 86_400);
            stored = lease.reserve(at(0)).unwrap();
            if lease.expires_at() <= Some(at(0)) {
                break;
            }
            restarts += 1;
            powered += 5 * HOUR + 3_599;
            assert_eq!(lease.reserve(at(5 * HOUR + 3_599)), None);
        }
        assert!(powered <= 7 * DAY, "{powered}");
        assert_eq!(restarts, 28);
    }

    #[test]
    fn storage_is_written_at_most_four_times_a_day() {
        for lease_s in [3_600, 86_400, 7 * 86_400] {
            for silence in [1, 20, 700, 4_000, 30_000] {
                let mut lease = Lease::new(at(0));
                lease.set_length(lease_s);
                let mut writes = 0;
                let mut heard = 0;
                for now in (0..10 * DAY).step_by(60) {
                    if now - heard >= silence {
                        lease.renew(at(now));
                        heard = now;
                    }
                    if lease.expires_at() <= Some(at(now)) {
                        break;
                    }
                    writes += u32::from(lease.reserve(at(now)).is_some());
                    let used = Duration::from_secs(now - heard);
                    assert!(lease.reserved >= used);
                }
                assert!(writes <= 1 + 4 * 10, "{lease_s} {silence}: {writes}");
            }
        }
    }

    #[test]
    fn who_hears_the_coordinator_writes_once() {
        let mut lease = Lease::new(at(0));
        lease.set_length(7 * 86_400);
        let mut writes = 0;
        for now in (0..30 * DAY).step_by(900) {
            lease.renew(at(now));
            writes += u32::from(lease.reserve(at(now)).is_some());
        }
        assert_eq!(writes, 1);
    }
}
