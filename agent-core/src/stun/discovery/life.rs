//! How long a binding lives: one rests for each length, then something is sent to
//! it (RFC 5780 section 4.6).

use core::net::SocketAddr;

use super::ASKER;
use super::RESTING;
use super::ask::{Ask, End, Purpose, Schedule};
use super::judge::Lifetime;
use crate::event::SocketId;
use crate::time::{Duration, Instant};

/// A flow that goes on for longer than 2 s is a stream to Linux, and lives longer.
const USED_AFTER: Duration = Duration::from_millis(2_500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Making,
    /// Made; used again then.
    Made(Instant),
    Using,
    /// Rests until then; its public port.
    Resting(Instant, u16),
    Looking(u16),
    Alive,
    Dead,
    /// Not to be told.
    Unknown,
}

/// One binding.
#[derive(Clone, Debug)]
pub(super) struct Life {
    number: u8,
    rest_s: u16,
    state: State,
}

impl Life {
    pub(super) const fn new(number: u8, rest_s: u16) -> Self {
        Self { number, rest_s, state: State::New }
    }

    pub(super) const fn is_open(&self) -> bool {
        !matches!(self.state, State::Alive | State::Dead | State::Unknown)
    }

    pub(super) const fn due_at(&self) -> Option<Instant> {
        match self.state {
            State::Made(at) | State::Resting(at, _) => Some(at),
            _ => None,
        }
    }

    /// The ask whose end it waits for.
    pub(super) const fn waits_for(&self) -> Option<Purpose> {
        match self.state {
            State::Making => Some(Purpose::Made(self.number)),
            State::Using => Some(Purpose::Used(self.number)),
            State::Looking(port) => Some(Purpose::Looked(self.number, port)),
            _ => None,
        }
    }

    /// A length is looked at a sixteenth early: a NAT whose clock is the length
    /// itself, as most are, is one that keeps a binding for that long.
    fn rest(&self) -> Duration {
        Duration::from_millis(u64::from(self.rest_s) * 1_000 * 15 / 16)
    }

    /// Goes on; `ended` is what became of the ask that it waits for.
    pub(super) fn advance(
        &mut self,
        ended: Option<End>,
        server: SocketAddr,
        now: Instant,
    ) -> Option<Ask> {
        let own = SocketId(RESTING + self.number);
        let ask =
            |purpose, socket, schedule| Some(Ask::new(purpose, socket, server, now, schedule));
        match (self.state, ended) {
            (State::New, _) => {
                self.state = State::Making;
                ask(Purpose::Made(self.number), own, &Schedule::ANSWERED)
            }
            (State::Making, Some(End::Answered { at, .. })) => {
                self.state = State::Made(at + USED_AFTER);
                None
            }
            (State::Made(at), _) if at <= now => {
                self.state = State::Using;
                ask(Purpose::Used(self.number), own, &Schedule::ANSWERED)
            }
            (State::Using, Some(End::Answered { mapped, at, .. })) => {
                self.state = State::Resting(at + self.rest(), mapped.port());
                None
            }
            (State::Resting(at, port), _) if at <= now => {
                self.state = State::Looking(port);
                ask(Purpose::Looked(self.number, port), ASKER, &Schedule::DOUBTFUL)
            }
            (State::Looking(_), Some(End::Answered { .. })) => {
                self.state = State::Alive;
                None
            }
            (State::Looking(_), Some(End::Silent)) => {
                self.state = State::Dead;
                None
            }
            (State::Making | State::Using | State::Looking(_), Some(_)) => {
                self.state = State::Unknown;
                None
            }
            _ => None,
        }
    }
}

/// What a length did not outlive a longer one does not either.
pub(super) fn end_longer(lives: &mut [Life]) {
    let dead = lives.iter().filter(|life| life.state == State::Dead).map(|life| life.rest_s).min();
    for life in lives {
        if life.is_open() && dead.is_some_and(|dead| life.rest_s >= dead) {
            life.state = State::Dead;
        }
    }
}

/// The longest that lived and the shortest that did not.
pub(super) fn judge(lives: &[Life]) -> Option<Lifetime> {
    let of = |state| lives.iter().filter(move |life| life.state == state).map(|life| life.rest_s);
    let (alive_s, dead_s) = (of(State::Alive).max(), of(State::Dead).min());
    if alive_s.is_none() && dead_s.is_none() {
        return None;
    }
    Some(Lifetime { alive_s: alive_s.unwrap_or(0), dead_s })
}
