//! The three session slots of a peer (section 6.3 of the paper, and the
//! kernel's `keypairs`).
//!
//! *Current* is sealed with. *Next* is what the peer initiated and we answered;
//! it becomes current with its first authenticated packet. *Previous* is still
//! opened. Data is accepted on all three.
//!
//! An answer alone makes no session leave but an earlier answer. The kernel
//! forgets *previous* with each, and *current* when handshakes cross, while the
//! peer's packets in them are on their way: keys that rotate on both sides at
//! once would lose a packet or two each time.
//!
//! When both sides initiate at once, both handshakes succeed, and each side
//! would go on with its own: two sessions, two initiators, twice the
//! handshakes at every rekey. So the session whose initiator drew the smaller
//! index yields: the index is the same to both sides, while either may know a
//! newer key than the other. Its first packet makes it *previous*; that of the
//! other makes it *current*. Against other implementations both sessions work,
//! as always.
//!
//! The data path has a place for one session of each peer, and as many more as
//! there are places for handshakes: *previous* and *next* are rarely both needed.
//! When all are taken a new session has another's, see [`Sessions::spare`].

use heapless::Vec;

use super::keys::KeyMark;
use crate::config::implementation::SEND_MARGIN;
use crate::config::specification::{REJECT_AFTER_TIME, REKEY_ON_RECEIVE_TIME};
use crate::event::SessionTimes;
use crate::time::{Duration, Instant};

/// A session, without what seals and opens.
pub(super) struct Session {
    /// Our receiver index.
    pub(super) index: u32,
    /// Of the peer's key that it was made with.
    pub(super) key: KeyMark,
    /// Whether we initiated it.
    pub(super) initiator: bool,
    /// When the keys were made.
    pub(super) established_at: Instant,
    /// How many microseconds before that the first of the two messages was sent or
    /// received: the peer's clock of this session started no earlier. Initiations are
    /// repeated, so that an hour is more than enough.
    pub(super) took: u32,
    /// While *next*: our own handshake was answered meanwhile, and its session
    /// is the one to be sealed with.
    pub(super) yields: bool,
    /// The data path took its keys.
    pub(super) held: bool,
    /// Something authenticated came in it: the peer seals with it, and no more with
    /// those before it.
    pub(super) heard: bool,
}

/// A session that can be given up, those first that are missed least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spare {
    /// The peer may seal with it, now or from its next packet on.
    pub(super) in_use: bool,
    /// Since when it waits to be told, or is only for what is late.
    pub(super) since: Instant,
    /// Its index.
    pub(super) index: u32,
}

impl Session {
    /// When to stop sealing, and when to replace the session on sending. An
    /// initiator counts from its first message, so that it stops before the
    /// responder, whose session is younger, refuses.
    pub(super) fn sealing(&self, rekey_after: Duration) -> SessionTimes {
        let took = Duration::from_micros(self.took.into());
        SessionTimes {
            rekey_at: self.rekey_at(rekey_after),
            expires_at: self.established_at + REJECT_AFTER_TIME - SEND_MARGIN - took,
        }
    }

    /// When to stop opening, and when to replace the session on receiving.
    pub(super) fn opening(&self) -> SessionTimes {
        SessionTimes {
            rekey_at: self.rekey_at(REKEY_ON_RECEIVE_TIME),
            expires_at: self.established_at + REJECT_AFTER_TIME,
        }
    }

    fn rekey_at(&self, age: Duration) -> Instant {
        if self.initiator { self.established_at + age } else { Instant::FAR_FUTURE }
    }
}

/// What a first packet did to the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// The session is now current.
    Promoted,
    /// The session is known and stays where it is.
    Kept,
    /// No such session, or confirmed before.
    Nothing,
}

/// A session that left its slot: its index is to be freed.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) index: u32,
    /// The data path took its keys and is to drop them.
    pub(super) held: bool,
}

/// There are three slots, so at most three leave.
pub(super) type Gone = Vec<Left, SLOTS>;

/// Sessions of one peer.
pub(super) const SLOTS: usize = 3;

/// The slots.
#[derive(Default)]
pub(super) struct Sessions {
    pub(super) current: Option<Session>,
    previous: Option<Session>,
    next: Option<Session>,
    /// The peer's index of *next*.
    sender: u32,
}

impl Sessions {
    /// Our initiation was answered.
    #[must_use]
    pub(super) fn complete(&mut self, session: Session) -> Gone {
        let mut gone = Gone::new();
        if let Some(next) = &mut self.next {
            next.yields = session.index > self.sender;
        }
        let before = self.current.replace(session);
        leave(&mut gone, core::mem::replace(&mut self.previous, before));
        gone
    }

    /// The peer initiates anew: what we answered before is not what it waits
    /// for, and its index is free for the new answer.
    #[must_use]
    pub(super) fn drop_next(&mut self) -> Gone {
        let mut gone = Gone::new();
        leave(&mut gone, self.next.take());
        gone
    }

    /// We answered an initiation with this index, after [`Sessions::drop_next`].
    pub(super) fn respond(&mut self, session: Session, sender: u32) {
        self.next = Some(session);
        self.sender = sender;
    }

    /// The first authenticated packet of a session came.
    #[must_use]
    pub(super) fn confirm(&mut self, index: u32) -> (Confirmed, Gone) {
        let mut gone = Gone::new();
        if let Some(session) = self.iter_mut().find(|session| session.index == index) {
            session.heard = true;
        }
        let Some(session) = self.next.take_if(|next| next.index == index) else {
            return (Confirmed::Nothing, gone);
        };
        leave(&mut gone, self.previous.take());
        // Nothing to yield to, once that session's keys are gone.
        if session.yields && self.current.is_some() {
            self.previous = Some(session);
            return (Confirmed::Kept, gone);
        }
        self.previous = self.current.replace(session);
        (Confirmed::Promoted, gone)
    }

    /// Drops sessions made with keys that `keep` refuses.
    #[must_use]
    pub(super) fn retain(&mut self, keep: impl Fn(KeyMark) -> bool) -> Gone {
        let mut gone = Gone::new();
        for slot in [&mut self.previous, &mut self.current, &mut self.next] {
            leave(&mut gone, slot.take_if(|session| !keep(session.key)));
        }
        gone
    }

    /// Whether an answer of ours replaces one before it.
    pub(super) const fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Whether a session of our own replaces one that is only opened.
    pub(super) const fn has_previous(&self) -> bool {
        self.previous.is_some()
    }

    /// What could make room for another session: *previous*, and only then *next*. Once
    /// the peer was heard in *current* it seals with that, and *previous* is for packets
    /// that others overtook; before, it may still seal with it.
    pub(super) fn spare(&self) -> Option<Spare> {
        let previous = self.previous.as_ref().map(|previous| {
            let current = self.current.as_ref();
            Spare {
                in_use: current.is_none_or(|current| !current.heard),
                since: current.unwrap_or(previous).established_at,
                index: previous.index,
            }
        });
        let next = self.next.as_ref().map(|next| Spare {
            in_use: true,
            since: next.established_at,
            index: next.index,
        });
        [previous, next].into_iter().flatten().min()
    }

    /// Gives one of them up.
    #[must_use]
    pub(super) fn give_up(&mut self, index: u32) -> Gone {
        let mut gone = Gone::new();
        for slot in [&mut self.previous, &mut self.next] {
            leave(&mut gone, slot.take_if(|session| session.index == index));
        }
        gone
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        [&self.previous, &self.current, &self.next].into_iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        [&mut self.previous, &mut self.current, &mut self.next].into_iter().flatten()
    }
}

fn leave(gone: &mut Gone, session: Option<Session>) {
    if let Some(session) = session {
        // There is room, see `Gone`.
        let _ = gone.push(Left { index: session.index, held: session.held });
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::id::PublicKey;

    use super::*;

    fn session(index: u32, key: u8, initiator: bool) -> Session {
        Session {
            index,
            key: KeyMark::of(&PublicKey([key; 32])),
            initiator,
            established_at: Instant::ZERO,
            took: 0,
            yields: false,
            held: true,
            heard: false,
        }
    }

    /// An answered session beside one of ours, whose initiator drew more.
    fn crossed() -> Sessions {
        let mut sessions = Sessions::default();
        sessions.respond(session(1, 1, false), 5);
        assert!(sessions.complete(session(9, 2, true)).is_empty());
        sessions
    }

    fn current(sessions: &Sessions) -> Option<u32> {
        sessions.current.as_ref().map(|session| session.index)
    }

    #[test]
    fn of_two_crossed_sessions_that_of_the_smaller_index_yields() {
        let mut sessions = crossed();
        assert_eq!(sessions.confirm(1).0, Confirmed::Kept);
        assert_eq!(current(&sessions), Some(9));
    }

    #[test]
    fn what_yields_is_current_when_there_is_nothing_to_yield_to() {
        let mut sessions = crossed();
        assert_eq!(sessions.retain(|key| key == KeyMark::of(&PublicKey([1; 32]))).len(), 1);
        assert_eq!(sessions.confirm(1).0, Confirmed::Promoted);
        assert_eq!(current(&sessions), Some(1));
    }
}
