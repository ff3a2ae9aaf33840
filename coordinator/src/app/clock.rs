//! The system's clock and randomness.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::domain::time::UnixMs;
use crate::service::clock::Clock;
use crate::service::random::Random;

/// 2024-01-01: a clock before this was never set.
const SET_SINCE_MS: u64 = 1_704_067_200_000;

/// The system's time of day.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "here the clock is read")]
    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        if ms < SET_SINCE_MS { 0 } else { ms }
    }
}

impl SystemClock {
    /// The day that the system believes it is, whether it was set or not.
    #[expect(clippy::disallowed_methods, reason = "here the clock is read")]
    pub(crate) fn date(&self) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).to_string();
        at.split(['T', ' ']).next().unwrap_or_default().to_owned()
    }
}

/// Now, on the clock that only rises.
#[expect(clippy::disallowed_methods, reason = "here the clock is read")]
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// The system's randomness. A program whose source is broken must not go on.
pub(crate) const RANDOM: Random = Random(|out| {
    if getrandom::fill(out).is_err() {
        std::process::abort();
    }
});
