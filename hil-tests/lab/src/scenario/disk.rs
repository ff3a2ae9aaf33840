//! Disks that are full or read-only: everybody says so at once, nothing that was
//! answered is lost, and all goes on by itself when there is space again.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::disk::{Disk, Image};
use crate::failure::{During, Failure, Result, status};
use crate::internet::{Families, Internet};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, Starting};
use crate::ui;

/// From a command's exec to its end with a clear error.
const CLEAR: Duration = Duration::from_millis(1_000);
/// From free space to the first thing that works again.
const RETURN: Duration = Duration::from_millis(10_000);
/// For what has no limit of its own.
const PATIENCE: Duration = Duration::from_secs(30);
/// Keys that are asked for until one is refused.
const TRIES: u32 = 200;
const COORDINATOR_KIB: u32 = 8_192;
const GATEWAY_KIB: u32 = 256;
const IMAGE_MIB: u64 = 32;

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), ("gw-a", 21), ("gw-b", 22), ("gw-c", 23), ("gw-d", 24)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    let disk = Disk::mount(stage.run, "coord", COORDINATOR_KIB)?;
    let of_gateway = Disk::mount(stage.run, "gw-a/state", GATEWAY_KIB)?;
    let of_joiner = Disk::mount(stage.run, "gw-d/state", GATEWAY_KIB)?;
    let host = internet.host("coord")?;
    let mut coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("members", 9)?;
    let a = Gateway::join(stage.run, internet.host("gw-a")?, &key, "")?;
    let b = Gateway::join(stage.run, internet.host("gw-b")?, &key, "")?;
    a.ping("gw-b")?;
    stage.story.done("ground", "coord, gw-a, gw-b, each with a disk of its own", None);
    let told = (|| {
        let mut document = json!({});
        let start = |stage: &Stage<'_>, name: &str| {
            Starting::join(stage.run, internet.host(name)?, &key, "")
        };
        document["coordinator_full"] =
            coordinator_full(stage, &coordinator, &disk, &a, |stage| start(stage, "gw-c"))?;
        document["join"] = joining(stage, &of_joiner, |stage| start(stage, "gw-d"))?;
        document["gateway"] = running(stage, &coordinator, &of_gateway, &a)?;
        document["coordinator_readonly"] = readonly(stage, &mut coordinator, &disk)?;
        document["coordinator_aborted"] = match aborted(stage, &mut coordinator, &a) {
            // No loop device, or no ext4: the rest was shown.
            Err(failure) if failure.status() == status::SKIPPED => failure.to_string().into(),
            shown => shown?,
        };
        Ok(document)
    })();
    stage.processes.extend([coordinator.process, a.process, b.process]);
    told
}

/// A coordinator whose disk is full.
fn coordinator_full(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    disk: &Disk,
    member: &Gateway,
    join: impl FnOnce(&Stage<'_>) -> Result<Starting>,
) -> Result<Value> {
    let said_before = coordinator.process.lines_so_far();
    disk.fill()?;
    let (refused, mut kept) = refused_key(coordinator)?;
    stage.story.done("full", "a key is refused, and the cause is said", Some(refused));
    member.ping("gw-b")?;
    let joiner = join(stage)?;
    let waited = joiner.says(PATIENCE, "its disk is full")?;
    let line = |line: &str| line.contains("no space left on the disk").then_some(());
    coordinator.process.wait_for(said_before, PATIENCE, "that its disk is full", line)?;
    stage.story.done("full", "who joins is told, and tunnels go on", Some(waited));
    disk.free()?;
    let freed = clock::now();
    let mut tries = 0;
    let back = wait_until(RETURN, "a key after there was space", || {
        tries += 1;
        let name = format!("after-{tries}");
        let made = coordinator.try_key(&name)?;
        kept.extend(made.success().then_some(name));
        Ok(made.success())
    })?;
    let joined = joiner.ready()?;
    let joined_after = freed.elapsed();
    if joined_after > RETURN {
        let after = ui::span(joined_after);
        return Err(Failure::expectation(format!("gw-c was in {after} after there was space")));
    }
    stage.story.done("space", "who waited is in, without a restart", Some(joined_after));
    stage.processes.push(joined.process);
    let listed = coordinator.command("key", &["key", "list", "--json"])?.stdout;
    let lost = kept.iter().filter(|name| !listed.contains(&format!("\"{name}\""))).count();
    if lost > 0 {
        return Err(Failure::expectation(format!("{lost} keys were acknowledged and are lost")));
    }
    Ok(json!({
        "error_ms": millis(refused),
        "joiner_told_ms": millis(waited),
        "works_again_ms": millis(back),
        "joined_ms": millis(joined_after),
        "acknowledged": kept.len(),
        "lost_acknowledged": lost,
    }))
}

/// Asks for keys until one is refused: how long that took, and who was not. What
/// the log has room for is still written.
fn refused_key(coordinator: &Coordinator) -> Result<(Duration, Vec<String>)> {
    let mut kept = Vec::new();
    for number in 0..TRIES {
        let name = format!("full-{number}");
        let began = clock::now();
        let made = coordinator.try_key(&name)?;
        let took = began.elapsed();
        if made.success() {
            kept.push(name);
            continue;
        }
        let clear = made.stderr.contains("no space left on the disk");
        return within(took, CLEAR, "a refusal").and_then(|()| {
            let expected = || Failure::expectation(format!("unclear: {}", made.stderr.trim()));
            clear.then_some((took, kept)).ok_or_else(expected)
        });
    }
    Err(Failure::expectation(format!("{TRIES} keys fit onto a full disk")))
}

/// A machine whose disk is full or read-only cannot join, and can afterwards.
fn joining(
    stage: &mut Stage<'_>,
    disk: &Disk,
    join: impl Fn(&Stage<'_>) -> Result<Starting>,
) -> Result<Value> {
    disk.fill()?;
    let began = clock::now();
    join(stage)?.fails("o space left on device")?;
    let full = began.elapsed();
    within(full, CLEAR, "the error of a full disk")?;
    disk.free()?;
    disk.cover()?;
    let began = clock::now();
    join(stage)?.fails("ead-only file system")?;
    let readonly = began.elapsed();
    within(readonly, CLEAR, "the error of a read-only disk")?;
    disk.uncover()?;
    stage.story.done("join", "is refused on a full disk and on a read-only one", Some(full));
    let began = clock::now();
    let joined = join(stage)?.ready()?;
    stage.story.done("join", "the same line again is enough", Some(began.elapsed()));
    stage.processes.push(joined.process);
    Ok(json!({"full_error_ms": millis(full), "readonly_error_ms": millis(readonly)}))
}

/// A member whose disk is full or read-only goes on, and writes when it can.
fn running(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    disk: &Disk,
    gateway: &Gateway,
) -> Result<Value> {
    let identity = fs::read(disk.path().join("identity")).during("read an identity")?;
    let mut document = json!({});
    for (kind, name) in [("full", "gw-full"), ("readonly", "gw-readonly")] {
        let from = gateway.process.lines_so_far();
        let before = written(disk.path())?;
        if kind == "full" {
            disk.fill()?
        } else {
            disk.cover()?
        }
        // Its peer gets another name: a map that it has to write down.
        let peer = if kind == "full" { "gw-b" } else { "gw-full" };
        coordinator.command("rename", &["device", "rename", peer, name])?;
        let failed = |line: &str| line.contains("state.failed").then_some(());
        gateway.process.wait_for(from, PATIENCE, "that it cannot write", failed)?;
        gateway.ping(name)?;
        if kind == "full" {
            disk.free()?
        } else {
            disk.uncover()?
        }
        let newer = || Ok(written(disk.path())? > before);
        let back = wait_until(RETURN, "a map that is written down", newer)?;
        let about = format!("{kind} disk: said, the tunnel goes on, and then it is written");
        stage.story.done("gateway", &about, Some(back));
        let written = |line: &str| line.contains("state.written").then_some(());
        gateway.process.wait_for(from, PATIENCE, "that it could write", written)?;
        document[format!("{kind}_written_ms")] = millis(back);
    }
    let now = fs::read(disk.path().join("identity")).during("read an identity")?;
    if now != identity {
        return Err(Failure::expectation("the identity is another than before"));
    }
    Ok(document)
}

/// A coordinator that starts on a full or a read-only disk says so, and blames no
/// database for it.
fn readonly(stage: &mut Stage<'_>, coordinator: &mut Coordinator, disk: &Disk) -> Result<Value> {
    coordinator.end()?;
    disk.fill()?;
    let full = coordinator.start_in_vain("error[serve.disk]")?;
    within(full, CLEAR, "the error of a full disk")?;
    disk.free()?;
    stage.story.done("full", "a coordinator says so and does not start", Some(full));
    disk.cover()?;
    let failed = coordinator.start_in_vain("error[serve.disk-readonly]")?;
    within(failed, CLEAR, "the error of a read-only disk")?;
    disk.uncover()?;
    coordinator.restart()?;
    stage.story.done("read-only", "a coordinator says so and does not start", Some(failed));
    Ok(json!({"error_ms": millis(failed), "full_error_ms": millis(full)}))
}

/// The kernel makes the disk of a running coordinator read-only. It says so and
/// serves what it knows; repaired, the disk holds all that was acknowledged. It is
/// started anew because nothing can be unmounted below a program.
fn aborted(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    member: &Gateway,
) -> Result<Value> {
    coordinator.end()?;
    let image = Image::over(stage.run, "coord", IMAGE_MIB)?;
    coordinator.restart()?;
    let kept = ["before-abort-1", "before-abort-2"];
    for name in kept {
        if !coordinator.try_key(name)?.success() {
            return Err(Failure::expectation("no key on a new disk"));
        }
    }
    image.abort()?;
    let began = clock::now();
    let refused = coordinator.try_key("aborted")?;
    let took = began.elapsed();
    within(took, CLEAR, "the error of a disk that became read-only")?;
    if refused.success() || !refused.stderr.contains("the disk takes no writes") {
        return Err(Failure::expectation(format!("unclear: {}", refused.stderr.trim())));
    }
    stage.story.done("read-only", "under a running coordinator: said at once", Some(took));
    let listed = coordinator.command("devices", &["device", "list", "--json"])?.stdout;
    if !listed.contains("\"gw-readonly\"") {
        return Err(Failure::expectation(format!("devices are not listed: {listed}")));
    }
    member.ping("gw-readonly")?;
    coordinator.end()?;
    image.repair()?;
    coordinator.restart()?;
    let listed = coordinator.command("key", &["key", "list", "--json"])?.stdout;
    let lost = kept.iter().filter(|name| !listed.contains(&format!("\"{name}\""))).count();
    if lost > 0 || listed.contains("\"aborted\"") {
        return Err(Failure::expectation(format!("{lost} acknowledged keys are lost: {listed}")));
    }
    if !coordinator.try_key("repaired")?.success() {
        return Err(Failure::expectation("no key on a repaired disk"));
    }
    member.ping("gw-readonly")?;
    stage.story.done("repaired", "all that was acknowledged is there", None);
    Ok(json!({"error_ms": millis(took), "acknowledged": kept.len(), "lost_acknowledged": lost}))
}

fn written(state: &Path) -> Result<SystemTime> {
    let cache = state.join("cache").metadata().and_then(|about| about.modified());
    cache.during("look at a cache")
}

fn within(took: Duration, limit: Duration, what: &str) -> Result<()> {
    if took <= limit {
        return Ok(());
    }
    Err(Failure::expectation(format!("{what} took {}", ui::span(took))))
}

fn millis(took: Duration) -> Value {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX).into()
}
