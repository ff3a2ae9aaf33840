//! What devices report of the ways to each other.

use core::time::Duration;

use weft_coordinator::domain::device::{Decision, Device};
use weft_coordinator::domain::network::NewNetwork;
use weft_coordinator::domain::paths::{
    Attempt, Connection, KEPT, KEPT_FOR, NatState, PEERS, Reported,
};
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::store::Store;
use weft_wire::id::{DeviceId, OrganisationId};
use weft_wire::path::{Rung, Way};
use weft_wire::signal::Mapping;
use weft_wire::verdict::AttemptEnd;

use crate::common::fleet::{NOW, by, enrol, first_network, key, new_key, wireguard};

fn at(second: u64) -> UnixMs {
    NOW.after(Duration::from_secs(second))
}

fn nat(second: u64) -> NatState {
    NatState {
        at: at(second),
        started: NOW,
        mapping: Mapping::Sequential(-2),
        mapped: Some(at(1)),
        lifetime: Some(Duration::from_secs(120)),
        seen: vec!["203.0.113.22:51871".parse().unwrap(), "[2001:db8::7]:4000".parse().unwrap()],
    }
}

fn word(device: DeviceId, peer: DeviceId, second: u64, way: Way) -> Connection {
    let at = at(second);
    Connection { device, peer, at, way, since: at, rtt: None, attempt: None, next: None }
}

async fn report(store: &dyn Store, second: u64, words: Vec<Connection>) {
    let device = words[0].device;
    let reported = Reported { device, nat: nat(second), connections: words };
    store.report_paths(reported).await.unwrap();
}

async fn members<const N: usize>(store: &dyn Store, names: [&str; N]) -> [Device; N] {
    let key = key(store, new_key()).await;
    let mut members = Vec::new();
    for name in names {
        members.push(enrol(store, key.id, name).await);
    }
    members.try_into().unwrap()
}

/// Everything that a word may hold comes back, from either end.
pub(crate) async fn words_are_kept(store: &dyn Store) {
    let [a, b] = members(store, ["gw-a", "gw-b"]).await;
    assert_eq!(store.nat_state(a.id).await.unwrap(), None);
    let attempt = Attempt {
        end: Some(AttemptEnd::NoAnswer),
        at: at(1),
        failed: 12,
        own: Mapping::Random,
        peer: Mapping::Window(512),
        tried: 4,
        answered: 1,
        sent: 28,
        took: Duration::from_millis(1_300),
    };
    let way = Way::Relay { relay: 300, rung: Some(Rung::SecondUdp) };
    let full = Connection {
        rtt: Some(Duration::from_millis(48)),
        attempt: Some(attempt),
        next: Some(at(99)),
        ..word(a.id, b.id, 2, way)
    };
    let direct = word(b.id, a.id, 3, Way::Direct("[2001:db8::7]:51871".parse().unwrap()));
    report(store, 2, vec![full.clone()]).await;
    report(store, 3, vec![direct.clone()]).await;
    let both = vec![direct.clone(), full.clone()];
    assert_eq!(store.words_between(a.id, b.id).await.unwrap(), both);
    assert_eq!(store.words_between(b.id, a.id).await.unwrap(), both);
    assert_eq!(store.newest_words(Some(a.id), 10).await.unwrap(), both);
    assert_eq!(store.newest_words(None, 1).await.unwrap(), [direct]);
    assert_eq!(store.nat_state(a.id).await.unwrap(), Some(nat(2)));
}

/// The same events told again are one word; of others the newest few are kept.
pub(crate) async fn words_on_a_peer_are_bounded(store: &dyn Store) {
    let [a, b] = members(store, ["gw-a", "gw-b"]).await;
    let first = word(a.id, b.id, 0, Way::Nowhere);
    let again = Connection { at: at(60), rtt: Some(Duration::from_millis(20)), ..first.clone() };
    report(store, 0, vec![first]).await;
    report(store, 60, vec![again.clone()]).await;
    assert_eq!(store.words_between(a.id, b.id).await.unwrap(), [again]);
    for second in (100..).step_by(10).take(2 * KEPT as usize) {
        let way = if second % 20 == 0 { Way::Idle } else { Way::Nowhere };
        report(store, second, vec![word(a.id, b.id, second, way)]).await;
    }
    let words = store.words_between(a.id, b.id).await.unwrap();
    assert_eq!(words.len(), KEPT as usize);
    assert_eq!(words[0].at, at(100 + 10 * (2 * u64::from(KEPT) - 1)), "the newest");
    assert!(words.windows(2).all(|pair| pair[0].at > pair[1].at));
    assert_eq!(store.newest_words(None, 10).await.unwrap(), words[..1]);
}

/// A device that speaks of everybody displaces its own words and nobody else's.
pub(crate) async fn peers_of_a_device_are_bounded(store: &dyn Store) {
    let new = NewNetwork { name: "wide".to_owned(), ..first_network() };
    let mut overlay = new.overlay;
    overlay.ipv4_len = 20;
    overlay.ipv4 = [100, 94, 0, 0].into();
    overlay.ipv6 = [0xfc; 6];
    let new = NewNetwork { overlay, ..new };
    let network = store.create_network(OrganisationId(1), new, by(NOW)).await.unwrap().id;
    let mut peers = Vec::new();
    for n in 0..PEERS + 3 {
        let new = wireguard(&format!("p{n}"));
        let new = weft_coordinator::domain::device::NewWireGuard { network, ..new };
        peers.push(store.add_wireguard(new, by(NOW)).await.unwrap().id);
    }
    let key = weft_coordinator::domain::key::NewKey { network, ..new_key() };
    let key = store.create_key(key, by(NOW)).await.unwrap();
    let talker = enrol(store, key.id, "talker").await.id;
    let other = enrol(store, key.id, "other").await.id;
    report(store, 0, vec![word(other, peers[0], 0, Way::Idle)]).await;
    for (second, peer) in (0..).zip(&peers) {
        report(store, second, vec![word(talker, *peer, second, Way::Idle)]).await;
    }
    let words = store.newest_words(Some(talker), u32::MAX).await.unwrap();
    assert_eq!(words.len(), PEERS as usize);
    assert!(words.iter().all(|word| word.at >= at(3)), "those last spoken of");
    assert_eq!(store.words_between(other, peers[0]).await.unwrap().len(), 1);
    let later = at(10).after(KEPT_FOR);
    let late = Connection { at: later, since: later, ..word(talker, peers[0], 0, Way::Idle) };
    let nat = NatState { at: later, ..nat(0) };
    let reported = Reported { device: talker, nat, connections: vec![late] };
    store.report_paths(reported).await.unwrap();
    let words = store.newest_words(Some(talker), u32::MAX).await.unwrap();
    assert!(words.iter().all(|word| word.at >= at(10)), "what is too old has gone");
}

/// Words go with either of the two, and none is kept on a stranger.
pub(crate) async fn words_go_with_their_devices(store: &dyn Store) {
    let [a, b, c] = members(store, ["gw-a", "gw-b", "gw-c"]).await;
    let mut overlay = first_network().overlay;
    overlay.ipv4 = [100, 95, 0, 0].into();
    overlay.ipv6 = [0xfb; 6];
    let new = NewNetwork { name: "lab".to_owned(), overlay, ..first_network() };
    let lab = store.create_network(OrganisationId(1), new, by(NOW)).await.unwrap().id;
    let new = weft_coordinator::domain::device::NewWireGuard { network: lab, ..wireguard("far") };
    let far = store.add_wireguard(new, by(NOW)).await.unwrap().id;
    let on = |peer| word(a.id, peer, 1, Way::Idle);
    report(store, 1, vec![on(b.id), on(far), on(DeviceId(9_999)), on(c.id)]).await;
    report(store, 1, vec![word(b.id, a.id, 1, Way::Idle)]).await;
    assert_eq!(store.newest_words(None, 10).await.unwrap().len(), 3);
    store.decide(b.id, Decision::Delete, None, by(NOW)).await.unwrap();
    let left = store.newest_words(None, 10).await.unwrap();
    assert_eq!(left, [on(c.id)]);
    store.decide(a.id, Decision::Delete, None, by(NOW)).await.unwrap();
    assert!(store.newest_words(None, 10).await.unwrap().is_empty());
    assert_eq!(store.nat_state(a.id).await.unwrap(), None);
    // What comes late of a device that is gone changes nothing.
    report(store, 2, vec![on(c.id)]).await;
    assert!(store.newest_words(None, 10).await.unwrap().is_empty());
}
