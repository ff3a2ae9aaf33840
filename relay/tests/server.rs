//! The Binding responder on real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use weft_relay::io::StunServer;
use weft_wire::stun::{BINDING_REQUEST, Message, MessageWriter};

fn ask(server: SocketAddr) -> (SocketAddr, SocketAddr, SocketAddr) {
    let any: SocketAddr =
        if server.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 128];
    let writer = MessageWriter::new(BINDING_REQUEST, [9; 12], &mut buffer).unwrap();
    let len = writer.finish().unwrap();
    socket.send_to(&buffer[..len], server).unwrap();
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    let answer = Message::parse(&buffer[..len]).unwrap();
    assert_eq!(answer.transaction(), [9; 12]);
    let mapped = answer.mapped_address().unwrap();
    (from, mapped, socket.local_addr().unwrap())
}

#[test]
fn a_wildcard_server_answers_from_the_address_that_was_asked() {
    let server = StunServer::start("0.0.0.0:0".parse().unwrap()).unwrap();
    for ip in ["127.0.0.1", "127.0.0.2", "127.77.0.1"] {
        let asked = SocketAddr::new(ip.parse().unwrap(), server.address().port());
        let (from, mapped, local) = ask(asked);
        assert_eq!(from, asked);
        assert_eq!(mapped.port(), local.port());
        assert!(mapped.ip().is_loopback());
    }
    assert_eq!(server.counters().answered, 3);
    assert_eq!(server.errors(), 0);
}

#[test]
fn an_ipv6_wildcard_serves_both_families() {
    let server = match StunServer::start("[::]:0".parse().unwrap()) {
        Ok(server) => server,
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return,
        Err(error) => panic!("{error}"),
    };
    for ip in ["127.0.0.1", "127.0.0.2", "::1"] {
        let asked = SocketAddr::new(ip.parse().unwrap(), server.address().port());
        let (from, mapped, _) = ask(asked);
        assert_eq!(from, asked);
        assert_eq!(mapped.is_ipv4(), asked.is_ipv4());
    }
}

#[test]
fn dropping_the_server_frees_its_port() {
    let server = StunServer::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address();
    assert!(UdpSocket::bind(address).is_err());
    drop(server);
    UdpSocket::bind(address).unwrap();
}
