//! Enrolment: one transaction that checks, counts, names and gives an address.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_coordinator::domain::device::{Decision, Standing};
use weft_coordinator::domain::enrolment::{Adoption, Enrolment, Refused};
use weft_coordinator::domain::key::{KeyState, NewKey};
use weft_coordinator::domain::policy::{Policy, Rule, parse_traffic};
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::store::{SharedStore, Store, StoreError};

use weft_coordinator::domain::device::NewWireGuard;
use weft_wire::id::{DeviceId, Inbox, KeyId, NetworkId, PublicKey};

use crate::common::fleet::{NOW, by, enrol, enrolment, key, new_key, try_enrol, unique};

/// Tailscale's TS-2025-007: one use is one device, whatever comes at once.
pub(crate) async fn one_use_is_one_device(store: &SharedStore) {
    let key = key(&**store, NewKey { max_uses: Some(1), ..new_key() }).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let store = Arc::clone(store);
        let enrolment = enrolment(key.id, &format!("gw-{n}"));
        tasks.spawn(async move { store.enrol(enrolment, NOW).await.unwrap() });
    }
    let answers = tasks.join_all().await;
    let taken: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(taken.len(), 1);
    let refused = Refused::KeyUsedUp { key: key.name, uses: 1, max_uses: 1 };
    assert_eq!(answers.iter().filter(|answer| answer.as_ref() == Err(&refused)).count(), 63);
    assert_eq!(store.devices().await.unwrap(), [taken[0].device.clone()]);
    let key = store.key(key.id).await.unwrap().unwrap();
    assert_eq!((key.uses, key.state(NOW)), (1, KeyState::UsedUp));
}

/// A repeated registration is the same registration, also when the key has
/// ended meanwhile.
pub(crate) async fn the_same_device_gets_the_same_answer(store: &dyn Store) {
    let key = key(store, NewKey { max_uses: Some(2), ..new_key() }).await;
    let first = enrolment(key.id, "gw-a");
    let taken = try_enrol(store, first.clone()).await.unwrap();
    assert!(taken.new);
    let again =
        try_enrol(store, Enrolment { inbox: Inbox(unique()), ..first.clone() }).await.unwrap();
    assert!(!again.new);
    assert_eq!(
        (&again.device, &again.network.id, &again.key),
        (&taken.device, &taken.network.id, &taken.key)
    );
    assert_eq!(again.key.uses, 1);
    store.revoke_key(key.id, false, by(NOW)).await.unwrap();
    let after = try_enrol(store, first).await.unwrap();
    assert_eq!(after.device, taken.device);
    assert!(matches!(
        try_enrol(store, enrolment(key.id, "gw-b")).await,
        Err(Refused::KeyRevoked { at: NOW, .. })
    ));
}

/// Two at once with one identity are one device and one use.
pub(crate) async fn one_identity_at_once_is_one_device(store: &SharedStore) {
    let key = key(&**store, new_key()).await;
    let enrolment = enrolment(key.id, "gw-a");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (store, enrolment) = (Arc::clone(store), enrolment.clone());
        tasks.spawn(async move { store.enrol(enrolment, NOW).await.unwrap().unwrap() });
    }
    let answers = tasks.join_all().await;
    let ids: BTreeSet<_> = answers.iter().map(|answer| answer.device.id).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.new).count(), 1);
    assert_eq!(store.key(key.id).await.unwrap().unwrap().uses, 1);
}

pub(crate) async fn each_reason_has_its_refusal(store: &dyn Store) {
    let unknown = enrolment(KeyId::from_random(unique()), "gw-a");
    assert_eq!(try_enrol(store, unknown).await, Err(Refused::KeyUnknown));

    let expired = key(store, NewKey { expires: Some(NOW), ..new_key() }).await;
    let refused = Refused::KeyExpired { key: expired.name.clone(), at: NOW };
    assert_eq!(try_enrol(store, enrolment(expired.id, "gw-a")).await, Err(refused));

    let key = key(store, new_key()).await;
    let malformed = |change: fn(&mut Enrolment)| {
        let mut enrolment = enrolment(key.id, "gw-a");
        change(&mut enrolment);
        enrolment
    };
    for wrong in [
        malformed(|enrolment| enrolment.name = "GW A".to_owned()),
        malformed(|enrolment| enrolment.abilities.mtu = 1_279),
        malformed(|enrolment| enrolment.wg_key = PublicKey::ZERO),
        malformed(|enrolment| enrolment.wg_key = enrolment.identity),
    ] {
        assert_eq!(try_enrol(store, wrong).await, Err(Refused::Malformed));
    }
    assert_eq!(store.key(key.id).await.unwrap().unwrap().uses, 0);
    assert_eq!(store.devices().await.unwrap(), []);
}

/// Headscale 2731: a WireGuard key belongs to one device, also after its end.
pub(crate) async fn a_wireguard_key_is_one_devices(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let victim = enrol(store, key.id, "gw-a").await;
    let thief = Enrolment { wg_key: victim.wg_key, ..enrolment(key.id, "gw-b") };
    assert_eq!(try_enrol(store, thief.clone()).await, Err(Refused::KeyInUse));
    let stolen = NewWireGuard { wg_key: victim.wg_key, ..crate::common::fleet::wireguard("w") };
    assert_eq!(store.add_wireguard(stolen, by(NOW)).await, Err(StoreError::KeyInUse));
    store.decide(victim.id, Decision::Delete, None, by(NOW)).await.unwrap();
    assert_eq!(try_enrol(store, thief).await, Err(Refused::KeyInUse));
}

/// The identity was proved by the handshake, so its new WireGuard key counts,
/// unless it is another's.
pub(crate) async fn a_known_identity_may_bring_a_new_key(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let first = enrolment(key.id, "gw-a");
    let device = try_enrol(store, first.clone()).await.unwrap().device;
    let other = enrol(store, key.id, "gw-b").await;
    let before = store.networks().await.unwrap()[0].revision;
    let rekeyed = Enrolment { wg_key: PublicKey(unique()), ..first.clone() };
    let after = try_enrol(store, rekeyed.clone()).await.unwrap();
    assert_eq!((after.device.id, after.device.wg_key), (device.id, rekeyed.wg_key));
    assert!(
        after.network.revision > before || store.networks().await.unwrap()[0].revision > before
    );
    let stolen = Enrolment { wg_key: other.wg_key, ..first };
    assert_eq!(try_enrol(store, stolen).await, Err(Refused::KeyInUse));
}

/// A new WireGuard key is told to all peers: it needs an enrolment key that is
/// good, though not another use of it.
pub(crate) async fn a_new_key_needs_a_good_enrolment_key(store: &dyn Store) {
    let key = key(store, NewKey { max_uses: Some(1), ..new_key() }).await;
    let first = enrolment(key.id, "gw-a");
    let device = try_enrol(store, first.clone()).await.unwrap().device;
    let rekeyed = Enrolment { wg_key: PublicKey(unique()), ..first.clone() };
    let after = try_enrol(store, rekeyed.clone()).await.unwrap();
    assert_eq!((after.device.wg_key, after.key.uses), (rekeyed.wg_key, 1));
    store.revoke_key(key.id, false, by(NOW)).await.unwrap();
    let revision = store.networks().await.unwrap()[0].revision;
    let refused = Refused::KeyRevoked { key: key.name, at: NOW };
    assert_eq!(try_enrol(store, first).await, Err(refused));
    let kept = store.device(device.id).await.unwrap().unwrap();
    assert_eq!(kept.wg_key, rekeyed.wg_key);
    assert_eq!(store.networks().await.unwrap()[0].revision, revision);
    assert!(!try_enrol(store, rekeyed).await.unwrap().new, "what is known is answered");
}

/// After an update a device says its new version and what it can do now.
pub(crate) async fn abilities_are_renewed(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let first = enrolment(key.id, "gw-a");
    let device = try_enrol(store, first.clone()).await.unwrap().device;
    let mut newer = first.clone();
    newer.abilities.agent = "0.2.0".to_owned();
    newer.abilities.mtu = 1_420;
    newer.abilities.endpoints = vec!["198.51.100.7:51871".parse().unwrap()];
    let before = store.networks().await.unwrap()[0].revision;
    let after = try_enrol(store, newer.clone()).await.unwrap();
    assert!(!after.new);
    assert_eq!(after.device.agent().unwrap().abilities, newer.abilities);
    assert!(after.device.version > device.version);
    let told = store.networks().await.unwrap()[0].revision;
    assert!(told > before, "its peers are told the MTU");
    try_enrol(store, newer.clone()).await.unwrap();
    assert_eq!(store.networks().await.unwrap()[0].revision, told, "nothing differs");
    store.revoke_key(key.id, false, by(NOW)).await.unwrap();
    let kept = try_enrol(store, first).await.unwrap().device;
    assert_eq!(kept.agent().unwrap().abilities, newer.abilities, "the key has ended");
}

/// A device that holds fewer rules than it would be given is no member, and
/// stands in nobody's way.
pub(crate) async fn rules_must_fit_the_device(store: &dyn Store) {
    let asks = key(store, NewKey { needs_approval: true, ..new_key() }).await;
    let key = key(store, new_key()).await;
    let small = |key, name: &str| {
        let mut small = enrolment(key, name);
        small.abilities.rules = 1;
        small
    };
    let mut none = enrolment(key.id, "none");
    none.abilities.rules = 0;
    assert_eq!(try_enrol(store, none).await, Err(Refused::Malformed));
    let pending = try_enrol(store, small(asks.id, "pending")).await.unwrap().device;
    let blocked = try_enrol(store, small(key.id, "blocked")).await.unwrap().device;
    let block = Decision::Block { reason: String::new() };
    store.decide(blocked.id, block, None, by(NOW)).await.unwrap();
    let member = try_enrol(store, small(key.id, "member")).await.unwrap().device;
    let rule = |name: &str, port: &str| Rule {
        name: name.to_owned(),
        from: vec!["any".parse().unwrap()],
        to: vec!["any".parse().unwrap()],
        allow: parse_traffic(port).unwrap(),
    };
    let policy = Policy { rules: vec![rule("ssh", "tcp/22"), rule("web", "tcp/80")] };
    let network = store.networks().await.unwrap()[0].id;
    let refused = store.set_policy(network, policy.clone(), None, by(NOW)).await;
    assert!(
        matches!(&refused, Err(StoreError::TooManyRules { device, holds: 1, needs: 2 })
            if *device == member.name),
        "{refused:?}"
    );
    store.decide(member.id, Decision::Delete, None, by(NOW)).await.unwrap();
    store.set_policy(network, policy, None, by(NOW)).await.unwrap();
    for (device, decision) in [(&pending, Decision::Approve), (&blocked, Decision::Unblock)] {
        let refused = store.decide(device.id, decision, None, by(NOW)).await;
        assert!(matches!(refused, Err(StoreError::TooManyRules { holds: 1, needs: 2, .. })));
    }
    let refused = Err(Refused::TooManyRules { holds: 1, needs: 2 });
    assert_eq!(try_enrol(store, small(key.id, "late")).await, refused);
}

pub(crate) async fn names_are_made_unique(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let mut names = BTreeSet::new();
    for n in 1..=60 {
        let name = enrol(store, key.id, "gw-b").await.name;
        if n <= 20 {
            assert_eq!(name, if n == 1 { "gw-b".to_owned() } else { format!("gw-b-{n}") });
        }
        assert!(names.insert(name), "given twice");
    }
}

pub(crate) async fn hosts_are_unique_and_never_reserved(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let mut hosts = BTreeSet::new();
    for n in 0..253 {
        let device = enrol(store, key.id, &format!("gw-{n}")).await;
        assert!(hosts.insert(device.host.unwrap()), "given twice");
    }
    assert_eq!(hosts.into_iter().collect::<Vec<_>>(), (2..=254).collect::<Vec<_>>());
    let refused = Refused::NetworkFull { network: "home".to_owned(), used: 253, capacity: 253 };
    assert_eq!(try_enrol(store, enrolment(key.id, "late")).await, Err(refused));
    assert_eq!(store.key(key.id).await.unwrap().unwrap().uses, 253, "a refusal counts no use");
}

/// A restored database gives a device the address that it still holds.
pub(crate) async fn a_free_host_is_given_as_asked(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let hinted = |host_hint| Enrolment { host_hint, ..enrolment(key.id, "gw") };
    for (hint, host) in [(77, 77), (77, 2), (1, 3), (255, 4), (0, 5), (u32::MAX, 6)] {
        let device = try_enrol(store, hinted(hint)).await.unwrap().device;
        assert_eq!(device.host, Some(host), "asked for {hint}");
    }
}

pub(crate) async fn a_freed_address_rests(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let gone = enrol(store, key.id, "gw-a").await;
    let host = gone.host.unwrap();
    store.decide(gone.id, Decision::Delete, None, by(NOW)).await.unwrap();
    // The lease of an hour and a day beside it.
    let free_at = UnixMs(NOW.0 + (3_600 + 86_400) * 1_000);
    let hinted = |name: &str| Enrolment { host_hint: host, ..enrolment(key.id, name) };
    let early = store.enrol(hinted("gw-b"), UnixMs(free_at.0 - 1)).await.unwrap().unwrap();
    assert_ne!(early.device.host, Some(host));
    let late = store.enrol(hinted("gw-c"), free_at).await.unwrap().unwrap();
    assert_eq!(late.device.host, Some(host));
}

pub(crate) async fn approval_comes_before_the_address(store: &dyn Store) {
    let key = key(store, NewKey { needs_approval: true, ..new_key() }).await;
    let first = enrolment(key.id, "gw-a");
    let pending = try_enrol(store, first.clone()).await.unwrap().device;
    assert_eq!((pending.standing, pending.host), (Standing::Pending, None));
    let reason = "serial not on the delivery note".to_owned();
    let reject = Decision::Reject { reason: reason.clone() };
    store.decide(pending.id, reject, None, by(NOW)).await.unwrap();
    assert_eq!(try_enrol(store, first.clone()).await, Err(Refused::Rejected { reason }));
    store.decide(pending.id, Decision::Approve, None, by(NOW)).await.unwrap();
    let active = try_enrol(store, first).await.unwrap().device;
    assert_eq!((active.id, active.standing, active.host), (pending.id, Standing::Active, Some(2)));
}

/// A batch key that is still valid does not bring a deleted device back.
pub(crate) async fn a_deleted_device_stays_out(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let first = enrolment(key.id, "gw-a");
    let device = try_enrol(store, first.clone()).await.unwrap().device;
    store.decide(device.id, Decision::Delete, None, by(NOW)).await.unwrap();
    assert_eq!(try_enrol(store, first.clone()).await, Err(Refused::Tombstoned { at: NOW }));
    assert_eq!(store.device_by_identity(first.identity).await.unwrap(), None);
    // Who left by itself may come again, as a new device.
    let second = enrolment(key.id, "gw-b");
    let device = try_enrol(store, second.clone()).await.unwrap().device;
    store.decide(device.id, Decision::Leave, None, by(NOW)).await.unwrap();
    let again = try_enrol(store, second).await.unwrap().device;
    assert_ne!(again.id, device.id);
}

/// A device that says that it held this host before its row was lost.
fn lost(network: NetworkId, name: &str, host_hint: u32) -> Adoption {
    let enrolment = Enrolment { host_hint, ..enrolment(KeyId::from_random([0; 8]), name) };
    Adoption { enrolment, device: DeviceId(9), network }
}

pub(crate) async fn a_lost_device_waits_with_its_address(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let adoption = lost(key.network, "gw-a", 77);
    let adopted = store.adopt(adoption.clone(), NOW).await.unwrap().unwrap();
    let (device, address) = (adopted.device, adopted.network.overlay.address_v4(77));
    assert!(adopted.new);
    assert_eq!(
        (device.standing, device.host, &*device.name),
        (Standing::Pending, Some(77), "gw-a")
    );
    assert_eq!(device.standing_reason, format!("lost with a restored backup; {address} is kept"));
    assert!(device.tags.is_empty());
    let audit = store.audit(device.organisation, 0, 100).await.unwrap();
    let row = audit.last().unwrap();
    assert_eq!(row.action, "device.adopt");
    assert!(row.detail.contains(&("kept".to_owned(), address.to_string())), "{row:?}");
    // Nobody else gets it meanwhile.
    let hinted = Enrolment { host_hint: 77, ..enrolment(key.id, "gw-b") };
    assert_ne!(try_enrol(store, hinted).await.unwrap().device.host, Some(77));
    // The same device gets the same answer, also as a member.
    let again = store.adopt(adoption.clone(), NOW).await.unwrap().unwrap();
    assert!(!again.new && again.device == device);
    store.decide(device.id, Decision::Approve, None, by(NOW)).await.unwrap();
    let again = store.adopt(adoption.clone(), NOW).await.unwrap().unwrap().device;
    assert_eq!((again.standing, again.host), (Standing::Active, Some(77)));
    // One that was deleted in this life does not come back so.
    store.decide(device.id, Decision::Delete, None, by(NOW)).await.unwrap();
    let refused = store.adopt(adoption, NOW).await.unwrap();
    assert_eq!(refused.err(), Some(Refused::Tombstoned { at: NOW }));
}

pub(crate) async fn a_lost_device_finds_its_address_taken(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let owner = enrol(store, key.id, "gw-c").await;
    let host = owner.host.unwrap();
    let adopt = async |name: &str, host| {
        store.adopt(lost(key.network, name, host), NOW).await.unwrap().unwrap()
    };
    let taken = adopt("gw-a", host).await;
    let address = taken.network.overlay.address_v4(host);
    assert_eq!(taken.device.host, None);
    let reason = format!("lost with a restored backup; {address} is gw-c's now");
    assert_eq!(taken.device.standing_reason, reason);
    let audit = store.audit(owner.organisation, 0, 100).await.unwrap();
    let detail = &audit.last().unwrap().detail;
    assert!(detail.contains(&("conflict".to_owned(), address.to_string())), "{detail:?}");
    store.decide(taken.device.id, Decision::Approve, None, by(NOW)).await.unwrap();
    let after = store.device(taken.device.id).await.unwrap().unwrap();
    assert!(after.host.is_some_and(|other| other != host));
    // One that rests after a deleted device is not free either, a name that is
    // taken gets a number, and what no device can hold is not asked for.
    store.decide(owner.id, Decision::Delete, None, by(NOW)).await.unwrap();
    let resting = adopt("gw-a", host).await.device;
    assert_eq!((resting.host, &*resting.name), (None, "gw-a-2"));
    assert!(resting.standing_reason.ends_with(" rests"), "{}", resting.standing_reason);
    for host in [0, 1, 255, u32::MAX] {
        let device = adopt("gw-d", host).await.device;
        assert_eq!(
            (device.host, &*device.standing_reason),
            (None, "lost with a restored backup"),
            "{host}"
        );
    }
    let nowhere = store.adopt(lost(NetworkId(99), "gw-e", 7), NOW).await.unwrap();
    assert_eq!(nowhere.err(), Some(Refused::NetworkGone));
}

pub(crate) async fn a_blocked_device_hears_it(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let first = enrolment(key.id, "gw-a");
    let device = try_enrol(store, first.clone()).await.unwrap().device;
    let reason = "stolen".to_owned();
    let block = Decision::Block { reason: reason.clone() };
    store.decide(device.id, block, None, by(NOW)).await.unwrap();
    let leave = store.decide(device.id, Decision::Leave, None, by(NOW)).await;
    assert_eq!(leave, Err(StoreError::Standing(Standing::Blocked)), "leaving ends no block");
    assert_eq!(try_enrol(store, first).await, Err(Refused::Blocked { at: NOW, reason }));
}
