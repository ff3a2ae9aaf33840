//! TLS on the port and WebSocket inside: the same endpoint behind, the same
//! patience with strangers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod endpoint;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use endpoint::{Client, Echo, Endpoint, inbox, soon};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex,
};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use weft_coordinator::transport::listen::{Behind, Front, Limits, Listener, Stats};
use weft_coordinator::transport::mqtt::stats::Early;

/// Takes any certificate whose key signed the handshake.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

struct Port {
    endpoint: Endpoint,
    behind: Arc<Behind>,
    address: SocketAddr,
}

impl Port {
    fn new(limits: Limits) -> Self {
        let endpoint = Endpoint::new(Echo::default(), limits);
        let behind = Arc::new(Behind {
            broker: Arc::clone(&endpoint.broker),
            front: Front::new(axum::Router::new()),
            tls: endpoint::tls(),
            places: Arc::clone(&endpoint.places),
            stats: Arc::new(Stats::default()),
        });
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(listener.run(Arc::clone(&behind)));
        Self { endpoint, behind, address }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn tls(&self, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(provider::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("mesh.example.net").unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, self.tcp().await)).await
    }

    /// Waits until nobody holds a place.
    async fn empty(&self) {
        soon(async {
            while self.endpoint.places.counts() != (0, 0, 0) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// WebSocket over TLS, as far as the answer 101.
    async fn websocket(&self) -> TlsStream<TcpStream> {
        let mut stream = self.tls(&[b"http/1.1"]).await.unwrap();
        stream
            .write_all(
                b"GET /mqtt HTTP/1.1\r\nhost: mesh.example.net\r\nconnection: Upgrade\r\n\
                  upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                  sec-websocket-protocol: mqtt\r\n\
                  sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            )
            .await
            .unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert!(head.contains("sec-websocket-protocol: mqtt"), "{head}");
        stream
    }
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head)
        .unwrap()
        .to_ascii_lowercase()
        .replace("http/1.1", "HTTP/1.1")
        .replace("s3pplmbitxaq9kygzzhzrbk+xoo=", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
}

/// Echoes one frame over a stream that carries MQTT.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(port: &Port, stream: S, n: u32) {
    let mut client = Client::new(stream);
    client.join(inbox(n)).await;
    client.send(inbox(n), b"over and back").await;
    assert_eq!(soon(client.read_frame(inbox(n))).await, b"over and back");
    port.endpoint.hub.send(inbox(n), Bytes::from_static(b"pushed"));
    assert_eq!(soon(client.read_frame(inbox(n))).await, b"pushed");
}

#[tokio::test]
async fn mqtt_and_http_are_told_apart_inside_tls() {
    let port = Port::new(Limits::default());
    for (n, alpn) in [&[][..], &[&b"mqtt"[..]], &[b"http/1.1"]].into_iter().enumerate() {
        let stream = port.tls(alpn).await.unwrap();
        echo(&port, stream, n as u32).await;
    }
    let mut stream = port.tls(&[b"h2", b"http/1.1"]).await.unwrap();
    let request = b"GET /none HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert_eq!((port.behind.stats.tls.get(), port.behind.stats.http.get()), (4, 1));
    // What nobody here speaks ends in the handshake.
    assert!(port.tls(&[b"h2"]).await.is_err());
    assert_eq!(port.behind.stats.tls_failed.get(), 1);
}

#[tokio::test]
async fn what_is_no_handshake_and_what_is_nothing_inside_is_closed() {
    let port = Port::new(Limits::default());
    let mut garbage = port.tcp().await;
    garbage.write_all(&[0x16, 3, 1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]).await.unwrap();
    let mut answer = Vec::new();
    // An alert or a reset: closed in either case.
    let _ = soon(garbage.read_to_end(&mut answer)).await;
    assert!(answer.is_empty() || answer[0] == 0x15);
    assert_eq!(port.behind.stats.tls_failed.get(), 1);
    for first in [0x16, 0, 0x30] {
        let mut stream = port.tls(&[]).await.unwrap();
        stream.write_all(&[first]).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    }
    assert_eq!(port.behind.stats.unknown.get(), 3);
}

/// On virtual time, which passes only while nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_slow_handshake_has_the_time_of_a_silent_connection() {
    let port = Port::new(Limits::default());
    // A record header that promises a ClientHello, and a piece of it.
    for said in [&[0x16, 3, 1, 2, 0, 1, 0, 1][..], &[0x16]] {
        let mut stream = port.tcp().await;
        let start = Instant::now();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let waited = start.elapsed();
        assert!(
            waited.abs_diff(Duration::from_secs(10)) < Duration::from_millis(100),
            "{waited:?}"
        );
    }
    assert_eq!(port.behind.broker.stats().early(Early::Deadline).get(), 2);
}

#[tokio::test]
async fn half_open_handshakes_displace_one_another_and_nobody_else() {
    let limits = Limits { waiting: 16, waiting_per_address: 8, ..Limits::default() };
    let port = Port::new(limits);
    let honest = port.tls(&[]).await.unwrap();
    echo(&port, honest, 1).await;
    let mut half_open = Vec::new();
    for _ in 0..50 {
        let mut stream = port.tcp().await;
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        half_open.push(stream);
    }
    // The oldest were cut, and there is always room for one who goes on.
    let mut answer = Vec::new();
    let _ = soon(half_open[0].read_to_end(&mut answer)).await;
    let honest = port.tls(&[]).await.unwrap();
    echo(&port, honest, 2).await;
    assert!(port.endpoint.places.counts().0 <= 8);
    assert!(port.behind.broker.stats().early(Early::Crowded).get() >= 42);
}

#[tokio::test]
async fn a_site_has_so_many_handshakes() {
    let port = Port::new(Limits::default());
    for _ in 0..1_500 {
        port.tcp().await.write_all(&[0x16]).await.unwrap();
    }
    soon(async {
        while port.behind.stats.tls.get() < 1_500 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let refused = port.behind.stats.tls_refused.get();
    assert!((1..=500).contains(&refused), "{refused}");
    // Plain MQTT of the same site is not meant.
    echo(&port, port.tcp().await, 1).await;
}

#[tokio::test]
async fn mqtt_goes_through_websocket_whatever_the_borders_of_its_messages() {
    let port = Port::new(Limits::default());
    let stream = port.websocket().await;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    // The client writes MQTT into one end; what comes out is cut into messages
    // of three bytes, and what comes back is put together again.
    let (ours, mut theirs): (DuplexStream, DuplexStream) = duplex(64 * 1_024);
    let carry = async {
        let mut buffer = [0; 3];
        loop {
            tokio::select! {
                read = theirs.read(&mut buffer) => match read.unwrap() {
                    0 => return socket.close(None).await.unwrap(),
                    len => {
                        let piece = Bytes::copy_from_slice(&buffer[..len]);
                        socket.send(Message::Binary(piece)).await.unwrap();
                        socket.send(Message::Ping(Bytes::new())).await.unwrap();
                    }
                },
                message = socket.next() => match message.unwrap().unwrap() {
                    Message::Binary(bytes) => theirs.write_all(&bytes).await.unwrap(),
                    other => assert!(other.is_pong(), "{other:?}"),
                },
            }
        }
    };
    tokio::join!(carry, echo(&port, ours, 7));
    assert_eq!(port.behind.stats.websocket.get(), 1);
    port.empty().await;
}

/// One frame of RFC 6455 section 5.2, right or wrong.
fn frame(first: u8, masked: bool, len: u64, payload: &[u8]) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut out = vec![first];
    match len {
        0..126 => out.push(mask | len as u8),
        126..65_536 => {
            out.push(mask | 126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend(len.to_be_bytes());
        }
    }
    if masked {
        // A mask of zeros leaves the payload as it is.
        out.extend([0; 4]);
    }
    out.extend(payload);
    out
}

#[tokio::test]
async fn hostile_websocket_frames_end_the_connection() {
    const BINARY: u8 = 0x82;
    let port = Port::new(Limits::default());
    let pieces = |count: usize, len: usize| {
        let mut out = frame(0x02, true, len as u64, &vec![0x10; len]);
        for _ in 0..count {
            out.extend(frame(0x00, true, len as u64, &vec![0x10; len]));
        }
        out
    };
    let cases: [(&str, Vec<u8>); 9] = [
        ("unmasked", frame(BINARY, false, 2, &[0x10, 0])),
        ("text", frame(0x81, true, 2, b"hi")),
        ("giant", frame(BINARY, true, 1 << 40, &[0x10])),
        ("a message of many fragments", pieces(40, 1_000)),
        ("a continuation of nothing", frame(0x80, true, 2, &[0x10, 0])),
        ("a reserved bit", frame(BINARY | 0x40, true, 2, &[0x10, 0])),
        ("a reserved opcode", frame(0x83, true, 2, &[0x10, 0])),
        ("a fragmented ping", frame(0x09, true, 0, &[])),
        ("pings without end", frame(0x89, true, 0, &[]).repeat(100)),
    ];
    for (what, bytes) in cases {
        let mut stream = port.websocket().await;
        // The other side may have closed before all was written.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        let close = answer.first().is_none_or(|first| matches!(first, 0x88 | 0x8A));
        assert!(close, "{what}: {answer:?}");
    }
    // What is inside is judged as on TCP: a CONNECT of a byte too many.
    let mut stream = port.websocket().await;
    stream.write_all(&frame(BINARY, true, 4, &[0x10, 0xFF, 0xFF, 0x7F])).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert_eq!(port.behind.broker.stats().early(Early::NotConnect).get(), 1);
    port.empty().await;
}
