//! What the kernel gives this process: time, random bytes, readiness, signals
//! and rights. One of the two places where `unsafe` is allowed (the other is
//! [`crate::net`]): every block is one system call over memory that is owned
//! here.

pub(crate) mod clock;
pub(crate) mod entropy;
pub(crate) mod file;
pub(crate) mod poll;
pub(crate) mod privilege;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod terminal;
pub(crate) mod timer;

use std::io;

/// Turns a system call's `-1` into the error that `errno` names.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for calls that return a length.
pub(crate) fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether this error only means "nothing there now".
pub(crate) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
