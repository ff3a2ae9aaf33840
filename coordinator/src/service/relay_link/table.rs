//! Sessions of relays. One that no record has confirmed touches none that was.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_noise::sealed::Session;
use weft_wire::id::{KeyId, PublicKey};

/// Sessions that wait for their first record; the oldest goes.
const PENDING: usize = 64;
/// How long they wait.
const FIRST_RECORD: Duration = Duration::from_secs(60);
/// Confirmed sessions; the oldest goes.
const CONFIRMED: usize = 256;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Somebody with the string of this key.
    Joining { key: KeyId },
    /// A relay, as long as there is one with its identity.
    Relay,
    /// Somebody who was a relay once.
    Unknown,
}

/// A session.
pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) who: Who,
    pub(super) identity: PublicKey,
    born: Instant,
    sealed: Mutex<Session>,
}

impl Entry {
    pub(super) fn new(sealed: Session, who: Who, identity: PublicKey, born: Instant) -> Self {
        Self { id: sealed.id(), who, identity, born, sealed: Mutex::new(sealed) }
    }

    pub(super) fn sealed(&self) -> MutexGuard<'_, Session> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Table {
    pending: VecDeque<Arc<Entry>>,
    /// One for each identity.
    confirmed: HashMap<PublicKey, Arc<Entry>>,
}

impl Table {
    pub(super) fn insert(&mut self, entry: Entry) {
        let now = entry.born;
        self.pending.retain(|one| now.saturating_duration_since(one.born) < FIRST_RECORD);
        if self.pending.len() == PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(Arc::new(entry));
    }

    pub(super) fn find(&self, id: u32) -> Option<Arc<Entry>> {
        self.pending.iter().chain(self.confirmed.values()).find(|entry| entry.id == id).cloned()
    }

    pub(super) fn is_free(&self, id: u32) -> bool {
        self.find(id).is_none()
    }

    /// A record of it opened: it takes the place of the one before.
    pub(super) fn confirm(&mut self, entry: &Arc<Entry>, now: Instant) {
        let Some(at) = self.pending.iter().position(|one| one.id == entry.id) else { return };
        self.pending.remove(at);
        if now.saturating_duration_since(entry.born) >= FIRST_RECORD {
            return;
        }
        self.confirmed.insert(entry.identity, Arc::clone(entry));
        if self.confirmed.len() > CONFIRMED {
            let oldest = self.confirmed.values().min_by_key(|one| one.born).map(|one| one.identity);
            oldest.map(|identity| self.confirmed.remove(&identity));
        }
    }
}
