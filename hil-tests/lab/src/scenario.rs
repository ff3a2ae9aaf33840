//! Scenarios: what they are called, how one runs, and how it ends.

mod broker;
mod carriers;
mod chip;
mod clock;
mod clone;
mod coturn;
mod crash;
mod demo;
mod disk;
mod failover;
mod flood;
mod footprint;
mod hostile;
mod idle_day;
mod interop;
mod key_change;
mod nat_matrix;
mod nats;
mod near;
mod netcheck;
mod outage;
mod pair;
mod portmap;
mod reference;
mod relays;
mod remove;
mod restore;
mod revoke;
mod roam;
mod rotate;
mod turn;
mod why;
mod wire;

use clap::Args;
use serde_json::Value;

use crate::failure::{Failure, Result, status};
use crate::internet::Internet;
use crate::mesh::Gateway;
use crate::net::echo::Steady;
use crate::process::Process;
use crate::relay::Relay;
use crate::run::{Removed, Run};
use crate::ui::{self, Story};

/// How a scenario is run.
#[derive(Args)]
pub(crate) struct Options {
    /// One JSON document on stdout; the story goes to stderr
    #[arg(long)]
    pub(crate) json: bool,
    /// demo: stop after the summary
    #[arg(long)]
    pub(crate) once: bool,
    /// The form of `make test`: fewer rounds, shorter timers, less time
    #[arg(long)]
    pub(crate) short: bool,
    /// Chooses what is left to chance, where a scenario leaves anything to it
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// outage, revoke: the gateways reach each other over a relay alone
    #[arg(long)]
    pub(crate) relayed: bool,
    /// nat-matrix: how often each cell is measured
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<u32>,
    /// nat-matrix: these cells only, as in prc:symrand,open:prc
    #[arg(long, value_name = "A:B,…")]
    pub(crate) cells: Option<String>,
    /// chip, chip-relay, chip-faults: the NAT box that the chip is behind [default: prc, symrand]
    #[arg(long, value_name = "KIND")]
    pub(crate) chip: Option<String>,
    /// chip, chip-relay, chip-faults: the NAT box that the gateway is behind [default: prc]
    #[arg(long, value_name = "KIND")]
    pub(crate) gateway: Option<String>,
    /// chip, chip-relay: the application is a program of this machine, and not emulated
    #[arg(long)]
    pub(crate) host: bool,
    /// nat-matrix: hosts have public IPv6 addresses besides, behind firewalls; adds
    /// pairs that have it open, firewalled, or alone and translated (NAT64)
    #[arg(long)]
    pub(crate) ipv6: bool,
}

/// One row of `weft-lab list`.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    play: fn(&mut Stage<'_>) -> Result<Value>,
}

/// Every scenario.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "broker",
        about: "a hostile broker replays, moves, reorders, drops, resets: nothing changes",
        play: broker::play,
    },
    Scenario {
        name: "carriers",
        about: "networks that let one carrier through: join, ping, a new policy",
        play: carriers::play,
    },
    Scenario {
        name: "chip",
        about: "an emulated chip and a gateway: joined how soon, direct, page, reboot alone",
        play: chip::play,
    },
    Scenario {
        name: "chip-faults",
        about: "cable, address, coordinator, floods, power, old backup: a chip answers again",
        play: chip::faults::play,
    },
    Scenario {
        name: "chip-many",
        about: "a chip with room for 8 peers and 200 that talk to it in turn: each answered",
        play: chip::many::play,
    },
    Scenario {
        name: "chip-relay",
        about: "the same where the two reach each other over a relay alone",
        play: chip::relayed,
    },
    Scenario {
        name: "clock",
        about: "a gateway whose clock begins in 1970 and jumps by hours and years",
        play: clock::play,
    },
    Scenario {
        name: "clone",
        about: "a member's keys on a second host: which is kept, how soon, at what cost",
        play: clone::play,
    },
    Scenario {
        name: "coturn",
        about: "Debian's coturn as the only relay: by UDP, and by TCP where UDP is blocked",
        play: coturn::play,
    },
    Scenario {
        name: "crash",
        about: "kill -9 of the coordinator while devices enrol: what it answered is true",
        play: crash::play,
    },
    Scenario {
        name: "demo",
        about: "two gateways and a chip, told as a story, then a live ping (make demo)",
        play: demo::play,
    },
    Scenario {
        name: "disk",
        about: "full and read-only disks: said at once, nothing lost, on by itself",
        play: disk::play,
    },
    Scenario {
        name: "failover",
        about: "the direct path is cut, then the relay dies: the gap, and back to direct",
        play: failover::play,
    },
    Scenario {
        name: "flood",
        about: "100,000 forged initiations a second: handshakes, a tunnel, memory",
        play: flood::play,
    },
    Scenario {
        name: "footprint",
        about: "memory of a gateway that talks to two peers",
        play: footprint::play,
    },
    Scenario {
        name: "hostile",
        about: "a mob against the coordinator, and devices that it knows beside it",
        play: hostile::play,
    },
    Scenario {
        name: "idle-day",
        about: "bytes of a day in which nobody talks, by cause: no tunnel, a warm one",
        play: idle_day::play,
    },
    Scenario {
        name: "interop",
        about: "our daemon against wireguard-go and the kernel's WireGuard",
        play: interop::play,
    },
    Scenario {
        name: "key-change",
        about: "the coordinator's own key changes as announced: members follow",
        play: key_change::play,
    },
    Scenario {
        name: "nat-matrix",
        about: "two gateways behind every pair of NAT boxes: first byte, path, direct when",
        play: nat_matrix::play,
    },
    Scenario {
        name: "nats",
        about: "every NAT box of the laboratory, seen from behind it, is what it is called",
        play: nats::play,
    },
    Scenario {
        name: "near",
        about: "two gateways on one LAN, behind two routers each, behind routers that forget",
        play: near::play,
    },
    Scenario {
        name: "netcheck",
        about: "weft netcheck behind every NAT box says what it is, and how relays are reached",
        play: netcheck::play,
    },
    Scenario {
        name: "outage",
        about: "coordinator and broker killed: tunnels, rekeys and an agent's start go on",
        play: outage::play,
    },
    Scenario {
        name: "pair",
        about: "two gateways: join to first ping, loss, throughput, both families",
        play: pair::play,
    },
    Scenario {
        name: "portmap",
        about: "a router that is asked by PCP, NAT-PMP and UPnP lets a peer in, and forgets it",
        play: portmap::play,
    },
    Scenario {
        name: "reference",
        about: "wireguard-go against the kernel's WireGuard, nothing of ours",
        play: reference::play,
    },
    Scenario {
        name: "relays",
        about: "relays that join: told, killed, without coordinator, a device that is blocked",
        play: relays::play,
    },
    Scenario {
        name: "remove",
        about: "a member that is stopped, killed or leaves: nothing stays on its host",
        play: remove::play,
    },
    Scenario {
        name: "restore",
        about: "a backup in the place of the database: members go on, others come back",
        play: restore::play,
    },
    Scenario {
        name: "revoke",
        about: "a device is blocked: how long its peer still takes its packets",
        play: revoke::play,
    },
    Scenario {
        name: "roam",
        about: "gateways change networks, a NAT box starts anew: traffic again, direct again",
        play: roam::play,
    },
    Scenario {
        name: "rotate",
        about: "WireGuard keys and PSKs change 1,000 times while tunnels carry traffic",
        play: rotate::play,
    },
    Scenario {
        name: "turn",
        about: "our relay and coturn's clients: nothing lost, NAT discovery",
        play: turn::play,
    },
    Scenario {
        name: "why",
        about: "pairs of NAT boxes: why each is reached as it is, word for word",
        play: why::play,
    },
    Scenario {
        name: "wire",
        about: "the simulated internet alone: round trip, loss, throughput",
        play: wire::play,
    },
];

/// What a scenario works with.
pub(crate) struct Stage<'a> {
    pub(crate) run: &'a mut Run,
    pub(crate) story: &'a mut Story,
    pub(crate) options: &'a Options,
    /// Programs that run until the end.
    pub(crate) processes: Vec<Process>,
    /// Lines behind the summary of what was removed.
    pub(crate) closing: Vec<String>,
}

/// The host of the relay, and its number.
const RELAY: (&str, u8) = ("relay", 11);

/// With `--relayed`: a relay, and no direct way between any two of these hosts.
fn relay_alone(stage: &Stage<'_>, internet: &Internet, gateways: &[&str]) -> Result<Option<Relay>> {
    if !stage.options.relayed {
        return Ok(None);
    }
    for (index, one) in gateways.iter().enumerate() {
        for other in &gateways[index + 1..] {
            internet.set_cut_between([one, other], true)?;
        }
    }
    let host = internet.host(RELAY.0)?;
    Ok(Some(Relay::start(stage.run, host, &[host.ipv4()])?))
}

/// A gateway calls its path to a peer relayed, as it must be.
fn is_relayed(from: &Gateway, to: &Gateway) -> Result<()> {
    let path = from.peer(to.name())?["path"].clone();
    if path["kind"] == "relay" {
        return Ok(());
    }
    let (from, to) = (from.name(), to.name());
    Err(Failure::expectation(format!("there is a relay alone, and {from} goes to {to} by {path}")))
}

/// Members that talked meanwhile have lost nothing.
fn members_lost_nothing(stage: &mut Stage<'_>, steady: &Steady) -> Result<()> {
    let (lost, sent) = (steady.lost(), steady.sent);
    if lost > 0 {
        return Err(Failure::expectation(format!("members lost {lost} of {sent} packets")));
    }
    let words = format!("{} of {sent} answered meanwhile", steady.answered);
    stage.story.done("members", &words, None);
    Ok(())
}

/// Runs a scenario from its number to the removal of everything it made.
pub(crate) fn run(scenario: &Scenario, options: &Options) -> Result<()> {
    let mut story = Story::new(options.json);
    let (mut run, said) = Run::start()?;
    for sentence in said {
        story.area("lab", &sentence);
    }
    let mut stage = Stage {
        run: &mut run,
        story: &mut story,
        options,
        processes: Vec::new(),
        closing: Vec::new(),
    };
    let played = (scenario.play)(&mut stage);
    let processes = std::mem::take(&mut stage.processes);
    let closing = std::mem::take(&mut stage.closing);
    match played {
        Ok(document) => {
            let removed = run.end()?;
            drop(processes);
            left_behind(&mut story, &removed);
            closing.iter().for_each(|line| story.line(line));
            if options.json {
                ui::document(&document);
            }
            Ok(())
        }
        Err(failure) => Err(end_badly(&mut run, &mut story, processes, failure)),
    }
}

fn end_badly(
    run: &mut Run,
    story: &mut Story,
    processes: Vec<Process>,
    failure: Failure,
) -> Failure {
    let status = failure.status();
    let mut failure = failure;
    if ![status::STOPPED, status::SKIPPED].contains(&status) {
        run.keep_logs();
        story.failed("stopped here", failure.message());
        match run.last_lines() {
            Ok(all) => all.iter().for_each(|(name, lines)| ui::log_lines(name, lines)),
            Err(error) => ui::error(&error),
        }
        failure = failure.line("logs", run.logs().display().to_string());
    }
    if let Err(error) = run.end() {
        ui::error(&error);
    }
    drop(processes);
    failure
}

fn left_behind(story: &mut Story, removed: &Removed) {
    story.line(&format!(
        "  left behind          nothing: {} and {} removed",
        ui::count(removed.namespaces, "namespace"),
        ui::count(removed.links, "link"),
    ));
}
