//! `weft why`: how a peer is reached, and why so, as far as this machine knows.

mod judge;

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value};
use weft_wire::signal::Mapping;
use weft_wire::traffic::{self, Traffic};
use weft_wire::verdict::{AttemptEnd, Language};

use crate::cli::{Context, peer};
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::{Client, unexpected};
use crate::ipc::protocol::{Answer, Device, Evidence, Path, Peer, Relay, Request, Status, Tried};
use crate::os::clock;
use crate::output::{Symbols, paint, style, units};

use judge::{Judged, judge};

/// Which language sentences are in.
#[derive(Clone, Copy, ValueEnum)]
enum Lang {
    En,
    Zh,
}

#[derive(Args)]
pub(super) struct Arguments {
    /// The peer's name, address or id
    peer: String,
    /// What is to pass: any, icmp, tcp, tcp/22, udp/5000-5010 or ip/47
    #[arg(value_parser = parse_traffic)]
    traffic: Option<Wanted>,
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Language of the sentences
    #[arg(long, value_enum, default_value = "en")]
    lang: Lang,
}

/// What is to pass, and as it was written.
#[derive(Clone)]
struct Wanted {
    traffic: Traffic,
    text: String,
}

fn parse_traffic(text: &str) -> core::result::Result<Wanted, String> {
    let wrong = |_| format!("it names no traffic; write {}", traffic::EXAMPLES);
    // Both families of ICMP are allowed together: the first stands for both.
    let (traffic, _) = traffic::parse(text).map_err(wrong)?;
    Ok(Wanted { traffic, text: text.to_owned() })
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let mut client = peer::connect(&context.config, "why")?;
    let status = client.status()?;
    let found = peer::find(&status, &arguments.peer)?;
    let evidence = evidence(&mut client, found)?.ok_or_else(|| gone(&arguments.peer))?;
    let language = match arguments.lang {
        Lang::En => Language::En,
        Lang::Zh => Language::Zh,
    };
    let now_ms = clock::unix_millis();
    let wanted = arguments.traffic.as_ref();
    let judged = judge(&status, found, &evidence, wanted.map(|wanted| wanted.traffic));
    if arguments.json {
        let traffic = wanted.map(|wanted| wanted.text.clone());
        let document = Document {
            traffic,
            ..document(&status, found, &evidence, (&judged, language), now_ms)
        };
        context.ui.document(&document);
    } else {
        let symbols = context.ui.symbols;
        for line in describe(&status, found, &evidence, (&judged, language), symbols) {
            context.ui.answer(&line);
        }
    }
    Ok(u8::from(!judged.verdict.is_good()))
}

/// What the daemon knows of a peer; `None`: it is none any more.
fn evidence(client: &mut Client, peer: &Peer) -> Result<Option<Evidence>> {
    match client.ask(Request::Why { peer: peer.id.clone() })? {
        Answer::Why(evidence) => Ok(evidence.map(|evidence| *evidence)),
        _ => Err(unexpected()),
    }
}

/// The verdicts on peers, by their ids, as programs read them.
pub(super) type Verdicts = BTreeMap<String, VerdictDocument>;

/// What `weft why` would say of each peer. One that the map drops meanwhile has no
/// verdict. Each is a question of its own: together they may be more than a client's
/// answers may take.
pub(super) fn verdicts(client: &mut Client, status: &Status) -> Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for peer in &status.peers {
        if let Some(evidence) = evidence(client, peer)? {
            verdicts.insert(peer.id.clone(), verdict(status, peer, &evidence));
        }
    }
    Ok(verdicts)
}

fn verdict(status: &Status, peer: &Peer, evidence: &Evidence) -> VerdictDocument {
    verdict_document(&judge(status, peer, evidence, None), Language::En)
}

/// It went between two questions.
fn gone(wanted: &str) -> Failure {
    Failure::new(Code::PeerUnknown, format!("{wanted} is no peer any more"))
        .try_command("weft peers")
}

fn own_name(status: &Status) -> &str {
    status.device.as_ref().map_or("", |device| device.name.as_str())
}

/// The text, line by line. The sentence stands alone in the first.
fn describe(
    status: &Status,
    peer: &Peer,
    evidence: &Evidence,
    (judged, language): (&Judged, Language),
    symbols: Symbols,
) -> Vec<String> {
    let code = judged.verdict.code();
    let sentence = judged.sentence(language);
    let mut lines = vec![format!("{}  [{code}]", paint(style::BOLD, sentence))];
    let advice = judged.advice(language);
    if !advice.is_empty() {
        lines.push(String::new());
        lines.push("what would help, one of:".to_owned());
        for (_, text, command) in advice {
            let command = command.map_or_else(String::new, |command| {
                format!(":  {}", paint(style::COMMAND, command))
            });
            lines.push(format!("  {text}{command}"));
        }
    }
    lines.push(String::new());
    lines.extend(facts(status, peer, evidence, symbols));
    lines.extend(tries(evidence));
    lines
}

fn facts(status: &Status, peer: &Peer, evidence: &Evidence, symbols: Symbols) -> Vec<String> {
    let none = || symbols.none.to_owned();
    let own = own_name(status).to_owned();
    let seen = if evidence.seen.is_empty() { none() } else { evidence.seen.join(" ") };
    let told = |mapping| mapping_text(mapping).unwrap_or_else(none);
    let rows = [
        ("evidence", own.clone(), peer.name.clone()),
        ("  address seen", seen, "not known here".to_owned()),
        ("  mapping", told(evidence.mapping), told(evidence.peer_mapping)),
    ];
    let width = rows.iter().map(|(_, one, _)| one.chars().count()).max().unwrap_or(0);
    let line = |label: &str, text: &str| format!("{label:<24}{text}");
    let mut lines: Vec<String> = rows
        .iter()
        .map(|(label, one, other)| {
            let pad = " ".repeat(width - one.chars().count() + 2);
            line(label, &format!("{one}{pad}{other}"))
        })
        .collect();
    let (kind, detail) = peer::path(peer);
    lines.push(line("  path", &format!("{kind} {detail}")));
    lines.push(line("  since", &peer.since_ms.map_or_else(none, units::age_ms)));
    let rtt = peer.rtt_us.map_or_else(none, |us| {
        let age = peer.rtt_ms_ago.map_or_else(String::new, |ms| format!(", {}", units::age_ms(ms)));
        format!("{}{age}", units::span_us(us))
    });
    lines.push(line("  round trip", &rtt));
    let list = |texts: &[String]| if texts.is_empty() { none() } else { texts.join(" ") };
    let [receives, sends] = &evidence.allowed;
    let rules = format!("sends {}, receives {}", list(sends), list(receives));
    lines.push(line("  own rules", &rules));
    let map = status.coordinator.map.as_ref();
    lines.push(line("  map version", &map.map_or_else(none, |(_, revision)| revision.to_string())));
    let command = format!("weft-coordinator why {own} {}", peer.name);
    let command = paint(style::COMMAND, command);
    lines.push(line(
        "  the other side",
        &format!("not known here (ask the coordinator: {command})"),
    ));
    lines
}

fn mapping_text(mapping: Mapping) -> Option<String> {
    Some(match mapping {
        Mapping::Unknown => return None,
        Mapping::EndpointIndependent => "same port for every destination".to_owned(),
        Mapping::Sequential(step) => format!("port counts {step:+} per destination"),
        Mapping::Window(ports) => format!("new port per destination (of {ports})"),
        Mapping::Random => "new port per destination".to_owned(),
        Mapping::Blocked => "no UDP".to_owned(),
    })
}

fn tries(evidence: &Evidence) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(last) = evidence.attempts.first() {
        let failed = match evidence.failed {
            0 => String::new(),
            1 => "1 without success, ".to_owned(),
            failed => format!("{failed} in a row without success, "),
        };
        lines.push(format!("{:<24}{failed}last {}", "tries", units::age_ms(last.ago_ms)));
        let line = |one: &Tried| format!("  {:<22}{}", units::age_ms(one.ago_ms), outcome(one));
        lines.extend(evidence.attempts.iter().map(line));
    }
    if let Some(trying) = evidence.trying_ms {
        let span = units::span_us(trying.saturating_mul(1_000));
        lines.push(format!("{:<24}under way for {span}", "this try"));
    }
    if let Some(next) = evidence.next_ms {
        lines.push(format!("{:<24}in {}", "next try", units::span_s(next / 1_000)));
    }
    lines
}

/// What came of an attempt.
fn outcome(one: &Tried) -> String {
    let Tried { took_ms, tried, answered, sent, .. } = one;
    match AttemptEnd::from_code(one.end) {
        Some(AttemptEnd::Found) if *took_ms == 0 => "found".to_owned(),
        Some(AttemptEnd::Predicted) => format!("found at the predicted port, guess {sent}"),
        Some(AttemptEnd::Searched) => {
            format!("found by a search of {}", units::count((*sent).into(), "probe"))
        }
        Some(AttemptEnd::Refused) => "nothing answered, and relays refuse this machine".to_owned(),
        Some(AttemptEnd::Found) => {
            format!("found in {}", units::span_us(u64::from(*took_ms) * 1_000))
        }
        Some(AttemptEnd::NoAnswer | AttemptEnd::NotSearched) => {
            let addresses = if *tried == 1 { "address" } else { "addresses" };
            format!("{answered} of {tried} {addresses} answered ({sent} sent)")
        }
        Some(AttemptEnd::NoAck) => "the call was not answered".to_owned(),
        Some(AttemptEnd::Offline) => "the peer was offline".to_owned(),
        Some(AttemptEnd::Denied) => "no rule allowed the call".to_owned(),
        Some(AttemptEnd::NoCandidate) => "the peer named no address".to_owned(),
        Some(AttemptEnd::NoHandshake) => {
            format!(
                "the handshake was not answered ({})",
                units::count((*sent).into(), "initiation")
            )
        }
        Some(AttemptEnd::Lost) => "the direct way stopped answering".to_owned(),
        _ => "–".to_owned(),
    }
}

#[derive(Serialize)]
struct Named {
    id: String,
    name: String,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    from: Option<Named>,
    to: Named,
    traffic: Option<String>,
    verdict: AdvisedDocument,
    evidence: Ends,
    attempts: Vec<AttemptDocument>,
    next_try_at: Option<String>,
}

/// A verdict here, in `weft status --json` and in `weft peers --json`.
#[derive(Clone, Serialize)]
pub(super) struct VerdictDocument {
    /// `relay.both-random`.
    code: &'static str,
    number: u16,
    /// Whether packets pass, or would.
    good: bool,
    /// Values of the sentence. Spans end in `_ms`.
    params: Map<String, Value>,
    sentence: String,
}

#[derive(Serialize)]
struct AdvisedDocument {
    #[serde(flatten)]
    verdict: VerdictDocument,
    advice: Vec<AdviceDocument>,
}

#[derive(Serialize)]
struct AdviceDocument {
    code: &'static str,
    text: String,
    command: Option<String>,
}

/// Of the other end only what it told this one.
#[derive(Serialize)]
struct Ends {
    a: End,
    b: End,
    policy: Policy,
}

/// What this machine's own rules let pass. They have no names here.
#[derive(Serialize)]
struct Policy {
    sends: Vec<String>,
    receives: Vec<String>,
}

#[derive(Serialize, Default)]
struct End {
    seen: Option<Vec<String>>,
    mapping: Option<&'static str>,
    step: Option<i16>,
    window: Option<u16>,
    tested_at: Option<String>,
    path: Option<super::status::PathDocument>,
    rtt_us: Option<u64>,
}

#[derive(Serialize)]
struct AttemptDocument {
    at: String,
    method: &'static str,
    tried: u8,
    answered: u8,
    sent: u16,
    outcome: Option<&'static str>,
    took_ms: u16,
}

fn end(mapping: Mapping) -> End {
    let (mapping, step, window) = match mapping {
        Mapping::Unknown => (None, None, None),
        Mapping::EndpointIndependent => (Some("endpoint_independent"), None, None),
        Mapping::Sequential(step) => (Some("sequential"), Some(step), None),
        Mapping::Window(ports) => (Some("window"), None, Some(ports)),
        Mapping::Random => (Some("random"), None, None),
        Mapping::Blocked => (Some("blocked"), None, None),
    };
    End { mapping, step, window, ..End::default() }
}

fn verdict_document(judged: &Judged, language: Language) -> VerdictDocument {
    VerdictDocument {
        code: judged.verdict.code(),
        number: judged.verdict.number(),
        good: judged.verdict.is_good(),
        params: judged.params(language),
        sentence: judged.sentence(language),
    }
}

fn document(
    status: &Status,
    peer: &Peer,
    evidence: &Evidence,
    (judged, language): (&Judged, Language),
    now_ms: u64,
) -> Document {
    let ago = |ms: u64| units::rfc3339(now_ms.saturating_sub(ms));
    let named = |device: &Device| Named { id: device.id.clone(), name: device.name.clone() };
    let attempt = |one: &Tried| AttemptDocument {
        at: ago(one.ago_ms),
        method: "burst",
        tried: one.tried,
        answered: one.answered,
        sent: one.sent,
        outcome: AttemptEnd::from_code(one.end).map(AttemptEnd::as_str),
        took_ms: one.took_ms,
    };
    let advice = judged.advice(language).into_iter();
    Document {
        schema: "weft.why/1",
        from: status.device.as_ref().map(named),
        to: Named { id: peer.id.clone(), name: peer.name.clone() },
        traffic: None,
        verdict: AdvisedDocument {
            verdict: verdict_document(judged, language),
            advice: advice
                .map(|(advice, text, command)| AdviceDocument {
                    code: advice.code(),
                    text,
                    command,
                })
                .collect(),
        },
        evidence: Ends {
            a: End {
                seen: Some(evidence.seen.clone()),
                tested_at: evidence.mapped_ms.map(ago),
                path: Some(super::status::path_document(peer, now_ms)),
                rtt_us: peer.rtt_us,
                ..end(evidence.mapping)
            },
            b: end(evidence.peer_mapping),
            policy: Policy {
                sends: evidence.allowed[1].clone(),
                receives: evidence.allowed[0].clone(),
            },
        },
        attempts: evidence.attempts.iter().map(attempt).collect(),
        next_try_at: evidence.next_ms.map(|ms| units::rfc3339(now_ms.saturating_add(ms))),
    }
}

#[cfg(test)]
mod tests;
