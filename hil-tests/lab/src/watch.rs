//! The uplinks of a gateway, watched: how much of what passed, when first and when
//! last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::clock;
use crate::failure::{During, Result};
use crate::net::capture::Capture;
use crate::net::namespace::Namespace;
use crate::sight::{Cause, Known, Sight};

/// Packets that are alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) packets: u64,
    /// Of IP.
    pub(crate) bytes: u64,
    pub(crate) first: Instant,
    pub(crate) last: Instant,
}

impl Tally {
    const fn of(sight: &Sight) -> Self {
        Self { packets: 1, bytes: sight.bytes, first: sight.at, last: sight.at }
    }

    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// Why, with whom, and whether it left.
pub(crate) type Kind = (Cause, IpAddr, bool);

struct Seen {
    since: Instant,
    tallies: BTreeMap<Kind, Tally>,
}

/// Captures under way.
pub(crate) struct Watch {
    captures: Vec<Capture>,
    seen: Arc<Mutex<Seen>>,
}

impl Watch {
    /// Watches interfaces of a namespace that are there, up or down.
    pub(crate) fn start(namespace: &Namespace, interfaces: &[&str], known: &Known) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen { since: clock::now(), tallies: BTreeMap::new() }));
        let capture = |interface: &&str| {
            let (seen, known) = (Arc::clone(&seen), known.clone());
            let what = format!("watch {interface} in {}", namespace.name());
            Capture::start(namespace, interface, move |frame| {
                if let Some(sight) = Sight::of(frame, &known) {
                    lock(&seen).take(&sight);
                }
            })
            .during(&what)
        };
        let captures = interfaces.iter().map(capture).collect::<Result<_>>()?;
        Ok(Self { captures, seen })
    }

    /// From now on everything is the first.
    pub(crate) fn forget(&self) {
        let mut seen = lock(&self.seen);
        seen.since = clock::now();
        seen.tallies.clear();
    }

    /// All packets of the kinds that are asked for, as one.
    pub(crate) fn tally(&self, wanted: impl Fn(&Kind) -> bool) -> Option<Tally> {
        let seen = lock(&self.seen);
        let all = seen.tallies.iter().filter(|(kind, _)| wanted(kind)).map(|(_, tally)| *tally);
        all.reduce(|mut sum, tally| {
            sum.add(&tally);
            sum
        })
    }

    /// What arrived of the overlay's packets straight from there.
    pub(crate) fn direct_from(&self, far: Ipv4Addr) -> Option<Tally> {
        self.tally(|kind| *kind == (Cause::Payload, far.into(), false))
    }

    /// With whom packets of a cause were exchanged.
    pub(crate) fn partners(&self, cause: Cause) -> BTreeSet<IpAddr> {
        let seen = lock(&self.seen);
        seen.tallies.keys().filter(|kind| kind.0 == cause).map(|kind| kind.1).collect()
    }

    /// Ends it.
    pub(crate) fn end(self) -> Result<()> {
        self.captures.into_iter().try_for_each(|capture| capture.end().during("watch an uplink"))
    }
}

impl Seen {
    fn take(&mut self, sight: &Sight) {
        // It passed before the others were forgotten, and came to us later.
        if sight.at < self.since {
            return;
        }
        let kind = (sight.cause, sight.far.ip(), sight.leaves);
        let tally = Tally::of(sight);
        self.tallies.entry(kind).and_modify(|sum| sum.add(&tally)).or_insert(tally);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_passed_before_is_forgotten_even_if_it_comes_late() {
        let since = clock::now();
        let mut seen = Seen { since, tallies: BTreeMap::new() };
        let far = "203.0.113.60:51871".parse().unwrap();
        let mut take = |millis: i64| {
            let offset = Duration::from_millis(millis.unsigned_abs());
            let at = if millis < 0 { since - offset } else { since + offset };
            seen.take(&Sight { at, leaves: false, bytes: 100, far, cause: Cause::Payload });
        };
        [-1, 5, 3].into_iter().for_each(&mut take);
        let tally = seen.tallies[&(Cause::Payload, far.ip(), false)];
        assert_eq!((tally.packets, tally.bytes), (2, 200));
        assert_eq!((tally.last - tally.first).as_millis(), 2);
    }
}
