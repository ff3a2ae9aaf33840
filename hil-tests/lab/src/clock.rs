//! The one place where the laboratory reads a clock.

use std::time::Instant;

/// Now.
#[expect(clippy::disallowed_methods, reason = "the laboratory measures real programs in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
