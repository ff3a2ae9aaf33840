//! The direct path of two gateways is cut under load, again and again: how long
//! nothing comes through, and when packets go the direct way again after it heals.
//! Then the relay dies that carries them while the direct path is cut: its program
//! is killed, and its host refuses what comes; or the host is gone with it.
//!
//! A cut is silent: frames between the two sites vanish on the wire, and everybody
//! else is reached as before.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::echoes::Echoes;
use crate::failure::{Failure, Result};
use crate::internet::{Families, Internet, Plan};
use crate::load::Load;
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, PORT};
use crate::nat::Kind;
use crate::process::find_program;
use crate::relay::Relay;
use crate::sight::{Cause, Known};
use crate::site::{SitePlan, UPLINK};
use crate::ui;
use crate::wall;
use crate::watch::Watch;

/// 50 packets a second.
const PACE: Duration = Duration::from_millis(20);
/// Without an answer, at the 95th percentile.
const GOAL: Duration = Duration::from_millis(4_000);
/// It is measured how long it takes, up to this.
const PATIENCE: Duration = Duration::from_secs(60);
/// The direct way is looked for after 15 s, then after a minute.
const DIRECT_PATIENCE: Duration = Duration::from_secs(180);
/// So long a way is used before it is cut.
const SETTLED: Duration = Duration::from_secs(2);
/// How long it is watched on after packets came through again.
const AFTER: Duration = Duration::from_secs(1);
const UNDER_WAY: Duration = Duration::from_millis(500);
/// A session is replaced after two minutes: no cut near that, which would look like
/// a rekey that it has caused.
const SESSION: Duration = Duration::from_secs(100);
const SITES: [(&str, u8); 2] = [("gw-a", 30), ("gw-b", 60)];
const RELAYS: [(&str, u8); 2] = [("relay-1", 11), ("relay-2", 12)];

/// How a relay dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its program: the host says that nobody listens there.
    Killed,
    /// With its host: nobody says anything.
    Gone,
}

impl Death {
    const ALL: [Self; 2] = [Self::Killed, Self::Gone];

    const fn name(self) -> &'static str {
        match self {
            Self::Killed => "relay_killed",
            Self::Gone => "relay_gone",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Killed => "the relay is killed",
            Self::Gone => "the relay's host is gone",
        }
    }
}

/// What one fault gave.
struct Fault {
    gap: Duration,
    rekeyed: bool,
}

struct Lab<'a> {
    internet: &'a Internet,
    gateways: [&'a Gateway; 2],
    watches: [Watch; 2],
    echoes: Echoes,
    load: Load,
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let sites = SITES.map(|(name, number)| SitePlan {
        name: name.to_owned(),
        ..SitePlan::new(Kind::Prc, number)
    });
    let plan = Plan {
        hosts: &[("coord", 10), RELAYS[0], RELAYS[1]],
        sites: &sites,
        ..Plan::new("core", Families::Ipv4)
    };
    let internet = Internet::of(stage.run, &plan)?;
    stage.story.done("internet", "two sites, two relays", None);
    let mut relays = Vec::new();
    for (name, _) in RELAYS {
        let host = internet.host(name)?;
        relays.push(Relay::start(stage.run, host, &[host.ipv4()])?);
    }
    let sections: String = relays.iter().map(|relay| relay.section.as_str()).collect();
    let host = internet.host("coord")?;
    let coordinator = Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), &sections)?;
    let key = coordinator.join_string("failover", 2)?;
    let join = |stage: &mut Stage<'_>, (name, _): (&str, u8)| {
        Gateway::join(stage.run, internet.site(name)?.host(), &key, "")
    };
    let (a, b) = (join(stage, SITES[0])?, join(stage, SITES[1])?);
    let told = tell(stage, &internet, &mut relays, [&a, &b]);
    stage.processes.extend(relays.into_iter().map(|relay| relay.process));
    stage.processes.extend([coordinator.process, a.process, b.process]);
    told
}

fn tell(
    stage: &mut Stage<'_>,
    internet: &Internet,
    relays: &mut [Relay],
    gateways: [&Gateway; 2],
) -> Result<Value> {
    let known = Known {
        coordinator: vec![(internet.host("coord")?.ipv4(), PORT).into()],
        relays: RELAYS
            .iter()
            .map(|(name, _)| Ok(internet.host(name)?.ipv4()))
            .collect::<Result<_>>()?,
    };
    let [a, b] = gateways;
    let watch = |gateway: &Gateway| Watch::start(gateway.namespace(), &[UPLINK], &known);
    let lab = Lab {
        internet,
        gateways,
        watches: [watch(a)?, watch(b)?],
        echoes: Echoes::start(a.namespace(), b.namespace(), b.addresses.ipv4, PACE)?,
        load: Load::start(a.namespace(), b.namespace(), b.addresses.ipv4)?,
    };
    let (cuts, deaths) = if stage.options.short { (2, 1) } else { (20, 5) };
    let (mut faults, mut again) = (Vec::new(), Vec::new());
    for cut in 1..=cuts {
        lab.settle()?;
        let fault = lab.fault("the direct path is cut", || lab.cut(true))?;
        lab.relayed()?;
        let back = lab.heal()?;
        let words =
            format!("a gap of {}, direct again after {}", ui::span(fault.gap), ui::span(back));
        stage.story.done(&format!("cut {cut} of {cuts}"), &words, None);
        faults.push(fault);
        again.push(back);
    }
    let mut dead = Vec::new();
    for death in Death::ALL {
        let mut faults = Vec::new();
        for number in 1..=deaths {
            let (fault, back) = lab.lose_relay(death, relays)?;
            let (gap, back_after) = (ui::span(fault.gap), ui::span(back));
            let words =
                format!("{}: a gap of {gap}, direct again after {back_after}", death.words());
            stage.story.done(&format!("relay {number} of {deaths}"), &words, None);
            faults.push(fault);
            again.push(back);
        }
        dead.push((death, faults));
    }
    let survived = lab.end()?;
    judge(&faults, &dead, &again, survived)
}

/// The figures of one kind of fault.
fn figures(faults: &[Fault]) -> Value {
    let gaps: Vec<Duration> = faults.iter().map(|fault| fault.gap).collect();
    json!({
        "gap_p95_ms": millis(&p95(&gaps)),
        "rekeyed": faults.iter().any(|fault| fault.rekeyed),
        "gaps_ms": gaps.iter().map(millis).collect::<Vec<_>>(),
    })
}

const fn millis(time: &Duration) -> u64 {
    time.as_millis() as u64
}

fn judge(
    cuts: &[Fault],
    dead: &[(Death, Vec<Fault>)],
    again: &[Duration],
    survived: bool,
) -> Result<Value> {
    let mut document = figures(cuts);
    document["tcp_survived"] = survived.into();
    document["direct_again_ms"] = json!(again.iter().max().map(millis));
    document["direct_again_all_ms"] = again.iter().map(millis).collect::<Vec<_>>().into();
    for (death, faults) in dead {
        document[death.name()] = figures(faults);
    }
    let mut missed = Vec::new();
    let dead = dead.iter().map(|(death, faults)| (death.words(), faults.as_slice()));
    for (what, faults) in core::iter::once(("the direct path is cut", cuts)).chain(dead) {
        let gap = p95(&faults.iter().map(|fault| fault.gap).collect::<Vec<_>>());
        if gap > GOAL {
            let (gap, goal) = (ui::span(gap), ui::span(GOAL));
            missed.push(format!("{what}: a gap of {gap}, the goal is {goal}"));
        }
        if faults.iter().any(|fault| fault.rekeyed) {
            missed.push(format!("{what}: that caused a rekey"));
        }
    }
    if !survived {
        missed.push("the TCP stream did not survive".to_owned());
    }
    if missed.is_empty() {
        return Ok(document);
    }
    Err(Failure::expectation(missed.join("; ")).line("measured", document.to_string()))
}

/// The 95th percentile, by the nearest rank.
fn p95(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * 95).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

impl Lab<'_> {
    fn cut(&self, cut: bool) -> Result<()> {
        self.internet.set_cut_between([SITES[0].0, SITES[1].0], cut)
    }

    /// When each gateway got the first packet straight from the other's site, since
    /// what was seen is forgotten; the later one.
    fn direct(&self) -> Result<Option<Instant>> {
        let mut later = None;
        for (watch, other) in self.watches.iter().zip([1, 0]) {
            let public = self.internet.site(SITES[other].0)?.public();
            let Some(seen) = watch.direct_from(public) else {
                return Ok(None);
            };
            later = later.max(Some(seen.first));
        }
        Ok(later)
    }

    /// Everything goes the direct way, without a loss, in a session that is young.
    fn settle(&self) -> Result<()> {
        let mut since = clock::now();
        self.watches.iter().for_each(Watch::forget);
        wait_until(DIRECT_PATIENCE, "packets go the direct way, without a loss", || {
            let relayed = self.watches.iter().any(|watch| carrier(watch, since).is_some());
            if relayed || self.direct()?.is_none() {
                since = clock::now();
                self.watches.iter().for_each(Watch::forget);
            }
            let settled = since.elapsed() > SETTLED && self.echoes.is_steady(SETTLED, UNDER_WAY);
            Ok(settled && self.age()? < SESSION)
        })
        .map(drop)
    }

    /// Age of the session.
    fn age(&self) -> Result<Duration> {
        let [a, b] = self.gateways;
        let peer = a.peer(b.name())?;
        let age = peer["last_handshake"].as_str().and_then(wall::age_of);
        age.ok_or_else(|| Failure::expectation("a tunnel under load has no handshake"))
    }

    /// Makes a fault and waits until packets come through again.
    fn fault(&self, what: &str, make: impl FnOnce() -> Result<()>) -> Result<Fault> {
        let (asked, age, had) = (clock::now(), self.age()?, self.load.received());
        self.watches.iter().for_each(Watch::forget);
        let began = clock::now();
        make()?;
        // What was under way is answered.
        let after = clock::now() + UNDER_WAY;
        let what = format!("packets come through after {what}");
        wait_until(PATIENCE, &what, || {
            let came = self.echoes.first_after(after);
            Ok(came.is_some_and(|came| came.elapsed() > AFTER))
        })?;
        wait_until(PATIENCE, "the stream goes on", || Ok(self.load.received() > had))?;
        let gap = self.echoes.longest_gap(began, clock::now());
        let rekeyed = self.age()? + Duration::from_secs(1) < age + asked.elapsed();
        Ok(Fault { gap, rekeyed })
    }

    /// The direct path is cut, and then the relay dies that carries the packets. It
    /// is there again before the path is.
    fn lose_relay(&self, death: Death, relays: &mut [Relay]) -> Result<(Fault, Duration)> {
        self.both_relays()?;
        self.settle()?;
        self.fault("the direct path is cut", || self.cut(true))?;
        let carrier = self.relayed()?;
        let found = relays.iter_mut().zip(RELAYS).find(|(relay, _)| relay.address == carrier);
        let (relay, (name, _)) =
            found.ok_or_else(|| Failure::new("lab.internal", format!("no relay at {carrier}")))?;
        let fault = self.fault(death.words(), || match death {
            Death::Killed => relay.process.kill(),
            Death::Gone => self.internet.set_cut(name, true),
        })?;
        match death {
            Death::Killed => relay.restart()?,
            Death::Gone => self.internet.set_cut(name, false)?,
        }
        Ok((fault, self.heal()?))
    }

    /// Both gateways are told of both relays: the one that died is there again.
    fn both_relays(&self) -> Result<()> {
        let knows = |gateway: &Gateway| {
            let status = gateway.status()?;
            Ok(status["relays"].as_array().is_some_and(|all| all.len() == RELAYS.len()))
        };
        let [a, b] = self.gateways;
        wait_until(PATIENCE, "both gateways know both relays", || Ok(knows(a)? && knows(b)?))
            .map(drop)
    }

    /// Which relay carries everything now.
    fn relayed(&self) -> Result<IpAddr> {
        let [a, b] = &self.watches;
        let since = clock::now().checked_sub(UNDER_WAY).unwrap_or_else(clock::now);
        // One side may send plain datagrams to where the other has its allocation.
        let found = carrier(a, since).or_else(|| carrier(b, since));
        found.ok_or_else(|| Failure::expectation("the direct path is cut, and no relay is used"))
    }

    /// The direct path is there again: how long until everything goes that way, and
    /// nothing over a relay. Copies may go both ways before.
    fn heal(&self) -> Result<Duration> {
        self.cut(false)?;
        self.watches.iter().for_each(Watch::forget);
        let began = clock::now();
        let relayed = || {
            let of = |watch: &Watch| watch.tally(|kind| kind.0 == Cause::Relay && !kind.2);
            self.watches.iter().filter_map(of).map(|tally| tally.last).max()
        };
        wait_until(DIRECT_PATIENCE, "packets go the direct way again, and no other", || {
            let quiet = relayed().unwrap_or(began).elapsed() > AFTER;
            Ok(quiet && self.direct()?.is_some() && self.echoes.is_steady(AFTER, UNDER_WAY))
        })?;
        let direct = self.direct()?.ok_or_else(|| Failure::new("lab.internal", "it is gone"))?;
        Ok(direct.max(relayed().unwrap_or(direct)).saturating_duration_since(began))
    }

    /// Whether the stream has survived.
    fn end(self) -> Result<bool> {
        self.echoes.end()?;
        self.watches.into_iter().try_for_each(Watch::end)?;
        self.load.end()
    }
}

/// The relay that brought the most lately, if any did.
fn carrier(watch: &Watch, since: Instant) -> Option<IpAddr> {
    let of = |far: &IpAddr| watch.tally(|kind| *kind == (Cause::Relay, *far, false));
    let lately = |far: &IpAddr| of(far).filter(|tally| tally.last >= since && tally.packets > 5);
    let all = watch.partners(Cause::Relay);
    all.into_iter().filter(|far| lately(far).is_some()).max_by_key(|far| of(far).map(|t| t.packets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_twenty_the_second_longest_is_the_95th_percentile() {
        let times: Vec<_> = (1..=20).map(Duration::from_secs).collect();
        assert_eq!(p95(&times), Duration::from_secs(19));
        assert_eq!(p95(&times[..2]), Duration::from_secs(2));
        assert_eq!(p95(&[]), Duration::ZERO);
    }
}
