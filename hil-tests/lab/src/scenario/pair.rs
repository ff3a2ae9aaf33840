//! Two gateways: how soon they talk, and how well. Once on an internet with
//! both families, once on one that has IPv6 alone.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet};
use crate::measure::{Pings, median, pings, tcp_mbps};
use crate::mesh::{Coordinator, Gateway, Starting};
use crate::net::echo::Pinger;
use crate::ui;

/// From `weft join` to the first echo reply, at worst.
const GOAL: Duration = Duration::from_millis(2_000);
/// How often the second gateway joins anew.
const JOINS: usize = 5;
/// Between two echo requests while nothing answers yet: the resolution of the
/// figure.
const STEP: Duration = Duration::from_millis(5);
/// Echo requests per family once the tunnel stands.
const PINGS: u32 = 100;
const TCP: Duration = Duration::from_secs(3);

/// What one internet gave.
struct Figures {
    joins: Vec<Duration>,
    pings: [Pings; 2],
    mbps: [f64; 2],
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let both = on_internet(stage, "", Families::Both)?;
    let six = on_internet(stage, "6", Families::Ipv6)?;
    let millis = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
    let worst = both.joins.iter().chain(&six.joins).max().copied().unwrap_or(Duration::MAX);
    let middle =
        |figures: &Figures| median(&figures.joins).map_or(Value::Null, |time| millis(time).into());
    let all =
        |figures: &Figures| figures.joins.iter().map(|time| millis(*time)).collect::<Vec<_>>();
    let document = json!({
        "ping_loss_pct": both.pings[0].loss_json(),
        "join_to_first_ping_ms": middle(&both),
        "tcp_mbps": both.mbps[0].round(),
        "join_to_first_ping_worst_ms": millis(worst),
        "join_to_first_ping_all_ms": all(&both),
        "rtt_us": both.pings[0].median().map(|time| time.as_micros() as u64),
        "ipv6": {
            "ping_loss_pct": both.pings[1].loss_json(),
            "tcp_mbps": both.mbps[1].round(),
        },
        "ipv6_only_internet": {
            "ping_loss_pct": six.pings[0].loss_json(),
            "ping_loss_pct_ipv6": six.pings[1].loss_json(),
            "join_to_first_ping_ms": middle(&six),
            "join_to_first_ping_all_ms": all(&six),
            "tcp_mbps": six.mbps[0].round(),
        },
    });
    judge(&[&both, &six], worst)?;
    Ok(document)
}

fn judge(figures: &[&Figures], worst: Duration) -> Result<()> {
    let lost: u32 = figures.iter().flat_map(|figures| &figures.pings).map(Pings::lost).sum();
    if lost > 0 {
        return Err(Failure::expectation(format!("{lost} of the echo requests got no answer")));
    }
    if worst > GOAL {
        return Err(Failure::expectation(format!(
            "the worst join to first ping took {}, the goal is {}",
            ui::span(worst),
            ui::span(GOAL)
        )));
    }
    Ok(())
}

fn on_internet(stage: &mut Stage<'_>, suffix: &str, families: Families) -> Result<Figures> {
    let names = ["coord", "gw-a", "gw-b"].map(|name| format!("{name}{suffix}"));
    let numbers = [10, 21, 22];
    let hosts: Vec<(&str, u8)> = names.iter().map(String::as_str).zip(numbers).collect();
    let core = format!("core{suffix}");
    let internet = Internet::build(stage.run, &core, &hosts, &[], families)?;
    stage.story.done("internet", families.words(), None);
    let [coord, gw_a, gw_b] = [&names[0], &names[1], &names[2]].map(|name| internet.host(name));
    let (coord, gw_a, gw_b) = (coord?, gw_a?, gw_b?);
    let coordinator = Coordinator::start(stage.run, coord, coord.address(families))?;
    let key = coordinator.join_string("pair", 2 * JOINS as u32)?;
    stage.story.done("coordinator", &coordinator.fingerprint, None);
    let a = Gateway::join(stage.run, gw_a, &key, "")?;
    stage.story.done(&gw_a.name, &a.addresses.ipv4.to_string(), None);
    let measured = measure(stage, &a, gw_b, &key);
    stage.processes.extend([coordinator.process, a.process]);
    measured
}

fn measure(stage: &mut Stage<'_>, a: &Gateway, gw_b: &Host, key: &str) -> Result<Figures> {
    let mut joins = Vec::new();
    let b = loop {
        let (b, took) = join_and_ping(stage, gw_b, key, a.addresses.ipv4)?;
        joins.push(took);
        let text = format!("{} joined, first answer over the overlay", gw_b.name);
        stage.story.done(&format!("join {} of {JOINS}", joins.len()), &text, Some(took));
        if joins.len() == JOINS {
            break b;
        }
        b.leave()?;
    };
    let result = figures(stage, a, &b, joins);
    stage.processes.push(b.process);
    result
}

/// The second gateway joins; the time from exec of `weft join` to the first
/// answer, while the requests started before it.
fn join_and_ping(
    stage: &mut Stage<'_>,
    gw_b: &Host,
    key: &str,
    target: IpAddr,
) -> Result<(Gateway, Duration)> {
    let mut pinger = Pinger::open(gw_b.namespace(), target).during("open a socket")?;
    let began: Instant = clock::now();
    let starting = Starting::join(stage.run, gw_b, key, "")?;
    let first = pinger.first_answer(STEP, began + 5 * GOAL);
    let gateway = starting.ready()?;
    match first {
        Some(first) => Ok((gateway, first - began)),
        None => {
            stage.processes.push(gateway.process);
            Err(Failure::expectation(format!(
                "{} got no answer from {target} within {} of its join",
                gw_b.name,
                ui::span(5 * GOAL)
            )))
        }
    }
}

fn figures(
    stage: &mut Stage<'_>,
    a: &Gateway,
    b: &Gateway,
    joins: Vec<Duration>,
) -> Result<Figures> {
    let mut measured = Vec::new();
    for target in [a.addresses.ipv4, a.addresses.ipv6] {
        let answers = pings(b.namespace(), target, PINGS, Duration::from_secs(1))?;
        let text = format!("{target}, {} of {}", answers.received(), answers.sent);
        stage.story.done("ping", &text, answers.median());
        let mbps = tcp_mbps(b.namespace(), a.namespace(), target, TCP)?;
        stage.story.done("tcp", &format!("one stream {mbps:.0} Mbit/s"), None);
        measured.push((answers, mbps));
    }
    let mut measured = measured.into_iter();
    let (Some(four), Some(six)) = (measured.next(), measured.next()) else {
        return Err(Failure::new("lab.internal", "two families were measured"));
    };
    Ok(Figures { joins, pings: [four.0, six.0], mbps: [four.1, six.1] })
}
