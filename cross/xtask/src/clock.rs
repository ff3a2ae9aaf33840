//! The one place where the tasks read a clock.

use std::time::Instant;

/// Now, for the time that a group of tests took.
#[expect(clippy::disallowed_methods, reason = "a tool that prints how long things took")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
