//! What is polled. Everything waits with its peer, so that nothing is lost
//! whatever the number of peers.

use super::peer::Peer;
use super::{Event, Install, Transmit, Tunnel};
use crate::event::PeerSlot;

impl<const PEERS: usize, const QUEUE: usize> Tunnel<PEERS, QUEUE> {
    /// The next thing the data path is to do.
    #[must_use]
    pub fn poll_install(&mut self) -> Option<Install> {
        if !self.dirty.installs {
            return None;
        }
        let rekey_after = self.config.rekey_after();
        for position in 0..PEERS {
            let slot = PeerSlot(u16::try_from(position).ok()?);
            if core::mem::take(self.wiped.get_mut(position)?) {
                return Some(Install::DropPeer { slot });
            }
            let Some(peer) = self.peers.get_mut(position)?.as_mut() else {
                continue;
            };
            if let Some(install) = next_install(peer, slot, rekey_after) {
                return Some(install);
            }
        }
        self.dirty.installs = false;
        None
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
        if !self.dirty.events {
            return None;
        }
        for (position, peer) in self.peers.iter_mut().enumerate() {
            let slot = PeerSlot(u16::try_from(position).ok()?);
            if let Some(event) = peer.as_mut().and_then(|peer| next_event(peer, slot)) {
                return Some(event);
            }
        }
        self.dirty.events = false;
        None
    }

    /// A peer whose activity is to be read now, and told by
    /// [`Tunnel::handle_activity`].
    #[must_use]
    pub fn poll_query(&mut self) -> Option<PeerSlot> {
        if !self.dirty.queries {
            return None;
        }
        let asked = self
            .peers
            .iter_mut()
            .position(|peer| peer.as_mut().is_some_and(|peer| core::mem::take(&mut peer.query)));
        self.dirty.queries = asked.is_some();
        u16::try_from(asked?).ok().map(PeerSlot)
    }

    /// A floor of timestamps to be written to flash, then confirmed by
    /// [`Tunnel::handle_persisted`].
    #[must_use]
    pub fn poll_persist(&mut self) -> Option<u64> {
        self.clock.poll_persist()
    }
}

fn next_install(
    peer: &mut Peer,
    slot: PeerSlot,
    rekey_after: core::time::Duration,
) -> Option<Install> {
    if let Some(index) = peer.drops.pop() {
        if peer.sealing.told == Some(index) {
            peer.sealing.told = None;
        }
        return Some(Install::Drop { slot, index });
    }
    let wanted = peer.sealing.wanted;
    for session in peer.sessions.iter_mut() {
        let (sealing, opening) = (session.sealing(rekey_after), session.opening());
        if let Some(keys) = session.keys.take() {
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
    if let Some((source, initiator)) = waiting.established.take() {
        return Some(Event::Established { slot, source, initiator });
    }
    if let Some(source) = waiting.endpoint.take() {
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
