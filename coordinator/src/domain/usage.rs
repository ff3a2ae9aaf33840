//! What devices' bytes were for, day by day, as each of them counts them.

use weft_wire::id::DeviceId;

use super::time::{DAY_MS, UnixMs};

/// Days of one device that are kept, the newest.
pub const KEPT_DAYS: u32 = 35;

/// What a byte was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The line to the coordinator.
    Control,
    /// Ways that were kept open while nobody talked.
    Keepalive,
    /// Looking for ways, asking whether they stand.
    Probe,
    /// What relays were asked, and put around packets.
    RelayOverhead,
    /// Tunnels.
    Payload,
}

impl Cause {
    /// How many there are.
    pub const COUNT: usize = Self::Payload as usize + 1;

    /// All, in order.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Control, Self::Keepalive, Self::Probe, Self::RelayOverhead, Self::Payload];
}

/// Bytes that a report told of and that were not known before it, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth(pub [u64; Cause::COUNT]);

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

    /// The bytes of each cause.
    pub const fn by_cause(&self) -> [u64; Cause::COUNT] {
        [self.control, self.keepalive, self.probe, self.relay_overhead, self.payload]
    }

    /// What it says beyond what was known of its day. Less than that is a device
    /// that lost some of it, and no byte less.
    pub fn since(&self, known: Option<&Self>) -> Growth {
        let known = known.map(Self::by_cause).unwrap_or_default();
        let mut growth = self.by_cause();
        for (bytes, known) in growth.iter_mut().zip(known) {
            *bytes = bytes.saturating_sub(known);
        }
        Growth(growth)
    }

    /// Everything but payload: what a budget is for.
    pub const fn overhead(&self) -> u64 {
        let own = self.control.saturating_add(self.keepalive).saturating_add(self.probe);
        own.saturating_add(self.relay_overhead)
    }
}
