//! The coordinator's own key changes as announced: members follow without losing
//! a packet or joining anew, old join strings end, and who slept through it keeps
//! its tunnels and is named before.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Stage, members_lost_nothing};
use crate::clock;
use crate::failure::{Failure, Result};
use crate::internet::{Families, Internet};
use crate::measure::{Traffic, wait_until};
use crate::mesh::{Coordinator, Gateway, PORT, Starting, Variables, text};

/// From exec of the coordinator with its new key until every member that heard of
/// it holds a session with it.
const GOAL: Duration = Duration::from_secs(10);
/// From the announcement until all that are there have heard it.
const HEARD: Duration = Duration::from_secs(10);
/// Members talk meanwhile.
const PACE: Duration = Duration::from_millis(20);
const ASLEEP: &str = "gw-s";

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [
        ("coord", 10),
        ("gw-a", 21),
        ("gw-b", 22),
        ("gw-c", 23),
        ("gw-d", 24),
        ("gw-e", 25),
        (ASLEEP, 26),
    ];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    let host = internet.host("coord")?;
    // A post asks for no password: by that carrier an old string hears nothing,
    // and the agent takes 35 s to say so.
    let only = format!("mqtt://{}", SocketAddr::new(host.ipv4(), PORT));
    let variables: Variables = vec![("WEFT_COORDINATOR_ADDRESSES", only.into())];
    let mut coordinator = Coordinator::start_in(stage.run, host, host.ipv4(), variables)?;
    let before = coordinator.join_string("before", 9)?;
    let a = Gateway::join(stage.run, internet.host("gw-a")?, &before, "")?;
    let b = Gateway::join(stage.run, internet.host("gw-b")?, &before, "")?;
    let mut asleep = Gateway::join(stage.run, internet.host(ASLEEP)?, &before, "")?;
    asleep.ping("gw-a")?;
    asleep.process.kill()?;
    stage.story.done("ground", "coord, gw-a, gw-b; gw-s sleeps from now on", None);
    let mut others = Vec::new();
    let mut join = |stage: &mut Stage<'_>, name: &str, key: &str| {
        Gateway::join(stage.run, internet.host(name)?, key, "").map(|gateway| others.push(gateway))
    };
    let told = (|| {
        let traffic = Traffic::start(a.namespace(), b.addresses.ipv4, PACE)?;
        let announced = announce(stage, &coordinator)?;
        let after = coordinator.join_string("after", 9)?;
        join(stage, "gw-c", &after)?;
        stage.story.done("gw-c", "joins by a string that pins the announced key", None);
        let followed = switch(stage, &mut coordinator, [&a, &b])?;
        let steady = traffic.end()?;
        members_lost_nothing(stage, &steady)?;
        join(stage, "gw-d", &after)?;
        Starting::join(stage.run, internet.host("gw-e")?, &before, "")?
            .fails("error[join.wrong-coordinator]")?;
        stage.story.done(
            "strings",
            "from before are refused, from after the announcement hold",
            None,
        );
        asleep.up()?;
        let is_up = || Ok(asleep.known_peer("gw-a").is_ok_and(|peer| peer.is_some()));
        wait_until(GOAL, "gw-s has its map", is_up)?;
        asleep.ping("gw-a")?;
        if asleep.status()?["coordinator"]["state"] == "connected" {
            return Err(Failure::expectation(
                "gw-s believes a coordinator whose key it never heard",
            ));
        }
        stage.story.done(ASLEEP, "wakes: its tunnels go on, the coordinator is not believed", None);
        Ok(json!({
            "heard_ms": millis(announced),
            "followed_ms": millis(followed),
            "lost_pct": 0,
            "sent": steady.sent,
        }))
    })();
    stage.processes.extend(others.into_iter().map(|gateway| gateway.process));
    stage.processes.extend([coordinator.process, a.process, b.process, asleep.process]);
    told
}

fn shown(coordinator: &Coordinator) -> Result<Value> {
    let finished = coordinator.command("own-key", &["coordinator-key", "show", "--json"])?;
    serde_json::from_str(&finished.stdout)
        .map_err(|error| Failure::expectation(format!("coordinator-key show: {error}")))
}

fn announce(stage: &mut Stage<'_>, coordinator: &Coordinator) -> Result<Duration> {
    let began = clock::now();
    coordinator.command("own-key", &["coordinator-key", "announce"])?;
    wait_until(HEARD, "all that are there have heard the next key", || {
        let shown = shown(coordinator)?;
        Ok(shown["heard"] == 2 && shown["unheard"] == 1)
    })?;
    let heard = began.elapsed();
    stage.story.done("announced", "heard by gw-a and gw-b, not by gw-s", Some(heard));
    Ok(heard)
}

/// From exec of the coordinator that has the announced key until both members
/// believe it.
fn switch(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    members: [&Gateway; 2],
) -> Result<Duration> {
    let next = text(&shown(coordinator)?, "/next")?;
    coordinator.end()?;
    let recovery = coordinator.recovery.clone();
    let arguments = ["coordinator-key", "switch", "--yes", "--recovery-key", &recovery];
    let refused = coordinator.try_on_data("switch", &arguments)?;
    if refused.success() || !refused.stderr.contains(ASLEEP) {
        let said = refused.stderr.trim();
        return Err(Failure::expectation(format!("nobody named who sleeps: {said}")));
    }
    stage.story.done("refused", "the change would cut gw-s off, and says so", None);
    coordinator.on_data("switch", &[&arguments[..], &["--cut-off"]].concat())?;
    let began = clock::now();
    coordinator.restart()?;
    let follows = |gateway: &Gateway| -> Result<bool> {
        let held = &gateway.status()?["coordinator"];
        Ok(held["state"] == "connected" && held["fingerprint"] == *next)
    };
    let [a, b] = members;
    wait_until(GOAL, "members believe the new key", || Ok(follows(a)? && follows(b)?))?;
    let followed = began.elapsed();
    stage.story.done("switched", "gw-a and gw-b follow", Some(followed));
    Ok(followed)
}

fn millis(took: Duration) -> Value {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX).into()
}
