//! The look at a NAT, between hostile servers and anybody who reaches its sockets.
//!
//! It says how many sockets it takes and uses no other; it asks no more than a
//! bounded number of times, and never this machine itself or everybody at once;
//! whatever comes, it ends.

use std::net::{IpAddr, SocketAddr};

use weft_agent_core::entropy::Entropy;
use weft_agent_core::event::SocketId;
use weft_agent_core::stun::DISCOVERY_REQUEST_LEN;
use weft_agent_core::stun::discovery::{Discovery, Tests};
use weft_agent_core::time::{Duration, Instant};
use weft_wire::stun::{BINDING_ERROR, BINDING_SUCCESS, Message, MessageWriter, OTHER_ADDRESS};

use crate::script::Script;

const ADDRESSES: [&str; 8] = [
    "203.0.113.10:3478",
    "203.0.113.10:3479",
    "203.0.113.11:3478",
    "203.0.113.11:3479",
    "127.0.0.1:7",
    "224.0.0.1:7",
    "198.51.100.7:0",
    "[2001:db8::1]:7",
];
/// Three for each of 41 questions.
const MOST: usize = 123;
/// More than the longest rest, and everything before and behind it.
const LONGEST: Duration = Duration::from_secs(200);

struct Count(u8);

impl Entropy for Count {
    fn fill(&mut self, out: &mut [u8]) {
        self.0 = self.0.wrapping_add(1);
        out.fill(self.0);
    }
}

fn address(number: u8) -> SocketAddr {
    ADDRESSES[usize::from(number) % ADDRESSES.len()].parse().expect("an address")
}

struct World {
    look: Discovery,
    now: Instant,
    /// Who was asked from where, and how.
    requests: Vec<(SocketId, SocketAddr, Vec<u8>)>,
}

impl World {
    fn drain(&mut self) {
        let mut out = [0; DISCOVERY_REQUEST_LEN];
        while let Some(transmit) = self.look.poll_transmit(&mut out, self.now) {
            assert!(transmit.socket.0 < self.look.sockets());
            let (ip, port) = (transmit.to.ip(), transmit.to.port());
            assert!(port != 0 && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast());
            assert!(!matches!(ip, IpAddr::V6(_)), "the servers are of the other family");
            self.requests.push((transmit.socket, transmit.to, out[..transmit.len].to_vec()));
            assert!(self.requests.len() <= MOST);
        }
        // What is due was done.
        if let Some((at, reason)) = self.look.poll_timeout() {
            assert!(at > self.now || !self.look.is_done(), "{reason}");
        }
    }

    fn answer(&mut self, script: &mut Script<'_>) {
        let [place, shape, mapped, other] = [(); 4].map(|()| script.byte());
        let Some((socket, to, request)) =
            self.requests.iter().rev().nth(usize::from(place) % self.requests.len().max(1))
        else {
            return;
        };
        let id = Message::parse(request).expect("our own").transaction();
        let mut out = [0; 128];
        let kind = if shape & 1 == 0 { BINDING_SUCCESS } else { BINDING_ERROR };
        let mut writer = MessageWriter::new(kind, id, &mut out).expect("room");
        if shape & 2 == 0 {
            writer.xor_mapped_address(address(mapped)).expect("room");
        }
        if shape & 4 == 0 {
            writer.address(OTHER_ADDRESS, address(other)).expect("room");
        }
        let len = writer.finish().expect("room");
        let source = if shape & 8 == 0 { *to } else { address(other) };
        let socket = if shape & 16 == 0 { *socket } else { SocketId(shape >> 5) };
        // A request that comes back is hairpinned.
        let bytes = if shape & 32 == 0 { out[..len].to_vec() } else { request.clone() };
        let _any = self.look.handle_datagram(socket, source, &bytes, self.now);
    }
}

/// Operations.
pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let servers: Vec<SocketAddr> = (0..script.byte() % 4).map(address).collect();
    let lives_s = [1, 15, 30, 180].into_iter().take(usize::from(script.byte()) % 5).collect();
    let tests = Tests { filtering: script.byte() & 1 == 0, lives_s };
    let start = Instant::from_secs(1);
    let look = Discovery::new(&servers, tests, &mut Count(0), start);
    let mut world = World { look, now: start, requests: Vec::new() };
    world.drain();
    while let Some(op) = script.op() {
        match op % 4 {
            0 => {
                world.now += Duration::from_millis(u64::from(script.short()));
                world.look.handle_timeout(world.now);
            }
            1 => {
                let (socket, source) = (SocketId(script.byte()), address(script.byte()));
                let _any = world.look.handle_datagram(socket, source, script.bytes(512), world.now);
            }
            _ => world.answer(&mut script),
        }
        world.drain();
    }
    let end = world.now + LONGEST;
    while let Some((at, _)) = world.look.poll_timeout() {
        assert!(at < end, "it waits too long");
        world.now = world.now.max(at);
        world.look.handle_timeout(world.now);
        world.drain();
    }
    assert!(world.look.is_done());
    let _judged = (world.look.mapping(), world.look.filtering(), world.look.lifetime());
}
