//! Which relay answered last on each network, and by which way: a restart asks that
//! one first, so that the first packet for a relayed peer waits for no search. Kept
//! in the file `ways` beside the ways to the coordinator, whose reader passes over
//! what is none.

use weft_agent_core::relay::Rung;

use crate::store::ways::Stood;

/// Networks that are remembered.
const NETWORKS: usize = 8;
/// After so many seconds the map's order counts again: what was better then may be
/// back.
const HOLDS_S: u64 = 86_400;
/// What a line begins with; its number and the Unix time in seconds follow.
const WORD: &str = "relay";

/// What is remembered of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answered {
    network: u64,
    rung: Rung,
    /// When it was found, Unix time in seconds.
    at_s: u64,
}

impl Answered {
    fn read((network, text): &Stood) -> Option<Self> {
        let mut words = text.split(' ');
        let mut next = || words.next();
        if next()? != WORD {
            return None;
        }
        let rung = Rung::from_number(next()?.parse().ok()?)?;
        let at_s = next()?.parse().ok()?;
        Some(Self { network: *network, rung, at_s })
    }

    fn write(&self) -> Stood {
        (self.network, format!("{WORD} {} {}", self.rung.number(), self.at_s))
    }

    /// A clock that was set back says nothing of how old it is.
    fn holds(&self, now_s: u64) -> bool {
        now_s.checked_sub(self.at_s).is_some_and(|age| age < HOLDS_S)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Networks {
    network: u64,
    /// The newest last.
    answered: Vec<Answered>,
}

impl Networks {
    /// What the file says.
    pub(super) fn restore(&mut self, lines: &[Stood]) {
        self.answered = lines.iter().filter_map(Answered::read).take(NETWORKS).collect();
    }

    /// What the file is to say.
    pub(super) fn lines(&self) -> impl Iterator<Item = Stood> + '_ {
        self.answered.iter().map(Answered::write)
    }

    /// The host is on this network; whether it was on another.
    pub(super) fn set_network(&mut self, network: u64) -> bool {
        core::mem::replace(&mut self.network, network) != network
    }

    /// What answered here within a day.
    pub(super) fn rung(&self, now_s: u64) -> Option<Rung> {
        let here = self.answered.iter().find(|one| one.network == self.network)?;
        here.holds(now_s).then_some(here.rung)
    }

    /// A relay answers here; whether that is worth writing down.
    pub(super) fn handle_answer(&mut self, rung: Rung, now_s: u64) -> bool {
        if self.rung(now_s) == Some(rung) {
            return false;
        }
        self.answered.retain(|one| one.network != self.network);
        if self.answered.len() == NETWORKS {
            self.answered.remove(0);
        }
        self.answered.push(Answered { network: self.network, rung, at_s: now_s });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_agent_core::relay::Way;

    const FRA1: Rung = Rung { relay: 1, way: Way::UdpV4 };
    const SGP1: Rung = Rung { relay: 300, way: Way::Tls };

    #[test]
    fn each_network_has_its_relay_over_a_restart_and_for_a_day() {
        let mut networks = Networks::default();
        assert!(networks.set_network(7) && !networks.set_network(7));
        assert_eq!(networks.rung(1_000), None);
        assert!(networks.handle_answer(FRA1, 1_000));
        assert!(!networks.handle_answer(FRA1, 2_000), "nothing new");
        networks.set_network(8);
        assert_eq!(networks.rung(1_000), None);
        assert!(networks.handle_answer(SGP1, 1_500));
        let mut lines = vec![(7, "mqtt://mesh.example.net:7420".to_owned())];
        lines.extend(networks.lines());
        assert_eq!(lines[1], (7, "relay 256 1000".to_owned()));
        let mut later = Networks::default();
        later.restore(&lines);
        later.set_network(8);
        assert_eq!(later.rung(1_500), Some(SGP1));
        later.set_network(7);
        assert_eq!(later.rung(1_000 + HOLDS_S - 1), Some(FRA1));
        assert_eq!(later.rung(1_000 + HOLDS_S), None, "a day is over");
        assert_eq!(later.rung(999), None, "the clock was set back");
        assert!(later.handle_answer(FRA1, 1_000 + HOLDS_S), "it holds for another day");
        assert!(later.handle_answer(SGP1, 1_001 + HOLDS_S));
        assert_eq!(later.rung(1_001 + HOLDS_S), Some(SGP1));
    }

    #[test]
    fn few_are_remembered_and_what_is_no_line_is_passed_over() {
        let mut networks = Networks::default();
        for network in 1..=20 {
            networks.set_network(network);
            assert!(networks.handle_answer(FRA1, network));
        }
        let kept: Vec<u64> = networks.lines().map(|(network, _)| network).collect();
        assert_eq!(kept, (13..=20).collect::<Vec<_>>());
        let lines =
            ["relay", "relay x 1", "relay 255 1", "relay 256", "relay 256 -1", "relays 256 1"];
        networks.restore(&lines.map(|line| (20, line.to_owned())));
        assert_eq!(networks.lines().count(), 0);
    }
}
