use core::net::SocketAddr;
use core::time::Duration;

use weft_wire::id::{DeviceId, Inbox, KeyId, NetworkId, OrganisationId, PublicKey, Revision};
use weft_wire::path::{Rung, Way};
use weft_wire::signal::Mapping;
use weft_wire::verdict::{AttemptEnd, Language};

use super::*;
use crate::domain::device::{Abilities, Agent, Backend};
use crate::domain::network::random_overlay;
use crate::domain::paths::Attempt;
use crate::domain::policy::{Numbering, Policy, Rule, parse_traffic};
use crate::domain::relay::NewRelay;
use crate::domain::rotation::Rotation;

const NOW: UnixMs = UnixMs(1_795_000_000_000);

fn before(seconds: u64) -> UnixMs {
    UnixMs(NOW.0 - seconds * 1_000)
}

fn device(id: u32, name: &str, tags: &str) -> Device {
    let abilities = Abilities {
        families: 1,
        carriers: 1,
        mtu: 1_280,
        backend: Backend::User,
        peer_slots: 256,
        peer_routes: 64,
        rules: 64,
        agent: "0.1.0".to_owned(),
        platform: "linux-x86_64".to_owned(),
        endpoints: vec!["192.168.1.20:51871".parse().unwrap()],
    };
    let agent = Agent {
        identity: PublicKey([id as u8; 32]),
        fingerprint: [0; 32],
        inbox: Inbox([id as u8; 16]),
        abilities,
        key: (KeyId::from_random([1; 8]), "lab".to_owned()),
        master: 1,
        enrolled_from: None,
        applied: Revision(1),
        instance: None,
        duplicates: 0,
        has_copies: false,
        data_budget: None,
    };
    Device {
        id: DeviceId(id),
        organisation: OrganisationId(1),
        network: NetworkId(1),
        name: name.to_owned(),
        wg_key: PublicKey([id as u8; 32]),
        rotation: Rotation {
            since: NOW,
            number: 0,
            wanted: None,
            second: None,
            revision: Revision(0),
        },
        host: Some(id),
        standing: Standing::Active,
        standing_since: before(10_800),
        standing_reason: String::new(),
        tags: tags.parse().unwrap(),
        created: before(10_800),
        version: 1,
        kind: Kind::Agent(Box::new(agent)),
    }
}

fn network(id: u32, name: &str) -> Network {
    Network {
        id: NetworkId(id),
        organisation: OrganisationId(1),
        name: name.to_owned(),
        overlay: random_overlay([7; 6]),
        mtu: 1_280,
        lease_s: 604_800,
        revision: Revision(1),
        psk_generation: 1,
        next_pin: None,
        created: NOW,
    }
}

fn policy(rules: &[(&str, &str, &str, &str)]) -> Compiled {
    let rule = |(name, from, to, allow): &(&str, &str, &str, &str)| {
        let mut allow: Vec<_> =
            allow.split(' ').flat_map(|text| parse_traffic(text).unwrap()).collect();
        allow.sort();
        Rule {
            name: (*name).to_owned(),
            from: vec![from.parse().unwrap()],
            to: vec![to.parse().unwrap()],
            allow,
        }
    };
    let policy = Policy { rules: rules.iter().map(rule).collect() };
    let numbering = Numbering::default().renumber(&policy).unwrap();
    Compiled::new(policy, numbering).unwrap()
}

/// One end of a pair; what a test does not say is a gateway behind a NAT that keeps
/// one port.
struct End {
    device: Device,
    network: Network,
    heard: Option<(bool, UnixMs)>,
    nat: Option<NatState>,
    words: Vec<Connection>,
    used_up: bool,
    metered: bool,
}

impl End {
    fn new(id: u32) -> Self {
        let name = ["", "gw-a", "gw-b"][id as usize];
        let seen = vec![format!("198.51.100.{id}:51871").parse().unwrap()];
        let nat = NatState {
            at: before(60),
            started: before(9_000),
            mapping: Mapping::EndpointIndependent,
            mapped: Some(before(60)),
            lifetime: None,
            seen,
        };
        Self {
            device: device(id, name, "role=gw"),
            network: network(1, "home"),
            heard: Some((true, before(1))),
            nat: Some(nat),
            words: Vec::new(),
            used_up: false,
            metered: false,
        }
    }

    fn with(id: u32, mapping: Mapping) -> Self {
        let mut end = Self::new(id);
        end.nat.as_mut().unwrap().mapping = mapping;
        end
    }

    fn says(mut self, way: Way, attempt: Option<Attempt>) -> Self {
        let device = self.device.id;
        let peer = DeviceId(3 - device.0);
        let (at, since) = (before(60), before(10_200));
        let word = Connection { device, peer, at, way, since, rtt: None, attempt, next: None };
        self.words.insert(0, word);
        self
    }

    fn sees(mut self, seen: &[&str]) -> Self {
        self.nat.as_mut().unwrap().seen = seen.iter().map(|one| one.parse().unwrap()).collect();
        self
    }

    fn side(&self) -> Side<'_> {
        Side {
            device: &self.device,
            network: &self.network,
            heard: self.heard,
            nat: self.nat.as_ref(),
            words: &self.words,
            used_up: self.used_up,
            metered: self.metered,
        }
    }
}

fn attempt(end: AttemptEnd) -> Option<Attempt> {
    Some(Attempt {
        end: Some(end),
        at: before(240),
        failed: if end == AttemptEnd::Found { 0 } else { 12 },
        own: Mapping::Unknown,
        peer: Mapping::Unknown,
        tried: 4,
        answered: u8::from(end == AttemptEnd::Found),
        sent: 28,
        took: Duration::from_millis(233),
    })
}

const RELAYED: Way = Way::Relay { relay: 1, rung: Some(Rung::Udp) };

fn fra1() -> Relay {
    let name = "fra1".to_owned();
    let v4 = Some([203, 0, 113, 10].into());
    let is =
        NewRelay { name, region: String::new(), v4, v6: None, udp: [3_478, 0], tcp: 0, tls: 0 };
    Relay { number: 1, is, told: true, registration: None }
}

fn direct(to: &str) -> Way {
    Way::Direct(to.parse::<SocketAddr>().unwrap())
}

fn judge_by(
    a: &End,
    b: &End,
    policy: &Compiled,
    traffic: Option<&str>,
    relays: &[Relay],
) -> Judged {
    let traffic = traffic.map(|text| parse_traffic(text).unwrap()[0]);
    Evidence { a: a.side(), b: b.side(), policy, traffic, relays, now: NOW }.judge()
}

fn judge(a: &End, b: &End) -> Judged {
    judge_by(a, b, &policy(&[("all", "any", "any", "any")]), None, &[fra1()])
}

#[track_caller]
fn says(a: &End, b: &End, line: &str) {
    assert_eq!(judge(a, b).headline(Language::En), line);
}

/// A pair of NATs that tried in vain, and is relayed.
fn vain(a: Mapping, b: Mapping) -> [End; 2] {
    [(1, a), (2, b)]
        .map(|(id, mapping)| End::with(id, mapping).says(RELAYED, attempt(AttemptEnd::NoAnswer)))
}

#[test]
fn who_has_used_up_its_bytes_looks_for_nothing() {
    let [a, mut b] = vain(Mapping::EndpointIndependent, Mapping::Random);
    b.used_up = true;
    says(
        &a,
        &b,
        "Relayed: the data budget of gw-b is used up, probes are off until 00:00 UTC.  [relay.budget]",
    );
    let advice: Vec<_> = judge(&a, &b).advice(Language::En).into_iter().map(|one| one.1).collect();
    assert_eq!(advice, ["raise the data budget of gw-b"]);
}

#[test]
fn relayed_pairs_have_their_reason() {
    use Mapping::{EndpointIndependent as Easy, Random, Sequential, Window};
    for (a, b, line) in [
        (
            Random,
            Random,
            "Relayed: gw-a and gw-b both sit behind NATs that pick a new random port for every destination, so neither side can guess where to send.  [relay.both-random]",
        ),
        (
            Random,
            Window(512),
            "Relayed: gw-a and gw-b both sit behind NATs that pick a new random port for every destination, so neither side can guess where to send.  [relay.both-random]",
        ),
        (
            Easy,
            Random,
            "Relayed: gw-b gets a random port per destination and the NAT of the other side only lets exact answers in; about 32,256 probes would be needed.  [relay.random-restricted]",
        ),
        (
            Window(512),
            Easy,
            "Relayed: gw-a gets a random port per destination and the NAT of the other side only lets exact answers in; about 256 probes would be needed.  [relay.random-restricted]",
        ),
        (
            Easy,
            Easy,
            "Relayed: both NATs look easy, yet no probe arrived (28 sent); a firewall near gw-a or gw-b drops them.  [relay.filtered]",
        ),
        (
            Sequential(1),
            Easy,
            "Relayed: the ports of gw-a were predicted 12 times without a hit; other traffic moves its NAT's counter.  [relay.prediction-missed]",
        ),
        (
            Easy,
            Sequential(1),
            "Relayed: the ports of gw-b were predicted 12 times without a hit; other traffic moves its NAT's counter.  [relay.prediction-missed]",
        ),
        (
            Sequential(1),
            Random,
            "Relayed: gw-b gets a random port per destination and the NAT of the other side only lets exact answers in; about 32,256 probes would be needed.  [relay.random-restricted]",
        ),
        (
            Sequential(1),
            Mapping::Unknown,
            "Relayed: 12 tries without success, the last 4 min ago; next with the next packet or when a network changes.  [relay.waiting]",
        ),
    ] {
        let [a, b] = vain(a, b);
        says(&a, &b, line);
    }
    let [a, b] = vain(Random, Random);
    assert_eq!(
        judge(&a, &b).headline(Language::Zh),
        "经中继:gw-a 与 gw-b 所在的 NAT 都会为每个目的地址随机换端口,双方都无法预测对方端口。  [relay.both-random]"
    );
}

#[test]
fn a_relay_has_other_reasons_than_nats() {
    let easy = Mapping::EndpointIndependent;
    let [a, b] = vain(easy, easy);
    let same = |end: End| end.sees(&["198.51.100.9:4000"]);
    says(
        &same(a),
        &same(b),
        "Relayed: both are behind the same carrier NAT, which does not turn packets around.  [relay.same-carrier]",
    );
    let [a, b] = vain(easy, easy);
    says(
        &a,
        &b.sees(&["[2001:db8::7]:51871"]),
        "Relayed: gw-a has only IPv4, gw-b only IPv6.  [relay.no-common-family]",
    );
    let tls = Way::Relay { relay: 1, rung: Some(Rung::Tls) };
    let blocked = End::new(1).says(tls, attempt(AttemptEnd::NoAnswer));
    says(
        &blocked,
        &End::new(2),
        "Relayed over TLS: the network of gw-a blocks UDP.  [relay.udp-blocked]",
    );
    let lost = End::new(1).says(RELAYED, attempt(AttemptEnd::Lost));
    says(
        &lost,
        &End::new(2),
        "Relayed since 2 h ago: the direct path stopped answering; next try with the next packet.  [relay.lost-direct]",
    );
    let began = End::new(1).says(RELAYED, None);
    says(
        &began,
        &End::new(2),
        "Relayed for the moment: the direct path is being tried since 2 h 50 min.  [relay.starting]",
    );
    let mut silent = End::new(2);
    silent.nat = None;
    let tried = End::new(1).says(RELAYED, attempt(AttemptEnd::NoAnswer));
    says(&tried, &silent, "Relayed: gw-b has not reported its network yet.  [relay.peer-silent]");
}

#[test]
fn direct_pairs_say_how() {
    let found = || attempt(AttemptEnd::Found);
    let to = |address: &str| End::new(1).says(direct(address), found());
    says(
        &to("198.51.100.2:51871"),
        &End::new(2),
        "Direct: gw-a and gw-b are behind NATs that keep one port; punched in 233 ms, 2 h ago.  [direct.punched]",
    );
    says(
        &to("192.168.1.7:51871"),
        &End::new(2),
        "Direct: gw-a and gw-b are in the same local network.  [direct.lan]",
    );
    says(
        &to("[2001:db8::7]:51871"),
        &End::new(2),
        "Direct over IPv6, no address translation in between.  [direct.ipv6]",
    );
    let same = End::new(2).sees(&["198.51.100.1:4000"]);
    says(
        &to("198.51.100.1:4000"),
        &same,
        "Direct: both are behind the same NAT, which turns their packets around.  [direct.hairpin]",
    );
    let hard = End::with(2, Mapping::Random);
    says(
        &to("198.51.100.2:4000"),
        &hard,
        "Direct: gw-b changes its port per destination, but the other side accepts answers from any port.  [direct.one-hard]",
    );
    let mut open = End::new(2);
    if let Kind::Agent(agent) = &mut open.device.kind {
        agent.abilities.endpoints = vec!["198.51.100.2:51871".parse().unwrap()];
    }
    says(
        &to("198.51.100.2:51871"),
        &open,
        "Direct: gw-b can be reached from outside at 198.51.100.2:51871.  [direct.open]",
    );
}

#[test]
fn a_port_that_was_guessed_is_told_by_who_guessed_it() {
    let to = || direct("198.51.100.2:4003");
    let guessed = |end, sent| {
        let attempt = attempt(end).map(|one| Attempt { sent, ..one });
        End::new(1).says(to(), attempt)
    };
    let back = || direct("198.51.100.1:51871");
    let counts = || End::with(2, Mapping::Sequential(2)).says(back(), attempt(AttemptEnd::Found));
    says(
        &guessed(AttemptEnd::Predicted, 3),
        &counts(),
        "Direct: the NAT of gw-b counts its ports up by 2; guessed on try 3.  [direct.predicted]",
    );
    let random = || End::with(2, Mapping::Random).says(back(), attempt(AttemptEnd::Found));
    says(
        &guessed(AttemptEnd::Searched, 412),
        &random(),
        "Direct: the port of gw-b was found after 412 probes.  [direct.searched]",
    );
    // Told by the side whose port it is.
    let knocked = End::with(2, Mapping::Random)
        .says(back(), attempt(AttemptEnd::Searched).map(|one| Attempt { sent: 250, ..one }));
    says(
        &End::new(1).says(to(), attempt(AttemptEnd::Found)),
        &knocked,
        "Direct: the port of gw-b was found after 250 probes.  [direct.searched]",
    );
}

#[test]
fn a_search_that_is_not_made_says_whose_it_is() {
    let [_, hard] = vain(Mapping::EndpointIndependent, Mapping::Random);
    let mut metered = End::new(1).says(RELAYED, attempt(AttemptEnd::NotSearched));
    says(
        &metered,
        &hard,
        "Relayed: a port search could find the way, but it is off for gw-a (it is set up so).  [relay.search-off]",
    );
    metered.metered = true;
    says(
        &metered,
        &hard,
        "Relayed: a port search could find the way, but it is off for gw-a (its network is metered).  [relay.search-off]",
    );
    assert_eq!(
        judge(&metered, &hard).advice(Language::En)[0].1,
        "allow the port search for gw-a (about 1,024 small packets)"
    );
}

#[test]
fn a_relay_that_does_not_help_says_how() {
    let all = policy(&[("all", "any", "any", "any")]);
    let line = |a: &End, b: &End, relays: &[Relay]| {
        judge_by(a, b, &all, None, relays).headline(Language::En)
    };
    let nowhere = |mapping, end| End::with(1, mapping).says(Way::Nowhere, attempt(end));
    let random = End::with(2, Mapping::Random);
    let refused = nowhere(Mapping::Random, AttemptEnd::Refused);
    assert_eq!(
        line(&refused, &random, &[fra1()]),
        "Relay fra1 refuses gw-a: its credentials do not hold there.  [path.relay-refused]"
    );
    // One that devices are not told of any more was there all the same.
    let silent = Relay { told: false, ..fra1() };
    let tried = nowhere(Mapping::Random, AttemptEnd::NoAnswer);
    let down = "No direct path, and relay fra1 does not answer since 2 h ago.  [path.relay-down]";
    assert_eq!(line(&tried, &random, &[silent]), down);
    let blocked = nowhere(Mapping::Blocked, AttemptEnd::NoCandidate);
    assert_eq!(line(&blocked, &random, &[fra1()]), down, "it takes no connections");
    let mut tls = fra1();
    tls.is.tls = 443;
    assert_eq!(
        line(&blocked, &random, &[tls]),
        "The network of gw-a blocks UDP and TCP 443 to every relay.  [path.all-blocked]"
    );
}

#[test]
fn the_newest_word_counts_and_none_of_a_run_before() {
    let [a, mut b] = vain(Mapping::Random, Mapping::Random);
    b.words[0].way = direct("198.51.100.1:51871");
    assert_eq!(judge(&a, &b).verdict, Verdict::RelayBothRandom, "who is worse off");
    b.words[0].since = before(100);
    assert_eq!(judge(&a, &b).verdict, Verdict::DirectOneHard);
    let mut again = [a, b];
    for end in &mut again {
        end.nat.as_mut().unwrap().started = before(10);
    }
    let [a, b] = again;
    says(
        &a,
        &b,
        "Idle: no tunnel now; the first packet rings gw-b and takes about – longer.  [idle.doorbell]",
    );
}

#[test]
fn idle_and_unknown_pairs_are_told_apart() {
    let idle = End::new(1).says(Way::Idle, attempt(AttemptEnd::Found));
    says(
        &idle,
        &End::new(2),
        "Idle: no tunnel now; the first packet rings gw-b and takes about 233 ms longer.  [idle.doorbell]",
    );
    says(&End::new(1), &End::new(2), "Idle: gw-a and gw-b have never talked.  [idle.never]");
    let silent = |id| End { nat: None, ..End::new(id) };
    says(
        &silent(1),
        &silent(2),
        "Nothing is known about gw-a and gw-b yet.  [unknown.no-evidence]",
    );
    says(&End::new(1), &silent(2), "Only gw-a has reported; gw-b has not.  [unknown.one-side]");
    says(&silent(1), &End::new(2), "Only gw-b has reported; gw-a has not.  [unknown.one-side]");
}

#[test]
fn no_way_has_a_reason_too() {
    let nowhere = |end| End::with(1, Mapping::Random).says(Way::Nowhere, attempt(end));
    let random = End::with(2, Mapping::Random);
    let all = policy(&[("all", "any", "any", "any")]);
    let judged = judge_by(&nowhere(AttemptEnd::NoAnswer), &random, &all, None, &[]);
    assert_eq!(
        judged.sentence(Language::En),
        "No direct path, and no relay is configured: gw-a and gw-b both sit behind NATs that pick a new random port for every destination, so neither side can guess where to send."
    );
    assert_eq!(
        judged.sentence(Language::Zh),
        "无法直连且未配置中继:gw-a 与 gw-b 所在的 NAT 都会为每个目的地址随机换端口,双方都无法预测对方端口。"
    );
    assert!(!judged.verdict.is_good());
    says(
        &nowhere(AttemptEnd::NoAnswer),
        &random,
        "No direct path, and relay fra1 does not answer since 2 h ago.  [path.relay-down]",
    );
    says(
        &nowhere(AttemptEnd::NoHandshake),
        &random,
        "gw-b is online, but does not answer the handshake (28 in 0 s); its agent received –.  [tunnel.no-answer]",
    );
}

#[test]
fn who_is_out_or_away_comes_before_paths() {
    let [a, mut b] = vain(Mapping::Random, Mapping::Random);
    b.heard = Some((false, before(7_200)));
    says(
        &a,
        &b,
        "gw-b is offline since 2 h ago; it lost its line to the coordinator.  [peer.offline]",
    );
    says(
        &b,
        &a,
        "gw-b is offline since 2 h ago; it lost its line to the coordinator.  [peer.offline]",
    );
    b.device.standing = Standing::Pending;
    says(&a, &b, "gw-b waits for approval since 3 h ago.  [peer.pending]");
    assert_eq!(
        judge(&a, &b).advice(Language::En)[0].2.as_deref(),
        Some("weft-coordinator device approve gw-b")
    );
    b.device.standing = Standing::Blocked;
    b.device.standing_reason = "stolen".to_owned();
    says(&a, &b, "gw-b was blocked by an operator 3 h ago: \"stolen\".  [peer.blocked]");
    b.device.standing = Standing::Quarantined;
    says(&a, &b, "gw-b is quarantined: two machines use its identity.  [peer.quarantined]");
}

#[test]
fn policy_comes_first() {
    let [mut a, mut b] = vain(Mapping::Random, Mapping::Random);
    a.device.tags = "role=ops".parse().unwrap();
    b.device.tags = "role=plc".parse().unwrap();
    b.device.standing = Standing::Pending;
    let rules = policy(&[
        ("", "role=x", "any", "any"),
        ("ops to plc", "role=ops", "role=plc", "icmp tcp/22"),
    ]);
    let line =
        |a: &End, b: &End, traffic| judge_by(a, b, &rules, traffic, &[]).headline(Language::En);
    assert_eq!(
        line(&a, &b, Some("tcp/80")),
        "No rule lets gw-a reach gw-b on tcp/80; rule 2 \"ops to plc\" allows icmp and tcp/22.  [denied.port]"
    );
    assert_eq!(
        line(&b, &a, None),
        "The rule goes the other way: gw-a may reach gw-b, not the reverse.  [denied.direction]"
    );
    assert_eq!(judge_by(&a, &b, &rules, Some("tcp/22"), &[]).verdict, Verdict::PeerPending);
    let nothing = policy(&[]);
    let denied = judge_by(&a, &b, &nothing, None, &[]).headline(Language::En);
    assert_eq!(denied, "No rule lets gw-a reach gw-b.  [denied.no-rule]");
    b.network = network(2, "lab");
    b.device.network = NetworkId(2);
    assert_eq!(line(&a, &b, None), "gw-a is in network home, gw-b in lab.  [denied.network]");
}

#[test]
fn advice_speaks_of_what_is_known() {
    let [a, b] = vain(Mapping::EndpointIndependent, Mapping::Random);
    let texts: Vec<_> =
        judge(&a, &b).advice(Language::En).into_iter().map(|(_, text, _)| text).collect();
    let ipv6 = "IPv6 on both sides (each of them has none)";
    assert_eq!(texts, ["open UDP 51871 to gw-a on its router", ipv6], "{texts:?}");
}
