//! Other processes and names of this machine: who is at the other end of a
//! socket, groups, the host's name, the background daemon.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::os::check;
use crate::os::poll::{Interest, wait_one};

/// Who connected to a Unix socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    /// 0 for a process that this one cannot see (another container).
    pub(crate) pid: i32,
}

/// # Errors
///
/// What `getsockopt(2)` reports.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `found` has the length that `len` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    check(result)?;
    Ok(Credentials { uid: found.uid, pid: found.pid })
}

/// A process that runs, to wait for its end.
pub(crate) struct Running(OwnedFd);

impl Running {
    /// `None` for one that has ended already.
    ///
    /// # Errors
    ///
    /// What `pidfd_open(2)` reports (Linux 5.3).
    pub(crate) fn open(pid: i32) -> io::Result<Option<Self>> {
        // SAFETY: takes two numbers; the descriptor is new and nobody else's.
        unsafe {
            match check(libc::syscall(libc::SYS_pidfd_open, pid, 0) as libc::c_int) {
                Ok(fd) => Ok(Some(Self(OwnedFd::from_raw_fd(fd)))),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
                Err(error) => Err(error),
            }
        }
    }

    /// Waits for its end; `false` when the time passed first.
    ///
    /// # Errors
    ///
    /// What `ppoll(2)` reports.
    pub(crate) fn wait(&self, timeout_us: u64) -> io::Result<bool> {
        wait_one(self.0.as_fd(), Interest::READ, Some(timeout_us))
    }
}

/// A line of a table like `/etc/group`: its fields, if its first is `name`.
fn entry<'t>(table: &'t str, name: &str) -> Option<Vec<&'t str>> {
    let mut lines = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.first() == Some(&name))
}

/// The number of a local group by its name. Read from the file itself: the C
/// library's way loads what it calls name services into a small daemon for ever.
pub(crate) fn group_id(name: &str) -> Option<u32> {
    let table = std::fs::read_to_string("/etc/group").ok()?;
    entry(&table, name)?.get(2)?.parse().ok()
}

/// A local user's name, or its number as text.
pub(crate) fn user_name(uid: u32) -> String {
    let number = uid.to_string();
    let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.get(2) == Some(&number.as_str()));
    let name = found.and_then(|fields| fields.first().map(|name| (*name).to_owned()));
    name.unwrap_or(number)
}

/// The host's name as the kernel knows it.
pub(crate) fn host_name() -> String {
    let mut buffer = [0u8; 256];
    // SAFETY: the length leaves room for the final zero byte.
    unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    let end = buffer.iter().position(|&byte| byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&buffer[..end]).into_owned()
}

/// Starts this program again as a daemon in a session of its own: it survives
/// the terminal, and Ctrl-C there does not reach it. Its standard output comes
/// back as a pipe, on which it says how the start went; what it writes to its
/// error stream (nothing but a panic) goes to `errors`.
///
/// # Errors
///
/// What opening the file or starting the program reports.
pub(crate) fn spawn_background(arguments: &[OsString], errors: &Path) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("weft")
        .args(arguments)
        .current_dir("/")
        // A unit above this process is not the daemon's.
        .env_remove("INVOCATION_ID")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(errors)?);
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| check(libc::setsid()).map(drop));
    }
    command.spawn()
}

/// Ends what this process says on its standard output: the reader of the pipe
/// sees the end, and later writes go nowhere.
///
/// # Errors
///
/// What opening `/dev/null` or `dup2(2)` reports.
pub(crate) fn close_stdout() -> io::Result<()> {
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    // SAFETY: both descriptors are open.
    check(unsafe { libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO) }).map(drop)
}

/// The number under which the program that takes this one's place finds the
/// listener: it stays open across `exec`.
///
/// # Errors
///
/// What `fcntl(2)` reports.
pub(crate) fn inheritable(listener: UnixListener) -> io::Result<RawFd> {
    let number = listener.into_raw_fd();
    // SAFETY: the descriptor is open, and now nobody's but the next program's.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(|_| number)
}

/// The listener of this number that the program before this one left open.
///
/// # Errors
///
/// What `fcntl(2)` reports for a number that names nothing.
pub(crate) fn inherited(number: RawFd) -> io::Result<UnixListener> {
    // SAFETY: a number alone changes nothing but its own flag; if it is open, it
    // was left to this program by [`inheritable`], and nobody else knows of it.
    unsafe {
        check(libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC))?;
        Ok(UnixListener::from_raw_fd(number))
    }
}

/// Tells systemd that the service is ready, where it asked to be told
/// (sd_notify(3): one datagram to `NOTIFY_SOCKET`); says whether it did.
///
/// # Errors
///
/// What sending reports.
pub(crate) fn notify_ready() -> io::Result<bool> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else {
        return Ok(false);
    };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(|_| true)
}

/// Moves this process into a network namespace of its own, empty but for a
/// loopback interface that is down. For tests.
///
/// # Errors
///
/// `PermissionDenied` without the right to.
#[allow(dead_code, reason = "tests/host.rs includes this module")]
pub(crate) fn enter_network_namespace() -> io::Result<()> {
    // SAFETY: takes a number and changes this process alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let running = Running::open(pid).unwrap().unwrap();
        assert!(!running.wait(1_000).unwrap());
        drop(child.stdin.take());
        assert!(running.wait(5_000_000).unwrap());
        child.wait().unwrap();
        assert!(Running::open(pid).unwrap().is_none());
    }

    #[test]
    fn names_and_numbers_are_read_from_the_local_tables() {
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(4_000_000_000), "4000000000");
        assert_eq!(group_id("no-such-group-here"), None);
        let table = "weftx:x:7:\nweft:x:998:alice,bob\n";
        assert_eq!(entry(table, "weft").unwrap()[2], "998");
    }
}
