//! NAT boxes seen from inside, as RFC 5780 looks at them, and their lives.
#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use weft_agent_core::time::{Duration, Instant};
use weft_sim::nat::{Filtering, Kind, Mapping, Nat, Pass, Ports, Rules};
use weft_sim::{Datagram, GatewayId, HostId, Link, Network};

const START: Instant = Instant::from_secs(1_000);
const OUTER: &str = "203.0.113.50";
const HOST: &str = "10.0.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Two server addresses with two ports each.
fn server(address: usize, port: usize) -> SocketAddr {
    at(["203.0.113.10", "203.0.113.11"][address], [3_478, 3_479][port])
}

/// A host behind a box, its neighbour, and two servers.
struct Site {
    network: Network,
    now: Instant,
    gateway: GatewayId,
    host: HostId,
    servers: [HostId; 2],
    /// What servers are called inside: themselves, but behind NAT64.
    prefix: Option<&'static str>,
    own: &'static str,
}

impl Site {
    fn of(kind: Kind) -> Self {
        let mut network = Network::new(1);
        let gateway = kind.site(&mut network, ip(OUTER), ip(HOST), 7);
        Self::behind(network, gateway, HOST)
    }

    fn with(nat: Nat) -> Self {
        let mut network = Network::new(1);
        let gateway = network.add_gateway([ip(OUTER)], None, Box::new(nat));
        Self::behind(network, gateway, HOST)
    }

    fn behind(mut network: Network, gateway: GatewayId, own: &'static str) -> Self {
        let host = network.add_host([ip(own)], Some(gateway), Link::IDEAL);
        network.add_host([ip("10.0.0.3")], Some(gateway), Link::IDEAL);
        let servers = [0, 1].map(|n| network.add_host([server(n, 0).ip()], None, Link::IDEAL));
        Self { network, now: START, gateway, host, servers, prefix: None, own }
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// Everything that arrives of one datagram.
    fn pass(&mut self, from: HostId, source: SocketAddr, destination: SocketAddr) -> Vec<Datagram> {
        let datagram = Datagram { source, destination, bytes: vec![1] };
        self.network.send(from, datagram, self.now);
        let mut arrived = Vec::new();
        while let Some((_, datagram)) = self.network.poll(self.now) {
            arrived.push(datagram);
        }
        arrived
    }

    /// The host sends; what the receiver sees as its address.
    fn send(&mut self, port: u16, to: SocketAddr) -> Option<SocketAddr> {
        let near = self.prefix.map_or(to, |prefix| at(&format!("{prefix}{}", to.ip()), to.port()));
        let arrived = self.pass(self.host, at(self.own, port), near);
        arrived.first().map(|datagram| datagram.source)
    }

    /// A server sends to the outside of the box; the inner port where it arrives.
    fn answer(&mut self, from: SocketAddr, to: SocketAddr) -> Option<u16> {
        let host = self.servers[usize::from(from.ip() == server(1, 0).ip())];
        self.pass(host, from, to).first().map(|datagram| {
            assert_eq!(datagram.destination.ip(), ip(self.own));
            datagram.destination.port()
        })
    }

    fn mapping(&mut self, port: u16) -> Option<Mapping> {
        let same = self.send(port, server(0, 0))?;
        let other_port = self.send(port, server(0, 1))?;
        let other_address = self.send(port, server(1, 0))?;
        Some(if same == other_port && same == other_address {
            Mapping::EndpointIndependent
        } else if same == other_port {
            Mapping::AddressDependent
        } else {
            Mapping::AddressAndPortDependent
        })
    }

    fn filtering(&mut self, port: u16) -> Option<Filtering> {
        let seen = self.send(port, server(0, 0))?;
        assert_eq!(self.answer(server(0, 0), seen), Some(port), "whom it sent to answers");
        Some(if self.answer(server(1, 1), seen) == Some(port) {
            Filtering::EndpointIndependent
        } else if self.answer(server(0, 1), seen) == Some(port) {
            Filtering::AddressDependent
        } else {
            Filtering::AddressAndPortDependent
        })
    }

    /// Public ports towards new destinations, in order, each from the same socket.
    fn ports(&mut self, port: u16, count: u16) -> Vec<u16> {
        (0..count)
            .filter_map(|further| {
                let to = SocketAddr::new(server(0, 0).ip(), 5_000 + further);
                self.send(port, to).map(|seen| seen.port())
            })
            .collect()
    }
}

#[test]
fn every_kind_looks_from_inside_as_its_name_says() {
    use Filtering as F;
    use Mapping as M;
    let table = [
        (Kind::Open, Some((M::EndpointIndependent, F::EndpointIndependent))),
        (Kind::FullCone, Some((M::EndpointIndependent, F::EndpointIndependent))),
        (Kind::AdCone, Some((M::EndpointIndependent, F::AddressDependent))),
        (Kind::Prc, Some((M::EndpointIndependent, F::AddressAndPortDependent))),
        (Kind::NoFw, Some((M::EndpointIndependent, F::AddressAndPortDependent))),
        (Kind::SymSeq, Some((M::AddressAndPortDependent, F::AddressAndPortDependent))),
        (Kind::SymWin, Some((M::AddressAndPortDependent, F::AddressAndPortDependent))),
        (Kind::SymRand, Some((M::AddressAndPortDependent, F::AddressAndPortDependent))),
        (Kind::SymEif, Some((M::AddressAndPortDependent, F::EndpointIndependent))),
        (Kind::Cgnat, Some((M::EndpointIndependent, F::AddressAndPortDependent))),
        (Kind::Blocked, None),
    ];
    assert_eq!(table.map(|(kind, _)| kind), Kind::ALL);
    for (kind, expected) in table {
        let (mut one, mut other) = (Site::of(kind), Site::of(kind));
        let seen = one.mapping(51_871).zip(other.filtering(51_872));
        assert_eq!(seen, expected, "{}", kind.name());
    }
}

#[test]
fn other_boxes_look_as_they_were_made() {
    let hashed = Rules { ports: Ports::Hashed, ..Rules::HOME };
    for (rules, mapping, kept) in [
        (hashed, Mapping::EndpointIndependent, false),
        (Rules { mapping: Mapping::AddressDependent, ..hashed }, Mapping::AddressDependent, false),
        (Rules { hairpin: true, ..Rules::HOME }, Mapping::EndpointIndependent, true),
    ] {
        let mut site = Site::with(Nat::new(rules, 3));
        assert_eq!(site.mapping(51_871), Some(mapping));
        assert_eq!(site.filtering(51_872), Some(Filtering::AddressAndPortDependent));
        let seen = site.send(51_871, server(0, 0)).expect("it passes");
        assert_eq!(seen.port() == 51_871, kept);
        assert_eq!(seen.ip(), ip(OUTER));
    }
}

#[test]
fn public_ports_are_chosen_as_the_name_says() {
    assert_eq!(Site::of(Kind::Prc).ports(51_871, 3), [51_871; 3]);
    assert_eq!(Site::of(Kind::SymSeq).ports(51_871, 4), [30_000, 30_001, 30_002, 30_003]);
    let mut two = Site::with(Nat::symseq(2, 1));
    assert_eq!(two.ports(51_871, 3), [30_000, 30_002, 30_004]);
    let windows = Site::of(Kind::SymWin).ports(51_871, 200);
    assert!(windows.iter().all(|port| port / 512 == windows[0] / 512), "{windows:?}");
    assert_eq!(windows.iter().collect::<BTreeSet<_>>().len(), 200, "one each");
    assert!(windows.windows(2).any(|pair| pair[1] < pair[0]), "in no order");
    let random = Site::of(Kind::SymRand).ports(51_871, 200);
    assert!(random.iter().any(|port| port / 512 != random[0] / 512));
    assert_ne!(Site::with(Nat::symrand(8)).ports(51_871, 9), random[..9], "seeded");
    assert_eq!(Site::with(Nat::symrand(7)).ports(51_871, 9), random[..9], "and reproducible");
    let block = Site::of(Kind::Cgnat).ports(51_871, 3);
    assert_eq!((block[0] / 512, block[1], block[2]), (40, block[0], block[0]));
}

#[test]
fn a_block_and_a_table_have_an_end() {
    let mut block = Site::of(Kind::SymWin);
    assert_eq!(block.ports(51_871, 600).len(), 512);
    let mut table = Site::with(Nat::new(Rules { flows: 512, ..Rules::HOME }, 1));
    assert_eq!(table.ports(51_871, 600).len(), 512);
    assert_eq!(table.send(51_871, at("203.0.113.10", 5_000)).map(|seen| seen.port()), Some(51_871));
    assert_eq!(table.send(51_872, server(0, 0)), None, "new flows wait for room");
    table.wait(30_000);
    assert_eq!(table.send(51_872, server(0, 0)).map(|seen| seen.port()), Some(51_872));
}

#[test]
fn two_hosts_with_one_port_get_two() {
    let mut site = Site::of(Kind::Prc);
    let twin = site.network.add_host([ip("10.0.0.4")], Some(site.gateway), Link::IDEAL);
    assert_eq!(site.send(51_871, server(0, 0)), Some(at(OUTER, 51_871)));
    let seen = site.pass(twin, at("10.0.0.4", 51_871), server(0, 0))[0].source;
    assert_ne!(seen.port(), 51_871);
    assert_eq!(site.answer(server(0, 0), at(OUTER, 51_871)), Some(51_871));
}

#[test]
fn who_comes_too_early_spoils_the_mapping_towards_himself_for_30_s() {
    let peer = server(1, 1);
    for (kind, spoiled) in [(Kind::Prc, false), (Kind::NoFw, true)] {
        let mut site = Site::of(kind);
        site.send(51_871, server(0, 0));
        assert_eq!(site.answer(peer, at(OUTER, 51_871)), None, "unasked");
        // Its last packet counts.
        site.wait(20_000);
        assert_eq!(site.answer(peer, at(OUTER, 51_871)), None);
        site.send(51_871, server(0, 0));
        site.wait(29_999);
        let seen = site.send(51_871, peer).expect("it passes");
        assert_eq!(seen.port() != 51_871, spoiled, "{}", kind.name());
        assert_eq!(site.answer(peer, seen), Some(51_871));
        let to_known = site.send(51_871, server(0, 0)).expect("it passes");
        assert_eq!(to_known.port(), 51_871, "who was sent to before sees no change");
        let to_later = site.send(51_871, server(0, 1)).expect("it passes");
        assert_eq!(to_later, seen, "who is sent to later sees the youngest mapping");
    }
    let mut site = Site::of(Kind::NoFw);
    site.answer(peer, at(OUTER, 51_871));
    site.wait(30_000);
    assert_eq!(site.send(51_871, peer), Some(at(OUTER, 51_871)), "and then it is forgotten");
}

#[test]
fn hairpinning_shows_the_public_address() {
    for (hairpin, expected) in [(false, None), (true, Some(at(OUTER, 7_001)))] {
        let mut site = Site::with(Nat::new(Rules { hairpin, ..Rules::HOME }, 1));
        site.send(7_000, server(0, 0));
        assert_eq!(site.send(7_001, at(OUTER, 7_000)), expected);
    }
}

#[test]
fn only_some_ports_pass() {
    let mut site = Site::with(Nat::udp443(1));
    assert_eq!(site.send(51_871, server(0, 0)), None);
    let seen = site.send(51_871, at("203.0.113.10", 443)).expect("it passes");
    assert_eq!(site.answer(at("203.0.113.10", 443), seen), Some(51_871));
    let mut site = Site::with(Nat::new(Rules { pass: Pass::Nothing, ..Rules::HOME }, 1));
    assert_eq!(site.send(51_871, at("203.0.113.10", 443)), None);
}

#[test]
fn an_open_host_is_reached_by_whoever_wants() {
    let mut site = Site::of(Kind::Open);
    assert_eq!(site.answer(server(1, 0), at(OUTER, 51_871)), Some(51_871), "unasked");
    assert_eq!(site.send(51_871, server(1, 0)), Some(at(OUTER, 51_871)));
    assert_eq!(site.answer(server(0, 1), at(OUTER, 51_871)), Some(51_871));
}

#[test]
fn an_ipv6_only_host_reaches_ipv4() {
    let mut network = Network::new(1);
    let nat = Nat::nat64("2001:db8:64::".parse().expect("a prefix"), 1);
    let gateway = network.add_gateway([ip(OUTER)], None, Box::new(nat));
    let mut site = Site::behind(network, gateway, "fd00::2");
    site.prefix = Some("2001:db8:64::");
    assert_eq!(site.mapping(51_871), Some(Mapping::EndpointIndependent));
    let seen = site.send(51_871, server(0, 0)).expect("it passes");
    assert_eq!(seen, at(OUTER, 51_871));
    let arrived = site.pass(site.servers[0], server(0, 0), seen);
    assert_eq!(arrived[0].source, at("2001:db8:64::203.0.113.10", 3_478));
    // Another prefix is not ours.
    site.prefix = Some("64:ff9b::");
    assert_eq!(site.send(51_871, server(0, 0)), None);
}

/// Two home routers behind one carrier, and a hidden one behind a home router.
#[test]
fn boxes_stand_behind_boxes() {
    for (hairpin, expected) in [(true, true), (false, false)] {
        let mut network = Network::new(1);
        let mut carrier = Nat::cgnat(1);
        carrier.rules_mut().hairpin = hairpin;
        let carrier = network.add_gateway([ip(OUTER)], None, Box::new(carrier));
        let homes = ["100.64.0.2", "100.64.0.3"]
            .map(|outer| network.add_gateway([ip(outer)], Some(carrier), Box::new(Nat::prc(2))));
        let inner = network.add_gateway([ip("10.0.0.9")], Some(homes[0]), Box::new(Nat::prc(3)));
        let near = network.add_host([ip("192.168.7.2")], Some(inner), Link::IDEAL);
        let far = network.add_host([ip("10.0.0.2")], Some(homes[1]), Link::IDEAL);
        let mut site = Site::behind(network, homes[0], HOST);
        let seen = |site: &mut Site, from, source, to| {
            site.pass(from, source, to).first().map(|datagram| datagram.source)
        };
        let a = seen(&mut site, near, at("192.168.7.2", 1_000), server(0, 0)).expect("out");
        let b = seen(&mut site, far, at("10.0.0.2", 1_000), server(0, 0)).expect("out");
        assert_eq!((a.ip(), b.ip()), (ip(OUTER), ip(OUTER)));
        assert_ne!(a.port(), b.port());
        // Both punch; the second one arrives if the carrier turns it round.
        assert_eq!(seen(&mut site, near, at("192.168.7.2", 1_000), b), None);
        let arrived = seen(&mut site, far, at("10.0.0.2", 1_000), a);
        assert_eq!(arrived, expected.then_some(b));
    }
}

#[test]
fn a_restart_and_another_address_forget_everything() {
    let mut site = Site::of(Kind::FullCone);
    let seen = site.send(51_871, server(0, 0)).expect("it passes");
    assert_eq!(site.answer(server(1, 1), seen), Some(51_871));
    site.network.reboot(site.gateway);
    assert_eq!(site.answer(server(0, 0), seen), None);

    let seen = site.send(51_871, server(0, 0)).expect("it passes");
    site.network.move_gateway(site.gateway, [ip("203.0.113.60")]);
    assert_eq!(site.answer(server(0, 0), seen), None, "that address is nobody's");
    assert_eq!(site.answer(server(0, 0), at("203.0.113.60", 51_871)), None, "nor known");
    assert_eq!(site.send(51_871, server(0, 0)), Some(at("203.0.113.60", 51_871)));
}

/// The server's next answer comes at the end of a life, or a microsecond before.
fn answers_after(site: &mut Site, seen: SocketAddr, life: Duration, late: bool) -> bool {
    let end = (site.now + life).as_micros();
    site.now = Instant::from_micros(end - u64::from(!late));
    site.answer(server(0, 0), seen) == Some(51_871)
}

#[test]
fn flows_live_as_in_linux() {
    let short =
        Rules { unreplied: Duration::from_secs(5), stream: Duration::from_secs(20), ..Rules::HOME };
    for rules in [Rules::HOME, short] {
        // Alone, and with an answer at once: the short life.
        for answered in [false, true] {
            for late in [false, true] {
                let mut site = Site::with(Nat::new(rules, 1));
                let seen = site.send(51_871, server(0, 0)).expect("it passes");
                if answered {
                    site.wait(2_000);
                    assert_eq!(site.answer(server(0, 0), seen), Some(51_871));
                }
                let answers = answers_after(&mut site, seen, rules.unreplied, late);
                assert_eq!(answers, !late, "{rules:?}, answered: {answered}");
            }
        }
        // It went on for longer than two seconds: the long one.
        for late in [false, true] {
            let mut site = Site::with(Nat::new(rules, 1));
            let seen = site.send(51_871, server(0, 0)).expect("it passes");
            assert_eq!(site.answer(server(0, 0), seen), Some(51_871));
            site.wait(2_001);
            site.send(51_871, server(0, 0));
            assert_eq!(answers_after(&mut site, seen, rules.stream, late), !late, "{rules:?}");
        }
    }
}

#[test]
fn a_stranger_does_not_hold_a_full_cone_open() {
    let mut site = Site::of(Kind::FullCone);
    let seen = site.send(51_871, server(0, 0)).expect("it passes");
    for _ in 0..2 {
        site.wait(14_999);
        assert_eq!(site.answer(server(1, 1), seen), Some(51_871));
    }
    site.wait(14_999);
    assert_eq!(site.answer(server(1, 1), seen), None, "30 s after the inside's last word");
}
