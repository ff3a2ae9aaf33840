//! The only module that prints. The story is the answer and goes to stdout;
//! with `--json` it goes to stderr and the document is the answer.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a person or a script reads")]

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clock;
use crate::failure::Failure;

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Prints one scenario's story.
pub(crate) struct Story {
    began: Instant,
    json: bool,
    ascii: bool,
    /// A line is being redrawn in place.
    redrawing: bool,
}

impl Story {
    pub(crate) fn new(json: bool) -> Self {
        Self { began: clock::now(), json, ascii: !locale_is_utf8(), redrawing: false }
    }

    /// From here on time counts anew: the story proper begins.
    pub(crate) fn restart(&mut self) {
        self.began = clock::now();
    }

    /// A plain line.
    pub(crate) fn line(&mut self, text: &str) {
        self.end_redraw();
        self.print(text);
    }

    /// `lab     what happens`.
    pub(crate) fn area(&mut self, area: &str, text: &str) {
        self.line(&format!("{area:<7} {text}"));
    }

    /// A sentence that sums up.
    pub(crate) fn verdict(&mut self, text: &str) {
        self.line(&format!("{BOLD}{text}{PLAIN}"));
    }

    /// A step that worked, with what it found.
    pub(crate) fn done(&mut self, name: &str, text: &str, took: Option<Duration>) {
        let took = took.map(|took| format!("  {}", span(took))).unwrap_or_default();
        let mark = self.mark("✓", "ok", GREEN);
        let line = format!("{} {mark} {name:<15} {text:<37}{took}", self.clock());
        self.line(line.trim_end());
    }

    /// A step that is left out.
    pub(crate) fn skipped(&mut self, name: &str, reason: &str) {
        let mark = self.mark("·", "skip", YELLOW);
        self.line(&format!("{} {mark} {name:<15} {reason}", self.clock()));
    }

    /// The step where the story ends.
    pub(crate) fn failed(&mut self, name: &str, text: &str) {
        let mark = self.mark("✗", "FAIL", RED);
        self.line(&format!("{} {mark} {name:<15} {text}", self.clock()));
    }

    /// A line that a terminal redraws and a log gets whole.
    pub(crate) fn redraw(&mut self, text: &str) {
        if self.is_terminal() {
            let text = self.plain(text);
            if self.json {
                anstream::eprint!("\r\x1b[K{text}");
            } else {
                anstream::print!("\r\x1b[K{text}");
            }
            self.flush();
            self.redrawing = true;
        } else {
            self.print(text);
        }
    }

    /// Grey text: hints and ages.
    pub(crate) fn dim(text: &str) -> String {
        format!("{DIM}{text}{PLAIN}")
    }

    /// Whether lines can be redrawn.
    pub(crate) fn is_terminal(&self) -> bool {
        if self.json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() }
    }

    fn clock(&self) -> String {
        format!("{:>6.2} s ", self.began.elapsed().as_secs_f64())
    }

    fn mark(&self, symbol: &str, word: &str, colour: &str) -> String {
        let text = if self.ascii { word } else { symbol };
        format!("{colour}{text}{PLAIN}")
    }

    fn end_redraw(&mut self) {
        if std::mem::take(&mut self.redrawing) {
            self.print("");
        }
    }

    fn print(&self, text: &str) {
        let text = self.plain(text);
        if self.json {
            anstream::eprintln!("{text}");
        } else {
            anstream::println!("{text}");
        }
    }

    fn plain(&self, text: &str) -> String {
        if self.ascii {
            text.replace('→', "->").replace('–', "-").replace('µ', "u")
        } else {
            text.to_owned()
        }
    }

    fn flush(&self) {
        // A closed stdout is found by the next line.
        let _flushed = std::io::stdout().flush();
    }
}

/// Prints the document, pretty on a terminal and one line in a pipe.
pub(crate) fn document(document: &Value) {
    if std::io::stdout().is_terminal() {
        println!("{document:#}");
    } else {
        println!("{document}");
    }
}

/// Prints an answer that is not a story.
pub(crate) fn answer(text: &str) {
    anstream::println!("{text}");
}

/// Prints an error.
pub(crate) fn error(failure: &Failure) {
    let text = failure.to_string();
    let (head, rest) = text.split_once(':').unwrap_or((&text, ""));
    anstream::eprintln!("{RED}{head}{PLAIN}:{rest}");
}

/// Prints lines of a log, set apart.
pub(crate) fn log_lines(name: &str, lines: &[String]) {
    anstream::eprintln!("{DIM}last lines of {name}{PLAIN}");
    for line in lines {
        anstream::eprintln!("  | {line}");
    }
}

/// Prints a line beside the answer.
pub(crate) fn note(text: &str) {
    anstream::eprintln!("{text}");
}

/// `820 µs`, `20.4 ms`, `4.2 s`, `3 min 12 s`, `2 h 05 min`, `6 d 4 h`.
pub(crate) fn span(time: Duration) -> String {
    let micros = time.as_micros();
    let seconds = time.as_secs();
    match seconds {
        0 if micros < 1_000 => format!("{micros} µs"),
        0 if micros < 100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        0 => format!("{} ms", micros / 1_000),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `now`, `12 s ago`.
pub(crate) fn age(time: Duration) -> String {
    if time < Duration::from_secs(2) {
        return "now".to_owned();
    }
    let whole = Duration::from_secs(time.as_secs());
    format!("{} ago", span(whole).replace(".0 s", " s"))
}

/// `1 peer`, `2 peers`, `no peers`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match number {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        _ if noun.ends_with("ss") => format!("{number} {noun}es"),
        _ => format!("{number} {noun}s"),
    }
}

fn locale_is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    match locale {
        // A build machine often sets none; its logs are UTF-8 today.
        None => true,
        Some(locale) => {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (micros, text) in [
            (820, "820 µs"),
            (20_440, "20.4 ms"),
            (148_900, "148 ms"),
            (4_200_000, "4.2 s"),
            (192_000_000, "3 min 12 s"),
            (7_500_000_000, "2 h 05 min"),
            (532_800_000_000, "6 d 4 h"),
        ] {
            assert_eq!(span(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn ages_are_whole() {
        assert_eq!(age(Duration::from_millis(1_999)), "now");
        assert_eq!(age(Duration::from_millis(12_900)), "12 s ago");
        assert_eq!(age(Duration::from_secs(192)), "3 min 12 s ago");
    }

    #[test]
    fn counts_are_never_in_brackets() {
        assert_eq!(count(0, "peer"), "no peers");
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(2, "process"), "2 processes");
        assert_eq!(count(4, "namespace"), "4 namespaces");
    }
}
