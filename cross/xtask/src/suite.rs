//! `make test`: groups of tests, one line each, then a verdict.
//!
//! Everything a group says goes to `target/test-logs/<group>.log`; the screen
//! gets Cargo's progress, the counts, the names of what was skipped, and the
//! end of the log of what failed.

mod cargo;
mod chip;
mod laboratory;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::{clock, fuzz, layers, out, report::Report, sizes};

/// What one group found.
#[derive(Default)]
pub(crate) struct Outcome {
    passed: usize,
    failed: usize,
    /// Name and reason.
    skipped: Vec<(String, String)>,
    /// Printed instead of the count.
    detail: Option<String>,
    /// Figures that are shown whatever came of it.
    notes: Vec<String>,
    /// Lines that explain a failure.
    trouble: Vec<String>,
}

impl Outcome {
    /// One thing that passed, in words.
    fn pass(detail: &str) -> Self {
        Self { passed: 1, detail: Some(detail.to_owned()), ..Self::default() }
    }

    /// One thing that failed.
    fn fail(trouble: Vec<String>) -> Self {
        Self { failed: 1, trouble, ..Self::default() }
    }

    /// One thing that could not run here.
    fn skip(name: &str, reason: &str) -> Self {
        Self { skipped: vec![(name.to_owned(), reason.to_owned())], ..Self::default() }
    }

    fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.notes.extend(other.notes);
        self.trouble.extend(other.trouble);
    }

    fn counts(&self) -> String {
        if let (Some(detail), 0) = (&self.detail, self.failed) {
            return detail.clone();
        }
        let mut parts = vec![format!("{} passed", thousands(self.passed))];
        if self.failed > 0 {
            parts.push(format!("{} FAILED", thousands(self.failed)));
        }
        if !self.skipped.is_empty() {
            parts.push(format!("{} skipped", thousands(self.skipped.len())));
        }
        parts.join(", ")
    }
}

/// Runs every group (or those whose name begins with `only`) and prints the verdict.
pub(crate) fn run(root: &Path, full: bool, only: Option<&str>) -> ExitCode {
    let start = clock::now();
    let mut total = Outcome::default();
    type Group<'a> = (&'a str, Box<dyn Fn() -> Outcome + 'a>);
    let groups: Vec<Group<'_>> = vec![
        ("layers, sizes", Box::new(|| checks(root))),
        ("format, lints", Box::new(|| cargo::lints(root))),
        ("unit and property", Box::new(|| cargo::unit(root, full))),
        ("simulator", Box::new(|| cargo::measured(root, "simulator", &["-p", "weft-sim"], full))),
        ("pairs", Box::new(|| cargo::pairs(root, full))),
        ("oracles", Box::new(|| cargo::measured(root, "oracles", &["-p", "weft-oracles"], full))),
        ("fuzz", Box::new(|| fuzzed(root, full))),
        ("documentation", Box::new(|| cargo::documentation(root))),
        ("riscv32imc", Box::new(|| chip::riscv(root))),
        ("boards", Box::new(|| chip::boards(root))),
        ("template", Box::new(|| chip::template(root))),
        ("licences", Box::new(|| cargo::licences(root, full))),
        ("release build", Box::new(|| cargo::release(root))),
        ("laboratory", Box::new(|| laboratory::run(root, full))),
        ("fleet", Box::new(|| laboratory::fleet(root, full))),
    ];
    let wanted = |name: &str| only.is_none_or(|only| name.starts_with(only));
    for (name, group) in groups.into_iter().filter(|(name, _)| wanted(name)) {
        let began = clock::now();
        let outcome = group();
        print(name, &outcome, began.elapsed());
        total.merge(outcome);
    }
    conclude(root, &total, start.elapsed())
}

/// The last two lines: one for people, one for machines.
fn conclude(root: &Path, total: &Outcome, took: Duration) -> ExitCode {
    let verdict = if total.failed == 0 { "passed" } else { "failed" };
    out::line(&format!(
        "{verdict}: {} tests, {} skipped, in {}",
        thousands(total.passed + total.failed),
        total.skipped.len(),
        span(took)
    ));
    let closing = format!(
        "total: {} passed, {} failed, {} skipped",
        total.passed,
        total.failed,
        total.skipped.len()
    );
    out::line(&closing);
    let kept = cargo::keep(root, "total", &format!("{closing}\n"));
    if let Err(error) = &kept {
        out::line(&format!("{}: {error}", cargo::path(root, "total").display()));
    }
    if kept.is_ok() && total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How long each target is fuzzed before a release, in seconds.
const FUZZ_S: u32 = 60;

/// The stored inputs of all targets; before a release the fuzzer itself.
fn fuzzed(root: &Path, full: bool) -> Outcome {
    let mut outcome = cargo::measured(root, "fuzz", &["-p", "weft-fuzz"], full);
    if !full {
        return outcome;
    }
    match fuzz::fuzz(root, None, FUZZ_S, |_| ()) {
        Ok(runs) => {
            for run in runs {
                outcome.merge(match run.crash {
                    None => Outcome::pass("ok"),
                    Some((input, words)) => Outcome::fail(vec![format!(
                        "{}: broken by {}: {words}",
                        run.name,
                        input.display()
                    )]),
                });
            }
        }
        Err(error) => outcome.merge(Outcome::fail(vec![error])),
    }
    outcome
}

fn checks(root: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    let reports: [(&str, Report); 2] =
        [("layers", layers::check(root)), ("sizes", sizes::check(root))];
    let mut examined = 0;
    for (name, report) in reports {
        outcome.passed += 1;
        examined += report.examined;
        if !report.errors.is_empty() || report.examined == 0 {
            outcome.passed -= 1;
            outcome.failed += 1;
        }
        for error in report.errors {
            outcome.trouble.push(format!("error[{name}]: {error}"));
        }
    }
    outcome.detail = Some(format!("ok, {} things examined", thousands(examined)));
    outcome
}

fn print(name: &str, outcome: &Outcome, took: Duration) {
    out::line(&format!("{name:<20} {:<40} {:>14}", outcome.counts(), span(took)));
    for line in skips(&outcome.skipped) {
        out::line(&format!("  {line}"));
    }
    for line in outcome.notes.iter().chain(&outcome.trouble) {
        out::line(&format!("  {line}"));
    }
}

/// One line per reason, so that twenty long tests do not fill the screen.
fn skips(skipped: &[(String, String)]) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, reason) in skipped {
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, names)) => names.push(name),
            None => reasons.push((reason, vec![name])),
        }
    }
    reasons
        .into_iter()
        .map(|(reason, names)| format!("skipped: {} ({reason})", names.join(", ")))
        .collect()
}

/// `20.4 s`, `3 min 12 s`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else if seconds < 3_600 {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    } else {
        format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60)
    }
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1_284), "1,284");
        assert_eq!(thousands(1_284_000), "1,284,000");
        assert_eq!(span(Duration::from_millis(20_440)), "20.4 s");
        assert_eq!(span(Duration::from_secs(192)), "3 min 12 s");
        assert_eq!(span(Duration::from_secs(7_500)), "2 h 05 min");
    }

    #[test]
    fn skips_are_named_by_reason() {
        let skip = |name: &str, reason: &str| (name.to_owned(), reason.to_owned());
        let lines = skips(&[skip("a", "long"), skip("b", "no qemu"), skip("c", "long")]);
        assert_eq!(lines, ["skipped: a, c (long)", "skipped: b (no qemu)"]);
    }

    #[test]
    fn a_failure_is_never_hidden_by_the_detail() {
        let mut outcome = Outcome::pass("ok");
        assert_eq!(outcome.counts(), "ok");
        outcome.merge(Outcome::fail(vec!["why".to_owned()]));
        outcome.merge(Outcome::skip("x", "missing"));
        assert_eq!(outcome.counts(), "1 passed, 1 FAILED, 1 skipped");
    }
}
