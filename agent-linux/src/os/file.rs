//! What `std::fs` leaves out: making a rename durable, and asking for space.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::os::check;

/// Makes the folder's entries durable: a rename is not before this.
///
/// # Errors
///
/// What opening the folder or `fsync(2)` reports.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Bytes free for this user on the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: the path ends with a zero byte; statvfs writes one record.
    unsafe {
        let mut found: libc::statvfs = core::mem::zeroed();
        check(libc::statvfs(path.as_ptr(), &raw mut found)).ok()?;
        Some(found.f_bavail as u64 * found.f_frsize as u64)
    }
}
