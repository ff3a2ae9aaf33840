//! The machine's console, for the application.

use core::fmt::Arguments;

use weft_board_app::Console;
use weft_qemu_virt::say;

/// Lines on the console.
pub(crate) struct Lines;

impl Console for Lines {
    fn line(&self, words: Arguments<'_>) {
        say!("{words}");
    }
}
