//! A gateway whose clock is wrong: it begins in 1970, as that of a board without
//! a battery does, and jumps while the daemon runs. Nothing that matters may
//! depend on it: not the stamps of handshakes, not the lease, not a timer.
//!
//! libfaketime gives the daemon its clock, and the daemon alone; the host's is
//! never touched, nor is the daemon's monotonic one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use super::outage::Rekeys;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet};
use crate::measure::Traffic;
use crate::mesh::{Coordinator, Gateway, Starting, Variables};
use crate::net::echo::{Pinger, Steady};
use crate::ui;
use crate::wall;

/// The shortest that the settings take.
const REKEY_AFTER: Duration = Duration::from_secs(10);
/// Between two echo requests, in the steady traffic and while nothing answers.
const PACE: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(5);
/// From exec of a daemon in 1970 that was in 2036 before to its first echo reply.
const RECOVERY: Duration = Duration::from_millis(5_000);
/// For the daemon to say something that carries its time.
const PATIENCE: Duration = Duration::from_secs(10);
const HOUR: i64 = 3_600;
const TEN_YEARS: i64 = 315_576_000;
/// As a board without a battery starts: a minute after the epoch.
const BOOT: i64 = 60;
/// An earlier clock was never set, as the daemon sees it too: 2025.
const BELIEVED: i64 = 1_735_689_600;

/// Where the daemon's clock is put.
#[derive(Clone, Copy)]
enum Clock {
    /// Seconds from the true time.
    Off(i64),
    /// As at a boot without a battery.
    Boot,
}

/// Every jump, and the two that are furthest.
const JUMPS: &[Clock] = &[
    Clock::Off(0),
    Clock::Off(HOUR),
    Clock::Off(-HOUR),
    Clock::Off(TEN_YEARS),
    Clock::Off(-TEN_YEARS),
    Clock::Boot,
    Clock::Off(TEN_YEARS),
    Clock::Off(0),
    Clock::Off(TEN_YEARS),
];
const JUMPS_SHORT: &[Clock] = &[Clock::Off(-HOUR), Clock::Off(TEN_YEARS)];

impl Clock {
    fn words(self) -> String {
        match self {
            Self::Boot => "1970".to_owned(),
            Self::Off(0) => "right".to_owned(),
            Self::Off(seconds) => {
                let sign = if seconds < 0 { '-' } else { '+' };
                let span = if seconds.abs() == HOUR { "1 h" } else { "10 years" };
                format!("{sign}{span}")
            }
        }
    }

    /// Seconds from the true time.
    fn offset(self) -> i64 {
        match self {
            Self::Off(seconds) => seconds,
            Self::Boot => BOOT - seconds(wall::since_epoch()),
        }
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The file that libfaketime reads at each look at the clock.
struct Fake {
    file: PathBuf,
    offset: i64,
}

impl Fake {
    fn set(&mut self, to: Clock) -> Result<()> {
        self.offset = to.offset();
        // Renamed, so that nobody reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{:+}\n", self.offset)).during("write a clock's offset")?;
        fs::rename(&new, &self.file).during("put a clock's offset in place")
    }

    /// Whether a line of the log carries the time that was set. Before 2025 the
    /// daemon believes nothing and counts from the boot.
    fn shows(&self, line: &str) -> bool {
        let first = line.split(' ').next().unwrap_or_default();
        let meant = seconds(wall::since_epoch()) + self.offset;
        if meant < BELIEVED {
            return first.starts_with("boot+");
        }
        wall::parse(first).is_some_and(|said| (seconds(said) - meant).abs() <= 60)
    }
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let library = library()?;
    let hosts = [("coord", 10), ("gw-a", 21), ("gw-b", 22)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, gw-a, gw-b", None);
    let host = internet.host("coord")?;
    let coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("clock", 2)?;
    let settings = format!("[tunnel]\nrekey_after_s = {}\n", REKEY_AFTER.as_secs());
    let b = Gateway::join(stage.run, internet.host("gw-b")?, &key, &settings)?;
    let mut fake = Fake { file: stage.run.folder().join("clock"), offset: 0 };
    fake.set(Clock::Boot)?;
    let variables = variables(&library, &fake.file);
    let host = internet.host("gw-a")?;
    let mut a = Starting::join_in(stage.run, host, &key, &settings, variables)?.ready()?;
    let told = tell(stage, &coordinator, &mut a, &b, &mut fake);
    stage.processes.extend([coordinator.process, a.process, b.process]);
    told
}

/// Debian puts it below the machine's own folder of libraries.
fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib").during("look for libfaketime")?;
    folders
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|path| path.exists())
        .ok_or_else(|| {
            Failure::skipped("libfaketime is missing").line("try", "apt-get install libfaketime")
        })
}

fn variables(library: &Path, file: &Path) -> Variables {
    vec![
        ("LD_PRELOAD", library.into()),
        ("FAKETIME_TIMESTAMP_FILE", file.into()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ]
}

fn tell(
    stage: &mut Stage<'_>,
    coordinator: &Coordinator,
    a: &mut Gateway,
    b: &Gateway,
    fake: &mut Fake,
) -> Result<Value> {
    a.process.wait_for(0, PATIENCE, "its enrolment in 1970", |line| {
        (line.contains("enrol.registered") && fake.shows(line)).then_some(())
    })?;
    a.ping(b.name())?;
    stage.story.done("gw-a", "joined in 1970, and its tunnel stands", None);
    let jumps = if stage.options.short { JUMPS_SHORT } else { JUMPS };
    let traffic = Traffic::start(a.namespace(), b.addresses.ipv4, PACE)?;
    for (number, to) in jumps.iter().enumerate() {
        let took = jump(coordinator, a, b, fake, *to, number)?;
        stage.story.done(&to.words(), "noticed, and a handshake after it", Some(took));
    }
    let steady = traffic.end()?;
    let recovered = restart(a, b, fake)?;
    stage.story.done("restart", "in 1970 again, and gw-b answers", Some(recovered));
    judge(stage, &steady, jumps.len() + 1, recovered)
}

/// Puts the clock elsewhere and waits until a session was made under it.
fn jump(
    coordinator: &Coordinator,
    a: &Gateway,
    b: &Gateway,
    fake: &mut Fake,
    to: Clock,
    number: usize,
) -> Result<Duration> {
    let from = a.process.lines_so_far();
    fake.set(to)?;
    let began = clock::now();
    // A change of the map is something that the daemon notes with its time.
    let (address, name) = (b.addresses.ipv4.to_string(), format!("gw-b-{number}"));
    coordinator.command("rename", &["device", "rename", &address, &name])?;
    a.process.wait_for(from, PATIENCE, "a map with its new time", |line| {
        (line.contains("map.committed") && fake.shows(line)).then_some(())
    })?;
    // Seen by the one whose clock is right.
    Rekeys::new(b, a)?.wait_for(1, 2 * REKEY_AFTER)?;
    Ok(began.elapsed())
}

/// The daemon was in 2036 and starts in 1970: its stamps have to go on rising, or
/// gw-b takes every handshake for a replay.
fn restart(a: &mut Gateway, b: &Gateway, fake: &mut Fake) -> Result<Duration> {
    a.process.kill()?;
    fake.set(Clock::Boot)?;
    let mut pinger = Pinger::open(a.namespace(), b.addresses.ipv4).during("open a socket")?;
    let began = clock::now();
    a.up()?;
    let answered = pinger.first_answer(STEP, began + 2 * RECOVERY).map(|at| at - began);
    a.process.wait_for(0, PATIENCE, "its start in 1970", |line| {
        (line.contains("agent.started") && fake.shows(line)).then_some(())
    })?;
    answered.filter(|took| *took <= RECOVERY).ok_or_else(|| {
        let found = answered.map_or_else(|| "never".to_owned(), ui::span);
        let goal = ui::span(RECOVERY);
        Failure::expectation(format!(
            "gw-a started in 1970 after 2036, and gw-b answered after {found}, the goal is {goal}"
        ))
    })
}

fn judge(
    stage: &mut Stage<'_>,
    steady: &Steady,
    jumps: usize,
    recovered: Duration,
) -> Result<Value> {
    let words = format!("gw-a → gw-b, {} of {}", steady.answered, steady.sent);
    stage.story.done("traffic", &words, Some(steady.longest_gap));
    if steady.outages > 0 || steady.lost() * 1_000 > steady.sent {
        return Err(Failure::expectation(format!(
            "{} of {} echo requests got no answer, {} outages, the longest gap was {}",
            steady.lost(),
            steady.sent,
            steady.outages,
            ui::span(steady.longest_gap)
        )));
    }
    Ok(json!({
        "outages": steady.outages,
        "jumps": jumps,
        "sent": steady.sent,
        "lost_pct": (steady.loss_pct() * 100.0).round() / 100.0,
        "longest_gap_ms": steady.longest_gap.as_millis() as u64,
        "restarted_ms": recovered.as_millis() as u64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_the_time_that_was_set() {
        let mut fake = Fake { file: PathBuf::new(), offset: Clock::Boot.offset() };
        assert!(fake.shows("boot+17333.298s          INFO  agent.started"));
        assert!(!fake.shows("2026-11-27T02:21:44.026Z INFO  agent.started"));
        assert!(!fake.shows("ok: this machine is gw-a"));
        let moment = wall::parse("2036-11-27T02:21:44.026Z").unwrap();
        fake.offset = seconds(moment) - seconds(wall::since_epoch());
        assert!(fake.shows("2036-11-27T02:21:50.026Z INFO  agent.started"));
        assert!(!fake.shows("2036-11-27T03:21:50.026Z INFO  agent.started"));
        assert!(!fake.shows("boot+17333.298s          INFO  agent.started"));
    }

    #[test]
    fn jumps_have_words() {
        let words: Vec<String> = JUMPS.iter().take(6).map(|jump| jump.words()).collect();
        assert_eq!(words, ["right", "+1 h", "-1 h", "+10 years", "-10 years", "1970"]);
    }
}
