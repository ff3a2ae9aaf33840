//! Bytes, budgets and ways that are kept open, over the REST API.

use super::*;

#[tokio::test]
async fn a_days_bytes_are_shown() {
    let api = api();
    let (a, _) = (api.enrol("gw-a", false).await.id, api.enrol("gw-b", false).await.id);
    for (day, control) in [(NOW.day() - 1, 8), (NOW.day(), 9_120)] {
        let usage = weft_coordinator::domain::usage::DayUsage {
            device: a,
            day,
            at: NOW,
            control,
            keepalive: 4_032,
            probe: 5_059,
            relay_overhead: 0,
            payload: 12_045_992,
            budget: Some(1_000_000),
            metered: true,
            used_up: false,
        };
        api.store.report_usage(usage).await.unwrap();
    }
    let today = api.get("/api/v1/devices/gw-a").await["data_today"].clone();
    assert_eq!(today["day"], NOW.to_string()[..10]);
    assert_eq!((&today["bytes"], &today["payload_bytes"]), (&json!(18_211), &json!(12_045_992)));
    let causes = json!({"control": 9_120, "keepalive": 4_032, "probe": 5_059, "relay_overhead": 0});
    assert_eq!(today["by_cause"], causes);
    assert_eq!((&today["budget_bytes"], &today["used_up"]), (&json!(1_000_000), &json!(false)));
    let listed = api.get("/api/v1/devices").await;
    assert_eq!(listed["items"][0]["data_today"], today);
    assert_eq!(listed["items"][1]["data_today"], Value::Null);
    let days = api.get("/api/v1/devices/gw-a/data").await;
    assert_eq!(days["items"][0], today);
    assert_eq!(days["items"][1]["by_cause"]["control"], 8);
    assert_eq!(api.get("/api/v1/devices/gw-b/data").await["items"], json!([]));
}

#[tokio::test]
async fn a_way_is_kept_open_by_policy_and_let_go() {
    let api = api();
    for name in ["gw-a", "gw-b"] {
        api.enrol(name, false).await;
    }
    let call =
        async |method: Method, path: &str| api.call(From::Socket, method, path, None, None).await;
    let path = "/api/v1/warm/gw-b/gw-a";
    let (status, done) = call(Method::POST, path).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    assert_eq!((&done["warm"], &done["changed"]), (&json!(true), &json!(true)));
    assert_eq!(call(Method::POST, path).await.1["changed"], false);
    let listed = api.get("/api/v1/warm").await;
    let names = (&listed["items"][0]["a"]["name"], &listed["items"][0]["b"]["name"]);
    assert_eq!(names, (&json!("gw-a"), &json!("gw-b")));
    assert_eq!(call(Method::DELETE, path).await.1["changed"], true);
    assert_eq!(api.get("/api/v1/warm").await["items"], json!([]));
    let (status, problem) = call(Method::POST, "/api/v1/warm/gw-a/gw-a").await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("warm.pair")));
    assert_eq!(call(Method::POST, "/api/v1/warm/gw-a/nobody").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_budget_is_set_and_shown() {
    let api = api();
    api.enrol("gw-a", false).await;
    let version = format!("\"{}\"", api.get("/api/v1/devices/gw-a").await["revision"]);
    let path = "/api/v1/devices/gw-a/data-budget";
    let body = json!({"bytes": 1_000_000});
    let put = async || {
        let body = Some(body.clone());
        api.call(From::Socket, Method::PUT, path, body, Some(&version)).await
    };
    let (status, action) = put().await;
    assert_eq!(status, StatusCode::OK, "{action}");
    assert_eq!(action["action"], "budget");
    assert_eq!(api.get("/api/v1/devices/gw-a").await["data_budget_bytes"], 1_000_000);
    assert_eq!(put().await.0, StatusCode::PRECONDITION_FAILED);
}
