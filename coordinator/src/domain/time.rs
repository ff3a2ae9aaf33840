//! Points in time as the database and the wire keep them.

use core::fmt;
use core::time::Duration;

/// Milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub u64);

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;

impl UnixMs {
    /// Days since 1970-01-01, in UTC.
    pub const fn day(self) -> u32 {
        let days = self.0 / DAY_MS;
        if days > u32::MAX as u64 { u32::MAX } else { days as u32 }
    }

    /// The moment `span` later; stays at the end of time.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds, for formats that count in them; the end of u32 at most.
    pub fn seconds(self) -> u32 {
        u32::try_from(self.0 / 1_000).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for UnixMs {
    /// RFC 3339, UTC, milliseconds: `2026-11-23T15:04:05.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0 / 86_400_000);
        let ms = self.0 % 86_400_000;
        let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
        let (second, rest) = (ms / 1_000 % 60, ms % 1_000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest:03}Z")
    }
}

/// Year, month and day of a count of days since 1970-01-01, after Howard
/// Hinnant's `civil_from_days` (eras of 400 years that begin on 1 March).
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + (month <= 2) as u64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_446_245_123, "2026-11-23T15:04:05.123Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(UnixMs(ms).to_string(), text);
        }
    }

    #[test]
    fn stays_at_both_ends() {
        assert_eq!(UnixMs(u64::MAX).after(Duration::from_secs(1)), UnixMs(u64::MAX));
        assert_eq!(UnixMs(5).since(UnixMs(9)), Duration::ZERO);
        assert_eq!(UnixMs(u64::MAX).seconds(), u32::MAX);
    }
}
