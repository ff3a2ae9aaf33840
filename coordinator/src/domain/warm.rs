//! Ways that are kept open while nobody talks, as an operator wants it.

use weft_wire::id::DeviceId;

use super::time::UnixMs;

/// Two devices that keep the way to each other open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmPair {
    /// The one with the lower id.
    pub a: DeviceId,
    /// The other one.
    pub b: DeviceId,
    /// Since when.
    pub since: UnixMs,
}
