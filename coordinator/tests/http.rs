//! The REST API: who may call what, and the shape of answers.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use weft_coordinator::domain::quarantine::Heard;
use weft_coordinator::domain::relay::NewRelay;
use weft_coordinator::domain::time::UnixMs;
use weft_coordinator::transport::http::{Permission, operator_routes};
use weft_wire::id::DeviceId;
use weft_wire::join::{JoinString, Joins};

mod common;
mod http_api;
mod http_data;

use common::fleet::{NOW, by};
use http_api::*;

/// Every route, as the router itself knows them: no operators' route answers
/// anything but 401 to whoever did not come through the socket.
#[tokio::test]
async fn every_route_asks_who_calls() {
    let api = api();
    let routes = operator_routes();
    assert!(routes.declared().len() >= 20);
    for declared in routes.declared() {
        assert!(declared.path.starts_with("/api/v1/"), "{declared:?}");
        assert_ne!(declared.permission, Permission::Device, "{declared:?}");
        let path = declared.path.replace(['{', '}'], "");
        for from in [From::Tcp, From::SocketOfNobody] {
            let method = declared.method.clone();
            let (status, problem) = api.call(from, method, &path, Some(json!({})), Some("1")).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{declared:?} {from:?}");
            assert_eq!(problem["code"], "api.sign-in");
            assert_eq!(problem["required_permission"], declared.permission.word());
        }
        let method = declared.method.clone();
        let (status, _) = api.call(From::Socket, method, &path, Some(json!({})), Some("1")).await;
        assert_ne!(status, StatusCode::UNAUTHORIZED, "{declared:?}");
        assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{declared:?}");
    }
    let (status, _) =
        api.call(From::Tcp, Method::POST, "/api/v1/device/register", None, None).await;
    assert_eq!(status, StatusCode::OK);
}

/// Nobody adds a route behind the back of `Routes`.
#[test]
fn routes_are_declared_in_one_place() {
    fn walk(folder: &std::path::Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if std::fs::read_to_string(&path).unwrap().contains(".route(") {
                found.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert_eq!(found, ["routes.rs"]);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let api = api();
    let (status, problem) = api.call(From::Tcp, Method::GET, "/api/v1/x", None, None).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("api.no-route")));
    assert_eq!(problem["instance"], "/api/v1/x");
    let (status, _) = api.call(From::Socket, Method::PUT, "/api/v1/devices", None, None).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, problem) = api.post("/api/v1/enrollment-keys", json!({"usess": 1})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem["title"].as_str().unwrap().contains("usess"), "{problem}");
    let huge = json!({"name": "x".repeat(300 * 1_024)});
    let (status, _) = api.post("/api/v1/enrollment-keys", huge).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn no_key_ends_while_the_clock_is_not_set() {
    let api = api_at(UnixMs(0));
    let (status, refused) = api.post("/api/v1/enrollment-keys", json!({})).await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("key.bad-expiry"))
    );
    let (status, created) =
        api.post("/api/v1/enrollment-keys", json!({"expires_after_s": null})).await;
    assert_eq!((status, &created["expires_at"]), (StatusCode::CREATED, &json!(null)));
}

#[tokio::test]
async fn a_key_shows_its_join_string_once() {
    let api = api();
    let new = json!({"name": "lab", "max_uses": 10, "tags": ["site=bench"], "expires_after_s": 60});
    let (status, created) = api.post("/api/v1/enrollment-keys", new).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!((&created["uses"], &created["state"]), (&json!(0), &json!("active")));
    let join = JoinString::parse(created["join_string"].as_str().unwrap()).ok().unwrap();
    assert_eq!(join.coordinator, api.secrets.public());
    assert_eq!(join.key.to_string(), created["id"]);
    assert_eq!(join.psk.0, api.secrets.enrolment_psk(join.key, 0).unwrap().0);
    // The broker lets it in for 30 days more, so that it is told why it is late.
    assert_eq!(u64::from(join.token.expiry), NOW.0 / 1_000 + 60 + 30 * 86_400);
    assert_eq!(join.token.mac.0, api.secrets.enrol_password(join.key, 0, join.token.expiry).0);
    assert_eq!(join.addresses[0].authority, "mesh.example.net:7420");

    let listed = api.get("/api/v1/enrollment-keys").await;
    assert_eq!(listed["items"][0]["name"], "lab");
    assert!(!listed.to_string().contains("join_string"));
    let defaults = api.post("/api/v1/enrollment-keys", json!({})).await.1;
    assert_eq!(
        (&defaults["max_uses"], &defaults["expires_at"]),
        (&json!(1), &json!(UnixMs(NOW.0 + 86_400_000).to_string()))
    );
    let (status, taken) = api.post("/api/v1/enrollment-keys", json!({"name": "lab"})).await;
    assert_eq!((status, &taken["code"]), (StatusCode::CONFLICT, &json!("key.name-taken")));

    let (_, counted) =
        api.post("/api/v1/enrollment-keys/lab/revoke", json!({"dry_run": true})).await;
    assert_eq!((&counted["key"]["state"], &counted["devices"]), (&json!("active"), &json!(0)));
    let (_, revoked) = api.post("/api/v1/enrollment-keys/lab/revoke", json!({})).await;
    assert_eq!(revoked["key"]["state"], "revoked");
}

#[tokio::test]
async fn relays_are_added_listed_drained_and_removed() {
    let api = api();
    let new = json!({"name": "fra1", "region": "fra", "expires_after_s": 60});
    let (status, added) = api.post("/api/v1/relays", new).await;
    assert_eq!(status, StatusCode::CREATED, "{added}");
    assert_eq!((&added["state"], &added["told"]), (&json!("waiting"), &json!(false)));
    let join = added["join_string"].as_str().unwrap();
    assert!(JoinString::parse(join).is_err(), "no device takes it");
    let join = JoinString::parse_for(Joins::Relay, join).ok().unwrap();
    assert_eq!(join.psk.0, api.secrets.relay_enrolment_psk(join.key, 0).unwrap().0);
    assert_eq!(join.addresses[0].authority, "mesh.example.net:443");
    assert!(!api.get("/api/v1/relays").await.to_string().contains("join_string"));

    let configured = NewRelay {
        name: "own".to_owned(),
        v4: Some([203, 0, 113, 10].into()),
        udp: [3_478, 443],
        ..NewRelay::default()
    };
    api.store.set_relays(vec![configured], by(NOW)).await.unwrap();
    let own = api.get("/api/v1/relays/own").await;
    assert_eq!((&own["state"], &own["udp"]), (&json!("healthy"), &json!([3_478, 443])));
    assert_eq!((&own["allocations"], &own["rtt_us"]), (&json!(12), &json!(9_000)));
    let listed = api.get("/api/v1/relays").await;
    let names: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["own", "fra1"]);

    for (path, body, status, code) in [
        ("", json!({"name": "fra1"}), StatusCode::CONFLICT, "relay.name-taken"),
        ("", json!({"name": "Fra"}), StatusCode::UNPROCESSABLE_ENTITY, "relay.bad-name"),
        (
            "",
            json!({"name": "x", "region": "a b"}),
            StatusCode::UNPROCESSABLE_ENTITY,
            "relay.bad-region",
        ),
        (
            "",
            json!({"name": "x", "expires_after_s": 0}),
            StatusCode::UNPROCESSABLE_ENTITY,
            "relay.bad-expiry",
        ),
        ("/own/drain", json!({"draining": true}), StatusCode::CONFLICT, "relay.configured"),
        ("/fra2/drain", json!({"draining": true}), StatusCode::NOT_FOUND, "relay.not-found"),
    ] {
        let (found, problem) = api.post(&format!("/api/v1/relays{path}"), body).await;
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{path}: {problem}");
    }
    let (status, _) = api.post("/api/v1/relays/fra1/drain", json!({"draining": true})).await;
    assert_eq!(status, StatusCode::OK);
    let path = "/api/v1/relays/fra1";
    let (status, removed) = api.call(From::Socket, Method::DELETE, path, None, None).await;
    assert_eq!((status, &removed["name"]), (StatusCode::OK, &json!("fra1")));
    let (status, _) = api.call(From::Socket, Method::GET, path, None, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let events = api.get("/api/v1/audit-events?limit=50").await.to_string();
    for action in ["relay.add", "relay.drain", "relay.remove"] {
        assert!(events.contains(action), "{action}: {events}");
    }
}

#[tokio::test]
async fn devices_are_listed_and_searched_page_by_page() {
    let api = api();
    for name in ["gw-a", "gw-b", "plc-a", "plc-b"] {
        api.enrol(name, false).await;
    }
    api.enrol("new", true).await;
    let names = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = api.get("/api/v1/devices").await;
    assert_eq!(names(&all), ["gw-a", "gw-b", "new", "plc-a", "plc-b"]);
    assert_eq!(
        (&all["total"], &all["matched"], &all["next_cursor"]),
        (&json!(5), &json!(5), &Value::Null)
    );
    let online = api.get("/api/v1/devices?q=status:online%20plc").await;
    assert_eq!((names(&online), &online["total"]), (vec!["plc-b".to_owned()], &json!(5)));
    let first = &online["items"][0];
    assert_eq!(first["path_summary"], json!({"direct": 1, "relay": 0, "idle": 2}));
    assert_eq!(first["policy"], json!({"peers": 3, "may_reach": 3, "reachable_from": 3}));
    assert_eq!(names(&api.get("/api/v1/devices?q=-status:online,offline").await), ["new"]);

    let mut seen = Vec::new();
    let mut path = "/api/v1/devices?limit=2".to_owned();
    loop {
        let page = api.get(&path).await;
        seen.extend(names(&page));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/devices?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, names(&all));
    let other = path.replace("cursor=", "q=gw&cursor=");
    let (status, _) = api.call(From::Socket, Method::GET, &other, None, None).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "a cursor of another search");
    let (status, problem) =
        api.call(From::Socket, Method::GET, "/api/v1/devices?q=nat:easy", None, None).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("device.query"))
    );
}

#[tokio::test]
async fn devices_are_found_and_decided_on() {
    let api = api();
    let a = api.enrol("gw-a", false).await;
    let b = api.enrol("gw-b", true).await;
    for wanted in [
        "gw-a",
        "gw-a.home",
        "100.93.0.2",
        "fdfd:fdfd:fdfd::2",
        &a.id.to_string(),
        &a.id.to_string()[..10],
    ] {
        assert_eq!(api.get(&format!("/api/v1/devices/{wanted}")).await["name"], "gw-a", "{wanted}");
    }
    let (status, problem) =
        api.call(From::Socket, Method::GET, "/api/v1/devices/gw-x", None, None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(problem["title"], r#"there is no device "gw-x"; there is "gw-a""#);

    let (_, action) = api.post("/api/v1/devices/gw-b/approve", json!({})).await;
    assert_eq!(
        (&action["action"], &action["addresses"][0], &action["total"]),
        (&json!("approve"), &json!("100.93.0.3"), &json!(1))
    );
    let (status, problem) = api.post("/api/v1/devices/gw-b/approve", json!({})).await;
    assert_eq!(
        (status, &problem["title"]),
        (StatusCode::CONFLICT, &json!("gw-b is active: there is nothing to approve"))
    );
    let (_, action) = api.post("/api/v1/devices/gw-b/block", json!({"reason": "stolen"})).await;
    assert_eq!(action["bound_at"], UnixMs(NOW.0 + 3_600_000).to_string());
    assert_eq!(api.get("/api/v1/devices/gw-b").await["standing_reason"], "stolen");
    let (status, _) =
        api.post("/api/v1/devices/gw-b/block", json!({"reason": "x".repeat(97)})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);

    let patch = async |version: Option<&str>| {
        let body = Some(json!({"name": "gw-c"}));
        api.call(From::Socket, Method::PATCH, "/api/v1/devices/gw-a", body, version).await.0
    };
    assert_eq!(patch(None).await, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(patch(Some("\"99\"")).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(patch(Some("\"1\"")).await, StatusCode::OK);
    let (status, _) =
        api.call(From::Socket, Method::DELETE, "/api/v1/devices/gw-c", None, Some("2")).await;
    assert_eq!(status, StatusCode::OK);
    let commanded = api
        .post(&format!("/api/v1/devices/{}/commands", b.id), json!({"command": "restart"}))
        .await;
    assert_eq!(commanded, (StatusCode::OK, json!({"command": "restart"})));
    let (status, looked) = api
        .post(&format!("/api/v1/devices/{}/commands", b.id), json!({"command": "netcheck"}))
        .await;
    assert_eq!(status, StatusCode::OK, "{looked}");
    let found = &looked["netcheck"];
    assert_eq!((&found["ipv4"], &found["ipv6"]), (&json!("203.0.113.50"), &Value::Null));
    assert_eq!((&found["mapping"], &found["window"]), (&json!("window"), &json!(512)));
    assert_eq!(found["relays"], json!([{"number": 3, "rung": "tls", "rtt_us": 23_100}]));
}

#[tokio::test]
async fn commands_say_who_is_away() {
    let api = api();
    api.enrol("gw-a", false).await;
    let (status, problem) =
        api.post("/api/v1/devices/gw-a/commands", json!({"command": "restart"})).await;
    assert_eq!(
        (status, &problem["title"]),
        (StatusCode::CONFLICT, &json!("gw-a is not connected"))
    );
    let (status, _) =
        api.post("/api/v1/devices/gw-a/commands", json!({"command": "explode"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

/// Another machine with its identity is shown with the device, and let go.
#[tokio::test]
async fn a_copy_is_shown_until_it_is_released() {
    let api = api();
    let device = api.enrol("gw-a", false).await;
    let own = device.agent().unwrap().inbox;
    let hear = async |n: u8| {
        let instance = weft_wire::id::Instance([n; 8]);
        let fresh = weft_wire::id::Inbox(common::fleet::unique());
        let address = Some([203, 0, 113, n].into());
        let heard = Heard { instance, inbox: own, address, at: NOW, fresh };
        api.store.hear(device.id, heard).await.unwrap()
    };
    let release = || api.post("/api/v1/devices/gw-a/release", json!({}));
    let (status, problem) = release().await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::CONFLICT, &json!("device.not-quarantined"))
    );
    for n in [1, 2, 1] {
        hear(n).await;
    }
    let shown = api.get("/api/v1/devices/gw-a").await;
    assert_eq!(
        (&shown["copy"]["address"], &shown["copy"]["quarantined_at"]),
        (&json!("203.0.113.2"), &Value::Null)
    );
    let from = Some([203, 0, 113, 9].into());
    api.store.hear_copy(device.id, own, from, NOW).await.unwrap();
    let listed = api.get("/api/v1/devices?q=status%3Acloned").await;
    assert_eq!(listed["matched"], 1);
    assert_eq!(listed["items"][0]["copy"]["address"], "203.0.113.9");
    assert_eq!(listed["items"][0]["copy"]["quarantined_at"], NOW.to_string());
    let print = listed["items"][0]["fingerprint"].as_str().unwrap().to_owned();
    let why = api.get(&format!("/api/v1/fingerprints/{print}")).await;
    assert!(why["sentence"].as_str().unwrap().contains("another machine uses its identity"));
    let (status, action) = release().await;
    assert_eq!((status, &action["action"]), (StatusCode::OK, &json!("release")), "{action}");
    assert_eq!(api.get("/api/v1/devices/gw-a").await["copy"], Value::Null);
}

#[tokio::test]
async fn a_deleted_device_is_named_until_it_is_forgotten() {
    let api = api();
    let first = api.enrol("gw-a", false).await;
    let forget = async |wanted: &str| {
        api.post(&format!("/api/v1/tombstones/{wanted}/forget"), json!({})).await
    };
    assert_eq!(forget("gw-a").await.1["code"], "device.not-deleted");
    assert_eq!(forget("gw-x").await.1["code"], "device.not-found");
    let delete = async |device: &weft_coordinator::domain::device::Device| {
        let decision = weft_coordinator::domain::device::Decision::Delete;
        api.store.decide(device.id, decision, None, by(NOW)).await.unwrap();
    };
    delete(&first).await;
    let show = || api.call(From::Socket, Method::GET, "/api/v1/devices/gw-a", None, None);
    let (status, problem) = show().await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("device.deleted")));
    assert_eq!(problem["labels"][0][1], "weft-coordinator device forget gw-a");
    // Two of one name are told apart by id.
    let second = api.enrol("gw-a", false).await;
    delete(&second).await;
    let stones = api.get("/api/v1/tombstones").await;
    assert_eq!((&stones["total"], &stones["items"][0]["name"]), (&json!(2), &json!("gw-a")));
    let problem = forget("gw-a").await.1;
    assert_eq!(problem["code"], "device.ambiguous");
    assert!(problem["title"].as_str().unwrap().contains(&first.id.to_string()));
    assert_eq!(forget(&first.id.to_string()).await.0, StatusCode::OK);
    let (status, stone) = forget("gw-a.home").await;
    assert_eq!((status, &stone["id"]), (StatusCode::OK, &json!(second.id.to_string())));
    assert_eq!(api.get("/api/v1/tombstones").await["total"], 0);
    assert_eq!(show().await.1["code"], "device.not-found");
}

/// A device that is connected and applies the new map is counted; one that is
/// away is not waited for.
#[tokio::test]
async fn actions_wait_for_those_who_are_there() {
    let api = api();
    let subject = api.enrol("gw-a", false).await;
    let there = api.enrol("gw-b", false).await;
    api.enrol("gw-c", false).await;
    let mut changes = api.store.changes();
    let action = api.post("/api/v1/devices/gw-a/block", json!({"wait_ms": 10_000}));
    let confirm = async {
        let change = changes.recv().await.unwrap();
        api.store.set_applied(there.id, change.maps[0].revision).await.unwrap();
    };
    let ((status, action), ()) = tokio::join!(action, confirm);
    assert_eq!(status, StatusCode::OK, "{action}");
    assert_eq!((&action["confirmed"], &action["total"]), (&json!(1), &json!(2)));
    assert_eq!(action["subject"], subject.id.to_string());
}

#[tokio::test]
async fn plain_wireguard_peers_get_their_file() {
    let api = api();
    let gateway = api.enrol("gw-a", false).await;
    let key = "QuADPb3MUw25lqYypUhOP5RbxxfHOoEHiBDHWwTOaCs=";
    let new = json!({"name": "phone", "public_key": key, "endpoint": "192.0.2.9:51820"});
    let (status, created) = api.post("/api/v1/devices", new.clone()).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    assert_eq!(
        (&created["device"]["kind"], &created["device"]["status"]),
        (&json!("wireguard"), &Value::Null)
    );
    let file = created["config"].as_str().unwrap();
    let phone = created["device"]["id"].as_str().unwrap().parse().unwrap();
    let psk = api.secrets.pair_secret(gateway.network, gateway.id, phone, 1);
    let expected = format!(
        "[Interface]\n# phone.home, {}\n# the private key that belongs to {key}\n\
         PrivateKey = PUT-THE-PRIVATE-KEY-HERE\nAddress = 100.93.0.3/32, fdfd:fdfd:fdfd::3/128\n\
         MTU = 1280\nListenPort = 51820\n\n[Peer]\n# gw-a, {}\nPublicKey = {}\nPresharedKey = {}\n\
         AllowedIPs = 100.93.0.2/32, fdfd:fdfd:fdfd::2/128\nEndpoint = 192.0.2.1:51871\n",
        created["device"]["id"].as_str().unwrap(),
        gateway.id,
        weft_wire::base64::encode(&gateway.wg_key.0),
        weft_wire::base64::encode(&psk.0),
    );
    assert_eq!(file, expected);
    for (field, value, code) in [
        ("public_key", "x", "device.bad-key"),
        ("endpoint", "192.0.2.9", "device.bad-endpoint"),
        ("name", "Phone", "device.bad-name"),
        ("name", "tablet", "device.key-in-use"),
    ] {
        let mut wrong = new.clone();
        wrong[field] = json!(value);
        assert_eq!(api.post("/api/v1/devices", wrong).await.1["code"], code);
    }
    let no_psk = json!({"name": "tablet", "no_psk": true, "public_key": "//////////////////////////////////////////8="});
    let (_, created) = api.post("/api/v1/devices", no_psk).await;
    assert!(!created["config"].as_str().unwrap().contains("PresharedKey"));
}

#[tokio::test]
async fn policies_are_read_tried_and_set() {
    let api = api();
    api.enrol("gw-a", false).await;
    let policy = api.get("/api/v1/networks/home/policy").await;
    assert_eq!(policy["rules"][0]["allow"], json!(["any"]));
    let rules = json!({"rules": [{"name": "web", "from": ["any"], "to": ["any"], "allow": ["tcp/80", "icmp"]}]});
    let put = async |path: &str, body: &Value, version: Option<&str>| {
        let path = format!("/api/v1/networks/home/policy{path}");
        api.call(From::Socket, Method::PUT, &path, Some(body.clone()), version).await
    };
    let (_, tried) = put("?dry_run=true", &rules, Some("1")).await;
    assert_eq!(tried, json!({"revision": 2, "devices_affected": 1}));
    assert_eq!(api.get("/api/v1/networks/home/policy").await["revision"], 1);
    assert_eq!(put("", &rules, None).await.0, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(put("", &rules, Some("7")).await.0, StatusCode::PRECONDITION_FAILED);
    assert_eq!(put("", &rules, Some("1")).await.0, StatusCode::OK);
    let policy = api.get("/api/v1/networks/home/policy").await;
    assert_eq!(
        (&policy["revision"], &policy["rules"][0]["allow"]),
        (&json!(2), &json!(["icmp", "tcp/80"]))
    );
    let wrong = json!({"rules": [{"from": ["any"], "to": [], "allow": ["tcp/80"]}]});
    let (status, problem) = put("", &wrong, Some("2")).await;
    assert_eq!(
        (status, &problem["title"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("rule 1: a side is empty"))
    );
    let many: Vec<_> = (1..=65).map(|port| format!("tcp/{port}")).collect();
    let many = json!({"rules": [{"from": ["any"], "to": ["any"], "allow": many}]});
    let (_, problem) = put("", &many, Some("2")).await;
    assert_eq!(problem["title"], "65 different kinds of traffic; 64 are possible");
}

#[tokio::test]
async fn audit_and_networks_are_read() {
    let api = api();
    let device = api.enrol("gw-a", false).await;
    let rows = api.get("/api/v1/audit-events?after=1").await;
    assert_eq!(
        (&rows[1]["action"], &rows[1]["subject"]),
        (&json!("device.enrol"), &json!(device.id.to_string()))
    );
    assert_eq!(rows[1]["prev_hash"], rows[0]["hash"]);
    assert_eq!(api.get("/api/v1/audit-events/verify").await, json!({"rows": 3, "broken_at": null}));
    let networks = api.get("/api/v1/networks").await;
    assert_eq!(
        (&networks[0]["ipv4"], &networks[0]["members"], &networks[0]["capacity"]),
        (&json!("100.93.0.0/24"), &json!(1), &json!(253))
    );
    assert_eq!(api.get("/api/v1/networks/home").await["ipv6"], "fdfd:fdfd:fdfd::/48");
    assert_eq!(
        api.get("/api/v1/coordinator").await["addresses"][0],
        "mqtt://mesh.example.net:7420"
    );
}

#[tokio::test]
async fn why_not_knows_every_standing() {
    let api = api();
    let device = api.enrol("gw-a", true).await;
    let print = weft_noise::mac::fingerprint(&device.agent().unwrap().identity).to_string();
    let ask = async |print: &str| {
        api.call(From::Socket, Method::GET, &format!("/api/v1/fingerprints/{print}"), None, None)
            .await
    };
    let (_, answer) = ask(&print).await;
    assert_eq!(answer["try"], "weft-coordinator device approve gw-a");
    api.post("/api/v1/devices/gw-a/approve", json!({})).await;
    assert_eq!(ask(&print.to_lowercase()).await.1["member"], true);
    api.call(From::Socket, Method::DELETE, "/api/v1/devices/gw-a", None, Some("2")).await;
    let (_, answer) = ask(&print).await;
    assert!(answer["sentence"].as_str().unwrap().starts_with("gw-a was deleted on "), "{answer}");
    assert_eq!(ask("AAAA-AAAA-AAAA-AAAA").await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("AAAA").await.1["code"], "fingerprint.form");
}

#[tokio::test]
async fn a_pair_is_explained_by_both_ends() {
    use weft_coordinator::domain::paths::{Connection, NatState, Reported};
    use weft_wire::path::{Rung, Way};
    use weft_wire::signal::Mapping;

    let api = api();
    // Those with an even id are there.
    let mut ids = Vec::new();
    for name in ["away", "gw-a", "odd", "gw-b"] {
        ids.push(api.enrol(name, false).await.id);
    }
    let [away, a, _, b] = ids[..] else { panic!("four devices") };
    let unknown = api.get("/api/v1/connections/gw-a/gw-b").await;
    assert_eq!(unknown["verdict"]["code"], "unknown.no-evidence");
    assert_eq!(unknown["verdict"]["advice"][0]["command"], "weft ping gw-b");
    assert_eq!(unknown["evidence"]["a"]["path"], Value::Null);

    let attempt = weft_coordinator::domain::paths::Attempt {
        end: Some(weft_wire::verdict::AttemptEnd::NoAnswer),
        at: UnixMs(NOW.0 - 240_000),
        failed: 12,
        own: Mapping::Random,
        peer: Mapping::Random,
        tried: 4,
        answered: 0,
        sent: 28,
        took: core::time::Duration::from_millis(1_300),
    };
    for (device, peer) in [(a, b), (b, a)] {
        let nat = NatState {
            at: NOW,
            started: UnixMs(NOW.0 - 3_600_000),
            mapping: Mapping::Random,
            mapped: Some(NOW),
            lifetime: None,
            seen: vec![format!("198.51.100.{}:51871", device.0).parse().unwrap()],
        };
        let word = Connection {
            device,
            peer,
            at: NOW,
            way: Way::Relay { relay: 1, rung: Some(Rung::Udp) },
            since: UnixMs(NOW.0 - 7_200_000),
            rtt: Some(core::time::Duration::from_millis(48)),
            attempt: Some(attempt.clone()),
            next: None,
        };
        let reported = Reported { device, nat, connections: vec![word] };
        api.store.report_paths(reported).await.unwrap();
    }
    let why = api.get("/api/v1/connections/gw-a/gw-b").await;
    let verdict = &why["verdict"];
    assert_eq!((&verdict["code"], &verdict["number"]), (&json!("relay.both-random"), &json!(202)));
    assert_eq!(verdict["params"]["a"], "gw-a");
    assert_eq!(why["evidence"]["a"]["path"]["relay"], "1", "no relay of ours has that number");
    assert_eq!(why["evidence"]["b"]["mapping"], "random");
    assert_eq!(why["evidence"]["policy"]["name"], "everyone to everyone");
    assert_eq!(why["attempts"][0]["outcome"], "no_answer");
    assert_eq!(why["attempts"].as_array().unwrap().len(), 2);
    let zh = api.get("/api/v1/connections/gw-a/gw-b?lang=zh").await;
    assert!(zh["verdict"]["sentence"].as_str().unwrap().starts_with("经中继:gw-a 与 gw-b"), "{zh}");
    let listed = api.get("/api/v1/devices/gw-a/connections").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    assert_eq!(listed["items"][0]["rtt_us"], 48_000);
    assert_eq!(api.get("/api/v1/connections").await["items"].as_array().unwrap().len(), 2);
    assert_eq!(away, DeviceId(1));
    let offline = api.get("/api/v1/connections/gw-a/away").await;
    assert_eq!(
        (&offline["verdict"]["code"], &offline["verdict"]["good"]),
        (&json!("peer.offline"), &json!(false))
    );
    for (path, code) in [
        ("gw-a/gw-a", "why.same"),
        ("gw-a/gw-x", "device.not-found"),
        ("gw-a/gw-b?traffic=tpc/22", "why.traffic"),
        ("gw-a/gw-b?lang=fr", "why.language"),
    ] {
        let path = format!("/api/v1/connections/{path}");
        let (_, problem) = api.call(From::Socket, Method::GET, &path, None, None).await;
        assert_eq!(problem["code"], code, "{problem}");
    }
}
