//! The alarm that ends a wait, and `embassy-time`'s driver for the MQTT client,
//! without a thread of its own.
//!
//! The control loop polls the client's future itself. A pending timer tells its
//! deadline at every poll, so the loop forgets the deadlines, polls, and sleeps
//! until the earliest one that was told.

use core::cell::Cell;
use core::task::Waker;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use embassy_time_driver::Driver;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::os::clock;

thread_local! {
    static EARLIEST: Cell<u64> = const { Cell::new(u64::MAX) };
}

struct LoopDriver;

impl Driver for LoopDriver {
    fn now(&self) -> u64 {
        clock::boot_micros()
    }

    fn schedule_wake(&self, at: u64, _waker: &Waker) {
        EARLIEST.set(EARLIEST.get().min(at));
    }
}

const _: () = assert!(embassy_time_driver::TICK_HZ == 1_000_000, "the driver counts microseconds");

embassy_time_driver::time_driver_impl!(static DRIVER: LoopDriver = LoopDriver);

/// Forgets what this thread's timers told: call it before polling.
pub(crate) fn forget() {
    EARLIEST.set(u64::MAX);
}

/// The earliest deadline told since [`forget`], in microseconds since boot.
pub(crate) fn earliest() -> Option<u64> {
    Some(EARLIEST.get()).filter(|&at| at != u64::MAX)
}

/// An alarm on the clock that counts suspend. The timeout of a wait does not:
/// a machine that slept for a day would notice the end of its lease a day late.
pub(crate) struct Alarm {
    fd: OwnedFd,
    armed: Option<u64>,
}

impl Alarm {
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Self { fd, armed: None })
    }

    /// Makes the descriptor readable at `at`, in microseconds since boot
    /// (`None`: never). It stays so until it is set anew.
    ///
    /// # Errors
    ///
    /// What `timerfd_settime(2)` reports.
    pub(crate) fn set(&mut self, at: Option<u64>) -> io::Result<()> {
        if self.armed == at {
            return Ok(());
        }
        // All zero disarms, so the first microsecond stands for "at once".
        let us = at.map_or(0, |at| at.max(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(us / 1_000_000).unwrap_or(i64::MAX),
            tv_nsec: (us % 1_000_000 * 1_000) as _,
        };
        let spec = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &spec)?;
        self.armed = at;
        Ok(())
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::poll::{Interest, wait_one};

    #[test]
    fn an_alarm_ends_a_wait_and_can_be_moved() {
        let mut alarm = Alarm::new().unwrap();
        alarm.set(Some(clock::boot_micros() + 3_600_000_000)).unwrap();
        assert!(!wait_one(alarm.as_fd(), Interest::READ, Some(0)).unwrap());
        let at = clock::boot_micros() + 2_000;
        alarm.set(Some(at)).unwrap();
        assert!(wait_one(alarm.as_fd(), Interest::READ, None).unwrap());
        assert!(clock::boot_micros() >= at);
        alarm.set(None).unwrap();
        assert!(!wait_one(alarm.as_fd(), Interest::READ, Some(0)).unwrap());
        alarm.set(Some(0)).unwrap();
        assert!(wait_one(alarm.as_fd(), Interest::READ, None).unwrap());
    }
}
