//! The line as the control loop drives it: `open` and `close` as the agent says,
//! `poll` when a descriptor or a deadline is due, then take what came.
//!
//! Of the ways to the coordinator the best is tried first; the next one joins in
//! when it has failed or takes long, and the first that stands is the line. On a
//! lesser way a better one is looked for later, beside the line.

use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use weft_wire::join::Carrier;
use weft_wire::login::PasswordText;
use weft_wire::topic::{Topic, TopicText};

use crate::control::failure::{Attempt, LineFailure, Reason};
use crate::control::keepalive::{Bounds, Keepalive};
use crate::control::order::Order;
use crate::control::reach::{self, Reach, TlsSource, Translation};
use crate::control::traffic::Traffic;
use crate::control::wait::{FirstBytes, Waiting};
use crate::control::way::Way;
use crate::net::nat64::Prefix;
use crate::os::clock;
use crate::os::poll::{Interest, Place, PollSet};
use crate::os::timer;

/// Frames that wait for the agent; the line is not read while it is full.
const INBOUND: usize = 32;
/// Frames that wait for the line; the agent keeps the rest.
const OUTBOUND: usize = 8;
/// How long a way is alone before the next one is tried beside it, in
/// microseconds: a port that swallows everything costs this and no more.
const STAGGER_US: u64 = if cfg!(test) { 200_000 } else { 4_000_000 };

/// The same for a way that stood on this network before: a coordinator that
/// everybody comes back to at once may be slow, and other ways to it are not
/// faster.
const KNOWN_STAGGER_US: u64 = 12_000_000;

/// Who the line says it is.
#[derive(Clone)]
pub(crate) struct Login {
    /// Client id, and the inbox's text.
    pub(crate) client: heapless::String<26>,
    /// User name.
    pub(crate) user: String,
    /// Password. A secret.
    pub(crate) password: Password,
    /// Where frames come.
    pub(crate) inbox: TopicText,
}

/// A password, erased when dropped and never printed.
#[derive(Clone)]
pub(crate) struct Password(zeroize::Zeroizing<Vec<u8>>);

impl Password {
    pub(crate) fn new(text: &str) -> Self {
        Self(zeroize::Zeroizing::new(text.as_bytes().to_vec()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&PasswordText> for Password {
    fn from(text: &PasswordText) -> Self {
        Self::new(text.as_str())
    }
}

/// A frame on its way up.
pub(super) struct Publish {
    pub(super) topic: Topic,
    pub(super) frame: Vec<u8>,
}

/// What the line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineEvent {
    /// Open and subscribed, by this way.
    Connected(Way),
    /// Open as before, by a better way from now on.
    Moved(Way),
    /// A frame came.
    Frame(Vec<u8>),
    /// Closed as asked.
    Closed,
    /// Not opened, or lost.
    Failed(LineFailure),
}

/// The connections of one way: posts need two, everything else one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Says something and hears the answer.
    Speak,
    /// Waits for what the coordinator has to say.
    Listen,
}

/// Shared between the future and its owner; both live on one thread.
#[derive(Default)]
pub(crate) struct Shared {
    waiting: [Rc<RefCell<Waiting>>; 2],
    pub(super) first: Rc<Cell<FirstBytes>>,
    pub(crate) inbound: RefCell<VecDeque<Vec<u8>>>,
    pub(super) outbound: RefCell<VecDeque<Publish>>,
    pub(super) closing: Cell<bool>,
    /// The line is open and subscribed.
    pub(super) stands: Cell<bool>,
    /// A record is wanted to wait with for what the coordinator has to say.
    pub(super) wants_record: Cell<bool>,
    /// Our end of the connection, while there is one.
    pub(super) local: Cell<Option<SocketAddr>>,
    /// The silence that a connection over MQTT may not have outlived, in microseconds.
    pub(super) lapse: Cell<Option<u64>>,
}

impl Shared {
    pub(super) fn has_room(&self) -> bool {
        self.inbound.borrow().len() < INBOUND
    }

    pub(super) const fn waiting(&self, lane: Lane) -> &Rc<RefCell<Waiting>> {
        let [speak, listen] = &self.waiting;
        match lane {
            Lane::Speak => speak,
            Lane::Listen => listen,
        }
    }
}

type Session = Pin<Box<dyn Future<Output = Result<(), Attempt>>>>;

/// One way that is being tried, or stands.
struct Run {
    /// Its place in the list of ways.
    way: usize,
    /// What it promises over MQTT, in seconds.
    keepalive_s: u16,
    shared: Rc<Shared>,
    session: Session,
}

impl Run {
    fn poll(&mut self) -> Poll<Result<(), Attempt>> {
        for waiting in &self.shared.waiting {
            if let Waiting::Stream(_, interest) = &mut *waiting.borrow_mut() {
                *interest = Interest::default();
            }
        }
        let mut context = Context::from_waker(Waker::noop());
        self.session.as_mut().poll(&mut context)
    }
}

/// The line.
pub(crate) struct Line {
    order: Order,
    keepalive: Keepalive,
    /// What the owner knows of it.
    told: Vec<(u64, String)>,
    tls: Rc<TlsSource>,
    traffic: Rc<Traffic>,
    /// Of it, what the owner knows.
    counted: u64,
    translation: Rc<Translation>,
    /// For tries beside a line that stands.
    login: Option<Login>,
    /// The way that stands.
    standing: Option<Run>,
    /// Ways that are being tried.
    trying: Vec<Run>,
    /// Ways to be tried after these, best first, and when the next is due.
    left: VecDeque<usize>,
    next_try: Option<u64>,
    /// What became of the others.
    attempts: Vec<(usize, Attempt)>,
    events: VecDeque<LineEvent>,
    deadline: Option<u64>,
    /// Something was asked of a future since it was last polled.
    pressed: bool,
    places: Vec<Place>,
}

impl Line {
    /// A closed line to a coordinator that is found by these ways, best first.
    /// In TLS it shows the pinned key, or any.
    pub(crate) fn new(ways: Vec<Way>, pin: Option<[u8; 32]>) -> Self {
        Self {
            order: Order::new(ways),
            keepalive: Keepalive::new(Bounds::USUAL),
            told: Vec::new(),
            tls: Rc::new(TlsSource::new(pin)),
            traffic: Rc::default(),
            counted: 0,
            translation: Rc::default(),
            login: None,
            standing: None,
            trying: Vec::new(),
            left: VecDeque::new(),
            next_try: None,
            attempts: Vec::new(),
            events: VecDeque::new(),
            deadline: None,
            pressed: false,
            places: Vec::new(),
        }
    }

    /// What was learned of each network, as [`Self::stood`] told it.
    pub(crate) fn restore(&mut self, stood: &[(u64, String)]) {
        self.order.restore(stood);
        self.keepalive.restore(stood);
        self.told = self.remembered();
    }

    fn remembered(&self) -> Vec<(u64, String)> {
        self.order.remembered().into_iter().chain(self.keepalive.lines()).collect()
    }

    /// Learns between other bounds.
    #[cfg(test)]
    pub(super) fn set_keepalive(&mut self, bounds: Bounds) {
        self.keepalive = Keepalive::new(bounds);
    }

    /// Whether something else was learned than [`Self::stood`] said.
    pub(crate) fn has_news(&mut self) -> bool {
        let now = self.remembered();
        let same = now == self.told;
        self.told = now;
        !same
    }

    /// Which way stood last on each network, and how long a silence it outlives.
    pub(crate) fn stood(&self) -> &[(u64, String)] {
        &self.told
    }

    /// Opens the line; what was open is dropped.
    pub(crate) fn open(&mut self, login: Login) {
        self.drop_all();
        self.login = Some(login);
        self.keepalive.handle_open(clock::boot_micros());
        self.left = self.order.all().into();
        self.next_try = Some(0);
        self.pressed = true;
    }

    fn drop_all(&mut self) {
        self.standing = None;
        self.trying.clear();
        self.left.clear();
        self.attempts.clear();
        self.next_try = None;
    }

    /// Says goodbye and closes; [`LineEvent::Closed`] follows.
    pub(crate) fn close(&mut self) {
        self.trying.clear();
        self.left.clear();
        self.next_try = None;
        if let Some(run) = &self.standing {
            run.shared.closing.set(true);
            self.pressed = true;
        } else {
            self.events.push_back(LineEvent::Closed);
        }
    }

    /// Our end of the connection, while there is one.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.standing.as_ref().and_then(|run| run.shared.local.get())
    }

    /// The host is on this network now, known by a number that is the same
    /// whenever it comes back.
    pub(crate) fn handle_network(&mut self, network: u64) {
        self.keepalive.set_network(network);
        let changed = self.order.set_network(network, clock::boot_micros());
        if changed && self.standing.is_none() && !self.trying.is_empty() {
            // What was begun elsewhere leads nowhere.
            self.trying.clear();
            self.attempts.clear();
            self.left = self.order.all().into();
            self.next_try = Some(0);
        }
        self.pressed = true;
    }

    /// Tries from now on reach IPv4 addresses there, on a host that has none itself;
    /// while that `is_asked`, those to IPv4 addresses wait.
    pub(crate) fn set_translator(&mut self, translator: Option<Prefix>, is_asked: bool) {
        self.translation.prefix.set(translator);
        self.translation.is_asked.set(is_asked);
        self.pressed = true;
    }

    /// Gives the connection up without a goodbye, which would not arrive;
    /// [`LineEvent::Failed`] follows.
    pub(crate) fn give_up(&mut self, cause: &str) {
        let Some(run) = self.standing.take() else {
            return;
        };
        self.drop_all();
        let way = self.order.way(run.way).clone();
        let attempt = Attempt { way, resolved: None, reason: Reason::Lost(cause.to_owned()) };
        self.events.push_back(LineEvent::Failed(LineFailure { attempts: vec![attempt] }));
        self.pressed = true;
    }

    /// Whether [`Self::publish`] would take a frame.
    pub(crate) fn takes_frame(&self) -> bool {
        self.standing.as_ref().is_some_and(|run| run.shared.outbound.borrow().len() < OUTBOUND)
    }

    /// Whether everything given to [`Self::publish`] has been written.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.standing.as_ref().is_none_or(|run| run.shared.outbound.borrow().is_empty())
    }

    /// What the line promises, in seconds, where that was learned.
    pub(crate) fn learned_keepalive(&self) -> Option<u16> {
        let run = self.standing.as_ref()?;
        let is_mqtt = self.order.way(run.way).carrier != Carrier::Https;
        Some(run.keepalive_s).filter(|seconds| is_mqtt && self.keepalive.is_learned(*seconds))
    }

    /// Bytes of IP packets that the line has been since this was last asked.
    pub(crate) fn take_traffic(&mut self) -> u64 {
        let now = self.traffic.bytes();
        now - core::mem::replace(&mut self.counted, now).min(now)
    }

    /// Whether the line wants a record, of whatever content, to hear what the
    /// coordinator has to say; asked once for each.
    pub(crate) fn take_wish(&mut self) -> bool {
        self.standing.as_ref().is_some_and(|run| {
            run.shared.outbound.borrow().is_empty() && run.shared.wants_record.take()
        })
    }

    /// Publishes a frame. Ask [`Self::takes_frame`] first; without room it is
    /// dropped, as the network may drop it.
    pub(crate) fn publish(&mut self, topic: Topic, frame: &[u8]) {
        if self.takes_frame()
            && let Some(run) = &self.standing
        {
            let publish = Publish { topic, frame: frame.to_vec() };
            run.shared.outbound.borrow_mut().push_back(publish);
            self.pressed = true;
        }
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.standing.iter().chain(&self.trying)
    }

    /// Adds what the line waits for.
    pub(crate) fn register(&mut self, set: &mut PollSet) {
        let mut places = core::mem::take(&mut self.places);
        places.clear();
        for waiting in self.runs().flat_map(|run| &run.shared.waiting) {
            waiting.borrow().register(set, &mut places);
        }
        self.places = places;
    }

    /// When it is to be polled at the latest, in microseconds since boot.
    pub(crate) fn deadline(&self) -> Option<u64> {
        if self.pressed {
            return Some(0);
        }
        let looks = if self.may_look() {
            [self.order.look_at(), self.keepalive.again_at()]
        } else {
            [None; 2]
        };
        [self.deadline, self.next_try].into_iter().chain(looks).flatten().min()
    }

    /// Whether another try may begin beside the line that stands.
    fn may_look(&self) -> bool {
        self.standing.is_some() && self.trying.is_empty() && self.next_try.is_none()
    }

    /// Whether something is due, after a wait on `set`.
    pub(crate) fn is_due(&self, set: &PollSet, now_us: u64) -> bool {
        self.deadline().is_some_and(|at| at <= now_us)
            || self.places.iter().any(|&place| set.is_ready(place))
    }

    /// Goes on. Then take all events.
    pub(crate) fn poll(&mut self) {
        self.pressed = false;
        self.deadline = None;
        timer::forget();
        let now_us = clock::boot_micros();
        self.poll_standing();
        self.look_for_better(now_us);
        if self.next_try.is_some_and(|at| at <= now_us) {
            self.try_next(now_us);
        }
        self.poll_trying(now_us);
        self.deadline = timer::earliest();
    }

    fn poll_standing(&mut self) {
        let Some(run) = &mut self.standing else {
            return;
        };
        let Poll::Ready(ended) = run.poll() else {
            return;
        };
        let run = self.standing.take();
        let attempts = core::mem::take(&mut self.attempts);
        // What came before the line was lost comes before the loss.
        self.take_inbound(run.as_ref());
        self.keepalive.handle_lost(run.and_then(|run| run.shared.lapse.get()));
        self.drop_all();
        self.events.push_back(match ended {
            Ok(()) => LineEvent::Closed,
            Err(attempt) => {
                let mut attempts: Vec<_> = attempts.into_iter().map(|(_, one)| one).collect();
                attempts.push(attempt);
                LineEvent::Failed(LineFailure { attempts })
            }
        });
    }

    /// Moves the frames of a run to the events.
    fn take_inbound(&mut self, run: Option<&Run>) {
        if let Some(run) = run {
            let frames = core::mem::take(&mut *run.shared.inbound.borrow_mut());
            self.events.extend(frames.into_iter().map(LineEvent::Frame));
        }
    }

    /// Starts to try better ways beside the one that stands, or the same one with a
    /// longer keepalive, when it is time.
    fn look_for_better(&mut self, now_us: u64) {
        if self.may_look()
            && let Some(run) = &self.standing
        {
            if self.order.look_at().is_some_and(|at| at <= now_us) {
                self.left = self.order.better_than(run.way).into();
                self.order.looked(now_us);
            } else if self.keepalive.take_again(now_us) {
                self.left = [run.way].into();
            }
            self.next_try = (!self.left.is_empty()).then_some(now_us);
        }
    }

    fn try_next(&mut self, now_us: u64) {
        self.next_try = None;
        let Some(login) = self.login.clone() else {
            return;
        };
        if let Some(index) = self.left.pop_front() {
            let keepalive_s = self.keepalive.seconds(clock::unix_millis() / 1_000);
            let shared = Rc::<Shared>::default();
            let reach = Reach {
                shared: Rc::clone(&shared),
                way: self.order.way(index).clone(),
                tls: Rc::clone(&self.tls),
                translation: Rc::clone(&self.translation),
                traffic: Rc::clone(&self.traffic),
                keepalive_s,
            };
            let session = Box::pin(reach::run(reach, login));
            self.trying.push(Run { way: index, keepalive_s, shared, session });
            let alone =
                if self.order.known() == Some(index) { KNOWN_STAGGER_US } else { STAGGER_US };
            self.next_try = (!self.left.is_empty()).then_some(now_us + alone);
        }
        if self.trying.is_empty() && self.standing.is_none() {
            self.fail();
        }
    }

    fn fail(&mut self) {
        self.keepalive.handle_refused();
        let mut attempts = core::mem::take(&mut self.attempts);
        attempts.sort_by_key(|(way, _)| *way);
        let attempts = attempts.into_iter().map(|(_, attempt)| attempt).collect();
        self.events.push_back(LineEvent::Failed(LineFailure { attempts }));
    }

    fn poll_trying(&mut self, now_us: u64) {
        let mut at = 0;
        while let Some(run) = self.trying.get_mut(at) {
            let polled = run.poll();
            if run.shared.stands.get() && !matches!(polled, Poll::Ready(Ok(()))) {
                return self.stand(at, polled, now_us);
            }
            match polled {
                Poll::Pending => at += 1,
                Poll::Ready(ended) => {
                    let run = self.trying.remove(at);
                    if let Err(attempt) = ended
                        && self.standing.is_none()
                    {
                        self.attempts.push((run.way, attempt));
                    }
                    // The next one need not wait any longer; it is polled in
                    // this turn, so that it tells what it waits for.
                    self.try_next(now_us);
                }
            }
        }
    }

    /// The way at this place of those that are tried stands: it is the line.
    fn stand(&mut self, at: usize, polled: Poll<Result<(), Attempt>>, now_us: u64) {
        let run = self.trying.swap_remove(at);
        self.trying.clear();
        self.left.clear();
        self.next_try = None;
        let way = self.order.way(run.way).clone();
        self.order.stood(run.way, now_us);
        let promised = (way.carrier != Carrier::Https).then_some(run.keepalive_s);
        self.keepalive.handle_stood(promised, now_us, clock::unix_millis() / 1_000);
        let older = self.standing.replace(run);
        // The coordinator cuts the older one by itself.
        self.take_inbound(older.as_ref());
        self.events.push_back(match older {
            Some(_) => LineEvent::Moved(way),
            None => LineEvent::Connected(way),
        });
        if let Poll::Ready(Err(attempt)) = polled {
            let run = self.standing.take();
            self.keepalive.handle_lost(None);
            self.take_inbound(run.as_ref());
            let attempts = core::mem::take(&mut self.attempts).into_iter().map(|(_, one)| one);
            let attempts = attempts.chain([attempt]).collect();
            self.events.push_back(LineEvent::Failed(LineFailure { attempts }));
        }
    }

    /// The next thing that the line tells, in the order in which it happened.
    pub(crate) fn next_event(&mut self) -> Option<LineEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let frame = self.standing.as_ref()?.shared.inbound.borrow_mut().pop_front()?;
        // There is room again.
        self.pressed = true;
        Some(LineEvent::Frame(frame))
    }
}
