//! The bytes of every message and derived value, frozen. Keys, indices, stamps
//! and random bytes are fixed; a difference here is a peer or a key file that
//! does not understand us any more: do not change a line of `golden.txt`.
//!
//! `WEFT_GOLDEN=print cargo test -p weft-noise --test golden -- --nocapture`
//! prints the lines, for new formats to be appended.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use support::{INDEX_A, INDEX_B, seal};
use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::device::{HelloHead, Initiator};
use weft_noise::sealed::retry;
use weft_noise::wg::cookie::{Checker, Jar};
use weft_noise::wg::{
    CHIP_WINDOW_WORDS, COOKIE_REPLY_LEN, INITIATION_LEN, LocalKey, RESPONSE_LEN, Tai64n,
};
use weft_noise::{mac, seed, wg};
use weft_wire::frame::{Hello, PskKind, PskSelector};
use weft_wire::id::{DeviceId, Inbox, KeyId, NetworkId, PublicKey, Secret};

/// Hands out 0, 1, 2, …
struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Names and their bytes, in hexadecimal.
struct Golden(BTreeMap<&'static str, String>);

impl Golden {
    fn put(&mut self, name: &'static str, bytes: &[u8]) {
        assert!(self.0.insert(name, hex(bytes)).is_none(), "{name} twice");
    }
}

#[test]
fn bytes_are_frozen() {
    let mut golden = Golden(BTreeMap::new());
    wireguard(&mut golden);
    sealed_channel(&mut golden);
    derivations(&mut golden);
    if std::env::var("WEFT_GOLDEN").as_deref() == Ok("print") {
        for (name, value) in &golden.0 {
            println!("{name} {value}");
        }
    }
    let frozen: BTreeMap<_, _> =
        include_str!("golden.txt").lines().filter_map(|line| line.split_once(' ')).collect();
    for (name, value) in &golden.0 {
        assert_eq!(frozen.get(name), Some(&value.as_str()), "{name}");
    }
    assert_eq!(frozen.len(), golden.0.len(), "a format was dropped");
}

fn wireguard(golden: &mut Golden) {
    let mut entropy = Counting(0);
    let a = LocalKey::new(StaticSecret::from_bytes([0xA1; 32]));
    let b = LocalKey::new(StaticSecret::from_bytes([0xB2; 32]));
    let (a_sees_b, b_sees_a) = (a.remote(b.public()).unwrap(), b.remote(a.public()).unwrap());
    let psk = Secret([0xC3; 32]);
    let (mut jar, mut checker) = (Jar::new(), Checker::new());
    let source = "192.0.2.33:51871".parse().unwrap();

    let mut initiation = [0; INITIATION_LEN];
    let stamp = Tai64n::from_steps(105_334_372_000);
    let mut sent = a.initiate(&a_sees_b, INDEX_A, stamp, &mut entropy, &mut initiation);
    jar.attach(&mut initiation, 0);
    golden.put("wg_initiation", &initiation);

    let first = initiation;
    let checked = b.check_mac1(&first).unwrap();
    let mut reply = [0; COOKIE_REPLY_LEN];
    checker.reply(&b, &checked, source, 0, &mut entropy, &mut reply);
    golden.put("wg_cookie_reply", &reply);
    jar.receive(&a_sees_b, &reply, 0).unwrap();
    jar.attach(&mut initiation, 0);
    golden.put("wg_mac2", &initiation[132..]);

    let received = b.receive_initiation(&checked).unwrap();
    let authentic = received.authenticate(&b_sees_a).unwrap();
    let mut response = [0; RESPONSE_LEN];
    let b_keys = authentic.respond(INDEX_B, &psk, &mut entropy, &mut response);
    golden.put("wg_response", &response);

    let checked = a.check_mac1(&response).unwrap();
    let answered = sent.receive_response(&a, &checked, &[&psk]).unwrap();
    let (mut sealer, _) = answered.keys.split::<CHIP_WINDOW_WORDS>();
    let (mut back, _) = b_keys.split::<CHIP_WINDOW_WORDS>();
    golden.put("wg_keepalive", &seal(&mut sealer, b""));
    golden.put("wg_data_to_responder", &seal(&mut sealer, b"seventeen bytes.."));
    golden.put("wg_data_to_initiator", &seal(&mut back, b"seventeen bytes.."));
    golden.put("probe_mac", &a_sees_b.probe_key(&psk).mac(b"probe"));
}

fn sealed_channel(golden: &mut Golden) {
    let mut entropy = Counting(0x40);
    let coordinator = CoordinatorKey::new(StaticSecret::from_bytes([0xD4; 32]));
    let secret = StaticSecret::from_bytes([0xE5; 32]);
    let device = Initiator::new(secret, coordinator.public()).unwrap();
    let psk = Secret([0xF6; 32]);
    let mut head = HelloHead {
        selector: PskSelector { kind: PskKind::Enrolment, master: 1 },
        reference: KeyId::from_random([0x77; 8]).to_bytes(),
        inbox: Inbox([0x88; 16]),
        token: None,
    };
    let mut frame = [0; 512];
    let (len, pending) =
        device.hello(&head, &psk, b"hello payload", &mut entropy, &mut frame).unwrap();
    golden.put("sealed_hello", &frame[..len]);
    let hello = Hello::parse(&frame[..len]).unwrap();
    let retry = retry::answer(&Secret([0x99; 32]), &hello, 29_000_000).to_bytes();
    golden.put("sealed_retry", &retry);
    head.token = Some(pending.retry(&retry).unwrap());
    let (len, mut pending) =
        device.hello(&head, &psk, b"hello payload", &mut entropy, &mut frame).unwrap();
    golden.put("sealed_hello_with_token_end", &frame[len - 32..len]);

    let hello = Hello::parse(&frame[..len]).unwrap();
    let opened = coordinator.open_hello(&hello).unwrap();
    let mut out = [0; 512];
    let (_, verified) = opened.verify(&coordinator, &hello, &psk, &mut out).unwrap();
    let (len, mut session) =
        verified.welcome(0xAABB_CCDD, b"welcome payload", &mut entropy, &mut out).unwrap();
    golden.put("sealed_welcome", &out[..len]);
    let (_, accepted) = pending.welcome(&device, &out[..len], &mut frame).unwrap();
    let mut device = accepted.into_session(0xAABB_CCDD);
    let len = device.seal(b"up", &mut out).unwrap();
    golden.put("sealed_record_up", &out[..len]);
    let len = session.seal(b"down", &mut out).unwrap();
    golden.put("sealed_record_down", &out[..len]);
    let len = session.seal(b"down", &mut out).unwrap();
    golden.put("sealed_record_down_second", &out[..len]);
}

/// Derived values live in key files, join strings and brokers.
fn derivations(golden: &mut Golden) {
    let master = Secret([1; 32]);
    let (a, b) = (PublicKey([2; 32]), PublicKey([3; 32]));
    let key = KeyId::from_random([4; 8]);
    let psk = mac::psk(&master, 1, PskKind::Enrolment, &key.to_bytes());
    golden.put("psk_enrolment", &psk.0);
    golden.put("psk_device", &mac::psk(&master, 1, PskKind::Device, &a.0).0);
    let (one, two) = (DeviceId(2), DeviceId(3));
    let pair = mac::pair_secret(&master, NetworkId(5), one, two, 6);
    golden.put("pair_secret", &pair.0);
    assert!(pair.0 == mac::pair_secret(&master, NetworkId(5), two, one, 6).0);
    let bound = wg::bind_psk(&pair, &a, &b);
    golden.put("bound_psk", &bound.0);
    assert!(bound.0 == wg::bind_psk(&pair, &b, &a).0);
    assert!(wg::bind_psk(&Secret([0; 32]), &a, &b).is_none());
    golden.put("broker_password", &mac::broker_password(&master, &Inbox([7; 16]), 8).0);
    golden.put("enrol_password", &mac::enrol_password(&master, key, 8).0);
    golden.put("enrol_secret", &mac::enrol_secret(&master, 1).0);
    assert!(mac::enrol_secret(&master, 0).0 == master.0);
    golden.put("hash", &mac::hash(&[b"a", b"b"]));
    golden.put("keyed_hash", &mac::keyed_hash(&master.0, &[b"a", b"b"]));
    golden.put("fingerprint", mac::fingerprint(&a).to_string().as_bytes());
    golden.put("seed_static_key_0", &seed::static_key(&master, 0).to_secret().0);
    golden.put("seed_static_key_1", &seed::static_key(&master, 1).to_secret().0);
    golden.put("seed_psk_master", &seed::psk_master(&master, 1).0);
    golden.put("seed_pair_master", &seed::pair_master(&master).0);
    golden.put("seed_broker_secret", &seed::broker_secret(&master).0);
}
