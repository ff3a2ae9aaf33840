//! One simulated device: the agent's own control session, driven as the daemon
//! drives it, with memory in place of a disk and no tunnel.
//!
//! Chips and gateways differ in the longest frame that they take; a gateway's
//! map has as many peers as its site, so it pulls several pages.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Duration, Instant};
use weft_agent_core::control::{
    CacheHead, Control, ControlConfig, ControlEvent, Credentials, Identity, LineRequest,
    Membership, Report, Reports,
};
use weft_noise::key::StaticSecret;
use weft_wire::frame::{self, FrameKind, MAX_FRAME_CHIP};
use weft_wire::id::{DeviceId, Name, Revision};
use weft_wire::item::{Abilities, Backend, Item as _, ItemWriter, Items, RawItem, WelcomeInfo};
use weft_wire::join::JoinString;
use weft_wire::map::{MapReady, Page};
use weft_wire::verdict::Refusal;

use crate::board::{Board, Order, Orders, Word};
use crate::clock;
use crate::crash::history::{Ask, History, Ticket, Told};
use crate::entropy::Kernel;
use crate::line::{self, Storage};

/// Devices that enrol at once: the coordinator admits 64 of one key.
const ENROLLING: usize = 60;
/// Seconds between MQTT pings, as of real devices.
const KEEPALIVE_S: u16 = 300;
/// Bytes that hold an identity, or the control session's part of the cache.
const STORED_LEN: usize = 1_400;
/// How late an attempt may be seen, when everything runs at once.
const LATE: Duration = Duration::from_secs(1);

/// What all devices share.
pub(crate) struct World {
    pub(crate) board: Board,
    pub(crate) address: SocketAddr,
    keepalive_s: u16,
    enrolling: Semaphore,
    /// What devices ask and hear; those that are recorded end with their answer.
    history: Option<RefCell<History>>,
}

impl World {
    pub(crate) fn new(devices: usize, address: SocketAddr, keepalive_s: u16) -> Self {
        let enrolling = Semaphore::new(ENROLLING);
        Self { board: Board::new(devices), address, keepalive_s, enrolling, history: None }
    }

    /// One whose devices are recorded; so many may enrol at once.
    pub(crate) fn recorded(devices: usize, address: SocketAddr, enrolling: usize) -> Self {
        let (enrolling, history) = (Semaphore::new(enrolling), Some(RefCell::default()));
        let (board, keepalive_s) = (Board::new(devices), KEEPALIVE_S);
        Self { board, address, keepalive_s, enrolling, history }
    }

    /// The record of a world that has one.
    pub(crate) fn history(&self) -> RefMut<'_, History> {
        let history = self.history.as_ref();
        history.unwrap_or_else(|| unreachable!("this world is recorded")).borrow_mut()
    }
}

/// How one connection ended.
enum Ended {
    /// As the control session asked.
    Closed,
    /// By a phase's order.
    Cut,
    /// This agent starts anew.
    Restarted,
    /// Otherwise.
    Lost(String),
}

/// The longest reconnect after a loss, as WELCOME named it.
#[derive(Clone, Copy)]
struct Window {
    min: Duration,
    max: Duration,
}

pub(crate) struct Device<const FRAME: usize> {
    place: usize,
    world: Rc<World>,
    orders: Rc<Orders>,
    control: Box<Control<FRAME>>,
    boots: u32,
    peers: BTreeSet<DeviceId>,
    /// Peers of the snapshot that is coming.
    snapshot: Option<BTreeSet<DeviceId>>,
    began: Instant,
    /// When the line was asked for.
    connect_at: Instant,
    /// When the WELCOME of the session came.
    welcome_at: Option<Instant>,
    lost_at: Option<Instant>,
    window: Option<Window>,
    /// It has to start anew.
    restart: bool,
    /// It has nothing to say any more.
    over: bool,
    /// Its attempt to be taken in, where that is recorded.
    attempt: Option<Ticket>,
}

impl<const FRAME: usize> Device<FRAME> {
    /// A new device that will enrol.
    pub(crate) fn new(place: usize, world: Rc<World>, join: &JoinString) -> Self {
        let identity = Identity::generate(join, &mut Kernel);
        let orders = Rc::clone(&world.board.known().seats[place].orders);
        let now = clock::now();
        Self {
            place,
            world,
            orders,
            control: control(identity, place, 1),
            boots: 1,
            peers: BTreeSet::new(),
            snapshot: None,
            began: now,
            connect_at: now,
            welcome_at: None,
            lost_at: None,
            window: None,
            restart: false,
            over: false,
            attempt: None,
        }
    }

    /// Runs until it has left, or was refused.
    pub(crate) async fn run(mut self) {
        let world = Rc::clone(&self.world);
        let mut permit: Option<SemaphorePermit<'_>> = None;
        while !self.over {
            if self.control.identity().member().is_none() && permit.is_none() {
                permit = world.enrolling.acquire().await.ok();
                self.began = clock::now();
            }
            match self.control.poll_line(clock::core_now()) {
                Some(LineRequest::Connect(credentials)) => {
                    self.handle_attempt();
                    let ended = self.connected(credentials).await;
                    self.handle_ended(ended);
                }
                Some(LineRequest::Disconnect) => self.disconnected(),
                None => self.wait().await,
            }
            if self.control.identity().member().is_some() {
                permit = None;
            }
            self.drain();
        }
        world.board.change().seats[self.place].over = true;
    }

    /// The line is to be opened: was it inside the window?
    fn handle_attempt(&mut self) {
        self.connect_at = clock::now();
        if let (Some(lost_at), Some(window)) = (self.lost_at, self.window.take()) {
            let paused = self.connect_at - lost_at;
            let mut known = self.world.board.change();
            known.figures.pause.add(paused);
            let inside = (window.min..=window.max + LATE).contains(&paused);
            known.figures.outside += usize::from(!inside);
        }
    }

    fn handle_ended(&mut self, ended: Ended) {
        self.world.board.change().set_confirmed(self.place, false);
        self.welcome_at = None;
        match ended {
            Ended::Closed => {}
            // The coordinator ends the line of a device that has left.
            Ended::Lost(_) if self.over => {}
            Ended::Cut => self.lost_at = Some(clock::now()),
            Ended::Lost(words) => {
                self.lost_at.get_or_insert_with(clock::now);
                *self.world.board.change().figures.lost.entry(words).or_default() += 1;
            }
            Ended::Restarted => return self.start_anew(),
        }
        self.disconnected();
    }

    fn disconnected(&mut self) {
        self.control.handle_disconnected(&mut Kernel, clock::core_now());
    }

    /// Until a deadline or an order, without a line.
    async fn wait(&mut self) {
        let deadline = self.deadline();
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {
                self.control.handle_timeout(&mut Kernel, clock::core_now());
            }
            order = self.orders.next() => self.handle_order(order),
        }
    }

    fn deadline(&self) -> Instant {
        let due = self.control.poll_timeout();
        clock::at(due.map_or(u64::MAX, |(at, _)| at.as_micros()))
    }

    fn handle_order(&mut self, order: Order) {
        match order {
            // There is no line.
            Order::Cut => {}
            Order::Report => self.control.handle_change(clock::core_now()),
            Order::Leave => self.control.leave(&mut Kernel),
            Order::Reboot => self.start_anew(),
        }
    }

    /// One connection, from TCP to its end.
    async fn connected(&mut self, credentials: Credentials) -> Ended {
        let mut storage = Box::new(Storage::new(credentials, FRAME, self.world.keepalive_s));
        let (mut session, inbox) = match storage.session() {
            Ok(made) => made,
            Err(words) => return Ended::Lost(words),
        };
        let mut line = match line::open(&mut session, inbox, self.world.address).await {
            Ok(line) => line,
            Err(words) => return Ended::Lost(words),
        };
        self.control.handle_connected(&mut Kernel, clock::core_now());
        self.record_attempt();
        let ended = loop {
            self.drain();
            if self.restart {
                break Ended::Restarted;
            }
            // Asked for, it is to be closed, whatever it was asked for.
            if self.control.poll_line(clock::core_now()).is_some() {
                break Ended::Closed;
            }
            if let Err(words) = self.send(&mut line).await {
                break Ended::Lost(words);
            }
            // What was sent may have made events: a restart, once it was told.
            self.drain();
            if self.restart {
                break Ended::Restarted;
            }
            let deadline = self.deadline();
            tokio::select! {
                message = crate::driver::timed(line.recv()) => match message {
                    Ok(message) if message.topic() == inbox.as_str() => {
                        self.handle_frame(message.payload());
                    }
                    Ok(_) => break Ended::Lost("a foreign topic".to_owned()),
                    Err(error) => break Ended::Lost(line::words(&error)),
                },
                () = tokio::time::sleep_until(deadline) => {
                    self.control.handle_timeout(&mut Kernel, clock::core_now());
                }
                order = self.orders.next() => match order {
                    Order::Cut => return Ended::Cut,
                    // Without a goodbye.
                    Order::Reboot => return Ended::Restarted,
                    order => self.handle_order(order),
                },
            }
        };
        if matches!(ended, Ended::Closed | Ended::Restarted) {
            line::close(line).await;
        }
        ended
    }

    async fn send(&mut self, line: &mut line::Up<'_, '_>) -> Result<(), String> {
        let mut out = [0; MAX_FRAME_CHIP];
        loop {
            let now = clock::core_now();
            let Some(transmit) =
                self.control.poll_transmit(&mut out, &mut Reports::default(), &mut Kernel, now)
            else {
                return Ok(());
            };
            self.world.board.count(|figures| figures.frames_up += 1);
            line::publish(line, transmit.topic, out.get(..transmit.len).unwrap_or_default())
                .await?;
        }
    }

    fn handle_frame(&mut self, frame: &[u8]) {
        self.world.board.count(|figures| figures.frames_down += 1);
        let taken = self.control.handle_frame(frame, &mut Kernel, clock::core_now());
        if let Err(drop) = taken {
            let reason = format!("{drop:?}");
            *self.world.board.change().figures.dropped.entry(reason).or_default() += 1;
            return;
        }
        if tells_of_a_map(self.control.opened()) {
            self.world.board.count(|figures| figures.map_frames_down += 1);
        }
        if let Some(welcome) = welcome(self.control.opened()) {
            let seconds = |seconds: u16| Duration::from_secs(u64::from(seconds));
            let (min, max) = (welcome.reconnect_min_s, welcome.reconnect_max_s);
            self.window = Some(Window { min: seconds(min), max: seconds(max) });
            // Who holds the newest map has nothing to wait for.
            self.welcome_at = self.control.is_pulling().then(clock::now);
        }
        let member = self.control.identity().member().is_some();
        let record = frame::kind(frame).is_ok_and(|kind| kind == FrameKind::Record);
        if member && record && self.control.is_online() {
            self.handle_confirmed();
        }
    }

    /// The coordinator answered in the session: both ends hold it.
    fn handle_confirmed(&mut self) {
        let mut known = self.world.board.change();
        if known.seats[self.place].confirmed {
            return;
        }
        known.set_confirmed(self.place, true);
        let now = clock::now();
        known.figures.session.add(now - self.connect_at);
        if let Some(lost_at) = self.lost_at.take() {
            known.figures.back.add(now - lost_at);
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.control.poll_event() {
            self.handle_event(event);
        }
    }

    fn handle_event(&mut self, event: ControlEvent) {
        match event {
            // Memory is the storage.
            ControlEvent::IdentityChanged => {
                self.control.handle_identity_asked();
                self.control.handle_identity_stored();
            }
            ControlEvent::CacheChanged => {
                let held = self.control.held();
                self.control.handle_cache_stored(held);
            }
            ControlEvent::Registered(answer) => {
                let (device, host) = (answer.device, answer.host);
                self.record_answer(Told::Taken { device, host });
                let mut known = self.world.board.change();
                known.figures.enrolment.add(clock::now() - self.began);
                known.seats[self.place].device = Some(answer.device);
            }
            // It asks again.
            ControlEvent::Refused(refused) if refused.code == Refusal::Unavailable as u16 => {}
            ControlEvent::Refused(refused) => {
                self.record_answer(match Refusal::from_code(refused.code) {
                    Some(Refusal::KeyUsedUp) => Told::UsedUp,
                    Some(Refusal::KeyRevoked) => Told::Ended,
                    _ => Told::Refused(refused.code),
                });
                let mut known = self.world.board.change();
                *known.figures.refused.entry(refused.code).or_default() += 1;
                self.over = true;
            }
            ControlEvent::ReportDue => {
                let uptime_s = (clock::now() - self.began).as_secs();
                let uptime_s = u32::try_from(uptime_s).unwrap_or(u32::MAX);
                let report = Report { uptime_s, ..Report::default() };
                self.control.handle_report(report, &mut Kernel, clock::core_now());
            }
            ControlEvent::MapDropped(_) => self.peers.clear(),
            ControlEvent::Restart => {
                self.restart = true;
                if let Some(member) = self.control.identity().member() {
                    let word = Word::Restart(member.device);
                    self.world.board.change().heard(self.place, &word);
                }
            }
            // It has no sockets to look with.
            ControlEvent::Netcheck => self.control.handle_network_report(None),
            ControlEvent::Left => {
                self.over = true;
                let mut known = self.world.board.change();
                known.seats[self.place].left = true;
                known.seats[self.place].peers = None;
            }
            ControlEvent::Committed(_) => self.handle_committed(),
            event => self.handle_op(event),
        }
    }

    fn handle_op(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::SnapshotBegin => self.snapshot = Some(BTreeSet::new()),
            ControlEvent::SnapshotEnd => {
                self.peers = self.snapshot.take().unwrap_or_default();
            }
            ControlEvent::Upsert(peer) => {
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.insert(peer.device);
                }
                self.peers.insert(peer.device);
                self.hear(|| Word::Named(peer.name.to_string()));
            }
            ControlEvent::Remove(device) => {
                self.peers.remove(&device);
                self.hear(|| Word::Gone(device));
            }
            ControlEvent::Settings(settings) => {
                self.hear(|| Word::Named(settings.name.to_string()));
            }
            ControlEvent::Rules(rules) => {
                for rule in &rules.rules {
                    self.hear(|| Word::Port(rule.first_port));
                }
            }
            _ => {}
        }
    }

    /// The line is up, and the next that it carries is the wish to be taken in.
    fn record_attempt(&mut self) {
        let identity = self.control.identity();
        if let (Some(_), Membership::Enrolling(enrolment)) =
            (&self.world.history, &identity.membership)
        {
            let key = enrolment.key;
            let identity = StaticSecret::from_bytes(identity.identity_key.0).public();
            self.attempt = Some(self.world.history().begin(Ask::Enrol { identity, key }));
        }
    }

    fn record_answer(&mut self, told: Told) {
        if let Some(attempt) = self.attempt.take() {
            self.world.history().end(attempt, told);
            self.over = true;
        }
    }

    fn hear(&self, word: impl FnOnce() -> Word) {
        if self.world.board.known().on_their_way() > 0 {
            self.world.board.change().heard(self.place, &word());
        }
    }

    fn handle_committed(&mut self) {
        self.snapshot = None;
        if self.control.is_pulling() {
            return;
        }
        let mut known = self.world.board.change();
        known.seats[self.place].peers = Some(self.peers.len());
        if let Some(at) = self.welcome_at.take() {
            known.figures.map.add(clock::now() - at);
        }
    }

    /// The program ended and is started again with what storage held: the
    /// identity and the commands that were done, and no map.
    fn start_anew(&mut self) {
        self.restart = false;
        self.boots += 1;
        // What was made of an identity and of a cache is one.
        match self.stored() {
            Some(control) => self.control = control,
            None => self.over = true,
        }
        self.peers.clear();
        self.snapshot = None;
        self.window = None;
        self.lost_at = None;
        self.world.board.change().seats[self.place].peers = None;
    }

    fn stored(&self) -> Option<Box<Control<FRAME>>> {
        let mut bytes = [0; STORED_LEN];
        let identity = postcard::to_slice(self.control.identity(), &mut bytes).ok()?;
        let identity = postcard::from_bytes(identity).ok()?;
        let mut writer = ItemWriter::new(&mut bytes);
        self.control.write_cache(&mut writer).ok()?;
        let cached = writer.len();
        let mut items = Items::new(bytes.get(..cached)?).filter_map(Result::ok);
        let head: CacheHead = items.find(|item| item.tag == CacheHead::TAG)?.decode().ok()?;
        let head = CacheHead { revision: Revision(0), ..head };
        let body = postcard::to_slice(&head, &mut bytes).ok()?;
        let mut control = control(identity, self.place, self.boots);
        let head = RawItem { tag: CacheHead::TAG, body };
        control.restore(&head, clock::core_now()).ok()?;
        Some(control)
    }
}

fn welcome(plain: &[u8]) -> Option<WelcomeInfo> {
    let mut items = Items::new(plain).filter_map(Result::ok);
    items.find(|item| item.tag == WelcomeInfo::TAG)?.decode().ok()
}

fn tells_of_a_map(plain: &[u8]) -> bool {
    let tags = [MapReady::TAG, Page::TAG];
    Items::new(plain).filter_map(Result::ok).any(|item| tags.contains(&item.tag))
}

/// The control session of a device that starts.
fn control<const FRAME: usize>(
    identity: Identity,
    place: usize,
    boots: u32,
) -> Box<Control<FRAME>> {
    let chip = FRAME <= MAX_FRAME_CHIP;
    let name = format!("sim-{place}");
    let config = ControlConfig {
        boot_count: boots,
        on_demand: 0,
        page_window: if chip { 1 } else { 4 },
        fingerprint: core::array::from_fn(|at| place.to_le_bytes().get(at).copied().unwrap_or(0)),
        name: Name::try_from(name.as_str()).unwrap_or_default(),
        abilities: abilities(chip),
    };
    let made = Control::new(config, identity, &mut Kernel, clock::core_now());
    // The pin was checked when the join string was read.
    Box::new(made.unwrap_or_else(|_| unreachable!("the coordinator's key is a good one")))
}

fn abilities(chip: bool) -> Abilities {
    Abilities {
        families: weft_wire::item::family::IPV4,
        carriers: 1,
        mtu: 1_280,
        backend: if chip { Backend::Chip } else { Backend::User },
        peer_slots: if chip { 8 } else { 256 },
        peer_routes: if chip { 4 } else { 64 },
        rules: if chip { 32 } else { 64 },
        agent: heapless::String::try_from("0.1.0").unwrap_or_default(),
        platform: heapless::String::try_from("weft-fleet").unwrap_or_default(),
        endpoints: heapless::Vec::new(),
    }
}
