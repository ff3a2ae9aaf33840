//! Two tunnels with their data paths, and a network between them that loses,
//! repeats, reorders and changes what it carries.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use weft_agent_core::config::TunnelConfig;
use weft_agent_core::event::PeerSlot;
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::PeerKeys;
use weft_noise::key::StaticSecret;
use weft_sim::mesh::echo;
use weft_sim::{Node as _, TunnelNode};

use crate::keys::{OUR_SECRET, PEER_SECRET, psk};
use crate::script::Script;

/// Operations of one run.
const OPS: usize = 200;
/// Datagrams on their way.
const CARRIED: usize = 64;
/// Outputs of one input: more means that it does not come to an end.
const OUTPUTS: usize = 1_000;

struct Pair {
    nodes: [TunnelNode; 2],
    now: Instant,
    /// To whom, and whether it was changed on the way.
    carried: VecDeque<(usize, Vec<u8>, bool)>,
    sequence: u16,
    delivered: BTreeSet<Vec<u8>>,
}

const fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(100, 93, 0, 2 + node as u8)
}

fn endpoint(node: usize) -> SocketAddr {
    ([192, 0, 2, 1 + node as u8], 51_871).into()
}

fn secret(node: usize) -> StaticSecret {
    StaticSecret::from_bytes(if node == 0 { OUR_SECRET } else { PEER_SECRET })
}

impl Pair {
    fn new() -> Self {
        let node = |of: usize| {
            let config = TunnelConfig::new();
            TunnelNode::new(secret(of), 1, config, 7 + of as u64)
        };
        let mut pair = Self {
            nodes: [node(0), node(1)],
            now: Instant::from_secs(1),
            carried: VecDeque::new(),
            sequence: 0,
            delivered: BTreeSet::new(),
        };
        pair.introduce(0);
        pair.introduce(1);
        pair
    }

    fn introduce(&mut self, to: usize) {
        let other = 1 - to;
        let keys = PeerKeys::new(secret(other).public(), psk());
        let overlay = IpAddr::V4(address(other));
        self.nodes[to].add_peer(PeerSlot(0), keys, overlay, endpoint(other), self.now);
    }

    fn send(&mut self, from: usize) {
        self.sequence = self.sequence.wrapping_add(1);
        let packet = echo::request(address(from), address(1 - from), self.sequence, 40);
        self.nodes[from].handle_packet(&packet, self.now);
        self.drain();
    }

    fn deliver(&mut self, (to, datagram, changed): (usize, Vec<u8>, bool)) {
        let node = &mut self.nodes[to];
        let refused = node.refused.len();
        node.handle_datagram(endpoint(1 - to), &datagram, self.now);
        let refused = node.refused.len() > refused;
        // mac2 of an initiation or response counts under load only.
        assert!(refused || !changed, "what was changed is refused");
        self.drain();
    }

    fn timeout(&mut self, node: usize) {
        if let Some(at) = self.nodes[node].poll_timeout() {
            self.now = self.now.max(at);
            self.nodes[node].handle_timeout(self.now);
            self.drain();
        }
    }

    fn drain(&mut self) {
        for node in 0..2 {
            for turn in 0.. {
                assert!(turn < OUTPUTS, "outputs come to an end");
                let Some((_, datagram)) = self.nodes[node].poll_transmit() else { break };
                if self.carried.len() == CARRIED {
                    self.carried.pop_front();
                }
                self.carried.push_back((1 - node, datagram, false));
            }
            while let Some(packet) = self.nodes[node].poll_packet() {
                assert!(self.delivered.insert(packet), "a packet is delivered once");
            }
        }
    }

    /// Changes a datagram on its way by one bit of what is authenticated.
    fn change(&mut self, at: usize, bit: usize) {
        let Some((_, datagram, changed)) = self.carried.get_mut(at) else { return };
        let end = match datagram.first() {
            Some(1 | 2) => datagram.len() - 16,
            _ => datagram.len(),
        };
        if !*changed && let Some(byte) = datagram[..end].get_mut(bit / 8 % end) {
            *byte ^= 1 << (bit % 8);
            *changed = true;
        }
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut pair = Pair::new();
    for _ in 0..OPS {
        let Some(op) = script.op() else { break };
        let node = usize::from(op >> 7);
        let at = usize::from(script.byte());
        let choice = at % pair.carried.len().max(1);
        match op % 10 {
            0 => pair.send(node),
            1 | 2 => {
                if let Some(carried) = pair.carried.remove(choice) {
                    pair.deliver(carried);
                }
            }
            3 => {
                if let Some(carried) = pair.carried.get(choice).cloned() {
                    pair.deliver(carried);
                }
            }
            4 => drop(pair.carried.remove(choice)),
            5 => pair.change(choice, usize::from(script.short())),
            6 => pair.timeout(node),
            7 => pair.now += Duration::from_millis(u64::from(script.short())),
            8 => pair.nodes[node].tunnel.remove_peer(PeerSlot(0)),
            _ => pair.introduce(node),
        }
        let now = pair.now;
        pair.nodes.iter_mut().for_each(|node| node.drain(now));
        pair.drain();
    }
}
