//! The sealed channel's transcript equals that of snow, an independent Noise
//! implementation, in both roles, and so do the keys of the session.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use snow::{Builder, HandshakeState};
use support::Seeded;
use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::device::{HelloHead, Initiator};
use weft_wire::frame::{
    Hello, MAX_FRAME, PROLOGUE_LEN, PskKind, PskSelector, RECORD_HEADER_LEN, TAG_LEN,
};
use weft_wire::id::{Inbox, Secret};

const HANDSHAKES: u64 = 10_000;

/// Everything that decides a handshake.
struct Case {
    device: [u8; 32],
    coordinator: [u8; 32],
    device_ephemeral: [u8; 32],
    coordinator_ephemeral: [u8; 32],
    psk: [u8; 32],
    head: HelloHead,
    question: Vec<u8>,
    answer: Vec<u8>,
    record: Vec<u8>,
}

/// Hands out one ephemeral key.
struct Fixed([u8; 32]);

impl Entropy for Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }
}

fn payload(rng: &mut Seeded) -> Vec<u8> {
    let mut bytes = vec![0; rng.below(600)];
    rng.fill(&mut bytes);
    bytes
}

/// A private key as `StaticSecret::generate` clamps it: snow takes its bytes
/// as they are.
fn clamped(rng: &mut Seeded) -> [u8; 32] {
    StaticSecret::generate(rng).to_secret().0
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = Seeded(seed);
        let enrolment = rng.below(2) == 0;
        let head = HelloHead {
            selector: PskSelector {
                kind: if enrolment { PskKind::Enrolment } else { PskKind::Device },
                master: rng.below(16) as u8,
            },
            reference: if enrolment { rng.bytes() } else { [0; 8] },
            inbox: Inbox(rng.bytes()),
            token: (rng.below(2) == 0).then(|| rng.bytes()),
        };
        Self {
            device: clamped(&mut rng),
            coordinator: clamped(&mut rng),
            device_ephemeral: clamped(&mut rng),
            coordinator_ephemeral: clamped(&mut rng),
            psk: rng.bytes(),
            head,
            question: payload(&mut rng),
            answer: payload(&mut rng),
            record: payload(&mut rng),
        }
    }

    fn snow(&self, initiator: bool, prologue: &[u8]) -> HandshakeState {
        let parameters = "Noise_IKpsk1_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
        let builder =
            Builder::new(parameters).psk(1, &self.psk).unwrap().prologue(prologue).unwrap();
        if initiator {
            let coordinator = StaticSecret::from_bytes(self.coordinator).public();
            builder
                .local_private_key(&self.device)
                .unwrap()
                .remote_public_key(&coordinator.0)
                .unwrap()
                .fixed_ephemeral_key_for_testing_only(&self.device_ephemeral)
                .build_initiator()
                .unwrap()
        } else {
            builder
                .local_private_key(&self.coordinator)
                .unwrap()
                .fixed_ephemeral_key_for_testing_only(&self.coordinator_ephemeral)
                .build_responder()
                .unwrap()
        }
    }

    fn run(&self) {
        let psk = Secret(self.psk);
        let coordinator = CoordinatorKey::new(StaticSecret::from_bytes(self.coordinator));
        let secret = StaticSecret::from_bytes(self.device);
        let device = Initiator::new(secret, coordinator.public()).unwrap();
        let (mut frame, mut out, mut snow_out) = ([0; MAX_FRAME], [0; MAX_FRAME], [0; MAX_FRAME]);

        // Message one: the same bytes as snow's initiator; snow's responder
        // reads ours.
        let mut entropy = Fixed(self.device_ephemeral);
        let (len, mut pending) =
            device.hello(&self.head, &psk, &self.question, &mut entropy, &mut frame).unwrap();
        let (prologue, rest) = frame[..len].split_at(PROLOGUE_LEN);
        let message = &rest[..rest.len() - 2 * TAG_LEN];
        let mut snow_device = self.snow(true, prologue);
        let mut snow_coordinator = self.snow(false, prologue);
        let written = snow_device.write_message(&self.question, &mut snow_out).unwrap();
        assert_eq!(message, &snow_out[..written]);
        let read = snow_coordinator.read_message(message, &mut out).unwrap();
        assert_eq!(out[..read], self.question);

        // Our responder reads it, and answers as snow's does.
        let hello = Hello::parse(&frame[..len]).unwrap();
        let opened = coordinator.open_hello(&hello).unwrap();
        assert_eq!(opened.device(), device.public());
        let (read, verified) = opened.verify(&coordinator, &hello, &psk, &mut out).unwrap();
        assert_eq!(out[..read], self.question);
        let mut entropy = Fixed(self.coordinator_ephemeral);
        let mut welcome = [0; MAX_FRAME];
        let (len, mut ours) =
            verified.welcome(9, &self.answer, &mut entropy, &mut welcome).unwrap();
        let message = &welcome[10..len];
        let written = snow_coordinator.write_message(&self.answer, &mut snow_out).unwrap();
        assert_eq!(message, &snow_out[..written]);

        // Both initiators read it.
        let read = snow_device.read_message(message, &mut out).unwrap();
        assert_eq!(out[..read], self.answer);
        let (read, accepted) = pending.welcome(&device, &welcome[..len], &mut out).unwrap();
        assert_eq!(out[..read], self.answer);

        // The same keys came out: records equal what snow's keys seal.
        let mut theirs = accepted.into_session(9);
        let keys = snow_device.dangerously_get_raw_split();
        assert_eq!(keys, snow_coordinator.dangerously_get_raw_split());
        for (session, key) in [(&mut theirs, keys.0), (&mut ours, keys.1)] {
            let len = session.seal(&self.record, &mut out).unwrap();
            assert_eq!(out[..len], record(&key, &self.record));
        }
    }
}

/// Record 0 of session 9, made from a raw key.
fn record(key: &[u8; 32], plain: &[u8]) -> Vec<u8> {
    let mut header = [0; RECORD_HEADER_LEN];
    (header[0], header[1], header[2]) = (1, 3, 9);
    let mut sealed = plain.to_vec();
    let tag = ChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(&[0; 12].into(), &header, sealed.as_mut_slice().into())
        .unwrap();
    [&header[..], &sealed, &tag].concat()
}

#[test]
fn transcripts_equal_those_of_snow() {
    let workers = 4;
    std::thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || {
                for seed in (worker..HANDSHAKES).step_by(workers as usize) {
                    Case::new(seed).run();
                }
            });
        }
    });
}
