//! Where this device is seen from: Binding requests (RFC 8489) to the STUN
//! servers of the map, from the tunnel's own sockets.
//!
//! Nothing is sent on its own account. A round is asked for, at a start, when
//! the network changes and before a call whose answer depends on it; the first
//! answer of a family is told at once, since a packet waits for it.
//!
//! Two servers are asked, the first one and by turns another one. Where they name different addresses the NAT maps by
//! destination, and the others are asked too: the distances of the ports say
//! how it chooses them. The label only explains; nothing is left untried for it.
//!
//! Deviations from RFC 8489: requests are repeated after 250 ms and not 500 (a
//! server is one round trip away, and a person waits), four times in all; each
//! sending has a transaction of its own, so that an answer says for which one it is
//! and how far the server is; no authentication, which no server asks for a Binding.

pub mod discovery;
mod mapping;

use core::net::SocketAddr;

use heapless::Vec;
use weft_wire::map::SERVERS;
use weft_wire::signal::{Mapping, NatReport};
use weft_wire::stun::{
    BINDING_REQUEST, BINDING_SUCCESS, Message, MessageWriter, StunError, TransactionId,
};

use crate::entropy::Entropy;
use crate::event::{DropReason, SocketId, Sockets, Source};
use crate::time::{Duration, Instant};
use crate::timer::Reason;

/// When a request is sent, from the beginning of its part of a round.
const SENDS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_millis(1_750),
];
/// When it is given up.
const GIVE_UP_AFTER: Duration = Duration::from_millis(3_750);
/// Servers that are asked first …
const FIRST: usize = 2;
/// … and in the first round of a network: two ports of a carrier's block of 512 are equal,
/// or look counted, once in a hundred times, and nothing later would tell.
const FIRST_HERE: usize = 3;
/// A request without attributes but FINGERPRINT: bytes.
pub const REQUEST_LEN: usize = 28;
/// A request of [`discovery`], which has one attribute more: bytes.
pub const DISCOVERY_REQUEST_LEN: usize = 36;

/// A request that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StunTransmit {
    /// From which socket.
    pub socket: SocketId,
    /// To which server.
    pub to: SocketAddr,
    /// Its length.
    pub len: usize,
}

/// What was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StunEvent {
    /// A server named our address: the first of this family in this round.
    Reflexive(SocketAddr),
    /// The round is over.
    Done,
}

/// Whether bytes on the tunnel's socket are STUN. A WireGuard initiation whose
/// sender index is the magic cookie has another length than its header says.
pub fn is_stun(datagram: &[u8]) -> bool {
    !matches!(Message::parse(datagram), Err(StunError::NotStun | StunError::Length))
}

/// A server of a round.
#[derive(Clone, Copy, Debug)]
struct Asked {
    server: SocketAddr,
    answer: Option<SocketAddr>,
}

/// One family's round.
#[derive(Debug)]
struct Round {
    socket: SocketId,
    /// First eight bytes of every transaction id; server and sending follow.
    id: [u8; 8],
    asked: Vec<Asked, SERVERS>,
    /// How many of them are asked now.
    active: usize,
    /// Requests sent to each that has not answered; index into [`SENDS`].
    sends: usize,
    /// Which of the active ones is next in this sending.
    next: usize,
    began: Instant,
}

impl Round {
    fn is_open(&self) -> bool {
        self.asked.iter().take(self.active).any(|asked| asked.answer.is_none())
    }

    /// When the next request goes, or the round is given up.
    fn due_at(&self) -> Instant {
        self.began + SENDS.get(self.sends).copied().unwrap_or(GIVE_UP_AFTER)
    }

    fn transaction(&self, place: usize, sending: usize) -> TransactionId {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.id);
        id[8] = u8::try_from(place).unwrap_or(u8::MAX);
        id[9] = u8::try_from(sending).unwrap_or(u8::MAX);
        id
    }

    /// Server and sending of a transaction.
    fn asked(&self, id: TransactionId) -> Option<(usize, usize)> {
        let (place, sending) = (usize::from(id[8]), usize::from(id[9]));
        let is_ours = place < self.active && sending <= self.sends;
        (is_ours && id == self.transaction(place, sending)).then_some((place, sending))
    }

    /// How long the answer to this sending was on its way.
    fn round_trip(&self, sending: usize, now: Instant) -> Option<Duration> {
        SENDS.get(sending).map(|&after| now - (self.began + after))
    }

    /// Asks the others too, if what was answered differs.
    fn widen(&mut self, now: Instant) {
        let mut answers = self.asked.iter().take(self.active).filter_map(|asked| asked.answer);
        let first = answers.next();
        let differ = answers.any(|answer| Some(answer) != first);
        if differ && self.active < self.asked.len() {
            self.active = self.asked.len();
            (self.sends, self.next, self.began) = (0, 0, now);
        }
    }
}

/// A STUN client for up to four servers.
#[derive(Debug)]
pub struct StunClient {
    servers: Vec<SocketAddr, SERVERS>,
    /// IPv4, IPv6.
    rounds: [Option<Round>; 2],
    /// What the last round found, IPv4 and IPv6.
    reflexive: [Option<SocketAddr>; 2],
    /// Of the last round, told and not told yet.
    events: heapless::Deque<StunEvent, 4>,
    running: bool,
    /// How often they were asked: whose turn it is.
    turn: u8,
    mapping: Mapping,
    /// Of IPv4, in this network.
    ports: Option<mapping::Span>,
    done_at: Option<Instant>,
}

impl Default for StunClient {
    fn default() -> Self {
        Self::new()
    }
}

impl StunClient {
    /// Without servers.
    #[inline(never)]
    pub const fn new() -> Self {
        Self {
            servers: Vec::new(),
            rounds: [None, None],
            reflexive: [None; 2],
            events: heapless::Deque::new(),
            running: false,
            turn: 0,
            mapping: Mapping::Unknown,
            ports: None,
            done_at: None,
        }
    }

    /// The servers, best first. What others said is forgotten.
    pub fn set_servers(&mut self, servers: &[SocketAddr]) {
        self.servers = servers.iter().copied().take(SERVERS).collect();
        self.forget();
    }

    /// The network changed: what is known holds no more.
    pub fn forget(&mut self) {
        self.rounds = [None, None];
        self.reflexive = [None; 2];
        self.mapping = Mapping::Unknown;
        self.ports = None;
        self.done_at = None;
        if core::mem::take(&mut self.running) {
            self.tell(StunEvent::Done);
        }
    }

    /// Whether there is anybody to ask.
    pub fn has_servers(&self) -> bool {
        !self.servers.is_empty()
    }

    /// Asks for our address, unless that is being done. [`StunEvent::Done`] comes
    /// in any case.
    pub fn refresh(&mut self, sockets: Sockets, entropy: &mut dyn Entropy, now: Instant) {
        if self.running {
            return;
        }
        self.running = true;
        let turn = usize::from(self.turn);
        self.turn = self.turn.wrapping_add(1);
        for (place, socket) in [sockets.v4, sockets.v6].into_iter().enumerate() {
            let of_family = |server: &&SocketAddr| server.is_ipv4() == (place == 0);
            let asked: Vec<Asked, SERVERS> =
                mapping::spread::<SERVERS>(self.servers.iter().filter(of_family), turn)
                    .map(|server| Asked { server, answer: None })
                    .collect();
            let Some(socket) = socket.filter(|_| !asked.is_empty()) else {
                continue;
            };
            let mut id = [0; 8];
            entropy.fill(&mut id);
            let is_known = self.reflexive.get(place).is_some_and(Option::is_some);
            let active = asked.len().min(if is_known { FIRST } else { FIRST_HERE });
            if let Some(round) = self.rounds.get_mut(place) {
                *round = Some(Round { socket, id, asked, active, sends: 0, next: 0, began: now });
            }
        }
        self.finish(now);
    }

    /// Where we are seen from, IPv4 first, as far as the last round says.
    pub fn reflexive(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.reflexive.iter().flatten().copied()
    }

    /// What peers are told of our network.
    pub fn report(&self, now: Instant) -> NatReport {
        let age = self.done_at.map(|at| u32::try_from((now - at).as_millis()).unwrap_or(u32::MAX));
        NatReport { mapping: self.mapping, lifetime_s: 0, age_ms: age.unwrap_or(u32::MAX) }
    }

    /// A STUN message came. Returns how long the answer was on its way, where there is
    /// one.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`]; [`DropReason::Unsolicited`] for what answers no
    /// request of ours, or comes from elsewhere than it was sent to.
    pub fn handle_datagram(
        &mut self,
        source: Source,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Option<Duration>, DropReason> {
        let message = Message::parse(datagram).map_err(|_| DropReason::Malformed)?;
        let id = message.transaction();
        let asked = self.rounds.iter_mut().flatten().find_map(|round| {
            let (place, sending) = round.asked(id)?;
            let round_trip = round.round_trip(sending, now);
            let from = (round.socket, round.asked.get(place)?.server);
            let asked = round.asked.get_mut(place).filter(|asked| asked.answer.is_none())?;
            (from == (source.socket, source.address)).then_some((asked, round_trip))
        });
        let (asked, round_trip) = asked.ok_or(DropReason::Unsolicited)?;
        if message.kind() != BINDING_SUCCESS {
            // Whatever it cannot do, asking again changes nothing: it is given
            // up with the round.
            return Ok(None);
        }
        let mapped = message.mapped_address().ok_or(DropReason::Malformed)?;
        if mapped.is_ipv4() != asked.server.is_ipv4() {
            return Err(DropReason::Malformed);
        }
        asked.answer = Some(mapped);
        self.learn(mapped);
        self.finish(now);
        Ok(round_trip)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for round in self.rounds.iter_mut().flatten() {
            if round.sends >= SENDS.len() && round.due_at() <= now {
                round.active = 0;
            }
        }
        self.finish(now);
    }

    /// When [`StunClient::handle_timeout`] or [`StunClient::poll_transmit`] has
    /// something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let at = self.rounds.iter().flatten().map(Round::due_at).min()?;
        Some((at, Reason::new("stun: ask again or give up")))
    }

    /// Writes the next request into `out` ([`REQUEST_LEN`] bytes).
    #[must_use]
    pub fn poll_transmit(&mut self, out: &mut [u8], now: Instant) -> Option<StunTransmit> {
        for round in self.rounds.iter_mut().flatten() {
            while round.sends < SENDS.len() && round.due_at() <= now {
                let place = round.next;
                if place >= round.active {
                    (round.next, round.sends) = (0, round.sends + 1);
                    continue;
                }
                round.next += 1;
                let Some(asked) = round.asked.get(place).filter(|one| one.answer.is_none()) else {
                    continue;
                };
                let writer =
                    MessageWriter::new(BINDING_REQUEST, round.transaction(place, round.sends), out);
                let len = writer.and_then(MessageWriter::finish).ok()?;
                return Some(StunTransmit { socket: round.socket, to: asked.server, len });
            }
        }
        None
    }

    /// The next event. Ask until `None`.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<StunEvent> {
        self.events.pop_front()
    }

    /// The first answer of a family in a round counts: the port that the first
    /// server saw was mapped first.
    fn learn(&mut self, mapped: SocketAddr) {
        let place = usize::from(mapped.is_ipv6());
        let answers =
            self.rounds.get(place).and_then(Option::as_ref).map_or(0, |round| {
                round.asked.iter().filter(|asked| asked.answer.is_some()).count()
            });
        if answers == 1 {
            if let Some(seen) = self.reflexive.get_mut(place) {
                *seen = Some(mapped);
            }
            self.tell(StunEvent::Reflexive(mapped));
        }
    }

    /// Ends what has nothing to wait for.
    fn finish(&mut self, now: Instant) {
        if !self.running {
            return;
        }
        for round in self.rounds.iter_mut().flatten() {
            if !round.is_open() && round.active > 0 {
                round.widen(now);
            }
        }
        if self.rounds.iter().flatten().any(Round::is_open) {
            return;
        }
        self.conclude(now);
    }

    fn conclude(&mut self, now: Instant) {
        let answers = |round: &Option<Round>| {
            let asked = round.iter().flat_map(|round| &round.asked);
            asked.filter_map(|asked| Some((asked.server, asked.answer?))).collect()
        };
        let seen: [mapping::Seen; 2] = [answers(&self.rounds[0]), answers(&self.rounds[1])];
        for (seen, reflexive) in seen.iter().zip(&mut self.reflexive) {
            if seen.is_empty() {
                *reflexive = None;
            }
        }
        let asked = self.rounds.iter().flatten().count() > 0;
        let [v4, v6] = &seen;
        // IPv6 hardly ever has a NAT: IPv4 is what decides.
        self.mapping = match (v4.is_empty(), v6.is_empty()) {
            (false, _) => mapping::judge(&mut self.ports, v4),
            (true, false) => mapping::classify(v6),
            (true, true) if asked => Mapping::Blocked,
            (true, true) => Mapping::Unknown,
        };
        // Where ports are counted, the last one says which come next.
        if let Mapping::Sequential(step) = self.mapping
            && let Some(last) = mapping::furthest(v4, step)
            && let [reflexive, _] = &mut self.reflexive
        {
            *reflexive = Some(last);
        }
        self.rounds = [None, None];
        self.running = false;
        self.done_at = Some(now);
        self.tell(StunEvent::Done);
    }

    fn tell(&mut self, event: StunEvent) {
        // Two addresses and an end are told in a round, and an end by whoever
        // forgets one.
        if self.events.is_full() {
            self.events.pop_front();
        }
        let _ = self.events.push_back(event);
    }
}
