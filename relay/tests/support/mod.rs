//! A relay without sockets, and clients that speak TURN to it on virtual time.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by tests, which may panic")]

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use weft_noise::legacy::{LongTermKey, SharedPassword};
use weft_relay::proto::turn::{
    Client, Command, Counters, Hop, Now, Opened, Output, Prefix, Relay, Settings, SharedSecret,
    Turn, Via,
};
use weft_wire::stun::{
    ALLOCATE_REQUEST, Algorithm, CHANNEL_BIND_REQUEST, CREATE_PERMISSION_REQUEST, ChannelData,
    Family, LIFETIME, Message, MessageWriter, NONCE, REALM, SEND_INDICATION, UDP, USERNAME,
    XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS, code,
};

pub(crate) const SECRET: &[u8] = b"a secret of sixteen";
pub(crate) const UNIX: u64 = 1_700_000_000;
pub(crate) const RELAY_IP: &str = "203.0.113.10";

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn client(port: u16) -> Client {
    let local: IpAddr = "203.0.113.10".parse().unwrap();
    let via = Via::Udp { listener: 0, local };
    Client { via, address: SocketAddr::from(([198, 51, 100, 7], port)) }
}

pub(crate) fn settings() -> Settings {
    Settings {
        secrets: vec![SharedSecret::new(SECRET)],
        relay_v4: Some(RELAY_IP.parse().unwrap()),
        listeners: vec![address("203.0.113.10:3478")],
        ..Settings::default()
    }
}

/// What came out of the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Answer(Client, Vec<u8>),
    /// From an allocation's port to a peer.
    Peer(u16, SocketAddr, Vec<u8>),
    /// ChannelData or a Data indication.
    Client(Client, Vec<u8>),
}

pub(crate) struct World {
    pub(crate) turn: Turn,
    pub(crate) now: Now,
    /// Open sockets, by the relay's word.
    pub(crate) open: HashSet<(u32, u8)>,
    pub(crate) ports: std::collections::HashMap<(u32, u8), u16>,
    /// What the next openings end with.
    pub(crate) opening: Vec<Opened>,
    pub(crate) user: String,
    pub(crate) secret: Vec<u8>,
    nonce: Vec<u8>,
    transactions: u64,
    out: Output,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            turn: Turn::new(settings, &[7; 32]),
            now: Now { ms: 0, unix_s: UNIX },
            open: HashSet::new(),
            ports: std::collections::HashMap::new(),
            opening: Vec::new(),
            user: format!("{}:dev@org", UNIX + 86_400),
            secret: SECRET.to_vec(),
            nonce: Vec::new(),
            transactions: 0,
            out: Output::default(),
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.turn.counters()
    }

    /// Lets time pass; every timer fires when it is due.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now.ms + ms;
        while let Some(at) = self.turn.poll_timeout().filter(|at| *at <= end) {
            self.now.ms = self.now.ms.max(at);
            self.turn.handle_timeout(self.now, &mut self.out);
            assert!(self.drain(&[]).is_empty());
        }
        self.now.ms = end;
        self.now.unix_s = UNIX + end / 1_000;
    }

    /// Does what the relay said about `input`.
    fn drain(&mut self, input: &[u8]) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut at = 0;
        while let Some(command) = self.out.commands.get(at).cloned() {
            at += 1;
            match command {
                Command::Answer { to, bytes } => {
                    sent.push(Sent::Answer(to, self.out.bytes[bytes].to_vec()));
                }
                Command::Open { relay, port } => {
                    let opened = self.opening.pop().unwrap_or(Opened::Open);
                    if opened == Opened::Open {
                        assert!(self.open.insert(key(relay)), "opened twice");
                        self.ports.insert(key(relay), port);
                    }
                    self.turn.handle_opened(relay, opened, self.now, &mut self.out);
                }
                Command::Close(relay) => {
                    self.open.remove(&key(relay));
                }
                Command::Hangup(_) => {}
                Command::Forward { to, prefix, run } => {
                    for index in 0..run.count {
                        let body = &input[run.range(index)];
                        sent.push(match to {
                            Hop::Peer { from, to } => {
                                assert!(self.open.contains(&key(from)), "out of a closed socket");
                                Sent::Peer(self.ports[&key(from)], to, body.to_vec())
                            }
                            Hop::Client(client) => Sent::Client(client, self.framed(&prefix, body)),
                        });
                    }
                }
            }
        }
        self.out.clear();
        sent
    }

    fn framed(&self, prefix: &Prefix, body: &[u8]) -> Vec<u8> {
        let mut channel = [0; 4];
        let (head, padding) = self.out.around(prefix, body.len(), &mut channel);
        [head, body, &[0; 3][..padding]].concat()
    }

    pub(crate) fn datagram(&mut self, from: &Client, bytes: &[u8]) -> Vec<Sent> {
        self.burst(from, bytes, bytes.len())
    }

    pub(crate) fn burst(&mut self, from: &Client, bytes: &[u8], segment: usize) -> Vec<Sent> {
        self.turn.handle_client(from, bytes, segment, self.now, &mut self.out);
        self.drain(bytes)
    }

    pub(crate) fn peer_sends(
        &mut self,
        port: u16,
        source: &str,
        bytes: &[u8],
        segment: usize,
    ) -> Vec<Sent> {
        let found = self.ports.iter().find(|(key, own)| **own == port && self.open.contains(*key));
        let Some((&(allocation, family), _)) = found else { return Vec::new() };
        let family = if family == 0 { Family::V4 } else { Family::V6 };
        let relay = Relay { allocation, family };
        let source = address(source);
        self.turn.handle_peer(relay, source, bytes, segment, self.now, &mut self.out);
        self.drain(bytes)
    }

    pub(crate) fn deny(&mut self, name: &str) {
        self.turn.handle_denied(name, self.now, &mut self.out);
        assert!(self.drain(&[]).is_empty());
    }

    pub(crate) fn hang_up(&mut self, from: &Client) {
        self.turn.handle_closed(from, &mut self.out);
        assert!(self.drain(&[]).is_empty());
    }

    fn transaction(&mut self) -> [u8; 12] {
        self.transactions += 1;
        let mut transaction = [0; 12];
        transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
        transaction
    }

    pub(crate) fn key(&self) -> LongTermKey {
        SharedPassword::new(&self.secret, self.user.as_bytes()).key(self.user.as_bytes(), b"weft")
    }

    pub(crate) fn signed(
        &mut self,
        kind: u16,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let mut buffer = [0; 1_500];
        let transaction = self.transaction();
        let mut writer = MessageWriter::new(kind, transaction, &mut buffer).unwrap();
        write(&mut writer);
        writer.attribute(USERNAME, self.user.as_bytes()).unwrap();
        writer.attribute(REALM, b"weft").unwrap();
        writer.attribute(NONCE, &self.nonce).unwrap();
        self.key().sign(Algorithm::Sha1, &mut writer).unwrap();
        let len = writer.finish().unwrap();
        buffer[..len].to_vec()
    }

    /// Gets a nonce, as a client whose request is long enough to be answered.
    pub(crate) fn meet(&mut self, from: &Client) {
        let mut buffer = [0; 256];
        let transaction = self.transaction();
        let mut writer = MessageWriter::new(ALLOCATE_REQUEST, transaction, &mut buffer).unwrap();
        writer.attribute(weft_wire::stun::SOFTWARE, &[b'x'; 100]).unwrap();
        let len = writer.finish().unwrap();
        let answer = self.datagram(from, &buffer[..len]);
        let [Sent::Answer(_, bytes)] = &answer[..] else { panic!("{answer:?}") };
        let message = Message::parse(bytes).unwrap();
        assert_eq!(message.error().unwrap().0, code::UNAUTHENTICATED);
        self.nonce = message.get(NONCE).unwrap().to_vec();
    }

    /// A signed request; returns its answer, whose signature holds.
    pub(crate) fn ask(
        &mut self,
        from: &Client,
        kind: u16,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        if self.nonce.is_empty() {
            self.meet(from);
        }
        let bytes = self.signed(kind, write);
        let sent = self.datagram(from, &bytes);
        let [Sent::Answer(to, answer)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(to, from);
        let message = Message::parse(answer).unwrap();
        if let Some(integrity) = message.integrity(Algorithm::Sha1) {
            assert!(self.key().verify(Algorithm::Sha1, &integrity));
        }
        answer.clone()
    }

    /// The same, for its error number; 0 for success.
    pub(crate) fn number(
        &mut self,
        from: &Client,
        kind: u16,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> u16 {
        let answer = self.ask(from, kind, write);
        Message::parse(&answer).unwrap().error().map_or(0, |(number, _)| number)
    }

    /// Makes an allocation; returns its port.
    pub(crate) fn allocate(&mut self, from: &Client, lifetime: u32) -> u16 {
        let answer = self.ask(from, ALLOCATE_REQUEST, |writer| {
            writer.requested_transport(UDP).unwrap();
            writer.lifetime(lifetime).unwrap();
        });
        let message = Message::parse(&answer).unwrap();
        assert_eq!(message.error(), None);
        assert_eq!(message.mapped_address(), Some(from.address));
        assert!(message.get(LIFETIME).is_some());
        let relayed = message.xor_address(XOR_RELAYED_ADDRESS).unwrap();
        assert_eq!(relayed.ip().to_string(), RELAY_IP);
        relayed.port()
    }

    pub(crate) fn permit(&mut self, from: &Client, peer: &str) -> u16 {
        let peer = address(peer);
        self.number(from, CREATE_PERMISSION_REQUEST, |writer| {
            writer.xor_address(XOR_PEER_ADDRESS, peer).unwrap();
        })
    }

    pub(crate) fn bind(&mut self, from: &Client, channel: u16, peer: &str) -> u16 {
        let peer = address(peer);
        self.number(from, CHANNEL_BIND_REQUEST, |writer| {
            writer.channel_number(channel).unwrap();
            writer.xor_address(XOR_PEER_ADDRESS, peer).unwrap();
        })
    }

    pub(crate) fn send(&mut self, from: &Client, peer: &str, data: &[u8]) -> Vec<Sent> {
        let mut buffer = [0; 1_500];
        let transaction = self.transaction();
        let mut writer = MessageWriter::new(SEND_INDICATION, transaction, &mut buffer).unwrap();
        writer.xor_address(XOR_PEER_ADDRESS, address(peer)).unwrap();
        writer.attribute(weft_wire::stun::DATA_ATTRIBUTE, data).unwrap();
        let len = writer.finish_bare();
        self.datagram(from, &buffer[..len])
    }

    pub(crate) fn channel_data(&mut self, from: &Client, channel: u16, data: &[u8]) -> Vec<Sent> {
        let bytes = [&ChannelData::header(channel, data.len() as u16)[..], data].concat();
        self.datagram(from, &bytes)
    }
}

fn key(relay: Relay) -> (u32, u8) {
    (relay.allocation, relay.family as u8)
}
