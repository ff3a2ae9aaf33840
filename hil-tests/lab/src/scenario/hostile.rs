//! A mob against the coordinator: connections that say nothing, floods, and
//! every kind of wrong bytes. Beside it members of the mesh start again and
//! again, and each has to get its session.
//!
//! The mob's host hangs on the coordinator's by a link of its own: the simulated
//! internet would slow it down, and measure itself.

mod mob;
mod mqtt;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_wire::join::JoinString;

use self::mob::{Done, Mob};
use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet};
use crate::mesh::{Coordinator, Gateway, PORT};
use crate::net::{self, signal};
use crate::run::ip_batch;
use crate::ui;

/// From exec of a member's daemon to its session with the coordinator, p99.
const GOAL: Duration = Duration::from_secs(5);
/// For one start; then it counts as never.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a mob may cost: buffers of every connection that it may hold, twice.
const GROWTH_KIB: u64 = 64 * 1_024;
const TIME: Duration = Duration::from_secs(60);
const TIME_SHORT: Duration = Duration::from_secs(8);
const MEMBERS: [&str; 8] = ["gw-a", "gw-b", "gw-c", "gw-d", "gw-e", "gw-f", "gw-g", "gw-h"];
/// Between two starts of one member: the coordinator takes a handshake of each
/// device every two seconds in the long run, and is not to be measured by that.
const PACE: Duration = Duration::from_millis(2_100);
/// Addresses of the mob's host, 198.51.100.1 and following (RFC 5737).
const ADDRESSES: u8 = 64;
const VICTIM: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    net::raise_open_files().during("raise the limit of open files")?;
    let mut hosts = vec![("coord", 10)];
    hosts.extend(MEMBERS.iter().zip(21..).map(|(name, number)| (*name, number)));
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    let mob = stage.run.namespace("mob")?;
    let host = internet.host("coord")?;
    let (to_mob, from_mob) = link(host.namespace().name());
    ip_batch(Some(&mob), &from_mob).during("make the mob's link")?;
    ip_batch(Some(host.namespace()), &to_mob).during("make the mob's link")?;
    stage.run.count_links(1);
    stage.story.done("internet", "core, coord, eight gateways, and the mob", None);
    let coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("members", MEMBERS.len() as u32)?;
    let join = |name: &&str| Gateway::join(stage.run, internet.host(name)?, &key, "");
    let mut members = MEMBERS.iter().map(join).collect::<Result<Vec<_>>>()?;
    let told = tell(stage, &coordinator, &mut members, &mob);
    stage.processes.extend(members.into_iter().map(|member| member.process));
    stage.processes.push(coordinator.process);
    told
}

fn link(victim: &str) -> (Vec<String>, Vec<String>) {
    let mut from_mob = vec![
        format!("link add name eth0 type veth peer name mob netns {victim}"),
        "link set dev lo up".to_owned(),
    ];
    from_mob
        .extend((1..=ADDRESSES).map(|last| format!("address add 198.51.100.{last}/24 dev eth0")));
    from_mob.push("link set dev eth0 up".to_owned());
    let to_mob = vec![format!("address add {VICTIM}/24 dev mob"), "link set dev mob up".to_owned()];
    (to_mob, from_mob)
}

/// What was measured while the mob was there.
struct Seen {
    times: Vec<Duration>,
    rss_kib: u64,
    lasted: Duration,
}

fn tell(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    members: &mut [Gateway],
    mob: &net::namespace::Namespace,
) -> Result<Value> {
    let keys = [join_string(coordinator, "flooded")?, join_string(coordinator, "mob")?];
    let quiet = sessions(coordinator, members, TIME_SHORT / 4)?;
    let words = format!("{} starts, p99", quiet.times.len());
    stage.story.done("before", &words, percentile(&quiet.times, 99));
    let rss_before = coordinator.rss_kib()?;
    let before = coordinator.metrics()?;
    let from = (1..=ADDRESSES).map(|last| Ipv4Addr::new(198, 51, 100, last)).collect();
    let mob = Mob::start(mob, SocketAddr::new(VICTIM.into(), PORT), from, keys)?;
    let time = if stage.options.short { TIME_SHORT } else { TIME };
    let seen = sessions(coordinator, members, time);
    let done = mob.end()?;
    let seen = seen?;
    let after = coordinator.metrics()?;
    let words = format!("{} starts beside the mob, p99", seen.times.len());
    stage.story.done("members", &words, percentile(&seen.times, 99));
    alive(coordinator, members)?;
    stage.story.done("after", "everybody answers, the coordinator's audit holds", None);
    let rates = Rates { done: &done, before, after, time: seen.lasted };
    rates.tell(stage);
    judge(&seen, &quiet, seen.rss_kib.saturating_sub(rss_before), &rates)
}

fn join_string(coordinator: &Coordinator, name: &str) -> Result<JoinString> {
    let text = coordinator.join_string(name, 1_000)?;
    JoinString::parse(&text)
        .map_err(|error| Failure::expectation(format!("a join string does not parse: {error:?}")))
}

/// Members start again and again, all at once, until the time is over.
fn sessions(coordinator: &Coordinator, members: &mut [Gateway], time: Duration) -> Result<Seen> {
    let began = clock::now();
    let (over, rss) = (AtomicBool::new(false), AtomicU64::new(coordinator.rss_kib()?));
    let results: Vec<Result<Vec<Duration>>> = thread::scope(|scope| {
        let starting: Vec<_> = members
            .iter_mut()
            .map(|member| scope.spawn(|| start_until(member, began + time)))
            .collect();
        let watching = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                rss.fetch_max(coordinator.rss_kib()?, Ordering::Relaxed);
                signal::rest(Duration::from_millis(100));
            }
            Ok(Vec::new())
        });
        let panicked = |_| Err(Failure::new("lab.internal", "a thread panicked"));
        let mut results: Vec<_> =
            starting.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect();
        over.store(true, Ordering::Release);
        results.push(watching.join().unwrap_or_else(panicked));
        results
    });
    let times = results.into_iter().collect::<Result<Vec<_>>>()?.concat();
    Ok(Seen { times, rss_kib: rss.into_inner(), lasted: began.elapsed() })
}

/// Kills and starts a daemon; each time from its exec to its session.
fn start_until(member: &mut Gateway, until: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while clock::now() < until {
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        member.process.kill()?;
        let began = clock::now();
        member.up()?;
        let online = |line: &str| line.contains("control.online").then_some(());
        member.process.wait_for(0, PATIENCE, "that it has a session", online)?;
        times.push(began.elapsed());
        signal::rest(PACE.saturating_sub(began.elapsed()));
    }
    Ok(times)
}

fn alive(coordinator: &Coordinator, members: &[Gateway]) -> Result<()> {
    for (member, next) in members.iter().zip(members.iter().skip(1)) {
        member.ping(next.name())?;
    }
    coordinator.command("audit", &["audit", "--verify"])?;
    let listed = coordinator.command("device", &["device", "list"])?.stdout;
    match MEMBERS.iter().find(|name| !listed.contains(**name)) {
        Some(name) => Err(Failure::expectation(format!("{name} is no device any more"))),
        None => Ok(()),
    }
}

/// The time below which a share of all is.
fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// What was offered, and what of it came through.
struct Rates<'a> {
    done: &'a Done,
    before: Value,
    after: Value,
    time: Duration,
}

impl Rates<'_> {
    fn per_second(&self, count: u64) -> u64 {
        (count as f64 / self.time.as_secs_f64().max(1e-3)) as u64
    }

    fn offered(&self, counter: &AtomicU64) -> u64 {
        self.per_second(counter.load(Ordering::Relaxed))
    }

    /// What the coordinator counted meanwhile.
    fn counted(&self, name: &str) -> u64 {
        let name = format!("weft_coordinator_{name}");
        let value = |samples: &Value| samples[&name].as_u64().unwrap_or(0);
        value(&self.after).saturating_sub(value(&self.before))
    }

    fn json(&self) -> Value {
        let mac1 = self.counted("frames_dropped_total{reason=\"mac1\"}");
        json!({
            "connects_offered_per_s": self.offered(&self.done.connects),
            "connects_refused_per_s":
                self.per_second(self.counted("mqtt_clients_refused_total{reason=\"refused_password\"}")),
            "hellos_offered_per_s":
                self.offered(&self.done.hellos) + self.offered(&self.done.posts),
            "hellos_judged_per_s": self.per_second(mac1),
            "posts_dropped_per_s": self.per_second(self.counted("posts_dropped_total")),
            "held": self.done.held.load(Ordering::Relaxed),
            "malices": self.done.malices.load(Ordering::Relaxed),
        })
    }

    fn tell(&self, stage: &mut Stage<'_>) {
        let all = self.json();
        let figure = |name: &str| all[name].as_u64().unwrap_or(0);
        let lines = [
            (
                "CONNECT",
                figure("connects_offered_per_s"),
                figure("connects_refused_per_s"),
                "refused",
            ),
            ("HELLO", figure("hellos_offered_per_s"), figure("hellos_judged_per_s"), "got to mac1"),
        ];
        for (name, offered, came, word) in lines {
            stage.story.area(name, &format!("{offered}/s offered, {came}/s {word}"));
        }
    }
}

fn judge(seen: &Seen, quiet: &Seen, growth_kib: u64, rates: &Rates<'_>) -> Result<Value> {
    let millis = |times: &[Duration], percent| {
        percentile(times, percent).map_or(u64::MAX, |time| time.as_millis() as u64)
    };
    let p99 = percentile(&seen.times, 99).unwrap_or(Duration::MAX);
    let foreign = rates.done.foreign.load(Ordering::Relaxed);
    let expected = [
        (foreign == 0, format!("{foreign} messages came to somebody they were not for")),
        (p99 <= GOAL, format!("a session took {}, the goal is {}", ui::span(p99), ui::span(GOAL))),
        (growth_kib <= GROWTH_KIB, format!("the coordinator grew by {growth_kib} KiB")),
        (rates.counted("mqtt_panics_total") == 0, "a connection's task panicked".to_owned()),
        // Otherwise the mob did nothing, and nothing was shown.
        (
            rates.counted("frames_dropped_total{reason=\"mac1\"}") > 0,
            "no HELLO was judged".to_owned(),
        ),
        (rates.done.malices.load(Ordering::Relaxed) > 0, "no malice was tried".to_owned()),
    ];
    if let Some((_, sentence)) = expected.into_iter().find(|(holds, _)| !holds) {
        return Err(Failure::expectation(sentence));
    }
    Ok(json!({
        "handshake_p99_ms": millis(&seen.times, 99),
        "handshake_p50_ms": millis(&seen.times, 50),
        "handshakes": seen.times.len(),
        "quiet_p99_ms": millis(&quiet.times, 99),
        "rss_growth_kib": growth_kib,
        "foreign_reads": foreign,
        "rates": rates.json(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_those_that_were_seen() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&times, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&times[..1], 99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 99), None);
    }
}
