//! A recorded run is replayed to the same transitions.
#![allow(missing_docs, reason = "a test")]

use std::net::IpAddr;

use weft_agent_core::agent::trace::{Entries, Entry, FrameVerdict};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::entropy::Entropy as _;
use weft_agent_core::event::{SocketId, Sockets};
use weft_agent_core::time::Duration;
use weft_sim::mesh::coordinator::Coordinator;
use weft_sim::mesh::{Mesh, Recording};
use weft_sim::nat::Kind;
use weft_sim::replay::{ReplayError, replay, transitions};
use weft_sim::{Link, Rng};
use weft_wire::frame::MAX_FRAME;
use weft_wire::item::Item;
use weft_wire::signal::{Candidate, CandidateKind};

fn again(trace: &[u8]) -> Recording {
    match replay::<32, 32, 64, 64, 8, 8, MAX_FRAME, 0>(trace, 77) {
        Ok(replayed) => replayed,
        Err(error) => panic!("{error:?}"),
    }
}

fn assert_same(trace: &[u8]) -> usize {
    let replayed = again(trace);
    let recorded = transitions(trace).expect("a trace");
    let replayed = transitions(&replayed.0).expect("a trace");
    for (step, (was, is)) in recorded.iter().zip(&replayed).enumerate() {
        assert_eq!(was, is, "transition {step} of {}", recorded.len());
    }
    assert_eq!(recorded.len(), replayed.len());
    recorded.len()
}

/// Loss, doubling and reordering everywhere, outages of the network and of the
/// coordinator, restarts, roaming.
fn stormy(seed: u64, change: impl FnOnce(&mut Mesh)) -> Vec<Recording> {
    let mut mesh = Mesh::new(seed);
    let mut rng = Rng::new(seed);
    change(&mut mesh);
    let nodes = [mesh.add("gw-a"), mesh.add("gw-b"), mesh.add("gw-c")];
    mesh.run_to(10_000, |mesh| nodes.iter().all(|&node| mesh.knows(node, 2)));
    for node in nodes {
        // One address first that only a socket of the other family could use.
        let named = ["[2001:db8::7]:7".parse().expect("an address"), mesh.nodes[node].address];
        mesh.input(node, |agent, now| {
            let kind = CandidateKind::Host;
            agent.set_local_addresses(&named.map(|address| Candidate { kind, address }), now);
        });
    }
    mesh.set_links(Link {
        latency: Duration::from_millis(15),
        jitter: Duration::from_millis(20),
        loss_ppm: 50_000,
        duplicate_ppm: 30_000,
        reorder_ppm: 30_000,
        corrupt_ppm: 20_000,
        ..Link::IDEAL
    });
    mesh.line.loss_ppm = 50_000;
    mesh.line.duplicate_ppm = 50_000;
    let mut traces = vec![];
    for step in 0..1_200u64 {
        let (from, to) = (nodes[rng.below(3) as usize], nodes[rng.below(3) as usize]);
        if from != to && !rng.chance(300_000) {
            let host = mesh.host(to);
            mesh.ping(from, host, step as u16);
        }
        match step {
            150 => mesh.link_mut(nodes[1]).up = false,
            210 => mesh.link_mut(nodes[1]).up = true,
            300 => mesh.coordinator.restart(),
            450 => {
                mesh.coordinator_down = true;
                mesh.cut_lines();
            }
            600 => mesh.coordinator_down = false,
            700 => {
                traces.push(mesh.stop(nodes[2]));
                mesh.boot(nodes[2]);
            }
            800 => mesh.move_node(nodes[0], "10.7.7.7:7".parse().expect("an address")),
            _ => {}
        }
        mesh.run_for(1_000);
    }
    traces.extend(nodes.iter().map(|&node| mesh.stop(node)));
    traces
}

#[test]
fn stormy_runs_are_replayed_to_the_same_transitions() {
    let mut compared = 0;
    for seed in 0..6 {
        for trace in stormy(seed, |_| {}) {
            compared += assert_same(&trace.0);
        }
    }
    println!("{compared} transitions compared");
    assert!(compared > 500, "{compared}");
}

#[test]
fn a_trace_that_lacks_something_is_not_followed() {
    let (mut mesh, a, b) = Mesh::pair(7);
    let host = mesh.host(b);
    for sequence in 0..150 {
        mesh.ping(a, host, sequence);
        mesh.run_for(1_000);
    }
    let trace = mesh.stop(a).0;
    let recorded = transitions(&trace).expect("a trace");
    // Take away one handshake message after the other: each is missed.
    let (mut at, mut taken) = (0, 0);
    while at < trace.len() {
        let (entry, rest) =
            postcard::take_from_bytes::<(u64, Entry<'_>)>(&trace[at..]).expect("an entry");
        let end = trace.len() - rest.len();
        let handshake = matches!(entry.1, Entry::Datagram(_, _, [1 | 2, ..], ..));
        let welcome = matches!(entry.1, Entry::Frame([1, 2, ..], _, FrameVerdict::Opened(_)));
        if handshake || welcome {
            let mut without = trace[..at].to_vec();
            without.extend_from_slice(&trace[end..]);
            let same =
                replay::<32, 32, 64, 64, 8, 8, MAX_FRAME, 0>(&without, 1).is_ok_and(|replayed| {
                    // Times differ by the entry's own: compare what was decided.
                    let replayed = transitions(&replayed.0).expect("a trace");
                    replayed.iter().map(|(_, t)| t).eq(recorded.iter().map(|(_, t)| t))
                });
            assert!(!same, "{entry:?}");
            taken += 1;
        }
        at = end;
    }
    assert!(taken >= 4, "{taken}");
}

#[test]
fn a_replay_of_a_replay_is_the_same_to_the_byte() {
    let (mut mesh, a, b) = Mesh::pair(3);
    let host = mesh.host(b);
    for sequence in 0..200 {
        mesh.ping(a, host, sequence);
        mesh.run_for(1_000);
    }
    let trace = mesh.stop(a);
    let once = again(&trace.0);
    let kinds = |trace: &[u8]| {
        Entries::new(trace)
            .map(|entry| match entry.unwrap() {
                // Handles of keys are salted: everything else is compared.
                (at, Entry::Start(_) | Entry::Restored(_)) => format!("{at}"),
                (at, Entry::Frame(head, _, _)) => format!("{at} {head:?}"),
                (at, entry) => format!("{at} {entry:?}"),
            })
            .collect::<Vec<_>>()
    };
    let strip = |mut kinds: Vec<String>| {
        // HELLO hashes in heads of WELCOME and RETRY differ with the keys.
        kinds.retain(|kind| !kind.contains("[1, 2,") && !kind.contains("[1, 4,"));
        kinds
    };
    assert_eq!(strip(kinds(&trace.0)), strip(kinds(&once.0)));
}

/// An IPv4 packet between two nodes; checksums are not looked at.
fn packet(mesh: &Mesh, from: usize, to: usize, protocol: u8, upper: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(20 + upper.len() as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, protocol]);
    for (at, node) in [(12, from), (16, to)] {
        let address = Coordinator::overlay().address_v4(mesh.host(node));
        packet[at..at + 4].copy_from_slice(&address.octets());
    }
    packet.extend_from_slice(upper);
    packet
}

/// Everything that a packet may carry somebody's bytes in: UDP, TCP, an echo
/// request, and ICMP errors that quote the others.
fn packets_with_payload(mesh: &Mesh, from: usize, to: usize, payload: &[u8]) -> Vec<Vec<u8>> {
    let headed = |mut head: Vec<u8>, filled: &[u8]| {
        head[..filled.len()].copy_from_slice(filled);
        head.extend_from_slice(payload);
        head
    };
    let udp = headed(vec![0; 8], &[0x10, 1, 0x10, 2]);
    let mut tcp = headed(vec![0; 20], &[0x10, 1, 0x10, 2]);
    tcp[12..14].copy_from_slice(&[0x50, 0x10]);
    let echo = headed(vec![0; 8], &[8, 0, 0, 0, 0, 7]);
    let mut packets = vec![];
    for (protocol, upper) in [(17, udp), (6, tcp), (1, echo)] {
        // The other side sent it, so that the error is about a flow of its own.
        let quoted = packet(mesh, to, from, protocol, &upper);
        let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
        error.extend_from_slice(&quoted);
        packets.push(packet(mesh, from, to, protocol, &upper));
        packets.push(packet(mesh, from, to, 1, &error));
    }
    packets
}

/// A tag of tomorrow, with something in it that is nobody's business.
struct Tomorrow([u8; 16]);

impl serde::Serialize for Tomorrow {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Tomorrow {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 16]>::deserialize(deserializer).map(Self)
    }
}

weft_wire::body!(struct Tomorrow { 0 });

impl Item for Tomorrow {
    const TAG: u32 = 9_999;
}

fn secrets_of(mesh: &Mesh, node: usize) -> Vec<Vec<u8>> {
    let identity = mesh.agent(node).identity();
    let member = identity.member().expect("it is enrolled");
    let device = &mesh.coordinator.devices[node];
    let pairs = mesh.coordinator.devices.iter().filter(|peer| peer.id != device.id);
    let mut secrets: Vec<Vec<u8>> =
        pairs.map(|peer| mesh.coordinator.pair_secret(device.id, peer.id).0.to_vec()).collect();
    secrets.extend([
        identity.identity_key.0.to_vec(),
        identity.wireguard_key.0.to_vec(),
        identity.coordinator.0.to_vec(),
        member.psk.0.to_vec(),
        member.inbox.0.to_vec(),
        mesh.coordinator.password(&member.inbox).0.to_vec(),
        device.wg_key.0.to_vec(),
        device.identity.0.to_vec(),
    ]);
    secrets
}

#[test]
fn a_trace_holds_no_key_name_password_or_payload() {
    let (mut mesh, a, b) = Mesh::pair(4);
    let mut rng = Rng::new(44);
    let mut canary = || -> [u8; 16] {
        let mut bytes = [0; 16];
        rng.fill(&mut bytes);
        bytes
    };
    let (payload, tomorrow) = (canary(), canary());
    let mut secrets: Vec<Vec<u8>> = vec![b"gw-a".to_vec(), b"gw-b".to_vec(), b"home".to_vec()];
    secrets.extend([payload.to_vec(), tomorrow.to_vec()]);
    secrets.extend([a, b].into_iter().flat_map(|node| secrets_of(&mesh, node)));
    let host = mesh.host(b);
    mesh.ping(a, host, 1);
    mesh.run_for(1_000);
    for (from, to) in [(a, b), (b, a)] {
        for packet in packets_with_payload(&mesh, from, to, &payload) {
            mesh.packet(from, &packet);
            mesh.run_for(100);
        }
        // All of them arrived, with their payload.
        let received = mesh.nodes[to].received.iter();
        let whole = received.filter(|(_, packet)| packet.windows(16).any(|part| part == payload));
        assert!(whole.count() >= 6);
        let id = mesh.id(from);
        let frames = mesh.coordinator.tell(id, |writer| writer.put(&Tomorrow(tomorrow)));
        mesh.send(frames);
        mesh.run_for(1_000);
    }
    assert_eq!(mesh.coordinator.unsupported, [9_999, 9_999]);
    // And once with the cache of the run before.
    let mut traces = vec![mesh.stop(a).0, mesh.stop(b).0];
    mesh.boot(a);
    mesh.run_for(1_000);
    traces.push(mesh.stop(a).0);
    for (secret, trace) in secrets.iter().flat_map(|secret| traces.iter().map(move |t| (secret, t)))
    {
        for part in secret.chunks(8).filter(|part| part.len() >= 4) {
            let found = trace.windows(part.len()).any(|window| window == part);
            assert!(!found, "{part:02x?}");
        }
    }
    for trace in &traces {
        assert_same(trace);
    }
}

#[test]
fn a_run_with_one_family_and_few_handshakes_is_replayed() {
    for seed in 20..23 {
        let traces = stormy(seed, |mesh| {
            mesh.sockets = Sockets { v4: Some(SocketId(0)), v6: None };
            mesh.tunnel = TunnelConfig::new().with_handshakes_per_second(1);
        });
        assert!(traces.iter().map(|trace| assert_same(&trace.0)).sum::<usize>() > 50);
    }
}

#[test]
fn what_is_no_trace_is_refused() {
    let (mut mesh, a, _) = Mesh::pair(5);
    let trace = mesh.stop(a).0;
    let empty = replay::<32, 32, 64, 64, 8, 8, MAX_FRAME, 0>(&[], 1);
    assert_eq!(empty.err(), Some(ReplayError::Format));
    let cut = replay::<32, 32, 64, 64, 8, 8, MAX_FRAME, 0>(&trace[..trace.len() - 1], 1);
    assert_eq!(cut.err(), Some(ReplayError::Format));
    // Half of a run is a run.
    let mut rest = &trace[..];
    let mut entries = Entries::new(rest);
    let count = entries.by_ref().count();
    assert!(count > 20);
    let mut len = 0;
    for _ in 0..count / 2 {
        let (_, after) = postcard::take_from_bytes::<(u64, Entry<'_>)>(rest).unwrap();
        len = trace.len() - after.len();
        rest = after;
    }
    assert_same(&trace[..len]);
}

/// The trace holds what STUN servers answered: the replayed agent calls with the
/// same addresses and takes the same path.
#[test]
fn a_path_through_nats_is_replayed() {
    let mut mesh = Mesh::new(81);
    mesh.add_stun(([203, 0, 113, 10], 3_478).into());
    mesh.add_stun(([203, 0, 113, 11], 3_478).into());
    let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
    mesh.site(a, Kind::Prc);
    mesh.site(b, Kind::Prc);
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    let host = mesh.host(b);
    mesh.ping(a, host, 1);
    mesh.run_to(5_000, |mesh| mesh.replies(a) == 1);
    for node in [a, b] {
        let trace = mesh.stop(node).0;
        assert!(assert_same(&trace) > 3);
        let other = IpAddr::from([198, 51, 100, 2 - node as u8]);
        let crossed = transitions(&trace)
            .expect("a trace")
            .into_iter()
            .any(|(_, entry)| matches!(entry, Entry::Route(_, _, to, _) if to.ip() == other));
        assert!(crossed, "over the other's NAT");
    }
}
