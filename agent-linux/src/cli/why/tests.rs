use super::*;
use crate::cli::status::tests::sample;
use crate::ipc::protocol::RelayFailure;

const SYMBOLS: Symbols = Symbols { ok: "✓", warn: "!", fail: "✗", skip: "·", none: "–" };

fn tried(end: AttemptEnd) -> Tried {
    let answered = u8::from(end == AttemptEnd::Found);
    Tried { end: end as u16, ago_ms: 240_000, took_ms: 233, tried: 4, answered, sent: 28 }
}

fn evidence(own: Mapping, peer: Mapping, ends: &[AttemptEnd]) -> Evidence {
    let failed = ends.iter().take_while(|end| **end != AttemptEnd::Found).count();
    Evidence {
        seen: vec!["198.51.100.7:51871".to_owned()],
        open: None,
        mapping: own,
        mapped_ms: Some(1_000),
        peer_mapping: peer,
        attempts: ends.iter().copied().map(tried).collect(),
        failed: failed as u16,
        trying_ms: None,
        next_ms: None,
        mapped: None,
        relay_failure: None,
        withdrawn: Vec::new(),
        allowed: [vec!["any".to_owned()], vec!["any".to_owned()]],
    }
}

/// The sample's gw-b, reached this way.
fn reached(path: Path) -> (Status, Peer) {
    let status = sample();
    let peer = status.peers.iter().find(|peer| peer.name == "gw-b").expect("it is there");
    let peer = Peer { path, since_ms: Some(7_200_000), ..peer.clone() };
    (status, peer)
}

fn relay(rung: Option<&str>) -> Path {
    let remote = "203.0.113.10".to_owned();
    Path::Relay { remote, name: None, number: 1, rung: rung.map(str::to_owned) }
}

#[track_caller]
fn says(path: Path, evidence: &Evidence, line: &str) {
    let (status, peer) = reached(path);
    let judged = judge(&status, &peer, evidence, None);
    assert_eq!(format!("{}  [{}]", judged.sentence(Language::En), judged.verdict.code()), line);
}

const EASY: Mapping = Mapping::EndpointIndependent;

#[test]
fn relayed_peers_have_their_reason() {
    use AttemptEnd::{Lost, NoAnswer};
    use Mapping::{Random, Sequential, Unknown};
    let vain = |own, peer| evidence(own, peer, &[NoAnswer, NoAnswer]);
    let udp = || relay(Some("udp"));
    says(
        udp(),
        &vain(Random, Random),
        "Relayed: gw-a and gw-b both sit behind NATs that pick a new random port for every destination, so neither side can guess where to send.  [relay.both-random]",
    );
    says(
        relay(None),
        &vain(EASY, Random),
        "Relayed: gw-b gets a random port per destination and the NAT of the other side only lets exact answers in; about 32,256 probes would be needed.  [relay.random-restricted]",
    );
    says(
        udp(),
        &vain(EASY, EASY),
        "Relayed: both NATs look easy, yet no probe arrived (28 sent); a firewall near gw-a or gw-b drops them.  [relay.filtered]",
    );
    says(
        udp(),
        &vain(EASY, Sequential(1)),
        "Relayed: the ports of gw-b were predicted 2 times without a hit; other traffic moves its NAT's counter.  [relay.prediction-missed]",
    );
    says(
        udp(),
        &vain(Sequential(1), Random),
        "Relayed: gw-b gets a random port per destination and the NAT of the other side only lets exact answers in; about 32,256 probes would be needed.  [relay.random-restricted]",
    );
    says(
        udp(),
        &vain(EASY, Mapping::Blocked),
        "Relayed: 2 tries without success, the last 4 min ago; next with the next packet or when a network changes.  [relay.waiting]",
    );
    says(
        udp(),
        &evidence(EASY, Random, &[AttemptEnd::NotSearched]),
        "Relayed: a port search could find the way, but it is off for gw-a (its network is metered).  [relay.search-off]",
    );
    says(
        udp(),
        &vain(EASY, Unknown),
        "Relayed: gw-b has not reported its network yet.  [relay.peer-silent]",
    );
    says(
        relay(Some("tls")),
        &vain(EASY, EASY),
        "Relayed over TLS: the network of gw-a blocks UDP.  [relay.udp-blocked]",
    );
    let mut lost = evidence(EASY, EASY, &[Lost]);
    lost.next_ms = Some(15_000);
    says(
        udp(),
        &lost,
        "Relayed since 2 h ago: the direct path stopped answering; next try in 15 s.  [relay.lost-direct]",
    );
    let (mut status, peer) = reached(udp());
    status.data.metered = false;
    let unsearched = evidence(EASY, Random, &[AttemptEnd::NotSearched]);
    let judged = judge(&status, &peer, &unsearched, None);
    assert_eq!(judged.verdict.code(), "relay.search-off");
    assert_eq!(
        judged.sentence(Language::En),
        "Relayed: a port search could find the way, but it is off for gw-a ([network] port_search is false)."
    );
    status.data.used_up = true;
    let judged = judge(&status, &peer, &vain(Random, Random), None);
    assert_eq!(
        judged.sentence(Language::En),
        "Relayed: the data budget of gw-a is used up, probes are off until 00:00 UTC."
    );
    let advice: Vec<_> = judged.advice(Language::En).into_iter().map(|(_, text, _)| text).collect();
    assert_eq!(advice, ["raise the data budget of gw-a"]);
    let mut began = evidence(EASY, EASY, &[]);
    began.trying_ms = Some(400);
    says(
        udp(),
        &began,
        "Relayed for the moment: the direct path is being tried since 400 ms.  [relay.starting]",
    );
}

#[test]
fn direct_and_idle_peers_say_how() {
    let found = |own, peer| evidence(own, peer, &[AttemptEnd::Found]);
    let to = |remote: &str| Path::Direct { remote: remote.to_owned() };
    says(
        to("203.0.113.22:51871"),
        &found(EASY, EASY),
        "Direct: gw-a and gw-b are behind NATs that keep one port; punched in 233 ms, 2 h ago.  [direct.punched]",
    );
    says(
        to("192.168.1.9:51871"),
        &found(EASY, EASY),
        "Direct: gw-a and gw-b are in the same local network.  [direct.lan]",
    );
    says(
        to("[2001:db8::7]:51871"),
        &found(EASY, EASY),
        "Direct over IPv6, no address translation in between.  [direct.ipv6]",
    );
    says(
        to("198.51.100.7:4000"),
        &found(EASY, EASY),
        "Direct: both are behind the same NAT, which turns their packets around.  [direct.hairpin]",
    );
    says(
        to("203.0.113.22:4000"),
        &found(EASY, Mapping::Random),
        "Direct: gw-b changes its port per destination, but the other side accepts answers from any port.  [direct.one-hard]",
    );
    says(
        to("203.0.113.22:4003"),
        &evidence(EASY, Mapping::Sequential(1), &[AttemptEnd::Predicted]),
        "Direct: the NAT of gw-b counts its ports up by 1; guessed on try 28.  [direct.predicted]",
    );
    says(
        to("203.0.113.22:4003"),
        &evidence(Mapping::Random, EASY, &[AttemptEnd::Searched]),
        "Direct: the port of gw-a was found after 28 probes.  [direct.searched]",
    );
    let mut mapped = found(EASY, EASY);
    mapped.mapped = Some(("NAT-PMP".to_owned(), 51_871));
    says(
        to("203.0.113.22:51871"),
        &mapped,
        "Direct: the router of gw-a opened UDP 51871 by NAT-PMP.  [direct.mapped]",
    );
    let mut open = found(EASY, EASY);
    open.open = Some("198.51.100.7:51871".to_owned());
    says(
        to("203.0.113.22:4000"),
        &open,
        "Direct: gw-a can be reached from outside at 198.51.100.7:51871.  [direct.open]",
    );
    says(
        to("203.0.113.22:4000"),
        &found(Mapping::Unknown, Mapping::Unknown),
        "Direct: gw-b can be reached from outside at 203.0.113.22:4000.  [direct.open]",
    );
    says(
        Path::Idle,
        &found(EASY, EASY),
        "Idle: no tunnel now; the first packet rings gw-b and takes about 233 ms longer.  [idle.doorbell]",
    );
    let (status, mut peer) = reached(Path::Idle);
    peer.data_ms = None;
    let never = judge(&status, &peer, &evidence(EASY, EASY, &[]), None);
    assert_eq!(never.sentence(Language::En), "Idle: gw-a and gw-b have never talked.");
    assert_eq!(never.advice(Language::En)[0].2.as_deref(), Some("weft ping gw-b"));
}

#[test]
fn no_way_and_an_own_side_in_trouble() {
    let hard = evidence(Mapping::Random, Mapping::Random, &[AttemptEnd::NoAnswer]);
    says(
        Path::Nowhere,
        &hard,
        "No direct path, and no relay is configured: gw-a and gw-b both sit behind NATs that pick a new random port for every destination, so neither side can guess where to send.  [path.no-relay]",
    );
    let ended = |end| evidence(EASY, EASY, &[end]);
    says(
        Path::Nowhere,
        &ended(AttemptEnd::Offline),
        "gw-b is offline since –; it lost its line to the coordinator.  [peer.offline]",
    );
    says(
        Path::Nowhere,
        &ended(AttemptEnd::Denied),
        "No rule lets gw-a reach gw-b.  [denied.no-rule]",
    );
    says(
        Path::Nowhere,
        &ended(AttemptEnd::NoHandshake),
        "gw-b is online, but does not answer the handshake (28 in 0 s); its agent received –.  [tunnel.no-answer]",
    );
    let mut withdrawn = hard.clone();
    withdrawn.withdrawn = vec!["sgp1".to_owned()];
    says(
        Path::Nowhere,
        &withdrawn,
        "No direct path, and relay sgp1 does not answer since 4 min ago.  [path.relay-down]",
    );
    let (mut status, peer) = reached(Path::Nowhere);
    let (addresses, udp) = ((Some([203, 0, 113, 10].into()), None), vec![3_478]);
    let name = "fra1".to_owned();
    let relay = Relay {
        number: 1,
        name: Some(name),
        addresses,
        udp,
        tcp: None,
        tls: None,
        until_s: None,
        rtt_ms: None,
    };
    status.relays = vec![relay];
    let mut refused = hard.clone();
    let why = "credentials".to_owned();
    refused.relay_failure = Some(RelayFailure { relay: 1, why, refused: true });
    assert_eq!(
        judge(&status, &peer, &refused, None).sentence(Language::En),
        "Relay fra1 refuses gw-a: its credentials do not hold there."
    );
    let sentence = |status: &Status| judge(status, &peer, &hard, None).sentence(Language::En);
    assert_eq!(
        sentence(&status),
        "No direct path, and relay fra1 does not answer since 4 min ago."
    );
    status.overlap = Some(("wwan0".to_owned(), "100.93.12.0/24".to_owned()));
    assert_eq!(
        sentence(&status),
        "gw-a: the mesh range 100.93.0.0/16 overlaps wwan0 100.93.12.0/24."
    );
    status.lease_s = Some(0);
    assert_eq!(
        sentence(&status),
        "The lease of gw-a ended –: peers refuse it until the coordinator answers."
    );
    status.device.as_mut().unwrap().standing = "quarantined".to_owned();
    assert_eq!(sentence(&status), "gw-a is quarantined: two machines use its identity.");
}

#[test]
fn an_answer_reads_from_the_sentence_to_the_tries() {
    let (status, peer) = reached(relay(Some("udp")));
    let mut evidence = evidence(Mapping::Random, Mapping::Random, &[AttemptEnd::NoAnswer]);
    evidence.next_ms = Some(660_000);
    let judged = judge(&status, &peer, &evidence, None);
    let lines = describe(&status, &peer, &evidence, (&judged, Language::Zh), SYMBOLS);
    let text = anstream::adapter::strip_str(&lines.join("\n")).to_string();
    assert_eq!(
        text,
        "经中继:gw-a 与 gw-b 所在的 NAT 都会为每个目的地址随机换端口,双方都无法预测对方端口。  [relay.both-random]\n\
         \n\
         evidence                gw-a                      gw-b\n\
         \x20 address seen          198.51.100.7:51871        not known here\n\
         \x20 mapping               new port per destination  new port per destination\n\
         \x20 path                  relay 203.0.113.10 udp\n\
         \x20 since                 2 h ago\n\
         \x20 round trip            20.4 ms, 3 s ago\n\
         \x20 own rules             sends any, receives any\n\
         \x20 map version           42\n\
         \x20 the other side        not known here (ask the coordinator: weft-coordinator why gw-a gw-b)\n\
         tries                   1 without success, last 4 min ago\n\
         \x20 4 min ago             0 of 4 addresses answered (28 sent)\n\
         next try                in 11 min"
    );
}

#[test]
fn the_document_has_the_fields_of_the_coordinators() {
    let (status, peer) = reached(relay(Some("udp")));
    let evidence = evidence(Mapping::Window(512), Mapping::Random, &[AttemptEnd::NoAnswer]);
    let judged = judge(&status, &peer, &evidence, None);
    let document = document(&status, &peer, &evidence, (&judged, Language::En), 1_795_446_245_000);
    let json = serde_json::to_value(&document).unwrap();
    assert_eq!(json["schema"], "weft.why/1");
    assert_eq!((&json["from"]["name"], &json["to"]["name"]), (&"gw-a".into(), &"gw-b".into()));
    assert_eq!(
        (&json["verdict"]["code"], &json["verdict"]["number"]),
        (&"relay.both-random".into(), &202.into())
    );
    assert_eq!(json["verdict"]["params"]["a"], "gw-a");
    assert_eq!(
        (&json["evidence"]["a"]["window"], &json["evidence"]["b"]["mapping"]),
        (&512.into(), &"random".into())
    );
    assert_eq!(json["evidence"]["b"]["seen"], Value::Null);
    assert_eq!(
        (&json["evidence"]["a"]["path"]["relay"], &json["evidence"]["a"]["path"]["rung"]),
        (&1.into(), &"udp".into())
    );
    assert_eq!(
        (&json["attempts"][0]["outcome"], &json["attempts"][0]["at"]),
        (&"no_answer".into(), &"2026-11-23T15:00:05.000Z".into())
    );
}

#[test]
fn the_status_has_the_same_verdict_without_the_advice() {
    let (status, peer) = reached(relay(Some("udp")));
    let evidence = evidence(Mapping::Window(512), Mapping::Random, &[AttemptEnd::NoAnswer]);
    let judged = judge(&status, &peer, &evidence, None);
    let whole = document(&status, &peer, &evidence, (&judged, Language::En), 0);
    let mut whole = serde_json::to_value(&whole).unwrap()["verdict"].take();
    assert!(whole.as_object_mut().unwrap().remove("advice").is_some());
    let verdicts = Verdicts::from([(peer.id.clone(), verdict(&status, &peer, &evidence))]);
    let peers = super::super::status::peer_documents(&status, &verdicts, 0);
    let peers = serde_json::to_value(&peers).unwrap();
    assert_eq!((&peers[0]["name"], &peers[0]["verdict"]), (&"gw-b".into(), &whole));
    assert_eq!(peers[0]["verdict"]["code"], "relay.both-random");
    // It went between two questions.
    assert_eq!((&peers[1]["name"], &peers[1]["verdict"]), (&"plc-7".into(), &Value::Null));
}

#[test]
fn own_rules_are_asked_for_what_is_to_pass() {
    let (status, peer) = reached(Path::Direct { remote: "203.0.113.22:51871".to_owned() });
    let mut some = evidence(EASY, EASY, &[AttemptEnd::Found]);
    some.allowed[1] = ["icmp4", "icmp6", "tcp/22"].map(str::to_owned).to_vec();
    let line = |evidence: &Evidence, wanted: &str| {
        let wanted = parse_traffic(wanted).unwrap().traffic;
        let judged = judge(&status, &peer, evidence, Some(wanted));
        format!("{}  [{}]", judged.sentence(Language::En), judged.verdict.code())
    };
    let punched = "Direct: gw-a and gw-b are behind NATs that keep one port; punched in 233 ms, 2 h ago.  [direct.punched]";
    assert_eq!(line(&some, "tcp/22"), punched);
    assert_eq!(line(&some, "icmp"), punched);
    assert_eq!(
        line(&some, "tcp/80"),
        "No rule lets gw-a reach gw-b on tcp/80; rule in its map allows icmp and tcp/22.  [denied.port]"
    );
    some.allowed[1].clear();
    assert_eq!(
        line(&some, "tcp/22"),
        "The rule goes the other way: gw-b may reach gw-a, not the reverse.  [denied.direction]"
    );
    some.allowed[0].clear();
    assert_eq!(line(&some, "tcp/22"), "No rule lets gw-a reach gw-b.  [denied.no-rule]");
    assert!(parse_traffic("ssh").is_err());
}
