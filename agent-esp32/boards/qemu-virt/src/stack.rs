//! The stack: painted at the start, so that it can be seen how much of it was ever used.

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use weft_board_app::StackUse;

unsafe extern "C" {
    /// Where the stack ends, and where it begins: it grows downwards.
    static __estack: u32;
    static __sstack: u32;
}

/// What no program leaves on the stack in so many words.
const PAINT: u32 = 0xC0DE_57AC;
/// Paints what is free of the stack, for [`used`]; at the very beginning.
pub(crate) fn paint() {
    let until: usize;
    // SAFETY: reads the stack pointer: everything in use is above it.
    unsafe { core::arch::asm!("mv {}, sp", out(reg) until, options(nomem, nostack)) };
    for place in (end()..until).step_by(size_of::<u32>()) {
        // SAFETY: free stack, below everything that is in use.
        unsafe { with_exposed_provenance_mut::<u32>(place).write_volatile(PAINT) };
    }
}

/// How much of the stack was ever used since [`paint`].
pub(crate) fn used() -> StackUse {
    let top = (&raw const __sstack).expose_provenance();
    let lowest = (end()..top).step_by(size_of::<u32>()).find(|place| {
        // SAFETY: the stack is memory that can be read.
        unsafe { with_exposed_provenance::<u32>(*place).read_volatile() != PAINT }
    });
    StackUse { used: top - lowest.unwrap_or(top), size: top - end() }
}

fn end() -> usize {
    (&raw const __estack).expose_provenance()
}
