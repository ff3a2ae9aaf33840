//! TCP connections of the control channel: marked, non-blocking, and to the
//! first of several addresses that answers (RFC 8305, with one order).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::net::socket;
use crate::os::would_block;

/// How long one address is alone before the next is tried beside it
/// (RFC 8305 section 5: 250 ms), in microseconds.
pub(crate) const STAGGER_US: u64 = 250_000;

/// What was sent and is not acknowledged for this long ends the connection, in
/// milliseconds (RFC 5482). Without it the kernel repeats for a quarter of an
/// hour, while an uplink that changed carries the next connection at once.
const UNACKNOWLEDGED_MS: libc::c_int = 30_000;

/// A race of connection attempts.
pub(crate) struct Race {
    waiting: std::vec::IntoIter<SocketAddr>,
    running: Vec<(SocketAddr, OwnedFd)>,
    next_start: u64,
    last_error: Option<io::Error>,
}

/// How a race stands.
pub(crate) enum Standing {
    /// This connection is open; the others were dropped.
    Won(SocketAddr, TcpStream),
    /// Every address refused or failed; the last error.
    Lost(io::Error),
    /// Nobody answered yet.
    Running,
}

impl Race {
    /// Starts with the first address.
    pub(crate) fn new(addresses: Vec<SocketAddr>, now_us: u64) -> Self {
        Self {
            waiting: addresses.into_iter(),
            running: Vec::new(),
            next_start: now_us,
            last_error: None,
        }
    }

    fn start_next(&mut self) -> Option<(SocketAddr, OwnedFd)> {
        let address = self.waiting.next()?;
        let attempt = || {
            let fd = socket::open(&address, libc::SOCK_STREAM, 0)?;
            socket::mark(fd.as_fd());
            socket::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
            let (level, name) = (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT);
            socket::set_option(fd.as_fd(), level, name, UNACKNOWLEDGED_MS)?;
            let done = socket::connect(fd.as_fd(), address)?;
            io::Result::Ok((fd, done))
        };
        match attempt() {
            Ok((fd, true)) => return Some((address, fd)),
            Ok((fd, false)) => self.running.push((address, fd)),
            Err(error) => self.last_error = Some(error),
        }
        None
    }

    /// Looks at the attempts and starts the next when it is time.
    pub(crate) fn advance(&mut self, now_us: u64) -> Standing {
        let mut won = None;
        let last_error = &mut self.last_error;
        self.running.retain_mut(|(address, fd)| match socket::take_error(fd.as_fd()) {
            Err(error) => {
                *last_error = Some(error);
                false
            }
            Ok(()) => {
                if won.is_none() && is_connected(fd.as_fd()) {
                    won = fd.try_clone().ok().map(|fd| (*address, fd));
                }
                true
            }
        });
        while won.is_none()
            && self.waiting.len() > 0
            && (now_us >= self.next_start || self.running.is_empty())
        {
            won = self.start_next();
            self.next_start = now_us + STAGGER_US;
        }
        match won {
            Some((address, fd)) => Standing::Won(address, TcpStream::from(fd)),
            None if self.running.is_empty() => Standing::Lost(
                self.last_error.take().unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()),
            ),
            None => Standing::Running,
        }
    }

    /// Descriptors that become writable when an attempt ends.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running.iter().map(|(_, fd)| fd.as_fd())
    }

    /// When the next address is started, in microseconds since boot.
    pub(crate) fn deadline(&self) -> Option<u64> {
        (self.waiting.len() > 0).then_some(self.next_start)
    }
}

/// Whether this machine still has the address: a connection from one that it
/// lost can receive nothing more. What cannot be found out counts as "yes".
pub(crate) fn is_local(address: SocketAddr) -> bool {
    let mut any_port = address;
    any_port.set_port(0);
    let bound = std::net::UdpSocket::bind(any_port);
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Bytes of IP packets that a connection has been so far, both directions: what
/// was sent (again too) and received, and a header for each segment, pure
/// acknowledgements and the handshake among them. Nothing is known of Ethernet.
pub(crate) fn traffic(stream: &TcpStream) -> u64 {
    let Ok(info) = socket::tcp_info(stream.as_fd()) else {
        return 0;
    };
    // RFC 7323: all segments but the first carry timestamps, on every Linux.
    let v6 = stream.peer_addr().is_ok_and(
        |peer| matches!(peer, SocketAddr::V6(peer) if peer.ip().to_ipv4_mapped().is_none()),
    );
    let header: u64 = if v6 { 40 + 32 } else { 20 + 32 };
    let segments = u64::from(info.segments_out) + u64::from(info.segments_in);
    info.bytes_sent + info.bytes_received + segments * header
}

/// Whether the connection has another end.
fn is_connected(fd: BorrowedFd<'_>) -> bool {
    fd.try_clone_to_owned().map(TcpStream::from).is_ok_and(|stream| stream.peer_addr().is_ok())
}

/// Reads without waiting; `None` when there is nothing now, `Some(0)` at the
/// end of the stream.
///
/// # Errors
///
/// What `read(2)` reports.
pub(crate) fn read(mut stream: &TcpStream, out: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(out) {
        Ok(len) => Ok(Some(len)),
        Err(error) if would_block(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes without waiting; `None` when there is no room now.
///
/// # Errors
///
/// What `write(2)` reports.
pub(crate) fn write(mut stream: &TcpStream, data: &[u8]) -> io::Result<Option<usize>> {
    match stream.write(data) {
        Ok(len) => Ok(Some(len)),
        Err(error) if would_block(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::os::clock;
    use crate::os::poll::{Interest, PollSet};
    use std::net::{Ipv4Addr, TcpListener};

    fn run(addresses: Vec<SocketAddr>) -> Standing {
        let mut race = Race::new(addresses, clock::boot_micros());
        loop {
            let now = clock::boot_micros();
            match race.advance(now) {
                Standing::Running => {}
                other => return other,
            }
            let mut set = PollSet::default();
            for fd in race.descriptors() {
                set.add(fd, Interest::WRITE);
            }
            let wait = race.deadline().map(|at| at.saturating_sub(now));
            set.wait(wait).unwrap();
        }
    }

    #[test]
    fn own_addresses_are_told_from_lost_ones() {
        assert!(is_local("127.0.0.1:7420".parse().unwrap()));
        // RFC 5737: nobody's address.
        assert!(!is_local("203.0.113.77:7420".parse().unwrap()));
    }

    #[test]
    fn a_connection_does_not_repeat_for_a_quarter_of_an_hour() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let Standing::Won(_, stream) = run(vec![listener.local_addr().unwrap()]) else {
            panic!("the listening address did not win");
        };
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT);
        assert_eq!(socket::get_option(stream.as_fd(), level, name).unwrap(), UNACKNOWLEDGED_MS);
    }

    #[test]
    fn every_segment_of_a_connection_is_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let Standing::Won(_, stream) = run(vec![listener.local_addr().unwrap()]) else {
            panic!("the listening address did not win");
        };
        let (mut other, _) = listener.accept().unwrap();
        let before = traffic(&stream);
        // SYN, SYN and ACK, ACK.
        assert!((52 * 2..=52 * 4).contains(&before), "{before}");
        other.write_all(&[7; 1_000]).unwrap();
        let mut bytes = [0; 1_000];
        stream.set_nonblocking(false).unwrap();
        (&stream).read_exact(&mut bytes).unwrap();
        (&stream).write_all(&bytes[..500]).unwrap();
        other.read_exact(&mut bytes[..500]).unwrap();
        let passed = traffic(&stream) - before;
        // Two segments of data, and up to two acknowledgements.
        assert!((1_500 + 2 * 52..=1_500 + 4 * 52).contains(&passed), "{passed}");
    }

    #[test]
    fn a_refusal_leads_to_the_next_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (open, refused) = (listener.local_addr().unwrap(), closed.local_addr().unwrap());
        drop(closed);
        match run(vec![refused, open]) {
            Standing::Won(address, stream) => {
                assert_eq!(address, open);
                assert_eq!(stream.peer_addr().unwrap(), open);
            }
            _ => panic!("the listening address did not win"),
        }
        match run(vec![refused]) {
            Standing::Lost(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
            _ => panic!("a refusal was not reported"),
        }
    }
}
