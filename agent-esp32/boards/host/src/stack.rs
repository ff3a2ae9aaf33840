//! How much of the main thread's stack was ever used, as Linux counts it: in pages.

use std::fs;

use weft_board_app::stack::StackUse;

/// Nothing of nothing where Linux does not say.
pub(crate) fn used() -> StackUse {
    let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let number = |text: &str, label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let used: usize = number(&text("/proc/self/status"), "VmStk:").unwrap_or(0);
    let size = number(&text("/proc/self/limits"), "Max stack size").unwrap_or(0);
    StackUse { used: used * 1_024, size }
}
