//! Asks relays whether they answer: a STUN Binding request (RFC 8489) to each
//! address, repeated, and the first answer counts.

use core::convert::Infallible;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use weft_wire::stun::{BINDING_REQUEST, BINDING_SUCCESS, Message, MessageWriter};

use crate::domain::relay_health::Check;
use crate::service::random::Random;
use crate::service::relay_link::{Due, RelayLink};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Until the request is sent again.
const REPEAT: Duration = Duration::from_millis(300);

/// Checks relays for ever. Drop the future to stop.
pub async fn run(link: Arc<RelayLink>, random: Random) -> Infallible {
    loop {
        match link.due().await {
            Ok(due) => check_all(&link, due, random).await,
            Err(error) => tracing::warn!(%error, "relay.check"),
        }
        link.until_due().await;
    }
}

async fn check_all(link: &RelayLink, due: Vec<Due>, random: Random) {
    let mut checks = JoinSet::new();
    for Due { number, addresses } in due {
        checks.spawn(async move { (number, check(&addresses, random).await) });
    }
    while let Some(ended) = checks.join_next().await {
        if let Ok((number, check)) = ended {
            link.checked(number, check).await;
        }
    }
}

/// Asks all addresses of a relay at once.
async fn check(addresses: &[SocketAddr], random: Random) -> Check {
    let mut asked = JoinSet::new();
    for address in addresses.iter().copied() {
        asked.spawn(ask(address, random.bytes()));
    }
    let mut result = Check::Unasked;
    while let Some(ended) = asked.join_next().await {
        match ended {
            Ok(answered @ Check::Answered(_)) => return answered,
            Ok(Check::Silent) => result = Check::Silent,
            Ok(Check::Unasked) | Err(_) => {}
        }
    }
    result
}

async fn ask(address: SocketAddr, transaction: [u8; 12]) -> Check {
    let began = Instant::now();
    match exchange(address, transaction, began + PATIENCE).await {
        Ok(true) => Check::Answered(began.elapsed()),
        Ok(false) => Check::Silent,
        // Nobody listens there.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Check::Silent,
        // There is no way there from here.
        Err(_) => Check::Unasked,
    }
}

/// Whether the right answer came in time.
async fn exchange(address: SocketAddr, transaction: [u8; 12], until: Instant) -> io::Result<bool> {
    let own: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(address).await?;
    let mut request = [0; 64];
    let writer = MessageWriter::new(BINDING_REQUEST, transaction, &mut request);
    let len = writer.and_then(MessageWriter::finish).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut answer = [0; 512];
    loop {
        socket.send(&request[..len]).await?;
        let again = (Instant::now() + REPEAT).min(until);
        while let Ok(received) = timeout_at(again, socket.recv(&mut answer)).await {
            if is_answer(&answer[..received?], transaction) {
                return Ok(true);
            }
        }
        if again == until {
            return Ok(false);
        }
    }
}

fn is_answer(bytes: &[u8], transaction: [u8; 12]) -> bool {
    Message::parse(bytes).is_ok_and(|message| {
        message.kind() == BINDING_SUCCESS && message.transaction() == transaction
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(out: &mut [u8]) {
        out.fill(7);
    }

    #[tokio::test]
    async fn an_answer_is_the_relays_own() {
        let random = Random(counting);
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        // The first request is lost, and whoever answers may say what he likes.
        for (kind, transaction, is_it) in [
            (BINDING_SUCCESS, [7; 12], true),
            (BINDING_SUCCESS, [8; 12], false),
            (BINDING_REQUEST, [7; 12], false),
        ] {
            let answers = async {
                let mut bytes = [0; 64];
                server.recv_from(&mut bytes).await.unwrap();
                loop {
                    let (_, from) = server.recv_from(&mut bytes).await.unwrap();
                    let mut answer = [0; 64];
                    let writer = MessageWriter::new(kind, transaction, &mut answer).unwrap();
                    let len = writer.finish().unwrap();
                    server.send_to(&answer[..len], from).await.unwrap();
                }
            };
            let asked = [address];
            let check = tokio::select! {
                check = check(&asked, random) => check,
                () = answers => Check::Unasked,
            };
            assert_eq!(matches!(check, Check::Answered(_)), is_it, "{check:?}");
            assert!(is_it || check == Check::Silent);
        }
        // Nobody, and nothing to ask.
        drop(server);
        assert_eq!(check(&[address], random).await, Check::Silent);
        assert_eq!(check(&[], random).await, Check::Unasked);
    }
}
