//! Devices that hold newer maps than the database knows.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use endpoint::{NOW_MS, soon};
use weft_coordinator::domain::audit::Actor;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::store::By;
use weft_wire::id::{Epoch, OrganisationId, Revision};
use weft_wire::item::Ping;
use world::{Device, EPOCH, World};

async fn rows(world: &World) -> usize {
    let rows = world.store.audit(OrganisationId(1), 0, 1_000).await.unwrap();
    rows.iter().filter(|row| row.action == "installation.epoch").count()
}

/// A session with what the device holds, whose first record may end it.
async fn arrive(device: &mut Device, world: &World, holds: (Epoch, Revision)) {
    device.holds = holds;
    device.come_back(world).await;
    let (hello, pending) = device.hello(&device.device_psk(), None);
    device.send_hello(&hello).await;
    let welcome = device.read().await;
    device.take_welcome(pending, &welcome);
    let request = device.next_request();
    device.send(|writer| writer.put(&Ping { request }).unwrap()).await;
}

async fn epoch(world: &World) -> Epoch {
    world.store.installation().await.unwrap().epoch
}

#[tokio::test]
async fn a_newer_map_than_is_known_begins_a_new_life_once() {
    let world = World::new().await;
    let key = world.key(|_| {}).await;
    let mut a = world.member(&key, "gw-a").await;
    let mut b = world.member(&key, "gw-b").await;
    // What it holds is of another life, or not newer: nothing happens.
    for holds in [(Epoch(EPOCH.0 + 1), Revision(9_999)), (EPOCH, Revision(1))] {
        arrive(&mut a, &world, holds).await;
        a.wait_for::<Ping>().await;
    }
    assert_eq!((epoch(&world).await, rows(&world).await), (EPOCH, 0));
    arrive(&mut a, &world, (EPOCH, Revision(9_999))).await;
    soon(async {
        while epoch(&world).await == EPOCH {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let renewed = epoch(&world).await;
    assert_eq!(rows(&world).await, 1);
    // Everybody shakes hands anew and hears of it.
    soon(async {
        while world.channel.sessions().table().devices() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    b.come_back(&world).await;
    b.shake_hands(&world).await;
    assert_eq!(b.welcome.as_ref().unwrap().epoch, renewed);
    // Whoever claims it again is heard once a day.
    arrive(&mut a, &world, (renewed, Revision(9_999))).await;
    a.wait_for::<Ping>().await;
    assert_eq!((epoch(&world).await, rows(&world).await), (renewed, 1));
    // And by the store itself, which looks at the time and at what is known.
    let by = |at: u64| By { actor: Actor::device(a.id()), at: UnixMs(at) };
    let day_ms = 86_400_000;
    for (held, at, renews) in [
        (9_999, NOW_MS + day_ms - 1, false),
        (1, NOW_MS + day_ms, false),
        (9_999, NOW_MS + day_ms, true),
    ] {
        let drawn = world.store.renew_epoch(a.id(), Revision(held), by(at)).await.unwrap();
        assert_eq!(drawn.is_some(), renews, "{held} at {at}");
    }
}
