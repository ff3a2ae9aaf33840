//! The database that a run leaves, read without the coordinator's own code.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row};
use weft_wire::id::{DeviceId, KeyId, PublicKey};

use super::history::{DeviceRow, KeyRow, Left};
use crate::failure::{Failure, Result};

/// Reads everything that the history is held against.
pub(super) fn read(path: &Path) -> Result<Left> {
    let read = || -> rusqlite::Result<Left> {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let mut broken = Vec::new();
        if sound != "ok" {
            broken.push(format!("SQLite's check says: {sound}"));
        }
        broken.extend(broken_chain(&conn)?);
        Ok(Left { devices: devices(&conn)?, keys: keys(&conn)?, enrolled: audit(&conn)?, broken })
    };
    read().map_err(|error| {
        Failure::new("fleet.database", format!("cannot read {}", path.display()))
            .line("cause", error.to_string())
    })
}

fn devices(conn: &Connection) -> rusqlite::Result<Vec<DeviceRow>> {
    let sql = "SELECT d.id, d.network, a.identity, a.key, h.host
        FROM device d JOIN agent a ON a.device = d.id LEFT JOIN address h ON h.device = d.id";
    let read = |row: &Row<'_>| {
        Ok(DeviceRow {
            id: DeviceId(row.get(0)?),
            network: row.get(1)?,
            identity: PublicKey(row.get(2)?),
            key: key(row, 3)?,
            host: row.get(4)?,
        })
    };
    conn.prepare(sql)?.query_map([], read)?.collect()
}

fn keys(conn: &Connection) -> rusqlite::Result<Vec<KeyRow>> {
    let sql = "SELECT id, name, uses, max_uses, revoked IS NOT NULL FROM enrolment_key";
    let read = |row: &Row<'_>| {
        Ok(KeyRow {
            id: key(row, 0)?,
            name: row.get(1)?,
            uses: row.get(2)?,
            max_uses: row.get(3)?,
            revoked: row.get(4)?,
        })
    };
    conn.prepare(sql)?.query_map([], read)?.collect()
}

fn key(row: &Row<'_>, at: usize) -> rusqlite::Result<KeyId> {
    let number: i64 = row.get(at)?;
    KeyId::from_bytes(number.to_be_bytes())
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, number))
}

fn audit(conn: &Connection) -> rusqlite::Result<HashMap<String, u32>> {
    let sql = "SELECT subject, count(*) FROM audit WHERE action = 'device.enrol' GROUP BY subject";
    conn.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Whether each audit row follows the one before.
fn broken_chain(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT organisation, seq, prev_hash, hash FROM audit ORDER BY organisation, seq";
    let mut rows = conn.prepare(sql)?;
    let mut rows = rows.query([])?;
    let mut last: (u32, i64, [u8; 32]) = (0, 0, [0; 32]);
    while let Some(row) = rows.next()? {
        let (organisation, seq): (u32, i64) = (row.get(0)?, row.get(1)?);
        if organisation != last.0 {
            last = (organisation, 0, [0; 32]);
        }
        if seq != last.1 + 1 || row.get::<_, [u8; 32]>(2)? != last.2 {
            return Ok(Some(format!("the audit chain is broken at {seq}")));
        }
        last = (organisation, seq, row.get(3)?);
    }
    Ok(None)
}
