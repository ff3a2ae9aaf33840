//! Working inside a network namespace.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use super::check;

/// Where `ip netns` keeps names.
pub(crate) const NAMES: &str = "/run/netns";

/// A named network namespace that exists.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Opens a namespace by the name that `ip netns add` gave it.
    ///
    /// # Errors
    ///
    /// What the system says about the file.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        Ok(Self { name: name.to_owned(), file: File::open(Path::new(NAMES).join(name))? })
    }

    /// Its name for `ip netns`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets and
    /// processes made there stay there.
    ///
    /// # Errors
    ///
    /// What the system says about the thread or about entering.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let worker =
                thread::Builder::new().name(self.name.clone()).spawn_scoped(scope, || {
                    self.enter()?;
                    Ok(work())
                })?;
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread here for good.
    ///
    /// # Errors
    ///
    /// What the system says, for instance that the rights are missing.
    pub(crate) fn enter(&self) -> io::Result<()> {
        // SAFETY: setns takes two integers; the descriptor is open.
        check(unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) })?;
        Ok(())
    }

    /// Processes that live in it.
    ///
    /// # Errors
    ///
    /// What the system says about `/proc`.
    pub(crate) fn processes(&self) -> io::Result<Vec<u32>> {
        let own = self.file.metadata()?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path: PathBuf = entry?.path();
            let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            // A process may end while we look: then it is in no namespace.
            if let (Some(pid), Ok(there)) = (pid, fs::metadata(path.join("ns/net")))
                && (there.dev(), there.ino()) == (own.dev(), own.ino())
            {
                found.push(pid);
            }
        }
        Ok(found)
    }
}
