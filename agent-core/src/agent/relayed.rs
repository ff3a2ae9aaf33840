//! What goes through a relay: the client's requests and events, its connections,
//! and the way of a peer's packets through it.

use core::ops::Range;

use weft_wire::relay::Relay;

use super::record::Head;
use super::trace::{Entry, Output, Trace};
use super::{Agent, Input, Transmit};
use crate::entropy::Entropy;
use crate::event::{DropReason, RELAY, Source, StreamId, Via};
use crate::meter::{self, Cause};
use crate::path::SocketCommand;
use crate::relay::{Framed, Received, RelayEvent, RelayTransmit, Rung, StreamCommand, Why};
use crate::time::{Duration, Instant};

/// What a relay puts before a packet in a connection, for the most part.
const CHANNEL_HEADER: u64 = 4;

/// What a datagram is to the relay's client.
pub(super) enum Relayed {
    /// Nothing.
    No,
    /// Its own.
    Done(Result<(), DropReason>),
    /// A peer's, who sent it from there; where in the datagram it lies.
    Data(Source, Range<usize>),
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
    /// What to do about connections to relays. Ask until `None`.
    #[must_use]
    pub fn poll_stream(&mut self) -> Option<StreamCommand> {
        let command = self.relay.poll_stream()?;
        self.recorder.put(self.now, &Entry::Polled(Output::Stream));
        Some(command)
    }

    /// What to do about sockets beside the usual ones. Ask until `None`.
    #[must_use]
    pub fn poll_socket(&mut self) -> Option<SocketCommand> {
        let command = self.paths.poll_socket()?;
        self.recorder.put(self.now, &Entry::Polled(Output::Socket));
        Some(command)
    }

    /// A connection stands.
    pub fn handle_stream_connected(&mut self, stream: StreamId, now: Instant) {
        self.now = now;
        self.relay.handle_stream_connected(stream, now);
        self.recorder.put(now, &Entry::Stream(stream.0, true));
        self.pump();
    }

    /// A connection was refused, closed or broke.
    pub fn handle_stream_closed(&mut self, stream: StreamId, now: Instant) {
        self.now = now;
        self.relay.handle_stream_closed(stream, now);
        self.recorder.put(now, &Entry::Stream(stream.0, false));
        self.pump();
    }

    /// Bytes came in a connection. Returns how many were taken; then ask
    /// [`Agent::poll_received`] until `None`, and hand in the others.
    #[must_use]
    pub fn handle_stream_data(&mut self, stream: StreamId, bytes: &[u8], now: Instant) -> usize {
        self.now = now;
        self.relay.handle_stream_data(stream, bytes)
    }

    /// What came in connections, one frame at a time, opened in `buffer` (1,536
    /// bytes). Ask until `None`.
    #[must_use]
    pub fn poll_received<'a>(
        &mut self,
        buffer: &'a mut [u8],
    ) -> Option<Result<Input<'a>, DropReason>> {
        let header = meter::header(Via::Stream(StreamId(0)));
        let (source, len) = match self.relay.poll_stream_frame(self.now)? {
            Framed::Consumed { stream, message } => {
                let whole = message.len() as u64 + header;
                self.meter.add(Cause::RelayOverhead, whole, self.now);
                self.recorder.put(self.now, &Entry::Framed(stream.0, message));
                self.pump();
                return Some(Ok(Input::Nothing));
            }
            Framed::Data { peer, data, .. } => {
                let Some(place) = buffer.get_mut(..data.len()) else {
                    self.drops.count(DropReason::NoRoom);
                    return Some(Err(DropReason::NoRoom));
                };
                place.copy_from_slice(data);
                self.meter.add(Cause::RelayOverhead, CHANNEL_HEADER, self.now);
                (Source { socket: RELAY, address: peer }, data.len())
            }
        };
        Some(match buffer.get_mut(..len) {
            Some(datagram) => self.handle_inner(source, datagram, header),
            None => Err(DropReason::NoRoom),
        })
    }

    /// The relay that gave nothing when one was last asked, and why; `None` = one
    /// gave something, or none was asked.
    pub fn relay_failure(&self) -> Option<(u16, Why)> {
        self.relay.failure()
    }

    /// The relay and the way to it that are in use.
    pub fn rung(&self) -> Option<Rung> {
        self.relay.rung()
    }

    /// The round trip to a relay of the map in milliseconds, as far as it was measured in
    /// this network.
    pub fn relay_round_trip(&self, relay: u16) -> Option<u16> {
        self.relay.round_trip(relay)
    }

    /// Looks whether a datagram is for the relay's client. What was recorded as a
    /// peer's through a relay is taken for that.
    pub(super) fn relayed(&mut self, source: Source, datagram: &[u8]) -> Relayed {
        if source.socket == RELAY || !may_be_relayed(datagram) {
            return Relayed::No;
        }
        let head = T::ENABLED.then(|| Head::of_datagram(datagram));
        let received = self.relay.handle_datagram(source, datagram, self.now);
        if let Ok(Received::NotMine) | Err(DropReason::Unsolicited) = received
            && is_data(datagram)
        {
            self.greet_all(source);
        }
        match received {
            Ok(Received::NotMine) => Relayed::No,
            Ok(Received::Data { peer, at }) => {
                Relayed::Data(Source { socket: RELAY, address: peer }, at)
            }
            Ok(Received::Consumed) => Relayed::Done(self.noted(source, head, Ok(()))),
            Err(reason) => Relayed::Done(self.noted(source, head, Err(reason))),
        }
    }

    /// Records what a relay said.
    fn noted(
        &mut self,
        source: Source,
        head: Option<Head>,
        result: Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        self.handled_stun(source, head.as_ref(), result).map(|_| ())
    }

    /// The next request to a relay.
    pub(super) fn poll_relay(&mut self, out: &mut [u8]) -> Option<Transmit> {
        let datagram = self.relay.poll_transmit(out, &mut self.recorder, self.now);
        let next =
            datagram.or_else(|| self.relay.poll_stream_transmit(out, &mut self.recorder, self.now));
        let RelayTransmit { via, len } = next?;
        let transmit = Transmit { via, len, channel: None };
        self.count_sent(Cause::RelayOverhead, len, &transmit);
        Some(transmit)
    }

    /// The first `len` bytes of `buffer` as they are sent to a peer, counted.
    pub(super) fn sent_to(
        &mut self,
        cause: Cause,
        to: Source,
        buffer: &mut [u8],
        len: usize,
    ) -> Option<Transmit> {
        let transmit = self.way_to(to, buffer, len)?;
        self.count_sent(cause, len, &transmit);
        Some(transmit)
    }

    /// What cannot go there now is dropped, and that counted.
    fn way_to(&mut self, to: Source, buffer: &mut [u8], len: usize) -> Option<Transmit> {
        let Source { socket, address } = to;
        if socket != RELAY {
            return Some(Transmit::datagram(socket, address, len));
        }
        if let Some(route) = self.relay.channel(address)
            && let Ok(short) = u16::try_from(len)
        {
            return Some(Transmit { via: route.via, len, channel: Some(route.prefix(short)) });
        }
        let wrapped = self.relay.wrap_indication(address, buffer, len);
        if wrapped.is_none() {
            self.drops.count(DropReason::NoPath);
        }
        let RelayTransmit { via, len } = wrapped?;
        Some(Transmit { via, len, channel: None })
    }

    pub(super) fn handle_relay(&mut self, event: RelayEvent) {
        let now = self.now;
        match event {
            RelayEvent::Allocated { rung, v4, v6, mapped } => {
                let addresses = [v4, v6].into_iter().flatten();
                let mapped = Some(mapped).filter(|_| !rung.way.is_stream());
                self.paths.handle_allocated(addresses, mapped, &mut self.recorder, now);
            }
            RelayEvent::Lost { .. } => self.paths.handle_allocation_lost(),
            RelayEvent::Failed { why } => {
                self.paths.handle_allocation_failed(why.is_refusal());
            }
            RelayEvent::GrantWanted => self.control.want_relay_logins(now),
            // Whoever is sent to answers, or does not.
            RelayEvent::Ready { .. } | RelayEvent::Refused { .. } => {}
        }
    }

    /// The map names these relays.
    pub(super) fn set_relays(&mut self, relays: &[Relay]) {
        self.relay.set_relays(relays, self.now);
        self.paths.set_relays(relays);
    }

    /// The coordinator gave other credentials.
    pub(super) fn apply_relay_logins(&mut self) {
        if let Some(grant) = self.control.relay_grant() {
            let lifetime = Duration::from_secs(grant.lifetime_s.into());
            self.relay.set_grant(&grant.user, lifetime, &grant.logins, self.now);
        }
    }

    /// Asks relays for what paths want of them, and for no more.
    pub(super) fn apply_relayed(&mut self) {
        if !self.paths.wants_relay() {
            if self.relay.is_acquired() {
                self.relay.release(self.now);
                self.paths.handle_released();
            }
            return;
        }
        self.relay.acquire(self.now);
        let paths = &self.paths;
        self.relay.retain(|peer| paths.through_relay().any(|wanted| wanted == peer));
        for peer in paths.through_relay() {
            if self.relay.want(peer, self.now).is_err() {
                self.drops.count(DropReason::QueueFull);
            }
        }
    }
}

/// Whether it is what a relay wraps a peer's packet in: a channel's frame, or a Data
/// indication (RFC 8656, sections 12 and 11).
fn is_data(datagram: &[u8]) -> bool {
    matches!(datagram, [0x40..=0x4F, ..] | [0, 0x17, ..])
}

/// Whether bytes can be a relay's: STUN, or ChannelData. WireGuard's first byte
/// may be STUN's too; the client looks closer.
fn may_be_relayed(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(0 | 1 | 0x40..=0x4F))
}
