//! Inputs: each goes to the part it is for, then everything that follows from
//! it is carried on ([`super::wiring`]).

use weft_noise::wg::{self, Kind};
use weft_wire::signal::Candidate;

use super::outbox::Persist;
use super::{Agent, Input, Output, Transmit};
use crate::buffer::PacketBuf;
use crate::control::FrameDrop;
use crate::datapath::PacketError;
use crate::entropy::Entropy;
use crate::event::{DropReason, PeerSlot, Source};
use crate::path::Sockets;
use crate::time::Instant;

impl<
    E: Entropy,
    const PEERS: usize,
    const ROUTES: usize,
    const FLOWS: usize,
    const WORDS: usize,
    const STAGED: usize,
    const FRAME: usize,
> Agent<E, PEERS, ROUTES, FLOWS, WORDS, STAGED, FRAME>
{
    /// The line is up, and the inbox that [`Agent::poll_line`] named subscribed
    /// to.
    pub fn handle_connected(&mut self, now: Instant) {
        self.now = now;
        self.control.handle_connected(&mut self.entropy, now);
        self.pump();
    }

    /// The line is down, or could not be opened.
    pub fn handle_disconnected(&mut self, now: Instant) {
        self.now = now;
        self.control.handle_disconnected(&mut self.entropy, now);
        self.pump();
    }

    /// A frame from the inbox.
    ///
    /// # Errors
    ///
    /// [`FrameDrop`] when it was of no use.
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) -> Result<(), FrameDrop> {
        self.now = now;
        let result = self.control.handle_frame(frame, &mut self.entropy, now);
        self.pump();
        result
    }

    /// A datagram from one of the shell's sockets; opened in place.
    ///
    /// # Errors
    ///
    /// Why it went no further; counted.
    pub fn handle_datagram<'a>(
        &mut self,
        source: Source,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Result<Input<'a>, DropReason> {
        self.now = now;
        let result = match wg::kind(datagram) {
            Ok(Kind::Transport) => self
                .datapath
                .handle_datagram(source, datagram, now)
                .map(|received| received.packet.map_or(Input::Nothing, Input::Packet)),
            Ok(_) => self
                .tunnel
                .handle_datagram(source, datagram, &mut self.entropy, now)
                .map(|()| Input::Nothing),
            Err(wg::Malformed) => {
                self.drops.count(DropReason::Malformed);
                Err(DropReason::Malformed)
            }
        };
        self.pump();
        result
    }

    /// A packet from the mesh interface; sealed in place.
    ///
    /// # Errors
    ///
    /// [`PacketError`]; [`PacketError::problem`] says what to tell the sender by
    /// ICMP ([`crate::ip::icmp::answer_bytes`]).
    pub fn handle_packet(
        &mut self,
        buffer: &mut PacketBuf<'_>,
        now: Instant,
    ) -> Result<Output, PacketError> {
        self.now = now;
        let result = match self.datapath.handle_packet(buffer, now) {
            Ok(sealed) => self
                .addressed(sealed)
                .map(Output::Transmit)
                .ok_or(PacketError::Dropped(DropReason::NoPath)),
            Err(PacketError::NoSession { slot }) => self.stage(slot, buffer.packet()),
            Err(error) => Err(error),
        };
        self.pump();
        result
    }

    /// Where this device may be reached, best first; told to peers in calls.
    pub fn set_local_addresses(&mut self, candidates: &[Candidate]) {
        self.paths.set_local(candidates);
    }

    /// The socket of each address family, when they change.
    pub fn set_sockets(&mut self, sockets: Sockets) {
        self.paths.set_sockets(sockets);
    }

    /// Storage holds what [`AgentEvent::Persist`](super::AgentEvent) asked for.
    pub fn handle_persisted(&mut self, what: Persist, now: Instant) {
        self.now = now;
        match what {
            Persist::Identity => {}
            Persist::Stamp(floor) => self.tunnel.handle_persisted(floor, now),
            // An older cache does not hold what was asked for since.
            Persist::Cache(held, number) if number == self.outbox.cache_number => {
                self.control.handle_cache_stored(held);
            }
            Persist::Cache(..) => {}
        }
        self.pump();
    }

    /// This device wants to leave its network for good.
    pub fn leave(&mut self, now: Instant) {
        self.now = now;
        self.control.leave(&mut self.entropy);
        self.pump();
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.control.handle_timeout(&mut self.entropy, now);
        self.tunnel.handle_timeout(&mut self.entropy, now);
        self.paths.handle_timeout(now);
        self.peers.handle_timeout();
        self.pump();
    }

    fn stage(&mut self, slot: PeerSlot, packet: &[u8]) -> Result<Output, PacketError> {
        let lost = self.staging.push(slot, packet);
        if let Err(reason) = lost {
            self.drops.count(reason);
        }
        if self.peers.handle_wanted(slot) {
            self.paths.handle_wanted(slot, &mut self.entropy, self.now);
        }
        match lost {
            Err(DropReason::TooBig) => Err(PacketError::Dropped(DropReason::TooBig)),
            _ => Ok(Output::Staged),
        }
    }

    /// Where a sealed datagram goes.
    pub(super) fn addressed(&mut self, sealed: crate::datapath::Sealed) -> Option<Transmit> {
        let endpoint = self.datapath.endpoint(sealed.slot);
        if endpoint.is_none() {
            self.drops.count(DropReason::NoPath);
        }
        let Source { socket, address } = endpoint?;
        Some(Transmit { socket, to: address, len: sealed.len })
    }
}
