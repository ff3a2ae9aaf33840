//! Hears when links, addresses or routes change. It does not say what: the one
//! who asked reads the tables anew, once the changes have come to rest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::net::netlink::Netlink;

/// A change is followed by more within this time: a link that comes up gets its
/// addresses and routes one by one.
pub(crate) const SETTLE_US: u64 = 100_000;

/// Listens to the kernel's announcements.
pub(crate) struct Monitor {
    netlink: Netlink,
    /// When to look, in microseconds since boot.
    due: Option<u64>,
}

impl Monitor {
    /// # Errors
    ///
    /// What opening a netlink socket reports.
    pub(crate) fn open() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        Ok(Self { netlink: Netlink::subscribe(groups)?, due: None })
    }

    /// Reads announcements; the first of a series starts the wait for its end.
    pub(crate) fn handle_readable(&mut self, now_us: u64) {
        if self.netlink.drain() && self.due.is_none() {
            self.due = Some(now_us + SETTLE_US);
        }
    }

    /// When [`Self::is_due`] becomes true, in microseconds since boot.
    pub(crate) const fn deadline(&self) -> Option<u64> {
        self.due
    }

    /// Whether it is time to read the tables; says so once per series.
    pub(crate) fn is_due(&mut self, now_us: u64) -> bool {
        let due = self.due.is_some_and(|due| due <= now_us);
        if due {
            self.due = None;
        }
        due
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}
