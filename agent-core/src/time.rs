//! Points in time that the caller names.
//!
//! The core never reads a clock. An [`Instant`] counts microseconds of any
//! monotonic clock that the caller keeps (on Linux one that includes suspend).
//! All arithmetic saturates: an equal or backward instant is a short duration,
//! never a panic.
//!
//! A [`Duration`] is one of our own, in microseconds too: `core`'s counts seconds and
//! nanoseconds, which every sum and comparison takes apart, and a chip divides 64 and 128
//! bits by hand.

use core::fmt;
use core::num::NonZero;
use core::ops::{Add, AddAssign, Div, Mul, Sub, SubAssign};

/// A span in microseconds. All arithmetic saturates.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(u64);

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// The longest.
    pub const MAX: Self = Self(u64::MAX);

    /// Of microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Of milliseconds; saturates.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Of seconds; saturates.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Microseconds.
    pub const fn as_micros(&self) -> u64 {
        self.0
    }

    /// Milliseconds, rounded down.
    pub const fn as_millis(&self) -> u64 {
        self.0 / 1_000
    }

    /// Seconds, rounded down.
    pub const fn as_secs(&self) -> u64 {
        self.0 / 1_000_000
    }

    /// Both spans, one after the other.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left of the span after another; zero if that is longer.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Several times the span.
    #[must_use]
    pub const fn saturating_mul(self, times: u32) -> Self {
        Self(self.0.saturating_mul(times as u64))
    }
}

impl From<core::time::Duration> for Duration {
    fn from(duration: core::time::Duration) -> Self {
        Self(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Duration> for core::time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_micros(duration.0)
    }
}

impl Add for Duration {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl AddAssign for Duration {
    fn add_assign(&mut self, other: Self) {
        *self = self.saturating_add(other);
    }
}

impl Sub for Duration {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

impl SubAssign for Duration {
    fn sub_assign(&mut self, other: Self) {
        *self = self.saturating_sub(other);
    }
}

impl Mul<u32> for Duration {
    type Output = Self;

    fn mul(self, times: u32) -> Self {
        self.saturating_mul(times)
    }
}

/// By zero, as any division of numbers, a panic.
impl Div<u32> for Duration {
    type Output = Self;

    fn div(self, parts: u32) -> Self {
        Self(self.0 / u64::from(parts))
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::time::Duration::from(*self).fmt(f)
    }
}

/// Microseconds of the caller's monotonic clock. Its arithmetic is not inlined: a call takes
/// a third of what 64 bits that saturate take on a chip.
///
/// One more than that is what is kept, so that an `Option` of it takes no more room: a
/// chip has hundreds of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZero<u64>);

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Instant {
    /// The clock's zero.
    pub const ZERO: Self = Self(NonZero::<u64>::MIN);

    /// Later than every other instant: stands for "never" in comparisons.
    pub const FAR_FUTURE: Self = Self(NonZero::<u64>::MAX);

    /// This many microseconds after the clock's zero; saturates.
    pub const fn from_micros(micros: u64) -> Self {
        Self(NonZero::<u64>::MIN.saturating_add(micros))
    }

    /// This many milliseconds after the clock's zero; saturates.
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_micros(millis.saturating_mul(1_000))
    }

    /// This many seconds after the clock's zero; saturates.
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_micros(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since the clock's zero.
    pub const fn as_micros(self) -> u64 {
        self.0.get() - 1
    }

    /// Milliseconds since the clock's zero, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.as_micros() / 1_000
    }

    /// How long after `earlier` this is; zero when it is not later.
    #[inline(never)]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// This much later, or [`Instant::FAR_FUTURE`].
    #[inline(never)]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.0))
    }

    /// This much earlier, or [`Instant::ZERO`].
    #[inline(never)]
    pub const fn before(self, duration: Duration) -> Self {
        Self::from_micros(self.as_micros().saturating_sub(duration.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self.after(duration)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = self.after(duration);
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        self.before(duration)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::FAR_FUTURE {
            return f.write_str("never");
        }
        let micros = self.as_micros();
        write!(f, "{}.{:06} s", micros / 1_000_000, micros % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let late = Instant::FAR_FUTURE;
        assert_eq!(late + Duration::from_secs(1), late);
        assert_eq!(Instant::ZERO + Duration::MAX, late);
        assert_eq!(Instant::from_secs(1) - Duration::MAX, Instant::ZERO);
        assert_eq!(Instant::ZERO - late, Duration::ZERO);
        assert_eq!(Instant::from_secs(3) - Instant::from_secs(1), Duration::from_secs(2));
        assert_eq!(Instant::from_millis(u64::MAX), late);
    }

    #[test]
    fn spans_saturate_and_become_those_of_core() {
        let (second, most) = (Duration::from_secs(1), Duration::MAX);
        assert_eq!((most + second, second - most, most * 2), (most, Duration::ZERO, most));
        assert_eq!((Duration::from_secs(u64::MAX), Duration::from_millis(u64::MAX)), (most, most));
        assert_eq!(second / 40, Duration::from_millis(25));
        let of_core = core::time::Duration::from_millis(1_500);
        assert_eq!(Duration::from(of_core), Duration::from_millis(1_500));
        assert_eq!(core::time::Duration::from(Duration::from_millis(1_500)), of_core);
        assert_eq!(Duration::from(core::time::Duration::MAX), most);
        assert_eq!(format!("{:?}", Duration::from_millis(1_500)), "1.5s");
    }

    #[test]
    fn an_option_takes_no_more_room() {
        assert_eq!(size_of::<Option<Instant>>(), size_of::<u64>());
        for micros in [0, 1, u64::MAX - 2, u64::MAX - 1] {
            assert_eq!(Instant::from_micros(micros).as_micros(), micros);
        }
        assert_eq!(Instant::from_micros(u64::MAX), Instant::FAR_FUTURE);
    }

    #[test]
    fn the_text_names_seconds() {
        assert_eq!(format!("{:?}", Instant::from_micros(1_500_000)), "1.500000 s");
        assert_eq!(format!("{:?}", Instant::FAR_FUTURE), "never");
    }
}
