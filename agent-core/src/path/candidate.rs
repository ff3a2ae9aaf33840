//! Addresses that may be told to a peer or be sent to.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use heapless::Vec;
use weft_wire::map::Overlay;
use weft_wire::signal::{CANDIDATES, Candidate, CandidateKind};

use super::Route;
use crate::event::Sockets;
use crate::time::{Duration, Instant};

/// What a peer said of where it saw us is true for as long as Linux keeps a flow that
/// goes on.
const MOVED_FOR: Duration = Duration::from_secs(120);

/// Whether an address can be a candidate at all: no port 0, and neither
/// unspecified, loopback, multicast nor bound to one link.
pub fn is_usable(address: &SocketAddr) -> bool {
    let ip = match address.ip() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_link_local())
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || ip.to_ipv4_mapped().is_some())
        }
    };
    ip && address.port() != 0
}

/// Our own addresses, and what we may send to.
pub struct LocalCandidates {
    list: Vec<Candidate, CANDIDATES>,
    /// Where servers see us from, one of each family.
    reflexive: Vec<SocketAddr, 2>,
    /// What a relay keeps for us, one of each family.
    relayed: Vec<SocketAddr, 2>,
    /// Where a peer saw us last, if servers see another port, and when it said so.
    moved: Option<(SocketAddr, Instant)>,
    /// Where that relay sees us.
    mapped: Option<SocketAddr>,
    pub(super) sockets: Sockets,
    pub(super) overlay: Option<Overlay>,
}

impl LocalCandidates {
    pub(super) const fn new(sockets: Sockets) -> Self {
        Self {
            list: Vec::new(),
            reflexive: Vec::new(),
            relayed: Vec::new(),
            moved: None,
            mapped: None,
            sockets,
            overlay: None,
        }
    }

    /// Keeps the first 8 that a peer could use.
    pub(super) fn set(&mut self, candidates: &[Candidate]) {
        self.list = candidates
            .iter()
            .filter(|candidate| is_usable(&candidate.address))
            .copied()
            .take(CANDIDATES)
            .collect();
    }

    /// Returns whether that is something else than before.
    pub(super) fn set_reflexive(&mut self, reflexive: impl Iterator<Item = SocketAddr>) -> bool {
        let before = self.reflexive.clone();
        self.reflexive = reflexive.filter(is_usable).take(2).collect();
        self.reflexive != before
    }

    /// Where servers see us.
    pub(super) fn reflexive(&self) -> &[SocketAddr] {
        &self.reflexive
    }

    /// Whether servers saw us at one of these addresses, and see us at another one of
    /// its family now. A port alone is another one for many reasons.
    pub(super) fn has_left(&self, before: &[SocketAddr]) -> bool {
        let left = |before: &SocketAddr| {
            let alike = |now: &&SocketAddr| now.is_ipv4() == before.is_ipv4();
            self.reflexive.iter().find(alike).is_some_and(|now| now.ip() != before.ip())
        };
        before.iter().any(left)
    }

    /// A peer saw a packet of ours come from there. Returns whether that is news: servers
    /// see another port. Another address is no NAT's of ours, whoever says so.
    pub(super) fn note_seen(&mut self, seen: SocketAddr, now: Instant) -> bool {
        let is_ours = self.reflexive.iter().any(|known| known.ip() == seen.ip());
        if !is_usable(&seen) || !is_ours || self.reflexive.contains(&seen) {
            return false;
        }
        let before = self.moved.replace((seen, now));
        before.is_none_or(|(before, at)| before != seen || now - at >= MOVED_FOR)
    }

    /// Where servers see us from, or the relay where they are away together with the
    /// coordinator, and after that where new flows may come from.
    fn seen(&self, now: Instant) -> impl Iterator<Item = SocketAddr> + '_ {
        let moved = self.moved.filter(|(_, at)| now - *at < MOVED_FOR).map(|(moved, _)| moved);
        let is_ours = |moved: &SocketAddr| {
            self.reflexive.iter().any(|known| known.ip() == moved.ip())
                && !self.reflexive.contains(moved)
        };
        let lacks = |mapped: &SocketAddr| {
            self.reflexive.iter().all(|seen| seen.is_ipv4() != mapped.is_ipv4())
        };
        let servers = self.reflexive.iter().copied().chain(self.mapped.filter(lacks));
        servers.take(2).chain(moved.filter(is_ours))
    }

    /// `mapped`: where the relay sees the socket that peers are sent from.
    pub(super) fn set_relayed(
        &mut self,
        relayed: impl Iterator<Item = SocketAddr>,
        mapped: Option<SocketAddr>,
    ) {
        self.relayed = relayed.filter(is_usable).take(2).collect();
        self.mapped = mapped.filter(is_usable);
    }

    /// Whether a relay keeps an address of this family for us.
    pub(super) fn has_relayed_of(&self, v4: bool) -> bool {
        self.relayed.iter().any(|address| address.is_ipv4() == v4)
    }

    /// Whether a relay keeps an address for us.
    pub(super) fn has_relayed(&self) -> bool {
        !self.relayed.is_empty()
    }

    /// What is told to a peer. The overlay is looked at now: the map may have
    /// named it after the addresses were set. Where servers see us from, and what
    /// a relay keeps for us if the peer is to use that, come last and always have
    /// a place: they are what most peers need.
    pub(super) fn list(&self, relayed: bool, now: Instant) -> Vec<Candidate, CANDIDATES> {
        let mut list = self.hosts();
        let is_new = |seen: &SocketAddr| list.iter().all(|host| host.address != *seen);
        let seen: Vec<SocketAddr, 3> = self.seen(now).filter(is_new).collect();
        let kept = self.relayed.iter().filter(|_| relayed);
        list.truncate(CANDIDATES - seen.len() - kept.clone().count());
        let of = |kind| move |address| Candidate { kind, address };
        list.extend(seen.into_iter().map(of(CandidateKind::ServerReflexive)));
        list.extend(kept.copied().map(of(CandidateKind::Relayed)));
        list
    }

    /// What the shell named.
    pub(super) fn hosts(&self) -> Vec<Candidate, CANDIDATES> {
        self.list
            .iter()
            .filter(|candidate| !self.is_overlay(candidate.address.ip()))
            .copied()
            .collect()
    }

    /// How an address is sent to; `None` if it never is.
    pub(super) fn route(&self, address: SocketAddr) -> Option<Route> {
        if !is_usable(&address) || self.is_overlay(address.ip()) {
            return None;
        }
        let socket = if address.is_ipv4() { self.sockets.v4 } else { self.sockets.v6 };
        Some(Route::Direct { socket: socket?, address })
    }

    /// A tunnel inside the tunnel would never end.
    fn is_overlay(&self, ip: IpAddr) -> bool {
        let Some(overlay) = &self.overlay else {
            return false;
        };
        match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(overlay.ipv4_len)).unwrap_or(0);
                (ip.to_bits() ^ overlay.ipv4.to_bits()) & mask == 0
            }
            IpAddr::V6(ip) => Ipv6Addr::octets(&ip).starts_with(&overlay.ipv6),
        }
    }
}
