//! What was learned on each network of ways that are kept open: the longest pause that
//! held, and the longest that may be made, so that a restart does not try again what
//! its routers did not outlive. Kept in the file `ways`, as what `networks.rs` keeps.

use weft_agent_core::path::Pauses;

use crate::store::ways::Stood;

/// Networks that are remembered.
const NETWORKS: usize = 8;
/// What was not seen for so many seconds is forgotten; and so is a limit.
const HOLDS_S: u64 = 86_400;
/// What is still so is written again after so many seconds.
const WRITTEN_S: u64 = HOLDS_S / 2;
/// Limits of one moment differ by no more than this, in seconds.
const SAME_S: u64 = 60;
/// What a line begins with; the pauses, and two Unix times in seconds, follow.
const WORD: &str = "pauses";

/// What is remembered of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    network: u64,
    held_s: u16,
    most_s: u16,
    /// Until when there is no longer one, and when all this was last so.
    until_s: u64,
    at_s: u64,
}

impl Seen {
    fn new(network: u64, pauses: Pauses, now_s: u64) -> Self {
        let Pauses { held_s, most_s, limited_s } = pauses;
        Self { network, held_s, most_s, until_s: now_s + u64::from(limited_s), at_s: now_s }
    }

    fn read((network, text): &Stood) -> Option<Self> {
        let mut words = text.split(' ');
        let mut next = || words.next();
        if next()? != WORD {
            return None;
        }
        let (held_s, most_s) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let (until_s, at_s) = (next()?.parse().ok()?, next()?.parse().ok()?);
        Some(Self { network: *network, held_s, most_s, until_s, at_s })
    }

    fn write(&self) -> Stood {
        let Self { network, held_s, most_s, until_s, at_s } = self;
        (*network, format!("{WORD} {held_s} {most_s} {until_s} {at_s}"))
    }

    /// For how long it has been known; a clock that was set back says nothing of it.
    fn age_s(&self, now_s: u64) -> Option<u64> {
        now_s.checked_sub(self.at_s)
    }

    fn pauses(&self, now_s: u64) -> Option<Pauses> {
        self.age_s(now_s).filter(|age| *age < HOLDS_S)?;
        let limited_s = self.until_s.saturating_sub(now_s).min(HOLDS_S);
        let limited_s = u32::try_from(limited_s).unwrap_or_default();
        Some(Pauses { held_s: self.held_s, most_s: self.most_s, limited_s })
    }

    /// Whether the file says as much already.
    fn tells(&self, other: &Self) -> bool {
        (self.held_s, self.most_s) == (other.held_s, other.most_s)
            && (self.until_s <= self.at_s) == (other.until_s <= other.at_s)
            && (other.until_s <= other.at_s || self.until_s.abs_diff(other.until_s) <= SAME_S)
            && self.age_s(other.at_s).is_some_and(|age| age < WRITTEN_S)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct KnownPauses {
    network: u64,
    /// The newest last.
    seen: Vec<Seen>,
}

impl KnownPauses {
    /// What the file says.
    pub(super) fn restore(&mut self, lines: &[Stood]) {
        self.seen = lines.iter().filter_map(Seen::read).take(NETWORKS).collect();
    }

    /// What the file is to say.
    pub(super) fn lines(&self) -> impl Iterator<Item = Stood> + '_ {
        self.seen.iter().map(Seen::write)
    }

    /// The host is on this network.
    pub(super) const fn set_network(&mut self, network: u64) {
        self.network = network;
    }

    /// What was seen here within a day.
    pub(super) fn here(&self, now_s: u64) -> Option<Pauses> {
        self.seen.iter().find(|one| one.network == self.network)?.pauses(now_s)
    }

    /// This is so here; whether that is worth writing down.
    pub(super) fn handle_learned(&mut self, pauses: Pauses, now_s: u64) -> bool {
        let new = Seen::new(self.network, pauses, now_s);
        if self.seen.iter().any(|one| one.network == self.network && one.tells(&new)) {
            return false;
        }
        self.seen.retain(|one| one.network != self.network);
        if self.seen.len() == NETWORKS {
            self.seen.remove(0);
        }
        self.seen.push(new);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Pauses = Pauses { held_s: 170, most_s: 170, limited_s: 0 };
    const BOUND: Pauses = Pauses { held_s: 96, most_s: 96, limited_s: 86_400 };

    fn known(network: u64) -> KnownPauses {
        KnownPauses { network, ..KnownPauses::default() }
    }

    #[test]
    fn each_network_has_its_pauses_over_a_restart_and_for_a_day() {
        let mut known = known(7);
        assert_eq!(known.here(1_000), None);
        assert!(known.handle_learned(BOUND, 1_000));
        known.set_network(8);
        assert_eq!(known.here(1_000), None);
        assert!(known.handle_learned(FREE, 2_000));
        let mut lines = vec![(7, "relay 256 1000".to_owned())];
        lines.extend(known.lines());
        assert_eq!(lines[1], (7, "pauses 96 96 87400 1000".to_owned()));
        let mut later = KnownPauses::default();
        later.restore(&lines);
        later.set_network(8);
        assert_eq!(later.here(2_000 + HOLDS_S - 1), Some(FREE));
        later.set_network(7);
        assert_eq!(later.here(4_600), Some(Pauses { limited_s: 82_800, ..BOUND }));
        assert_eq!(later.here(1_000 + HOLDS_S), None, "a day is over");
        assert_eq!(later.here(999), None, "the clock was set back");
    }

    #[test]
    fn it_is_written_when_it_is_news_and_twice_a_day() {
        let mut known = known(7);
        assert!(known.handle_learned(FREE, 1_000));
        assert!(!known.handle_learned(FREE, 1_000 + WRITTEN_S - 1));
        assert!(known.handle_learned(FREE, 1_000 + WRITTEN_S));
        assert!(known.handle_learned(BOUND, 50_000));
        // The limit runs down meanwhile.
        let later = |after_s: u32| Pauses { limited_s: 86_400 - after_s, ..BOUND };
        assert!(!known.handle_learned(later(599), 50_600), "it is the same limit");
        assert!(known.handle_learned(BOUND, 50_600), "it is a new one");
        assert!(known.handle_learned(Pauses { held_s: 25, ..BOUND }, 50_600));
        assert!(known.handle_learned(Pauses { limited_s: 0, ..BOUND }, 50_600), "it has ended");
    }

    #[test]
    fn few_are_remembered_and_what_is_no_line_is_passed_over() {
        let mut known = KnownPauses::default();
        for network in 1..=20 {
            known.set_network(network);
            assert!(known.handle_learned(FREE, 1_000));
        }
        let kept: Vec<u64> = known.lines().map(|(network, _)| network).collect();
        assert_eq!(kept, (13..=20).collect::<Vec<_>>());
        let lines =
            ["pauses", "pauses 1 2 3", "pauses x 1 1 1", "pauses 1 -1 1 1", "pause 1 1 1 1"];
        known.restore(&lines.map(|line| (20, line.to_owned())));
        assert_eq!(known.lines().count(), 0);
    }
}
