//! One TCP stream through a tunnel, at an even pace, that is to outlive what happens to
//! the tunnel.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::net::namespace::Namespace;

/// What is sent at once, and how often: 20 Mbit/s.
const PIECE: usize = 50_000;
const EVERY: Duration = Duration::from_millis(20);
/// A tunnel may be silent for so long; a stream that waits longer is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream under way.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: [JoinHandle<io::Result<u64>>; 2],
}

impl Load {
    /// From one namespace to an overlay address in another.
    pub(crate) fn start(from: &Namespace, to: &Namespace, address: IpAddr) -> Result<Self> {
        let what = format!("open a stream to {address}");
        let listener = to.within(|| TcpListener::bind(SocketAddr::new(address, 0)));
        let listener = listener.during(&what)?.during(&what)?;
        let target = listener.local_addr().during(&what)?;
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let receiver = thread::Builder::new()
            .name("load-in".to_owned())
            .spawn(move || receive(&listener, &counted))
            .during("start a thread")?;
        let stream = from.within(|| TcpStream::connect_timeout(&target, PATIENCE));
        let stream = stream.during(&what)?.during(&what)?;
        stream.set_write_timeout(Some(PATIENCE)).during(&what)?;
        let asked = Arc::clone(&stop);
        let sender = thread::Builder::new()
            .name("load-out".to_owned())
            .spawn(move || send(stream, &asked))
            .during("start a thread")?;
        Ok(Self { stop, received, threads: [sender, receiver] })
    }

    /// Bytes that have arrived so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Ends it: whether it was whole until then, and everything that was sent arrived.
    pub(crate) fn end(self) -> Result<bool> {
        self.stop.store(true, Ordering::Release);
        let panicked = |_| Failure::new("lab.internal", "a thread of the load panicked");
        let [sent, received] = self.threads.map(JoinHandle::join);
        let (sent, received) = (sent.map_err(panicked)?, received.map_err(panicked)?);
        Ok(matches!((sent, received), (Ok(sent), Ok(received)) if sent == received))
    }
}

/// Returns how many bytes it has sent.
fn send(mut stream: TcpStream, stop: &AtomicBool) -> io::Result<u64> {
    let piece = vec![0x57; PIECE];
    let mut next = clock::now();
    let mut sent = 0;
    while !stop.load(Ordering::Acquire) {
        stream.write_all(&piece)?;
        sent += PIECE as u64;
        next = (next + EVERY).max(clock::now());
        thread::park_timeout(next.saturating_duration_since(clock::now()));
    }
    Ok(sent)
}

/// Returns how many bytes came until the end.
fn receive(listener: &TcpListener, received: &AtomicU64) -> io::Result<u64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(received.load(Ordering::Acquire)),
            len => received.fetch_add(len as u64, Ordering::AcqRel),
        };
    }
}
