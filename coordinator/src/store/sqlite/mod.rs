//! The store on SQLite: one thread writes, a few read.
//!
//! The writer takes whatever requests wait into one transaction, commits once
//! (`synchronous=FULL`) and answers afterwards, so what was answered survives a
//! loss of power, and a burst of enrolments costs a few syncs. A request that
//! fails is rolled back alone, to its savepoint.

use core::fmt;
use core::future::Future;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::broadcast;
use weft_wire::id::{DeviceId, Epoch, PublicKey, Revision};

use crate::domain::change::Change;
use crate::domain::network::NewNetwork;
use crate::domain::time::UnixMs;

use super::{Answer, Changes, StoreError};

mod adopt;
mod audit;
pub mod backup;
mod census;
mod denials;
mod devices;
mod enrol;
mod key_change;
mod keys;
mod maps;
mod migrate;
mod networks;
mod paths;
mod policies;
mod quarantine;
mod reader;
mod relays;
mod rotation;
mod row;
mod usage;
mod warm;
mod writer;

use census::Censuses;
pub use migrate::{MigrateError, SCHEMA};
use policies::PolicyCache;
use reader::Readers;
use writer::{Unit, Writer};

/// Changes that a slow subscriber may fall behind.
const CHANGE_BACKLOG: usize = 256;
/// Applied revisions that a slow subscriber may fall behind.
const APPLIED_BACKLOG: usize = 1_024;
/// A database below this many bytes is looked at page by page at each start,
/// which takes less than a second; a longer one after a stop that was not clean.
const CHECKED_ALWAYS: u64 = 64 << 20;
/// Threads that read.
const READERS: usize = 2;

/// Why a database cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file.
    Missing(PathBuf),
    /// Its schema does not fit.
    Migrate(MigrateError),
    /// SQLite cannot open or read it.
    Sqlite(rusqlite::Error),
    /// The file cannot be made.
    File(std::io::Error),
    /// The writer's thread cannot be started.
    Thread(std::io::Error),
    /// Its pages are not what they must be; holds what SQLite found.
    Corrupt(String),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "there is no {}", path.display()),
            Self::Migrate(MigrateError::Foreign) => f.write_str("it is no database of weft"),
            Self::Migrate(MigrateError::Newer(schema)) => {
                write!(f, "it has schema {schema}, {SCHEMA} is known")
            }
            Self::Migrate(MigrateError::Differs(name)) => {
                write!(f, "migration {name} was applied with another text")
            }
            Self::Migrate(MigrateError::Stopped(name, error)) => {
                write!(f, "migration {name} stopped: {error}")
            }
            Self::Migrate(MigrateError::Unreadable(error)) | Self::Sqlite(error) => {
                write!(f, "{error}")
            }
            Self::File(error) => write!(f, "{error}"),
            Self::Corrupt(found) => f.write_str(found),
            Self::Thread(error) => write!(f, "cannot start the writer's thread: {error}"),
        }
    }
}

impl core::error::Error for OpenError {}

impl OpenError {
    /// Whether the disk does not take or give what it should.
    pub fn is_of_the_disk(&self) -> bool {
        let (Self::Sqlite(error) | Self::Migrate(MigrateError::Unreadable(error))) = self else {
            return false;
        };
        let code = error.sqlite_error_code();
        matches!(code, Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::disk_full(),
            // SQLite keeps the system's own number to itself: a file system that
            // the kernel made read-only is an I/O error to it.
            Some(ErrorCode::ReadOnly | ErrorCode::SystemIoFailure) => Self::disk_failed(&error),
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::CannotOpen,
            ) => Self::Unavailable(error.to_string()),
            _ => Self::Fault(error.to_string()),
        }
    }
}

/// What a new database is made with.
#[derive(Clone, Debug)]
pub struct NewInstallation {
    /// The database's life: random.
    pub epoch: Epoch,
    /// The coordinator's public key.
    pub coordinator: PublicKey,
    /// The first network.
    pub network: NewNetwork,
}

/// What is kept in memory of what is committed.
#[derive(Default)]
struct Cache {
    policies: PolicyCache,
    censuses: Censuses,
}

/// The store on SQLite. Dropping it ends the writer after what already waits and
/// checkpoints the log, so that one file holds everything; that blocks.
pub struct SqliteStore {
    writer: Writer,
    readers: Arc<Readers>,
    cache: Arc<Cache>,
    changes: broadcast::Sender<Arc<Change>>,
    applied: broadcast::Sender<(DeviceId, Revision)>,
}

/// The schema that the database at `path` has, without touching it.
///
/// # Errors
///
/// [`OpenError::Missing`], or why it cannot be read.
pub fn peek_schema(path: &Path) -> Result<u32, OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    migrate::schema_of(&conn).map_err(OpenError::Migrate)
}

/// Makes the database of a new installation, readable by its owner alone.
///
/// # Errors
///
/// [`OpenError`].
pub fn create(path: &Path, new: &NewInstallation, now: UnixMs) -> Result<(), OpenError> {
    // SQLite takes an empty file for a new database, and gives its log the same
    // mode.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).map_err(OpenError::File)?;
    let mut conn = Connection::open(path)?;
    configure(&conn)?;
    migrate::migrate(&mut conn, now).map_err(OpenError::Migrate)?;
    let tx = conn.transaction()?;
    networks::install(&tx, new, now)?;
    tx.commit()?;
    conn.close().map_err(|(_, error)| OpenError::Sqlite(error))
}

impl SqliteStore {
    /// Opens the database at `path`, brings its schema up to date and starts
    /// the writer's thread.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a database from a newer version is not touched.
    pub fn open(path: &Path, now: UnixMs) -> Result<Self, OpenError> {
        let clean = is_clean(path);
        let found = peek_schema(path)?;
        if found > SCHEMA {
            return Err(OpenError::Migrate(MigrateError::Newer(found)));
        }
        // Emptied by somebody: what is made by `create` is never so.
        if found == 0 {
            return Err(OpenError::Migrate(MigrateError::Foreign));
        }
        let mut conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        configure(&conn)?;
        let len = path.metadata().map_err(OpenError::File)?.len();
        if !clean || len < CHECKED_ALWAYS {
            check(&conn)?;
        }
        migrate::migrate(&mut conn, now).map_err(OpenError::Migrate)?;
        // A backup that somebody moved here by hand.
        if let Some(made) = backup::made(&conn)? {
            let life = backup::start_anew(&mut conn, false, "serve", now)?;
            let ended = life.ended.len();
            tracing::warn!(%made, ended, "serve.backup-found");
        }
        let readers = (0..READERS)
            .map(|_| {
                let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                configure(&conn)?;
                conn.pragma_update(None, "query_only", true)?;
                Ok(conn)
            })
            .collect::<Result<Vec<_>, rusqlite::Error>>()?;
        let (changes, _) = broadcast::channel(CHANGE_BACKLOG);
        let (applied, _) = broadcast::channel(APPLIED_BACKLOG);
        let cache = Arc::new(Cache::default());
        let writer = Writer::start(conn, Arc::clone(&cache), changes.clone(), applied.clone())
            .map_err(OpenError::Thread)?;
        Ok(Self { writer, readers: Arc::new(Readers::new(readers)), cache, changes, applied })
    }

    fn write<T, E, F>(&self, work: F) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Unit<'_>) -> Result<T, E> + Send + 'static,
    {
        self.writer.submit(work)
    }

    fn read<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &Cache) -> Result<T, StoreError> + Send + 'static,
    {
        let cache = Arc::clone(&self.cache);
        Box::pin(self.readers.run(move |conn| work(conn, &cache)))
    }
}

impl Changes for SqliteStore {
    fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }

    fn applied(&self) -> broadcast::Receiver<(DeviceId, Revision)> {
        self.applied.subscribe()
    }
}

/// Whether the last one who had the database open closed it: its log is gone.
fn is_clean(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Path::new(&log).metadata().map_or(true, |log| log.len() == 0)
}

/// Looks at every page.
fn check(conn: &Connection) -> Result<(), OpenError> {
    let found = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(OpenError::Corrupt(found)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            Err(OpenError::Corrupt(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(core::time::Duration::from_secs(5))?;
    // Answers with the mode in force: `memory` for tests in memory.
    let _: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    // 4 MiB of pages for the whole fleet's hot rows.
    conn.pragma_update(None, "cache_size", -4_096)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Whose database it is, and how many devices it knows, without touching it.
///
/// # Errors
///
/// [`OpenError`].
pub fn peek_owner(path: &Path) -> Result<(PublicKey, u32), OpenError> {
    if !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let key = conn.query_row("SELECT coordinator FROM installation", [], |row| row.get(0))?;
    let devices = conn.query_row("SELECT count(*) FROM device", [], |row| row.get(0))?;
    Ok((PublicKey(key), devices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_faults() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE kept (value BLOB); PRAGMA max_page_count = 2").unwrap();
        let full = conn.execute("INSERT INTO kept VALUES (zeroblob(100000))", []).unwrap_err();
        assert!(StoreError::from(full).is_disk_full());
        let other = conn.execute("INSERT INTO missing VALUES (1)", []).unwrap_err();
        assert!(!StoreError::from(other).is_disk_full());
    }
}
