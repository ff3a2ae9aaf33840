//! Gateways that change networks under traffic, and a NAT box that starts anew: how
//! long nothing comes through, and when packets go the direct way again.
//!
//! Both sides are behind port-restricted NAT boxes, so a packet from a new address
//! is let in by nobody who was not told of it. A move is what a host does that
//! leaves one network and has an address in another: the first interface goes down
//! with its addresses, the second comes up.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::echoes::Echoes;
use crate::failure::{Failure, Result};
use crate::internet::{Families, Internet, Plan, ipv4};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, PORT};
use crate::nat::Kind;
use crate::process::find_program;
use crate::relay::Relay;
use crate::run::Run;
use crate::sight::Known;
use crate::site::{SECOND_UPLINK, Site, SitePlan, UPLINK};
use crate::ui;
use crate::watch::Watch;

/// 50 packets a second.
const PACE: Duration = Duration::from_millis(20);
/// From the change on, for one side that moves.
const TRAFFIC_GOAL: Duration = Duration::from_millis(1_000);
const DIRECT_GOAL: Duration = Duration::from_millis(2_000);
/// For both that move at once, and for a NAT box that starts anew: nobody is told
/// of that one.
const LATER_GOAL: Duration = Duration::from_millis(6_000);
/// It is measured how long it takes, up to this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two changes: a pair is called once in 5 s, and what is settled stays so.
const SETTLED: Duration = Duration::from_secs(6);
/// Before a box starts anew: a line that is lost sooner is opened again less soon.
const OLD_LINE: Duration = Duration::from_secs(31);
/// An answer may be under way for so long.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// Numbers of the sites: each side's home, and where it goes.
const HOME: [u8; 2] = [30, 60];
const AWAY: [u8; 2] = [31, 61];
/// The other public address of the first home.
const HOME_LATER: u8 = 130;
const SIDES: [&str; 2] = ["gw-a", "gw-b"];
const GUESTS: [&str; 2] = ["away-a", "away-b"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    One,
    Both,
    Nat,
}

impl Case {
    const ALL: [Self; 3] = [Self::One, Self::Both, Self::Nat];

    const fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Both => "both",
            Self::Nat => "nat",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::One => "gw-a is in another network",
            Self::Both => "both are in other networks, at once",
            Self::Nat => "gw-a's NAT box starts anew, with another address",
        }
    }

    const fn goals(self) -> (Duration, Duration) {
        match self {
            Self::One => (TRAFFIC_GOAL, DIRECT_GOAL),
            Self::Both | Self::Nat => (LATER_GOAL, LATER_GOAL),
        }
    }
}

/// What one change cost.
#[derive(Clone, Copy)]
struct Cost {
    traffic: Duration,
    direct: Duration,
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let site = |name: &str, number, hosts| SitePlan {
        name: name.to_owned(),
        hosts,
        ..SitePlan::new(Kind::Prc, number)
    };
    let sites = [
        site(SIDES[0], HOME[0], 1),
        site(SIDES[1], HOME[1], 1),
        site(GUESTS[0], AWAY[0], 0),
        site(GUESTS[1], AWAY[1], 0),
    ];
    let plan = Plan {
        hosts: &[("coord", 10), ("relay", 11)],
        further: &[(SIDES[0], HOME_LATER)],
        sites: &sites,
        ..Plan::new("core", Families::Ipv4)
    };
    let internet = Internet::of(stage.run, &plan)?;
    stage.story.done("internet", "four sites behind port-restricted NAT boxes", None);
    let (host, relay) = (internet.host("coord")?, internet.host("relay")?);
    let relay = Relay::start(stage.run, relay, &[relay.ipv4()])?;
    let coordinator =
        Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), &relay.section)?;
    let key = coordinator.join_string("roam", 2)?;
    let join = |stage: &mut Stage<'_>, side: usize| -> Result<Gateway> {
        let host = internet.site(SIDES[side])?.host();
        internet.site(GUESTS[side])?.take_guest(stage.run, host)?;
        Gateway::join(stage.run, host, &key, "")
    };
    let (a, b) = (join(stage, 0)?, join(stage, 1)?);
    let told = tell(stage, &internet, [&a, &b]);
    stage.processes.extend([relay.process, coordinator.process, a.process, b.process]);
    told
}

/// Where both are.
#[derive(Clone, Copy)]
struct Places<'a> {
    internet: &'a Internet,
    /// Each gateway is away from home.
    away: [bool; 2],
    /// The public number of the first home.
    home_a: u8,
}

impl Places<'_> {
    fn public(&self, side: usize) -> Ipv4Addr {
        ipv4(match (self.away[side], side) {
            (true, _) => AWAY[side],
            (false, 0) => self.home_a,
            (false, _) => HOME[side],
        })
    }

    /// The box that the gateway is behind.
    fn site(&self, side: usize) -> Result<&Site> {
        self.internet.site(if self.away[side] { GUESTS[side] } else { SIDES[side] })
    }

    /// How it will be after a change.
    fn after(&self, case: Case) -> Self {
        let [a, b] = self.away;
        let later = if self.home_a == HOME[0] { HOME_LATER } else { HOME[0] };
        match case {
            Case::One => Self { away: [!a, b], ..*self },
            Case::Both => Self { away: [!a, !b], ..*self },
            Case::Nat => Self { home_a: later, ..*self },
        }
    }

    /// No box knows a flow between two addresses of a change that is to come: nobody
    /// was there, as far as anybody remembers.
    fn forget(&self, run: &Run) -> Result<()> {
        for (side, other) in [(0, 1), (1, 0)] {
            self.site(side)?.forget_address(run, self.public(other))?;
        }
        Ok(())
    }

    /// Makes it as it is after a change.
    fn make(&self, run: &Run, case: Case, before: &Self) -> Result<()> {
        match case {
            Case::One => self.arrive(0),
            Case::Both => thread::scope(|scope| {
                let other = scope.spawn(|| self.arrive(1));
                let one = self.arrive(0);
                let panicked = |_| Failure::new("lab.internal", "a move panicked");
                one.and(other.join().map_err(panicked)?)
            }),
            Case::Nat => self.site(0)?.restart(run, [before.home_a, self.home_a]),
        }
    }

    fn arrive(&self, side: usize) -> Result<()> {
        self.site(side)?.arrive(self.internet.site(SIDES[side])?.host())
    }
}

fn tell(stage: &mut Stage<'_>, internet: &Internet, gateways: [&Gateway; 2]) -> Result<Value> {
    let known = Known {
        coordinator: vec![(internet.host("coord")?.ipv4(), PORT).into()],
        relays: vec![internet.host("relay")?.ipv4()],
    };
    let [a, b] = gateways;
    let watch =
        |gateway: &Gateway| Watch::start(gateway.namespace(), &[UPLINK, SECOND_UPLINK], &known);
    let watches = [watch(a)?, watch(b)?];
    let echoes = Echoes::start(a.namespace(), b.namespace(), b.addresses.ipv4, PACE)?;
    let mut places = Places { internet, away: [false; 2], home_a: HOME[0] };
    let rounds = if stage.options.short { 1 } else { 3 };
    let mut document = json!({});
    let mut missed = Vec::new();
    // The last one takes as long as everything before.
    for case in &Case::ALL[..if stage.options.short { 2 } else { 3 }] {
        let case = *case;
        let mut costs = Vec::new();
        if case == Case::Nat && places.away[0] {
            let home = places.after(Case::One);
            home.make(stage.run, Case::One, &places)?;
            places = home;
        }
        for round in 1..=rounds {
            settle(&echoes, &watches, &places, case)?;
            let after = places.after(case);
            after.forget(stage.run)?;
            let cost = change(stage, case, [&places, &after], &echoes, &watches)?;
            places = after;
            let title = format!("{} {round} of {rounds}", case.name());
            let (traffic, direct) = (ui::span(cost.traffic), ui::span(cost.direct));
            stage.story.done(&title, &format!("traffic after {traffic}, direct {direct}"), None);
            costs.push(cost);
        }
        let traffic = worst(&costs, |cost| cost.traffic);
        let direct = worst(&costs, |cost| cost.direct);
        let (traffic_goal, direct_goal) = case.goals();
        for (what, took, goal) in
            [("traffic", traffic, traffic_goal), ("direct", direct, direct_goal)]
        {
            if took > goal {
                let (took, goal) = (ui::span(took), ui::span(goal));
                missed.push(format!("{}: {what} took {took}, the goal is {goal}", case.words()));
            }
        }
        let all = |time: fn(&Cost) -> Duration| -> Vec<u64> {
            costs.iter().map(|cost| time(cost).as_millis() as u64).collect()
        };
        document[case.name()] = json!({
            "traffic_ms": traffic.as_millis() as u64,
            "direct_ms": direct.as_millis() as u64,
            "traffic_all_ms": all(|cost| cost.traffic),
            "direct_all_ms": all(|cost| cost.direct),
        });
    }
    let (sent, answered) = echoes.counts();
    echoes.end()?;
    watches.into_iter().try_for_each(Watch::end)?;
    if !missed.is_empty() {
        return Err(Failure::expectation(missed.join("; ")).line("measured", document.to_string()));
    }
    for figure in ["traffic_ms", "direct_ms"] {
        document[figure] = document[Case::One.name()][figure].clone();
    }
    document["sent"] = sent.into();
    document["answered"] = answered.into();
    Ok(document)
}

fn worst(costs: &[Cost], time: fn(&Cost) -> Duration) -> Duration {
    costs.iter().map(time).max().unwrap_or(Duration::MAX)
}

/// Every packet has gone the direct way for a while.
fn settle(echoes: &Echoes, watches: &[Watch; 2], places: &Places<'_>, case: Case) -> Result<()> {
    let settled = if case == Case::Nat { OLD_LINE } else { SETTLED };
    let mut since: Option<Instant> = None;
    wait_until(PATIENCE, "both gateways talk directly, without a loss", || {
        let begun = since.is_some_and(|since| since.elapsed() > settled);
        let direct = watches.iter().zip([1, 0]).all(|(watch, other)| {
            let seen = watch.direct_from(places.public(other));
            seen.is_some_and(|seen| seen.last.elapsed() < UNDER_WAY)
        });
        if !direct {
            since = None;
        } else if since.is_none() {
            since = Some(clock::now());
        }
        Ok(begun && direct && echoes.is_steady(SETTLED, UNDER_WAY))
    })
    .map(drop)
}

/// Makes one change, and waits until the direct way carries packets both ways.
fn change(
    stage: &Stage<'_>,
    case: Case,
    [before, after]: [&Places<'_>; 2],
    echoes: &Echoes,
    watches: &[Watch; 2],
) -> Result<Cost> {
    let began = clock::now();
    after.make(stage.run, case, before)?;
    // What was under way to where they were does not come any more.
    watches.iter().for_each(Watch::forget);
    let wait = |what: &str, when: &dyn Fn() -> Option<Instant>| -> Result<Duration> {
        let limit = PATIENCE.saturating_sub(began.elapsed());
        let what = format!("{}: {what}", case.words());
        wait_until(limit, &what, || Ok(when().is_some()))?;
        let at = when().ok_or_else(|| Failure::new("lab.internal", "what came is gone"))?;
        Ok(at.saturating_duration_since(began))
    };
    let straight = |from: usize, to: usize| {
        let what = format!("packets go straight to {}", SIDES[to]);
        wait(&what, &|| Some(watches[to].direct_from(after.public(from))?.first))
    };
    let traffic = wait("traffic comes through", &|| echoes.first_after(began))?;
    let direct = straight(0, 1)?.max(straight(1, 0)?);
    Ok(Cost { traffic, direct })
}
