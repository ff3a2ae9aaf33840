//! The TURN client against a server by the word of the test: what it asks, what
//! it believes, when it gives up.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod desk;
mod draws;

use desk::*;
use draws::{Count, address};
use proptest::prelude::*;
use weft_agent_core::event::{DropReason, Sockets, Source};
use weft_agent_core::relay::{
    INDICATION_OVERHEAD, Received, RelayClient, RelayEvent, Rung, StreamCommand, Via, Way, Why,
};
use weft_agent_core::time::Duration;
use weft_wire::relay::Relay;
use weft_wire::stun::{
    ALLOCATE_REQUEST, BINDING_SUCCESS, CHANNEL_BIND_REQUEST, CREATE_PERMISSION_REQUEST,
    ChannelData, Class, DATA_ATTRIBUTE, Message, MessageWriter, NONCE, REALM, REFRESH_REQUEST,
    SEND_INDICATION, USERNAME, XOR_PEER_ADDRESS,
};

#[test]
fn the_first_allocation_takes_two_round_trips_and_the_next_one() {
    let mut desk = Desk::new(&[relay(1)]);
    desk.client.want(address(PEER), desk.now).unwrap();
    let first = desk.one();
    assert_eq!(first.source(), Source { socket: V4, address: address("203.0.113.1:3478") });
    assert_eq!(first.message().requested_transport(), Some(17));
    assert!(first.message().get(USERNAME).is_none());
    assert!(first.bytes.len() >= 80, "a relay that amplifies nothing can answer");
    desk.challenge(&first, 401, "n1");
    let signed = desk.one();
    assert!(signed.is_signed(7) && signed.transaction() != first.transaction());
    assert_eq!(signed.message().get(NONCE), Some(&b"n1"[..]));
    desk.give(&signed);
    let rung = Rung { relay: 1, way: Way::UdpV4 };
    let (v4, mapped) = (Some(address(RELAYED)), address("192.0.2.5:4000"));
    assert_eq!(desk.events(), [RelayEvent::Allocated { rung, v4, v6: None, mapped }]);

    // The channel is asked for at once, and a packet may follow directly.
    let bind = desk.one();
    assert!(bind.kind() == CHANNEL_BIND_REQUEST && bind.is_signed(7));
    assert_eq!(bind.message().xor_address(XOR_PEER_ADDRESS), Some(address(PEER)));
    assert_eq!(desk.client.channel(address(PEER)), None);
    let mut out = [0; INDICATION_OVERHEAD + 5];
    let sent = desk.client.write_indication(address(PEER), b"hello", &mut out).unwrap();
    let indication = Message::parse(&out[..sent.len]).unwrap();
    assert_eq!((indication.kind(), sent.via), (SEND_INDICATION, bind.via));
    assert_eq!(indication.get(DATA_ATTRIBUTE), Some(&b"hello"[..]));
    assert_eq!(indication.xor_address(XOR_PEER_ADDRESS), Some(address(PEER)));
    assert!(desk.client.write_indication(address("198.51.100.8:1"), b"", &mut out).is_none());

    desk.succeed(&bind, |_| {});
    assert_eq!(desk.events(), [RelayEvent::Ready { peer: address(PEER) }]);
    let route = desk.client.channel(address(PEER)).unwrap();
    assert_eq!((route.via, route.channel), (bind.via, 0x4000));
    assert_eq!(route.prefix(5), [0x40, 0, 0, 5]);

    // What is known of the relay outlives the allocation.
    desk.client.release(desk.now);
    let free = desk.one();
    assert_eq!((free.kind(), free.message().lifetime()), (REFRESH_REQUEST, Some(0)));
    desk.succeed(&free, |writer| writer.lifetime(0).unwrap());
    assert_eq!(desk.client.poll_timeout(), None, "nothing is done when nothing is wanted");
    desk.client.acquire(desk.now);
    let again = desk.one();
    assert!(again.is_signed(7));
    desk.challenge(&again, 438, "n2");
    let fresh = desk.one();
    assert_eq!(fresh.message().get(NONCE), Some(&b"n2"[..]));
    desk.give(&fresh);
    assert!(matches!(desk.events()[..], [RelayEvent::Allocated { .. }]));
}

#[test]
fn a_request_is_repeated_and_given_up_and_the_next_relay_is_asked() {
    let mut desk = Desk::new(&[relay(1), relay(2)]);
    desk.client.acquire(desk.now);
    let first = desk.one();
    let mut at = vec![];
    let other = loop {
        let next = desk.next();
        at.push(desk.elapsed_ms());
        if next.source().address == address("203.0.113.2:3478") {
            break next;
        }
        assert_eq!(next.bytes, first.bytes, "one transaction");
    };
    assert_eq!(at, [250, 750, 1_750, 3_750]);
    desk.refuse_all(other);
}

impl Desk {
    /// The last relay is full: rests double up to five minutes.
    fn refuse_all(&mut self, mut request: Request) {
        self.challenge(&request, 401, "n1");
        request = self.one();
        self.refuse(&request, 508);
        assert_eq!(self.events(), [RelayEvent::Failed { why: Why::Capacity }]);
        let (at, reason) = self.client.poll_timeout().unwrap();
        assert_eq!((at - self.now).as_secs(), 5);
        assert_eq!(reason.as_str(), "relay: try again after a failure");
        self.wait();
        assert_eq!(self.one().source().address, address("203.0.113.1:3478"));
    }
}

#[test]
fn every_refusal_has_a_reason_that_a_person_can_be_told() {
    for (number, why) in [
        (300, Why::Draining),
        (400, Why::Unexpected),
        (403, Why::Denied),
        (420, Why::Unexpected),
        (440, Why::Family),
        (441, Why::OtherUser),
        (442, Why::Unexpected),
        (486, Why::Quota),
        (508, Why::Capacity),
        (699, Why::Unexpected),
    ] {
        let mut desk = Desk::new(&[relay(1)]);
        desk.client.acquire(desk.now);
        let first = desk.one();
        desk.challenge(&first, 401, "n1");
        let signed = desk.one();
        desk.refuse(&signed, number);
        assert_eq!(desk.events(), [RelayEvent::Failed { why }], "{number}");
        assert!(desk.sent().is_empty(), "{number}");
    }
}

#[test]
fn refused_credentials_are_asked_for_and_new_ones_tried_at_once() {
    let mut desk = Desk::new(&[relay(1)]);
    desk.client.acquire(desk.now);
    let first = desk.one();
    desk.challenge(&first, 401, "n1");
    let signed = desk.one();
    desk.challenge(&signed, 401, "n2");
    assert_eq!(desk.events(), [RelayEvent::Failed { why: Why::Credentials }]);
    desk.client.handle_timeout(desk.now);
    assert_eq!(desk.events(), [RelayEvent::GrantWanted]);
    desk.grant(8, HOUR);
    desk.mac = 8;
    let renewed = desk.one();
    assert!(renewed.is_signed(8));
    desk.challenge(&renewed, 401, "n3");
    let once_more = desk.one();
    assert!(once_more.is_signed(8));
    desk.challenge(&once_more, 401, "n4");
    assert_eq!(desk.events(), [RelayEvent::Failed { why: Why::Credentials }]);
    assert!(desk.sent().is_empty(), "tried once");
}

#[test]
fn nothing_is_asked_without_a_grant_and_one_is_asked_for_at_half_its_life() {
    let mut desk = Desk { client: RelayClient::new(), now: START, entropy: Count(0), mac: 7 };
    desk.client.set_sockets(Sockets::both(V4), START);
    desk.client.set_relays(&[relay(1)], START);
    desk.client.acquire(START);
    assert_eq!(desk.events(), [RelayEvent::GrantWanted]);
    assert!(desk.sent().is_empty());
    desk.grant(7, HOUR);
    let first = desk.one();
    desk.challenge(&first, 401, "n1");
    let signed = desk.one();
    desk.give(&signed);
    assert!(matches!(desk.events()[..], [RelayEvent::Allocated { .. }]));
    while desk.now < START + HOUR / 2 {
        assert_eq!(desk.events(), []);
        desk.wait();
        for request in desk.sent() {
            desk.succeed(&request, |writer| writer.lifetime(600).unwrap());
        }
    }
    assert_eq!(desk.now, START + HOUR / 2);
    assert_eq!(desk.events(), [RelayEvent::GrantWanted]);

    desk.client.set_grant(USER, HOUR, &[], desk.now);
    desk.client.handle_network_change(desk.now);
    assert!(desk.events().contains(&RelayEvent::Failed { why: Why::NotGranted }));
    desk.client.set_relays(&[], desk.now);
    assert_eq!(desk.events(), [RelayEvent::Failed { why: Why::NoRelay }]);
}

#[test]
fn ways_are_raced_until_somebody_answers_and_later_answers_are_given_back() {
    let both = Relay {
        v6: Some("2001:db8::1".parse().unwrap()),
        udp: [3_478, 443],
        tcp: 443,
        tls: 5_349,
        ..relay(1)
    };
    let mut desk = Desk::new(&[both]);
    desk.client.acquire(desk.now);
    let mut begun = vec![(0, desk.one())];
    while begun.len() < 3 {
        let request = desk.next();
        if begun.iter().all(|(_, one)| one.via != request.via) {
            begun.push((desk.elapsed_ms(), request));
        }
    }
    let seen: Vec<_> = begun.iter().map(|(at, one)| (*at, one.source().socket)).collect();
    assert_eq!(seen, [(0, V4), (100, V6), (200, V4)]);
    let [(_, first), (_, second), (_, third)] = &begun[..] else { unreachable!() };
    desk.challenge(second, 401, "n6");
    let signed = desk.one();
    assert_eq!(signed.via, second.via);
    desk.client.handle_timeout(desk.now + Duration::from_millis(240));
    desk.now += Duration::from_millis(240);
    assert!(desk.sent().iter().all(|one| one.via == first.via || one.via == third.via));
    assert_eq!(desk.client.poll_stream(), None, "no connection: there is an answer");
    desk.give(&signed);
    assert!(matches!(
        desk.events()[..],
        [RelayEvent::Allocated { rung: Rung { relay: 1, way: Way::UdpV6 }, .. }]
    ));
    // The slower way has one too.
    desk.give(first);
    let free = desk.one();
    assert_eq!((free.via, free.message().lifetime()), (first.via, Some(0)));
    assert!(free.kind() == REFRESH_REQUEST && free.is_signed(7));
    assert_eq!(desk.events(), []);
    desk.succeed(&free, |writer| writer.lifetime(0).unwrap());
    // And the slowest is told that it must show who it is: nothing to give back.
    desk.challenge(third, 401, "n4");
    assert!(desk.sent().is_empty());

    // The way that answered is begun with, and alone for 100 ms.
    desk.client.release(desk.now);
    desk.sent();
    desk.client.acquire(desk.now);
    assert_eq!(desk.one().via, second.via);
}

#[test]
fn a_wrong_source_a_wrong_mac_and_a_wrong_transaction_count_for_nothing() {
    let (mut desk, bind) = Desk::allocated();
    let good = desk.answer(&bind, Class::Success, true, |_| {});
    let from = bind.source();
    for other in [
        Source { socket: V6, ..from },
        Source { address: address("203.0.113.1:3479"), ..from },
        Source { address: address("203.0.113.2:3478"), ..from },
    ] {
        assert_eq!(desk.hand_in(other, &good), Ok(Received::NotMine));
    }
    let unsigned = desk.answer(&bind, Class::Success, false, |_| {});
    assert_eq!(desk.hand_in(from, &unsigned), Err(DropReason::Unauthentic));
    desk.mac = 9;
    let forged = desk.answer(&bind, Class::Success, true, |_| {});
    assert_eq!(desk.hand_in(from, &forged), Err(DropReason::Unauthentic));
    let error = desk.answer(&bind, Class::Error, true, |writer| writer.error(403).unwrap());
    assert_eq!(desk.hand_in(from, &error), Err(DropReason::Unauthentic));
    desk.mac = 7;
    let mut stranger = bind.clone();
    stranger.bytes[19] ^= 1;
    let unasked = desk.answer(&stranger, Class::Success, true, |_| {});
    assert_eq!(desk.hand_in(from, &unasked), Err(DropReason::Unsolicited));
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 4;
        assert_ne!(desk.hand_in(from, &changed), Ok(Received::Consumed), "byte {at}");
    }
    let mut out = [0; 64];
    let len = MessageWriter::new(BINDING_SUCCESS, [1; 12], &mut out).unwrap().finish_bare();
    assert_eq!(desk.hand_in(from, &out[..len]), Ok(Received::NotMine), "the STUN client's");
    assert_eq!(desk.hand_in(from, &good[..good.len() - 4]), Err(DropReason::Malformed));
    assert_eq!(desk.hand_in(from, &[4, 0, 0, 0, 1, 2, 3, 4]), Ok(Received::NotMine));
    assert_eq!(desk.hand_in(from, &[0xC4; 32]), Ok(Received::NotMine));
    assert_eq!(desk.events(), []);
    assert_eq!(desk.hand_in(from, &good), Ok(Received::Consumed));
    assert_eq!(desk.hand_in(from, &good), Err(DropReason::Unsolicited), "once");
}

#[test]
fn data_counts_of_wanted_addresses_only() {
    let mut desk = Desk::ready();
    let from = Source { socket: V4, address: address("203.0.113.1:3478") };
    let frame = [&ChannelData::header(0x4000, 3)[..], b"abc\0"].concat();
    let data = |peer: &str, at| Ok(Received::Data { peer: address(peer), at });
    assert_eq!(desk.hand_in(from, &frame), data(PEER, 4..7));
    let other_channel = [&ChannelData::header(0x4001, 3)[..], b"abc"].concat();
    assert_eq!(desk.hand_in(from, &other_channel), Err(DropReason::Unsolicited));
    // A NAT gives the peer another port than it was told of.
    let told = indication("198.51.100.9:6", b"hello");
    let Ok(Received::Data { peer, at }) = desk.hand_in(from, &told) else { panic!() };
    assert_eq!((peer, &told[at]), (address("198.51.100.9:6"), &b"hello"[..]));
    let stranger = indication("198.51.100.10:51820", b"hello");
    assert_eq!(desk.hand_in(from, &stranger), Err(DropReason::Unsolicited));
    let elsewhere = Source { address: address("203.0.113.9:3478"), ..from };
    assert_eq!(desk.hand_in(elsewhere, &frame), Ok(Received::NotMine));

    desk.client.unwant(address(PEER));
    assert_eq!(desk.hand_in(from, &frame), Err(DropReason::Unsolicited));
    assert_eq!(desk.hand_in(from, &told), Err(DropReason::Unsolicited));
    assert_eq!(desk.client.channel(address(PEER)), None);
    let others = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"];
    others.iter().for_each(|other| desk.client.want(address(other), desk.now).unwrap());
    desk.sent();
    // Wanted again it has its channel again: the relay binds it to no other.
    desk.client.want(address(PEER), desk.now).unwrap();
    let again = desk.one();
    assert_eq!(again.message().channel_number(), Some(0x4000));
    // The same address in other clothes is no other.
    desk.client.want(address("[::ffff:192.0.2.1]:1"), desk.now).unwrap();
    assert!(desk.sent().is_empty());
    assert!(desk.client.want(address("192.0.2.4:1"), desk.now).is_err(), "four places");
    desk.client.unwant(address(PEER));
    desk.client.want(address("192.0.2.4:1"), desk.now).unwrap();
    assert_eq!(desk.one().message().channel_number(), Some(0x4004));
}

#[test]
fn an_address_without_a_port_gets_a_permission() {
    let mut desk = Desk::ready();
    let open = address("192.0.2.77:0");
    desk.client.want(open, desk.now).unwrap();
    let permit = desk.one();
    assert_eq!(permit.kind(), CREATE_PERMISSION_REQUEST);
    desk.succeed(&permit, |_| {});
    assert_eq!(desk.events(), [RelayEvent::Ready { peer: open }]);
    assert_eq!(desk.client.channel(open), None);
    let from = permit.source();
    let told = indication("192.0.2.77:4711", b"x");
    assert!(matches!(desk.hand_in(from, &told), Ok(Received::Data { .. })));
    let mut out = [0; 128];
    assert!(desk.client.write_indication(address("192.0.2.77:4711"), b"x", &mut out).is_some());
    assert!(desk.client.write_indication(open, b"x", &mut out).is_none());
}

#[test]
fn a_refused_peer_is_told_and_a_refused_channel_is_done_without() {
    let (mut desk, bind) = Desk::allocated();
    desk.refuse(&bind, 403);
    let peer = address(PEER);
    assert_eq!(desk.events(), [RelayEvent::Refused { peer, why: Why::Denied }]);
    let mut out = [0; 128];
    assert!(desk.client.write_indication(peer, b"x", &mut out).is_none());
    let again = desk.next();
    assert_eq!((again.kind(), desk.elapsed_ms()), (CHANNEL_BIND_REQUEST, 300_000));

    let (mut desk, bind) = Desk::allocated();
    desk.refuse(&bind, 508);
    let permit = desk.one();
    assert_eq!(permit.kind(), CREATE_PERMISSION_REQUEST);
    desk.succeed(&permit, |_| {});
    assert_eq!(desk.events(), [RelayEvent::Ready { peer }]);
    assert_eq!(desk.client.channel(peer), None);
}

#[test]
fn an_allocation_that_the_relay_forgot_is_made_anew_at_once() {
    for asks_refresh in [true, false] {
        let mut desk = Desk::ready();
        desk.now = START + Duration::from_secs(100);
        let request = if asks_refresh {
            desk.client.suspect(desk.now);
            desk.one()
        } else {
            desk.client.want(address("192.0.2.1:1"), desk.now).unwrap();
            desk.one()
        };
        desk.refuse(&request, 437);
        assert_eq!(desk.events(), [RelayEvent::Lost { relay: 1, why: Why::Forgotten }]);
        assert_eq!(desk.client.channel(address(PEER)), None);
        let again = desk.one();
        assert!(again.is_signed(7));
        desk.give(&again);
        assert!(matches!(desk.events()[..], [RelayEvent::Allocated { .. }]));
        let binds = desk.sent();
        assert_eq!(binds.len(), if asks_refresh { 1 } else { 2 });
    }
}

#[test]
fn a_relay_that_gives_and_forgets_is_not_asked_in_a_circle() {
    let (mut desk, bind) = Desk::allocated();
    desk.refuse(&bind, 437);
    assert!(is_lost(&desk.events(), Why::Forgotten));
    // It may have started anew just then.
    let again = desk.one();
    desk.give(&again);
    assert!(matches!(desk.events()[..], [RelayEvent::Allocated { .. }]));
    let bind = desk.one();
    desk.refuse(&bind, 437);
    assert!(is_lost(&desk.events(), Why::Forgotten));
    assert!(desk.sent().is_empty(), "it rests");
}

#[test]
fn a_relay_that_passes_something_on_is_not_given_up_for_one_peer() {
    let mut desk = Desk::ready();
    desk.now = START + Duration::from_secs(100);
    let from = Source { socket: V4, address: address("203.0.113.1:3478") };
    assert!(matches!(desk.hand_in(from, &indication(PEER, b"x")), Ok(Received::Data { .. })));
    desk.now = START + Duration::from_secs(101);
    desk.client.abandon(desk.now);
    assert_eq!(desk.events(), []);
    desk.now = START + Duration::from_secs(105);
    desk.client.abandon(desk.now);
    assert!(is_lost(&desk.events(), Why::NoAnswer));
}

/// Nothing more may be said of it, so the suspicion waits until a round is over.
#[test]
fn a_relay_that_is_suspected_too_soon_is_judged_later() {
    for passes in [false, true] {
        let mut desk = Desk::ready();
        desk.now = START + Duration::from_secs(1);
        desk.client.abandon(desk.now);
        assert_eq!(desk.events(), []);
        if passes {
            let from = Source { socket: V4, address: address("203.0.113.1:3478") };
            assert!(desk.hand_in(from, &indication(PEER, b"x")).is_ok());
        }
        desk.wait();
        assert_eq!(desk.elapsed_ms() == 2_500, !passes);
        assert_eq!(is_lost(&desk.events(), Why::NoAnswer), !passes);
    }
}

impl Desk {
    /// Gives the allocation that is asked for when every answer takes so long, and says
    /// at which relay that is.
    fn allocate(&mut self, round_trip_ms: u64) -> u16 {
        self.client.acquire(self.now);
        let mut request = self.one();
        self.now += Duration::from_millis(round_trip_ms);
        if !request.is_signed(7) {
            self.challenge(&request, 401, "n1");
            request = self.one();
            self.now += Duration::from_millis(round_trip_ms);
        }
        self.give(&request);
        assert!(matches!(self.events().last(), Some(RelayEvent::Allocated { .. })));
        self.client.rung().unwrap().relay
    }

    fn release(&mut self) {
        self.client.release(self.now);
        let free = self.one();
        self.succeed(&free, |writer| writer.lifetime(0).unwrap());
    }

    fn measure(&mut self, number: u16, ms: u64) {
        let ip = relay(number).v4.unwrap().into();
        self.client.handle_round_trip(ip, Duration::from_millis(ms), self.now);
    }
}

#[test]
fn the_next_allocation_is_asked_for_at_a_relay_that_is_nearer_by_far() {
    for (other_ms, next) in [(20, 2), (95, 2), (97, 1), (120, 1), (500, 1)] {
        let mut desk = Desk::new(&[relay(1), relay(2)]);
        assert_eq!(desk.allocate(120), 1, "nothing else is known");
        assert_eq!(desk.client.round_trip(1), Some(120), "its own answer tells it");
        desk.measure(2, other_ms);
        desk.client.handle_timeout(desk.now);
        assert!(desk.sent().is_empty(), "what there is stays where it is");
        assert_eq!(desk.client.rung().map(|rung| rung.relay), Some(1));
        desk.release();
        assert_eq!(desk.allocate(other_ms), next, "{other_ms} ms");
        // What answered last is asked first, as before.
        desk.release();
        assert_eq!(desk.allocate(other_ms), next);
    }
    // What is known before the first one counts for that.
    let mut desk = Desk::new(&[relay(1), relay(2)]);
    desk.measure(1, 120);
    desk.measure(2, 20);
    assert_eq!(desk.allocate(20), 2);
}

#[test]
fn a_relay_that_was_left_is_not_asked_first_for_being_near() {
    let mut desk = Desk::new(&[relay(1), relay(2)]);
    desk.measure(1, 120);
    desk.measure(2, 20);
    assert_eq!(desk.allocate(20), 2);
    desk.now += Duration::from_secs(10);
    desk.client.abandon(desk.now);
    assert_eq!(desk.allocate(120), 1);
    for _ in 0..3 {
        desk.release();
        desk.now += HOUR / 10;
        desk.measure(2, 20);
        assert_eq!((desk.client.round_trip(2), desk.allocate(120)), (None, 1));
    }
    // Elsewhere it may do.
    desk.client.handle_network_change(desk.now);
    desk.client.release(desk.now);
    let _ = (desk.sent(), desk.events());
    desk.measure(1, 120);
    desk.measure(2, 20);
    assert_eq!(desk.allocate(20), 2);
}

#[test]
fn what_a_process_before_us_left_is_ended_first() {
    let mut desk = Desk::new(&[relay(1)]);
    desk.client.acquire(desk.now);
    let first = desk.one();
    desk.challenge(&first, 401, "n1");
    let signed = desk.one();
    desk.refuse(&signed, 437);
    let clear = desk.one();
    assert_eq!((clear.kind(), clear.message().lifetime()), (REFRESH_REQUEST, Some(0)));
    desk.succeed(&clear, |writer| writer.lifetime(0).unwrap());
    let again = desk.one();
    desk.give(&again);
    assert!(matches!(desk.events()[..], [RelayEvent::Allocated { .. }]));
}

#[test]
fn one_lost_refresh_loses_nothing_and_a_silent_relay_is_left() {
    let mut desk = Desk::ready();
    while desk.now < START + Duration::from_secs(450) {
        desk.wait();
        for request in desk.sent() {
            if request.kind() != REFRESH_REQUEST {
                desk.succeed(&request, |_| {});
            }
        }
    }
    // That one and its repetitions were lost; the next is not.
    let transaction = loop {
        let next = desk.next();
        if desk.elapsed_ms() > 455_000 {
            break next;
        }
        assert_eq!(next.kind(), REFRESH_REQUEST);
    };
    assert_eq!(transaction.kind(), REFRESH_REQUEST);
    desk.succeed(&transaction, |writer| writer.lifetime(600).unwrap());
    assert_eq!(desk.events(), []);
    assert!(desk.client.channel(address(PEER)).is_some());

    desk.client.suspect(desk.now);
    let silent_from = desk.now;
    let mut events = vec![];
    while events.is_empty() {
        desk.sent();
        desk.wait();
        // A path complains all the time; that brings nothing forward.
        desk.client.suspect(desk.now);
        events = desk.events();
    }
    assert!(is_lost(&events, Why::NoAnswer));
    let took = desk.now - silent_from;
    assert!((20..30).contains(&took.as_secs()), "{took:?}");
    assert_eq!(desk.one().kind(), ALLOCATE_REQUEST);
}

#[test]
fn another_network_is_another_allocation_at_once() {
    let mut desk = Desk::ready();
    desk.client.handle_network_change(desk.now);
    assert!(is_lost(&desk.events(), Why::NetworkChanged));
    let again = desk.one();
    assert!(again.kind() == ALLOCATE_REQUEST && again.is_signed(7), "one round trip");
    desk.give(&again);
    desk.events();
    desk.sent();
    desk.client.set_sockets(Sockets { v4: None, v6: Some(V6) }, desk.now);
    assert!(is_lost(&desk.events(), Why::NetworkChanged));
    assert!(desk.sent().is_empty(), "no way to an IPv4 relay");
    desk.client.set_sockets(Sockets::both(V4), desk.now);
    let again = desk.one();
    desk.give(&again);
    desk.events();
    desk.client.set_relays(&[relay(2)], desk.now);
    assert!(is_lost(&desk.events(), Why::Removed));
    assert!(desk.sent().iter().any(|one| one.source().address == address("203.0.113.2:3478")));
}

#[test]
fn where_udp_is_blocked_a_connection_serves() {
    let mut desk = Desk::new(&[Relay { tcp: 443, tls: 5_349, ..relay(1) }]);
    desk.client.want(address(PEER), desk.now).unwrap();
    desk.sent();
    let tcp = open(&mut desk, false);
    assert_eq!(desk.elapsed_ms(), 100);
    let first = desk.sent().into_iter().find(|one| one.via == Via::Stream(tcp)).unwrap();
    // The connection breaks, and the one over TLS does not.
    desk.client.handle_stream_closed(tcp, desk.now);
    let tls = open(&mut desk, true);
    let first_tls = desk.sent().into_iter().find(|one| one.via == Via::Stream(tls)).unwrap();
    assert_ne!(first.transaction(), first_tls.transaction());
    let challenge = desk.answer(&first_tls, Class::Error, false, |writer| {
        writer.error(401).unwrap();
        writer.attribute(REALM, b"weft").unwrap();
        writer.attribute(NONCE, b"n1").unwrap();
    });
    assert!(stream(&mut desk, tls, &challenge, 1).is_empty());
    let signed = desk.one();
    let success = desk.answer(&signed, Class::Success, true, given);
    stream(&mut desk, tls, &success, 7);
    let events = desk.events();
    let [RelayEvent::Allocated { rung, .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!(rung, Rung { relay: 1, way: Way::Tls });
    let bind = desk.one();
    let bound = desk.answer(&bind, Class::Success, true, |_| {});
    let frame = [&ChannelData::header(0x4000, 3)[..], b"abc\0"].concat();
    let bytes = [&bound[..], &frame, &indication(PEER, b"hello"), &frame.repeat(80)].concat();
    for piece in [1, 3, 64, 1_000] {
        let packets = stream(&mut desk, tls, &bytes, piece);
        assert_eq!(packets.len(), 82, "in pieces of {piece}");
        assert_eq!(packets[1], b"hello");
    }
    let route = desk.client.channel(address(PEER)).unwrap();
    assert_eq!((route.via, route.padding(3), route.padding(4)), (Via::Stream(tls), 1, 0));

    // The rung is begun with, on another day too.
    desk.client.release(desk.now);
    assert_eq!(desk.client.poll_stream(), Some(StreamCommand::Close { stream: tls }));
    assert!(desk.sent().is_empty(), "closing says it all");
    desk.client.prefer(Rung::from_number(rung.number()));
    desk.client.want(address(PEER), desk.now).unwrap();
    assert!(desk.sent().is_empty());
    let again = open(&mut desk, true);
    let signed = desk.one();
    let success = desk.answer(&signed, Class::Success, true, given);
    stream(&mut desk, again, &success, 500);
    desk.events();
    desk.sent();
    // A stream that has lost its frames is of no use.
    desk.now += HOUR / 60;
    stream(&mut desk, again, &[0xFF; 8], 8);
    assert!(is_lost(&desk.events(), Why::Closed));
    assert_eq!(desk.client.poll_stream(), Some(StreamCommand::Close { stream: again }));
    assert!(stream(&mut desk, again, &frame, 100).is_empty(), "nobody listens");
}

#[test]
fn a_client_is_small() {
    let of = |peers| match peers {
        0 => size_of::<RelayClient<0, 0>>(),
        _ => size_of::<RelayClient<8, 0>>(),
    };
    assert_eq!((of(8) - of(0)) / 8, 40);
    assert!(of(0) <= 1_024, "{}", of(0));
}

proptest! {
    /// Whatever is lost, with a relay that answers in the end nothing expires: no
    /// allocation goes without a refresh for 600 s, no permission for 300.
    #[test]
    fn nothing_expires_at_a_relay_that_answers(lost in proptest::collection::vec(0_u8..4, 1..60)) {
        let mut desk = Desk::ready();
        desk.grant(7, HOUR * 4);
        let (mut refreshed, mut bound) = (desk.now, desk.now);
        let mut lost = lost.into_iter().cycle();
        let mut in_a_row = [0; 2];
        while desk.now < START + HOUR {
            desk.wait();
            for request in desk.sent() {
                // At most seven of a kind in a row: a relay that is silent for
                // longer is left, and luck that spares every refresh and no bind for
                // a minute, as the stored case has it, is none of a network's.
                let in_a_row = &mut in_a_row[usize::from(request.kind() == REFRESH_REQUEST)];
                let is_lost = lost.next() != Some(0) && *in_a_row < 7;
                *in_a_row = if is_lost { *in_a_row + 1 } else { 0 };
                if is_lost {
                    continue;
                }
                match request.kind() {
                    REFRESH_REQUEST => {
                        prop_assert!(desk.now - refreshed < Duration::from_secs(600));
                        refreshed = desk.now;
                        desk.succeed(&request, |writer| writer.lifetime(600).unwrap());
                    }
                    CHANNEL_BIND_REQUEST => {
                        prop_assert!(desk.now - bound < Duration::from_secs(300));
                        bound = desk.now;
                        desk.succeed(&request, |_| {});
                    }
                    other => prop_assert!(false, "{other:#06x}"),
                }
            }
            prop_assert_eq!(desk.events(), vec![]);
        }
        prop_assert!(desk.client.channel(address(PEER)).is_some());
    }
}
