//! What may happen to a chip, one thing after the other, while a gateway talks to it:
//! each is judged by how soon the gateway's echo requests are answered again, and none by
//! another. A chip that is dead afterwards is started again for the next one.

mod hostile;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::Stage;
use super::{CHIP, Form, SITES, Stand, millis, ready, shallow, stack};
use crate::chip::{Chip, page};
use crate::clock;
use crate::failure::{During, Failure, Result, status};
use crate::measure::Traffic;
use crate::nat::Kind;
use crate::net::echo::{OUTAGE, Pinger};
use crate::net::signal;
use crate::run::Run;
use crate::site::{Lease, Site};
use crate::ui;

use hostile::Hostile;

/// From the end of a fault to the first echo that is answered.
const BACK: Duration = Duration::from_secs(3);
/// It is measured how long it takes, up to this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the line to a coordinator that was away: devices come back spread over a while.
const ONLINE: Duration = Duration::from_secs(20);
/// From an operator's approval to the first answer.
const APPROVED: Duration = Duration::from_secs(10);
/// Between two echo requests.
const PACE: Duration = Duration::from_millis(20);
/// How long a cable is out, a coordinator away, a flood lasts; and in the short form.
const GONE: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(3)];
const FLOODED: [Duration; 2] = [Duration::from_secs(8), Duration::from_secs(1)];
/// How often the power is cut; and in the short form.
const CUTS: [usize; 2] = [10, 3];
/// The local network is asked again for the address after this.
const RENEWED: Duration = Duration::from_secs(3);
/// Until nothing is lost any more: so many echo requests one after the other.
const SETTLED: Duration = Duration::from_secs(10);
const ROW: u32 = 40;
/// Share of echo requests that may be lost while the coordinator is away. One of 933 was
/// on a machine with much other work; why is not known.
const LOST_PCT: f64 = 1.0;
/// Datagrams a second that leave the tunnel as good as alone, and the share of echo
/// requests that must be answered beside them.
const MODEST: u32 = 500;
const KEPT_PCT: f64 = 90.0;

/// What a fault showed: in words, and in figures.
type Shown = (String, Value);

/// What faults happen to.
struct Scene<'a> {
    site: &'a Site,
    stand: &'a mut Stand,
    chip: &'a mut Chip,
    /// Of the chip: on the mesh, and in its local network.
    address: IpAddr,
    lan: Ipv4Addr,
    short: bool,
    /// The most of the stack that was ever used, in bytes.
    stack: Cell<u64>,
    /// From before the chip.
    backup: String,
}

type Fault = fn(&mut Scene<'_>, &Run) -> Result<Shown>;

/// The last one ends with another life of the database.
const FAULTS: &[(&str, Fault)] = &[
    ("cable", |scene, _| scene.cable()),
    ("dhcp", |scene, run| scene.dhcp(run)),
    ("coordinator", |scene, _| scene.coordinator()),
    ("garbage", |scene, _| scene.flood(&Hostile::Garbage)),
    ("truncated", |scene, _| scene.flood(&Hostile::Truncated)),
    ("forged", |scene, _| scene.flood(&Hostile::Forged)),
    ("fragments", |scene, _| scene.flood(&Hostile::Fragments)),
    ("frames", |scene, _| scene.flood(&Hostile::Frames)),
    ("power", |scene, _| scene.power()),
    ("restore", |scene, _| scene.restore()),
];

pub(in super::super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let firmware = ready(stage)?;
    let form = Form::new(stage, Kind::Prc)?;
    let (mut stand, internet) = Stand::new(stage, &form)?;
    let backup = stage.run.folder().join("backup.db").display().to_string();
    stand.coordinator.on_data("backup", &["backup", &backup])?;
    let key = stand.coordinator.join_string("late", 1)?;
    let site = internet.site(SITES[0].0)?;
    let mut chip = Chip::new(stage.run, site, (CHIP, 1), &key, &firmware)?;
    let told = begin(stage, site, &mut stand, &mut chip, backup);
    let killed = chip.kill();
    stage.processes.extend(stand.processes());
    told.and_then(|document| killed.map(|()| document))
}

fn begin(
    stage: &mut Stage<'_>,
    site: &Site,
    stand: &mut Stand,
    chip: &mut Chip,
    backup: String,
) -> Result<Value> {
    let short = stage.options.short;
    let link = chip.start()?;
    let [address, _] = chip.joined()?;
    let lan = site.address(Lease::USUAL.host);
    let mut scene = Scene { site, stand, chip, address, lan, short, stack: Cell::new(0), backup };
    let took = scene.back_after(link, PATIENCE)?;
    stage.story.done(CHIP, &format!("{address}, answers"), Some(took));
    let (mut lines, mut failed) = (Vec::new(), Vec::new());
    for (name, fault) in FAULTS {
        match fault(&mut scene, stage.run) {
            Ok((words, mut figures)) => {
                stage.story.done(name, &words, None);
                figures["name"] = (*name).into();
                figures["held"] = true.into();
                lines.push(figures);
            }
            Err(failure) if failure.is_stop() || failure.status() == status::SKIPPED => {
                return Err(failure);
            }
            Err(failure) => {
                stage.story.failed(name, failure.message());
                lines.push(json!({"name": name, "held": false, "why": failure.message()}));
                failed.push(format!("{name}: {}", failure.message()));
                scene.revive()?;
            }
        }
    }
    let stack = scene.stack.get();
    stage.story.done("stack", &format!("{stack} B were used"), None);
    let passed = lines.len() - failed.len();
    let document = json!({"faults": lines, "passed": passed, "stack_bytes": stack});
    if failed.is_empty() {
        shallow(stage, stack, &document)?;
        return Ok(document);
    }
    let words = format!("{} not survived: {}", ui::count(failed.len(), "fault"), failed.join("; "));
    Err(Failure::expectation(words).line("measured", document.to_string()))
}

impl Scene<'_> {
    /// The longer time, or the one of the short form.
    fn form<T: Copy>(&self, [full, short]: [T; 2]) -> T {
        if self.short { short } else { full }
    }

    fn pinger(&self) -> Result<Pinger> {
        let namespace = self.stand.gateway.namespace();
        Pinger::open(namespace, self.address).during("open a socket for echo requests")
    }

    /// From a moment to the first echo that is answered, which must come in time.
    fn back_after(&self, since: Instant, goal: Duration) -> Result<Duration> {
        let answered = self.pinger()?.first_answer(PACE, since + PATIENCE);
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        let silent = || Failure::expectation(format!("no echo is answered for {PATIENCE:?}"));
        let took = answered.ok_or_else(silent)?.saturating_duration_since(since);
        if took > goal {
            let (took, goal) = (ui::span(took), ui::span(goal));
            let words = format!("an echo is answered after {took}, the goal is {goal}");
            return Err(Failure::expectation(words));
        }
        Ok(took)
    }

    /// From a moment to the first of many echo requests of which none is lost.
    fn settled(&self, since: Instant) -> Result<Duration> {
        let mut pinger = self.pinger()?;
        let (mut first, mut row) = (clock::now(), 0);
        while row < ROW {
            if first.saturating_duration_since(since) > SETTLED {
                let goal = ui::span(SETTLED);
                return Err(Failure::expectation(format!("echoes are still lost after {goal}")));
            }
            // An error is an answer that there is no way.
            if pinger.ping(Duration::from_millis(500)).unwrap_or(None).is_some() {
                row += 1;
            } else {
                (first, row) = (clock::now(), 0);
            }
        }
        Ok(first.saturating_duration_since(since))
    }

    /// Soon nothing is lost any more, and the page comes. Right after a fault something
    /// may be: one of 40 echoes was, after a cable was back; why is not known.
    fn is_well(&self) -> Result<()> {
        self.settled(clock::now())?;
        let used = stack(&page(self.stand.gateway.namespace(), self.address)?)?;
        self.stack.set(self.stack.get().max(used));
        Ok(())
    }

    /// Started again, whatever a fault has left of it.
    fn revive(&mut self) -> Result<()> {
        self.chip.kill()?;
        let link = self.chip.start()?;
        self.back_after(link, PATIENCE).map(drop)
    }

    /// Its cable is out for a while; its card does not notice.
    fn cable(&mut self) -> Result<Shown> {
        let gone = self.form(GONE);
        self.chip.set_cable(false)?;
        let answered = self.pinger()?.first_answer(PACE, clock::now() + gone);
        self.chip.set_cable(true)?;
        if answered.is_some() {
            return Err(Failure::expectation("the cable is out, and the chip answers"));
        }
        let took = self.back_after(clock::now(), BACK)?;
        self.is_well()?;
        let words = format!("out for {}, answers again after {}", ui::span(gone), ui::span(took));
        Ok((words, json!({"gone_s": gone.as_secs(), "back_ms": millis(took)})))
    }

    /// The local network gives it another address.
    fn dhcp(&mut self, run: &Run) -> Result<Shown> {
        let lease = Lease { renewed: Some(RENEWED), ..Lease::USUAL };
        self.chip.set_lease(run, self.site, lease)?;
        // It asks soon again from now on.
        self.revive()?;
        let from = self.stand.gateway.namespace();
        let traffic = Traffic::start(from, self.address, PACE)?;
        let lease = Lease { host: 2, ..lease };
        self.chip.set_lease(run, self.site, lease)?;
        self.lan = self.site.address(lease.host);
        let took = self.chip.takes(self.lan, PATIENCE)?;
        let back = self.back_after(took, BACK);
        let steady = traffic.end()?;
        let back = back?;
        self.is_well()?;
        let gap = ui::span(steady.longest_gap);
        let words =
            format!("{}, answers after {}, silent for {gap} at most", self.lan, ui::span(back));
        let figures = json!({"back_ms": millis(back), "gap_ms": millis(steady.longest_gap)});
        Ok((words, figures))
    }

    /// Coordinator and broker die, and are there again.
    fn coordinator(&mut self) -> Result<Shown> {
        let gone = self.form(GONE);
        let from = self.chip.lines_so_far()?;
        let traffic = Traffic::start(self.stand.gateway.namespace(), self.address, PACE)?;
        self.stand.coordinator.process.kill()?;
        let offline = |line: &str| (line == "offline").then_some(());
        self.chip.says_after(from, PATIENCE, "offline", offline)?;
        let from = self.chip.lines_so_far()?;
        signal::rest(gone);
        self.stand.coordinator.restart()?;
        let began = clock::now();
        let online = |line: &str| (line == "online").then_some(());
        let said = self.chip.says_after(from, ONLINE, "online", online);
        let took = began.elapsed();
        let steady = traffic.end()?;
        said?;
        let (lost, gap) = (steady.lost(), ui::span(steady.longest_gap));
        if steady.loss_pct() > LOST_PCT || steady.longest_gap > OUTAGE {
            let words = format!("{lost} of {} echoes were lost, {gap} at a time", steady.sent);
            return Err(Failure::expectation(words));
        }
        self.is_well()?;
        let (gone_words, took_words, sent) = (ui::span(gone), ui::span(took), steady.sent);
        let words =
            format!("away for {gone_words}, online after {took_words}; {lost} of {sent} lost");
        let figures = json!({
            "gone_s": gone.as_secs(), "online_ms": millis(took), "lost": lost, "sent": sent,
        });
        Ok((words, figures))
    }

    /// Somebody in its local network sends what nobody should: at a modest rate, beside
    /// which the tunnel carries, then as fast as the kernel takes it.
    fn flood(&mut self, kind: &Hostile) -> Result<Shown> {
        let key = self.stand.key_of(self.chip.name())?;
        let (home, mac) = self.chip.socket();
        let mut flood = kind.flood(home, mac, self.lan, &key)?;
        let time = self.form(FLOODED);
        let mut figures = json!({});
        let mut said = Vec::new();
        for (name, rate) in [("modest", Some(MODEST)), ("line", None)] {
            let from = self.stand.gateway.namespace();
            let traffic = Traffic::start(from, self.address, PACE)?;
            let flooded = flood.run(rate, time).during("flood a chip");
            let back = self.back_after(clock::now(), BACK);
            let steady = traffic.end()?;
            let (sent, took) = flooded?;
            let rate = (sent as f64 / took.as_secs_f64()).round();
            let kept = (100.0 - steady.loss_pct()).round();
            let back = back?;
            figures[format!("{name}_pps")] = (rate as u64).into();
            figures[format!("{name}_kept_pct")] = (kept as u64).into();
            figures[format!("{name}_back_ms")] = millis(back).into();
            said.push(format!("{rate}/s: {kept} % answered meanwhile"));
            if name == "modest" && kept < KEPT_PCT {
                let words =
                    format!("of echoes beside {rate} packets a second {kept} % are answered");
                return Err(Failure::expectation(words));
            }
        }
        self.is_well()?;
        Ok((said.join("; "), figures))
    }

    /// The power is cut in the middle of traffic, again and again.
    fn power(&mut self) -> Result<Shown> {
        let cuts = self.form(CUTS);
        let mut worst = Duration::ZERO;
        for cut in 1..=cuts {
            let from = self.stand.gateway.namespace();
            let traffic = Traffic::start(from, self.address, Duration::from_millis(2))?;
            // In another moment of whatever it does each time.
            signal::rest(Duration::from_millis(100 + 37 * cut as u64));
            self.chip.kill()?;
            traffic.end()?;
            let link = self.chip.start()?;
            let [address, _] = self.chip.joined()?;
            if address != self.address {
                let before = self.address;
                let words = format!("it was {before} and is {address} after cut {cut}");
                return Err(Failure::expectation(words));
            }
            worst = worst.max(self.back_after(link, BACK)?);
        }
        self.is_well()?;
        let words = format!("cut {cuts} times, answers after {} at worst", ui::span(worst));
        Ok((words, json!({"cuts": cuts, "back_ms": millis(worst)})))
    }

    /// The coordinator's database is one from before the chip.
    fn restore(&mut self) -> Result<Shown> {
        let from = self.chip.lines_so_far()?;
        let coordinator = &mut self.stand.coordinator;
        coordinator.end()?;
        coordinator.on_data("restore", &["restore", &self.backup])?;
        coordinator.restart()?;
        let began = clock::now();
        let waits = |line: &str| line.contains("Standing(Pending)").then_some(());
        self.chip.says_after(from, ONLINE, "that it waits for an operator", waits)?;
        let waited = began.elapsed();
        let approve = ["device", "approve", "--all", "--yes"];
        self.stand.coordinator.command("approve", &approve)?;
        let approved = clock::now();
        let took = self.back_after(approved, APPROVED)?;
        let active = |line: &str| line.contains("Standing(Active)").then_some(());
        self.chip.says_after(from, APPROVED, "that it is a member again", active)?;
        // The pair's secret is another one: both hear of it, and shake hands once more.
        let settled = self.settled(approved)?;
        self.is_well()?;
        let [waits, first, all] = [waited, took, settled].map(ui::span);
        let words = format!(
            "unknown, waits after {waits}; approved, answers after {first}, every time after {all}"
        );
        let figures = json!({
            "pending_ms": millis(waited), "back_ms": millis(took), "settled_ms": millis(settled),
        });
        Ok((words, figures))
    }
}
