//! The wall clock as an argument.

/// Tells the time of day. `app` gives the one that reads the system's; tests
/// give their own.
pub trait Clock: Send + Sync + 'static {
    /// Unix time in milliseconds; 0 = the clock is not set.
    fn unix_ms(&self) -> u64;
}
