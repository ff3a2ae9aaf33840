//! What the agent wants done: write, connect, set the interface, tell people.

use weft_agent_core::agent::{AgentEvent, Enrolled, Persist};
use weft_agent_core::control::{LineRequest, MapDropped};
use weft_agent_core::peers::{PeerChange, PeerState};
use weft_noise::mac;
use weft_wire::item::{Duplicate, Refused, Standing, State};
use weft_wire::topic::Topic;
use weft_wire::verdict::Refusal;

use crate::control::failure::LineFailure;
use crate::control::line::{LineEvent, Login, Password};
use crate::control::way::Way;
use crate::daemon::end::End;
use crate::daemon::overlay::{Applied, network, ranges};
use crate::daemon::{Daemon, RETRY_US, now, standing, texts, view};
use crate::failure::Failure;
use crate::ipc::protocol::{Enrolled as EnrolledView, Path, Relay};
use crate::log::{Event, Value};
use crate::net::tcp;
use crate::os::clock;
use crate::store::{cache, identity, stamp, ways};

/// Caches are written at least this far apart, in microseconds: each is two
/// `fsync` on the thread that carries the data.
const CACHE_US: u64 = 1_000_000;
/// What ways outlive is looked at this often, in microseconds.
const PAUSES_EVERY_US: u64 = 60_000_000;
/// Room for one piece of the cache, in bytes.
const PIECE: usize = 2_048;

impl Daemon {
    pub(super) fn handle_event(&mut self, event: AgentEvent) {
        match event {
            AgentEvent::Persist(what) => self.persist(what),
            AgentEvent::Enrolled(enrolled) => self.handle_enrolled(&enrolled),
            AgentEvent::Refused(refused) => self.handle_refused(&refused),
            AgentEvent::Standing(state) => self.handle_standing(&state),
            AgentEvent::Duplicate(other) => self.handle_duplicate(&other),
            AgentEvent::Interface(config) => {
                self.mesh.set_config(config);
                self.handle_network_change();
            }
            AgentEvent::Routes => {
                let behind = self.agent.routes().map(|(_, prefix)| network(prefix)).collect();
                self.mesh.set_behind(behind);
                self.handle_network_change();
                self.keep_warm();
            }
            AgentEvent::Online(online) => self.handle_online(online),
            AgentEvent::MapDropped(why) => self.handle_map_dropped(why),
            AgentEvent::Peer(change) => self.handle_peer(change),
            AgentEvent::KeyRotated => {
                self.key_changed_at = Some(now());
                self.log.write(Event::KeyRotated, &[]);
            }
            AgentEvent::Budget(is_used_up) => self.handle_budget(is_used_up),
            AgentEvent::Netcheck => self.begin_look(),
            AgentEvent::Restart => {
                self.log.write(Event::RestartAsked, &[]);
                self.end = Some(End::Restart);
            }
            AgentEvent::Left => self.handle_left(),
        }
    }

    /// Names the peers to which the operator wants a way kept open.
    fn keep_warm(&mut self) {
        if self.keep_warm.is_empty() {
            return;
        }
        let named = |name: &str| self.keep_warm.iter().any(|wanted| wanted == name);
        let peers: Vec<_> =
            self.agent.peers().map(|peer| (peer.device, named(peer.name.as_str()))).collect();
        for (device, is_wanted) in peers {
            self.agent.keep_warm(device, is_wanted, now());
        }
    }

    /// Writes what the agent wants to be durable, and tells it.
    fn persist(&mut self, what: Persist) {
        if let Persist::Cache(held, _) = what {
            self.handle_committed(held.revision.0);
            let next = self.cache_at.map_or(0, |at| at + CACHE_US);
            if next > clock::boot_micros() {
                return self.put_off(what, next);
            }
            self.cache_at = Some(clock::boot_micros());
        }
        let written = match what {
            Persist::Identity => {
                identity::write(&mut self.folder, self.agent.identity(), &self.home)
            }
            Persist::Stamp(floor) => stamp::write(&mut self.folder, floor, self.starts),
            Persist::Cache(..) => self.write_cache(),
        };
        let file = match what {
            Persist::Identity => identity::KIND.name,
            Persist::Stamp(_) => stamp::NAME,
            Persist::Cache(..) => cache::KIND.name,
        };
        let had_failed = self.failing.contains(&file);
        self.failing.retain(|other| *other != file);
        match written {
            Ok(()) => {
                if had_failed {
                    self.log.write(Event::StateWritten, &[("file", file.into())]);
                }
                self.agent.handle_persisted(what, now());
            }
            Err(error) => {
                self.failing.push(file);
                let fields = [("file", file.into()), ("cause", error.to_string().into())];
                self.log.write(Event::StateFailed, &fields);
                self.put_off(what, clock::boot_micros() + RETRY_US);
            }
        }
    }

    /// Writes later; of two caches only the newer.
    fn put_off(&mut self, what: Persist, at: u64) {
        let kind = core::mem::discriminant::<Persist>;
        self.unwritten.retain(|other| kind(other) != kind(&what));
        self.unwritten.push(what);
        self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn retry_writes(&mut self) {
        self.retry_at = None;
        for what in core::mem::take(&mut self.unwritten) {
            self.persist(what);
        }
    }

    fn write_cache(&mut self) -> std::io::Result<()> {
        let too_long = |_| std::io::Error::from(std::io::ErrorKind::InvalidData);
        let mut scratch = zeroize::Zeroizing::new([0; PIECE]);
        let mut len = 0;
        self.agent.write_cache(&mut *scratch, |piece| len += piece.len()).map_err(too_long)?;
        // Room for all of it at once: a vector that grows leaves PSKs behind.
        let mut items = zeroize::Zeroizing::new(Vec::with_capacity(len));
        let written = self.agent.write_cache(&mut *scratch, |piece| items.extend_from_slice(piece));
        written.map_err(too_long)?;
        cache::write(&mut self.folder, &items)
    }

    /// At an orderly end: the newest endpoints and what is used up of the lease.
    pub(super) fn write_cache_now(&mut self) {
        if self.agent.identity().member().is_some()
            && let Err(error) = self.write_cache()
        {
            let fields = [("file", "cache".into()), ("cause", error.to_string().into())];
            self.log.write(Event::StateFailed, &fields);
        }
    }

    fn handle_committed(&mut self, revision: u64) {
        if revision == 0 {
            return;
        }
        self.lease_ended = false;
        if core::mem::replace(&mut self.committed, revision) == revision {
            return;
        }
        let relays = self.relay_views();
        if !relays.is_empty() {
            self.relays_before = relays.iter().map(Relay::title).collect();
        }
        let peers = self.agent.peers().count() as u64;
        let fields = [("revision", revision.into()), ("peers", peers.into())];
        self.log.write(Event::MapCommitted, &fields);
        self.progress.map_at.get_or_insert_with(clock::boot_micros);
        self.progress_changed = true;
    }

    fn handle_enrolled(&mut self, enrolled: &Enrolled) {
        let name = enrolled.name.as_str();
        let fields = [("device", enrolled.device.to_string().into()), ("name", name.into())];
        self.log.write(Event::Registered, &fields);
        let fingerprint = self.fingerprint();
        self.progress.standing = Some(view::standing(enrolled.standing).to_owned());
        self.progress.enrolled = Some((
            EnrolledView {
                device: view::enrolled_device(enrolled, fingerprint),
                wanted_name: self.home.wanted_name.clone(),
                key: self.home.key.clone(),
                uses: enrolled.key_uses,
                max_uses: enrolled.key_max_uses,
                key_name: enrolled.key_name.to_string(),
            },
            clock::boot_micros(),
        ));
        self.progress_changed = true;
    }

    fn handle_refused(&mut self, refused: &Refused) {
        let failure = texts::refused(refused, self.home.host());
        self.log.write(Event::Refused, &[("code", failure.code().into())]);
        if Refusal::from_code(refused.code) == Some(Refusal::Unavailable) {
            self.count_line_failure(failure);
        } else {
            self.progress.failed = Some(failure);
        }
        self.progress_changed = true;
    }

    /// Another try that came to nothing, for those who wait.
    fn count_line_failure(&mut self, failure: Failure) {
        let tries = self.progress.line.as_ref().map_or(0, |(tries, _)| *tries);
        self.progress.line = Some((tries + 1, failure));
    }

    fn handle_standing(&mut self, state: &State) {
        let standing = view::standing(state.standing);
        let fields = [("standing", standing.into()), ("reason", state.reason.as_str().into())];
        self.log.write(Event::Standing, &fields);
        self.progress.standing = Some(standing.to_owned());
        let is_member = state.standing == Standing::Active;
        self.told = (!is_member).then(|| (state.reason.as_str().to_owned(), state.since_ms));
        let name = self.agent.identity().member().map(|member| member.name.clone());
        let name = name.unwrap_or_default();
        self.progress.failed = standing::failure(state, &name, self.other_view().as_ref());
        self.progress_changed = true;
    }

    fn handle_duplicate(&mut self, other: &Duplicate) {
        let address = other.address.map(|address| address.to_string()).unwrap_or_default();
        let moved = if self.agent.coordinator(now()).standing == Standing::Active {
            "this one is kept"
        } else {
            "the other one is kept"
        };
        let fields = [("address", address.into()), ("decision", moved.into())];
        self.log.write(Event::Duplicate, &fields);
    }

    fn handle_online(&mut self, online: bool) {
        if !online {
            return;
        }
        let rtt = u64::from(self.agent.coordinator(now()).rtt_ms);
        let fields = [("host", self.home.host().into()), ("rtt_ms", rtt.into())];
        self.log.write(Event::Online, &fields);
        let pinned = self.agent.identity().coordinator;
        let before = core::mem::replace(&mut self.pinned, pinned);
        if before != pinned {
            let print = |key| mac::fingerprint(key).to_string().into();
            let fields = [("before", print(&before)), ("after", print(&pinned))];
            self.log.write(Event::CoordinatorKey, &fields);
        }
        self.line_cause = None;
        // Only now: a broker that lets us in and cuts the line is no success.
        self.progress.line = None;
        self.progress.online_at.get_or_insert_with(clock::boot_micros);
        self.progress_changed = true;
    }

    fn handle_map_dropped(&mut self, why: MapDropped) {
        let reason = match why {
            MapDropped::LeaseExpired => "lease",
            MapDropped::Standing(standing) => view::standing(standing),
        };
        self.lease_ended = why == MapDropped::LeaseExpired;
        self.log.write(Event::MapDropped, &[("reason", reason.into())]);
    }

    fn handle_peer(&mut self, change: PeerChange) {
        self.progress_changed = true;
        let event = match (change.from, change.to) {
            (from, PeerState::Active) if from != PeerState::Active => Event::PeerUp,
            (PeerState::Active, _) => Event::PeerDown,
            _ => return,
        };
        let Some(peer) = self.agent.peer(change.slot) else {
            return;
        };
        let mut fields: Vec<(&str, Value)> = vec![("peer", peer.name.as_str().into())];
        let way = match self.path(&peer).0 {
            Path::Direct { remote } => Some(("direct", remote)),
            Path::Relay { remote, .. } => Some(("relay", remote)),
            Path::Idle | Path::Connecting | Path::Nowhere => None,
        };
        if event == Event::PeerUp
            && let Some((path, remote)) = way
        {
            fields.push(("path", path.into()));
            if self.log.shows_addresses() {
                fields.push(("remote", remote.into()));
            }
        }
        fields.push(("device", change.device.to_string().into()));
        self.log.write(event, &fields);
    }

    fn handle_budget(&mut self, is_used_up: bool) {
        let usage = self.agent.usage(now());
        let fields =
            [("bytes", usage.used.into()), ("budget", usage.budget.unwrap_or_default().into())];
        let event = if is_used_up { Event::BudgetUsedUp } else { Event::BudgetRenewed };
        self.log.write(event, &fields);
    }

    fn handle_left(&mut self) {
        self.log.write(Event::Left, &[]);
        if let Some((_, client)) = self.leaving.take() {
            self.ender = Some(client);
        }
        self.end = Some(End::Erase);
    }

    /// Looks at the host's network: own addresses, overlaps, what is missing.
    pub(super) fn handle_network_change(&mut self) {
        self.mesh_retry_at = None;
        let view = match self.mesh.view() {
            Ok(view) => view,
            Err(error) => {
                self.mesh_retry_at = Some(clock::boot_micros() + RETRY_US);
                let fields = [("cause", error.to_string().into())];
                return self.log.write(Event::InterfaceFailed, &fields);
            }
        };
        if self.line.local_address().is_some_and(|own| !tcp::is_local(own)) {
            self.line.give_up("the address it came from is gone");
        }
        let network = view.fingerprint(self.mesh.name());
        self.line.handle_network(network);
        self.look_for_translator(&view);
        self.tell_addresses(&view);
        if self.networks.set_network(network) {
            self.recall(network);
        }
        let applied = self.mesh.apply(&view);
        self.report_applied(applied);
    }

    /// Tells the agent what it learned on this network before.
    fn recall(&mut self, network: u64) {
        let now_s = clock::unix_millis() / 1_000;
        if let Some(rung) = self.networks.rung(now_s) {
            self.agent.prefer_relay(rung, now());
        }
        self.pauses.set_network(network);
        if let Some(pauses) = self.pauses.here(now_s) {
            self.agent.prefer_pauses(pauses, now());
        }
    }

    fn report_applied(&mut self, applied: Applied) {
        if let Some((what, error)) = applied.failed.first()
            && self.mesh.config().is_none()
        {
            let failure = texts::interface(self.mesh.name(), what, error);
            // No announcement of the kernel's may follow.
            self.mesh_retry_at = Some(clock::boot_micros() + RETRY_US);
            self.progress.failed = Some(failure);
            self.progress_changed = true;
        }
        for (what, error) in applied.failed {
            let fields = [("what", what.into()), ("cause", error.to_string().into())];
            self.log.write(Event::InterfaceFailed, &fields);
        }
        for range in applied.clashes {
            self.log.write(Event::RouteClash, &[("range", range.to_string().into())]);
        }
        if applied.new_overlap {
            self.report_overlap();
        }
        if applied.came_up
            && let Some(config) = self.mesh.config()
        {
            let (v4, v6) =
                (config.overlay.address_v4(config.host), config.overlay.address_v6(config.host));
            let (name, mtu) = (self.mesh.name().to_owned(), config.mtu);
            let fields = [
                ("interface", name.as_str().into()),
                ("ipv4", v4.to_string().into()),
                ("ipv6", v6.to_string().into()),
                ("mtu", u64::from(mtu).into()),
            ];
            self.log.write(Event::InterfaceUp, &fields);
            self.progress.interface = Some((name, v4, v6, mtu, clock::boot_micros()));
            if self.progress.failed.as_ref().is_some_and(view::is_passing) {
                self.progress.failed = None;
            }
            self.progress_changed = true;
        }
    }

    fn report_overlap(&mut self) {
        let (Some(overlap), Some(wanted)) = (&self.mesh.overlap, self.mesh.wanted()) else {
            return;
        };
        let fields = [
            ("interface", overlap.interface.as_str().into()),
            ("range", overlap.network.to_string().into()),
        ];
        self.log.write(Event::RangeOverlap, &fields);
        let mut ranges = ranges(wanted).into_iter();
        let range = ranges.find(|range| range.overlaps(&overlap.network));
        if let Some(range) = range.filter(|_| self.mesh.config().is_none()) {
            let member = self.agent.identity().member();
            let network = member.map_or("", |member| member.network_name.as_str());
            let failure = texts::overlap(network, range, overlap, self.joining);
            self.progress.failed = Some(failure);
            self.progress_changed = true;
        }
    }

    /// Opens or closes the line.
    pub(super) fn handle_line_request(&mut self, request: LineRequest) {
        match request {
            LineRequest::Connect(credentials) => {
                let (user, password) = match self.home.account() {
                    Some((user, password)) => (user.to_owned(), Password::new(password)),
                    None => (
                        credentials.user.as_str().to_owned(),
                        Password::new(credentials.password.as_str()),
                    ),
                };
                self.line.open(Login {
                    client: credentials.inbox.text(),
                    user,
                    password,
                    inbox: Topic::Down(credentials.inbox).text(),
                });
            }
            LineRequest::Disconnect => self.line.close(),
        }
    }

    /// Lets the line go on, and takes what came of it.
    pub(super) fn drive_line(&mut self) {
        self.line.poll();
        while let Some(event) = self.line.next_event() {
            match event {
                LineEvent::Connected(way) => self.handle_line_connected(&way),
                LineEvent::Moved(way) => {
                    self.tell_line(&way);
                }
                LineEvent::Frame(frame) => {
                    if let Err(reason) = self.agent.handle_frame(&frame, now()) {
                        let reason = format!("{reason:?}").to_ascii_lowercase();
                        self.log.write(Event::FrameDropped, &[("reason", reason.into())]);
                    }
                }
                LineEvent::Closed => {
                    self.progress.connected = None;
                    self.agent.handle_disconnected(now());
                }
                LineEvent::Failed(failure) => self.handle_line_failed(&failure),
            }
            self.drain();
        }
        let bytes = self.line.take_traffic();
        if bytes > 0 {
            self.agent.handle_line_traffic(bytes, now());
        }
    }

    fn handle_line_connected(&mut self, way: &Way) {
        let at = self.tell_line(way);
        self.progress.asked_at.get_or_insert(at);
        self.agent.handle_connected(now());
    }

    /// Tells people by which way the coordinator is reached, and when it was.
    fn tell_line(&mut self, way: &Way) -> u64 {
        let address = way.to_string();
        let mut fields = vec![("address", address.as_str().into())];
        let keepalive = self.line.learned_keepalive();
        fields.extend(keepalive.map(|seconds| ("keepalive_s", u64::from(seconds).into())));
        self.log.write(Event::LineConnected, &fields);
        let at = clock::boot_micros();
        self.progress.connected = Some((address, at));
        self.progress_changed = true;
        if self.line.has_news() {
            self.write_ways();
        }
        at
    }

    fn write_ways(&mut self) {
        let lines = self.line.stood().iter().cloned().chain(self.networks.lines());
        let lines: Vec<_> = lines.chain(self.pauses.lines()).collect();
        if let Err(error) = ways::write(&mut self.folder, &lines) {
            // The next restart tries them all again; nothing else is lost.
            let fields = [("file", ways::KIND.name.into()), ("cause", error.to_string().into())];
            self.log.write(Event::StateFailed, &fields);
        }
    }

    /// A relay that answers is written down, to be asked first after a restart.
    pub(super) fn note_relay(&mut self) {
        let Some(rung) = self.agent.rung() else { return };
        if self.networks.handle_answer(rung, clock::unix_millis() / 1_000) {
            self.write_ways();
        }
    }

    /// What ways that are kept open outlive here is written down, now and then.
    pub(super) fn note_pauses(&mut self, now_us: u64) {
        if now_us < self.pauses_at {
            return;
        }
        self.pauses_at = now_us + PAUSES_EVERY_US;
        if let Some(pauses) = self.agent.pauses(now())
            && self.pauses.handle_learned(pauses, clock::unix_millis() / 1_000)
        {
            self.write_ways();
        }
    }

    fn handle_line_failed(&mut self, failure: &LineFailure) {
        let cause = failure.words();
        let fields = [("host", self.home.host().into()), ("cause", cause.as_str().into())];
        self.log.write(Event::LineLost, &fields);
        self.line_cause = Some(cause);
        let fingerprint = mac::fingerprint(&self.agent.identity().coordinator);
        self.count_line_failure(texts::line(failure, &fingerprint.to_string()));
        self.progress.connected = None;
        self.progress_changed = true;
        self.agent.handle_disconnected(now());
    }
}
