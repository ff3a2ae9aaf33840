//! What people are shown.

use core::net::{Ipv4Addr, Ipv6Addr};

use weft_wire::id::{DeviceId, Name, PublicKey};
use weft_wire::item::Standing;
use weft_wire::map::{Prefix, Rule};
use weft_wire::relay::RelayGrant;

use super::Agent;
use super::trace::Trace;
use crate::control::{ControlCounters, Held, Identity, MapSettings, Other, Report};
use crate::entropy::Entropy;
use crate::event::{Counters, DropCounters, DropReason, PeerSlot};
use crate::path::Selected;
use crate::peers::PeerState;
use crate::time::{Duration, Instant};
use crate::tunnel::TunnelStatus;

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerStatus<'a> {
    /// Its place.
    pub slot: PeerSlot,
    /// Who.
    pub device: DeviceId,
    /// Its name.
    pub name: &'a Name,
    /// Its WireGuard key.
    pub key: PublicKey,
    /// Its addresses; `None` before the map's settings came.
    pub addresses: Option<(Ipv4Addr, Ipv6Addr)>,
    /// Speaks plain WireGuard only.
    pub wireguard_only: bool,
    /// Where it stands.
    pub state: PeerState,
    /// The way that its data takes, and why.
    pub selected: Option<Selected>,
    /// Its handshakes.
    pub tunnel: TunnelStatus,
    /// When anything authenticated last came from it.
    pub received_at: Option<Instant>,
    /// Its traffic.
    pub counters: Counters,
}

/// The coordinator, as this device sees it.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorStatus {
    /// Whether a session is up.
    pub online: bool,
    /// When it was last heard, authenticated.
    pub heard_at: Option<Instant>,
    /// Round trip of the last handshake in milliseconds; 0 = none yet.
    pub rtt_ms: u16,
    /// How this device stands.
    pub standing: Standing,
    /// Another machine with this device's identity, if there is one.
    pub other: Option<Other>,
    /// The committed map.
    pub held: Held,
    /// Whether a newer map is on its way.
    pub pulling: bool,
    /// While it is away: whether a relay keeps a line that peers can call over.
    pub relay_line: bool,
    /// What is left of the lease; `None` without a map.
    pub lease_remaining: Option<Duration>,
    /// Its Unix time in milliseconds, carried on.
    pub unix_ms: Option<u64>,
    /// What went by without effect.
    pub counters: ControlCounters,
}

impl<
    E: Entropy,
    T: Trace,
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> Agent<E, T, PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>
{
    /// The identity, to be stored.
    pub const fn identity(&self) -> &Identity {
        self.control.identity()
    }

    /// What the map says beside peers: addresses, name, MTU, servers,
    /// relays.
    pub const fn settings(&self) -> &MapSettings {
        self.control.settings()
    }

    /// This device's credentials at the relays of the map.
    pub const fn relay_grant(&self) -> Option<&RelayGrant> {
        self.control.relay_grant()
    }

    /// What people call the relay with this number, on an agent that is told.
    pub fn relay_name(&self, relay: u16) -> Option<Name> {
        self.names.of(relay)
    }

    /// The coordinator.
    pub fn coordinator(&self, now: Instant) -> CoordinatorStatus {
        let control = &self.control;
        CoordinatorStatus {
            online: control.is_online(),
            heard_at: control.heard_at(),
            rtt_ms: control.rtt_ms(),
            standing: control.standing(),
            other: control.other(),
            held: control.held(),
            pulling: control.is_pulling(),
            relay_line: self.paths.is_line_up(),
            lease_remaining: control.lease_remaining(now),
            unix_ms: control.unix_ms(now),
            counters: *control.counters(),
        }
    }

    /// All peers.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus<'_>> + '_ {
        self.peers.slots().filter_map(|slot| self.peer(slot))
    }

    /// The peer in a slot.
    pub fn peer(&self, slot: PeerSlot) -> Option<PeerStatus<'_>> {
        let entry = self.peers.entry(slot)?;
        let overlay = self.control.settings().overlay();
        Some(PeerStatus {
            slot,
            device: entry.device,
            name: &entry.name,
            key: entry.key,
            addresses: overlay
                .map(|overlay| (overlay.address_v4(entry.host), overlay.address_v6(entry.host))),
            wireguard_only: entry.is_wireguard_only(),
            state: self.peers.state(slot)?,
            selected: self.paths.selected(slot).copied(),
            tunnel: self.tunnel.status(slot)?,
            received_at: self.datapath.activity(slot).received_at,
            counters: self.datapath.counters(slot),
        })
    }

    /// What rules let the peer send to us, and us to the peer.
    pub fn allowed(&self, slot: PeerSlot) -> Option<[impl Iterator<Item = Rule> + '_; 2]> {
        let entry = self.peers.entry(slot)?;
        let rules = self.control.settings().rules();
        let of = |mask: u64| {
            rules.iter().copied().filter(move |rule| mask >> rule.number.min(63) & 1 != 0)
        };
        Some([of(entry.rules_in), of(entry.rules_out)])
    }

    /// What tells the PSK in use with a peer from others: the same on both sides,
    /// another after a rotation on either. `None` = none is in use.
    pub fn psk_mark(&self, slot: PeerSlot) -> Option<[u8; 4]> {
        self.tunnel.psk_mark(slot)
    }

    /// Ranges behind peers, beside their own addresses.
    pub fn routes(&self) -> impl Iterator<Item = (PeerSlot, Prefix)> + '_ {
        let slots = self.peers.slots();
        slots.flat_map(|slot| self.peers.routes(slot).map(move |prefix| (slot, prefix)))
    }

    /// Everything dropped since the start, by reason.
    pub fn drops(&self) -> DropCounters {
        let mut all = self.drops.clone();
        all.merge(self.tunnel.drops());
        all.merge(self.datapath.drops());
        all
    }

    /// Peers of the map that found no place here at once, or whose key cannot be one.
    pub const fn refused_peers(&self) -> u32 {
        self.refused_peers
    }

    /// Traffic of all peers since the start.
    pub fn counters(&self) -> Counters {
        self.peers.slots().fold(self.retired, |sum, slot| add(sum, self.datapath.counters(slot)))
    }

    pub(super) fn report(&self) -> Report {
        let counters = self.counters();
        let drops = self.drops();
        let mut by_reason = [0; weft_wire::telemetry::DROP_REASONS];
        for (place, &reason) in by_reason.iter_mut().zip(DropReason::ALL) {
            *place = drops.get(reason);
        }
        let active = u16::try_from(self.peers.count(PeerState::Active)).unwrap_or(u16::MAX);
        Report {
            uptime_s: u32::try_from((self.now - self.started_at).as_secs()).unwrap_or(u32::MAX),
            tx_bytes: counters.sent_bytes,
            rx_bytes: counters.received_bytes,
            tx_packets: counters.sent_packets,
            rx_packets: counters.received_packets,
            handshakes: self.handshakes,
            handshake_failures: self.handshake_failures,
            drops: by_reason,
            active_peers: active,
            direct_peers: active,
        }
    }
}

// A heartbeat has a place for every reason.
const _: () = assert!(DropReason::ALL.len() <= weft_wire::telemetry::DROP_REASONS);

pub(super) const fn add(a: Counters, b: Counters) -> Counters {
    Counters {
        sent_packets: a.sent_packets.saturating_add(b.sent_packets),
        sent_bytes: a.sent_bytes.saturating_add(b.sent_bytes),
        received_packets: a.received_packets.saturating_add(b.received_packets),
        received_bytes: a.received_bytes.saturating_add(b.received_bytes),
    }
}
