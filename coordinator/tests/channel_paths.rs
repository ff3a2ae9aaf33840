//! What devices report of the ways to each other.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;
mod endpoint;
mod world;

use weft_coordinator::domain::device::Decision;
use weft_coordinator::service::channel::FrameDrop;
use weft_wire::id::DeviceId;
use weft_wire::item::{Done, Ping};
use weft_wire::path::{PathReport, PeerReport, Way};
use weft_wire::signal::{Mapping, NatReport};
use world::{Device, World};

fn report(request: u32, peers: &[DeviceId]) -> PathReport {
    let peer = |peer: &DeviceId| PeerReport {
        peer: *peer,
        way: Way::Relay { relay: 1, rung: None },
        since_s: 60,
        rtt_ms: 48,
        attempt: None,
        next_s: None,
    };
    PathReport {
        request,
        uptime_s: 3_600,
        nat: NatReport { mapping: Mapping::Random, lifetime_s: 0, age_ms: 500 },
        seen: core::iter::once("203.0.113.22:51871".parse().unwrap()).collect(),
        peers: peers.iter().map(peer).collect(),
    }
}

async fn tell(device: &mut Device, report: &PathReport) {
    device.send(|writer| writer.put(report).unwrap()).await;
    let done: Done = device.wait_for().await;
    assert_eq!(done.request, report.request);
}

#[tokio::test]
async fn a_report_is_kept_and_answered() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let b = world.member(&key, "b").await;
    tell(&mut a, &report(7, &[b.id(), DeviceId(999)])).await;
    // The answer was lost.
    tell(&mut a, &report(7, &[b.id()])).await;
    let words = world.store.newest_words(None, 10).await.unwrap();
    let said: Vec<_> = words.iter().map(|word| (word.device, word.peer, word.way)).collect();
    assert_eq!(said, [(a.id(), b.id(), Way::Relay { relay: 1, rung: None })]);
    let nat = world.store.nat_state(a.id()).await.unwrap().unwrap();
    assert_eq!(nat.mapping, Mapping::Random);
    assert_eq!(nat.at.since(nat.started).as_secs(), 3_600);
    assert_eq!(nat.seen, ["203.0.113.22:51871".parse().unwrap()]);
    // What is known of a pair goes with either.
    world.store.decide(b.id(), Decision::Delete, None, world.by()).await.unwrap();
    assert!(world.store.newest_words(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn who_reports_without_end_is_not_heeded() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "a").await;
    let (mut sent, drops) = (0, world.channel.stats().dropped(FrameDrop::TooMany));
    while drops.get() == 0 {
        assert!(sent < 1_000, "every report is heeded");
        a.send(|writer| {
            for request in sent..sent + 8 {
                writer.put(&report(request, &[])).unwrap();
            }
            writer.put(&Ping { request: sent }).unwrap();
        })
        .await;
        assert_eq!(a.wait_for::<Ping>().await.request, sent);
        sent += 8;
    }
    assert!((64..=80).contains(&sent), "{sent}");
}
