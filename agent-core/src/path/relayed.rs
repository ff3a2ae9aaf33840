//! Paths through relays: who has the allocation, and what it is to let in.
//!
//! One allocation is enough for two peers: whoever calls asks for it, tells its
//! address like any other, and lets the peer's address in; the peer sends plain
//! UDP there. Its NAT may choose any port for that, since a relay lets in by
//! address. The callee asks for one of its own only where it could not use the
//! caller's: the caller has none, or no UDP gets out of the callee's network.

use core::net::{IpAddr, SocketAddr};

use heapless::Vec;
use weft_wire::probe::Line;
use weft_wire::relay::{RELAYS, Relay};
use weft_wire::signal::{CANDIDATES, Candidate, CandidateKind};

use super::candidate::is_public;
use super::peer::{Named, PeerPath};
use super::{Paths, RelaySuspicion, Route};
use crate::entropy::Entropy;
use crate::event::PeerSlot;
use crate::time::Instant;

/// Ways that are tried in a round, and whether a relay is on each.
pub(super) type Ways = Vec<(Route, bool), CANDIDATES>;

/// Our allocation, as far as paths have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allocation {
    /// The map names no relay.
    Absent,
    /// Nobody needs one.
    Idle,
    /// It is being asked for.
    Asked,
    /// It is there.
    Up,
    /// No relay gave one; it is tried again after a while.
    Failed,
}

impl<const PEERS: usize> Paths<PEERS> {
    /// The map names these relays.
    pub fn set_relays(&mut self, relays: &[Relay]) {
        let exist = !relays.is_empty();
        let v4 = relays.iter().filter_map(|relay| relay.v4.map(IpAddr::V4));
        let v6 = relays.iter().filter_map(|relay| relay.v6.map(IpAddr::V6));
        self.relays = v4.chain(v6).take(2 * RELAYS).collect();
        // If there is one, it is to be given back.
        self.relay_changed = true;
        self.allocation = match (exist, self.allocation) {
            (false, _) => Allocation::Absent,
            (true, Allocation::Absent) => Allocation::Idle,
            (true, allocation) => allocation,
        };
        self.get_to_know_relays();
        self.stir();
    }

    /// Whether a relay of the map is there.
    pub fn is_relay(&self, ip: IpAddr) -> bool {
        self.relays.contains(&ip)
    }

    /// Where no datagram gets out, the way that does is found before anybody waits
    /// for it: an allocation is asked for, and given back.
    pub(super) fn get_to_know_relays(&mut self) {
        self.learns_way = self.allocation == Allocation::Idle && self.gathering.is_blocked();
    }

    /// A relay keeps these addresses for us.
    /// `mapped`: where it sees us, if it is reached by datagrams.
    pub fn handle_allocated(
        &mut self,
        addresses: impl Iterator<Item = SocketAddr>,
        mapped: Option<SocketAddr>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        self.local.set_relayed(addresses, mapped);
        let home = Line::new(self.local.relayed().iter().copied());
        self.allocation = Allocation::Up;
        self.set_refused(false);
        self.learns_way = false;
        self.gathering.end_relay();
        if mapped.is_some() {
            self.gathering.handle_passed();
        }
        self.handle_home(home, now);
        for peer in self.peers.iter_mut().flatten().filter(|peer| peer.leans) {
            // It was told of us before this came, or of an allocation before this.
            if !peer.told_relay && peer.is_told() {
                peer.call_again(entropy, now);
            }
        }
        self.stir();
    }

    /// The allocation is gone. Another one is being asked for.
    pub fn handle_allocation_lost(&mut self) {
        self.local.set_relayed(core::iter::empty(), None);
        self.allocation = Allocation::Asked;
        for peer in self.peers.iter_mut().flatten() {
            peer.told_relay = false;
        }
        self.stir();
    }

    /// No relay gives one now; the last one `refused` us.
    pub fn handle_allocation_failed(&mut self, refused: bool) {
        self.local.set_relayed(core::iter::empty(), None);
        self.set_refused(refused);
        self.learns_way = false;
        self.line.handle_failed();
        if self.allocation != Allocation::Absent {
            self.allocation = Allocation::Failed;
        }
        self.gathering.end_relay();
        self.stir();
    }

    fn set_refused(&mut self, refused: bool) {
        for peer in self.peers.iter_mut().flatten() {
            peer.history.refused = refused && peer.leans;
        }
    }

    /// It was given back, as [`Paths::wants_relay`] said.
    pub fn handle_released(&mut self) {
        self.local.set_relayed(core::iter::empty(), None);
        if self.allocation != Allocation::Absent {
            self.allocation = Allocation::Idle;
        }
    }

    /// A peer was heard this way: a relay of the map may be on it, whether the peer
    /// has named it or not.
    pub(super) fn note_way(&mut self, slot: PeerSlot, route: Route) {
        let kept = self.is_relay(route.address().ip());
        if let Some(peer) = self.peer_mut(slot).filter(|_| kept && !route.is_ours()) {
            peer.kept = Some(route.into());
        }
    }

    /// Whether an allocation is to be held.
    pub fn wants_relay(&self) -> bool {
        let exists = self.allocation != Allocation::Absent;
        // Whoever called over it has the last word, though the coordinator may be back.
        let answers = self.allocation == Allocation::Up && self.bells.awaits_go();
        let is_apart = self.learns_way || self.line.wants_relay() || answers;
        exists && (is_apart || self.peers.iter().flatten().any(|peer| peer.leans))
    }

    /// Addresses that are to be let in and sent to there.
    pub fn through_relay(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let leaning = self.peers.iter().flatten().filter(|peer| peer.leans);
        leaning.flat_map(PeerPath::through_relay).chain(self.line_permits())
    }

    /// Asks for what the next signals have to name. Whether there is anything to
    /// ask for.
    pub(super) fn lean(&mut self, now: Instant) -> bool {
        if self.allocation == Allocation::Absent {
            return false;
        }
        let mut wanted = false;
        for peer in self.peers.iter_mut().flatten() {
            if peer.has_signal(now) && peer.calls_without_relay() {
                peer.leans = true;
            }
            wanted |= peer.leans && peer.has_signal(now);
        }
        let asks = wanted && matches!(self.allocation, Allocation::Idle);
        if asks {
            self.allocation = Allocation::Asked;
            self.gathering.begin_relay(now);
        }
        asks
    }

    /// A peer is about to be told again, though all that both have named was tried: a
    /// relay that was named may answer us and pass nothing on.
    pub(super) fn suspect_relay(&mut self, now: Instant) {
        let told = self.peers.iter_mut().flatten().filter(|peer| peer.leans && peer.told_relay);
        for peer in told.filter(|peer| peer.has_signal(now) && peer.is_missed(now)) {
            peer.told_relay = false;
            peer.suspects = Some(RelaySuspicion::Silent(None));
            // The signal may name another one.
            self.gathering.begin_relay(now);
        }
    }

    /// What a peer named. `calls`: it called us, and we decide whether its relay
    /// will do.
    pub(super) fn named(
        &mut self,
        slot: PeerSlot,
        candidates: &[Candidate],
        calls: bool,
        named: Named,
    ) -> Named {
        let routes = self.ways(slot, candidates, calls);
        Named { routes, seen: seen(candidates, true), ..named }
    }

    fn ways(&mut self, slot: PeerSlot, candidates: &[Candidate], calls: bool) -> Ways {
        let is_relayed = |candidate: &&Candidate| candidate.kind == CandidateKind::Relayed;
        let blocked = self.gathering.is_blocked();
        let exists = self.allocation != Allocation::Absent;
        let lacks = blocked || !candidates.iter().any(|candidate| is_relayed(&candidate));
        let Some(peer) = self.peers.get_mut(slot.index()).and_then(Option::as_mut) else {
            return Ways::new();
        };
        peer.leans |= calls && exists && lacks;
        let leans = peer.leans;
        // Through our own relay a peer is let in by its address alone: one of each
        // family is enough, and it is as servers see it where there is a NAT.
        let ours = [seen(candidates, true), seen(candidates, false)].into_iter().flatten();
        // Where no UDP gets out, what a relay keeps for the peer is reached from
        // ours.
        let kept = candidates.iter().filter(is_relayed).filter(|_| blocked);
        let kept = kept.map(|candidate| candidate.address);
        let ours = ours.chain(kept).filter(|_| leans);
        let ours = ours.map(|address| (Route::Relay { address }, true));
        let direct = |candidate: &Candidate| {
            let route = self.local.route(candidate.address)?;
            Some((route, candidate.kind == CandidateKind::Relayed))
        };
        let is_other = |candidate: &&Candidate| candidate.kind != CandidateKind::Host;
        let others = candidates.iter().filter(is_other);
        let reachable = || self.local.reachable(candidates);
        // The first that answers is taken: where both are behind one router a way that
        // it turns around must not come before the one that it is not on.
        let is_near = self.local.shares_site(candidates);
        let inner = reachable().filter(|_| is_near);
        // What carries its data is there, whatever it looks like.
        let used = peer.selected.map(|selected| selected.route.address());
        let is_used = |candidate: &&Candidate| Some(candidate.address) == used;
        let used = candidates.iter().filter(|one| !is_other(one)).filter(is_used);
        let directly = inner.chain(others).chain(used).chain(reachable()).filter_map(direct);
        let mut ways = Ways::new();
        for way in ours.chain(directly) {
            if ways.iter().all(|known| known.0 != way.0) {
                // What is beyond the places is left out.
                let _ = ways.push(way);
            }
        }
        ways
    }
}

/// Where the world sees a peer that named these, in one address family.
fn seen(candidates: &[Candidate], v4: bool) -> Option<SocketAddr> {
    let public = candidates.iter().filter(|candidate| {
        candidate.address.is_ipv4() == v4
            && candidate.kind != CandidateKind::Relayed
            && is_public(candidate.address.ip())
    });
    let best = public.max_by_key(|candidate| candidate.kind == CandidateKind::ServerReflexive);
    best.map(|candidate| candidate.address)
}

impl PeerPath {
    /// Whether a call of ours needs an allocation: there is no way over the
    /// peer's that works.
    fn calls_without_relay(&self) -> bool {
        self.is_calling() && !self.is_on_relay()
    }

    /// Whether data goes over a relay, and comes back. A way from before the last start
    /// may have ended meanwhile.
    pub(super) fn is_on_relay(&self) -> bool {
        let relayed = self.selected.is_some_and(|selected| selected.relayed);
        relayed && self.confirmed_at.is_some() && !self.in_doubt
    }

    /// The peer is being told where we are: with what a relay keeps for us, or before
    /// all servers have answered.
    pub(super) fn handle_told(&mut self, relayed: bool, early: bool) {
        (self.told_relay, self.told_early) = (relayed, early);
        // A NAT forgets the way to the relay as it forgets others, and nobody would
        // notice on a way that is not used.
        let again = self.selected.is_some() || self.calls_again();
        if self.leans && (again || !relayed) {
            self.suspects.get_or_insert(RelaySuspicion::Doubted);
        }
    }

    /// Whether the peer was told where we are, and may need to hear more.
    pub(super) fn is_told(&self) -> bool {
        self.is_calling() || self.checks.is_open() || self.uses_ours()
    }

    /// Whether data goes through our allocation.
    pub(super) fn uses_ours(&self) -> bool {
        self.selected.is_some_and(|selected| selected.route.is_ours())
    }

    /// What a round tries is let in by its address alone: a channel binds a port of the
    /// peer's NAT for ten minutes, and each round may find another port.
    fn through_relay(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let selected = self.selected.map(|selected| selected.route);
        let selected = selected.filter(Route::is_ours).map(|route| route.address());
        // What a round has tried needs nothing more once data has a way.
        let tried = self.checks.through_ours().map(|address| SocketAddr::new(address.ip(), 0));
        let is_over = self.uses_ours() && self.checks.is_spent();
        selected.into_iter().chain(tried.filter(move |_| !is_over))
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::id::DeviceId;

    use super::*;
    use crate::path::{PeerKind, Why};

    #[test]
    fn a_round_binds_no_channel_and_data_does() {
        let now = Instant::from_secs(100);
        let kind =
            PeerKind { device: DeviceId(9), wireguard_only: false, endpoint: None, hints: [0; 2] };
        let mut peer = PeerPath::new(kind);
        let at = |port| SocketAddr::from(([198, 51, 100, 9], port));
        let route = |port| Route::Relay { address: at(port) };
        peer.checks.begin([(route(1), true), (route(2), true)].into_iter(), 1);
        peer.checks.start(now);
        assert!(peer.through_relay().all(|wanted| wanted == at(0)));
        assert_eq!(peer.through_relay().count(), 2);
        peer.select(route(2), Why::Authenticated, now);
        assert!(peer.through_relay().any(|wanted| wanted == at(2)));
        assert!(!peer.through_relay().any(|wanted| wanted == at(1)));
    }
}
