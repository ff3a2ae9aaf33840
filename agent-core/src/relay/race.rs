//! Which relay, and which way to it: the ways of one are raced, then comes the
//! next relay.

use core::net::SocketAddr;

use weft_wire::relay::Relay;

use super::exchange::Exchange;
use super::ladder::{Rung, STEP_MS, WAYS, Way};
use super::state::{Core, Live};
use super::wanted::Wanted;
use super::{StreamId, Why};
use crate::time::{Duration, Instant};

/// After a round in which no relay gave anything; doubles …
pub(super) const REST: Duration = Duration::from_secs(5);
/// … up to this.
const LONGEST_REST: Duration = Duration::from_secs(300);
/// What is asked for, in seconds.
pub(super) const LIFETIME_S: u32 = 600;

/// How far it is with one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TryState {
    /// Nothing is done.
    Off,
    /// A connection is to be opened, or being opened.
    Opening,
    /// Allocate.
    Asking,
    /// Refresh with lifetime 0, for what somebody before us left; then Allocate.
    Clearing,
    /// Another way was faster: an allocation that still comes is given back.
    Losing,
    /// Refresh with lifetime 0.
    Freeing,
}

/// One way in a race, and what is left of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Try {
    pub(super) state: TryState,
    pub(super) exchange: Exchange,
    /// Somebody is there.
    pub(super) is_answered: bool,
    /// What was left by somebody before us was ended.
    pub(super) is_cleared: bool,
}

impl Try {
    pub(super) const OFF: Self = Self {
        state: TryState::Off,
        exchange: Exchange::NONE,
        is_answered: false,
        is_cleared: false,
    };

    pub(super) const fn at(due: Instant) -> Self {
        Self { state: TryState::Asking, exchange: Exchange::at(due), ..Self::OFF }
    }

    const fn races(&self) -> bool {
        matches!(self.state, TryState::Opening | TryState::Asking | TryState::Clearing)
    }

    /// Whether it has not been begun.
    const fn waits(&self) -> bool {
        self.races() && !self.exchange.is_open() && !self.is_answered
    }
}

/// A connection, as far as the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) id: StreamId,
    pub(super) state: LineState,
    /// The one before it, which the shell has not closed yet.
    pub(super) closing: Option<StreamId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineState {
    Closed,
    /// The shell has not been told yet.
    Wanted,
    Opening,
    Open,
}

impl Line {
    pub(super) const CLOSED: Self =
        Self { id: StreamId(0), state: LineState::Closed, closing: None };
}

impl<const PEERS: usize> Core<PEERS> {
    pub(super) fn start_round(&mut self, now: Instant) {
        match self.shunned.take_if(|(_, until)| now < *until) {
            Some((relay, _)) => self.start_round_without(relay, now),
            None => {
                self.tried = 0;
                self.next_relay(Why::NoRelay, now);
            }
        }
    }

    /// The same, but this relay is asked after all others.
    pub(super) fn start_round_without(&mut self, silent: Relay, now: Instant) {
        self.prefer = self.prefer.filter(|rung| rung.relay != silent.number);
        let place = self.relays.iter().position(|relay| *relay == silent);
        self.tried = place.map_or(0, |place| 1 << place);
        let may_use = |other: &&Relay| {
            **other != silent
                && self.ways(other).next().is_some()
                && self.grant.as_ref().is_some_and(|grant| grant.admits(other.number))
        };
        if self.relays.iter().any(|other| may_use(&other)) {
            self.next_relay(Why::NoAnswer, now);
        } else {
            self.start_round(now);
        }
    }

    /// The first relay that was not tried in this round, that which answered last
    /// before all others, or one that is nearer by far.
    fn next_relay(&mut self, why: Why, now: Instant) {
        let preferred = self.prefer.map(|rung| rung.relay);
        let is_other = |place: &usize| Some(self.relays[*place].number) != preferred;
        let first = self.admitted().min_by_key(is_other);
        let next = first.map(|first| self.relays[self.latency.choose(first, self.admitted())]);
        match next {
            Some(relay) => self.race(relay, now),
            None if why == Why::NoRelay && self.reachable().next().is_some() => {
                self.fail_round(Why::NotGranted, now);
            }
            None => self.fail_round(why, now),
        }
    }

    /// The places of the relays that were not tried in this round and to which there is
    /// a way.
    fn reachable(&self) -> impl Iterator<Item = usize> {
        let places = self.relays.iter().enumerate();
        let untried = places.filter(|(place, _)| self.tried & 1 << place == 0);
        untried.filter(|(_, relay)| self.ways(relay).next().is_some()).map(|(place, _)| place)
    }

    /// Those of them that we have credentials for.
    fn admitted(&self) -> impl Iterator<Item = usize> {
        let grants = |number| self.grant.as_ref().is_some_and(|grant| grant.admits(number));
        self.reachable().filter(move |place| grants(self.relays[*place].number))
    }

    /// The ways that there are to a relay.
    fn ways(&self, relay: &Relay) -> impl Iterator<Item = Way> + use<PEERS> {
        let (relay, sockets, has_streams) = (*relay, self.sockets, self.has_streams);
        let exists = move |way: &Way| {
            (has_streams || !way.is_stream()) && way.server(&relay, sockets).is_some()
        };
        Way::ALL.into_iter().filter(exists)
    }

    fn race(&mut self, relay: Relay, now: Instant) {
        self.close_lines();
        (self.current, self.is_racing, self.seed) = (Some(relay), true, None);
        self.tries = [Try::OFF; WAYS];
        let preferred = self.prefer.filter(|rung| rung.relay == relay.number);
        let preferred = preferred.map(|rung| rung.way);
        let first = self.ways(&relay).filter(|&way| Some(way) == preferred);
        let others = self.ways(&relay).filter(|&way| Some(way) != preferred);
        for (way, step) in first.chain(others).zip(0..) {
            let mut one = Try::at(now + Duration::from_millis(STEP_MS * step));
            if way.is_stream() {
                one.state = TryState::Opening;
            }
            self.tries[way as usize] = one;
        }
        self.check_tries(now);
    }

    /// What the clock says of the ways.
    pub(super) fn check_tries(&mut self, now: Instant) {
        for way in Way::ALL {
            let one = &mut self.tries[way as usize];
            if one.state == TryState::Opening && one.exchange.is_due(now) {
                one.exchange.only_listen(now);
                self.open_line(way);
            } else if one.exchange.is_given_up(now) {
                match one.state {
                    TryState::Losing | TryState::Freeing => *one = Try::OFF,
                    _ => self.fail_try(way, Why::NoAnswer, now),
                }
            }
        }
    }

    /// Somebody answers: no other way is begun.
    pub(super) fn hold(&mut self, way: Way) {
        self.tries[way as usize].is_answered = true;
        for one in self.tries.iter_mut().filter(|one| one.waits()) {
            one.exchange = Exchange::NONE;
        }
    }

    /// This way leads nowhere: the others go on, or the next relay is asked.
    pub(super) fn fail_try(&mut self, way: Way, why: Why, now: Instant) {
        self.tries[way as usize] = Try::OFF;
        self.close_line(way);
        if !self.tries.iter().any(Try::races) {
            return self.fail_relay(why, now);
        }
        if self.tries.iter().any(|one| one.races() && one.is_answered) {
            return;
        }
        for (one, step) in self.tries.iter_mut().filter(|one| one.waits()).zip(0..) {
            if one.exchange.due == Instant::FAR_FUTURE {
                one.exchange = Exchange::at(now + Duration::from_millis(STEP_MS * step));
            }
        }
    }

    /// This relay gives nothing.
    pub(super) fn fail_relay(&mut self, why: Why, now: Instant) {
        self.tried |= self.current_place().map_or(0, |place| 1 << place);
        self.failure = self.current.map(|relay| (relay.number, why));
        self.stop_tries(now);
        if why == Why::Credentials {
            self.ask_at = self.ask_at.min(now);
        }
        self.next_relay(why, now);
    }

    fn fail_round(&mut self, why: Why, now: Instant) {
        (self.is_racing, self.tried) = (false, 0);
        let rest = REST.saturating_mul(1 << self.rounds.min(6)).min(LONGEST_REST);
        self.rounds = self.rounds.saturating_add(1);
        self.rest_until = now + rest;
        self.silent_at = (why == Why::NoAnswer).then_some(now);
        self.news.failed = Some(why);
    }

    /// Nothing more is asked; what may still be answered is listened for.
    pub(super) fn stop_tries(&mut self, now: Instant) {
        for way in Way::ALL {
            let one = &mut self.tries[way as usize];
            let may_be_given = one.state == TryState::Asking && one.exchange.is_open();
            if may_be_given && !way.is_stream() {
                one.state = TryState::Losing;
                one.exchange.only_listen(now);
            } else if one.races() {
                *one = Try::OFF;
                self.close_line(way);
            }
        }
    }

    /// There is an allocation.
    pub(super) fn win(&mut self, way: Way, given: Given, now: Instant) {
        let Some(relay) = self.current else { return };
        self.tries[way as usize] = Try::OFF;
        self.stop_tries(now);
        self.latency.leave(self.tried, self.current_place(), now);
        (self.is_racing, self.tried, self.rounds) = (false, 0, 0);
        self.prefer = Some(Rung { relay: relay.number, way });
        let refresh_in = refresh_after(given.lifetime_s);
        self.live = Some(Live {
            way,
            refresh: Exchange::at(now + refresh_in),
            silent: 0,
            doubted_at: None,
            is_suspected: false,
            since: now,
            passed_at: None,
            expires: now + Duration::from_secs(given.lifetime_s.into()),
            v4: given.relayed.into_iter().flatten().find(SocketAddr::is_ipv4),
            v6: given.relayed.into_iter().flatten().find(SocketAddr::is_ipv6),
            mapped: given.mapped,
        });
        self.news.is_allocated = true;
        (self.news.failed, self.failure) = (None, None);
        self.peers.retain(Wanted::is_wanted);
        for peer in &mut self.peers {
            peer.start_over(now);
        }
    }

    fn open_line(&mut self, way: Way) {
        let Some(line) = way.slot().and_then(|slot| self.lines.get_mut(slot)) else { return };
        self.last_stream = self.last_stream.wrapping_add(1);
        line.id = StreamId(self.last_stream);
        line.state = LineState::Wanted;
    }

    pub(super) fn close_line(&mut self, way: Way) {
        let Some(line) = way.slot().and_then(|slot| self.lines.get_mut(slot)) else { return };
        if matches!(line.state, LineState::Opening | LineState::Open) {
            line.closing = Some(line.id);
        }
        line.state = LineState::Closed;
    }

    pub(super) fn close_lines(&mut self) {
        self.close_line(Way::Tcp);
        self.close_line(Way::Tls);
    }

    /// The place of a connection that stands.
    pub(super) fn slot_of(&self, stream: StreamId) -> Option<usize> {
        let is_it = |line: &Line| line.id == stream && line.state == LineState::Open;
        self.lines.iter().position(is_it)
    }

    /// The connection of this place, if it stands.
    pub(super) fn open_stream(&self, slot: usize) -> Option<(StreamId, Way)> {
        let line = self.lines.get(slot).filter(|line| line.state == LineState::Open)?;
        Some((line.id, if slot == 0 { Way::Tcp } else { Way::Tls }))
    }

    pub(super) fn handle_stream_connected(
        &mut self,
        stream: StreamId,
        now: Instant,
    ) -> Option<usize> {
        let is_it = |line: &Line| line.id == stream && line.state == LineState::Opening;
        let slot = self.lines.iter().position(is_it)?;
        self.lines[slot].state = LineState::Open;
        let (_, way) = self.open_stream(slot)?;
        let one = &mut self.tries[way as usize];
        if one.state == TryState::Opening {
            *one = Try::at(now);
        }
        Some(slot)
    }

    pub(super) fn handle_stream_closed(&mut self, stream: StreamId, now: Instant) {
        let is_it = |line: &Line| line.id == stream && line.state != LineState::Closed;
        let Some(slot) = self.lines.iter().position(is_it) else { return };
        let way = if slot == 0 { Way::Tcp } else { Way::Tls };
        // The shell knows: there is nothing to be closed.
        self.lines[slot].state = LineState::Closed;
        self.break_stream(way, now);
    }

    /// The connection is of no use any more.
    pub(super) fn break_stream(&mut self, way: Way, now: Instant) {
        self.close_line(way);
        if self.live.is_some_and(|live| live.way == way) {
            self.lose(Why::Closed, now);
        } else if self.tries[way as usize].races() {
            self.fail_try(way, Why::Closed, now);
        }
    }
}

/// What an Allocate was answered with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) relayed: [Option<SocketAddr>; 2],
    pub(super) mapped: SocketAddr,
    pub(super) lifetime_s: u32,
}

/// At three quarters: 450 s of 600.
pub(super) const fn refresh_after(lifetime_s: u32) -> Duration {
    Duration::from_millis(lifetime_s as u64 * 750)
}
