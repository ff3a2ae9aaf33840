//! The system's randomness, in weft-noise's words.

use weft_noise::entropy::Entropy;

/// The system's generator.
pub(super) struct System;

impl Entropy for System {
    fn fill(&mut self, out: &mut [u8]) {
        // A program whose random source is broken must not go on.
        if getrandom::fill(out).is_err() {
            std::process::abort();
        }
    }
}
