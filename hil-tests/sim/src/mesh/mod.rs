//! Whole agents, a coordinator and the network between them.
//!
//! A [`Mesh`] is what a shell, a broker and the internet are to an agent: it
//! drives each agent as the daemon does, carries frames to a [`Coordinator`] in
//! memory and datagrams over a [`Network`]. Every agent's run is recorded, see
//! [`crate::replay`].

mod carry;
pub mod coordinator;
pub mod echo;
mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use weft_agent_core::agent::trace::Trace;
use weft_agent_core::agent::{Agent, AgentConfig, AgentEvent, Output, Persist};
use weft_agent_core::buffer::PacketBuf;
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::control::{FrameDrop, Identity};
use weft_agent_core::event::{SocketId, Sockets};
use weft_agent_core::ip::icmp::{Problem, answer_bytes};
use weft_agent_core::peers::PeerState;
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::timer::Reason;
use weft_wire::frame::MAX_FRAME;
use weft_wire::id::{DeviceId, Inbox, Name};
use weft_wire::item::{Abilities, Backend};
use weft_wire::signal::{Candidate, CandidateKind};

pub use coordinator::Coordinator;
use server::StunServer;

use crate::nat;
use crate::net::{Datagram, GatewayId, HostId, Link, Middlebox, Network};
use crate::relay::Server;
use crate::rng::Rng;

/// The agent of a mesh: a gateway in small.
pub type MeshAgent<E = Rng, T = Recording, const PEERS: usize = 32, const ROUTES: usize = 64> =
    Agent<E, T, PEERS, PEERS, ROUTES, 64, 8, 8, MAX_FRAME, 0>;

/// A trace in memory, whatever its length.
#[derive(Clone, Debug, Default)]
pub struct Recording(pub Vec<u8>);

impl Trace for Recording {
    fn write(&mut self, fill: &mut dyn FnMut(&mut [u8]) -> Option<usize>) {
        let mut entry = [0; 2 * MAX_FRAME];
        let len = fill(&mut entry).expect("an entry is shorter than two frames");
        self.0.extend_from_slice(&entry[..len]);
    }
}

enum Thing {
    LineUp { node: usize, inbox: Inbox },
    LineDown { node: usize },
    Up { inbox: Inbox, frame: Vec<u8> },
    Down { inbox: Inbox, frame: Vec<u8> },
}

/// What a device's storage holds.
#[derive(Clone, Default)]
pub struct Storage {
    /// The identity in postcard.
    pub identity: Vec<u8>,
    /// The floor of handshake stamps.
    pub stamp: Option<u64>,
    /// The cache.
    pub cache: Vec<u8>,
    /// Starts so far.
    pub boots: u32,
    /// How often the cache was written.
    pub cache_writes: u32,
}

/// Who keeps what an agent wants kept, in place of [`Storage`].
pub type Keep<T = Recording, const PEERS: usize = 32, const ROUTES: usize = 64> =
    Box<dyn FnMut(&mut MeshAgent<Rng, T, PEERS, ROUTES>, Persist, Instant)>;

/// One device: an agent and the little that a shell does.
pub struct Node<T = Recording, const PEERS: usize = 32, const ROUTES: usize = 64> {
    /// `None` while it is switched off.
    pub agent: Option<Box<MeshAgent<Rng, T, PEERS, ROUTES>>>,
    /// Where its socket is.
    pub address: SocketAddr,
    /// What survives a restart.
    pub storage: Storage,
    /// Who keeps it, if that is not this storage.
    pub keep: Option<Keep<T, PEERS, ROUTES>>,
    /// The inbox that its line is subscribed to.
    pub inbox: Option<Inbox>,
    /// What its agents have said.
    pub events: Vec<(Instant, AgentEvent)>,
    /// Packets that came out of the tunnel.
    pub received: Vec<(Instant, Vec<u8>)>,
    /// ICMP errors for packets that found no way.
    pub refused: Vec<(Instant, Vec<u8>)>,
    /// Sockets beside the usual one.
    pub extra: std::collections::BTreeSet<SocketId>,
    /// Where the last packet out of the tunnel came from.
    pub came_from: Option<SocketAddr>,
    /// Datagrams sent, by first byte.
    pub sent: BTreeMap<u8, u32>,
    /// Bytes of IPv4 packets that went and came, those of the line not among them.
    pub carried: u64,
    /// What its agent waits for; `None` if that was not asked since its last input.
    due: Option<Option<(Instant, Reason)>>,
    host: HostId,
    name: &'static str,
    on_demand: bool,
    seed: u64,
}

/// The port of the first socket beside the usual one.
const EXTRA_PORTS: u16 = 20_000;

impl<T: Trace, const PEERS: usize, const ROUTES: usize> Node<T, PEERS, ROUTES> {
    fn address_of(&self, socket: SocketId) -> SocketAddr {
        if socket == SocketId(0) {
            return self.address;
        }
        assert!(self.extra.contains(&socket), "{socket:?} is open");
        SocketAddr::new(self.address.ip(), EXTRA_PORTS + u16::from(socket.0))
    }

    /// What its agent waits for.
    fn due(&mut self) -> Option<(Instant, Reason)> {
        let agent = self.agent.as_ref();
        *self.due.get_or_insert_with(|| agent.and_then(|agent| agent.poll_timeout()))
    }

    fn socket_of(&self, address: SocketAddr) -> Option<SocketId> {
        let extra = self.extra.iter().copied();
        core::iter::once(SocketId(0)).chain(extra).find(|it| self.address_of(*it) == address)
    }
}

/// Lets only answers in, by address and port.
#[derive(Debug, Default)]
struct Firewall(std::collections::HashSet<(SocketAddr, SocketAddr)>);

impl Middlebox for Firewall {
    fn outbound(&mut self, datagram: Datagram, _now: Instant) -> Option<Datagram> {
        self.0.insert((datagram.source, datagram.destination));
        Some(datagram)
    }

    fn inbound(&mut self, datagram: Datagram, _now: Instant) -> Option<Datagram> {
        self.0.contains(&(datagram.destination, datagram.source)).then_some(datagram)
    }
}

/// Agents, a coordinator, lines and a network. Agents of another size, or without
/// a trace: [`Mesh::of`].
pub struct Mesh<T = Recording, const PEERS: usize = 32, const ROUTES: usize = 64> {
    /// The time.
    pub now: Instant,
    /// The coordinator.
    pub coordinator: Coordinator,
    /// The devices.
    pub nodes: Vec<Node<T, PEERS, ROUTES>>,
    /// How frames travel.
    pub line: Link,
    /// How datagrams travel; to be changed by [`Mesh::set_links`].
    link: Link,
    /// The network of datagrams.
    pub network: Network,
    servers: Vec<StunServer>,
    /// The relays.
    pub relays: Vec<Server>,
    /// The sockets of agents that start from now on.
    pub sockets: Sockets,
    /// Sockets beside these that agents may have that start from now on.
    pub extra_sockets: u8,
    /// The tunnel of agents that start from now on.
    pub tunnel: TunnelConfig,
    /// The coordinator cannot be reached.
    pub coordinator_down: bool,
    /// Storage takes no identity: the disk is full.
    pub disk_full: bool,
    /// Frames delivered to devices, with their node.
    pub tapped: Vec<(usize, Vec<u8>)>,
    /// Frames that devices refused.
    pub frame_drops: Vec<FrameDrop>,
    /// What happened, for people.
    pub log: Vec<String>,
    /// Datagrams sent by devices are in the log as well.
    pub logs_datagrams: bool,
    queue: BTreeMap<(Instant, u64), Thing>,
    sequence: u64,
    spins: (Instant, u32),
    buffer: Vec<u8>,
    rng: Rng,
}

/// A link without faults; each way takes `millis` from end to end.
pub const fn clean(millis: u64) -> Link {
    Link::with_latency(Duration::from_millis(millis))
}

impl Mesh {
    /// No devices yet; everything takes 10 ms each way.
    pub fn new(seed: u64) -> Self {
        Self::of(seed)
    }

    /// Two devices that know each other.
    pub fn pair(seed: u64) -> (Self, usize, usize) {
        let mut mesh = Self::new(seed);
        let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
        mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
        mesh.run_for(500);
        (mesh, a, b)
    }
}

impl<T, const PEERS: usize, const ROUTES: usize> Mesh<T, PEERS, ROUTES>
where
    T: Trace + Default + Clone,
{
    /// The same with other agents than [`Mesh::new`] makes.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xABCD);
        Self {
            now: Instant::from_secs(1_000),
            coordinator: Coordinator::new(seed),
            nodes: vec![],
            line: clean(10),
            link: clean(5),
            network: Network::new(rng.next()),
            servers: vec![],
            relays: vec![],
            sockets: Sockets::both(SocketId(0)),
            extra_sockets: 250,
            tunnel: TunnelConfig::new(),
            coordinator_down: false,
            disk_full: false,
            tapped: vec![],
            frame_drops: vec![],
            log: vec![],
            logs_datagrams: false,
            queue: BTreeMap::new(),
            sequence: 0,
            spins: (Instant::ZERO, 0),
            buffer: vec![],
            rng,
        }
    }

    /// Changes every device's link; a datagram passes two.
    pub fn set_links(&mut self, link: Link) {
        self.link = link;
        for node in &self.nodes {
            *self.network.link_mut(node.host) = link;
        }
    }

    /// A device's link.
    pub fn link(&self, node: usize) -> &Link {
        self.network.link(self.nodes[node].host)
    }

    /// A device's link, to be changed.
    pub fn link_mut(&mut self, node: usize) -> &mut Link {
        self.network.link_mut(self.nodes[node].host)
    }

    /// Puts a device behind a firewall that lets only answers in.
    pub fn firewall(&mut self, node: usize) {
        let ip = self.nodes[node].address.ip();
        let gateway = self.network.add_gateway([ip], None, Box::<Firewall>::default());
        self.network.move_host(self.nodes[node].host, [ip], Some(gateway));
    }

    /// Puts a device behind a NAT of its own, whose outer address ends like its
    /// own one does.
    pub fn site(&mut self, node: usize, kind: nat::Kind) {
        let Node { host, address, .. } = self.nodes[node];
        let outer = IpAddr::from([198, 51, 100, 1 + node as u8]);
        let seed = self.rng.next();
        let gateway = kind.site(&mut self.network, outer, address.ip(), seed);
        self.network.move_host(host, [address.ip()], Some(gateway));
    }

    /// The same with a box of one's own design.
    pub fn site_with(&mut self, node: usize, rules: nat::Rules) -> GatewayId {
        let Node { host, address, .. } = self.nodes[node];
        let outer = IpAddr::from([198, 51, 100, 1 + node as u8]);
        let nat = Box::new(nat::Nat::new(rules, self.rng.next()));
        let gateway = self.network.add_gateway([outer], None, nat);
        self.network.move_host(host, [address.ip()], Some(gateway));
        gateway
    }

    /// Takes a device to another site, with another address inside and outside;
    /// its agent is told, as a shell does it.
    pub fn roam(&mut self, node: usize, kind: nat::Kind) {
        let address = SocketAddr::from(([10, 1, 0, 1 + node as u8], 51_871));
        self.nodes[node].address = address;
        let outer = IpAddr::from([192, 0, 2, 1 + node as u8]);
        let seed = self.rng.next();
        let gateway = kind.site(&mut self.network, outer, address.ip(), seed);
        self.network.move_host(self.nodes[node].host, [address.ip()], Some(gateway));
        let candidate = Candidate { kind: CandidateKind::Host, address };
        self.input(node, |agent, now| agent.set_local_addresses(&[candidate], now));
    }

    /// Gives a device another address. Its agent is not told.
    pub fn move_node(&mut self, node: usize, address: SocketAddr) {
        self.place_at(node, address, None);
    }

    /// The same, in the public area or behind a gateway.
    pub fn place_at(&mut self, node: usize, address: SocketAddr, area: Option<GatewayId>) {
        self.nodes[node].address = address;
        self.network.move_host(self.nodes[node].host, [address.ip()], area);
    }

    /// A new device with its own address; it joins at once.
    pub fn add(&mut self, name: &'static str) -> usize {
        self.add_device(name, false)
    }

    /// The same, but it holds its peers on demand.
    pub fn add_on_demand(&mut self, name: &'static str) -> usize {
        self.add_device(name, true)
    }

    /// Two new devices, each behind a NAT of its own, that know each other.
    pub fn add_pair(&mut self, one: nat::Kind, other: nat::Kind) -> (usize, usize) {
        let (a, b) = (self.add("gw-a"), self.add("gw-b"));
        self.site(a, one);
        self.site(b, other);
        self.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
        (a, b)
    }

    /// Starts another machine with a copy of what a device's storage holds.
    pub fn copy(&mut self, of: usize) -> usize {
        let (name, storage) = (self.nodes[of].name, self.nodes[of].storage.clone());
        let (node, _) = self.place(name, false);
        self.nodes[node].storage = storage;
        self.boot(node);
        node
    }

    fn add_device(&mut self, name: &'static str, on_demand: bool) -> usize {
        let (node, seed) = self.place(name, on_demand);
        let identity = Identity::generate(&self.coordinator.join_string(), &mut Rng::new(seed ^ 1));
        self.start(node, identity, Some(0));
        node
    }

    /// A machine that is off.
    fn place(&mut self, name: &'static str, on_demand: bool) -> (usize, u64) {
        let node = self.nodes.len();
        let seed = self.rng.next();
        let address = SocketAddr::from(([10, 0, 0, 1 + node as u8], 51_871));
        self.nodes.push(Node {
            agent: None,
            address,
            storage: Storage::default(),
            keep: None,
            inbox: None,
            events: vec![],
            received: vec![],
            refused: vec![],
            extra: std::collections::BTreeSet::new(),
            came_from: None,
            sent: BTreeMap::new(),
            carried: 0,
            due: None,
            host: self.network.add_host([address.ip()], None, self.link),
            name,
            on_demand,
            seed,
        });
        (node, seed)
    }

    fn start(&mut self, node: usize, identity: Identity, floor: Option<u64>) {
        let now = self.now;
        let place = &mut self.nodes[node];
        place.storage.boots += 1;
        let config = AgentConfig {
            boot_count: place.storage.boots,
            on_demand: place.on_demand,
            page_window: 4,
            staged_per_peer: 4,
            fingerprint: [node as u8; 32],
            name: Name::try_from(place.name).expect("a name"),
            abilities: abilities(),
            sockets: self.sockets,
            extra_sockets: self.extra_sockets,
            tunnel: self.tunnel,
            stamp_floor: floor,
        };
        let entropy = Rng::new(place.seed.wrapping_add(u64::from(place.storage.boots) << 32));
        let agent = Agent::recorded(config, identity, entropy, T::default(), now);
        let mut agent = Box::new(agent.expect("the pin is a strong key"));
        let address = place.address;
        agent.set_local_addresses(&[Candidate { kind: CandidateKind::Host, address }], now);
        agent.restore(&place.storage.cache, now).expect("a cache of our own");
        place.agent = Some(agent);
        self.drain(node);
    }

    /// Power off; what is not in storage is lost. Returns the run's trace.
    pub fn stop(&mut self, node: usize) -> T {
        self.nodes[node].inbox = None;
        self.nodes[node].extra.clear();
        self.nodes[node].due = None;
        let agent = self.nodes[node].agent.take().expect("it is on");
        agent.trace().clone()
    }

    /// Power on with what storage holds.
    pub fn boot(&mut self, node: usize) {
        let storage = &self.nodes[node].storage;
        let identity = postcard::from_bytes(&storage.identity).expect("it was stored");
        let floor = storage.stamp;
        self.start(node, identity, floor);
    }

    /// The agent of a device that is on.
    pub fn agent(&self, node: usize) -> &MeshAgent<Rng, T, PEERS, ROUTES> {
        self.nodes[node].agent.as_ref().expect("it is on")
    }

    fn agent_mut(&mut self, node: usize) -> &mut MeshAgent<Rng, T, PEERS, ROUTES> {
        self.nodes[node].due = None;
        self.nodes[node].agent.as_mut().expect("it is on")
    }

    /// A device's id.
    pub fn id(&self, node: usize) -> DeviceId {
        self.agent(node).identity().member().expect("it is enrolled").device
    }

    /// A device's host number.
    pub fn host(&self, node: usize) -> u32 {
        self.agent(node).settings().settings().expect("it has a map").host
    }

    /// One input to a node, then everything that follows.
    pub fn input<R>(
        &mut self,
        node: usize,
        input: impl FnOnce(&mut MeshAgent<Rng, T, PEERS, ROUTES>, Instant) -> R,
    ) -> R {
        let now = self.now;
        let result = input(self.agent_mut(node), now);
        self.drain(node);
        result
    }

    /// One input to a node whose outputs the caller takes.
    pub fn raw_input<R>(
        &mut self,
        node: usize,
        input: impl FnOnce(&mut MeshAgent<Rng, T, PEERS, ROUTES>, Instant) -> R,
    ) -> R {
        let now = self.now;
        input(self.agent_mut(node), now)
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
            self.carry(|| Thing::Down { inbox, frame: frame.clone() });
        }
    }

    /// An echo request from one node's programs to another's overlay address.
    pub fn ping(&mut self, from: usize, to_host: u32, sequence: u16) {
        let overlay = Coordinator::overlay();
        let source = overlay.address_v4(self.host(from));
        let packet = echo::request(source, overlay.address_v4(to_host), sequence, 56);
        self.packet(from, &packet);
    }

    /// A datagram that says nothing, from a node's socket and not from its agent.
    pub fn knock(&mut self, node: usize, destination: SocketAddr) {
        let Node { address: source, host, .. } = self.nodes[node];
        self.network.send(host, Datagram { source, destination, bytes: vec![0; 8] }, self.now);
    }

    /// A packet from one node's programs.
    pub fn packet(&mut self, node: usize, packet: &[u8]) {
        let now = self.now;
        let mut bytes = self.take_buffer();
        let mut buffer = PacketBuf::copy_from(&mut bytes, packet).expect("it fits");
        let result = self.agent_mut(node).handle_packet(&mut buffer, now);
        match result {
            Ok(Output::Transmit(transmit)) => self.datagram(node, transmit, &bytes),
            Ok(Output::Staged) => {}
            Ok(Output::Displaced) => {
                let mut answer = [0; 1_280];
                let len = answer_bytes(buffer.packet(), Problem::Unreachable, &mut answer);
                let told = len.map(|len| (now, answer[..len].to_vec()));
                self.nodes[node].refused.extend(told);
            }
            Err(error) => self.log.push(format!("{now:?} {node} packet {error:?}")),
        }
        self.buffer = bytes;
        self.drain(node);
    }

    /// Lets everything happen until `until`.
    pub fn run_until(&mut self, until: Instant) {
        while let Some(at) = self.next_due().filter(|&at| at <= until) {
            self.now = at.max(self.now);
            if self.queue.first_key_value().is_some_and(|((due, _), _)| *due <= self.now) {
                let (_, thing) = self.queue.pop_first().expect("it was there");
                self.deliver(thing);
            } else if let Some((host, datagram)) = self.network.poll(self.now) {
                self.deliver_datagram(host, datagram);
            } else {
                self.tick();
            }
        }
        self.now = self.now.max(until);
    }

    fn next_due(&mut self) -> Option<Instant> {
        let line = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timers = self.nodes.iter_mut().filter_map(|node| Some(node.due()?.0));
        let relays = self.relays.iter().filter_map(Server::poll_timeout);
        timers.chain(relays).chain(line).chain(self.network.poll_timeout()).min()
    }

    fn tick(&mut self) {
        for relay in &mut self.relays {
            if relay.poll_timeout().is_some_and(|at| at <= self.now) {
                relay.handle_timeout(self.now, &mut self.network);
            }
        }
        for node in 0..self.nodes.len() {
            if let Some((at, reason)) = self.nodes[node].due().filter(|&(at, _)| at <= self.now) {
                // A timer that is due again and again without time passing
                // never ends.
                let same = self.spins.0 == self.now;
                self.spins = (self.now, if same { self.spins.1 + 1 } else { 0 });
                assert!(self.spins.1 < 1_000, "node {node} spins at {at:?}: {reason}");
                self.input(node, Agent::handle_timeout);
            }
        }
    }

    /// Lets that many milliseconds pass.
    pub fn run_for(&mut self, millis: u64) {
        self.run_until(self.now + Duration::from_millis(millis));
    }

    /// Runs until `done` says so, and says how long it took.
    ///
    /// # Panics
    ///
    /// When it takes longer than `limit_ms`.
    pub fn run_to(&mut self, limit_ms: u64, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let start = self.now;
        let limit = start + Duration::from_millis(limit_ms);
        while !done(self) {
            assert!(self.now < limit, "not within {limit_ms} ms\n{}", self.log.join("\n"));
            self.run_for(1);
        }
        self.now - start
    }

    /// Cuts every line: the devices notice at once.
    pub fn cut_lines(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].agent.is_some() && self.nodes[node].inbox.take().is_some() {
                self.input(node, Agent::handle_disconnected);
            }
        }
    }

    /// Events of a node so far that `pick` maps to something.
    pub fn events<R>(&self, node: usize, pick: impl Fn(&AgentEvent) -> Option<R>) -> Vec<R> {
        self.nodes[node].events.iter().filter_map(|(_, event)| pick(event)).collect()
    }

    /// Echo replies that a node's programs have received.
    pub fn replies(&self, node: usize) -> usize {
        self.nodes[node].received.iter().filter(|(_, packet)| echo::is_reply(packet)).count()
    }

    /// Where a node sees a peer.
    pub fn state(&self, node: usize, device: DeviceId) -> Option<PeerState> {
        self.agent(node).peers().find(|peer| peer.device == device).map(|peer| peer.state)
    }

    /// Whether a node has a map with that many peers.
    pub fn knows(&self, node: usize, peers: usize) -> bool {
        let agent = self.agent(node);
        agent.peers().count() == peers && agent.settings().settings().is_some()
    }
}

/// What a frame is on the line: with MQTT, TCP and IPv4 around it, and the
/// acknowledgement.
pub const fn line_bytes(frame: usize) -> u64 {
    frame as u64 + 40 + 52 + 52
}

/// What a gateway of a mesh says of itself.
pub fn abilities() -> Abilities {
    Abilities {
        families: 1,
        carriers: 1,
        mtu: 1280,
        backend: Backend::User,
        peer_slots: 0,
        peer_routes: 64,
        rules: 64,
        agent: heapless::String::try_from("0.1.0").expect("it is short"),
        platform: heapless::String::try_from("linux-x86_64").expect("it is short"),
        endpoints: heapless::Vec::new(),
    }
}
