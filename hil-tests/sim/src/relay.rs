//! Our relay as a host of a [`Network`]: its protocol is the real one, its
//! sockets are the network's.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use weft_agent_core::time::Instant;
use weft_relay::proto::turn::{
    Client, Command, Hop, Now, Opened, Output, Prefix, Relay, Settings, SharedSecret, Turn, Via,
};

use crate::net::{Datagram, HostId, Network};

/// Where it listens.
pub const PORT: u16 = 3_478;

/// A relay on its host.
pub struct Server {
    /// The protocol.
    pub turn: Turn,
    /// Its host.
    pub host: HostId,
    /// It takes packets and does nothing.
    pub is_dead: bool,
    /// It answers its users, and passes nothing on.
    pub is_deaf: bool,
    ip: Ipv4Addr,
    secret: Vec<u8>,
    unix_s: u64,
    ports: BTreeMap<u16, Relay>,
    out: Output,
}

fn turn(ip: Ipv4Addr, secret: &[u8], seed: u8) -> Turn {
    let settings = Settings {
        secrets: vec![SharedSecret::new(secret)],
        relay_v4: Some(ip),
        listeners: vec![SocketAddr::new(ip.into(), PORT)],
        ..Settings::default()
    };
    Turn::new(settings, &[seed; 32])
}

impl Server {
    /// A relay at this host, whose users' passwords are made with `secret`, where
    /// virtual time began at `unix_s`.
    pub fn new(host: HostId, ip: Ipv4Addr, secret: &[u8], unix_s: u64, seed: u8) -> Self {
        let (ports, out) = (BTreeMap::new(), Output::default());
        let turn = turn(ip, secret, seed);
        let secret = secret.to_vec();
        Self { turn, host, is_dead: false, is_deaf: false, ip, secret, unix_s, ports, out }
    }

    /// Power off and on: all allocations are forgotten.
    pub fn restart(&mut self, seed: u8) {
        self.turn = turn(self.ip, &self.secret, seed);
        self.ports.clear();
        self.out.clear();
    }

    /// The same, with another secret: nobody's password holds any more.
    pub fn restart_with(&mut self, secret: &[u8], seed: u8) {
        self.secret = secret.to_vec();
        self.restart(seed);
    }

    fn unix(&self, now: Instant) -> Now {
        Now { ms: now.as_millis(), unix_s: self.unix_s + now.as_millis() / 1_000 }
    }

    /// Its address.
    pub const fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// An operator denies a user.
    pub fn deny(&mut self, user: &str, now: Instant, network: &mut Network) {
        let at = self.unix(now);
        self.turn.handle_denied(user, at, &mut self.out);
        self.drain(&[], now, network);
    }

    /// When [`Server::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.turn.poll_timeout().map(Instant::from_millis)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, network: &mut Network) {
        let at = self.unix(now);
        self.turn.handle_timeout(at, &mut self.out);
        self.drain(&[], now, network);
    }

    /// A datagram for this host came.
    pub fn handle(&mut self, datagram: &Datagram, now: Instant, network: &mut Network) {
        if self.is_dead {
            return;
        }
        let (bytes, at) = (&datagram.bytes[..], self.unix(now));
        let port = datagram.destination.port();
        if port == PORT {
            let via = Via::Udp { listener: 0, local: self.ip.into() };
            let client = Client { via, address: datagram.source };
            self.turn.handle_client(&client, bytes, bytes.len(), at, &mut self.out);
        } else if let Some(relay) = self.ports.get(&port) {
            let source = datagram.source;
            self.turn.handle_peer(*relay, source, bytes, bytes.len(), at, &mut self.out);
        }
        self.drain(bytes, now, network);
    }

    fn drain(&mut self, input: &[u8], now: Instant, network: &mut Network) {
        let mut at = 0;
        while let Some(command) = self.out.commands.get(at).cloned() {
            at += 1;
            match command {
                Command::Answer { to, bytes } => {
                    let bytes = self.out.bytes[bytes].to_vec();
                    self.send(PORT, to.address, bytes, now, network);
                }
                Command::Open { relay, port } => {
                    self.ports.insert(port, relay);
                    self.turn.handle_opened(relay, Opened::Open, self.unix(now), &mut self.out);
                }
                Command::Close(relay) => self.ports.retain(|_, other| *other != relay),
                Command::Hangup(_) => {}
                Command::Forward { .. } if self.is_deaf => {}
                Command::Forward { to, prefix, run } => {
                    let body = &input[run.range(0)];
                    assert_eq!(run.count, 1);
                    match to {
                        Hop::Peer { from, to } => {
                            let of = self.ports.iter().find(|(_, it)| **it == from);
                            let port = *of.expect("it was opened").0;
                            self.send(port, to, body.to_vec(), now, network);
                        }
                        Hop::Client(client) => {
                            let bytes = self.framed(&prefix, body);
                            self.send(PORT, client.address, bytes, now, network);
                        }
                    }
                }
            }
        }
        self.out.clear();
    }

    fn framed(&self, prefix: &Prefix, body: &[u8]) -> Vec<u8> {
        let mut channel = [0; 4];
        let (head, padding) = self.out.around(prefix, body.len(), &mut channel);
        [head, body, &[0; 3][..padding]].concat()
    }

    fn send(
        &self,
        port: u16,
        destination: SocketAddr,
        bytes: Vec<u8>,
        now: Instant,
        network: &mut Network,
    ) {
        let source = SocketAddr::new(self.ip.into(), port);
        network.send(self.host, Datagram { source, destination, bytes }, now);
    }

    /// Packets that were dropped since something had lapsed, or was not there yet.
    pub fn refused(&self) -> u64 {
        let counters = self.turn.counters();
        counters.dropped_no_allocation
            + counters.dropped_no_permission
            + counters.dropped_no_channel
    }
}
