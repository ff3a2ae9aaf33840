//! The control session against a coordinator, over lines that lose, double,
//! reorder and lie.
#![allow(missing_docs, reason = "a test")]

use weft_agent_core::agent::AgentEvent;
use weft_agent_core::control::{FrameDrop, Held, MapDropped};
use weft_agent_core::time::Duration;
use weft_sim::mesh::Mesh;
use weft_sim::mesh::coordinator::UNIX_MS;
use weft_sim::{Link, Rng};
use weft_wire::body::{Body, Reader, Writer};
use weft_wire::frame::{FrameKind, RecordHeader, Reset, Retry, kind};
use weft_wire::id::{CommandId, DeviceId, PublicKey};
use weft_wire::item::{Command, CommandKind, Item, Outcome, Standing, State};
use weft_wire::network::{Netcheck, NetworkReport};
use weft_wire::topic::Topic;
use weft_wire::verdict::Refusal;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

fn standings(mesh: &Mesh, node: usize) -> Vec<Standing> {
    mesh.events(node, |event| match event {
        AgentEvent::Standing(State { standing, .. }) => Some(*standing),
        _ => None,
    })
}

fn dropped(mesh: &Mesh, node: usize) -> Vec<MapDropped> {
    mesh.events(node, |event| match event {
        AgentEvent::MapDropped(why) => Some(*why),
        _ => None,
    })
}

fn held(mesh: &Mesh, node: usize) -> Held {
    mesh.agent(node).coordinator(mesh.now).held
}

#[test]
fn a_pending_device_waits_and_comes_in_by_itself() {
    let mut mesh = Mesh::new(1);
    mesh.coordinator.needs_approval = true;
    let a = mesh.add("gw-a");
    mesh.run_for(5_000);
    assert_eq!(standings(&mesh, a), [Standing::Pending]);
    assert!(!mesh.knows(a, 0));
    let enrolled = mesh.events(a, |event| match event {
        AgentEvent::Enrolled(enrolled) => Some(enrolled.standing),
        _ => None,
    });
    assert_eq!(enrolled, [Standing::Pending]);
    // A pending device survives a restart without the join string.
    mesh.stop(a);
    mesh.run_for(1_000);
    mesh.boot(a);
    mesh.run_for(5_000);
    let frames = mesh.coordinator.set_standing(mesh.id(a), Standing::Active);
    mesh.send(frames);
    mesh.run_to(1_000, |mesh| mesh.knows(a, 0));
    assert_eq!(mesh.coordinator.registers, 1);
}

#[test]
fn who_is_approved_while_away_learns_it_when_it_comes_back() {
    let mut mesh = Mesh::new(28);
    mesh.coordinator.needs_approval = true;
    let a = mesh.add("gw-a");
    mesh.run_for(5_000);
    mesh.coordinator_down = true;
    mesh.cut_lines();
    mesh.run_for(1_000);
    let lost = mesh.coordinator.set_standing(mesh.id(a), Standing::Active);
    drop(lost);
    mesh.coordinator_down = false;
    mesh.run_to(5_000, |mesh| mesh.knows(a, 0));
    assert_eq!(standings(&mesh, a), [Standing::Pending, Standing::Active]);
    // It hears of what changes from then on.
    mesh.coordinator.needs_approval = false;
    let b = mesh.add("gw-b");
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
}

#[test]
fn a_refused_device_stops_asking() {
    let mut mesh = Mesh::new(1);
    mesh.coordinator.refuse = Some(Refusal::KeyUsedUp);
    let a = mesh.add("gw-a");
    mesh.run_for(HOUR);
    let refused = mesh.events(a, |event| match event {
        AgentEvent::Refused(refused) => Some(refused.code),
        _ => None,
    });
    assert_eq!(refused, [Refusal::KeyUsedUp as u16]);
    assert_eq!(mesh.coordinator.registers, 1);

    let mut mesh = Mesh::new(2);
    mesh.coordinator.refuse = Some(Refusal::Unavailable);
    let a = mesh.add("gw-a");
    mesh.run_for(50_000);
    assert!(mesh.coordinator.registers >= 3, "{}", mesh.coordinator.registers);
    mesh.coordinator.refuse = None;
    mesh.run_to(30_000, |mesh| mesh.knows(a, 0));
}

#[test]
fn a_map_of_many_pages_comes_over_a_bad_line() {
    for seed in 0..20 {
        let mut mesh = Mesh::new(seed);
        let mut rng = Rng::new(seed);
        mesh.coordinator.extra_peers = (0..25)
            .map(|n| {
                let mut key = [0; 32];
                weft_noise::entropy::Entropy::fill(&mut rng, &mut key);
                (DeviceId(1_000 + n), PublicKey(key))
            })
            .collect();
        mesh.line = Link {
            latency: Duration::from_millis(10),
            jitter: Duration::from_millis(60),
            loss_ppm: 200_000,
            duplicate_ppm: 200_000,
            ..Link::IDEAL
        };
        let a = mesh.add("gw-a");
        mesh.run_to(400_000, |mesh| mesh.knows(a, 25));
        let device = mesh.coordinator.devices[0].clone();
        // MapApplied may be lost; the heartbeat after it says the same.
        mesh.run_to(100_000, |mesh| {
            held(mesh, a).revision.0 == device.revision
                && mesh.coordinator.heartbeats.iter().any(|b| b.revision.0 == device.revision)
        });
        let unknown = &mesh.coordinator.unknown;
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn the_map_follows_changes() {
    let (mut mesh, a, b) = Mesh::pair(3);
    let id = mesh.id(b);
    let before = mesh.coordinator.pages;
    let frames = mesh.coordinator.remove(id);
    mesh.send(frames);
    mesh.run_to(1_000, |mesh| mesh.knows(a, 0));
    assert_eq!(mesh.coordinator.pages, before + 1);
    mesh.run_for(100);
    let device = &mesh.coordinator.devices[0];
    assert_eq!(device.applied.map(|(_, revision)| revision), Some(held(&mesh, a).revision));
}

#[test]
fn a_line_that_carries_nothing_down_gets_one_record_to_fetch_with() {
    let (mut mesh, a, _) = Mesh::pair(3);
    mesh.run_for(5_000);
    let mut out = [0; 1_024];
    let fetch = mesh.raw_input(a, |agent, now| {
        assert_eq!(agent.poll_control(&mut out), None, "there is nothing to say");
        agent.handle_fetch(now);
        let fetch = agent.poll_control(&mut out);
        assert_eq!(agent.poll_control(&mut [0; 1_024]), None, "once");
        fetch
    });
    let fetch = fetch.expect("a record without items");
    let frame = &out[..fetch.len];
    assert!(matches!(kind(frame), Ok(FrameKind::Record)));
    let Topic::Record(_, inbox) = fetch.topic else { panic!("{:?}", fetch.topic) };
    assert!(mesh.coordinator.handle(inbox, frame).is_empty(), "nothing answers it");

    // Who is no member yet has nothing to fetch, and is not asked again.
    let mut mesh = Mesh::new(4);
    mesh.coordinator.refuse = Some(Refusal::Unavailable);
    let b = mesh.add("gw-b");
    mesh.run_for(2_000);
    mesh.raw_input(b, |agent, now| {
        agent.handle_fetch(now);
        assert_eq!(agent.poll_control(&mut out), None);
    });
}

#[test]
fn forged_resets_cause_one_handshake_in_thirty_seconds() {
    let (mut mesh, a, _) = Mesh::pair(4);
    let record = |(node, frame): &(usize, Vec<u8>)| {
        (*node == a && kind(frame) == Ok(FrameKind::Record)).then(|| frame.clone())
    };
    let frame = mesh.tapped.iter().rev().find_map(record).unwrap();
    let session = RecordHeader::parse(&frame).unwrap().session;
    let (hellos, peers) = (mesh.coordinator.hellos, held(&mesh, a));
    let mut rng = Rng::new(9);
    // A right session id at first; then every id that was ever seen, and noise.
    for step in 0..300_000u64 {
        let session = if step % 3 == 0 { session } else { rng.next() as u32 };
        let mut reset = Reset { session, hello_hash: [0; 8] }.to_bytes();
        if step % 5 == 0 {
            reset[rng.below(14) as usize] ^= 1 << rng.below(8);
        }
        mesh.inject(a, &reset);
        mesh.run_for(1);
    }
    let made = mesh.coordinator.hellos - hellos;
    assert!((1..=11).contains(&made), "{made} in 300 s");
    assert!(mesh.knows(a, 1));
    assert_eq!(held(&mesh, a), peers);
    assert_eq!(dropped(&mesh, a), []);
}

#[test]
fn forged_resets_of_every_new_session_cause_no_more() {
    let (mut mesh, a, _) = Mesh::pair(5);
    let hellos = mesh.coordinator.hellos;
    for _ in 0..3_000 {
        let newest = mesh
            .tapped
            .iter()
            .rev()
            .find(|(node, frame)| *node == a && kind(frame) == Ok(FrameKind::Record));
        let session = RecordHeader::parse(&newest.unwrap().1).unwrap().session;
        let reset = Reset { session, hello_hash: [0; 8] }.to_bytes();
        mesh.inject(a, &reset);
        mesh.run_for(100);
    }
    let made = mesh.coordinator.hellos - hellos;
    assert!((8..=11).contains(&made), "{made} in 300 s");
    assert!(mesh.knows(a, 1));
}

#[test]
fn forged_retries_cause_one_handshake_in_thirty_seconds() {
    let (mut mesh, a, b) = Mesh::pair(6);
    mesh.stop(b);
    mesh.coordinator.silent = true;
    mesh.cut_lines();
    // HELLOs after 5, 10 and 20 s, then each minute.
    let hellos = mesh.coordinator.hellos;
    mesh.run_for(120_000);
    let unprovoked = mesh.coordinator.hellos - hellos;
    assert!((4..=5).contains(&unprovoked), "{unprovoked}");
    // Somebody who sees the line answers each of them, again and again.
    let hellos = mesh.coordinator.hellos;
    for step in 0..300_000u64 {
        let retry = Retry { hello_hash: mesh.coordinator.hello_hash, token: [step as u8; 16] };
        mesh.inject(a, &retry.to_bytes());
        mesh.run_for(1);
    }
    let made = mesh.coordinator.hellos - hellos;
    assert!((5..=16).contains(&made), "{made} in 300 s, 6 of them by time-outs");
    // Those that name another HELLO do nothing at all.
    let hellos = mesh.coordinator.hellos;
    for step in 0..10_000u64 {
        let retry = Retry { hello_hash: step.to_le_bytes(), token: [9; 16] };
        mesh.inject(a, &retry.to_bytes());
    }
    mesh.run_for(1_000);
    assert_eq!(mesh.coordinator.hellos, hellos);
    mesh.coordinator.silent = false;
    mesh.run_to(100_000, |mesh| mesh.agent(a).coordinator(mesh.now).online);
}

/// What a forged frame must leave as it is.
fn state(mesh: &Mesh, node: usize) -> (Held, Vec<u8>, u64, bool) {
    let coordinator = mesh.agent(node).coordinator(mesh.now);
    let mut identity = [0; 1_024];
    let identity = postcard::to_slice(mesh.agent(node).identity(), &mut identity);
    let identity = identity.expect("an identity").to_vec();
    let handshakes = mesh.agent(node).peers().map(|peer| u64::from(peer.tunnel.handshakes)).sum();
    (held(mesh, node), identity, handshakes, coordinator.online)
}

fn every_flip(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..frame.len() * 8).map(|bit| {
        let mut flipped = frame.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

#[test]
fn every_single_bit_flip_of_a_reset_changes_nothing() {
    let (mut mesh, a, _) = Mesh::pair(61);
    let record = |(node, frame): &(usize, Vec<u8>)| {
        (*node == a && kind(frame) == Ok(FrameKind::Record)).then(|| frame.clone())
    };
    let frame = mesh.tapped.iter().rev().find_map(record).expect("a record");
    let session = RecordHeader::parse(&frame).expect("a record").session;
    let reset = Reset { session, hello_hash: [0; 8] }.to_bytes();
    let (before, hellos) = (state(&mesh, a), mesh.coordinator.hellos);
    for flipped in every_flip(&reset) {
        mesh.inject(a, &flipped);
        assert_eq!(state(&mesh, a), before);
    }
    mesh.run_for(29_000);
    // One whose hash was flipped still names the session: it may be a hint.
    let made = mesh.coordinator.hellos - hellos;
    assert!(made <= 1, "{made}");
    let (_, identity, handshakes, online) = state(&mesh, a);
    assert_eq!((identity, handshakes, online), (before.1, before.2, before.3));
    assert_eq!(dropped(&mesh, a), []);
}

#[test]
fn every_single_bit_flip_of_a_retry_changes_nothing() {
    let (mut mesh, a, b) = Mesh::pair(62);
    mesh.stop(b);
    mesh.coordinator.silent = true;
    mesh.cut_lines();
    mesh.run_for(45_000);
    // A HELLO waits now, and the next is due within the minute.
    let retry = Retry { hello_hash: mesh.coordinator.hello_hash, token: [0x5A; 16] }.to_bytes();
    let (before, hellos) = (state(&mesh, a), mesh.coordinator.hellos);
    for flipped in every_flip(&retry) {
        mesh.inject(a, &flipped);
        assert_eq!(state(&mesh, a), before);
    }
    // A flipped token is as good as any to who made it up: it is carried back
    // once, in a HELLO that was due or is made as one hint.
    mesh.run_for(29_000);
    let made = mesh.coordinator.hellos - hellos;
    assert!(made <= 1, "{made}");
    mesh.coordinator.silent = false;
    mesh.run_to(100_000, |mesh| mesh.agent(a).coordinator(mesh.now).online);
    assert_eq!(state(&mesh, a).1, before.1);
}

#[test]
fn under_load_a_device_proves_its_inbox() {
    let mut mesh = Mesh::new(7);
    mesh.coordinator.under_load = true;
    let a = mesh.add("gw-a");
    let took = mesh.run_to(60_000, |mesh| mesh.knows(a, 0));
    assert!(took.as_millis() < 8_000, "{took:?}");
    assert!(mesh.coordinator.welcomes >= 2);
}

#[test]
fn no_flipped_bit_of_a_frame_is_obeyed() {
    let (mut mesh, a, _) = Mesh::pair(8);
    let frames: Vec<_> = mesh
        .tapped
        .iter()
        .filter(|(node, frame)| *node == a && kind(frame) == Ok(FrameKind::Record))
        .map(|(_, frame)| frame.clone())
        .collect();
    let before = held(&mesh, a);
    for frame in frames.iter().rev().take(3) {
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            mesh.inject(a, &flipped);
        }
        mesh.inject(a, frame);
    }
    let drops = core::mem::take(&mut mesh.frame_drops);
    assert!(drops.len() > 1_000);
    assert_eq!(drops.last(), Some(&FrameDrop::Replayed));
    assert_eq!(held(&mesh, a), before);
    assert!(mesh.knows(a, 1));
}

#[test]
fn a_flipped_welcome_leaves_the_handshake_open() {
    let mut mesh = Mesh::new(9);
    let a = mesh.add("gw-a");
    mesh.run_to(1_000, |mesh| !mesh.tapped.is_empty());
    // Enrolment is done; now the line breaks and comes back.
    mesh.run_to(3_000, |mesh| mesh.knows(a, 0));
    mesh.cut_lines();
    let seen = mesh.tapped.len();
    // Hold the WELCOME back: take it from the coordinator by hand.
    mesh.line.latency = Duration::from_millis(200);
    mesh.run_to(3_000, |mesh| mesh.coordinator.hellos >= 3);
    let hellos = mesh.coordinator.hellos;
    mesh.run_to(1_000, |mesh| mesh.tapped.len() > seen);
    let (_, welcome) = mesh.tapped[seen].clone();
    assert_eq!(kind(&welcome), Ok(FrameKind::Welcome));
    assert_eq!(mesh.coordinator.hellos, hellos);
    // Its copies and everything flipped are refused from here on.
    mesh.frame_drops.clear();
    for bit in 0..welcome.len() * 8 {
        let mut flipped = welcome.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        mesh.inject(a, &flipped);
    }
    mesh.inject(a, &welcome);
    assert!(mesh.frame_drops.len() > 500);
    mesh.run_for(2_000);
    assert_eq!(mesh.coordinator.hellos, hellos);
}

#[test]
fn without_the_coordinator_the_lease_ends_and_every_peer_with_it() {
    let mut mesh = Mesh::new(10);
    mesh.coordinator.lease_s = 3_600;
    let (a, b) = (mesh.add("gw-a"), mesh.add("gw-b"));
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    mesh.run_for(6 * HOUR);
    assert!(mesh.knows(a, 1));
    mesh.coordinator_down = true;
    mesh.cut_lines();
    // The last word came at most a heartbeat ago.
    mesh.run_for(44 * 60_000);
    assert!(mesh.knows(a, 1));
    mesh.run_for(17 * 60_000);
    assert!(mesh.knows(a, 0));
    assert_eq!(dropped(&mesh, a), [MapDropped::LeaseExpired]);
    assert_eq!(held(&mesh, a), Held::NOTHING);
    // Storage has forgotten it too.
    mesh.stop(a);
    mesh.boot(a);
    mesh.run_for(1_000);
    assert!(mesh.knows(a, 0));
    mesh.coordinator_down = false;
    mesh.run_to(130_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
}

#[test]
fn a_lease_goes_on_over_restarts() {
    let mut mesh = Mesh::new(11);
    mesh.coordinator.lease_s = 86_400;
    let a = mesh.add("gw-a");
    let b = mesh.add("gw-b");
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    mesh.run_for(1_000);
    mesh.coordinator_down = true;
    mesh.cut_lines();
    let mut powered = 0;
    while mesh.knows(a, 1) {
        mesh.run_for(5 * HOUR);
        powered += 5;
        if !mesh.knows(a, 1) {
            break;
        }
        mesh.stop(a);
        mesh.run_for(DAY);
        mesh.boot(a);
        mesh.run_for(1);
        assert!(powered <= 24, "{powered} h");
    }
    assert!(powered >= 15, "{powered} h");
}

#[test]
fn a_restored_backup_is_another_epoch() {
    let (mut mesh, a, b) = Mesh::pair(12);
    let frames = mesh.coordinator.remove(mesh.id(b));
    mesh.coordinator.restore_backup();
    let before = held(&mesh, a);
    // What the old life sent is not obeyed any more.
    mesh.send(frames);
    mesh.cut_lines();
    mesh.run_to(5_000, |mesh| held(mesh, a).epoch != before.epoch);
    assert!(held(&mesh, a).revision < before.revision);
    assert!(mesh.knows(a, 0));
}

#[test]
fn a_restarted_coordinator_is_met_again_and_no_tunnel_ends() {
    let (mut mesh, a, b) = Mesh::pair(13);
    let host = mesh.host(b);
    mesh.ping(a, host, 1);
    mesh.run_to(1_000, |mesh| mesh.replies(a) == 1);
    mesh.coordinator.restart();
    // The lines stay (a foreign broker); the next record is answered by RESET.
    let welcomes = mesh.coordinator.welcomes;
    mesh.run_for(20 * 60_000);
    assert!(mesh.coordinator.welcomes >= welcomes + 2);
    mesh.ping(a, host, 2);
    mesh.run_to(1_000, |mesh| mesh.replies(a) == 2);
    assert_eq!(dropped(&mesh, a), []);
}

#[test]
fn everybody_is_back_within_the_window_after_an_outage() {
    let (mut mesh, a, b) = Mesh::pair(27);
    let online = |mesh: &Mesh, node| mesh.agent(node).coordinator(mesh.now).online;
    // The window of this coordinator ends after 1 s; an attempt takes a few
    // round trips. After hours nobody hurries any more.
    for (outage_ms, back_ms) in [(40_000, 11_000), (50 * 60_000, 11_000), (6 * HOUR, 76_000)] {
        mesh.coordinator_down = true;
        mesh.cut_lines();
        mesh.run_for(outage_ms / 2);
        // One of them starts meanwhile and knows of no window.
        mesh.stop(a);
        mesh.boot(a);
        mesh.run_for(outage_ms / 2);
        assert!(!online(&mesh, a) && !online(&mesh, b));
        mesh.coordinator_down = false;
        mesh.run_to(back_ms, |mesh| online(mesh, a) && online(mesh, b));
        mesh.run_for(60_000);
    }
}

#[test]
fn a_planned_change_of_the_coordinators_key() {
    let (mut mesh, a, b) = Mesh::pair(14);
    let frames = mesh.coordinator.announce_key();
    mesh.send(frames);
    mesh.run_for(1_000);
    mesh.coordinator.switch_key();
    mesh.cut_lines();
    mesh.run_to(30_000, |mesh| {
        [a, b].iter().all(|&node| mesh.agent(node).coordinator(mesh.now).online)
    });
    // The new pin is in storage.
    mesh.stop(a);
    mesh.boot(a);
    let welcomes = mesh.coordinator.welcomes;
    mesh.run_for(1_000);
    assert_eq!(mesh.coordinator.welcomes, welcomes + 1);
    let identity = mesh.agent(a).identity();
    assert_eq!(identity.next_coordinator, None);
}

/// The map that says that the change is over is stored, the identity with the new
/// key is not; then the power goes.
#[test]
fn a_planned_change_survives_a_disk_that_keeps_the_map_alone() {
    let (mut mesh, a, _) = Mesh::pair(14);
    let online = |mesh: &Mesh| mesh.agent(a).coordinator(mesh.now).online;
    let frames = mesh.coordinator.announce_key();
    mesh.send(frames);
    mesh.run_for(1_000);
    let announced = mesh.agent(a).identity().next_coordinator;
    assert!(announced.is_some());
    mesh.disk_full = true;
    mesh.coordinator.switch_key();
    mesh.cut_lines();
    mesh.run_to(30_000, online);
    assert_eq!(Some(mesh.agent(a).identity().coordinator), announced);
    mesh.run_for(1_000);
    let id = mesh.id(a);
    let frames = mesh.coordinator.changed(id, None);
    let written = mesh.nodes[a].storage.cache_writes;
    mesh.send(frames);
    mesh.run_to(60_000, |mesh| mesh.nodes[a].storage.cache_writes > written);
    mesh.stop(a);
    mesh.disk_full = false;
    mesh.boot(a);
    mesh.run_to(30_000, online);
    assert_eq!(Some(mesh.agent(a).identity().coordinator), announced);
}

/// It was off from before the announcement until after the change.
#[test]
fn who_slept_through_a_planned_change_keeps_its_map_until_its_lease_ends() {
    let (mut mesh, a, b) = Mesh::pair(14);
    let pin = mesh.agent(a).identity().coordinator;
    let answers = |mesh: &mut Mesh, sequence| {
        let (host, before) = (mesh.host(b), mesh.replies(a));
        mesh.ping(a, host, sequence);
        mesh.run_for(12_000);
        mesh.replies(a) > before
    };
    assert!(answers(&mut mesh, 0));
    mesh.run_for(60_000);
    mesh.stop(a);
    let frames = mesh.coordinator.announce_key();
    mesh.send(frames);
    mesh.run_for(1_000);
    mesh.coordinator.switch_key();
    mesh.cut_lines();
    mesh.run_to(30_000, |mesh| mesh.agent(b).coordinator(mesh.now).online);
    mesh.boot(a);
    mesh.run_for(600_000);
    let status = mesh.agent(a).coordinator(mesh.now);
    assert!(!status.online && status.heard_at.is_none(), "nobody proves the key that it pins");
    assert_eq!(mesh.agent(a).identity().coordinator, pin);
    assert!(answers(&mut mesh, 1), "tunnels go on");
    let left = mesh.agent(a).coordinator(mesh.now).lease_remaining.expect("a lease");
    mesh.run_for(left.as_secs() * 1_000 + 2_000);
    assert_eq!(dropped(&mesh, a), [MapDropped::LeaseExpired]);
}

#[test]
fn a_command_is_done_once() {
    let (mut mesh, a, _) = Mesh::pair(15);
    let id = mesh.id(a);
    let expires = UNIX_MS + mesh.now.as_millis() + 60_000;
    let restarts = |mesh: &Mesh| {
        mesh.events(a, |event| matches!(event, AgentEvent::Restart).then_some(())).len()
    };
    for _ in 0..3 {
        let frames = mesh.coordinator.command(id, 7, expires);
        mesh.send(frames);
        mesh.run_for(100);
    }
    assert_eq!(restarts(&mesh), 1);
    mesh.stop(a);
    mesh.boot(a);
    mesh.run_for(2_000);
    let frames = mesh.coordinator.command(id, 7, expires);
    mesh.send(frames);
    let frames = mesh.coordinator.command(id, 8, UNIX_MS);
    mesh.send(frames);
    mesh.run_for(1_000);
    assert_eq!(restarts(&mesh), 1);
    let done = &mesh.coordinator.done;
    assert_eq!(done.iter().filter(|d| **d == (CommandId(7), Outcome::Accepted)).count(), 4);
    assert_eq!(done.last(), Some(&(CommandId(8), Outcome::Expired)));
}

#[test]
fn who_is_blocked_or_leaves_forgets_its_peers() {
    let (mut mesh, a, b) = Mesh::pair(16);
    let frames = mesh.coordinator.set_standing(mesh.id(a), Standing::Blocked);
    mesh.send(frames);
    mesh.run_to(1_000, |mesh| mesh.knows(a, 0) && mesh.knows(b, 0));
    assert_eq!(dropped(&mesh, a), [MapDropped::Standing(Standing::Blocked)]);
    // It closes its line, and asks once in a while whether it is still out.
    assert_eq!(mesh.nodes[a].inbox, None);
    let welcomes = mesh.coordinator.welcomes;
    mesh.run_for(HOUR);
    let asked = mesh.coordinator.welcomes - welcomes;
    assert!((9..=12).contains(&asked), "{asked}");
    assert_eq!(dropped(&mesh, a).len(), 1);
    let frames = mesh.coordinator.set_standing(mesh.id(a), Standing::Active);
    mesh.send(frames);
    mesh.run_to(376_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    assert_eq!(standings(&mesh, a).last(), Some(&Standing::Active));

    // Leaving does not wait for that.
    let frames = mesh.coordinator.set_standing(mesh.id(a), Standing::Blocked);
    mesh.send(frames);
    mesh.run_to(1_000, |mesh| mesh.nodes[a].inbox.is_none());
    mesh.input(a, |agent, now| agent.leave(now));
    mesh.run_for(1_000);
    assert!(mesh.knows(b, 0));
    let left = mesh.events(a, |event| matches!(event, AgentEvent::Left).then_some(()));
    assert_eq!(left.len(), 1);
    let hellos = mesh.coordinator.hellos;
    mesh.run_for(HOUR);
    assert!(mesh.coordinator.hellos <= hellos + 3, "a device that left stays away");
}

#[test]
fn an_idle_day_costs_heartbeats_only() {
    let (mut mesh, a, _) = Mesh::pair(17);
    mesh.run_for(60_000);
    let (seen, beats) = (mesh.tapped.len(), mesh.coordinator.heartbeats.len());
    let writes = mesh.nodes[a].storage.cache_writes;
    mesh.run_for(DAY);
    let frames = mesh.tapped[seen..].iter().filter(|(node, _)| *node == a).count();
    let beats = mesh.coordinator.heartbeats.len() - beats;
    // A heartbeat every 900 s at most (up to 5 % sooner) and one rekey, two nodes.
    assert!((2 * 97..=2 * 102).contains(&beats), "{beats}");
    assert!(frames <= 110, "{frames}");
    assert_eq!(mesh.nodes[a].sent.values().sum::<u32>(), 0, "nothing on UDP while nobody talks");
    assert!(mesh.nodes[a].storage.cache_writes - writes <= 2);
}

#[test]
fn heartbeats_count_what_was_added() {
    let (mut mesh, a, b) = Mesh::pair(18);
    let host = mesh.host(b);
    for sequence in 0..10 {
        mesh.ping(a, host, sequence);
        mesh.run_for(1_000);
    }
    mesh.run_for(2 * HOUR);
    let sent: u32 = mesh.coordinator.heartbeats.iter().map(|beat| beat.tx_packets).sum();
    let bytes: u64 = mesh.coordinator.heartbeats.iter().map(|beat| beat.tx_bytes).sum();
    assert_eq!((sent, bytes), (20, 20 * 84), "ten requests and ten replies");
    let active = mesh.coordinator.heartbeats.iter().map(|beat| beat.active_peers).max();
    assert_eq!(active, Some(1));
}

#[test]
fn an_enrolling_device_says_nothing_but_register() {
    let mut mesh = Mesh::new(19);
    mesh.coordinator.refuse = Some(Refusal::Unavailable);
    mesh.add("gw-a");
    mesh.run_for(HOUR);
    assert!(mesh.coordinator.registers > 10);
    assert_eq!(mesh.coordinator.unknown, []);
}

#[test]
fn a_session_is_replaced_once_a_day_without_a_gap() {
    let (mut mesh, a, b) = Mesh::pair(20);
    let welcomes = mesh.coordinator.welcomes;
    mesh.run_for(10 * DAY);
    // Once in 24 to 30 hours, two devices.
    let made = mesh.coordinator.welcomes - welcomes;
    assert!((16..=20).contains(&made), "{made}");
    assert!([a, b].iter().all(|&node| mesh.agent(node).coordinator(mesh.now).online));
    assert_eq!(mesh.coordinator.unknown, []);
}

/// What a newer coordinator says in a map harms no device that does not know it.
#[test]
fn unknown_ops_of_a_page_are_skipped_and_counted() {
    let (mut mesh, a, b) = Mesh::pair(29);
    let (id, before) = (mesh.id(a), held(&mesh, a).revision);
    // Tag 9,998, one byte.
    mesh.coordinator.newer_ops = vec![0x8E, 0x4E, 1, 7];
    let frames = mesh.coordinator.changed(id, None);
    mesh.send(frames);
    mesh.run_for(2_000);
    assert_eq!(held(&mesh, a).revision.0, before.0 + 1, "the page counts");
    let counters = mesh.agent(a).coordinator(mesh.now).counters;
    assert_eq!((counters.unknown_items, counters.bad_items), (1, 0));
    assert!(mesh.knows(a, b) && mesh.coordinator.unsupported.is_empty());
}

#[test]
fn a_look_at_the_network_is_asked_of_the_shell_and_told_until_it_is_heard() {
    let (mut mesh, a, _) = Mesh::pair(22);
    let id = mesh.id(a);
    let ask = Netcheck { id: CommandId(6), expires_ms: UNIX_MS + mesh.now.as_millis() + 60_000 };
    let looks = |mesh: &Mesh| {
        mesh.events(a, |event| matches!(event, AgentEvent::Netcheck).then_some(())).len()
    };
    for _ in 0..2 {
        let frames = mesh.coordinator.tell(id, |writer| writer.put(&ask));
        mesh.send(frames);
        mesh.run_for(100);
    }
    assert_eq!((looks(&mesh), mesh.coordinator.looked.len()), (1, 0));
    let report = NetworkReport { metered: true, ..NetworkReport::default() };
    mesh.input(a, |agent, now| agent.handle_network_report(Some(report.clone()), now));
    mesh.run_for(100);
    // As if the answer was lost.
    let frames = mesh.coordinator.tell(id, |writer| writer.put(&ask));
    mesh.send(frames);
    mesh.run_for(100);
    let done = (CommandId(6), Outcome::Accepted, Some(report));
    assert_eq!(mesh.coordinator.looked, [done.clone(), done]);
    assert_eq!((looks(&mesh), mesh.coordinator.unsupported.len()), (1, 0));
}

#[test]
fn unknown_items_are_skipped_counted_and_answered() {
    struct Unknown;

    impl Body for Unknown {
        fn put(&self, writer: &mut Writer<'_>) {
            writer.byte(7);
        }

        fn take(reader: &mut Reader<'_>) -> Self {
            reader.byte();
            Self
        }
    }

    impl serde::Serialize for Unknown {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u64(7)
        }
    }

    impl<'de> serde::Deserialize<'de> for Unknown {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            u64::deserialize(deserializer).map(|_| Self)
        }
    }

    impl Item for Unknown {
        const TAG: u32 = 9_999;
    }

    let (mut mesh, a, _) = Mesh::pair(21);
    let id = mesh.id(a);
    let command = Command {
        id: CommandId(5),
        expires_ms: UNIX_MS + mesh.now.as_millis() + 60_000,
        kind: CommandKind::Restart,
    };
    let frames = mesh.coordinator.tell(id, |writer| {
        writer.put(&Unknown)?;
        writer.put(&Unknown)?;
        writer.put(&command)
    });
    mesh.send(frames);
    mesh.run_for(1_000);
    assert_eq!(mesh.coordinator.unsupported, [9_999]);
    assert_eq!(mesh.agent(a).coordinator(mesh.now).counters.unknown_items, 2);
    assert_eq!(mesh.coordinator.done, [(CommandId(5), Outcome::Accepted)]);
}
