//! The table of sessions and the way to devices: seal and send.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use weft_noise::sealed::SealedError;
use weft_wire::id::DeviceId;
use weft_wire::item::ItemError;

use super::replies::Replies;
use super::table::{Entry, Table};
use crate::service::bus::{Bus, Delivery};

/// What became of items pushed to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// They are on their way.
    Sent,
    /// The device has no session, or its session no connection.
    Absent,
    /// Its queue is full: lost, and the device will ask.
    Full,
}

/// All sessions of this process.
pub struct Sessions {
    table: Mutex<Table>,
    bus: Arc<dyn Bus>,
}

impl Sessions {
    /// No sessions yet.
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        Self { table: Mutex::default(), bus }
    }

    /// The table, for one operation.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to devices.
    pub fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    /// A device's current session.
    pub fn current(&self, device: DeviceId) -> Option<Arc<Entry>> {
        self.table().current(device)
    }

    /// Whether frames to a device have somewhere to go.
    pub fn is_online(&self, device: DeviceId) -> bool {
        self.current(device).is_some_and(|entry| self.bus.reachable(entry.agreed.inbox))
    }

    /// Seals what `fill` puts and sends it to a device.
    pub fn push(
        &self,
        device: DeviceId,
        fill: impl FnOnce(&Entry, &mut Replies) -> Result<(), ItemError>,
    ) -> Pushed {
        let Some(entry) = self.current(device) else { return Pushed::Absent };
        self.push_to(&entry, |replies| fill(&entry, replies))
    }

    /// The same for one session.
    pub fn push_to(
        &self,
        entry: &Entry,
        fill: impl FnOnce(&mut Replies) -> Result<(), ItemError>,
    ) -> Pushed {
        if !self.bus.reachable(entry.agreed.inbox) {
            return Pushed::Absent;
        }
        let mut replies = Replies::new(entry.agreed.max_rx);
        if let Err(error) = fill(&mut replies) {
            tracing::error!(session = entry.id, ?error, "channel.too-long");
            return Pushed::Full;
        }
        let mut pushed = Pushed::Sent;
        for frame in self.seal(entry, replies).unwrap_or_default() {
            match self.bus.send(entry.agreed.inbox, frame) {
                Delivery::Queued => {}
                Delivery::Full => pushed = Pushed::Full,
                Delivery::Absent => return Pushed::Absent,
            }
        }
        pushed
    }

    /// Seals replies for a session; `None` = it is at its end and was removed.
    pub fn seal(&self, entry: &Entry, replies: Replies) -> Option<Vec<Bytes>> {
        let sealed = replies.seal(&mut entry.sealed());
        match sealed {
            Ok(frames) => Some(frames),
            Err(error) => {
                if error == SealedError::Exhausted {
                    self.table().remove(entry.id);
                }
                tracing::warn!(session = entry.id, ?error, "channel.not-sealed");
                None
            }
        }
    }
}
