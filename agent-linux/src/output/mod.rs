//! What a person or a script reads: answers on stdout, everything else on
//! stderr, colours where they help and never alone.

pub(crate) mod table;
pub(crate) mod units;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::os::terminal;

/// What colours say; each word says the same without them.
pub(crate) mod style {
    use super::{AnsiColor, Style};

    /// ok, direct, online.
    pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
    /// warning, relay, pending.
    pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
    /// error, offline, blocked, denied.
    pub(crate) const BAD: Style = AnsiColor::Red.on_default();
    /// idle, units, hints, ages.
    pub(crate) const DIM: Style = Style::new().dimmed();
    /// names, the sentence that matters.
    pub(crate) const BOLD: Style = Style::new().bold();
    /// commands to type.
    pub(crate) const COMMAND: Style = AnsiColor::Cyan.on_default();
    /// Nothing special.
    pub(crate) const PLAIN: Style = Style::new();
}

/// Puts a style around a text.
pub(crate) fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The marks in front of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbols {
    pub(crate) ok: &'static str,
    pub(crate) warn: &'static str,
    pub(crate) fail: &'static str,
    pub(crate) skip: &'static str,
    pub(crate) none: &'static str,
}

const UNICODE: Symbols = Symbols { ok: "✓", warn: "!", fail: "✗", skip: "·", none: "–" };
const ASCII: Symbols = Symbols { ok: "ok", warn: "warn", fail: "FAIL", skip: "skip", none: "-" };

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, as `NO_COLOR`, `CLICOLOR_FORCE` and `TERM` say.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How the commands speak.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) ascii: bool,
    pub(crate) colour: Colour,
}

/// Both streams.
pub(crate) struct Ui {
    pub(crate) json: bool,
    pub(crate) symbols: Symbols,
    quiet: bool,
    stdout: AutoStream<io::Stdout>,
    stderr: AutoStream<io::Stderr>,
    stdout_width: Option<usize>,
    stderr_width: Option<usize>,
}

/// Whether the locale writes UTF-8 (POSIX order of its variables).
fn utf8_locale() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    set.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

impl Ui {
    pub(crate) fn new(settings: &Settings) -> Self {
        let choice = match settings.colour {
            Colour::Auto => ColorChoice::Auto,
            Colour::Always => ColorChoice::Always,
            Colour::Never => ColorChoice::Never,
        };
        // A terminal whose locale is unset (a rescue shell, a serial console)
        // gets letters; a pipe is read by a program and gets UTF-8.
        let terminal = io::stdout().is_terminal();
        let ascii = settings.ascii || terminal && !utf8_locale();
        let width = |fd: std::os::fd::BorrowedFd<'_>| terminal::width(fd);
        Self {
            json: settings.json,
            quiet: settings.quiet,
            symbols: if ascii { ASCII } else { UNICODE },
            stdout_width: width(io::stdout().as_fd()),
            stderr_width: width(io::stderr().as_fd()),
            stdout: AutoStream::new(io::stdout(), choice),
            stderr: AutoStream::new(io::stderr(), choice),
        }
    }

    /// Columns of the terminal that shows answers; `None` in a pipe.
    pub(crate) const fn width(&self) -> Option<usize> {
        self.stdout_width
    }

    /// Empties the terminal before an answer that is drawn anew; a pipe gets one
    /// answer after the other.
    pub(crate) fn clear(&mut self) {
        if self.stdout_width.is_some() {
            // A terminal that has gone is found by the next line.
            drop(self.stdout.write_all(b"\x1b[H\x1b[J"));
        }
    }

    /// Prints one line of the answer.
    pub(crate) fn answer(&mut self, line: &str) {
        write_line(&mut self.stdout, line);
    }

    /// Prints the document that is the answer.
    pub(crate) fn document(&mut self, document: &impl Serialize) {
        let text = if self.stdout_width.is_some() {
            serde_json::to_string_pretty(document)
        } else {
            serde_json::to_string(document)
        };
        match text {
            Ok(text) => write_line(&mut self.stdout, &text),
            Err(error) => self.failure_line(&Failure::internal(error)),
        }
    }

    /// Prints progress or a remark, unless `-q`.
    pub(crate) fn note(&mut self, line: &str) {
        if !self.quiet {
            let line = wrap(line, self.stderr_width);
            write_line(&mut self.stderr, &line);
        }
    }

    /// Prints a failure, and its document with `--json`.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        if self.json {
            let document = failure.document();
            self.document(&document);
        }
        self.failure_line(failure);
    }

    /// Prints a failure alone.
    pub(crate) fn failure_line(&mut self, failure: &Failure) {
        let lines = describe(failure, self.stderr_width);
        write_line(&mut self.stderr, &lines);
    }
}

/// Prints a failure where no [`Ui`] is at hand.
pub(crate) fn report(failure: &Failure) {
    Ui::new(&Settings::default()).failure_line(failure);
}

/// Writes a line. A reader that went away (`weft status | head -1`) is no error
/// of ours, and there is nobody to tell.
fn write_line(stream: &mut impl Write, line: &str) {
    drop(writeln!(stream, "{line}").and_then(|()| stream.flush()));
}

/// A failure as people read it.
pub(crate) fn describe(failure: &Failure, width: Option<usize>) -> String {
    if failure.is(Code::CliInterrupted) {
        // Not an error: the person asked for it.
        return failure.message().to_owned();
    }
    let head = paint(style::BAD.bold(), format_args!("error[{}]:", failure.code()));
    let mut out = wrap(&format!("{head} {}", failure.message()), width);
    if let Some(excerpt) = failure.drawn() {
        out.push('\n');
        out.push_str(excerpt);
    }
    let longest = failure.lines().iter().map(|line| line.label.len()).max();
    for line in failure.lines() {
        let label = format!("{}:", line.label);
        let pad = longest.unwrap_or(0) + 1 - label.len();
        let text = match line.label.as_str() {
            "try" | "or" => paint(style::COMMAND, &line.text),
            _ => line.text.clone(),
        };
        let label = paint(style::DIM, label);
        out.push_str(&format!("\n  {label}{:pad$}  {text}", ""));
    }
    out
}

/// Characters that a text takes on the screen (escape sequences take none).
pub(crate) fn visible_len(text: &str) -> usize {
    let mut len = 0;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // CSI: up to and with its letter.
            characters.by_ref().find(|character| character.is_ascii_alphabetic());
        } else {
            len += 1;
        }
    }
    len
}

/// Breaks a sentence at the terminal's width, further lines two in.
fn wrap(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.filter(|&width| width >= 20) else {
        return text.to_owned();
    };
    let mut out = String::with_capacity(text.len() + 8);
    let mut column = 0;
    for (number, word) in text.split(' ').enumerate() {
        let len = visible_len(word);
        if number > 0 {
            if column + 1 + len > width {
                out.push_str("\n  ");
                column = 2;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += len;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn labels_line_up() {
        let failure = Failure::new(
            Code::JoinKeyExpired,
            "key \"lab\" expired on 2026-11-20 18:00:00 +00:00, 3 d ago",
        )
        .found_in("the join string WEFT1AEF…RNDY")
        .try_command("weft-coordinator key create --name lab --expires 30d");
        assert_eq!(
            plain(&describe(&failure, None)),
            "error[join.key-expired]: key \"lab\" expired on 2026-11-20 18:00:00 +00:00, 3 d ago\n  \
             from:  the join string WEFT1AEF…RNDY\n  \
             try:   weft-coordinator key create --name lab --expires 30d"
        );
    }

    #[test]
    fn sentences_wrap_with_a_hanging_indent_and_not_in_a_pipe() {
        let sentence = "one two three four five six seven";
        assert_eq!(wrap(sentence, Some(20)), "one two three four\n  five six seven");
        assert_eq!(wrap(sentence, None), sentence);
        let painted = format!("{} two three four five", paint(style::BAD, "one"));
        assert_eq!(plain(&wrap(&painted, Some(20))), "one two three four\n  five");
    }
}
