//! Rotation of WireGuard keys: whole agents, a coordinator that takes steps when
//! a test says so, and everything that can go wrong between them.
#![allow(missing_docs, reason = "a test")]

use weft_agent_core::agent::AgentEvent;
use weft_agent_core::time::{Duration, Instant};
use weft_noise::key::StaticSecret;
use weft_sim::mesh::{Mesh, clean, echo};
use weft_sim::{Link, Rng};
use weft_wire::id::{DeviceId, PublicKey, Revision};

/// The keys that a device holds: active, second.
fn keys(mesh: &Mesh, node: usize) -> (PublicKey, Option<PublicKey>) {
    let identity = mesh.agent(node).identity();
    let public = |secret: &weft_wire::id::Secret| StaticSecret::from_bytes(secret.0).public();
    let second = identity.second_wireguard.as_ref().map(|second| public(&second.key));
    (public(&identity.wireguard_key), second)
}

/// The keys that peers know of a device.
fn known(mesh: &Mesh, id: DeviceId) -> (PublicKey, Option<PublicKey>) {
    let device = mesh.coordinator.devices.iter().find(|device| device.id == id).expect("it is");
    (device.wg_key, device.second.map(|second| second.key))
}

/// Whether these nodes have said that they have applied their newest map.
fn confirmed(mesh: &Mesh, nodes: &[usize]) -> bool {
    nodes.iter().all(|&node| {
        let device = mesh.coordinator.devices.iter().find(|device| device.id == mesh.id(node));
        device.is_some_and(|device| {
            device.applied == Some((mesh.coordinator.epoch, Revision(device.revision)))
        })
    })
}

fn has_next(mesh: &Mesh, id: DeviceId) -> bool {
    mesh.coordinator.devices.iter().any(|device| device.id == id && device.has_next())
}

/// A whole rotation that `others` have to confirm.
fn rotate(mesh: &mut Mesh, node: usize, others: &[usize]) {
    let id = mesh.id(node);
    let all = [&[node], others].concat();
    let frames = mesh.coordinator.rotate(id);
    mesh.send(frames);
    mesh.run_to(60_000, |mesh| has_next(mesh, id));
    mesh.run_to(60_000, |mesh| confirmed(mesh, &all));
    let frames = mesh.coordinator.activate(id);
    mesh.send(frames);
    mesh.run_to(60_000, |mesh| confirmed(mesh, &all));
}

/// A fresh handshake and an echo each way.
fn both_ways(mesh: &mut Mesh, a: usize, b: usize) {
    mesh.run_for(600_000);
    for (from, to) in [(a, b), (b, a)] {
        let (host, before) = (mesh.host(to), mesh.replies(from));
        // A packet is held for two seconds; the other key's turn comes after five.
        for sequence in 0..12 {
            mesh.ping(from, host, sequence);
            mesh.run_for(1_000);
        }
        assert!(mesh.replies(from) > before, "{from} → {to}\n{}", mesh.log.join("\n"));
        mesh.run_for(600_000);
    }
}

/// Echoes every 50 ms for so long; the longest time without a reply.
struct Traffic {
    from: usize,
    host: u32,
    seen: usize,
    sent: u32,
    last: Instant,
    longest: Duration,
}

impl Traffic {
    fn new(mesh: &mut Mesh, from: usize, to: usize) -> Self {
        let host = mesh.host(to);
        mesh.ping(from, host, 0);
        mesh.run_for(2_000);
        let seen = mesh.nodes[from].received.len();
        Self { from, host, seen, sent: 0, last: mesh.now, longest: Duration::ZERO }
    }

    fn run(&mut self, mesh: &mut Mesh, millis: u64) {
        for _ in 0..millis / 50 {
            self.sent += 1;
            mesh.ping(self.from, self.host, self.sent as u16);
            mesh.run_for(50);
            let received = &mesh.nodes[self.from].received;
            for (at, packet) in &received[self.seen..] {
                if echo::is_reply(packet) {
                    self.longest = self.longest.max(*at - self.last);
                    self.last = *at;
                }
            }
            self.seen = received.len();
        }
        self.longest = self.longest.max(mesh.now - self.last);
    }
}

#[test]
fn a_key_rotates_under_traffic_and_nothing_is_lost() {
    let (mut mesh, a, b) = Mesh::pair(1);
    let mut traffic = Traffic::new(&mut mesh, a, b);
    let before = mesh.replies(a);
    for round in 0..6 {
        let node = [a, b][round % 2];
        let old = keys(&mesh, node).0;
        let id = mesh.id(node);
        let frames = mesh.coordinator.rotate(id);
        mesh.send(frames);
        traffic.run(&mut mesh, 300);
        assert!(has_next(&mesh, id) && confirmed(&mesh, &[a, b]));
        assert_eq!(keys(&mesh, node), known(&mesh, id));
        let frames = mesh.coordinator.activate(id);
        mesh.send(frames);
        traffic.run(&mut mesh, 300);
        assert_eq!(keys(&mesh, node), known(&mesh, id));
        assert_eq!(keys(&mesh, node).1, Some(old));
    }
    mesh.run_for(1_000);
    let rotated = mesh.events(a, |event| matches!(event, AgentEvent::KeyRotated).then_some(()));
    assert_eq!(rotated.len(), 3);
    assert_eq!(mesh.replies(a) - before, traffic.sent as usize);
    assert!(traffic.longest < Duration::from_millis(200), "{:?}", traffic.longest);
    both_ways(&mut mesh, a, b);
}

#[test]
fn both_sides_rotate_at_once() {
    let (mut mesh, a, b) = Mesh::pair(2);
    let mut traffic = Traffic::new(&mut mesh, a, b);
    for _ in 0..3 {
        let ids = [mesh.id(a), mesh.id(b)];
        for id in ids {
            let frames = mesh.coordinator.rotate(id);
            mesh.send(frames);
        }
        traffic.run(&mut mesh, 500);
        for id in ids {
            let frames = mesh.coordinator.activate(id);
            mesh.send(frames);
        }
        traffic.run(&mut mesh, 500);
        assert_eq!([keys(&mesh, a), keys(&mesh, b)], ids.map(|id| known(&mesh, id)));
    }
    assert!(traffic.longest < Duration::from_secs(1), "{:?}", traffic.longest);
    both_ways(&mut mesh, a, b);
}

/// Echoes each way every 10 ms over a way of 10 ms.
fn busy(mesh: &mut Mesh, nodes: [usize; 2], millis: u64) -> usize {
    let hosts = nodes.map(|node| mesh.host(node));
    for _ in 0..millis / 10 {
        mesh.ping(nodes[0], hosts[1], 1);
        mesh.run_for(3);
        mesh.ping(nodes[1], hosts[0], 1);
        mesh.run_for(7);
    }
    millis as usize / 10
}

/// Handshakes of both sides cross in every way; what is on its way in the session
/// before arrives all the same, and in the end one session is left.
#[test]
fn nothing_is_lost_when_both_sides_rotate() {
    let mut lost = Vec::new();
    for (seed, apart) in (0..8).flat_map(|seed| [0, 10, 20, 30, 40].map(|apart| (seed, apart))) {
        let (mut mesh, a, b) = Mesh::pair(500 + seed);
        let nodes = [a, b];
        for node in nodes {
            let host = mesh.host(nodes[usize::from(node == a)]);
            mesh.ping(node, host, 0);
            mesh.run_for(2_000);
        }
        let before = nodes.map(|node| mesh.replies(node));
        let drops = nodes.map(|node| mesh.agent(node).drops());
        let mut sent = 0;
        for round in 0..4 {
            let ids = if round % 2 == 0 { [a, b] } else { [b, a] }.map(|node| mesh.id(node));
            for id in ids {
                let frames = mesh.coordinator.rotate(id);
                mesh.send(frames);
            }
            sent += busy(&mut mesh, nodes, 200 + seed * 10);
            for id in ids {
                let frames = mesh.coordinator.activate(id);
                mesh.send(frames);
                sent += busy(&mut mesh, nodes, apart);
            }
            sent += busy(&mut mesh, nodes, 200);
        }
        mesh.run_for(1_000);
        for (node, before) in nodes.into_iter().zip(before) {
            let missing = sent - (mesh.replies(node) - before);
            if missing > 0 {
                let now = mesh.agent(node).drops();
                let drops: Vec<_> =
                    now.iter().map(|(why, n)| (why, n - drops[node].get(why))).collect();
                lost.push(format!("{missing} of node {node}, seed {seed}, {apart} ms: {drops:?}"));
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn what_is_withdrawn_is_forgotten() {
    let (mut mesh, a, b) = Mesh::pair(3);
    let id = mesh.id(a);
    let before = keys(&mesh, a);
    // Asked for and not made; made and announced; after a whole rotation.
    for wait in [0, 15, 30, 60, 1_000] {
        let frames = mesh.coordinator.rotate(id);
        mesh.send(frames);
        mesh.run_for(wait);
        let frames = mesh.coordinator.withdraw(id);
        mesh.send(frames);
        mesh.run_for(5_000);
        assert_eq!((keys(&mesh, a), known(&mesh, id)), (before, before), "after {wait} ms");
    }
    rotate(&mut mesh, a, &[b]);
    let after = keys(&mesh, a);
    let frames = mesh.coordinator.rotate(id);
    mesh.send(frames);
    mesh.run_for(1_000);
    let frames = mesh.coordinator.withdraw(id);
    mesh.send(frames);
    mesh.run_for(1_000);
    assert_eq!(keys(&mesh, a), (after.0, None), "the one before went for it");
    both_ways(&mut mesh, a, b);
}

#[test]
fn a_peer_that_was_away_for_25_hours_comes_back() {
    let (mut mesh, a, b) = Mesh::pair(4);
    both_ways(&mut mesh, a, b);
    mesh.stop(b);
    // Twice: it knows neither key.
    for _ in 0..2 {
        rotate(&mut mesh, a, &[]);
        mesh.run_for(12 * 3_600_000 + 1_800_000);
    }
    mesh.boot(b);
    mesh.run_to(5_000, |mesh| confirmed(mesh, &[a, b]));
    both_ways(&mut mesh, a, b);
}

/// Who did not hear of a new key (its line is down) and who has it talk on: the
/// key before is accepted, and every other try is made with it.
#[test]
fn a_peer_without_a_line_goes_on_with_the_key_before() {
    let (mut mesh, a, b) = Mesh::pair(5);
    let id = mesh.id(a);
    both_ways(&mut mesh, a, b);
    mesh.coordinator_down = true;
    mesh.cut_lines();
    mesh.run_for(10_000);
    // Only a's line comes back.
    mesh.stop(b);
    mesh.coordinator_down = false;
    mesh.run_for(60_000);
    rotate(&mut mesh, a, &[]);
    assert_eq!(keys(&mesh, a), known(&mesh, id));
    mesh.coordinator_down = true;
    mesh.cut_lines();
    mesh.boot(b);
    mesh.run_for(10_000);
    for (from, to) in [(a, b), (b, a)] {
        mesh.run_for(600_000);
        let (host, before) = (mesh.host(to), mesh.replies(from));
        // A packet is held for two seconds; the other key's turn comes after five.
        for sequence in 0..12 {
            mesh.ping(from, host, sequence);
            mesh.run_for(1_000);
        }
        assert!(mesh.replies(from) > before, "{from} → {to}\n{}", mesh.log.join("\n"));
    }
}

#[test]
fn a_key_is_reported_only_when_storage_holds_it() {
    let (mut mesh, a, b) = Mesh::pair(6);
    let id = mesh.id(a);
    mesh.disk_full = true;
    let frames = mesh.coordinator.rotate(id);
    mesh.send(frames);
    mesh.run_for(60_000);
    assert!(keys(&mesh, a).1.is_some() && !has_next(&mesh, id), "made, and kept to itself");
    // The power goes: the key is lost and nobody knew it.
    mesh.stop(a);
    mesh.disk_full = false;
    mesh.boot(a);
    mesh.run_to(60_000, |mesh| has_next(mesh, id));
    let frames = mesh.coordinator.activate(id);
    mesh.send(frames);
    mesh.run_for(1_000);
    assert_eq!(keys(&mesh, a), known(&mesh, id));
    both_ways(&mut mesh, a, b);
}

#[test]
fn a_disk_that_went_back_in_time_is_believed() {
    let (mut mesh, a, b) = Mesh::pair(7);
    let identity = mesh.nodes[a].storage.identity.clone();
    let cache = mesh.nodes[a].storage.cache.clone();
    for steps in 1..=3 {
        for _ in 0..steps {
            rotate(&mut mesh, a, &[b]);
        }
        mesh.stop(a);
        mesh.nodes[a].storage.identity.clone_from(&identity);
        mesh.nodes[a].storage.cache.clone_from(&cache);
        mesh.boot(a);
        mesh.run_for(60_000);
        assert_eq!(keys(&mesh, a), known(&mesh, mesh.id(a)), "after {steps} rotations");
        both_ways(&mut mesh, a, b);
    }
}

#[test]
fn power_goes_at_every_moment_of_a_rotation() {
    for moment in 0..60 {
        let (mut mesh, a, b) = Mesh::pair(100 + moment);
        let id = mesh.id(a);
        let frames = mesh.coordinator.rotate(id);
        mesh.send(frames);
        let mut active = false;
        for step in 0..60 {
            if step == moment {
                mesh.stop(a);
                mesh.boot(a);
            }
            if !active && has_next(&mesh, id) && confirmed(&mesh, &[a, b]) {
                let frames = mesh.coordinator.activate(id);
                mesh.send(frames);
                active = true;
            }
            mesh.run_for(5);
        }
        mesh.run_for(60_000);
        if !active {
            assert!(has_next(&mesh, id), "moment {moment}");
            let frames = mesh.coordinator.activate(id);
            mesh.send(frames);
            mesh.run_for(60_000);
        }
        assert_eq!(keys(&mesh, a), known(&mesh, id), "moment {moment}");
        both_ways(&mut mesh, a, b);
    }
}

/// Nothing that was announced has arrived: a heartbeat's answer tells it again.
#[test]
fn a_lost_announcement_is_made_again() {
    let (mut mesh, a, b) = Mesh::pair(8);
    let id = mesh.id(a);
    for pushes in [false, true] {
        mesh.coordinator.pushes = pushes;
        let before = keys(&mesh, a).0;
        drop(mesh.coordinator.rotate(id));
        mesh.run_for(1_200_000);
        assert!(has_next(&mesh, id), "the wish was lost");
        drop(mesh.coordinator.activate(id));
        mesh.run_for(1_200_000);
        assert!(confirmed(&mesh, &[a, b]));
        assert_eq!(keys(&mesh, a), known(&mesh, id));
        assert_eq!(keys(&mesh, a).1, Some(before));
    }
}

/// Steps, restarts and silence at random over lines and links that lose, double
/// and reorder: in the end everybody agrees, and whoever is on has a session.
#[test]
fn everything_at_once_converges() {
    for seed in 0..24 {
        let mut rng = Rng::new(seed);
        let mut mesh = Mesh::new(1_000 + seed);
        let nodes = ["gw-a", "gw-b", "gw-c"].map(|name| mesh.add(name));
        mesh.run_to(10_000, |mesh| nodes.iter().all(|&node| mesh.knows(node, 2)));
        let bad = Link {
            loss_ppm: 100_000,
            duplicate_ppm: 50_000,
            jitter: Duration::from_millis(200),
            ..clean(10)
        };
        mesh.line = bad;
        mesh.coordinator.pushes = seed % 2 == 1;
        mesh.set_links(Link { loss_ppm: 20_000, duplicate_ppm: 10_000, ..clean(5) });
        let ids = nodes.map(|node| mesh.id(node));
        // Whose key before may be gone for one that was made and not reported.
        let mut gone = [false; 3];
        for _ in 0..120 {
            let at = (rng.next() % 3) as usize;
            let (node, id) = (nodes[at], ids[at]);
            let device = mesh.coordinator.devices[at].clone();
            let frames = match rng.next() % 8 {
                0 | 1 if device.wanted == 0 && !device.has_next() => mesh.coordinator.rotate(id),
                // Whoever is on has confirmed, or it is taken anyway.
                2 | 3 if device.has_next() && rng.chance(700_000) => {
                    gone[at] = false;
                    mesh.coordinator.activate(id)
                }
                4 if rng.chance(300_000) => {
                    gone[at] |= device.wanted > 0;
                    mesh.coordinator.withdraw(id)
                }
                5 if rng.chance(300_000) => mesh.coordinator.forget_previous(id),
                6 => {
                    mesh.stop(node);
                    mesh.boot(node);
                    vec![]
                }
                _ => vec![],
            };
            mesh.send(frames);
            let other = nodes[(at + 1) % 3];
            let host = mesh.host(other);
            mesh.ping(node, host, 1);
            mesh.run_for(rng.next() % 3_000);
        }
        mesh.line = clean(10);
        mesh.set_links(clean(5));
        // What was announced and lost is announced with the answer to a heartbeat.
        mesh.run_for(1_200_000);
        for at in 0..3 {
            let (held, mut known) = (keys(&mesh, nodes[at]), known(&mesh, ids[at]));
            if gone[at] && held.1.is_none() && !has_next(&mesh, ids[at]) {
                known.1 = None;
            }
            assert_eq!(held, known, "node {at}, seed {seed}");
        }
        both_ways(&mut mesh, nodes[0], nodes[1]);
        both_ways(&mut mesh, nodes[1], nodes[2]);
    }
}
