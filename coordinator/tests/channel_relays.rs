//! Credentials at relays, and calls that trickle.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;
mod endpoint;
mod world;

use std::net::SocketAddr;

use endpoint::NOW_MS;
use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::relay::NewRelay;
use weft_coordinator::service::channel::FrameDrop;
use weft_noise::legacy::hmac_sha1;
use weft_wire::id::{DeviceId, OrganisationId, Revision};
use weft_wire::item::{Item as _, Ping, Standing, State};
use weft_wire::map::{MapNext, MapReady, Page};
use weft_wire::relay::{RelayAsk, RelayGrant, Relays};
use weft_wire::signal::{Call, CallFailed, Candidate, CandidateKind, NatReport};
use weft_wire::verdict::CallFailure;
use world::{Device, EPOCH, RELAYS, World, find, held};

/// What World's network has.
const LEASE_S: u32 = 3_600;

fn relay(name: &str) -> NewRelay {
    NewRelay {
        name: name.to_owned(),
        v4: Some([203, 0, 113, 10].into()),
        udp: [3_478, 0],
        tcp: 443,
        ..NewRelay::default()
    }
}

/// Tells devices of the relays that the coordinator has the secrets of.
async fn announce(world: &World) {
    let relays = RELAYS.map(|(_, name)| relay(name)).to_vec();
    let numbered = world.store.set_relays(relays, world.by()).await.unwrap();
    assert!(numbered.iter().map(|one| one.number).eq(RELAYS.map(|(number, _)| number)));
}

async fn grant(device: &mut Device, request: u32) -> RelayGrant {
    device.send(|writer| writer.put(&RelayAsk { request }).unwrap()).await;
    let grant: RelayGrant = device.wait_for().await;
    assert_eq!(grant.request, request);
    grant
}

#[tokio::test]
async fn a_member_gets_what_every_relay_takes() {
    let world = World::new().await;
    announce(&world).await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let given = grant(&mut a, 7).await;
    let expiry_s = NOW_MS / 1_000 + u64::from(LEASE_S);
    let organisation = a.registered.as_ref().unwrap().organisation;
    assert_eq!(organisation, OrganisationId(1));
    assert_eq!(given.user.as_str(), format!("{expiry_s}:{}@{organisation}", a.id()));
    assert_eq!((given.lifetime_s, given.expiry_s()), (LEASE_S, Some(expiry_s)));
    assert_eq!(given.logins.len(), RELAYS.len());
    for (login, (number, secret)) in given.logins.iter().zip(RELAYS) {
        assert_eq!(login.relay, number);
        let expected = hmac_sha1(secret.as_bytes(), &[given.user.as_bytes()]);
        assert_eq!(login.mac.0, expected, "{number}");
    }
    // Another device is another user.
    let mut b = world.member(&key, "b").await;
    let other = grant(&mut b, 7).await;
    assert!(other.user != given.user && other.logins[0].mac.0 != given.logins[0].mac.0);
}

#[tokio::test]
async fn who_is_no_member_gets_none() {
    let world = World::new().await;
    announce(&world).await;
    let waiting = world.key(|key| key.needs_approval = true).await;
    let mut device = Device::new(&world, "new");
    device.enrol(&world, &waiting).await.unwrap();
    device.come_back(&world).await;
    device.shake_hands(&world).await;
    let given = grant(&mut device, 1).await;
    assert!(given.logins.is_empty() && given.user.is_empty());
    world.store.decide(device.id(), Decision::Approve, None, world.by()).await.unwrap();
    assert_eq!(device.wait_for::<State>().await.standing, Standing::Active);
    assert_eq!(grant(&mut device, 2).await.logins.len(), RELAYS.len());
    // What a blocked device asks in the one record that is heard.
    let block = Decision::Block { reason: String::new() };
    world.store.decide(device.id(), block, None, world.by()).await.unwrap();
    assert_eq!(device.wait_for::<State>().await.standing, Standing::Blocked);
    device.come_back(&world).await;
    let (hello, pending) = device.hello(&device.device_psk(), None);
    device.send_hello(&hello).await;
    let welcome = device.read().await;
    device.take_welcome(pending, &welcome);
    device.send(|writer| writer.put(&RelayAsk { request: 3 }).unwrap()).await;
    let given: RelayGrant = device.wait_for().await;
    assert!(given.request == 3 && given.logins.is_empty());
}

#[tokio::test]
async fn a_record_asks_for_few_credentials() {
    let world = World::new().await;
    announce(&world).await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    a.send(|writer| {
        (0..40).for_each(|request| writer.put(&RelayAsk { request }).unwrap());
        writer.put(&Ping { request: 77 }).unwrap();
    })
    .await;
    let mut given = 0;
    loop {
        let items = a.items().await;
        given += items.iter().filter(|item| item.tag == RelayGrant::TAG).count();
        if find::<Ping>(&items).is_some_and(|ping| ping.request == 77) {
            break;
        }
    }
    assert_eq!(given, 16);
    assert_eq!(world.channel.stats().dropped(FrameDrop::TooMany).get(), 24);
}

#[tokio::test]
async fn other_relays_are_pushed_to_whoever_is_there() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let set = world.store.set_relays(vec![relay("fra1")], world.by()).await.unwrap();
    let ready: MapReady = a.wait_for().await;
    assert_eq!(ready.epoch, EPOCH);
    let next = MapNext { epoch: EPOCH, from: Revision(0), page: 0 };
    a.send(|writer| writer.put(&next).unwrap()).await;
    let ops = loop {
        let items = a.items().await;
        if let Some(page) = items.iter().find(|item| item.tag == Page::TAG) {
            let (_, ops) = page.raw().decode_nested::<Page>().unwrap();
            break held(ops.rest());
        }
    };
    let relays: Relays = find(&ops).unwrap();
    assert_eq!(relays.relays[..], [set[0].to_wire()]);
}

/// A device finds its addresses one after the other and says so under the same
/// number: each time the callee hears all that is known by then.
#[tokio::test]
async fn a_repeated_call_brings_the_candidates_that_it_has_by_then() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let mut b = world.member(&key, "b").await;
    let call = |peer: DeviceId, ports: &[u16]| {
        let candidate = |port: &u16| Candidate {
            kind: CandidateKind::Host,
            address: SocketAddr::from(([192, 0, 2, 1], *port)),
        };
        Call {
            call: 9,
            peer,
            receiver: 77,
            nat: NatReport::default(),
            rtt_ms: 0,
            candidates: ports.iter().map(candidate).collect(),
        }
    };
    let known: [&[u16]; 4] = [&[1], &[1, 2], &[1, 2, 3], &[4]];
    for ports in known {
        a.send(|writer| writer.put(&call(b.id(), ports)).unwrap()).await;
        let heard: Call = b.wait_for().await;
        assert_eq!((heard.call, heard.peer), (9, a.id()));
        let heard: Vec<_> = heard.candidates.iter().map(|one| one.address.port()).collect();
        assert_eq!(heard, ports);
    }
    // The fifth within half a minute is one too many, whatever it brings.
    a.send(|writer| writer.put(&call(b.id(), &[5])).unwrap()).await;
    let failed: CallFailed = a.wait_for().await;
    assert_eq!((failed.call, failed.code), (9, CallFailure::TooMany as u16));
}
