//! What a NAT does, found out from behind it (RFC 5780): how it chooses ports,
//! whose answers it lets in, how long a binding lives, whether it hairpins.
//!
//! For people, not for decisions: the agent tries a path whatever is said here.
//! One [`Discovery`] looks at one family, from sockets of its own that the caller
//! numbers as this module says; the tunnel's socket is not used, since a test of
//! filtering needs one that nobody was sent to from.
//!
//! Everything that does not depend on an earlier answer runs at the same time:
//! servers are asked, then filtering, hairpinning and lives begin together as
//! soon as a server is known that has another address (OTHER-ADDRESS).
//!
//! Deviations from RFC 5780: section 4.3 compares three answers of one server,
//! here those of all servers count, which tells more (a step, a block); what one
//! address with two ports cannot tell apart is marked so, not guessed; section
//! 4.6 searches lives one after another, here each length has a socket of its
//! own, so that the longest is all there is to wait for. A binding is used twice
//! before it rests: Linux and others keep one that goes on for longer, and that is
//! how a path uses it.

mod ask;
mod judge;
mod life;

use core::net::SocketAddr;

use heapless::Vec;
use weft_wire::stun::{BINDING_REQUEST, BINDING_SUCCESS, ChangeRequest, Class, Message};

use self::ask::{Ask, End, Purpose, Schedule};
pub use self::judge::{FilteringBehaviour, Judged, Lifetime, MappingBehaviour};
use self::life::Life;
use super::{StunTransmit, mapping};
use crate::entropy::Entropy;
use crate::event::{DropReason, SocketId};
use crate::time::{Duration, Instant};
use crate::timer::Reason;

/// The most servers of one look.
pub const TARGETS: usize = 16;
/// The most lengths of a binding's rest.
pub const LIVES: usize = 6;
/// Requests: servers, three more of the one with another address, three for
/// filtering, one for hairpinning, three for each life.
const ASKS: usize = TARGETS + 3 + 3 + 1 + 3 * LIVES;

/// Asks every server, and hears what is hairpinned.
pub const MAIN: SocketId = SocketId(0);
/// Has sent to one server only.
const FILTER: SocketId = SocketId(1);
/// Sends to where [`MAIN`] is seen from.
const HAIRPIN: SocketId = SocketId(2);
/// Asks that answers go to a resting binding.
const ASKER: SocketId = SocketId(3);
/// The first resting one.
const RESTING: u8 = 4;

/// Servers that have not answered this long after the first one did are not
/// waited for before the other tests begin.
const SETTLE: Duration = Duration::from_millis(300);

/// What is to be found out beside addresses and mapping.
#[derive(Clone, Debug, Default)]
pub struct Tests {
    /// Whose answers are let in, and whether a host can be reached from behind the
    /// same NAT.
    pub filtering: bool,
    /// Seconds that bindings rest before they are looked at, shortest first.
    pub lives_s: Vec<u16, LIVES>,
}

/// What one server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The server.
    pub server: SocketAddr,
    /// Our address there, and the round trip; `None` = no answer.
    pub answer: Option<(SocketAddr, Duration)>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Servers are asked.
    Servers,
    /// Everything else is under way.
    Tests,
    Done,
}

/// A look at the NAT in front of this device.
#[derive(Debug)]
pub struct Discovery {
    tests: Tests,
    /// First eight bytes of every transaction id.
    id: [u8; 8],
    asks: Vec<Ask, ASKS>,
    lives: Vec<Life, LIVES>,
    stage: Stage,
    /// When the first server answered.
    first_at: Option<Instant>,
    /// The server with another address that the tests are made with.
    full: Option<SocketAddr>,
}

impl Discovery {
    /// Begins: `servers` are of one family.
    pub fn new(
        servers: &[SocketAddr],
        tests: Tests,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Self {
        let mut id = [0; 8];
        entropy.fill(&mut id);
        let mut look = Self {
            tests,
            id,
            asks: Vec::new(),
            lives: Vec::new(),
            stage: Stage::Servers,
            first_at: None,
            full: None,
        };
        for server in mapping::spread::<TARGETS>(servers.iter(), 0) {
            look.ask(Ask::new(Purpose::Server, MAIN, server, now, &Schedule::ANSWERED));
        }
        look.advance(now);
        look
    }

    /// How many sockets it takes: those with the numbers 0 and up.
    pub fn sockets(&self) -> u8 {
        match (self.tests.lives_s.len() as u8, self.tests.filtering) {
            (0, false) => 1,
            (0, true) => ASKER.0,
            (lives, _) => RESTING + lives,
        }
    }

    /// Whether there is nothing more to wait for.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// What every server said, in the order in which they were asked; those that
    /// were told of by another one come last.
    pub fn seen(&self) -> impl Iterator<Item = Seen> + '_ {
        let servers = self.asks.iter().filter(|ask| ask.purpose == Purpose::Server);
        servers.map(|ask| Seen { server: ask.to, answer: ask.mapped().zip(ask.rtt()) })
    }

    /// How the NAT chooses ports; `None` when too few answered.
    pub fn mapping(&self) -> Option<Judged<MappingBehaviour>> {
        judge::mapping(&self.answers())
    }

    /// Whose answers are let in; `None` when no server could be asked for that.
    pub fn filtering(&self) -> Option<Judged<FilteringBehaviour>> {
        let end = |purpose| self.of(purpose).and_then(|ask| ask.end);
        judge::filtering(end(Purpose::FilterBoth)?, end(Purpose::FilterPort)?)
    }

    /// Whether what is sent to our own public address from behind the same NAT
    /// arrives; `None` when that was not tested.
    pub fn hairpin(&self) -> Option<bool> {
        let end = self.of(Purpose::Hairpin)?.end?;
        Some(matches!(end, End::Answered { .. }))
    }

    /// How long a binding lives; `None` when that was not tested, or no server
    /// could be asked for it.
    pub fn lifetime(&self) -> Option<Lifetime> {
        life::judge(&self.lives)
    }

    /// A datagram came to one of the sockets.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`]; [`DropReason::Unsolicited`] for what answers
    /// nothing.
    pub fn handle_datagram(
        &mut self,
        socket: SocketId,
        source: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let message = Message::parse(datagram).map_err(|_| DropReason::Malformed)?;
        let id = message.transaction();
        let place = usize::from(id[8]);
        let known = id.starts_with(&self.id);
        let ask = self.asks.get_mut(place).filter(|ask| known && ask.end.is_none());
        let ask = ask.ok_or(DropReason::Unsolicited)?;
        if !ask.fits(socket, source, message.kind()) {
            return Err(DropReason::Unsolicited);
        }
        ask.end = Some(match (message.kind(), message.class()) {
            (BINDING_REQUEST, _) => End::Answered { mapped: source, other: None, at: now },
            (BINDING_SUCCESS, _) => End::Answered {
                mapped: message.mapped_address().ok_or(DropReason::Malformed)?,
                other: message.address(weft_wire::stun::OTHER_ADDRESS),
                at: now,
            },
            (_, Class::Error) => End::Refused,
            _ => return Err(DropReason::Unsolicited),
        });
        ask.answered_send = usize::from(id[9]);
        self.first_at.get_or_insert(now);
        self.advance(now);
        Ok(())
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for ask in &mut self.asks {
            if ask.is_over(now) {
                ask.end = Some(End::Silent);
            }
        }
        self.advance(now);
    }

    /// When [`Discovery::handle_timeout`] or [`Discovery::poll_transmit`] has
    /// something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        if self.is_done() {
            return None;
        }
        let settled = self.first_at.filter(|_| self.stage == Stage::Servers);
        let asks = self.asks.iter().filter_map(Ask::due_at);
        let lives = self.lives.iter().filter_map(Life::due_at);
        let at = asks.chain(lives).chain(settled.map(|at| at + SETTLE)).min()?;
        Some((at, Reason::new("discovery: ask, ask again or give up")))
    }

    /// Writes the next request into `out`
    /// ([`DISCOVERY_REQUEST_LEN`](super::DISCOVERY_REQUEST_LEN) bytes).
    #[must_use]
    pub fn poll_transmit(&mut self, out: &mut [u8], now: Instant) -> Option<StunTransmit> {
        let place = self.asks.iter().position(|ask| ask.is_due(now))?;
        let ask = self.asks.get_mut(place)?;
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.id);
        id[8] = place as u8;
        id[9] = ask.sends as u8;
        let len = ask.write(id, out).ok()?;
        ask.handle_sent(now);
        Some(StunTransmit { socket: ask.socket, to: ask.to, len })
    }

    fn ask(&mut self, ask: Ask) {
        // Cannot fail: there is room for every request that this module makes.
        let _ = self.asks.push(ask);
    }

    fn of(&self, purpose: Purpose) -> Option<&Ask> {
        self.asks.iter().find(|ask| ask.purpose == purpose)
    }

    fn answers(&self) -> Vec<(SocketAddr, SocketAddr), { TARGETS + 3 }> {
        self.seen().filter_map(|seen| Some((seen.server, seen.answer?.0))).collect()
    }

    fn advance(&mut self, now: Instant) {
        if self.stage == Stage::Servers && self.is_settled(now) {
            self.stage = Stage::Tests;
            self.begin_tests(now);
        }
        if self.stage == Stage::Tests {
            self.advance_filtering(now);
            self.advance_lives(now);
            let open = self.asks.iter().any(|ask| ask.end.is_none());
            if !open && !self.lives.iter().any(Life::is_open) {
                self.stage = Stage::Done;
            }
        }
    }

    fn is_settled(&self, now: Instant) -> bool {
        let waited = self.first_at.is_some_and(|at| now >= at + SETTLE);
        waited || self.asks.iter().all(|ask| ask.end.is_some())
    }

    fn begin_tests(&mut self, now: Instant) {
        // One with another address tells more than one with another port.
        let has = |ask: &&Ask| ask.other().is_some();
        let far = |ask: &&Ask| ask.other().is_some_and(|other| other.ip() != ask.to.ip());
        let full = self.asks.iter().find(far).or_else(|| self.asks.iter().find(has));
        let seen = self.asks.iter().find_map(|ask| Some((ask.to, ask.mapped()?)));
        // Nor can this device send to what it is seen as there.
        let main = seen.filter(|(to, mapped)| may_be_asked(*mapped, *to)).map(|seen| seen.1);
        if let Some((server, other)) = full.and_then(|ask| Some((ask.to, ask.other()?))) {
            self.full = Some(server);
            // These first: what else is asked uses up ports of a sequence.
            for (ip, port) in [
                (server.ip(), other.port()),
                (other.ip(), server.port()),
                (other.ip(), other.port()),
            ] {
                let to = SocketAddr::new(ip, port);
                if may_be_asked(to, server) && self.asks.iter().all(|ask| ask.to != to) {
                    self.ask(Ask::new(Purpose::Server, MAIN, to, now, &Schedule::ANSWERED));
                }
            }
        }
        if let Some(main) = main.filter(|_| self.tests.filtering) {
            self.ask(Ask::new(Purpose::Hairpin, HAIRPIN, main, now, &Schedule::DOUBTFUL));
        }
        let Some(server) = self.full else { return };
        if self.tests.filtering {
            self.ask(Ask::new(Purpose::Filter, FILTER, server, now, &Schedule::ANSWERED));
        }
        for (&rest_s, number) in self.tests.lives_s.iter().zip(0..) {
            // Cannot fail: as many places as lengths.
            let _ = self.lives.push(Life::new(number, rest_s));
        }
    }

    /// Once the server is known to have been sent to, it answers from elsewhere.
    fn advance_filtering(&mut self, now: Instant) {
        let Some(server) = self.full else { return };
        let plain = self.of(Purpose::Filter).is_some_and(|ask| ask.mapped().is_some());
        if !plain || self.of(Purpose::FilterBoth).is_some() {
            return;
        }
        for purpose in [Purpose::FilterBoth, Purpose::FilterPort] {
            self.ask(Ask::new(purpose, FILTER, server, now, &Schedule::DOUBTFUL));
        }
    }

    fn advance_lives(&mut self, now: Instant) {
        let Some(server) = self.full else { return };
        for place in 0..self.lives.len() {
            let Some(mut life) = self.lives.get(place).cloned() else { return };
            let ended = life.waits_for().and_then(|purpose| self.of(purpose)?.end);
            if let Some(ask) = life.advance(ended, server, now) {
                self.ask(ask);
            }
            if let Some(kept) = self.lives.get_mut(place) {
                *kept = life;
            }
        }
        life::end_longer(&mut self.lives);
    }
}

/// Whether what `server` named is somebody to send to: behind NAT64 it does not
/// know under which address things are known here, and a hostile one might name
/// this machine itself, or everybody.
fn may_be_asked(named: SocketAddr, server: SocketAddr) -> bool {
    let ip = named.ip();
    let is_own = ip.is_loopback() && !server.ip().is_loopback();
    named.is_ipv4() == server.is_ipv4()
        && named.port() != 0
        && !(is_own || ip.is_unspecified() || ip.is_multicast())
}

/// CHANGE-REQUEST of a purpose.
const fn change(purpose: Purpose) -> Option<ChangeRequest> {
    match purpose {
        Purpose::FilterBoth => Some(ChangeRequest { address: true, port: true }),
        Purpose::FilterPort => Some(ChangeRequest { address: false, port: true }),
        _ => None,
    }
}
