//! Agents behind NATs find each other.
#![allow(missing_docs, reason = "a test")]

use std::net::IpAddr;

use weft_agent_core::path::Route;
use weft_agent_core::time::{Duration, Instant};
use weft_sim::mesh::{Coordinator, Mesh, echo};
use weft_sim::nat::{Kind, Ports, Rules};
use weft_wire::probe::PROBE;

/// Two members behind NATs of their own that have been idle for longer than any
/// mapping lives.
fn idle(seed: u64, one: Kind, other: Kind) -> (Mesh, usize, usize) {
    let mut mesh = Mesh::new(seed);
    mesh.add_stun_servers();
    let (a, b) = mesh.add_pair(one, other);
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
    let selected = peer.selected.expect("a path");
    let Route::Direct { address, .. } = selected.route else {
        panic!("no direct path");
    };
    assert!(!selected.relayed);
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

/// NATs that forget a mapping after 30 s: after a pause of a minute the old way
/// is dead in both directions, and the session is not.
#[test]
fn a_forgotten_mapping_is_found_out_in_three_seconds() {
    let mut mesh = Mesh::new(3);
    mesh.add_stun_servers();
    let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
    let rules = Rules { stream: Duration::from_secs(30), ports: Ports::Random, ..Rules::HOME };
    mesh.site_with(a, rules);
    mesh.site_with(b, rules);
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    let host = mesh.host(b);
    for sequence in 0..5 {
        mesh.ping(a, host, sequence);
        mesh.run_for(1_000);
    }
    assert!(mesh.replies(a) >= 4, "{}", mesh.replies(a));
    mesh.run_for(60_000);
    let (before, start) = (mesh.replies(a), mesh.now);
    let mut sequence = 100;
    while mesh.replies(a) == before {
        mesh.ping(a, host, sequence);
        sequence += 1;
        mesh.run_for(100);
        let took = mesh.now - start;
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    println!("{:?} until the first answer", mesh.now - start);
}

/// Data that nobody answers is no reason to call while the way answers.
#[test]
fn a_flow_that_goes_one_way_costs_a_ping_in_four_seconds() {
    let (mut mesh, a, b) = idle(4, Kind::Prc, Kind::Prc);
    let (from, to) = (mesh.host(a), mesh.host(b));
    mesh.ping(a, to, 1);
    mesh.run_for(3_000);
    let overlay = Coordinator::overlay();
    let question = echo::request(overlay.address_v4(to), overlay.address_v4(from), 1, 56);
    let one_way = echo::reply(&question).expect("a question");
    let sent = |mesh: &Mesh, kind: u8| mesh.nodes[a].sent.get(&kind).copied().unwrap_or_default();
    let (stun, probes) = (sent(&mesh, 0), sent(&mesh, PROBE));
    for _ in 0..1_200 {
        mesh.packet(a, &one_way);
        mesh.run_for(100);
    }
    assert_eq!(sent(&mesh, 0), stun, "no call, for which a server would be asked");
    let probes = sent(&mesh, PROBE) - probes;
    // Two each time: an answer takes as long as the second one waits.
    assert!((20..=64).contains(&probes), "{probes} probes in two minutes");
}

const RELAY: [u8; 4] = [203, 0, 113, 20];

/// The same as [`idle`] in a network with a relay.
fn idle_with_relay(seed: u64, one: Kind, other: Kind) -> (Mesh, usize, usize) {
    idle_with_relays(seed, one, other, 1)
}

fn idle_with_relays(seed: u64, one: Kind, other: Kind, relays: u8) -> (Mesh, usize, usize) {
    let mut mesh = Mesh::new(seed);
    mesh.add_stun_servers();
    for relay in 0..relays {
        mesh.add_relay((u32::from_be_bytes(RELAY) + u32::from(relay)).into());
    }
    let (a, b) = mesh.add_pair(one, other);
    mesh.run_for(300_000);
    assert_eq!(mesh.relays[0].turn.allocations(), 0, "nobody talks");
    (mesh, a, b)
}

fn is_relayed(mesh: &Mesh, node: usize) -> bool {
    let peer = mesh.agent(node).peers().next().expect("a peer");
    peer.selected.expect("a path").relayed
}

/// Two boxes that cannot be crossed: the first packet goes over the relay, one
/// allocation is enough, and it is given back when nobody talks.
#[test]
fn what_cannot_be_crossed_is_relayed_at_once() {
    use Kind::{Cgnat, NoFw, Prc, SymRand, SymSeq, SymWin};
    for one in [SymRand, SymWin] {
        for other in [Prc, NoFw, Cgnat, SymRand, SymSeq, SymWin] {
            for (seed, one, other) in [(1, one, other), (2, other, one)] {
                let (mut mesh, a, b) = idle_with_relay(seed, one, other);
                let took = first_packet(&mut mesh, a, b);
                let names = (one.name(), other.name());
                println!("{names:?} {took:?}");
                assert!(took.as_millis() < 300, "{names:?}: {took:?}");
                assert!(is_relayed(&mesh, a) && is_relayed(&mesh, b), "{names:?}");
                let host = mesh.host(b);
                for sequence in 2..52 {
                    mesh.ping(a, host, sequence);
                    mesh.run_for(100);
                }
                assert_eq!(mesh.replies(a), 51, "{names:?}: none is lost");
                assert_eq!(mesh.relays[0].turn.allocations(), 1);
                mesh.run_for(200_000);
                assert_eq!(mesh.relays[0].turn.allocations(), 0, "nobody talks any more");
            }
        }
    }
}

/// Whoever is reached directly needs the relay no more, though nobody says another
/// word: what it kept for the first packets is given back soon.
#[test]
fn an_idle_direct_pair_holds_no_allocation() {
    use Kind::{AdCone, Cgnat, FullCone, NoFw, Open, Prc};
    let kinds = [Open, FullCone, AdCone, Prc, NoFw, Cgnat];
    for (one, seed) in kinds.into_iter().zip(0..) {
        for other in kinds {
            let (mut mesh, a, b) = idle_with_relay(seed, one, other);
            first_packet(&mut mesh, a, b);
            mesh.run_for(20_000);
            let names = (one.name(), other.name());
            assert!(!is_relayed(&mesh, a) && !is_relayed(&mesh, b), "{names:?}");
            assert_eq!(mesh.relays[0].turn.allocations(), 0, "{names:?}");
        }
    }
}

/// A peer that the map names no more needs no allocation, and nobody waits until
/// something else happens to give it back.
#[test]
fn a_relay_keeps_nothing_for_a_peer_that_is_gone() {
    let (mut mesh, a, b) = idle_with_relay(1, Kind::SymRand, Kind::SymRand);
    first_packet(&mut mesh, a, b);
    mesh.run_for(100);
    assert_eq!(mesh.relays[0].turn.allocations(), 1);
    let id = mesh.id(b);
    let frames = mesh.coordinator.remove(id);
    mesh.send(frames);
    mesh.run_for(500);
    assert_eq!(mesh.relays[0].turn.allocations(), 0);
}

/// The direct way is cut under traffic: data goes on over the relay without a
/// handshake, and comes back by itself when the cut heals.
#[test]
fn a_cut_is_bridged_by_the_relay_and_left_again() {
    let (mut mesh, a, b) = idle_with_relay(7, Kind::Prc, Kind::Prc);
    let took = first_packet(&mut mesh, a, b);
    assert!(took.as_millis() < 200 && !is_relayed(&mesh, a), "{took:?}");
    let host = mesh.host(b);
    let handshakes = |mesh: &Mesh| mesh.agent(a).peers().next().expect("a peer").tunnel;
    let before = handshakes(&mesh).established_at;
    for round in 0..3 {
        mesh.network.forbid([198, 51, 100, 1].into(), [198, 51, 100, 2].into());
        let cut_at = mesh.now;
        let gap = flow(&mut mesh, a, host, 6_000);
        println!("round {round}: gap {gap:?}");
        assert!(gap < Duration::from_millis(2_500), "{gap:?}");
        assert!(is_relayed(&mesh, a) && is_relayed(&mesh, b));
        mesh.network.allow_all();
        let limit = cut_at + Duration::from_secs(40);
        while is_relayed(&mesh, a) || is_relayed(&mesh, b) {
            assert!(mesh.now < limit, "it stays on the relay");
            let gap = flow(&mut mesh, a, host, 200);
            assert!(gap < Duration::from_millis(100), "{gap:?} on the way back");
        }
        println!("round {round}: direct again {:?} after the cut", mesh.now - cut_at);
        flow(&mut mesh, a, host, 15_000);
        assert!(!is_relayed(&mesh, a) && !is_relayed(&mesh, b));
    }
    assert_eq!(handshakes(&mesh).established_at, before, "no handshake was made");
}

/// An echo every 20 ms: the longest time without an answer.
fn flow(mesh: &mut Mesh, from: usize, to: u32, millis: u64) -> Duration {
    flows(mesh, &[(from, to)], millis)
}

/// The same from several: the longest time in which the first had no answer.
fn flows(mesh: &mut Mesh, all: &[(usize, u32)], millis: u64) -> Duration {
    let (mut last, mut gap) = (mesh.now, Duration::ZERO);
    let mut seen = mesh.replies(all[0].0);
    for sequence in 0..millis / 20 {
        for (from, to) in all {
            mesh.ping(*from, *to, sequence as u16);
        }
        for _ in 0..20 {
            mesh.run_for(1);
            let now = mesh.replies(all[0].0);
            if now > seen {
                (seen, last) = (now, mesh.now);
            }
            gap = gap.max(mesh.now - last);
        }
    }
    gap
}

/// The relay that carries a pair takes packets and does nothing any more: another
/// one carries it within seconds.
#[test]
fn a_relay_that_falls_silent_is_left_for_another() {
    for (seed, one, other) in [
        (1, Kind::SymRand, Kind::Prc),
        (2, Kind::Prc, Kind::SymRand),
        (3, Kind::SymRand, Kind::SymRand),
    ] {
        let (mut mesh, a, b) = idle_with_relays(seed, one, other, 2);
        first_packet(&mut mesh, a, b);
        assert!(is_relayed(&mesh, a) && is_relayed(&mesh, b));
        let host = mesh.host(b);
        flow(&mut mesh, a, host, 20_000);
        let used = mesh.relays.iter().position(|relay| relay.turn.allocations() > 0);
        mesh.relays[used.expect("one is used")].is_dead = true;
        let gap = flow(&mut mesh, a, host, 10_000);
        println!("{} {}: {gap:?}", one.name(), other.name());
        assert!(gap < Duration::from_millis(3_000), "{gap:?}");
        let gap = flow(&mut mesh, a, host, 30_000);
        assert!(gap < Duration::from_millis(200), "{gap:?} afterwards");
    }
}

/// A device gets another address, behind another box: traffic goes on within a
/// second, whoever talks and whichever way it went before.
#[test]
fn a_move_is_followed() {
    for (seed, one, other) in [
        (1, Kind::Prc, Kind::Prc),
        (2, Kind::SymRand, Kind::Prc),
        (3, Kind::Prc, Kind::SymRand),
        (4, Kind::Open, Kind::Prc),
    ] {
        for moved in [&[0][..], &[1], &[0, 1]] {
            let (mut mesh, a, b) = idle_with_relays(seed, one, other, 1);
            first_packet(&mut mesh, a, b);
            let host = mesh.host(b);
            flow(&mut mesh, a, host, 20_000);
            moved.iter().for_each(|&at| mesh.roam([a, b][at], Kind::Prc));
            let gap = flow(&mut mesh, a, host, 10_000);
            println!("{} {} {moved:?}: {gap:?}", one.name(), other.name());
            assert!(gap < Duration::from_millis(1_000), "{gap:?}");
        }
    }
}

/// Two that cannot reach each other try for as long as WireGuard does after the
/// last packet, and do not keep each other at it.
#[test]
fn who_cannot_be_reached_is_left_alone() {
    for (one, other) in [(Kind::SymRand, Kind::SymRand), (Kind::SymWin, Kind::SymRand)] {
        let (mut mesh, a, b) = idle(9, one, other);
        let host = mesh.host(b);
        for sequence in 0..30 {
            mesh.ping(a, host, sequence);
            mesh.run_for(1_000);
        }
        assert!(mesh.nodes[b].received.is_empty(), "no NAT is crossed");
        mesh.run_for(240_000);
        let sent = |mesh: &Mesh| [a, b].map(|node| mesh.nodes[node].sent.clone());
        let before = sent(&mesh);
        mesh.run_for(1_200_000);
        assert_eq!(sent(&mesh), before, "{} to {}", one.name(), other.name());
    }
}

/// From the first packet until both sides' data goes without a relay, of traffic
/// that goes on.
fn direct_after(mesh: &mut Mesh, a: usize, b: usize, limit_ms: u64) -> Option<Duration> {
    let (host, start) = (mesh.host(b), mesh.now);
    let mut sequence = 0;
    while mesh.now - start < Duration::from_millis(limit_ms) {
        mesh.ping(a, host, sequence);
        sequence = sequence.wrapping_add(1);
        mesh.run_for(20);
        let up = |node: usize| {
            let peer = mesh.agent(node).peers().next().expect("a peer");
            peer.selected.is_some_and(|selected| !selected.relayed)
        };
        if up(a) && up(b) {
            return Some(mesh.now - start);
        }
    }
    None
}

/// The same boxes with a relay at hand, which carries the first packets: none of
/// what goes there spoils a mapping, and data is direct soon afterwards.
#[test]
fn nats_that_map_alike_are_crossed_beside_a_relay() {
    use Kind::{AdCone, Cgnat, FullCone, NoFw, Open, Prc};
    let kinds = [Open, FullCone, AdCone, Prc, NoFw, Cgnat];
    for (one, number) in kinds.into_iter().zip(0..) {
        for other in kinds {
            let (mut mesh, a, b) = idle_with_relay(number, one, other);
            let took = direct_after(&mut mesh, a, b, 3_000);
            let soon = took.is_some_and(|took| took <= Duration::from_millis(300));
            assert!(soon, "{} to {}: {took:?}", one.name(), other.name());
        }
    }
}

/// The first pings to each other are lost, and the direct way answers at any moment of
/// the handshake over the relay: data leaves the relay all the same.
#[test]
fn a_way_that_answers_during_the_handshake_is_taken() {
    for late in (0..400).step_by(5) {
        for calls_leader in [false, true] {
            let (mut mesh, a, b) = idle_with_relay(late, Kind::Prc, Kind::Prc);
            let (from, to) = if calls_leader { (b, a) } else { (a, b) };
            mesh.network.forbid([198, 51, 100, 1].into(), [198, 51, 100, 2].into());
            let host = mesh.host(to);
            mesh.ping(from, host, 1);
            mesh.run_for(late);
            mesh.network.allow_all();
            let took = direct_after(&mut mesh, from, to, 1_500);
            assert!(took.is_some(), "the first {late} ms are lost, {from} calls");
        }
    }
}

/// Three members in a network with a relay, the first behind a box without a firewall
/// that a packet of the second has reached before the first sends anything there.
fn spoiled(seed: u64, third: Kind) -> (Mesh, [usize; 3]) {
    let mut mesh = Mesh::new(seed);
    mesh.add_stun_servers();
    mesh.add_relay(RELAY.into());
    let nodes = ["gw-a", "gw-b", "gw-c"].map(|name| mesh.add(name));
    for (node, kind) in nodes.into_iter().zip([Kind::NoFw, Kind::Prc, third]) {
        mesh.site(node, kind);
    }
    mesh.run_to(5_000, |mesh| nodes.into_iter().all(|node| mesh.knows(node, 2)));
    mesh.run_for(300_000);
    let port = mesh.nodes[nodes[0]].address.port();
    mesh.knock(nodes[1], ([198, 51, 100, 1], port).into());
    mesh.run_for(50);
    (mesh, nodes)
}

/// Pings for half a second: whether they go directly then.
fn is_soon_direct(mesh: &mut Mesh, from: usize, to: usize) -> bool {
    let (host, id) = (mesh.host(to), mesh.id(to));
    for sequence in 0..25 {
        mesh.ping(from, host, sequence);
        mesh.run_for(20);
    }
    let peer = mesh.agent(from).peers().find(|peer| peer.device == id).expect("a peer");
    !peer.selected.expect("a path").relayed
}

/// A box without a firewall gives a flow another port when a packet of it came in before
/// the first went out. Whoever is reached over the caller's relay hears so from the
/// caller, and the two meet at that port.
#[test]
fn a_spoiled_mapping_is_found_out_by_the_answer_over_the_relay() {
    for seed in 0..5 {
        let (mut mesh, [a, b, _]) = spoiled(seed, Kind::Open);
        assert!(is_soon_direct(&mut mesh, b, a), "seed {seed}");
    }
}

/// Such a box gives other new flows that port too, while those to servers keep theirs:
/// who is called next is told of both.
#[test]
fn a_mapping_that_one_peer_has_spoiled_is_told_to_the_next() {
    for (seed, third) in (0..).zip([Kind::Prc, Kind::Cgnat, Kind::NoFw]) {
        let (mut mesh, [a, b, c]) = spoiled(seed, third);
        mesh.network.forbid([198, 51, 100, 1].into(), [198, 51, 100, 2].into());
        assert!(!is_soon_direct(&mut mesh, b, a));
        mesh.run_for(1_000);
        assert!(is_soon_direct(&mut mesh, a, c), "{}", third.name());
    }
}

/// Boxes that give every destination another port, towards one that does not: a
/// counted port is predicted, one of a block is met, and any port in most cases.
#[test]
fn ports_of_hard_boxes_are_met() {
    use Kind::{Cgnat, NoFw, Prc, SymRand, SymSeq, SymWin};
    for (hard, limit_ms, of_ten) in [(SymSeq, 600, 10), (SymWin, 8_000, 10), (SymRand, 15_000, 8)] {
        for easy in [Prc, NoFw, Cgnat, SymSeq] {
            if easy == SymSeq && hard != SymSeq {
                continue;
            }
            let mut met = vec![];
            for seed in 0..10 {
                let kinds = if seed % 2 == 0 { (hard, easy) } else { (easy, hard) };
                let (mut mesh, a, b) = idle_with_relay(seed, kinds.0, kinds.1);
                met.extend(direct_after(&mut mesh, a, b, limit_ms));
                for node in [a, b] {
                    let (sent, extra) = (&mesh.nodes[node].sent, mesh.nodes[node].extra.len());
                    assert!(extra <= 250, "{extra} sockets, {sent:?}");
                }
            }
            println!("{} {}: {} of 10 {met:?}", hard.name(), easy.name(), met.len());
            assert!(met.len() >= of_ten, "{} {}: {met:?}", hard.name(), easy.name());
        }
    }
}

/// A packet to somebody who cannot be reached is held for two seconds, and its
/// sender told.
#[test]
fn a_packet_without_a_way_is_given_back() {
    let (mut mesh, a, b) = idle(9, Kind::SymRand, Kind::SymRand);
    let host = mesh.host(b);
    mesh.ping(a, host, 1);
    mesh.run_for(1_900);
    assert!(mesh.nodes[a].refused.is_empty());
    mesh.run_for(200);
    let told = &mesh.nodes[a].refused;
    assert_eq!(told.len(), 1);
    let [kind, code] = [told[0].1[20], told[0].1[21]];
    assert_eq!((kind, code), (3, 1), "host unreachable (RFC 792)");
}

/// More packets than are held for one peer: the oldest are given back at once, the
/// others after two seconds, and nobody waits for an answer in vain.
#[test]
fn packets_beyond_what_is_held_are_given_back_too() {
    let (mut mesh, a, b) = idle(9, Kind::SymRand, Kind::SymRand);
    let host = mesh.host(b);
    for sequence in 1..=10 {
        mesh.ping(a, host, sequence);
    }
    // Of the echo request that the error quotes: after an IPv4 header, an ICMP
    // header and another IPv4 header.
    let told = |mesh: &Mesh| -> Vec<u16> {
        let refused = mesh.nodes[a].refused.iter();
        refused.map(|(_, error)| u16::from_be_bytes([error[54], error[55]])).collect()
    };
    assert_eq!(told(&mesh), [1, 2, 3, 4, 5, 6], "four are held");
    mesh.run_for(2_100);
    assert_eq!(told(&mesh), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let unreachable = |(_, error): &(Instant, Vec<u8>)| error[20..22] == [3, 1];
    assert!(mesh.nodes[a].refused.iter().all(unreachable));
}

/// How many a device has made with its peer.
fn handshakes(mesh: &Mesh, node: usize) -> u32 {
    mesh.agent(node).peers().next().expect("a peer").tunnel.handshakes
}

/// Two faults on end: the direct way is cut, and soon after the relay dies that
/// has taken over.
#[test]
fn a_relay_that_dies_soon_after_a_cut_is_left_too() {
    for seed in 0..6 {
        let (mut mesh, a, b) = idle_with_relays(seed, Kind::Prc, Kind::Prc, 2);
        let (a, b) = if seed % 2 == 0 { (a, b) } else { (b, a) };
        first_packet(&mut mesh, a, b);
        let both = [(a, mesh.host(b)), (b, mesh.host(a))];
        flows(&mut mesh, &both, 10_000);
        mesh.network.forbid([198, 51, 100, 1].into(), [198, 51, 100, 2].into());
        flows(&mut mesh, &both, 3_000 + 500 * seed);
        assert!(is_relayed(&mesh, a) && is_relayed(&mesh, b));
        let used: Vec<usize> =
            (0..2).filter(|at| mesh.relays[*at].turn.allocations() > 0).collect();
        for &at in &used {
            let other = mesh.agent(a).rung().or_else(|| mesh.agent(b).rung());
            mesh.relays[at].is_dead |= other.is_none_or(|rung| usize::from(rung.relay) == at + 1);
        }
        let before = handshakes(&mesh, a);
        let gap = flows(&mut mesh, &both, 10_000);
        println!("seed {seed}: {gap:?}, relays in use {used:?}");
        assert!(gap < Duration::from_millis(3_000), "{gap:?}");
        assert_eq!(handshakes(&mesh, a), before, "a session does not care which way it goes");
    }
}
