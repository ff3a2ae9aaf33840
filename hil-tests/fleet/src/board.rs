//! What is known of the fleet: who stands how, what is waited for, what was
//! measured. Devices write to it, phases read it; all on one thread.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use weft_wire::id::DeviceId;

use crate::clock;
use crate::failure::{Failure, Result};
use crate::samples::Samples;

/// What a phase tells a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The line is gone, without a goodbye.
    Cut,
    /// Something changed that people look at: a heartbeat is due.
    Report,
    /// Leave the network for good.
    Leave,
    /// The power is cut, and is there again.
    Reboot,
}

/// The way of orders to one device.
#[derive(Default)]
pub(crate) struct Orders {
    order: Cell<Option<Order>>,
    given: Notify,
}

impl Orders {
    /// A newer order takes the place of one that was not followed yet.
    pub(crate) fn give(&self, order: Order) {
        self.order.set(Some(order));
        self.given.notify_one();
    }

    pub(crate) async fn next(&self) -> Order {
        loop {
            if let Some(order) = self.order.take() {
                return order;
            }
            self.given.notified().await;
        }
    }
}

/// One device of the fleet.
#[derive(Default)]
pub(crate) struct Seat {
    pub(crate) orders: Rc<Orders>,
    pub(crate) device: Option<DeviceId>,
    /// The coordinator has answered in the session of the line that is up.
    pub(crate) confirmed: bool,
    /// Peers of the map, when nothing newer is on its way.
    pub(crate) peers: Option<usize>,
    /// It has left for good.
    pub(crate) left: bool,
    /// It has the answer that it came for, and is gone.
    pub(crate) over: bool,
}

/// Something that an operator or device did and that others are to hear.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Word {
    /// A device has this name now.
    Named(String),
    /// A rule lets this port through.
    Port(u16),
    /// This device was told to restart.
    Restart(DeviceId),
    /// This device is a peer no more.
    Gone(DeviceId),
}

/// Who has heard a word.
struct Waiting {
    since: Instant,
    heard: HashSet<usize>,
    /// `None` until it is known.
    expected: Option<usize>,
    site: usize,
    kind: &'static str,
}

impl Waiting {
    fn is_over(&self) -> bool {
        self.expected.is_some_and(|expected| self.heard.len() >= expected)
    }
}

/// What one phase measured.
#[derive(Clone, Default)]
pub(crate) struct Figures {
    /// First connection to "registered".
    pub(crate) enrolment: Samples,
    /// TCP connect to the first answer in a session, as a member.
    pub(crate) session: Samples,
    /// WELCOME to the whole map, when the map was not the newest.
    pub(crate) map: Samples,
    /// Loss of a line to the next attempt.
    pub(crate) pause: Samples,
    /// Loss of a line to the next confirmed session.
    pub(crate) back: Samples,
    /// A word to its arrival at one device, by kind.
    pub(crate) arrival: BTreeMap<&'static str, Samples>,
    /// Lines that ended otherwise than by order, by what was said.
    pub(crate) lost: BTreeMap<String, usize>,
    /// Frames that the control session refused, by reason.
    pub(crate) dropped: BTreeMap<String, usize>,
    /// Frames that devices sent.
    pub(crate) frames_up: usize,
    /// Frames that came to devices.
    pub(crate) frames_down: usize,
    /// Of these, what told of a change of the map: announcements and pages.
    pub(crate) map_frames_down: usize,
    /// Attempts outside the window that WELCOME named.
    pub(crate) outside: usize,
    /// Devices that were refused, by code.
    pub(crate) refused: BTreeMap<u16, usize>,
}

impl Figures {
    pub(crate) fn lost_count(&self) -> usize {
        self.lost.values().sum()
    }

    pub(crate) fn dropped_count(&self) -> usize {
        self.dropped.values().sum()
    }
}

#[derive(Default)]
pub(crate) struct Known {
    pub(crate) seats: Vec<Seat>,
    pub(crate) figures: Figures,
    waiting: HashMap<Word, Waiting>,
    confirmed: usize,
}

impl Known {
    /// Devices with a confirmed session.
    pub(crate) const fn confirmed(&self) -> usize {
        self.confirmed
    }

    /// Words that have not arrived everywhere.
    pub(crate) fn on_their_way(&self) -> usize {
        self.waiting.len()
    }

    /// Sites where a word is on its way.
    pub(crate) fn busy(&self) -> Vec<usize> {
        self.waiting.values().map(|waiting| waiting.site).collect()
    }

    pub(crate) fn set_confirmed(&mut self, place: usize, confirmed: bool) {
        let seat = &mut self.seats[place];
        match (std::mem::replace(&mut seat.confirmed, confirmed), confirmed) {
            (false, true) => self.confirmed += 1,
            (true, false) => self.confirmed -= 1,
            _ => {}
        }
    }

    /// A word was said: counts from here on.
    pub(crate) fn expect(&mut self, word: Word, site: usize, kind: &'static str) {
        let since = clock::now();
        let waiting = Waiting { since, heard: HashSet::new(), expected: None, site, kind };
        self.waiting.insert(word, waiting);
    }

    /// So many are to hear it.
    pub(crate) fn expect_of(&mut self, word: &Word, expected: usize) {
        if let Some(waiting) = self.waiting.get_mut(word) {
            waiting.expected = Some(expected);
            if waiting.is_over() {
                self.waiting.remove(word);
            }
        }
    }

    /// A device heard a word; once counts.
    pub(crate) fn heard(&mut self, place: usize, word: &Word) {
        let Some(waiting) = self.waiting.get_mut(word) else { return };
        if waiting.heard.insert(place) {
            let took = clock::now() - waiting.since;
            self.figures.arrival.entry(waiting.kind).or_default().add(took);
        }
        if waiting.is_over() {
            self.waiting.remove(word);
        }
    }

    /// What is still waited for, in words.
    pub(crate) fn missing(&self) -> Vec<String> {
        let text = |(word, waiting): (&Word, &Waiting)| {
            let expected = waiting.expected.map_or_else(|| "?".to_owned(), |of| of.to_string());
            format!("{word:?}: heard by {} of {expected}", waiting.heard.len())
        };
        self.waiting.iter().map(text).collect()
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Board {
    known: RefCell<Known>,
    changed: Notify,
}

impl Board {
    pub(crate) fn new(devices: usize) -> Self {
        let seats = (0..devices).map(|_| Seat::default()).collect();
        let known = Known { seats, ..Known::default() };
        Self { known: RefCell::new(known), changed: Notify::new() }
    }

    /// To look at.
    pub(crate) fn known(&self) -> std::cell::Ref<'_, Known> {
        self.known.borrow()
    }

    /// To change; whoever waits looks again.
    pub(crate) fn change(&self) -> RefMut<'_, Known> {
        self.changed.notify_waiters();
        self.known.borrow_mut()
    }

    /// Counts something that nobody waits for.
    pub(crate) fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.known.borrow_mut().figures);
    }

    /// What was measured since it was last asked.
    pub(crate) fn take_figures(&self) -> Figures {
        std::mem::take(&mut self.known.borrow_mut().figures)
    }

    /// Waits until something holds.
    ///
    /// # Errors
    ///
    /// When it does not within `limit`; `missing` says what is not there yet.
    pub(crate) async fn until(
        &self,
        limit: Duration,
        what: &str,
        mut holds: impl FnMut(&Known) -> bool,
        missing: impl Fn(&Known) -> String,
    ) -> Result<()> {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.known()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.map_err(|_| {
            Failure::expectation(format!("{what}: not within {} s", limit.as_secs()))
                .line("missing", missing(&self.known()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[test]
    fn a_word_is_over_when_all_have_heard_it_once() {
        let board = Board::new(3);
        let word = Word::Named("a".to_owned());
        board.change().expect(word.clone(), 4, "rename");
        // Some hear it before it is known how many will.
        board.change().heard(0, &word);
        board.change().heard(0, &word);
        assert_eq!(board.known().busy(), [4]);
        board.change().expect_of(&word, 2);
        assert_eq!(board.known().on_their_way(), 1);
        assert!(board.known().missing()[0].ends_with("heard by 1 of 2"));
        board.change().heard(2, &Word::Port(7));
        board.change().heard(2, &word);
        assert_eq!(board.known().on_their_way(), 0);
        let figures = board.take_figures();
        assert_eq!(figures.arrival["rename"].summary().unwrap().count, 2);
        assert!(board.take_figures().arrival.is_empty());
        // All of them before it is known.
        board.change().expect(word.clone(), 4, "rename");
        board.change().heard(1, &word);
        board.change().expect_of(&word, 1);
        assert_eq!(board.known().on_their_way(), 0);
    }

    #[test]
    fn sessions_are_counted_once() {
        let board = Board::new(2);
        for (place, confirmed, count) in
            [(0, true, 1), (0, true, 1), (1, true, 2), (0, false, 1), (0, false, 1)]
        {
            board.change().set_confirmed(place, confirmed);
            assert_eq!(board.known().confirmed(), count);
        }
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_change_or_its_limit() {
        let board = Rc::new(Board::new(1));
        let until = |limit| {
            let board = Rc::clone(&board);
            async move {
                let text = |known: &Known| format!("{} of 1", known.confirmed());
                board.until(limit, "all", |known| known.confirmed() == 1, text).await
            }
        };
        let failure = until(LIMIT).await.unwrap_err().to_string();
        assert!(failure.contains("missing:  0 of 1"), "{failure}");
        let change = async { board.change().set_confirmed(0, true) };
        let (waited, ()) = tokio::join!(until(Duration::from_secs(20)), change);
        waited.unwrap();
    }

    #[tokio::test]
    async fn an_order_waits_for_its_device() {
        let orders = Orders::default();
        orders.give(Order::Cut);
        orders.give(Order::Leave);
        assert_eq!(orders.next().await, Order::Leave);
        assert!(tokio::time::timeout(LIMIT, orders.next()).await.is_err());
    }
}
