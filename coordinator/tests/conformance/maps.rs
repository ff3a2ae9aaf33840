//! Maps: who is told of whom, and that deltas lead where a snapshot leads.

use std::collections::BTreeMap;

use weft_coordinator::domain::device::Decision;
use weft_coordinator::domain::enrolment::Refused;
use weft_coordinator::domain::netmap::{MapDelta, MapOp, MapSettings, OwnKeys, PeerEntry};
use weft_coordinator::domain::policy::{Policy, Rule, parse_traffic};
use weft_coordinator::domain::relay::{Joining, NewRegistration, NewRelay, Relay};
use weft_coordinator::store::{Store, StoreError, What};
use weft_wire::id::{DeviceId, KeyId, PublicKey, Revision};
use weft_wire::map::Rule as WireRule;

use weft_coordinator::domain::device::NewWireGuard;

use crate::common::fleet::{
    NETWORK, NOW, by, enrol, key, key_with_tags, new_key, unique, wireguard,
};

/// A device's map as an agent holds it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) revision: Revision,
    pub(crate) peers: BTreeMap<DeviceId, PeerEntry>,
    pub(crate) rules: Vec<WireRule>,
    pub(crate) settings: Option<MapSettings>,
    pub(crate) own_keys: Option<OwnKeys>,
    pub(crate) budget: Option<Option<u64>>,
    pub(crate) lease: Option<u32>,
    pub(crate) servers: Vec<core::net::SocketAddr>,
    pub(crate) relays: Vec<weft_wire::relay::Relay>,
    pub(crate) relay_names: Vec<(u16, String)>,
}

impl Held {
    pub(crate) fn apply(&mut self, delta: MapDelta) {
        if delta.from == Revision(0) {
            *self = Self::default();
        } else {
            assert_eq!(delta.from, self.revision, "the delta builds on something else");
        }
        for op in delta.ops {
            match op {
                MapOp::PeerRemove(device) => {
                    assert!(self.peers.remove(&device).is_some(), "{device} was never told of");
                }
                MapOp::PeerUpsert(entry) => drop(self.peers.insert(entry.device, *entry)),
                MapOp::Rules(rules) => self.rules = rules,
                MapOp::Settings(settings) => self.settings = Some(settings),
                MapOp::OwnKeys(keys) => self.own_keys = Some(keys),
                MapOp::DataBudget(bytes) => self.budget = Some(bytes),
                MapOp::Lease(lease_s) => self.lease = Some(lease_s),
                MapOp::Servers(stun) => self.servers = stun,
                MapOp::Relays(relays) => self.relays = relays,
                MapOp::RelayNames(names) => self.relay_names = names,
            }
        }
        self.revision = delta.to;
    }

    pub(crate) async fn pull(&mut self, store: &dyn Store, device: DeviceId) {
        let delta = store.map_since(device, self.revision).await.unwrap().unwrap();
        self.apply(delta);
    }
}

pub(crate) async fn snapshot(store: &dyn Store, device: DeviceId) -> Held {
    let mut held = Held::default();
    held.pull(store, device).await;
    held
}

pub(crate) fn rule(from: &str, to: &str, allow: &str) -> Rule {
    let mut kinds = parse_traffic(allow).unwrap();
    kinds.sort();
    Rule {
        name: String::new(),
        from: vec![from.parse().unwrap()],
        to: vec![to.parse().unwrap()],
        allow: kinds,
    }
}

async fn set_policy(store: &dyn Store, rules: Vec<Rule>) {
    store.set_policy(NETWORK, Policy { rules }, None, by(NOW)).await.unwrap();
}

pub(crate) async fn everyone_sees_everyone_by_default(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    let b = enrol(store, key.id, "gw-b").await;
    let held = snapshot(store, a.id).await;
    assert_eq!(held.peers.keys().copied().collect::<Vec<_>>(), [b.id]);
    let entry = &held.peers[&b.id];
    assert_eq!((entry.name.as_str(), entry.key, entry.host), ("gw-b", b.wg_key, 3));
    assert_eq!((entry.masks.rules_in, entry.masks.rules_out), (1, 1));
    assert_eq!((entry.psk, entry.wireguard_only, entry.endpoint), (Some(1), false, None));
    let any = WireRule { number: 0, protocol: 0, first_port: 0, last_port: u16::MAX };
    assert_eq!(held.rules, [any]);
    let settings = held.settings.unwrap();
    assert_eq!((settings.host, settings.name.as_str(), settings.mtu), (2, "gw-a", 1_280));
    assert_eq!(held.lease, Some(3_600));
    assert!(store.edge(a.id, b.id).await.unwrap());
    assert!(!store.edge(a.id, a.id).await.unwrap());
    let told = store.peer_entry(a.id, b.id).await.unwrap();
    assert_eq!(told.as_ref(), Some(entry));
    assert_eq!(store.map_since(DeviceId(99), Revision(0)).await.unwrap(), None);
}

/// A device learns of nobody whom no rule joins to it, and masks say which
/// rules of the receiver admit.
pub(crate) async fn policy_decides_who_is_told(store: &dyn Store) {
    let ops = key_with_tags(store, "role=ops").await;
    let plc = key_with_tags(store, "role=plc").await;
    let o = enrol(store, ops.id, "ops").await;
    let p = enrol(store, plc.id, "plc-a").await;
    let q = enrol(store, plc.id, "plc-b").await;
    set_policy(store, vec![rule("role=ops", "role=plc", "tcp/22")]).await;
    let (o_held, p_held) = (snapshot(store, o.id).await, snapshot(store, p.id).await);
    assert_eq!(o_held.peers.keys().copied().collect::<Vec<_>>(), [p.id, q.id]);
    assert_eq!(p_held.peers.keys().copied().collect::<Vec<_>>(), [o.id], "not the other plc");
    let bit = 1 << p_held.rules[0].number;
    assert_eq!((p_held.rules[0].protocol, p_held.rules[0].first_port), (6, 22));
    assert_eq!(o_held.rules, p_held.rules, "the sender knows the number too");
    let (there, back) = (o_held.peers[&p.id].masks, p_held.peers[&o.id].masks);
    assert_eq!((there.rules_in, there.rules_out), (0, bit));
    assert_eq!((back.rules_in, back.rules_out), (bit, 0));
    assert!(store.edge(p.id, o.id).await.unwrap() && !store.edge(p.id, q.id).await.unwrap());
    assert_eq!(store.peer_entry(p.id, q.id).await.unwrap(), None);
    set_policy(store, Vec::new()).await;
    assert_eq!(snapshot(store, o.id).await.peers, BTreeMap::new());
}

/// A change tells those on its edges and nobody else, and costs them one op.
pub(crate) async fn a_change_reaches_its_edges_only(store: &dyn Store) {
    let hub = key_with_tags(store, "role=hub").await;
    let spoke = key_with_tags(store, "role=spoke").await;
    let h = enrol(store, hub.id, "hub").await;
    let s = enrol(store, spoke.id, "spoke-a").await;
    let t = enrol(store, spoke.id, "spoke-b").await;
    set_policy(store, vec![rule("role=hub", "role=spoke", "any")]).await;
    let at = store.networks().await.unwrap()[0].revision;
    let mut changes = store.changes();
    let rename = Decision::Rename { name: "first".to_owned() };
    let decided = store.decide(s.id, rename, None, by(NOW)).await.unwrap();
    assert_eq!(decided.affected, [h.id]);
    assert_eq!(changes.recv().await.unwrap().maps[0].devices, [h.id, s.id]);
    let ops = async |id| store.map_since(id, at).await.unwrap().unwrap().ops;
    assert!(matches!(&ops(h.id).await[..], [MapOp::PeerUpsert(entry)] if entry.name == "first"));
    assert!(
        matches!(&ops(s.id).await[..], [MapOp::Settings(own), MapOp::OwnKeys(_), MapOp::DataBudget(None)] if own.name == "first")
    );
    assert_eq!(ops(t.id).await, []);
    // The same policy again is no change.
    let again = store.policy(NETWORK).await.unwrap();
    let same =
        store.set_policy(NETWORK, again.compiled.policy().clone(), None, by(NOW)).await.unwrap();
    assert_eq!((same.version, same.affected), (again.version, Vec::new()));
    // A rule between hub and spokes does not concern those it does not name.
    let rules = vec![rule("role=hub", "role=spoke", "any"), rule("role=none", "role=hub", "udp")];
    let set =
        store.set_policy(NETWORK, Policy { rules }, Some(again.version), by(NOW)).await.unwrap();
    assert_eq!(set.affected, [h.id]);
}

pub(crate) async fn who_is_out_is_not_told_of(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    let b = enrol(store, key.id, "gw-b").await;
    let mut held = snapshot(store, b.id).await;
    let block = Decision::Block { reason: String::new() };
    store.decide(a.id, block, None, by(NOW)).await.unwrap();
    assert_eq!(
        snapshot(store, a.id).await,
        Held { revision: held.revision, ..Held::default() }.at(store).await
    );
    let delta = store.map_since(b.id, held.revision).await.unwrap().unwrap();
    assert_eq!(delta.ops, [MapOp::PeerRemove(a.id)]);
    held.apply(delta);
    store.decide(a.id, Decision::Unblock, None, by(NOW)).await.unwrap();
    held.pull(store, b.id).await;
    assert_eq!(held, snapshot(store, b.id).await);
    assert!(held.peers.contains_key(&a.id));
}

impl Held {
    /// The same at the newest revision.
    async fn at(self, store: &dyn Store) -> Self {
        let revision = store.networks().await.unwrap()[0].revision;
        Self { revision, ..self }
    }
}

/// Who was blocked has dropped everything: it is given everything again.
pub(crate) async fn who_comes_back_gets_a_snapshot(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    enrol(store, key.id, "gw-b").await;
    let at = snapshot(store, a.id).await.revision;
    let block = Decision::Block { reason: String::new() };
    store.decide(a.id, block, None, by(NOW)).await.unwrap();
    store.decide(a.id, Decision::Unblock, None, by(NOW)).await.unwrap();
    let delta = store.map_since(a.id, at).await.unwrap().unwrap();
    assert_eq!(delta.from, Revision(0));
    assert_eq!(delta.ops.len(), 9);
}

pub(crate) async fn a_revision_of_another_life_gets_a_snapshot(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    let delta = store.map_since(a.id, Revision(u64::MAX)).await.unwrap().unwrap();
    assert_eq!(delta.from, Revision(0));
    assert!(!delta.ops.is_empty());
}

pub(crate) async fn wireguard_peers_are_told_of(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    let endpoint = Some("192.0.2.9:51820".parse().unwrap());
    let new = NewWireGuard { endpoint, psk: false, ..wireguard("phone") };
    let phone = store.add_wireguard(new, by(NOW)).await.unwrap();
    let entry = &snapshot(store, a.id).await.peers[&phone.id];
    assert_eq!((entry.wireguard_only, entry.endpoint, entry.psk), (true, endpoint, None));
    let mirrored = &snapshot(store, phone.id).await.peers[&a.id];
    assert_eq!(
        (mirrored.wireguard_only, mirrored.psk),
        (false, None),
        "both sides agree on no PSK"
    );
    let with_psk = store.add_wireguard(wireguard("tablet"), by(NOW)).await.unwrap();
    assert_eq!(snapshot(store, a.id).await.peers[&with_psk.id].psk, Some(1));
}

pub(crate) async fn servers_are_told_to_all(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    let mut held = snapshot(store, a.id).await;
    let stun = vec!["192.0.2.1:7420".parse().unwrap(), "[2001:db8::1]:7420".parse().unwrap()];
    store.set_servers(stun.clone(), by(NOW)).await.unwrap();
    held.pull(store, a.id).await;
    assert_eq!(held.servers, stun);
    assert_eq!(held, snapshot(store, a.id).await);
}

/// STUN is asked here, and at the relays of a device's region before others: with every
/// change of relays the device is told anew.
pub(crate) async fn servers_at_relays_are_told_by_region(store: &dyn Store) {
    let (plain, here) = (key(store, new_key()).await, key_with_tags(store, "region=sgp").await);
    let devices = [enrol(store, plain.id, "gw-a").await.id, enrol(store, here.id, "gw-b").await.id];
    let mut held = [snapshot(store, devices[0]).await, snapshot(store, devices[1]).await];
    let server = |text: &str| text.parse::<core::net::SocketAddr>().unwrap();
    let own = server("192.0.2.1:7420");
    store.set_servers(vec![own], by(NOW)).await.unwrap();
    let at = |last: u8| {
        let region = if last < 4 { "fra" } else { "sgp" };
        let v4 = Some([203, 0, 113, last].into());
        NewRelay { region: region.to_owned(), v4, ..relay(&format!("relay{last}")) }
    };
    let stun = |lasts: &[u8]| {
        let at = lasts.iter().map(|last| server(&format!("203.0.113.{last}:3478")));
        core::iter::once(own).chain(at).collect::<Vec<_>>()
    };
    for (relays, [elsewhere, in_sgp]) in [
        (&[1, 2, 3, 4][..], [&[1, 2, 3][..], &[4, 1, 2][..]]),
        (&[1, 4], [&[1, 4], &[4, 1]]),
        (&[], [&[], &[]]),
    ] {
        store.set_relays(relays.iter().copied().map(at).collect(), by(NOW)).await.unwrap();
        for (one, device) in held.iter_mut().zip(devices) {
            one.pull(store, device).await;
            assert_eq!(*one, snapshot(store, device).await);
        }
        assert_eq!(held.each_ref().map(|one| one.servers.clone()), [stun(elsewhere), stun(in_sgp)]);
    }
}

pub(crate) fn relay(name: &str) -> NewRelay {
    NewRelay {
        name: name.to_owned(),
        region: "fra".to_owned(),
        v4: Some([203, 0, 113, 10].into()),
        v6: None,
        udp: [3_478, 0],
        tcp: 443,
        tls: 0,
    }
}

pub(crate) async fn relays_are_told_to_all_and_keep_their_numbers(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await;
    let mut held = snapshot(store, a.id).await;
    assert_eq!(held.relays, []);
    let revision = held.revision;
    let first = store.set_relays(vec![relay("fra1"), relay("sgp1")], by(NOW)).await.unwrap();
    assert_eq!(first.iter().map(|relay| relay.number).collect::<Vec<_>>(), [1, 2]);
    held.pull(store, a.id).await;
    assert!(held.revision > revision);
    assert_eq!(held.relays, first.iter().map(Relay::to_wire).collect::<Vec<_>>());
    assert_eq!(held, snapshot(store, a.id).await);

    // The same again changes nothing; another order, and an address, do.
    let revision = held.revision;
    store.set_relays(vec![relay("fra1"), relay("sgp1")], by(NOW)).await.unwrap();
    held.pull(store, a.id).await;
    assert_eq!(held.revision, revision);
    let moved = NewRelay { v6: Some("2001:db8::9".parse().unwrap()), ..relay("sgp1") };
    let second = store.set_relays(vec![moved.clone(), relay("nyc1")], by(NOW)).await.unwrap();
    assert_eq!((second[0].number, &second[0].is), (2, &moved));
    assert_eq!(second[1].number, 3);
    assert_eq!(store.relays().await.unwrap(), second);
    held.pull(store, a.id).await;
    assert_eq!(held.relays, second.iter().map(Relay::to_wire).collect::<Vec<_>>());
    assert_eq!(held.relay_names, [(2, "sgp1".to_owned()), (3, "nyc1".to_owned())]);
    store.set_relays(Vec::new(), by(NOW)).await.unwrap();
    held.pull(store, a.id).await;
    assert_eq!(held.relays, []);
}

/// One that joined is told behind those of the configuration, and only while it is
/// listed; whoever stands in its region tries it first.
pub(crate) async fn relays_that_joined_are_told_while_they_are_listed(store: &dyn Store) {
    let here = key_with_tags(store, "region=fra").await;
    let (a, b) = (key(store, new_key()).await, enrol(store, here.id, "gw-b").await);
    let a = enrol(store, a.id, "gw-a").await;
    store
        .set_relays(vec![NewRelay { region: "sgp".to_owned(), ..relay("own") }], by(NOW))
        .await
        .unwrap();
    let new = NewRegistration {
        name: "fra1".to_owned(),
        region: "fra".to_owned(),
        key: KeyId::from_random(unique()),
        key_expires: None,
        master: 0,
    };
    let joining = Joining { key: new.key, identity: PublicKey(unique()), version: "1".to_owned() };
    let added = store.add_relay(new.clone(), by(NOW)).await.unwrap();
    assert_eq!((added.number, added.told), (2, false));
    let taken = store.set_relays(vec![relay("fra1")], by(NOW)).await.unwrap_err();
    assert_eq!(taken, StoreError::NameTaken { what: What::Relay, name: "fra1".to_owned() });
    let joined = store.join_relay(joining.clone(), NOW).await.unwrap().unwrap();
    assert_eq!(joined.identity(), Some((joining.identity, 0)));
    let other = Joining { identity: PublicKey(unique()), ..joining.clone() };
    let refused = store.join_relay(other, NOW).await.unwrap().unwrap_err();
    assert!(matches!(refused, Refused::KeyUsedUp { uses: 1, .. }));
    let place =
        NewRelay { v4: Some([203, 0, 113, 11].into()), udp: [3_478, 0], ..NewRelay::default() };
    store.place_relay(2, place, "2".to_owned(), by(NOW)).await.unwrap();

    let mut held = [snapshot(store, a.id).await, snapshot(store, b.id).await];
    let numbers = |held: &[Held; 2]| {
        held.each_ref().map(|one| one.relays.iter().map(|relay| relay.number).collect::<Vec<_>>())
    };
    assert_eq!(numbers(&held), [vec![1], vec![1]]);
    for (told, expected) in [(true, [vec![1, 2], vec![2, 1]]), (false, [vec![1], vec![1]])] {
        store.tell_relay(2, told, "a test", by(NOW)).await.unwrap();
        for (one, device) in held.iter_mut().zip([a.id, b.id]) {
            one.pull(store, device).await;
            assert_eq!(*one, snapshot(store, device).await);
        }
        assert_eq!(numbers(&held), expected);
        let stun = |one: &Held| one.servers.iter().map(|server| server.ip()).collect::<Vec<_>>();
        let relays = |one: &Held| one.relays.iter().filter_map(|one| one.v4).collect::<Vec<_>>();
        for one in &held {
            assert_eq!(stun(one), relays(one), "STUN is asked where relays are");
        }
    }
    // It keeps its number whatever the configuration says.
    let after = store.set_relays(vec![relay("own"), relay("nyc1")], by(NOW)).await.unwrap();
    assert_eq!(after.iter().map(|one| one.number).collect::<Vec<_>>(), [1, 3]);
    assert!(store.drain_relay(2, true, by(NOW)).await.unwrap().registration.unwrap().draining);
    assert_eq!(
        store.remove_relay(1, by(NOW)).await.unwrap_err(),
        StoreError::NotFound(What::Relay)
    );
    store.remove_relay(2, by(NOW)).await.unwrap();
    assert_eq!(store.relays().await.unwrap().len(), 2);
}

/// Two that keep the way between them open are told so, and nobody else is told of
/// anything.
pub(crate) async fn a_warm_pair_is_told_to_both(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await.id;
    let b = enrol(store, key.id, "gw-b").await.id;
    let c = enrol(store, key.id, "gw-c").await.id;
    let mut held = [snapshot(store, a).await, snapshot(store, b).await, snapshot(store, c).await];
    let mut changes = store.changes();
    for wanted in [true, false] {
        assert!(store.keep_warm(b, a, wanted, by(NOW)).await.unwrap());
        assert!(!store.keep_warm(a, b, wanted, by(NOW)).await.unwrap(), "as before");
        let pairs = store.warm_pairs().await.unwrap();
        assert_eq!(pairs.iter().any(|pair| (pair.a, pair.b) == (a, b)), wanted);
        let change = changes.recv().await.unwrap();
        assert_eq!(change.maps[0].devices, [a, b]);
        for (device, held) in [a, b, c].into_iter().zip(&mut held) {
            held.pull(store, device).await;
            assert_eq!(*held, snapshot(store, device).await);
            let warm: Vec<_> = held.peers.values().filter(|peer| peer.keep_warm).collect();
            let warm: Vec<_> = warm.iter().map(|peer| peer.device).collect();
            let other = if device == a { b } else { a };
            assert_eq!(warm, if wanted && device != c { vec![other] } else { vec![] });
        }
        let told = store.peer_entry(a, b).await.unwrap().unwrap();
        assert_eq!(told.keep_warm, wanted);
    }
    let phone = store.add_wireguard(wireguard("phone"), by(NOW)).await.unwrap().id;
    let refused = Err(StoreError::NotFound(What::Device));
    assert_eq!(store.keep_warm(a, phone, true, by(NOW)).await, refused);
    assert_eq!(store.keep_warm(a, a, true, by(NOW)).await, refused);
    // It goes with either of them.
    assert!(store.keep_warm(a, b, true, by(NOW)).await.unwrap());
    store.decide(b, Decision::Delete, None, by(NOW)).await.unwrap();
    assert!(store.warm_pairs().await.unwrap().is_empty());
}

/// A budget is its device's alone.
pub(crate) async fn a_budget_is_told_to_its_device(store: &dyn Store) {
    let key = key(store, new_key()).await;
    let a = enrol(store, key.id, "gw-a").await.id;
    let b = enrol(store, key.id, "gw-b").await.id;
    let mut held = snapshot(store, a).await;
    assert_eq!(held.budget, Some(None));
    let mut changes = store.changes();
    for bytes in [Some(1_000_000), None] {
        let budget = Decision::Budget { bytes };
        let decided = store.decide(a, budget.clone(), None, by(NOW)).await.unwrap();
        let after = decided.after.unwrap();
        assert_eq!(after.agent().unwrap().data_budget, bytes);
        assert!(decided.affected.is_empty());
        assert_eq!(changes.recv().await.unwrap().maps[0].devices, [a]);
        held.pull(store, a).await;
        assert_eq!(held.budget, Some(bytes));
        assert_eq!(held, snapshot(store, a).await);
        let stale = store.decide(a, budget, Some(after.version - 1), by(NOW)).await;
        assert_eq!(stale.err(), Some(StoreError::Changed(after.version)));
    }
    assert_eq!(snapshot(store, b).await.budget, Some(None));
}
