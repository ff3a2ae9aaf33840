//! Where bytes that others wrote become values: each decoder of this program as
//! one function, for the fuzzer.
//!
//! What decodes comes back as this program would write it, so that a caller can
//! check that writing and reading agree.

pub mod portmap;

use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use embedded_io_async::{ErrorType, Read, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_wire::id::Inbox;
use weft_wire::topic::Topic;

use crate::config::Config;
use crate::control::line::{Login, Password, Shared};
use crate::control::websocket::{Frames, Next};
use crate::control::{http, mqtt};
use crate::ipc::protocol::{Envelope, Reply};
use crate::output;
use crate::store::{Disk, cache, identity, stamp, ways};

/// The file `identity`.
#[must_use]
pub fn identity(file: &[u8]) -> Option<Vec<u8>> {
    let mut disk = Memory::holding(identity::KIND.name, file);
    let (identity, home) = identity::parse(&disk).ok()?;
    // What the rest of the program asks of it.
    let _asked = (home.ways().len(), home.host().len(), home.account());
    identity::write(&mut disk, &identity, &home).ok()?;
    disk.take(identity::KIND.name)
}

/// The file `cache`, without what is in it.
#[must_use]
pub fn cache(file: &[u8]) -> Option<Vec<u8>> {
    let mut disk = Memory::holding(cache::KIND.name, file);
    let items = cache::read(&disk).ok()??;
    cache::write(&mut disk, &items).ok()?;
    disk.take(cache::KIND.name)
}

/// The file `ways`.
#[must_use]
pub fn ways(file: &[u8]) -> Option<Vec<u8>> {
    let mut disk = Memory::holding(ways::KIND.name, file);
    let stood = ways::read(&disk).ok()?;
    ways::write(&mut disk, &stood).ok()?;
    disk.take(ways::KIND.name)
}

/// The file `stamp`: the floor that it holds before and after it was raised to
/// `floor`, and the starts that were written with it.
#[must_use]
pub fn stamp(file: &[u8], floor: u64) -> (Option<u64>, Option<u64>) {
    let mut disk = Memory::holding(stamp::NAME, file);
    let before = stamp::read(&disk).ok().and_then(|stamp| stamp.floor);
    let written = stamp::write(&mut disk, floor, 1);
    let after = written.and_then(|()| stamp::read(&disk)).ok().and_then(|stamp| stamp.floor);
    (before, after)
}

/// A command's line to the daemon.
#[must_use]
pub fn request(line: &[u8]) -> Option<Vec<u8>> {
    again::<Envelope>(line)
}

/// The daemon's line to a command.
#[must_use]
pub fn reply(line: &[u8]) -> Option<Vec<u8>> {
    again::<Reply>(line)
}

/// `weft.toml`: what a person is told about it, nothing if it is good.
#[must_use]
pub fn configuration(file: &[u8]) -> String {
    match Config::parse(Path::new("/etc/weft/weft.toml"), file) {
        Ok(_) => String::new(),
        Err(failures) => {
            failures.iter().map(|failure| output::describe(failure, None).to_string()).collect()
        }
    }
}

/// An HTTP answer, in pieces of so many bytes: its status and its body of at most
/// `most` bytes.
#[must_use]
pub fn http_answer(bytes: &[u8], piece: usize, most: usize) -> Option<(u16, Vec<u8>)> {
    let mut stream = Bytes::new(bytes, piece);
    let answer = at_once(async {
        let mut buffer = Vec::new();
        let head = http::read_head(&mut stream, &mut buffer).await.ok()?;
        // What the rest of the program asks of it.
        let _asked = (head.keeps_open(), head.not_weft("HTTPS"));
        let body = http::read_body(&mut stream, &mut buffer, &head, most).await.ok()?;
        Some((head.status, body))
    });
    answer.flatten()
}

/// Frames of a WebSocket server: the stream in them, the answers to pings without
/// their masks, and whether it ended as the other side wished. `None`: a frame is
/// broken.
#[must_use]
pub fn websocket(bytes: &[u8], piece: usize) -> Option<(Vec<u8>, usize, bool)> {
    let (mut frames, mut rest) = (Frames::default(), bytes);
    let (mut data, mut answered) = (Vec::new(), 0);
    loop {
        match frames.next() {
            Next::End => return Some((data, answered, true)),
            Next::Answer(answer) => answered += answer.len(),
            Next::Byte => {
                let Some((byte, after)) = rest.split_first() else { break };
                rest = after;
                frames.handle_byte(*byte).ok()?;
            }
            Next::Data(most) => {
                let len = most.min(piece.max(1)).min(rest.len());
                if len == 0 {
                    break;
                }
                let (taken, after) = rest.split_at(len);
                data.extend_from_slice(taken);
                rest = after;
                frames.handle_taken(len);
            }
        }
    }
    Some((data, answered, false))
}

/// What a broker says, in pieces of so many bytes, to a device at `inbox`: the
/// frames that the device takes in.
#[must_use]
pub fn broker(bytes: &[u8], piece: usize, inbox: Inbox) -> Vec<Vec<u8>> {
    let shared = Shared::default();
    let login = Login {
        client: inbox.to_string().as_str().try_into().unwrap_or_default(),
        user: inbox.to_string(),
        password: Password::new("secret"),
        inbox: Topic::Down(inbox).text(),
    };
    let mut frames = Vec::new();
    let mut session = pin!(mqtt::serve(&shared, Bytes::new(bytes, piece), &login, 300));
    loop {
        let ended = session.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        let before = frames.len();
        frames.extend(shared.inbound.borrow_mut().drain(..));
        // It waits for room only, and got some; or for what never comes.
        if ended || frames.len() == before {
            return frames;
        }
    }
}

/// What a future is that has all it needs; `None`: it waits.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// A stream of bytes that are all there, read in pieces; what is written is gone.
pub(crate) struct Bytes<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8], piece: usize) -> Self {
        Self { rest: bytes, piece: piece.max(1) }
    }
}

impl ErrorType for Bytes<'_> {
    type Error = io::Error;
}

impl Read for Bytes<'_> {
    async fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = self.piece.min(out.len());
        let out = out.get_mut(..most).unwrap_or_default();
        io::Read::read(&mut self.rest, out)
    }
}

impl Write for Bytes<'_> {
    async fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn again<T: Serialize + DeserializeOwned>(line: &[u8]) -> Option<Vec<u8>> {
    serde_json::to_vec(&serde_json::from_slice::<T>(line).ok()?).ok()
}

/// A folder without a file system: every write is durable.
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn holding(name: &str, file: &[u8]) -> Self {
        Self(BTreeMap::from([(name.to_owned(), file.to_vec())]))
    }

    fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.remove(name)
    }

    fn file(&mut self, name: &str) -> io::Result<&mut Vec<u8>> {
        self.0.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Memory {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        self.0.insert(name.to_owned(), data.to_vec());
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let file = self.file(name)?;
        let place = file.get_mut(start..start + data.len());
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name).map(|_| ())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let data = self.take(from).ok_or(io::ErrorKind::NotFound)?;
        self.write(to, &data)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.remove(name);
        Ok(())
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_device_takes_in_what_its_broker_sends() {
        let inbox = Inbox([7; 16]);
        let topic = Topic::Down(inbox).text();
        let publish = |topic: &str, payload: &[u8]| {
            let len = 3 + topic.len() + payload.len();
            let head = [0x30, len as u8, 0, topic.len() as u8];
            [&head, topic.as_bytes(), &[0], payload].concat()
        };
        let session = [
            b"\x20\x03\x00\x00\x00".to_vec(),
            b"\x90\x04\x00\x01\x00\x00".to_vec(),
            publish(&topic, b"one"),
            publish("elsewhere", b"two"),
            publish(&topic, b"three"),
        ];
        for piece in [1, 7, 4_096] {
            let frames = broker(&session.concat(), piece, inbox);
            assert_eq!(frames, [b"one".as_slice(), b"", b"three"], "{piece}");
        }
        // More than it has room for at once.
        let many = publish(&topic, b"x").repeat(100);
        let session = [&session[0][..], &session[1], &many].concat();
        assert_eq!(broker(&session, 50, inbox).len(), 100);
        assert!(broker(b"\x20\x03\x00\x87\x00", 9, inbox).is_empty());
    }
}
