//! The program as people run it: command lines, outputs, exit statuses, signals.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use weft_coordinator::domain::key::NewKey;
use weft_coordinator::store::Relays as _;
use weft_coordinator::store::sqlite::SqliteStore;

mod common;

use common::fleet;
use common::program::{Home, PROGRAM, PUBLIC, Server, errors, status};

#[test]
fn init_makes_an_installation_once() {
    let home = Home::new();
    home.refused(&["init"], 2, "init.no-public");
    home.refused(&["init", "--public", "10.0.0.4"], 2, "init.private-public");
    home.refused(&["init", "--public", PUBLIC, "--ipv4", "100.64.0.0/16"], 2, "init.network");
    home.refused(&["serve"], 2, "serve.not-initialised");
    assert_eq!(home.left(), [""; 0]);
    let said = home.done(&["init", "--public", PUBLIC]);
    assert!(said.contains("\nrecovery key      WREC1-"), "{said}");
    assert_eq!(home.left(), ["coordinator.key", "coordinator.toml", "weft.db"]);
    for (name, mode) in [("coordinator.key", 0o600), ("weft.db", 0o600)] {
        let found = home.data().join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    let before = fs::read(home.data().join("weft.db")).unwrap();
    let text = home.refused(&["init", "--public", PUBLIC], 6, "init.exists");
    assert!(text.contains("no devices") || text.contains("0 devices"), "{text}");
    assert_eq!(fs::read(home.data().join("weft.db")).unwrap(), before);
}

/// Devices that wait, put into the database before somebody serves it.
fn waiting(home: &Home, names: &[&str]) {
    let path = home.data().join("weft.db");
    let store = SqliteStore::open(&path, fleet::NOW).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let key = NewKey { needs_approval: true, ..fleet::new_key() };
        let key = fleet::key(&store, key).await;
        for name in names {
            assert!(!fleet::enrol(&store, key.id, name).await.is_active());
        }
    });
}

#[test]
fn all_that_wait_are_let_in_together() {
    let home = Home::initialised();
    waiting(&home, &["plc-1", "plc-2", "plc-3", "plc-4", "pump"]);
    let server = home.serve();
    let json = |said: String| serde_json::from_str::<serde_json::Value>(&said).unwrap();
    let dry = home.done(&["device", "approve", "--all", "--dry-run"]);
    assert!(dry.contains("plc-1") && dry.contains("pump"), "{dry}");
    assert_eq!(status(&home.run(&["device", "approve"])), 2);
    let text = home.refused(&["device", "approve", "--all"], 2, "confirm.needed");
    assert!(text.contains("lets in 5 devices: plc-1, plc-2, plc-3 and 2 more"), "{text}");
    let said = home.done(&["device", "approve", "--all", "plc", "--yes"]);
    assert!(said.contains("plc-4 approved: 100."), "{said}");
    let left = json(home.done(&["device", "list", "--json", "status:pending"]));
    assert_eq!((&left["matched"], &left["items"][0]["name"]), (&1.into(), &"pump".into()));
    let said = json(home.done(&["device", "approve", "--all", "--yes", "--json"]));
    assert_eq!((said["items"].as_array().unwrap().len(), &said["failed"]), (1, &json("[]".into())));
    let none = json(home.done(&["device", "approve", "--all", "--yes", "--json"]));
    assert_eq!(none["items"], json("[]".into()));
    let why = home.run(&["why", "plc-1", "pump", "--lang", "zh"]);
    assert_eq!(status(&why), 1, "nobody is there");
    let said = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(said.starts_with("pump 自–起离线"), "{said}");
    drop(server);
}

#[test]
fn init_leaves_nothing_when_nobody_sees_the_recovery_key() {
    let home = Home::new();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    for flag in [&["init", "--public", PUBLIC][..], &["init", "--public", PUBLIC, "--json"]] {
        let output = home.command(flag).stdout(full.try_clone().unwrap()).output().unwrap();
        assert_eq!(status(&output), 1);
        assert!(errors(&output).starts_with("error[output.lost]: "), "{}", errors(&output));
        assert_eq!(home.left(), [""; 0]);
    }
    home.done(&["init", "--public", PUBLIC]);
}

#[test]
fn init_leaves_nothing_when_the_settings_cannot_be_written() {
    let home = Home::new();
    let file = "/dev/null/coordinator.toml";
    let output = home.run(&["init", "--public", PUBLIC, "--config", file]);
    assert_ne!(status(&output), 0);
    assert_eq!(home.left(), [""; 0]);
    let said = home.done(&["init", "--public", PUBLIC]);
    assert!(said.contains("WREC1-"));
}

#[test]
fn init_begins_anew_where_one_was_cut_short() {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    for name in ["coordinator.key", "weft.db.new", "weft.db.new-wal"] {
        fs::write(home.data().join(name), b"cut").unwrap();
        fs::set_permissions(home.data().join(name), Permissions::from_mode(0o600)).unwrap();
    }
    home.done(&["init", "--public", PUBLIC]);
    assert_eq!(home.left(), ["coordinator.key", "coordinator.toml", "weft.db"]);
    drop(home.serve());
    // A key file alone may be all that is left of an installation.
    fs::remove_file(home.data().join("weft.db")).unwrap();
    home.refused(&["init", "--public", PUBLIC], 6, "init.exists");
    assert!(home.data().join("coordinator.key").exists());
}

#[test]
fn init_refuses_a_flag_that_the_kept_settings_contradict() {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    let file = home.data().join("coordinator.toml");
    fs::write(&file, "[server]\nthreads = 2\n").unwrap();
    let text = home.refused(&["init", "--public", PUBLIC], 6, "init.config");
    assert!(text.contains("write  public = \"mesh.example.net\""), "{text}");
    fs::write(&file, format!("[server]\npublic = \"{PUBLIC}\"\n")).unwrap();
    home.done(&["init", "--public", PUBLIC]);
    drop(home.serve());
}

#[test]
fn a_lost_key_file_comes_back() {
    let home = Home::new();
    let recovery = home.done(&["init", "--public", PUBLIC, "--quiet"]);
    let key = home.data().join("coordinator.key");
    let before = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    home.refused(&["serve"], 2, "serve.key-missing");
    home.refused(&["recover", "--recovery-key", "WREC1-AAAA"], 2, "recover.form");
    home.done(&["recover", "--recovery-key", recovery.trim()]);
    assert_eq!(fs::read(&key).unwrap(), before);
    home.refused(&["recover", "--recovery-key", recovery.trim()], 6, "recover.exists");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    home.refused(&["serve"], 4, "serve.key-open");
}

#[test]
fn settings_are_complained_about_by_line() {
    let home = Home::initialised();
    let file = home.data().join("coordinator.toml");
    fs::write(&file, "[server]\npublc = \"a\"\nthreads = \"2\"\n").unwrap();
    let text = home.refused(&["config", "check"], 2, "config.unknown-key");
    let shown = file.display();
    assert!(text.contains(&format!("--> {shown}:2:1")), "{text}");
    assert!(text.contains(&format!("--> {shown}:3:11")), "{text}");
    fs::write(&file, format!("[server]\npublic = \"{PUBLIC}\"\n")).unwrap();
    let mut command = home.command(&["config", "check"]);
    command.env("WEFT_COORDINATOR_LISTN", "[::]:1").env("WEFT_COORDINATOR_THREADS", "3");
    let output = command.output().unwrap();
    let text = errors(&output);
    assert_eq!(status(&output), 0, "{text}");
    assert!(text.contains("WEFT_COORDINATOR_LISTN is no setting"), "{text}");
    assert!(text.contains("there is WEFT_COORDINATOR_LISTEN"), "{text}");
    assert_eq!(text.matches("warning[").count(), 1, "{text}");
}

#[test]
fn rights_that_are_missing_are_status_4() {
    let home = Home::new();
    let is_root = rustix::process::geteuid().is_root();
    let mut program = PathBuf::from(PROGRAM);
    if is_root {
        // Nobody reaches the folder that this test was built in.
        fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        program = home.path().join("weft-coordinator");
        fs::copy(PROGRAM, &program).unwrap();
    }
    let locked = home.data();
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, Permissions::from_mode(0o555)).unwrap();
    let mut command = home.command_of(&program, &["init", "--public", PUBLIC]);
    if is_root {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let text = errors(&output);
    assert_eq!(status(&output), 4, "{text}");
    assert!(text.starts_with("error[data.denied]: ") && text.contains("(uid is "), "{text}");
}

#[test]
fn join_strings_name_a_broker_of_others() {
    let home = Home::initialised();
    let password = |name: &str, text: &str| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    };
    let own = password("own", "own canary\n");
    let shared = password("shared", "shared secret\n");
    let serve = || {
        let mut command = home.command(&["serve", "--listen", "127.0.0.1:0"]);
        // Nobody listens there; the coordinator serves all the same.
        command.env("WEFT_COORDINATOR_BROKER_ADDRESS", "127.0.0.1:1");
        command.env("WEFT_COORDINATOR_BROKER_USER", "weft-coordinator");
        command.env("WEFT_COORDINATOR_BROKER_PASSWORD_FILE", &own);
        command.env("WEFT_COORDINATOR_BROKER_DEVICE_ADDRESS", "mqtt.example.net");
        command.env("WEFT_COORDINATOR_BROKER_DEVICE_USER", "weft-device");
        command.env("WEFT_COORDINATOR_BROKER_DEVICE_PASSWORD_FILE", &shared);
        command
    };
    fs::set_permissions(&own, Permissions::from_mode(0o644)).unwrap();
    let output = serve().output().unwrap();
    assert_eq!(status(&output), 4, "{}", errors(&output));
    assert!(errors(&output).starts_with("error[broker.password-open]: "), "{}", errors(&output));
    fs::set_permissions(&own, Permissions::from_mode(0o600)).unwrap();

    let server = Server::start(serve());
    assert!(server.said.contains("  broker    mqtt 127.0.0.1:1 as weft-coordinator"));
    let line = home.done(&["key", "create", "-q"]);
    let join = weft_wire::join::JoinString::parse(&line).ok().unwrap();
    assert_eq!(join.addresses.len(), 1);
    assert_eq!(join.addresses[0].authority, "mqtt.example.net:1883");
    let account = join.account.unwrap();
    assert_eq!((&*account.user, &*account.password), ("weft-device", "shared secret"));
    let (status, rest) = server.end(Signal::TERM);
    assert_eq!(status, Some(0));
    assert!(!rest.contains("canary"), "{rest}");
}

#[test]
fn serves_commands_and_ends_cleanly() {
    let home = Home::initialised();
    home.refused(&["key", "list"], 3, "socket.unreachable");
    let server = home.serve();
    assert!(server.said.contains("weft-coordinator 0."), "{}", server.said);
    let other = home.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(status(&other), 6, "{}", errors(&other));

    let join = home.done(&["key", "create", "--name", "lab", "--uses", "10", "--quiet"]);
    assert!(join.starts_with("WEFT1") && join.lines().count() == 1, "{join}");
    home.refused(&["key", "create", "--name", "lab"], 6, "key.name-taken");
    let list = home.done(&["key", "list"]);
    assert!(list.contains("lab") && list.contains("0 of 10"), "{list}");
    home.refused(&["key", "revoke", "lab"], 2, "confirm.needed");
    home.done(&["key", "revoke", "lab", "--yes"]);
    assert!(home.done(&["key", "list"]).contains("revoked"));
    assert_eq!(home.done(&["complete", "--", "key", "revoke", "l"]), "lab\n");
    assert!(home.done(&["device", "list", "--json"]).contains("\"total\":0"));
    home.refused(&["device", "show", "nobody"], 5, "device.not-found");
    home.refused(&["device", "forget", "nobody"], 5, "device.not-found");
    home.refused(&["device", "release", "nobody"], 5, "device.not-found");
    home.refused(&["why", "nobody", "else"], 5, "device.not-found");
    assert!(home.done(&["sessions", "--json"]).contains("weft.connections/1"));
    assert!(home.done(&["device", "list", "--deleted", "--json"]).contains("weft.tombstones/1"));

    let (status, rest) = server.end(Signal::TERM);
    assert_eq!(status, Some(0), "{rest}");
    assert!(rest.ends_with("database closed\n"), "{rest}");
    assert!(!home.path().join("socket").exists());
    assert!(!home.data().join("weft.db-wal").exists(), "one file holds everything");
    let (status, _) = home.serve().end(Signal::INT);
    assert_eq!(status, Some(130));
}

#[test]
fn a_killed_server_starts_again_with_everything() {
    let home = Home::initialised();
    let server = home.serve();
    home.done(&["key", "create", "--name", "lab", "--quiet"]);
    let (status, _) = server.end(Signal::KILL);
    assert_eq!(status, None);
    let server = home.serve();
    assert!(home.done(&["key", "list"]).contains("lab"));
    drop(server);
}

#[test]
fn a_join_string_that_nobody_sees_is_an_error() {
    let home = Home::initialised();
    let _server = home.serve();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    for flag in ["--quiet", "--json", "--needs-approval"] {
        let mut command = home.command(&["key", "create", "--name", "lab", flag]);
        let output = command.stdout(full.try_clone().unwrap()).output().unwrap();
        assert_eq!(status(&output), 1, "{flag}");
        let text = errors(&output);
        assert!(text.contains("error[output.lost]: "), "{flag}: {text}");
        home.done(&["key", "revoke", "lab", "--yes"]);
    }
    let picture = home.path().join("join.svg");
    let path = picture.to_str().unwrap();
    home.done(&["key", "create", "--qr-svg", path]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&picture), 0o600);
    let before = fs::read(&picture).unwrap();
    let keys = home.done(&["key", "list"]).lines().count();
    home.refused(&["key", "create", "--qr-svg", path], 1, "output.file");
    assert_eq!(fs::read(&picture).unwrap(), before);
    assert_eq!(home.done(&["key", "list"]).lines().count(), keys, "no key was made");
}

#[test]
fn open_files_are_raised_as_far_as_may_be() {
    let home = Home::initialised();
    let mut command =
        home.command_of("sh", &["-c", "ulimit -S -n 64 && exec \"$0\" \"$@\"", PROGRAM]);
    command.args(["serve", "--listen", "127.0.0.1:0"]).env("PATH", "/usr/bin:/bin");
    let server = Server::start(command);
    let limits = format!("/proc/{}/limits", server.child.id());
    let limits = fs::read_to_string(limits).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
}

#[test]
fn says_its_version_and_completes_without_a_server() {
    let home = Home::new();
    let output = Command::new(PROGRAM).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let start = format!("weft-coordinator {} (", env!("CARGO_PKG_VERSION"));
    assert!(text.starts_with(&start) && text.contains("protocol 1, map format 1)"), "{text}");
    for shell in ["bash", "zsh", "fish"] {
        let script = home.done(&["completions", shell]);
        assert!(script.contains("weft-coordinator complete --"), "{script}");
    }
    assert_eq!(home.done(&["complete", "--", "key", "rev"]), "revoke\n");
    assert_eq!(home.done(&["complete", "--", "device", "show", ""]), "");
}

#[test]
fn relays_are_announced_and_their_secrets_are_read_at_the_start() {
    let home = Home::initialised();
    let (file, secret) = (home.data().join("coordinator.toml"), home.path().join("fra1.secret"));
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str(&format!(
        "\n[[relays]]\nname = \"fra1\"\naddress = \"203.0.113.10\"\ntcp = 443\nsecret_file = {secret:?}\n"
    ));
    fs::write(&file, &text).unwrap();
    let checked = home.done(&["config", "check"]);
    assert!(checked.contains("relays.fra1.secret_file"), "{checked}");
    let said = home.refused(&["serve", "--listen", "127.0.0.1:0"], 2, "relay.secret");
    assert!(said.contains("from:   relays.fra1.secret_file"), "{said}");
    fs::write(&secret, "canary\n").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    let said = home.refused(&["serve", "--listen", "127.0.0.1:0"], 4, "relay.secret-open");
    assert!(said.contains("chmod 600") && !said.contains("canary"), "{said}");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let server = home.serve();
    assert!(
        server.said.contains("  relay     fra1 203.0.113.10 3478/udp 443/tcp\n"),
        "{}",
        server.said
    );
    drop(server);
    let store = SqliteStore::open(&home.data().join("weft.db"), fleet::NOW).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let relays = runtime.block_on(store.relays()).unwrap();
    assert_eq!((relays.len(), relays[0].number, relays[0].is.name.as_str()), (1, 1, "fra1"));
}

#[test]
fn a_relay_in_the_process_is_announced_as_long_as_it_runs() {
    let home = Home::initialised();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--public", "127.0.0.1"];
    let relays = || {
        let store = SqliteStore::open(&home.data().join("weft.db"), fleet::NOW).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(store.relays()).unwrap()
    };
    let server = Server::start(home.command(&[&serve[..], &["--with-relay"]].concat()));
    let port = server.said.split(" stun ").nth(1).unwrap().split(' ').next().unwrap();
    let line = format!("  relay     coordinator 127.0.0.1 {port}/udp\n");
    assert!(server.said.contains(&line), "{}", server.said);
    let (ended, rest) = server.end(Signal::TERM);
    assert_eq!(ended, Some(0), "{rest}");
    assert_eq!(relays().len(), 1);
    drop(Server::start(home.command(&serve)));
    assert_eq!(relays(), []);
    assert_eq!(status(&home.run(&[&serve[..], &["--with-relay=0"]].concat())), 2);
}
