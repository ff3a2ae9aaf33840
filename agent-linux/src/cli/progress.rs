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
            Received::Signal => Err(interrupted()),
        }
    }

    /// Waits for a change; a remark is due when that takes long.
    pub(super) fn wait_remarking(&mut self, remark: impl FnOnce(&Progress, u64)) -> Result<()> {
        let waited_s = self.elapsed_us() / 1_000_000;
        let next = REMARKS_S.get(self.remarked).copied();
        let next = next.unwrap_or_else(|| (waited_s / 60 + 1) * 60);
        let left = Duration::from_secs(next.saturating_sub(waited_s).max(1));
        let left = left.min(self.until_no_answer());
        if !self.wait(left)? && self.elapsed_us() / 1_000_000 >= next {
            self.remarked += 1;
            remark(&self.now, self.elapsed_us());
        }
        Ok(())
    }

    fn until_no_answer(&self) -> Duration {
        let left = |since: u64, patience_us: u64| {
            let waited = clock::boot_micros().saturating_sub(since);
            Duration::from_micros(patience_us.saturating_sub(waited))
        };
        match (&self.now.connected, self.now.online_at) {
            (_, Some(since)) => left(since, NO_WORD_US),
            (Some((_, since)), None) => left(*since, NO_ANSWER_US),
            (None, None) => Duration::MAX,
        }
    }

    /// What makes going on useless for somebody who joins.
    pub(super) fn fatal(&self, no_answer: impl FnOnce() -> Failure) -> Option<Failure> {
        if let Some(failed) = &self.now.failed {
            return Some(failed.clone());
        }
        if self.now.enrolled.is_some() {
            return None;
        }
        if let Some((tries, failure)) = &self.now.line {
            let passing = failure.is(Code::JoinBusy) || failure.is(Code::JoinInterrupted);
            // A coordinator that proved itself once is not given up for a line.
            if !passing && self.now.online_at.is_none() || *tries >= TRIES {
                return Some(failure.clone());
            }
        }
        self.until_no_answer().is_zero().then(no_answer)
    }
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
