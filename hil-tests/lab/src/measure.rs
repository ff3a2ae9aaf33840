//! What the laboratory measures by itself: loss, round trips, throughput.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::net::echo::Pinger;
use crate::net::namespace::Namespace;

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
