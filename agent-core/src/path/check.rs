//! Probes of one peer: which addresses are tried, when, and what answered.
//!
//! A round begins on both sides when both know the other's addresses, as close
//! together as the times of travel that were measured allow: many NATs let in
//! only what they have seen go out, and some spoil a mapping that the other
//! side's probe reaches first. Each address gets seven pings in 1.3 s, the gaps
//! doubling. Only an answer to our own ping makes a way of an address.
//!
//! A ping from another port of an address that the peer named is answered, and one
//! goes there at once. One from anywhere else may have been caught and sent on under
//! somebody else's address, who is to get no more than was sent in the name of it: the
//! first draws a ping instead of the answer, and every other one its answer alone.

use core::net::{IpAddr, SocketAddr};

use heapless::{Deque, Vec};
use weft_wire::probe::{ProbeHead, ProbeKind};
use weft_wire::signal::CANDIDATES;

use super::Route;
use super::candidate::is_public;
use super::history::Tried;
use super::route::Packed;
use crate::event::DropReason;
use crate::time::{Duration, Instant};

/// When an address is tried, from the beginning of its round.
const BURST: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(140),
    Duration::from_millis(300),
    Duration::from_millis(620),
    Duration::from_millis(1_240),
];
/// Between the first pings of two addresses, so that no queue on the way sees
/// all of them at once.
const PACE: Duration = Duration::from_millis(1);
/// A relay lets the peer's side in when it has heard of it from whoever has the
/// allocation, who begins at the same time: pings to what a relay keeps come
/// this much later.
const RELAYED_LAG: Duration = Duration::from_millis(5);
/// Addresses of a peer: those that it named, and two that it turned out to have.
const CHECKS: usize = CANDIDATES + 2;
/// An answer is good for this long.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// Round trips whose milliseconds share this multiple are as good as one another.
const ALIKE_MS: u16 = 8;
/// Pongs that wait to be sent.
const PONGS: usize = 2;
/// Pings remembered, so that a copy is not answered.
const SEEN: usize = 8;
/// A ping older than this, by the peer's own clock, is a copy whoever remembers
/// it: a round is over by then.
const LATE: u32 = 2_000;
/// Pongs to one peer in a second. A round of ten addresses asks for no more.
const PONG_RATE: u16 = 40;

/// One address.
#[derive(Clone, Copy, Debug)]
struct Check {
    packed: Packed,
    /// When its pings began, or are to; `FAR_FUTURE` = nobody has said.
    began: Instant,
    /// When it answered last; `ZERO` = it did not.
    answered_at: Instant,
    /// Round trip of that answer, in milliseconds.
    rtt_ms: u16,
    /// Pings sent in this round.
    sends: u8,
    /// Bits of [`mark`].
    marks: u8,
}

/// What is so of an address. Bits, because there are ten addresses to each peer.
mod mark {
    /// The next ping of the burst goes in its turn.
    pub(super) const DUE: u8 = 1;
    /// It goes now.
    pub(super) const AT_ONCE: u8 = 2;
    /// The peer named it, or is there: it gets the whole burst.
    pub(super) const NAMED: u8 = 4;
    /// A relay is on the way.
    pub(super) const RELAYED: u8 = 8;
}

impl Check {
    fn new(route: Route, relayed: bool, began: Instant, named: bool) -> Self {
        let mut marks = mark::DUE;
        if named {
            marks |= mark::NAMED;
        }
        if relayed {
            marks |= mark::RELAYED;
        }
        let packed = Packed::from(route);
        Self { packed, began, answered_at: Instant::ZERO, rtt_ms: 0, sends: 0, marks }
    }

    const fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// When the next ping goes; `FAR_FUTURE` = none is due.
    fn due_at(&self) -> Instant {
        match BURST.get(usize::from(self.sends)) {
            _ if self.is(mark::AT_ONCE) => Instant::ZERO,
            Some(&after) if self.is(mark::DUE) && self.began != Instant::FAR_FUTURE => {
                self.began + after
            }
            _ => Instant::FAR_FUTURE,
        }
    }

    /// No ping is due.
    const fn rest(&mut self) {
        self.marks &= !(mark::DUE | mark::AT_ONCE);
    }

    fn route(&self) -> Route {
        self.packed.into()
    }

    fn ip(&self) -> IpAddr {
        self.route().address().ip()
    }

    fn leads(&self, route: Route) -> bool {
        self.packed == Packed::from(route)
    }

    fn is_good(&self, now: Instant) -> bool {
        self.answered_at != Instant::ZERO && now - self.answered_at < GOOD_FOR
    }

    /// All of its pings are to be sent once more.
    const fn restart(&mut self, began: Instant) {
        self.rest();
        self.marks |= mark::DUE;
        self.began = began;
        self.answered_at = Instant::ZERO;
        self.sends = 0;
    }
}

/// What a probe is made of, but for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) route: Route,
    pub(super) kind: ProbeKind,
    pub(super) head: ProbeHead,
    /// Of a pong: since when it waits.
    pub(super) heard_at: Instant,
}

/// An answer that waits to be sent.
#[derive(Clone, Copy, Debug)]
struct Pong {
    packed: Packed,
    relayed: bool,
    number: u8,
    clock_ms: u32,
    transaction: u64,
    /// Since when it waits.
    heard_at: Instant,
}

/// All probes with one peer.
#[derive(Debug)]
pub(super) struct Checks {
    list: Vec<Check, CHECKS>,
    /// Nothing has confirmed or replaced what the peer named.
    open: bool,
    pongs: Deque<Pong, PONGS>,
    /// Names of pings in four bytes: of 40 in a second hardly one of a year is taken for
    /// another.
    seen: [u32; SEEN],
    next_seen: u8,
    /// The latest clock of a ping of this call.
    newest_ms: Option<u32>,
    /// The transaction of the first address; the others count on.
    transaction: u64,
    /// What the peer's probes to us carry, drawn by us; 0 = not yet.
    pub(super) own_handle: u32,
    /// What the peer wants ours to carry.
    handle: u32,
    /// Id of the call.
    epoch: u32,
    /// Pongs of the second that began then.
    pongs_sent: (Instant, u16),
}

/// The millisecond clock that probes carry.
pub(super) const fn clock_ms(now: Instant) -> u32 {
    // Wraps around: only differences are looked at.
    now.as_millis() as u32
}

impl Checks {
    pub(super) const fn new() -> Self {
        Self {
            list: Vec::new(),
            open: false,
            pongs: Deque::new(),
            seen: [0; SEEN],
            next_seen: 0,
            newest_ms: None,
            transaction: 0,
            own_handle: 0,
            handle: 0,
            epoch: 0,
            pongs_sent: (Instant::ZERO, 0),
        }
    }

    /// The peer's probes and ours belong to this call from now on.
    pub(super) const fn set_call(&mut self, call: u32, handle: u32) {
        if self.epoch != call {
            // It may have started anew, and its clock with it.
            self.newest_ms = None;
        }
        self.epoch = call;
        self.handle = handle;
    }

    /// Whether our probes carry what the peer wants them to.
    pub(super) const fn knows_handle(&self, handle: u32) -> bool {
        self.handle == handle
    }

    /// Draws up a round of ways and whether a relay is on each.
    /// [`Checks::start`] begins it.
    pub(super) fn begin(&mut self, routes: impl Iterator<Item = (Route, bool)>, transaction: u64) {
        self.transaction = transaction;
        self.open = true;
        self.list.clear();
        for (route, relayed) in routes {
            if self.list.iter().all(|check| !check.leads(route)) {
                // What a peer named beyond the places is left out.
                let _ = self.list.push(Check::new(route, relayed, Instant::FAR_FUTURE, true));
            }
        }
    }

    /// Asks the one way that data takes.
    pub(super) fn ask(&mut self, route: Route, relayed: bool, transaction: u64, now: Instant) {
        self.transaction = transaction;
        if self.list.iter().all(|check| !check.leads(route)) {
            if self.list.is_full() {
                self.list.pop();
            }
            // Cannot fail: one place was just made.
            let _ = self.list.push(Check::new(route, relayed, now, true));
        }
        for check in self.list.iter_mut().filter(|check| check.leads(route)) {
            check.marks |= mark::NAMED;
            check.restart(now);
        }
    }

    /// Asks every way that is known, for as long as nobody names others.
    pub(super) fn retry(&mut self, transaction: u64, now: Instant) {
        self.transaction = transaction;
        for (check, place) in self.list.iter_mut().zip(0..) {
            if check.answered_at != Instant::ZERO {
                check.marks |= mark::NAMED;
            }
            check.restart(now + PACE * place);
        }
    }

    /// The round begins at `at`.
    pub(super) fn start(&mut self, at: Instant) {
        for (place, check) in (0..).zip(&mut self.list).filter(|(_, check)| check.sends == 0) {
            let is_kept = check.is(mark::RELAYED) && !check.route().is_ours();
            let lag = if is_kept { RELAYED_LAG } else { Duration::ZERO };
            check.rest();
            check.marks |= mark::DUE;
            check.began = at + PACE * place + lag;
        }
    }

    /// Sockets were closed: what was found through them is no way any more.
    pub(super) fn close(&mut self, is_closed: impl Fn(Route) -> bool) {
        for check in self.list.iter_mut().filter(|check| is_closed(check.route())) {
            check.rest();
            check.answered_at = Instant::ZERO;
        }
    }

    /// Nothing more is tried: there is a way, or there is none.
    pub(super) fn end(&mut self) {
        self.open = false;
        for check in &mut self.list {
            check.rest();
        }
    }

    /// The same, but addresses that only neighbours of the peer reach are tried to the
    /// end of their pings: there is a way that turns around at a router, and a shorter
    /// one may have been a moment late.
    pub(super) fn end_but_near(&mut self) {
        self.open = false;
        for check in self.list.iter_mut().filter(|check| is_public(check.ip())) {
            check.rest();
        }
    }

    /// The best way that answered a moment ago: one without a relay, then the
    /// fastest; of those that are alike, a neighbour's. Whether a relay is on it.
    pub(super) fn best(&self, now: Instant) -> Option<(Route, bool)> {
        let answered = self.list.iter().filter(|check| check.is_good(now));
        let best = answered.min_by_key(|check| {
            (check.is(mark::RELAYED), check.rtt_ms / ALIKE_MS, is_public(check.ip()))
        })?;
        Some((best.route(), best.is(mark::RELAYED)))
    }

    /// Whether the peer named this address.
    pub(super) fn names(&self, address: SocketAddr) -> bool {
        self.list.iter().any(|check| check.is(mark::NAMED) && check.route().address() == address)
    }

    /// Another port that the peer named at the host of an address of its own: new
    /// flows may come from there.
    pub(super) fn other_port(&self, of: SocketAddr) -> Option<SocketAddr> {
        let named =
            self.list.iter().filter(|check| check.is(mark::NAMED) && !check.is(mark::RELAYED));
        let mut addresses = named.map(|check| check.route().address());
        addresses.find(|address| address.ip() == of.ip() && *address != of)
    }

    /// Whether this way answered a moment ago.
    pub(super) fn answers(&self, route: Route, now: Instant) -> bool {
        self.list.iter().any(|check| check.leads(route) && check.is_good(now))
    }

    /// Whether the peer is tried at this address.
    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        self.list.iter().any(|check| check.route().address() == address)
    }

    /// Whether a relay is on this way, as far as the peer has named it.
    pub(super) fn is_relayed(&self, route: Route) -> Option<bool> {
        let known = self.list.iter().find(|check| check.leads(route));
        known.map(|check| check.is(mark::RELAYED))
    }

    /// Addresses that are reached through our own allocation.
    pub(super) fn through_ours(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let ours = self.list.iter().filter(|check| check.route().is_ours());
        ours.map(|check| check.route().address())
    }

    /// What was tried of addresses that no relay keeps.
    pub(super) fn tried(&self) -> Tried {
        let direct = self.list.iter().filter(|check| !check.is(mark::RELAYED) && check.sends > 0);
        direct.fold(Tried::default(), |all, check| Tried {
            addresses: all.addresses + 1,
            answered: all.answered + u8::from(check.answered_at != Instant::ZERO),
            pings: all.pings.saturating_add(check.sends.into()),
        })
    }

    /// The round trip of the last answer that came this way, in milliseconds, and
    /// when it came.
    pub(super) fn rtt(&self, route: Route) -> Option<(u16, Instant)> {
        let answered = self.list.iter().filter(|check| check.answered_at != Instant::ZERO);
        let mut answered = answered.filter(|check| check.leads(route));
        let check = answered.next()?;
        Some((check.rtt_ms, check.answered_at))
    }

    /// Whether nothing more is to be sent.
    pub(super) fn is_spent(&self) -> bool {
        self.list.iter().all(|check| check.due_at() == Instant::FAR_FUTURE)
    }

    /// Where the peer may be, as far as nothing has told since.
    pub(super) fn open(&self) -> impl Iterator<Item = Route> + '_ {
        self.list.iter().filter(|_| self.open).map(Check::route)
    }

    /// Whether there is such a place.
    pub(super) fn is_open(&self) -> bool {
        self.open && !self.list.is_empty()
    }

    /// An authentic ping came this way: it is answered, unless it is a copy or
    /// one too many. `proven`: authentic data came this way last.
    pub(super) fn handle_ping(
        &mut self,
        route: Route,
        relayed: bool,
        proven: bool,
        ping: &ProbeHead,
        now: Instant,
    ) -> Result<(), DropReason> {
        // Both are the peer's own choice, and it is authentic.
        let name = ping.transaction.rotate_left(8) ^ u64::from(ping.number).wrapping_add(1);
        // Names of one peer differ by little numbers here and there (a round counts on from its
        // first, a ladder 2^32 further): a product mixes them. Never 0, which is nobody's.
        let name = ((name.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32).max(1);
        let behind = self.newest_ms.map_or(0, |newest| newest.wrapping_sub(ping.clock_ms));
        // In the other half of the circle it is ahead.
        if self.seen.contains(&name) || (LATE..1 << 31).contains(&behind) {
            return Err(DropReason::Replayed);
        }
        let (since, sent) = self.pongs_sent;
        if now - since >= Duration::from_secs(1) {
            self.pongs_sent = (now, 0);
        } else if sent >= PONG_RATE {
            return Err(DropReason::RateLimited);
        }
        if self.pongs.is_full() {
            return Err(DropReason::QueueFull);
        }
        self.pongs_sent.1 += 1;
        if behind == 0 || behind >= 1 << 31 {
            self.newest_ms = Some(ping.clock_ms);
        }
        self.remember(name);
        if !self.learn(route, relayed, proven, now) {
            let ProbeHead { relayed, number, clock_ms, transaction, .. } = *ping;
            let packed = route.into();
            let pong = Pong { packed, relayed, number, clock_ms, transaction, heard_at: now };
            // Cannot fail: there is room.
            let _ = self.pongs.push_back(pong);
        }
        Ok(())
    }

    /// An authentic pong came this way. Returns whether it answers a ping that
    /// went this way: the first to do so makes a way of the address.
    pub(super) fn handle_pong(
        &mut self,
        route: Route,
        pong: &ProbeHead,
        delay_ms: u16,
        now: Instant,
    ) -> Option<bool> {
        let transaction = self.transaction;
        let mut asked = (0..).zip(&mut self.list);
        let (_, check) = asked.find(|(place, check)| {
            check.leads(route) && transaction.wrapping_add(*place) == pong.transaction
        })?;
        if pong.number >= check.sends {
            return None;
        }
        let passed = clock_ms(now).wrapping_sub(pong.clock_ms).saturating_sub(delay_ms.into());
        let first = check.answered_at == Instant::ZERO;
        check.rtt_ms = u16::try_from(passed).unwrap_or(u16::MAX);
        check.answered_at = now;
        check.rest();
        Some(first)
    }

    /// A transaction that no ping of a round has.
    pub(super) const fn ladder(&self) -> u64 {
        self.transaction.wrapping_add(1 << 32)
    }

    /// A ping of which nothing is remembered.
    pub(super) fn outgoing(&self, route: Route, transaction: u64, now: Instant) -> Outgoing {
        let head = ProbeHead {
            receiver: self.handle,
            epoch: self.epoch,
            transaction,
            clock_ms: clock_ms(now),
            relayed: false,
            number: 0,
        };
        Outgoing { route, kind: ProbeKind::Ping, head, heard_at: now }
    }

    /// When [`Checks::poll`] has something.
    pub(super) fn due_at(&self) -> Option<Instant> {
        if let Some(pong) = self.pongs.front() {
            return Some(pong.heard_at);
        }
        let at = self.list.iter().map(Check::due_at).min()?;
        (at != Instant::FAR_FUTURE).then_some(at)
    }

    /// The next probe that is to be sent.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Outgoing> {
        if let Some(pong) = self.pongs.pop_front() {
            let Pong { packed, relayed, number, clock_ms, transaction, heard_at } = pong;
            let (receiver, epoch) = (self.handle, self.epoch);
            let head = ProbeHead { receiver, epoch, transaction, clock_ms, relayed, number };
            let route = packed.into();
            return Some(Outgoing { route, kind: ProbeKind::Pong, head, heard_at });
        }
        let (place, check) = (0..).zip(&mut self.list).find(|(_, check)| check.due_at() <= now)?;
        let number = check.sends;
        check.sends = check.sends.saturating_add(1);
        check.rest();
        if check.is(mark::NAMED) && usize::from(check.sends) < BURST.len() {
            check.marks |= mark::DUE;
        }
        let (route, relayed) = (check.route(), check.is(mark::RELAYED));
        let mut ping = self.outgoing(route, self.transaction.wrapping_add(place), now);
        (ping.head.number, ping.head.relayed) = (number, relayed);
        Some(ping)
    }

    /// The peer was heard there: it is tried, at once if it was not yet. Whether that
    /// ping is all that goes there for what came.
    fn learn(&mut self, route: Route, relayed: bool, proven: bool, now: Instant) -> bool {
        let ip = route.address().ip();
        let is_named = |check: &Check| check.is(mark::NAMED) && check.route().address().ip() == ip;
        let is_its = proven || self.list.iter().any(is_named);
        let known = self.list.iter_mut().find(|check| check.leads(route));
        match known {
            // Our round has begun there, and nothing has answered.
            Some(check) if check.due_at() != Instant::FAR_FUTURE => check.marks |= mark::AT_ONCE,
            Some(check) if is_its && check.sends > 0 && check.answered_at == Instant::ZERO => {
                check.marks |= mark::AT_ONCE;
            }
            Some(_) => {}
            None => {
                // One address too many is left out: somebody who may speak for
                // the peer wastes the peer's own places.
                let tried = self.list.push(Check::new(route, relayed, now, false));
                return tried.is_ok() && !is_its;
            }
        }
        false
    }

    fn remember(&mut self, name: u32) {
        if let Some(place) = self.seen.get_mut(usize::from(self.next_seen)) {
            *place = name;
        }
        self.next_seen = (self.next_seen + 1) % SEEN as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SocketId;

    fn route(last: u8) -> Route {
        let address = SocketAddr::from(([198, 51, 100, last], 4_000));
        Route::Direct { socket: SocketId(0), address }
    }

    /// Another port of that host.
    fn port(last: u8, port: u16) -> Route {
        let address = SocketAddr::from(([198, 51, 100, last], port));
        Route::Direct { socket: SocketId(0), address }
    }

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn sent(checks: &mut Checks, now: Instant) -> std::vec::Vec<Outgoing> {
        core::iter::from_fn(|| checks.poll(now)).collect()
    }

    #[test]
    fn pings_of_a_round_and_of_a_ladder_are_told_apart() {
        let mut theirs = Checks::new();
        theirs.transaction = 0x0123_4567_89AB_CDEF;
        let name = |transaction: u64| {
            let mut checks = Checks::new();
            let ping = theirs.outgoing(route(8), transaction, at(0)).head;
            checks.handle_ping(route(8), false, false, &ping, at(0)).unwrap();
            checks.seen[0]
        };
        let mut names = std::collections::BTreeSet::new();
        for number in 0..200 {
            assert!(names.insert(name(theirs.transaction.wrapping_add(number))));
            assert!(names.insert(name(theirs.ladder().wrapping_add(number))));
        }
    }

    #[test]
    fn each_address_gets_seven_pings_and_no_more() {
        let mut checks = Checks::new();
        checks.set_call(7, 9);
        checks.begin(
            [route(1), route(2), route(1)].map(|route| (route, false)).into_iter(),
            u64::MAX,
        );
        assert_eq!(checks.due_at(), None);
        checks.start(at(100));
        let mut all = vec![];
        while let Some(due) = checks.due_at() {
            all.extend(sent(&mut checks, due).into_iter().map(|ping| {
                assert_eq!((ping.head.receiver, ping.head.epoch), (9, 7));
                (due.as_millis() - 100, ping.route, ping.head.transaction, ping.head.number)
            }));
        }
        let of = |wanted: Route| {
            let pings = all.iter().filter(|(_, route, ..)| *route == wanted);
            pings
                .map(|&(at, _, transaction, number)| (at, transaction, number))
                .collect::<std::vec::Vec<_>>()
        };
        let times = [0, 20, 60, 140, 300, 620, 1_240];
        let expected = |late: u64, transaction: u64| {
            let pings = times.iter().zip(0..);
            pings
                .map(|(&at, number)| (at + late, transaction, number))
                .collect::<std::vec::Vec<_>>()
        };
        assert_eq!(of(route(1)), expected(0, u64::MAX));
        assert_eq!(of(route(2)), expected(1, 0));
    }

    #[test]
    fn only_an_answer_to_our_ping_from_where_it_went_makes_a_way() {
        let mut checks = Checks::new();
        checks.begin([route(1), route(2)].map(|route| (route, false)).into_iter(), 40);
        checks.start(at(0));
        let ping = sent(&mut checks, at(0))[0].head;
        let mut pong =
            |route, head: &ProbeHead, delay| checks.handle_pong(route, head, delay, at(30));
        assert_eq!(pong(route(2), &ping, 0), None, "from elsewhere");
        assert_eq!(pong(route(3), &ping, 0), None);
        assert_eq!(pong(route(1), &ProbeHead { transaction: 41, ..ping }, 0), None);
        assert_eq!(pong(route(1), &ProbeHead { number: 1, ..ping }, 0), None, "not sent yet");
        assert_eq!(pong(route(1), &ping, 10), Some(true));
        assert_eq!(pong(route(1), &ping, 0), Some(false), "a copy");
        assert_eq!((checks.list[0].rtt_ms, checks.list[0].answered_at), (30, at(30)));
        assert_eq!(checks.best(at(5_029)), Some((route(1), false)));
        assert_eq!(checks.best(at(5_030)), None, "that was a while ago");
        let rest = sent(&mut checks, at(5_000));
        assert!(rest.iter().all(|ping| ping.route == route(2)), "who answered is left alone");
    }

    #[test]
    fn a_ping_is_answered_once_and_its_source_is_tried() {
        let mut checks = Checks::new();
        checks.set_call(1, 2);
        checks.begin(core::iter::once((port(8, 1), false)), 40);
        let ping = ProbeHead { transaction: 5, clock_ms: 77, number: 3, ..ProbeHead::default() };
        assert_eq!(checks.handle_ping(route(8), false, false, &ping, at(10)), Ok(()));
        let copy = Err(DropReason::Replayed);
        assert_eq!(checks.handle_ping(route(8), false, false, &ping, at(10)), copy);
        assert_eq!(checks.handle_ping(route(9), false, false, &ping, at(10)), copy, "elsewhere");
        let out = sent(&mut checks, at(12));
        assert_eq!(
            (out[0].kind, out[0].route, out[0].heard_at),
            (ProbeKind::Pong, route(8), at(10))
        );
        assert_eq!(out[0].head, ProbeHead { receiver: 2, epoch: 1, ..ping });
        assert_eq!((out[1].kind, out[1].route), (ProbeKind::Ping, route(8)));
        assert_eq!(out.len(), 2);
    }

    /// Numbered pings, each from somewhere: what is sent for it within a second.
    fn drawn(
        checks: &mut Checks,
        (route, proven): (Route, bool),
        number: u8,
        now: Instant,
    ) -> std::vec::Vec<ProbeKind> {
        let (transaction, clock_ms) = (5, clock_ms(now));
        let ping = ProbeHead { transaction, clock_ms, number, ..ProbeHead::default() };
        assert_eq!(checks.handle_ping(route, false, proven, &ping, now), Ok(()));
        let at_once = sent(checks, now);
        let later = sent(checks, now + Duration::from_secs(1));
        at_once.into_iter().chain(later).map(|probe| probe.kind).collect()
    }

    #[test]
    fn a_stranger_is_sent_one_datagram_for_each_that_comes_in_its_name() {
        use ProbeKind::{Ping, Pong};
        let mut checks = Checks::new();
        checks.set_call(1, 2);
        checks.begin(core::iter::once((port(8, 1), false)), 40);
        let stranger = (route(9), false);
        assert_eq!(drawn(&mut checks, stranger, 0, at(10_000)), [Ping]);
        assert_eq!(drawn(&mut checks, stranger, 1, at(12_000)), [Pong]);
        assert_eq!(drawn(&mut checks, stranger, 2, at(14_000)), [Pong]);
        // What we begin ourselves makes no more of it than that.
        checks.retry(80, at(16_000));
        let to_stranger = |out: &[Outgoing]| out.iter().filter(|one| one.route == route(9)).count();
        assert_eq!(to_stranger(&sent(&mut checks, at(16_001))), 1);
        assert_eq!(to_stranger(&sent(&mut checks, at(18_000))), 0);
        assert_eq!(drawn(&mut checks, stranger, 3, at(20_000)), [Pong]);
        // The peer's own address, and one that its data comes from, are tried again.
        assert_eq!(drawn(&mut checks, (route(8), false), 4, at(22_000)), [Pong, Ping]);
        assert_eq!(drawn(&mut checks, (route(8), false), 5, at(24_000)), [Pong, Ping]);
        assert_eq!(drawn(&mut checks, (route(9), true), 6, at(26_000)), [Pong, Ping]);
        assert_eq!(drawn(&mut checks, (route(7), true), 7, at(28_000)), [Pong, Ping]);
    }

    #[test]
    fn a_stranger_that_answers_is_a_way() {
        let mut checks = Checks::new();
        checks.set_call(1, 2);
        let ping = ProbeHead { number: 1, ..ProbeHead::default() };
        assert_eq!(checks.handle_ping(route(9), false, false, &ping, at(10)), Ok(()));
        let asked = sent(&mut checks, at(10));
        assert_eq!((asked.len(), asked[0].kind), (1, ProbeKind::Ping));
        assert_eq!(checks.handle_pong(route(9), &asked[0].head, 0, at(40)), Some(true));
        assert_eq!(checks.best(at(40)), Some((route(9), false)));
    }

    #[test]
    fn a_caught_ping_is_late_by_its_clock() {
        let mut checks = Checks::new();
        checks.set_call(1, 2);
        let ping = |clock_ms, number| ProbeHead {
            transaction: 5,
            clock_ms,
            number,
            ..ProbeHead::default()
        };
        let mut drawn = |ping: &ProbeHead, now: Instant| {
            let heard = checks.handle_ping(route(8), false, false, ping, now);
            let mut sent = sent(&mut checks, now).len();
            sent += self::sent(&mut checks, now + Duration::from_secs(1)).len();
            (heard, sent)
        };
        let newest = u32::MAX - 500;
        assert_eq!(drawn(&ping(newest, 0), at(10_000)), (Ok(()), 1));
        assert_eq!(drawn(&ping(newest.wrapping_add(1_000), 1), at(12_000)), (Ok(()), 1));
        // Kept for longer than anybody remembers the copies.
        for number in 2..20 {
            assert_eq!(drawn(&ping(newest.wrapping_add(3_000), number), at(14_000)).0, Ok(()));
        }
        let copy = (Err(DropReason::Replayed), 0);
        assert_eq!(drawn(&ping(newest, 0), at(16_000)), copy);
        assert_eq!(drawn(&ping(newest.wrapping_add(1_000), 1), at(16_000)), copy);
        // Who starts anew calls anew, and its clock may have gone back.
        checks.set_call(3, 2);
        assert_eq!(checks.handle_ping(route(8), false, false, &ping(7, 30), at(17_000)), Ok(()));
    }

    #[test]
    fn a_flood_of_pings_is_answered_at_a_rate() {
        let mut checks = Checks::new();
        let (mut answered, mut drawn) = ([0; 3], 0);
        for number in 0..3_000u64 {
            let now = at(number);
            let ping = ProbeHead { transaction: number, ..ProbeHead::default() };
            let from = route((number % 251) as u8);
            if checks.handle_ping(from, false, false, &ping, now).is_ok() {
                answered[(number / 1_000) as usize] += 1;
            }
            drawn += sent(&mut checks, now).len();
        }
        assert!(answered.iter().all(|&count| count == PONG_RATE), "{answered:?}");
        assert!(drawn <= 3 * usize::from(PONG_RATE), "{drawn} of 3,000");
        assert!(checks.list.len() <= CHECKS);
    }
}
