//! What agents report of the ways to each other.
#![allow(missing_docs, reason = "a test")]

use weft_sim::mesh::Mesh;
use weft_sim::nat::Kind;
use weft_wire::id::DeviceId;
use weft_wire::path::{PathReport, PeerReport, Rung, Way};
use weft_wire::signal::Mapping;
use weft_wire::verdict::AttemptEnd;

const SERVERS: [([u8; 4], u16); 2] = [([203, 0, 113, 10], 3_478), ([203, 0, 113, 11], 3_478)];
const RELAY: [u8; 4] = [203, 0, 113, 20];

/// Two members behind NATs, one hour old.
fn pair(seed: u64, one: Kind, other: Kind, relay: bool) -> (Mesh, usize, usize) {
    let mut mesh = Mesh::new(seed);
    for server in SERVERS {
        mesh.add_stun(server.into());
    }
    if relay {
        mesh.add_relay(RELAY.into());
    }
    let (a, b) = mesh.add_pair(one, other);
    mesh.run_for(3_600_000);
    (mesh, a, b)
}

/// A packet each second.
fn talk(mesh: &mut Mesh, a: usize, b: usize, seconds: u16) {
    let host = mesh.host(b);
    for sequence in 0..seconds {
        mesh.ping(a, host, sequence);
        mesh.run_for(1_000);
    }
}

/// What a device has reported since `from`.
fn reports(mesh: &Mesh, device: DeviceId, from: usize) -> Vec<&PathReport> {
    let all = mesh.coordinator.path_reports.iter().skip(from);
    all.filter(|(reporter, _)| *reporter == device).map(|(_, report)| report).collect()
}

/// The last word of each of the two on the other.
fn words(mesh: &Mesh, a: usize, b: usize) -> [PeerReport; 2] {
    [(a, b), (b, a)].map(|(own, other)| {
        let (own, other) = (mesh.id(own), mesh.id(other));
        let mut all = reports(mesh, own, 0).into_iter().flat_map(|report| &report.peers);
        *all.rfind(|peer| peer.peer == other).expect("a word on the other")
    })
}

fn end(word: &PeerReport) -> Option<AttemptEnd> {
    AttemptEnd::from_code(word.attempt?.end)
}

#[test]
fn who_has_started_says_so_and_nothing_more() {
    let (mesh, a, b) = pair(1, Kind::Prc, Kind::Prc, true);
    for node in [a, b] {
        let all = reports(&mesh, mesh.id(node), 0);
        assert_eq!(
            all.len(),
            2,
            "at the start and when its NAT was known; then for an hour nothing"
        );
        assert!(all.iter().all(|report| report.peers.is_empty() && report.uptime_s < 60));
        assert_eq!(all[1].nat.mapping, Mapping::EndpointIndependent);
    }
}

#[test]
fn a_direct_way_is_reported_once() {
    let (mut mesh, a, b) = pair(2, Kind::Prc, Kind::Prc, false);
    talk(&mut mesh, a, b, 600);
    for (word, node) in words(&mesh, a, b).iter().zip([a, b]) {
        let Way::Direct(remote) = word.way else { panic!("{word:?}") };
        assert_eq!(
            remote.ip(),
            std::net::IpAddr::from([198, 51, 100, if node == a { 2 } else { 1 }])
        );
        assert_eq!(end(word), Some(AttemptEnd::Found));
        let attempt = word.attempt.unwrap();
        assert_eq!((attempt.failed, attempt.own), (0, Mapping::EndpointIndependent));
        assert!(attempt.took_ms < 500, "{attempt:?}");
        let all = reports(&mesh, mesh.id(node), 0);
        assert_eq!(all.len(), 3, "at the start, of the NAT, and of the way");
        assert_eq!(all[2].nat.mapping, Mapping::EndpointIndependent);
        assert_eq!(all[2].seen.len(), 1);
    }
    // Nobody talks: that is told once, and then nothing.
    mesh.run_for(3_600_000);
    for node in [a, b] {
        assert_eq!(reports(&mesh, mesh.id(node), 0).len(), 4);
    }
    assert_eq!(words(&mesh, a, b).map(|word| word.way), [Way::Idle; 2]);
}

#[test]
fn no_way_is_reported_with_what_was_tried() {
    let (mut mesh, a, b) = pair(3, Kind::SymRand, Kind::SymRand, false);
    talk(&mut mesh, a, b, 60);
    let [word, _] = words(&mesh, a, b);
    assert_eq!((word.way, end(&word)), (Way::Nowhere, Some(AttemptEnd::NoAnswer)));
    let attempt = word.attempt.unwrap();
    assert_eq!((attempt.own, attempt.peer), (Mapping::Random, Mapping::Random));
    assert!(attempt.tried > 0 && attempt.sent == u16::from(attempt.tried) * 7, "{attempt:?}");
    assert_eq!(attempt.answered, 0);
    // Long after it was given up it is the same.
    mesh.run_for(600_000);
    let [word, _] = words(&mesh, a, b);
    assert_eq!((word.way, end(&word)), (Way::Nowhere, Some(AttemptEnd::NoAnswer)));
    let count = reports(&mesh, mesh.id(a), 0).len();
    assert!(count <= 8, "{count} reports in 11 minutes");
    mesh.run_for(3_600_000);
    assert_eq!(reports(&mesh, mesh.id(a), 0).len(), count, "nobody wants it any more");
}

#[test]
fn a_relayed_way_names_its_relay_and_why() {
    let (mut mesh, a, b) = pair(4, Kind::SymRand, Kind::SymRand, true);
    talk(&mut mesh, a, b, 60);
    let both = words(&mesh, a, b);
    let mut rungs = 0;
    for word in both {
        let Way::Relay { relay, rung } = word.way else { panic!("{word:?}") };
        assert_eq!(relay, mesh.coordinator.relays[0].number);
        assert!(rung.is_none_or(|rung| rung == Rung::Udp));
        rungs += usize::from(rung.is_some());
        assert_eq!(end(&word), Some(AttemptEnd::NoAnswer), "{word:?}");
        assert!(word.rtt_ms > 0, "{word:?}");
        assert!(word.attempt.unwrap().failed >= 1);
    }
    assert_eq!(rungs, 1, "one allocation is enough for two");
    assert!(both[0].next_s.is_some(), "who leads looks for a better way");
    assert_eq!(both[0].attempt.unwrap().own, Mapping::Random);
    assert_eq!(both[0].attempt.unwrap().peer, Mapping::Random);
}

#[test]
fn a_report_is_repeated_until_it_is_heard() {
    let (mut mesh, a, b) = pair(5, Kind::Prc, Kind::Prc, false);
    let before = mesh.coordinator.path_reports.len();
    mesh.coordinator.path_answers_lost = 3;
    talk(&mut mesh, a, b, 120);
    let own = mesh.id(a);
    let requests: Vec<u32> =
        reports(&mesh, own, before).iter().map(|report| report.request).collect();
    assert!(requests.len() >= 2, "{requests:?}");
    assert!(requests.iter().all(|request| *request == requests[0]), "{requests:?}");
    assert!(matches!(words(&mesh, a, b)[0].way, Way::Direct(_)));
}

#[test]
fn many_peers_are_told_in_several_reports() {
    let mut mesh = Mesh::new(6);
    let hub = mesh.add("hub");
    let others: Vec<usize> = (0..20).map(|n| mesh.add(format!("gw-{n}").leak())).collect();
    mesh.run_to(10_000, |mesh| mesh.knows(hub, 20));
    mesh.run_for(60_000);
    let before = mesh.coordinator.path_reports.len();
    // Of the first report every answer is lost for a while.
    mesh.coordinator.path_answers_lost = 2;
    for (sequence, other) in (0..).zip(&others) {
        let host = mesh.host(*other);
        mesh.ping(hub, host, sequence);
    }
    mesh.run_for(90_000);
    let all = reports(&mesh, mesh.id(hub), before);
    assert!(all.iter().all(|report| report.peers.len() <= 8));
    let told: std::collections::BTreeSet<_> =
        all.iter().flat_map(|report| &report.peers).map(|peer| peer.peer).collect();
    assert_eq!(told.len(), 20, "{} reports", all.len());
    assert!(all.len() <= 8, "{} reports", all.len());
}

#[test]
fn a_port_that_was_reckoned_is_told_by_who_reckoned_it() {
    let (mut mesh, a, b) = pair(11, Kind::Prc, Kind::SymSeq, true);
    talk(&mut mesh, a, b, 10);
    let [easy, counting] = words(&mesh, a, b);
    assert!(matches!((easy.way, counting.way), (Way::Direct(_), Way::Direct(_))), "{easy:?}");
    assert_eq!(end(&easy), Some(AttemptEnd::Predicted), "{easy:?}");
    let attempt = easy.attempt.unwrap();
    assert!((1..=16).contains(&attempt.sent), "which guess it was: {attempt:?}");
    assert_eq!(end(&counting), Some(AttemptEnd::Found));
}

#[test]
fn a_way_that_a_search_finds_after_the_round_ends_the_row_of_failures() {
    let (mut mesh, a, b) = pair(12, Kind::Prc, Kind::SymRand, true);
    talk(&mut mesh, a, b, 5);
    let failed = |word: &PeerReport| word.attempt.map(|one| one.failed);
    let before = words(&mesh, a, b);
    assert_eq!(before.map(|word| end(&word)), [Some(AttemptEnd::NoAnswer); 2]);
    assert_eq!(before.map(|word| failed(&word)), [Some(1); 2]);
    talk(&mut mesh, a, b, 50);
    for (word, most) in words(&mesh, a, b).iter().zip([1_024, 750]) {
        assert!(matches!(word.way, Way::Direct(_)), "{word:?}");
        assert_eq!((end(word), failed(word)), (Some(AttemptEnd::Searched), Some(0)));
        let sent = word.attempt.unwrap().sent;
        assert!((1..=most).contains(&sent), "{word:?}");
    }
}

#[test]
fn who_may_not_search_says_so() {
    let mut mesh = Mesh::new(13);
    for server in SERVERS {
        mesh.add_stun(server.into());
    }
    mesh.add_relay(RELAY.into());
    let a = mesh.add("gw-a");
    mesh.extra_sockets = 0;
    let b = mesh.add("gw-b");
    mesh.site(a, Kind::Prc);
    mesh.site(b, Kind::SymWin);
    mesh.run_to(5_000, |mesh| mesh.knows(a, 1) && mesh.knows(b, 1));
    mesh.run_for(3_600_000);
    talk(&mut mesh, a, b, 30);
    let ends = words(&mesh, a, b).map(|word| end(&word));
    assert_eq!(ends, [Some(AttemptEnd::NoAnswer), Some(AttemptEnd::NotSearched)]);
}

#[test]
fn who_is_refused_by_the_only_relay_says_so() {
    let (mut mesh, a, b) = pair(14, Kind::SymRand, Kind::SymRand, true);
    mesh.relays[0].restart_with(b"of another network", 9);
    talk(&mut mesh, a, b, 60);
    let [caller, _] = words(&mesh, a, b);
    assert_eq!((caller.way, end(&caller)), (Way::Nowhere, Some(AttemptEnd::Refused)));
    let refused = mesh.agent(a).relay_failure().unwrap();
    assert!(refused.1.is_refusal(), "{refused:?}");
}

#[test]
fn a_relay_that_dies_leaves_no_way_until_it_is_back() {
    let (mut mesh, a, b) = pair(15, Kind::SymRand, Kind::SymRand, true);
    talk(&mut mesh, a, b, 60);
    let ways = |mesh: &Mesh| words(mesh, a, b).map(|word| word.way);
    assert!(ways(&mesh).iter().all(|way| matches!(way, Way::Relay { .. })));
    mesh.relays[0].is_dead = true;
    talk(&mut mesh, a, b, 40);
    assert_eq!(ways(&mesh)[0], Way::Nowhere, "sessions and timers live on");
    mesh.relays[0].is_dead = false;
    talk(&mut mesh, a, b, 90);
    assert!(matches!(ways(&mesh)[0], Way::Relay { .. }), "{:?}", ways(&mesh));
}
