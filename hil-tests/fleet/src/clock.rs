//! The one place where the fleet reads a clock.

use std::sync::OnceLock;

use tokio::time::{Duration, Instant};
use weft_agent_core::time::Instant as CoreInstant;

static START: OnceLock<Instant> = OnceLock::new();

/// Now.
#[expect(clippy::disallowed_methods, reason = "the fleet measures a real program in real time")]
pub(crate) fn now() -> Instant {
    std::time::Instant::now().into()
}

/// The instant of microsecond 0: when it was first asked for.
fn start() -> Instant {
    *START.get_or_init(now)
}

/// Microseconds since the start.
pub(crate) fn micros() -> u64 {
    u64::try_from((now() - start()).as_micros()).unwrap_or(u64::MAX)
}

/// Now, as the agent's core counts.
pub(crate) fn core_now() -> CoreInstant {
    CoreInstant::from_micros(micros())
}

/// The instant of a microsecond since the start; one that is too far away to be
/// waited for is a day away.
pub(crate) fn at(micros: u64) -> Instant {
    let start = start();
    let furthest = now() + Duration::from_secs(86_400);
    start.checked_add(Duration::from_micros(micros)).map_or(furthest, |at| at.min(furthest))
}
