//! Real clients over loopback: minimq, rumqttc at both levels, and what else
//! may knock on the one port.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod endpoint;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use endpoint::{Echo, Endpoint, device, inbox, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_coordinator::service::bus::Delivery;
use weft_coordinator::transport::listen::{Behind, Front, Limits, Listener, Stats};
use weft_wire::id::Inbox;
use weft_wire::topic::Topic;

struct Port {
    endpoint: Endpoint,
    behind: Arc<Behind>,
    address: SocketAddr,
}

/// The whole port on loopback.
fn port() -> Port {
    let endpoint = Endpoint::new(Echo::default(), Limits::default());
    let routes = axum::Router::new().route(
        "/hello",
        axum::routing::get(
            async |axum::extract::ConnectInfo(peer): axum::extract::ConnectInfo<SocketAddr>| {
                format!("hello {}", peer.ip())
            },
        ),
    );
    let behind = Arc::new(Behind {
        broker: Arc::clone(&endpoint.broker),
        front: Front::new(routes),
        tls: endpoint::tls(),
        places: Arc::clone(&endpoint.places),
        stats: Arc::new(Stats::default()),
    });
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listener.run(Arc::clone(&behind)));
    Port { endpoint, behind, address }
}

fn topics(inbox: Inbox) -> (String, String) {
    (Topic::Hello(inbox).text().to_string(), Topic::Down(inbox).text().to_string())
}

#[tokio::test]
async fn rumqttc_speaks_3_1_1() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
    let port = port();
    let credentials = device(inbox(1));
    let mut options = MqttOptions::new(credentials.client_id, "127.0.0.1", port.address.port());
    options.set_credentials(credentials.user, credentials.password);
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, 10);
    let (up, down) = topics(inbox(1));
    client.subscribe(&down, QoS::AtLeastOnce).await.unwrap();
    client.publish(&up, QoS::AtLeastOnce, false, "echo this").await.unwrap();
    let (mut acknowledged, mut echoed, mut said) = (false, false, false);
    soon(async {
        while !(acknowledged && echoed && said) {
            match events.poll().await.unwrap() {
                Event::Incoming(Packet::ConnAck(ack)) => assert!(!ack.session_present),
                Event::Incoming(Packet::SubAck(ack)) => assert_eq!(ack.return_codes.len(), 1),
                Event::Incoming(Packet::PubAck(_)) => acknowledged = true,
                Event::Incoming(Packet::Publish(publish)) => {
                    assert_eq!((publish.topic.as_str(), publish.qos), (&*down, QoS::AtLeastOnce));
                    echoed |= publish.payload == "echo this";
                    if publish.payload == "by the way" {
                        said = true;
                    } else {
                        let sent = port.endpoint.hub.send(inbox(1), Bytes::from("by the way"));
                        assert_eq!(sent, Delivery::Queued);
                    }
                }
                Event::Outgoing(Outgoing::Disconnect) => unreachable!(),
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
    })
    .await;
}

#[tokio::test]
async fn rumqttc_speaks_5() {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let port = port();
    let credentials = device(inbox(1));
    let mut options = MqttOptions::new(credentials.client_id, "127.0.0.1", port.address.port());
    options.set_credentials(credentials.user, credentials.password);
    options.set_keep_alive(Duration::from_secs(60));
    options.set_clean_start(false);
    let (client, mut events) = AsyncClient::new(options, 10);
    let (up, down) = topics(inbox(1));
    client.subscribe(&down, QoS::AtMostOnce).await.unwrap();
    client.publish(&up, QoS::AtLeastOnce, false, "echo this").await.unwrap();
    let (mut acknowledged, mut echoed) = (false, false);
    soon(async {
        while !(acknowledged && echoed) {
            match events.poll().await.unwrap() {
                Event::Incoming(Packet::ConnAck(ack)) => {
                    assert!(!ack.session_present, "clean start 0 is accepted, no session kept");
                    assert_eq!(ack.properties.unwrap().max_packet_size, Some(4_096));
                }
                Event::Incoming(Packet::PubAck(_)) => acknowledged = true,
                Event::Incoming(Packet::Publish(publish)) => {
                    assert_eq!((&*publish.topic, publish.qos), (down.as_bytes(), QoS::AtMostOnce));
                    assert_eq!(publish.payload, "echo this");
                    echoed = true;
                }
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
    })
    .await;
    client.disconnect().await.unwrap();
    soon(async { while events.poll().await.is_ok() {} }).await;
}

/// A tokio stream in minimq's words.
struct Adapter(TcpStream);

impl ErrorType for Adapter {
    type Error = ErrorKind;
}

impl Read for Adapter {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        self.0.read(buffer).await.map_err(|_| ErrorKind::Other)
    }
}

impl Write for Adapter {
    async fn write(&mut self, buffer: &[u8]) -> Result<usize, ErrorKind> {
        self.0.write(buffer).await.map_err(|_| ErrorKind::Other)
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

#[tokio::test]
async fn minimq_speaks_as_the_agents_do() {
    use minimq::{Buffers, ConfigBuilder, Publication, Session, TopicFilter};
    let port = port();
    let credentials = device(inbox(1));
    let (mut rx, mut tx) = ([0; 1_152], [0; 4_096]);
    let config = ConfigBuilder::new(Buffers::new(&mut rx, &mut tx))
        .client_id(&credentials.client_id)
        .unwrap()
        .auth(&credentials.user, credentials.password.as_bytes())
        .unwrap()
        .keepalive_interval(60);
    let mut session = Session::new(config);
    let (up, down) = topics(inbox(1));
    // Twice: after the first connection minimq asks for its old session.
    for round in 0..2 {
        let stream = TcpStream::connect(port.address).await.unwrap();
        let mut connection = soon(session.connect(Adapter(stream))).await.unwrap();
        soon(connection.subscribe(&[TopicFilter::new(&down)], &[])).await.unwrap();
        soon(connection.publish(Publication::bytes(&up, b"echo this"))).await.unwrap();
        let message = soon(connection.recv()).await.unwrap();
        assert_eq!((message.topic(), message.payload()), (&*down, &b"echo this"[..]));
        let longest = vec![round; 1_024];
        assert_eq!(port.endpoint.hub.send(inbox(1), longest.clone().into()), Delivery::Queued);
        let message = soon(connection.recv()).await.unwrap();
        assert_eq!(message.payload(), longest);
    }
    assert_eq!(port.endpoint.echo.handled.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn http_shares_the_port() {
    let port = port();
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    let request = b"GET /hello HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello 127.0.0.1"));
    assert_eq!(port.behind.stats.http.get(), 1);
}

/// On virtual time, which passes only while nothing else happens.
#[tokio::test(start_paused = true)]
async fn idle_and_slow_http_is_closed() {
    let port = port();
    for said in [&b"GET /hello HTTP/1.1\r\nhost: weft\r\n\r\n"[..], b"GET /hel"] {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        let start = Instant::now();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.starts_with(b"HTTP/1.1 200"), said.len() > 20);
        let waited = start.elapsed();
        assert!(
            waited.abs_diff(Duration::from_secs(10)) < Duration::from_millis(100),
            "{waited:?}"
        );
    }
}

#[tokio::test]
async fn what_is_none_of_them_is_closed() {
    let port = port();
    for first in [0u8, 0x20, 0x30, 0xB0, b'a', b'\n', 0xFF] {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(&[first]).await.unwrap();
        let mut answer = Vec::new();
        // A reset counts as closed too: the byte was never read.
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    }
    assert_eq!(port.behind.stats.unknown.get(), 7);
    assert_eq!(port.behind.stats.accepted.get(), 7);
}
