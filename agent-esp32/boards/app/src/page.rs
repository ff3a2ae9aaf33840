//! The status page.

use core::fmt::Write as _;

use embassy_net::Stack;
use embassy_net::tcp::{Error, TcpSocket};
use embedded_io_async::Write as _;
use heapless::String;
use weft_agent_esp32::Mesh;
use weft_agent_esp32::log::{DropReason, Logged};
use weft_agent_esp32::status::{Path, Peer, Status};

use crate::stack::StackUse;

/// Of a request only its beginning counts.
const REQUEST: usize = 256;

/// A line of the page.
type Line = String<192>;

/// What is on the pages.
pub(crate) trait Report {
    /// The line with this number from 0 on, or `None` behind the last one.
    fn line(&self, number: usize) -> Option<Line>;

    /// The same of the page with counters, and what happened last.
    fn log(&self, number: usize) -> Option<Line>;
}

/// The page of a member of the mesh.
pub(crate) struct MeshReport<'d> {
    pub(crate) mesh: Mesh<'d>,
    pub(crate) stack: fn() -> StackUse,
}

impl Report for MeshReport<'_> {
    fn line(&self, number: usize) -> Option<Line> {
        let status = self.mesh.status();
        match number {
            0 => Some(addresses(&status)),
            1 => Some(coordinator(&status)),
            2 => Some(traffic(&status)),
            3 => Some(stack((self.stack)())),
            _ => status.peers.get(number - 4).map(peer),
        }
    }

    fn log(&self, number: usize) -> Option<Line> {
        let counters = self.mesh.counters();
        let counted = || counters.iter().chain(counters.drops.iter().map(dropped));
        if let Some((name, count)) = counted().nth(number) {
            return Some(text(format_args!("{name} {count}")));
        }
        self.mesh.logged(number - counted().count()).map(|logged| happened(&logged))
    }
}

/// The page of a device that is in its local network alone.
pub(crate) struct LocalReport<'d> {
    pub(crate) local: Stack<'d>,
    pub(crate) stack: fn() -> StackUse,
}

impl Report for LocalReport<'_> {
    fn line(&self, number: usize) -> Option<Line> {
        match number {
            0 => {
                let config = self.local.config_v4()?;
                Some(text(format_args!("addresses    {}", config.address)))
            }
            1 => Some(stack((self.stack)())),
            _ => None,
        }
    }

    fn log(&self, _number: usize) -> Option<Line> {
        None
    }
}

/// Reads a request and answers it.
pub(crate) async fn answer(socket: &mut TcpSocket<'_>, report: &impl Report) -> Result<(), Error> {
    let mut request = [0; REQUEST];
    let mut len = 0;
    while len < request.len() && !request[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        match socket.read(&mut request[len..]).await? {
            0 => break,
            more => len += more,
        }
    }
    let is_log = request.starts_with(b"GET /log ");
    if !is_log && !request.starts_with(b"GET / ") {
        socket.write_all(b"HTTP/1.0 404 Not Found\r\nContent-Type: text/plain\r\n\r\n").await?;
        return socket.write_all(b"there are two pages: / and /log\n").await;
    }
    socket.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n").await?;
    let mut number = 0;
    while let Some(line) = if is_log { report.log(number) } else { report.line(number) } {
        socket.write_all(line.as_bytes()).await?;
        number += 1;
    }
    Ok(())
}

/// What fits of it; all does.
fn text(words: core::fmt::Arguments<'_>) -> Line {
    let mut text = Line::new();
    let _ = writeln!(text, "{words}");
    text
}

fn addresses(status: &Status) -> Line {
    match status.addresses {
        Some((v4, v6)) => text(format_args!("addresses    {v4} {v6}")),
        None => text(format_args!("addresses    none yet")),
    }
}

fn coordinator(status: &Status) -> Line {
    let online = if status.online { "online" } else { "offline" };
    text(format_args!("coordinator  {online}, {} ms", status.rtt_ms))
}

fn traffic(status: &Status) -> Line {
    let (sent, received) = status.bytes;
    text(format_args!("traffic      {sent} B sent, {received} B received"))
}

fn dropped((reason, count): (DropReason, u32)) -> (&'static str, u64) {
    (reason.as_str(), u64::from(count))
}

/// Seconds after the start, what it was, its number and the place of its peer.
fn happened(logged: &Logged) -> Line {
    let (at, what, number) = (logged.at_s, logged.code.as_str(), logged.number);
    match logged.slot() {
        Some(slot) => text(format_args!("{at} s  {what} {number}, place {slot}")),
        None => text(format_args!("{at} s  {what} {number}")),
    }
}

fn stack(stack: StackUse) -> Line {
    text(format_args!("stack        {} B used of {}", stack.used, stack.size))
}

fn peer(peer: &Peer) -> Line {
    match peer.path {
        Path::Direct(address) => text(format_args!("peer         {}  direct {address}", peer.name)),
        Path::Relay => text(format_args!("peer         {}  relay", peer.name)),
        Path::Idle => text(format_args!("peer         {}  idle", peer.name)),
    }
}
