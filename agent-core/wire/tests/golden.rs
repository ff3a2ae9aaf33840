//! The bytes of every format, frozen. A difference here breaks devices in the
//! field: make a new tag, do not change a line of `golden.txt`.
//!
//! `WEFT_GOLDEN=print cargo test -p weft-wire --test golden -- --nocapture`
//! prints the lines, for new formats to be appended.
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use weft_wire::frame::{Hello, PROLOGUE_LEN, PskKind, PskSelector, RecordHeader, Reset, Retry};
use weft_wire::id::{
    CommandId, DeviceId, Epoch, Inbox, Instance, KeyId, NetworkId, OrganisationId, PublicKey,
    ReplicaId, Revision, Secret, ShortSecret,
};
use weft_wire::item::*;
use weft_wire::join::{Address, BrokerAccount, Carrier, EnrolToken, JoinString, Joins, MAX_TEXT};
use weft_wire::map::*;
use weft_wire::network::*;
use weft_wire::path::*;
use weft_wire::probe::{self, Line, PING_BODY, PROBE_LEN, ProbeHead, ProbeKind, pong_body};
use weft_wire::relay::*;
use weft_wire::relay_link::*;
use weft_wire::signal::*;
use weft_wire::telemetry::*;
use weft_wire::topic::Topic;

fn text<const N: usize>(text: &str) -> heapless::String<N> {
    heapless::String::try_from(text).unwrap()
}

fn list<T: Clone, const N: usize>(items: &[T]) -> heapless::Vec<T, N> {
    items.iter().cloned().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

struct Golden(BTreeMap<&'static str, String>);

impl Golden {
    /// Encodes an item, and checks that its own decoder takes the bytes back to
    /// the same bytes.
    fn item<T: Item>(&mut self, name: &'static str, body: &T) {
        let mut buffer = [0; 4_096];
        let mut writer = ItemWriter::new(&mut buffer);
        writer.put(body).unwrap();
        let len = writer.len();
        let raw = Items::new(&buffer[..len]).next().unwrap().unwrap();
        let back = raw.decode::<T>().unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let mut again = [0; 4_096];
        ItemWriter::new(&mut again).put(&back).unwrap();
        assert_eq!(hex(&again[..len]), hex(&buffer[..len]), "{name}");
        self.put(name, hex(&buffer[..len]));
    }

    fn put(&mut self, name: &'static str, value: String) {
        assert!(self.0.insert(name, value).is_none(), "{name} twice");
    }
}

fn overlay() -> Overlay {
    Overlay { ipv4: [100, 93, 0, 0].into(), ipv4_len: 16, ipv6: [0xfd, 1, 2, 3, 4, 5] }
}

fn v4() -> SocketAddr {
    "203.0.113.22:51871".parse().unwrap()
}

fn v6() -> SocketAddr {
    "[2001:db8::7]:51871".parse().unwrap()
}

fn session(golden: &mut Golden) {
    golden.item(
        "hello_info",
        &HelloInfo {
            wire_min: 1,
            wire_max: 2,
            instance: Instance([1, 2, 3, 4, 5, 6, 7, 8]),
            boot_count: 300,
            max_rx: 1_024,
            on_demand: 8,
            epoch: Epoch(0x5f1c_09aa),
            revision: Revision(42),
        },
    );
    golden.item(
        "welcome_info",
        &WelcomeInfo {
            session: 0xDEAD_BEEF,
            wire: 1,
            replica: ReplicaId(7),
            time_ms: 1_795_000_000_000,
            epoch: Epoch(0x5f1c_09aa),
            revision: Revision(43),
            inbox: Inbox([0xA5; 16]),
            password: ShortSecret([0x5A; 16]),
            password_expiry: 1_800_000_000,
            reconnect_min_s: 1,
            reconnect_max_s: 60,
            heartbeat_s: 900,
        },
    );
    golden.item("unsupported", &Unsupported { tag: 20_000 });
    golden.item("leave", &Leave { request: 9 });
    golden.item("lost", &Lost {});
    golden.item("returning", &Returning { device: DeviceId(2), network: NetworkId(3) });
    golden.item("done", &Done { request: 9 });
    let reason = text("cloned");
    let since_ms = 1_795_000_000_000;
    golden.item("state", &State { standing: Standing::Quarantined, since_ms, reason });
    golden.item(
        "command",
        &Command { id: CommandId(5), expires_ms: 1_795_000_060_000, kind: CommandKind::Restart },
    );
    golden.item("command_done", &CommandDone { id: CommandId(5), outcome: Outcome::Expired });
    let id = CommandId(5);
    golden.item("netcheck", &Netcheck { id, expires_ms: 1_795_000_060_000 });
    let relay = |relay, answered| RelayReached { relay, answered };
    let relays = [relay(1, Some((RelayRung::Tls, 23_100))), relay(300, None)];
    let report = NetworkReport {
        v4: Some([203, 0, 113, 22].into()),
        v6: None,
        mapping: NatMapping::Sequential(-2),
        filtering: NatFiltering::AddressAndPort,
        hairpin: Some(false),
        mapped: Some((MappedBy::NatPmp, "203.0.113.22:51871".parse().unwrap())),
        metered: true,
        relays: relays.into_iter().collect(),
    };
    let done = NetcheckDone { id, outcome: Outcome::Accepted, report: Some(report) };
    golden.item("netcheck_done", &done);
    golden.item("ping", &Ping { request: 300 });
    let heard_ms = 1_795_000_000_000;
    let address = Some("203.0.113.22".parse().unwrap());
    golden.item("duplicate", &Duplicate { name: text("gw-a"), address, heard_ms, moved: None });
    let moved = Some(NewInbox {
        inbox: Inbox([0xA5; 16]),
        password: ShortSecret([0x5A; 16]),
        password_expiry: 1_800_000_000,
    });
    golden.item(
        "duplicate_moved",
        &Duplicate {
            name: text("gw-a"),
            address: Some("2001:db8::7".parse().unwrap()),
            heard_ms,
            moved,
        },
    );
    golden.item("stamps", &Stamps { ahead_s: 104_400 });
}

fn enrolment(golden: &mut Golden) {
    golden.item(
        "register",
        &Register {
            request: 1,
            wg_key: PublicKey([0x11; 32]),
            fingerprint: [0x22; 32],
            name: text("gw-a"),
            host: 0,
            abilities: Abilities {
                families: family::IPV4 | family::IPV6,
                carriers: 1,
                mtu: 1_280,
                backend: Backend::Kernel,
                peer_slots: 256,
                peer_routes: 64,
                rules: 64,
                agent: text("0.1.0"),
                platform: text("linux-x86_64"),
                endpoints: list(&[v4(), v6()]),
            },
        },
    );
    golden.item(
        "registered",
        &Registered {
            request: 1,
            device: DeviceId(2),
            network: NetworkId(3),
            organisation: OrganisationId(4),
            name: text("gw-a-2"),
            network_name: text("home"),
            standing: Standing::Pending,
            host: 0x0102,
            overlay: overlay(),
            inbox: Inbox([0xA5; 16]),
            password: ShortSecret([0x5A; 16]),
            password_expiry: 1_800_000_000,
            psk: Secret([0x33; 32]),
            master: 1,
            key_name: text("lab"),
            key_uses: 1,
            key_max_uses: 10,
        },
    );
    golden.item(
        "refused",
        &Refused {
            request: 1,
            code: 2,
            at_ms: 1_795_000_000_000,
            numbers: (10, 10),
            text: text("lab"),
        },
    );
}

fn map(golden: &mut Golden) {
    let second = || SecondKey {
        key: PublicKey([0x44; 32]),
        psk: Secret([0x55; 32]),
        kind: SecondKind::Previous,
        until_ms: 1_795_000_000_000,
    };
    golden.item("map_next", &MapNext { epoch: Epoch(1), from: Revision(42), page: 3 });
    golden.item(
        "page",
        &Page { epoch: Epoch(1), from: Revision(0), to: Revision(43), page: 0, of: 2 },
    );
    golden.item("map_ready", &MapReady { epoch: Epoch(1), revision: Revision(44) });
    golden.item(
        "peer_upsert",
        &PeerUpsert {
            device: DeviceId(6),
            name: text("gw-b"),
            key: PublicKey([0x11; 32]),
            psk: Secret([0x22; 32]),
            second: Some(second()),
            host: 3,
            mtu: 1_420,
            flags: peer_flags::RELAY | peer_flags::WIREGUARD_ONLY,
            rules_in: 0x8000_0000_0000_0001,
            rules_out: 1,
            routes: list(&[
                Prefix::V4([192, 168, 7, 0].into(), 24),
                Prefix::V6("2001:db8:7::".parse().unwrap(), 48),
            ]),
            endpoint: Some(v6()),
            attestation: Some(Signature([0x66; 32], [0x77; 32])),
        },
    );
    golden.item(
        "peer_upsert_warm",
        &PeerUpsert {
            device: DeviceId(6),
            name: text("gw-b"),
            key: PublicKey([0x11; 32]),
            psk: Secret([0x22; 32]),
            second: None,
            host: 3,
            mtu: 1_280,
            flags: peer_flags::KEEP_WARM,
            rules_in: 1,
            rules_out: 1,
            routes: list(&[]),
            endpoint: None,
            attestation: None,
        },
    );
    golden.item("peer_remove", &PeerRemove { device: DeviceId(6) });
    golden.item("peer_key", &PeerKey { device: DeviceId(6), second: Some(second()) });
    golden.item(
        "own_keys",
        &OwnKeys {
            active: PublicKey([0x11; 32]),
            second: Some(OwnSecond { key: PublicKey([0x44; 32]), kind: SecondKind::Next }),
            wanted: 300,
        },
    );
    golden.item("key_report", &KeyReport { request: 9, rotation: 300, key: PublicKey([0x44; 32]) });
    golden.item("peer_key_none", &PeerKey { device: DeviceId(6), second: None });
    golden.item("map_applied", &MapApplied { request: 0, epoch: Epoch(1), revision: Revision(43) });
}

fn network(golden: &mut Golden) {
    golden.item(
        "rules",
        &Rules {
            rules: list(&[
                Rule { number: 0, protocol: 0, first_port: 0, last_port: 65_535 },
                Rule { number: 5, protocol: 6, first_port: 22, last_port: 22 },
            ]),
        },
    );
    golden.item("servers", &Servers { stun: list(&[v4(), v6()]) });
    golden.item(
        "settings",
        &Settings {
            overlay: overlay(),
            host: 3,
            name: text("gw-b"),
            mtu: 1_280,
            next_pin: Some(PublicKey([0x88; 32])),
        },
    );
    golden.item("lease", &Lease { lease_s: 604_800 });
    golden.item("data_budget", &DataBudget { bytes: Some(1_000_000) });
    golden.item("data_budget_none", &DataBudget { bytes: None });
}

fn relay_link(golden: &mut Golden) {
    golden.item("relay_register", &RelayRegister { request: 9, version: text("0.1.0") });
    golden.item(
        "relay_registered",
        &RelayRegistered {
            request: 9,
            psk: Secret([0x33; 32]),
            master: 1,
            name: text("fra1"),
            secret: Secret([0x44; 32]),
            seen: Some([203, 0, 113, 10].into()),
        },
    );
    golden.item(
        "relay_report",
        &RelayReport {
            wait_s: 10,
            version: text("0.1.0"),
            place: RelayPlace {
                v4: Some([203, 0, 113, 10].into()),
                v6: Some("2001:db8::10".parse().unwrap()),
                udp: [3_478, 443],
                tcp: 443,
                tls: 5_349,
            },
            allocations: 300,
            max_allocations: 10_000,
            users: 12,
            draining: true,
            settings: 0xDEAD_BEEF,
            epoch: Epoch(0x5f1c_09aa),
            denials: 42,
        },
    );
    golden.item(
        "relay_settings",
        &RelaySettings {
            print: 0xDEAD_BEEF,
            name: text("fra1"),
            secret: Secret([0x44; 32]),
            draining: true,
            next_pin: Some(PublicKey([0x88; 32])),
        },
    );
    let denial = |device, denied| RelayDenial {
        device: DeviceId(device),
        organisation: OrganisationId(1),
        denied,
    };
    golden.item(
        "relay_denials",
        &RelayDenials {
            epoch: Epoch(0x5f1c_09aa),
            from: 42,
            to: 44,
            last: true,
            denials: list(&[denial(6, true), denial(300, false)]),
        },
    );
    golden.item("relay_heard", &RelayHeard { time_ms: 1_795_000_000_000 });
    golden.item("relay_unknown", &RelayUnknown {});
}

fn relays(golden: &mut Golden) {
    let relay = Relay {
        number: 1,
        v4: Some([203, 0, 113, 10].into()),
        v6: Some("2001:db8::10".parse().unwrap()),
        udp: [3_478, 443],
        tcp: 443,
        tls: 5_349,
    };
    let other = Relay { number: 300, v4: None, udp: [3_478, 0], tcp: 0, tls: 0, ..relay };
    golden.item("relays", &Relays { relays: list(&[relay, other]) });
    let name = |relay, name| RelayName { relay, name: text(name) };
    let names = list(&[name(1, "fra1"), name(300, "sgp1")]);
    golden.item("relay_names", &RelayNames { names });
    golden.item("relay_ask", &RelayAsk { request: 9 });
    let login = |relay| RelayLogin { relay, mac: RelayMac([0x5A; 20]) };
    let logins = [login(1), login(300)].into_iter().collect();
    let user = text("1800604800:dev_2j7m5ctnuzov");
    golden.item("relay_grant", &RelayGrant { request: 9, user, lifetime_s: 604_800, logins });
}

fn probes(golden: &mut Golden) {
    let head = ProbeHead {
        receiver: 0x0403_0201,
        epoch: 0x0807_0605,
        transaction: 0x1817_1615_1413_1211,
        clock_ms: 0x2423_2221,
        relayed: true,
        number: 7,
    };
    let mut out = [0; PROBE_LEN];
    let mut put = |name, kind, body: &[u8]| {
        let len = probe::emit(kind, &head, body, &mut out, |_| [0xC5; 16]).unwrap();
        golden.put(name, hex(&out[..len]));
    };
    put("probe_ping", ProbeKind::Ping, &PING_BODY);
    put("probe_pong", ProbeKind::Pong, &pong_body(v4(), 517));
    put("probe_go", ProbeKind::Go, &[1, 2, 3]);
    put("probe_open", ProbeKind::Open, &[]);
    let line = Line::new([v4(), v6()]);
    put("probe_line", ProbeKind::Line, line.as_bytes());
}

fn signal_and_telemetry(golden: &mut Golden) {
    let candidates: heapless::Vec<Candidate, CANDIDATES> = list(&[
        Candidate { kind: CandidateKind::Host, address: v4() },
        Candidate { kind: CandidateKind::Configured, address: v6() },
    ]);
    let nat = NatReport { mapping: Mapping::Sequential(-2), lifetime_s: 120, age_ms: 900 };
    let (peer, call) = (DeviceId(6), 1);
    golden.item(
        "call",
        &Call { call, peer, receiver: 2, nat, rtt_ms: 20, candidates: candidates.clone() },
    );
    golden.item("call_ack", &CallAck { call, peer, receiver: 3, nat, rtt_ms: 21, candidates });
    golden.item("go", &Go { call, peer, delay_ms: 10 });
    golden.item("call_failed", &CallFailed { call, peer, code: 1 });
    golden.item(
        "heartbeat",
        &Heartbeat {
            request: 8,
            instance: Instance([1, 2, 3, 4, 5, 6, 7, 8]),
            boot_count: 300,
            uptime_s: 86_400,
            epoch: Epoch(1),
            revision: Revision(43),
            tx_bytes: 1 << 40,
            rx_bytes: 2,
            tx_packets: 3,
            rx_packets: 4,
            handshakes: 5,
            handshake_failures: 6,
            drops: list(&[0, 7]),
            active_peers: 1,
            direct_peers: 1,
        },
    );
    golden.item(
        "data_usage",
        &DataUsage {
            day: 20_784,
            control: 9_120,
            keepalive: 4_032,
            probe: 5_059,
            relay_overhead: 0,
            payload: 12_045_992,
            budget: Some(1_000_000),
            metered: true,
            used_up: false,
        },
    );
}

fn path_report(golden: &mut Golden) {
    let nat = NatReport { mapping: Mapping::Window(512), lifetime_s: 0, age_ms: 900 };
    let attempt = Attempt {
        end: 2,
        ago_s: 240,
        failed: 12,
        own: Mapping::Random,
        peer: Mapping::EndpointIndependent,
        tried: 4,
        answered: 0,
        sent: 28,
        took_ms: 1_300,
    };
    let peer = |peer, way| PeerReport {
        peer: DeviceId(peer),
        way,
        since_s: 7_800,
        rtt_ms: 48,
        attempt: Some(attempt),
        next_s: Some(660),
    };
    let peers = [
        peer(6, Way::Relay { relay: 300, rung: Some(Rung::Tls) }),
        peer(7, Way::Relay { relay: 1, rung: None }),
        PeerReport { attempt: None, next_s: None, ..peer(8, Way::Direct(v6())) },
        peer(9, Way::Nowhere),
        PeerReport { rtt_ms: 0, attempt: None, next_s: None, ..peer(10, Way::Idle) },
    ];
    let (seen, peers) = (list(&[v4(), v6()]), list(&peers));
    golden.item("path_report", &PathReport { request: 9, uptime_s: 86_400, nat, seen, peers });
}

fn frames_and_texts(golden: &mut Golden) {
    let mut prologue = [0; PROLOGUE_LEN];
    let selector = PskSelector { kind: PskKind::Enrolment, master: 2 };
    let key = KeyId::from_random([0x1F; 8]);
    Hello::emit_prologue(selector, key.to_bytes(), Inbox([0xA5; 16]), &mut prologue);
    golden.put("hello_prologue", hex(&prologue));
    golden.put("record_header", hex(&RecordHeader { session: 1, counter: 1 << 40 }.to_bytes()));
    golden.put("retry", hex(&Retry { hello_hash: [1; 8], token: [2; 16] }.to_bytes()));
    golden.put("reset", hex(&Reset { session: 9, hello_hash: [1; 8] }.to_bytes()));
    golden.put("topic_hello", Topic::Hello(Inbox([0xA5; 16])).text().to_string());
    golden.put("topic_record", Topic::Record(ReplicaId(7), Inbox([0xA5; 16])).text().to_string());
    golden.put("topic_down", Topic::Down(Inbox([0xA5; 16])).text().to_string());
    golden.put("enrolment_user", weft_wire::topic::enrolment_user(key).to_string());
    golden.put("device_id", DeviceId(2).to_string());
    golden.put("key_id", key.to_string());
    let address = |carrier, authority| Address { carrier, authority: text(authority) };
    let join = JoinString {
        coordinator: PublicKey([0x11; 32]),
        key,
        psk: Secret([0x33; 32]),
        token: EnrolToken { expiry: 1_800_000_000, mac: ShortSecret([0x55; 16]) },
        addresses: list(&[
            address(Carrier::Mqtt, "mesh.example.net:7420"),
            address(Carrier::Https, "[2001:db8::1]:7420"),
        ]),
        spki: Some([0x66; 32]),
        account: Some(BrokerAccount { user: text("fleet"), password: text("pass") }),
    };
    let mut out = [0; MAX_TEXT];
    let len = join.emit(&mut out).unwrap();
    golden.put("join_string", String::from_utf8(out[..len].to_vec()).unwrap());
    let len = join.emit_for(Joins::Relay, &mut out).unwrap();
    golden.put("join_string_relay", String::from_utf8(out[..len].to_vec()).unwrap());
}

#[test]
fn every_format_keeps_its_bytes() {
    let mut golden = Golden(BTreeMap::new());
    session(&mut golden);
    enrolment(&mut golden);
    map(&mut golden);
    network(&mut golden);
    relays(&mut golden);
    relay_link(&mut golden);
    probes(&mut golden);
    signal_and_telemetry(&mut golden);
    path_report(&mut golden);
    frames_and_texts(&mut golden);
    if std::env::var_os("WEFT_GOLDEN").is_some() {
        for (name, value) in &golden.0 {
            println!("{name} {value}");
        }
    }
    let frozen: BTreeMap<&str, &str> =
        include_str!("golden.txt").lines().filter_map(|line| line.split_once(' ')).collect();
    for (name, value) in &golden.0 {
        assert_eq!(frozen.get(name), Some(&value.as_str()), "{name}");
    }
    assert_eq!(frozen.len(), golden.0.len(), "a frozen format has gone");
}
