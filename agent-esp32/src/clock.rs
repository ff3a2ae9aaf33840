//! The agent's clock: embassy's, which stands still in deep sleep and nowhere else.

use weft_agent_core::time::Instant;

/// Now.
pub(crate) fn now() -> Instant {
    Instant::from_micros(embassy_time::Instant::now().as_micros())
}

/// The same moment as embassy counts it.
pub(crate) const fn embassy(at: Instant) -> embassy_time::Instant {
    embassy_time::Instant::from_micros(at.as_micros())
}
