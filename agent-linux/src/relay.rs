//! Connections to relays, for networks that let no UDP out: TCP, and TLS in TCP.
//! The agent says when to open and close one; a datagram that finds no room in
//! it is dropped, as a full queue drops datagrams elsewhere.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;

use rustls::client::ClientConnection;
use weft_agent_core::event::StreamId;
use weft_agent_core::relay::StreamCommand;

use crate::control::tls::Tls;
use crate::net::nat64::Prefix;
use crate::net::tcp::{Race, Standing};
use crate::os::poll::{Interest, Place, PollSet};
use crate::os::{clock, would_block};

/// Bytes that wait for the network, beside what the kernel holds: some 20
/// packets. More would only make each of them late.
const QUEUE: usize = 32 * 1_024;
/// Bytes of one read.
const READ: usize = 16 * 1_024;
/// Reads of one connection in one turn of the loop.
const READS: u8 = 8;

/// What became of a connection.
pub(crate) enum Told<'a> {
    /// It stands.
    Connected,
    /// It was refused, closed or broke.
    Closed,
    /// It brought this.
    Data(&'a [u8]),
}

enum Socket {
    Connecting(Race),
    Open(TcpStream),
}

struct Connection {
    id: StreamId,
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    /// The agent was told that it stands.
    is_told: bool,
    /// What the kernel has not taken yet.
    queue: Vec<u8>,
    places: Vec<Place>,
    /// Reads that are left in this turn.
    reads: u8,
}

/// All connections to relays.
pub(crate) struct Relays {
    /// Made for the first connection that wants it.
    tls: Option<Tls>,
    open: Vec<Connection>,
    /// Could not be opened at all.
    failed: Vec<StreamId>,
    buffer: Box<[u8; READ]>,
    /// Datagrams that found no room.
    pub(crate) dropped: u64,
}

impl Relays {
    pub(crate) fn new() -> Self {
        let (open, failed) = (Vec::new(), Vec::new());
        Self { tls: None, open, failed, buffer: Box::new([0; READ]), dropped: 0 }
    }

    /// Does what the agent wants; IPv4 addresses lie behind a translator, if there is
    /// one.
    pub(crate) fn handle(&mut self, command: StreamCommand, translator: Option<Prefix>) {
        match command {
            StreamCommand::Close { stream } => self.open.retain(|one| one.id != stream),
            StreamCommand::Open { stream: id, tls, address, .. } => {
                let tls =
                    if tls { self.tls(&address.ip().to_string()).map(Some) } else { Ok(None) };
                let Ok(tls) = tls else {
                    // It cannot be spoken here: as if nobody answered.
                    return self.failed.push(id);
                };
                let at = translator.map_or(address, |prefix| prefix.outwards(address));
                let socket = Socket::Connecting(Race::new(vec![at], clock::boot_micros()));
                self.open.push(Connection {
                    id,
                    socket,
                    tls,
                    is_told: false,
                    queue: Vec::new(),
                    places: Vec::new(),
                    reads: READS,
                });
            }
        }
    }

    /// Whatever a relay's certificate says: what goes through it is sealed, and
    /// what is asked of it is signed.
    fn tls(&mut self, host: &str) -> Result<Box<ClientConnection>, rustls::Error> {
        if self.tls.is_none() {
            self.tls = Some(Tls::new(None)?);
        }
        match &self.tls {
            Some(tls) => tls.connect(host, false),
            None => Err(rustls::Error::General("no TLS".to_owned())),
        }
    }

    /// Adds the descriptors to the next wait.
    pub(crate) fn register(&mut self, set: &mut PollSet) {
        for connection in &mut self.open {
            connection.places.clear();
            match &connection.socket {
                Socket::Connecting(race) => {
                    let places = race.descriptors().map(|fd| set.add(fd, Interest::WRITE));
                    connection.places.extend(places);
                }
                Socket::Open(tcp) => {
                    let writable = !connection.queue.is_empty()
                        || connection.tls.as_ref().is_some_and(|tls| tls.wants_write());
                    let interest = Interest { readable: true, writable };
                    connection.places.push(set.add(tcp.as_fd(), interest));
                }
            }
        }
    }

    /// Whether something is to be told without waiting.
    pub(crate) fn is_pressed(&self) -> bool {
        let starts = |one: &Connection| matches!(&one.socket, Socket::Connecting(race) if race.deadline().is_some());
        !self.failed.is_empty() || self.open.iter().any(starts)
    }

    /// The wait is over: what is ready is looked at.
    pub(crate) fn begin(&mut self, set: &PollSet) {
        for connection in &mut self.open {
            let is_ready = connection.places.iter().any(|&place| set.is_ready(place));
            let is_new = connection.places.is_empty();
            connection.reads = if is_ready || is_new { READS } else { 0 };
        }
    }

    /// What became of connections. Ask until `None`.
    pub(crate) fn next(&mut self) -> Option<(StreamId, Told<'_>)> {
        if let Some(id) = self.failed.pop() {
            return Some((id, Told::Closed));
        }
        for at in 0..self.open.len() {
            let connection = &mut self.open[at];
            while connection.reads > 0 {
                connection.reads -= 1;
                match connection.advance(&mut *self.buffer) {
                    Ok(Progress::Nothing) => connection.reads = 0,
                    Ok(Progress::Again) => {}
                    Ok(Progress::Connected) => return Some((connection.id, Told::Connected)),
                    Ok(Progress::Read(len)) => {
                        let id = connection.id;
                        return Some((id, Told::Data(self.buffer.get(..len)?)));
                    }
                    Err(_) => {
                        let id = self.open.remove(at).id;
                        return Some((id, Told::Closed));
                    }
                }
            }
        }
        None
    }

    /// Sends `before`, `bytes` and zeroes, or drops all of it.
    pub(crate) fn send(&mut self, id: StreamId, before: &[u8], bytes: &[u8], padding: usize) {
        let connection = self.open.iter_mut().find(|connection| connection.id == id);
        let Some(connection) = connection else { return };
        let whole = [before, bytes, &[0; 3][..padding.min(3)]];
        if !connection.send(&whole) {
            self.dropped += 1;
        }
    }
}

enum Progress {
    Nothing,
    /// Something was done, and there may be more.
    Again,
    Connected,
    Read(usize),
}

impl Connection {
    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<Progress> {
        if let Socket::Connecting(race) = &mut self.socket {
            match race.advance(clock::boot_micros()) {
                Standing::Running => return Ok(Progress::Nothing),
                Standing::Lost(error) => return Err(error),
                Standing::Won(_, tcp) => self.socket = Socket::Open(tcp),
            }
        }
        self.flush()?;
        if !self.is_told && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking()) {
            self.is_told = true;
            return Ok(Progress::Connected);
        }
        let Socket::Open(tcp) = &mut self.socket else { return Ok(Progress::Nothing) };
        let Some(tls) = &mut self.tls else {
            return match tcp.read(buffer) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => Ok(Progress::Read(len)),
                Err(error) if would_block(&error) => Ok(Progress::Nothing),
                Err(error) => Err(error),
            };
        };
        match tls.reader().read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => return Ok(Progress::Read(len)),
            Err(error) if would_block(&error) => {}
            Err(error) => return Err(error),
        }
        match tls.read_tls(tcp) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if would_block(&error) => return Ok(Progress::Nothing),
            Err(error) => return Err(error),
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        Ok(Progress::Again)
    }

    /// Whether there was room.
    fn send(&mut self, parts: &[&[u8]]) -> bool {
        if self.queue.len() > QUEUE {
            return false;
        }
        parts.iter().for_each(|part| self.queue.extend_from_slice(part));
        // A broken connection is found out by the next read.
        drop(self.flush());
        true
    }

    /// Gives the kernel what it takes.
    fn flush(&mut self) -> io::Result<()> {
        let Socket::Open(tcp) = &mut self.socket else { return Ok(()) };
        loop {
            let written = match &mut self.tls {
                Some(tls) if tls.wants_write() => tls.write_tls(tcp).map(|_| 0),
                Some(tls) if tls.is_handshaking() => return Ok(()),
                _ if self.queue.is_empty() => return Ok(()),
                // Sealed a record at a time, so that what waits is counted here.
                Some(tls) => tls.writer().write(&self.queue),
                None => tcp.write(&self.queue),
            };
            match written {
                Ok(len) => drop(self.queue.drain(..len)),
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
