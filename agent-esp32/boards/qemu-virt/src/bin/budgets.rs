//! What a chip's processor and memory pay: instructions of a handshake, of sealing a
//! packet, of the control channel's handshake; bytes per peer. One machine, two agents, no
//! network. Run it by `cargo xtask bench chip`, which counts instructions
//! (`-icount shift=0,sleep=off`): the same firmware gives the same numbers.
#![no_std]
#![no_main]

use core::mem::size_of;
use core::net::{Ipv4Addr, SocketAddr};

use heapless::{String, Vec};
use weft_agent_core::agent::trace::NoTrace;
use weft_agent_core::agent::{
    AgentConfig, AgentEvent, CacheEndpoint, ChipAgentOf, Input, Output, Transmit,
};
use weft_agent_core::buffer::{PacketBuf, capacity_for};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::config::implementation::{FLOWS_CHIP, HANDSHAKES_CHIP, HEADROOM};
use weft_agent_core::control::{CacheHead, DoneCommands, Identity, Member, Membership};
use weft_agent_core::datapath::Datapath;
use weft_agent_core::event::{SocketId, Sockets, Source, Via};
use weft_agent_core::time::{Duration, Instant};
use weft_agent_core::tunnel::Tunnel;
use weft_noise::entropy::Entropy;
use weft_noise::key::StaticSecret;
use weft_noise::sealed::coordinator::CoordinatorKey;
use weft_noise::sealed::device::{HelloHead, Initiator};
use weft_noise::wg::CHIP_WINDOW_WORDS;
use weft_qemu_virt::say;
use weft_wire::frame::{Hello, MAX_FRAME_CHIP, PskKind, PskSelector};
use weft_wire::id::{
    DeviceId, Epoch, Inbox, Name, NetworkId, OrganisationId, PublicKey, Revision, Secret,
    ShortSecret,
};
use weft_wire::item::{Abilities, Backend, ItemWriter, family};
use weft_wire::map::{Lease, Overlay, PeerUpsert, Rule, Rules, Settings};
use weft_wire::signal::{Candidate, CandidateKind};

type Chip<const P: usize, const R: usize> = ChipAgentOf<Counter, NoTrace, P, R>;
type Eight = Chip<8, 16>;
type Data<const P: usize, const R: usize> =
    Datapath<P, HANDSHAKES_CHIP, R, FLOWS_CHIP, CHIP_WINDOW_WORDS>;

const SOCKET: SocketId = SocketId(0);
const BUFFER: usize = capacity_for(1_420) + 64;
const COORDINATOR: [u8; 32] = [9; 32];
/// On a word, as drivers' buffers are: where the compiler put an array of bytes would be
/// chance, and is 5,000 instructions of one packet's copies.
#[repr(align(4))]
struct Aligned([u8; BUFFER]);

/// How often a packet is sealed: the first ones fill caches that the counter does not
/// know of, and cost what the last one costs.
const SEALED: usize = 4;

/// Every draw is another, and the same in every run.
struct Counter(u64);

impl Entropy for Counter {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

/// Instructions so far.
fn counter() -> u64 {
    loop {
        let (high, low) = (riscv::register::minstreth::read(), riscv::register::minstret::read());
        if riscv::register::minstreth::read() == high {
            return (high as u64) << 32 | low as u64;
        }
    }
}

/// What it costs, and what comes of it.
fn cost<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let began = counter();
    let result = core::hint::black_box(work());
    (counter() - began, result)
}

const fn secret(who: u8) -> [u8; 32] {
    [0x10 + who; 32]
}

fn place(who: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, who], 51_871))
}

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap_or_default()
}

fn identity(who: u8) -> Identity {
    Identity {
        identity_key: Secret([0x40 + who; 32]),
        wireguard_key: Secret(secret(who)),
        coordinator: StaticSecret::from_bytes(COORDINATOR).public(),
        next_coordinator: None,
        second_wireguard: None,
        membership: Membership::Member(Member {
            device: DeviceId(who.into()),
            network: NetworkId(1),
            organisation: OrganisationId(1),
            name: name("chip"),
            network_name: name("home"),
            inbox: Inbox([who; 16]),
            password: ShortSecret([6; 16]),
            password_expiry: u32::MAX,
            psk: Secret([7; 32]),
            master: 0,
        }),
    }
}

fn config() -> AgentConfig {
    AgentConfig {
        boot_count: 1,
        on_demand: true,
        page_window: 1,
        staged_per_peer: 2,
        fingerprint: [3; 32],
        name: name("chip"),
        abilities: Abilities {
            families: family::IPV4,
            carriers: 1,
            mtu: 1_420,
            backend: Backend::Chip,
            peer_slots: 0,
            peer_routes: 4,
            rules: 32,
            agent: String::new(),
            platform: String::new(),
            endpoints: Vec::new(),
        },
        sockets: Sockets { v4: Some(SOCKET), v6: None },
        extra_sockets: 0,
        tunnel: TunnelConfig::new(),
        stamp_floor: Some(1),
    }
}

/// A member that knows seven others, the last of them at its place.
fn agent(who: u8, other: u8, now: Instant) -> Eight {
    let made = Eight::new(config(), identity(who), Counter(who.into()), now);
    let Ok(mut agent) = made else { weft_qemu_virt::exit(2) };
    let mut bytes = [0; 2_048];
    let mut items = ItemWriter::new(&mut bytes);
    let rule = Rule { number: 0, protocol: 0, first_port: 0, last_port: u16::MAX };
    let written = (|| {
        items.put(&CacheHead {
            epoch: Epoch(1),
            revision: Revision(1),
            lease_used_s: 0,
            done: DoneCommands::default(),
        })?;
        items.put(&Settings {
            overlay: Overlay { ipv4: Ipv4Addr::new(100, 93, 0, 0), ipv4_len: 16, ipv6: [0xFD; 6] },
            host: who.into(),
            name: name("chip"),
            mtu: 1_420,
            next_pin: None,
        })?;
        items.put(&Rules { rules: Vec::from_iter([rule]) })?;
        items.put(&Lease { lease_s: 86_400 })?;
        for peer in (10..16).chain([other]) {
            items.put(&PeerUpsert {
                device: DeviceId(peer.into()),
                name: name("peer"),
                key: StaticSecret::from_bytes(secret(peer)).public(),
                psk: Secret([8; 32]),
                second: None,
                host: peer.into(),
                mtu: 1_420,
                flags: 0,
                rules_in: 1,
                rules_out: 1,
                routes: Vec::new(),
                endpoint: None,
                attestation: None,
            })?;
        }
        items.put(&CacheEndpoint { device: DeviceId(other.into()), address: place(other) })
    })();
    let len = items.len();
    if written.is_err() || agent.restore(&bytes[..len], now).is_err() {
        weft_qemu_virt::exit(3);
    }
    let own = Candidate { kind: CandidateKind::Host, address: place(who) };
    agent.set_local_addresses(&[own], now);
    drain(&mut agent, now);
    agent
}

/// Takes events as a shell does whose line to the coordinator cannot be opened.
fn drain(agent: &mut Eight, now: Instant) {
    if agent.poll_line().is_some() {
        agent.handle_disconnected(now);
    }
    while let Some(event) = agent.poll_event() {
        if let AgentEvent::Persist(what) = event {
            agent.handle_persisted(what, now);
        }
    }
}

/// A UDP packet of `len` bytes.
fn packet(from: u8, to: u8, len: usize, out: &mut [u8]) {
    let out = &mut out[HEADROOM..HEADROOM + len];
    out.fill(0);
    let total = (len as u16).to_be_bytes();
    out[..4].copy_from_slice(&[0x45, 0, total[0], total[1]]);
    (out[8], out[9]) = (64, 17);
    out[12..16].copy_from_slice(&[100, 93, 0, from]);
    out[16..20].copy_from_slice(&[100, 93, 0, to]);
    let sum = out[..20]
        .chunks(2)
        .fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    let payload = ((len - 20) as u16).to_be_bytes();
    out[20..26].copy_from_slice(&[0x13, 0x88, 0, 7, payload[0], payload[1]]);
}

/// Hands everything that `from` wants to send on to `to`; what `from` paid for that.
fn carry(from: &mut Eight, who: u8, to: &mut Eight, now: Instant) -> (u64, u64) {
    let (mut paid, mut theirs) = (0, 0);
    let mut buffer = [0; BUFFER];
    loop {
        let (more, transmit) = cost(|| {
            drain(from, now);
            from.poll_transmit(&mut buffer)
        });
        paid += more;
        let Some(Transmit { via: Via::Udp { .. }, len, .. }) = transmit else {
            return (paid, theirs);
        };
        let source = Source { socket: SOCKET, address: place(who) };
        let (more, ()) = cost(|| {
            let received = to.handle_datagram(source, &mut buffer[..len], now);
            core::hint::black_box(matches!(received, Ok(Input::Packet(_))));
            drain(to, now);
        });
        theirs += more;
    }
}

/// From the first packet to the session: everything that the initiator does.
fn handshake(a: &mut Eight, b: &mut Eight, now: Instant) -> u64 {
    let mut buffer = [0; BUFFER];
    packet(1, 2, 64, &mut buffer);
    let (mut paid, staged) = cost(|| {
        let Some(mut packet) = PacketBuf::new(&mut buffer, 64) else { weft_qemu_virt::exit(4) };
        matches!(a.handle_packet(&mut packet, now), Ok(Output::Staged))
    });
    if !staged {
        weft_qemu_virt::exit(5);
    }
    let mut now = now;
    // The stamp is stored, initiation, response, the packet that waited.
    for _ in 0..2 {
        now += Duration::from_millis(50);
        let (due, ()) = cost(|| a.handle_timeout(now));
        let (ours, _) = carry(a, 1, b, now);
        b.handle_timeout(now);
        let (_, ours_again) = carry(b, 2, a, now);
        paid += due + ours + ours_again;
    }
    paid
}

/// A packet of 1,420 bytes, from the stack's buffer to the datagram.
fn seal(a: &mut Eight, now: Instant) -> u64 {
    let mut buffer = Aligned([0; BUFFER]);
    let mut last = 0;
    for _ in 0..SEALED {
        packet(1, 2, 1_420, &mut buffer.0);
        let (paid, sealed) = cost(|| {
            let packet = PacketBuf::new(&mut buffer.0, 1_420);
            let Some(mut packet) = packet else { weft_qemu_virt::exit(6) };
            matches!(a.handle_packet(&mut packet, now), Ok(Output::Transmit(_)))
        });
        if !sealed {
            weft_qemu_virt::exit(7);
        }
        last = paid;
    }
    last
}

/// HELLO and WELCOME, as a device makes and reads them.
fn control_handshake() -> u64 {
    let key = CoordinatorKey::new(StaticSecret::from_bytes(COORDINATOR));
    let pin: PublicKey = StaticSecret::from_bytes(COORDINATOR).public();
    let Ok(device) = Initiator::new(StaticSecret::from_bytes([5; 32]), &pin) else {
        weft_qemu_virt::exit(8)
    };
    let head = HelloHead {
        selector: PskSelector { kind: PskKind::Device, master: 0 },
        reference: [0; 8],
        inbox: Inbox([1; 16]),
        token: None,
    };
    let (psk, payload) = (Secret([7; 32]), [0xAA; 64]);
    let (mut entropy, mut theirs) = (Counter(1), Counter(2));
    let (mut frame, mut text) = ([0; MAX_FRAME_CHIP], [0; MAX_FRAME_CHIP]);
    let (hello, made) = cost(|| device.hello(&head, &psk, &payload, &mut entropy, &mut frame));
    let Ok((len, mut pending)) = made else { weft_qemu_virt::exit(9) };
    let mut answer = [0; MAX_FRAME_CHIP];
    let welcomed = (|| {
        let hello = Hello::parse(&frame[..len]).ok()?;
        let (_, verified) =
            key.open_hello(&hello).ok()?.verify(&key, &hello, &psk, &mut text).ok()?;
        verified.welcome(1, &payload, &mut theirs, &mut answer).ok()
    })();
    let Some((len, _)) = welcomed else { weft_qemu_virt::exit(10) };
    let (welcome, read) = cost(|| pending.welcome(&device, &answer[..len], &mut text).is_ok());
    if !read {
        weft_qemu_virt::exit(11);
    }
    hello + welcome
}

#[riscv_rt::entry]
fn main() -> ! {
    let now = Instant::from_secs(50);
    let (mut a, mut b) = (agent(1, 2, now), agent(2, 1, now));
    say!("handshake_instructions={}", handshake(&mut a, &mut b, now));
    let now = now + Duration::from_secs(1);
    say!("seal_1420_instructions={}", seal(&mut a, now));
    say!("control_handshake_instructions={}", control_handshake());
    let tunnel = size_of::<Tunnel<16, HANDSHAKES_CHIP>>() - size_of::<Tunnel<8, HANDSHAKES_CHIP>>()
        + size_of::<Data<16, 32>>()
        - size_of::<Data<8, 16>>();
    say!("tunnel_ram_per_peer={}", tunnel / 8);
    say!("ram_per_peer={}", (size_of::<Chip<16, 32>>() - size_of::<Eight>()) / 8);
    say!("agent_struct={}", size_of::<Eight>());
    weft_qemu_virt::exit(0)
}
