//! The chip's own watchdog: who does not feed it for a while is reset. It runs on a clock
//! of its own, so that it outlives interrupts that are off and a radio driver that hangs.

use core::convert::Infallible;

use embassy_time::Timer;
use esp_hal::peripherals::RTC_TIMER;
use esp_hal::rtc_cntl::{Rtc, RwdtStage};
use esp_hal::time::Duration;

/// Nobody fed it for so long: the chip is reset. A handshake is 11 million instructions, and
/// a block of flash memory takes less than a second; no board has shown how long a start of
/// the radio takes.
const BITES_AFTER: Duration = Duration::from_secs(10);
/// It is fed this often, by the task that everything else runs in: whatever keeps that busy
/// keeps the food away.
const FED_EVERY: embassy_time::Duration = embassy_time::Duration::from_secs(2);

/// A watchdog that watches.
pub(crate) struct Watchdog(Rtc<'static>);

impl Watchdog {
    /// From now on.
    pub(crate) fn start(timer: RTC_TIMER<'static>) -> Self {
        let mut rtc = Rtc::new(timer);
        // Enabled, its first stage resets the chip, radio and all.
        rtc.rwdt.enable();
        rtc.rwdt.set_timeout(RwdtStage::Stage0, BITES_AFTER);
        rtc.rwdt.feed();
        Self(rtc)
    }

    /// Feeds it for ever, as long as somebody polls this.
    pub(crate) async fn feed(&mut self) -> Infallible {
        loop {
            self.0.rwdt.feed();
            Timer::after(FED_EVERY).await;
        }
    }
}
