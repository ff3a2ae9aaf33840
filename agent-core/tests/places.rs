//! A chip has fewer places for sessions than its peers could use at once.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::datapath::Datapath;
use weft_agent_core::event::{DropReason, PeerSlot, SocketId, Source};
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::{Event, Install, PeerKeys, Tai64nClock, Transmit, Tunnel};
use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_wire::id::Secret;

/// Peers of the hub, and places beside theirs.
const PEERS: usize = 4;
const MORE: usize = 2;

struct Draws(u64);

impl Entropy for Draws {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

struct End<const P: usize, const H: usize> {
    tunnel: Tunnel<P, H>,
    datapath: Datapath<P, H, 4, 32, 4>,
    entropy: Draws,
    out: VecDeque<Vec<u8>>,
}

impl<const P: usize, const H: usize> End<P, H> {
    fn new(who: u8) -> Self {
        let secret = StaticSecret::from_bytes([who; 32]);
        let config = TunnelConfig::new().with_handshake_interval(Duration::ZERO);
        Self {
            tunnel: Tunnel::new(config, secret, Tai64nClock::new(Some(1))),
            datapath: Datapath::new(1),
            entropy: Draws(who.into()),
            out: VecDeque::new(),
        }
    }

    fn know(&mut self, slot: PeerSlot, who: u8, now: Instant) {
        let key = StaticSecret::from_bytes([who; 32]).public();
        self.tunnel.set_peer(slot, PeerKeys::new(key, Secret([0; 32])), now).unwrap();
        self.drain(now);
    }

    fn drain(&mut self, now: Instant) {
        while let Some((slot, activity)) = self.datapath.poll_activity() {
            self.tunnel.handle_activity(slot, &activity, now);
        }
        while let Some(install) = self.tunnel.poll_install() {
            match install {
                Install::Session { slot, keys, sealing, opening, send } => {
                    self.datapath.install(slot, keys, sealing, opening, send);
                }
                Install::Send { slot, index } => self.datapath.seal_with(slot, index),
                Install::Drop { slot, index } => self.datapath.drop_session(slot, index),
                Install::Mute { slot } => self.datapath.mute(slot),
                Install::DropPeer { slot } => self.datapath.drop_sessions(slot),
            }
        }
        let mut message = [0; 148];
        while let Some(Transmit { len, .. }) = self.tunnel.poll_transmit(&mut message) {
            self.out.push_back(message[..len].to_vec());
        }
        while let Some(event) = self.tunnel.poll_event() {
            if let Event::Established { slot, initiator: true, .. } = event {
                let keepalive = self.keepalive(slot, now);
                self.out.push_back(keepalive);
            }
        }
        while let Some(floor) = self.tunnel.poll_persist() {
            self.tunnel.handle_persisted(floor, now);
        }
        while self.tunnel.poll_query().is_some() {}
    }

    /// What the session sealed with makes of nothing.
    fn keepalive(&mut self, slot: PeerSlot, now: Instant) -> Vec<u8> {
        let mut out = [0; 32];
        let sealed = self.datapath.handle_keepalive(slot, &mut out, now);
        out[..sealed.expect("a session").len].to_vec()
    }

    fn take(&mut self, from: u8, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, from), 51_820));
        let source = Source { socket: SocketId(0), address };
        let mut datagram = datagram.to_vec();
        let result = match datagram.first() {
            Some(4) => self.datapath.handle_datagram(source, &mut datagram, now).map(drop),
            _ => self.tunnel.handle_datagram(source, &datagram, &mut self.entropy, now),
        };
        self.drain(now);
        result
    }

    /// Does what is due, and gives what that sends.
    fn work(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.tunnel.handle_timeout(&mut self.entropy, now);
        self.drain(now);
        self.out.drain(..).collect()
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.tunnel.poll_timeout().is_none_or(|(at, _)| at > now)
    }
}

const HUB: u8 = 100;
/// The hub, to each of the others.
const THERE: PeerSlot = PeerSlot(0);

struct Star {
    hub: End<PEERS, MORE>,
    ends: Vec<End<1, 1>>,
    now: Instant,
}

impl Star {
    fn new() -> Self {
        let now = Instant::from_secs(1);
        let mut star = Self {
            hub: End::new(HUB),
            ends: (0..PEERS as u8).map(|who| End::new(1 + who)).collect(),
            now,
        };
        for who in 0..PEERS {
            star.hub.know(PeerSlot(who as u16), 1 + who as u8, now);
            star.ends[who].know(THERE, HUB, now);
        }
        star
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
    }

    /// The initiation that an end sends now.
    fn initiation(&mut self, who: usize) -> Vec<u8> {
        self.ends[who].tunnel.handle_wanted(THERE, self.now);
        let mut sent = self.ends[who].work(self.now);
        assert_eq!(sent.len(), 1, "an initiation");
        sent.remove(0)
    }

    /// Brings the hub an initiation; gives its answers, to whomever.
    fn answers(&mut self, who: usize, initiation: &[u8]) -> Vec<Vec<u8>> {
        self.hub.take(who as u8, initiation, self.now).unwrap();
        self.hub.work(self.now)
    }

    /// Answers reach an end; gives the keepalive that follows.
    fn confirmation(&mut self, who: usize, answer: &[u8]) -> Vec<u8> {
        self.ends[who].take(HUB, answer, self.now).unwrap();
        self.ends[who].out.pop_front().expect("a keepalive")
    }

    /// An end's handshake, to its end.
    fn handshake(&mut self, who: usize) {
        let initiation = self.initiation(who);
        let answers = self.answers(who, &initiation);
        let confirmation = self.confirmation(who, &answers[0]);
        self.hub.take(who as u8, &confirmation, self.now).unwrap();
    }

    /// The hub's handshake, to its end.
    fn handshake_back(&mut self, who: usize) {
        let slot = PeerSlot(who as u16);
        self.hub.tunnel.handle_wanted(slot, self.now);
        let initiations = self.hub.work(self.now);
        self.ends[who].take(HUB, &initiations[0], self.now).unwrap();
        let answers = self.ends[who].work(self.now);
        self.hub.take(who as u8, &answers[0], self.now).unwrap();
        let confirmation = self.hub.out.pop_front().expect("a keepalive");
        self.ends[who].take(HUB, &confirmation, self.now).unwrap();
    }

    /// What is sealed on either side is opened on the other.
    fn talk(&mut self, who: usize) {
        let (slot, now) = (PeerSlot(who as u16), self.now);
        let packet = self.ends[who].keepalive(THERE, now);
        self.hub.take(who as u8, &packet, now).unwrap();
        let packet = self.hub.keepalive(slot, now);
        self.ends[who].take(HUB, &packet, now).unwrap();
    }
}

#[test]
fn the_oldest_session_that_only_late_packets_need_makes_room() {
    let mut star = Star::new();
    (0..PEERS).for_each(|who| star.handshake(who));
    star.pass(Duration::from_secs(6));
    // Sealed in the sessions that the new ones replace, and overtaken.
    let late: Vec<_> = (0..PEERS).map(|who| star.ends[who].keepalive(THERE, star.now)).collect();
    for who in [2, 0, 3] {
        star.handshake(who);
        star.pass(Duration::from_millis(1));
    }
    let opened = |star: &mut Star, who: usize| star.hub.take(who as u8, &late[who], star.now);
    assert_eq!(opened(&mut star, 2), Err(DropReason::UnknownIndex), "there are places for two");
    for who in [0, 1, 3] {
        assert_eq!(opened(&mut star, who), Ok(()));
    }
    (0..PEERS).for_each(|who| star.talk(who));
}

#[test]
fn an_answer_waits_for_a_place_that_another_may_need() {
    let mut star = Star::new();
    (0..PEERS).for_each(|who| star.handshake(who));
    star.pass(Duration::from_secs(6));
    let initiations: Vec<_> = (0..PEERS).map(|who| star.initiation(who)).collect();
    let first = star.answers(0, &initiations[0]);
    star.pass(Duration::from_millis(10));
    let second = star.answers(1, &initiations[1]);
    assert!(star.answers(2, &initiations[2]).is_empty());
    assert!(star.hub.is_idle(star.now), "nothing to do until there is a place");

    // A confirmation makes room: what it replaces is for late packets alone.
    let confirmation = star.confirmation(1, &second[0]);
    star.hub.take(1, &confirmation, star.now).unwrap();
    assert!(!star.hub.is_idle(star.now));
    let third = star.hub.work(star.now);
    let confirmation = star.confirmation(2, &third[0]);
    // Three answers, of which one is lost and one on its way: the next one waits again.
    assert!(star.answers(3, &initiations[3]).is_empty());
    star.hub.take(2, &confirmation, star.now).unwrap();
    let fourth = star.hub.work(star.now);
    let confirmation = star.confirmation(3, &fourth[0]);
    star.hub.take(3, &confirmation, star.now).unwrap();
    (1..PEERS).for_each(|who| star.talk(who));
    let confirmation = star.confirmation(0, &first[0]);
    star.hub.take(0, &confirmation, star.now).unwrap();
    star.talk(0);
}

#[test]
fn answers_that_nobody_confirms_keep_no_place() {
    let mut star = Star::new();
    (0..PEERS).for_each(|who| star.handshake(who));
    star.pass(Duration::from_secs(6));
    for who in [0, 1] {
        let initiation = star.initiation(who);
        assert_eq!(star.answers(who, &initiation).len(), 1);
    }
    let initiation = star.initiation(2);
    assert!(star.answers(2, &initiation).is_empty());
    let (at, _) = star.hub.tunnel.poll_timeout().unwrap();
    assert_eq!(at, star.now + Duration::from_secs(1));
    star.now = at;
    let answers = star.hub.work(star.now);
    let confirmation = star.confirmation(2, &answers[0]);
    star.hub.take(2, &confirmation, star.now).unwrap();
    star.talk(2);
    // Who heard no answer goes on with the session before.
    star.talk(0);
    star.talk(1);
}

#[test]
fn a_session_of_our_own_waits_for_nobody() {
    let mut star = Star::new();
    (0..PEERS).for_each(|who| star.handshake(who));
    star.pass(Duration::from_secs(6));
    for who in [0, 1] {
        let initiation = star.initiation(who);
        assert_eq!(star.answers(who, &initiation).len(), 1);
    }
    star.handshake_back(2);
    star.handshake_back(3);
    (0..PEERS).for_each(|who| star.talk(who));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever begins, and whose answers are lost: what is sealed is opened. In less than
    /// 120 s, so that nobody begins on its own.
    #[test]
    fn places_suffice(steps in proptest::collection::vec((0..PEERS, 0u8..3), 1..16)) {
        let mut star = Star::new();
        (0..PEERS).for_each(|who| star.handshake(who));
        for (who, what) in steps {
            star.pass(Duration::from_secs(6));
            match what {
                0 => star.handshake(who),
                1 => star.handshake_back(who),
                _ => {
                    let initiation = star.initiation(who);
                    star.answers(who, &initiation);
                }
            }
            (0..PEERS).for_each(|who| star.talk(who));
        }
    }
}
