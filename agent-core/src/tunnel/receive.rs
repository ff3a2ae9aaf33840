//! Handshake messages of others.

use weft_noise::wg::{self, COOKIE_REPLY_LEN, HandshakeError, INITIATION_LEN, Kind, RESPONSE_LEN};
use weft_wire::id::PublicKey;

use super::keys::KeyMark;
use super::places;
use super::queue::{Admission, Standing, Waiting};
use super::session::Session;
use super::{Outgoing, To, Tunnel};
use crate::config::implementation::{INITIATION_INTERVAL, INVALID_RESPONSES};
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot, Source};
use crate::time::Instant;

impl From<HandshakeError> for DropReason {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Malformed => Self::Malformed,
            HandshakeError::Mac1 => Self::Mac1,
            HandshakeError::Unexpected => Self::UnknownIndex,
            _ => Self::Unauthentic,
        }
    }
}

impl<const PEERS: usize, const HANDSHAKES: usize> Tunnel<PEERS, HANDSHAKES> {
    /// Takes a datagram of type 1 to 3. (Type 4 is the data path's; here it is
    /// malformed.)
    ///
    /// # Errors
    ///
    /// Why it went no further, which is also counted in [`Tunnel::drops`].
    pub fn handle_datagram(
        &mut self,
        source: Source,
        datagram: &[u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        let result = match wg::kind(datagram) {
            Ok(Kind::Initiation) => self.receive_initiation(source, datagram, entropy, now),
            Ok(Kind::Response) => self.receive_response(source, datagram, entropy, now),
            Ok(Kind::CookieReply) => self.receive_cookie_reply(datagram, now),
            Ok(Kind::Transport) | Err(wg::Malformed) => Err(DropReason::Malformed),
        };
        if let Err(reason) = result {
            self.drops.count(reason);
        }
        result
    }

    fn receive_initiation(
        &mut self,
        source: Source,
        datagram: &[u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        let message: &[u8; INITIATION_LEN] =
            datagram.try_into().map_err(|_| DropReason::Malformed)?;
        let (own, checked) = self.own.check_mac1(message)?;
        let proven = self.cookies.verify_mac2(&checked, source.address, now.as_micros());
        let known = self.queue.is_under_load(now) && self.peers.is_known(source);
        let standing = match (proven, known) {
            (true, true) => Standing::ProvenKnown,
            (true, false) => Standing::Proven,
            (false, true) => Standing::Known,
            (false, false) => Standing::Unknown,
        };
        match self.queue.push(source, standing, message, now) {
            Admission::Queued => Ok(()),
            Admission::Dropped(reason) => Err(reason),
            Admission::Cookie => {
                let mut reply = [0; COOKIE_REPLY_LEN];
                self.cookies.reply(
                    own.key,
                    &checked,
                    source.address,
                    now.as_micros(),
                    entropy,
                    &mut reply,
                );
                self.push_reply(source, &reply);
                Err(DropReason::UnderLoad)
            }
        }
    }

    fn push_reply(&mut self, source: Source, reply: &[u8]) {
        let mut message = [0; INITIATION_LEN];
        if let Some(part) = message.get_mut(..reply.len()) {
            part.copy_from_slice(reply);
            // Without room the reply is lost, as it might be on the way.
            let _ = self.outgoing.push_back(Outgoing {
                to: To::Reply(source),
                len: reply.len(),
                message,
            });
        }
    }

    /// Answers an initiation whose turn has come.
    pub(super) fn answer(&mut self, waiting: &Waiting, entropy: &mut dyn Entropy, now: Instant) {
        if let Err(reason) = self.try_answer(waiting, entropy, now) {
            self.drops.count(reason);
        }
    }

    fn try_answer(
        &mut self,
        waiting: &Waiting,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        // Own keys may have changed since it came.
        let (own, checked) = self.own.check_mac1(&waiting.message)?;
        let received = own.key.receive_initiation(&checked)?;
        let key = *received.peer();
        let slot = self.slot_of(&key).ok_or(DropReason::UnknownPeer)?;
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownPeer)?;
        let authentic = if own.is_active && peer.keys.key == key {
            received.authenticate(&peer.remote)?
        } else {
            let remote = own.key.remote(&key).map_err(HandshakeError::from)?;
            received.authenticate(&remote)?
        };
        if authentic.stamp() <= peer.greatest {
            return Err(DropReason::Timestamp);
        }
        if let Some(last) = peer.initiation_received_at
            && now.since(last) < INITIATION_INTERVAL
        {
            return Err(DropReason::RateLimited);
        }
        if !self.indices.has_room() {
            return Err(DropReason::QueueFull);
        }
        peer.greatest = authentic.stamp();
        peer.initiation_received_at = Some(now);
        if peer.sessions.has_next() {
            let gone = peer.sessions.drop_next();
            peer.drop_sessions(&gone, &mut self.indices);
        } else {
            places::make(&mut self.peers, &mut self.indices, &self.pendings);
        }
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownPeer)?;
        let index = self.indices.draw(slot, entropy).ok_or(DropReason::QueueFull)?;
        let mut response = [0; RESPONSE_LEN];
        let psk = peer.keys.psk_for(&key, own.key.public());
        let keys = authentic.respond(index, &psk, entropy, &mut response);
        peer.jar.attach(&mut response, now.as_micros());
        let sender = keys.remote_index();
        let session = Session {
            index,
            key: KeyMark::of(&key),
            initiator: false,
            established_at: now,
            took: 0,
            yields: false,
            held: false,
            heard: false,
        };
        self.indices.put(keys);
        peer.sessions.respond(session, sender);
        peer.established(entropy, now);
        self.peers.settle(slot);
        self.push_reply(waiting.source, &response);
        Ok(())
    }

    fn receive_response(
        &mut self,
        source: Source,
        datagram: &[u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), DropReason> {
        // The index first: it costs no hash, and strangers do not know it.
        let index = wg::receiver(datagram).ok_or(DropReason::Malformed)?;
        let slot = self.indices.get(index).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        let pending = self.pendings.get_mut(slot);
        let pending = pending.filter(|pending| pending.sent.sender() == index);
        let pending = pending.ok_or(DropReason::UnknownIndex)?;
        if !self.indices.has_room() {
            return Err(DropReason::QueueFull);
        }
        let (own, checked) = self.own.check_mac1(datagram)?;
        let micros = now.as_micros();
        if pending.invalid >= INVALID_RESPONSES
            && !self.cookies.verify_mac2(&checked, source.address, micros)
        {
            let mut reply = [0; COOKIE_REPLY_LEN];
            self.cookies.reply(own.key, &checked, source.address, micros, entropy, &mut reply);
            self.push_reply(source, &reply);
            return Err(DropReason::UnderLoad);
        }
        let psks = peer.keys.psks(own.key.public());
        let psks = psks.each_ref();
        let answered = match pending.sent.receive_response(own.key, &checked, &psks) {
            Ok(answered) => answered,
            Err(error) => {
                pending.invalid = pending.invalid.saturating_add(1);
                return Err(error.into());
            }
        };
        let took = now.since(pending.sent_at).as_micros();
        if !peer.sessions.has_previous() {
            places::make(&mut self.peers, &mut self.indices, &self.pendings);
        }
        let peer = self.peers.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        // The index goes on as the session's.
        let _ = self.pendings.take(slot);
        peer.end_attempt();
        self.indices.put(answered.keys);
        let gone = peer.sessions.complete(Session {
            index,
            key: KeyMark::of(&peer.keys.key),
            initiator: true,
            established_at: now,
            took: u32::try_from(took).unwrap_or(u32::MAX),
            yields: false,
            held: false,
            heard: false,
        });
        peer.drop_sessions(&gone, &mut self.indices);
        peer.established(entropy, now);
        peer.seal_with(index);
        peer.source = Some(source);
        peer.waiting.established = Some(true);
        peer.waiting.endpoint = true;
        self.peers.settle(slot);
        self.resume(now, |peer| core::mem::take(&mut peer.waits_for_place));
        Ok(())
    }

    /// A cookie answers our initiation, or our response. Nothing but the jar
    /// changes: the message is repeated when its timer says so.
    fn receive_cookie_reply(&mut self, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let slot = wg::receiver(datagram)
            .and_then(|index| self.indices.get(index))
            .ok_or(DropReason::UnknownIndex)?;
        let key = self.key_of(slot, datagram)?;
        let Some(peer) = self.peers.get_mut(slot) else {
            return Err(DropReason::UnknownIndex);
        };
        let micros = now.as_micros();
        if key == peer.keys.key {
            peer.jar.receive(&peer.remote, datagram, micros)?;
        } else {
            let remote = self.own.remote(&key).map_err(HandshakeError::from)?;
            peer.jar.receive(&remote, datagram, micros)?;
        }
        Ok(())
    }

    /// The peer's key in the exchange that a cookie reply's index belongs to.
    fn key_of(&self, slot: PeerSlot, datagram: &[u8]) -> Result<PublicKey, DropReason> {
        let peer = self.peers.get(slot).ok_or(DropReason::UnknownIndex)?;
        let index = wg::receiver(datagram);
        let pending = self.pendings.get(slot).map(|pending| pending.sent.sender());
        if index == pending {
            return Ok(peer.keys.key);
        }
        peer.sessions
            .iter()
            .find(|session| Some(session.index) == index)
            .and_then(|session| peer.keys.marked(session.key).copied())
            .ok_or(DropReason::UnknownIndex)
    }
}
