//! Policies.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use crate::api;
use crate::domain::policy::Policy;
use crate::failure::Failure;

use super::auth::{Caller, Permission};
use super::error::{Body, Origin, Parameters, Rejected, if_match, with_etag};
use super::{Routes, Shared, convert};

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes.get("/api/v1/networks/{network}/policy", Permission::PolicyRead, show).put(
        "/api/v1/networks/{network}/policy",
        Permission::PolicyManage,
        set,
    )
}

async fn show(
    State(operator): State<Shared>,
    Path(network): Path<String>,
    origin: Origin,
) -> Result<Response, Rejected> {
    let found = operator.policy(Some(&network)).await;
    let (network, policy) = found.map_err(|failure| Rejected::at(failure, origin))?;
    let body = api::Policy {
        network: api::Named { id: network.id.to_string(), name: network.name },
        revision: policy.version,
        since: policy.since.to_string(),
        rules: policy.compiled.policy().rules.iter().map(convert::rule).collect(),
    };
    Ok(with_etag(policy.version, body))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetParameters {
    /// Only count.
    #[serde(default)]
    dry_run: bool,
}

async fn set(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(network): Path<String>,
    origin: Origin,
    headers: HeaderMap,
    Parameters(wanted): Parameters<SetParameters>,
    Body(new): Body<api::NewPolicy>,
) -> Result<Json<api::PolicySet>, Rejected> {
    let version = if_match(&headers, &origin)?;
    let done = async {
        let rules = (1..).zip(&new.rules).map(|(place, rule)| convert::rule_from(place, rule));
        let policy = Policy { rules: rules.collect::<Result<_, _>>()? };
        let set = if wanted.dry_run {
            operator.preview_policy(Some(&network), policy).await?
        } else {
            operator.set_policy(Some(&network), policy, Some(version), actor).await?
        };
        let (revision, devices_affected) = (set.version, set.affected.len());
        Ok::<_, Failure>(Json(api::PolicySet { revision, devices_affected }))
    };
    done.await.map_err(|failure| Rejected::at(failure, origin))
}
