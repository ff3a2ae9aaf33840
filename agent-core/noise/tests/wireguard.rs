//! The WireGuard handshake, cookies and transport data.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

mod support;

use std::net::SocketAddr;

use blake2::digest::{FixedOutput, KeyInit, Update};
use support::{INDEX_A, INDEX_B, LOW_ORDER, MTU, Pair, Seeded, seal, single_bit_flips};
use weft_noise::key::{StaticSecret, WeakKey};
use weft_noise::wg::cookie::{COOKIE_LIFE_US, Checker, Jar};
use weft_noise::wg::{
    self, COOKIE_REPLY_LEN, HEADER_LEN, HandshakeError, Kind, LocalKey, OpenError, RESPONSE_LEN,
    SealError, TAILROOM, Tai64n, padded_len,
};
use weft_wire::id::{PublicKey, Secret};

fn source(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// mac1 as section 5.4.4 writes it, made without the crate.
fn rewrite_mac1(message: &mut [u8], receiver: &PublicKey) {
    let mut key = blake2::Blake2s256::default();
    key.update(b"mac1----");
    key.update(&receiver.0);
    let key = key.finalize_fixed();
    let end = message.len() - 32;
    let mut mac = blake2::Blake2sMac::<blake2::digest::typenum::U16>::new(&key);
    mac.update(&message[..end]);
    message[end..end + 16].copy_from_slice(&mac.finalize_fixed());
}

#[test]
fn data_goes_both_ways() {
    let (mut ab, mut ba) = Pair::new(1).lanes();
    for lane in [&mut ab, &mut ba] {
        for len in [0, 1, 15, 16, 17, 64, 1279, 1280] {
            let packet = vec![len as u8; len];
            let mut datagram = seal(&mut lane.sealer, &packet);
            let opened = lane.opener.open(&mut datagram).unwrap();
            assert_eq!(opened.len, len.next_multiple_of(16));
            let (inner, padding) = datagram[opened.range()].split_at(len);
            assert_eq!(inner, packet);
            assert!(padding.iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn the_two_directions_have_keys_of_their_own() {
    let (mut ab, mut ba) = Pair::new(2).lanes();
    let mut datagram = seal(&mut ab.sealer, b"to b");
    // Reflected to its sender, with the index that the sender expects.
    datagram[4..8].copy_from_slice(&INDEX_A.to_le_bytes());
    assert_eq!(ba.opener.open(&mut datagram), Err(OpenError::Unauthentic));
}

#[test]
fn the_first_and_the_newest_packet_are_told() {
    let (mut ab, _) = Pair::new(3).lanes();
    let mut datagrams: Vec<_> = (0..3).map(|_| seal(&mut ab.sealer, b"x")).collect();
    let mut open = |index: usize| ab.opener.open(&mut datagrams[index]).unwrap();
    let second = open(1);
    assert!(second.first && second.newest && second.counter == 1);
    let first = open(0);
    assert!(!first.first && !first.newest && first.counter == 0);
    let third = open(2);
    assert!(!third.first && third.newest && third.counter == 2);
}

#[test]
fn a_peer_of_low_order_is_refused() {
    let mut pair = Pair::new(4);
    for point in LOW_ORDER {
        assert_eq!(pair.a.remote(&PublicKey(point)).err(), Some(WeakKey));
        let mut highest_bit_set = point;
        highest_bit_set[31] |= 0x80;
        let remote = pair.a.remote(&PublicKey(highest_bit_set));
        assert_eq!(remote.err(), Some(WeakKey));
    }
    for point in LOW_ORDER {
        let (mut initiation, _) = pair.initiate();
        initiation[8..40].copy_from_slice(&point);
        rewrite_mac1(&mut initiation, pair.b.public());
        let checked = pair.b.check_mac1(&initiation).unwrap();
        let received = pair.b.receive_initiation(&checked);
        assert_eq!(received.err(), Some(HandshakeError::WeakKey));

        let (initiation, mut sent) = pair.initiate();
        let (mut response, _) = pair.respond(&initiation);
        response[12..44].copy_from_slice(&point);
        rewrite_mac1(&mut response, pair.a.public());
        let checked = pair.a.check_mac1(&response).unwrap();
        let answered = sent.receive_response(&pair.a, &checked, &[&pair.psk]);
        assert_eq!(answered.err(), Some(HandshakeError::WeakKey));
    }
}

#[test]
fn mac1_tells_which_own_key_is_meant() {
    let mut pair = Pair::new(5);
    let (initiation, _) = pair.initiate();
    let other = LocalKey::new(StaticSecret::generate(&mut pair.rng));
    let refused = other.check_mac1(&initiation);
    assert_eq!(refused.err(), Some(HandshakeError::Mac1));
    assert!(pair.b.check_mac1(&initiation).is_ok());
}

#[test]
fn the_stamp_and_the_peer_come_through() {
    let mut pair = Pair::new(6);
    pair.initiate();
    let (initiation, sent) = pair.initiate();
    assert_eq!(sent.sender(), INDEX_A);
    let checked = pair.b.check_mac1(&initiation).unwrap();
    assert_eq!(checked.kind(), Kind::Initiation);
    assert_eq!((checked.sender(), checked.receiver()), (INDEX_A, None));
    let received = pair.b.receive_initiation(&checked).unwrap();
    assert_eq!(received.peer(), pair.a.public());
    let authentic = received.authenticate(&pair.b_sees_a).unwrap();
    assert_eq!(authentic.stamp(), Tai64n::from_steps(2));
    assert_eq!(authentic.sender(), INDEX_A);

    let other = LocalKey::new(StaticSecret::generate(&mut pair.rng));
    let b_sees_other = pair.b.remote(other.public()).unwrap();
    let received = pair.b.receive_initiation(&checked).unwrap();
    let wrong = received.authenticate(&b_sees_other);
    assert_eq!(wrong.err(), Some(HandshakeError::WrongPeer));
}

/// Somebody who knows both public keys, and no private one, can write the
/// sealed static key but not the proof.
#[test]
fn an_impostor_is_found_by_the_static_static_secret() {
    let mut pair = Pair::new(7);
    let impostor = LocalKey::new(StaticSecret::generate(&mut pair.rng));
    let impostor_sees_b = impostor.remote(pair.b.public()).unwrap();
    let mut initiation = [0; wg::INITIATION_LEN];
    let stamp = Tai64n::from_steps(9);
    impostor.initiate(&impostor_sees_b, 1, stamp, &mut pair.rng, &mut initiation);
    let checked = pair.b.check_mac1(&initiation).unwrap();
    let received = pair.b.receive_initiation(&checked).unwrap();
    assert_eq!(received.peer(), impostor.public());
    let wrong = received.authenticate(&pair.b_sees_a);
    assert_eq!(wrong.err(), Some(HandshakeError::WrongPeer));
    // A remote key made with another local key holds another shared secret.
    let c = LocalKey::new(StaticSecret::generate(&mut pair.rng));
    let c_sees_impostor = c.remote(impostor.public()).unwrap();
    let received = pair.b.receive_initiation(&checked).unwrap();
    let wrong = received.authenticate(&c_sees_impostor);
    assert_eq!(wrong.err(), Some(HandshakeError::Unauthentic));
}

#[test]
fn a_response_to_another_initiation_is_refused() {
    let mut pair = Pair::new(8);
    let (first, _) = pair.initiate();
    let (_, mut second_sent) = pair.initiate();
    let (response, _) = pair.respond(&first);
    let checked = pair.a.check_mac1(&response).unwrap();
    assert_eq!((checked.sender(), checked.receiver()), (INDEX_B, Some(INDEX_A)));
    let answered = second_sent.receive_response(&pair.a, &checked, &[&pair.psk]);
    assert_eq!(answered.err(), Some(HandshakeError::Unauthentic));
    let mut other_index = response;
    other_index[8] ^= 1;
    rewrite_mac1(&mut other_index, pair.a.public());
    let checked = pair.a.check_mac1(&other_index).unwrap();
    let answered = second_sent.receive_response(&pair.a, &checked, &[&pair.psk]);
    assert_eq!(answered.err(), Some(HandshakeError::Unexpected));
}

/// A second session of one handshake would use each nonce twice.
#[test]
fn an_initiation_is_answered_once() {
    let mut pair = Pair::new(18);
    let (initiation, mut sent) = pair.initiate();
    let (response, _) = pair.respond(&initiation);
    let (other_response, _) = pair.respond(&initiation);
    for (message, expected) in [
        (response, None),
        (response, Some(HandshakeError::Unexpected)),
        (other_response, Some(HandshakeError::Unexpected)),
    ] {
        let checked = pair.a.check_mac1(&message).unwrap();
        let answered = sent.receive_response(&pair.a, &checked, &[&pair.psk]);
        assert_eq!(answered.err(), expected);
    }
    assert_eq!(sent.sender(), INDEX_A);
}

#[test]
fn every_single_bit_flip_of_an_initiation_is_refused() {
    let mut pair = Pair::new(9);
    let (initiation, _) = pair.initiate();
    let (mut checker, from) = (Checker::new(), source("192.0.2.1:51871"));
    let (mut reply, mut jar) = ([0; COOKIE_REPLY_LEN], Jar::new());
    let mut initiation = initiation.to_vec();
    jar.attach(&mut initiation, 0);
    let checked = pair.b.check_mac1(&initiation).unwrap();
    checker.reply(&pair.b, &checked, from, 0, &mut pair.rng, &mut reply);
    jar.receive(&pair.a_sees_b, &reply, 0).unwrap();
    jar.attach(&mut initiation, 1);
    for (byte, flipped) in single_bit_flips(&initiation) {
        match pair.b.check_mac1(&flipped) {
            Err(_) => assert!(byte < 132, "{byte}"),
            // Only mac2 is left, and it is read under load only.
            Ok(checked) => {
                assert!(byte >= 132, "{byte}");
                assert!(!checker.verify_mac2(&checked, from, 1), "{byte}");
            }
        }
        // Behind a right mac1 the sealed fields refuse what was changed.
        let mut flipped = flipped;
        rewrite_mac1(&mut flipped, pair.b.public());
        let Ok(checked) = pair.b.check_mac1(&flipped) else {
            assert!(byte < 4, "{byte}");
            continue;
        };
        let received = pair.b.receive_initiation(&checked);
        let refused = match received {
            Err(_) => true,
            Ok(received) => received.authenticate(&pair.b_sees_a).is_err(),
        };
        assert_eq!(refused, (8..116).contains(&byte), "{byte}");
    }
    let checked = pair.b.check_mac1(&initiation).unwrap();
    assert!(checker.verify_mac2(&checked, from, 1));
}

#[test]
fn every_single_bit_flip_of_a_response_is_refused() {
    let mut pair = Pair::new(10);
    for bit in 0..RESPONSE_LEN * 8 {
        let (initiation, mut sent) = pair.initiate();
        let (mut response, _) = pair.respond(&initiation);
        let byte = bit / 8;
        response[byte] ^= 1 << (bit % 8);
        assert_eq!(pair.a.check_mac1(&response).is_err(), byte < 76, "{byte}");
        // Behind a right mac1 the transcript refuses what was changed. The
        // sender's index is protected by mac1 alone, as in the paper.
        rewrite_mac1(&mut response, pair.a.public());
        let Ok(checked) = pair.a.check_mac1(&response) else {
            assert!(byte < 4, "{byte}");
            continue;
        };
        let answered = sent.receive_response(&pair.a, &checked, &[&pair.psk]);
        assert_eq!(answered.is_err(), (8..60).contains(&byte), "{byte}");
    }
}

#[test]
fn every_single_bit_flip_of_a_cookie_reply_is_refused() {
    let mut pair = Pair::new(11);
    let (mut initiation, _) = pair.initiate();
    let (mut jar, mut reply) = (Jar::new(), [0; COOKIE_REPLY_LEN]);
    jar.attach(&mut initiation, 0);
    let checked = pair.b.check_mac1(&initiation).unwrap();
    let from = source("[2001:db8::1]:51871");
    Checker::new().reply(&pair.b, &checked, from, 0, &mut pair.rng, &mut reply);
    for (byte, flipped) in single_bit_flips(&reply) {
        assert!(jar.receive(&pair.a_sees_b, &flipped, 0).is_err(), "{byte}");
    }
    jar.receive(&pair.a_sees_b, &reply, 0).unwrap();
    // One message, one cookie.
    let again = jar.receive(&pair.a_sees_b, &reply, 0);
    assert_eq!(again, Err(HandshakeError::Unexpected));
}

#[test]
fn every_single_bit_flip_of_transport_data_is_refused() {
    let (mut ab, _) = Pair::new(12).lanes();
    let datagram = seal(&mut ab.sealer, &[7; 40]);
    for (byte, mut flipped) in single_bit_flips(&datagram) {
        assert!(ab.opener.open(&mut flipped).is_err(), "{byte}");
    }
    let mut datagram = datagram;
    assert!(ab.opener.open(&mut datagram).unwrap().first);
}

#[test]
fn a_cookie_proves_an_address_for_two_minutes() {
    let mut pair = Pair::new(13);
    let (mut jar, mut checker) = (Jar::new(), Checker::new());
    let (from, mut reply) = (source("198.51.100.7:1000"), [0; COOKIE_REPLY_LEN]);
    let start = 5_000_000;
    let (mut first, _) = pair.initiate();
    jar.attach(&mut first, start);
    assert_eq!(first[132..], [0; 16]);
    let checked = pair.b.check_mac1(&first).unwrap();
    assert!(!checker.verify_mac2(&checked, from, start));
    checker.reply(&pair.b, &checked, from, start, &mut pair.rng, &mut reply);
    assert_eq!(wg::receiver(&reply), Some(INDEX_A));
    jar.receive(&pair.a_sees_b, &reply, start).unwrap();

    let last = start + COOKIE_LIFE_US - 1;
    for (at, good) in [(start, true), (last, true), (last + 1, false)] {
        let (mut message, _) = pair.initiate();
        jar.attach(&mut message, at);
        assert_eq!(message[132..] != [0; 16], good, "initiator at {at}");
        let checked = pair.b.check_mac1(&message).unwrap();
        let verified = checker.verify_mac2(&checked, from, at);
        assert_eq!(verified, good, "responder at {at}");
    }
    // A new secret forgets cookies of the old one.
    let (mut message, _) = pair.initiate();
    jar.attach(&mut message, last);
    let checked = pair.b.check_mac1(&message).unwrap();
    let later = last + 1;
    checker.reply(&pair.b, &checked, from, later, &mut pair.rng, &mut reply);
    assert!(!checker.verify_mac2(&checked, from, later));
    // A clock that goes back neither panics nor ends a cookie's life.
    assert!(!checker.verify_mac2(&checked, from, 0));
}

#[test]
fn a_cookie_reply_answers_only_the_last_message_of_its_index() {
    let mut pair = Pair::new(14);
    let (mut jar, mut checker) = (Jar::new(), Checker::new());
    let from = source("198.51.100.7:1000");
    let (mut old_reply, mut reply) = ([0; COOKIE_REPLY_LEN], [0; COOKIE_REPLY_LEN]);
    let (mut first, _) = pair.initiate();
    jar.attach(&mut first, 0);
    let checked = pair.b.check_mac1(&first).unwrap();
    checker.reply(&pair.b, &checked, from, 0, &mut pair.rng, &mut old_reply);
    let (mut second, _) = pair.initiate();
    jar.attach(&mut second, 1);
    let stale = jar.receive(&pair.a_sees_b, &old_reply, 1);
    assert_eq!(stale, Err(HandshakeError::Unauthentic));
    let checked = pair.b.check_mac1(&second).unwrap();
    checker.reply(&pair.b, &checked, from, 1, &mut pair.rng, &mut reply);
    let unsent = Jar::new().receive(&pair.a_sees_b, &reply, 1);
    assert_eq!(unsent, Err(HandshakeError::Unexpected));
    let not_a_reply = jar.receive(&pair.a_sees_b, &second, 1);
    assert_eq!(not_a_reply, Err(HandshakeError::Malformed));
    jar.receive(&pair.a_sees_b, &reply, 1).unwrap();
}

#[test]
fn a_response_can_be_answered_by_a_cookie_too() {
    let mut pair = Pair::new(15);
    let (initiation, mut sent) = pair.initiate();
    let (mut response, _) = pair.respond(&initiation);
    let (mut jar, mut checker) = (Jar::new(), Checker::new());
    jar.attach(&mut response, 0);
    let from = source("203.0.113.1:7");
    let mut reply = [0; COOKIE_REPLY_LEN];
    let checked = pair.a.check_mac1(&response).unwrap();
    checker.reply(&pair.a, &checked, from, 0, &mut pair.rng, &mut reply);
    assert_eq!(wg::receiver(&reply), Some(INDEX_B));
    jar.receive(&pair.b_sees_a, &reply, 0).unwrap();
    jar.attach(&mut response, 0);
    let checked = pair.a.check_mac1(&response).unwrap();
    assert!(checker.verify_mac2(&checked, from, 0));
    assert!(sent.receive_response(&pair.a, &checked, &[&pair.psk]).is_ok());
}

#[test]
fn padding_stops_at_the_mtu() {
    for (len, mtu, padded) in [
        (0, 1280, 0),
        (1, 1280, 16),
        (16, 1280, 16),
        (1280, 1280, 1280),
        (1270, 1420, 1280),
        (1409, 1420, 1420),
        (1420, 1420, 1420),
        (1421, 1420, 1421),
        (9000, 1280, 9000),
        (usize::MAX, 1280, usize::MAX),
    ] {
        assert_eq!(padded_len(len, mtu), padded, "{len} at {mtu}");
    }
}

#[test]
fn a_short_buffer_is_refused_and_not_touched() {
    let (mut ab, _) = Pair::new(16).lanes();
    for size in 0..HEADER_LEN + 48 + 16 {
        let mut buffer = vec![0xAB; size];
        assert_eq!(ab.sealer.seal(&mut buffer, 41, MTU), Err(SealError::NoRoom));
        assert!(buffer.iter().all(|byte| *byte == 0xAB));
    }
    let mut buffer = [0; 128];
    for len in [usize::MAX, usize::MAX - 15, usize::MAX - 31] {
        assert_eq!(ab.sealer.seal(&mut buffer, len, MTU), Err(SealError::NoRoom));
    }
    assert_eq!(ab.sealer.counter(), 0);
    let mut buffer = [0; HEADER_LEN + 41 + TAILROOM];
    assert_eq!(ab.sealer.seal(&mut buffer, 41, MTU), Ok(HEADER_LEN + 64));
}

#[test]
fn stamps_rise_with_their_steps() {
    let mut last = Tai64n::ZERO;
    let mut rng = Seeded(1);
    let mut steps = 0;
    for _ in 0..10_000 {
        let stamp = Tai64n::from_steps(steps);
        assert!(stamp > last);
        last = stamp;
        steps += 1 + rng.next() % 100_000_000;
    }
    // 2026-01-01 00:00:00 UTC.
    let steps = Tai64n::steps_of_unix_ms(1_767_225_600_000);
    let bytes = Tai64n::from_steps(steps).to_bytes();
    let seconds = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    assert!((1_767_225_599..=1_767_225_600).contains(&(seconds - 0x4000_0000_0000_000A)));
    assert!(Tai64n::from_steps(u64::MAX) > last);
}

#[test]
fn both_sides_derive_the_same_probe_key() {
    let pair = Pair::new(17);
    let (key, same) = (pair.a_sees_b.probe_key(&pair.psk), pair.b_sees_a.probe_key(&pair.psk));
    let other = pair.a_sees_b.probe_key(&Secret([0; 32]));
    let mac = key.mac(b"ping");
    assert!(same.verify(b"ping", &mac));
    assert!(!same.verify(b"pong", &mac));
    assert!(!other.verify(b"ping", &mac));
    for (byte, flipped) in single_bit_flips(&mac) {
        let flipped = flipped.try_into().unwrap();
        assert!(!same.verify(b"ping", &flipped), "{byte}");
    }
}
