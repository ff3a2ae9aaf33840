//! Echo requests (RFC 792, RFC 4443) with their round-trip times.
//!
//! Not ping(8): the laboratory wants to know when the first answer came, to the
//! microsecond, while the interface may not even exist yet.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::check;
use super::namespace::Namespace;
use crate::clock;

const HEADER: usize = 8;
/// As ping(8) sends it.
const PAYLOAD: usize = 56;

/// A person notices that nothing answers for longer than this.
pub(crate) const OUTAGE: Duration = Duration::from_secs(1);

/// What came of requests that were sent one after another.
#[derive(Default)]
pub(crate) struct Steady {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// The longest time without an answer.
    pub(crate) longest_gap: Duration,
    /// Times without an answer that were longer than [`OUTAGE`].
    pub(crate) outages: u64,
    last: Option<Instant>,
}

impl Steady {
    fn note(&mut self, now: Instant) {
        if let Some(last) = self.last {
            self.longest_gap = self.longest_gap.max(now - last);
            self.outages += u64::from(now - last > OUTAGE);
        }
        self.last = Some(now);
    }

    pub(crate) const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.answered)
    }

    /// Share that was lost, in percent.
    pub(crate) fn loss_pct(&self) -> f64 {
        100.0 * self.lost() as f64 / self.sent.max(1) as f64
    }
}

/// Sends echo requests to one address from one namespace.
pub(crate) struct Pinger {
    socket: UdpSocket,
    target: IpAddr,
    identifier: u16,
    sequence: u16,
}

impl Pinger {
    /// Opens a raw socket inside `namespace`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn open(namespace: &Namespace, target: IpAddr) -> io::Result<Self> {
        let socket = namespace.within(|| open(target))??;
        // Distinct per socket: raw sockets see each other's answers.
        let identifier = (socket.as_raw_fd() as u16) ^ (std::process::id() as u16) << 6;
        Ok(Self { socket, target, identifier, sequence: 0 })
    }

    /// Sends one request and waits for its answer: the round trip, or `None`
    /// when the time is over.
    ///
    /// # Errors
    ///
    /// What the system says, for instance that there is no route yet.
    pub(crate) fn ping(&mut self, limit: Duration) -> io::Result<Option<Duration>> {
        let sent = self.send()?;
        self.answer(sent, limit)
    }

    /// Sends requests `every` so often until one is answered or the time is
    /// over: when the first answer came. Errors mean "not yet".
    pub(crate) fn first_answer(&mut self, every: Duration, until: Instant) -> Option<Instant> {
        while clock::now() < until {
            let sent = self.send().unwrap_or_else(|_| clock::now());
            let first = self.sequence;
            while let Some(left) = every.checked_sub(sent.elapsed()).filter(|left| !left.is_zero())
            {
                // Answers to earlier requests count as well.
                match self.receive(left) {
                    Ok(Some(sequence)) if sequence <= first => return Some(clock::now()),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        None
    }

    /// Sends a request `every` so often, whatever comes back, until told to
    /// stop; then waits `grace` for what is still on its way.
    pub(crate) fn steady(&mut self, every: Duration, grace: Duration, stop: &AtomicBool) -> Steady {
        let mut under_way = HashMap::new();
        let mut next = clock::now();
        let mut steady = Steady { last: Some(next), ..Steady::default() };
        while !stop.load(Ordering::Acquire) {
            steady.sent += 1;
            // What cannot be sent is lost like what is not answered.
            if let Ok(at) = self.send() {
                under_way.insert(self.sequence, at);
            }
            next += every;
            self.collect(next, &mut under_way, &mut steady);
        }
        let ended = clock::now();
        self.collect(ended + grace, &mut under_way, &mut steady);
        if steady.last < Some(ended) {
            steady.note(ended);
        }
        steady
    }

    /// Takes answers until a moment.
    fn collect(&self, until: Instant, under_way: &mut HashMap<u16, Instant>, steady: &mut Steady) {
        loop {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            match self.receive(left) {
                Ok(Some(sequence)) if under_way.remove(&sequence).is_some() => {
                    steady.answered += 1;
                    steady.note(clock::now());
                }
                // Somebody else's answer, or an error of an earlier request.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn send(&mut self) -> io::Result<Instant> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = [0; HEADER + PAYLOAD];
        packet[0] = if self.target.is_ipv4() { 8 } else { 128 };
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        if self.target.is_ipv4() {
            // The kernel sums up ICMPv6 only.
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let now = clock::now();
        self.socket.send_to(&packet, SocketAddr::new(self.target, 0))?;
        Ok(now)
    }

    fn answer(&self, sent: Instant, limit: Duration) -> io::Result<Option<Duration>> {
        while let Some(left) = limit.checked_sub(sent.elapsed()).filter(|left| !left.is_zero()) {
            if self.receive(left)? == Some(self.sequence) {
                return Ok(Some(sent.elapsed()));
            }
        }
        Ok(None)
    }

    /// The sequence of the next answer to us, or `None` for anything else.
    fn receive(&self, limit: Duration) -> io::Result<Option<u16>> {
        self.socket.set_read_timeout(Some(limit))?;
        let mut buffer = [0; 1_500];
        let (len, from) = match self.socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if from.ip() != self.target {
            return Ok(None);
        }
        Ok(parse(&buffer[..len], self.target, self.identifier))
    }
}

fn parse(packet: &[u8], target: IpAddr, identifier: u16) -> Option<u16> {
    let (message, reply) = match target {
        // A raw IPv4 socket gives the IP header too.
        IpAddr::V4(_) => (packet.get(usize::from(packet.first()? & 15) * 4..)?, 0),
        IpAddr::V6(_) => (packet, 129),
    };
    let header = message.first_chunk::<HEADER>()?;
    let ours = header[0] == reply && header[4..6] == identifier.to_be_bytes();
    ours.then(|| u16::from_be_bytes([header[6], header[7]]))
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

fn open(target: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match target {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
    };
    // SAFETY: socket takes integers; the descriptor is new and owned by us alone.
    let socket = unsafe {
        OwnedFd::from_raw_fd(check(libc::socket(
            family,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            protocol,
        ))?)
    };
    // std's datagram calls fit a raw socket: an address and bytes.
    Ok(UdpSocket::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn the_checksum_of_rfc_1071_section_3() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0x220d);
        assert_eq!(checksum(&[0xff]), 0x00ff);
    }

    #[test]
    fn only_our_own_answers_count() {
        let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
        let answer = [129, 0, 0, 0, 0x12, 0x34, 0, 7];
        assert_eq!(parse(&answer, v6, 0x1234), Some(7));
        assert_eq!(parse(&answer, v6, 0x1235), None);
        assert_eq!(parse(&answer[..7], v6, 0x1234), None);
        let v4: IpAddr = Ipv4Addr::LOCALHOST.into();
        let mut packet = vec![0x45; 20];
        packet.extend([0, 0, 0, 0, 0x12, 0x34, 0, 9]);
        assert_eq!(parse(&packet, v4, 0x1234), Some(9));
        packet[20] = 8;
        assert_eq!(parse(&packet, v4, 0x1234), None, "a request, not an answer");
    }

    #[test]
    fn the_longest_gap_is_between_two_answers() {
        let start = clock::now();
        let mut steady = Steady { sent: 4, last: Some(start), ..Steady::default() };
        for millis in [20, 70, 90] {
            steady.answered += 1;
            steady.note(start + Duration::from_millis(millis));
        }
        assert_eq!((steady.longest_gap, steady.outages), (Duration::from_millis(50), 0));
        steady.note(start + Duration::from_millis(90) + OUTAGE + Duration::from_millis(1));
        assert_eq!(steady.outages, 1);
        assert_eq!(steady.lost(), 1);
        assert!((steady.loss_pct() - 25.0).abs() < f64::EPSILON);
    }
}
