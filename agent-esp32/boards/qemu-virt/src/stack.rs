//! Where the stack is.

use weft_board_app::stack::{self, StackUse};

unsafe extern "C" {
    /// Where the stack ends, and where it begins: it grows downwards.
    static __estack: u32;
    static __sstack: u32;
}

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

/// Left out below the stack pointer, in bytes.
const OWN: usize = 256;

/// How much of it was ever used since [`paint`].
pub(crate) fn used() -> StackUse {
    // SAFETY: the stack is memory that can be read.
    unsafe { stack::used(end()..(&raw const __sstack).expose_provenance()) }
}

fn end() -> usize {
    (&raw const __estack).expose_provenance()
}
