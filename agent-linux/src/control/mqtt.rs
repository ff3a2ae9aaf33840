//! One MQTT session of the line: log in, subscribe, then carry frames until it
//! ends. MQTT 5 by minimq, QoS 0, nothing retained.
//!
//! Cancel safety (minimq 0.13): `connect`, `recv` and `subscribe` may be
//! dropped; a QoS 0 publish may not. So the select below only fetches the next
//! command, the publish runs after it alone, and one that its deadline cuts ends
//! the connection.

use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use std::io;

use embassy_time::{Duration, with_timeout};
use embedded_io_async::{ErrorType, Read, Write};
use minimq::{
    Buffers, ConfigBuilder, Connection, Disconnect, Error, PeerError, PubError, Publication,
    ReasonCode, Session, TopicFilter,
};

use crate::control::failure::{self, Reason};
use crate::control::keepalive::Pauses;
use crate::control::line::{Login, Publish, Shared};
use crate::os::clock;

/// How long the broker may take to answer CONNECT and SUBSCRIBE, each.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one publish or DISCONNECT may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest packet taken: a frame of 3,840 B with topic and properties.
const RECEIVE_LEN: usize = 4_352;
/// Room for one packet of the largest size and the CONNECT beside it.
const TRANSMIT_LEN: usize = 8_192;

type MqttError = Error<io::Error>;

/// What a session runs over.
pub(crate) trait Wire: Read<Error = io::Error> + Write<Error = io::Error> {}

impl<S: Read<Error = io::Error> + Write<Error = io::Error>> Wire for S {}

/// A wire, and the silences on it.
struct Watched<'a, S> {
    stream: S,
    pauses: &'a Cell<Pauses>,
}

impl<S> Watched<'_, S> {
    fn note(&self, what: impl FnOnce(&mut Pauses)) {
        let mut pauses = self.pauses.get();
        what(&mut pauses);
        self.pauses.set(pauses);
    }
}

impl<S: Wire> ErrorType for Watched<'_, S> {
    type Error = io::Error;
}

impl<S: Wire> Read for Watched<'_, S> {
    async fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(out).await?;
        self.note(|pauses| match len {
            0 => pauses.handle_closed(),
            _ => pauses.handle_heard(clock::boot_micros()),
        });
        Ok(len)
    }
}

impl<S: Wire> Write for Watched<'_, S> {
    async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // Before it is tried: what the kernel does not take is not followed either.
        self.note(|pauses| pauses.handle_said(clock::boot_micros()));
        self.stream.write(data).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.flush().await
    }
}

/// Logs in, subscribes and carries frames. Nothing said for `keepalive_s`: MQTT asks
/// whether the line still stands.
pub(crate) async fn serve<S: Wire>(
    shared: &Shared,
    stream: S,
    login: &Login,
    keepalive_s: u16,
) -> Result<(), Reason> {
    let pauses = Cell::new(Pauses::new(clock::boot_micros()));
    let served = speak(shared, Watched { stream, pauses: &pauses }, login, keepalive_s).await;
    // A goodbye comes after a silence too, and says nothing of it.
    let lapse = served.as_ref().err().and_then(|_| pauses.get().lapse());
    shared.lapse.set(lapse);
    served
}

async fn speak<S: Wire>(
    shared: &Shared,
    stream: S,
    login: &Login,
    keepalive_s: u16,
) -> Result<(), Reason> {
    let mut receive = vec![0; RECEIVE_LEN];
    let mut transmit = vec![0; TRANSMIT_LEN];
    let config = ConfigBuilder::new(Buffers::new(&mut receive, &mut transmit))
        .client_id(&login.client)
        .and_then(|config| config.auth(&login.user, login.password.bytes()))
        .map_err(|error| Reason::Lost(error.to_string()))?
        .keepalive_interval(keepalive_s);
    let mut session = Session::new(config);
    let connected = with_timeout(LOGIN_TIMEOUT, session.connect(stream)).await;
    let mut connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(login_reason(shared, &error)),
        Err(_) => {
            let silent = || Reason::Lost("no answer to CONNECT in 10 s".to_owned());
            return Err(not_mqtt(shared).unwrap_or_else(silent));
        }
    };
    let subscribed = with_timeout(LOGIN_TIMEOUT, subscribe(&mut connection, login)).await;
    match subscribed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(lost(&error)),
        Err(_) => return Err(Reason::Lost("no answer to SUBSCRIBE in 10 s".to_owned())),
    }
    shared.stands.set(true);
    carry(shared, &mut connection, login).await
}

async fn subscribe<S: Wire>(
    connection: &mut Connection<'_, '_, S>,
    login: &Login,
) -> Result<(), MqttError> {
    let operation = connection.subscribe(&[TopicFilter::new(&login.inbox)], &[]).await?;
    while connection.is_pending(&operation) {
        // A frame before the SUBACK belongs to no handshake of ours.
        let _early = connection.poll().await?;
    }
    Ok(())
}

/// What the select found.
enum Next {
    Frame(Vec<u8>),
    Publish(Publish),
    Close,
    Ended(MqttError),
}

async fn carry<S: Wire>(
    shared: &Shared,
    connection: &mut Connection<'_, '_, S>,
    login: &Login,
) -> Result<(), Reason> {
    loop {
        let next = {
            let mut receive = pin!(connection.recv());
            poll_fn(|context| {
                if shared.closing.get() && shared.outbound.borrow().is_empty() {
                    return Poll::Ready(Next::Close);
                }
                if let Some(publish) = shared.outbound.borrow_mut().pop_front() {
                    return Poll::Ready(Next::Publish(publish));
                }
                if !shared.has_room() {
                    return Poll::Pending;
                }
                match receive.as_mut().poll(context) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready(Next::Ended(error)),
                    // Some other topic would be the broker's mistake: an empty
                    // frame is no frame, and the agent counts it.
                    Poll::Ready(Ok(message)) if message.topic() != login.inbox.as_str() => {
                        Poll::Ready(Next::Frame(Vec::new()))
                    }
                    Poll::Ready(Ok(message)) => {
                        Poll::Ready(Next::Frame(message.payload().to_vec()))
                    }
                }
            })
            .await
        };
        match next {
            Next::Frame(frame) => shared.inbound.borrow_mut().push_back(frame),
            Next::Publish(publish) => send(connection, &publish).await?,
            Next::Close => {
                let goodbye = connection.disconnect_with(Disconnect::success());
                // Whether it was heard does not matter: the stream closes next.
                drop(with_timeout(WRITE_TIMEOUT, goodbye).await);
                return Ok(());
            }
            Next::Ended(error) => return Err(lost(&error)),
        }
    }
}

async fn send<S: Wire>(
    connection: &mut Connection<'_, '_, S>,
    publish: &Publish,
) -> Result<(), Reason> {
    let topic = publish.topic.text();
    let publication = Publication::bytes(&topic, &publish.frame);
    match with_timeout(WRITE_TIMEOUT, connection.publish(publication)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(PubError::Session(error))) => Err(lost(&error)),
        Ok(Err(PubError::Payload(()))) => Err(Reason::Lost("frame too long".to_owned())),
        Err(_) => Err(Reason::Lost("write timed out".to_owned())),
    }
}

/// Why the broker did not let us in.
fn login_reason(shared: &Shared, error: &MqttError) -> Reason {
    match error {
        Error::Peer(PeerError::Rejected(
            ReasonCode::BadUsernameOrPassword
            | ReasonCode::NotAuthorized
            | ReasonCode::ClientIdentifierInvalid,
        )) => Reason::Denied,
        Error::Peer(PeerError::Rejected(
            ReasonCode::ServerBusy
            | ReasonCode::ServerUnavailable
            | ReasonCode::QuotaExceeded
            | ReasonCode::ConnectionRateExceeded,
        )) => Reason::Busy,
        Error::Peer(PeerError::Rejected(reason)) => Reason::Lost(format!("refused: {reason:?}")),
        other => not_mqtt(shared).unwrap_or_else(|| lost(other)),
    }
}

/// Whether what came first is no MQTT packet that a broker begins with.
fn not_mqtt(shared: &Shared) -> Option<Reason> {
    const CONNACK: u8 = 0x20;
    const DISCONNECT: u8 = 0xE0;
    let first = shared.first.get();
    if matches!(first.first(), Some(CONNACK | DISCONNECT)) {
        return None;
    }
    let what = first.what()?.to_owned();
    Some(Reason::Foreign { what, wanted: "MQTT" })
}

fn lost(error: &MqttError) -> Reason {
    Reason::Lost(match error {
        Error::Disconnected => "closed by the other side".to_owned(),
        Error::Transport(error) => failure::words(error),
        other => other.to_string(),
    })
}
