//! Metrics and health over HTTP, on a thread of its own: one question per
//! connection, and nobody can keep it for long.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::server::Shared;

/// The longest question that is read.
const MAX_REQUEST: usize = 1_024;
/// How long a question and an answer may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// The listener; dropping it ends its thread.
pub(super) struct Health {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Health {
    pub(super) fn start(address: SocketAddr, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("weft-metrics".to_owned()).spawn(move || {
                for stream in listener.incoming() {
                    if for_thread.load(Ordering::Acquire) {
                        return;
                    }
                    // Who asks badly gets nothing, and asks again.
                    let _ = stream.and_then(|stream| answer(stream, &shared));
                }
            })?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let mut target = self.address;
        if target.ip().is_unspecified() {
            target.set_ip(match target {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        // Any connection wakes it, and it then sees the flag.
        if TcpStream::connect_timeout(&target, DEADLINE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            // A panic of the thread was printed by the panic hook.
            let _ended = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut request = [0; MAX_REQUEST];
    let mut len = 0;
    while !request[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[len..])? {
            0 => return Ok(()),
            count => len += count,
        }
    }
    let line = request[..len].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (status, body) = match line {
        line if line.starts_with(b"GET /metrics ") => ("200 OK", metrics(shared)),
        line if line.starts_with(b"GET /healthz ") => health(shared),
        line if line.starts_with(b"GET ") => {
            ("404 Not Found", "try /metrics or /healthz\n".to_owned())
        }
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn health(shared: &Shared) -> (&'static str, String) {
    let status = shared.status();
    match (status.has_failed, status.is_draining) {
        (true, _) => {
            ("503 Service Unavailable", "failed: the relay's thread has ended\n".to_owned())
        }
        (false, true) => (
            "503 Service Unavailable",
            format!("draining: {} allocations left\n", status.allocations),
        ),
        (false, false) => ("200 OK", "ok\n".to_owned()),
    }
}

/// Prometheus' text format.
fn metrics(shared: &Shared) -> String {
    let mut text = String::new();
    let status = shared.status();
    let gauges = [
        ("allocations", "Allocations at this moment.", status.allocations),
        ("users", "Users with allocations.", status.users),
        ("connections", "TCP and TLS connections at this moment.", status.connections),
        ("draining", "Whether new allocations are refused.", u64::from(status.is_draining)),
    ];
    for (name, help, value) in gauges {
        // Writing into a string does not fail.
        let _ = write!(
            text,
            "# HELP weft_relay_{name} {help}\n# TYPE weft_relay_{name} gauge\nweft_relay_{name} {value}\n"
        );
    }
    let shell = [
        ("packets_lost", "Packets that the system or a slow reader did not take.", status.lost),
        ("connections_made", "Connections taken.", status.connections_made),
        (
            "connections_dropped",
            "Connections turned away, or ended for being idle or too slow.",
            status.connections_dropped,
        ),
    ];
    for (name, help, value) in shared.counters().each().chain(shell) {
        let help = help.trim();
        let _ = write!(
            text,
            "# HELP weft_relay_{name}_total {help}\n# TYPE weft_relay_{name}_total counter\n\
             weft_relay_{name}_total {value}\n"
        );
    }
    text
}
