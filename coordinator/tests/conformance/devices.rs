//! Decisions on devices, and keys.

use weft_coordinator::domain::device::{Decision, Kind, Standing};
use weft_coordinator::domain::key::{KeyState, NewKey};
use weft_coordinator::store::{Known, Store, StoreError, What};
use weft_noise::mac;
use weft_wire::id::{DeviceId, Revision};

use weft_coordinator::domain::device::NewWireGuard;
use weft_wire::id::KeyId;

use crate::common::fleet::{
    NETWORK, NOW, by, enrol, enrolment, key, new_key, try_enrol, unique, wireguard,
};

pub(crate) async fn decisions_follow_the_standing(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let device = enrol(store, key.id, "gw-a").await;
    let decide = |decision| store.decide(device.id, decision, None, by(NOW));
    assert_eq!(decide(Decision::Approve).await, Err(StoreError::Standing(Standing::Active)));
    assert_eq!(decide(Decision::Unblock).await, Err(StoreError::Standing(Standing::Active)));
    let blocked =
        decide(Decision::Block { reason: "lost".to_owned() }).await.unwrap().after.unwrap();
    assert_eq!((blocked.standing, blocked.standing_reason.as_str()), (Standing::Blocked, "lost"));
    assert_eq!(blocked.host, device.host, "a blocked device keeps its address");
    let back = decide(Decision::Unblock).await.unwrap().after.unwrap();
    assert_eq!((back.standing, back.standing_reason.as_str()), (Standing::Active, ""));
    let gone = decide(Decision::Delete).await.unwrap();
    assert_eq!(gone.after, None);
    assert_eq!(decide(Decision::Delete).await, Err(StoreError::NotFound(What::Device)));
}

pub(crate) async fn names_stay_unique(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    enrol(store, key.id, "gw-b").await;
    let rename =
        |name: &str| store.decide(a.id, Decision::Rename { name: name.to_owned() }, None, by(NOW));
    let taken = StoreError::NameTaken { what: What::Device, name: "gw-b".to_owned() };
    assert_eq!(rename("gw-b").await, Err(taken));
    assert_eq!(rename("gw-c").await.unwrap().after.unwrap().name, "gw-c");
    assert_eq!(rename("gw-c").await.unwrap().after.unwrap().name, "gw-c", "its own name is free");
}

/// An operator who saw an older version hears that it changed.
pub(crate) async fn versions_guard_decisions(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let device = enrol(store, key.id, "gw-a").await;
    let rename = |name: &str, version| {
        store.decide(device.id, Decision::Rename { name: name.to_owned() }, Some(version), by(NOW))
    };
    let after = rename("gw-b", device.version).await.unwrap().after.unwrap();
    assert!(after.version > device.version);
    assert_eq!(rename("gw-c", device.version).await, Err(StoreError::Changed(after.version)));
}

pub(crate) async fn wireguard_peers_are_devices(store: &dyn Store) {
    let endpoint = "192.0.2.9:51820".parse().unwrap();
    let new = NewWireGuard { endpoint: Some(endpoint), psk: false, ..wireguard("phone") };
    let device = store.add_wireguard(new.clone(), by(NOW)).await.unwrap();
    assert_eq!(device.kind, Kind::WireGuard { endpoint: Some(endpoint), psk: false });
    assert_eq!((device.standing, device.host), (Standing::Active, Some(2)));
    let taken = StoreError::NameTaken { what: What::Device, name: "phone".to_owned() };
    assert_eq!(store.add_wireguard(new, by(NOW)).await, Err(taken));
    assert_eq!(
        store.new_command(device.id, "restart", by(NOW)).await,
        Err(StoreError::NotFound(What::Device)),
        "nobody there takes commands"
    );
    assert_eq!(store.map_since(device.id, Revision(0)).await.unwrap().unwrap().ops.len(), 8);
}

pub(crate) async fn devices_are_found_by_what_people_type(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let first = enrolment(key.id, "gw-a");
    let device = try_enrol(store, first.clone()).await.unwrap().device;
    let some = Some(device.clone());
    assert_eq!(store.device(device.id).await.unwrap(), some);
    assert_eq!(store.device_by_identity(first.identity).await.unwrap(), some);
    assert_eq!(store.device_by_host(NETWORK, 2).await.unwrap(), some);
    assert_eq!(
        store.devices_by_name("gw-a".to_owned()).await.unwrap(),
        core::slice::from_ref(&device)
    );
    let print = mac::fingerprint(&first.identity);
    assert_eq!(store.known(print).await.unwrap(), Some(Known::Device(Box::new(device.clone()))));
    assert_eq!(store.device(DeviceId(99)).await.unwrap(), None);
    store.decide(device.id, Decision::Delete, None, by(NOW)).await.unwrap();
    let Some(Known::Tombstone(tombstone)) = store.known(print).await.unwrap() else {
        panic!("the tombstone is not found");
    };
    assert_eq!((tombstone.device, tombstone.name.as_str(), tombstone.at), (device.id, "gw-a", NOW));
}

pub(crate) async fn keys_are_made_listed_and_ended(store: &dyn Store) {
    let named = |name: &str| NewKey { name: Some(name.to_owned()), ..new_key() };
    let lab = key(store, named("lab")).await;
    let taken = StoreError::NameTaken { what: What::Key, name: "lab".to_owned() };
    assert_eq!(store.create_key(named("lab"), by(NOW)).await, Err(taken));
    let unnamed = [key(store, new_key()).await.name, key(store, new_key()).await.name];
    assert_eq!(unnamed, ["key", "key-2"]);
    let member = enrol(store, lab.id, "gw-a").await;
    let revoked = store.revoke_key(lab.id, false, by(NOW)).await.unwrap();
    assert_eq!(revoked.key.state(NOW), KeyState::Revoked);
    assert_eq!(revoked.devices, [member.id]);
    assert!(store.device(member.id).await.unwrap().unwrap().is_active());
    assert_eq!(store.keys().await.unwrap().len(), 3);
    key(store, named("lab")).await;
    assert_eq!(
        store.revoke_key(KeyId::from_random(unique()), false, by(NOW)).await,
        Err(StoreError::NotFound(What::Key))
    );
}

pub(crate) async fn a_key_goes_with_its_devices(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let asks = crate::common::fleet::key(store, NewKey { needs_approval: true, ..new_key() }).await;
    let member = enrol(store, key.id, "gw-a").await;
    let pending = enrol(store, asks.id, "gw-b").await;
    let out = enrol(store, key.id, "gw-c").await;
    let block = Decision::Block { reason: "lost".to_owned() };
    store.decide(out.id, block, None, by(NOW)).await.unwrap();
    let revoked = store.revoke_key(key.id, true, by(NOW)).await.unwrap();
    assert_eq!(revoked.devices, [member.id], "the other one was out already");
    store.revoke_key(asks.id, true, by(NOW)).await.unwrap();
    let standing = async |id| store.device(id).await.unwrap().unwrap().standing;
    assert_eq!(standing(member.id).await, Standing::Blocked);
    assert_eq!(standing(pending.id).await, Standing::Rejected);
}

pub(crate) async fn commands_are_numbered(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let device = enrol(store, key.id, "gw-a").await;
    let first = store.new_command(device.id, "restart", by(NOW)).await.unwrap();
    let second = store.new_command(device.id, "restart", by(NOW)).await.unwrap();
    assert_eq!(second.0, first.0 + 1);
}

/// What was committed is told, once, with whom it concerns.
pub(crate) async fn changes_are_told_after_the_commit(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    let b = enrol(store, key.id, "gw-b").await;
    let (mut changes, mut applied) = (store.changes(), store.applied());
    let block = Decision::Block { reason: String::new() };
    let decided = store.decide(a.id, block, None, by(NOW)).await.unwrap();
    assert_eq!(decided.affected, [b.id]);
    let change = changes.recv().await.unwrap();
    assert_eq!(change.maps.len(), 1);
    assert_eq!(
        (change.maps[0].revision, &change.maps[0].devices[..]),
        (decided.revision, &[b.id][..])
    );
    assert_eq!(
        (change.standings[0].device, change.standings[0].standing),
        (a.id, Standing::Blocked)
    );
    store.set_applied(b.id, decided.revision).await.unwrap();
    assert_eq!(applied.recv().await.unwrap(), (b.id, decided.revision));
    store.decide(a.id, Decision::Delete, None, by(NOW)).await.unwrap();
    let change = changes.recv().await.unwrap();
    assert_eq!(change.maps, [], "nobody knew the blocked device any more");
    assert_eq!(
        (change.gone[0].device, change.gone[0].inbox),
        (a.id, a.agent().map(|agent| agent.inbox))
    );
    // A refused call tells nobody.
    store.decide(b.id, Decision::Approve, None, by(NOW)).await.unwrap_err();
    assert!(changes.try_recv().is_err());
}
