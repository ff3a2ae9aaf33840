//! Many pairs, and what they came to.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::panic::catch_unwind;
use std::time::Duration;

use super::{Failure, Outcome};

/// What many pairs came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many.
    pub pairs: u64,
    /// Pairs of which something arrived over a relay.
    pub relayed: u64,
    /// Everything added up, and the longest times.
    pub total: Outcome,
    /// Time of the processor, as the system counts it for this thread.
    pub cpu: Duration,
    /// Promises that were not held.
    pub failures: Vec<Failure>,
    /// Pairs at which something panicked.
    pub panicked: Vec<u64>,
}

impl Summary {
    /// Panics with the stories of the first failures.
    ///
    /// # Panics
    ///
    /// When a promise was not held, or something panicked.
    pub fn check(&self) {
        let told = self.failures.iter().take(2).map(|failure| &failure.story[..]);
        let holds = self.failures.is_empty() && self.panicked.is_empty();
        assert!(holds, "{}\n{self}", told.collect::<Vec<_>>().join("\n\n"));
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, relayed, total, cpu, failures, panicked } = self;
        let Outcome { sent, arrived, without_way, on_relay, lived, .. } = total;
        writeln!(
            f,
            "{pairs} pairs lived {} h in {cpu:.1?} of processor time",
            lived.as_secs() / 3_600
        )?;
        writeln!(f, "{arrived} of {sent} packets arrived, {} over relays", total.relayed)?;
        writeln!(f, "{relayed} pairs used a relay")?;
        writeln!(f, "longest without a way while there was one: {without_way:?}")?;
        writeln!(f, "longest on a relay while it would go directly: {on_relay:?}")?;
        for Failure { seed, what, .. } in failures {
            writeln!(f, "pair {seed}: {what:?}")?;
        }
        for seed in panicked {
            writeln!(f, "pair {seed}: panicked")?;
        }
        Ok(())
    }
}

/// Plays the pairs of these seeds, one after the other.
pub fn many(seeds: Range<u64>) -> Summary {
    let start = cpu();
    let mut summary = Summary { pairs: seeds.end - seeds.start, ..Summary::default() };
    for seed in seeds {
        match catch_unwind(|| super::run(seed)) {
            Ok(Ok(outcome)) => {
                summary.relayed += u64::from(outcome.relayed > 0);
                summary.total.add(&outcome);
            }
            Ok(Err(failure)) => summary.failures.push(failure),
            Err(_) => summary.panicked.push(seed),
        }
    }
    summary.cpu = cpu().saturating_sub(start);
    summary
}

/// What the scheduler has counted for this thread. No clock: a shared machine
/// would be slower by it.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}
