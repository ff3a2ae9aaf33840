//! A chip in the mesh: an emulated microcontroller behind one NAT box, a gateway behind
//! another. How soon it answers after its network card has a link, as a new device and
//! after a reboot, with the coordinator and without it; and what it offers.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;
use crate::chip::{self, Chip};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet, Plan};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway};
use crate::nat::Kind;
use crate::net::echo::Pinger;
use crate::net::namespace::Namespace;
use crate::process::find_program;
use crate::relay::Relay;
use crate::site::SitePlan;
use crate::ui;

/// From the link of its card to the first echo that is answered, at most.
const JOINED_GOAL: Duration = Duration::from_millis(3_000);
/// It is measured how long it takes, up to this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two echo requests.
const PACE: Duration = Duration::from_millis(20);
/// Echo requests whose loss is counted.
const PINGS: u32 = 200;
/// New devices, and reboots of one: the goal is for the worst.
const ROUNDS: usize = 5;
const SITES: [(&str, u8); 2] = [("chip-home", 40), ("gw", 30)];
const CHIP: &str = "chip";

/// What is different when everything is relayed.
struct Form {
    home: Kind,
    path: &'static str,
}

/// Both behind port-restricted boxes: they meet.
pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    tell(stage, &Form { home: Kind::Prc, path: "direct" })
}

/// The chip behind a symmetric box: they do not.
pub(super) fn relayed(stage: &mut Stage<'_>) -> Result<Value> {
    tell(stage, &Form { home: Kind::SymRand, path: "relay" })
}

fn tell(stage: &mut Stage<'_>, form: &Form) -> Result<Value> {
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let began = clock::now();
    chip::firmware()?;
    stage.story.done("firmware", "as its sources are", Some(began.elapsed()));
    let site = |(name, number): (&str, u8), kind, hosts| SitePlan {
        name: name.to_owned(),
        hosts,
        ..SitePlan::new(kind, number)
    };
    let sites = [site(SITES[0], form.home, 0), site(SITES[1], Kind::Prc, 1)];
    let plan = Plan {
        hosts: &[("coord", 10), ("relay", 11)],
        sites: &sites,
        ..Plan::new("core", Families::Ipv4)
    };
    let internet = Internet::of(stage.run, &plan)?;
    stage.story.done("internet", &format!("a chip behind {}", form.home.name()), None);
    let (host, relay) = (internet.host("coord")?, internet.host("relay")?);
    let relay = Relay::start(stage.run, relay, &[relay.ipv4()])?;
    let mut coordinator =
        Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), &relay.section)?;
    let key = coordinator.join_string("chips", 20)?;
    let gateway = Gateway::join(stage.run, internet.site(SITES[1].0)?.host(), &key, "")?;
    let mut chip = Chip::new(stage.run, internet.site(SITES[0].0)?, (CHIP, 1), &key)?;
    let told = rounds(stage, form, &mut chip, &gateway, &mut coordinator, &key);
    // Killed with everything else, if it was not.
    let killed = chip.kill();
    stage.processes.extend([relay.process, coordinator.process, gateway.process]);
    told.and_then(|document| killed.map(|()| document))
}

fn rounds(
    stage: &mut Stage<'_>,
    form: &Form,
    chip: &mut Chip,
    gateway: &Gateway,
    coordinator: &mut Coordinator,
    key: &str,
) -> Result<Value> {
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
    let page = page(gateway.namespace(), address)?;
    let stack = stack(&page)?;
    let words = format!("fetched; {stack} B of stack used");
    stage.story.done("page", &words, None);
    for round in 1..=count {
        chip.kill()?;
        let took = first_answer(chip, gateway)?;
        stage.story.done(&format!("reboot {round} of {count}"), &ui::span(took), None);
        all.push(took);
    }
    coordinator.process.kill()?;
    chip.kill()?;
    let alone = first_answer(chip, gateway)?;
    let words = format!("{}, the coordinator is dead", ui::span(alone));
    stage.story.done("reboot alone", &words, None);
    self::page(gateway.namespace(), address)?;
    let joined = all.iter().copied().max().unwrap_or(Duration::MAX);
    let document = json!({
        "joined_ms": joined.as_millis() as u64,
        "new_ms": all.iter().take(count).map(Duration::as_millis).max().map(|ms| ms as u64),
        "joined_all_ms": all.iter().map(|took| took.as_millis() as u64).collect::<Vec<_>>(),
        "cached_ms": alone.as_millis() as u64,
        "ping_loss_pct": loss,
        "path": path,
        "services_ok": true,
        "stack_bytes": stack,
    });
    // Over a relay alone nobody tells the gateway of a reboot: it finds out by silence, and
    // how long that takes is told and not judged yet.
    let new = all.iter().take(count).copied().max().unwrap_or(Duration::MAX);
    let late = if form.home == Kind::Prc { joined.max(alone) } else { new };
    if late > JOINED_GOAL {
        let (late, goal) = (ui::span(late), ui::span(JOINED_GOAL));
        return Err(Failure::expectation(format!("joined after {late}, the goal is {goal}"))
            .line("measured", document.to_string()));
    }
    if loss > 0.0 {
        return Err(Failure::expectation(format!("{loss} % of the echoes were lost"))
            .line("measured", document.to_string()));
    }
    Ok(document)
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
fn settled(form: &Form, gateway: &Gateway, chip: &Chip) -> Result<String> {
    let mut last = String::new();
    let what = format!("the way to the chip is {}", form.path);
    wait_until(PATIENCE, &what, || {
        gateway.ping(chip.name())?;
        last = gateway.peer(chip.name())?["path"]["kind"].as_str().unwrap_or_default().to_owned();
        Ok(last == form.path)
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

/// What the page says of the stack, in bytes.
fn stack(page: &str) -> Result<u64> {
    let line = page.lines().find_map(|line| line.strip_prefix("stack"));
    let used = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    used.ok_or_else(|| Failure::expectation(format!("the chip's page has no stack: {page}")))
}

/// The chip's status page.
fn page(from: &Namespace, address: IpAddr) -> Result<String> {
    let fetch = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&(address, 80).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = from.within(fetch).and_then(|page| page).during("fetch the chip's page")?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    let body = body.filter(|body| text.starts_with("HTTP/1.0 200 ") && body.starts_with("addr"));
    body.ok_or_else(|| Failure::expectation(format!("the chip's page is {text:?}")))
}
