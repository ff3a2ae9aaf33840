//! What the coordinator reads: MQTT packets, posts, files, words.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::{Bytes, BytesMut};
use tower::ServiceExt as _;
use weft_coordinator::config::document::Document;
use weft_coordinator::config::{self, Overrides, policy_file, public::Public};
use weft_coordinator::domain::policy::{Compiled, Numbering, parse_traffic};
use weft_coordinator::domain::query::Query;
use weft_coordinator::domain::tags::{Selector, TagSet};
use weft_coordinator::service::bus::{Answer, BoxFuture, Inbound, Lane, Uplink};
use weft_coordinator::service::secrets::{Fit, RETIRED, Secrets};
use weft_coordinator::store::keyfile;
use weft_coordinator::transport::mqtt::codec;
use weft_coordinator::transport::mqtt::hub::Hub;
use weft_coordinator::transport::mqtt::packet::{In, Kind, Level, MAX_PACKET, Out, frame};
use weft_coordinator::transport::post;
use weft_wire::frame::MAX_FRAME;
use weft_wire::http::{CONTENT_TYPE, Frames, INBOX_HEADER, MAX_ANSWER, METRICS, REGISTER};

use zeroize::Zeroizing;

use crate::script::Script;

/// Packets in a stream, at both levels of the protocol.
pub(crate) fn mqtt(data: &[u8]) {
    let mut rest = data;
    for _ in 0..16 {
        let Ok(Some((kind, whole))) = frame(rest, MAX_PACKET) else { return };
        let Some((packet, next)) = rest.split_at_checked(whole) else { return };
        if kind == Kind::Connect {
            let _ = codec::level(packet);
        }
        for level in [Level::V4, Level::V5] {
            let decoded = codec::for_level(level).decode(kind, BytesMut::from(packet));
            if let Ok(packet) = decoded {
                check(level, &packet);
            }
        }
        rest = next;
    }
}

/// The key file: as it lies on the disk, or a body that its checksum lets through.
pub(crate) fn key_file(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    let file = match how % (keyfile::FORMAT + 1) {
        0 => Zeroizing::new(rest.to_vec()),
        format => match keyfile::emit(format, rest) {
            Some(file) => {
                assert_eq!(keyfile::parse(&file).ok(), Some(rest), "what is written is read");
                file
            }
            None => return,
        },
    };
    let Ok(body) = keyfile::parse(&file) else { return };
    let Some(secrets) = Secrets::from_bytes(body) else { return };
    assert_eq!(&**secrets.to_bytes(), body, "no two bodies are one key file");
    assert!((1..=keyfile::FORMAT).contains(&secrets.format()));
    assert_eq!(secrets.fit(&secrets.public()), Fit::Same);
    assert!(secrets.retired.len() <= RETIRED);
}

fn check(level: Level, packet: &In) {
    match packet {
        In::Publish(publish) => {
            assert!(publish.topic.len() + publish.payload.len() <= MAX_PACKET);
            // What we would send of it is one packet.
            let topic = String::from_utf8_lossy(&publish.topic);
            if topic.len() + publish.payload.len() + 16 <= MAX_PACKET {
                let mut buffer = BytesMut::new();
                let out = Out::Publish { topic: &topic, id: Some(1), payload: &publish.payload };
                codec::for_level(level).encode(&out, &mut buffer);
                let framed = frame(&buffer, 2 * MAX_PACKET);
                assert_eq!(framed, Ok(Some((Kind::Publish, buffer.len()))));
            }
        }
        In::Subscribe { filters, .. } => assert!(!filters.is_empty()),
        In::Connect(_) | In::PubAck(_) | In::PingReq | In::Disconnect => {}
    }
}

/// Answers every frame with itself; nothing with nothing, as no service sends an
/// empty frame.
struct Echo;

impl Inbound for Echo {
    fn handle_uplink<'a>(&'a self, uplink: Uplink<'a>) -> BoxFuture<'a, Answer> {
        assert!(uplink.frame.len() <= MAX_FRAME);
        let frame = Some(Bytes::copy_from_slice(uplink.frame));
        let frames = frame.into_iter().filter(|frame| !frame.is_empty()).collect();
        Box::pin(async move { Answer { frames, ..Answer::default() } })
    }

    fn handle_gone(&self, _inbox: weft_wire::id::Inbox) {}

    fn sort(&self, _inbox: weft_wire::id::Inbox, _frame: &[u8]) -> Option<Lane> {
        Some(Lane::Known)
    }

    fn handle_return(&self) {}
}

/// A post: its path, its two headers, its body.
pub(crate) fn post(data: &[u8]) {
    let mut script = Script::new(data);
    let choice = script.byte();
    let path = if choice & 1 == 0 { REGISTER } else { METRICS };
    let mut request = Request::post(path);
    if choice & 2 == 0 {
        request = request.header(INBOX_HEADER, script.bytes(64));
    }
    request = if choice & 4 == 0 {
        request.header("content-type", CONTENT_TYPE)
    } else {
        request.header("content-type", script.bytes(64))
    };
    let body = script.bytes(2 * MAX_FRAME);
    // A header that HTTP itself does not know is refused before our code.
    let Ok(request) = request.body(Body::from(body.to_vec())) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let routes = post::routes(Arc::new(Echo), Arc::new(Hub::default()));
        let response = routes.oneshot(request).await.expect("routes answer");
        let status = response.status();
        let answer = axum::body::to_bytes(response.into_body(), MAX_ANSWER).await.expect("short");
        if status == StatusCode::OK {
            let frames: Result<Vec<_>, _> = Frames::new(&answer).collect();
            let frames = frames.expect("an answer is frames");
            assert!(body.is_empty() || frames == [body]);
        } else {
            assert!(answer.is_empty(), "nothing is explained to strangers");
        }
    });
}

/// The policy file: what is read is written and read again as the same.
pub(crate) fn policy(data: &[u8]) {
    let Ok(document) = Document::from_bytes("policy.toml".to_owned(), data.to_vec()) else {
        return;
    };
    match policy_file::parse(&document) {
        Ok(policy) => {
            let text = policy_file::write(&policy);
            let again = Document::from_bytes("policy.toml".to_owned(), text.clone().into_bytes());
            let again = policy_file::parse(&again.expect("what was written is text"));
            assert_eq!(policy_file::write(&again.expect("what was written is read")), text);
            if let Ok(numbering) = Numbering::default().renumber(&policy)
                && let Ok(compiled) = Compiled::new(policy, numbering)
            {
                let profile = compiled.profile(&TagSet::default());
                let _ = (compiled.rules(&profile), compiled.masks(&profile, &profile));
            }
        }
        Err(failures) => {
            for failure in failures {
                let _told = format!("{failure:?}");
            }
        }
    }
}

/// `coordinator.toml`.
pub(crate) fn configuration(data: &[u8]) {
    if let Ok(document) = Document::from_bytes("coordinator.toml".to_owned(), data.to_vec()) {
        let _ = config::resolve(&Overrides::default(), Some(&document));
    }
}

/// What operators write into fields and search boxes.
pub(crate) fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    if let Ok(tags) = text.parse::<TagSet>() {
        let written = tags.texts().collect::<Vec<_>>();
        let again = TagSet::parse(written.iter().map(String::as_str));
        assert_eq!(again.as_ref().ok(), Some(&tags));
        if let Ok(selector) = text.parse::<Selector>() {
            let _ = selector.matches(&tags);
        }
    }
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string().parse::<Selector>().ok(), Some(selector));
    }
    if let Ok(query) = text.parse::<Query>() {
        let _ = query.fits(|_, value| value.len() > 2);
    }
    if let Ok(public) = text.parse::<Public>() {
        let _ = (public.authority(), public.address(), public.is_private());
    }
    let _ = parse_traffic(text);
}
