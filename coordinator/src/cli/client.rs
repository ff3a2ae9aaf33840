//! The way to the running coordinator: its REST API on the Unix socket.

use std::io;
use std::path::Path;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, IF_MATCH};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::Problem;
use crate::failure::{Code, Failure, Label};

/// A coordinator on this machine.
pub(crate) struct Client<'a> {
    socket: &'a Path,
}

/// What is asked, beside the path.
#[derive(Default)]
struct Ask {
    body: Option<Vec<u8>>,
    if_match: Option<u64>,
}

impl<'a> Client<'a> {
    pub(crate) const fn new(socket: &'a Path) -> Self {
        Self { socket }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, Ask::default()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = Some(to_json(body)?);
        self.call(Method::POST, path, Ask { body, if_match: None }).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        version: u64,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = Some(to_json(body)?);
        self.call(Method::PATCH, path, Ask { body, if_match: Some(version) }).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        version: u64,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = Some(to_json(body)?);
        self.call(Method::PUT, path, Ask { body, if_match: Some(version) }).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        version: Option<u64>,
    ) -> Result<T, Failure> {
        self.call(Method::DELETE, path, Ask { body: None, if_match: version }).await
    }

    /// An answer that is text and no document.
    pub(crate) async fn get_text(&self, path: &str) -> Result<String, Failure> {
        let body = self.exchange(Method::GET, path, Ask::default()).await?;
        String::from_utf8(body.into()).map_err(|error| self.lost(&error))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        ask: Ask,
    ) -> Result<T, Failure> {
        let body = self.exchange(method, path, ask).await?;
        serde_json::from_slice(&body).map_err(|error| self.lost(&error))
    }

    /// The body of an answer that says "done".
    async fn exchange(&self, method: Method, path: &str, ask: Ask) -> Result<Bytes, Failure> {
        let stream =
            UnixStream::connect(self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(&error))?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(version) = ask.if_match {
            request = request.header(IF_MATCH, format!("\"{version}\""));
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(ask.body.unwrap_or_default()));
        let request = request.body(body).map_err(|error| self.lost(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        // The connection moves only while it is polled beside the exchange.
        let (status, body) = tokio::select! {
            exchanged = exchange => exchanged.map_err(|error| self.lost(&error))?,
            ended = connection => {
                let error = ended.err().map_or_else(|| "the connection ended".to_owned(), |error| error.to_string());
                return Err(self.lost(&error));
            }
        };
        if status.is_success() { Ok(body) } else { Err(self.problem(status, &body)) }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Failure::new(Code::SocketDenied, format!("{socket} is its owner's alone"))
                .with(Label::Cause, error.to_string())
                .attempt("sudo weft-coordinator …");
        }
        Failure::new(Code::SocketUnreachable, format!("no coordinator answers on {socket}"))
            .with(Label::Cause, error.to_string())
            .attempt("systemctl start weft-coordinator")
            .attempt("weft-coordinator serve")
    }

    fn lost(&self, error: &dyn core::fmt::Display) -> Failure {
        let socket = self.socket.display();
        Failure::new(Code::SocketAnswer, format!("{socket} does not answer as a coordinator does"))
            .with(Label::Cause, error.to_string())
    }

    fn problem(&self, status: StatusCode, body: &[u8]) -> Failure {
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            return self.lost(&format_args!("HTTP status {status}"));
        };
        let Some(code) = Code::from_text(&problem.code) else {
            return self.lost(&format_args!("{}: {}", problem.code, problem.title));
        };
        let mut failure = Failure::new(code, problem.title);
        for (label, text) in problem.labels {
            failure = match label.as_str() {
                "from" => failure.with(Label::From, text),
                "cause" => failure.with(Label::Cause, text),
                "see" => failure.with(Label::See, text),
                "compare" => failure.with(Label::Compare, text),
                _ => failure.attempt(text),
            };
        }
        failure.params =
            problem.params.into_iter().map(|(name, value)| (name.into(), value)).collect();
        failure
    }
}

fn to_json(body: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(|error| Failure::new(Code::InternalFault, error.to_string()))
}

/// A path segment: what somebody typed, with every byte that could mean
/// something else written as `%XX`.
pub(crate) fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            // A segment of dots alone would be taken out of the path.
            b'.' if text.bytes().any(|byte| byte != b'.') => ".".to_owned(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_stay_segments() {
        assert_eq!(segment("gw-a.home"), "gw-a.home");
        assert_eq!(segment("fd00::2"), "fd00%3A%3A2");
        assert_eq!(segment("../x?y#z %"), "..%2Fx%3Fy%23z%20%25");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
