//! Values as people read them. Two units at most; unknown is `–`, never 0.

use crate::os::clock;

const SECOND_US: u64 = 1_000_000;

/// A span: `820 µs`, `20.4 ms`, `4.2 s`, `3 min 12 s`, `2 h 05 min`, `6 d 4 h`.
pub(crate) fn span_us(us: u64) -> String {
    let (minute, hour, day) = (60, 3_600, 86_400);
    let s = us / SECOND_US;
    let ms = us as f64 / 1_000.0;
    match s {
        0 if us < 1_000 => format!("{us} µs"),
        0 if us < 100_000 => format!("{ms:.1} ms"),
        0 => format!("{ms:.0} ms"),
        1..60 => format!("{:.1} s", us as f64 / 1e6),
        60..3_600 => two(s / minute, "min", s % minute, "s", 1),
        3_600..86_400 => two(s / hour, "h", s % hour / minute, "min", 2),
        _ => two(s / day, "d", s % day / hour, "h", 1),
    }
}

fn two(first: u64, unit: &str, second: u64, small: &str, digits: usize) -> String {
    if second == 0 {
        format!("{first} {unit}")
    } else {
        format!("{first} {unit} {second:0digits$} {small}")
    }
}

/// A span of whole seconds.
pub(crate) fn span_s(s: u64) -> String {
    if s < 60 { format!("{s} s") } else { span_us(s.saturating_mul(SECOND_US)) }
}

/// The time of a step: `0.26 s`.
pub(crate) fn step(us: u64) -> String {
    format!("{:.2} s", us as f64 / 1e6)
}

/// An age: `now` below two seconds, then one unit: `12 s ago`, `3 d ago`.
pub(crate) fn age_ms(ms: u64) -> String {
    match ms / 1_000 {
        0..2 => "now".to_owned(),
        s @ 2..60 => format!("{s} s ago"),
        s @ 60..3_600 => format!("{} min ago", s / 60),
        s @ 3_600..86_400 => format!("{} h ago", s / 3_600),
        s => format!("{} d ago", s / 86_400),
    }
}

/// Traffic in powers of 1,000, as SIM plans count.
pub(crate) fn traffic(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1_000.0 {
            break;
        }
        value /= 1_000.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Bytes in the unit that [`traffic`] gives another number, without it: `9.1`.
pub(crate) fn traffic_as(bytes: u64, other: u64) -> String {
    let (mut value, mut left) = (bytes as f64, other as f64);
    let mut whole = true;
    while left >= 1_000.0 {
        (value, left, whole) = (value / 1_000.0, left / 1_000.0, false);
    }
    if whole || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// Bytes as somebody may have written them: `1 MB`, `1.5 MB`, `1,234 B`.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    let fits = |(unit, _): &&(u64, &str)| bytes >= *unit && bytes.is_multiple_of(unit / 10);
    match units.iter().find(fits) {
        Some((unit, name)) if bytes.is_multiple_of(*unit) => {
            format!("{} {name}", thousands(bytes / unit))
        }
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit / (unit / 10)),
        None => format!("{} B", thousands(bytes)),
    }
}

/// A day, by its number since 1970-01-01: `2026-11-27`.
pub(crate) fn date(day: u32) -> String {
    let moment = rfc3339(u64::from(day) * 86_400_000);
    moment.split('T').next().unwrap_or_default().to_owned()
}

/// `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `no peers`, `1 peer`, `2 peers`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    match number {
        0 => format!("no {thing}s"),
        1 => format!("1 {thing}"),
        _ => format!("{} {thing}s", thousands(number as u64)),
    }
}

/// A calendar date of the proleptic Gregorian calendar (H. Hinnant,
/// "chrono-compatible low-level date algorithms", civil_from_days).
const fn civil(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// RFC 3339 in UTC with milliseconds, for documents and logs.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let (s, ms) = (unix_ms / 1_000, unix_ms % 1_000);
    let (year, month, day) = civil((s / 86_400) as i64);
    let (hour, minute, second) = (s / 3_600 % 24, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// A moment with the offset of this machine: `2026-11-20 18:00:00 +01:00`.
pub(crate) fn moment(unix_ms: u64) -> String {
    moment_at(unix_ms, clock::utc_offset((unix_ms / 1_000) as i64))
}

fn moment_at(unix_ms: u64, offset_s: i32) -> String {
    let local = (unix_ms / 1_000) as i64 + i64::from(offset_s);
    let (year, month, day) = civil(local.div_euclid(86_400));
    let s = local.rem_euclid(86_400);
    let (hour, minute, second) = (s / 3_600, s / 60 % 60, s % 60);
    let sign = if offset_s < 0 { '-' } else { '+' };
    let offset = offset_s.unsigned_abs() / 60;
    format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} {sign}{:02}:{:02}",
        offset / 60,
        offset % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (us, text) in [
            (820, "820 µs"),
            (20_400, "20.4 ms"),
            (148_000, "148 ms"),
            (4_200_000, "4.2 s"),
            (192_000_000, "3 min 12 s"),
            (180_000_000, "3 min"),
            (7_500_000_000, "2 h 05 min"),
            (532_800_000_000, "6 d 4 h"),
            (604_800_000_000, "7 d"),
        ] {
            assert_eq!(span_us(us), text);
        }
        assert_eq!(span_s(12), "12 s");
        assert_eq!(step(260_000), "0.26 s");
    }

    #[test]
    fn ages_have_one_unit() {
        for (ms, text) in [
            (1_999, "now"),
            (12_000, "12 s ago"),
            (200_000, "3 min ago"),
            (7_200_000, "2 h ago"),
            (259_200_000, "3 d ago"),
        ] {
            assert_eq!(age_ms(ms), text);
        }
    }

    #[test]
    fn sizes_are_told_as_somebody_wrote_them() {
        let all = [1_000_000, 1_500_000, 93_000, 93_100, 750, 1_234_567, 0, 2_000_000_000];
        let told = ["1 MB", "1.5 MB", "93 kB", "93.1 kB", "750 B", "1,234,567 B", "0 B", "2 GB"];
        assert_eq!(all.map(size), told);
        assert_eq!(
            [(9_120, 18_211), (812, 999), (999_400, 1_000_000)]
                .map(|(part, sum)| { traffic_as(part, sum) }),
            ["9.1", "812", "1.0"]
        );
        assert_eq!(date(20_784), "2026-11-27");
    }

    #[test]
    fn traffic_counts_by_thousands() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (18_211, "18.2 kB"),
            (1_204_551, "1.2 MB"),
            (310_224_000, "310 MB"),
        ] {
            assert_eq!(traffic(bytes), text);
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(42), "42");
        assert_eq!(count(0, "peer"), "no peers");
        assert_eq!(count(1, "peer"), "1 peer");
        assert_eq!(count(2, "peer"), "2 peers");
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_795_446_245, "2026-11-23T15:04:05.000Z"),
        ] {
            assert_eq!(rfc3339(unix_s * 1_000), text);
        }
        assert_eq!(moment_at(1_795_446_245_000, 3_600), "2026-11-23 16:04:05 +01:00");
        assert_eq!(moment_at(1_795_446_245_000, -12_600), "2026-11-23 11:34:05 -03:30");
    }
}
