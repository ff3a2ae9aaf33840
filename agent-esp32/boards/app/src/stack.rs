//! The stack, painted at the start, so that it can be seen how much of it was ever used.
#![allow(unsafe_code, reason = "a stack is looked at from outside, or not at all")]

use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

/// What no program leaves on the stack in so many words.
const PAINT: u32 = 0xC0DE_57AC;

/// A stack, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct StackUse {
    /// The most that was ever used.
    pub used: usize,
    /// All of it.
    pub size: usize,
}

/// Paints a part of the stack, from one address to another.
///
/// # Safety
///
/// It is memory, in whole words, that nothing uses.
pub unsafe fn paint(free: Range<usize>) {
    for place in free.step_by(size_of::<u32>()) {
        // SAFETY: the caller says so.
        unsafe { with_exposed_provenance_mut::<u32>(place).write_volatile(PAINT) };
    }
}

/// How much of a stack that lies there was used since its lower end was painted.
///
/// # Safety
///
/// It is memory, in whole words, that can be read.
pub unsafe fn used(stack: Range<usize>) -> StackUse {
    let (top, size) = (stack.end, stack.len());
    let lowest = stack.step_by(size_of::<u32>()).find(|place| {
        // SAFETY: the caller says so.
        unsafe { with_exposed_provenance::<u32>(*place).read_volatile() != PAINT }
    });
    StackUse { used: top - lowest.unwrap_or(top), size }
}
