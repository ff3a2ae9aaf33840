//! Posts of relays that joined: one sealed frame each, as `weft_wire::http` lays
//! them down. As with devices nothing is explained before a frame is authentic.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use weft_wire::relay_link::PATH;

use super::http::{Permission, Routes};
use super::listen::Counted;
use super::post::{frame, response};
use crate::service::relay_link::RelayLink;

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
    let frame = match frame(&headers, body).await {
        Ok(frame) => frame,
        Err(status) => return status.into_response(),
    };
    let address = peer.map(|Extension(ConnectInfo(peer))| peer.ip().to_canonical());
    // Who waits holds a place as a device does that is connected.
    let _known = place.as_deref().map(Counted::known);
    response(&link.handle(address, &frame).await)
}
