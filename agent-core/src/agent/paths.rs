//! What the coordinator is told of the ways to peers.

use core::net::{IpAddr, SocketAddr};

use weft_wire::crc::crc32;
use weft_wire::path::{PathReport, PeerReport, REPORTED, Rung, Way};
use weft_wire::signal::{Mapping, NatReport};

use super::Agent;
use super::trace::Trace;
use crate::entropy::Entropy;
use crate::event::PeerSlot;
use crate::path::{Attempts, Pauses, Selected};
use crate::peers::{PeerChange, PeerState};
use crate::relay;
use crate::time::Instant;

fn seconds(now: Instant, since: Instant) -> u32 {
    u32::try_from((now - since).as_secs()).unwrap_or(u32::MAX)
}

const fn rung(way: relay::Way) -> Rung {
    match way {
        relay::Way::UdpV4 | relay::Way::UdpV6 => Rung::Udp,
        relay::Way::SecondUdpV4 | relay::Way::SecondUdpV6 => Rung::SecondUdp,
        relay::Way::Tcp => Rung::Tcp,
        relay::Way::Tls => Rung::Tls,
    }
}

impl<
    E: Entropy,
    T: Trace,
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> Agent<E, T, PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>
{
    /// The way of a peer's data, and since when, as far as that is known.
    pub fn way(&self, slot: PeerSlot) -> (Way, Option<Instant>) {
        let selected = self.paths.selected(slot);
        let unreached = self.paths.attempts(slot).is_some_and(|all| all.is_unreached());
        match (self.peers.state(slot), selected) {
            _ if unreached => (Way::Nowhere, None),
            (Some(PeerState::Active), Some(selected)) => {
                (self.way_of(selected), Some(selected.since))
            }
            (Some(PeerState::Calling), _) => (Way::Nowhere, None),
            _ => (Way::Idle, None),
        }
    }

    /// What was learned in this network of pauses on the ways that are kept open;
    /// `None` = nothing yet, or none is.
    pub fn pauses(&self, now: Instant) -> Option<Pauses> {
        self.paths.pauses(now)
    }

    /// What is remembered of looking for a direct way to a peer.
    pub fn attempts(&self, slot: PeerSlot) -> Option<Attempts<'_>> {
        self.paths.attempts(slot)
    }

    /// How this device's NAT chooses ports, as servers told.
    pub fn nat(&self, now: Instant) -> NatReport {
        self.stun.report(now)
    }

    /// Where servers see this device from, of each family the newest; and whether
    /// that is an address of its own.
    pub fn seen(&self) -> impl Iterator<Item = (SocketAddr, bool)> + '_ {
        let own = self.paths.local();
        self.stun
            .reflexive()
            .map(move |seen| (seen, own.iter().any(|candidate| candidate.address == seen)))
    }

    fn way_of(&self, selected: &Selected) -> Way {
        let address = selected.route.address();
        if !selected.relayed {
            return Way::Direct(address);
        }
        if let Some(ours) = self.relay.rung().filter(|_| selected.route.is_ours()) {
            return Way::Relay { relay: ours.relay, rung: Some(rung(ours.way)) };
        }
        // The peer's allocation: the relay is known by its address.
        let has = |relay: &&weft_wire::relay::Relay| match address.ip() {
            IpAddr::V4(ip) => relay.v4 == Some(ip),
            IpAddr::V6(ip) => relay.v6 == Some(ip),
        };
        let relay = self.control.settings().relays().iter().find(has);
        Way::Relay { relay: relay.map_or(0, |relay| relay.number), rung: None }
    }

    /// A mark of how this device's network looks to the coordinator: how its NAT
    /// is, and its addresses. Ports change with every look where the NAT is hard.
    fn network(&self) -> u32 {
        let mut facts = [0; 1 + 2 * 16];
        facts[0] = match self.stun.report(self.now).mapping {
            Mapping::Unknown => 0,
            Mapping::EndpointIndependent => 1,
            Mapping::Sequential(_) => 2,
            Mapping::Window(_) => 3,
            Mapping::Random => 4,
            Mapping::Blocked => 5,
        };
        for (place, seen) in facts[1..].chunks_mut(16).zip(self.stun.reflexive()) {
            match seen.ip() {
                IpAddr::V4(ip) => place[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => place.copy_from_slice(&ip.octets()),
            }
        }
        crc32(&facts)
    }

    /// Servers have said where this device is seen from.
    pub(super) fn note_network(&mut self) {
        if self.told_network != self.network() {
            self.control.handle_paths_changed(self.now);
        }
    }

    /// A peer stands otherwise. What came of calling it is an attempt's end.
    pub(super) fn note_change(&mut self, change: &PeerChange) {
        if [change.from, change.to].contains(&PeerState::Active) {
            self.paths.note(change.slot);
            self.control.handle_paths_changed(self.now);
        }
    }

    /// What the coordinator has yet to hear.
    pub(super) fn path_report(&mut self) -> PathReport {
        let now = self.now;
        let mut peers = heapless::Vec::<PeerReport, REPORTED>::new();
        for again in [true, false] {
            let mut last = None;
            while !peers.is_full()
                && let Some(slot) = self.paths.poll_report(again, last)
            {
                last = Some(slot);
                if let Some(report) = self.peer_report(slot) {
                    // Cannot fail: there is room.
                    let _ = peers.push(report);
                }
            }
        }
        self.told_network = self.network();
        PathReport {
            request: 0,
            uptime_s: seconds(now, self.started_at),
            nat: self.stun.report(now),
            seen: self.stun.reflexive().take(2).collect(),
            peers,
        }
    }

    pub(super) fn handle_paths_told(&mut self) {
        if self.paths.handle_told() {
            self.control.handle_more_paths();
        }
    }

    fn peer_report(&self, slot: PeerSlot) -> Option<PeerReport> {
        let now = self.now;
        let peer = self.peers.entry(slot)?.device;
        let attempts = self.paths.attempts(slot)?;
        let (way, since) = self.way(slot);
        let mut attempt = attempts.last(now);
        if let Some(attempt) = attempt.as_mut().filter(|one| one.own == Mapping::Unknown) {
            // Servers had not all answered when the peer was told.
            attempt.own = self.stun.report(now).mapping;
        }
        // Where there is no way there is none since the last attempt.
        let since_s = match (way, since, &attempt) {
            (_, Some(since), _) => seconds(now, since),
            (Way::Nowhere, None, Some(attempt)) => attempt.ago_s,
            _ => 0,
        };
        let has_way = matches!(way, Way::Direct(_) | Way::Relay { .. });
        Some(PeerReport {
            peer,
            way,
            since_s,
            rtt_ms: attempts.rtt().filter(|_| has_way).map_or(0, |(rtt_ms, _)| rtt_ms),
            attempt,
            next_s: attempts.next().map(|at| seconds(at, now)),
        })
    }
}
