//! The console: USB where a host listens there, the first UART otherwise. A panic goes
//! there too.

use core::fmt;

use embassy_time::Instant;
use esp_hal::system;

// It has the panic handler.
use esp_backtrace as _;

use crate::PAUSE;

/// The console.
pub(crate) struct Console;

impl weft_board_app::Console for Console {
    fn line(&self, words: fmt::Arguments<'_>) {
        esp_println::println!("{words}");
    }
}

/// What a panic ends with: a device that nobody watches is to run again.
// SAFETY: esp-backtrace calls the function of this name and type, and nothing else has it.
#[unsafe(no_mangle)]
fn custom_halt() -> ! {
    let since = Instant::now();
    // A panic at each start is to be read, and is not to wear out the flash memory.
    while since.elapsed() < PAUSE {}
    system::software_reset()
}
