//! Following the daemon's start: what is done, what failed, how long it took.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use crate::failure::{Code, Failure, Result};
use crate::ipc::client::{Client, Received, unexpected};
use crate::ipc::protocol::{Answer, Progress, Request};
use crate::os::clock;
use crate::os::signal::Signals;

/// The coordinator has this long to answer once the line stands: three tries.
const NO_ANSWER_US: u64 = 35_000_000;
/// A coordinator that proved itself has this long to take the device in.
const NO_WORD_US: u64 = 60_000_000;
/// A device that was taken in waits this long for its map and its interface.
pub(super) const NO_MAP: Duration = Duration::from_secs(60);
/// Lines that were lost right away, or brokers too busy, before it is an error.
const TRIES: u32 = 5;
/// When a wait says that it is one, in seconds since it began.
const REMARKS_S: [u64; 4] = [5, 15, 30, 60];

/// Ctrl-C, before there was anything to keep.
pub(super) fn interrupted() -> Failure {
    Failure::new(Code::CliInterrupted, "stopped; nothing left behind")
}

/// A daemon's start, seen from outside.
pub(super) struct Follower {
    client: Client,
    /// `None` inside the daemon's own process: there signals are the loop's.
    signals: Option<Signals>,
    pub(super) now: Progress,
    started_us: u64,
    remarked: usize,
}

impl Follower {
    /// Begins to follow; times count from `started_us`.
    pub(super) fn connect(
        socket: &Path,
        command: &str,
        started_us: u64,
        signals: Option<Signals>,
    ) -> Result<Self> {
        let mut client = Client::connect(socket, command)?;
        client.send(Request::Progress)?;
        Ok(Self { client, signals, now: Progress::default(), started_us, remarked: 0 })
    }

    /// Microseconds from the command's start to a moment of the daemon.
    pub(super) const fn since_start(&self, at_us: u64) -> u64 {
        at_us.saturating_sub(self.started_us)
    }

    /// Microseconds since the command's start.
    pub(super) fn elapsed_us(&self) -> u64 {
        clock::boot_micros().saturating_sub(self.started_us)
    }

    /// Waits for the next change, or until `patience` is over; says whether
    /// there was one. Ctrl-C is a failure of its own.
    pub(super) fn wait(&mut self, patience: Duration) -> Result<bool> {
        match self.client.receive_unless_signalled(patience, self.signals.as_ref())? {
            Received::Answer(Answer::Progress(progress)) => {
                self.now = *progress;
                Ok(true)
            }
            Received::Answer(_) => Err(unexpected()),
            Received::Nothing => Ok(false),
            Received::Signal => {
                // Whoever presses Ctrl-C again does not want the undoing either.
                if let Some(signals) = &self.signals {
                    signals.let_interrupt();
                }
                Err(interrupted())
            }
        }
    }

    /// Waits for a change, at most `limit`; a remark is due when that takes long.
    pub(super) fn wait_remarking(
        &mut self,
        limit: Duration,
        remark: impl FnOnce(&Progress, u64),
    ) -> Result<()> {
        let waited_s = self.elapsed_us() / 1_000_000;
        let next = REMARKS_S.get(self.remarked).copied();
        let next = next.unwrap_or_else(|| (waited_s / 60 + 1) * 60);
        let left = Duration::from_secs(next.saturating_sub(waited_s).max(1));
        let left = left.min(limit);
        if !self.wait(left)? && self.elapsed_us() / 1_000_000 >= next {
            self.remarked += 1;
            remark(&self.now, self.elapsed_us());
        }
        Ok(())
    }

    /// How long the coordinator still has to take the device in.
    pub(super) fn until_no_answer(&self) -> Duration {
        until_no_answer(&self.now, clock::boot_micros())
    }

    /// The signals that end the command.
    pub(super) const fn signals(&self) -> Option<&Signals> {
        self.signals.as_ref()
    }

    /// What makes going on useless for somebody who joins.
    pub(super) fn fatal(&self, no_answer: impl FnOnce() -> Failure) -> Option<Failure> {
        fatal(&self.now, clock::boot_micros(), no_answer)
    }
}

fn left(since_us: u64, patience_us: u64, now_us: u64) -> Duration {
    Duration::from_micros(patience_us.saturating_sub(now_us.saturating_sub(since_us)))
}

fn until_no_answer(progress: &Progress, now_us: u64) -> Duration {
    match (progress.asked_at, progress.online_at) {
        (_, Some(since)) => left(since, NO_WORD_US, now_us),
        (Some(since), None) => left(since, NO_ANSWER_US, now_us),
        (None, None) => Duration::MAX,
    }
}

fn fatal(progress: &Progress, now_us: u64, no_answer: impl FnOnce() -> Failure) -> Option<Failure> {
    if let Some(failed) = &progress.failed {
        return Some(failed.clone());
    }
    if progress.enrolled.is_some() {
        return None;
    }
    if let Some((tries, failure)) = &progress.line {
        let passing = failure.is(Code::JoinBusy) || failure.is(Code::JoinInterrupted);
        // A coordinator that proved itself once is not given up for a line.
        if !passing && progress.online_at.is_none() || *tries >= TRIES {
            return Some(failure.clone());
        }
    }
    until_no_answer(progress, now_us).is_zero().then(no_answer)
}

/// Waits until the mesh interface is up: its name and address.
pub(super) fn until_interface(
    socket: &Path,
    started_us: u64,
    patience: Duration,
) -> Result<Option<(String, Ipv4Addr)>> {
    let mut follower = Follower::connect(socket, "up", started_us, None)?;
    loop {
        if let Some((name, address, ..)) = &follower.now.interface {
            return Ok(Some((name.clone(), *address)));
        }
        if let Some(failed) = &follower.now.failed {
            return Err(failed.clone());
        }
        let elapsed = Duration::from_micros(follower.elapsed_us());
        let Some(left) = patience.checked_sub(elapsed).filter(|left| !left.is_zero()) else {
            return Ok(None);
        };
        follower.wait(left)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn judged(progress: &Progress) -> Option<Failure> {
        fatal(progress, NOW, || Failure::new(Code::JoinNoAnswer, "no answer"))
    }

    #[test]
    fn a_line_that_is_cut_again_and_again_ends_the_wait() {
        let cut = Failure::new(Code::JoinInterrupted, "the connection to h ended");
        let mut progress = Progress { line: Some((TRIES - 1, cut.clone())), ..Progress::default() };
        assert_eq!(judged(&progress), None);
        progress.line = Some((TRIES, cut));
        assert!(judged(&progress).unwrap().is(Code::JoinInterrupted));
        // A broker that lets us in each time hides no coordinator that is silent.
        progress.line = None;
        progress.connected = Some(("mqtt://h:1".to_owned(), NOW - 1));
        progress.asked_at = Some(NOW - NO_ANSWER_US + 1);
        assert_eq!(judged(&progress), None);
        progress.asked_at = Some(NOW - NO_ANSWER_US);
        assert!(judged(&progress).unwrap().is(Code::JoinNoAnswer));
    }

    #[test]
    fn a_coordinator_that_proved_itself_has_longer() {
        let online_at = Some(NOW - NO_ANSWER_US);
        let mut progress = Progress { asked_at: online_at, online_at, ..Progress::default() };
        assert_eq!(judged(&progress), None);
        progress.online_at = Some(NOW - NO_WORD_US);
        assert!(judged(&progress).unwrap().is(Code::JoinNoAnswer));
    }
}
