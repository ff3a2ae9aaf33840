//! The network: reproducible, faulty as asked, and ready for NAT models.
#![allow(missing_docs, reason = "a test")]

use std::collections::HashMap;
use std::net::SocketAddr;

use weft_agent_core::time::{Duration, Instant};
use weft_sim::{Datagram, HostId, Link, Middlebox, Network};

const NOW: Instant = Instant::from_secs(1);

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn datagram(source: &str, destination: &str, bytes: &[u8]) -> Datagram {
    Datagram { source: address(source), destination: address(destination), bytes: bytes.to_vec() }
}

/// Everything that arrives within an hour.
fn arrivals(network: &mut Network) -> Vec<(Instant, HostId, Datagram)> {
    let mut all = Vec::new();
    while let Some(at) = network.poll_timeout() {
        if let Some((host, datagram)) = network.poll(at) {
            all.push((at, host, datagram));
        }
    }
    all
}

fn two_hosts(seed: u64, link: Link) -> (Network, HostId, HostId) {
    let mut network = Network::new(seed);
    let a = network.add_host([address("192.0.2.1:0").ip()], None, link);
    let b = network.add_host([address("192.0.2.2:0").ip()], None, link);
    (network, a, b)
}

#[test]
fn both_links_take_their_time() {
    let (mut network, a, b) = two_hosts(1, Link::with_latency(Duration::from_millis(30)));
    let sent = datagram("192.0.2.1:5", "192.0.2.2:6", b"x");
    network.send(a, sent.clone(), NOW);
    assert!(network.poll(NOW + Duration::from_millis(59)).is_none());
    let arrived = network.poll(NOW + Duration::from_millis(60));
    assert_eq!(arrived, Some((b, sent)));
    network.send(a, datagram("192.0.2.1:5", "192.0.2.9:6", b"nobody"), NOW);
    assert!(arrivals(&mut network).is_empty());
    assert_eq!(network.totals().refused, 1);
}

#[test]
fn faults_occur_as_often_as_asked_and_reproducibly() {
    let link = Link {
        latency: Duration::from_millis(5),
        jitter: Duration::from_millis(20),
        loss_ppm: 100_000,
        duplicate_ppm: 50_000,
        reorder_ppm: 10_000,
        corrupt_ppm: 20_000,
        ..Link::IDEAL
    };
    let run = |seed| {
        let (mut network, a, _) = two_hosts(seed, link);
        for number in 0..10_000u32 {
            let bytes = number.to_be_bytes();
            let now = NOW + Duration::from_millis(u64::from(number));
            network.send(a, datagram("192.0.2.1:5", "192.0.2.2:6", &bytes), now);
        }
        (arrivals(&mut network), network.totals())
    };
    let (arrived, totals) = run(7);
    assert_eq!(run(7), (arrived.clone(), totals));
    assert_ne!(run(8).0, arrived);
    // Two links of 10 %, then twice 5 % doubled.
    assert!((1_800..2_000).contains(&totals.lost), "{totals:?}");
    assert!((750..870).contains(&totals.doubled), "{totals:?}");
    assert_eq!(totals.delivered as usize, arrived.len());
    let numbers: Vec<u32> = arrived
        .iter()
        .map(|(_, _, datagram)| {
            u32::from_be_bytes(datagram.bytes[..].try_into().expect("four bytes"))
        })
        .collect();
    assert!(numbers.windows(2).any(|pair| pair[1] < pair[0]), "reordered");
    assert!(numbers.iter().any(|&number| number >= 10_000), "altered");
}

#[test]
fn a_link_that_is_down_or_too_narrow_loses() {
    let (mut network, a, b) = two_hosts(2, Link::IDEAL);
    network.link_mut(a).mtu = 100;
    network.send(a, datagram("192.0.2.1:5", "192.0.2.2:6", &[0; 101]), NOW);
    network.send(a, datagram("192.0.2.1:5", "192.0.2.2:6", &[0; 100]), NOW);
    assert_eq!(arrivals(&mut network).len(), 1);
    network.link_mut(b).up = false;
    network.send(a, datagram("192.0.2.1:5", "192.0.2.2:6", b"x"), NOW);
    assert!(arrivals(&mut network).is_empty());
    network.link_mut(b).up = true;
    network.send(a, datagram("192.0.2.1:5", "192.0.2.2:6", b"x"), NOW);
    network.clear();
    assert!(arrivals(&mut network).is_empty());
    assert_eq!(network.totals().lost, 3);
}

/// A port-restricted NAT, to show that one plugs in.
struct Nat {
    outside: SocketAddr,
    mappings: HashMap<SocketAddr, u16>,
    seen: Vec<(u16, SocketAddr)>,
}

impl Nat {
    fn boxed(outside: &str) -> Box<Self> {
        Box::new(Self { outside: address(outside), mappings: HashMap::new(), seen: Vec::new() })
    }
}

impl Middlebox for Nat {
    fn outbound(&mut self, mut datagram: Datagram, _: Instant) -> Option<Datagram> {
        let next = self.outside.port() + self.mappings.len() as u16;
        let port = *self.mappings.entry(datagram.source).or_insert(next);
        self.seen.push((port, datagram.destination));
        datagram.source = SocketAddr::new(self.outside.ip(), port);
        Some(datagram)
    }

    fn inbound(&mut self, mut datagram: Datagram, _: Instant) -> Option<Datagram> {
        let port = datagram.destination.port();
        if !self.seen.contains(&(port, datagram.source)) {
            return None;
        }
        let inside = self.mappings.iter().find(|(_, mapped)| **mapped == port);
        datagram.destination = *inside?.0;
        Some(datagram)
    }
}

#[test]
fn a_nat_plugs_in_also_behind_another_one() {
    let mut network = Network::new(3);
    let link = Link::with_latency(Duration::from_millis(10));
    let carrier = network.add_gateway(
        [address("198.51.100.1:0").ip()],
        None,
        Nat::boxed("198.51.100.1:9000"),
    );
    let home = network.add_gateway(
        [address("100.64.0.5:0").ip()],
        Some(carrier),
        Nat::boxed("100.64.0.5:2000"),
    );
    let inner = network.add_host([address("10.0.0.2:0").ip()], Some(home), link);
    let near = network.add_host([address("10.0.0.3:0").ip()], Some(home), link);
    let server = network.add_host([address("203.0.113.1:0").ip()], None, link);

    // Nobody gets in unasked.
    network.send(server, datagram("203.0.113.1:1", "198.51.100.1:9000", b"?"), NOW);
    assert!(arrivals(&mut network).is_empty());

    network.send(inner, datagram("10.0.0.2:51871", "203.0.113.1:1", b"out"), NOW);
    let (_, host, seen) = arrivals(&mut network).remove(0);
    assert_eq!((host, seen.source), (server, address("198.51.100.1:9000")));
    network.send(server, datagram("203.0.113.1:1", "198.51.100.1:9000", b"back"), NOW);
    let (_, host, seen) = arrivals(&mut network).remove(0);
    assert_eq!((host, seen.destination), (inner, address("10.0.0.2:51871")));
    assert_eq!(seen.source, address("203.0.113.1:1"));

    // From another port of the server: filtered.
    network.send(server, datagram("203.0.113.1:2", "198.51.100.1:9000", b"?"), NOW);
    assert!(arrivals(&mut network).is_empty());
    // Inside one site nothing is translated.
    network.send(inner, datagram("10.0.0.2:51871", "10.0.0.3:7", b"near"), NOW);
    let (_, host, seen) = arrivals(&mut network).remove(0);
    assert_eq!((host, seen.source), (near, address("10.0.0.2:51871")));
}

#[test]
fn a_hole_counts_from_when_the_datagram_reaches_it() {
    let slow = Link::with_latency(Duration::from_millis(50));
    // What is sent from outside is at the NAT after 50 ms.
    for (punched_after, expected) in [(60, 0), (40, 1)] {
        let mut network = Network::new(4);
        let box_ = Nat::boxed("198.51.100.1:9000");
        let nat = network.add_gateway([address("198.51.100.1:0").ip()], None, box_);
        let inner = network.add_host([address("10.0.0.2:0").ip()], Some(nat), slow);
        let outer = network.add_host([address("203.0.113.1:0").ip()], None, slow);
        network.send(outer, datagram("203.0.113.1:7", "198.51.100.1:9000", b"in"), NOW);
        let punch = NOW + Duration::from_millis(punched_after);
        assert_eq!(network.poll(punch), None);
        network.send(inner, datagram("10.0.0.2:1", "203.0.113.1:7", b"out"), punch);
        let arrived = arrivals(&mut network);
        let inside = arrived.iter().filter(|(_, host, _)| *host == inner).count();
        assert_eq!(inside, expected, "punched after {punched_after} ms");
    }
}
