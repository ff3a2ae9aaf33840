//! What the device offers on the mesh.

use embassy_futures::join::join;
use embassy_net::Stack;
use embassy_net::tcp::TcpSocket;
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_time::Duration;

use crate::page::{self, Report};

/// RFC 862.
const ECHO: u16 = 7;
const HTTP: u16 = 80;
/// A connection of which nothing is heard is closed after this.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest datagram that comes back.
const DATAGRAM: usize = 1_400;

/// Their memory.
pub(crate) struct Services {
    echo: [[u8; DATAGRAM]; 2],
    datagram: [u8; DATAGRAM],
    http: [[u8; 1_024]; 2],
}

impl Services {
    pub(crate) const fn new() -> Self {
        Self { echo: [[0; DATAGRAM]; 2], datagram: [0; DATAGRAM], http: [[0; 1_024]; 2] }
    }

    pub(crate) async fn run(&mut self, stack: Stack<'_>, report: &impl Report) {
        let Self { echo: [received, sent], datagram, http: [incoming, outgoing] } = self;
        let [mut places, mut sent_places] = [[PacketMetadata::EMPTY; 2]; 2];
        let socket = UdpSocket::new(stack, &mut places, received, &mut sent_places, sent);
        let page = TcpSocket::new(stack, incoming, outgoing);
        join(echo(socket, datagram), serve(page, report)).await;
    }
}

async fn echo(mut socket: UdpSocket<'_>, datagram: &mut [u8]) {
    if socket.bind(ECHO).is_err() {
        return;
    }
    loop {
        if let Ok((len, from)) = socket.recv_from(datagram).await {
            // Who is gone needs no answer.
            let _ = socket.send_to(&datagram[..len], from).await;
        }
    }
}

async fn serve(mut socket: TcpSocket<'_>, report: &impl Report) {
    socket.set_timeout(Some(SILENCE));
    loop {
        if socket.accept(HTTP).await.is_ok() {
            // One that breaks off is followed by the next.
            let _ = page::answer(&mut socket, report).await;
        }
        socket.close();
        let _ = socket.flush().await;
        socket.abort();
    }
}
