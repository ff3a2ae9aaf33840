//! What surrounds the content of `identity` and `cache`:
//!
//! ```text
//! 0 magic 8   8 format u16   10 sealing u8   11 writer's version 3
//! 14 length u32   18 content   18+n CRC-32 of all before
//! ```
//!
//! Integers little-endian. Sealing 0 = plain; others come with sealed files.

use std::io;

use weft_wire::crc::crc32;
use zeroize::Zeroizing;

use crate::store::{Disk, replace};

const MAGIC_LEN: usize = 8;
const HEADER_LEN: usize = 18;
const CRC_LEN: usize = 4;
const SEALING_NONE: u8 = 0;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Its name in the folder.
    pub(crate) name: &'static str,
    /// Its first bytes.
    pub(crate) magic: &'static [u8; MAGIC_LEN],
    /// The format that this program writes, and the newest it reads.
    pub(crate) format: u16,
}

/// Why a file gave no content.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// There is no such file.
    Missing,
    /// Cut, or with another checksum: bytes there and bytes expected.
    Corrupt { found: usize, expected: usize },
    /// Written by a newer program: its version and its format.
    Newer { version: [u8; 3], format: u16 },
    /// Sealed in a way that this program cannot open.
    Sealed,
    /// The file system's own reason.
    Io(io::Error),
}

/// This program's version as three numbers.
pub(crate) fn own_version() -> [u8; 3] {
    let mut parts = env!("CARGO_PKG_VERSION").split('.');
    core::array::from_fn(|_| parts.next().and_then(|part| part.parse().ok()).unwrap_or(0))
}

/// Puts content into a file as a whole.
///
/// # Errors
///
/// As the file system says; the old file is then untouched.
pub(crate) fn write(disk: &mut impl Disk, kind: Kind, content: &[u8]) -> io::Result<()> {
    let mut data = Zeroizing::new(Vec::with_capacity(HEADER_LEN + content.len() + CRC_LEN));
    data.extend_from_slice(kind.magic);
    data.extend_from_slice(&kind.format.to_le_bytes());
    data.push(SEALING_NONE);
    data.extend_from_slice(&own_version());
    data.extend_from_slice(&(content.len() as u32).to_le_bytes());
    data.extend_from_slice(content);
    let crc = crc32(&data);
    data.extend_from_slice(&crc.to_le_bytes());
    replace(disk, kind.name, &data)
}

/// Reads a file's content, with the format that it has.
///
/// # Errors
///
/// [`ReadError`].
pub(crate) fn read(disk: &impl Disk, kind: Kind) -> Result<(u16, Zeroizing<Vec<u8>>), ReadError> {
    let data = match disk.read(kind.name) {
        Ok(data) => Zeroizing::new(data),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Missing),
        Err(error) => return Err(ReadError::Io(error)),
    };
    let corrupt = |expected| ReadError::Corrupt { found: data.len(), expected };
    let header: &[u8; HEADER_LEN] =
        data.first_chunk().ok_or_else(|| corrupt(HEADER_LEN + CRC_LEN))?;
    let length = u32::from_le_bytes([header[14], header[15], header[16], header[17]]) as usize;
    let expected = HEADER_LEN + length + CRC_LEN;
    if header[..MAGIC_LEN] != *kind.magic {
        return Err(corrupt(data.len()));
    }
    let (body, crc) = data.split_last_chunk::<CRC_LEN>().ok_or_else(|| corrupt(expected))?;
    if data.len() != expected || crc32(body) != u32::from_le_bytes(*crc) {
        return Err(corrupt(expected));
    }
    // Only a whole file may say that it is newer.
    let format = u16::from_le_bytes([header[8], header[9]]);
    if format > kind.format {
        let version = [header[11], header[12], header[13]];
        return Err(ReadError::Newer { version, format });
    }
    if header[10] != SEALING_NONE {
        return Err(ReadError::Sealed);
    }
    Ok((format, Zeroizing::new(body[HEADER_LEN..].to_vec())))
}
