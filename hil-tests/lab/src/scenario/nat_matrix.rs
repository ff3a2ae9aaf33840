//! Two gateways behind two NAT boxes, for every pair of kinds: how soon A's first
//! packet is at B, by which way, and when the way is the direct one.
//!
//! All sites are up at once and every gateway is started once. Cells that share no
//! site are measured together, each a little after the one before, so that the first
//! packets of one do not wait for those of another. Before that they are settled: a
//! policy without rules takes every tunnel down and the one that allows everything
//! brings the peers back, idle; and both boxes of a cell have forgotten what there was
//! between its two sites. What STUN servers and relays told stays true.
//!
//! The way is what the wire shows, and what the gateway says of it must be that.

mod cell;
pub(super) mod gateways;
mod goal;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{Failure, Result, status};
use crate::nat::Kind;
use crate::net::signal;
use crate::process::find_program;
use crate::ui;
use cell::{Outcome, Way};
use gateways::{Gateways, JOINED};
use goal::Goal;

/// The coordinator forwards one call of a pair in 5 s; a run that begins earlier
/// measures that.
const BETWEEN_CALLS: Duration = Duration::from_secs(6);
/// Cells that may get another run. A moment in which the machine has something else to
/// do meets most cells of a round; a fault of the programs is there again.
const AGAIN: usize = 12;
/// Between the first packets of two cells of a round.
const APART: Duration = Duration::from_millis(400);

/// A pair of kinds, and what its runs gave.
struct Cell {
    kinds: [Kind; 2],
    outcomes: Vec<Outcome>,
    /// The end of its last run.
    last: Option<Instant>,
    /// It missed its goal, and this is another run.
    again: bool,
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let mut pairs = pairs(stage.options.cells.as_deref(), stage.options.ipv6)?;
    let skipped = without_tayga(&mut pairs);
    if pairs.is_empty() {
        return Err(
            Failure::skipped("the program tayga is missing").line("try", "cross/setup test")
        );
    }
    if stage.options.short {
        pairs.retain(|kinds| Goal::of(*kinds) != Goal::Chance);
    }
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let rounds = rounds(pairs);
    let all: Vec<[Kind; 2]> = rounds.iter().flatten().copied().collect();
    let (gateways, processes) = Gateways::start(stage, &all, JOINED)?;
    let measured = measure(stage, &gateways, &rounds);
    stage.processes.extend(processes);
    stage.processes.extend(gateways.end());
    let cells = measured?;
    let ways = |way: Way| cells.iter().filter(|cell| cell.way() == way).count();
    let [direct, relay, none] = [Way::Direct, Way::Relay, Way::Nowhere].map(ways);
    stage.story.verdict(&format!(
        "{}: {direct} direct, {relay} by relay, {none} do not connect",
        ui::count(cells.len(), "cell")
    ));
    let again: Vec<String> =
        cells.iter().filter(|cell| cell.again).map(|cell| cell.name()).collect();
    let document = json!({
        "cells": cells.iter().map(Cell::json).collect::<Vec<_>>(),
        "runs": runs(stage),
        "direct": direct,
        "relay": relay,
        "none": none,
        "passed": cells.len(),
        "measured_again": again,
        "skipped": skipped,
    });
    let missed: Vec<String> = cells.iter().flat_map(Cell::missed).collect();
    if missed.is_empty() {
        return Ok(document);
    }
    let words = format!("{} missed: {}", ui::count(missed.len(), "goal"), missed.join("; "));
    Err(Failure::expectation(words).line("measured", document.to_string()))
}

fn runs(stage: &Stage<'_>) -> u32 {
    stage.options.runs.unwrap_or(1).max(1)
}

/// Whether a pair may have no direct way.
#[cfg(test)]
pub(super) fn is_relayed(kinds: [Kind; 2]) -> bool {
    Goal::of(kinds) == Goal::Relay
}

/// Cells that share no site, together; a cell is turned around where that helps.
fn rounds(pairs: Vec<[Kind; 2]>) -> Vec<Vec<[Kind; 2]>> {
    let mut rounds: Vec<Vec<[Kind; 2]>> = Vec::new();
    for [a, b] in pairs {
        let fits = |round: &[[Kind; 2]], [a, b]: [Kind; 2]| {
            round.iter().all(|[first, second]| *first != a && *second != b)
        };
        let place = rounds.iter_mut().find_map(|round| {
            let turned = [[a, b], [b, a]].into_iter().find(|kinds| fits(round, *kinds));
            turned.map(|kinds| (round, kinds))
        });
        match place {
            Some((round, kinds)) => round.push(kinds),
            None => rounds.push(vec![[a, b]]),
        }
    }
    rounds
}

fn measure(
    stage: &mut Stage<'_>,
    gateways: &Gateways,
    rounds: &[Vec<[Kind; 2]>],
) -> Result<Vec<Cell>> {
    let title = ["a", "b", "path", "first byte", "direct", "skew"];
    stage.story.line(&row(&title.map(str::to_owned)));
    let cell =
        |kinds: &[Kind; 2]| Cell { kinds: *kinds, outcomes: Vec::new(), last: None, again: false };
    let mut cells: Vec<Vec<Cell>> =
        rounds.iter().map(|round| round.iter().map(cell).collect()).collect();
    // Round by round, so that a pair that has just called rests meanwhile.
    for _ in 0..runs(stage) {
        for round in &mut cells {
            let last = round.iter().filter_map(|cell| cell.last).max();
            if let Some(last) = last {
                signal::rest(BETWEEN_CALLS.saturating_sub(last.elapsed()));
            }
            measure_round(stage, gateways, round)?;
        }
    }
    let mut cells: Vec<Cell> = cells.into_iter().flatten().collect();
    if runs(stage) == 1 {
        measure_again(stage, gateways, &mut cells)?;
    }
    Ok(cells)
}

/// A busy machine is late now and then: cells that missed their goals, if they are not
/// many, get another run, alone, and that one counts.
fn measure_again(stage: &mut Stage<'_>, gateways: &Gateways, cells: &mut [Cell]) -> Result<()> {
    let missed: Vec<&mut Cell> =
        cells.iter_mut().filter(|cell| !cell.missed().is_empty()).collect();
    if missed.len() > AGAIN {
        return Ok(());
    }
    for cell in missed {
        signal::rest(BETWEEN_CALLS);
        stage.story.line(&format!("  again: {}", cell.missed().join(", ")));
        cell.outcomes.clear();
        cell.again = true;
        measure_round(stage, gateways, std::slice::from_mut(cell))?;
    }
    Ok(())
}

fn measure_round(stage: &mut Stage<'_>, gateways: &Gateways, round: &mut [Cell]) -> Result<()> {
    let kinds: Vec<[Kind; 2]> = round.iter().map(|cell| cell.kinds).collect();
    gateways.settle(stage.run, &kinds)?;
    gateways.internet().forget_first_frames();
    let began = clock::now();
    let outcomes: Vec<Result<Outcome>> = thread::scope(|scope| {
        let start = |(place, kinds): (u32, [Kind; 2])| {
            scope.spawn(move || {
                signal::rest((APART * place).saturating_sub(began.elapsed()));
                cell::measure(gateways, kinds, Goal::of(kinds).patience())
            })
        };
        let threads: Vec<_> = (0..).zip(kinds).map(start).collect();
        let panicked = |_| Failure::new("lab.internal", "a cell panicked");
        threads.into_iter().map(|thread| thread.join().map_err(panicked)?).collect()
    });
    for (cell, outcome) in round.iter_mut().zip(outcomes) {
        let outcome = outcome?;
        cell.last = Some(clock::now());
        let span = |time: Option<_>| time.map_or_else(|| "–".to_owned(), ui::span);
        let [a, b] = cell.kinds.map(|kind| kind.name().to_owned());
        let way = outcome.way.word().to_owned();
        let Outcome { first_byte, direct, skew, .. } = outcome;
        stage.story.line(&row(&[a, b, way, span(first_byte), span(direct), span(skew)]));
        cell.outcomes.push(outcome);
    }
    Ok(())
}

fn row([a, b, path, first_byte, direct, skew]: &[String; 6]) -> String {
    let line = format!("  {a:<9} {b:<9} {path:<7} {first_byte:<11} {direct:<11} {skew}");
    line.trim_end().to_owned()
}

impl Cell {
    fn name(&self) -> String {
        self.kinds.map(Kind::name).join(":")
    }

    /// What its goals are that were not kept, each in words.
    fn missed(&self) -> Vec<String> {
        let name = self.name();
        let mut missed: Vec<String> =
            Goal::of(self.kinds).missed(&self.outcomes).into_iter().collect();
        for outcome in &self.outcomes {
            if let Some(said) = outcome.contradiction() {
                missed.push(format!("its path is called {said}, and is {}", outcome.way.word()));
            }
        }
        missed.into_iter().map(|words| format!("{name} {words}")).collect()
    }

    /// The worst of its runs.
    fn way(&self) -> Way {
        self.outcomes.iter().map(|outcome| outcome.way).max().unwrap_or(Way::Nowhere)
    }

    fn json(&self) -> Value {
        let [a, b] = self.kinds.map(Kind::name);
        // With several runs the slowest stands for the cell: `null` if a run has
        // no such time.
        let worst = |time: fn(&Outcome) -> Option<Duration>| {
            let all: Option<Vec<_>> = self.outcomes.iter().map(time).collect();
            all.and_then(|all| all.into_iter().max()).map(cell::millis)
        };
        let mut document = json!({
            "a": a,
            "b": b,
            "path": self.way().word(),
            "first_byte_ms": worst(|outcome| outcome.first_byte),
            "direct_ms": worst(|outcome| outcome.direct),
            "skew_ms": worst(|outcome| outcome.skew),
        });
        if self.outcomes.len() > 1 {
            document["runs"] = self.outcomes.iter().map(Outcome::json).collect();
        }
        document
    }
}

/// Takes out what needs a program that is missing, and says so.
fn without_tayga(pairs: &mut Vec<[Kind; 2]>) -> Vec<Value> {
    let needed = |kinds: &[Kind; 2]| kinds.contains(&Kind::Nat64);
    if find_program(Kind::Nat64.needs()).is_some() || !pairs.iter().any(needed) {
        return Vec::new();
    }
    pairs.retain(|kinds| !needed(kinds));
    vec![json!({ "name": "nat64", "reason": "the program tayga is missing" })]
}

/// Pairs with IPv6: both families of boxes, and translated hosts with each other and
/// with those whose ports need no guess.
const WITH_IPV6: [[Kind; 2]; 10] = {
    use Kind::{AdCone, Cgnat, FullCone, Nat64, Open, Prc, SixFw, SixOpen, SymEif};
    [
        [SixOpen, SixOpen],
        [SixOpen, SixFw],
        [SixFw, SixFw],
        [Nat64, Open],
        [Nat64, FullCone],
        [Nat64, AdCone],
        [Nat64, Prc],
        [Nat64, SymEif],
        [Nat64, Cgnat],
        [Nat64, Nat64],
    ]
};

/// `prc:symrand,…`, or every unordered pair of the matrix; `ipv6` adds those that it
/// is for.
fn pairs(wanted: Option<&str>, ipv6: bool) -> Result<Vec<[Kind; 2]>> {
    let Some(wanted) = wanted else {
        let all = Kind::MATRIX;
        let with = |first: usize| all[first..].iter().map(move |other| [all[first], *other]);
        let six = WITH_IPV6.into_iter().filter(|_| ipv6);
        return Ok((0..all.len()).flat_map(with).chain(six).collect());
    };
    wanted
        .split(',')
        .map(|cell| {
            let kinds = cell.split_once(':').and_then(|(a, b)| {
                let all = Kind::MATRIX.into_iter().chain(Kind::SIX);
                let fits = |kind: &Kind| ipv6 || !kind.wants_ipv6();
                let find = |name: &str| all.clone().filter(fits).find(|kind| kind.name() == name);
                Some([find(a.trim())?, find(b.trim())?])
            });
            kinds.ok_or_else(|| {
                let all = Kind::MATRIX.into_iter().chain(Kind::SIX).map(Kind::name);
                let names = all.collect::<Vec<_>>().join(", ");
                Failure::new(
                    "lab.cells",
                    format!("--cells has {cell:?}, which is no pair of kinds"),
                )
                .line("kinds", format!("{names}; those with six want --ipv6"))
                .line("try", "--cells prc:symrand,open:prc")
                .exit(status::USAGE)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_every_pair_once() {
        let all = pairs(None, false).unwrap();
        assert_eq!(all.len(), 66);
        let mut names: Vec<_> = all
            .iter()
            .map(|pair| {
                let mut names = pair.map(Kind::name);
                names.sort_unstable();
                names
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 66);
    }

    #[test]
    fn no_round_needs_a_site_twice_and_all_cells_are_in_one() {
        let rounds = rounds(pairs(None, false).unwrap());
        assert_eq!(rounds.iter().map(Vec::len).sum::<usize>(), 66);
        for round in &rounds {
            for side in 0..2 {
                let mut kinds: Vec<_> = round.iter().map(|cell| cell[side].name()).collect();
                kinds.sort_unstable();
                kinds.dedup();
                assert_eq!(kinds.len(), round.len());
            }
        }
        assert!(rounds.len() <= 11, "{} rounds", rounds.len());
    }

    #[test]
    fn with_ipv6_there_are_more_and_each_has_a_goal() {
        let all = pairs(None, true).unwrap();
        assert_eq!(all.len(), 76);
        for kinds in WITH_IPV6 {
            assert!(matches!(Goal::of(kinds), Goal::Direct(_)), "{kinds:?}");
        }
        let some = pairs(Some("nat64:prc,six-fw:six-open"), true).unwrap();
        assert_eq!(some, [[Kind::Nat64, Kind::Prc], [Kind::SixFw, Kind::SixOpen]]);
    }

    #[test]
    fn cells_are_named_by_their_kinds() {
        let some = pairs(Some("prc:symrand, open:open"), false).unwrap();
        assert_eq!(some, [[Kind::Prc, Kind::SymRand], [Kind::Open, Kind::Open]]);
        for wrong in ["prc", "prc:cone", "", "six-fw:six-fw"] {
            assert_eq!(pairs(Some(wrong), false).unwrap_err().status(), status::USAGE, "{wrong}");
        }
    }
}
