//! What is said of pairs that do not meet, word for word, against tables that are kept:
//! the code and the sentence of the coordinator, and the code of the device that asks.
//!
//! Pairs that NAT boxes keep apart, or just let through, and pairs that something was
//! taken from ([`faults`]): all talk at once, since a device reports no more than twice
//! a minute. Figures are masked: `‹n›`. No row is left to chance: a pair that may go
//! either way is none.

mod faults;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use super::nat_matrix::gateways::Gateways;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::mesh::{Gateway, text};
use crate::nat::Kind;
use crate::net::signal;
use crate::process::find_program;
use crate::ui;
use faults::Faults;

/// One line for each pair: both kinds, the coordinator's code, the device's, the
/// coordinator's sentence.
const TABLE: &str = include_str!("why/table.txt");
/// From the first packet to the coordinator's word: the report before may have been
/// made just now, and the next one comes half a minute later.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two packets, and two looks.
const STEP: Duration = Duration::from_millis(500);

/// What both say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    code: String,
    /// The device's code.
    own: String,
    sentence: String,
}

/// What is to be said of something.
struct Row {
    of: [&'static str; 2],
    wanted: Said,
    /// The coordinator said it, and the device. The two need not at the same time.
    met: [bool; 2],
    /// What was said last.
    last: Option<Said>,
}

/// `A B CODE OWN-CODE SENTENCE`, line by line. A sentence that ends with `…` goes on
/// as it happens: with the time of the next attempt.
fn rows(table: &'static str) -> Result<Vec<Row>> {
    table
        .lines()
        .map(|line| {
            let wrong = || Failure::new("lab.internal", format!("no row of a table: {line}"));
            let mut words = line.splitn(5, ' ');
            let mut next = || words.next().ok_or_else(wrong);
            let of = [next()?, next()?];
            let [code, own, sentence] = [next()?, next()?, next()?].map(str::to_owned);
            Ok(Row { of, wanted: Said { code, own, sentence }, met: [false; 2], last: None })
        })
        .collect()
}

impl Row {
    fn look(&mut self, said: Said) {
        let Said { code, own, sentence } = &self.wanted;
        let same = match sentence.strip_suffix('…') {
            Some(beginning) => said.sentence.starts_with(beginning),
            None => said.sentence == *sentence,
        };
        self.met[0] |= said.code == *code && same;
        self.met[1] |= said.own == *own;
        self.last = Some(said);
    }

    fn is_met(&self) -> bool {
        self.met == [true; 2]
    }

    fn name(&self) -> String {
        self.of.join(" ")
    }

    /// One line of the story.
    fn line(&self) -> String {
        let Said { code, own, sentence } = &self.wanted;
        let own = if own == code { String::new() } else { format!(" (alone {own})") };
        format!("  {:<18} {code}{own}: {sentence}", self.name())
    }

    fn json(&self) -> Value {
        let [a, b] = self.of;
        let Said { code, own, sentence } = &self.wanted;
        json!({ "a": a, "b": b, "code": code, "own_code": own, "sentence": sentence })
    }
}

/// Rows of which something else was said.
fn differing(rows: &[Row]) -> Result<()> {
    let wrong: Vec<&Row> = rows.iter().filter(|row| !row.is_met()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let words = match wrong.len() {
        1 => "1 row differs from the table".to_owned(),
        more => format!("{more} rows differ from the table"),
    };
    Err(wrong.iter().fold(Failure::expectation(words), |failure, row| {
        let said = row.last.as_ref().map_or_else(String::new, |said| {
            format!("{} {} {} {}", row.name(), said.code, said.own, said.sentence)
        });
        failure.line("said", said)
    }))
}

/// Figures become `‹n›`.
fn masked(sentence: &str) -> String {
    let mut out = String::new();
    let mut rest = sentence;
    while let Some(at) = rest.find(|one: char| one.is_ascii_digit()) {
        out.push_str(&rest[..at]);
        out.push_str("‹n›");
        let figure = rest[at..].find(|one: char| !one.is_ascii_digit() && one != ',');
        // A comma behind a figure is none of it.
        let end =
            figure.map_or(rest.len(), |len| at + rest[at..at + len].trim_end_matches(',').len());
        rest = &rest[end..];
    }
    out + rest
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    for program in ["nft", "conntrack"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let mut rows = rows(TABLE)?;
    let pairs: Vec<[Kind; 2]> = rows.iter().map(|row| kinds(row.of)).collect::<Result<_>>()?;
    let (gateways, processes) = Gateways::start(stage, &pairs, Duration::ZERO)?;
    let asked = ask(stage, &gateways, &mut rows, &pairs);
    stage.processes.extend(processes);
    stage.processes.extend(gateways.end());
    rows.extend(asked?);
    for row in &rows {
        stage.story.line(&row.line());
    }
    differing(&rows)?;
    stage.story.verdict(&format!("{}, each explained as it is", ui::count(rows.len(), "case")));
    Ok(json!({ "passed": rows.len(), "cells": rows.iter().map(Row::json).collect::<Vec<_>>() }))
}

fn kinds(of: [&str; 2]) -> Result<[Kind; 2]> {
    let kind = |name: &str| {
        let found = Kind::MATRIX.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| Failure::new("lab.internal", format!("no kind {name}")))
    };
    Ok([kind(of[0])?, kind(of[1])?])
}

/// Talks in all pairs until of each was said what the tables have, or time is up. Gives
/// the rows of those that something was taken from.
fn ask(
    stage: &mut Stage<'_>,
    gateways: &Gateways,
    rows: &mut [Row],
    kinds: &[[Kind; 2]],
) -> Result<Vec<Row>> {
    gateways.allow(stage.run)?;
    let talks: Vec<Talk> = kinds
        .iter()
        .map(|kinds| {
            let [a, b] = gateways.of(*kinds)?.map(|side| side.gateway);
            Talk::start(a, b)
        })
        .collect::<Result<_>>()?;
    let began = clock::now();
    talks.iter().for_each(Talk::send);
    let mut faults = Faults::start(stage)?;
    stage.story.done("faults", "three pairs and two", Some(began.elapsed()));
    let began = clock::now();
    let looked = (|| {
        while began.elapsed() < PATIENCE && !(faults.is_met() && rows.iter().all(Row::is_met)) {
            talks.iter().for_each(Talk::send);
            faults.send();
            pause()?;
            for (row, kinds) in rows.iter_mut().zip(kinds).filter(|(row, _)| !row.is_met()) {
                let [a, b] = gateways.of(*kinds)?.map(|side| side.gateway);
                let joined = gateways.why(a.name(), b.name())?;
                row.look(said(&joined, &a.why(&[b.name()])?)?);
            }
            faults.look()?;
        }
        Ok(())
    })();
    let (further, processes) = faults.end();
    stage.processes.extend(processes);
    looked.map(|()| further)
}

/// Until the next packet, and the next look.
fn pause() -> Result<()> {
    signal::rest(STEP);
    if signal::asked_to_stop() { Err(Failure::stopped()) } else { Ok(()) }
}

/// Packets from one to the other.
struct Talk {
    socket: UdpSocket,
    to: (IpAddr, u16),
}

impl Talk {
    fn start(from: &Gateway, to: &Gateway) -> Result<Self> {
        let what = format!("open a socket at {}", from.name());
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        let socket = from.namespace().within(bind).during(&what)?.during(&what)?;
        Ok(Self { socket, to: (to.addresses.ipv4, 9) })
    }

    fn send(&self) {
        // The host may have no way there yet.
        let _refused = self.socket.send_to(b"why", self.to);
    }
}

/// Of the coordinator's document and the device's, which may be that of an error.
fn said(joined: &Value, own: &Value) -> Result<Said> {
    let own = text(own, "/verdict/code").or_else(|_| text(own, "/error/code"))?;
    let code = text(joined, "/verdict/code")?;
    let sentence = masked(&text(joined, "/verdict/sentence")?);
    Ok(Said { code, own, sentence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Both ways: the coordinator's sentence and the device's are of the pair.
    #[test]
    fn every_relayed_cell_of_the_matrix_that_is_not_left_to_chance_is_a_row() {
        let rows = rows(TABLE).unwrap();
        let all: Vec<[Kind; 2]> = rows.iter().map(|row| kinds(row.of).unwrap()).collect();
        let names = |[a, b]: [Kind; 2]| {
            let mut names = [a.name(), b.name()];
            names.sort_unstable();
            names
        };
        let listed: BTreeSet<_> = all.iter().copied().map(names).collect();
        assert_eq!(listed.len(), rows.len(), "each pair once");
        // A search finds the port of the hard one in most runs, sooner or later.
        let is_chance =
            |pair: &[Kind; 2]| pair.contains(&Kind::NoFw) && pair.contains(&Kind::SymRand);
        let each = Kind::MATRIX.into_iter();
        let missing: Vec<_> = each
            .flat_map(|a| Kind::MATRIX.map(|b| [a, b]))
            .filter(|pair| super::super::nat_matrix::is_relayed(*pair) && !is_chance(pair))
            .map(names)
            .filter(|names| !listed.contains(names))
            .collect();
        assert_eq!(missing, [[""; 2]; 0]);
    }

    #[test]
    fn figures_are_masked() {
        assert_eq!(masked("32,256 probes, 4, 5 min ago, 7"), "‹n› probes, ‹n›, ‹n› min ago, ‹n›");
    }
}
