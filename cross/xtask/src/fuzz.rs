//! `cargo xtask fuzz`: libFuzzer over the targets of `hil-tests/fuzz`.
//!
//! The engine works with a stable compiler: coverage is a pass of LLVM's, and
//! our own code is safe Rust, so there is no memory error for a sanitizer to
//! find. Overflow and debug checks are on. What is built stays apart, in
//! `target/fuzz`, and so do the inputs that it finds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

use crate::out;
use crate::source::target;

/// The release profile with checks; not a third profile of the workspace.
const PROFILE: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
];
/// Memory of a target at most, in MiB: no input may cost more.
const MEMORY_MIB: u32 = 512;
/// One input may take this long, in seconds.
const INPUT_S: u32 = 10;

/// What one target showed.
pub(crate) struct Run {
    pub(crate) name: String,
    executions: u64,
    per_second: u64,
    memory_mib: u64,
    stored: usize,
    /// The input that broke a promise, and the last words about it.
    pub(crate) crash: Option<(PathBuf, String)>,
}

/// Fuzzes one target or all, one after the other, and prints a line for each.
pub(crate) fn run(root: &Path, only: Option<&str>, seconds: u32, json: bool) -> ExitCode {
    match fuzz(root, only, seconds, |run| {
        if !json {
            out::line(&line(run));
        }
    }) {
        Ok(runs) => {
            let crashes = runs.iter().filter(|run| run.crash.is_some()).count();
            if json {
                out::line(&document(&runs).to_string());
            } else {
                out::line(&format!("{} targets, {crashes} broke a promise", runs.len()));
            }
            if crashes == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            if json {
                let error = json!({"error": {"code": "fuzz", "message": error, "exit": 1}});
                out::line(&error.to_string());
            } else {
                out::error(&error);
            }
            ExitCode::FAILURE
        }
    }
}

/// The same, for whoever counts.
pub(crate) fn fuzz(
    root: &Path,
    only: Option<&str>,
    seconds: u32,
    mut each: impl FnMut(&Run),
) -> Result<Vec<Run>, String> {
    let names = names(root)?;
    let chosen: Vec<_> =
        names.iter().filter(|name| only.is_none_or(|only| only == name.as_str())).collect();
    if chosen.is_empty() {
        let only = only.unwrap_or_default();
        return Err(format!("there is no target {only}; there are {}", names.join(", ")));
    }
    let program = build(root)?;
    let mut runs = Vec::new();
    for name in chosen {
        let run = one(root, &program, name, seconds)?;
        each(&run);
        runs.push(run);
    }
    Ok(runs)
}

/// The targets: a corpus each, which the package's own test makes sure of.
fn names(root: &Path) -> Result<Vec<String>, String> {
    let folder = corpora(root);
    let wrong = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(wrong)? {
        names.push(entry.map_err(wrong)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn corpora(root: &Path) -> PathBuf {
    root.join("hil-tests/fuzz/corpus")
}

fn folder(root: &Path) -> PathBuf {
    target(root).join("fuzz")
}

fn host() -> Result<String, String> {
    let output =
        Command::new("rustc").arg("-vV").output().map_err(|error| format!("rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".to_owned())
}

/// Builds the program. `--target` tells the wrapper what is for the fuzzer.
fn build(root: &Path) -> Result<PathBuf, String> {
    let host = host()?;
    let mut command = Command::new("cargo");
    let command = command
        .args(["build", "--quiet", "--release", "--package", "weft-fuzz", "--bin", "weft-fuzz"])
        .args(["--features", "libfuzzer", "--target", &host])
        .current_dir(root)
        .env("CARGO_TARGET_DIR", folder(root))
        .env("RUSTC_WRAPPER", root.join("cross/fuzz-rustc"))
        .envs(PROFILE.iter().copied());
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err(format!(
            "the fuzzer is not built: {status}; libFuzzer needs a C++ compiler (apt-get install g++)"
        ));
    }
    Ok(folder(root).join(host).join("release/weft-fuzz"))
}

fn one(root: &Path, program: &Path, name: &str, seconds: u32) -> Result<Run, String> {
    let found = folder(root).join("found").join(name);
    let crashes = folder(root).join("crashes");
    for folder in [&found, &crashes] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let stored = corpora(root).join(name);
    let output = Command::new(program)
        .env("WEFT_FUZZ_TARGET", name)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-timeout={INPUT_S}"))
        .arg(format!("-artifact_prefix={}/{name}-", crashes.display()))
        .arg("-print_final_stats=1")
        .args([&found, &stored])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let log = folder(root).join(format!("{name}.log"));
    fs::write(&log, &text).map_err(|error| format!("{}: {error}", log.display()))?;
    let stored = fs::read_dir(&stored).map_or(0, Iterator::count);
    Ok(read(name, &text, output.status.success(), seconds, stored))
}

fn read(name: &str, text: &str, success: bool, seconds: u32, stored: usize) -> Run {
    let figure = |what: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("stat::{what}:")));
        line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let executions = figure("number_of_executed_units");
    let crash = (!success).then(|| {
        let written = text.lines().find_map(|line| line.split_once("Test unit written to "));
        let path = written.map_or_else(PathBuf::new, |(_, path)| PathBuf::from(path.trim()));
        let said = text.lines().skip_while(|line| !line.contains("panicked at")).take(3);
        let mut words = said.collect::<Vec<_>>().join(" ");
        if words.is_empty() {
            words =
                text.lines().find(|line| line.contains("ERROR")).unwrap_or("no word").to_owned();
        }
        (path, words)
    });
    Run {
        name: name.to_owned(),
        executions,
        per_second: executions / u64::from(seconds.max(1)),
        memory_mib: figure("peak_rss_mb"),
        stored,
        crash,
    }
}

fn line(run: &Run) -> String {
    let figures = format!(
        "{:<20} {:>12} executions {:>9}/s {:>5} MiB {:>4} stored",
        run.name, run.executions, run.per_second, run.memory_mib, run.stored
    );
    match &run.crash {
        None => figures,
        Some((input, words)) => format!("{figures}\n  BROKEN by {}: {words}", input.display()),
    }
}

fn document(runs: &[Run]) -> Value {
    let targets: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "target": run.name,
                "executions": run.executions,
                "executions_per_s": run.per_second,
                "peak_rss_mib": run.memory_mib,
                "stored": run.stored,
                "crash": run.crash.as_ref().map(|(input, _)| input.display().to_string()),
                "words": run.crash.as_ref().map(|(_, words)| words),
            })
        })
        .collect();
    let crashes = runs.iter().filter(|run| run.crash.is_some()).count();
    json!({"targets": targets, "crashes": crashes})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_crashes_are_read() {
        let text = "#1 INITED\nthread '<unnamed>' panicked at src/x.rs:1:2:\nleft: 1\n\
            Test unit written to /t/agent-crash-1\nstat::number_of_executed_units: 1200\n\
            stat::peak_rss_mb:              62\n";
        let run = read("agent", text, false, 60, 3);
        assert_eq!((run.executions, run.per_second, run.memory_mib), (1_200, 20, 62));
        let (input, words) = run.crash.as_ref().expect("a crash");
        assert_eq!(input, Path::new("/t/agent-crash-1"));
        assert!(words.contains("left: 1"), "{words}");
        assert_eq!(document(&[run])["crashes"], 1);
        assert!(read("agent", text, true, 60, 3).crash.is_none());
    }

    #[test]
    fn every_corpus_is_a_target() {
        let names = names(&crate::source::workspace_root()).expect("the corpora");
        assert!(names.len() > 20, "{names:?}");
    }
}
