//! One chip that holds eight peers, and many that talk to it in turn: each takes the
//! place of the one that was silent for longest. Those that hold a place at the end are
//! answered without a coordinator too.
//!
//! The others are `weft-fleet peers`: whole agents in one process, each with its keys, its
//! enrolment, its socket and its tunnel.

use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::Stage;
use super::{CHIP, millis, ready, shallow};
use crate::chip::Chip;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet, Plan};
use crate::measure::median;
use crate::mesh::{Coordinator, program};
use crate::nat::Kind;
use crate::process::Process;
use crate::run::Run;
use crate::site::SitePlan;
use crate::ui;

/// Who the chip talks to, and of `make test`.
const PEERS: usize = 200;
const SHORT: usize = 24;
/// What the board's firmware has room for.
const SLOTS: usize = 8;
/// From a peer's first packet to its answer, with everything that it takes to find the
/// chip, to make room there and to shake hands.
const GOAL: Duration = Duration::from_secs(2);
/// Until they are members, all of them.
const JOINED: Duration = Duration::from_secs(120);
/// Longer than they wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Each of the others sees the chip alone, as a sensor's readers would.
const POLICY: &str = "\
[[rule]]
name = \"ask\"
from = \"role=peer\"
to = \"role=chip\"
allow = \"any\"
";

pub(in super::super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let firmware = ready(stage)?;
    let count = if stage.options.short { SHORT } else { PEERS };
    let home = SitePlan { name: "chip-home".to_owned(), hosts: 0, ..SitePlan::new(Kind::Prc, 40) };
    let plan = Plan {
        hosts: &[("coord", 10), ("peers", 12)],
        sites: &[home],
        ..Plan::new("core", Families::Ipv4)
    };
    let internet = Internet::of(stage.run, &plan)?;
    let host = internet.host("coord")?;
    let mut coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    stage.story.done("internet", "a chip behind prc, its peers in the open", None);
    let file = stage.run.folder().join("policy.toml");
    fs::write(&file, POLICY).during("write a policy")?;
    coordinator.command("policy", &["policy", "set", &file.display().to_string()])?;
    let key = coordinator.tagged_join_string("chips", "role=chip")?;
    let mut chip = Chip::new(stage.run, internet.site("chip-home")?, (CHIP, 1), &key, &firmware)?;
    let told = tell(stage, &mut chip, internet.host("peers")?, &mut coordinator, count);
    let killed = chip.kill();
    stage.processes.push(coordinator.process);
    told.and_then(|document| killed.map(|()| document))
}

fn tell(
    stage: &mut Stage<'_>,
    chip: &mut Chip,
    host: &Host,
    coordinator: &mut Coordinator,
    count: usize,
) -> Result<Value> {
    chip.start()?;
    let [address, _] = chip.joined()?;
    chip.says("online", |line| (line == "online").then_some(()))?;
    stage.story.done(CHIP, &format!("{address}, room for {SLOTS} peers"), None);
    let flags = ["--uses", &count.to_string(), "--tag", "role=peer"];
    let key = coordinator.join_string_with("peers", &flags)?;
    let mut peers = Peers::start(stage.run, host, &key, count)?;
    stage.story.done("peers", &format!("{count} members with a tunnel each"), None);
    let mut answered = Vec::new();
    let mut late = Vec::new();
    for number in 0..count {
        let took = peers.echo(number, address)?;
        answered.extend(took);
        if took.is_none_or(|took| took > GOAL) {
            let words = took.map_or_else(|| "not at all".to_owned(), ui::span);
            late.push(format!("peer {number}: {words}"));
        }
    }
    let middle = median(&answered).unwrap_or_default();
    let worst = answered.iter().max().copied().unwrap_or_default();
    let words = format!(
        "{} of {count} answered in turn, {} at worst, median {}",
        answered.len(),
        ui::span(worst),
        ui::span(middle)
    );
    stage.story.done("in turn", &words, None);
    coordinator.process.kill()?;
    let mut resident = Vec::new();
    for number in count - SLOTS..count {
        resident.extend(peers.echo(number, address)?);
    }
    let alone = resident.iter().max().copied().unwrap_or_default();
    let words = format!(
        "{} of {SLOTS} residents answered, {} at worst, the coordinator is dead",
        resident.len(),
        ui::span(alone)
    );
    stage.story.done("alone", &words, None);
    let stack = chip.stack()?;
    stage.story.done("stack", &format!("{stack} B were used"), None);
    let document = json!({
        "stack_bytes": stack,
        "slots": SLOTS,
        "peers": count,
        "answered": answered.len(),
        "worst_ms": millis(worst),
        "median_ms": millis(middle),
        "resident_answered": resident.len(),
        "resident_worst_ms": millis(alone),
    });
    let judged = judge(&document, &late, &resident);
    // They end with their input; and with their namespace, if they do not.
    stage.processes.push(peers.process);
    judged?;
    shallow(stage, stack, &document)?;
    Ok(document)
}

fn judge(document: &Value, late: &[String], resident: &[Duration]) -> Result<()> {
    let goal = ui::span(GOAL);
    if !late.is_empty() {
        let (count, some) = (late.len(), &late[..late.len().min(SLOTS)]);
        let words =
            format!("{count} of the peers were not answered in {goal}: {}", some.join(", "));
        return Err(Failure::expectation(words).line("measured", document.to_string()));
    }
    if resident.len() < SLOTS || resident.iter().any(|took| *took > GOAL) {
        let words = format!(
            "without a coordinator {} of the {SLOTS} peers that the chip holds were answered in {goal}",
            resident.iter().filter(|took| **took <= GOAL).count()
        );
        return Err(Failure::expectation(words).line("measured", document.to_string()));
    }
    Ok(())
}

/// `weft-fleet peers`, once all are members.
struct Peers {
    process: Process,
}

impl Peers {
    fn start(run: &Run, host: &Host, key: &str, count: usize) -> Result<Self> {
        let mut command = Command::new(program("weft-fleet")?);
        command.args(["peers", "--devices", &count.to_string(), "--join", key]);
        command.args(["--address", &host.ipv4().to_string()]);
        let process = Process::start("peers", host.namespace(), run.logs(), &mut command)?;
        process.wait_for(0, JOINED, "that its members are ready", |line| {
            line.starts_with("ready ").then_some(())
        })?;
        Ok(Self { process })
    }

    /// One of them asks an address: how long its answer took.
    fn echo(&mut self, number: usize, address: IpAddr) -> Result<Option<Duration>> {
        let from = self.process.lines_so_far();
        self.process.write(&format!("echo {number} {address}\n"))?;
        let answer = format!("echo {number} ");
        self.process.wait_for(from, PATIENCE, "how its echo went", |line| {
            let word = line.strip_prefix(&answer)?;
            Some(word.parse().ok().map(Duration::from_micros))
        })
    }
}
