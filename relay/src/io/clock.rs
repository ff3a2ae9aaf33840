//! The one place where the relay reads its clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::proto::turn::Now;

/// Now, on a clock that only goes on.
#[expect(clippy::disallowed_methods, reason = "the shell: proto is driven by this clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Both clocks, as `proto` wants them.
#[expect(clippy::disallowed_methods, reason = "what credentials say is Unix time")]
pub(super) fn since(start: Instant) -> Now {
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    // A clock before 1970 lets every credential in; it was set by this machine's owner.
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Now { ms, unix_s }
}
