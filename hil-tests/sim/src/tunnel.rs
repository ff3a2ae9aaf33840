//! Our tunnel and data path as a node, wired as the agent wires them, without
//! control channel and paths: peers are at fixed endpoints until they roam.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use weft_agent_core::buffer::{PacketBuf, capacity_for};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::datapath::{Datapath, PacketError};
use weft_agent_core::event::{DropReason, PeerSlot, SocketId, Source};
use weft_agent_core::filter::Masks;
use weft_agent_core::time::Instant;
use weft_agent_core::tunnel::{Event, Install, PeerKeys, Tai64nClock, To, Tunnel};
use weft_noise::key::StaticSecret;
use weft_wire::map::{Prefix, Rule};

use crate::rng::Rng;
use crate::world::Node;

/// Peers of a node, and initiations that may wait.
pub const PEERS: usize = 8;

/// The longest packet of the mesh.
pub const MTU: u16 = 1280;

/// Staged packets of a node; the oldest makes room.
const STAGED: usize = 16;

/// The datapath of a node, with a chip's sizes.
pub type NodeDatapath = Datapath<PEERS, PEERS, 16, 32, 8>;

/// Everything passes, in both directions.
const ANY: Rule = Rule { number: 0, protocol: 0, first_port: 0, last_port: u16::MAX };

/// One agent's tunnel and data path.
pub struct TunnelNode {
    /// The tunnel.
    pub tunnel: Box<Tunnel<PEERS>>,
    /// The data path.
    pub datapath: Box<NodeDatapath>,
    /// Events since the node was made.
    pub events: Vec<Event>,
    /// Reasons of refused datagrams, in order.
    pub refused: Vec<DropReason>,
    /// Where peers are sent to.
    pub endpoints: [Option<SocketAddr>; PEERS],
    /// Datagrams that wait to be sent.
    pub out: VecDeque<(SocketAddr, Vec<u8>)>,
    rng: Rng,
    staged: VecDeque<(PeerSlot, Vec<u8>)>,
    delivered: VecDeque<Vec<u8>>,
}

impl TunnelNode {
    /// A node without peers, whose flash holds the stamp `floor`.
    pub fn new(secret: StaticSecret, floor: u64, config: TunnelConfig, seed: u64) -> Self {
        Self::with_clock(secret, Tai64nClock::new(Some(floor)), config, seed)
    }

    /// A node without peers that takes its stamps from `clock`.
    pub fn with_clock(
        secret: StaticSecret,
        clock: Tai64nClock,
        config: TunnelConfig,
        seed: u64,
    ) -> Self {
        let mut datapath = Box::new(NodeDatapath::new(seed));
        datapath.set_rules(&[ANY]);
        let mut node = Self {
            tunnel: Box::new(Tunnel::new(config, secret, clock)),
            datapath,
            events: Vec::new(),
            refused: Vec::new(),
            endpoints: [None; PEERS],
            out: VecDeque::new(),
            rng: Rng::new(seed),
            staged: VecDeque::new(),
            delivered: VecDeque::new(),
        };
        node.drain(Instant::ZERO);
        node
    }

    /// Adds a peer with one overlay address and an endpoint.
    pub fn add_peer(
        &mut self,
        slot: PeerSlot,
        keys: PeerKeys,
        overlay: IpAddr,
        endpoint: SocketAddr,
        now: Instant,
    ) {
        self.tunnel.set_peer(slot, keys, now).expect("a peer with a good key");
        self.datapath.set_peer(slot, MTU, Masks { inbound: 1, outbound: 1 });
        let prefix = match overlay {
            IpAddr::V4(address) => Prefix::V4(address, 32),
            IpAddr::V6(address) => Prefix::V6(address, 128),
        };
        self.datapath.set_routes(slot, [prefix]).expect("room for a route per peer");
        self.endpoints[slot.index()] = Some(endpoint);
        self.drain(now);
    }

    fn transmit(&mut self, slot: PeerSlot, datagram: Vec<u8>) {
        if let Some(to) = self.endpoints[slot.index()] {
            self.out.push_back((to, datagram));
        }
    }

    /// Seals a packet and sends it; gives the peer when there is no session.
    fn seal(&mut self, packet: &[u8], now: Instant) -> Option<PeerSlot> {
        let mut bytes = vec![0; capacity_for(packet.len())];
        let mut buffer = PacketBuf::copy_from(&mut bytes, packet)?;
        match self.datapath.handle_packet(&mut buffer, now) {
            Ok(sealed) => {
                bytes.truncate(sealed.len);
                self.transmit(sealed.slot, bytes);
                None
            }
            Err(PacketError::NoSession { slot }) => Some(slot),
            Err(_) => None,
        }
    }

    /// Drains every output in the order that the tunnel asks for; to be called
    /// after an input that was given to a part directly.
    pub fn drain(&mut self, now: Instant) {
        loop {
            let mut idle = true;
            while let Some((slot, activity)) = self.datapath.poll_activity() {
                self.tunnel.handle_activity(slot, &activity, now);
                idle = false;
            }
            while let Some(install) = self.tunnel.poll_install() {
                self.install(install);
                idle = false;
            }
            let mut message = [0; 148];
            while let Some(transmit) = self.tunnel.poll_transmit(&mut message) {
                let datagram = message[..transmit.len].to_vec();
                match transmit.to {
                    To::Peer(slot) => self.transmit(slot, datagram),
                    To::Reply(source) => self.out.push_back((source.address, datagram)),
                }
                idle = false;
            }
            while let Some(event) = self.tunnel.poll_event() {
                self.handle_event(event, now);
                idle = false;
            }
            while let Some(slot) = self.tunnel.poll_query() {
                let activity = self.datapath.take_activity(slot);
                self.tunnel.handle_activity(slot, &activity, now);
                idle = false;
            }
            while let Some(floor) = self.tunnel.poll_persist() {
                self.tunnel.handle_persisted(floor, now);
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    fn install(&mut self, install: Install) {
        match install {
            Install::Session { slot, keys, sealing, opening, send } => {
                self.datapath.install(slot, keys, sealing, opening, send);
            }
            Install::Send { slot, index } => self.datapath.seal_with(slot, index),
            Install::Drop { slot, index } => self.datapath.drop_session(slot, index),
            Install::Mute { slot } => self.datapath.mute(slot),
            Install::DropPeer { slot } => self.datapath.drop_sessions(slot),
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        self.events.push(event);
        match event {
            Event::Established { slot, source, initiator } => {
                self.endpoints[slot.index()] = Some(source.address);
                let sent = self.flush(slot, now);
                if initiator && !sent {
                    self.keepalive(slot, now);
                }
            }
            Event::EndpointConfirmed { slot, source } => {
                self.endpoints[slot.index()] = Some(source.address);
            }
            Event::Keepalive { slot } => self.keepalive(slot, now),
            Event::Failed { slot } => self.staged.retain(|(of, _)| *of != slot),
            Event::Expired { .. } => {}
        }
    }

    /// Sends a keepalive to a peer, if there is a session.
    pub fn keepalive(&mut self, slot: PeerSlot, now: Instant) {
        let mut out = [0; 32];
        if self.datapath.handle_keepalive(slot, &mut out, now).is_some() {
            self.transmit(slot, out.to_vec());
        }
    }

    /// Sends what was staged for a peer; whether there was anything.
    fn flush(&mut self, slot: PeerSlot, now: Instant) -> bool {
        let staged = std::mem::take(&mut self.staged);
        let (mine, others): (VecDeque<_>, VecDeque<_>) =
            staged.into_iter().partition(|(of, _)| *of == slot);
        self.staged = others;
        for (_, packet) in &mine {
            // Without a session after all, it was in vain.
            let _ = self.seal(packet, now);
        }
        !mine.is_empty()
    }
}

impl Node for TunnelNode {
    fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let source = Source { socket: SocketId(0), address: from };
        let result = if datagram.first() == Some(&4) {
            let mut datagram = datagram.to_vec();
            let received = self.datapath.handle_datagram(source, &mut datagram, now);
            received.map(|received| {
                self.delivered.extend(received.packet.map(<[u8]>::to_vec));
            })
        } else {
            self.tunnel.handle_datagram(source, datagram, &mut self.rng, now)
        };
        if let Err(reason) = result {
            self.refused.push(reason);
        }
        self.drain(now);
    }

    fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        if let Some(slot) = self.seal(packet, now) {
            if self.staged.len() == STAGED {
                self.staged.pop_front();
            }
            self.staged.push_back((slot, packet.to_vec()));
            self.tunnel.handle_wanted(slot, now);
        }
        self.drain(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.tunnel.handle_timeout(&mut self.rng, now);
        self.drain(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.tunnel.poll_timeout().map(|(at, _)| at)
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.out.pop_front()
    }

    fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.delivered.pop_front()
    }
}
