//! The sealed control channel, both sides.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use blake2::digest::typenum::U16;
use blake2::digest::{FixedOutput, KeyInit, Update};
use support::{LOW_ORDER, Seeded, single_bit_flips};
use weft_noise::key::StaticSecret;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::device::{HelloHead, Initiator, Pending};
use weft_noise::sealed::{REJECT_AFTER_RECORDS, REKEY_AFTER_RECORDS, SealedError, Session, retry};
use weft_wire::frame::{Hello, MAX_FRAME, PskKind, PskSelector};
use weft_wire::id::{Inbox, PublicKey, Secret};

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
            selector: PskSelector { kind: PskKind::Enrolment, master: 3 },
            reference: rng.bytes(),
            inbox: Inbox(rng.bytes()),
            token: None,
        };
        Self { rng, coordinator, device, psk, head }
    }

    fn hello(&mut self, payload: &[u8]) -> (Vec<u8>, Pending) {
        let mut frame = [0; MAX_FRAME];
        let (len, pending) =
            self.device.hello(&self.head, &self.psk, payload, &mut self.rng, &mut frame).unwrap();
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
        let (hello, mut pending) = self.hello(b"question");
        let (welcome, session) = self.answer(&hello, b"answer").unwrap();
        let mut out = [0; MAX_FRAME];
        let (len, accepted) = pending.welcome(&self.device, &welcome, &mut out).unwrap();
        assert_eq!(&out[..len], b"answer");
        (accepted.into_session(77), session)
    }
}

/// mac1 of a HELLO, made without the crate.
fn rewrite_mac1(frame: &mut [u8], coordinator: &PublicKey) {
    let mut key = blake2::Blake2s256::default();
    key.update(b"weft hello mac1 v1");
    key.update(&coordinator.0);
    let key = key.finalize_fixed();
    let end = frame.len() - 16;
    let mut mac = blake2::Blake2sMac::<U16>::new(&key);
    mac.update(&frame[..end]);
    frame[end..].copy_from_slice(&mac.finalize_fixed());
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

#[test]
fn every_single_bit_flip_of_a_hello_is_refused() {
    let mut setup = Setup::new(3);
    let (frame, _) = setup.hello(b"who I am");
    for (byte, mut flipped) in single_bit_flips(&frame) {
        assert!(setup.answer(&flipped, b"").is_err(), "{byte}");
        // Behind a right mac1, the transcript refuses all but the token, which
        // is worth something only where the coordinator asked for it.
        rewrite_mac1(&mut flipped, setup.coordinator.public());
        let token = frame.len() - 32..frame.len() - 16;
        let harmless = token.contains(&byte) || byte >= frame.len() - 16;
        assert_eq!(setup.answer(&flipped, b"").is_ok(), harmless, "{byte}");
    }
    assert!(setup.answer(&frame, b"").is_ok());
}

#[test]
fn every_single_bit_flip_of_a_welcome_is_refused_and_does_no_harm() {
    let mut setup = Setup::new(4);
    let (hello, mut pending) = setup.hello(b"");
    let (welcome, _) = setup.answer(&hello, b"come in").unwrap();
    let mut out = [0; 64];
    for (byte, flipped) in single_bit_flips(&welcome) {
        let result = pending.welcome(&setup.device, &flipped, &mut out);
        assert!(result.is_err(), "{byte}");
        assert_eq!(out, [0; 64]);
    }
    assert!(pending.welcome(&setup.device, &welcome, &mut out).is_ok());
}

/// A second session of one handshake would use each nonce twice.
#[test]
fn a_hello_is_answered_once() {
    let mut setup = Setup::new(12);
    let (hello, mut pending) = setup.hello(b"");
    let (welcome, _) = setup.answer(&hello, b"").unwrap();
    let (other_welcome, _) = setup.answer(&hello, b"").unwrap();
    for (frame, expected) in [
        (&welcome, None),
        (&welcome, Some(SealedError::Unexpected)),
        (&other_welcome, Some(SealedError::Unexpected)),
    ] {
        let accepted = pending.welcome(&setup.device, frame, &mut []);
        assert_eq!(accepted.err(), expected);
    }
}

#[test]
fn every_single_bit_flip_of_a_record_is_refused() {
    let (mut device, mut coordinator) = Setup::new(5).sessions();
    let mut frame = [0; 128];
    let len = device.seal(&[9; 64], &mut frame).unwrap();
    let mut out = [0; 64];
    for (byte, flipped) in single_bit_flips(&frame[..len]) {
        assert!(coordinator.open(&flipped, &mut out).is_err(), "{byte}");
        assert_eq!(out, [0; 64]);
    }
    assert!(!coordinator.is_confirmed());
    assert_eq!(coordinator.open(&frame[..len], &mut out), Ok(64));
    assert_eq!(out, [9; 64]);
}

/// A flip of RETRY's hash is refused; one of its token makes a HELLO whose
/// token is not accepted. Neither touches the handshake that is pending.
#[test]
fn every_single_bit_flip_of_a_retry_comes_to_nothing() {
    let mut setup = Setup::new(6);
    let secret = Secret([5; 32]);
    let (hello, mut pending) = setup.hello(b"");
    let view = Hello::parse(&hello).unwrap();
    let answer = retry::answer(&secret, &view, 1).to_bytes();
    for (byte, flipped) in single_bit_flips(&answer) {
        let Ok(token) = pending.retry(&flipped) else {
            assert!(byte < 10, "{byte}");
            continue;
        };
        setup.head.token = Some(token);
        let (again, _) = setup.hello(b"");
        let again = Hello::parse(&again).unwrap();
        assert!(byte >= 10 && !retry::verify(&secret, &again, 1), "{byte}");
    }
    setup.head.token = None;
    let (welcome, _) = setup.answer(&hello, b"").unwrap();
    let mut out = [0; 8];
    assert!(pending.welcome(&setup.device, &welcome, &mut out).is_ok());
}

#[test]
fn a_frame_is_bound_to_inbox_psk_and_keys() {
    let mut setup = Setup::new(7);
    let (frame, _) = setup.hello(b"payload");
    let hello = Hello::parse(&frame).unwrap();
    let mut out = [0; 64];
    let opened = setup.coordinator.open_hello(&hello).unwrap();
    let wrong_psk = Secret([0; 32]);
    let refused = opened.verify(&setup.coordinator, &hello, &wrong_psk, &mut out);
    assert_eq!(refused.err(), Some(SealedError::Unauthentic));
    assert_eq!(out, [0; 64]);

    let other = CoordinatorKey::new(StaticSecret::generate(&mut setup.rng));
    assert!(!other.check_mac1(&hello));
    let refused = other.open_hello(&hello);
    assert_eq!(refused.err(), Some(SealedError::Mac1));

    let mut moved = frame.clone();
    moved[11..27].copy_from_slice(&[0x55; 16]);
    rewrite_mac1(&mut moved, setup.coordinator.public());
    let refused = setup.answer(&moved, b"");
    assert_eq!(refused.err(), Some(SealedError::Unauthentic));

    // The answer to one HELLO is no answer to another of the same device.
    let (_, mut other_pending) = setup.hello(b"payload");
    let (mut welcome, _) = setup.answer(&frame, b"").unwrap();
    let other_hash = other_pending.hello_hash();
    let mut read = |frame: &[u8]| other_pending.welcome(&setup.device, frame, &mut out).err();
    assert_eq!(read(&welcome), Some(SealedError::Unexpected));
    welcome[2..10].copy_from_slice(&other_hash);
    assert_eq!(read(&welcome), Some(SealedError::Unauthentic));
}

#[test]
fn a_point_of_low_order_is_refused() {
    let mut setup = Setup::new(8);
    for point in LOW_ORDER {
        let secret = StaticSecret::generate(&mut setup.rng);
        assert!(Initiator::new(secret, &PublicKey(point)).is_err());
        let (mut frame, mut pending) = setup.hello(b"");
        let (mut welcome, _) = setup.answer(&frame, b"").unwrap();
        frame[27..59].copy_from_slice(&point);
        rewrite_mac1(&mut frame, setup.coordinator.public());
        let refused = setup.answer(&frame, b"");
        assert_eq!(refused.err(), Some(SealedError::WeakKey));
        welcome[10..42].copy_from_slice(&point);
        let refused = pending.welcome(&setup.device, &welcome, &mut [0; 8]);
        assert_eq!(refused.err(), Some(SealedError::WeakKey));
    }
}

#[test]
fn records_of_the_window_are_opened_once_in_any_order() {
    let (mut device, mut coordinator) = Setup::new(9).sessions();
    let mut out = [0; 64];
    let frames: Vec<_> = (0..=64)
        .map(|_| {
            let mut frame = [0; 128];
            let len = device.seal(b"item", &mut frame).unwrap();
            frame[..len].to_vec()
        })
        .collect();
    assert!(coordinator.open(&frames[64], &mut out).is_ok());
    let late = coordinator.open(&frames[0], &mut out);
    assert_eq!(late, Err(SealedError::Replayed));
    for frame in frames[1..64].iter().rev() {
        assert!(coordinator.open(frame, &mut out).is_ok());
    }
    for frame in &frames {
        let again = coordinator.open(frame, &mut out);
        assert_eq!(again, Err(SealedError::Replayed));
    }
    // Reflected to its sender, or taken from another session.
    let reflected = device.open(&frames[1], &mut out);
    assert_eq!(reflected, Err(SealedError::Unauthentic));
    let (_, mut other) = Setup::new(10).sessions();
    assert_eq!(other.open(&frames[1], &mut out), Err(SealedError::Unauthentic));
}

#[test]
fn a_million_records_ask_for_a_new_handshake() {
    let (mut device, mut coordinator) = Setup::new(11).sessions();
    let (mut frame, mut len, mut out) = ([0; 64], 0, [0; 8]);
    for _ in 0..REKEY_AFTER_RECORDS {
        assert!(!device.rekey_due());
        len = device.seal(b"", &mut frame).unwrap();
    }
    assert!(device.rekey_due());
    assert!(!coordinator.rekey_due());
    coordinator.open(&frame[..len], &mut out).unwrap();
    assert!(coordinator.rekey_due());
    // The session goes on until the new one is confirmed.
    let mut beyond = frame;
    beyond[6..14].copy_from_slice(&REJECT_AFTER_RECORDS.to_le_bytes());
    let refused = coordinator.open(&beyond[..len], &mut out);
    assert_eq!(refused, Err(SealedError::Exhausted));
}
