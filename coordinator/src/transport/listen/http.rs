//! HTTP connections of the port, served by hyper with the routes of `app`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt as _;

use super::{Counted, INTRODUCTION, websocket, within_request};

/// The largest head of a request, in bytes.
const HEAD: usize = 16 * 1_024;

/// The HTTP side of the port.
#[derive(Clone)]
pub struct Front {
    routes: Router,
}

impl Front {
    /// Serves these routes. Handlers find the client's address in
    /// [`ConnectInfo`], and its place among the connections.
    pub const fn new(routes: Router) -> Self {
        Self { routes }
    }

    /// Serves one connection until it ends, or speaks WebSocket from then on. A
    /// request's head has [`INTRODUCTION`] to arrive, and so has the next one
    /// after an answer.
    pub(super) async fn serve<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        counted: Counted,
    ) -> Option<OnUpgrade>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (upgrade, counted) = (Mutex::new(None), Arc::new(counted));
        let service = service_fn(|request: Request<Incoming>| {
            let (routes, upgrade) = (self.routes.clone(), &upgrade);
            let counted = Arc::clone(&counted);
            async move {
                if websocket::is_wanted(&request) {
                    let (answer, upgraded) = websocket::answer(request);
                    *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = upgraded;
                    return Ok(answer);
                }
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                request.extensions_mut().insert(counted);
                let answer = match within_request(routes.oneshot(request)).await {
                    Some(Ok(answer)) => answer,
                    Some(Err(never)) => match never {},
                    None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(INTRODUCTION)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "http.ended");
        }
        upgrade.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
