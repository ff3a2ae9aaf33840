//! A client of relays, its time, and the server that answers it by the word of a test.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "shared by tests, which may panic")]

use weft_agent_core::event::{DropReason, SocketId, Sockets, Source};
use weft_agent_core::relay::{
    Framed, REQUEST_LEN, Received, RelayClient, RelayEvent, StreamCommand, StreamId, Via, Why,
};
use weft_agent_core::time::{Duration, Instant};
use weft_noise::legacy::{LongTermKey, SharedPassword};
use weft_wire::relay::{Relay, RelayLogin, RelayMac};
use weft_wire::stun::{
    ALLOCATE_REQUEST, Algorithm, CHANNEL_BIND_REQUEST, Class, DATA_ATTRIBUTE, DATA_INDICATION,
    Message, MessageWriter, NONCE, REALM, TransactionId, USERNAME, XOR_PEER_ADDRESS,
    XOR_RELAYED_ADDRESS, kind_of,
};

use crate::draws::{Count, address};

pub const V4: SocketId = SocketId(0);
pub const V6: SocketId = SocketId(1);
pub const START: Instant = Instant::from_secs(50);
pub const USER: &str = "1764230400:dev_2j7m5ctnuzov@org_1";
pub const PEER: &str = "198.51.100.9:51820";
pub const RELAYED: &str = "203.0.113.1:49152";
pub const HOUR: Duration = Duration::from_secs(3_600);

pub fn relay(number: u16) -> Relay {
    Relay {
        number,
        v4: Some([203, 0, 113, u8::try_from(number).unwrap()].into()),
        v6: None,
        udp: [3_478, 0],
        tcp: 0,
        tls: 0,
    }
}

pub fn login(relay: u16, byte: u8) -> RelayLogin {
    RelayLogin { relay, mac: RelayMac([byte; 20]) }
}

pub fn key(byte: u8) -> LongTermKey {
    SharedPassword::from_mac(&[byte; 20]).key(USER.as_bytes(), b"weft")
}

/// A client, and the time.
pub struct Desk {
    pub client: RelayClient<4, 256>,
    pub now: Instant,
    pub entropy: Count,
    /// Credentials that the server knows.
    pub mac: u8,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub via: Via,
    pub bytes: Vec<u8>,
}

impl Request {
    pub fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }

    pub fn kind(&self) -> u16 {
        self.message().kind()
    }

    pub fn transaction(&self) -> TransactionId {
        self.message().transaction()
    }

    pub fn source(&self) -> Source {
        let Via::Udp { socket, to: server } = self.via else { panic!("{:?}", self.via) };
        Source { socket, address: server }
    }

    pub fn is_signed(&self, byte: u8) -> bool {
        let message = self.message();
        let integrity = message.integrity(Algorithm::Sha1);
        message.get(USERNAME) == Some(USER.as_bytes())
            && integrity.is_some_and(|it| key(byte).verify(Algorithm::Sha1, &it))
    }
}

impl Desk {
    pub fn new(relays: &[Relay]) -> Self {
        let mut desk = Self { client: RelayClient::new(), now: START, entropy: Count(0), mac: 7 };
        desk.client.set_sockets(Sockets { v4: Some(V4), v6: Some(V6) }, START);
        desk.client.set_relays(relays, START);
        desk.grant(7, HOUR);
        assert_eq!((desk.sent().len(), desk.client.poll_timeout()), (0, None));
        desk
    }

    /// With an allocation at relay 1, and the channel to [`PEER`] asked for.
    pub fn allocated() -> (Self, Request) {
        let mut desk = Self::new(&[relay(1)]);
        desk.client.want(address(PEER), desk.now).unwrap();
        let first = desk.one();
        desk.challenge(&first, 401, "n1");
        let signed = desk.one();
        desk.give(&signed);
        assert!(matches!(desk.events()[..], [RelayEvent::Allocated { .. }]));
        let bind = desk.one();
        assert_eq!(bind.kind(), CHANNEL_BIND_REQUEST);
        (desk, bind)
    }

    pub fn ready() -> Self {
        let (mut desk, bind) = Self::allocated();
        desk.succeed(&bind, |_| {});
        assert_eq!(desk.events(), [RelayEvent::Ready { peer: address(PEER) }]);
        desk
    }

    pub fn grant(&mut self, byte: u8, lifetime: Duration) {
        let logins = [login(1, byte), login(2, byte)];
        self.client.set_grant(USER, lifetime, &logins, self.now);
    }

    pub fn sent(&mut self) -> Vec<Request> {
        let mut all = vec![];
        let mut out = [0; REQUEST_LEN];
        let (entropy, now) = (&mut self.entropy, self.now);
        while let Some(transmit) = self.client.poll_transmit(&mut out, entropy, now) {
            all.push(Request { via: transmit.via, bytes: out[..transmit.len].to_vec() });
        }
        while let Some(transmit) = self.client.poll_stream_transmit(&mut out, entropy, now) {
            all.push(Request { via: transmit.via, bytes: out[..transmit.len].to_vec() });
        }
        all
    }

    pub fn one(&mut self) -> Request {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1);
        sent.remove(0)
    }

    pub fn hand_in(&mut self, source: Source, bytes: &[u8]) -> Result<Received, DropReason> {
        self.client.handle_datagram(source, bytes, self.now)
    }

    pub fn answer(
        &self,
        request: &Request,
        class: Class,
        is_signed: bool,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let mut out = [0; 512];
        let kind = kind_of(request.message().method(), class);
        let mut writer = MessageWriter::new(kind, request.transaction(), &mut out).unwrap();
        write(&mut writer);
        if is_signed {
            key(self.mac).sign(Algorithm::Sha1, &mut writer).unwrap();
        }
        let len = writer.finish_bare();
        out[..len].to_vec()
    }

    pub fn reply(&mut self, request: &Request, bytes: &[u8]) {
        assert_eq!(self.hand_in(request.source(), bytes), Ok(Received::Consumed));
    }

    pub fn challenge(&mut self, request: &Request, number: u16, nonce: &str) {
        let bytes = self.answer(request, Class::Error, false, |writer| {
            writer.error(number).unwrap();
            writer.attribute(REALM, b"weft").unwrap();
            writer.attribute(NONCE, nonce.as_bytes()).unwrap();
        });
        self.reply(request, &bytes);
    }

    pub fn refuse(&mut self, request: &Request, number: u16) {
        let bytes = self.answer(request, Class::Error, true, |writer| {
            writer.error(number).unwrap();
        });
        self.reply(request, &bytes);
    }

    pub fn succeed(&mut self, request: &Request, write: impl FnOnce(&mut MessageWriter<'_>)) {
        let bytes = self.answer(request, Class::Success, true, write);
        self.reply(request, &bytes);
    }

    pub fn give(&mut self, request: &Request) {
        assert_eq!(request.kind(), ALLOCATE_REQUEST);
        self.succeed(request, given);
    }

    pub fn events(&mut self) -> Vec<RelayEvent> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    pub fn wait(&mut self) -> Instant {
        self.now = self.client.poll_timeout().unwrap().0.max(self.now);
        self.client.handle_timeout(self.now);
        self.now
    }

    /// Waits until something is sent.
    pub fn next(&mut self) -> Request {
        loop {
            self.wait();
            let mut sent = self.sent();
            if !sent.is_empty() {
                return sent.remove(0);
            }
        }
    }

    pub fn elapsed_ms(&self) -> u64 {
        (self.now - START).as_millis()
    }
}

pub fn given(writer: &mut MessageWriter<'_>) {
    writer.xor_address(XOR_RELAYED_ADDRESS, address(RELAYED)).unwrap();
    writer.xor_mapped_address(address("192.0.2.5:4000")).unwrap();
    writer.lifetime(600).unwrap();
}

pub fn is_lost(events: &[RelayEvent], wanted: Why) -> bool {
    events.contains(&RelayEvent::Lost { relay: 1, why: wanted })
}

pub fn indication(peer: &str, data: &[u8]) -> Vec<u8> {
    let mut out = [0; 128];
    let mut writer = MessageWriter::new(DATA_INDICATION, [3; 12], &mut out).unwrap();
    writer.xor_address(XOR_PEER_ADDRESS, address(peer)).unwrap();
    writer.attribute(DATA_ATTRIBUTE, data).unwrap();
    let len = writer.finish_bare();
    out[..len].to_vec()
}

/// Opens the connection that is asked for.
pub fn open(desk: &mut Desk, is_tls: bool) -> StreamId {
    loop {
        while let Some(command) = desk.client.poll_stream() {
            if let StreamCommand::Open { stream, tls, .. } = command
                && tls == is_tls
            {
                desk.client.handle_stream_connected(stream, desk.now);
                return stream;
            }
        }
        desk.wait();
        desk.sent();
    }
}

/// Hands in bytes of a connection, in pieces; gives the packets of peers.
pub fn stream(desk: &mut Desk, id: StreamId, bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut packets = vec![];
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() {
            let taken = desk.client.handle_stream_data(id, piece);
            piece = &piece[taken..];
            while let Some(frame) = desk.client.poll_stream_frame(desk.now) {
                if let Framed::Data { stream, peer, data } = frame {
                    assert_eq!((stream, peer), (id, address(PEER)));
                    packets.push(data.to_vec());
                }
            }
        }
    }
    packets
}
