//! One session of the line: resolve, connect, log in, subscribe, then carry
//! frames until it ends. MQTT 5 by minimq, QoS 0, nothing retained.
//!
//! Cancel safety (minimq 0.13): `connect`, `recv` and `subscribe` may be
//! dropped; a QoS 0 publish may not. So the select below only fetches the next
//! command, the publish runs after it alone, and one that its deadline cuts ends
//! the connection.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use embassy_time::{Duration, Timer, with_timeout};
use minimq::{
    Buffers, ConfigBuilder, Connection, Disconnect, Error, PeerError, PubError, Publication,
    ReasonCode, Session, TopicFilter,
};

use crate::control::failure::{self, Attempt, LineFailure, Reason};
use crate::control::line::{Ended, Login, Publish, Shared};
use crate::control::wait::{FirstBytes, Transport, Waiting};
use crate::net::resolver::{self, Resolved};
use crate::net::tcp::{Race, Standing};
use crate::os::clock;

/// How long all addresses of one name may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the broker may take to answer CONNECT and SUBSCRIBE, each.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one publish or DISCONNECT may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Nothing on the line for this long: MQTT asks whether it still stands.
const KEEPALIVE_S: u16 = 300;
/// The largest packet taken: a frame of 3,840 B with topic and properties.
const RECEIVE_LEN: usize = 4_352;
/// Room for one packet of the largest size and the CONNECT beside it.
const TRANSMIT_LEN: usize = 8_192;

type MqttError = Error<io::Error>;

/// Runs until the line is closed, lost, or no address could be reached.
pub(super) async fn run(shared: Rc<Shared>, authorities: Vec<String>, login: Login) -> Ended {
    let mut attempts = Vec::new();
    for authority in authorities {
        match attempt(&shared, &authority, &login).await {
            Ok(()) => return Ended::Closed,
            Err(attempt) => attempts.push(attempt),
        }
        // A line that stood and fell is the agent's to open again.
        if shared.stood.get() {
            break;
        }
    }
    Ended::Failed(LineFailure { attempts })
}

/// One address, from its name to the end of its connection. `Ok` when the line
/// was closed on purpose.
async fn attempt(shared: &Rc<Shared>, authority: &str, login: &Login) -> Result<(), Attempt> {
    let failed = |resolved: Option<&SocketAddr>, reason| Attempt {
        authority: authority.to_owned(),
        resolved: resolved.map(|address| address.ip().to_string()),
        reason,
    };
    let addresses = resolve(shared, authority).await.map_err(|reason| failed(None, reason))?;
    let first = addresses.first().copied();
    let (address, stream) =
        connect(shared, addresses).await.map_err(|reason| failed(first.as_ref(), reason))?;
    // A connection whose own end is not known is only lost later.
    shared.local.set(stream.local_addr().ok());
    shared.authority.replace(authority.to_owned());
    let served = serve(shared, authority, stream, login).await;
    shared.local.set(None);
    served.map_err(|reason| failed(Some(&address), reason))
}

async fn resolve(shared: &Shared, authority: &str) -> Result<Vec<SocketAddr>, Reason> {
    if let Ok(address) = authority.parse() {
        return Ok(vec![address]);
    }
    let told = |error: io::Error| Reason::Name(Some(failure::words(&error)));
    let lookup = resolver::resolve(authority.to_owned()).map_err(told)?;
    shared.waiting.replace(Waiting::Name(lookup));
    let answer = poll_fn(|_| match &*shared.waiting.borrow() {
        Waiting::Name(lookup) => match lookup.take() {
            Resolved::Waiting => Poll::Pending,
            Resolved::Addresses(addresses) => Poll::Ready(Ok(addresses)),
            Resolved::Failed(error) => Poll::Ready(Err(Reason::Name(Some(failure::words(&error))))),
        },
        _ => Poll::Ready(Err(Reason::Name(None))),
    });
    let answer = with_timeout(Duration::from_micros(resolver::TIMEOUT_US), answer).await;
    shared.waiting.take();
    answer.unwrap_or(Err(Reason::Name(None)))
}

async fn connect(
    shared: &Shared,
    addresses: Vec<SocketAddr>,
) -> Result<(SocketAddr, TcpStream), Reason> {
    let race = Race::new(addresses, clock::boot_micros());
    shared.waiting.replace(Waiting::Connect(race));
    let mut stagger = None;
    let winner = poll_fn(|context| {
        let Waiting::Connect(race) = &mut *shared.waiting.borrow_mut() else {
            return Poll::Ready(Err(Reason::Silent(None)));
        };
        match race.advance(clock::boot_micros()) {
            Standing::Won(address, stream) => Poll::Ready(Ok((address, stream))),
            Standing::Lost(error) => Poll::Ready(Err(failure::connect_reason(&error))),
            Standing::Running => {
                // The timer only makes the loop come back when the next is due.
                stagger = race.deadline().map(|at| {
                    let at = embassy_time::Instant::from_micros(at);
                    Timer::at(at)
                });
                if let Some(timer) = &mut stagger {
                    let _ = pin!(timer).poll(context);
                }
                Poll::Pending
            }
        }
    });
    let winner = with_timeout(CONNECT_TIMEOUT, winner).await;
    shared.waiting.take();
    winner.unwrap_or(Err(Reason::Silent(None)))
}

/// Logs in, subscribes and carries frames.
async fn serve(
    shared: &Rc<Shared>,
    authority: &str,
    stream: TcpStream,
    login: &Login,
) -> Result<(), Reason> {
    let mut receive = vec![0; RECEIVE_LEN];
    let mut transmit = vec![0; TRANSMIT_LEN];
    let config = ConfigBuilder::new(Buffers::new(&mut receive, &mut transmit))
        .client_id(&login.client)
        .and_then(|config| config.auth(&login.user, login.password.bytes()))
        .map_err(|error| Reason::Lost(error.to_string()))?
        .keepalive_interval(KEEPALIVE_S);
    let mut session = Session::new(config);
    shared.first.set(FirstBytes::default());
    let transport = Transport::new(stream, Rc::clone(&shared.waiting), Rc::clone(&shared.first));
    let connected = with_timeout(LOGIN_TIMEOUT, session.connect(transport)).await;
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
    shared.stood.set(true);
    shared.connected.replace(Some(authority.to_owned()));
    carry(shared, &mut connection, login).await
}

async fn subscribe(
    connection: &mut Connection<'_, '_, Transport>,
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

async fn carry(
    shared: &Shared,
    connection: &mut Connection<'_, '_, Transport>,
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

async fn send(
    connection: &mut Connection<'_, '_, Transport>,
    publish: &Publish,
) -> Result<(), Reason> {
    let publication = Publication::bytes(&publish.topic, &publish.frame);
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
    Some(Reason::NotMqtt(match shared.first.get().get() {
        [] | [CONNACK | DISCONNECT, ..] => return None,
        [b'H', b'T', b'T', b'P'] => "HTTP",
        [b'S', b'S', b'H', b'-'] => "SSH",
        // An alert or a handshake record (RFC 8446 section 5.1).
        [0x15 | 0x16, 3, ..] => "TLS",
        _ => "something else",
    }))
}

fn lost(error: &MqttError) -> Reason {
    Reason::Lost(match error {
        Error::Disconnected => "closed by the other side".to_owned(),
        Error::Transport(error) => failure::words(error),
        other => other.to_string(),
    })
}
