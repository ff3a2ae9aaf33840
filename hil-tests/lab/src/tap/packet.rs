//! As much of MQTT as a tap must read: where packets end, who connects, and what
//! a PUBLISH carries.

use std::io::{self, Read as _};
use std::net::TcpStream;

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;

/// A whole packet.
#[derive(Debug)]
pub(super) struct Packet {
    /// All of it.
    pub(super) bytes: Vec<u8>,
    /// Where its fixed header ends.
    body: usize,
}

/// What a CONNECT says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Connect {
    /// 4 or 5.
    pub(super) level: u8,
    pub(super) client: String,
}

impl Packet {
    fn body(&self) -> &[u8] {
        &self.bytes[self.body..]
    }

    fn kind(&self) -> u8 {
        self.bytes[0] & 0xF0
    }

    /// Who connects, if it is that.
    pub(super) fn connect(&self) -> Option<Connect> {
        if self.kind() != CONNECT {
            return None;
        }
        let (_, rest) = text(self.body())?;
        let (&level, rest) = rest.split_first()?;
        // Flags and keep alive.
        let rest = rest.get(3..)?;
        let rest = if level == 5 { properties(rest)? } else { rest };
        let (client, _) = text(rest)?;
        Some(Connect { level, client: std::str::from_utf8(client).ok()?.to_owned() })
    }

    /// Topic and payload, if it is a PUBLISH of this protocol level.
    pub(super) fn publish(&self, level: u8) -> Option<(&str, &[u8])> {
        if self.kind() != PUBLISH {
            return None;
        }
        let (topic, rest) = text(self.body())?;
        let rest = if self.bytes[0] & 0x06 == 0 { rest } else { rest.get(2..)? };
        let rest = if level == 5 { properties(rest)? } else { rest };
        Some((std::str::from_utf8(topic).ok()?, rest))
    }
}

/// A text with its length before it, and what follows.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// What follows the properties of MQTT 5.
fn properties(bytes: &[u8]) -> Option<&[u8]> {
    let (len, used) = varint(bytes)?;
    bytes.get(used + len..)
}

/// A length of at most four bytes, and how many it took.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

/// A PUBLISH of QoS 0 for a client of this protocol level.
pub(super) fn publish(level: u8, topic: &str, payload: &[u8]) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    let mut remaining = 2 + topic.len() + properties.len() + payload.len();
    let mut packet = vec![PUBLISH];
    loop {
        let low = (remaining & 0x7F) as u8;
        remaining >>= 7;
        packet.push(if remaining == 0 { low } else { low | 0x80 });
        if remaining == 0 {
            break;
        }
    }
    packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    packet.extend_from_slice(topic.as_bytes());
    packet.extend_from_slice(properties);
    packet.extend_from_slice(payload);
    packet
}

/// Packets out of a stream whose reads have a time limit.
pub(super) struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What a look at the stream gave.
pub(super) enum Next {
    Packet(Packet),
    /// Nothing whole came within the stream's time limit.
    Quiet,
    End,
}

impl Reader {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(super) fn next(&mut self) -> io::Result<Next> {
        loop {
            if let Some(packet) = self.take() {
                return Ok(Next::Packet(packet));
            }
            let mut chunk = [0; 16 * 1_024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(Next::End),
                Ok(len) => self.buffer.extend_from_slice(&chunk[..len]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(Next::Quiet),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    fn take(&mut self) -> Option<Packet> {
        let (remaining, used) = varint(self.buffer.get(1..)?)?;
        let (body, whole) = (1 + used, 1 + used + remaining);
        if self.buffer.len() < whole {
            return None;
        }
        let rest = self.buffer.split_off(whole);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        Some(Packet { bytes, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: &[u8]) -> Packet {
        let (_, used) = varint(&bytes[1..]).unwrap();
        Packet { bytes: bytes.to_vec(), body: 1 + used }
    }

    #[test]
    fn what_is_published_is_read_back() {
        for level in [4, 5] {
            for len in [1, 200, 3_840] {
                let payload = vec![7; len];
                let bytes = publish(level, "weft/v1/d/x", &payload);
                let packet = packet(&bytes);
                assert_eq!(packet.publish(level), Some(("weft/v1/d/x", &payload[..])));
                assert_eq!(packet.connect(), None);
            }
        }
    }

    #[test]
    fn clients_are_known_by_their_id() {
        let v4 = b"\x10\x11\0\x04MQTT\x04\x02\0\x3C\0\x05clien";
        let v5 = b"\x10\x12\0\x04MQTT\x05\x02\0\x3C\0\0\x05clien";
        for (bytes, level) in [(&v4[..], 4), (&v5[..], 5)] {
            let expected = Connect { level, client: "clien".to_owned() };
            assert_eq!(packet(bytes).connect(), Some(expected));
        }
    }
}
