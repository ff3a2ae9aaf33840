//! `cargo xtask bench chip`: what the agent costs a microcontroller.
//!
//! Instructions are counted in an emulator that makes one nanosecond of each
//! (`-icount shift=0,sleep=off`): the same firmware gives the same numbers, which are not
//! cycles of any chip. Flash memory and static memory are the difference between the
//! emulated chip's firmware and the same firmware without an agent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::json;

use crate::out;

/// The board.
const BOARD: &str = "agent-esp32/boards/qemu-virt";
const RELEASE: &str = "target/riscv32imc-unknown-none-elf/release";
/// The numbers of the last change that was meant.
const BASELINE: &str = "agent-esp32/boards/qemu-virt/budgets.json";
/// For the counted firmware, in seconds; it takes one.
const LIMIT_S: &str = "120";

/// Figure, goal (0: none), what it is.
const FIGURES: &[(&str, u64, &str)] = &[
    ("handshake_instructions", 12_000_000, "first packet to session, initiator"),
    ("seal_1420_instructions", 95_000, "a packet of 1,420 B to its datagram"),
    ("control_handshake_instructions", 16_000_000, "HELLO and WELCOME"),
    ("tunnel_ram_per_peer", 784, "B, tunnel and data path"),
    ("ram_per_peer", 1_400, "B, with paths"),
    ("agent_struct", 0, "B, the agent with 8 peers"),
    ("agent_static_ram", 0, "B, with every buffer"),
    ("agent_flash", 160_000, "B, code and constants"),
];
/// Of others, as measured by hand in the same emulator: see the project's research.
const PEERS: &[(&str, &str)] = &[
    ("wireguard-lwip -Os", "handshake 17.83 M, seal 1,420 B 103 k, 784 B per peer"),
    ("wireguard-lwip -O3", "handshake 12.01 M, seal 1,420 B 73.5 k"),
    ("wireguard-sans-io s", "handshake 13.66 M, seal 1,420 B 124 k, 4,328 B per peer"),
];

type Figures = BTreeMap<String, u64>;

/// Builds, measures, and fails beyond the goals.
pub(crate) fn run(root: &Path, json: bool) -> ExitCode {
    match measure(root) {
        Ok(figures) => judge(root, &figures, json),
        Err(error) => {
            let document = json!({"error": {"code": "bench.chip", "message": error, "exit": 1}});
            out::line(&if json { document.to_string() } else { format!("error: {error}") });
            ExitCode::FAILURE
        }
    }
}

fn judge(root: &Path, figures: &Figures, json: bool) -> ExitCode {
    let path = root.join(BASELINE);
    let before: Figures = fs::read_to_string(&path)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    if before != *figures
        && let Ok(text) = serde_json::to_string_pretty(figures)
        && let Err(error) = fs::write(&path, text + "\n")
    {
        out::error(&format!("{BASELINE}: {error}"));
    }
    if json {
        out::line(&json!(figures).to_string());
    } else {
        print(figures, &before);
    }
    let missed = missed(figures);
    missed.iter().for_each(|sentence| out::error(sentence));
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn missed(figures: &Figures) -> Vec<String> {
    let beyond = FIGURES.iter().filter_map(|(name, goal, _)| {
        let figure = *figures.get(*name)?;
        (*goal > 0 && figure > *goal).then(|| format!("{name} is {figure}, the goal is {goal}"))
    });
    beyond.collect()
}

fn print(figures: &Figures, before: &Figures) {
    for (name, goal, words) in FIGURES {
        let Some(figure) = figures.get(*name) else { continue };
        let goal = if *goal > 0 { format!("goal {goal:>10}") } else { String::new() };
        let change = match before.get(*name) {
            Some(old) if old != figure => format!("  was {old}"),
            _ => String::new(),
        };
        out::line(&format!("{name:<32} {figure:>10}  {goal:<15}  {words}{change}"));
    }
    out::line("");
    for (name, words) in PEERS {
        out::line(&format!("{name:<20}  {words}"));
    }
}

fn measure(root: &Path) -> Result<Figures, String> {
    let board = root.join(BOARD);
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--bins"])
        .current_dir(&board)
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err(format!("cargo build in {BOARD}: {status}"));
    }
    let folder = board.join(RELEASE);
    let mut figures = counted(&folder.join("budgets"))?;
    let with = sections(&folder.join("weft-board-qemu-virt"))?;
    let without = sections(&folder.join("local"))?;
    let of = |sections: &BTreeMap<String, u64>, names: &[&str]| -> u64 {
        names.iter().filter_map(|name| sections.get(*name)).sum()
    };
    for (figure, names) in [
        ("agent_flash", &[".text", ".rodata", ".data"][..]),
        ("agent_static_ram", &[".data", ".bss", ".noinit"]),
    ] {
        let cost = of(&with, names).saturating_sub(of(&without, names));
        figures.insert(figure.to_owned(), cost);
    }
    Ok(figures)
}

/// What the firmware that counts says, line by line: `name=number`.
fn counted(firmware: &PathBuf) -> Result<Figures, String> {
    let output = Command::new("timeout")
        .args([LIMIT_S, "qemu-system-riscv32", "-M", "virt", "-bios", "none", "-m", "16M"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio"])
        .args(["-icount", "shift=0,sleep=off", "-kernel"])
        .arg(firmware)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("qemu-system-riscv32: {error}; try cross/setup test"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("the counting firmware ended with {}: {said}", output.status));
    }
    let line = |line: &str| {
        let (name, number) = line.trim().split_once('=')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    Ok(said.lines().filter_map(line).collect())
}

/// Sizes of a program's sections, in bytes.
pub(crate) fn sections(program: &Path) -> Result<BTreeMap<String, u64>, String> {
    let output = Command::new("size")
        .arg("-A")
        .arg(program)
        .output()
        .map_err(|error| format!("size: {error}; try apt-get install binutils"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    let rows: BTreeMap<String, u64> = text.lines().filter_map(row).collect();
    if rows.contains_key(".text") {
        Ok(rows)
    } else {
        Err(format!("{} has no sections", program.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_beyond_its_goal_is_named() {
        let figures: Figures = [("seal_1420_instructions", 95_001), ("agent_struct", 1 << 30)]
            .map(|(name, figure)| (name.to_owned(), figure))
            .into();
        assert_eq!(missed(&figures), ["seal_1420_instructions is 95001, the goal is 95000"]);
    }

    #[test]
    fn every_figure_has_a_name_of_its_own() {
        let mut names: Vec<_> = FIGURES.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIGURES.len());
    }
}
