//! The only module that prints: the findings are the answer.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool's output")]

use std::process::ExitCode;

use crate::report::Report;

/// Prints a line of the answer.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints a line beside the answer: why it is a bad one.
pub(crate) fn error(text: &str) {
    eprintln!("error: {text}");
}

/// Prints a check's findings; fails if there are errors or nothing was examined.
pub(crate) fn report(name: &str, report: &Report) -> ExitCode {
    report.notes.iter().for_each(|text| line(text));
    report.warnings.iter().for_each(|text| line(&format!("warning: {text}")));
    report.errors.iter().for_each(|text| line(&format!("error[{name}]: {text}")));
    if report.examined == 0 {
        line(&format!("error[{name}]: nothing found to examine"));
        return ExitCode::FAILURE;
    }
    if report.errors.is_empty() {
        line(&format!("{name}: ok, {} examined", report.examined));
        ExitCode::SUCCESS
    } else {
        line(&format!("{name}: {} broken rules", report.errors.len()));
        ExitCode::FAILURE
    }
}
