//! The phases: ramp, steady, storm, churn.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use weft_wire::frame::{MAX_FRAME, MAX_FRAME_CHIP};
use weft_wire::id::DeviceId;
use weft_wire::join::JoinString;

use crate::board::{Known, Order, Word};
use crate::clock;
use crate::coordinator::{Started, parse_join};
use crate::device::{Device, World};
use crate::failure::{Failure, Result};
use crate::plan::{Change, Dice, Layout, Pace};
use crate::proc::Usage;
use crate::report::{Phase, Report};
use crate::rest::Operator;

/// How long the last devices may take after everything was asked for.
const SETTLE: Duration = Duration::from_secs(30);
/// A line that is cut a fourth time within 30 s waits longer than its window.
const STORMS: [&str; 3] = ["storm", "storm_2", "storm_3"];
const RESTARTS: [&str; 3] = ["restart", "restart_2", "restart_3"];
/// Devices report once in so many seconds, as WELCOME asks.
const HEARTBEAT_S: u64 = 900;
/// Names carry the number of their change: the churn counts from 0.
const FIRST_SINGLE: usize = 100_000;
/// What a change still causes after it has arrived: its answers.
const AFTERMATH: Duration = Duration::from_secs(1);
/// The first port of rules that the churn makes.
const PORTS: u16 = 20_000;

/// What a run consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) layout: Layout,
    /// Enrolments per second.
    pub(crate) ramp: Pace,
    pub(crate) steady: Duration,
    /// Changes of one device, one after the other.
    pub(crate) singles: u32,
    pub(crate) storms: usize,
    pub(crate) restarts: usize,
    pub(crate) churn: Duration,
    /// Changes per second.
    pub(crate) changes: Pace,
    pub(crate) seed: u64,
}

/// What lets devices in.
pub(crate) enum Keys {
    /// A key for everybody.
    One(Rc<JoinString>),
    /// Of each site: its gateway's and its devices'.
    Sites(Vec<[Rc<JoinString>; 2]>),
}

impl Keys {
    fn of(&self, layout: Layout, place: usize) -> &Rc<JoinString> {
        match self {
            Self::One(join) => join,
            Self::Sites(sites) => {
                let [gateway, device] = &sites[layout.site(place)];
                if layout.is_gateway(place) { gateway } else { device }
            }
        }
    }
}

/// The policy of the fleet's network: a rule per site.
struct Policy {
    network: String,
    version: u64,
    rules: Vec<Value>,
    next_port: u16,
}

/// An operator of the coordinator and what he has made.
pub(crate) struct Office {
    operator: Operator,
    policy: Policy,
}

impl Office {
    /// Makes two keys for each site, and the policy "each device with its site's
    /// gateway only".
    pub(crate) async fn open(operator: Operator, layout: Layout) -> Result<(Self, Keys)> {
        let mut sites = Vec::new();
        for site in 0..layout.sites() {
            let tag = format!("site={site}");
            let gateway = [tag.clone(), "role=gateway".to_owned()];
            let gateway = operator.create_key(&format!("gateway-{site}"), None, &gateway).await?;
            let device = operator.create_key(&format!("site-{site}"), None, &[tag]).await?;
            sites.push([Rc::new(parse_join(&gateway)?), Rc::new(parse_join(&device)?)]);
        }
        let rules: Vec<Value> = (0..layout.sites()).map(|site| rule(site, "any")).collect();
        let (network, version) = operator.policy().await?;
        let (version, _) = operator.set_policy(&network, version, &rules).await?;
        let policy = Policy { network, version, rules, next_port: PORTS };
        Ok((Self { operator, policy }, Keys::Sites(sites)))
    }
}

fn rule(site: usize, allow: &str) -> Value {
    json!({
        "name": format!("site {site}"),
        "from": [format!("site={site}")],
        "to": [format!("site={site} role=gateway")],
        "allow": [allow],
    })
}

/// The figures of a phase count from here.
struct Mark {
    at: Instant,
    coordinator: Option<Usage>,
    fleet: Usage,
}

/// Whose coordinator it is.
pub(crate) enum Host {
    /// The fleet's own.
    Own { started: Box<Started>, office: Office },
    /// Somebody else's: its policy is not known, and nothing is changed there.
    /// Holds its process, if that is known.
    Other(Option<u32>),
}

impl Host {
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Own { started, .. } => Some(started.pid()),
            Self::Other(pid) => *pid,
        }
    }

    const fn is_own(&self) -> bool {
        matches!(self, Self::Own { .. })
    }
}

/// A fleet and its coordinator.
pub(crate) struct Fleet {
    course: Course,
    world: Rc<World>,
    keys: Rc<Keys>,
    tasks: JoinSet<()>,
    // Dropped last: the lines are gone when the coordinator is ended.
    host: Host,
}

impl Fleet {
    pub(crate) fn new(course: Course, world: World, keys: Keys, host: Host) -> Self {
        let (world, keys) = (Rc::new(world), Rc::new(keys));
        Self { course, world, keys, tasks: JoinSet::new(), host }
    }

    /// All phases, one after the other. Inside a `LocalSet`.
    pub(crate) async fn run(&mut self, report: &mut Report) -> Result<()> {
        self.ramp(report).await?;
        if !self.course.steady.is_zero() {
            self.steady(report).await?;
        }
        if self.course.singles > 0 && self.host.is_own() {
            self.singles(report).await?;
        }
        for name in RESTARTS.into_iter().take(self.course.restarts) {
            if self.host.is_own() {
                self.restart(name, report).await?;
            }
        }
        for name in STORMS.into_iter().take(self.course.storms) {
            self.storm(name, report).await?;
        }
        if !self.course.churn.is_zero() {
            self.churn(report).await?;
        }
        report.verdict()
    }

    fn usage(&self) -> Result<Option<Usage>> {
        self.host.pid().map(Usage::of).transpose()
    }

    fn mark(&self) -> Result<Mark> {
        self.world.board.take_figures();
        let fleet = Usage::of(std::process::id())?;
        Ok(Mark { at: clock::now(), coordinator: self.usage()?, fleet })
    }

    /// Ends a phase: takes what was measured since the mark.
    fn close(
        &mut self,
        name: &'static str,
        mark: &Mark,
        counts: BTreeMap<&'static str, u64>,
        report: &mut Report,
    ) -> Result<()> {
        let took = clock::now() - mark.at;
        let now = self.usage()?;
        report.usage = now;
        let coordinator = now.zip(mark.coordinator);
        let cost = |now: Usage, before: &Usage| now.since(before, took.as_secs_f64());
        let figures = self.world.board.take_figures();
        let refused: usize = figures.refused.values().sum();
        let codes: Vec<u16> = figures.refused.keys().copied().collect();
        report.add(Phase {
            name,
            took,
            figures,
            coordinator: coordinator.map(|(now, before)| cost(now, &before)),
            fleet: cost(Usage::of(std::process::id())?, &mark.fleet),
            counts,
        });
        report.expect(refused == 0, || format!("{refused} devices were refused: {codes:?}"));
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                return Err(Failure::new("fleet.device", "a simulated device failed")
                    .line("cause", error.to_string()));
            }
        }
        Ok(())
    }

    fn start(&mut self, place: usize) {
        let (world, keys, layout) =
            (Rc::clone(&self.world), Rc::clone(&self.keys), self.course.layout);
        if layout.is_gateway(place) {
            self.tasks.spawn_local(inhabit::<MAX_FRAME>(place, world, keys, layout));
        } else {
            self.tasks.spawn_local(inhabit::<MAX_FRAME_CHIP>(place, world, keys, layout));
        }
    }

    /// Whether a device has a session and its whole map.
    fn is_settled(&self, known: &Known, place: usize) -> bool {
        let seat = &known.seats[place];
        let whole = match (&self.host, seat.peers) {
            (Host::Own { .. }, Some(peers)) => peers == self.course.layout.peers(place),
            (Host::Other(_), Some(_)) => true,
            (_, None) => false,
        };
        seat.confirmed && whole
    }

    /// Waits until everybody has a session, then until everybody has all of the
    /// map.
    async fn settle(&self, limit: Duration) -> Result<()> {
        let devices = self.course.layout.devices;
        let board = &self.world.board;
        let sessions = |known: &Known| {
            format!("{} of {devices} have one; {:?}", known.confirmed(), known.figures.lost)
        };
        let all = |known: &Known| known.confirmed() == devices;
        board.until(limit, "a session for every device", all, sessions).await?;
        let unsettled = |known: &Known| {
            let places = (0..devices).filter(|&place| !self.is_settled(known, place));
            let seen = places.map(|place| (place, known.seats[place].peers));
            let (mut some, mut count) = (Vec::new(), 0);
            for one in seen {
                count += 1;
                if some.len() < 5 {
                    some.push(one);
                }
            }
            format!("{count} devices, among them (place, peers) {some:?}")
        };
        let whole = |known: &Known| (0..devices).all(|place| self.is_settled(known, place));
        board.until(SETTLE, "the whole map for every device", whole, unsettled).await
    }

    async fn ramp(&mut self, report: &mut Report) -> Result<()> {
        let Course { layout, ramp, .. } = self.course;
        let mark = self.mark()?;
        for place in 0..layout.devices {
            sleep_until(mark.at + ramp.due(place)).await;
            self.start(place);
        }
        // A coordinator slower than the ramp is measured, not cut off.
        let settled = self.settle(SETTLE + ramp.due(layout.devices)).await;
        // What was measured is told also when it is not enough.
        self.close("ramp", &mark, BTreeMap::new(), report)?;
        settled?;
        report.expect(true, || unreachable!("it settled"));
        Ok(())
    }

    async fn steady(&mut self, report: &mut Report) -> Result<()> {
        let mark = self.mark()?;
        let Course { layout, steady, .. } = self.course;
        // Heartbeats come as often as from a fleet that began hours ago.
        let beats = layout.devices as u64 * steady.as_secs() / HEARTBEAT_S;
        let beats = u32::try_from(beats).unwrap_or(u32::MAX);
        for number in 0..beats {
            sleep_until(mark.at + steady * number / beats).await;
            let place = number as usize * layout.devices / beats as usize;
            self.world.board.known().seats[place].orders.give(Order::Report);
        }
        sleep_until(mark.at + steady).await;
        let confirmed = self.world.board.known().confirmed();
        let lost = self.world.board.known().figures.lost_count();
        let dropped = self.world.board.known().figures.dropped_count();
        self.close("steady", &mark, BTreeMap::new(), report)?;
        report.expect(dropped == 0, || format!("{dropped} frames came that nobody waited for"));
        report.expect(lost == 0, || format!("{lost} lines were lost while nothing happened"));
        let devices = self.course.layout.devices;
        report.expect(confirmed == devices, || format!("{confirmed} of {devices} have a session"));
        Ok(())
    }

    /// What one change costs: a device is renamed, and the next one when that
    /// has arrived everywhere.
    async fn singles(&mut self, report: &mut Report) -> Result<()> {
        let Course { layout, singles, seed, .. } = self.course;
        let mark = self.mark()?;
        let mut dice = Dice::new(seed);
        let mut changes = 0;
        for number in 0..singles as usize {
            let Some(place) = dice.device(layout) else { break };
            self.apply(Change::Rename(place), FIRST_SINGLE + number).await?;
            let missing = |known: &Known| known.missing().join("; ");
            let arrived = |known: &Known| known.on_their_way() == 0;
            let board = &self.world.board;
            board.until(SETTLE, "a device's new name at its gateway", arrived, missing).await?;
            changes += 1;
        }
        sleep_until(clock::now() + AFTERMATH).await;
        self.close("singles", &mark, BTreeMap::from([("changes", changes)]), report)?;
        report.expect(changes > 0 || layout.devices < 2, || "no device was changed".to_owned());
        Ok(())
    }

    /// The coordinator is ended and started again: from then on until every
    /// device has a session.
    async fn restart(&mut self, name: &'static str, report: &mut Report) -> Result<()> {
        let devices = self.course.layout.devices;
        let mut mark = self.mark()?;
        let Host::Own { started, .. } = &mut self.host else { return Ok(()) };
        started.restart().await?;
        // Another process: all that it has used belongs to this phase.
        mark.coordinator = Some(Usage::default());
        let down = clock::now() - mark.at;
        let back =
            |known: &Known| known.figures.back.len() >= devices && known.confirmed() == devices;
        let text = |known: &Known| {
            format!("{} of {devices} are; {:?}", known.confirmed(), known.figures.lost)
        };
        let all = self.world.board.until(SETTLE * 2, "every device back", back, text).await;
        let down_ms = u64::try_from(down.as_millis()).unwrap_or(u64::MAX);
        self.close(name, &mark, BTreeMap::from([("down_ms", down_ms)]), report)?;
        all?;
        report.expect(true, || unreachable!("all are back"));
        Ok(())
    }

    async fn storm(&mut self, name: &'static str, report: &mut Report) -> Result<()> {
        let devices = self.course.layout.devices;
        let mark = self.mark()?;
        for seat in &self.world.board.known().seats {
            seat.orders.give(Order::Cut);
        }
        let back =
            |known: &Known| known.figures.back.len() >= devices && known.confirmed() == devices;
        let text = |known: &Known| {
            format!("{} of {devices} are; {:?}", known.confirmed(), known.figures.lost)
        };
        let all = self.world.board.until(SETTLE * 2, "every device back", back, text).await;
        let outside = self.world.board.known().figures.outside;
        let counts = BTreeMap::from([("outside_window", outside as u64)]);
        self.close(name, &mark, counts, report)?;
        all?;
        report.expect(outside == 0, || {
            format!("{outside} devices came back outside the window that WELCOME named")
        });
        Ok(())
    }

    async fn churn(&mut self, report: &mut Report) -> Result<()> {
        let Course { layout, churn, changes, seed, .. } = self.course;
        let mark = self.mark()?;
        let mut dice = Dice::new(seed);
        let mut counts = BTreeMap::from([("deferred", 0)]);
        for number in 0..changes.within(churn) {
            sleep_until(mark.at + changes.due(number)).await;
            let busy = self.unsettled_sites();
            let kind = match dice.change(layout, &busy) {
                Some(change) => self.apply(change, number).await?,
                None => "deferred",
            };
            *counts.entry(kind).or_default() += 1;
        }
        let missing = |known: &Known| known.missing().join("; ");
        let arrived = |known: &Known| known.on_their_way() == 0;
        let board = &self.world.board;
        let mut all = board.until(SETTLE, "every change everywhere", arrived, missing).await;
        if all.is_ok() {
            all = self.settle(SETTLE).await;
        }
        let deferred = counts.get("deferred").copied().unwrap_or(0);
        let done: u64 = counts.values().sum::<u64>() - deferred;
        self.close("churn", &mark, counts, report)?;
        all?;
        report.expect(done > 0, || format!("no change was made, {deferred} were deferred"));
        Ok(())
    }

    /// Sites where something is under way.
    fn unsettled_sites(&self) -> Vec<usize> {
        let known = self.world.board.known();
        let layout = self.course.layout;
        let mut busy = known.busy();
        busy.extend(
            (0..layout.sites())
                .filter(|&site| layout.places(site).any(|place| !self.is_settled(&known, place))),
        );
        busy
    }

    /// Makes one change; says of which kind it was.
    async fn apply(&mut self, change: Change, number: usize) -> Result<&'static str> {
        let layout = self.course.layout;
        let Host::Own { office, .. } = &mut self.host else {
            // Nobody here may change the coordinator: only devices come and go.
            let (Change::Rename(place) | Change::Restart(place) | Change::Replace(place)) = change
            else {
                return Ok("deferred");
            };
            self.world.board.known().seats[place].orders.give(Order::Leave);
            // Its place is settled no more until the next one has its map.
            self.world.board.change().seats[place].peers = None;
            return Ok("leave");
        };
        let board = &self.world.board;
        let device = |place: usize| -> Result<DeviceId> {
            board.known().seats[place]
                .device
                .ok_or_else(|| Failure::new("fleet.device", format!("place {place} is empty")))
        };
        match change {
            Change::Rename(place) => {
                let id = device(place)?.to_string();
                let name = format!("sim-{place}-{number}");
                let version = office.operator.device_version(&id).await?;
                let word = Word::Named(name.clone());
                board.change().expect(word.clone(), layout.site(place), "rename");
                office.operator.rename(&id, version, &name).await?;
                // Itself, and its gateway.
                board.change().expect_of(&word, 2);
                Ok("rename")
            }
            Change::Policy(site) => {
                let policy = &mut office.policy;
                let word = Word::Port(policy.next_port);
                policy.rules[site] = rule(site, &format!("tcp/{}", policy.next_port));
                policy.next_port += 1;
                board.change().expect(word.clone(), site, "policy");
                let (network, rules) = (&policy.network, &policy.rules);
                let set = office.operator.set_policy(network, policy.version, rules).await?;
                policy.version = set.0;
                board.change().expect_of(&word, usize::try_from(set.1).unwrap_or(usize::MAX));
                Ok("policy")
            }
            Change::Restart(place) => {
                let id = device(place)?;
                let word = Word::Restart(id);
                board.change().expect(word.clone(), layout.site(place), "restart");
                office.operator.restart(&id.to_string()).await?;
                board.change().expect_of(&word, 1);
                Ok("restart")
            }
            Change::Replace(place) => {
                let word = Word::Gone(device(place)?);
                board.change().expect(word.clone(), layout.site(place), "leave");
                board.change().expect_of(&word, 1);
                board.known().seats[place].orders.give(Order::Leave);
                Ok("leave")
            }
        }
    }
}

/// The devices of one place: the next one comes when one has left.
async fn inhabit<const FRAME: usize>(
    place: usize,
    world: Rc<World>,
    keys: Rc<Keys>,
    layout: Layout,
) {
    loop {
        let join = keys.of(layout, place);
        Device::<FRAME>::new(place, Rc::clone(&world), join).run().await;
        let mut known = world.board.change();
        let seat = &mut known.seats[place];
        if !std::mem::take(&mut seat.left) {
            return;
        }
        seat.device = None;
    }
}
