//! The mesh interface: one TUN device that lives as long as its descriptor.
//!
//! It is not made persistent, so the kernel removes it with every address and
//! route on it when this process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::os::check;

/// Where the kernel's TUN driver is.
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// The longest interface name, in bytes.
pub(crate) const NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// An open TUN device.
pub(crate) struct Tun {
    file: File,
}

impl Tun {
    /// Makes the interface `name`, down and without addresses.
    ///
    /// # Errors
    ///
    /// `NotFound` without a TUN driver, `PermissionDenied` without the right,
    /// `ResourceBusy` when another program holds the name.
    pub(crate) fn create(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() > NAME_LEN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE)?;
        // SAFETY: a zeroed ifreq is valid; the name fits with its final zero;
        // TUNSETIFF reads and writes one ifreq.
        unsafe {
            let mut request: libc::ifreq = core::mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
            check(libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request))?;
        }
        Ok(Self { file })
    }

    /// Reads one packet into the front of `out`; `None` when there is none now.
    ///
    /// # Errors
    ///
    /// What `read(2)` reports (`EBADFD` once the interface was deleted).
    pub(crate) fn read(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        match self.file.read(out) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands one packet to the host.
    ///
    /// # Errors
    ///
    /// What `write(2)` reports.
    pub(crate) fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        self.file.write(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
