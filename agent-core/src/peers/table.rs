//! The table of peers.

use core::mem;

use heapless::Vec;
use weft_wire::id::{DeviceId, Name, PublicKey, Secret};
use weft_wire::map::{PEER_ROUTES, PeerUpsert, Prefix, SecondKey, peer_flags};

use super::{BUSY_FOR, FRESH_FOR, IDLE_AFTER, PeerChange, PeerState, UpsertError};
use crate::empty;
use crate::event::PeerSlot;
use crate::time::{Duration, Instant};
use crate::timer::Reason;

/// What the map says of a peer, without its routes ([`Peers::routes`]).
pub struct PeerEntry {
    /// Who.
    pub device: DeviceId,
    /// Its name.
    pub name: Name,
    /// Its WireGuard key.
    pub key: PublicKey,
    /// The PSK of this pair; zero = none.
    pub psk: Secret,
    /// A second key while it rotates.
    pub second: Option<SecondKey>,
    /// Host number in the overlay.
    pub host: u32,
    /// Largest packet it takes, in bytes.
    pub mtu: u16,
    /// Bits of [`peer_flags`].
    pub flags: u8,
    /// Which of our rules admit packets from it.
    pub rules_in: u64,
    /// Which of its rules admit our packets.
    pub rules_out: u64,
    /// Where a WireGuard-only peer listens.
    pub endpoint: Option<core::net::SocketAddr>,
}

impl PeerEntry {
    /// Whether it speaks plain WireGuard only.
    pub const fn is_wireguard_only(&self) -> bool {
        self.flags & peer_flags::WIREGUARD_ONLY != 0
    }

    /// Whether the network wants the way to it kept open.
    pub const fn is_warm(&self) -> bool {
        self.flags & peer_flags::KEEP_WARM != 0
    }
}

/// Routes of somebody who waits: its addresses. Who has more is introduced again, as every
/// caller is that hears nothing.
const WAITING_ROUTES: usize = 2;
/// Somebody waits no longer than this.
const WAITS_FOR: Duration = Duration::from_secs(5);

struct Peer {
    entry: PeerEntry,
    state: PeerState,
    /// What the owner was told last.
    told: PeerState,
    /// Since when it is in the table.
    since: Instant,
    /// A handshake was done since then.
    proven: bool,
    /// When to look whether it is idle.
    look_at: Instant,
    /// Named by the snapshot that is coming in.
    named: bool,
}

/// Somebody for whom there was no place a moment ago.
struct Waiting {
    entry: PeerEntry,
    routes: Vec<Prefix, WAITING_ROUTES>,
    since: Instant,
    /// When there may be one.
    at: Instant,
}

/// What became of a peer of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upserted {
    /// Its place.
    pub slot: PeerSlot,
    /// The peer that was in this place is gone: it had to make room, or its key
    /// is this device's now.
    pub dropped: Option<PeerSlot>,
}

/// Up to `PEERS` peers with `ROUTES` ranges behind all of them together.
pub struct Peers<const PEERS: usize, const ROUTES: usize> {
    peers: [Option<Peer>; PEERS],
    routes: Vec<(PeerSlot, Prefix), ROUTES>,
    /// Whether a peer may be replaced by another.
    on_demand: bool,
    changed: bool,
    querying: Option<usize>,
    waiting: Option<Waiting>,
}

impl<const PEERS: usize, const ROUTES: usize> Peers<PEERS, ROUTES> {
    /// An empty table. `on_demand`: a full table gives up the peer that was not
    /// used for longest instead of refusing a new one.
    #[inline(never)]
    pub const fn new(on_demand: bool) -> Self {
        Self {
            peers: empty::nothing(),
            routes: Vec::new(),
            on_demand,
            changed: false,
            querying: None,
            waiting: None,
        }
    }

    /// A peer is as the map says, whatever was known before. `used_at` tells
    /// when a slot last carried data.
    ///
    /// # Errors
    ///
    /// [`UpsertError`]; the table is as it was. The last one that met
    /// [`UpsertError::Busy`] waits for [`Peers::poll_waiting`].
    pub fn upsert(
        &mut self,
        mut peer: PeerUpsert,
        used_at: impl Fn(PeerSlot) -> Option<Instant>,
        now: Instant,
    ) -> Result<Upserted, UpsertError> {
        self.waiting.take_if(|waiting| waiting.entry.device == peer.device);
        let (device, key, routes) = (peer.device, peer.key, mem::take(&mut peer.routes));
        let found = self.place_for((device, &key), routes.len(), used_at, now);
        let entry = entry(peer);
        if let Err(UpsertError::Busy(at)) = found
            && let Ok(routes) = Vec::from_slice(&routes)
        {
            self.waiting = Some(Waiting { entry, routes, since: now, at });
        } else if let Ok(upserted) = found {
            self.seat(upserted, entry, &routes, now);
        }
        found
    }

    /// Whoever waited for a place, if there is one now.
    #[must_use]
    pub fn poll_waiting(
        &mut self,
        used_at: impl Fn(PeerSlot) -> Option<Instant>,
        now: Instant,
    ) -> Option<Upserted> {
        let mut waiting = self.waiting.take_if(|waiting| waiting.at <= now)?;
        let who = (waiting.entry.device, &waiting.entry.key);
        match self.place_for(who, waiting.routes.len(), used_at, now) {
            Ok(upserted) => {
                self.seat(upserted, waiting.entry, &waiting.routes, now);
                Some(upserted)
            }
            Err(UpsertError::Busy(at)) if now - waiting.since < WAITS_FOR => {
                waiting.at = at;
                self.waiting = Some(waiting);
                None
            }
            Err(_) => None,
        }
    }

    /// Which place a peer has, or is to have, and who has to leave for it.
    fn place_for(
        &mut self,
        (device, key): (DeviceId, &PublicKey),
        routes: usize,
        used_at: impl Fn(PeerSlot) -> Option<Instant>,
        now: Instant,
    ) -> Result<Upserted, UpsertError> {
        let known = self.slot_of(device);
        let held = known.map_or(0, |slot| self.routes(slot).count());
        if self.routes.len() - held + routes > ROUTES {
            return Err(UpsertError::Routes);
        }
        // A key is one device's: whom the map gave it before is somebody else
        // now, and will be removed later or never named again.
        let stale = self.slots().find(|&slot| {
            self.entry(slot).is_some_and(|entry| entry.key == *key && entry.device != device)
        });
        let slot = match known.or(stale).or_else(|| self.free_slot()) {
            Some(slot) => slot,
            None => self.replaceable(used_at, now)?,
        };
        let leaving = stale.or_else(|| known.is_none().then_some(slot));
        let dropped = leaving.filter(|&slot| self.remove_slot(slot).is_some());
        Ok(Upserted { slot, dropped })
    }

    fn seat(
        &mut self,
        Upserted { slot, .. }: Upserted,
        entry: PeerEntry,
        routes: &[Prefix],
        now: Instant,
    ) {
        self.routes.retain(|&(owner, _)| owner != slot);
        for &route in routes {
            // Cannot fail: counted by `place_for`.
            let _ = self.routes.push((slot, route));
        }
        match self.peers.get_mut(slot.index()) {
            Some(Some(old)) => {
                old.entry = entry;
                old.named = true;
            }
            Some(place) => {
                *place = Some(Peer {
                    entry,
                    state: PeerState::Known,
                    told: PeerState::Known,
                    since: now,
                    proven: false,
                    look_at: Instant::FAR_FUTURE,
                    named: true,
                });
            }
            None => {}
        }
    }

    /// A peer's second key came, changed or went. Its place, if it is known.
    pub fn set_second(&mut self, device: DeviceId, second: Option<SecondKey>) -> Option<PeerSlot> {
        let slot = self.slot_of(device)?;
        self.peer_mut(slot)?.entry.second = second;
        Some(slot)
    }

    /// Forgets a peer; its place was this.
    pub fn remove(&mut self, device: DeviceId) -> Option<PeerSlot> {
        self.waiting.take_if(|waiting| waiting.entry.device == device);
        let slot = self.slot_of(device)?;
        self.remove_slot(slot);
        Some(slot)
    }

    /// A map comes that names every peer: those it does not name go at
    /// [`Peers::poll_unnamed`].
    pub fn begin_snapshot(&mut self) {
        self.waiting = None;
        for peer in self.peers.iter_mut().flatten() {
            peer.named = false;
        }
    }

    /// After the last page of a snapshot: forgets one peer that was not named.
    /// Ask until `None`.
    #[must_use]
    pub fn poll_unnamed(&mut self) -> Option<PeerSlot> {
        self.take_where(|peer| !peer.named)
    }

    /// Forgets one peer, whoever it is: for the end of a lease. Ask until
    /// `None`.
    #[must_use]
    pub fn poll_any(&mut self) -> Option<PeerSlot> {
        self.waiting = None;
        self.take_where(|_| true)
    }

    /// A packet wants this peer and finds no session. Whether that is news: a
    /// peer that is being called already is not called again.
    #[must_use]
    pub fn handle_wanted(&mut self, slot: PeerSlot) -> bool {
        let news = self.state(slot).is_some_and(|state| state != PeerState::Calling);
        if news {
            self.change(slot, PeerState::Calling);
        }
        news
    }

    /// There is a session.
    pub fn handle_established(&mut self, slot: PeerSlot, now: Instant) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.proven = true;
            self.change(slot, PeerState::Active);
        }
        if let Some(peer) = self.peer_mut(slot) {
            peer.look_at = now + IDLE_AFTER;
        }
    }

    /// The peer did not answer.
    pub fn handle_failed(&mut self, slot: PeerSlot) {
        let proven = self.peer(slot).is_some_and(|peer| peer.proven);
        self.change(slot, if proven { PeerState::Idle } else { PeerState::Known });
    }

    /// All sessions of the peer are erased.
    pub fn handle_expired(&mut self, slot: PeerSlot) {
        if self.state(slot) == Some(PeerState::Active) {
            self.change(slot, PeerState::Idle);
        }
    }

    /// Answers [`Peers::poll_query`]: when the slot last carried data.
    pub fn handle_used(&mut self, slot: PeerSlot, used_at: Option<Instant>, now: Instant) {
        let Some(peer) = self.peer_mut(slot).filter(|peer| peer.state == PeerState::Active) else {
            return;
        };
        let idle_at = used_at.unwrap_or(peer.since) + IDLE_AFTER;
        if idle_at > now {
            peer.look_at = idle_at;
        } else {
            self.change(slot, PeerState::Idle);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self) {
        self.querying = Some(0);
    }

    /// A slot whose use is to be told by [`Peers::handle_used`]. Ask until
    /// `None`.
    #[must_use]
    pub fn poll_query(&mut self, now: Instant) -> Option<PeerSlot> {
        let start = self.querying?;
        let due = |peer: &Option<Peer>| peer.as_ref().is_some_and(|peer| peer.look_at <= now);
        let found = self.peers.iter().skip(start).position(due).map(|at| start + at);
        self.querying = found.map(|position| position + 1);
        slot_at(found?)
    }

    /// When to call [`Peers::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let idle = self.peers.iter().flatten().map(|peer| peer.look_at).min();
        let idle = idle.filter(|&at| at != Instant::FAR_FUTURE);
        let idle = idle.map(|at| (at, Reason::new("peers: look who is idle")));
        let waiting = self.waiting.as_ref();
        let waiting = waiting.map(|one| (one.at, Reason::new("peers: a place may be free")));
        idle.into_iter().chain(waiting).min_by_key(|&(at, _)| at)
    }

    /// A peer that stands elsewhere than when it was last polled. Ask until
    /// `None`.
    #[must_use]
    pub fn poll_change(&mut self) -> Option<PeerChange> {
        if !self.changed {
            return None;
        }
        for (position, peer) in self.peers.iter_mut().enumerate() {
            if let Some(peer) = peer.as_mut().filter(|peer| peer.told != peer.state) {
                let from = mem::replace(&mut peer.told, peer.state);
                let (device, to) = (peer.entry.device, peer.state);
                return slot_at(position).map(|slot| PeerChange { slot, device, from, to });
            }
        }
        self.changed = false;
        None
    }

    /// What the map says of the peer in this slot.
    pub fn entry(&self, slot: PeerSlot) -> Option<&PeerEntry> {
        self.peer(slot).map(|peer| &peer.entry)
    }

    /// Where the peer in this slot stands.
    pub fn state(&self, slot: PeerSlot) -> Option<PeerState> {
        self.peer(slot).map(|peer| peer.state)
    }

    /// Ranges behind the peer in this slot.
    pub fn routes(&self, slot: PeerSlot) -> impl Iterator<Item = Prefix> + '_ {
        self.routes.iter().filter(move |&&(owner, _)| owner == slot).map(|&(_, route)| route)
    }

    /// The place of a device.
    pub fn slot_of(&self, device: DeviceId) -> Option<PeerSlot> {
        let of = |peer: &Option<Peer>| peer.as_ref().is_some_and(|p| p.entry.device == device);
        slot_at(self.peers.iter().position(of)?)
    }

    /// Places that are taken.
    pub fn slots(&self) -> impl Iterator<Item = PeerSlot> + '_ {
        let taken = self.peers.iter().enumerate().filter(|(_, peer)| peer.is_some());
        taken.filter_map(|(position, _)| slot_at(position))
    }

    /// How many peers are in a state.
    pub fn count(&self, state: PeerState) -> usize {
        self.peers.iter().flatten().filter(|peer| peer.state == state).count()
    }

    /// The map's op that makes this entry: what the cache holds.
    pub fn to_upsert(&self, slot: PeerSlot) -> Option<PeerUpsert> {
        let entry = self.entry(slot)?;
        Some(PeerUpsert {
            device: entry.device,
            name: entry.name.clone(),
            key: entry.key,
            psk: entry.psk.duplicate(),
            second: entry.second.as_ref().map(|second| SecondKey {
                key: second.key,
                psk: second.psk.duplicate(),
                kind: second.kind,
                until_ms: second.until_ms,
            }),
            host: entry.host,
            mtu: entry.mtu,
            flags: entry.flags,
            rules_in: entry.rules_in,
            rules_out: entry.rules_out,
            routes: self.routes(slot).take(PEER_ROUTES).collect(),
            endpoint: entry.endpoint,
            attestation: None,
        })
    }

    fn peer(&self, slot: PeerSlot) -> Option<&Peer> {
        self.peers.get(slot.index())?.as_ref()
    }

    fn peer_mut(&mut self, slot: PeerSlot) -> Option<&mut Peer> {
        self.peers.get_mut(slot.index())?.as_mut()
    }

    fn free_slot(&self) -> Option<PeerSlot> {
        slot_at(self.peers.iter().position(Option::is_none)?)
    }

    /// The slot that was not used for longest, of those that may be given up.
    fn replaceable(
        &self,
        used_at: impl Fn(PeerSlot) -> Option<Instant>,
        now: Instant,
    ) -> Result<PeerSlot, UpsertError> {
        if !self.on_demand {
            return Err(UpsertError::Full);
        }
        let mut oldest: Option<(Instant, PeerSlot)> = None;
        let mut free_at = Instant::FAR_FUTURE;
        for (slot, peer) in self.slots().filter_map(|slot| Some((slot, self.peer(slot)?))) {
            let used = used_at(slot);
            let fresh_until = if peer.proven { Instant::ZERO } else { peer.since + FRESH_FOR };
            let busy_until = used.map_or(Instant::ZERO, |used| used + BUSY_FOR);
            let until = fresh_until.max(busy_until);
            let last = used.unwrap_or(peer.since);
            if until > now {
                free_at = free_at.min(until);
            } else if oldest.is_none_or(|(at, _)| last < at) {
                oldest = Some((last, slot));
            }
        }
        oldest.map(|(_, slot)| slot).ok_or(UpsertError::Busy(free_at))
    }

    fn take_where(&mut self, gone: impl Fn(&Peer) -> bool) -> Option<PeerSlot> {
        let position = self.peers.iter().position(|peer| peer.as_ref().is_some_and(&gone))?;
        let slot = slot_at(position)?;
        self.remove_slot(slot);
        Some(slot)
    }

    fn remove_slot(&mut self, slot: PeerSlot) -> Option<DeviceId> {
        let peer = self.peers.get_mut(slot.index())?.take()?;
        self.routes.retain(|&(owner, _)| owner != slot);
        Some(peer.entry.device)
    }

    fn change(&mut self, slot: PeerSlot, to: PeerState) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.state = to;
            // Only an active peer can become idle.
            peer.look_at = Instant::FAR_FUTURE;
            self.changed = true;
        }
    }
}

fn slot_at(position: usize) -> Option<PeerSlot> {
    u16::try_from(position).ok().map(PeerSlot)
}

fn entry(peer: PeerUpsert) -> PeerEntry {
    PeerEntry {
        device: peer.device,
        name: peer.name,
        key: peer.key,
        psk: peer.psk,
        second: peer.second,
        host: peer.host,
        mtu: peer.mtu,
        flags: peer.flags,
        rules_in: peer.rules_in,
        rules_out: peer.rules_out,
        endpoint: peer.endpoint,
    }
}
