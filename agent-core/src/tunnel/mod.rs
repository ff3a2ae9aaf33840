//! WireGuard's handshakes and timers (sections 5 and 6 of the paper) for a
//! table of peers. Never sees a packet: it makes sessions, hands their keys to
//! the data path and says when they end.
//!
//! # Use
//!
//! Inputs are `handle_*` and `set_*`, outputs `poll_*`. After each input drain,
//! in this order: [`Tunnel::poll_install`] (so that the data path can seal
//! before it is told to), [`Tunnel::poll_transmit`], [`Tunnel::poll_event`],
//! [`Tunnel::poll_query`] (each answered by [`Tunnel::handle_activity`]),
//! [`Tunnel::poll_persist`]. Initiations of others wait in a short queue:
//! answering them, like everything that needs a Diffie-Hellman on our own
//! account, happens in [`Tunnel::handle_timeout`], which a shell calls when it
//! has read the datagrams that were there. So data goes before handshakes.
//!
//! # Where this is stricter than the paper
//!
//! - An initiation decides only where its answer goes. The peer's endpoint moves
//!   with authenticated data or a confirmed session, so that a replayed
//!   initiation, after our reboot forgot the timestamps, moves nothing.
//! - Sealing stops 5 s before `REJECT_AFTER_TIME`, so that what was sealed in
//!   time is not refused for its time on the way.
//! - Of two crossed handshakes one session wins, and what is sealed with the one
//!   before them is opened until the peer seals with either, see `session`.
//! - After 90 s without an answer the old session is not sealed with any more:
//!   the next packet asks for a handshake at once.
//! - A response is not asked for a cookie under load, since its index is 32 bits
//!   that only the way to the peer knows; after four invalid ones it is.
//!
//! # Size
//!
//! About 520 B per peer on a chip, plus 350 B per handshake at once.

mod indices;
mod initiate;
mod keys;
mod outputs;
mod peer;
mod pending;
mod places;
mod queue;
mod receive;
mod session;
mod stamp;
mod table;

use heapless::Deque;
use weft_noise::key::{StaticSecret, WeakKey};
use weft_noise::wg::cookie::Checker;
use weft_noise::wg::{INITIATION_LEN, SessionKeys};
use weft_wire::id::PublicKey;

pub use self::keys::{KeyRole, PeerKeys, SecondPeerKey};
pub use self::stamp::{RESERVATION, Tai64nClock};

use self::indices::Indices;
use self::keys::OwnKeys;
use self::peer::{Demand, Peer, Timer};
use self::pending::Pendings;
use self::queue::InitiationQueue;
use self::session::Confirmed;
use self::table::PeerTable;
use crate::config::TunnelConfig;
use crate::config::implementation::PATH_RETRY_INTERVAL;
use crate::event::{Activity, DropCounters, PeerSlot, SessionTimes, Source};
use crate::time::{Duration, Instant};
use crate::timer::Reason;

/// Where a handshake message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Wherever the peer is reached.
    Peer(PeerSlot),
    /// Back to where a message came from.
    Reply(Source),
}

/// A datagram of `len` bytes in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Its destination.
    pub to: To,
    /// Its length.
    pub len: usize,
}

/// What the data path is to do with sessions. `index` is our receiver index.
#[allow(
    clippy::large_enum_variant,
    reason = "keys are moved once and never boxed; only with ring's are they so large"
)]
pub enum Install {
    /// A new session: open what comes in at once, and seal with it if `send`
    /// (else when [`Install::Send`] says so). What the data path noted of
    /// unanswered packets is settled.
    Session {
        /// The peer.
        slot: PeerSlot,
        /// Both directions; their index is `keys.local_index()`.
        keys: SessionKeys,
        /// When sealing ends.
        sealing: SessionTimes,
        /// When opening ends.
        opening: SessionTimes,
        /// Whether to seal with it from now on.
        send: bool,
    },
    /// Seal with this session from now on.
    Send {
        /// The peer.
        slot: PeerSlot,
        /// The session.
        index: u32,
    },
    /// Erase this session.
    Drop {
        /// The peer.
        slot: PeerSlot,
        /// The session.
        index: u32,
    },
    /// Do not seal until told otherwise: the peer does not answer.
    Mute {
        /// The peer.
        slot: PeerSlot,
    },
    /// Erase everything of this slot.
    DropPeer {
        /// The slot.
        slot: PeerSlot,
    },
}

/// What the other parts of the agent may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Packets can be sealed now: send what was staged. The initiator must send
    /// something at once, a keepalive if nothing is staged, or the peer cannot
    /// use the session.
    Established {
        /// The peer.
        slot: PeerSlot,
        /// Where its handshake message came from.
        source: Source,
        /// Whether we initiated.
        initiator: bool,
    },
    /// The newest authenticated word of the peer came from here.
    EndpointConfirmed {
        /// The peer.
        slot: PeerSlot,
        /// From where.
        source: Source,
    },
    /// Send a keepalive (an empty packet) in the current session.
    Keepalive {
        /// The peer.
        slot: PeerSlot,
    },
    /// 90 s of initiations went unanswered. Staged packets are lost.
    Failed {
        /// The peer.
        slot: PeerSlot,
    },
    /// All sessions of the peer are erased.
    Expired {
        /// The peer.
        slot: PeerSlot,
    },
}

/// Why a peer cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetPeerError {
    /// The slot is beyond the table.
    NoSuchSlot,
    /// The key has low order.
    WeakKey,
    /// The key is one of our own.
    OwnKey,
    /// The key is another peer's.
    KeyInUse(PeerSlot),
}

impl From<WeakKey> for SetPeerError {
    fn from(_: WeakKey) -> Self {
        Self::WeakKey
    }
}

/// The state of a peer's tunnel, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelStatus {
    /// When the current session's keys were made, until they are erased: with a
    /// peer that vanished up to 9 minutes.
    pub established_at: Option<Instant>,
    /// Whether we initiated it.
    pub initiator: bool,
    /// Whether a handshake is being tried.
    pub handshaking: bool,
    /// Completed handshakes since the peer was set, in either role.
    pub handshakes: u32,
    /// Where the newest authenticated word came from.
    pub source: Option<Source>,
}

/// A handshake message on its way out.
struct Outgoing {
    to: To,
    len: usize,
    message: [u8; INITIATION_LEN],
}

/// Messages that may wait to be polled. With the drain rule one input makes at
/// most this many.
const OUTGOING: usize = 4;

/// Handshakes and timers of up to `PEERS` peers. `HANDSHAKES` initiations of ours may be
/// under way, and as many of others may wait for their answers; strangers need a cookie when
/// half of that many do. A gateway whose peers all come at once has a place for each. The data
/// path holds a session of each peer and `HANDSHAKES` more.
pub struct Tunnel<const PEERS: usize, const HANDSHAKES: usize = PEERS> {
    config: TunnelConfig,
    own: OwnKeys,
    clock: Tai64nClock,
    peers: PeerTable<PEERS>,
    indices: Indices<PEERS, HANDSHAKES>,
    pendings: Pendings<HANDSHAKES>,
    cookies: Checker,
    queue: InitiationQueue<HANDSHAKES>,
    outgoing: Deque<Outgoing, OUTGOING>,
    drops: DropCounters,
}

impl<const PEERS: usize, const HANDSHAKES: usize> Tunnel<PEERS, HANDSHAKES> {
    /// A tunnel without peers. `secret` is the active own key; `clock` makes the
    /// timestamps of all own keys.
    #[inline(never)]
    pub fn new(config: TunnelConfig, secret: StaticSecret, clock: Tai64nClock) -> Self {
        Self {
            config,
            own: OwnKeys::new(secret),
            clock,
            peers: PeerTable::new(),
            indices: Indices::new(),
            pendings: Pendings::new(),
            cookies: Checker::new(),
            queue: InitiationQueue::new(config.handshake_interval()),
            outgoing: Deque::new(),
            drops: DropCounters::new(),
        }
    }

    /// The active own public key.
    pub const fn public_key(&self) -> &PublicKey {
        self.own.active().public()
    }

    /// Our own keys from now on: initiates with the active one, accepts both.
    /// Their timestamps go on together. When the active one changed, which costs
    /// one X25519 per peer, handshakes under way start again, and sessions that
    /// are in use are replaced while they still carry.
    pub fn set_own_keys(
        &mut self,
        active: StaticSecret,
        second: Option<(StaticSecret, KeyRole)>,
        now: Instant,
    ) {
        if !self.own.set(active, second) {
            return;
        }
        for slot in self.peers.slots() {
            let Some(peer) = self.peers.get_mut(slot) else {
                continue;
            };
            // The key had full order for another own key, so it has for this.
            if let Ok(remote) = self.own.remote(&peer.keys.key) {
                peer.remote = remote;
            }
            restart(peer, now);
            if peer.can_send(now) {
                peer.want_handshake(now);
            }
            self.end_pending(slot, now);
            self.peers.settle(slot);
        }
    }

    /// Tells what is known of a peer: a new one, or the same peer with other
    /// keys. (A slot changes its peer by [`Tunnel::remove_peer`] first.)
    /// Sessions outlast a rotation, each to its own end; with none of the keys
    /// from before they are erased. A new PSK counts from the next handshake on,
    /// one under way included.
    ///
    /// # Errors
    ///
    /// [`SetPeerError`]; what was known stays.
    pub fn set_peer(
        &mut self,
        slot: PeerSlot,
        keys: PeerKeys,
        now: Instant,
    ) -> Result<(), SetPeerError> {
        if slot.index() >= PEERS {
            return Err(SetPeerError::NoSuchSlot);
        }
        let second = keys.second.as_ref().map(|second| second.key);
        for key in [Some(keys.key), second].into_iter().flatten() {
            if self.own.is_own(&key) {
                return Err(SetPeerError::OwnKey);
            }
            match self.slot_of(&key) {
                Some(other) if other != slot => return Err(SetPeerError::KeyInUse(other)),
                _ => {}
            }
        }
        // One X25519, even for a known key: map changes are rare.
        let remote = self.own.remote(&keys.key)?;
        match self.peers.get_mut(slot) {
            Some(peer) => {
                let changed = peer.keys.key != keys.key;
                let continues = keys.continues(&peer.keys);
                peer.keys = keys;
                peer.remote = remote;
                let keys = &peer.keys;
                let gone = peer.sessions.retain(|key| continues || keys.marked(key).is_some());
                peer.drop_sessions(&gone, &mut self.indices);
                if changed {
                    restart(peer, now);
                    self.end_pending(slot, now);
                }
            }
            None => self.peers.insert(slot, Peer::new(keys, remote)),
        }
        if let Some(peer) = self.peers.get_mut(slot) {
            let until = peer.keys.second.as_ref().and_then(|second| second.until);
            peer.timers.set(Timer::SecondKey, until.unwrap_or(Instant::FAR_FUTURE));
            if peer.keys.keepalive_after.is_some() {
                peer.timers.set_earlier(Timer::Check, now);
            }
        }
        self.peers.settle(slot);
        Ok(())
    }

    /// Forgets a peer and erases every key of it.
    pub fn remove_peer(&mut self, slot: PeerSlot) {
        let Some(peer) = self.peers.take(slot) else {
            return;
        };
        for session in peer.sessions.iter() {
            self.indices.remove(session.index);
        }
        // Who waits for its place looks again within a second.
        if let Some(pending) = self.pendings.take(slot) {
            self.indices.remove(pending.sent.sender());
        }
    }

    /// Ends an initiation that is under way: its index is free, and so is its place.
    fn end_pending(&mut self, slot: PeerSlot, now: Instant) {
        if let Some(pending) = self.pendings.take(slot) {
            self.indices.remove(pending.sent.sender());
            self.resume(now, |peer| core::mem::take(&mut peer.waits_for_place));
        }
    }

    /// Which peer has this key, first or second.
    pub fn slot_of(&self, key: &PublicKey) -> Option<PeerSlot> {
        self.peers.slot_of(key)
    }

    /// A packet for this peer found no session.
    pub fn handle_wanted(&mut self, slot: PeerSlot, now: Instant) {
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.want_handshake(now);
            self.peers.settle(slot);
        }
    }

    /// A path to this peer opened: an initiation that may have been lost is
    /// repeated now instead of 5 s after the last.
    pub fn handle_path(&mut self, slot: PeerSlot, now: Instant) {
        if let Some(peer) = self.peers.get_mut(slot)
            && peer.attempt_since.is_some()
            && !peer.waits_for_stamp
        {
            let least =
                peer.initiated_at.map_or(now, |last| now.max(last.min(now) + PATH_RETRY_INTERVAL));
            peer.timers.set_earlier(Timer::Initiate, least);
            self.peers.settle(slot);
        }
    }

    /// What the data path has seen of a peer: an edge it reports on its own, or
    /// the answer to [`Tunnel::poll_query`].
    pub fn handle_activity(&mut self, slot: PeerSlot, activity: &Activity, now: Instant) {
        let indices = &mut self.indices;
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let mut is_over = false;
        if let Some((index, source)) = activity.edges.first_packet {
            let (confirmed, gone) = peer.sessions.confirm(index);
            peer.drop_sessions(&gone, indices);
            // An answer that waits for a place may take what this leaves.
            self.queue.hold_until(Instant::ZERO);
            if confirmed != Confirmed::Nothing {
                peer.source = Some(source);
                peer.waiting.endpoint = true;
            }
            if confirmed == Confirmed::Promoted {
                peer.seal_with(index);
                peer.waiting.established = Some(false);
                peer.end_attempt();
                is_over = true;
            }
        }
        if let Some(source) = activity.edges.roamed {
            peer.source = Some(source);
            peer.waiting.endpoint = true;
        }
        let rekey = activity.edges.rekey_due.is_some_and(|index| {
            let current = peer.sessions.current.as_ref();
            current.is_some_and(|session| session.index == index)
        });
        let demand = peer.judge(activity, now);
        if (rekey || demand == Demand::Handshake) && peer.attempt_since.is_none() {
            peer.want_handshake(now);
        }
        peer.waiting.keepalive |= demand == Demand::Keepalive;
        peer.query = false;
        if is_over {
            self.end_pending(slot, now);
        }
        self.peers.settle(slot);
    }

    /// An authenticated Unix time in milliseconds, from the coordinator.
    pub fn set_time(&mut self, unix_ms: u64, now: Instant) {
        self.clock.set_time(unix_ms, now);
        self.resume_stamped(now);
    }

    /// Another machine used our key: stamps go on at least `ahead` of real time,
    /// beyond those that it made.
    pub fn advance_stamps(&mut self, ahead: Duration, now: Instant) {
        self.clock.advance(ahead, now);
    }

    /// The session with this peer may be another machine's by now: a new one is
    /// made, at once if that can be.
    pub fn handle_doubt(&mut self, slot: PeerSlot, now: Instant) {
        self.handle_wanted(slot, now);
        self.handle_path(slot, now);
    }

    /// The floor that [`Tunnel::poll_persist`] gave is written.
    pub fn handle_persisted(&mut self, floor: u64, now: Instant) {
        self.clock.handle_persisted(floor);
        self.resume_stamped(now);
    }

    /// Goes on with handshakes that waited for a stamp.
    fn resume_stamped(&mut self, now: Instant) {
        self.resume(now, |peer| {
            let waited = core::mem::take(&mut peer.waits_for_stamp);
            if waited {
                peer.attempt_since = Some(now);
            }
            waited
        });
    }

    /// Goes on with handshakes of which this says that they waited.
    fn resume(&mut self, now: Instant, mut waited: impl FnMut(&mut Peer) -> bool) {
        for slot in self.peers.slots() {
            if let Some(peer) = self.peers.get_mut(slot)
                && waited(peer)
            {
                peer.timers.set(Timer::Initiate, now);
                self.peers.settle(slot);
            }
        }
    }

    /// When to call [`Tunnel::handle_timeout`], and why. Cheap: found once per
    /// input, not once per question.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        let service =
            self.queue.next_service().map(|at| (at, Reason::new("tunnel: answer an initiation")));
        match (service, self.peers.deadline()) {
            (Some(service), Some(timer)) if timer.0 < service.0 => Some(timer),
            (service, timer) => service.or(timer),
        }
    }

    /// What was dropped here, by reason.
    pub const fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// The state of a peer's tunnel.
    pub fn status(&self, slot: PeerSlot) -> Option<TunnelStatus> {
        let peer = self.peers.get(slot)?;
        let current = peer.sessions.current.as_ref();
        Some(TunnelStatus {
            established_at: current.map(|session| session.established_at),
            initiator: current.is_some_and(|session| session.initiator),
            handshaking: peer.attempt_since.is_some(),
            handshakes: peer.handshakes,
            source: peer.source,
        })
    }

    /// The key of path probes with this peer, of the active pair.
    pub fn probe_key(&self, slot: PeerSlot) -> Option<weft_noise::probe::ProbeKey> {
        let peer = self.peers.get(slot)?;
        let psk = peer.keys.psk_for(&peer.keys.key, self.own.active().public());
        Some(peer.remote.probe_key(&psk))
    }

    /// What tells the PSK of the active pair of keys from others; `None` = the
    /// pair uses none.
    pub fn psk_mark(&self, slot: PeerSlot) -> Option<[u8; 4]> {
        let keys = &self.peers.get(slot)?.keys;
        let psk = keys.psk_for(&keys.key, self.own.active().public());
        (!psk.is_none()).then(|| weft_noise::wg::psk_mark(&psk))
    }

    /// The clock that makes timestamps.
    pub const fn clock(&self) -> &Tai64nClock {
        &self.clock
    }
}

/// A handshake under way was begun with keys that changed: begins again at once.
fn restart(peer: &mut Peer, now: Instant) {
    let wanted = peer.attempt_since.is_some();
    peer.end_attempt();
    peer.initiated_at = None;
    if wanted {
        peer.want_handshake(now);
    }
}
