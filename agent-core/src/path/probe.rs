//! Probes in and out: whose they are, and their MACs.

use weft_wire::probe::{self, PING_BODY, Probe, ProbeKind, pong_body};

use super::check::Outgoing;
use super::{Paths, ProbeMac, Route};
use crate::event::{DropReason, PeerSlot, Source};
use crate::time::Instant;

/// A probe that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTransmit {
    /// Which way.
    pub route: Route,
    /// Its length.
    pub len: usize,
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
        now: Instant,
    ) -> Result<PeerSlot, (Option<PeerSlot>, DropReason)> {
        let probe = Probe::parse(datagram).map_err(|_| (None, DropReason::Malformed))?;
        let head = probe.head();
        let slot = self.slot_of_handle(head.receiver).ok_or((None, DropReason::UnknownIndex))?;
        let (covered, tag) = probe.authenticated();
        if !mac.verify(slot, covered, tag) {
            return Err((None, DropReason::Unauthentic));
        }
        let delay_ms = match probe.kind() {
            ProbeKind::Ping => None,
            ProbeKind::Pong => probe.echo().map(|(_, delay_ms)| delay_ms),
            // It opens the sender's NAT, and has done so.
            ProbeKind::Open => return Ok(slot),
            // Signals travel over the coordinator; nothing needs a goodbye.
            _ => return Err((Some(slot), DropReason::Malformed)),
        };
        let result = self.way_back(source).ok_or(DropReason::NoPath).and_then(|route| {
            let peer = self.peer_mut(slot).ok_or(DropReason::UnknownPeer)?;
            peer.handle_probe(route, &head, delay_ms, now)
        });
        self.stir();
        result.map(|()| slot).map_err(|reason| (Some(slot), reason))
    }

    /// Writes the next probe into `out` ([`probe::PING_LEN`] bytes).
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
        for (slot, peer) in (0..).map(PeerSlot).zip(&mut self.peers) {
            let Some(peer) = peer else { continue };
            while let Some(outgoing) = peer.checks.poll(now) {
                // A peer without a key gets none.
                if let Some(len) = emit(slot, &outgoing, out, mac, now) {
                    return Some(ProbeTransmit { route: outgoing.route, len });
                }
            }
        }
        let due = self.peers.iter().flatten().filter_map(|peer| peer.checks.due_at());
        self.probe_at = due.min().unwrap_or(Instant::FAR_FUTURE);
        None
    }

    /// How a datagram from there is answered; `None` if it is not.
    fn way_back(&self, source: Source) -> Option<Route> {
        let route = Route::from(source);
        let direct = self.local.route(source.address)?;
        (route.is_ours() || direct == route).then_some(route)
    }

    fn slot_of_handle(&self, handle: u32) -> Option<PeerSlot> {
        let is_of = |peer: &Option<super::PeerPath>| {
            peer.as_ref().is_some_and(|peer| peer.checks.own_handle == handle)
        };
        // 0 = a peer that was given none, and no handle of ours.
        let position = self.peers.iter().position(is_of).filter(|_| handle != 0)?;
        u16::try_from(position).ok().map(PeerSlot)
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
