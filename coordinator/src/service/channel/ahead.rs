//! A device that holds a newer map than the database knows: the database is an
//! older copy of itself, put back without `restore`. It begins a new life, so that
//! nobody takes its revisions for those that it gave out before.
//!
//! Any member may claim it, and everybody has to take the whole map anew then: it
//! happens once a day at most, is looked into once a minute, and stands in the
//! audit log with the name of who caused it.

use std::sync::atomic::Ordering;

use weft_wire::id::{DeviceId, Revision};

use super::Channel;
use super::quarantine::Goes;
use crate::domain::audit::Actor;
use crate::store::By;

impl Channel {
    /// In the device's confirmed session. `Away`: a new life began, and everybody
    /// is to shake hands anew.
    pub(super) async fn heed_ahead(&self, device: DeviceId, held: Revision) -> Goes {
        let now = tokio::time::Instant::now().into_std();
        let Some(repeated) = self.quiet.may_say("epoch.ahead", &(), now) else {
            return Goes::On;
        };
        let by = By { actor: Actor::device(device), at: self.now() };
        match self.store.renew_epoch(device, held, by).await {
            Ok(Some(epoch)) => {
                tracing::warn!(%device, held = held.0, epoch = epoch.0, "epoch.renewed");
                self.epoch.store(epoch.0, Ordering::Release);
                let entries = self.sessions.table().all_current();
                for entry in entries {
                    if let Some(other) = entry.device() {
                        self.end(other, Some(entry.agreed.inbox));
                    }
                }
                Goes::Away
            }
            Ok(None) => {
                tracing::warn!(%device, held = held.0, repeated, "epoch.ahead");
                Goes::On
            }
            Err(error) => {
                self.quiet.store_failed("epoch", &error);
                Goes::On
            }
        }
    }
}
