//! The sealed control channel's coordinator side: frames in, frames out.
//!
//! HELLO → mac1 → token bucket → gate → open the static key → look the device
//! or the enrolment key up → PSK → verify → WELCOME. **Message one writes
//! nothing**: the first record that opens confirms a session, and only that
//! touches what was there before.

pub mod gate;
pub mod replies;
pub mod sessions;
pub mod table;

mod ahead;
mod changes;
mod fleet;
mod heard;
mod hello;
mod lost;
mod quarantine;
mod record;

pub(in crate::service) use self::hello::hello_info;
pub(in crate::service) use self::record::sentence;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_wire::frame::{FrameKind, Hello, PskKind, RecordHeader, kind};
use weft_wire::id::{DeviceId, Epoch, Inbox, PublicKey, ReplicaId, Secret};

use self::fleet::Fleet;
use self::gate::Gate;
use self::heard::Heard;
use self::sessions::Sessions;
use super::bus::{Answer, BoxFuture, Bus, Inbound, Lane, Uplink};
use super::clock::Clock;
use super::commands::CommandQueue;
use super::count::{Counter, Counts};
use super::enrol::Enrol;
use super::limit::{Limiter, Rate};
use super::maps::Maps;
use super::presence::PresenceTable;
use super::quiet::Quiet;
use super::random::Random;
use super::relays::{RelaySecrets, Relays};
use super::seams::Refusals;
use super::secrets::Secrets;
use super::signal::Signal;
use crate::domain::time::UnixMs;
use crate::domain::usage::Cause;
use crate::store::{SharedStore, StoreError};

/// HELLOs of one inbox.
const HELLOS: Rate = Rate { interval: Duration::from_secs(2), burst: 6 };
/// HELLOs of one site, where the carrier proves nothing about the sender.
const HELLOS_OF_SITE: Rate = Rate::per_second(20, 100);
/// RESETs to one inbox.
const RESETS: Rate = Rate { interval: Duration::from_secs(10), burst: 2 };
/// Reports on paths of one device: as many peers as a gateway has at once, and
/// then one in the time that it lets pass between two.
const REPORTS: Rate = Rate { interval: Duration::from_secs(5), burst: 64 };
/// Reports on a device's bytes: one an hour, and a few around midnight.
const USAGES: Rate = Rate { interval: Duration::from_secs(600), burst: 8 };
/// Cells of the limiters: 16 bytes each.
const CELLS: usize = 16_384;
/// How long a RETRY's token is good: this bucket of time and the next.
const TOKEN_BUCKET: Duration = Duration::from_secs(60);

/// Why a frame was dropped, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameDrop {
    /// Not a frame that devices send.
    Frame,
    /// A HELLO that names another inbox than its connection's.
    ForeignInbox,
    /// mac1 is not made for our key.
    Mac1,
    /// More HELLOs than an inbox or address may send.
    HelloRate,
    /// Too many wait for handshake work.
    Overload,
    /// The static key or the payload does not open: forged, or another PSK.
    Unauthentic,
    /// No such device, or it was deleted.
    UnknownDevice,
    /// No such enrolment key.
    UnknownKey,
    /// The PSK's master is gone or another.
    UnknownMaster,
    /// The HELLO's payload is not what it must be.
    HelloPayload,
    /// No protocol version in common.
    Version,
    /// A record of a session that is not known.
    UnknownSession,
    /// A record that comes from another inbox than its session's.
    ForeignSession,
    /// A record seen before, or older than the window; over a broker that is not
    /// ours also a HELLO seen before.
    Replayed,
    /// A record that does not open.
    Forged,
    /// A record whose counter no session reaches.
    Exhausted,
    /// Items that do not decode; those before them were handled.
    Items,
    /// Items beyond the most that one record may ask for.
    TooMany,
    /// The store did not answer.
    Store,
}

impl FrameDrop {
    /// How many reasons there are.
    pub const COUNT: usize = Self::Store as usize + 1;

    /// All, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Frame,
        Self::ForeignInbox,
        Self::Mac1,
        Self::HelloRate,
        Self::Overload,
        Self::Unauthentic,
        Self::UnknownDevice,
        Self::UnknownKey,
        Self::UnknownMaster,
        Self::HelloPayload,
        Self::Version,
        Self::UnknownSession,
        Self::ForeignSession,
        Self::Replayed,
        Self::Forged,
        Self::Exhausted,
        Self::Items,
        Self::TooMany,
        Self::Store,
    ];
}

/// What the channel counts.
#[derive(Debug, Default)]
pub struct Stats {
    drops: Counts<{ FrameDrop::COUNT }>,
    /// WELCOMEs sent.
    pub welcomes: Counter,
    /// Sessions confirmed.
    pub confirmed: Counter,
    /// Records that opened.
    pub records: Counter,
    /// RETRYs sent.
    pub retries: Counter,
    /// RESETs sent.
    pub resets: Counter,
    /// Items with a tag that is not known here.
    pub unknown_items: Counter,
    data: Counts<{ Cause::COUNT }>,
}

impl Stats {
    /// Counter of frames dropped for this reason.
    pub fn dropped(&self, why: FrameDrop) -> &Counter {
        self.drops.get(why as usize)
    }

    /// Counter of bytes that devices reported.
    pub fn data(&self, cause: Cause) -> &Counter {
        self.data.get(cause as usize)
    }
}

/// What a [`Channel`] is made of.
pub struct Parts {
    /// The state.
    pub store: SharedStore,
    /// The secrets.
    pub secrets: Arc<Secrets>,
    /// The way to devices.
    pub bus: Arc<dyn Bus>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Refused registrations, for operators.
    pub refusals: Arc<Refusals>,
    /// Randomness.
    pub random: Random,
    /// The secrets that relays share with us.
    pub relays: RelaySecrets,
    /// Handshakes at once; the number of cores is a good one.
    pub handshakes: usize,
    /// Seconds between two heartbeats of a device.
    pub heartbeat_s: u16,
}

/// The coordinator as devices know it.
pub struct Channel {
    store: SharedStore,
    secrets: Arc<Secrets>,
    clock: Arc<dyn Clock>,
    random: Random,
    /// The static keys that HELLOs may be made for, current first.
    keys: [CoordinatorKey; 2],
    /// The life of the database, which may begin anew while this runs.
    epoch: AtomicU32,
    sessions: Arc<Sessions>,
    gate: Arc<Gate>,
    fleet: Fleet,
    /// Handshakes at once.
    cores: usize,
    heartbeat_s: u16,
    /// HELLOs that a foreign broker brought lately.
    heard: Heard,
    hellos: Limiter,
    hellos_of_site: Limiter,
    resets: Limiter,
    reports: Limiter,
    usages: Limiter,
    retry_secret: Secret,
    started: Instant,
    enrol: Enrol,
    turns: quarantine::Turns,
    maps: Maps,
    signal: Signal,
    relays: Relays,
    presence: Arc<PresenceTable>,
    quiet: Arc<Quiet>,
    commands: CommandQueue,
    stats: Stats,
}

/// The one replica there is.
pub const REPLICA: ReplicaId = ReplicaId(0);

impl Channel {
    /// Builds the channel and everything behind it.
    ///
    /// # Errors
    ///
    /// The store's, when it cannot be read.
    pub async fn new(parts: Parts, now: Instant) -> Result<Self, StoreError> {
        let Parts { store, secrets, bus, clock, refusals, random, relays, handshakes, heartbeat_s } =
            parts;
        let installation = store.installation().await?;
        let sessions = Arc::new(Sessions::new(bus));
        let quiet = Arc::new(Quiet::default());
        let key = |secret: &weft_noise::key::StaticSecret| {
            let copy = weft_noise::key::StaticSecret::from_bytes(secret.to_secret().0);
            CoordinatorKey::new(copy)
        };
        Ok(Self {
            keys: [key(&secrets.current), key(&secrets.next)],
            epoch: AtomicU32::new(installation.epoch.0),
            gate: Gate::new(handshakes.max(1)),
            fleet: Fleet::new(Arc::clone(&store)),
            cores: handshakes,
            heartbeat_s,
            heard: Heard::default(),
            hellos: Limiter::new(HELLOS, CELLS),
            hellos_of_site: Limiter::new(HELLOS_OF_SITE, CELLS),
            resets: Limiter::new(RESETS, CELLS),
            reports: Limiter::new(REPORTS, CELLS),
            usages: Limiter::new(USAGES, CELLS),
            retry_secret: Secret(random.bytes()),
            started: now,
            enrol: Enrol::new(
                Arc::clone(&store),
                Arc::clone(&secrets),
                refusals,
                Arc::clone(&quiet),
                random,
            ),
            maps: Maps::new(
                Arc::clone(&store),
                Arc::clone(&secrets),
                Arc::clone(&sessions),
                Arc::clone(&quiet),
            ),
            signal: Signal::new(
                Arc::clone(&store),
                Arc::clone(&secrets),
                Arc::clone(&sessions),
                Arc::clone(&quiet),
            ),
            relays: Relays::new(Arc::clone(&store), relays, Arc::clone(&secrets)),
            presence: Arc::new(PresenceTable::new(Arc::clone(&sessions), Arc::clone(&clock))),
            turns: quarantine::Turns::default(),
            commands: CommandQueue::new(Arc::clone(&sessions), Arc::clone(&clock)),
            stats: Stats::default(),
            quiet,
            store,
            secrets,
            clock,
            random,
            sessions,
        })
    }

    /// Who is there.
    pub const fn presence(&self) -> &Arc<PresenceTable> {
        &self.presence
    }

    /// The way commands go.
    pub const fn commands(&self) -> &CommandQueue {
        &self.commands
    }

    /// All sessions.
    pub const fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Counters.
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How many devices have used up their budget of today; `None` while the store
    /// does not answer.
    pub async fn devices_over_budget(&self) -> Option<u64> {
        match self.store.used_up_on(self.now().day()).await {
            Ok(devices) => Some(devices),
            Err(error) => {
                self.quiet.store_failed("usage", &error);
                None
            }
        }
    }

    /// The public key that devices pin.
    pub fn public(&self) -> PublicKey {
        self.secrets.public()
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    fn now(&self) -> UnixMs {
        UnixMs(self.clock.unix_ms())
    }

    fn dropped(&self, why: FrameDrop) -> Answer {
        self.stats.dropped(why).add();
        Answer::default()
    }

    /// A drop, with the connection closed: this sender has no business here.
    fn refused(&self, why: FrameDrop) -> Answer {
        Answer { close: true, ..self.dropped(why) }
    }

    /// Where a frame belongs of whose sender the carrier knows nothing.
    fn lane(&self, inbox: Inbox, frame: &[u8]) -> Result<Lane, FrameDrop> {
        match kind(frame) {
            Ok(FrameKind::Hello) => {
                let hello = Hello::parse(frame).map_err(|_| FrameDrop::Frame)?;
                if hello.inbox() != inbox {
                    return Err(FrameDrop::ForeignInbox);
                }
                if !self.keys.iter().any(|key| key.check_mac1(&hello)) {
                    return Err(FrameDrop::Mac1);
                }
                // Devices make a new one for each attempt. Sent again it would
                // use up what the device may send.
                if !self.heard.is_new(&hello) {
                    return Err(FrameDrop::Replayed);
                }
                Ok(match hello.selector().kind {
                    PskKind::Device => Lane::Known,
                    PskKind::Enrolment => Lane::Others,
                })
            }
            Ok(FrameKind::Record) => {
                let header = RecordHeader::parse(frame).map_err(|_| FrameDrop::Frame)?;
                let now = tokio::time::Instant::now().into_std();
                let found = self.sessions.table().find(header.session, now);
                match found {
                    Some(entry) if entry.agreed.inbox != inbox => Err(FrameDrop::ForeignSession),
                    Some(entry) if entry.sealed().has_opened(header.counter) => {
                        Err(FrameDrop::Replayed)
                    }
                    Some(entry) if entry.device().is_some() => Ok(Lane::Known),
                    Some(_) | None => Ok(Lane::Others),
                }
            }
            _ => Err(FrameDrop::Frame),
        }
    }

    /// Ends every session of a device and its connections.
    fn end(&self, device: DeviceId, inbox: Option<Inbox>) {
        let inboxes = self.sessions.table().remove_device(device);
        for inbox in inboxes.into_iter().chain(inbox) {
            self.sessions.bus().disconnect(inbox);
        }
        self.maps.forget(device);
    }
}

impl Inbound for Channel {
    fn handle_uplink<'a>(&'a self, uplink: Uplink<'a>) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match kind(uplink.frame) {
                Ok(FrameKind::Hello) => self.handle_hello(&uplink).await,
                Ok(FrameKind::Record) => self.handle_record(&uplink).await,
                Ok(FrameKind::Welcome | FrameKind::Retry | FrameKind::Reset) | Err(_) => {
                    self.dropped(FrameDrop::Frame)
                }
            }
        })
    }

    fn handle_gone(&self, inbox: Inbox) {
        self.sessions.table().remove_pending(inbox);
    }

    fn sort(&self, inbox: Inbox, frame: &[u8]) -> Option<Lane> {
        match self.lane(inbox, frame) {
            Ok(lane) => Some(lane),
            Err(why) => {
                self.stats.dropped(why).add();
                None
            }
        }
    }

    fn handle_return(&self) {
        self.maps.tell_again(self.epoch());
    }
}
