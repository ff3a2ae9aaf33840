//! The key file: magic, format, length, body, CRC-32. Never readable by anybody
//! but its owner.
//!
//! Losing it means that every device has to enrol again, so it is made and
//! replaced in one step: either the whole file is there, or what was before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use weft_wire::crc::crc32;
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"WEFTKEY\0";
/// The newest format. What differs between them is in the body.
pub const FORMAT: u8 = 2;
const HEAD: usize = MAGIC.len() + 1 + 2;
const CRC: usize = 4;
/// The longest body, in bytes.
const BODY_MAX: usize = 4_096;

/// Why a key file cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyFileError {
    /// There is none.
    Missing,
    /// Others may read or write it; holds its mode.
    Open(u32),
    /// The system does not let us.
    Io(io::Error),
    /// It is not a key file, or not a whole one.
    Damaged,
    /// It is of a newer version; holds its format.
    Newer(u8),
}

/// Writes a new key file.
///
/// # Errors
///
/// `AlreadyExists` when one is there; else what the system says.
pub fn create(path: &Path, format: u8, body: &[u8]) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    write(path, format, body, place)
}

/// Puts a key file in the place of the one that is there. Whoever reads at any
/// moment, also after a loss of power, reads the one or the other.
///
/// # Errors
///
/// What the system says; then the one before is there.
pub fn replace(path: &Path, format: u8, body: &[u8]) -> io::Result<()> {
    write(path, format, body, |hidden, path| std::fs::rename(hidden, path))
}

fn write(
    path: &Path,
    format: u8,
    body: &[u8],
    put: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let bytes = emit(format, body)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the body is too long"))?;
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(".new");
    let hidden = Path::new(&hidden);
    // Of a run that was cut short: nobody else writes under this name.
    match std::fs::remove_file(hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(hidden)?;
    let written =
        file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| put(hidden, path));
    if written.is_err() {
        // What is left would be removed by the next run.
        let _ = std::fs::remove_file(hidden);
    }
    written?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync_folder(folder),
        _ => sync_folder(Path::new(".")),
    }
}

/// The whole file; `None` = the body is too long.
pub fn emit(format: u8, body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let len = u16::try_from(body.len()).ok().filter(|len| usize::from(*len) <= BODY_MAX)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(HEAD + body.len() + CRC));
    bytes.extend_from_slice(MAGIC);
    bytes.push(format);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(body);
    let crc = crc32(&bytes).to_le_bytes();
    bytes.extend_from_slice(&crc);
    Some(bytes)
}

/// Moves a file to a name that is free. Unlike a rename, a link never replaces
/// what is there; some file systems of containers have none.
///
/// # Errors
///
/// `AlreadyExists` when something has that name; else what the system says.
pub fn place(hidden: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(hidden, path) {
        Ok(()) => std::fs::remove_file(hidden),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Looked at just now, and the folder is this process's alone.
        Err(_) => std::fs::rename(hidden, path),
    }
}

/// Makes the names in a folder outlast a loss of power.
///
/// # Errors
///
/// What the system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads a key file's body.
///
/// # Errors
///
/// [`KeyFileError`].
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing,
        _ => KeyFileError::Io(error),
    })?;
    let mode = file.metadata().map_err(KeyFileError::Io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Open(mode));
    }
    let mut bytes = Zeroizing::new(vec![0; HEAD + BODY_MAX + CRC + 1]);
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KeyFileError::Io(error)),
        }
    }
    parse(&bytes[..len]).map(|body| Zeroizing::new(body.to_vec()))
}

/// The body of a whole file.
///
/// # Errors
///
/// `Damaged`, `Newer`.
pub fn parse(bytes: &[u8]) -> Result<&[u8], KeyFileError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(KeyFileError::Damaged)?;
    let (format, rest) = rest.split_first().ok_or(KeyFileError::Damaged)?;
    match *format {
        1..=FORMAT => {}
        0 => return Err(KeyFileError::Damaged),
        newer => return Err(KeyFileError::Newer(newer)),
    }
    let (len, rest) = rest.split_first_chunk::<2>().ok_or(KeyFileError::Damaged)?;
    let len = usize::from(u16::from_le_bytes(*len));
    let (body, crc) = rest.split_at_checked(len).ok_or(KeyFileError::Damaged)?;
    if crc != crc32(&bytes[..HEAD + len]).to_le_bytes() {
        return Err(KeyFileError::Damaged);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weft-key-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn is_written_once_for_its_owner() {
        let dir = Dir::new("once");
        let path = dir.0.join("key");
        assert!(matches!(read(&path), Err(KeyFileError::Missing)));
        create(&path, 1, b"body").unwrap();
        assert_eq!(&*read(&path).unwrap(), b"body");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(create(&path, 1, b"other").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(&*read(&path).unwrap(), b"body");
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1, "nothing is left behind");
        let other = dir.0.join("other");
        std::fs::write(dir.0.join("other.new"), b"of a run that was cut short").unwrap();
        create(&other, 1, b"other").unwrap();
        assert_eq!(&*read(&other).unwrap(), b"other");
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 2, "nothing is left behind");
        for mode in [0o644, 0o640, 0o620, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(KeyFileError::Open(found)) if found == mode));
        }
    }

    #[test]
    fn is_replaced_in_one_step() {
        let dir = Dir::new("replace");
        let path = dir.0.join("key");
        create(&path, 1, b"before").unwrap();
        std::fs::write(dir.0.join("key.new"), b"of a run that was cut short").unwrap();
        assert_eq!(&*read(&path).unwrap(), b"before");
        replace(&path, 2, b"after").unwrap();
        assert_eq!(&*read(&path).unwrap(), b"after");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn every_change_is_seen() {
        let dir = Dir::new("change");
        let path = dir.0.join("key");
        create(&path, 2, &[7; 100]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(parse(&wrong).is_err(), "byte {at}");
            assert!(parse(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(parse(&[&bytes[..], &[0]].concat()).is_err());
        assert!(matches!(parse(b"WEFTKEY\0\x03"), Err(KeyFileError::Newer(3))));
        // Formats are told apart by what checks the body.
        let older = emit(1, b"body").unwrap();
        assert_eq!(parse(&older).ok(), Some(&b"body"[..]));
    }
}
