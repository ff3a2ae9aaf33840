//! The device's side of the control channel: connect, shake hands, enrol, pull
//! the map, report, obey. Sans-IO: it never sees MQTT, only frames and topics.
//!
//! Inputs are `handle_*`, outputs `poll_line` (what to do about the MQTT line),
//! `poll_transmit` (frames) and `poll_event` (everything else: map ops, calls,
//! what is to be stored). After every input all three are drained; a record's
//! items are decoded one by one as `poll_event` is asked, so a page of a
//! hundred peers needs no queue.
//!
//! What an attacker on the line can do is written in `channel`: nothing is torn
//! down for an unauthenticated frame.

mod cache;
mod channel;
mod command;
mod heartbeat;
mod identity;
mod inbound;
mod keys;
mod lease;
mod line;
mod map;
mod netcheck;
mod outbound;
mod paths;
mod relays;
mod repeat;
mod request;

pub use cache::{CacheHead, MapSettings};
pub use command::{COMMANDS, DoneCommands};
pub use heartbeat::Report;
pub use identity::{Credentials, Enrolment, Identity, Member, Membership, SecondWireguard};
pub use map::Held;
pub use outbound::Reports;

use weft_noise::key::WeakKey;
use weft_noise::sealed::SealedError;
use weft_wire::frame::{self, FrameError, FrameKind};
use weft_wire::id::{DeviceId, Inbox, Instance, Name, Revision};
use weft_wire::item::{Abilities, Duplicate, Refused, Registered, Standing, State};
use weft_wire::map::{PeerUpsert, Rules, SecondKey, Servers, Settings};
use weft_wire::network::NetworkReport;
use weft_wire::relay::{RelayNames, Relays};
use weft_wire::signal::{Call, CallAck, CallFailed, Go};
use weft_wire::topic::Topic;

use crate::entropy::Entropy;
use crate::time::{Duration, Instant};
use crate::timer::Reason;

pub(crate) use channel::Channel;
use command::Commands;
use heartbeat::Heartbeats;
use inbound::{Inbound, Notice, Snapshot};
use keys::KeyWork;
use lease::Lease;
use line::{Line, LineAction};
use map::MapPull;
use netcheck::Looks;
use paths::PathReports;
use relays::RelayLogins;
use request::{Ask, Requests};

/// What the device says about itself; the same for its whole run.
pub struct ControlConfig {
    /// Starts of the device since it was made, this one counted.
    pub boot_count: u32,
    /// Slots for peers on demand; 0 = wants all peers.
    pub on_demand: u16,
    /// Map pages asked for at once, 1 to 8.
    pub page_window: u8,
    /// Salted hash of machine id, board serial or eFuse MAC.
    pub fingerprint: [u8; 32],
    /// The name it would like.
    pub name: Name,
    /// Network and build.
    pub abilities: Abilities,
}

/// What the shell has to do about its line to the coordinator.
pub enum LineRequest {
    /// Open it with these credentials and subscribe to the inbox; then call
    /// `handle_connected`, or `handle_disconnected` if that fails.
    Connect(Credentials),
    /// Close it; then call `handle_disconnected`.
    Disconnect,
}

/// A frame to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlTransmit {
    /// Where to.
    pub topic: Topic,
    /// Bytes of the frame in the caller's buffer.
    pub len: usize,
}

/// Why a frame from the line was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameDrop {
    /// The line is not up as far as this agent knows.
    LineDown,
    /// Not a frame, or of a kind that no device receives.
    Malformed,
    /// Belongs to no handshake or session of ours: late, or forged.
    Unexpected,
    /// Not made by the coordinator for us.
    Unauthentic,
    /// Seen before.
    Replayed,
    /// Longer than this device said it takes.
    TooLong,
}

impl From<SealedError> for FrameDrop {
    fn from(error: SealedError) -> Self {
        match error {
            SealedError::Frame(_) => Self::Malformed,
            SealedError::Replayed => Self::Replayed,
            SealedError::Unexpected => Self::Unexpected,
            SealedError::NoRoom => Self::TooLong,
            _ => Self::Unauthentic,
        }
    }
}

impl From<FrameError> for FrameDrop {
    fn from(_: FrameError) -> Self {
        Self::Malformed
    }
}

/// What went by without effect. Saturating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlCounters {
    /// Items with a tag that this build does not know.
    pub unknown_items: u32,
    /// Items that do not decode, or padding that is not zero.
    pub bad_items: u32,
    /// Items of ours that the coordinator does not know.
    pub unsupported: u32,
    /// Map pages that were late, doubled or not asked for.
    pub stale_pages: u32,
    /// Handshakes that ended with a session.
    pub handshakes: u32,
}

/// Why the map was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapDropped {
    /// No word from the coordinator for the length of the lease.
    LeaseExpired,
    /// The coordinator said that this device is no active member.
    Standing(Standing),
}

/// Another machine that uses this device's identity, as the coordinator said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// From where it was heard last, if that is known.
    pub address: Option<core::net::IpAddr>,
    /// When it was heard last, Unix time in milliseconds.
    pub heard_ms: u64,
}

/// What the control session tells its owner.
#[expect(clippy::large_enum_variant, reason = "one is handed over at a time and none is kept")]
pub enum ControlEvent {
    /// A session was made: the coordinator's Unix time in milliseconds, or
    /// `None` while it has none.
    Online(Option<u64>),
    /// The line was lost.
    Offline,
    /// [`Control::identity`] changed and is to be stored: before and after,
    /// [`Control::handle_identity_asked`] and
    /// [`Control::handle_identity_stored`].
    IdentityChanged,
    /// The WireGuard keys in [`Control::identity`] changed.
    OwnKeys,
    /// What [`Control::write_cache`] writes and the map holds is to be stored; then
    /// [`Control::handle_cache_stored`].
    CacheChanged,
    /// The same, but an older one does for a while: other credentials at relays.
    CacheAged,
    /// The device was taken in (or waits for an operator).
    Registered(Registered),
    /// The device was not taken in.
    Refused(Refused),
    /// How the device stands, whenever it changes.
    Standing(State),
    /// Another machine uses this device's identity: sessions with peers may be
    /// its by now.
    Duplicate(Duplicate),
    /// Handshake stamps are to be at least so many seconds ahead of real time.
    Stamps(u32),
    /// A map begins that builds on nothing: what it does not name is gone at
    /// [`ControlEvent::SnapshotEnd`].
    SnapshotBegin,
    /// All of it came.
    SnapshotEnd,
    /// Op: a peer is as follows.
    Upsert(PeerUpsert),
    /// Op: a peer is gone.
    Remove(DeviceId),
    /// Op: a peer's second key changed.
    PeerKey(DeviceId, Option<SecondKey>),
    /// Op: the complete rules.
    Rules(Rules),
    /// Op: the complete list of STUN servers.
    Servers(Servers),
    /// Op: the complete list of relays.
    Relays(Relays),
    /// Op: the names of relays.
    RelayNames(RelayNames),
    /// Op: bytes a day for all but payload where they cost money.
    DataBudget(Option<u64>),
    /// [`Control::relay_grant`] changed.
    RelayLogins,
    /// Op: the network's settings.
    Settings(Settings),
    /// A revision is complete.
    Committed(Held),
    /// Peers had forgotten this device, and with it the sessions that it holds.
    Forgotten,
    /// Every peer is to be dropped.
    MapDropped(MapDropped),
    /// A peer wants to be reached.
    Call(Call),
    /// A peer answered a call.
    CallAck(CallAck),
    /// A peer names the start of a burst.
    Go(Go),
    /// A call was not forwarded.
    CallFailed(CallFailed),
    /// [`Control::handle_report`] is waited for.
    ReportDue,
    /// [`Control::begin_path_report`] is waited for.
    PathsDue,
    /// The coordinator has the last report on paths.
    PathsTold,
    /// An operator wants this agent restarted.
    Restart,
    /// An operator wants the network looked at; then
    /// [`Control::handle_network_report`].
    Netcheck,
    /// The device has left its network: everything is to be erased.
    Left,
}

/// Something to tell a peer through the coordinator.
pub enum Signal {
    /// See [`Call`].
    Call(Call),
    /// See [`CallAck`].
    CallAck(CallAck),
    /// See [`Go`].
    Go(Go),
}

/// Signals that wait for the next record.
const SIGNALS: usize = 2;
/// Events that wait while a record is decoded: one item makes at most six.
const NOTICES: usize = 8;

/// The control session. `FRAME` is the longest frame that the device takes, in
/// bytes.
pub struct Control<const FRAME: usize> {
    config: ControlConfig,
    identity: Identity,
    instance: Instance,
    /// Client id while enrolling.
    enrol_inbox: Inbox,
    /// Inbox of the line that is up: WELCOME may name another for the next.
    line_inbox: Inbox,
    line: Line,
    channel: Channel,
    requests: Requests,
    map: MapPull,
    settings: MapSettings,
    applied: Option<Held>,
    lease: Lease,
    heartbeats: Heartbeats,
    commands: Commands,
    looks: Looks,
    keys: KeyWork,
    relay_logins: RelayLogins,
    path_reports: PathReports,
    standing: Standing,
    /// Another machine with this identity.
    other: Option<Other>,
    /// Whether the coordinator has a map for this device, as last heard.
    has_map: bool,
    /// The coordinator's database has lost this member.
    lost: bool,
    /// It was taken in again since, and holds no map of that yet.
    forgotten: bool,
    /// The coordinator's Unix time in milliseconds at an instant.
    clock: Option<(Instant, u64)>,
    signals: heapless::Deque<Signal, SIGNALS>,
    unsupported: heapless::Vec<u32, 4>,
    notices: heapless::Deque<Notice, NOTICES>,
    inbound: Inbound<FRAME>,
    snapshot: Snapshot,
    /// A handshake was done over the line that is up.
    online: bool,
    /// The line wants a record, of whatever content.
    record_wanted: bool,
    heard_at: Option<Instant>,
    /// Of the last handshake.
    rtt_ms: u16,
    counters: ControlCounters,
    /// Of the last input.
    now: Instant,
}

impl<const FRAME: usize> Control<FRAME> {
    /// A session that wants to connect. Three X25519.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when the pin is a key of low order.
    pub fn new(
        config: ControlConfig,
        identity: Identity,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<Self, WeakKey> {
        let channel = Channel::of(&identity)?;
        let mut control = Self::begun(config, identity, channel, now);
        control.draw(entropy);
        Ok(control)
    }

    /// The session of an identity whose channel was made before; [`Control::draw`] follows.
    #[inline(never)]
    pub(crate) fn begun(
        config: ControlConfig,
        identity: Identity,
        channel: Channel,
        now: Instant,
    ) -> Self {
        let (instance, enrol_inbox) = (Instance([0; 8]), Inbox([0; 16]));
        Self {
            instance,
            line_inbox: enrol_inbox,
            enrol_inbox,
            line: Line::new(),
            channel,
            requests: Requests::default(),
            map: MapPull::new(config.page_window),
            settings: MapSettings::default(),
            applied: None,
            lease: Lease::new(now),
            heartbeats: Heartbeats::new(),
            commands: Commands::new(),
            looks: Looks::new(),
            keys: KeyWork::default(),
            relay_logins: RelayLogins::new(),
            path_reports: PathReports::new(),
            standing: Standing::Active,
            other: None,
            has_map: false,
            lost: false,
            forgotten: false,
            clock: None,
            signals: heapless::Deque::new(),
            unsupported: heapless::Vec::new(),
            notices: heapless::Deque::new(),
            inbound: Inbound::new(),
            snapshot: Snapshot::default(),
            online: false,
            record_wanted: false,
            heard_at: None,
            rtt_ms: 0,
            counters: ControlCounters::default(),
            config,
            identity,
            now,
        }
    }

    /// Draws what names this run of the device.
    pub(crate) fn draw(&mut self, entropy: &mut dyn Entropy) {
        entropy.fill(&mut self.instance.0);
        entropy.fill(&mut self.enrol_inbox.0);
        self.line_inbox = self.enrol_inbox;
    }

    /// What the shell has to do about the line.
    #[must_use]
    pub fn poll_line(&mut self, now: Instant) -> Option<LineRequest> {
        Some(match self.line.poll(now)? {
            LineAction::Connect => {
                let credentials = self.credentials();
                self.line_inbox = credentials.inbox;
                LineRequest::Connect(credentials)
            }
            LineAction::Disconnect => LineRequest::Disconnect,
        })
    }

    /// The line is up, and the inbox subscribed to.
    pub fn handle_connected(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.now = now;
        if !self.line.handle_connected() {
            return;
        }
        self.online = false;
        self.channel.handle_connected();
        self.look_for_what_is_new();
        if !self.is_member() {
            self.requests.open(Ask::Register, entropy);
        }
    }

    /// A cache that an older build wrote lacks what that build did not know of
    /// the map: all of it is asked for once more.
    fn look_for_what_is_new(&mut self) {
        let held = self.map.held();
        let is_whole = self.settings.has_relays() && self.settings.has_budget();
        if held.revision != Revision(0) && !is_whole {
            self.map.set_held(Held { revision: Revision(0), ..held });
        }
    }

    /// The line is down, or could not be opened.
    pub fn handle_disconnected(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.now = now;
        let was_up = self.line.is_up();
        self.online = false;
        self.record_wanted = false;
        self.line.handle_disconnected(entropy, now);
        self.channel.handle_disconnected();
        self.signals.clear();
        if was_up {
            self.notify(Notice::Offline);
        }
    }

    /// This device is somewhere else than before: a line that is down is opened now,
    /// and one that is lost by that without a wait.
    pub fn handle_moved(&mut self, now: Instant) {
        self.line.handle_moved(now);
    }

    /// A frame from the inbox. Afterwards drain `poll_event`.
    ///
    /// # Errors
    ///
    /// [`FrameDrop`]; nothing has changed then, except that RESET and RETRY may
    /// cause a handshake (at most one per 30 s).
    pub fn handle_frame(
        &mut self,
        frame: &[u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), FrameDrop> {
        self.now = now;
        self.inbound.clear();
        if !self.line.is_up() {
            return Err(FrameDrop::LineDown);
        }
        match frame::kind(frame)? {
            FrameKind::Welcome => self.handle_welcome(frame, entropy, now),
            FrameKind::Record => self.handle_record(frame, now),
            FrameKind::Retry => Ok(self.channel.handle_retry(frame, now, entropy)?),
            FrameKind::Reset => Ok(self.channel.handle_reset(frame, now, entropy)?),
            FrameKind::Hello => Err(FrameDrop::Malformed),
        }
    }

    /// The line carries nothing down by itself and wants a record to fetch with:
    /// the next one, or one without items as soon as there can be one. Before
    /// this device is a member nothing waits for it.
    pub const fn handle_fetch(&mut self) {
        self.record_wanted = true;
    }

    /// The shell has looked at the network as [`ControlEvent::Netcheck`] asked;
    /// `None`: it cannot.
    pub fn handle_network_report(&mut self, report: Option<NetworkReport>) {
        self.looks.handle_report(report);
    }

    /// Tells a peer something through the coordinator. `false`: not now; ask
    /// [`Control::takes_signal`] first.
    pub fn handle_signal(&mut self, signal: Signal) -> bool {
        self.takes_signal() && self.signals.push_back(signal).is_ok()
    }

    /// Whether [`Control::handle_signal`] would be taken.
    pub fn takes_signal(&self) -> bool {
        self.can_send() && !self.signals.is_full()
    }

    /// What [`ControlEvent::ReportDue`] asked for.
    pub fn handle_report(&mut self, report: Report, entropy: &mut dyn Entropy, now: Instant) {
        self.heartbeats.handle_report(report, now, entropy);
        self.requests.open(Ask::Heartbeat, entropy);
    }

    /// Whether the next record holds a heartbeat, and the coordinator knows what a
    /// day's bytes are.
    pub fn wants_usage(&self, now: Instant) -> bool {
        let is_due = self.requests.due(Ask::Heartbeat, now).is_some();
        is_due && self.can_send() && self.heartbeats.tells_usage()
    }

    /// Something changed that people look at (a peer came up or went down): a
    /// heartbeat is due soon.
    pub fn handle_change(&mut self, now: Instant) {
        self.heartbeats.handle_change(now);
    }

    /// Storage holds the cache, committed up to `held`.
    pub fn handle_cache_stored(&mut self, held: Held) {
        self.commands.handle_stored();
        if held == self.map.held() && held.revision != Revision(0) {
            self.applied = Some(held);
        }
    }

    /// This device wants to leave its network for good.
    pub fn leave(&mut self, entropy: &mut dyn Entropy) {
        self.requests.open(Ask::Leave, entropy);
        self.line.hurry();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.now = now;
        if self.lease.expires_at().is_some_and(|at| at <= now) {
            self.drop_map(MapDropped::LeaseExpired);
        }
        if self.lease.reserve(now).is_some() {
            self.notify(Notice::CacheChanged);
        }
        self.work_on_keys(entropy);
        if !self.line.is_up() {
            return;
        }
        self.channel.handle_timeout(now);
        if !self.can_send() {
            return;
        }
        if self.has_map && self.lease.half_at().is_some_and(|at| at <= now) {
            self.requests.open(Ask::Ping, entropy);
        }
        self.work_on_relay_logins(entropy, now);
        if self.is_member() && self.heartbeats.poll_due(now) {
            self.notify(Notice::ReportDue);
        }
        if self.has_map {
            self.work_on_path_reports(now);
        }
        if self.requests.is_exhausted(now) || self.map.is_exhausted(now) {
            self.channel.handle_hint(now, entropy);
        }
    }

    /// The next instant at which something is due, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let mut next: Option<(Instant, Reason)> = None;
        let mut consider = |at: Option<Instant>, reason: &'static str| {
            if let Some(at) = at
                && next.is_none_or(|(earliest, _)| at < earliest)
            {
                next = Some((at, Reason::new(reason)));
            }
        };
        consider(self.line.retry_at(), "control: open the line");
        consider(self.lease.expires_at(), "control: the lease expires");
        consider(self.lease.reserve_at(), "control: write the lease ahead");
        let keys = self.has_key_work().then_some(Instant::ZERO);
        consider(keys, "control: make or report the next key");
        if self.line.is_up() {
            consider(self.channel.due_at(), "control: handshake");
        }
        if self.can_send() {
            consider(self.requests.due_at(), "control: repeat a request");
            consider(self.map.ask_at(), "control: ask for the map");
            if self.is_member() {
                consider(self.heartbeats.due_at(), "control: heartbeat");
            }
            consider(self.relay_logins_due_at(), "control: ask for logins at relays");
            if self.has_map {
                consider(self.path_report_due_at(), "control: report paths");
            }
            // Where an answer renews nothing there is nothing to ask for.
            if self.has_map && !self.requests.is_open(Ask::Ping) {
                consider(self.lease.half_at(), "control: renew the lease");
            }
        }
        next
    }

    /// The identity, to be stored.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the line is opened with next.
    pub fn credentials(&self) -> Credentials {
        match &self.identity.membership {
            Membership::Enrolling(enrolment) => Credentials::enrolling(self.enrol_inbox, enrolment),
            Membership::Member(member) => Credentials::member(member),
        }
    }

    /// What the map says beside peers.
    pub const fn settings(&self) -> &MapSettings {
        &self.settings
    }

    /// The committed map.
    pub const fn held(&self) -> Held {
        self.map.held()
    }

    /// Whether a newer map is on its way.
    pub const fn is_pulling(&self) -> bool {
        self.map.is_pulling()
    }

    /// How the device stands, as last heard.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// The other machine that uses this device's identity, if the coordinator
    /// told of one.
    pub const fn other(&self) -> Option<Other> {
        self.other
    }

    /// Whether a session with the coordinator is up.
    pub fn is_online(&self) -> bool {
        self.can_send()
    }

    /// When the coordinator was last heard, authenticated.
    pub const fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Round trip to the coordinator as the last handshake measured it, in
    /// milliseconds; 0 = not measured.
    pub const fn rtt_ms(&self) -> u16 {
        self.rtt_ms
    }

    /// What is left of the lease; `None` without a map.
    pub fn lease_remaining(&self, now: Instant) -> Option<Duration> {
        self.lease.remaining(now)
    }

    /// The coordinator's Unix time in milliseconds, carried on by the caller's
    /// clock; `None` before the first session.
    pub fn unix_ms(&self, now: Instant) -> Option<u64> {
        let (at, unix_ms) = self.clock?;
        let passed = (now - at).as_millis();
        Some(unix_ms.saturating_add(passed))
    }

    /// What went by without effect.
    pub const fn counters(&self) -> &ControlCounters {
        &self.counters
    }

    /// Whether the device was taken in: before, it asks for that and nothing
    /// else.
    const fn is_member(&self) -> bool {
        self.identity.member().is_some()
    }

    /// Whether records can be sent: the line is up and a handshake was done
    /// over it.
    fn can_send(&self) -> bool {
        self.line.is_up() && self.online && self.channel.replica().is_some()
    }

    fn notify(&mut self, notice: Notice) {
        // Bounded by what one input can cause; an owner that does not drain
        // loses the newest.
        let _ = self.notices.push_back(notice);
    }

    fn drop_map(&mut self, why: MapDropped) {
        self.map.set_held(Held::NOTHING);
        self.settings.forget_peers();
        self.forget_relay_logins();
        self.lease.stop();
        self.applied = None;
        self.notify(Notice::MapDropped(why));
        self.notify(Notice::CacheChanged);
    }
}
