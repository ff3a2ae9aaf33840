//! A chip in the mesh: an emulated microcontroller behind one NAT box, a gateway behind
//! another. How soon it answers after its network card has a link, as a new device and
//! after a reboot, with the coordinator and without it; and what it offers.

pub(super) mod faults;
pub(super) mod many;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_wire::base64;
use weft_wire::id::PublicKey;

use super::Stage;
use crate::chip::{self, Chip, log, page};
use crate::clock;
use crate::failure::{During, Failure, Result, status};
use crate::internet::{Families, Internet, Plan};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway};
use crate::nat::Kind;
use crate::net::echo::Pinger;
use crate::net::namespace::Namespace;
use crate::net::signal;
use crate::process::{Process, find_program};
use crate::relay::Relay;
use crate::site::SitePlan;
use crate::ui;

/// From the link of its card to the first echo that is answered, at most.
const JOINED_GOAL: Duration = Duration::from_millis(3_000);
/// The same over a relay with the coordinator dead: the gateway has to notice a silence of
/// two seconds first.
const ALONE_GOAL: Duration = Duration::from_millis(5_000);
/// Bytes of an emulated chip's stack, at most. An ESP32-C3 has 127 KiB for it
/// (`agent-esp32/boards/esp32/budgets.json`); the rest stays for what is deeper there,
/// interrupts among it, and for an application that does more.
const STACK_GOAL: u64 = 72 * 1_024;
/// It is measured how long it takes, up to this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two reboots of a chip that is reached over a relay.
const BETWEEN_CALLS: Duration = Duration::from_secs(6);
/// Between two echo requests.
const PACE: Duration = Duration::from_millis(20);
/// Echo requests whose loss is counted.
const PINGS: u32 = 200;
/// New devices, and reboots of one: the goal is for the worst.
const ROUNDS: usize = 5;
const SITES: [(&str, u8); 2] = [("chip-home", 40), ("gw", 30)];
const CHIP: &str = "chip";

/// The boxes that the two are behind, and the way that they find, where that is certain.
struct Form {
    chip: Kind,
    gateway: Kind,
    path: Option<&'static str>,
}

impl Form {
    /// What the command line says, or else the chip behind this kind and the gateway
    /// behind a home router.
    fn new(stage: &Stage<'_>, chip: Kind) -> Result<Self> {
        let given = |flag: &str, name: Option<&String>, usual: Kind, not: &[Kind]| {
            let Some(name) = name else { return Ok(usual) };
            let all = Kind::MATRIX.into_iter().chain(Kind::FURTHER);
            let mut fits = all.filter(|kind| !not.contains(kind));
            fits.clone().find(|kind| kind.name() == name).ok_or_else(|| {
                let names = fits.by_ref().map(Kind::name).collect::<Vec<_>>().join(", ");
                Failure::new("lab.kind", format!("{flag} {name}: no box of that kind is possible"))
                    .line("kinds", names)
                    .exit(status::USAGE)
            })
        };
        let options = stage.options;
        let chip = given("--chip", options.chip.as_ref(), chip, NOT_FOR_CHIPS)?;
        let gateway =
            given("--gateway", options.gateway.as_ref(), Kind::Prc, &[Kind::Nat64, Kind::Small])?;
        Ok(Self { chip, gateway, path: path_of(chip, gateway) })
    }

    /// Both behind home routers, where everything is judged.
    fn is_usual(&self) -> bool {
        (self.chip, self.gateway) == (Kind::Prc, Kind::Prc)
    }
}

/// A chip speaks IPv4 to relays, and by UDP alone.
const NOT_FOR_CHIPS: &[Kind] = &[Kind::Blocked, Kind::Udp443, Kind::Nat64, Kind::Small];

/// The way that is certain. Pairs where gateways guess ports are not: a chip has no
/// sockets to guess with.
fn path_of(chip: Kind, gateway: Kind) -> Option<&'static str> {
    use Kind::{AdMap, Blocked, NoFw, SymRand, SymSeq, SymSeq2, SymWin, Udp443};
    let kinds = [chip, gateway];
    if kinds.iter().any(|kind| matches!(kind, Blocked | Udp443)) {
        return Some("relay");
    }
    let is_hard = |kind: &Kind| matches!(kind, SymSeq | SymSeq2 | SymWin | SymRand | AdMap | NoFw);
    let is_easy = |kind: &Kind| {
        matches!(kind, Kind::Open | Kind::FullCone | Kind::SymEif | Kind::ConeHairpin)
    };
    if !kinds.iter().any(is_hard) || kinds.iter().any(is_easy) {
        return Some("direct");
    }
    let is_random = |kind: &Kind| matches!(kind, SymRand | SymWin);
    let is_strict = |kind: &Kind| matches!(kind, Kind::Prc | Kind::PrcHairpin | SymRand | SymWin);
    let [a, b] = &kinds;
    let is_hopeless = is_random(a) && is_strict(b) || is_random(b) && is_strict(a);
    is_hopeless.then_some("relay")
}

/// Both behind port-restricted boxes, if nobody says otherwise: they meet.
pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let form = Form::new(stage, Kind::Prc)?;
    tell(stage, &form)
}

/// The chip behind a symmetric box: they do not.
pub(super) fn relayed(stage: &mut Stage<'_>) -> Result<Value> {
    let form = Form::new(stage, Kind::SymRand)?;
    tell(stage, &form)
}

/// Everything that a chip needs is there, and its firmware as its sources are.
fn ready(stage: &mut Stage<'_>) -> Result<PathBuf> {
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let began = clock::now();
    let firmware = if stage.options.host { chip::program()? } else { chip::firmware()? };
    stage.story.done("firmware", "as its sources are", Some(began.elapsed()));
    Ok(firmware)
}

/// What a chip meets: a coordinator, a relay, and a gateway behind its own box.
struct Stand {
    relay: Relay,
    coordinator: Coordinator,
    gateway: Gateway,
    /// Lets a few devices more in.
    key: String,
}

impl Stand {
    /// All of it, and the internet with a site for the chip.
    fn new(stage: &mut Stage<'_>, form: &Form) -> Result<(Self, Internet)> {
        let site = |(name, number): (&str, u8), kind, hosts| SitePlan {
            name: name.to_owned(),
            hosts,
            ..SitePlan::new(kind, number)
        };
        let sites = [site(SITES[0], form.chip, 0), site(SITES[1], form.gateway, 1)];
        let plan = Plan {
            hosts: &[("coord", 10), ("relay", 11)],
            sites: &sites,
            ..Plan::new("core", Families::Ipv4)
        };
        let internet = Internet::of(stage.run, &plan)?;
        let [chip, gateway] = [form.chip.name(), form.gateway.name()];
        let words = format!("a chip behind {chip}, a gateway behind {gateway}");
        stage.story.done("internet", &words, None);
        let (host, relay) = (internet.host("coord")?, internet.host("relay")?);
        let relay = Relay::start(stage.run, relay, &[relay.ipv4()])?;
        let sections = &relay.section;
        let coordinator =
            Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), sections)?;
        let key = coordinator.join_string("chips", 20)?;
        let gateway = Gateway::join(stage.run, internet.site(SITES[1].0)?.host(), &key, "")?;
        Ok((Self { relay, coordinator, gateway, key }, internet))
    }

    /// The WireGuard key of a device.
    fn key_of(&self, name: &str) -> Result<PublicKey> {
        let shown = self.coordinator.command("device", &["device", "show", name, "--json"])?;
        let document: Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
        let key = document["device"]["wg_public_key"].as_str().unwrap_or_default();
        let wrong = || Failure::expectation(format!("{name} has no WireGuard key"));
        base64::decode(key).map(PublicKey).ok_or_else(wrong)
    }

    /// What runs until the end.
    fn processes(self) -> [Process; 3] {
        [self.relay.process, self.coordinator.process, self.gateway.process]
    }
}

fn tell(stage: &mut Stage<'_>, form: &Form) -> Result<Value> {
    let firmware = ready(stage)?;
    let (mut stand, internet) = Stand::new(stage, form)?;
    let site = internet.site(SITES[0].0)?;
    let mut chip = Chip::new(stage.run, site, (CHIP, 1), &stand.key, &firmware)?;
    let told = rounds(stage, form, &mut chip, &mut stand);
    // Killed with everything else, if it was not.
    let killed = chip.kill();
    stage.processes.extend(stand.processes());
    told.and_then(|document| killed.map(|()| document))
}

fn rounds(stage: &mut Stage<'_>, form: &Form, chip: &mut Chip, stand: &mut Stand) -> Result<Value> {
    let Stand { coordinator, gateway, key, .. } = stand;
    let count = if stage.options.short { 1 } else { ROUNDS };
    let mut all = Vec::new();
    for round in 1..=count {
        chip.kill()?;
        chip.renew(&format!("{CHIP}-{round}"), key)?;
        let took = first_answer(chip, gateway)?;
        stage.story.done(&format!("new {round} of {count}"), &ui::span(took), None);
        all.push(took);
    }
    let address = chip.joined()?[0];
    let path = settled(form, gateway, chip)?;
    let loss = loss(gateway.namespace(), address)?;
    stage.story.done("path", &format!("{path}, {loss} % of {PINGS} echoes lost"), None);
    let stack = stack(&page(gateway.namespace(), address)?)?;
    let words = format!("fetched; {stack} B of stack used");
    stage.story.done("page", &words, None);
    let lines = logged(&log(gateway.namespace(), address)?)?;
    stage.story.done("log", &format!("{lines} lines, from its start on"), None);
    for round in 1..=count {
        reboot_later(form, chip)?;
        let took = first_answer(chip, gateway)?;
        stage.story.done(&format!("reboot {round} of {count}"), &ui::span(took), None);
        all.push(took);
    }
    coordinator.process.kill()?;
    reboot_later(form, chip)?;
    let alone = first_answer(chip, gateway)?;
    let words = format!("{}, the coordinator is dead", ui::span(alone));
    stage.story.done("reboot alone", &words, None);
    page(gateway.namespace(), address)?;
    let joined = all.iter().copied().max().unwrap_or(Duration::MAX);
    let new = all.iter().take(count).copied().max().unwrap_or(Duration::MAX);
    let document = json!({
        "joined_ms": millis(joined),
        "new_ms": millis(new),
        "joined_all_ms": all.iter().copied().map(millis).collect::<Vec<_>>(),
        "cached_ms": millis(alone),
        "ping_loss_pct": loss,
        "path": path,
        "chip": form.chip.name(),
        "gateway": form.gateway.name(),
        "services_ok": true,
        "stack_bytes": stack,
    });
    shallow(stage, stack, &document)?;
    let alone_goal = if form.is_usual() { JOINED_GOAL } else { ALONE_GOAL };
    for (late, goal) in [(joined, JOINED_GOAL), (alone, alone_goal)] {
        if late > goal {
            let (late, goal) = (ui::span(late), ui::span(goal));
            return Err(Failure::expectation(format!("joined after {late}, the goal is {goal}"))
                .line("measured", document.to_string()));
        }
    }
    if loss > 0.0 {
        return Err(Failure::expectation(format!("{loss} % of the echoes were lost"))
            .line("measured", document.to_string()));
    }
    Ok(document)
}

/// Power off. A chip that is reached over a relay calls when it starts, and one call of a
/// pair is forwarded in 5 s: who reboots sooner measures that.
fn reboot_later(form: &Form, chip: &mut Chip) -> Result<()> {
    if !form.is_usual() {
        signal::rest(BETWEEN_CALLS);
    }
    chip.kill()
}

/// Power on: from the link of the chip's card to the first echo that the gateway has
/// answered.
fn first_answer(chip: &mut Chip, gateway: &Gateway) -> Result<Duration> {
    let link = chip.start()?;
    let [address, _] = chip.joined()?;
    let what = "open a socket for echo requests";
    let mut pinger = Pinger::open(gateway.namespace(), address).during(what)?;
    let answered = pinger.first_answer(PACE, link + PATIENCE);
    let name = chip.name();
    let at: Instant = answered
        .ok_or_else(|| Failure::expectation(format!("{name} did not answer in {PATIENCE:?}")))?;
    Ok(at.saturating_duration_since(link))
}

/// The way of the gateway's packets to the chip, once it is the one that is expected.
/// Where none is certain, any that carries them is told.
fn settled(form: &Form, gateway: &Gateway, chip: &Chip) -> Result<String> {
    let mut last = String::new();
    let what = format!("the way to the chip is {}", form.path.unwrap_or("direct or a relay"));
    wait_until(PATIENCE, &what, || {
        gateway.ping(chip.name())?;
        last = gateway.peer(chip.name())?["path"]["kind"].as_str().unwrap_or_default().to_owned();
        Ok(form.path.map_or_else(|| ["direct", "relay"].contains(&&*last), |path| last == path))
    })?;
    Ok(last)
}

/// Share of echo requests that are not answered, in percent.
fn loss(from: &Namespace, address: IpAddr) -> Result<f64> {
    let mut pinger = Pinger::open(from, address).during("open a socket for echo requests")?;
    let mut lost = 0;
    for _ in 0..PINGS {
        let answered = pinger.ping(Duration::from_secs(1)).during("send an echo request")?;
        lost += u32::from(answered.is_none());
    }
    Ok(100.0 * f64::from(lost) / f64::from(PINGS))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How long the page is that says what happened, with everything on it from the start of a
/// new device to a peer that talks.
fn logged(page: &str) -> Result<usize> {
    for what in ["  start 1", "  enrolled ", "  joined ", "  online ", "  peer up "] {
        if !page.contains(what) {
            let words = format!("the chip does not remember \"{}\": {page}", what.trim());
            return Err(Failure::expectation(words));
        }
    }
    Ok(page.lines().count())
}

/// Fails where an emulated chip has used more of its stack than it may. Linux counts that of
/// a program otherwise.
fn shallow(stage: &Stage<'_>, stack: u64, document: &Value) -> Result<()> {
    if stage.options.host || stack <= STACK_GOAL {
        return Ok(());
    }
    let words = format!("{stack} B of the chip's stack were used, the goal is {STACK_GOAL}");
    Err(Failure::expectation(words).line("measured", document.to_string()))
}

/// What the page says of the stack, in bytes.
fn stack(page: &str) -> Result<u64> {
    let line = page.lines().find_map(|line| line.strip_prefix("stack"));
    let used = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    used.ok_or_else(|| Failure::expectation(format!("the chip's page has no stack: {page}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::nat_matrix::is_relayed;

    #[test]
    fn a_way_that_is_certain_is_that_of_gateways() {
        for chip in Kind::MATRIX {
            for gateway in Kind::MATRIX {
                // Other pairs of gateways find one by chance, with sockets to guess.
                if is_relayed([chip, gateway]) {
                    assert_ne!(path_of(chip, gateway), Some("direct"));
                }
            }
        }
        assert_eq!(path_of(Kind::Prc, Kind::Prc), Some("direct"));
        assert_eq!(path_of(Kind::SymRand, Kind::Prc), Some("relay"));
        assert_eq!(path_of(Kind::SymSeq, Kind::SymSeq), None);
    }
}
