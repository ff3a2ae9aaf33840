//! `weft netcheck` behind every NAT box of the laboratory, against our relay, and
//! on a member, whose map says whom it asks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet, Plan, ipv4};
use crate::mesh::{Coordinator, Gateway, program};
use crate::nat::Kind;
use crate::process::{Process, find_program, finish};
use crate::run::Run;
use crate::site::{Site, SitePlan};

/// The relay, with two addresses.
const SERVER: &str = "server";
const SERVERS: [u8; 2] = [10, 11];
const COORD: (&str, u8) = ("coord", 12);
/// A member with a public address.
const MEMBER: (&str, u8) = ("member", 21);
/// Sites have the numbers from here on.
const FIRST_SITE: u8 = 30;
/// A look takes 2 s, the measured life 8 s.
const LIMIT: Duration = Duration::from_secs(20);
/// A round trip over the wire is no shorter.
const ROUND_TRIP_US: u64 = 20_000;

/// What a box is called by `weft netcheck`: mapping, filtering, hairpin; and the
/// verdict.
type Row = (Kind, &'static str, &'static str, Option<bool>, &'static str);

const EI: &str = "endpoint_independent";
const AD: &str = "address";
const APD: &str = "address_and_port";
const NOT: Option<bool> = Some(false);
/// Nothing was told.
const NONE: &str = "";

const EXPECTED: &[Row] = &[
    (Kind::Open, EI, EI, NOT, "nat.open"),
    (Kind::FullCone, EI, EI, NOT, "nat.open"),
    (Kind::AdCone, EI, AD, NOT, "nat.easy"),
    (Kind::Prc, EI, APD, NOT, "nat.easy"),
    (Kind::NoFw, EI, APD, NOT, "nat.easy"),
    (Kind::SymSeq, "sequential 1", APD, NOT, "nat.hard"),
    (Kind::SymWin, "window 512", APD, NOT, "nat.hard"),
    (Kind::SymRand, "random", APD, NOT, "nat.hard"),
    (Kind::SymEif, "random", EI, NOT, "nat.open"),
    (Kind::Cgnat, EI, APD, NOT, "nat.easy"),
    (Kind::Blocked, NONE, NONE, None, "nat.shut"),
    (Kind::SymSeq2, "sequential 2", APD, NOT, "nat.hard"),
    (Kind::Udp443, EI, APD, NOT, "nat.easy"),
    (Kind::Moved, EI, APD, NOT, "nat.easy"),
    (Kind::AdMap, AD, APD, NOT, "nat.hard"),
    (Kind::Block, EI, APD, NOT, "nat.easy"),
    (Kind::ConeHairpin, EI, EI, Some(true), "nat.open"),
    (Kind::PrcHairpin, EI, APD, Some(true), "nat.easy"),
    (Kind::Double, EI, APD, NOT, "nat.easy"),
    // Its servers do not know under which address it knows them.
    (Kind::Nat64, EI, NONE, None, "nat.easy"),
    (Kind::Short, EI, APD, NOT, "nat.easy"),
    (Kind::Small, EI, APD, NOT, "nat.easy"),
];

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    if find_program("nft").is_none() {
        return Err(
            Failure::skipped("the program nft is missing").line("try", "apt-get install nftables")
        );
    }
    let mut skipped = Vec::new();
    let mut plans = Vec::new();
    for ((kind, ..), number) in EXPECTED.iter().zip(FIRST_SITE..) {
        if find_program(kind.needs()).is_none() {
            let reason = format!("the program {} is missing", kind.needs());
            stage.story.skipped(kind.name(), &reason);
            skipped.push(json!({"name": kind.name(), "reason": reason}));
            continue;
        }
        plans.push(SitePlan::new(*kind, number));
    }
    let plan = Plan {
        hosts: &[(SERVER, SERVERS[0]), COORD, MEMBER],
        further: &[(SERVER, SERVERS[1])],
        sites: &plans,
        seed: stage.options.seed.unwrap_or(1),
        ..Plan::new("core", Families::Both)
    };
    let internet = Internet::of(stage.run, &plan)?;
    stage.story.done("internet", &format!("a relay and {} sites", plans.len()), None);
    let (relay, section) = relay(stage.run, &internet)?;
    stage.processes.push(relay);
    let seen = look(stage.run, &internet)?;
    let document = tell(stage, &seen)?;
    let ways = member(stage, &internet, &section)?;
    let passed = seen.len() + 1;
    Ok(json!({"passed": passed, "failed": 0, "skipped": skipped, "types": document, "ways": ways}))
}

/// One with all four answers and all four ways, and how the coordinator is told
/// of it.
fn relay(run: &Run, internet: &Internet) -> Result<(Process, String)> {
    let [ip, other] = SERVERS.map(ipv4);
    let folder = run.folder();
    let (secret, settings) = (folder.join("relay.secret"), folder.join("relay.toml"));
    let file = secret.display();
    let text = format!(
        "listen = [\"{ip}:3478\"]\nlisten_tcp = [\"{ip}:3478\"]\nlisten_tls = [\"{ip}:443\"]\n\
         [relay]\naddresses = [\"{ip}\"]\n[auth]\nsecret_files = [\"{file}\"]\n\
         [discovery]\nother_port = 443\nother_address = \"{other}\"\n"
    );
    fs::write(&secret, "the laboratory's secret\n").during("write the relay's secret")?;
    let only_ours = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&secret, only_ours).during("close the relay's secret")?;
    fs::write(&settings, text).during("write the relay's settings")?;
    let mut command = Command::new(program("weft-relay")?);
    command.arg("--config").arg(&settings);
    let namespace = internet.host(SERVER)?.namespace();
    let process = Process::start("relay", namespace, run.logs(), &mut command)?;
    process.wait_for(0, LIMIT, "that it relays", |line| line.starts_with("turn").then_some(()))?;
    let section = format!(
        "\n[[relays]]\nname = \"lab\"\naddress = [\"{ip}\"]\nudp = [3478, 443]\ntcp = 3478\n\
         tls = 443\nsecret_file = \"{file}\"\n"
    );
    Ok((process, section))
}

/// Looks from behind all boxes at once.
fn look(run: &Run, internet: &Internet) -> Result<Vec<(Kind, Value)>> {
    thread::scope(|scope| {
        let looks: Vec<_> = internet
            .sites()
            .iter()
            .map(|site| (site.plan.kind, scope.spawn(move || netcheck(run, site))))
            .collect();
        looks
            .into_iter()
            .map(|(kind, look)| {
                let panicked = |_| Err(Failure::new("lab.internal", "a look panicked"));
                Ok((kind, look.join().unwrap_or_else(panicked)?))
            })
            .collect()
    })
}

fn netcheck(run: &Run, site: &Site) -> Result<Value> {
    let kind = site.plan.kind;
    let mut command = Command::new(program("weft")?);
    command.args(["netcheck", "--json"]);
    let [first, second] = SERVERS.map(ipv4);
    let servers = match kind {
        Kind::Udp443 => vec![format!("{first}:443")],
        Kind::Nat64 => [first, second].map(|ip| format!("[{}]:3478", site.plan.nat64(ip))).to_vec(),
        _ => vec![format!("{first}:3478")],
    };
    for server in servers {
        command.args(["--server", &server]);
    }
    if kind == Kind::Short {
        command.arg("--lifetime=2,4");
    }
    let name = format!("netcheck-{}", site.plan.name);
    let finished = finish(&name, site.host().namespace(), run.logs(), &mut command, LIMIT)?;
    serde_json::from_str(&finished.stdout).map_err(|error| {
        let said = finished.stderr.trim().to_owned();
        Failure::expectation(format!("{name} said no document: {error}")).line("said", said)
    })
}

fn text(document: &Value, pointer: &str) -> String {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or(NONE).to_owned()
}

/// Mapping with its number, filtering, hairpin, verdict.
fn row(document: &Value) -> (String, String, Option<bool>, String) {
    let number = [&document["step"], &document["window"]].into_iter().find_map(Value::as_i64);
    let number = number.map_or_else(String::new, |number| format!(" {number}"));
    let mapping = format!("{}{number}", text(document, "/mapping"));
    let [filtering, verdict] = ["/filtering", "/verdict/code"].map(|at| text(document, at));
    (mapping, filtering, document["hairpin"].as_bool(), verdict)
}

fn tell(stage: &mut Stage<'_>, seen: &[(Kind, Value)]) -> Result<Vec<Value>> {
    let mut wrong = Vec::new();
    let mut all = Vec::new();
    for (kind, document) in seen {
        let found = row(document);
        let (mapping, filtering, hairpin, verdict) = &found;
        let hairpins = hairpin.map_or("–", |hairpin| if hairpin { "hairpin" } else { "" });
        let life = document["lifetime_s"].as_u64();
        let life = life.map_or_else(String::new, |life| format!("lives {life} s"));
        let words = format!("{mapping:<21} {filtering:<21} {verdict:<9} {hairpins} {life}");
        stage.story.line(format!("  {:<13} {words}", kind.name()).trim_end());
        let (_, mapping, filtering, hairpin, verdict) =
            EXPECTED.iter().find(|(expected, ..)| expected == kind).ok_or_else(|| {
                Failure::new("lab.internal", format!("nothing is expected of {}", kind.name()))
            })?;
        let expected =
            ((*mapping).to_owned(), (*filtering).to_owned(), *hairpin, (*verdict).to_owned());
        if found != expected {
            wrong.push(format!("{} is {found:?}, not {expected:?}", kind.name()));
        }
        let udp = document["udp"] == (*kind != Kind::Blocked);
        let lives = [&document["lifetime_s"], &document["lifetime_below_s"]].map(Value::as_u64);
        let expected = if *kind == Kind::Short { [Some(2), Some(4)] } else { [None; 2] };
        if !udp || lives != expected {
            wrong.push(format!("{}: udp {}, lives {lives:?}", kind.name(), document["udp"]));
        }
        all.push(json!({"type": kind.name(), "netcheck": document}));
    }
    if wrong.is_empty() { Ok(all) } else { Err(Failure::expectation(wrong.join("; "))) }
}

/// A member asks whom its map names, and goes every way to the relay.
fn member(stage: &mut Stage<'_>, internet: &Internet, section: &str) -> Result<Value> {
    let host = internet.host(COORD.0)?;
    let coordinator = Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), section)?;
    let key = coordinator.join_string("lab", 1)?;
    let gateway = Gateway::join(stage.run, internet.host(MEMBER.0)?, &key, "")?;
    let document = gateway.netcheck()?;
    let told = told(&coordinator);
    stage.processes.extend([coordinator.process, gateway.process]);
    let relay = &document["relays"][0];
    let ip = ipv4(SERVERS[0]);
    let expected = [("udp", 3_478), ("udp", 443), ("tcp", 3_478), ("tls", 443)];
    let ways = relay["ways"].as_array().cloned().unwrap_or_default();
    let found: Vec<_> =
        ways.iter().map(|way| (text(way, "/rung"), text(way, "/address"))).collect();
    let wanted: Vec<_> =
        expected.iter().map(|(rung, port)| ((*rung).to_owned(), format!("{ip}:{port}"))).collect();
    let slow = ways.iter().all(|way| way["rtt_us"].as_u64().is_some_and(|us| us >= ROUND_TRIP_US));
    let first = (text(relay, "/rung"), text(&document, "/verdict/code"));
    let no_nat = text(&document, "/ipv4/public") == internet.host(MEMBER.0)?.ipv4().to_string();
    if found != wanted || !slow || first != ("udp".to_owned(), "nat.open".to_owned()) || !no_nat {
        return Err(Failure::expectation(format!("a member sees {document}")));
    }
    let words: Vec<String> = ways
        .iter()
        .map(|way| {
            let ms = way["rtt_us"].as_u64().unwrap_or(0) as f64 / 1_000.0;
            format!("{} {ms:.1} ms", text(way, "/rung"))
        })
        .collect();
    stage.story.done("relay", &words.join(", "), None);
    let told = told?;
    let by_udp = |relay: &Value| relay["rung"] == "udp" && relay["rtt_us"].is_u64();
    let relays = told["relays"].as_array().map_or(&[][..], Vec::as_slice);
    if told["mapping"] != "none" || relays.len() != 1 || !relays.iter().all(by_udp) {
        return Err(Failure::expectation(format!("the coordinator is told {told}")));
    }
    stage.story.done("command", "the coordinator is told the same", None);
    Ok(ways.into())
}

/// What a member answers when its coordinator asks.
fn told(coordinator: &Coordinator) -> Result<Value> {
    let arguments = ["device", "command", MEMBER.0, "netcheck", "--json"];
    let finished = coordinator.command("command", &arguments)?;
    let document: Value = serde_json::from_str(&finished.stdout)
        .map_err(|error| Failure::expectation(format!("no document: {error}")))?;
    Ok(document["netcheck"].clone())
}
