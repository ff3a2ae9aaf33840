//! The folder that holds an installation, and who works in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use weft_noise::mac::{self, Fingerprint};
use weft_wire::id::PublicKey;

use crate::cli::format::{millis, span};
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, Label};
use crate::service::secrets::Secrets;
use crate::store::keyfile::{self, KeyFileError};
use crate::store::sqlite::{self, MigrateError, OpenError, SCHEMA};

/// Paths of one installation.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) data: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) database: PathBuf,
    /// The certificate that is made here, with its key.
    pub(crate) certificate: PathBuf,
    /// Where `init` builds the database before it moves to its place.
    pub(crate) fresh: PathBuf,
    lock: PathBuf,
}

impl Place {
    pub(crate) fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            key: data.join("coordinator.key"),
            database: data.join("weft.db"),
            certificate: data.join("coordinator.tls"),
            fresh: data.join("weft.db.new"),
            lock: data.join("weft.lock"),
        }
    }

    /// Whether anything of an installation is here. A key file beside an
    /// unfinished database is of an `init` that was cut short: nobody may have
    /// seen its recovery key, and no device knows it.
    pub(crate) fn is_taken(&self) -> bool {
        self.database.exists() || (self.key.exists() && !self.fresh.exists())
    }

    /// The unfinished database with SQLite's files beside it, the one that tells
    /// of it first.
    pub(crate) fn fresh_files(&self) -> [PathBuf; 3] {
        ["", "-wal", "-shm"].map(|suffix| {
            let mut name = self.fresh.as_os_str().to_owned();
            name.push(suffix);
            name.into()
        })
    }

    /// Removes what an `init` that was cut short left, if one did. The key file
    /// goes first: without the unfinished database it would count.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        let [fresh, wal, shm] = self.fresh_files();
        if !fresh.exists() {
            return Ok(());
        }
        [&self.key, &wal, &shm, &fresh].into_iter().try_for_each(|path| match std::fs::remove_file(
            path,
        ) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }

    /// The key of the installation that the database belongs to, if it can be
    /// read at all.
    pub(crate) fn key_of_database(&self) -> Option<(PublicKey, u32)> {
        sqlite::peek_owner(&self.database).ok()
    }

    /// Reads the key file.
    ///
    /// # Errors
    ///
    /// `serve.not-initialised`, `serve.key-…`.
    pub(crate) fn secrets(&self) -> Result<Secrets, Failure> {
        let path = self.key.display();
        let body = keyfile::read(&self.key).map_err(|error| match error {
            KeyFileError::Missing => self.no_key(),
            KeyFileError::Open(mode) => {
                let message = format!("{path} is readable by others (mode {mode:04o})");
                Failure::new(Code::ServeKeyOpen, message).attempt(format!("chmod 600 {path}"))
            }
            KeyFileError::Io(error) => {
                Failure::new(Code::ServeKeyDenied, format!("{path} cannot be read"))
                    .with(Label::Cause, error.to_string())
            }
            KeyFileError::Newer(format) => {
                let newest = keyfile::FORMAT;
                let message =
                    format!("{path} has format {format}, this weft-coordinator {VERSION} knows up to {newest}");
                Failure::new(Code::ServeKeyDamaged, message)
            }
            KeyFileError::Damaged => self.damaged(),
        })?;
        Secrets::from_bytes(&body).ok_or_else(|| self.damaged())
    }

    fn damaged(&self) -> Failure {
        let path = self.key.display();
        Failure::new(Code::ServeKeyDamaged, format!("{path} is damaged: its checksum differs"))
            .attempt(format!(
                "mv {path} {path}.damaged && weft-coordinator recover --recovery-key WREC1-…"
            ))
    }

    fn no_key(&self) -> Failure {
        let data = self.data.display();
        match self.key_of_database() {
            None if !self.database.exists() => {
                Failure::new(Code::ServeNotInitialised, format!("no coordinator in {data}"))
                    .attempt("weft-coordinator init --public …")
            }
            owner => {
                let path = self.key.display();
                let owner = owner.map_or_else(String::new, |(key, _)| {
                    format!(", the database knows key {}", mac::fingerprint(&key))
                });
                Failure::new(
                    Code::ServeKeyMissing,
                    format!("the key file {path} is missing{owner}"),
                )
                .attempt("weft-coordinator recover --recovery-key WREC1-…")
            }
        }
    }

    /// The failure of a database that cannot be opened.
    pub(crate) fn database_failure(&self, error: &OpenError) -> Failure {
        let path = self.database.display();
        match error {
            OpenError::Missing(_) if self.fresh.exists() => {
                let data = self.data.display();
                let message = format!("init did not come to its end in {data}");
                Failure::new(Code::ServeNotInitialised, message)
                    .attempt("weft-coordinator init --public …")
            }
            OpenError::Missing(_) => Failure::new(
                Code::ServeDbMissing,
                format!("the database {path} is missing, the key file is here"),
            )
            .attempt("weft-coordinator restore LAST-BACKUP"),
            OpenError::Migrate(MigrateError::Newer(schema)) => {
                let message = format!(
                    "{path} has schema {schema}, this weft-coordinator {VERSION} knows up to {SCHEMA}; \
                     it was not touched"
                );
                Failure::new(Code::ServeDbNewer, message)
                    .attempt("install the version that wrote it, or a newer one")
                    .attempt("restore a backup from before the update")
            }
            OpenError::Migrate(MigrateError::Stopped(name, cause)) => {
                let message = format!("migration {name} stopped; the database is as before");
                Failure::new(Code::ServeMigration, message).with(Label::Cause, cause.to_string())
            }
            OpenError::Migrate(MigrateError::Differs(name)) => {
                let message =
                    format!("{path} was made by another build: its migration {name} differs");
                Failure::new(Code::ServeDbCorrupt, message)
            }
            OpenError::Sqlite(cause) if is_read_only(cause) => {
                let message = format!("{} cannot be written", self.data.display());
                Failure::new(Code::ServeDiskReadonly, message).with(Label::Cause, cause.to_string())
            }
            // A database on a full disk is a good one: nobody is to be sent to a
            // backup for it.
            error if error.is_of_the_disk() => {
                let data = self.data.display();
                let message = format!("the disk under {data} is full, or gives errors");
                Failure::new(Code::ServeDisk, message)
                    .with(Label::Cause, error.to_string())
                    .attempt(format!("df -h {data}        (and the kernel's log: dmesg)"))
            }
            OpenError::Corrupt(found) => {
                // SQLite says it in lines.
                let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
                let message = format!("{path} fails its check: {found}");
                Failure::new(Code::ServeDbCorrupt, message)
                    .attempt("weft-coordinator restore LAST-BACKUP")
            }
            OpenError::Migrate(MigrateError::Foreign) => {
                let message = format!("{path} is no database of a weft-coordinator");
                Failure::new(Code::ServeDbCorrupt, message)
                    .attempt("weft-coordinator restore LAST-BACKUP")
            }
            other => Failure::new(Code::ServeDbCorrupt, format!("{path} cannot be read"))
                .with(Label::Cause, other.to_string())
                .attempt("weft-coordinator restore LAST-BACKUP"),
        }
    }

    /// Takes the folder for this process alone.
    ///
    /// # Errors
    ///
    /// `serve.db-locked`, `serve.disk-readonly`, `data.denied`.
    pub(crate) fn lock(&self, now: UnixMs) -> Result<Lock, Failure> {
        let data = self.data.display();
        let readonly = |error: io::Error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                return denied(&self.data, &error).attempt("sudo weft-coordinator …");
            }
            Failure::new(Code::ServeDiskReadonly, format!("{data} cannot be written"))
                .with(Label::Cause, error.to_string())
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&self.lock).map_err(readonly)?;
        if file.try_lock().is_err() {
            let mut holder = String::new();
            // Who holds it is a help and no more.
            let _ = file.read_to_string(&mut holder);
            let holder = who(holder.trim(), now);
            let path = self.database.display();
            let message = format!("{path} is in use by weft-coordinator{holder}");
            return Err(Failure::new(Code::ServeDbLocked, message));
        }
        let note = format!("pid {}, since {now}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(readonly)?;
        Ok(Lock { _file: file })
    }
}

/// ` (pid 640, since 2 d)` from what the holder of a lock wrote.
fn who(note: &str, now: UnixMs) -> String {
    let parts = note.strip_prefix("pid ").and_then(|rest| rest.split_once(", since "));
    match parts.and_then(|(pid, since)| Some((pid, millis(since)?))) {
        // One that was taken while the clock was not set tells no age.
        Some((pid, since)) if since > 0 => {
            let held = core::time::Duration::from_millis(now.0.saturating_sub(since));
            format!(" (pid {pid}, since {})", span(held))
        }
        Some((pid, _)) => format!(" (pid {pid})"),
        None => String::new(),
    }
}

/// Rights on this machine are missing.
pub(crate) fn denied(path: &Path, error: &io::Error) -> Failure {
    let message = format!("{} cannot be written{}", path.display(), by_whom());
    Failure::new(Code::DataDenied, message).with(Label::Cause, error.to_string())
}

/// ` (uid is 998)`, where the system says so.
pub(crate) fn by_whom() -> String {
    // The folder of a process belongs to the user that it runs as (proc(5)).
    std::fs::metadata("/proc/self")
        .map_or_else(|_| String::new(), |own| format!(" (uid is {})", own.uid()))
}

/// `uid 0`, where the system says so: who runs this.
pub(crate) fn user() -> String {
    std::fs::metadata("/proc/self")
        .map_or_else(|_| "uid unknown".to_owned(), |own| format!("uid {}", own.uid()))
}

fn is_read_only(error: &impl ToString) -> bool {
    error.to_string().contains("readonly")
}

/// This program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Held while this process works in the folder; the system frees it with the
/// process.
pub(crate) struct Lock {
    _file: File,
}

/// The fingerprint of an installation's key.
pub(crate) fn fingerprint(secrets: &Secrets) -> Fingerprint {
    mac::fingerprint(&secrets.public())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock_is_said_with_its_age() {
        let since = UnixMs(1_800_000_000_000);
        let now = UnixMs(since.0 + 2 * 86_400_000);
        assert_eq!(who(&format!("pid 640, since {since}"), now), " (pid 640, since 2 d 0 h)");
        assert_eq!(who(&format!("pid 640, since {}", UnixMs(0)), now), " (pid 640)");
        assert_eq!(who("", now), "");
        assert_eq!(who("pid 6", now), "");
    }
}
