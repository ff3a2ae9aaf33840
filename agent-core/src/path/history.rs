//! The last attempts to find a direct way to a peer: when, what was tried, what
//! answered, how it ended. It is told to people and to the coordinator, and decides
//! nothing.
//!
//! An attempt begins when one of the two calls, and ends with the way, with the
//! round of pings that nothing answered, or with what the coordinator said. A
//! direct way that is lost is an end too. A search among many ports goes on after
//! its round: what it finds is an attempt of its own.

use core::net::SocketAddr;

use weft_wire::path;
use weft_wire::signal::Mapping;
use weft_wire::verdict::{AttemptEnd, CallFailure};

use super::peer::PeerPath;
use super::{NoPath, Paths, Route, ladder};
use crate::event::PeerSlot;
use crate::time::{Duration, Instant};

/// Attempts that are remembered of each peer.
pub const ATTEMPTS: usize = 3;
/// A round's last ping goes 1.24 s after its first, and has this long to be
/// answered.
const ROUND: Duration = Duration::from_secs(2);

/// One attempt; 12 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// When it ended, in seconds of the agent's clock.
    at_s: u32,
    took_ms: u16,
    /// Pings sent to addresses, or initiations.
    sent: u16,
    /// Of [`AttemptEnd`]; 0 = no attempt.
    end: u8,
    tried: u8,
    answered: u8,
}

impl Attempt {
    /// How it ended.
    pub const fn end(&self) -> Option<AttemptEnd> {
        AttemptEnd::from_code(self.end as u16)
    }

    /// How long ago it ended.
    pub fn age(&self, now: Instant) -> Duration {
        now - Instant::from_secs(self.at_s.into())
    }

    /// How long it took, in milliseconds; 0 = not known.
    pub const fn took_ms(&self) -> u16 {
        self.took_ms
    }

    /// Addresses that were tried, and how many answered.
    pub const fn addresses(&self) -> (u8, u8) {
        (self.tried, self.answered)
    }

    /// Pings sent to them; of an attempt that ended with the handshake,
    /// initiations; see [`AttemptEnd::Predicted`] and [`AttemptEnd::Searched`] too.
    pub const fn sent(&self) -> u16 {
        self.sent
    }
}

/// What was tried of addresses that no relay keeps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried {
    pub(super) addresses: u8,
    pub(super) answered: u8,
    pub(super) pings: u16,
}

/// What of a peer the coordinator has yet to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing.
    All,
    /// Something, and the owner does not know.
    New,
    /// Something.
    Due,
    /// It is on its way.
    Sent,
}

/// One peer's attempts; 64 bytes.
#[derive(Debug)]
pub(super) struct History {
    /// Newest first.
    attempts: [Attempt; ATTEMPTS],
    /// When the attempt under way began; `FAR_FUTURE` = there is none.
    began: Instant,
    /// How our NAT chose ports when we last told the peer.
    own: Mapping,
    /// What the peer said of its own.
    peer: Mapping,
    failed: u16,
    /// When its round is over, in milliseconds after it began; 0 = there is none.
    judge_ms: u16,
    initiations: u8,
    /// The peer was wanted last, and not reached.
    unreached: bool,
    /// Ports could be searched, and are not.
    pub(super) unsearched: bool,
    /// Relays refuse us.
    pub(super) refused: bool,
    told: Told,
}

impl History {
    pub(super) const fn new() -> Self {
        let none = Attempt { at_s: 0, took_ms: 0, sent: 0, end: 0, tried: 0, answered: 0 };
        Self {
            attempts: [none; ATTEMPTS],
            began: Instant::FAR_FUTURE,
            own: Mapping::Unknown,
            peer: Mapping::Unknown,
            failed: 0,
            judge_ms: 0,
            initiations: 0,
            unreached: false,
            unsearched: false,
            refused: false,
            told: Told::All,
        }
    }

    /// One of the two calls.
    pub(super) fn begin(&mut self, own: Mapping, now: Instant) {
        self.own = own;
        if self.began == Instant::FAR_FUTURE {
            self.began = now;
        }
    }

    /// What the peer said of its NAT.
    pub(super) const fn peer_mapping(&self) -> Mapping {
        self.peer
    }

    /// The peer said how its NAT is.
    pub(super) const fn set_peer_mapping(&mut self, peer: Mapping) {
        self.peer = peer;
    }

    /// A round of pings begins at `at`.
    pub(super) fn handle_round(&mut self, at: Instant) {
        if let Some(began) = self.began() {
            let over = (at + ROUND - began).as_millis();
            self.judge_ms = u16::try_from(over).unwrap_or(u16::MAX).max(1);
        }
    }

    pub(super) const fn handle_initiation(&mut self) {
        self.initiations = self.initiations.saturating_add(1);
    }

    /// Since when an attempt is under way.
    pub(super) fn began(&self) -> Option<Instant> {
        (self.began != Instant::FAR_FUTURE).then_some(self.began)
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        let began = self.began().filter(|_| self.judge_ms > 0)?;
        Some(began + Duration::from_millis(self.judge_ms.into()))
    }

    /// The attempt under way counts no more.
    pub(super) const fn abandon(&mut self) {
        self.began = Instant::FAR_FUTURE;
        self.judge_ms = 0;
    }

    /// All that is known was tried, and nothing comes back. Sessions and timers may
    /// live on for a while.
    pub(super) const fn set_lost(&mut self) {
        if !self.unreached {
            self.unreached = true;
            self.note();
        }
    }

    /// Authentic data came from the peer, or its handshake was given up.
    pub(super) const fn set_reached(&mut self, reached: bool) {
        if self.unreached && reached {
            self.note();
        }
        self.unreached = !reached;
        self.initiations = 0;
    }

    /// The attempt under way has ended so; nothing happens while there is none.
    fn end(&mut self, end: AttemptEnd, tried: Tried, now: Instant) {
        let Some(began) = self.began() else { return };
        self.abandon();
        let took_ms = u16::try_from((now - began).as_millis()).unwrap_or(u16::MAX);
        self.failed = if end.is_found() { 0 } else { self.failed.saturating_add(1) };
        self.push(end, tried, took_ms, now);
    }

    fn push(&mut self, end: AttemptEnd, tried: Tried, took_ms: u16, now: Instant) {
        self.attempts.rotate_right(1);
        let at_s = u32::try_from(now.as_micros() / 1_000_000).unwrap_or(u32::MAX);
        let Tried { addresses: tried, answered, pings: sent } = tried;
        // Every end has a number below 256.
        self.attempts[0] = Attempt { at_s, took_ms, sent, end: end as u8, tried, answered };
        // Of attempts that all end alike the first few are news, then ever fewer.
        let alike = self.attempts[1].end == end as u8;
        if !alike || self.failed.is_power_of_two() {
            self.told = Told::New;
        }
    }

    /// The coordinator is to hear of this peer.
    pub(super) const fn note(&mut self) {
        self.told = Told::New;
    }

    /// Whether the owner is to hear that there is something to report.
    pub(super) fn poll_new(&mut self) -> bool {
        let new = self.told == Told::New;
        if new {
            self.told = Told::Due;
        }
        new
    }

    /// Whether it is to be reported now; then it is on its way.
    pub(super) fn take_due(&mut self) -> bool {
        let due = self.told != Told::All;
        if due {
            self.told = Told::Sent;
        }
        due
    }

    /// Whether there is something to report.
    fn is_due(&self) -> bool {
        self.told != Told::All
    }

    /// The coordinator has what was sent.
    fn handle_told(&mut self) -> bool {
        let sent = self.told == Told::Sent;
        if sent {
            self.told = Told::All;
        }
        sent
    }

    /// Attempts, newest first.
    fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.end != 0)
    }

    /// The last attempt as it is told.
    fn last(&self, now: Instant) -> Option<path::Attempt> {
        let last = self.attempts().next()?;
        Some(path::Attempt {
            end: last.end.into(),
            ago_s: u32::try_from(last.age(now).as_secs()).unwrap_or(u32::MAX),
            failed: self.failed,
            own: self.own,
            peer: self.peer,
            tried: last.tried,
            answered: last.answered,
            sent: last.sent,
            took_ms: last.took_ms,
        })
    }
}

impl PeerPath {
    /// The attempt under way found this way: data came straight from the peer.
    pub(super) fn end_found(&mut self, route: Route, now: Instant) {
        let (end, pings) = self.found_by(route);
        let tried = Tried { pings, ..self.checks.tried() };
        let last = self.history.attempts().next().and_then(Attempt::end);
        if self.history.began().is_none() && last.is_some_and(|end| !end.is_found()) {
            // A search went on after the round, or the peer's found us: nobody
            // knows for how long.
            self.history.failed = 0;
            self.history.push(end, tried, 0, now);
        }
        self.history.end(end, tried, now);
    }

    /// How a way was found, as far as this side knows, and after how many probes.
    fn found_by(&self, route: Route) -> (AttemptEnd, u16) {
        let address = route.address();
        if ladder::is_extra(route) {
            return (AttemptEnd::Searched, self.searched);
        }
        let is_of = |seen: SocketAddr| seen.ip() == address.ip();
        if let Some(seen) = self.seen.filter(|seen| is_of(*seen))
            && !self.checks.names(address)
        {
            if self.searched > 0 {
                return (AttemptEnd::Searched, self.searched);
            }
            if let Some(place) = self.prediction.and_then(|one| one.place(seen, address)) {
                return (AttemptEnd::Predicted, place.into());
            }
        }
        (AttemptEnd::Found, self.checks.tried().pings)
    }

    /// The round is over.
    pub(super) fn judge_round(&mut self, now: Instant) {
        if self.history.due_at().is_none_or(|at| at > now) {
            return;
        }
        self.history.judge_ms = 0;
        let tried = self.checks.tried();
        // Where something answered, the handshake decides.
        if tried.answered == 0 {
            let end = if self.history.refused && (self.selected.is_none() || self.in_doubt) {
                AttemptEnd::Refused
            } else if tried.addresses == 0 {
                AttemptEnd::NoCandidate
            } else if self.history.unsearched {
                AttemptEnd::NotSearched
            } else {
                AttemptEnd::NoAnswer
            };
            self.history.end(end, tried, now);
        }
    }

    /// The call has come to nothing.
    pub(super) fn end_call(&mut self, why: NoPath, now: Instant) {
        let end = match why {
            NoPath::Call(CallFailure::Offline) => AttemptEnd::Offline,
            NoPath::Call(CallFailure::Denied) => AttemptEnd::Denied,
            NoPath::NoCandidate => AttemptEnd::NoCandidate,
            NoPath::Call(_) | NoPath::NoAnswer | NoPath::NoEndpoint => AttemptEnd::NoAck,
        };
        self.history.unreached |= self.selected.is_none();
        self.history.end(end, Tried::default(), now);
    }

    /// The tunnel has given its handshake up.
    pub(super) fn end_handshake(&mut self, now: Instant) {
        let tried = Tried { pings: self.history.initiations.into(), ..self.checks.tried() };
        // Where nothing answered that is known already, and says more.
        if tried.answered > 0 || self.kind.wireguard_only {
            self.history.begin(self.history.own, now);
            self.history.end(AttemptEnd::NoHandshake, tried, now);
        }
        if !self.history.unreached {
            self.history.note();
        }
        self.history.set_reached(false);
    }

    /// A relay is on the way from now on, and was not before.
    pub(super) fn end_direct(&mut self, now: Instant) {
        self.history.failed = 0;
        self.history.push(AttemptEnd::Lost, self.checks.tried(), 0, now);
    }
}

/// What is remembered of a peer's attempts.
#[derive(Clone, Copy, Debug)]
pub struct Attempts<'a> {
    history: &'a History,
    next: Option<Instant>,
    rtt: Option<(u16, Instant)>,
}

impl<'a> Attempts<'a> {
    /// The attempts, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &'a Attempt> + use<'a> {
        self.history.attempts.iter().filter(|attempt| attempt.end != 0)
    }

    /// Attempts in a row that found nothing.
    pub const fn failed(&self) -> u16 {
        self.history.failed
    }

    /// What the peer last said of its NAT.
    pub const fn peer_mapping(&self) -> Mapping {
        self.history.peer
    }

    /// Since when an attempt is under way.
    pub fn began(&self) -> Option<Instant> {
        self.history.began()
    }

    /// When the next one comes; `None` = with a packet or another network.
    pub const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// The peer was wanted last, and not reached.
    pub const fn is_unreached(&self) -> bool {
        self.history.unreached
    }

    /// Round trip on the way in use, in milliseconds, and when a ping found that.
    pub const fn rtt(&self) -> Option<(u16, Instant)> {
        self.rtt
    }

    /// The last attempt as it is told.
    pub fn last(&self, now: Instant) -> Option<path::Attempt> {
        self.history.last(now)
    }
}

impl<const PEERS: usize> Paths<PEERS> {
    /// What is remembered of a peer's attempts.
    pub fn attempts(&self, slot: PeerSlot) -> Option<Attempts<'_>> {
        let peer = self.peer(slot)?;
        let rtt = peer.selected.and_then(|selected| peer.checks.rtt(selected.route));
        Some(Attempts { history: &peer.history, next: peer.choice.next_at(), rtt })
    }

    /// A peer stands otherwise than the coordinator knows.
    pub fn note(&mut self, slot: PeerSlot) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.history.told = Told::Due;
        }
    }

    /// The next peer that the coordinator has yet to hear of, after `after`: of
    /// those that were reported and not answered (`again`), or of the others. Ask
    /// for the former first. It counts as heard of once [`Paths::handle_told`]
    /// follows.
    pub fn poll_report(&mut self, again: bool, after: Option<PeerSlot>) -> Option<PeerSlot> {
        let first = after.map_or(0, |slot| slot.index() + 1);
        let mut peers = self.peers.iter_mut().enumerate().skip(first);
        let position = peers.find_map(|(position, peer)| {
            let history = &mut peer.as_mut()?.history;
            let fits = (history.told == Told::Sent) == again;
            (fits && history.take_due()).then_some(position)
        })?;
        u16::try_from(position).ok().map(PeerSlot)
    }

    /// The coordinator has what was reported. Returns whether there is more than
    /// that.
    pub fn handle_told(&mut self) -> bool {
        let mut reported = 0;
        for peer in self.peers.iter_mut().flatten() {
            reported += usize::from(peer.history.handle_told());
        }
        let more = || self.peers.iter().flatten().any(|peer| peer.history.is_due());
        reported == path::REPORTED && more()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_secs(100);

    fn tried(addresses: u8) -> Tried {
        Tried { addresses, answered: 0, pings: 7 * u16::from(addresses) }
    }

    #[test]
    fn a_chip_can_afford_it() {
        assert!(size_of::<History>() <= 64, "{}", size_of::<History>());
    }

    #[test]
    fn the_last_few_attempts_stay() {
        let mut history = History::new();
        assert_eq!(history.last(NOW), None);
        history.end(AttemptEnd::NoAnswer, tried(1), NOW);
        assert_eq!(history.attempts().count(), 0, "none was under way");
        for n in 1..=5 {
            let began = NOW + Duration::from_secs(10) * n;
            history.begin(Mapping::Random, began);
            history.begin(Mapping::Random, began + Duration::from_millis(500));
            history.end(AttemptEnd::NoAnswer, tried(n as u8), began + ROUND);
        }
        let all: Vec<_> = history.attempts().map(|one| one.addresses()).collect();
        assert_eq!(all, [(5, 0), (4, 0), (3, 0)]);
        let last = history.last(NOW + Duration::from_secs(60)).unwrap();
        assert_eq!((last.failed, last.took_ms, last.ago_s, last.sent), (5, 2_000, 8, 35));
        history.begin(Mapping::Random, NOW);
        history.end(AttemptEnd::Found, tried(1), NOW);
        assert_eq!(history.last(NOW).unwrap().failed, 0);
    }

    #[test]
    fn what_changes_on_the_way_is_told_again() {
        let mut history = History::new();
        assert!(!history.take_due());
        history.note();
        assert!(history.poll_new() && !history.poll_new(), "the owner hears of it once");
        assert!(history.take_due());
        history.note();
        history.handle_told();
        assert!(history.take_due(), "it changed meanwhile");
        assert!(history.take_due(), "until the coordinator has it");
        history.handle_told();
        assert!(!history.take_due());
    }
}
