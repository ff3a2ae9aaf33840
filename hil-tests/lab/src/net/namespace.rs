//! Working inside a network namespace.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
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

    /// TCP connections that stand here and whose other end is at `address`.
    ///
    /// # Errors
    ///
    /// What the system says about its tables.
    pub(crate) fn connections_from(&self, address: IpAddr) -> io::Result<usize> {
        let read = || -> io::Result<usize> {
            let mut found = 0;
            // Not /proc/net, which is the first thread's.
            for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
                found += established(&fs::read_to_string(table)?, address);
            }
            Ok(found)
        };
        self.within(read)?
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

/// Lines of a table of the kernel's (proc(5)) with state 1, established. Addresses
/// are words of 32 bits in the machine's order; an IPv4 address in the table of
/// IPv6 is the last word of its mapped form.
fn established(table: &str, address: IpAddr) -> usize {
    let word = |bytes: &[u8]| {
        let bytes = bytes.first_chunk::<4>().copied().unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(bytes))
    };
    let wanted: String = match address {
        IpAddr::V4(address) => word(&address.octets()),
        IpAddr::V6(address) => address.octets().chunks(4).map(word).collect(),
    };
    let stands = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        let remote = fields.next().and_then(|field| field.split_once(':'));
        remote.is_some_and(|(remote, _)| remote.ends_with(&wanted)) && fields.next() == Some("01")
    };
    table.lines().filter(stands).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    #[cfg(target_endian = "little")]
    fn connections_are_found_in_both_tables() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0A7100CB:1CFC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1
   1: 0A7100CB:1CFC 167100CB:D431 01 00000000:00000000 02:000A4CB7 00000000     0        0 8 2
   2: 0A7100CB:1CFC 157100CB:D431 01 00000000:00000000 02:000A4CB7 00000000     0        0 9 2
   3: 0A7100CB:1CFC 167100CB:D432 06 00000000:00000000 03:00001771 00000000     0        0 0 3
";
        let address = Ipv4Addr::new(203, 0, 113, 22).into();
        assert_eq!(established(table, address), 1);
        let mapped = "   0: 0000000000000000FFFF00000A7100CB:1CFC \
                      0000000000000000FFFF0000167100CB:C1A2 01 0:0";
        assert_eq!(established(mapped, address), 1);
        assert_eq!(established(mapped, Ipv4Addr::LOCALHOST.into()), 0);
    }
}
