//! Deleted devices.

use axum::Json;
use axum::extract::{Path, State};
use weft_noise::mac;

use crate::api;
use crate::domain::device::Tombstone;

use super::auth::{Caller, Permission};
use super::error::{Body, Origin, Rejected};
use super::{Routes, Shared};

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes.get("/api/v1/tombstones", Permission::DeviceRead, list).post(
        "/api/v1/tombstones/{device}/forget",
        Permission::DeviceManage,
        forget,
    )
}

fn convert((stone, network): &(Tombstone, String)) -> api::Tombstone {
    api::Tombstone {
        id: stone.device.to_string(),
        name: stone.name.clone(),
        network: api::Named { id: stone.network.to_string(), name: network.clone() },
        fingerprint: stone.identity.map(|identity| mac::fingerprint(&identity).to_string()),
        deleted_at: stone.at.to_string(),
    }
}

async fn list(
    State(operator): State<Shared>,
    origin: Origin,
) -> Result<Json<api::Page<api::Tombstone>>, Rejected> {
    let stones = operator.tombstones().await.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(api::Page::whole(stones.iter().map(convert).collect())))
}

async fn forget(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(api::Forget {}): Body<api::Forget>,
) -> Result<Json<api::Tombstone>, Rejected> {
    let forgotten = operator.forget_device(&wanted, actor).await;
    let forgotten = forgotten.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(convert(&forgotten)))
}
