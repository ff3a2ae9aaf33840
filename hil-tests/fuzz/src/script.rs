//! How bytes become a sequence of operations, and how a seed is written.

use arbitrary::Unstructured;

/// Operations, read from the front. Where bytes run out numbers are zero and
/// texts are short, so that every input is a sequence.
pub struct Script<'a>(Unstructured<'a>);

impl<'a> Script<'a> {
    /// A script of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Unstructured::new(bytes))
    }

    /// The next operation; `None` at the end.
    pub fn op(&mut self) -> Option<u8> {
        if self.0.is_empty() { None } else { Some(self.byte()) }
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Two bytes, little-endian.
    pub fn short(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Four bytes, little-endian.
    pub fn word(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Bytes after their length, at most `most` of them.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = usize::from(self.short()).min(most).min(self.0.len());
        self.0.bytes(len).unwrap_or_default()
    }
}

/// Writes what [`Script`] reads.
#[derive(Default)]
pub struct Seed(Vec<u8>);

impl Seed {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An operation, or one byte of one.
    #[must_use]
    pub fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// Two bytes.
    #[must_use]
    pub fn short(mut self, short: u16) -> Self {
        self.0.extend(short.to_le_bytes());
        self
    }

    /// Four bytes.
    #[must_use]
    pub fn word(mut self, word: u32) -> Self {
        self.0.extend(word.to_le_bytes());
        self
    }

    /// Bytes after their length.
    ///
    /// # Panics
    ///
    /// If they are longer than a length says.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).expect("a seed is short");
        let mut seed = self.short(len);
        seed.0.extend_from_slice(bytes);
        seed
    }

    /// The seed.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_seed_writes_a_script_reads() {
        let seed = Seed::new().byte(7).short(513).word(1 << 30).bytes(b"text").byte(1).finish();
        let mut script = Script::new(&seed);
        assert_eq!(script.op(), Some(7));
        assert_eq!((script.short(), script.word()), (513, 1 << 30));
        assert_eq!(script.bytes(3), b"tex");
        assert_eq!(script.op(), Some(b't'));
        assert_eq!(script.op(), Some(1));
        assert_eq!(script.op(), None);
        assert_eq!((script.word(), script.bytes(9)), (0, &[][..]));
    }
}
