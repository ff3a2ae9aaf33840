//! Devices and the coordinator at Debian's Mosquitto.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg_attr(not(mosquitto), allow(dead_code, unused_imports, reason = "there is none here"))]

mod common;
mod endpoint;
mod foreign;
mod mosquitto;
mod world;

use endpoint::{Client, Credentials, connect, inbox, publish, soon, subscribe};
use foreign::{is_open, stands};
use mosquitto::{Mosquitto, devices, nobody, own};
use tokio::net::TcpStream;
use weft_coordinator::service::seams::PresenceView as _;
use weft_coordinator::transport::external::{DropReason, Standing, Trouble};
use weft_wire::frame::{RECORD_HEADER_LEN, RecordHeader, Reset};
use weft_wire::id::{Inbox, ReplicaId, Revision};
use weft_wire::item::Ping;
use weft_wire::map::{MapNext, MapReady};
use weft_wire::topic::Topic;
use world::{EPOCH, World, find};

#[cfg(not(mosquitto))]
#[test]
#[ignore = "mosquitto is missing; cross/setup test installs it"]
fn mosquitto_is_missing() {
    let found = std::path::Path::new("/usr/sbin/mosquitto").exists();
    assert!(!found, "it was installed after these tests were built: touch coordinator/build.rs");
}

async fn behind(broker: &Mosquitto) -> World {
    let world = World::behind(broker.address, &own(), &devices()).await;
    stands(&world.foreign.as_ref().unwrap().0, is_open).await;
    world
}

#[cfg_attr(mosquitto, tokio::test)]
async fn devices_enrol_hear_of_each_other_and_are_seen() {
    let broker = Mosquitto::start();
    let world = behind(&broker).await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "gw-a").await;
    let presence = world.channel.presence().presence(a.id()).unwrap();
    assert!(presence.online && presence.address.is_none());
    let _b = world.member(&key, "gw-b").await;
    let ready: MapReady = a.wait_for().await;
    a.send(|writer| {
        writer.put(&MapNext { epoch: EPOCH, from: Revision(0), page: 0 }).unwrap();
    })
    .await;
    let page = a.items().await;
    assert!(!page.is_empty() && ready.revision.0 > 0);
}

#[cfg_attr(mosquitto, tokio::test)]
async fn a_restarted_broker_costs_no_session() {
    let mut broker = Mosquitto::start();
    let world = behind(&broker).await;
    let external = world.foreign.as_ref().unwrap().0.clone();
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "gw-a").await;
    let welcomes = world.channel.stats().welcomes.get();
    broker.kill();
    stands(&external, |standing| !is_open(standing)).await;
    assert!(!world.channel.presence().presence(a.id()).unwrap().online);
    broker.start_again();
    stands(&external, is_open).await;
    a.come_back(&world).await;
    let request = a.next_request();
    let answer = a.ask(&Ping { request }).await;
    assert_eq!(find::<Ping>(&answer).unwrap().request, request, "the session goes on");
    assert_eq!(world.channel.stats().welcomes.get(), welcomes);
}

#[cfg_attr(mosquitto, tokio::test)]
async fn wrong_accounts_are_told_apart() {
    let broker = Mosquitto::start();
    let failed = |standing: &Standing| matches!(standing, Standing::Closed(Some(_)));
    let mut wrong = own();
    wrong.password.push('x');
    let world = World::behind(broker.address, &wrong, &devices()).await;
    let standing = stands(&world.foreign.as_ref().unwrap().0, failed).await;
    assert_eq!(standing, Standing::Closed(Some(Trouble::Denied(5))));

    // Mosquitto grants this account every subscription and delivers nothing.
    let world = World::behind(broker.address, &nobody(), &devices()).await;
    let standing = stands(&world.foreign.as_ref().unwrap().0, failed).await;
    let missing = ["weft/v1/h/+", "weft/v1/r/0/+", "weft/v1/d/+"].map(str::to_owned);
    assert_eq!(standing, Standing::Closed(Some(Trouble::Deaf(missing.to_vec()))));
}

/// A client with the devices' account that connects as `own`.
async fn client(broker: &Mosquitto, own: Inbox) -> Client<TcpStream> {
    let mut client = Client::new(TcpStream::connect(broker.address).await.unwrap());
    let login = devices();
    let credentials =
        Credentials { client_id: own.to_string(), user: login.user, password: login.password };
    client.write(&connect(&credentials, 300, &[])).await;
    assert_eq!(soon(client.read()).await.unwrap().1[1], 0);
    client
}

#[cfg_attr(mosquitto, tokio::test)]
async fn a_device_can_use_its_own_topics_only() {
    let broker = Mosquitto::start();
    let world = behind(&broker).await;
    let external = world.foreign.as_ref().unwrap().0.clone();
    let key = world.key(|_| {}).await;
    let mut honest = world.member(&key, "gw-a").await;
    let mut spy = client(&broker, inbox(666)).await;
    for filter in ["#", "weft/#", "weft/v1/d/+", Topic::Down(honest.inbox).text().as_str()] {
        spy.write(&subscribe(filter, 0)).await;
        assert_eq!(soon(spy.read()).await.unwrap().0, 0x90);
    }
    spy.write(&subscribe(&Topic::Down(inbox(666)).text(), 0)).await;
    assert_eq!(soon(spy.read()).await.unwrap().0, 0x90);
    let before = external.stats().up.get();
    // Into another's inbox, in both directions: dropped by the broker.
    for topic in [Topic::Down(honest.inbox), Topic::Record(ReplicaId(0), honest.inbox)] {
        spy.write(&publish(&topic.text(), b"\x01\x03 forged")).await;
    }
    let request = honest.next_request();
    let answer = honest.ask(&Ping { request }).await;
    assert_eq!(find::<Ping>(&answer).unwrap().request, request);
    // A RECORD of no session: answered by a RESET, the first thing it hears.
    let unknown = RecordHeader { session: 7, counter: 0 };
    let mut frame = vec![0; 64];
    frame[..RECORD_HEADER_LEN].copy_from_slice(&unknown.to_bytes());
    spy.write(&publish(&Topic::Record(ReplicaId(0), inbox(666)).text(), &frame)).await;
    let heard = soon(spy.read_frame(inbox(666))).await;
    assert_eq!(Reset::parse(&heard).unwrap().session, 7);
    assert_eq!(external.stats().up.get(), before + 2, "the Ping and the unknown session");
    assert_eq!(external.stats().dropped(DropReason::Worthless).get(), 0);
}
