//! The groups that Cargo runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Outcome;
use crate::source::target;

/// How many lines of a failing log are shown.
const SHOWN: usize = 40;
/// The crates that chips link.
pub(super) const CHIP_CRATES: &[&str] =
    &["weft-wire", "weft-noise", "weft-agent-core", "weft-agent-esp32"];

/// Formatting and Clippy over everything, warnings are errors.
pub(super) fn lints(root: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    for (tool, name) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        outcome.merge(match (has_tool(root, tool), tool) {
            (false, _) => Outcome::skip(name, &format!("rustup component {name} is missing")),
            (true, "fmt") => step(root, "format", "format", &["fmt", "--all", "--check"]),
            (true, _) => {
                shown(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
            }
        });
    }
    outcome
}

/// Whether Cargo has this subcommand: a minimal toolchain has few.
fn has_tool(root: &Path, tool: &str) -> bool {
    let mut command = cargo(root, &[tool, "--version"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Everything but the simulator, the oracles and the fuzzer's targets. The ciphers' crate runs alone,
/// once per backend: in one build with the others its features would be united.
/// So does the coordinator: its tests' MQTT client brings a clock driver, and
/// the gateway's agent has one of its own.
pub(super) fn unit(root: &Path, full: bool) -> Outcome {
    let all = [
        "--workspace",
        "--exclude",
        "weft-sim",
        "--exclude",
        "weft-oracles",
        "--exclude",
        "weft-fuzz",
        "--exclude",
        "weft-noise",
        "--exclude",
        "weft-coordinator",
        // Its clock is another one than the daemon's.
        "--exclude",
        "weft-agent-esp32",
    ];
    let mut outcome = tests(root, "unit", &all, full);
    outcome.merge(tests(root, "coordinator", &["-p", "weft-coordinator"], full));
    outcome.merge(tests(root, "chip", &["-p", "weft-agent-esp32"], full));
    outcome.merge(tests(root, "noise", &["-p", "weft-noise"], full));
    let ring = ["-p", "weft-noise", "--features", "ring"];
    outcome.merge(tests(root, "noise-ring", &ring, full));
    outcome
}

/// One `cargo test`: built with Cargo's progress on screen, run into the log.
pub(super) fn tests(root: &Path, log: &str, selection: &[&str], full: bool) -> Outcome {
    run_tests(root, log, selection, full, false)
}

/// The same, with the figures that tests print kept in the log.
pub(super) fn measured(root: &Path, log: &str, selection: &[&str], full: bool) -> Outcome {
    run_tests(root, log, selection, full, true)
}

/// Thousands of pairs of agents, in the workspace where ciphers are checksums. It
/// takes the versions of this one.
pub(super) fn pairs(root: &Path, full: bool) -> Outcome {
    let folder = root.join("hil-tests/pairs");
    if let Err(error) = fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")) {
        return Outcome::fail(vec![format!("{}: {error}", folder.display())]);
    }
    let (manifest, target) = (folder.join("Cargo.toml"), target(root));
    let (Some(manifest), Some(target)) = (manifest.to_str(), target.to_str()) else {
        return Outcome::fail(vec![format!("{}: the path is not UTF-8", folder.display())]);
    };
    measured(root, "pairs", &["--manifest-path", manifest, "--target-dir", target], full)
}

fn run_tests(root: &Path, log: &str, selection: &[&str], full: bool, figures: bool) -> Outcome {
    let build: Vec<&str> = ["test", "--no-run"].iter().chain(selection).copied().collect();
    let built = shown(root, &build);
    if built.failed > 0 {
        return built;
    }
    let mut arguments: Vec<&str> = vec!["test", "--no-fail-fast"];
    arguments.extend(selection);
    arguments.push("--");
    if full {
        arguments.push("--include-ignored");
    }
    if figures {
        arguments.push("--show-output");
    }
    let (text, success) = match logged(root, log, &mut cargo(root, &arguments)) {
        Ok(done) => done,
        Err(error) => return Outcome::fail(vec![error.to_string()]),
    };
    let mut outcome = read_results(&text);
    if outcome.failed == 0 && !(success && outcome.passed > 0) {
        outcome.failed = 1;
        outcome.trouble.push("no test failed, yet it did not succeed, or no test ran".to_owned());
    }
    if outcome.failed > 0 {
        outcome.trouble.extend(failures(&text));
        outcome.trouble.push(format!("all of it: {}", path(root, log).display()));
    }
    outcome
}

/// Documentation of the crates that firmware links, without a warning. The examples in it
/// are built with the other tests.
pub(super) fn documentation(root: &Path) -> Outcome {
    let mut arguments = vec!["doc", "--no-deps"];
    CHIP_CRATES.iter().for_each(|package| arguments.extend(["-p", *package]));
    let mut command = cargo(root, &arguments);
    command.env("RUSTDOCFLAGS", "-D warnings");
    let mut outcome = judged(root, "documentation", "doc", &mut command);
    outcome.detail = Some(format!("{} crates without a warning", CHIP_CRATES.len()));
    outcome
}

/// Licences, sources and advisories, where cargo-deny is there.
pub(super) fn licences(root: &Path, full: bool) -> Outcome {
    let present = || {
        Command::new("cargo-deny")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !present() && full {
        let install = step(root, "deny-install", "install", &["install", "--locked", "cargo-deny"]);
        if install.failed > 0 {
            return Outcome::skip(
                "cargo-deny",
                "could not be installed, see target/test-logs/deny-install.log",
            );
        }
    }
    if !present() {
        return Outcome::skip("cargo-deny", "not installed; make test-full installs it");
    }
    // The graph holds crates of targets that nothing here builds.
    if step(root, "fetch", "fetch", &["fetch", "--locked"]).failed > 0 {
        return Outcome::skip("cargo-deny", "not all crates could be fetched");
    }
    let check = ["deny", "--offline", "check", "bans", "licenses", "sources"];
    step(root, "deny", "deny", &check)
}

/// The programs as they ship.
pub(super) fn release(root: &Path) -> Outcome {
    let mut arguments = vec!["build", "--release"];
    let packages = ["weft-agent-linux", "weft-coordinator", "weft-relay", "weft-lab", "weft-fleet"];
    for package in packages {
        arguments.extend(["-p", package]);
    }
    let mut outcome = shown(root, &arguments);
    outcome.detail = Some("weft, weft-coordinator, weft-relay, weft-lab, weft-fleet".to_owned());
    outcome
}

/// One command with Cargo's own progress on the screen.
pub(super) fn shown(root: &Path, arguments: &[&str]) -> Outcome {
    let what = format!("cargo {}", arguments.join(" "));
    match cargo(root, arguments).stdin(Stdio::null()).stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Outcome::pass("ok"),
        Ok(status) => Outcome::fail(vec![format!("{what}: {status}; its words are above")]),
        Err(error) => Outcome::fail(vec![format!("{what}: {error}")]),
    }
}

/// One command that passes or fails as a whole.
fn step(root: &Path, log: &str, name: &str, arguments: &[&str]) -> Outcome {
    judged(root, log, name, &mut cargo(root, arguments))
}

pub(super) fn judged(root: &Path, log: &str, name: &str, command: &mut Command) -> Outcome {
    match logged(root, log, command) {
        Ok((_, true)) => Outcome::pass("ok"),
        Ok((text, false)) => {
            let mut trouble = vec![format!("cargo {name} failed:")];
            trouble.extend(tail(&text));
            trouble.push(format!("all of it: {}", path(root, log).display()));
            Outcome::fail(trouble)
        }
        Err(error) => Outcome::fail(vec![error.to_string()]),
    }
}

pub(super) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root);
    // Set by the alias that runs this program; they would reach the tests.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

/// Where a group's output goes.
pub(super) fn path(root: &Path, log: &str) -> PathBuf {
    target(root).join("test-logs").join(format!("{log}.log"))
}

/// Writes a log of its own.
pub(super) fn keep(root: &Path, log: &str, text: &str) -> io::Result<()> {
    fs::create_dir_all(target(root).join("test-logs"))?;
    fs::write(path(root, log), text)
}

/// Runs a command into its log; returns what it said and whether it succeeded.
pub(super) fn logged(root: &Path, log: &str, command: &mut Command) -> io::Result<(String, bool)> {
    let path = path(root, log);
    fs::create_dir_all(target(root).join("test-logs"))?;
    let file = File::create(&path)?;
    let status = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status()?;
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    Ok((text, status.success()))
}

/// The last lines of a log.
pub(super) fn tail(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(SHOWN);
    lines[from..].iter().map(|line| format!("| {line}")).collect()
}

/// Adds up `test result:` lines and names the ignored tests.
fn read_results(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in text.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            outcome.passed += number_before(result, " passed");
            outcome.failed += number_before(result, " failed");
        } else if let Some(skip) = ignored(line) {
            outcome.skipped.push(skip);
        }
    }
    outcome
}

/// Name and reason of an ignored test. One that gives no reason is long.
fn ignored(line: &str) -> Option<(String, String)> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // Doc tests marked `ignore` are illustrations, not tests.
    let rest = verdict.strip_prefix("ignored").filter(|_| !name.contains(" - "))?;
    let reason = rest.strip_prefix(", ").unwrap_or("long; make test-full runs it");
    Some((name.to_owned(), reason.to_owned()))
}

fn number_before(text: &str, word: &str) -> usize {
    let Some((before, _)) = text.split_once(word) else {
        return 0;
    };
    before
        .rsplit(|letter: char| !letter.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// Names and messages of failing tests.
fn failures(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: Vec<String> = Vec::new();
    // What tests that passed have printed stands between these two words.
    let mut passed = false;
    for (index, line) in lines.iter().enumerate() {
        passed = *line == "successes:" || (passed && *line != "failures:");
        let headed = line.starts_with("---- ") || line.starts_with("error");
        if !line.ends_with(" FAILED") && (passed || !headed) {
            continue;
        }
        let end = (index + 8).min(lines.len());
        let about = lines[index..end].iter().take_while(|line| **line != "successes:");
        shown.extend(about.map(|line| format!("| {line}")));
        if shown.len() > SHOWN {
            break;
        }
    }
    if shown.is_empty() { tail(text) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "test a ... ok\ntest b ... FAILED\ntest c ... ignored, 2 minutes\n\
        test src/lib.rs - X (line 3) ... ignored\n\n---- b stdout ----\nleft: 1\n\
        test result: FAILED. 11 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out\n\
        test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";

    #[test]
    fn results_add_up() {
        let outcome = read_results(LOG);
        assert_eq!((outcome.passed, outcome.failed), (14, 1));
        assert_eq!(outcome.skipped.len(), 1);
        assert_eq!(outcome.skipped[0], ("c".to_owned(), "2 minutes".to_owned()));
        let long = read_results("test d ... ignored\n");
        assert_eq!(long.skipped[0].1, "long; make test-full runs it");
    }

    #[test]
    fn failures_show_their_message() {
        let shown = failures(LOG).join("\n");
        assert!(shown.contains("left: 1"), "{shown}");
        let figures = LOG.replace(
            "---- b",
            "successes:\n\n---- a stdout ----\n30 days: 4 s\n\nfailures:\n\n---- b",
        );
        let shown = failures(&figures).join("\n");
        assert!(!shown.contains("---- a stdout"), "{shown}");
        assert!(shown.contains("left: 1"), "{shown}");
        assert_eq!(failures("no marker\nat all"), ["| no marker", "| at all"]);
    }
}
