//! Two gateways behind two NAT boxes, for every pair of kinds: how soon A's first
//! packet is at B, by which way, and when the way is the direct one.
//!
//! All sites are up at once and every gateway is started once. Before each run
//! the pair is settled: a policy without rules takes every tunnel down and the
//! one that allows everything brings the peers back, idle; and both boxes have
//! forgotten what there was between the two sites. What STUN servers told stays
//! true. What does not connect is reported as that, and is no failure of the
//! scenario.

mod cell;
mod gateways;

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
use gateways::Gateways;

/// The coordinator forwards one call of a pair in 5 s; a run that begins earlier
/// measures that.
const BETWEEN_CALLS: Duration = Duration::from_secs(6);

/// A pair of kinds, and what its runs gave.
struct Cell {
    kinds: [Kind; 2],
    outcomes: Vec<Outcome>,
    /// The end of its last run.
    last: Option<Instant>,
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let pairs = pairs(stage.options.cells.as_deref())?;
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let (gateways, processes) = Gateways::start(stage, &pairs)?;
    let measured = measure(stage, &gateways, &pairs);
    stage.processes.extend(processes);
    stage.processes.extend(gateways.end());
    let cells = measured?;
    let ways = |way: Way| cells.iter().filter(|cell| cell.way() == way).count();
    let [direct, relay, none] = [Way::Direct, Way::Relay, Way::Nowhere].map(ways);
    stage.story.verdict(&format!(
        "{}: {direct} direct, {relay} by relay, {none} do not connect",
        ui::count(cells.len(), "cell")
    ));
    contradictions(&cells)?;
    Ok(json!({
        "cells": cells.iter().map(Cell::json).collect::<Vec<_>>(),
        "runs": runs(stage),
        "direct": direct,
        "relay": relay,
        "none": none,
    }))
}

fn runs(stage: &Stage<'_>) -> u32 {
    stage.options.runs.unwrap_or(1).max(1)
}

fn measure(stage: &mut Stage<'_>, gateways: &Gateways, pairs: &[[Kind; 2]]) -> Result<Vec<Cell>> {
    let title = ["a", "b", "path", "first byte", "direct", "skew"];
    stage.story.line(&row(&title.map(str::to_owned)));
    let cell = |kinds: &[Kind; 2]| Cell { kinds: *kinds, outcomes: Vec::new(), last: None };
    let mut cells: Vec<Cell> = pairs.iter().map(cell).collect();
    // Round by round, so that a pair that has just called rests meanwhile.
    for _ in 0..runs(stage) {
        for cell in &mut cells {
            let kinds = cell.kinds;
            if let Some(last) = cell.last {
                signal::rest(BETWEEN_CALLS.saturating_sub(last.elapsed()));
            }
            gateways.settle(stage.run, kinds)?;
            let outcome = cell::measure(gateways, kinds)?;
            cell.last = Some(clock::now());
            let span = |time: Option<_>| time.map_or_else(|| "–".to_owned(), ui::span);
            let [a, b] = kinds.map(|kind| kind.name().to_owned());
            let way = outcome.way.word().to_owned();
            let Outcome { first_byte, direct, skew, .. } = outcome;
            stage.story.line(&row(&[a, b, way, span(first_byte), span(direct), span(skew)]));
            cell.outcomes.push(outcome);
        }
    }
    Ok(cells)
}

fn row([a, b, path, first_byte, direct, skew]: &[String; 6]) -> String {
    let line = format!("  {a:<9} {b:<9} {path:<7} {first_byte:<11} {direct:<11} {skew}");
    line.trim_end().to_owned()
}

/// A gateway that calls a way direct has sent something to the other site.
fn contradictions(cells: &[Cell]) -> Result<()> {
    let wrong: Vec<String> = cells
        .iter()
        .filter(|cell| cell.outcomes.iter().any(Outcome::is_contradictory))
        .map(|cell| cell.kinds.map(Kind::name).join(":"))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let words = wrong.join(", ");
    Err(Failure::expectation(format!("called direct, and nothing went that way: {words}")))
}

impl Cell {
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

/// `prc:symrand,…`, or every unordered pair of the matrix.
fn pairs(wanted: Option<&str>) -> Result<Vec<[Kind; 2]>> {
    let Some(wanted) = wanted else {
        let all = Kind::MATRIX;
        let with = |first: usize| all[first..].iter().map(move |other| [all[first], *other]);
        return Ok((0..all.len()).flat_map(with).collect());
    };
    wanted
        .split(',')
        .map(|cell| {
            let kinds = cell.split_once(':').and_then(|(a, b)| {
                let find = |name: &str| Kind::MATRIX.into_iter().find(|kind| kind.name() == name);
                Some([find(a.trim())?, find(b.trim())?])
            });
            kinds.ok_or_else(|| {
                let names = Kind::MATRIX.map(Kind::name).join(", ");
                Failure::new(
                    "lab.cells",
                    format!("--cells has {cell:?}, which is no pair of kinds"),
                )
                .line("kinds", names)
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
        let all = pairs(None).unwrap();
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
    fn cells_are_named_by_their_kinds() {
        let some = pairs(Some("prc:symrand, open:open")).unwrap();
        assert_eq!(some, [[Kind::Prc, Kind::SymRand], [Kind::Open, Kind::Open]]);
        for wrong in ["prc", "prc:cone", "", "nat64:prc"] {
            assert_eq!(pairs(Some(wrong)).unwrap_err().status(), status::USAGE, "{wrong}");
        }
    }
}
