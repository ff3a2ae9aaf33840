//! `embassy-time`'s driver for the MQTT client, without a thread of its own.
//!
//! The control loop polls the client's future itself. A pending timer tells its
//! deadline at every poll, so the loop forgets the deadlines, polls, and sleeps
//! until the earliest one that was told.

use core::cell::Cell;
use core::task::Waker;

use embassy_time_driver::Driver;

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
