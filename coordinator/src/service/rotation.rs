//! Rotations of WireGuard keys: who asks for one, and when the next key comes
//! into use.
//!
//! The state is in the store; what is here only decides when a step is due, so
//! a coordinator that was killed goes on where it was.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout_at};
use weft_wire::id::{DeviceId, Revision};

use super::clock::Clock;
use super::devices::refused;
use super::operator::{Operator, fault};
use super::quiet::Quiet;
use super::seams::PresenceView;
use crate::domain::audit::Actor;
use crate::domain::change::Change;
use crate::domain::device::Device;
use crate::domain::rotation::{PATIENCE, SecondKey, Step};
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure};
use crate::store::{By, SharedStore, StoreError};

/// After a start devices come back; before, nobody counts as away.
const COMING_BACK: Duration = Duration::from_secs(120);
/// Who goes away no longer counts: looked at so often while somebody is waited
/// for.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Keys' ages are looked at so often.
const AGES: Duration = Duration::from_secs(600);
/// Rotations that are started by age at once.
const AT_ONCE: usize = 16;

/// The use case.
pub struct Rotations {
    store: SharedStore,
    presence: Arc<dyn PresenceView>,
    clock: Arc<dyn Clock>,
    quiet: Arc<Quiet>,
    /// Keys older than this are rotated; `None` = none.
    age: Option<Duration>,
    /// Until then nobody counts as away.
    back_by: Instant,
}

/// Who has not confirmed a key yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmations {
    /// Devices that it concerns and that are there, the device itself included.
    pub total: usize,
    /// Of these, who has confirmed.
    pub confirmed: usize,
    /// The device itself has.
    pub itself: bool,
}

impl Confirmations {
    /// Whether all have.
    pub const fn are_complete(&self) -> bool {
        self.itself && self.confirmed == self.total
    }
}

/// Counts who confirmed the last step of a device's rotation. `counts`: whether
/// a listener is to be waited for.
pub(super) fn confirmations(
    device: &Device,
    listeners: &[(DeviceId, Revision)],
    counts: impl Fn(DeviceId) -> bool,
) -> Confirmations {
    let mut found = Confirmations::default();
    for &(id, applied) in listeners {
        let confirmed = applied >= device.rotation.revision;
        if id == device.id {
            found.itself = confirmed;
        } else if !counts(id) {
            continue;
        }
        found.total += 1;
        found.confirmed += usize::from(confirmed);
    }
    found
}

impl Rotations {
    /// Rotates the keys of this store's devices.
    pub fn new(
        store: SharedStore,
        presence: Arc<dyn PresenceView>,
        clock: Arc<dyn Clock>,
        age: Option<Duration>,
    ) -> Self {
        let (quiet, back_by) = (Arc::default(), Instant::now() + COMING_BACK);
        Self { store, presence, clock, quiet, age, back_by }
    }

    /// For tests: devices have so long to come back.
    #[must_use]
    pub fn with_coming_back(self, span: Duration) -> Self {
        Self { back_by: Instant::now() + span, ..self }
    }

    /// Takes steps when they are due, for ever. Drop the future to stop. Both
    /// receivers are the store's, taken before the first device is served.
    pub async fn run(
        &self,
        mut changes: Receiver<Arc<Change>>,
        mut applied: Receiver<(DeviceId, Revision)>,
    ) -> Infallible {
        let mut ages_at = self.back_by;
        loop {
            let due = match self.take_due_steps().await {
                Ok(due) => due,
                Err(error) => {
                    self.quiet.store_failed("rotation", &error);
                    Some(Instant::now() + LOOK_AGAIN)
                }
            };
            if ages_at <= Instant::now() {
                ages_at = Instant::now() + AGES;
                if let Err(error) = self.ask_by_age().await {
                    self.quiet.store_failed("rotation", &error);
                }
            }
            // With nothing open nobody's word changes anything.
            let open = due.is_some();
            let until = due.map_or(ages_at, |due| due.min(ages_at));
            loop {
                tokio::select! {
                    change = changes.recv() => match change {
                        Ok(_) | Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => std::future::pending().await,
                    },
                    word = applied.recv(), if open => match word {
                        Ok(_) | Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => std::future::pending().await,
                    },
                    () = sleep_until(until) => break,
                }
            }
            // What came together is looked at together.
            while changes.try_recv().is_ok() {}
            while applied.try_recv().is_ok() {}
        }
    }

    fn now(&self) -> UnixMs {
        UnixMs(self.clock.unix_ms())
    }

    fn by(&self) -> By {
        By { actor: Actor::coordinator(), at: self.now() }
    }

    /// Takes what is due and says when to look again; `None` = nothing is open.
    async fn take_due_steps(&self) -> Result<Option<Instant>, StoreError> {
        let mut due: Option<Instant> = None;
        let mut sooner = |at: Instant| due = Some(due.map_or(at, |due| due.min(at)));
        for device in self.store.rotating().await? {
            let now = self.now();
            match device.rotation.second {
                Some(_) if device.rotation.next().is_some() => {
                    if self.is_due(&device, now).await? {
                        self.store.rotate(device.id, Step::Activate, self.by()).await?;
                    } else {
                        sooner(Instant::now() + LOOK_AGAIN);
                    }
                }
                Some(SecondKey { until: Some(until), .. }) if until <= now => {
                    self.store.rotate(device.id, Step::Forget, self.by()).await?;
                }
                Some(SecondKey { until: Some(until), .. }) => {
                    // A clock that is set meanwhile is seen within the hour.
                    let left = until.since(now).min(Duration::from_hours(1));
                    sooner(Instant::now() + left);
                }
                _ => {}
            }
        }
        Ok(due)
    }

    /// Whether the next key of a device comes into use now.
    async fn is_due(&self, device: &Device, now: UnixMs) -> Result<bool, StoreError> {
        let listeners = self.store.key_listeners(device.id).await?;
        let early = Instant::now() < self.back_by;
        let there = |id| early || self.is_online(id);
        let found = confirmations(device, &listeners, there);
        let late = device.rotation.next().is_some_and(|next| now.since(next.since) >= PATIENCE);
        // Peers may not use what the device itself does not hold for sure.
        Ok(found.are_complete() || late && found.itself)
    }

    fn is_online(&self, device: DeviceId) -> bool {
        self.presence.presence(device).is_some_and(|one| one.online)
    }

    /// Asks devices that are there for a new key when theirs is too old.
    async fn ask_by_age(&self) -> Result<(), StoreError> {
        let Some(age) = self.age else { return Ok(()) };
        let now = self.now();
        let Some(before) = now.0.checked_sub(millis(age)) else { return Ok(()) };
        let open = self.store.rotating().await?;
        let open = open.iter().filter(|device| device.rotation.is_open()).count();
        let mut left = AT_ONCE.saturating_sub(open);
        for id in self.store.keys_older_than(UnixMs(before), 4_096).await? {
            if left == 0 {
                break;
            }
            let Some(device) = self.store.device(id).await? else { continue };
            if !self.is_online(id) || plain_peers(&self.store, &device).await? > 0 {
                continue;
            }
            match self.store.rotate(id, Step::Ask, self.by()).await {
                Ok(_) => left -= 1,
                // Changed meanwhile: another time.
                Err(
                    StoreError::Rotating(_) | StoreError::Standing(_) | StoreError::NotFound(_),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What asking for a rotation, or withdrawing one, came to.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The device afterwards.
    pub device: Device,
    /// Who confirmed.
    pub confirmations: Confirmations,
    /// How long it took.
    pub took: Duration,
}

impl Operator {
    /// Asks a device for a new key and waits until it is in use, at most `wait`.
    ///
    /// # Errors
    ///
    /// `device.no-agent`, `device.plain-peers`, `device.rotating`,
    /// `device.standing`.
    pub async fn rotate_key(
        &self,
        device: &Device,
        wait: Duration,
        actor: Actor,
    ) -> Result<Rotated, Failure> {
        let name = &device.name;
        if device.agent().is_none() {
            let message = format!("{name} runs no agent: its key changes where it is kept");
            return Err(Failure::new(Code::DeviceNoAgent, message));
        }
        let plain = plain_peers(&self.store, device).await.map_err(fault)?;
        if plain > 0 {
            let message = format!(
                "{} without an agent would lose {name}: its key stands in their files",
                if plain == 1 { "1 peer".to_owned() } else { format!("{plain} peers") }
            );
            return Err(Failure::new(Code::DevicePlainPeers, message).param("peers", plain));
        }
        let (started, until) = (self.now(), Instant::now() + wait);
        let last = self.settled(device, until).await?;
        if !last.are_complete() {
            return Err(rotating(name, "the last key change of", &last));
        }
        let mut changes = self.store.changes();
        let by = self.by(actor);
        let asked = self.store.rotate(device.id, Step::Ask, by).await;
        let asked = match asked {
            Err(StoreError::Rotating(_)) => {
                let found = self.confirmations(device).await?;
                return Err(rotating(name, "a key change of", &found));
            }
            asked => asked.map_err(|error| refused(device, "rotate", error))?,
        };
        let mut device = asked.unwrap_or_else(|| device.clone());
        let number = device.rotation.number;
        let id = device.id;
        let in_use = async {
            while device.rotation.is_open() && device.rotation.number == number {
                if let Err(RecvError::Closed) = changes.recv().await {
                    break;
                }
                match self.store.device(id).await.map_err(fault)? {
                    Some(newer) => device = newer,
                    None => break,
                }
            }
            Ok::<_, Failure>(())
        };
        // Time being up is an answer too: the device shows how far it is.
        if let Ok(ended) = timeout_at(until, in_use).await {
            ended?;
        }
        self.rotated(device, started).await
    }

    /// Gives up a key change that is under way.
    ///
    /// # Errors
    ///
    /// `device.not-rotating`.
    pub async fn withdraw_key(&self, device: &Device, actor: Actor) -> Result<Rotated, Failure> {
        let started = self.now();
        let by = self.by(actor);
        let after = match self.store.rotate(device.id, Step::Withdraw, by).await {
            Err(StoreError::Rotating(_) | StoreError::NotFound(_)) => {
                let message = format!("no key change of {} is under way", device.name);
                return Err(Failure::new(Code::DeviceNotRotating, message));
            }
            after => after.map_err(|error| refused(device, "withdraw", error))?,
        };
        self.rotated(after.unwrap_or_else(|| device.clone()), started).await
    }

    /// Waits until everybody who is there has confirmed the last key change:
    /// until then another would take away a key that somebody may use.
    async fn settled(&self, device: &Device, until: Instant) -> Result<Confirmations, Failure> {
        let mut applied = self.store.applied();
        loop {
            let found = self.confirmations(device).await?;
            if device.rotation.previous().is_none() || found.are_complete() {
                return Ok(Confirmations { itself: true, confirmed: found.total, ..found });
            }
            match timeout_at(until, applied.recv()).await {
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) | Err(_) => return Ok(found),
            }
        }
    }

    async fn rotated(&self, device: Device, started: UnixMs) -> Result<Rotated, Failure> {
        let confirmations = self.confirmations(&device).await?;
        Ok(Rotated { device, confirmations, took: self.now().since(started) })
    }

    async fn confirmations(&self, device: &Device) -> Result<Confirmations, Failure> {
        let listeners = self.store.key_listeners(device.id).await.map_err(fault)?;
        let online = |id| self.presence.presence(id).is_some_and(|one| one.online);
        Ok(confirmations(device, &listeners, online))
    }
}

fn rotating(name: &str, what: &str, found: &Confirmations) -> Failure {
    let (confirmed, total) = (found.confirmed, found.total);
    let message = format!("{what} {name} is not over: {confirmed} of {total} confirmed");
    Failure::new(Code::DeviceRotating, message)
        .param("confirmed", confirmed)
        .param("total", total)
        .attempt(format!("weft-coordinator device rotate-key {name} --withdraw"))
}

/// How many peers of a device hold its key in a file of their own, which nobody
/// writes anew.
pub(super) async fn plain_peers(store: &SharedStore, device: &Device) -> Result<usize, StoreError> {
    let mut joined = 0;
    for other in store.members_without_agent(device.network).await? {
        joined += usize::from(store.edge(device.id, other).await?);
    }
    Ok(joined)
}
