//! Probes in and out: whose they are, and their MACs.

use core::net::SocketAddr;

use weft_wire::probe::{self, PING_BODY, Probe, ProbeKind, pong_body};
use weft_wire::signal::Mapping;

use super::candidate::LocalCandidates;
use super::check::Outgoing;
use super::ladder::{self, Run, SocketCommand};
use super::peer::PeerPath;
use super::{Paths, ProbeMac, Route};
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot, Source};
use crate::time::Instant;

/// A probe that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTransmit {
    /// Which way.
    pub route: Route,
    /// Its length.
    pub len: usize,
    /// It is there to keep the way open.
    pub keeps: bool,
}

impl<const PEERS: usize> Paths<PEERS> {
    /// A probe came. Says whose it is; nobody's probe is ever answered.
    ///
    /// # Errors
    ///
    /// Why it went no further: [`DropReason::Malformed`],
    /// [`DropReason::UnknownIndex`] for a handle that we did not give,
    /// [`DropReason::Unauthentic`], [`DropReason::NoPath`] for a source that is
    /// never sent to, [`DropReason::Replayed`], [`DropReason::RateLimited`],
    /// [`DropReason::Unsolicited`] for an answer to nothing.
    pub fn handle_probe(
        &mut self,
        source: Source,
        datagram: &[u8],
        mac: &mut dyn ProbeMac,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<PeerSlot, (Option<PeerSlot>, DropReason)> {
        let probe = Probe::parse(datagram).map_err(|_| (None, DropReason::Malformed))?;
        let slot = self.sender(&probe, mac).map_err(|reason| (None, reason))?;
        let way = self.way_back(source).ok_or(DropReason::NoPath);
        let head = probe.head();
        let echo = probe.echo();
        let delay_ms = match probe.kind() {
            ProbeKind::Ping => None,
            ProbeKind::Pong => echo.map(|(_, delay_ms)| delay_ms),
            // It opens the sender's NAT, and has done so.
            ProbeKind::Open => return Ok(slot),
            kind => {
                let result = way.and_then(|way| match kind {
                    ProbeKind::Line => {
                        let line = probe.line().unwrap_or_default();
                        self.handle_line(slot, way, &head, line, entropy, now)
                    }
                    _ => self.handle_signal(slot, way, &probe, entropy, now),
                });
                self.stir();
                return result.map(|()| slot).map_err(|reason| (Some(slot), reason));
            }
        };
        let result = way.and_then(|route| {
            self.note_way(slot, route);
            let peer = self.peer_mut(slot).ok_or(DropReason::UnknownPeer)?;
            peer.handle_probe(route, &head, delay_ms, now)
        });
        if let (Ok(()), Some((seen, _))) = (result, echo) {
            self.note_seen(slot, source, seen, entropy, now);
        }
        self.stir();
        result.map(|()| slot).map_err(|reason| (Some(slot), reason))
    }

    /// A peer says where a ping of ours came from. A box without a firewall gives new
    /// flows another port from the moment when somebody's packet came before ours, and
    /// those to servers keep theirs: whoever looks for us now has to know both.
    fn note_seen(
        &mut self,
        slot: PeerSlot,
        source: Source,
        seen: SocketAddr,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let is_usual = self.local.route(source.address) == Some(source.into());
        if !is_usual || self.gathering.is_hard() || !self.local.note_seen(seen, now) {
            return;
        }
        let Some(peer) = self.peer_mut(slot) else { return };
        let is_met = peer.checks.best(now).is_some_and(|(_, relayed)| !relayed);
        let may_be_met = !is_met && peer.history.peer_mapping() != Mapping::Blocked;
        if may_be_met && !peer.is_direct() && peer.is_told() {
            peer.call_again(entropy, now);
            peer.draw_handle(entropy);
        }
    }

    /// Whose a probe is, as its MAC proves.
    fn sender(&self, probe: &Probe<'_>, mac: &mut dyn ProbeMac) -> Result<PeerSlot, DropReason> {
        let receiver = probe.head().receiver;
        if receiver == 0 && matches!(probe.kind(), ProbeKind::Call | ProbeKind::Line) {
            return self.slot_of_hint(probe, mac);
        }
        let slot = self.slot_of_handle(receiver).ok_or(DropReason::UnknownIndex)?;
        let (covered, tag) = probe.authenticated();
        if mac.verify(slot, covered, tag) { Ok(slot) } else { Err(DropReason::Unauthentic) }
    }

    /// Writes the next probe into `out` ([`probe::PROBE_LEN`] bytes).
    #[must_use]
    pub fn poll_probe(
        &mut self,
        out: &mut [u8],
        mac: &mut dyn ProbeMac,
        now: Instant,
    ) -> Option<ProbeTransmit> {
        if self.probe_at > now {
            return None;
        }
        if let Some(transmit) = self.poll_bell(out, mac, now) {
            return Some(transmit);
        }
        for (slot, peer) in (0..).map(PeerSlot).zip(&mut self.peers) {
            let Some(peer) = peer else { continue };
            while let Some(outgoing) = peer.poll_predicted(&self.local, now) {
                if let Some(len) = emit(slot, &outgoing, out, mac, now) {
                    return Some(ProbeTransmit { route: outgoing.route, len, keeps: false });
                }
            }
            let keeps = peer.is_kept_warm();
            while let Some(outgoing) = peer.checks.poll(now) {
                if self.extra.is_closed(outgoing.route) {
                    continue;
                }
                // A peer without a key gets none.
                if let Some(len) = emit(slot, &outgoing, out, mac, now) {
                    return Some(ProbeTransmit { route: outgoing.route, len, keeps });
                }
            }
        }
        while let Some((slot, outgoing)) = self.poll_run(now) {
            if let Some(len) = emit(slot, &outgoing, out, mac, now) {
                return Some(ProbeTransmit { route: outgoing.route, len, keeps: false });
            }
        }
        let due =
            self.peers.iter().flatten().flat_map(|peer| {
                [peer.checks.due_at(), peer.prediction.and_then(|one| one.due_at())]
            });
        let run = self.run.map(|run| run.due_at());
        let due = due.flatten().chain(run).chain(self.bells.due_at());
        self.probe_at = due.min().unwrap_or(Instant::FAR_FUTURE);
        None
    }

    /// How many sockets the shell can open beside the usual ones, for NATs that
    /// give every destination another port. With 0 many ports are not opened
    /// either: the network is paid by the byte.
    pub const fn set_extra_sockets(&mut self, most: u8) {
        self.extra.set_most(most);
    }

    /// What the shell is to do with such sockets. Ask until `None`.
    #[must_use]
    pub fn poll_socket(&mut self) -> Option<SocketCommand> {
        self.extra.poll()
    }

    /// Looks at rounds that begin, and at what has become of the run.
    fn drive_run(&mut self, now: Instant) {
        let own = self.gathering.mapping();
        for (slot, peer) in (0..).zip(&mut self.peers) {
            let Some(peer) = peer else { continue };
            let Some(at) = peer.starts_at.take() else { continue };
            let is_free = self.run.is_none_or(|run| run.slot == slot);
            let transaction = peer.checks.ladder();
            let seen = peer.seen.map(|seen| [peer.checks.other_port(seen).unwrap_or(seen), seen]);
            let run = Run::new(slot, own, peer.history.peer_mapping(), seen, transaction, at);
            let left = self.allowance.left;
            peer.history.unsearched = run.is_some() && !self.extra.is_allowed();
            let may = is_free && self.extra.is_allowed() && !peer.is_direct();
            let Some(run) = run.filter(|run| may && run.cost() <= left) else { continue };
            if run.is_long() && peer.long_run_at > now {
                continue;
            }
            if run.is_long() {
                peer.long_run_at = ladder::next_long_run(now);
            }
            self.run = Some(run);
        }
        let Some(run) = self.run else { return };
        let peer = self.peers.get(usize::from(run.slot)).and_then(Option::as_ref);
        // Whatever the relay loses now, the router may lose for us.
        let is_there = |peer: &PeerPath| peer.seen.is_none_or(|seen| run.leads_to(seen.ip()));
        // What is not known of our own router when a round begins may be known now.
        let suits = run.knocks() || !ladder::is_hard(own);
        let goes_on =
            peer.is_some_and(|peer| suits && !peer.is_direct() && !peer.in_doubt && is_there(peer));
        if !goes_on || (run.is_over() && run.due_at() <= now) {
            self.end_run();
        }
    }

    /// Nothing more is searched for. Sockets that carry data stay.
    pub(super) fn end_run(&mut self) {
        if self.run.take().is_none() {
            return;
        }
        let peers = &self.peers;
        self.extra.retain(|socket| {
            let uses = |peer: &PeerPath| {
                peer.selected.is_some_and(|one| one.route.source().socket == socket)
            };
            peers.iter().flatten().any(uses)
        });
        let extra = &self.extra;
        for peer in self.peers.iter_mut().flatten() {
            peer.checks.close(|route| extra.is_closed(route));
        }
    }

    /// The next ping of the ladder.
    fn poll_run(&mut self, now: Instant) -> Option<(PeerSlot, Outgoing)> {
        self.drive_run(now);
        let run = self.run.as_mut().filter(|run| run.due_at() <= now)?;
        if run.knocks() && !run.has_sockets {
            run.take_sockets(now);
            if !self.extra.open(run) {
                self.run = None;
            }
            return None;
        }
        let (place, address, transaction) = run.poll(now)?;
        let slot = PeerSlot(run.slot);
        let route = match place {
            Some(place) => ladder::route(self.extra.at(place)?, address),
            None => self.local.route(address)?,
        };
        let peer = self.peers.get_mut(slot.index()).and_then(Option::as_mut)?;
        peer.searched = peer.searched.saturating_add(1);
        Some((slot, peer.checks.outgoing(route, transaction, now)))
    }

    /// How a datagram from there is answered; `None` if it is not.
    fn way_back(&self, source: Source) -> Option<Route> {
        let route = Route::from(source);
        let direct = self.local.route(source.address)?;
        let is_extra = self.extra.contains(source.socket);
        (route.is_ours() || direct == route || is_extra).then_some(route)
    }

    fn slot_of_handle(&self, handle: u32) -> Option<PeerSlot> {
        let is_of = |peer: &Option<PeerPath>| {
            peer.as_ref().is_some_and(|peer| peer.checks.own_handle == handle)
        };
        // 0 = a peer that was given none, and no handle of ours.
        let position = self.peers.iter().position(is_of).filter(|_| handle != 0)?;
        u16::try_from(position).ok().map(PeerSlot)
    }
}

impl PeerPath {
    fn poll_predicted(&mut self, local: &LocalCandidates, now: Instant) -> Option<Outgoing> {
        let address = self.prediction.as_mut()?.poll(self.seen?, now)?;
        let transaction = self.checks.ladder().wrapping_add(address.port().into());
        Some(self.checks.outgoing(local.route(address)?, transaction, now))
    }
}

fn emit(
    slot: PeerSlot,
    outgoing: &Outgoing,
    out: &mut [u8],
    mac: &mut dyn ProbeMac,
    now: Instant,
) -> Option<usize> {
    let waited = u16::try_from((now - outgoing.heard_at).as_millis()).unwrap_or(u16::MAX);
    let body = match outgoing.kind {
        ProbeKind::Pong => pong_body(outgoing.route.address(), waited),
        _ => PING_BODY,
    };
    let mut missing = false;
    let written = probe::emit(outgoing.kind, &outgoing.head, &body, out, |covered| {
        mac.mac(slot, covered).unwrap_or_else(|| {
            missing = true;
            [0; 16]
        })
    });
    written.ok().filter(|_| !missing)
}
