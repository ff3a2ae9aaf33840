//! A member's host after its daemon ended, in each way that it can: nothing
//! that Weft made may stay there.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet};
use crate::mesh::{Coordinator, Gateway};
use crate::net::signal;
use crate::run::ip_output;

/// How long a daemon may take to end.
const LIMIT: Duration = Duration::from_secs(15);

/// A group that every Debian has: giving it the socket needs a right that the
/// daemon gives away at its start.
const SETTINGS: &str = "[socket]\ngroup = \"daemon\"\n";

/// How a member's daemon ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Down,
    Terminate,
    Kill,
    Leave,
}

impl Way {
    /// Leaving comes last: the others go on as the same member.
    const ALL: [Self; 4] = [Self::Down, Self::Terminate, Self::Kill, Self::Leave];

    const fn words(self) -> &'static str {
        match self {
            Self::Down => "weft down",
            Self::Terminate => "SIGTERM",
            Self::Kill => "SIGKILL",
            Self::Leave => "weft leave",
        }
    }
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), ("gw-a", 21), ("gw-b", 22)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, gw-a, gw-b", None);
    let host = internet.host("coord")?;
    let coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("remove", 2)?;
    let other = Gateway::join(stage.run, internet.host("gw-b")?, &key, "")?;
    let host = internet.host("gw-a")?;
    let before = look(host)?;
    let mut gateway = Gateway::join(stage.run, host, &key, SETTINGS)?;
    restart(&coordinator, &gateway, host)?;
    stage.story.done("restart", "asked for by the operator: the same process", None);
    for way in Way::ALL {
        // So that there is a tunnel, with everything that belongs to it.
        gateway.ping(other.name())?;
        if look(host)? == before {
            return Err(Failure::expectation("a member's host looks as one without Weft"));
        }
        end(&mut gateway, host, way)?;
        check(&gateway, host, &before, way)?;
        stage.story.done(way.words(), "link, routes, rules and files are gone", None);
        if way != Way::Leave {
            gateway.succeed(&["up"])?;
        }
    }
    stage.processes.extend([coordinator.process, other.process, gateway.process]);
    Ok(json!({"ways": Way::ALL.map(Way::words)}))
}

/// An operator's restart: the daemon takes its own place, with the rights that
/// it has left, and keeps its socket.
fn restart(coordinator: &Coordinator, gateway: &Gateway, host: &Host) -> Result<()> {
    let processes = || host.namespace().processes().during("look for the daemon");
    let before = processes()?;
    let from = gateway.process.lines_so_far();
    coordinator.command("restart", &["device", "command", gateway.name(), "restart"])?;
    let started = |line: &str| line.contains("agent.started").then_some(());
    gateway.process.wait_for(from, LIMIT, "that it started again", started)?;
    gateway.succeed(&["status"])?;
    if processes()? == before {
        return Ok(());
    }
    Err(Failure::expectation("the daemon is another process after its restart"))
}

fn end(gateway: &mut Gateway, host: &Host, way: Way) -> Result<()> {
    // Nothing else runs on a host once its command is done.
    let processes = || host.namespace().processes().during("look for the daemon");
    let [pid] = processes()?[..] else {
        return Err(Failure::expectation("there is not one daemon on the host"));
    };
    match way {
        Way::Down => gateway.succeed(&["down"])?,
        Way::Leave => gateway.succeed(&["leave", "--yes"])?,
        Way::Terminate | Way::Kill => {
            signal::end(pid, way == Way::Kill).during("end the daemon")?;
        }
    }
    if pid == gateway.process.pid() {
        return gateway.process.wait_for_end(LIMIT).map(drop);
    }
    let until = clock::now() + LIMIT;
    while !signal::has_ended(pid) {
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        if clock::now() > until {
            let words = way.words();
            return Err(Failure::expectation(format!("{words}: the daemon still runs")));
        }
        signal::rest(Duration::from_millis(20));
    }
    Ok(())
}

/// What the kernel of a host knows: links, addresses, routes, rules.
fn look(host: &Host) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for what in [
        &["-o", "link", "show"][..],
        &["-o", "address", "show"],
        &["route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["rule", "show"],
        &["-6", "rule", "show"],
    ] {
        let text = ip_output(host.namespace(), what).during("look at a host")?;
        // Of a link its number and name: its state follows the carrier.
        let words = if what.contains(&"link") { 2 } else { usize::MAX };
        let line = |line: &str| line.split_whitespace().take(words).collect::<Vec<_>>().join(" ");
        found.extend(text.lines().map(line).filter(|line| !is_the_kernels(line)));
    }
    Ok(found)
}

/// Link-local addresses and multicast routes come by themselves, a moment after
/// their link; those of a mesh interface would be ours.
fn is_the_kernels(line: &str) -> bool {
    !line.contains("weft") && (line.contains("fe80:") || line.starts_with("multicast "))
}

fn check(gateway: &Gateway, host: &Host, before: &BTreeSet<String>, way: Way) -> Result<()> {
    let words = way.words();
    let now = look(host)?;
    if let Some(line) = now.difference(before).next() {
        return Err(Failure::expectation(format!("{words} leaves: {line}")));
    }
    if let Some(line) = before.difference(&now).next() {
        return Err(Failure::expectation(format!("{words} takes away: {line}")));
    }
    // A killed daemon leaves its socket's name, which the next one takes over.
    let mut files = vec!["socket", "socket.err"];
    if way == Way::Kill {
        files.remove(0);
    }
    if way == Way::Leave {
        files.extend(["state/identity", "state/cache", "state/stamp"]);
    }
    match files.iter().find(|name| gateway.has_file(name)) {
        Some(name) => Err(Failure::expectation(format!("{words} leaves the file {name}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_by_itself_is_no_remainder() {
        assert!(is_the_kernels("2: eth0 inet6 fe80::ff:fe00:15/64 scope link"));
        assert!(is_the_kernels("multicast ff00::/8 dev eth0 table local proto kernel"));
        assert!(!is_the_kernels("3: weft0 inet6 fe80::1/64 scope link"));
        assert!(!is_the_kernels("100.93.0.0/16 dev weft0 proto static"));
        assert!(!is_the_kernels("2: eth0 inet 203.0.113.21/24 scope global eth0"));
    }
}
