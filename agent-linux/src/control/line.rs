//! The line as the control loop drives it: `open` and `close` as the agent says,
//! `poll` when a descriptor or a deadline is due, then take what came.

use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use weft_wire::login::PasswordText;
use weft_wire::topic::{Topic, TopicText};

use crate::control::failure::{Attempt, LineFailure, Reason};
use crate::control::mqtt;
use crate::control::wait::{FirstBytes, Waiting};
use crate::os::poll::{Interest, Place, PollSet};
use crate::os::timer;

/// Frames that wait for the agent; the line is not read while it is full.
const INBOUND: usize = 32;
/// Frames that wait for the line; the agent keeps the rest.
const OUTBOUND: usize = 8;

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
    pub(super) topic: TopicText,
    pub(super) frame: Vec<u8>,
}

/// What the line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineEvent {
    /// Open and subscribed, at this `host:port`.
    Connected(String),
    /// A frame came.
    Frame(Vec<u8>),
    /// Closed as asked.
    Closed,
    /// Not opened, or lost.
    Failed(LineFailure),
}

/// Shared between the future and its owner; both live on one thread.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) waiting: Rc<RefCell<Waiting>>,
    pub(super) first: Rc<Cell<FirstBytes>>,
    pub(super) inbound: RefCell<VecDeque<Vec<u8>>>,
    pub(super) outbound: RefCell<VecDeque<Publish>>,
    pub(super) closing: Cell<bool>,
    pub(super) connected: RefCell<Option<String>>,
    /// The line was open and subscribed once.
    pub(super) stood: Cell<bool>,
    /// Our end of the connection, while there is one.
    pub(super) local: Cell<Option<SocketAddr>>,
    /// The `host:port` in use.
    pub(super) authority: RefCell<String>,
}

impl Shared {
    pub(super) fn has_room(&self) -> bool {
        self.inbound.borrow().len() < INBOUND
    }
}

/// How the future ends.
pub(super) enum Ended {
    Closed,
    Failed(LineFailure),
}

type Session = Pin<Box<dyn Future<Output = Ended>>>;

/// The line.
pub(crate) struct Line {
    authorities: Vec<String>,
    session: Option<Session>,
    shared: Rc<Shared>,
    events: VecDeque<LineEvent>,
    deadline: Option<u64>,
    /// Something was asked of the future since it was last polled.
    pressed: bool,
    places: Vec<Place>,
}

impl Line {
    /// A closed line to these `host:port`, best first.
    pub(crate) fn new(authorities: Vec<String>) -> Self {
        Self {
            authorities,
            session: None,
            shared: Rc::default(),
            events: VecDeque::new(),
            deadline: None,
            pressed: false,
            places: Vec::new(),
        }
    }

    /// Opens the line; what was open is dropped.
    pub(crate) fn open(&mut self, login: Login) {
        self.shared = Rc::default();
        let shared = Rc::clone(&self.shared);
        let authorities = self.authorities.clone();
        self.session = Some(Box::pin(mqtt::run(shared, authorities, login)));
        self.pressed = true;
    }

    /// Says goodbye and closes; [`LineEvent::Closed`] follows.
    pub(crate) fn close(&mut self) {
        if self.session.is_some() {
            self.shared.closing.set(true);
            self.pressed = true;
        } else {
            self.events.push_back(LineEvent::Closed);
        }
    }

    /// Our end of the connection, while there is one.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        self.session.as_ref().and_then(|_| self.shared.local.get())
    }

    /// Gives the connection up without a goodbye, which would not arrive;
    /// [`LineEvent::Failed`] follows.
    pub(crate) fn give_up(&mut self, cause: &str) {
        if self.session.take().is_none() {
            return;
        }
        *self.shared.waiting.borrow_mut() = Waiting::Nothing;
        let authority = self.shared.authority.take();
        let attempt = Attempt { authority, resolved: None, reason: Reason::Lost(cause.to_owned()) };
        self.events.push_back(LineEvent::Failed(LineFailure { attempts: vec![attempt] }));
        self.pressed = true;
    }

    /// Whether [`Self::publish`] would take a frame.
    pub(crate) fn takes_frame(&self) -> bool {
        self.session.is_some() && self.shared.outbound.borrow().len() < OUTBOUND
    }

    /// Whether everything given to [`Self::publish`] has been written.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.outbound.borrow().is_empty()
    }

    /// Publishes a frame. Ask [`Self::takes_frame`] first; without room it is
    /// dropped, as the network may drop it.
    pub(crate) fn publish(&mut self, topic: Topic, frame: &[u8]) {
        if self.takes_frame() {
            self.shared
                .outbound
                .borrow_mut()
                .push_back(Publish { topic: topic.text(), frame: frame.to_vec() });
            self.pressed = true;
        }
    }

    /// Adds what the line waits for.
    pub(crate) fn register(&mut self, set: &mut PollSet) {
        self.places.clear();
        self.shared.waiting.borrow().register(set, &mut self.places);
    }

    /// When it is to be polled at the latest, in microseconds since boot.
    pub(crate) fn deadline(&self) -> Option<u64> {
        if self.pressed { Some(0) } else { self.deadline }
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
        let Some(session) = &mut self.session else {
            return;
        };
        timer::forget();
        if let Waiting::Stream(_, interest) = &mut *self.shared.waiting.borrow_mut() {
            *interest = Interest::default();
        }
        let polled = {
            let mut context = Context::from_waker(Waker::noop());
            session.as_mut().poll(&mut context)
        };
        if let Some(authority) = self.shared.connected.take() {
            self.events.push_back(LineEvent::Connected(authority));
        }
        match polled {
            Poll::Pending => self.deadline = timer::earliest(),
            Poll::Ready(ended) => {
                self.session = None;
                *self.shared.waiting.borrow_mut() = Waiting::Nothing;
                self.events.push_back(match ended {
                    Ended::Closed => LineEvent::Closed,
                    Ended::Failed(failure) => LineEvent::Failed(failure),
                });
            }
        }
    }

    /// The next thing that the line tells, in the order in which it happened:
    /// what came before the line was lost comes before the loss.
    pub(crate) fn next_event(&mut self) -> Option<LineEvent> {
        if !matches!(self.events.front(), Some(LineEvent::Connected(_)))
            && let Some(frame) = self.shared.inbound.borrow_mut().pop_front()
        {
            // There is room again.
            self.pressed |= self.session.is_some();
            return Some(LineEvent::Frame(frame));
        }
        self.events.pop_front()
    }
}
