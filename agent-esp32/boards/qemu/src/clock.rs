//! Time: the machine's timer at 10 MHz, told in microseconds.

use core::cell::RefCell;
use core::task::Waker;

use critical_section::{CriticalSection, Mutex};
use embassy_time_driver::Driver;
use embassy_time_queue_utils::Queue;
use riscv::interrupt::Interrupt;

/// The core-local interruptor of the machine (QEMU's `hw/riscv/virt.c`).
const MTIME: *const u32 = 0x0200_BFF8 as *const u32;
const MTIMECMP: *mut u32 = 0x0200_4000 as *mut u32;
/// Steps of the timer in a microsecond.
const STEPS: u64 = 10;

struct Clock {
    queue: Mutex<RefCell<Queue>>,
}

embassy_time_driver::time_driver_impl!(static CLOCK: Clock = Clock {
    queue: Mutex::new(RefCell::new(Queue::new())),
});

fn steps() -> u64 {
    loop {
        // SAFETY: both halves of the timer, which can be read at all times.
        let (high, low, again) = unsafe {
            let high = MTIME.add(1).read_volatile();
            (high, MTIME.read_volatile(), MTIME.add(1).read_volatile())
        };
        if high == again {
            return u64::from(high) << 32 | u64::from(low);
        }
    }
}

impl Clock {
    /// Whether the alarm is set: not for a time that has passed.
    fn set_alarm(&self, _: CriticalSection<'_>, at: u64) -> bool {
        let steps_at = at.saturating_mul(STEPS);
        // SAFETY: the comparison's halves; the first write keeps it from firing between
        // the other two.
        unsafe {
            MTIMECMP.add(1).write_volatile(u32::MAX);
            MTIMECMP.write_volatile(steps_at as u32);
            MTIMECMP.add(1).write_volatile((steps_at >> 32) as u32);
        }
        at > self.now()
    }

    fn wake(&self, section: CriticalSection<'_>) {
        let mut queue = self.queue.borrow(section).borrow_mut();
        let mut next = queue.next_expiration(self.now());
        while !self.set_alarm(section, next) {
            next = queue.next_expiration(self.now());
        }
    }
}

impl Driver for Clock {
    fn now(&self) -> u64 {
        steps() / STEPS
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        critical_section::with(|section| {
            let changed = self.queue.borrow(section).borrow_mut().schedule_wake(at, waker);
            if changed {
                self.wake(section);
            }
        });
    }
}

#[riscv_rt::core_interrupt(Interrupt::MachineTimer)]
fn machine_timer() {
    critical_section::with(|section| CLOCK.wake(section));
}

/// Lets the timer interrupt.
pub(crate) fn start() {
    critical_section::with(|section| CLOCK.set_alarm(section, u64::MAX / STEPS));
    // SAFETY: its handler is above, and nothing here counts on its absence.
    unsafe { riscv::interrupt::enable_interrupt(Interrupt::MachineTimer) };
}
