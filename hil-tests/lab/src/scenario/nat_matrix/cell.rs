//! One run of one cell.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::gateways::Gateways;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::mesh::Gateway;
use crate::nat::Kind;
use crate::net::signal;

/// Between two packets until the first one is there.
const STEP: Duration = Duration::from_millis(10);
/// For the first one.
const FIRST_BYTE: Duration = Duration::from_secs(5);
/// Between two looks at the path afterwards, which is as exact as the time of the
/// upgrade is known.
const LOOK: Duration = Duration::from_millis(20);

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
    /// At the end.
    pub(super) way: Way,
    /// The first packet was at B.
    pub(super) first_byte: Option<Duration>,
    /// A calls its path direct.
    pub(super) direct: Option<Duration>,
    /// Between the first frames of both sites to each other, where both sent any.
    pub(super) skew: Option<Duration>,
    /// A frame went from A's site to B's.
    seen: bool,
}

impl Outcome {
    pub(super) const fn is_contradictory(&self) -> bool {
        matches!(self.way, Way::Direct) && !self.seen
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

/// How long a pair may look for its direct way: those that have to try many
/// ports get the time that this takes, the others that of a few rounds.
fn patience(kinds: [Kind; 2]) -> Duration {
    if kinds.contains(&Kind::Blocked) {
        Duration::from_secs(1)
    } else if kinds.iter().any(|kind| matches!(kind, Kind::SymRand | Kind::SymWin)) {
        Duration::from_secs(15)
    } else {
        Duration::from_secs(3)
    }
}

/// A's packets to B, and A's word about the path.
pub(super) fn measure(gateways: &Gateways, kinds: [Kind; 2]) -> Result<Outcome> {
    let [a, b] = gateways.of(kinds)?;
    let receiver = open(b, b.addresses.ipv4)?;
    let sender = open(a, Ipv4Addr::UNSPECIFIED.into())?;
    let to = receiver.local_addr().during("name a socket")?;
    gateways.internet().forget_first_frames();
    let began = clock::now();
    let first_byte = first_byte(&sender, &receiver, to, began)?;
    let (mut way, mut direct) = (Way::Nowhere, None);
    if let Some(first_byte) = first_byte {
        let until = began + first_byte + patience(kinds);
        loop {
            let kind = a.peer(b.name())?["path"]["kind"].as_str().unwrap_or_default().to_owned();
            way = match kind.as_str() {
                "direct" => Way::Direct,
                // A packet came, by some way that is not the direct one.
                _ => Way::Relay,
            };
            if way == Way::Direct {
                direct = Some(began.elapsed());
            }
            if way == Way::Direct || clock::now() >= until {
                break;
            }
            send(&sender, to);
            signal::rest(LOOK);
            stopped()?;
        }
    }
    let [out, back] = gateways.first_frames(kinds)?;
    let skew = out.zip(back).map(|(out, back)| {
        out.saturating_duration_since(back).max(back.saturating_duration_since(out))
    });
    Ok(Outcome { way, first_byte, direct, skew, seen: out.is_some() })
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
        match receiver.recv(&mut [0; 8]) {
            Ok(_) => return Ok(Some(began.elapsed())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).during("receive"),
        }
        stopped()?;
    }
    Ok(None)
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
