use super::*;
use crate::ipc::protocol::{Data, Key};

const SYMBOLS: Symbols = Symbols { ok: "✓", warn: "!", fail: "✗", skip: "·", none: "–" };

pub(in crate::cli) fn sample() -> Status {
    let addresses = |host: u16| {
        let v4 = [100, 93, 0, host as u8].into();
        (v4, [0xfd5c, 0x7e0a, 0x91b3, 0, 0, 0, 0, host].into())
    };
    let peer = |id: &str, name: &str, host, path, rtt_us, data_ms| Peer {
        id: id.to_owned(),
        name: name.to_owned(),
        addresses: addresses(host),
        routes: Vec::new(),
        path,
        since_ms: data_ms,
        rtt_us,
        rtt_ms_ago: rtt_us.map(|_| 3_000),
        rx_bytes: 1_204_551,
        tx_bytes: 310_224,
        data_ms,
        handshake_ms: data_ms,
        psk_mark: None,
    };
    let remote = "203.0.113.22:51871".to_owned();
    Status {
        pid: 812,
        up_s: 273_840,
        device: Some(Device {
            id: "dev_2j7m5ctnuzov".to_owned(),
            name: "gw-a".to_owned(),
            network: "home".to_owned(),
            fingerprint: "XMUG-3JSC-LGSF-7XZL".to_owned(),
            addresses: Some(addresses(2)),
            range: Some(([100, 93, 0, 0].into(), 16)),
            standing: "active".to_owned(),
            reason: String::new(),
            since_ms: None,
            other: None,
        }),
        interface: Some("weft0".to_owned()),
        mtu: Some(1_280),
        port: 51_871,
        coordinator: Coordinator {
            host: "mesh.example.net".to_owned(),
            address: "mqtt://mesh.example.net:7420".to_owned(),
            fingerprint: "BKDL-AME4-GXHL-EGZ3".to_owned(),
            online: true,
            connected: true,
            unproven_s: None,
            relay_line: false,
            heard_ms: Some(12_000),
            cause: None,
            map: Some(("5f1c09aa".to_owned(), 42)),
        },
        lease_s: Some(604_788),
        time_told: true,
        peers: vec![
            peer("dev_oofhjqyhw2lx", "plc-7", 9, Path::Idle, None, Some(7_200_000)),
            peer("dev_uvcdtue5nvx5", "gw-b", 3, Path::Direct { remote }, Some(20_400), Some(0)),
        ],
        refused_peers: 0,
        drops: vec![("denied".to_owned(), 3)],
        overlap: None,
        key: Key { state: KeyState::Settled, changed_ms: None },
        relays: Vec::new(),
        data: Data {
            day: Some(20_780),
            control: 9_120,
            keepalive: 4_032,
            probe: 5_059,
            relay_overhead: 0,
            payload: 12_045_992,
            budget: Some(1_000_000),
            metered: true,
            used_up: false,
        },
    }
}

fn text(status: &Status, width: Option<usize>) -> String {
    let lines = describe(status, SYMBOLS, width).join("\n");
    anstream::adapter::strip_str(&lines).to_string()
}

#[test]
fn status_fits_eighty_columns() {
    let text = text(&sample(), Some(80));
    assert_eq!(
        text,
        "gw-a.home   100.93.0.2   fd5c:7e0a:91b3::2        up 3 d 4 h, weft 0.1.0\n\
         coordinator ✓ mesh.example.net, heard 12 s ago, map 42\n\
         lease       ✓ works 6 d 23 h without the coordinator\n\
         data today  18.2 kB of 1 MB (control 9.1, keepalive 4.0, probes 5.1)\n\
         \n\
         PEER   ADDRESS     PATH                       RTT      LAST DATA  RX      TX\n\
         gw-b   100.93.0.3  direct 203.0.113.22:51871  20.4 ms  now        1.2 MB  310 kB\n\
         plc-7  100.93.0.9  idle   rings on demand     –        2 h ago    1.2 MB  310 kB"
    );
    assert!(text.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_carrier_of_need_is_named() {
    let mut status = sample();
    status.coordinator.address = "https://mesh.example.net:443".to_owned();
    let text = text(&status, None);
    assert!(text.contains("mesh.example.net by https, heard 12 s ago"), "{text}");
}

#[test]
fn a_pipe_gets_every_column() {
    let text = text(&sample(), None);
    let head = text.lines().find(|line| line.starts_with("PEER")).unwrap();
    assert!(COLUMNS.iter().all(|column| head.contains(column.title)), "{head}");
}

#[test]
fn layers_turn_one_by_one() {
    let mut status = sample();
    status.coordinator.online = false;
    status.coordinator.heard_ms = Some(7_860_000);
    status.lease_s = Some(594_000);
    let lost = text(&status, None);
    assert!(
        lost.contains(
            "coordinator ! not heard for 2 h 11 min; tunnels go on, lease ends in 6 d 21 h"
        ),
        "{lost}"
    );
    status.coordinator.relay_line = true;
    let lost = text(&status, None);
    assert!(lost.contains("lease ends in 6 d 21 h, peers call over a relay"), "{lost}");
    assert!(is_good(&sample()) && !is_good(&status));
    status.coordinator.unproven_s = Some(UNPROVEN_S - 1);
    assert!(!text(&status, None).contains("proved"));
    status.coordinator.unproven_s = Some(720);
    let unproven = text(&status, None);
    let note = "note: mesh.example.net lets this machine in and has not proved for 12 min to be \
                BKDL-AME4-GXHL-EGZ3: its key changed while this machine was away, or this \
                device was deleted; if so, a new join string takes it in:  weft join \
                --replace WEFT1…";
    assert!(unproven.contains(note), "{unproven}");
    status.lease_s = Some(0);
    status.coordinator.heard_ms = None;
    status.coordinator.cause = Some("refused".to_owned());
    status.overlap = Some(("wwan0".to_owned(), "100.93.12.7/16".to_owned()));
    let ended = text(&status, None);
    assert!(ended.contains("coordinator ! mesh.example.net not heard since the start (refused)"));
    assert!(ended.contains("lease       ✗ ended: peers refuse this machine"));
    assert!(ended.contains("note: 100.93.12.7/16 of wwan0 has addresses of the mesh"));
    status.device.as_mut().unwrap().standing = "pending".to_owned();
    assert!(
        text(&status, None)
            .contains("standing    ! waits for approval as gw-a, fingerprint XMUG-3JSC-LGSF-7XZL")
    );
}

#[test]
fn who_is_out_is_told_so() {
    let mut status = sample();
    status.device.as_mut().unwrap().standing = "blocked".to_owned();
    status.coordinator.online = false;
    status.lease_s = None;
    status.peers.clear();
    let blocked = text(&status, None);
    assert!(
        blocked.contains(
            "coordinator ! mesh.example.net, heard 12 s ago; \
             asked every 5 min whether that has ended"
        ),
        "{blocked}"
    );
    assert!(blocked.contains("standing    ! blocked by an operator; no peers"), "{blocked}");
    assert!(!blocked.contains("tunnels go on") && !blocked.contains("lease"), "{blocked}");
}

#[test]
fn why_there_are_no_peers_is_said_in_one_sentence() {
    let mut status = sample();
    let other = OtherMachine { address: Some("203.0.113.21".to_owned()), heard_ms: Some(10_000) };
    status.device.as_mut().unwrap().other = Some(other);
    let kept = text(&status, None);
    let note = "note: another machine used this identity (from 203.0.113.21, heard 10 s ago); \
                it is quarantined, this one is kept";
    assert!(kept.contains(note), "{kept}");
    let mut say = |standing: &str, reason: &str| {
        let device = status.device.as_mut().unwrap();
        (device.standing, device.reason) = (standing.to_owned(), reason.to_owned());
        text(&status, None)
    };
    let said = say("quarantined", "");
    assert!(said.contains(
        "standing    ! quarantined: another machine uses this identity (from 203.0.113.21, \
         heard 10 s ago); no peers until an operator decides"
    ));
    assert!(!said.contains("note:"), "{said}");
    assert!(say("blocked", "stolen").contains("! blocked by an operator: \"stolen\"; no peers"));
    assert!(say("rejected", "").contains("! rejected by an operator\n"));
    let waits = say("pending", "lost with a restored backup");
    assert!(waits.contains("fingerprint XMUG-3JSC-LGSF-7XZL: \"lost with a restored backup\"\n"));
    assert!(!is_good(&status));
}

#[test]
fn a_budget_that_is_used_up_says_so() {
    let mut status = sample();
    let line = |status: &Status| {
        let text = text(status, None);
        text.lines().find(|line| line.starts_with("data today")).unwrap().to_owned()
    };
    status.data =
        Data { relay_overhead: 981_800, used_up: true, budget: Some(1_000_000), ..status.data };
    assert_eq!(
        line(&status),
        "data today  ! 1.0 MB of 1 MB (control 0.0, keepalive 0.0, probes 0.0, relay 1.0); used \
         up: better ways are looked for from 00:00 UTC on"
    );
    status.data = Data { day: None, control: 812, ..Data::default() };
    assert_eq!(
        line(&status),
        "data today  812 B (control 812, keepalive 0, probes 0); since the start"
    );
}

#[test]
fn many_peers_are_counted() {
    let mut status = sample();
    for number in 0..40 {
        let mut peer = status.peers[0].clone();
        peer.name = format!("plc-{number:03}");
        peer.data_ms = Some(number);
        status.peers.push(peer);
    }
    let text = text(&status, None);
    assert!(text.contains("42 peers: 1 direct, 41 idle\n"));
    assert!(text.ends_with("the 20 last active of 42 peers:  weft peers"));
    assert!(text.contains("plc-018") && !text.contains("plc-025"));
}

#[test]
fn relayed_peers_and_old_round_trips_are_told_as_such() {
    let mut status = sample();
    let peer = &mut status.peers[1];
    let remote = "203.0.113.10".to_owned();
    let rung = Some("tls".to_owned());
    peer.path = Path::Relay { remote, name: None, number: 1, rung };
    peer.rtt_ms_ago = Some(180_000);
    let said = text(&status, None);
    assert!(said.contains("relay  203.0.113.10 tls  20.4 ms (3 min ago)"), "{said}");
    assert!(said.ends_with("note: gw-b is relayed; the reason:  weft why gw-b"), "{said}");
    if let Path::Relay { name, .. } = &mut status.peers[1].path {
        *name = Some("fra1".to_owned());
    }
    let said = text(&status, None);
    assert!(said.contains("relay  fra1 tls "), "{said}");
    let json = serde_json::to_value(document(&status, &Verdicts::new(), 0)).unwrap();
    let path = &json["peers"][0]["path"];
    assert_eq!((&path["relay_name"], &path["remote"]), (&"fra1".into(), &"203.0.113.10".into()));
    status.peers[0].path = Path::Nowhere;
    let said = text(&status, None);
    assert!(said.contains("none   no way found"), "{said}");
    assert!(said.ends_with("note: plc-7 cannot be reached; the reason:  weft why plc-7"), "{said}");
}

#[test]
fn the_document_begins_with_its_schema_and_keeps_its_names() {
    let now = 1_795_446_257_123;
    let text = serde_json::to_string(&document(&sample(), &Verdicts::new(), now)).unwrap();
    let start = r#"{"schema":"weft.status/1","device":{"id":"dev_2j7m5ctnuzov","name":"gw-a","network":"home","addresses":["100.93.0.2","fd5c:7e0a:91b3::2"],"standing":"active","version":"0.1.0","standing_since":null,"standing_reason":null,"other_machine":null,"fingerprint":"XMUG-3JSC-LGSF-7XZL"},"up_s":273840,"clock":"coordinator","coordinator":{"host":"mesh.example.net","fingerprint":"BKDL-AME4-GXHL-EGZ3","state":"connected","carrier":"mqtt","last_heard":"2026-11-23T15:04:05.123Z","relay_line":false,"epoch":"5f1c09aa","revision":42,"verdict":null},"internet":null,"lease":{"ends_at":"2026-11-30T15:04:05.123Z","remaining_s":604788},"data_today":{"day":"2026-11-23","budget_bytes":1000000,"metered":true,"used_up":false,"bytes":18211,"by_cause":{"control":9120,"keepalive":4032,"probe":5059,"relay_overhead":0},"payload_bytes":12045992},"interface":"weft0","mtu":1280,"listen_port":51871,"peers":[{"id":"dev_uvcdtue5nvx5","name":"gw-b","#;
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains(r#""path":{"kind":"direct","remote":"203.0.113.22:51871","relay":null,"relay_name":null,"rung":null,"since":"2026-11-23T15:04:17.123Z"},"rtt_us":20400,"rtt_at":"2026-11-23T15:04:14.123Z","loss_ppm":null,"rx_bytes":1204551,"tx_bytes":310224,"last_data":"2026-11-23T15:04:17.123Z""#), "{text}");
    assert!(text.ends_with(r#""relays":[],"drops":{"denied":3},"notes":[]}"#), "{text}");
}

#[test]
fn relays_are_listed_with_the_end_of_credentials_and_nothing_else_of_them() {
    let relay = |number, until_s| Relay {
        name: (number == 1).then(|| "fra1".to_owned()),
        number,
        addresses: (Some([203, 0, 113, 10].into()), None),
        udp: vec![3_478, 443],
        tcp: Some(443),
        tls: None,
        until_s,
        rtt_ms: (number == 1).then_some(23),
    };
    let relays = vec![relay(1, Some(1_795_446_257)), relay(300, None)];
    let text =
        serde_json::to_string(&document(&Status { relays, ..sample() }, &Verdicts::new(), 0))
            .unwrap();
    let first = r#"{"number":1,"ipv4":"203.0.113.10","ipv6":null,"udp":[3478,443],"tcp":443,"tls":null,"credentials_until":"2026-11-23T15:04:17.000Z","name":"fra1","rtt_ms":23}"#;
    assert!(text.contains(&format!(r#""relays":[{first},{{"number":300,"#)), "{text}");
    assert!(text.contains(r#""credentials_until":null,"name":null,"rtt_ms":null}]"#), "{text}");
}
