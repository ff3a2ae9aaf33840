//! What is polled. Everything waits with its peer, so that nothing is lost
//! whatever the number of peers.

use super::indices::Indices;
use super::peer::Peer;
use super::table::Ready;
use super::{Event, Install, Transmit, Tunnel};
use crate::event::PeerSlot;

impl<const PEERS: usize, const HANDSHAKES: usize> Tunnel<PEERS, HANDSHAKES> {
    /// The next thing the data path is to do.
    #[must_use]
    pub fn poll_install(&mut self) -> Option<Install> {
        if let Some(slot) = self.peers.next_ready(Ready::Wipe) {
            self.peers.set_wiped(slot);
            return Some(Install::DropPeer { slot });
        }
        let slot = self.peers.next_ready(Ready::Drop);
        let slot = slot.or_else(|| self.peers.next_ready(Ready::Install))?;
        let rekey_after = self.config.rekey_after();
        let peer = self.peers.get_mut(slot)?;
        let install = next_install(peer, &mut self.indices, slot, rekey_after);
        self.peers.settle(slot);
        install
    }

    /// Writes the next handshake message into `out`. A buffer shorter than a
    /// message (148 bytes) loses it.
    #[must_use]
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let outgoing = self.outgoing.pop_front()?;
            let message = outgoing.message.get(..outgoing.len)?;
            if let Some(place) = out.get_mut(..outgoing.len) {
                place.copy_from_slice(message);
                return Some(Transmit { to: outgoing.to, len: outgoing.len });
            }
        }
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        let slot = self.peers.next_ready(Ready::Event)?;
        let event = next_event(self.peers.get_mut(slot)?, slot);
        self.peers.settle(slot);
        event
    }

    /// A peer whose activity is to be read now, and told by
    /// [`Tunnel::handle_activity`].
    #[must_use]
    pub fn poll_query(&mut self) -> Option<PeerSlot> {
        let slot = self.peers.next_ready(Ready::Query)?;
        self.peers.get_mut(slot)?.query = false;
        self.peers.settle(slot);
        Some(slot)
    }

    /// A floor of timestamps to be written to flash, then confirmed by
    /// [`Tunnel::handle_persisted`].
    #[must_use]
    pub fn poll_persist(&mut self) -> Option<u64> {
        self.clock.poll_persist()
    }
}

fn next_install<const PEERS: usize, const HANDSHAKES: usize>(
    peer: &mut Peer,
    indices: &mut Indices<PEERS, HANDSHAKES>,
    slot: PeerSlot,
    rekey_after: crate::time::Duration,
) -> Option<Install> {
    if let Some(index) = peer.drops.pop() {
        if peer.sealing.told == Some(index) {
            peer.sealing.told = None;
        }
        return Some(Install::Drop { slot, index });
    }
    let wanted = peer.sealing.wanted;
    for session in peer.sessions.iter_mut() {
        if session.held {
            continue;
        }
        session.held = true;
        let (sealing, opening) = (session.sealing(rekey_after), session.opening());
        if let Some(keys) = indices.take(session.index) {
            let send = wanted == Some(session.index);
            if send {
                peer.sealing.told = wanted;
            }
            return Some(Install::Session { slot, keys, sealing, opening, send });
        }
    }
    if peer.sealing.told != wanted {
        peer.sealing.told = wanted;
        return Some(match wanted {
            Some(index) => Install::Send { slot, index },
            None => Install::Mute { slot },
        });
    }
    None
}

fn next_event(peer: &mut Peer, slot: PeerSlot) -> Option<Event> {
    let waiting = &mut peer.waiting;
    let initiator = waiting.established.take();
    if let (Some(initiator), Some(source)) = (initiator, peer.source) {
        return Some(Event::Established { slot, source, initiator });
    }
    if core::mem::take(&mut waiting.endpoint)
        && let Some(source) = peer.source
    {
        return Some(Event::EndpointConfirmed { slot, source });
    }
    if core::mem::take(&mut waiting.keepalive) {
        return Some(Event::Keepalive { slot });
    }
    if core::mem::take(&mut waiting.failed) {
        return Some(Event::Failed { slot });
    }
    if core::mem::take(&mut waiting.expired) {
        return Some(Event::Expired { slot });
    }
    None
}
