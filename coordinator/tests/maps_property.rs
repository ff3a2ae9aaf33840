//! What a device is told is worked out by way of the tags on its edges. Here it
//! is compared with the plain computation: every member, every row of the log,
//! no index, on random policies, tags and histories.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use weft_coordinator::domain::device::{Decision, NewWireGuard};
use weft_coordinator::domain::netmap::{MapDelta, MapOp, PeerChange, View, peer_changes};
use weft_coordinator::domain::policy::{Compiled, Numbering, Policy, Rule, parse_traffic};
use weft_coordinator::domain::reach::{Reach, reach};
use weft_coordinator::domain::tags::TagSet;
use weft_coordinator::store::sqlite::{self, NewInstallation, SqliteStore};
use weft_coordinator::store::{SharedStore, Store, StoreError};
use weft_wire::id::{DeviceId, Epoch, KeyId, PublicKey, Revision};

mod common;

use common::TempDir;
use common::fleet::{NETWORK, NOW, by, enrol, first_network, key_with_tags, wireguard};

const TAGS: [&str; 6] =
    ["", "site=a", "role=gw site=a", "site=b", "role=gw site=b", "line=7 role=gw site=b"];
const SELECTORS: [&str; 8] = [
    "any",
    "site=a",
    "role=gw site=a",
    "site=b",
    "role=gw site=b",
    "role=gw",
    "line",
    "site=nowhere",
];
const ALLOW: [&str; 4] = ["any", "icmp", "tcp/22", "udp/5000-5010"];

/// Something that happens to the network; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Enrol(usize),
    WireGuard(usize),
    Block(usize),
    Unblock(usize),
    Rename(usize),
    Delete(usize),
    Policy(Vec<(Vec<usize>, Vec<usize>, usize)>),
    Servers(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let side = || vec(0..SELECTORS.len(), 1..3);
    let rules = vec((side(), side(), 0..ALLOW.len()), 0..5);
    prop_oneof![
        6 => (0..TAGS.len()).prop_map(Step::Enrol),
        1 => (0..TAGS.len()).prop_map(Step::WireGuard),
        2 => any::<usize>().prop_map(Step::Block),
        2 => any::<usize>().prop_map(Step::Unblock),
        3 => any::<usize>().prop_map(Step::Rename),
        1 => any::<usize>().prop_map(Step::Delete),
        3 => rules.prop_map(Step::Policy),
        1 => any::<u8>().prop_map(Step::Servers),
    ]
}

fn policy(rules: &[(Vec<usize>, Vec<usize>, usize)]) -> Policy {
    let side = |side: &[usize]| side.iter().map(|at| SELECTORS[*at].parse().unwrap()).collect();
    let rule = |(from, to, allow): &(Vec<usize>, Vec<usize>, usize)| {
        let mut allow = parse_traffic(ALLOW[*allow]).unwrap();
        allow.sort();
        Rule { name: String::new(), from: side(from), to: side(to), allow }
    };
    Policy { rules: rules.iter().map(rule).collect() }
}

/// What holds from a revision on.
#[derive(Clone)]
struct State {
    members: BTreeMap<DeviceId, TagSet>,
    policy: Arc<Compiled>,
    /// What made it.
    row: Row,
}

#[derive(Clone, PartialEq)]
enum Row {
    Device(DeviceId, Option<TagSet>),
    Policy,
    Network,
}

fn open(dir: &TempDir) -> SharedStore {
    Arc::new(SqliteStore::open(&dir.path().join("weft.db"), NOW).unwrap())
}

/// A store, and everything that ever held in it.
struct Model {
    store: SharedStore,
    keys: Vec<KeyId>,
    devices: Vec<DeviceId>,
    agents: BTreeSet<DeviceId>,
    states: BTreeMap<Revision, State>,
    count: u32,
    dir: TempDir,
}

impl Model {
    async fn new() -> Self {
        let dir = TempDir::new();
        let path = dir.path().join("weft.db");
        let coordinator = PublicKey([9; 32]);
        let new = NewInstallation { epoch: Epoch(7), coordinator, network: first_network() };
        sqlite::create(&path, &new, NOW).unwrap();
        let store = open(&dir);
        let mut keys = Vec::new();
        for tags in TAGS {
            keys.push(key_with_tags(&*store, tags).await.id);
        }
        let policy = store.policy(NETWORK).await.unwrap().compiled;
        let first = State { members: BTreeMap::new(), policy, row: Row::Network };
        Self {
            store,
            keys,
            devices: Vec::new(),
            agents: BTreeSet::new(),
            states: BTreeMap::from([(Revision(1), first)]),
            count: 0,
            dir,
        }
    }

    fn open(&self) -> SharedStore {
        open(&self.dir)
    }

    fn now(&self) -> (Revision, State) {
        let (revision, state) = self.states.last_key_value().unwrap();
        (*revision, state.clone())
    }

    fn at(&self, revision: Revision) -> &State {
        self.states.range(..=revision).next_back().unwrap().1
    }

    fn device(&self, number: usize) -> Option<DeviceId> {
        self.devices.get(number.checked_rem(self.devices.len())?).copied()
    }

    async fn decide(&self, number: usize, decision: Decision) -> Option<DeviceId> {
        let device = self.device(number)?;
        match self.store.decide(device, decision, None, by(NOW)).await {
            Ok(_) => Some(device),
            Err(StoreError::Standing(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Does it; what row it made.
    async fn act(&mut self, step: Step) -> Option<Row> {
        let (_, State { members, .. }) = self.now();
        self.count += 1;
        let name = format!("d{}", self.count);
        let reason = String::new();
        let device = match step {
            Step::Enrol(tags) => {
                let device = enrol(&*self.store, self.keys[tags], &name).await.id;
                self.devices.push(device);
                self.agents.insert(device);
                device
            }
            Step::WireGuard(tags) => {
                let tags = TAGS[tags].parse().unwrap();
                let new = NewWireGuard { tags, ..wireguard(&name) };
                let device = self.store.add_wireguard(new, by(NOW)).await.unwrap().id;
                self.devices.push(device);
                device
            }
            Step::Block(number) => self.decide(number, Decision::Block { reason }).await?,
            Step::Unblock(number) => self.decide(number, Decision::Unblock).await?,
            Step::Rename(number) => self.decide(number, Decision::Rename { name }).await?,
            Step::Delete(number) => {
                let device = self.decide(number, Decision::Delete).await?;
                self.devices.retain(|one| *one != device);
                device
            }
            Step::Policy(rules) => {
                let set = self.store.set_policy(NETWORK, policy(&rules), None, by(NOW)).await;
                let changed = set.unwrap().revision > self.now().0;
                return changed.then_some(Row::Policy);
            }
            Step::Servers(port) => {
                let server = core::net::SocketAddr::from(([192, 0, 2, 1], 7_000 + u16::from(port)));
                self.store.set_servers(vec![server], by(NOW)).await.unwrap();
                let network = self.store.network(NETWORK).await.unwrap().unwrap();
                return (network.revision > self.now().0).then_some(Row::Network);
            }
        };
        Some(Row::Device(device, members.get(&device).cloned()))
    }

    /// Does it, and compares whom the commit named.
    async fn step(&mut self, step: Step) {
        let mut changes = self.store.changes();
        let (before, was) = self.now();
        let Some(row) = self.act(step).await else { return };
        let revision = self.store.network(NETWORK).await.unwrap().unwrap().revision;
        let mut members = was.members.clone();
        if let Row::Device(id, before) = &row {
            let device = self.store.device(*id).await.unwrap();
            match device.filter(|device| device.is_active()) {
                Some(device) => drop(members.insert(*id, device.tags)),
                None => drop(members.remove(id)),
            }
            if before.is_none() && !members.contains_key(id) {
                // Blocked, say, and renamed: it is in nobody's map.
                assert_eq!(revision, self.now().0);
                return;
            }
        }
        assert_eq!(revision.0, before.0 + 1, "one row for one change");
        let policy = self.store.policy(NETWORK).await.unwrap().compiled;
        let state = State { members, policy, row };
        let change = changes.recv().await.unwrap();
        assert_eq!(change.maps[0].revision, revision);
        assert_eq!(change.maps[0].devices, self.told_plainly(&was, &state));
        self.states.insert(revision, state);
    }

    /// Every agent is looked at.
    fn told_plainly(&self, was: &State, is: &State) -> Vec<DeviceId> {
        let told = |id: &DeviceId, tags: &TagSet| match &is.row {
            Row::Network => true,
            Row::Policy => !was.policy.is_same_for(&is.policy, tags),
            Row::Device(subject, before) => {
                let own = is.policy.profile(tags);
                let edge =
                    |tags: &TagSet| is.policy.masks(&own, &is.policy.profile(tags)).is_edge();
                let after = is.members.get(subject);
                id == subject || before.iter().chain(after).any(edge)
            }
        };
        let agents = is.members.iter().filter(|(id, _)| self.agents.contains(id));
        agents.filter(|(id, tags)| told(id, tags)).map(|(id, _)| *id).collect()
    }

    /// Everybody and every row is looked at.
    fn delta_plainly(&self, device: DeviceId, from: Revision) -> (Revision, Told) {
        let (_, now) = self.now();
        let own_now = now.members.get(&device);
        let mut touched: BTreeMap<DeviceId, Option<TagSet>> = BTreeMap::new();
        let (mut was_out, mut policy, mut network) = (false, false, false);
        for state in self.states.range(Revision(from.0 + 1)..).map(|(_, state)| state) {
            match &state.row {
                Row::Device(id, before) => {
                    was_out |= *id == device && before.is_none();
                    touched.entry(*id).or_insert_with(|| before.clone());
                }
                Row::Policy => policy = true,
                Row::Network => network = true,
            }
        }
        let others = || now.members.iter().filter(|(id, _)| **id != device);
        let others = || others().map(|(id, tags)| (*id, tags));
        let view_now = View::new(&now.policy, own_now);
        if from.0 == 0 || own_now.is_some() && was_out {
            let changes =
                peer_changes(View::new(&now.policy, None), view_now, &BTreeMap::new(), others());
            let told = Told { settings: own_now.is_some(), rules: own_now.is_some(), changes };
            return (Revision(0), if own_now.is_some() { told } else { Told::default() });
        }
        let own_touched = touched.remove(&device);
        let own_then = own_touched.clone().unwrap_or_else(|| own_now.cloned());
        let then = if policy { &self.at(from).policy } else { &now.policy };
        let view_then = View::new(then, own_then.as_ref());
        let told = Told {
            settings: own_now.is_some() && (own_touched.is_some() || network),
            rules: own_now.is_some() && view_then.rules() != view_now.rules(),
            changes: peer_changes(view_then, view_now, &touched, others()),
        };
        (from, told)
    }

    /// The last change that a member was told of, the one that let it in
    /// counted.
    fn newest_plainly(&self, device: DeviceId) -> Option<Revision> {
        self.now().1.members.get(&device)?;
        let mut rows = self.states.iter().rev().zip(self.states.iter().rev().skip(1));
        let told = rows.find(|((_, is), (_, was))| self.told_plainly(was, is).contains(&device));
        Some(told.map_or(Revision(1), |((revision, _), _)| *revision))
    }

    async fn check_newest(&self, store: &dyn Store, device: DeviceId) {
        if !self.agents.contains(&device) {
            return;
        }
        let holder = store.holder(device).await.unwrap().unwrap();
        let own = holder.newest.map(|newest| newest.own);
        assert_eq!(own, self.newest_plainly(device), "{device}");
        let Some(newest) = holder.newest else { return };
        assert_eq!(newest.network, self.now().0);
        assert_eq!(self.delta_plainly(device, newest.own).1, Told::default(), "{device}");
    }

    /// Everybody is looked at.
    fn reach_plainly(&self, device: DeviceId) -> Option<Reach> {
        let State { members, policy, .. } = self.now().1;
        let own = policy.profile(members.get(&device)?);
        let others = members.iter().filter(|(id, _)| **id != device);
        let masks = others.map(|(_, tags)| policy.masks(&own, &policy.profile(tags)));
        Some(masks.fold(Reach::default(), |reach, masks| Reach {
            peers: reach.peers + usize::from(masks.is_edge()),
            out: reach.out + usize::from(masks.rules_out != 0),
            back: reach.back + usize::from(masks.rules_in != 0),
        }))
    }

    /// Counts the peers of these devices, asked for at once.
    async fn check_reach(&self, store: &dyn Store, devices: &[DeviceId]) {
        let State { members, policy, .. } = self.now().1;
        let of = |device: &DeviceId| members.get(device).cloned();
        let own: BTreeSet<TagSet> = devices.iter().filter_map(of).collect();
        let joined = store.members_joined(NETWORK, Arc::clone(&policy), own.clone());
        let mut joined = joined.await.unwrap();
        let counted = reach(&policy, &own, &joined);
        for device in devices {
            let counted = of(device).map(|tags| counted[&tags]);
            assert_eq!(counted, self.reach_plainly(*device), "{device}");
        }
        // And nobody else was looked at.
        let edge =
            |a: &TagSet, b: &TagSet| policy.masks(&policy.profile(a), &policy.profile(b)).is_edge();
        let mut all = store.members_by_tags(NETWORK).await.unwrap();
        all.retain(|(tags, _)| own.iter().any(|own| edge(own, tags)));
        joined.sort();
        all.sort();
        assert_eq!(joined, all);
    }

    async fn check(&self, store: &dyn Store, device: DeviceId, from: Revision) {
        let delta = store.map_since(device, from).await.unwrap().unwrap();
        let (begins, told) = self.delta_plainly(device, from);
        assert_eq!((delta.from, delta.to), (begins, self.now().0), "{device} from {from:?}");
        assert_eq!(Told::of(&delta), told, "{device} from {from:?}");
    }
}

/// What a map says, without what it says of each peer.
#[derive(Debug, Default, PartialEq)]
struct Told {
    settings: bool,
    rules: bool,
    changes: Vec<(DeviceId, PeerChange)>,
}

impl Told {
    fn of(delta: &MapDelta) -> Self {
        let mut told = Self::default();
        for op in &delta.ops {
            match op {
                MapOp::PeerRemove(device) => told.changes.push((*device, PeerChange::Remove)),
                MapOp::PeerUpsert(entry) => {
                    told.changes.push((entry.device, PeerChange::Upsert(entry.masks)));
                }
                MapOp::Settings(_) => told.settings = true,
                MapOp::Rules(_) => told.rules = true,
                MapOp::Lease(_)
                | MapOp::Servers(_)
                | MapOp::Relays(_)
                | MapOp::RelayNames(_)
                | MapOp::OwnKeys(_)
                | MapOp::DataBudget(_) => {}
            }
        }
        told
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_map_is_what_the_plain_computation_gives(
        steps in vec(step(), 1..40),
        froms in vec(any::<u64>(), 6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new().await;
            for (number, step) in steps.into_iter().enumerate() {
                model.step(step).await;
                // Now and then somebody asks meanwhile.
                if let (0, Some(device)) = (number % 5, model.device(number)) {
                    model.check(&*model.store, device, Revision(0)).await;
                    model.check_newest(&*model.store, device).await;
                    model.check_reach(&*model.store, &[device]).await;
                }
            }
            let newest = model.now().0;
            // One that has seen it all, and one that reads it from the log.
            let stores = [Arc::clone(&model.store), model.open()];
            for store in &stores {
                model.check_reach(&**store, &model.devices).await;
            }
            for device in &model.devices {
                for store in &stores {
                    model.check_newest(&**store, *device).await;
                    model.check_reach(&**store, &[*device]).await;
                }
                for from in froms.iter().map(|from| Revision(from % (newest.0 + 1))) {
                    for store in &stores {
                        model.check(&**store, *device, from).await;
                    }
                }
            }
        });
    }

    #[test]
    fn a_profile_names_the_rules_that_match(
        rules in vec((vec(0..SELECTORS.len(), 1..3), vec(0..SELECTORS.len(), 1..3), 0..ALLOW.len()), 0..200),
    ) {
        let policy = policy(&rules);
        let numbering = Numbering::default().renumber(&policy).unwrap();
        let compiled = Compiled::new(policy.clone(), numbering).unwrap();
        for tags in TAGS {
            let tags: TagSet = tags.parse().unwrap();
            let profile = compiled.profile(&tags);
            let plainly = |receives: bool| -> Vec<usize> {
                let side = |rule: &Rule| if receives { rule.to.clone() } else { rule.from.clone() };
                let means = |rule: &Rule| side(rule).iter().any(|one| one.matches(&tags));
                (0..policy.rules.len()).filter(|at| means(&policy.rules[*at])).collect()
            };
            prop_assert_eq!(profile.sends().collect::<Vec<_>>(), plainly(false));
            prop_assert_eq!(profile.receives().collect::<Vec<_>>(), plainly(true));
        }
    }
}
