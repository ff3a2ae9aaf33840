//! MQTT in WebSocket (RFC 6455, MQTT 5.0 section 6): the upgrade of an HTTP
//! request, and the bytes inside as a stream for the MQTT endpoint, which does
//! not know the difference.
//!
//! Only binary messages carry anything, and their borders mean nothing. Text,
//! unmasked frames, and messages longer than a few MQTT packets end the
//! connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
};
use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Where MQTT clients ask for it.
const PATH: &str = "/mqtt";
/// What is spoken inside (MQTT 5.0 section 6).
const SUBPROTOCOL: &str = "mqtt";
/// The longest message, in bytes: a few of the longest MQTT packets.
const MESSAGE: usize = 16 * 1_024;
/// Read buffer of a connection, in bytes.
const READ_BUFFER: usize = 1_024;
/// What may wait to be written, in bytes: the MQTT side waits for each packet.
const WRITE_BUFFER: usize = 64 * 1_024;
/// Pings and pongs between two binary messages: more is no keepalive.
const CONTROL: u8 = 32;

/// Whether a request is for this module.
pub(super) fn is_wanted(request: &Request<Incoming>) -> bool {
    request.uri().path() == PATH
}

/// Answers the request (RFC 6455 section 4.2). With an upgrade the answer says
/// "switching protocols".
pub(super) fn answer(mut request: Request<Incoming>) -> (Response<Body>, Option<OnUpgrade>) {
    match check(request.method(), request.headers()) {
        Ok(accept) => {
            let upgrade = hyper::upgrade::on(&mut request);
            let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
            let headers = answer.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            let inside = HeaderValue::from_static(SUBPROTOCOL);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, inside);
            (answer, Some(upgrade))
        }
        Err(status) => {
            let mut answer = empty(status);
            if status == StatusCode::UPGRADE_REQUIRED {
                let version = HeaderValue::from_static("13");
                answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
            }
            (answer, None)
        }
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

/// The value of `Sec-WebSocket-Accept`, or why there is none.
fn check(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, StatusCode> {
    let says = |name: HeaderName, wanted: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(wanted)))
    };
    let upgrade = says(header::CONNECTION, "upgrade") && says(header::UPGRADE, "websocket");
    if method != Method::GET || !upgrade || !says(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(StatusCode::UPGRADE_REQUIRED);
    }
    if !says(header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(StatusCode::BAD_REQUEST);
    }
    // Sixteen bytes in base64.
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let key = key.filter(|key| key.len() == 24 && key.ends_with(b"=="));
    let accept = derive_accept_key(key.ok_or(StatusCode::BAD_REQUEST)?);
    HeaderValue::try_from(accept).map_err(|_| StatusCode::BAD_REQUEST)
}

/// The bytes inside.
pub(super) struct Inside {
    messages: WebSocketStream<TokioIo<Upgraded>>,
    /// What was read and not taken yet.
    rest: Bytes,
    control: u8,
}

impl Inside {
    /// Of a connection that was upgraded.
    pub(super) async fn new(upgraded: Upgraded) -> Self {
        let mut config = WebSocketConfig::default();
        config.read_buffer_size = READ_BUFFER;
        config.write_buffer_size = 0;
        config.max_write_buffer_size = WRITE_BUFFER;
        config.max_message_size = Some(MESSAGE);
        config.max_frame_size = Some(MESSAGE);
        let stream = TokioIo::new(upgraded);
        let messages = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Self { messages, rest: Bytes::new(), control: 0 }
    }
}

fn failed(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl AsyncRead for Inside {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.messages).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => {
                    self.control = 0;
                    self.rest = bytes;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) if self.control < CONTROL => {
                    self.control += 1;
                }
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(_)) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let len = self.rest.len().min(out.remaining());
        out.put_slice(&self.rest[..len]);
        self.rest.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Inside {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut messages = Pin::new(&mut self.messages);
        ready!(messages.as_mut().poll_ready(context)).map_err(failed)?;
        let message = Message::Binary(Bytes::copy_from_slice(data));
        messages.start_send(message).map_err(failed)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_flush(context).map_err(failed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_close(context).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(changes: &[(&'static str, Option<&'static str>)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "mqttv3.1, mqtt"),
            // RFC 6455 section 1.3.
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in changes {
            match value {
                Some(value) => headers.insert(*name, HeaderValue::from_static(value)),
                None => headers.remove(*name),
            };
        }
        headers
    }

    #[test]
    fn upgrades_as_the_rfc_wants_them() {
        let accept = check(&Method::GET, &headers(&[])).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (change, status) in [
            (("upgrade", None), 426),
            (("connection", Some("close")), 426),
            (("sec-websocket-version", Some("8")), 426),
            (("sec-websocket-protocol", Some("chat")), 400),
            (("sec-websocket-protocol", None), 400),
            (("sec-websocket-key", Some("short==")), 400),
            (("sec-websocket-key", None), 400),
        ] {
            let refused = check(&Method::GET, &headers(&[change])).unwrap_err();
            assert_eq!(refused.as_u16(), status, "{change:?}");
        }
        assert_eq!(check(&Method::POST, &headers(&[])).unwrap_err().as_u16(), 426);
    }
}
