//! Networks that let one carrier through: the pair joins by it, talks, and
//! hears of a new policy. Every connection that was turned away is a way that
//! the agents tried first.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, PORT, Starting, Variables, text};
use crate::net::door::{Behind, Door, Shut};
use crate::net::echo::Pinger;
use crate::ui;

/// Between two echo requests while nothing answers yet.
const STEP: Duration = Duration::from_millis(5);
/// From exec of `weft join` to the first answer, at worst: three ways that
/// swallow everything cost four seconds each.
const LIMIT: Duration = Duration::from_secs(25);
/// From exec of `policy set` until both gateways hold it.
const TOLD: Duration = Duration::from_secs(5);
/// From exec of a restarted daemon to the coordinator's answer.
const AGAIN: Duration = Duration::from_secs(3);
/// Carriers and the port at which each is offered.
const WAYS: [(&str, u16, Behind); 4] = [
    ("mqtt", 7420, Behind::Wire),
    ("mqtts", 8883, Behind::Wire),
    ("wss", 443, Behind::Wire),
    ("https", 8443, Behind::Proxy),
];

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), ("gw-a", 21), ("gw-b", 22), ("door", 30)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, door, gw-a, gw-b", None);
    let (coord, door) = (internet.host("coord")?, internet.host("door")?);
    let offered = |(scheme, port, _): &(&str, u16, Behind)| {
        format!("{scheme}://{}", SocketAddr::new(door.ipv4(), *port))
    };
    let offered: Vec<String> = WAYS.iter().map(offered).collect();
    let variables: Variables = vec![("WEFT_COORDINATOR_ADDRESSES", offered.join(",").into())];
    let mut coordinator = Coordinator::start_in(stage.run, coord, coord.ipv4(), variables.clone())?;
    let shut = if stage.options.short { Shut::Refuse } else { Shut::Swallow };
    let ports: Vec<(u16, Behind)> = WAYS.iter().map(|(_, port, behind)| (*port, *behind)).collect();
    let onward = SocketAddr::new(coord.ipv4(), PORT);
    let opened = Door::start(door.namespace(), door.ipv4(), &ports, onward, shut);
    let told = opened.during("open the door").and_then(|door| {
        let mut document = Map::new();
        for (scheme, port, behind) in WAYS {
            if behind == Behind::Proxy {
                // Such a proxy shows a key of its own.
                let pin = ("WEFT_COORDINATOR_TLS_PIN", "no".into());
                let variables = variables.iter().cloned().chain([pin]).collect();
                coordinator.process.kill()?;
                coordinator.restart_in(variables)?;
            }
            door.let_through(port);
            let before = door.turned_away();
            let (joined, told, again) = pair(stage, &coordinator, &internet, scheme)?;
            let turned = door.turned_away() - before;
            let words = format!("joined and pinged; {turned} connections turned away before");
            stage.story.done(scheme, &words, Some(joined));
            stage.story.done(scheme, "a restarted gateway remembers it", Some(again));
            let millis = |time: Duration| Value::from(time.as_millis() as u64);
            document.insert(format!("{scheme}_ms"), millis(joined));
            document.insert(format!("{scheme}_policy_ms"), millis(told));
            document.insert(format!("{scheme}_restart_ms"), millis(again));
            document.insert(format!("{scheme}_turned_away"), turned.into());
        }
        Ok(document)
    });
    stage.processes.push(coordinator.process);
    let mut document = told?;
    let others = if shut == Shut::Swallow { "swallowed" } else { "refused" };
    document.insert("others".to_owned(), others.into());
    Ok(Value::Object(document))
}

/// Two gateways join by one carrier; from exec of the second's join to its first
/// answer, from exec of `policy set` until both hold the new map, and from exec of
/// a restarted daemon until the coordinator answers it.
fn pair(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    internet: &Internet,
    scheme: &str,
) -> Result<(Duration, Duration, Duration)> {
    let key = coordinator.join_string(scheme, 2)?;
    let a = Gateway::join(stage.run, internet.host("gw-a")?, &key, "")?;
    let (mut b, joined) = join_and_ping(stage, internet.host("gw-b")?, &key, a.addresses.ipv4)?;
    let told = hear(stage, coordinator, [&a, &b], scheme);
    match told.and_then(|told| Ok((told, again(&mut b)?))) {
        Ok((told, again)) => {
            b.leave()?;
            a.leave()?;
            Ok((joined, told, again))
        }
        Err(failure) => {
            stage.processes.extend([a.process, b.process]);
            Err(failure)
        }
    }
}

/// A restarted gateway knows which way stood here: ways that swallow what they
/// are sent do not hold it up.
fn again(gateway: &mut Gateway) -> Result<Duration> {
    gateway.process.kill()?;
    let began = clock::now();
    gateway.up()?;
    let online = |line: &str| line.contains("control.online").then(clock::now);
    let what = "that the coordinator answers";
    let took = gateway.process.wait_for(0, LIMIT, what, online)? - began;
    if took <= AGAIN {
        return Ok(took);
    }
    let (name, took) = (gateway.name(), ui::span(took));
    Err(Failure::expectation(format!("{name} had forgotten its way: {took}")))
}

fn join_and_ping(
    stage: &mut Stage<'_>,
    host: &Host,
    key: &str,
    target: IpAddr,
) -> Result<(Gateway, Duration)> {
    let mut pinger = Pinger::open(host.namespace(), target).during("open a socket")?;
    let began: Instant = clock::now();
    let starting = Starting::join(stage.run, host, key, "")?;
    let first = pinger.first_answer(STEP, began + LIMIT);
    let gateway = starting.ready()?;
    match first {
        Some(first) => Ok((gateway, first - began)),
        None => {
            stage.processes.push(gateway.process);
            let name = &host.name;
            Err(Failure::expectation(format!("{name} got no answer within {LIMIT:?}")))
        }
    }
}

fn hear(
    stage: &Stage<'_>,
    coordinator: &Coordinator,
    gateways: [&Gateway; 2],
    scheme: &str,
) -> Result<Duration> {
    for gateway in gateways {
        let carrier = text(&gateway.status()?, "/coordinator/carrier")?;
        if carrier != scheme {
            let name = gateway.name();
            return Err(Failure::expectation(format!("{name} came by {carrier}, not {scheme}")));
        }
    }
    let revision = |gateway: &Gateway| -> Result<u64> {
        Ok(gateway.status()?["coordinator"]["revision"].as_u64().unwrap_or(0))
    };
    let before = [revision(gateways[0])?, revision(gateways[1])?];
    let file = stage.run.folder().join("policy.toml");
    let policy = format!(
        "[[rule]]\nname = \"{scheme}\"\nfrom = \"any\"\nto = \"any\"\nallow = [\"icmp\", \"tcp/{}\"]\n",
        1_000 + scheme.len()
    );
    fs::write(&file, policy).during("write a policy")?;
    let file = file.display().to_string();
    let began = clock::now();
    coordinator.command("policy", &["policy", "set", &file])?;
    wait_until(TOLD, &format!("both hold the new policy over {scheme}"), || {
        Ok(revision(gateways[0])? > before[0] && revision(gateways[1])? > before[1])
    })?;
    let took = began.elapsed();
    gateways[1].ping(gateways[0].name())?;
    Ok(took)
}
