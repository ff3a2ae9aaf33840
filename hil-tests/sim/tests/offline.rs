//! Life without the coordinator: days of it, restarts in it, the return of a
//! whole fleet, and a coordinator that comes back as an older one.
#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;

use weft_agent_core::agent::AgentEvent;
use weft_agent_core::control::Held;
use weft_agent_core::time::Duration;
use weft_sim::Rng;
use weft_sim::mesh::Mesh;
use weft_wire::item::Standing;
use weft_wire::verdict::Refusal;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

fn held(mesh: &Mesh, node: usize) -> Held {
    mesh.agent(node).coordinator(mesh.now).held
}

fn online(mesh: &Mesh, node: usize) -> bool {
    mesh.agent(node).coordinator(mesh.now).online
}

fn dropped_maps(mesh: &Mesh, node: usize) -> usize {
    mesh.events(node, |event| matches!(event, AgentEvent::MapDropped(_)).then_some(())).len()
}

/// One echo request and its answer.
fn answers(mesh: &mut Mesh, from: usize, to: usize, sequence: u16) -> bool {
    let (host, before) = (mesh.host(to), mesh.replies(from));
    mesh.ping(from, host, sequence);
    mesh.run_for(SECOND);
    mesh.replies(from) > before
}

/// Coordinator and broker are gone; every line notices at once.
fn go_down(mesh: &mut Mesh) {
    mesh.coordinator_down = true;
    mesh.cut_lines();
}

#[test]
fn nearly_a_week_alone_with_restarts_loses_nothing() {
    let mut mesh = Mesh::new(40);
    let nodes = ["gw-a", "gw-b", "gw-c"].map(|name| mesh.add(name));
    mesh.run_to(5 * SECOND, |mesh| nodes.iter().all(|&node| mesh.knows(node, 2)));
    let pairs = [(0, 1), (1, 2), (2, 0)].map(|(from, to)| (nodes[from], nodes[to]));
    for (from, to) in pairs {
        assert!(answers(&mut mesh, from, to, 0));
    }
    mesh.run_for(MINUTE);
    go_down(&mut mesh);
    let writes = |mesh: &Mesh| nodes.map(|node| mesh.nodes[node].storage.cache_writes);
    let (mut rng, before) = (Rng::new(41), writes(&mesh));
    let mut restarts = [0; 3];
    // Every pair talks once in an hour at random, so that each time a handshake
    // is due; one of them is restarted about three times a day.
    let hours = 6 * 24;
    for hour in 1..=hours {
        if rng.below(8) == 0 {
            let node = rng.below(3) as usize;
            restarts[node] += 1;
            mesh.stop(nodes[node]);
            mesh.run_for(rng.below(MINUTE));
            mesh.boot(nodes[node]);
        }
        mesh.run_for(rng.below(10 * MINUTE));
        for (from, to) in pairs {
            assert!(answers(&mut mesh, from, to, hour), "hour {hour}");
        }
        mesh.run_for(45 * MINUTE);
    }
    // Four times a day, and once at each start.
    for ((after, before), starts) in writes(&mesh).into_iter().zip(before).zip(restarts) {
        let written = after - before;
        assert!(written <= 4 * 6 + 2 * starts, "{written} times, {starts} starts");
    }
    let hellos = mesh.coordinator.hellos;
    mesh.coordinator_down = false;
    mesh.run_to(2 * MINUTE, |mesh| nodes.iter().all(|&node| online(mesh, node)));
    // No storm afterwards: one handshake each.
    mesh.run_for(10 * MINUTE);
    assert_eq!(mesh.coordinator.hellos - hellos, 3);
    assert_eq!(nodes.map(|node| dropped_maps(&mesh, node)), [0; 3]);
}

#[test]
fn a_fleet_comes_back_spread_over_the_window_that_it_was_told() {
    const DEVICES: usize = 24;
    const SEEDS: u64 = 8;
    let mut slices = [0; 6];
    for seed in 0..SEEDS {
        let mut mesh = Mesh::new(420 + seed);
        mesh.coordinator.reconnect_s = (5, 35);
        let nodes: Vec<usize> = (0..DEVICES).map(|_| mesh.add("gw")).collect();
        mesh.run_to(20 * SECOND, |mesh| nodes.iter().all(|&node| mesh.knows(node, DEVICES - 1)));
        // A line that held half a minute is lost through no fault of its own.
        mesh.run_for(40 * SECOND);
        mesh.coordinator.restart();
        mesh.cut_lines();
        let lost = mesh.now;
        let mut back = BTreeMap::new();
        while back.len() < DEVICES {
            mesh.run_for(50);
            for &node in &nodes {
                if online(&mesh, node) {
                    back.entry(node).or_insert(mesh.now - lost);
                }
            }
            assert!(mesh.now - lost <= Duration::from_secs(36), "only {} came back", back.len());
        }
        for after in back.values() {
            let waited = after.as_secs().checked_sub(5);
            let slice = waited.expect("nobody comes before the window") as usize / 5;
            slices[slice.min(5)] += 1;
        }
    }
    // A slice of 5 s has 32 of 192 devices at random, 5 more or less.
    assert!(slices.iter().all(|count| (12..=52).contains(count)), "{slices:?}");
}

#[test]
fn a_restored_database_is_taken_anew_by_running_and_started_devices() {
    let mut mesh = Mesh::new(43);
    let (a, b, c) = (mesh.add("gw-a"), mesh.add("gw-b"), mesh.add("gw-c"));
    mesh.run_to(5 * SECOND, |mesh| [a, b, c].iter().all(|&node| mesh.knows(node, 2)));
    assert!(answers(&mut mesh, a, b, 1));
    mesh.run_for(MINUTE);
    let before = held(&mesh, a);
    let (host_a, host_b) = (mesh.host(a), mesh.host(b));
    go_down(&mut mesh);
    mesh.stop(b);
    mesh.coordinator.restore_backup();
    mesh.coordinator_down = false;
    mesh.boot(b);
    mesh.run_to(MINUTE, |mesh| {
        [a, b, c].iter().all(|&node| held(mesh, node).epoch == mesh.coordinator.epoch)
    });
    assert!(held(&mesh, a).epoch != before.epoch && held(&mesh, a).revision < before.revision);
    assert!([a, b, c].iter().all(|&node| mesh.knows(node, 2)));
    assert_eq!((mesh.host(a), mesh.host(b)), (host_a, host_b));
    // The new life's map survives a restart, and what the old one held is gone.
    mesh.stop(a);
    mesh.coordinator_down = true;
    mesh.boot(a);
    assert_eq!(held(&mesh, a).epoch, mesh.coordinator.epoch);
    assert!(answers(&mut mesh, a, b, 2));
}

/// Three devices, and a backup that does not know the first of them.
fn without_the_first(seed: u64) -> (Mesh, [usize; 3]) {
    let mut mesh = Mesh::new(seed);
    let nodes = ["gw-a", "gw-b", "gw-c"].map(|name| mesh.add(name));
    mesh.run_to(5 * SECOND, |mesh| nodes.iter().all(|&node| mesh.knows(node, 2)));
    assert!(answers(&mut mesh, nodes[0], nodes[1], 1));
    mesh.run_for(MINUTE);
    go_down(&mut mesh);
    mesh.run_for(MINUTE);
    mesh.coordinator.restore_backup_without(mesh.id(nodes[0]));
    (mesh, nodes)
}

#[test]
fn a_device_that_the_backup_does_not_know_is_taken_back_with_its_address() {
    let (mut mesh, [a, b, c]) = without_the_first(44);
    let (host, registers) = (mesh.host(a), mesh.coordinator.registers);
    mesh.coordinator.needs_approval = true;
    mesh.coordinator_down = false;
    // Its peers lose it at once, it keeps its map until it is heard again.
    mesh.run_to(2 * MINUTE, |mesh| mesh.knows(b, 1) && mesh.coordinator.devices.len() == 3);
    mesh.run_for(MINUTE);
    let standing = |mesh: &Mesh| mesh.agent(a).coordinator(mesh.now).standing;
    assert_eq!(standing(&mesh), Standing::Pending);
    assert!(mesh.knows(a, 2) && mesh.knows(c, 1));
    // It survives a restart as what it is.
    mesh.stop(a);
    mesh.boot(a);
    mesh.run_for(MINUTE);
    assert_eq!(standing(&mesh), Standing::Pending);
    assert_eq!(mesh.coordinator.registers, registers + 1);
    let frames = mesh.coordinator.set_standing(mesh.id(a), Standing::Active);
    mesh.send(frames);
    mesh.run_to(5 * SECOND, |mesh| mesh.knows(b, 2) && held(mesh, a).epoch == held(mesh, b).epoch);
    assert_eq!(mesh.host(a), host);
    assert!(answers(&mut mesh, a, b, 2) && answers(&mut mesh, c, a, 3));
    assert_eq!(mesh.coordinator.unknown, []);
}

/// Its peers forgot it, and with it the sessions that it still holds.
#[test]
fn a_lost_device_that_is_let_in_talks_at_once() {
    let (mut mesh, [a, b, _]) = without_the_first(46);
    assert!(answers(&mut mesh, a, b, 2), "a session that is young");
    mesh.coordinator.needs_approval = true;
    mesh.coordinator_down = false;
    let waits = |mesh: &Mesh| {
        online(mesh, a) && mesh.agent(a).coordinator(mesh.now).standing == Standing::Pending
    };
    mesh.run_to(2 * MINUTE, |mesh| waits(mesh) && mesh.knows(b, 1));
    mesh.run_for(2 * SECOND);
    let frames = mesh.coordinator.set_standing(mesh.id(a), Standing::Active);
    mesh.send(frames);
    mesh.run_to(5 * SECOND, |mesh| mesh.knows(b, 2) && held(mesh, a).epoch == held(mesh, b).epoch);
    mesh.run_for(SECOND);
    assert!(answers(&mut mesh, a, b, 3), "and not after 15 s without an answer");
}

#[test]
fn a_lost_device_gets_another_address_when_its_own_is_taken() {
    let (mut mesh, [a, b, _]) = without_the_first(45);
    let host = mesh.host(a);
    mesh.coordinator.devices[0].host = host;
    mesh.coordinator_down = false;
    mesh.run_to(2 * MINUTE, |mesh| {
        mesh.coordinator.devices.len() == 3 && held(mesh, a).epoch == mesh.coordinator.epoch
    });
    mesh.run_for(MINUTE);
    assert!(mesh.knows(a, 2) && mesh.knows(b, 2));
    assert!(mesh.host(a) != host);
    assert!(answers(&mut mesh, a, b, 2) && answers(&mut mesh, b, a, 3));
}

#[test]
fn the_lease_of_a_lost_device_ends_although_the_coordinator_speaks_to_it() {
    let (mut mesh, [a, b, _]) = without_the_first(46);
    mesh.coordinator.needs_approval = true;
    mesh.coordinator_down = false;
    mesh.run_for(6 * 24 * 60 * MINUTE);
    assert!(online(&mesh, a) && mesh.knows(a, 2));
    mesh.run_for(24 * 60 * MINUTE);
    assert!(online(&mesh, a) && mesh.knows(a, 0) && mesh.knows(b, 1));
    assert_eq!(dropped_maps(&mesh, a), 1);
}

#[test]
fn a_lost_device_that_is_refused_asks_again_after_a_while() {
    let (mut mesh, [a, ..]) = without_the_first(47);
    let registers = mesh.coordinator.registers;
    mesh.coordinator.refuse = Some(Refusal::KeyInUse);
    mesh.coordinator_down = false;
    mesh.run_for(4 * MINUTE);
    assert_eq!(mesh.coordinator.registers, registers + 1);
    assert!(mesh.knows(a, 2), "its map holds until its lease ends");
    mesh.coordinator.refuse = None;
    mesh.run_to(4 * MINUTE, |mesh| mesh.coordinator.devices.len() == 3);
}
