//! Our TURN client between a hostile relay, of which the fuzzer has the key, and
//! anybody who reaches its sockets.
//!
//! Data lies inside what came and is of an address that was wanted; nothing is
//! sent elsewhere than to the relays; whatever comes, the client soon has nothing
//! to say and waits for an instant that lies ahead.

use std::net::SocketAddr;

use weft_agent_core::entropy::Entropy;
use weft_agent_core::event::{SocketId, Sockets, Source};
use weft_agent_core::relay::{
    Framed, REQUEST_LEN, Received, RelayClient, Rung, StreamCommand, StreamId, Via,
};
use weft_agent_core::time::{Duration, Instant};
use weft_noise::legacy::{LongTermKey, SharedPassword};
use weft_wire::relay::{Relay, RelayLogin, RelayMac};
use weft_wire::stun::{
    ALLOCATE, Algorithm, Class, DATA_INDICATION, LIFETIME, Message, MessageWriter, NONCE, REALM,
    XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS, kind_of,
};

use crate::script::Script;

const USER: &str = "1764230400:dev@org";
const PEERS: [&str; 6] = [
    "192.0.2.1:7",
    "192.0.2.1:8",
    "192.0.2.2:0",
    "192.0.2.3:7",
    "[2001:db8::1]:7",
    "[::ffff:192.0.2.3]:7",
];
/// More than a drain ever has: six ways, four addresses, a few retries.
const SOON: usize = 64;

struct Count(u8);

impl Entropy for Count {
    fn fill(&mut self, out: &mut [u8]) {
        self.0 = self.0.wrapping_add(1);
        out.fill(self.0);
    }
}

struct World {
    client: RelayClient<4, 256>,
    entropy: Count,
    now: Instant,
    wanted: Vec<SocketAddr>,
    /// The last requests, to be answered.
    requests: Vec<(Via, Vec<u8>)>,
    streams: Vec<StreamId>,
}

fn peer(number: u8) -> SocketAddr {
    PEERS[usize::from(number) % PEERS.len()].parse().expect("an address")
}

/// IPv4 in IPv6's clothes is the same address.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn relays() -> [Relay; 2] {
    let relay = |number: u16, last| Relay {
        number,
        v4: Some([203, 0, 113, last].into()),
        v6: (number == 1).then(|| "2001:db8::10".parse().expect("an address")),
        udp: [3_478, 443],
        tcp: 443,
        tls: 5_349,
    };
    [relay(1, 10), relay(2, 11)]
}

fn key() -> LongTermKey {
    SharedPassword::from_mac(&[7; 20]).key(USER.as_bytes(), b"weft")
}

/// Operations.
pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new();
    while let Some(op) = script.op() {
        match op % 12 {
            0 => {
                let peer = peer(script.byte());
                let is_wanted = world.client.want(peer, world.now).is_ok();
                let peer = canonical(peer);
                if is_wanted && !world.wanted.contains(&peer) {
                    world.wanted.push(peer);
                }
                assert!(world.wanted.len() <= 4);
            }
            1 => {
                let peer = peer(script.byte());
                world.client.unwant(peer);
                world.wanted.retain(|other| *other != canonical(peer));
            }
            2 => world.now += Duration::from_millis(u64::from(script.short()) * 16),
            3 => {
                let source = world.source(script.byte());
                world.datagram(source, script.bytes(512));
            }
            4..=6 => world.answer(&mut script),
            7 => {
                let source = world.source(script.byte());
                let (from, len) = (peer(script.byte()), script.bytes(64));
                let mut out = [0; 256];
                let writer = MessageWriter::new(DATA_INDICATION, [1; 12], &mut out);
                let len = writer.and_then(|mut writer| {
                    writer.xor_address(XOR_PEER_ADDRESS, from)?;
                    writer.attribute(weft_wire::stun::DATA_ATTRIBUTE, len)?;
                    Ok(writer.finish_bare())
                });
                world.datagram(source, &out[..len.expect("room")]);
            }
            8 => {
                let place = usize::from(script.byte());
                let bytes = script.bytes(1_024);
                if let Some(&stream) = world.streams.get(place % world.streams.len().max(1)) {
                    world.stream(stream, bytes);
                }
            }
            9 => match script.byte() % 4 {
                0 => world.client.handle_network_change(world.now),
                1 => world.grant(),
                2 => world.client.set_relays(&relays()[1..], world.now),
                _ => world.client.set_relays(&relays(), world.now),
            },
            10 => {
                let place = usize::from(script.byte());
                if let Some(&stream) = world.streams.get(place % world.streams.len().max(1)) {
                    world.client.handle_stream_closed(stream, world.now);
                }
            }
            _ => match script.byte() % 4 {
                0 => {
                    world.client.release(world.now);
                    world.wanted.clear();
                }
                1 => world.client.suspect(world.now),
                2 => world.client.prefer(Rung::from_number(script.word())),
                _ => world.client.acquire(world.now),
            },
        }
        world.drain();
    }
}

impl World {
    fn new() -> Self {
        let mut client = RelayClient::new();
        let now = Instant::from_secs(1);
        client.set_sockets(Sockets { v4: Some(SocketId(0)), v6: Some(SocketId(1)) }, now);
        client.set_relays(&relays(), now);
        let (wanted, requests, streams) = (vec![], vec![], vec![]);
        let mut world = Self { client, entropy: Count(0), now, wanted, requests, streams };
        world.grant();
        world.drain();
        world
    }

    fn grant(&mut self) {
        let logins = [1, 2].map(|relay| RelayLogin { relay, mac: RelayMac([7; 20]) });
        self.client.set_grant(USER, Duration::from_secs(3_600), &logins, self.now);
    }

    /// Where a request went, or somewhere else.
    fn source(&self, number: u8) -> Source {
        let nowhere = Source { socket: SocketId(0), address: peer(number) };
        let asked = self.requests.get(usize::from(number)).map(|(via, _)| *via);
        match asked {
            Some(Via::Udp { socket, to: server }) => Source { socket, address: server },
            _ => nowhere,
        }
    }

    /// An answer to one of the last requests, signed as the relay does.
    fn answer(&mut self, script: &mut Script<'_>) {
        let place = usize::from(script.byte());
        let shape = script.byte();
        let code = 300 + script.short() % 400;
        let attributes = script.bytes(128);
        let place = place % self.requests.len().max(1);
        let Some((via, request)) = self.requests.get(place).cloned() else { return };
        let request = Message::parse(&request).expect("our own request is a message");
        let class = if shape & 1 == 0 { Class::Success } else { Class::Error };
        let kind = kind_of(request.method(), class);
        let mut out = [0; 1_024];
        let written =
            MessageWriter::new(kind, request.transaction(), &mut out).and_then(|writer| {
                let mut writer = writer;
                if class == Class::Error {
                    writer.error(code)?;
                } else if request.method() == ALLOCATE && shape & 2 == 0 {
                    writer.xor_address(XOR_RELAYED_ADDRESS, peer(3))?;
                    writer.xor_mapped_address(peer(0))?;
                }
                if shape & 4 == 0 {
                    writer.attribute(LIFETIME, &u32::from(code).to_be_bytes())?;
                }
                if shape & 8 != 0 {
                    writer.attribute(REALM, b"weft")?;
                    writer.attribute(NONCE, &[shape; 8])?;
                }
                for chunk in attributes.chunks(6) {
                    let high = u16::from(chunk[0] & 0x80) << 8;
                    writer.attribute(high | u16::from(chunk[0] & 0x3F), &chunk[1..])?;
                }
                if shape & 16 == 0 {
                    key().sign(Algorithm::Sha1, &mut writer)?;
                }
                Ok(writer.finish_bare())
            });
        let len = written.expect("room");
        match via {
            Via::Udp { socket, to: server } => {
                self.datagram(Source { socket, address: server }, &out[..len]);
            }
            Via::Stream(stream) => self.stream(stream, &out[..len]),
        }
    }

    fn datagram(&mut self, source: Source, bytes: &[u8]) {
        let received = self.client.handle_datagram(source, bytes, self.now);
        if let Ok(Received::Data { peer, at }) = received {
            assert!(bytes.get(at).is_some());
            self.data_of(peer);
        }
    }

    fn data_of(&self, peer: SocketAddr) {
        assert!(self.wanted.iter().any(|wanted| wanted.ip() == peer.ip()), "{peer}");
    }

    fn stream(&mut self, stream: StreamId, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.client.handle_stream_data(stream, bytes);
            bytes = &bytes[taken..];
            let mut frames = 0;
            let mut peers = vec![];
            while let Some(frame) = self.client.poll_stream_frame(self.now) {
                if let Framed::Data { peer, .. } = frame {
                    peers.push(peer);
                }
                frames += 1;
                assert!(frames <= 256, "a frame has a byte at least");
            }
            assert!(taken > 0 || frames > 0, "it takes nothing and gives nothing");
            peers.into_iter().for_each(|peer| self.data_of(peer));
        }
    }

    fn drain(&mut self) {
        self.client.handle_timeout(self.now);
        let mut out = [0; REQUEST_LEN];
        let mut said = 0;
        loop {
            said += 1;
            assert!(said <= SOON, "it does not stop");
            if let Some(command) = self.client.poll_stream() {
                self.command(command);
                continue;
            }
            if self.client.poll_event().is_some() {
                continue;
            }
            let (entropy, now) = (&mut self.entropy, self.now);
            let sent = self.client.poll_transmit(&mut out, entropy, now);
            let sent = sent.or_else(|| self.client.poll_stream_transmit(&mut out, entropy, now));
            let Some(sent) = sent else { break };
            if let Via::Udp { to: server, .. } = sent.via {
                let relays = ["203.0.113.10", "203.0.113.11", "2001:db8::10"];
                assert!(relays.contains(&&*server.ip().to_string()), "{server} is no relay");
            }
            self.requests.insert(0, (sent.via, out[..sent.len].to_vec()));
            self.requests.truncate(12);
        }
        self.client.handle_timeout(self.now);
        let due = self.client.poll_timeout();
        assert!(due.is_none_or(|(at, _)| at > self.now), "{due:?} at {:?}", self.now);
    }

    fn command(&mut self, command: StreamCommand) {
        match command {
            StreamCommand::Open { stream, .. } => {
                self.client.handle_stream_connected(stream, self.now);
                self.streams.insert(0, stream);
                self.streams.truncate(4);
            }
            StreamCommand::Close { stream } => {
                assert!(self.streams.contains(&stream) || self.streams.len() == 4);
            }
        }
    }
}
