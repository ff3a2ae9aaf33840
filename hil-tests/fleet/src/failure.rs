//! Errors as a person reads them: one sentence, then labelled lines.

use std::fmt;
use std::io;

use serde_json::{Value, json};

/// Exit statuses of all Weft programs that the fleet uses.
pub(crate) mod status {
    /// The answer is bad, or a fault outside.
    pub(crate) const BAD: u8 = 1;
    /// Wrong command line.
    pub(crate) const USAGE: u8 = 2;
    /// The coordinator cannot be reached.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// Stopped by Ctrl-C, after cleaning up.
    pub(crate) const STOPPED: u8 = 130;
}

/// Why the fleet did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: &'static str,
    message: String,
    /// Label and text.
    lines: Vec<(&'static str, String)>,
    exit: u8,
}

/// What most of the fleet returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), lines: Vec::new(), exit: status::BAD }
    }

    /// What was expected and did not come.
    pub(crate) fn expectation(message: impl Into<String>) -> Self {
        Self::new("fleet.expectation", message)
    }

    /// Somebody pressed Ctrl-C.
    pub(crate) fn stopped() -> Self {
        Self::new("fleet.stopped", "stopped").exit(status::STOPPED)
    }

    pub(crate) fn line(mut self, label: &'static str, text: impl Into<String>) -> Self {
        self.lines.push((label, text.into()));
        self
    }

    pub(crate) const fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    pub(crate) const fn status(&self) -> u8 {
        self.exit
    }

    pub(crate) const fn is_stop(&self) -> bool {
        self.exit == status::STOPPED
    }

    pub(crate) fn json(&self) -> Value {
        let is_try = |label: &str| label == "try" || label == "or";
        let tries = self.lines.iter().filter(|(label, _)| is_try(label));
        let tries: Vec<&str> = tries.map(|(_, text)| text.as_str()).collect();
        json!({"code": self.code, "message": self.message, "try": tries, "exit": self.exit})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        let width = self.lines.iter().map(|(label, _)| label.len()).max();
        let width = width.unwrap_or(0) + 1;
        for (label, text) in &self.lines {
            write!(f, "\n  {:<width$}  {text}", format!("{label}:"))?;
        }
        Ok(())
    }
}

/// Says what was being done when the system refused.
pub(crate) trait During<T> {
    fn during(self, what: &str) -> Result<T>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &str) -> Result<T> {
        self.map_err(|error| {
            Failure::new("fleet.system", format!("cannot {what}")).line("cause", error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_aligned() {
        let failure = Failure::new("fleet.system", "cannot start it")
            .line("try", "cargo build")
            .line("cause", "No such file");
        assert_eq!(
            failure.to_string(),
            "error[fleet.system]: cannot start it\n  try:    cargo build\n  cause:  No such file"
        );
        assert_eq!(failure.json()["try"][0], "cargo build");
    }
}
