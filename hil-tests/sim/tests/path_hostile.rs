//! Paths among strangers who lie, and behind routers that forget or are small.
#![allow(missing_docs, reason = "a test")]

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::event::DropReason;
use weft_agent_core::time::{Duration, Instant};
use weft_sim::mesh::{Coordinator, Mesh as AnyMesh, echo};
use weft_sim::nat::{Mapping, Nat, Ports, Rules};
use weft_sim::net::{Datagram, GatewayId, Link, Middlebox};
use weft_wire::probe::PROBE;

/// Agents with as few places as there may be: their tables are full soon.
type Mesh = AnyMesh<NoTrace, 2, 8>;

/// Every destination sees another port.
const HARD: Rules =
    Rules { mapping: Mapping::AddressAndPortDependent, ports: Ports::Random, ..Rules::HOME };
const STUN: [[u8; 4]; 2] = [[203, 0, 113, 10], [203, 0, 113, 11]];
const RELAY: [u8; 4] = [203, 0, 113, 20];
const STRANGER: [u8; 4] = [203, 0, 113, 66];
const GOAL: Duration = Duration::from_secs(6);

/// A network with STUN servers and some relays.
fn network(seed: u64, relays: u8) -> Mesh {
    let mut mesh = Mesh::of(seed);
    STUN.iter().for_each(|ip| mesh.add_stun((*ip, 3_478).into()));
    (0..relays).for_each(|more| mesh.add_relay([203, 0, 113, RELAY[3] + more].into()));
    mesh
}

/// Two members behind such boxes.
fn members(seed: u64, rules: [Rules; 2], relays: u8) -> (Mesh, [GatewayId; 2]) {
    let mut mesh = network(seed, relays);
    let [a, b] = ["gw-a", "gw-b"].map(|name| mesh.add(name));
    let gates = [mesh.site_with(a, rules[0]), mesh.site_with(b, rules[1])];
    settle(&mut mesh);
    (mesh, gates)
}

fn settle(mesh: &mut Mesh) {
    let all = mesh.nodes.len();
    mesh.run_to(5_000, |mesh| (0..all).all(|node| mesh.knows(node, all - 1)));
}

fn send(mesh: &mut Mesh, from: usize, to: usize) {
    let overlay = Coordinator::overlay();
    let [source, destination] = [from, to].map(|node| overlay.address_v4(mesh.host(node)));
    mesh.packet(from, &echo::unasked(source, destination, 1));
}

/// A packet each way every 20 ms: the longest time in which one of the two heard
/// nothing.
fn flow(mesh: &mut Mesh, millis: u64) -> Duration {
    let (mut last, mut gap) = ([mesh.now; 2], Duration::ZERO);
    for _ in 0..millis / 20 {
        let before = [0, 1].map(|node| mesh.nodes[node].received.len());
        send(mesh, 0, 1);
        send(mesh, 1, 0);
        mesh.run_for(20);
        for node in 0..2 {
            if mesh.nodes[node].received.len() > before[node] {
                last[node] = mesh.now;
            }
            gap = gap.max(mesh.now - last[node]);
        }
    }
    gap
}

fn is_relayed(mesh: &Mesh, node: usize) -> bool {
    let peer = mesh.agent(node).peers().next().expect("a peer");
    peer.selected.expect("a path").relayed
}

fn dropped(mesh: &Mesh, node: usize, reason: DropReason) -> u32 {
    mesh.agent(node).drops().get(reason)
}

/// A router that rewrites nothing but lies: what comes from some addresses seems to
/// come from another one. It keeps copies of probes.
#[derive(Clone)]
struct Liar {
    of: Vec<IpAddr>,
    is_honest: Rc<Cell<bool>>,
    probes: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Liar {
    /// Puts a device behind one, which keeps its address, and which may stand behind
    /// something else.
    fn before(mesh: &mut Mesh, node: usize, of: &[[u8; 4]], area: Option<GatewayId>) -> Self {
        let of = of.iter().map(|ip| IpAddr::from(*ip)).collect();
        let liar = Self { of, is_honest: Rc::default(), probes: Rc::default() };
        let address = mesh.nodes[node].address;
        let gate = mesh.network.add_gateway([address.ip()], area, Box::new(liar.clone()));
        mesh.place_at(node, address, Some(gate));
        liar
    }
}

impl Middlebox for Liar {
    fn outbound(&mut self, datagram: Datagram, _now: Instant) -> Option<Datagram> {
        Some(datagram)
    }

    fn inbound(&mut self, datagram: Datagram, _now: Instant) -> Option<Datagram> {
        if datagram.bytes.first() == Some(&PROBE) {
            self.probes.borrow_mut().push(datagram.bytes.clone());
        }
        let lies = !self.is_honest.get() && self.of.contains(&datagram.source.ip());
        let from = SocketAddr::new(STRANGER.into(), datagram.source.port());
        Some(Datagram { source: if lies { from } else { datagram.source }, ..datagram })
    }
}

/// A server's answer from another address is nobody's: dropped and counted, and
/// nothing of it believed. Two that cannot be seen from a server find each other by
/// their own addresses all the same.
#[test]
fn a_stun_answer_from_elsewhere_is_dropped_and_counted() {
    for is_honest in [true, false] {
        let mut mesh = network(1, 0);
        let [a, _] = ["gw-a", "gw-b"].map(|name| mesh.add(name));
        let liar = Liar::before(&mut mesh, a, &STUN, None);
        liar.is_honest.set(is_honest);
        settle(&mut mesh);
        mesh.run_for(5_000);
        let count = dropped(&mesh, a, DropReason::Unsolicited);
        assert_eq!(count > 0, !is_honest, "{count}");
        let gap = flow(&mut mesh, 2_000);
        assert!(gap < Duration::from_millis(500) && !is_relayed(&mesh, a), "{gap:?}");
    }
}

/// The same of a relay, whose challenge is not answered then: who passes off as a
/// relay learns nothing of a password. As soon as the relay itself is heard it is used.
#[test]
fn a_relays_answer_from_elsewhere_is_dropped_and_counted() {
    let mut mesh = network(2, 1);
    let [a, b] = ["gw-a", "gw-b"].map(|name| mesh.add(name));
    let liars = [a, b].map(|node| {
        let gate = mesh.site_with(node, HARD);
        Liar::before(&mut mesh, node, &[RELAY], Some(gate))
    });
    settle(&mut mesh);
    mesh.run_for(5_000);
    let before = dropped(&mesh, a, DropReason::Unsolicited);
    assert_eq!(before, 0, "servers are believed");
    flow(&mut mesh, 10_000);
    assert_eq!(mesh.relays[0].turn.allocations(), 0);
    assert!(mesh.nodes[a].received.is_empty() && mesh.nodes[b].received.is_empty());
    assert!(dropped(&mesh, a, DropReason::Unsolicited) > 0, "they are counted");
    liars.iter().for_each(|liar| liar.is_honest.set(true));
    flow(&mut mesh, 60_000);
    assert!(is_relayed(&mesh, a) && is_relayed(&mesh, b));
    assert!(flow(&mut mesh, 2_000) < Duration::from_millis(200));
}

/// Who catches every probe of a device and sends copies, altered ones and cut ones
/// from everywhere gets no byte for them, and moves nothing.
#[test]
fn a_flood_of_caught_probes_draws_nothing() {
    let mut mesh = network(3, 0);
    let [a, _] = ["gw-a", "gw-b"].map(|name| mesh.add(name));
    let liar = Liar::before(&mut mesh, a, &[], None);
    settle(&mut mesh);
    flow(&mut mesh, 5_000);
    let caught = liar.probes.borrow().clone();
    assert!(caught.len() > 1, "{}", caught.len());
    let stranger = mesh.network.add_host([STRANGER.into()], None, Link::IDEAL);
    // The data path is asked for nothing meanwhile.
    mesh.run_for(30_000);
    let route = |mesh: &Mesh| mesh.agent(a).peers().next().expect("a peer").selected;
    let sent = |mesh: &Mesh| mesh.nodes[a].sent.clone();
    let (way, before, drops) = (route(&mesh), sent(&mesh), mesh.agent(a).drops().total());
    let mut flood = 0;
    for round in 0..500usize {
        for probe in &caught {
            let mut bytes = probe.clone();
            match round % 3 {
                0 => {}
                1 => bytes[round / 3 % probe.len()] ^= 1 << (round % 8),
                _ => bytes.truncate(1 + round % (probe.len() - 1)),
            }
            let source = SocketAddr::new(STRANGER.into(), 1_024 + round as u16);
            let destination = mesh.nodes[a].address;
            mesh.network.send(stranger, Datagram { source, destination, bytes }, mesh.now);
            flood += 1;
        }
        mesh.run_for(2);
    }
    mesh.run_for(1_000);
    assert_eq!(sent(&mesh), before, "nothing of {flood} is answered");
    assert_eq!(route(&mesh), way);
    assert_eq!(mesh.agent(a).drops().total() - drops, flood, "each is counted");
}

/// A router that is switched off and on, or whose provider gives it another address,
/// under traffic: within six seconds data passes again, with and without a relay,
/// whichever of the two it is, or both.
#[test]
fn a_router_that_starts_anew_costs_six_seconds_at_most() {
    let rules = Rules { ports: Ports::Random, ..Rules::HOME };
    for (relays, moves) in [(0, false), (0, true), (1, false), (1, true)] {
        for which in [&[0][..], &[1], &[0, 1]] {
            let (mut mesh, gates) = members(4, [rules; 2], relays);
            flow(&mut mesh, 20_000);
            assert!(!is_relayed(&mesh, 0) && !is_relayed(&mesh, 1));
            for &at in which {
                if moves {
                    let outer = [198, 51, 100, 8 + at as u8];
                    mesh.network.move_gateway(gates[at], [outer.into()]);
                } else {
                    mesh.network.reboot(gates[at]);
                }
            }
            let gap = flow(&mut mesh, 30_000);
            println!("{relays} relays, moves: {moves}, {which:?}: {gap:?}");
            assert!(gap <= GOAL, "{gap:?}");
            assert!(!is_relayed(&mesh, 0) && !is_relayed(&mesh, 1));
        }
    }
}

/// A router, and how often it had no place for a flow.
struct Counted {
    nat: Nat,
    refused: Rc<Cell<u32>>,
}

impl Middlebox for Counted {
    fn outbound(&mut self, datagram: Datagram, now: Instant) -> Option<Datagram> {
        let passed = self.nat.outbound(datagram, now);
        self.refused.set(self.refused.get() + u32::from(passed.is_none()));
        passed
    }

    fn inbound(&mut self, datagram: Datagram, now: Instant) -> Option<Datagram> {
        self.nat.inbound(datagram, now)
    }

    fn set_addresses(&mut self, outer: &[IpAddr]) {
        self.nat.set_addresses(outer);
    }

    fn reboot(&mut self) {
        self.nat.reboot();
    }
}

/// A router with places for 512 flows, which the search for a port of a hard NAT fills:
/// what passes through it goes on, and when its table has emptied new flows find a
/// place as before.
#[test]
fn a_router_with_512_places_survives_a_search() {
    for seed in 0..3 {
        let mut mesh = network(seed, 1);
        let [a, b, c] = ["gw-a", "gw-b", "gw-c"].map(|name| mesh.add(name));
        mesh.site_with(b, HARD);
        let refused = Rc::new(Cell::new(0));
        let nat = Nat::new(Rules { flows: 512, ..Rules::HOME }, seed);
        let counted = Counted { nat, refused: Rc::clone(&refused) };
        let gate = [198, 51, 100, 1].into();
        let gate = mesh.network.add_gateway([gate], None, Box::new(counted));
        let address = mesh.nodes[a].address;
        mesh.place_at(a, address, Some(gate));
        settle(&mut mesh);
        let gap = flow(&mut mesh, 60_000);
        assert!(refused.get() > 300, "it was full: {}", refused.get());
        assert!(gap < Duration::from_millis(600), "seed {seed}: {gap:?}");
        let before = refused.get();
        send(&mut mesh, a, c);
        mesh.run_for(1_000);
        assert!(!mesh.nodes[c].received.is_empty(), "a new flow");
        assert!(flow(&mut mesh, 10_000) < Duration::from_millis(100), "seed {seed}");
        assert_eq!(refused.get(), before, "it has places");
    }
}

/// Routers that forget a flow after 20 s, and a way that is to be kept open: within ten
/// minutes that is learnt, and afterwards the first packet after any pause goes at
/// once, whether or not there is a coordinator.
#[test]
fn a_way_through_a_router_that_forgets_after_20_seconds_is_kept_open() {
    let life = Duration::from_secs(20);
    let rules = Rules { unreplied: life, stream: life, ports: Ports::Random, ..Rules::HOME };
    for keepers in [&[0][..], &[1], &[0, 1]] {
        let (mut mesh, _) = members(5, [rules; 2], 1);
        for &node in keepers {
            let id = mesh.id(1 - node);
            mesh.input(node, |agent, now| agent.keep_warm(id, true, now));
        }
        mesh.run_for(600_000);
        mesh.coordinator_down = true;
        mesh.cut_lines();
        for pause in [3, 19, 21, 26, 60, 100, 200, 300] {
            mesh.run_for(pause * 1_000);
            assert!(!is_relayed(&mesh, 0) && !is_relayed(&mesh, 1), "after {pause} s");
            let before = mesh.nodes[1].received.len();
            send(&mut mesh, 0, 1);
            mesh.run_for(40);
            let arrived = mesh.nodes[1].received.len() - before;
            assert_eq!(arrived, 1, "{keepers:?}, after {pause} s");
        }
    }
}
