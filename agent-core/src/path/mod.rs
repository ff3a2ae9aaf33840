//! Which address a peer is sent to, and why. Sees no key: "an authenticated
//! packet of this peer came from there" is told from outside, and probes are
//! MACed through [`ProbeMac`].
//!
//! A peer's route is where its newest authenticated word came from. Without one
//! both sides probe what the other named in its `call` or `call_ack`, and the
//! handshake goes the way that answered first; where nothing answers, the same
//! initiation goes everywhere: the first that arrives is answered, the copies are
//! replays to the other side. A WireGuard-only peer has its fixed endpoint, which
//! is tried beside any other that it has come from.
//!
//! Nothing waits for a timer that an answer could replace: a call goes out with
//! the packet that wants the peer. Both wait for a STUN server only where what it
//! said is too old to be true. Both begin to probe when the answer to the call
//! has arrived, which the callee can only estimate. The caller initiates; of two
//! that call each other the one with the lower device id.

mod bell;
mod budget;
mod calls;
mod candidate;
mod check;
mod gather;
mod history;
mod ladder;
mod line;
mod peer;
mod probe;
mod relayed;
mod route;
mod silence;
mod upgrade;
mod warm;

pub use candidate::{LocalCandidates, is_usable};
pub use history::{ATTEMPTS, Attempt, Attempts};
pub use ladder::SocketCommand;
pub use probe::ProbeTransmit;
pub use route::{Route, Selected, Why};
pub use warm::{Pauses, Wish};

use heapless::Vec;
use weft_wire::id::DeviceId;
use weft_wire::map::Overlay;
use weft_wire::relay::RELAYS;
use weft_wire::signal::{CANDIDATES, Call, CallAck, Candidate, NatReport};
use weft_wire::verdict::CallFailure;

use core::net::{IpAddr, SocketAddr};

use crate::empty;
use crate::entropy::Entropy;
use crate::event::{Activity, PeerSlot, Sockets, Source};
use crate::meter::Allowance;
use crate::time::{Duration, Instant};
use crate::timer::Reason;

use bell::Bells;
use gather::Gathering;
use ladder::Run;
use line::OwnLine;
use peer::PeerPath;
use relayed::Allocation;

/// How often an endpoint that changed may cause the cache to be written.
const CACHE_INTERVAL: Duration = Duration::from_secs(600);
/// A peer's line that is news is stored after this, so that it is there after a cut of
/// power …
const CACHE_SOON: Duration = Duration::from_secs(5);
/// … so often in a run of the agent: flash wears, and a peer may say what it likes.
const CACHES_SOON: u8 = 16;
/// How often another address that servers see us at may be the reason for opening a
/// line anew: some carriers give every flow one of several.
const ELSEWHERE_INTERVAL: Duration = Duration::from_secs(60);
/// A call by a device that the map does not name yet is kept this long.
const EARLY_FOR: Duration = Duration::from_secs(10);
/// Such calls kept.
const EARLY: usize = 4;

/// Makes and checks the MACs of probes, so that no key enters this module.
pub trait ProbeMac {
    /// The first 16 bytes of keyed BLAKE2s over `bytes` under the probe key of
    /// this peer's active pair; `None` for a peer that has none.
    fn mac(&mut self, slot: PeerSlot, bytes: &[u8]) -> Option<[u8; 16]>;

    /// Whether `mac` is right, compared in constant time.
    fn verify(&mut self, slot: PeerSlot, bytes: &[u8], mac: &[u8; 16]) -> bool;
}

/// Routes that one handshake message is sent to: the selected one first.
pub type Targets = Vec<Route, { CANDIDATES + 3 }>;

/// What a peer is to be told through the coordinator.
pub enum PathSignal {
    /// See [`Call`].
    Call(Call),
    /// See [`CallAck`].
    CallAck(CallAck),
}

/// Why there is no way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoPath {
    /// The coordinator did not forward the call.
    Call(CallFailure),
    /// Nobody answered the calls.
    NoAnswer,
    /// Its answer named no address that we can send to.
    NoCandidate,
    /// A WireGuard-only peer without a fixed endpoint: it has to come to us.
    NoEndpoint,
}

/// What the path manager tells its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// There is somewhere to send to: a handshake may begin, or an initiation
    /// that was lost be repeated.
    Ready {
        /// The peer.
        slot: PeerSlot,
        /// Even if there is a session: it carries nothing any more.
        renew: bool,
    },
    /// Another route carries the peer's data from now on.
    Selected {
        /// The peer.
        slot: PeerSlot,
        /// The route.
        selected: Selected,
    },
    /// There is no way to the peer now. The next packet tries again.
    Failed {
        /// The peer.
        slot: PeerSlot,
        /// The reason.
        why: NoPath,
    },
    /// There is something to report: [`Paths::poll_report`].
    Changed,
    /// Endpoints changed: the cache is worth writing.
    CacheChanged,
    /// A peer is about to be told where we are: ask the servers.
    Gather,
    /// Say something authentic to the peer on its new way, if there is a session.
    Greet {
        /// The peer.
        slot: PeerSlot,
    },
    /// Nobody has talked for long: there is no way to the peer any more, and the
    /// next packet looks for one.
    Idle {
        /// The peer.
        slot: PeerSlot,
    },
    /// What [`Paths::wants_relay`] and [`Paths::through_relay`] say may be
    /// otherwise than before.
    Relay,
    /// Servers see this device at another address than before, though it has not
    /// moved: what its router remembered is lost.
    Elsewhere,
    /// Nothing comes back from a peer, and a relay may be why.
    RelaySuspected(RelaySuspicion),
    /// Was the peer heard? Answered by [`Paths::handle_heard`] at once.
    Listen {
        /// The peer.
        slot: PeerSlot,
    },
}

/// What a peer's silence says of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelaySuspicion {
    /// Nothing has come over a relay though all was tried: that at the address, which
    /// keeps something for the peer, or ours.
    Silent(Option<IpAddr>),
    /// Data through our allocation is not answered.
    Unanswered,
    /// Data took another way, and our allocation may be gone with it.
    Doubted,
}

/// What is known of how a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerKind {
    /// Who.
    pub device: DeviceId,
    /// Speaks plain WireGuard only: no calls.
    pub wireguard_only: bool,
    /// Its fixed endpoint.
    pub endpoint: Option<SocketAddr>,
    /// What its probes without a handle name it by: the first four bytes of BLAKE2s
    /// of its WireGuard key, and of its second one; 0 = none.
    pub hints: [u32; 2],
}

/// A call that came before the map named its caller.
struct Early {
    call: Call,
    until: Instant,
}

/// Paths to up to `PEERS` peers; about 450 bytes each.
pub struct Paths<const PEERS: usize> {
    own: DeviceId,
    local: LocalCandidates,
    peers: [Option<PeerPath>; PEERS],
    early: Vec<Early, EARLY>,
    gathering: Gathering,
    allocation: Allocation,
    /// An allocation is asked for to find out how.
    learns_way: bool,
    line: OwnLine,
    bells: Bells,
    run: Option<Run>,
    allowance: Allowance,
    extra: ladder::Sockets,
    /// Where the map's relays are.
    relays: Vec<IpAddr, { 2 * RELAYS }>,
    /// [`PathEvent::Relay`] is due.
    relay_changed: bool,
    /// [`PathEvent::Elsewhere`] is due, and not again before that.
    is_elsewhere: bool,
    elsewhere_at: Instant,
    /// Round trip to the coordinator.
    rtt_ms: u16,
    endpoints_changed: bool,
    cache_at: Instant,
    /// How often it may still be written soon.
    caches_soon: u8,
    changed: bool,
    /// A signal may be due.
    signals: bool,
    /// No probe is due before this instant.
    probe_at: Instant,
    /// What ways that are kept open begin with here.
    warm_start: warm::Start,
}

impl<const PEERS: usize> Paths<PEERS> {
    /// No peers and no addresses yet.
    #[inline(never)]
    pub const fn new(sockets: Sockets) -> Self {
        Self {
            own: DeviceId(0),
            local: LocalCandidates::new(sockets),
            peers: empty::nothing(),
            early: Vec::new(),
            gathering: Gathering::new(),
            allocation: Allocation::Absent,
            learns_way: false,
            line: OwnLine::new(),
            bells: Bells::new(),
            run: None,
            allowance: Allowance::UNLIMITED,
            extra: ladder::Sockets::new(),
            relays: Vec::new(),
            relay_changed: false,
            is_elsewhere: false,
            elsewhere_at: Instant::ZERO,
            rtt_ms: 0,
            endpoints_changed: false,
            cache_at: Instant::ZERO,
            caches_soon: CACHES_SOON,
            changed: false,
            signals: false,
            probe_at: Instant::FAR_FUTURE,
            warm_start: warm::Start::NOTHING,
        }
    }

    /// Who we are: decides who begins when two call each other.
    pub fn set_own(&mut self, own: DeviceId) {
        self.own = own;
        for peer in self.peers.iter_mut().flatten() {
            peer.leads = own < peer.kind.device;
        }
    }

    /// The overlay, whose addresses are never candidates.
    pub fn set_overlay(&mut self, overlay: Overlay) {
        self.local.set_overlay(overlay);
    }

    /// The socket of each address family; a family without one is not used.
    pub const fn set_sockets(&mut self, sockets: Sockets) {
        self.local.sockets = sockets;
    }

    /// Where this device may be reached, best first. What cannot be reached
    /// from outside is left out, and so is everything beyond 8.
    pub fn set_local(&mut self, candidates: &[Candidate]) {
        self.local.set(candidates);
    }

    /// What of it is told to peers, as far as the overlay is known.
    pub fn local(&self) -> Vec<Candidate, CANDIDATES> {
        self.local.hosts()
    }

    /// The socket of each address family.
    pub const fn sockets(&self) -> Sockets {
        self.local.sockets
    }

    /// Servers are others: what they said holds no more.
    pub fn handle_servers_change(&mut self) {
        let _: bool = self.local.set_reflexive(core::iter::empty());
        self.gathering.forget();
        self.stir();
    }

    /// We are somewhere else: peers that are talked to are told at once.
    pub fn handle_network_change(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.handle_servers_change();
        // It was for the NATs that were between us.
        self.end_run();
        self.warm_start = warm::Start::NOTHING;
        for peer in self.peers.iter_mut().flatten().filter(|peer| !peer.kind.wireguard_only) {
            peer.warm.forget(now);
            if peer.listening.due_at().is_some() || peer.is_told() {
                peer.handle_moved(entropy, now);
                peer.draw_handle(entropy);
            }
        }
    }

    /// A session with the coordinator begins, which is so many milliseconds away and
    /// back: calls that were made in the one before may be lost with it.
    pub fn handle_online(&mut self, rtt_ms: u16, now: Instant) {
        self.rtt_ms = rtt_ms;
        self.peers.iter_mut().flatten().for_each(|peer| peer.repeat_call(now));
        self.stir();
    }

    /// A server said where we are seen from: the addresses, of each family the
    /// newest. What waited for that goes. Who was told of us before that, and is not
    /// reached yet, is told again.
    pub fn handle_reflexive(
        &mut self,
        seen: impl Iterator<Item = SocketAddr>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let before: Vec<SocketAddr, 2> = self.local.reflexive().iter().copied().collect();
        let is_news = self.local.set_reflexive(seen);
        if self.local.has_left(&before) && self.elsewhere_at <= now {
            self.is_elsewhere = true;
            self.elsewhere_at = now + ELSEWHERE_INTERVAL;
        }
        // Where ports are counted only the last one is of use.
        if !self.gathering.is_hard() {
            self.gathering.end(now);
        }
        let is_last = !self.gathering.is_late();
        for peer in self.peers.iter_mut().flatten().filter(|_| is_last) {
            if core::mem::take(&mut peer.told_early) && is_news && peer.is_told() {
                peer.call_again(entropy, now);
                peer.draw_handle(entropy);
            }
        }
        self.stir();
    }

    /// All servers have answered, or none will: `seen` as for
    /// [`Paths::handle_reflexive`].
    pub fn handle_gathered(
        &mut self,
        seen: impl Iterator<Item = SocketAddr>,
        nat: NatReport,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let was_blocked = self.gathering.is_blocked();
        self.gathering.set_nat(nat, now);
        self.gathering.end(now);
        if !was_blocked {
            self.get_to_know_relays();
        }
        self.handle_reflexive(seen, entropy, now);
    }

    /// A peer is in this slot, new or changed.
    pub fn set_peer(
        &mut self,
        slot: PeerSlot,
        kind: PeerKind,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let Some(place) = self.peers.get_mut(slot.index()) else {
            return;
        };
        let moved = match place {
            Some(peer) if peer.kind.device == kind.device => {
                let moved = peer.kind.endpoint != kind.endpoint;
                peer.kind = kind;
                moved
            }
            _ => {
                *place = Some(PeerPath::new(kind));
                false
            }
        };
        let own = self.own;
        if let Some(peer) = self.peer_mut(slot) {
            peer.leads = own < kind.device;
        }
        if moved {
            self.select_configured(slot, now);
        }
        if let Some(position) = self.early.iter().position(|early| early.call.peer == kind.device) {
            let early = self.early.swap_remove(position);
            if now <= early.until {
                self.handle_call(&early.call, entropy, now);
            }
        }
    }

    /// Somebody wrote down another endpoint: it counts from now on, until the
    /// peer is heard from elsewhere.
    fn select_configured(&mut self, slot: PeerSlot, now: Instant) {
        let route = self.fixed_route(slot);
        if let (Some(peer), Some(route)) = (self.peer_mut(slot), route) {
            peer.selected =
                Some(Selected { route, why: Why::Configured, since: now, relayed: false });
            self.stir();
        }
    }

    /// The way to the fixed endpoint of a WireGuard-only peer.
    fn fixed_route(&self, slot: PeerSlot) -> Option<Route> {
        let kind = self.peer(slot)?.kind;
        self.local.route(kind.endpoint.filter(|_| kind.wireguard_only)?)
    }

    /// The peer of this slot is gone.
    pub fn remove_peer(&mut self, slot: PeerSlot) {
        if let Some(place) = self.peers.get_mut(slot.index()) {
            *place = None;
            // A relay may keep something for it alone.
            self.stir();
        }
    }

    /// Where a peer was before the last start.
    pub fn set_cached(&mut self, slot: PeerSlot, address: SocketAddr, now: Instant) {
        let route = self.local.route(address);
        if let Some(peer) = self.peer_mut(slot)
            && peer.selected.is_none()
        {
            let (why, relayed) = (Why::Cached, false);
            peer.selected = route.map(|route| Selected { route, why, since: now, relayed });
        }
    }

    /// A packet wants this peer and finds no session.
    pub fn handle_wanted(&mut self, slot: PeerSlot, entropy: &mut dyn Entropy, now: Instant) {
        let fixed = self.fixed_route(slot);
        let Some(peer) = self.peer_mut(slot) else {
            return;
        };
        if peer.kind.wireguard_only {
            if peer.selected.is_none() {
                let (why, relayed) = (Why::Configured, false);
                peer.selected = fixed.map(|route| Selected { route, why, since: now, relayed });
            }
            match peer.selected {
                Some(_) => peer.ready = true,
                None => peer.failed = Some(NoPath::NoEndpoint),
            }
        } else {
            peer.handle_wanted(entropy, now);
            peer.draw_handle(entropy);
        }
        self.stir();
    }

    /// A handshake initiation is being sent to this peer: if it is not answered
    /// soon, the peer is called.
    pub fn handle_initiation(&mut self, slot: PeerSlot, entropy: &mut dyn Entropy, now: Instant) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.handle_initiation(entropy, now);
            peer.draw_handle(entropy);
        }
    }

    /// The newest authenticated word of this peer came from there.
    pub fn handle_authenticated(&mut self, slot: PeerSlot, source: Source, now: Instant) {
        self.note_way(slot, source.into());
        let turns = self.local.is_own_router(source.address.ip());
        let Some(peer) = self.peer_mut(slot) else {
            return;
        };
        let moved = peer.handle_authenticated(source.into(), turns, now);
        self.endpoints_changed |= moved;
        self.meet(slot, now);
        self.stir();
    }

    /// The way to this peer is to be kept open while nobody talks, or need not be, as
    /// far as one or the other is concerned.
    pub fn keep_warm(&mut self, slot: PeerSlot, whose: Wish, is_wanted: bool, now: Instant) {
        let start = self.warm_start;
        if let Some(peer) = self.peer_mut(slot).filter(|peer| !peer.kind.wireguard_only) {
            peer.keep_warm(whose, is_wanted, start, now);
        }
    }

    /// Whether what is asked of this peer now is whether its way stands that is
    /// kept open.
    pub fn is_kept_warm(&self, slot: PeerSlot) -> bool {
        self.peer(slot).is_some_and(PeerPath::is_kept_warm)
    }

    /// Data goes to this peer, or comes from it, after a pause.
    pub fn handle_active(&mut self, slot: PeerSlot, now: Instant) {
        if let Some(peer) = self.peer_mut(slot).filter(|peer| !peer.kind.wireguard_only) {
            peer.listening.begin(now);
        }
    }

    /// What the data path knows of this peer, as [`PathEvent::Listen`] asked.
    pub fn handle_heard(
        &mut self,
        slot: PeerSlot,
        heard: &Activity,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        if let Some(source) = heard.heard_from {
            self.note_way(slot, source.into());
        }
        let allowance = self.allowance;
        if let Some(peer) = self.peer_mut(slot) {
            peer.handle_heard(heard, allowance, entropy, now);
            peer.draw_handle(entropy);
            self.stir();
        }
    }

    /// The peer did not answer for 90 s.
    pub fn handle_failed(&mut self, slot: PeerSlot, now: Instant) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.end_handshake(now);
            peer.handle_failed();
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        for peer in self.peers.iter_mut().flatten() {
            peer.handle_timeout(self.allowance, entropy, now);
            if peer.is_calling() {
                peer.draw_handle(entropy);
            }
        }
        self.early.retain(|early| now <= early.until);
        self.bells.handle_timeout(now);
        self.handle_line_timeout(entropy, now);
        self.gathering.handle_timeout(now);
        self.stir();
    }

    /// When to call [`Paths::handle_timeout`]. A signal that is due and could
    /// not be sent is no reason: it goes when it can.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let due = |peer: &PeerPath| {
            [peer.due_at(), peer.checks.due_at(), peer.prediction.and_then(|one| one.due_at())]
        };
        let peers = self.peers.iter().flatten().flat_map(due).flatten();
        let cache = self.endpoints_changed.then_some(self.cache_at);
        let run = self.run.map(|run| run.due_at());
        let bells = [self.bells.due_at(), self.bells.rung_until()];
        let own = [self.gathering.due_at(), self.line.due_at()].into_iter().chain(bells);
        let at = peers.chain(cache).chain(own.flatten()).chain(run).min()?;
        Some((at, Reason::new("path: call or try a peer")))
    }

    /// The next event. Ask until `None`.
    #[must_use]
    pub fn poll_event(&mut self, now: Instant) -> Option<PathEvent> {
        if self.endpoints_changed && self.cache_at <= now {
            self.endpoints_changed = false;
            self.cache_at = now + CACHE_INTERVAL;
            return Some(PathEvent::CacheChanged);
        }
        if !self.changed {
            return None;
        }
        self.suspect_relay(now);
        for (position, peer) in self.peers.iter_mut().enumerate() {
            let slot = PeerSlot(u16::try_from(position).ok()?);
            if let Some(event) = peer.as_mut().and_then(|peer| peer.poll_event(slot, now)) {
                return Some(event);
            }
        }
        self.relay_changed |= self.lean(now);
        // Who hears of relays alone needs no server.
        let hears =
            |peer: &&PeerPath| peer.has_signal(now) && (peer.is_calling() || !peer.declines);
        let told = || self.peers.iter().flatten().filter(hears);
        let doubted = told().any(|peer| peer.doubts_reflexive(now));
        let is_told = told().next().is_some() || self.bells.is_rung();
        if self.gathering.is_stale(doubted, now) && is_told {
            self.gathering.begin(now);
            return Some(PathEvent::Gather);
        }
        if self.line.take_due() {
            return Some(PathEvent::RelaySuspected(RelaySuspicion::Doubted));
        }
        if core::mem::take(&mut self.relay_changed) {
            return Some(PathEvent::Relay);
        }
        if core::mem::take(&mut self.is_elsewhere) {
            return Some(PathEvent::Elsewhere);
        }
        self.changed = false;
        None
    }

    /// The route that carries the peer's data.
    pub fn selected(&self, slot: PeerSlot) -> Option<&Selected> {
        self.peer(slot)?.selected.as_ref()
    }

    /// Whose selected route leads to this address, or who is tried there.
    pub fn slot_at(&self, address: SocketAddr) -> Option<PeerSlot> {
        let leads = |selected: &Selected| selected.route.address() == address;
        let is_there = |peer: &PeerPath| {
            peer.selected.as_ref().is_some_and(leads) || peer.checks.knows(address)
        };
        let position = self.peers.iter().position(|peer| peer.as_ref().is_some_and(is_there))?;
        u16::try_from(position).ok().map(PeerSlot)
    }

    /// Where a handshake initiation goes: to what answered a probe; else the
    /// selected route, and what the peer named if that is in doubt.
    pub fn targets(&self, slot: PeerSlot, now: Instant) -> Targets {
        let Some(peer) = self.peer(slot) else {
            return Targets::new();
        };
        if let Some((route, _)) = peer.checks.best(now) {
            return core::iter::once(route).collect();
        }
        let mut targets: Targets = peer.selected.iter().map(|selected| selected.route).collect();
        for route in peer.checks.open().chain(self.fixed_route(slot)) {
            if !targets.contains(&route) && !self.extra.is_closed(route) {
                // Cannot fail: there is a place for each address that is tried, and
                // one for the selected route; only other peers have a fixed one.
                let _ = targets.push(route);
            }
        }
        targets
    }

    /// What is worth keeping over a restart: the address that carried
    /// authenticated data.
    pub fn cached(&self, slot: PeerSlot) -> Option<SocketAddr> {
        let selected = self.selected(slot)?;
        let lasts = selected.why != Why::Configured && !selected.relayed;
        lasts.then_some(selected.route.address())
    }

    /// Something happened: events and signals are looked for again.
    fn stir(&mut self) {
        self.changed = true;
        self.signals = true;
        self.relay_changed |= self.allocation != Allocation::Absent;
        self.probe_at = Instant::ZERO;
    }

    fn slot_of(&self, device: DeviceId) -> Option<PeerSlot> {
        let of = |peer: &Option<PeerPath>| peer.as_ref().is_some_and(|p| p.kind.device == device);
        u16::try_from(self.peers.iter().position(of)?).ok().map(PeerSlot)
    }

    fn peer(&self, slot: PeerSlot) -> Option<&PeerPath> {
        self.peer_at(slot.index())
    }

    fn peer_at(&self, place: usize) -> Option<&PeerPath> {
        self.peers.get(place)?.as_ref()
    }

    fn peer_mut(&mut self, slot: PeerSlot) -> Option<&mut PeerPath> {
        self.peers.get_mut(slot.index())?.as_mut()
    }
}
