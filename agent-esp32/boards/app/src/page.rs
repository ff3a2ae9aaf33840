//! The status page.

use core::fmt::Write as _;

use embassy_net::tcp::{Error, TcpSocket};
use embedded_io_async::Write as _;
use heapless::String;
use weft_agent_esp32::Mesh;
use weft_agent_esp32::status::{Path, Peer, Status};

/// Of a request only its first line counts.
const REQUEST: usize = 256;

/// Reads a request and answers it.
pub(crate) async fn answer(socket: &mut TcpSocket<'_>, mesh: Mesh<'_>) -> Result<(), Error> {
    let mut request = [0; REQUEST];
    let mut len = 0;
    while len < request.len() && !request[..len].windows(4).any(|end| end == b"\r\n\r\n") {
        match socket.read(&mut request[len..]).await? {
            0 => break,
            more => len += more,
        }
    }
    let status = mesh.status();
    if request.starts_with(b"GET / ") {
        socket.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n").await?;
        socket.write_all(head(&status).as_bytes()).await?;
        for peer in &status.peers {
            socket.write_all(line(peer).as_bytes()).await?;
        }
        return Ok(());
    }
    socket.write_all(b"HTTP/1.0 404 Not Found\r\nContent-Type: text/plain\r\n\r\n").await?;
    socket.write_all(b"there is one page: /\n").await
}

/// What fits of it; all does.
fn head(status: &Status) -> String<256> {
    let mut text = String::new();
    if let Some((v4, v6)) = status.addresses {
        let _ = writeln!(text, "addresses    {v4} {v6}");
    }
    let (online, rtt) = (if status.online { "online" } else { "offline" }, status.rtt_ms);
    let _ = writeln!(text, "coordinator  {online}, {rtt} ms");
    let (sent, received) = status.bytes;
    let _ = writeln!(text, "traffic      {sent} B sent, {received} B received");
    text
}

fn line(peer: &Peer) -> String<192> {
    let mut text = String::new();
    let _ = write!(text, "peer         {}  ", peer.name);
    let _ = match peer.path {
        Path::Direct(address) => writeln!(text, "direct {address}"),
        Path::Relay => writeln!(text, "relay"),
        Path::Idle => writeln!(text, "idle"),
    };
    text
}
