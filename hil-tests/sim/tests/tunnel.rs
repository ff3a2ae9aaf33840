//! The tunnel's timers, key rotation and stamps on virtual time.
#![allow(missing_docs, reason = "a test")]

mod support;

use support::{Node, World, capture, connect, source, stranger, underlay};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::entropy::Entropy;
use weft_agent_core::event::{DropReason, PeerSlot};
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::{
    Event, Install, KeyRole, PeerKeys, RESERVATION, SecondPeerKey, SetPeerError, Tai64nClock, To,
    Tunnel,
};
use weft_noise::key::StaticSecret;
use weft_sim::Rng;
use weft_wire::id::{PublicKey, Secret};

const SLOT: PeerSlot = PeerSlot(0);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// When node `from` sent datagrams of a type, since the log was last cleared.
fn times(world: &World, from: usize, kind: u8) -> Vec<Instant> {
    let address = world.addresses[from];
    let mine = world.log.iter().filter(|flight| flight.from == address && flight.kind() == kind);
    mine.map(|flight| flight.at - world.latency).collect()
}

#[test]
fn initiations_are_repeated_for_90_s_and_then_given_up() {
    let mut world = World::pair(1);
    world.gate = Box::new(|_| false);
    let began = world.now;
    world.send(0, 2, b"x");
    world.run(secs(200));
    let sent = times(&world, 0, 1);
    for pair in sent.windows(2) {
        let gap = pair[1].since(pair[0]);
        assert!((secs(5)..=millis(5_333)).contains(&gap), "{gap:?}");
    }
    assert!((17..=18).contains(&sent.len()), "{}", sent.len());
    assert!(sent.last().expect("some").since(began) < secs(90));
    assert_eq!(world.a().events, [Event::Failed { slot: SLOT }]);
    assert!(world.a().poll_timeout().is_none(), "nothing is left to do");
    // Jitter: not all gaps are equal.
    let gaps: std::collections::HashSet<_> =
        sent.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert!(gaps.len() > 8);

    // The next packet begins anew, at once.
    world.gate = Box::new(|_| true);
    let began = world.now;
    world.send(0, 2, b"y");
    world.run(secs(1));
    assert_eq!(world.b().delivered, [b"y"]);
    assert!(world.now.since(began) <= secs(1));
}

#[test]
fn a_wanted_packet_prolongs_the_attempt() {
    let mut world = World::pair(2);
    world.gate = Box::new(|_| false);
    for _ in 0..30 {
        world.send(0, 2, b"x");
        world.run(secs(10));
    }
    assert!(world.a().events.is_empty(), "300 s of attempts, always wanted");
    assert!(times(&world, 0, 1).len() >= 55, "and never faster than every 5 s");
    assert!(times(&world, 0, 1).len() <= 60);
}

#[test]
fn after_a_failed_attempt_the_old_session_is_not_sealed_with() {
    let mut world = World::pair(3);
    connect(&mut world);
    world.gate = Box::new(|_| false);
    // 15 s without an answer, then 90 s of attempts and the wait after the last.
    world.send(0, 2, b"lost");
    world.run(secs(112));
    assert!(world.a().events.contains(&Event::Failed { slot: SLOT }));
    let now = world.now;
    assert!(!world.a().datapath.has_session(SLOT, now));
    world.gate = Box::new(|_| true);
    world.send(0, 2, b"new session");
    world.run(secs(1));
    assert_eq!(world.b().delivered, [b"new session"]);
}

#[test]
fn a_passive_keepalive_follows_data_only() {
    let mut world = World::pair(4);
    connect(&mut world);
    world.run(secs(25));
    world.log.clear();
    let began = world.now;
    world.send(0, 2, b"one way");
    world.run(secs(25));
    let keepalives = times(&world, 1, 4);
    assert_eq!(keepalives.len(), 1);
    assert_eq!(keepalives[0].since(began), secs(10) + world.latency);
    assert_eq!(times(&world, 0, 4).len(), 1, "a keepalive is not answered");
    assert_eq!(world.sent(1), 0);
    // What answers in time needs no keepalive.
    world.log.clear();
    world.send(0, 2, b"question");
    world.run(secs(9));
    world.send(1, 1, b"answer");
    world.run(secs(25));
    assert_eq!(times(&world, 1, 4).len(), 1);
    assert_eq!(times(&world, 0, 4).len(), 2, "the answer is data too");
}

#[test]
fn one_way_traffic_is_answered_every_10_s() {
    let mut world = World::pair(5);
    connect(&mut world);
    world.log.clear();
    for _ in 0..100 {
        world.send(0, 2, b"tick");
        world.run(secs(1));
    }
    let keepalives = times(&world, 1, 4).len();
    assert!((8..=10).contains(&keepalives), "{keepalives}");
    assert_eq!(world.sent(1), 0, "so nobody thinks that the peer is gone");
}

#[test]
fn keys_are_erased_after_three_reject_times() {
    let mut world = World::pair(6);
    connect(&mut world);
    let established = world.a().tunnel.status(SLOT).expect("a peer").established_at;
    world.run(secs(537));
    assert_eq!(world.a().tunnel.status(SLOT).expect("a peer").established_at, established);
    world.run(secs(2));
    for node in 0..2 {
        let node = &world.nodes[node];
        assert_eq!(node.tunnel.status(SLOT).expect("a peer").established_at, None);
        assert_eq!(node.events.last(), Some(&Event::Expired { slot: SLOT }));
        assert_eq!(node.poll_timeout(), None);
    }
    // Their index is free: old datagrams find nothing.
    let old = world.log.iter().rfind(|flight| flight.kind() == 4).cloned().expect("data");
    let now = world.now;
    let position = world.addresses.iter().position(|address| *address == old.to).expect("a node");
    world.nodes[position].handle_datagram(old.from, &old.bytes, now);
    assert_eq!(world.nodes[position].refused, [DropReason::UnknownIndex]);
}

#[test]
fn a_newly_opened_path_repeats_the_initiation() {
    let mut world = World::pair(7);
    world.a().endpoints[0] = None;
    world.send(0, 2, b"x");
    world.run(millis(900));
    assert_eq!(world.sent(1), 0, "sent to nowhere");
    world.a().endpoints[0] = Some(underlay(2));
    let now = world.now;
    world.a().tunnel.handle_path(SLOT, now);
    world.a().drain(now);
    world.run(millis(100));
    assert_eq!(world.b().delivered, [b"x"]);
    // Not faster than 250 ms, and only while a handshake is wanted.
    world.log.clear();
    for _ in 0..50 {
        let now = world.now;
        world.a().tunnel.handle_path(SLOT, now);
        world.run(millis(20));
    }
    assert_eq!(world.sent(1), 0);
    world.gate = Box::new(|_| false);
    world.run(secs(600));
    world.send(0, 2, b"y");
    world.log.clear();
    for _ in 0..50 {
        let now = world.now;
        world.a().tunnel.handle_path(SLOT, now);
        world.run(millis(20));
    }
    assert!((3..=5).contains(&world.sent(1)), "{}", world.sent(1));
}

#[test]
fn initiations_of_one_peer_are_20_ms_apart() {
    let mut node = Node::new(2, 8);
    node.add_peer(0, 1, 7, Instant::ZERO);
    let now = Instant::from_secs(9_000);
    let initiations = capture(4);
    for (initiation, at) in initiations.iter().zip([0, 19, 20, 41]) {
        let now = now + millis(at);
        node.handle_datagram(underlay(1), initiation, now);
        node.handle_timeout(now);
    }
    assert_eq!(node.tunnel.drops().get(DropReason::RateLimited), 1);
    assert_eq!(node.out.iter().filter(|(_, bytes)| bytes[0] == 2).count(), 3);
}

#[test]
fn timestamps_rise_strictly_per_peer() {
    let mut node = Node::new(2, 9);
    node.add_peer(0, 1, 7, Instant::ZERO);
    let mut now = Instant::from_secs(9_000);
    let initiations = capture(4);
    for position in [1, 1, 0, 2, 1, 3, 3] {
        now += secs(1);
        node.handle_datagram(underlay(1), &initiations[position], now);
        node.handle_timeout(now);
    }
    assert_eq!(node.tunnel.drops().get(DropReason::Timestamp), 4);
    // The floor carries over a rotation of the peer's keys.
    let keys = |first: u8, second: u8, role| PeerKeys {
        second: Some(SecondPeerKey {
            key: Node::key(second),
            psk: Secret([7; 32]),
            role,
            until: None,
        }),
        ..PeerKeys::new(Node::key(first), Secret([7; 32]))
    };
    node.set_keys(0, keys(1, 5, KeyRole::Next), now);
    node.set_keys(0, keys(5, 1, KeyRole::Previous), now);
    now += secs(1);
    node.handle_datagram(underlay(1), &initiations[3], now);
    node.handle_timeout(now);
    assert_eq!(node.tunnel.drops().get(DropReason::Timestamp), 5);
}

#[test]
fn no_stamp_no_handshake() {
    let clock = Tai64nClock::new(None);
    let mut node = Node::with_clock(1, 10, clock, TunnelConfig::new());
    node.add_peer(0, 2, 7, Instant::ZERO);
    let mut now = Instant::from_secs(50);
    node.send(2, b"x", now);
    for _ in 0..100 {
        now += secs(1);
        node.handle_timeout(now);
    }
    assert!(node.out.is_empty(), "the floor is lost and no time is known");
    assert!(node.poll_timeout().is_none(), "and nothing spins");
    node.tunnel.set_time(1_790_000_000_000, now);
    node.drain(now);
    node.handle_timeout(now);
    assert_eq!(node.out.len(), 1);
}

#[test]
fn a_used_up_reservation_holds_the_handshake_until_it_is_written() {
    let clock = Tai64nClock::new(Some(0));
    let secret = Node::secret(1);
    let mut tunnel = Box::new(Tunnel::<2>::new(TunnelConfig::new(), secret, clock));
    let keys = PeerKeys::new(Node::key(2), Secret([7; 32]));
    let now = Instant::from_secs(5);
    tunnel.set_peer(SLOT, keys, now).expect("a good key");
    tunnel.handle_wanted(SLOT, now);
    let mut rng = Rng::new(11);
    tunnel.handle_timeout(&mut rng, now);
    let mut out = [0; 148];
    assert!(tunnel.poll_transmit(&mut out).is_none());
    let floor = tunnel.poll_persist();
    assert_eq!(floor, Some(RESERVATION));
    tunnel.handle_persisted(RESERVATION, now);
    assert_eq!(tunnel.poll_timeout().map(|(at, _)| at), Some(now));
    tunnel.handle_timeout(&mut rng, now);
    assert!(tunnel.poll_transmit(&mut out).is_some());
}

#[test]
fn rekey_after_is_adjustable_for_tests() {
    let config = TunnelConfig::new().with_rekey_after(secs(10));
    let mut world = World::pair(12);
    world.nodes[0] = Node::with_clock(1, 12, Tai64nClock::new(Some(0)), config);
    world.a().add_peer(0, 2, 7, Instant::ZERO);
    for _ in 0..1_000 {
        world.send(0, 2, b"x");
        world.run(millis(100));
    }
    let handshakes = world.sent(1);
    assert!((9..=10).contains(&handshakes), "{handshakes}");
    assert_eq!(world.b().delivered.len(), 1_000, "and no packet is lost over it");
}

#[test]
fn a_lost_confirmation_is_made_up_for() {
    // The initiator's first packet is lost: the responder may not use the
    // session, and with data of its own it initiates itself.
    let mut world = World::pair(13);
    world.gate = Box::new(|flight| flight.kind() != 4);
    world.send(0, 2, b"lost");
    world.run(millis(100));
    world.gate = Box::new(|_| true);
    world.send(1, 1, b"mine");
    world.run(secs(1));
    assert_eq!(world.a().delivered, [b"mine"]);
    world.send(0, 2, b"now");
    world.run(secs(1));
    assert_eq!(world.b().delivered, [b"now"]);
}

/// Node 1's own second key, as node 2 knows it.
fn other_key() -> (StaticSecret, PublicKey) {
    let secret = StaticSecret::from_bytes([201; 32]);
    let public = secret.public();
    (secret, public)
}

/// What node 2 knows of node 1 at one step of the rotation of node 1's key.
fn rotation_keys(next_is_active: bool, with_second: bool) -> PeerKeys {
    let (old, new) = (Node::key(1), other_key().1);
    let (first, second, role) =
        if next_is_active { (new, old, KeyRole::Previous) } else { (old, new, KeyRole::Next) };
    let second = with_second.then_some(SecondPeerKey {
        key: second,
        psk: Secret([7; 32]),
        role,
        until: None,
    });
    PeerKeys { bound: true, second, ..PeerKeys::new(first, Secret([7; 32])) }
}

/// Two nodes whose PSKs are bound to their keys.
fn bound_pair(seed: u64) -> World {
    let mut world = World::pair(seed);
    let now = world.now;
    let of_two = PeerKeys { bound: true, ..PeerKeys::new(Node::key(2), Secret([7; 32])) };
    world.a().set_keys(0, of_two, now);
    world.b().set_keys(0, rotation_keys(false, false), now);
    world
}

/// Node 1's keys at one step of its rotation.
fn set_own_keys(node: &mut Node, next_is_active: bool, with_second: bool, now: Instant) {
    let (old, new) = (Node::secret(1), other_key().0);
    let (first, second, role) =
        if next_is_active { (new, old, KeyRole::Previous) } else { (old, new, KeyRole::Next) };
    node.tunnel.set_own_keys(first, with_second.then_some((second, role)), now);
    node.drain(now);
}

/// New handshakes in both directions work at this moment.
fn both_directions(world: &mut World) {
    for from in [0, 1] {
        world.run(secs(600));
        world.send(from, 2 - from as u8, b"x");
        world.run(secs(12));
        assert_eq!(std::mem::take(&mut world.nodes[1 - from].delivered), [b"x"], "from {from}");
        assert_eq!(std::mem::take(&mut world.nodes[1 - from].refused), []);
    }
}

#[test]
fn an_own_key_rotates_whatever_the_order_of_the_messages() {
    // After the announcement either side may hear of the activation first.
    for first in [0, 1] {
        let mut world = bound_pair(14);
        both_directions(&mut world);
        let now = world.now;
        set_own_keys(world.a(), false, true, now);
        world.b().set_keys(0, rotation_keys(false, true), now);
        both_directions(&mut world);
        for step in [first, 1 - first] {
            let now = world.now;
            if step == 0 {
                set_own_keys(world.a(), true, true, now);
                assert_eq!(*world.a().tunnel.public_key(), other_key().1);
            } else {
                world.b().set_keys(0, rotation_keys(true, true), now);
            }
            both_directions(&mut world);
        }
        // The old key goes.
        let now = world.now;
        set_own_keys(world.a(), true, false, now);
        world.b().set_keys(0, rotation_keys(true, false), now);
        both_directions(&mut world);
    }
}

#[test]
fn who_did_not_hear_of_a_new_key_is_still_reached() {
    let mut world = bound_pair(18);
    let now = world.now;
    set_own_keys(world.a(), true, true, now);
    world.send(0, 2, b"with the key before");
    world.run(secs(6));
    assert_eq!(world.b().delivered, [b"with the key before"]);
}

#[test]
fn a_rotation_under_traffic_loses_nothing() {
    let mut world = bound_pair(15);
    let (mut sent, mut step) = (0u32, 0);
    for round in 0..6_000u32 {
        if round % 1_000 == 500 {
            let now = world.now;
            let handshakes = world.a().handshakes(0);
            match step {
                0 => {
                    set_own_keys(world.a(), false, true, now);
                    world.b().set_keys(0, rotation_keys(false, true), now);
                }
                1 => {
                    set_own_keys(world.a(), true, true, now);
                    world.run(millis(100));
                    assert_eq!(world.a().handshakes(0), handshakes + 1, "at once");
                }
                2 => world.b().set_keys(0, rotation_keys(true, true), now),
                _ => {
                    set_own_keys(world.a(), true, false, now);
                    world.b().set_keys(0, rotation_keys(true, false), now);
                }
            }
            step += 1;
        }
        world.send(0, 2, &round.to_le_bytes());
        sent += 1;
        world.run(millis(100));
    }
    assert_eq!(world.b().delivered.len() as u32, sent);
    assert!(world.a().handshakes(0) >= 5);
}

#[test]
fn a_session_outlasts_the_key_that_made_it() {
    let mut world = bound_pair(19);
    world.send(0, 2, b"before");
    world.run(secs(1));
    // Two rotations that node 2 hears of while nobody shakes hands.
    let now = world.now;
    world.b().set_keys(0, rotation_keys(false, true), now);
    world.b().set_keys(0, rotation_keys(true, true), now);
    world.b().set_keys(0, rotation_keys(true, false), now);
    world.send(0, 2, b"after");
    world.run(secs(1));
    assert_eq!(world.b().delivered, [&b"before"[..], b"after"]);
    // Somebody else's keys: nothing of it stays.
    let now = world.now;
    world.b().set_keys(0, PeerKeys::new(Node::key(5), Secret([7; 32])), now);
    world.send(0, 2, b"never");
    world.run(secs(1));
    assert_eq!(world.b().delivered.len(), 2);
}

#[test]
fn a_second_key_ends_when_told() {
    let mut world = World::pair(16);
    let (secret, public) = other_key();
    let until = world.now + secs(100);
    let keys = PeerKeys {
        second: Some(SecondPeerKey {
            key: public,
            psk: Secret([7; 32]),
            role: KeyRole::Next,
            until: Some(until),
        }),
        ..PeerKeys::new(Node::key(1), Secret([7; 32]))
    };
    let now = world.now;
    world.b().set_keys(0, keys, now);
    assert_eq!(world.b().tunnel.slot_of(&public), Some(SLOT));
    let before = (Node::secret(1), KeyRole::Previous);
    world.a().tunnel.set_own_keys(secret, Some(before), now);
    world.send(0, 2, b"with the second key");
    world.run(secs(50));
    assert_eq!(world.b().delivered, [b"with the second key"]);
    world.run(secs(51));
    assert_eq!(world.b().tunnel.slot_of(&public), None);
    let now = world.now;
    assert!(!world.b().datapath.has_session(SLOT, now), "its session went with it");
}

#[test]
fn bad_peers_are_refused() {
    let mut node = Node::new(1, 17);
    node.add_peer(0, 2, 7, Instant::ZERO);
    let mut set = |slot, key| {
        let keys = PeerKeys::new(key, Secret([0; 32]));
        node.tunnel.set_peer(PeerSlot(slot), keys, Instant::ZERO)
    };
    assert_eq!(set(8, Node::key(3)), Err(SetPeerError::NoSuchSlot));
    assert_eq!(set(u16::MAX, Node::key(3)), Err(SetPeerError::NoSuchSlot));
    assert_eq!(set(1, PublicKey::ZERO), Err(SetPeerError::WeakKey));
    assert_eq!(set(1, Node::key(1)), Err(SetPeerError::OwnKey));
    assert_eq!(set(1, Node::key(2)), Err(SetPeerError::KeyInUse(SLOT)));
    assert_eq!(set(1, Node::key(3)), Ok(()));
    assert_eq!(set(0, Node::key(2)), Ok(()), "the same again");
    // An initiation for node 2 is nobody else's.
    let mut mirror = Node::new(1, 18);
    mirror.add_peer(0, 2, 7, Instant::ZERO);
    let now = Instant::from_secs(9);
    mirror.handle_datagram(stranger(1), &capture(1)[0], now);
    assert_eq!(mirror.tunnel.drops().get(DropReason::Mac1), 1);
}

#[test]
fn every_peer_is_served_when_all_are_due_at_once() {
    type Many = Tunnel<64>;
    let mut clock = Tai64nClock::new(Some(0));
    let floor = clock.poll_persist().expect("a floor");
    clock.handle_persisted(floor);
    let mut tunnel = Box::new(Many::new(TunnelConfig::new(), Node::secret(1), clock));
    let now = Instant::from_secs(5);
    for slot in 0..64u16 {
        let keys = PeerKeys::new(Node::key(slot as u8 + 2), Secret([7; 32]));
        tunnel.set_peer(PeerSlot(slot), keys, now).expect("a good key");
        tunnel.handle_wanted(PeerSlot(slot), now);
    }
    let mut rng = Rng::new(18);
    let (mut sent, mut calls, mut out) = (0, 0, [0; 148]);
    while tunnel.poll_timeout().is_some_and(|(at, _)| at <= now) {
        tunnel.handle_timeout(&mut rng, now);
        while tunnel.poll_transmit(&mut out).is_some() {
            sent += 1;
        }
        calls += 1;
        assert!(calls <= 64);
    }
    assert_eq!(sent, 64);
}

/// Eight peers that are wanted at once, of which the first `silent` do not answer, and two
/// places: when each of the others was answered. Nobody is asked twice within five seconds.
fn takes_turns(silent: u16) -> Vec<Duration> {
    type Few = Tunnel<8, 2>;
    let mut clock = Tai64nClock::new(Some(0));
    let floor = clock.poll_persist().expect("a floor");
    clock.handle_persisted(floor);
    let mut tunnel = Box::new(Few::new(TunnelConfig::new(), Node::secret(1), clock));
    let start = Instant::from_secs(5);
    let mut nodes = Vec::new();
    for slot in 0..8u16 {
        let keys = PeerKeys::new(Node::key(slot as u8 + 2), Secret([7; 32]));
        tunnel.set_peer(PeerSlot(slot), keys, start).expect("a good key");
        tunnel.handle_wanted(PeerSlot(slot), start);
        let mut node = Node::new(slot as u8 + 2, u64::from(slot));
        node.add_peer(0, 1, 7, start);
        nodes.push(node);
    }
    let (mut rng, mut out, mut now, mut answered) = (Rng::new(18), [0; 148], start, Vec::new());
    let mut asked = [None; 8];
    while answered.len() < 8 - usize::from(silent) {
        now = now.max(tunnel.poll_timeout().expect("somebody waits").0);
        tunnel.handle_timeout(&mut rng, now);
        while let Some(sent) = tunnel.poll_transmit(&mut out) {
            let To::Peer(slot) = sent.to else { continue };
            let before: Option<Instant> = asked[slot.index()].replace(now);
            assert!(before.is_none_or(|at| now - at >= secs(5)), "{slot:?} again at {now:?}");
            if slot.0 < silent {
                continue;
            }
            let node = &mut nodes[slot.index()];
            node.handle_datagram(underlay(1), &out[..sent.len], now);
            node.handle_timeout(now);
            for (_, message) in std::mem::take(&mut node.out) {
                let from = source(underlay(slot.0 as u8 + 2));
                tunnel.handle_datagram(from, &message, &mut rng, now).expect("an answer");
            }
            while tunnel.poll_install().is_some() {}
        }
        while let Some(event) = tunnel.poll_event() {
            if matches!(event, Event::Established { .. }) {
                answered.push(now - start);
            }
        }
    }
    answered
}

#[test]
fn peers_take_turns_where_there_are_few_places_for_handshakes() {
    assert_eq!(takes_turns(0), [Duration::ZERO; 8], "an answer makes room at once");
    assert_eq!(takes_turns(1), [Duration::ZERO; 7], "one place goes round");
    assert_eq!(takes_turns(2), [secs(1); 6], "who does not answer gives way after a second");
    assert_eq!(takes_turns(3), [secs(1); 5], "one that waited and was asked waits no more");
    assert!(takes_turns(7)[0] <= secs(4));
}

#[test]
fn what_is_not_polled_is_not_lost() {
    // A shell that drains late: ten rekeys without one poll of the installs.
    let mut world = World::pair(19);
    connect(&mut world);
    let now = world.now;
    let mut rng = Rng::new(19);
    for round in 0..10 {
        let now = now + secs(30 * round);
        let initiations = {
            let mut clock = Tai64nClock::new(Some((round + 1) << 24));
            let floor = clock.poll_persist().expect("a floor");
            clock.handle_persisted(floor);
            let mut node = Node::with_clock(1, 190 + round, clock, TunnelConfig::new());
            node.add_peer(0, 2, 7, now);
            node.send(2, b"x", now);
            node.handle_timeout(now);
            std::mem::take(&mut node.out)
        };
        let tunnel = &mut world.nodes[1].tunnel;
        tunnel
            .handle_datagram(source(underlay(1)), &initiations[0].1, &mut rng, now)
            .expect("queued");
        tunnel.handle_timeout(&mut rng, now);
        let mut out = [0; 148];
        assert!(tunnel.poll_transmit(&mut out).is_some());
    }
    let (mut drops, mut sessions) = (0, 0);
    while let Some(install) = world.nodes[1].tunnel.poll_install() {
        match install {
            Install::Drop { .. } => drops += 1,
            Install::Session { .. } => sessions += 1,
            _ => {}
        }
    }
    // Only the newest answer is left beside the session in use; those between
    // never reached the data path.
    assert_eq!((drops, sessions), (0, 1));
}

#[test]
fn random_inputs_in_any_order_break_nothing() {
    let mut rng = Rng::new(20);
    let messages = capture(3);
    let mut node = Node::new(2, 20);
    for _ in 0..20_000 {
        let now = Instant::from_micros(rng.next() >> (20 + rng.below(40)));
        let slot = rng.below(6) as u16;
        match rng.below(9) {
            0 => {
                let key = Node::key(rng.below(5) as u8 + 1);
                let _ =
                    node.tunnel.set_peer(PeerSlot(slot), PeerKeys::new(key, Secret([7; 32])), now);
            }
            1 => node.tunnel.remove_peer(PeerSlot(slot)),
            2 => node.tunnel.handle_wanted(PeerSlot(slot), now),
            3 => node.tunnel.handle_path(PeerSlot(slot), now),
            4 => node.handle_timeout(now),
            5 => {
                let mut message = messages[rng.below(3) as usize].clone();
                let bit = rng.below(message.len() as u64 * 16) as usize;
                if let Some(byte) = message.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                node.handle_datagram(stranger(rng.below(3)), &message, now);
            }
            6 => node.tunnel.handle_persisted(rng.next() >> rng.below(64), now),
            7 => node.tunnel.set_time(rng.next() >> rng.below(64), now),
            _ => {
                let mut edges = weft_agent_core::event::Edges::NONE;
                edges.first_packet = Some((rng.number(), source(stranger(1))));
                edges.rekey_due = Some(rng.number());
                let activity = weft_agent_core::event::Activity {
                    first_unanswered_at: Some(now),
                    first_unreplied_at: Some(now),
                    edges,
                    ..Default::default()
                };
                node.tunnel.handle_activity(PeerSlot(slot), &activity, now);
            }
        }
        node.drain(now);
    }
}
