//! Backups: a consistent copy of a database that may be in use, and what a copy
//! becomes before it takes a database's place.
//!
//! A copy is marked by a table of its own. Wherever one is opened as a database,
//! by `restore` or because somebody moved it there by hand, it starts a new life
//! first ([`start_anew`]): devices may hold newer maps than it knows, and would
//! take its older revisions for nothing new.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};
use weft_wire::id::{Epoch, OrganisationId, PublicKey};

use crate::domain::audit::{Action, Actor};
use crate::domain::time::UnixMs;
use crate::store::{By, StoreError};

use super::migrate::{self, MigrateError, SCHEMA};
use super::row::signed;
use super::{OpenError, audit, check, configure, relays};

/// The mark of a copy.
const MARK: &str = "CREATE TABLE backup (made INTEGER NOT NULL) STRICT";

/// What a database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Whose it is.
    pub coordinator: PublicKey,
    /// Its life.
    pub epoch: Epoch,
    /// Its schema.
    pub schema: u32,
    /// When it was copied; `None` = it is no backup.
    pub made: Option<UnixMs>,
    /// When something was last written to its audit log.
    pub newest: UnixMs,
    /// How many devices.
    pub devices: u32,
    /// How many networks.
    pub networks: u32,
    /// How many enrolment keys that are not revoked.
    pub keys: u32,
}

/// What a copy became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLife {
    /// Names of enrolment keys that were ended.
    pub ended: Vec<String>,
}

/// A device that an operator put out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOut {
    /// What it is known by: its identity key, or a plain peer's WireGuard key.
    who: [u8; 32],
    /// Its name.
    pub name: String,
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Corrupt(error.to_string())
    }
}

/// Copies the database at `from`, in use or not, into the file `to`, which must
/// not be there. The copy is as of one moment, readable by its owner alone and
/// on the disk when this returns.
///
/// # Errors
///
/// [`OpenError`]; what is at `to` then is nobody's.
pub fn copy(from: &Path, to: &Path, now: UnixMs) -> Result<(), OpenError> {
    if !from.exists() {
        return Err(OpenError::Missing(from.to_owned()));
    }
    let name = to.to_str().ok_or_else(|| {
        OpenError::File(io::Error::new(io::ErrorKind::InvalidInput, "its name is no UTF-8"))
    })?;
    // Its mode first: VACUUM INTO takes an empty file.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(to).map_err(OpenError::File)?;
    let conn = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    conn.busy_timeout(core::time::Duration::from_secs(5))?;
    migrate::schema_of(&conn).map_err(OpenError::Migrate)?;
    // One transaction that reads: what others write meanwhile is not in it.
    conn.execute("VACUUM INTO ?1", [name])?;
    drop(conn);
    let conn = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.execute_batch("DROP TABLE IF EXISTS backup")?;
    conn.execute_batch(MARK)?;
    conn.execute("INSERT INTO backup (made) VALUES (?1)", [signed(now.0)])?;
    conn.close().map_err(|(_, error)| OpenError::Sqlite(error))?;
    OpenOptions::new().read(true).open(to).and_then(|file| file.sync_all()).map_err(OpenError::File)
}

/// Looks at every page of a database, and gives what it holds. Nothing is
/// written to it.
///
/// # Errors
///
/// [`OpenError`], also of a schema that is newer than this program's.
pub fn inspect(path: &Path) -> Result<Contents, OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let schema = migrate::schema_of(&conn).map_err(OpenError::Migrate)?;
    if schema > SCHEMA {
        return Err(OpenError::Migrate(MigrateError::Newer(schema)));
    }
    if schema == 0 {
        return Err(OpenError::Migrate(MigrateError::Foreign));
    }
    check(&conn)?;
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, u32>(0));
    let (coordinator, epoch) =
        conn.query_row("SELECT coordinator, epoch FROM installation", [], |row| {
            Ok((PublicKey(row.get(0)?), Epoch(row.get(1)?)))
        })?;
    let newest: Option<i64> = conn.query_row("SELECT max(at) FROM audit", [], |row| row.get(0))?;
    Ok(Contents {
        coordinator,
        epoch,
        schema,
        made: made(&conn)?,
        newest: time(newest.unwrap_or(0)),
        devices: number("SELECT count(*) FROM device")?,
        networks: number("SELECT count(*) FROM network")?,
        keys: number("SELECT count(*) FROM enrolment_key WHERE revoked IS NULL")?,
    })
}

fn time(at: i64) -> UnixMs {
    UnixMs(u64::try_from(at).unwrap_or(0))
}

/// When a database was copied; `None` = it is no copy.
pub(super) fn made(conn: &Connection) -> rusqlite::Result<Option<UnixMs>> {
    let marked = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'backup'";
    if conn.query_row(marked, [], |row| row.get::<_, u32>(0))? == 0 {
        return Ok(None);
    }
    let made = conn.query_row("SELECT made FROM backup", [], |row| row.get(0)).optional()?;
    Ok(Some(time(made.unwrap_or(0))))
}

/// Makes a copy fit to be a database again: the newest schema and a new life.
///
/// # Errors
///
/// [`OpenError`].
pub fn prepare(path: &Path, keep_keys: bool, now: UnixMs) -> Result<NewLife, OpenError> {
    let mut conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    configure(&conn)?;
    migrate::migrate(&mut conn, now).map_err(OpenError::Migrate)?;
    let life = start_anew(&mut conn, keep_keys, "restore", now)?;
    // One file holds everything, and it can be moved.
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    conn.close().map_err(|(_, error)| OpenError::Sqlite(error))?;
    OpenOptions::new()
        .read(true)
        .open(path)
        .and_then(|file| file.sync_all())
        .map_err(OpenError::File)?;
    Ok(life)
}

/// Gives a copy a life of its own. Its keys are ended unless they are to be kept:
/// devices that they let in since, and their ends, are not known here, so each
/// could let in more than it may, and one that was revoked would live again.
pub(super) fn start_anew(
    conn: &mut Connection,
    keep_keys: bool,
    via: &'static str,
    now: UnixMs,
) -> Result<NewLife, OpenError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let made = made(&tx)?;
    new_epoch(&tx)?;
    tx.execute_batch("DROP TABLE IF EXISTS backup")?;
    let mut ended = Vec::new();
    let organisations: Vec<u32> = tx
        .prepare("SELECT id FROM organisation ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if !keep_keys {
        relays::end_strings(&tx, now)?;
    }
    for organisation in organisations {
        let keys = if keep_keys { Vec::new() } else { end_keys(&tx, organisation, now)? };
        let detail = vec![
            ("made", made.map_or_else(|| "unknown".to_owned(), |made| made.to_string())),
            ("ended_keys", keys.join(" ")),
        ];
        let action =
            Action { action: "installation.restore", subject: "installation".to_owned(), detail };
        let by = By { actor: Actor { who: "coordinator".to_owned(), via }, at: now };
        audit::append(&tx, OrganisationId(organisation), &action, &by)?;
        ended.extend(keys);
    }
    tx.commit()?;
    Ok(NewLife { ended })
}

/// Draws another epoch. It tells lives apart and is no secret: SQLite's own
/// generator, which the system seeds, is good enough.
pub(super) fn new_epoch(conn: &Connection) -> rusqlite::Result<Epoch> {
    let drawn = "SELECT abs(random() % 4294967295) + 1 FROM installation";
    let before: u32 = conn.query_row("SELECT epoch FROM installation", [], |row| row.get(0))?;
    let mut epoch = before;
    while epoch == before {
        epoch = conn.query_row(drawn, [], |row| row.get(0))?;
    }
    conn.execute("UPDATE installation SET epoch = ?1", [epoch])?;
    Ok(Epoch(epoch))
}

/// Ends the keys of an organisation that still let devices in; their names.
fn end_keys(conn: &Connection, organisation: u32, now: UnixMs) -> rusqlite::Result<Vec<String>> {
    let live = "organisation = ?1 AND revoked IS NULL AND (expires IS NULL OR expires > ?2)
        AND (max_uses IS NULL OR uses < max_uses)";
    let now = signed(now.0);
    let names = conn
        .prepare(&format!("SELECT name FROM enrolment_key WHERE {live} ORDER BY name"))?
        .query_map(params![organisation, now], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let sql = format!("UPDATE enrolment_key SET revoked = ?2 WHERE {live}");
    conn.execute(&sql, params![organisation, now])?;
    Ok(names)
}

/// Devices that are out in the database at `newer` and members in the one at
/// `older`: blocked, rejected, quarantined or deleted since.
///
/// # Errors
///
/// Why one of them cannot be read.
pub fn put_out_since(older: &Path, newer: &Path) -> Result<Vec<PutOut>, OpenError> {
    let open = |path: &Path| Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let read = |conn: &Connection, sql: &str| {
        let read = |row: &rusqlite::Row<'_>| Ok(PutOut { who: row.get(0)?, name: row.get(1)? });
        conn.prepare(sql)?.query_map([], read)?.collect::<rusqlite::Result<Vec<_>>>()
    };
    let out = read(
        &open(newer)?,
        "SELECT coalesce(a.identity, d.wg_key), d.name FROM device d
            LEFT JOIN agent a ON a.device = d.id
            WHERE d.standing IN ('blocked', 'rejected', 'quarantined')
         UNION SELECT coalesce(identity, wg_key), name FROM tombstone ORDER BY 2",
    )?;
    let members = read(
        &open(older)?,
        "SELECT coalesce(a.identity, d.wg_key), d.name FROM device d
            LEFT JOIN agent a ON a.device = d.id WHERE d.standing IN ('active', 'pending')",
    )?;
    let is_member = |gone: &PutOut| members.iter().any(|member| member.who == gone.who);
    Ok(out.into_iter().filter(is_member).collect())
}
