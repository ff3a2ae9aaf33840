//! A broker of another make, as a hostile or broken one may behave: MQTT 3.1.1
//! by hand, one connection after the other, every step as the test says.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use weft_coordinator::transport::external::{External, Standing};
use weft_wire::id::{Inbox, ReplicaId};
use weft_wire::topic::Topic;

use super::endpoint::{Client, Packet, soon};

/// A PUBLISH of MQTT 3.1.1, QoS 0; `first` is its first byte.
pub fn publish(first: u8, topic: &str, payload: &[u8]) -> Vec<u8> {
    Packet::new().text(topic).bytes(payload).finish(first)
}

/// A frame that a device sent.
pub fn record(inbox: Inbox, frame: &[u8]) -> Vec<u8> {
    publish(0x30, &Topic::Record(ReplicaId(0), inbox).text(), frame)
}

/// Waits until the coordinator's line stands as wanted.
pub async fn stands(external: &External, wanted: impl FnMut(&Standing) -> bool) -> Standing {
    let mut standing = external.standing();
    soon(standing.wait_for(wanted)).await.unwrap().clone()
}

pub fn is_open(standing: &Standing) -> bool {
    *standing == Standing::Open
}

/// The listening part.
pub struct Foreign {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Foreign {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The coordinator's next connection, whose CONNECT was read.
    pub async fn accept(&self) -> Line {
        let (stream, _) = soon(self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut line = Line(Client::new(stream));
        let (first, body) = line.read().await;
        assert_eq!((first, &body[..7]), (0x10, &b"\0\x04MQTT\x04"[..]), "a CONNECT of 3.1.1");
        // User name, password, clean session; no will.
        assert_eq!(body[7], 0b1100_0010);
        line
    }

    /// A connection that behaves until the line counts as open.
    pub async fn open(&self, external: &External) -> Line {
        let mut line = self.accept().await;
        line.let_in().await;
        line.grant().await;
        line.prove().await;
        stands(external, is_open).await;
        line
    }
}

/// One connection of the coordinator.
pub struct Line(pub Client<TcpStream>);

impl Line {
    pub async fn read(&mut self) -> (u8, Vec<u8>) {
        soon(self.0.read()).await.expect("a packet")
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes).await;
    }

    /// CONNACK, accepted.
    pub async fn let_in(&mut self) {
        self.write(&[0x20, 2, 0, 0]).await;
    }

    /// Reads the SUBSCRIBE and gives its packet id and filters.
    pub async fn subscription(&mut self) -> ([u8; 2], Vec<String>) {
        let (first, body) = self.read().await;
        assert_eq!(first, 0x82, "a SUBSCRIBE");
        let (id, mut rest) = body.split_first_chunk::<2>().unwrap();
        let mut filters = Vec::new();
        while let Some((len, tail)) = rest.split_first_chunk::<2>() {
            let (text, tail) = tail.split_at(usize::from(u16::from_be_bytes(*len)));
            filters.push(std::str::from_utf8(text).unwrap().to_owned());
            assert_eq!(tail[0], 0, "QoS 0");
            rest = &tail[1..];
        }
        (*id, filters)
    }

    /// Grants the subscription.
    pub async fn grant(&mut self) {
        let ([high, low], filters) = self.subscription().await;
        assert_eq!(filters[..2], ["weft/v1/h/+", "weft/v1/r/0/+"]);
        assert!(filters[2].starts_with("weft/v1/d/") && filters.len() == 3, "{filters:?}");
        self.write(&[0x90, 5, high, low, 0, 0, 0]).await;
    }

    /// Sends the three frames of the proof back, as a broker does.
    pub async fn prove(&mut self) {
        for _ in 0..3 {
            let (first, body) = self.read().await;
            assert_eq!(first, 0x30, "QoS 0, not retained");
            let packet = Packet::new().bytes(&body).finish(first);
            self.write(&packet).await;
        }
    }

    /// The next frame for a device.
    pub async fn frame(&mut self) -> (Inbox, Vec<u8>) {
        loop {
            let (first, body) = self.read().await;
            if first == 0xC0 {
                self.write(&[0xD0, 0]).await;
                continue;
            }
            assert_eq!(first, 0x30, "QoS 0, not retained");
            let (len, rest) = body.split_first_chunk::<2>().unwrap();
            let (topic, frame) = rest.split_at(usize::from(u16::from_be_bytes(*len)));
            match Topic::parse(std::str::from_utf8(topic).unwrap()) {
                Some(Topic::Down(inbox)) => return (inbox, frame.to_vec()),
                other => panic!("no frame goes to {other:?}"),
            }
        }
    }
}
