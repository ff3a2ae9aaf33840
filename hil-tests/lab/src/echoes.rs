//! A UDP echo at an even pace through a tunnel, and when which answer came.
//!
//! What nobody answers is not sent again: a gap between answers is a gap of the
//! tunnel.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::measure::any;
use crate::net::namespace::Namespace;

/// How often a thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// A request that was answered.
#[derive(Clone, Copy)]
struct Answer {
    sent: Instant,
    came: Instant,
}

#[derive(Default)]
struct Log {
    /// When each request was sent.
    sent: Vec<Instant>,
    /// In the order in which they came.
    answers: Vec<Answer>,
}

/// Echoes under way; dropping them ends them.
pub(crate) struct Echoes {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Log>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Echoes {
    /// Requests from one namespace to an overlay address in another.
    pub(crate) fn start(
        from: &Namespace,
        to: &Namespace,
        address: IpAddr,
        every: Duration,
    ) -> Result<Self> {
        let open = |namespace: &Namespace, address: IpAddr| -> Result<UdpSocket> {
            let what = format!("open a socket at {address}");
            let socket = namespace.within(|| UdpSocket::bind(SocketAddr::new(address, 0)));
            let socket = socket.during(&what)?.during(&what)?;
            socket.set_read_timeout(Some(LOOK)).during(&what)?;
            Ok(socket)
        };
        let server = open(to, address)?;
        let target = server.local_addr().during("name a socket")?;
        let client = open(from, any(address))?;
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let mut echoes = Self { stop, log, threads: Vec::new() };
        let stop = Arc::clone(&echoes.stop);
        echoes.spawn("echo-server", move || answer(&server, &stop))?;
        let (stop, log) = (Arc::clone(&echoes.stop), Arc::clone(&echoes.log));
        echoes.spawn("echo-client", move || ask(&client, target, every, &log, &stop))?;
        Ok(echoes)
    }

    fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        self.threads.push(thread.during("start a thread")?);
        Ok(())
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// When the first answer came to a request that was sent after `moment`.
    pub(crate) fn first_after(&self, moment: Instant) -> Option<Instant> {
        let log = self.log();
        let after = |answer: &&Answer| answer.sent >= moment;
        log.answers.iter().find(after).map(|answer| answer.came)
    }

    /// Whether every request of the last `time` but those under way was answered.
    pub(crate) fn is_steady(&self, time: Duration, under_way: Duration) -> bool {
        let now = clock::now();
        let (Some(from), Some(to)) = (now.checked_sub(time), now.checked_sub(under_way)) else {
            return false;
        };
        let log = self.log();
        let within = |sent: &Instant| (from..to).contains(sent);
        let sent = log.sent.iter().rev().take_while(|sent| **sent >= from).filter(|at| within(at));
        let sent = sent.count();
        let answered = log.answers.iter().filter(|answer| within(&answer.sent)).count();
        sent > 0 && answered >= sent
    }

    /// The longest time without an answer between two moments.
    pub(crate) fn longest_gap(&self, from: Instant, until: Instant) -> Duration {
        let log = self.log();
        gap(log.answers.iter().map(|answer| answer.came), from, until)
    }

    /// How many were sent, and how many answered.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let log = self.log();
        (log.sent.len(), log.answers.len())
    }

    /// Ends them.
    pub(crate) fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            let ended =
                ended.map_err(|_| Failure::new("lab.internal", "a thread of the echo panicked"))?;
            ended.during("echo packets")?;
        }
        Ok(())
    }
}

impl Drop for Echoes {
    fn drop(&mut self) {
        // They end soon; nobody waits for what they have seen.
        self.stop.store(true, Ordering::Release);
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gap(came: impl Iterator<Item = Instant>, from: Instant, until: Instant) -> Duration {
    let mut last = from;
    let mut longest = Duration::ZERO;
    for at in came.filter(|at| (from..until).contains(at)).chain([until]) {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}

/// A passing state of the network, or of the tunnel's route, is what is measured.
fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
        PermissionDenied, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionRefused
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
            | WouldBlock
    )
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Acquire) {
        let sent = socket
            .recv_from(&mut buffer)
            .and_then(|(len, from)| socket.send_to(buffer.get(..len).unwrap_or_default(), from));
        match sent {
            Ok(_) => {}
            Err(error) if passes(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ask(
    socket: &UdpSocket,
    to: SocketAddr,
    every: Duration,
    log: &Mutex<Log>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut next = clock::now();
    while !stop.load(Ordering::Acquire) {
        let number = {
            let mut log = lock(log);
            log.sent.push(clock::now());
            log.sent.len() as u64 - 1
        };
        match socket.send_to(&number.to_be_bytes(), to) {
            Ok(_) => {}
            Err(error) if passes(&error) => {}
            Err(error) => return Err(error),
        }
        next += every;
        loop {
            let left = next.saturating_duration_since(clock::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            let mut number = [0; 8];
            match socket.recv(&mut number) {
                Ok(8) => note(&mut lock(log), u64::from_be_bytes(number)),
                Ok(_) => {}
                Err(error) if passes(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn note(log: &mut Log, number: u64) {
    let sent = usize::try_from(number).ok().and_then(|number| log.sent.get(number).copied());
    if let Some(sent) = sent {
        log.answers.push(Answer { sent, came: clock::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_reaches_from_answer_to_answer_and_to_both_ends() {
        let start = clock::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let millis = |times: &[u64], from, until| {
            gap(times.iter().map(|time| at(*time)), at(from), at(until)).as_millis()
        };
        assert_eq!(millis(&[10, 30, 90, 100], 0, 110), 60);
        assert_eq!(millis(&[10, 30, 90, 100], 0, 300), 200, "none came any more");
        assert_eq!(millis(&[10, 90], 40, 100), 50, "what came before does not count");
        assert_eq!(millis(&[], 0, 100), 100);
    }
}
