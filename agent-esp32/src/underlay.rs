//! The agent's loop: one input, then everything that it wants done, then the next input.

use core::future::poll_fn;
use core::net::{IpAddr, SocketAddr};
use core::pin::pin;
use core::task::Poll;

use embassy_net::udp::{SendError, UdpSocket};
use embassy_net::{IpEndpoint, Stack, StaticConfigV4, StaticConfigV6};
use embassy_time::{Duration, Timer, with_timeout};
use weft_agent_core::agent::{Input, Output, Transmit};
use weft_agent_core::buffer::PacketBuf;
use weft_agent_core::entropy::Entropy;
use weft_agent_core::event::{SocketId, Source, Via};
use weft_agent_core::ip::icmp;
use weft_wire::signal::{Candidate, CandidateKind};

use crate::cable::CHANNEL_LEN;
use crate::clock;
use crate::exchange::Frame;
use crate::keeper::Keeper;
use crate::parts::Parts;
use crate::storage::Storage;

/// Sockets as the agent numbers them: both are the one that there is.
pub(crate) const SOCKET_V4: SocketId = SocketId(0);
pub(crate) const SOCKET_V6: SocketId = SocketId(1);

/// A datagram waits for room in the local network's stack for so long: with a link that
/// is gone there is none.
const ROOM_WITHIN: Duration = Duration::from_millis(20);
/// The local network's addresses are looked at this often, when nothing else happens: a
/// stack that has one tells nobody of another.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where a device is in its local network.
type Addresses = (Option<StaticConfigV4>, Option<StaticConfigV6>);

/// What happened.
enum Next {
    /// The line told the agent something.
    Told,
    /// A datagram of this length lies in the inbox.
    Datagram(usize, IpEndpoint),
    /// A packet of this length lies in the buffer.
    Packet(usize),
    /// Something is due.
    Time,
    /// The local network's addresses are others.
    Moved,
}

/// See the module.
pub(crate) struct Underlay<'d, E, S, const P: usize, const R: usize> {
    pub(crate) parts: Parts<'d, E, P, R>,
    pub(crate) lan: Stack<'d>,
    pub(crate) socket: UdpSocket<'d>,
    pub(crate) keeper: Keeper<'d, E, S, P, R>,
    addresses: Addresses,
    /// The stack took nothing when it was last tried: nothing waits until it does.
    is_stuck: bool,
}

impl<'d, E: Entropy, S: Storage, const P: usize, const R: usize> Underlay<'d, E, S, P, R> {
    pub(crate) const fn new(
        parts: Parts<'d, E, P, R>,
        lan: Stack<'d>,
        socket: UdpSocket<'d>,
        keeper: Keeper<'d, E, S, P, R>,
    ) -> Self {
        Self { parts, lan, socket, keeper, addresses: (None, None), is_stuck: false }
    }

    /// For ever.
    pub(crate) async fn run(&mut self) -> ! {
        loop {
            self.drain().await;
            self.parts.cable.set_open(true);
            self.parts.exchange.set_idle(true);
            let next = self.next().await;
            self.parts.cable.set_open(false);
            self.parts.exchange.set_idle(false);
            self.handle(next).await;
        }
    }

    async fn next(&self) -> Next {
        let due = self.parts.agent.borrow().poll_timeout().map(|(at, _)| clock::embassy(at));
        let look = embassy_time::Instant::now() + LOOK_EVERY;
        let kept = self.keeper.due_at();
        let until = [due, kept].into_iter().flatten().fold(look, embassy_time::Instant::min);
        let mut alarm = pin!(Timer::at(until));
        // Only while there is none: the stack tells one task at a time.
        let mut up = pin!(self.lan.wait_config_up());
        let is_nowhere = self.addresses == (None, None);
        poll_fn(|context| {
            if is_nowhere {
                // What it says is seen below.
                let _ = up.as_mut().poll(context);
            }
            if self.parts.exchange.poll_told(context).is_ready() {
                return Poll::Ready(Next::Told);
            }
            // A packet of ours lies in the buffer that answers are made in: it goes first.
            if let Poll::Ready(len) = self.parts.cable.poll_packet(context) {
                return Poll::Ready(Next::Packet(len));
            }
            if self.lan_addresses() != self.addresses {
                return Poll::Ready(Next::Moved);
            }
            if let Poll::Ready(mut inbox) = self.parts.cable.poll_inbox(context)
                && let Poll::Ready(received) =
                    self.socket.poll_recv_from(inbox.as_mut_slice(), context)
            {
                match received {
                    Ok((len, meta)) => return Poll::Ready(Next::Datagram(len, meta.endpoint)),
                    // Longer than any that is for us: it is gone.
                    Err(_truncated) => context.waker().wake_by_ref(),
                }
            }
            alarm.as_mut().poll(context).map(|()| Next::Time)
        })
        .await
    }

    fn lan_addresses(&self) -> Addresses {
        (self.lan.config_v4(), self.lan.config_v6())
    }

    async fn handle(&mut self, next: Next) {
        let now = clock::now();
        match next {
            Next::Told => {}
            Next::Time => {
                let due = self.parts.agent.borrow().poll_timeout();
                if due.is_some_and(|(at, _)| at <= now) {
                    self.parts.agent.borrow_mut().handle_timeout(now);
                }
                self.keeper.handle_timeout().await;
            }
            Next::Moved => self.handle_moved(),
            Next::Datagram(len, from) => self.receive(len, from),
            Next::Packet(len) => self.seal(len).await,
        }
    }

    fn handle_moved(&mut self) {
        self.addresses = self.lan_addresses();
        self.parts.exchange.set_local(self.addresses != (None, None));
        let port = self.socket.endpoint().port;
        let (v4, v6) = &self.addresses;
        let v4 = v4.as_ref().map(|config| IpAddr::V4(config.address.address()));
        let v6 = v6.as_ref().map(|config| IpAddr::V6(config.address.address()));
        let candidates: heapless::Vec<Candidate, 2> = [v4, v6]
            .into_iter()
            .flatten()
            .map(|ip| Candidate { kind: CandidateKind::Host, address: SocketAddr::new(ip, port) })
            .collect();
        self.parts.agent.borrow_mut().set_local_addresses(&candidates, clock::now());
    }

    fn receive(&self, len: usize, from: IpEndpoint) {
        let Some(mut inbox) = self.parts.cable.inbox() else { return };
        let address = SocketAddr::new(from.addr.into(), from.port);
        let socket = if address.is_ipv4() { SOCKET_V4 } else { SOCKET_V6 };
        let start = inbox.as_ptr();
        let datagram = inbox.get_mut(..len).unwrap_or_default();
        let mut agent = self.parts.agent.borrow_mut();
        let received = agent.handle_datagram(Source { socket, address }, datagram, clock::now());
        // Dropped ones are counted there.
        let place = match received {
            Ok(Input::Packet(packet)) => {
                Some((packet.as_ptr().addr() - start.addr(), packet.len()))
            }
            _ => None,
        };
        drop(inbox);
        if let Some((at, len)) = place {
            self.parts.cable.deliver(at, len);
        }
    }

    /// Seals the packet in the buffer and sends it. What is wrong with it is told to its
    /// sender, if there is room for that.
    async fn seal(&mut self, len: usize) {
        let transmit = {
            let mut buffer = self.parts.cable.buffer();
            let Some(mut packet) =
                buffer.get_mut(CHANNEL_LEN..).and_then(|bytes| PacketBuf::new(bytes, len))
            else {
                return;
            };
            let result = self.parts.agent.borrow_mut().handle_packet(&mut packet, clock::now());
            match result {
                Ok(Output::Transmit(transmit)) => Some(transmit),
                Ok(Output::Staged) => None,
                Ok(Output::Displaced) => {
                    self.refuse(packet.packet(), icmp::Problem::Unreachable);
                    None
                }
                Err(error) => {
                    if let Some(problem) = error.problem() {
                        self.refuse(packet.packet(), problem);
                    }
                    None
                }
            }
        };
        if let Some(transmit) = transmit {
            self.send(transmit).await;
        }
    }

    fn refuse(&self, packet: &[u8], problem: icmp::Problem) {
        self.answer(|out| icmp::answer_bytes(packet, problem, out));
    }

    /// Writes a packet for our own stack into the inbox, if that is free.
    fn answer(&self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let Some(mut inbox) = self.parts.cable.inbox() else { return false };
        let len = write(inbox.as_mut_slice());
        drop(inbox);
        if let Some(len) = len {
            self.parts.cable.deliver(0, len);
        }
        len.is_some()
    }

    /// Does what the agent wants done, until it wants nothing.
    async fn drain(&mut self) {
        loop {
            let event = self.parts.agent.borrow_mut().poll_event();
            if let Some(event) = event {
                self.keeper.handle(event).await;
                continue;
            }
            if self.answer(|out| self.parts.agent.borrow_mut().poll_refusal(out)) {
                continue;
            }
            let request = self.parts.agent.borrow_mut().poll_line();
            if let Some(request) = request {
                self.parts.exchange.request(request);
                continue;
            }
            if self.poll_control() {
                continue;
            }
            let transmit = {
                let mut buffer = self.parts.cable.buffer();
                let out = buffer.get_mut(CHANNEL_LEN..).unwrap_or_default();
                self.parts.agent.borrow_mut().poll_transmit(out)
            };
            match transmit {
                Some(transmit) => self.send(transmit).await,
                None => return,
            }
        }
    }

    /// Puts the next frame down for the line, if there is one and the line takes it.
    fn poll_control(&self) -> bool {
        let Some(mut room) = self.parts.exchange.room() else {
            return false;
        };
        let frame = self.parts.agent.borrow_mut().poll_control(room.as_mut_slice());
        drop(room);
        let is_some = frame.is_some();
        if let Some(frame) = frame {
            self.parts.exchange.put(Frame { topic: frame.topic, len: frame.len });
        }
        is_some
    }

    /// Sends what lies in the buffer. What the local network does not take is lost, as in
    /// any network.
    async fn send(&mut self, transmit: Transmit) {
        let Via::Udp { to, .. } = transmit.via else {
            // A chip opens no connections to relays: it has no room for their frames.
            return;
        };
        if !has_way(&self.addresses, to.ip()) {
            return;
        }
        let end = CHANNEL_LEN + transmit.len;
        let start = {
            let mut buffer = self.parts.cable.buffer();
            match (transmit.channel, buffer.first_chunk_mut()) {
                (Some(channel), Some(place)) => {
                    *place = channel;
                    0
                }
                _ => CHANNEL_LEN,
            }
        };
        let sent = poll_fn(|context| {
            let buffer = self.parts.cable.buffer();
            let datagram = buffer.get(start..end).unwrap_or_default();
            match self.socket.poll_send_to(datagram, to, context) {
                Poll::Pending if self.is_stuck => Poll::Ready(Err(SendError::NoRoute)),
                polled => polled,
            }
        });
        self.is_stuck = match with_timeout(ROOM_WITHIN, sent).await {
            Ok(Ok(())) => false,
            Ok(Err(_)) => self.is_stuck,
            Err(_) => true,
        };
    }
}

/// Whether the local network leads to an address. The stack takes a datagram to one that
/// it has no way to, keeps it and all that come after it, and sends nothing more.
fn has_way((v4, v6): &Addresses, to: IpAddr) -> bool {
    match to {
        IpAddr::V4(to) => v4
            .as_ref()
            .is_some_and(|config| config.gateway.is_some() || config.address.contains_addr(&to)),
        IpAddr::V6(to) => v6
            .as_ref()
            .is_some_and(|config| config.gateway.is_some() || config.address.contains_addr(&to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embassy_net::{Ipv4Cidr, Ipv6Cidr};

    #[test]
    fn nothing_is_sent_where_no_way_leads() {
        let v4 = |gateway| StaticConfigV4 {
            address: Ipv4Cidr::new([10, 40, 0, 2].into(), 24),
            gateway,
            dns_servers: heapless::Vec::new(),
        };
        let v6 = |gateway| StaticConfigV6 {
            address: Ipv6Cidr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(), 64),
            gateway,
            dns_servers: heapless::Vec::new(),
        };
        let [near, far] = ["10.40.0.9", "203.0.113.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let [near6, far6] = ["2001:db8::9", "2001:db8:1::9"].map(|ip| ip.parse().unwrap());
        let leads =
            |addresses: Addresses| [near, far, near6, far6].map(|to| has_way(&addresses, to));
        assert_eq!(leads((None, None)), [false; 4]);
        assert_eq!(leads((Some(v4(None)), None)), [true, false, false, false]);
        let router = Some([10, 40, 0, 1].into());
        assert_eq!(leads((Some(v4(router)), None)), [true, true, false, false]);
        assert_eq!(leads((None, Some(v6(None)))), [false, false, true, false]);
        let router6 = Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into());
        assert_eq!(leads((Some(v4(router)), Some(v6(router6)))), [true; 4]);
    }
}
