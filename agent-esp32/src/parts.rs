//! What the futures of one agent share. They run in one task, one at a time, and nothing
//! is borrowed across an await but a buffer that nobody else wants.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;

use embassy_sync::waitqueue::WakerRegistration;
use heapless::Deque;
use weft_agent_core::agent::ChipAgentOf;
use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::entropy::Entropy;

use crate::cable::Cable;
use crate::exchange::Exchange;
use crate::log::Log;
use crate::status::{Event, LineTrouble};

/// The agent, for one user at a time.
pub(crate) type SharedAgent<'d, E, const P: usize, const R: usize> =
    RefCell<&'d mut ChipAgentOf<E, NoTrace, P, R>>;

/// Events that wait for the application; of more the oldest go.
const EVENTS: usize = 8;

/// What the application is told.
pub(crate) struct News {
    events: RefCell<Deque<Event, EVENTS>>,
    waker: RefCell<WakerRegistration>,
    trouble: Cell<Option<LineTrouble>>,
    log: Log,
}

impl News {
    pub(crate) const fn new() -> Self {
        Self {
            events: RefCell::new(Deque::new()),
            waker: RefCell::new(WakerRegistration::new()),
            trouble: Cell::new(None),
            log: Log::new(),
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        self.log.event(&event);
        let mut events = self.events.borrow_mut();
        if events.is_full() {
            events.pop_front();
        }
        // Cannot fail: there is room now.
        let _ = events.push_back(event);
        self.waker.borrow_mut().wake();
    }

    pub(crate) async fn next(&self) -> Event {
        poll_fn(|context| {
            self.waker.borrow_mut().register(context.waker());
            let next = self.events.borrow_mut().pop_front();
            next.map_or(core::task::Poll::Pending, core::task::Poll::Ready)
        })
        .await
    }

    pub(crate) const fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) const fn trouble(&self) -> &Cell<Option<LineTrouble>> {
        &self.trouble
    }
}

/// See the module.
pub(crate) struct Parts<'d, E, const P: usize, const R: usize> {
    pub(crate) agent: &'d SharedAgent<'d, E, P, R>,
    pub(crate) cable: &'d Cable,
    pub(crate) exchange: &'d Exchange,
    pub(crate) news: &'d News,
}

impl<E, const P: usize, const R: usize> Clone for Parts<'_, E, P, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E, const P: usize, const R: usize> Copy for Parts<'_, E, P, R> {}

impl<E: Entropy, const P: usize, const R: usize> Parts<'_, E, P, R> {
    /// Until the agent takes something.
    pub(crate) async fn idle(&self) {
        poll_fn(|context| self.exchange.poll_idle(context)).await;
    }

    /// The line could not be opened, or was lost.
    pub(crate) fn note_line(&self, trouble: LineTrouble) {
        if self.news.trouble().replace(Some(trouble)) != Some(trouble) {
            self.news.tell(Event::Line(trouble));
        }
    }
}
