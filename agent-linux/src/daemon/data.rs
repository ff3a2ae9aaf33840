//! The data plane, in place on the loop's thread: datagrams in, packets out,
//! and the other way round. Batches, so that a busy tunnel costs few system
//! calls; bounded, so that the rest of the loop gets its turn.

use std::net::IpAddr;

use weft_agent_core::agent::{Input, Output, Transmit};
use weft_agent_core::buffer::PacketBuf;
use weft_agent_core::config::implementation::{HEADROOM, TAILROOM};
use weft_agent_core::event::{DropReason, SocketId, Source, Via};
use weft_agent_core::ip::icmp::{self, Problem};
use weft_agent_core::path::SocketCommand;
use weft_agent_core::relay::INDICATION_OVERHEAD;

use crate::daemon::echo::Echoes;
use crate::daemon::overlay::Mesh;
use crate::daemon::{Daemon, now};
use crate::ipc::protocol::Answer;
use crate::ipc::server::ClientId;
use crate::log::Event;
use crate::net::udp::{
    BATCH, DATAGRAM_LEN, ReceiveBatch, SENT_LEN, SOCKET_V4, SOCKET_V6, SendBatch,
};
use crate::os::clock;
use crate::os::poll::{Place, PollSet};
use crate::relay::Told;

/// Batches of one turn.
const TURN: usize = 4;
/// The longest packet that is read: what a datagram's buffer holds of it.
const PACKET_LEN: usize = SENT_LEN - HEADROOM - TAILROOM - INDICATION_OVERHEAD;
/// An ICMP error is at most as long as IPv6's smallest MTU.
const ANSWER_LEN: usize = 1_280;

/// Memory of the data plane, made once.
pub(super) struct Buffers {
    received: ReceiveBatch,
    sending: SendBatch,
    /// Datagrams that the kernel did not take, and packets that the host did not.
    pub(super) unsent: u64,
    pub(super) undelivered: u64,
    /// A control frame on its way up.
    frame: Box<[u8; weft_wire::frame::MAX_FRAME]>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            received: ReceiveBatch::new(),
            sending: SendBatch::new(),
            unsent: 0,
            undelivered: 0,
            frame: Box::new([0; weft_wire::frame::MAX_FRAME]),
        }
    }
}

/// Where packets for this host go.
struct Inside<'a> {
    echoes: &'a mut Echoes,
    mesh: &'a mut Mesh,
    undelivered: &'a mut u64,
}

impl Inside<'_> {
    /// Hands a packet to the host, or takes it as the answer to an echo of ours.
    /// What was dropped is counted in the agent.
    fn deliver(
        &mut self,
        received: Result<Input<'_>, DropReason>,
        now_us: u64,
    ) -> Option<(ClientId, IpAddr, u64)> {
        let Ok(Input::Packet(packet)) = received else { return None };
        let answered = self.echoes.take(packet, now_us);
        if answered.is_none()
            && let Some(tun) = self.mesh.tun_mut()
            && tun.write(packet).is_err()
        {
            *self.undelivered += 1;
        }
        answered
    }
}

impl Daemon {
    /// Reads both sockets and hands packets to the host.
    pub(super) fn receive_datagrams(&mut self) {
        for _ in 0..TURN {
            let v4 = self.receive_batch(SOCKET_V4);
            let v6 = self.receive_batch(SOCKET_V6);
            if v4 < BATCH && v6 < BATCH {
                return;
            }
        }
    }

    fn receive_batch(&mut self, socket: SocketId) -> usize {
        let Some(udp) = self.udp.socket(socket) else {
            return 0;
        };
        // An error of the socket concerns a datagram that is gone already.
        let count = udp.receive(&mut self.buffers.received).unwrap_or(0);
        let now = now();
        for at in 0..count {
            let Some((address, datagram)) = self.buffers.received.get(at) else {
                continue;
            };
            let (socket, address) = self.udp.inwards(socket, address);
            let source = Source { socket, address };
            let received = self.agent.handle_datagram(source, datagram, now);
            let mut inside = Inside {
                echoes: &mut self.echoes,
                mesh: &mut self.mesh,
                undelivered: &mut self.buffers.undelivered,
            };
            let echo = inside.deliver(received, now.as_micros());
            self.answer_echo(echo);
            self.drain();
        }
        count
    }

    /// Reads the sockets at other ports that have something.
    pub(super) fn receive_extra(&mut self, set: &PollSet, places: &[(SocketId, Place)]) {
        for &(socket, place) in places {
            if set.is_ready(place) {
                self.receive_batch(socket);
            }
        }
    }

    fn handle_socket(&mut self, command: SocketCommand) {
        match command {
            SocketCommand::Open(number) => {
                // One that cannot be had is one chance less to meet a peer.
                drop(self.udp.open_extra(number));
            }
            SocketCommand::Close(number) => drop(self.udp.extra.remove(&number)),
        }
    }

    /// Reads what came in connections to relays.
    pub(super) fn receive_relayed(&mut self) {
        let mut frame = [0; DATAGRAM_LEN];
        while let Some((stream, told)) = self.relays.next() {
            let mut echoes = Vec::new();
            match told {
                Told::Connected => self.agent.handle_stream_connected(stream, now()),
                Told::Closed => self.agent.handle_stream_closed(stream, now()),
                Told::Data(mut bytes) => {
                    while !bytes.is_empty() {
                        let taken = self.agent.handle_stream_data(stream, bytes, now());
                        bytes = bytes.get(taken..).unwrap_or_default();
                        while let Some(received) = self.agent.poll_received(&mut frame) {
                            let mut inside = Inside {
                                echoes: &mut self.echoes,
                                mesh: &mut self.mesh,
                                undelivered: &mut self.buffers.undelivered,
                            };
                            echoes.extend(inside.deliver(received, clock::boot_micros()));
                        }
                    }
                }
            }
            echoes.into_iter().for_each(|echo| self.answer_echo(Some(echo)));
            self.drain();
        }
    }

    fn answer_echo(&mut self, echo: Option<(ClientId, IpAddr, u64)>) {
        if let Some((client, from, us)) = echo {
            self.note_rtt(from, us);
            self.server.answer(client, Answer::Echo(from, Some(us)));
        }
    }

    /// Reads the mesh interface and sends what the agent sealed.
    pub(super) fn read_packets(&mut self) {
        for _ in 0..TURN * BATCH {
            match self.read_packet() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.log.write(Event::InterfaceFailed, &[("cause", error.to_string().into())]);
                    self.mesh.lose();
                    self.handle_network_change();
                    break;
                }
            }
        }
    }

    /// One packet; `false` when there is none now.
    fn read_packet(&mut self) -> std::io::Result<bool> {
        if self.buffers.sending.is_full() {
            self.send();
        }
        let (Some(tun), Some(buffer)) = (self.mesh.tun_mut(), self.buffers.sending.buffer()) else {
            return Ok(false);
        };
        let Some(len) = tun.read(&mut buffer[HEADROOM..HEADROOM + PACKET_LEN])? else {
            return Ok(false);
        };
        self.seal(len);
        self.drain();
        Ok(true)
    }

    /// Seals the packet of `len` bytes that lies in the next buffer. What is
    /// wrong with it is also told to its sender by ICMP.
    fn seal(&mut self, len: usize) -> Option<Problem> {
        let buffer = self.buffers.sending.buffer()?;
        let mut packet = PacketBuf::new(buffer, len)?;
        // What is told to the sender of what lies in the buffer, and what became of
        // the packet that was given: an older one may have had to make room for it.
        let (told, problem) = match self.agent.handle_packet(&mut packet, now()) {
            Ok(Output::Transmit(transmit)) => {
                self.dispatch(transmit);
                return None;
            }
            Ok(Output::Staged) => return None,
            Ok(Output::Displaced) => (Some(Problem::Unreachable), None),
            Err(error) => (error.problem(), error.problem()),
        };
        let mut answer = [0; ANSWER_LEN];
        let len =
            told.and_then(|problem| icmp::answer_bytes(packet.packet(), problem, &mut answer));
        if let Some(len) = len {
            self.write_answer(&answer[..len]);
        }
        problem
    }

    /// What is wrong with a packet of the host's, for the host.
    fn write_answer(&mut self, answer: &[u8]) {
        if let Some(tun) = self.mesh.tun_mut()
            && tun.write(answer).is_err()
        {
            self.buffers.undelivered += 1;
        }
    }

    /// What lies in the next buffer goes into the batch, or into a connection.
    fn dispatch(&mut self, transmit: Transmit) {
        match transmit.via {
            Via::Udp { socket, to } => {
                let way = self.udp.outwards(socket, to);
                self.buffers.sending.commit(transmit.channel, transmit.len, way);
            }
            Via::Stream(stream) => {
                let buffer = self.buffers.sending.buffer();
                let bytes = buffer.and_then(|buffer| buffer.get(..transmit.len));
                let before = transmit.channel.as_ref().map_or(&[][..], |before| before);
                let padding = transmit.padding();
                self.relays.send(stream, before, bytes.unwrap_or_default(), padding);
            }
        }
    }

    /// Puts a packet of our own into the data path; says why it was not taken.
    pub(super) fn inject(&mut self, packet: &[u8]) -> Option<Problem> {
        if self.buffers.sending.is_full() {
            self.send();
        }
        let buffer = self.buffers.sending.buffer()?;
        let place = buffer.get_mut(HEADROOM..HEADROOM + packet.len())?;
        place.copy_from_slice(packet);
        self.seal(packet.len())
    }

    /// Sends what the batch holds.
    pub(super) fn send(&mut self) {
        // What the kernel does not take now is lost, as in any network.
        let sent = self.udp.send(&mut self.buffers.sending);
        self.buffers.unsent += self.buffers.sending.len().saturating_sub(sent) as u64;
        self.buffers.sending.clear();
    }

    /// Does everything that the agent wants done, until it wants nothing. What is
    /// to be sent waits in the batch for [`Self::send`].
    pub(super) fn drain(&mut self) {
        let mut answer = [0; ANSWER_LEN];
        loop {
            if let Some(event) = self.agent.poll_event() {
                self.handle_event(event);
                continue;
            }
            if let Some(len) = self.agent.poll_refusal(&mut answer) {
                self.write_answer(&answer[..len]);
                continue;
            }
            if let Some(command) = self.agent.poll_socket() {
                self.handle_socket(command);
                continue;
            }
            if let Some(command) = self.agent.poll_stream() {
                self.relays.handle(command, self.udp.translator);
                continue;
            }
            if let Some(request) = self.agent.poll_line() {
                self.handle_line_request(request);
                continue;
            }
            if self.line.take_wish() {
                self.agent.handle_fetch(now());
            }
            if self.line.takes_frame()
                && let Some(frame) = self.agent.poll_control(&mut *self.buffers.frame)
            {
                self.line.publish(frame.topic, &self.buffers.frame[..frame.len]);
                continue;
            }
            if self.buffers.sending.is_full() {
                self.send();
            }
            let Some(buffer) = self.buffers.sending.buffer() else {
                return;
            };
            let Some(transmit) = self.agent.poll_transmit(buffer) else {
                return;
            };
            self.dispatch(transmit);
        }
    }
}
