//! The line that a relay keeps while the coordinator is away, over which peers can
//! call this device.
//!
//! Behind a NAT nobody can be reached who does not keep something open. So a device
//! that has lost its coordinator takes one allocation and holds it for as long as
//! that lasts; a relay's answer in [`HOLD_EVERY`] keeps the NAT's way to it. It lets
//! in what comes from relays alone, that is from devices that have credentials
//! there, wherever they are: a peer that calls does so through an allocation of its
//! own. Some 250 bytes in 25 s, and none while the coordinator is there.
//!
//! Nobody can tell where that is any more when it is needed. So two devices that
//! talk tell each other beforehand ([`weft_wire::probe::Line`]); a relay of ours
//! gives a device the same port again, even after months. Whoever has never talked
//! to a peer cannot call it. What an answer says is believed, since it names the
//! question's transaction; a question says it too, and makes us ask in our turn if
//! that is news. Each is answered by one of the two, in as many bytes.

use core::net::{IpAddr, SocketAddr};

use heapless::Vec;
use weft_wire::probe::{Line, ProbeHead};
use weft_wire::relay::RELAYS;

use super::bell::Note;
use super::peer::PeerPath;
use super::relayed::Allocation;
use super::{CACHE_SOON, Paths, Route};
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot};
use crate::time::{Duration, Instant};

/// A coordinator that is gone for this long, and up to as long again, is away: one
/// that starts anew is back by then, and not everybody asks at once.
const AWAY_AFTER: Duration = Duration::from_secs(10);
/// The relay hears from us this often, or a NAT forgets the way to it.
const HOLD_EVERY: Duration = Duration::from_secs(25);
/// After a peer was met it is found out where a relay would keep us: what is tried
/// first then is over …
const LEARN_AFTER: Duration = Duration::from_secs(5);
/// … and a moment later the peer is told.
const TELL_AFTER: Duration = Duration::from_secs(6);
/// A question is repeated after these times.
const ASK_AGAIN: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10)];
/// Nobody is asked anew sooner by ourselves …
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// … or instead of being answered.
const ASK_BACK_INTERVAL: Duration = Duration::from_millis(500);
/// A way over which nothing authentic has come for this long may have ended: NATs
/// forget one after 30 s.
const NEAR_FOR: Duration = Duration::from_secs(30);
/// Calls and questions of one peer that are answered in a second.
const ANSWER_RATE: u8 = 8;
/// Peers that nobody talks to and that are told of another line all the same.
const TOLD_AT_ONCE: usize = 8;

/// Our own line.
pub(super) struct OwnLine {
    /// It may be taken: what is sent costs nothing, or is affordable.
    is_allowed: bool,
    /// Whether the coordinator is there.
    pub(super) is_online: bool,
    /// When it is away; `FAR_FUTURE` = it is there, or has been away for long.
    away_at: Instant,
    /// An allocation is held for as long as the coordinator is away.
    is_held: bool,
    /// When the relay is to hear from us.
    hold_at: Instant,
    /// That is now.
    is_due: bool,
    /// Where a relay keeps us, or last did.
    home: Line,
    /// An allocation is asked for to find that out.
    learns: bool,
    learn_at: Instant,
}

impl OwnLine {
    pub(super) const fn new() -> Self {
        Self {
            is_allowed: true,
            is_online: false,
            away_at: Instant::FAR_FUTURE,
            is_held: false,
            hold_at: Instant::FAR_FUTURE,
            is_due: false,
            home: Line::NONE,
            learns: false,
            learn_at: Instant::FAR_FUTURE,
        }
    }

    /// Whether an allocation is wanted, though no data needs one.
    pub(super) const fn wants_relay(&self) -> bool {
        self.is_held || self.learns
    }

    /// No allocation is to be had.
    pub(super) const fn handle_failed(&mut self) {
        self.learns = false;
    }

    /// Whether the relay is to hear from us now.
    pub(super) const fn take_due(&mut self) -> bool {
        core::mem::replace(&mut self.is_due, false)
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        let at = self.away_at.min(self.hold_at).min(self.learn_at);
        (at != Instant::FAR_FUTURE).then_some(at)
    }
}

/// What a peer and we know of each other's lines, and how often it is answered; 56 bytes.
pub(super) struct Known {
    /// The peer's.
    pub(super) line: Line,
    /// The peer knows ours, or does not answer.
    is_told: bool,
    /// Questions sent.
    asked: u8,
    /// A question is to be sent.
    pub(super) is_due: bool,
    /// When it is; `FAR_FUTURE` = not.
    at: Instant,
    asked_at: Instant,
    /// Of the questions.
    transaction: u32,
    /// What was answered in the second that began then.
    answered_at: Instant,
    answered: u8,
}

impl Known {
    pub(super) const fn new() -> Self {
        Self {
            line: Line::NONE,
            is_told: false,
            asked: 0,
            is_due: false,
            at: Instant::FAR_FUTURE,
            asked_at: Instant::ZERO,
            transaction: 0,
            answered_at: Instant::ZERO,
            answered: 0,
        }
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        (self.at != Instant::FAR_FUTURE).then_some(self.at)
    }

    /// Of the questions that are under way.
    pub(super) fn transaction(&self) -> u64 {
        self.transaction.into()
    }

    /// One answer more to a call or a question.
    pub(super) fn may_answer(&mut self, now: Instant) -> Result<(), DropReason> {
        if now - self.answered_at >= Duration::from_secs(1) {
            (self.answered_at, self.answered) = (now, 0);
        }
        if self.answered >= ANSWER_RATE {
            return Err(DropReason::RateLimited);
        }
        self.answered += 1;
        Ok(())
    }

    /// A question at this time, or at one that is nearer.
    fn ask_at(&mut self, at: Instant) {
        let at = at.max(self.asked_at + ASK_INTERVAL);
        if self.at == Instant::FAR_FUTURE {
            self.asked = 0;
        }
        self.at = self.at.min(at);
    }

    /// A question goes instead of an answer, if none is under way.
    fn ask_back(&mut self, line: Line, entropy: &mut dyn Entropy, now: Instant) -> bool {
        let is_asking = self.at != Instant::FAR_FUTURE || now - self.asked_at < ASK_BACK_INTERVAL;
        let asks = line != self.line && !is_asking;
        if asks {
            self.draw(entropy);
            (self.asked, self.asked_at) = (1, now);
        }
        asks
    }

    fn draw(&mut self, entropy: &mut dyn Entropy) {
        self.transaction = entropy.number();
    }

    fn handle_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        if self.at > now {
            return;
        }
        if self.asked == 0 {
            self.draw(entropy);
        }
        let wait = ASK_AGAIN.get(usize::from(self.asked));
        self.is_due = wait.is_some();
        self.is_told |= wait.is_none();
        self.at = wait.map_or(Instant::FAR_FUTURE, |&wait| now + wait);
        self.asked += 1;
        self.asked_at = now;
    }
}

impl<const PEERS: usize> Paths<PEERS> {
    /// What may be sent that only might help has changed: a line is only held where
    /// its bytes are affordable.
    pub(super) fn handle_allowance(&mut self, now: Instant) {
        let line = &mut self.line;
        let was_allowed = core::mem::replace(&mut line.is_allowed, self.allowance.allows_round());
        if was_allowed && !line.is_allowed {
            (line.is_held, line.learns) = (false, false);
            line.hold_at = Instant::FAR_FUTURE;
            self.relay_changed = true;
            self.stir();
        } else if line.is_allowed && !was_allowed && !line.is_online {
            line.away_at = line.away_at.min(now);
            self.stir();
        }
    }

    /// The coordinator is there, or not.
    pub fn set_online(&mut self, is_online: bool, entropy: &mut dyn Entropy, now: Instant) {
        let line = &mut self.line;
        if is_online {
            line.away_at = Instant::FAR_FUTURE;
            line.hold_at = Instant::FAR_FUTURE;
            line.is_held = false;
            self.relay_changed = true;
        } else if line.is_online || line.due_at().is_none() {
            let spread = entropy.number() % AWAY_AFTER.as_millis() as u32;
            line.away_at = now + AWAY_AFTER + Duration::from_millis(spread.into());
        }
        line.is_online = is_online;
        self.stir();
    }

    /// Whether a line is held that peers can call over.
    pub fn is_line_up(&self) -> bool {
        self.line.is_held && self.allocation == Allocation::Up
    }

    /// Where a relay keeps a line to this peer, as far as it has said.
    pub fn line(&self, slot: PeerSlot) -> Line {
        self.peer(slot).map_or(Line::NONE, |peer| peer.known.line)
    }

    /// The same, from before the last start.
    pub fn set_line(&mut self, slot: PeerSlot, line: Line) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.known.line = line;
        }
    }

    pub(super) fn handle_line_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        let exists = self.allocation != Allocation::Absent;
        let calls = |peer: &PeerPath| !peer.kind.wireguard_only;
        let may = exists && self.line.is_allowed && self.peers.iter().flatten().any(calls);
        let line = &mut self.line;
        if line.away_at <= now {
            line.away_at = Instant::FAR_FUTURE;
            line.is_held = may;
            line.hold_at = if may { now + HOLD_EVERY } else { Instant::FAR_FUTURE };
            self.relay_changed = true;
        }
        if line.learn_at <= now {
            line.learn_at = Instant::FAR_FUTURE;
            line.learns = may && line.home.is_none();
            self.relay_changed |= line.learns;
        }
        if line.hold_at <= now {
            line.hold_at = now + HOLD_EVERY;
            line.is_due = self.allocation == Allocation::Up;
        }
        for peer in self.peers.iter_mut().flatten() {
            peer.known.handle_timeout(entropy, now);
        }
    }

    /// A relay keeps these addresses for us.
    pub(super) fn handle_home(&mut self, home: Line, now: Instant) {
        self.line.learns = false;
        if self.line.is_held {
            self.line.hold_at = now + HOLD_EVERY;
        }
        let is_news = self.line.home != home;
        self.line.home = home;
        let is_held = self.line.is_held;
        let mut idle = 0;
        for peer in self.peers.iter_mut().flatten() {
            peer.known.is_told &= !is_news;
            if peer.known.is_told {
                continue;
            }
            let is_near = peer.is_near(now);
            let is_far = !is_near && is_held && !peer.known.line.is_none() && idle < TOLD_AT_ONCE;
            idle += usize::from(is_far);
            if is_near || is_far {
                peer.known.ask_at(now);
            }
        }
    }

    /// A peer was met: both are to know each other's lines.
    pub(super) fn meet(&mut self, slot: PeerSlot, now: Instant) {
        if self.allocation == Allocation::Absent || !self.line.is_allowed {
            return;
        }
        let lacks_home = self.line.home.is_none();
        let Some(peer) = self.peer_mut(slot) else { return };
        if peer.known.is_told || peer.kind.wireguard_only || peer.known.due_at().is_some() {
            return;
        }
        peer.known.ask_at(now + TELL_AFTER);
        if lacks_home && !self.line.learns {
            self.line.learn_at = self.line.learn_at.min(now + LEARN_AFTER);
        }
    }

    /// The way of a question to this peer.
    pub(super) fn line_way(&self, peer: &PeerPath, now: Instant) -> Option<Route> {
        let near = peer.selected.filter(|_| peer.is_near(now));
        near.map(|selected| selected.route).or_else(|| self.over_lines(peer).next())
    }

    /// Ways from our allocation to the peer's line.
    pub(super) fn over_lines(&self, peer: &PeerPath) -> impl Iterator<Item = Route> + use<PEERS> {
        let has = [true, false].map(|v4| self.local.has_relayed_of(v4));
        let usable = move |address: &SocketAddr| has[usize::from(address.is_ipv6())];
        let lines = peer.known.line.addresses().filter(usable);
        lines.map(|address| Route::Relay { address })
    }

    /// The body of our questions and answers.
    pub(super) const fn own_line(&self) -> &Line {
        &self.line.home
    }

    /// A peer asked for our line and said its own, or answered.
    pub(super) fn handle_line(
        &mut self,
        slot: PeerSlot,
        route: Route,
        head: &ProbeHead,
        line: Line,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        let peer = self.peer_mut(slot).ok_or(DropReason::UnknownPeer)?;
        match head.number {
            0 => {
                peer.known.may_answer(now)?;
                let head = if peer.known.ask_back(line, entropy, now) {
                    let transaction = peer.known.transaction();
                    self.nameless(transaction, now)
                } else {
                    peer.known.is_told = true;
                    ProbeHead { number: 1, ..*head }
                };
                self.queue(Note::line(slot, route, head, now))
            }
            1 if peer.known.asked > 0 && head.transaction == peer.known.transaction() => {
                peer.known.is_told = true;
                (peer.known.at, peer.known.is_due) = (Instant::FAR_FUTURE, false);
                let before = core::mem::replace(&mut peer.known.line, line);
                if before != line {
                    self.store_soon(now);
                }
                Ok(())
            }
            1 => Err(DropReason::Unsolicited),
            _ => Err(DropReason::Malformed),
        }
    }

    /// A peer's line is news.
    fn store_soon(&mut self, now: Instant) {
        self.endpoints_changed = true;
        let soon = now + CACHE_SOON;
        if self.cache_at > soon && self.caches_soon > 0 {
            self.caches_soon -= 1;
            self.cache_at = soon;
        }
    }

    /// Whom the line lets in, and whom we call through it: relays.
    pub(super) fn line_permits(&self) -> impl Iterator<Item = SocketAddr> + use<PEERS> {
        let calls = |peer: &PeerPath| peer.is_calling() && !peer.known.line.is_none();
        let calling = || self.bells.goes() || self.peers.iter().flatten().any(calls);
        let is_held = self.line.is_held || self.bells.awaits_go();
        let is_wanted = is_held || (!self.line.is_online && calling());
        let mut permits: Vec<SocketAddr, { 4 * RELAYS }> = Vec::new();
        let lines = self.peers.iter().flatten().map(|peer| peer.known.line);
        let lines = lines.chain([self.line.home]).flat_map(|line| line.addresses());
        let all = self.relays.iter().copied().chain(lines.map(|address| address.ip()));
        for ip in all.filter(|ip: &IpAddr| is_wanted && self.local.has_relayed_of(ip.is_ipv4())) {
            let permit = SocketAddr::new(ip, 0);
            if !permits.contains(&permit) {
                // More relays than there are in a map are other networks'.
                let _ = permits.push(permit);
            }
        }
        permits.into_iter()
    }
}

impl PeerPath {
    /// Whether the way in use carries something, as far as is known.
    fn is_near(&self, now: Instant) -> bool {
        let is_fresh = self.confirmed_at.is_some_and(|at| now - at < NEAR_FOR);
        self.selected.is_some() && (is_fresh || self.listening.due_at().is_some())
    }
}
