//! One handshake in each role, data both ways, and cookies under load, with
//! each oracle.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::net::SocketAddr;
use std::time::Duration;

use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::wg::cookie::{Checker, Jar};
use weft_noise::wg::{
    self, COOKIE_REPLY_LEN, GATEWAY_WINDOW_WORDS, HEADER_LEN, INITIATION_LEN, KEEPALIVE_LEN, Kind,
    LocalKey, OpenError, Opener, RESPONSE_LEN, RemoteKey, SealError, Sealer, SessionKeys, TAILROOM,
    Tai64n,
};
use weft_oracles::{Boringtun, Gotatun, Oracle, Output, Setup, advance};
use weft_wire::id::{PublicKey, Secret};

const MTU: usize = 1280;
const NEVER: u64 = u64::MAX;
const INDEX: u32 = 0xDEAD_BEEF;

/// SplitMix64.
struct Seeded(u64);

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut x = self.0;
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            *byte = (x ^ (x >> 31)) as u8;
        }
    }
}

fn source() -> SocketAddr {
    "192.0.2.1:51871".parse().unwrap()
}

/// Ours, with the oracle at the other end.
struct Ours<O> {
    rng: Seeded,
    local: LocalKey,
    remote: RemoteKey,
    psk: Secret,
    steps: u64,
    oracle: O,
}

/// Our end of a session.
struct Ends {
    sealer: Sealer,
    opener: Opener<GATEWAY_WINDOW_WORDS>,
}

impl<O: Oracle> Ours<O> {
    fn new(psk: Option<[u8; 32]>, load_limit: u64) -> Self {
        let mut rng = Seeded(psk.is_some().into());
        let local = LocalKey::new(StaticSecret::generate(&mut rng));
        let secret = StaticSecret::generate(&mut rng);
        let remote = local.remote(&secret.public()).unwrap();
        let setup = Setup { secret: secret.to_secret().0, peer: local.public().0, psk, load_limit };
        let psk = Secret(psk.unwrap_or_default());
        Self { rng, local, remote, psk, steps: 1 << 40, oracle: O::new(&setup) }
    }

    fn initiate(&mut self, jar: &mut Jar, now_us: u64) -> ([u8; INITIATION_LEN], Pending) {
        self.steps += 1;
        let stamp = Tai64n::from_steps(self.steps);
        let mut message = [0; INITIATION_LEN];
        let sent = self.local.initiate(&self.remote, INDEX, stamp, &mut self.rng, &mut message);
        jar.attach(&mut message, now_us);
        (message, Pending(sent))
    }

    /// Ours initiates; the first packet confirms the session to the oracle.
    fn as_initiator(&mut self) -> Ends {
        let (initiation, mut pending) = self.initiate(&mut Jar::new(), 0);
        let response = datagram(self.oracle.handle_datagram(source(), &initiation));
        let mut ends = pending.finish(self, &response);
        self.confirm(&mut ends);
        ends
    }

    fn confirm(&mut self, ends: &mut Ends) {
        let keepalive = seal(&mut ends.sealer, b"");
        let confirmed = self.oracle.handle_datagram(source(), &keepalive);
        assert!(confirmed == Output::Nothing || confirmed == Output::Packet(vec![]));
    }

    /// The oracle initiates, and confirms the session by a keepalive.
    fn as_responder(&mut self) -> Ends {
        advance(Duration::from_secs(1));
        let initiation = self.oracle.initiate();
        let (response, keys) = self.respond(&initiation);
        let mut keepalive = datagram(self.oracle.handle_datagram(source(), &response));
        let (sealer, opener) = keys.split();
        let mut ends = Ends { sealer, opener };
        assert_eq!(keepalive.len(), KEEPALIVE_LEN);
        assert_eq!(wg::receiver(&keepalive), Some(INDEX));
        let opened = ends.opener.open(&mut keepalive).unwrap();
        assert!(opened.first && opened.len == 0);
        ends
    }

    fn respond(&mut self, initiation: &[u8]) -> ([u8; RESPONSE_LEN], SessionKeys) {
        let checked = self.local.check_mac1(initiation).unwrap();
        let received = self.local.receive_initiation(&checked).unwrap();
        assert_eq!(received.peer(), self.remote.public());
        let authentic = received.authenticate(&self.remote).unwrap();
        assert!(authentic.stamp() > Tai64n::ZERO);
        let mut response = [0; RESPONSE_LEN];
        let keys = authentic.respond(INDEX, &self.psk, &mut self.rng, &mut response);
        (response, keys)
    }

    fn data_goes_both_ways(&mut self, ends: &mut Ends) {
        for len in [20, 21, 64, 1279, 1280] {
            let packet = ipv4(len);
            let sealed = seal(&mut ends.sealer, &packet);
            let received = self.oracle.handle_datagram(source(), &sealed);
            assert_eq!(received, Output::Packet(packet.clone()));
            let mut answer = datagram(self.oracle.handle_packet(&packet));
            let opened = ends.opener.open(&mut answer).unwrap();
            assert_eq!(answer[opened.range()][..len], packet);
            let again = self.oracle.handle_datagram(source(), &sealed);
            assert!(matches!(again, Output::Refused(_)), "{again:?}");
        }
    }
}

/// Ours waits for a response.
struct Pending(wg::InitiationSent);

impl Pending {
    fn finish<O>(&mut self, ours: &Ours<O>, response: &[u8]) -> Ends {
        let checked = ours.local.check_mac1(response).unwrap();
        let answered = self.0.receive_response(&ours.local, &checked, &[&ours.psk]).unwrap();
        let (sealer, opener) = answered.keys.split();
        Ends { sealer, opener }
    }
}

#[track_caller]
fn datagram(output: Output) -> Vec<u8> {
    match output {
        Output::Datagram(datagram) => datagram,
        other => panic!("no datagram: {other:?}"),
    }
}

/// An IPv4 packet of this length that both oracles take.
fn ipv4(len: usize) -> Vec<u8> {
    let mut packet = vec![0xA5; len];
    let header = [69, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[..20].copy_from_slice(&header);
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet
}

fn seal(sealer: &mut Sealer, packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEADER_LEN + packet.len() + TAILROOM];
    buffer[HEADER_LEN..][..packet.len()].copy_from_slice(packet);
    let len = sealer.seal(&mut buffer, packet.len(), MTU).unwrap();
    buffer.truncate(len);
    buffer
}

fn handshakes<O: Oracle>() {
    for psk in [None, Some([0; 32]), Some([0x5A; 32])] {
        let mut ours = Ours::<O>::new(psk, NEVER);
        let mut ends = ours.as_initiator();
        ours.data_goes_both_ways(&mut ends);
        let mut ours = Ours::<O>::new(psk, NEVER);
        let mut ends = ours.as_responder();
        ours.data_goes_both_ways(&mut ends);
        // Again over the same two peers, roles crossed.
        let mut ends = ours.as_initiator();
        ours.data_goes_both_ways(&mut ends);
    }
}

#[test]
fn handshakes_with_boringtun() {
    handshakes::<Boringtun>();
}

#[test]
fn handshakes_with_gotatun() {
    handshakes::<Gotatun>();
}

fn another_psk_is_refused<O: Oracle>() {
    let mut ours = Ours::<O>::new(Some([1; 32]), NEVER);
    ours.psk = Secret([2; 32]);
    let (initiation, mut pending) = ours.initiate(&mut Jar::new(), 0);
    let response = datagram(ours.oracle.handle_datagram(source(), &initiation));
    let checked = ours.local.check_mac1(&response).unwrap();
    let answered = pending.0.receive_response(&ours.local, &checked, &[&ours.psk]);
    assert_eq!(answered.err(), Some(wg::HandshakeError::Unauthentic));
    // The previous PSK is tried after the new one.
    let previous = Secret([1; 32]);
    let answered = pending.0.receive_response(&ours.local, &checked, &[&ours.psk, &previous]);
    assert_eq!(answered.unwrap().psk, 1);

    advance(Duration::from_secs(1));
    let initiation = ours.oracle.initiate();
    let (response, _) = ours.respond(&initiation);
    let refused = ours.oracle.handle_datagram(source(), &response);
    assert!(matches!(refused, Output::Refused(_)), "{refused:?}");
}

#[test]
fn another_psk_is_refused_by_boringtun() {
    another_psk_is_refused::<Boringtun>();
}

#[test]
fn another_psk_is_refused_by_gotatun() {
    another_psk_is_refused::<Gotatun>();
}

/// The oracle is under load: our second initiation carries its cookie.
fn our_initiator_meets_load<O: Oracle>() {
    let mut ours = Ours::<O>::new(Some([3; 32]), 0);
    let mut jar = Jar::new();
    let (initiation, _) = ours.initiate(&mut jar, 0);
    let reply = datagram(ours.oracle.handle_datagram(source(), &initiation));
    assert_eq!(wg::kind(&reply), Ok(Kind::CookieReply));
    assert_eq!(wg::receiver(&reply), Some(INDEX));
    jar.receive(&ours.remote, &reply, 0).unwrap();
    let (initiation, mut pending) = ours.initiate(&mut jar, 1);
    let response = datagram(ours.oracle.handle_datagram(source(), &initiation));
    let mut ends = pending.finish(&ours, &response);
    ours.confirm(&mut ends);
    ours.data_goes_both_ways(&mut ends);
}

#[test]
fn our_initiator_meets_boringtun_under_load() {
    our_initiator_meets_load::<Boringtun>();
}

#[test]
fn our_initiator_meets_gotatun_under_load() {
    our_initiator_meets_load::<Gotatun>();
}

/// We are under load: the oracle's second initiation carries our cookie.
fn our_responder_is_under_load<O: Oracle>() {
    let mut ours = Ours::<O>::new(None, NEVER);
    let mut checker = Checker::new();
    let mut reply = [0; COOKIE_REPLY_LEN];
    advance(Duration::from_secs(1));
    let initiation = ours.oracle.initiate();
    let checked = ours.local.check_mac1(&initiation).unwrap();
    assert!(!checker.verify_mac2(&checked, source(), 0));
    checker.reply(&ours.local, &checked, source(), 0, &mut ours.rng, &mut reply);
    assert_eq!(ours.oracle.handle_datagram(source(), &reply), Output::Nothing);

    advance(Duration::from_secs(6));
    let initiation = ours.oracle.initiate();
    let checked = ours.local.check_mac1(&initiation).unwrap();
    assert!(checker.verify_mac2(&checked, source(), 6_000_000));
    let (response, keys) = ours.respond(&initiation);
    datagram(ours.oracle.handle_datagram(source(), &response));
    let (sealer, opener) = keys.split();
    ours.data_goes_both_ways(&mut Ends { sealer, opener });
}

#[test]
fn boringtun_meets_our_responder_under_load() {
    our_responder_is_under_load::<Boringtun>();
}

#[test]
fn gotatun_meets_our_responder_under_load() {
    our_responder_is_under_load::<Gotatun>();
}

/// Regressions 1, 2 and 4: counters beyond 32 bits and at their end mean the
/// same to the oracles as to us.
fn counters_are_64_bits_wide<O: Oracle>() {
    let mut ours = Ours::<O>::new(None, NEVER);
    let mut ends = ours.as_initiator();
    let packet = ipv4(100);
    let passes = |ours: &mut Ours<O>, sealer: &mut Sealer| {
        let sealed = seal(sealer, &packet);
        let received = ours.oracle.handle_datagram(source(), &sealed);
        assert_eq!(received, Output::Packet(packet.clone()), "counter {}", sealer.counter() - 1);
    };
    ends.sealer.skip((1 << 32) - 1 - ends.sealer.counter());
    passes(&mut ours, &mut ends.sealer);
    passes(&mut ours, &mut ends.sealer);
    ends.sealer.skip((1 << 32) + 5);
    passes(&mut ours, &mut ends.sealer);
    ends.sealer.skip(wg::REJECT_AFTER_MESSAGES - 1 - ends.sealer.counter());
    passes(&mut ours, &mut ends.sealer);
    let mut buffer = [0; 200];
    assert_eq!(ends.sealer.seal(&mut buffer, 100, MTU), Err(SealError::Exhausted));
}

#[test]
fn counters_are_64_bits_wide_to_boringtun() {
    counters_are_64_bits_wide::<Boringtun>();
}

#[test]
fn counters_are_64_bits_wide_to_gotatun() {
    counters_are_64_bits_wide::<Gotatun>();
}

/// Every single-bit flip of what the oracles send is refused by us.
fn flipped_messages_are_refused<O: Oracle>() {
    let flips = |message: &[u8]| {
        let message = message.to_vec();
        (0..message.len() * 8).map(move |bit| {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        })
    };
    let mut ours = Ours::<O>::new(None, NEVER);
    advance(Duration::from_secs(1));
    let initiation = ours.oracle.initiate();
    for flipped in flips(&initiation[..INITIATION_LEN - 16]) {
        let flipped = [&flipped[..], &[0; 16]].concat();
        assert!(ours.local.check_mac1(&flipped).is_err());
    }
    let mut ends = ours.as_initiator();
    let mut sealed = datagram(ours.oracle.handle_packet(&ipv4(48)));
    for mut flipped in flips(&sealed) {
        assert!(ends.opener.open(&mut flipped).is_err());
    }
    assert!(ends.opener.open(&mut sealed.clone()).is_ok());
    assert_eq!(ends.opener.open(&mut sealed), Err(OpenError::Replayed));
}

#[test]
fn flipped_messages_of_boringtun_are_refused() {
    flipped_messages_are_refused::<Boringtun>();
}

#[test]
fn flipped_messages_of_gotatun_are_refused() {
    flipped_messages_are_refused::<Gotatun>();
}

/// Theirs is x25519-dalek 2, ours 3.
#[test]
fn public_keys_are_the_same() {
    for byte in 0..=255 {
        let ours = StaticSecret::from_bytes([byte; 32]).public();
        let theirs = boringtun::x25519::StaticSecret::from([byte; 32]);
        let theirs = boringtun::x25519::PublicKey::from(&theirs);
        assert_eq!(ours, PublicKey(theirs.to_bytes()));
    }
}
