//! Randomness of the operating system.

use weft_agent_core::entropy::Entropy;

/// The kernel's generator.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel;

impl Entropy for Kernel {
    /// # Panics
    ///
    /// Where the kernel has no generator.
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("the kernel gives random bytes");
    }
}
