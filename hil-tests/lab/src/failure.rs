//! Errors as a person reads them: one sentence, then labelled lines.

use std::fmt;
use std::io;

use serde_json::{Value, json};

/// Exit statuses of all Weft programs that the laboratory uses.
pub(crate) mod status {
    /// The answer is bad, or a fault outside.
    pub(crate) const BAD: u8 = 1;
    /// Wrong command line.
    pub(crate) const USAGE: u8 = 2;
    /// Rights are missing.
    pub(crate) const NOT_PERMITTED: u8 = 4;
    /// Something needed is missing here.
    pub(crate) const SKIPPED: u8 = 77;
    /// Stopped by Ctrl-C, after cleaning up.
    pub(crate) const STOPPED: u8 = 130;
}

/// Why a scenario did not hold.
#[derive(Debug)]
pub(crate) struct Failure {
    code: &'static str,
    message: String,
    /// Label and text.
    lines: Vec<(&'static str, String)>,
    exit: u8,
}

/// What most of the laboratory returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), lines: Vec::new(), exit: status::BAD }
    }

    /// What a scenario promised and the programs did not keep.
    pub(crate) fn expectation(message: impl Into<String>) -> Self {
        Self::new("lab.expectation", message)
    }

    /// A needed thing is missing on this machine.
    pub(crate) fn skipped(message: impl Into<String>) -> Self {
        Self::new("lab.skipped", message).exit(status::SKIPPED)
    }

    /// Somebody pressed Ctrl-C.
    pub(crate) fn stopped() -> Self {
        Self::new("lab.stopped", "stopped").exit(status::STOPPED)
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

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn json(&self) -> Value {
        let tries: Vec<&str> = self
            .lines
            .iter()
            .filter(|(label, _)| *label == "try" || *label == "or")
            .map(|(_, text)| text.as_str())
            .collect();
        json!({"error": {
            "code": self.code, "message": self.message, "try": tries, "exit": self.exit,
        }})
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
            Failure::new("lab.system", format!("cannot {what}")).line("cause", error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_aligned() {
        let failure = Failure::new("lab.no-tun", "/dev/net/tun is missing")
            .line("try", "modprobe tun")
            .line("cause", "No such file");
        assert_eq!(
            failure.to_string(),
            "error[lab.no-tun]: /dev/net/tun is missing\n  try:    modprobe tun\n  cause:  No such file"
        );
        assert_eq!(failure.json()["error"]["try"][0], "modprobe tun");
    }
}
