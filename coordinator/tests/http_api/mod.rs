//! The REST API over a store of its own: how tests call it, and what stands for the
//! sessions and the relays behind it.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "shared by tests, which may panic")]

use core::future::Future;
use core::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt as _;
use weft_coordinator::config::public::Offer;
use weft_coordinator::domain::relay::Relay;
use weft_coordinator::domain::relay_health::{Check, Health};
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::clock::Clock;
use weft_coordinator::service::operator::Operator;
use weft_coordinator::service::random::Random;
use weft_coordinator::service::seams::{
    CommandResult, Commands, Presence, PresenceView, Refusals, RelayLive, RelayLoad, RelayView,
    Report, Task,
};
use weft_coordinator::service::secrets::Secrets;
use weft_coordinator::store::SharedStore;
use weft_coordinator::store::sqlite::{self, NewInstallation, SqliteStore};
use weft_coordinator::transport::http::{self, Permission, Routes, SocketPeer};
use weft_wire::id::{CommandId, DeviceId, Epoch, Secret};
use weft_wire::item::Outcome;
use weft_wire::network::{NatMapping, NetworkReport, RelayReached, RelayRung};

use crate::common::TempDir;
use crate::common::fleet::{NOW, by, enrolment, first_network, new_key, unique};

pub struct Still(UnixMs);

impl Clock for Still {
    fn unix_ms(&self) -> u64 {
        self.0.0
    }
}

/// Devices with an even id are there.
pub struct Even;

impl PresenceView for Even {
    fn presence(&self, device: DeviceId) -> Option<Presence> {
        let report = Report {
            boot_count: 3,
            uptime_s: 60,
            active_peers: 1,
            direct_peers: 1,
            ..Report::default()
        };
        device.0.is_multiple_of(2).then_some(Presence {
            online: true,
            last_seen: UnixMs(NOW.0 - 3_000),
            address: None,
            report: Some(report),
        })
    }
}

impl Commands for Even {
    fn deliver(
        &self,
        device: DeviceId,
        _: CommandId,
        task: Task,
        _: UnixMs,
    ) -> Pin<Box<dyn Future<Output = CommandResult> + Send + '_>> {
        let there = device.0.is_multiple_of(2);
        let result = match task {
            _ if !there => CommandResult::Absent,
            Task::Restart => CommandResult::Answered(Outcome::Accepted),
            Task::Netcheck => CommandResult::Looked(Box::new(NetworkReport {
                v4: Some([203, 0, 113, 50].into()),
                mapping: NatMapping::Window(512),
                relays: core::iter::once(RelayReached {
                    relay: 3,
                    answered: Some((RelayRung::Tls, 23_100)),
                })
                .collect(),
                ..NetworkReport::default()
            })),
        };
        Box::pin(core::future::ready(result))
    }
}

impl RelayView for Even {
    fn live(&self, relay: &Relay) -> RelayLive {
        let load =
            RelayLoad { allocations: 12, max_allocations: 100, users: 3, is_draining: false };
        let mut health = Health::default();
        if relay.told {
            health.handle(
                Check::Answered(core::time::Duration::from_millis(9)),
                UnixMs(NOW.0 - 3_000),
            );
        }
        RelayLive { health, load: relay.told.then_some(load), ..RelayLive::default() }
    }

    fn changed(&self, _: u16) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(core::future::ready(()))
    }
}

pub fn counting(out: &mut [u8]) {
    out.copy_from_slice(&unique::<64>()[..out.len()]);
}

pub struct Api {
    pub router: Router,
    pub store: SharedStore,
    pub secrets: Arc<Secrets>,
    _dir: TempDir,
}

pub fn api() -> Api {
    api_at(NOW)
}

pub fn api_at(now: UnixMs) -> Api {
    let dir = TempDir::new();
    let path = dir.path().join("weft.db");
    let secrets = Arc::new(Secrets::from_seed(&Secret([5; 32])));
    let new = NewInstallation {
        epoch: Epoch(7),
        coordinator: secrets.public(),
        network: first_network(),
    };
    sqlite::create(&path, &new, NOW).unwrap();
    let store: SharedStore = Arc::new(SqliteStore::open(&path, NOW).unwrap());
    let operator = Operator {
        store: Arc::clone(&store),
        secrets: Arc::clone(&secrets),
        presence: Arc::new(Even),
        commands: Arc::new(Even),
        refusals: Arc::new(Refusals::default()),
        clock: Arc::new(Still(now)),
        addresses: vec!["mqtt://mesh.example.net".parse::<Offer>().unwrap().address().unwrap()],
        spki: None,
        account: None,
        relays: Arc::new(Even),
        posts: vec!["https://mesh.example.net".parse::<Offer>().unwrap().address().unwrap()],
        random: Random(counting),
    };
    let devices =
        Routes::new().post("/api/v1/device/register", Permission::Device, async || "frame");
    let router = http::router(Arc::new(operator), Router::new(), devices, ());
    Api { router, store, secrets, _dir: dir }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum From {
    Socket,
    SocketOfNobody,
    Tcp,
}

impl Api {
    pub async fn call(
        &self,
        from: From,
        method: Method,
        path: &str,
        body: Option<Value>,
        if_match: Option<&str>,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(version) = if_match {
            request = request.header(header::IF_MATCH, version);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let mut request = request.body(body).unwrap();
        let extensions = request.extensions_mut();
        match from {
            From::Socket => _ = extensions.insert(ConnectInfo(SocketPeer { uid: Some(0) })),
            From::SocketOfNobody => _ = extensions.insert(ConnectInfo(SocketPeer { uid: None })),
            From::Tcp => {
                let peer: core::net::SocketAddr = "203.0.113.80:4711".parse().unwrap();
                extensions.insert(ConnectInfo(peer));
            }
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let kind = response.headers().get(header::CONTENT_TYPE).cloned();
        assert!(response.headers().contains_key("x-request-id"));
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(kind.unwrap(), "application/problem+json", "{status} {value}");
        }
        (status, value)
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, value) = self.call(From::Socket, Method::GET, path, None, None).await;
        assert_eq!(status, StatusCode::OK, "{value}");
        value
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(From::Socket, Method::POST, path, Some(body), None).await
    }

    pub async fn enrol(
        &self,
        name: &str,
        needs_approval: bool,
    ) -> weft_coordinator::domain::device::Device {
        let new = weft_coordinator::domain::key::NewKey { needs_approval, ..new_key() };
        let key = self.store.create_key(new, by(NOW)).await.unwrap();
        self.store.enrol(enrolment(key.id, name), NOW).await.unwrap().unwrap().device
    }
}
