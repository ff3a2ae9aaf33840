//! What one part says goes to the part that it concerns.

use core::iter;

use weft_noise::key::StaticSecret;
use weft_noise::probe::hint;
use weft_wire::id::DeviceId;
use weft_wire::item::{Item as _, ItemError, Items};
use weft_wire::map::{Overlay, PeerUpsert, Prefix, SecondKey, SecondKind, Servers};
use weft_wire::probe::Line;
use weft_wire::signal::CallFailed;
use weft_wire::verdict::CallFailure;

use super::Agent;
use super::cache::{CacheEndpoint, CacheLine, CacheUsage};
use super::status::add;
use super::trace::{Entry, Trace};
use crate::control::{ControlEvent, Held, Identity, MapDropped, Signal};
use crate::datapath::RoutesFull;
use crate::entropy::Entropy;
use crate::event::PeerSlot;
use crate::filter::Masks;
use crate::path::{PathEvent, PathSignal, PeerKind, RelaySuspicion, Wish};
use crate::peers::{PeerState, Upserted};
use crate::stun::StunEvent;
use crate::time::{Duration, Instant};
use crate::tunnel::{Event, Install, KeyRole, PeerKeys, SecondPeerKey};

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
    /// Takes back what [`Agent::write_cache`] wrote, all of it or piece by
    /// piece, before the first input.
    ///
    /// # Errors
    ///
    /// [`ItemError`] when the bytes are no cache; what came before counts.
    pub fn restore(&mut self, cache: &[u8], now: Instant) -> Result<(), ItemError> {
        self.now = now;
        for item in Items::new(cache) {
            let raw = item?;
            self.recorder.put_restored(&raw, now);
            if raw.tag == CacheEndpoint::TAG {
                let CacheEndpoint { device, address } = raw.decode()?;
                if let Some(slot) = self.peers.slot_of(device) {
                    self.paths.set_cached(slot, address, now);
                }
            } else if raw.tag == CacheUsage::TAG {
                let CacheUsage { day, bytes } = raw.decode()?;
                self.meter.restore(day, bytes);
            } else if raw.tag == CacheLine::TAG {
                let CacheLine { device, line } = raw.decode()?;
                if let Some(slot) = self.peers.slot_of(device) {
                    self.paths.set_line(slot, Line::from_bytes(line));
                }
            } else if let Some(event) = self.control.restore(&raw, now)? {
                self.handle_control(event);
            }
        }
        self.pump();
        Ok(())
    }

    /// Carries everything on until every part is silent.
    pub(super) fn pump(&mut self) {
        let now = self.now;
        self.judge_budget();
        loop {
            if let Some(event) = self.control.poll_event() {
                self.handle_control(event);
            } else if let Some(install) = self.tunnel.poll_install() {
                self.handle_install(install);
            } else if let Some(event) = self.tunnel.poll_event() {
                self.handle_tunnel(event);
            } else if let Some((slot, activity)) = self.datapath.poll_activity() {
                self.tunnel.handle_activity(slot, &activity, now);
                if activity.edges.active {
                    self.paths.handle_active(slot, now);
                }
            } else if let Some(slot) = self.tunnel.poll_query() {
                let activity = self.datapath.take_activity(slot);
                self.tunnel.handle_activity(slot, &activity, now);
            } else if let Some(slot) = self.peers.poll_query(now) {
                let used_at = self.used_at(slot);
                self.peers.handle_used(slot, used_at, now);
            } else if let Some(event) = self.stun.poll_event() {
                self.handle_stun(event);
            } else if let Some(event) = self.relay.poll_event() {
                self.handle_relay(event);
            } else if let Some(event) = self.paths.poll_event(now) {
                self.handle_path(event);
            } else if self.control.takes_signal()
                && let Some(signal) = self.paths.poll_signal(now)
            {
                self.control.handle_signal(match signal {
                    PathSignal::Call(call) => Signal::Call(call),
                    PathSignal::CallAck(ack) => Signal::CallAck(ack),
                });
            } else if let Some(floor) = self.tunnel.poll_persist() {
                self.outbox.stamp = Some(floor);
            } else {
                return;
            }
        }
    }

    fn handle_control(&mut self, event: ControlEvent) {
        let now = self.now;
        match event {
            ControlEvent::Online(unix_ms) => self.handle_online(unix_ms),
            ControlEvent::Offline => {
                self.paths.set_online(false, &mut self.recorder, now);
                self.recorder.put(now, &Entry::Online(false));
                self.outbox.online = Some(false);
            }
            ControlEvent::IdentityChanged => {
                if let Some(member) = self.control.identity().member() {
                    self.paths.set_own(member.device);
                }
                self.outbox.identity = true;
            }
            ControlEvent::CacheChanged => {
                (self.outbox.cache, self.outbox.is_cache_urgent) = (true, true);
            }
            ControlEvent::CacheAged => self.outbox.cache = true,
            ControlEvent::Registered(answer) => self.outbox.enrolled = Some(answer.into()),
            ControlEvent::Refused(refused) => self.outbox.refused = Some(refused),
            ControlEvent::Standing(state) => self.outbox.standing = Some(state),
            ControlEvent::Forgotten => self.doubt_sessions(),
            ControlEvent::Duplicate(other) => {
                self.outbox.duplicate = Some(other);
                self.doubt_sessions();
            }
            ControlEvent::Stamps(ahead_s) => {
                self.tunnel.advance_stamps(Duration::from_secs(u64::from(ahead_s)), now);
            }
            ControlEvent::SnapshotBegin => {
                self.peers.begin_snapshot();
                self.names.clear();
            }
            ControlEvent::SnapshotEnd => {
                while let Some(slot) = self.peers.poll_unnamed() {
                    self.drop_peer(slot);
                }
            }
            ControlEvent::Upsert(peer) => self.upsert(peer),
            ControlEvent::Remove(device) => self.remove(device),
            ControlEvent::PeerKey(device, second) => {
                if let Some(slot) = self.peers.set_second(device, second) {
                    self.apply_peer(slot);
                }
            }
            ControlEvent::Rules(rules) => self.datapath.set_rules(&rules.rules),
            ControlEvent::OwnKeys => self.apply_own_keys(),
            ControlEvent::Servers(servers) => self.set_servers(&servers),
            ControlEvent::Relays(relays) => self.set_relays(&relays.relays),
            ControlEvent::RelayNames(names) => self.names.set(&names),
            ControlEvent::RelayLogins => self.apply_relay_logins(),
            ControlEvent::DataBudget(bytes) => self.meter.set_told_budget(bytes),
            // Both sides begin when they hear of each other; over a way of their own
            // it is a probe.
            ControlEvent::Go(_) => {}
            ControlEvent::Committed(Held { epoch, revision }) => {
                self.recorder.put(now, &Entry::Map(epoch, revision));
            }
            ControlEvent::Settings(settings) => {
                self.datapath.set_mtu(settings.mtu);
                self.paths.set_overlay(settings.overlay);
                self.apply_all_routes();
                self.outbox.interface = true;
            }
            ControlEvent::MapDropped(why) => self.drop_map(why),
            ControlEvent::Call(call) => self.paths.handle_call(&call, &mut self.recorder, now),
            ControlEvent::CallAck(ack) => {
                self.paths.handle_call_ack(&ack, &mut self.recorder, now);
            }
            ControlEvent::CallFailed(CallFailed { call, peer, code }) => {
                self.paths.handle_call_failed(call, peer, CallFailure::from_code(code), now);
            }
            ControlEvent::ReportDue => {
                let report = self.report();
                self.control.handle_report(report, &mut self.recorder, now);
            }
            ControlEvent::PathsDue => self.control.begin_path_report(&mut self.recorder, now),
            ControlEvent::PathsTold => self.handle_paths_told(),
            ControlEvent::Restart => self.outbox.restart = true,
            ControlEvent::Netcheck => self.outbox.netcheck = true,
            ControlEvent::Left => self.outbox.left = true,
        }
    }

    fn handle_online(&mut self, unix_ms: Option<u64>) {
        let now = self.now;
        if let Some(unix_ms) = unix_ms {
            self.tunnel.set_time(unix_ms, now);
            self.meter.set_clock(unix_ms, now);
        }
        self.paths.handle_online(self.control.rtt_ms(), now);
        self.paths.set_online(true, &mut self.recorder, now);
        self.recorder.put(now, &Entry::Online(true));
        self.outbox.online = Some(true);
    }

    /// The lease is over, or the device is no member any more.
    fn drop_map(&mut self, why: MapDropped) {
        while let Some(slot) = self.peers.poll_any() {
            self.drop_peer(slot);
        }
        self.datapath.clear_rules();
        self.set_relays(&[]);
        self.recorder.put(self.now, &Entry::MapDropped);
        self.outbox.dropped = Some(why);
    }

    fn handle_install(&mut self, install: Install) {
        let now = self.now;
        match install {
            Install::Session { slot, keys, sealing, opening, send } => {
                let (ours, theirs) = (keys.local_index(), keys.remote_index());
                self.recorder.put(now, &Entry::Session(slot.0, ours, theirs, send));
                self.datapath.install(slot, keys, sealing, opening, send);
            }
            Install::Send { slot, index } => {
                self.recorder.put(now, &Entry::Sealing(slot.0, index));
                self.datapath.seal_with(slot, index);
            }
            Install::Drop { slot, index } => {
                self.recorder.put(now, &Entry::SessionEnd(slot.0, index));
                self.datapath.drop_session(slot, index);
            }
            Install::Mute { slot } => self.datapath.mute(slot),
            // The slot's routes and rules may be a new peer's by now.
            Install::DropPeer { slot } => self.datapath.drop_sessions(slot),
        }
    }

    fn handle_tunnel(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Established { slot, source, initiator } => {
                self.handshakes = self.handshakes.saturating_add(1);
                self.peers.handle_established(slot, now);
                self.paths.handle_authenticated(slot, source, now);
                let staged = self.staging.release(slot);
                if initiator && !staged {
                    self.set_keepalive(slot, true);
                }
            }
            Event::EndpointConfirmed { slot, source } => {
                self.paths.handle_authenticated(slot, source, now);
                // A session that was given up with its way opens, and seals nothing: what
                // waits needs another one, and nobody is called for it any more.
                if self.peers.state(slot) == Some(PeerState::Calling) {
                    self.handle_path(PathEvent::Ready { slot, renew: false });
                }
            }
            Event::Keepalive { slot } => self.set_keepalive(slot, true),
            Event::Failed { slot } => {
                self.handshake_failures = self.handshake_failures.saturating_add(1);
                self.peers.handle_failed(slot);
                self.paths.handle_failed(slot, now);
                self.staging.discard(slot);
            }
            Event::Expired { slot } => self.peers.handle_expired(slot),
        }
    }

    fn handle_path(&mut self, event: PathEvent) {
        match event {
            PathEvent::Ready { slot, renew } => {
                // An attempt under way goes on and no longer: what two tell each
                // other about ways is no packet that wants the peer.
                let under_way = self.tunnel.status(slot).is_some_and(|one| one.handshaking);
                if !under_way && (renew || !self.datapath.has_session(slot, self.now)) {
                    self.tunnel.handle_wanted(slot, self.now);
                }
                self.tunnel.handle_path(slot, self.now);
            }
            PathEvent::Selected { slot, selected } => {
                let source = selected.route.source();
                let why = selected.why as u8;
                let entry = Entry::Route(slot.0, source.socket.0, source.address, why);
                self.recorder.put(self.now, &entry);
                self.datapath.set_endpoint(slot, Some(source));
            }
            PathEvent::Idle { slot } => {
                self.datapath.set_endpoint(slot, None);
                // The next packet is to look for a way, session or not.
                self.datapath.mute(slot);
            }
            PathEvent::Greet { slot } => self.set_keepalive(slot, true),
            PathEvent::Relay => self.apply_relayed(),
            PathEvent::Elsewhere => self.control.handle_moved(self.now),
            PathEvent::RelaySuspected(RelaySuspicion::Silent(None)) => self.relay.abandon(self.now),
            PathEvent::RelaySuspected(RelaySuspicion::Silent(Some(relay))) => {
                self.relay.shun(relay, self.now);
            }
            PathEvent::RelaySuspected(RelaySuspicion::Unanswered) => {
                self.relay.handle_silence(self.now);
            }
            PathEvent::RelaySuspected(RelaySuspicion::Doubted) => self.relay.suspect(self.now),
            PathEvent::Failed { slot, .. } => {
                self.peers.handle_failed(slot);
                self.staging.discard(slot);
            }
            PathEvent::Changed => self.control.handle_paths_changed(self.now),
            PathEvent::CacheChanged => self.outbox.cache = true,
            PathEvent::Listen { slot } => {
                let heard = self.datapath.activity(slot);
                self.paths.handle_heard(slot, &heard, &mut self.recorder, self.now);
            }
            PathEvent::Gather => self.gather(),
        }
    }

    fn set_servers(&mut self, servers: &Servers) {
        self.stun.set_servers(&servers.stun);
        self.paths.handle_servers_change();
        self.get_to_know();
    }

    /// How the NAT here chooses ports is told in the first call already.
    pub(super) fn get_to_know(&mut self) {
        if self.stun.has_servers() && !self.meter.is_used_up() {
            self.gather();
        }
    }

    fn gather(&mut self) {
        let sockets = self.paths.sockets();
        self.stun.refresh(sockets, &mut self.recorder, self.now);
    }

    fn handle_stun(&mut self, event: StunEvent) {
        let now = self.now;
        match event {
            StunEvent::Reflexive(_) => {
                self.paths.handle_reflexive(self.stun.reflexive(), &mut self.recorder, now);
            }
            StunEvent::Done => {
                let report = self.stun.report(now);
                let seen = self.stun.reflexive();
                self.paths.handle_gathered(seen, report, &mut self.recorder, now);
                self.note_network();
            }
        }
    }

    fn upsert(&mut self, peer: PeerUpsert) {
        let datapath = &self.datapath;
        let used_at = |slot| last_used(&datapath.activity(slot));
        match self.peers.upsert(peer, used_at, self.now) {
            Ok(upserted) => self.take_in(upserted),
            Err(_) => self.refused_peers = self.refused_peers.saturating_add(1),
        }
    }

    /// Whoever met a table that was full for a moment has a place now.
    pub(super) fn seat_waiting(&mut self) {
        let datapath = &self.datapath;
        let used_at = |slot| last_used(&datapath.activity(slot));
        if let Some(upserted) = self.peers.poll_waiting(used_at, self.now) {
            self.take_in(upserted);
        }
    }

    fn take_in(&mut self, Upserted { slot, dropped }: Upserted) {
        if let Some(dropped) = dropped {
            self.drop_peer(dropped);
        }
        self.apply_peer(slot);
        self.outbox.routes = true;
    }

    fn remove(&mut self, device: DeviceId) {
        if let Some(slot) = self.peers.remove(device) {
            self.drop_peer(slot);
            self.outbox.routes = true;
        }
    }

    /// The identity's keys are the tunnel's.
    fn apply_own_keys(&mut self) {
        let (active, second) = own_keys(self.control.identity());
        let before = *self.tunnel.public_key();
        self.tunnel.set_own_keys(active, second, self.now);
        self.paths.set_hint(hint(self.tunnel.public_key()));
        self.outbox.key_rotated |= before != *self.tunnel.public_key();
    }

    /// Tells every part what the map says of the peer in this slot.
    fn apply_peer(&mut self, slot: PeerSlot) {
        let Some(entry) = self.peers.entry(slot) else { return };
        let (now, unix_ms) = (self.now, self.control.unix_ms(self.now));
        let second = entry.second.as_ref().map(|second| second_key(second, now, unix_ms));
        let (bound, is_warm) = (!entry.is_wireguard_only(), entry.is_warm());
        let keys = PeerKeys { bound, second, ..PeerKeys::new(entry.key, entry.psk.duplicate()) };
        let masks = Masks { inbound: entry.rules_in, outbound: entry.rules_out };
        let kind = PeerKind {
            device: entry.device,
            wireguard_only: entry.is_wireguard_only(),
            endpoint: entry.endpoint,
            hints: [hint(&entry.key), entry.second.as_ref().map_or(0, |second| hint(&second.key))],
        };
        self.datapath.set_peer(slot, entry.mtu, masks);
        if self.tunnel.set_peer(slot, keys, now).is_err() {
            self.refused_peers = self.refused_peers.saturating_add(1);
            self.remove(kind.device);
            return;
        }
        self.paths.set_peer(slot, kind, &mut self.recorder, now);
        self.paths.keep_warm(slot, Wish::Network, is_warm, now);
        self.apply_routes(slot);
    }

    /// A peer's two addresses follow from the overlay; more lies behind it.
    fn apply_routes(&mut self, slot: PeerSlot) {
        let Some(entry) = self.peers.entry(slot) else {
            return;
        };
        let overlay = self.control.settings().overlay();
        let own = overlay.into_iter().flat_map(|overlay| own_prefixes(&overlay, entry.host));
        let prefixes = own.chain(self.peers.routes(slot));
        if let Err(RoutesFull) = self.datapath.set_routes(slot, prefixes) {
            self.refused_peers = self.refused_peers.saturating_add(1);
        }
    }

    fn apply_all_routes(&mut self) {
        let slots = (0..u16::try_from(PEERS).unwrap_or(u16::MAX)).map(PeerSlot);
        slots.for_each(|slot| self.apply_routes(slot));
    }

    /// Another machine made sessions with our key, or peers forgot ours: those in
    /// use are made anew.
    fn doubt_sessions(&mut self) {
        for slot in (0..u16::try_from(PEERS).unwrap_or(u16::MAX)).map(PeerSlot) {
            if matches!(self.peers.state(slot), Some(PeerState::Active | PeerState::Calling)) {
                self.tunnel.handle_doubt(slot, self.now);
            }
        }
    }

    /// Erases what every part knows of the peer that was in this slot.
    fn drop_peer(&mut self, slot: PeerSlot) {
        self.retired = add(self.retired, self.datapath.counters(slot));
        self.tunnel.remove_peer(slot);
        self.datapath.remove_peer(slot);
        self.paths.remove_peer(slot);
        self.staging.discard(slot);
        self.set_keepalive(slot, false);
        if let Some(place) = self.greeted.get_mut(slot.index()) {
            *place = false;
        }
    }

    pub(super) fn set_keepalive(&mut self, slot: PeerSlot, wanted: bool) {
        if let Some(place) = self.keepalives.get_mut(slot.index()) {
            *place = wanted;
        }
    }

    fn used_at(&self, slot: PeerSlot) -> Option<Instant> {
        last_used(&self.datapath.activity(slot))
    }
}

/// When a slot last carried data, either way.
fn last_used(activity: &crate::event::Activity) -> Option<Instant> {
    activity.data_sent_at.max(activity.data_received_at)
}

fn own_prefixes(overlay: &Overlay, host: u32) -> impl Iterator<Item = Prefix> + use<> {
    iter::once(Prefix::V4(overlay.address_v4(host), 32))
        .chain(iter::once(Prefix::V6(overlay.address_v6(host), 128)))
}

/// The WireGuard keys of an identity as the tunnel takes them.
pub(super) fn own_keys(identity: &Identity) -> (StaticSecret, Option<(StaticSecret, KeyRole)>) {
    let second = identity.second_wireguard.as_ref();
    let second = second.map(|own| (StaticSecret::from_bytes(own.key.0), role(own.kind)));
    (StaticSecret::from_bytes(identity.wireguard_key.0), second)
}

const fn role(kind: SecondKind) -> KeyRole {
    match kind {
        SecondKind::Next => KeyRole::Next,
        SecondKind::Previous => KeyRole::Previous,
    }
}

/// A second key's end in the coordinator's time becomes an instant of ours.
/// While that time is not known, the key stays until told otherwise.
fn second_key(second: &SecondKey, now: Instant, unix_ms: Option<u64>) -> SecondPeerKey {
    let left = unix_ms
        .filter(|_| second.until_ms > 0)
        .map(|unix_ms| Duration::from_millis(second.until_ms.saturating_sub(unix_ms)));
    SecondPeerKey {
        key: second.key,
        psk: second.psk.duplicate(),
        role: role(second.kind),
        until: left.map(|left| now + left),
    }
}
