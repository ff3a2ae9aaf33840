//! An example: a sensor that publishes a reading to an MQTT broker on the mesh. There is no
//! TLS around it, since the tunnel is around it already.

use core::fmt::Write as _;
use core::net::SocketAddr;

use embassy_net::Stack;
use embassy_net::tcp::TcpSocket;
use embassy_time::{Duration, Timer, with_timeout};
use heapless::String;
use minimq::{Buffers, ConfigBuilder, Publication, Session};

/// How long the broker may take for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Unacknowledged data breaks the connection after this long.
const SILENCE: Duration = Duration::from_secs(30);
/// Before another attempt.
const PAUSE: Duration = Duration::from_secs(5);

/// What is published, where, and how often.
pub struct Sensor<'a> {
    /// The broker, on the mesh.
    pub broker: SocketAddr,
    /// The name at the broker, and the end of the topic `sensors/NAME`.
    pub name: &'a str,
    /// Between two readings.
    pub every: Duration,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended {
    /// The broker takes no connection.
    Unreachable,
    /// It takes this client's name or password for none.
    Refused,
    /// It is gone, or says nothing any more.
    Lost,
    /// The name or a reading is too long.
    TooLong,
}

/// Publishes readings for ever; `ended` is told why each connection ended.
pub async fn run(
    stack: Stack<'_>,
    sensor: &Sensor<'_>,
    mut read: impl FnMut() -> u32,
    mut ended: impl FnMut(Ended),
) -> ! {
    loop {
        if let Err(why) = connection(stack, sensor, &mut read).await {
            ended(why);
        }
        Timer::after(PAUSE).await;
    }
}

/// One connection; it comes back with the reason of its end alone.
async fn connection(
    stack: Stack<'_>,
    sensor: &Sensor<'_>,
    read: &mut impl FnMut() -> u32,
) -> Result<(), Ended> {
    let (mut incoming, mut outgoing) = ([0; 512], [0; 512]);
    let mut socket = TcpSocket::new(stack, &mut incoming, &mut outgoing);
    socket.set_timeout(Some(SILENCE));
    let connected = with_timeout(PATIENCE, socket.connect(sensor.broker)).await;
    connected.map_err(|_| Ended::Unreachable)?.map_err(|_| Ended::Unreachable)?;
    let (mut receive, mut transmit) = ([0; 256], [0; 256]);
    let config = ConfigBuilder::new(Buffers::new(&mut receive, &mut transmit))
        .client_id(sensor.name)
        .map_err(|_| Ended::TooLong)?;
    let mut session = Session::new(config);
    let connected = with_timeout(PATIENCE, session.connect(socket)).await;
    let mut connection = connected.map_err(|_| Ended::Lost)?.map_err(|_| Ended::Refused)?;
    let mut topic = String::<64>::new();
    write!(topic, "sensors/{}", sensor.name).map_err(|_| Ended::TooLong)?;
    loop {
        let mut reading = String::<10>::new();
        write!(reading, "{}", read()).map_err(|_| Ended::TooLong)?;
        let publication = Publication::bytes(&topic, reading.as_bytes());
        // Not to be cut short, as minimq says; with the socket's time limit it ends.
        connection.publish(publication).await.map_err(|_| Ended::Lost)?;
        // What comes meanwhile is the broker's answer to a ping of minimq's; nothing was
        // subscribed to.
        if let Ok(Err(_)) = with_timeout(sensor.every, silence(&mut connection)).await {
            return Err(Ended::Lost);
        }
    }
}

/// Until the connection ends.
async fn silence(
    connection: &mut minimq::Connection<'_, '_, TcpSocket<'_>>,
) -> Result<(), minimq::Error<embassy_net::tcp::Error>> {
    loop {
        connection.recv().await?;
    }
}
