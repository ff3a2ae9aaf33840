//! What the program does, and how it says what it cannot.

pub(crate) mod ask;
pub(crate) mod completions;
pub(crate) mod join;
pub(crate) mod serve;

use std::io::Write as _;
use std::process::ExitCode;

use weft_relay::config::ConfigError;

/// A line for whoever reads: a terminal, the journal, a file. When nobody does any more
/// there is nobody to tell, and the relay goes on, which `eprintln!` would end.
pub(crate) fn say(line: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// An error that a person sees.
pub(crate) struct Failure {
    /// Behind `relay.`.
    code: &'static str,
    /// One sentence.
    message: String,
    /// Labelled lines.
    lines: Vec<(&'static str, String)>,
    exit: u8,
}

/// Exit statuses, as CONTRIBUTING.md has them.
pub(crate) mod exit {
    pub(crate) const WRONG: u8 = 2;
    pub(crate) const UNREACHABLE: u8 = 3;
    pub(crate) const DENIED: u8 = 4;
    pub(crate) const CONFLICT: u8 = 6;
    pub(crate) const BUG: u8 = 70;
}

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>, exit: u8) -> Self {
        Self { code, message: message.into(), lines: Vec::new(), exit }
    }

    #[must_use]
    pub(crate) fn cause(self, text: impl std::fmt::Display) -> Self {
        self.line("cause:", text)
    }

    #[must_use]
    pub(crate) fn attempt(self, text: impl std::fmt::Display) -> Self {
        self.line("try:", text)
    }

    fn line(mut self, label: &'static str, text: impl std::fmt::Display) -> Self {
        self.lines.push((label, text.to_string()));
        self
    }

    /// Says it; gives the exit status.
    pub(crate) fn show(&self) -> ExitCode {
        say(format_args!("error[relay.{}]: {}", self.code, self.message));
        for (label, text) in &self.lines {
            say(format_args!("  {label:7} {}", text.replace('\n', "\n          ")));
        }
        ExitCode::from(self.exit)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let ConfigError { code, message, cause, attempt } = error;
        let failure = Self::new(code, message, exit::WRONG);
        let failure = match cause {
            Some(cause) => failure.cause(cause),
            None => failure,
        };
        failure.attempt(attempt)
    }
}
