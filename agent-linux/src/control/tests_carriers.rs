//! The line in TLS, in WebSocket and by posts, against servers of a few lines:
//! what is taken, what is refused and how it is said, and which way is chosen.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustls::crypto::ring as provider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use weft_noise::digest::{sha1, sha256};
use weft_wire::http::{CONTENT_TYPE, length_prefix};
use weft_wire::id::ReplicaId;
use weft_wire::join::Carrier;
use weft_wire::topic::Topic;

use super::failure::Reason;
use super::line::{Line, LineEvent};
use super::tests::{INBOX, broker, drive, first_event, let_in, login, message, mqtt, packet};
use super::way::Way;
use crate::os::clock;
use crate::os::poll::{EventFd, Interest, PollSet};

type Secure = StreamOwned<ServerConnection, TcpStream>;

/// A server's key, and what a join string would pin of it.
struct Certificate {
    config: Arc<ServerConfig>,
    spki: [u8; 32],
}

impl Certificate {
    /// One whose dates are all of 1970 and whose name is somebody else's.
    fn of_1970() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1);
        params.not_after = rcgen::date_time_ymd(1970, 1, 2);
        let certificate = params.self_signed(&key).unwrap();
        let parsed = rustls::server::ParsedCertificate::try_from(certificate.der()).unwrap();
        let spki = sha256(&[&parsed.subject_public_key_info()]);
        let secret = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret.into())
            .unwrap();
        Self { config: Arc::new(config), spki }
    }
}

fn wrap(config: &Arc<ServerConfig>, stream: TcpStream) -> Secure {
    StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream)
}

/// A server that runs `serve` with its first connection, in TLS.
fn secure(
    certificate: &Certificate,
    serve: impl FnOnce(Secure) + Send + 'static,
) -> (String, JoinHandle<()>) {
    let config = Arc::clone(&certificate.config);
    broker(move |stream| serve(wrap(&config, stream)))
}

fn way(carrier: Carrier, authority: &str) -> Way {
    Way { carrier, authority: authority.to_owned() }
}

fn opened(ways: Vec<Way>, pin: Option<[u8; 32]>) -> Line {
    let mut line = Line::new(ways, pin);
    line.open(login());
    line
}

fn reason(carrier: Carrier, authority: &str, pin: Option<[u8; 32]>) -> Reason {
    match first_event(&mut opened(vec![way(carrier, authority)], pin)) {
        LineEvent::Failed(failure) => failure.furthest().unwrap().reason.clone(),
        other => panic!("{other:?}"),
    }
}

/// Says something and hears something over a line that was let in.
fn talk(mut stream: impl Read + Write) {
    let_in(&mut stream);
    assert_eq!(packet(&mut stream).0, 0x30);
    stream.write_all(&message(&[7; 3_000])).unwrap();
    assert_eq!(packet(&mut stream).0, 0xE0);
}

fn talks(line: &mut Line, way: Way) {
    assert_eq!(first_event(line), LineEvent::Connected(way));
    line.publish(Topic::Hello(INBOX), &[5; 3_000]);
    assert_eq!(first_event(line), LineEvent::Frame(vec![7; 3_000]));
    line.close();
    assert_eq!(first_event(line), LineEvent::Closed);
}

#[test]
fn any_certificate_will_do_whatever_its_dates() {
    let certificate = Certificate::of_1970();
    for pin in [None, Some(certificate.spki)] {
        let (authority, thread) = secure(&certificate, talk);
        let way = way(Carrier::Mqtts, &authority);
        talks(&mut opened(vec![way.clone()], pin), way);
        thread.join().unwrap();
    }
}

#[test]
fn another_key_than_the_pinned_one_is_refused_before_anything_is_said() {
    let certificate = Certificate::of_1970();
    for carrier in [Carrier::Mqtts, Carrier::Wss, Carrier::Https] {
        let (authority, thread) = secure(&certificate, |mut stream| {
            // The client hangs up in the handshake: nothing comes out of it.
            assert!(stream.read(&mut [0; 16]).is_err());
        });
        assert_eq!(reason(carrier, &authority, Some([9; 32])), Reason::WrongPin);
        thread.join().unwrap();
    }
}

#[test]
fn what_is_no_tls_is_named() {
    let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let (web, thread) = broker(move |mut stream| {
        let mut hello = [0; 64];
        assert!(stream.read(&mut hello).unwrap() > 0);
        stream.write_all(answer).unwrap();
        // Closing over unread bytes would reset the connection.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drop(io::copy(&mut stream, &mut io::sink()));
    });
    let expected = Reason::Foreign { what: "HTTP".to_owned(), wanted: "TLS" };
    assert_eq!(reason(Carrier::Mqtts, &web, None), expected);
    thread.join().unwrap();
    let (gone, thread) = broker(drop);
    assert!(matches!(reason(Carrier::Mqtts, &gone, None), Reason::Lost(_)));
    thread.join().unwrap();
}

/// Reads the head of a request.
fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(": ").unwrap().1
}

/// The server's end of WebSocket: payloads of frames as one stream, every write
/// a frame of its own after a ping.
struct Socket {
    stream: Secure,
    rest: Vec<u8>,
}

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            assert_eq!(head[1] & 0x80, 0x80, "masked");
            let mut len = usize::from(head[1] & 0x7F);
            if len == 126 {
                let mut long = [0; 2];
                self.stream.read_exact(&mut long)?;
                len = u16::from_be_bytes(long).into();
            }
            let (mut mask, mut payload) = ([0; 4], vec![0; len]);
            self.stream.read_exact(&mut mask)?;
            self.stream.read_exact(&mut payload)?;
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            match head[0] {
                0x82 => self.rest = payload,
                0x8A => assert_eq!(payload, b"ping"),
                other => panic!("{other:#x}"),
            }
        }
        let len = self.rest.len().min(out.len());
        out[..len].copy_from_slice(&self.rest[..len]);
        self.rest.drain(..len);
        Ok(len)
    }
}

impl Write for Socket {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut frame = b"\x89\x04ping\x82".to_vec();
        match data.len() {
            len @ 0..126 => frame.push(len as u8),
            len => {
                frame.push(126);
                frame.extend((len as u16).to_be_bytes());
            }
        }
        frame.extend(data);
        self.stream.write_all(&frame)?;
        self.stream.flush()?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn base64(bytes: &[u8]) -> String {
    super::websocket::base64(bytes)
}

fn upgrade(mut stream: Secure) -> Socket {
    let head = head(&mut stream);
    assert!(head.starts_with("GET /mqtt HTTP/1.1\r\n"), "{head}");
    let key = header(&head, "Sec-WebSocket-Key");
    let accept = base64(&sha1(&[key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"]));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-protocol: mqtt\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).unwrap();
    Socket { stream, rest: Vec::new() }
}

#[test]
fn mqtt_goes_through_websocket() {
    let certificate = Certificate::of_1970();
    let (authority, thread) = secure(&certificate, |stream| talk(upgrade(stream)));
    let way = way(Carrier::Wss, &authority);
    talks(&mut opened(vec![way.clone()], Some(certificate.spki)), way);
    thread.join().unwrap();
}

#[test]
fn a_captive_portal_is_said_and_the_next_way_is_taken() {
    let certificate = Certificate::of_1970();
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\nhtml";
    let redirect = "HTTP/1.1 302 Found\r\nlocation: http://login.example/\r\n\r\n";
    for (carrier, answer) in
        [(Carrier::Wss, page), (Carrier::Https, page), (Carrier::Https, redirect)]
    {
        let portal = || {
            secure(&certificate, move |mut stream| {
                head(&mut stream);
                stream.write_all(answer.as_bytes()).unwrap();
            })
        };
        let (authority, thread) = portal();
        assert!(matches!(reason(carrier, &authority, None), Reason::Portal(_)));
        thread.join().unwrap();
        let (authority, thread) = portal();
        let (good, broker) = broker(talk);
        talks(&mut opened(vec![way(carrier, &authority), mqtt(&good)], None), mqtt(&good));
        thread.join().unwrap();
        broker.join().unwrap();
    }
}

#[test]
fn a_way_that_swallows_everything_costs_one_pause() {
    // Accepts, reads and never answers, until the client hangs up.
    let swallow = |mut stream: TcpStream| drop(io::copy(&mut stream, &mut io::sink()));
    let (hole, thread) = broker(swallow);
    let (good, broker) = broker(talk);
    talks(&mut opened(vec![way(Carrier::Mqtts, &hole), mqtt(&good)], None), mqtt(&good));
    thread.join().unwrap();
    broker.join().unwrap();
}

#[test]
fn a_better_way_is_taken_when_the_network_changes() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let place = closed.local_addr().unwrap();
    drop(closed);
    let better = mqtt(&place.to_string());
    let (authority, lesser) = broker(|mut stream| {
        let_in(&mut stream);
        stream.write_all(&message(b"last words")).unwrap();
        // The better way stood: this one is dropped without a goodbye.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    let mut line = opened(vec![better.clone(), mqtt(&authority)], None);
    assert_eq!(first_event(&mut line), LineEvent::Connected(mqtt(&authority)));
    assert_eq!(first_event(&mut line), LineEvent::Frame(b"last words".to_vec()));
    let listener = TcpListener::bind(place).unwrap();
    let thread = std::thread::spawn(move || talk(listener.accept().unwrap().0));
    line.handle_network(1);
    assert_eq!(first_event(&mut line), LineEvent::Moved(better));
    lesser.join().unwrap();
    line.publish(Topic::Hello(INBOX), b"hello");
    assert_eq!(first_event(&mut line), LineEvent::Frame(vec![7; 3_000]));
    line.close();
    assert_eq!(first_event(&mut line), LineEvent::Closed);
    thread.join().unwrap();
}

/// A post as the server sees it: which connection, path, `weft-wait`, frame.
struct Post {
    connection: usize,
    path: String,
    wait: Option<String>,
    frame: Vec<u8>,
    answer: Sender<Vec<u8>>,
}

/// What came to a server of posts, and what wakes whoever waits for it.
struct Posts {
    came: Receiver<Post>,
    raised: Arc<EventFd>,
}

/// Answers posts of any number of connections; each is told to the receiver,
/// which gives the answer.
fn post_server(certificate: &Certificate) -> (String, Posts) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let (sender, came) = channel();
    let raised = Arc::new(EventFd::new().unwrap());
    let posts = Posts { came, raised: Arc::clone(&raised) };
    let config = Arc::clone(&certificate.config);
    std::thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let (sender, mut stream) = (sender.clone(), wrap(&config, stream.unwrap()));
            let raised = Arc::clone(&raised);
            std::thread::spawn(
                move || {
                    while serve_post(&mut stream, connection, &sender, &raised) {}
                },
            );
        }
    });
    (authority, posts)
}

fn serve_post(
    stream: &mut Secure,
    connection: usize,
    posts: &Sender<Post>,
    raised: &EventFd,
) -> bool {
    let mut first = [0];
    if !matches!(stream.read(&mut first), Ok(1)) {
        return false;
    }
    let head = format!("{}{}", char::from(first[0]), head(stream));
    assert_eq!(header(&head, "weft-inbox"), INBOX.text().as_str());
    assert_eq!(header(&head, "Content-Type"), CONTENT_TYPE);
    let mut frame = vec![0; header(&head, "Content-Length").parse().unwrap()];
    stream.read_exact(&mut frame).unwrap();
    let (answer, answered) = channel();
    let wait = head.contains("weft-wait").then(|| header(&head, "weft-wait").to_owned());
    let path = head.split(' ').nth(1).unwrap().to_owned();
    if posts.send(Post { connection, path, wait, frame, answer }).is_err() {
        return false;
    }
    raised.raise();
    let Ok(body) = answered.recv() else {
        return false;
    };
    // In chunks, as a proxy may lay it down anew.
    let middle = body.len() / 2;
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {CONTENT_TYPE}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for piece in [&body[..middle], &body[middle..]].into_iter().filter(|piece| !piece.is_empty()) {
        answer.extend(format!("{:x}\r\n", piece.len()).bytes());
        answer.extend(piece);
        answer.extend(b"\r\n");
    }
    answer.extend(b"0\r\n\r\n");
    stream.write_all(&answer).is_ok()
}

fn frames(frames: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    for frame in frames {
        body.extend(length_prefix(frame.len() as u16));
        body.extend_from_slice(frame);
    }
    body
}

/// Drives the line until the server has a post.
fn next_post(line: &mut Line, posts: &Posts) -> Post {
    let give_up = clock::boot_micros() + 10_000_000;
    let mut set = PollSet::default();
    loop {
        if let Ok(post) = posts.came.try_recv() {
            return post;
        }
        let now = clock::boot_micros();
        assert!(now < give_up, "no post comes");
        set.clear();
        line.register(&mut set);
        set.add(posts.raised.as_fd(), Interest::READ);
        let wait = line.deadline().map_or(u64::MAX, |at| at.saturating_sub(now));
        set.wait(Some(wait.min(give_up - now))).unwrap();
        if line.is_due(&set, clock::boot_micros()) {
            line.poll();
        }
    }
}

#[test]
fn frames_go_by_posts_and_one_record_waits_for_what_comes() {
    let certificate = Certificate::of_1970();
    let (authority, posts) = post_server(&certificate);
    let way = way(Carrier::Https, &authority);
    let mut line = opened(vec![way.clone()], Some(certificate.spki));
    let probe = next_post(&mut line, &posts);
    assert_eq!((probe.path.as_str(), probe.frame.len()), ("/api/v1/device/register", 0));
    probe.answer.send(Vec::new()).unwrap();
    assert_eq!(first_event(&mut line), LineEvent::Connected(way));

    line.publish(Topic::Hello(INBOX), b"hello");
    let hello = next_post(&mut line, &posts);
    assert_eq!((hello.frame.as_slice(), hello.wait.as_deref()), (&b"hello"[..], None));
    assert_eq!(hello.connection, probe.connection, "the connection is kept");
    hello.answer.send(frames(&[b"welcome"])).unwrap();
    assert_eq!(first_event(&mut line), LineEvent::Frame(b"welcome".to_vec()));

    // Once its second connection stands, the line asks for a record, once.
    drive(&mut line, Line::take_wish);
    assert!(!line.take_wish());
    let record = Topic::Record(ReplicaId(0), INBOX);
    line.publish(record, b"waits");
    let waiting = next_post(&mut line, &posts);
    assert_eq!(
        (waiting.path.as_str(), waiting.wait.as_deref()),
        ("/api/v1/device/metrics", Some("25"))
    );
    assert_ne!(waiting.connection, hello.connection);
    // Meanwhile the other connection is free.
    line.publish(record, b"says");
    let said = next_post(&mut line, &posts);
    assert_eq!((said.frame.as_slice(), said.wait), (&b"says"[..], None));
    said.answer.send(frames(&[b"done"])).unwrap();
    assert_eq!(first_event(&mut line), LineEvent::Frame(b"done".to_vec()));
    waiting.answer.send(frames(&[b"one", b"two"])).unwrap();
    assert_eq!(first_event(&mut line), LineEvent::Frame(b"one".to_vec()));
    assert_eq!(first_event(&mut line), LineEvent::Frame(b"two".to_vec()));
    drive(&mut line, Line::take_wish);

    // A connection that the server closed meanwhile is opened again.
    line.publish(Topic::Hello(INBOX), b"cut");
    drop(next_post(&mut line, &posts).answer);
    let again = next_post(&mut line, &posts);
    assert_eq!(again.frame, b"cut");
    again.answer.send(Vec::new()).unwrap();
    drive(&mut line, |line| line.is_idle());
    line.close();
    assert_eq!(first_event(&mut line), LineEvent::Closed);
}
