//! The line against a broker of a few bytes: what is written on the wire, how
//! each refusal is told, and that nothing is waited for twice.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use weft_wire::id::Inbox;
use weft_wire::join::Carrier;
use weft_wire::topic::Topic;

use super::failure::Reason;
use super::keepalive::Bounds;
use super::line::{Line, LineEvent, Login, Password};
use super::way::Way;
use crate::net::nat64::Prefix;
use crate::os::clock;
use crate::os::poll::PollSet;

pub(super) const INBOX: Inbox = Inbox([7; 16]);

pub(super) fn login() -> Login {
    Login {
        client: INBOX.text(),
        user: "e.key_aaaaaaaaaaaa".to_owned(),
        password: Password::new("secret"),
        inbox: Topic::Down(INBOX).text(),
    }
}

pub(super) fn mqtt(authority: &str) -> Way {
    Way { carrier: Carrier::Mqtt, authority: authority.to_owned() }
}

/// Reads one MQTT packet: its first byte and its body.
pub(super) fn packet(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    let (kind, mut len, mut shift) = (byte[0], 0usize, 0);
    loop {
        stream.read_exact(&mut byte).unwrap();
        len |= usize::from(byte[0] & 0x7F) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).unwrap();
    (kind, body)
}

/// A broker that runs `serve` with its first connection.
pub(super) fn broker(serve: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    (authority, thread)
}

/// Lets a client in, as far as the SUBACK.
pub(super) fn let_in(stream: &mut (impl Read + Write)) {
    assert_eq!(let_in_with(stream), 300);
}

/// The same; the keepalive that it promises, in seconds.
fn let_in_with(stream: &mut (impl Read + Write)) -> u16 {
    let (kind, body) = packet(stream);
    assert_eq!(kind, 0x10);
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(text.contains(INBOX.text().as_str()) && text.contains("secret"));
    // Version 5, clean start, user and password, no will.
    assert_eq!(&body[..8], b"\0\x04MQTT\x05\xC2");
    let keepalive_s = u16::from_be_bytes([body[8], body[9]]);
    stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
    let (kind, body) = packet(stream);
    assert_eq!(kind, 0x82);
    stream.write_all(&[0x90, 4, body[0], body[1], 0, 0]).unwrap();
    keepalive_s
}

pub(super) fn message(payload: &[u8]) -> Vec<u8> {
    let topic = Topic::Down(INBOX).text();
    let mut out = vec![0x30];
    let mut left = 2 + topic.len() + 1 + payload.len();
    while left > 0x7F {
        out.push(0x80 | (left & 0x7F) as u8);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend((topic.len() as u16).to_be_bytes());
    out.extend(topic.as_bytes());
    out.push(0);
    out.extend(payload);
    out
}

/// Drives the line as the control loop does, until `done`.
pub(super) fn drive(line: &mut Line, mut done: impl FnMut(&mut Line) -> bool) {
    let give_up = clock::boot_micros() + 10_000_000;
    let mut set = PollSet::default();
    while !done(line) {
        let now = clock::boot_micros();
        assert!(now < give_up, "the line stands still");
        set.clear();
        line.register(&mut set);
        let wait = line.deadline().map(|at| at.saturating_sub(now));
        set.wait(Some(wait.unwrap_or(u64::MAX).min(give_up - now))).unwrap();
        if line.is_due(&set, clock::boot_micros()) {
            line.poll();
        }
    }
}

pub(super) fn first_event(line: &mut Line) -> LineEvent {
    let mut event = None;
    drive(line, |line| {
        event = line.next_event();
        event.is_some()
    });
    event.unwrap()
}

fn reason(authority: String) -> Reason {
    let mut line = Line::new(vec![mqtt(&authority)], None);
    line.open(login());
    match first_event(&mut line) {
        LineEvent::Failed(failure) => failure.furthest().unwrap().reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_go_both_ways_and_the_goodbye_is_said() {
    let (authority, thread) = broker(|mut stream| {
        let_in(&mut stream);
        let (kind, body) = packet(&mut stream);
        assert_eq!(kind, 0x30, "QoS 0, not retained");
        let topic = Topic::Hello(INBOX).text();
        assert_eq!(&body[2..2 + topic.len()], topic.as_bytes());
        assert!(body.ends_with(b"hello"));
        let mut burst = message(b"one");
        burst.extend(message(b"two"));
        stream.write_all(&burst).unwrap();
        let (kind, _) = packet(&mut stream);
        assert_eq!(kind, 0xE0);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    let mut line = Line::new(vec![mqtt(&authority)], None);
    line.open(login());
    assert_eq!(first_event(&mut line), LineEvent::Connected(mqtt(&authority)));
    line.publish(Topic::Hello(INBOX), b"hello");
    let mut frames = Vec::new();
    drive(&mut line, |line| {
        frames.extend(line.next_event());
        frames.len() == 2
    });
    let frame = |payload: &[u8]| LineEvent::Frame(payload.to_vec());
    assert_eq!(frames, [frame(b"one"), frame(b"two")]);
    line.close();
    assert_eq!(first_event(&mut line), LineEvent::Closed);
    thread.join().unwrap();
}

#[test]
fn refusals_are_told_apart() {
    let (denied, thread) = broker(|mut stream| {
        packet(&mut stream);
        stream.write_all(&[0x20, 3, 0, 0x86, 0]).unwrap();
    });
    assert_eq!(reason(denied), Reason::Denied);
    thread.join().unwrap();
    let (busy, thread) = broker(|mut stream| {
        packet(&mut stream);
        stream.write_all(&[0x20, 3, 0, 0x97, 0]).unwrap();
    });
    assert_eq!(reason(busy), Reason::Busy);
    thread.join().unwrap();
    let (web, thread) = broker(|mut stream| {
        packet(&mut stream);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    assert_eq!(reason(web), Reason::Foreign { what: "HTTP".to_owned(), wanted: "MQTT" });
    thread.join().unwrap();
    let (gone, thread) = broker(|mut stream| {
        packet(&mut stream);
    });
    assert!(matches!(reason(gone), Reason::Lost(_)));
    thread.join().unwrap();
}

#[test]
fn the_next_address_is_tried_when_nothing_listens() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let refused = closed.local_addr().unwrap().to_string();
    drop(closed);
    assert_eq!(reason(refused.clone()), Reason::Refused);
    let (authority, thread) = broker(|mut stream| let_in(&mut stream));
    let mut line = Line::new(vec![mqtt(&refused), mqtt(&authority)], None);
    line.open(login());
    assert_eq!(first_event(&mut line), LineEvent::Connected(mqtt(&authority)));
    thread.join().unwrap();
    assert!(matches!(first_event(&mut line), LineEvent::Failed(_)));
}

#[test]
fn the_next_address_is_tried_when_one_hangs_up_before_it_lets_us_in() {
    let (first, hung_up) = broker(|mut stream| {
        packet(&mut stream);
    });
    let (second, thread) = broker(|mut stream| let_in(&mut stream));
    let mut line = Line::new(vec![mqtt(&first), mqtt(&second)], None);
    line.open(login());
    assert_eq!(first_event(&mut line), LineEvent::Connected(mqtt(&second)));
    hung_up.join().unwrap();
    thread.join().unwrap();
    // The line stood, so its end is told and no further address is tried.
    match first_event(&mut line) {
        LineEvent::Failed(failure) => assert_eq!(failure.attempts.len(), 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_line_whose_own_end_is_gone_is_given_up() {
    let (authority, thread) = broker(|mut stream| {
        let_in(&mut stream);
        // No goodbye: the stream just ends.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    let mut line = Line::new(vec![mqtt(&authority)], None);
    assert_eq!(line.local_address(), None);
    line.open(login());
    assert_eq!(first_event(&mut line), LineEvent::Connected(mqtt(&authority)));
    assert!(line.local_address().unwrap().ip().is_loopback());
    line.give_up("its own address is gone");
    match first_event(&mut line) {
        LineEvent::Failed(failure) => {
            let attempt = failure.furthest().unwrap();
            assert_eq!(attempt.way, mqtt(&authority));
            assert_eq!(attempt.reason, Reason::Lost("its own address is gone".to_owned()));
        }
        other => panic!("{other:?}"),
    }
    thread.join().unwrap();
    assert_eq!(line.local_address(), None);
}

#[test]
fn a_name_that_does_not_exist_is_said() {
    // RFC 6761: ".invalid" never resolves, whoever is asked.
    assert!(matches!(reason("weft.invalid:7420".to_owned()), Reason::Name(_)));
}

#[test]
fn closing_an_unopened_line_is_told_too() {
    let mut line = Line::new(Vec::new(), None);
    line.close();
    assert_eq!(line.next_event(), Some(LineEvent::Closed));
    line.open(login());
    match first_event(&mut line) {
        LineEvent::Failed(failure) => assert!(failure.attempts.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_try_to_ipv4_waits_until_the_translator_is_known() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let mut line = Line::new(vec![mqtt(&authority)], None);
    line.set_translator(None, true);
    line.open(login());
    line.poll();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // IPv4 in IPv6's clothes: a translator that every kernel has.
    line.set_translator(Prefix::new("::ffff:0:0".parse().unwrap(), 96), false);
    listener.set_nonblocking(false).unwrap();
    let thread = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let_in(&mut stream);
        assert_eq!(packet(&mut stream).0, 0xE0);
    });
    assert!(matches!(first_event(&mut line), LineEvent::Connected(_)));
    assert!(line.local_address().unwrap().is_ipv6());
    line.close();
    assert_eq!(first_event(&mut line), LineEvent::Closed);
    thread.join().unwrap();
}

#[test]
fn a_full_agent_stops_the_reading_and_nothing_is_lost() {
    let (authority, thread) = broker(|mut stream| {
        let_in(&mut stream);
        for number in 0..200u8 {
            stream.write_all(&message(&[number])).unwrap();
        }
        assert_eq!(packet(&mut stream).0, 0xE0);
    });
    let mut line = Line::new(vec![mqtt(&authority)], None);
    line.open(login());
    assert!(matches!(first_event(&mut line), LineEvent::Connected(_)));
    let mut seen = Vec::new();
    drive(&mut line, |line| {
        if let Some(LineEvent::Frame(frame)) = line.next_event() {
            seen.push(frame[0]);
        }
        seen.len() == 200
    });
    assert!(seen.iter().copied().eq(0..200));
    line.close();
    assert_eq!(first_event(&mut line), LineEvent::Closed);
    thread.join().unwrap();
}

#[test]
fn the_last_words_come_before_the_end() {
    let (authority, thread) = broker(|mut stream| {
        let_in(&mut stream);
        assert_eq!(packet(&mut stream).0, 0x30);
        // The answer, a goodbye and the end of the stream in one go.
        let mut last = message(b"done");
        last.extend([0xE0, 2, 0x8E, 0]);
        stream.write_all(&last).unwrap();
    });
    let mut line = Line::new(vec![mqtt(&authority)], None);
    line.open(login());
    assert!(matches!(first_event(&mut line), LineEvent::Connected(_)));
    line.publish(Topic::Hello(INBOX), b"leave");
    drive(&mut line, |line| line.is_idle());
    // Everything that will come lies in the socket when it is read.
    thread.join().unwrap();
    assert_eq!(first_event(&mut line), LineEvent::Frame(b"done".to_vec()));
    assert!(matches!(first_event(&mut line), LineEvent::Failed(_)));
}

#[test]
fn a_silence_that_the_network_does_not_outlive_is_halved() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let mut forgotten = listener.accept().unwrap().0;
        assert_eq!(let_in_with(&mut forgotten), 2);
        // Nothing of it is passed from here on, in either direction.
        let mut next = listener.accept().unwrap().0;
        assert_eq!(let_in_with(&mut next), 1);
        assert_eq!(packet(&mut next).0, 0xC0);
        next.write_all(&[0xD0, 0]).unwrap();
        // A broker that ends says so: that is no fault of the network.
        drop(next);
        let mut last = listener.accept().unwrap().0;
        assert_eq!(let_in_with(&mut last), 1);
        assert_eq!(packet(&mut last).0, 0xE0);
    });
    let mut line = Line::new(vec![mqtt(&authority)], None);
    line.set_keepalive(Bounds { longest_s: 2, floor_s: 1 });
    line.handle_network(7);
    let learned = |line: &Line| {
        line.stood().iter().any(|(at, text)| *at == 7 && text.starts_with("keepalive 1 "))
    };
    for round in 0..3 {
        line.open(login());
        assert!(matches!(first_event(&mut line), LineEvent::Connected(_)));
        assert_eq!(line.has_news(), round < 2);
        assert_eq!(learned(&line), round > 0);
        if round < 2 {
            assert!(matches!(first_event(&mut line), LineEvent::Failed(_)));
        }
    }
    line.close();
    assert_eq!(first_event(&mut line), LineEvent::Closed);
    thread.join().unwrap();
}

#[test]
fn a_longer_silence_is_tried_again_beside_the_line_when_its_day_is_over() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let mut first = listener.accept().unwrap().0;
        assert_eq!(let_in_with(&mut first), 1);
        let pings = std::thread::spawn(move || {
            let mut ping = [0; 2];
            // Until the line goes on without it.
            while first.read_exact(&mut ping).is_ok() {
                assert_eq!(ping, [0xC0, 0]);
                first.write_all(&[0xD0, 0]).unwrap();
            }
        });
        let mut longer = listener.accept().unwrap().0;
        assert_eq!(let_in_with(&mut longer), 2);
        pings.join().unwrap();
        assert_eq!(packet(&mut longer).0, 0xE0);
    });
    let mut line = Line::new(vec![mqtt(&authority)], None);
    line.set_keepalive(Bounds { longest_s: 2, floor_s: 1 });
    let learned_s = clock::unix_millis() / 1_000 - (86_400 - 2);
    line.restore(&[(7, format!("keepalive 1 {learned_s}"))]);
    line.handle_network(7);
    line.open(login());
    let way = mqtt(&authority);
    assert_eq!(first_event(&mut line), LineEvent::Connected(way.clone()));
    assert_eq!(line.learned_keepalive(), Some(1));
    assert_eq!(first_event(&mut line), LineEvent::Moved(way));
    assert_eq!(line.learned_keepalive(), None);
    assert!(line.has_news() && line.stood().iter().all(|(_, text)| text.starts_with("mqtt:")));
    line.close();
    assert_eq!(first_event(&mut line), LineEvent::Closed);
    thread.join().unwrap();
}
