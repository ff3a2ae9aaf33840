//! `make demo`: two gateways and a chip on a simulated internet, told as a story.

mod chip;

use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet, Plan};
use crate::measure::{Pings, pings};
use crate::mesh::{Coordinator, Gateway, program, rss_kib, shortened, text};
use crate::net::echo::Pinger;
use crate::net::signal;
use crate::ui::{self, Story};
use crate::wall;

use chip::Part;

/// From the first `weft join` to the first answer.
const GOAL: Duration = Duration::from_secs(2);
/// Pings of the summary with `--once`.
const PINGS: u32 = 5;
const LIMIT: Duration = Duration::from_secs(1);

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let part = Part::new()?;
    let devices = if part.is_played() { "2 gateways and a chip" } else { "2 gateways" };
    stage
        .story
        .area("lab", &format!("1 coordinator, {devices} on a simulated internet, 20 ms apart;"));
    let id = stage.run.id().to_owned();
    stage.story.area(
        "",
        &format!("all of it in network namespaces weft-{id}-*, nothing outside is touched"),
    );
    stage.story.line("");
    stage.story.restart();
    let hosts = [("coord", 10), ("gw-a", 21), ("gw-b", 22)];
    let sites = part.sites();
    let plan = Plan { hosts: &hosts, sites: &sites, ..Plan::new("core", Families::Both) };
    let internet = Internet::of(stage.run, &plan)?;
    let home = if part.is_played() { ", a router at home" } else { "" };
    stage.story.done("internet", &format!("core, coord, gw-a, gw-b{home}"), None);
    let host = internet.host("coord")?;
    let coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let text = format!("{}, key {}, 0 devices", host.ipv4(), coordinator.fingerprint);
    stage.story.done("coordinator", &text, None);
    let told = tell(stage, &internet, &coordinator, &part);
    stage.processes.push(coordinator.process);
    told
}

fn tell(
    stage: &mut Stage<'_>,
    internet: &Internet,
    coordinator: &Coordinator,
    part: &Part,
) -> Result<Value> {
    let uses = if part.is_played() { 3 } else { 2 };
    let key = coordinator.join_string_for("demo", uses, "1h")?;
    stage.story.done("key \"demo\"", &format!("{}, {uses} uses, 1 hour", shortened(&key)), None);
    let began = clock::now();
    let mut gateways = Vec::new();
    for name in ["gw-a", "gw-b"] {
        let joined = clock::now();
        let gateway = Gateway::join(stage.run, internet.host(name)?, &key, "")?;
        let text = format!("{}  {}", gateway.addresses.ipv4, gateway.addresses.ipv6);
        stage.story.done(&format!("{name} joined"), &text, Some(joined.elapsed()));
        gateways.push(gateway);
    }
    let told = match gateways.as_slice() {
        [a, b] => meet(stage, a, b, began).and_then(|(pinger, took)| {
            let chip = part.tell(stage, internet, &key, a)?;
            talk(stage, [a, b], pinger, took, chip)
        }),
        _ => Err(Failure::new("lab.internal", "two gateways joined")),
    };
    let told = told.and_then(|told| {
        let (a, b) = (internet.host("gw-a")?, internet.host("gw-b")?);
        let wire = pings(a.namespace(), b.ipv4(), PINGS, LIMIT)?.median();
        let mut document = summarise(stage, coordinator, &gateways, told, wire)?;
        document["skipped"] = part.skipped().into();
        Ok(document)
    });
    stage.processes.extend(gateways.into_iter().map(|gateway| gateway.process));
    told
}

/// What the live part found.
struct Told {
    join_to_first_ping: Duration,
    pings: Pings,
    path: String,
    chip: Option<chip::Told>,
}

/// The first packet between the two, and how long after the first `weft join` it was.
fn meet(
    stage: &mut Stage<'_>,
    a: &Gateway,
    b: &Gateway,
    began: std::time::Instant,
) -> Result<(Pinger, Duration)> {
    let target = b.addresses.ipv4;
    let mut pinger = Pinger::open(a.namespace(), target).during("open a socket")?;
    let first = pinger.ping(5 * LIMIT).unwrap_or(None).ok_or_else(|| silent(b.name()))?;
    let join_to_first_ping = began.elapsed();
    if a.peer(b.name())?["last_handshake"].is_null() {
        return Err(Failure::expectation("an answer came, and gw-a knows of no handshake"));
    }
    stage.story.done("handshake", "gw-a → gw-b, WireGuard", None);
    stage.story.done("first ping", "gw-a → gw-b", Some(first));
    if join_to_first_ping > GOAL {
        let took = ui::span(join_to_first_ping);
        return Err(Failure::expectation(format!(
            "join to first ping took {took}, the goal is 2.0 s"
        )));
    }
    Ok((pinger, join_to_first_ping))
}

fn talk(
    stage: &mut Stage<'_>,
    [a, b]: [&Gateway; 2],
    mut pinger: Pinger,
    join_to_first_ping: Duration,
    chip: Option<chip::Told>,
) -> Result<Told> {
    let path = table(stage, a, b)?;
    let pings = if stage.options.once {
        five(stage.story, &mut pinger)?
    } else {
        let hint = chip.as_ref().map(|chip| chip.hint(a));
        live(stage, a, &mut pinger, &path, hint)?
    };
    if pings.received() == 0 {
        return Err(silent(b.name()));
    }
    Ok(Told { join_to_first_ping, pings, path, chip })
}

fn silent(name: &str) -> Failure {
    Failure::expectation(format!("{name} did not answer through the tunnel"))
}

fn table(stage: &mut Stage<'_>, a: &Gateway, b: &Gateway) -> Result<String> {
    let story = &mut *stage.story;
    story.line("");
    story.line(&row(["NAME", "ADDRESS", "PATH TO THE OTHER", "HANDSHAKE", "RTT"]));
    let mut kinds = Vec::new();
    for (own, other) in [(a, b), (b, a)] {
        let peer = own.peer(other.name())?;
        let kind = text(&peer, "/path/kind")?;
        let remote = peer.pointer("/path/remote").and_then(Value::as_str).unwrap_or("–");
        let handshake = peer["last_handshake"].as_str().and_then(wall::age_of);
        let handshake = handshake.map_or_else(|| "–".to_owned(), ui::age);
        let rtt = ui::span(own.ping(other.name())?);
        let address = own.addresses.ipv4.to_string();
        let path = format!("{kind} {remote}");
        story.line(&row([own.name(), &address, &path, &handshake, &rtt]));
        kinds.push(kind);
    }
    story.line("");
    if kinds.iter().any(|kind| kind != "direct") {
        let found = kinds.join(" and ");
        return Err(Failure::expectation(format!("the paths are {found}, not direct")));
    }
    Ok(kinds.swap_remove(0))
}

fn row([name, address, path, handshake, rtt]: [&str; 5]) -> String {
    format!("  {name:<6} {address:<12} {path:<28} {handshake:<12} {rtt}")
}

fn five(story: &mut Story, pinger: &mut Pinger) -> Result<Pings> {
    let mut pings = Pings::default();
    let mut line = "  gw-a → gw-b ".to_owned();
    for number in 1..=PINGS {
        let answer = pinger.ping(LIMIT).during("send an echo request")?;
        let time = answer.map_or_else(|| "lost".to_owned(), ui::span);
        line.push_str(&format!("  #{number} {time}"));
        pings.add(answer);
    }
    story.line(&line);
    if pings.lost() > 0 {
        return Err(Failure::expectation(format!(
            "{} of {PINGS} echo requests got no answer",
            pings.lost()
        )));
    }
    Ok(pings)
}

/// One request a second until Ctrl-C, which is the normal end here.
fn live(
    stage: &mut Stage<'_>,
    a: &Gateway,
    pinger: &mut Pinger,
    path: &str,
    page: Option<String>,
) -> Result<Pings> {
    let weft = program("weft")?;
    let socket = a.socket();
    let inside = format!("{} --socket {} status", weft.display(), socket.display());
    stage.story.line(&format!("  look inside  {inside}"));
    if let Some(page) = page {
        stage.story.line(&format!("  the page     {page}"));
    }
    stage.story.line("");
    let mut pings = Pings::default();
    while !signal::asked_to_stop() {
        let began = clock::now();
        // An interrupted wait is the Ctrl-C that ends the loop.
        let answer = pinger.ping(LIMIT).unwrap_or(None);
        if signal::asked_to_stop() && answer.is_none() {
            break;
        }
        pings.add(answer);
        let time = answer.map_or_else(|| "lost".to_owned(), ui::span);
        stage.story.redraw(&format!(
            "  {}  gw-a → gw-b  #{}  {time}  {path}   lost {}   {}",
            wall::time_of_day(),
            pings.sent,
            pings.lost(),
            Story::dim("(Ctrl-C stops and cleans up)"),
        ));
        signal::rest(LIMIT.saturating_sub(began.elapsed()));
    }
    signal::forget();
    stage.story.line("");
    judge(&pings)?;
    Ok(pings)
}

/// Answers may be lost on the way once in a while; a tunnel that works loses
/// fewer than one in twenty.
fn judge(pings: &Pings) -> Result<()> {
    let (sent, received) = (pings.sent, pings.received());
    if pings.lost() * 20 > sent {
        return Err(Failure::expectation(format!("{received} of {sent} answered")));
    }
    Ok(())
}

fn summarise(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    gateways: &[Gateway],
    told: Told,
    wire: Option<Duration>,
) -> Result<Value> {
    let Told { join_to_first_ping, pings, path, chip } = told;
    let median = pings.median().unwrap_or_default();
    let memory = rss_kib(&coordinator.process)?;
    let each = gateways.iter().map(Gateway::rss_kib).collect::<Result<Vec<u64>>>()?;
    let largest = each.iter().max().copied().unwrap_or_default();
    let story = &mut *stage.story;
    story.line("");
    story.verdict(&format!(
        "it works: {} of {} answered, {path}, median {} (the wire alone: {})",
        pings.received(),
        pings.sent,
        ui::span(median),
        wire.map_or_else(|| "–".to_owned(), ui::span),
    ));
    story.line(&format!(
        "  join to first ping   {:.2} s          goal {:.1} s",
        join_to_first_ping.as_secs_f64(),
        GOAL.as_secs_f64()
    ));
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1_024.0);
    story.line(&format!(
        "  memory               coordinator {}, weft {} each",
        mib(memory),
        mib(largest)
    ));
    if let Some(chip) = &chip {
        story.line(&format!("  chip                 {}", chip.summary()));
    }
    stage.closing = vec![
        "next:  make demo              same, stays up with a live ping".to_owned(),
        format!("       {:<22} every scenario", "target/release/weft-lab list"),
    ];
    let told = chip.as_ref().map(chip::Told::document);
    chip.map_or(Ok(()), chip::Told::end)?;
    Ok(json!({
        "ping_loss_pct": pings.loss_json(),
        "join_to_first_ping_ms": join_to_first_ping.as_millis() as u64,
        "rtt_us": median.as_micros() as u64,
        "path": path,
        "coordinator_rss_kib": memory,
        "weft_rss_kib": largest,
        "chip": told,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_that_loses_much_does_not_work() {
        let pings = |sent: u32, received: usize| {
            judge(&Pings { sent, times: vec![LIMIT; received] }).is_ok()
        };
        assert!(pings(0, 0) && pings(100, 100) && pings(100, 95));
        assert!(!pings(100, 94) && !pings(100, 1) && !pings(5, 4));
    }
}
