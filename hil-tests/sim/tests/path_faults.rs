//! What random pairs have found out about paths ([`weft_sim::pairs`]), each in its
//! smallest form.
#![allow(missing_docs, reason = "a test")]

use std::net::IpAddr;

use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::peers::PeerState;
use weft_agent_core::time::Duration;
use weft_sim::mesh::{Coordinator, Mesh as AnyMesh, echo};
use weft_sim::nat::{Filtering, Kind, Mapping, Nat, Ports, Rules};
use weft_sim::net::GatewayId;

/// Agents with as few places as there may be: their tables are full soon.
type Mesh = AnyMesh<NoTrace, 2, 8>;

/// Every destination sees another port.
const HARD: Rules =
    Rules { mapping: Mapping::AddressAndPortDependent, ports: Ports::Random, ..Rules::HOME };
const OUTER: [[u8; 4]; 2] = [[198, 51, 100, 1], [198, 51, 100, 2]];

/// Two members behind such boxes, two STUN servers and some relays.
fn members(seed: u64, rules: [Rules; 2], relays: u8) -> (Mesh, [GatewayId; 2]) {
    let mut mesh = Mesh::of(seed);
    for last in [10, 11] {
        mesh.add_stun(([203, 0, 113, last], 3_478).into());
    }
    for last in 20..20 + relays {
        mesh.add_relay([203, 0, 113, last].into());
    }
    let [a, b] = ["gw-a", "gw-b"].map(|name| mesh.add(name));
    let gates = [mesh.site_with(a, rules[0]), mesh.site_with(b, rules[1])];
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    (mesh, gates)
}

/// One packet of a flow that goes one way.
fn send(mesh: &mut Mesh, from: usize) {
    let overlay = Coordinator::overlay();
    let [source, destination] = [from, 1 - from].map(|node| overlay.address_v4(mesh.host(node)));
    mesh.packet(from, &echo::unasked(source, destination, 1));
}

/// Packets each way, one a second.
fn talk(mesh: &mut Mesh, senders: &[usize], seconds: u64) {
    for _ in 0..seconds {
        senders.iter().for_each(|from| send(mesh, *from));
        mesh.run_for(1_000);
    }
}

/// Packets of one device, one a second, until one arrives: how long that took.
fn until_arrival(mesh: &mut Mesh, from: usize) -> Duration {
    let start = mesh.now;
    let before = mesh.nodes[1 - from].received.len();
    while mesh.nodes[1 - from].received.len() == before {
        assert!(mesh.now - start < Duration::from_secs(60), "nothing arrives for a minute");
        talk(mesh, &[from], 1);
    }
    mesh.now - start
}

/// The relay at which the two have met, or are about to.
fn relay_in_use(mesh: &Mesh) -> Option<usize> {
    mesh.relays.iter().position(|relay| relay.turn.allocations() > 0)
}

fn is_relayed(mesh: &Mesh, node: usize) -> bool {
    let peer = mesh.agent(node).peers().next().expect("a peer");
    peer.selected.expect("a path").relayed
}

/// A device's line loses everything for a while.
fn lose_all_for(mesh: &mut Mesh, node: usize, millis: u64) {
    let before = core::mem::replace(&mut mesh.link_mut(node).loss_ppm, 1_000_000);
    mesh.run_for(millis);
    mesh.link_mut(node).loss_ppm = before;
}

fn cut(mesh: &mut Mesh) {
    let [one, other] = OUTER.map(IpAddr::from);
    mesh.network.forbid(one, other);
}

/// Whoever waits for the end of a relayed way that nobody uses notices all the
/// same when data goes again and nothing comes back.
#[test]
fn a_relayed_way_that_died_in_a_pause_is_noticed() {
    let (mut mesh, gates) = members(1, [HARD, HARD], 1);
    talk(&mut mesh, &[0, 1], 5);
    assert!(is_relayed(&mesh, 0) && is_relayed(&mesh, 1));
    mesh.run_for(60_000);
    gates.iter().for_each(|gate| mesh.network.reboot(*gate));
    let took = until_arrival(&mut mesh, 0);
    assert!(took <= Duration::from_secs(6), "{took:?}");
}

/// In a flow that goes one way nothing comes back either, so the way itself is
/// asked again and again.
#[test]
fn a_flow_that_goes_one_way_is_without_a_way_for_ten_seconds_at_most() {
    let (mut mesh, _) = members(2, [Rules::HOME; 2], 1);
    talk(&mut mesh, &[0], 20);
    assert!(!is_relayed(&mesh, 0));
    for _ in 0..7 {
        // At another time after it was asked, each time.
        talk(&mut mesh, &[0], 1);
        cut(&mut mesh);
        let took = until_arrival(&mut mesh, 0);
        assert!(took <= Duration::from_secs(9), "{took:?}");
        mesh.network.allow_all();
        talk(&mut mesh, &[0], 60);
        assert!(!is_relayed(&mesh, 0));
    }
}

/// Who has only received begins to send in the other direction.
#[test]
fn a_flow_that_turns_around_is_listened_for() {
    let (mut mesh, _) = members(3, [Rules::HOME; 2], 1);
    talk(&mut mesh, &[0], 40);
    talk(&mut mesh, &[1], 1);
    cut(&mut mesh);
    let took = until_arrival(&mut mesh, 1);
    assert!(took <= Duration::from_secs(9), "{took:?}");
}

/// A relayed way that nobody used for two minutes is given up; the session is not,
/// and its next packet looks for a way.
#[test]
fn a_session_without_a_way_looks_for_one() {
    let (mut mesh, _) = members(6, [HARD, HARD], 1);
    talk(&mut mesh, &[0, 1], 5);
    mesh.run_for(150_000);
    let way = mesh.agent(0).peers().next().expect("a peer").selected;
    assert_eq!(way, None, "it was given up");
    let took = until_arrival(&mut mesh, 0);
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

/// The other one, who keeps the way for a little longer, sends at the same time: the
/// first packet is not forgotten over that.
#[test]
fn a_peer_that_is_heard_while_it_is_called_is_sent_to() {
    for seed in 0..8 {
        let (mut mesh, _) = members(seed, [HARD, HARD], 1);
        talk(&mut mesh, &[0], 20);
        send(&mut mesh, 1);
        mesh.run_for(9_900);
        // Nothing answers that, and the handshake that makes up for it is the last word.
        lose_all_for(&mut mesh, 0, 400);
        mesh.run_for(116_000);
        let has_way =
            |node: usize| mesh.agent(node).peers().next().expect("a peer").selected.is_some();
        let idle = usize::from(has_way(0));
        assert_eq!([idle, 1 - idle].map(has_way), [false, true], "seed {seed}");
        talk(&mut mesh, &[idle, 1 - idle], 1);
        let took = until_arrival(&mut mesh, idle);
        assert!(took <= Duration::from_secs(2), "seed {seed}: {took:?}");
    }
}

/// A way dies in the moment in which data is moved to it: whoever moved it goes on
/// hearing the peer the way before, and goes back to that.
#[test]
fn who_moved_to_a_dead_way_goes_back() {
    let (mut mesh, _) = members(7, [Rules::HOME; 2], 1);
    talk(&mut mesh, &[0, 1], 5);
    cut(&mut mesh);
    talk(&mut mesh, &[0, 1], 10);
    assert!(is_relayed(&mesh, 0) && is_relayed(&mesh, 1));
    mesh.network.allow_all();
    while is_relayed(&mesh, 0) && is_relayed(&mesh, 1) {
        send(&mut mesh, 0);
        send(&mut mesh, 1);
        for _ in 0..500 {
            mesh.run_for(1);
            if !is_relayed(&mesh, 0) || !is_relayed(&mesh, 1) {
                break;
            }
        }
    }
    // Nothing has come the new way yet.
    cut(&mut mesh);
    mesh.network.clear();
    let [a, b] = [0, 1].map(|node| mesh.nodes[node].received.len());
    talk(&mut mesh, &[0, 1], 9);
    let [a, b] = [mesh.nodes[0].received.len() - a, mesh.nodes[1].received.len() - b];
    assert!(a >= 2 && b >= 2, "{a} and {b} packets arrive in 9 s");
}

/// A relay answers its users and passes nothing on. Who sends to what it keeps for
/// the peer finds another one, though nothing of his own is there.
#[test]
fn a_relay_that_passes_nothing_on_is_left() {
    for seed in 0..8 {
        let (mut mesh, _) = members(seed, [HARD, HARD], 2);
        let sender = (seed % 2) as usize;
        talk(&mut mesh, &[sender], 20);
        assert!(is_relayed(&mesh, 0) && is_relayed(&mesh, 1));
        let used = relay_in_use(&mesh).expect("one is used");
        mesh.relays[used].is_deaf = true;
        let took = until_arrival(&mut mesh, sender);
        assert!(took <= Duration::from_secs(7), "seed {seed}: {took:?}");
    }
}

/// The same at the first word between two, or a relay that is gone before it has passed
/// anything on: nothing tells a relay from a peer that cannot be reached but that another
/// one does better.
#[test]
fn a_relay_that_fails_at_the_first_word_is_left() {
    for (seed, is_deaf) in (0..16).zip([true, false].into_iter().cycle()) {
        let (mut mesh, _) = members(seed, [HARD, HARD], 2);
        send(&mut mesh, 0);
        mesh.run_to(1_000, |mesh| relay_in_use(mesh).is_some());
        let used = relay_in_use(&mesh).expect("one is asked");
        let relay = &mut mesh.relays[used];
        (relay.is_deaf, relay.is_dead) = (is_deaf, !is_deaf);
        let took = until_arrival(&mut mesh, 0);
        assert!(took <= Duration::from_secs(7), "seed {seed}: {took:?}");
    }
}

/// A peer that starts anew is heard on a way that leads to us and not back: that its
/// handshake arrives says nothing of where our data goes, and the relay that passes
/// nothing on is left all the same.
#[test]
fn a_handshake_that_comes_one_way_does_not_end_the_search() {
    let let_in = Rules { filtering: Filtering::EndpointIndependent, ..HARD };
    for seed in 0..8 {
        let (mut mesh, _) = members(seed, [let_in, HARD], 2);
        talk(&mut mesh, &[1], 5);
        talk(&mut mesh, &[0], 20);
        let kept = relay_in_use(&mesh).expect("the two meet at a relay");
        mesh.relays[1 - kept].is_deaf = true;
        let _: NoTrace = mesh.stop(1);
        mesh.boot(1);
        let took = until_arrival(&mut mesh, 0);
        println!("seed {seed}: {took:?}");
        assert!(took <= Duration::from_secs(8), "seed {seed}: {took:?}");
    }
}

/// A device moves while it is about to leave a relay that passes nothing on, and asks
/// that one for its next allocation: too young to be judged, it is judged later.
#[test]
fn a_move_does_not_save_a_relay_that_passes_nothing_on() {
    for seed in 0..8 {
        let (mut mesh, _) = members(seed, [HARD, HARD], 2);
        talk(&mut mesh, &[1], 20);
        let used = relay_in_use(&mesh).expect("one is used");
        mesh.relays[used].is_deaf = true;
        talk(&mut mesh, &[1], 3);
        mesh.roam(1, Kind::SymRand);
        let took = until_arrival(&mut mesh, 1);
        println!("seed {seed}: {took:?}");
        assert!(took <= Duration::from_secs(6), "seed {seed}: {took:?}");
    }
}

/// A search opens a thousand ports, which is more than some routers have. It ends with
/// the place that it was for, and the next router is spared.
#[test]
fn a_search_ends_when_one_of_the_two_moves() {
    for (moved, kind) in [(0, Kind::Prc), (1, Kind::SymRand)] {
        let (mut mesh, _) = members(1, [Rules::HOME, HARD], 1);
        mesh.logs_datagrams = true;
        let before = format!(" 0 to {}:", IpAddr::from(OUTER[1]));
        let pings = |mesh: &mut Mesh| {
            let log = std::mem::take(&mut mesh.log);
            log.iter().filter(|line| line.contains(&before)).count()
        };
        talk(&mut mesh, &[0], 3);
        let searched = pings(&mut mesh);
        assert!(searched > 150, "{searched} before");
        mesh.roam(moved, kind);
        talk(&mut mesh, &[0], 1);
        pings(&mut mesh);
        talk(&mut mesh, &[0], 3);
        let searched = pings(&mut mesh);
        assert!(searched < 30, "{searched} after {moved} moved");
    }
}

/// Whoever does not know its own router yet when a round begins may have one that gives
/// every destination another port, as the peer's does: nothing that it opens is met.
#[test]
fn no_search_is_made_between_two_that_cannot_meet() {
    for seed in 0..4 {
        let (mut mesh, _) = members(seed, [HARD, HARD], 1);
        talk(&mut mesh, &[0], 3);
        mesh.logs_datagrams = true;
        // The second server, without which a router is not judged, answers late.
        mesh.network.forbid([192, 0, 2, 1].into(), [203, 0, 113, 11].into());
        mesh.roam(0, Kind::SymRand);
        mesh.run_for(200);
        mesh.network.allow_all();
        talk(&mut mesh, &[0], 5);
        let to = format!(" 0 to {}:", IpAddr::from(OUTER[1]));
        let sent = mesh.log.iter().filter(|line| line.contains(&to)).count();
        println!("seed {seed}: {sent}");
        assert!(sent < 60, "{sent} pings");
    }
}

/// A relay that starts anew forgets what it gave a moment ago, and gives it again.
#[test]
fn a_relay_that_starts_anew_is_asked_at_once() {
    for seed in 0..4 {
        let (mut mesh, _) = members(seed, [HARD, HARD], 1);
        talk(&mut mesh, &[0, 1], 1);
        assert!(is_relayed(&mesh, 0));
        mesh.relays[0].restart(9);
        let took = until_arrival(&mut mesh, 0);
        assert!(took <= Duration::from_secs(4), "seed {seed}: {took:?}");
    }
}

/// The confirmation of a new session is lost, and whoever should repeat it only
/// receives: data of the session before is a reason to.
#[test]
fn a_lost_confirmation_is_repeated() {
    for seed in 0..4 {
        let (mut mesh, _) = members(seed, [Rules::HOME; 2], 1);
        talk(&mut mesh, &[1], 5);
        let _: NoTrace = mesh.stop(0);
        mesh.boot(0);
        send(&mut mesh, 1);
        let is_up = |mesh: &Mesh| mesh.agent(0).peers().any(|peer| peer.state == PeerState::Active);
        mesh.run_to(1_000, is_up);
        mesh.network.clear();
        let took = until_arrival(&mut mesh, 1);
        assert!(took <= Duration::from_secs(3), "seed {seed}: {took:?}");
    }
}

/// However long a direct way was cut, it is found within five minutes.
#[test]
fn a_way_that_heals_is_found_within_five_minutes() {
    for minutes in [1, 5, 12, 40] {
        let (mut mesh, _) = members(4, [Rules::HOME; 2], 1);
        talk(&mut mesh, &[0, 1], 5);
        cut(&mut mesh);
        talk(&mut mesh, &[0, 1], minutes * 60);
        assert!(is_relayed(&mesh, 0) && is_relayed(&mesh, 1));
        mesh.network.allow_all();
        talk(&mut mesh, &[0, 1], 300);
        assert!(!is_relayed(&mesh, 0) && !is_relayed(&mesh, 1), "after {minutes} minutes");
    }
}

/// The provider gives a site another address a moment after a server has said which
/// it has: the call that mends the way names the new one. The boxes of the first
/// case share a carrier that lets nobody in by its own address, so that a relay is
/// the only way, and what it lets in is named by the old address too.
#[test]
fn an_address_that_has_just_changed_is_asked_for_again() {
    for seed in 5..10 {
        let (mut mesh, _) = members(seed, [Rules::HOME; 2], 1);
        let carrier = Box::new(Nat::cgnat(seed));
        let carrier = mesh.network.add_gateway([[198, 51, 100, 8].into()], None, carrier);
        for node in 0..2 {
            let outer: IpAddr = [100, 64, 0, 2 + node as u8].into();
            let home = Box::new(Nat::symrand(seed + node as u64));
            let home = mesh.network.add_gateway([outer], Some(carrier), home);
            let address = mesh.nodes[node].address;
            mesh.place_at(node, address, Some(home));
        }
        talk(&mut mesh, &[0, 1], 2);
        mesh.network.move_gateway(carrier, [[198, 51, 100, 9].into()]);
        let took = until_arrival(&mut mesh, 0);
        assert!(took <= Duration::from_secs(10), "{took:?}");
    }
}

/// A router starts anew with another address, and the line to the coordinator is lost
/// with it, which shows when something is said on it. That was the call: it is made
/// again on the next line, for which nobody waits, since the fleet has not moved.
#[test]
fn a_call_that_was_lost_with_its_line_is_made_again_on_the_next() {
    for seed in 0..6 {
        let (mut mesh, gates) = members(seed, [Rules::HOME; 2], 1);
        mesh.coordinator.reconnect_s = (5, 10);
        mesh.cut_lines();
        mesh.run_for(12_000);
        talk(&mut mesh, &[0, 1], 40);
        let moved = (seed % 2) as usize;
        mesh.network.move_gateway(gates[moved], [[198, 51, 100, 9].into()]);
        let start = mesh.now;
        mesh.coordinator_down = true;
        for round in 0.. {
            if round == 110 {
                mesh.coordinator_down = false;
                mesh.nodes[moved].inbox = None;
                mesh.input(moved, weft_agent_core::agent::Agent::handle_disconnected);
            }
            let before = mesh.nodes[1 - moved].received.len();
            send(&mut mesh, moved);
            mesh.run_for(20);
            if mesh.nodes[1 - moved].received.len() > before {
                break;
            }
            assert!(round < 1_000, "nothing arrives for 20 s");
        }
        let took = mesh.now - start;
        println!("seed {seed}: {took:?}");
        assert!(took <= Duration::from_millis(2_600), "seed {seed}: {took:?}");
    }
}

/// A router that starts anew with the address that it had: what a relay keeps for the
/// other device from before carries the data until the call is made again, and is no
/// reason not to make it.
#[test]
fn a_way_over_a_relay_does_not_end_the_search_for_a_direct_one() {
    for seed in 0..4 {
        let rules = Rules { ports: Ports::Random, ..Rules::HOME };
        let (mut mesh, gates) = members(seed, [rules; 2], 1);
        talk(&mut mesh, &[0, 1], 40);
        cut(&mut mesh);
        talk(&mut mesh, &[0, 1], 5);
        mesh.network.allow_all();
        while is_relayed(&mesh, 0) || is_relayed(&mesh, 1) {
            talk(&mut mesh, &[0, 1], 1);
        }
        let guest = usize::from(mesh.agent(1).rung().is_none());
        mesh.network.reboot(gates[guest]);
        mesh.coordinator_down = true;
        talk(&mut mesh, &[0, 1], 4);
        assert!(is_relayed(&mesh, 0) && is_relayed(&mesh, 1), "seed {seed}");
        mesh.coordinator_down = false;
        mesh.cut_lines();
        talk(&mut mesh, &[0, 1], 3);
        assert!(!is_relayed(&mesh, 0) && !is_relayed(&mesh, 1), "seed {seed}");
    }
}

/// A way that breaks and is mended with the same address at the other end: what was
/// allocated meanwhile is given back.
#[test]
fn an_allocation_is_given_back_when_the_way_before_works_again() {
    for moved in [0, 1] {
        let (mut mesh, gates) = members(8, [Rules::HOME; 2], 1);
        talk(&mut mesh, &[0, 1], 40);
        assert_eq!(mesh.relays[0].turn.allocations(), 0);
        mesh.network.move_gateway(gates[moved], [[198, 51, 100, 9].into()]);
        talk(&mut mesh, &[0, 1], 20);
        assert!(!is_relayed(&mesh, 0) && !is_relayed(&mesh, 1));
        talk(&mut mesh, &[0, 1], 10);
        assert_eq!(mesh.relays[0].turn.allocations(), 0, "{moved} moved");
    }
}

/// The callee's address changes between its answer and the first probe: when it is
/// called again it asks where it is now.
#[test]
fn an_address_that_changes_behind_the_answer_is_asked_for_again() {
    for after in (0..400).step_by(20) {
        let (mut mesh, gates) = members(1, [Rules::HOME; 2], 1);
        send(&mut mesh, 0);
        mesh.run_for(after);
        mesh.network.move_gateway(gates[1], [[198, 51, 100, 9].into()]);
        let took = until_arrival(&mut mesh, 0);
        assert!(took <= Duration::from_secs(8), "{took:?} after {after} ms");
    }
}

/// 3 % of everything is lost for ten minutes: data stays on the way it has.
#[test]
fn loss_alone_moves_no_data() {
    for (seed, kind) in [(1, Rules::HOME), (2, HARD)] {
        let (mut mesh, _) = members(seed, [kind; 2], 2);
        talk(&mut mesh, &[0, 1], 5);
        let route = |mesh: &Mesh, node: usize| {
            let peer = mesh.agent(node).peers().next().expect("a peer");
            peer.selected.expect("a path").route
        };
        let before = [0, 1].map(|node| route(&mesh, node));
        let links = [0, 1].map(|node| *mesh.link(node));
        for (node, link) in links.into_iter().enumerate() {
            mesh.link_mut(node).loss_ppm = 15_000;
            assert_eq!(link.loss_ppm, 0);
        }
        for _ in 0..3_000 {
            send(&mut mesh, 0);
            send(&mut mesh, 1);
            mesh.run_for(200);
            assert_eq!([0, 1].map(|node| route(&mesh, node)), before);
        }
        let arrived = mesh.nodes[1].received.len();
        assert!((2_800..3_000).contains(&arrived), "{arrived} of 3,005 arrive");
    }
}

/// Boxes that forget after 20 s: a pause of any length costs a call at most.
#[test]
fn a_mapping_that_lives_20_seconds_is_no_trouble() {
    let life = Duration::from_secs(20);
    let short = Rules { unreplied: life, stream: life, ports: Ports::Random, ..Rules::HOME };
    let (mut mesh, _) = members(1, [short; 2], 1);
    talk(&mut mesh, &[0, 1], 30);
    assert!(!is_relayed(&mesh, 0) && !is_relayed(&mesh, 1));
    for pause in [10, 19, 21, 40, 100, 170] {
        mesh.run_for(pause * 1_000);
        let took = until_arrival(&mut mesh, 0);
        assert!(took <= Duration::from_secs(4), "{took:?} after {pause} s");
        talk(&mut mesh, &[0, 1], 20);
        assert!(!is_relayed(&mesh, 0) && !is_relayed(&mesh, 1), "after {pause} s");
    }
}

/// Whatever a shell says of addresses, none of the overlay is told or sent to.
#[test]
fn no_address_of_the_overlay_is_ever_tried() {
    use weft_wire::signal::{Candidate, CandidateKind};
    let (mut mesh, _) = members(1, [Rules::HOME; 2], 1);
    let overlay = Coordinator::overlay();
    mesh.logs_datagrams = true;
    for node in 0..2 {
        let inner = (overlay.address_v4(mesh.host(node)), 51_871).into();
        let addresses = [inner, mesh.nodes[node].address];
        let hosts = addresses.map(|address| Candidate { kind: CandidateKind::Host, address });
        mesh.input(node, |agent, now| agent.set_local_addresses(&hosts, now));
    }
    talk(&mut mesh, &[0, 1], 5);
    assert!(!mesh.nodes[0].received.is_empty() && !mesh.nodes[1].received.is_empty());
    let sent = |line: &&String| line.contains(" to 10.") || line.contains(" to 198.");
    assert!(mesh.log.iter().filter(sent).count() > 4, "something was sent");
    let inner = |line: &&String| line.contains(" to 100.93.");
    assert_eq!(mesh.log.iter().find(inner), None);
}
