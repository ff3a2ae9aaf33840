//! The state folder: `identity`, `stamp`, `cache`, `ways`.
//!
//! A file is replaced, never changed in place: temporary file, fsync, rename,
//! fsync of the folder. The one exception is `stamp`, whose two slots are written
//! in turns (it is written while handshakes wait). What a cut write leaves is
//! either the old state or the new one; `tests` cuts every write at every byte.

pub(crate) mod cache;
pub(crate) mod envelope;
pub(crate) mod folder;
pub(crate) mod identity;
pub(crate) mod stamp;
pub(crate) mod ways;

#[cfg(test)]
mod tests;

use std::io;

/// Every file, the keys first.
pub(crate) const STATE: [&str; 4] =
    [identity::KIND.name, cache::KIND.name, stamp::NAME, ways::KIND.name];

/// Where files lie. Real ones in [`folder::Folder`]; in tests a model that can
/// lose what was not synced.
pub(crate) trait Disk {
    /// # Errors
    ///
    /// `NotFound` when there is no such file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Makes or truncates a file that only its owner may read, and writes it.
    ///
    /// # Errors
    ///
    /// As the file system says.
    fn write(&mut self, name: &str, data: &[u8]) -> io::Result<()>;
    /// Overwrites part of a file.
    ///
    /// # Errors
    ///
    /// As the file system says.
    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes a file's content durable.
    ///
    /// # Errors
    ///
    /// As the file system says.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// # Errors
    ///
    /// As the file system says.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// # Errors
    ///
    /// As the file system says; a file that is not there is removed already.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes renames and removals durable.
    ///
    /// # Errors
    ///
    /// As the file system says.
    fn sync_folder(&mut self) -> io::Result<()>;
}

/// Replaces a file as a whole.
///
/// # Errors
///
/// As the file system says; the old file is then untouched.
pub(crate) fn replace(disk: &mut impl Disk, name: &str, data: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(name);
    let written = disk
        .write(&temporary, data)
        .and_then(|()| disk.sync(&temporary))
        .and_then(|()| disk.rename(&temporary, name));
    if written.is_err() {
        // A full disk must not stay full because of us.
        drop(disk.remove(&temporary));
    }
    written?;
    disk.sync_folder()
}

/// The name under which a file is written before it takes its place.
pub(crate) fn temporary_name(name: &str) -> String {
    format!("{name}.new")
}

/// Forgets the device: every file of it, the keys first.
///
/// # Errors
///
/// As the file system says.
pub(crate) fn erase(disk: &mut impl Disk) -> io::Result<()> {
    for name in STATE {
        disk.remove(name)?;
        disk.remove(&temporary_name(name))?;
    }
    disk.sync_folder()
}
