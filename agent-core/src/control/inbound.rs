//! From a frame to events: authenticate, then read item after item as the owner
//! asks for events.

use weft_wire::id::{DeviceId, Revision};
use weft_wire::item::{
    Command, Done, Duplicate, Item, ItemError, Items, Leave, Lost, NewInbox, Ping, RawItem,
    Refused, Registered, Stamps, Standing, State, Unsupported, WelcomeInfo,
};
use weft_wire::map::{
    DataBudget, KeyReport, Lease as LeaseOp, MapReady, OwnKeys, Page, PeerKey, PeerRemove,
    PeerUpsert, Rules, SecondKey, Servers, Settings,
};
use weft_wire::network::Netcheck;
use weft_wire::path::PathReport;
use weft_wire::relay::{RelayAsk, RelayGrant, RelayNames, Relays};
use weft_wire::signal::{Call, CallAck, CallFailed, Go};
use weft_wire::telemetry::{DataUsage, Heartbeat};
use weft_wire::verdict::Refusal;
use zeroize::Zeroize as _;

use super::cache::{CacheHead, copy_rules, copy_servers, copy_settings};
use super::identity::{Member, Membership};
use super::map::{Held, Verdict};
use super::relays::copy_relays;
use super::request::Ask;
use super::{Control, ControlEvent, FrameDrop, MapDropped, Other};
use crate::entropy::Entropy;
use crate::time::Instant;

/// An event without a body that comes from the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Online(Option<u64>),
    Offline,
    IdentityChanged,
    OwnKeys,
    CacheChanged,
    CacheAged,
    SnapshotBegin,
    NoRules,
    NoServers,
    NoRelays,
    NoBudget,
    RelayLogins,
    SnapshotEnd,
    Committed(Held),
    Forgotten,
    MapDropped(MapDropped),
    /// A device that was none is a member now.
    Admitted,
    ReportDue,
    PathsDue,
    PathsTold,
    Left,
}

impl From<Notice> for ControlEvent {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::Online(unix_ms) => Self::Online(unix_ms),
            Notice::Offline => Self::Offline,
            Notice::IdentityChanged => Self::IdentityChanged,
            Notice::OwnKeys => Self::OwnKeys,
            Notice::CacheChanged => Self::CacheChanged,
            Notice::CacheAged => Self::CacheAged,
            Notice::SnapshotBegin => Self::SnapshotBegin,
            Notice::NoRules => Self::Rules(Rules { rules: heapless::Vec::new() }),
            Notice::NoServers => Self::Servers(Servers { stun: heapless::Vec::new() }),
            Notice::NoRelays => Self::Relays(Relays { relays: heapless::Vec::new() }),
            Notice::NoBudget => Self::DataBudget(None),
            Notice::RelayLogins => Self::RelayLogins,
            Notice::SnapshotEnd => Self::SnapshotEnd,
            Notice::Committed(held) => Self::Committed(held),
            Notice::Forgotten => Self::Forgotten,
            Notice::MapDropped(why) => Self::MapDropped(why),
            Notice::Admitted => Self::Standing(State {
                standing: Standing::Active,
                since_ms: 0,
                reason: heapless::String::new(),
            }),
            Notice::ReportDue => Self::ReportDue,
            Notice::PathsDue => Self::PathsDue,
            Notice::PathsTold => Self::PathsTold,
            Notice::Left => Self::Left,
        }
    }
}

/// A change of the map.
#[expect(clippy::large_enum_variant, reason = "one is handed over at a time and none is kept")]
enum Op {
    Upsert(PeerUpsert),
    Remove(DeviceId),
    PeerKey(DeviceId, Option<SecondKey>),
    Rules(Rules),
    Servers(Servers),
    Relays(Relays),
    Settings(Settings),
    Lease(u32),
    OwnKeys(OwnKeys),
    DataBudget(Option<u64>),
    RelayNames(RelayNames),
    Unknown,
}

impl Op {
    fn decode(raw: &RawItem<'_>) -> Result<Self, ItemError> {
        Ok(match raw.tag {
            PeerUpsert::TAG => Self::Upsert(raw.decode()?),
            PeerRemove::TAG => Self::Remove(raw.decode::<PeerRemove>()?.device),
            PeerKey::TAG => {
                let PeerKey { device, second } = raw.decode()?;
                Self::PeerKey(device, second)
            }
            Rules::TAG => Self::Rules(raw.decode()?),
            Servers::TAG => Self::Servers(raw.decode()?),
            Relays::TAG => Self::Relays(raw.decode()?),
            Settings::TAG => Self::Settings(raw.decode()?),
            LeaseOp::TAG => Self::Lease(raw.decode::<LeaseOp>()?.lease_s),
            OwnKeys::TAG => Self::OwnKeys(raw.decode()?),
            DataBudget::TAG => Self::DataBudget(raw.decode::<DataBudget>()?.bytes),
            RelayNames::TAG => Self::RelayNames(raw.decode()?),
            _ => Self::Unknown,
        })
    }
}

/// Anything else from the coordinator.
#[expect(clippy::large_enum_variant, reason = "one is handed over at a time and none is kept")]
enum Message {
    Registered(Registered),
    Refused(Refused),
    State(State),
    Duplicate(Duplicate),
    Stamps(Stamps),
    Lost,
    Command(Command),
    Netcheck(Netcheck),
    Ping(Ping),
    Done(Done),
    Unsupported(u32),
    MapReady(MapReady),
    Page(Page),
    Call(Call),
    CallAck(CallAck),
    Go(Go),
    CallFailed(CallFailed),
    RelayGrant(RelayGrant),
    /// Outside a page: a caller is introduced to a device that holds its peers
    /// on demand.
    Peer(PeerUpsert),
    Unknown(u32),
}

impl Message {
    /// For a page also the number of bytes of its ops.
    fn decode(raw: &RawItem<'_>) -> Result<(Self, usize), ItemError> {
        if raw.tag == Page::TAG {
            let (page, ops) = raw.decode_nested()?;
            return Ok((Self::Page(page), ops.rest().len()));
        }
        let message = match raw.tag {
            Registered::TAG => Self::Registered(raw.decode()?),
            Refused::TAG => Self::Refused(raw.decode()?),
            State::TAG => Self::State(raw.decode()?),
            Duplicate::TAG => Self::Duplicate(raw.decode()?),
            Stamps::TAG => Self::Stamps(raw.decode()?),
            Lost::TAG => raw.decode::<Lost>().map(|_| Self::Lost)?,
            Command::TAG => Self::Command(raw.decode()?),
            Netcheck::TAG => Self::Netcheck(raw.decode()?),
            Ping::TAG => Self::Ping(raw.decode()?),
            Done::TAG => Self::Done(raw.decode()?),
            Unsupported::TAG => Self::Unsupported(raw.decode::<Unsupported>()?.tag),
            MapReady::TAG => Self::MapReady(raw.decode()?),
            Call::TAG => Self::Call(raw.decode()?),
            CallAck::TAG => Self::CallAck(raw.decode()?),
            Go::TAG => Self::Go(raw.decode()?),
            CallFailed::TAG => Self::CallFailed(raw.decode()?),
            RelayGrant::TAG => Self::RelayGrant(raw.decode()?),
            PeerUpsert::TAG => Self::Peer(raw.decode()?),
            tag => Self::Unknown(tag),
        };
        Ok((message, 0))
    }
}

/// A record's plain text, and how far it was read.
pub(super) struct Inbound<const FRAME: usize> {
    plain: [u8; FRAME],
    at: usize,
    end: usize,
    /// Bytes of plain text in the buffer, read or not.
    opened: usize,
    /// The page that is being read, and where its ops end.
    page: Option<(Page, usize)>,
}

impl<const FRAME: usize> Inbound<FRAME> {
    pub(super) const fn new() -> Self {
        Self { plain: [0; FRAME], at: 0, end: 0, opened: 0, page: None }
    }

    /// Begins with the first `len` bytes of the buffer; what was not read of
    /// the record before is lost.
    const fn begin(&mut self, len: usize) {
        self.at = 0;
        self.end = len;
        self.opened = len;
        self.page = None;
    }

    pub(super) fn clear(&mut self) {
        self.plain[..self.opened].zeroize();
        self.begin(0);
    }

    /// Decodes the next item before `end`; goes behind it, or (for a page) to
    /// its first op.
    fn next<T>(
        &mut self,
        end: usize,
        decode: impl FnOnce(&RawItem<'_>) -> Result<(T, usize), ItemError>,
    ) -> Option<Result<(T, usize), ItemError>> {
        let mut items = Items::new(self.plain.get(self.at..end)?);
        let decoded = items.next()?.and_then(|raw| decode(&raw));
        let behind = end - items.rest().len();
        let nested = decoded.as_ref().map_or(0, |(_, nested)| *nested);
        self.at = behind - nested;
        Some(decoded.map(|(value, _)| (value, behind)))
    }
}

impl<const FRAME: usize> Control<FRAME> {
    pub(super) fn handle_welcome(
        &mut self,
        frame: &[u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), FrameDrop> {
        let welcomed = self.channel.handle_welcome(frame, &mut self.inbound.plain)?;
        // Nothing in it is left for `poll_event`.
        self.inbound.begin(welcomed.len);
        self.inbound.at = welcomed.len;
        let info = Items::new(self.opened())
            .filter_map(Result::ok)
            .find(|raw| raw.tag == WelcomeInfo::TAG)
            .and_then(|raw| raw.decode::<WelcomeInfo>().ok())
            .filter(|info| info.wire == weft_wire::PROTOCOL)
            .ok_or(FrameDrop::Malformed)?;
        let next_pin = welcomed.next_pin;
        let rtt = (now - welcomed.sent_at).as_millis();
        self.rtt_ms = u16::try_from(rtt).unwrap_or(u16::MAX);
        self.channel.establish(welcomed, info.session, info.replica, now, entropy);
        if next_pin {
            self.take_next_pin();
        }
        self.counters.handshakes = self.counters.handshakes.saturating_add(1);
        self.clock = (info.time_ms > 0).then_some((now, info.time_ms));
        self.online = true;
        self.line.handle_welcome(info.reconnect_min_s, info.reconnect_max_s, now);
        // There is one for members only.
        self.has_map = info.revision != Revision(0);
        self.handle_heard(now);
        self.restart_path_reports();
        self.requests.restart();
        self.judge_relay_logins(now);
        self.take_credentials(&info);
        if self.is_member() {
            self.map.handle_session(Held { epoch: info.epoch, revision: info.revision });
            self.handle_revision(info.revision);
            self.heartbeats.handle_session(info.heartbeat_s);
            // The first record confirms the session: have something to send
            // even when there is nothing to say.
            self.requests.open(Ask::Ping, entropy);
        }
        self.notify(Notice::Online(self.clock.map(|(_, unix_ms)| unix_ms)));
        Ok(())
    }

    /// There is a map for members only. Whoever became one while the line was
    /// down learns it by that: nobody says it again.
    fn handle_revision(&mut self, newest: Revision) {
        if self.standing != Standing::Active && newest != Revision(0) {
            self.standing = Standing::Active;
            self.other = None;
            self.notify(Notice::Admitted);
        }
    }

    pub(super) fn handle_record(&mut self, frame: &[u8], now: Instant) -> Result<(), FrameDrop> {
        let opened = self.channel.handle_record(frame, &mut self.inbound.plain, now)?;
        self.inbound.begin(opened.len);
        self.handle_heard(now);
        Ok(())
    }

    /// What the last frame held, until the next event is polled; empty unless it
    /// was authentic.
    pub fn opened(&self) -> &[u8] {
        self.inbound.plain.get(..self.inbound.opened).unwrap_or_default()
    }

    /// The next event. Ask until `None`.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<ControlEvent> {
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Some(notice.into());
            }
            if self.commands.poll_restart() {
                return Some(ControlEvent::Restart);
            }
            if self.looks.poll_begin() {
                return Some(ControlEvent::Netcheck);
            }
            let event = match self.inbound.page.take() {
                Some((page, end)) => self.read_op(page, end),
                None => self.read_message()?,
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// Takes back one item of the cache, as if it came in a page.
    ///
    /// # Errors
    ///
    /// [`ItemError`] when it does not decode.
    pub fn restore(
        &mut self,
        raw: &RawItem<'_>,
        now: Instant,
    ) -> Result<Option<ControlEvent>, ItemError> {
        if raw.tag == CacheHead::TAG {
            let head: CacheHead = raw.decode()?;
            self.map.set_held(Held { epoch: head.epoch, revision: head.revision });
            self.lease.restore(head.lease_used_s, now);
            self.commands.restore(head.done);
            return Ok(None);
        }
        if raw.tag == RelayGrant::TAG {
            self.restore_relay_logins(raw.decode()?);
            return Ok(None);
        }
        let mut op = Op::decode(raw)?;
        // The identity may be older than the cache, when only the latter could be
        // stored: a change of the coordinator's key that is over for the cache
        // must not take the key away from an identity that has yet to follow.
        if let (Op::Settings(settings), Some(next)) = (&mut op, self.identity.next_coordinator) {
            settings.next_pin = Some(next);
        }
        Ok(self.apply(op))
    }

    /// Who is no member may still hold the map of the database's life before: its
    /// lease goes on and ends.
    fn handle_heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
        if self.has_map {
            self.lease.renew(now);
        }
    }

    /// The outer `None`: nothing is left.
    fn read_message(&mut self) -> Option<Option<ControlEvent>> {
        let Some(decoded) = self.inbound.next(self.inbound.end, Message::decode) else {
            self.inbound.clear();
            return None;
        };
        Some(match decoded {
            Ok((Message::Page(page), end)) => {
                self.begin_page(page, end);
                None
            }
            Ok((message, _)) => self.handle_message(message),
            Err(_) => {
                self.counters.bad_items = self.counters.bad_items.saturating_add(1);
                None
            }
        })
    }

    fn begin_page(&mut self, page: Page, end: usize) {
        match self.map.handle_page(&page) {
            Verdict::Ignore => {
                self.counters.stale_pages = self.counters.stale_pages.saturating_add(1);
                self.inbound.at = end;
                return;
            }
            Verdict::First(true) => {
                self.snapshot = Snapshot { active: true, ..Snapshot::default() };
                self.notify(Notice::SnapshotBegin);
            }
            Verdict::First(false) => self.snapshot = Snapshot::default(),
            Verdict::Continue => {}
        }
        self.inbound.page = Some((page, end));
    }

    fn read_op(&mut self, page: Page, end: usize) -> Option<ControlEvent> {
        let decode = |raw: &RawItem<'_>| Op::decode(raw).map(|op| (op, 0));
        match self.inbound.next(end, decode) {
            None => {
                self.inbound.at = end;
                self.end_page(&page);
                None
            }
            Some(Ok((op, _))) => {
                self.inbound.page = Some((page, end));
                self.apply(op)
            }
            Some(Err(_)) => {
                // The page does not count as applied and is asked for again.
                self.counters.bad_items = self.counters.bad_items.saturating_add(1);
                self.inbound.at = end;
                None
            }
        }
    }

    fn end_page(&mut self, page: &Page) {
        let before = self.map.held();
        let Some(held) = self.map.handle_applied(page, self.now) else {
            return;
        };
        let snapshot = core::mem::take(&mut self.snapshot);
        if snapshot.active {
            if !snapshot.rules {
                self.settings.set_rules(&Rules { rules: heapless::Vec::new() });
                self.notify(Notice::NoRules);
            }
            if !snapshot.servers {
                self.settings.set_servers(&Servers { stun: heapless::Vec::new() });
                self.notify(Notice::NoServers);
            }
            if !snapshot.relays {
                self.set_relays(&Relays { relays: heapless::Vec::new() });
                self.notify(Notice::NoRelays);
            }
            if !snapshot.budget {
                self.settings.set_budget(DataBudget { bytes: None });
                self.notify(Notice::NoBudget);
            }
            self.notify(Notice::SnapshotEnd);
        }
        self.notify(Notice::Committed(held));
        if core::mem::take(&mut self.forgotten) {
            self.notify(Notice::Forgotten);
        }
        if held != before {
            self.notify(Notice::CacheChanged);
        }
        self.heartbeats.handle_change(self.now);
    }

    fn apply(&mut self, op: Op) -> Option<ControlEvent> {
        Some(match op {
            Op::Upsert(peer) => ControlEvent::Upsert(peer),
            Op::Remove(device) => ControlEvent::Remove(device),
            Op::PeerKey(device, second) => ControlEvent::PeerKey(device, second),
            Op::Rules(rules) => {
                self.snapshot.rules = true;
                self.settings.set_rules(&rules);
                ControlEvent::Rules(copy_rules(&rules))
            }
            Op::Servers(servers) => {
                self.snapshot.servers = true;
                self.settings.set_servers(&servers);
                ControlEvent::Servers(copy_servers(&servers))
            }
            Op::Relays(relays) => {
                self.snapshot.relays = true;
                self.set_relays(&relays);
                ControlEvent::Relays(copy_relays(&relays))
            }
            Op::Settings(settings) => {
                self.set_next_pin(settings.next_pin);
                self.settings.set_settings(&settings);
                ControlEvent::Settings(copy_settings(&settings))
            }
            Op::Lease(lease_s) => {
                self.lease.set_length(lease_s);
                self.settings.set_lease(lease_s);
                return None;
            }
            Op::OwnKeys(told) => {
                self.apply_own_keys(&told);
                self.settings.set_own_keys(told);
                return None;
            }
            Op::DataBudget(bytes) => {
                self.snapshot.budget = true;
                self.settings.set_budget(DataBudget { bytes });
                ControlEvent::DataBudget(bytes)
            }
            Op::RelayNames(names) => ControlEvent::RelayNames(names),
            Op::Unknown => {
                self.counters.unknown_items = self.counters.unknown_items.saturating_add(1);
                return None;
            }
        })
    }

    fn handle_message(&mut self, message: Message) -> Option<ControlEvent> {
        match message {
            Message::Registered(answer) => return self.handle_registered(answer),
            Message::Refused(refused) => return self.handle_refused(refused),
            Message::State(state) => return Some(self.handle_state(state)),
            Message::Duplicate(other) => return self.handle_duplicate(other),
            Message::Stamps(stamps) => return Some(ControlEvent::Stamps(stamps.ahead_s)),
            Message::Call(call) => return Some(ControlEvent::Call(call)),
            Message::CallAck(ack) => return Some(ControlEvent::CallAck(ack)),
            Message::Go(go) => return Some(ControlEvent::Go(go)),
            Message::CallFailed(failed) => return Some(ControlEvent::CallFailed(failed)),
            Message::Peer(peer) => return Some(ControlEvent::Upsert(peer)),
            Message::RelayGrant(grant) => self.handle_relay_grant(grant),
            Message::Ping(ping) => self.handle_done(ping.request),
            Message::Done(done) => self.handle_done(done.request),
            Message::Command(command) => {
                if self.commands.handle(&command, self.unix_ms(self.now)) {
                    self.notify(Notice::CacheChanged);
                }
            }
            Message::Netcheck(asked) => self.looks.handle(&asked, self.unix_ms(self.now)),
            Message::Lost => self.lost = self.is_member(),
            Message::MapReady(ready) => {
                let newest = Held { epoch: ready.epoch, revision: ready.revision };
                if self.standing == Standing::Active && !self.map.handle_ready(newest) {
                    self.counters.stale_pages = self.counters.stale_pages.saturating_add(1);
                }
            }
            Message::Unsupported(tag) => self.handle_unsupported(tag),
            // Read where its ops are.
            Message::Page(_) => {}
            Message::Unknown(tag) => {
                self.counters.unknown_items = self.counters.unknown_items.saturating_add(1);
                if !self.unsupported.contains(&tag) {
                    // Full: the coordinator hears of the others next time.
                    let _ = self.unsupported.push(tag);
                }
            }
        }
        None
    }

    fn handle_done(&mut self, request: u32) {
        match self.requests.close(request) {
            Some(Ask::Heartbeat) => self.heartbeats.handle_done(),
            Some(Ask::Leave) => {
                self.line.end();
                self.channel.clear();
                self.notify(Notice::Left);
            }
            Some(Ask::Key) => self.end_key_report(),
            Some(Ask::Paths) => self.notify(Notice::PathsTold),
            Some(Ask::Register | Ask::Ping | Ask::Relays) | None => {}
        }
    }

    /// An older coordinator does not know a request: asking on is of no use.
    fn handle_unsupported(&mut self, tag: u32) {
        self.counters.unsupported = self.counters.unsupported.saturating_add(1);
        match tag {
            Heartbeat::TAG => {
                self.requests.abandon(Ask::Heartbeat);
                self.heartbeats.handle_done();
            }
            Ping::TAG => self.requests.abandon(Ask::Ping),
            Leave::TAG => self.requests.abandon(Ask::Leave),
            KeyReport::TAG => {
                self.requests.abandon(Ask::Key);
                self.end_key_report();
            }
            RelayAsk::TAG => self.handle_relays_unsupported(),
            PathReport::TAG => self.handle_paths_unwanted(),
            DataUsage::TAG => self.heartbeats.handle_usage_unknown(),
            _ => {}
        }
    }

    fn handle_registered(&mut self, answer: Registered) -> Option<ControlEvent> {
        if self.requests.close(answer.request) != Some(Ask::Register) {
            return None;
        }
        self.identity.membership = Membership::Member(Member {
            device: answer.device,
            network: answer.network,
            organisation: answer.organisation,
            name: answer.name.clone(),
            network_name: answer.network_name.clone(),
            inbox: answer.inbox,
            password: answer.password.duplicate(),
            password_expiry: answer.password_expiry,
            psk: answer.psk.duplicate(),
            master: answer.master,
        });
        self.standing = answer.standing;
        self.forgotten |= core::mem::take(&mut self.lost);
        self.channel.clear();
        self.online = false;
        self.line.restart();
        self.identity_changed();
        Some(ControlEvent::Registered(answer))
    }

    fn handle_refused(&mut self, refused: Refused) -> Option<ControlEvent> {
        let ask = self.requests.kind(refused.request)?;
        if refused.code == Refusal::Unavailable as u16 {
            self.requests.postpone(ask, self.now);
        } else {
            self.requests.abandon(ask);
            match ask {
                // Its map holds until its lease ends, and an operator may think
                // otherwise by then.
                Ask::Register if self.is_member() => {
                    self.lost = false;
                    self.line.rest();
                }
                Ask::Register => self.line.end(),
                Ask::Heartbeat => self.heartbeats.handle_done(),
                Ask::Key => self.end_key_report(),
                Ask::Relays => self.handle_relays_refused(),
                Ask::Paths => self.handle_paths_unwanted(),
                Ask::Leave | Ask::Ping => {}
            }
        }
        (ask == Ask::Register).then_some(ControlEvent::Refused(refused))
    }

    fn handle_state(&mut self, state: State) -> ControlEvent {
        let before = core::mem::replace(&mut self.standing, state.standing);
        self.has_map = state.standing == Standing::Active;
        match state.standing {
            Standing::Active => {
                self.other = None;
                if before != Standing::Active {
                    self.map.ask_anew();
                }
            }
            Standing::Pending => self.map.stop(),
            standing => {
                if self.map.held() != Held::NOTHING || before != standing {
                    self.drop_map(MapDropped::Standing(standing));
                }
                self.map.stop();
                // It may always leave: that is answered in the same breath.
                let out = matches!(standing, Standing::Blocked | Standing::Rejected);
                if out && !self.requests.is_open(Ask::Leave) {
                    self.line.rest();
                }
            }
        }
        ControlEvent::Standing(state)
    }

    /// The one of the two that is kept leaves the inbox that both know: the line
    /// is opened anew with what only this one was told. What was said before, in
    /// an earlier session, is no news.
    fn handle_duplicate(&mut self, mut other: Duplicate) -> Option<ControlEvent> {
        let said = Some(Other { address: other.address, heard_ms: other.heard_ms });
        if core::mem::replace(&mut self.other, said) == said && other.moved.is_none() {
            return None;
        }
        if let (Some(NewInbox { inbox, password, password_expiry }), Membership::Member(member)) =
            (other.moved.take(), &mut self.identity.membership)
        {
            member.inbox = inbox;
            member.password = password;
            member.password_expiry = password_expiry;
            self.notify(Notice::IdentityChanged);
            self.line.restart();
        }
        Some(ControlEvent::Duplicate(other))
    }

    /// WELCOME renews the credentials for the next connection.
    fn take_credentials(&mut self, info: &WelcomeInfo) {
        let Membership::Member(member) = &mut self.identity.membership else {
            return;
        };
        let same = member.inbox == info.inbox && member.password_expiry == info.password_expiry;
        if !same {
            member.inbox = info.inbox;
            member.password = info.password.duplicate();
            member.password_expiry = info.password_expiry;
            self.identity_changed();
        }
    }

    fn take_next_pin(&mut self) {
        if let Some(next) = self.identity.next_coordinator.take() {
            self.identity.coordinator = next;
            self.identity_changed();
        }
    }

    fn set_next_pin(&mut self, announced: Option<weft_wire::id::PublicKey>) {
        let next = announced.filter(|next| *next != self.identity.coordinator);
        if next != self.identity.next_coordinator {
            self.identity.next_coordinator = next;
            self.channel.set_next_pin(&self.identity.identity_key, next.as_ref());
            self.identity_changed();
        }
    }
}

/// What a snapshot has named so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Snapshot {
    active: bool,
    rules: bool,
    servers: bool,
    relays: bool,
    budget: bool,
}
