//! `why`: both ends' evidence, joined.

use clap::{Args as ClapArgs, ValueEnum};

use crate::api::connections::{Attempt, Evidence, RuleMatch, Why as Answer};
use crate::failure::Failure;

use super::client::segment;
use super::format::{NOTHING, moment_exact};
use super::remote::Context;
use super::sessions::{ago, outcome, path, rtt};
use super::ui;

/// Attempts that are shown.
const TRIES: usize = 8;

/// Which language sentences are in.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Lang {
    En,
    Zh,
}

/// Flags of `why`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Why {
    /// Who asks
    a: String,
    /// Who answers
    b: String,
    /// What for: tcp/22, udp, icmp; nothing = anything
    traffic: Option<String>,
    /// Language of the sentences
    #[arg(long, value_enum, default_value = "en")]
    lang: Lang,
}

pub(super) async fn run(context: &Context<'_>, wanted: &Why) -> Result<u8, Failure> {
    let (a, b) = (segment(&wanted.a), segment(&wanted.b));
    let lang = match wanted.lang {
        Lang::En => "en",
        Lang::Zh => "zh",
    };
    let traffic = wanted.traffic.as_deref();
    let traffic = traffic.map_or_else(String::new, |text| format!("&traffic={}", segment(text)));
    let path = format!("/api/v1/connections/{a}/{b}?lang={lang}{traffic}");
    let answer: Answer = context.client.get(&path).await?;
    if context.json {
        ui::json("weft.why/1", &answer);
    } else {
        describe(&answer, context.now).iter().for_each(ui::out);
    }
    Ok(u8::from(!answer.verdict.good))
}

/// The text, line by line.
fn describe(answer: &Answer, now: u64) -> Vec<String> {
    let verdict = &answer.verdict;
    let mut lines = vec![format!("{}  [{}]", verdict.sentence, verdict.code)];
    if !verdict.advice.is_empty() {
        lines.push(String::new());
        lines.push("what would help, one of:".to_owned());
        for advice in &verdict.advice {
            let command = advice.command.as_ref();
            let command = command.map_or_else(String::new, |command| format!(":  {command}"));
            lines.push(format!("  {}{command}", advice.text));
        }
    }
    lines.push(String::new());
    lines.extend(evidence(answer, now));
    lines.extend(tries(&answer.attempts, now));
    if let Some(next) = &answer.next_try_at {
        lines.push(format!("next try                {}", moment_exact(next)));
    }
    lines
}

fn evidence(answer: &Answer, now: u64) -> Vec<String> {
    let (a, b) = (&answer.evidence.a, &answer.evidence.b);
    let names = [answer.from.name.clone(), answer.to.name.clone()];
    let both = |fact: fn(&Evidence, u64) -> String| [fact(a, now), fact(b, now)];
    let mut rows = vec![("evidence", names)];
    rows.push(("  address seen", both(|end, _| seen(end))));
    rows.push(("  mapping", both(|end, _| mapping(end))));
    rows.push(("  path", both(|end, _| way(end))));
    rows.push(("  since", both(since)));
    rows.push(("  map version", both(|end, _| map(end))));
    rows.push(("  reported", both(reported)));
    let width = rows.iter().map(|(_, [a, _])| a.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<String> = rows
        .iter()
        .map(|(label, [a, b])| {
            let pad = " ".repeat(width - a.chars().count() + 2);
            format!("{label:<24}{a}{pad}{b}")
        })
        .collect();
    lines.push(format!("{:<24}{}", "  policy", policy(answer.evidence.policy.as_ref())));
    lines
}

fn seen(end: &Evidence) -> String {
    if end.seen.is_empty() { NOTHING.to_owned() } else { end.seen.join(" ") }
}

fn mapping(end: &Evidence) -> String {
    match end.mapping.as_deref() {
        Some("endpoint_independent") => "same port for every destination".to_owned(),
        Some("sequential") => {
            let step = end.step.map_or_else(|| NOTHING.to_owned(), |step| format!("{step:+}"));
            format!("port counts {step} per destination")
        }
        Some("window") => {
            let ports = end.window.map_or_else(|| NOTHING.to_owned(), |ports| ports.to_string());
            format!("new port per destination (of {ports})")
        }
        Some("random") => "new port per destination".to_owned(),
        Some("blocked") => "no UDP".to_owned(),
        Some(other) => other.to_owned(),
        None => NOTHING.to_owned(),
    }
}

fn way(end: &Evidence) -> String {
    let Some(way) = &end.path else { return NOTHING.to_owned() };
    let trip = end.rtt_us.map_or_else(String::new, |us| format!(", {}", rtt(us)));
    format!("{}{trip}", path(way))
}

fn since(end: &Evidence, now: u64) -> String {
    end.path.as_ref().map_or_else(|| NOTHING.to_owned(), |way| ago(&way.since, now))
}

/// `42, current`; of a device that applies none, nothing.
fn map(end: &Evidence) -> String {
    let Some(applied) = end.map.applied else { return NOTHING.to_owned() };
    if applied >= end.map.revision {
        format!("{applied}, current")
    } else {
        format!("{applied} of {}", end.map.revision)
    }
}

fn reported(end: &Evidence, now: u64) -> String {
    let at = end.reported_at.as_ref().map_or_else(|| "nothing yet".to_owned(), |at| ago(at, now));
    if end.online { at } else { format!("{at}, not connected now") }
}

/// `allowed by rule 3 "ops to plc", icmp tcp/22`.
fn policy(rule: Option<&RuleMatch>) -> String {
    let Some(rule) = rule else { return "no rule allows it".to_owned() };
    let name = if rule.name.is_empty() { String::new() } else { format!(" \"{}\"", rule.name) };
    format!("allowed by rule {}{name}, {}", rule.rule, rule.allow.join(" "))
}

fn tries(attempts: &[Attempt], now: u64) -> Vec<String> {
    let Some(last) = attempts.first() else { return Vec::new() };
    let failed = attempts.iter().map(|one| one.failed_in_a_row).max().unwrap_or(0);
    let failed = match (last.outcome.as_deref(), failed) {
        (Some("found"), _) | (_, 0) => String::new(),
        (_, 1) => "1 without success, ".to_owned(),
        (_, failed) => format!("{failed} in a row without success, "),
    };
    let head = format!("{:<24}{failed}last {}", "tries", ago(&last.at, now));
    let line = |one: &Attempt| {
        let (at, by) = (moment_exact(&one.at), &one.by.name);
        format!("  {at}  {by}: {}", outcome(one))
    };
    core::iter::once(head).chain(attempts.iter().take(TRIES).map(line)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::connections::{Advice, BothEnds, Path, Verdict};
    use crate::api::{MapState, Named};

    fn named(name: &str) -> Named {
        Named { id: format!("dev_{name}"), name: name.to_owned() }
    }

    fn end(seen: &str) -> Evidence {
        Evidence {
            seen: vec![seen.to_owned()],
            mapping: Some("random".to_owned()),
            step: None,
            window: None,
            lifetime_s: None,
            tested_at: None,
            reported_at: Some("2026-11-23T15:04:00.000Z".to_owned()),
            path: Some(Path {
                kind: "relay".to_owned(),
                remote: None,
                relay: Some("fra1".to_owned()),
                rung: Some("udp".to_owned()),
                since: "2026-11-23T13:04:05.000Z".to_owned(),
            }),
            rtt_us: Some(48_000),
            online: true,
            map: MapState { revision: 42, applied: Some(42) },
        }
    }

    #[test]
    fn an_answer_reads_from_the_sentence_to_the_evidence() {
        let now = 1_795_446_245_000;
        let attempt = Attempt {
            by: named("gw-c"),
            at: "2026-11-23T15:00:05.000Z".to_owned(),
            method: "burst".to_owned(),
            tried: 4,
            answered: 0,
            sent: 28,
            outcome: Some("no_answer".to_owned()),
            took_ms: 1_300,
            failed_in_a_row: 12,
            own_mapping: None,
            peer_mapping: None,
        };
        let advice = Advice { code: "ipv6".to_owned(), text: "IPv6".to_owned(), command: None };
        let allow = vec!["icmp".to_owned(), "tcp/22".to_owned()];
        let behind = Evidence {
            map: MapState { revision: 42, applied: Some(41) },
            online: false,
            ..end("203.0.113.80:41002")
        };
        let answer = Answer {
            from: named("gw-c"),
            to: named("plc-9"),
            traffic: None,
            verdict: Verdict {
                code: "relay.both-random".to_owned(),
                number: 202,
                good: true,
                params: BTreeMap::new(),
                sentence: "Relayed: because.".to_owned(),
                advice: vec![advice],
            },
            evidence: BothEnds {
                a: end("198.51.100.90:50112"),
                b: behind,
                policy: Some(RuleMatch { rule: 3, name: "ops to plc".to_owned(), allow }),
            },
            attempts: vec![attempt],
            next_try_at: None,
        };
        let mut lines = describe(&answer, now);
        let tried = lines.pop().unwrap();
        assert!(tried.ends_with("  gw-c: 0 of 4 addresses answered (28 sent)"), "{tried}");
        assert_eq!(
            lines,
            [
                "Relayed: because.  [relay.both-random]",
                "",
                "what would help, one of:",
                "  IPv6",
                "",
                "evidence                gw-c                      plc-9",
                "  address seen          198.51.100.90:50112       203.0.113.80:41002",
                "  mapping               new port per destination  new port per destination",
                "  path                  relay fra1 udp, 48.0 ms   relay fra1 udp, 48.0 ms",
                "  since                 2 h ago                   2 h ago",
                "  map version           42, current               41 of 42",
                "  reported              5 s ago                   5 s ago, not connected now",
                "  policy                allowed by rule 3 \"ops to plc\", icmp tcp/22",
                "tries                   12 in a row without success, last 4 min ago",
            ]
        );
    }
}
