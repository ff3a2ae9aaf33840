//! A way in through the router in front of this machine: a mapping that the router
//! keeps for the tunnel's port. [`mapper`] decides, this is its sockets.

pub(crate) mod http;
pub(crate) mod mapper;
mod pcp;
mod upnp;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsFd;

use crate::net::host::HostView;
use crate::net::socket;
use crate::os::poll::{Interest, Place, PollSet};
use crate::os::{clock, would_block};
use http::Progress;
use mapper::{Gateway, Mapper, Mapping, Output};

/// Answers of routers are far shorter.
const LONGEST: usize = 1_500;
/// Taking a mapping back over a connection may take this long, in microseconds.
const RELEASE_US: u64 = 1_000_000;

/// The router's side of the tunnel's port.
pub(crate) struct PortMapping {
    mapper: Mapper,
    socket: UdpSocket,
    connection: Option<Connection>,
    places: Vec<Place>,
}

/// One request to the router, and its answer.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl PortMapping {
    /// Asks nobody yet.
    ///
    /// # Errors
    ///
    /// When there is no socket to be had.
    pub(crate) fn open(nonce: [u8; 12], port: u16) -> io::Result<Self> {
        let socket = bind()?;
        let mapper = Mapper::new(nonce, port);
        Ok(Self { mapper, socket, connection: None, places: Vec::new() })
    }

    /// What the router gave.
    pub(crate) fn mapping(&self) -> Option<Mapping> {
        self.mapper.mapping()
    }

    /// Whether that has changed since this was asked.
    pub(crate) const fn poll_change(&mut self) -> bool {
        self.mapper.poll_change()
    }

    /// The host's network is like this now.
    pub(crate) fn set_view(&mut self, view: &HostView, mesh: &str) {
        let router = view.router(mesh);
        let gateway = router.and_then(|router| Some(Gateway { router, local: towards(router)? }));
        self.mapper.set_gateway(gateway, clock::boot_micros());
        self.act();
    }

    /// Adds its sockets to a wait.
    pub(crate) fn register(&mut self, set: &mut PollSet) {
        self.places.clear();
        self.places.push(set.add(self.socket.as_fd(), Interest::READ));
        if let Some(connection) = &self.connection {
            let writable = connection.sent < connection.request.len();
            let interest = Interest { readable: !writable, writable };
            self.places.push(set.add(connection.stream.as_fd(), interest));
        }
    }

    /// When there is something to do, in microseconds since boot.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.mapper.poll_timeout()
    }

    /// Does what is ready or due.
    pub(crate) fn handle(&mut self, set: &PollSet) {
        let now_us = clock::boot_micros();
        let is_ready = self.places.drain(..).any(|place| set.is_ready(place));
        if is_ready {
            self.receive(now_us);
            if let Some(response) = self.connection.as_mut().and_then(Connection::advance) {
                self.connection = None;
                self.mapper.handle_response(response.as_ref(), now_us);
            }
        }
        if self.mapper.poll_timeout().is_some_and(|at| at <= now_us) {
            // A connection that took too long is part of what is given up.
            self.connection = None;
            self.mapper.handle_timeout(now_us);
        }
        self.act();
    }

    fn receive(&mut self, now_us: u64) {
        let mut buffer = [0; LONGEST];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((len, SocketAddr::V4(source))) => {
                    let datagram = buffer.get(..len).unwrap_or_default();
                    self.mapper.handle_datagram(source, datagram, now_us);
                }
                Err(error) if would_block(&error) => return,
                // Another family cannot be; an ICMP message is silence.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn act(&mut self) {
        while let Some(output) = self.mapper.poll_output() {
            match output {
                // What cannot be sent is sent again, or given up.
                Output::Datagram { to, bytes } => drop(self.socket.send_to(&bytes, to)),
                Output::Request { to, bytes } => match Connection::open(to, bytes) {
                    Ok(connection) => self.connection = Some(connection),
                    Err(_) => self.mapper.handle_response(None, clock::boot_micros()),
                },
            }
        }
    }

    /// Takes the mapping back. A router that does not answer forgets it by itself.
    pub(crate) fn release(&mut self) {
        self.connection = None;
        for output in self.mapper.release() {
            match output {
                Output::Datagram { to, bytes } => drop(self.socket.send_to(&bytes, to)),
                Output::Request { to, bytes } => {
                    if let Ok(connection) = Connection::open(to, bytes) {
                        finish(connection);
                    }
                }
            }
        }
    }
}

fn finish(mut connection: Connection) {
    let until = clock::boot_micros() + RELEASE_US;
    let mut set = PollSet::default();
    while connection.advance().is_none() {
        let left = until.saturating_sub(clock::boot_micros());
        set.clear();
        let writable = connection.sent < connection.request.len();
        set.add(connection.stream.as_fd(), Interest { readable: !writable, writable });
        if left == 0 || set.wait(Some(left)).is_err() {
            return;
        }
    }
}

fn bind() -> io::Result<UdpSocket> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let fd = socket::open(&any, libc::SOCK_DGRAM, 0)?;
    socket::mark(fd.as_fd());
    socket::bind(fd.as_fd(), any)?;
    Ok(fd.into())
}

/// Our address on the way to the router. Nothing is sent.
fn towards(router: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = bind().ok()?;
    socket.connect((router, pcp::PORT)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(local) => Some(*local.ip()),
        SocketAddr::V6(_) => None,
    }
}

impl Connection {
    fn open(to: SocketAddrV4, request: Vec<u8>) -> io::Result<Self> {
        let to = SocketAddr::V4(to);
        let fd = socket::open(&to, libc::SOCK_STREAM, 0)?;
        socket::mark(fd.as_fd());
        socket::connect(fd.as_fd(), to)?;
        Ok(Self { stream: fd.into(), request, sent: 0, received: Vec::new() })
    }

    /// Goes on; the end is an answer, or none.
    fn advance(&mut self) -> Option<Option<http::Response>> {
        match self.exchange() {
            Ok(Progress::Partial) => None,
            Ok(Progress::Whole(response)) => Some(Some(response)),
            Ok(Progress::Wrong) | Err(_) => Some(None),
        }
    }

    fn exchange(&mut self) -> io::Result<Progress> {
        while let Some(rest) = self.request.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(len) => self.sent += len,
                Err(error) if is_early(&error) => return Ok(Progress::Partial),
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; LONGEST];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(http::read(&self.received, true)),
                Ok(len) => self.received.extend_from_slice(&buffer[..len]),
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(error),
            }
            if self.received.len() >= http::LONGEST {
                break;
            }
        }
        Ok(http::read(&self.received, false))
    }
}

/// Not connected yet, or no room.
fn is_early(error: &io::Error) -> bool {
    would_block(error) || error.kind() == io::ErrorKind::NotConnected
}
