//! Relays.

use core::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::api;
use crate::service::relay_registry::RelayRequest;

use super::auth::{Caller, Permission};
use super::error::{Body, Origin, Rejected};
use super::keys::secret;
use super::{Routes, Shared, convert};

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .get("/api/v1/relays", Permission::RelayRead, list)
        .post("/api/v1/relays", Permission::RelayManage, add)
        .get("/api/v1/relays/{relay}", Permission::RelayRead, one)
        .delete("/api/v1/relays/{relay}", Permission::RelayManage, remove)
        .post("/api/v1/relays/{relay}/drain", Permission::RelayManage, drain)
}

async fn list(
    State(operator): State<Shared>,
    origin: Origin,
) -> Result<Json<api::Page<api::Relay>>, Rejected> {
    let relays = operator.relays().await.map_err(|failure| Rejected::at(failure, origin))?;
    let now = operator.now();
    Ok(Json(api::Page::whole(relays.iter().map(|one| convert::relay(one, now)).collect())))
}

async fn one(
    State(operator): State<Shared>,
    Path(wanted): Path<String>,
    origin: Origin,
) -> Result<Json<api::Relay>, Rejected> {
    let found = operator.find_relay(&wanted).await;
    let found = found.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(convert::relay(&found, operator.now())))
}

async fn add(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    origin: Origin,
    Body(new): Body<api::NewRelay>,
) -> Result<Response, Rejected> {
    let request = RelayRequest {
        name: new.name,
        region: new.region,
        expires_after: new.expires_after_s.map(Duration::from_secs),
    };
    let added = operator.add_relay(request, actor).await;
    let added = added.map_err(|failure| Rejected::at(failure, origin))?;
    let live = operator.relays.live(&added.relay);
    let body = api::AddedRelay {
        relay: convert::relay(&(added.relay, live), operator.now()),
        join_string: added.join.to_string(),
    };
    Ok(secret(StatusCode::CREATED, body))
}

async fn drain(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(request): Body<api::DrainRelay>,
) -> Result<Json<api::Relay>, Rejected> {
    let drained = operator.drain_relay(&wanted, request.draining, actor).await;
    let drained = drained.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(convert::relay(&drained, operator.now())))
}

async fn remove(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
) -> Result<Json<api::Relay>, Rejected> {
    let removed = operator.remove_relay(&wanted, actor).await;
    let removed = removed.map_err(|failure| Rejected::at(failure, origin))?;
    let live = operator.relays.live(&removed);
    Ok(Json(convert::relay(&(removed, live), operator.now())))
}
