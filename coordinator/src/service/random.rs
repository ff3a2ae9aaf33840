//! Randomness as an argument.

use weft_noise::entropy::Entropy;

/// Fills bytes with randomness that nobody can guess. `app` gives the system's.
pub type Fill = fn(&mut [u8]);

/// A [`Fill`] in weft-noise's words.
#[derive(Clone, Copy)]
pub struct Random(pub Fill);

impl Random {
    /// Random bytes.
    pub fn bytes<const N: usize>(self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.0)(&mut bytes);
        bytes
    }
}

impl Entropy for Random {
    fn fill(&mut self, out: &mut [u8]) {
        (self.0)(out);
    }
}
