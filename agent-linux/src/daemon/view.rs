//! What the commands are shown: the agent's state in their words.

use std::net::{IpAddr, SocketAddr};

use weft_agent_core::agent::{Enrolled, PeerStatus};
use weft_agent_core::peers::PeerState;
use weft_agent_core::time::Instant;
use weft_noise::key::StaticSecret;
use weft_noise::mac;
use weft_wire::id::Name;
use weft_wire::item::Standing;
use weft_wire::map::{Overlay, Prefix, SecondKind};
use weft_wire::path::Way;
use weft_wire::relay::RelayGrant;

use crate::daemon::{Daemon, now};
use crate::failure::{Code, Failure};
use crate::ipc::protocol::{
    Coordinator, Data, Device, Key, KeyState, OtherMachine, Path, Peer, Relay, Status,
};
use crate::netcheck::Known;
use crate::os::clock;

/// The one word for a standing.
pub(super) const fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Active => "active",
        Standing::Pending => "pending",
        Standing::Blocked => "blocked",
        Standing::Quarantined => "quarantined",
        Standing::Rejected => "rejected",
    }
}

/// Whether a failure is over once the interface is up.
pub(super) fn is_passing(failure: &Failure) -> bool {
    [Code::JoinRangeOverlap, Code::UpRangeOverlap, Code::UpInterface]
        .into_iter()
        .any(|code| failure.is(code))
}

fn addresses(overlay: Overlay, host: u32) -> Option<(std::net::Ipv4Addr, std::net::Ipv6Addr)> {
    (host != 0).then(|| (overlay.address_v4(host), overlay.address_v6(host)))
}

/// This device as enrolment described it.
pub(super) fn enrolled_device(enrolled: &Enrolled, fingerprint: String) -> Device {
    Device {
        id: enrolled.device.to_string(),
        name: enrolled.name.to_string(),
        network: enrolled.network_name.to_string(),
        fingerprint,
        addresses: addresses(enrolled.overlay, enrolled.host),
        range: Some((enrolled.overlay.ipv4, enrolled.overlay.ipv4_len)),
        standing: standing(enrolled.standing).to_owned(),
        reason: String::new(),
        since_ms: None,
        other: None,
    }
}

/// Where a peer's data goes, while there is a session.
fn remote(peer: &PeerStatus<'_>) -> Option<SocketAddr> {
    Some(peer.selected?.route.address())
}

fn prefix(prefix: Prefix) -> String {
    match prefix {
        Prefix::V4(address, len) => format!("{address}/{len}"),
        Prefix::V6(address, len) => format!("{address}/{len}"),
    }
}

/// A relay of the map, and what people call it.
pub(crate) fn relay(
    relay: &weft_wire::relay::Relay,
    name: Option<Name>,
    until_s: Option<u64>,
    rtt_ms: Option<u16>,
) -> Relay {
    let port = |port: u16| (port != 0).then_some(port);
    Relay {
        number: relay.number,
        name: name.map(|name| name.as_str().to_owned()),
        addresses: (relay.v4, relay.v6),
        udp: relay.udp.into_iter().filter_map(port).collect(),
        tcp: port(relay.tcp),
        tls: port(relay.tls),
        until_s,
        rtt_ms,
    }
}

fn hexadecimal(mark: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(mark))
}

impl Daemon {
    fn age_ms(at: Option<Instant>) -> Option<u64> {
        at.map(|at| (now() - at).as_millis())
    }

    /// The way of a peer's data, and since when.
    pub(super) fn path(&self, peer: &PeerStatus<'_>) -> (Path, Option<u64>) {
        let (way, since) = self.agent.way(peer.slot);
        let path = match (way, peer.state) {
            (Way::Direct(remote), _) => Path::Direct { remote: remote.to_string() },
            (Way::Relay { relay, rung }, _) => {
                let relays = self.agent.settings().relays();
                let known = relays.iter().find(|one| one.number == relay);
                let address =
                    known.and_then(|one| one.v4.map(IpAddr::V4).or_else(|| one.v6.map(IpAddr::V6)));
                let address = address.or_else(|| remote(peer).map(|remote| remote.ip()));
                Path::Relay {
                    remote: address.map_or_else(String::new, |address| address.to_string()),
                    name: self.agent.relay_name(relay).map(|name| name.as_str().to_owned()),
                    number: relay,
                    rung: rung.map(|rung| rung.as_str().to_owned()),
                }
            }
            (_, PeerState::Calling) => Path::Connecting,
            (Way::Nowhere, _) => Path::Nowhere,
            (Way::Idle, _) => Path::Idle,
        };
        (path, Self::age_ms(since))
    }

    /// The newest round trip to a peer in microseconds, and its age: as a ping of a
    /// person found it, or one of the agent's own.
    fn rtt(&self, peer: &PeerStatus<'_>) -> (Option<u64>, Option<u64>) {
        let told = self.rtts.get(&peer.device).copied();
        let probed = self.agent.attempts(peer.slot).and_then(|attempts| attempts.rtt());
        // Its clock counts milliseconds: less than one is nothing that it could tell.
        let probed = probed.filter(|(ms, _)| *ms > 0).map(|(ms, at)| (u64::from(ms) * 1_000, at));
        let newest = told.into_iter().chain(probed).max_by_key(|&(_, at)| at);
        newest.map_or((None, None), |(us, at)| (Some(us), Self::age_ms(Some(at))))
    }

    /// All peers.
    pub(super) fn peer_views(&self) -> Vec<Peer> {
        let peers = self.agent.peers().filter_map(|peer| {
            let (path, since_ms) = self.path(&peer);
            let (rtt_us, rtt_ms_ago) = self.rtt(&peer);
            let routes = self.agent.routes().filter(|(slot, _)| *slot == peer.slot);
            Some(Peer {
                id: peer.device.to_string(),
                name: peer.name.to_string(),
                addresses: peer.addresses?,
                routes: routes.map(|(_, range)| prefix(range)).collect(),
                path,
                since_ms,
                rtt_us,
                rtt_ms_ago,
                rx_bytes: peer.counters.received_bytes,
                tx_bytes: peer.counters.sent_bytes,
                data_ms: Self::age_ms(peer.received_at),
                handshake_ms: Self::age_ms(peer.tunnel.established_at),
                psk_mark: self.agent.psk_mark(peer.slot).map(hexadecimal),
            })
        });
        peers.collect()
    }

    /// Of this device's identity.
    pub(super) fn fingerprint(&self) -> String {
        let identity = StaticSecret::from_bytes(self.agent.identity().identity_key.0);
        mac::fingerprint(&identity.public()).to_string()
    }

    fn device_view(&self) -> Option<Device> {
        let member = self.agent.identity().member()?;
        let settings = self.agent.settings().settings();
        let name = settings.map_or(&member.name, |settings| &settings.name);
        let standing = self.agent.coordinator(now()).standing;
        Some(Device {
            id: member.device.to_string(),
            name: name.to_string(),
            network: member.network_name.to_string(),
            fingerprint: self.fingerprint(),
            addresses: settings.and_then(|settings| addresses(settings.overlay, settings.host)),
            range: settings.map(|settings| (settings.overlay.ipv4, settings.overlay.ipv4_len)),
            standing: self::standing(standing).to_owned(),
            reason: self.told.as_ref().map(|(reason, _)| reason.clone()).unwrap_or_default(),
            since_ms: self.told.as_ref().map(|&(_, since)| since).filter(|&since| since > 0),
            other: self.other_view(),
        })
    }

    /// The other machine with this identity, its age by the coordinator's clock.
    pub(super) fn other_view(&self) -> Option<OtherMachine> {
        let status = self.agent.coordinator(now());
        let other = status.other?;
        Some(OtherMachine {
            address: other.address.map(|address| address.to_string()),
            heard_ms: status.unix_ms.map(|unix_ms| unix_ms.saturating_sub(other.heard_ms)),
        })
    }

    /// How long the line stands on which the coordinator has not proved itself.
    fn unproven_s(&self, online: bool) -> Option<u64> {
        let (_, since) = self.progress.connected.as_ref().filter(|_| !online)?;
        Some(clock::boot_micros().saturating_sub(*since) / 1_000_000)
    }

    fn key_view(&self) -> Key {
        let second = self.agent.identity().second_wireguard.as_ref();
        let state = match second.map(|second| second.kind) {
            Some(SecondKind::Next) => KeyState::Announced,
            Some(SecondKind::Previous) => KeyState::Overlapping,
            None => KeyState::Settled,
        };
        Key { state, changed_ms: Self::age_ms(self.key_changed_at) }
    }

    fn coordinator_view(&self) -> Coordinator {
        let status = self.agent.coordinator(now());
        let first = || self.home.ways().first().map_or_else(String::new, ToString::to_string);
        let address = self.progress.connected.as_ref().map(|(address, _)| address.clone());
        let held = status.held;
        Coordinator {
            host: self.home.host().to_owned(),
            address: address.unwrap_or_else(first),
            fingerprint: mac::fingerprint(&self.agent.identity().coordinator).to_string(),
            online: status.online,
            connected: self.progress.connected.is_some(),
            unproven_s: self.unproven_s(status.online),
            relay_line: status.relay_line,
            heard_ms: Self::age_ms(status.heard_at),
            cause: self.line_cause.clone(),
            map: (held.revision.0 > 0).then(|| (held.epoch.to_string(), held.revision.0)),
        }
    }

    pub(super) fn relay_views(&self) -> Vec<Relay> {
        let grant = self.agent.relay_grant();
        let until_s = |relay: &weft_wire::relay::Relay| {
            grant
                .filter(|grant| grant.logins.iter().any(|login| login.relay == relay.number))
                .and_then(RelayGrant::expiry_s)
        };
        let relays = self.agent.settings().relays().iter();
        let name = |entry: &weft_wire::relay::Relay| self.agent.relay_name(entry.number);
        let rtt_ms = |entry: &weft_wire::relay::Relay| self.agent.relay_round_trip(entry.number);
        relays.map(|entry| relay(entry, name(entry), until_s(entry), rtt_ms(entry))).collect()
    }

    /// Whom the map says one may ask about this network.
    pub(super) fn known_servers(&self) -> Known {
        let servers = self.agent.settings().stun_servers().to_vec();
        Known { servers, relays: self.relay_views(), port_mapping: self.way_in.told() }
    }

    /// Everything `weft status` shows.
    pub(super) fn status(&self) -> Status {
        let coordinator = self.agent.coordinator(now());
        let lease = coordinator.lease_remaining.map(|left| left.as_secs());
        let config = self.mesh.config();
        let drops = self.agent.drops();
        let drops = drops.iter().map(|(reason, n)| (reason.as_str(), u64::from(n)));
        let ours = [("unsent", self.buffers.unsent), ("undelivered", self.buffers.undelivered)];
        let drops = drops.chain(ours).filter(|&(_, n)| n > 0);
        let overlap = self.mesh.overlap.as_ref();
        Status {
            pid: std::process::id(),
            up_s: clock::boot_micros().saturating_sub(self.started_us) / 1_000_000,
            device: self.device_view(),
            interface: config.map(|_| self.mesh.name().to_owned()),
            mtu: config.map(|config| config.mtu),
            port: self.udp.port,
            coordinator: self.coordinator_view(),
            lease_s: lease.or_else(|| self.lease_ended.then_some(0)),
            time_told: coordinator.unix_ms.is_some(),
            peers: self.peer_views(),
            refused_peers: self.agent.refused_peers(),
            drops: drops.map(|(reason, n)| (reason.to_owned(), n)).collect(),
            overlap: overlap.map(|o| (o.interface.clone(), o.network.to_string())),
            key: self.key_view(),
            relays: self.relay_views(),
            data: self.data_view(),
        }
    }

    fn data_view(&self) -> Data {
        let usage = self.agent.usage(now());
        let [control, keepalive, probe, relay_overhead, payload] = usage.bytes;
        Data {
            day: usage.day,
            control,
            keepalive,
            probe,
            relay_overhead,
            payload,
            budget: usage.budget,
            metered: usage.is_metered,
            used_up: usage.is_used_up,
        }
    }
}
