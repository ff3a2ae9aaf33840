//! WireGuard keys rotate one after another while the tunnels that they make
//! carry traffic. The PSK of two devices is bound to the keys that they use, so
//! it rotates with each of them. Then one is killed in the middle of a rotation,
//! one is given up, and one device is away meanwhile.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet};
use crate::measure::{Traffic, wait_until};
use crate::mesh::{Coordinator, Gateway, text};
use crate::net::echo::{OUTAGE, Steady};
use crate::net::signal;
use crate::ui;

/// Rotations of the whole story.
const ROTATIONS: usize = 1_000;
/// How long the short one rotates.
const SHORT: Duration = Duration::from_secs(12);
/// Between two echo requests.
const PACE: Duration = Duration::from_millis(10);
/// Share of the traffic that may be lost, in percent.
const LOSS_PCT: f64 = 0.1;
/// Rotations that a device is away over in the long form.
const MISSED: usize = 2;
/// For a device that comes back, and for what it missed.
const BACK: Duration = Duration::from_secs(30);

const NAMES: [&str; 4] = ["gw-a", "gw-b", "gw-c", "gw-d"];

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), ("gw-a", 21), ("gw-b", 22), ("gw-c", 23), ("gw-d", 24)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, gw-a to gw-d", None);
    let host = internet.host("coord")?;
    let coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("rotate", NAMES.len() as u32)?;
    let mut gateways = Vec::new();
    for name in NAMES {
        gateways.push(Gateway::join(stage.run, internet.host(name)?, &key, "")?);
    }
    let told = tell(stage, &coordinator, &mut gateways);
    stage.processes.push(coordinator.process);
    stage.processes.extend(gateways.into_iter().map(|gateway| gateway.process));
    told
}

fn tell(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    gateways: &mut [Gateway],
) -> Result<Value> {
    let [a, b, c, d] = gateways else {
        return Err(Failure::new("lab.internal", "there are four gateways"));
    };
    let mut traffic = Vec::new();
    for (from, to) in [(&*a, &*b), (&*b, &*c), (&*c, &*d)] {
        from.ping(to.name())?;
        traffic.push(Traffic::start(from.namespace(), to.addresses.ipv4, PACE)?);
    }
    stage.story.done("tunnels", "three carry 100 echo requests a second each", None);
    let pairs = [(&*a, &*b), (&*b, &*c), (&*c, &*d)];
    let began = clock::now();
    let (answered, psks) = rotate(coordinator, pairs, stage.options.short)?;
    let took = began.elapsed();
    let words = format!("{answered} rotations, {psks} new PSKs seen on both sides");
    stage.story.done("keys", &words, Some(took));
    // The pair that nothing else happens to goes on to the end.
    let aside = traffic.split_off(2);
    let mut all = Steady::default();
    for one in traffic {
        add(&mut all, &one.end()?);
    }
    given_up(coordinator, a, b)?;
    stage.story.done("given up", "gw-a keeps its key", None);
    let killed = killed(coordinator, a, b)?;
    stage.story.done("killed", "gw-a in the middle of a rotation, which ended", Some(killed));
    let away = away(coordinator, a, b, stage.options.short)?;
    stage.story.done("away", "gw-b during a rotation of gw-a, and back", Some(away));
    let rotations = in_use(coordinator)?;
    // That of the killed one, and what gw-b missed.
    let expected = answered + 1 + if stage.options.short { 1 } else { MISSED };
    if rotations != expected {
        return Err(Failure::expectation(format!(
            "{expected} rotations came to an end, the audit trail has {rotations}"
        )));
    }
    for one in aside {
        add(&mut all, &one.end()?);
    }
    let words = format!("{} of {} answered", all.answered, all.sent);
    stage.story.done("traffic", &words, Some(all.longest_gap));
    let mut document = report(&all)?;
    document["rotations"] = json!(rotations);
    document["psks_seen"] = json!(psks);
    document["took_s"] = json!(took.as_secs());
    document["ended_after_kill_ms"] = json!(killed.as_millis() as u64);
    document["back_after_away_ms"] = json!(away.as_millis() as u64);
    Ok(document)
}

fn add(all: &mut Steady, one: &Steady) {
    all.sent += one.sent;
    all.answered += one.answered;
    all.outages += one.outages;
    all.longest_gap = all.longest_gap.max(one.longest_gap);
}

fn report(all: &Steady) -> Result<Value> {
    if all.loss_pct() >= LOSS_PCT || all.longest_gap > OUTAGE {
        return Err(Failure::expectation(format!(
            "{} of {} echo requests got no answer, the longest gap was {}",
            all.lost(),
            all.sent,
            ui::span(all.longest_gap)
        )));
    }
    let loss = (all.loss_pct() * 10_000.0).round() / 10_000.0;
    Ok(json!({
        "lost_pct": if all.lost() == 0 { json!(0) } else { json!(loss) },
        "longest_gap_ms": all.longest_gap.as_millis() as u64,
        "sent": all.sent,
        "lost": all.lost(),
    }))
}

/// Two that talk to each other.
type Pair<'a> = (&'a Gateway, &'a Gateway);

/// All gateways rotate at once, again and again. How many rotations were
/// answered, and how many new PSKs were seen.
fn rotate(coordinator: &Coordinator, pairs: [Pair<'_>; 3], short: bool) -> Result<(usize, usize)> {
    let began = clock::now();
    let mut rotations = 0;
    let mut psks = HashSet::new();
    for pair in pairs {
        psks.insert(psk_of(pair)?);
    }
    let before = psks.len();
    while if short { began.elapsed() < SHORT } else { rotations < ROTATIONS } {
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        let round = thread::scope(|scope| {
            let running = NAMES.map(|name| scope.spawn(move || rotate_one(coordinator, name)));
            running.map(|thread| {
                let panicked = |_| Failure::new("lab.internal", "a thread of a rotation panicked");
                thread.join().map_err(panicked)?
            })
        });
        for done in round {
            done?;
            rotations += 1;
        }
        for (from, to) in pairs {
            let what = format!("{} and {} have one new PSK", from.name(), to.name());
            wait_until(BACK, &what, || Ok(psks.insert(psk_of((from, to))?)))?;
        }
    }
    Ok((rotations, psks.len() - before))
}

/// What both sides show of their PSK, once that is the same.
fn psk_of((from, to): Pair<'_>) -> Result<String> {
    let mut mark = String::new();
    wait_until(BACK, "both sides have the same PSK", || {
        mark = text(&from.peer(to.name())?, "/psk_mark")?;
        Ok(mark == text(&to.peer(from.name())?, "/psk_mark")?)
    })?;
    Ok(mark)
}

/// One device gets another key, and that is in use.
fn rotate_one(coordinator: &Coordinator, name: &str) -> Result<()> {
    expect(coordinator, name, &["device", "rotate-key", name, "--json"], "overlapping")
}

/// Runs a command about a device's key, after which it has to stand so.
fn expect(coordinator: &Coordinator, name: &str, command: &[&str], state: &str) -> Result<()> {
    let finished = coordinator.command(&format!("rotate-{name}"), command)?;
    let document = parsed("rotate-key", &finished.stdout)?;
    if text(&document, "/state")? == state {
        return Ok(());
    }
    Err(Failure::expectation(format!("the key of {name} is not {state}: {document}")))
}

fn parsed(what: &str, document: &str) -> Result<Value> {
    serde_json::from_str(document)
        .map_err(|error| Failure::expectation(format!("{what} printed no document: {error}")))
}

/// How many keys came into use, by the audit trail: each in the place of the
/// one before, and none twice.
fn in_use(coordinator: &Coordinator) -> Result<usize> {
    let trail = parsed("audit", &coordinator.command("audit", &["audit", "--json"])?.stdout)?;
    let mut last: HashMap<String, String> = HashMap::new();
    let mut seen = HashSet::new();
    for row in trail["items"].as_array().into_iter().flatten() {
        if row["action"] != "device.key-active" {
            continue;
        }
        let (before, after) = (text(row, "/detail/before")?, text(row, "/detail/after")?);
        let earlier = last.insert(text(row, "/subject")?, after.clone());
        if earlier.is_some_and(|earlier| earlier != before) || !seen.insert(after) {
            return Err(Failure::expectation(format!("a key out of turn: {row}")));
        }
    }
    Ok(seen.len())
}

/// A peer that does not confirm holds a rotation up; it is given up, and both
/// talk to each other as before.
fn given_up(coordinator: &Coordinator, a: &mut Gateway, b: &Gateway) -> Result<()> {
    let before = key_of(coordinator, a)?;
    held_up(coordinator, a, b, |a| {
        let withdraw = ["device", "rotate-key", a.name(), "--withdraw", "--json"];
        expect(coordinator, a.name(), &withdraw, "settled")
    })?;
    if key_of(coordinator, a)? != before {
        return Err(Failure::expectation(format!("{} has another key", a.name())));
    }
    talk(a, b)
}

/// `kill -9` of a device whose next key its peers know and do not use yet. How
/// long from its start until the rotation has ended and both talk.
fn killed(coordinator: &Coordinator, a: &mut Gateway, b: &Gateway) -> Result<Duration> {
    let before = key_of(coordinator, a)?;
    held_up(coordinator, a, b, |a| a.process.kill())?;
    let began = clock::now();
    a.up()?;
    wait_until(BACK, "the rotation of a killed device has ended", || {
        Ok(key_of(coordinator, a)? != before)
    })?;
    come_back(a, b)?;
    Ok(began.elapsed())
}

/// A device is killed and misses what its peer does: in the long form two whole
/// rotations, so that of the keys it knows none is in use when it comes back. A
/// coordinator that has just started takes nobody for away: in the short form the
/// rotation waits and ends when the device is back.
fn away(coordinator: &Coordinator, a: &Gateway, b: &mut Gateway, short: bool) -> Result<Duration> {
    b.process.kill()?;
    let before = key_of(coordinator, a)?;
    if short {
        let rotate = ["device", "rotate-key", a.name(), "--json"];
        expect(coordinator, a.name(), &rotate, "announced")?;
    } else {
        for _ in 0..MISSED {
            rotate_one(coordinator, a.name())?;
        }
    }
    let began = clock::now();
    b.up()?;
    come_back(b, a)?;
    wait_until(BACK, "the rotation has ended", || Ok(key_of(coordinator, a)? != before))?;
    talk(a, b)?;
    Ok(began.elapsed())
}

/// Waits until one that was started again reaches the other, and is reached.
fn come_back(one: &Gateway, other: &Gateway) -> Result<()> {
    wait_until(BACK, &format!("{} is back", one.name()), || Ok(one.ping(other.name()).is_ok()))?;
    talk(one, other)
}

/// Rotates the key of one device while another stands still, and so holds that
/// up; does something then and lets the other go on.
fn held_up(
    coordinator: &Coordinator,
    device: &mut Gateway,
    still: &Gateway,
    then: impl FnOnce(&mut Gateway) -> Result<()>,
) -> Result<()> {
    let pid = still.process.pid();
    signal::freeze(pid, true).during("stop a gateway")?;
    let rotate = ["device", "rotate-key", device.name(), "--json"];
    let announced = expect(coordinator, device.name(), &rotate, "announced");
    let done = announced.and_then(|()| then(device));
    signal::freeze(pid, false).during("let a gateway go on")?;
    done
}

/// Both ways.
fn talk(a: &Gateway, b: &Gateway) -> Result<()> {
    a.ping(b.name())?;
    b.ping(a.name()).map(drop)
}

fn key_of(coordinator: &Coordinator, gateway: &Gateway) -> Result<String> {
    let arguments = ["device", "show", gateway.name(), "--json"];
    let document = parsed("device show", &coordinator.command("show", &arguments)?.stdout)?;
    text(&document, "/device/wg_public_key")
}
