//! The sealed channel against those who forge, replay, flood and move frames.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::JoinSet;
use weft_coordinator::service::bus::{Answer, Carrier, Class, Inbound as _, Uplink};
use weft_coordinator::service::channel::FrameDrop;
use weft_coordinator::service::secrets::Secrets;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::device::Initiator;
use weft_wire::frame::{FrameKind, PskKind, PskSelector, Reset, Retry, kind};
use weft_wire::id::{Inbox, Instance, Secret};
use weft_wire::item::{Ping, Unsupported};
use weft_wire::map::MapApplied;
use world::{Device, EPOCH, Held, Psk, TestRandom, World, enrolment_psk, find, unique};

fn uplink(class: Class, inbox: Inbox, frame: &[u8]) -> Uplink<'_> {
    let carrier = if class == Class::Unknown { Carrier::Http } else { Carrier::Mqtt };
    Uplink { inbox, class, carrier, address: None, frame }
}

async fn give(world: &World, inbox: Inbox, frame: &[u8]) -> Answer {
    world.channel.handle_uplink(uplink(Class::Device, inbox, frame)).await
}

/// Shakes hands without a carrier.
async fn session(world: &World, device: &mut Device) {
    let (hello, pending) = device.hello(&device.device_psk(), None);
    let answer = give(world, device.inbox, &hello).await;
    device.take_welcome(pending, &answer.frames[0]);
    assert!(ping(world, device).await.is_some());
}

/// Whether the device's session is alive.
async fn ping(world: &World, device: &mut Device) -> Option<Vec<Held>> {
    let frame = device.seal(|writer| writer.put(&Ping { request: 1 }).unwrap());
    let answer = give(world, device.inbox, &frame).await;
    let answer = answer.frames.first()?;
    (kind(answer) == Ok(FrameKind::Record)).then(|| device.open(answer))
}

async fn member(world: &World) -> Device {
    let key = world.key(|_| {}).await;
    let mut device = Device::new(world, "a");
    device.enrol(world, &key).await.unwrap();
    device.inbox = device.registered.as_ref().unwrap().inbox;
    session(world, &mut device).await;
    device
}

#[tokio::test]
async fn message_one_writes_nothing_and_touches_no_session() {
    let world = World::new().await;
    let mut device = member(&world).await;
    let before = world.store.devices().await.unwrap();
    let rows = world.store.audit(before[0].organisation, 0, 1_000).await.unwrap().len();
    let current = world.channel.sessions().current(device.id()).unwrap().id;
    let (hello, _) = device.hello(&device.device_psk(), None);
    // Replayed as often as it is let in: each WELCOME is of a session that
    // nobody can use.
    for _ in 0..4 {
        let answer = give(&world, device.inbox, &hello).await;
        assert_eq!(kind(&answer.frames[0]), Ok(FrameKind::Welcome));
    }
    assert_eq!(world.channel.sessions().current(device.id()).unwrap().id, current);
    assert!(ping(&world, &mut device).await.is_some());
    assert_eq!(world.store.devices().await.unwrap(), before);
    assert_eq!(world.store.audit(before[0].organisation, 0, 1_000).await.unwrap().len(), rows);
    // One waits at the inbox, however many came.
    assert_eq!(world.channel.sessions().table().len(), 3, "current, enrolment, one pending");
}

#[tokio::test]
async fn every_flipped_bit_of_a_hello_is_refused() {
    let world = World::new().await;
    let device = member(&world).await;
    let (hello, _) = device.hello(&device.device_psk(), None);
    for bit in 0..hello.len() * 8 {
        let mut wrong = hello.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        let answer = give(&world, device.inbox, &wrong).await;
        // Bit 9 makes a record of it, of a session that there is not.
        let expected: &[_] = if bit == 9 { &[Ok(FrameKind::Reset)] } else { &[] };
        let kinds: Vec<_> = answer.frames.iter().map(|frame| kind(frame)).collect();
        assert_eq!(kinds, expected, "bit {bit}");
    }
    assert_eq!(
        world.channel.stats().dropped(FrameDrop::Unauthentic).get(),
        0,
        "mac1 sees them all"
    );
    for cut in 0..hello.len() {
        assert!(give(&world, device.inbox, &hello[..cut]).await.frames.is_empty());
    }
    let answer = give(&world, device.inbox, &hello).await;
    assert_eq!(kind(&answer.frames[0]), Ok(FrameKind::Welcome));
}

#[tokio::test]
async fn every_flipped_bit_of_a_record_is_refused() {
    let world = World::new().await;
    let mut device = member(&world).await;
    let frame = device.seal(|writer| writer.put(&Ping { request: 1 }).unwrap());
    for bit in 0..frame.len() * 8 {
        let mut wrong = frame.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        let answer = give(&world, device.inbox, &wrong).await;
        let reset = answer.frames.iter().all(|frame| kind(frame) == Ok(FrameKind::Reset));
        assert!(reset && !answer.authentic, "bit {bit}");
    }
    let answer = give(&world, device.inbox, &frame).await;
    assert!(answer.authentic, "the session is as it was");
    let replayed = world.channel.stats().dropped(FrameDrop::Replayed).get();
    let answer = give(&world, device.inbox, &frame).await;
    assert!(answer.frames.is_empty() && !answer.authentic);
    assert_eq!(world.channel.stats().dropped(FrameDrop::Replayed).get(), replayed + 1);
}

#[tokio::test]
async fn who_does_not_belong_gets_no_answer() {
    let world = World::new().await;
    let device = member(&world).await;
    let key = world.key(|_| {}).await;
    let drops = |why| world.channel.stats().dropped(why).get();
    let give = async |device: &Device, psk: &Psk| {
        let (hello, _) = device.hello(psk, None);
        let answer = world.channel.handle_uplink(uplink(Class::Device, device.inbox, &hello)).await;
        assert!(answer.frames.is_empty());
        answer.close
    };
    // Another coordinator's key.
    let other = Secrets::from_seed(&Secret([9; 32]));
    let mut stranger = Device::new(&world, "x");
    let identity = StaticSecret::generate(&mut TestRandom);
    stranger.initiator = Initiator::new(identity, &other.public()).unwrap();
    assert!(!give(&stranger, &enrolment_psk(&world, &key)).await);
    assert_eq!(drops(FrameDrop::Mac1), 1);
    // A key that there is not, and a right one with another secret.
    let stranger = Device::new(&world, "x");
    let unknown = Psk { reference: [0, 1, 2, 3, 4, 5, 6, 7], ..enrolment_psk(&world, &key) };
    assert!(give(&stranger, &unknown).await, "has no business here");
    assert_eq!(drops(FrameDrop::UnknownKey), 1);
    let forged = Psk { secret: Secret([1; 32]), ..enrolment_psk(&world, &key) };
    assert!(!give(&stranger, &forged).await);
    assert_eq!(drops(FrameDrop::Unauthentic), 1);
    let selector = PskSelector { kind: PskKind::Enrolment, master: 7 };
    assert!(!give(&stranger, &Psk { selector, ..enrolment_psk(&world, &key) }).await);
    assert_eq!(drops(FrameDrop::UnknownMaster), 1);
    // A device that there is not, and one with another's PSK.
    assert!(give(&stranger, &device.device_psk()).await);
    assert_eq!(drops(FrameDrop::UnknownDevice), 1);
    let forged = Psk { secret: Secret([1; 32]), ..device.device_psk() };
    assert!(!give(&device, &forged).await);
    assert_eq!(drops(FrameDrop::Unauthentic), 2);
    // A HELLO moved to another inbox's connection.
    let (hello, _) = device.hello(&device.device_psk(), None);
    assert!(self::give(&world, Inbox([8; 16]), &hello).await.frames.is_empty());
    assert_eq!(drops(FrameDrop::ForeignInbox), 1);
    // Frames that only the coordinator sends, and none at all.
    for frame in [&[1, 2][..], &[1, 4], &[1, 5], &[1, 9], &[2, 1], &[]] {
        assert!(self::give(&world, device.inbox, frame).await.frames.is_empty());
    }
    assert_eq!(drops(FrameDrop::Frame), 6);
    // A device whose longest frame is shorter than an answer.
    let mut small = Device::new(&world, "y");
    small.max_rx = 511;
    assert!(!give(&small, &enrolment_psk(&world, &key)).await);
    assert_eq!(drops(FrameDrop::HelloPayload), 1);
}

#[tokio::test]
async fn an_inbox_shakes_hands_six_times_at_once() {
    let world = World::new().await;
    let device = member(&world).await;
    let mut welcomes = 0;
    for _ in 0..20 {
        let (hello, _) = device.hello(&device.device_psk(), None);
        welcomes += give(&world, device.inbox, &hello).await.frames.len();
    }
    // One of the six made the session.
    assert_eq!(welcomes, 5);
    assert_eq!(world.channel.stats().dropped(FrameDrop::HelloRate).get(), 15);
}

#[tokio::test]
async fn a_record_of_no_session_is_answered_by_few_resets() {
    let world = World::new().await;
    let mut device = member(&world).await;
    let mut stale = device.seal(|writer| writer.put(&Ping { request: 1 }).unwrap());
    stale[2..6].copy_from_slice(&[1, 2, 3, 4]);
    let inbox = Inbox(unique());
    for round in 0..10 {
        let answer = give(&world, inbox, &stale).await;
        assert_eq!(answer.frames.len(), usize::from(round < 2), "{round}");
        for frame in answer.frames {
            let reset = Reset { session: 0x0403_0201, hello_hash: [0; 8] };
            assert_eq!(Reset::parse(&frame), Ok(reset));
        }
    }
    // A record moved to another inbox is no unknown session, and no hint either.
    let frame = device.seal(|writer| writer.put(&Ping { request: 2 }).unwrap());
    assert!(give(&world, Inbox(unique()), &frame).await.frames.is_empty());
    assert_eq!(world.channel.stats().dropped(FrameDrop::ForeignSession).get(), 1);
    assert!(ping(&world, &mut device).await.is_some());
}

#[tokio::test]
async fn a_new_session_takes_over_and_another_process_at_once() {
    let world = World::new().await;
    let mut device = member(&world).await;
    let mut old = device.session.take();
    session(&world, &mut device).await;
    // The same process: what was on its way in the old session is heard still.
    std::mem::swap(&mut device.session, &mut old);
    assert!(ping(&world, &mut device).await.is_some());
    std::mem::swap(&mut device.session, &mut old);
    assert!(ping(&world, &mut device).await.is_some());
    // Another process of the same identity: the old session is unknown.
    device.instance = Instance(unique());
    let mut old = device.session.take();
    session(&world, &mut device).await;
    std::mem::swap(&mut device.session, &mut old);
    assert!(ping(&world, &mut device).await.is_none());
    std::mem::swap(&mut device.session, &mut old);
    assert!(ping(&world, &mut device).await.is_some());
}

#[tokio::test]
async fn unknown_items_are_answered_and_broken_ones_end_the_record() {
    let world = World::new().await;
    let mut device = member(&world).await;
    // Tag 999, then what is known.
    let frame = device.seal(|writer| {
        writer.put(&MapApplied { request: 0, epoch: EPOCH, revision: Default::default() }).unwrap();
        writer.put(&Ping { request: 7 }).unwrap();
    });
    give(&world, device.inbox, &frame).await;
    let mut plain = [0; 64];
    plain[..8].copy_from_slice(&[0xE7, 0x07, 1, 0xAA, 12, 1, 7, 0]);
    let mut frame = [0; 256];
    let len = device.session.as_mut().unwrap().seal(&plain, &mut frame).unwrap();
    let answer = give(&world, device.inbox, &frame[..len]).await;
    let items = device.open(&answer.frames[0]);
    assert_eq!(find::<Unsupported>(&items).unwrap().tag, 999);
    assert_eq!(find::<Ping>(&items).unwrap().request, 7);
    // A Ping, then an item that reaches beyond the record.
    let mut broken = [0; 64];
    broken[..5].copy_from_slice(&[12, 1, 8, 12, 127]);
    let len = device.session.as_mut().unwrap().seal(&broken, &mut frame).unwrap();
    let answer = give(&world, device.inbox, &frame[..len]).await;
    assert_eq!(find::<Ping>(&device.open(&answer.frames[0])).unwrap().request, 8);
    assert_eq!(world.channel.stats().dropped(FrameDrop::Items).get(), 1);
    assert!(ping(&world, &mut device).await.is_some(), "the session goes on");
}

#[tokio::test]
async fn under_load_a_stranger_must_prove_that_it_hears_us() {
    let world = Arc::new(World::new().await);
    let key = world.key(|_| {}).await;
    // All of them are made before the first one is sent: so they come faster than
    // they are answered, however fast the machine is.
    let made: Vec<_> = (0..200)
        .map(|n| {
            let device = Device::new(&world, &format!("d-{n}"));
            let (hello, _) = device.hello(&enrolment_psk(&world, &key), None);
            (device, hello)
        })
        .collect();
    let mut asking = JoinSet::new();
    for (device, hello) in made {
        let world = Arc::clone(&world);
        asking.spawn(async move {
            let up = uplink(Class::Unknown, device.inbox, &hello);
            let answer = world.channel.handle_uplink(up).await;
            (device, hello, answer)
        });
    }
    let mut retried = Vec::new();
    for (device, hello, answer) in asking.join_all().await {
        match kind(&answer.frames[0]) {
            Ok(FrameKind::Welcome) => {}
            Ok(FrameKind::Retry) => retried.push((device, hello, answer)),
            other => panic!("{other:?}"),
        }
    }
    assert!(retried.len() > 50, "{} of 200", retried.len());
    let retries = world.channel.stats().retries.get();
    assert_eq!(retries, retried.len() as u64);
    // With the token it is served, load or not.
    let mut again = JoinSet::new();
    for (device, hello, answer) in retried {
        let (world, key) = (Arc::clone(&world), key.clone());
        again.spawn(async move {
            let retry = Retry::parse(&answer.frames[0]).unwrap();
            assert_eq!(retry.hello_hash, weft_noise::sealed::hello_hash(&hello));
            let (hello, _) = device.hello(&enrolment_psk(&world, &key), Some(retry.token));
            let up = uplink(Class::Unknown, device.inbox, &hello);
            let answer = world.channel.handle_uplink(up).await;
            kind(&answer.frames[0])
        });
    }
    assert!(again.join_all().await.iter().all(|kind| *kind == Ok(FrameKind::Welcome)));
}

#[tokio::test]
async fn an_address_that_proves_nothing_is_limited() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let address: IpAddr = [192, 0, 2, 1].into();
    let mut welcomes = 0;
    for n in 0..150 {
        let device = Device::new(&world, &format!("d-{n}"));
        let (hello, _) = device.hello(&enrolment_psk(&world, &key), None);
        let up = Uplink { address: Some(address), ..uplink(Class::Unknown, device.inbox, &hello) };
        welcomes += world.channel.handle_uplink(up).await.frames.len();
    }
    assert!((100..150).contains(&welcomes), "{welcomes}");
    // The addresses of one IPv6 subnet are one sender's.
    let mut welcomes = 0;
    for n in 0..150 {
        let device = Device::new(&world, &format!("e-{n}"));
        let (hello, _) = device.hello(&enrolment_psk(&world, &key), None);
        let address: IpAddr = [0x2001, 0xdb8, 0, 0, n, 0, 0, 1].into();
        let up = Uplink { address: Some(address), ..uplink(Class::Unknown, device.inbox, &hello) };
        welcomes += world.channel.handle_uplink(up).await.frames.len();
    }
    assert!((100..150).contains(&welcomes), "{welcomes}");
}
