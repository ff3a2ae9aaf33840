//! Taking devices back that a restored backup does not know.

use rusqlite::{Connection, params};
use weft_noise::mac;
use weft_wire::id::{DeviceId, NetworkId};

use crate::domain::audit::{Action, Actor};
use crate::domain::device::Standing;
use crate::domain::enrolment::{Adopted, Adoption, Refused};
use crate::domain::network::Network;
use crate::domain::tags::TagSet;
use crate::domain::time::UnixMs;
use crate::store::{By, StoreError};

use super::enrol::{Newcomer, NotEnrolled, free_name, insert, tombstone};
use super::row::{get, one, run};
use super::writer::Unit;
use super::{audit, devices, networks};

/// What became of the address that a device held.
enum Address {
    /// It named none, or one that no device can have.
    None,
    /// It is kept for it.
    Kept,
    /// This device has it now.
    Taken(String),
    /// It rests after a device that is gone.
    Resting,
}

/// Takes a device back. What it may do was lost with its row, and so was, if
/// there was one, the decision that shut it out: it waits for an operator, its
/// address with it.
pub(super) fn adopt(
    unit: &mut Unit<'_>,
    adoption: &Adoption,
    now: UnixMs,
) -> Result<Adopted, NotEnrolled> {
    let enrolment = &adoption.enrolment;
    enrolment.check()?;
    if let Some(device) = devices::by_identity(unit.conn, &enrolment.identity)? {
        let network = networks::load(unit.conn, device.network)?;
        return Ok(Adopted { device, network, new: false });
    }
    if let Some(at) = tombstone(unit, &enrolment.identity)? {
        return Err(Refused::Tombstoned { at }.into());
    }
    let network = networks::find(unit.conn, adoption.network)?.ok_or(Refused::NetworkGone)?;
    if devices::key_is_anothers(unit.conn, &enrolment.wg_key, None)? {
        return Err(Refused::KeyInUse.into());
    }
    let name = free_name(unit, &network, &enrolment.name)?;
    let newcomer = Newcomer {
        enrolment,
        name: &name,
        standing: Standing::Pending,
        tags: &TagSet::default(),
        key: (enrolment.key, ""),
    };
    let id = insert(unit, &network, &newcomer, now)?;
    devices::end_rests(unit.conn, network.id, now)?;
    let address = keep_address(unit.conn, &network, id, enrolment.host_hint)?;
    let held = network.overlay.address_v4(enrolment.host_hint).to_string();
    let reason = match &address {
        Address::None => "lost with a restored backup".to_owned(),
        Address::Kept => format!("lost with a restored backup; {held} is kept"),
        Address::Taken(by) => format!("lost with a restored backup; {held} is {by}'s now"),
        Address::Resting => format!("lost with a restored backup; {held} rests"),
    };
    let sql = "UPDATE device SET standing_reason = ?2 WHERE id = ?1";
    run(unit.conn, sql, params![id.0, reason])?;
    let before = adoption.device.to_string();
    let mut detail = vec![
        ("name", name),
        ("before", before),
        ("standing", "pending".to_owned()),
        ("identity", mac::fingerprint(&enrolment.identity).to_string()),
    ];
    match address {
        Address::None => {}
        Address::Kept => detail.push(("kept", held)),
        Address::Taken(_) | Address::Resting => detail.push(("conflict", held)),
    }
    let action = Action { action: "device.adopt", subject: id.to_string(), detail };
    let by = By { actor: Actor::device(id), at: now };
    audit::append(unit.conn, network.organisation, &action, &by)?;
    Ok(Adopted { device: devices::load(unit.conn, id)?, network, new: true })
}

fn keep_address(
    conn: &Connection,
    network: &Network,
    device: DeviceId,
    host: u32,
) -> Result<Address, StoreError> {
    if !network.overlay.hosts().contains(&host) {
        return Ok(Address::None);
    }
    if let Some(other) = holder(conn, network.id, host)? {
        return Ok(other.map_or(Address::Resting, Address::Taken));
    }
    let sql = "INSERT INTO address (network, host, device) VALUES (?1, ?2, ?3)";
    run(conn, sql, params![network.id.0, host, device.0])?;
    Ok(Address::Kept)
}

/// Who has an address: a device, or none while it rests.
fn holder(
    conn: &Connection,
    network: NetworkId,
    host: u32,
) -> Result<Option<Option<String>>, StoreError> {
    let sql = "SELECT d.name FROM address a LEFT JOIN device d ON d.id = a.device
        WHERE a.network = ?1 AND a.host = ?2";
    one(conn, sql, params![network.0, host], |row| get::<Option<String>>(row, "name"))
}
