//! Flash memory in a file, as a NOR flash behaves: erased in blocks of 4 KB to ones, of
//! which writes can only make zeroes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

/// What is erased at once.
const BLOCK: usize = 4_096;
/// A block for what the chip was provisioned with, 15 for the agent: as on a board.
const LEN: usize = 16 * BLOCK;

/// The flash memory.
pub(crate) struct FileFlash(File);

/// It did not do what it was asked.
#[derive(Debug)]
pub(crate) enum FileError {
    /// Not there.
    Range,
    /// What the operating system said.
    System(io::Error),
}

impl NorFlashError for FileError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Range => NorFlashErrorKind::OutOfBounds,
            // Somebody has made the file shorter.
            Self::System(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                NorFlashErrorKind::OutOfBounds
            }
            Self::System(_) => NorFlashErrorKind::Other,
        }
    }
}

impl FileFlash {
    /// An erased one, for its owner's eyes, if there is no such file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // It holds private keys.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        match file.metadata()?.len() {
            0 => file.write_all_at(&[0xFF; LEN], 0)?,
            len if len == LEN as u64 => {}
            len => {
                let words = format!("it is {len} bytes long, and a chip's flash memory {LEN}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
        }
        Ok(Self(file))
    }

    /// Writes what the chip is provisioned with into the first block.
    pub(crate) fn provision(&self, text: &str) -> io::Result<()> {
        if text.len() > weft_board_app::PAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the join string is too long"));
        }
        let mut block = [0xFF; BLOCK];
        block[..text.len()].copy_from_slice(text.as_bytes());
        self.0.write_all_at(&block, 0)
    }
}

fn within(offset: u32, len: usize) -> Result<u64, FileError> {
    let end = (offset as usize).checked_add(len).filter(|end| *end <= LEN);
    end.map(|_| u64::from(offset)).ok_or(FileError::Range)
}

impl ErrorType for FileFlash {
    type Error = FileError;
}

impl ReadNorFlash for FileFlash {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, out: &mut [u8]) -> Result<(), FileError> {
        let at = within(offset, out.len())?;
        self.0.read_exact_at(out, at).map_err(FileError::System)
    }

    fn capacity(&self) -> usize {
        LEN
    }
}

impl NorFlash for FileFlash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = BLOCK;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FileError> {
        let len = to.checked_sub(from).ok_or(FileError::Range)? as usize;
        let at = within(from, len)?;
        self.0.write_all_at(&vec![0xFF; len], at).map_err(FileError::System)
    }

    async fn write(&mut self, offset: u32, data: &[u8]) -> Result<(), FileError> {
        let at = within(offset, data.len())?;
        let mut bytes = vec![0; data.len()];
        self.0.read_exact_at(&mut bytes, at).map_err(FileError::System)?;
        bytes.iter_mut().zip(data).for_each(|(old, new)| *old &= new);
        self.0.write_all_at(&bytes, at).map_err(FileError::System)
    }
}

impl MultiwriteNorFlash for FileFlash {}
