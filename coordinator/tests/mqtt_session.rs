//! The listener's session without input or output: every limit, on virtual
//! time, and the codecs against bytes.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use weft_coordinator::service::bus::Class;
use weft_coordinator::transport::mqtt::codec;
use weft_coordinator::transport::mqtt::connect::Admission;
use weft_coordinator::transport::mqtt::packet::{
    ConnectCode, DisconnectCode, Filter, In, Kind, Level, Out, Publish, Qos, frame,
};
use weft_coordinator::transport::mqtt::session::{
    Close, Down, ENROLMENT, Session, UNPROVEN, Verdict,
};
use weft_wire::id::{Inbox, KeyId, ReplicaId};
use weft_wire::topic::Topic;

const OWN: Inbox = Inbox([7; 16]);
const OTHER: Inbox = Inbox([8; 16]);

fn admission() -> Admission {
    Admission {
        inbox: OWN,
        class: Class::Device,
        keep_alive_s: 10,
        receive_maximum: 8,
        maximum_packet: u32::MAX,
    }
}

#[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
fn origin() -> Instant {
    Instant::now()
}

fn session() -> (Session, Instant) {
    let start = origin();
    (Session::new(&admission(), Level::V5, start), start)
}

fn publish(topic: &str) -> Publish {
    Publish {
        qos: 0,
        id: 0,
        retain: false,
        foreign_properties: false,
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        payload: Bytes::from_static(b"frame"),
    }
}

fn hello() -> Publish {
    publish(&Topic::Hello(OWN).text())
}

fn subscribe(paths: &[&str], qos: u8) -> In {
    let filters = paths.iter().map(|path| Filter { path: (*path).to_owned(), qos }).collect();
    In::Subscribe { id: 5, filters, subscription_id: false }
}

fn closed(packet: In) -> Close {
    let (mut session, now) = session();
    match session.handle_packet(packet, now) {
        Verdict::Close(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn frames_on_the_own_topics_go_up() {
    let (mut session, now) = session();
    for topic in
        [Topic::Hello(OWN), Topic::Record(ReplicaId(0), OWN), Topic::Record(ReplicaId(9), OWN)]
    {
        let verdict = session.handle_packet(In::Publish(publish(&topic.text())), now);
        assert_eq!(verdict, Verdict::Up { frame: Bytes::from_static(b"frame"), acknowledge: None });
    }
    let acknowledged = Publish { qos: 1, id: 77, ..hello() };
    assert!(matches!(
        session.handle_packet(In::Publish(acknowledged), now),
        Verdict::Up { acknowledge: Some(77), .. }
    ));
}

#[test]
fn foreign_topics_and_filters_close() {
    for topic in [
        Topic::Hello(OTHER).text().as_str(),
        &Topic::Record(ReplicaId(0), OTHER).text(),
        &Topic::Down(OWN).text(),
        &Topic::Down(OTHER).text(),
        "",
        "#",
        "$SYS/broker",
        "weft/v1/h/+",
        &format!("weft/v1/h/{OWN}/x"),
    ] {
        assert_eq!(closed(In::Publish(publish(topic))), Close::ForeignTopic, "{topic}");
    }
    let not_text = Publish { topic: Bytes::from_static(&[0xFF; 36]), ..hello() };
    assert_eq!(closed(In::Publish(not_text)), Close::ForeignTopic);
    let own = Topic::Down(OWN).text();
    for filters in [
        vec!["#"],
        vec!["+"],
        vec!["weft/v1/d/+"],
        vec!["weft/v1/+/+"],
        vec!["weft/v1/d/#"],
        vec!["$SYS/#"],
        vec![""],
    ] {
        assert_eq!(closed(subscribe(&filters, 0)), Close::ForeignFilter, "{filters:?}");
    }
    let shared = format!("$share/group/{own}");
    assert_eq!(closed(subscribe(&[&shared], 0)), Close::ForeignFilter);
    assert_eq!(closed(subscribe(&[&Topic::Down(OTHER).text()], 0)), Close::ForeignFilter);
    assert_eq!(closed(subscribe(&[&own, &Topic::Hello(OWN).text()], 0)), Close::ForeignFilter);
    assert_eq!(closed(subscribe(&[own.as_str(); 9], 0)), Close::ForeignFilter);
    let with_id = In::Subscribe {
        id: 1,
        filters: vec![Filter { path: own.to_string(), qos: 0 }],
        subscription_id: true,
    };
    assert_eq!(closed(with_id), Close::Properties);
}

#[test]
fn what_could_keep_state_closes() {
    assert_eq!(closed(In::Publish(Publish { retain: true, ..hello() })), Close::Retain);
    assert_eq!(closed(In::Publish(Publish { qos: 2, id: 1, ..hello() })), Close::Qos);
    assert_eq!(
        closed(In::Publish(Publish { foreign_properties: true, ..hello() })),
        Close::Properties
    );
    assert_eq!(closed(In::Publish(Publish { payload: Bytes::new(), ..hello() })), Close::Payload);
    let giant = Publish { payload: Bytes::from(vec![0; 3_841]), ..hello() };
    assert_eq!(closed(In::Publish(giant)), Close::Payload);
    assert_eq!(closed(In::Connect(Box::default())), Close::SecondConnect);
    assert_eq!(closed(In::Disconnect), Close::Said);
}

#[test]
fn silence_ends_and_only_a_packet_counts() {
    let (mut session, start) = session();
    let (at, why) = session.poll_timeout();
    assert_eq!((at, why), (start + Duration::from_secs(15), Close::KeepAlive));
    // Bytes of a packet that never ends do not move it, what is sent neither.
    session.handle_bytes(100, start + Duration::from_secs(9));
    assert_eq!(session.handle_down(10), Down::NotSubscribed);
    assert_eq!(session.poll_timeout().0, at);
    let later = start + Duration::from_secs(12);
    assert_eq!(session.handle_packet(In::PingReq, later), Verdict::Pong);
    assert_eq!(session.poll_timeout().0, later + Duration::from_secs(15));
}

#[test]
fn enrolling_clients_have_two_minutes() {
    let start = origin();
    let class = Class::Enrolling(KeyId::from_random([1; 8]));
    let admission = Admission { class, keep_alive_s: 60, ..admission() };
    let mut session = Session::new(&admission, Level::V5, start);
    assert_eq!(session.poll_timeout(), (start + Duration::from_secs(90), Close::KeepAlive));
    let now = start + Duration::from_secs(80);
    assert_eq!(session.handle_packet(In::PingReq, now), Verdict::Pong);
    assert_eq!(session.poll_timeout(), (start + ENROLMENT, Close::EnrolmentOver));
    // Whatever it proves.
    session.handle_authentic();
    assert_eq!(session.poll_timeout(), (start + ENROLMENT, Close::EnrolmentOver));
}

#[test]
fn a_device_proves_itself_within_two_minutes() {
    let start = origin();
    let mut session =
        Session::new(&Admission { keep_alive_s: 1_200, ..admission() }, Level::V5, start);
    let now = start + Duration::from_secs(100);
    // Frames that prove nothing and pings do not help.
    assert_eq!(session.handle_packet(In::PingReq, now), Verdict::Pong);
    assert!(matches!(session.handle_packet(In::Publish(hello()), now), Verdict::Up { .. }));
    assert_eq!(session.poll_timeout(), (start + UNPROVEN, Close::Unproven));
    session.handle_authentic();
    assert_eq!(session.poll_timeout(), (now + Duration::from_secs(1_800), Close::KeepAlive));
}

#[test]
fn messages_beyond_the_burst_wait_and_acknowledgements_do_not_count() {
    let (mut session, start) = session();
    for _ in 0..1_000 {
        assert_eq!(session.handle_packet(In::PubAck(1), start), Verdict::Nothing);
        assert_eq!(session.handle_packet(In::PingReq, start), Verdict::Pong);
    }
    assert!(session.readable_at() <= start);
    for sent in 1..=40 {
        assert!(session.readable_at() <= start, "{sent}");
        assert!(matches!(session.handle_packet(In::Publish(hello()), start), Verdict::Up { .. }));
    }
    assert_eq!(session.readable_at(), start + Duration::from_millis(50));
    // From then on 20 a second.
    let mut now = start;
    for _ in 0..100 {
        now = now.max(session.readable_at());
        let _ = session.handle_packet(In::Publish(hello()), now);
    }
    assert_eq!(session.readable_at(), start + Duration::from_millis(50 * 101));
}

#[test]
fn bytes_beyond_the_burst_wait() {
    let (mut session, start) = session();
    session.handle_bytes(64 * 1_024 - 1, start);
    assert!(session.readable_at() <= start);
    session.handle_bytes(16 * 1_024, start);
    let wait = session.readable_at() - start;
    assert!((Duration::from_millis(999)..Duration::from_millis(1_001)).contains(&wait), "{wait:?}");
}

#[test]
fn the_clients_window_is_honoured() {
    let start = origin();
    let own = Topic::Down(OWN).text();
    for limit in [1, 3, 8] {
        let admission = Admission { receive_maximum: limit, ..admission() };
        let mut session = Session::new(&admission, Level::V5, start);
        let verdict = session.handle_packet(subscribe(&[&own], 2), start);
        assert_eq!(verdict, Verdict::Subscribed { id: 5, granted: Qos::One, filters: 1 });
        let sent: Vec<_> = std::iter::from_fn(|| match session.handle_down(10) {
            Down::Send(id) => id,
            _ => None,
        })
        .collect();
        assert_eq!(sent, (1..=limit).collect::<Vec<_>>());
        assert_eq!(session.handle_down(10), Down::Hold);
        let _ = session.handle_packet(In::PubAck(99), start);
        let _ = session.handle_packet(In::PubAck(0), start);
        assert_eq!(session.handle_down(10), Down::Hold);
        let _ = session.handle_packet(In::PubAck(limit), start);
        assert_eq!(session.handle_down(10), Down::Send(Some(limit)));
        assert_eq!(session.handle_down(10), Down::Hold);
    }
    let (mut session, now) = session();
    let verdict = session.handle_packet(subscribe(&[&own, &own], 0), now);
    assert_eq!(verdict, Verdict::Subscribed { id: 5, granted: Qos::Zero, filters: 2 });
    assert!((0..100).all(|_| session.handle_down(10) == Down::Send(None)));
}

#[test]
fn the_clients_longest_packet_is_honoured_exactly() {
    let own = Topic::Down(OWN).text();
    for level in [Level::V4, Level::V5] {
        for qos in [0, 1] {
            for payload in [10, 86, 87, 88, 127, 128, 500] {
                let mut bytes = BytesMut::new();
                let id = (qos == 1).then_some(1);
                let packet = Out::Publish { topic: &own, id, payload: &vec![0; payload] };
                codec::for_level(level).encode(&packet, &mut bytes);
                for (limit, fits) in [(bytes.len(), true), (bytes.len() - 1, false)] {
                    let maximum_packet = u32::try_from(limit).unwrap();
                    let admission = Admission { maximum_packet, ..admission() };
                    let mut session = Session::new(&admission, level, origin());
                    let _ = session.handle_packet(subscribe(&[&own], qos), origin());
                    let expected = if fits { Down::Send(id) } else { Down::TooLong };
                    assert_eq!(session.handle_down(payload), expected, "{level:?} {qos} {payload}");
                }
            }
        }
    }
}

fn encoded(level: Level, packet: &Out<'_>) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    codec::for_level(level).encode(packet, &mut bytes);
    bytes.to_vec()
}

/// Every packet to a client is framed rightly and says what it should, by the
/// bytes of the two specifications.
#[test]
fn packets_to_clients_are_what_the_specifications_say() {
    for level in [Level::V4, Level::V5] {
        for packet in [
            Out::ConnAck(ConnectCode::Success),
            Out::Admitted(300),
            Out::ConnAck(ConnectCode::ClientId),
            Out::ConnAck(ConnectCode::Credentials),
            Out::ConnAck(ConnectCode::NotAuthorized),
            Out::ConnAck(ConnectCode::Busy),
            Out::PubAck(0x0102),
            Out::SubAck { id: 0x0102, granted: &[Qos::One, Qos::Zero] },
            Out::PingResp,
            Out::Publish { topic: "a/b", id: Some(3), payload: &[9; 300] },
            Out::Disconnect(DisconnectCode::Protocol),
        ] {
            let bytes = encoded(level, &packet);
            if bytes.is_empty() {
                assert_eq!(level, Level::V4);
                continue;
            }
            let remaining = if bytes[1] & 0x80 == 0 {
                bytes.len() - 2
            } else {
                assert_eq!(
                    usize::from(bytes[1] & 0x7F) | usize::from(bytes[2]) << 7,
                    bytes.len() - 3
                );
                continue;
            };
            assert_eq!(usize::from(bytes[1]), remaining, "{bytes:02x?}");
        }
    }
    assert_eq!(encoded(Level::V4, &Out::ConnAck(ConnectCode::Success)), [0x20, 2, 0, 0]);
    assert_eq!(encoded(Level::V4, &Out::ConnAck(ConnectCode::Credentials)), [0x20, 2, 0, 4]);
    assert_eq!(encoded(Level::V5, &Out::ConnAck(ConnectCode::Credentials)), [0x20, 3, 0, 0x86, 0]);
    assert_eq!(encoded(Level::V4, &Out::PubAck(258)), [0x40, 2, 1, 2]);
    assert_eq!(encoded(Level::V5, &Out::PubAck(258)), [0x40, 2, 1, 2]);
    let granted = Out::SubAck { id: 258, granted: &[Qos::One, Qos::Zero] };
    assert_eq!(encoded(Level::V4, &granted), [0x90, 4, 1, 2, 1, 0]);
    assert_eq!(encoded(Level::V5, &granted), [0x90, 5, 1, 2, 0, 1, 0]);
    assert_eq!(encoded(Level::V5, &Out::PingResp), [0xD0, 0]);
    let down = Out::Publish { topic: "a/b", id: Some(3), payload: b"x" };
    assert_eq!(encoded(Level::V4, &down), *b"\x32\x08\0\x03a/b\0\x03x");
    assert_eq!(encoded(Level::V5, &down), *b"\x32\x09\0\x03a/b\0\x03\0x");
    assert_eq!(encoded(Level::V5, &Out::Disconnect(DisconnectCode::TakenOver)), [0xE0, 2, 0x8E, 0]);
}

/// The properties of the CONNACK of an admitted client, one by one.
#[test]
fn the_connack_says_the_limits() {
    let bytes = encoded(Level::V5, &Out::ConnAck(ConnectCode::Success));
    let expected: [&[u8]; 8] = [
        &[17, 0, 0, 0, 0],
        &[33, 0, 8],
        &[36, 1],
        &[37, 0],
        &[39, 0, 0, 0x10, 0],
        &[40, 0],
        &[41, 0],
        &[42, 0],
    ];
    for property in expected {
        assert!(bytes.windows(property.len()).any(|window| window == property), "{property:?}");
    }
    assert_eq!(bytes.len(), 5 + expected.iter().map(|p| p.len()).sum::<usize>());
    let sooner = encoded(Level::V5, &Out::Admitted(300));
    assert_eq!(sooner.len(), bytes.len() + 3);
    assert!(sooner.windows(3).any(|window| window == [19, 1, 44]), "server keep alive");
    assert_eq!(encoded(Level::V4, &Out::Admitted(300)), [0x20, 2, 0, 0]);
    assert_eq!(&bytes[2..4], [0, 0], "no session, success");
}

/// All types of packet, both levels, random and structured content: nothing
/// panics, and only what clients send is decoded.
#[test]
fn no_packet_of_any_type_panics() {
    let mut state = 0x5EED_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    let mut decoded = 0;
    for round in 0..200_000_usize {
        let remaining = round % 120;
        let mut bytes = vec![(round % 256) as u8, remaining as u8];
        if round % 3 == 0 && remaining > 12 {
            bytes.extend_from_slice(b"\0\x04MQTT");
            bytes.push(4 + random() % 2);
        }
        while bytes.len() < remaining + 2 {
            bytes.push(if random() % 2 == 0 { random() % 4 } else { random() });
        }
        let Ok(Some((kind, whole))) = frame(&bytes, 4_096) else { continue };
        assert_eq!(whole, bytes.len());
        for level in [Level::V4, Level::V5] {
            let packet = BytesMut::from(bytes.as_slice());
            decoded += usize::from(codec::for_level(level).decode(kind, packet).is_ok());
        }
    }
    assert!(decoded > 1_000, "{decoded}");
}

#[test]
fn connects_are_read_by_level() {
    let mut v4 = b"\x10\x1e\0\x04MQTT\x04\xC2\0\x3c\0\x06client\0\x04user\0\x02pw".to_vec();
    v4[1] = (v4.len() - 2) as u8;
    assert_eq!(codec::level(&v4), Some(Level::V4));
    let read =
        |bytes: &[u8], level| codec::for_level(level).decode(Kind::Connect, BytesMut::from(bytes));
    let Ok(In::Connect(connect)) = read(&v4, Level::V4) else { panic!("decodes") };
    assert_eq!(
        (connect.client_id.as_str(), connect.user.as_str(), connect.password.as_str()),
        ("client", "user", "pw")
    );
    assert_eq!((connect.keep_alive_s, connect.will), (60, false));
    // The reserved flag (3.1.2.3).
    let mut reserved = v4.clone();
    reserved[9] |= 1;
    assert!(read(&reserved, Level::V4).is_err());
    for (at, byte) in [(8, 3), (8, 6), (4, b'X'), (3, 6)] {
        let mut other = v4.clone();
        other[at] = byte;
        assert_eq!(codec::level(&other), None);
    }
    for cut in 0..v4.len() {
        assert!(cut > 8 || codec::level(&v4[..cut]).is_none());
    }
}
