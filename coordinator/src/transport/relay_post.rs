//! Posts of relays that joined: one sealed frame each, as `weft_wire::http` lays
//! them down. As with devices nothing is explained before a frame is authentic.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use tokio::time::timeout;
use weft_wire::frame::MAX_FRAME;
use weft_wire::http::CONTENT_TYPE;
use weft_wire::relay_link::PATH;

use super::http::{Permission, Routes};
use super::listen::Counted;
use super::post::response;
use crate::service::relay_link::RelayLink;

/// How long a frame may take to arrive.
const BODY: Duration = Duration::from_secs(10);

/// The one route, declared.
pub fn declare() -> Routes<Arc<RelayLink>> {
    Routes::new().post(PATH, Permission::Device, handle)
}

/// The route, with what it stands on.
pub fn routes(link: Arc<RelayLink>) -> Router {
    declare().into_router().with_state(link)
}

async fn handle(
    State(link): State<Arc<RelayLink>>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    place: Option<Extension<Arc<Counted>>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != CONTENT_TYPE) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let frame = match timeout(BODY, to_bytes(body, MAX_FRAME)).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let address = peer.map(|Extension(ConnectInfo(peer))| peer.ip().to_canonical());
    // Who waits holds a place as a device does that is connected.
    let _known = place.as_deref().map(Counted::known);
    response(&link.handle(address, &frame).await)
}
