//! Points in time that the caller names.
//!
//! The core never reads a clock. An [`Instant`] counts microseconds of any
//! monotonic clock that the caller keeps (on Linux one that includes suspend).
//! All arithmetic saturates: an equal or backward instant is a short duration,
//! never a panic.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

pub use core::time::Duration;

/// Microseconds of the caller's monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's zero.
    pub const ZERO: Self = Self(0);

    /// Later than every other instant: stands for "never" in comparisons.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// This many microseconds after the clock's zero.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// This many milliseconds after the clock's zero; saturates.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// This many seconds after the clock's zero; saturates.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since the clock's zero.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Milliseconds since the clock's zero, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// How long after `earlier` this is; zero when it is not later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This much later, or [`Instant::FAR_FUTURE`].
    pub const fn after(self, duration: Duration) -> Self {
        let micros = duration.as_micros();
        if micros > (u64::MAX - self.0) as u128 {
            Self::FAR_FUTURE
        } else {
            Self(self.0 + micros as u64)
        }
    }

    /// This much earlier, or [`Instant::ZERO`].
    pub const fn before(self, duration: Duration) -> Self {
        let micros = duration.as_micros();
        if micros > self.0 as u128 { Self::ZERO } else { Self(self.0 - micros as u64) }
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
        write!(f, "{}.{:06} s", self.0 / 1_000_000, self.0 % 1_000_000)
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
    fn the_text_names_seconds() {
        assert_eq!(format!("{:?}", Instant::from_micros(1_500_000)), "1.500000 s");
        assert_eq!(format!("{:?}", Instant::FAR_FUTURE), "never");
    }
}
