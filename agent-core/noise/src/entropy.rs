//! Where random bytes come from.

/// A source of cryptographically secure random bytes.
///
/// An implementation must not return before the source is seeded, and has no
/// way to fail: a program whose random source is broken must not start.
pub trait Entropy {
    /// Overwrites `out` with random bytes.
    fn fill(&mut self, out: &mut [u8]);

    /// A random number, each value as likely as any other.
    fn number(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }
}

impl<E: Entropy + ?Sized> Entropy for &mut E {
    fn fill(&mut self, out: &mut [u8]) {
        (**self).fill(out);
    }
}
