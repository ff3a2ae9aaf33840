//! The terminal's width.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::os::check;

/// Columns of the terminal behind a descriptor, or `None` when it is none.
pub(crate) fn width(stream: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    check(result).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}
