//! Mistakes that other WireGuard implementations made in handshakes and under
//! floods, each a test. Numbers are those of the project's list; what concerns
//! one packet or one handshake is tested in `weft-noise`, what needs another
//! implementation with the oracles.
#![allow(missing_docs, reason = "a test")]

mod support;

use std::net::SocketAddr;

use support::{Flight, Node, World, capture, connect, stranger, underlay};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::event::{DropReason, PeerSlot};
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::{Event, KeyRole, PeerKeys, SecondPeerKey, Tai64nClock};
use weft_sim::Rng;
use weft_wire::id::Secret;

const SLOT: PeerSlot = PeerSlot(0);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn regression_07_a_device_without_a_clock_is_heard_after_each_of_100_reboots() {
    let mut world = World::pair(7);
    let mut floor = 0;
    for boot in 0..100u8 {
        let mut clock = Tai64nClock::new(Some(floor));
        // Written, then power goes in every third boot before it is used.
        floor = clock.poll_persist().expect("a reservation comes first");
        if boot % 3 == 2 {
            continue;
        }
        clock.handle_persisted(floor);
        let mut rebooted = Node::with_clock(1, 7_000 + u64::from(boot), clock, TunnelConfig::new());
        rebooted.add_peer(0, 2, 7, world.now);
        world.nodes[0] = rebooted;
        world.b().delivered.clear();
        world.send(0, 2, &[boot]);
        world.run(secs(2));
        assert_eq!(world.b().delivered, [[boot]], "boot {boot}");
    }
}

/// Feeds initiations with the right mac1 from ever new addresses to node 2,
/// all within one instant; gives the cookie replies.
fn flood(world: &mut World, count: u64) -> Vec<(SocketAddr, Vec<u8>)> {
    let capture = capture(1).remove(0);
    let now = world.now;
    for number in 0..count {
        world.b().handle_datagram(stranger(number), &capture, now);
    }
    let out = std::mem::take(&mut world.b().out);
    out.into_iter().filter(|(_, bytes)| bytes[0] == 3).collect()
}

#[test]
fn regression_08_a_flood_is_answered_with_cookies() {
    let mut world = World::pair(8);
    let cookies = flood(&mut world, 1_000);
    assert!(cookies.len() > 900, "{}", cookies.len());
    assert!(cookies.iter().all(|(_, bytes)| bytes.len() == 64));
    assert_eq!(u64::from(world.b().tunnel.drops().get(DropReason::UnderLoad)), 996);
}

#[test]
fn regression_09_a_cookie_goes_to_the_address_that_asked() {
    let mut world = World::pair(9);
    let cookies = flood(&mut world, 300);
    for (number, (to, _)) in cookies.iter().enumerate() {
        assert_eq!(*to, stranger(number as u64 + 4));
    }
    // IPv6, another socket: the same.
    let capture = capture(1).remove(0);
    let address: SocketAddr = "[2001:db8::7]:9".parse().unwrap();
    let now = world.now;
    world.b().handle_datagram(address, &capture, now);
    assert_eq!(world.b().out.pop_back().map(|(to, bytes)| (to, bytes[0])), Some((address, 3)));
}

#[test]
fn regression_10_a_cookie_of_one_port_is_no_cookie_of_another() {
    let mut world = World::pair(10);
    flood(&mut world, 100);
    // Node 1's initiation is answered by a cookie; the next one carries mac2.
    world.send(0, 2, b"x");
    world.run(millis(100));
    flood(&mut world, 100);
    world.run(secs(5));
    flood(&mut world, 100);
    let proven = world.log.iter().rev().find(|flight| flight.kind() == 1).cloned();
    let proven = proven.expect("an initiation was repeated");
    assert_ne!(proven.bytes[132..], [0; 16], "it carries mac2");
    assert_refused_by_mac2(&mut world, 1, &proven);
    let mut neighbour = proven.from;
    neighbour.set_port(proven.from.port() + 1);
    let now = world.now;
    world.b().handle_datagram(neighbour, &proven.bytes, now);
    assert_eq!(world.b().refused.last(), Some(&DropReason::UnderLoad));
}

#[test]
fn regression_11_a_flood_does_not_keep_others_out() {
    let mut world = World::pair(11);
    world.send(0, 2, b"through the flood");
    let capture = capture(1).remove(0);
    // 10,000 a second from ever new addresses, for 20 s.
    for tick in 0..20_000u64 {
        let now = world.now;
        for number in 0..10 {
            world.b().handle_datagram(stranger(tick * 10 + number), &capture, now);
        }
        world.b().out.retain(|(to, _)| *to == underlay(1));
        world.collect();
        world.run(millis(1));
        if !world.b().delivered.is_empty() {
            break;
        }
    }
    assert_eq!(world.b().delivered, [b"through the flood"]);
    let waited = world.now.since(Instant::from_secs(1_000));
    assert!(waited < secs(6), "one cookie and one repetition: {waited:?}");
}

#[test]
fn regression_11_a_known_peer_needs_no_cookie_in_a_flood() {
    let mut world = World::pair(110);
    connect(&mut world);
    // Node 1 forgets its sessions and comes back from the same address.
    let mut clock = Tai64nClock::new(Some(1 << 20));
    let floor = clock.poll_persist().unwrap();
    clock.handle_persisted(floor);
    let mut rebooted = Node::with_clock(1, 111, clock, TunnelConfig::new());
    rebooted.add_peer(0, 2, 7, world.now);
    world.nodes[0] = rebooted;
    flood(&mut world, 1_000);
    let began = world.now;
    world.send(0, 2, b"back");
    world.run(secs(1));
    assert_eq!(world.b().delivered, [b"back"]);
    assert!(world.now.since(began) <= secs(1));
}

#[test]
fn regression_12_slow_handshakes_never_cost_a_cookie() {
    let mut world = World::pair(12);
    for round in 0..10_000u32 {
        // Each handshake starts anew: the peer restarts every 10 s.
        world.a().tunnel.remove_peer(SLOT);
        let now = world.now;
        world.a().add_peer(0, 2, 7, now);
        world.send(0, 2, &round.to_le_bytes());
        world.run(secs(10));
        world.log.retain(|flight| flight.kind() == 3);
    }
    assert_eq!(world.b().delivered.len(), 10_000);
    assert_eq!(world.sent(3), 0);
}

#[test]
fn regression_13_a_cookie_reply_moves_no_endpoint_and_stops_no_timer() {
    let mut world = World::pair(13);
    // Node 2 is loaded, so node 1 gets a genuine cookie reply...
    flood(&mut world, 100);
    world.gate = Box::new(|flight| {
        if flight.kind() == 3 {
            // ...which arrives from somewhere else.
            flight.from = stranger(99);
        }
        flight.kind() != 2
    });
    world.send(0, 2, b"x");
    world.run(secs(4));
    assert_eq!(world.sent(3), 1);
    assert_eq!(world.a().endpoints[0], Some(underlay(2)));
    assert!(world.a().events.is_empty());
    assert_eq!(world.sent_by(0, 1), 1);
    world.run(secs(2));
    assert_eq!(world.sent_by(0, 1), 2, "the timer ran on");
    let repeated = world.log.iter().rfind(|flight| flight.kind() == 1).unwrap();
    assert_ne!(repeated.bytes[132..], [0; 16], "with mac2");
}

#[test]
fn regression_15_garbage_before_the_response_does_no_harm() {
    let mut world = World::pair(15);
    world.gate = Box::new(|flight| flight.kind() != 2);
    world.send(0, 2, b"x");
    world.run(millis(50));
    let response = world.log.iter().find(|flight| flight.kind() == 2).cloned().unwrap();
    let now = world.now;
    for at in [12, 44, 60] {
        let mut forged = response.bytes.clone();
        forged[at] ^= 1;
        world.a().handle_datagram(stranger(1), &forged, now);
    }
    assert!(world.a().events.is_empty());
    world.a().handle_datagram(response.from, &response.bytes, now);
    assert!(matches!(world.a().events[0], Event::Established { initiator: true, .. }));
}

/// Answers to the newest initiation of node 1 by somebody who knows both public
/// keys and not the PSK: mac1 is right, the rest is not.
fn forge_responses(world: &mut World, count: u64) {
    let initiation = world.log.iter().rev().find(|flight| flight.kind() == 1).cloned();
    let (initiation, now) = (initiation.expect("an initiation"), world.now);
    for forger in 0..count {
        let mut node = Node::new(2, 151 + forger);
        node.add_peer(0, 1, 99, now);
        node.handle_datagram(underlay(1), &initiation.bytes, now);
        node.handle_timeout(now);
        let (_, forged) = node.out.pop_front().expect("a response");
        world.a().handle_datagram(stranger(1), &forged, now);
        let expected = if forger < 4 { DropReason::Unauthentic } else { DropReason::UnderLoad };
        assert_eq!(world.a().refused.pop(), Some(expected));
    }
}

#[test]
fn regression_15_a_stream_of_wrong_responses_is_asked_for_a_cookie() {
    let mut world = World::pair(150);
    world.gate = Box::new(|flight| flight.kind() != 2);
    world.send(0, 2, b"x");
    world.run(millis(20));
    forge_responses(&mut world, 6);
    // The genuine responder hears the cookie and repeats with mac2.
    let genuine = world.log.iter().rev().find(|flight| flight.kind() == 2).cloned().unwrap();
    let now = world.now;
    world.a().handle_datagram(genuine.from, &genuine.bytes, now);
    world.collect();
    world.run(secs(6));
    // Under a stream of wrong ones again, no bit of mac2 can be another.
    forge_responses(&mut world, 6);
    let proven = world.log.iter().rev().find(|flight| flight.kind() == 2).cloned().unwrap();
    assert_refused_by_mac2(&mut world, 0, &proven);
    world.gate = Box::new(|_| true);
    let now = world.now;
    world.a().handle_datagram(proven.from, &proven.bytes, now);
    world.collect();
    world.run(secs(1));
    assert_eq!(world.b().delivered, [b"x"]);
}

/// Under load a handshake message is refused when any bit of its mac2 is not
/// the right one.
fn assert_refused_by_mac2(world: &mut World, node: usize, proven: &Flight) {
    let (now, len) = (world.now, proven.bytes.len());
    assert_ne!(proven.bytes[len - 16..], [0; 16], "it carries mac2");
    for bit in (len - 16) * 8..len * 8 {
        let mut flipped = proven.bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        world.nodes[node].handle_datagram(proven.from, &flipped, now);
        assert_eq!(world.nodes[node].refused.last(), Some(&DropReason::UnderLoad), "bit {bit}");
        world.nodes[node].refused.clear();
    }
}

#[test]
fn regression_16_a_round_trip_of_2_s_is_a_handshake() {
    let mut world = World::pair(16);
    world.latency = secs(1);
    world.send(0, 2, b"slow");
    world.run(secs(4));
    assert_eq!(world.b().delivered, [b"slow"]);
    assert_eq!(world.sent(1), 1);
}

#[test]
fn regression_17_crossed_handshakes_converge() {
    for seed in 0..300u64 {
        let mut world = World::pair(1_700 + 2 * seed);
        let mut rng = Rng::new(seed);
        world.latency = millis(1 + rng.below(200));
        world.send(0, 2, b"a");
        world.run(Duration::from_micros(rng.below(150_000)));
        world.send(1, 1, b"b");
        world.run(secs(8));
        assert_eq!(world.b().delivered, [b"a"], "seed {seed}");
        assert_eq!(world.a().delivered, [b"b"], "seed {seed}");
        // A packet each way settles which session is used; then both sides use
        // the same one, and one of them has initiated it.
        world.send(0, 2, b"a");
        world.send(1, 1, b"b");
        world.run(secs(1));
        let initiators =
            [0, 1].map(|node| world.nodes[node].tunnel.status(SLOT).unwrap().initiator);
        assert_ne!(initiators[0], initiators[1], "seed {seed}");
    }
}

#[test]
fn regression_27_a_changed_psk_counts_from_the_next_handshake() {
    let mut world = World::pair(27);
    connect(&mut world);
    for psk in 8..30u8 {
        // Next everywhere, then active everywhere, in either order of arrival.
        let first = usize::from(psk % 2);
        for node in [first, 1 - first] {
            let key = Node::key(2 - node as u8);
            let second =
                SecondPeerKey { key, psk: Secret([psk; 32]), role: KeyRole::Next, until: None };
            let keys =
                PeerKeys { second: Some(second), ..PeerKeys::new(key, Secret([psk - 1; 32])) };
            let now = world.now;
            world.nodes[node].set_keys(0, keys, now);
            exchange(&mut world);
        }
        for node in [first, 1 - first] {
            let key = Node::key(2 - node as u8);
            let second = SecondPeerKey {
                key,
                psk: Secret([psk - 1; 32]),
                role: KeyRole::Previous,
                until: None,
            };
            let keys = PeerKeys { second: Some(second), ..PeerKeys::new(key, Secret([psk; 32])) };
            let now = world.now;
            world.nodes[node].set_keys(0, keys, now);
            exchange(&mut world);
        }
    }
    // One side alone with another PSK: no handshake any more.
    let now = world.now;
    world.b().set_keys(0, PeerKeys::new(Node::key(1), Secret([99; 32])), now);
    world.run(secs(600));
    world.send(0, 2, b"never");
    world.run(secs(60));
    assert_eq!(world.b().delivered.len(), 0);
}

/// A new handshake, by the idle time before it, and a packet each way.
fn exchange(world: &mut World) {
    world.run(secs(200));
    world.send(0, 2, b"a");
    world.run(secs(1));
    world.send(1, 1, b"b");
    world.run(secs(1));
    assert_eq!(std::mem::take(&mut world.b().delivered), [b"a"]);
    assert_eq!(std::mem::take(&mut world.a().delivered), [b"b"]);
    assert_eq!(std::mem::take(&mut world.b().refused), []);
    assert_eq!(std::mem::take(&mut world.a().refused), []);
}

#[test]
fn regression_28_indices_are_random_unique_and_freed() {
    let mut world = World::pair(28);
    let mut seen = Vec::new();
    for _ in 0..500 {
        world.send(0, 2, b"x");
        world.run(secs(200));
    }
    for flight in &world.log {
        if matches!(flight.kind(), 1 | 2) {
            seen.push(u32::from_le_bytes(flight.bytes[4..8].try_into().unwrap()));
        }
    }
    assert!(seen.len() >= 1_000);
    // 32 bits, each set about half of the time.
    for bit in 0..32 {
        let set = seen.iter().filter(|index| *index >> bit & 1 == 1).count();
        let share = set as f64 / seen.len() as f64;
        assert!((0.43..0.57).contains(&share), "bit {bit}: {share}");
    }
    let total = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), total, "a repeated index would be a chance of 1 in 8,000");
}
