//! Who may not use relays, told from any revision on.

use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::key::NewKey;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::store::Store;
use weft_wire::id::{DeviceId, Epoch};

use crate::common::fleet::{NOW, by, enrol, key, new_key};

const EPOCH: Epoch = Epoch(7);
const START: (Epoch, u64) = (Epoch(0), 0);

async fn decide(store: &dyn Store, device: DeviceId, decision: Decision) {
    store.decide(device, decision, None, by(NOW)).await.unwrap();
}

fn block() -> Decision {
    Decision::Block { reason: String::new() }
}

/// What a relay hears that holds `held`, and what it holds then.
async fn heard(store: &dyn Store, held: (Epoch, u64)) -> (Vec<(u32, bool)>, (Epoch, u64)) {
    let denials = store.denials(held, 100).await.unwrap();
    assert!(denials.last);
    let list = denials.list.iter().map(|one| (one.device.0, one.denied)).collect();
    (list, (denials.epoch, denials.to))
}

pub(crate) async fn each_decision_has_a_revision(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let (a, b) = (enrol(store, key.id, "a").await.id, enrol(store, key.id, "b").await.id);
    assert_eq!(heard(store, START).await, (vec![], (EPOCH, 0)));
    decide(store, a, block()).await;
    let (list, first) = heard(store, (EPOCH, 0)).await;
    assert_eq!(list, [(a.0, true)]);
    decide(store, b, Decision::Delete).await;
    decide(store, a, Decision::Unblock).await;
    // One that was there hears both, one that comes anew who is out now.
    let (list, second) = heard(store, first).await;
    assert_eq!(list, [(b.0, true), (a.0, false)]);
    assert_eq!(heard(store, START).await, (vec![(b.0, true)], second));
    assert_eq!(heard(store, second).await, (vec![], second));
    // Of another life, or of a database that is older now.
    for held in [(Epoch(8), second.1), (EPOCH, second.1 + 1)] {
        let denials = store.denials(held, 100).await.unwrap();
        assert_eq!((denials.from, denials.list.len(), denials.to), (0, 1, second.1));
    }
}

pub(crate) async fn who_was_never_denied_is_not_named(store: &dyn Store) {
    let new = NewKey { needs_approval: true, ..new_key() };
    let key = key(store, new).await;
    let device = enrol(store, key.id, "a").await.id;
    decide(store, device, Decision::Approve).await;
    assert_eq!(heard(store, START).await, (vec![], (EPOCH, 0)));
}

pub(crate) async fn a_long_list_comes_in_parts(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let mut devices = Vec::new();
    for n in 0..5 {
        let device = enrol(store, key.id, &format!("d{n}")).await.id;
        decide(store, device, block()).await;
        devices.push(device);
    }
    let (mut held, mut all, mut parts) = (START, Vec::new(), 0);
    loop {
        let denials = store.denials(held, 2).await.unwrap();
        assert_eq!(denials.from, held.1);
        all.extend(denials.list.iter().map(|one| one.device));
        held = (denials.epoch, denials.to);
        parts += 1;
        if denials.last {
            break;
        }
    }
    assert_eq!((all, parts), (devices, 3));
}

/// The row of a device that is gone goes when no credentials of it can be left.
pub(crate) async fn who_is_gone_is_forgotten_at_last(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let gone = enrol(store, key.id, "gone").await.id;
    let blocked = enrol(store, key.id, "blocked").await.id;
    let other = enrol(store, key.id, "other").await.id;
    decide(store, gone, Decision::Leave).await;
    decide(store, blocked, block()).await;
    let lease = 3_600_000;
    for (after, known) in
        [(lease, vec![gone, blocked, other]), (lease + 86_400_001, vec![blocked, other])]
    {
        let at = UnixMs(NOW.0 + after);
        store.decide(other, block(), None, by(at)).await.unwrap();
        let (list, _) = heard(store, START).await;
        assert_eq!(list, known.iter().map(|device| (device.0, true)).collect::<Vec<_>>());
        store.decide(other, Decision::Unblock, None, by(at)).await.unwrap();
    }
}
