//! How frames and datagrams get from one agent to another, and what a shell does
//! with all that an agent has to say.

use weft_agent_core::agent::trace::Trace;
use weft_agent_core::agent::{Agent, AgentEvent, Input, Persist, Transmit};
use weft_agent_core::buffer::capacity_for;
use weft_agent_core::control::LineRequest;
use weft_agent_core::event::{Source, Via};
use weft_agent_core::path::SocketCommand;
use weft_agent_core::time::Instant;
use weft_wire::topic::Topic;

use super::{Mesh, Node, Thing, echo, line_bytes};
use crate::net::{Datagram, HostId};

impl<T, const PEERS: usize, const ROUTES: usize> Mesh<T, PEERS, ROUTES>
where
    T: Trace + Default + Clone,
{
    /// Puts a frame on the line: once, twice or not at all.
    pub(super) fn carry(&mut self, thing: impl Fn() -> Thing) {
        let link = self.line;
        let copies = 1 + u32::from(self.rng.chance(link.duplicate_ppm));
        for _ in 0..copies {
            if !self.rng.chance(link.loss_ppm) {
                let at = self.now + link.latency + self.rng.up_to(link.jitter);
                self.queue_at(at, thing());
            }
        }
    }

    pub(super) fn queue_at(&mut self, at: Instant, thing: Thing) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), thing);
    }

    pub(super) fn deliver(&mut self, thing: Thing) {
        match thing {
            Thing::LineUp { node, inbox } => {
                if self.nodes[node].agent.is_some() {
                    // A client id has one connection.
                    let older = self.nodes.iter().position(|older| older.inbox == Some(inbox));
                    if let Some(older) = older.filter(|older| *older != node) {
                        self.deliver(Thing::LineDown { node: older });
                    }
                    self.nodes[node].inbox = Some(inbox);
                    self.input(node, Agent::handle_connected);
                }
            }
            Thing::LineDown { node } => {
                if self.nodes[node].agent.is_some() {
                    self.nodes[node].inbox = None;
                    self.input(node, Agent::handle_disconnected);
                }
            }
            Thing::Up { inbox, frame } => {
                if !self.coordinator_down {
                    self.coordinator.now_ms = self.now.as_millis();
                    let frames = self.coordinator.handle(inbox, &frame);
                    self.send(frames);
                }
            }
            Thing::Down { inbox, frame } => {
                if let Some(node) = self.nodes.iter().position(|node| node.inbox == Some(inbox)) {
                    self.tapped.push((node, frame.clone()));
                    let bytes = line_bytes(frame.len());
                    self.input(node, |agent, now| agent.handle_line_traffic(bytes, now));
                    self.inject(node, &frame);
                }
            }
        }
    }

    pub(super) fn deliver_datagram(&mut self, host: HostId, datagram: Datagram) {
        if self.serve(host, &datagram) {
            return;
        }
        let socket = |node: &Node<T, PEERS, ROUTES>| node.socket_of(datagram.destination);
        let receiver = |node: &Node<T, PEERS, ROUTES>| {
            node.host == host && socket(node).is_some() && node.agent.is_some()
        };
        let Some(node) = self.nodes.iter().position(receiver) else { return };
        let Some(socket) = socket(&self.nodes[node]) else { return };
        let source = Source { socket, address: datagram.source };
        let (mut bytes, now) = (datagram.bytes, self.now);
        self.nodes[node].carried += bytes.len() as u64 + 28;
        let packet = match self.agent_mut(node).handle_datagram(source, &mut bytes, now) {
            Ok(Input::Packet(packet)) => Some(packet.to_vec()),
            Ok(Input::Nothing) => None,
            Err(reason) => {
                self.log.push(format!("{now:?} {node} drop {reason:?}"));
                None
            }
        };
        self.drain(node);
        if let Some(packet) = packet {
            if let Some(reply) = echo::reply(&packet) {
                self.packet(node, &reply);
            }
            self.nodes[node].received.push((self.now, packet));
            self.nodes[node].came_from = Some(source.address);
        }
    }

    pub(super) fn datagram(&mut self, node: usize, transmit: Transmit, bytes: &[u8]) {
        let host = self.nodes[node].host;
        let Via::Udp { to: destination, socket } = transmit.via else { panic!("{transmit:?}") };
        let source = self.nodes[node].address_of(socket);
        let head = transmit.channel.unwrap_or_default();
        let head = &head[..transmit.channel.map_or(0, |head| head.len())];
        let bytes = [head, &bytes[..transmit.len]].concat();
        *self.nodes[node].sent.entry(bytes[0]).or_default() += 1;
        self.nodes[node].carried += bytes.len() as u64 + 28;
        if self.logs_datagrams {
            let (now, len, head) = (self.now, bytes.len(), &bytes[..bytes.len().min(8)]);
            self.log.push(format!("{now:?} {node} to {destination}: {len} bytes {head:02x?}"));
        }
        self.network.send(host, Datagram { source, destination, bytes }, self.now);
    }

    /// Room for a datagram, which is to be given back.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = core::mem::take(&mut self.buffer);
        buffer.resize(capacity_for(1_420), 0);
        buffer
    }

    /// What a shell does after each input.
    pub(super) fn drain(&mut self, node: usize) {
        let mut out = self.take_buffer();
        let now = self.now;
        loop {
            let agent = self.agent_mut(node);
            if let Some(event) = agent.poll_event() {
                self.handle_event(node, event);
            } else if let Some(len) = agent.poll_refusal(&mut out) {
                self.nodes[node].refused.push((self.now, out[..len].to_vec()));
            } else if let Some(command) = agent.poll_socket() {
                let extra = &mut self.nodes[node].extra;
                match command {
                    SocketCommand::Open(socket) => assert!(extra.insert(socket)),
                    SocketCommand::Close(socket) => assert!(extra.remove(&socket)),
                }
            } else if let Some(request) = agent.poll_line() {
                match request {
                    LineRequest::Connect(credentials) if !self.coordinator_down => {
                        let inbox = credentials.inbox;
                        let at = self.now + self.line.latency;
                        self.queue_at(at, Thing::LineUp { node, inbox });
                    }
                    _ => self.queue_at(self.now, Thing::LineDown { node }),
                }
            } else if let Some(transmit) = agent.poll_control(&mut out) {
                let (Topic::Hello(inbox) | Topic::Record(_, inbox)) = transmit.topic else {
                    panic!("a device publishes to {:?}", transmit.topic)
                };
                assert_eq!(Some(inbox), self.nodes[node].inbox);
                self.agent_mut(node).handle_line_traffic(line_bytes(transmit.len), now);
                let frame = out[..transmit.len].to_vec();
                self.carry(|| Thing::Up { inbox, frame: frame.clone() });
            } else if let Some(transmit) = agent.poll_transmit(&mut out) {
                self.datagram(node, transmit, &out);
            } else {
                self.buffer = out;
                return;
            }
        }
    }

    fn handle_event(&mut self, node: usize, event: AgentEvent) {
        let now = self.now;
        match &event {
            AgentEvent::Persist(what) => self.persist(node, *what),
            AgentEvent::Peer(change) => {
                let (device, from, to) = (change.device.0, change.from, change.to);
                self.log.push(format!("{now:?} {node} peer {device} {from:?} → {to:?}"));
            }
            _ => {}
        }
        self.nodes[node].events.push((now, event));
    }

    fn persist(&mut self, node: usize, what: Persist) {
        if self.disk_full && what == Persist::Identity {
            return;
        }
        let now = self.now;
        let place = &mut self.nodes[node];
        let agent = place.agent.as_mut().expect("it has just spoken");
        if let Some(keep) = &mut place.keep {
            return keep(agent, what, now);
        }
        match what {
            Persist::Identity => {
                let mut bytes = [0; 1_024];
                let bytes = postcard::to_slice(agent.identity(), &mut bytes).expect("it fits");
                place.storage.identity = bytes.to_vec();
            }
            Persist::Stamp(floor) => place.storage.stamp = Some(floor),
            Persist::Cache(..) => {
                let mut cache = vec![];
                let mut scratch = [0; 2_048];
                let written =
                    agent.write_cache(&mut scratch, |piece| cache.extend_from_slice(piece));
                written.expect("2,048 bytes are enough");
                place.storage.cache = cache;
                place.storage.cache_writes += 1;
            }
        }
        agent.handle_persisted(what, now);
    }
}
