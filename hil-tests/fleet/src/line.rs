//! The MQTT line of one device: minimq, as both agents use it, over tokio's TCP.
//!
//! minimq keeps up with thousands of lines in one thread, so the fleet has no
//! client of its own. Measured in release: 10,000 devices with chips' buffers
//! take 162 MiB in all (17 KiB each, control session and socket included) and
//! 0.5 % of a core while nothing happens; an enrolment with its second
//! connection takes 1.1 ms of CPU, all cryptography included. What minimq needed
//! is a timer per line ([`crate::driver`]).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use embedded_io_async::{ErrorType, Read, Write};
use minimq::{
    Buffers, ConfigBuilder, Connection, Disconnect, Error, PubError, Publication, Session,
    TopicFilter,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_agent_core::control::Credentials;
use weft_wire::topic::{Topic, TopicText};

use crate::driver::timed;

/// How long TCP may take, as on gateways.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the broker may take to answer CONNECT and SUBSCRIBE, each.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one publish or DISCONNECT may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Beside a frame: topic, fixed header, properties.
const PACKET_HEAD: usize = 128;
/// Two frames of 1,024 B, the longest that any device sends, and the CONNECT.
const TRANSMIT_LEN: usize = 2_304;

/// The stream as the MQTT client sees it. `flush` is done at once: the kernel
/// holds the bytes.
pub(crate) struct Transport(TcpStream);

impl ErrorType for Transport {
    type Error = io::Error;
}

impl Read for Transport {
    async fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).await
    }
}

impl Write for Transport {
    async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What of a line lives outside of its connection.
pub(crate) struct Storage {
    receive: Vec<u8>,
    transmit: Vec<u8>,
    client: heapless::String<26>,
    credentials: Credentials,
    keepalive_s: u16,
    pub(crate) inbox: TopicText,
}

impl Storage {
    /// For frames of at most `frame` bytes.
    pub(crate) fn new(credentials: Credentials, frame: usize, keepalive_s: u16) -> Self {
        Self {
            receive: vec![0; frame + PACKET_HEAD],
            transmit: vec![0; TRANSMIT_LEN],
            client: credentials.inbox.text(),
            inbox: Topic::Down(credentials.inbox).text(),
            credentials,
            keepalive_s,
        }
    }

    /// A client that is not connected, and where its messages come.
    pub(crate) fn session(&mut self) -> Result<(Session<'_>, &TopicText), String> {
        let Self { receive, transmit, client, credentials, keepalive_s, inbox } = self;
        let password = credentials.password.as_str().as_bytes();
        let config = ConfigBuilder::new(Buffers::new(receive, transmit))
            .client_id(client)
            .and_then(|config| config.auth(&credentials.user, password))
            .map_err(|error| error.to_string())?
            .keepalive_interval(*keepalive_s);
        Ok((Session::new(config), inbox))
    }
}

/// A line that is up.
pub(crate) type Up<'session, 'buffers> = Connection<'session, 'buffers, Transport>;

/// Connects, logs in and subscribes.
///
/// # Errors
///
/// What went wrong, in a few words that are the same for the same fault.
pub(crate) async fn open<'session, 'buffers>(
    session: &'session mut Session<'buffers>,
    inbox: &str,
    address: SocketAddr,
) -> Result<Up<'session, 'buffers>, String> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = stream
        .map_err(|_| "no answer to TCP in 20 s".to_owned())?
        .map_err(|error| format!("TCP: {}", error.kind()))?;
    stream.set_nodelay(true).map_err(|error| format!("TCP: {}", error.kind()))?;
    let connected = timeout(LOGIN_TIMEOUT, timed(session.connect(Transport(stream)))).await;
    let mut connection = connected
        .map_err(|_| "no answer to CONNECT in 10 s".to_owned())?
        .map_err(|error| format!("CONNECT: {}", words(&error)))?;
    let subscribed = timeout(LOGIN_TIMEOUT, timed(subscribe(&mut connection, inbox))).await;
    subscribed
        .map_err(|_| "no answer to SUBSCRIBE in 10 s".to_owned())?
        .map_err(|error| format!("SUBSCRIBE: {}", words(&error)))?;
    Ok(connection)
}

async fn subscribe(connection: &mut Up<'_, '_>, inbox: &str) -> Result<(), Error<io::Error>> {
    let operation = connection.subscribe(&[TopicFilter::new(inbox)], &[]).await?;
    while connection.is_pending(&operation) {
        // A frame before the SUBACK belongs to no handshake of ours.
        let _early = connection.poll().await?;
    }
    Ok(())
}

/// Publishes a frame with QoS 0. A publish that its deadline cuts ends the line.
pub(crate) async fn publish(
    connection: &mut Up<'_, '_>,
    topic: Topic,
    frame: &[u8],
) -> Result<(), String> {
    let topic = topic.text();
    let publication = Publication::bytes(&topic, frame);
    match timeout(WRITE_TIMEOUT, timed(connection.publish(publication))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(PubError::Session(error))) => Err(format!("PUBLISH: {}", words(&error))),
        Ok(Err(PubError::Payload(()))) => Err("PUBLISH: the frame is too long".to_owned()),
        Err(_) => Err("PUBLISH: not written in 10 s".to_owned()),
    }
}

/// Says goodbye.
pub(crate) async fn close(mut connection: Up<'_, '_>) {
    let goodbye = timed(connection.disconnect_with(Disconnect::success()));
    // Whether it was heard does not matter: the stream closes next.
    drop(timeout(WRITE_TIMEOUT, goodbye).await);
}

/// The same fault in the same words, so that they can be counted.
pub(crate) fn words(error: &Error<io::Error>) -> String {
    match error {
        Error::Disconnected => "closed by the coordinator".to_owned(),
        Error::Transport(error) => error.kind().to_string(),
        other => other.to_string(),
    }
}
