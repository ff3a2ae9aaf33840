//! Devices.

use core::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use weft_wire::crc::crc32;

use crate::api;
use crate::domain::audit::Actor;
use crate::domain::device::Decision;
use crate::failure::{Code, Failure};
use crate::service::devices::Seen;
use crate::service::seams::Task;
use crate::service::wireguard::WireGuardRequest;

use super::auth::{Caller, Permission};
use super::error::{Body, Origin, Parameters, Rejected, if_match, with_etag};
use super::{Routes, Shared, convert, keys, network_report};

/// Rows of a page, unless somebody asks for another number.
const PAGE: usize = 100;
/// The most rows of a page.
const PAGE_MAX: usize = 500;
/// The longest wait for devices to confirm.
const WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .get("/api/v1/devices", Permission::DeviceRead, list)
        .post("/api/v1/devices", Permission::DeviceManage, add_wireguard)
        .get("/api/v1/devices/{device}", Permission::DeviceRead, one)
        .patch("/api/v1/devices/{device}", Permission::DeviceManage, rename)
        .delete("/api/v1/devices/{device}", Permission::DeviceManage, delete)
        .put("/api/v1/devices/{device}/data-budget", Permission::DeviceManage, budget)
        .post("/api/v1/devices/{device}/approve", Permission::DeviceManage, approve)
        .post("/api/v1/devices/{device}/reject", Permission::DeviceManage, reject)
        .post("/api/v1/devices/{device}/block", Permission::DeviceBlock, block)
        .post("/api/v1/devices/{device}/unblock", Permission::DeviceBlock, unblock)
        .post("/api/v1/devices/{device}/release", Permission::DeviceManage, release)
        .post("/api/v1/devices/{device}/rotate-key", Permission::DeviceManage, rotate_key)
        .post("/api/v1/devices/{device}/commands", Permission::DeviceCommand, command)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParameters {
    #[serde(default)]
    q: String,
    sort: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Where a page ended: the search it belongs to, and the last row's sort key.
struct Cursor {
    search: u32,
    id: u32,
    name: String,
}

impl Cursor {
    fn after(seen: &Seen, search: &str) -> Self {
        let search = crc32(search.as_bytes());
        Self { search, id: seen.device.id.0, name: seen.device.name.clone() }
    }

    fn text(&self) -> String {
        format!("{:08x}-{:08x}-{}", self.search, self.id, self.name)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let mut number = || u32::from_str_radix(parts.next()?, 16).ok();
        let (search, id) = (number()?, number()?);
        Some(Self { search, id, name: parts.next()?.to_owned() })
    }

    fn is_before(&self, seen: &Seen) -> bool {
        (self.name.as_str(), self.id) < (seen.device.name.as_str(), seen.device.id.0)
    }
}

async fn list(
    State(operator): State<Shared>,
    origin: Origin,
    Parameters(wanted): Parameters<ListParameters>,
) -> Result<Json<api::Page<api::Device>>, Rejected> {
    page(&operator, &wanted).await.map(Json).map_err(|failure| Rejected::at(failure, origin))
}

async fn page(
    operator: &Shared,
    wanted: &ListParameters,
) -> Result<api::Page<api::Device>, Failure> {
    let wrong = |message: String| Failure::new(Code::ApiBody, message);
    if let Some(sort) = wanted.sort.as_deref().filter(|sort| *sort != "name") {
        return Err(wrong(format!("sort={sort} is not possible; name is")));
    }
    let cursor = match &wanted.cursor {
        None => None,
        Some(text) => {
            let cursor = Cursor::parse(text).filter(|one| one.search == crc32(wanted.q.as_bytes()));
            Some(cursor.ok_or_else(|| wrong("the cursor belongs to another search".to_owned()))?)
        }
    };
    let limit = wanted.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let listing = operator.list_devices(&wanted.q).await?;
    let start =
        cursor.map_or(0, |cursor| listing.items.partition_point(|seen| !cursor.is_before(seen)));
    let rest = &listing.items[start..];
    let items = &rest[..limit.min(rest.len())];
    let last = items.last().filter(|_| rest.len() > items.len());
    Ok(api::Page {
        next_cursor: last.map(|last| Cursor::after(last, &wanted.q).text()),
        items: items.iter().map(convert::device).collect(),
        total: listing.total,
        matched: listing.items.len(),
    })
}

async fn one(
    State(operator): State<Shared>,
    Path(wanted): Path<String>,
    origin: Origin,
) -> Result<Response, Rejected> {
    let seen =
        operator.show_device(&wanted).await.map_err(|failure| Rejected::at(failure, origin))?;
    Ok(with_etag(seen.device.version, convert::device(&seen)))
}

async fn add_wireguard(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    origin: Origin,
    Body(new): Body<api::NewWireGuard>,
) -> Result<Response, Rejected> {
    let added = async {
        let request = WireGuardRequest {
            name: new.name,
            network: new.network,
            public_key: new.public_key,
            endpoint: new.endpoint,
            no_psk: new.no_psk,
            tags: new.tags,
        };
        let created = operator.add_wireguard(request, actor).await?;
        let seen = operator.see_one(created.device).await?;
        let body = api::CreatedWireGuard {
            device: convert::device(&seen),
            config: created.file.to_string(),
        };
        Ok::<_, Failure>(keys::secret(StatusCode::CREATED, body))
    };
    added.await.map_err(|failure| Rejected::at(failure, origin))
}

/// Does what was decided on the device that the path names.
async fn decide(
    operator: &Shared,
    wanted: &str,
    decision: Decision,
    if_version: Option<u64>,
    wait_ms: u32,
    actor: Actor,
) -> Result<Json<api::Action>, Failure> {
    let device = operator.find_device(wanted).await?;
    let word = decision.word();
    let wait = Duration::from_millis(u64::from(wait_ms)).min(WAIT_MAX);
    let outcomes = operator.decide(&device, decision, if_version, wait, actor).await?;
    Ok(Json(convert::action(word, &outcomes)))
}

async fn rename(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    headers: HeaderMap,
    Body(patch): Body<api::PatchDevice>,
) -> Result<Json<api::Action>, Rejected> {
    let version = if_match(&headers, &origin)?;
    let decision = Decision::Rename { name: patch.name };
    let done = decide(&operator, &wanted, decision, Some(version), 0, actor).await;
    done.map_err(|failure| Rejected::at(failure, origin))
}

async fn budget(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    headers: HeaderMap,
    Body(wished): Body<api::DataBudget>,
) -> Result<Json<api::Action>, Rejected> {
    let version = if_match(&headers, &origin)?;
    let done = async {
        let device = operator.find_device(&wanted).await?;
        if device.agent().is_none() {
            let message = format!("{} runs no agent: nobody there counts bytes", device.name);
            return Err(Failure::new(Code::DeviceNoAgent, message));
        }
        let decision = Decision::Budget { bytes: wished.bytes };
        decide(&operator, &wanted, decision, Some(version), 0, actor).await
    };
    done.await.map_err(|failure| Rejected::at(failure, origin))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteParameters {
    #[serde(default)]
    wait_ms: u32,
}

async fn delete(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(device): Path<String>,
    origin: Origin,
    headers: HeaderMap,
    Parameters(wanted): Parameters<DeleteParameters>,
) -> Result<Json<api::Action>, Rejected> {
    let version = Some(if_match(&headers, &origin)?);
    let decision = Decision::Delete;
    let done = decide(&operator, &device, decision, version, wanted.wait_ms, actor).await;
    done.map_err(|failure| Rejected::at(failure, origin))
}

async fn approve(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(action): Body<api::DeviceAction>,
) -> Result<Json<api::Action>, Rejected> {
    let done = decide(&operator, &wanted, Decision::Approve, None, action.wait_ms, actor).await;
    done.map_err(|failure| Rejected::at(failure, origin))
}

async fn reject(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(action): Body<api::DeviceAction>,
) -> Result<Json<api::Action>, Rejected> {
    let decision = Decision::Reject { reason: action.reason };
    let done = decide(&operator, &wanted, decision, None, action.wait_ms, actor).await;
    done.map_err(|failure| Rejected::at(failure, origin))
}

async fn block(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(action): Body<api::DeviceAction>,
) -> Result<Json<api::Action>, Rejected> {
    let decision = Decision::Block { reason: action.reason };
    let done = decide(&operator, &wanted, decision, None, action.wait_ms, actor).await;
    done.map_err(|failure| Rejected::at(failure, origin))
}

async fn unblock(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(action): Body<api::DeviceAction>,
) -> Result<Json<api::Action>, Rejected> {
    let done = decide(&operator, &wanted, Decision::Unblock, None, action.wait_ms, actor).await;
    done.map_err(|failure| Rejected::at(failure, origin))
}

async fn release(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(action): Body<api::DeviceAction>,
) -> Result<Json<api::Action>, Rejected> {
    let done = async {
        let seen = operator.show_device(&wanted).await?;
        let is_there = seen.presence.is_some_and(|presence| presence.online);
        let (id, decision) = (seen.device.id.to_string(), Decision::Release { is_there });
        decide(&operator, &id, decision, None, action.wait_ms, actor).await
    };
    done.await.map_err(|failure| Rejected::at(failure, origin))
}

async fn rotate_key(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(rotate): Body<api::RotateKey>,
) -> Result<Json<api::KeyRotation>, Rejected> {
    let done = async {
        let device = operator.find_device(&wanted).await?;
        let rotated = if rotate.withdraw {
            operator.withdraw_key(&device, actor).await?
        } else {
            let wait = Duration::from_millis(u64::from(rotate.wait_ms)).min(WAIT_MAX);
            operator.rotate_key(&device, wait, actor).await?
        };
        let online = operator.presence.presence(device.id).is_some_and(|one| one.online);
        Ok::<_, Failure>(Json(convert::rotation(&rotated, online)))
    };
    done.await.map_err(|failure| Rejected::at(failure, origin))
}

async fn command(
    State(operator): State<Shared>,
    Caller(actor): Caller,
    Path(wanted): Path<String>,
    origin: Origin,
    Body(new): Body<api::NewCommand>,
) -> Result<Json<api::DoneCommand>, Rejected> {
    let done = async {
        let task = match new.command.as_str() {
            "restart" => Task::Restart,
            "netcheck" => Task::Netcheck,
            _ => {
                let message = "there is no such command; there are restart and netcheck";
                return Err(Failure::new(Code::ApiBody, message));
            }
        };
        let device = operator.find_device(&wanted).await?;
        let report = operator.command(&device, task, actor).await?;
        let netcheck = report.as_deref().map(network_report::document);
        Ok(Json(api::DoneCommand { command: new.command, netcheck }))
    };
    done.await.map_err(|failure| Rejected::at(failure, origin))
}
