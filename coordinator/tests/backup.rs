//! `backup`, `restore` and databases that are not what they should be, as people
//! meet them on the command line.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::program::{Home, PUBLIC, errors, status};
use rusqlite::Connection;
use rustix::process::Signal;

mod common;

/// A WireGuard key that nobody has the other half of.
const KEYS: [&str; 3] = [
    "mGZx6yYOGVSyqSPvcDHyDsZ0z2dDbTXSLbyUXQJj3Sc=",
    "4mVX3Nz1dDQXSLbyUXQJj3SmGZx6yYOGVSyqSPvcDHw=",
    "SyqSPvcDHyDsZ0z2dDbTXSLbyUXQJj3ScmGZx6yYOGU=",
];

fn epoch(database: &Path) -> u32 {
    let conn = Connection::open(database).unwrap();
    conn.query_row("SELECT epoch FROM installation", [], |row| row.get(0)).unwrap()
}

fn add(home: &Home, name: &str, key: &str) {
    home.done(&["device", "add-wireguard", name, "--public-key", key]);
}

/// Bytes of everything of an installation but SQLite's own files, which whoever
/// reads may make.
fn bytes(home: &Home) -> Vec<(String, Vec<u8>)> {
    let mut names = home.left();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    let read = |name: String| (name.clone(), fs::read(home.data().join(name)).unwrap());
    names.into_iter().map(read).collect()
}

#[test]
fn a_backup_of_a_running_server_comes_back() {
    let home = Home::initialised();
    let file = home.path().join("backup.db");
    let shown = file.to_str().unwrap();
    let database = home.data().join("weft.db");
    let before = epoch(&database);
    let server = home.serve();
    home.done(&["key", "create", "--name", "early", "--quiet"]);
    add(&home, "phone", KEYS[0]);
    add(&home, "stolen", KEYS[1]);
    let said = home.done(&["backup", shown]);
    assert!(said.contains("2 devices, 1 network, 1 key") && said.contains("not in it"), "{said}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // What comes after is not in it, and neither is what went after.
    add(&home, "late", KEYS[2]);
    home.done(&["device", "block", "stolen", "--yes"]);
    home.done(&["key", "revoke", "early", "--yes"]);
    home.refused(&["backup", shown], 6, "backup.exists");
    home.refused(&["restore", shown], 6, "serve.db-locked");
    assert!(home.done(&["restore", "--check", shown]).starts_with("sound  "));
    let (ended, _) = server.end(Signal::KILL);
    assert_eq!(ended, None);

    let output = home.run(&["restore", shown]);
    assert_eq!(status(&output), 0, "{}", errors(&output));
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        said.contains("2 devices, as of ") && said.contains("1 enrolment key (early)"),
        "{said}"
    );
    let warned = errors(&output);
    assert!(warned.contains("warning[restore.alive]:"), "{warned}");
    assert!(warned.contains("members again: stolen\n"), "{warned}");
    assert_ne!(epoch(&database), before);
    let kept = home.left().into_iter().find(|name| name.starts_with("weft.db.replaced-")).unwrap();
    // Whole, with what was only in its log when the server was killed.
    let conn = Connection::open(home.data().join(&kept)).unwrap();
    let devices: u32 = conn.query_row("SELECT count(*) FROM device", [], |row| row.get(0)).unwrap();
    assert_eq!(devices, 3);
    let server = home.serve();
    let devices = home.done(&["device", "list"]);
    assert!(devices.contains("phone") && devices.contains("stolen"), "{devices}");
    assert!(!devices.contains("late"), "{devices}");
    assert!(home.done(&["audit"]).contains("installation.restore"));
    assert!(home.done(&["key", "list", "--json"]).contains("revoked"));
    drop(server);
}

#[test]
fn keys_may_be_kept_and_a_backup_replaced() {
    let home = Home::initialised();
    let file = home.path().join("backup.db");
    let shown = file.to_str().unwrap();
    home.done(&["backup", shown]);
    let server = home.serve();
    home.done(&["key", "create", "--name", "lab", "--quiet"]);
    drop(server);
    home.done(&["backup", shown, "--replace"]);
    let said = home.done(&["restore", shown, "--keep-keys"]);
    assert!(!said.contains("ended "), "{said}");
    let server = home.serve();
    assert!(home.done(&["key", "list"]).contains("lab"));
    drop(server);
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_str().unwrap().ends_with(".new")), "{left:?}");
}

#[test]
fn a_backup_that_was_moved_by_hand_starts_a_new_life_too() {
    let home = Home::initialised();
    let file = home.path().join("backup.db");
    let database = home.data().join("weft.db");
    home.done(&["backup", file.to_str().unwrap()]);
    fs::copy(&file, &database).unwrap();
    let before = epoch(&database);
    drop(home.serve());
    let after = epoch(&database);
    assert_ne!(after, before);
    // Once: it is a database again.
    drop(home.serve());
    assert_eq!(epoch(&database), after);
}

#[test]
fn what_is_no_sound_backup_of_this_installation_changes_nothing() {
    let home = Home::initialised();
    let file = home.path().join("backup.db");
    let shown = file.to_str().unwrap();
    home.refused(&["restore", shown], 2, "restore.file");
    home.done(&["backup", shown]);
    let good = fs::read(&file).unwrap();
    let before = bytes(&home);
    let refused = |change: &dyn Fn(&Path), exit: i32, code: &str| {
        fs::write(&file, &good).unwrap();
        change(&file);
        let text = home.refused(&["restore", shown], exit, code);
        assert_eq!(bytes(&home), before, "{code}");
        text
    };
    refused(&|file| fs::write(file, "a shopping list\n").unwrap(), 2, "restore.file");
    refused(&|file| fs::write(file, "").unwrap(), 2, "restore.file");
    refused(&|file| fs::write(file, &good[..good.len() / 2]).unwrap(), 1, "restore.corrupt");
    let flip = |file: &Path| {
        let mut torn = good.clone();
        torn[3 * 4_096..3 * 4_096 + 64].fill(0xA5);
        fs::write(file, torn).unwrap();
    };
    refused(&flip, 1, "restore.corrupt");
    let newer = |file: &Path| {
        Connection::open(file).unwrap().pragma_update(None, "user_version", 9_999).unwrap();
    };
    let text = refused(&newer, 2, "restore.newer");
    assert!(text.contains("has schema 9999, this weft-coordinator"), "{text}");
    let other = Home::initialised();
    let foreign = |file: &Path| {
        fs::remove_file(file).unwrap();
        other.done(&["backup", file.to_str().unwrap()]);
    };
    let text = refused(&foreign, 2, "restore.mismatch");
    assert!(text.contains("from another installation"), "{text}");
    drop(home.serve());
}

#[test]
fn a_lost_installation_comes_back_from_backup_and_recovery_key() {
    let home = Home::new();
    let recovery = home.done(&["init", "--public", PUBLIC, "--quiet"]);
    let file = home.path().join("backup.db");
    let shown = file.to_str().unwrap();
    home.done(&["backup", shown]);
    for name in ["weft.db", "coordinator.key"] {
        fs::remove_file(home.data().join(name)).unwrap();
    }
    let output = home.run(&["restore", shown]);
    assert_eq!(status(&output), 0, "{}", errors(&output));
    assert!(errors(&output).contains("warning[serve.key-missing]:"), "{}", errors(&output));
    // Well formed, and of another installation.
    let other = Home::new().done(&["init", "--public", PUBLIC, "--quiet"]);
    let text = home.refused(&["recover", "--recovery-key", other.trim()], 4, "recover.mismatch");
    assert!(text.contains("the database belongs to "), "{text}");
    home.done(&["recover", "--recovery-key", recovery.trim()]);
    drop(home.serve());
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_not_touched() {
    let home = Home::initialised();
    let database = home.data().join("weft.db");
    let conn = Connection::open(&database).unwrap();
    conn.pragma_update(None, "user_version", 9_999).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(conn);
    let before = bytes(&home);
    let text = home.refused(&["serve", "--listen", "127.0.0.1:0"], 2, "serve.db-newer");
    assert!(text.contains("has schema 9999, this weft-coordinator"), "{text}");
    assert!(text.contains("it was not touched") && text.contains("try:"), "{text}");
    assert_eq!(bytes(&home), before);
    let shown = home.path().join("backup.db");
    home.refused(&["backup", shown.to_str().unwrap()], 2, "serve.db-newer");
    assert!(!shown.exists());
}

#[test]
fn a_torn_database_is_seen_at_the_start() {
    let home = Home::initialised();
    let database = home.data().join("weft.db");
    let good = fs::read(&database).unwrap();
    let pages = good.len() / 4_096;
    for page in 0..pages {
        let mut torn = good.clone();
        torn[page * 4_096..page * 4_096 + 128].fill(0xA5);
        fs::write(&database, torn).unwrap();
        let text = home.refused(&["serve", "--listen", "127.0.0.1:0"], 1, "serve.db-corrupt");
        assert!(text.contains("restore LAST-BACKUP"), "{page}: {text}");
    }
    for len in [0, 100, 4_096, good.len() - 4_096] {
        fs::write(&database, &good[..len]).unwrap();
        let text = home.refused(&["serve", "--listen", "127.0.0.1:0"], 1, "serve.db-corrupt");
        assert!(text.contains("LAST-BACKUP"), "cut at {len}: {text}");
    }
    fs::write(&database, good).unwrap();
    drop(home.serve());
}
