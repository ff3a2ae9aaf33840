//! Numbered SQL files, each applied once, in one transaction each.
//!
//! A database from a newer version is refused before anything is written to
//! it; an applied migration whose text has changed since is refused too.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use weft_noise::mac;

use crate::domain::time::UnixMs;

/// "WEFT" in `PRAGMA application_id`: this file is ours.
pub(super) const APPLICATION_ID: i32 = 0x5745_4654;

struct Migration {
    number: u32,
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "0001_initial",
        sql: include_str!("../../../migrations/sqlite/0001_initial.sql"),
    },
    Migration {
        number: 2,
        name: "0002_clones",
        sql: include_str!("../../../migrations/sqlite/0002_clones.sql"),
    },
    Migration {
        number: 3,
        name: "0003_key_rotation",
        sql: include_str!("../../../migrations/sqlite/0003_key_rotation.sql"),
    },
    Migration {
        number: 4,
        name: "0004_key_change",
        sql: include_str!("../../../migrations/sqlite/0004_key_change.sql"),
    },
    Migration {
        number: 5,
        name: "0005_relays",
        sql: include_str!("../../../migrations/sqlite/0005_relays.sql"),
    },
    Migration {
        number: 6,
        name: "0006_relay_denials",
        sql: include_str!("../../../migrations/sqlite/0006_relay_denials.sql"),
    },
    Migration {
        number: 7,
        name: "0007_paths",
        sql: include_str!("../../../migrations/sqlite/0007_paths.sql"),
    },
    Migration {
        number: 8,
        name: "0008_registered_relays",
        sql: include_str!("../../../migrations/sqlite/0008_registered_relays.sql"),
    },
    Migration {
        number: 9,
        name: "0009_data_usage",
        sql: include_str!("../../../migrations/sqlite/0009_data_usage.sql"),
    },
    Migration {
        number: 10,
        name: "0010_warm",
        sql: include_str!("../../../migrations/sqlite/0010_warm.sql"),
    },
];

/// The newest schema that this program knows.
pub const SCHEMA: u32 = MIGRATIONS[MIGRATIONS.len() - 1].number;

/// Why a database cannot be brought to [`SCHEMA`].
#[derive(Debug)]
#[non_exhaustive]
pub enum MigrateError {
    /// The file is a database of another program.
    Foreign,
    /// It has this newer schema; it was not touched.
    Newer(u32),
    /// This migration was applied with another text.
    Differs(&'static str),
    /// This migration stopped; the database is as before.
    Stopped(&'static str, rusqlite::Error),
    /// The database cannot be read.
    Unreadable(rusqlite::Error),
}

impl From<rusqlite::Error> for MigrateError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// The schema a database has; 0 for an empty one. Writes nothing.
pub(super) fn schema_of(conn: &Connection) -> Result<u32, MigrateError> {
    let id: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: u32 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (id, tables) {
        (APPLICATION_ID, _) => {
            Ok(conn.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))?)
        }
        (0, 0) => Ok(0),
        _ => Err(MigrateError::Foreign),
    }
}

/// Applies what is missing and gives the schema from which it started.
pub(super) fn migrate(conn: &mut Connection, now: UnixMs) -> Result<u32, MigrateError> {
    let found = schema_of(conn)?;
    if found > SCHEMA {
        return Err(MigrateError::Newer(found));
    }
    for migration in MIGRATIONS {
        if migration.number <= found {
            check(conn, migration)?;
        } else {
            apply(conn, migration, now)
                .map_err(|error| MigrateError::Stopped(migration.name, error))?;
        }
    }
    Ok(found)
}

fn checksum(migration: &Migration) -> [u8; 32] {
    mac::hash(&[migration.sql.as_bytes()])
}

fn check(conn: &Connection, migration: &Migration) -> Result<(), MigrateError> {
    let applied: Option<Vec<u8>> = conn
        .query_row("SELECT checksum FROM migration WHERE number = ?1", [migration.number], |row| {
            row.get(0)
        })
        .optional()?;
    if applied.as_deref() == Some(&checksum(migration)) {
        Ok(())
    } else {
        Err(MigrateError::Differs(migration.name))
    }
}

fn apply(conn: &mut Connection, migration: &Migration, now: UnixMs) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS migration (
            number INTEGER PRIMARY KEY,
            name TEXT NOT NULL,
            checksum BLOB NOT NULL,
            applied INTEGER NOT NULL
        ) STRICT",
    )?;
    tx.execute_batch(migration.sql)?;
    tx.execute(
        "INSERT INTO migration (number, name, checksum, applied) VALUES (?1, ?2, ?3, ?4)",
        params![migration.number, migration.name, checksum(migration), super::row::signed(now.0)],
    )?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", migration.number)?;
    tx.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        assert_eq!(migrate(&mut conn, UnixMs(1)).unwrap(), 0);
        conn
    }

    #[test]
    fn runs_once_and_knows_what_it_ran() {
        let mut conn = fresh();
        assert_eq!(migrate(&mut conn, UnixMs(2)).unwrap(), SCHEMA);
        let applied: i64 =
            conn.query_row("SELECT applied FROM migration", [], |row| row.get(0)).unwrap();
        assert_eq!(applied, 1);
    }

    #[test]
    fn a_newer_database_is_not_touched() {
        let mut conn = fresh();
        conn.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
        let before = conn.total_changes();
        assert!(
            matches!(migrate(&mut conn, UnixMs(2)), Err(MigrateError::Newer(n)) if n == SCHEMA + 1)
        );
        assert_eq!(conn.total_changes(), before);
    }

    #[test]
    fn a_changed_migration_is_refused() {
        let mut conn = fresh();
        conn.execute("UPDATE migration SET checksum = zeroblob(32)", []).unwrap();
        assert!(matches!(
            migrate(&mut conn, UnixMs(2)),
            Err(MigrateError::Differs("0001_initial"))
        ));
    }

    #[test]
    fn another_programs_file_is_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t (a)").unwrap();
        assert!(matches!(migrate(&mut conn, UnixMs(2)), Err(MigrateError::Foreign)));
    }
}
