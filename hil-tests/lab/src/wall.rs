//! Wall-clock time, for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::net::local_time;

/// `12:04:07`, here.
pub(crate) fn time_of_day() -> String {
    let (hour, minute, second) = local_time(since_epoch().as_secs());
    format!("{hour:02}:{minute:02}:{second:02}")
}

/// How long ago an RFC 3339 moment in UTC was, `2026-11-23T15:03:12.440Z`.
pub(crate) fn age_of(moment: &str) -> Option<Duration> {
    let at = parse(moment)?;
    Some(since_epoch().saturating_sub(at))
}

/// Unix time of this machine.
#[expect(clippy::disallowed_methods, reason = "the laboratory shows ages and times of day")]
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Unix time of an RFC 3339 moment in UTC.
pub(crate) fn parse(moment: &str) -> Option<Duration> {
    let (date, time) = moment.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let hours: u64 = time.next()?.parse().ok()?;
    let minutes: u64 = time.next()?.parse().ok()?;
    let seconds: f64 = time.next()?.parse().ok()?;
    let days = u64::try_from(days_since_epoch(year, month, day)?).ok()?;
    let whole = Duration::from_secs(days * 86_400 + hours * 3_600 + minutes * 60);
    Some(whole + Duration::try_from_secs_f64(seconds).ok()?)
}

/// Days of the civil calendar, with years that begin in March.
fn days_since_epoch(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(era * 146_097 + of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        for (moment, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-23T15:03:12.440Z", 1_795_446_192_440),
            ("2024-02-29T23:59:59Z", 1_709_251_199_000),
            ("2000-03-01T00:00:00.000Z", 951_868_800_000),
        ] {
            assert_eq!(parse(moment).map(|at| at.as_millis()), Some(millis), "{moment}");
        }
        for wrong in ["", "2026-11-23", "2026-13-01T00:00:00Z", "2026-11-23T15:03:12"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
