//! What devices report of their bytes.

use weft_wire::id::DeviceId;
use weft_wire::telemetry::DataUsage;

use crate::domain::time::UnixMs;
use crate::domain::usage::DayUsage;

/// What a report that came at `now` says; `None` of a day that is not now. A day that
/// has just ended is one while reports of it are on their way.
pub(super) fn reported(device: DeviceId, told: &DataUsage, now: UnixMs) -> Option<DayUsage> {
    let today = now.day();
    let days = today.saturating_sub(1)..=today.saturating_add(1);
    days.contains(&told.day).then_some(DayUsage {
        device,
        day: told.day,
        at: now,
        control: told.control,
        keepalive: told.keepalive,
        probe: told.probe,
        relay_overhead: told.relay_overhead,
        payload: told.payload,
        budget: told.budget,
        metered: told.metered,
        used_up: told.used_up,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_days_that_may_be_now_are_believed() {
        let now = UnixMs(20_784 * 86_400_000 + 5);
        let told = |day| DataUsage {
            day,
            control: 1,
            keepalive: 2,
            probe: 3,
            relay_overhead: 4,
            payload: 500,
            budget: None,
            metered: false,
            used_up: false,
        };
        let days = [20_782, 20_783, 20_784, 20_785, 20_786, u32::MAX];
        let believed = days.map(|day| reported(DeviceId(1), &told(day), now).is_some());
        assert_eq!(believed, [false, true, true, true, false, false]);
        let usage = reported(DeviceId(1), &told(20_784), now).unwrap();
        assert_eq!((usage.overhead(), usage.date()), (10, "2026-11-27".to_owned()));
    }
}
