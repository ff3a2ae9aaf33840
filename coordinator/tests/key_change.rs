//! The coordinator's own key changes: announced, heard, switched, followed; and
//! what is left when that is cut short.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use common::fleet::{self, new_key};
use common::program::{Home, PUBLIC};
use rustix::process::Signal;
use serde_json::{Value, json};
use weft_coordinator::domain::key::{KeyState, NewKey};
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::bus::{Carrier, Class, Inbound as _, Uplink};
use weft_coordinator::store::sqlite::SqliteStore;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::device::Initiator;
use weft_wire::id::{PublicKey, Revision, Secret};
use weft_wire::join::JoinString;
use weft_wire::map::MapApplied;
use world::{Device, EPOCH, NETWORK, World};

/// How much later each kill falls than the one before.
const STEP: Duration = Duration::from_micros(1_500);

/// A home with its recovery key.
fn home() -> (Home, String) {
    let home = Home::new();
    let recovery = home.done(&["init", "--public", PUBLIC, "--quiet"]);
    (home, recovery.trim().to_owned())
}

/// Runs commands while the server does.
fn served<T>(home: &Home, work: impl FnOnce() -> T) -> T {
    let server = home.serve();
    let done = work();
    let (status, rest) = server.end(Signal::TERM);
    assert_eq!(status, Some(0), "{rest}");
    done
}

fn shown(home: &Home) -> Value {
    serde_json::from_str(&home.done(&["coordinator-key", "show", "--json"])).unwrap()
}

fn switch<'a>(recovery: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["coordinator-key", "switch", "--recovery-key", recovery], more].concat()
}

/// Takes devices in behind the back of a server that does not run.
fn enrol(home: &Home, names: &[&str]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = SqliteStore::open(&home.data().join("weft.db"), UnixMs(1)).unwrap();
    runtime.block_on(async {
        let key = fleet::key(&store, NewKey { master: 0, ..new_key() }).await;
        for name in names {
            fleet::enrol(&store, key.id, name).await;
        }
    });
}

fn announce(home: &Home) {
    served(home, || home.done(&["coordinator-key", "announce"]));
}

#[test]
fn a_planned_change_from_the_announcement_to_new_join_strings() {
    let (home, recovery) = home();
    let join = |name: &str| {
        let line = home.done(&["key", "create", "--name", name, "-q"]);
        JoinString::parse(&line).ok().unwrap().coordinator
    };
    let print = |key: &PublicKey| weft_noise::mac::fingerprint(key).to_string();
    let (before, old, new) = served(&home, || {
        let before = shown(&home);
        assert_eq!((&before["generation"], &before["announced_at"]), (&json!(0), &Value::Null));
        let old = join("old");
        home.refused(&switch(&recovery, &["--yes"]), 6, "serve.db-locked");
        let text = home.done(&["coordinator-key", "announce"]);
        assert!(text.contains("announced 2") && text.contains("all 0 active"), "{text}");
        let again = shown(&home)["announced_at"].clone();
        home.done(&["coordinator-key", "announce"]);
        assert_eq!(shown(&home)["announced_at"], again, "once is enough");
        (before, old, join("new"))
    });
    assert_eq!((print(&old), print(&new)), {
        let print = |name: &str| before[name].as_str().unwrap().to_owned();
        (print("current"), print("next"))
    });

    // Without a yes, or with another installation's recovery key, nothing is done.
    let key = home.data().join("coordinator.key");
    let file = fs::read(&key).unwrap();
    home.refused(&switch(&recovery, &[]), 2, "confirm.needed");
    let (_, other) = self::home();
    home.refused(&switch(&other, &["--yes"]), 4, "recover.mismatch");
    assert_eq!(fs::read(&key).unwrap(), file);
    let text = home.done(&switch(&recovery, &["--yes"]));
    assert!(text.contains("generation 1"), "{text}");
    assert!(!text.contains("WREC1"), "{text}");

    served(&home, || {
        let after = shown(&home);
        assert_eq!((&after["current"], &after["generation"]), (&before["next"], &json!(1)));
        assert_eq!(after["announced_at"], Value::Null);
        let list = home.done(&["key", "list"]);
        let state = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(state("old").ends_with("outdated"), "{list}");
        assert!(state("new").ends_with("active"), "{list}");
        assert_eq!(join("later"), new);
        let audit = home.done(&["audit", "--json"]);
        for action in ["installation.key-announce", "installation.key-switch"] {
            assert_eq!(audit.matches(action).count(), 1, "{action}: {audit}");
        }
        assert!(home.done(&["audit", "--verify"]).starts_with("the chain holds"));
    });
    // The same recovery key gives the file of today.
    let file = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    home.done(&["recover", "--recovery-key", &recovery]);
    assert_eq!(fs::read(&key).unwrap(), file);
}

#[test]
fn a_change_waits_for_devices_or_cuts_them_off() {
    let (home, recovery) = home();
    enrol(&home, &["gw-a", "gw-b"]);
    let text = home.refused(&switch(&recovery, &["--yes"]), 6, "coordinator-key.unannounced");
    assert!(text.contains("coordinator-key announce"), "{text}");
    announce(&home);
    let text = home.refused(&switch(&recovery, &["--yes"]), 6, "coordinator-key.unheard");
    assert!(text.contains("2 of 2 active devices have not heard"), "{text}");
    assert!(text.contains("gw-a, gw-b"), "{text}");
    // Without a yes the number is said all the same.
    let text = home.refused(&switch(&recovery, &["--cut-off"]), 2, "confirm.needed");
    assert!(text.contains("2 active devices cut off: gw-a, gw-b"), "{text}");
    let text = home.done(&switch(&recovery, &["--cut-off", "--yes", "--json"]));
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&said["cut_off"], &said["heard"]), (&json!(2), &json!(0)));
}

/// What a crash between the two steps leaves, and copies that are put back.
#[test]
fn file_and_database_of_two_generations_find_together() {
    let (home, recovery) = home();
    let (key, database) = (home.data().join("coordinator.key"), home.data().join("weft.db"));
    let first = fs::read(&key).unwrap();
    let backup = home.path().join("backup");
    home.done(&["backup", backup.to_str().unwrap()]);
    announce(&home);
    let announced = fs::read(&database).unwrap();
    home.done(&switch(&recovery, &["--yes"]));
    let switched = fs::read(&key).unwrap();

    // The file was replaced, the database was not.
    fs::write(&database, &announced).unwrap();
    served(&home, || {
        assert_eq!(shown(&home)["generation"], 1);
        assert!(home.done(&["audit", "--json"]).contains("installation.key-switch"));
    });
    // A backup from before the announcement.
    home.done(&["restore", backup.to_str().unwrap()]);
    served(&home, || assert_eq!(shown(&home)["generation"], 1));
    // An older copy of the key file is no key file for what came after it.
    fs::write(&key, &first).unwrap();
    let text = home.refused(&["serve"], 2, "serve.key-older");
    assert!(text.contains("of generation 0"), "{text}");
    assert!(text.contains("recover --recovery-key"), "{text}");
    fs::remove_file(&key).unwrap();
    home.done(&["recover", "--recovery-key", &recovery]);
    assert_eq!(fs::read(&key).unwrap(), switched);

    // The database is lost, and only a backup from before the change is left.
    fs::remove_file(&key).unwrap();
    fs::remove_file(&database).unwrap();
    home.refused(&["recover", "--recovery-key", &recovery], 2, "serve.not-initialised");
    home.done(&["recover", "--recovery-key", &recovery, "--generation", "1"]);
    assert_eq!(fs::read(&key).unwrap(), switched);
    home.done(&["restore", backup.to_str().unwrap()]);
    served(&home, || assert_eq!(shown(&home)["generation"], 1));
    // A file that is older than the database is not made.
    fs::remove_file(&key).unwrap();
    let older = ["recover", "--recovery-key", &recovery, "--generation", "0"];
    home.refused(&older, 4, "recover.mismatch");
}

#[expect(clippy::disallowed_methods, reason = "waits for nothing: it chooses when a kill falls")]
fn pause(delay: Duration) {
    std::thread::sleep(delay);
}

#[test]
fn a_change_that_is_killed_is_done_or_not() {
    let (home, recovery) = home();
    let (mut generation, mut delay) = (0, Duration::ZERO);
    while generation < 2 {
        let now = served(&home, || {
            let shown = shown(&home);
            if shown["announced_at"].is_null() {
                home.done(&["coordinator-key", "announce"]);
            }
            shown["generation"].as_u64().unwrap()
        });
        assert!((generation..=generation + 1).contains(&now), "from {generation} to {now}");
        // Wherever a kill falls is right, and later ones fall into each step.
        delay = if now == generation { delay + STEP } else { Duration::ZERO };
        assert!(delay < Duration::from_secs(2), "it never comes to its end");
        generation = now;
        let mut command = home.command(&switch(&recovery, &["--yes"]));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        pause(delay);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// The device's side: who would answer it now.
async fn answered(world: &World, device: &mut Device, pin: &PublicKey) -> bool {
    let identity = StaticSecret::from_bytes(device.identity.0);
    device.initiator = Initiator::new(identity, pin).unwrap();
    let (hello, pending) = device.hello(&device.device_psk(), None);
    let (inbox, class) = (device.inbox, Class::Device);
    let uplink = Uplink { inbox, class, carrier: Carrier::Mqtt, address: None, frame: &hello };
    let answer = world.channel.handle_uplink(uplink).await;
    let Some(welcome) = answer.frames.first() else { return false };
    device.take_welcome(pending, welcome);
    true
}

#[tokio::test]
async fn devices_that_heard_follow_and_the_others_get_no_answer() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut heard = world.member(&key, "gw-a").await;
    let mut away = world.member(&key, "gw-b").await;
    let waits = world.key(|new| new.needs_approval = true).await;
    let mut waiting = Device::new(&world, "gw-c");
    waiting.enrol(&world, &waits).await.unwrap();

    let (first, second) = (world.secrets.public(), world.secrets.next.public());
    let by = || world.by();
    let change = world.store.announce_key(second, by()).await.unwrap();
    assert_eq!((change.heard, change.unheard.active, change.unheard.others), (0, 2, 1));
    let revision = world.store.network(NETWORK).await.unwrap().unwrap().revision;
    // Who holds the map before has not heard; who says so of this one has.
    let before = Revision(revision.0 - 1);
    heard
        .send(|record| {
            record.put(&MapApplied { request: 0, epoch: EPOCH, revision: before }).unwrap()
        })
        .await;
    let mut applied = world.store.applied();
    heard
        .send(|record| record.put(&MapApplied { request: 0, epoch: EPOCH, revision }).unwrap())
        .await;
    while applied.recv().await.unwrap() != (heard.id(), revision) {}
    let change = world.store.key_change().await.unwrap();
    assert_eq!((change.heard, change.unheard.listed()), (1, "gw-b".to_owned()));
    let delta = world.store.map_since(heard.id(), before).await.unwrap().unwrap();
    assert!(format!("{:?}", delta.ops).contains("next_pin: Some"), "{delta:?}");
    // Until the change both keys are answered.
    assert!(
        answered(&world, &mut away, &first).await && answered(&world, &mut away, &second).await
    );

    let seed = Secret([0x42; 32]);
    let secrets = world.secrets.switched(&seed).unwrap();
    world.store.key_switched(secrets.public(), secrets.generation, by()).await.unwrap();
    let key = world.store.key(key.id).await.unwrap().unwrap();
    assert_eq!(key.state(UnixMs(1)), KeyState::Outdated);
    let world = world.restarted_with(secrets).await;
    assert!(!answered(&world, &mut heard, &first).await, "the key of before is given up");
    assert!(answered(&world, &mut heard, &second).await);
    assert!(!answered(&world, &mut away, &first).await, "it cannot know whom to believe");
    let delta = world.store.map_since(heard.id(), revision).await.unwrap().unwrap();
    assert!(format!("{:?}", delta.ops).contains("next_pin: None"), "{delta:?}");
}
