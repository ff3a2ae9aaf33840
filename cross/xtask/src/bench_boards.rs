//! `cargo xtask bench boards`: firmware of the ESP32 boards, as the linker lays it out.
//!
//! None of it ran: RAM that is free is what the linker leaves for the main task's stack,
//! with the radio driver's heap taken out. The image is what esptool makes of the firmware,
//! byte for byte what goes into the flash memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

use crate::bench_chip::sections;
use crate::out;
use crate::source::target;

/// A board: name, for what it is built, RAM that is to be free (0: no goal).
pub(crate) struct Board {
    pub(crate) name: &'static str,
    pub(crate) target: &'static str,
    goal: u64,
}

/// All of them.
pub(crate) const BOARDS: [Board; 2] = [
    Board { name: "esp32c3", target: "riscv32imc-unknown-none-elf", goal: 150_000 },
    Board { name: "esp32c6", target: "riscv32imac-unknown-none-elf", goal: 0 },
];

/// The numbers of the last change that was meant.
const BASELINE: &str = "agent-esp32/boards/esp32/budgets.json";
/// Code and constants that stay in the flash memory, then what is in RAM.
const SECTIONS: [&str; 5] = [".text", ".rodata", ".rwtext", ".data", ".bss"];

/// What a firmware takes, in bytes.
pub(crate) struct Figures {
    /// Left of RAM, for the stack.
    pub(crate) free: u64,
    /// The image, where esptool is there.
    pub(crate) image: Option<u64>,
    /// The sections.
    pub(crate) sections: Vec<(&'static str, u64)>,
}

impl Figures {
    /// In one line.
    pub(crate) fn words(&self) -> String {
        let sections: Vec<String> =
            self.sections.iter().map(|(name, size)| format!("{name} {size}")).collect();
        let image = self.image.map_or_else(String::new, |image| format!("image {image}, "));
        format!("{} B of RAM free; {image}{}", self.free, sections.join(" "))
    }
}

/// Builds and measures; fails where less is free than is to be. New numbers become the
/// baseline.
pub(crate) fn run(root: &Path, json: bool) -> ExitCode {
    let mut all = Vec::new();
    for board in &BOARDS {
        match build(root, board).and_then(|()| measure(root, board)) {
            Ok(figures) => all.push((board, figures)),
            Err(error) => {
                let document =
                    json!({"error": {"code": "bench.boards", "message": error, "exit": 1}});
                out::line(&if json { document.to_string() } else { format!("error: {error}") });
                return ExitCode::FAILURE;
            }
        }
    }
    let free: BTreeMap<_, _> = all.iter().map(|(board, it)| (board.name, it.free)).collect();
    let kept = serde_json::to_string_pretty(&free).map_err(|error| error.to_string());
    let kept = kept.and_then(|text| {
        fs::write(root.join(BASELINE), text + "\n").map_err(|error| error.to_string())
    });
    if let Err(error) = &kept {
        out::error(&format!("{BASELINE}: {error}"));
    }
    if json {
        let document: BTreeMap<_, _> = all
            .iter()
            .map(|(board, it)| {
                let sections: BTreeMap<_, _> = it.sections.iter().copied().collect();
                (board.name, json!({"free": it.free, "image": it.image, "sections": sections}))
            })
            .collect();
        out::line(&json!(document).to_string());
    } else {
        for (board, figures) in &all {
            out::line(&format!("{}  {}", board.name, figures.words()));
        }
    }
    let missed: Vec<String> = all.iter().filter_map(|(board, it)| beyond(board, it.free)).collect();
    missed.iter().for_each(|sentence| out::error(sentence));
    if missed.is_empty() && kept.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn beyond(board: &Board, free: u64) -> Option<String> {
    let Board { name, goal, .. } = board;
    (free < *goal).then(|| format!("{name} has {free} B of RAM free, the goal is {goal}"))
}

/// Where its manifest is.
pub(crate) fn folder(root: &Path, board: &Board) -> PathBuf {
    root.join("agent-esp32/boards").join(board.name)
}

fn build(root: &Path, board: &Board) -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked"]).current_dir(folder(root, board));
    command.env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    status.success().then_some(()).ok_or_else(|| format!("cargo build of {}: {status}", board.name))
}

/// Of a firmware that is built.
pub(crate) fn measure(root: &Path, board: &Board) -> Result<Figures, String> {
    let firmware = folder(root, board)
        .join("../target")
        .join(board.target)
        .join("release")
        .join(format!("weft-board-{}", board.name));
    let rows = sections(&firmware)?;
    let size = |name: &&'static str| {
        let size = rows.get(*name).ok_or_else(|| format!("{} has no {name}", firmware.display()));
        size.map(|size| (*name, *size))
    };
    let (_, free) = size(&".stack")?;
    let sections = SECTIONS.iter().map(size).collect::<Result<_, String>>()?;
    Ok(Figures { free, image: image(root, board, &firmware)?, sections })
}

/// What esptool makes of it, where `cross/setup` has put one.
fn image(root: &Path, board: &Board, firmware: &Path) -> Result<Option<u64>, String> {
    let tool = target(root).join("esptool/bin/esptool");
    if !tool.exists() {
        return Ok(None);
    }
    let image = firmware.with_extension("bin");
    let output = Command::new(&tool)
        .args(["--chip", board.name, "elf2image", "--flash-size", "4MB", "--output"])
        .arg(&image)
        .arg(firmware)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", tool.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.lines().last().unwrap_or("no reason given").to_owned();
        return Err(format!("esptool makes no image of {}: {said}", board.name));
    }
    let len = fs::metadata(&image).map_err(|error| format!("{}: {error}", image.display()))?.len();
    Ok(Some(len))
}

/// RAM that was free at the last change that was meant.
pub(crate) fn baseline(root: &Path, board: &Board) -> Result<u64, String> {
    let text =
        fs::read_to_string(root.join(BASELINE)).map_err(|error| format!("{BASELINE}: {error}"))?;
    let figures: Value =
        serde_json::from_str(&text).map_err(|error| format!("{BASELINE}: {error}"))?;
    figures[board.name].as_u64().ok_or_else(|| format!("{BASELINE} has no {}", board.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_free_ram_is_named() {
        let [c3, c6] = &BOARDS;
        assert_eq!(
            beyond(c3, 149_999).as_deref(),
            Some("esp32c3 has 149999 B of RAM free, the goal is 150000")
        );
        assert_eq!((beyond(c3, 150_000), beyond(c6, 1)), (None, None));
    }
}
