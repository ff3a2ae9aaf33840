//! What our client of RFC 5780 finds out about every NAT box, from our relay's
//! answers, on virtual time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, SocketAddr};

use weft_agent_core::event::SocketId;
use weft_agent_core::stun::DISCOVERY_REQUEST_LEN;
use weft_agent_core::stun::discovery::{
    Discovery, FilteringBehaviour as F, Judged, Lifetime, MappingBehaviour as M, Tests,
};
use weft_agent_core::time::{Duration, Instant};
use weft_relay::proto::turn::{
    Alternates, Client, Command, Now, Output, Settings, Turn, Via as ServerVia,
};
use weft_sim::nat::{Filtering, Kind, Mapping, Nat, Ports, Rules};
use weft_sim::{Datagram, HostId, Link, Network, Rng};

const START: Instant = Instant::from_secs(1_000);
const LATENCY: Duration = Duration::from_millis(10);
const OUTER: &str = "203.0.113.50";
const HOST: &str = "10.0.0.2";
const RELAY: [&str; 2] = ["203.0.113.10", "203.0.113.11"];
/// A server of plain STUN, with two ports.
const PLAIN: &str = "203.0.113.20";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The relay's sockets: addresses, then ports.
fn listener(number: usize) -> SocketAddr {
    SocketAddr::new(ip(RELAY[number / 2]), [3_478, 3_479][number % 2])
}

/// How many of the relay's sockets there are: four, or two of one address.
fn relay(listeners: usize) -> Turn {
    let other = |number: usize| (number < listeners).then(|| u8::try_from(number).unwrap());
    let alternates = (0..listeners).map(|own| Alternates {
        port: other(own ^ 1),
        address: other(own ^ 2),
        both: other(own ^ 3),
    });
    let settings = Settings {
        listeners: (0..listeners).map(listener).collect(),
        alternates: alternates.collect(),
        ..Settings::default()
    };
    Turn::new(settings, &[7; 32])
}

struct Scene {
    network: Network,
    gateway: weft_sim::GatewayId,
    own: IpAddr,
    host: HostId,
    relays: [HostId; 2],
    plain: HostId,
    turn: Turn,
    now: Instant,
    began: Instant,
}

impl Scene {
    fn new(listeners: usize, site: impl FnOnce(&mut Network) -> weft_sim::GatewayId) -> Self {
        Self::seeded(3, listeners, site)
    }

    fn seeded(
        seed: u64,
        listeners: usize,
        site: impl FnOnce(&mut Network) -> weft_sim::GatewayId,
    ) -> Self {
        let mut network = Network::new(seed);
        let gateway = site(&mut network);
        let host = network.add_host([ip(HOST)], Some(gateway), Link::with_latency(LATENCY));
        let relays = RELAY.map(|own| network.add_host([ip(own)], None, Link::IDEAL));
        let plain = network.add_host([ip(PLAIN)], None, Link::IDEAL);
        Self {
            network,
            gateway,
            own: ip(HOST),
            host,
            relays,
            plain,
            turn: relay(listeners),
            now: START,
            began: START,
        }
    }

    fn behind(nat: Nat) -> Self {
        Self::new(4, |network| network.add_gateway([ip(OUTER)], None, Box::new(nat)))
    }

    /// Our own ports, by the number of the socket.
    const fn port(socket: u8) -> u16 {
        51_000 + socket as u16
    }

    fn look(&mut self, servers: &[SocketAddr], tests: Tests) -> Discovery {
        let mut look = Discovery::new(servers, tests, &mut Rng::new(5), self.now);
        self.began = self.now;
        let mut out = [0; DISCOVERY_REQUEST_LEN];
        while !look.is_done() {
            while let Some(transmit) = look.poll_transmit(&mut out, self.now) {
                assert!(transmit.socket.0 < look.sockets(), "it said how many it needs");
                let source = SocketAddr::new(self.own, Self::port(transmit.socket.0));
                let (destination, bytes) = (transmit.to, out[..transmit.len].to_vec());
                self.network.send(self.host, Datagram { source, destination, bytes }, self.now);
            }
            let due = look.poll_timeout().map(|(at, _)| at);
            let next = [due, self.network.poll_timeout()].into_iter().flatten().min();
            let Some(at) = next.filter(|_| !look.is_done()) else { break };
            self.now = self.now.max(at);
            while let Some((host, datagram)) = self.network.poll(self.now) {
                self.arrive(host, &datagram, &mut look);
            }
            look.handle_timeout(self.now);
        }
        assert!(look.is_done(), "it waits for nothing, and does not end");
        assert_eq!(look.poll_timeout(), None);
        look
    }

    fn arrive(&mut self, host: HostId, datagram: &Datagram, look: &mut Discovery) {
        if host == self.host {
            let socket = SocketId(u8::try_from(datagram.destination.port() - 51_000).unwrap());
            // What comes late, or twice, is refused, and no mistake.
            let _ = look.handle_datagram(socket, datagram.source, &datagram.bytes, self.now);
        } else if host == self.plain {
            let mut out = [0; weft_relay::proto::MAX_ANSWER];
            let mut responder = weft_relay::proto::Responder::new(1);
            let at = std::time::Duration::from_micros(self.now.as_micros());
            let answer =
                responder.handle_datagram(datagram.source, &datagram.bytes, at, &mut out).unwrap();
            self.send(host, datagram.destination, datagram.source, out[..answer].to_vec());
        } else if let Some(place) = (0..4).find(|place| listener(*place) == datagram.destination) {
            self.relay(place, datagram);
        }
    }

    fn relay(&mut self, place: usize, datagram: &Datagram) {
        let local = datagram.destination.ip();
        let via = ServerVia::Udp { listener: u8::try_from(place).unwrap(), local };
        let client = Client { via, address: datagram.source };
        let ms = self.now.as_millis();
        let now = Now { ms, unix_s: 1_700_000_000 + ms / 1_000 };
        let mut out = Output::default();
        let bytes = &datagram.bytes;
        self.turn.handle_client(&client, bytes, bytes.len(), now, &mut out);
        for command in &out.commands {
            let Command::Answer { to, bytes } = command else { panic!("{command:?}") };
            let ServerVia::Udp { listener: from, .. } = to.via else { panic!("{to:?}") };
            let from = usize::from(from);
            let answer = out.bytes[bytes.clone()].to_vec();
            self.send(self.relays[from / 2], listener(from), to.address, answer);
        }
    }

    fn send(&mut self, host: HostId, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let datagram = Datagram { source: from, destination: to, bytes };
        self.network.send(host, datagram, self.now);
    }

    fn took(&self) -> Duration {
        self.now - self.began
    }
}

fn all() -> Tests {
    Tests { filtering: true, ..Tests::default() }
}

/// Found out: mapping, filtering, hairpin.
type Found = (Option<M>, Option<F>, Option<bool>);

fn found(look: &Discovery) -> Found {
    let exact = |what: bool| assert!(what, "four sockets tell everything apart");
    let mapping = look.mapping().map(|judged| (exact(judged.exact), judged.behaviour).1);
    let filtering = look.filtering().map(|judged| (exact(judged.exact), judged.behaviour).1);
    (mapping, filtering, look.hairpin())
}

#[test]
fn every_kind_of_box_is_told() {
    for (kind, mapping, filtering) in [
        (Kind::Open, M::EndpointIndependent, F::EndpointIndependent),
        (Kind::FullCone, M::EndpointIndependent, F::EndpointIndependent),
        (Kind::AdCone, M::EndpointIndependent, F::Address),
        (Kind::Prc, M::EndpointIndependent, F::AddressAndPort),
        (Kind::NoFw, M::EndpointIndependent, F::AddressAndPort),
        (Kind::SymSeq, M::Sequential(1), F::AddressAndPort),
        (Kind::SymWin, M::Window(512), F::AddressAndPort),
        (Kind::SymRand, M::Random, F::AddressAndPort),
        (Kind::SymEif, M::Random, F::EndpointIndependent),
        (Kind::Cgnat, M::EndpointIndependent, F::AddressAndPort),
    ] {
        let mut scene = Scene::new(4, |network| kind.site(network, ip(OUTER), ip(HOST), 7));
        let look = scene.look(&[listener(0)], all());
        let hairpin = Some(false);
        let expected = (Some(mapping), Some(filtering), hairpin);
        assert_eq!(found(&look), expected, "{}", kind.name());
        assert!(scene.took() < Duration::from_millis(1_500), "{}: {:?}", kind.name(), scene.took());
        let (public, rtt) = look.seen().next().unwrap().answer.unwrap();
        assert_eq!((public.ip(), rtt), (ip(OUTER), LATENCY * 2));
    }
}

#[test]
fn a_network_without_udp_answers_nothing_and_ends() {
    let mut scene = Scene::behind(Nat::blocked(1));
    let look = scene.look(&[listener(0), SocketAddr::new(ip(PLAIN), 7_420)], all());
    assert_eq!(found(&look), (None, None, None));
    assert!(look.seen().all(|seen| seen.answer.is_none()));
    assert!(scene.took() < Duration::from_secs(2));
}

#[test]
fn boxes_of_ones_own_design_are_told() {
    let hashed = Rules { ports: Ports::Hashed, ..Rules::HOME };
    for (rules, expected) in [
        (hashed, (M::EndpointIndependent, F::AddressAndPort, false)),
        (
            Rules { mapping: Mapping::AddressDependent, ..hashed },
            (M::Address, F::AddressAndPort, false),
        ),
        (
            Rules { hairpin: true, filtering: Filtering::EndpointIndependent, ..Rules::HOME },
            (M::EndpointIndependent, F::EndpointIndependent, true),
        ),
    ] {
        let look = Scene::behind(Nat::new(rules, 3)).look(&[listener(0)], all());
        let (mapping, filtering, hairpin) = expected;
        assert_eq!(found(&look), (Some(mapping), Some(filtering), Some(hairpin)), "{rules:?}");
    }
    let two = Scene::behind(Nat::symseq(2, 1)).look(&[listener(0)], all());
    assert_eq!(two.mapping().map(|judged| judged.behaviour), Some(M::Sequential(2)));
}

#[test]
fn one_address_with_two_ports_leaves_some_of_it_open() {
    let site = |kind: Kind| move |network: &mut Network| kind.site(network, ip(OUTER), ip(HOST), 7);
    let judge = |kind: Kind| {
        let look = Scene::new(2, site(kind)).look(&[listener(0)], all());
        (look.mapping().unwrap(), look.filtering().unwrap())
    };
    let independent = Judged { behaviour: M::EndpointIndependent, exact: false };
    for kind in [Kind::FullCone, Kind::AdCone] {
        let by_address = Judged { behaviour: F::Address, exact: false };
        assert_eq!(judge(kind), (independent, by_address), "{}", kind.name());
    }
    let by_port = Judged { behaviour: F::AddressAndPort, exact: true };
    assert_eq!(judge(Kind::Prc), (independent, by_port));
    // A server without another port says nothing of filtering, and two of them say
    // all of mapping.
    let plain = [SocketAddr::new(ip(PLAIN), 7_420), SocketAddr::new(ip(PLAIN), 7_421)];
    let look = Scene::new(1, site(Kind::FullCone)).look(&plain, all());
    assert_eq!((look.mapping(), look.filtering()), (Some(independent), None));
    let look = Scene::new(1, site(Kind::Prc)).look(&[plain[0], listener(0)], all());
    let shown = Judged { behaviour: M::EndpointIndependent, exact: true };
    assert_eq!((look.mapping(), look.filtering()), (Some(shown), None));
}

#[test]
fn a_bindings_life_is_between_two_lengths() {
    let lives = |stream_s: u64, lengths: &[u16]| {
        let stream = Duration::from_secs(stream_s);
        let mut scene = Scene::behind(Nat::new(Rules { stream, ..Rules::HOME }, 3));
        let tests = Tests { lives_s: lengths.iter().copied().collect(), ..Tests::default() };
        let look = scene.look(&[listener(0)], tests);
        (look.lifetime(), scene.took())
    };
    let all = [15, 30, 60, 120, 180];
    let between = |alive_s, dead_s| Some(Lifetime { alive_s, dead_s });
    let (found, took) = lives(120, &all);
    assert_eq!(found, between(120, Some(180)));
    assert!(took < Duration::from_secs(175), "{took:?}");
    assert_eq!(lives(300, &all).0, between(180, None));
    // What is dead ends the wait.
    let (found, took) = lives(20, &all);
    assert_eq!(found, between(15, Some(30)));
    assert!(took < Duration::from_secs(35), "{took:?}");
    assert_eq!(lives(10, &all).0, between(0, Some(15)));
    // Used once only, a binding would have lived for 30 s.
    assert_eq!(lives(60, &[45]).0, between(45, None));
}

#[test]
fn no_life_is_told_by_a_server_that_cannot_ask_for_it() {
    let mut scene = Scene::new(1, |network| Kind::Prc.site(network, ip(OUTER), ip(HOST), 7));
    let lives_s = [15].into_iter().collect();
    let look = scene.look(&[listener(0)], Tests { lives_s, ..Tests::default() });
    assert_eq!(look.lifetime(), None);
    assert!(scene.took() < Duration::from_secs(2));
}

#[test]
fn behind_nat64_a_server_is_asked_for_what_it_can_tell() {
    let prefix: std::net::Ipv6Addr = "2001:db8:64::".parse().unwrap();
    let known = |address: &str| -> SocketAddr {
        let octets = address.parse::<std::net::Ipv4Addr>().unwrap().octets();
        let mut all = prefix.octets();
        all[12..].copy_from_slice(&octets);
        (std::net::Ipv6Addr::from(all), 3_478).into()
    };
    let mut scene = Scene::behind(Nat::nat64(prefix, 1));
    scene.own = ip("2001:db8:1::2");
    scene.network.move_host(scene.host, [scene.own], Some(scene.gateway));
    let look = scene.look(&RELAY.map(known), all());
    assert_eq!(found(&look), (Some(M::EndpointIndependent), None, None));
    assert!(
        look.seen().all(|seen| seen.answer.is_some_and(|(public, _)| public.ip() == ip(OUTER)))
    );
    assert!(scene.took() < Duration::from_millis(500), "{:?}", scene.took());
}

#[test]
fn loss_delays_and_does_not_mislead() {
    let mut wrong = 0;
    for seed in 0..200 {
        let mut scene = Scene::seeded(seed, 4, |network| {
            network.add_gateway([ip(OUTER)], None, Box::new(Nat::fullcone(seed)))
        });
        scene.network.link_mut(scene.host).loss_ppm = 100_000;
        let look = scene.look(&[listener(0)], all());
        let mapping = look.mapping().map(|judged| judged.behaviour);
        let filtering = look.filtering().map(|judged| judged.behaviour);
        let is_right =
            mapping == Some(M::EndpointIndependent) && filtering == Some(F::EndpointIndependent);
        wrong += u32::from(!is_right);
    }
    // What is asked for is lost three times in a row, each time there or back with
    // a chance of 19 %: 0.7 %, and three requests count.
    assert!(wrong <= 12, "{wrong} of 200");
}
