//! What is counted can be read, by operators only.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod endpoint;
mod foreign;
mod world;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use endpoint::NOW_MS;
use foreign::{Foreign, publish, record};
use tower::ServiceExt as _;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::service::bus::Inbound;
use weft_coordinator::transport::http::SocketPeer;
use weft_coordinator::transport::http::metrics::{Meters, PATH, routes};
use weft_coordinator::transport::listen::{Limits, Places, Stats};
use weft_coordinator::transport::post::Posts;
use weft_wire::id::Inbox;
use weft_wire::item::Ping;
use weft_wire::telemetry::DataUsage;
use weft_wire::topic::Topic;
use world::{Device, Login, World, enrolment_psk};

fn router(world: &World) -> Router {
    let inbound: Arc<dyn Inbound> = Arc::clone(&world.channel) as _;
    routes(Meters {
        channel: Arc::clone(&world.channel),
        broker: Arc::clone(&world.broker),
        listen: Arc::new(Stats::default()),
        places: Places::new(Limits::default()),
        posts: Posts::new(inbound, Arc::clone(&world.hub)).dropped(),
        external: world.foreign.as_ref().map(|(external, _)| external.clone()),
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

const CAUSES: [&str; 5] = ["control", "keepalive", "probe", "relay_overhead", "payload"];

fn bytes(page: &str) -> [u64; 5] {
    let name = |cause| format!("weft_coordinator_device_data_bytes_total{{cause=\"{cause}\"}}");
    CAUSES.map(|cause| value(page, &name(cause)))
}

#[tokio::test]
async fn devices_bytes_are_summed_by_cause_and_each_once() {
    let world = World::new().await;
    let operator = router(&world);
    let over = "weft_coordinator_devices_over_data_budget";
    let none = get(&operator, Some(0)).await.1;
    assert_eq!((bytes(&none), value(&none, over)), ([0; 5], 0));
    let key = world.key(|_| {}).await;
    let today = UnixMs(NOW_MS).day();
    let usage = |day, control, used_up| DataUsage {
        day,
        control,
        keepalive: 20,
        probe: 300,
        relay_overhead: 4_000,
        payload: 50_000,
        budget: Some(1_000_000),
        metered: true,
        used_up,
    };
    let (mut a, mut b) = (world.member(&key, "gw-a").await, world.member(&key, "gw-b").await);
    // The day grows, and a report that came twice or says less is no byte more. One of
    // yesterday that was on its way counts, and its budget does not.
    for told in [
        usage(today - 1, 1, true),
        usage(today, 5, false),
        usage(today, 7, false),
        usage(today, 7, true),
        usage(today, 6, true),
    ] {
        a.send(|writer| writer.put(&told).unwrap()).await;
    }
    b.send(|writer| writer.put(&usage(today, 100, false)).unwrap()).await;
    for device in [&mut a, &mut b] {
        device.send(|writer| writer.put(&Ping { request: 1 }).unwrap()).await;
        device.wait_for::<Ping>().await;
    }
    let page = get(&operator, Some(0)).await.1;
    assert_eq!(bytes(&page), [108, 60, 900, 12_000, 150_000]);
    assert_eq!(value(&page, over), 1);
    let samples = page.lines().filter(|line| line.starts_with("weft_coordinator_device")).count();
    assert_eq!(samples, CAUSES.len() + 1, "as many for any number of devices");
    // A coordinator that starts anew counts from nothing what it has in its database.
    let world = world.restarted().await;
    let operator = router(&world);
    a.come_back(&world).await;
    a.shake_hands(&world).await;
    a.send(|writer| writer.put(&usage(today, 9, true)).unwrap()).await;
    a.send(|writer| writer.put(&Ping { request: 2 }).unwrap()).await;
    a.wait_for::<Ping>().await;
    let page = get(&operator, Some(0)).await.1;
    assert_eq!((bytes(&page), value(&page, over)), ([2, 0, 0, 0, 0], 1));
}

#[tokio::test]
async fn a_foreign_broker_is_counted_where_there_is_one() {
    let none = get(&router(&World::new().await), Some(0)).await.1;
    assert!(!none.contains("weft_coordinator_bus_"), "{none}");
    let foreign = Foreign::new().await;
    let own = Login::new("weft-coordinator", "secret");
    let world = World::behind(foreign.address, &own, &Login::new("weft-device", "shared")).await;
    let router = router(&world);
    let external = world.foreign.as_ref().unwrap().0.clone();
    let mut line = foreign.open(&external).await;
    let key = world.key(|_| {}).await;
    let device = Device::new(&world, "gw");
    let (hello, _pending) = device.hello(&enrolment_psk(&world, &key), None);
    let topic = Topic::Hello(device.inbox).text();
    line.write(&publish(0x31, &topic, &hello)).await;
    line.write(&publish(0x30, "weft/v1/x", b"x")).await;
    line.write(&record(Inbox([9; 16]), &[7; 64])).await;
    line.write(&publish(0x30, &topic, &hello)).await;
    line.write(&publish(0x30, &topic, &hello)).await;
    let _welcome = line.frame().await;
    let page = get(&router, Some(0)).await.1;
    let dropped = |reason: &str| {
        value(&page, &format!("weft_coordinator_bus_frames_dropped_total{{reason=\"{reason}\"}}"))
    };
    assert_eq!((dropped("topic"), dropped("retained"), dropped("length")), (1, 1, 0));
    assert_eq!((dropped("rate"), dropped("full")), (0, 0));
    for (name, count) in [
        ("connected", 1),
        ("connections_total", 1),
        ("connections_failed_total", 0),
        ("frames_up_total", 1),
        ("frames_down_total", 1),
        ("frames_full_total", 0),
        ("frames_waiting", 0),
        ("panics_total", 0),
    ] {
        assert_eq!(value(&page, &format!("weft_coordinator_bus_{name}")), count, "{name}");
    }
}

#[tokio::test]
async fn nobody_else_reads_them() {
    let world = World::new().await;
    let (status, body) = get(&router(&world), None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(!body.contains("weft_coordinator_"), "{body}");
}
