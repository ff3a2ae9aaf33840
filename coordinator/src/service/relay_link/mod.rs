//! The coordinator as relays that joined know it: their sealed sessions, what
//! they report, and what devices are told of them.
//!
//! As with devices, a HELLO writes nothing: only a record that opens does.

mod lives;
mod report;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, watch};
use weft_noise::key::StaticSecret;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_wire::PROTOCOL;
use weft_wire::frame::{FrameKind, Hello, MAX_FRAME, PskKind, RecordHeader, Reset, kind};
use weft_wire::id::{Inbox, KeyId, PublicKey, ReplicaId, Revision, Secret, ShortSecret};
use weft_wire::item::{ItemWriter, WelcomeInfo};
use zeroize::Zeroizing;

use self::lives::{Lives, Verdict};
use self::table::{Entry, Table, Who};
use super::bus::BoxFuture;
use super::channel::hello_info;
use super::clock::Clock;
use super::limit::{Limiter, Rate, site};
use super::quiet::Quiet;
use super::random::Random;
use super::seams::{RelayLive, RelayView};
use super::secrets::Secrets;
use crate::domain::audit::Actor;
use crate::domain::change::Change;
use crate::domain::relay::Relay;
use crate::domain::relay_health::{Check, PACE};
use crate::domain::time::UnixMs;
use crate::store::{By, SharedStore, StoreError};

/// Frames of one site: relays are few, and each posts when it was answered.
const OF_SITE: Rate = Rate::per_second(20, 60);
/// Cells of the limiter.
const CELLS: usize = 1_024;

/// What a [`RelayLink`] is made of.
pub struct Parts {
    /// The state.
    pub store: SharedStore,
    /// The secrets.
    pub secrets: Arc<Secrets>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Random,
    /// The name of the configured relay that runs in this process, and needs no
    /// checks.
    pub inside: Option<&'static str>,
}

/// A relay that is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub number: u16,
    /// Where it answers STUN.
    pub addresses: Vec<SocketAddr>,
}

/// The use case.
pub struct RelayLink {
    store: SharedStore,
    secrets: Arc<Secrets>,
    clock: Arc<dyn Clock>,
    random: Random,
    /// The static keys that HELLOs may be made for, current first.
    keys: [CoordinatorKey; 2],
    quiet: Quiet,
    of_site: Limiter,
    table: Mutex<Table>,
    lives: Mutex<Lives>,
    inside: Option<&'static str>,
    /// Counts what relays may want to hear.
    news: watch::Sender<u64>,
    /// A check is due sooner than it was.
    sooner: Notify,
}

impl RelayLink {
    /// No relay is heard or checked yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { store, secrets, clock, random, inside } = parts;
        let key = |secret: &StaticSecret| {
            CoordinatorKey::new(StaticSecret::from_bytes(secret.to_secret().0))
        };
        Self {
            keys: [key(&secrets.current), key(&secrets.next)],
            store,
            secrets,
            clock,
            random,
            quiet: Quiet::default(),
            of_site: Limiter::new(OF_SITE, CELLS),
            table: Mutex::default(),
            lives: Mutex::default(),
            inside,
            news: watch::channel(0).0,
            sooner: Notify::new(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lives(&self) -> MutexGuard<'_, Lives> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> UnixMs {
        UnixMs(self.clock.unix_ms())
    }

    fn by(&self) -> By {
        By { actor: Actor::coordinator(), at: self.now() }
    }

    /// Tells relays what is decided of devices, for ever. Drop the future to stop.
    pub async fn run(&self, mut changes: Receiver<Arc<Change>>) -> core::convert::Infallible {
        loop {
            match changes.recv().await {
                Ok(change) if !change.moves_members() => {}
                Ok(_) | Err(RecvError::Lagged(_)) => self.wake(),
                Err(RecvError::Closed) => core::future::pending().await,
            }
        }
    }

    /// There may be news for relays.
    fn wake(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// The frames that answer a frame. One that waits for news answers late.
    pub async fn handle(&self, address: Option<IpAddr>, frame: &[u8]) -> Vec<Bytes> {
        let now = tokio::time::Instant::now().into_std();
        if address.is_some_and(|address| !self.of_site.try_take(&site(address), now)) {
            return Vec::new();
        }
        match kind(frame) {
            Ok(FrameKind::Hello) => self.hello(frame, now).await.into_iter().collect(),
            Ok(FrameKind::Record) => self.record(address, frame, now).await,
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// `None` = whatever is wrong, nothing is explained to who proves nothing.
    async fn hello(&self, frame: &[u8], now: Instant) -> Option<Bytes> {
        let hello = Hello::parse(frame).ok()?;
        // One hash keeps everybody out who does not know our public key.
        let key = self.keys.iter().find(|key| key.check_mac1(&hello))?;
        let opened = key.open_hello(&hello).ok()?;
        let (who, psk) = match self.claimed(&hello, opened.device()).await {
            Ok(claimed) => claimed?,
            Err(error) => {
                self.quiet.store_failed("relay", &error);
                return None;
            }
        };
        let mut payload = Zeroizing::new([0; MAX_FRAME]);
        let (len, verified) = opened.verify(key, &hello, &psk, &mut *payload).ok()?;
        let info = hello_info(payload.get(..len)?).ok()?;
        if info.wire_min > PROTOCOL || info.wire_max < PROTOCOL {
            return None;
        }
        let identity = *verified.device();
        let id = self.free_id()?;
        let welcome = WelcomeInfo {
            session: id,
            wire: PROTOCOL,
            replica: ReplicaId(0),
            time_ms: self.clock.unix_ms(),
            epoch: info.epoch,
            revision: Revision(0),
            inbox: Inbox([0; 16]),
            password: ShortSecret([0; 16]),
            password_expiry: 0,
            reconnect_min_s: 0,
            reconnect_max_s: 0,
            heartbeat_s: 0,
        };
        let mut plain = [0; 256];
        let mut writer = ItemWriter::new(&mut plain);
        writer.put(&welcome).ok()?;
        let len = writer.finish();
        let mut out = [0; 512];
        let mut random = self.random;
        let welcomed = verified.welcome(id, plain.get(..len)?, &mut random, &mut out);
        let (len, sealed) = welcomed.ok()?;
        self.table().insert(Entry::new(sealed, who, identity, now));
        Some(Bytes::copy_from_slice(out.get(..len)?))
    }

    /// Who sends a HELLO, and with which PSK it must be made; `None` = nobody whom
    /// there is a PSK for.
    async fn claimed(
        &self,
        hello: &Hello<'_>,
        identity: &PublicKey,
    ) -> Result<Option<(Who, Secret)>, StoreError> {
        let relays = self.store.relays().await?;
        let master = hello.selector().master;
        Ok(match hello.selector().kind {
            PskKind::Enrolment => {
                let Ok(key) = KeyId::from_bytes(hello.reference()) else { return Ok(None) };
                let mut known = relays.iter().filter_map(|relay| relay.registration.as_ref());
                // A string does not say of which master it is.
                let found = known.find(|one| one.key == key);
                let psk = found.and_then(|one| self.secrets.relay_enrolment_psk(key, one.master));
                psk.map(|psk| (Who::Joining { key }, psk))
            }
            PskKind::Device => {
                let find = |relay: &&Relay| relay.identity() == Some((*identity, master));
                let who = relays.iter().find(find);
                let who = who.map_or(Who::Unknown, |_| Who::Relay);
                self.secrets.relay_psk(identity, master).map(|psk| (who, psk))
            }
        })
    }

    fn free_id(&self) -> Option<u32> {
        let table = self.table();
        (0..16).map(|_| u32::from_le_bytes(self.random.bytes())).find(|id| table.is_free(*id))
    }

    async fn record(&self, address: Option<IpAddr>, frame: &[u8], now: Instant) -> Vec<Bytes> {
        let Ok(header) = RecordHeader::parse(frame) else { return Vec::new() };
        let Some(entry) = self.table().find(header.session) else {
            // A hint, as short as what caused it at the most.
            let reset = Reset { session: header.session, hello_hash: [0; 8] }.to_bytes();
            return vec![Bytes::copy_from_slice(&reset)];
        };
        let mut plain = Zeroizing::new([0; MAX_FRAME]);
        let Ok(len) = entry.sealed().open(frame, &mut *plain) else { return Vec::new() };
        self.table().confirm(&entry, now);
        let replies = self.answer(&entry, address, plain.get(..len).unwrap_or_default()).await;
        let sealed = replies.seal(&mut entry.sealed());
        sealed.unwrap_or_else(|error| {
            tracing::warn!(session = entry.id, ?error, "relay.not-sealed");
            Vec::new()
        })
    }

    /// The relays to be checked now.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn due(&self) -> Result<Vec<Due>, StoreError> {
        let now = tokio::time::Instant::now().into_std();
        let relays = self.store.relays().await?;
        let mut lives = self.lives();
        lives.keep(|number| relays.iter().any(|relay| relay.number == number));
        let due = relays.iter().filter(|relay| !self.is_inside(relay)).filter_map(|relay| {
            let addresses: Vec<_> = relay.is.stun().collect();
            let is_due = !addresses.is_empty() && lives.is_due(relay.number, now);
            is_due.then_some(Due { number: relay.number, addresses })
        });
        Ok(due.collect())
    }

    /// How a check ended.
    pub async fn checked(&self, number: u16, check: Check) {
        let now = tokio::time::Instant::now().into_std();
        self.lives().checked(number, check, self.now(), now);
        self.decide(number).await;
    }

    /// Waits until a relay may be due.
    pub async fn until_due(&self) {
        let now = tokio::time::Instant::now().into_std();
        let pause = self.lives().next_due().map_or(PACE, |at| at.saturating_duration_since(now));
        let pause = pause.clamp(Duration::from_millis(10), PACE);
        // Sooner, or then: both say the same.
        let _ = tokio::time::timeout(pause, self.sooner.notified()).await;
    }

    /// Tells devices of a relay, or no more, if that is due.
    async fn decide(&self, number: u16) {
        let decided = async {
            let relays = self.store.relays().await?;
            let Some(relay) = relays.iter().find(|relay| relay.number == number) else {
                // Another one may have its number one day.
                self.lives().keep(|known| known != number);
                return Ok(());
            };
            if self.is_inside(relay) {
                return Ok(());
            }
            let Verdict { told, why } = self.lives().verdict(relay);
            if told != relay.told {
                tracing::info!(relay = relay.is.name, told, why, "relay.listed");
                self.store.tell_relay(number, told, why, self.by()).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = decided.await {
            self.quiet.store_failed("relay", &error);
        }
    }

    fn is_inside(&self, relay: &Relay) -> bool {
        relay.registration.is_none() && self.inside == Some(relay.is.name.as_str())
    }
}

impl RelayView for RelayLink {
    fn live(&self, relay: &Relay) -> RelayLive {
        RelayLive { is_inside: self.is_inside(relay), ..self.lives().live(relay.number) }
    }

    fn changed(&self, number: u16) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.decide(number).await;
            self.wake();
        })
    }
}
