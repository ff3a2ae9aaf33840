//! Agents behind NATs find each other.
#![allow(missing_docs, reason = "a test")]

use std::net::IpAddr;

use weft_agent_core::path::Route;
use weft_agent_core::time::Duration;
use weft_sim::mesh::Mesh;
use weft_sim::nat::Kind;

const SERVERS: [([u8; 4], u16); 2] = [([203, 0, 113, 10], 3_478), ([203, 0, 113, 11], 3_478)];

/// Two members behind NATs of their own that have been idle for longer than any
/// mapping lives.
fn idle(seed: u64, one: Kind, other: Kind) -> (Mesh, usize, usize) {
    let mut mesh = Mesh::new(seed);
    for server in SERVERS {
        mesh.add_stun(server.into());
    }
    let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
    mesh.site(a, one);
    mesh.site(b, other);
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    mesh.run_for(300_000);
    (mesh, a, b)
}

/// From the first packet of `a` to its arrival at `b`.
fn first_packet(mesh: &mut Mesh, a: usize, b: usize) -> Duration {
    let host = mesh.host(b);
    mesh.ping(a, host, 1);
    mesh.run_to(5_000, |mesh| !mesh.nodes[b].received.is_empty())
}

fn assert_direct(seed: u64, one: Kind, other: Kind) {
    let (mut mesh, a, b) = idle(seed, one, other);
    let took = first_packet(&mut mesh, a, b);
    assert!(took.as_millis() < 200, "{} to {}: {took:?}", one.name(), other.name());
    let id = mesh.id(b);
    let peer = mesh.agent(a).peers().find(|peer| peer.device == id).expect("a peer");
    let Some(Route::Direct { address, .. }) = peer.selected.map(|selected| selected.route) else {
        panic!("no direct path");
    };
    assert_eq!(address.ip(), IpAddr::from([198, 51, 100, 2]), "over the other's NAT");
}

/// NATs that map every destination alike need no relay and no prediction: both
/// sides learn where they are seen from, and begin at the same time. Those
/// without a firewall are spoiled by a probe that comes too early, so they show
/// that the time is the same.
#[test]
fn nats_that_map_alike_are_crossed() {
    use Kind::{AdCone, Cgnat, FullCone, NoFw, Open, Prc};
    let kinds = [Open, FullCone, AdCone, Prc, NoFw, Cgnat];
    for (one, number) in kinds.into_iter().zip(0..) {
        kinds.into_iter().for_each(|other| assert_direct(number, one, other));
    }
}

/// A NAT that gives every destination another port is crossed when the other
/// side lets in whoever sends from the right address: its ping tells the port.
#[test]
fn a_port_that_nobody_could_name_is_found() {
    use Kind::{AdCone, FullCone, Open, SymEif, SymRand, SymSeq, SymWin};
    for one in [SymSeq, SymWin, SymRand, SymEif] {
        for other in [Open, FullCone, AdCone] {
            assert_direct(1, one, other);
            assert_direct(2, other, one);
        }
    }
}
