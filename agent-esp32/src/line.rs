//! The line to the coordinator: MQTT 5 over TCP, QoS 0, nothing retained. What it carries
//! is sealed by the agent, so there is no TLS around it.
//!
//! Cancel safety (minimq 0.13): `connect`, `recv` and `subscribe` may be dropped; a QoS 0
//! publish may not. So the select below only finds out what is next, the publish runs
//! after it alone, and one that its deadline cuts ends the connection.

use core::future::poll_fn;
use core::net::IpAddr;
use core::pin::pin;
use core::task::Poll;

use embassy_futures::select::{Either, select};
use embassy_net::dns::DnsQueryType;
use embassy_net::tcp::{self, TcpSocket};
use embassy_net::{IpAddress, IpEndpoint, Stack};
use embassy_time::{Duration, with_timeout};
use embedded_io_async::{ErrorType, Read, Write};
use minimq::{
    Buffers, ConfigBuilder, Connection, Disconnect, Error, PeerError, Publication, ReasonCode,
    Session, TopicFilter,
};
use weft_agent_core::control::{Credentials, LineRequest};
use weft_wire::topic::{Topic, TopicText};

use crate::parts::Parts;
use crate::settings::Place;
use crate::status::LineTrouble;

/// How long a name may take, a connection, and an answer to CONNECT and SUBSCRIBE, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// Unacknowledged data breaks a connection after this long.
const SILENCE: Duration = Duration::from_secs(30);
/// Nothing said for so long: MQTT asks whether the line still stands. Longer would save
/// data, and boxes that forget a connection that is silent for five minutes are common.
const KEEPALIVE_S: u16 = 240;

/// Memory of the line.
pub(crate) struct LineBuffers {
    tcp: [[u8; 1_536]; 2],
    /// The largest packet taken: a frame of 1,024 bytes with topic and properties.
    receive: [u8; 1_152],
    /// The same, with a SUBSCRIBE that waits for its answer.
    transmit: [u8; 1_280],
}

impl LineBuffers {
    pub(crate) const fn new() -> Self {
        Self { tcp: [[0; 1_536]; 2], receive: [0; 1_152], transmit: [0; 1_280] }
    }
}

/// A connection whose `flush` does not wait for the other side's acknowledgement.
struct Unhurried<'a>(TcpSocket<'a>);

impl ErrorType for Unhurried<'_> {
    type Error = tcp::Error;
}

impl Read for Unhurried<'_> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, tcp::Error> {
        self.0.read(out).await
    }
}

impl Write for Unhurried<'_> {
    async fn write(&mut self, data: &[u8]) -> Result<usize, tcp::Error> {
        self.0.write(data).await
    }

    async fn flush(&mut self) -> Result<(), tcp::Error> {
        Ok(())
    }
}

type Mqtt<'c, 's, 'd> = Connection<'c, 's, Unhurried<'d>>;

/// Does what the agent wants of the line, for ever.
pub(crate) async fn run<E: weft_agent_core::entropy::Entropy, const P: usize, const R: usize>(
    parts: Parts<'_, E, P, R>,
    lan: Stack<'_>,
    place: &Place,
    buffers: &mut LineBuffers,
) -> ! {
    loop {
        let request = poll_fn(|context| parts.exchange.poll_request(context)).await;
        if let LineRequest::Connect(credentials) = request {
            let ended = session(parts, lan, place, &credentials, buffers).await;
            parts.exchange.set_open(false);
            if let Err(trouble) = ended {
                parts.note_line(trouble);
            }
        }
        parts.idle().await;
        parts.agent.borrow_mut().handle_disconnected(crate::clock::now());
        parts.exchange.tell();
    }
}

async fn session<E: weft_agent_core::entropy::Entropy, const P: usize, const R: usize>(
    parts: Parts<'_, E, P, R>,
    lan: Stack<'_>,
    place: &Place,
    credentials: &Credentials,
    buffers: &mut LineBuffers,
) -> Result<(), LineTrouble> {
    let [receive, transmit] = &mut buffers.tcp;
    let mut socket = TcpSocket::new(lan, receive, transmit);
    socket.set_timeout(Some(SILENCE));
    // Without a network there is nothing to wait for but one.
    poll_fn(|context| parts.exchange.poll_local(context)).await;
    let address = resolve(lan, place).await?;
    with_timeout(PATIENCE, socket.connect(IpEndpoint::new(address, place.port)))
        .await
        .map_err(|_| LineTrouble::Silent)?
        .map_err(|_| LineTrouble::Unreachable)?;
    let client = credentials.inbox.text();
    let inbox = Topic::Down(credentials.inbox).text();
    let packets = Buffers::new(&mut buffers.receive, &mut buffers.transmit);
    let config = ConfigBuilder::new(packets)
        .client_id(&client)
        .and_then(|config| config.auth(place.user(credentials), place.password(credentials)))
        .map_err(|_| LineTrouble::Protocol)?
        .keepalive_interval(KEEPALIVE_S);
    let mut session = Session::new(config);
    let connected = with_timeout(PATIENCE, session.connect(Unhurried(socket))).await;
    let mut connection =
        connected.map_err(|_| LineTrouble::Silent)?.map_err(|error| login(&error))?;
    with_timeout(PATIENCE, subscribe(&mut connection, &inbox))
        .await
        .map_err(|_| LineTrouble::Silent)?
        .map_err(|_| LineTrouble::Lost)?;
    parts.exchange.set_open(true);
    parts.idle().await;
    parts.agent.borrow_mut().handle_connected(crate::clock::now());
    parts.exchange.tell();
    carry(parts, &mut connection, &inbox).await
}

/// The place's address: IPv4 first, as most local networks have nothing else.
async fn resolve(lan: Stack<'_>, place: &Place) -> Result<IpAddress, LineTrouble> {
    if let Ok(address) = place.host.parse::<IpAddr>() {
        return Ok(address.into());
    }
    for kind in [DnsQueryType::A, DnsQueryType::Aaaa] {
        let query = with_timeout(PATIENCE, lan.dns_query(&place.host, kind)).await;
        if let Ok(Ok(found)) = query
            && let Some(address) = found.first()
        {
            return Ok(*address);
        }
    }
    Err(LineTrouble::Name)
}

async fn subscribe(
    connection: &mut Mqtt<'_, '_, '_>,
    inbox: &TopicText,
) -> Result<(), Error<tcp::Error>> {
    let operation = connection.subscribe(&[TopicFilter::new(inbox)], &[]).await?;
    while connection.is_pending(&operation) {
        // A frame before the SUBACK belongs to no handshake of ours.
        let _early = connection.poll().await?;
    }
    Ok(())
}

/// What is next, beside a frame that came.
enum Wanted {
    Publish(Topic, usize),
    Close,
}

async fn carry<E: weft_agent_core::entropy::Entropy, const P: usize, const R: usize>(
    parts: Parts<'_, E, P, R>,
    connection: &mut Mqtt<'_, '_, '_>,
    inbox: &TopicText,
) -> Result<(), LineTrouble> {
    loop {
        let wanted = poll_fn(|context| {
            if let Poll::Ready((topic, len)) = parts.exchange.poll_frame(context) {
                return Poll::Ready(Wanted::Publish(topic, len));
            }
            parts.exchange.poll_request(context).map(|_| Wanted::Close)
        });
        let next = {
            let receive = pin!(connection.recv());
            select(wanted, receive).await
        };
        match next {
            Either::First(Wanted::Publish(topic, len)) => {
                publish(parts, connection, topic, len).await?
            }
            Either::First(Wanted::Close) => {
                let goodbye = connection.disconnect_with(Disconnect::success());
                // Whether it was heard does not matter: the connection ends here.
                let _ = with_timeout(PATIENCE, goodbye).await;
                return Ok(());
            }
            Either::Second(Ok(message)) => {
                parts.idle().await;
                // Some other topic would be the broker's mistake: an empty frame is
                // none, and the agent counts it.
                let is_ours = message.topic() == inbox.as_str();
                let frame = if is_ours { message.payload() } else { &[] };
                let now = crate::clock::now();
                // What is wrong with it is counted there.
                let _ = parts.agent.borrow_mut().handle_frame(frame, now);
                parts.exchange.tell();
            }
            Either::Second(Err(_)) => return Err(LineTrouble::Lost),
        }
    }
}

#[expect(
    clippy::await_holding_refcell_ref,
    reason = "the buffer is this frame's until it is taken: nobody else looks at it"
)]
async fn publish<E: weft_agent_core::entropy::Entropy, const P: usize, const R: usize>(
    parts: Parts<'_, E, P, R>,
    connection: &mut Mqtt<'_, '_, '_>,
    topic: Topic,
    len: usize,
) -> Result<(), LineTrouble> {
    let topic = topic.text();
    let sent = {
        let frame = parts.exchange.frame();
        let publication = Publication::bytes(&topic, frame.get(..len).unwrap_or_default());
        with_timeout(PATIENCE, connection.publish(publication)).await
    };
    parts.exchange.taken();
    match sent {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(LineTrouble::Lost),
        Err(_) => Err(LineTrouble::Silent),
    }
}

/// Why the broker did not let us in.
const fn login(error: &Error<tcp::Error>) -> LineTrouble {
    match error {
        Error::Peer(PeerError::Rejected(
            ReasonCode::BadUsernameOrPassword
            | ReasonCode::NotAuthorized
            | ReasonCode::ClientIdentifierInvalid,
        )) => LineTrouble::Denied,
        Error::Peer(PeerError::Rejected(_)) => LineTrouble::Busy,
        Error::Peer(_) => LineTrouble::Protocol,
        _ => LineTrouble::Lost,
    }
}
