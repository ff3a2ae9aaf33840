//! What was asked of the coordinator and what it answered, with start and end of
//! each, held against the database that is left at the end.
//!
//! An operation whose answer never came may have happened or not. One that was
//! answered has happened, whatever was killed afterwards: that is what "answered
//! after the commit" promises, and what this module checks (in the manner of
//! Jepsen's checkers).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weft_wire::id::{DeviceId, KeyId, PublicKey};

/// A point in the order of things: each is later than the one before.
pub(super) type Tick = u64;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A device asks to be taken in; one attempt, over one line.
    Enrol {
        /// Who.
        identity: PublicKey,
        /// With which key.
        key: KeyId,
    },
    /// An operator makes a key of this name.
    MakeKey(String),
    /// An operator ends a key.
    EndKey(KeyId),
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The device is in, with this id and host number.
    Taken {
        /// Its id.
        device: DeviceId,
        /// Its host number.
        host: u32,
    },
    /// All uses of the key are used.
    UsedUp,
    /// The key was ended.
    Ended,
    /// Another refusal, by its code.
    Refused(u16),
    /// The key is there, for so many devices.
    KeyMade {
        /// Its id.
        key: KeyId,
        /// How many.
        max_uses: u32,
    },
    /// The key was ended by this.
    KeyEnded,
}

/// One operation.
#[derive(Clone, Debug)]
struct Operation {
    ask: Ask,
    began: Tick,
    /// `None` = no answer came.
    told: Option<(Tick, Told)>,
}

/// Names an operation that goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(usize);

/// All operations, in the order in which they began.
#[derive(Default)]
pub(crate) struct History {
    operations: Vec<Operation>,
    now: Tick,
}

/// A device's row, as it lies in the database.
#[derive(Clone, Debug)]
pub(super) struct DeviceRow {
    pub(super) id: DeviceId,
    pub(super) identity: PublicKey,
    pub(super) network: u32,
    pub(super) host: Option<u32>,
    pub(super) key: KeyId,
}

/// A key's row.
#[derive(Clone, Debug)]
pub(super) struct KeyRow {
    pub(super) id: KeyId,
    pub(super) name: String,
    pub(super) uses: u32,
    pub(super) max_uses: Option<u32>,
    pub(super) revoked: bool,
}

/// The database that is left.
#[derive(Clone, Debug, Default)]
pub(super) struct Left {
    pub(super) devices: Vec<DeviceRow>,
    pub(super) keys: Vec<KeyRow>,
    /// Audit rows of enrolments, by their subject.
    pub(super) enrolled: HashMap<String, u32>,
    /// Where the audit chain does not hold, or SQLite's own check.
    pub(super) broken: Vec<String>,
}

/// What is wrong, counted; and each thing in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Addresses that two devices were given.
    pub(super) double_addresses: usize,
    /// What was answered and is not in the database, or is another there.
    pub(super) lost_acknowledged: usize,
    /// Keys that let more devices in than they may.
    pub(super) overused_keys: usize,
    /// Everything else that must not be.
    pub(super) other: usize,
    /// Devices that were taken in, as they were told.
    pub(super) enrolled: usize,
    /// In words.
    pub(super) words: Vec<String>,
}

impl Findings {
    pub(super) const fn is_clean(&self) -> bool {
        self.double_addresses + self.lost_acknowledged + self.overused_keys + self.other == 0
    }

    fn say(&mut self, words: String) {
        self.words.push(words);
    }
}

impl History {
    fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    /// Something is asked for, now.
    pub(crate) fn begin(&mut self, ask: Ask) -> Ticket {
        let began = self.tick();
        self.operations.push(Operation { ask, began, told: None });
        Ticket(self.operations.len() - 1)
    }

    /// It was answered, now. The first answer counts.
    pub(crate) fn end(&mut self, ticket: Ticket, told: Told) {
        let now = self.tick();
        if let Some(operation) = self.operations.get_mut(ticket.0) {
            operation.told.get_or_insert((now, told));
        }
    }

    /// How many operations there were.
    pub(super) const fn len(&self) -> usize {
        self.operations.len()
    }

    /// How many were never answered.
    pub(super) fn unanswered(&self) -> usize {
        self.operations.iter().filter(|operation| operation.told.is_none()).count()
    }

    /// Devices that a key let in, as they were told.
    pub(super) fn taken_with(&self, wanted: KeyId) -> usize {
        let taken = self.taken().filter(|taken| taken.key == wanted);
        taken.map(|taken| taken.identity).collect::<BTreeSet<_>>().len()
    }

    fn taken(&self) -> impl Iterator<Item = Taken> {
        self.operations.iter().filter_map(|operation| match (&operation.ask, operation.told) {
            (Ask::Enrol { identity, key }, Some((_, Told::Taken { device, host }))) => {
                Some(Taken { identity: *identity, key: *key, device, host })
            }
            _ => None,
        })
    }

    /// Keys that were made, with the most uses of each.
    fn made(&self) -> BTreeMap<KeyId, u32> {
        let made = self.operations.iter().filter_map(|operation| match operation.told {
            Some((_, Told::KeyMade { key, max_uses })) => Some((key, max_uses)),
            _ => None,
        });
        made.collect()
    }

    /// Holds everything against the database.
    pub(super) fn check(&self, left: &Left) -> Findings {
        let mut findings = Findings::default();
        self.check_taken(left, &mut findings);
        self.check_keys(left, &mut findings);
        self.check_order(&mut findings);
        check_rows(self, left, &mut findings);
        findings
    }

    /// Who was told that it is in, is in, with what it was told.
    fn check_taken(&self, left: &Left, findings: &mut Findings) {
        let rows: HashMap<_, _> = left.devices.iter().map(|row| (row.identity, row)).collect();
        let mut answers: BTreeMap<PublicKey, (DeviceId, u32)> = BTreeMap::new();
        let mut holders: BTreeMap<u32, PublicKey> = BTreeMap::new();
        for taken in self.taken() {
            let Taken { identity, device, host, .. } = taken;
            if let Some(before) = answers.insert(identity, (device, host)) {
                if before != (device, host) {
                    findings.other += 1;
                    findings.say(format!("{device} was told two things: {before:?} and {host}"));
                }
                continue;
            }
            let holder = *holders.entry(host).or_insert(identity);
            if holder != identity {
                findings.double_addresses += 1;
                findings.say(format!("host {host} was given to {device} and to another device"));
            }
            let kept = rows.get(&identity);
            if !kept.is_some_and(|row| row.id == device && row.host == Some(host)) {
                findings.lost_acknowledged += 1;
                findings.say(format!("{device} with host {host} was taken in and is {kept:?}"));
            }
        }
        findings.enrolled = answers.len();
    }

    /// Keys that were made are there, those that were ended are ended, and none
    /// let more devices in than it may.
    fn check_keys(&self, left: &Left, findings: &mut Findings) {
        let rows: HashMap<_, _> = left.keys.iter().map(|row| (row.id, row)).collect();
        for (key, max_uses) in self.made() {
            let Some(row) = rows.get(&key) else {
                findings.lost_acknowledged += 1;
                findings.say(format!("{key} was made and is not there"));
                continue;
            };
            let told = self.taken_with(key);
            let kept = left.devices.iter().filter(|device| device.key == key).count();
            let most = usize::try_from(max_uses).unwrap_or(usize::MAX);
            if told.max(kept) > most || row.uses > max_uses || row.max_uses != Some(max_uses) {
                findings.overused_keys += 1;
                findings.say(format!(
                    "{key} may let {max_uses} in: {told} were told so, {kept} are there, {row:?}"
                ));
            }
        }
        for operation in &self.operations {
            if let (Ask::EndKey(key), Some((_, Told::KeyEnded))) = (&operation.ask, operation.told)
                && !rows.get(key).is_some_and(|row| row.revoked)
            {
                findings.lost_acknowledged += 1;
                findings.say(format!("{key} was ended and is not"));
            }
        }
    }

    /// What was answered fits what had been asked and answered by then.
    fn check_order(&self, findings: &mut Findings) {
        let made = self.made();
        for operation in &self.operations {
            let (Ask::Enrol { identity, key }, Some((at, told))) = (&operation.ask, operation.told)
            else {
                continue;
            };
            match told {
                Told::UsedUp => {
                    // Each use belongs to a device that had asked by then.
                    let asked = self.asked_before(*key, *identity, at);
                    let most = made.get(key).copied().unwrap_or(0);
                    if asked < usize::try_from(most).unwrap_or(usize::MAX) {
                        findings.other += 1;
                        findings.say(format!("{key} was used up by {asked}, {most} may be let in"));
                    }
                }
                Told::Refused(code) => {
                    findings.other += 1;
                    findings.say(format!("a device of {key} was refused with code {code}"));
                }
                Told::Ended if self.began_ending(*key).is_none_or(|began| began > at) => {
                    findings.other += 1;
                    findings.say(format!("{key} was said to be ended before anybody ended it"));
                }
                Told::Taken { device, .. } if self.came_too_late(operation, *identity, *key) => {
                    findings.other += 1;
                    findings.say(format!("{device} was let in by {key} after that was ended"));
                }
                _ => {}
            }
        }
    }

    /// Other devices that had asked with a key before an instant.
    fn asked_before(&self, wanted: KeyId, but: PublicKey, at: Tick) -> usize {
        let asked = self.operations.iter().filter_map(|operation| match &operation.ask {
            Ask::Enrol { identity, key } if *key == wanted && operation.began < at => {
                Some(*identity).filter(|identity| *identity != but)
            }
            _ => None,
        });
        asked.collect::<BTreeSet<_>>().len()
    }

    fn began_ending(&self, wanted: KeyId) -> Option<Tick> {
        let ends = |operation: &&Operation| operation.ask == Ask::EndKey(wanted);
        self.operations.iter().find(ends).map(|operation| operation.began)
    }

    /// Whether a device that was taken in had never asked before its key's end
    /// was acknowledged.
    fn came_too_late(&self, taken: &Operation, who: PublicKey, wanted: KeyId) -> bool {
        let ended = self.operations.iter().find_map(|operation| match operation.told {
            Some((at, Told::KeyEnded)) if operation.ask == Ask::EndKey(wanted) => Some(at),
            _ => None,
        });
        let first = self.operations.iter().find(
            |operation| matches!(operation.ask, Ask::Enrol { identity, .. } if identity == who),
        );
        let first = first.map_or(taken.began, |operation| operation.began);
        ended.is_some_and(|ended| first > ended)
    }
}

/// A device that was told that it is in.
struct Taken {
    identity: PublicKey,
    key: KeyId,
    device: DeviceId,
    host: u32,
}

/// The rows among themselves, and that each was asked for.
fn check_rows(history: &History, left: &Left, findings: &mut Findings) {
    let asked: BTreeSet<PublicKey> = history
        .operations
        .iter()
        .filter_map(|operation| match operation.ask {
            Ask::Enrol { identity, .. } => Some(identity),
            _ => None,
        })
        .collect();
    let mut hosts = BTreeSet::new();
    for row in &left.devices {
        if row.host.is_some_and(|host| !hosts.insert((row.network, host))) {
            findings.double_addresses += 1;
            findings.say(format!("{} has the host number of another: {row:?}", row.id));
        }
        if !asked.contains(&row.identity) {
            findings.other += 1;
            findings.say(format!("{} is there and never asked", row.id));
        }
        let rows = left.enrolled.get(&row.id.to_string()).copied().unwrap_or(0);
        if rows != 1 {
            findings.other += 1;
            findings.say(format!("{} has {rows} audit rows of its enrolment", row.id));
        }
    }
    for row in &left.keys {
        let devices = left.devices.iter().filter(|device| device.key == row.id).count();
        if usize::try_from(row.uses) != Ok(devices) {
            findings.other += 1;
            findings.say(format!("{} counts {} uses and let {devices} in", row.name, row.uses));
        }
    }
    for broken in &left.broken {
        findings.other += 1;
        findings.say(broken.clone());
    }
}

#[cfg(test)]
mod tests;
