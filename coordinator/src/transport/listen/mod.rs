//! One TCP port for everything: MQTT, TLS and HTTP are told apart by the first
//! byte.
//!
//! Strangers hold a bounded number of places, few of them per address, and a
//! place is taken from the one who waited longest: somebody who opens
//! connections and says nothing displaces himself.

mod http;
mod places;

pub use self::http::Front;
pub use self::places::{Counted, Limits, Places, Waiting};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::service::count::Counter;
use crate::service::quiet::Quiet;
use crate::transport::mqtt::Broker;
use crate::transport::mqtt::stats::Early;

/// How long a stranger has to say who it is.
pub const INTRODUCTION: Duration = Duration::from_secs(10);
/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4_096;
/// Pause after the kernel refused a connection for want of descriptors or
/// memory: asking again at once would only burn a core.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// `handshake_failure`, fatal (RFC 8446 section 6): what a TLS client is told.
const TLS_ALERT: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 40];

/// The most that is read of a TLS client that is refused, in bytes.
const TLS_HELLO: usize = 16 * 1_024;

/// What the first byte of a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// A CONNECT's fixed header.
    Mqtt,
    /// A TLS handshake record.
    Tls,
    /// The first letter of an HTTP method.
    Http,
}

const fn protocol(first: u8) -> Option<Protocol> {
    match first {
        0x10 => Some(Protocol::Mqtt),
        0x16 => Some(Protocol::Tls),
        b'A'..=b'Z' => Some(Protocol::Http),
        _ => None,
    }
}

/// What the listener counts.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections that began with TLS, which is not served here.
    pub tls: Counter,
    /// Connections that began with HTTP.
    pub http: Counter,
    /// HTTP connections that found no place.
    pub http_full: Counter,
    /// Connections that began with something else.
    pub unknown: Counter,
    /// Times that the kernel could not give a connection.
    pub exhausted: Counter,
    said: Quiet,
}

/// Everything behind the port.
pub struct Behind {
    /// The MQTT endpoint.
    pub broker: Arc<Broker>,
    /// HTTP routes.
    pub front: Front,
    /// Who may hold a connection.
    pub places: Arc<Places>,
    /// Counters.
    pub stats: Stats,
}

/// A bound port.
pub struct Listener {
    socket: TcpListener,
}

impl Listener {
    /// Binds; `[::]` takes IPv4 too where the system allows it.
    ///
    /// # Errors
    ///
    /// The system's, as when the port is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { socket: socket.listen(BACKLOG)? })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts for ever; drop the future to stop. Connections live on in tasks
    /// of their own.
    pub async fn run(self, behind: Arc<Behind>) -> std::convert::Infallible {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    behind.stats.accepted.add();
                    let waiting = behind.places.wait(peer.ip());
                    tokio::spawn(serve(Arc::clone(&behind), stream, peer, waiting));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    behind.stats.exhausted.add();
                    if let Some(repeated) = behind.stats.said.may_say(
                        "listen.exhausted",
                        &(),
                        Instant::now().into_std(),
                    ) {
                        tracing::warn!(%error, repeated, "listen.exhausted");
                    }
                    sleep(EXHAUSTED).await;
                }
            }
        }
    }
}

/// Errors of `accept` that concern a connection that has gone already.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

async fn serve(behind: Arc<Behind>, stream: TcpStream, peer: SocketAddr, waiting: Waiting) {
    let deadline = Instant::now() + INTRODUCTION;
    let address = peer.ip().to_canonical();
    // Small packets both ways: waiting to fill segments only adds latency.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let first = match first_byte(&stream, &waiting, deadline).await {
        Ok(first) => first,
        Err(early) => return behind.broker.stats().early(early).add(),
    };
    match protocol(first) {
        Some(Protocol::Mqtt) => {
            let broker = Arc::clone(&behind.broker);
            broker.serve(stream, address, waiting, deadline).await;
        }
        Some(Protocol::Http) => serve_http(&behind, stream, peer, waiting).await,
        Some(Protocol::Tls) => {
            behind.stats.tls.add();
            refuse_tls(stream, deadline).await;
        }
        None => {
            behind.stats.unknown.add();
            tracing::debug!(%address, first, "listen.unknown");
        }
    }
}

async fn first_byte(stream: &TcpStream, waiting: &Waiting, deadline: Instant) -> Result<u8, Early> {
    let mut first = [0];
    let peek = async {
        tokio::select! {
            peeked = stream.peek(&mut first) => match peeked {
                Ok(1) => Ok(()),
                Ok(_) | Err(_) => Err(Early::Lost),
            },
            () = waiting.cut() => Err(Early::Crowded),
        }
    };
    timeout_at(deadline, peek).await.unwrap_or(Err(Early::Deadline))?;
    Ok(first[0])
}

async fn serve_http(behind: &Behind, stream: TcpStream, peer: SocketAddr, waiting: Waiting) {
    let Some(counted) = waiting.admit_http() else {
        behind.stats.http_full.add();
        return;
    };
    behind.stats.http.add();
    behind.front.serve(stream, peer).await;
    drop(counted);
}

/// Tells a TLS client in its own words that there is no TLS here. What it sends
/// is read until it hangs up: closing over unread bytes would reset the
/// connection and take the alert with it.
async fn refuse_tls(mut stream: TcpStream, deadline: Instant) {
    let tell = async {
        let mut hello = [0; 1_024];
        let mut read = stream.read(&mut hello).await?;
        stream.write_all(&TLS_ALERT).await?;
        stream.shutdown().await?;
        let mut left = TLS_HELLO;
        while read > 0 && left > 0 {
            left = left.saturating_sub(read);
            read = stream.read(&mut hello).await?;
        }
        io::Result::Ok(())
    };
    let soon = deadline.min(Instant::now() + Duration::from_secs(1));
    if !matches!(timeout_at(soon, tell).await, Ok(Ok(()))) {
        tracing::trace!("listen.tls-unheard");
    }
}

/// Closes an HTTP connection whose request never gets an answer.
const REQUEST: Duration = Duration::from_secs(60);

/// Runs a request's handler, at most [`REQUEST`] long.
async fn within_request<T>(answer: impl Future<Output = T>) -> Option<T> {
    timeout(REQUEST, answer).await.ok()
}
