//! One HTTP answer (RFC 9112), whole: what a router's UPnP speaks.

/// The longest answer that is read, in bytes: descriptions of routers are long.
pub(crate) const LONGEST: usize = 64 * 1_024;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// How far an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More has to come.
    Partial,
    Whole(Response),
    /// This is no HTTP, or too much of it.
    Wrong,
}

/// Reads what has come so far; `ended`: nothing more will.
pub(crate) fn read(bytes: &[u8], ended: bool) -> Progress {
    let more = if ended || bytes.len() >= LONGEST { Progress::Wrong } else { Progress::Partial };
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return more;
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let body = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .filter(|line| line.starts_with("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let Some(status) = status else { return Progress::Wrong };
    let header = |name: &str| {
        let mut lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let chunked = header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    let len = header("content-length").map(str::parse::<usize>);
    let body = match (chunked, len) {
        (true, _) => unchunk(body),
        (false, Some(Ok(len))) => body.get(..len).map(<[u8]>::to_vec),
        (false, Some(Err(_))) => return Progress::Wrong,
        // It ends with the connection.
        (false, None) => ended.then(|| body.to_vec()),
    };
    body.map_or(more, |body| {
        let body = String::from_utf8_lossy(&body).into_owned();
        Progress::Whole(Response { status, body })
    })
}

/// The chunks' contents, once the last one is there.
fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[..end]).ok()?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let len = usize::from_str_radix(digits, 16).ok().filter(|&len| len <= LONGEST)?;
        bytes = bytes.get(end + 2..)?;
        if len == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..len)?);
        bytes = bytes.get(len + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_or_its_end_says_so() {
        let whole =
            |status, body: &str| Progress::Whole(Response { status, body: body.to_owned() });
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n";
        for (text, ended, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", false, whole(200, "abc")),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", false, Progress::Partial),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", true, Progress::Wrong),
            ("HTTP/1.0 500 No\r\n\r\nabc", true, whole(500, "abc")),
            ("HTTP/1.0 500 No\r\n\r\nabc", false, Progress::Partial),
            (chunks, false, whole(200, "abcde")),
            (&chunks[..chunks.len() - 7], false, Progress::Partial),
            ("SSH-2.0-x\r\n\r\n", false, Progress::Wrong),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", true, Progress::Wrong),
            ("HTTP/1.1 200", false, Progress::Partial),
            ("", true, Progress::Wrong),
        ] {
            assert_eq!(read(text.as_bytes(), ended), expected, "{text:?}");
        }
        assert_eq!(read(&vec![b'x'; LONGEST], false), Progress::Wrong);
    }
}
