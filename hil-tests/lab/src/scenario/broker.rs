//! The pair through Debian's Mosquitto whose owner is hostile: everything is
//! recorded, sent again, moved, reordered and left out, and RESETs rain. Nothing
//! changes, the tunnel does not notice, and what an operator decides meanwhile
//! arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet};
use crate::measure::{Traffic, wait_until};
use crate::mesh::{Coordinator, Gateway, Variables, rss_kib};
use crate::net::signal;
use crate::process::{Process, finish};
use crate::tap::Tap;

const CONFIGURATION: &str = include_str!("../../../../coordinator/packaging/mosquitto/weft.conf");
const ACCESS: &str = include_str!("../../../../coordinator/packaging/mosquitto/weft.acl");

/// Where devices and the coordinator believe the broker to be: the tap.
const PORT: u16 = 1883;
/// Where it is.
const INNER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1884);
const LIMIT: Duration = Duration::from_secs(30);
/// How long the broker is hostile, and how long of it nobody changes anything.
const HOSTILE: [Duration; 2] = [Duration::from_secs(185), Duration::from_secs(125)];
const HOSTILE_SHORT: [Duration; 2] = [Duration::from_secs(40), Duration::from_secs(25)];
/// Between two looks at what may not change.
const LOOK: Duration = Duration::from_secs(5);
/// Until a new policy has come through a broker that leaves much of it out.
const TOLD: Duration = Duration::from_secs(120);
/// In so long a device may shake hands once. A device counts by its own clock:
/// the wire may bring two of its frames a little closer together.
const WINDOW: Duration = Duration::from_millis(29_900);
/// Between two echo requests through the tunnel.
const PACE: Duration = Duration::from_millis(20);
/// By how much the coordinator may grow: its queues are bounded, and the
/// allocator keeps what they needed once.
const GROWTH_KIB: u64 = 32 * 1_024;
/// The accounts at the broker.
const ACCOUNTS: [(&str, &str); 2] =
    [("weft-coordinator", "the coordinator's own"), ("weft-device", "shared by all devices")];

/// What is told of a device, a peer or the coordinator and changes by itself:
/// ages, traffic, and what heartbeats bring.
const RESTLESS: &[&str] = &[
    "up_s",
    "last_heard",
    "lease",
    "rtt_us",
    "rx_bytes",
    "tx_bytes",
    "last_data",
    // Reckoned back from an age, to a millisecond more or less.
    "since",
    "rtt_at",
    "last_handshake",
    "drops",
    "last_seen",
    "uptime_s",
    "telemetry",
    "path_summary",
    "data_today",
];
/// What a new policy changes besides.
const DECIDED: &[&str] = &["revision", "map_revision", "map", "policy"];
/// As what the coordinator sorts away what the tap makes of frames.
const SORTED: &[&str] =
    &["replayed", "foreign_inbox", "foreign_session", "mac1", "unknown_session"];
/// Sessions that devices have confirmed.
const CONFIRMED: &str = "confirmed";
const AUDIT: &str = "the coordinator's audit";

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let mosquitto = find("mosquitto")?;
    let hosts = [("coord", 10), ("broker", 11), ("gw-a", 21), ("gw-b", 22)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, broker, gw-a, gw-b", None);
    let host = internet.host("broker")?;
    let folder = stage.run.folder().join("broker");
    let process = start(stage, host, &mosquitto, &folder)?;
    stage.processes.push(process);
    let address = SocketAddr::new(host.ipv4(), PORT);
    let tap = Tap::start(host.namespace(), address, INNER)?;
    stage.story.done("broker", "Debian's Mosquitto, a tap before it", None);
    let settings = settings(&folder, address);
    let host = internet.host("coord")?;
    let coordinator = Coordinator::start_in(stage.run, host, host.ipv4(), settings)?;
    let key = coordinator.join_string("broker", 2)?;
    let join = |name: &str| Gateway::join(stage.run, internet.host(name)?, &key, "");
    let (a, b) = (join("gw-a")?, join("gw-b")?);
    a.ping(b.name())?;
    wait_until(LIMIT, "the coordinator knows that both hold their map", || {
        let page = asked(&coordinator, "devices", &["device", "list"])?;
        let current = |device: &Value| device["map"]["applied"] == device["map"]["revision"];
        Ok(page["items"].as_array().is_some_and(|devices| devices.iter().all(current)))
    })?;
    stage.story.done("pair", "joined and talking through the broker", None);
    let told = endure(stage, &coordinator, [&a, &b], &tap);
    stage.processes.extend([coordinator.process, a.process, b.process]);
    told
}

/// What the hostile time was like.
struct Seen {
    lasted: Duration,
    changes: BTreeSet<String>,
    /// How long each new policy took.
    told: Vec<Duration>,
    /// Every device's beginnings of a handshake.
    handshakes: Vec<Vec<Instant>>,
    /// What the coordinator counted meanwhile.
    counted: BTreeMap<String, u64>,
    growth_kib: u64,
    /// Share of a core that the coordinator took.
    cpu_pct: f64,
}

/// The hostile time, with looks before it, meanwhile and after it.
fn endure(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    pair: [&Gateway; 2],
    tap: &Tap,
) -> Result<Value> {
    let traffic = Traffic::start(pair[0].namespace(), pair[1].addresses.ipv4, PACE)?;
    let before = tap.counts().all();
    let seen = watch(stage, coordinator, pair, tap);
    tap.set_hostile(false);
    let steady = traffic.end()?;
    let seen = seen?;
    let did: BTreeMap<_, _> =
        tap.counts().all().iter().zip(before).map(|(now, then)| (now.0, now.1 - then.1)).collect();
    let words = format!(
        "{} RESETs, {} sent again, {} moved, {} left out, {} reordered",
        did["resets"], did["replayed"], did["swapped"], did["dropped"], did["reordered"]
    );
    stage.story.done("hostile", &words, Some(seen.lasted));
    let most = seen.handshakes.iter().map(|starts| densest(starts)).max().unwrap_or(0);
    let mut failures: Vec<String> = seen.changes.iter().cloned().collect();
    if most > 1 {
        failures.push(format!("a device shook hands {most} times within 30 s"));
    }
    if seen.handshakes.len() != pair.len() {
        let (some, all) = (seen.handshakes.len(), pair.len());
        failures.push(format!("RESETs brought {some} of {all} devices to shake hands"));
    }
    let begun = seen.handshakes.iter().map(Vec::len).sum::<usize>();
    let mut sorted = seen.counted;
    let confirmed = sorted.remove(CONFIRMED).unwrap_or_default();
    if confirmed > begun as u64 {
        failures.push(format!("{begun} handshakes were begun, {confirmed} sessions confirmed"));
    }
    if steady.lost() > 0 {
        failures.push(format!("{} of {} echo requests got no answer", steady.lost(), steady.sent));
    }
    if seen.growth_kib > GROWTH_KIB {
        failures.push(format!("the coordinator grew by {} KiB", seen.growth_kib));
    }
    failures.extend(idle(&did, seen.lasted));
    let unseen = sorted.iter().filter(|(_, count)| **count == 0);
    failures.extend(unseen.map(|(reason, _)| format!("the coordinator sorted away no {reason}")));
    if !failures.is_empty() {
        return Err(Failure::expectation(failures.join("; ")));
    }
    let slowest = seen.told.iter().max().copied().unwrap_or_default();
    stage.story.verdict(&format!(
        "nothing changed: {} of {} answered, at most {most} handshake in 30 s, a policy after {:.1} s",
        steady.answered,
        steady.sent,
        slowest.as_secs_f64()
    ));
    let per_second = did["resets"] as f64 / pair.len() as f64 / seen.lasted.as_secs_f64();
    Ok(json!({
        "state_changes": seen.changes.len(),
        "handshakes_per_30s": most,
        "ping_loss_pct": 0,
        "handshakes": begun,
        "sessions_confirmed": confirmed,
        "sorted_away": sorted,
        "pings": steady.sent,
        "longest_gap_ms": steady.longest_gap.as_millis() as u64,
        "policies": seen.told.len(),
        "policy_slowest_ms": slowest.as_millis() as u64,
        "hostile_s": seen.lasted.as_secs(),
        "resets_per_s": rounded(per_second),
        "tap": did,
        "coordinator_cpu_pct": rounded(seen.cpu_pct),
        "coordinator_growth_kib": seen.growth_kib,
    }))
}

fn rounded(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

/// First nobody changes anything, and nothing may change. Then an operator sets
/// one policy after the other: each arrives, and besides nothing changes.
fn watch(
    stage: &Stage<'_>,
    coordinator: &Coordinator,
    pair: [&Gateway; 2],
    tap: &Tap,
) -> Result<Seen> {
    let [whole, quiet] = if stage.options.short { HOSTILE_SHORT } else { HOSTILE };
    let before = state(coordinator, pair)?;
    let counts = counted(coordinator)?;
    let memory = rss_kib(&coordinator.process)?;
    let worked = cpu(coordinator.process.pid())?;
    let mut changes = BTreeSet::new();
    let began = clock::now();
    tap.set_hostile(true);
    while began.elapsed() < quiet {
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        signal::rest(quiet.saturating_sub(began.elapsed()).min(LOOK));
        changes.extend(differences(&before, &state(coordinator, pair)?));
    }
    let mut told = Vec::new();
    while told.is_empty() || began.elapsed() < whole {
        told.push(set_policy(stage, coordinator, pair, told.len())?);
    }
    let after = state(coordinator, pair)?;
    changes.extend(differences(&decided(before, 0), &decided(after, told.len())));
    let lasted = began.elapsed();
    let since = |(name, count)| (String::clone(name), count - counts[name]);
    let counted = counted(coordinator)?.iter().map(since).collect();
    let worked = cpu(coordinator.process.pid())?.saturating_sub(worked);
    // The inboxes that they enrolled with are silent by now.
    let within = |starts: Vec<Instant>| starts.into_iter().filter(|at| *at >= began).collect();
    let mut handshakes: Vec<Vec<_>> = tap.handshakes().into_values().map(within).collect();
    handshakes.retain(|starts| !starts.is_empty());
    Ok(Seen {
        lasted,
        changes,
        told,
        handshakes,
        counted,
        growth_kib: rss_kib(&coordinator.process)?.saturating_sub(memory),
        cpu_pct: 100.0 * worked.as_secs_f64() / lasted.as_secs_f64(),
    })
}

/// What the coordinator has counted under these names.
fn counted(coordinator: &Coordinator) -> Result<BTreeMap<String, u64>> {
    let samples = coordinator.metrics()?;
    let count = |name: String| {
        let count = samples[name.as_str()].as_u64();
        count.ok_or_else(|| Failure::expectation(format!("no {name} among the metrics: {samples}")))
    };
    let sorted = SORTED.iter().map(|reason| {
        let name = format!("weft_coordinator_frames_dropped_total{{reason=\"{reason}\"}}");
        Ok(((*reason).to_owned(), count(name)?))
    });
    let confirmed = count("weft_coordinator_sessions_confirmed_total".to_owned())?;
    sorted.chain([Ok((CONFIRMED.to_owned(), confirmed))]).collect()
}

/// An operator decides something: how long until both devices hold it.
fn set_policy(
    stage: &Stage<'_>,
    coordinator: &Coordinator,
    pair: [&Gateway; 2],
    number: usize,
) -> Result<Duration> {
    let revision = |gateway: &Gateway| -> Result<u64> {
        Ok(gateway.status()?["coordinator"]["revision"].as_u64().unwrap_or(0))
    };
    let before = [revision(pair[0])?, revision(pair[1])?];
    let file = stage.run.folder().join("policy.toml");
    let policy = format!(
        "[[rule]]\nname = \"talk\"\nfrom = \"any\"\nto = \"any\"\nallow = [\"icmp\", \"tcp/{}\"]\n",
        1_000 + number
    );
    fs::write(&file, policy).during("write a policy")?;
    let file = file.display().to_string();
    let began = clock::now();
    coordinator.command("policy", &["policy", "set", &file])?;
    wait_until(TOLD, "both hold the new policy through the hostile broker", || {
        Ok(revision(pair[0])? > before[0] && revision(pair[1])? > before[1])
    })?;
    Ok(began.elapsed())
}

/// What the tap should have done and did not: then nothing was shown.
fn idle(did: &BTreeMap<&'static str, u64>, lasted: Duration) -> Vec<String> {
    let seconds = lasted.as_secs();
    // Two devices, a hundred times a second; a busy machine misses some.
    let least = |name: &str| match name {
        "resets" | "replayed" | "swapped" => 2 * 80 * seconds,
        "strangers" => 1_000 * seconds,
        _ => 1,
    };
    let few = did.iter().filter(|(name, count)| **count < least(name));
    few.map(|(name, count)| format!("the tap did too little: {name} {count}")).collect()
}

/// The most instants within one window.
fn densest(starts: &[Instant]) -> usize {
    let within = |first: &Instant| {
        starts.iter().filter(|at| **at >= *first && **at - *first < WINDOW).count()
    };
    starts.iter().map(within).max().unwrap_or(0)
}

/// Everything that may not change, by what told it.
fn state(coordinator: &Coordinator, gateways: [&Gateway; 2]) -> Result<BTreeMap<String, Value>> {
    let mut state = BTreeMap::new();
    for gateway in gateways {
        state.insert(format!("status of {}", gateway.name()), settled(gateway.status()?));
    }
    for (what, arguments) in [
        ("network", &["network"][..]),
        ("devices", &["device", "list"]),
        ("keys", &["key", "list"]),
        ("audit", &["audit"]),
    ] {
        let document = asked(coordinator, what, arguments)?;
        state.insert(format!("the coordinator's {what}"), settled(document));
    }
    Ok(state)
}

/// What one of the coordinator's commands tells.
fn asked(coordinator: &Coordinator, what: &str, arguments: &[&str]) -> Result<Value> {
    let arguments: Vec<_> = arguments.iter().copied().chain(["--json"]).collect();
    let told = coordinator.command(what, &arguments)?.stdout;
    serde_json::from_str(&told)
        .map_err(|error| Failure::expectation(format!("weft-coordinator {what}: {error}: {told}")))
}

/// A document without what changes by itself.
fn settled(document: Value) -> Value {
    without(document, RESTLESS)
}

fn without(document: Value, names: &[&str]) -> Value {
    match document {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| !names.contains(&name.as_str()))
            .map(|(name, value)| (name, without(value, names)))
            .collect(),
        Value::Array(values) => values.into_iter().map(|value| without(value, names)).collect(),
        other => other,
    }
}

/// The state without what so many new policies have changed.
fn decided(state: BTreeMap<String, Value>, policies: usize) -> BTreeMap<String, Value> {
    let decided = |(what, document): (String, Value)| {
        let mut document = without(document, DECIDED);
        if what == AUDIT
            && let Some(rows) = document["items"].as_array_mut()
        {
            // Each left one row; any other row stays, and is a change.
            for _ in 0..policies {
                rows.pop_if(|row| row["action"] == "policy.set");
            }
        }
        (what, document)
    };
    state.into_iter().map(decided).collect()
}

/// Where two looks differ, each place with what was and what is there.
fn differences(
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (what, old) in before {
        compare(what, old, after.get(what).unwrap_or(&Value::Null), &mut found);
    }
    found
}

fn compare(place: &str, old: &Value, new: &Value, found: &mut BTreeSet<String>) {
    match (old, new) {
        (Value::Object(olds), Value::Object(news)) => {
            let names: BTreeSet<_> = olds.keys().chain(news.keys()).collect();
            for name in names {
                let place = format!("{place}/{name}");
                compare(&place, &old[name], &new[name], found);
            }
        }
        (Value::Array(olds), Value::Array(news)) if olds.len() == news.len() => {
            for (at, (old, new)) in olds.iter().zip(news).enumerate() {
                compare(&format!("{place}/{at}"), old, new, found);
            }
        }
        _ if old != new => {
            found.insert(format!("{place} changed from {old} to {new}"));
        }
        _ => {}
    }
}

/// A program of Debian's package, or a skip that names it.
fn find(name: &str) -> Result<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"];
    let found =
        folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.ok_or_else(|| {
        Failure::skipped(format!("{name} is missing")).line("try", "cross/setup test")
    })
}

/// Starts Mosquitto with the files that we ship, on its host alone.
fn start(stage: &Stage<'_>, host: &Host, mosquitto: &Path, folder: &Path) -> Result<Process> {
    fs::create_dir_all(folder).during("make the broker's folder")?;
    let passwords = folder.join("weft.passwd");
    fs::write(&passwords, "").during("write the broker's accounts")?;
    for (user, password) in ACCOUNTS {
        let mut command = Command::new(find("mosquitto_passwd")?);
        command.arg("-b").arg(&passwords).args([user, password]);
        let made =
            finish("mosquitto-passwd", host.namespace(), stage.run.logs(), &mut command, LIMIT)?;
        if !made.success() {
            return Err(Failure::expectation(format!("mosquitto_passwd: {}", made.stderr.trim())));
        }
        // What the coordinator reads its passwords from.
        write_secret(&folder.join(user), password)?;
    }
    fs::write(folder.join("weft.acl"), ACCESS).during("write the broker's access list")?;
    let listener = format!("listener {} {}", INNER.port(), INNER.ip());
    let text = CONFIGURATION
        .replace("listener 1883", &listener)
        .replace("/etc/mosquitto/", &format!("{}/", folder.display()));
    // As root it would change to a user that may not read the folder.
    let file = folder.join("mosquitto.conf");
    fs::write(&file, format!("{text}\nuser root\n")).during("write the broker's settings")?;
    let mut command = Command::new(mosquitto);
    command.arg("-v").arg("-c").arg(&file);
    let process = Process::start("mosquitto", host.namespace(), stage.run.logs(), &mut command)?;
    let runs = |line: &str| line.ends_with("running").then_some(());
    process.wait_for(0, LIMIT, "that it runs", runs)?;
    Ok(process)
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.during("write a password")
}

/// `[broker]` of the coordinator's settings.
fn settings(folder: &Path, address: SocketAddr) -> Variables {
    let [own, devices] = ACCOUNTS.map(|(user, _)| user);
    let file = |user: &str| folder.join(user).into_os_string();
    vec![
        ("WEFT_COORDINATOR_BROKER_ADDRESS", address.to_string().into()),
        ("WEFT_COORDINATOR_BROKER_USER", own.into()),
        ("WEFT_COORDINATOR_BROKER_PASSWORD_FILE", file(own)),
        ("WEFT_COORDINATOR_BROKER_DEVICE_USER", devices.into()),
        ("WEFT_COORDINATOR_BROKER_DEVICE_PASSWORD_FILE", file(devices)),
    ]
}

/// Time that all threads of a process have run.
fn cpu(pid: u32) -> Result<Duration> {
    let folder = format!("/proc/{pid}/task");
    let mut nanos = 0;
    for entry in fs::read_dir(&folder).during(&format!("read {folder}"))? {
        let path = entry.during(&format!("read {folder}"))?.path().join("schedstat");
        // A thread that ended meanwhile is not counted; those that work go on.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        nanos +=
            text.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(what: &str, document: Value) -> BTreeMap<String, Value> {
        BTreeMap::from([(what.to_owned(), settled(document))])
    }

    #[test]
    fn what_changes_by_itself_is_no_change() {
        let status = |up: u32, name: &str| {
            state("status", json!({"up_s": up, "peers": [{"name": name, "rx_bytes": up}]}))
        };
        assert!(differences(&status(1, "a"), &status(2, "a")).is_empty());
        let found = differences(&status(1, "a"), &status(1, "b"));
        assert_eq!(found.first().unwrap(), r#"status/peers/0/name changed from "a" to "b""#);
        assert_eq!(differences(&status(1, "a"), &BTreeMap::new()).len(), 1);
    }

    #[test]
    fn a_policy_explains_its_own_rows_and_no_others() {
        let audit = |actions: &[&str]| {
            let rows: Vec<_> = actions.iter().map(|action| json!({"action": action})).collect();
            state(AUDIT, json!({"items": rows}))
        };
        let changes = |actions: &[&str], policies| {
            let before = decided(audit(&["device.enrolled"]), 0);
            differences(&before, &decided(audit(actions), policies)).len()
        };
        assert_eq!(changes(&["device.enrolled", "policy.set"], 1), 0);
        assert_eq!(changes(&["device.enrolled", "policy.set"], 0), 1);
        assert_eq!(changes(&["device.enrolled", "device.blocked"], 1), 1);
    }

    #[test]
    fn handshakes_are_counted_in_every_window() {
        let began = clock::now();
        let at = |seconds: &[u64]| {
            let starts: Vec<_> = seconds.iter().map(|s| began + Duration::from_secs(*s)).collect();
            densest(&starts)
        };
        assert_eq!(at(&[]), 0);
        assert_eq!(at(&[1, 31, 61]), 1);
        assert_eq!(at(&[1, 35, 50, 64]), 3);
    }
}
