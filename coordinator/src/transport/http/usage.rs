//! What devices' bytes were for.

use axum::Json;
use axum::extract::{Path, State};

use crate::api;
use crate::domain::usage::DayUsage;

use super::auth::Permission;
use super::error::{Origin, Rejected};
use super::{Routes, Shared};

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes.get("/api/v1/devices/{device}/data", Permission::DeviceRead, days)
}

async fn days(
    State(operator): State<Shared>,
    Path(wanted): Path<String>,
    origin: Origin,
) -> Result<Json<api::DataDays>, Rejected> {
    let days = operator.usage(&wanted).await;
    let days = days.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(api::DataDays { items: days.iter().map(day).collect() }))
}

pub(super) fn day(usage: &DayUsage) -> api::DataDay {
    api::DataDay {
        day: usage.date(),
        reported_at: usage.at.to_string(),
        budget_bytes: usage.budget,
        metered: usage.metered,
        used_up: usage.used_up,
        bytes: usage.overhead(),
        by_cause: api::DataCauses {
            control: usage.control,
            keepalive: usage.keepalive,
            probe: usage.probe,
            relay_overhead: usage.relay_overhead,
        },
        payload_bytes: usage.payload,
    }
}
