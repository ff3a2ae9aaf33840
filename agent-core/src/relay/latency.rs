//! How far relays are, told by answers that are waited for anyway, and which of them is
//! nearer than another one by so much that it is worth leaving that for.

use weft_wire::relay::RELAYS;

use crate::time::{Duration, Instant};

/// Nothing was measured.
const UNKNOWN: u16 = 0;
/// It gave nothing, or passed nothing on, where another one did.
const LEFT: u16 = u16::MAX;
/// That lasts as long as a gateway remembers, over a restart, which relay answered.
const LEFT_FOR: Duration = Duration::from_secs(86_400);
/// By more than this …
const NEARER_MS: u16 = 10;
/// … and by more than a fifth: what differs less would be swapped for ever.
const NEARER_PERCENT: u32 = 80;
/// A shorter round trip counts at once, as nothing is faster than the way. Of a longer
/// one this part: a packet that waited in a queue says little.
const LONGER_COUNTS: u16 = 8;

/// Round trips of relays, by their places in the map.
pub(super) struct Latency {
    ms: [u16; RELAYS],
    /// When those that were left may be chosen again.
    left_until: Instant,
}

impl Latency {
    pub(super) const NONE: Self = Self { ms: [UNKNOWN; RELAYS], left_until: Instant::ZERO };

    /// A relay has answered.
    pub(super) fn measure(&mut self, place: usize, round_trip: Duration, now: Instant) {
        let Some(known) = self.ms.get_mut(place) else { return };
        let ms = u16::try_from(round_trip.as_millis()).unwrap_or(u16::MAX);
        let ms = ms.clamp(UNKNOWN + 1, LEFT - 1);
        *known = match *known {
            LEFT if now < self.left_until => LEFT,
            UNKNOWN | LEFT => ms,
            before if ms < before => ms,
            before => before + (ms - before) / LONGER_COUNTS,
        };
    }

    /// The relays of these places (a bit each) gave nothing, and this one did: that
    /// they are near is no reason for asking them first.
    pub(super) fn leave(&mut self, places: u8, winner: Option<usize>, now: Instant) {
        for (place, ms) in self.ms.iter_mut().enumerate() {
            if places & 1 << place != 0 {
                *ms = LEFT;
                self.left_until = now + LEFT_FOR;
            } else if winner == Some(place) && *ms == LEFT {
                *ms = UNKNOWN;
            }
        }
    }

    /// The map has other relays: where each was before, if it was there.
    pub(super) fn reorder(&mut self, before: impl Iterator<Item = Option<usize>>) {
        let old = core::mem::replace(&mut self.ms, [UNKNOWN; RELAYS]);
        for (ms, place) in self.ms.iter_mut().zip(before) {
            *ms = place.and_then(|place| old.get(place).copied()).unwrap_or(UNKNOWN);
        }
    }

    /// The relay that is asked: this one, or the nearest of the others.
    pub(super) fn choose(&self, first: usize, others: impl Iterator<Item = usize>) -> usize {
        let nearer = others.filter(|&other| self.is_nearer(other, first));
        nearer.min_by_key(|&other| self.round_trip(other)).unwrap_or(first)
    }

    /// In milliseconds, as far as it was measured.
    pub(super) fn round_trip(&self, place: usize) -> Option<u16> {
        self.ms.get(place).copied().filter(|ms| !matches!(*ms, UNKNOWN | LEFT))
    }

    fn is_nearer(&self, one: usize, other: usize) -> bool {
        let (Some(one), Some(other)) = (self.round_trip(one), self.round_trip(other)) else {
            return false;
        };
        let by = other.saturating_sub(one);
        by > NEARER_MS && u32::from(one) * 100 < u32::from(other) * NEARER_PERCENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(ms: [u64; RELAYS]) -> Latency {
        let mut latency = Latency::NONE;
        for (place, ms) in ms.into_iter().enumerate().filter(|(_, ms)| *ms > 0) {
            latency.measure(place, Duration::from_millis(ms), Instant::ZERO);
        }
        latency
    }

    #[test]
    fn a_nearer_one_is_nearer_by_a_fifth_and_by_ten_milliseconds() {
        for (ms, chosen) in [
            ([120, 20, 0, 0], 1),
            ([20, 120, 0, 0], 0),
            ([120, 0, 60, 40], 3),
            ([100, 80, 0, 0], 0),
            ([100, 79, 0, 0], 1),
            ([20, 10, 0, 0], 0),
            ([21, 10, 0, 0], 1),
            ([50, 50, 50, 50], 0),
            // What was not measured is no reason for anything.
            ([0, 20, 0, 0], 0),
            ([120, 0, 0, 0], 0),
        ] {
            assert_eq!(measured(ms).choose(0, 0..RELAYS), chosen, "{ms:?}");
        }
        assert_eq!(measured([120, 20, 60, 0]).choose(0, [0, 2].into_iter()), 2, "not asked for");
    }

    #[test]
    fn what_is_shorter_counts_at_once_and_what_is_longer_by_and_by() {
        let mut latency = measured([100, 0, 0, 0]);
        let mut then = |ms| {
            latency.measure(0, Duration::from_millis(ms), Instant::ZERO);
            latency.round_trip(0)
        };
        assert_eq!(then(60), Some(60));
        assert_eq!(then(140), Some(70));
        assert_eq!(then(77), Some(70));
        assert_eq!(then(0), Some(1), "on this host");
        assert_eq!(then(10_000_000), Some(1 + (LEFT - 2) / LONGER_COUNTS));
    }

    #[test]
    fn one_that_was_left_is_not_chosen_for_a_day_however_near() {
        let mut latency = measured([120, 20, 30, 0]);
        latency.leave(0b110, Some(0), Instant::ZERO);
        let again = |latency: &mut Latency, at| {
            latency.measure(1, Duration::from_millis(20), at);
            latency.choose(0, 0..RELAYS)
        };
        assert_eq!(again(&mut latency, Instant::from_secs(86_399)), 0);
        assert_eq!(again(&mut latency, Instant::from_secs(86_400)), 1);
        // It gave something: it may be measured again.
        latency.leave(0b010, Some(0), Instant::ZERO);
        latency.leave(0, Some(1), Instant::ZERO);
        assert_eq!(again(&mut latency, Instant::ZERO), 1);
    }

    #[test]
    fn another_order_of_the_map_keeps_what_was_measured() {
        let mut latency = measured([120, 20, 30, 0]);
        latency.reorder([None, Some(2), Some(0)].into_iter());
        assert_eq!(
            [0, 1, 2, 3].map(|place| latency.round_trip(place)),
            [None, Some(30), Some(120), None]
        );
    }
}
