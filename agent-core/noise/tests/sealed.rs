//! The sealed control channel, both sides.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use support::Seeded;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::device::{HelloHead, Initiator, Pending};
use weft_noise::sealed::{SealedError, Session, retry};
use weft_wire::frame::{Hello, MAX_FRAME, PskKind, PskSelector};
use weft_wire::id::{Inbox, Secret};

struct Setup {
    rng: Seeded,
    coordinator: CoordinatorKey,
    device: Initiator,
    psk: Secret,
    head: HelloHead,
}

impl Setup {
    fn new(seed: u64) -> Self {
        let mut rng = Seeded(seed);
        let coordinator = CoordinatorKey::new(StaticSecret::generate(&mut rng));
        let device =
            Initiator::new(StaticSecret::generate(&mut rng), coordinator.public()).unwrap();
        let psk = Secret(rng.bytes());
        let head = HelloHead {
            selector: PskSelector {
                kind: PskKind::Enrolment,
                master: 3,
            },
            reference: rng.bytes(),
            inbox: Inbox(rng.bytes()),
            token: None,
        };
        Self {
            rng,
            coordinator,
            device,
            psk,
            head,
        }
    }

    fn hello(&mut self, payload: &[u8]) -> (Vec<u8>, Pending) {
        let mut frame = [0; MAX_FRAME];
        let (len, pending) = self
            .device
            .hello(&self.head, &self.psk, payload, &mut self.rng, &mut frame)
            .unwrap();
        (frame[..len].to_vec(), pending)
    }

    fn answer(&mut self, frame: &[u8], payload: &[u8]) -> Result<(Vec<u8>, Session), SealedError> {
        let hello = Hello::parse(frame)?;
        let opened = self.coordinator.open_hello(&hello)?;
        assert_eq!(opened.device(), self.device.public());
        let mut out = [0; MAX_FRAME];
        let (_, verified) = opened.verify(&self.coordinator, &hello, &self.psk, &mut out)?;
        let (len, session) = verified.welcome(77, payload, &mut self.rng, &mut out)?;
        Ok((out[..len].to_vec(), session))
    }

    fn sessions(&mut self) -> (Session, Session) {
        let (hello, pending) = self.hello(b"question");
        let (welcome, session) = self.answer(&hello, b"answer").unwrap();
        let mut out = [0; MAX_FRAME];
        let (len, accepted) = pending.welcome(&self.device, &welcome, &mut out).unwrap();
        assert_eq!(&out[..len], b"answer");
        (accepted.into_session(77), session)
    }
}

#[test]
fn both_sides_meet_and_talk() {
    let (mut device, mut coordinator) = Setup::new(1).sessions();
    let (mut frame, mut out) = ([0; 256], [0; 256]);
    assert!(!coordinator.is_confirmed());
    let len = device.seal(b"register me", &mut frame).unwrap();
    let read = coordinator.open(&frame[..len], &mut out).unwrap();
    assert_eq!(&out[..read], b"register me");
    assert!(coordinator.is_confirmed());
    let len = coordinator.seal(b"registered", &mut frame).unwrap();
    let read = device.open(&frame[..len], &mut out).unwrap();
    assert_eq!(&out[..read], b"registered");
}

#[test]
fn a_retry_token_belongs_to_its_inbox_and_time() {
    let mut setup = Setup::new(2);
    let secret = Secret([9; 32]);
    let (frame, pending) = setup.hello(b"");
    let hello = Hello::parse(&frame).unwrap();
    assert!(!retry::verify(&secret, &hello, 10));
    let answer = retry::answer(&secret, &hello, 10).to_bytes();
    setup.head.token = Some(pending.retry(&answer).unwrap());
    let (frame, other) = setup.hello(b"");
    assert_eq!(other.retry(&answer), Err(SealedError::Unexpected));
    let hello = Hello::parse(&frame).unwrap();
    for (bucket, good) in [(9, false), (10, true), (11, true), (12, false)] {
        assert_eq!(retry::verify(&secret, &hello, bucket), good, "{bucket}");
    }
    setup.head.inbox = Inbox([1; 16]);
    let (frame, _) = setup.hello(b"");
    let hello = Hello::parse(&frame).unwrap();
    assert!(!retry::verify(&secret, &hello, 10));
}
