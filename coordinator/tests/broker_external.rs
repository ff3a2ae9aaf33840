//! The coordinator at a broker that is not its own: what such a broker may do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod foreign;
mod world;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use common::fleet::wireguard;
use endpoint::{Echo, inbox, soon};
use foreign::{Foreign, is_open, publish, record, stands};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use weft_coordinator::service::bus::{Bus, Delivery, Inbound};
use weft_coordinator::transport::external::{
    DropReason, External, Joined, OF_INBOX, OF_ONE, Standing, Trouble,
};
use weft_coordinator::transport::mqtt::hub::Hub;
use weft_wire::id::Inbox;
use weft_wire::item::{Ping, Registered};
use weft_wire::map::MapReady;
use weft_wire::topic::Topic;
use world::{Device, Login, World, enrolment_psk, find};

/// A coordinator's side around an [`Echo`].
struct Side {
    external: External,
    echo: Arc<Echo>,
    hub: Arc<Hub>,
}

impl Side {
    fn new(address: SocketAddr, echo: Echo) -> Self {
        let external = Login::new("weft-coordinator", "secret").external(address);
        let (echo, hub) = (Arc::new(echo), Arc::new(Hub::default()));
        let inbound: Arc<dyn Inbound> = Arc::clone(&echo) as _;
        tokio::spawn(external.clone().run(inbound, Arc::clone(&hub)));
        Self { external, echo, hub }
    }

    fn dropped(&self, why: DropReason) -> u64 {
        self.external.stats().dropped(why).get()
    }
}

/// How the first attempt failed.
async fn trouble(external: &External) -> Trouble {
    let failed = |standing: &Standing| matches!(standing, Standing::Closed(Some(_)));
    match stands(external, failed).await {
        Standing::Closed(Some(trouble)) => trouble,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn carries_both_ways_once_it_was_proved_to() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    let bus = Joined::new(Arc::clone(&side.hub), side.external.clone());
    let mut line = foreign.accept().await;
    line.let_in().await;
    line.grant().await;
    assert_eq!(bus.send(inbox(1), Bytes::from_static(b"early")), Delivery::Absent);
    assert!(!bus.reachable(inbox(1)));
    line.prove().await;
    stands(&side.external, is_open).await;
    assert_eq!(side.echo.returns.load(Ordering::SeqCst), 1);
    assert!(bus.reachable(inbox(1)));
    for n in 1..=20 {
        line.write(&record(inbox(n), &n.to_be_bytes())).await;
    }
    let mut answers = HashSet::new();
    for _ in 1..=20 {
        answers.insert(line.frame().await);
    }
    assert!((1..=20).all(|n: u32| answers.contains(&(inbox(n), n.to_be_bytes().to_vec()))));
    assert_eq!(bus.send(inbox(9), Bytes::from_static(b"pushed")), Delivery::Queued);
    assert_eq!(line.frame().await, (inbox(9), b"pushed".to_vec()));
}

#[tokio::test]
async fn one_inbox_is_answered_in_order() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    let mut line = foreign.open(&side.external).await;
    for n in 0..10_u8 {
        line.write(&record(inbox(1), &[n])).await;
    }
    for n in 0..10_u8 {
        assert_eq!(line.frame().await, (inbox(1), vec![n]));
    }
}

#[tokio::test]
async fn says_what_is_wrong_with_the_account_or_the_address() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    foreign.accept().await.write(&[0x20, 2, 0, 4]).await;
    assert_eq!(trouble(&side.external).await, Trouble::Denied(4));

    let side = Side::new(foreign.address, Echo::default());
    foreign.accept().await.write(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    assert_eq!(trouble(&side.external).await, Trouble::NotMqtt);

    let side = Side::new(foreign.address, Echo::default());
    drop(foreign.accept().await);
    assert_eq!(trouble(&side.external).await, Trouble::NotMqtt);

    let side = Side::new(foreign.address, Echo::default());
    let mut line = foreign.accept().await;
    line.let_in().await;
    let ([high, low], _) = line.subscription().await;
    line.write(&[0x90, 5, high, low, 0, 0x80, 0]).await;
    let refused = Trouble::NotSubscribed("weft/v1/r/0/+".to_owned());
    assert_eq!(trouble(&side.external).await, refused);

    let vacant = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let side = Side::new(vacant, Echo::default());
    assert_eq!(trouble(&side.external).await, Trouble::Refused);
}

#[tokio::test]
async fn a_broker_that_grants_and_does_not_deliver_is_found_out() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    let mut line = foreign.accept().await;
    line.let_in().await;
    line.grant().await;
    // Only what was sent to the own inbox comes back.
    let reads = async {
        while let Some((first, body)) = line.0.read().await {
            if body.windows(10).any(|part| part == b"weft/v1/d/") {
                line.write(&endpoint::Packet::new().bytes(&body).finish(first)).await;
            }
        }
    };
    let trouble = tokio::select! {
        () = reads => trouble(&side.external).await,
        trouble = trouble(&side.external) => trouble,
    };
    let missing = ["weft/v1/h/+", "weft/v1/r/0/+"].map(str::to_owned);
    assert_eq!(trouble, Trouble::Deaf(missing.to_vec()));
}

#[tokio::test]
async fn comes_back_after_every_end_of_a_connection() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    let line = foreign.open(&side.external).await;
    drop(line);
    let lost = stands(&side.external, |standing| !is_open(standing)).await;
    assert!(matches!(lost, Standing::Closed(Some(Trouble::Lost(_)))), "{lost:?}");
    assert_eq!(side.external.send(inbox(1), Bytes::from_static(b"x")), Delivery::Absent);

    // The second one breaks down in the middle of a packet.
    let mut line = foreign.open(&side.external).await;
    line.write(&[0x30, 100, 0, 9, b'w']).await;
    drop(line);
    stands(&side.external, |standing| !is_open(standing)).await;

    // The third sends what no broker sends.
    let mut line = foreign.open(&side.external).await;
    line.write(&[0xF0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]).await;
    stands(&side.external, |standing| !is_open(standing)).await;

    let mut line = foreign.open(&side.external).await;
    line.write(&record(inbox(1), b"alive")).await;
    assert_eq!(line.frame().await, (inbox(1), b"alive".to_vec()));
    assert_eq!(side.external.stats().opened.get(), 4);
    assert_eq!(side.echo.returns.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn what_is_worth_nothing_is_dropped_before_it_is_kept() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    let mut line = foreign.open(&side.external).await;
    let topic = Topic::Hello(inbox(1)).text();
    for packet in [
        publish(0x30, "weft/v1/x/y", b"frame"),
        publish(0x30, &Topic::Down(inbox(1)).text(), b"frame"),
        publish(0x30, "$SYS/broker/version", b"frame"),
        publish(0x31, &topic, b"frame"),
        publish(0x30, &topic, b""),
        publish(0x30, &topic, &[7; 3_841]),
        publish(0x30, &topic, b"worthless"),
        record(inbox(2), b"last"),
    ] {
        line.write(&packet).await;
    }
    assert_eq!(line.frame().await, (inbox(2), b"last".to_vec()));
    let drops = [
        (DropReason::Topic, 3),
        (DropReason::Retained, 1),
        (DropReason::Length, 2),
        (DropReason::Worthless, 1),
        (DropReason::Rate, 0),
    ];
    for (why, count) in drops {
        assert_eq!(side.dropped(why), count, "{why:?}");
    }
    assert_eq!(side.echo.handled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn every_inbox_has_a_budget_of_its_own() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    let mut line = foreign.open(&side.external).await;
    let flood: Vec<u8> = (0..1_000).flat_map(|_| record(inbox(1), b"silence")).collect();
    line.write(&flood).await;
    line.write(&record(inbox(2), b"another")).await;
    assert_eq!(line.frame().await, (inbox(2), b"another".to_vec()));
    let dropped = side.dropped(DropReason::Rate) + side.dropped(DropReason::Full);
    // A slow machine may let the bucket fill a little meanwhile.
    let allowed = u64::from(OF_INBOX.burst) + 200;
    assert!(dropped >= 1_000 - allowed, "{dropped} of 1,000 were dropped");
}

#[tokio::test]
async fn strangers_fill_a_queue_of_their_own() {
    let foreign = Foreign::new().await;
    let gate = Some(Semaphore::new(0));
    let side = Side::new(foreign.address, Echo { gate, ..Echo::default() });
    let mut line = foreign.open(&side.external).await;
    let flood: Vec<u8> = (0..5_000).flat_map(|n| record(inbox(n), b"stranger")).collect();
    line.write(&flood).await;
    line.write(&record(inbox(6_000), b"known")).await;
    line.write(&publish(0x30, "weft/v1/end", b"")).await;
    // All of it was read once the last was dropped.
    soon(async {
        while side.dropped(DropReason::Topic) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let kept = 5_000 - side.dropped(DropReason::Full);
    assert!(kept <= 32 * 33, "{kept} strangers are kept");
    side.echo.gate.as_ref().unwrap().add_permits(5_001);
    loop {
        let (from, _) = line.frame().await;
        if from == inbox(6_000) {
            break;
        }
    }
}

#[tokio::test]
async fn a_broker_that_does_not_read_costs_bounded_memory() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    let line = foreign.open(&side.external).await;
    let frame = Bytes::from(vec![7; 3_840]);
    let mut queued = 0_usize;
    for n in 0..40_000 {
        queued += usize::from(side.external.send(inbox(n), frame.clone()) == Delivery::Queued);
    }
    assert!(queued < 20_000, "{queued} frames are kept");
    assert!(side.external.stats().full.get() > 20_000);
    let of_one =
        (0..100).filter(|_| side.external.send(inbox(1), Bytes::new()) == Delivery::Queued);
    assert!(of_one.count() <= OF_ONE);
    drop(line);
    stands(&side.external, |standing| !is_open(standing)).await;
}

#[tokio::test]
async fn a_device_is_served_where_it_was_heard_last() {
    let foreign = Foreign::new().await;
    let side = Side::new(foreign.address, Echo::default());
    let bus = Joined::new(Arc::clone(&side.hub), side.external.clone());
    let mut line = foreign.open(&side.external).await;
    // It posted, and something waits for its next post.
    let now = tokio::time::Instant::now().into_std();
    assert!(side.hub.collect(inbox(1), 8, now).is_empty());
    assert_eq!(bus.send(inbox(1), Bytes::from_static(b"waits")), Delivery::Queued);
    line.write(&record(inbox(1), b"authentic")).await;
    assert_eq!(line.frame().await, (inbox(1), b"waits".to_vec()));
    assert_eq!(line.frame().await, (inbox(1), b"authentic".to_vec()));
    assert_eq!(bus.send(inbox(1), Bytes::from_static(b"later")), Delivery::Queued);
    assert_eq!(line.frame().await, (inbox(1), b"later".to_vec()));
}

/// A real service behind the double.
async fn world(foreign: &Foreign) -> (World, External) {
    let own = Login::new("weft-coordinator", "secret");
    let world = World::behind(foreign.address, &own, &Login::new("weft-device", "shared")).await;
    let external = world.foreign.as_ref().unwrap().0.clone();
    (world, external)
}

#[tokio::test]
async fn a_broker_that_vanishes_in_mid_handshake_costs_a_repetition() {
    let foreign = Foreign::new().await;
    let (world, external) = world(&foreign).await;
    let key = world.key(|_| {}).await;
    let mut line = foreign.open(&external).await;
    let mut device = Device::new(&world, "gw");
    let psk = enrolment_psk(&world, &key);
    let (hello, _lost) = device.hello(&psk, None);
    line.write(&publish(0x30, &Topic::Hello(device.inbox).text(), &hello)).await;
    drop(line);
    let mut line = foreign.open(&external).await;
    let (hello, pending) = device.hello(&psk, None);
    line.write(&publish(0x30, &Topic::Hello(device.inbox).text(), &hello)).await;
    let (to, welcome) = line.frame().await;
    assert_eq!(to, device.inbox);
    device.take_welcome(pending, &welcome);
    assert_eq!(world.store.devices().await.unwrap().len(), 0, "message one writes nothing");
    let register = device.register();
    let frame = device.seal(|writer| writer.put(&register).unwrap());
    line.write(&record(device.inbox, &frame)).await;
    let (_, answer) = line.frame().await;
    let registered = find::<Registered>(&device.open(&answer));
    assert!(registered.is_some());
    assert_eq!(world.store.devices().await.unwrap().len(), 1);
}

/// Takes a device in over the double's line.
async fn enrol(line: &mut foreign::Line, world: &World, device: &mut Device) {
    let key = world.key(|_| {}).await;
    let (hello, pending) = device.hello(&enrolment_psk(world, &key), None);
    line.write(&publish(0x30, &Topic::Hello(device.inbox).text(), &hello)).await;
    device.take_welcome(pending, &line.frame().await.1);
    let register = device.register();
    let frame = device.seal(|writer| writer.put(&register).unwrap());
    line.write(&record(device.inbox, &frame)).await;
    let registered: Registered = find(&device.open(&line.frame().await.1)).unwrap();
    device.inbox = registered.inbox;
    device.registered = Some(registered);
    let (hello, pending) = device.hello(&device.device_psk(), None);
    line.write(&publish(0x30, &Topic::Hello(device.inbox).text(), &hello)).await;
    device.take_welcome(pending, &line.frame().await.1);
    let frame = device.seal(|writer| writer.put(&Ping { request: 1 }).unwrap());
    line.write(&record(device.inbox, &frame)).await;
    assert!(find::<Ping>(&device.open(&line.frame().await.1)).is_some());
}

#[tokio::test]
async fn what_was_announced_meanwhile_is_announced_again() {
    let foreign = Foreign::new().await;
    let (world, external) = world(&foreign).await;
    let mut line = foreign.open(&external).await;
    let mut device = Device::new(&world, "gw-a");
    enrol(&mut line, &world, &mut device).await;
    drop(line);
    stands(&external, |standing| !is_open(standing)).await;
    // The next attempt comes a second later at the earliest.
    world.store.add_wireguard(wireguard("phone"), world.by()).await.unwrap();
    let mut line = foreign.open(&external).await;
    let (to, frame) = line.frame().await;
    assert_eq!(to, device.inbox);
    assert!(find::<MapReady>(&device.open(&frame)).is_some());
}

#[tokio::test]
async fn what_is_sent_again_takes_no_room_of_its_device() {
    let foreign = Foreign::new().await;
    let (world, external) = world(&foreign).await;
    let mut line = foreign.open(&external).await;
    let mut device = Device::new(&world, "gw");
    enrol(&mut line, &world, &mut device).await;
    let hello_topic = Topic::Hello(device.inbox).text();
    let (old_hello, _pending) = device.hello(&device.device_psk(), None);
    line.write(&publish(0x30, &hello_topic, &old_hello)).await;
    let _welcome = line.frame().await;
    let old_record = device.seal(|writer| writer.put(&Ping { request: 2 }).unwrap());
    line.write(&record(device.inbox, &old_record)).await;
    assert!(find::<Ping>(&device.open(&line.frame().await.1)).is_some());
    let up = external.stats().up.get();
    for _ in 0..100 {
        line.write(&publish(0x30, &hello_topic, &old_hello)).await;
        line.write(&record(device.inbox, &old_record)).await;
    }
    let frame = device.seal(|writer| writer.put(&Ping { request: 3 }).unwrap());
    line.write(&record(device.inbox, &frame)).await;
    let answer = device.open(&line.frame().await.1);
    assert_eq!(find::<Ping>(&answer).unwrap().request, 3, "the session is served");
    let (hello, pending) = device.hello(&device.device_psk(), None);
    line.write(&publish(0x30, &hello_topic, &hello)).await;
    line.write(&publish(0x30, &hello_topic, &old_hello)).await;
    device.take_welcome(pending, &line.frame().await.1);
    let frame = device.seal(|writer| writer.put(&Ping { request: 4 }).unwrap());
    line.write(&record(device.inbox, &frame)).await;
    let answer = device.open(&line.frame().await.1);
    assert_eq!(find::<Ping>(&answer).unwrap().request, 4, "and so is the next one");
    assert_eq!(external.stats().up.get() - up, 3);
    assert_eq!(external.stats().dropped(DropReason::Worthless).get(), 201);
    assert_eq!(external.stats().dropped(DropReason::Rate).get(), 0);
}

#[tokio::test]
async fn forged_moved_and_repeated_frames_reach_no_queue_and_no_session() {
    let foreign = Foreign::new().await;
    let (world, external) = world(&foreign).await;
    let key = world.key(|_| {}).await;
    let mut line = foreign.open(&external).await;
    let device = Device::new(&world, "gw");
    let (hello, _pending) = device.hello(&enrolment_psk(&world, &key), None);
    let mut forged = hello.clone();
    *forged.last_mut().unwrap() ^= 1;
    let hello_at = |inbox: Inbox, frame: &[u8]| publish(0x30, &Topic::Hello(inbox).text(), frame);
    line.write(&hello_at(device.inbox, &forged)).await;
    line.write(&hello_at(inbox(1), &hello)).await;
    line.write(&hello_at(inbox(1), &[7; 200])).await;
    line.write(&hello_at(device.inbox, &hello)).await;
    let (to, _welcome) = line.frame().await;
    assert_eq!(to, device.inbox);
    assert_eq!(external.stats().dropped(DropReason::Worthless).get(), 3);
    assert_eq!(external.stats().up.get(), 1);
    assert_eq!(world.channel.sessions().table().devices(), 0);
}
