//! Devices after they came: decisions, names, addresses.

use core::net::IpAddr;

use rusqlite::{Connection, Row, params};
use weft_noise::mac::Fingerprint;
use weft_wire::id::{CommandId, DeviceId, Inbox, NetworkId, PublicKey, Revision};

use crate::domain::audit::Action;
use crate::domain::change::{Gone, StandingChange};
use crate::domain::device::{Decision, Device, NewWireGuard, Standing, Tombstone, standing_word};
use crate::domain::enrolment::{Adopted, Adoption, Enrolled, Enrolment, Refused};
use crate::domain::network::{Network, capacity};
use crate::domain::quarantine::{Heard, Heeded, Quarantine};
use crate::domain::tags::TagSet;
use crate::domain::time::UnixMs;
use crate::store::{Answer, By, Decided, Devices, Known, StoreError, What};

use super::denials::Access;
use super::row::{self, DEVICE, all, bytes, get, number, one, run, signed, time};
use super::writer::{Touch, Unit, affected};
use super::{SqliteStore, adopt, audit, denials, enrol, maps, networks, policies, quarantine};

pub(super) fn find(conn: &Connection, id: DeviceId) -> Result<Option<Device>, StoreError> {
    one(conn, &format!("{DEVICE} WHERE d.id = ?1"), [id.0], row::device)
}

pub(super) fn load(conn: &Connection, id: DeviceId) -> Result<Device, StoreError> {
    find(conn, id)?.ok_or(StoreError::NotFound(What::Device))
}

pub(super) fn by_identity(
    conn: &Connection,
    identity: &PublicKey,
) -> Result<Option<Device>, StoreError> {
    one(conn, &format!("{DEVICE} WHERE a.identity = ?1"), [identity.0], row::device)
}

/// Whether the WireGuard key is, or was, that of another device.
pub(super) fn key_is_anothers(
    conn: &Connection,
    wg_key: &PublicKey,
    own: Option<DeviceId>,
) -> Result<bool, StoreError> {
    let own = own.map_or(0, |id| id.0);
    let sql = "SELECT 1 FROM device WHERE wg_key = ?1 AND id <> ?2
        UNION ALL SELECT 1 FROM device WHERE second_key = ?1 AND id <> ?2
        UNION ALL SELECT 1 FROM tombstone WHERE wg_key = ?1";
    Ok(one(conn, sql, params![wg_key.0, own], |_| Ok(()))?.is_some())
}

pub(super) fn name_is_taken(
    conn: &Connection,
    network: NetworkId,
    name: &str,
) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM device WHERE network = ?1 AND name = ?2";
    Ok(one(conn, sql, params![network.0, name], |_| Ok(()))?.is_some())
}

/// Gives a device an address: the one it held before if that is free, else the
/// next after the last given, so that a freed one rests as long as possible.
pub(super) fn give_address(
    conn: &Connection,
    network: &Network,
    device: DeviceId,
    hint: u32,
    now: UnixMs,
) -> Result<u32, StoreError> {
    end_rests(conn, network.id, now)?;
    let hosts = network.overlay.hosts();
    let next_host =
        one(conn, "SELECT next_host FROM network WHERE id = ?1", [network.id.0], |row| {
            number::<u32>(row, "next_host")
        })?;
    let next_host = next_host.filter(|host| hosts.contains(host)).unwrap_or_else(|| *hosts.start());
    let hinted = hosts.contains(&hint) && is_free(conn, network.id, hint)?;
    let host = if hinted {
        Some(hint)
    } else {
        match free_from(conn, network, next_host)? {
            Some(host) => Some(host),
            None => free_from(conn, network, *hosts.start())?,
        }
    };
    let Some(host) = host else {
        let sql = "SELECT count(*) AS used FROM address WHERE network = ?1";
        let used = one(conn, sql, [network.id.0], |row| number::<u32>(row, "used"))?;
        return Err(StoreError::NetworkFull(used.unwrap_or(0), capacity(&network.overlay)));
    };
    run(
        conn,
        "INSERT INTO address (network, host, device) VALUES (?1, ?2, ?3)",
        params![network.id.0, host, device.0],
    )?;
    if !hinted {
        let after = i64::from(host) + 1;
        run(conn, "UPDATE network SET next_host = ?2 WHERE id = ?1", params![network.id.0, after])?;
    }
    Ok(host)
}

/// Addresses that have rested long enough are free.
pub(super) fn end_rests(
    conn: &Connection,
    network: NetworkId,
    now: UnixMs,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM address WHERE network = ?1 AND rests_until <= ?2";
    run(conn, sql, params![network.0, signed(now.0)])?;
    Ok(())
}

fn is_free(conn: &Connection, network: NetworkId, host: u32) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM address WHERE network = ?1 AND host = ?2";
    Ok(one(conn, sql, params![network.0, host], |_| Ok(()))?.is_none())
}

/// The first free host from `start` on.
fn free_from(conn: &Connection, network: &Network, start: u32) -> Result<Option<u32>, StoreError> {
    if is_free(conn, network.id, start)? {
        return Ok(Some(start));
    }
    one(
        conn,
        "SELECT a.host + 1 AS host FROM address a
         LEFT JOIN address b ON b.network = a.network AND b.host = a.host + 1
         WHERE a.network = ?1 AND a.host >= ?2 AND a.host < ?3 AND b.host IS NULL
         ORDER BY a.host LIMIT 1",
        params![network.id.0, start, *network.overlay.hosts().end()],
        |row| number(row, "host"),
    )
}

fn members_tags(device: &Device) -> Option<TagSet> {
    device.is_active().then(|| device.tags.clone())
}

/// Does what was decided, with everything that follows from it.
pub(super) fn decide(
    unit: &mut Unit<'_>,
    id: DeviceId,
    decision: Decision,
    if_version: Option<u64>,
    by: &By,
) -> Result<Decided, StoreError> {
    let before = load(unit.conn, id)?;
    if if_version.is_some_and(|wanted| wanted != before.version) {
        return Err(StoreError::Changed(before.version));
    }
    let network = networks::load(unit.conn, before.network)?;
    let base = unit.base(network.id)?;
    let standing = decision.standing_after(before.standing).map_err(StoreError::Standing)?;
    if let Some(standing) = standing {
        set_standing(unit, &before, &network, standing, &decision, by)?;
    }
    match &decision {
        Decision::Rename { name } => rename(unit.conn, &before, name)?,
        Decision::Budget { bytes } => set_budget(unit.conn, &before, *bytes)?,
        Decision::Delete | Decision::Leave => {
            remove(unit, &before, &network, decision == Decision::Delete, by)?;
        }
        Decision::Release { is_there } => quarantine::release(unit, &before, *is_there)?,
        _ => {}
    }
    let after = find(unit.conn, id)?;
    let (tags, tags_after) = (members_tags(&before), after.as_ref().and_then(members_tags));
    let is_told = tags.is_some() || tags_after.is_some();
    let touch = match decision {
        // Nobody else is told of it.
        Decision::Budget { .. } => Touch::Own { network: network.id, device: id },
        _ => Touch::Device { network: network.id, device: id, before: tags, after: tags_after },
    };
    let mut reached = Vec::new();
    if is_told {
        maps::log_device(unit, network.id, id, members_tags(&before).as_ref())?;
        let policy = unit.policy(network.id)?;
        let touches = core::slice::from_ref(&touch);
        reached = affected(unit.conn, unit.cache, (network.id, base), &policy, touches)?;
        reached.retain(|device| *device != id);
        unit.touch(touch);
    }
    audit_decision(unit.conn, &before, after.as_ref(), &decision, by)?;
    let revision = maps::revision(unit.conn, network.id)?;
    Ok(Decided { before, after, revision, affected: reached })
}

fn set_standing(
    unit: &mut Unit<'_>,
    device: &Device,
    network: &Network,
    standing: Standing,
    decision: &Decision,
    by: &By,
) -> Result<(), StoreError> {
    let reason = match decision {
        Decision::Reject { reason } | Decision::Block { reason } => reason,
        _ => "",
    };
    run(
        unit.conn,
        "UPDATE device SET standing = ?2, standing_since = ?3, standing_reason = ?4,
            version = version + 1
         WHERE id = ?1",
        params![device.id.0, standing_word(standing), signed(by.at.0), reason],
    )?;
    let joins = standing == Standing::Active;
    if let (true, Some(agent)) = (joins, device.agent()) {
        let needs = policies::needs(&*unit.policy(network.id)?, &device.tags);
        let holds = u32::from(agent.abilities.rules);
        if needs > holds {
            return Err(StoreError::TooManyRules { device: device.name.clone(), holds, needs });
        }
    }
    if joins && device.host.is_none() {
        give_address(unit.conn, network, device.id, 0, by.at)?;
    }
    let access = match standing {
        // Who waits was given no credentials.
        Standing::Active | Standing::Pending => Access::Allowed,
        Standing::Blocked | Standing::Rejected | Standing::Quarantined => Access::Denied,
    };
    denials::set(unit.conn, device, access, by.at)?;
    unit.standing(StandingChange { device: device.id, standing });
    Ok(())
}

fn rename(conn: &Connection, device: &Device, name: &str) -> Result<(), StoreError> {
    if name != device.name && name_is_taken(conn, device.network, name)? {
        return Err(StoreError::NameTaken { what: What::Device, name: name.to_owned() });
    }
    let sql = "UPDATE device SET name = ?2, version = version + 1 WHERE id = ?1";
    run(conn, sql, params![device.id.0, name])?;
    Ok(())
}

fn set_budget(conn: &Connection, device: &Device, bytes: Option<u64>) -> Result<(), StoreError> {
    if device.agent().is_none() {
        return Err(StoreError::NotFound(What::Device));
    }
    let sql = "UPDATE agent SET data_budget = ?2 WHERE device = ?1";
    run(conn, sql, params![device.id.0, bytes.map(signed)])?;
    run(conn, "UPDATE device SET version = version + 1 WHERE id = ?1", [device.id.0])?;
    Ok(())
}

/// Takes a device out; its address rests, and with `tombstone` its keys never
/// come back.
fn remove(
    unit: &mut Unit<'_>,
    device: &Device,
    network: &Network,
    tombstone: bool,
    by: &By,
) -> Result<(), StoreError> {
    run(
        unit.conn,
        "UPDATE address SET device = NULL, rests_until = ?2 WHERE device = ?1",
        params![device.id.0, signed(network.address_rests_until(by.at).0)],
    )?;
    if tombstone {
        run(
            unit.conn,
            "INSERT INTO tombstone (device, network, name, identity, print, wg_key, at)
             SELECT d.id, d.network, d.name, a.identity, a.print, d.wg_key, ?2
             FROM device d LEFT JOIN agent a ON a.device = d.id WHERE d.id = ?1",
            params![device.id.0, signed(by.at.0)],
        )?;
    }
    run(unit.conn, "DELETE FROM device WHERE id = ?1", [device.id.0])?;
    denials::set(unit.conn, device, Access::Gone, by.at)?;
    let inbox = device.agent().map(|agent| agent.inbox);
    unit.gone(Gone { device: device.id, inbox, deleted: tombstone });
    Ok(())
}

fn audit_decision(
    conn: &Connection,
    before: &Device,
    after: Option<&Device>,
    decision: &Decision,
    by: &By,
) -> Result<(), StoreError> {
    let mut detail = vec![("name", before.name.clone())];
    match (decision, after) {
        (Decision::Rename { name }, _) => detail.push(("after", name.clone())),
        (Decision::Budget { bytes }, _) => {
            let told =
                |bytes: Option<u64>| bytes.map_or_else(|| "none".to_owned(), |one| one.to_string());
            let own = before.agent().and_then(|agent| agent.data_budget);
            detail.push(("before", told(own)));
            detail.push(("after", told(*bytes)));
        }
        (_, Some(after)) => {
            detail.push(("before", standing_word(before.standing).to_owned()));
            detail.push(("after", standing_word(after.standing).to_owned()));
        }
        (_, None) => {}
    }
    if let Decision::Reject { reason } | Decision::Block { reason } = decision {
        detail.push(("reason", reason.clone()));
    }
    let action = match decision {
        Decision::Approve => "device.approve",
        Decision::Reject { .. } => "device.reject",
        Decision::Block { .. } => "device.block",
        Decision::Unblock => "device.unblock",
        Decision::Release { .. } => "device.release",
        Decision::Rename { .. } => "device.rename",
        Decision::Budget { .. } => "device.budget",
        Decision::Delete => "device.delete",
        Decision::Leave => "device.leave",
    };
    let action = Action { action, subject: before.id.to_string(), detail };
    audit::append(conn, before.organisation, &action, by)
}

fn known(conn: &Connection, fingerprint: Fingerprint) -> Result<Option<Known>, StoreError> {
    let device = one(conn, &format!("{DEVICE} WHERE a.print = ?1"), [fingerprint.0], row::device)?;
    if let Some(device) = device {
        return Ok(Some(Known::Device(Box::new(device))));
    }
    let sql = format!("{TOMBSTONE} WHERE print = ?1");
    let tombstone = one(conn, &sql, [fingerprint.0], read_tombstone)?;
    Ok(tombstone.map(Known::Tombstone))
}

/// Columns of [`read_tombstone`]; add `WHERE …`.
const TOMBSTONE: &str = "SELECT device, network, name, identity, at FROM tombstone ";

fn read_tombstone(row: &Row<'_>) -> Result<Tombstone, StoreError> {
    let identity: Option<Vec<u8>> = get(row, "identity")?;
    Ok(Tombstone {
        device: DeviceId(number(row, "device")?),
        network: NetworkId(number(row, "network")?),
        name: get(row, "name")?,
        identity: identity.map(|_| bytes(row, "identity").map(PublicKey)).transpose()?,
        at: time(row, "at")?,
    })
}

/// Clears a tombstone: the device's keys may come again.
fn forget(unit: &Unit<'_>, id: DeviceId, by: &By) -> Result<Tombstone, StoreError> {
    let sql = format!("{TOMBSTONE} WHERE device = ?1");
    let tombstone = one(unit.conn, &sql, [id.0], read_tombstone)?;
    let tombstone = tombstone.ok_or(StoreError::NotFound(What::Device))?;
    run(unit.conn, "DELETE FROM tombstone WHERE device = ?1", [id.0])?;
    let network = networks::load(unit.conn, tombstone.network)?;
    let detail = vec![("name", tombstone.name.clone()), ("deleted", tombstone.at.to_string())];
    let action = Action { action: "device.forget", subject: id.to_string(), detail };
    audit::append(unit.conn, network.organisation, &action, by)?;
    Ok(tombstone)
}

fn set_applied(unit: &mut Unit<'_>, id: DeviceId, revision: Revision) -> Result<(), StoreError> {
    run(
        unit.conn,
        "UPDATE agent SET applied = ?2 WHERE device = ?1",
        params![id.0, signed(revision.0)],
    )?;
    unit.applied(id, revision);
    Ok(())
}

fn new_command(
    unit: &Unit<'_>,
    id: DeviceId,
    word: &'static str,
    by: &By,
) -> Result<CommandId, StoreError> {
    let device = load(unit.conn, id)?;
    if device.agent().is_none() {
        return Err(StoreError::NotFound(What::Device));
    }
    let command = one(unit.conn, "SELECT next_command FROM installation", [], |row| {
        number::<u32>(row, "next_command").map(CommandId)
    })?
    .ok_or_else(|| row::damaged("installation", "no row"))?;
    run(unit.conn, "UPDATE installation SET next_command = next_command + 1", [])?;
    let detail =
        vec![("name", device.name), ("command", word.to_owned()), ("id", command.to_string())];
    let action = Action { action: "device.command", subject: id.to_string(), detail };
    audit::append(unit.conn, device.organisation, &action, by)?;
    Ok(command)
}

impl Devices for SqliteStore {
    fn enrol(&self, enrolment: Enrolment, now: UnixMs) -> Answer<'_, Result<Enrolled, Refused>> {
        let work = self.write(move |unit| enrol::enrol(unit, &enrolment, now));
        Box::pin(async move { enrol::told(work.await) })
    }

    fn adopt(&self, adoption: Adoption, now: UnixMs) -> Answer<'_, Result<Adopted, Refused>> {
        let work = self.write(move |unit| adopt::adopt(unit, &adoption, now));
        Box::pin(async move { enrol::told(work.await) })
    }

    fn add_wireguard(&self, new: NewWireGuard, by: By) -> Answer<'_, Device> {
        Box::pin(self.write(move |unit| enrol::add_wireguard(unit, &new, &by)))
    }

    fn decide(
        &self,
        id: DeviceId,
        decision: Decision,
        if_version: Option<u64>,
        by: By,
    ) -> Answer<'_, Decided> {
        Box::pin(self.write(move |unit| decide(unit, id, decision, if_version, &by)))
    }

    fn device(&self, id: DeviceId) -> Answer<'_, Option<Device>> {
        self.read(move |conn, _| find(conn, id))
    }

    fn device_by_identity(&self, identity: PublicKey) -> Answer<'_, Option<Device>> {
        self.read(move |conn, _| by_identity(conn, &identity))
    }

    fn devices_by_name(&self, name: String) -> Answer<'_, Vec<Device>> {
        self.read(move |conn, _| {
            all(
                conn,
                &format!("{DEVICE} WHERE d.name = ?1 ORDER BY d.network"),
                [name],
                row::device,
            )
        })
    }

    fn device_by_host(&self, network: NetworkId, host: u32) -> Answer<'_, Option<Device>> {
        self.read(move |conn, _| {
            let sql = format!("{DEVICE} WHERE address.network = ?1 AND address.host = ?2");
            one(conn, &sql, params![network.0, host], row::device)
        })
    }

    fn agents(&self) -> Answer<'_, u64> {
        self.read(|conn, _| {
            let sql = "SELECT count(*) AS agents FROM agent";
            let agents = one(conn, sql, [], |row| number(row, "agents"))?;
            Ok(agents.unwrap_or(0))
        })
    }

    fn devices(&self) -> Answer<'_, Vec<Device>> {
        self.read(|conn, _| all(conn, &format!("{DEVICE} ORDER BY d.name, d.id"), [], row::device))
    }

    fn known(&self, fingerprint: Fingerprint) -> Answer<'_, Option<Known>> {
        self.read(move |conn, _| known(conn, fingerprint))
    }

    fn tombstones(&self) -> Answer<'_, Vec<Tombstone>> {
        self.read(|conn, _| {
            all(conn, &format!("{TOMBSTONE} ORDER BY name, at, device"), [], read_tombstone)
        })
    }

    fn forget(&self, id: DeviceId, by: By) -> Answer<'_, Tombstone> {
        Box::pin(self.write(move |unit| forget(unit, id, &by)))
    }

    fn hear(&self, id: DeviceId, heard: Heard) -> Answer<'_, Heeded> {
        Box::pin(self.write(move |unit| quarantine::hear(unit, id, &heard)))
    }

    fn hear_copy(
        &self,
        id: DeviceId,
        inbox: Inbox,
        address: Option<IpAddr>,
        at: UnixMs,
    ) -> Answer<'_, Option<(Quarantine, bool)>> {
        Box::pin(self.write(move |unit| quarantine::hear_copy(unit, id, inbox, address, at)))
    }

    fn quarantines(&self, device: Option<DeviceId>) -> Answer<'_, Vec<Quarantine>> {
        self.read(move |conn, _| quarantine::find(conn, device))
    }

    fn set_applied(&self, id: DeviceId, revision: Revision) -> Answer<'_, ()> {
        Box::pin(self.write(move |unit| set_applied(unit, id, revision)))
    }

    fn new_command(&self, id: DeviceId, word: &'static str, by: By) -> Answer<'_, CommandId> {
        Box::pin(self.write(move |unit| new_command(unit, id, word, &by)))
    }
}
