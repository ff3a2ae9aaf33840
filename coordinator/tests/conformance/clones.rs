//! Two machines with one identity, and deleted devices that are forgotten.

use core::net::IpAddr;

use weft_coordinator::domain::device::{Decision, Device};
use weft_coordinator::domain::quarantine::{Heard, Heeded, PROCESSES, Quarantine, Verdict};
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::store::{Store, StoreError, What};
use weft_wire::id::{Inbox, Instance, OrganisationId};

use crate::common::fleet::{NOW, by, enrol, enrolment, key, new_key, try_enrol, unique};

fn inbox(device: &Device) -> Inbox {
    device.agent().unwrap().inbox
}

fn instance(n: u16) -> Instance {
    Instance([n.to_be_bytes(); 4].concat().try_into().unwrap())
}

fn address(n: u8) -> Option<IpAddr> {
    Some([203, 0, 113, n].into())
}

/// Hears process `n`, which comes from 203.0.113.n, at an inbox.
async fn hear(store: &dyn Store, device: &Device, n: u8, at: Inbox) -> Heeded {
    let heard = Heard {
        instance: instance(n.into()),
        inbox: at,
        address: address(n),
        at: UnixMs(NOW.0 + u64::from(n)),
        fresh: Inbox(unique()),
    };
    store.hear(device.id, heard).await.unwrap()
}

fn moved(heeded: Heeded) -> (Quarantine, Inbox, bool) {
    match heeded.verdict {
        Verdict::Kept { left, inbox, new } => (*left, inbox, new),
        other => panic!("{other:?}"),
    }
}

fn is_member(heeded: &Heeded) -> bool {
    matches!(heeded.verdict, Verdict::Member(_))
}

fn is_copy(heeded: &Heeded) -> bool {
    matches!(heeded.verdict, Verdict::Quarantined(_))
}

async fn member(store: &dyn Store) -> Device {
    let key = key(store, new_key()).await;
    enrol(store, key.id, "gw-a").await
}

async fn actions(store: &dyn Store) -> Vec<String> {
    let rows = store.audit(OrganisationId(1), 0, 1_000).await.unwrap();
    rows.into_iter().map(|row| row.action).filter(|action| action.starts_with("device.")).collect()
}

/// A new process takes over, however often; what is remembered is bounded.
pub(crate) async fn a_restart_is_no_clone(store: &dyn Store) {
    let device = member(store).await;
    let own = inbox(&device);
    for n in 1..=200 {
        for _ in 0..2 {
            let heeded = hear(store, &device, n, own).await;
            assert_eq!(heeded, Heeded { duplicates: 0, verdict: Verdict::Member(None) });
        }
    }
    let after = store.device(device.id).await.unwrap().unwrap();
    assert_eq!(after.agent().unwrap().instance, Some(instance(200)));
    assert!(!after.agent().unwrap().has_copies);
    assert_eq!(inbox(&after), own);
    assert_eq!(after.version, device.version, "nothing that people see changed");
    assert_eq!(actions(store).await, ["device.enrol"]);
    // So long ago that it counts as a new one.
    let forgotten = 200 - u8::try_from(PROCESSES).unwrap() - 1;
    assert!(is_member(&hear(store, &device, forgotten, own).await));
    assert!(store.quarantines(None).await.unwrap().is_empty());
}

pub(crate) async fn the_first_of_two_is_kept_and_moves(store: &dyn Store) {
    let device = member(store).await;
    let old = inbox(&device);
    hear(store, &device, 1, old).await;
    hear(store, &device, 2, old).await;
    let heeded = hear(store, &device, 1, old).await;
    assert_eq!(heeded.duplicates, 1);
    let (left, new, found) = moved(heeded);
    assert!(found && new != old);
    assert_eq!((left.kept, left.instance, left.inbox), (instance(1), instance(2), old));
    assert_eq!((left.address, left.heard), (address(2), UnixMs(NOW.0 + 2)), "where the copy was");
    let after = store.device(device.id).await.unwrap().unwrap();
    assert_eq!(inbox(&after), new);
    assert!(after.agent().unwrap().has_copies && after.version > device.version);
    // It did not hear, or had no time to go: told again, and counted once.
    let (_, again, found) = moved(hear(store, &device, 1, old).await);
    assert!(!found && again == new);
    assert!(is_copy(&hear(store, &device, 2, old).await));
    // Once there, everybody who comes to the old one is the copy.
    assert!(is_member(&hear(store, &device, 1, new).await));
    for n in 1..20 {
        assert!(is_copy(&hear(store, &device, n, old).await), "{n}");
    }
    // And the kept one may start anew as it likes.
    for n in 30..40 {
        assert!(is_member(&hear(store, &device, n, new).await), "{n}");
    }
    assert_eq!(actions(store).await, ["device.enrol", "device.clone"]);
}

/// Until the kept one has moved, an unknown process may be either of them.
pub(crate) async fn who_starts_anew_before_is_not_judged(store: &dyn Store) {
    let device = member(store).await;
    let old = inbox(&device);
    for n in [1, 2] {
        hear(store, &device, n, old).await;
    }
    let (_, first, _) = moved(hear(store, &device, 1, old).await);
    // The kept one dies before it stored where to go, and starts as 3.
    assert!(is_member(&hear(store, &device, 3, old).await));
    // The copy dies too and starts as 4: both live again.
    assert!(is_member(&hear(store, &device, 4, old).await));
    let heeded = hear(store, &device, 3, old).await;
    assert_eq!(heeded.duplicates, 2);
    let (left, second, found) = moved(heeded);
    assert!(found && second != first);
    assert_eq!((left.kept, left.instance), (instance(3), instance(4)));
    assert!(is_member(&hear(store, &device, 3, second).await));
    assert!(is_copy(&hear(store, &device, 4, old).await));
    assert_eq!(store.quarantines(Some(device.id)).await.unwrap().len(), 1);
}

pub(crate) async fn a_copy_hears_once_for_the_first_time(store: &dyn Store) {
    let device = member(store).await;
    let old = inbox(&device);
    let none = store.hear_copy(device.id, old, address(2), NOW).await.unwrap();
    assert_eq!(none, None, "nobody is a copy yet");
    for n in [1, 2, 1] {
        hear(store, &device, n, old).await;
    }
    let (copy, first) =
        store.hear_copy(device.id, old, address(7), UnixMs(NOW.0 + 50)).await.unwrap().unwrap();
    assert!(first);
    assert_eq!((copy.address, copy.told), (address(7), Some(UnixMs(NOW.0 + 50))));
    let (copy, first) =
        store.hear_copy(device.id, old, address(8), UnixMs(NOW.0 + 90)).await.unwrap().unwrap();
    assert!(!first);
    assert_eq!((copy.address, copy.heard), (address(8), UnixMs(NOW.0 + 90)));
    assert_eq!(copy.told, Some(UnixMs(NOW.0 + 50)));
    assert_eq!(store.quarantines(None).await.unwrap(), [copy]);
    assert_eq!(actions(store).await, ["device.enrol", "device.clone", "device.quarantine"]);
}

pub(crate) async fn a_release_forgets_what_two_did(store: &dyn Store) {
    let device = member(store).await;
    let old = inbox(&device);
    let release = |is_there| store.decide(device.id, Decision::Release { is_there }, None, by(NOW));
    assert_eq!(release(false).await, Err(StoreError::NotQuarantined));
    for n in [1, 2] {
        hear(store, &device, n, old).await;
    }
    let (_, new, _) = moved(hear(store, &device, 1, old).await);
    hear(store, &device, 1, new).await;
    // The kept one is away: whoever comes first is the device now.
    let mut changes = store.changes();
    let after = release(false).await.unwrap().after.unwrap();
    let change = changes.recv().await.unwrap();
    assert_eq!(
        (change.released[0].device, &change.released[0].inboxes[..]),
        (device.id, &[old][..])
    );
    assert!(after.is_active() && !after.agent().unwrap().has_copies);
    let heeded = hear(store, &device, 2, old).await;
    assert!(is_member(&heeded));
    assert_eq!(heeded.duplicates, 2, "its stamps go beyond those of the other");
    assert!(is_member(&hear(store, &device, 1, new).await));
    let (left, ..) = moved(hear(store, &device, 2, new).await);
    assert_eq!((left.kept, left.instance), (instance(2), instance(1)), "it was there first");
    // The kept one is there: it stays the first.
    let after = release(true).await.unwrap().after.unwrap();
    assert!(is_member(&hear(store, &device, 1, new).await));
    let (left, ..) = moved(hear(store, &device, 2, inbox(&after)).await);
    assert_eq!((left.kept, left.instance), (instance(2), instance(1)));
}

/// Neither a copy nor a join string brings what only the kept one is to know.
pub(crate) async fn a_copy_does_not_enrol_again(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let asked = enrolment(key.id, "gw-a");
    let device = try_enrol(store, asked.clone()).await.unwrap().device;
    for n in [1, 2, 1] {
        hear(store, &device, n, inbox(&device)).await;
    }
    let refused = try_enrol(store, asked.clone()).await.unwrap_err();
    assert_eq!(refused, weft_coordinator::domain::enrolment::Refused::Cloned);
    // What is known of processes goes with the device.
    store.decide(device.id, Decision::Leave, None, by(NOW)).await.unwrap();
    assert!(store.quarantines(None).await.unwrap().is_empty());
    assert!(try_enrol(store, asked).await.unwrap().new);
}

/// A blocked device hears that it is blocked, and so does its copy.
pub(crate) async fn who_is_out_is_not_judged(store: &dyn Store) {
    let device = member(store).await;
    let block = Decision::Block { reason: String::new() };
    store.decide(device.id, block, None, by(NOW)).await.unwrap();
    for n in [1, 2, 1, 2] {
        assert!(is_member(&hear(store, &device, n, inbox(&device)).await));
    }
    assert!(store.quarantines(None).await.unwrap().is_empty());
}

pub(crate) async fn a_deleted_device_is_forgotten(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let asked = enrolment(key.id, "gw-a");
    let device = try_enrol(store, asked.clone()).await.unwrap().device;
    assert_eq!(store.forget(device.id, by(NOW)).await, Err(StoreError::NotFound(What::Device)));
    store.decide(device.id, Decision::Delete, None, by(NOW)).await.unwrap();
    let stones = store.tombstones().await.unwrap();
    assert_eq!((stones.len(), stones[0].name.as_str()), (1, "gw-a"));
    try_enrol(store, asked.clone()).await.unwrap_err();
    assert_eq!(store.forget(device.id, by(NOW)).await.unwrap(), stones[0]);
    assert!(store.tombstones().await.unwrap().is_empty());
    let again = try_enrol(store, asked).await.unwrap();
    assert!(again.new && again.device.id != device.id);
    let said = actions(store).await;
    assert_eq!(said, ["device.enrol", "device.delete", "device.forget", "device.enrol"]);
}
