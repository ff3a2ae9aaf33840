//! Enrolment keys.

use rusqlite::{Connection, params};
use weft_wire::id::{DeviceId, KeyId};

use crate::domain::audit::Action;
use crate::domain::device::{Decision, Standing, numbered_name};
use crate::domain::key::{EnrolmentKey, NewKey};
use crate::store::{Answer, By, KeyRevoked, Keys, StoreError, What};

use super::row::{self, KEY, all, key_number, number, one, run, signed};
use super::writer::Unit;
use super::{SqliteStore, audit, devices, networks};

pub(super) fn find(conn: &Connection, id: KeyId) -> Result<Option<EnrolmentKey>, StoreError> {
    one(conn, &format!("{KEY} WHERE id = ?1"), [key_number(id)], row::key)
}

fn load(conn: &Connection, id: KeyId) -> Result<EnrolmentKey, StoreError> {
    find(conn, id)?.ok_or(StoreError::NotFound(What::Key))
}

fn create(unit: &mut Unit<'_>, new: NewKey, by: &By) -> Result<EnrolmentKey, StoreError> {
    let conn = unit.conn;
    let network = networks::load(conn, new.network)?;
    let taken = |name: &str| {
        one(
            conn,
            "SELECT 1 FROM enrolment_key WHERE organisation = ?1 AND name = ?2 AND revoked IS NULL",
            params![network.organisation.0, name],
            |_| Ok(()),
        )
        .map(|row| row.is_some())
    };
    let name = match new.name {
        Some(name) if taken(&name)? => return Err(StoreError::NameTaken { what: What::Key, name }),
        Some(name) => name,
        None => {
            let mut n = 1;
            while taken(&numbered_name("key", n))? {
                n += 1;
            }
            numbered_name("key", n)
        }
    };
    run(
        conn,
        "INSERT INTO enrolment_key (id, organisation, network, name, master, max_uses, expires,
            tags, needs_approval, generation, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            key_number(new.id),
            network.organisation.0,
            network.id.0,
            name,
            new.master,
            new.max_uses,
            new.expires.map(|at| signed(at.0)),
            new.tags.to_string(),
            new.needs_approval,
            new.generation,
            signed(by.at.0),
        ],
    )?;
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let detail = vec![
        ("name", name),
        ("network", network.name),
        ("max_uses", or_none(new.max_uses.map(|uses| uses.to_string()))),
        ("expires", or_none(new.expires.map(|at| at.to_string()))),
        ("tags", new.tags.to_string()),
        ("needs_approval", new.needs_approval.to_string()),
    ];
    let action = Action { action: "key.create", subject: new.id.to_string(), detail };
    audit::append(conn, network.organisation, &action, by)?;
    load(conn, new.id)
}

fn devices_of(conn: &Connection, id: KeyId) -> Result<Vec<DeviceId>, StoreError> {
    all(conn, "SELECT device FROM agent WHERE key = ?1 ORDER BY device", [key_number(id)], |row| {
        number(row, "device").map(DeviceId)
    })
}

fn revoke(
    unit: &mut Unit<'_>,
    id: KeyId,
    and_devices: bool,
    by: &By,
) -> Result<KeyRevoked, StoreError> {
    let key = load(unit.conn, id)?;
    if key.revoked.is_none() {
        run(
            unit.conn,
            "UPDATE enrolment_key SET revoked = ?2 WHERE id = ?1",
            params![key_number(id), signed(by.at.0)],
        )?;
        let detail = vec![("name", key.name.clone()), ("and_devices", and_devices.to_string())];
        let action = Action { action: "key.revoke", subject: id.to_string(), detail };
        audit::append(unit.conn, key.organisation, &action, by)?;
    }
    let mut devices = devices_of(unit.conn, id)?;
    if and_devices {
        let mut blocked = Vec::with_capacity(devices.len());
        for device in devices {
            let standing = devices::load(unit.conn, device)?.standing;
            let reason = format!("key {} was revoked", key.name);
            let decision = match standing {
                Standing::Active | Standing::Quarantined => Decision::Block { reason },
                Standing::Pending => Decision::Reject { reason },
                Standing::Blocked | Standing::Rejected => continue,
            };
            devices::decide(unit, device, decision, None, by)?;
            blocked.push(device);
        }
        devices = blocked;
    }
    Ok(KeyRevoked { key: load(unit.conn, id)?, devices })
}

impl Keys for SqliteStore {
    fn create_key(&self, new: NewKey, by: By) -> Answer<'_, EnrolmentKey> {
        Box::pin(self.write(move |unit| create(unit, new, &by)))
    }

    fn keys(&self) -> Answer<'_, Vec<EnrolmentKey>> {
        self.read(|conn, _| all(conn, &format!("{KEY} ORDER BY created DESC, id"), [], row::key))
    }

    fn key(&self, id: KeyId) -> Answer<'_, Option<EnrolmentKey>> {
        self.read(move |conn, _| find(conn, id))
    }

    fn revoke_key(&self, id: KeyId, and_devices: bool, by: By) -> Answer<'_, KeyRevoked> {
        Box::pin(self.write(move |unit| revoke(unit, id, and_devices, &by)))
    }

    fn devices_of_key(&self, id: KeyId) -> Answer<'_, Vec<DeviceId>> {
        self.read(move |conn, _| devices_of(conn, id))
    }
}
