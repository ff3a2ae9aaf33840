//! What the Linux gateway reads: its files, its socket, its configuration.

use weft_agent_linux::border;
use weft_wire::crc::crc32;
use weft_wire::id::Inbox;

use crate::agent;
use crate::script::Script;

/// A file as it is, or (first byte 1) with a checksum that fits.
fn file(data: &[u8]) -> Vec<u8> {
    match data.split_first() {
        Some((1, body)) => [body, &crc32(body).to_le_bytes()].concat(),
        Some((_, file)) => file.to_vec(),
        None => Vec::new(),
    }
}

pub(crate) fn identity(data: &[u8]) {
    if let Some(written) = border::identity(&file(data)) {
        assert_eq!(border::identity(&written).as_ref(), Some(&written));
    }
}

/// The file, or (first byte 2) its content given to an agent.
pub(crate) fn cache(data: &[u8]) {
    if let Some((2, content)) = data.split_first() {
        return agent::restore(content);
    }
    if let Some(written) = border::cache(&file(data)) {
        assert_eq!(border::cache(&written).as_ref(), Some(&written));
    }
}

pub(crate) fn ways(data: &[u8]) {
    if let Some(written) = border::ways(&file(data)) {
        assert_eq!(border::ways(&written).as_ref(), Some(&written));
    }
}

/// Bytes of a slot in the stamp file, and the distance of the two.
const SLOT: usize = 20;
const DISTANCE: usize = 512;

/// A floor never falls, whatever the file holds, and once raised it holds. The
/// first byte says which of the two slots get a checksum that fits.
pub(crate) fn stamp(data: &[u8]) {
    let mut script = Script::new(data);
    let whole = script.byte();
    let floor = u64::from(script.word()) << (script.byte() % 33);
    let mut file = script.bytes(2 * DISTANCE + 8).to_vec();
    for slot in (0..2).filter(|slot| whole & (1 << slot) != 0) {
        let at = slot * DISTANCE;
        if let Some([body, crc]) = file.get_mut(at..at + SLOT + 4).map(|slot| {
            let (body, crc) = slot.split_at_mut(SLOT);
            [body, crc]
        }) {
            crc.copy_from_slice(&crc32(body).to_le_bytes());
        }
    }
    let (before, after) = border::stamp(&file, floor);
    assert!(after >= before, "{before:?} became {after:?}");
    assert!(after.is_some_and(|after| after >= floor), "{floor} became {after:?}");
}

pub(crate) fn ipc(data: &[u8]) {
    for again in [border::request, border::reply] {
        if let Some(written) = again(data) {
            assert_eq!(again(&written).as_ref(), Some(&written));
        }
    }
}

pub(crate) fn configuration(data: &[u8]) {
    let told = border::configuration(data);
    assert!(told.len() < 64 * 1_024, "what a person is told is short");
}

/// The first byte says in which pieces the rest arrives.
fn pieces(data: &[u8]) -> (usize, &[u8]) {
    match data.split_first() {
        Some((piece, rest)) => (usize::from(*piece) + 1, rest),
        None => (1, data),
    }
}

/// The longest body that is taken here.
const BODY: usize = 5_000;

/// However an answer arrives, it is short, and of its length if it says one.
pub(crate) fn http(data: &[u8]) {
    let (piece, bytes) = pieces(data);
    if let Some((status, body)) = border::http_answer(bytes, piece, BODY) {
        assert!(body.len() <= BODY, "{} of {status}", body.len());
        assert!(body.len() <= bytes.len(), "a body out of nothing");
    }
}

/// The stream in the frames does not depend on the pieces in which they arrive,
/// and a ping is answered with no more than it brought.
pub(crate) fn websocket(data: &[u8]) {
    const MASK_AND_HEAD: usize = 6;
    let (piece, bytes) = pieces(data);
    let said = border::websocket(bytes, piece);
    assert_eq!(said, border::websocket(bytes, usize::MAX));
    if let Some((data, answered, _)) = said {
        assert!(data.len() + answered <= bytes.len() * MASK_AND_HEAD);
    }
}

/// Whatever a router says, it alone is asked, not often, and there is always a
/// moment at which something is due.
pub(crate) fn port_mapping(data: &[u8]) {
    const SECOND: u64 = 1_000_000;
    let mut script = Script::new(data);
    let mut now = SECOND;
    let mut client = border::portmap::Client::new(now);
    assert_eq!(client.drain(), 1);
    while let Some(op) = script.op() {
        match op % 4 {
            0 => {
                now += u64::from(script.short()) * 100_000;
                client.pass(now);
            }
            1 => client.datagram(5_351, script.bytes(64), now),
            2 => client.datagram(script.short(), script.bytes(512), now),
            _ => client.answer(script.bytes(1_024), now),
        }
        assert!(client.drain() <= 1, "one thing at a time");
        assert!(client.due_us().is_some());
        let external = client.external();
        assert!(external.is_none_or(|at| at.port() != 0 && !at.ip().is_unspecified()));
    }
    assert!(client.release() <= 1);
    assert_eq!((client.due_us(), client.external()), (None, None));
}

/// Of the device that reads what a broker says.
pub const INBOX: Inbox = Inbox([7; 16]);
/// The longest packet that a device takes.
const PACKET: usize = 4_352;

/// Whatever a broker says, a device takes in no more than was said, the same in
/// whatever pieces.
pub(crate) fn broker(data: &[u8]) {
    let (piece, bytes) = pieces(data);
    let frames = border::broker(bytes, piece, INBOX);
    assert!(frames.iter().all(|frame| frame.len() <= PACKET));
    assert!(frames.iter().map(Vec::len).sum::<usize>() <= bytes.len());
    assert_eq!(frames, border::broker(bytes, bytes.len(), INBOX));
}
