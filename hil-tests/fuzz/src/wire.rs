//! Formats between programs. Decoders are total, and what decodes is written
//! back to an equal value.

use core::time::Duration;

use weft_relay::proto::{MAX_ANSWER, Responder};
use weft_wire::crc::crc32;
use weft_wire::frame::{
    FrameKind, Hello, PROLOGUE_LEN, RECORD_HEADER_LEN, RecordHeader, Reset, Retry, Welcome, kind,
};
use weft_wire::http::{Frames, MAX_FRAMES};
use weft_wire::id::{CommandId, DeviceId, Inbox, KeyId, NetworkId, OrganisationId, is_name};
use weft_wire::item::*;
use weft_wire::join::{JoinString, Joins, MAX_TEXT};
use weft_wire::map::*;
use weft_wire::network::{Netcheck, NetcheckDone};
use weft_wire::path::PathReport;
use weft_wire::probe::{self, Line, PROBE_LEN, Probe, ProbeKind};
use weft_wire::relay::{RelayAsk, RelayGrant, RelayNames, Relays};
use weft_wire::relay_link::{
    RelayDenials, RelayHeard, RelayRegister, RelayRegistered, RelayReport, RelaySettings,
    RelayUnknown,
};
use weft_wire::signal::{self, Call, CallAck, CallFailed, Go, SIGNAL_LEN};
use weft_wire::stun::{BINDING_SUCCESS, Message, MessageWriter};
use weft_wire::telemetry::{DataUsage, Heartbeat};
use weft_wire::topic::Topic;
use weft_wire::{base32, base64, join, login};

/// A body that decodes must be written back as an equal value. (postcard admits
/// varints that are longer than needed, so the first bytes may shrink.)
fn stable<T: Item>(body: &[u8]) {
    let Ok(value) = (RawItem { tag: T::TAG, body }).decode::<T>() else { return };
    let first = write(&value);
    let again = Items::new(&first).next().expect("one item").expect("a whole item");
    let value = again.decode::<T>().expect("what was written decodes");
    assert_eq!(first, write(&value));
    assert!(again.body.len() <= body.len(), "what is written is shortest");
}

fn write<T: Item>(value: &T) -> Vec<u8> {
    let mut buffer = vec![0; 16_384];
    let mut writer = ItemWriter::new(&mut buffer);
    writer.put(value).expect("what was decoded fits");
    let len = writer.len();
    buffer.truncate(len);
    buffer
}

/// Every item of a record that is not looked at elsewhere.
pub(crate) fn items(data: &[u8]) {
    for raw in Items::new(data).flatten() {
        let body = raw.body;
        match raw.tag {
            HelloInfo::TAG => stable::<HelloInfo>(body),
            WelcomeInfo::TAG => stable::<WelcomeInfo>(body),
            Register::TAG => stable::<Register>(body),
            Registered::TAG => stable::<Registered>(body),
            Refused::TAG => stable::<Refused>(body),
            Unsupported::TAG => stable::<Unsupported>(body),
            Leave::TAG => stable::<Leave>(body),
            Done::TAG => stable::<Done>(body),
            State::TAG => stable::<State>(body),
            Command::TAG => stable::<Command>(body),
            Netcheck::TAG => stable::<Netcheck>(body),
            NetcheckDone::TAG => stable::<NetcheckDone>(body),
            CommandDone::TAG => stable::<CommandDone>(body),
            Ping::TAG => stable::<Ping>(body),
            Duplicate::TAG => stable::<Duplicate>(body),
            Stamps::TAG => stable::<Stamps>(body),
            RelayAsk::TAG => stable::<RelayAsk>(body),
            RelayGrant::TAG => stable::<RelayGrant>(body),
            RelayRegister::TAG => stable::<RelayRegister>(body),
            RelayRegistered::TAG => stable::<RelayRegistered>(body),
            RelayReport::TAG => stable::<RelayReport>(body),
            RelaySettings::TAG => stable::<RelaySettings>(body),
            RelayDenials::TAG => stable::<RelayDenials>(body),
            RelayHeard::TAG => stable::<RelayHeard>(body),
            RelayUnknown::TAG => stable::<RelayUnknown>(body),
            _ => {}
        }
    }
    copy(data);
}

/// Items that are copied one by one are the same items.
fn copy(data: &[u8]) {
    let raw: Vec<_> = Items::new(data).map_while(Result::ok).collect();
    let mut buffer = vec![0; data.len() + 64];
    let mut writer = ItemWriter::new(&mut buffer);
    for item in &raw {
        writer.put_raw(item).expect("a copy is no longer");
    }
    let len = writer.finish();
    let copied: Vec<_> = Items::new(&buffer[..len]).flatten().collect();
    assert_eq!(raw, copied);
}

/// A page, and the ops in it.
pub(crate) fn map(data: &[u8]) {
    for raw in Items::new(data).flatten() {
        match raw.tag {
            Page::TAG => {
                if let Ok((_, ops)) = raw.decode_nested::<Page>() {
                    ops.flatten().for_each(|op| map_item(&op));
                }
            }
            _ => map_item(&raw),
        }
    }
}

fn map_item(raw: &RawItem<'_>) {
    let body = raw.body;
    match raw.tag {
        PeerUpsert::TAG => stable::<PeerUpsert>(body),
        PeerRemove::TAG => stable::<PeerRemove>(body),
        PeerKey::TAG => stable::<PeerKey>(body),
        Rules::TAG => stable::<Rules>(body),
        Servers::TAG => stable::<Servers>(body),
        Relays::TAG => stable::<Relays>(body),
        RelayNames::TAG => stable::<RelayNames>(body),
        Settings::TAG => {
            stable::<Settings>(body);
            if let Ok(settings) = raw.decode::<Settings>() {
                let overlay = settings.overlay;
                let _ = (overlay.address_v6(settings.host), overlay.prefix_v6());
            }
        }
        Lease::TAG => stable::<Lease>(body),
        MapNext::TAG => stable::<MapNext>(body),
        MapReady::TAG => stable::<MapReady>(body),
        MapApplied::TAG => stable::<MapApplied>(body),
        _ => {}
    }
}

/// Signals, heartbeats and reports.
pub(crate) fn signal(data: &[u8]) {
    for raw in Items::new(data).flatten() {
        let body = raw.body;
        match raw.tag {
            Call::TAG => stable::<Call>(body),
            CallAck::TAG => stable::<CallAck>(body),
            Go::TAG => stable::<Go>(body),
            CallFailed::TAG => stable::<CallFailed>(body),
            Heartbeat::TAG => stable::<Heartbeat>(body),
            DataUsage::TAG => stable::<DataUsage>(body),
            PathReport::TAG => stable::<PathReport>(body),
            _ => {}
        }
    }
}

/// Frames: a view's parts are the frame.
pub(crate) fn frame(data: &[u8]) {
    match kind(data) {
        Ok(FrameKind::Hello) => {
            let Ok(hello) = Hello::parse(data) else { return };
            let mut prologue = [0; PROLOGUE_LEN];
            Hello::emit_prologue(hello.selector(), hello.reference(), hello.inbox(), &mut prologue);
            assert_eq!(prologue, hello.prologue());
            let parts = [
                &prologue[..],
                &hello.ephemeral(),
                &hello.sealed_static(),
                hello.sealed_payload(),
                &hello.token(),
                &hello.mac1(),
            ];
            assert_eq!(parts.concat(), data);
        }
        Ok(FrameKind::Welcome) => {
            let Ok(welcome) = Welcome::parse(data) else { return };
            let parts = [&welcome.hello_hash()[..], &welcome.ephemeral(), welcome.sealed_payload()];
            assert_eq!(parts.concat(), &data[2..]);
        }
        Ok(FrameKind::Record) => {
            if let Ok(header) = RecordHeader::parse(data) {
                assert_eq!(header.to_bytes(), data[..RECORD_HEADER_LEN]);
            }
        }
        Ok(FrameKind::Retry) => {
            if let Ok(retry) = Retry::parse(data) {
                assert_eq!(retry.to_bytes(), data);
            }
        }
        Ok(FrameKind::Reset) => {
            if let Ok(reset) = Reset::parse(data) {
                assert_eq!(reset.to_bytes(), data);
            }
        }
        Err(_) => {}
    }
}

/// The join string: as a person gives it, or with a checksum that fits, so that
/// what is behind it is reached as well.
pub(crate) fn join(data: &[u8]) {
    let text = match data.split_first() {
        Some((1, body)) => {
            let mut whole = body.to_vec();
            whole.extend(crc32(body).to_le_bytes());
            let mut text = vec![0; 2 * whole.len() + 16];
            let len = base32::encode(&whole, base32::Case::Upper, &mut text).expect("room");
            let text = String::from_utf8(text[..len].to_vec()).expect("base32 is ASCII");
            format!("WEFT1{text}")
        }
        Some((_, text)) => String::from_utf8_lossy(text).into_owned(),
        None => return,
    };
    assert!(join::shortened(&text).chars().count() <= 16);
    for joins in [Joins::Device, Joins::Relay] {
        let Ok(join) = JoinString::parse_for(joins, &text) else { continue };
        let written = emit(joins, &join);
        let again = JoinString::parse_for(joins, &written).expect("what was written is read");
        assert_eq!(written, emit(joins, &again));
    }
}

fn emit(joins: Joins, join: &JoinString) -> String {
    let mut out = [0; MAX_TEXT];
    let len = join.emit_for(joins, &mut out).expect("what was read is written");
    String::from_utf8(out[..len].to_vec()).expect("a join string is ASCII")
}

/// Texts with one form: what is read is written as it was.
pub(crate) fn topic(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    if let Some(topic) = Topic::parse(text) {
        assert_eq!(topic.text().as_str(), text);
    }
    same::<DeviceId>(text);
    same::<NetworkId>(text);
    same::<OrganisationId>(text);
    same::<CommandId>(text);
    same::<KeyId>(text);
    if let Ok(inbox) = text.parse::<Inbox>() {
        assert_eq!(inbox.to_string(), text, "one inbox has one topic");
    }
    if let Some((expiry, mac)) = login::parse_password(text) {
        assert_eq!(login::password(expiry, &mac).as_str(), text);
    }
    if is_name(text) {
        assert!(text.len() <= 32 && text.is_ascii());
    }
    if let Some(key) = base64::decode(text) {
        assert_eq!(base64::encode(&key).as_str(), text);
    }
    let mut out = vec![0; data.len() + 8];
    if let Ok(len) = base32::decode(data, &mut out) {
        let mut written = vec![0; 2 * len + 16];
        let end = base32::encode(&out[..len], base32::Case::Lower, &mut written).expect("room");
        let mut again = vec![0; len + 8];
        assert_eq!(base32::decode(&written[..end], &mut again), Ok(len));
        assert_eq!(again[..len], out[..len]);
    }
}

/// An id is written in small letters and read in any.
fn same<T: core::str::FromStr + ToString>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        assert!(id.to_string().eq_ignore_ascii_case(text), "{text}");
    }
}

/// STUN: read, answered by the relay (never by something longer than what was
/// asked with, and never an answer), written and read again.
pub(crate) fn stun(data: &[u8]) {
    let mut responder = Responder::new(1);
    let mut answer = [0; MAX_ANSWER];
    let source = ([192, 0, 2, 1], 1_024).into();
    let answered = responder.handle_datagram(source, data, Duration::ZERO, &mut answer);
    if let Ok(len) = answered {
        let answer = Message::parse(&answer[..len]).expect("our own answer is a message");
        let request = Message::parse(data).expect("only messages are answered");
        assert_eq!(answer.transaction(), request.transaction());
        let again = responder.handle_datagram(source, &[], Duration::ZERO, &mut [0; MAX_ANSWER]);
        assert!(again.is_err());
    }
    let Ok(message) = Message::parse(data) else { return };
    let _ = (message.attributes().count(), message.unknown_required(&[]));
    let Some(address) = message.mapped_address() else { return };
    let mut out = [0; 64];
    let mut writer =
        MessageWriter::new(BINDING_SUCCESS, message.transaction(), &mut out).expect("room");
    writer.xor_mapped_address(address).expect("room");
    let len = writer.finish().expect("room");
    let written = Message::parse(&out[..len]).expect("what was written is read");
    assert_eq!(written.mapped_address(), Some(address));
}

/// Probes: what is read is written back as the same bytes.
pub(crate) fn probe(data: &[u8]) {
    let Ok(probe) = Probe::parse(data) else { return };
    let (_, mac) = probe.authenticated();
    let mut out = [0; PROBE_LEN];
    let len = probe::emit(probe.kind(), &probe.head(), probe.body(), &mut out, |_| *mac);
    assert_eq!(&out[..len.expect("what was read fits")], data);
    if let Some((source, delay_ms)) = probe.echo() {
        let body = probe::pong_body(source, delay_ms);
        let len = probe::emit(probe.kind(), &probe.head(), &body, &mut out, |_| *mac);
        let again = Probe::parse(&out[..len.expect("equally long")]).expect("our own").echo();
        assert_eq!(again, Some((source, delay_ms)));
    }
    if let Some(line) = probe.line() {
        let again = Line::new(line.addresses());
        assert!(again.addresses().eq(line.addresses()));
    }
    match probe.kind() {
        ProbeKind::Call => carried::<Call>(probe.body()),
        ProbeKind::CallAck => carried::<CallAck>(probe.body()),
        ProbeKind::Go => carried::<Go>(probe.body()),
        _ => {}
    }
}

/// A signal that is read is written again in no more bytes than it came in, so
/// that padding it is always possible.
fn carried<T: Item>(body: &[u8]) {
    let Some(signal) = signal::take::<T>(body) else { return };
    let mut first = [0; SIGNAL_LEN];
    let len = signal::put(&signal, &mut first).expect("no longer than it was");
    assert!(len <= body.len());
    let again = signal::take::<T>(&first).expect("our own, filled up");
    let mut second = [0; SIGNAL_LEN];
    assert_eq!(signal::put(&again, &mut second), Some(len));
    assert_eq!(first, second);
}

/// Frames of an answered post.
pub(crate) fn http(data: &[u8]) {
    let mut body = Vec::new();
    for frame in Frames::new(data).take(2 * MAX_FRAMES).map_while(Result::ok) {
        body.extend((frame.len() as u16).to_le_bytes());
        body.extend_from_slice(frame);
    }
    assert!(data.starts_with(&body));
}
