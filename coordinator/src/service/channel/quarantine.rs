//! Two machines with one identity: found out when a session is confirmed, told
//! to both, and to operators.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};
use weft_wire::id::{DeviceId, Inbox, Instance};
use weft_wire::item::{
    Done, Duplicate, Item as _, ItemError, Leave, NewInbox, Ping, RawItem, Stamps, Standing, State,
};
use weft_wire::relay::RelayAsk;
use weft_wire::telemetry::{DataUsage, Heartbeat};

use super::record::{Context, sentence};
use super::table::{Entry, Who};
use super::{Channel, FrameDrop};
use crate::domain::change::Released;
use crate::domain::device::Device;
use crate::domain::quarantine::{Heard, Place, Quarantine, Verdict, place, stamps_ahead_s};
use crate::service::relays;
use crate::service::seams::PresenceView as _;
use crate::store::StoreError;

/// Devices are heard one after another only within one of so many groups: what
/// is known of a device's processes is written in the order of the table of
/// sessions, and the store still takes many into one transaction.
const TURNS: usize = 256;

/// See [`TURNS`].
pub(super) struct Turns(Vec<Mutex<()>>);

impl Default for Turns {
    fn default() -> Self {
        Self((0..TURNS).map(|_| Mutex::default()).collect())
    }
}

impl Turns {
    async fn take(&self, device: DeviceId) -> Option<MutexGuard<'_, ()>> {
        match self.0.get(device.0 as usize % TURNS) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }
}

/// Whether a process goes on as what its session was made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    On,
    /// Its session is of no use: it is to shake hands anew.
    Away,
}

impl Channel {
    /// What a process that sent a HELLO to the inbox `at` is, as far as is known
    /// now. Judged again when it confirms.
    pub(super) async fn place(
        &self,
        device: &Device,
        at: Inbox,
        instance: Instance,
    ) -> Result<Place, FrameDrop> {
        let Some(agent) = device.agent() else { return Err(FrameDrop::UnknownDevice) };
        let is_served = matches!(device.standing, Standing::Active | Standing::Pending);
        if !agent.has_copies || !is_served {
            return Ok(Place::Member(agent.inbox));
        }
        let known = self.store.quarantines(Some(device.id)).await.map_err(|error| {
            self.quiet.store_failed("quarantine", &error);
            FrameDrop::Store
        })?;
        Ok(place(&known, agent.inbox, at, instance))
    }

    /// A process of a device confirmed its session.
    pub(super) async fn heed(&self, device: &Device, context: &mut Context<'_>) -> Goes {
        let (Some(agent), entry) = (device.agent(), context.entry) else { return Goes::On };
        if !matches!(device.standing, Standing::Active | Standing::Pending) {
            return Goes::On;
        }
        if agent.instance == Some(entry.agreed.instance) && !agent.has_copies {
            tell_stamps(agent.duplicates, context);
            return Goes::On;
        }
        let _turn = self.turns.take(device.id).await;
        let is_first = |current: Arc<Entry>| current.agreed.instance == entry.agreed.instance;
        if !self.sessions.current(device.id).is_some_and(is_first) {
            // Another process took its place meanwhile.
            return Goes::Away;
        }
        let heard = Heard {
            instance: entry.agreed.instance,
            inbox: entry.agreed.inbox,
            address: context.uplink.address,
            at: self.now(),
            fresh: Inbox(self.random.bytes()),
        };
        let heeded = match self.store.hear(device.id, heard).await {
            Ok(heeded) => heeded,
            Err(StoreError::NotFound(_)) => return Goes::Away,
            Err(error) => {
                // Nothing is held against it for that; the next session is
                // heard again.
                self.quiet.store_failed("instance", &error);
                return Goes::On;
            }
        };
        match heeded.verdict {
            Verdict::Quarantined(_) => return Goes::Away,
            Verdict::Member(copy) => {
                tell_stamps(heeded.duplicates, context);
                if let Some(copy) = copy {
                    context.answer(&about(device, &copy, None));
                }
            }
            Verdict::Kept { left, inbox, new } => {
                if new {
                    let from = |address: Option<std::net::IpAddr>| {
                        address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
                    };
                    let (kept, copy) = (from(heard.address), from(left.address));
                    tracing::warn!(device = %device.id, name = device.name, kept, copy, "device.clone");
                }
                let password_expiry = self.password_expiry();
                let password = self.secrets.broker_password(&inbox, password_expiry);
                tell_stamps(heeded.duplicates, context);
                let moved = Some(NewInbox { inbox, password, password_expiry });
                context.answer(&about(device, &left, moved));
            }
        }
        Goes::On
    }

    /// A copy confirmed its session: it hears that it is one and nothing else.
    pub(super) async fn begin_copy(&self, id: DeviceId, context: &mut Context<'_>) -> Goes {
        let (inbox, address) = (context.entry.agreed.inbox, context.uplink.address);
        let device = match self.store.device(id).await {
            Ok(Some(device)) => device,
            Ok(None) => return Goes::Away,
            Err(error) => {
                self.quiet.store_failed("device", &error);
                return Goes::Away;
            }
        };
        let (copy, is_new) = match self.store.hear_copy(id, inbox, address, self.now()).await {
            Ok(Some(heard)) => heard,
            Ok(None) => return Goes::Away,
            Err(error) => {
                self.quiet.store_failed("quarantine", &error);
                return Goes::Away;
            }
        };
        let other = self.presence.presence(id);
        let since = copy.since;
        context.answer(&Duplicate {
            name: sentence(&device.name),
            address: other.as_ref().and_then(|other| other.address),
            heard_ms: other.map_or(since, |other| other.last_seen).0,
            moved: None,
        });
        context.answer(&State {
            standing: Standing::Quarantined,
            since_ms: since.0,
            reason: heapless::String::new(),
        });
        if is_new {
            let from = address.map_or_else(|| "unknown".to_owned(), |from| from.to_string());
            tracing::warn!(device = %id, name = device.name, from, "device.quarantine");
            // It has stopped to be a peer: what the other one says arrives again.
            // One that is not there hears it with its next session.
            let _ = self.sessions.push(id, |_, replies| replies.put(&about(&device, &copy, None)));
        }
        Goes::On
    }

    /// A copy may show that it is there, and leave.
    pub(super) fn handle_copy(
        &self,
        item: &RawItem<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), ItemError> {
        match item.tag {
            Ping::TAG => {
                let ping: Ping = item.decode()?;
                context.answer(&ping);
            }
            Heartbeat::TAG => {
                let heartbeat: Heartbeat = item.decode()?;
                context.answer(&Done { request: heartbeat.request });
            }
            // Whose bytes these are nobody knows.
            DataUsage::TAG => {}
            RelayAsk::TAG => {
                let ask: RelayAsk = item.decode()?;
                context.answer(&relays::none(ask.request, 0));
            }
            // The machine forgets the identity; the device stays.
            Leave::TAG => {
                let leave: Leave = item.decode()?;
                context.answer(&Done { request: leave.request });
                context.close = true;
            }
            _ => self.stats.unknown_items.add(),
        }
        Ok(())
    }

    /// Copies are copies no more: they hear it and shake hands anew.
    pub(super) fn release(&self, released: &Released) {
        let copy = self.sessions.table().copy(released.device);
        if let Some(copy) = copy {
            let state = State {
                standing: Standing::Active,
                since_ms: self.now().0,
                reason: heapless::String::new(),
            };
            self.sessions.push_to(&copy, |replies| replies.put(&state));
            self.sessions.table().remove(copy.id);
            self.sessions.bus().disconnect(copy.agreed.inbox);
        }
        for inbox in &released.inboxes {
            self.sessions.bus().disconnect(*inbox);
        }
    }
}

/// What the device is told of its copy.
fn about(device: &Device, copy: &Quarantine, moved: Option<NewInbox>) -> Duplicate {
    Duplicate {
        name: sentence(&device.name),
        address: copy.address,
        heard_ms: copy.told.unwrap_or(copy.heard).0,
        moved,
    }
}

fn tell_stamps(duplicates: u32, context: &mut Context<'_>) {
    if duplicates > 0 {
        context.answer(&Stamps { ahead_s: stamps_ahead_s(duplicates) });
    }
}

/// Whose session a HELLO makes, once its process is judged.
pub(super) fn who(device: &Device, place: &Place) -> Who {
    match place {
        Place::Member(_) => Who::Device {
            id: device.id,
            network: device.network,
            organisation: device.organisation,
        },
        Place::Quarantined(_) => Who::Quarantined { id: device.id },
    }
}
