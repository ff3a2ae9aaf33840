//! Frames that wait for the connection to the broker: bounded in number, in
//! bytes and per inbox, so that whoever asks most does not crowd the others out.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use weft_wire::id::Inbox;

use crate::service::bus::Delivery;
use crate::transport::mqtt::hub;

/// Frames that may wait: one announcement to each of ten thousand devices, and
/// what they ask meanwhile.
pub const FRAMES: usize = 16_384;
/// Bytes that may wait.
const BYTES: usize = 16 << 20;
/// Frames of one inbox, as many as a connection of our own endpoint holds.
pub const OF_ONE: usize = hub::QUEUE;

#[derive(Default)]
struct State {
    open: bool,
    frames: VecDeque<(Inbox, Bytes)>,
    bytes: usize,
    waiting: HashMap<Inbox, usize>,
}

/// The queue.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Notify,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes frames from now on.
    pub(super) fn open(&self) {
        self.state().open = true;
    }

    /// Drops what waits and takes nothing more: time-outs repeat what matters.
    pub(super) fn close(&self) {
        *self.state() = State::default();
    }

    pub(super) fn push(&self, inbox: Inbox, frame: Bytes) -> Delivery {
        let mut state = self.state();
        if !state.open {
            return Delivery::Absent;
        }
        let of_one = state.waiting.get(&inbox).copied().unwrap_or(0);
        let fits = of_one < OF_ONE
            && state.frames.len() < FRAMES
            && state.bytes.saturating_add(frame.len()) <= BYTES;
        if !fits {
            return Delivery::Full;
        }
        state.waiting.insert(inbox, of_one + 1);
        state.bytes += frame.len();
        state.frames.push_back((inbox, frame));
        drop(state);
        self.changed.notify_one();
        Delivery::Queued
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().frames.len()
    }

    /// The frame that waits longest, for the one who asks.
    pub(super) async fn next(&self) -> (Inbox, Bytes) {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            // A notice that came in between is kept.
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<(Inbox, Bytes)> {
        let mut state = self.state();
        let (inbox, frame) = state.frames.pop_front()?;
        state.bytes -= frame.len();
        if let Some(waiting) = state.waiting.get_mut(&inbox) {
            *waiting -= 1;
            if *waiting == 0 {
                state.waiting.remove(&inbox);
            }
        }
        if state.frames.is_empty() {
            // The room that a restarted fleet needed is given back.
            state.frames = VecDeque::new();
            state.waiting = HashMap::new();
        }
        Some((inbox, frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(n: usize) -> Inbox {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        Inbox(bytes)
    }

    #[test]
    fn one_inbox_does_not_crowd_the_others_out() {
        let outbox = Outbox::default();
        let frame = Bytes::from_static(b"frame");
        assert_eq!(outbox.push(inbox(0), frame.clone()), Delivery::Absent);
        outbox.open();
        let queued = (0..100).filter(|_| outbox.push(inbox(0), frame.clone()) == Delivery::Queued);
        assert_eq!(queued.count(), OF_ONE);
        assert_eq!(outbox.waiting(), OF_ONE);
        assert_eq!(outbox.push(inbox(1), frame.clone()), Delivery::Queued);
        assert_eq!(outbox.take(), Some((inbox(0), frame.clone())));
        assert_eq!(outbox.push(inbox(0), frame.clone()), Delivery::Queued);
        assert_eq!(outbox.push(inbox(0), frame), Delivery::Full);
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let outbox = Outbox::default();
        outbox.open();
        let push = |n: usize, frame: &Bytes| outbox.push(inbox(n), frame.clone());
        let small = Bytes::from_static(b"x");
        let queued = (0..2 * FRAMES).filter(|n| push(*n, &small) == Delivery::Queued).count();
        assert_eq!(queued, FRAMES);
        outbox.close();
        assert!(outbox.take().is_none());
        outbox.open();
        let long = Bytes::from(vec![0; 3_840]);
        let queued = (0..2 * FRAMES).filter(|n| push(*n, &long) == Delivery::Queued).count();
        assert_eq!(queued, BYTES / 3_840);
        while outbox.take().is_some() {}
        let state = outbox.state();
        assert_eq!((state.bytes, state.waiting.len()), (0, 0));
    }
}
