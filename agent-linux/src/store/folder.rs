//! The state folder on a real file system.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::os;
use crate::store::{Disk, temporary_name};

/// A folder that holds one device's state.
#[derive(Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Names the folder; it need not be there.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Makes the folder (0700) with its parents.
    ///
    /// # Errors
    ///
    /// As the file system says.
    pub(crate) fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file is.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The permission bits of a file, `None` when there is none.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` where the folder is another's.
    pub(crate) fn mode_of(&self, name: &str) -> io::Result<Option<u32>> {
        match fs::metadata(self.path_of(name)) {
            Ok(data) => Ok(Some(data.permissions().mode() & 0o7777)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes free where the folder is.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        os::file::free_bytes(&self.path)
    }

    /// Removes what a killed run left half written; says how many files.
    pub(crate) fn sweep(&mut self, names: &[&str]) -> usize {
        let left = |name: &&&str| self.path_of(&temporary_name(name)).exists();
        let left: Vec<_> = names.iter().filter(left).copied().collect();
        let removed = left.iter().filter(|name| self.remove(&temporary_name(name)).is_ok());
        removed.count()
    }
}

/// Keeps others away for as long as it lives; the kernel takes it from a process
/// that ends, however it does.
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file is its use")] File);

/// `None` when another process holds it.
fn lock(file: File) -> io::Result<Option<Lock>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Folder {
    /// The right to use what lies here: a daemon's, or whoever erases it.
    ///
    /// # Errors
    ///
    /// As the file system says.
    pub(crate) fn lock(&self) -> io::Result<Option<Lock>> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        lock(options.open(self.path_of("lock"))?)
    }

    /// The right to join here, beside the daemon that does it.
    ///
    /// # Errors
    ///
    /// As the file system says.
    pub(crate) fn lock_joining(&self) -> io::Result<Option<Lock>> {
        lock(File::open(&self.path)?)
    }
}

impl Disk for Folder {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path_of(name))
    }

    fn write(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path_of(name))?;
        // An older file of that name keeps its mode otherwise.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(data)
    }

    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path_of(name))?;
        file.write_all_at(data, offset)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        File::open(self.path_of(name))?.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path_of(from), self.path_of(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path_of(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        os::file::sync_folder(&self.path)
    }
}
