//! The only module that prints. The story is the answer and goes to stdout;
//! with `--json` it goes to stderr and the document is the answer.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a person or a script reads")]

use std::io::IsTerminal as _;

use serde_json::Value;

use crate::failure::Failure;

const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// A line of the story.
pub(crate) fn story(json: bool, text: &str) {
    if json {
        anstream::eprintln!("{text}");
    } else {
        anstream::println!("{text}");
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

/// Prints an error.
pub(crate) fn error(failure: &Failure) {
    let text = failure.to_string();
    let (head, rest) = text.split_once(':').unwrap_or((&text, ""));
    anstream::eprintln!("{RED}{head}{PLAIN}:{rest}");
}

/// Prints a line beside the answer.
pub(crate) fn note(text: &str) {
    anstream::eprintln!("{text}");
}
