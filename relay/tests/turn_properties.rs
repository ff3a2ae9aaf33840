//! Whatever clients and peers do: nothing outlives its time, no packet passes
//! without permission, and every count is exact.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashMap;

use proptest::prelude::*;
use support::{Sent, World, address, client, settings};
use weft_wire::stun::{ALLOCATE_REQUEST, Message, REFRESH_REQUEST, UDP, XOR_RELAYED_ADDRESS};

const CLIENTS: u16 = 3;
const PEERS: [&str; 3] = ["192.0.2.1:7", "192.0.2.1:8", "192.0.2.2:7"];

#[derive(Clone, Debug)]
enum Step {
    Allocate(u16, u32),
    Refresh(u16, u32),
    Permit(u16, usize),
    Bind(u16, u16, usize),
    Send(u16, usize),
    Channel(u16, u16),
    Peer(u16, usize),
    Deny,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let c = 1..=CLIENTS;
    let p = 0..PEERS.len();
    let ch = 0x4000_u16..0x4003;
    prop_oneof![
        (c.clone(), 0_u32..2_000).prop_map(|(c, s)| Step::Allocate(c, s)),
        (c.clone(), prop_oneof![Just(0), 0_u32..2_000]).prop_map(|(c, s)| Step::Refresh(c, s)),
        (c.clone(), p.clone()).prop_map(|(c, p)| Step::Permit(c, p)),
        (c.clone(), ch.clone(), p.clone()).prop_map(|(c, ch, p)| Step::Bind(c, ch, p)),
        (c.clone(), p.clone()).prop_map(|(c, p)| Step::Send(c, p)),
        (c.clone(), ch).prop_map(|(c, ch)| Step::Channel(c, ch)),
        (c, p).prop_map(|(c, p)| Step::Peer(c, p)),
        Just(Step::Deny),
        (0_u64..400_000).prop_map(Step::Pass),
    ]
}

/// What must be so, kept the simple way: expiries by who and what.
#[derive(Default)]
struct Model {
    /// Port and end.
    allocations: HashMap<u16, (u16, u64)>,
    permissions: HashMap<(u16, std::net::IpAddr), u64>,
    channels: HashMap<(u16, u16), (usize, u64)>,
    to_peers: u64,
    to_clients: u64,
}

impl Model {
    fn alive(&self, c: u16, now: u64) -> Option<u16> {
        self.allocations.get(&c).filter(|(_, end)| *end > now).map(|(port, _)| *port)
    }

    fn permits(&self, c: u16, p: usize, now: u64) -> bool {
        let ip = address(PEERS[p]).ip();
        self.permissions.get(&(c, ip)).is_some_and(|end| *end > now)
    }

    fn end(&mut self, c: u16) {
        self.allocations.remove(&c);
        self.permissions.retain(|(own, _), _| *own != c);
        self.channels.retain(|(own, _), _| *own != c);
    }
}

fn play(world: &mut World, model: &mut Model, step: &Step) {
    let now = world.now.ms;
    match *step {
        Step::Allocate(c, lifetime) => {
            let answer = world.ask(&client(c), ALLOCATE_REQUEST, |writer| {
                writer.requested_transport(UDP).unwrap();
                writer.lifetime(lifetime).unwrap();
            });
            let message = Message::parse(&answer).unwrap();
            assert_eq!(message.error().is_some(), model.alive(c, now).is_some());
            if let Some(relayed) = message.xor_address(XOR_RELAYED_ADDRESS) {
                model.end(c);
                // All are one user, which is given the port that it had.
                model.allocations.retain(|_, (port, _)| *port != relayed.port());
                let granted = message.lifetime().unwrap();
                assert_eq!(granted, lifetime.clamp(600, 3_600));
                model.allocations.insert(c, (relayed.port(), now + u64::from(granted) * 1_000));
            }
        }
        Step::Refresh(c, lifetime) => {
            let number = world
                .number(&client(c), REFRESH_REQUEST, |writer| writer.lifetime(lifetime).unwrap());
            let Some(port) = model.alive(c, now) else { return assert_eq!(number, 437) };
            assert_eq!(number, 0);
            if lifetime == 0 {
                model.end(c);
            } else {
                let end = now + u64::from(lifetime.clamp(600, 3_600)) * 1_000;
                model.allocations.insert(c, (port, end));
            }
        }
        Step::Permit(c, p) => {
            let number = world.permit(&client(c), PEERS[p]);
            if model.alive(c, now).is_none() {
                return assert_eq!(number, 437);
            }
            assert_eq!(number, 0);
            model.permissions.insert((c, address(PEERS[p]).ip()), now + 300_000);
        }
        Step::Bind(c, channel, p) => {
            let number = world.bind(&client(c), channel, PEERS[p]);
            if model.alive(c, now).is_none() {
                return assert_eq!(number, 437);
            }
            let clash = model.channels.iter().any(|((own, other), (peer, end))| {
                *own == c && *end > now && (*other == channel) != (*peer == p)
            });
            assert_eq!(number, if clash { 400 } else { 0 });
            if !clash {
                model.permissions.insert((c, address(PEERS[p]).ip()), now + 300_000);
                model.channels.retain(|(own, _), (peer, _)| *own != c || *peer != p);
                model.channels.insert((c, channel), (p, now + 600_000));
            }
        }
        _ => play_data(world, model, step),
    }
}

fn play_data(world: &mut World, model: &mut Model, step: &Step) {
    let now = world.now.ms;
    match *step {
        Step::Send(c, p) => {
            let sent = world.send(&client(c), PEERS[p], b"data");
            let passes = model.alive(c, now).filter(|_| model.permits(c, p, now));
            let expected = passes.map(|port| Sent::Peer(port, address(PEERS[p]), b"data".to_vec()));
            model.to_peers += u64::from(expected.is_some());
            assert_eq!(sent, expected.into_iter().collect::<Vec<_>>());
        }
        Step::Channel(c, channel) => {
            let sent = world.channel_data(&client(c), channel, b"data");
            let bound = model.channels.get(&(c, channel)).filter(|(_, end)| *end > now);
            let expected = model.alive(c, now).zip(bound).and_then(|(port, (p, _))| {
                let peer = address(PEERS[*p]);
                model.permits(c, *p, now).then(|| Sent::Peer(port, peer, b"data".to_vec()))
            });
            model.to_peers += u64::from(expected.is_some());
            assert_eq!(sent, expected.into_iter().collect::<Vec<_>>());
        }
        Step::Peer(c, p) => {
            let port = model.allocations.get(&c).map_or(0, |(port, _)| *port);
            let sent = world.peer_sends(port, PEERS[p], b"datadat", 4);
            let passes = model.alive(c, now).is_some() && model.permits(c, p, now);
            assert_eq!(sent.len(), if passes { 2 } else { 0 });
            model.to_clients += sent.len() as u64;
            let bound = model
                .channels
                .iter()
                .any(|((own, _), (peer, end))| *own == c && *peer == p && *end > now);
            for sent in sent {
                let Sent::Client(to, bytes) = sent else { panic!("{sent:?}") };
                assert_eq!((to, bytes[0] >> 6 == 1), (client(c), bound));
            }
        }
        Step::Deny => {
            world.deny("dev@org");
            world.turn.handle_allowed("dev@org");
            (1..=CLIENTS).for_each(|c| model.end(c));
        }
        Step::Pass(ms) => {
            world.pass(ms);
            world.meet(&client(9));
        }
        _ => unreachable!("a request"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_relay_does_what_a_simple_model_does(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(settings());
        let mut model = Model::default();
        world.meet(&client(9));
        for step in &steps {
            play(&mut world, &mut model, step);
            let counters = world.counters();
            prop_assert_eq!(counters.packets_to_peers, model.to_peers);
            prop_assert_eq!(counters.packets_to_clients, model.to_clients);
            prop_assert_eq!(counters.bytes_to_peers, 4 * model.to_peers);
            let alive = counters.allocations_made - counters.allocations_ended;
            prop_assert_eq!(u64::from(world.turn.allocations()), alive);
            prop_assert_eq!(world.open.len() as u64, alive);
            let now = world.now.ms;
            let expected = (1..=CLIENTS).filter(|c| model.alive(*c, now).is_some()).count();
            prop_assert_eq!(alive, expected as u64);
        }
        world.pass(4_000_000);
        prop_assert_eq!(world.turn.allocations(), 0);
        prop_assert_eq!(world.turn.poll_timeout(), None);
    }
}
