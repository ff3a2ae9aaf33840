//! What a gateway that nobody talks to costs in a day, in bytes of IP on its uplink,
//! both ways: with no tunnel at all (the doorbell), and with one that is kept up
//! behind a NAT that forgets after two minutes.
//!
//! A day is too long to wait for. What happens in one is a handful of events; each is
//! taken from real packets and counted as often as it occurs. Signs of life and pings
//! come sooner, at the coordinator's word, five times as often and in the short form
//! much more; their size is the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{RELAY, Stage};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet, Plan};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, PORT, Variables, text};
use crate::nat::Kind;
use crate::net::capture::Capture;
use crate::net::signal;
use crate::process::find_program;
use crate::relay::Relay;
use crate::sight::{Cause, Known, Sight};
use crate::site::{SitePlan, UPLINK};
use crate::ui;
use crate::wall;

/// Bytes a day.
const DOORBELL_GOAL: u64 = 100_000;
const WARM_GOAL: u64 = 500_000;

const DAY: f64 = 86_400.0;
/// Of the product: seconds between two signs of life at most, how much of that they
/// are apart on average, and seconds of silence until a device asks whether its line
/// stands.
const HEARTBEAT_S: u64 = 900;
const HEARTBEAT_SHARE: f64 = 0.965;
const PING_S: u64 = 300;
/// How long before the end of that the agent's MQTT client asks.
const PING_LEAD_S: u64 = 5;
/// The same as they are here, and in the short form.
const SOONER_S: (u64, u64) = (HEARTBEAT_S / 5, PING_S / 5);
const SHORT_S: (u64, u64) = (20, 10);
/// A router that maps nothing is asked again five minutes after the start, which the
/// long form sees, less and less often, and in the end so often a day.
const SEARCHES: f64 = 2.0;
/// What a tunnel leaves behind is given back within this.
const IDLE_WITHIN: Duration = Duration::from_secs(240);
/// A box forgets a flow after this; four fifths of it is how often it is reminded.
const BINDING: Duration = Duration::from_secs(120);
const REMINDED_S: u64 = 96;
/// Of the tunnel, the shortest there is.
const SHORT_REKEY_S: u64 = 10;
/// 25, 50 and 96 s after each other.
const WARM_WITHIN: Duration = Duration::from_secs(200);
/// Packets that are further apart belong to different events.
const PAUSE: Duration = Duration::from_millis(1_500);
/// A packet of TCP with nothing in it, IPv4.
const ACKNOWLEDGEMENT: u64 = 52;
/// WireGuard's empty packet follows the last other one sooner.
const FORGOTTEN: Duration = Duration::from_secs(15);
/// For a line that was lost, until it stands again and has said what it has to.
const BACK: Duration = Duration::from_secs(20);

/// Everything that passed the uplink, in order.
struct Journal {
    seen: Arc<Mutex<Vec<Sight>>>,
    _capture: Capture,
}

impl Journal {
    fn start(gateway: &Gateway, known: Known) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let capture = Capture::start(gateway.namespace(), UPLINK, move |frame| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(Sight::of(frame, &known));
        });
        Ok(Self { seen, _capture: capture.during("watch an uplink")? })
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Sight>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the last packet passed.
    fn last(&self) -> Option<Instant> {
        self.seen().last().map(|sight| sight.at)
    }

    /// What has passed since the last call.
    fn take(&self) -> Vec<Sight> {
        std::mem::take(&mut *self.seen())
    }

    /// Waits until nothing passes for a while, and forgets what did before.
    fn rest(&self) -> Result<()> {
        let began = clock::now();
        wait_until(BACK, "the uplink is quiet", || {
            // What has just happened may be about to say something.
            Ok(self.last().map_or(began, |last| last.max(began)).elapsed() > PAUSE)
        })?;
        drop(self.take());
        Ok(())
    }
}

/// One thing that happened, of one cause.
#[derive(Clone, Debug)]
struct Event {
    cause: Cause,
    packets: u64,
    bytes: u64,
    last: Instant,
}

impl Event {
    fn is_over(&self) -> bool {
        self.last.elapsed() > PAUSE
    }
}

/// Packets of a cause that follow each other without a pause are one event.
fn events(seen: &[Sight]) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    for sight in seen {
        let one = Event { cause: sight.cause, packets: 1, bytes: sight.bytes, last: sight.at };
        match all.iter_mut().rev().find(|event| event.cause == sight.cause) {
            Some(event) if sight.at - event.last < PAUSE => {
                event.packets += 1;
                event.bytes += sight.bytes;
                event.last = sight.at;
            }
            _ => all.push(one),
        }
    }
    all
}

fn bytes(seen: &[Sight], cause: Cause) -> u64 {
    seen.iter().filter(|sight| sight.cause == cause).map(|sight| sight.bytes).sum()
}

/// A line of the sum: what, how many bytes, how often a day.
struct Item {
    what: &'static str,
    cause: Cause,
    bytes: f64,
    times: f64,
}

impl Item {
    fn of(what: &'static str, cause: Cause, bytes: f64, times: f64) -> Self {
        Self { what, cause, bytes, times }
    }

    fn total(&self) -> f64 {
        self.bytes * self.times
    }

    fn words(&self) -> String {
        let Self { what, bytes, times, .. } = self;
        format!("{what:<22} {bytes:>8.0} B x {times:>6.1} = {:>8.0} B", self.total())
    }
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let site = |name: &str, number| SitePlan {
        name: name.to_owned(),
        binding: Some(BINDING),
        ..SitePlan::new(Kind::Prc, number)
    };
    let plan = Plan {
        hosts: &[("coord", 10), RELAY],
        sites: &[site("gw-a", 30), site("gw-b", 60)],
        ..Plan::new("core", Families::Ipv4)
    };
    let internet = Internet::of(stage.run, &plan)?;
    stage.story.done("internet", "two sites whose NAT boxes forget after 120 s", None);
    let host = internet.host("coord")?;
    let broker = std::net::SocketAddr::new(host.ipv4(), PORT);
    let mut variables: Variables =
        vec![("WEFT_COORDINATOR_ADDRESSES", format!("mqtts://{broker}").into())];
    let (heartbeat_s, ping_s) = pace(stage);
    let sooner =
        [("WEFT_COORDINATOR_HEARTBEAT_S", heartbeat_s), ("WEFT_COORDINATOR_PING_S", ping_s)];
    variables.extend(sooner.map(|(name, value)| (name, value.to_string().into())));
    let at = internet.host(RELAY.0)?;
    let relay = Relay::start(stage.run, at, &[at.ipv4()])?;
    let mut coordinator =
        Coordinator::start_with(stage.run, host, host.ipv4(), variables, &relay.section)?;
    let key = coordinator.join_string("idle", 2)?;
    let settings = settings();
    let join = |stage: &mut Stage<'_>, name: &str| {
        Gateway::join(stage.run, internet.site(name)?.host(), &key, &settings)
    };
    let (mut a, mut b) = (join(stage, "gw-a")?, join(stage, "gw-b")?);
    let known = Known { coordinator: vec![broker], relays: vec![at.ipv4()] };
    let told = tell(stage, &mut coordinator, [&mut a, &mut b], known);
    stage.processes.extend([relay.process, coordinator.process, a.process, b.process]);
    told
}

/// Seconds between two signs of life, and of silence until a device asks.
const fn pace(stage: &Stage<'_>) -> (u64, u64) {
    if stage.options.short { SHORT_S } else { SOONER_S }
}

fn settings() -> String {
    format!("[tunnel]\nrekey_after_s = {SHORT_REKEY_S}\n")
}

fn tell(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    [a, b]: [&mut Gateway; 2],
    known: Known,
) -> Result<Value> {
    let journal = Journal::start(a, known)?;
    let mut items = doorbell(stage, &journal, a)?;
    items.extend(reconnect(stage, coordinator, a, &journal)?);
    let doorbell = items.len();
    items.extend(warm(stage, &journal, [a, b])?);
    for item in &items {
        stage.story.line(&format!("  {}", item.words()));
    }
    let of = |items: &[Item], cause: Option<Cause>| -> u64 {
        let counts = |item: &&Item| cause.is_none_or(|cause| item.cause == cause);
        items.iter().filter(counts).map(Item::total).sum::<f64>().round() as u64
    };
    let by_cause = |items: &[Item]| -> Value {
        let causes = Cause::ALL.iter().map(|cause| (cause.name(), of(items, Some(*cause))));
        causes
            .map(|(name, bytes)| (name.to_owned(), json!(bytes)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let (cold_bytes, warm_bytes) = (of(&items[..doorbell], None), of(&items, None));
    stage.story.verdict(&format!(
        "a day: {:.1} KB without a tunnel, {:.1} KB with one that is kept up",
        cold_bytes as f64 / 1e3,
        warm_bytes as f64 / 1e3
    ));
    let document = json!({
        "doorbell_bytes_per_day": cold_bytes,
        "warm_bytes_per_day": warm_bytes,
        "by_cause": {"doorbell": by_cause(&items[..doorbell]), "warm": by_cause(&items)},
        "items": items.iter().map(|item| json!({
            "what": item.what, "cause": item.cause.name(),
            "bytes": item.bytes.round(), "times_per_day": item.times,
        })).collect::<Vec<_>>(),
    });
    let judged =
        [("without a tunnel", cold_bytes, DOORBELL_GOAL), ("with one", warm_bytes, WARM_GOAL)];
    // A tunnel is kept up by its traffic as yet: what that costs follows from its pace.
    for (what, bytes, goal) in &judged[..if stage.options.short { 1 } else { 2 }] {
        if bytes > goal {
            let words = format!("{bytes} B a day {what}, the goal is {goal} B");
            return Err(Failure::expectation(words).line("measured", document.to_string()));
        }
    }
    Ok(document)
}

/// Nobody talks: signs of life, pings, and whatever else there is.
fn doorbell(stage: &mut Stage<'_>, journal: &Journal, a: &Gateway) -> Result<Vec<Item>> {
    let (heartbeat_s, _) = pace(stage);
    // What the first words of the tunnel are followed by is over.
    let began = clock::now();
    wait_until(FORGOTTEN * 6, "the tunnel is quiet", || {
        let seen = journal.seen();
        let last = seen.iter().rev().find(|sight| sight.cause != Cause::Control);
        Ok(last.map_or(began, |last| last.at).elapsed() > FORGOTTEN)
    })?;
    if !stage.options.short {
        wait_until(IDLE_WITHIN, "the tunnel is over", || Ok(a.process.has_said("peer.down")))?;
    }
    journal.rest()?;
    // Two signs of life come in this at least.
    let window = Duration::from_secs(heartbeat_s * 2 + 5);
    let began = clock::now();
    signal::rest(window);
    if signal::asked_to_stop() {
        return Err(Failure::stopped());
    }
    let seen = journal.take();
    let (mut lives, mut pings): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    for event in events(&seen).into_iter().filter(|event| event.cause == Cause::Control) {
        // A request of two bytes, its answer and what acknowledges them.
        let is_ping = event.bytes < 350;
        if is_ping { &mut pings } else { &mut lives }.push(event.bytes as f64);
    }
    let words = format!("signs of life of {lives:?} B, pings of {pings:?} B");
    stage.story.done("idle", &words, Some(window));
    // Nothing else is expected, so whoever reads wants to know what it was.
    for sight in seen.iter().filter(|sight| sight.cause != Cause::Control) {
        let Sight { bytes, far, cause, .. } = sight;
        let to = if sight.leaves { "to" } else { "from" };
        let after = ui::span(sight.at.saturating_duration_since(began));
        stage.story.line(&format!("  {:<9} {bytes} B {to} {far} after {after}", cause.name()));
    }
    // An acknowledgement more or less is chance.
    let usual = |all: &mut Vec<f64>, what: &str| -> Result<f64> {
        all.sort_by(f64::total_cmp);
        let window = ui::span(window);
        let none = || Failure::expectation(format!("no {what} in {window}"));
        all.get(all.len().saturating_sub(1) / 2).copied().ok_or_else(none)
    };
    let (life, ping) = (usual(&mut lives, "sign of life")?, usual(&mut pings, "ping")?);
    let every = HEARTBEAT_S as f64 * HEARTBEAT_SHARE;
    let lives_a_day = DAY / every;
    // A sign of life is a word on the line too.
    let pings_each = (every / (PING_S - PING_LEAD_S) as f64).floor();
    let mut items = vec![
        Item::of("sign of life", Cause::Control, life, lives_a_day),
        // Any word of the coordinator renews it; a question for that alone is smaller.
        Item::of("lease renewal", Cause::Control, life, 1.0),
        Item::of("ping of the line", Cause::Control, ping, lives_a_day * pings_each),
    ];
    let times = DAY / window.as_secs_f64();
    for cause in Cause::ALL.into_iter().filter(|cause| *cause != Cause::Control) {
        let there = bytes(&seen, cause) as f64;
        match cause {
            _ if there == 0.0 => {}
            Cause::Other => items.push(Item::of("search for a mapping", cause, there, SEARCHES)),
            _ => items.push(Item::of(cause.name(), cause, there, times)),
        }
    }
    Ok(items)
}

/// The coordinator starts anew: its line is lost, opened again, and everything on it
/// is agreed anew.
fn reconnect(
    stage: &mut Stage<'_>,
    coordinator: &mut Coordinator,
    a: &Gateway,
    journal: &Journal,
) -> Result<Vec<Item>> {
    journal.rest()?;
    let said = a.process.lines_so_far();
    coordinator.end()?;
    coordinator.restart()?;
    let connected = || Ok(text(&a.status()?, "/coordinator/state")? == "connected");
    wait_until(BACK, "gw-a notices that its line is lost", || Ok(!journal.seen().is_empty()))?;
    wait_until(BACK, "gw-a is connected again", connected)?;
    wait_until(BACK, "gw-a has said what it has to", || {
        Ok(journal.last().is_some_and(|last| last.elapsed() > PAUSE))
    })?;
    // Its log says when the line stood; the sealed handshake comes next.
    let stood = a.process.wait_for(said, BACK, "when its line stood", |line| {
        let at = line.contains("control.connected").then(|| line.split_whitespace().next())??;
        clock::now().checked_sub(wall::age_of(at)?)
    })?;
    let seen = journal.take();
    let cost = bytes(&seen, Cause::Control) as f64;
    let rekey = handshake(&seen, stood)?;
    stage.story.done(
        "reconnect",
        &format!("{cost:.0} B, {rekey:.0} B of it to agree on keys"),
        None,
    );
    Ok(vec![
        Item::of("reconnect", Cause::Control, cost, 1.0),
        Item::of("sealed rekey", Cause::Control, rekey, 1.0),
    ])
}

/// Bytes of the sealed handshake, which is the first thing on a line that stands: up
/// to the first answer that is more than an acknowledgement, and what acknowledges
/// that one.
fn handshake(seen: &[Sight], stood: Instant) -> Result<f64> {
    let after = seen.iter().filter(|one| one.cause == Cause::Control && one.at >= stood);
    let asks = |sight: &&Sight| sight.leaves && sight.bytes > ACKNOWLEDGEMENT;
    let mut bytes = ACKNOWLEDGEMENT;
    for sight in after.skip_while(|sight| !asks(sight)) {
        bytes += sight.bytes;
        if !sight.leaves && sight.bytes > ACKNOWLEDGEMENT {
            return Ok(bytes as f64);
        }
    }
    Err(Failure::expectation("nothing answered on the line that was opened again"))
}

/// A way that both keep open by pings, which come less often for as long as the
/// routers remember it.
fn warm(stage: &mut Stage<'_>, journal: &Journal, [a, b]: [&mut Gateway; 2]) -> Result<Vec<Item>> {
    let keep = |gateway: &mut Gateway, other: &str| {
        gateway.say("down")?;
        let warm = format!("[network]\nkeep_warm = [\"{other}\"]\n");
        gateway.set(&format!("{}{warm}", settings()))?;
        gateway.up()
    };
    keep(b, a.name())?;
    keep(a, b.name())?;
    wait_until(BACK, "the peer is called", || {
        Ok(a.status().is_ok()
            && a.peer(b.name()).is_ok_and(|peer| peer["path"]["kind"] == "direct"))
    })?;
    journal.rest()?;
    // The pauses double: the third is the longest that these boxes bear.
    let wanted = if stage.options.short { 1 } else { 3 };
    let mut reminders = Vec::new();
    let began = clock::now();
    wait_until(WARM_WITHIN, "pings keep the way open", || {
        let seen = journal.seen();
        let all = events(&seen).into_iter();
        reminders = all.filter(|event| event.cause == Cause::Probe).collect();
        Ok(reminders.len() > wanted || reminders.get(wanted - 1).is_some_and(Event::is_over))
    })?;
    let ats = reminders.iter().map(|event| ui::span(event.last.saturating_duration_since(began)));
    stage.story.done("warm", &format!("pings after {}", ats.collect::<Vec<_>>().join(", ")), None);
    let last = reminders.get(wanted - 1).map_or(0, |event| event.bytes);
    let seen = journal.take();
    let of = |cause: Cause| bytes(&seen, cause);
    if of(Cause::Handshake) + of(Cause::Payload) + of(Cause::Stun) > 0 {
        let words = "a way that is kept open costs more than pings";
        return Err(Failure::expectation(words));
    }
    let times = DAY / REMINDED_S as f64;
    Ok(vec![Item::of("ping and answer", Cause::Probe, last as f64, times)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_an_event_and_another_cause_does_not() {
        let start = clock::now();
        let far = "203.0.113.10:7420".parse().unwrap();
        let sight = |millis, bytes, cause| Sight {
            at: start + Duration::from_millis(millis),
            leaves: true,
            bytes,
            far,
            cause,
        };
        let seen = [
            sight(0, 100, Cause::Control),
            sight(20, 7, Cause::Stun),
            sight(1_400, 50, Cause::Control),
            sight(2_900, 60, Cause::Control),
        ];
        let all: Vec<_> =
            events(&seen).iter().map(|event| (event.cause, event.packets, event.bytes)).collect();
        let expected = [(Cause::Control, 2, 150), (Cause::Stun, 1, 7), (Cause::Control, 1, 60)];
        assert_eq!(all, expected);
    }
}
