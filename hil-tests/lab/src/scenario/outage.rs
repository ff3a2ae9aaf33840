//! Coordinator and broker are killed: tunnels go on over rekeys, an agent that
//! starts meanwhile finds its peers by what it kept, and everybody is back soon
//! after the coordinator is.
//!
//! Relayed, the gateways are behind boxes and reach each other over a relay alone.
//! Then peers whose tunnel is down call each other over the lines that the relay
//! keeps for them.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{RELAY, Stage, is_relayed, relay_alone};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet, Plan};
use crate::measure::{Traffic, wait_until};
use crate::mesh::{Coordinator, Gateway, text};
use crate::nat::Kind;
use crate::net::echo::Pinger;
use crate::net::signal;
use crate::site::SitePlan;
use crate::ui;
use crate::wall;

/// From exec of the daemon to its first echo reply, of each peer.
const RECOVERY: Duration = Duration::from_millis(5_000);
/// From a packet to a peer whose tunnel is down to its answer: so long it is held.
const RUNG: Duration = Duration::from_millis(2_000);
/// From the coordinator's end to a line at the relay: 20 s and what it takes to ask.
const LINE: Duration = Duration::from_secs(30);
/// A tunnel that nobody uses is down after this long.
const TEARDOWN: Duration = Duration::from_secs(240);
/// From a coordinator that is ready to an agent that is connected: the window
/// that it names to a small fleet, and what an attempt takes.
const RETURN: Duration = Duration::from_secs(12);
/// Handshakes that replace a session under traffic, at least.
const REKEYS: usize = 2;
/// Between two echo requests, in the steady traffic and while nothing answers.
const PACE: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(5);
/// Age of a session at its rekey: WireGuard's own, and the shortest for tests.
const REKEY_AFTER: Duration = Duration::from_secs(120);
const REKEY_AFTER_SHORT: Duration = Duration::from_secs(10);

const GATEWAYS: [(&str, u8); 3] = [("gw-a", 30), ("gw-b", 40), ("gw-c", 50)];

/// What happened while the coordinator was away.
struct Away {
    /// Relayed: from a packet to the answer of a peer whose tunnel was down.
    rung: Vec<Duration>,
    /// Of an agent that starts meanwhile, with each of its peers.
    recovered: Vec<Duration>,
    rekeys: usize,
    lasted: Duration,
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let internet = build(stage)?;
    let host = internet.host("coord")?;
    let relay = relay_alone(stage, &internet, &GATEWAYS.map(|(name, _)| name))?;
    let section = relay.as_ref().map_or("", |relay| relay.section.as_str());
    let mut coordinator =
        Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), section)?;
    let key = coordinator.join_string("outage", 3)?;
    let rekey_after = if stage.options.short { REKEY_AFTER_SHORT } else { REKEY_AFTER };
    let settings = format!("[tunnel]\nrekey_after_s = {}\n", rekey_after.as_secs());
    let join = |stage: &mut Stage<'_>, name: &str| {
        Gateway::join(stage.run, place(&internet, name)?, &key, &settings)
    };
    let mut a = join(stage, "gw-a")?;
    let (b, c) = (join(stage, "gw-b")?, join(stage, "gw-c")?);
    let told = tell(stage, &mut coordinator, &mut a, [&b, &c], rekey_after);
    let processes = [coordinator.process, a.process, b.process, c.process];
    stage.processes.extend(processes);
    stage.processes.extend(relay.map(|relay| relay.process));
    told
}

/// Hosts of their own; relayed, behind boxes that forget.
fn build(stage: &mut Stage<'_>) -> Result<Internet> {
    let servers = [("coord", 10), RELAY];
    if stage.options.relayed {
        let sites = GATEWAYS.map(|(name, number)| SitePlan {
            name: name.to_owned(),
            ..SitePlan::new(Kind::Prc, number)
        });
        let plan = Plan { hosts: &servers, sites: &sites, ..Plan::new("core", Families::Ipv4) };
        let internet = Internet::of(stage.run, &plan)?;
        let words = "coord, relay; gw-a, gw-b and gw-c, each behind a box, cut from each other";
        stage.story.done("internet", words, None);
        return Ok(internet);
    }
    let hosts: Vec<(&str, u8)> = servers.into_iter().chain(GATEWAYS).collect();
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "coord, gw-a, gw-b, gw-c", None);
    Ok(internet)
}

fn place<'a>(internet: &'a Internet, name: &str) -> Result<&'a Host> {
    internet.site(name).map(|site| site.host()).or_else(|_| internet.host(name))
}

fn tell(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    a: &mut Gateway,
    others: [&Gateway; 2],
    rekey_after: Duration,
) -> Result<Value> {
    let [b, c] = others;
    // Everybody has talked to everybody once: that is what is kept.
    for (from, to) in [(&*a, b), (&*a, c), (b, c)] {
        from.ping(to.name())?;
    }
    if stage.options.relayed {
        is_relayed(b, c)?;
    }
    let map = text(&a.status()?, "/coordinator/epoch")?;
    stage.story.done("tunnels", "each gateway talks to both others", None);
    let traffic = Traffic::start(b.namespace(), c.addresses.ipv4, PACE)?;
    let away = without(stage, coordinator, a, others, rekey_after)?;
    let back = come_back(coordinator, &[&*a, b, c])?;
    stage.story.done("coordinator", "is back, and all three are connected", Some(back));
    let steady = traffic.end()?;
    let loss = (steady.loss_pct() * 100.0).round() / 100.0;
    let words = format!("gw-b → gw-c, {} of {}", steady.answered, steady.sent);
    stage.story.done("traffic", &words, None);
    if text(&a.status()?, "/coordinator/epoch")? != map {
        return Err(Failure::expectation("the coordinator came back as another one"));
    }
    a.ping(b.name())?;
    if stage.options.relayed {
        is_relayed(b, c)?;
    }
    if steady.lost() > 0 {
        return Err(Failure::expectation(format!(
            "{} of {} echo requests got no answer, the longest gap was {}",
            steady.lost(),
            steady.sent,
            ui::span(steady.longest_gap)
        )));
    }
    let millis = |time: &Duration| time.as_millis() as u64;
    Ok(json!({
        "rung_ms": away.rung.iter().max().map(millis),
        "recovered_ms": away.recovered.iter().max().map(millis),
        "lost_pct": if steady.lost() == 0 { json!(0) } else { json!(loss) },
        "recovered_all_ms": away.recovered.iter().map(millis).collect::<Vec<_>>(),
        "rekeys": away.rekeys,
        "rekey_after_s": rekey_after.as_secs(),
        "sent": steady.sent,
        "longest_gap_ms": millis(&steady.longest_gap),
        "reconnected_ms": millis(&back),
        "outage_s": away.lasted.as_secs(),
    }))
}

/// From the coordinator's death until the traffic went over enough rekeys.
fn without(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    a: &mut Gateway,
    others: [&Gateway; 2],
    rekey_after: Duration,
) -> Result<Away> {
    let [b, c] = others;
    coordinator.process.kill()?;
    let began = clock::now();
    let alone =
        |gateway: &Gateway| Ok(text(&gateway.status()?, "/coordinator/state")? == "disconnected");
    for gateway in [&*a, b, c] {
        let what = format!("{} notices that the coordinator is gone", gateway.name());
        wait_until(Duration::from_secs(5), &what, || alone(gateway))?;
    }
    stage.story.done("kill", "coordinator and broker are gone", None);
    let mut rekeys = Rekeys::new(b, c)?;
    rekeys.wait_for(1, 2 * rekey_after)?;
    let mut rung = Vec::new();
    if stage.options.relayed {
        let lines = [&*a, b, c].map(has_line);
        lines.into_iter().collect::<Result<()>>()?;
        stage.story.done("lines", "the relay keeps one for each gateway", Some(began.elapsed()));
        // Two minutes that nothing shortens.
        if !stage.options.short {
            for other in others {
                is_down(a, other)?;
            }
            let words = "its tunnels are down, nobody uses them";
            stage.story.done("gw-a", words, Some(began.elapsed()));
            rung.extend(first_answers(a, others, |_| Ok(()), RUNG)?);
            let words = "called over the lines, both peers answer";
            stage.story.done("gw-a", words, rung.iter().max().copied());
        }
    }
    a.process.kill()?;
    let recovered = first_answers(a, others, Gateway::up, RECOVERY)?;
    let words = "started alone, both peers answer";
    stage.story.done("gw-a", words, recovered.iter().max().copied());
    rekeys.wait_for(REKEYS, 2 * rekey_after)?;
    if !alone(a)? {
        return Err(Failure::expectation("gw-a has a coordinator, and there is none"));
    }
    let words = format!("{} under traffic, without a coordinator", rekeys.seen);
    stage.story.done("rekeys", &words, Some(began.elapsed()));
    Ok(Away { rung, recovered: recovered.into(), rekeys: rekeys.seen, lasted: began.elapsed() })
}

/// The relay keeps a line for this gateway.
fn has_line(gateway: &Gateway) -> Result<()> {
    let what = format!("a relay keeps a line for {}", gateway.name());
    wait_until(LINE, &what, || Ok(gateway.status()?["coordinator"]["relay_line"] == true)).map(drop)
}

/// Nobody uses the tunnel of these two, and it is down.
fn is_down(from: &Gateway, to: &Gateway) -> Result<()> {
    let what = format!("the tunnel of {} and {} is down", from.name(), to.name());
    wait_until(TEARDOWN, &what, || Ok(from.peer(to.name())?["path"]["kind"] == "idle")).map(drop)
}

/// From an act of the gateway to the first answer of each of its peers.
fn first_answers(
    a: &mut Gateway,
    others: [&Gateway; 2],
    act: impl FnOnce(&mut Gateway) -> Result<()>,
    goal: Duration,
) -> Result<[Duration; 2]> {
    let open =
        |other: &Gateway| Pinger::open(a.namespace(), other.addresses.ipv4).during("open a socket");
    let mut pingers = [open(others[0])?, open(others[1])?];
    let began = clock::now();
    act(a)?;
    let answers: Vec<Option<Instant>> = thread::scope(|scope| {
        let until = began + 4 * goal;
        let waiting: Vec<_> = pingers
            .iter_mut()
            .map(|pinger| scope.spawn(move || pinger.first_answer(STEP, until)))
            .collect();
        waiting.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    });
    let mut took = [Duration::MAX; 2];
    for ((took, answer), other) in took.iter_mut().zip(answers).zip(others) {
        *took = answer.map(|at| at - began).unwrap_or(Duration::MAX);
        if *took > goal {
            let found = answer.map_or_else(|| "never".to_owned(), |at| ui::span(at - began));
            return Err(Failure::expectation(format!(
                "without a coordinator {} answered gw-a after {found}, the goal is {}",
                other.name(),
                ui::span(goal)
            )));
        }
    }
    if signal::asked_to_stop() {
        return Err(Failure::stopped());
    }
    Ok(took)
}

/// From a coordinator that is ready to the last gateway that is connected.
fn come_back(coordinator: &mut Coordinator, gateways: &[&Gateway]) -> Result<Duration> {
    coordinator.restart()?;
    let ready = clock::now();
    for gateway in gateways {
        let what = format!("{} is connected again", gateway.name());
        let left = RETURN.saturating_sub(ready.elapsed());
        wait_until(left, &what, || {
            Ok(text(&gateway.status()?, "/coordinator/state")? == "connected")
        })?;
    }
    Ok(ready.elapsed())
}

/// Counts handshakes of two gateways whose tunnel carries traffic.
pub(super) struct Rekeys<'a> {
    from: &'a Gateway,
    to: &'a Gateway,
    age: Duration,
    pub(super) seen: usize,
}

impl<'a> Rekeys<'a> {
    pub(super) fn new(from: &'a Gateway, to: &'a Gateway) -> Result<Self> {
        let mut rekeys = Self { from, to, age: Duration::ZERO, seen: 0 };
        rekeys.age = rekeys.age()?;
        Ok(rekeys)
    }

    fn age(&self) -> Result<Duration> {
        let peer = self.from.peer(self.to.name())?;
        let age = peer["last_handshake"].as_str().and_then(wall::age_of);
        age.ok_or_else(|| Failure::expectation("a tunnel under traffic has no handshake"))
    }

    /// Waits until so many were seen; the next takes `each` at most.
    pub(super) fn wait_for(&mut self, wanted: usize, each: Duration) -> Result<()> {
        while self.seen < wanted {
            wait_until(each, "a rekey under traffic", || {
                let age = self.age()?;
                // A session that is younger than it was is another one; by more
                // than it takes to look.
                Ok(core::mem::replace(&mut self.age, age) > age + Duration::from_secs(1))
            })?;
            self.seen += 1;
        }
        Ok(())
    }
}
