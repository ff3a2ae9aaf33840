//! What the relay says of itself over HTTP, on real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "real sockets need real time")]

mod loopback;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use weft_relay::proto::turn::Counters;
use weft_relay::{Config, Server};
use weft_wire::stun::{
    ALLOCATE_REQUEST, CHANNEL_BIND_REQUEST, CHANNEL_NUMBER, LIFETIME, Message, MessageWriter,
    NONCE, REFRESH_REQUEST, SOFTWARE, UDP, XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS,
};

use loopback::{PATIENCE, any, config, sign};

const CHANNEL: u16 = 0x4000;

fn server() -> Server {
    Server::start(Config { metrics: Some(any()), ..config() }).unwrap()
}

/// The status line, the head's other lines and the body of an answer.
struct Answer {
    status: String,
    head: Vec<String>,
    body: String,
}

fn say(server: &Server, request: &str) -> Answer {
    let mut stream = TcpStream::connect(server.metrics().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // In two pieces: a question need not come at once.
    let (first, rest) = request.split_at(3);
    stream.write_all(first.as_bytes()).unwrap();
    stream.write_all(rest.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let status = lines.next().unwrap();
    let head: Vec<_> = lines.collect();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head:?}");
    Answer { status, head, body: body.to_owned() }
}

fn get(server: &Server, path: &str) -> Answer {
    say(server, &format!("GET {path} HTTP/1.1\r\nhost: relay\r\n\r\n"))
}

/// The metrics, each line of them understood: name and value.
fn metrics(server: &Server) -> BTreeMap<String, u64> {
    let Answer { status, head, body } = get(server, "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(head.iter().any(|line| line == "content-type: text/plain; version=0.0.4"));
    assert!(body.ends_with('\n'));
    let mut found = BTreeMap::new();
    let mut lines = body.lines();
    while let Some(help) = lines.next() {
        let (name, words) = help.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
        assert!(words.ends_with('.') && words.trim() == words, "{help}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.starts_with("weft_relay_") && name.chars().all(plain), "{name}");
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        assert_eq!(lines.next().unwrap(), format!("# TYPE {name} {kind}"));
        let (of, value) = lines.next().unwrap().split_once(' ').unwrap();
        assert_eq!(of, name);
        assert_eq!(found.insert(name.to_owned(), value.parse().unwrap()), None, "{name} twice");
    }
    found
}

/// A device's socket at the relay.
struct Device {
    socket: UdpSocket,
    nonce: Vec<u8>,
}

impl Device {
    fn new(server: &Server) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server.addresses()[0]).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, nonce: Vec::new() }
    }

    /// Asks, signed when there is a nonce; the answer's bytes.
    fn ask(&self, kind: u16, number: u8, write: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut buffer = [0; 512];
        let mut writer = MessageWriter::new(kind, [number; 12], &mut buffer).unwrap();
        write(&mut writer);
        if !self.nonce.is_empty() {
            sign(&mut writer, &self.nonce);
        }
        let len = writer.finish().unwrap();
        self.socket.send(&buffer[..len]).unwrap();
        let mut answer = vec![0; 1_024];
        let len = self.socket.recv(&mut answer).unwrap();
        answer.truncate(len);
        answer
    }

    /// What must be granted.
    fn granted(&self, kind: u16, number: u8, write: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        let answer = self.ask(kind, number, write);
        assert_eq!(Message::parse(&answer).unwrap().error(), None);
        answer
    }

    /// Makes an allocation; returns its address.
    fn allocate(&mut self) -> SocketAddr {
        let transport = |writer: &mut MessageWriter<'_>| writer.requested_transport(UDP).unwrap();
        // A stranger gets no longer an answer than its question.
        let challenge = self.ask(ALLOCATE_REQUEST, 1, |writer| {
            transport(writer);
            writer.attribute(SOFTWARE, &[b'x'; 100]).unwrap();
        });
        self.nonce = Message::parse(&challenge).unwrap().get(NONCE).unwrap().to_vec();
        let answer = self.granted(ALLOCATE_REQUEST, 2, transport);
        Message::parse(&answer).unwrap().xor_address(XOR_RELAYED_ADDRESS).unwrap()
    }
}

/// Looks until the relay's thread has shown what it did.
fn until(what: &str, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while !look() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_metric_is_there_once_and_moves_with_what_it_counts() {
    let server = server();
    let before = metrics(&server);
    let counters = Counters::default().each().map(|(name, ..)| format!("weft_relay_{name}_total"));
    for name in counters {
        assert_eq!(before.get(&name), Some(&0), "{name}");
    }
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let peer_at = peer.local_addr().unwrap();
    let mut device = Device::new(&server);
    let relayed = device.allocate();
    device.granted(CHANNEL_BIND_REQUEST, 3, |writer| {
        writer.attribute(CHANNEL_NUMBER, &[CHANNEL.to_be_bytes(), [0; 2]].concat()).unwrap();
        writer.xor_address(XOR_PEER_ADDRESS, peer_at).unwrap();
    });
    let framed =
        |body: &[u8]| [&CHANNEL.to_be_bytes(), &(body.len() as u16).to_be_bytes(), body].concat();
    device.socket.send(&framed(b"up")).unwrap();
    let mut got = [0; 64];
    let (len, from) = peer.recv_from(&mut got).unwrap();
    assert_eq!((&got[..len], from), (&b"up"[..], relayed));
    peer.send_to(b"down!", relayed).unwrap();
    let len = device.socket.recv(&mut got).unwrap();
    assert_eq!(got[..len], framed(b"down!"));
    let wanted = [
        ("allocations", 1),
        ("users", 1),
        ("allocations_made_total", 1),
        ("allocations_ended_total", 0),
        ("challenges_total", 1),
        ("refused_total", 0),
        ("packets_to_peers_total", 1),
        ("bytes_to_peers_total", 2),
        ("packets_to_clients_total", 1),
        ("bytes_to_clients_total", 5),
        ("packets_lost_total", 0),
        ("draining", 0),
    ];
    let all = |now: &BTreeMap<String, u64>, wanted: &[(&str, u64)]| {
        wanted.iter().all(|(name, value)| now.get(&format!("weft_relay_{name}")) == Some(value))
    };
    until("an allocation and two packets", || all(&metrics(&server), &wanted));
    let after = metrics(&server);
    assert!(after.keys().eq(before.keys()), "the same names at all times");
    device.granted(REFRESH_REQUEST, 4, |writer| {
        writer.attribute(LIFETIME, &0u32.to_be_bytes()).unwrap();
    });
    let ended = [("allocations", 0), ("users", 0), ("allocations_ended_total", 1)];
    until("the end of it", || all(&metrics(&server), &ended));
}

#[test]
fn health_tells_a_relay_that_drains_from_one_that_serves() {
    let server = server();
    let healthy = |server: &Server| {
        let Answer { status, body, .. } = get(server, "/healthz");
        (status, body)
    };
    let is = |status: &str, body: &str| (format!("HTTP/1.1 {status}"), body.to_owned());
    assert_eq!(healthy(&server), is("200 OK", "ok\n"));
    let mut device = Device::new(&server);
    device.allocate();
    server.drain(true);
    let left = is("503 Service Unavailable", "draining: 1 allocations left\n");
    until("what is left", || healthy(&server) == left);
    assert_eq!(metrics(&server)["weft_relay_draining"], 1);
    device.granted(REFRESH_REQUEST, 4, |writer| {
        writer.attribute(LIFETIME, &0u32.to_be_bytes()).unwrap();
    });
    let left = is("503 Service Unavailable", "draining: 0 allocations left\n");
    until("nothing is left", || healthy(&server) == left);
    server.drain(false);
    assert_eq!(healthy(&server), is("200 OK", "ok\n"));
}

#[test]
fn other_questions_are_answered_too_and_hold_nobody_up() {
    let server = server();
    let Answer { status, body, .. } = get(&server, "/");
    assert_eq!(
        (status.as_str(), body.as_str()),
        ("HTTP/1.1 404 Not Found", "try /metrics or /healthz\n")
    );
    let Answer { status, body, .. } = say(&server, "POST /metrics HTTP/1.1\r\n\r\n");
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 405 Method Not Allowed", "only GET\n"));
    // Who ends before the question does, and who asks without an end.
    drop(TcpStream::connect(server.metrics().unwrap()).unwrap());
    let mut endless = TcpStream::connect(server.metrics().unwrap()).unwrap();
    endless.write_all(&[b'G'; 1_024]).unwrap();
    assert_eq!(get(&server, "/healthz").status, "HTTP/1.1 200 OK");
    let address = server.metrics().unwrap();
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "it listens for as long as the relay runs");
}
