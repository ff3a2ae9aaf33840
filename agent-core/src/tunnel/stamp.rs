//! Handshake timestamps without a trusted clock.
//!
//! All that a responder asks of a timestamp is that it is greater than the
//! last one of the same key. So the clock counts steps of 2^24 ns, and a *floor*
//! is kept in flash: every stamp ever used is at or below it. The floor is
//! written ahead of use, so a power cut at any moment costs nothing but steps.
//!
//! The authenticated time of the coordinator moves the stamps forward, never
//! back; a wrong one far ahead is carried on from, so nobody is locked out.

use weft_noise::wg::Tai64n;

use crate::time::{Duration, Instant};

/// Steps reserved by one write: 18 minutes of real time, 65,536 handshakes.
pub const RESERVATION: u64 = 1 << 16;

/// How far ahead of real time a floor is written, so that a device with time
/// writes once a day.
const AHEAD_MS: u64 = 24 * 60 * 60 * 1_000;

/// A time beyond the year 2262 is not believed: it would leave no room above.
const LATEST: u64 = 1 << 39;

/// Labels end in the year 2554.
const END: u64 = (1 << 40) - 1;

/// Where timestamps come from. One per device, whatever the number of its keys:
/// the floor carries over a rotation.
#[derive(Debug)]
pub struct Tai64nClock {
    /// The greatest stamp used.
    last: u64,
    /// Stamps up to this one may be used: the floor that is known to be
    /// written.
    written: u64,
    /// A floor that is asked to be written and is not confirmed yet.
    asked: Option<u64>,
    /// The asked floor was not yet given out.
    unsent: bool,
    /// Whether any floor is known; without one, only time can start the clock.
    started: bool,
    /// Authenticated Unix time in milliseconds, and when it was true.
    time: Option<(u64, Instant)>,
}

impl Tai64nClock {
    /// Starts from the floor in flash; 0 for a new identity. `None` means that
    /// the floor is lost while the key is not: there are no stamps until the
    /// coordinator's time is known.
    pub const fn new(floor: Option<u64>) -> Self {
        let (last, started) = match floor {
            Some(floor) if floor < END => (floor, true),
            Some(_) => (END, true),
            None => (0, false),
        };
        Self { last, written: last, asked: None, unsent: false, started, time: None }
            .with_first_reservation()
    }

    const fn with_first_reservation(mut self) -> Self {
        if self.started {
            self.ask(self.last + RESERVATION);
        }
        self
    }

    const fn ask(&mut self, floor: u64) {
        let floor = if floor < END { floor } else { END };
        let asked = match self.asked {
            Some(asked) => asked,
            None => self.written,
        };
        if floor > asked {
            self.asked = Some(floor);
            self.unsent = true;
        }
    }

    fn steps_at(&self, now: Instant) -> Option<u64> {
        let (unix_ms, at) = self.time?;
        let passed = now.since(at).as_millis();
        Some(Tai64n::steps_of_unix_ms(unix_ms.saturating_add(passed)).min(LATEST))
    }

    /// Tells an authenticated Unix time, in milliseconds. Times beyond the year
    /// 2262 are ignored.
    pub fn set_time(&mut self, unix_ms: u64, now: Instant) {
        if Tai64n::steps_of_unix_ms(unix_ms) > LATEST {
            return;
        }
        self.time = Some((unix_ms, now));
        self.started = true;
        self.reserve(now);
    }

    /// Another machine may have made stamps with the same key: goes on at least
    /// `ahead` of real time. Nothing is stamped until that floor is written.
    pub fn advance(&mut self, ahead: Duration, now: Instant) {
        let from = self.steps_at(now).unwrap_or_else(|| self.last.max(self.written));
        let ahead_ms = ahead.as_millis();
        let least = from.saturating_add(Tai64n::steps_of_unix_ms(ahead_ms)).min(LATEST);
        if least > self.last {
            self.last = least;
            self.ask(self.last + RESERVATION);
        }
    }

    /// Asks for a write when real time has reached the floor, or when the
    /// reservation is used up.
    fn reserve(&mut self, now: Instant) {
        let time = self.steps_at(now);
        if let Some(time) = time
            && time >= self.written
        {
            self.ask(time + Tai64n::steps_of_unix_ms(AHEAD_MS));
        }
        if self.last >= self.written {
            self.ask(self.last + RESERVATION);
        }
    }

    /// The next stamp, or `None` until a floor is written (or time is known).
    #[must_use]
    pub fn next(&mut self, now: Instant) -> Option<Tai64n> {
        if !self.started {
            return None;
        }
        let least = self.last.saturating_add(1);
        let stamp = least.max(self.steps_at(now).unwrap_or(0)).min(self.written);
        if stamp < least {
            self.reserve(now);
            return None;
        }
        self.last = stamp;
        self.reserve(now);
        Some(Tai64n::from_steps(stamp))
    }

    /// "Write this floor, then call [`Tai64nClock::handle_persisted`]." Each
    /// floor is given once.
    #[must_use]
    pub fn poll_persist(&mut self) -> Option<u64> {
        if !self.unsent {
            return None;
        }
        self.unsent = false;
        self.asked
    }

    /// A floor is written: stamps up to it may be used.
    pub fn handle_persisted(&mut self, floor: u64) {
        // Only what was asked for is believed; a smaller or unknown number
        // would let stamps run past what is written.
        match self.asked {
            Some(asked) if floor <= asked => {
                self.written = self.written.max(floor);
                if floor == asked {
                    self.asked = None;
                }
            }
            _ => {}
        }
    }

    /// The greatest stamp used, to be kept in RAM that survives deep sleep.
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Milliseconds since 1970 as far as authenticated.
    pub fn unix_ms(&self, now: Instant) -> Option<u64> {
        let (unix_ms, at) = self.time?;
        let passed: Duration = now.since(at);
        Some(unix_ms.saturating_add(passed.as_millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_secs(100);
    const UNIX_MS: u64 = 1_790_000_000_000;
    const DAY_MS: u64 = AHEAD_MS;

    fn persist(clock: &mut Tai64nClock) -> Option<u64> {
        let floor = clock.poll_persist()?;
        clock.handle_persisted(floor);
        Some(floor)
    }

    #[test]
    fn nothing_is_used_before_it_is_written() {
        let mut clock = Tai64nClock::new(Some(0));
        assert_eq!(clock.next(NOW), None);
        assert_eq!(clock.poll_persist(), Some(RESERVATION));
        assert_eq!(clock.poll_persist(), None);
        assert_eq!(clock.next(NOW), None);
        clock.handle_persisted(RESERVATION);
        assert_eq!(clock.next(NOW), Some(Tai64n::from_steps(1)));
        assert_eq!(clock.next(NOW), Some(Tai64n::from_steps(2)));
    }

    #[test]
    fn a_used_up_reservation_is_renewed_once() {
        let mut clock = Tai64nClock::new(Some(0));
        persist(&mut clock);
        for step in 1..=RESERVATION {
            assert_eq!(clock.next(NOW), Some(Tai64n::from_steps(step)));
            assert_eq!(clock.poll_persist().is_some(), step == RESERVATION);
        }
        assert_eq!(clock.next(NOW), None);
        clock.handle_persisted(2 * RESERVATION);
        assert_eq!(clock.next(NOW), Some(Tai64n::from_steps(RESERVATION + 1)));
    }

    #[test]
    fn stamps_rise_over_power_cuts_at_any_moment() {
        let (mut flash, mut greatest) = (0, Tai64n::ZERO);
        for boot in 0..200u64 {
            let mut clock = Tai64nClock::new(Some(flash));
            let mut stamps = 0;
            while stamps < boot % 7 {
                if let Some(floor) = clock.poll_persist() {
                    flash = floor;
                    if boot % 3 == 0 {
                        break; // power cut between write and confirmation
                    }
                    clock.handle_persisted(floor);
                }
                if boot % 5 == 0 {
                    clock.set_time(UNIX_MS - boot * 1_000, NOW);
                }
                let Some(stamp) = clock.next(NOW) else { continue };
                assert!(stamp > greatest, "boot {boot}");
                greatest = stamp;
                stamps += 1;
            }
        }
    }

    #[test]
    fn real_time_costs_one_write_a_day() {
        let mut clock = Tai64nClock::new(Some(0));
        persist(&mut clock);
        clock.set_time(UNIX_MS, NOW);
        let mut writes = 0;
        let mut last = Tai64n::ZERO;
        for minute in 0..30 * 24 * 60 {
            let now = NOW + Duration::from_secs(60 * minute);
            let stamp = clock.next(now).unwrap();
            assert!(stamp > last);
            last = stamp;
            writes += u32::from(persist(&mut clock).is_some());
        }
        assert!((29..=31).contains(&writes), "{writes}");
        let month = Tai64n::steps_of_unix_ms(UNIX_MS + 29 * DAY_MS);
        assert!(last > Tai64n::from_steps(month));
    }

    #[test]
    fn a_wrong_time_ahead_locks_nobody_out() {
        let mut clock = Tai64nClock::new(Some(0));
        clock.set_time(UNIX_MS + 3_650 * DAY_MS, NOW);
        persist(&mut clock);
        let ahead = clock.next(NOW).unwrap();
        clock.set_time(UNIX_MS, NOW);
        let next = clock.next(NOW).unwrap();
        assert!(next > ahead);
        clock.set_time(u64::MAX, NOW);
        assert!(clock.next(NOW).unwrap() < Tai64n::from_steps(LATEST));
    }

    #[test]
    fn another_machines_stamps_are_left_behind() {
        // The other one starts from a copy of the floor, a day ahead of time.
        let mut kept = Tai64nClock::new(Some(0));
        persist(&mut kept);
        kept.set_time(UNIX_MS, NOW);
        let copied = persist(&mut kept).unwrap();
        let mut copy = Tai64nClock::new(Some(copied));
        persist(&mut copy);
        copy.set_time(UNIX_MS, NOW);
        let theirs = (0..100).map(|_| copy.next(NOW).unwrap()).max().unwrap();
        assert!(kept.next(NOW).unwrap() < theirs, "peers refuse it");
        let ahead = Duration::from_secs((24 + 5) * 3_600);
        kept.advance(ahead, NOW);
        assert_eq!(kept.next(NOW), None, "nothing is used before it is written");
        persist(&mut kept).unwrap();
        let ours = kept.next(NOW).unwrap();
        assert!(ours > theirs);
        // Told again, in the same minute: no new write.
        kept.advance(ahead, NOW);
        assert_eq!(kept.poll_persist(), None);
        assert!(kept.next(NOW).unwrap() > ours);
    }

    #[test]
    fn a_lost_floor_waits_for_time() {
        let mut clock = Tai64nClock::new(None);
        assert_eq!(clock.next(NOW), None);
        assert_eq!(clock.poll_persist(), None);
        clock.set_time(UNIX_MS, NOW);
        assert_eq!(clock.next(NOW), None);
        persist(&mut clock);
        let stamp = clock.next(NOW).unwrap();
        assert_eq!(stamp, Tai64n::from_steps(Tai64n::steps_of_unix_ms(UNIX_MS)));
    }

    #[test]
    fn the_end_of_labels_is_no_panic() {
        let mut clock = Tai64nClock::new(Some(u64::MAX));
        assert_eq!(clock.next(NOW), None);
        clock.handle_persisted(u64::MAX);
        assert_eq!(clock.next(NOW), None);
    }
}
