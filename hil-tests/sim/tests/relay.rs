//! Our TURN client and our relay on a network that loses, doubles and reorders:
//! what the link does not lose arrives.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use weft_agent_core::entropy::Entropy;
use weft_agent_core::event::{SocketId, Sockets, Source};
use weft_agent_core::relay::{
    INDICATION_OVERHEAD, REQUEST_LEN, Received, RelayClient, RelayEvent, Via, Why,
};
use weft_agent_core::time::{Duration, Instant};
use weft_noise::legacy::hmac_sha1;
use weft_sim::relay::Server;
use weft_sim::{Datagram, HostId, Link, Network, Rng};
use weft_wire::relay::{Relay as Listed, RelayLogin, RelayMac};

const SECRET: &[u8] = b"a secret of sixteen";
const UNIX: u64 = 1_700_000_000;
const DEVICE: &str = "192.0.2.5:51820";
const PEER: &str = "198.51.100.9:51820";
const START: Instant = Instant::from_secs(10);
const LATENCY: Duration = Duration::from_millis(20);
/// There and back, over two links.
const ROUND_TRIP: Duration = Duration::from_millis(80);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

struct Seeded(Rng);

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        out.iter_mut().for_each(|byte| *byte = self.0.next() as u8);
    }
}

/// A device, two relays and a peer that sends back what it gets.
struct Scene {
    now: Instant,
    network: Network,
    client: RelayClient<4, 0>,
    entropy: Seeded,
    device: HostId,
    peer: HostId,
    servers: [Server; 2],
    events: Vec<(Instant, RelayEvent)>,
    /// How long a grant is good; `None` = none is given.
    lifetime: Option<Duration>,
    /// Numbers of packets: sent, seen by the peer, and come back.
    sent: BTreeSet<u32>,
    seen: BTreeSet<u32>,
    back: BTreeSet<u32>,
    back_at: Option<Instant>,
}

impl Scene {
    fn new(seed: u64, link: Link, remembered: bool) -> Self {
        let mut network = Network::new(seed);
        let clean = Link::with_latency(LATENCY);
        let device = network.add_host([address(DEVICE).ip()], None, link);
        let peer = network.add_host([address(PEER).ip()], None, clean);
        let server = |place: u8, network: &mut Network| {
            let ip = Ipv4Addr::from([203, 0, 113, 10 + place]);
            let host = network.add_host([ip.into()], None, clean);
            Server::new(host, ip, SECRET, UNIX, place)
        };
        let servers = [server(0, &mut network), server(1, &mut network)];
        let listed = [0, 1].map(|place| Listed {
            number: place,
            v4: Some([203, 0, 113, 10 + place as u8].into()),
            v6: None,
            udp: [3_478, 0],
            tcp: 0,
            tls: 0,
        });
        let mut scene = Self {
            now: START,
            network,
            client: RelayClient::new(),
            entropy: Seeded(Rng::new(seed)),
            device,
            peer,
            servers,
            events: vec![],
            lifetime: Some(Duration::from_secs(86_400)),
            sent: BTreeSet::new(),
            seen: BTreeSet::new(),
            back: BTreeSet::new(),
            back_at: None,
        };
        scene.client.set_sockets(Sockets::both(SocketId(0)), START);
        scene.client.set_relays(&listed, START);
        if remembered {
            scene.client.acquire(START);
            scene.drain();
            scene.run_for(Duration::from_secs(1));
            scene.client.release(scene.now);
            scene.drain();
            scene.run_for(Duration::from_secs(1));
            scene.events.clear();
        }
        scene
    }

    fn grant(&mut self) {
        let Some(lifetime) = self.lifetime else { return };
        let expiry = UNIX + self.now.as_millis() / 1_000 + lifetime.as_secs();
        let user = format!("{expiry}:dev_2j7m5ctnuzov@org_1");
        let mac = hmac_sha1(SECRET, &[user.as_bytes()]);
        let logins = [0, 1].map(|relay| RelayLogin { relay, mac: RelayMac(mac) });
        self.client.set_grant(&user, lifetime, &logins, self.now);
    }

    fn transmit(&mut self, via: Via, bytes: Vec<u8>) {
        let Via::Udp { to: destination, .. } = via else { panic!("{via:?}") };
        let datagram = Datagram { source: address(DEVICE), destination, bytes };
        self.network.send(self.device, datagram, self.now);
    }

    fn drain(&mut self) {
        loop {
            let mut out = [0; REQUEST_LEN];
            let (entropy, now) = (&mut self.entropy, self.now);
            if let Some(transmit) = self.client.poll_transmit(&mut out, entropy, now) {
                self.transmit(transmit.via, out[..transmit.len].to_vec());
            } else if let Some(event) = self.client.poll_event() {
                self.events.push((self.now, event));
                if event == RelayEvent::GrantWanted {
                    self.grant();
                }
            } else {
                return;
            }
        }
    }

    /// A packet for the peer, as the agent sends it.
    fn send(&mut self, number: u32) -> bool {
        let data = number.to_be_bytes();
        if let Some(route) = self.client.channel(address(PEER)) {
            self.transmit(route.via, [&route.prefix(4)[..], &data].concat());
        } else {
            let mut out = [0; 4 + INDICATION_OVERHEAD];
            let written = self.client.write_indication(address(PEER), &data, &mut out);
            let Some(transmit) = written else { return false };
            self.transmit(transmit.via, out[..transmit.len].to_vec());
        }
        self.sent.insert(number)
    }

    fn deliver(&mut self, host: HostId, datagram: &Datagram) {
        if host == self.peer {
            let number = datagram.bytes[..].try_into().map(u32::from_be_bytes).unwrap();
            self.seen.insert(number);
            let (source, destination) = (datagram.destination, datagram.source);
            let echo = Datagram { source, destination, bytes: datagram.bytes.clone() };
            return self.network.send(self.peer, echo, self.now);
        }
        if let Some(server) = self.servers.iter_mut().find(|server| server.host == host) {
            return server.handle(datagram, self.now, &mut self.network);
        }
        let source = Source { socket: SocketId(0), address: datagram.source };
        let received = self.client.handle_datagram(source, &datagram.bytes, self.now);
        if let Ok(Received::Data { peer, at }) = received {
            assert_eq!(peer, address(PEER));
            let number = datagram.bytes[at].try_into().map(u32::from_be_bytes).unwrap();
            self.back.insert(number);
            self.back_at = Some(self.now);
        }
        self.drain();
    }

    /// The next thing that happens, if it happens by then.
    fn step(&mut self, until: Instant) -> bool {
        let of_servers = self.servers.iter().filter_map(Server::poll_timeout).min();
        let of_client = self.client.poll_timeout().map(|(at, _)| at);
        let next = [self.network.poll_timeout(), of_servers, of_client].into_iter().flatten().min();
        let Some(next) = next.filter(|at| *at <= until) else {
            self.now = until;
            return false;
        };
        self.now = next.max(self.now);
        while let Some((host, datagram)) = self.network.poll(self.now) {
            self.deliver(host, &datagram);
        }
        for server in &mut self.servers {
            server.handle_timeout(self.now, &mut self.network);
        }
        self.client.handle_timeout(self.now);
        self.drain();
        true
    }

    fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
    }

    /// Until an event, at most ten minutes; how long that took.
    fn run_to(&mut self, wanted: impl Fn(&RelayEvent) -> bool) -> Duration {
        let (began, from) = (self.now, self.events.len());
        loop {
            if let Some((at, _)) = self.events[from..].iter().find(|(_, event)| wanted(event)) {
                return *at - began;
            }
            let happens = self.step(began + Duration::from_secs(600));
            assert!(happens, "it does not come: {:?}", &self.events[from..]);
        }
    }

    fn want(&mut self) {
        self.client.want(address(PEER), self.now).unwrap();
        self.drain();
    }

    /// Sends packets for a while. What a path would see, it says: nothing came
    /// back for three seconds.
    fn talk(&mut self, duration: Duration, every: Duration) {
        let until = self.now + duration;
        let mut silent_from = self.now;
        while self.now < until {
            let number = self.sent.len() as u32;
            self.send(number);
            self.run_for(every);
            silent_from = silent_from.max(self.back_at.unwrap_or_default());
            if self.now - silent_from >= Duration::from_secs(3) {
                self.client.suspect(self.now);
                self.drain();
                silent_from = self.now;
            }
        }
    }

    fn lost(&self) -> Vec<Why> {
        let lost = |(_, event): &(Instant, RelayEvent)| match event {
            RelayEvent::Lost { why, .. } => Some(*why),
            _ => None,
        };
        self.events.iter().filter_map(lost).collect()
    }
}

fn is_ready(event: &RelayEvent) -> bool {
    matches!(event, RelayEvent::Ready { .. })
}

fn is_allocated(event: &RelayEvent) -> bool {
    matches!(event, RelayEvent::Allocated { .. })
}

#[test]
fn the_first_packet_leaves_with_the_answer_and_passes() {
    for (remembered, trips) in [(false, 2), (true, 1)] {
        let mut scene = Scene::new(1, Link::with_latency(LATENCY), remembered);
        scene.want();
        let took = scene.run_to(is_allocated);
        assert_eq!(took, ROUND_TRIP * trips, "remembered: {remembered}");
        assert!(scene.send(0));
        scene.run_for(ROUND_TRIP);
        assert_eq!(scene.seen.len(), 1, "it went behind the ChannelBind, and not after its answer");
        scene.run_for(ROUND_TRIP);
        assert_eq!((scene.back.len(), scene.servers[0].refused()), (1, 0));
        scene.client.release(scene.now);
        scene.drain();
        scene.run_for(ROUND_TRIP);
        assert_eq!(scene.servers[0].turn.allocations(), 0);
        assert_eq!(scene.client.poll_timeout(), None);
    }
}

#[test]
fn nothing_is_lost_that_the_link_did_not_lose() {
    for seed in 0..12 {
        let link = Link {
            latency: LATENCY,
            jitter: Duration::from_millis(30),
            loss_ppm: 80_000,
            duplicate_ppm: 50_000,
            reorder_ppm: 50_000,
            ..Link::IDEAL
        };
        let mut scene = Scene::new(seed, link, false);
        scene.want();
        scene.run_to(is_ready);
        let (refused, lost) = (scene.servers[0].refused(), scene.network.totals().lost);
        scene.talk(Duration::from_secs(3_600), Duration::from_millis(500));
        scene.run_for(Duration::from_secs(5));
        assert_eq!(scene.lost(), [], "seed {seed}");
        let on = |server: &Server| server.turn.allocations() > 0;
        let server = scene.servers.iter().find(|server| on(server)).unwrap();
        assert_eq!(server.refused(), refused, "seed {seed}: nothing lapsed");
        let missing = scene.sent.len() - scene.back.len();
        assert!(scene.back.is_subset(&scene.seen) && scene.sent.len() > 7_000);
        let lost = scene.network.totals().lost - lost;
        assert!(missing as u64 <= lost, "seed {seed}: {missing} are missing, {lost} were lost");
        assert!(missing > 100, "the link does lose");
    }
}

#[test]
fn without_loss_every_packet_arrives_for_hours() {
    let link = Link { jitter: Duration::from_millis(15), duplicate_ppm: 100_000, ..Link::IDEAL };
    let mut scene = Scene::new(3, link, false);
    // Credentials that end and nonces that grow stale many times over.
    scene.lifetime = Some(Duration::from_secs(700));
    scene.want();
    scene.run_to(is_ready);
    scene.talk(Duration::from_secs(4 * 3_600), Duration::from_secs(2));
    scene.run_for(Duration::from_secs(1));
    assert_eq!(scene.lost(), []);
    assert_eq!((scene.sent.len(), scene.sent == scene.back), (7_200, true));
    assert!(scene.servers[0].turn.counters().challenges > 20);
    assert_eq!(scene.servers[0].turn.counters().allocations_made, 1);
}

#[test]
fn a_restarted_relay_is_asked_anew_as_soon_as_silence_is_noticed() {
    let mut scene = Scene::new(4, Link::with_latency(LATENCY), false);
    scene.want();
    scene.run_to(is_ready);
    scene.talk(Duration::from_secs(100), Duration::from_millis(500));
    scene.servers[0].restart(99);
    let restarted = scene.now;
    scene.talk(Duration::from_secs(10), Duration::from_millis(500));
    assert_eq!(scene.lost(), [Why::Forgotten]);
    let (at, _) = *scene.events.iter().rfind(|(_, event)| is_ready(event)).unwrap();
    // Noticed after 3 s; a stale nonce, the refusal, the allocation, the channel.
    assert!(
        at - restarted <= Duration::from_millis(3_500) + ROUND_TRIP * 4,
        "{:?}",
        at - restarted
    );
    let before = scene.back.len();
    scene.talk(Duration::from_secs(10), Duration::from_millis(500));
    assert_eq!(scene.back.len() - before, 20);
}

#[test]
fn a_silent_relay_is_left_for_another() {
    let mut scene = Scene::new(5, Link::with_latency(LATENCY), false);
    scene.want();
    scene.run_to(is_ready);
    scene.talk(Duration::from_secs(100), Duration::from_millis(500));
    let host = scene.servers[0].host;
    scene.network.link_mut(host).up = false;
    let silent = scene.now;
    scene.talk(Duration::from_secs(60), Duration::from_millis(500));
    assert_eq!(scene.lost(), [Why::NoAnswer]);
    let (at, _) = *scene.events.iter().rfind(|(_, event)| is_ready(event)).unwrap();
    assert!(at - silent < Duration::from_secs(35), "{:?}", at - silent);
    assert_eq!(scene.servers[1].turn.allocations(), 1);
    let before = scene.back.len();
    scene.talk(Duration::from_secs(10), Duration::from_millis(500));
    assert_eq!(scene.back.len() - before, 20);

    // Where none answers it rests, and comes back with the first that does.
    let host = scene.servers[1].host;
    scene.network.link_mut(host).up = false;
    scene.run_to(|event| matches!(event, RelayEvent::Failed { why: Why::NoAnswer }));
    scene.network.link_mut(host).up = true;
    scene.run_to(is_ready);
}

#[test]
fn credentials_that_end_are_told_and_a_new_grant_is_used_at_once() {
    let mut scene = Scene::new(6, Link::with_latency(LATENCY), false);
    scene.lifetime = Some(Duration::from_secs(300));
    scene.want();
    scene.run_to(is_ready);
    scene.lifetime = None;
    scene.run_to(|event| matches!(event, RelayEvent::Lost { why: Why::Credentials, .. }));
    let wanted = |(_, event): &&(Instant, RelayEvent)| *event == RelayEvent::GrantWanted;
    assert!(scene.events.iter().filter(wanted).count() > 2, "it was asked for again and again");
    scene.lifetime = Some(Duration::from_secs(3_600));
    scene.grant();
    scene.drain();
    let took = scene.run_to(is_ready);
    assert!(took <= ROUND_TRIP * 6, "{took:?}");
    // A user that is denied while it is served is not served elsewhere by this relay.
    let server = &mut scene.servers[usize::from(scene_relay(&scene.events))];
    server.deny("dev_2j7m5ctnuzov@org_1", scene.now, &mut scene.network);
    scene.client.suspect(scene.now);
    scene.drain();
    scene.run_to(|event| matches!(event, RelayEvent::Lost { why: Why::Denied, .. }));
    scene.run_to(is_ready);
}

/// The relay of the last allocation.
fn scene_relay(events: &[(Instant, RelayEvent)]) -> u16 {
    let relay = |(_, event): &(Instant, RelayEvent)| match event {
        RelayEvent::Allocated { rung, .. } => Some(rung.relay),
        _ => None,
    };
    events.iter().rev().find_map(relay).unwrap()
}
