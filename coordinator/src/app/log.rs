//! One line per event: time, level, event, `key=value`.
//!
//! Control characters in values are escaped: a device named with a line break
//! cannot forge a line.

use core::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::Log;
use crate::domain::time::UnixMs;
use crate::service::clock::Clock;

use super::clock::SystemClock;

/// What begins a line.
#[derive(Clone, Copy)]
enum Style {
    /// Time and level.
    Plain,
    /// The journal's priority; it has the time itself.
    Journal,
    /// A JSON object.
    Json,
}

struct Lines(Style);

#[derive(Default)]
struct Fields {
    event: String,
    values: Vec<(&'static str, String)>,
}

impl Fields {
    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.event = value,
            name => self.values.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn core::error::Error + 'static)) {
        self.take(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

/// A value as it stands: bare where nothing can be mistaken, else quoted.
fn value(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "._:/@+-".contains(c);
    if !text.is_empty() && text.chars().all(bare) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// Priorities of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn line(style: Style, at: UnixMs, level: Level, fields: &Fields) -> String {
    let Fields { event, values } = fields;
    if let Style::Json = style {
        let mut object = serde_json::Map::new();
        object.insert("ts".to_owned(), at.to_string().into());
        object.insert("level".to_owned(), word(level).to_lowercase().into());
        object.insert("event".to_owned(), event.as_str().into());
        for (name, text) in values {
            object.insert((*name).to_owned(), text.as_str().into());
        }
        return serde_json::Value::Object(object).to_string();
    }
    let head = match style {
        Style::Journal => format!("<{}>", priority(level)),
        Style::Plain | Style::Json => format!("{at} {:5} ", word(level)),
    };
    // The event is our own text; whatever else got into it stays on the line.
    let event: String = event.chars().filter(|c| !c.is_control()).collect();
    let pairs = values.iter().map(|(name, text)| format!(" {name}={}", value(text)));
    let pairs: String = pairs.collect();
    format!("{head}{event:18}{pairs}").trim_end().to_owned()
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let at = UnixMs(SystemClock.unix_ms());
        writeln!(writer, "{}", line(self.0, at, *event.metadata().level(), &fields))
    }
}

/// Logs to standard error from now on.
pub(crate) fn start(log: &Log) {
    let style = match (log.json, std::env::var_os("JOURNAL_STREAM").is_some()) {
        (true, _) => Style::Json,
        (false, true) => Style::Journal,
        (false, false) => Style::Plain,
    };
    let level = log.level.parse().unwrap_or(LevelFilter::INFO);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .event_format(Lines(style))
        .finish();
    // Another subscriber is there already only in tests.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(values: &[(&'static str, &str)]) -> Fields {
        let values = values.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        Fields { event: "device.enrolled".to_owned(), values }
    }

    #[test]
    fn lines_have_one_shape() {
        let fields = fields(&[("device", "gw-a"), ("cause", "timed out")]);
        let at = UnixMs(1_795_446_245_123);
        assert_eq!(
            line(Style::Plain, at, Level::WARN, &fields),
            r#"2026-11-23T15:04:05.123Z WARN  device.enrolled    device=gw-a cause="timed out""#
        );
        assert_eq!(
            line(Style::Journal, at, Level::INFO, &fields),
            r#"<6>device.enrolled    device=gw-a cause="timed out""#
        );
        let json: serde_json::Value =
            serde_json::from_str(&line(Style::Json, at, Level::INFO, &fields)).unwrap();
        assert_eq!(
            (&json["event"], &json["cause"]),
            (&"device.enrolled".into(), &"timed out".into())
        );
    }

    #[test]
    fn nobody_forges_a_line() {
        let fields = fields(&[("name", "a\n2026 INFO x\x1b[2J\"\\")]);
        let line = line(Style::Plain, UnixMs(0), Level::INFO, &fields);
        assert!(!line.contains('\n') && !line.contains('\x1b'), "{line}");
        assert!(line.ends_with(r#"name="a\n2026 INFO x\u{1b}[2J\"\\""#), "{line}");
    }
}
