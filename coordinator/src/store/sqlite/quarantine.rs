//! Which process of a device is the device, and which a copy.

use core::net::IpAddr;

use rusqlite::{Connection, Row, params};
use weft_wire::id::{DeviceId, Inbox, Instance};

use crate::domain::audit::{Action, Actor};
use crate::domain::change::{Released, StandingChange};
use crate::domain::device::{Agent, Device, Standing};
use crate::domain::quarantine::{Heard, Heeded, PROCESSES, Place, Quarantine, Verdict, place};
use crate::domain::time::UnixMs;
use crate::store::{By, StoreError, What};

use super::row::{all, bytes, get, number, one, run, signed, time};
use super::writer::Unit;
use super::{audit, devices};

const COLUMNS: &str = "SELECT device, inbox, kept, instance, since, address, heard, settled, told
    FROM quarantine ";

fn read(row: &Row<'_>) -> Result<Quarantine, StoreError> {
    let address: Option<String> = get(row, "address")?;
    let told: Option<i64> = get(row, "told")?;
    Ok(Quarantine {
        device: DeviceId(number(row, "device")?),
        inbox: Inbox(bytes(row, "inbox")?),
        kept: Instance(bytes(row, "kept")?),
        instance: Instance(bytes(row, "instance")?),
        since: time(row, "since")?,
        address: address.map(|text| parse(&text)).transpose()?,
        heard: time(row, "heard")?,
        settled: get(row, "settled")?,
        told: told.map(|_| time(row, "told")).transpose()?,
    })
}

fn parse(address: &str) -> Result<IpAddr, StoreError> {
    address.parse().map_err(|_| super::row::damaged("address", address))
}

/// The inboxes of a device, or of all, that copies know.
pub(super) fn find(
    conn: &Connection,
    device: Option<DeviceId>,
) -> Result<Vec<Quarantine>, StoreError> {
    match device {
        Some(device) => {
            let sql = format!("{COLUMNS} WHERE device = ?1 ORDER BY since, inbox");
            all(conn, &sql, [device.0], read)
        }
        None => all(conn, &format!("{COLUMNS} ORDER BY device, since, inbox"), [], read),
    }
}

/// The device and its agent's part.
fn load(conn: &Connection, id: DeviceId) -> Result<(Device, Agent), StoreError> {
    let device = devices::load(conn, id)?;
    let agent = device.agent().cloned().ok_or(StoreError::NotFound(What::Device))?;
    Ok((device, agent))
}

/// A process confirmed a session: judged again, inside the transaction that
/// remembers it.
pub(super) fn hear(unit: &mut Unit<'_>, id: DeviceId, heard: &Heard) -> Result<Heeded, StoreError> {
    let (device, agent) = load(unit.conn, id)?;
    let known = find(unit.conn, Some(id))?;
    let heeded = |verdict| Heeded { duplicates: agent.duplicates, verdict };
    if !matches!(device.standing, Standing::Active | Standing::Pending) {
        return Ok(heeded(Verdict::Member(None)));
    }
    if let Place::Quarantined(copy) = place(&known, agent.inbox, heard.inbox, heard.instance) {
        return Ok(heeded(Verdict::Quarantined(copy)));
    }
    if heard.inbox == agent.inbox {
        let sql = "UPDATE quarantine SET settled = 1 WHERE device = ?1 AND settled = 0";
        run(unit.conn, sql, [id.0])?;
    }
    match agent.instance {
        Some(current) if current == heard.instance => {}
        Some(current) => {
            if is_superseded(unit.conn, id, heard.instance)? {
                return separate(unit, &device, &agent, heard);
            }
            supersede(unit.conn, id, current, heard.at)?;
            set_instance(unit.conn, id, heard)?;
        }
        None => set_instance(unit.conn, id, heard)?,
    }
    let left = known.iter().find(|one| one.inbox == heard.inbox && one.kept == heard.instance);
    Ok(heeded(match left {
        Some(left) => {
            Verdict::Kept { left: Box::new(left.clone()), inbox: agent.inbox, new: false }
        }
        None => {
            let told = known.into_iter().filter(|one| one.told.is_some());
            Verdict::Member(told.max_by_key(|one| one.told).map(Box::new))
        }
    }))
}

fn is_superseded(conn: &Connection, id: DeviceId, instance: Instance) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM process WHERE device = ?1 AND instance = ?2";
    Ok(one(conn, sql, params![id.0, instance.0], |_| Ok(()))?.is_some())
}

fn supersede(
    conn: &Connection,
    id: DeviceId,
    instance: Instance,
    at: UnixMs,
) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO process (device, instance, number, superseded)
        SELECT ?1, ?2, coalesce(max(number), 0) + 1, ?3 FROM process WHERE device = ?1";
    run(conn, sql, params![id.0, instance.0, signed(at.0)])?;
    let sql = "DELETE FROM process WHERE device = ?1 AND number <=
        (SELECT max(number) FROM process WHERE device = ?1) - ?2";
    run(conn, sql, params![id.0, PROCESSES])?;
    Ok(())
}

fn set_instance(conn: &Connection, id: DeviceId, heard: &Heard) -> Result<(), StoreError> {
    let sql = "UPDATE agent SET instance = ?2, instance_since = ?3, instance_from = ?4
        WHERE device = ?1";
    let from = heard.address.map(|address| address.to_string());
    run(conn, sql, params![id.0, heard.instance.0, signed(heard.at.0), from])?;
    Ok(())
}

/// A superseded process is heard again: two machines live. It was there first
/// and is kept; the one that took its place is a copy.
fn separate(
    unit: &mut Unit<'_>,
    device: &Device,
    agent: &Agent,
    heard: &Heard,
) -> Result<Heeded, StoreError> {
    let (conn, id) = (unit.conn, device.id);
    let lost = || super::row::damaged("agent", id);
    let current = agent.instance.ok_or_else(lost)?;
    let sql = "SELECT instance_since, instance_from FROM agent WHERE device = ?1";
    let (since, from) = one(conn, sql, [id.0], |row| {
        Ok((time(row, "instance_since")?, get::<Option<String>>(row, "instance_from")?))
    })?
    .ok_or_else(lost)?;
    let left = Quarantine {
        device: id,
        inbox: heard.inbox,
        kept: heard.instance,
        instance: current,
        since: heard.at,
        address: from.as_deref().map(parse).transpose()?,
        heard: since,
        settled: false,
        told: None,
    };
    run(
        conn,
        "INSERT OR REPLACE INTO quarantine (device, inbox, kept, instance, since, address, heard)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            id.0,
            left.inbox.0,
            left.kept.0,
            left.instance.0,
            signed(left.since.0),
            from,
            signed(left.heard.0)
        ],
    )?;
    supersede(conn, id, current, heard.at)?;
    let sql = "DELETE FROM process WHERE device = ?1 AND instance = ?2";
    run(conn, sql, params![id.0, heard.instance.0])?;
    set_instance(conn, id, heard)?;
    let sql = "UPDATE agent SET inbox = ?2 WHERE device = ?1";
    run(conn, sql, params![id.0, heard.fresh.0])?;
    let duplicates = changed_hands(conn, agent, id)?;
    let unknown = || "unknown".to_owned();
    let detail = vec![
        ("name", device.name.clone()),
        ("kept_from", heard.address.map_or_else(unknown, |address| address.to_string())),
        ("copy_from", from.unwrap_or_else(unknown)),
    ];
    let action = Action { action: "device.clone", subject: id.to_string(), detail };
    let by = By { actor: Actor::coordinator(), at: heard.at };
    audit::append(conn, device.organisation, &action, &by)?;
    let verdict = Verdict::Kept { left: Box::new(left), inbox: heard.fresh, new: true };
    Ok(Heeded { duplicates, verdict })
}

/// Counts that the identity changed hands.
fn changed_hands(conn: &Connection, agent: &Agent, id: DeviceId) -> Result<u32, StoreError> {
    let duplicates = agent.duplicates.saturating_add(1);
    let sql = "UPDATE agent SET duplicates = ?2 WHERE device = ?1";
    run(conn, sql, params![id.0, duplicates])?;
    run(conn, "UPDATE device SET version = version + 1 WHERE id = ?1", [id.0])?;
    Ok(duplicates)
}

/// A copy confirmed a session: where it is, and whether it hears for the first
/// time that it is one. `None` = it is none any more.
pub(super) fn hear_copy(
    unit: &mut Unit<'_>,
    id: DeviceId,
    inbox: Inbox,
    address: Option<IpAddr>,
    at: UnixMs,
) -> Result<Option<(Quarantine, bool)>, StoreError> {
    let (device, _) = load(unit.conn, id)?;
    let known = find(unit.conn, Some(id))?;
    let newest = || known.iter().max_by_key(|one| one.since);
    let Some(copy) = known.iter().find(|one| one.inbox == inbox).or_else(newest) else {
        return Ok(None);
    };
    let first = copy.told.is_none();
    let from = address.map(|address| address.to_string());
    let sql = "UPDATE quarantine SET address = ?3, heard = ?4, told = coalesce(told, ?4)
        WHERE device = ?1 AND inbox = ?2";
    run(unit.conn, sql, params![id.0, copy.inbox.0, from, signed(at.0)])?;
    if first {
        let from = from.unwrap_or_else(|| "unknown".to_owned());
        let detail = vec![("name", device.name), ("from", from)];
        let action = Action { action: "device.quarantine", subject: id.to_string(), detail };
        let by = By { actor: Actor::coordinator(), at };
        audit::append(unit.conn, device.organisation, &action, &by)?;
    }
    let told = copy.told.or(Some(at));
    Ok(Some((Quarantine { address, heard: at, told, ..copy.clone() }, first)))
}

/// Ends the quarantine: nothing is held against any process from now on. The
/// one that is there is remembered, so that it still is the first.
pub(super) fn release(
    unit: &mut Unit<'_>,
    device: &Device,
    is_there: bool,
) -> Result<(), StoreError> {
    let (conn, id) = (unit.conn, device.id);
    let agent = device.agent().ok_or(StoreError::NotQuarantined)?;
    let known = find(conn, Some(id))?;
    if known.is_empty() {
        return Err(StoreError::NotQuarantined);
    }
    run(conn, "DELETE FROM quarantine WHERE device = ?1", [id.0])?;
    run(conn, "DELETE FROM process WHERE device = ?1", [id.0])?;
    if !is_there {
        run(conn, "UPDATE agent SET instance = NULL WHERE device = ?1", [id.0])?;
    }
    changed_hands(conn, agent, id)?;
    unit.released(Released { device: id, inboxes: known.iter().map(|one| one.inbox).collect() });
    unit.standing(StandingChange { device: id, standing: device.standing });
    Ok(())
}
