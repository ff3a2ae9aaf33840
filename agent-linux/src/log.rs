//! The daemon's log: one line per change of state, in one form:
//!
//! ```text
//! 2026-11-23T15:04:05.123Z INFO  peer.up            peer=gw-b path=direct
//! boot+12.345s             INFO  tunnel.established peer=gw-b
//! ```
//!
//! An event that is not in the table below does not compile. No value is a
//! secret: keys, PSKs, join strings and passwords have no way to become a
//! [`Value`]. The last lines are kept in memory for `weft logs`.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

use crate::config::{LogFormat, LogLevel};
use crate::os::clock;
use crate::output::units;

/// Bytes of lines kept for `weft logs`.
const KEPT: usize = 128 * 1024;
/// The same event about the same subject, above debug, at most once in this time.
const QUIET_US: u64 = 60_000_000;
/// Events remembered for that.
const REMEMBERED: usize = 128;
/// A clock before 2025 was never set.
const PLAUSIBLE_MS: u64 = 1_735_689_600_000;

/// Declares the events in one table.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident $code:literal $level:ident,)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Event { $($(#[$doc])* $name,)* }

        impl Event {
            #[cfg(test)]
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            const fn level(self) -> LogLevel {
                match self { $(Self::$name => LogLevel::$level,)* }
            }
        }
    };
}

events! {
    /// The process runs.
    AgentStarted "agent.started" Info,
    /// The process ends and has taken everything back.
    AgentStopped "agent.stopped" Info,
    /// What a killed run left behind was removed.
    AgentSwept "agent.swept" Info,
    /// The line to the coordinator stands.
    LineConnected "control.connected" Info,
    /// The line was lost or could not be opened.
    LineLost "control.lost" Warn,
    /// Addresses of the join string that this build cannot use.
    /// The coordinator proved itself.
    Online "control.online" Info,
    /// The coordinator changed its key as it had announced; this one is pinned now.
    CoordinatorKey "control.key-changed" Info,
    /// A frame was dropped.
    FrameDropped "control.dropped" Debug,
    /// The device was taken in.
    Registered "enrol.registered" Info,
    /// The device was not taken in.
    Refused "enrol.refused" Error,
    /// How the device stands has changed.
    Standing "enrol.standing" Warn,
    /// Another machine uses this identity.
    Duplicate "enrol.duplicate" Warn,
    /// The mesh interface is up.
    InterfaceUp "interface.up" Info,
    /// The mesh interface or a route could not be set.
    InterfaceFailed "interface.failed" Error,
    /// Another network has addresses of the overlay.
    RangeOverlap "interface.overlap" Warn,
    /// Another program has a route to the same range.
    RouteClash "interface.clash" Warn,
    /// The map was committed.
    MapCommitted "map.committed" Info,
    /// Peers use another WireGuard key of this device from now on.
    KeyRotated "key.rotated" Info,
    /// The day's bytes are used up: nothing is sent that only might help.
    BudgetUsedUp "data.budget-used-up" Warn,
    /// A new day, or a larger budget.
    BudgetRenewed "data.budget-renewed" Info,
    /// Every peer was dropped.
    MapDropped "map.dropped" Warn,
    /// A peer can be talked to.
    PeerUp "peer.up" Info,
    /// A peer's session has ended.
    PeerDown "peer.down" Info,
    /// This machine's own addresses.
    Candidates "path.candidates" Debug,
    /// The router lets packets in to the tunnel's port.
    PortMapped "path.mapped" Info,
    /// It does so no more.
    PortUnmapped "path.unmapped" Info,
    /// The network has a translator to IPv4, which this host does not have itself.
    TranslatorFound "path.translator" Info,
    /// There is none any more, or none is needed.
    TranslatorGone "path.no-translator" Info,
    /// The network was looked at for an operator.
    NetworkSeen "network.seen" Info,
    /// It could not be looked at.
    NetworkUnseen "network.unseen" Warn,
    /// State could not be written.
    StateFailed "state.failed" Error,
    /// State that could not be written is written.
    StateWritten "state.written" Info,
    /// Rights that are not needed were given away, or could not be.
    RightsKept "agent.rights" Warn,
    /// An operator asked for a restart.
    RestartAsked "agent.restart" Info,
    /// The device has left its network.
    Left "agent.left" Info,
}

/// Events that end what the other began: each makes the other news again, so
/// that the last word about a thing is true.
const OPPOSITES: &[(Event, Event)] = &[
    (Event::LineLost, Event::LineConnected),
    (Event::LineLost, Event::Online),
    (Event::InterfaceFailed, Event::InterfaceUp),
    (Event::PeerUp, Event::PeerDown),
    (Event::Standing, Event::Standing),
    (Event::StateFailed, Event::StateWritten),
];
/// So often within [`QUIET_US`], then even that is noise.
const TURNS: u8 = 3;

/// A value in a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

/// A field: its name (with its unit) and its value.
pub(crate) type Field<'a> = (&'a str, Value);

/// Where lines go and which.
pub(crate) struct Log {
    level: LogLevel,
    format: LogFormat,
    /// Nobody reads the error stream of a daemon in the background.
    to_stderr: bool,
    journal: bool,
    /// Endpoint addresses appear at level info.
    addresses: bool,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    next: u64,
    recent: BTreeMap<(Event, String), Recent>,
}

/// A line that `weft logs` can still show.
struct Kept {
    number: u64,
    /// Microseconds since boot.
    at_us: u64,
    line: String,
}

struct Recent {
    at_us: u64,
    repeated: u64,
    /// How often it was news again within [`QUIET_US`].
    turns: u8,
}

/// Whether the error stream is the journal's socket: `JOURNAL_STREAM` names its
/// device and inode (systemd.exec(5)); a shell below may have inherited it.
fn is_journal() -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let own = std::fs::metadata("/proc/self/fd/2");
    own.is_ok_and(|own| stream == format!("{}:{}", own.dev(), own.ino()))
}

/// The moment of a line.
#[derive(Clone, Copy)]
struct Moment {
    boot_us: u64,
    unix_ms: u64,
}

impl Moment {
    fn now() -> Self {
        Self { boot_us: clock::boot_micros(), unix_ms: clock::unix_millis() }
    }

    const fn is_known(self) -> bool {
        self.unix_ms >= PLAUSIBLE_MS
    }
}

impl Log {
    pub(crate) fn new(level: LogLevel, format: LogFormat, to_stderr: bool) -> Self {
        Self {
            addresses: false,
            level,
            format,
            to_stderr,
            journal: to_stderr && is_journal(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            next: 0,
            recent: BTreeMap::new(),
        }
    }

    /// Lets endpoint addresses of devices appear at level info.
    pub(crate) const fn show_addresses(&mut self) {
        self.addresses = true;
    }

    /// Whether endpoint addresses of devices may appear (personal data in some
    /// places): asked for, or at level debug.
    pub(crate) fn shows_addresses(&self) -> bool {
        self.addresses || self.level >= LogLevel::Debug
    }

    /// Whether a line of this event would be written.
    pub(crate) fn wants(&self, event: Event) -> bool {
        event.level() <= self.level
    }

    /// Writes a line. The first field is its subject.
    pub(crate) fn write(&mut self, event: Event, fields: &[Field<'_>]) {
        if self.wants(event) {
            self.write_at(event, fields, Moment::now());
        }
    }

    fn write_at(&mut self, event: Event, fields: &[Field<'_>], moment: Moment) {
        let (mut repeated, mut turns) = (0, 0);
        if event.level() < LogLevel::Debug {
            let subject = fields.first().map_or_else(String::new, |(_, value)| text(value));
            let key = (event, subject);
            if self.recent.contains_key(&key) {
                let turned = self.is_news_again(&key);
                let Some(recent) = self.recent.get_mut(&key) else { return };
                let quiet = moment.boot_us.saturating_sub(recent.at_us) < QUIET_US;
                if quiet && !(turned && recent.turns < TURNS) {
                    recent.repeated += 1;
                    return;
                }
                repeated = recent.repeated;
                turns = if quiet { recent.turns + 1 } else { 0 };
            }
            self.remember(key, moment.boot_us, turns);
        }
        let line = self.line(event, fields, repeated, moment);
        self.emit(event.level(), moment.boot_us, line);
    }

    /// Whether the opposite of this event was written since: about the same peer or
    /// file, or about the one line or interface.
    fn is_news_again(&self, key: &(Event, String)) -> bool {
        let (event, subject) = key;
        let Some(at_us) = self.recent.get(key).map(|recent| recent.at_us) else { return false };
        let one_of_many = matches!(
            event,
            Event::PeerUp | Event::PeerDown | Event::StateFailed | Event::StateWritten
        );
        let opposite = |other: Event| {
            OPPOSITES.iter().any(|pair| *pair == (*event, other) || *pair == (other, *event))
        };
        self.recent.iter().any(|((other, about), recent)| {
            // Another standing is the opposite of a standing; the same is none.
            let is_itself = (other, about) == (event, subject);
            !is_itself
                && opposite(*other)
                && recent.at_us >= at_us
                && (!one_of_many || about == subject)
        })
    }

    fn remember(&mut self, key: (Event, String), at_us: u64, turns: u8) {
        if self.recent.len() >= REMEMBERED && !self.recent.contains_key(&key) {
            let oldest = self.recent.iter().min_by_key(|(_, recent)| recent.at_us);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.recent.remove(&oldest);
            }
        }
        self.recent.insert(key, Recent { at_us, repeated: 0, turns });
    }

    fn line(&self, event: Event, fields: &[Field<'_>], repeated: u64, moment: Moment) -> String {
        let repeated = (repeated > 0).then_some(("repeated", Value::Number(repeated)));
        let fields = fields.iter().chain(&repeated);
        match self.format {
            LogFormat::Text => self.text_line(event, fields, moment),
            LogFormat::Json => json_line(event, fields, moment),
        }
    }

    fn text_line<'f, 'a: 'f>(
        &self,
        event: Event,
        fields: impl Iterator<Item = &'f Field<'a>>,
        moment: Moment,
    ) -> String {
        let time = if self.journal {
            String::new()
        } else if moment.is_known() {
            format!("{} ", units::rfc3339(moment.unix_ms))
        } else {
            let boot = format!("boot+{:.3}s", moment.boot_us as f64 / 1e6);
            format!("{boot:<24} ")
        };
        let level = level_name(event.level());
        let mut line = format!("{time}{level:<5} {:<18}", event.code());
        for (key, value) in fields {
            line.push(' ');
            line.push_str(key);
            line.push('=');
            match value {
                Value::Text(value) => push_quoted(&mut line, value),
                other => line.push_str(&text(other)),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn emit(&mut self, level: LogLevel, at_us: u64, line: String) {
        if self.to_stderr {
            let priority = match (self.journal, level) {
                (false, _) => "",
                (true, LogLevel::Error) => "<3>",
                (true, LogLevel::Warn) => "<4>",
                (true, LogLevel::Info) => "<6>",
                (true, _) => "<7>",
            };
            // A log that cannot be written has no other place to say so.
            drop(write_line(&mut std::io::stderr(), priority, &line));
        }
        self.kept_bytes += line.len();
        self.kept.push_back(Kept { number: self.next, at_us, line });
        self.next += 1;
        while self.kept_bytes > KEPT {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.kept_bytes -= oldest.line.len();
        }
    }

    /// Kept lines from number `from` on, and the number that comes next.
    pub(crate) fn since(&self, from: u64) -> (impl Iterator<Item = &str>, u64) {
        let lines = self.kept.iter().filter(move |kept| kept.number >= from);
        (lines.map(|kept| kept.line.as_str()), self.next)
    }

    /// The number of the first line written at this moment or later.
    pub(crate) fn first_after(&self, boot_us: u64) -> u64 {
        let mut kept = self.kept.iter();
        kept.find(|kept| kept.at_us >= boot_us).map_or(self.next, |kept| kept.number)
    }
}

const fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "ERROR",
        LogLevel::Warn => "WARN",
        LogLevel::Info => "INFO",
        LogLevel::Debug => "DEBUG",
        LogLevel::Trace => "TRACE",
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Number(number) => number.to_string(),
    }
}

fn json_line<'f, 'a: 'f>(
    event: Event,
    fields: impl Iterator<Item = &'f Field<'a>>,
    moment: Moment,
) -> String {
    let mut line = if moment.is_known() {
        format!("{{\"ts\":\"{}\"", units::rfc3339(moment.unix_ms))
    } else {
        format!("{{\"ts\":null,\"boot_s\":{:.3}", moment.boot_us as f64 / 1e6)
    };
    let level = level_name(event.level()).to_ascii_lowercase();
    line.push_str(&format!(",\"level\":\"{level}\",\"event\":\"{}\"", event.code()));
    for (key, value) in fields {
        let value = match value {
            Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            other => text(other),
        };
        line.push_str(&format!(",\"{key}\":{value}"));
    }
    line.push('}');
    line
}

/// Bare where nothing can be mistaken, else in quotes with every control
/// character written out: no device's name can forge a line.
fn push_quoted(line: &mut String, value: &str) {
    let bare = |c: u8| c.is_ascii_alphanumeric() || b"._:/@+-".contains(&c);
    if !value.is_empty() && value.bytes().all(bare) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for character in value.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\t' => line.push_str("\\t"),
            control if control.is_control() => line.extend(control.escape_unicode()),
            other => line.push(other),
        }
    }
    line.push('"');
}

/// Writes a line at once: standard error has no buffer, and where it shares a pipe
/// with standard output another line would begin before this one's end.
fn write_line(to: &mut impl Write, priority: &str, line: &str) -> std::io::Result<()> {
    to.write_all(format!("{priority}{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_in_one_piece() {
        struct Pieces(Vec<Vec<u8>>);
        impl Write for Pieces {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.push(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut pieces = Pieces(Vec::new());
        write_line(&mut pieces, "<6>", "INFO  agent.started").unwrap();
        assert_eq!(pieces.0, [b"<6>INFO  agent.started\n"]);
    }

    const KNOWN: Moment = Moment { boot_us: 12_345_678, unix_ms: 1_795_446_245_123 };

    fn log(format: LogFormat) -> Log {
        Log::new(LogLevel::Info, format, false)
    }

    fn lines(log: &Log) -> Vec<String> {
        log.since(0).0.map(str::to_owned).collect()
    }

    #[test]
    fn lines_have_one_form() {
        let mut log = log(LogFormat::Text);
        let fields = [
            ("peer", Value::from("gw-b")),
            ("path", Value::from("direct")),
            ("rtt_ms", Value::Number(20)),
        ];
        log.write_at(Event::PeerUp, &fields, KNOWN);
        let unset = Moment { unix_ms: 5, ..KNOWN };
        log.write_at(
            Event::LineLost,
            &[("host", "h".into()), ("cause", "timed out".into())],
            unset,
        );
        assert_eq!(
            lines(&log),
            [
                "2026-11-23T15:04:05.123Z INFO  peer.up            peer=gw-b path=direct rtt_ms=20",
                "boot+12.346s             WARN  control.lost       host=h cause=\"timed out\"",
            ]
        );
    }

    #[test]
    fn json_lines_hold_the_same() {
        let mut log = log(LogFormat::Json);
        log.write_at(Event::PeerUp, &[("peer", "gw-b".into()), ("n", 3.into())], KNOWN);
        let unset = Moment { unix_ms: 5, ..KNOWN };
        log.write_at(Event::PeerDown, &[("peer", "a\"\u{1b}".into())], unset);
        assert_eq!(
            lines(&log),
            [
                "{\"ts\":\"2026-11-23T15:04:05.123Z\",\"level\":\"info\",\"event\":\"peer.up\",\"peer\":\"gw-b\",\"n\":3}",
                "{\"ts\":null,\"boot_s\":12.346,\"level\":\"info\",\"event\":\"peer.down\",\"peer\":\"a\\\"\\u001b\"}",
            ]
        );
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let mut log = log(LogFormat::Text);
        let name = "gw\n2026-11-23T15:04:05.123Z ERROR x\t\u{1b}[2J\"\\";
        log.write_at(Event::PeerUp, &[("peer", name.into())], KNOWN);
        let line = lines(&log).remove(0);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.ends_with("ERROR x\\t\\u{1b}[2J\\\"\\\\\""), "{line}");
    }

    #[test]
    fn repetitions_are_counted_and_other_subjects_are_not_hidden() {
        let mut log = log(LogFormat::Text);
        for second in 0..61 {
            let moment = Moment { boot_us: second * 1_000_000, ..KNOWN };
            for peer in ["a", "b"] {
                log.write_at(Event::PeerUp, &[("peer", peer.into())], moment);
            }
        }
        let lines = lines(&log);
        assert_eq!(lines.len(), 4);
        assert!(lines[2].ends_with("peer=a repeated=59"), "{}", lines[2]);
    }

    #[test]
    fn another_standing_is_news_and_the_same_is_not() {
        let mut log = log(LogFormat::Text);
        for (second, standing) in ["quarantined", "quarantined", "active", "quarantined", "active"]
            .into_iter()
            .enumerate()
        {
            let moment = Moment { boot_us: second as u64 * 1_000_000, ..KNOWN };
            log.write_at(Event::Standing, &[("standing", standing.into())], moment);
        }
        let lines = lines(&log);
        let said: Vec<_> = lines.iter().filter_map(|line| line.split("standing=").nth(1)).collect();
        let said: Vec<_> = said.iter().filter_map(|said| said.split_whitespace().next()).collect();
        assert_eq!(said, ["quarantined", "active", "quarantined", "active"]);
    }

    #[test]
    fn the_last_word_about_a_line_is_true() {
        let mut log = log(LogFormat::Text);
        let mut at = |second: u64, event, subject: &str| {
            let moment = Moment { boot_us: second * 1_000_000, ..KNOWN };
            log.write_at(event, &[("subject", subject.into())], moment);
        };
        // Two outages within a minute, each with its end.
        for second in [0, 10, 20] {
            at(second, Event::LineLost, "mesh.example.net");
            at(second + 2, Event::LineConnected, "mqtt://203.0.113.10:7420");
            at(second + 2, Event::Online, "mesh.example.net");
        }
        // One that flaps on and on is noise after a while.
        for second in 30..50 {
            at(second, Event::LineLost, "mesh.example.net");
            at(second, Event::Online, "mesh.example.net");
        }
        // What happens to another peer says nothing of this one.
        at(50, Event::PeerUp, "a");
        at(51, Event::PeerDown, "b");
        at(52, Event::PeerUp, "a");
        let lines = lines(&log);
        assert_eq!(lines.iter().filter(|line| line.contains("control.lost")).count(), 4);
        assert_eq!(lines.iter().filter(|line| line.contains("control.online")).count(), 4);
        assert_eq!(lines.iter().filter(|line| line.contains("peer.up")).count(), 1);
        let of_line: Vec<_> = lines.iter().filter(|line| line.contains("control.")).collect();
        assert!(of_line.last().is_some_and(|line| line.contains("control.online")));
    }

    #[test]
    fn lines_are_found_by_their_age() {
        let mut log = log(LogFormat::Text);
        for second in 1..=3 {
            let moment = Moment { boot_us: second * 1_000_000, ..KNOWN };
            log.write_at(Event::PeerUp, &[("peer", second.to_string().into())], moment);
        }
        assert_eq!(
            [0, 2_000_000, 2_000_001, 9_000_000].map(|at| log.first_after(at)),
            [0, 1, 2, 3]
        );
    }

    #[test]
    fn levels_below_are_left_out_and_memory_is_bounded() {
        let mut log = log(LogFormat::Text);
        log.write(Event::FrameDropped, &[]);
        assert!(lines(&log).is_empty());
        let long = "x".repeat(1_000);
        for number in 0..1_000 {
            log.write_at(Event::PeerUp, &[("peer", format!("{long}{number}").into())], KNOWN);
        }
        assert!(log.kept_bytes <= KEPT);
        assert!(log.recent.len() <= REMEMBERED);
        assert_eq!(log.since(999).0.count(), 1);
        assert_eq!(log.since(0).1, 1_000);
    }

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = Event::ALL.iter().map(|event| event.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Event::ALL.len());
    }
}
