//! Which sealed sessions there are: pending, current, previous, enrolling, and
//! those of quarantined copies.
//!
//! A HELLO makes a pending session and touches no other; the first record that
//! opens confirms it, and only then does it take the older one's place. All
//! kinds are bounded.
//!
//! When another process of a device takes over, everything of the process before
//! ends, also what it has begun. So a record that is heard of a superseded
//! process belongs to a handshake that is younger than its supersession: the
//! process lives, and a record of a dead one that comes late proves nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_noise::sealed::Session;
use weft_wire::id::{
    DeviceId, Epoch, Inbox, Instance, KeyId, NetworkId, OrganisationId, PublicKey, Revision,
};

/// The most sessions of the kinds that strangers can make.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions that wait for their first record. Per inbox there is one; the
    /// oldest make room.
    pub pending: usize,
    /// Confirmed sessions of devices that enrol; the oldest make room.
    pub enrolling: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pending: 8_192, enrolling: 4_096 }
    }
}

/// How long the session before the current one is still heard.
pub const PREVIOUS: Duration = Duration::from_secs(60);
/// Devices make a new session every 24 hours; none is kept longer than this.
pub const MAX_AGE: Duration = Duration::from_hours(26);
/// How long a session that only may enrol lives.
pub const ENROLMENT: Duration = Duration::from_secs(300);

/// Whose session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// An enrolled device's.
    Device {
        /// Its id.
        id: DeviceId,
        /// Its network.
        network: NetworkId,
        /// Whose network.
        organisation: OrganisationId,
    },
    /// A copy's of an enrolled device: hears that it is one, and nothing else.
    Quarantined {
        /// The device's id.
        id: DeviceId,
    },
    /// A device's whose row was lost with a restored backup: as one that enrols.
    Lost,
    /// Somebody's with an enrolment key: may send `Register` and nothing else.
    Enrolling {
        /// The key.
        key: KeyId,
    },
}

/// What was agreed on when a session was made.
pub struct Agreed {
    /// Whose.
    pub who: Who,
    /// The identity that the handshake proved.
    pub identity: PublicKey,
    /// The inbox of its HELLO: records come from it and go to it.
    pub inbox: Inbox,
    /// The longest frame the device takes, in bytes.
    pub max_rx: u16,
    /// The device's process.
    pub instance: Instance,
    /// Slots for peers on demand; 0 = wants all peers.
    pub on_demand: u16,
    /// The revision of its map that its WELCOME named; 0 = none.
    pub named: Revision,
    /// What its HELLO says it holds: of which life of the database, and which.
    pub held: (Epoch, Revision),
    /// The revision that the device holds, where the database knows none so new.
    pub ahead: Option<Revision>,
    /// When its HELLO came.
    pub born: Instant,
}

/// A session and what was agreed on when it was made.
pub struct Entry {
    /// Its id.
    pub id: u32,
    /// What the handshake gave.
    pub agreed: Agreed,
    sealed: Mutex<Session>,
}

impl Entry {
    /// Takes what the handshake gave.
    pub fn new(session: Session, agreed: Agreed) -> Self {
        Self { id: session.id(), agreed, sealed: Mutex::new(session) }
    }

    /// The sealed session, for one operation.
    pub fn sealed(&self) -> MutexGuard<'_, Session> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device that it speaks for: not one that only enrols, and no copy.
    pub const fn device(&self) -> Option<DeviceId> {
        match self.agreed.who {
            Who::Device { id, .. } => Some(id),
            Who::Quarantined { .. } | Who::Lost | Who::Enrolling { .. } => None,
        }
    }
}

/// What a session is for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending { order: u64 },
    Current,
    Previous { until: Instant },
    Quarantined,
    Enrolling { order: u64 },
}

struct Slot {
    entry: Arc<Entry>,
    stage: Stage,
}

#[derive(Default)]
struct Sessions {
    current: Option<u32>,
    previous: Option<u32>,
}

/// The table. Time is an argument.
#[derive(Default)]
pub struct Table {
    limits: Limits,
    slots: HashMap<u32, Slot>,
    /// Pending sessions by age, and by inbox.
    pending: BTreeMap<u64, u32>,
    pending_of: HashMap<Inbox, u32>,
    /// Pending sessions that are to speak for a device.
    pending_devices: BTreeSet<(DeviceId, u32)>,
    enrolling: BTreeMap<u64, u32>,
    devices: HashMap<DeviceId, Sessions>,
    /// Of each device the newest session of a copy.
    copies: HashMap<DeviceId, u32>,
    order: u64,
}

/// What a confirmation did.
pub struct Confirmed {
    /// The session whose place was taken.
    pub superseded: Option<Arc<Entry>>,
}

impl Table {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Whether a session id is free. 0 never is.
    pub fn is_free(&self, id: u32) -> bool {
        id != 0 && !self.slots.contains_key(&id)
    }

    /// Adds a session that waits for its first record, in place of the one that
    /// waited at its inbox.
    pub fn insert(&mut self, entry: Arc<Entry>) {
        if let Some(older) = self.pending_of.get(&entry.agreed.inbox).copied() {
            self.remove(older);
        }
        if self.pending.len() >= self.limits.pending {
            let oldest = self.pending.first_key_value().map(|(_, id)| *id);
            oldest.into_iter().for_each(|id| self.remove(id));
        }
        let order = self.next_order();
        self.pending.insert(order, entry.id);
        self.pending_of.insert(entry.agreed.inbox, entry.id);
        if let Some(device) = entry.device() {
            self.pending_devices.insert((device, entry.id));
        }
        self.slots.insert(entry.id, Slot { entry, stage: Stage::Pending { order } });
    }

    /// The session of a record, if it still may be used.
    pub fn find(&mut self, id: u32, now: Instant) -> Option<Arc<Entry>> {
        let slot = self.slots.get(&id)?;
        let age = now.saturating_duration_since(slot.entry.agreed.born);
        let alive = match (slot.stage, slot.entry.agreed.who) {
            (Stage::Previous { until }, _) => now < until,
            (_, Who::Lost | Who::Enrolling { .. }) => age < ENROLMENT,
            (_, Who::Device { .. } | Who::Quarantined { .. }) => age < MAX_AGE,
        };
        if alive {
            return Some(Arc::clone(&slot.entry));
        }
        self.remove(id);
        None
    }

    /// A record opened: a pending session is confirmed by it. `None` = it was
    /// not pending (or has gone meanwhile).
    pub fn confirm(&mut self, id: u32, now: Instant) -> Option<Confirmed> {
        let slot = self.slots.get(&id)?;
        let Stage::Pending { order } = slot.stage else { return None };
        let entry = Arc::clone(&slot.entry);
        self.pending.remove(&order);
        self.pending_of.remove(&entry.agreed.inbox);
        match entry.agreed.who {
            Who::Device { id: device, .. } => {
                self.pending_devices.remove(&(device, id));
                self.set_stage(id, Stage::Current);
                Some(self.take_place(device, &entry, now))
            }
            Who::Quarantined { id: device } => {
                self.set_stage(id, Stage::Quarantined);
                let older = self.copies.insert(device, id);
                older.into_iter().for_each(|id| self.remove(id));
                Some(Confirmed { superseded: None })
            }
            Who::Lost | Who::Enrolling { .. } => {
                if self.enrolling.len() >= self.limits.enrolling {
                    let oldest = self.enrolling.first_key_value().map(|(_, id)| *id);
                    oldest.into_iter().for_each(|id| self.remove(id));
                }
                let order = self.next_order();
                self.enrolling.insert(order, id);
                self.set_stage(id, Stage::Enrolling { order });
                Some(Confirmed { superseded: None })
            }
        }
    }

    fn set_stage(&mut self, id: u32, stage: Stage) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.stage = stage;
        }
    }

    /// The older session is heard a while longer if it is the same process's
    /// (records on their way); another process's ends at once, and so does what
    /// another process has begun.
    fn take_place(&mut self, device: DeviceId, entry: &Entry, now: Instant) -> Confirmed {
        let begun = self.pending_devices.range((device, 0)..=(device, u32::MAX));
        let begun: Vec<u32> = begun.map(|(_, id)| *id).collect();
        for id in begun {
            let is_same = |slot: &Slot| slot.entry.agreed.instance == entry.agreed.instance;
            if !self.slots.get(&id).is_some_and(is_same) {
                self.remove(id);
            }
        }
        let sessions = self.devices.entry(device).or_default();
        let older = sessions.current.replace(entry.id);
        let oldest = sessions.previous.take();
        oldest.into_iter().for_each(|id| self.remove(id));
        let Some(superseded) = older.and_then(|id| self.slots.get(&id)) else {
            return Confirmed { superseded: None };
        };
        let superseded = Arc::clone(&superseded.entry);
        if superseded.agreed.instance == entry.agreed.instance {
            self.set_stage(superseded.id, Stage::Previous { until: now + PREVIOUS });
            self.devices.entry(device).or_default().previous = Some(superseded.id);
        } else {
            self.remove(superseded.id);
        }
        Confirmed { superseded: Some(superseded) }
    }

    /// The session that speaks for a device.
    pub fn current(&self, device: DeviceId) -> Option<Arc<Entry>> {
        let id = self.devices.get(&device)?.current?;
        self.slots.get(&id).map(|slot| Arc::clone(&slot.entry))
    }

    /// Every device's current session.
    pub fn all_current(&self) -> Vec<Arc<Entry>> {
        self.devices
            .values()
            .filter_map(|sessions| self.slots.get(&sessions.current?))
            .map(|slot| Arc::clone(&slot.entry))
            .collect()
    }

    /// Ends a session.
    pub fn remove(&mut self, id: u32) {
        let Some(slot) = self.slots.remove(&id) else { return };
        match slot.stage {
            Stage::Pending { order } => {
                self.pending.remove(&order);
                self.pending_of.remove(&slot.entry.agreed.inbox);
                if let Some(device) = slot.entry.device() {
                    self.pending_devices.remove(&(device, id));
                }
            }
            Stage::Quarantined => {
                if let Who::Quarantined { id: device } = slot.entry.agreed.who
                    && self.copies.get(&device) == Some(&id)
                {
                    self.copies.remove(&device);
                }
            }
            Stage::Enrolling { order } => {
                self.enrolling.remove(&order);
            }
            Stage::Current | Stage::Previous { .. } => {
                let Some(device) = slot.entry.device() else { return };
                let Some(sessions) = self.devices.get_mut(&device) else { return };
                sessions.current.take_if(|current| *current == id);
                sessions.previous.take_if(|previous| *previous == id);
                if sessions.current.is_none() && sessions.previous.is_none() {
                    self.devices.remove(&device);
                }
            }
        }
    }

    /// The newest session of a device's copy.
    pub fn copy(&self, device: DeviceId) -> Option<Arc<Entry>> {
        self.slots.get(self.copies.get(&device)?).map(|slot| Arc::clone(&slot.entry))
    }

    /// Ends every session of a device and its copies that was confirmed, and
    /// returns their inboxes.
    pub fn remove_device(&mut self, device: DeviceId) -> Vec<Inbox> {
        let sessions = self.devices.remove(&device).unwrap_or_default();
        [sessions.current, sessions.previous, self.copies.remove(&device)]
            .into_iter()
            .flatten()
            .filter_map(|id| self.slots.remove(&id).map(|slot| slot.entry.agreed.inbox))
            .collect()
    }

    /// Ends the session that waits at an inbox for its first record.
    pub fn remove_pending(&mut self, inbox: Inbox) {
        let pending = self.pending_of.get(&inbox).copied();
        pending.into_iter().for_each(|id| self.remove(id));
    }

    /// Devices with a confirmed session.
    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// All sessions, confirmed or not.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}
