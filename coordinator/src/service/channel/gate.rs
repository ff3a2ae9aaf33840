//! Who may have handshake work done next.
//!
//! A handshake costs a core a quarter of a millisecond. Only so many run at
//! once; the others wait in two bounded queues, devices that are known before
//! those that enrol, so that a flood of enrolments delays no known device. Every
//! eighth place goes to one who enrols all the same: a restarted fleet must not
//! lock new devices out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Known devices that may wait.
pub const KNOWN: usize = 16_384;
/// Others that may wait.
pub const OTHERS: usize = 512;
/// From so many waiting on, a sender must prove that it hears us (RETRY).
pub const UNDER_LOAD: usize = 32;
/// Every how many places one goes to the others.
const TURN: u32 = 8;

/// Which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Devices that are enrolled.
    Known,
    /// Those who enrol, and those of whom nothing is known.
    Others,
}

#[derive(Default)]
struct State {
    free: usize,
    known: VecDeque<oneshot::Sender<Place>>,
    others: VecDeque<oneshot::Sender<Place>>,
    turn: u32,
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        let turn = self.turn;
        self.turn = (turn + 1) % TURN;
        if turn == 0 && !self.others.is_empty() {
            return self.others.pop_front();
        }
        self.known.pop_front().or_else(|| self.others.pop_front())
    }
}

/// The gate.
pub struct Gate(Mutex<State>);

impl Gate {
    /// Lets `places` work at once.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: places, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether many wait.
    pub fn is_under_load(&self, queue: Queue) -> bool {
        let state = self.state();
        match queue {
            Queue::Known => state.known.len() >= UNDER_LOAD,
            Queue::Others => state.known.len() + state.others.len() >= UNDER_LOAD,
        }
    }

    /// Waits for a place; `None` = too many wait already.
    pub async fn enter(self: &Arc<Self>, queue: Queue) -> Option<Place> {
        let waiting = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Some(Place(Some(Arc::clone(self))));
            }
            let (waiting, most) = match queue {
                Queue::Known => (&mut state.known, KNOWN),
                Queue::Others => (&mut state.others, OTHERS),
            };
            if waiting.len() >= most {
                return None;
            }
            let (sender, receiver) = oneshot::channel();
            waiting.push_back(sender);
            receiver
        };
        waiting.await.ok()
    }

    fn leave(self: &Arc<Self>) {
        let mut state = self.state();
        loop {
            let Some(next) = state.next() else {
                state.free += 1;
                return;
            };
            match next.send(Place(Some(Arc::clone(self)))) {
                Ok(()) => return,
                // It waits no longer. Its place is still ours to give, and its
                // drop must not come back here.
                Err(mut place) => place.0 = None,
            }
        }
    }
}

/// One of the gate's places; the next one's when dropped.
pub struct Place(Option<Arc<Gate>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn taken(poll: Poll<Option<Place>>) -> Place {
        match poll {
            Poll::Ready(Some(place)) => place,
            _ => panic!("a place"),
        }
    }

    #[test]
    fn the_known_go_first_and_every_eighth_place_goes_to_others() {
        let gate = Gate::new(1);
        let mut place = taken(poll(pin!(gate.enter(Queue::Known))));
        let mut known: VecDeque<_> = (0..20).map(|_| Box::pin(gate.enter(Queue::Known))).collect();
        let mut others: VecDeque<_> = (0..5).map(|_| Box::pin(gate.enter(Queue::Others))).collect();
        assert!(known.iter_mut().all(|wait| poll(wait.as_mut()).is_pending()));
        assert!(others.iter_mut().all(|wait| poll(wait.as_mut()).is_pending()));
        let mut order = String::new();
        while !(known.is_empty() && others.is_empty()) {
            drop(place);
            let (name, next) = match known.front_mut().map(|wait| poll(wait.as_mut())) {
                Some(Poll::Ready(next)) => ('k', (known.pop_front(), next).1),
                _ => ('o', {
                    let next = poll(others.front_mut().expect("one waits").as_mut());
                    others.pop_front();
                    match next {
                        Poll::Ready(next) => next,
                        Poll::Pending => panic!("one must go"),
                    }
                }),
            };
            order.push(name);
            place = next.expect("a place");
        }
        assert_eq!(order, "okkkkkkkokkkkkkkokkkkkkoo");
    }

    #[test]
    fn who_gives_up_waiting_loses_no_place() {
        let gate = Gate::new(1);
        let place = taken(poll(pin!(gate.enter(Queue::Known))));
        let mut gone = Box::pin(gate.enter(Queue::Known));
        let mut told = Box::pin(gate.enter(Queue::Known));
        let mut last = Box::pin(gate.enter(Queue::Known));
        assert!(poll(gone.as_mut()).is_pending());
        assert!(poll(told.as_mut()).is_pending());
        assert!(poll(last.as_mut()).is_pending());
        drop(gone);
        drop(place);
        // This one was given the place and never learnt it.
        drop(told);
        drop(taken(poll(last.as_mut())));
        assert_eq!(gate.state().free, 1);
    }

    #[test]
    fn the_queues_end() {
        let gate = Gate::new(0);
        let mut waiting: Vec<_> =
            (0..OTHERS).map(|_| Box::pin(gate.enter(Queue::Others))).collect();
        for (at, wait) in waiting.iter_mut().enumerate() {
            assert_eq!(gate.is_under_load(Queue::Others), at >= UNDER_LOAD);
            assert!(poll(wait.as_mut()).is_pending());
        }
        assert!(matches!(poll(pin!(gate.enter(Queue::Others))), Poll::Ready(None)));
        assert!(!gate.is_under_load(Queue::Known));
        assert!(poll(pin!(gate.enter(Queue::Known))).is_pending());
    }
}
