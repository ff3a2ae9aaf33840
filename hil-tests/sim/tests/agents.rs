//! Whole agents with a coordinator and a network between them.
#![allow(missing_docs, reason = "a test")]

use weft_agent_core::agent::{ChipAgent, GatewayAgent};
use weft_agent_core::config::implementation::{FLOWS_CHIP, HANDSHAKES_CHIP, STAGED_CHIP};
use weft_agent_core::control::Control;
use weft_agent_core::datapath::Datapath;
use weft_agent_core::event::{SocketId, Source};
use weft_agent_core::path::{Paths, Route};
use weft_agent_core::peers::{PeerState, Peers, Staging};
use weft_agent_core::time::Duration;
use weft_agent_core::tunnel::Tunnel;
use weft_noise::wg::CHIP_WINDOW_WORDS;
use weft_sim::mesh::Mesh;
use weft_sim::nat::Kind;
use weft_sim::{Link, Rng};
use weft_wire::frame::MAX_FRAME_CHIP;
use weft_wire::signal::{Candidate, CandidateKind};

#[test]
fn from_join_string_to_first_ping() {
    let mut mesh = Mesh::new(1);
    let a = mesh.add("gw-a");
    mesh.run_to(2_000, |mesh| mesh.knows(a, 0));
    let start = mesh.now;
    let b = mesh.add("gw-b");
    mesh.run_to(2_000, |mesh| mesh.knows(b, 1));
    mesh.ping(b, 2, 1);
    mesh.run_to(2_000, |mesh| mesh.replies(b) == 1);
    let took = mesh.now - start;
    println!("from start to first reply: {took:?} with 10 ms each way");
    assert!(took.as_millis() < 400, "{took:?}");
    let (id_a, id_b) = (mesh.id(a), mesh.id(b));
    assert_eq!(mesh.state(a, id_b), Some(PeerState::Active));
    assert_eq!(mesh.state(b, id_a), Some(PeerState::Active));
}

/// Who was restarted is found by peers that go on in the old session.
#[test]
fn a_restart_costs_its_peers_a_round_trip_and_not_15_s() {
    let (mut mesh, a, b) = Mesh::pair(40);
    let (host_a, host_b) = (mesh.host(a), mesh.host(b));
    mesh.ping(a, host_b, 1);
    mesh.run_for(1_000);
    mesh.ping(b, host_a, 2);
    mesh.run_for(1_000);
    mesh.stop(a);
    mesh.boot(a);
    mesh.run_for(1_000);
    let took = ping_until_answered(&mut mesh, b, host_a, 2_000);
    assert!(took.as_millis() < 500, "{took:?}");
    // Nobody is greeted twice, whoever forges what: without a session with it,
    // a peer's address is answered once.
    let source = Source { socket: SocketId(0), address: mesh.nodes[b].address };
    mesh.stop(b);
    mesh.run_for(200_000);
    mesh.stop(a);
    mesh.boot(a);
    mesh.run_for(100);
    let initiations = |mesh: &Mesh| mesh.nodes[a].sent.get(&1).copied().unwrap_or_default();
    let before = initiations(&mesh);
    for number in 0..1_000u32 {
        let mut forged = [0; 32];
        forged[0] = 4;
        forged[4..8].copy_from_slice(&number.to_le_bytes());
        let refused =
            mesh.input(a, |agent, now| agent.handle_datagram(source, &mut forged, now).is_err());
        assert!(refused);
        mesh.run_for(1);
    }
    assert_eq!(initiations(&mesh), before + 1);
}

/// Who moved says so to those it talks to; they would go on to its old place
/// until 15 s without an answer.
#[test]
fn a_move_costs_its_peers_nothing() {
    let (mut mesh, a, b) = Mesh::pair(41);
    let host_b = mesh.host(b);
    mesh.ping(a, host_b, 1);
    mesh.run_for(1_000);
    let address = "10.7.7.7:7".parse().expect("an address");
    mesh.move_node(b, address);
    mesh.input(b, |agent, now| {
        agent.set_local_addresses(&[Candidate { kind: CandidateKind::Host, address }], now);
    });
    mesh.run_for(100);
    let took = ping_until_answered(&mut mesh, a, host_b, 2_000);
    assert!(took.as_millis() < 100, "{took:?}");
    // The same addresses again are no news.
    let sent = mesh.input(b, |agent, now| {
        agent.set_local_addresses(&[Candidate { kind: CandidateKind::Host, address }], now);
        let mut out = [0; 2_048];
        core::iter::from_fn(|| agent.poll_transmit(&mut out)).count()
    });
    assert_eq!(sent, 0);
}

/// What a router lets in comes and goes while this device stays where it is.
#[test]
fn a_way_in_that_comes_and_goes_moves_nobody() {
    let (mut mesh, a, b) = Mesh::pair(43);
    let host_b = mesh.host(b);
    mesh.ping(a, host_b, 1);
    mesh.run_for(1_000);
    let host =
        Candidate { kind: CandidateKind::Host, address: "10.7.7.7:7".parse().expect("an address") };
    let mapped = Candidate {
        kind: CandidateKind::Mapped,
        address: "203.0.113.50:7".parse().expect("an address"),
    };
    let mut sent = |candidates: &[Candidate]| {
        mesh.input(b, |agent, now| {
            agent.set_local_addresses(candidates, now);
            let mut out = [0; 2_048];
            core::iter::from_fn(|| agent.poll_transmit(&mut out)).count()
        })
    };
    assert!(sent(&[host]) > 0, "another address is told at once");
    assert_eq!(sent(&[mapped, host]), 0);
    assert_eq!(sent(&[host]), 0);
}

fn bad() -> Link {
    Link {
        latency: Duration::from_millis(10),
        jitter: Duration::from_millis(8),
        loss_ppm: 100_000,
        duplicate_ppm: 30_000,
        reorder_ppm: 10_000,
        ..Link::IDEAL
    }
}

/// Pings every 200 ms until one comes back; how long that took.
fn ping_until_answered(mesh: &mut Mesh, from: usize, host: u32, limit_ms: u64) -> Duration {
    let (start, before) = (mesh.now, mesh.replies(from));
    let mut sequence = 0;
    while mesh.replies(from) == before {
        let passed = (mesh.now - start).as_millis();
        assert!(passed < limit_ms, "no reply in {limit_ms} ms\n{}", mesh.log.join("\n"));
        if passed.is_multiple_of(200) {
            mesh.ping(from, host, sequence);
            sequence += 1;
        }
        mesh.run_for(1);
    }
    mesh.now - start
}

#[test]
fn two_that_call_each_other_meet_once() {
    for seed in 0..50 {
        let (mut mesh, a, b) = Mesh::pair(seed);
        let (host_a, host_b) = (mesh.host(a), mesh.host(b));
        mesh.ping(a, host_b, 1);
        mesh.run_for(seed % 25);
        mesh.ping(b, host_a, 2);
        mesh.run_to(500, |mesh| mesh.replies(a) == 1 && mesh.replies(b) == 1);
        mesh.run_for(5_000);
        let handshakes: u32 = [a, b]
            .iter()
            .map(|&node| mesh.nodes[node].sent.get(&1).copied().unwrap_or_default())
            .sum();
        assert!(handshakes <= 2, "{handshakes} initiations (seed {seed})");
    }
}

#[test]
fn a_callee_that_holds_its_peers_on_demand_is_introduced() {
    let mut mesh = Mesh::new(2);
    let (a, b) = (mesh.add("gw-a"), mesh.add_on_demand("chip"));
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 0));
    let (host_a, host_b) = (mesh.host(a), mesh.host(b));
    mesh.ping(a, host_b, 1);
    mesh.run_to(500, |mesh| mesh.replies(a) == 1);
    assert!(mesh.knows(b, 1));
    mesh.ping(b, host_a, 2);
    mesh.run_to(500, |mesh| mesh.replies(b) == 1);
}

#[test]
fn one_open_direction_suffices() {
    // The callee cannot be reached, the caller cannot be reached, and both
    // behind firewalls that let answers in.
    for case in 0..4 {
        let (mut mesh, a, b) = Mesh::pair(case);
        let behind: &[usize] = match case {
            0 => &[b],
            1 => &[a],
            _ => &[a, b],
        };
        behind.iter().for_each(|&node| mesh.firewall(node));
        let host = mesh.host(if case == 3 { a } else { b });
        let from = if case == 3 { b } else { a };
        let took = ping_until_answered(&mut mesh, from, host, 1_000);
        println!("case {case}: {took:?}");
    }
}

#[test]
fn a_box_that_lets_udp_out_needs_no_help_towards_a_public_address() {
    for (seed, kind) in (0..).zip(Kind::ALL) {
        for called in [false, true] {
            let (mut mesh, a, b) = Mesh::pair(seed);
            mesh.site(b, kind);
            let (from, to) = if called { (a, b) } else { (b, a) };
            let host = mesh.host(to);
            mesh.ping(from, host, 1);
            mesh.run_for(3_000);
            let expected = usize::from(kind != Kind::Blocked);
            assert_eq!(mesh.replies(from), expected, "{}, called: {called}", kind.name());
        }
    }
}

#[test]
fn meets_over_bad_lines_within_seconds() {
    let mut worst = Duration::ZERO;
    for seed in 0..30 {
        let (mut mesh, a, b) = Mesh::pair(seed);
        mesh.line = bad();
        mesh.set_links(bad());
        let host = mesh.host(b);
        worst = worst.max(ping_until_answered(&mut mesh, a, host, 60_000));
    }
    println!("worst of 30 with 10 % loss on every link: {worst:?}");
}

#[test]
fn an_hour_of_pings_loses_none() {
    let (mut mesh, a, b) = Mesh::pair(5);
    let host = mesh.host(b);
    for sequence in 0..3_600 {
        mesh.ping(a, host, sequence);
        mesh.run_for(1_000);
    }
    assert_eq!(mesh.replies(a), 3_600);
    let initiations = mesh.nodes[a].sent[&1] + mesh.nodes[b].sent.get(&1).unwrap_or(&0);
    assert!((28..=32).contains(&initiations), "{initiations} initiations in an hour");
}

#[test]
fn storage_brings_a_tunnel_back_without_the_coordinator() {
    let (mut mesh, a, b) = Mesh::pair(6);
    let host = mesh.host(b);
    ping_until_answered(&mut mesh, a, host, 1_000);
    mesh.run_for(1_000);
    mesh.coordinator_down = true;
    mesh.cut_lines();
    for _ in 0..3 {
        mesh.stop(a);
        mesh.run_for(10_000);
        mesh.boot(a);
        assert!(mesh.knows(a, 1));
        let took = ping_until_answered(&mut mesh, a, host, 2_000);
        assert!(took.as_millis() < 100, "{took:?}");
    }
    // Both at once: neither remembers a session.
    mesh.stop(a);
    mesh.stop(b);
    mesh.run_for(1_000);
    mesh.boot(a);
    mesh.boot(b);
    ping_until_answered(&mut mesh, a, host, 2_000);
}

#[test]
fn a_peer_that_moved_is_called_and_found() {
    let (mut mesh, a, b) = Mesh::pair(7);
    let host = mesh.host(b);
    ping_until_answered(&mut mesh, a, host, 1_000);
    mesh.run_for(600_000);
    // It moves while nobody talks.
    let address = "10.9.9.9:5".parse().unwrap();
    mesh.move_node(b, address);
    let candidate = Candidate { kind: CandidateKind::Host, address };
    mesh.input(b, |agent, now| agent.set_local_addresses(&[candidate], now));
    let took = ping_until_answered(&mut mesh, a, host, 2_000);
    assert!(took.as_millis() < 300, "{took:?}");
    let peer = mesh.id(b);
    let selected = mesh.agent(a).peers().find(|p| p.device == peer).unwrap().selected.unwrap();
    assert_eq!(selected.route, Route::Direct { socket: SocketId(0), address });
    // It moves while both talk: data from the new address is followed.
    mesh.move_node(b, "10.9.9.10:5".parse().unwrap());
    let host_a = mesh.host(a);
    ping_until_answered(&mut mesh, b, host_a, 2_000);
    ping_until_answered(&mut mesh, a, host, 2_000);
}

#[test]
fn a_peer_that_is_away_is_given_up_and_found_later() {
    let (mut mesh, a, b) = Mesh::pair(8);
    let (host, id) = (mesh.host(b), mesh.id(b));
    mesh.stop(b);
    mesh.coordinator.restart();
    mesh.cut_lines();
    mesh.run_for(3_000);
    mesh.ping(a, host, 1);
    mesh.run_for(100);
    // The coordinator said at once that it is offline: nothing waits.
    assert_eq!(mesh.state(a, id), Some(PeerState::Known));
    assert_eq!(mesh.nodes[a].sent.get(&1), None);
    mesh.boot(b);
    mesh.run_for(5_000);
    ping_until_answered(&mut mesh, a, host, 6_000);
}

#[test]
fn an_outage_of_everything_heals_by_itself() {
    for seed in 0..10 {
        let (mut mesh, a, b) = Mesh::pair(seed);
        let host = mesh.host(b);
        ping_until_answered(&mut mesh, a, host, 1_000);
        mesh.link_mut(b).up = false;
        mesh.coordinator_down = true;
        mesh.cut_lines();
        for sequence in 0..300 {
            mesh.ping(a, host, sequence);
            mesh.run_for(1_000);
        }
        mesh.link_mut(b).up = true;
        mesh.coordinator_down = false;
        let took = ping_until_answered(&mut mesh, a, host, 100_000);
        println!("seed {seed}: {took:?} after the network healed");
    }
}

#[test]
fn nothing_passes_without_a_map() {
    let mut mesh = Mesh::new(9);
    mesh.coordinator.lease_s = 3_600;
    let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    let host = mesh.host(b);
    ping_until_answered(&mut mesh, a, host, 2_000);
    mesh.coordinator_down = true;
    mesh.cut_lines();
    mesh.run_for(3_700_000);
    let (received, sent) = (mesh.nodes[b].received.len(), mesh.nodes[a].sent.clone());
    mesh.ping(a, host, 9);
    mesh.run_for(10_000);
    assert_eq!(mesh.nodes[b].received.len(), received);
    assert_eq!(mesh.nodes[a].sent, sent);
}

#[test]
fn sizes() {
    let chip = size_of::<ChipAgent<Rng>>();
    let gateway = size_of::<GatewayAgent<Rng>>();
    println!("Agent: chip (8 peers) {chip} B, gateway (256 peers) {gateway} B");
    println!(
        "of a chip's: control {}, tunnel {}, data path {}, paths {}, peers {}, staging {}",
        size_of::<Control<MAX_FRAME_CHIP>>(),
        size_of::<Tunnel<8>>(),
        size_of::<Datapath<8, HANDSHAKES_CHIP, 16, FLOWS_CHIP, CHIP_WINDOW_WORDS>>(),
        size_of::<Paths<8>>(),
        size_of::<Peers<8, 16>>(),
        size_of::<Staging<STAGED_CHIP, 1_420>>(),
    );
    // Of it about 800 B per peer for the addresses that are tried, and 2 KiB for calls
    // that come over ways.
    assert!(chip <= 58 * 1_024 + 512, "{chip}");
    assert!(gateway <= 1_840 * 1_024, "{gateway}");
}
