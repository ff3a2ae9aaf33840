//! The relay over TCP on real sockets: who sends nonsense is dropped, and who
//! takes nothing holds nobody up.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod loopback;

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use weft_relay::{Config, Server};
use weft_wire::stun::{
    ALLOCATE_REQUEST, BINDING_REQUEST, CREATE_PERMISSION_REQUEST, Deframer, Message, MessageWriter,
    NONCE, UDP, XOR_PEER_ADDRESS, XOR_RELAYED_ADDRESS,
};

use loopback::{PATIENCE, any, config, sign};

fn server() -> Server {
    Server::start(Config { tcp: vec![any()], ..config() }).unwrap()
}

/// Sends a request in two pieces; returns its answer.
fn ask(stream: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    let (first, rest) = request.split_at(7);
    stream.write_all(first).unwrap();
    stream.write_all(rest).unwrap();
    let mut deframer = Deframer::new([0; 1_024]);
    loop {
        let count = stream.read(deframer.room()).unwrap();
        assert_ne!(count, 0, "closed");
        deframer.filled(count);
        if let Some(frame) = deframer.next_frame().unwrap() {
            return frame.to_vec();
        }
    }
}

fn request(
    kind: u16,
    number: u8,
    nonce: Option<&[u8]>,
    write: impl FnOnce(&mut MessageWriter<'_>),
) -> Vec<u8> {
    let mut buffer = [0; 512];
    let mut writer = MessageWriter::new(kind, [number; 12], &mut buffer).unwrap();
    write(&mut writer);
    if let Some(nonce) = nonce {
        sign(&mut writer, nonce);
    }
    let len = writer.finish_bare();
    buffer[..len].to_vec()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.stream_addresses()[0]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn transport(writer: &mut MessageWriter<'_>) {
    writer.requested_transport(UDP).unwrap();
}

/// An allocation with a permission for this machine; returns its address.
fn allocate(stream: &mut TcpStream) -> SocketAddr {
    let challenge = ask(stream, &request(ALLOCATE_REQUEST, 1, None, transport));
    let nonce = Message::parse(&challenge).unwrap().get(NONCE).unwrap().to_vec();
    let answer = ask(stream, &request(ALLOCATE_REQUEST, 2, Some(&nonce), transport));
    let relayed = Message::parse(&answer).unwrap().xor_address(XOR_RELAYED_ADDRESS).unwrap();
    let peer = "127.0.0.1:9".parse().unwrap();
    let permission = request(CREATE_PERMISSION_REQUEST, 3, Some(&nonce), |writer| {
        writer.xor_address(XOR_PEER_ADDRESS, peer).unwrap();
    });
    let answer = ask(stream, &permission);
    assert_eq!(Message::parse(&answer).unwrap().error(), None);
    relayed
}

#[test]
fn nonsense_ends_the_connection() {
    let server = server();
    // Another first byte, and a TLS record where plain text is expected.
    for nonsense in [&b"\xFF"[..], b"\x16\x03\x01\x00\x00\x01\x00\x01"] {
        let mut stream = connect(&server);
        stream.write_all(nonsense).unwrap();
        let mut byte = [0];
        let ended = stream.read(&mut byte);
        let reset = |error: &Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(matches!(&ended, Ok(0)) || ended.as_ref().is_err_and(reset), "{ended:?}");
    }
    ask(&mut connect(&server), &request(BINDING_REQUEST, 1, None, |_| ()));
}

#[test]
fn an_allocation_ends_with_its_connection() {
    let server = server();
    let mut stream = connect(&server);
    let relayed = allocate(&mut stream);
    assert!(UdpSocket::bind(relayed).is_err(), "its port is taken");
    drop(stream);
    let mut other = connect(&server);
    // Each round trip lets the relay's loop go round.
    let gone = (0..1_000).any(|_| {
        ask(&mut other, &request(BINDING_REQUEST, 1, None, |_| ()));
        server.status().allocations == 0
    });
    assert!(gone);
    UdpSocket::bind(relayed).unwrap();
}

#[test]
fn who_takes_nothing_holds_nobody_up() {
    let server = server();
    let mut slow = connect(&server);
    let relayed = allocate(&mut slow);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut other = connect(&server);
    let mut lost = 0;
    // Far more than the system's buffers of a connection hold.
    for round in 0..4_000 {
        for _ in 0..16 {
            peer.send_to(&[0x5A; 1_200], relayed).unwrap();
        }
        // Others are answered meanwhile.
        if round % 16 == 0 {
            ask(&mut other, &request(BINDING_REQUEST, 1, None, |_| ()));
            lost = server.status().lost;
            if lost > 0 {
                break;
            }
        }
    }
    assert!(lost > 0, "what nobody takes is lost and not kept");
    assert_eq!(server.status().connections, 2, "and it has some time to go on");
}
