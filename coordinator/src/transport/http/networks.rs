//! Networks and the coordinator itself.

use axum::Json;
use axum::extract::{Path, State};
use weft_noise::mac;
use weft_wire::join::Address;

use crate::api;
use crate::failure::Failure;

use super::auth::{Caller, Permission};
use super::error::{Origin, Rejected};
use super::{Routes, Shared, convert};

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .get("/api/v1/coordinator", Permission::NetworkRead, coordinator)
        .get("/api/v1/coordinator/key", Permission::NetworkRead, key)
        .post("/api/v1/coordinator/key/announce", Permission::CoordinatorManage, announce)
        .get("/api/v1/networks", Permission::NetworkRead, list)
        .get("/api/v1/networks/{network}", Permission::NetworkRead, one)
        .get("/api/v1/fingerprints/{fingerprint}", Permission::DeviceRead, why_not)
}

async fn coordinator(State(operator): State<Shared>) -> Json<api::Coordinator> {
    let address =
        |address: &Address| format!("{}://{}", address.carrier.scheme(), address.authority);
    Json(api::Coordinator {
        fingerprint: mac::fingerprint(&operator.secrets.public()).to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        addresses: operator.addresses.iter().map(address).collect(),
    })
}

async fn key(
    State(operator): State<Shared>,
    origin: Origin,
) -> Result<Json<api::CoordinatorKey>, Rejected> {
    let read = operator.key_change().await.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(convert::coordinator_key(&read.0, &read.1)))
}

async fn announce(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    origin: Origin,
) -> Result<Json<api::CoordinatorKey>, Rejected> {
    let done = operator.announce_key(actor).await;
    let done = done.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(Json(convert::coordinator_key(&done.0, &done.1)))
}

async fn list(
    State(operator): State<Shared>,
    origin: Origin,
) -> Result<Json<Vec<api::Network>>, Rejected> {
    let all = async {
        let mut items = Vec::new();
        for network in operator.networks().await? {
            let members = operator.members(network.id).await?;
            items.push(convert::network(&network, members));
        }
        Ok::<_, Failure>(Json(items))
    };
    all.await.map_err(|failure| Rejected::at(failure, origin))
}

async fn one(
    State(operator): State<Shared>,
    Path(wanted): Path<String>,
    origin: Origin,
) -> Result<Json<api::Network>, Rejected> {
    let one = async {
        let network = operator.network(Some(&wanted)).await?;
        let members = operator.members(network.id).await?;
        Ok::<_, Failure>(Json(convert::network(&network, members)))
    };
    one.await.map_err(|failure| Rejected::at(failure, origin))
}

async fn why_not(
    State(operator): State<Shared>,
    Path(fingerprint): Path<String>,
    origin: Origin,
) -> Result<Json<api::WhyNot>, Rejected> {
    let answer = operator.why_not(&fingerprint).await;
    let answer = answer.map_err(|failure| Rejected::at(failure, origin))?;
    let (member, sentence, attempt) = (answer.member, answer.sentence, answer.attempt);
    Ok(Json(api::WhyNot { member, sentence, attempt }))
}
