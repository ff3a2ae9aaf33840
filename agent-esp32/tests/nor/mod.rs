//! A NOR flash memory that power can leave at any word.

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

/// What is erased at once.
pub(crate) const BLOCK: usize = 4_096;
/// What is written at once.
pub(crate) const WORD: usize = 4;

/// Power was cut, or the caller broke a rule of such memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NorError {
    Power,
    Range,
}

impl NorFlashError for NorError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Power => NorFlashErrorKind::Other,
            Self::Range => NorFlashErrorKind::OutOfBounds,
        }
    }
}

/// The memory. Each word that is written, and each quarter of a block that is erased, is a
/// step; the step with the number `power` comes half to its end, and everything after it
/// not at all.
#[derive(Clone)]
pub(crate) struct Nor {
    pub(crate) bytes: Vec<u8>,
    pub(crate) steps: usize,
    pub(crate) power: usize,
    /// Erasures of each block.
    pub(crate) erased: Vec<u32>,
}

impl Nor {
    pub(crate) fn new(blocks: usize) -> Self {
        Self {
            bytes: vec![0xFF; blocks * BLOCK],
            steps: 0,
            power: usize::MAX,
            erased: vec![0; blocks],
        }
    }

    /// Whether the next step is done; `Some(true)`: half of it.
    fn step(&mut self) -> Result<bool, NorError> {
        self.steps += 1;
        match self.steps.cmp(&self.power) {
            std::cmp::Ordering::Less => Ok(false),
            std::cmp::Ordering::Equal => Ok(true),
            std::cmp::Ordering::Greater => Err(NorError::Power),
        }
    }
}

impl ErrorType for Nor {
    type Error = NorError;
}

impl ReadNorFlash for Nor {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, out: &mut [u8]) -> Result<(), NorError> {
        let offset = offset as usize;
        let bytes = self.bytes.get(offset..offset + out.len()).ok_or(NorError::Range)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for Nor {
    const WRITE_SIZE: usize = WORD;
    const ERASE_SIZE: usize = BLOCK;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), NorError> {
        let range = from as usize..to as usize;
        assert!(range.start.is_multiple_of(BLOCK) && range.end.is_multiple_of(BLOCK));
        for quarter in range.step_by(BLOCK / 4) {
            let is_torn = self.step()?;
            if quarter.is_multiple_of(BLOCK) {
                self.erased[quarter / BLOCK] += 1;
            }
            let len = if is_torn { BLOCK / 8 } else { BLOCK / 4 };
            self.bytes[quarter..quarter + len].fill(0xFF);
            if is_torn {
                return Err(NorError::Power);
            }
        }
        Ok(())
    }

    async fn write(&mut self, offset: u32, data: &[u8]) -> Result<(), NorError> {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(WORD) && data.len().is_multiple_of(WORD));
        for (word, at) in data.chunks(WORD).zip((offset..).step_by(WORD)) {
            let is_torn = self.step()?;
            let place = self.bytes.get_mut(at..at + WORD).ok_or(NorError::Range)?;
            let len = if is_torn { WORD / 2 } else { WORD };
            for (old, new) in place.iter_mut().zip(word).take(len) {
                *old &= new;
            }
            if is_torn {
                return Err(NorError::Power);
            }
        }
        Ok(())
    }
}

impl MultiwriteNorFlash for Nor {}
