//! TURN over TCP and TLS, for networks that let nothing else through.
//!
//! Nobody is waited for: a connection's unsent bytes are bounded, packets that
//! find no room are lost as datagrams are, and whoever takes nothing for
//! [`STALLED_MS`] is dropped. A connection at rest holds no buffer of its own
//! (TLS keeps what TLS needs).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};
use weft_wire::stun::{StunError, frame_len};

use super::net::Poll;

/// The longest frame: ChannelData around the longest UDP payload, padded.
const MAX_FRAME: usize = 65_536 + 24;
/// Bytes that may wait to be sent on one connection.
const MAX_UNSENT: usize = 256 << 10;
/// From the connection to its first frame.
const FIRST_MS: u64 = 10_000;
/// Without a frame and without an allocation.
const IDLE_MS: u64 = 60_000;
/// With bytes to send and none taken.
const STALLED_MS: u64 = 10_000;
/// Most connections, in all and of one address.
const MOST: usize = 4_096;
const MOST_OF_ONE: u32 = 256;
/// How many are taken at once, so that others have their turn.
const ACCEPTS: usize = 32;
/// How long nobody is taken after the system gave an error: it has no
/// descriptors, and asking at once would only use time.
const PAUSE_MS: u64 = 500;

/// A port for connections.
pub(super) struct Door {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    token: u64,
    resumes_ms: Option<u64>,
}

impl Door {
    pub(super) fn bind(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, tls, token: 0, resumes_ms: None })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct Stream {
    socket: TcpStream,
    tls: Option<Box<ServerConnection>>,
    address: SocketAddr,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// What waits to be sent from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// Bytes that TLS was given since it last had nothing to send.
    sealed: usize,
    /// When something was last taken from `unsent`.
    moved_ms: u64,
    /// When it is looked at again.
    deadline_ms: u64,
    is_dirty: bool,
    waits_to_write: bool,
}

/// All connections.
pub(super) struct Streams {
    doors: Vec<Door>,
    slots: Vec<Option<Stream>>,
    free: Vec<u32>,
    of_address: HashMap<IpAddr, u32>,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    dirty: Vec<u32>,
    scratch: Vec<u8>,
    /// The upper half of a connection's token.
    kind: u64,
    /// Packets that found no room.
    pub(super) lost: u64,
    /// Connections taken, and turned away or dropped for being too slow.
    pub(super) taken: u64,
    pub(super) dropped: u64,
}

impl Streams {
    pub(super) fn new(mut doors: Vec<Door>, poll: &Poll, door: u64, kind: u64) -> io::Result<Self> {
        for (index, at) in doors.iter_mut().zip(0_u64..).map(|(door, at)| (at, door)) {
            at.token = door << 32 | index;
            poll.set(at.listener.as_raw_fd(), at.token, true, false, true)?;
        }
        Ok(Self {
            doors,
            slots: Vec::new(),
            free: Vec::new(),
            of_address: HashMap::new(),
            timers: BinaryHeap::new(),
            dirty: Vec::new(),
            scratch: Vec::new(),
            kind,
            lost: 0,
            taken: 0,
            dropped: 0,
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes who knocks.
    pub(super) fn accept(&mut self, door: usize, poll: &Poll, now_ms: u64) {
        for _ in 0..ACCEPTS {
            let Some(at) = self.doors.get_mut(door) else { return };
            let (socket, address) = match at.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => {
                    at.resumes_ms = Some(now_ms + PAUSE_MS);
                    // What cannot be paused is asked again at once.
                    let _ = poll.set(at.listener.as_raw_fd(), at.token, false, false, false);
                    return;
                }
            };
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            let tls = at.tls.clone();
            if self.admit(socket, address, tls, poll, now_ms).is_none() {
                self.dropped += 1;
            }
        }
    }

    fn admit(
        &mut self,
        socket: TcpStream,
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        poll: &Poll,
        now_ms: u64,
    ) -> Option<()> {
        let of_address = self.of_address.get(&address.ip()).copied().unwrap_or(0);
        if self.len() >= MOST || of_address >= MOST_OF_ONE {
            return None;
        }
        socket.set_nonblocking(true).ok()?;
        socket.set_nodelay(true).ok()?;
        let tls = match tls {
            None => None,
            Some(config) => {
                let mut tls = Box::new(ServerConnection::new(config).ok()?);
                tls.set_buffer_limit(None);
                Some(tls)
            }
        };
        let slot = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        let token = self.kind << 32 | u64::from(slot);
        poll.set(socket.as_raw_fd(), token, true, false, true).ok()?;
        let deadline_ms = now_ms + FIRST_MS;
        let stream = Stream {
            socket,
            tls,
            address,
            partial: Vec::new(),
            unsent: Vec::new(),
            sent: 0,
            sealed: 0,
            moved_ms: now_ms,
            deadline_ms,
            is_dirty: false,
            waits_to_write: false,
        };
        if self.free.pop().is_some() {
            self.slots[slot as usize] = Some(stream);
        } else {
            self.slots.push(Some(stream));
        }
        *self.of_address.entry(address.ip()).or_default() += 1;
        self.timers.push(Reverse((deadline_ms, slot)));
        self.taken += 1;
        Some(())
    }

    /// Reads what is there, behind what was left before: the other end, the
    /// bytes, and whether there will be more. They come back with
    /// [`Streams::keep`].
    pub(super) fn receive(&mut self, slot: u32) -> Option<(SocketAddr, Vec<u8>, bool)> {
        let stream = self.slots.get_mut(slot as usize)?.as_mut()?;
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        bytes.append(&mut stream.partial);
        stream.partial = Vec::new();
        let is_open = stream.receive(&mut bytes).is_ok();
        Some((stream.address, bytes, is_open))
    }

    /// The frame at the front of these bytes; `Ok(None)` while it is not whole.
    ///
    /// # Errors
    ///
    /// The stream is of no use any more.
    pub(super) fn frame(bytes: &[u8]) -> Result<Option<&[u8]>, StunError> {
        match frame_len(bytes)? {
            Some(len) if len > MAX_FRAME => Err(StunError::NoRoom),
            Some(len) => Ok(bytes.get(..len)),
            None => Ok(None),
        }
    }

    /// Keeps what is left behind `used` bytes for the next time.
    pub(super) fn keep(&mut self, slot: u32, bytes: Vec<u8>, used: usize, now_ms: u64) {
        if let Some(Some(stream)) = self.slots.get_mut(slot as usize) {
            if used > 0 {
                stream.deadline_ms = now_ms + IDLE_MS;
            }
            stream.partial = bytes[used..].to_vec();
            // TLS may have something to say by itself.
            if stream.tls.as_ref().is_some_and(|tls| tls.wants_write()) && !stream.is_dirty {
                stream.is_dirty = true;
                self.dirty.push(slot);
            }
        }
        self.scratch = bytes;
    }

    /// Puts parts of one message behind what is to be sent; the message is lost
    /// when too much waits.
    pub(super) fn send(&mut self, slot: u32, parts: &[&[u8]], now_ms: u64) {
        let Some(Some(stream)) = self.slots.get_mut(slot as usize) else { return };
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let padded = len.next_multiple_of(4);
        let waiting = stream.waiting();
        if waiting + padded > MAX_UNSENT {
            self.lost += 1;
            return;
        }
        if waiting == 0 {
            stream.moved_ms = now_ms;
        }
        let start = stream.unsent.len();
        parts.iter().for_each(|part| stream.unsent.extend_from_slice(part));
        stream.unsent.resize(start + padded, 0);
        if let Some(tls) = &mut stream.tls {
            // One record each: coturn's clients read a record as a message. The
            // buffer has no limit but ours, so all of it is taken.
            let taken = tls.writer().write(&stream.unsent);
            self.lost += u64::from(taken.is_err());
            stream.sealed += padded;
            stream.unsent.clear();
        }
        if !stream.is_dirty {
            stream.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Sends what came together; returns connections that are over.
    pub(super) fn flush(&mut self, poll: &Poll, now_ms: u64) -> Vec<u32> {
        let mut over = Vec::new();
        while let Some(slot) = self.dirty.pop() {
            let token = self.kind << 32 | u64::from(slot);
            let Some(Some(stream)) = self.slots.get_mut(slot as usize) else { continue };
            stream.is_dirty = false;
            match stream.push(now_ms) {
                Ok(waits) if waits != stream.waits_to_write => {
                    stream.waits_to_write = waits;
                    if poll.set(stream.socket.as_raw_fd(), token, true, waits, false).is_err() {
                        over.push(slot);
                    }
                    // It is looked at before its usual deadline.
                    if waits {
                        self.timers.push(Reverse((now_ms + STALLED_MS, slot)));
                    }
                }
                Ok(_) => {}
                Err(_) => over.push(slot),
            }
        }
        over
    }

    /// A connection can take bytes again.
    pub(super) fn writable(&mut self, slot: u32) {
        if let Some(Some(stream)) = self.slots.get_mut(slot as usize)
            && !stream.is_dirty
        {
            stream.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// When [`Streams::expired`] has something to do.
    pub(super) fn deadline(&self) -> Option<u64> {
        let resumes = self.doors.iter().filter_map(|door| door.resumes_ms).min();
        let timer = self.timers.peek().map(|Reverse((at_ms, _))| *at_ms);
        [resumes, timer].into_iter().flatten().min()
    }

    /// A connection whose time is over, until there is none. One that has an
    /// allocation may rest as long as that lives.
    pub(super) fn expired(
        &mut self,
        poll: &Poll,
        now_ms: u64,
        has_allocation: impl Fn(u32, SocketAddr) -> bool,
    ) -> Option<u32> {
        for door in &mut self.doors {
            if door.resumes_ms.is_some_and(|at| at <= now_ms)
                && poll.set(door.listener.as_raw_fd(), door.token, true, false, false).is_ok()
            {
                door.resumes_ms = None;
            }
        }
        while let Some(Reverse((at_ms, slot))) = self.timers.peek().copied() {
            if at_ms > now_ms {
                return None;
            }
            self.timers.pop();
            let Some(Some(stream)) = self.slots.get_mut(slot as usize) else { continue };
            let stalled = stream.waits_to_write && stream.moved_ms + STALLED_MS <= now_ms;
            let idle = stream.deadline_ms <= now_ms;
            if stalled || (idle && !has_allocation(slot, stream.address)) {
                self.dropped += 1;
                return Some(slot);
            }
            if idle {
                stream.deadline_ms = now_ms + IDLE_MS;
            }
            let mut next = stream.deadline_ms;
            if stream.waits_to_write {
                next = next.min(stream.moved_ms + STALLED_MS);
            }
            // Several timers of one connection become one.
            if !self.timers.iter().any(|Reverse((at, other))| *other == slot && *at <= next) {
                self.timers.push(Reverse((next, slot)));
            }
        }
        None
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, slot: u32) -> Option<SocketAddr> {
        let stream = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        let ip = stream.address.ip();
        if let Some(count) = self.of_address.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&ip);
            }
        }
        Some(stream.address)
    }
}

impl Stream {
    /// Appends what the socket has to `into`, at most about 64 KiB.
    fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let start = into.len();
        into.resize(start + MAX_FRAME, 0);
        let mut len = start;
        let result = match &mut self.tls {
            None => read_some(&mut self.socket, into, &mut len),
            Some(tls) => read_tls(&mut self.socket, tls, into, &mut len),
        };
        into.truncate(len);
        result
    }

    /// Bytes that wait to be sent, before TLS adds to them.
    fn waiting(&self) -> usize {
        self.unsent.len() - self.sent + self.sealed
    }

    /// Writes what the socket takes; whether something is left.
    fn push(&mut self, now_ms: u64) -> io::Result<bool> {
        let waits = match &mut self.tls {
            Some(tls) => {
                let waits = push_tls(&mut self.socket, tls, &mut self.moved_ms, now_ms)?;
                if !waits {
                    self.sealed = 0;
                }
                waits
            }
            None => self.push_plain(now_ms)?,
        };
        if !waits {
            // At rest it holds no buffer.
            self.unsent = Vec::new();
        }
        Ok(waits)
    }

    fn push_plain(&mut self, now_ms: u64) -> io::Result<bool> {
        while self.sent < self.unsent.len() {
            match self.socket.write(&self.unsent[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.sent += count;
                    self.moved_ms = now_ms;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.sent > MAX_UNSENT / 2 {
                        self.unsent.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        Ok(false)
    }
}

fn push_tls(
    socket: &mut TcpStream,
    tls: &mut ServerConnection,
    moved_ms: &mut u64,
    now_ms: u64,
) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => *moved_ms = now_ms,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn read_some(from: &mut impl Read, into: &mut [u8], len: &mut usize) -> io::Result<()> {
    loop {
        match from.read(&mut into[*len..]) {
            Ok(0) if *len == into.len() => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                *len += count;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// One read from the socket, and all that comes out of it.
fn read_tls(
    socket: &mut TcpStream,
    tls: &mut ServerConnection,
    into: &mut [u8],
    len: &mut usize,
) -> io::Result<()> {
    match tls.read_tls(socket) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    }
    tls.process_new_packets().map_err(io::Error::other)?;
    while *len < into.len() {
        match tls.reader().read(&mut into[*len..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => *len += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
