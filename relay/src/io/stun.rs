//! The Binding responder alone, on one socket: a thread, and a way to end it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::proto::{Counters, MAX_ANSWER, Responder};

use super::clock;
use super::socket::Socket;

/// A running STUN server; dropping it ends its thread.
pub struct StunServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
    limited: AtomicU64,
    ignored: AtomicU64,
    errors: AtomicU64,
}

/// Tells of a thread that ends by itself.
struct Watch<F: FnOnce(SocketAddr)> {
    address: SocketAddr,
    shared: Arc<Shared>,
    failed: Option<F>,
}

impl<F: FnOnce(SocketAddr)> Drop for Watch<F> {
    fn drop(&mut self) {
        if let Some(failed) = self.failed.take()
            && !self.shared.stop.load(Ordering::Acquire)
        {
            failed(self.address);
        }
    }
}

impl StunServer {
    /// Binds `address` and answers until the server is dropped. An IPv6
    /// wildcard address serves IPv4 too.
    ///
    /// # Errors
    ///
    /// What the operating system says about the socket or the thread.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        Self::start_watched(address, |_| {})
    }

    /// [`StunServer::start`]; `failed` is called with the address when the thread
    /// ends although nobody dropped the server.
    ///
    /// # Errors
    ///
    /// What the operating system says about the socket or the thread.
    pub fn start_watched(
        address: SocketAddr,
        failed: impl FnOnce(SocketAddr) + Send + 'static,
    ) -> io::Result<Self> {
        let socket = Socket::bind(address)?;
        let address = socket.address()?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let watch = Watch { address, shared: Arc::clone(&shared), failed: Some(failed) };
        let thread = std::thread::Builder::new().name("weft-stun".to_owned()).spawn(move || {
            // Dropped at the end, and also when `serve` panics.
            let _watch = watch;
            serve(&socket, &for_thread);
        })?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            answered: load(&self.shared.answered),
            refused: load(&self.shared.refused),
            limited: load(&self.shared.limited),
            ignored: load(&self.shared.ignored),
        }
    }

    /// Datagrams that could not be received or sent, by the system's word.
    pub fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }

    fn end_thread(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by the panic hook.
            let _ended = thread.join();
        }
    }
}

impl Drop for StunServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Any datagram wakes the thread, which then sees the flag.
        let mut target = self.address;
        if target.ip().is_unspecified() {
            target.set_ip(match target {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let any = SocketAddr::new(
            match target {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            },
            0,
        );
        let woken = UdpSocket::bind(any).and_then(|socket| socket.send_to(&[], target));
        if woken.is_ok() {
            self.end_thread();
        }
    }
}

fn serve(socket: &Socket, shared: &Shared) {
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
    let mut responder = Responder::new(seed);
    let start = clock::now();
    let mut buffer = [0; 1_024];
    let mut out = [0; MAX_ANSWER];
    while !shared.stop.load(Ordering::Acquire) {
        let (len, meta) = match socket.receive(&mut buffer) {
            Ok(received) => received,
            Err(error) => {
                shared.errors.fetch_add(1, Ordering::Relaxed);
                if is_fatal(&error) {
                    return;
                }
                continue;
            }
        };
        let answer =
            responder.handle_datagram(meta.source, &buffer[..len], start.elapsed(), &mut out);
        // Before the answer leaves, so that who has it also finds it counted.
        publish(shared, responder.counters());
        if let Ok(len) = answer
            && socket.send(&out[..len], &meta).is_err()
        {
            shared.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Errors of the socket itself; others belong to one datagram (an ICMP message
/// about an earlier answer, for example).
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT))
}

fn publish(shared: &Shared, counters: Counters) {
    for (place, value) in [
        (&shared.answered, counters.answered),
        (&shared.refused, counters.refused),
        (&shared.limited, counters.limited),
        (&shared.ignored, counters.ignored),
    ] {
        place.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_that_ends_by_itself_is_told_of() {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let (told, heard) = mpsc::channel();
        let watch = |told: mpsc::Sender<SocketAddr>, shared: &Arc<Shared>| Watch {
            address,
            shared: Arc::clone(shared),
            failed: Some(move |address| told.send(address).unwrap()),
        };
        let shared = Arc::new(Shared::default());
        drop(watch(told.clone(), &shared));
        assert_eq!(heard.try_recv(), Ok(address));
        shared.stop.store(true, Ordering::Release);
        drop(watch(told, &shared));
        assert!(heard.try_recv().is_err(), "it was told to end");
    }
}
