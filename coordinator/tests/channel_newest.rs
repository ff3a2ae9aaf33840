//! WELCOME names the map that concerns the device: a fleet that comes back asks
//! for what it missed, and for nothing else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use common::fleet::enrolment;
use endpoint::NOW_MS;
use tokio::task::JoinSet;
use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::policy::{Policy, Rule, parse_traffic};
use weft_coordinator::domain::time::UnixMs;
use weft_wire::frame::{FrameKind, RecordHeader, kind};
use weft_wire::id::{Epoch, Revision};
use weft_wire::item::{Item as _, Ping};
use weft_wire::map::{MapReady, Page, PeerUpsert};
use world::{Device, EPOCH, NETWORK, World, find, held};

fn site(site: &str) -> Rule {
    Rule {
        name: String::new(),
        from: vec![format!("site={site}").parse().unwrap()],
        to: vec![format!("site={site}").parse().unwrap()],
        allow: parse_traffic("any").unwrap(),
    }
}

/// Two devices of one site and one of another, which no rule joins to them.
async fn sites(world: &World) -> [Device; 3] {
    let policy = Policy { rules: vec![site("a"), site("b")] };
    world.store.set_policy(NETWORK, policy, None, world.by()).await.unwrap();
    let a = world.key(|key| key.tags = "site=a".parse().unwrap()).await;
    let b = world.key(|key| key.tags = "site=b".parse().unwrap()).await;
    [
        world.member(&a, "first").await,
        world.member(&a, "second").await,
        world.member(&b, "other").await,
    ]
}

async fn newest(world: &World) -> Revision {
    world.store.network(NETWORK).await.unwrap().unwrap().revision
}

async fn rename(world: &World, device: &Device, name: &str) {
    let decision = Decision::Rename { name: name.to_owned() };
    world.store.decide(device.id(), decision, None, world.by()).await.unwrap();
}

/// HELLO to WELCOME over a new line; what WELCOME names.
async fn welcomed(world: &World, device: &mut Device, holds: (Epoch, Revision)) -> Revision {
    device.holds = holds;
    device.come_back(world).await;
    let (hello, pending) = device.hello(&device.device_psk(), None);
    device.send_hello(&hello).await;
    // What was on its way in the session before comes first.
    let welcome = loop {
        let frame = device.read().await;
        if kind(&frame) == Ok(FrameKind::Welcome) {
            break frame;
        }
    };
    device.take_welcome(pending, &welcome);
    device.welcome.as_ref().unwrap().revision
}

/// The first record of the session and its answer: the map that it tells of.
async fn confirmed(device: &mut Device) -> Option<Revision> {
    let request = device.next_request();
    device.send(|writer| writer.put(&Ping { request }).unwrap()).await;
    let session = device.welcome.as_ref().unwrap().session;
    loop {
        let frame = device.read().await;
        if RecordHeader::parse(&frame).unwrap().session == session {
            return find::<MapReady>(&device.open(&frame)).map(|ready| ready.revision);
        }
    }
}

async fn named(world: &World, device: &mut Device, holds: (Epoch, Revision)) -> Revision {
    let named = welcomed(world, device, holds).await;
    assert_eq!(confirmed(device).await, None, "WELCOME has said it");
    named
}

#[tokio::test]
async fn a_device_that_missed_nothing_hears_of_what_it_holds() {
    let world = World::new().await;
    let [mut first, second, other] = sites(&world).await;
    let at = newest(&world).await;
    rename(&world, &other, "renamed").await;
    assert!(newest(&world).await > at);
    assert_eq!(named(&world, &mut first, (EPOCH, at)).await, at);
    // A peer's change is missed, and so is a policy that speaks of it.
    rename(&world, &second, "moved").await;
    let changed = newest(&world).await;
    assert_eq!(named(&world, &mut first, (EPOCH, at)).await, changed);
    let rules = vec![site("a"), site("b"), site("c")];
    world.store.set_policy(NETWORK, Policy { rules }, None, world.by()).await.unwrap();
    assert_eq!(named(&world, &mut first, (EPOCH, changed)).await, changed);
    let rules = vec![site("b"), site("c")];
    world.store.set_policy(NETWORK, Policy { rules }, None, world.by()).await.unwrap();
    let ruled = newest(&world).await;
    assert_eq!(named(&world, &mut first, (EPOCH, changed)).await, ruled);
    // What every device is told concerns it too.
    world.store.set_servers(vec!["192.0.2.1:7420".parse().unwrap()], world.by()).await.unwrap();
    let all = newest(&world).await;
    assert_eq!(named(&world, &mut first, (EPOCH, ruled)).await, all);
}

#[tokio::test]
async fn a_map_of_another_life_counts_for_nothing() {
    let world = World::new().await;
    let [mut first, _, _] = sites(&world).await;
    let at = newest(&world).await;
    for held in [(Epoch(8), at), (Epoch(0), Revision(0))] {
        assert_eq!(named(&world, &mut first, held).await, at, "{held:?}");
    }
    // What comes of that claim once it is confirmed is a matter of its own.
    assert_eq!(welcomed(&world, &mut first, (EPOCH, Revision(at.0 + 7))).await, at);
}

/// Between its HELLO and its first record a device has no session in which it
/// could be told of a change.
#[tokio::test]
async fn a_change_during_the_handshake_is_told_in_the_first_answer() {
    let world = World::new().await;
    let [mut first, second, other] = sites(&world).await;
    let at = newest(&world).await;
    assert_eq!(named(&world, &mut first, (EPOCH, at)).await, at);
    assert_eq!(welcomed(&world, &mut first, (EPOCH, at)).await, at);
    rename(&world, &other, "elsewhere").await;
    assert_eq!(confirmed(&mut first).await, None);
    assert_eq!(welcomed(&world, &mut first, (EPOCH, at)).await, at);
    rename(&world, &second, "meanwhile").await;
    // Told in the session before, which it may have lost.
    let lost = first.read().await;
    let session = first.welcome.as_ref().unwrap().session;
    assert_ne!(RecordHeader::parse(&lost).unwrap().session, session);
    assert_eq!(confirmed(&mut first).await, Some(newest(&world).await));
}

/// A device of which it is known what it holds need not ask.
#[tokio::test]
async fn a_small_change_comes_with_its_announcement() {
    let world = World::new().await;
    let [mut first, second, _] = sites(&world).await;
    let mut at = newest(&world).await;
    assert_eq!(named(&world, &mut first, (EPOCH, at)).await, at);
    for name in ["one", "two"] {
        rename(&world, &second, name).await;
        let items = first.items().await;
        let ready: MapReady = find(&items).unwrap();
        let page = items.iter().find(|item| item.tag == Page::TAG).expect("the change itself");
        let (page, ops) = page.raw().decode_nested::<Page>().unwrap();
        assert_eq!((page.epoch, page.from, page.to), (EPOCH, at, ready.revision));
        assert_eq!((page.page, page.of), (0, 1));
        let peer: PeerUpsert = find(&held(ops.rest())).unwrap();
        assert_eq!((peer.device, peer.name.as_str()), (second.id(), name));
        // The next one builds on it, whether this one's answer came or not.
        at = page.to;
    }
    // One that holds something else than was thought is told, and asks.
    first.holds = (EPOCH, Revision(at.0 - 1));
    let before = welcomed(&world, &mut first, (EPOCH, Revision(at.0 - 1))).await;
    assert_eq!((confirmed(&mut first).await, before), (None, at));
    rename(&world, &second, "three").await;
    let items = first.items().await;
    assert!(find::<MapReady>(&items).is_some());
    assert!(items.iter().all(|item| item.tag != Page::TAG));
}

/// After a restart nobody is here yet: the window is sized to who is enrolled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_to_come_back_is_sized_to_the_enrolled() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut enrolled = JoinSet::new();
    for n in 0..1_300 {
        let (store, enrolment) = (world.store.clone(), enrolment(key.id, &format!("d{n}")));
        enrolled.spawn(async move { store.enrol(enrolment, UnixMs(NOW_MS)).await });
    }
    assert!(enrolled.join_all().await.iter().all(|one| matches!(one, Ok(Ok(_)))));
    let device = world.member(&key, "back").await;
    let welcome = device.welcome.as_ref().unwrap();
    assert_eq!(world.channel.sessions().table().devices(), 1);
    assert_eq!((welcome.reconnect_min_s, welcome.reconnect_max_s), (0, 3));
}
