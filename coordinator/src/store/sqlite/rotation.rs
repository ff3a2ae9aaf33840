//! Rotations of WireGuard keys.

use core::time::Duration;

use rusqlite::{Row, params};
use weft_noise::mac;
use weft_wire::id::{DeviceId, NetworkId, PublicKey, Revision};
use weft_wire::map::SecondKind;

use crate::domain::audit::Action;
use crate::domain::device::{Device, Standing};
use crate::domain::rotation::{NotTaken, Rotation, SecondKey, Step, after};
use crate::domain::time::UnixMs;
use crate::store::{Answer, By, Rotations, StoreError, What};

use super::row::{
    self, DEVICE, all, bytes, damaged, get, number, number_or_none, run, signed, time,
};
use super::writer::{Touch, Unit, affected};
use super::{SqliteStore, audit, devices, maps, networks, policies};

const fn kind_word(kind: SecondKind) -> &'static str {
    match kind {
        SecondKind::Next => "next",
        SecondKind::Previous => "previous",
    }
}

/// The second key in a row of devices.
pub(super) fn second(row: &Row<'_>) -> Result<Option<SecondKey>, StoreError> {
    let kind: Option<String> = get(row, "second_kind")?;
    let Some(kind) = kind else { return Ok(None) };
    let kind = match kind.as_str() {
        "next" => SecondKind::Next,
        "previous" => SecondKind::Previous,
        other => return Err(damaged("second_kind", other)),
    };
    Ok(Some(SecondKey {
        key: PublicKey(bytes(row, "second_key")?),
        kind,
        since: time(row, "second_since")?,
        until: number_or_none(row, "second_until")?.map(UnixMs),
    }))
}

/// The rotation in a row of [`DEVICE`].
pub(super) fn rotation(row: &Row<'_>) -> Result<Rotation, StoreError> {
    Ok(Rotation {
        since: time(row, "key_since")?,
        number: number(row, "key_number")?,
        wanted: number_or_none(row, "key_wanted")?.map(UnixMs),
        second: second(row)?,
        revision: Revision(number(row, "key_revision")?),
    })
}

/// Takes a step; `None` when it is stale and nothing changed.
fn rotate(
    unit: &mut Unit<'_>,
    id: DeviceId,
    step: Step,
    by: &By,
) -> Result<Option<Device>, StoreError> {
    let device = devices::load(unit.conn, id)?;
    let before = (device.wg_key, device.rotation);
    if device.agent().is_none() {
        return Err(StoreError::NotFound(What::Device));
    }
    if step == Step::Ask && !device.is_active() {
        return Err(StoreError::Standing(device.standing));
    }
    if let Step::Report(_, key) = step
        && devices::key_is_anothers(unit.conn, &key, Some(id))?
    {
        return Err(StoreError::KeyInUse);
    }
    let network = networks::load(unit.conn, device.network)?;
    let lease = Duration::from_secs(u64::from(network.lease_s));
    let (active, rotation) = match after(before, step, lease, by.at) {
        Ok(after) => after,
        Err(NotTaken::Stale) => return Ok(None),
        Err(NotTaken::Open) => return Err(StoreError::Rotating(true)),
        Err(NotTaken::Closed) => return Err(StoreError::Rotating(false)),
    };
    let revision = if device.is_active() {
        let tags = Some(device.tags.clone());
        let revision = maps::log_device(unit, network.id, id, tags.as_ref())?;
        let (network, device) = (network.id, id);
        unit.touch(if step.concerns_peers() {
            Touch::Device { network, device, before: tags.clone(), after: tags }
        } else {
            Touch::Own { network, device }
        });
        revision
    } else {
        rotation.revision
    };
    write(unit, id, active, &Rotation { revision, ..rotation })?;
    let mut detail = vec![("name", device.name.clone())];
    if active != device.wg_key {
        detail.push(("before", mac::fingerprint(&device.wg_key).to_string()));
        detail.push(("after", mac::fingerprint(&active).to_string()));
    }
    let action = Action { action: step.action(), subject: id.to_string(), detail };
    audit::append(unit.conn, device.organisation, &action, by)?;
    devices::load(unit.conn, id).map(Some)
}

fn write(
    unit: &Unit<'_>,
    id: DeviceId,
    active: PublicKey,
    rotation: &Rotation,
) -> Result<(), StoreError> {
    let second = rotation.second.as_ref();
    run(
        unit.conn,
        "UPDATE device SET wg_key = ?2, key_since = ?3, key_number = ?4, key_wanted = ?5,
            second_key = ?6, second_kind = ?7, second_since = ?8, second_until = ?9,
            key_revision = ?10, version = version + 1
         WHERE id = ?1",
        params![
            id.0,
            active.0,
            signed(rotation.since.0),
            rotation.number,
            rotation.wanted.map(|at| signed(at.0)),
            second.map(|second| second.key.0),
            second.map(|second| kind_word(second.kind)),
            second.map(|second| signed(second.since.0)),
            second.and_then(|second| second.until).map(|until| signed(until.0)),
            signed(rotation.revision.0),
        ],
    )?;
    Ok(())
}

/// The device took another key by registering anew: no rotation is left.
pub(super) fn begin_anew(unit: &Unit<'_>, id: DeviceId, now: UnixMs) -> Result<(), StoreError> {
    run(
        unit.conn,
        "UPDATE device SET key_since = ?2, key_wanted = NULL, second_key = NULL,
            second_kind = NULL, second_since = NULL, second_until = NULL
         WHERE id = ?1",
        params![id.0, signed(now.0)],
    )?;
    Ok(())
}

impl Rotations for SqliteStore {
    fn rotate(&self, id: DeviceId, step: Step, by: By) -> Answer<'_, Option<Device>> {
        Box::pin(self.write(move |unit| rotate(unit, id, step, &by)))
    }

    fn rotating(&self) -> Answer<'_, Vec<Device>> {
        self.read(|conn, _| {
            let sql = format!(
                "{DEVICE} WHERE d.key_wanted IS NOT NULL OR d.second_key IS NOT NULL ORDER BY d.id"
            );
            all(conn, &sql, [], row::device)
        })
    }

    fn key_listeners(&self, id: DeviceId) -> Answer<'_, Vec<(DeviceId, Revision)>> {
        self.read(move |conn, cache| {
            let device = devices::load(conn, id)?;
            if device.standing != Standing::Active {
                return Ok(Vec::new());
            }
            let base = maps::revision(conn, device.network)?;
            let policy = policies::current(conn, cache, device.network)?.compiled;
            let tags = Some(device.tags.clone());
            let network = device.network;
            let touch = Touch::Device { network, device: id, before: tags.clone(), after: tags };
            let listeners = affected(conn, cache, (network, base), &policy, &[touch])?;
            let sql = "SELECT applied FROM agent WHERE device = ?1";
            let mut applied = Vec::with_capacity(listeners.len());
            for listener in listeners {
                let read = |row: &Row<'_>| number(row, "applied").map(Revision);
                let one = row::one(conn, sql, [listener.0], read)?;
                applied.push((listener, one.unwrap_or_default()));
            }
            Ok(applied)
        })
    }

    fn members_without_agent(&self, network: NetworkId) -> Answer<'_, Vec<DeviceId>> {
        self.read(move |conn, _| {
            let sql = "SELECT d.id FROM wireguard w JOIN device d ON d.id = w.device
                WHERE d.network = ?1 AND d.standing = 'active'";
            all(conn, sql, [network.0], |row| number(row, "id").map(DeviceId))
        })
    }

    fn keys_older_than(&self, before: UnixMs, limit: u32) -> Answer<'_, Vec<DeviceId>> {
        self.read(move |conn, _| {
            let sql = "SELECT d.id FROM device d JOIN agent a ON a.device = d.id
                WHERE d.key_since <= ?1 AND d.standing = 'active' AND d.key_wanted IS NULL
                    AND (d.second_kind IS NULL OR d.second_kind = 'previous')
                ORDER BY d.key_since LIMIT ?2";
            all(conn, sql, params![signed(before.0), limit], |row| number(row, "id").map(DeviceId))
        })
    }
}
