//! What was committed is told to the devices it touches.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use weft_wire::id::DeviceId;
use weft_wire::item::{Standing, State};

use super::Channel;
use super::record::{is_out, sentence, state_of};
use super::sessions::Pushed;
use crate::domain::change::Change;
use crate::store::Holder;

/// After so many devices the others get a turn.
const BATCH: usize = 64;
/// A change that concerns no more devices than these is sent to them at once; of
/// one that concerns more they hear, and each asks in its turn.
const PUSHED: usize = 64;

impl Channel {
    /// Tells devices of changes, for ever. Drop the future to stop. `changes` is
    /// the store's, taken before the first device is served.
    pub async fn run(&self, mut changes: Receiver<Arc<Change>>) -> Infallible {
        loop {
            match changes.recv().await {
                Ok(change) => self.handle_change(&change).await,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "changes.missed");
                    self.look_at_everybody().await;
                }
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    async fn handle_change(&self, change: &Change) {
        // Who is out is told first: others then hear of a map without it.
        for gone in &change.gone {
            if gone.deleted {
                self.tell_deleted(gone.device);
            }
            self.end(gone.device, gone.inbox);
            self.presence.forget(gone.device);
        }
        for released in &change.released {
            self.release(released);
        }
        for standing in &change.standings {
            self.tell_standing(standing.device).await;
        }
        for map in &change.maps {
            let few = map.devices.len() <= PUSHED;
            for (at, device) in map.devices.iter().enumerate() {
                if few {
                    self.maps.push(*device, self.epoch(), map.revision).await;
                } else {
                    self.maps.tell(*device, self.epoch(), map.revision);
                }
                if at % BATCH == BATCH - 1 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// The last word to a device that is connected; afterwards it is a stranger,
    /// and strangers get no answer.
    fn tell_deleted(&self, id: DeviceId) {
        let state = State {
            standing: Standing::Rejected,
            since_ms: self.now().0,
            reason: sentence("this device was deleted"),
        };
        let _ = self.sessions.push(id, |_, replies| replies.put(&state));
    }

    /// Pushes a device's standing as it is now. One that is out loses its session
    /// and its connection after that: it may come back, hears the same and is cut
    /// again.
    async fn tell_standing(&self, id: DeviceId) {
        let device = match self.store.device(id).await {
            Ok(Some(device)) => device,
            Ok(None) => return,
            Err(error) => {
                self.quiet.store_failed("standing", &error);
                return;
            }
        };
        let state = state_of(&device);
        let pushed = self.sessions.push(id, |_, replies| replies.put(&state));
        if is_out(device.standing) || pushed == Pushed::Full {
            self.end(id, device.agent().map(|agent| agent.inbox));
        }
    }

    /// Changes were missed: every session's device is looked up once.
    async fn look_at_everybody(&self) {
        let entries = self.sessions.table().all_current();
        for entry in entries {
            let Some(id) = entry.device() else { continue };
            match self.store.holder(id).await {
                // Who holds it has nothing to ask for.
                Ok(Some(Holder { newest: Some(newest), .. })) => {
                    self.maps.tell(id, self.epoch(), newest.own);
                }
                Ok(Some(_)) => self.tell_standing(id).await,
                Ok(None) => self.end(id, Some(entry.agreed.inbox)),
                Err(error) => self.quiet.store_failed("device", &error),
            }
        }
    }
}
