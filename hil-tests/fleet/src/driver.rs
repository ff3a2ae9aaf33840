//! `embassy-time`'s driver for the MQTT client: deadlines become tokio's.
//!
//! Its own driver for Linux keeps at most 128 timers in one thread; a fleet has
//! one per line. A pending timer tells its deadline at every poll, so
//! [`timed`] forgets what was told, polls, and sleeps until the earliest.

use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::{Poll, Waker};

use embassy_time_driver::Driver;

use crate::clock;

thread_local! {
    static EARLIEST: Cell<u64> = const { Cell::new(u64::MAX) };
}

struct TokioDriver;

impl Driver for TokioDriver {
    fn now(&self) -> u64 {
        clock::micros()
    }

    fn schedule_wake(&self, at: u64, _waker: &Waker) {
        EARLIEST.set(EARLIEST.get().min(at));
    }
}

const _: () = assert!(embassy_time_driver::TICK_HZ == 1_000_000, "the driver counts microseconds");

embassy_time_driver::time_driver_impl!(static DRIVER: TokioDriver = TokioDriver);

/// Runs a future whose deadlines are embassy's.
pub(crate) async fn timed<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut sleep = pin!(tokio::time::sleep_until(clock::at(u64::MAX)));
    poll_fn(|context| {
        loop {
            EARLIEST.set(u64::MAX);
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(output);
            }
            let earliest = EARLIEST.get();
            if earliest == u64::MAX {
                return Poll::Pending;
            }
            sleep.as_mut().reset(clock::at(earliest));
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use embassy_time::{Duration, Timer, with_timeout};

    #[tokio::test(flavor = "current_thread")]
    async fn more_timers_than_the_common_driver_holds_end_in_order() {
        let began = clock::micros();
        let timers = (0..1_000u64).map(|number| {
            timed(async move {
                Timer::after(Duration::from_micros(1_000 + number)).await;
                clock::micros() - began > number
            })
        });
        let mut set = tokio::task::JoinSet::new();
        let local = tokio::task::LocalSet::new();
        timers.for_each(|timer| _ = set.spawn_local_on(timer, &local));
        local
            .run_until(async {
                let mut ended = 0;
                while let Some(late_enough) = set.join_next().await {
                    assert!(late_enough.unwrap());
                    ended += 1;
                }
                assert_eq!(ended, 1_000);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_deadline_cuts_what_never_ends() {
        let never = core::future::pending::<()>();
        assert!(timed(with_timeout(Duration::from_millis(2), never)).await.is_err());
    }
}
