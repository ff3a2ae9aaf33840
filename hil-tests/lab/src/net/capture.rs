//! What passes an interface, both ways, with the moment at which it passed.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;
use std::time::Instant;

use super::namespace::Namespace;
use super::packet::{MAX_FRAME, OFFLOAD_HEADER, PacketSocket, wait};
use crate::clock;

/// One frame.
pub(crate) struct Frame<'a> {
    pub(crate) at: Instant,
    /// It leaves the host; otherwise it arrives there.
    pub(crate) leaves: bool,
    /// Payload of each segment, if it is cut into several on its way; else 0.
    pub(crate) segment: u16,
    /// From the Ethernet header on.
    pub(crate) bytes: &'a [u8],
}

/// A running capture; dropping it ends it.
pub(crate) struct Capture {
    stop: UdpSocket,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Capture {
    /// Every frame of an interface goes to `take`, on a thread of its own.
    ///
    /// # Errors
    ///
    /// What the system says about the socket or the thread.
    pub(crate) fn start(
        namespace: &Namespace,
        interface: &str,
        take: impl FnMut(&Frame<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{interface}: {error}"));
        let socket = namespace.within(|| PacketSocket::both_ways(interface).map_err(named))??;
        // As for the wire: a datagram wakes the thread.
        let stop = UdpSocket::bind("127.0.0.1:0")?;
        let stopped = UdpSocket::bind("127.0.0.1:0")?;
        stop.connect(stopped.local_addr()?)?;
        stopped.set_nonblocking(true)?;
        let thread = std::thread::Builder::new().name("capture".to_owned()).spawn(move || {
            // Moments are what is measured. Without the right to this they are
            // only later on a busy machine.
            let _hurried = super::hurry();
            run(&socket, &stopped, take)
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it: what has passed by now was taken.
    ///
    /// # Errors
    ///
    /// Why it ended before.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let told = self.stop.send(&[0]);
        if thread.is_finished() || told.is_ok() {
            return thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        told.map(drop)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            crate::ui::note(&format!("a capture broke: {error}"));
        }
    }
}

fn run(
    socket: &PacketSocket,
    stopped: &UdpSocket,
    mut take: impl FnMut(&Frame<'_>),
) -> io::Result<()> {
    let descriptors = [socket.descriptor(), stopped.as_raw_fd()];
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        wait(&descriptors, None)?;
        // Asked before the last look, so that nothing is left behind.
        let ends = stopped.recv(&mut [0; 1]).is_ok();
        loop {
            let (len, leaves) = match socket.receive_from(&mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // The interface goes down, and may come back.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => break,
                Err(error) => return Err(error),
            };
            let at = clock::now();
            if let Some((header, bytes)) = buffer[..len].split_first_chunk::<OFFLOAD_HEADER>() {
                // `gso_size` of the virtio header, in the machine's order.
                let segment = u16::from_ne_bytes([header[4], header[5]]);
                take(&Frame { at, leaves, segment, bytes });
            }
        }
        if ends {
            return Ok(());
        }
    }
}
