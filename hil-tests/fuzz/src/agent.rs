//! An agent between a coordinator and two peers that hold all the keys they
//! should and do what they like with them.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};

use weft_agent_core::agent::{AgentConfig, AgentEvent, ChipAgent, Input, Output};
use weft_agent_core::buffer::{PacketBuf, capacity_for};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::control::{Identity, Member, Membership};
use weft_agent_core::event::{SocketId, Sockets, Source, Via};
use weft_agent_core::time::{Duration, Instant};
use weft_noise::key::StaticSecret;
use weft_noise::sealed::Session;
use weft_noise::wg::{
    self, INITIATION_LEN, InitiationSent, Kind, LocalKey, Opener, RESPONSE_LEN, RemoteKey, Sealer,
    TAILROOM, Tai64n,
};
use weft_sim::Rng;
use weft_wire::frame::{FrameKind, Hello, MAX_FRAME, MAX_FRAME_CHIP, Reset, Retry, kind};
use weft_wire::id::{
    DeviceId, Epoch, Inbox, Name, NetworkId, OrganisationId, PublicKey, ReplicaId, Revision,
    Secret, ShortSecret,
};
use weft_wire::item::{Abilities, Backend, Item, ItemWriter, Items, RawItem, WelcomeInfo};
use weft_wire::map::{Lease, Overlay, Page, PeerUpsert, Rule, Rules, Settings};
use weft_wire::signal::{Call, Candidate, CandidateKind, Mapping, NatReport};

use crate::keys::{OUR_SECRET, psk};
use crate::noise;
use crate::script::Script;

/// Operations of one run.
const OPS: usize = 64;
/// Outputs of one input: more means that it does not come to an end.
const OUTPUTS: usize = 2_000;
/// The longest packet and datagram.
const PACKET: usize = 1_600;
const SOCKET: SocketId = SocketId(0);
const EPOCH: Epoch = Epoch(3);
const OVERLAY: Overlay =
    Overlay { ipv4: Ipv4Addr::new(100, 93, 0, 0), ipv4_len: 16, ipv6: [0xfd, 1, 2, 3, 4, 5] };

fn name(text: &str) -> Name {
    Name::try_from(text).expect("a short name")
}

fn config() -> AgentConfig {
    AgentConfig {
        boot_count: 1,
        on_demand: false,
        page_window: 1,
        staged_per_peer: 2,
        fingerprint: [1; 32],
        name: name("fuzzed"),
        abilities: Abilities {
            families: 3,
            carriers: 1,
            mtu: 1_280,
            backend: Backend::User,
            peer_slots: 0,
            peer_routes: 4,
            rules: 32,
            agent: heapless::String::new(),
            platform: heapless::String::new(),
            endpoints: heapless::Vec::new(),
        },
        sockets: Sockets { v4: Some(SOCKET), v6: None },
        extra_sockets: 4,
        tunnel: TunnelConfig::new(),
        stamp_floor: Some(1),
    }
}

/// A member whose coordinator is [`noise::coordinator`].
pub fn identity() -> Identity {
    Identity {
        identity_key: Secret([0x22; 32]),
        wireguard_key: Secret(OUR_SECRET),
        coordinator: *noise::coordinator().public(),
        next_coordinator: None,
        second_wireguard: None,
        membership: Membership::Member(Member {
            device: DeviceId(1),
            network: NetworkId(1),
            organisation: OrganisationId(1),
            name: name("fuzzed"),
            network_name: name("home"),
            inbox: Inbox([5; 16]),
            password: ShortSecret([6; 16]),
            password_expiry: u32::MAX,
            psk: psk(),
            master: 0,
        }),
    }
}

type FuzzedAgent = ChipAgent<Rng>;

fn agent(now: Instant) -> Box<FuzzedAgent> {
    let agent = FuzzedAgent::new(config(), identity(), Rng::new(1), now);
    Box::new(agent.expect("the pin is a strong key"))
}

/// A cache of anybody's making is taken or refused.
pub(crate) fn restore(cache: &[u8]) {
    let now = Instant::from_secs(1);
    let mut agent = agent(now);
    let _refused = agent.restore(cache, now);
    let mut scratch = [0; 2_048];
    let mut written = Vec::new();
    agent
        .write_cache(&mut scratch, |piece| written.extend_from_slice(piece))
        .expect("pieces fit into what is promised");
    let mut again = self::agent(now);
    again.restore(&written, now).expect("what was written is restored");
}

/// A peer with its keys.
struct Peer {
    own: LocalKey,
    agent: RemoteKey,
    sent: Option<InitiationSent>,
    session: Option<(Sealer, Opener<8>)>,
    /// The agent's last initiation.
    asked: Option<[u8; INITIATION_LEN]>,
    stamp: u64,
}

impl Peer {
    fn new(number: u8) -> Self {
        let own = LocalKey::new(StaticSecret::from_bytes([0x40 + number; 32]));
        let agent = own.remote(&StaticSecret::from_bytes(OUR_SECRET).public());
        let agent = agent.expect("a key of full order");
        Self { own, agent, sent: None, session: None, asked: None, stamp: 1 << 36 }
    }

    fn initiate(&mut self, rng: &mut Rng) -> [u8; INITIATION_LEN] {
        let mut message = [0; INITIATION_LEN];
        self.stamp += 1;
        let stamp = Tai64n::from_steps(self.stamp);
        let index = self.stamp as u32;
        self.sent = Some(self.own.initiate(&self.agent, index, stamp, rng, &mut message));
        message
    }

    fn respond(&mut self, rng: &mut Rng) -> Option<[u8; RESPONSE_LEN]> {
        let asked = self.asked.take()?;
        let checked = self.own.check_mac1(&asked).ok()?;
        let received = self.own.receive_initiation(&checked).ok()?;
        let authentic = received.authenticate(&self.agent).ok()?;
        let mut out = [0; RESPONSE_LEN];
        let keys = authentic.respond(99, &psk(), rng, &mut out);
        self.session = Some(keys.split());
        Some(out)
    }

    fn seal(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (sealer, _) = self.session.as_mut()?;
        let mut datagram = vec![0; wg::HEADER_LEN + packet.len() + TAILROOM];
        datagram[wg::HEADER_LEN..wg::HEADER_LEN + packet.len()].copy_from_slice(packet);
        let len = sealer.seal(&mut datagram, packet.len(), PACKET).ok()?;
        datagram.truncate(len);
        Some(datagram)
    }

    /// A datagram of the agent.
    fn take(&mut self, datagram: &[u8]) {
        match wg::kind(datagram) {
            Ok(Kind::Initiation) if self.own.check_mac1(datagram).is_ok() => {
                self.asked = datagram.try_into().ok();
            }
            Ok(Kind::Response) => {
                let Some(sent) = self.sent.as_mut() else { return };
                let Ok(checked) = self.own.check_mac1(datagram) else { return };
                if let Ok(answered) = sent.receive_response(&self.own, &checked, &[&psk()]) {
                    self.session = Some(answered.keys.split());
                }
            }
            _ => {}
        }
    }
}

struct Scene {
    agent: Box<FuzzedAgent>,
    now: Instant,
    rng: Rng,
    hello: Option<Vec<u8>>,
    session: Option<Session>,
    sessions: u32,
    peers: [Peer; 2],
    /// Storage confirms what it is told to write.
    stores: bool,
    /// Datagrams of the agent, to be changed and sent back.
    seen: VecDeque<Vec<u8>>,
}

const fn endpoint(peer: usize) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + peer as u8)), 51_871)
}

impl Scene {
    fn new() -> Self {
        let now = Instant::from_secs(1);
        let mut scene = Self {
            agent: agent(now),
            now,
            rng: Rng::new(2),
            hello: None,
            session: None,
            sessions: 0,
            peers: [Peer::new(0), Peer::new(1)],
            stores: true,
            seen: VecDeque::new(),
        };
        scene.drain();
        scene
    }

    fn key(&self, peer: usize) -> PublicKey {
        *self.peers[peer].own.public()
    }

    /// Does everything that the agent wants done.
    fn drain(&mut self) {
        for turn in 0.. {
            assert!(turn < OUTPUTS, "outputs come to an end");
            if let Some(event) = self.agent.poll_event() {
                if let AgentEvent::Persist(what) = event
                    && self.stores
                {
                    self.agent.handle_persisted(what, self.now);
                }
                continue;
            }
            if self.agent.poll_line().is_some() || self.agent.poll_socket().is_some() {
                continue;
            }
            if self.agent.poll_refusal(&mut [0; 1_280]).is_some() {
                continue;
            }
            let mut frame = [0; MAX_FRAME_CHIP];
            if let Some(transmit) = self.agent.poll_control(&mut frame) {
                self.take_frame(&frame[..transmit.len]);
                continue;
            }
            let mut datagram = [0; capacity_for(1_420)];
            let Some(transmit) = self.agent.poll_transmit(&mut datagram) else { return };
            let datagram = &datagram[..transmit.len];
            let Via::Udp { to, .. } = transmit.via else { continue };
            if let Some(peer) = (0..2).find(|&peer| endpoint(peer) == to) {
                self.peers[peer].take(datagram);
            }
            self.seen.push_back(datagram.to_vec());
            if self.seen.len() > 8 {
                self.seen.pop_front();
            }
        }
    }

    fn take_frame(&mut self, frame: &[u8]) {
        match kind(frame) {
            Ok(FrameKind::Hello) => {
                assert!(
                    Hello::parse(frame).is_ok_and(|hello| noise::coordinator().check_mac1(&hello))
                );
                self.hello = Some(frame.to_vec());
            }
            Ok(FrameKind::Record) => {
                let Some(session) = &mut self.session else { return };
                let mut plain = [0; MAX_FRAME];
                if let Ok(len) = session.open(frame, &mut plain) {
                    assert!(Items::new(&plain[..len]).all(|item| item.is_ok()));
                }
            }
            other => panic!("an agent sends {other:?}"),
        }
    }

    fn frame(&mut self, frame: &[u8]) {
        let _dropped = self.agent.handle_frame(frame, self.now);
        self.drain();
    }

    /// Answers the agent's HELLO; `more` follows the proper item.
    fn welcome(&mut self, more: &[u8]) {
        let Some(hello) = self.hello.take() else { return };
        self.sessions += 1;
        let info = WelcomeInfo {
            session: 9,
            wire: 1,
            replica: ReplicaId(0),
            time_ms: 1_795_000_000_000,
            epoch: EPOCH,
            revision: Revision(u64::from(self.sessions)),
            inbox: Inbox([5; 16]),
            password: ShortSecret([6; 16]),
            password_expiry: u32::MAX,
            reconnect_min_s: 0,
            reconnect_max_s: 1,
            heartbeat_s: 60,
        };
        let mut plain = items(&[&info]);
        plain.extend_from_slice(more);
        if let Some((frame, session)) = noise::welcome(&hello, &plain) {
            self.session = Some(session);
            self.frame(&frame);
        }
    }

    /// A sealed record of these bytes.
    fn record(&mut self, plain: &[u8]) {
        let Some(session) = &mut self.session else { return };
        let mut frame = vec![0; MAX_FRAME];
        if let Ok(len) = session.seal(plain, &mut frame) {
            frame.truncate(len);
            self.frame(&frame);
        }
    }

    /// A page with these ops.
    fn page(&mut self, to: u64, page: u16, of: u16, ops: &[u8]) {
        let head = Page { epoch: EPOCH, from: Revision(0), to: Revision(to), page, of };
        let head = items(&[&head]);
        let mut plain = vec![0; MAX_FRAME];
        let mut writer = ItemWriter::new(&mut plain);
        // An item's tag and length take one byte each here.
        let body = [&head[2..], ops].concat();
        if writer.put_raw(&RawItem { tag: Page::TAG, body: &body }).is_ok() {
            let len = writer.finish();
            self.record(&plain[..len]);
        }
    }

    /// The map as it should be: settings, a rule for everything, both peers.
    fn map(&mut self, to: u64) {
        let rule = Rule { number: 0, protocol: 0, first_port: 0, last_port: u16::MAX };
        let mut ops = items(&[&Settings {
            overlay: OVERLAY,
            host: 2,
            name: name("fuzzed"),
            mtu: 1_280,
            next_pin: None,
        }]);
        ops.extend(items(&[&Rules { rules: [rule].into_iter().collect() }]));
        ops.extend(items(&[&Lease { lease_s: 3_600 }]));
        for peer in 0..2 {
            ops.extend(items(&[&PeerUpsert {
                device: DeviceId(10 + peer as u32),
                name: name("peer"),
                key: self.key(peer),
                psk: psk(),
                second: None,
                host: 10 + peer as u32,
                mtu: 1_280,
                flags: 0,
                rules_in: 1,
                rules_out: 1,
                routes: heapless::Vec::new(),
                endpoint: Some(endpoint(peer)),
                attestation: None,
            }]));
        }
        self.page(to, 0, 1, &ops);
    }

    /// A call of a peer, so that the agent knows where it is.
    fn call(&mut self, peer: usize, call: u32) {
        let candidate = Candidate { kind: CandidateKind::Host, address: endpoint(peer) };
        let call = Call {
            call,
            peer: DeviceId(10 + peer as u32),
            receiver: 0,
            nat: NatReport { mapping: Mapping::Unknown, lifetime_s: 0, age_ms: 0 },
            rtt_ms: 20,
            candidates: [candidate].into_iter().collect(),
        };
        self.record(&items(&[&call]));
    }

    /// A datagram; whether a packet for the mesh interface came of it.
    fn datagram(&mut self, peer: usize, datagram: &[u8]) -> bool {
        let mut datagram = datagram.to_vec();
        let source = Source { socket: SOCKET, address: endpoint(peer) };
        let result = self.agent.handle_datagram(source, &mut datagram, self.now);
        let is_packet = matches!(result, Ok(Input::Packet(_)));
        self.drain();
        is_packet
    }

    fn packet(&mut self, packet: &[u8]) {
        let mut bytes = vec![0; capacity_for(packet.len())];
        let Some(mut buffer) = PacketBuf::copy_from(&mut bytes, packet) else { return };
        if let Ok(Output::Transmit(transmit)) = self.agent.handle_packet(&mut buffer, self.now) {
            assert!(transmit.len <= bytes.len());
        }
        self.drain();
    }

    /// A datagram of the agent itself, changed by one bit and sent back.
    fn reflect(&mut self, peer: usize, at: usize) {
        let Some(mut datagram) = self.seen.back().cloned() else { return };
        let len = datagram.len();
        datagram[at / 8 % len] ^= 1 << (at % 8);
        assert!(!self.datagram(peer, &datagram), "what was changed is no packet");
    }

    fn step(&mut self, op: u8, script: &mut Script<'_>) {
        let peer = usize::from(op >> 7);
        match op & 0x7F {
            0 => {
                self.agent.handle_connected(self.now);
                self.drain();
            }
            1 => {
                self.agent.handle_disconnected(self.now);
                self.drain();
            }
            2 => self.frame(script.bytes(MAX_FRAME)),
            3 => self.welcome(script.bytes(256)),
            4 => self.record(script.bytes(900)),
            5 => self.map(u64::from(script.byte())),
            6 => {
                let (to, page, of) = (script.byte(), script.short(), script.short());
                self.page(u64::from(to), page, of, script.bytes(900));
            }
            7 => assert!(!self.datagram(peer, script.bytes(PACKET)), "nobody sealed that"),
            8 => {
                let message = self.peers[peer].initiate(&mut self.rng);
                self.datagram(peer, &message);
            }
            9 => {
                if let Some(message) = self.peers[peer].respond(&mut self.rng) {
                    self.datagram(peer, &message);
                }
            }
            10 => {
                if let Some(datagram) = self.peers[peer].seal(script.bytes(PACKET)) {
                    self.datagram(peer, &datagram);
                    assert!(!self.datagram(peer, &datagram), "a packet comes once");
                }
            }
            11 => self.packet(script.bytes(PACKET)),
            12 => self.now += Duration::from_millis(u64::from(script.word() >> 8)),
            13 => {
                if let Some((at, _)) = self.agent.poll_timeout() {
                    self.now = self.now.max(at);
                    self.agent.handle_timeout(self.now);
                    self.drain();
                }
            }
            14 => self.call(peer, script.word()),
            15 => self.reflect(peer, usize::from(script.short())),
            16 => self.frame(&Retry { hello_hash: self.hello_hash(), token: [3; 16] }.to_bytes()),
            17 => {
                let hello_hash = self.hello_hash();
                self.frame(&Reset { session: 9, hello_hash }.to_bytes());
            }
            18 => self.stores = !self.stores,
            19 => {
                self.agent.leave(self.now);
                self.drain();
            }
            _ => {
                let candidate = Candidate { kind: CandidateKind::Host, address: endpoint(7) };
                self.agent.set_local_addresses(&[candidate], self.now);
                self.drain();
            }
        }
    }

    fn hello_hash(&self) -> [u8; 8] {
        self.hello.as_ref().map_or([0; 8], |hello| weft_noise::sealed::hello_hash(hello))
    }
}

/// Items behind one another.
pub fn items<T: Item>(all: &[&T]) -> Vec<u8> {
    let mut plain = vec![0; MAX_FRAME];
    let mut writer = ItemWriter::new(&mut plain);
    for item in all {
        writer.put(*item).expect("few items");
    }
    let len = writer.len();
    plain.truncate(len);
    plain
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut scene = Scene::new();
    for _ in 0..OPS {
        let Some(op) = script.op() else { break };
        scene.step(op, &mut script);
        let _status = (scene.agent.peers().count(), scene.agent.poll_timeout());
    }
}
