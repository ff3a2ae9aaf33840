//! Whole agents with a coordinator and a network between them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod whole;

use weft_agent_core::agent::{ChipAgent, GatewayAgent};
use weft_agent_core::event::SocketId;
use weft_agent_core::path::Route;
use weft_agent_core::peers::PeerState;
use weft_agent_core::time::Duration;
use weft_wire::signal::{Candidate, CandidateKind};
use whole::Rng;
use whole::world::{Link, World};

#[test]
fn from_join_string_to_first_ping() {
    let mut world = World::new(1);
    let a = world.add("gw-a");
    world.run_to(2_000, |world| world.knows(a, 0));
    let start = world.now;
    let b = world.add("gw-b");
    world.run_to(2_000, |world| world.knows(b, 1));
    world.ping(b, 2, 1);
    world.run_to(2_000, |world| world.replies(b) == 1);
    let took = world.now - start;
    println!("from start to first reply: {took:?} with 10 ms each way");
    assert!(took.as_millis() < 400, "{took:?}");
    let (id_a, id_b) = (world.id(a), world.id(b));
    assert_eq!(world.state(a, id_b), Some(PeerState::Active));
    assert_eq!(world.state(b, id_a), Some(PeerState::Active));
}

fn loss(percent: u64) -> Link {
    Link {
        jitter: Duration::from_millis(15),
        loss_percent: percent,
        duplicate_percent: 5,
        ..Link::clean(20)
    }
}

/// Pings every 200 ms until one comes back; how long that took.
fn ping_until_answered(world: &mut World, from: usize, host: u32, limit_ms: u64) -> Duration {
    let (start, before) = (world.now, world.replies(from));
    let mut sequence = 0;
    while world.replies(from) == before {
        let passed = (world.now - start).as_millis() as u64;
        assert!(passed < limit_ms, "no reply in {limit_ms} ms\n{}", world.log.join("\n"));
        if passed.is_multiple_of(200) {
            world.ping(from, host, sequence);
            sequence += 1;
        }
        world.run_for(1);
    }
    world.now - start
}

#[test]
fn two_that_call_each_other_meet_once() {
    for seed in 0..50 {
        let (mut world, a, b) = World::pair(seed);
        let (host_a, host_b) = (world.host(a), world.host(b));
        world.ping(a, host_b, 1);
        world.run_for(seed % 25);
        world.ping(b, host_a, 2);
        world.run_to(500, |world| world.replies(a) == 1 && world.replies(b) == 1);
        world.run_for(5_000);
        let handshakes: u32 = [a, b]
            .iter()
            .map(|&node| world.nodes[node].sent.get(&1).copied().unwrap_or_default())
            .sum();
        assert!(handshakes <= 2, "{handshakes} initiations (seed {seed})");
    }
}

#[test]
fn one_open_direction_suffices() {
    // The callee cannot be reached, the caller cannot be reached, and both
    // behind firewalls that let answers in.
    for case in 0..4 {
        let (mut world, a, b) = World::pair(case);
        match case {
            0 => drop(world.firewalled.insert(b)),
            1 => drop(world.firewalled.insert(a)),
            _ => world.firewalled.extend([a, b]),
        }
        let host = world.host(if case == 3 { a } else { b });
        let from = if case == 3 { b } else { a };
        let took = ping_until_answered(&mut world, from, host, 1_000);
        println!("case {case}: {took:?}");
    }
}

#[test]
fn meets_over_bad_lines_within_seconds() {
    let mut worst = Duration::ZERO;
    for seed in 0..30 {
        let (mut world, a, b) = World::pair(seed);
        world.line = loss(20);
        world.udp = loss(20);
        let host = world.host(b);
        worst = worst.max(ping_until_answered(&mut world, a, host, 60_000));
    }
    println!("worst of 30 with 20 % loss everywhere: {worst:?}");
}

#[test]
fn an_hour_of_pings_loses_none() {
    let (mut world, a, b) = World::pair(5);
    let host = world.host(b);
    for sequence in 0..3_600 {
        world.ping(a, host, sequence);
        world.run_for(1_000);
    }
    assert_eq!(world.replies(a), 3_600);
    let initiations = world.nodes[a].sent[&1] + world.nodes[b].sent.get(&1).unwrap_or(&0);
    assert!((28..=32).contains(&initiations), "{initiations} initiations in an hour");
}

#[test]
fn storage_brings_a_tunnel_back_without_the_coordinator() {
    let (mut world, a, b) = World::pair(6);
    let host = world.host(b);
    ping_until_answered(&mut world, a, host, 1_000);
    world.run_for(1_000);
    world.coordinator_down = true;
    world.cut_lines();
    for _ in 0..3 {
        world.stop(a);
        world.run_for(10_000);
        world.boot(a);
        assert!(world.knows(a, 1));
        let took = ping_until_answered(&mut world, a, host, 2_000);
        assert!(took.as_millis() < 100, "{took:?}");
    }
    // Both at once: neither remembers a session.
    world.stop(a);
    world.stop(b);
    world.run_for(1_000);
    world.boot(a);
    world.boot(b);
    ping_until_answered(&mut world, a, host, 2_000);
}

#[test]
fn a_peer_that_moved_is_called_and_found() {
    let (mut world, a, b) = World::pair(7);
    let host = world.host(b);
    ping_until_answered(&mut world, a, host, 1_000);
    world.run_for(600_000);
    // It moves while nobody talks.
    let address = "10.9.9.9:5".parse().unwrap();
    world.nodes[b].address = address;
    let candidate = Candidate { kind: CandidateKind::Host, address };
    world.input(b, |agent, _| agent.set_local_addresses(&[candidate]));
    let took = ping_until_answered(&mut world, a, host, 2_000);
    assert!(took.as_millis() < 300, "{took:?}");
    let peer = world.id(b);
    let selected = world.agent(a).peers().find(|p| p.device == peer).unwrap().selected.unwrap();
    assert_eq!(selected.route, Route::Direct { socket: SocketId(0), address });
    // It moves while both talk: data from the new address is followed.
    world.nodes[b].address = "10.9.9.10:5".parse().unwrap();
    let host_a = world.host(a);
    ping_until_answered(&mut world, b, host_a, 2_000);
    ping_until_answered(&mut world, a, host, 2_000);
}

#[test]
fn a_peer_that_is_away_is_given_up_and_found_later() {
    let (mut world, a, b) = World::pair(8);
    let (host, id) = (world.host(b), world.id(b));
    world.stop(b);
    world.coordinator.restart();
    world.cut_lines();
    world.run_for(3_000);
    world.ping(a, host, 1);
    world.run_for(100);
    // The coordinator said at once that it is offline: nothing waits.
    assert_eq!(world.state(a, id), Some(PeerState::Known));
    assert_eq!(world.nodes[a].sent.get(&1), None);
    world.boot(b);
    world.run_for(5_000);
    ping_until_answered(&mut world, a, host, 6_000);
}

#[test]
fn an_outage_of_everything_heals_by_itself() {
    for seed in 0..10 {
        let (mut world, a, b) = World::pair(seed);
        let host = world.host(b);
        ping_until_answered(&mut world, a, host, 1_000);
        world.blocked.extend([(a, b), (b, a)]);
        world.coordinator_down = true;
        world.cut_lines();
        for sequence in 0..300 {
            world.ping(a, host, sequence);
            world.run_for(1_000);
        }
        world.blocked.clear();
        world.coordinator_down = false;
        let took = ping_until_answered(&mut world, a, host, 100_000);
        println!("seed {seed}: {took:?} after the network healed");
    }
}

#[test]
fn nothing_passes_without_a_map() {
    let mut world = World::new(9);
    world.coordinator.lease_s = 3_600;
    let (a, b) = (world.add("gw-a"), world.add("gw-b"));
    world.run_to(5_000, |world| world.knows(a, 1) && world.knows(b, 1));
    let host = world.host(b);
    ping_until_answered(&mut world, a, host, 2_000);
    world.coordinator_down = true;
    world.cut_lines();
    world.run_for(3_700_000);
    let (received, sent) = (world.nodes[b].received.len(), world.nodes[a].sent.clone());
    world.ping(a, host, 9);
    world.run_for(10_000);
    assert_eq!(world.nodes[b].received.len(), received);
    assert_eq!(world.nodes[a].sent, sent);
}

#[test]
fn sizes() {
    let chip = size_of::<ChipAgent<Rng>>();
    let gateway = size_of::<GatewayAgent<Rng>>();
    println!("Agent: chip (8 peers) {chip} B, gateway (256 peers) {gateway} B");
    assert!(chip <= 48 * 1_024, "{chip}");
    assert!(gateway <= 1_600 * 1_024, "{gateway}");
}
