//! What the broker's tests share: an endpoint with a service that echoes, and a
//! client that speaks raw MQTT, right or wrong as told.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use weft_coordinator::service::bus::{Answer, BoxFuture, Inbound, Lane, Uplink};
use weft_coordinator::service::clock::Clock;
use weft_coordinator::service::secrets::Secrets;
use weft_coordinator::transport::listen::{self, INTRODUCTION, Limits, Places, Tls};
use weft_coordinator::transport::mqtt::Broker;
use weft_coordinator::transport::mqtt::hub::Hub;
use weft_wire::id::{Inbox, KeyId, ReplicaId, Secret};
use weft_wire::login;
use weft_wire::topic::{Topic, enrolment_user};

pub const NOW_MS: u64 = 1_800_000_000_000;
pub const EXPIRY: u32 = 1_900_000_000;
pub const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub fn secrets() -> Secrets {
    Secrets::from_seed(&Secret([0x42; 32]))
}

pub fn inbox(n: u32) -> Inbox {
    let mut bytes = [0x33; 16];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    Inbox(bytes)
}

pub fn key(n: u8) -> KeyId {
    KeyId::from_random([n; 8])
}

pub struct FixedClock;

impl Clock for FixedClock {
    fn unix_ms(&self) -> u64 {
        NOW_MS
    }
}

/// A certificate of its own.
pub fn tls() -> Tls {
    Tls::new(listen::Credentials::generate("mesh.example.net").unwrap()).unwrap()
}

/// Answers every frame with itself. Some frames mean something.
#[derive(Default)]
pub struct Echo {
    pub handled: AtomicUsize,
    pub gone: Mutex<Vec<Inbox>>,
    /// How often a carrier came back.
    pub returns: AtomicUsize,
    /// When set, a frame is handled only after a permit was added.
    pub gate: Option<Semaphore>,
}

impl Inbound for Echo {
    fn handle_uplink<'a>(&'a self, uplink: Uplink<'a>) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            self.handled.fetch_add(1, Ordering::SeqCst);
            assert_ne!(uplink.frame, b"panic", "as told");
            let times = match uplink.frame {
                b"silence" => 0,
                b"flood" => 12,
                _ => 1,
            };
            let frame = if times > 1 {
                Bytes::from(vec![1; 3_840])
            } else {
                Bytes::copy_from_slice(uplink.frame)
            };
            Answer {
                frames: vec![frame; times],
                authentic: uplink.frame == b"authentic",
                close: uplink.frame == b"close",
            }
        })
    }

    fn handle_gone(&self, inbox: Inbox) {
        self.gone.lock().unwrap().push(inbox);
    }

    fn sort(&self, _inbox: Inbox, frame: &[u8]) -> Option<Lane> {
        match frame {
            b"worthless" => None,
            b"stranger" => Some(Lane::Others),
            _ => Some(Lane::Known),
        }
    }

    fn handle_return(&self) {
        self.returns.fetch_add(1, Ordering::SeqCst);
    }
}

/// An endpoint around an [`Echo`].
pub struct Endpoint {
    pub echo: Arc<Echo>,
    pub hub: Arc<Hub>,
    pub broker: Arc<Broker>,
    pub places: Arc<Places>,
}

impl Endpoint {
    pub fn new(echo: Echo, limits: Limits) -> Self {
        Self::of(echo, limits, |broker| broker)
    }

    pub fn of(echo: Echo, limits: Limits, set: impl FnOnce(Broker) -> Broker) -> Self {
        let echo = Arc::new(echo);
        let hub = Arc::new(Hub::default());
        let broker = Arc::new(set(Broker::new(
            Arc::clone(&hub),
            Arc::clone(&echo) as Arc<dyn Inbound>,
            Arc::new(secrets()),
            Arc::new(FixedClock),
        )));
        Self { echo, hub, broker, places: Places::new(limits) }
    }

    /// A connection without a network, so that virtual time is exact.
    pub fn open(&self, buffer: usize) -> (Client<DuplexStream>, JoinHandle<()>) {
        let (ours, theirs) = duplex(buffer);
        let broker = Arc::clone(&self.broker);
        let waiting = self.places.wait(LOCAL);
        let deadline = Instant::now() + INTRODUCTION;
        let task = tokio::spawn(broker.serve(theirs, LOCAL, waiting, deadline));
        (Client::new(ours), task)
    }

    /// A connection whose CONNECT was admitted and who subscribed.
    pub async fn admitted(&self, inbox: Inbox) -> (Client<DuplexStream>, JoinHandle<()>) {
        let (mut client, task) = self.open(64 * 1_024);
        client.join(inbox).await;
        (client, task)
    }
}

/// A packet of MQTT 5, built field by field.
pub struct Packet(Vec<u8>);

impl Packet {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        let len = u16::try_from(text.len()).unwrap().to_be_bytes();
        self.bytes(&len).bytes(text.as_bytes())
    }

    pub fn finish(self, first: u8) -> Vec<u8> {
        let mut out = vec![first];
        let mut remaining = self.0.len();
        while remaining >= 0x80 {
            out.push(remaining as u8 | 0x80);
            remaining >>= 7;
        }
        out.push(remaining as u8);
        out.extend(self.0);
        out
    }
}

pub struct Credentials {
    pub client_id: String,
    pub user: String,
    pub password: String,
}

pub fn device(inbox: Inbox) -> Credentials {
    let mac = secrets().broker_password(&inbox, EXPIRY);
    Credentials {
        client_id: inbox.to_string(),
        user: inbox.to_string(),
        password: login::password(EXPIRY, &mac).as_str().to_owned(),
    }
}

pub fn enrolling(inbox: Inbox, key: KeyId) -> Credentials {
    let mac = secrets().enrol_password(key, 0, EXPIRY);
    Credentials {
        client_id: inbox.to_string(),
        user: enrolment_user(key).to_string(),
        password: login::password(EXPIRY, &mac).as_str().to_owned(),
    }
}

/// A CONNECT of MQTT 5.
pub fn connect(credentials: &Credentials, keep_alive_s: u16, properties: &[u8]) -> Vec<u8> {
    Packet::new()
        .text("MQTT")
        .bytes(&[5, 0xC0])
        .bytes(&keep_alive_s.to_be_bytes())
        .bytes(&[u8::try_from(properties.len()).unwrap()])
        .bytes(properties)
        .text(&credentials.client_id)
        .text(&credentials.user)
        .text(&credentials.password)
        .finish(0x10)
}

pub fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    Packet::new().bytes(&[0, 1, 0]).text(filter).bytes(&[qos]).finish(0x82)
}

pub fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    Packet::new().text(topic).bytes(&[0]).bytes(payload).finish(0x30)
}

pub fn publish_qos1(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    Packet::new().text(topic).bytes(&id.to_be_bytes()).bytes(&[0]).bytes(payload).finish(0x32)
}

/// A raw client.
pub struct Client<S> {
    pub stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn new(stream: S) -> Self {
        Self { stream }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet: its first byte and what follows the fixed header, or
    /// `None` when the other side closed.
    pub async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut remaining, mut shift) = (0usize, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            remaining |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; remaining];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((first, body))
    }

    /// The payload of the next packet, which must be a PUBLISH to `inbox`.
    pub async fn read_frame(&mut self, inbox: Inbox) -> Vec<u8> {
        let (first, body) = self.read().await.expect("a packet");
        assert_eq!(first & 0xF0, 0x30, "a PUBLISH, not {first:#x} {body:02x?}");
        let topic = Topic::Down(inbox).text();
        let start = 2 + topic.len() + usize::from(first & 6 != 0) * 2 + 1;
        assert_eq!(&body[2..2 + topic.len()], topic.as_bytes());
        body[start..].to_vec()
    }

    /// Sends CONNECT and SUBSCRIBE and waits for both answers.
    pub async fn join(&mut self, inbox: Inbox) {
        self.write(&connect(&device(inbox), 300, &[])).await;
        let (first, body) = self.read().await.expect("a CONNACK");
        assert_eq!((first, body[1]), (0x20, 0), "{body:02x?}");
        self.write(&subscribe(&Topic::Down(inbox).text(), 0)).await;
        assert_eq!(self.read().await, Some((0x90, vec![0, 1, 0, 0])));
    }

    /// Sends a frame up.
    pub async fn send(&mut self, inbox: Inbox, frame: &[u8]) {
        self.write(&publish(&Topic::Record(ReplicaId(0), inbox).text(), frame)).await;
    }

    /// Reads until the other side closes and returns the code of its
    /// DISCONNECT, if it sent one.
    pub async fn read_end(&mut self) -> Option<u8> {
        let mut code = None;
        while let Some((first, body)) = self.read().await {
            if first == 0xE0 {
                code = Some(body[0]);
            }
        }
        code
    }
}

/// Fails a test that hangs.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("in time")
}
