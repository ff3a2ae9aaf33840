//! Log lines that devices can cause: at most one a minute of each event and
//! subject, and the next says how many were left out.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// Between two lines of one event and subject.
const PAUSE: Duration = Duration::from_secs(60);
/// Events and subjects that are remembered; beyond this nothing new is said
/// until some are old.
const SUBJECTS: usize = 256;

/// Remembers what was said when.
#[derive(Debug, Default)]
pub struct Quiet {
    hasher: RandomState,
    said: Mutex<HashMap<(&'static str, u64), Said>>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    left_out: u32,
}

impl Quiet {
    /// Whether a line may be written now: how many like it were left out since
    /// the last one.
    pub fn may_say(&self, event: &'static str, subject: &impl Hash, now: Instant) -> Option<u32> {
        let subject = (event, self.hasher.hash_one(subject));
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = said.get_mut(&subject) {
            if now.saturating_duration_since(last.at) < PAUSE {
                last.left_out = last.left_out.saturating_add(1);
                return None;
            }
            last.at = now;
            return Some(std::mem::take(&mut last.left_out));
        }
        if said.len() >= SUBJECTS {
            said.retain(|_, last| now.saturating_duration_since(last.at) < PAUSE);
        }
        (said.len() < SUBJECTS).then(|| {
            said.insert(subject, Said { at: now, left_out: 0 });
            0
        })
    }

    /// Says that the store did not do `what`.
    pub fn store_failed(&self, what: &'static str, error: &StoreError) {
        let now = tokio::time::Instant::now().into_std();
        if error.is_disk_full() {
            // Once, and not for each thing that it keeps from being done.
            if let Some(repeated) = self.may_say("serve.disk-full", &(), now) {
                let fix = "free 100 MB; it continues by itself";
                tracing::warn!(%error, fix, repeated, "serve.disk-full");
            }
            return;
        }
        if let Some(repeated) = self.may_say("store.failed", &what, now) {
            tracing::warn!(what, %error, repeated, "store.failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn says_each_thing_once_a_minute_and_counts_the_rest() {
        let (quiet, start) = (Quiet::default(), origin());
        assert_eq!(quiet.may_say("a", &1, start), Some(0));
        assert_eq!(quiet.may_say("a", &2, start), Some(0));
        assert_eq!(quiet.may_say("b", &1, start), Some(0));
        for second in 1..=17 {
            assert_eq!(quiet.may_say("a", &1, start + Duration::from_secs(second)), None);
        }
        assert_eq!(quiet.may_say("a", &1, start + PAUSE), Some(17));
        assert_eq!(quiet.may_say("a", &1, start + PAUSE), None);
    }

    #[test]
    fn remembers_a_bounded_number() {
        let (quiet, start) = (Quiet::default(), origin());
        let spoken = (0..1_000).filter(|n| quiet.may_say("a", n, start).is_some()).count();
        assert_eq!(spoken, SUBJECTS);
        assert_eq!(quiet.may_say("a", &1_000, start + PAUSE), Some(0));
        assert_eq!(quiet.said.lock().unwrap().len(), 1);
    }
}
