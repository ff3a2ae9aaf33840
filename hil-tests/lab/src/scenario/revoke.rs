//! A device is blocked that does not hear of it: how long its peer still takes
//! its packets. Then it hears, is cut off, and comes back with a valid key.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{RELAY, Stage, is_relayed, relay_alone};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet, mac};
use crate::measure::{Feed, wait_until};
use crate::mesh::{Coordinator, Gateway, Starting, text};
use crate::net::signal;
use crate::run::ip_output;
use crate::ui;

/// From exec of `device block` to the last packet that the peer takes.
const GOAL: Duration = Duration::from_millis(2_000);
/// 100 packets a second.
const PACE: Duration = Duration::from_millis(10);
/// So many have to arrive before anything is decided.
const WARM: u64 = 100;
/// Nothing may arrive for this long before the last packet counts as the last.
const SILENCE: Duration = Duration::from_secs(5);
/// The blocked device hears of it once it can, by the repetition of what was
/// sent to it.
const HEARS: Duration = Duration::from_secs(30);
/// Then it stays away: longer than a device waits that is welcome and was cut
/// off after a handshake.
const STAYS_AWAY: Duration = Duration::from_secs(6);
/// How often in the long form.
const ROUNDS: usize = 10;
const NAME: &str = "gw-b";
/// Last number of its address, and one that no host has.
const NUMBER: u8 = 22;
const NOBODY: u8 = 250;
/// Bytes of an overlay packet of the feed: IPv4, UDP, a number.
const PACKET: u64 = 20 + 8 + 8;
const REASON: &str = "stolen";

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), ("gw-a", 21), (NAME, NUMBER), RELAY];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, gw-a, gw-b, relay", None);
    let host = internet.host("coord")?;
    let relay = relay_alone(stage, &internet, &["gw-a", NAME])?;
    let section = relay.as_ref().map_or("", |relay| relay.section.as_str());
    let coordinator = Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), section)?;
    let key = coordinator.join_string("revoke", 2)?;
    let mut a = Gateway::join(stage.run, internet.host("gw-a")?, &key, "")?;
    let early = stage.run.folder().join("early");
    let mut b = join_and_copy(stage, internet.host(NAME)?, &coordinator, &key, &early)?;
    let told = tell(stage, &coordinator, &internet, [&mut a, &mut b], &early);
    stage.processes.extend([coordinator.process, a.process, b.process]);
    stage.processes.extend(relay.map(|relay| relay.process));
    told
}

/// Joins while the coordinator stands still, and copies the keys before it has
/// answered: with these the same device can come a second time.
fn join_and_copy(
    stage: &mut Stage<'_>,
    host: &Host,
    coordinator: &Coordinator,
    key: &str,
    to: &Path,
) -> Result<Gateway> {
    let pid = coordinator.process.pid();
    signal::freeze(pid, true).during("stop the coordinator")?;
    let starting = Starting::join(stage.run, host, key, "")?;
    let state = starting.state();
    let copied = wait_until(Duration::from_secs(5), "gw-b has drawn its keys", || {
        Ok(state.join("identity").exists())
    });
    let copied = copied.and_then(|_| copy(&state, to));
    signal::freeze(pid, false).during("let the coordinator go on")?;
    copied?;
    starting.ready()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).during("make a folder for keys")?;
    for name in ["identity", "stamp"] {
        fs::copy(from.join(name), to.join(name)).during(&format!("copy {name}"))?;
    }
    Ok(())
}

fn tell(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    internet: &Internet,
    [a, b]: [&mut Gateway; 2],
    early: &Path,
) -> Result<Value> {
    let rounds = if stage.options.short { 1 } else { ROUNDS };
    let mut all = Vec::new();
    for round in 1..=rounds {
        if round > 1 {
            let_in(coordinator, a, b)?;
        }
        if stage.options.relayed {
            b.ping(a.name())?;
            is_relayed(b, a)?;
        }
        let took = shut_out(coordinator, internet, a, b)?;
        let words = "blocked and deaf: its last packet that gw-a took";
        stage.story.done(&format!("round {round} of {rounds}"), words, Some(took));
        all.push(took);
        hear(coordinator, internet, b)?;
    }
    stage.story.done("connection", "gw-b knows, and holds none to the coordinator", None);
    let words = come_again(coordinator, b, early)?;
    stage.story.done("again", &words, None);
    let_in(coordinator, a, b)?;
    stage.story.done("unblocked", "and its tunnel stands again", None);
    let worst = all.iter().max().copied().unwrap_or(Duration::MAX);
    if worst > GOAL {
        let (took, goal) = (ui::span(worst), ui::span(GOAL));
        return Err(Failure::expectation(format!(
            "gw-a took packets of a blocked device for {took}, the goal is {goal}"
        )));
    }
    let millis = |time: &Duration| time.as_millis() as u64;
    Ok(json!({
        "revoked_ms": millis(&worst),
        "revoked_all_ms": all.iter().map(millis).collect::<Vec<_>>(),
    }))
}

/// Whether what the coordinator sends to the device's host arrives there. What
/// the host sends does: the coordinator believes in a connection.
fn set_deaf(coordinator: &Coordinator, internet: &Internet, deaf: bool) -> Result<()> {
    let address = internet.host(NAME)?.ipv4().to_string();
    let there = mac(if deaf { NOBODY } else { NUMBER });
    let command =
        ["neigh", "replace", &address, "lladdr", &there, "dev", "eth0", "nud", "permanent"];
    ip_output(coordinator.namespace(), &command).during("cut a way").map(drop)
}

fn connections(coordinator: &Coordinator, internet: &Internet) -> Result<usize> {
    let from = internet.host(NAME)?.ipv4();
    coordinator.namespace().connections_from(from).during("look for connections")
}

/// Blocks a device that goes on sending; how long its packets were taken.
fn shut_out(
    coordinator: &Coordinator,
    internet: &Internet,
    a: &Gateway,
    b: &Gateway,
) -> Result<Duration> {
    b.ping(a.name())?;
    let feed = Feed::start(b.namespace(), a.namespace(), a.addresses.ipv4, PACE)?;
    let what = "packets of gw-b arrive at gw-a";
    wait_until(Duration::from_secs(10), what, || Ok(feed.arrived().packets >= WARM))?;
    set_deaf(coordinator, internet, true)?;
    let began = clock::now();
    coordinator.command("block", &["device", "block", NAME, "--reason", REASON, "--yes"])?;
    let told = sent_to(b, a)?;
    wait_until(SILENCE + 2 * GOAL, "gw-a takes no packets of gw-b any more", || {
        Ok(feed.arrived().last.is_none_or(|last| last.elapsed() > SILENCE))
    })?;
    let went_on = sent_to(b, a)?.saturating_sub(told);
    let (_, arrived) = feed.end()?;
    if standing(b)? != "active" || went_on < WARM * PACKET {
        return Err(Failure::expectation(format!(
            "gw-b was to go on sending, and sent {went_on} B"
        )));
    }
    if let Some(peer) = a.known_peer(NAME)? {
        return Err(Failure::expectation(format!("gw-a still has the session: {peer}")));
    }
    if connections(coordinator, internet)? > 0 {
        return Err(Failure::expectation("the coordinator still has gw-b's connection"));
    }
    Ok(arrived.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(began)))
}

/// Bytes that one gateway has sent to another.
fn sent_to(from: &Gateway, to: &Gateway) -> Result<u64> {
    let peer = from.peer(to.name())?;
    let none = || Failure::expectation(format!("the document has no tx_bytes: {peer}"));
    peer["tx_bytes"].as_u64().ok_or_else(none)
}

fn standing(gateway: &Gateway) -> Result<String> {
    text(&gateway.status()?, "/device/standing")
}

/// The way is open again: the device hears that it is out, and stays away.
fn hear(coordinator: &Coordinator, internet: &Internet, b: &Gateway) -> Result<()> {
    set_deaf(coordinator, internet, false)?;
    wait_until(HEARS, "gw-b hears that it is blocked", || Ok(standing(b)? == "blocked"))?;
    let gone = || Ok(connections(coordinator, internet)? == 0);
    wait_until(GOAL, "the connection of gw-b is closed", gone)?;
    let until = clock::now() + STAYS_AWAY;
    while clock::now() < until {
        if connections(coordinator, internet)? > 0 {
            return Err(Failure::expectation("gw-b is blocked, and connected again"));
        }
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        signal::rest(Duration::from_millis(20));
    }
    Ok(())
}

/// The same device with a valid key; what it is told.
fn come_again(coordinator: &Coordinator, b: &mut Gateway, early: &Path) -> Result<String> {
    b.process.kill()?;
    let key = coordinator.join_string("again", 1)?;
    let refused = b.refused_join(early, &key)?;
    let said = refused.stderr.lines().find(|line| line.starts_with("error["));
    let said = said.unwrap_or_default().to_owned();
    let is_clear = said.contains("[join.blocked]") && said.contains(REASON);
    if refused.status.code() != Some(4) || !is_clear {
        return Err(Failure::expectation(format!(
            "gw-b came with a valid key and ended with {}: {}",
            refused.status,
            refused.stderr.trim()
        )));
    }
    Ok(said)
}

/// Unblocks the device and starts it again: it is a member as before.
fn let_in(coordinator: &Coordinator, a: &Gateway, b: &mut Gateway) -> Result<()> {
    coordinator.command("unblock", &["device", "unblock", NAME])?;
    b.process.kill()?;
    b.up()?;
    // A daemon that does not answer yet knows nobody: the killed one's socket lies there.
    let is_in = || Ok(b.known_peer(a.name()).is_ok_and(|peer| peer.is_some()));
    wait_until(Duration::from_secs(10), "gw-b is a member again", is_in)?;
    b.ping(a.name()).map(drop)
}
