//! Where bytes that others wrote become values: each decoder of this program as
//! one function, for the fuzzer.
//!
//! What decodes comes back as this program would write it, so that a caller can
//! check that writing and reading agree.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::ipc::protocol::{Envelope, Reply};
use crate::output;
use crate::store::{Disk, cache, identity, stamp};

/// The file `identity`.
#[must_use]
pub fn identity(file: &[u8]) -> Option<Vec<u8>> {
    let mut disk = Memory::holding(identity::KIND.name, file);
    let (identity, home) = identity::parse(&disk).ok()?;
    // What the rest of the program asks of it.
    let _asked = (home.ways().len(), home.host().len(), home.account());
    identity::write(&mut disk, &identity, &home).ok()?;
    disk.take(identity::KIND.name)
}

/// The file `cache`, without what is in it.
#[must_use]
pub fn cache(file: &[u8]) -> Option<Vec<u8>> {
    let mut disk = Memory::holding(cache::KIND.name, file);
    let items = cache::read(&disk).ok()??;
    cache::write(&mut disk, &items).ok()?;
    disk.take(cache::KIND.name)
}

/// The file `stamp`: the floor that it holds before and after it was raised to
/// `floor`, and the starts that were written with it.
#[must_use]
pub fn stamp(file: &[u8], floor: u64) -> (Option<u64>, Option<u64>) {
    let mut disk = Memory::holding(stamp::NAME, file);
    let before = stamp::read(&disk).ok().and_then(|stamp| stamp.floor);
    let written = stamp::write(&mut disk, floor, 1);
    let after = written.and_then(|()| stamp::read(&disk)).ok().and_then(|stamp| stamp.floor);
    (before, after)
}

/// A command's line to the daemon.
#[must_use]
pub fn request(line: &[u8]) -> Option<Vec<u8>> {
    again::<Envelope>(line)
}

/// The daemon's line to a command.
#[must_use]
pub fn reply(line: &[u8]) -> Option<Vec<u8>> {
    again::<Reply>(line)
}

/// `weft.toml`: what a person is told about it, nothing if it is good.
#[must_use]
pub fn configuration(file: &[u8]) -> String {
    match Config::parse(Path::new("/etc/weft/weft.toml"), file) {
        Ok(_) => String::new(),
        Err(failures) => {
            failures.iter().map(|failure| output::describe(failure, None).to_string()).collect()
        }
    }
}

fn again<T: Serialize + DeserializeOwned>(line: &[u8]) -> Option<Vec<u8>> {
    serde_json::to_vec(&serde_json::from_slice::<T>(line).ok()?).ok()
}

/// A folder without a file system: every write is durable.
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn holding(name: &str, file: &[u8]) -> Self {
        Self(BTreeMap::from([(name.to_owned(), file.to_vec())]))
    }

    fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.remove(name)
    }

    fn file(&mut self, name: &str) -> io::Result<&mut Vec<u8>> {
        self.0.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Memory {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        self.0.insert(name.to_owned(), data.to_vec());
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let file = self.file(name)?;
        let place = file.get_mut(start..start + data.len());
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name).map(|_| ())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let data = self.take(from).ok_or(io::ErrorKind::NotFound)?;
        self.write(to, &data)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.remove(name);
        Ok(())
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        Ok(())
    }
}
