//! Pairs of devices that keep the way to each other open.

use axum::Json;
use axum::extract::{Path, State};

use crate::api;
use crate::domain::audit::Actor;

use super::auth::{Caller, Permission};
use super::error::{Origin, Rejected};
use super::{Routes, Shared};

const PAIR: &str = "/api/v1/warm/{a}/{b}";

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .get("/api/v1/warm", Permission::PolicyRead, list)
        .post(PAIR, Permission::PolicyManage, warm)
        .delete(PAIR, Permission::PolicyManage, unwarm)
}

async fn list(
    State(operator): State<Shared>,
    origin: Origin,
) -> Result<Json<api::WarmPairs>, Rejected> {
    let pairs = operator.warm_pairs().await.map_err(|failure| Rejected::at(failure, origin))?;
    let items = pairs.into_iter().map(|one| {
        let [a, b] = one.names;
        api::WarmPair {
            a: api::Named { id: one.pair.a.to_string(), name: a },
            b: api::Named { id: one.pair.b.to_string(), name: b },
            since: one.pair.since.to_string(),
        }
    });
    Ok(Json(api::WarmPairs { items: items.collect() }))
}

async fn warm(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path((a, b)): Path<(String, String)>,
    origin: Origin,
) -> Result<Json<api::Warmed>, Rejected> {
    set(&operator, (&a, &b), true, actor, origin).await
}

async fn unwarm(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path((a, b)): Path<(String, String)>,
    origin: Origin,
) -> Result<Json<api::Warmed>, Rejected> {
    set(&operator, (&a, &b), false, actor, origin).await
}

async fn set(
    operator: &Shared,
    (a, b): (&str, &str),
    is_wanted: bool,
    actor: Actor,
    origin: Origin,
) -> Result<Json<api::Warmed>, Rejected> {
    let done = operator.keep_warm(a, b, is_wanted, actor).await;
    let done = done.map_err(|failure| Rejected::at(failure, origin))?;
    let [a, b] = done.devices.map(|one| api::Named { id: one.id.to_string(), name: one.name });
    Ok(Json(api::Warmed { a, b, warm: is_wanted, changed: done.changed }))
}
