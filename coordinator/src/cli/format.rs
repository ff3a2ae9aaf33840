//! Values as people read them.

use core::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::ui;
pub(crate) use weft_wire::size::parse as parse_size;

/// What is not known.
pub(crate) const NOTHING: &str = "–";

/// Two units at most: `820 µs`, `20.4 ms`, `4.2 s`, `3 min 12 s`, `2 h 05 min`,
/// `6 d 4 h`, `41 d`.
pub(crate) fn span(span: Duration) -> String {
    let (micros, seconds) = (span.as_micros(), span.as_secs());
    match seconds {
        0 if micros < 1_000 => format!("{micros} µs"),
        0 if micros < 100_000 => format!("{:.1} ms", span.as_secs_f64() * 1_000.0),
        0 => format!("{} ms", micros / 1_000),
        1..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
        86_400..864_000 => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `now`, `12 s ago`, `3 d ago`.
pub(crate) fn age(now: u64, then: u64) -> String {
    match now.saturating_sub(then) / 1_000 {
        0..2 => "now".to_owned(),
        seconds @ 2..60 => format!("{seconds} s ago"),
        seconds @ 60..3_600 => format!("{} min ago", seconds / 60),
        seconds @ 3_600..86_400 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

/// Milliseconds of an RFC 3339 text; the API writes no other.
pub(crate) fn millis(text: &str) -> Option<u64> {
    let timestamp: Timestamp = text.parse().ok()?;
    u64::try_from(timestamp.as_millisecond()).ok()
}

/// A moment in local time with its offset, `2026-11-20 18:00 +01:00`.
pub(crate) fn moment(text: &str) -> String {
    moment_in(text, TimeZone::system(), "%Y-%m-%d %H:%M %:z")
}

/// [`moment`] with its second, `2026-11-20 18:00:00 +01:00`.
pub(crate) fn moment_exact(text: &str) -> String {
    moment_in(text, TimeZone::system(), "%Y-%m-%d %H:%M:%S %:z")
}

fn moment_in(text: &str, zone: TimeZone, form: &str) -> String {
    text.parse::<Timestamp>().map_or_else(
        |_| text.to_owned(),
        |timestamp| timestamp.to_zoned_datetime(zone).strftime(form).to_string(),
    )
}

/// `1 peer`, `2 peers`, `no peers`.
pub(crate) fn count(count: usize, one: &str) -> String {
    match count {
        0 => format!("no {one}s"),
        1 => format!("1 {one}"),
        many => format!("{many} {one}s"),
    }
}

/// Bytes in powers of 1000, as plans for SIM cards count: `512 B`, `310 kB`,
/// `1.2 MB`.
pub(crate) fn traffic(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (u128::from(bytes) / 100, 0);
    while tenths >= 10_000 && unit + 1 < units.len() {
        tenths /= 1_000;
        unit += 1;
    }
    let unit = units[unit];
    if tenths < 100 {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", tenths / 10)
    }
}

/// `10,000`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Reads `90s`, `30min`, `24h`, `7d`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\": write a number and s, min, h or d, for example \"7d\"");
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// A column of a table.
pub(crate) struct Column {
    /// Its head.
    pub(crate) head: &'static str,
    /// Narrow terminals lose the highest number first; 0 stays.
    pub(crate) rank: u8,
}

/// Prints a table as wide as the terminal, if there is one.
pub(crate) fn print_table(columns: &[Column], rows: &[Vec<String>]) {
    let width = ui::terminal().map(|(width, _)| width);
    table(columns, rows, width).iter().for_each(ui::out);
}

/// A table: aligned on a terminal and never wider than it; in a pipe all
/// columns, two spaces between.
fn table(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([columns[at].head.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    if let Some(width) = width {
        let total = |shown: &[usize]| shown.iter().map(|at| widths[*at] + 2).sum::<usize>();
        while total(&shown) > width + 2 {
            let last = shown.iter().copied().filter(|at| columns[*at].rank > 0);
            let Some(last) = last.max_by_key(|at| columns[*at].rank) else { break };
            shown.retain(|at| *at != last);
        }
    }
    let heads: Vec<String> = columns.iter().map(|column| column.head.to_owned()).collect();
    let line = |row: &Vec<String>| {
        let cells = shown.iter().map(|at| {
            let pad = if width.is_some() { widths[*at] - row[*at].chars().count() } else { 0 };
            format!("{}{}", row[*at], " ".repeat(pad))
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    core::iter::once(&heads).chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (micros, text) in [
            (820, "820 µs"),
            (20_400, "20.4 ms"),
            (236_000, "236 ms"),
            (4_200_000, "4.2 s"),
            (192_000_000, "3 min 12 s"),
            (7_500_000_000, "2 h 05 min"),
            (532_800_000_000, "6 d 4 h"),
            (3_542_400_000_000, "41 d"),
        ] {
            assert_eq!(span(Duration::from_micros(micros)), text);
        }
        assert_eq!(age(10_000, 8_500), "now");
        assert_eq!(age(10_000, 11_000), "now", "a clock that stepped back");
        assert_eq!(age(300_000_000, 0), "3 d ago");
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        for (number, text) in [(0, "0"), (999, "999"), (1_024, "1,024"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_999, "9.9 kB"),
            (310_224, "310 kB"),
            (999_999, "999 kB"),
            (1_204_551, "1.2 MB"),
            (52_000_000_000, "52 GB"),
        ] {
            assert_eq!(traffic(bytes), text);
        }
    }

    #[test]
    fn sizes_are_read_with_a_unit() {
        let sizes = ["0B", "750 B", "93kB", "1.5MB", "0.25GB"];
        let bytes = [0, 750, 93_000, 1_500_000, 250_000_000];
        assert_eq!(sizes.map(parse_size), bytes.map(Some));
        for wrong in
            ["", "1", "MB", "1 meg", "-1MB", "1,5MB", ".5MB", "1.MB", "1.5B", "99999999999GB"]
        {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn spans_are_read_with_a_unit() {
        assert_eq!(parse_span("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(parse_span("5 min"), Ok(Duration::from_secs(300)));
        for wrong in ["", "7", "d", "7w", "-1d", "99999999999999999d"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_have_an_offset() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let text = "2026-11-20T17:00:00.000Z";
        let (form, exact) = ("%Y-%m-%d %H:%M %:z", "%Y-%m-%d %H:%M:%S %:z");
        assert_eq!(moment_in(text, zone.clone(), form), "2026-11-20 18:00 +01:00");
        assert_eq!(moment_in(text, zone, exact), "2026-11-20 18:00:00 +01:00");
        assert_eq!(millis("2026-11-23T15:04:05.123Z"), Some(1_795_446_245_123));
    }

    #[test]
    fn narrow_tables_lose_the_least_important() {
        let columns = [
            Column { head: "NAME", rank: 0 },
            Column { head: "SEEN", rank: 2 },
            Column { head: "TAGS", rank: 1 },
        ];
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["gw-a", "now", "a=b c=d"]), row(["bench-sensor", "3 s ago", ""])];
        let wide = table(&columns, &rows, Some(80));
        assert_eq!(
            wide,
            [
                "NAME          SEEN     TAGS",
                "gw-a          now      a=b c=d",
                "bench-sensor  3 s ago"
            ]
        );
        let narrow = table(&columns, &rows, Some(24));
        assert_eq!(narrow, ["NAME          TAGS", "gw-a          a=b c=d", "bench-sensor"]);
        let pipe = table(&columns, &rows, None);
        assert_eq!(pipe, ["NAME  SEEN  TAGS", "gw-a  now  a=b c=d", "bench-sensor  3 s ago"]);
    }
}
