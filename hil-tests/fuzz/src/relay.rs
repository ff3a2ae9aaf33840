//! The relay between hostile clients, of whom the fuzzer has the credentials,
//! and hostile peers.
//!
//! What is sent on lies inside what came; nothing goes to an address that is
//! closed, or out of a socket that is not open; every allocation ends.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use weft_noise::legacy::SharedPassword;
use weft_relay::proto::turn::{
    Client, Command, Hop, Now, Opened, Output, Prefix, Relay, Settings, SharedSecret, Turn, Via,
};
use weft_wire::stun::{
    ALLOCATE_REQUEST, Algorithm, CHANNEL_BIND_REQUEST, CREATE_PERMISSION_REQUEST, Family, Message,
    MessageWriter, NONCE, REALM, REFRESH_REQUEST, USERNAME, XOR_PEER_ADDRESS, kind_of,
};

use crate::script::Script;

const SECRET: &[u8] = b"the fuzzer has it";
const UNIX: u64 = 1_700_000_000;
/// Two own addresses are among them, and one behind IPv6.
const PEERS: [&str; 8] = [
    "192.0.2.1:7",
    "192.0.2.2:7",
    "203.0.113.10:49152",
    "203.0.113.10:49153",
    "127.0.0.1:7",
    "10.0.0.1:7",
    "[2001:db8::1]:7",
    "[64:ff9b::7f00:1]:7",
];

struct World {
    turn: Turn,
    now: Now,
    open: HashSet<(u32, u8)>,
    nonce: Vec<u8>,
    out: Output,
    transactions: u64,
}

fn client(number: u8) -> Client {
    let local = IpAddr::from([203, 0, 113, 10]);
    let via = match number & 4 {
        0 => Via::Udp { listener: 0, local },
        _ => Via::Stream(u32::from(number)),
    };
    Client { via, address: SocketAddr::from(([198, 51, 100, number & 3], 7)) }
}

fn peer(number: u8) -> SocketAddr {
    PEERS[usize::from(number) % PEERS.len()].parse().expect("an address")
}

/// Operations.
pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new();
    while let Some(op) = script.op() {
        let from = client(script.byte());
        match op % 8 {
            0 => {
                let segment = usize::from(script.byte()) + 1;
                world.datagram(&from, script.bytes(2_048), segment);
            }
            1 | 2 => {
                let kinds = [
                    ALLOCATE_REQUEST,
                    REFRESH_REQUEST,
                    CREATE_PERMISSION_REQUEST,
                    CHANNEL_BIND_REQUEST,
                ];
                let kind = kinds[usize::from(script.byte()) % 4];
                let (peer, channel) = (peer(script.byte()), 0x4000 + u16::from(script.byte() % 4));
                let attributes = script.bytes(256);
                world.ask(&from, kind, peer, channel, attributes);
            }
            3 => {
                let relay = Relay {
                    allocation: u32::from(script.byte() % 8),
                    family: if script.byte().is_multiple_of(2) { Family::V4 } else { Family::V6 },
                };
                let source = peer(script.byte());
                let bytes = script.bytes(2_048);
                let segment = usize::from(script.byte()) + 1;
                let (now, out) = (world.now, &mut world.out);
                world.turn.handle_peer(relay, source, bytes, segment, now, out);
                world.drain(bytes, 0);
            }
            4 => world.pass(u64::from(script.short()) * 16),
            5 => {
                world.turn.handle_denied("dev@org", world.now, &mut world.out);
                world.turn.handle_allowed("dev@org");
                world.drain(&[], 0);
                assert_eq!(world.turn.allocations(), 0);
            }
            6 => {
                world.turn.handle_closed(&from, &mut world.out);
                world.drain(&[], 0);
            }
            _ => world.turn.set_draining(script.byte().is_multiple_of(2)),
        }
    }
    world.pass(4_000_000);
    assert_eq!((world.turn.allocations(), world.turn.users()), (0, 0));
    assert!(world.open.is_empty());
    assert_eq!(world.turn.poll_timeout(), None);
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            secrets: vec![SharedSecret::new(SECRET)],
            relay_v4: Some([203, 0, 113, 10].into()),
            relay_v6: Some("2001:db8::10".parse().expect("an address")),
            ports: 49_152..=49_159,
            listeners: vec![([203, 0, 113, 10], 3_478).into()],
            max_per_user: 5,
            max_permissions: 4,
            max_channels: 3,
            bytes_per_s: 5_000,
            ..Settings::default()
        };
        let now = Now { ms: 0, unix_s: UNIX };
        let (turn, open) = (Turn::new(settings, &[7; 32]), HashSet::new());
        Self { turn, now, open, nonce: Vec::new(), out: Output::default(), transactions: 0 }
    }

    fn pass(&mut self, ms: u64) {
        self.now.ms += ms;
        self.turn.handle_timeout(self.now, &mut self.out);
        self.drain(&[], 0);
        assert!(self.turn.poll_timeout().is_none_or(|at| at > self.now.ms));
    }

    fn datagram(&mut self, from: &Client, bytes: &[u8], segment: usize) {
        self.turn.handle_client(from, bytes, segment, self.now, &mut self.out);
        self.drain(bytes, segment.min(bytes.len()));
    }

    fn ask(&mut self, from: &Client, kind: u16, peer: SocketAddr, channel: u16, attributes: &[u8]) {
        let user = format!("{}:dev@org", UNIX + 864_000);
        let key = SharedPassword::new(SECRET, user.as_bytes()).key(user.as_bytes(), b"weft");
        let mut buffer = [0; 1_500];
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
        let written = MessageWriter::new(kind, transaction, &mut buffer).and_then(|mut writer| {
            match kind {
                ALLOCATE_REQUEST => writer.requested_transport(17)?,
                CHANNEL_BIND_REQUEST => writer.channel_number(channel)?,
                _ => {}
            }
            if [CHANNEL_BIND_REQUEST, CREATE_PERMISSION_REQUEST].contains(&kind) {
                writer.xor_address(XOR_PEER_ADDRESS, peer)?;
            }
            for chunk in attributes.chunks(6) {
                // The numbers of TURN's attributes, and those that may be ignored.
                let high = u16::from(chunk[0] & 0x80) << 8;
                writer.attribute(high | u16::from(chunk[0] & 0x3F), &chunk[1..])?;
            }
            writer.attribute(USERNAME, user.as_bytes())?;
            writer.attribute(REALM, b"weft")?;
            writer.attribute(NONCE, &self.nonce)?;
            key.sign(Algorithm::Sha1, &mut writer)?;
            Ok(writer.finish_bare())
        });
        let len = written.expect("room");
        self.datagram(from, &buffer[..len], len);
    }

    /// Does what the relay said about `input`, whose packets have this length.
    fn drain(&mut self, input: &[u8], segment: usize) {
        let mut at = 0;
        while let Some(command) = self.out.commands.get(at).cloned() {
            at += 1;
            match command {
                Command::Answer { bytes, .. } => self.answered(&bytes, segment),
                Command::Open { relay, port } => {
                    let opened = [Opened::Open, Opened::Open, Opened::Taken][usize::from(port) % 3];
                    if opened == Opened::Open {
                        let is_new = self.open.insert((relay.allocation, relay.family as u8));
                        assert!(is_new, "opened twice");
                    }
                    self.turn.handle_opened(relay, opened, self.now, &mut self.out);
                }
                Command::Close(relay) => {
                    self.open.remove(&(relay.allocation, relay.family as u8));
                }
                Command::Hangup(_) => {}
                Command::Forward { to, prefix, run } => {
                    assert!(run.count > 0 && run.last <= run.len);
                    assert!((0..run.count).all(|index| input.get(run.range(index)).is_some()));
                    if let Prefix::Head(head) = prefix {
                        assert!(run.count == 1 && self.out.bytes.get(head).is_some());
                    }
                    if let Hop::Peer { from, to } = to {
                        assert!(self.open.contains(&(from.allocation, from.family as u8)));
                        let open = ["192.0.2.1", "192.0.2.2", "2001:db8::1"];
                        assert!(open.contains(&&*to.ip().to_string()), "{to} is closed");
                    }
                }
            }
        }
        self.out.clear();
    }

    fn answered(&mut self, bytes: &std::ops::Range<usize>, segment: usize) {
        let answer = self.out.bytes.get(bytes.clone()).expect("inside");
        let message = Message::parse(answer).expect("our own answer is a message");
        let is_binding = message.method() == weft_wire::stun::BINDING;
        if let Some(nonce) = message.get(NONCE) {
            self.nonce = nonce.to_vec();
            assert!(segment > 0 && !is_binding);
        }
        let class = message.class();
        assert_eq!(kind_of(message.method(), class), message.kind());
        assert!(matches!(class, weft_wire::stun::Class::Success | weft_wire::stun::Class::Error));
    }
}
