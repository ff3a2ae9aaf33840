//! Random schedules of traffic, loss, duplication, reordering, corruption,
//! outages and restarts between two tunnels: ours with ours, with boringtun,
//! with gotatun. (Only ours restarts: the oracles' timestamps would go back.)
//!
//! Whatever happened, once the network is whole both directions work again
//! within 16 s; no payload is delivered twice, none is altered, nobody panics.
//!
//! `WEFT_SCHEDULES` is the number of schedules of each pairing (10,000), and of
//! crossed initiations likewise.
#![allow(missing_docs, clippy::print_stdout, reason = "a test that tells what it found")]

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use weft_agent_core::config::TunnelConfig;
use weft_agent_core::event::PeerSlot;
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::{PeerKeys, RESERVATION};
use weft_noise::key::StaticSecret;
use weft_oracles::{Boringtun, Gotatun, Oracle, OracleNode, Setup};
use weft_sim::{Delivery, Link, Node, Rng, TunnelNode, World};
use weft_wire::id::Secret;

const PSK: [u8; 32] = [7; 32];
const BEGIN: Instant = Instant::from_secs(1_000);
/// Both directions work again this long after the network healed.
const RECOVERED: Duration = Duration::from_secs(16);

type Anybody = Box<dyn Node>;

/// Makes the node with a number, peer of the other one, started for the n-th
/// time; `None` when it cannot start again.
type Make = fn(number: u8, seed: u64, start: u64) -> Option<Anybody>;

fn schedules() -> u64 {
    match std::env::var("WEFT_SCHEDULES") {
        Ok(number) => number.parse().expect("WEFT_SCHEDULES is a number"),
        Err(_) => 2_000,
    }
}

/// Before a release.
const LONG: u64 = 10_000;

fn underlay(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51_871))
}

fn secret(number: u8) -> StaticSecret {
    StaticSecret::from_bytes([number; 32])
}

fn ours(number: u8, seed: u64, start: u64) -> Option<Anybody> {
    let peer = 3 - number;
    // Each start finds the floor that the one before it has written.
    let (floor, seed) = (start * RESERVATION, seed.wrapping_add(start << 32));
    let mut node = TunnelNode::new(secret(number), floor, TunnelConfig::new(), seed);
    let keys = PeerKeys::new(secret(peer).public(), Secret(PSK));
    let overlay = IpAddr::from([100, 80, 1, peer]);
    node.add_peer(PeerSlot(0), keys, overlay, underlay(peer), BEGIN);
    Some(Box::new(node))
}

fn oracle<O: Oracle + 'static>(number: u8, _: u64, start: u64) -> Option<Anybody> {
    let peer = 3 - number;
    let setup = Setup {
        secret: [number; 32],
        peer: secret(peer).public().0,
        psk: Some(PSK),
        load_limit: u64::MAX,
    };
    (start == 0).then(|| Box::new(OracleNode::<O>::new(&setup, underlay(peer), BEGIN)) as Anybody)
}

/// An IPv4 packet of a protocol without ports, with a number in it and a length
/// and content that follow from the number.
fn packet(from: u8, to: u8, number: u64) -> Vec<u8> {
    let mut rng = Rng::new(number);
    let len = 28 + rng.below(200) as usize;
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 253]);
    packet[12..16].copy_from_slice(&[100, 80, 1, from]);
    packet[16..20].copy_from_slice(&[100, 80, 1, to]);
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend(std::iter::repeat_with(|| rng.next() as u8).take(len - 28));
    packet
}

/// Two nodes and what they have sent and got.
struct Run {
    seed: u64,
    rng: Rng,
    world: World<Anybody>,
    make: [Make; 2],
    starts: [u64; 2],
    /// The next number of each side; one side's are even, the other's odd.
    next: [u64; 2],
    got: HashSet<u64>,
    /// The greatest number that each side got.
    newest: [Option<u64>; 2],
}

impl Run {
    fn new(first: Make, second: Make, seed: u64) -> Self {
        let mut world = World::new(seed, BEGIN);
        for (number, make) in [(1, first), (2, second)] {
            let node = make(number, seed ^ u64::from(number), 0).expect("a first start");
            world.add(node, underlay(number), Link::IDEAL);
        }
        Self {
            seed,
            rng: Rng::new(seed),
            world,
            make: [first, second],
            starts: [0; 2],
            next: [0, 1],
            got: HashSet::new(),
            newest: [None; 2],
        }
    }

    fn send(&mut self, from: usize) {
        let number = self.next[from];
        self.next[from] += 2;
        self.world.send(from, &packet(1 + from as u8, 2 - from as u8, number));
    }

    fn run(&mut self, duration: Duration) {
        self.world.run(duration);
        for Delivery { node, packet: got, .. } in self.world.take_delivered() {
            let number = got.get(20..28).and_then(|number| number.try_into().ok());
            let number = u64::from_be_bytes(number.expect("a number in the packet"));
            let from = 1 - node;
            let sent = packet(1 + from as u8, 1 + node as u8, number);
            assert_eq!(got, sent, "seed {}: a payload is altered", self.seed);
            assert!(number < self.next[from], "seed {}: never sent", self.seed);
            assert!(self.got.insert(number), "seed {}: {number} came twice", self.seed);
            self.newest[node] = self.newest[node].max(Some(number));
        }
    }

    fn set_links(&mut self, link: impl Fn(&mut Rng) -> Link) {
        for node in 0..2 {
            let host = self.world.host(node);
            *self.world.network.link_mut(host) = link(&mut self.rng);
        }
    }

    /// Restarts a node, if it can.
    fn restart(&mut self, node: usize) {
        let (number, start) = (1 + node as u8, self.starts[node] + 1);
        if let Some(fresh) = self.make[node](number, self.seed ^ u64::from(number), start) {
            self.starts[node] = start;
            self.world.replace(node, fresh);
        }
    }

    /// A stretch of time with faults and traffic, both drawn.
    fn phase(&mut self) {
        let out = self.rng.chance(250_000);
        self.set_links(|rng| Link {
            latency: rng.up_to(Duration::from_millis(300)),
            jitter: rng.up_to(Duration::from_millis(200)),
            loss_ppm: rng.below(500_000) as u32,
            duplicate_ppm: rng.below(200_000) as u32,
            reorder_ppm: rng.below(200_000) as u32,
            corrupt_ppm: rng.below(50_000) as u32,
            up: !out || rng.chance(300_000),
            ..Link::IDEAL
        });
        let lengths = [2, 2, 12, 20, 40, 130, 200];
        let most = lengths[self.rng.below(lengths.len() as u64) as usize];
        let end = self.world.now() + self.rng.up_to(Duration::from_secs(most));
        // Milliseconds between two packets of each side; 0 = silent.
        let gaps = [0, 0, 50, 400, 2_000, 11_000, 16_000];
        let gap = [(); 2].map(|()| gaps[self.rng.below(gaps.len() as u64) as usize]);
        if self.rng.chance(300_000) {
            // Both at once: initiations cross.
            self.send(0);
            self.send(1);
        }
        if self.rng.chance(200_000) {
            let node = self.rng.below(2) as usize;
            self.restart(node);
        }
        while self.world.now() < end {
            let step = Duration::from_millis(20 + self.rng.below(400));
            for (from, gap) in gap.into_iter().enumerate() {
                if gap > 0 && self.rng.below(gap) < step.as_millis() {
                    self.send(from);
                }
            }
            self.run(step);
        }
    }

    /// Heals the network and waits until something sent from now on has come,
    /// from each of the sides that send; gives the time it took.
    fn recover(&mut self, senders: &[usize]) -> Duration {
        // Slowest is who notices a dead session: 15 s, a jitter of 333 ms and an
        // oracle's tick of 250 ms, then three times the way.
        self.set_links(|rng| Link::with_latency(rng.up_to(Duration::from_millis(20))));
        let (healed, from_here) = (self.world.now(), self.next);
        loop {
            for &from in senders {
                self.send(from);
            }
            self.run(Duration::from_millis(100));
            let took = self.world.now().since(healed);
            if senders.iter().all(|&from| self.newest[1 - from] >= Some(from_here[from])) {
                return took;
            }
            assert!(took <= RECOVERED, "seed {}: not back after {took:?}", self.seed);
        }
    }
}

/// Runs schedules between two kinds of nodes; every other one the other way
/// round.
fn differential(name: &str, other: Make, seeds: std::ops::Range<u64>) {
    let (mut worst, mut packets, count) = (Duration::ZERO, 0, seeds.end - seeds.start);
    for seed in seeds {
        let (first, second): (Make, Make) =
            if seed % 2 == 0 { (ours, other) } else { (other, ours) };
        let mut run = Run::new(first, second, seed);
        for _ in 0..=run.rng.below(5) {
            run.phase();
        }
        // Sometimes a side has just restarted, and has nothing to say.
        if run.rng.chance(200_000) {
            let node = run.rng.below(2) as usize;
            run.restart(node);
            // What its predecessor sent is gone too: held back for a second, it
            // would still be an answer, and the 15 s begin with the last one.
            run.world.network.clear();
            worst = worst.max(run.recover(&[1 - node]));
        }
        worst = worst.max(run.recover(&[0, 1]));
        // Late duplicates come to nothing.
        run.run(Duration::from_secs(2));
        packets += run.next[0] / 2 + run.next[1] / 2;
    }
    println!("ours and {name}: {count} schedules, {packets} packets, back within {worst:?}");
}

#[test]
fn schedules_with_ours() {
    differential("ours", ours, 0..schedules());
}

#[test]
#[ignore = "long"]
fn ten_thousand_schedules_with_ours() {
    differential("ours", ours, 0..LONG);
}

#[test]
fn schedules_with_boringtun() {
    differential("boringtun", oracle::<Boringtun>, 0..schedules());
}

#[test]
#[ignore = "long"]
fn ten_thousand_schedules_with_boringtun() {
    differential("boringtun", oracle::<Boringtun>, 0..LONG);
}

#[test]
fn schedules_with_gotatun() {
    differential("gotatun", oracle::<Gotatun>, 0..schedules());
}

#[test]
#[ignore = "long"]
fn ten_thousand_schedules_with_gotatun() {
    differential("gotatun", oracle::<Gotatun>, 0..LONG);
}

/// Both sides send for the first time within one round trip of each other.
fn crossed(name: &str, other: Make, seeds: std::ops::Range<u64>) {
    let (mut worst, count) = (Duration::ZERO, seeds.end - seeds.start);
    for seed in seeds {
        let mut run = Run::new(ours, other, seed);
        run.set_links(|rng| Link {
            latency: rng.up_to(Duration::from_millis(100)),
            jitter: rng.up_to(Duration::from_millis(30)),
            loss_ppm: if rng.chance(200_000) { 200_000 } else { 0 },
            ..Link::IDEAL
        });
        let first = run.rng.below(2) as usize;
        run.send(first);
        let apart = run.rng.up_to(Duration::from_millis(250));
        run.run(apart);
        run.send(1 - first);
        let passed = run.rng.up_to(Duration::from_secs(3));
        run.run(passed);
        worst = worst.max(run.recover(&[0, 1]));
    }
    println!("ours and {name}: {count} crossed initiations, back within {worst:?}");
}

#[test]
fn regression_17_crossed_initiations_with_ours() {
    crossed("ours", ours, 0..schedules());
}

#[test]
fn regression_17_crossed_initiations_with_boringtun() {
    crossed("boringtun", oracle::<Boringtun>, 0..schedules());
}

#[test]
fn regression_17_crossed_initiations_with_gotatun() {
    crossed("gotatun", oracle::<Gotatun>, 0..schedules());
}
