//! What a cell has to reach: which pairs of NAT boxes let a direct way through, and how
//! soon it is found.

use std::time::Duration;

use super::cell::{Outcome, Way};
use crate::nat::Kind;
use crate::ui;

/// A's first packet is at B, in every cell.
const FIRST_BYTE: Duration = Duration::from_millis(300);
/// Of ten runs of a cell that is left to chance, so many are direct.
const OF_TEN: usize = 8;

/// What is expected of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Direct, so soon.
    Direct(Duration),
    /// There may be no direct way.
    Relay,
    /// Most runs find the direct way.
    Chance,
}

impl Goal {
    pub(super) fn of(kinds: [Kind; 2]) -> Self {
        use Kind::{
            AdCone, Blocked, Cgnat, FullCone, NoFw, Open, Prc, SymEif, SymRand, SymSeq, SymWin,
        };
        let has = |kind: Kind| kinds.contains(&kind);
        let are = |one: Kind, other: Kind| kinds == [one, other] || kinds == [other, one];
        let direct = |millis| Self::Direct(Duration::from_millis(millis));
        if has(Blocked) {
            return Self::Relay;
        }
        if are(Prc, SymRand) || are(Cgnat, SymRand) || are(SymSeq, SymSeq) || are(NoFw, NoFw) {
            return Self::Chance;
        }
        if has(SymEif) {
            return direct(400);
        }
        if has(Open) {
            return direct(300);
        }
        let symmetric = kinds.iter().any(|kind| matches!(kind, SymSeq | SymWin | SymRand));
        if has(FullCone) || has(AdCone) {
            return direct(if symmetric { 400 } else { 300 });
        }
        if !symmetric {
            return direct(if has(NoFw) { 500 } else { 300 });
        }
        if kinds.iter().all(|kind| matches!(kind, SymSeq | SymWin | SymRand)) || are(NoFw, SymRand)
        {
            return Self::Relay;
        }
        direct(match (has(SymWin), has(NoFw)) {
            (true, _) => 8_000,
            (false, true) => 1_000,
            (false, false) => 600,
        })
    }

    /// How long a cell is watched that finds no direct way.
    pub(super) fn patience(self) -> Duration {
        match self {
            // Twice the goal, to tell late from never.
            Self::Direct(goal) => 2 * goal.max(Duration::from_millis(1_500)),
            Self::Relay => Duration::from_secs(2),
            Self::Chance => Duration::from_secs(20),
        }
    }

    /// What was missed, in words.
    pub(super) fn missed(self, outcomes: &[Outcome]) -> Vec<String> {
        let mut missed = Vec::new();
        for outcome in outcomes {
            match outcome.first_byte {
                None => missed.push("does not connect".to_owned()),
                Some(time) if time > FIRST_BYTE => {
                    missed.push(format!("has its first byte after {}", ui::span(time)));
                }
                Some(_) => {}
            }
            if outcome.first_byte.is_some() && outcome.way == Way::Nowhere {
                missed.push("has lost its way".to_owned());
            }
            let Self::Direct(goal) = self else {
                continue;
            };
            let words = ui::span(goal);
            match outcome.direct {
                Some(time) if time > goal => {
                    missed.push(format!("is direct after {}, the goal is {words}", ui::span(time)));
                }
                Some(_) => {}
                None => missed.push(format!("is not direct, the goal is {words}")),
            }
        }
        let direct = outcomes.iter().filter(|outcome| outcome.way == Way::Direct).count();
        if self == Self::Chance && outcomes.len() >= 10 && direct * 10 < outcomes.len() * OF_TEN {
            missed.push(format!("is direct in {direct} of {} runs", outcomes.len()));
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any box takes whose ports need no guess.
    const GUESSED: Duration = Duration::from_millis(500);

    #[test]
    fn of_66_cells_four_are_left_to_chance_and_eleven_have_no_udp() {
        let all = Kind::MATRIX;
        let cells = (0..11).flat_map(|one| (one..11).map(move |two| [all[one], all[two]]));
        let goals: Vec<_> = cells.map(|kinds| (kinds, Goal::of(kinds))).collect();
        let count = |goal: Goal| goals.iter().filter(|(_, one)| *one == goal).count();
        assert_eq!(count(Goal::Chance), 4);
        let late = |goal: &Goal| matches!(goal, Goal::Direct(time) if *time > GUESSED);
        assert_eq!(goals.iter().filter(|(_, goal)| late(goal)).count(), 6);
        // And the pairs of hard ones, and one behind which a probe spoils a mapping.
        assert_eq!(count(Goal::Relay), 11 + 5 + 1);
        for ([one, two], goal) in goals {
            assert_eq!(goal, Goal::of([two, one]));
        }
    }
}
