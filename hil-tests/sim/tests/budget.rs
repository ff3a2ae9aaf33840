//! What a device's bytes are for, and what a budget of them ends.
#![allow(missing_docs, reason = "a test")]

use weft_agent_core::agent::AgentEvent;
use weft_agent_core::meter::{Budget, Bytes, Cause, overhead};
use weft_agent_core::time::Instant;
use weft_sim::mesh::Mesh;
use weft_sim::mesh::coordinator::UNIX_MS;
use weft_sim::nat::Kind;
use weft_wire::probe::PROBE;

const RELAY: [u8; 4] = [203, 0, 113, 30];
const HOUR: u64 = 3_600_000;
/// Between two pings: with longer ones the other side asks whether its answers
/// arrive.
const PAUSE: u64 = 900;

/// Two members behind such NATs, and a relay.
fn pair(one: Kind, other: Kind) -> (Mesh, usize, usize) {
    let mut mesh = Mesh::new(5);
    mesh.add_stun_servers();
    mesh.add_relay(RELAY.into());
    let (a, b) = mesh.add_pair(one, other);
    (mesh, a, b)
}

fn bytes(mesh: &Mesh, node: usize) -> Bytes {
    mesh.agent(node).usage(mesh.now).bytes
}

fn of(bytes: &Bytes, cause: Cause) -> u64 {
    bytes[cause as usize]
}

fn is_relayed(mesh: &Mesh, node: usize) -> bool {
    let peer = mesh.agent(node).peers().next().expect("a peer");
    peer.selected.is_some_and(|selected| selected.relayed)
}

/// When the coordinator's day ends.
fn midnight() -> Instant {
    // A device's clock is as late as the word that told it the time.
    Instant::from_millis(86_400_000 - UNIX_MS % 86_400_000 + 100)
}

/// A ping every 900 ms for this long; every one is answered.
fn talk(mesh: &mut Mesh, a: usize, b: usize, millis: u64) {
    let host = mesh.host(b);
    let before = mesh.replies(a);
    let pings = millis / PAUSE;
    for sequence in 0..pings {
        mesh.ping(a, host, sequence as u16);
        mesh.run_for(PAUSE);
    }
    assert_eq!(mesh.replies(a) - before, pings as usize, "payload flows");
}

/// Bytes of probes, and of what keeps ways open.
fn probes(mesh: &Mesh, node: usize) -> u64 {
    let bytes = bytes(mesh, node);
    of(&bytes, Cause::Probe) + of(&bytes, Cause::Keepalive)
}

fn changes(mesh: &Mesh, node: usize) -> Vec<bool> {
    mesh.events(node, |event| match event {
        AgentEvent::Budget(is_used_up) => Some(*is_used_up),
        _ => None,
    })
}

fn limit(mesh: &mut Mesh, node: usize, left: u64) {
    let used = overhead(&bytes(mesh, node));
    let budget = Budget { is_metered: true, bytes: Some(used + left) };
    mesh.input(node, |agent, now| agent.set_budget(budget, now));
}

#[test]
fn every_byte_has_a_cause() {
    for (one, other) in [(Kind::Prc, Kind::Prc), (Kind::SymRand, Kind::SymRand)] {
        let (mut mesh, a, b) = pair(one, other);
        talk(&mut mesh, a, b, 600_000);
        let id = mesh.id(b);
        mesh.input(a, |agent, now| agent.keep_warm(id, true, now));
        mesh.run_for(2 * HOUR);
        let relayed = is_relayed(&mesh, a);
        assert_eq!(relayed, one == Kind::SymRand);
        for node in [a, b] {
            let bytes = bytes(&mesh, node);
            println!("{} {bytes:?}", one.name());
            let carried: u64 = bytes.iter().sum::<u64>() - of(&bytes, Cause::Control);
            assert_eq!(carried, mesh.nodes[node].carried, "{bytes:?}");
            assert!(of(&bytes, Cause::Control) > 0 && of(&bytes, Cause::Probe) > 0);
            // 666 pings and their answers: 84 bytes, padded, sealed, in IP and UDP.
            assert!(of(&bytes, Cause::Payload) >= 666 * 2 * (96 + 32 + 28));
        }
        assert!(of(&bytes(&mesh, a), Cause::Keepalive) > 0, "who keeps the way open");
        let around = of(&bytes(&mesh, a), Cause::RelayOverhead);
        if relayed {
            assert!(around > 10_000, "who has the allocation: {around}");
        } else {
            // A ping of a pause that was too long may be lost: what is asked of the
            // relay then is given back.
            assert!(around < 4_000, "{around}");
            assert_eq!(mesh.relays[0].turn.allocations(), 0);
        }
    }
}

#[test]
fn the_day_goes_on_after_a_restart_and_ends_at_midnight() {
    let (mut mesh, a, b) = pair(Kind::Prc, Kind::Prc);
    talk(&mut mesh, a, b, 600_000);
    let before = bytes(&mesh, a);
    // What a shell does at an orderly end.
    let mut cache = Vec::new();
    let mut scratch = [0; 2_048];
    let agent = mesh.agent(a);
    agent.write_cache(&mut scratch, |piece| cache.extend_from_slice(piece)).unwrap();
    mesh.stop(a);
    mesh.nodes[a].storage.cache = cache;
    mesh.boot(a);
    mesh.run_to(5_000, |mesh| mesh.agent(a).usage(mesh.now).day.is_some());
    let after = bytes(&mesh, a);
    assert!(of(&after, Cause::Payload) >= of(&before, Cause::Payload));
    assert!(of(&after, Cause::Control) > of(&before, Cause::Control), "a handshake more");
    mesh.run_until(midnight());
    let agent = mesh.agent(a);
    let usage = agent.usage(mesh.now);
    assert_eq!(usage.day, Some((UNIX_MS / 86_400_000) as u32 + 1));
    assert_eq!(usage.bytes, [0; 5]);
    mesh.run_for(2 * HOUR);
    // The coordinator heard of either day, and of the first until its last quarter.
    let told: Vec<_> = mesh.coordinator.usages.iter().map(|(_, usage)| usage).collect();
    let first = told.iter().filter(|usage| Some(usage.day + 1) == agent_day(&mesh, a));
    let last = first.max_by_key(|usage| usage.payload).expect("it was told");
    assert!(last.payload >= of(&before, Cause::Payload));
    assert!(told.iter().any(|usage| Some(usage.day) == agent_day(&mesh, a)));
}

fn agent_day(mesh: &Mesh, node: usize) -> Option<u32> {
    mesh.agent(node).usage(mesh.now).day
}

/// Once an hour and around midnight: the reports of an idle day are 22 bytes each.
#[test]
fn an_idle_day_is_told_in_few_reports() {
    let (mut mesh, a, _) = pair(Kind::Prc, Kind::Prc);
    mesh.run_until(midnight());
    let told = mesh.coordinator.usages.len();
    mesh.run_for(24 * HOUR);
    let told = mesh.coordinator.usages.len() - told;
    println!("{told} reports of two devices");
    assert!((40..=60).contains(&told), "{told}");
    assert!(changes(&mesh, a).is_empty());
}

/// The side that looks for better ways is the one that pays.
#[test]
fn a_budget_that_is_used_up_ends_searches_and_nothing_else() {
    let (mut mesh, a, b) = pair(Kind::SymRand, Kind::SymRand);
    talk(&mut mesh, a, b, HOUR);
    assert!(is_relayed(&mesh, a));
    let (calls, probed) = (mesh.coordinator.calls, probes(&mesh, a));
    assert!(calls > 20 && probed > 50_000, "it looks for a way: {calls} calls, {probed} bytes");
    limit(&mut mesh, a, 40_000);
    talk(&mut mesh, a, b, HOUR);
    assert_eq!(changes(&mesh, a), [true]);
    let (calls, probed) = (mesh.coordinator.calls, probes(&mesh, a));
    let used = overhead(&bytes(&mesh, a));
    talk(&mut mesh, a, b, 4 * HOUR);
    assert_eq!(mesh.coordinator.calls, calls, "nobody looks for a better way");
    assert_eq!(probes(&mesh, a), probed);
    // The line and the relay are needed.
    let needed = overhead(&bytes(&mesh, a)) - used;
    println!("{needed} bytes in 4 h that are needed: {:?}", bytes(&mesh, a));
    assert!(is_relayed(&mesh, a));
    let attempts = mesh.agent(a).peers().next().map(|peer| peer.slot).unwrap();
    let next = mesh.agent(a).attempts(attempts).and_then(|attempts| attempts.next());
    let early = next.map(|at| (midnight() - at).as_millis());
    assert!(early.is_some_and(|ms| (1..=100).contains(&ms)), "people are told when: {next:?}");
    let told = mesh.coordinator.usages.iter().rev().find(|(_, usage)| usage.used_up);
    assert!(told.is_some(), "and so is the coordinator");
    // A new day.
    let left = (midnight() - mesh.now).as_millis();
    talk(&mut mesh, a, b, left / PAUSE * PAUSE);
    assert_eq!(mesh.coordinator.calls, calls);
    talk(&mut mesh, a, b, HOUR);
    assert_eq!(changes(&mesh, a)[..2], [true, false]);
    assert!(mesh.coordinator.calls > calls + 20, "{}", mesh.coordinator.calls);
    assert!(probes(&mesh, a) > 50_000, "{}", probes(&mesh, a));
}

/// The side that is called declines better ways, and is asked no more than once an
/// hour; a peer that has lost its way finds it all the same.
#[test]
fn who_is_called_declines_when_its_budget_is_used_up() {
    let (mut mesh, a, b) = pair(Kind::SymRand, Kind::SymRand);
    talk(&mut mesh, a, b, 600_000);
    limit(&mut mesh, b, 0);
    assert_eq!(changes(&mesh, b), [true]);
    talk(&mut mesh, a, b, 600_000);
    let (calls, probed) = (mesh.coordinator.calls, probes(&mesh, b));
    talk(&mut mesh, a, b, 4 * HOUR);
    let more = (mesh.coordinator.calls - calls, probes(&mesh, b) - probed);
    println!("{more:?} calls and bytes of probes in 4 h");
    assert!(more.0 <= 6, "{more:?} calls");
    assert!(more.1 <= 6 * 2_000, "{more:?} bytes");
    // The peer starts anew, and a second time with the allocation gone for long.
    for pause in [1_000, 700_000] {
        let id = mesh.id(a);
        mesh.stop(a);
        mesh.run_for(pause);
        mesh.boot(a);
        mesh.run_to(10_000, |mesh| mesh.agent(a).coordinator(mesh.now).online);
        let host = mesh.host(b);
        let before = mesh.replies(a);
        mesh.ping(a, host, 1);
        mesh.run_to(6_000, |mesh| mesh.replies(a) > before);
        assert_eq!(mesh.id(a), id);
    }
}

/// A way is not kept open with bytes that are used up, and kept open again after.
#[test]
fn a_way_is_kept_open_while_there_are_bytes() {
    for kind in [Kind::Prc, Kind::SymRand] {
        let (mut mesh, a, b) = pair(kind, kind);
        let id = mesh.id(b);
        mesh.input(a, |agent, now| agent.keep_warm(id, true, now));
        mesh.run_for(HOUR);
        let probed = probes(&mesh, a);
        assert!(probed > 2_000, "{probed}");
        assert_eq!(mesh.relays[0].turn.allocations(), u32::from(kind == Kind::SymRand));
        limit(&mut mesh, a, 0);
        mesh.run_for(HOUR);
        let probed = probes(&mesh, a);
        mesh.run_for((midnight() - mesh.now).as_millis() - HOUR);
        assert_eq!(probes(&mesh, a), probed, "{}", kind.name());
        assert_eq!(mesh.relays[0].turn.allocations(), 0, "{}", kind.name());
        mesh.run_for(2 * HOUR);
        assert!(probes(&mesh, a) > 2_000, "{}", kind.name());
        assert_eq!(mesh.relays[0].turn.allocations(), u32::from(kind == Kind::SymRand));
        assert_eq!(changes(&mesh, a)[..2], [true, false]);
    }
}

/// Nobody uses up another's budget by sending to it.
#[test]
fn what_is_not_authentic_counts_as_payload() {
    use weft_agent_core::event::{SocketId, Source};

    let (mut mesh, a, _) = pair(Kind::Open, Kind::Open);
    mesh.run_for(60_000);
    let before = bytes(&mesh, a);
    let from = "198.51.100.200:4000".parse().unwrap();
    let source = Source { socket: SocketId(0), address: from };
    let mut stun = vec![1, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
    stun.resize(20, 7);
    let mut probe = vec![PROBE, 0x11];
    probe.resize(44, 9);
    let mut sent = 0;
    for datagram in [stun, probe, vec![4; 200], vec![0x40, 0, 0, 4, 1, 2, 3, 4]] {
        for _ in 0..100 {
            let mut datagram = datagram.clone();
            sent += datagram.len() as u64 + 28;
            mesh.input(a, |agent, now| agent.handle_datagram(source, &mut datagram, now).is_err());
        }
    }
    let after = bytes(&mesh, a);
    assert_eq!(overhead(&after), overhead(&before));
    assert_eq!(of(&after, Cause::Payload) - of(&before, Cause::Payload), sent);
}

/// A flow that goes one way is asked for its way every four seconds; with bytes that
/// are used up every half a minute.
#[test]
fn a_way_is_asked_more_rarely_when_bytes_are_used_up() {
    let asked = |budget: bool| {
        let (mut mesh, a, b) = pair(Kind::Open, Kind::Open);
        let host = mesh.host(b);
        if budget {
            limit(&mut mesh, b, 0);
        }
        // The answers of b are the last word for ten seconds.
        for sequence in 0..60 {
            mesh.ping(a, host, sequence);
            mesh.run_for(60_000);
        }
        assert_eq!(mesh.replies(a), 60);
        probes(&mesh, b)
    };
    let (often, rarely) = (asked(false), asked(true));
    println!("{often} and {rarely} bytes of probes");
    assert!(rarely * 3 < often, "{rarely} of {often}");
}

/// An operator wants a way kept open: both sides do, and stop when they are told so.
#[test]
fn a_policy_keeps_a_way_open_and_lets_it_go() {
    for kind in [Kind::Prc, Kind::SymRand] {
        let (mut mesh, a, b) = pair(kind, kind);
        let allocations = u32::from(kind == Kind::SymRand);
        let (first, second) = (mesh.id(a), mesh.id(b));
        let frames = mesh.coordinator.keep_warm(first, second, true);
        mesh.send(frames);
        mesh.run_for(HOUR);
        // Of a relayed pair the searches remind routers too: once pauses have grown beyond
        // what lies between two of them, little else does.
        assert!(of(&bytes(&mesh, a), Cause::Keepalive) > 1_000, "{:?}", bytes(&mesh, a));
        assert!(of(&bytes(&mesh, b), Cause::Keepalive) > 1_000, "{:?}", bytes(&mesh, b));
        assert_eq!(mesh.relays[0].turn.allocations(), allocations);
        // It holds after a restart, and while the coordinator is away.
        mesh.stop(b);
        mesh.boot(b);
        mesh.run_for(HOUR);
        mesh.coordinator_down = true;
        mesh.cut_lines();
        mesh.run_for(600_000);
        let host = mesh.host(b);
        let (before, at) = (mesh.replies(a), mesh.now);
        mesh.ping(a, host, 1);
        mesh.run_to(2_000, |mesh| mesh.replies(a) > before);
        let took = (mesh.now - at).as_millis();
        assert!(took <= 200, "{}: a handshake and a packet, {took} ms", kind.name());
        mesh.coordinator_down = false;
        mesh.run_for(600_000);
        let frames = mesh.coordinator.keep_warm(first, second, false);
        mesh.send(frames);
        mesh.run_for(2_000);
        let kept = [a, b].map(|node| of(&bytes(&mesh, node), Cause::Keepalive));
        mesh.run_for(300_000);
        assert_eq!(mesh.relays[0].turn.allocations(), 0, "{}: nobody talks", kind.name());
        let probed = [a, b].map(|node| probes(&mesh, node));
        mesh.run_for(HOUR);
        assert_eq!([a, b].map(|node| of(&bytes(&mesh, node), Cause::Keepalive)), kept);
        assert_eq!([a, b].map(|node| probes(&mesh, node)), probed, "{}", kind.name());
    }
}

/// Of the device's own wish and the network's either is enough.
#[test]
fn a_wish_of_the_device_outlives_the_policy() {
    let (mut mesh, a, b) = pair(Kind::Prc, Kind::Prc);
    let (first, second) = (mesh.id(a), mesh.id(b));
    mesh.input(a, |agent, now| agent.keep_warm(second, true, now));
    for is_wanted in [true, false] {
        let frames = mesh.coordinator.keep_warm(first, second, is_wanted);
        mesh.send(frames);
        mesh.run_for(HOUR);
    }
    let kept = of(&bytes(&mesh, a), Cause::Keepalive);
    mesh.run_for(HOUR);
    assert!(of(&bytes(&mesh, a), Cause::Keepalive) > kept + 1_000);
    mesh.input(a, |agent, now| agent.keep_warm(second, false, now));
    let kept = of(&bytes(&mesh, a), Cause::Keepalive);
    mesh.run_for(HOUR);
    assert_eq!(of(&bytes(&mesh, a), Cause::Keepalive), kept);
}

/// The coordinator's budget counts where it is the tighter one, after a restart too.
#[test]
fn the_tighter_budget_holds() {
    let (mut mesh, a, _) = pair(Kind::Prc, Kind::Prc);
    let budget = Budget { is_metered: true, bytes: Some(50_000_000) };
    mesh.input(a, |agent, now| agent.set_budget(budget, now));
    let id = mesh.id(a);
    let frames = mesh.coordinator.set_budget(id, Some(1_000));
    mesh.send(frames);
    mesh.run_for(2_000);
    assert_eq!(mesh.agent(a).usage(mesh.now).budget, Some(1_000));
    assert_eq!(changes(&mesh, a), [true]);
    mesh.stop(a);
    mesh.coordinator_down = true;
    mesh.boot(a);
    mesh.input(a, |agent, now| agent.set_budget(budget, now));
    assert_eq!(mesh.agent(a).usage(mesh.now).budget, Some(1_000), "it is in the cache");
    mesh.coordinator_down = false;
    mesh.run_for(120_000);
    let frames = mesh.coordinator.set_budget(id, None);
    mesh.send(frames);
    mesh.run_for(2_000);
    assert_eq!(mesh.agent(a).usage(mesh.now).budget, Some(50_000_000));
    assert_eq!(changes(&mesh, a), [true, true, false]);
}
