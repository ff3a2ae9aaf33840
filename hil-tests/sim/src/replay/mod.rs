//! Runs a recorded agent again: same inputs, same times, same handles, hence
//! the same transitions, with keys that never existed before.
//!
//! The agent is the real one. What its trace marks as authentic is made again,
//! authentically, by ghosts: a coordinator and peers with substitute keys, who
//! shake hands with the replayed agent and seal what the recorded ones sealed
//! (headers, and zeroes where the payload was). What was not authentic is sent
//! as its header and zeroes, and is refused again.
//!
//! Receiver indices, request ids, call ids and jitter come out of the trace, so
//! headers match to the byte. Cookies are not made again: a run under load of
//! strangers' handshakes differs in mac2 and in nothing that is compared.

mod control;
mod peers;
mod relays;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use weft_agent_core::agent::trace::{
    DatagramVerdict, Entries, Entry, FrameVerdict, Output, Start, TRACE_FORMAT,
};
use weft_agent_core::agent::{Agent, AgentConfig, Persist};
use weft_agent_core::buffer::{PacketBuf, capacity_for};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::control::{Held, Identity};
use weft_agent_core::entropy::Entropy;
use weft_agent_core::event::{DropReason, PeerSlot, SocketId, Sockets, Source, StreamId};
use weft_agent_core::meter::Budget;
use weft_agent_core::path::Pauses;
use weft_agent_core::relay::Rung;
use weft_agent_core::stun::is_stun;
use weft_agent_core::time::{Duration, Instant};
use weft_wire::id::Name;
use weft_wire::topic::Topic;

use crate::mesh::{Recording, abilities};
use crate::rng::Rng;
use control::GhostCoordinator;
use peers::GhostPeers;
use relays::GhostRelays;

/// Why a trace cannot be replayed, or was not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// Not a trace, cut, or of another format.
    Format,
    /// The agent did something else than the trace says; where (number of the
    /// entry) and what.
    Diverged(usize, String),
}

/// The draws of a recorded run, given out again; keys are drawn anew.
#[derive(Clone)]
struct Draws(Rc<RefCell<DrawsState>>);

struct DrawsState {
    recorded: VecDeque<Vec<u8>>,
    rng: Rng,
    strangers: u32,
}

impl Draws {
    fn new(recorded: VecDeque<Vec<u8>>, seed: u64) -> Self {
        Self(Rc::new(RefCell::new(DrawsState { recorded, rng: Rng::new(seed), strangers: 0 })))
    }

    fn strangers(&self) -> u32 {
        self.0.borrow().strangers
    }
}

impl Entropy for Draws {
    fn fill(&mut self, out: &mut [u8]) {
        let mut state = self.0.borrow_mut();
        state.rng.fill(out);
        if out.len() <= 8 {
            match state.recorded.pop_front() {
                Some(drawn) if drawn.len() == out.len() => out.copy_from_slice(&drawn),
                _ => state.strangers += 1,
            }
        }
    }
}

/// What the agent decided, in order: microseconds of the caller's clock and the
/// transition.
///
/// # Errors
///
/// [`ReplayError::Format`].
pub fn transitions(trace: &[u8]) -> Result<Vec<(u64, Entry<'_>)>, ReplayError> {
    let mut at = 0;
    let mut all = vec![];
    for decoded in Entries::new(trace) {
        let (passed, entry) = decoded.ok_or(ReplayError::Format)?;
        at += passed;
        if entry.is_transition() {
            all.push((at, entry));
        }
    }
    Ok(all)
}

/// Replays a trace and returns the trace of the replay.
///
/// The sizes are those of the agent that was recorded.
///
/// # Errors
///
/// [`ReplayError`].
pub fn replay<
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
>(
    trace: &[u8],
    seed: u64,
) -> Result<Recording, ReplayError> {
    let entries: Vec<_> = Entries::new(trace).collect::<Option<_>>().ok_or(ReplayError::Format)?;
    let Some((_, Entry::Start(start))) = entries.first() else {
        return Err(ReplayError::Format);
    };
    if start.format != TRACE_FORMAT {
        return Err(ReplayError::Format);
    }
    let mut replay = Replay::<PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>::new(
        start, &entries, seed,
    );
    for (number, (passed, entry)) in entries.iter().enumerate().skip(1) {
        replay.now += Duration::from_micros(*passed);
        replay.step(entry).map_err(|what| ReplayError::Diverged(number, what))?;
        if replay.draws.strangers() > 0 {
            let what = format!("another draw than the trace has, at {entry:?}");
            return Err(ReplayError::Diverged(number, what));
        }
    }
    Ok(replay.agent.trace().clone())
}

struct Replay<
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> {
    agent: Box<
        Agent<Draws, Recording, PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>,
    >,
    draws: Draws,
    coordinator: GhostCoordinator,
    peers: GhostPeers,
    relays: GhostRelays,
    now: Instant,
}

impl<
    const PEERS: usize,
    const HANDSHAKES: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
    const STREAM: usize,
> Replay<PEERS, HANDSHAKES, ROUTES, FLOWS, WORDS, STAGED, FRAME, STREAM>
{
    fn new(start: &Start, entries: &[(u64, Entry<'_>)], seed: u64) -> Self {
        let recorded = entries.iter().filter_map(|(_, entry)| match entry {
            Entry::Random(bytes) => Some(bytes.to_vec()),
            _ => None,
        });
        let draws = Draws::new(recorded.collect(), seed);
        let mut rng = Rng::new(seed ^ 0x6057);
        let peers = GhostPeers::new(entries, &mut rng);
        let coordinator = GhostCoordinator::new(start, entries, &mut rng);
        let identity: Identity = coordinator.identity(start, peers.own_secret(), &mut rng);
        let config = AgentConfig {
            boot_count: start.boot_count,
            on_demand: start.on_demand,
            page_window: start.page_window,
            staged_per_peer: usize::from(start.staged_per_peer),
            fingerprint: [0; 32],
            name: Name::new(),
            abilities: abilities(),
            sockets: Sockets {
                v4: start.sockets.0.map(SocketId),
                v6: start.sockets.1.map(SocketId),
            },
            extra_sockets: start.extra_sockets,
            tunnel: TunnelConfig::new()
                .with_rekey_after(Duration::from_secs(u64::from(start.rekey_after_s)))
                .with_handshake_interval(Duration::from_micros(u64::from(
                    start.handshake_interval_us,
                ))),
            stamp_floor: start.stamp_floor,
        };
        let now = Instant::from_micros(start.now_us);
        let agent = Agent::recorded(config, identity, draws.clone(), Recording::default(), now);
        let agent = Box::new(agent.expect("the ghost's key is a strong key"));
        Self { agent, draws, coordinator, peers, relays: GhostRelays::default(), now }
    }

    fn step(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        let now = self.now;
        match entry {
            // Drawn when the agent asks; and what it decides is compared later.
            Entry::Start(_) | Entry::Random(_) => {}
            entry if entry.is_transition() => {}
            Entry::Restored(items) => {
                let items = self.peers.translate(items, &self.coordinator);
                self.agent.restore(&items, now).map_err(|error| format!("{error:?}"))?;
            }
            Entry::LineUp => self.agent.handle_connected(now),
            Entry::LineDown => self.agent.handle_disconnected(now),
            Entry::Fetch => self.agent.handle_fetch(now),
            Entry::Frame(head, len, verdict) => self.frame(head, *len, verdict)?,
            Entry::Datagram(socket, from, head, len, verdict) => {
                let source = Source { socket: SocketId(*socket), address: *from };
                self.datagram(source, head, *len, verdict);
            }
            Entry::Probe(socket, from, probe, slot) => {
                let source = Source { socket: SocketId(*socket), address: *from };
                let key =
                    slot.and_then(|slot| self.agent.peer(PeerSlot(slot)).map(|peer| peer.key));
                let mut probe = self.peers.probe(probe, key);
                // What becomes of it is in the trace.
                let _ = self.agent.handle_datagram(source, &mut probe, now);
            }
            Entry::PreferRelay(number) => {
                let rung = Rung::from_number(*number).ok_or("no rung")?;
                self.agent.prefer_relay(rung, now);
            }
            Entry::Pauses(held_s, most_s, limited_s) => {
                let (held_s, most_s, limited_s) = (*held_s, *most_s, *limited_s);
                self.agent.prefer_pauses(Pauses { held_s, most_s, limited_s }, now);
            }
            Entry::Warm(device, is_wanted) => self.agent.keep_warm(*device, *is_wanted, now),
            Entry::Stream(stream, true) => {
                self.agent.handle_stream_connected(StreamId(*stream), now);
            }
            Entry::Stream(stream, false) => {
                self.agent.handle_stream_closed(StreamId(*stream), now);
            }
            Entry::Framed(stream, message) => self.framed(StreamId(*stream), message),
            Entry::Packet(head, len) => {
                let mut bytes = vec![0; capacity_for(usize::from(*len))];
                let packet = padded(head, *len);
                let mut buffer = PacketBuf::copy_from(&mut bytes, &packet).ok_or("no room")?;
                // What becomes of it is in the trace.
                let _ = self.agent.handle_packet(&mut buffer, now);
            }
            Entry::Local(candidates) => self.agent.set_local_addresses(candidates, now),
            Entry::Sockets(v4, v6) => {
                let (v4, v6) = (v4.map(SocketId), v6.map(SocketId));
                self.agent.set_sockets(Sockets { v4, v6 }, now);
            }
            Entry::StoredStamp(floor) => {
                self.agent.handle_persisted(Persist::Stamp(*floor), now);
            }
            Entry::StoredCache(epoch, revision, number) => {
                let held = Held { epoch: *epoch, revision: *revision };
                self.agent.handle_persisted(Persist::Cache(held, *number), now);
            }
            Entry::Leave => self.agent.leave(now),
            Entry::NetworkReport(some) => {
                self.agent.handle_network_report(some.then(<_>::default), now);
            }
            Entry::LineTraffic(bytes) => self.agent.handle_line_traffic(*bytes, now),
            Entry::Budget(is_metered, bytes) => {
                self.agent.set_budget(Budget { is_metered: *is_metered, bytes: *bytes }, now);
            }
            Entry::Timeout => self.agent.handle_timeout(now),
            Entry::Polled(output) => self.poll(*output)?,
            _ => return Err(format!("an entry of a newer agent: {entry:?}")),
        }
        Ok(())
    }

    fn frame(&mut self, head: &[u8], len: u16, verdict: &FrameVerdict<'_>) -> Result<(), String> {
        let frame = match verdict {
            FrameVerdict::Refused => self.coordinator.again(head, len),
            FrameVerdict::Taken => self.coordinator.hint(head),
            FrameVerdict::Opened(items) => self.coordinator.frame(head, items, &self.peers)?,
        };
        let taken = self.agent.handle_frame(&frame, self.now).is_ok();
        if taken == (*verdict == FrameVerdict::Refused) {
            return Err(format!("a frame was taken: {taken}; {verdict:?}"));
        }
        Ok(())
    }

    fn datagram(&mut self, source: Source, head: &[u8], len: u16, verdict: &DatagramVerdict<'_>) {
        let agent = &self.agent;
        let key_of = |slot| agent.peer(slot).map(|peer| peer.key);
        let mut datagram = match verdict {
            DatagramVerdict::Taken if is_stun(head) => {
                let relays = agent.settings().relays();
                self.relays.message(source.address, head, relays, agent.relay_grant())
            }
            DatagramVerdict::Taken => self.peers.handshake(head, len, key_of),
            DatagramVerdict::Refused(_) | DatagramVerdict::Opened(..) => {
                self.peers.transport(head, len)
            }
        };
        // Altered on its way, while its twin was not.
        if *verdict == DatagramVerdict::Refused(DropReason::Unauthentic as u8)
            && let Some(last) = datagram.last_mut()
        {
            *last ^= 1;
        }
        // Refused or taken: what follows from it is in the trace.
        let _ = self.agent.handle_datagram(source, &mut datagram, self.now);
    }

    /// A relay's message in a connection; which relay's does not matter, where
    /// each has the same user and another MAC.
    fn framed(&mut self, stream: StreamId, message: &[u8]) {
        let agent = &self.agent;
        let relay = agent.rung().map(|rung| rung.relay);
        let relays = agent.settings().relays();
        let from = relays.iter().find(|one| relay.is_none_or(|relay| one.number == relay));
        let from = from.and_then(|relay| Some(SocketAddr::from((relay.v4?, relay.tcp))));
        let from = from.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
        let message = self.relays.message(from, message, relays, agent.relay_grant());
        let taken = self.agent.handle_stream_data(stream, &message, self.now);
        debug_assert_eq!(taken, message.len());
        let mut buffer = [0; 2_048];
        while self.agent.poll_received(&mut buffer).is_some() {}
    }

    /// Takes an output as the recorded shell did.
    fn poll(&mut self, output: Output) -> Result<(), String> {
        let mut out = vec![0; capacity_for(1_420).max(FRAME)];
        let some = match output {
            Output::Line => self.agent.poll_line().is_some(),
            Output::Event => self.agent.poll_event().is_some(),
            Output::Socket => self.agent.poll_socket().is_some(),
            // What is zeroed may be no packet that is answered.
            Output::Refusal => {
                let _answer = self.agent.poll_refusal(&mut out);
                true
            }
            Output::Stream => self.agent.poll_stream().is_some(),
            Output::Control => match self.agent.poll_control(&mut out) {
                Some(transmit) => {
                    if let Topic::Hello(_) = transmit.topic {
                        self.coordinator.hello(&out[..transmit.len]);
                    }
                    true
                }
                None => false,
            },
            Output::Transmit => match self.agent.poll_transmit(&mut out) {
                Some(transmit) => {
                    self.peers.overhear(&out[..transmit.len]);
                    true
                }
                None => false,
            },
        };
        some.then_some(()).ok_or_else(|| format!("no output of {output:?}"))
    }
}

/// A header, and zeroes for what was behind it.
fn padded(head: &[u8], len: u16) -> Vec<u8> {
    let mut bytes = head.to_vec();
    bytes.resize(usize::from(len), 0);
    bytes
}

/// Which peers' handshakes made sessions: (ours, theirs) → slot.
type Sessions = HashMap<(u32, u32), u16>;

/// Counters that were authentic, of one session.
type Counters = BTreeSet<u64>;
