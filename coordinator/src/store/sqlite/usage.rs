//! What devices' bytes were for.

use rusqlite::{Row, params};
use weft_wire::id::DeviceId;

use crate::domain::usage::{DayUsage, Growth, KEPT_DAYS};
use crate::store::{Answer, StoreError, Usages};

use super::SqliteStore;
use super::row::{all, get, number, number_or_none, one, run, signed, time};
use super::writer::Unit;

fn usage(row: &Row<'_>) -> Result<DayUsage, StoreError> {
    Ok(DayUsage {
        device: DeviceId(number(row, "device")?),
        day: number(row, "day")?,
        at: time(row, "at")?,
        control: number(row, "control")?,
        keepalive: number(row, "keepalive")?,
        probe: number(row, "probe")?,
        relay_overhead: number(row, "relay_overhead")?,
        payload: number(row, "payload")?,
        budget: number_or_none(row, "budget")?,
        metered: get(row, "metered")?,
        used_up: get(row, "used_up")?,
    })
}

/// A device that lost some of its day (a power cut) goes on from what it wrote
/// down: what it has said already holds.
fn report(unit: &mut Unit<'_>, usage: &DayUsage) -> Result<Growth, StoreError> {
    let conn = unit.conn;
    let sql = "SELECT * FROM data_usage WHERE device = ?1 AND day = ?2";
    let known = one(conn, sql, params![usage.device.0, usage.day], self::usage)?;
    // It may have been deleted meanwhile.
    let kept = run(
        conn,
        "INSERT INTO data_usage (device, day, at, control, keepalive, probe, relay_overhead,
            payload, budget, metered, used_up)
         SELECT device, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 FROM agent WHERE device = ?1
         ON CONFLICT (device, day) DO UPDATE SET
            at = excluded.at,
            control = max(control, excluded.control),
            keepalive = max(keepalive, excluded.keepalive),
            probe = max(probe, excluded.probe),
            relay_overhead = max(relay_overhead, excluded.relay_overhead),
            payload = max(payload, excluded.payload),
            budget = excluded.budget,
            metered = excluded.metered,
            used_up = excluded.used_up",
        params![
            usage.device.0,
            usage.day,
            signed(usage.at.0),
            signed(usage.control),
            signed(usage.keepalive),
            signed(usage.probe),
            signed(usage.relay_overhead),
            signed(usage.payload),
            usage.budget.map(signed),
            usage.metered,
            usage.used_up,
        ],
    )?;
    if kept == 0 {
        return Ok(Growth::default());
    }
    run(
        conn,
        "DELETE FROM data_usage WHERE device = ?1 AND day <= ?2",
        params![usage.device.0, i64::from(usage.day) - i64::from(KEPT_DAYS)],
    )?;
    Ok(usage.since(known.as_ref()))
}

impl Usages for SqliteStore {
    fn report_usage(&self, usage: DayUsage) -> Answer<'_, Growth> {
        Box::pin(self.write(move |unit| report(unit, &usage)))
    }

    fn usage_of(&self, device: DeviceId) -> Answer<'_, Vec<DayUsage>> {
        let sql = "SELECT * FROM data_usage WHERE device = ?1 ORDER BY day DESC";
        self.read(move |conn, _| all(conn, sql, [device.0], usage))
    }

    fn usage_on(&self, day: u32) -> Answer<'_, Vec<DayUsage>> {
        let sql = "SELECT * FROM data_usage WHERE day = ?1 ORDER BY device";
        self.read(move |conn, _| all(conn, sql, [day], usage))
    }

    fn used_up_on(&self, day: u32) -> Answer<'_, u64> {
        let sql = "SELECT COUNT(*) AS devices FROM data_usage WHERE day = ?1 AND used_up = 1";
        self.read(move |conn, _| {
            Ok(one(conn, sql, [day], |row| number(row, "devices"))?.unwrap_or_default())
        })
    }
}
