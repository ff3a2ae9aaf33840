//! The file `cache`: the map as the agent wrote it down, so that tunnels work
//! after a restart without the coordinator. It may be lost at any time.

use std::io;

use zeroize::Zeroizing;

use crate::store::Disk;
use crate::store::envelope::{self, Kind, ReadError};

/// The file.
pub(crate) const KIND: Kind = Kind { name: "cache", magic: b"WEFTCACH", format: 1 };

/// Writes the file.
///
/// # Errors
///
/// As the file system says; the old file is then untouched.
pub(crate) fn write(disk: &mut impl Disk, items: &[u8]) -> io::Result<()> {
    envelope::write(disk, KIND, items)
}

/// Reads the file; `None` when there is none that can be used, since
/// everything in it comes again from the coordinator.
///
/// # Errors
///
/// Why a file that is there cannot be used.
pub(crate) fn read(disk: &impl Disk) -> Result<Option<Zeroizing<Vec<u8>>>, ReadError> {
    match envelope::read(disk, KIND) {
        Ok((_, items)) => Ok(Some(items)),
        Err(ReadError::Missing) => Ok(None),
        Err(error) => Err(error),
    }
}
