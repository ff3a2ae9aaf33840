//! Messages that are sealed: forged ones are refused, and never more than that.

use weft_noise::key::StaticSecret;
use weft_noise::sealed::Session;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::device::{HelloHead, Initiator, Pending};
use weft_noise::wg::cookie::{Checker, Jar};
use weft_noise::wg::{
    self, COOKIE_REPLY_LEN, INITIATION_LEN, InitiationSent, Kind, LocalKey, Opener, RESPONSE_LEN,
    RemoteKey, Sealer, SessionKeys, TAILROOM, Tai64n,
};
use weft_sim::rng::Rng;
use weft_wire::frame::{FrameKind, Hello, MAX_FRAME, PskKind, PskSelector, kind};
use weft_wire::id::Inbox;

use crate::keys::{OUR_SECRET, PEER_SECRET, local, psk, remote};
use crate::script::Script;

/// Words of the replay windows.
const WORDS: usize = 8;
/// Where datagrams seem to come from.
const SOURCE: ([u8; 4], u16) = ([192, 0, 2, 1], 51_820);
/// The longest datagram.
const DATAGRAM: usize = 2_048;
/// Our index in the initiation that stored responses answer.
const SENDER: u32 = 7;
/// The session id in stored frames.
const SESSION: u32 = 9;

/// Our end of a tunnel, whose initiation is always the same, so that stored
/// answers of others are genuine.
pub struct End {
    own: LocalKey,
    peer: RemoteKey,
    sent: InitiationSent,
    jar: Jar,
    cookies: Checker,
    rng: Rng,
    openers: Vec<Opener<WORDS>>,
}

impl End {
    /// The end, and its initiation.
    pub fn new() -> (Self, [u8; INITIATION_LEN]) {
        let own = local(OUR_SECRET);
        let peer = remote(&own, PEER_SECRET);
        let mut rng = Rng::new(1);
        let mut message = [0; INITIATION_LEN];
        let stamp = Tai64n::from_steps(1 << 40);
        let sent = own.initiate(&peer, SENDER, stamp, &mut rng, &mut message);
        let mut jar = Jar::new();
        jar.attach(&mut message, 0);
        let end = Self { own, peer, sent, jar, cookies: Checker::new(), rng, openers: vec![] };
        (end, message)
    }

    /// Takes a datagram; the answer to an initiation, if it is one of the peer's.
    pub fn handle(&mut self, datagram: &[u8]) -> Option<[u8; RESPONSE_LEN]> {
        match wg::kind(datagram) {
            Ok(Kind::Initiation) => self.initiation(datagram),
            Ok(Kind::Response) => {
                self.response(datagram);
                None
            }
            Ok(Kind::CookieReply) => {
                let _refused = self.jar.receive(&self.peer, datagram, 1);
                None
            }
            Ok(Kind::Transport) => {
                for opener in &mut self.openers {
                    let mut copy = datagram.to_vec();
                    if let Ok(opened) = opener.open(&mut copy) {
                        assert!(opened.range().end <= copy.len());
                        let mut copy = datagram.to_vec();
                        assert!(opener.open(&mut copy).is_err(), "a packet opens once");
                    }
                }
                None
            }
            Err(wg::Malformed) => None,
        }
    }

    fn initiation(&mut self, datagram: &[u8]) -> Option<[u8; RESPONSE_LEN]> {
        let checked = self.own.check_mac1(datagram).ok()?;
        let source = SOURCE.into();
        let mut reply = [0; COOKIE_REPLY_LEN];
        if !self.cookies.verify_mac2(&checked, source, 1) {
            self.cookies.reply(&self.own, &checked, source, 1, &mut self.rng, &mut reply);
        }
        let received = self.own.receive_initiation(&checked).ok()?;
        let peer = self.own.remote(received.peer()).ok()?;
        let authentic = received.authenticate(&peer).ok()?;
        assert_eq!(authentic.peer(), peer.public());
        let mut out = [0; RESPONSE_LEN];
        let keys = authentic.respond(SENDER + 1, &psk(), &mut self.rng, &mut out);
        self.take(keys);
        Some(out)
    }

    fn response(&mut self, datagram: &[u8]) {
        let Ok(checked) = self.own.check_mac1(datagram) else { return };
        if let Ok(answered) = self.sent.receive_response(&self.own, &checked, &[&psk()]) {
            let again = self.sent.receive_response(&self.own, &checked, &[&psk()]);
            assert!(again.is_err(), "one response completes a handshake");
            self.take(answered.keys);
        }
    }

    fn take(&mut self, keys: SessionKeys) {
        let (_, opener): (Sealer, Opener<WORDS>) = keys.split();
        self.openers.push(opener);
    }
}

/// A sequence of WireGuard datagrams to one end of a tunnel.
pub(crate) fn wireguard(data: &[u8]) {
    let mut script = Script::new(data);
    let (mut end, _) = End::new();
    for _ in 0..8 {
        let datagram = script.bytes(DATAGRAM);
        if datagram.is_empty() {
            return;
        }
        end.handle(datagram);
    }
}

pub(crate) fn device() -> Initiator {
    let coordinator = StaticSecret::from_bytes(OUR_SECRET).public();
    let secret = StaticSecret::from_bytes(PEER_SECRET);
    Initiator::new(secret, &coordinator).expect("a key of full order")
}

pub(crate) fn coordinator() -> CoordinatorKey {
    CoordinatorKey::new(StaticSecret::from_bytes(OUR_SECRET))
}

/// A HELLO of the device, always the same for the same payload.
pub fn hello(payload: &[u8]) -> (Vec<u8>, Pending) {
    let head = HelloHead {
        selector: PskSelector { kind: PskKind::Device, master: 0 },
        reference: [0; 8],
        inbox: Inbox([5; 16]),
        token: None,
    };
    let mut frame = vec![0; MAX_FRAME];
    let (len, pending) = device()
        .hello(&head, &psk(), payload, &mut Rng::new(2), &mut frame)
        .expect("a payload of a few bytes");
    frame.truncate(len);
    (frame, pending)
}

/// The coordinator's answer to a HELLO, and its session.
pub fn welcome(frame: &[u8], payload: &[u8]) -> Option<(Vec<u8>, Session)> {
    let hello = Hello::parse(frame).ok()?;
    let key = coordinator();
    let mut plain = vec![0; MAX_FRAME];
    let opened = key.open_hello(&hello).ok()?;
    let (_, verified) = opened.verify(&key, &hello, &psk(), &mut plain).ok()?;
    let mut out = vec![0; MAX_FRAME];
    let (len, session) = verified.welcome(SESSION, payload, &mut Rng::new(3), &mut out).ok()?;
    out.truncate(len);
    Some((out, session))
}

/// A sequence of frames to a device that has sent a HELLO, or to a coordinator.
pub(crate) fn sealed(data: &[u8]) {
    let mut script = Script::new(data);
    let to_device = script.byte() & 1 == 0;
    let (_, mut pending) = hello(b"hello");
    let mut session = None;
    for _ in 0..8 {
        let frame = script.bytes(MAX_FRAME + 1);
        if frame.is_empty() {
            return;
        }
        match kind(frame) {
            Ok(FrameKind::Welcome) if to_device => {
                let mut plain = vec![0; MAX_FRAME];
                if let Ok((_, accepted)) = pending.welcome(&device(), frame, &mut plain) {
                    let again = pending.welcome(&device(), frame, &mut plain);
                    assert!(again.is_err(), "one WELCOME completes a handshake");
                    session = Some(accepted.into_session(SESSION));
                }
            }
            Ok(FrameKind::Retry) if to_device => {
                let _token = pending.retry(frame);
            }
            Ok(FrameKind::Hello) if !to_device => {
                session = welcome(frame, b"welcome").map(|(_, session)| session).or(session);
            }
            Ok(FrameKind::Record) => {
                if let Some(session) = &mut session {
                    open_once(session, frame);
                }
            }
            _ => {}
        }
    }
}

fn open_once(session: &mut Session, frame: &[u8]) {
    let mut plain = vec![0; MAX_FRAME];
    if session.open(frame, &mut plain).is_ok() {
        assert!(session.open(frame, &mut plain).is_err(), "a record opens once");
    }
}

/// Changes one bit of the first `len` bytes; which one is the script's choice.
fn change(script: &mut Script<'_>, message: &mut [u8], len: usize) {
    let at = script.word() as usize % (len * 8);
    if let Some(byte) = message.get_mut(at / 8) {
        *byte ^= 1 << (at % 8);
    }
}

/// A genuine message, changed by one bit, never authenticates.
pub(crate) fn changed(data: &[u8]) {
    let mut script = Script::new(data);
    match script.byte() % 7 {
        0 => changed_initiation(&mut script),
        1 => changed_response(&mut script),
        2 => changed_cookie(&mut script),
        3 => changed_transport(&mut script),
        4 => changed_hello(&mut script),
        5 => changed_welcome(&mut script),
        _ => changed_record(&mut script),
    }
}

/// mac2 binds to the receiver's cookie alone: everything before it.
const MAC2: usize = 16;

fn changed_initiation(script: &mut Script<'_>) {
    let (_, mut message) = End::new();
    change(script, &mut message, INITIATION_LEN - MAC2);
    let responder = local(PEER_SECRET);
    assert!(responder.check_mac1(&message).is_err());
}

fn changed_response(script: &mut Script<'_>) {
    let (mut end, message) = End::new();
    let mut response = respond(&message).0;
    change(script, &mut response, RESPONSE_LEN - MAC2);
    end.handle(&response);
    assert!(end.openers.is_empty());
}

/// What the peer answers to our initiation.
fn respond(message: &[u8; INITIATION_LEN]) -> ([u8; RESPONSE_LEN], SessionKeys) {
    let responder = local(PEER_SECRET);
    let checked = responder.check_mac1(message).expect("our own message");
    let received = responder.receive_initiation(&checked).expect("our own message");
    let initiator = remote(&responder, OUR_SECRET);
    let authentic = received.authenticate(&initiator).expect("our own message");
    let mut response = [0; RESPONSE_LEN];
    let keys = authentic.respond(77, &psk(), &mut Rng::new(4), &mut response);
    (response, keys)
}

fn changed_cookie(script: &mut Script<'_>) {
    let (mut end, message) = End::new();
    let responder = local(PEER_SECRET);
    let checked = responder.check_mac1(&message).expect("our own message");
    let mut reply = [0; COOKIE_REPLY_LEN];
    let mut cookies = Checker::new();
    cookies.reply(&responder, &checked, SOURCE.into(), 1, &mut Rng::new(5), &mut reply);
    change(script, &mut reply, COOKIE_REPLY_LEN);
    assert!(end.jar.receive(&end.peer, &reply, 1).is_err());
}

fn changed_transport(script: &mut Script<'_>) {
    let (mut end, message) = End::new();
    let (response, keys) = respond(&message);
    end.handle(&response);
    let (mut sealer, _): (Sealer, Opener<WORDS>) = keys.split();
    let at = script.word();
    let packet = script.bytes(DATAGRAM);
    let mut datagram = vec![0; wg::HEADER_LEN + packet.len() + TAILROOM];
    datagram[wg::HEADER_LEN..wg::HEADER_LEN + packet.len()].copy_from_slice(packet);
    let len = sealer.seal(&mut datagram, packet.len(), DATAGRAM).expect("room");
    datagram.truncate(len);
    let mut genuine = datagram.clone();
    let at = at as usize % (len * 8);
    datagram[at / 8] ^= 1 << (at % 8);
    let opener = end.openers.first_mut().expect("a session");
    assert!(opener.open(&mut datagram).is_err());
    let opened = opener.open(&mut genuine).expect("the genuine one still opens");
    assert!(genuine[opened.range()].starts_with(packet));
}

fn changed_hello(script: &mut Script<'_>) {
    let at = script.word() as usize;
    let (mut frame, _) = hello(script.bytes(512));
    let at = at % (frame.len() * 8);
    frame[at / 8] ^= 1 << (at % 8);
    assert!(welcome(&frame, b"").is_none());
}

fn changed_welcome(script: &mut Script<'_>) {
    let at = script.word() as usize;
    let (frame, mut pending) = hello(b"hello");
    let (mut frame, _) = welcome(&frame, script.bytes(512)).expect("a genuine HELLO");
    let genuine = frame.clone();
    let at = at % (frame.len() * 8);
    frame[at / 8] ^= 1 << (at % 8);
    let mut plain = vec![0; MAX_FRAME];
    assert!(pending.welcome(&device(), &frame, &mut plain).is_err());
    assert!(pending.welcome(&device(), &genuine, &mut plain).is_ok());
}

fn changed_record(script: &mut Script<'_>) {
    let at = script.word() as usize;
    let (frame, mut pending) = hello(b"hello");
    let (frame, mut session) = welcome(&frame, b"welcome").expect("a genuine HELLO");
    let mut plain = vec![0; MAX_FRAME];
    let (_, accepted) =
        pending.welcome(&device(), &frame, &mut plain).ok().unwrap_or_else(|| panic!("genuine"));
    let mut theirs = accepted.into_session(SESSION);
    let text = script.bytes(1_024);
    let mut frame = vec![0; MAX_FRAME];
    let len = session.seal(text, &mut frame).expect("room");
    frame.truncate(len);
    let genuine = frame.clone();
    let at = at % (len * 8);
    frame[at / 8] ^= 1 << (at % 8);
    assert!(theirs.open(&frame, &mut plain).is_err());
    assert_eq!(theirs.open(&genuine, &mut plain), Ok(text.len()));
    assert_eq!(plain[..text.len()], *text);
}
