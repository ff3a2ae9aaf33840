//! Signals as something to read, so that they arrive in the loop's own order.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::os::{check, check_len};

/// Reads the signals that end or wake this process.
pub(crate) struct Signals(OwnedFd);

/// A signal this program answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM, SIGHUP: end in order.
    Terminate,
}

impl Signals {
    /// Blocks the usual delivery for this thread, and for every thread it
    /// starts later; so call it before starting any.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub(crate) fn block() -> io::Result<Self> {
        // SAFETY: a zeroed sigset is initialised by sigemptyset; the descriptor
        // is new and nobody else's.
        unsafe {
            let mut set: libc::sigset_t = core::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, core::ptr::null_mut()))?;
            let fd =
                check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// From now on Ctrl-C ends this process at once, also in the middle of what
    /// the first one began.
    pub(crate) fn let_interrupt(&self) {
        // SAFETY: a zeroed sigset is initialised by sigemptyset. With a known
        // signal and operation the calls cannot fail.
        unsafe {
            let mut set: libc::sigset_t = core::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, core::ptr::null_mut());
        }
    }

    /// The next signal that arrived, if any.
    pub(crate) fn next(&self) -> Option<Signal> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        // SAFETY: the buffer is as long as one record, and ours.
        let result =
            unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) };
        let len = check_len(result).ok()?;
        let number = info.get(..len)?.first_chunk::<4>()?;
        if u32::from_ne_bytes(*number) == libc::SIGINT as u32 {
            Some(Signal::Interrupt)
        } else {
            Some(Signal::Terminate)
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
