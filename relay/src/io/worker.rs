//! The loop: what a socket gave goes into `proto`, what `proto` says is done.
#![allow(unsafe_code, reason = "packets are sent from where they were received")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use crate::proto::turn::{
    Client, Command, Hop, Now, Opened, Output, Prefix, Relay, Run, Turn, Via,
};
use weft_wire::stun::Family;

use super::clock;
use super::net::{Datagrams, Inbox, Outbox, Poll, Waker};
use super::server::{Order, Shared};
use super::stream::{Door, Streams};

/// What a descriptor is for, in the upper half of its token.
const LISTENER: u64 = 0;
const WAKER: u64 = 1;
const RELAY: u64 = 2;
const DOOR: u64 = 3;
const STREAM: u64 = 4;

pub(super) struct Worker<'a> {
    turn: Turn,
    sockets: Vec<Datagrams>,
    /// Sockets of allocations, by place and family.
    relays: Vec<[Option<Datagrams>; 2]>,
    /// What they are bound to.
    bind: [Option<IpAddr>; 2],
    poll: Poll,
    inbox: Inbox,
    outbox: Outbox,
    streams: Streams,
    output: Output,
    orders: mpsc::Receiver<Order>,
    waker: &'a Waker,
    shared: &'a Arc<Shared>,
    start: Instant,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        turn: Turn,
        sockets: Vec<Datagrams>,
        doors: Vec<Door>,
        bind: [Option<IpAddr>; 2],
        waker: &'a Waker,
        orders: mpsc::Receiver<Order>,
        shared: &'a Arc<Shared>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.set(waker.raw(), WAKER << 32, true, false, true)?;
        for (socket, index) in sockets.iter().zip(0..) {
            poll.set(socket.raw(), LISTENER << 32 | index, true, false, true)?;
        }
        let streams = Streams::new(doors, &poll, DOOR, STREAM)?;
        Ok(Self {
            turn,
            sockets,
            relays: Vec::new(),
            bind,
            poll,
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            streams,
            output: Output::default(),
            orders,
            waker,
            shared,
            start: clock::now(),
        })
    }

    /// Relays until it is told to end, or its sockets fail.
    pub(super) fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let now = clock::since(self.start);
            let deadlines = [self.turn.poll_timeout(), self.streams.deadline()];
            let next = deadlines.into_iter().flatten().min();
            let wait = next.map(|at| at.saturating_sub(now.ms));
            let Ok(count) = self.poll.wait(wait) else { return };
            let now = clock::since(self.start);
            for index in 0..count {
                let (token, is_writable) = self.poll.token(index);
                let number = token as u32;
                match token >> 32 {
                    LISTENER => self.receive_clients(number as usize, now),
                    WAKER => self.take_orders(now),
                    RELAY => {
                        let family = if number & 1 == 0 { Family::V4 } else { Family::V6 };
                        self.receive_peers(Relay { allocation: number >> 1, family }, now);
                    }
                    DOOR => self.streams.accept(number as usize, &self.poll, now.ms),
                    STREAM => {
                        if is_writable {
                            self.streams.writable(number);
                        }
                        self.receive_stream(number, now);
                    }
                    _ => {}
                }
            }
            if self.turn.poll_timeout().is_some_and(|at| at <= now.ms) {
                self.turn.handle_timeout(now, &mut self.output);
                self.obey(None, now);
            }
            self.outbox.flush();
            self.tend_streams(now);
            self.publish();
        }
    }

    fn publish(&self) {
        self.shared.values.store(&self.turn.counters());
        self.shared.allocations.store(self.turn.allocations().into(), Ordering::Relaxed);
        self.shared.users.store(self.turn.users() as u64, Ordering::Relaxed);
        let (shared, streams) = (self.shared, &self.streams);
        shared.lost.store(self.outbox.lost + streams.lost, Ordering::Relaxed);
        shared.connections.store(streams.len() as u64, Ordering::Relaxed);
        shared.connections_made.store(streams.taken, Ordering::Relaxed);
        shared.connections_dropped.store(streams.dropped, Ordering::Relaxed);
    }

    fn take_orders(&mut self, now: Now) {
        self.waker.clear();
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Deny(name) => self.turn.handle_denied(&name, now, &mut self.output),
                Order::Allow(name) => self.turn.handle_allowed(&name),
                Order::Secrets(secrets) => self.turn.set_secrets(secrets),
                Order::Drain(draining) => self.turn.set_draining(draining),
            }
            self.obey(None, now);
        }
    }

    fn receive_stream(&mut self, slot: u32, now: Now) {
        let Some((address, bytes, is_open)) = self.streams.receive(slot) else { return };
        let client = Client { via: Via::Stream(slot), address };
        let mut used = 0;
        let is_whole = loop {
            match Streams::frame(&bytes[used..]) {
                Ok(Some(frame)) => {
                    used += frame.len();
                    self.turn.handle_client(&client, frame, frame.len(), now, &mut self.output);
                    let frame: *const [u8] = frame;
                    self.obey(Some(frame), now);
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        // The bytes are overwritten by the next read.
        self.outbox.flush();
        self.streams.keep(slot, bytes, used, now.ms);
        if !(is_open && is_whole) {
            self.end_stream(slot, now);
        }
    }

    fn end_stream(&mut self, slot: u32, now: Now) {
        if let Some(address) = self.streams.close(slot) {
            let client = Client { via: Via::Stream(slot), address };
            self.turn.handle_closed(&client, &mut self.output);
            self.obey(None, now);
        }
    }

    /// Sends what waits for connections, and ends those whose time is over.
    fn tend_streams(&mut self, now: Now) {
        for slot in self.streams.flush(&self.poll, now.ms) {
            self.end_stream(slot, now);
        }
        while self.streams.deadline().is_some_and(|at| at <= now.ms) {
            let has = |slot: u32, address| {
                let client = Client { via: Via::Stream(slot), address };
                self.turn.has_allocation(&client, now)
            };
            let Some(slot) = self.streams.expired(&self.poll, now.ms, has) else { return };
            self.end_stream(slot, now);
        }
    }

    fn receive_clients(&mut self, listener: usize, now: Now) {
        // An error belongs to one datagram (an ICMP message about an earlier one).
        let Ok(count) = self.inbox.receive(&self.sockets[listener]) else { return };
        for index in 0..count {
            let Some(received) = self.inbox.get(index, &self.sockets[listener]) else { continue };
            let local = received.local.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
            let via = Via::Udp { listener: listener as u8, local };
            let client = Client { via, address: received.source };
            let (bytes, segment) = (received.bytes, received.segment);
            self.turn.handle_client(&client, bytes, segment, now, &mut self.output);
            let bytes: *const [u8] = bytes;
            self.obey(Some(bytes), now);
        }
        // The inbox is overwritten by the next call.
        self.outbox.flush();
    }

    fn receive_peers(&mut self, relay: Relay, now: Now) {
        let slot = self.relays.get(relay.allocation as usize);
        let Some(socket) = slot.and_then(|slot| slot[relay.family as usize].as_ref()) else {
            return;
        };
        let Ok(count) = self.inbox.receive(socket) else { return };
        for index in 0..count {
            // Gone, if what came before has ended the allocation.
            let slot = self.relays.get(relay.allocation as usize);
            let Some(socket) = slot.and_then(|slot| slot[relay.family as usize].as_ref()) else {
                break;
            };
            let Some(received) = self.inbox.get(index, socket) else { continue };
            let (bytes, segment) = (received.bytes, received.segment);
            self.turn.handle_peer(relay, received.source, bytes, segment, now, &mut self.output);
            let bytes: *const [u8] = bytes;
            self.obey(Some(bytes), now);
        }
        self.outbox.flush();
    }

    /// Does what `proto` said about `input`, a message of the inbox.
    fn obey(&mut self, input: Option<*const [u8]>, now: Now) {
        let mut at = 0;
        while let Some(command) = self.output.commands.get(at).cloned() {
            at += 1;
            match command {
                Command::Answer { to, bytes } => self.answer(to, bytes, now),
                Command::Forward { to, prefix, run } => {
                    if let Some(input) = input {
                        self.forward(to, &prefix, run, input, now);
                    }
                }
                Command::Open { relay, port } => {
                    let opened = self.open(relay, port);
                    self.turn.handle_opened(relay, opened, now, &mut self.output);
                }
                Command::Close(relay) => {
                    self.outbox.flush();
                    if let Some(slot) = self.relays.get_mut(relay.allocation as usize) {
                        slot[relay.family as usize] = None;
                    }
                }
                Command::Hangup(_) => {}
            }
        }
        self.output.clear();
    }

    fn answer(&mut self, to: Client, bytes: std::ops::Range<usize>, now: Now) {
        let (listener, local) = match to.via {
            Via::Udp { listener, local } => (listener, local),
            Via::Stream(slot) => {
                let bytes = self.output.bytes.get(bytes).unwrap_or_default();
                return self.streams.send(slot, &[bytes], now.ms);
            }
        };
        let Some(socket) = self.sockets.get(usize::from(listener)) else { return };
        let Some(bytes) = self.output.bytes.get(bytes) else { return };
        // SAFETY: everything is copied, the borrowed body is empty.
        unsafe { self.outbox.push(socket, to.address, Some(local), bytes, &[], 0) };
    }

    fn forward(&mut self, to: Hop, prefix: &Prefix, run: Run, input: *const [u8], now: Now) {
        let (socket, address, local) = match to {
            Hop::Peer { from, to } => {
                let slot = self.relays.get(from.allocation as usize);
                (slot.and_then(|slot| slot[from.family as usize].as_ref()), to, None)
            }
            Hop::Client(Client { via: Via::Udp { listener, local }, address }) => {
                (self.sockets.get(usize::from(listener)), address, Some(local))
            }
            Hop::Client(Client { via: Via::Stream(slot), .. }) => {
                return self.stream_out(slot, prefix, run, input, now);
            }
        };
        let Some(socket) = socket else { return };
        // SAFETY: `input` is a message in the inbox, which nobody writes before the
        // next `receive`; before that comes `flush`.
        let input: &[u8] = unsafe { &*input };
        for index in 0..run.count {
            let Some(body) = input.get(run.range(index)) else { return };
            let mut channel = [0; 4];
            let (head, padding) = self.output.around(prefix, body.len(), &mut channel);
            // SAFETY: as above.
            unsafe { self.outbox.push(socket, address, local, head, body, padding) };
        }
    }

    /// The same into a connection, where everything is copied.
    fn stream_out(&mut self, slot: u32, prefix: &Prefix, run: Run, input: *const [u8], now: Now) {
        // SAFETY: `input` is a message in the inbox or a frame of a connection's
        // bytes, which nobody writes before `obey` returns.
        let input: &[u8] = unsafe { &*input };
        for index in 0..run.count {
            let Some(body) = input.get(run.range(index)) else { return };
            let mut channel = [0; 4];
            // A stream pads everything itself.
            let (head, _) = self.output.around(prefix, body.len(), &mut channel);
            self.streams.send(slot, &[head, body], now.ms);
        }
    }

    fn open(&mut self, relay: Relay, port: u16) -> Opened {
        let Some(ip) = self.bind[relay.family as usize] else { return Opened::Failed };
        let socket = match Datagrams::bind(SocketAddr::new(ip, port), None) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Opened::Taken,
            Err(_) => return Opened::Failed,
        };
        let number = u64::from(relay.allocation) << 1 | relay.family as u64;
        if self.poll.set(socket.raw(), RELAY << 32 | number, true, false, true).is_err() {
            return Opened::Failed;
        }
        let place = relay.allocation as usize;
        if self.relays.len() <= place {
            self.relays.resize_with(place + 1, Default::default);
        }
        self.relays[place][relay.family as usize] = Some(socket);
        Opened::Open
    }
}
