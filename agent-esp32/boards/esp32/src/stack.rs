//! The stack of the main task, which is all RAM that nothing else has: painted at the
//! start, so that it can be seen how much of it was ever used.

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use weft_board_app::StackUse;

unsafe extern "C" {
    /// Where esp-hal's linker script lets the stack begin, which grows downwards.
    static _stack_start_cpu0: u32;
    /// Near its end, a word under watch: a write there is a stack that is too small.
    static __stack_chk_guard: u32;
}

/// What no program leaves on the stack in so many words.
const PAINT: u32 = 0xC0DE_57AC;
/// Not painted below the stack pointer: for what [`paint`] itself may call.
const OWN: usize = 256;

/// Paints what is free of the stack, for [`used`]; at the very beginning.
pub(crate) fn paint() {
    let pointer: usize;
    // SAFETY: reads the stack pointer: everything in use is above it.
    unsafe { core::arch::asm!("mv {}, sp", out(reg) pointer, options(nomem, nostack)) };
    for place in (end()..pointer - OWN).step_by(size_of::<u32>()) {
        // SAFETY: free stack, below everything that is in use.
        unsafe { with_exposed_provenance_mut::<u32>(place).write_volatile(PAINT) };
    }
}

/// How much of the stack was ever used since [`paint`].
pub(crate) fn used() -> StackUse {
    let top = (&raw const _stack_start_cpu0).expose_provenance();
    let lowest = (end()..top).step_by(size_of::<u32>()).find(|place| {
        // SAFETY: the stack is memory that can be read.
        unsafe { with_exposed_provenance::<u32>(*place).read_volatile() != PAINT }
    });
    StackUse { used: top - lowest.unwrap_or(top), size: top - end() }
}

/// The last word that may be used.
fn end() -> usize {
    (&raw const __stack_chk_guard).expose_provenance() + size_of::<u32>()
}
