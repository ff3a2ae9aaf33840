//! A TURN client (RFC 8656): an allocation at one of the map's relays, and
//! permissions and channels for the addresses that are to be reached through it.
//!
//! Nothing is sent until [`RelayClient::acquire`] or [`RelayClient::want`] asks
//! for it, and [`RelayClient::release`] ends it. The ways to a relay are raced,
//! 100 ms apart, and no further one is begun once somebody has answered; the
//! first that gives an allocation is used, later answers are given back.
//!
//! The first packet does not wait. A realm and a nonce from before are used at
//! once, so that an allocation is one round trip away; the channels are asked
//! for in the same breath as it is heard of, and Send indications may follow
//! directly behind.
//!
//! Deviations from RFC 8656 and RFC 8489:
//! - requests are repeated after 250 ms and not 500, four times in all, and given
//!   up after 3.75 s: a person waits, and there is another way;
//! - ChannelBind renews permission and channel together (section 12.1), every
//!   240 s; CreatePermission is for addresses without a port, and for relays that
//!   bind no more channels;
//! - the first Allocate bears SOFTWARE of a length that lets a relay answer which
//!   never answers with more than it got;
//! - an error without MESSAGE-INTEGRITY is believed if its transaction is ours:
//!   some servers sign none, and who could forge it could drop the request;
//! - 300 is not followed: the map says which relays there are;
//! - an Allocate that is answered by 437 finds what was left by a process before
//!   us on the same socket: it is ended with Refresh, and asked anew.

mod answers;
mod compose;
mod credentials;
mod exchange;
mod ladder;
mod latency;
mod outputs;
mod race;
mod state;
mod wanted;

use core::net::{IpAddr, SocketAddr};
use core::ops::Range;

use weft_wire::relay::{Relay, RelayLogin};
use weft_wire::stun::{ChannelData, Deframer};

use crate::entropy::Entropy;
use crate::event::{DropReason, Sockets, Source};
pub use crate::event::{StreamId, Via};
use crate::time::{Duration, Instant};
use crate::timer::Reason;
use state::Core;
use wanted::canonical;

pub use compose::{INDICATION_OVERHEAD, REQUEST_LEN};
pub use credentials::{NONCE_LEN, REALM_LEN};
pub use ladder::{Rung, Way};

/// Why a relay is not used, or an address not reached through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// There is no relay in the map that this device could reach.
    NoRelay,
    /// The coordinator grants no relay to this device.
    NotGranted,
    /// Nothing came back.
    NoAnswer,
    /// The connection was refused or closed.
    Closed,
    /// 401: user or password is not the relay's.
    Credentials,
    /// 403: the relay denies this device, or sends nothing to this address.
    Denied,
    /// 437: the relay does not know the allocation (any more).
    Forgotten,
    /// 441: the allocation belongs to another user.
    OtherUser,
    /// 440, 443: the relay has no address of this family.
    Family,
    /// 486: the user has as many allocations as it may have.
    Quota,
    /// 508: the relay is full.
    Capacity,
    /// 300: the relay takes nobody any more.
    Draining,
    /// Another error, or an answer that does not hold together.
    Unexpected,
    /// It could not be refreshed in time.
    Expired,
    /// This device's network changed.
    NetworkChanged,
    /// The map does not list it any more.
    Removed,
}

impl Why {
    /// Whether the relay was there and said no to this device.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Credentials | Self::Denied | Self::OtherUser | Self::Quota)
    }

    /// The name in metrics and in `--json`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRelay => "no_relay",
            Self::NotGranted => "not_granted",
            Self::NoAnswer => "no_answer",
            Self::Closed => "closed",
            Self::Credentials => "credentials",
            Self::Denied => "denied",
            Self::Forgotten => "forgotten",
            Self::OtherUser => "other_user",
            Self::Family => "family",
            Self::Quota => "quota",
            Self::Capacity => "capacity",
            Self::Draining => "draining",
            Self::Unexpected => "unexpected",
            Self::Expired => "expired",
            Self::NetworkChanged => "network_changed",
            Self::Removed => "removed",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEvent {
    /// There is an allocation: these addresses may be told to peers.
    Allocated {
        /// The relay, and the way to it.
        rung: Rung,
        /// Its address for IPv4 peers.
        v4: Option<SocketAddr>,
        /// Its address for IPv6 peers.
        v6: Option<SocketAddr>,
        /// Where the relay sees us.
        mapped: SocketAddr,
    },
    /// Packets to and from this address pass.
    Ready {
        /// The address that was wanted.
        peer: SocketAddr,
    },
    /// They do not. It is asked again after five minutes.
    Refused {
        /// The address that was wanted.
        peer: SocketAddr,
        /// Denied, in most cases.
        why: Why,
    },
    /// The allocation is gone; another one is being asked for.
    Lost {
        /// [`Relay::number`].
        relay: u16,
        /// Why.
        why: Why,
    },
    /// No relay gives an allocation; it is tried again after a while, and at once
    /// with a new grant, list or network.
    Failed {
        /// What the last one said.
        why: Why,
    },
    /// Credentials are missing, refused or at half of their life.
    GrantWanted,
}

/// What the shell is to do with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamCommand {
    /// Connect; [`RelayClient::handle_stream_connected`] or
    /// [`RelayClient::handle_stream_closed`] says how that went.
    Open {
        /// Names the connection.
        stream: StreamId,
        /// [`Relay::number`].
        relay: u16,
        /// Whether TLS is spoken in it.
        tls: bool,
        /// Where to.
        address: SocketAddr,
    },
    /// Close it; nothing is heard of it any more.
    Close {
        /// Which.
        stream: StreamId,
    },
}

/// A message that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayTransmit {
    /// How.
    pub via: Via,
    /// Its length.
    pub len: usize,
}

/// A confirmed channel, for the data path: [`Route::prefix`], the packet, and in
/// a connection [`Route::padding`] zero bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// How.
    pub via: Via,
    /// The channel.
    pub channel: u16,
}

impl Route {
    /// What stands before a packet of this length.
    pub const fn prefix(&self, len: u16) -> [u8; 4] {
        ChannelData::header(self.channel, len)
    }

    /// How many zero bytes follow it.
    pub const fn padding(&self, len: u16) -> usize {
        match self.via {
            Via::Udp { .. } => 0,
            Via::Stream(_) => (len.wrapping_neg() % 4) as usize,
        }
    }
}

/// What a datagram was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Not from the relay, or a Binding that the STUN client asked for.
    NotMine,
    /// For the client itself.
    Consumed,
    /// A peer's packet.
    Data {
        /// The peer's address, as the relay sees it.
        peer: SocketAddr,
        /// Where in the datagram it lies.
        at: Range<usize>,
    },
}

/// What a frame of a connection was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// For the client itself, or for nobody.
    Consumed {
        /// The connection.
        stream: StreamId,
        /// What it was; nothing if it cannot be told where it ends, and the
        /// connection is closed.
        message: &'a [u8],
    },
    /// A peer's packet.
    Data {
        /// The connection.
        stream: StreamId,
        /// The peer's address, as the relay sees it.
        peer: SocketAddr,
        /// The packet.
        data: &'a [u8],
    },
}

/// As many addresses are wanted as there are places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The client: `PEERS` addresses at once, and frames of up to `FRAME` bytes in
/// connections. With 0 it opens none.
pub struct RelayClient<const PEERS: usize, const FRAME: usize> {
    core: Core<PEERS>,
    /// TCP, TLS.
    streams: [Deframer<[u8; FRAME]>; 2],
}

impl<const PEERS: usize, const FRAME: usize> Default for RelayClient<PEERS, FRAME> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PEERS: usize, const FRAME: usize> RelayClient<PEERS, FRAME> {
    /// Without relays.
    #[inline(never)]
    pub const fn new() -> Self {
        Self {
            core: Core::new(FRAME > 0),
            streams: [Deframer::new([0; FRAME]), Deframer::new([0; FRAME])],
        }
    }

    /// The relays of the map. An allocation at one that is not among them any
    /// more, or has moved, is lost.
    pub fn set_relays(&mut self, relays: &[Relay], now: Instant) {
        self.core.set_relays(relays, now);
    }

    /// The credentials of a grant, used from the next request on. A user name
    /// that is longer than the format has it is no grant.
    pub fn set_grant(
        &mut self,
        user: &str,
        lifetime: Duration,
        logins: &[RelayLogin],
        now: Instant,
    ) {
        self.core.set_grant(user, lifetime, logins, now);
    }

    /// The sockets that datagrams are sent from. Others than before are another
    /// network.
    pub fn set_sockets(&mut self, sockets: Sockets, now: Instant) {
        self.core.set_sockets(sockets, now);
    }

    /// The rung that answered when this network was last used; it is begun with.
    pub const fn prefer(&mut self, rung: Option<Rung>) {
        self.core.prefer = rung;
    }

    /// Whoever has this address answered a request to it after so long: an allocation is
    /// asked for at the relay there before others, if it is nearer by far.
    pub fn handle_round_trip(&mut self, ip: IpAddr, round_trip: Duration, now: Instant) {
        self.core.handle_round_trip(ip, round_trip, now);
    }

    /// The round trip to the relay of this [`Relay::number`] in milliseconds, as far as
    /// it was measured in this network; none to one that was left for another one.
    pub fn round_trip(&self, relay: u16) -> Option<u16> {
        self.core.round_trip(relay)
    }

    /// The network changed: the relay sees us from elsewhere, and knows us no
    /// more. The remembered rung was the other network's.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.core.handle_network_change(now);
    }

    /// Asks for an allocation, before any address is known.
    pub fn acquire(&mut self, now: Instant) {
        self.core.acquire(now);
    }

    /// Asks for packets from and to an address; with port 0 from every port of
    /// the address, to be sent to in indications only.
    ///
    /// # Errors
    ///
    /// [`Full`].
    pub fn want(&mut self, peer: SocketAddr, now: Instant) -> Result<(), Full> {
        self.core.want(canonical(peer), now)
    }

    /// What comes from there is refused from now on.
    pub fn unwant(&mut self, peer: SocketAddr) {
        self.core.unwant(canonical(peer));
    }

    /// Refuses what comes from every address that is not among these.
    pub fn retain(&mut self, is_wanted: impl FnMut(SocketAddr) -> bool) {
        self.core.retain(is_wanted);
    }

    /// Whether there is an allocation, or one is being asked for.
    pub const fn is_acquired(&self) -> bool {
        self.core.is_wanted
    }

    /// The relay that was asked last and gave nothing, and why.
    pub fn failure(&self) -> Option<(u16, Why)> {
        self.core.failure
    }

    /// The relay and the way of the allocation, if there is one.
    pub fn rung(&self) -> Option<Rung> {
        Some(Rung { relay: self.core.current?.number, way: self.core.live.as_ref()?.way })
    }

    /// Nobody wants a relay any more: the allocation is given back.
    pub fn release(&mut self, now: Instant) {
        self.core.release(now);
    }

    /// Something sent through the relay was not answered: asks whether the relay
    /// is still there, or there again.
    pub fn suspect(&mut self, now: Instant) {
        self.core.suspect(now);
    }

    /// Nothing comes back through the relay. It is asked whether it is there; said
    /// again a second later without an answer, another one is asked for an
    /// allocation, and this one again if there is no other.
    pub fn handle_silence(&mut self, now: Instant) {
        self.core.handle_silence(now);
    }

    /// The relay answers, and nothing comes through it though all was tried: another
    /// one is asked, and this one again if there is no other.
    pub fn abandon(&mut self, now: Instant) {
        self.core.abandon(now);
    }

    /// Nothing comes back from what the relay at this address keeps for a peer: for a
    /// while it is asked after all others, and an allocation that we have there is
    /// given up.
    pub fn shun(&mut self, relay: IpAddr, now: Instant) {
        self.core.shun(relay, now);
    }

    /// A datagram came.
    ///
    /// # Errors
    ///
    /// Why it counts for nothing: [`DropReason::Malformed`],
    /// [`DropReason::Unauthentic`], or [`DropReason::Unsolicited`] for what was
    /// not asked for, not from there or not by us.
    pub fn handle_datagram(
        &mut self,
        source: Source,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Received, DropReason> {
        self.core.handle_datagram(source, datagram, now)
    }

    /// The connection stands.
    pub fn handle_stream_connected(&mut self, stream: StreamId, now: Instant) {
        if let Some(slot) = self.core.handle_stream_connected(stream, now)
            && let Some(deframer) = self.streams.get_mut(slot)
        {
            *deframer = Deframer::new([0; FRAME]);
        }
    }

    /// The connection was refused, closed or broke.
    pub fn handle_stream_closed(&mut self, stream: StreamId, now: Instant) {
        self.core.handle_stream_closed(stream, now);
    }

    /// Bytes came in a connection. Returns how many were taken: the others are to
    /// be handed in again when [`RelayClient::poll_stream_frame`] has given `None`.
    #[must_use]
    pub fn handle_stream_data(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        let slot = self.core.slot_of(stream);
        let Some(deframer) = slot.and_then(|slot| self.streams.get_mut(slot)) else {
            // Closed while these were on their way.
            return bytes.len();
        };
        let room = deframer.room();
        let len = room.len().min(bytes.len());
        if let (Some(room), Some(bytes)) = (room.get_mut(..len), bytes.get(..len)) {
            room.copy_from_slice(bytes);
        }
        deframer.filled(len);
        len
    }

    /// The next frame of what came in connections. Ask until `None`.
    #[must_use]
    pub fn poll_stream_frame(&mut self, now: Instant) -> Option<Framed<'_>> {
        for (slot, deframer) in self.streams.iter_mut().enumerate() {
            let Some((stream, way)) = self.core.open_stream(slot) else { continue };
            match deframer.next_frame() {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    let received = self.core.handle_frame(way, frame, now);
                    let Ok(Received::Data { peer, at }) = received else {
                        return Some(Framed::Consumed { stream, message: frame });
                    };
                    let data = frame.get(at).unwrap_or_default();
                    return Some(Framed::Data { stream, peer, data });
                }
                Err(_) => {
                    self.core.break_stream(way, now);
                    return Some(Framed::Consumed { stream, message: &[] });
                }
            }
        }
        None
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.core.handle_timeout(now);
    }

    /// When something is due, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        self.core.poll_timeout()
    }

    /// Writes the next datagram into `out` ([`REQUEST_LEN`] bytes).
    #[must_use]
    pub fn poll_transmit(
        &mut self,
        out: &mut [u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Option<RelayTransmit> {
        self.core.poll_request(false, out, entropy, now)
    }

    /// Writes the next message for a connection into `out` ([`REQUEST_LEN`]
    /// bytes).
    #[must_use]
    pub fn poll_stream_transmit(
        &mut self,
        out: &mut [u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Option<RelayTransmit> {
        self.core.poll_request(true, out, entropy, now)
    }

    /// What is to be done with connections. Ask until `None`.
    #[must_use]
    pub fn poll_stream(&mut self) -> Option<StreamCommand> {
        self.core.poll_stream()
    }

    /// The next event. Ask until `None`.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<RelayEvent> {
        self.core.poll_event()
    }

    /// The way in which packets for an address are to be sent, if the relay has
    /// confirmed a channel.
    pub fn channel(&self, peer: SocketAddr) -> Option<Route> {
        self.core.channel(canonical(peer))
    }

    /// Makes a Send indication of the `len` bytes at the front of `buffer`, for as
    /// long as there is no channel: with [`INDICATION_OVERHEAD`] bytes more there is
    /// room. `None` without an allocation, for an address that is not wanted or
    /// refused, or without room. What [`RelayClient::poll_transmit`] has goes
    /// before it.
    #[must_use]
    pub fn wrap_indication(
        &mut self,
        peer: SocketAddr,
        buffer: &mut [u8],
        len: usize,
    ) -> Option<RelayTransmit> {
        self.core.wrap_indication(canonical(peer), buffer, len)
    }

    /// The same with `data` from elsewhere.
    #[must_use]
    pub fn write_indication(
        &mut self,
        peer: SocketAddr,
        data: &[u8],
        out: &mut [u8],
    ) -> Option<RelayTransmit> {
        out.get_mut(..data.len())?.copy_from_slice(data);
        self.wrap_indication(peer, out, data.len())
    }
}
