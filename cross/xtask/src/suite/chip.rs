//! The groups that build for microcontrollers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Outcome;
use super::cargo::{self, CHIP_CRATES};
use crate::bench_boards::{self, BOARDS as RADIOS, Board};
use crate::firmware;

const TARGET: &str = "riscv32imc-unknown-none-elf";
/// Firmware for machines, in their folders.
const BOARDS: &[&str] = &["agent-esp32/boards/qemu-virt"];
/// Where the emulated chip's firmware is built, and one from the template too: most of
/// what both link is the same.
const BUILT: &str = "agent-esp32/boards/qemu-virt/target";

/// The chip's crates for the chip's target, in one build that nothing else joins, and
/// the boards, which are workspaces of their own.
pub(super) fn riscv(root: &Path) -> Outcome {
    if let Some(skipped) = without_target("riscv32imc", TARGET) {
        return skipped;
    }
    let mut arguments = vec!["build", "--target", TARGET];
    CHIP_CRATES.iter().for_each(|package| arguments.extend(["-p", *package]));
    let mut outcome = cargo::shown(root, &arguments);
    outcome.passed *= CHIP_CRATES.len();
    for board in BOARDS {
        // Its folder says for what it is built, and how it is linked.
        outcome.merge(cargo::shown(&root.join(board), &["build", "--release", "--locked"]));
    }
    let (crates, boards) = (CHIP_CRATES.len(), BOARDS.len());
    outcome.detail = Some(format!("{crates} crates and {boards} board built"));
    outcome
}

/// Firmware of the boards with a radio: built and linked, an image made of it, and no less
/// RAM free than at the last change that was meant.
pub(super) fn boards(root: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    for board in &RADIOS {
        outcome.merge(without_target(board.name, board.target).unwrap_or_else(|| one(root, board)));
    }
    outcome
}

fn one(root: &Path, board: &Board) -> Outcome {
    let folder = bench_boards::folder(root, board);
    let arguments = ["build", "--release", "--locked", "--target-dir", "../target"];
    let mut outcome = cargo::shown(&folder, &arguments);
    if outcome.failed > 0 {
        return outcome;
    }
    let figures = bench_boards::measure(root, board)
        .and_then(|figures| Ok((bench_boards::baseline(root, board)?, figures)));
    let (before, figures) = match figures {
        Ok(figures) => figures,
        Err(error) => return Outcome::fail(vec![error]),
    };
    let Board { name, .. } = board;
    outcome.notes.push(format!("{name}: {}", figures.words()));
    if figures.image.is_none() {
        outcome.merge(Outcome::skip(&format!("{name} image"), "esptool is missing"));
    }
    if figures.free < before {
        outcome.merge(Outcome::fail(vec![format!(
            "{name}: {} B of RAM are free, and {before} were; cargo xtask bench boards takes the \
             new number",
            figures.free
        )]));
    }
    outcome
}

/// What a firmware developer begins with: a crate from the template, outside of this
/// folder, with our crates as they are packaged.
pub(super) fn template(root: &Path) -> Outcome {
    if let Some(skipped) = without_target("template", TARGET) {
        return skipped;
    }
    let folder = elsewhere(root);
    let outcome = built(root, &folder).unwrap_or_else(|error| Outcome::fail(vec![error]));
    match fs::remove_dir_all(&folder) {
        Err(error) if outcome.failed == 0 => {
            Outcome::fail(vec![format!("{}: {error}", folder.display())])
        }
        _ => outcome,
    }
}

fn built(root: &Path, folder: &Path) -> Result<Outcome, String> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let packages = firmware::make(root, folder)?;
    let target = root.join(BUILT);
    let strange = || format!("{}: the path is not UTF-8", target.display());
    let target = target.to_str().ok_or_else(strange)?;
    let arguments = ["build", "--release", "--locked", "--target-dir", target];
    let mut command = cargo::cargo(folder, &arguments);
    command.env("WEFT_JOIN", "WEFT1");
    let mut outcome = cargo::judged(root, "template", "build", &mut command);
    outcome.detail = Some(format!("a firmware built with {} packages", packages.len()));
    Ok(outcome)
}

/// A folder outside of this one, of its own for each copy of this one and the same each
/// time: what is built there is looked up by its path.
fn elsewhere(root: &Path) -> PathBuf {
    let name = root.to_string_lossy().replace(['/', '\\'], "-");
    std::env::temp_dir().join(format!("weft-firmware{name}"))
}

/// A skip, if a target is not installed.
fn without_target(name: &str, target: &str) -> Option<Outcome> {
    let installed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(target));
    let reason = format!("rustup target {target} is missing");
    (!installed).then(|| Outcome::skip(name, &reason))
}
