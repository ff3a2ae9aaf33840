//! MQTT 5 as somebody hostile writes it: bytes, and no client that would refuse
//! to send them.

use std::io::{self, Read};
use std::net::TcpStream;

use weft_wire::frame::{HELLO_OVERHEAD, Hello, PROLOGUE_LEN, PskKind, PskSelector};
use weft_wire::id::Inbox;
use weft_wire::join::JoinString;
use weft_wire::login;
use weft_wire::topic::{Topic, enrolment_user};

pub(super) const CONNECT: u8 = 0x10;
pub(super) const CONNACK: u8 = 0x20;
pub(super) const PUBLISH: u8 = 0x30;
pub(super) const SUBSCRIBE: u8 = 0x82;
/// Plain text of a HELLO's payload, in bytes: an ordinary one's.
const PAYLOAD: usize = 48;

/// What a client says that it is.
#[derive(Clone)]
pub(super) struct Who {
    pub(super) inbox: Inbox,
    user: String,
    password: String,
}

impl Who {
    /// Somebody who enrols with a valid key.
    pub(super) fn enrolling(join: &JoinString, inbox: Inbox) -> Self {
        Self {
            inbox,
            user: enrolment_user(join.key).as_str().to_owned(),
            password: login::password(join.token.expiry, &join.token.mac).as_str().to_owned(),
        }
    }

    /// A device, with a password that is another's.
    pub(super) fn forged(join: &JoinString, inbox: Inbox) -> Self {
        Self { user: inbox.to_string(), ..Self::enrolling(join, inbox) }
    }
}

/// A packet: its first byte and what follows the length.
pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let more = if left > 0x7F { 0x80 } else { 0 };
        bytes.push((left & 0x7F) as u8 | more);
        left >>= 7;
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn connect(who: &Who) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    // Version 5, user name and password, 300 s, no properties.
    body.extend_from_slice(&[5, 0xC0, 1, 44, 0]);
    text(&mut body, &who.inbox.to_string());
    text(&mut body, &who.user);
    text(&mut body, &who.password);
    packet(CONNECT, &body)
}

pub(super) fn subscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1, 0];
    text(&mut body, filter);
    body.push(0);
    packet(SUBSCRIBE, &body)
}

pub(super) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    body.push(0);
    body.extend_from_slice(payload);
    packet(PUBLISH, &body)
}

/// One that names its topic by an alias alone.
pub(super) fn publish_alias() -> Vec<u8> {
    packet(PUBLISH, &[0, 0, 3, 35, 0, 1, b'x'])
}

/// A HELLO that is right in everything but its MAC.
pub(super) fn hello(join: &JoinString, inbox: Inbox, noise: &mut Noise) -> Vec<u8> {
    let mut frame = noise.bytes(HELLO_OVERHEAD + PAYLOAD);
    let mut prologue = [0; PROLOGUE_LEN];
    let selector = PskSelector { kind: PskKind::Enrolment, master: 0 };
    Hello::emit_prologue(selector, join.key.to_bytes(), inbox, &mut prologue);
    frame[..PROLOGUE_LEN].copy_from_slice(&prologue);
    frame
}

pub(super) fn hello_topic(inbox: Inbox) -> String {
    Topic::Hello(inbox).text().as_str().to_owned()
}

pub(super) fn down_topic(inbox: Inbox) -> String {
    Topic::Down(inbox).text().as_str().to_owned()
}

/// The next packet that a server wrote, without its length.
pub(super) fn read(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let first = byte[0];
    let mut len = 0_usize;
    for shift in [0, 7, 14, 21] {
        stream.read_exact(&mut byte)?;
        len |= usize::from(byte[0] & 0x7F) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok((first, body))
}

/// Bytes that look random, from a seed that a failure can be repeated with.
pub(super) struct Noise(u64);

impl Noise {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    pub(super) const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.number() as u8).collect()
    }

    pub(super) fn inbox(&mut self) -> Inbox {
        let [high, low] = [self.number(), self.number()].map(u64::to_be_bytes);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high);
        bytes[8..].copy_from_slice(&low);
        Inbox(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_of_as_many_bytes_as_they_need() {
        assert_eq!(packet(0xC0, &[]), [0xC0, 0]);
        assert_eq!(packet(0x30, &[7; 127])[..2], [0x30, 127]);
        assert_eq!(packet(0x30, &[7; 128])[..3], [0x30, 0x80, 1]);
        assert_eq!(publish("a/b", b"x"), [0x30, 7, 0, 3, b'a', b'/', b'b', 0, b'x']);
    }
}
