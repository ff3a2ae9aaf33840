//! One TCP port for everything: MQTT, TLS and HTTP are told apart by the first
//! byte. Inside TLS it is MQTT or HTTP again, and HTTP may become MQTT inside
//! WebSocket.
//!
//! Strangers hold a bounded number of places, few of them per address, and a
//! place is taken from the one who waited longest: somebody who opens
//! connections and says nothing displaces himself.

mod http;
mod places;
mod tls;
mod websocket;

pub use self::http::Front;
pub use self::places::{Counted, Known, Limits, Places, Waiting};
pub use self::tls::{Credentials, CredentialsError, Tls};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
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
/// Bytes that are looked at before it is known who reads them. Whoever reads
/// more than that from the buffered stream reads past the buffer.
const PEEKED: usize = 1;

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
    /// Connections that began with TLS.
    pub tls: Counter,
    /// TLS handshakes that were too many of their site.
    pub tls_refused: Counter,
    /// TLS handshakes that failed.
    pub tls_failed: Counter,
    /// Connections that began with HTTP.
    pub http: Counter,
    /// HTTP connections that became WebSocket.
    pub websocket: Counter,
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
    /// TLS around either.
    pub tls: Tls,
    /// Who may hold a connection.
    pub places: Arc<Places>,
    /// Counters.
    pub stats: Arc<Stats>,
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
    // Small packets both ways: waiting to fill segments only adds latency.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let first = async {
        let mut first = [0];
        let peeked = stream.peek(&mut first).await;
        peeked.ok().filter(|len| *len == 1).map(|_| first[0])
    };
    match stranger(first, &waiting, deadline).await.map(|first| (protocol(first), first)) {
        Err(early) => behind.broker.stats().early(early).add(),
        Ok((Some(Protocol::Tls), _)) => {
            Box::pin(serve_tls(behind, stream, peer, waiting, deadline)).await;
        }
        Ok((protocol, first)) => {
            serve_plain(behind, stream, (protocol, first), peer, waiting, deadline).await;
        }
    }
}

/// What a stranger does, as long as it may wait; `None` = it went away. One that
/// has spoken already when its place is given away is heard all the same: it
/// waited for this process and not the other way round, as thousands behind one
/// address do that come back at once.
async fn stranger<T>(
    act: impl Future<Output = Option<T>>,
    waiting: &Waiting,
    deadline: Instant,
) -> Result<T, Early> {
    let act = async {
        tokio::select! {
            biased;
            done = act => done.ok_or(Early::Lost),
            () = waiting.cut() => Err(Early::Crowded),
        }
    };
    timeout_at(deadline, act).await.unwrap_or(Err(Early::Deadline))
}

/// The handshake takes the time of the introduction, not more: who is slow with
/// both is as slow as somebody who says nothing.
async fn serve_tls(
    behind: Arc<Behind>,
    stream: TcpStream,
    peer: SocketAddr,
    waiting: Waiting,
    deadline: Instant,
) {
    behind.stats.tls.add();
    if !behind.tls.may_shake(peer.ip()) {
        return behind.stats.tls_refused.add();
    }
    let shake = async {
        match behind.tls.accept(stream).await {
            Ok(stream) => Some(Box::new(BufReader::with_capacity(PEEKED, stream))),
            Err(error) => {
                behind.stats.tls_failed.add();
                tracing::debug!(%peer, %error, "listen.tls");
                None
            }
        }
    };
    let opened = async {
        let mut stream = stranger(shake, &waiting, deadline).await?;
        let first = async { stream.fill_buf().await.ok()?.first().copied() };
        let first = stranger(first, &waiting, deadline).await?;
        Ok((stream, first))
    };
    match opened.await {
        Err(early) => behind.broker.stats().early(early).add(),
        // TLS within TLS is nobody's.
        Ok((stream, first)) => {
            let inside = protocol(first).filter(|inside| *inside != Protocol::Tls);
            serve_plain(behind, stream, (inside, first), peer, waiting, deadline).await;
        }
    }
}

/// Serves what is spoken on a stream, whatever carries it. Each protocol has an
/// allocation of its own: a task is as large as the largest of what it may hold,
/// and ten thousand idle lines of MQTT would each hold room for HTTP.
async fn serve_plain<S>(
    behind: Arc<Behind>,
    stream: S,
    (protocol, first): (Option<Protocol>, u8),
    peer: SocketAddr,
    waiting: Waiting,
    deadline: Instant,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let address = peer.ip().to_canonical();
    match protocol {
        Some(Protocol::Mqtt) => {
            let broker = Arc::clone(&behind.broker);
            Box::pin(broker.serve(stream, address, waiting, deadline)).await;
        }
        Some(Protocol::Http) => Box::pin(serve_http(&behind, stream, peer, waiting)).await,
        Some(Protocol::Tls) | None => {
            behind.stats.unknown.add();
            tracing::debug!(%address, first, "listen.unknown");
        }
    }
}

async fn serve_http<S>(behind: &Behind, stream: S, peer: SocketAddr, waiting: Waiting)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(counted) = waiting.admit_http() else {
        behind.stats.http_full.add();
        return;
    };
    behind.stats.http.add();
    let upgrade = behind.front.serve(stream, peer, counted).await;
    if let Some(upgrade) = upgrade {
        serve_websocket(behind, upgrade, peer).await;
    }
}

/// Serves MQTT inside WebSocket. Who asked for it is a stranger again, until its
/// CONNECT is admitted.
async fn serve_websocket(behind: &Behind, upgrade: OnUpgrade, peer: SocketAddr) {
    let deadline = Instant::now() + INTRODUCTION;
    let waiting = behind.places.wait(peer.ip());
    behind.stats.websocket.add();
    let upgraded = async { Some(websocket::Inside::new(upgrade.await.ok()?).await) };
    match stranger(upgraded, &waiting, deadline).await {
        Err(early) => behind.broker.stats().early(early).add(),
        Ok(inside) => {
            let (broker, address) = (Arc::clone(&behind.broker), peer.ip().to_canonical());
            broker.serve(inside, address, waiting, deadline).await;
        }
    }
}

/// Closes an HTTP connection whose request never gets an answer.
const REQUEST: Duration = Duration::from_secs(75);

/// Runs a request's handler, at most [`REQUEST`] long.
async fn within_request<T>(answer: impl Future<Output = T>) -> Option<T> {
    timeout(REQUEST, answer).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the task that serves a connection.
    fn task<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Bytes of what it allocates for MQTT.
    fn line<A, B, C, D, E, F: Future>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[tokio::test]
    async fn who_has_spoken_is_heard_though_its_place_is_gone() {
        let places = Places::new(Limits { waiting_per_address: 1, ..Limits::default() });
        let address = std::net::IpAddr::from([192, 0, 2, 1]);
        let deadline = Instant::now() + INTRODUCTION;
        for _ in 0..32 {
            let waiting = places.wait(address);
            let _next = places.wait(address);
            let spoke = stranger(async { Some(1) }, &waiting, deadline).await;
            assert_eq!(spoke.ok(), Some(1));
            let silent = places.wait(address);
            let _next = places.wait(address);
            let said = stranger(std::future::pending::<Option<u8>>(), &silent, deadline).await;
            assert!(matches!(said, Err(Early::Crowded)));
        }
    }

    #[test]
    fn an_idle_line_holds_room_for_its_own_protocol_only() {
        let bytes = task(serve) + line(Broker::serve::<TcpStream>);
        assert!(bytes <= 4_096, "{bytes} B for a line, whatever TLS and HTTP need");
    }
}
