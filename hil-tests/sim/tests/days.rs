//! Thirty days of two tunnels with eight hours of traffic a day: the number of
//! handshakes is what the timers say, nothing is lost, nobody wakes in vain.
#![allow(missing_docs, reason = "a test")]

use std::net::{IpAddr, SocketAddr};

use weft_agent_core::config::TunnelConfig;
use weft_agent_core::event::PeerSlot;
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::PeerKeys;
use weft_noise::key::StaticSecret;
use weft_sim::{Link, TunnelNode, World};
use weft_wire::id::Secret;

const SLOT: PeerSlot = PeerSlot(0);
const DAYS: u64 = 30;
const TRAFFIC: Duration = Duration::from_secs(8 * 3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// A question this often, and an answer to each.
const EVERY: Duration = Duration::from_secs(10);

fn underlay(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51_871))
}

fn overlay(number: u8) -> IpAddr {
    IpAddr::from([100, 80, 1, number])
}

fn node(number: u8) -> TunnelNode {
    let secret = |number| StaticSecret::from_bytes([number; 32]);
    let peer = 3 - number;
    let config = TunnelConfig::new();
    let mut node = TunnelNode::new(secret(number), 0, config, u64::from(number));
    let keys = PeerKeys::new(secret(peer).public(), Secret([7; 32]));
    node.add_peer(SLOT, keys, overlay(peer), underlay(peer), Instant::ZERO);
    node
}

/// An IPv4 packet of a protocol without ports.
fn packet(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 253]);
    packet[12..16].copy_from_slice(&[100, 80, 1, from]);
    packet[16..20].copy_from_slice(&[100, 80, 1, to]);
    packet.extend_from_slice(payload);
    packet
}

/// CPU time of this thread, to 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux");
    // Fields 14 and 15, counted behind the name in parentheses.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn thirty_days_have_the_expected_number_of_handshakes() {
    let began = cpu_time();
    let mut world = World::new(30, Instant::from_secs(1_000));
    let link = Link::with_latency(Duration::from_millis(20));
    for number in [1, 2] {
        world.add(node(number), underlay(number), link);
    }
    let mut answered = 0;
    for day in 0..DAYS {
        let questions = TRAFFIC.as_secs() / EVERY.as_secs();
        for question in 0..questions {
            world.send(0, &packet(1, 2, &(day * questions + question).to_be_bytes()));
            world.run(Duration::from_millis(500));
            let asked = world.take_delivered();
            assert_eq!(asked.len(), 1, "day {day}, question {question}");
            world.send(1, &packet(2, 1, &asked[0].packet[20..]));
            world.run(EVERY - Duration::from_millis(500));
            answered += world.take_delivered().len() as u64;
        }
        world.run(Duration::from_secs(600));
        let idle = world.network.totals().sent;
        world.run(DAY - TRAFFIC - Duration::from_secs(600));
        assert_eq!(world.network.totals().sent, idle, "the night is silent");
    }
    assert_eq!(answered, DAYS * TRAFFIC.as_secs() / EVERY.as_secs());

    // The session is established after a question, so it is 120 s old at the
    // 13th question after that one: every 130 s, and first in the morning.
    let expected = DAYS * TRAFFIC.as_secs().div_ceil(130);
    let handshakes = u64::from(world.node(0).tunnel.status(SLOT).expect("a peer").handshakes);
    let cpu = cpu_time() - began;
    println!("{handshakes} handshakes in {DAYS} days, {expected} expected; {cpu:?} of CPU time");
    assert!(handshakes.abs_diff(expected) * 100 <= expected, "{handshakes} of {expected}");
    assert!(cpu <= Duration::from_secs(10), "{cpu:?} of CPU time");
}
