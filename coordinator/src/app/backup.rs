//! `backup` and `restore`: the database as one file, and back.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::format::{age, count, moment_exact};
use crate::cli::{Args, Command, Restore, ui};
use crate::config::Config;
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, Label};
use crate::service::secrets::Fit;
use crate::store::keyfile;
use crate::store::sqlite::backup::{self, Contents, NewLife};
use crate::store::sqlite::{MigrateError, OpenError, SCHEMA};

use super::key_change;
use super::place::{self, Place, VERSION, fingerprint};

/// Devices that a sentence names; the others are counted.
const NAMED: usize = 8;

/// How an answer is wanted.
#[derive(Clone, Copy)]
struct Form {
    json: bool,
    quiet: bool,
}

#[derive(Serialize)]
struct BackedUp<'a> {
    file: String,
    bytes: u64,
    made: String,
    devices: u32,
    networks: u32,
    keys: u32,
    /// The key file is never in it.
    key_file_included: bool,
    coordinator: &'a str,
}

#[derive(Serialize)]
struct Restored<'a> {
    database: String,
    made: String,
    devices: u32,
    kept: Option<String>,
    ended_keys: &'a [String],
    alive_again: &'a [String],
}

/// `backup` or `restore`.
///
/// # Errors
///
/// `backup.…`, `restore.…`, `serve.…`.
pub(crate) fn run(args: &Args, config: &Config, now: UnixMs) -> Result<u8, Failure> {
    let place = Place::new(&config.data);
    let form = Form { json: args.common.json, quiet: args.common.quiet };
    match &args.command {
        Command::Backup(wanted) => back_up(&place, &wanted.file, wanted.replace, now, form)?,
        Command::Restore(wanted) => restore(&place, wanted, now, form)?,
        _ => {}
    }
    Ok(0)
}

/// Copies the database into a file; the server may run.
fn back_up(
    place: &Place,
    file: &Path,
    replace: bool,
    now: UnixMs,
    form: Form,
) -> Result<(), Failure> {
    if file.symlink_metadata().is_ok() && !replace {
        let message = format!("{} is there; it was not touched", file.display());
        return Err(Failure::new(Code::BackupExists, message)
            .attempt(format!("weft-coordinator backup {} --replace", file.display())));
    }
    if is_same(file, &place.database) {
        let message = format!("{} is the database itself", file.display());
        return Err(Failure::new(Code::BackupExists, message));
    }
    let hidden = beside(file, ".new");
    // Of a run that was cut short: nobody else writes under this name.
    remove(&hidden).map_err(|error| cannot_write(file, &error))?;
    let made = write(place, file, &hidden, replace, now);
    if made.is_err() {
        // What is left would be removed by the next run.
        let _ = remove(&hidden);
    }
    let contents = made?;
    say_backed_up(place, file, &contents, size_of(file), form);
    Ok(())
}

fn size_of(file: &Path) -> u64 {
    file.metadata().map_or(0, |about| about.len())
}

fn write(
    place: &Place,
    file: &Path,
    hidden: &Path,
    replace: bool,
    now: UnixMs,
) -> Result<Contents, Failure> {
    backup::copy(&place.database, hidden, now).map_err(|error| match error {
        OpenError::File(error) => cannot_write(file, &error),
        // The copy is what is written: the database is only read.
        error if error.is_of_the_disk() => {
            Failure::new(Code::BackupWrite, format!("cannot write {}", file.display()))
                .with(Label::Cause, error.to_string())
        }
        error => place.database_failure(&error),
    })?;
    // Read back: a backup that cannot be restored is none.
    let contents = backup::inspect(hidden).map_err(|error| place.database_failure(&error))?;
    let placed = if replace { fs::rename(hidden, file) } else { keyfile::place(hidden, file) };
    placed
        .and_then(|()| keyfile::sync_folder(folder(file)))
        .map_err(|error| cannot_write(file, &error))?;
    Ok(contents)
}

fn say_backed_up(place: &Place, file: &Path, contents: &Contents, bytes: u64, form: Form) {
    let made = contents.made.unwrap_or_default().to_string();
    let coordinator = weft_noise::mac::fingerprint(&contents.coordinator).to_string();
    let Contents { devices, networks, keys, .. } = *contents;
    if form.json {
        let (file, coordinator) = (file.display().to_string(), coordinator.as_str());
        let key_file_included = false;
        let body =
            BackedUp { file, bytes, made, devices, networks, keys, key_file_included, coordinator };
        ui::json("weft.backup/1", &body);
        return;
    }
    if form.quiet {
        ui::out(file.display().to_string());
        return;
    }
    let number = |number: u32, noun| count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    let (file, key) = (file.display(), place.key.display());
    ui::out(format!(
        "backed up  {file}  0600, {}
holds      {}, {}, {}, policies and the audit log of {coordinator}, as of {}
not in it  the key file {key}: without it, or the recovery key, a backup lets no device in
next       copy it to another machine; back with  weft-coordinator restore {file}",
        size(bytes),
        number(devices, "device"),
        number(networks, "network"),
        number(keys, "key"),
        moment_exact(&made),
    ));
}

/// `1.2 MB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// Puts a backup in the place of the database, which is kept aside.
fn restore(place: &Place, wanted: &Restore, now: UnixMs, form: Form) -> Result<(), Failure> {
    let file = wanted.file.as_path();
    let contents = backup::inspect(file).map_err(|error| unfit(file, &error))?;
    check_owner(place, file, &contents)?;
    if wanted.check {
        match form {
            Form { json: false, .. } => {
                ui::out(format!("sound  {}  {}", file.display(), holds(&contents, now)));
            }
            form => say_backed_up(place, file, &contents, size_of(file), form),
        }
        return Ok(());
    }
    if is_same(file, &place.database) {
        let message = format!("{} is the database itself", file.display());
        return Err(Failure::new(Code::RestoreFile, message));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&place.data)
        .map_err(|error| cannot_write(&place.data, &error))?;
    let _lock = place.lock(now)?;
    let copy = beside(&place.database, ".restore");
    let cannot = |error: &io::Error| {
        Failure::new(Code::RestoreWrite, format!("cannot write {}", place.database.display()))
            .with(Label::Cause, error.to_string())
    };
    for name in with_logs(&copy) {
        remove(&name).map_err(|error| cannot(&error))?;
    }
    let prepared = prepare(place, file, &copy, wanted, now);
    if prepared.is_err() {
        with_logs(&copy).iter().for_each(|name| drop(remove(name)));
    }
    let life = prepared?;
    let alive = alive_again(&copy, &place.database);
    let kept = put_in_place(place, &copy, now).map_err(|error| cannot(&error))?;
    say_restored(place, &contents, &life, alive, kept, now, form);
    Ok(())
}

/// What a backup file is not fit for.
fn unfit(file: &Path, error: &OpenError) -> Failure {
    let shown = file.display();
    match error {
        OpenError::Missing(_) => Failure::new(Code::RestoreFile, format!("there is no {shown}")),
        OpenError::Migrate(MigrateError::Foreign) => {
            Failure::new(Code::RestoreFile, format!("{shown} is no backup of a weft-coordinator"))
        }
        OpenError::Migrate(MigrateError::Newer(schema)) => {
            let message = format!(
                "{shown} has schema {schema}, this weft-coordinator {VERSION} knows up to {SCHEMA}"
            );
            Failure::new(Code::RestoreNewer, message)
                .attempt("install the version that wrote it, or a newer one")
        }
        OpenError::Corrupt(found) => {
            let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
            let message = format!("{shown} fails its check: {found}");
            Failure::new(Code::RestoreCorrupt, message).attempt("restore an older backup")
        }
        other if other.to_string().contains("not a database") => {
            Failure::new(Code::RestoreFile, format!("{shown} is no backup of a weft-coordinator"))
        }
        other => Failure::new(Code::RestoreCorrupt, format!("{shown} cannot be read"))
            .with(Label::Cause, other.to_string()),
    }
}

/// A backup belongs to a key file; one that is missing can be written anew.
fn check_owner(place: &Place, file: &Path, contents: &Contents) -> Result<(), Failure> {
    let owner = weft_noise::mac::fingerprint(&contents.coordinator);
    if !place.key.exists() {
        let sentence = format!(
            "the key file {} is missing; the backup needs that of {owner}",
            place.key.display()
        );
        ui::warning(
            "serve.key-missing",
            &sentence,
            "weft-coordinator recover --recovery-key WREC1-…",
        );
        return Ok(());
    }
    let secrets = place.secrets()?;
    match secrets.fit(&contents.coordinator) {
        // One of before: the server brings it to the key of today at its start.
        Fit::Same | Fit::Behind => return Ok(()),
        Fit::Ahead => return Err(key_change::older_file(place, &secrets, &contents.coordinator)),
        Fit::Foreign => {}
    }
    let message = format!(
        "{} belongs to {owner}, the key file here is {}: one of them is from another installation",
        file.display(),
        fingerprint(&secrets)
    );
    Err(Failure::new(Code::RestoreMismatch, message))
}

/// Copies the backup beside the database and makes it one.
fn prepare(
    place: &Place,
    file: &Path,
    copy: &Path,
    wanted: &Restore,
    now: UnixMs,
) -> Result<NewLife, Failure> {
    let cannot = |error: &io::Error| {
        Failure::new(Code::RestoreWrite, format!("cannot write {}", place.data.display()))
            .with(Label::Cause, error.to_string())
    };
    let copied = fs::File::open(file).and_then(|mut from| {
        let mut options = OpenOptions::new();
        let mut to = options.write(true).create_new(true).mode(0o600).open(copy)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    });
    copied.map_err(|error| cannot(&error))?;
    // Of the copy itself: a disk may have failed meanwhile.
    backup::inspect(copy).map_err(|error| unfit(file, &error))?;
    backup::prepare(copy, wanted.keep_keys, now).map_err(|error| match error {
        OpenError::File(error) => cannot(&error),
        error => unfit(file, &error),
    })
}

/// Names of devices that the backup has as members and the database that it
/// replaces has put out; `None` = that one cannot be read.
fn alive_again(copy: &Path, database: &Path) -> Option<Vec<String>> {
    let out = backup::put_out_since(copy, database).ok()?;
    Some(out.into_iter().map(|device| device.name).collect())
}

/// Moves the database aside, and the copy to its place. Its log goes first with
/// its own name: it must never be taken for the copy's.
fn put_in_place(place: &Place, copy: &Path, now: UnixMs) -> io::Result<Option<PathBuf>> {
    let stamp: String =
        now.to_string().chars().take(19).map(|c| if c == ':' { '-' } else { c }).collect();
    let mut kept = beside(&place.database, &format!(".replaced-{stamp}"));
    let mut number = 2;
    while kept.exists() {
        kept = beside(&place.database, &format!(".replaced-{stamp}-{number}"));
        number += 1;
    }
    let was_there = place.database.exists();
    for (from, to) in with_logs(&place.database).iter().zip(with_logs(&kept)) {
        match fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(copy, &place.database)?;
    keyfile::sync_folder(&place.data)?;
    Ok(was_there.then_some(kept))
}

fn say_restored(
    place: &Place,
    contents: &Contents,
    life: &NewLife,
    alive: Option<Vec<String>>,
    kept: Option<PathBuf>,
    now: UnixMs,
    form: Form,
) {
    let since = contents.made.unwrap_or(contents.newest);
    if form.json {
        ui::json(
            "weft.restore/1",
            &Restored {
                database: place.database.display().to_string(),
                made: since.to_string(),
                devices: contents.devices,
                kept: kept.map(|kept| kept.display().to_string()),
                ended_keys: &life.ended,
                alive_again: alive.as_deref().unwrap_or_default(),
            },
        );
        return;
    }
    ui::out(format!("restored   {}  {}", place.database.display(), holds(contents, now)));
    if let Some(kept) = &kept {
        ui::out(format!("kept       {}  the database before", kept.display()));
    }
    ui::out("new epoch  every device takes its whole map anew when it comes back");
    if !life.ended.is_empty() {
        let keys = count(life.ended.len(), "enrolment key");
        ui::out(format!(
            "ended      {keys} ({}): how often they were used since is not known",
            life.ended.join(", ")
        ));
    }
    ui::out("next       sudo systemctl start weft-coordinator");
    let moment = moment_exact(&since.to_string());
    match alive {
        Some(names) if names.is_empty() => {}
        Some(names) => {
            let more = names.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let shown = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
            let sentence = format!(
                "blocked or deleted after {moment} and members again: {}{more}",
                shown.join(", ")
            );
            ui::warning("restore.alive", &sentence, "weft-coordinator device block NAME");
        }
        None => {
            let sentence = format!(
                "whoever was blocked or deleted after {moment} is a member again; the database \
                 before cannot be read, so who that is must be known from elsewhere"
            );
            ui::warning("restore.alive", &sentence, "weft-coordinator device block NAME");
        }
    }
}

/// `412 devices, as of 2026-11-27 03:05:12 +00:00, 2 h ago`.
fn holds(contents: &Contents, now: UnixMs) -> String {
    let devices = count(usize::try_from(contents.devices).unwrap_or(usize::MAX), "device");
    let (word, at) = match contents.made {
        Some(made) => ("as of", made),
        // A copy that somebody made by hand.
        None => ("last changed", contents.newest),
    };
    format!("{devices}, {word} {}, {}", moment_exact(&at.to_string()), age(now.0, at.0))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A database with SQLite's files beside it, the log first.
fn with_logs(path: &Path) -> [PathBuf; 3] {
    ["-wal", "-shm", ""].map(|suffix| beside(path, suffix))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn is_same(a: &Path, b: &Path) -> bool {
    let inode = |path: &Path| path.metadata().ok().map(|about| (about.dev(), about.ino()));
    inode(a).is_some() && inode(a) == inode(b)
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return place::denied(path, error).attempt("sudo weft-coordinator …");
    }
    Failure::new(Code::BackupWrite, format!("cannot write {}", path.display()))
        .with(Label::Cause, error.to_string())
}
