//! `weft-fleet crash`: the coordinator is killed (`kill -9`) at random points
//! while devices enrol. Whatever it answered has to be true at the end.
//!
//! Devices come in waves, each with a key of its own that is good for all of them
//! but a tenth: that tenth is refused. Each life of the coordinator is given
//! devices that have not asked yet, so every kill falls into an enrolment, and
//! everybody who has no answer starts anew when the coordinator is back, as after
//! a power cut. Times of the kills come from a seed; a quarter of them fall before
//! the coordinator is ready.

pub(crate) mod history;

mod database;

use std::future::pending;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use weft_wire::frame::MAX_FRAME_CHIP;
use weft_wire::id::KeyId;
use weft_wire::join::JoinString;

use self::history::{Ask, Findings, Told};
use crate::board::{Known, Order};
use crate::clock;
use crate::coordinator::{Serving, Site, parse_join};
use crate::device::{Device, World};
use crate::failure::{Failure, Result};
use crate::plan::Dice;
use crate::rest::Operator;
use crate::samples::Samples;
use crate::ui;

/// Devices that a wave's key lets in.
const WAVE: usize = 50;
/// Devices that want the one use of a key at once: as many as may enrol at once.
const CONTESTANTS: usize = 64;
/// A life ends within so many times what a start takes: some before the
/// coordinator is ready, most while it takes in whoever waited for it.
const STARTS: u32 = 4;
/// For so many who wait it lasts as long again.
const CROWD: usize = 8;
/// How long the last devices may take when nothing is killed any more.
const SETTLE: Duration = Duration::from_secs(120);
/// Violations that are shown; all are counted.
const SHOWN: usize = 10;

/// What a run consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    /// Devices that are to be taken in.
    pub(crate) devices: usize,
    pub(crate) kills: usize,
    /// How often [`CONTESTANTS`] devices want one use.
    pub(crate) contests: usize,
    pub(crate) seed: u64,
    pub(crate) json: bool,
}

/// Devices with one key.
struct Wave {
    members: usize,
    /// The first place, and how many.
    places: std::ops::Range<usize>,
    /// Its key, once one was made.
    key: Option<Rc<JoinString>>,
    /// Keys that were asked for.
    tries: usize,
    ended: bool,
}

/// The waves of so many devices.
fn waves(devices: usize) -> Vec<Wave> {
    let mut first = 0;
    let mut waves = Vec::new();
    for from in (0..devices).step_by(WAVE) {
        let members = (devices - from).min(WAVE);
        let last = first + members + members.div_ceil(10);
        let places = first..last;
        waves.push(Wave { members, places, key: None, tries: 0, ended: false });
        first = last;
    }
    waves
}

/// What was seen of the coordinator's lives.
#[derive(Default)]
struct Lives {
    /// Start of the program to "ready".
    starts: Samples,
    killed: usize,
    killed_early: usize,
    /// Kills while somebody waited for an answer.
    killed_amid: usize,
    /// Devices that had their answer before the last life began.
    answered: usize,
}

struct Crash {
    trial: Trial,
    site: Site,
    world: Rc<World>,
    waves: Vec<Wave>,
    /// Places before this one have asked.
    released: usize,
    tasks: JoinSet<()>,
    dice: Dice,
    lives: Lives,
}

/// Runs it; the document, also when something is wrong.
///
/// # Errors
///
/// What does not hold.
pub(crate) async fn run(trial: Trial, program: &Path) -> Result<Value> {
    let began = clock::now();
    let waves = waves(trial.devices);
    let queued = waves.last().map_or(0, |wave| wave.places.end);
    let site = Site::init(program)?;
    let places = queued + trial.contests * CONTESTANTS;
    let world = Rc::new(World::recorded(places, site.address(), CONTESTANTS));
    let mut crash = Crash {
        trial,
        site,
        world,
        waves,
        released: 0,
        tasks: JoinSet::new(),
        dice: Dice::new(trial.seed),
        lives: Lives::default(),
    };
    crash.say(&format!(
        "crash: {} devices, {} kills, {} contests, seed {}",
        trial.devices, trial.kills, trial.contests, trial.seed
    ));
    crash.contests(queued).await?;
    for kill in 0..trial.kills {
        crash.life(kill, queued).await?;
    }
    crash.last_life(queued).await?;
    let left = database::read(&crash.site.database())?;
    let findings = crash.world.history().check(&left);
    let mut document = crash.document(&findings)?;
    document["took_ms"] = json!((clock::now() - began).as_millis() as u64);
    Ok(document)
}

impl Crash {
    fn say(&self, text: &str) {
        ui::story(self.trial.json, text);
    }

    fn operator(&self) -> Operator {
        Operator::new(self.site.socket())
    }

    fn start_device(&mut self, place: usize, key: &JoinString) {
        let device = Device::<MAX_FRAME_CHIP>::new(place, Rc::clone(&self.world), key);
        self.tasks.spawn_local(device.run());
    }

    /// Many devices want the one use of a key, all at once.
    async fn contests(&mut self, first: usize) -> Result<()> {
        let began = clock::now();
        let (serving, said) = self.site.serve()?;
        said.ready().await?;
        self.lives.starts.add(clock::now() - began);
        for contest in 0..self.trial.contests {
            let key = self.make_key(&format!("contest-{contest}"), 1).await?;
            let places = first + contest * CONTESTANTS..first + (contest + 1) * CONTESTANTS;
            places.clone().for_each(|place| self.start_device(place, &key));
            self.all_over(places).await?;
            let winners = self.world.history().taken_with(key.key);
            if winners != 1 {
                let sentence = format!("{winners} of {CONTESTANTS} devices got a key's one use");
                return Err(Failure::expectation(sentence));
            }
        }
        drop(serving);
        Ok(())
    }

    /// One life of the coordinator, ended by a kill.
    async fn life(&mut self, number: usize, queued: usize) -> Result<()> {
        let began = clock::now();
        // The more wait, the longer: they are to be taken in between kills, and
        // not after the last.
        let waiting = self.waiting();
        let crowd = u32::try_from(waiting / CROWD).unwrap_or(u32::MAX);
        let span = STARTS * self.lives.starts.median() * crowd.saturating_add(1);
        let span = self.dice.below(usize::try_from(span.as_micros()).unwrap_or(usize::MAX));
        let kill_at = began + Duration::from_micros(span as u64);
        let (serving, said) = self.site.serve()?;
        let target = (queued * (number + 1)).div_ceil(self.trial.kills);
        let ready_before = self.lives.starts.len();
        let work = async {
            said.ready().await?;
            self.lives.starts.add(clock::now() - began);
            self.work(target).await?;
            pending().await
        };
        let worked: Option<Result<()>> = tokio::select! {
            ended = work => Some(ended),
            () = sleep_until(kill_at) => None,
        };
        worked.transpose()?;
        self.lives.killed += 1;
        self.lives.killed_early += usize::from(self.lives.starts.len() == ready_before);
        self.lives.killed_amid += usize::from(self.waiting() > 0);
        self.kill(serving)
    }

    /// How many have asked and have no answer.
    fn waiting(&self) -> usize {
        let known = self.world.board.known();
        known.seats[..self.released].iter().filter(|seat| !seat.over).count()
    }

    fn kill(&self, serving: Serving) -> Result<()> {
        let Some(status) = serving.kill()? else { return Ok(()) };
        let failure = Failure::expectation(format!("the coordinator ended by itself: {status}"));
        Err(failure.line("killed", format!("{} of {}", self.lives.killed, self.trial.kills)))
    }

    /// The life in which everybody comes to an end.
    async fn last_life(&mut self, queued: usize) -> Result<()> {
        let began = clock::now();
        self.lives.answered =
            self.world.board.known().seats[..queued].iter().filter(|seat| seat.over).count();
        let (serving, said) = self.site.serve()?;
        said.ready().await?;
        self.lives.starts.add(clock::now() - began);
        self.work(queued).await?;
        self.all_over(0..queued).await?;
        self.end_keys().await?;
        // An orderly end closes the database.
        drop(serving);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|error| {
                Failure::new("fleet.device", "a simulated device failed")
                    .line("cause", error.to_string())
            })?;
        }
        Ok(())
    }

    /// What devices and operators do once the coordinator is there.
    async fn work(&mut self, target: usize) -> Result<()> {
        for seat in &self.world.board.known().seats[..self.released] {
            if !seat.over {
                seat.orders.give(Order::Reboot);
            }
        }
        self.end_keys().await?;
        while self.released < target {
            let place = self.released;
            let wave = self.waves.iter().position(|wave| wave.places.contains(&place));
            let Some(wave) = wave else { return Ok(()) };
            let key = self.key_of(wave).await?;
            self.released += 1;
            self.start_device(place, &key);
        }
        Ok(())
    }

    async fn key_of(&mut self, wave: usize) -> Result<Rc<JoinString>> {
        if let Some(key) = &self.waves[wave].key {
            return Ok(Rc::clone(key));
        }
        // A name of its own: one that was asked for before may be taken.
        let name = format!("wave-{wave}-{}", self.waves[wave].tries);
        self.waves[wave].tries += 1;
        let key = self.make_key(&name, self.waves[wave].members).await?;
        self.waves[wave].key = Some(Rc::clone(&key));
        Ok(key)
    }

    async fn make_key(&self, name: &str, max_uses: usize) -> Result<Rc<JoinString>> {
        let ticket = self.world.history().begin(Ask::MakeKey(name.to_owned()));
        let text = self.operator().create_key(name, Some(max_uses), &[]).await?;
        let join = Rc::new(parse_join(&text)?);
        let max_uses = u32::try_from(max_uses).unwrap_or(u32::MAX);
        self.world.history().end(ticket, Told::KeyMade { key: join.key, max_uses });
        Ok(join)
    }

    /// Ends the keys of waves whose devices all have their answer.
    async fn end_keys(&mut self) -> Result<()> {
        for at in 0..self.waves.len() {
            let wave = &self.waves[at];
            let over = |known: &Known| known.seats[wave.places.clone()].iter().all(|s| s.over);
            let Some(key) = &wave.key else { continue };
            if wave.ended || !over(&self.world.board.known()) {
                continue;
            }
            self.end_key(key.key).await?;
            self.waves[at].ended = true;
        }
        Ok(())
    }

    async fn end_key(&self, key: KeyId) -> Result<()> {
        let ticket = self.world.history().begin(Ask::EndKey(key));
        self.operator().end_key(&key.to_string()).await?;
        self.world.history().end(ticket, Told::KeyEnded);
        Ok(())
    }

    async fn all_over(&self, places: std::ops::Range<usize>) -> Result<()> {
        let seats = |known: &Known| known.seats[places.clone()].iter().filter(|s| s.over).count();
        let missing =
            |known: &Known| format!("{} of {} have one", seats(known), places.clone().len());
        let all = |known: &Known| seats(known) == places.len();
        self.world.board.until(SETTLE, "an answer for every device", all, missing).await
    }

    fn document(&self, findings: &Findings) -> Result<Value> {
        let Lives { starts, killed, killed_early, killed_amid, answered } = &self.lives;
        let enrolled = findings.enrolled.saturating_sub(self.trial.contests);
        let history = self.world.history();
        self.say(&format!(
            "killed {killed} times, {killed_early} before it was ready, {killed_amid} while \
             somebody waited"
        ));
        self.say(&format!("start to ready   {}", starts.text()));
        self.say(&format!(
            "{} operations, {} without an answer; {enrolled} devices enrolled, {answered} had an \
             answer before the last kill",
            history.len(),
            history.unanswered()
        ));
        let document = json!({
            "double_addresses": findings.double_addresses,
            "lost_acknowledged": findings.lost_acknowledged,
            "overused_keys": findings.overused_keys,
            "enrolled": enrolled,
            "other_violations": findings.other,
            "devices": self.trial.devices,
            "kills": killed,
            "killed_before_ready": killed_early,
            "killed_amid": killed_amid,
            "answered_before_last_kill": answered,
            "contests": self.trial.contests,
            "operations": history.len(),
            "unanswered": history.unanswered(),
            "start": starts.json(),
            "seed": self.trial.seed,
        });
        if findings.is_clean() && enrolled == self.trial.devices {
            return Ok(document);
        }
        let sentence = format!("the database is not what was answered: {document}");
        let shown = findings.words.iter().take(SHOWN);
        Err(shown
            .fold(Failure::expectation(sentence), |failure, words| failure.line("also", words)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wave_has_more_devices_than_its_key_lets_in() {
        for devices in [1, 49, 50, 51, 100, 2_000] {
            let waves = waves(devices);
            let members: usize = waves.iter().map(|wave| wave.members).sum();
            assert_eq!(members, devices);
            let mut next = 0;
            for wave in &waves {
                assert_eq!(wave.places.start, next);
                assert!(wave.places.len() > wave.members);
                next = wave.places.end;
            }
        }
    }
}
