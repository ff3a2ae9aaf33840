//! A clock, a network and nodes.

use std::net::SocketAddr;

use weft_agent_core::time::{Duration, Instant};

use crate::net::{Datagram, HostId, Link, Network};

/// Something with a socket and a mesh interface. One input, then the world
/// drains its outputs.
pub trait Node {
    /// A datagram came.
    fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant);

    /// A packet from the mesh interface is to be sent.
    fn handle_packet(&mut self, packet: &[u8], now: Instant);

    /// The instant of [`Node::poll_timeout`] has come.
    fn handle_timeout(&mut self, now: Instant);

    /// When [`Node::handle_timeout`] is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// A datagram to be sent.
    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)>;

    /// A packet for the mesh interface.
    fn poll_packet(&mut self) -> Option<Vec<u8>>;
}

impl<N: Node + ?Sized> Node for Box<N> {
    fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        (**self).handle_datagram(from, datagram, now);
    }

    fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        (**self).handle_packet(packet, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        (**self).handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (**self).poll_timeout()
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        (**self).poll_transmit()
    }

    fn poll_packet(&mut self) -> Option<Vec<u8>> {
        (**self).poll_packet()
    }
}

/// A packet that came out of a node's mesh interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The node, in order of [`World::add`].
    pub node: usize,
    /// When.
    pub at: Instant,
    /// The packet.
    pub packet: Vec<u8>,
}

struct Place {
    host: HostId,
    address: SocketAddr,
}

/// Nodes on a network. Everything that happens at one instant happens in a fixed
/// order: datagrams as they were sent, then timers by node.
pub struct World<N> {
    now: Instant,
    /// The network, to be changed while the world runs.
    pub network: Network,
    nodes: Vec<N>,
    places: Vec<Place>,
    delivered: Vec<Delivery>,
}

impl<N: Node> World<N> {
    /// An empty world at `now`.
    pub const fn new(seed: u64, now: Instant) -> Self {
        Self {
            now,
            network: Network::new(seed),
            nodes: Vec::new(),
            places: Vec::new(),
            delivered: Vec::new(),
        }
    }

    /// Adds a node with a socket in the public area; gives its number.
    pub fn add(&mut self, node: N, address: SocketAddr, link: Link) -> usize {
        let host = self.network.add_host([address.ip()], None, link);
        self.add_at(node, host, address)
    }

    /// Adds a node with a socket on a host.
    pub fn add_at(&mut self, node: N, host: HostId, address: SocketAddr) -> usize {
        self.nodes.push(node);
        self.places.push(Place { host, address });
        self.nodes.len() - 1
    }

    /// The time.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// A node.
    pub fn node(&self, node: usize) -> &N {
        &self.nodes[node]
    }

    /// Does something with a node and sends what it then has to send.
    pub fn with<T>(&mut self, node: usize, act: impl FnOnce(&mut N, Instant) -> T) -> T {
        let result = act(&mut self.nodes[node], self.now);
        self.drain(node);
        result
    }

    /// Puts another node in the place of one: a restart.
    pub fn replace(&mut self, node: usize, fresh: N) {
        self.nodes[node] = fresh;
        self.drain(node);
    }

    /// The host that a node is on.
    pub fn host(&self, node: usize) -> HostId {
        self.places[node].host
    }

    /// Changes the address that a node's datagrams carry; its host is moved too.
    pub fn move_node(&mut self, node: usize, address: SocketAddr) {
        self.places[node].address = address;
        self.network.move_host(self.places[node].host, [address.ip()], None);
    }

    /// Hands a packet to a node's mesh interface.
    pub fn send(&mut self, node: usize, packet: &[u8]) {
        self.with(node, |node, now| node.handle_packet(packet, now));
    }

    fn drain(&mut self, node: usize) {
        let Place { host, address: source } = self.places[node];
        while let Some((destination, bytes)) = self.nodes[node].poll_transmit() {
            self.network.send(host, Datagram { source, destination, bytes }, self.now);
        }
        while let Some(packet) = self.nodes[node].poll_packet() {
            self.delivered.push(Delivery { node, at: self.now, packet });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let timers = self.nodes.iter().filter_map(Node::poll_timeout);
        timers.chain(self.network.poll_timeout()).min()
    }

    /// Lets everything happen that is due within `duration`.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.next_due().filter(|&due| due <= end) {
            // A node whose timer lies in the past does not turn time back.
            self.now = self.now.max(due);
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        while let Some((host, datagram)) = self.network.poll(self.now) {
            let receiver = self
                .places
                .iter()
                .position(|place| place.host == host && place.address == datagram.destination);
            if let Some(node) = receiver {
                self.with(node, |node, now| {
                    node.handle_datagram(datagram.source, &datagram.bytes, now);
                });
            }
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].poll_timeout().is_some_and(|at| at <= self.now) {
                self.with(node, |node, now| node.handle_timeout(now));
            }
        }
    }

    /// What came out of mesh interfaces since the last call.
    pub fn take_delivered(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.delivered)
    }
}
