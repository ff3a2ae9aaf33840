//! `cargo xtask bench footprint`: what a gateway costs on disk and in memory.
//!
//! `stripped_bytes` is the release `weft` without symbols; `rss_kib` is the
//! resident memory of a real daemon that talks to two peers in the laboratory.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

use crate::out;
use crate::source::target;

/// MB are powers of 1,000, as data plans and file sizes count.
const DISK_GOAL: u64 = 4_000_000;
const MEMORY_GOAL_KIB: u64 = 8_000_000 / 1_024;

/// Builds, measures, and fails beyond the goals.
pub(crate) fn run(root: &Path, json: bool) -> ExitCode {
    let measured = build(root)
        .and_then(|()| stripped_bytes(root))
        .and_then(|bytes| Ok((bytes, rss_kib(root)?)));
    match measured {
        Ok((bytes, rss)) => {
            print(json, bytes, rss);
            if bytes <= DISK_GOAL && rss <= MEMORY_GOAL_KIB {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            let document =
                json!({"error": {"code": "bench.footprint", "message": error, "exit": 1}});
            out::line(&if json { document.to_string() } else { format!("error: {error}") });
            ExitCode::FAILURE
        }
    }
}

fn print(json: bool, bytes: u64, rss: u64) {
    if json {
        out::line(&json!({"stripped_bytes": bytes, "rss_kib": rss}).to_string());
        return;
    }
    let mib = |kib: u64| kib as f64 / 1_024.0;
    out::line(&format!(
        "weft stripped            {:>6.2} MB   goal {:.1} MB",
        bytes as f64 / 1e6,
        DISK_GOAL as f64 / 1e6
    ));
    out::line(&format!(
        "memory with two peers    {:>6.2} MiB  goal {:.1} MiB",
        mib(rss),
        mib(MEMORY_GOAL_KIB)
    ));
}

fn build(root: &Path) -> Result<(), String> {
    let packages = ["-p", "weft-agent-linux", "-p", "weft-coordinator", "-p", "weft-lab"];
    let status = Command::new("cargo")
        .args(["build", "--release"])
        .args(packages)
        .current_dir(root)
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo build --release: {status}")) }
}

fn stripped_bytes(root: &Path) -> Result<u64, String> {
    let folder = target(root).join("footprint");
    let copy = folder.join("weft");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let status = Command::new("strip")
        .arg("-o")
        .arg(&copy)
        .arg(target(root).join("release/weft"))
        .status()
        .map_err(|error| format!("strip: {error}"))?;
    if !status.success() {
        return Err(format!("strip: {status}"));
    }
    let file = fs::metadata(&copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    Ok(file.len())
}

fn rss_kib(root: &Path) -> Result<u64, String> {
    let output = Command::new(target(root).join("release/weft-lab"))
        .args(["run", "footprint", "--json"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("weft-lab: {error}"))?;
    let document: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("weft-lab printed no document: {error}"))?;
    document["rss_kib"].as_u64().ok_or_else(|| {
        let reason = document["error"]["message"].as_str().unwrap_or("no rss_kib in its document");
        format!("weft-lab run footprint: {reason}")
    })
}
