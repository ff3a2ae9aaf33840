//! The client's half of WebSocket (RFC 6455): the request that asks for it, and
//! the frames. Sans-IO; whoever owns one reads and writes the bytes.

use weft_noise::digest::sha1;

use crate::os::entropy;

/// Where the coordinator speaks MQTT inside WebSocket.
const PATH: &str = "/mqtt";
/// Appended to the key before it is hashed (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL: usize = 125;
/// The longest frame that is believed: no packet of ours comes near.
const LONGEST: u64 = 1 << 20;

/// The request, and the answer's `Sec-WebSocket-Accept`.
pub(super) fn request(authority: &str) -> (String, String) {
    let mut key = [0; 16];
    entropy::fill(&mut key);
    request_with(authority, &key)
}

fn request_with(authority: &str, key: &[u8; 16]) -> (String, String) {
    let key = base64(key);
    let hash = sha1(&[key.as_bytes(), GUID]);
    let text = format!(
        "GET {PATH} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\
         Sec-WebSocket-Key: {key}\r\n\r\n"
    );
    (text, base64(&hash))
}

/// Base64 with padding (RFC 4648 section 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    // Writing into a string has no error.
    let _ = weft_wire::base64::write(bytes, &mut out);
    out
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

/// What the owner has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read one byte and give it to [`Frames::handle_byte`].
    Byte,
    /// Read at most this many bytes, which are the stream's, and tell
    /// [`Frames::handle_taken`].
    Data(usize),
    /// Write this: it answers a ping.
    Answer(Vec<u8>),
    /// The other side ends the connection.
    End,
}

/// A frame that breaks RFC 6455, or says something that is not MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadFrame;

/// Reads the coordinator's frames and makes ours.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: heapless::Vec<u8, 10>,
    /// The frame whose payload is being read, and what is left of it.
    open: Option<(Kind, u64)>,
    control: heapless::Vec<u8, CONTROL>,
    ended: bool,
    answer: Option<Vec<u8>>,
}

impl Frames {
    /// What is to be done; the same until it was done.
    pub(crate) fn next(&mut self) -> Next {
        if let Some(answer) = self.answer.take() {
            return Next::Answer(answer);
        }
        if self.ended {
            return Next::End;
        }
        match self.open {
            Some((Kind::Data, left)) => Next::Data(usize::try_from(left).unwrap_or(usize::MAX)),
            _ => Next::Byte,
        }
    }

    /// So many bytes of the stream were read.
    pub(crate) fn handle_taken(&mut self, len: usize) {
        if let Some((_, left)) = &mut self.open {
            *left = left.saturating_sub(len as u64);
        }
        self.open = self.open.filter(|(_, left)| *left > 0);
    }

    /// The next byte of a frame's head or of a control frame.
    ///
    /// # Errors
    ///
    /// [`BadFrame`]; the connection is of no use any more.
    pub(crate) fn handle_byte(&mut self, byte: u8) -> Result<(), BadFrame> {
        if let Some((kind, left)) = &mut self.open {
            self.control.push(byte).map_err(|_| BadFrame)?;
            *left -= 1;
            if *left == 0 {
                let kind = *kind;
                self.open = None;
                self.end_control(kind);
            }
            return Ok(());
        }
        self.head.push(byte).map_err(|_| BadFrame)?;
        let Some((kind, len)) = self.parse_head()? else {
            return Ok(());
        };
        self.head.clear();
        if len > 0 {
            self.open = Some((kind, len));
        } else if kind != Kind::Data {
            self.end_control(kind);
        }
        Ok(())
    }

    /// Kind and length, once the whole head is there.
    fn parse_head(&self) -> Result<Option<(Kind, u64)>, BadFrame> {
        const FINAL: u8 = 0x80;
        let [first, second, rest @ ..] = &self.head[..] else {
            return Ok(None);
        };
        // Neither extension bits nor a mask: a server has neither (section 5.1).
        if first & 0x70 != 0 || second & 0x80 != 0 {
            return Err(BadFrame);
        }
        let kind = match first & 0x0F {
            0 | 2 => Kind::Data,
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            // Text carries no MQTT.
            _ => return Err(BadFrame),
        };
        let len = match (second & 0x7F, rest) {
            (126, [a, b]) => u64::from(u16::from_be_bytes([*a, *b])),
            (127, rest) if rest.len() == 8 => {
                u64::from_be_bytes(*rest.first_chunk().ok_or(BadFrame)?)
            }
            (126 | 127, _) => return Ok(None),
            (len, _) => u64::from(len),
        };
        let whole = first & FINAL != 0 && len <= CONTROL as u64;
        if len > LONGEST || (kind != Kind::Data && !whole) {
            return Err(BadFrame);
        }
        Ok(Some((kind, len)))
    }

    fn end_control(&mut self, kind: Kind) {
        match kind {
            Kind::Close => self.ended = true,
            // Section 5.5.3: the same bytes back.
            Kind::Ping => self.answer = Some(frame(0x8A, &self.control)),
            Kind::Pong | Kind::Data => {}
        }
        self.control.clear();
    }
}

/// A binary message of these bytes.
pub(crate) fn message(data: &[u8]) -> Vec<u8> {
    frame(0x82, data)
}

/// A masked frame (section 5.3). The mask is no secret from anybody who matters;
/// it keeps old proxies from taking the payload for HTTP.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASKED: u8 = 0x80;
    let mut mask = [0; 4];
    entropy::fill(&mut mask);
    let mut out = Vec::with_capacity(14 + payload.len());
    out.push(first);
    match payload.len() {
        len @ 0..=125 => out.push(MASKED | len as u8),
        len @ 126..=0xFFFF => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

#[cfg(test)]
mod unit {
    use super::*;

    /// Feeds bytes as a stream would; the data and the answers that came of it.
    fn read(frames: &mut Frames, bytes: &[u8]) -> Result<(Vec<u8>, Vec<Vec<u8>>), BadFrame> {
        let (mut data, mut answers, mut rest) = (Vec::new(), Vec::new(), bytes);
        loop {
            match frames.next() {
                Next::Answer(answer) => answers.push(answer),
                Next::End => return Ok((data, answers)),
                _ if rest.is_empty() => return Ok((data, answers)),
                Next::Byte => {
                    frames.handle_byte(rest[0])?;
                    rest = &rest[1..];
                }
                Next::Data(most) => {
                    // In pieces of two, as they come.
                    let len = most.min(rest.len()).min(2);
                    data.extend_from_slice(&rest[..len]);
                    rest = &rest[len..];
                    frames.handle_taken(len);
                }
            }
        }
    }

    fn unmasked(frame: &[u8]) -> Vec<u8> {
        let mask = &frame[2..6];
        frame[6..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    #[test]
    fn the_request_and_its_answer_are_those_of_the_rfc() {
        // RFC 6455 section 1.3.
        let (text, accept) = request_with("mesh.example.net:443", b"the sample nonce");
        assert!(text.contains("\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{text}");
        assert!(text.contains("\r\nHost: mesh.example.net:443\r\n") && text.ends_with("\r\n\r\n"));
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn data_is_one_stream_whatever_its_frames() {
        let mut frames = Frames::default();
        let mut bytes = vec![0x02, 3, b'o', b'n', b'e', 0x00, 0, 0x8A, 0, 0x80, 2, b',', b' '];
        bytes.extend([0x82, 126, 0, 200]);
        bytes.extend([7; 200]);
        let (data, answers) = read(&mut frames, &bytes).unwrap();
        assert_eq!(data, [&b"one, "[..], &[7; 200]].concat());
        assert!(answers.is_empty());
        // A head may come in two parts.
        assert_eq!(read(&mut frames, &[0x82]).unwrap().0, b"");
        assert_eq!(read(&mut frames, &[1, b'x']).unwrap().0, b"x");
    }

    #[test]
    fn pings_are_answered_and_a_close_ends_it() {
        let mut frames = Frames::default();
        let (data, answers) =
            read(&mut frames, &[0x89, 2, b'h', b'i', 0x82, 1, b'x', 0x88, 0, 0x82, 1, b'y'])
                .unwrap();
        assert_eq!(data, b"x");
        assert_eq!((answers[0][0], answers[0][1]), (0x8A, 0x82));
        assert_eq!(unmasked(&answers[0]), b"hi");
        assert_eq!(frames.next(), Next::End);
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        for bytes in [
            &[0x81, 1, b'x'][..],
            &[0x82, 0x81, 0, 0, 0, 0, b'x'],
            &[0xC2, 1, b'x'],
            &[0x83, 0],
            &[0x09, 0],
            &[0x89, 126, 0, 126],
            &[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(read(&mut Frames::default(), bytes), Err(BadFrame), "{bytes:x?}");
        }
    }

    #[test]
    fn our_messages_are_masked_and_of_every_length() {
        for len in [0usize, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![0x55; len];
            let frame = message(&payload);
            let head = match len {
                0..=125 => 2,
                126..=65_535 => 4,
                _ => 10,
            };
            assert_eq!((frame[0], frame[1] & 0x80, frame.len()), (0x82, 0x80, head + 4 + len));
            let mask = frame[head..head + 4].to_vec();
            let back = frame[head + 4..].iter().zip(mask.iter().cycle());
            assert!(back.map(|(byte, mask)| byte ^ mask).eq(payload), "{len}");
        }
    }
}
