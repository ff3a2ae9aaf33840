//! Random bytes from the kernel.

use std::io;

use crate::os::check_len;

/// Fills `out` with `getrandom(2)`, which waits until the kernel's generator is
/// seeded (early boot of a small gateway).
///
/// # Panics
///
/// Where the kernel has no generator: nothing may be done without one.
pub(crate) fn fill(out: &mut [u8]) {
    let mut rest = out;
    while !rest.is_empty() {
        // SAFETY: the pointer and length describe `rest`, which we may write.
        let result = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match check_len(result) {
            Ok(len) => rest = &mut rest[len..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => panic!("getrandom: {error}"),
        }
    }
}

/// The kernel's generator, as the protocol crates take it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel;

impl weft_noise::entropy::Entropy for Kernel {
    fn fill(&mut self, out: &mut [u8]) {
        fill(out);
    }
}

/// A random number below `bound` (0 for a bound of 0), for jitter: the slight
/// bias of a remainder does not matter there.
pub(crate) fn below(bound: u64) -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ_and_the_bound_holds() {
        let (mut first, mut second) = ([0; 32], [0; 32]);
        fill(&mut first);
        fill(&mut second);
        assert_ne!(first, second);
        assert!((0..1000).all(|_| below(7) < 7));
        assert_eq!(below(0), 0);
    }
}
