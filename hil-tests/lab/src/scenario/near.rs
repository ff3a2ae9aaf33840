//! Two gateways that are nearer than the internet: on one LAN, and on one behind a
//! router that turns packets around; then behind two routers each; then behind
//! routers that forget a flow after 20 s, who talk, rest, and talk again.
//!
//! The way is what passes the uplinks: a pair on one LAN talks straight from host to
//! host, whatever its router does.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::echoes::Echoes;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet, Plan};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, PORT, Starting};
use crate::nat::Kind;
use crate::net::signal;
use crate::process::find_program;
use crate::relay::Relay;
use crate::sight::{Cause, Known};
use crate::site::{SitePlan, UPLINK};
use crate::ui::span;
use crate::watch::Watch;

/// 50 packets a second.
const PACE: Duration = Duration::from_millis(20);
/// Of the first packet on any way, from its sending to its answer.
const FIRST_GOAL: Duration = Duration::from_millis(300);
/// Of the first packet that goes straight.
const LAN_GOAL: Duration = Duration::from_millis(200);
const DOUBLE_GOAL: Duration = Duration::from_millis(300);
/// A way that was forgotten: it is found out after two seconds.
const AGAIN_GOAL: Duration = Duration::from_millis(3_000);
/// It is measured how long it takes, up to this.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a pair talks.
const TALK: Duration = Duration::from_secs(5);
/// Life of a flow behind a router that forgets, and a rest that is longer.
const BINDING: Duration = Duration::from_secs(20);
const REST: Duration = Duration::from_secs(26);
/// Answers that were under way when a pair falls silent.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// The coordinator forwards one call of a pair in 5 s, and joining makes some.
const BETWEEN_CALLS: Duration = Duration::from_secs(6);

/// Nobody may talk, or everybody.
const NOTHING: &str = "";
const EVERYTHING: &str = "[[rule]]\nfrom = \"any\"\nto = \"any\"\nallow = \"any\"\n";

/// Two hosts, each with the site that it is at and its place there.
struct Pair {
    name: &'static str,
    hosts: [(&'static str, usize); 2],
    /// Both are on one LAN.
    lan: bool,
    /// Goal for the first packet that goes straight.
    goal: Duration,
    /// They rest, and talk again.
    rests: bool,
}

const PAIRS: [Pair; 4] = [
    Pair { name: "lan", hosts: [("lan", 0), ("lan", 1)], lan: true, goal: LAN_GOAL, rests: false },
    Pair {
        name: "double",
        hosts: [("double-a", 0), ("double-b", 0)],
        lan: false,
        goal: DOUBLE_GOAL,
        rests: false,
    },
    Pair {
        name: "forgetful",
        hosts: [("forgets-a", 0), ("forgets-b", 0)],
        lan: false,
        goal: DOUBLE_GOAL,
        rests: true,
    },
    Pair {
        name: "lan-hairpin",
        hosts: [("hairpin", 0), ("hairpin", 1)],
        lan: true,
        goal: LAN_GOAL,
        rests: false,
    },
];

fn sites() -> [SitePlan; 6] {
    let site = |name: &str, kind, number, hosts, binding| SitePlan {
        name: name.to_owned(),
        hosts,
        binding,
        ..SitePlan::new(kind, number)
    };
    [
        site("lan", Kind::Prc, 30, 2, None),
        site("hairpin", Kind::PrcHairpin, 31, 2, None),
        site("double-a", Kind::Double, 32, 1, None),
        site("double-b", Kind::Double, 33, 1, None),
        site("forgets-a", Kind::Prc, 34, 1, Some(BINDING)),
        site("forgets-b", Kind::Prc, 35, 1, Some(BINDING)),
    ]
}

/// A gateway, its uplink, and where the other one's packets come from if nobody
/// carries them.
struct Side {
    gateway: Gateway,
    watch: Watch,
    other: IpAddr,
}

/// What a pair took, from its first packet on.
struct Times {
    first: Duration,
    direct: Duration,
    /// From the first packet after the rest to its answer.
    again: Option<Duration>,
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let sites = sites();
    let plan = Plan {
        hosts: &[("coord", 10), ("relay", 11)],
        sites: &sites,
        ..Plan::new("core", Families::Ipv4)
    };
    let internet = Internet::of(stage.run, &plan)?;
    stage.story.done("internet", "one LAN, one with hairpin, two routers, short memories", None);
    let (host, relay) = (internet.host("coord")?, internet.host("relay")?);
    let relay = Relay::start(stage.run, relay, &[relay.ipv4()])?;
    let coordinator =
        Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), &relay.section)?;
    let known = Known {
        coordinator: vec![(host.ipv4(), PORT).into()],
        relays: vec![internet.host("relay")?.ipv4()],
    };
    let key = coordinator.join_string("near", 2 * PAIRS.len() as u32)?;
    let sides = join(stage, &internet, &key, &known)?;
    let told = settle(stage, &coordinator, &sides).and_then(|()| tell(stage, &sides));
    stage.processes.extend([relay.process, coordinator.process]);
    stage.processes.extend(sides.into_iter().flatten().map(|side| side.gateway.process));
    told
}

/// All gateways, at once.
fn join(
    stage: &Stage<'_>,
    internet: &Internet,
    key: &str,
    known: &Known,
) -> Result<Vec<[Side; 2]>> {
    let place = |(site, place): (&str, usize)| -> Result<&Host> {
        let found = internet.site(site)?.hosts.get(place);
        found.ok_or_else(|| Failure::new("lab.internal", format!("{site} has no host {place}")))
    };
    let start = |pair: &Pair| -> Result<[Starting; 2]> {
        let [a, b] = pair.hosts.map(|host| Starting::join(stage.run, place(host)?, key, ""));
        Ok([a?, b?])
    };
    let starting = PAIRS.iter().map(start).collect::<Result<Vec<_>>>()?;
    let side = |starting: Starting, pair: &Pair, other: (&str, usize)| -> Result<Side> {
        let gateway = starting.ready()?;
        let watch = Watch::start(gateway.namespace(), &[UPLINK], known)?;
        let public = internet.site(other.0)?.public().into();
        let other = if pair.lan { place(other)?.ipv4() } else { public };
        Ok(Side { gateway, watch, other })
    };
    let both = |([a, b], pair): ([Starting; 2], &Pair)| {
        Ok([side(a, pair, pair.hosts[1])?, side(b, pair, pair.hosts[0])?])
    };
    starting.into_iter().zip(&PAIRS).map(both).collect()
}

/// What joining brought is taken down: peers go, and come back idle.
fn settle(stage: &Stage<'_>, coordinator: &Coordinator, sides: &[[Side; 2]]) -> Result<()> {
    let gateways = || sides.iter().flatten().map(|side| &side.gateway);
    for (text, peers) in [(NOTHING, 0), (EVERYTHING, gateways().count() - 1)] {
        let file = stage.run.folder().join("policy.toml");
        fs::write(&file, text).during("write a policy")?;
        coordinator.command("policy", &["policy", "set", &file.display().to_string()])?;
        for gateway in gateways() {
            let what = format!("{} holds the new policy", gateway.name());
            wait_until(PATIENCE, &what, || {
                Ok(gateway.status()?["peers"].as_array().map_or(0, Vec::len) == peers)
            })?;
        }
    }
    rest(BETWEEN_CALLS);
    Ok(())
}

/// Nothing is done for so long, unless the laboratory is to stop.
fn rest(time: Duration) {
    let began = clock::now();
    while began.elapsed() < time && !signal::asked_to_stop() {
        signal::rest(time.saturating_sub(began.elapsed()));
    }
}

fn tell(stage: &mut Stage<'_>, sides: &[[Side; 2]]) -> Result<Value> {
    let mut document = json!({});
    let mut missed = Vec::new();
    for (pair, [a, b]) in PAIRS.iter().zip(sides) {
        if pair.rests && stage.options.short {
            continue;
        }
        let times = measure(pair, a, b)?;
        let mut words =
            format!("answered after {}, straight after {}", span(times.first), span(times.direct));
        if let Some(again) = times.again {
            words.push_str(&format!(", after a rest of {} in {}", span(REST), span(again)));
        }
        stage.story.done(pair.name, &words, None);
        let goals = [
            ("its first answer", Some(times.first), FIRST_GOAL),
            ("its first straight packet", Some(times.direct), pair.goal),
            ("its first answer after a rest", times.again, AGAIN_GOAL),
        ];
        for (what, took, goal) in goals {
            if let Some(took) = took.filter(|took| *took > goal) {
                let (took, goal) = (span(took), span(goal));
                missed.push(format!("{} has {what} after {took}, the goal is {goal}", pair.name));
            }
        }
        let millis = |time: Duration| time.as_millis() as u64;
        document[pair.name] = json!({
            "first_ms": millis(times.first),
            "direct_ms": millis(times.direct),
            "again_ms": times.again.map(millis),
        });
    }
    if missed.is_empty() {
        return Ok(document);
    }
    Err(Failure::expectation(missed.join("; ")).line("measured", document.to_string()))
}

fn measure(pair: &Pair, a: &Side, b: &Side) -> Result<Times> {
    let talk = || {
        let (from, to) = (a.gateway.namespace(), b.gateway.namespace());
        Echoes::start(from, to, b.gateway.addresses.ipv4, PACE)
    };
    a.watch.forget();
    b.watch.forget();
    let began = clock::now();
    let echoes = talk()?;
    let first = first_answer(pair, &echoes, began)?;
    let what = format!("packets of {} go straight", pair.name);
    wait_until(PATIENCE, &what, || Ok(a.straight().is_some() && b.straight().is_some()))?;
    let later = a.straight().max(b.straight());
    let direct = later.map_or(PATIENCE, |at| at.saturating_duration_since(began));
    rest(TALK);
    if !echoes.is_steady(TALK / 2, UNDER_WAY) {
        let (sent, answered) = echoes.counts();
        let gap = span(echoes.longest_gap(began + first, clock::now()));
        return Err(Failure::expectation(format!(
            "{} got {answered} answers to {sent} packets, the longest gap was {gap}",
            pair.name
        )));
    }
    echoes.end()?;
    let mut again = None;
    if pair.rests {
        rest(REST);
        let began = clock::now();
        let echoes = talk()?;
        again = Some(first_answer(pair, &echoes, began)?);
        echoes.end()?;
    }
    Ok(Times { first, direct, again })
}

fn first_answer(pair: &Pair, echoes: &Echoes, began: Instant) -> Result<Duration> {
    let what = format!("{} gets an answer", pair.name);
    wait_until(PATIENCE, &what, || Ok(echoes.first_after(began).is_some()))?;
    let at = echoes.first_after(began);
    Ok(at.map_or(PATIENCE, |at| at.saturating_duration_since(began)))
}

impl Side {
    /// When the first packet of the overlay came straight from the other one.
    fn straight(&self) -> Option<Instant> {
        let wanted = (Cause::Payload, self.other, false);
        self.watch.tally(|kind| *kind == wanted).map(|tally| tally.first)
    }
}
