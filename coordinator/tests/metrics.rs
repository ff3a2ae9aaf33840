//! What is counted can be read, by operators only.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod world;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use tower::ServiceExt as _;
use weft_coordinator::service::bus::Inbound;
use weft_coordinator::transport::http::SocketPeer;
use weft_coordinator::transport::http::metrics::{Meters, PATH, routes};
use weft_coordinator::transport::listen::{Limits, Places, Stats};
use weft_coordinator::transport::post::Posts;
use world::World;

fn router(world: &World) -> Router {
    let inbound: Arc<dyn Inbound> = Arc::clone(&world.channel) as _;
    routes(Meters {
        channel: Arc::clone(&world.channel),
        broker: Arc::clone(&world.broker),
        listen: Arc::new(Stats::default()),
        places: Places::new(Limits::default()),
        posts: Posts::new(inbound, Arc::clone(&world.hub)).dropped(),
    })
}

async fn get(router: &Router, who: Option<u32>) -> (StatusCode, String) {
    let mut request = Request::get(PATH).body(Body::empty()).unwrap();
    if let Some(uid) = who {
        request.extensions_mut().insert(ConnectInfo(SocketPeer { uid: Some(uid) }));
    }
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.into()).unwrap())
}

fn value(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

#[tokio::test]
async fn a_session_is_counted_and_operators_see_it() {
    let world = World::new().await;
    let router = router(&world);
    let before = get(&router, Some(0)).await.1;
    assert_eq!(value(&before, "weft_coordinator_sessions_confirmed_total"), 0);
    let key = world.key(|_| {}).await;
    world.member(&key, "gw-a").await;
    let (status, page) = get(&router, Some(0)).await;
    assert_eq!(status, StatusCode::OK);
    // The second has its WELCOME and said nothing yet.
    assert_eq!(value(&page, "weft_coordinator_welcomes_total"), 2);
    assert_eq!(value(&page, "weft_coordinator_sessions_confirmed_total"), 1);
    assert_eq!(value(&page, "weft_coordinator_mqtt_clients_admitted_total"), 2);
    assert!(value(&page, "weft_coordinator_records_total") >= 1);
    let early = "weft_coordinator_mqtt_clients_refused_total{reason=\"refused_password\"}";
    assert_eq!(value(&page, early), 0);
    let mac1 = "weft_coordinator_frames_dropped_total{reason=\"mac1\"}";
    assert_eq!(value(&page, mac1), 0);
}

#[tokio::test]
async fn nobody_else_reads_them() {
    let world = World::new().await;
    let (status, body) = get(&router(&world), None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(!body.contains("weft_coordinator_"), "{body}");
}
