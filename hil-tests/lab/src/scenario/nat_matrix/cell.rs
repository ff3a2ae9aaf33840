//! One run of one cell.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::gateways::{Gateways, Side};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::mesh::Gateway;
use crate::nat::Kind;
use crate::net::signal;

/// Between two packets until the first one is there.
const STEP: Duration = Duration::from_millis(10);
/// For the first one.
const FIRST_BYTE: Duration = Duration::from_secs(5);
/// Between two packets afterwards, each of which is answered.
const PACE: Duration = Duration::from_millis(20);
/// What went this way a moment ago goes this way.
const LATELY: Duration = Duration::from_millis(500);

/// How packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Direct,
    Relay,
    Nowhere,
}

impl Way {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Nowhere => "none",
        }
    }
}

/// What one run gave; times are from A's first packet on.
pub(super) struct Outcome {
    /// At the end, as the wire shows it.
    pub(super) way: Way,
    /// The first packet was at B.
    pub(super) first_byte: Option<Duration>,
    /// The first packet of the overlay that nobody carried was at B.
    pub(super) direct: Option<Duration>,
    /// Between the first frames of both sites to each other, where both sent any.
    pub(super) skew: Option<Duration>,
    /// What A says of its path.
    said: String,
}

impl Outcome {
    /// A calls its path another than the wire shows.
    pub(super) fn contradiction(&self) -> Option<&str> {
        let honest = self.way == Way::Nowhere || self.said == self.way.word();
        (!honest).then_some(&self.said)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "path": self.way.word(),
            "first_byte_ms": self.first_byte.map(millis),
            "direct_ms": self.direct.map(millis),
            "skew_ms": self.skew.map(millis),
        })
    }
}

/// Milliseconds to a tenth.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// A's packets to B, and which way they go. A pair is watched for `patience` if it
/// finds no direct way.
pub(super) fn measure(
    gateways: &Gateways,
    kinds: [Kind; 2],
    patience: Duration,
) -> Result<Outcome> {
    let [a, b] = gateways.of(kinds)?;
    let receiver = open(b.gateway, b.gateway.addresses.ipv4)?;
    let sender = open(a.gateway, Ipv4Addr::UNSPECIFIED.into())?;
    let to = receiver.local_addr().during("name a socket")?;
    a.forget();
    b.forget();
    let began = clock::now();
    let first_byte = first_byte(&sender, &receiver, to, began)?;
    let Some(first) = first_byte else {
        let said = kind(&a, &b)?;
        return Ok(Outcome { way: Way::Nowhere, first_byte, direct: None, skew: None, said });
    };
    let until = began + first + patience;
    let mut since = None;
    while clock::now() < until {
        exchange(&sender, &receiver, to)?;
        let both = b.direct_from(&a).is_some() && a.direct_from(&b).is_some();
        // Both ways, and on: no packet that strayed.
        if both && since.get_or_insert_with(clock::now).elapsed() > LATELY {
            break;
        }
    }
    let lately = |at: Instant| at.elapsed() < LATELY;
    let straight = b.direct_from(&a);
    let way = if straight.is_some_and(|[_, last]| lately(last)) {
        Way::Direct
    } else if a.relayed().is_some_and(lately) || b.relayed().is_some_and(lately) {
        Way::Relay
    } else {
        Way::Nowhere
    };
    let direct = straight.filter(|_| way == Way::Direct);
    let [out, back] = gateways.first_frames(kinds)?;
    Ok(Outcome {
        way,
        first_byte,
        direct: direct.map(|[first, _]| first.saturating_duration_since(began)),
        skew: out.zip(back).map(|(out, back)| {
            out.saturating_duration_since(back).max(back.saturating_duration_since(out))
        }),
        said: kind(&a, &b)?,
    })
}

fn kind(from: &Side<'_>, to: &Side<'_>) -> Result<String> {
    let peer = from.gateway.peer(to.gateway.name())?;
    Ok(peer["path"]["kind"].as_str().unwrap_or_default().to_owned())
}

/// When the first packet arrives, of those sent one after the other.
fn first_byte(
    sender: &UdpSocket,
    receiver: &UdpSocket,
    to: SocketAddr,
    began: Instant,
) -> Result<Option<Duration>> {
    receiver.set_read_timeout(Some(STEP)).during("set a time limit")?;
    while began.elapsed() < FIRST_BYTE {
        send(sender, to);
        if receive(receiver)?.is_some() {
            return Ok(Some(began.elapsed()));
        }
        stopped()?;
    }
    Ok(None)
}

/// One packet, and answers to what comes until the next is due.
fn exchange(sender: &UdpSocket, receiver: &UdpSocket, to: SocketAddr) -> Result<()> {
    stopped()?;
    send(sender, to);
    let due = clock::now() + PACE;
    loop {
        let left = due.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Ok(());
        }
        receiver.set_read_timeout(Some(left)).during("set a time limit")?;
        if let Some(from) = receive(receiver)? {
            send(receiver, from);
        }
    }
}

fn receive(socket: &UdpSocket) -> Result<Option<SocketAddr>> {
    match socket.recv_from(&mut [0; 8]) {
        Ok((_, from)) => Ok(Some(from)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error).during("receive"),
    }
}

fn send(from: &UdpSocket, to: SocketAddr) {
    // The host may have no way there yet: that is what is measured.
    let _refused = from.send_to(b"first", to);
}

fn stopped() -> Result<()> {
    if signal::asked_to_stop() { Err(Failure::stopped()) } else { Ok(()) }
}

fn open(gateway: &Gateway, ip: IpAddr) -> Result<UdpSocket> {
    let what = format!("open a socket at {}", gateway.name());
    gateway.namespace().within(|| UdpSocket::bind((ip, 0))).during(&what)?.during(&what)
}
