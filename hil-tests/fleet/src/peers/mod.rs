//! `weft-fleet peers`: whole agents with tunnels of their own, many in one process, that
//! talk to one device when they are told to.
//!
//! Each is a member of its own: its keys, its enrolment, its line to the coordinator over
//! MQTT, its UDP socket. They hold as many peers as a chip and want them named, so their
//! policy has to let each see few: the device that they are to talk to, and no other of
//! them.
//!
//! Standard input takes a line per order, and standard output answers each with a line:
//!
//! ```text
//! echo 17 100.93.0.2     echo 17 341222         answered after so many microseconds
//!                        echo 17 lost           not within ten seconds
//! ```
//!
//! The first line is `ready 200`: all are members, online, and see a peer.

mod echo;
mod peer;

use std::io::BufRead as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_local};
use weft_wire::join::{Carrier, JoinString};

use crate::failure::{During, Failure, Result, status};
use crate::{clock, coordinator, ui};
use peer::Peer;

/// Members that enrol at once: the coordinator admits 64 of one key.
const ENROLLING: usize = 32;
/// For all of them to be members.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// A request that nobody answered is sent again after this, as people's programs do.
const REPEAT: Duration = Duration::from_millis(500);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs them until standard input ends.
///
/// # Errors
///
/// When they do not become members, or an order cannot be read.
pub(crate) async fn run(join: &str, count: usize, address: IpAddr) -> Result<()> {
    let join = coordinator::parse_join(join)?;
    let broker = broker(&join)?;
    let (enrolling, mut running) = (Rc::new(Semaphore::new(ENROLLING)), JoinSet::new());
    let mut peers = Vec::new();
    for number in 0..count {
        let peer = Peer::new(number, &join, SocketAddr::new(address, 0)).await?;
        let (peer, enrolling) = (Rc::new(peer), Rc::clone(&enrolling));
        running.spawn_local(Rc::clone(&peer).run(broker, enrolling));
        peers.push(peer);
    }
    let ready = async {
        for peer in &peers {
            peer.until(|peer| peer.is_ready()).await;
        }
    };
    tokio::select! {
        ready = tokio::time::timeout(READY_WITHIN, ready) => ready.map_err(|_| late(&peers))?,
        ended = running.join_next() => return Err(refused(ended)),
    }
    ui::story(false, &format!("ready {count}"));
    tokio::select! {
        followed = follow(&peers) => followed,
        ended = running.join_next() => Err(refused(ended)),
    }
}

fn late(peers: &[Rc<Peer>]) -> Failure {
    let missing = peers.iter().filter(|peer| !peer.is_ready()).count();
    let seconds = READY_WITHIN.as_secs();
    Failure::expectation(format!("{missing} of {} are no members after {seconds} s", peers.len()))
}

/// A member runs for ever, unless it cannot.
fn refused(ended: Option<std::result::Result<Failure, tokio::task::JoinError>>) -> Failure {
    match ended {
        Some(Ok(failure)) => failure,
        Some(Err(error)) => Failure::new("fleet.internal", format!("a member ended: {error}")),
        None => Failure::new("fleet.internal", "there are no members"),
    }
}

/// Where the broker is: the first address that is spoken to without TLS.
fn broker(join: &JoinString) -> Result<SocketAddr> {
    let plain = join.addresses.iter().find(|address| address.carrier == Carrier::Mqtt);
    plain.and_then(|address| address.authority.parse().ok()).ok_or_else(|| {
        Failure::new("fleet.join", "the join string names no mqtt:// address in numbers")
            .exit(status::USAGE)
    })
}

/// Takes orders.
async fn follow(peers: &[Rc<Peer>]) -> Result<()> {
    let mut orders = orders()?;
    while let Some(line) = orders.recv().await {
        let wrong = || Failure::new("fleet.order", format!("{line:?}: echo NUMBER ADDRESS"));
        let mut words = line.split(' ');
        let (Some("echo"), Some(number), Some(target), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(wrong());
        };
        let number: usize = number.parse().map_err(|_| wrong())?;
        let target: Ipv4Addr = target.parse().map_err(|_| wrong())?;
        let peer = Rc::clone(peers.get(number).ok_or_else(wrong)?);
        // Several orders may be under way at the same time.
        spawn_local(async move {
            let answered = echo(&peer, target).await;
            let words = answered.map_or_else(|| "lost".to_owned(), |t| t.as_micros().to_string());
            ui::story(false, &format!("echo {number} {words}"));
        });
    }
    Ok(())
}

/// Sends requests until one is answered: how long that took.
async fn echo(peer: &Peer, target: Ipv4Addr) -> Option<Duration> {
    let began = clock::now();
    while clock::now() - began < PATIENCE {
        peer.send_echo(target);
        let answered = peer.until(|peer| peer.is_answered());
        if tokio::time::timeout(REPEAT, answered).await.is_ok() {
            return Some(clock::now() - began);
        }
    }
    None
}

/// Lines of standard input, which a thread of its own reads: it cannot be waited for
/// together with anything else.
fn orders() -> Result<mpsc::UnboundedReceiver<String>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let read = move || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("orders".to_owned()).spawn(read).during("start a thread")?;
    Ok(receiver)
}
