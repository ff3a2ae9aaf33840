//! Pairs of devices that keep the way to each other open.

use rusqlite::{Row, params};
use weft_wire::id::DeviceId;

use crate::domain::audit::Action;
use crate::domain::device::Device;
use crate::domain::warm::WarmPair;
use crate::store::{Answer, By, StoreError, Warmth, What};

use super::row::{all, number, run, signed, time};
use super::writer::{Touch, Unit};
use super::{SqliteStore, audit, devices, maps};

fn pair(row: &Row<'_>) -> Result<WarmPair, StoreError> {
    Ok(WarmPair {
        a: DeviceId(number(row, "low")?),
        b: DeviceId(number(row, "high")?),
        since: time(row, "since")?,
    })
}

/// Both hear of each other anew, and nobody else does.
fn touch(unit: &mut Unit<'_>, device: &Device) -> Result<(), StoreError> {
    if !device.is_active() {
        return Ok(());
    }
    maps::log_device(unit, device.network, device.id, Some(&device.tags))?;
    unit.touch(Touch::Own { network: device.network, device: device.id });
    Ok(())
}

fn keep_warm(
    unit: &mut Unit<'_>,
    (a, b): (DeviceId, DeviceId),
    is_wanted: bool,
    by: &By,
) -> Result<bool, StoreError> {
    let (a, b) = (devices::load(unit.conn, a.min(b))?, devices::load(unit.conn, a.max(b))?);
    if a.id == b.id || a.network != b.network || a.agent().is_none() || b.agent().is_none() {
        return Err(StoreError::NotFound(What::Device));
    }
    let changed = if is_wanted {
        run(
            unit.conn,
            "INSERT INTO warm_pair (low, high, since) VALUES (?1, ?2, ?3)
             ON CONFLICT (low, high) DO NOTHING",
            params![a.id.0, b.id.0, signed(by.at.0)],
        )?
    } else {
        let sql = "DELETE FROM warm_pair WHERE low = ?1 AND high = ?2";
        run(unit.conn, sql, params![a.id.0, b.id.0])?
    };
    if changed == 0 {
        return Ok(false);
    }
    touch(unit, &a)?;
    touch(unit, &b)?;
    let action = Action {
        action: if is_wanted { "policy.warm" } else { "policy.unwarm" },
        subject: a.id.to_string(),
        detail: vec![("name", a.name), ("peer", b.id.to_string()), ("peer_name", b.name)],
    };
    audit::append(unit.conn, a.organisation, &action, by)?;
    Ok(true)
}

impl Warmth for SqliteStore {
    fn keep_warm(&self, a: DeviceId, b: DeviceId, is_wanted: bool, by: By) -> Answer<'_, bool> {
        Box::pin(self.write(move |unit| keep_warm(unit, (a, b), is_wanted, &by)))
    }

    fn warm_pairs(&self) -> Answer<'_, Vec<WarmPair>> {
        self.read(|conn, _| all(conn, "SELECT * FROM warm_pair ORDER BY low, high", [], pair))
    }
}
