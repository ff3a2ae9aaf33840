//! Enrolment keys.

use core::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api;
use crate::failure::Failure;
use crate::service::keys::KeyRequest;

use super::auth::{Caller, Permission};
use super::error::{Body, Origin, Rejected};
use super::{Routes, Shared, convert};

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .get("/api/v1/enrollment-keys", Permission::KeyRead, list)
        .post("/api/v1/enrollment-keys", Permission::KeyManage, create)
        .get("/api/v1/enrollment-keys/{key}", Permission::KeyRead, one)
        .post("/api/v1/enrollment-keys/{key}/revoke", Permission::KeyManage, revoke)
}

async fn list(
    State(operator): State<Shared>,
    origin: Origin,
) -> Result<Json<api::Page<api::EnrolmentKey>>, Rejected> {
    let keys = operator.keys().await.map_err(|failure| Rejected::at(failure, origin))?;
    let now = operator.now();
    Ok(Json(api::Page::whole(keys.iter().map(|key| convert::key(key, now)).collect())))
}

async fn one(
    State(operator): State<Shared>,
    Path(wanted): Path<String>,
    origin: Origin,
) -> Result<Json<api::EnrolmentKey>, Rejected> {
    let key = operator.find_key(&wanted).await.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(convert::key(&key, operator.now())))
}

async fn create(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    origin: Origin,
    Body(new): Body<api::NewKey>,
) -> Result<Response, Rejected> {
    let request = KeyRequest {
        name: new.name,
        network: new.network,
        max_uses: new.max_uses,
        expires_after: new.expires_after_s.map(Duration::from_secs),
        tags: new.tags,
        needs_approval: new.needs_approval,
    };
    let created = operator.create_key(request, actor).await;
    let created = created.map_err(|failure| Rejected::at(failure, origin))?;
    let body = api::CreatedKey {
        key: convert::key(&created.key, operator.now()),
        join_string: created.join.to_string(),
    };
    Ok(secret(StatusCode::CREATED, body))
}

/// An answer that nobody may keep.
pub(super) fn secret<T: serde::Serialize>(status: StatusCode, body: T) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn revoke(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(request): Body<api::RevokeKey>,
) -> Result<Json<api::RevokedKey>, Rejected> {
    let done = async {
        let key = operator.find_key(&wanted).await?;
        let (key, devices) = if request.dry_run {
            (key.clone(), operator.devices_of_key(key.id).await?)
        } else {
            let revoked = operator.revoke_key(&wanted, request.and_devices, actor).await?;
            (revoked.key, revoked.devices)
        };
        let key = convert::key(&key, operator.now());
        Ok::<_, Failure>(Json(api::RevokedKey { key, devices: devices.len() }))
    };
    done.await.map_err(|failure| Rejected::at(failure, origin))
}
