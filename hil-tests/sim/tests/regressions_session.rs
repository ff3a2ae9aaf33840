//! Mistakes that other WireGuard implementations made with sessions, timers and
//! data, each a test. Numbers are those of the project's list.
#![allow(missing_docs, reason = "a test")]

mod support;

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;
use support::{Node, World, capture, connect, overlay, stranger, udp, underlay};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::event::{DropReason, PeerSlot};
use weft_agent_core::ip::Packet;
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::{PeerKeys, Tai64nClock};
use weft_noise::wg::REKEY_AFTER_MESSAGES;
use weft_sim::Rng;
use weft_wire::id::Secret;
use weft_wire::map::Prefix;

const SLOT: PeerSlot = PeerSlot(0);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn regression_02_sessions_are_replaced_before_their_counters_end() {
    // Whoever uses the counter up begins, in either role.
    for (node, number) in [(0, 2), (1, 1)] {
        let mut world = World::pair(2 + node as u64);
        connect(&mut world);
        let before = world.sent_by(node, 1);
        world.nodes[node].datapath.skip_counters(SLOT, REKEY_AFTER_MESSAGES - 3);
        for step in 0..4u8 {
            world.send(node, number, &[step]);
            world.run(secs(1));
        }
        assert_eq!(world.sent_by(node, 1), before + 1, "one new handshake");
        assert_eq!(world.nodes[1 - node].delivered.len(), 4);
    }
    // And where it was not replaced in time, nothing is sealed in it.
    let mut world = World::pair(202);
    connect(&mut world);
    world.nodes[0].datapath.skip_counters(SLOT, u64::MAX);
    world.send(0, 2, b"in the next session");
    // Two initiations are 5 s apart at least.
    world.run(secs(6));
    assert_eq!(world.sent_by(0, 1), 2);
    assert_eq!(world.b().delivered, [b"in the next session"]);
}

#[test]
fn regression_06_every_datagram_of_a_capture_is_refused_the_second_time() {
    let mut world = World::pair(6);
    connect(&mut world);
    for number in 0..50u8 {
        world.send(0, 2, &[number]);
        world.send(1, 1, &[number]);
    }
    world.run(secs(1));
    assert_eq!(world.b().delivered.len(), 50);
    let (handshakes, endpoint) = (world.b().handshakes(0), world.b().endpoints[0]);

    let capture = std::mem::take(&mut world.log);
    for flight in &capture {
        world.inject(flight.from, flight.to, &flight.bytes);
        world.inject(stranger(1), flight.to, &flight.bytes);
    }
    world.run(secs(30));
    assert_eq!(world.b().delivered.len(), 50);
    assert_eq!(world.a().delivered.len(), 50);
    assert_eq!(world.b().handshakes(0), handshakes);
    assert_eq!(world.b().endpoints[0], endpoint);
}

#[test]
fn regression_14_data_alone_moves_the_endpoint() {
    let mut world = World::pair(14);
    connect(&mut world);
    let handshakes = world.sent(1);
    world.addresses[0] = stranger(7);
    world.send(0, 2, b"from elsewhere");
    world.run(secs(1));
    assert_eq!(world.b().endpoints[0], Some(stranger(7)));
    world.send(1, 1, b"found");
    world.run(secs(1));
    assert_eq!(world.a().delivered, [b"found"]);
    assert_eq!(world.sent(1), handshakes);
}

#[test]
fn regression_14_data_moves_back_what_a_response_moved() {
    let mut world = World::pair(143);
    connect(&mut world);
    assert_eq!(world.a().endpoints[0], Some(underlay(2)));
    // The response of the next handshake is seen from elsewhere: a one-way
    // path, or somebody on the way who handed it on.
    world.gate = Box::new(|flight| {
        if flight.kind() == 2 {
            flight.from = stranger(9);
        }
        true
    });
    world.run(secs(119));
    world.send(0, 2, b"rekey");
    world.run(secs(1));
    assert_eq!(world.sent(2), 2);
    assert_eq!(world.a().endpoints[0], Some(stranger(9)));
    world.send(1, 1, b"from where it always was");
    world.run(secs(1));
    assert_eq!(world.a().endpoints[0], Some(underlay(2)));
}

#[test]
fn regression_14_an_initiation_alone_moves_nothing() {
    let mut world = World::pair(140);
    connect(&mut world);
    // An initiation of node 1 that never arrived is played from elsewhere, after
    // node 2 has forgotten the timestamps.
    let stolen = capture(3).remove(2);
    let mut rebooted = Node::new(2, 141);
    rebooted.add_peer(0, 1, 7, world.now);
    world.nodes[1] = rebooted;
    world.inject(stranger(3), underlay(2), &stolen);
    world.run(secs(1));
    assert_eq!(world.b().endpoints[0], Some(underlay(1)));
    let answered: Vec<_> = world.log.iter().filter(|flight| flight.kind() == 2).collect();
    assert_eq!(answered.last().map(|flight| flight.to), Some(stranger(3)));
    assert!(world.b().events.is_empty());
}

#[test]
fn regression_14_a_late_packet_does_not_move_the_endpoint_back() {
    let mut world = World::pair(142);
    connect(&mut world);
    let now = world.now;
    world.a().send(2, b"from the old place", now);
    let (to, late) = world.a().out.pop_front().expect("a datagram");
    world.addresses[0] = stranger(7);
    world.send(0, 2, b"from the new place");
    world.run(secs(1));
    world.inject(underlay(1), to, &late);
    world.run(secs(1));
    assert_eq!(world.b().delivered, [&b"from the new place"[..], b"from the old place"]);
    assert_eq!(world.b().endpoints[0], Some(stranger(7)));
}

#[test]
fn regression_18_sessions_expire_and_only_the_initiator_rekeys() {
    let mut world = World::pair(18);
    connect(&mut world);
    // Only node 2, the responder, sends.
    for _ in 0..24 * 60 {
        world.send(1, 1, b"tick");
        world.run(secs(60));
    }
    assert_eq!(world.a().delivered.len(), 24 * 60);
    assert_eq!(world.sent_by(1, 1), 0, "the responder never initiates");
    // Node 1's keepalives after 120 s do it before that: every 2 or 3 minutes.
    let initiations = world.sent_by(0, 1);
    assert!((475..=725).contains(&initiations), "{initiations}");
}

#[test]
fn regression_18_the_initiator_rekeys_on_receiving_late() {
    let mut world = World::pair(180);
    connect(&mut world);
    world.run(secs(150));
    let before = world.sent(1);
    world.send(1, 1, b"at 152 s");
    world.run(secs(9));
    assert_eq!(world.sent(1), before);
    world.run(secs(3));
    assert_eq!(world.sent_by(0, 1), before + 1, "the keepalive after 10 s is past 120 s");

    let mut world = World::pair(181);
    connect(&mut world);
    world.run(secs(165));
    let before = world.sent(1);
    world.send(1, 1, b"at 167 s");
    world.run(millis(50));
    assert_eq!(world.sent_by(0, 1), before + 1);
    assert_eq!(world.sent_by(1, 1), 0);
}

#[test]
fn regression_19_after_10_idle_minutes_the_next_packet_gets_through() {
    let mut world = World::pair(19);
    connect(&mut world);
    let before = world.sent(1);
    world.run(secs(600));
    assert_eq!(world.sent(1), before, "idle means silent");
    for from in [0, 1] {
        world.send(from, 2 - from as u8, b"again");
        world.run(secs(1));
        world.run(secs(600));
    }
    assert_eq!(world.b().delivered, [b"again"]);
    assert_eq!(world.a().delivered, [b"again"]);
}

#[test]
fn regression_20_two_persistent_keepalives_make_one_initiator() {
    let mut world = World::pair(20);
    for node in 0..2 {
        let mut keys = PeerKeys::new(Node::key(2 - node as u8), Secret([7; 32]));
        keys.keepalive_after = Some(25);
        let now = world.now;
        world.nodes[node].set_keys(0, keys, now);
    }
    world.run(secs(60));
    let before = world.sent(1);
    world.run(secs(3_600));
    let handshakes = world.sent(1) - before;
    // Rekeyed at the first keepalive after 120 s, so every 125 to 145 s.
    assert!((24..=30).contains(&handshakes), "{handshakes}");
    let by_one = world.sent_by(0, 1).max(world.sent_by(1, 1));
    assert!(by_one + 3 >= before + handshakes, "one side initiates: {by_one}");
}

#[test]
fn regression_21_an_hour_of_traffic_is_30_handshakes() {
    let mut world = World::pair(21);
    for _ in 0..3_600 {
        world.send(0, 2, b"there");
        world.run(millis(500));
        world.send(1, 1, b"back");
        world.run(millis(500));
    }
    let handshakes = world.sent(1);
    assert!((29..=31).contains(&handshakes), "{handshakes}");
    assert_eq!(world.sent(2), handshakes);
    assert_eq!(world.b().delivered.len(), 3_600);
}

#[test]
fn regression_22_what_is_sealed_in_time_is_not_refused_on_arrival() {
    // Each side sends once, at any age of the session around its end.
    for from in [0, 1] {
        for tenth in 1_700..1_850u64 {
            let mut world = World::pair(2_200 + tenth);
            world.latency = millis(250);
            connect(&mut world);
            world.run(secs(1_002).saturating_sub(world.now.since(Instant::ZERO)));
            world.run(millis(tenth * 100 - 2_000));
            world.send(from, 2 - from as u8, b"late");
            world.run(secs(2));
            let delivered = world.nodes[1 - from].delivered.len();
            assert_eq!(delivered, 1, "node {from} at {tenth} tenths");
            assert!(!world.nodes[1 - from].refused.contains(&DropReason::Expired));
        }
    }
}

#[test]
fn regression_22_a_way_that_became_slower_does_not_cost_the_last_packets() {
    for from in [0, 1] {
        for second in 170..182u64 {
            let mut world = World::pair(2_300 + second);
            connect(&mut world);
            world.run(secs(second - 2));
            world.latency = secs(2);
            world.send(from, 2 - from as u8, b"late");
            world.run(secs(20));
            assert_eq!(world.nodes[1 - from].delivered.len(), 1, "node {from} at {second} s");
            assert!(!world.nodes[1 - from].refused.contains(&DropReason::Expired));
        }
    }
}

#[test]
fn regression_23_idle_peers_are_silent() {
    let mut world = World::pair(23);
    connect(&mut world);
    world.run(secs(30));
    world.log.clear();
    world.run(secs(24 * 3_600));
    assert!(world.log.is_empty(), "{:?}", world.log);
    assert!(world.a().poll_timeout().is_none(), "and nothing wakes them");
}

#[test]
fn regression_24_a_peer_that_vanishes_is_noticed() {
    let mut world = World::pair(24);
    connect(&mut world);
    world.log.clear();
    world.gate = Box::new(|flight| flight.from != underlay(2));
    let began = world.now;
    for _ in 0..20 {
        world.send(0, 2, b"anybody?");
        world.run(secs(1));
    }
    let first = world.log.iter().find(|flight| flight.kind() == 1).expect("a new handshake");
    let after = first.at.since(began) - world.latency;
    assert!((secs(15)..=millis(15_400)).contains(&after), "{after:?}");
}

#[test]
fn regression_25_a_peer_cannot_speak_for_a_part_of_its_neighbours_range() {
    // Node 2 holds 100.80.2.0/24, node 3 the /25 inside it.
    let mut world = World::pair(25);
    let now = world.now;
    world.a().add_peer(1, 3, 7, now);
    let mut third = Node::new(3, 26);
    third.add_peer(0, 1, 7, now);
    world.nodes.push(third);
    world.addresses.push(underlay(3));
    let wide = Prefix::V4([100, 80, 2, 0].into(), 24);
    let narrow = Prefix::V4([100, 80, 2, 128].into(), 25);
    world.a().datapath.set_routes(SLOT, [wide, Prefix::V4(overlay(2), 32)]).unwrap();
    world.a().datapath.set_routes(PeerSlot(1), [narrow, Prefix::V4(overlay(3), 32)]).unwrap();
    for last in 0..=255u8 {
        for from in [1, 2] {
            let now = world.now;
            let packet = udp([100, 80, 2, last].into(), overlay(1), &[last]);
            world.nodes[from].send_packet(&packet, now);
            world.collect();
            world.run(millis(100));
            let owner = if last < 128 { 1 } else { 2 };
            let delivered = std::mem::take(&mut world.a().delivered);
            assert_eq!(delivered.len(), usize::from(from == owner), "{last} by node {from}");
        }
    }
    assert_eq!(world.nodes[0].datapath.drops().get(DropReason::SourceAddress), 256);
}

/// A packet of a protocol without ports between two addresses of a family.
fn opaque(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 253, 0, 0];
            packet.extend(from.octets().into_iter().chain(to.octets()));
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 8, 253, 64];
            packet.extend(from.octets().into_iter().chain(to.octets()));
            packet
        }
        _ => panic!("two families"),
    };
    packet.extend([9; 8]);
    packet
}

/// Prefixes of few distinct bits, so that they nest.
fn nested_prefix() -> impl Strategy<Value = Prefix> {
    let bits = any::<[bool; 3]>();
    let v4 = (bits, 8u8..=32).prop_map(|([a, b, c], len)| {
        Prefix::V4([10, u8::from(a) << 7, u8::from(b) << 7, u8::from(c)].into(), len)
    });
    let v6 = (bits, 16u8..=128).prop_map(|([a, b, c], len)| {
        let bit = |set| u16::from(set) << 15;
        Prefix::V6([0xFD07, bit(a), bit(b), 0, 0, 0, 0, u16::from(c)].into(), len)
    });
    prop_oneof![v4, v6]
}

fn nested_address() -> impl Strategy<Value = IpAddr> {
    nested_prefix().prop_map(|prefix| match prefix {
        Prefix::V4(address, _) => address.into(),
        Prefix::V6(address, _) => address.into(),
    })
}

fn covers(prefix: &Prefix, address: IpAddr) -> Option<u8> {
    let same = |a: u128, b: u128, width: u32, len: u8| {
        len == 0 || (a ^ b) >> (width - u32::from(len)) == 0
    };
    match (prefix, address) {
        (Prefix::V4(network, len), IpAddr::V4(address)) => {
            same(network.to_bits().into(), address.to_bits().into(), 32, *len).then_some(*len)
        }
        (Prefix::V6(network, len), IpAddr::V6(address)) => {
            same(network.to_bits(), address.to_bits(), 128, *len).then_some(*len)
        }
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever the ranges of two peers, and of either family: a packet passes
    /// if and only if the longest range of its source is its sender's.
    #[test]
    fn regression_25_the_longest_range_of_the_source_is_the_senders(
        ranges in proptest::collection::vec((nested_prefix(), 0usize..2), 1..8),
        sources in proptest::collection::vec(nested_address(), 1..12),
    ) {
        let own6: Ipv6Addr = "fd08::1".parse().expect("an address");
        let own: [IpAddr; 2] = [overlay(1).into(), own6.into()];
        let mut world = World::pair(250);
        let now = world.now;
        world.a().add_peer(1, 3, 7, now);
        let mut third = Node::new(3, 251);
        third.add_peer(0, 1, 7, now);
        world.nodes.push(third);
        world.addresses.push(underlay(3));
        // Both reach node 1 at both its addresses; the later owner of one and
        // the same range keeps it.
        for node in [1, 2] {
            let routes = [Prefix::V4(overlay(1), 32), Prefix::V6(own6, 128)];
            world.nodes[node].datapath.set_routes(SLOT, routes).expect("room");
        }
        for slot in 0..2u16 {
            let of = ranges.iter().filter(|(_, owner)| *owner == usize::from(slot));
            let routes = of.map(|(prefix, _)| *prefix).chain([Prefix::V4(overlay(2 + slot as u8), 32)]);
            world.a().datapath.set_routes(PeerSlot(slot), routes).expect("room");
        }
        for source in sources {
            for from in [1usize, 2] {
                let to = own[usize::from(source.is_ipv6())];
                let bytes = opaque(source, to);
                prop_assert!(Packet::parse(&bytes).is_ok());
                let now = world.now;
                world.nodes[from].send_packet(&bytes, now);
                world.collect();
                world.run(millis(100));
                let longest = ranges
                    .iter()
                    // In the order of the slots, as the routes were set.
                    .filter_map(|(prefix, owner)| covers(prefix, source).map(|len| (len, *owner)))
                    .max();
                let allowed = longest.is_some_and(|(_, owner)| owner + 1 == from);
                let delivered = std::mem::take(&mut world.a().delivered).len();
                prop_assert_eq!(delivered, usize::from(allowed), "{} by node {}", source, from);
            }
        }
    }
}

#[test]
fn regression_26_datagrams_of_any_length_are_survived() {
    let mut world = World::pair(26);
    connect(&mut world);
    let mut rng = Rng::new(26);
    let now = world.now;
    for len in (0..2_000).chain((2_000..=65_535).step_by(97)).chain([65_535]) {
        let mut bytes = vec![0; len];
        for kind in [None, Some(1), Some(2), Some(3), Some(4)] {
            weft_agent_core::entropy::Entropy::fill(&mut rng, &mut bytes);
            if let (Some(kind), Some(head)) = (kind, bytes.get_mut(..4)) {
                head.copy_from_slice(&[kind, 0, 0, 0]);
            }
            let index = world.log.iter().rev().find(|flight| flight.kind() == 4);
            if let (Some(4), Some(flight), Some(head)) = (kind, index, bytes.get_mut(4..8)) {
                head.copy_from_slice(&flight.bytes[4..8]);
            }
            world.b().handle_datagram(stranger(1), &bytes, now);
            world.a().handle_datagram(stranger(1), &bytes, now);
        }
    }
    world.send(0, 2, b"still here");
    world.run(secs(1));
    assert_eq!(world.b().delivered, [b"still here"]);
}

#[test]
fn regression_30_instants_may_stand_still_or_go_back() {
    for seed in 0..50 {
        let mut rng = Rng::new(3_000 + seed);
        let mut world = World::pair(3_000 + 2 * seed);
        for _ in 0..400 {
            world.now = match rng.below(4) {
                0 => world.now,
                1 => world.now - Duration::from_micros(rng.next() >> rng.below(64)),
                2 => world.now + Duration::from_micros(rng.next() >> rng.below(64)),
                _ => Instant::from_micros(rng.next() >> rng.below(64)),
            };
            let from = (rng.next() % 2) as usize;
            world.send(from, 2 - from as u8, b"x");
            world.step();
            for node in 0..2 {
                let now = world.now;
                world.nodes[node].handle_timeout(now);
            }
            world.collect();
        }
    }
}

#[test]
fn regression_31_a_restarted_peer_is_found_again_within_16_s() {
    for restarted in [0usize, 1] {
        let mut world = World::pair(31 + restarted as u64);
        connect(&mut world);
        let number = restarted as u8 + 1;
        let other = 1 - restarted;
        let mut clock = Tai64nClock::new(Some(1 << 20));
        let floor = clock.poll_persist().unwrap();
        clock.handle_persisted(floor);
        let mut node = Node::with_clock(number, 310, clock, TunnelConfig::new());
        node.add_peer(0, 3 - number, 7, world.now);
        world.nodes[restarted] = node;
        let began = world.now;
        while world.nodes[restarted].delivered.is_empty() {
            world.send(other, number, b"are you there");
            world.run(millis(200));
            assert!(world.now.since(began) < secs(16), "node {number} restarted");
        }
    }
}

#[test]
fn regression_32_no_event_or_status_shows_a_key() {
    let mut world = World::pair(32);
    connect(&mut world);
    let canary = Node::secret(1).to_secret().0;
    let public = Node::key(2).0;
    let node = &world.nodes[0];
    let text = format!(
        "{:?} {:?} {:?} {:?} {:?}",
        node.events,
        node.tunnel.status(SLOT),
        node.tunnel.drops(),
        node.tunnel.clock(),
        node.datapath.activity(SLOT),
    );
    for secret in [&canary[..], &[7; 32], &public] {
        for width in [4, 8] {
            let hex: String = secret.iter().take(width).map(|byte| format!("{byte:02x}")).collect();
            assert!(!text.contains(&hex));
            let list = format!("{:?}", &secret[..width]);
            assert!(!text.contains(list.trim_matches(['[', ']'])));
        }
    }
}
