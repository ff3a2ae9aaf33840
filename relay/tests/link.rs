//! The relay's end of its session, played with the coordinator's half of the
//! handshake.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::Session;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_relay::proto::link::{Link, Proof, Said};
use weft_wire::frame::{Hello, MAX_FRAME, PskKind, Reset};
use weft_wire::http::length_prefix;
use weft_wire::id::{Epoch, Inbox, KeyId, PublicKey, ReplicaId, Revision, Secret, ShortSecret};
use weft_wire::item::{HelloInfo, Item, ItemWriter, Items, Ping, WelcomeInfo};
use weft_wire::relay_link::{RelayHeard, RelayRegister, RelayUnknown};

struct Counter(u64);

impl Entropy for Counter {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

struct Coordinator(CoordinatorKey);

impl Coordinator {
    fn new(seed: u8) -> Self {
        Self(CoordinatorKey::new(StaticSecret::from_bytes([seed; 32])))
    }

    /// Answers a HELLO; `None` = it is not for this key or made with another PSK.
    fn welcome(&self, frame: &[u8], psk: &Secret) -> Option<(Vec<u8>, Session)> {
        let hello = Hello::parse(frame).unwrap();
        let mut plain = [0; MAX_FRAME];
        let opened = self.0.open_hello(&hello).ok()?;
        let (len, verified) = opened.verify(&self.0, &hello, psk, &mut plain).ok()?;
        let info: HelloInfo = find(&plain[..len]).unwrap();
        assert_eq!((info.wire_min, info.max_rx), (1, MAX_FRAME as u16));
        let welcome = WelcomeInfo {
            session: 77,
            wire: 1,
            replica: ReplicaId(0),
            time_ms: 0,
            epoch: Epoch(0),
            revision: Revision(0),
            inbox: Inbox([0; 16]),
            password: ShortSecret([0; 16]),
            password_expiry: 0,
            reconnect_min_s: 0,
            reconnect_max_s: 0,
            heartbeat_s: 0,
        };
        let mut items = [0; 256];
        let len = put(&welcome, &mut items);
        let mut out = [0; 512];
        let (len, session) =
            verified.welcome(77, &items[..len], &mut Counter(9), &mut out).unwrap();
        Some((body(&[&out[..len]]), session))
    }
}

fn find<T: Item>(plain: &[u8]) -> Option<T> {
    let found = Items::new(plain).map(Result::unwrap).find(|item| item.tag == T::TAG)?;
    Some(found.decode().unwrap())
}

fn put<T: Item>(item: &T, out: &mut [u8]) -> usize {
    let mut writer = ItemWriter::new(out);
    writer.put(item).unwrap();
    writer.finish()
}

fn sealed<T: Item>(session: &mut Session, item: &T) -> Vec<u8> {
    let mut plain = [0; 256];
    let len = put(item, &mut plain);
    let mut frame = [0; 512];
    let len = session.seal(&plain[..len], &mut frame).unwrap();
    frame[..len].to_vec()
}

fn body(frames: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    for frame in frames {
        body.extend(length_prefix(u16::try_from(frame.len()).unwrap()));
        body.extend_from_slice(frame);
    }
    body
}

const IDENTITY: Secret = Secret([3; 32]);

fn link(pins: &[PublicKey], proof: Proof) -> Link {
    Link::new(&IDENTITY, pins, proof, &mut Counter(1)).unwrap()
}

#[test]
fn a_string_names_its_key_and_what_is_answered_is_read_in_order() {
    let coordinator = Coordinator::new(7);
    let key = KeyId::from_random([5; 8]);
    let proof = Proof::String(key, Secret([4; 32]));
    let mut link = link(&[*coordinator.0.public()], proof);
    assert!(!link.has_session());
    let hello = link.hello(&mut Counter(2)).unwrap();
    let parsed = Hello::parse(&hello).unwrap();
    assert_eq!((parsed.selector().kind, parsed.reference()), (PskKind::Enrolment, key.to_bytes()));
    let (answer, mut session) = coordinator.welcome(&hello, &Secret([4; 32])).unwrap();
    assert!(link.welcome(&answer));
    assert!(!link.welcome(&answer), "one HELLO makes one session");
    let version = heapless::String::try_from("0.1.0").unwrap();
    let record = link.seal(&RelayRegister { request: 9, version }).unwrap();
    let mut plain = [0; 512];
    let len = session.open(&record, &mut plain).unwrap();
    assert_eq!(find::<RelayRegister>(&plain[..len]).unwrap().request, 9);

    // What a newer coordinator adds is skipped, and so is what somebody else made.
    let newer = sealed(&mut session, &Ping { request: 1 });
    let heard = sealed(&mut session, &RelayHeard { time_ms: 5 });
    let mut forged = sealed(&mut session, &RelayUnknown {});
    *forged.last_mut().unwrap() ^= 1;
    let answer = link.open(&body(&[&newer, &forged, &heard, &heard]));
    assert!(!answer.is_reset);
    assert!(matches!(&answer.said[..], [Said::Heard(5)]));
    let reset = Reset { session: 77, hello_hash: [0; 8] }.to_bytes();
    assert!(link.open(&body(&[&reset])).is_reset);
    assert!(link.has_session(), "a hint is for who asked for it to obey");
    link.forget_session();
    assert!(link.seal(&RelayHeard { time_ms: 0 }).is_err());
}

#[test]
fn the_other_key_is_tried_when_nobody_answers() {
    let [old, new] = [7, 8].map(Coordinator::new);
    let pins = [*old.0.public(), *new.0.public()];
    let mut link = link(&pins, Proof::Own(Secret([4; 32]), 2));
    let hello = link.hello(&mut Counter(2)).unwrap();
    assert_eq!(Hello::parse(&hello).unwrap().selector().master, 2);
    assert!(new.welcome(&hello, &Secret([4; 32])).is_none());
    assert!(!link.welcome(&body(&[])));
    link.try_other_pin();
    assert_eq!(link.pin(), pins[1]);
    let hello = link.hello(&mut Counter(2)).unwrap();
    assert!(new.welcome(&hello, &Secret([5; 32])).is_none(), "another PSK");
    let (answer, _) = new.welcome(&hello, &Secret([4; 32])).unwrap();
    assert!(link.welcome(&answer));
}
