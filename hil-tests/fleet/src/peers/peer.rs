//! One member: an agent, its socket and its line to the coordinator.
//!
//! Two futures share it, one for the socket and the agent's deadlines, one for the line.
//! Whoever has an input gives it to the agent and then does all that the agent wants
//! done, at once ([`Peer::drain`]); only frames for the coordinator wait, in their order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::net::UdpSocket;
use tokio::sync::{Notify, Semaphore};
use weft_agent_core::agent::{AgentConfig, AgentEvent, ChipAgent, Input, Output, Transmit};
use weft_agent_core::buffer::{PacketBuf, capacity_for};
use weft_agent_core::config::TunnelConfig;
use weft_agent_core::config::implementation::{MTU_MAX, STAGED_CHIP};
use weft_agent_core::control::{Credentials, Identity, LineRequest};
use weft_agent_core::event::{SocketId, Sockets, Source, Via};
use weft_agent_core::time::Instant;
use weft_wire::frame::MAX_FRAME_CHIP;
use weft_wire::id::Name;
use weft_wire::item::{Abilities, Backend, family};
use weft_wire::join::JoinString;
use weft_wire::signal::{Candidate, CandidateKind};
use weft_wire::topic::Topic;
use weft_wire::verdict::Refusal;

use super::echo;
use crate::clock;
use crate::entropy::Kernel;
use crate::failure::{During, Failure, Result};
use crate::line::{self, Storage};

const SOCKET: SocketId = SocketId(0);
/// Seconds between MQTT pings, as of real devices.
const KEEPALIVE_S: u16 = 300;
/// Room in front of a datagram for the channel of a relay.
const CHANNEL_LEN: usize = 4;
const BUFFER_LEN: usize = capacity_for(MTU_MAX as usize);

/// See the module.
pub(super) struct Peer {
    number: usize,
    agent: RefCell<Box<ChipAgent<Kernel>>>,
    socket: UdpSocket,
    /// For the line, in their order.
    frames: RefCell<VecDeque<(Topic, Vec<u8>)>>,
    requests: RefCell<VecDeque<LineRequest>>,
    /// The agent has something for the line.
    for_line: Notify,
    /// An input came beside the socket: deadlines may be others.
    touched: Notify,
    /// Something that is waited for may be so.
    changed: Notify,
    is_online: Cell<bool>,
    refused: Cell<Option<u16>>,
    /// The number of the request that waits for an answer, and from whom.
    asked: Cell<(u32, Option<Ipv4Addr>)>,
}

impl Peer {
    /// One that nobody knows yet, with a socket of its own.
    pub(super) async fn new(number: usize, join: &JoinString, at: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(at).await.during(&format!("open a socket at {at}"))?;
        let own = socket.local_addr().during("name a socket")?;
        let identity = Identity::generate(join, &mut Kernel);
        let now = clock::core_now();
        let agent = ChipAgent::new(config(number, &identity), identity, Kernel, now);
        let weak = |_| Failure::new("fleet.join", "the coordinator's key is a weak one");
        let mut agent = Box::new(agent.map_err(weak)?);
        agent.set_local_addresses(&[Candidate { kind: CandidateKind::Host, address: own }], now);
        Ok(Self {
            number,
            agent: RefCell::new(agent),
            socket,
            frames: RefCell::default(),
            requests: RefCell::default(),
            for_line: Notify::new(),
            touched: Notify::new(),
            changed: Notify::new(),
            is_online: Cell::new(false),
            refused: Cell::new(None),
            asked: Cell::new((0, None)),
        })
    }

    /// For ever, unless the coordinator does not take it in.
    pub(super) async fn run(self: Rc<Self>, broker: SocketAddr, gate: Rc<Semaphore>) -> Failure {
        self.input(|_, _| {});
        let refused = async {
            self.until(|peer| peer.refused.get().is_some()).await;
            let code = self.refused.get().unwrap_or_default();
            let words = format!("member {} was refused with code {code}", self.number);
            Failure::expectation(words)
        };
        tokio::select! {
            never = self.carry() => match never {},
            never = self.keep_line(broker, &gate) => match never {},
            failure = refused => failure,
        }
    }

    /// Until something holds.
    pub(super) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }

    /// A member that is online, has an address and sees somebody.
    pub(super) fn is_ready(&self) -> bool {
        let agent = self.agent.borrow();
        self.is_online.get() && agent.peers().next().is_some() && self.own_address().is_some()
    }

    fn own_address(&self) -> Option<Ipv4Addr> {
        let agent = self.agent.borrow();
        let settings = agent.settings().settings()?;
        Some(settings.overlay.address_v4(settings.host))
    }

    /// The last request was answered.
    pub(super) const fn is_answered(&self) -> bool {
        self.asked.get().1.is_none()
    }

    /// Sends an echo request through the tunnel. One that cannot be sent, or that its
    /// queue hands back, is lost like any other.
    pub(super) fn send_echo(&self, target: Ipv4Addr) {
        let Some(own) = self.own_address() else { return };
        let number = self.asked.get().0.wrapping_add(1);
        self.asked.set((number, Some(target)));
        let request = echo::request(own, target, number);
        let mut bytes = [0; capacity_for(echo::LEN)];
        let Some(mut packet) = PacketBuf::copy_from(&mut bytes, &request) else { return };
        self.input(|agent, now| {
            if let Ok(Output::Transmit(transmit)) = agent.handle_packet(&mut packet, now) {
                self.send(&transmit, packet.datagram(transmit.len));
            }
        });
        self.touched.notify_one();
    }

    /// The socket, and what is due.
    async fn carry(&self) -> Infallible {
        let mut datagram = [0; 2_048];
        loop {
            let due = self.agent.borrow().poll_timeout();
            let due = clock::at(due.map_or(u64::MAX, |(at, _)| at.as_micros()));
            tokio::select! {
                // All that wait go before what is due.
                biased;
                received = self.socket.recv_from(&mut datagram) => {
                    // An error is of a datagram of ours that somebody refused.
                    if let Ok((len, address)) = received
                        && let Some(datagram) = datagram.get_mut(..len)
                    {
                        self.receive(address, datagram);
                    }
                }
                () = self.touched.notified() => {}
                () = tokio::time::sleep_until(due) => {
                    self.input(|agent, now| agent.handle_timeout(now));
                }
            }
        }
    }

    fn receive(&self, address: SocketAddr, datagram: &mut [u8]) {
        self.input(|agent, now| {
            let source = Source { socket: SOCKET, address };
            // What is of no use is counted there.
            let Ok(Input::Packet(packet)) = agent.handle_datagram(source, datagram, now) else {
                return;
            };
            let (number, target) = self.asked.get();
            if echo::answer(packet) == target.map(|target| (IpAddr::V4(target), number)) {
                self.asked.set((number, None));
            }
        });
    }

    /// One input, then everything that the agent wants done.
    fn input(&self, give: impl FnOnce(&mut ChipAgent<Kernel>, Instant)) {
        give(&mut self.agent.borrow_mut(), clock::core_now());
        self.drain();
        self.changed.notify_waiters();
    }

    fn drain(&self) {
        let mut agent = self.agent.borrow_mut();
        let (mut out, mut frame) = ([0; BUFFER_LEN], [0; MAX_FRAME_CHIP]);
        loop {
            if let Some(event) = agent.poll_event() {
                self.handle_event(&mut agent, event);
            } else if agent.poll_refusal(&mut out).is_some() {
                // The request is sent again anyway.
            } else if let Some(request) = agent.poll_line() {
                self.requests.borrow_mut().push_back(request);
                self.for_line.notify_one();
            } else if let Some(control) = agent.poll_control(&mut frame) {
                let bytes = frame.get(..control.len).unwrap_or_default().to_vec();
                self.frames.borrow_mut().push_back((control.topic, bytes));
                self.for_line.notify_one();
            } else if let Some(transmit) = agent.poll_transmit(&mut out) {
                self.send(&transmit, out.get(..transmit.len).unwrap_or_default());
            } else {
                return;
            }
        }
    }

    fn handle_event(&self, agent: &mut ChipAgent<Kernel>, event: AgentEvent) {
        match event {
            // Memory is the storage.
            AgentEvent::Persist(what) => agent.handle_persisted(what, clock::core_now()),
            AgentEvent::Online(is_online) => self.is_online.set(is_online),
            // It asks again.
            AgentEvent::Refused(refused) if refused.code == Refusal::Unavailable as u16 => {}
            AgentEvent::Refused(refused) => self.refused.set(Some(refused.code)),
            _ => {}
        }
    }

    /// What the network does not take is lost, as in any network.
    fn send(&self, transmit: &Transmit, datagram: &[u8]) {
        // Like a chip it opens no connections to relays.
        let Via::Udp { to, .. } = transmit.via else { return };
        let sent = match transmit.channel {
            None => self.socket.try_send_to(datagram, to),
            Some(channel) => {
                let mut framed = Vec::with_capacity(CHANNEL_LEN + datagram.len());
                framed.extend(channel);
                framed.extend(datagram);
                self.socket.try_send_to(&framed, to)
            }
        };
        let _lost = sent.is_err();
    }

    /// The line to the coordinator, whenever the agent wants it.
    async fn keep_line(&self, broker: SocketAddr, gate: &Semaphore) -> Infallible {
        loop {
            let request = self.requests.borrow_mut().pop_front();
            let Some(request) = request else {
                self.for_line.notified().await;
                continue;
            };
            if let LineRequest::Connect(credentials) = request {
                // Only those that are not members yet are let in a few at a time.
                let is_member = self.agent.borrow().identity().member().is_some();
                let permit = if is_member { None } else { gate.acquire().await.ok() };
                // Why it ended is the agent's to judge: it asks for another one.
                let _ended = self.connected(credentials, broker).await;
                drop(permit);
            }
            self.frames.borrow_mut().clear();
            self.input(|agent, now| agent.handle_disconnected(now));
            self.touched.notify_one();
        }
    }

    /// One connection, from TCP to its end.
    async fn connected(
        &self,
        credentials: Credentials,
        broker: SocketAddr,
    ) -> std::result::Result<(), String> {
        let mut storage = Storage::new(credentials, MAX_FRAME_CHIP, KEEPALIVE_S);
        let (mut session, inbox) = storage.session()?;
        let mut line = line::open(&mut session, inbox, broker).await?;
        self.input(|agent, now| agent.handle_connected(now));
        loop {
            loop {
                let next = self.frames.borrow_mut().pop_front();
                let Some((topic, frame)) = next else { break };
                line::publish(&mut line, topic, &frame).await?;
            }
            if !self.requests.borrow().is_empty() {
                // Asked for, it is to be closed, whatever it was asked for; an answer to
                // "close it" is all that this request wants.
                self.requests.borrow_mut().retain(|it| !matches!(it, LineRequest::Disconnect));
                line::close(line).await;
                return Ok(());
            }
            self.touched.notify_one();
            tokio::select! {
                message = crate::driver::timed(line.recv()) => {
                    let message = message.map_err(|error| line::words(&error))?;
                    if message.topic() == inbox.as_str() {
                        self.input(|agent, now| {
                            // What is wrong with it is counted there.
                            let _counted = agent.handle_frame(message.payload(), now);
                        });
                    }
                }
                () = self.for_line.notified() => {}
            }
        }
    }
}

fn config(number: usize, identity: &Identity) -> AgentConfig {
    let text = |text: &str| text.chars().take(16).collect::<heapless::String<16>>();
    AgentConfig {
        boot_count: 1,
        on_demand: false,
        page_window: 1,
        staged_per_peer: STAGED_CHIP,
        fingerprint: identity.fingerprint(&number.to_le_bytes()),
        name: Name::try_from(format!("peer-{number}").as_str()).unwrap_or_default(),
        abilities: Abilities {
            families: family::IPV4,
            carriers: 1,
            mtu: MTU_MAX,
            backend: Backend::User,
            // The agent fills in how many it has.
            peer_slots: 0,
            peer_routes: 4,
            rules: 32,
            agent: text(env!("CARGO_PKG_VERSION")),
            platform: heapless::String::try_from("weft-fleet").unwrap_or_default(),
            endpoints: heapless::Vec::new(),
        },
        sockets: Sockets { v4: Some(SOCKET), v6: None },
        extra_sockets: 0,
        tunnel: TunnelConfig::new(),
        // A new identity: nobody has seen a stamp of its keys.
        stamp_floor: Some(0),
    }
}
