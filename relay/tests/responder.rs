//! The Binding responder against RFC 8489, forged sources and garbage.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::time::Duration;

use weft_relay::proto::{Counters, MAX_ANSWER, MAX_UNKNOWN, RATE, Responder, Silence};
use weft_wire::stun::{
    BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, ERROR_CODE, Message, MessageWriter, SOFTWARE,
    UNKNOWN_ATTRIBUTES,
};

const NOW: Duration = Duration::ZERO;

fn source(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut buffer = vec![0; 4_096];
    let mut writer = MessageWriter::new(kind, *b"transaction!", &mut buffer).unwrap();
    for (kind, value) in attributes {
        writer.attribute(*kind, value).unwrap();
    }
    let len = writer.finish().unwrap();
    buffer.truncate(len);
    buffer
}

/// A header and nothing else: the shortest request there is.
fn bare() -> Vec<u8> {
    let mut bytes = message(BINDING_REQUEST, &[]);
    bytes.truncate(20);
    bytes[2..4].fill(0);
    bytes
}

fn ask(from: &str, datagram: &[u8]) -> Result<Vec<u8>, Silence> {
    let mut out = [0; MAX_ANSWER];
    let len = Responder::new(1).handle_datagram(source(from), datagram, NOW, &mut out)?;
    Ok(out[..len].to_vec())
}

#[test]
fn the_answer_names_the_source_as_the_server_saw_it() {
    for (from, seen) in [
        ("192.0.2.1:32853", "192.0.2.1:32853"),
        ("[2001:db8::7]:5", "[2001:db8::7]:5"),
        ("[::ffff:192.0.2.1]:32853", "192.0.2.1:32853"),
    ] {
        let answer = ask(from, &bare()).unwrap();
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(answer.kind(), BINDING_SUCCESS);
        assert_eq!(answer.transaction(), *b"transaction!");
        assert_eq!(answer.mapped_address(), Some(source(seen)));
    }
}

#[test]
fn the_request_of_rfc_5769_is_refused_for_what_we_do_not_know() {
    // Section 2.1: PRIORITY 0x0024, USERNAME 0x0006, MESSAGE-INTEGRITY 0x0008.
    let request = message(
        BINDING_REQUEST,
        &[
            (SOFTWARE, b"STUN test client"),
            (0x0024, &[0x6e, 0, 1, 0xff]),
            (0x8029, &[0; 8]),
            (0x0006, b"evtj:h6vY"),
            (0x0008, &[0; 20]),
        ],
    );
    let answer = ask("192.0.2.1:7", &request).unwrap();
    let answer = Message::parse(&answer).unwrap();
    assert_eq!(answer.kind(), BINDING_ERROR);
    let find = |wanted| answer.attributes().find(|(kind, _)| *kind == wanted).unwrap().1;
    assert_eq!(find(ERROR_CODE), [0, 0, 4, 20]);
    assert_eq!(find(UNKNOWN_ATTRIBUTES), [0, 0x24, 0, 6, 0, 8]);
}

#[test]
fn optional_attributes_are_skipped() {
    let request = message(BINDING_REQUEST, &[(SOFTWARE, b"x"), (0x8029, &[0; 8])]);
    let answer = ask("192.0.2.1:7", &request).unwrap();
    assert_eq!(Message::parse(&answer).unwrap().kind(), BINDING_SUCCESS);
}

#[test]
fn a_forged_request_gains_next_to_nothing() {
    // Payload bytes; on the wire both sides carry 28 or 48 bytes of headers more.
    for (from, longest) in [("192.0.2.1:7", 40), ("[2001:db8::7]:7", 52)] {
        let answer = ask(from, &bare()).unwrap();
        assert_eq!(answer.len(), longest);
    }
    for count in 0..60_u16 {
        let attributes: Vec<(u16, &[u8])> =
            (0..count).map(|kind| (kind + 0x7000, &[][..])).collect();
        let request = message(BINDING_REQUEST, &attributes);
        for from in ["192.0.2.1:7", "[2001:db8::7]:7"] {
            let answer = ask(from, &request).unwrap();
            assert!(answer.len() <= MAX_ANSWER);
            assert!(answer.len() <= request.len() + 24, "{count}");
            let listed = Message::parse(&answer)
                .unwrap()
                .attributes()
                .find(|(kind, _)| *kind == UNKNOWN_ATTRIBUTES)
                .map_or(0, |(_, value)| value.len() / 2);
            assert_eq!(listed, usize::from(count).min(MAX_UNKNOWN));
        }
    }
}

#[test]
fn a_victim_of_forged_requests_gets_only_the_burst() {
    let mut responder = Responder::new(1);
    let mut out = [0; MAX_ANSWER];
    let victim = source("198.51.100.9:53");
    let mut sent = 0;
    for step in 0..100_000_u64 {
        let now = Duration::from_micros(100 * step);
        sent += usize::from(responder.handle_datagram(victim, &bare(), now, &mut out).is_ok());
    }
    let (rate, burst) = RATE;
    assert_eq!(sent, (rate * 10 + burst - 1) as usize, "ten seconds");
    let other = responder.handle_datagram(source("198.51.100.10:53"), &bare(), NOW, &mut out);
    assert!(other.is_ok(), "others are still served");
    let Counters { answered, limited, .. } = responder.counters();
    assert_eq!(answered + limited, 100_001);
}

#[test]
fn no_answer_can_be_answered() {
    let success = ask("192.0.2.1:7", &bare()).unwrap();
    let refusal = message(BINDING_REQUEST, &[(0x0003, &[0; 4])]);
    let refusal = ask("192.0.2.1:7", &refusal).unwrap();
    for answer in [success, refusal, message(0x0011, &[]), message(0x0003, &[])] {
        assert_eq!(ask("192.0.2.1:7", &answer), Err(Silence::NotARequest));
    }
}

#[test]
fn sources_that_nobody_sends_from_are_ignored() {
    for from in
        ["192.0.2.1:0", "0.0.0.0:7", "[::]:7", "224.0.0.1:7", "[ff02::1]:7", "[::ffff:224.0.0.1]:7"]
    {
        assert_eq!(ask(from, &bare()), Err(Silence::ForgedSource), "{from}");
    }
}

#[test]
fn garbage_is_ignored_and_counted() {
    let whole = message(BINDING_REQUEST, &[(SOFTWARE, b"abc")]);
    for len in 0..whole.len() {
        assert_eq!(ask("192.0.2.1:7", &whole[..len]), Err(Silence::Malformed));
    }
    // Header and value: what FINGERPRINT covers while it is still found.
    for bit in (0..20 * 8).chain(24 * 8..27 * 8) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(ask("192.0.2.1:7", &flipped).is_err(), "bit {bit}");
    }
    let long = message(BINDING_REQUEST, &[(SOFTWARE, &[0; 600])]);
    assert_eq!(ask("192.0.2.1:7", &long), Err(Silence::TooLong));
    let mut responder = Responder::new(1);
    let mut out = [0; MAX_ANSWER];
    for _ in 0..3 {
        let answer = responder.handle_datagram(source("192.0.2.1:7"), b"hello", NOW, &mut out);
        assert_eq!(answer, Err(Silence::Malformed));
    }
    assert_eq!(responder.counters().ignored, 3);
}
