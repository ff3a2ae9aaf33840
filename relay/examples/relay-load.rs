//! A load for TURN servers, for `cargo xtask bench relay`.
//!
//!     relay-load flow SERVER SECRET PID BURST SECONDS
//!     relay-load hold SERVER SECRET PID COUNT
//!
//! `flow`: one allocation, ChannelData on the client's side and plain UDP on the
//! peer's, 1,200 bytes, both ways, [`WINDOW`] bursts under way each way. Prints
//! packets that arrived and nanoseconds of CPU that the server (PID, all its
//! threads) used from the first burst to the last arrival.
//!
//! `hold`: one allocation, then COUNT more with one channel each, from ports of
//! their own. Prints by how many bytes the server's resident memory grew.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool of the benchmark: it reads a clock, prints, and stops at what it did not expect"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_noise::legacy::{LongTermKey, SharedPassword};
use weft_relay::io::load::End;
use weft_wire::stun::{
    ALLOCATE_REQUEST, Algorithm, CHANNEL_BIND_REQUEST, ChannelData, Class, Message, MessageWriter,
    NONCE, REALM, SOFTWARE, UDP, USERNAME, XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS,
};

/// Bytes of a relayed packet.
const SIZE: usize = 1_200;
/// Bursts under way each way.
const WINDOW: u64 = 4;
const CHANNEL: u16 = 0x4001;

struct Session {
    end: End,
    server: SocketAddr,
    user: String,
    key: Option<LongTermKey>,
    secret: Vec<u8>,
    nonce: Vec<u8>,
    realm: Vec<u8>,
    transactions: u64,
}

impl Session {
    fn new(server: SocketAddr, secret: &str, port: u16) -> Self {
        let end = End::bind((Ipv4Addr::LOCALHOST, port).into()).unwrap();
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let user = format!("{}:load", unix_s + 3_600);
        let (key, secret) = (None, secret.as_bytes().to_vec());
        let (nonce, realm) = (Vec::new(), Vec::new());
        Self { end, server, user, key, secret, nonce, realm, transactions: 0 }
    }

    /// One request and its answer; a challenge is met on the way.
    fn ask(&mut self, kind: u16, write: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        for _ in 0..10 {
            let mut buffer = [0; 512];
            self.transactions += 1;
            let mut transaction = [0; 12];
            transaction[..8].copy_from_slice(&self.transactions.to_be_bytes());
            let mut writer = MessageWriter::new(kind, transaction, &mut buffer).unwrap();
            write(&mut writer);
            if let Some(key) = &self.key {
                writer.attribute(USERNAME, self.user.as_bytes()).unwrap();
                writer.attribute(REALM, &self.realm).unwrap();
                writer.attribute(NONCE, &self.nonce).unwrap();
                key.sign(Algorithm::Sha1, &mut writer).unwrap();
            } else {
                writer.attribute(SOFTWARE, &[b'x'; 64]).unwrap();
            }
            let len = writer.finish().unwrap();
            self.end.send(self.server, &buffer[..len], 1);
            let mut answer = Vec::new();
            let until = Instant::now() + Duration::from_secs(2);
            while answer.is_empty() && Instant::now() < until {
                self.end.receive(100, |_, bytes| answer = bytes.to_vec()).unwrap();
            }
            let Ok(message) = Message::parse(&answer) else { continue };
            if message.class() == Class::Success {
                return answer;
            }
            let number = message.error().unwrap().0;
            assert!([401, 438].contains(&number), "the server says {number}");
            self.nonce = message.get(NONCE).unwrap().to_vec();
            self.realm = message.get(REALM).unwrap().to_vec();
            let password = SharedPassword::new(&self.secret, self.user.as_bytes());
            self.key = Some(password.key(self.user.as_bytes(), &self.realm));
        }
        panic!("{} does not answer", self.server);
    }

    /// An allocation with a channel to this peer.
    fn allocate(&mut self, peer: SocketAddr) -> SocketAddr {
        let answer = self.ask(ALLOCATE_REQUEST, |writer| writer.requested_transport(UDP).unwrap());
        let relayed = Message::parse(&answer).unwrap().xor_address(XOR_RELAYED_ADDRESS).unwrap();
        self.ask(CHANNEL_BIND_REQUEST, |writer| {
            writer.channel_number(CHANNEL).unwrap();
            writer.xor_address(XOR_PEER_ADDRESS, peer).unwrap();
        });
        relayed
    }
}

/// CPU time of all threads, in nanoseconds.
fn cpu_ns(pid: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        })
        .sum()
}

fn rss_bytes(pid: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

fn flow(server: SocketAddr, secret: &str, pid: &str, burst: u16, seconds: u64) {
    let mut session = Session::new(server, secret, 0);
    let mut peer = End::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let relayed = session.allocate(peer.address().unwrap());
    let mut packet = vec![0; SIZE + 4];
    let data = ChannelData { channel: CHANNEL, data: &[0x5A; SIZE] };
    data.emit(false, &mut packet).unwrap();
    let plain = &packet[4..];
    let burst_packets = u64::from(burst);
    let [mut up_sent, mut up, mut down_sent, mut down] = [0_u64; 4];
    let before = cpu_ns(pid);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut quiet = Instant::now();
    while Instant::now() < until {
        // A lost burst must not stop the flow: it is taken off after a while.
        if quiet.elapsed() > Duration::from_millis(20) {
            (up_sent, down_sent) = (up, down);
            quiet = Instant::now();
        }
        while up_sent - up.min(up_sent) < WINDOW * burst_packets {
            session.end.send(server, &packet, burst);
            up_sent += burst_packets;
        }
        while down_sent - down.min(down_sent) < WINDOW * burst_packets {
            peer.send(relayed, plain, burst);
            down_sent += burst_packets;
        }
        let arrived = up + down;
        peer.receive(0, |_, bytes| up += u64::from(bytes.len() == SIZE)).unwrap();
        let wait = u64::from(up + down == arrived);
        session.end.receive(wait, |_, bytes| down += u64::from(bytes.len() >= SIZE + 4)).unwrap();
        if up + down > arrived {
            quiet = Instant::now();
        }
    }
    for _ in 0..5 {
        peer.receive(10, |_, bytes| up += u64::from(bytes.len() == SIZE)).unwrap();
        session.end.receive(10, |_, bytes| down += u64::from(bytes.len() >= SIZE + 4)).unwrap();
    }
    println!("{} {} {}", up, down, cpu_ns(pid) - before);
}

fn hold(server: SocketAddr, secret: &str, pid: &str, count: u16) {
    let peer = (Ipv4Addr::LOCALHOST, 9).into();
    Session::new(server, secret, 20_000).allocate(peer);
    let before = rss_bytes(pid);
    for number in 1..=count {
        Session::new(server, secret, 20_000 + number).allocate(peer);
    }
    println!("{}", rss_bytes(pid).saturating_sub(before));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["flow", server, secret, pid, burst, seconds] => {
            let (burst, seconds) = (burst.parse().unwrap(), seconds.parse().unwrap());
            flow(server.parse().unwrap(), secret, pid, burst, seconds);
        }
        ["hold", server, secret, pid, count] => {
            hold(server.parse().unwrap(), secret, pid, count.parse().unwrap());
        }
        _ => panic!("relay-load flow SERVER SECRET PID BURST SECONDS, or hold … COUNT"),
    }
}
