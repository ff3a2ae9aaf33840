//! What the laboratory measures by itself: loss, round trips, throughput.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::net::echo::{Pinger, Steady};
use crate::net::namespace::Namespace;
use crate::net::signal;

/// Answers to a series of echo requests.
#[derive(Default)]
pub(crate) struct Pings {
    pub(crate) sent: u32,
    pub(crate) times: Vec<Duration>,
}

impl Pings {
    /// Counts one request.
    pub(crate) fn add(&mut self, answer: Option<Duration>) {
        self.sent += 1;
        self.times.extend(answer);
    }

    pub(crate) fn received(&self) -> usize {
        self.times.len()
    }

    pub(crate) fn lost(&self) -> u32 {
        self.sent - u32::try_from(self.times.len()).unwrap_or(u32::MAX)
    }

    /// Share that was lost, in percent.
    pub(crate) fn loss_pct(&self) -> f64 {
        100.0 * f64::from(self.lost()) / f64::from(self.sent.max(1))
    }

    /// The same in a document: whole numbers without a point.
    pub(crate) fn loss_json(&self) -> Value {
        if self.lost() == 0 { 0.into() } else { ((self.loss_pct() * 10.0).round() / 10.0).into() }
    }

    pub(crate) fn median(&self) -> Option<Duration> {
        median(&self.times)
    }
}

/// The middle one; of an even number the later.
pub(crate) fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// Sends `count` echo requests, the next after each answer or `limit`.
pub(crate) fn pings(
    namespace: &Namespace,
    target: IpAddr,
    count: u32,
    limit: Duration,
) -> Result<Pings> {
    let mut pinger = Pinger::open(namespace, target).during("open a socket for echo requests")?;
    let mut pings = Pings::default();
    for _ in 0..count {
        // No route counts as lost: the request got no answer.
        pings.add(pinger.ping(limit).unwrap_or(None));
    }
    Ok(pings)
}

/// Between two looks at something that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(100);

/// Looks until there is what is waited for, and gives the time that it took.
pub(crate) fn wait_until(
    limit: Duration,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let began = clock::now();
    while !is_so()? {
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        if began.elapsed() > limit {
            return Err(Failure::expectation(format!("{what}: not within {limit:?}")));
        }
        signal::rest(LOOK);
    }
    Ok(began.elapsed())
}

/// Echo requests at an even pace, on a thread of their own.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Steady>,
}

impl Traffic {
    /// Answers may come this late.
    const GRACE: Duration = Duration::from_secs(1);

    pub(crate) fn start(namespace: &Namespace, target: IpAddr, every: Duration) -> Result<Self> {
        let mut pinger =
            Pinger::open(namespace, target).during("open a socket for echo requests")?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("traffic".to_owned())
            .spawn(move || pinger.steady(every, Self::GRACE, &asked))
            .during("start a thread")?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn end(self) -> Result<Steady> {
        self.stop.store(true, Ordering::Release);
        self.thread
            .join()
            .map_err(|_| Failure::new("lab.internal", "the thread of the traffic panicked"))
    }
}

/// Numbered packets one way at an even pace, which nobody answers.
pub(crate) struct Feed {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<io::Result<()>>,
    arrived: Arc<Mutex<Arrived>>,
}

/// What has arrived of a [`Feed`].
#[derive(Clone, Copy, Default)]
pub(crate) struct Arrived {
    pub(crate) packets: u64,
    pub(crate) last: Option<Instant>,
}

impl Feed {
    /// From one namespace to an address in another.
    pub(crate) fn start(
        from: &Namespace,
        to: &Namespace,
        address: IpAddr,
        every: Duration,
    ) -> Result<Self> {
        let what = format!("open a socket at {address}");
        let socket = to.within(|| UdpSocket::bind(SocketAddr::new(address, 0))).during(&what)?;
        let socket = socket.during(&what)?;
        let target = socket.local_addr().during(&what)?;
        let source = from.within(|| UdpSocket::bind(SocketAddr::new(any(address), 0)));
        let source = source.during(&what)?.during(&what)?;
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(Mutex::default());
        let (asked, count) = (Arc::clone(&stop), Arc::clone(&arrived));
        let receiver = thread::Builder::new()
            .name("feed-in".to_owned())
            .spawn(move || take(&socket, &count, &asked))
            .during("start a thread")?;
        let asked = Arc::clone(&stop);
        let sender = thread::Builder::new()
            .name("feed-out".to_owned())
            .spawn(move || give(&source, target, every, &asked))
            .during("start a thread")?;
        Ok(Self { stop, sender, receiver, arrived })
    }

    pub(crate) fn arrived(&self) -> Arrived {
        *self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many were sent, and what arrived.
    pub(crate) fn end(self) -> Result<(u64, Arrived)> {
        let arrived = self.arrived();
        self.stop.store(true, Ordering::Release);
        let panicked = |_| Failure::new("lab.internal", "a thread of the feed panicked");
        let sent = self.sender.join().map_err(panicked)?;
        self.receiver.join().map_err(panicked)?.during("receive packets")?;
        Ok((sent, arrived))
    }
}

/// Every address of this one's family.
pub(crate) const fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn take(socket: &UdpSocket, arrived: &Mutex<Arrived>, stop: &AtomicBool) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Acquire) {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
                arrived.packets += 1;
                arrived.last = Some(clock::now());
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn give(socket: &UdpSocket, to: SocketAddr, every: Duration, stop: &AtomicBool) -> u64 {
    let mut next = clock::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        // The host may have no way there any more: that is what is looked at.
        let _refused = socket.send_to(&number.to_be_bytes(), to);
        next += every;
        thread::park_timeout(next.saturating_duration_since(clock::now()));
    }
    number
}

/// One TCP stream from one namespace to an address in another: payload bits
/// per second, in millions, counted by the receiver from its first byte on.
pub(crate) fn tcp_mbps(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    time: Duration,
) -> Result<f64> {
    let listener = to
        .within(|| TcpListener::bind(SocketAddr::new(address, 0)))
        .during("enter the receiver's namespace")?
        .during(&format!("listen on {address}"))?;
    let target = listener.local_addr().during("name the listening socket")?;
    let receiver = thread::spawn(move || receive(&listener));
    let stream = from
        .within(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))
        .during("enter the sender's namespace")?
        .during(&format!("connect to {target}"))?;
    let sent = send(stream, time);
    let received = receiver
        .join()
        .map_err(|_| Failure::new("lab.internal", "the receiving thread panicked"))?;
    sent.during(&format!("send to {target}"))?;
    let (bytes, took) = received.during(&format!("receive on {target}"))?;
    Ok(bytes as f64 * 8.0 / 1e6 / took.as_secs_f64().max(1e-9))
}

fn send(mut stream: TcpStream, time: Duration) -> io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let chunk = vec![0x57; 128 * 1024];
    let until = clock::now() + time;
    while clock::now() < until {
        stream.write_all(&chunk)?;
    }
    Ok(())
}

fn receive(listener: &TcpListener) -> io::Result<(u64, Duration)> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    let mut first: Option<Instant> = None;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            len => bytes += len as u64,
        }
        first.get_or_insert_with(clock::now);
    }
    Ok((bytes, first.map_or(Duration::MAX, |first| first.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_what_was_not_answered() {
        let mut pings = Pings::default();
        for answer in [Some(3), None, Some(1), Some(2)] {
            pings.add(answer.map(Duration::from_millis));
        }
        assert_eq!((pings.sent, pings.received(), pings.lost()), (4, 3, 1));
        assert!((pings.loss_pct() - 25.0).abs() < f64::EPSILON);
        assert_eq!(pings.median(), Some(Duration::from_millis(2)));
        assert!(Pings::default().loss_pct().abs() < f64::EPSILON);
    }
}
