//! How many devices there are, and how long they take to come back.
//!
//! After a restart of the coordinator nobody has a session yet: a window sized
//! to the sessions would be the shortest when it has to be the longest. So the
//! enrolled are counted.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::{SharedStore, StoreError};

/// Devices that one core takes back per second, with room for other work.
/// Measured with `weft-fleet`: a core carries twice as many.
const RECONNECTS_PER_S: usize = 600;
/// The shortest window, in seconds.
const LEAST_S: usize = 2;
/// A count is good for this long.
const COUNTED: Duration = Duration::from_secs(5);

/// Latest reconnection after a loss, in seconds.
pub(super) fn window_s(devices: usize, cores: usize) -> u16 {
    let spread = devices / (RECONNECTS_PER_S * cores.max(1));
    u16::try_from(LEAST_S + spread).unwrap_or(u16::MAX)
}

#[derive(Clone, Copy, Default)]
struct Counted {
    at: Option<Instant>,
    devices: usize,
}

/// The enrolled devices with an agent, counted now and then.
pub(super) struct Fleet {
    store: SharedStore,
    counted: Mutex<Counted>,
}

impl Fleet {
    pub(super) fn new(store: SharedStore) -> Self {
        Self { store, counted: Mutex::default() }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are. One caller counts; the others take the last count.
    ///
    /// # Errors
    ///
    /// The store's, to that one caller.
    pub(super) async fn size(&self, now: Instant) -> Result<usize, StoreError> {
        {
            let mut counted = self.counted();
            let is_old = |at: Instant| now.saturating_duration_since(at) >= COUNTED;
            if !counted.at.is_none_or(is_old) {
                return Ok(counted.devices);
            }
            counted.at = Some(now);
        }
        let devices = usize::try_from(self.store.agents().await?).unwrap_or(usize::MAX);
        self.counted().devices = devices;
        Ok(devices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_the_fleet_and_shrinks_with_the_cores() {
        for (devices, cores, window) in [
            (0, 2, 2),
            (1_199, 2, 2),
            (1_200, 2, 3),
            (10_000, 2, 10),
            (10_000, 1, 18),
            (10_000, 0, 18),
            (usize::MAX / 4, 1, u16::MAX),
        ] {
            assert_eq!(window_s(devices, cores), window, "{devices} on {cores}");
        }
    }
}
