//! Mistakes of other WireGuard implementations, one test each, as far as they
//! can be made at this level; the numbers are those of the list that the
//! tunnel's tests use too.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{INDEX_A, INDEX_B, Pair, Seeded, seal};
use weft_noise::wg::cookie::{Checker, Jar};
use weft_noise::wg::{
    CHIP_WINDOW_WORDS, COOKIE_REPLY_LEN, GATEWAY_WINDOW_WORDS, HandshakeError, KEEPALIVE_LEN,
    OpenError, Opener, REJECT_AFTER_MESSAGES, SealError,
};
use weft_wire::id::Secret;

fn counter(datagram: &[u8]) -> u64 {
    u64::from_le_bytes(datagram[8..16].try_into().unwrap())
}

/// gotatun 0.4.1: the nonce counter had the width of a pointer.
#[test]
fn r01_the_counter_does_not_wrap_at_32_bits() {
    let (mut ab, _) = Pair::new(1).lanes();
    ab.sealer.skip((1 << 32) - 1);
    for expected in [(1 << 32) - 1, 1 << 32, (1 << 32) + 1] {
        let mut datagram = seal(&mut ab.sealer, b"still here");
        assert_eq!(counter(&datagram), expected);
        assert_eq!(ab.opener.open(&mut datagram).unwrap().counter, expected);
        assert_eq!(&datagram[16..26], b"still here");
    }
}

/// gotatun 0.7.2: Reject-After-Messages was not enforced.
#[test]
fn r02_nothing_is_sealed_or_opened_at_the_end_of_the_counter() {
    let (mut ab, _) = Pair::new(2).lanes();
    ab.sealer.skip(REJECT_AFTER_MESSAGES - 1);
    let mut last = seal(&mut ab.sealer, b"last");
    assert_eq!(counter(&last), REJECT_AFTER_MESSAGES - 1);
    let mut buffer = [0; 64];
    for _ in 0..3 {
        let refused = ab.sealer.seal(&mut buffer, 4, 1280);
        assert_eq!(refused, Err(SealError::Exhausted));
    }
    ab.sealer.skip(u64::MAX);
    assert_eq!(ab.sealer.seal(&mut buffer, 4, 1280), Err(SealError::Exhausted));
    for beyond in [REJECT_AFTER_MESSAGES, u64::MAX] {
        let mut datagram = last.clone();
        datagram[8..16].copy_from_slice(&beyond.to_le_bytes());
        assert_eq!(ab.opener.open(&mut datagram), Err(OpenError::Exhausted));
    }
    assert!(ab.opener.open(&mut last).is_ok());
}

/// wireguard-lwip 4: the window counted bytes instead of bits.
#[test]
fn r03_the_whole_window_takes_late_packets() {
    fn late<const WORDS: usize>(seed: u64) {
        let mut pair = Pair::new(seed);
        let (initiation, mut sent) = pair.initiate();
        let (response, b_keys) = pair.respond(&initiation);
        let checked = pair.a.check_mac1(&response).unwrap();
        let answered = sent.receive_response(&pair.a, &checked, &[&pair.psk]);
        let (mut sealer, _) = answered.ok().unwrap().keys.split::<WORDS>();
        let (_, mut opener) = b_keys.split::<WORDS>();
        let window = Opener::<WORDS>::WINDOW as usize;
        let mut datagrams: Vec<_> = (0..=window).map(|_| seal(&mut sealer, b"x")).collect();
        assert!(opener.open(&mut datagrams[window]).unwrap().newest);
        let beyond = opener.open(&mut datagrams[0]);
        assert_eq!(beyond, Err(OpenError::Replayed));
        for datagram in &mut datagrams[1..window] {
            assert!(!opener.open(datagram).unwrap().newest);
        }
    }
    assert_eq!(Opener::<CHIP_WINDOW_WORDS>::WINDOW, 192);
    assert_eq!(Opener::<GATEWAY_WINDOW_WORDS>::WINDOW, 8_128);
    late::<CHIP_WINDOW_WORDS>(3);
    late::<GATEWAY_WINDOW_WORDS>(4);
}

/// Zephyr 111043: a distance of 64 bits was cut to 32.
#[test]
fn r04_a_jump_of_more_than_32_bits_is_a_jump() {
    let (mut ab, _) = Pair::new(5).lanes();
    let mut old: Vec<_> = (0..100).map(|_| seal(&mut ab.sealer, b"old")).collect();
    ab.opener.open(&mut old[50]).unwrap();
    ab.sealer.skip(1 << 32);
    let mut far = seal(&mut ab.sealer, b"far");
    assert!(ab.opener.open(&mut far).unwrap().newest);
    for datagram in &mut old {
        assert_eq!(ab.opener.open(datagram), Err(OpenError::Replayed));
    }
}

/// meshguard 119: check and mark were two steps that threads could tear apart.
/// Here `open` takes `&mut self`; whoever shares an opener needs a lock.
#[test]
fn r05_a_packet_is_delivered_once_whatever_the_threads() {
    let (mut ab, _) = Pair::new(6).lanes();
    let datagrams: Vec<_> = (0..400).map(|_| seal(&mut ab.sealer, b"once")).collect();
    let (opener, delivered) = (Mutex::new(ab.opener), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (opener, delivered, datagrams) = (&opener, &delivered, &datagrams);
            scope.spawn(move || {
                for step in 0..datagrams.len() {
                    let mut datagram = datagrams[step ^ worker].clone();
                    if opener.lock().unwrap().open(&mut datagram).is_ok() {
                        delivered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(delivered.into_inner(), datagrams.len());
}

/// tailscale-rs 33: there was no replay window at first.
#[test]
fn r06_every_packet_of_a_capture_is_refused_the_second_time() {
    let (mut ab, _) = Pair::new(7).lanes();
    let capture: Vec<_> = (0..2_000).map(|_| seal(&mut ab.sealer, b"once")).collect();
    let mut play = || {
        let mut open = |datagram: &Vec<u8>| ab.opener.open(&mut datagram.clone()).is_ok();
        capture.iter().filter(|datagram| open(datagram)).count()
    };
    assert_eq!(play(), 2_000);
    assert_eq!(play(), 0);
}

/// gotatun 0.6.0, boringtun: the cookie was bound to the address alone.
#[test]
fn r10_a_cookie_is_bound_to_address_and_port() {
    let mut pair = Pair::new(8);
    let (mut checker, mut jar) = (Checker::new(), Jar::new());
    let mut reply = [0; COOKIE_REPLY_LEN];
    let owner: SocketAddr = "203.0.113.5:4000".parse().unwrap();
    let (mut message, _) = pair.initiate();
    jar.attach(&mut message, 0);
    let checked = pair.b.check_mac1(&message).unwrap();
    checker.reply(&pair.b, &checked, owner, 0, &mut pair.rng, &mut reply);
    jar.receive(&pair.a_sees_b, &reply, 0).unwrap();
    jar.attach(&mut message, 0);
    let checked = pair.b.check_mac1(&message).unwrap();
    assert!(checker.verify_mac2(&checked, owner, 0));
    for other in ["203.0.113.5:4001", "203.0.113.6:4000", "[::ffff:203.0.113.5]:4000"] {
        let other = other.parse().unwrap();
        assert!(!checker.verify_mac2(&checked, other, 0), "{other}");
    }
}

/// tailscale-rs 334: an invalid response cleared the pending handshake.
#[test]
fn r15_garbage_before_the_response_does_no_harm() {
    let mut pair = Pair::new(9);
    let (initiation, mut sent) = pair.initiate();
    let wrong_psk = Secret([1; 32]);
    let (forged, _) = pair.respond_with(&initiation, &wrong_psk);
    let (response, _) = pair.respond(&initiation);
    let checked = pair.a.check_mac1(&forged).unwrap();
    for _ in 0..100 {
        let refused = sent.receive_response(&pair.a, &checked, &[&pair.psk]);
        assert_eq!(refused.err(), Some(HandshakeError::Unauthentic));
    }
    let checked = pair.a.check_mac1(&response).unwrap();
    assert!(sent.receive_response(&pair.a, &checked, &[&pair.psk]).is_ok());
}

/// gotatun 0.7.2: a changed PSK was not applied. While one is being changed the
/// initiator tries the new one and then the previous one, whichever the
/// responder holds already.
#[test]
fn r27_a_psk_is_changed_while_handshakes_go_on() {
    let mut pair = Pair::new(10);
    let (previous, new) = (Secret([1; 32]), Secret([2; 32]));
    for (held, index) in [(&new, 0), (&previous, 1)] {
        let (initiation, mut sent) = pair.initiate();
        let (response, _) = pair.respond_with(&initiation, held);
        let checked = pair.a.check_mac1(&response).unwrap();
        let answered = sent.receive_response(&pair.a, &checked, &[&new, &previous]);
        assert_eq!(answered.ok().unwrap().psk, index);
    }
    let (initiation, mut sent) = pair.initiate();
    let (response, _) = pair.respond_with(&initiation, &previous);
    let checked = pair.a.check_mac1(&response).unwrap();
    for psks in [&[&new][..], &[]] {
        let refused = sent.receive_response(&pair.a, &checked, psks);
        assert_eq!(refused.err(), Some(HandshakeError::Unauthentic));
    }
}

/// gotatun audit 3.2: indices could be predicted. They are the caller's here,
/// and reach the wire as given; `Entropy::number` draws them.
#[test]
fn r28_indices_are_the_callers() {
    use weft_noise::entropy::Entropy;

    let mut pair = Pair::new(11);
    let (initiation, mut sent) = pair.initiate();
    assert_eq!(initiation[4..8], INDEX_A.to_le_bytes());
    let (response, b_keys) = pair.respond(&initiation);
    assert_eq!(response[4..8], INDEX_B.to_le_bytes());
    assert_eq!(response[8..12], INDEX_A.to_le_bytes());
    let checked = pair.a.check_mac1(&response).unwrap();
    let answered = sent.receive_response(&pair.a, &checked, &[&pair.psk]);
    let keys = answered.ok().unwrap().keys;
    assert_eq!((keys.local_index(), keys.remote_index()), (INDEX_A, INDEX_B));
    assert_eq!((b_keys.local_index(), b_keys.remote_index()), (INDEX_B, INDEX_A));
    let mut rng = Seeded(1);
    let drawn: std::collections::HashSet<_> = (0..10_000).map(|_| rng.number()).collect();
    assert!(drawn.len() > 9_990);
    let ones: u32 = drawn.iter().map(|index| index.count_ones()).sum();
    assert!((155_000..165_000).contains(&ones), "{ones}");
}

/// gotatun audit 3.3: packets were not padded to 16 bytes.
#[test]
fn r29_lengths_are_multiples_of_16() {
    let (mut ab, _) = Pair::new(12).lanes();
    for len in 0..=1280 {
        let datagram = seal(&mut ab.sealer, &vec![1; len]);
        assert_eq!(datagram.len() % 16, 0);
        let padding = datagram.len() - KEEPALIVE_LEN - len;
        assert!(padding < 16, "{len}");
    }
}
