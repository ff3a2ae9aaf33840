//! Ways that are kept open while nobody talks.
#![allow(missing_docs, reason = "a test")]

use weft_agent_core::time::Duration;
use weft_sim::mesh::{Mesh, clean};
use weft_sim::nat::{Kind, Rules};
use weft_wire::probe::PROBE;

const RELAY: [u8; 4] = [203, 0, 113, 20];

/// From the first packet of `a` to its arrival at `b`.
fn first_packet(mesh: &mut Mesh, a: usize, b: usize) -> Duration {
    let host = mesh.host(b);
    mesh.ping(a, host, 1);
    mesh.run_to(5_000, |mesh| !mesh.nodes[b].received.is_empty())
}

/// Two members behind routers that forget a flow after two minutes.
fn forgetful() -> (Mesh, usize, usize) {
    let mut mesh = Mesh::new(11);
    let (a, b) = add_forgetful(&mut mesh);
    (mesh, a, b)
}

fn add_forgetful(mesh: &mut Mesh) -> (usize, usize) {
    mesh.add_stun_servers();
    let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
    let rules = Rules {
        stream: Duration::from_secs(120),
        unreplied: Duration::from_secs(30),
        ..Rules::HOME
    };
    mesh.site_with(a, rules);
    mesh.site_with(b, rules);
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    (a, b)
}

/// Probes that each has sent.
fn probes(mesh: &Mesh) -> [u32; 2] {
    [0, 1].map(|node| mesh.nodes[node].sent.get(&PROBE).copied().unwrap_or_default())
}

/// A way that is kept open through routers that forget after two minutes: a ping
/// in a minute and a half once that is learnt, and the first packet goes at once,
/// whether or not there is a coordinator.
#[test]
fn a_way_that_is_kept_open_costs_a_ping_now_and_then() {
    let (mut mesh, a, b) = forgetful();
    let id = mesh.id(b);
    mesh.input(a, |agent, now| agent.keep_warm(id, true, now));
    mesh.run_for(1_800_000);
    let before = probes(&mesh);
    mesh.run_for(3_600_000);
    let pings = probes(&mesh)[a] - before[a];
    println!("{pings} probes in an hour");
    assert!((36..=42).contains(&pings), "{pings} probes in an hour");
    mesh.coordinator_down = true;
    mesh.cut_lines();
    mesh.run_for(60_000);
    let took = first_packet(&mut mesh, a, b);
    assert!(took.as_millis() <= 40, "a handshake and the packet: {took:?}");
}

/// Both keep it open: one ping and its answer remind all routers on it.
#[test]
fn a_way_that_both_keep_open_costs_no_more() {
    let (mut mesh, a, b) = forgetful();
    for (node, peer) in [(a, b), (b, a)] {
        let id = mesh.id(peer);
        mesh.input(node, |agent, now| agent.keep_warm(id, true, now));
    }
    mesh.run_for(1_800_000);
    let before = probes(&mesh);
    mesh.run_for(3_600_000);
    let after = probes(&mesh);
    let sent = [a, b].map(|node| after[node] - before[node]);
    println!("{sent:?} probes in an hour");
    assert!(sent.iter().all(|probes| (36..=39).contains(probes)), "{sent:?} probes in an hour");
    let took = first_packet(&mut mesh, a, b);
    assert!(took.as_millis() <= 40, "a handshake and the packet: {took:?}");
}

/// A restart goes on with what was learned: the pause that the routers did not outlive
/// is not made again within the day, and neither is what is known to hold approached in
/// small steps.
#[test]
fn a_restart_goes_on_with_the_pauses_that_were_learned() {
    let half_an_hour = |remembers: bool| {
        let (mut mesh, a, b) = forgetful();
        let id = mesh.id(b);
        mesh.input(a, |agent, now| agent.keep_warm(id, true, now));
        assert_eq!(mesh.agent(a).pauses(mesh.now), None);
        mesh.run_for(1_800_000);
        let learned = mesh.agent(a).pauses(mesh.now).expect("it is kept open");
        assert_eq!((learned.held_s, learned.most_s), (96, 96));
        assert!((84_000..86_400).contains(&learned.limited_s), "{learned:?}");
        mesh.stop(a);
        mesh.boot(a);
        if remembers {
            mesh.input(a, |agent, now| agent.prefer_pauses(learned, now));
        }
        mesh.input(a, |agent, now| agent.keep_warm(id, true, now));
        mesh.run_to(5_000, |mesh| mesh.knows(a, 1));
        let before = probes(&mesh);
        mesh.run_for(1_800_000);
        let (after, again) = (probes(&mesh), mesh.agent(a).pauses(mesh.now));
        // Another network has other routers.
        mesh.roam(a, Kind::Prc);
        assert_eq!(mesh.agent(a).pauses(mesh.now), None);
        (after[a] - before[a], learned, again.expect("it is kept open"))
    };
    let (remembered, learned, again) = half_an_hour(true);
    assert_eq!((again.held_s, again.most_s), (96, 96));
    assert!(learned.limited_s - again.limited_s >= 1_790, "no new limit was found: {again:?}");
    let (forgotten, ..) = half_an_hour(false);
    println!("{remembered} probes in half an hour, without a memory {forgotten}");
    assert!(remembered + 3 <= forgotten, "{remembered} probes, without a memory {forgotten}");
}

/// Two that start anew one soon after the other know each other afterwards. Data may find
/// its way before a call is made, or before its answer comes; and a call that went over
/// the relay's line goes on when the coordinator is back. Who has not been told what its
/// pings are to carry would bring a whole round by the next one.
#[test]
fn two_that_start_anew_after_each_other_know_each_other() {
    for (has_relay, line_ms) in [(false, 10), (false, 40), (true, 10), (true, 40)] {
        for after_ms in (0..400).step_by(10) {
            let mut mesh = Mesh::new(11);
            if has_relay {
                mesh.add_relay(RELAY.into());
            }
            mesh.line = clean(line_ms);
            let (a, b) = add_forgetful(&mut mesh);
            let ids = [mesh.id(a), mesh.id(b)];
            let keep_warm = |mesh: &mut Mesh, node, peer| {
                mesh.input(node, |agent, now| agent.keep_warm(peer, true, now));
            };
            let host = mesh.host(b);
            mesh.ping(a, host, 1);
            mesh.run_for(80_000);
            mesh.stop(b);
            mesh.boot(b);
            keep_warm(&mut mesh, b, ids[0]);
            mesh.run_for(after_ms);
            mesh.stop(a);
            mesh.boot(a);
            keep_warm(&mut mesh, a, ids[1]);
            mesh.run_for(15_000);
            let before = probes(&mesh);
            mesh.run_for(45_000);
            let after = probes(&mesh);
            let sent = [a, b].map(|node| after[node] - before[node]);
            assert!(
                sent.iter().all(|probes| *probes <= 4),
                "relay {has_relay}, a line of {line_ms} ms, {after_ms} ms apart: {sent:?} probes"
            );
        }
    }
}
