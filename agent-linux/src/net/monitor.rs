//! Hears when links, addresses or routes change. It does not say what: the one
//! who asked reads the tables anew, once the changes have come to rest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::net::netlink::{Heard, Netlink};

/// A change is followed by more within this time: a link that comes up gets its
/// addresses and routes one by one.
pub(crate) const SETTLE_US: u64 = 100_000;

/// Where only routes change, looks are at least this far apart: reading all of
/// them costs much where there are many.
pub(crate) const ROUTES_US: u64 = 1_000_000;

/// Listens to the kernel's announcements.
pub(crate) struct Monitor {
    netlink: Netlink,
    times: Times,
}

/// When to look, in microseconds since boot.
#[derive(Default)]
struct Times {
    due: Option<u64>,
    looked: Option<u64>,
}

impl Times {
    fn hear(&mut self, heard: Heard, now_us: u64) {
        let settled = now_us + SETTLE_US;
        let due = match heard {
            Heard::Nothing => return,
            Heard::Links => settled,
            Heard::Routes => self.looked.map_or(settled, |at| settled.max(at + ROUTES_US)),
        };
        // A change of links does not wait for a look at routes that is far off.
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    fn is_due(&mut self, now_us: u64) -> bool {
        let due = self.due.is_some_and(|due| due <= now_us);
        if due {
            self.due = None;
            self.looked = Some(now_us);
        }
        due
    }
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
        Ok(Self { netlink: Netlink::subscribe(groups)?, times: Times::default() })
    }

    /// Reads announcements; the first of a series starts the wait for its end.
    pub(crate) fn handle_readable(&mut self, now_us: u64) {
        let heard = self.netlink.drain();
        self.times.hear(heard, now_us);
    }

    /// When [`Self::is_due`] becomes true, in microseconds since boot.
    pub(crate) const fn deadline(&self) -> Option<u64> {
        self.times.due
    }

    /// Whether it is time to read the tables; says so once per series.
    pub(crate) fn is_due(&mut self, now_us: u64) -> bool {
        self.times.is_due(now_us)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn routes_that_flap_are_looked_at_once_a_second() {
        let mut times = Times::default();
        let mut looks = 0;
        for now in (0..3_000_000).step_by(10_000) {
            times.hear(Heard::Routes, now);
            looks += u32::from(times.is_due(now));
        }
        assert_eq!(looks, 3);
        // Another address is looked at as soon as it has come to rest.
        times.hear(Heard::Links, 3_000_000);
        assert!(!times.is_due(3_000_000 + SETTLE_US - 1));
        assert!(times.is_due(3_000_000 + SETTLE_US));
        times.hear(Heard::Nothing, 4_000_000);
        assert_eq!(times.due, None);
    }
}
