//! What devices' bytes were for, day by day, as each of them counts them.

use weft_wire::id::DeviceId;

use super::time::{DAY_MS, UnixMs};

/// Days of one device that are kept, the newest.
pub const KEPT_DAYS: u32 = 35;

/// One device's day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayUsage {
    /// Whose.
    pub device: DeviceId,
    /// Days since 1970-01-01, in UTC.
    pub day: u32,
    /// When it said so last.
    pub at: UnixMs,
    /// The line to the coordinator.
    pub control: u64,
    /// Ways that were kept open while nobody talked.
    pub keepalive: u64,
    /// Looking for ways, asking whether they stand.
    pub probe: u64,
    /// What relays were asked, and put around packets.
    pub relay_overhead: u64,
    /// Tunnels.
    pub payload: u64,
    /// The device's budget of the day for all but payload.
    pub budget: Option<u64>,
    /// Bytes cost money where it is, so that the budget binds.
    pub metered: bool,
    /// It was used up.
    pub used_up: bool,
}

impl DayUsage {
    /// `2026-11-27`.
    pub fn date(&self) -> String {
        UnixMs(u64::from(self.day) * DAY_MS).to_string().chars().take(10).collect()
    }

    /// Everything but payload: what a budget is for.
    pub const fn overhead(&self) -> u64 {
        let own = self.control.saturating_add(self.keepalive).saturating_add(self.probe);
        own.saturating_add(self.relay_overhead)
    }
}
