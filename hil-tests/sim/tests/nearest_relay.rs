//! Which of two relays is asked for an allocation, by how far each is.
#![allow(missing_docs, reason = "a test")]

use std::net::SocketAddr;

use weft_agent_core::time::Duration;
use weft_sim::mesh::{Mesh, clean};
use weft_sim::nat::Kind;
use weft_sim::relay::PORT;

const MINUTE: u64 = 60_000;

/// Two devices behind boxes that cannot be crossed, the first behind one that asks two
/// servers at a time; and relays so many milliseconds away and back, in the map's order.
fn meshed(seed: u64, first: Kind, round_trips_ms: [u64; 2]) -> (Mesh, usize, usize) {
    let mut mesh = Mesh::new(seed);
    mesh.add_stun(([203, 0, 113, 10], 3_478).into());
    for (last, ms) in (30..).zip(round_trips_ms) {
        let ip = [203, 0, 113, last].into();
        mesh.add_relay(ip);
        mesh.coordinator.stun.push(SocketAddr::new(ip.into(), PORT));
        let host = mesh.relays.last().expect("it was added").host;
        // A device's own link takes 5 ms each way.
        *mesh.network.link_mut(host) = clean(ms / 2 - 5);
    }
    let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
    mesh.site(a, first);
    mesh.site(b, Kind::SymRand);
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    mesh.run_for(MINUTE);
    (mesh, a, b)
}

/// A call to the other one that is over again when this returns: at which relay the
/// caller was, and how long the first answer took.
fn call(mesh: &mut Mesh, a: usize, b: usize) -> (u16, u64) {
    let (host, before, began) = (mesh.host(b), mesh.replies(a), mesh.now);
    let took = loop {
        mesh.ping(a, host, 1);
        mesh.run_for(100);
        if mesh.replies(a) > before {
            break (mesh.now - began).as_millis();
        }
        assert!(mesh.now - began < Duration::from_secs(20), "no answer");
    };
    let rung = mesh.agent(a).rung().expect("the caller asks for an allocation");
    mesh.run_for(4 * MINUTE);
    assert_eq!(mesh.agent(a).rung(), None, "nobody talks any more");
    (rung.relay, took)
}

#[test]
fn the_near_relay_is_used_as_soon_as_it_is_known_to_be_near() {
    for (seed, kind) in (0..).zip([Kind::SymRand, Kind::Prc].repeat(4)) {
        // The first server and both relays are asked at the start.
        let (mut mesh, a, b) = meshed(seed, kind, [120, 20]);
        let known = [1, 2].map(|relay| mesh.agent(a).relay_round_trip(relay));
        assert_eq!(known, [Some(120), Some(20)]);
        assert_eq!(call(&mut mesh, a, b).0, 2);
    }
}

#[test]
fn relays_that_are_as_far_are_never_swapped() {
    for (seed, round_trips) in (0..).zip([[40, 40], [42, 34], [120, 100], [20, 120]]) {
        for first in [Kind::SymRand, Kind::Prc] {
            let (mut mesh, a, b) = meshed(seed, first, round_trips);
            let calls = [0; 3].map(|_| call(&mut mesh, a, b).0);
            assert_eq!(calls, [1, 1, 1], "{round_trips:?}");
        }
    }
}

/// It answers its users and servers' requests, and passes nothing on.
#[test]
fn a_near_relay_that_is_deaf_is_left_and_stays_left() {
    for seed in 0..4 {
        let (mut mesh, a, b) = meshed(seed, Kind::SymRand, [120, 20]);
        mesh.relays[1].is_deaf = true;
        let calls = [0; 3].map(|_| call(&mut mesh, a, b));
        println!("seed {seed}: {calls:?}");
        for (relay, took) in &calls[1..] {
            assert_eq!(*relay, 1);
            assert!(*took <= 1_500, "seed {seed}: {calls:?}");
        }
        assert_eq!(mesh.agent(a).relay_round_trip(2), None);
    }
}
