//! Requests and indications, written.

use core::net::SocketAddr;

use weft_wire::relay::{RELAY_USER_LEN, Relay};
use weft_wire::stun::{
    ADDITIONAL_ADDRESS_FAMILY, ALLOCATE_REQUEST, CHANNEL_BIND_REQUEST, CHANNELS,
    CREATE_PERMISSION_REQUEST, DATA_ATTRIBUTE, Family, MessageWriter, REFRESH_REQUEST,
    REQUESTED_ADDRESS_FAMILY, SEND_INDICATION, SOFTWARE, StunError, TransactionId, UDP,
    XOR_PEER_ADDRESS,
};

use super::credentials::{NONCE_LEN, REALM_LEN};
use super::exchange::Exchange;
use super::ladder::{WAYS, Way};
use super::race::{LIFETIME_S, LineState, TryState};
use super::state::Core;
use super::wanted::Standing;
use super::{RelayTransmit, Route, Via};
use crate::entropy::Entropy;
use crate::time::Instant;

/// The longest request: header, peer and channel (or what Allocate asks for),
/// credentials, MAC.
pub const REQUEST_LEN: usize = 20 + 32 + 3 * 4 + RELAY_USER_LEN + REALM_LEN + NONCE_LEN + 24;
/// What a Send indication adds to its data at most: header, an IPv6 address, the
/// head of DATA, padding.
pub const INDICATION_OVERHEAD: usize = 20 + 24 + 4 + 3;
/// Long enough that a challenge with a realm of 40 bytes is not longer.
const NAME: &[u8; 48] = b"weft                                            ";

/// What is written.
#[derive(Clone, Copy)]
enum Request {
    Allocate,
    Refresh { lifetime_s: u32 },
    Permit(SocketAddr),
    Bind(SocketAddr, u16),
}

/// Whose turn it is.
#[derive(Clone, Copy)]
enum Turn {
    Try(usize),
    Refresh,
    Peer(usize),
}

impl<const PEERS: usize> Core<PEERS> {
    pub(super) fn poll_request(
        &mut self,
        is_stream: bool,
        out: &mut [u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Option<RelayTransmit> {
        loop {
            let (turn, way) = self.turn(is_stream, now)?;
            let request = self.take(turn, is_stream, now);
            self.seed.get_or_insert_with(|| {
                let mut seed = [0; 8];
                entropy.fill(&mut seed);
                seed
            });
            let (via, transaction) = (self.via(way), self.transaction(turn));
            // Without a buffer nothing is sent: that is a lost datagram.
            if let (Some((request, relay)), Some(via), Some(transaction)) =
                (request.zip(self.current), via, transaction)
                && let Ok(len) = self.write(request, &relay, transaction, out)
            {
                return Some(RelayTransmit { via, len });
            }
        }
    }

    /// What is due, in the order in which it is sent.
    fn turn(&self, is_stream: bool, now: Instant) -> Option<(Turn, Way)> {
        let sends = |place: &usize| {
            let one = &self.tries[*place];
            let is_sent = !matches!(one.state, TryState::Off | TryState::Opening);
            is_sent && one.exchange.is_due(now) && Way::ALL[*place].is_stream() == is_stream
        };
        if let Some(place) = (0..WAYS).find(sends) {
            return Some((Turn::Try(place), Way::ALL[place]));
        }
        let live = self.live.as_ref().filter(|live| live.way.is_stream() == is_stream)?;
        let peer = self.peers.iter().position(|peer| peer.exchange.is_due(now));
        let refresh = live.refresh.is_due(now).then_some(Turn::Refresh);
        // Channels first: a packet waits for them.
        Some((peer.map(Turn::Peer).or(refresh)?, live.way))
    }

    /// Notes that it is sent, and says what.
    fn take(&mut self, turn: Turn, is_stream: bool, now: Instant) -> Option<Request> {
        self.counter = self.counter.wrapping_add(1);
        let fresh = self.counter;
        match turn {
            Turn::Try(place) => {
                let one = &mut self.tries[place];
                one.exchange.send(fresh, is_stream, now);
                Some(match one.state {
                    TryState::Clearing | TryState::Freeing => Request::Refresh { lifetime_s: 0 },
                    _ => Request::Allocate,
                })
            }
            Turn::Refresh => {
                self.live.as_mut()?.refresh.send(fresh, is_stream, now);
                Some(Request::Refresh { lifetime_s: LIFETIME_S })
            }
            Turn::Peer(place) => {
                let next_channel = self.next_channel;
                let peer = self.peers.get_mut(place)?;
                peer.exchange.send(fresh, is_stream, now);
                if !peer.asks_for_channel() {
                    return Some(Request::Permit(peer.address()));
                }
                let channel = peer.channel().unwrap_or_else(|| {
                    peer.set_channel(next_channel);
                    self.next_channel = match next_channel {
                        last if last == *CHANNELS.end() => *CHANNELS.start(),
                        other => other + 1,
                    };
                    next_channel
                });
                Some(Request::Bind(peer.address(), channel))
            }
        }
    }

    fn transaction(&self, turn: Turn) -> Option<TransactionId> {
        let exchange: &Exchange = match turn {
            Turn::Try(place) => &self.tries[place].exchange,
            Turn::Refresh => &self.live.as_ref()?.refresh,
            Turn::Peer(place) => &self.peers.get(place)?.exchange,
        };
        self.name(exchange.counter)
    }

    fn name(&self, counter: u32) -> Option<TransactionId> {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.seed?);
        id[8..].copy_from_slice(&counter.to_be_bytes());
        Some(id)
    }

    fn via(&self, way: Way) -> Option<Via> {
        if let Some(slot) = way.slot() {
            let line = self.lines.get(slot).filter(|line| line.state == LineState::Open)?;
            return Some(Via::Stream(line.id));
        }
        let to = way.server(&self.current?, self.sockets)?;
        Some(Via::Udp { socket: way.socket(self.sockets)?, to })
    }

    fn write(
        &self,
        request: Request,
        relay: &Relay,
        transaction: TransactionId,
        out: &mut [u8],
    ) -> Result<usize, StunError> {
        let kind = match request {
            Request::Allocate => ALLOCATE_REQUEST,
            Request::Refresh { .. } => REFRESH_REQUEST,
            Request::Permit(_) => CREATE_PERMISSION_REQUEST,
            Request::Bind(..) => CHANNEL_BIND_REQUEST,
        };
        let mut writer = MessageWriter::new(kind, transaction, out)?;
        match request {
            Request::Allocate => {
                writer.requested_transport(UDP)?;
                writer.lifetime(LIFETIME_S)?;
                match (relay.v4, relay.v6) {
                    (Some(_), Some(_)) => writer.family(ADDITIONAL_ADDRESS_FAMILY, Family::V6)?,
                    (None, Some(_)) => writer.family(REQUESTED_ADDRESS_FAMILY, Family::V6)?,
                    _ => {}
                }
            }
            Request::Refresh { lifetime_s } => writer.lifetime(lifetime_s)?,
            Request::Permit(peer) => writer.xor_address(XOR_PEER_ADDRESS, peer)?,
            Request::Bind(peer, channel) => {
                writer.channel_number(channel)?;
                writer.xor_address(XOR_PEER_ADDRESS, peer)?;
            }
        }
        let challenge = self.challenge.as_ref().filter(|one| one.relay == relay.number);
        match (&self.grant, challenge) {
            (Some(grant), Some(challenge)) => grant.sign(challenge, &mut writer)?,
            _ => writer.attribute(SOFTWARE, NAME)?,
        }
        Ok(writer.finish_bare())
    }

    pub(super) fn channel(&self, peer: SocketAddr) -> Option<Route> {
        let channel = self.ready(peer)?.channel()?;
        Some(Route { via: self.via(self.live.as_ref()?.way)?, channel })
    }

    /// Makes an indication of what stands at the front of `buffer`.
    pub(super) fn wrap_indication(
        &mut self,
        peer: SocketAddr,
        buffer: &mut [u8],
        len: usize,
    ) -> Option<RelayTransmit> {
        let via = self.via(self.live.as_ref()?.way)?;
        let is_permitted = self.peers.iter().any(|known| {
            known.ip() == peer.ip() && matches!(known.standing, Standing::Asked | Standing::Ready)
        });
        if !is_permitted || peer.port() == 0 {
            return None;
        }
        // What stands before the data depends on the family alone.
        let head = 20 + if peer.is_ipv4() { 12 } else { 24 } + 4;
        if head + len > buffer.len() {
            return None;
        }
        buffer.copy_within(..len, head);
        self.counter = self.counter.wrapping_add(1);
        let transaction = self.name(self.counter)?;
        let mut writer = MessageWriter::new(SEND_INDICATION, transaction, buffer).ok()?;
        writer.xor_address(XOR_PEER_ADDRESS, peer).ok()?;
        writer.attribute_in_place(DATA_ATTRIBUTE, len).ok()?;
        Some(RelayTransmit { via, len: writer.finish_bare() })
    }
}
