//! The coordinator's REST API on its Unix socket, as its own command line uses it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, IF_MATCH};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::failure::{During, Failure, Result};

/// A restart is answered when the device has answered.
const LIMIT: Duration = Duration::from_secs(30);

/// An operator with the socket of a coordinator on this machine.
pub(crate) struct Operator {
    socket: PathBuf,
    /// One connection serves one request after the other; the others wait.
    sender: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Operator {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), sender: Mutex::new(None) }
    }

    /// A key for so many devices (`None` = any number) with these tags; its join
    /// string.
    pub(crate) async fn create_key(
        &self,
        name: &str,
        max_uses: Option<usize>,
        tags: &[String],
    ) -> Result<String> {
        let body = json!({"name": name, "max_uses": max_uses, "tags": tags});
        let key = self.call(Method::POST, "/api/v1/enrollment-keys", Some(&body), None).await?;
        text(&key, "join_string")
    }

    /// Ends a key.
    pub(crate) async fn end_key(&self, key: &str) -> Result<()> {
        let path = format!("/api/v1/enrollment-keys/{key}/revoke");
        self.call(Method::POST, &path, Some(&json!({})), None).await.map(drop)
    }

    /// The name of the only network, and the version of its policy.
    pub(crate) async fn policy(&self) -> Result<(String, u64)> {
        let networks = self.call(Method::GET, "/api/v1/networks", None, None).await?;
        let network = text(&networks[0], "name")?;
        let path = format!("/api/v1/networks/{network}/policy");
        let policy = self.call(Method::GET, &path, None, None).await?;
        Ok((network, number(&policy, "revision")?))
    }

    /// Puts a policy in force; its version and how many devices it concerned.
    pub(crate) async fn set_policy(
        &self,
        network: &str,
        version: u64,
        rules: &[Value],
    ) -> Result<(u64, u64)> {
        let path = format!("/api/v1/networks/{network}/policy");
        let body = json!({"rules": rules});
        let set = self.call(Method::PUT, &path, Some(&body), Some(version)).await?;
        Ok((number(&set, "revision")?, number(&set, "devices_affected")?))
    }

    pub(crate) async fn device_version(&self, device: &str) -> Result<u64> {
        let path = format!("/api/v1/devices/{device}");
        number(&self.call(Method::GET, &path, None, None).await?, "revision")
    }

    pub(crate) async fn rename(&self, device: &str, version: u64, name: &str) -> Result<()> {
        let path = format!("/api/v1/devices/{device}");
        let body = json!({"name": name});
        self.call(Method::PATCH, &path, Some(&body), Some(version)).await.map(drop)
    }

    /// Tells a device to restart; returns when it has answered.
    pub(crate) async fn restart(&self, device: &str) -> Result<()> {
        let path = format!("/api/v1/devices/{device}/commands");
        let body = json!({"command": "restart"});
        self.call(Method::POST, &path, Some(&body), None).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        version: Option<u64>,
    ) -> Result<Value> {
        let what = format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(version) = version {
            request = request.header(IF_MATCH, format!("\"{version}\""));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default()));
        let request = request.body(body).map_err(|error| lost(&what, &error))?;
        let exchange = async {
            let mut sender = self.sender.lock().await;
            let usable = match &mut *sender {
                Some(sender) => sender.ready().await.is_ok(),
                None => false,
            };
            if !usable {
                *sender = Some(self.connect().await?);
            }
            let Some(open) = sender.as_mut() else {
                return Err(lost(&what, &"no connection"));
            };
            let response = open.send_request(request).await.map_err(|e| lost(&what, &e))?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|e| lost(&what, &e))?;
            Ok((status, body.to_bytes()))
        };
        let exchanged = timeout(LIMIT, exchange).await;
        let (status, body) = exchanged.map_err(|_| lost(&what, &"no answer in 30 s"))??;
        let answer: Value = serde_json::from_slice(&body).map_err(|error| lost(&what, &error))?;
        if status.is_success() {
            return Ok(answer);
        }
        let title = answer["title"].as_str().unwrap_or("no reason given");
        Err(Failure::new("fleet.refused", format!("{what}: {status}: {title}")))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.during(&format!("connect to {}", self.socket.display()))?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| lost("the socket", &error))?;
        // Its end is seen by the next request.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

fn lost(what: &str, error: &dyn core::fmt::Display) -> Failure {
    Failure::new("fleet.api", format!("{what} got no answer")).line("cause", error.to_string())
}

fn text(answer: &Value, field: &str) -> Result<String> {
    let text = answer[field].as_str().map(str::to_owned);
    text.ok_or_else(|| Failure::new("fleet.api", format!("the answer has no {field}")))
}

fn number(answer: &Value, field: &str) -> Result<u64> {
    let number = answer[field].as_u64();
    number.ok_or_else(|| Failure::new("fleet.api", format!("the answer has no {field}")))
}
