//! Readiness of file descriptors by `poll(2)`, and the eventfd by which a
//! helper thread wakes the control loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::os::check;

/// What one wants to hear about a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Bytes to read, a connection to accept, or the end of the stream.
    pub(crate) readable: bool,
    /// Room to write, or a finished connect.
    pub(crate) writable: bool,
}

impl Interest {
    pub(crate) const READ: Self = Self { readable: true, writable: false };
    pub(crate) const WRITE: Self = Self { readable: false, writable: true };
}

/// The descriptors of one wait. Built anew for each: interest is state of the
/// parts, not of the kernel, so none can be forgotten there.
#[derive(Default)]
pub(crate) struct PollSet {
    entries: Vec<libc::pollfd>,
}

/// A descriptor's place in a [`PollSet`].
#[derive(Clone, Copy)]
pub(crate) struct Place(usize);

impl PollSet {
    /// Forgets all descriptors and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Adds a descriptor, which must stay open until the wait is over.
    pub(crate) fn add(&mut self, fd: BorrowedFd<'_>, interest: Interest) -> Place {
        let mut events = 0;
        if interest.readable {
            events |= libc::POLLIN;
        }
        if interest.writable {
            events |= libc::POLLOUT;
        }
        self.entries.push(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
        Place(self.entries.len() - 1)
    }

    /// Waits until a descriptor is ready or `timeout_us` microseconds passed
    /// (`None`: for ever). A signal ends the wait early, without an error.
    ///
    /// # Errors
    ///
    /// What `ppoll(2)` reports.
    pub(crate) fn wait(&mut self, timeout_us: Option<u64>) -> io::Result<()> {
        let timeout = timeout_us.map(|us| libc::timespec {
            tv_sec: (us / 1_000_000) as libc::time_t,
            tv_nsec: (us % 1_000_000 * 1_000) as libc::c_long,
        });
        let timeout = timeout.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: the entries are ours and their number is right; `timeout`
        // lives until the call returns; no signal mask is given.
        let result = unsafe {
            libc::ppoll(
                self.entries.as_mut_ptr(),
                self.entries.len() as libc::nfds_t,
                timeout,
                core::ptr::null(),
            )
        };
        match check(result) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the last wait found the descriptor ready in any way, errors and
    /// hang-ups included (the next read or write tells which).
    pub(crate) fn is_ready(&self, place: Place) -> bool {
        self.entries.get(place.0).is_some_and(|entry| entry.revents != 0)
    }
}

/// Waits for one descriptor; `false` when the time passed first.
///
/// # Errors
///
/// What `ppoll(2)` reports.
pub(crate) fn wait_one(
    fd: BorrowedFd<'_>,
    interest: Interest,
    timeout_us: Option<u64>,
) -> io::Result<bool> {
    let mut set = PollSet::default();
    let place = set.add(fd, interest);
    set.wait(timeout_us)?;
    Ok(set.is_ready(place))
}

/// A counter of the kernel that becomes readable when a thread raises it.
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a new descriptor that nobody else owns.
        unsafe {
            let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Makes the descriptor readable. Cannot fail in a way that matters: a full
    /// counter is readable already.
    pub(crate) fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes of our own.
        unsafe { libc::write(self.raw(), one.as_ptr().cast(), one.len()) };
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_wakes_and_a_timeout_does_not_look_like_one() {
        let event = EventFd::new().unwrap();
        assert!(!wait_one(event.as_fd(), Interest::READ, Some(1_000)).unwrap());
        event.raise();
        assert!(wait_one(event.as_fd(), Interest::READ, None).unwrap());
    }
}
