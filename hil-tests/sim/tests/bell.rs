//! Devices call each other while the coordinator is away: over the line that a
//! relay keeps for each, and over ways that stand.
#![allow(missing_docs, reason = "a test")]

use weft_agent_core::meter::Budget;
use weft_agent_core::time::Duration;
use weft_sim::mesh::Mesh;
use weft_sim::nat::Kind;

const RELAY: [u8; 4] = [203, 0, 113, 20];
const TEN_MINUTES: u64 = 600_000;

/// Two members behind boxes of their own, and a relay.
fn pair(seed: u64, one: Kind, other: Kind) -> (Mesh, usize, usize) {
    let mut mesh = Mesh::new(seed);
    mesh.add_stun_servers();
    mesh.add_relay(RELAY.into());
    let (a, b) = mesh.add_pair(one, other);
    mesh.run_for(1_000);
    (mesh, a, b)
}

/// An echo in a second, for that many of them.
fn talk(mesh: &mut Mesh, a: usize, b: usize, seconds: u16) {
    let host = mesh.host(b);
    let before = mesh.replies(a);
    for sequence in 0..seconds {
        mesh.ping(a, host, sequence);
        mesh.run_for(1_000);
    }
    assert!(mesh.replies(a) - before >= usize::from(seconds) - 2, "{}", mesh.log.join("\n"));
}

fn lose_coordinator(mesh: &mut Mesh) {
    mesh.coordinator_down = true;
    mesh.cut_lines();
}

/// From a packet to its arrival.
fn packet(mesh: &mut Mesh, from: usize, to: usize) -> Option<Duration> {
    let (host, start, before) = (mesh.host(to), mesh.now, mesh.nodes[to].received.len());
    mesh.ping(from, host, 1);
    while mesh.nodes[to].received.len() == before {
        if mesh.now - start > Duration::from_secs(2) {
            return None;
        }
        mesh.run_for(1);
    }
    Some(mesh.now - start)
}

const KINDS: [Kind; 6] =
    [Kind::Open, Kind::FullCone, Kind::Prc, Kind::NoFw, Kind::SymRand, Kind::SymWin];

/// The coordinator goes while two talk, or long after they have; ten minutes later
/// the first packet of either arrives.
#[test]
fn a_peer_that_nobody_can_be_asked_about_is_called() {
    let mut slowest = Duration::ZERO;
    for one in KINDS {
        for (other, idle_before) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)])
        {
            let (mut mesh, a, b) = pair(5, one, other);
            talk(&mut mesh, a, b, 20);
            if idle_before {
                mesh.run_for(TEN_MINUTES);
            }
            lose_coordinator(&mut mesh);
            mesh.run_for(TEN_MINUTES);
            let names = (one.name(), other.name(), idle_before);
            let took = packet(&mut mesh, a, b);
            let took = took.unwrap_or_else(|| panic!("{names:?}\n{}", mesh.log.join("\n")));
            slowest = slowest.max(took);
            talk(&mut mesh, a, b, 5);
            mesh.run_for(TEN_MINUTES);
            let back = packet(&mut mesh, b, a);
            slowest = slowest.max(back.unwrap_or_else(|| panic!("{names:?}, the other way")));
        }
    }
    println!("at most {slowest:?}");
}

/// Servers stood beside the coordinator: where a device is seen from, its relay says.
#[test]
fn servers_that_are_away_too_are_not_needed() {
    for (one, other) in
        [(Kind::Prc, Kind::Prc), (Kind::SymRand, Kind::Prc), (Kind::Prc, Kind::Open)]
    {
        let (mut mesh, a, b) = pair(6, one, other);
        talk(&mut mesh, a, b, 20);
        mesh.run_for(TEN_MINUTES);
        lose_coordinator(&mut mesh);
        mesh.stop_stun();
        mesh.run_for(TEN_MINUTES);
        for (from, to) in [(a, b), (b, a)] {
            let took = packet(&mut mesh, from, to);
            println!("{} {} {took:?}", one.name(), other.name());
            assert!(took.is_some(), "{}", mesh.log.join("\n"));
            talk(&mut mesh, from, to, 20);
            mesh.run_for(TEN_MINUTES);
        }
    }
}

/// Power goes and comes while nobody can be asked, here, there, or at both.
#[test]
fn a_device_that_starts_meanwhile_calls_and_is_called() {
    for off in [&[0][..], &[1], &[0, 1]] {
        for caller in 0..2 {
            let (mut mesh, a, b) = pair(7, Kind::Prc, Kind::SymRand);
            let both = [a, b];
            talk(&mut mesh, a, b, 20);
            lose_coordinator(&mut mesh);
            mesh.run_for(60_000);
            off.iter().for_each(|&at| drop(mesh.stop(both[at])));
            mesh.run_for(TEN_MINUTES);
            off.iter().for_each(|&at| mesh.boot(both[at]));
            mesh.run_for(60_000);
            let took = packet(&mut mesh, both[caller], both[1 - caller]);
            println!("{off:?} {caller}: {took:?}");
            assert!(took.is_some(), "{off:?} {caller}\n{}", mesh.log.join("\n"));
        }
    }
}

/// Data waits for whoever starts, and it is not known yet how long the coordinator
/// stays away. The peer may believe that it still talks to who was there before.
#[test]
fn a_device_that_has_just_started_calls_at_once() {
    for talked in [false, true] {
        for (one, other) in [(Kind::Prc, Kind::SymRand), (Kind::SymRand, Kind::SymRand)] {
            let (mut mesh, a, b) = pair(9, one, other);
            talk(&mut mesh, a, b, 20);
            lose_coordinator(&mut mesh);
            mesh.run_for(60_000);
            if talked {
                assert!(packet(&mut mesh, a, b).is_some(), "{}", mesh.log.join("\n"));
            }
            mesh.stop(a);
            mesh.run_for(100);
            mesh.boot(a);
            mesh.run_for(10);
            let took = packet(&mut mesh, a, b);
            println!("{} {} {talked}: {took:?}", one.name(), other.name());
            assert!(took.is_some(), "{}", mesh.log.join("\n"));
        }
    }
}

/// Somebody talks to a device that starts anew, over a relay at which it has nothing any
/// more: what comes from there tells it that it is waited for.
#[test]
fn a_device_that_starts_under_traffic_calls_whoever_may_talk() {
    for (one, other) in [(Kind::SymRand, Kind::Prc), (Kind::SymRand, Kind::SymRand)] {
        for seed in 0..5 {
            let mut mesh = Mesh::new(20 + seed);
            // As a chip, which searches no ports.
            mesh.extra_sockets = 0;
            mesh.add_stun_servers();
            mesh.add_relay(RELAY.into());
            let (a, b) = mesh.add_pair(one, other);
            mesh.run_for(1_000);
            talk(&mut mesh, b, a, 20);
            mesh.stop(a);
            mesh.run_for(100);
            mesh.boot(a);
            let (host, start, before) = (mesh.host(a), mesh.now, mesh.replies(b));
            while mesh.replies(b) == before && mesh.now - start < Duration::from_secs(20) {
                mesh.ping(b, host, 1);
                mesh.run_for(20);
            }
            let took = mesh.now - start;
            println!("{} {}: {took:?}", one.name(), other.name());
            assert!(took < Duration::from_secs(1), "{}", mesh.log.join("\n"));
        }
    }
}

/// Whoever is somewhere else has another line there, and says so over those of
/// others.
#[test]
fn a_device_that_moves_meanwhile_is_called_where_it_is() {
    for moved in [&[0][..], &[1], &[0, 1]] {
        for caller in 0..2 {
            let (mut mesh, a, b) = pair(8, Kind::Prc, Kind::Prc);
            let both = [a, b];
            talk(&mut mesh, a, b, 20);
            lose_coordinator(&mut mesh);
            mesh.run_for(TEN_MINUTES);
            for &at in moved {
                mesh.roam(both[at], Kind::SymRand);
                mesh.run_for(60_000);
            }
            let took = packet(&mut mesh, both[caller], both[1 - caller]);
            println!("{moved:?} {caller}: {took:?}");
            assert!(took.is_some(), "{moved:?} {caller}\n{}", mesh.log.join("\n"));
        }
    }
}

#[test]
fn two_that_call_each_other_at_once_meet() {
    for (seed, one, other) in
        [(1, Kind::Prc, Kind::Prc), (2, Kind::NoFw, Kind::NoFw), (3, Kind::SymRand, Kind::SymWin)]
    {
        let (mut mesh, a, b) = pair(seed, one, other);
        talk(&mut mesh, a, b, 20);
        lose_coordinator(&mut mesh);
        mesh.run_for(TEN_MINUTES);
        let (to_a, to_b) = (mesh.host(a), mesh.host(b));
        let before = [a, b].map(|node| mesh.nodes[node].received.len());
        mesh.ping(a, to_b, 1);
        mesh.ping(b, to_a, 1);
        let took = mesh.run_to(2_000, |mesh| {
            [a, b]
                .into_iter()
                .zip(before)
                .all(|(node, before)| mesh.nodes[node].received.len() > before)
        });
        println!("{took:?}");
    }
}

fn sent(mesh: &Mesh, node: usize) -> u32 {
    mesh.nodes[node].sent.values().sum()
}

/// The line costs a datagram in 25 s and a permission in 240, and only while the
/// coordinator is away.
#[test]
fn the_line_is_quiet() {
    let (mut mesh, a, b) = pair(9, Kind::Prc, Kind::Prc);
    talk(&mut mesh, a, b, 20);
    mesh.run_for(TEN_MINUTES);
    let hour = |mesh: &mut Mesh| {
        let before = sent(mesh, b);
        mesh.run_for(3_600_000);
        sent(mesh, b) - before
    };
    assert_eq!(hour(&mut mesh), 0, "the coordinator is there");
    assert_eq!(mesh.relays[0].turn.allocations(), 0);
    lose_coordinator(&mut mesh);
    mesh.run_for(60_000);
    let held = hour(&mut mesh);
    println!("{held} datagrams in an hour");
    assert!(held <= 3_600 / 25 + 3_600 / 240 + 3_600 / 450, "{held}");
    assert_eq!(mesh.relays[0].turn.allocations(), 2, "one each");
    mesh.coordinator_down = false;
    mesh.run_for(TEN_MINUTES);
    assert_eq!(mesh.relays[0].turn.allocations(), 0, "they are given back");
    assert_eq!(hour(&mut mesh), 0);
}

/// Where bytes cost money and the day's are used up no line is held: such a device
/// calls, and is not called.
#[test]
fn a_line_that_may_not_be_is_not_held() {
    let (mut mesh, a, b) = pair(10, Kind::Prc, Kind::Prc);
    let budget = |bytes| Budget { is_metered: true, bytes: Some(bytes) };
    mesh.input(b, |agent, now| agent.set_budget(budget(1), now));
    talk(&mut mesh, a, b, 20);
    lose_coordinator(&mut mesh);
    mesh.run_for(TEN_MINUTES);
    assert_eq!(mesh.relays[0].turn.allocations(), 1);
    let before = sent(&mesh, b);
    mesh.run_for(TEN_MINUTES);
    assert_eq!(sent(&mesh, b), before, "not a byte");
    assert_eq!(packet(&mut mesh, a, b), None, "behind its box nobody hears");
    assert_eq!(mesh.nodes[a].refused.len(), 1, "and the sender is told");
    assert!(packet(&mut mesh, b, a).is_some(), "but it reaches others");
    // Another day.
    mesh.input(b, |agent, now| agent.set_budget(budget(10_000_000), now));
    mesh.run_for(TEN_MINUTES);
    assert!(packet(&mut mesh, a, b).is_some());
}

/// A datagram in ten is lost on each link, which is every third one between two
/// devices that are behind relays.
#[test]
fn a_lost_call_is_repeated() {
    let mut took = vec![];
    for seed in 0..40 {
        let (mut mesh, a, b) = pair(seed, Kind::Prc, Kind::SymRand);
        talk(&mut mesh, a, b, 20);
        lose_coordinator(&mut mesh);
        mesh.run_for(TEN_MINUTES);
        for node in [a, b] {
            mesh.link_mut(node).loss_ppm = 100_000;
        }
        // The packet itself is lost in one of three cases: what counts is the way.
        let (host, start) = (mesh.host(b), mesh.now);
        let before = mesh.nodes[b].received.len();
        while mesh.nodes[b].received.len() == before {
            mesh.ping(a, host, 1);
            mesh.run_for(50);
            assert!(mesh.now - start < Duration::from_secs(30), "seed {seed}");
        }
        took.push((mesh.now - start).as_millis());
    }
    took.sort_unstable();
    println!("{took:?}");
    let soon = took.iter().filter(|took| **took <= 2_000).count();
    // The others have lost a handshake, which is repeated after 5 s, or all of five calls.
    assert!(soon >= 30, "{soon} of 40 within two seconds");
}
