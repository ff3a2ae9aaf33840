//! Where the stack of the main task is: all RAM that nothing else has.

use weft_board_app::stack::{self, StackUse};

unsafe extern "C" {
    /// Where esp-hal's linker script lets the stack begin, which grows downwards.
    static _stack_start_cpu0: u32;
    /// Near its end, a word under watch: a write there is a stack that is too small.
    static __stack_chk_guard: u32;
}

/// Left out below the stack pointer, in bytes.
const OWN: usize = 256;

/// Paints what is free of it, for [`used`]; at the very beginning.
pub(crate) fn paint() {
    let pointer: usize;
    // SAFETY: reads the stack pointer: everything in use is above it, and what the painter
    // uses itself is left out.
    unsafe {
        core::arch::asm!("mv {}, sp", out(reg) pointer, options(nomem, nostack));
        stack::paint(end()..pointer - OWN);
    }
}

/// How much of it was ever used since [`paint`].
pub(crate) fn used() -> StackUse {
    // SAFETY: the stack is memory that can be read.
    unsafe { stack::used(end()..(&raw const _stack_start_cpu0).expose_provenance()) }
}

/// The last word that may be used.
fn end() -> usize {
    (&raw const __stack_chk_guard).expose_provenance() + size_of::<u32>()
}
