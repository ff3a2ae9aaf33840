//! The rest of the machine: a console, and its end.

use core::fmt::{self, Write};

/// The first register of a 16550, to which a byte is written.
const CONSOLE: *mut u8 = 0x1000_0000 as *mut u8;
/// Its line status, of which this bit says that there is room.
const STATUS: *const u8 = 0x1000_0005 as *const u8;
const HAS_ROOM: u8 = 1 << 5;
/// What ends the machine (QEMU's `sifive_test`).
const FINISHER: *mut u32 = 0x0010_0000 as *mut u32;
const PASS: u32 = 0x5555;
const FAIL: u32 = 0x3333;

/// A line on the console, with the words of `println!`.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use core::fmt::Write as _;
        // The console takes everything.
        let _ = writeln!($crate::Console, $($words)*);
    }};
}

/// The console: what is written there, QEMU shows.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the console's registers, which nothing else uses.
            unsafe {
                while STATUS.read_volatile() & HAS_ROOM == 0 {}
                CONSOLE.write_volatile(byte);
            }
        }
        Ok(())
    }
}

/// Ends the machine; QEMU's exit status is this.
pub fn exit(status: u16) -> ! {
    let word = if status == 0 { PASS } else { FAIL | u32::from(status) << 16 };
    // SAFETY: the last thing that happens.
    unsafe { FINISHER.write_volatile(word) };
    loop {
        riscv::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::say!("panic: {info}");
    exit(1)
}
