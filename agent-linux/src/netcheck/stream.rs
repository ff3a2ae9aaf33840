//! The ways to relays that are connections: each is opened and asked one Binding
//! request on a thread of its own, which ends by its own time limit.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use weft_wire::stun::{BINDING_REQUEST, BINDING_SUCCESS, Message, MessageWriter};

use super::{Rung, Way};
use crate::control::tls::Tls;
use crate::failure::{Failure, Result};
use crate::ipc::protocol::Relay;
use crate::net::socket;
use crate::os::poll::{Interest, wait_one};
use crate::os::{clock, entropy};

/// A connection may take this long, and so may each read of it …
const PATIENCE: Duration = Duration::from_secs(2);
/// … and TLS with the answer this long altogether, in microseconds.
const LIMIT_US: u64 = 4_000_000;
/// A STUN message over a connection that this asks for is far shorter.
const LONGEST: usize = 548;

/// A way that was tried.
#[derive(Clone, Debug)]
pub(super) struct Timed {
    pub(super) relay: u16,
    pub(super) way: Way,
}

type Trial = (u16, Rung, SocketAddr, JoinHandle<io::Result<Duration>>);

/// Begins with every connection that relays take.
///
/// # Errors
///
/// When no thread can be had.
pub(super) fn begin(relays: &[Relay]) -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for relay in relays {
        // Where both families would do, IPv4 is what old networks pass: as the
        // agent tries them.
        let (v4, v6) = relay.addresses;
        let Some(ip) = v4.map(Into::into).or_else(|| v6.map(Into::into)) else { continue };
        for (rung, port) in [(Rung::Tcp, relay.tcp), (Rung::Tls, relay.tls)] {
            let Some(port) = port else { continue };
            let address = SocketAddr::new(ip, port);
            let thread = std::thread::Builder::new().name("netcheck".to_owned());
            let trial = thread.spawn(move || time(rung, address)).map_err(Failure::internal)?;
            trials.push((relay.number, rung, address, trial));
        }
    }
    Ok(trials)
}

/// Waits for all of them.
pub(super) fn end(trials: Vec<Trial>) -> Vec<Timed> {
    let timed = |(relay, rung, address, trial): Trial| {
        let outcome = trial.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        let outcome = outcome.map_err(|error| words(&error));
        Timed { relay, way: Way { rung, address, outcome } }
    };
    trials.into_iter().map(timed).collect()
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".to_owned(),
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "no route".to_owned(),
        io::ErrorKind::InvalidData => "another program answers".to_owned(),
        _ => error.to_string(),
    }
}

/// The round trip of a Binding request, once the connection stands.
fn time(rung: Rung, address: SocketAddr) -> io::Result<Duration> {
    let mut stream = connect(address)?;
    let until = clock::boot_micros() + LIMIT_US;
    match rung {
        Rung::Tls => {
            let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let tls = Tls::new(None).map_err(wrong)?;
            // The certificate says nothing of whom one talks to, as for the agent.
            let mut connection = tls.connect(&address.ip().to_string(), false).map_err(wrong)?;
            while connection.is_handshaking() {
                in_time(until)?;
                connection.complete_io(&mut stream)?;
            }
            ask(&mut rustls::Stream::new(&mut *connection, &mut stream), until)
        }
        Rung::Tcp | Rung::Udp => ask(&mut stream, until),
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let fd = socket::open(&address, libc::SOCK_STREAM, 0)?;
    socket::mark(fd.as_fd());
    socket::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if !socket::connect(fd.as_fd(), address)? {
        let limit = Some(PATIENCE.as_micros() as u64);
        if !wait_one(fd.as_fd(), Interest::WRITE, limit)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket::take_error(fd.as_fd())?;
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Who says one byte now and then does not hold this up.
fn in_time(until: u64) -> io::Result<()> {
    if clock::boot_micros() < until { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

fn ask(stream: &mut (impl Read + Write), until: u64) -> io::Result<Duration> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let mut id = [0; 12];
    entropy::fill(&mut id);
    let mut request = [0; 28];
    let writer = MessageWriter::new(BINDING_REQUEST, id, &mut request);
    let len = writer.and_then(MessageWriter::finish).map_err(|_| wrong())?;
    let began = clock::boot_micros();
    stream.write_all(request.get(..len).unwrap_or_default())?;
    stream.flush()?;
    let mut answer = [0; LONGEST];
    let mut have = 0;
    loop {
        in_time(until)?;
        let len = stream.read(answer.get_mut(have..).unwrap_or_default())?;
        if len == 0 {
            // It hung up, or says more than an answer is.
            return Err(wrong());
        }
        have += len;
        let Some(&[_, _, high, low]) = answer[..have].first_chunk::<4>() else { continue };
        let whole = 20 + usize::from(u16::from_be_bytes([high, low]));
        let Some(bytes) = answer.get(..whole) else { return Err(wrong()) };
        if have < whole {
            continue;
        }
        let message = Message::parse(bytes).map_err(|_| wrong())?;
        if (message.kind(), message.transaction()) != (BINDING_SUCCESS, id) {
            return Err(wrong());
        }
        return Ok(Duration::from_micros(clock::boot_micros().saturating_sub(began)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    /// Answers the first connection with what `answer` makes of the request.
    fn serve(answer: impl FnOnce(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 28];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&answer(&request)).unwrap();
        });
        address
    }

    fn success(request: &[u8]) -> Vec<u8> {
        let id = Message::parse(request).unwrap().transaction();
        let mut out = [0; 64];
        let mut writer = MessageWriter::new(BINDING_SUCCESS, id, &mut out).unwrap();
        writer.xor_mapped_address("198.51.100.7:9".parse().unwrap()).unwrap();
        let len = writer.finish().unwrap();
        out[..len].to_vec()
    }

    #[test]
    fn a_connection_is_timed_and_what_is_no_relay_is_told() {
        assert!(time(Rung::Tcp, serve(success)).is_ok());
        for other in [b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Vec::new()] {
            let error = time(Rung::Tcp, serve(move |_| other)).unwrap_err();
            assert_eq!(words(&error), "another program answers");
        }
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        assert_eq!(words(&time(Rung::Tls, address).unwrap_err()), "refused");
    }
}
