//! As much of HTTP/1.1 as two carriers need (RFC 9112): the head of an answer,
//! and its body by length, by chunks, or to the end.

use std::io;

use embedded_io_async::Read;

use crate::control::failure::{self, Reason};

/// The longest head that is read, in bytes.
const HEAD: usize = 8 * 1_024;
/// What is read at once, in bytes.
const PIECE: usize = 1_024;

/// What answers are read from.
pub(crate) trait Source: Read<Error = io::Error> {}

impl<R: Read<Error = io::Error>> Source for R {}

/// The head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// `200`.
    pub(crate) status: u16,
    text: String,
}

impl Head {
    fn parse(text: &str) -> Option<Self> {
        let status = text.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
        let status = status.split("\r\n").next()?.parse().ok()?;
        Some(Self { status, text: text.to_owned() })
    }

    /// A header's value, its name in any case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.text.split("\r\n").skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Whether another request may follow over the same connection.
    pub(crate) fn keeps_open(&self) -> bool {
        self.text.starts_with("HTTP/1.1")
            && !self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// What answers here, in the words of a person.
    pub(crate) fn not_weft(&self, wanted: &'static str) -> Reason {
        let page = self.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
        let what = match (self.status, self.header("location")) {
            (300..=399, Some(to)) => {
                let to: String = to.chars().filter(|c| !c.is_control()).take(80).collect();
                return Reason::Portal(format!("a redirection to {to}"));
            }
            (511, _) => return Reason::Portal("\"network authentication required\"".to_owned()),
            (200, _) if page => return Reason::Portal("a web page".to_owned()),
            (407, _) => "a proxy that wants a password".to_owned(),
            (status, _) => format!("HTTP {status}"),
        };
        Reason::Foreign { what, wanted }
    }
}

/// Reads the head of an answer; what came after it stays in `buffer`.
pub(crate) async fn read_head<S: Source>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Result<Head, Reason> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = buffer.drain(..end + 4).collect::<Vec<_>>();
            let text = String::from_utf8_lossy(head.get(..end).unwrap_or_default()).into_owned();
            let foreign = || Reason::Foreign { what: "something else".to_owned(), wanted: "HTTP" };
            return Head::parse(&text).ok_or_else(foreign);
        }
        let starts_like_http = buffer.iter().zip(b"HTTP/1.").all(|(byte, wanted)| byte == wanted);
        if !starts_like_http || buffer.len() > HEAD {
            return Err(Reason::Foreign { what: "something else".to_owned(), wanted: "HTTP" });
        }
        if !read_more(stream, buffer).await? {
            return Err(Reason::Lost("closed by the other side".to_owned()));
        }
    }
}

/// Reads what there is; `false` at the end of the stream.
async fn read_more<S: Source>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<bool, Reason> {
    let mut piece = [0; PIECE];
    let len = stream.read(&mut piece).await;
    let len = len.map_err(|error| Reason::Lost(failure::words(&error)))?;
    buffer.extend_from_slice(piece.get(..len).unwrap_or_default());
    Ok(len > 0)
}

/// Reads a body of at most `most` bytes; what came after it stays in `buffer`.
pub(crate) async fn read_body<S: Source>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    head: &Head,
    most: usize,
) -> Result<Vec<u8>, Reason> {
    let chunked = head
        .header("transfer-encoding")
        .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    let mut body = Vec::new();
    if chunked {
        loop {
            let line = read_line(stream, buffer).await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| broken())?;
            if size == 0 {
                // Trailers end with an empty line.
                while !read_line(stream, buffer).await?.is_empty() {}
                return Ok(body);
            }
            if size > most - body.len() {
                return Err(too_long());
            }
            body.extend(take(stream, buffer, size).await?);
            if !read_line(stream, buffer).await?.is_empty() {
                return Err(broken());
            }
        }
    }
    if let Some(len) = head.header("content-length") {
        let len = len.parse().map_err(|_| broken())?;
        return if len > most { Err(too_long()) } else { take(stream, buffer, len).await };
    }
    while read_more(stream, buffer).await? {
        if buffer.len() > most {
            return Err(too_long());
        }
    }
    body.append(buffer);
    Ok(body)
}

async fn take<S: Source>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    len: usize,
) -> Result<Vec<u8>, Reason> {
    while buffer.len() < len {
        if !read_more(stream, buffer).await? {
            return Err(Reason::Lost("closed in the middle of an answer".to_owned()));
        }
    }
    Ok(buffer.drain(..len).collect())
}

async fn read_line<S: Source>(stream: &mut S, buffer: &mut Vec<u8>) -> Result<String, Reason> {
    loop {
        if let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") {
            let line = buffer.drain(..end + 2).collect::<Vec<_>>();
            return Ok(String::from_utf8_lossy(line.get(..end).unwrap_or_default()).into_owned());
        }
        if buffer.len() > PIECE {
            return Err(broken());
        }
        if !read_more(stream, buffer).await? {
            return Err(Reason::Lost("closed in the middle of an answer".to_owned()));
        }
    }
}

fn broken() -> Reason {
    Reason::Lost("an HTTP answer is broken".to_owned())
}

fn too_long() -> Reason {
    Reason::Lost("an HTTP answer is too long".to_owned())
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::border::{Bytes, at_once};

    fn head(text: &str) -> Head {
        Head::parse(text).unwrap()
    }

    #[test]
    fn heads_are_read() {
        let head = head("HTTP/1.1 200 OK\r\nContent-TYPE:  text/plain \r\nx: y");
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/plain")));
        assert!(head.keeps_open());
        assert!(!self::head("HTTP/1.0 200 OK").keeps_open());
        assert!(!self::head("HTTP/1.1 200 OK\r\nConnection: Close").keeps_open());
        assert_eq!(Head::parse("HTTP/2 200"), None);
        assert_eq!(Head::parse("HTTP/1.1 abc"), None);
    }

    fn body(bytes: &[u8], most: usize) -> Result<Vec<u8>, Reason> {
        let mut stream = Bytes::new(bytes, 7);
        let answer = at_once(async {
            let mut buffer = Vec::new();
            let head = read_head(&mut stream, &mut buffer).await?;
            read_body(&mut stream, &mut buffer, &head, most).await
        });
        answer.expect("bytes are there or at their end")
    }

    #[test]
    fn bodies_are_read_and_bounded() {
        let chunked = |chunks: &str| {
            let text = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
            body(text.as_bytes(), 8)
        };
        assert_eq!(chunked("3\r\nabc\r\n5;x\r\ndefgh\r\n0\r\n\r\n").unwrap(), b"abcdefgh");
        assert_eq!(chunked("3\r\nabc\r\n6\r\ndefghi\r\n0\r\n\r\n"), Err(too_long()));
        // The sum of two sizes must not go round.
        assert_eq!(chunked("3\r\nabc\r\nffffffffffffffff\r\nd"), Err(too_long()));
        assert_eq!(chunked("3\r\nabcd\r\n"), Err(broken()));
        let sized = |len: &str| {
            body(format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\nabcdefghi").as_bytes(), 8)
        };
        assert_eq!(sized("8").unwrap(), b"abcdefgh");
        assert_eq!(sized("9"), Err(too_long()));
        assert_eq!(sized("18446744073709551616"), Err(broken()));
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nabc", 8).unwrap(), b"abc");
        assert_eq!(body(b"HTTP/1.0 200 OK\r\n\r\nabcdefghi", 8), Err(too_long()));
    }

    #[test]
    fn what_answers_is_said_in_words() {
        let portal = |text: &str| matches!(head(text).not_weft("HTTPS"), Reason::Portal(_));
        assert!(portal("HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8"));
        assert!(portal("HTTP/1.1 302 Found\r\nlocation: http://login.example/"));
        assert!(portal("HTTP/1.1 511 Network Authentication Required"));
        assert_eq!(
            head("HTTP/1.1 404 Not Found\r\ncontent-type: text/html").not_weft("HTTPS"),
            Reason::Foreign { what: "HTTP 404".to_owned(), wanted: "HTTPS" }
        );
    }
}
