//! The whole agent: what a shell drives. It decides nothing; it hands what one
//! part says to the part that it concerns.
//!
//! # Driving it
//!
//! ```text
//! MQTT   poll_line ► connect / disconnect     handle_connected, handle_disconnected
//!        poll_control ► publish               handle_frame
//! UDP    poll_transmit ► send                 handle_datagram ► packet for the TUN
//!        poll_socket ► open / close
//! TCP    poll_stream ► open / close           handle_stream_connected, …_closed, …_data
//!        poll_transmit ► send                 poll_received ► packet for the TUN
//! TUN    poll_refusal ► ICMP error            handle_packet ► datagram to send
//! time   poll_timeout ► sleep until           handle_timeout
//! disk   poll_event ► Persist ► write         handle_persisted
//! ```
//!
//! One input, then drain `poll_event`, `poll_line`, `poll_control` and
//! `poll_transmit` until all say `None`, then the next input. When several
//! datagrams wait, give all of them before [`Agent::handle_timeout`], which
//! answers handshakes: data goes first.
//!
//! A handshake needs a stamp whose floor is in storage: write
//! [`Persist::Stamp`] and confirm it at once, or nothing is initiated.

mod begin;
mod cache;
mod inputs;
mod metered;
mod names;
mod outbox;
mod outputs;
mod paths;
mod record;
mod redact;
mod relayed;
mod status;
pub mod trace;
mod wiring;

pub use begin::{AgentConfig, Beginning};
pub use cache::{CacheEndpoint, CacheLine, CacheUsage};
pub use outbox::{AgentEvent, Enrolled, InterfaceConfig, Persist};
pub use status::{CoordinatorStatus, PeerStatus};

use core::mem::MaybeUninit;
use core::net::SocketAddr;

use weft_noise::key::{StaticSecret, WeakKey};
use weft_noise::probe::hint;
use weft_noise::wg::CHIP_WINDOW_WORDS;

use crate::config::implementation::{
    FLOWS_CHIP, FLOWS_LINUX, HANDSHAKES_CHIP, MTU_MAX, STAGED_CHIP,
};
use crate::control::{Control, Identity};
use crate::datapath::Datapath;
use crate::entropy::Entropy;
use crate::event::{Counters, DropCounters, PeerSlot, SocketId, Sockets, Via};
use crate::meter::Meter;
use crate::path::{Paths, ProbeMac};
use crate::peers::{Peers, Staging};
use crate::relay::RelayClient;
use crate::stun::StunClient;
use crate::time::Instant;
use crate::tunnel::{Tai64nClock, Tunnel};

use names::Names;
use outbox::Outbox;
use outputs::Fanout;
use record::Recorder;
use trace::{Entry, NoTrace, Trace};

/// The longest frame in a connection to a relay, in bytes: a sealed packet with
/// what a Data indication puts around it.
const RELAYED_FRAME: usize = 1_536;
/// The longest packet that is staged, in bytes.
const STAGED_LEN: usize = MTU_MAX as usize;

/// A Linux gateway's agent. Put it into a `Box`.
pub type GatewayAgent<E, T = NoTrace> = Agent<
    E,
    T,
    256,
    256,
    512,
    FLOWS_LINUX,
    64,
    64,
    { weft_wire::frame::MAX_FRAME },
    { RELAYED_FRAME },
>;

/// A microcontroller's agent.
pub type ChipAgent<E, T = NoTrace> = ChipAgentOf<E, T, 8, 16>;

/// The same for another number of peers, and of routes.
pub type ChipAgentOf<E, T, const PEERS: usize, const ROUTES: usize> = Agent<
    E,
    T,
    PEERS,
    HANDSHAKES_CHIP,
    ROUTES,
    FLOWS_CHIP,
    CHIP_WINDOW_WORDS,
    STAGED_CHIP,
    { weft_wire::frame::MAX_FRAME_CHIP },
    0,
>;

/// A datagram of `len` bytes in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Which way.
    pub via: Via,
    /// Its length.
    pub len: usize,
    /// What goes before it: the channel at the relay that passes it on.
    pub channel: Option<[u8; 4]>,
}

impl Transmit {
    const fn datagram(socket: SocketId, to: SocketAddr, len: usize) -> Self {
        Self { via: Via::Udp { socket, to }, len, channel: None }
    }

    /// How many zero bytes go behind it (RFC 8656 section 12.5): in a connection,
    /// up to the next multiple of four.
    pub const fn padding(&self) -> usize {
        match (self.via, self.channel) {
            (Via::Stream(_), Some(_)) => self.len.wrapping_neg() % 4,
            _ => 0,
        }
    }
}

/// What a datagram brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// An IP packet for the mesh interface.
    Packet(&'a [u8]),
    /// Nothing for the mesh interface.
    Nothing,
}

/// What became of a packet from the mesh interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Sealed: the first `len` bytes of the buffer are to be sent.
    Transmit(Transmit),
    /// Kept until there is a session.
    Staged,
    /// Kept as well, and the buffer holds an older packet that had to make room:
    /// its sender is told that its destination is
    /// [unreachable](crate::ip::icmp::Problem::Unreachable).
    Displaced,
}

/// MACs of probes, under the keys that the tunnel knows.
struct TunnelMac<'a, const PEERS: usize, const HANDSHAKES: usize>(&'a Tunnel<PEERS, HANDSHAKES>);

impl<const PEERS: usize, const HANDSHAKES: usize> ProbeMac for TunnelMac<'_, PEERS, HANDSHAKES> {
    fn mac(&mut self, slot: PeerSlot, bytes: &[u8]) -> Option<[u8; 16]> {
        Some(self.0.probe_key(slot)?.mac(bytes))
    }

    fn verify(&mut self, slot: PeerSlot, bytes: &[u8], mac: &[u8; 16]) -> bool {
        self.0.probe_key(slot).is_some_and(|key| key.verify(bytes, mac))
    }
}

/// Control session, tunnel, data path, paths and peers of one device.
///
/// - `PEERS` peers, `HANDSHAKES` initiations under way in each direction, `ROUTES` routes per
///   address family (each peer takes one and what lies behind it more), `FLOWS` flow-table
///   entries, replay windows of `WORDS` words, `STAGED` packets that wait for a session,
///   `FRAME` bytes of the longest control frame, `STREAM` bytes of the longest frame in a
///   connection to a relay (0: none is opened, and relays' names are not kept).
///
/// [`GatewayAgent`] and [`ChipAgent`] are what programs use.
pub struct Agent<
    E,
    T,
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> {
    /// Randomness, and the trace of this run.
    recorder: Recorder<E, T>,
    control: Control<FRAME>,
    tunnel: Tunnel<PEERS, HANDSHAKES>,
    datapath: Datapath<PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS>,
    paths: Paths<PEERS>,
    stun: StunClient,
    relay: RelayClient<PEERS, STREAM>,
    peers: Peers<PEERS, ROUTES>,
    staging: Staging<STAGED, STAGED_LEN>,
    outbox: Outbox,
    fanout: Fanout,
    /// Of relays, on agents that open connections to them.
    names: Names<STREAM>,
    meter: Meter,
    /// Peers that are to get a keepalive.
    keepalives: [bool; PEERS],
    /// Peers that were greeted because they went on in a session from before.
    greeted: [bool; PEERS],
    /// Counted here: what belongs to no part.
    drops: DropCounters,
    /// Traffic of peers that are gone.
    retired: Counters,
    handshakes: u32,
    handshake_failures: u32,
    /// Peers of the map that found no place at once, or whose key cannot be one.
    refused_peers: u32,
    /// A mark of this device's network, as the coordinator was told of it.
    told_network: u32,
    started_at: Instant,
    /// Of the last input.
    now: Instant,
}

impl<
    E: Entropy,
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> Agent<E, NoTrace, PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>
{
    /// An agent that wants to connect. Give back what storage held by
    /// [`Agent::restore`] before the first input.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when the coordinator's pin is a key of low order.
    pub fn new(
        config: AgentConfig,
        identity: Identity,
        entropy: E,
        now: Instant,
    ) -> Result<Self, WeakKey> {
        Self::recorded(config, identity, entropy, NoTrace, now)
    }
}

impl<
    E: Entropy,
    T: Trace,
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> Agent<E, T, PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>
{
    /// An agent whose run is recorded.
    ///
    /// # Errors
    ///
    /// [`WeakKey`] when the coordinator's pin is a key of low order.
    pub fn recorded(
        config: AgentConfig,
        identity: Identity,
        entropy: E,
        trace: T,
        now: Instant,
    ) -> Result<Self, WeakKey> {
        let beginning = Beginning::new(config, identity)?;
        let sockets = beginning.sockets();
        let mut agent = Self::unbegun(beginning, entropy, trace, now);
        agent.begin(sockets);
        Ok(agent)
    }

    /// Makes an agent where it is to lie: it is large, and a chip's stack is small.
    pub fn place(
        memory: &mut MaybeUninit<Self>,
        beginning: Beginning,
        entropy: E,
        trace: T,
        now: Instant,
    ) -> &mut Self {
        let sockets = beginning.sockets();
        let agent = Self::lay(memory, beginning, entropy, trace, now);
        agent.begin(sockets);
        agent
    }

    /// In a function of its own, whose frame with the one copy is gone when the agent
    /// begins.
    #[inline(never)]
    fn lay(
        memory: &mut MaybeUninit<Self>,
        beginning: Beginning,
        entropy: E,
        trace: T,
        now: Instant,
    ) -> &mut Self {
        memory.write(Self::unbegun(beginning, entropy, trace, now))
    }

    /// One expression, as each part's `new` is, and none of them is inlined: so the compiler
    /// makes every part in its place, where a variable would be one copy more.
    #[inline(never)]
    fn unbegun(beginning: Beginning, entropy: E, trace: T, now: Instant) -> Self {
        let Beginning { config, identity, channel } = beginning;
        let secret = StaticSecret::from_bytes(identity.wireguard_key.0);
        let mut recorder = Recorder::new(entropy, trace, &secret, now);
        let start = begin::start(&config, &identity, recorder.redactor(), now);
        recorder.put(now, &Entry::Start(start));
        let mut seed = [0; 8];
        recorder.fill(&mut seed);
        Self {
            control: Control::begun(config.control(PEERS), identity, channel, now),
            recorder,
            tunnel: Tunnel::new(config.tunnel, secret, Tai64nClock::new(config.stamp_floor)),
            datapath: Datapath::new(u64::from_le_bytes(seed)),
            paths: Paths::new(config.sockets),
            stun: StunClient::new(),
            relay: RelayClient::new(),
            peers: Peers::new(config.on_demand),
            staging: Staging::new(config.staged_per_peer),
            outbox: Outbox::default(),
            fanout: Fanout::new(),
            names: Names::new(),
            meter: Meter::new(),
            keepalives: [false; PEERS],
            greeted: [false; PEERS],
            drops: DropCounters::new(),
            retired: Counters::default(),
            handshakes: 0,
            handshake_failures: 0,
            refused_peers: 0,
            told_network: 0,
            started_at: now,
            now,
        }
    }

    /// What the parts are told once they are there.
    fn begin(&mut self, (sockets, extra_sockets): (Sockets, u8)) {
        let identity = self.control.identity();
        let member = identity.member().map(|member| member.device);
        let (active, second) = wiring::own_keys(identity);
        if second.is_some() {
            self.tunnel.set_own_keys(active, second, self.now);
        }
        self.relay.set_sockets(sockets, self.now);
        self.paths.set_extra_sockets(extra_sockets);
        if let Some(device) = member {
            self.paths.set_own(device);
        }
        self.paths.set_hint(hint(self.tunnel.public_key()));
        // Draws come in this order in every trace.
        self.paths.set_online(false, &mut self.recorder, self.now);
        self.control.draw(&mut self.recorder);
        self.pump();
    }
}
