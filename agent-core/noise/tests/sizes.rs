//! Regression 26 (gotatun 0.7.2: an oversized datagram ended the receiving
//! task; rosenpass RUSTSEC-2023-0077: a datagram of one byte): no length from
//! 0 to 65,535 panics anywhere, whatever the first bytes say.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use support::{INDEX_B, Pair, Seeded};
use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::device::{HelloHead, Initiator};
use weft_noise::wg::cookie::Jar;
use weft_noise::wg::{self, KEEPALIVE_LEN, Kind, TAILROOM};
use weft_wire::frame::{FRAME_VERSION, Hello, MAX_FRAME, PskKind, PskSelector};
use weft_wire::id::{Inbox, Secret};

const LONGEST: usize = 65_535;

#[test]
fn r26_wireguard_takes_any_length() {
    let mut pair = Pair::new(1);
    let (mut initiation, _) = pair.initiate();
    let mut jar = Jar::new();
    jar.attach(&mut initiation, 0);
    let (mut ab, _) = Pair::new(2).lanes();
    let mut bytes = vec![0; LONGEST];
    Seeded(3).fill(&mut bytes);
    for len in 0..=LONGEST {
        let datagram = &mut bytes[..len];
        for kind in 0..=5 {
            if let Some(head) = datagram.get_mut(..len.min(8)) {
                let head_bytes = [&[kind, 0, 0, 0], &INDEX_B.to_le_bytes()[..]].concat();
                head.copy_from_slice(&head_bytes[..head.len()]);
            }
            let found = wg::kind(datagram);
            let expected = match (kind, len) {
                (1, 148) => Some(Kind::Initiation),
                (2, 92) => Some(Kind::Response),
                (3, 64) => Some(Kind::CookieReply),
                (4, KEEPALIVE_LEN..) => Some(Kind::Transport),
                _ => None,
            };
            assert_eq!(found.ok(), expected);
            assert_eq!(wg::receiver(datagram).is_some(), expected.is_some() && kind != 1);
            assert!(pair.b.check_mac1(datagram).is_err());
            assert!(jar.receive(&pair.a_sees_b, datagram, 0).is_err());
            jar.attach(&mut datagram[..len.min(256)].to_vec(), 0);
        }
        if len > 4 {
            datagram[0] = Kind::Transport as u8;
        }
        assert!(ab.opener.open(datagram).is_err());
    }
}

#[test]
fn r26_packets_of_any_length_are_sealed_and_opened() {
    let (mut ab, _) = Pair::new(4).lanes();
    let mut buffer = vec![0; LONGEST + KEEPALIVE_LEN + TAILROOM];
    for len in (0..2_000).chain((2_000..LONGEST).step_by(997)).chain([LONGEST]) {
        let sealed = ab.sealer.seal(&mut buffer, len, LONGEST).unwrap();
        let opened = ab.opener.open(&mut buffer[..sealed]).unwrap();
        assert_eq!(opened.len, len.next_multiple_of(16).min(LONGEST));
    }
}

#[test]
fn r26_frames_take_any_length() {
    let mut rng = Seeded(5);
    let coordinator = CoordinatorKey::new(StaticSecret::generate(&mut rng));
    let device = Initiator::new(StaticSecret::generate(&mut rng), coordinator.public()).unwrap();
    let head = HelloHead {
        selector: PskSelector { kind: PskKind::Device, master: 0 },
        reference: [0; 8],
        inbox: Inbox([3; 16]),
        token: None,
    };
    let (psk, mut out) = (Secret([1; 32]), [0; MAX_FRAME]);
    let (len, mut pending) = device.hello(&head, &psk, b"", &mut rng, &mut out).unwrap();
    let frame = out[..len].to_vec();
    let hello = Hello::parse(&frame).unwrap();
    let opened = coordinator.open_hello(&hello).unwrap();
    let (_, verified) = opened.verify(&coordinator, &hello, &psk, &mut out).unwrap();
    let (_, mut session) = verified.welcome(1, b"", &mut rng, &mut out).unwrap();

    let mut bytes = vec![0; LONGEST];
    rng.fill(&mut bytes);
    for len in 0..=LONGEST {
        let frame = &mut bytes[..len];
        for kind in 0..=6 {
            if let [version, second, rest @ ..] = frame {
                (*version, *second) = (FRAME_VERSION, kind);
                // What lets a frame get far: known PSK kind, own hello hash or
                // session id.
                let start = match kind {
                    1 => [2, 0, 0, 0, 0, 0, 0, 0],
                    3 => [1, 0, 0, 0, 0, 0, 0, 0],
                    _ => pending.hello_hash(),
                };
                let room = rest.len().min(8);
                rest[..room].copy_from_slice(&start[..room]);
            }
            if let Ok(hello) = Hello::parse(frame) {
                assert!(coordinator.open_hello(&hello).is_err());
            }
            assert_eq!(pending.retry(frame).is_ok(), kind == 4 && len == 26);
            if len <= MAX_FRAME + 1 && len % 16 == 0 {
                assert!(pending.welcome(&device, frame, &mut out).is_err());
            }
            assert!(session.open(frame, &mut out).is_err());
        }
    }
    for room in 0..400 {
        let out = &mut vec![0; room];
        let made = device.hello(&head, &psk, &[7; 100], &mut rng, out);
        assert_eq!(made.is_ok(), room >= 255, "{room}");
        assert_eq!(session.seal(&[7; 100], out).is_ok(), room >= 130, "{room}");
    }
    assert!(session.seal(&[0; MAX_FRAME], &mut [0; 8_000]).is_err());
    let too_long = device.hello(&head, &psk, &[0; MAX_FRAME], &mut rng, &mut [0; 8_000]);
    assert!(too_long.is_err());
}
