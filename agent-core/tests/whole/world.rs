//! Agents, a coordinator and the network between them, on virtual time.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::agent::{Agent, AgentConfig, AgentEvent, Input, Output, Persist, Transmit};
use weft_agent_core::buffer::{PacketBuf, capacity_for};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::control::{FrameDrop, Identity, LineRequest};
use weft_agent_core::event::{SocketId, Source};
use weft_agent_core::path::Sockets;
use weft_agent_core::peers::PeerState;
use weft_agent_core::time::{Duration, Instant};
use weft_wire::frame::MAX_FRAME;
use weft_wire::id::{DeviceId, Inbox, Name};
use weft_wire::item::{Abilities, Backend};
use weft_wire::signal::{Candidate, CandidateKind};
use weft_wire::topic::Topic;

use super::coordinator::Coordinator;
use super::{Rng, packet};

/// The agent of these tests: a gateway in small.
pub type TestAgent = Agent<Rng, NoTrace, 32, 64, 64, 8, 8, MAX_FRAME>;

/// How a link treats what it carries.
#[derive(Clone, Copy)]
pub struct Link {
    pub latency: Duration,
    /// Up to this much more, at random: what is sent later may come earlier.
    pub jitter: Duration,
    pub loss_percent: u64,
    pub duplicate_percent: u64,
}

impl Link {
    pub const fn clean(latency_ms: u64) -> Self {
        Self {
            latency: Duration::from_millis(latency_ms),
            jitter: Duration::ZERO,
            loss_percent: 0,
            duplicate_percent: 0,
        }
    }
}

enum Thing {
    LineUp { node: usize, inbox: Inbox },
    LineDown { node: usize },
    Up { inbox: Inbox, frame: Vec<u8> },
    Down { inbox: Inbox, frame: Vec<u8> },
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
}

/// What a device's storage holds.
#[derive(Default)]
pub struct Storage {
    pub identity: Vec<u8>,
    pub stamp: Option<u64>,
    pub cache: Vec<u8>,
    pub boots: u32,
    pub cache_writes: u32,
}

/// One device: an agent and the little that a shell does.
pub struct Node {
    pub agent: Option<Box<TestAgent>>,
    pub address: SocketAddr,
    pub storage: Storage,
    pub inbox: Option<Inbox>,
    pub events: Vec<(Instant, AgentEvent)>,
    /// Packets that came out of the tunnel.
    pub received: Vec<(Instant, Vec<u8>)>,
    /// Datagrams sent, by first byte.
    pub sent: BTreeMap<u8, u32>,
    name: &'static str,
    seed: u64,
}

pub struct World {
    pub now: Instant,
    pub coordinator: Coordinator,
    pub nodes: Vec<Node>,
    pub line: Link,
    pub udp: Link,
    /// The coordinator's port is not reachable.
    pub coordinator_down: bool,
    /// (from, to): nothing passes.
    pub blocked: HashSet<(usize, usize)>,
    /// Nodes behind a stateful firewall.
    pub firewalled: HashSet<usize>,
    opened: HashSet<(usize, SocketAddr)>,
    queue: BTreeMap<(Instant, u64), Thing>,
    sequence: u64,
    spins: (Instant, u32),
    rng: Rng,
    /// Frames delivered to devices, with their node.
    pub tapped: Vec<(usize, Vec<u8>)>,
    /// Frames that devices refused.
    pub frame_drops: Vec<FrameDrop>,
    /// What happened, for comparison and for people.
    pub log: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::from_secs(1_000),
            coordinator: Coordinator::new(seed),
            nodes: vec![],
            line: Link::clean(10),
            udp: Link::clean(10),
            coordinator_down: false,
            blocked: HashSet::new(),
            firewalled: HashSet::new(),
            opened: HashSet::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            spins: (Instant::ZERO, 0),
            rng: Rng(seed ^ 0xABCD),
            tapped: vec![],
            frame_drops: vec![],
            log: vec![],
        }
    }

    /// A new device with its own address; it joins at once.
    pub fn add(&mut self, name: &'static str) -> usize {
        let node = self.nodes.len();
        let seed = self.rng.next();
        let address = SocketAddr::from(([10, 0, 0, 1 + node as u8], 51_871));
        self.nodes.push(Node {
            agent: None,
            address,
            storage: Storage::default(),
            inbox: None,
            events: vec![],
            received: vec![],
            sent: BTreeMap::new(),
            name,
            seed,
        });
        let identity = Identity::generate(&self.coordinator.join_string(), &mut Rng(seed ^ 1));
        self.start(node, identity, Some(0));
        node
    }

    fn start(&mut self, node: usize, identity: Identity, floor: Option<u64>) {
        let now = self.now;
        let place = &mut self.nodes[node];
        place.storage.boots += 1;
        let config = AgentConfig {
            boot_count: place.storage.boots,
            on_demand: false,
            page_window: 4,
            staged_per_peer: 4,
            fingerprint: [node as u8; 32],
            name: Name::try_from(place.name).unwrap(),
            abilities: abilities(),
            sockets: Sockets::both(SocketId(0)),
            tunnel: TunnelConfig::new(),
            stamp_floor: floor,
        };
        let entropy = Rng(place.seed.wrapping_add(u64::from(place.storage.boots) << 32));
        let mut agent = Box::new(TestAgent::new(config, identity, entropy, now).unwrap());
        let address = place.address;
        agent.set_local_addresses(&[Candidate { kind: CandidateKind::Host, address }]);
        agent.restore(&place.storage.cache, now).unwrap();
        place.agent = Some(agent);
        self.drain(node);
    }

    /// Power off; what is not in storage is lost.
    pub fn stop(&mut self, node: usize) {
        self.nodes[node].agent = None;
        self.nodes[node].inbox = None;
    }

    /// Power on with what storage holds.
    pub fn boot(&mut self, node: usize) {
        let storage = &self.nodes[node].storage;
        let identity = postcard::from_bytes(&storage.identity).unwrap();
        let floor = storage.stamp;
        self.start(node, identity, floor);
    }

    pub fn agent(&mut self, node: usize) -> &mut TestAgent {
        self.nodes[node].agent.as_mut().unwrap()
    }

    pub fn id(&self, node: usize) -> DeviceId {
        let agent = self.nodes[node].agent.as_ref().unwrap();
        agent.identity().member().unwrap().device
    }

    pub fn host(&self, node: usize) -> u32 {
        let agent = self.nodes[node].agent.as_ref().unwrap();
        agent.settings().settings().unwrap().host
    }

    /// One input to a node, then everything that follows.
    pub fn input<R>(&mut self, node: usize, input: impl FnOnce(&mut TestAgent, Instant) -> R) -> R {
        let now = self.now;
        let result = input(self.agent(node), now);
        self.drain(node);
        result
    }

    /// A frame on the line to a node that the coordinator did not send.
    pub fn inject(&mut self, node: usize, frame: &[u8]) {
        let result = self.input(node, |agent, now| agent.handle_frame(frame, now));
        if let Err(drop) = result {
            self.frame_drops.push(drop);
        }
    }

    /// Frames that the coordinator sends by itself.
    pub fn send(&mut self, frames: Vec<(Inbox, Vec<u8>)>) {
        for (inbox, frame) in frames {
            for _ in 0..self.copies(self.line) {
                let frame = frame.clone();
                self.carry(self.line, Thing::Down { inbox, frame });
            }
        }
    }

    /// A packet from one node's programs to another node.
    pub fn ping(&mut self, from: usize, to_host: u32, sequence: u16) {
        let overlay = Coordinator::overlay();
        let source = overlay.address_v4(self.host(from));
        let packet = packet::echo(8, source, overlay.address_v4(to_host), sequence, 56);
        self.packet(from, &packet);
    }

    fn packet(&mut self, node: usize, packet: &[u8]) {
        let now = self.now;
        let mut bytes = vec![0; capacity_for(1_420)];
        let mut buffer = PacketBuf::copy_from(&mut bytes, packet).unwrap();
        let result = self.agent(node).handle_packet(&mut buffer, now);
        match result {
            Ok(Output::Transmit(transmit)) => self.datagram(node, transmit, &bytes),
            Ok(Output::Staged) => {}
            Err(error) => self.log.push(format!("{node} packet {error:?}")),
        }
        self.drain(node);
    }

    /// Runs until `until`, or until nothing more can happen.
    pub fn run_until(&mut self, until: Instant) {
        loop {
            let timer = (0..self.nodes.len())
                .filter_map(|node| {
                    let (at, _) = self.nodes[node].agent.as_ref()?.poll_timeout()?;
                    Some((at.max(self.now), node))
                })
                .min();
            let thing = self.queue.keys().next().copied();
            match (thing, timer) {
                (Some((at, _)), timer)
                    if at <= until && timer.is_none_or(|(timer, _)| at <= timer) =>
                {
                    self.now = at.max(self.now);
                    let (_, thing) = self.queue.pop_first().unwrap();
                    self.deliver(thing);
                }
                (_, Some((at, node))) if at <= until => {
                    self.watch(at, node);
                    self.now = at;
                    self.input(node, TestAgent::handle_timeout);
                }
                _ => break,
            }
        }
        self.now = self.now.max(until);
    }

    /// A timer that is due again and again without time passing never ends.
    fn watch(&mut self, at: Instant, node: usize) {
        let same = self.spins.0 == at;
        self.spins = (at, if same { self.spins.1 + 1 } else { 0 });
        let due = self.nodes[node].agent.as_ref().unwrap().poll_timeout();
        assert!(self.spins.1 < 1_000, "node {node} spins at {at:?}: {due:?}");
    }

    pub fn run_for(&mut self, millis: u64) {
        self.run_until(self.now + Duration::from_millis(millis));
    }

    /// Runs until `done` says so; panics after `limit_ms`.
    pub fn run_to(&mut self, limit_ms: u64, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let start = self.now;
        let limit = start + Duration::from_millis(limit_ms);
        while !done(self) {
            assert!(self.now < limit, "not within {limit_ms} ms\n{}", self.log.join("\n"));
            self.run_for(1);
        }
        self.now - start
    }

    fn copies(&mut self, link: Link) -> usize {
        1 + usize::from(self.rng.chance(link.duplicate_percent))
    }

    fn carry(&mut self, link: Link, thing: Thing) {
        if self.rng.chance(link.loss_percent) {
            return;
        }
        let extra = self.rng.below(link.jitter.as_micros() as u64 + 1);
        let at = self.now + link.latency + Duration::from_micros(extra);
        self.sequence += 1;
        self.queue.insert((at, self.sequence), thing);
    }

    fn deliver(&mut self, thing: Thing) {
        match thing {
            Thing::LineUp { node, inbox } => {
                if self.nodes[node].agent.is_some() {
                    self.nodes[node].inbox = Some(inbox);
                    self.input(node, TestAgent::handle_connected);
                }
            }
            Thing::LineDown { node } => {
                if self.nodes[node].agent.is_some() {
                    self.nodes[node].inbox = None;
                    self.input(node, TestAgent::handle_disconnected);
                }
            }
            Thing::Up { inbox, frame } => {
                if self.coordinator_down {
                    return;
                }
                self.coordinator.now_ms = self.now.as_millis();
                let frames = self.coordinator.handle(inbox, &frame);
                self.send(frames);
            }
            Thing::Down { inbox, frame } => {
                if let Some(node) = self.nodes.iter().position(|node| node.inbox == Some(inbox)) {
                    self.tapped.push((node, frame.clone()));
                    self.inject(node, &frame);
                }
            }
            Thing::Datagram { from, to, bytes } => self.deliver_datagram(from, to, bytes),
        }
    }

    fn deliver_datagram(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>) {
        let Some(node) = self.nodes.iter().position(|node| node.address == to) else { return };
        if self.nodes[node].agent.is_none() {
            return;
        }
        if self.firewalled.contains(&node) && !self.opened.contains(&(node, from)) {
            return;
        }
        let source = Source { socket: SocketId(0), address: from };
        let now = self.now;
        let packet = match self.agent(node).handle_datagram(source, &mut bytes, now) {
            Ok(Input::Packet(packet)) => Some(packet.to_vec()),
            Ok(Input::Nothing) => None,
            Err(reason) => {
                self.log.push(format!("{:?} {node} drop {reason:?}", self.now));
                None
            }
        };
        self.drain(node);
        if let Some(packet) = packet {
            if let Some(reply) = packet::reply(&packet) {
                self.packet(node, &reply);
            }
            self.nodes[node].received.push((self.now, packet));
        }
    }

    fn datagram(&mut self, node: usize, transmit: Transmit, bytes: &[u8]) {
        let from = self.nodes[node].address;
        *self.nodes[node].sent.entry(bytes[0]).or_default() += 1;
        self.opened.insert((node, transmit.to));
        let to = self.nodes.iter().position(|node| node.address == transmit.to);
        if to.is_some_and(|to| self.blocked.contains(&(node, to))) {
            return;
        }
        for _ in 0..self.copies(self.udp) {
            let bytes = bytes[..transmit.len].to_vec();
            self.carry(self.udp, Thing::Datagram { from, to: transmit.to, bytes });
        }
    }

    /// What a shell does after each input.
    fn drain(&mut self, node: usize) {
        let now = self.now;
        let mut out = vec![0; capacity_for(1_420)];
        loop {
            let agent = self.nodes[node].agent.as_mut().unwrap();
            if let Some(event) = agent.poll_event() {
                self.handle_event(node, event);
            } else if let Some(request) = agent.poll_line() {
                match request {
                    LineRequest::Connect(credentials) if !self.coordinator_down => {
                        let inbox = credentials.inbox;
                        self.carry(
                            Link { loss_percent: 0, ..self.line },
                            Thing::LineUp { node, inbox },
                        );
                    }
                    _ => {
                        self.sequence += 1;
                        let key = (now, self.sequence);
                        self.queue.insert(key, Thing::LineDown { node });
                    }
                }
            } else if let Some(transmit) = agent.poll_control(&mut out) {
                let (Topic::Hello(inbox) | Topic::Record(_, inbox)) = transmit.topic else {
                    panic!("a device publishes to {:?}", transmit.topic)
                };
                assert_eq!(Some(inbox), self.nodes[node].inbox);
                for _ in 0..self.copies(self.line) {
                    let frame = out[..transmit.len].to_vec();
                    self.carry(self.line, Thing::Up { inbox, frame });
                }
            } else if let Some(transmit) = agent.poll_transmit(&mut out) {
                self.datagram(node, transmit, &out);
            } else {
                return;
            }
        }
    }

    fn handle_event(&mut self, node: usize, event: AgentEvent) {
        let now = self.now;
        let place = &mut self.nodes[node];
        let agent = place.agent.as_mut().unwrap();
        match &event {
            AgentEvent::Persist(what) => {
                match *what {
                    Persist::Identity => {
                        let mut bytes = [0; 1_024];
                        let bytes = postcard::to_slice(agent.identity(), &mut bytes).unwrap();
                        place.storage.identity = bytes.to_vec();
                    }
                    Persist::Stamp(floor) => place.storage.stamp = Some(floor),
                    Persist::Cache(..) => {
                        let mut cache = vec![];
                        let mut scratch = [0; 2_048];
                        agent
                            .write_cache(&mut scratch, |piece| cache.extend_from_slice(piece))
                            .unwrap();
                        place.storage.cache = cache;
                        place.storage.cache_writes += 1;
                    }
                }
                agent.handle_persisted(*what, now);
            }
            AgentEvent::Peer(change) => {
                self.log.push(format!(
                    "{now:?} {node} peer {} {:?} → {:?}",
                    change.device.0, change.from, change.to
                ));
            }
            _ => {}
        }
        self.nodes[node].events.push((now, event));
    }

    /// Events of a node so far that `pick` maps to something.
    pub fn events<T>(&self, node: usize, pick: impl Fn(&AgentEvent) -> Option<T>) -> Vec<T> {
        self.nodes[node].events.iter().filter_map(|(_, event)| pick(event)).collect()
    }

    /// Cuts every line: the devices notice at once.
    pub fn cut_lines(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].agent.is_some() && self.nodes[node].inbox.take().is_some() {
                self.input(node, TestAgent::handle_disconnected);
            }
        }
    }

    pub fn replies(&self, node: usize) -> usize {
        self.nodes[node].received.iter().filter(|(_, packet)| packet::is_reply(packet)).count()
    }

    pub fn state(&self, node: usize, device: DeviceId) -> Option<PeerState> {
        let agent = self.nodes[node].agent.as_ref().unwrap();
        agent.peers().find(|peer| peer.device == device).map(|peer| peer.state)
    }

    pub fn knows(&self, node: usize, peers: usize) -> bool {
        let agent = self.nodes[node].agent.as_ref().unwrap();
        agent.peers().count() == peers && agent.settings().settings().is_some()
    }

    /// Two devices that know each other.
    pub fn pair(seed: u64) -> (Self, usize, usize) {
        let mut world = Self::new(seed);
        let (a, b) = (world.add("gw-a"), world.add("gw-b"));
        world.run_to(5_000, |world| world.knows(a, 1) && world.knows(b, 1));
        world.run_for(500);
        (world, a, b)
    }
}

pub fn abilities() -> Abilities {
    Abilities {
        families: 1,
        carriers: 1,
        mtu: 1280,
        backend: Backend::User,
        peer_slots: 0,
        peer_routes: 64,
        rules: 64,
        agent: heapless::String::try_from("0.1.0").unwrap(),
        platform: heapless::String::try_from("linux-x86_64").unwrap(),
        endpoints: heapless::Vec::new(),
    }
}
