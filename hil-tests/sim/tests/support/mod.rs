//! What the tests of tunnel and data path share: a reproducible random source,
//! a node that drains as the agent does, and a wire between nodes on virtual
//! time.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};

use weft_agent_core::config::TunnelConfig;
use weft_agent_core::event::{PeerSlot, SocketId, Source};
use weft_agent_core::filter::Masks;
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::{PeerKeys, Tai64nClock};
use weft_noise::key::StaticSecret;
use weft_sim::{Node as _, TunnelNode};
use weft_wire::id::{PublicKey, Secret};

/// Both directions, rule 0.
pub(crate) const ALL: Masks = Masks { inbound: 1, outbound: 1 };

/// The longest packet the nodes handle.
pub(crate) const MTU: usize = 1280;

/// The underlay address of node `number`.
pub(crate) fn underlay(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51_871))
}

/// The overlay address of node `number`.
pub(crate) fn overlay(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 80, 1, number)
}

pub(crate) fn source(address: SocketAddr) -> Source {
    Source { socket: SocketId(0), address }
}

/// A UDP packet with a payload; the checksum is not looked at by anybody here.
pub(crate) fn udp(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let len = 28 + payload.len();
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..24].copy_from_slice(&[0x13, 0x88, 0x13, 0x89]);
    packet[24..26].copy_from_slice(&((payload.len() + 8) as u16).to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// A node of the simulator with a number, from which its keys and addresses
/// follow, and the payloads that it got.
pub(crate) struct Node {
    pub(crate) number: u8,
    inner: TunnelNode,
    pub(crate) delivered: Vec<Vec<u8>>,
}

impl Deref for Node {
    type Target = TunnelNode;

    fn deref(&self) -> &TunnelNode {
        &self.inner
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut TunnelNode {
        &mut self.inner
    }
}

impl Node {
    pub(crate) fn new(number: u8, seed: u64) -> Self {
        Self::with_clock(number, seed, Tai64nClock::new(Some(0)), TunnelConfig::new())
    }

    pub(crate) fn with_clock(
        number: u8,
        seed: u64,
        clock: Tai64nClock,
        config: TunnelConfig,
    ) -> Self {
        let inner = TunnelNode::with_clock(Self::secret(number), clock, config, seed);
        Self { number, inner, delivered: Vec::new() }
    }

    pub(crate) fn secret(number: u8) -> StaticSecret {
        StaticSecret::from_bytes([number; 32])
    }

    pub(crate) fn key(number: u8) -> PublicKey {
        Self::secret(number).public()
    }

    /// Adds node `number` at slot `slot`.
    pub(crate) fn add_peer(&mut self, slot: u16, number: u8, psk: u8, now: Instant) {
        let keys = PeerKeys::new(Self::key(number), Secret([psk; 32]));
        let address = overlay(number).into();
        self.inner.add_peer(PeerSlot(slot), keys, address, underlay(number), now);
    }

    pub(crate) fn set_keys(&mut self, slot: u16, keys: PeerKeys, now: Instant) {
        self.tunnel.set_peer(PeerSlot(slot), keys, now).expect("a good key");
        self.drain(now);
    }

    /// Sends a UDP payload to node `number`.
    pub(crate) fn send(&mut self, number: u8, payload: &[u8], now: Instant) {
        let packet = udp(overlay(self.number), overlay(number), payload);
        self.send_packet(&packet, now);
    }

    pub(crate) fn send_packet(&mut self, packet: &[u8], now: Instant) {
        self.inner.handle_packet(packet, now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.inner.handle_timeout(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.inner.handle_datagram(from, datagram, now);
        while let Some(packet) = self.inner.poll_packet() {
            self.delivered.push(packet[28..].to_vec());
        }
    }

    pub(crate) fn handshakes(&self, slot: u16) -> u32 {
        self.tunnel.status(PeerSlot(slot)).map_or(0, |status| status.handshakes)
    }
}

/// What a datagram is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) at: Instant,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Flight {
    pub(crate) fn kind(&self) -> u8 {
        self.bytes[0]
    }
}

/// Decides about a datagram that was just sent: `false` loses it.
pub(crate) type Gate = Box<dyn FnMut(&mut Flight) -> bool>;

/// Nodes on one wire.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node>,
    /// Where each node is seen; a node behind it may move.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) latency: Duration,
    pub(crate) gate: Gate,
    flights: Vec<Flight>,
    /// Everything that was sent, lost or not.
    pub(crate) log: Vec<Flight>,
}

impl World {
    pub(crate) fn new(nodes: Vec<Node>) -> Self {
        let addresses = nodes.iter().map(|node| underlay(node.number)).collect();
        Self {
            now: Instant::from_secs(1_000),
            nodes,
            addresses,
            latency: Duration::from_millis(10),
            gate: Box::new(|_| true),
            flights: Vec::new(),
            log: Vec::new(),
        }
    }

    /// Two nodes, 1 and 2, that know each other at slot 0.
    pub(crate) fn pair(seed: u64) -> Self {
        let (mut a, mut b) = (Node::new(1, seed), Node::new(2, seed + 1));
        a.add_peer(0, 2, 7, Instant::ZERO);
        b.add_peer(0, 1, 7, Instant::ZERO);
        Self::new(vec![a, b])
    }

    pub(crate) fn a(&mut self) -> &mut Node {
        &mut self.nodes[0]
    }

    pub(crate) fn b(&mut self) -> &mut Node {
        &mut self.nodes[1]
    }

    /// Node `from` (by position) sends a payload to the node with `number`.
    pub(crate) fn send(&mut self, from: usize, number: u8, payload: &[u8]) {
        let now = self.now;
        self.nodes[from].send(number, payload, now);
        self.collect();
    }

    /// Puts what nodes have sent on the wire.
    pub(crate) fn collect(&mut self) {
        for (node, address) in self.nodes.iter_mut().zip(&self.addresses) {
            for (to, bytes) in node.out.drain(..) {
                let at = self.now + self.latency;
                let mut flight = Flight { at, from: *address, to, bytes };
                self.log.push(flight.clone());
                if (self.gate)(&mut flight) {
                    self.flights.push(flight);
                }
            }
        }
    }

    /// Puts a datagram on the wire that no node sent.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.flights.push(Flight { at: self.now, from, to, bytes: bytes.to_vec() });
    }

    fn next_due(&self) -> Option<Instant> {
        let flight = self.flights.iter().map(|flight| flight.at).min();
        let timeout = self.nodes.iter().filter_map(Node::poll_timeout).min();
        flight.into_iter().chain(timeout).min()
    }

    /// Lets everything happen that is due within `duration`.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.next_due().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.step();
        }
        self.now = end;
    }

    /// Everything that is due now, datagrams before timers.
    pub(crate) fn step(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.at <= now);
        self.flights = later;
        for flight in due {
            let place = self.addresses.iter().position(|address| *address == flight.to);
            if let Some(place) = place {
                self.nodes[place].handle_datagram(flight.from, &flight.bytes, now);
            }
        }
        for node in &mut self.nodes {
            if node.poll_timeout().is_some_and(|at| at <= now) {
                node.handle_timeout(now);
            }
        }
        self.collect();
    }

    /// How many datagrams of a type were sent.
    pub(crate) fn sent(&self, kind: u8) -> usize {
        self.log.iter().filter(|flight| flight.kind() == kind).count()
    }

    /// How many of them by a node.
    pub(crate) fn sent_by(&self, node: usize, kind: u8) -> usize {
        let address = self.addresses[node];
        let mine = |flight: &&Flight| flight.from == address && flight.kind() == kind;
        self.log.iter().filter(mine).count()
    }
}

/// An address of the documentation range, for spoofed sources.
pub(crate) fn stranger(number: u64) -> SocketAddr {
    let [.., b, c, d] = (number as u32).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18 + (b & 1), c, d)), 40_000)
}

/// A session between the two, and one packet each way.
pub(crate) fn connect(world: &mut World) {
    world.send(0, 2, b"hello");
    world.run(Duration::from_secs(1));
    world.send(1, 1, b"hi");
    world.run(Duration::from_secs(1));
    assert_eq!(world.b().delivered, [b"hello"]);
    assert_eq!(world.a().delivered, [b"hi"]);
    world.a().delivered.clear();
    world.b().delivered.clear();
}

/// Initiations of node 1's key to node 2, made by a node that never hears back.
pub(crate) fn capture(count: usize) -> Vec<Vec<u8>> {
    let mut node = Node::new(1, 77);
    node.add_peer(0, 2, 7, Instant::ZERO);
    let mut made = Vec::new();
    let mut now = Instant::from_secs(1_000);
    node.send(2, b"x", now);
    while made.len() < count {
        now = node.poll_timeout().expect("an attempt goes on");
        node.handle_timeout(now);
        node.tunnel.handle_wanted(PeerSlot(0), now);
        made.extend(node.out.drain(..).map(|(_, bytes)| bytes));
    }
    made
}
