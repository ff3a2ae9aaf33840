//! Addresses that may be told to a peer or be sent to.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use heapless::Vec;
use weft_wire::map::Overlay;
use weft_wire::signal::{CANDIDATES, Candidate, CandidateKind};

use super::Route;
use crate::event::Sockets;
use crate::time::{Duration, Instant};

/// What a peer said of where it saw us is true for as long as Linux keeps a flow that
/// goes on.
const MOVED_FOR: Duration = Duration::from_secs(120);

/// Of a peer's own addresses so many are tried.
const HOSTS: usize = 4;

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

/// Whether a relay would send there: RFC 1918, RFC 6598 and RFC 4193 addresses
/// mean somebody else to it.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_private() || is_carriers(ip)),
        IpAddr::V6(ip) => !ip.is_unique_local(),
    }
}

/// RFC 6598.
const fn is_carriers(ip: Ipv4Addr) -> bool {
    ip.to_bits() >> 22 == 0x6440_0000 >> 22
}

/// Whether two private addresses may be of one network. How long the networks are is
/// not told: companies number all their sites from 10/8 and 172.16/12, and one
/// carrier has many NATs with 100.64/10 behind each; homes have a part of 192.168/16.
fn is_near(one: IpAddr, other: IpAddr) -> bool {
    let len = match (one, other) {
        (IpAddr::V4(ip), IpAddr::V4(_)) => match ip.octets() {
            [10, ..] => 8,
            [172, ..] => 12,
            [100, ..] => 10,
            _ => 24,
        },
        // What RFC 4193 gives a site.
        (IpAddr::V6(_), IpAddr::V6(_)) => 48,
        _ => return false,
    };
    is_within(one, other, len)
}

/// Whether the first `len` bits of two addresses of one family are the same. Byte by byte:
/// zeros in 128 bits are hundreds of instructions on a chip.
#[inline(never)]
fn is_within(one: IpAddr, other: IpAddr, len: u32) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => same_bits(&one.octets(), &other.octets()) >= len,
        (IpAddr::V6(one), IpAddr::V6(other)) => same_bits(&one.octets(), &other.octets()) >= len,
        _ => false,
    }
}

fn same_bits(one: &[u8], other: &[u8]) -> u32 {
    let mut bits = 0;
    for (one, other) in one.iter().zip(other) {
        bits += (one ^ other).leading_zeros();
        if one != other {
            break;
        }
    }
    bits
}

/// Whether whoever is seen at these two is behind one router. Of IPv6 each device has
/// an address of its own in the router's network.
fn is_one_site(one: IpAddr, other: IpAddr) -> bool {
    is_within(one, other, if one.is_ipv4() { 32 } else { 64 })
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
    overlay: Option<Overlay>,
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
        let reflexive = reflexive.filter(|seen| self.is_candidate(seen)).take(2).collect();
        let before = core::mem::replace(&mut self.reflexive, reflexive);
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
        if !self.is_candidate(&seen) || !is_ours || self.reflexive.contains(&seen) {
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
        self.relayed = relayed.filter(|kept| self.is_candidate(kept)).take(2).collect();
        self.mapped = mapped.filter(|mapped| self.is_candidate(mapped));
    }

    /// What servers and relays said before this was known is judged by it as well.
    pub(super) fn set_overlay(&mut self, overlay: Overlay) {
        self.overlay = Some(overlay);
        let (reflexive, relayed) = (self.reflexive.clone(), self.relayed.clone());
        self.set_reflexive(reflexive.into_iter());
        self.set_relayed(relayed.into_iter(), self.mapped);
    }

    /// What a relay keeps for us.
    pub(super) fn relayed(&self) -> &[SocketAddr] {
        &self.relayed
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
        if !self.is_candidate(&address) {
            return None;
        }
        let socket = if address.is_ipv4() { self.sockets.v4 } else { self.sockets.v6 };
        Some(Route::Direct { socket: socket?, address })
    }

    /// Which of a peer's own addresses are worth a try, best first: those that mean the
    /// same to everybody; those of a network like ours; and, as long as both may be
    /// behind one router, any other. Elsewhere they are somebody else's.
    pub(super) fn reachable<'a>(
        &'a self,
        named: &'a [Candidate],
    ) -> impl Iterator<Item = &'a Candidate> {
        let hosts = named.iter().filter(|one| one.kind == CandidateKind::Host);
        let rank = |host: &Candidate| {
            let ip = host.address.ip();
            if is_public(ip) {
                Some(0)
            } else if self.list.iter().any(|own| is_near(ip, own.address.ip())) {
                Some(1)
            } else {
                self.is_on_site(named, ip.is_ipv4()).unwrap_or(true).then_some(2)
            }
        };
        let of = move |wanted: u8| hosts.clone().filter(move |host| rank(host) == Some(wanted));
        of(0).chain(of(1)).chain(of(2)).take(HOSTS)
    }

    /// Whether the world sees us at this address, so that what is sent there turns around
    /// at our router.
    pub(super) fn is_own_router(&self, ip: IpAddr) -> bool {
        self.reflexive.iter().any(|own| own.ip() == ip)
            && self.list.iter().all(|own| own.address.ip() != ip)
    }

    /// Whether a peer that named these is behind our router.
    pub(super) fn shares_site(&self, named: &[Candidate]) -> bool {
        [true, false].into_iter().any(|v4| self.is_on_site(named, v4) == Some(true))
    }

    /// The same as far as the world's sight of both in one family tells; `None` where it
    /// tells nothing.
    fn is_on_site(&self, named: &[Candidate], v4: bool) -> Option<bool> {
        let is_seen = |ip: &IpAddr| ip.is_ipv4() == v4 && is_public(*ip);
        let is_own = |one: &&Candidate| one.kind != CandidateKind::Relayed;
        let theirs = named.iter().filter(is_own).map(|one| one.address.ip()).filter(is_seen);
        let hosts = self.list.iter().map(|own| own.address.ip());
        let ours = self.reflexive.iter().map(SocketAddr::ip).chain(hosts).filter(is_seen);
        let mut pairs = ours.flat_map(|our| theirs.clone().map(move |their| (our, their)));
        let first = pairs.next()?;
        Some(core::iter::once(first).chain(pairs).any(|(our, their)| is_one_site(our, their)))
    }

    /// Whether an address may be told or sent to, whoever names it. A tunnel inside the
    /// tunnel would never end.
    fn is_candidate(&self, address: &SocketAddr) -> bool {
        is_usable(address) && !self.is_overlay(address.ip())
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SocketId;

    fn candidate(text: &str) -> Candidate {
        let (kind, address) = text.split_at(1);
        let kind = match kind {
            "h" => CandidateKind::Host,
            "s" => CandidateKind::ServerReflexive,
            "m" => CandidateKind::Mapped,
            _ => CandidateKind::Relayed,
        };
        let ip: IpAddr = address.parse().unwrap();
        Candidate { kind, address: (ip, 51_820).into() }
    }

    fn local() -> LocalCandidates {
        LocalCandidates::new(Sockets { v4: Some(SocketId(0)), v6: Some(SocketId(1)) })
    }

    /// Of what a peer names, the own addresses that are tried: `h` a host's, `s` where
    /// servers see it, `m` mapped, `r` relayed.
    fn tried(own: &[&str], named: &[&str]) -> std::vec::Vec<String> {
        let mut local = local();
        let own: std::vec::Vec<Candidate> = own.iter().map(|one| candidate(one)).collect();
        let is_seen = |one: &&Candidate| one.kind == CandidateKind::ServerReflexive;
        local.set_reflexive(own.iter().filter(is_seen).map(|one| one.address));
        let hosts: std::vec::Vec<Candidate> =
            own.iter().filter(|one| !is_seen(one)).copied().collect();
        local.set(&hosts);
        let named: std::vec::Vec<Candidate> = named.iter().map(|one| candidate(one)).collect();
        local.reachable(&named).map(|one| one.address.ip().to_string()).collect()
    }

    #[test]
    fn a_peer_elsewhere_is_not_looked_for_in_our_network() {
        let home = ["h192.168.1.5", "hfd00:1::5", "s198.51.100.1", "s2001:db8:1::5"];
        let none: [&str; 0] = [];
        let there = ["s198.51.100.2", "s2001:db8:2::7", "r203.0.113.1"];
        let with = |hosts: &[&'static str]| [&there[..], hosts].concat();
        assert_eq!(tried(&home, &with(&["h192.168.2.5", "h10.0.0.3", "hfd00:2::1"])), none);
        // A relay's address says nothing of where a peer is.
        assert_eq!(tried(&home, &["h10.0.0.3", "r198.51.100.1"]), ["10.0.0.3"]);
    }

    #[test]
    fn one_router_or_one_network_is_reason_enough() {
        let home = ["h192.168.1.5", "h10.7.0.1", "hfd00:1::5", "s198.51.100.1", "s2001:db8:1::5"];
        // Behind one carrier each may have a router of its own, or none.
        let seen = tried(&home, &["h172.20.0.3", "h100.64.0.9", "s198.51.100.1"]);
        assert_eq!(seen, ["172.20.0.3", "100.64.0.9"]);
        assert_eq!(tried(&home, &["h172.20.0.3", "m198.51.100.1"]), ["172.20.0.3"]);
        assert_eq!(tried(&home, &["hfd00:9::9", "s2001:db8:1::77"]), ["fd00:9::9"]);
        // A router itself, and a device behind it.
        assert_eq!(tried(&["h198.51.100.1"], &["h10.0.0.3", "s198.51.100.1"]), ["10.0.0.3"]);
        let router = tried(&home, &["h172.20.0.1", "h198.51.100.1"]);
        assert_eq!(router, ["198.51.100.1", "172.20.0.1"]);
        // A network like ours, out of another door.
        let near = ["h192.168.1.9", "h10.200.0.1", "hfd00:1:0:2::1", "s198.51.100.9"];
        assert_eq!(tried(&home, &near), ["192.168.1.9", "10.200.0.1", "fd00:1:0:2::1"]);
        let carrier = ["h100.64.0.1", "s198.51.100.1"];
        assert_eq!(tried(&carrier, &["h100.127.9.9", "s198.51.100.2"]), ["100.127.9.9"]);
    }

    #[test]
    fn one_router_is_what_both_are_seen_behind() {
        let shares = |own: &[&str], named: &[&str]| {
            let mut local = local();
            local.set_reflexive(own.iter().map(|one| candidate(one).address));
            let named: std::vec::Vec<Candidate> = named.iter().map(|one| candidate(one)).collect();
            local.shares_site(&named)
        };
        assert!(shares(&["s198.51.100.1"], &["h10.0.0.3", "s198.51.100.1"]));
        assert!(shares(&["s198.51.100.1", "s2001:db8:1::5"], &["s2001:db8:1::6"]));
        assert!(!shares(&["s198.51.100.1"], &["h10.0.0.3", "s198.51.100.2"]));
        assert!(!shares(&["s198.51.100.1"], &["h10.0.0.3"]), "nobody has seen the peer");
        assert!(!shares(&[], &["h10.0.0.3", "s198.51.100.1"]), "or us");
    }

    #[test]
    fn what_is_not_known_is_tried_and_public_addresses_always() {
        let named = ["h192.168.7.1", "s198.51.100.2"];
        assert_eq!(tried(&["h192.168.1.5"], &named), ["192.168.7.1"]);
        assert_eq!(tried(&["h192.168.1.5", "s198.51.100.1"], &["h192.168.7.1"]), ["192.168.7.1"]);
        let public = ["h192.168.7.1", "h203.0.113.5", "h2001:db8:5::1", "s203.0.113.5"];
        let home = ["h192.168.1.5", "s198.51.100.1", "s2001:db8:1::5"];
        assert_eq!(tried(&home, &public), ["203.0.113.5", "2001:db8:5::1"]);
    }

    #[test]
    fn four_are_enough_and_the_best_come_first() {
        let named = [
            "h192.168.7.1",
            "h192.168.8.1",
            "h10.0.0.1",
            "h192.168.1.9",
            "h2001:db8:5::1",
            "h192.168.9.1",
            "s198.51.100.1",
        ];
        let tried = tried(&["h192.168.1.5", "s198.51.100.1"], &named);
        assert_eq!(tried, ["2001:db8:5::1", "192.168.1.9", "192.168.7.1", "192.168.8.1"]);
    }

    #[test]
    fn the_overlay_is_no_candidate_whoever_says_so() {
        let overlay =
            Overlay { ipv4: [100, 93, 0, 0].into(), ipv4_len: 16, ipv6: [0xFD, 0x77, 1, 2, 3, 4] };
        let now = Instant::from_secs(9);
        let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 51_820);
        let told = |local: &LocalCandidates| {
            let list = local.list(true, now);
            list.iter().map(|one| one.address).collect::<std::vec::Vec<_>>()
        };
        let tell = |local: &mut LocalCandidates| {
            let seen = ["100.93.7.1", "fd77:102:304::9", "198.51.100.1"].map(at);
            let is_news = local.set_reflexive(seen.into_iter());
            local.set_relayed(["100.93.8.1", "203.0.113.1"].map(at).into_iter(), None);
            is_news
        };
        // As they come …
        let mut local = local();
        local.set_overlay(overlay);
        assert!(tell(&mut local));
        assert_eq!(told(&local), ["198.51.100.1", "203.0.113.1"].map(at));
        assert_eq!(local.relayed(), ["203.0.113.1"].map(at));
        assert!(!local.note_seen(at("100.93.7.1"), now));
        local.set_relayed(core::iter::empty(), Some(at("fd77:102:304::9")));
        assert_eq!(told(&local), ["198.51.100.1"].map(at));
        // … and when the map names the overlay afterwards.
        let mut local = self::local();
        tell(&mut local);
        assert_eq!(told(&local).len(), 4);
        local.set_overlay(overlay);
        assert_eq!(told(&local), ["203.0.113.1"].map(at));
    }
}
