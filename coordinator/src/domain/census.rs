//! Which sets of tags the members of a network have, and who of them changed
//! when.
//!
//! Devices with equal tags are equal to every policy, so whom one device may
//! see, and what of that changed, is found by way of the sets that its rules
//! name: at the cost of its own edges, however many others there are. What is
//! found is what [`super::netmap::peer_changes`] has to look at; it decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_wire::id::{DeviceId, Revision};

use super::policy::{Compiled, Profile};
use super::tags::TagSet;

/// Policies whose edges are kept: the one in force, and those that devices
/// which were away come from.
const VIEWS: usize = 4;

/// A set of tags, and the text that the store has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// As the store writes it.
    pub text: String,
    /// As policies read it.
    pub tags: TagSet,
}

/// One row of the map's log.
#[derive(Clone, Debug)]
pub enum Noted {
    /// A device changed, came or went.
    Device {
        /// Which.
        device: DeviceId,
        /// Its tags if it was a member before.
        before: Option<TagSet>,
        /// Its tags if it is one after.
        after: Option<TagSet>,
    },
    /// The policy changed.
    Policy {
        /// The one before.
        before: Arc<Compiled>,
        /// The one after.
        after: Arc<Compiled>,
    },
    /// The policy changed, and whom that concerns is not looked at: everybody.
    SomePolicy,
    /// Something changed that every device is told.
    Network,
}

/// What happened to one device itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Its tags at the beginning, if it was a member then; the outer `None` =
    /// nothing happened to it.
    pub before: Option<Option<TagSet>>,
    /// It was no member at some time.
    pub was_out: bool,
}

/// A set of tags over time.
struct Past {
    class: Arc<Class>,
    /// Who of it changed, rising.
    changes: Vec<(Revision, DeviceId)>,
    /// When policy last changed for it.
    ruled: Revision,
}

/// The sets on one side of one rule.
#[derive(Clone, Default)]
struct Side {
    classes: Vec<usize>,
    /// When one of their devices last changed.
    changed: Revision,
}

/// One policy's rules, joined to the sets of tags.
struct View {
    policy: Arc<Compiled>,
    profiles: Vec<Profile>,
    senders: Vec<Side>,
    receivers: Vec<Side>,
}

impl View {
    fn new(policy: Arc<Compiled>) -> Self {
        let sides = vec![Side::default(); policy.len()];
        Self { policy, profiles: Vec::new(), senders: sides.clone(), receivers: sides }
    }

    /// Joins the sets that came since.
    fn grow(&mut self, pasts: &[Past]) {
        for (class, past) in pasts.iter().enumerate().skip(self.profiles.len()) {
            let profile = self.policy.profile(&past.class.tags);
            for rule in profile.sends() {
                self.senders[rule].classes.push(class);
            }
            for rule in profile.receives() {
                self.receivers[rule].classes.push(class);
            }
            self.profiles.push(profile);
            if let Some((revision, _)) = past.changes.last() {
                self.change(class, *revision);
            }
        }
    }

    /// A device of a set changed. One that is not joined yet brings its changes
    /// along.
    fn change(&mut self, class: usize, revision: Revision) {
        let Some(profile) = self.profiles.get(class) else { return };
        let newer = |side: &mut Side| side.changed = side.changed.max(revision);
        profile.sends().for_each(|rule| newer(&mut self.senders[rule]));
        profile.receives().for_each(|rule| newer(&mut self.receivers[rule]));
    }

    /// The sides that a rule joins to these devices.
    fn facing<'a>(&'a self, own: &'a Profile) -> impl Iterator<Item = &'a Side> {
        let receivers = own.sends().map(|rule| &self.receivers[rule]);
        receivers.chain(own.receives().map(|rule| &self.senders[rule]))
    }

    fn peers(&self, own: &TagSet) -> BTreeSet<usize> {
        let own = self.policy.profile(own);
        self.facing(&own).flat_map(|side| side.classes.iter().copied()).collect()
    }
}

/// See the module. Revisions up to one are in it; who asks about an older state
/// of the network names that state's revision.
pub struct Census {
    floor: Revision,
    upto: Revision,
    pasts: Vec<Past>,
    numbers: HashMap<String, usize>,
    /// Changes of each device: when, and its set before if it was a member.
    devices: HashMap<DeviceId, Vec<(Revision, Option<usize>)>>,
    policies: Vec<Revision>,
    networks: Vec<Revision>,
    rows: usize,
    /// Used last comes last.
    views: Vec<View>,
}

/// What of a rising list lies behind `from` and not behind `to`.
fn between<T>(list: &[T], from: Revision, to: Revision, at: impl Fn(&T) -> Revision) -> &[T] {
    let first = list.partition_point(|one| at(one) <= from);
    let end = list.partition_point(|one| at(one) <= to);
    list.get(first..end).unwrap_or_default()
}

impl Census {
    /// Empty, for rows of the log behind `floor`. Every set that a member has,
    /// and every set in those rows, has to be [learnt](Self::learn) before the
    /// first row is noted.
    pub fn new(floor: Revision) -> Self {
        Self {
            floor,
            upto: floor,
            pasts: Vec::new(),
            numbers: HashMap::new(),
            devices: HashMap::new(),
            policies: Vec::new(),
            networks: Vec::new(),
            rows: 0,
            views: Vec::new(),
        }
    }

    /// Rows of the log up to this revision are in it.
    pub const fn upto(&self) -> Revision {
        self.upto
    }

    /// Rows of the log behind this revision are in it.
    pub const fn floor(&self) -> Revision {
        self.floor
    }

    /// Everything up to this revision was noted.
    pub fn set_upto(&mut self, upto: Revision) {
        self.upto = self.upto.max(upto);
    }

    /// Rows that it holds.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Takes up a set of tags. One that no member has does no harm.
    pub fn learn(&mut self, text: &str, tags: &TagSet) -> usize {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.pasts.len();
        let class = Arc::new(Class { text: text.to_owned(), tags: tags.clone() });
        self.pasts.push(Past { class, changes: Vec::new(), ruled: self.floor });
        self.numbers.insert(text.to_owned(), number);
        number
    }

    /// Takes up the next row of the log.
    pub fn note(&mut self, revision: Revision, noted: Noted) {
        self.rows += 1;
        match noted {
            Noted::Device { device, before, after } => {
                let before = before.map(|tags| self.learn(&tags.to_string(), &tags));
                let after = after.map(|tags| self.learn(&tags.to_string(), &tags));
                self.devices.entry(device).or_default().push((revision, before));
                let other = after.filter(|after| before != Some(*after));
                for class in [before, other].into_iter().flatten() {
                    self.pasts[class].changes.push((revision, device));
                    self.views.iter_mut().for_each(|view| view.change(class, revision));
                }
            }
            Noted::Policy { before, after } => {
                self.policies.push(revision);
                for past in &mut self.pasts {
                    if !before.is_same_for(&after, &past.class.tags) {
                        past.ruled = revision;
                    }
                }
            }
            Noted::SomePolicy => {
                self.policies.push(revision);
                self.pasts.iter_mut().for_each(|past| past.ruled = revision);
            }
            Noted::Network => self.networks.push(revision),
        }
        self.set_upto(revision);
    }

    fn view<'a>(views: &'a mut Vec<View>, pasts: &[Past], policy: &Arc<Compiled>) -> &'a mut View {
        match views.iter().position(|view| Arc::ptr_eq(&view.policy, policy)) {
            Some(at) => views[at..].rotate_left(1),
            None => {
                if views.len() == VIEWS {
                    views.remove(0);
                }
                views.push(View::new(Arc::clone(policy)));
            }
        }
        let last = views.len() - 1;
        let view = &mut views[last];
        view.grow(pasts);
        view
    }

    /// The sets whose devices a rule joins to devices with tags `own`.
    pub fn peers(&mut self, policy: &Arc<Compiled>, own: &TagSet) -> Vec<Arc<Class>> {
        let view = Self::view(&mut self.views, &self.pasts, policy);
        view.peers(own).into_iter().map(|class| Arc::clone(&self.pasts[class].class)).collect()
    }

    /// The sets whose devices a rule joins to devices with one of these sets.
    pub fn joined(&mut self, policy: &Arc<Compiled>, own: &BTreeSet<TagSet>) -> Vec<Arc<Class>> {
        let view = Self::view(&mut self.views, &self.pasts, policy);
        let classes: BTreeSet<usize> = own.iter().flat_map(|own| view.peers(own)).collect();
        classes.into_iter().map(|class| Arc::clone(&self.pasts[class].class)).collect()
    }

    /// The sets that two policies say something different of.
    pub fn ruled_otherwise(&self, before: &Compiled, after: &Compiled) -> Vec<Arc<Class>> {
        let classes = self.pasts.iter().map(|past| &past.class);
        classes.filter(|class| !before.is_same_for(after, &class.tags)).map(Arc::clone).collect()
    }

    /// Whether the policy changed.
    pub fn has_other_policy(&self, from: Revision, to: Revision) -> bool {
        !between(&self.policies, from, to, |at| *at).is_empty()
    }

    /// Whether what every device is told changed.
    pub fn has_other_network(&self, from: Revision, to: Revision) -> bool {
        !between(&self.networks, from, to, |at| *at).is_empty()
    }

    /// What happened to a device itself.
    pub fn own(&self, device: DeviceId, from: Revision, to: Revision) -> Own {
        let rows = self.devices.get(&device).map_or(&[][..], Vec::as_slice);
        let rows = between(rows, from, to, |(at, _)| *at);
        let tags = |class: &usize| self.pasts[*class].class.tags.clone();
        Own {
            before: rows.first().map(|(_, before)| before.as_ref().map(tags)),
            was_out: rows.iter().any(|(_, before)| before.is_none()),
        }
    }

    /// Adds the devices that changed and that a rule of this policy joins, as
    /// they were or as they are, to devices with tags `own`: each with its tags
    /// at `from` if it was a member then.
    pub fn touched(
        &mut self,
        policy: &Arc<Compiled>,
        own: &TagSet,
        (from, to): (Revision, Revision),
        touched: &mut BTreeMap<DeviceId, Option<TagSet>>,
    ) {
        let classes = Self::view(&mut self.views, &self.pasts, policy).peers(own);
        for class in classes {
            for (_, device) in between(&self.pasts[class].changes, from, to, |(at, _)| *at) {
                let before = || self.own(*device, from, to).before.flatten();
                touched.entry(*device).or_insert_with(before);
            }
        }
    }

    /// The newest revision that changed the map of a member with these tags; who
    /// holds it or a later one has nothing to ask for. Under the policy in force.
    pub fn newest(
        &mut self,
        policy: &Arc<Compiled>,
        device: DeviceId,
        (text, tags): (&str, &TagSet),
    ) -> Revision {
        let Some(ruled) = self.numbers.get(text).map(|number| self.pasts[*number].ruled) else {
            // It came after what is known here: nothing is ruled out.
            return self.upto;
        };
        let rows = self.devices.get(&device).and_then(|rows| rows.last());
        let own = rows.map_or(self.floor, |(at, _)| *at);
        let all = self.networks.last().copied().unwrap_or(self.floor);
        let view = Self::view(&mut self.views, &self.pasts, policy);
        let profile = policy.profile(tags);
        let peers = view.facing(&profile).map(|side| side.changed).max();
        ruled.max(own).max(all).max(peers.unwrap_or(self.floor))
    }
}
