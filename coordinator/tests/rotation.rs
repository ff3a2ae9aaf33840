//! Rotation of WireGuard keys, from the question to the new key in use, over
//! MQTT and the store.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use endpoint::{NOW_MS, soon};
use weft_coordinator::domain::rotation::Step;
use weft_coordinator::service::clock::Clock;
use weft_coordinator::service::rotation::Rotations;
use weft_coordinator::store::StoreError;
use weft_noise::key::StaticSecret;
use weft_wire::id::{DeviceId, Epoch, PublicKey, Revision};
use weft_wire::item::Done;
use weft_wire::map::{
    KeyReport, MapApplied, MapNext, MapReady, OwnKeys, OwnSecond, Page, PeerUpsert, SecondKind,
};
use world::{Device, EPOCH, Held, TestRandom, World, find, held};

const DAY_MS: u64 = 86_400_000;

struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts what decides on steps; devices count as away at once.
fn run(world: &World, clock: &Arc<SetClock>, age: Option<Duration>) -> tokio::task::JoinHandle<()> {
    let presence = Arc::clone(world.channel.presence()) as _;
    let clock = Arc::clone(clock) as _;
    let rotations = Rotations::new(Arc::clone(&world.store), presence, clock, age)
        .with_coming_back(Duration::ZERO);
    let (changes, applied) = (world.store.changes(), world.store.applied());
    tokio::spawn(async move { match rotations.run(changes, applied).await {} })
}

/// Pulls what changed since `from`, and gives the ops. Pages that came along with
/// an announcement before are passed over where there is newer by now.
async fn pull(world: &World, device: &mut Device, from: Revision) -> (Revision, Vec<Held>) {
    let holder = world.store.holder(device.id()).await.unwrap().unwrap();
    let newest = holder.newest.expect("a member").own;
    let epoch = if from.0 == 0 { Epoch(0) } else { EPOCH };
    let next = MapNext { epoch, from, page: 0 };
    device.send(|writer| writer.put(&next).unwrap()).await;
    loop {
        let items = device.items().await;
        let Some(item) = items.iter().find(|item| item.tag == 21) else { continue };
        let (page, ops) = item.raw().decode_nested::<Page>().unwrap();
        assert_eq!(page.of, 1);
        if page.from == from && page.to >= newest {
            return (page.to, held(ops.rest()));
        }
    }
}

async fn confirm(device: &mut Device, revision: Revision) {
    let applied = MapApplied { request: 0, epoch: EPOCH, revision };
    device.send(|writer| writer.put(&applied).unwrap()).await;
}

fn peer(ops: &[Held], id: DeviceId) -> PeerUpsert {
    let mut peers = ops.iter().filter(|op| op.tag == 40).map(Held::decode::<PeerUpsert>);
    peers.find(|peer| peer.device == id).expect("the peer is named")
}

fn new_key() -> PublicKey {
    StaticSecret::generate(&mut TestRandom).public()
}

/// Two members that hold their maps.
async fn pair(world: &World) -> [(Device, Revision); 2] {
    let key = world.key(|_| ()).await;
    let mut a = world.member(&key, "gw-a").await;
    let mut b = world.member(&key, "gw-b").await;
    let (at_a, _) = pull(world, &mut a, Revision(0)).await;
    let (at_b, _) = pull(world, &mut b, Revision(0)).await;
    confirm(&mut a, at_a).await;
    confirm(&mut b, at_b).await;
    [(a, at_a), (b, at_b)]
}

/// The device is asked, makes a key and reports it.
async fn ask_and_report(world: &World, a: &mut Device, at: &mut Revision) -> PublicKey {
    world.store.rotate(a.id(), Step::Ask, world.by()).await.unwrap().unwrap();
    let _: MapReady = a.wait_for().await;
    let (to, ops) = pull(world, a, *at).await;
    *at = to;
    let told: OwnKeys = find(&ops).unwrap();
    assert_eq!((told.active, told.second), (a.wg_key, None));
    assert!(told.wanted > 0);
    confirm(a, to).await;
    let key = new_key();
    let report = KeyReport { request: a.next_request(), rotation: told.wanted, key };
    a.send(|writer| writer.put(&report).unwrap()).await;
    let done: Done = a.wait_for().await;
    assert_eq!(done.request, report.request);
    key
}

#[tokio::test]
async fn a_key_comes_into_use_when_all_have_confirmed() {
    let world = World::new().await;
    let clock = Arc::new(SetClock(AtomicU64::new(NOW_MS)));
    let _running = run(&world, &clock, None);
    let [(mut a, mut at_a), (mut b, at_b)] = pair(&world).await;
    let old = a.wg_key;
    let new = ask_and_report(&world, &mut a, &mut at_a).await;
    assert!(matches!(
        world.store.rotate(a.id(), Step::Ask, world.by()).await,
        Err(StoreError::Rotating(true))
    ));
    let (at_a, ops) = pull(&world, &mut a, at_a).await;
    let next = OwnSecond { key: new, kind: SecondKind::Next };
    assert_eq!(find::<OwnKeys>(&ops).unwrap().second, Some(next));
    let _: MapReady = b.wait_for().await;
    let (at_b, ops) = pull(&world, &mut b, at_b).await;
    let seen = peer(&ops, a.id());
    let second = seen.second.unwrap();
    assert_eq!((seen.key, second.key, second.kind), (old, new, SecondKind::Next));
    assert!(second.psk.0 == seen.psk.0 && !seen.psk.is_none());

    // One of two has confirmed: nothing comes into use.
    confirm(&mut b, at_b).await;
    let mut applied = world.store.applied();
    let key = |device: weft_coordinator::domain::device::Device| device.wg_key;
    assert_eq!(world.store.device(a.id()).await.unwrap().map(key), Some(old));
    confirm(&mut a, at_a).await;
    while soon(applied.recv()).await.unwrap().0 != a.id() {}

    let _: MapReady = b.wait_for().await;
    let (_, ops) = pull(&world, &mut b, at_b).await;
    let seen = peer(&ops, a.id());
    let second = seen.second.unwrap();
    assert_eq!((seen.key, second.key, second.kind), (new, old, SecondKind::Previous));
    assert_eq!(second.until_ms, NOW_MS + 3_600_000 + DAY_MS, "lease and a day");
    let (_, ops) = pull(&world, &mut a, at_a).await;
    let told: OwnKeys = find(&ops).unwrap();
    assert_eq!((told.active, told.wanted), (new, 0));
}

#[tokio::test]
async fn after_a_day_who_did_not_confirm_is_not_waited_for() {
    let world = World::new().await;
    let clock = Arc::new(SetClock(AtomicU64::new(NOW_MS)));
    let [(mut a, mut at_a), (b, _)] = pair(&world).await;
    let new = ask_and_report(&world, &mut a, &mut at_a).await;
    let (at_a, _) = pull(&world, &mut a, at_a).await;
    let mut applied = world.store.applied();
    confirm(&mut a, at_a).await;
    while soon(applied.recv()).await.unwrap() != (a.id(), at_a) {}
    let active = || async { world.store.device(a.id()).await.unwrap().unwrap().wg_key };
    let mut changes = world.store.changes();

    // b is there and silent; a coordinator starts anew in the middle.
    clock.0.store(NOW_MS + DAY_MS - 1, Ordering::Relaxed);
    let running = run(&world, &clock, None);
    let quiet = tokio::time::timeout(Duration::from_millis(300), changes.recv());
    assert!(quiet.await.is_err(), "a step before its time");
    running.abort();
    assert_ne!(active().await, new);
    clock.0.store(NOW_MS + DAY_MS, Ordering::Relaxed);
    let running = run(&world, &clock, None);
    soon(changes.recv()).await.unwrap();
    running.abort();
    assert_eq!(active().await, new);

    // The key before is forgotten a day after the lease.
    clock.0.store(NOW_MS + 2 * DAY_MS + 3_600_000 + 1, Ordering::Relaxed);
    let _running = run(&world, &clock, None);
    soon(changes.recv()).await.unwrap();
    let device = world.store.device(a.id()).await.unwrap().unwrap();
    assert_eq!((device.wg_key, device.rotation.second), (new, None));
    drop(b);
}

#[tokio::test]
async fn what_is_withdrawn_is_withdrawn_everywhere() {
    let world = World::new().await;
    let [(mut a, mut at_a), (mut b, at_b)] = pair(&world).await;
    let new = ask_and_report(&world, &mut a, &mut at_a).await;
    let _: MapReady = b.wait_for().await;
    let (at_b, ops) = pull(&world, &mut b, at_b).await;
    assert_eq!(peer(&ops, a.id()).second.map(|second| second.key), Some(new));
    world.store.rotate(a.id(), Step::Withdraw, world.by()).await.unwrap().unwrap();
    let _: MapReady = b.wait_for().await;
    let (_, ops) = pull(&world, &mut b, at_b).await;
    assert!(peer(&ops, a.id()).second.is_none());
    let (_, ops) = pull(&world, &mut a, at_a).await;
    let told: OwnKeys = find(&ops).unwrap();
    assert_eq!((told.active, told.second, told.wanted), (a.wg_key, None, 0));

    // The report comes once more, too late; another's key is nobody's.
    let late = KeyReport { request: a.next_request(), rotation: 1, key: new };
    a.send(|writer| writer.put(&late).unwrap()).await;
    let _: Done = a.wait_for().await;
    world.store.rotate(a.id(), Step::Ask, world.by()).await.unwrap();
    let theirs = KeyReport { request: a.next_request(), rotation: 2, key: b.wg_key };
    a.send(|writer| writer.put(&theirs).unwrap()).await;
    let _: Done = a.wait_for().await;
    let device = world.store.device(a.id()).await.unwrap().unwrap();
    assert_eq!((device.wg_key, device.rotation.second), (a.wg_key, None));
}

#[tokio::test]
async fn old_keys_are_asked_for_by_themselves() {
    let world = World::new().await;
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let clock = Arc::new(SetClock(AtomicU64::new(NOW_MS + 90 * DAY_MS - 1)));
    let [(a, _), (b, _)] = pair(&world).await;
    let mut changes = world.store.changes();
    let running = run(&world, &clock, Some(days(90)));
    let quiet = tokio::time::timeout(Duration::from_millis(300), changes.recv());
    assert!(quiet.await.is_err(), "they are not old enough");
    running.abort();
    clock.0.fetch_add(1, Ordering::Relaxed);
    let _running = run(&world, &clock, Some(days(90)));
    let asked = || async { world.store.rotating().await.unwrap().len() };
    while asked().await < 2 {
        soon(changes.recv()).await.unwrap();
    }
    drop((a, b));
}
