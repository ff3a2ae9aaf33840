//! Random bytes: the hardware's generator, over a pool.
//!
//! The generator gives true randomness while the radio or the converter feeds it with
//! noise, and the radio rests while it is not connected. The pool is filled from the
//! converter at the start, and whatever is drawn stirs it.

use esp_hal::peripherals::{ADC1, RNG};
use esp_hal::rng::{Rng, TrngSource};
use weft_agent_esp32::Entropy;
use weft_noise::mac;

/// How often the pool is stirred at the start: some milliseconds, in which the generator
/// takes in ten times the noise that 256 bits want.
const ROUNDS: usize = 64;

/// The pool.
pub(crate) struct Dice {
    pool: [u8; 32],
    generator: Rng,
}

impl Dice {
    /// Takes the converter for as long as it lasts.
    pub(crate) fn new(generator: RNG<'_>, converter: ADC1<'_>) -> Self {
        let _source = TrngSource::new(generator, converter);
        let mut dice = Self { pool: [0; 32], generator: Rng::new() };
        (0..ROUNDS).for_each(|_| dice.stir());
        dice
    }

    /// What the pool was cannot be told from what it is afterwards.
    fn stir(&mut self) {
        let mut fresh = [0; 32];
        self.generator.read(&mut fresh);
        self.pool = mac::keyed_hash(&self.pool, &[b"pool", &fresh]);
    }
}

impl Entropy for Dice {
    fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(self.pool.len()) {
            self.stir();
            let drawn = mac::keyed_hash(&self.pool, &[b"draw"]);
            piece.iter_mut().zip(drawn).for_each(|(byte, drawn)| *byte = drawn);
        }
        // So that what was drawn cannot be told from what is left.
        self.stir();
    }
}
