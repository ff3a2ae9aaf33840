//! A backup takes the place of a database that went on: members keep their
//! tunnels and learn of the database's new life, and who joined after the backup
//! comes back at its old address once an operator lets it in.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Stage, members_lost_nothing};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet};
use crate::measure::{Traffic, wait_until};
use crate::mesh::{Coordinator, Gateway, Starting, text};
use crate::net::echo::Pinger;

/// From exec of the restored coordinator until every member holds a map of its
/// new life, until who is unknown waits, and from its approval to its first answer.
const GOAL: Duration = Duration::from_secs(10);
/// Between two echo requests of who waits to be let in.
const STEP: Duration = Duration::from_millis(20);
/// Members talk meanwhile.
const PACE: Duration = Duration::from_millis(20);
const LATE: &str = "gw-c";

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), ("gw-a", 21), ("gw-b", 22), (LATE, 23), ("gw-d", 24)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, gw-a, gw-b, gw-c", None);
    let host = internet.host("coord")?;
    let mut coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("before", 9)?;
    let a = Gateway::join(stage.run, internet.host("gw-a")?, &key, "")?;
    let b = Gateway::join(stage.run, internet.host("gw-b")?, &key, "")?;
    let file = stage.run.folder().join("backup.db");
    let file = file.display().to_string();
    coordinator.on_data("backup", &["backup", &file])?;
    stage.story.done("backup", "of a coordinator that runs, with gw-a and gw-b in it", None);
    let after = coordinator.join_string("after", 1)?;
    let c = Gateway::join(stage.run, internet.host(LATE)?, &after, "")?;
    c.ping("gw-a")?;
    stage.story.done(LATE, "joins after it", None);
    let told = tell(stage, &mut coordinator, [&a, &b], &c, &file);
    let told = told.and_then(|document| {
        // How often it was used since the backup is not known.
        Starting::join(stage.run, internet.host("gw-d")?, &key, "")?
            .fails("error[join.key-revoked]")?;
        stage.story.done("keys", "that the backup knows let nobody in any more", None);
        Ok(document)
    });
    stage.processes.extend([coordinator.process, a.process, b.process, c.process]);
    told
}

fn tell(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    members: [&Gateway; 2],
    late: &Gateway,
    file: &str,
) -> Result<Value> {
    let [a, b] = members;
    let epoch = text(&a.status()?, "/coordinator/epoch")?;
    let traffic = Traffic::start(a.namespace(), b.addresses.ipv4, PACE)?;
    coordinator.end()?;
    coordinator.on_data("restore", &["restore", file])?;
    let began = clock::now();
    coordinator.restart()?;
    let is_new = |gateway: &Gateway| -> Result<bool> {
        let status = gateway.status()?;
        let held = &status["coordinator"];
        Ok(held["state"] == "connected" && held["epoch"].is_string() && held["epoch"] != *epoch)
    };
    wait_until(GOAL, "members hold a map of the new life", || Ok(is_new(a)? && is_new(b)?))?;
    let renewed = began.elapsed();
    stage.story.done("restored", "gw-a and gw-b hold a map of its new life", Some(renewed));
    let waits = || Ok(late.status()?["device"]["standing"] == "pending");
    wait_until(GOAL, "who is not in the backup waits", waits)?;
    let waited = began.elapsed();
    let said = late.say("status")?;
    if !said.contains("waits for approval as gw-c, fingerprint ") {
        return Err(Failure::expectation(format!("gw-c does not say that it waits: {said}")));
    }
    stage.story.done(LATE, "is unknown, proves that it was taken in, and waits", Some(waited));
    let steady = traffic.end()?;
    members_lost_nothing(stage, &steady)?;
    let target = a.addresses.ipv4;
    let mut pinger = Pinger::open(late.namespace(), target).during("open a socket")?;
    let began = clock::now();
    coordinator.command("approve", &["device", "approve", "--all", "--yes"])?;
    let first = pinger.first_answer(STEP, began + GOAL);
    let silent = || Failure::expectation(format!("gw-c was let in and hears nothing for {GOAL:?}"));
    let back = first.ok_or_else(silent)? - began;
    let addresses = late.status()?["device"]["addresses"].clone();
    if addresses[0] != late.addresses.ipv4.to_string() {
        return Err(Failure::expectation(format!("gw-c has other addresses: {addresses}")));
    }
    let words = format!("let in, at {} as before", late.addresses.ipv4);
    stage.story.done(LATE, &words, Some(back));
    Ok(json!({
        "renewed_ms": millis(renewed),
        "pending_ms": millis(waited),
        "readmitted_ms": millis(back),
        "lost_pct": 0,
        "sent": steady.sent,
    }))
}

fn millis(took: Duration) -> Value {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX).into()
}
