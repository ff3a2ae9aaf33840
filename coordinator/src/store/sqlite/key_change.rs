//! The coordinator's own key: announced in every map, then changed.

use rusqlite::{Connection, Row, params};
use weft_noise::mac;
use weft_wire::id::{NetworkId, OrganisationId, PublicKey};

use crate::domain::audit::Action;
use crate::domain::key_change::{KeyChange, Unheard};
use crate::domain::time::UnixMs;
use crate::store::{Answer, By, KeyChanges, StoreError};

use super::row::{all, bytes, damaged, get, number, number_or_none, one, run, signed};
use super::writer::{Touch, Unit};
use super::{SqliteStore, audit, maps};

/// Devices that are named; the others are counted.
const NAMED: u32 = 8;

/// Agents with the map that tells each of the next key.
const LISTENERS: &str = "FROM agent a JOIN device d ON d.id = a.device
    JOIN network n ON n.id = d.network WHERE n.next_pin IS NOT NULL";

fn count(conn: &Connection, which: &str) -> Result<u32, StoreError> {
    let sql = format!("SELECT count(*) AS number {LISTENERS} AND {which}");
    Ok(one(conn, &sql, [], |row| number(row, "number"))?.unwrap_or(0))
}

fn state(conn: &Connection) -> Result<KeyChange, StoreError> {
    let read = |row: &Row<'_>| {
        Ok((
            PublicKey(bytes(row, "coordinator")?),
            number(row, "generation")?,
            number_or_none(row, "announced")?.map(UnixMs),
        ))
    };
    let (current, generation, announced) =
        one(conn, "SELECT coordinator, generation, announced FROM installation", [], read)?
            .ok_or_else(|| damaged("installation", "no row"))?;
    let pin = "SELECT next_pin FROM network WHERE next_pin IS NOT NULL LIMIT 1";
    let next = one(conn, pin, [], |row| bytes(row, "next_pin").map(PublicKey))?;
    // That a device applied a map is written when it says that it has kept it.
    let late = "a.applied < n.next_pin_revision";
    let names = format!(
        "SELECT d.name {LISTENERS} AND {late} AND d.standing = 'active' ORDER BY d.name LIMIT {NAMED}"
    );
    Ok(KeyChange {
        generation,
        current,
        next,
        announced,
        heard: count(conn, &format!("d.standing = 'active' AND NOT ({late})"))?,
        unheard: Unheard {
            active: count(conn, &format!("d.standing = 'active' AND {late}"))?,
            others: count(conn, &format!("d.standing <> 'active' AND {late}"))?,
            names: all(conn, &names, [], |row| get(row, "name"))?,
        },
    })
}

fn every_network(conn: &Connection) -> Result<Vec<(NetworkId, OrganisationId)>, StoreError> {
    all(conn, "SELECT id, organisation FROM network ORDER BY id", [], |row| {
        Ok((NetworkId(number(row, "id")?), OrganisationId(number(row, "organisation")?)))
    })
}

/// Writes a row into every organisation's chain: the key is all of theirs.
fn record(
    conn: &Connection,
    action: &'static str,
    detail: &[(&'static str, String)],
    by: &By,
) -> Result<(), StoreError> {
    let organisations = all(conn, "SELECT id FROM organisation ORDER BY id", [], |row| {
        number(row, "id").map(OrganisationId)
    })?;
    organisations.into_iter().try_for_each(|organisation| {
        let subject = "installation".to_owned();
        let action = Action { action, subject, detail: detail.to_vec() };
        audit::append(conn, organisation, &action, by)
    })
}

fn announce(unit: &mut Unit<'_>, next: PublicKey, by: &By) -> Result<KeyChange, StoreError> {
    let before = state(unit.conn)?;
    if before.next == Some(next) && before.announced.is_some() {
        return Ok(before);
    }
    for (network, _) in every_network(unit.conn)? {
        let revision = maps::log_network(unit, network)?;
        run(
            unit.conn,
            "UPDATE network SET next_pin = ?2, next_pin_revision = ?3 WHERE id = ?1",
            params![network.0, next.0, signed(revision.0)],
        )?;
        unit.touch(Touch::Network(network));
    }
    run(unit.conn, "UPDATE installation SET announced = ?1", [signed(by.at.0)])?;
    let detail = [
        ("current", mac::fingerprint(&before.current).to_string()),
        ("next", mac::fingerprint(&next).to_string()),
    ];
    record(unit.conn, "installation.key-announce", &detail, by)?;
    state(unit.conn)
}

/// What was announced is done: nothing is left to be told.
fn switched(
    unit: &mut Unit<'_>,
    key: PublicKey,
    generation: u32,
    by: &By,
) -> Result<(), StoreError> {
    let before = state(unit.conn)?;
    if before.current == key {
        return Ok(());
    }
    for (network, _) in every_network(unit.conn)? {
        maps::log_network(unit, network)?;
        unit.touch(Touch::Network(network));
    }
    run(unit.conn, "UPDATE network SET next_pin = NULL, next_pin_revision = 0", [])?;
    run(
        unit.conn,
        "UPDATE installation SET coordinator = ?1, generation = ?2, announced = NULL",
        params![key.0, generation],
    )?;
    let detail = [
        ("before", mac::fingerprint(&before.current).to_string()),
        ("after", mac::fingerprint(&key).to_string()),
        ("generation", generation.to_string()),
        ("heard", before.heard.to_string()),
        ("cut_off", before.unheard.active.to_string()),
    ];
    record(unit.conn, "installation.key-switch", &detail, by)
}

impl KeyChanges for SqliteStore {
    fn key_change(&self) -> Answer<'_, KeyChange> {
        self.read(|conn, _| state(conn))
    }

    fn announce_key(&self, next: PublicKey, by: By) -> Answer<'_, KeyChange> {
        Box::pin(self.write(move |unit| announce(unit, next, &by)))
    }

    fn key_switched(&self, key: PublicKey, generation: u32, by: By) -> Answer<'_, ()> {
        Box::pin(self.write(move |unit| switched(unit, key, generation, &by)))
    }
}
