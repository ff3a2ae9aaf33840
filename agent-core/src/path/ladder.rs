//! What is tried where a NAT gives every destination another port
//! (RFC 4787: address- and port-dependent mapping).
//!
//! Three rungs, by what the hard side has said of its NAT:
//! - ports that follow one another are *predicted*: with the first pings of a
//!   round, 16 go to the ports that come next;
//! - where that missed, or ports come from a block, the other side *opens* its own
//!   NAT towards as many ports as it takes, one ping each, and then the hard side
//!   *knocks* from fresh sockets, whose ports are likely to be among those;
//! - the same with any port: 1,024 opened and 250 knocking meet in 98 of 100
//!   cases (1 − e^(−1024·250/64512)).
//!
//! The side that opens goes first: some routers without a firewall give a flow
//! another port when a packet of it came in before the first went out. Nothing is
//! remembered of these pings. The one that gets through is answered like any other
//! from an address that nobody named, and the ping that this draws makes the way.
//!
//! Routers have tables: one run at a time, 100 packets a second where ports are
//! opened and 250 where sockets knock, and a run with any port once an hour and peer.

use core::net::{IpAddr, SocketAddr};

use weft_wire::signal::Mapping;

use super::Route;
use crate::event::{RELAY, SocketId};
use crate::time::{Duration, Instant};

/// Ports beyond the last known one that are predicted.
const PREDICTED: u8 = 16;
/// When they are pinged, from the beginning of a round.
const WAVES: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(140), Duration::from_millis(620)];
/// A run begins this long after its round, if that has found no direct way.
const BEGINS_AFTER: Duration = Duration::from_millis(600);
/// Between two ports that are opened.
const OPEN_PACE: Duration = Duration::from_millis(10);
/// The hard side knocks this long after the last port was opened at the earliest:
/// the two began at about the same time.
const KNOCK_LAG: Duration = Duration::from_millis(300);
/// Between two sockets that knock.
const KNOCK_PACE: Duration = Duration::from_millis(4);
/// How often each knocks, and how long after one another.
const KNOCKS: u8 = 3;
const KNOCK_AGAIN: Duration = Duration::from_millis(1_200);
/// Sockets are there this long after they were asked for.
const OPENS_WITHIN: Duration = Duration::from_millis(20);
/// The first socket beside those that the shell has anyway.
const FIRST_SOCKET: u8 = 2;
/// A ping with IPv4 and UDP around it.
const PING_BYTES: u64 = 72;
/// A run with any port is not repeated for this long.
const LONG_RUN_EVERY: Duration = Duration::from_secs(3_600);

/// Sockets that are open beside the usual ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SocketSet([u64; 4]);

impl SocketSet {
    const fn new() -> Self {
        Self([0; 4])
    }

    /// Whether this one is among them.
    const fn contains(&self, SocketId(number): SocketId) -> bool {
        self.0[number as usize / 64] & 1 << (number % 64) != 0
    }

    const fn insert(&mut self, SocketId(number): SocketId) {
        self.0[number as usize / 64] |= 1 << (number % 64);
    }

    const fn remove(&mut self, SocketId(number): SocketId) {
        self.0[number as usize / 64] &= !(1 << (number % 64));
    }

    /// All of them.
    fn iter(&self) -> impl Iterator<Item = SocketId> + '_ {
        (0..=u8::MAX).map(SocketId).filter(|socket| self.contains(*socket))
    }
}

/// What the shell is to do with sockets for one IPv4 port each, chosen by the
/// system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketCommand {
    /// Open one. Where that fails, what is sent from it is lost.
    Open(SocketId),
    /// Close it.
    Close(SocketId),
}

/// The ports that come next at a NAT that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prediction {
    step: i16,
    began: Instant,
    wave: u8,
    next: u8,
}

impl Prediction {
    /// For a peer behind such a NAT.
    pub(super) const fn new(mapping: Mapping) -> Option<Self> {
        let Mapping::Sequential(step) = mapping else { return None };
        let began = Instant::FAR_FUTURE;
        Some(Self { step, began, wave: 0, next: 0 })
    }

    /// Which after the last known one this port is, if it has been pinged.
    pub(super) fn place(&self, last: SocketAddr, address: SocketAddr) -> Option<u8> {
        let pinged = if self.wave > 0 { PREDICTED } else { self.next };
        let mut places = 1..=pinged;
        places.find(|place| stepped(last.port(), self.step, u16::from(*place)) == address.port())
    }

    /// The round begins then.
    pub(super) const fn start(&mut self, at: Instant) {
        self.began = at;
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        let wave = WAVES.get(usize::from(self.wave))?;
        (self.began != Instant::FAR_FUTURE).then(|| self.began + *wave)
    }

    /// The next address that is to be pinged, of a peer whose `last` port is this
    /// as far as it knows.
    pub(super) fn poll(&mut self, last: SocketAddr, now: Instant) -> Option<SocketAddr> {
        self.due_at().filter(|at| *at <= now)?;
        self.next += 1;
        let port = stepped(last.port(), self.step, u16::from(self.next));
        if self.next == PREDICTED {
            (self.next, self.wave) = (0, self.wave + 1);
        }
        Some(SocketAddr::new(last.ip(), port))
    }
}

/// The port that comes `count` steps after another one.
fn stepped(port: u16, step: i16, count: u16) -> u16 {
    let distance = i32::from(step) * i32::from(count);
    // Real NATs do not wrap around at 0, and a wrong guess costs a ping.
    (i32::from(port) + distance).rem_euclid(1 << 16) as u16
}

/// How a run goes, by the hard side's NAT: both sides reckon it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// Ports that the easy side opens.
    ports: u16,
    /// Sockets that the hard side knocks from.
    sockets: u8,
}

impl Plan {
    const fn new(hard: Mapping) -> Option<Self> {
        match hard {
            Mapping::Sequential(_) => Some(Self { ports: 128, sockets: 8 }),
            // The ping of the round has reached a port at the other side before it is
            // opened. A box without a firewall gives that one and all that are opened
            // later another port, and only those before can be met: however few.
            Mapping::Window(_) => Some(Self { ports: 512, sockets: 64 }),
            Mapping::Random => Some(Self { ports: 1_024, sockets: 250 }),
            Mapping::Unknown | Mapping::EndpointIndependent | Mapping::Blocked => None,
        }
    }

    fn opens_for(self) -> Duration {
        OPEN_PACE * u32::from(self.ports)
    }
}

/// Whether a NAT gives every destination another port.
pub(super) const fn is_hard(mapping: Mapping) -> bool {
    matches!(mapping, Mapping::Sequential(_) | Mapping::Window(_) | Mapping::Random)
}

/// What one side does in a run.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Opens ports at this address, whose port is one that was seen.
    Open(SocketAddr),
    /// Knocks there, at one and the other in turn.
    Knock([SocketAddr; 2]),
}

/// A run with one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The peer's slot.
    pub(super) slot: u16,
    part: Part,
    hard: Mapping,
    plan: Plan,
    /// When the next ping goes.
    due_at: Instant,
    /// How many went.
    sent: u32,
    /// Of the first ping; the others count on.
    transaction: u64,
    /// The sockets have been asked for.
    pub(super) has_sockets: bool,
}

impl Run {
    /// A run with a peer whose round begins at `at`, if the two NATs ask for one.
    /// `seen`: the port that new flows of the peer get, and the one that servers see.
    /// They differ at a box without a firewall that somebody's packet reached first.
    pub(super) fn new(
        slot: u16,
        own: Mapping,
        peer: Mapping,
        seen: Option<[SocketAddr; 2]>,
        transaction: u64,
        at: Instant,
    ) -> Option<Self> {
        let seen = seen.filter(|[_, seen]| seen.is_ipv4())?;
        let begin = at + BEGINS_AFTER;
        let (part, hard) = match (is_hard(own), is_hard(peer)) {
            (false, true) if own != Mapping::Blocked => (Part::Open(seen[1]), peer),
            (true, false) if peer != Mapping::Blocked => (Part::Knock(seen), own),
            _ => return None,
        };
        let plan = Plan::new(hard)?;
        let due_at = match part {
            Part::Open(_) => begin,
            Part::Knock(_) => begin + plan.opens_for() + KNOCK_LAG,
        };
        Some(Self { slot, part, hard, plan, due_at, sent: 0, transaction, has_sockets: false })
    }

    /// Whether it is one of those that are made once an hour.
    pub(super) const fn is_long(&self) -> bool {
        matches!(self.hard, Mapping::Random)
    }

    /// Whether this side knocks, which takes sockets.
    pub(super) const fn knocks(&self) -> bool {
        matches!(self.part, Part::Knock(_))
    }

    /// Whether it searches for a peer that servers see there.
    pub(super) fn leads_to(&self, seen: IpAddr) -> bool {
        match self.part {
            Part::Open(to) | Part::Knock([_, to]) => to.ip() == seen,
        }
    }

    /// Bytes that all of its pings are.
    pub(super) fn cost(&self) -> u64 {
        u64::from(self.pings()) * PING_BYTES
    }

    pub(super) const fn due_at(&self) -> Instant {
        self.due_at
    }

    /// The sockets are being opened: it goes on in a moment.
    pub(super) fn take_sockets(&mut self, now: Instant) {
        self.has_sockets = true;
        self.due_at = now + OPENS_WITHIN;
    }

    /// The next ping: from which of the sockets (by place among those of the run,
    /// `None` = the usual one), where to, and its transaction. `None` when nothing
    /// is due; the run is over when [`Run::is_over`] says so.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(Option<u8>, SocketAddr, u64)> {
        if self.due_at > now || self.is_over() {
            return None;
        }
        let number = self.sent;
        self.sent += 1;
        let transaction = self.transaction.wrapping_add(u64::from(number));
        match self.part {
            Part::Open(seen) => {
                self.due_at += OPEN_PACE;
                let port = self.port(seen.port(), number);
                Some((None, SocketAddr::new(seen.ip(), port), transaction))
            }
            Part::Knock(to) => {
                let sockets = u32::from(self.plan.sockets);
                let place = number % sockets;
                self.due_at += KNOCK_PACE;
                if place + 1 == sockets {
                    let took = KNOCK_PACE * sockets;
                    self.due_at += KNOCK_AGAIN.saturating_sub(took);
                }
                let turn = number / sockets % 2;
                Some((Some(place as u8), to[turn as usize], transaction))
            }
        }
    }

    /// Whether all pings went.
    pub(super) fn is_over(&self) -> bool {
        self.sent >= self.pings()
    }

    fn pings(&self) -> u32 {
        match self.part {
            Part::Open(_) => u32::from(self.plan.ports),
            Part::Knock(_) => u32::from(self.plan.sockets) * u32::from(KNOCKS),
        }
    }

    /// The port that is opened as number `number`, where `seen` was one of the
    /// hard side's.
    fn port(&self, seen: u16, number: u32) -> u16 {
        let number = number as u16;
        match self.hard {
            Mapping::Sequential(step) => stepped(seen, step, number + 1),
            // The block is not known, only that this is in it.
            Mapping::Window(_) => {
                let half = self.plan.ports / 2;
                seen.wrapping_sub(half).wrapping_add(number)
            }
            // Every port once, in an order that looks random: an odd number has no
            // factor in common with 2^16.
            _ => {
                let (start, stride) =
                    (self.transaction as u16, (self.transaction >> 16) as u16 | 1);
                start.wrapping_add(number.wrapping_mul(stride)).max(1_024)
            }
        }
    }
}

/// Sockets that were opened for runs, and those that are to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sockets {
    /// The most that the shell opens; 0 = none.
    most: u8,
    wanted: SocketSet,
    told: SocketSet,
}

impl Sockets {
    pub(super) const fn new() -> Self {
        Self { most: 0, wanted: SocketSet::new(), told: SocketSet::new() }
    }

    /// How many the shell can open.
    pub(super) const fn set_most(&mut self, most: u8) {
        self.most = most;
    }

    /// Whether runs are made at all.
    pub(super) const fn is_allowed(&self) -> bool {
        self.most > 0
    }

    /// Asks for as many as a run takes. `false` when there are none to be had.
    pub(super) fn open(&mut self, run: &Run) -> bool {
        let free = (FIRST_SOCKET..RELAY.0).map(SocketId);
        let wanted = self.wanted;
        let mut free = free.filter(|socket| !wanted.contains(*socket));
        let most = usize::from(run.plan.sockets.min(self.most));
        for socket in free.by_ref().take(most) {
            self.wanted.insert(socket);
        }
        most > 0
    }

    /// Keeps only those that carry data.
    pub(super) fn retain(&mut self, is_used: impl Fn(SocketId) -> bool) {
        for socket in self.wanted.iter().collect::<heapless::Vec<_, 256>>() {
            if !is_used(socket) {
                self.wanted.remove(socket);
            }
        }
    }

    /// The socket at a place among those that are open.
    pub(super) fn at(&self, place: u8) -> Option<SocketId> {
        self.wanted.iter().nth(usize::from(place))
    }

    /// Whether a datagram may come in there.
    pub(super) const fn contains(&self, socket: SocketId) -> bool {
        self.wanted.contains(socket)
    }

    /// Whether a way led through a socket that is not open any more.
    pub(super) const fn is_closed(&self, route: Route) -> bool {
        match route {
            Route::Direct { socket, .. } => is_extra(route) && !self.contains(socket),
            Route::Relay { .. } => false,
        }
    }

    /// The next thing for the shell to do.
    pub(super) fn poll(&mut self) -> Option<SocketCommand> {
        // After every input, and nearly never is there anything.
        if self.told == self.wanted {
            return None;
        }
        let closed = self.told.iter().find(|socket| !self.wanted.contains(*socket));
        if let Some(socket) = closed {
            self.told.remove(socket);
            return Some(SocketCommand::Close(socket));
        }
        let opened = self.wanted.iter().find(|socket| !self.told.contains(*socket))?;
        self.told.insert(opened);
        Some(SocketCommand::Open(opened))
    }
}

/// A run with any port may be made again then.
pub(super) fn next_long_run(now: Instant) -> Instant {
    now + LONG_RUN_EVERY
}

/// Whether a way leads through a socket that was opened to search.
pub(super) const fn is_extra(route: Route) -> bool {
    matches!(route, Route::Direct { socket, .. } if socket.0 >= FIRST_SOCKET)
}

/// The route of a ping from one of these sockets.
pub(super) const fn route(socket: SocketId, address: SocketAddr) -> Route {
    Route::Direct { socket, address }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_that_gives_new_flows_another_port_is_knocked_at_both() {
        let [moved, seen] =
            [12_823, 51_871].map(|port| SocketAddr::from(([203, 0, 113, 22], port)));
        let (own, peer) = (Mapping::Window(512), Mapping::EndpointIndependent);
        let run = Run::new(0, own, peer, Some([moved, seen]), 7, Instant::ZERO);
        let mut run = run.expect("one side is hard");
        let mut knocked = [[0_u8; 64]; 2];
        while !run.is_over() {
            let ping = run.poll(run.due_at());
            let (socket, to, _) = ping.expect("it is due");
            let socket = usize::from(socket.expect("not the usual one"));
            knocked[usize::from(to == seen)][socket] += 1;
        }
        assert_eq!(knocked, [[2; 64], [1; 64]]);
    }
}
