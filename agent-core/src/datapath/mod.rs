//! Packets to datagrams and back, in place: route, filter, seal; open, check
//! the source, filter. Chips run it; so does Linux where one thread suffices.
//!
//! It owns what seals and opens and decides nothing about handshakes: `tunnel`
//! says which sessions there are, and hears through [`Activity`] what happened.
//! After each packet drain [`Datapath::poll_activity`].
//!
//! # Order of checks
//!
//! Out: the packet is well formed, its destination is routed, the filter admits
//! it, it fits the peer's MTU, there is a session. In: the index is known, the
//! session is young enough, the counter is new, the tag is right; then the inner
//! packet is well formed, its source address is routed to *this* peer by the
//! longest prefix, and the filter admits it.

mod routes;
mod sessions;
mod slot;

use weft_noise::wg::{self, Kind, SessionKeys};
use weft_wire::map::{Prefix, Rule};

pub use self::routes::{RouteTable, RoutesFull};

use self::sessions::{Place, Sessions};
use self::slot::{NotSealed, Slot};
use crate::buffer::PacketBuf;
use crate::config::implementation::MTU_DEFAULT;
use crate::event::{Activity, Counters, DropCounters, DropReason, PeerSlot, SessionTimes, Source};
use crate::filter::{Filter, Masks};
use crate::ip::Packet;
use crate::ip::icmp::Problem;
use crate::time::Instant;

/// A packet was sealed: the first `len` bytes of its buffer go to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The peer.
    pub slot: PeerSlot,
    /// Bytes of the datagram.
    pub len: usize,
}

/// A datagram was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The peer.
    pub slot: PeerSlot,
    /// The inner packet without its padding; `None` for a keepalive.
    pub packet: Option<&'a [u8]>,
}

/// Why a packet was not sealed. The buffer holds it as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    /// There is no session: stage the packet and ask the tunnel for one.
    NoSession {
        /// The peer.
        slot: PeerSlot,
    },
    /// Larger than the peer takes.
    TooBig {
        /// The peer.
        slot: PeerSlot,
        /// Bytes that would pass.
        mtu: u16,
    },
    /// Dropped and counted.
    Dropped(DropReason),
}

impl PacketError {
    /// What to tell the packet's sender by ICMP, see [`crate::ip::icmp::answer_bytes`].
    pub const fn problem(self) -> Option<Problem> {
        match self {
            Self::TooBig { mtu, .. } => Some(Problem::TooBig { mtu }),
            Self::Dropped(DropReason::Denied | DropReason::DeniedByPeer) => {
                Some(Problem::Prohibited)
            }
            Self::Dropped(DropReason::NoRoute | DropReason::StagingFull) => {
                Some(Problem::Unreachable)
            }
            Self::NoSession { .. } | Self::Dropped(_) => None,
        }
    }
}

/// Packets of up to `PEERS` peers with `ROUTES` routes per family, `FLOWS`
/// flow-table entries and replay windows of `WORDS` words. There is a session for each peer
/// and `MORE` that they share: as many as the tunnel has places for handshakes. About 410 B
/// per peer on a chip (`WORDS` = 4).
pub struct Datapath<
    const PEERS: usize,
    const MORE: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
> {
    slots: [Slot; PEERS],
    sessions: Sessions<PEERS, MORE, WORDS>,
    routes: RouteTable<ROUTES>,
    filter: Filter<FLOWS>,
    mtu: u16,
    /// Some slot has edges to tell.
    dirty: bool,
    drops: DropCounters,
}

impl<
    const PEERS: usize,
    const MORE: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
> Datapath<PEERS, MORE, ROUTES, FLOWS, WORDS>
{
    /// Lets nothing pass yet. `seed` is random and spreads the flow table.
    #[inline(never)]
    pub const fn new(seed: u64) -> Self {
        Self {
            slots: Slot::all(),
            sessions: Sessions::new(),
            routes: RouteTable::new(),
            filter: Filter::new(seed),
            mtu: MTU_DEFAULT,
            dirty: false,
            drops: DropCounters::new(),
        }
    }

    /// The MTU of the mesh interface: no larger packet is sealed for any peer.
    pub const fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// The rules of this device.
    pub fn set_rules(&mut self, rules: &[Rule]) {
        self.filter.set_rules(rules);
    }

    /// Forgets all rules: nothing passes.
    pub fn clear_rules(&mut self) {
        self.filter.clear();
    }

    /// What a peer takes and may do. Sessions stay.
    pub fn set_peer(&mut self, slot: PeerSlot, mtu: u16, masks: Masks) {
        if let Some(peer) = self.slots.get_mut(slot.index()) {
            peer.mtu = mtu;
            peer.masks = masks;
        }
    }

    /// The complete list of a peer's prefixes.
    ///
    /// # Errors
    ///
    /// [`RoutesFull`]; the peer has those routes that found room.
    pub fn set_routes(
        &mut self,
        slot: PeerSlot,
        prefixes: impl IntoIterator<Item = Prefix>,
    ) -> Result<(), RoutesFull> {
        self.routes.remove(slot);
        if slot.index() >= PEERS {
            return Ok(());
        }
        prefixes.into_iter().try_for_each(|prefix| self.routes.insert(prefix, slot))
    }

    /// Forgets a peer with everything that belongs to it, sessions included.
    pub fn remove_peer(&mut self, slot: PeerSlot) {
        self.drop_sessions(slot);
        self.routes.remove(slot);
        self.filter.forget(slot);
        if let Some(peer) = self.slots.get_mut(slot.index()) {
            *peer = Slot::new();
        }
    }

    /// Where datagrams for this peer go. The data path keeps it for the shell
    /// and never changes it by itself: `path` hears of roaming and decides.
    pub fn set_endpoint(&mut self, slot: PeerSlot, endpoint: Option<Source>) {
        if let Some(peer) = self.slots.get_mut(slot.index()) {
            peer.endpoint = endpoint;
        }
    }

    /// See [`Datapath::set_endpoint`].
    pub fn endpoint(&self, slot: PeerSlot) -> Option<Source> {
        self.slots.get(slot.index())?.endpoint
    }

    /// A new session, to be opened with at once and to be sealed with if `send`.
    pub fn install(
        &mut self,
        slot: PeerSlot,
        keys: SessionKeys,
        sealing: SessionTimes,
        opening: SessionTimes,
        send: bool,
    ) {
        if let Some(peer) = self.slots.get_mut(slot.index())
            && let Some(place) = self.sessions.put(slot, keys, sealing, opening)
        {
            peer.installed(place, send);
        }
    }

    /// Seals with this session from now on.
    pub fn seal_with(&mut self, slot: PeerSlot, index: u32) {
        if let Some(peer) = self.slots.get_mut(slot.index()) {
            let found = self.sessions.find(index).filter(|&(holder, _)| holder == slot);
            peer.current = found.map(|(_, place)| place);
        }
    }

    /// Leaves counters of the session that seals out, for a device that cannot
    /// tell how many it used: after a sleep the counter has to be provably
    /// ahead. To the peer it looks like lost packets.
    pub fn skip_counters(&mut self, slot: PeerSlot, counters: u64) {
        let current = self.slots.get(slot.index()).and_then(|peer| peer.current);
        if let Some(session) = current.and_then(|place| self.sessions.get_mut(place)) {
            session.sealer.skip(counters);
        }
    }

    /// Seals nothing for this peer until told otherwise.
    pub fn mute(&mut self, slot: PeerSlot) {
        if let Some(peer) = self.slots.get_mut(slot.index()) {
            peer.current = None;
        }
    }

    /// Erases one session.
    pub fn drop_session(&mut self, slot: PeerSlot, index: u32) {
        if let Some(peer) = self.slots.get_mut(slot.index())
            && let Some(place) = self.sessions.remove(slot, index)
        {
            peer.dropped(place, index);
        }
    }

    /// Erases all sessions of a slot.
    pub fn drop_sessions(&mut self, slot: PeerSlot) {
        let Some(peer) = self.slots.get_mut(slot.index()) else {
            return;
        };
        self.sessions.remove_all(slot);
        peer.dropped_all();
    }

    /// Seals the packet of `buffer` in place for the peer that its destination
    /// is routed to.
    ///
    /// # Errors
    ///
    /// [`PacketError`]; all but `NoSession` are counted.
    pub fn handle_packet(
        &mut self,
        buffer: &mut PacketBuf<'_>,
        now: Instant,
    ) -> Result<Sealed, PacketError> {
        let result = self.seal(buffer, now);
        let reason = match result {
            Err(PacketError::Dropped(reason)) => Some(reason),
            Err(PacketError::TooBig { .. }) => Some(DropReason::TooBig),
            Ok(_) | Err(PacketError::NoSession { .. }) => None,
        };
        if let Some(reason) = reason {
            self.drops.count(reason);
        }
        result
    }

    fn seal(&mut self, buffer: &mut PacketBuf<'_>, now: Instant) -> Result<Sealed, PacketError> {
        const NO_ROUTE: PacketError = PacketError::Dropped(DropReason::NoRoute);
        let dropped = PacketError::Dropped;
        let packet = Packet::parse(buffer.packet());
        let packet = packet.map_err(|_| dropped(DropReason::MalformedPacket))?;
        let slot = self.routes.lookup(packet.destination).ok_or(NO_ROUTE)?;
        let peer = self.slots.get_mut(slot.index()).ok_or(NO_ROUTE)?;
        self.filter.outbound(slot, peer.masks, &packet, now).map_err(dropped)?;
        let (len, mtu) = (packet.bytes.len(), self.mtu.min(peer.mtu));
        if len > usize::from(mtu) {
            return Err(PacketError::TooBig { slot, mtu });
        }
        let session = peer.current.and_then(|place| self.sessions.get_mut(place));
        let result = match peer.seal(session, buffer.whole_mut(), len, mtu, now) {
            Ok(len) => Ok(Sealed { slot, len }),
            Err(NotSealed::NoSession) => Err(PacketError::NoSession { slot }),
            Err(NotSealed::NoRoom) => Err(dropped(DropReason::NoRoom)),
        };
        self.dirty |= peer.has_edges();
        result
    }

    /// Writes a keepalive (32 bytes) into `out`. `None` when there is no session
    /// to send it in: a keepalive never asks for one.
    #[must_use]
    pub fn handle_keepalive(
        &mut self,
        slot: PeerSlot,
        out: &mut [u8],
        now: Instant,
    ) -> Option<Sealed> {
        let peer = self.slots.get_mut(slot.index())?;
        let session = peer.current.and_then(|place| self.sessions.get_mut(place));
        let len = peer.seal(session, out, 0, 0, now).ok()?;
        self.dirty |= peer.has_edges();
        Some(Sealed { slot, len })
    }

    /// Opens transport data (type 4) in place.
    ///
    /// # Errors
    ///
    /// Why it went no further; counted.
    pub fn handle_datagram<'a>(
        &mut self,
        source: Source,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Result<Received<'a>, DropReason> {
        let found = match (wg::kind(datagram), wg::receiver(datagram)) {
            (Ok(Kind::Transport), Some(index)) => {
                self.sessions.find(index).ok_or(DropReason::UnknownIndex)
            }
            _ => Err(DropReason::Malformed),
        };
        let result = found.and_then(|(slot, place)| self.open(slot, place, source, datagram, now));
        result.inspect_err(|&reason| self.drops.count(reason))
    }

    fn open<'a>(
        &mut self,
        slot: PeerSlot,
        place: Place,
        source: Source,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Result<Received<'a>, DropReason> {
        let peer = self.slots.get_mut(slot.index()).ok_or(DropReason::UnknownIndex)?;
        let session = self.sessions.get_mut(place).ok_or(DropReason::UnknownIndex)?;
        let len = peer.open(session, source, datagram, now)?;
        self.dirty |= peer.has_edges();
        if len == 0 {
            return Ok(Received { slot, packet: None });
        }
        let padded = datagram
            .get(wg::HEADER_LEN..wg::HEADER_LEN + len)
            .ok_or(DropReason::MalformedPacket)?;
        let packet = Packet::parse(padded).map_err(|_| DropReason::MalformedPacket)?;
        if self.routes.lookup(packet.source) != Some(slot) {
            return Err(DropReason::SourceAddress);
        }
        self.filter.inbound(slot, peer.masks, &packet, now)?;
        peer.counters.received_packets += 1;
        peer.counters.received_bytes += packet.bytes.len() as u64;
        Ok(Received { slot, packet: Some(packet.bytes) })
    }

    /// The next peer with something to tell the tunnel that must not wait.
    #[must_use]
    pub fn poll_activity(&mut self) -> Option<(PeerSlot, Activity)> {
        if !self.dirty {
            return None;
        }
        let position = self.slots.iter().position(Slot::has_edges);
        self.dirty = position.is_some();
        let position = position?;
        let slot = PeerSlot(u16::try_from(position).ok()?);
        self.slots.get_mut(position).map(|peer| (slot, peer.take_activity()))
    }

    /// What the tunnel asked for.
    pub fn take_activity(&mut self, slot: PeerSlot) -> Activity {
        self.slots.get_mut(slot.index()).map(Slot::take_activity).unwrap_or_default()
    }

    /// The times of a peer's traffic, for people and for `path`.
    pub fn activity(&self, slot: PeerSlot) -> Activity {
        self.slots.get(slot.index()).map(Slot::activity).unwrap_or_default()
    }

    /// Whether a packet for this peer could be sealed now.
    pub fn has_session(&self, slot: PeerSlot, now: Instant) -> bool {
        let current = self.slots.get(slot.index()).and_then(|peer| peer.current);
        let session = current.and_then(|place| self.sessions.get(place));
        session.is_some_and(|session| now < session.sealing.expires_at)
    }

    /// Which peer has this address.
    pub fn route(&self, address: core::net::IpAddr) -> Option<PeerSlot> {
        self.routes.lookup(address)
    }

    /// Traffic of a peer.
    pub fn counters(&self, slot: PeerSlot) -> Counters {
        self.slots.get(slot.index()).map(|peer| peer.counters).unwrap_or_default()
    }

    /// What was dropped here, by reason.
    pub const fn drops(&self) -> &DropCounters {
        &self.drops
    }
}
