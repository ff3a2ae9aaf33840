//! Devices end to end over MQTT: enrolment, maps, calls, standings.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use endpoint::{NOW_MS, soon};
use tokio::task::JoinSet;
use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::channel::FrameDrop;
use weft_coordinator::service::seams::{CommandResult, Commands as _, PresenceView as _, Task};
use weft_wire::frame::{FrameKind, kind};
use weft_wire::id::{CommandId, DeviceId, Epoch, Revision};
use weft_wire::item::{
    Command, CommandDone, Done, Item as _, Leave, Outcome, Ping, Standing, State, Unsupported,
};
use weft_wire::map::{
    Lease, MapApplied, MapNext, MapReady, Page, PeerRemove, PeerUpsert, Rules, Servers, Settings,
};
use weft_wire::network::{Netcheck, NetcheckDone, NetworkReport};
use weft_wire::signal::{Call, CallAck, CallFailed, Go, NatReport};
use weft_wire::telemetry::{DataUsage, Heartbeat};
use weft_wire::verdict::{CallFailure, Refusal};
use world::{Device, EPOCH, Held, World, find, held};

/// A page and its ops.
fn page(items: &[Held]) -> (Page, Vec<Held>) {
    let item = items.iter().find(|item| item.tag == 21).expect("a page");
    let (head, ops) = item.raw().decode_nested::<Page>().unwrap();
    (head, held(ops.rest()))
}

/// Pulls the whole map and returns where it leads and all ops.
async fn pull(device: &mut Device, from: u64) -> (Revision, Vec<Held>) {
    let (mut number, mut all) = (0, Vec::new());
    loop {
        let epoch = if from == 0 { Epoch(0) } else { EPOCH };
        let next = MapNext { epoch, from: Revision(from), page: number };
        device.send(|writer| writer.put(&next).unwrap()).await;
        let items = loop {
            let items = device.items().await;
            if items.iter().any(|item| item.tag == 21) {
                break items;
            }
        };
        let (head, ops) = page(&items);
        assert_eq!((head.epoch, head.page), (EPOCH, number));
        all.extend(ops);
        number += 1;
        if number == head.of {
            return (head.to, all);
        }
    }
}

fn peers(ops: &[Held]) -> Vec<PeerUpsert> {
    ops.iter().filter(|op| op.tag == 40).map(Held::decode).collect()
}

fn call(id: u32, peer: DeviceId) -> Call {
    Call {
        call: id,
        peer,
        receiver: 77,
        nat: NatReport::default(),
        rtt_ms: 5,
        candidates: heapless::Vec::new(),
    }
}

#[tokio::test]
async fn two_devices_enrol_learn_of_each_other_and_call() {
    let world = World::new().await;
    let key = world.key(|key| key.max_uses = Some(2)).await;
    let mut a = world.member(&key, "gw").await;
    assert_eq!(a.welcome.as_ref().unwrap().epoch, EPOCH);
    let (at, ops) = pull(&mut a, 0).await;
    assert!(peers(&ops).is_empty());
    let settings: Settings = find(&ops).unwrap();
    assert_eq!(settings.host, a.registered.as_ref().unwrap().host);
    assert!(find::<Rules>(&ops).is_some_and(|rules| !rules.rules.is_empty()));
    assert!(find::<Servers>(&ops).is_some());
    assert_eq!(find::<Lease>(&ops).unwrap().lease_s, 3_600);

    let mut b = world.member(&key, "gw").await;
    let registered = b.registered.as_ref().unwrap();
    assert_eq!(registered.name, "gw-2", "names are unique");
    assert_eq!((registered.key_uses, registered.key_max_uses), (2, 2));
    assert_eq!(registered.standing, Standing::Active);

    // The first device hears of the second and asks for what changed.
    let ready: MapReady = a.wait_for().await;
    assert!(ready.epoch == EPOCH && ready.revision > at);
    let (_, news) = pull(&mut a, at.0).await;
    let (_, ops) = pull(&mut b, 0).await;
    let (a_sees, b_sees) = (&peers(&news)[0], &peers(&ops)[0]);
    assert_eq!((a_sees.device, b_sees.device), (b.id(), a.id()));
    assert_eq!((a_sees.key, b_sees.key), (b.wg_key, a.wg_key));
    assert!(!a_sees.psk.is_none() && a_sees.psk.0 == b_sees.psk.0, "one PSK for the pair");
    assert_ne!(a_sees.host, b_sees.host);

    // A call names the callee on its way up and the caller on its way down.
    a.send(|writer| writer.put(&call(1, b.id())).unwrap()).await;
    let heard: Call = b.wait_for().await;
    assert_eq!((heard.peer, heard.call, heard.receiver), (a.id(), 1, 77));
    let ack = CallAck {
        call: 1,
        peer: a.id(),
        receiver: 99,
        nat: NatReport::default(),
        rtt_ms: 0,
        candidates: heapless::Vec::new(),
    };
    b.send(|writer| writer.put(&ack).unwrap()).await;
    let heard: CallAck = a.wait_for().await;
    assert_eq!((heard.peer, heard.receiver), (b.id(), 99));
    a.send(|writer| writer.put(&Go { call: 1, peer: b.id(), delay_ms: 40 }).unwrap()).await;
    let heard: Go = b.wait_for().await;
    assert_eq!((heard.peer, heard.delay_ms), (a.id(), 40));

    let presence = world.channel.presence().presence(a.id()).unwrap();
    assert!(presence.online);
    assert_eq!(presence.address.unwrap().to_string(), "127.0.0.1");
}

#[tokio::test]
async fn calls_fail_with_their_reason() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let b = world.member(&key, "b").await;
    let gone = world.member(&key, "c").await;
    let gone_id = gone.id();
    drop(gone);
    soon(async {
        while world.hub.len() > 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (peer, why) in [
        (gone_id, CallFailure::Offline),
        (DeviceId(99), CallFailure::Denied),
        (a.id(), CallFailure::Denied),
    ] {
        a.send(|writer| writer.put(&call(5, peer)).unwrap()).await;
        let failed: CallFailed = a.wait_for().await;
        assert_eq!((failed.call, failed.peer, failed.code), (5, peer, why as u16));
    }
    // One call per pair and 5 s; the same call may be repeated.
    a.send(|writer| {
        writer.put(&call(1, b.id())).unwrap();
        writer.put(&call(1, b.id())).unwrap();
        writer.put(&call(2, b.id())).unwrap();
    })
    .await;
    let failed: CallFailed = a.wait_for().await;
    assert_eq!((failed.call, failed.code), (2, CallFailure::TooMany as u16));
    // An answer to a call that nobody placed goes nowhere.
    let mut b = b;
    a.send(|writer| writer.put(&Go { call: 9, peer: b.id(), delay_ms: 0 }).unwrap()).await;
    a.ask(&Ping { request: 1 }).await;
    for _ in 0..2 {
        assert_eq!(b.wait_for::<Call>().await.call, 1);
    }
    let rest = b.ask(&Ping { request: 2 }).await;
    assert!(find::<Go>(&rest).is_none() && find::<Ping>(&rest).is_some());
}

#[tokio::test]
async fn a_callee_with_few_slots_learns_the_caller_with_the_call() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let mut chip = Device::new(&world, "chip");
    (chip.max_rx, chip.on_demand) = (1_024, 4);
    chip.enrol(&world, &key).await.unwrap();
    chip.come_back(&world).await;
    chip.shake_hands(&world).await;
    let (_, ops) = pull(&mut chip, 0).await;
    assert!(peers(&ops).is_empty(), "a chip asks for its peers");
    assert!(find::<Settings>(&ops).is_some() && find::<Rules>(&ops).is_some());
    a.send(|writer| writer.put(&call(1, chip.id())).unwrap()).await;
    let items = loop {
        let items = chip.items().await;
        if find::<Call>(&items).is_some() {
            break items;
        }
    };
    let entry: PeerUpsert = find(&items).expect("the caller's entry before its call");
    assert_eq!((entry.device, entry.key), (a.id(), a.wg_key));
    assert!(!entry.psk.is_none());
}

#[tokio::test]
async fn long_maps_come_in_pages_of_one_revision() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut small = Device::new(&world, "small");
    small.max_rx = 1_024;
    small.enrol(&world, &key).await.unwrap();
    small.come_back(&world).await;
    small.shake_hands(&world).await;
    let mut enrolled = JoinSet::new();
    let world = Arc::new(world);
    for n in 0..40 {
        let (world, key) = (Arc::clone(&world), key.clone());
        enrolled.spawn(async move {
            let mut device = Device::new(&world, &format!("peer-{n}"));
            device.enrol(&world, &key).await.unwrap();
            device.id()
        });
    }
    let expected: BTreeSet<_> = enrolled.join_all().await.into_iter().collect();

    let next = |page| MapNext { epoch: Epoch(0), from: Revision(0), page };
    let mut ask = async |number| {
        small.send(|writer| writer.put(&next(number)).unwrap()).await;
        loop {
            let items = small.items().await;
            if items.iter().any(|item| item.tag == 21) {
                return page(&items);
            }
        }
    };
    let (first, mut ops) = ask(0).await;
    assert!(first.of > 3, "{} pages", first.of);
    // The map moves on between two pages: these are still of one map.
    let extra = world.member(&key, "extra").await;
    for number in 1..first.of {
        let (head, more) = ask(number).await;
        assert_eq!(
            (head.from, head.to, head.page, head.of),
            (first.from, first.to, number, first.of)
        );
        ops.extend(more);
    }
    let seen: Vec<_> = peers(&ops).into_iter().map(|peer| peer.device).collect();
    assert_eq!(seen.len(), 40);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
    // Beyond the end, and from the first page on: the newer map.
    let (head, _) = ask(first.of + 5).await;
    assert_eq!(head.page, 0);
    let (head, _) = ask(0).await;
    assert!(head.to > first.to);
    // From what is held only what came since.
    let applied = MapApplied { request: 0, epoch: EPOCH, revision: first.to };
    small.send(|writer| writer.put(&applied).unwrap()).await;
    let (_, news) = pull(&mut small, first.to.0).await;
    assert_eq!(peers(&news).into_iter().map(|peer| peer.device).collect::<Vec<_>>(), [extra.id()]);
    // A device of another life of the database gets everything.
    let stale = MapNext { epoch: Epoch(8), from: first.to, page: 0 };
    small.send(|writer| writer.put(&stale).unwrap()).await;
    let (head, _) = loop {
        let items = small.items().await;
        if items.iter().any(|item| item.tag == 21) {
            break page(&items);
        }
    };
    assert_eq!(head.from, Revision(0));
    let device = world.store.device(small.id()).await.unwrap().unwrap();
    assert_eq!(device.agent().unwrap().applied, first.to);
}

#[tokio::test]
async fn a_record_asks_for_few_pages_and_calls() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut device = world.member(&key, "a").await;
    let next = MapNext { epoch: Epoch(0), from: Revision(0), page: 0 };
    let end = Ping { request: 77 };
    device
        .send(|writer| {
            (0..100).for_each(|_| writer.put(&next).unwrap());
            (0..40).for_each(|n| writer.put(&call(n, DeviceId(99))).unwrap());
            writer.put(&end).unwrap();
        })
        .await;
    let (mut pages, mut failed) = (0, 0);
    loop {
        let items = device.items().await;
        pages += items.iter().filter(|item| item.tag == 21).count();
        failed += items
            .iter()
            .filter(|item| item.tag == <CallFailed as weft_wire::item::Item>::TAG)
            .count();
        if find::<Ping>(&items).is_some_and(|ping| ping.request == end.request) {
            break;
        }
    }
    assert_eq!((pages, failed), (4, 16));
    assert_eq!(world.channel.stats().dropped(FrameDrop::TooMany).get(), 96 + 24);
}

#[tokio::test]
async fn a_device_changes_its_key_once_a_minute() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut device = Device::new(&world, "a");
    device.enrol(&world, &key).await.unwrap();
    let first = device.wg_key;
    device.wg_key = weft_wire::id::PublicKey(world::unique());
    device.enrol(&world, &key).await.unwrap();
    device.wg_key = first;
    let refused = device.enrol(&world, &key).await.unwrap_err();
    assert_eq!(refused.code, Refusal::Unavailable as u16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_use_is_one_device_however_many_ask_at_once() {
    let world = Arc::new(World::new().await);
    let key = world.key(|key| key.max_uses = Some(1)).await;
    let mut asking = JoinSet::new();
    for n in 0..64 {
        let (world, key) = (Arc::clone(&world), key.clone());
        asking.spawn(async move {
            let mut device = Device::new(&world, &format!("d-{n}"));
            device.enrol(&world, &key).await.map(|()| device.id())
        });
    }
    let answers = asking.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!((refused.code, refused.numbers), (Refusal::KeyUsedUp as u16, (1, 1)));
        assert_eq!(refused.text.as_str(), key.name);
    }
    assert_eq!(world.store.devices().await.unwrap().len(), 1);
}

#[tokio::test]
async fn registrations_are_refused_with_what_people_need() {
    let world = World::new().await;
    let refused = async |key, name: &str| {
        Device::new(&world, name).enrol(&world, key).await.err().map(|told| (told.code, told.at_ms))
    };
    let expired = world.key(|key| key.expires = Some(UnixMs(NOW_MS - 5))).await;
    assert_eq!(refused(&expired, "a").await, Some((Refusal::KeyExpired as u16, NOW_MS - 5)));
    let revoked = world.key(|_| {}).await;
    world.store.revoke_key(revoked.id, false, world.by()).await.unwrap();
    assert_eq!(refused(&revoked, "a").await, Some((Refusal::KeyRevoked as u16, NOW_MS)));
    let good = world.key(|_| {}).await;
    assert_eq!(refused(&good, "Not-A-Label").await, Some((Refusal::Malformed as u16, 0)));
    assert!(world.refusals.find(|refusal| refusal.at == UnixMs(NOW_MS)).is_some());
    // The same device again: the same answer, and no second use.
    let mut device = Device::new(&world, "again");
    device.enrol(&world, &good).await.unwrap();
    let first = device.id();
    device.enrol(&world, &good).await.unwrap();
    assert_eq!(device.id(), first);
    assert_eq!(device.registered.as_ref().unwrap().key_uses, 1);
}

#[tokio::test]
async fn an_enrolling_session_may_register_and_nothing_else() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut device = Device::new(&world, "a");
    device.enrol(&world, &key).await.unwrap();
    let answer = device.ask(&MapNext { epoch: EPOCH, from: Revision(0), page: 0 }).await;
    assert_eq!(find::<Unsupported>(&answer).unwrap().tag, 20);
    // And a device's session may do everything but register.
    let mut member = world.member(&key, "b").await;
    let register = member.register();
    let answer = member.ask(&register).await;
    assert_eq!(find::<Unsupported>(&answer).unwrap().tag, 3);
}

#[tokio::test]
async fn a_pending_device_waits_and_sees_nothing() {
    let world = World::new().await;
    let key = world.key(|key| key.needs_approval = true).await;
    let mut device = Device::new(&world, "new");
    device.enrol(&world, &key).await.unwrap();
    let registered = device.registered.as_ref().unwrap();
    assert_eq!((registered.standing, registered.host), (Standing::Pending, 0));
    device.come_back(&world).await;
    let first = device.shake_hands(&world).await;
    assert_eq!(first[0].decode::<State>().standing, Standing::Pending, "first of all");
    assert_eq!(device.welcome.as_ref().unwrap().revision, Revision(0));
    let (_, ops) = pull(&mut device, 0).await;
    assert!(ops.is_empty());
    world.store.decide(device.id(), Decision::Approve, None, world.by()).await.unwrap();
    assert_eq!(device.wait_for::<State>().await.standing, Standing::Active);
    let (_, ops) = pull(&mut device, 0).await;
    assert!(find::<Settings>(&ops).is_some_and(|settings| settings.host >= 2));
}

#[tokio::test]
async fn a_blocked_device_hears_why_and_is_cut() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let mut b = world.member(&key, "b").await;
    let (at, _) = pull(&mut a, 0).await;
    let reason = "stolen".to_owned();
    world.store.decide(b.id(), Decision::Block { reason }, None, world.by()).await.unwrap();
    let state: State = b.wait_for().await;
    assert_eq!((state.standing, state.reason.as_str()), (Standing::Blocked, "stolen"));
    assert_eq!(soon(b.client.as_mut().unwrap().read_end()).await, Some(0x98));
    let ready: MapReady = a.wait_for().await;
    assert!(ready.revision > at);
    let (_, news) = pull(&mut a, at.0).await;
    assert_eq!(find::<PeerRemove>(&news).unwrap().device, b.id());
    // It may come back, hears the same and is cut again.
    b.come_back(&world).await;
    let first = b.shake_hands(&world).await;
    assert_eq!(first[0].decode::<State>().standing, Standing::Blocked);
    assert_eq!(soon(b.client.as_mut().unwrap().read_end()).await, Some(0x98));
    assert!(world.channel.sessions().current(b.id()).is_none());
    // Its session is gone too: nothing is left to hold a connection with.
    b.come_back(&world).await;
    b.send(|writer| writer.put(&call(1, a.id())).unwrap()).await;
    assert_eq!(kind(&b.read().await), Ok(FrameKind::Reset));
    // What comes with its first record is heard: no map, no call, but it may
    // leave, which does not end the block.
    let (hello, pending) = b.hello(&b.device_psk(), None);
    b.send_hello(&hello).await;
    let welcome = b.read().await;
    b.take_welcome(pending, &welcome);
    b.send(|writer| {
        let next = MapNext { epoch: Epoch(0), from: Revision(0), page: 0 };
        writer.put(&next).unwrap();
        writer.put(&call(1, a.id())).unwrap();
        writer.put(&Leave { request: 9 }).unwrap();
    })
    .await;
    let answer = b.items().await;
    assert_eq!(answer[0].decode::<State>().standing, Standing::Blocked);
    assert!(page(&answer).1.is_empty());
    assert_eq!(find::<CallFailed>(&answer).unwrap().code, CallFailure::Denied as u16);
    assert_eq!(find::<Done>(&answer).unwrap().request, 9);
    assert_eq!(soon(b.client.as_mut().unwrap().read_end()).await, Some(0x98));
    let mut again = b;
    let refused = again.enrol(&world, &key).await.unwrap_err();
    assert_eq!((refused.code, refused.text.as_str()), (Refusal::Blocked as u16, "stolen"));
}

#[tokio::test]
async fn a_deleted_device_is_cut_and_not_heard_again() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut device = world.member(&key, "a").await;
    let id = device.id();
    world.store.decide(id, Decision::Delete, None, world.by()).await.unwrap();
    let state: State = device.wait_for().await;
    assert_eq!(
        (state.standing, state.reason.as_str()),
        (Standing::Rejected, "this device was deleted")
    );
    assert_eq!(soon(device.client.as_mut().unwrap().read_end()).await, Some(0x98));
    assert!(world.channel.sessions().current(id).is_none());
    assert_eq!(world.channel.presence().presence(id), None);
    let (hello, _) = device.hello(&device.device_psk(), None);
    device.come_back(&world).await;
    device.send_hello(&hello).await;
    assert_eq!(soon(device.client.as_mut().unwrap().read_end()).await, Some(0x98));
    assert_eq!(world.channel.stats().dropped(FrameDrop::UnknownDevice).get(), 1);
    // A valid key does not bring it back.
    let refused = device.enrol(&world, &key).await.unwrap_err();
    assert_eq!(refused.code, Refusal::Tombstoned as u16);
}

#[tokio::test]
async fn a_device_leaves() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let answer = a.ask(&Leave { request: 9 }).await;
    assert_eq!(find::<Done>(&answer).unwrap().request, 9);
    assert_eq!(soon(a.client.as_mut().unwrap().read_end()).await, Some(0x98));
    assert!(world.store.devices().await.unwrap().is_empty());
    // It leaves no tombstone: it may come again.
    a.enrol(&world, &key).await.unwrap();
}

#[tokio::test]
async fn heartbeats_are_kept_and_answered_with_what_was_missed() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let (at, _) = pull(&mut a, 0).await;
    let _b = world.member(&key, "b").await;
    let told: MapReady = a.wait_for().await;
    let heartbeat = |request, revision| Heartbeat {
        request,
        instance: weft_wire::id::Instance([1; 8]),
        boot_count: 3,
        uptime_s: 60,
        epoch: EPOCH,
        revision,
        tx_bytes: 1,
        rx_bytes: 2,
        tx_packets: 3,
        rx_packets: 4,
        handshakes: 5,
        handshake_failures: 6,
        drops: heapless::Vec::new(),
        active_peers: 7,
        direct_peers: 8,
    };
    let answer = a.ask(&heartbeat(1, at)).await;
    assert_eq!(find::<Done>(&answer).unwrap().request, 1);
    assert_eq!(find::<MapReady>(&answer).unwrap().revision, told.revision, "as if it was lost");
    let answer = a.ask(&heartbeat(2, told.revision)).await;
    assert!(find::<MapReady>(&answer).is_none());
    let report = world.channel.presence().presence(a.id()).unwrap().report.unwrap();
    assert_eq!((report.boot_count, report.uptime_s), (3, 60));
    assert_eq!((report.active_peers, report.direct_peers), (7, 8));
    assert_eq!((report.tx_bytes, report.rx_bytes), (1, 2));
    assert_eq!((report.tx_packets, report.rx_packets), (3, 4));
    assert_eq!((report.handshakes, report.handshake_failures), (5, 6));
}

#[tokio::test]
async fn a_days_bytes_are_kept_and_older_ones_are_not_believed() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let today = UnixMs(NOW_MS).day();
    let usage = |day, control| DataUsage {
        day,
        control,
        keepalive: 2,
        probe: 3,
        relay_overhead: 4,
        payload: 5,
        budget: Some(1_000_000),
        metered: true,
        used_up: false,
    };
    for (day, control) in [(today, 90), (today, 93), (today - 2, 1), (today + 2, 1)] {
        a.send(|writer| writer.put(&usage(day, control)).unwrap()).await;
    }
    a.send(|writer| writer.put(&Ping { request: 1 }).unwrap()).await;
    assert_eq!(a.wait_for::<Ping>().await.request, 1);
    let kept = world.store.usage_of(a.id()).await.unwrap();
    let [one] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!((one.day, one.control, one.budget, one.metered), (today, 93, Some(1_000_000), true));
    // Whoever reports without end is not heeded.
    let drops = world.channel.stats().dropped(FrameDrop::TooMany);
    for control in 100..120 {
        a.send(|writer| writer.put(&usage(today, control)).unwrap()).await;
    }
    a.send(|writer| writer.put(&Ping { request: 2 }).unwrap()).await;
    assert_eq!(a.wait_for::<Ping>().await.request, 2);
    assert!(drops.get() >= 12, "{}", drops.get());
}

#[tokio::test]
async fn commands_reach_the_device_and_its_word_comes_back() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let (id, expires) = (CommandId(7), UnixMs(NOW_MS + 60_000));
    let commands = world.channel.commands().clone();
    let device = a.id();
    let asked =
        tokio::spawn(async move { commands.deliver(device, id, Task::Restart, expires).await });
    let command: Command = a.wait_for().await;
    assert_eq!((command.id, command.expires_ms), (id, expires.0));
    // Lost on the way: a new session hears it again, first of all.
    let first = a.shake_hands(&world).await;
    assert_eq!(find::<Command>(&first).unwrap().id, id);
    let done = CommandDone { id, outcome: Outcome::Accepted };
    a.send(|writer| writer.put(&done).unwrap()).await;
    assert_eq!(soon(asked).await.unwrap(), CommandResult::Answered(Outcome::Accepted));
    // A look at its network comes back with what it found; an older agent says that
    // it knows nothing of it.
    for (id, knows) in [(CommandId(9), true), (CommandId(10), false)] {
        let commands = world.channel.commands().clone();
        let asked =
            tokio::spawn(
                async move { commands.deliver(device, id, Task::Netcheck, expires).await },
            );
        let look: Netcheck = a.wait_for().await;
        assert_eq!((look.id, look.expires_ms), (id, expires.0));
        let report = NetworkReport { metered: true, ..NetworkReport::default() };
        let found = Some(report.clone());
        a.send(|writer| {
            if knows {
                let done = NetcheckDone { id, outcome: Outcome::Accepted, report: found.clone() };
                writer.put(&done).unwrap();
            } else {
                writer.put(&Unsupported { tag: Netcheck::TAG }).unwrap();
            }
        })
        .await;
        let expected = if knows {
            CommandResult::Looked(Box::new(report))
        } else {
            CommandResult::Answered(Outcome::Unsupported)
        };
        assert_eq!(soon(asked).await.unwrap(), expected);
    }
    // Nobody waits for a second word, and nothing is repeated.
    a.send(|writer| writer.put(&done).unwrap()).await;
    assert!(find::<Command>(&a.shake_hands(&world).await).is_none());
    let absent = world.channel.commands().deliver(DeviceId(99), id, Task::Restart, expires).await;
    assert_eq!(absent, CommandResult::Absent);
    let late =
        world.channel.commands().deliver(device, CommandId(8), Task::Restart, UnixMs(NOW_MS + 50));
    let late = tokio::time::timeout(Duration::from_secs(10), late).await.unwrap();
    assert_eq!(late, CommandResult::Unanswered);
}
