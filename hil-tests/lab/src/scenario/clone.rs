//! A member's state folder is copied to another host, and both go on: how soon
//! the copy is quarantined, and what that costs the first. Then everybody starts
//! anew, and an operator lets the copy go.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{Failure, Result};
use crate::internet::{Families, Host, Internet};
use crate::measure::{Traffic, wait_until};
use crate::mesh::{Coordinator, Gateway, text};
use crate::net::echo::Steady;
use crate::net::signal;
use crate::ui;

/// From the moment when both were heard until the copy knows that it is one.
const GOAL: Duration = Duration::from_secs(10);
/// Both send 10 packets a second to one peer.
const PACE: Duration = Duration::from_millis(100);
/// What the first sends is counted from so long after the quarantine.
const SETTLES: Duration = Duration::from_secs(2);
/// And for so long.
const COUNTED: Duration = Duration::from_secs(20);
const COUNTED_SHORT: Duration = Duration::from_secs(5);
/// The same when somebody was found out just before: no machine heeds a hint
/// sooner than 30 s, and a jitter, after the last.
const GOAL_AGAIN: Duration = Duration::from_secs(50);
/// For what is bound to come and has no figure.
const LIMIT: Duration = Duration::from_secs(30);
/// Starts of the copy once it is quarantined.
const STARTS: usize = 20;
const NAME: &str = "gw-a";

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), (NAME, 21), ("gw-b", 22), ("copy", 23)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, gw-a, gw-b, copy", None);
    let host = internet.host("coord")?;
    let mut coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("clone", 2)?;
    let mut first = Gateway::join(stage.run, internet.host(NAME)?, &key, "")?;
    let peer = Gateway::join(stage.run, internet.host("gw-b")?, &key, "")?;
    first.ping(peer.name())?;
    let host = internet.host("copy")?;
    let before = Traffic::start(first.namespace(), peer.addresses.ipv4, PACE)?;
    let theirs = Traffic::start(host.namespace(), peer.addresses.ipv4, PACE)?;
    let mut second = first.copy(stage.run, host)?;
    let told =
        tell(stage, &mut coordinator, [&mut first, &mut second], &peer, host, [before, theirs]);
    stage.processes.extend([coordinator.process, first.process, second.process, peer.process]);
    told
}

fn tell(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    [first, second]: [&mut Gateway; 2],
    peer: &Gateway,
    host: &Host,
    [before, theirs]: [Traffic; 2],
) -> Result<Value> {
    let both = heard(second, 0)?;
    stage.story.done("copy", "of gw-a's folder on another host: both are heard", None);
    let quarantined = quarantined(second, 0)?;
    let took = quarantined - both;
    stage.story.done("quarantined", "the copy knows that it is one", Some(took));
    before.end()?;
    let lost = count(stage, first, peer, quarantined)?;
    let theirs = theirs.end()?;
    both_are_told(coordinator, first, second, host)?;
    stage.story.done("told", "status, device show, log: who, from where, since when", None);
    let starts = start_again(stage, coordinator, first, second, peer)?;
    let mut document = json!({
        "second": text(&second.status()?, "/device/standing")?,
        "quarantined_ms": took.as_millis() as u64,
        "first_loss_pct": percent(&lost),
        "first_sent": lost.sent,
        "second_answered": theirs.answered,
        "second_starts": starts,
    });
    if !stage.options.short {
        let [again, loss] = release(stage, coordinator, first, second, peer)?;
        document["released_quarantined_ms"] = again;
        document["released_first_loss_pct"] = loss;
        let reversed = turn_round(stage, coordinator, [first, second], peer)?;
        document["reversed_quarantined_ms"] = (reversed.as_millis() as u64).into();
    }
    judge(took, &lost)?;
    Ok(document)
}

fn judge(took: Duration, lost: &Steady) -> Result<()> {
    if took > GOAL {
        let (took, goal) = (ui::span(took), ui::span(GOAL));
        return Err(Failure::expectation(format!(
            "the copy was quarantined after {took}, the goal is {goal}"
        )));
    }
    if lost.lost() > 0 {
        let (lost, sent) = (lost.lost(), lost.sent);
        return Err(Failure::expectation(format!(
            "{lost} of {sent} packets of the first were lost after the quarantine"
        )));
    }
    Ok(())
}

fn percent(steady: &Steady) -> Value {
    if steady.lost() == 0 { 0.into() } else { ((steady.loss_pct() * 10.0).round() / 10.0).into() }
}

/// When a daemon's session with the coordinator was made.
fn heard(gateway: &Gateway, from: usize) -> Result<Instant> {
    let online = |line: &str| line.contains("control.online").then(clock::now);
    gateway.process.wait_for(from, LIMIT, "that the coordinator answers", online)
}

/// When a daemon was told that it is a copy.
fn quarantined(gateway: &Gateway, from: usize) -> Result<Instant> {
    let told = |line: &str| {
        let is_told = line.contains("enrol.standing") && line.contains("standing=quarantined");
        is_told.then(clock::now)
    };
    gateway.process.wait_for(from, LIMIT.max(GOAL_AGAIN), "that it is quarantined", told)
}

/// What the first loses once the quarantine has settled.
fn count(
    stage: &mut Stage<'_>,
    first: &Gateway,
    peer: &Gateway,
    quarantined: Instant,
) -> Result<Steady> {
    rest_until(quarantined + SETTLES)?;
    let traffic = Traffic::start(first.namespace(), peer.addresses.ipv4, PACE)?;
    let counted = if stage.options.short { COUNTED_SHORT } else { COUNTED };
    rest_until(clock::now() + counted)?;
    let steady = traffic.end()?;
    let words = format!("{} of {} answered, from 2 s after that", steady.answered, steady.sent);
    stage.story.done("the first", &words, None);
    Ok(steady)
}

/// Traffic flows meanwhile.
fn rest_until(until: Instant) -> Result<()> {
    while clock::now() < until {
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        signal::rest(Duration::from_millis(20));
    }
    Ok(())
}

fn expect(holds: bool, what: &str, document: &Value) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure::expectation(format!("{what}: {document}"))) }
}

/// Each side says in one sentence what happened, with the other's address.
fn both_are_told(
    coordinator: &Coordinator,
    first: &Gateway,
    second: &Gateway,
    host: &Host,
) -> Result<()> {
    let status = second.status()?;
    let is_out = status["device"]["standing"] == "quarantined" && status["peers"] == json!([]);
    expect(is_out, "the copy was to have no peers", &status)?;
    let other = &status["device"]["other_machine"];
    expect(other["last_heard"].is_string(), "the copy was to know of the other", &status)?;
    let said = second.say("status")?;
    let sentence = "standing    ! quarantined since ";
    expect(said.contains(sentence), "the copy's status has no such sentence", &said.into())?;
    let status = first.status()?;
    let from = host.ipv4().to_string();
    let kept = status["device"]["standing"] == "active"
        && status["device"]["other_machine"]["address"] == from;
    expect(kept, "the first was to know of its copy", &status)?;
    let shown = shown(coordinator)?;
    let copy = &shown["device"]["copy"];
    let known = copy["address"] == from && copy["quarantined_at"].is_string();
    expect(known, "device show was to name the copy", &shown)?;
    let finished = coordinator.command("show", &["device", "show", NAME])?;
    let said = finished.stdout;
    let sentence = format!("another machine at {from} uses its identity");
    expect(said.contains(&sentence), "device show has no such sentence", &said.into())?;
    for action in ["device.clone", "device.quarantine"] {
        let logged = coordinator.process.has_said(action);
        expect(logged, "the coordinator's log was to say", &action.into())?;
    }
    Ok(())
}

fn shown(coordinator: &Coordinator) -> Result<Value> {
    let finished = coordinator.command("show", &["device", "show", NAME, "--json"])?;
    serde_json::from_str(&finished.stdout)
        .map_err(|error| Failure::expectation(format!("device show: {error}")))
}

/// Nobody becomes the other by starting anew.
fn start_again(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    first: &mut Gateway,
    second: &mut Gateway,
    peer: &Gateway,
) -> Result<usize> {
    second.succeed(&["down"])?;
    second.process.wait_for_end(LIMIT)?;
    let starts = if stage.options.short { 1 } else { STARTS };
    for start in 0..starts {
        if start > 0 {
            second.process.kill()?;
        }
        second.up()?;
        quarantined(second, 0)?;
    }
    coordinator.process.kill()?;
    first.process.kill()?;
    coordinator.restart()?;
    first.up()?;
    let is_in = || Ok(first.known_peer(peer.name()).is_ok_and(|peer| peer.is_some()));
    wait_until(LIMIT, "the first is a member again", is_in)?;
    first.ping(peer.name())?;
    let status = second.status()?;
    expect(status["device"]["standing"] == "quarantined", "the copy is one", &status)?;
    let words = format!("the copy {starts} times, the first, the coordinator: nothing changes");
    stage.story.done("starts", &words, None);
    Ok(starts)
}

/// An operator lets the copy go while both are there: it is quarantined anew.
fn release(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    first: &Gateway,
    second: &Gateway,
    peer: &Gateway,
) -> Result<[Value; 2]> {
    let said = second.process.lines_so_far();
    coordinator.command("release", &["device", "release", NAME])?;
    let both = heard(second, said)?;
    let told = quarantined(second, said)?;
    stage.story.done("released", "with both there: quarantined anew", Some(told - both));
    let steady = count(stage, first, peer, told)?;
    judge(told - both, &steady)?;
    Ok([((told - both).as_millis() as u64).into(), percent(&steady)])
}

/// The first is away when the copy is released: now the copy is the device, and
/// the first the later of the two when it comes back.
fn turn_round(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    [first, second]: [&mut Gateway; 2],
    peer: &Gateway,
) -> Result<Duration> {
    first.process.kill()?;
    let away = || Ok(shown(coordinator)?["device"]["status"] == "offline");
    wait_until(LIMIT, "the coordinator knows that the first is away", away)?;
    coordinator.command("release", &["device", "release", NAME])?;
    let is_in = || Ok(second.known_peer(peer.name())?.is_some());
    wait_until(LIMIT, "the copy is a member", is_in)?;
    second.ping(peer.name())?;
    stage.story.done("released", "with the first away: the copy is the device", None);
    first.up()?;
    let both = heard(first, 0)?;
    let took = quarantined(first, 0)? - both;
    second.ping(peer.name())?;
    stage.story.done("reversed", "the first comes back, and is the copy now", Some(took));
    if took > GOAL_AGAIN {
        let took = ui::span(took);
        return Err(Failure::expectation(format!("the other way round it took {took}")));
    }
    Ok(took)
}
