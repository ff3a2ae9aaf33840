//! The audit trail.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use crate::api;

use super::auth::Permission;
use super::error::{Origin, Parameters, Rejected};
use super::{Routes, Shared, convert};

/// Rows of a page, unless somebody asks for another number.
const PAGE: u32 = 100;
/// The most rows of a page.
const PAGE_MAX: u32 = 500;

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes.get("/api/v1/audit-events", Permission::AuditRead, list).get(
        "/api/v1/audit-events/verify",
        Permission::AuditRead,
        verify,
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParameters {
    #[serde(default)]
    after: u64,
    limit: Option<u32>,
}

async fn list(
    State(operator): State<Shared>,
    origin: Origin,
    Parameters(wanted): Parameters<ListParameters>,
) -> Result<Json<Vec<api::AuditEvent>>, Rejected> {
    let limit = wanted.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let rows = operator.audit(wanted.after, limit).await;
    let rows = rows.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(rows.iter().map(convert::audit).collect()))
}

async fn verify(
    State(operator): State<Shared>,
    origin: Origin,
) -> Result<Json<api::AuditCheck>, Rejected> {
    let check = operator.check_audit().await.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(api::AuditCheck { rows: check.rows, broken_at: check.broken_at }))
}
