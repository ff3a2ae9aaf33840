//! The control session against a coordinator, over lines that lose, double,
//! reorder and lie.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

mod whole;

use weft_agent_core::agent::AgentEvent;
use weft_agent_core::control::{FrameDrop, Held, MapDropped};
use weft_agent_core::time::Duration;
use weft_wire::frame::{FrameKind, RecordHeader, Reset, Retry, kind};
use weft_wire::id::{CommandId, DeviceId, PublicKey};
use weft_wire::item::{Outcome, Standing, State};
use weft_wire::topic::Topic;
use weft_wire::verdict::Refusal;
use whole::Rng;
use whole::coordinator::UNIX_MS;
use whole::world::{Link, World};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

fn standings(world: &World, node: usize) -> Vec<Standing> {
    world.events(node, |event| match event {
        AgentEvent::Standing(State { standing, .. }) => Some(*standing),
        _ => None,
    })
}

fn dropped(world: &World, node: usize) -> Vec<MapDropped> {
    world.events(node, |event| match event {
        AgentEvent::MapDropped(why) => Some(*why),
        _ => None,
    })
}

fn held(world: &World, node: usize) -> Held {
    world.nodes[node].agent.as_ref().unwrap().coordinator(world.now).held
}

#[test]
fn a_pending_device_waits_and_comes_in_by_itself() {
    let mut world = World::new(1);
    world.coordinator.needs_approval = true;
    let a = world.add("gw-a");
    world.run_for(5_000);
    assert_eq!(standings(&world, a), [Standing::Pending]);
    assert!(!world.knows(a, 0));
    let enrolled = world.events(a, |event| match event {
        AgentEvent::Enrolled(enrolled) => Some(enrolled.standing),
        _ => None,
    });
    assert_eq!(enrolled, [Standing::Pending]);
    // A pending device survives a restart without the join string.
    world.stop(a);
    world.run_for(1_000);
    world.boot(a);
    world.run_for(5_000);
    let frames = world.coordinator.set_standing(world.id(a), Standing::Active);
    world.send(frames);
    world.run_to(1_000, |world| world.knows(a, 0));
    assert_eq!(world.coordinator.registers, 1);
}

#[test]
fn a_refused_device_stops_asking() {
    let mut world = World::new(1);
    world.coordinator.refuse = Some(Refusal::KeyUsedUp);
    let a = world.add("gw-a");
    world.run_for(HOUR);
    let refused = world.events(a, |event| match event {
        AgentEvent::Refused(refused) => Some(refused.code),
        _ => None,
    });
    assert_eq!(refused, [Refusal::KeyUsedUp as u16]);
    assert_eq!(world.coordinator.registers, 1);

    let mut world = World::new(2);
    world.coordinator.refuse = Some(Refusal::Unavailable);
    let a = world.add("gw-a");
    world.run_for(20_000);
    assert!(world.coordinator.registers >= 3, "{}", world.coordinator.registers);
    world.coordinator.refuse = None;
    world.run_to(30_000, |world| world.knows(a, 0));
}

#[test]
fn a_map_of_many_pages_comes_over_a_bad_line() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let mut rng = Rng(seed);
        world.coordinator.extra_peers = (0..25)
            .map(|n| {
                let mut key = [0; 32];
                weft_noise::entropy::Entropy::fill(&mut rng, &mut key);
                (DeviceId(1_000 + n), PublicKey(key))
            })
            .collect();
        world.line = Link {
            jitter: Duration::from_millis(60),
            loss_percent: 20,
            duplicate_percent: 20,
            ..Link::clean(10)
        };
        let a = world.add("gw-a");
        world.run_to(400_000, |world| world.knows(a, 25));
        let device = world.coordinator.devices[0].clone();
        // MapApplied may be lost; the heartbeat after it says the same.
        world.run_to(100_000, |world| {
            held(world, a).revision.0 == device.revision
                && world.coordinator.heartbeats.iter().any(|b| b.revision.0 == device.revision)
        });
        let unknown = &world.coordinator.unknown;
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn the_map_follows_changes() {
    let (mut world, a, b) = World::pair(3);
    let id = world.id(b);
    let before = world.coordinator.pages;
    let frames = world.coordinator.remove(id);
    world.send(frames);
    world.run_to(1_000, |world| world.knows(a, 0));
    assert_eq!(world.coordinator.pages, before + 1);
    world.run_for(100);
    let device = &world.coordinator.devices[0];
    assert_eq!(device.applied.map(|(_, revision)| revision), Some(held(&world, a).revision));
}

#[test]
fn forged_resets_cause_one_handshake_in_thirty_seconds() {
    let (mut world, a, _) = World::pair(4);
    let record = |(node, frame): &(usize, Vec<u8>)| {
        (*node == a && kind(frame) == Ok(FrameKind::Record)).then(|| frame.clone())
    };
    let frame = world.tapped.iter().rev().find_map(record).unwrap();
    let session = RecordHeader::parse(&frame).unwrap().session;
    let (hellos, peers) = (world.coordinator.hellos, held(&world, a));
    let mut rng = Rng(9);
    // A right session id at first; then every id that was ever seen, and noise.
    for step in 0..300_000u64 {
        let session = if step % 3 == 0 { session } else { rng.next() as u32 };
        let mut reset = Reset { session, hello_hash: [0; 8] }.to_bytes();
        if step % 5 == 0 {
            reset[rng.below(14) as usize] ^= 1 << rng.below(8);
        }
        world.inject(a, &reset);
        world.run_for(1);
    }
    let made = world.coordinator.hellos - hellos;
    assert!((1..=11).contains(&made), "{made} in 300 s");
    assert!(world.knows(a, 1));
    assert_eq!(held(&world, a), peers);
    assert_eq!(dropped(&world, a), []);
}

#[test]
fn forged_resets_of_every_new_session_cause_no_more() {
    let (mut world, a, _) = World::pair(5);
    let hellos = world.coordinator.hellos;
    for _ in 0..3_000 {
        let newest = world
            .tapped
            .iter()
            .rev()
            .find(|(node, frame)| *node == a && kind(frame) == Ok(FrameKind::Record));
        let session = RecordHeader::parse(&newest.unwrap().1).unwrap().session;
        let reset = Reset { session, hello_hash: [0; 8] }.to_bytes();
        world.inject(a, &reset);
        world.run_for(100);
    }
    let made = world.coordinator.hellos - hellos;
    assert!((8..=11).contains(&made), "{made} in 300 s");
    assert!(world.knows(a, 1));
}

#[test]
fn forged_retries_cause_one_handshake_in_thirty_seconds() {
    let mut world = World::new(6);
    // The coordinator does not answer: the HELLO stays open.
    let a = world.add("gw-a");
    world.run_to(1_000, |world| world.coordinator.hellos > 0);
    world.coordinator_down = true;
    world.run_for(60_000);
    let mut sent = 0;
    let mut hash = [0; 8];
    for step in 0..60_000u64 {
        let (mut out, now) = (vec![0; 2_048], world.now);
        // Answer whatever HELLO is open, as somebody who sees the line can.
        let agent = world.agent(a);
        agent.handle_timeout(now);
        while let Some(transmit) = agent.poll_control(&mut out) {
            if matches!(transmit.topic, Topic::Hello(_)) {
                hash = weft_noise::sealed::hello_hash(&out[..transmit.len]);
                sent += 1;
            }
        }
        let retry = Retry { hello_hash: hash, token: [step as u8; 16] };
        world.inject(a, &retry.to_bytes());
        world.now += Duration::from_millis(1);
    }
    // In 60 s: the HELLOs of the time-outs, and one per 30 s for the forgeries.
    assert!((1..=5).contains(&sent), "{sent}");
}

#[test]
fn under_load_a_device_proves_its_inbox() {
    let mut world = World::new(7);
    world.coordinator.under_load = true;
    let a = world.add("gw-a");
    let took = world.run_to(60_000, |world| world.knows(a, 0));
    assert!(took.as_millis() < 8_000, "{took:?}");
    assert!(world.coordinator.welcomes >= 2);
}

#[test]
fn no_flipped_bit_of_a_frame_is_obeyed() {
    let (mut world, a, _) = World::pair(8);
    let frames: Vec<_> = world
        .tapped
        .iter()
        .filter(|(node, frame)| *node == a && kind(frame) == Ok(FrameKind::Record))
        .map(|(_, frame)| frame.clone())
        .collect();
    let before = held(&world, a);
    for frame in frames.iter().rev().take(3) {
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            world.inject(a, &flipped);
        }
        world.inject(a, frame);
    }
    let drops = core::mem::take(&mut world.frame_drops);
    assert!(drops.len() > 1_000);
    assert_eq!(drops.last(), Some(&FrameDrop::Replayed));
    assert_eq!(held(&world, a), before);
    assert!(world.knows(a, 1));
}

#[test]
fn a_flipped_welcome_leaves_the_handshake_open() {
    let mut world = World::new(9);
    let a = world.add("gw-a");
    world.run_to(1_000, |world| !world.tapped.is_empty());
    // Enrolment is done; now the line breaks and comes back.
    world.run_to(3_000, |world| world.knows(a, 0));
    world.cut_lines();
    let seen = world.tapped.len();
    // Hold the WELCOME back: take it from the coordinator by hand.
    world.line.latency = Duration::from_millis(200);
    world.run_to(3_000, |world| world.coordinator.hellos >= 3);
    let hellos = world.coordinator.hellos;
    world.run_to(1_000, |world| world.tapped.len() > seen);
    let (_, welcome) = world.tapped[seen].clone();
    assert_eq!(kind(&welcome), Ok(FrameKind::Welcome));
    assert_eq!(world.coordinator.hellos, hellos);
    // Its copies and everything flipped are refused from here on.
    world.frame_drops.clear();
    for bit in 0..welcome.len() * 8 {
        let mut flipped = welcome.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        world.inject(a, &flipped);
    }
    world.inject(a, &welcome);
    assert!(world.frame_drops.len() > 500);
    world.run_for(2_000);
    assert_eq!(world.coordinator.hellos, hellos);
}

#[test]
fn without_the_coordinator_the_lease_ends_and_every_peer_with_it() {
    let mut world = World::new(10);
    world.coordinator.lease_s = 3_600;
    let (a, b) = (world.add("gw-a"), world.add("gw-b"));
    world.run_to(5_000, |world| world.knows(a, 1) && world.knows(b, 1));
    world.run_for(6 * HOUR);
    assert!(world.knows(a, 1));
    world.coordinator_down = true;
    world.cut_lines();
    // The last word came at most a heartbeat ago.
    world.run_for(44 * 60_000);
    assert!(world.knows(a, 1));
    world.run_for(17 * 60_000);
    assert!(world.knows(a, 0));
    assert_eq!(dropped(&world, a), [MapDropped::LeaseExpired]);
    assert_eq!(held(&world, a), Held::NOTHING);
    // Storage has forgotten it too.
    world.stop(a);
    world.boot(a);
    world.run_for(1_000);
    assert!(world.knows(a, 0));
    world.coordinator_down = false;
    world.run_to(130_000, |world| world.knows(a, 1) && world.knows(b, 1));
}

#[test]
fn a_lease_goes_on_over_restarts() {
    let mut world = World::new(11);
    world.coordinator.lease_s = 86_400;
    let a = world.add("gw-a");
    let b = world.add("gw-b");
    world.run_to(5_000, |world| world.knows(a, 1) && world.knows(b, 1));
    world.run_for(1_000);
    world.coordinator_down = true;
    world.cut_lines();
    let mut powered = 0;
    while world.knows(a, 1) {
        world.run_for(5 * HOUR);
        powered += 5;
        if !world.knows(a, 1) {
            break;
        }
        world.stop(a);
        world.run_for(DAY);
        world.boot(a);
        world.run_for(1);
        assert!(powered <= 24, "{powered} h");
    }
    assert!(powered >= 15, "{powered} h");
}

#[test]
fn a_restored_backup_is_another_epoch() {
    let (mut world, a, b) = World::pair(12);
    let frames = world.coordinator.remove(world.id(b));
    world.coordinator.restore_backup();
    let before = held(&world, a);
    // What the old life sent is not obeyed any more.
    world.send(frames);
    world.cut_lines();
    world.run_to(5_000, |world| held(world, a).epoch != before.epoch);
    assert!(held(&world, a).revision < before.revision);
    assert!(world.knows(a, 0));
}

#[test]
fn a_restarted_coordinator_is_met_again_and_no_tunnel_ends() {
    let (mut world, a, b) = World::pair(13);
    let host = world.host(b);
    world.ping(a, host, 1);
    world.run_to(1_000, |world| world.replies(a) == 1);
    world.coordinator.restart();
    // The lines stay (a foreign broker); the next record is answered by RESET.
    let welcomes = world.coordinator.welcomes;
    world.run_for(20 * 60_000);
    assert!(world.coordinator.welcomes >= welcomes + 2);
    world.ping(a, host, 2);
    world.run_to(1_000, |world| world.replies(a) == 2);
    assert_eq!(dropped(&world, a), []);
}

#[test]
fn a_planned_change_of_the_coordinators_key() {
    let (mut world, a, b) = World::pair(14);
    let frames = world.coordinator.announce_key();
    world.send(frames);
    world.run_for(1_000);
    world.coordinator.switch_key();
    world.cut_lines();
    world.run_to(30_000, |world| {
        [a, b]
            .iter()
            .all(|&node| world.nodes[node].agent.as_ref().unwrap().coordinator(world.now).online)
    });
    // The new pin is in storage.
    world.stop(a);
    world.boot(a);
    let welcomes = world.coordinator.welcomes;
    world.run_for(1_000);
    assert_eq!(world.coordinator.welcomes, welcomes + 1);
    let identity = world.agent(a).identity();
    assert_eq!(identity.next_coordinator, None);
}

#[test]
fn a_command_is_done_once() {
    let (mut world, a, _) = World::pair(15);
    let id = world.id(a);
    let expires = UNIX_MS + world.now.as_millis() + 60_000;
    let restarts = |world: &World| {
        world.events(a, |event| matches!(event, AgentEvent::Restart).then_some(())).len()
    };
    for _ in 0..3 {
        let frames = world.coordinator.command(id, 7, expires);
        world.send(frames);
        world.run_for(100);
    }
    assert_eq!(restarts(&world), 1);
    world.stop(a);
    world.boot(a);
    world.run_for(2_000);
    let frames = world.coordinator.command(id, 7, expires);
    world.send(frames);
    let frames = world.coordinator.command(id, 8, UNIX_MS);
    world.send(frames);
    world.run_for(1_000);
    assert_eq!(restarts(&world), 1);
    let done = &world.coordinator.done;
    assert_eq!(done.iter().filter(|d| **d == (CommandId(7), Outcome::Accepted)).count(), 4);
    assert_eq!(done.last(), Some(&(CommandId(8), Outcome::Expired)));
}

#[test]
fn who_is_blocked_or_leaves_forgets_its_peers() {
    let (mut world, a, b) = World::pair(16);
    let frames = world.coordinator.set_standing(world.id(a), Standing::Blocked);
    world.send(frames);
    world.run_to(1_000, |world| world.knows(a, 0) && world.knows(b, 0));
    assert_eq!(dropped(&world, a), [MapDropped::Standing(Standing::Blocked)]);
    let frames = world.coordinator.set_standing(world.id(a), Standing::Active);
    world.send(frames);
    world.run_to(1_000, |world| world.knows(a, 1) && world.knows(b, 1));

    world.input(a, |agent, now| agent.leave(now));
    world.run_to(1_000, |world| world.knows(b, 0));
    world.run_for(100);
    let left = world.events(a, |event| matches!(event, AgentEvent::Left).then_some(()));
    assert_eq!(left.len(), 1);
    let hellos = world.coordinator.hellos;
    world.run_for(HOUR);
    assert!(world.coordinator.hellos <= hellos + 3, "a device that left stays away");
}

#[test]
fn an_idle_day_costs_heartbeats_only() {
    let (mut world, a, _) = World::pair(17);
    world.run_for(60_000);
    let (seen, beats) = (world.tapped.len(), world.coordinator.heartbeats.len());
    let writes = world.nodes[a].storage.cache_writes;
    world.run_for(DAY);
    let frames = world.tapped[seen..].iter().filter(|(node, _)| *node == a).count();
    let beats = world.coordinator.heartbeats.len() - beats;
    // 96 heartbeats of 900 s (up to a quarter longer) and one rekey, two nodes.
    assert!((2 * 76..=2 * 97).contains(&beats), "{beats}");
    assert!(frames <= 110, "{frames}");
    assert_eq!(world.nodes[a].sent.values().sum::<u32>(), 0, "nothing on UDP while nobody talks");
    assert!(world.nodes[a].storage.cache_writes - writes <= 2);
}

#[test]
fn heartbeats_count_what_was_added() {
    let (mut world, a, b) = World::pair(18);
    let host = world.host(b);
    for sequence in 0..10 {
        world.ping(a, host, sequence);
        world.run_for(1_000);
    }
    world.run_for(2 * HOUR);
    let sent: u32 = world.coordinator.heartbeats.iter().map(|beat| beat.tx_packets).sum();
    let bytes: u64 = world.coordinator.heartbeats.iter().map(|beat| beat.tx_bytes).sum();
    assert_eq!((sent, bytes), (20, 20 * 84), "ten requests and ten replies");
    let active = world.coordinator.heartbeats.iter().map(|beat| beat.active_peers).max();
    assert_eq!(active, Some(1));
}
