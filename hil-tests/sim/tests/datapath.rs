//! The data path: routes, order of checks, counters, edges.
#![allow(missing_docs, reason = "a test")]

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use support::{ALL, MTU, Node, World, connect, overlay, udp, underlay};
use weft_agent_core::buffer::{PacketBuf, capacity_for};
use weft_agent_core::datapath::{PacketError, RouteTable, RoutesFull};
use weft_agent_core::event::{DropReason, PeerSlot};
use weft_agent_core::filter::Masks;
use weft_agent_core::ip::icmp::Problem;
use weft_agent_core::time::{Duration, Instant};
use weft_sim::world::Node as _;
use weft_wire::map::Prefix;

const SLOT: PeerSlot = PeerSlot(0);

fn v4(octets: [u8; 4], len: u8) -> Prefix {
    Prefix::V4(octets.into(), len)
}

/// Whether an address lies in a prefix, bit by bit.
fn contains(prefix: &Prefix, address: IpAddr) -> Option<u8> {
    let (network, address, bits, len) = match (prefix, address) {
        (Prefix::V4(network, len), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32, *len)
        }
        (Prefix::V6(network, len), IpAddr::V6(address)) => {
            (network.to_bits(), address.to_bits(), 128, *len)
        }
        _ => return None,
    };
    let same = (0..len).all(|bit| {
        let shift = bits - 1 - u32::from(bit);
        network >> shift & 1 == address >> shift & 1
    });
    same.then_some(len)
}

fn prefix() -> impl Strategy<Value = Prefix> {
    // Few distinct bits, so that prefixes nest.
    let v4 = (any::<[bool; 4]>(), 0u8..=32)
        .prop_map(|(bits, len)| v4(bits.map(|bit| if bit { 0xA5 } else { 0xA4 }), len));
    let v6 = (any::<[bool; 8]>(), 0u8..=128).prop_map(|(bits, len)| {
        let segments = bits.map(|bit| if bit { 0xFD00 } else { 0xFD01 });
        Prefix::V6(segments.into(), len)
    });
    prop_oneof![v4, v6]
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<[bool; 4]>()
        .prop_map(|bits| IpAddr::from(bits.map(|bit| if bit { 0xA5u8 } else { 0xA4 })));
    let v6 = any::<[bool; 8]>()
        .prop_map(|bits| IpAddr::from(bits.map(|bit| if bit { 0xFD00u16 } else { 0xFD01 })));
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn the_longest_prefix_wins_as_in_a_plain_list(
        routes in proptest::collection::vec((prefix(), 0u16..6), 0..40),
        removed in 0u16..6,
        addresses in proptest::collection::vec(address(), 1..30),
    ) {
        let mut table = RouteTable::<64>::new();
        let mut list: Vec<(Prefix, PeerSlot)> = Vec::new();
        for (prefix, slot) in routes {
            table.insert(prefix, PeerSlot(slot)).expect("there is room");
            // The same network again takes it over.
            let network = match prefix {
                Prefix::V4(network, _) => IpAddr::V4(network),
                Prefix::V6(network, _) => IpAddr::V6(network),
            };
            let len = |prefix: &Prefix| match prefix { Prefix::V4(_, len) | Prefix::V6(_, len) => *len };
            list.retain(|(old, _)| len(old) != len(&prefix) || contains(old, network).is_none());
            list.push((prefix, PeerSlot(slot)));
        }
        table.remove(PeerSlot(removed));
        list.retain(|(_, slot)| *slot != PeerSlot(removed));
        for address in addresses {
            let expected = list
                .iter()
                .filter_map(|(prefix, slot)| contains(prefix, address).map(|len| (len, *slot)))
                .max_by_key(|(len, _)| *len)
                .map(|(_, slot)| slot);
            prop_assert_eq!(table.lookup(address), expected, "{}", address);
        }
    }
}

#[test]
fn routes_have_a_bound() {
    let mut table = RouteTable::<2>::new();
    assert_eq!(table.insert(v4([10, 0, 0, 0], 8), SLOT), Ok(()));
    assert_eq!(table.insert(v4([11, 0, 0, 0], 8), SLOT), Ok(()));
    assert_eq!(table.insert(v4([12, 0, 0, 0], 8), SLOT), Err(RoutesFull));
    assert_eq!(table.insert(v4([10, 9, 9, 9], 8), PeerSlot(1)), Ok(()), "the same network");
    let six = Prefix::V6(Ipv6Addr::LOCALHOST, 200);
    assert_eq!(table.insert(six, SLOT), Ok(()), "IPv6 has its own room");
    assert_eq!(table.lookup(Ipv6Addr::LOCALHOST.into()), Some(SLOT));
    assert_eq!(table.lookup(IpAddr::from([10, 1, 2, 3])), Some(PeerSlot(1)));
    assert_eq!(table.lookup(IpAddr::from([12, 1, 2, 3])), None);
}

/// Hands a packet to node 1's data path.
fn hand(world: &mut World, packet: &[u8]) -> Result<usize, PacketError> {
    let mut bytes = [0; capacity_for(MTU + 600)];
    let mut buffer = PacketBuf::copy_from(&mut bytes, packet).expect("it fits");
    let now = world.now;
    let result = world.a().datapath.handle_packet(&mut buffer, now);
    if result.is_err() {
        assert_eq!(buffer.packet(), packet, "the packet is as it was");
    }
    result.map(|sealed| sealed.len)
}

#[test]
fn checks_come_in_order_and_are_counted() {
    let mut world = World::pair(1);
    let good = udp(overlay(1), overlay(2), b"x");
    let dropped = |reason| Err(PacketError::Dropped(reason));
    assert_eq!(hand(&mut world, b"no packet"), dropped(DropReason::MalformedPacket));
    let elsewhere = udp(overlay(1), Ipv4Addr::new(10, 0, 0, 1), b"x");
    assert_eq!(hand(&mut world, &elsewhere), dropped(DropReason::NoRoute));
    assert_eq!(hand(&mut world, &good), Err(PacketError::NoSession { slot: SLOT }));
    let big = udp(overlay(1), overlay(2), &[0; 1_300]);
    assert_eq!(hand(&mut world, &big), Err(PacketError::TooBig { slot: SLOT, mtu: 1280 }));
    world.a().datapath.set_peer(SLOT, 1280, Masks::default());
    assert_eq!(hand(&mut world, &big), dropped(DropReason::Denied));
    world.a().datapath.set_peer(SLOT, 1280, ALL);

    assert_eq!(
        world.a().datapath.drops().iter().collect::<Vec<_>>(),
        [
            (DropReason::MalformedPacket, 1),
            (DropReason::Denied, 1),
            (DropReason::NoRoute, 1),
            (DropReason::TooBig, 1)
        ]
    );
    assert_eq!(world.a().datapath.counters(SLOT).sent_packets, 0);
}

#[test]
fn problems_are_told_where_somebody_can_act() {
    let problem = |error: PacketError| error.problem();
    let too_big = PacketError::TooBig { slot: SLOT, mtu: 1280 };
    assert_eq!(problem(too_big), Some(Problem::TooBig { mtu: 1280 }));
    let dropped = PacketError::Dropped;
    assert_eq!(problem(dropped(DropReason::DeniedByPeer)), Some(Problem::Prohibited));
    assert_eq!(problem(dropped(DropReason::NoRoute)), Some(Problem::Unreachable));
    assert_eq!(problem(dropped(DropReason::MalformedPacket)), None);
    assert_eq!(problem(PacketError::NoSession { slot: SLOT }), None);
}

#[test]
fn the_smaller_mtu_of_both_sides_counts() {
    let mut world = World::pair(2);
    connect(&mut world);
    let exactly = |len: usize| udp(overlay(1), overlay(2), &vec![0; len - 28]);
    world.a().datapath.set_peer(SLOT, 1_000, ALL);
    assert!(hand(&mut world, &exactly(1_000)).is_ok());
    assert!(hand(&mut world, &exactly(1_001)).is_err());
    world.a().datapath.set_mtu(900);
    assert!(hand(&mut world, &exactly(900)).is_ok());
    let error = hand(&mut world, &exactly(901));
    assert_eq!(error, Err(PacketError::TooBig { slot: SLOT, mtu: 900 }));
    // Padding stops at the MTU, so the datagram never exceeds it either.
    assert_eq!(hand(&mut world, &exactly(897)), Ok(900 + 32));
    assert_eq!(hand(&mut world, &exactly(33)), Ok(48 + 32));
}

#[test]
fn bytes_behind_the_packet_are_not_sent() {
    let mut world = World::pair(3);
    connect(&mut world);
    let mut packet = udp(overlay(1), overlay(2), b"payload");
    packet.extend_from_slice(b"left over from the last packet");
    world.a().datapath.set_mtu(1_280);
    let now = world.now;
    world.a().send_packet(&packet, now);
    world.collect();
    world.run(Duration::from_secs(1));
    assert_eq!(world.b().delivered, [b"payload"]);
    let counters = world.b().datapath.counters(SLOT);
    assert_eq!((counters.received_packets, counters.received_bytes), (2, 33 + 35));
}

#[test]
fn inner_packets_that_lie_are_dropped_after_authentication() {
    // Node 1 does not look at its own source addresses: the check is node 2's.
    let mut world = World::pair(4);
    connect(&mut world);
    let spoofed = udp(overlay(9), overlay(2), b"not mine");
    let now = world.now;
    world.a().send_packet(&spoofed, now);
    world.collect();
    world.run(Duration::from_secs(1));
    assert_eq!(world.b().refused, [DropReason::SourceAddress]);
    world.b().datapath.clear_rules();
    world.send(0, 2, b"no rules");
    world.run(Duration::from_secs(1));
    assert_eq!(world.b().refused, [DropReason::SourceAddress, DropReason::Denied]);
    assert!(world.b().delivered.is_empty());
    assert_eq!(world.b().datapath.drops().total(), 2);
}

#[test]
fn a_removed_peer_leaves_nothing() {
    let mut world = World::pair(5);
    connect(&mut world);
    let last = world.log.iter().rfind(|flight| flight.from == underlay(1)).cloned();
    world.b().tunnel.remove_peer(SLOT);
    world.b().datapath.remove_peer(SLOT);
    let now = world.now;
    world.b().drain(now);
    let bytes = last.expect("a datagram").bytes;
    world.b().handle_datagram(underlay(1), &bytes, now);
    assert_eq!(world.b().refused, [DropReason::UnknownIndex]);
    assert_eq!(world.b().datapath.route(overlay(1).into()), None);
    assert!(!world.b().datapath.has_session(SLOT, now));
    assert_eq!(world.b().poll_timeout(), None);
    // And comes back as a stranger.
    world.b().add_peer(0, 1, 7, now);
    world.run(Duration::from_secs(10));
    world.send(1, 1, b"again");
    world.run(Duration::from_secs(1));
    assert_eq!(world.a().delivered, [b"again"]);
}

#[test]
fn a_keepalive_needs_a_session_and_asks_for_none() {
    let mut node = Node::new(1, 9);
    node.add_peer(0, 2, 7, Instant::ZERO);
    let mut out = [0; 32];
    assert!(node.datapath.handle_keepalive(SLOT, &mut out, Instant::ZERO).is_none());
    assert!(node.datapath.handle_keepalive(PeerSlot(99), &mut out, Instant::ZERO).is_none());
    assert!(node.datapath.poll_activity().is_none());
}

/// The peer's handshake may come where nothing that we send gets through.
#[test]
fn an_initiation_answers_no_packet_and_the_first_of_its_session_does() {
    let mut world = World::pair(8);
    connect(&mut world);
    world.run(Duration::from_secs(20));
    let now = world.now;
    let waits = |world: &mut World| world.a().datapath.activity(SLOT).first_unanswered_at;
    assert!(hand(&mut world, &udp(overlay(1), overlay(2), b"x")).is_ok());
    assert_eq!(waits(&mut world), Some(now));
    world.b().tunnel.handle_wanted(SLOT, now);
    world.b().handle_timeout(now);
    let (_, initiation) = world.b().poll_transmit().expect("an initiation");
    world.a().handle_datagram(underlay(2), &initiation, now);
    assert_eq!(waits(&mut world), Some(now), "it says nothing of our packet");
    world.a().handle_timeout(now);
    let (_, response) = world.a().poll_transmit().expect("a response");
    world.b().handle_datagram(underlay(1), &response, now);
    let (_, first) = world.b().poll_transmit().expect("the first packet");
    world.a().handle_datagram(underlay(2), &first, now);
    assert_eq!(waits(&mut world), None);
}

#[test]
fn slots_beyond_the_table_are_nobody() {
    let mut node = Node::new(1, 10);
    let beyond = PeerSlot(u16::MAX);
    node.datapath.set_peer(beyond, 1_280, ALL);
    node.datapath.set_endpoint(beyond, None);
    assert_eq!(node.datapath.set_routes(beyond, [v4([10, 0, 0, 0], 8)]), Ok(()));
    assert_eq!(node.datapath.route(IpAddr::from([10, 0, 0, 1])), None);
    node.datapath.mute(beyond);
    node.datapath.seal_with(beyond, 7);
    node.datapath.drop_session(beyond, 7);
    node.datapath.remove_peer(beyond);
    assert_eq!(node.datapath.counters(beyond).sent_packets, 0);
}

#[test]
fn steady_traffic_makes_few_edges() {
    let mut world = World::pair(6);
    connect(&mut world);
    let mut edges = 0;
    // 100 packets a second each way for a minute, read as an agent would.
    for _ in 0..6_000 {
        for from in [0, 1] {
            let now = world.now;
            let packet = udp(overlay(1 + from as u8), overlay(2 - from as u8), b"x");
            let mut bytes = [0; capacity_for(MTU)];
            let mut buffer = PacketBuf::copy_from(&mut bytes, &packet).expect("it fits");
            let node = &mut world.nodes[from];
            let sealed = node.datapath.handle_packet(&mut buffer, now).expect("a session");
            let datagram = buffer.datagram(sealed.len).to_vec();
            while let Some((slot, activity)) = node.datapath.poll_activity() {
                edges += 1;
                node.tunnel.handle_activity(slot, &activity, now);
            }
            world.nodes[1 - from].handle_datagram(underlay(1 + from as u8), &datagram, now);
        }
        world.run(Duration::from_millis(10));
    }
    assert_eq!(world.b().delivered.len(), 6_000);
    // At most one whenever nothing was waited for: about every 10 s per side.
    assert!(edges <= 30, "{edges}");
}

#[test]
fn a_session_that_should_be_replaced_says_so_once() {
    let mut world = World::pair(7);
    connect(&mut world);
    world.run(Duration::from_secs(125));
    let mut told = 0;
    for _ in 0..100 {
        let packet = udp(overlay(1), overlay(2), b"x");
        assert!(hand(&mut world, &packet).is_ok());
        while let Some((_, activity)) = world.a().datapath.poll_activity() {
            told += u32::from(activity.edges.rekey_due.is_some());
        }
    }
    assert_eq!(told, 1);
}

#[test]
fn nothing_is_opened_after_180_s() {
    for (age, delivered) in [(179, 1), (181, 0)] {
        let mut world = World::pair(8);
        connect(&mut world);
        let now = world.now;
        world.a().send(2, b"held back", now);
        let (_, held) = world.a().out.pop_front().expect("a datagram");
        // The session is 2 s old.
        world.run(Duration::from_secs(age - 2));
        let now = world.now;
        world.b().handle_datagram(underlay(1), &held, now);
        assert_eq!(world.b().delivered.len(), delivered, "at {age} s");
        assert_eq!(world.b().refused.contains(&DropReason::Expired), delivered == 0);
    }
}
