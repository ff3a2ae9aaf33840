//! The file `ways`: which way to the coordinator stood last on each network, and
//! which relay answered, so that a restart does not try again what leads nowhere
//! there; how long the line may be silent there, and ways that are kept open. It may be
//! lost at any time.
//!
//! Lines of one network each: its number u64 little-endian, length of the text u8,
//! text; whoever reads passes over texts of others.

use std::io;

use crate::store::Disk;
use crate::store::envelope::{self, Kind, ReadError};

/// The file.
pub(crate) const KIND: Kind = Kind { name: "ways", magic: b"WEFTWAYS", format: 1 };

/// A network, and the way as people write it, or what
/// `daemon/networks.rs`, `daemon/pauses.rs` and `control/keepalive.rs` write.
pub(crate) type Stood = (u64, String);

/// Writes the file.
///
/// # Errors
///
/// As the file system says; the old file is then untouched.
pub(crate) fn write(disk: &mut impl Disk, stood: &[Stood]) -> io::Result<()> {
    let mut content = Vec::new();
    for (network, way) in stood {
        // None is longer: a join string holds less.
        let Ok(len) = u8::try_from(way.len()) else { continue };
        content.extend_from_slice(&network.to_le_bytes());
        content.push(len);
        content.extend_from_slice(way.as_bytes());
    }
    envelope::write(disk, KIND, &content)
}

/// Reads the file; nothing if there is none.
///
/// # Errors
///
/// Why a file that is there cannot be used.
pub(crate) fn read(disk: &impl Disk) -> Result<Vec<Stood>, ReadError> {
    let content = match envelope::read(disk, KIND) {
        Ok((_, content)) => content,
        Err(ReadError::Missing) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let corrupt = || ReadError::Corrupt { found: content.len(), expected: content.len() };
    let (mut rest, mut stood) = (&content[..], Vec::new());
    while let Some((network, after)) = rest.split_first_chunk() {
        let (len, after) = after.split_first().ok_or_else(corrupt)?;
        let (way, after) = after.split_at_checked(usize::from(*len)).ok_or_else(corrupt)?;
        let way = core::str::from_utf8(way).map_err(|_| corrupt())?;
        stood.push((u64::from_le_bytes(*network), way.to_owned()));
        rest = after;
    }
    if rest.is_empty() { Ok(stood) } else { Err(corrupt()) }
}
