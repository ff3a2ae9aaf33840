//! Devices that a restored backup does not know, end to end over MQTT.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use endpoint::soon;
use weft_coordinator::domain::device::Decision;
use weft_coordinator::service::channel::FrameDrop;
use weft_wire::id::{DeviceId, Epoch, NetworkId, Revision};
use weft_wire::item::{Lost, Refused, Registered, Returning, Standing, State};
use weft_wire::map::MapReady;
use world::{Device, EPOCH, NETWORK, World, find};

/// A world that lost a device: the secrets are those of another one, which took
/// it in.
async fn lost(name: &str) -> (World, Device) {
    let before = World::new().await;
    let key = before.key(|_| {}).await;
    let mut device = before.member(&key, name).await;
    device.holds = (Epoch(EPOCH.0 + 1), Revision(3));
    (World::new().await, device)
}

async fn register(device: &mut Device, network: NetworkId) -> Vec<world::Held> {
    let mut register = device.register();
    register.host = 77;
    device
        .send(|writer| {
            writer.put(&Returning { device: DeviceId(5), network }).unwrap();
            writer.put(&register).unwrap();
        })
        .await;
    device.items().await
}

#[tokio::test]
async fn a_lost_device_is_taken_back_and_waits() {
    let (world, mut device) = lost("gw-a").await;
    device.come_back(&world).await;
    let first = device.shake_hands(&world).await;
    assert!(find::<Lost>(&first).is_some());
    let answer = register(&mut device, NETWORK).await;
    let registered: Registered = find(&answer).unwrap();
    assert_eq!((registered.standing, registered.host), (Standing::Pending, 0));
    assert_eq!(registered.name.as_str(), "gw-a");
    assert_eq!(registered.psk.0, device.device_psk().secret.0);
    // The answer got lost: the same again, also in a session of the row's own.
    let again: Registered = find(&register(&mut device, NETWORK).await).unwrap();
    assert_eq!(again.device, registered.device);
    device.registered = Some(registered);
    device.come_back(&world).await;
    let first = device.shake_hands(&world).await;
    let state: State = find(&first).unwrap();
    assert_eq!(state.standing, Standing::Pending);
    assert!(state.reason.ends_with("100.93.0.77 is kept"), "{}", state.reason);
    let again: Registered = find(&register(&mut device, NETWORK).await).unwrap();
    assert_eq!(again.device, device.id());
    assert_eq!(world.store.devices().await.unwrap().len(), 1);

    world.store.decide(device.id(), Decision::Approve, None, world.by()).await.unwrap();
    assert_eq!(device.wait_for::<State>().await.standing, Standing::Active);
    assert_eq!(device.wait_for::<MapReady>().await.epoch, EPOCH);
    let row = world.store.device(device.id()).await.unwrap().unwrap();
    assert_eq!(row.host, Some(77));
}

#[tokio::test]
async fn a_lost_device_may_do_nothing_else() {
    let (world, mut device) = lost("gw-a").await;
    device.come_back(&world).await;
    device.shake_hands(&world).await;
    // Without what it was, and with a network that the backup does not know.
    let alone = device.register();
    device.send(|writer| writer.put(&alone).unwrap()).await;
    let answer = register(&mut device, NetworkId(99)).await;
    let refused: Refused = find(&answer).unwrap();
    assert_eq!(refused.text.as_str(), "the backup does not know its network");
    assert!(world.store.devices().await.unwrap().is_empty());
}

#[tokio::test]
async fn who_left_in_this_life_is_not_lost() {
    let (world, mut device) = lost("gw-a").await;
    device.holds = (EPOCH, Revision(3));
    device.come_back(&world).await;
    let (hello, _) = device.hello(&device.device_psk(), None);
    device.send_hello(&hello).await;
    assert_eq!(soon(device.client.as_mut().unwrap().read_end()).await, Some(0x98));
    assert_eq!(world.channel.stats().dropped(FrameDrop::UnknownDevice).get(), 1);
}

#[tokio::test]
async fn a_stranger_is_not_lost() {
    let (world, mut device) = lost("gw-a").await;
    device.come_back(&world).await;
    let mut psk = device.device_psk();
    psk.secret.0[0] ^= 1;
    let (hello, _) = device.hello(&psk, None);
    device.send_hello(&hello).await;
    assert_eq!(soon(device.client.as_mut().unwrap().read_end()).await, Some(0x98));
    assert_eq!(world.channel.stats().dropped(FrameDrop::UnknownDevice).get(), 1);
    assert_eq!(world.channel.stats().welcomes.get(), 0);
}
