//! How devices reach each other, and why.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_wire::id::DeviceId;
use weft_wire::path::Way;
use weft_wire::signal::Mapping;
use weft_wire::verdict::Language;

use crate::api;
use crate::api::connections as body;
use crate::domain::paths::{Attempt, Connection, way_word};
use crate::domain::relay::Relay;
use crate::domain::why::{Judged, Param};
use crate::failure::{Code, Failure};
use crate::service::connections::{End, Explained, Listed};

use super::auth::Permission;
use super::error::{Origin, Parameters, Rejected};
use super::{Routes, Shared};

pub(super) fn declare(routes: Routes<Shared>) -> Routes<Shared> {
    routes
        .get("/api/v1/connections", Permission::DeviceRead, all)
        .get("/api/v1/devices/{device}/connections", Permission::DeviceRead, of_device)
        .get("/api/v1/connections/{a}/{b}", Permission::DeviceRead, why)
}

async fn all(
    State(operator): State<Shared>,
    origin: Origin,
) -> Result<Json<body::Connections>, Rejected> {
    let listed = operator.connections(None).await;
    listed.map(|listed| Json(list(&listed))).map_err(|failure| Rejected::at(failure, origin))
}

async fn of_device(
    State(operator): State<Shared>,
    Path(wanted): Path<String>,
    origin: Origin,
) -> Result<Json<body::Connections>, Rejected> {
    let listed = operator.connections(Some(&wanted)).await;
    listed.map(|listed| Json(list(&listed))).map_err(|failure| Rejected::at(failure, origin))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhyParameters {
    /// `tcp/22`.
    traffic: Option<String>,
    /// Before what Accept-Language says.
    lang: Option<String>,
}

async fn why(
    State(operator): State<Shared>,
    Path((a, b)): Path<(String, String)>,
    origin: Origin,
    headers: HeaderMap,
    Parameters(wanted): Parameters<WhyParameters>,
) -> Result<Json<body::Why>, Rejected> {
    let explained = async {
        let language = language(wanted.lang.as_deref(), &headers)?;
        let explained = operator.why(&a, &b, wanted.traffic.as_deref()).await?;
        Ok::<_, Failure>(Json(explain(&explained, language)))
    };
    explained.await.map_err(|failure| Rejected::at(failure, origin))
}

/// The language that is asked for, else the first that the caller reads and the
/// catalogue has (RFC 9110 section 12.5.4; people list what they like best first,
/// so weights are not compared).
fn language(wanted: Option<&str>, headers: &HeaderMap) -> Result<Language, Failure> {
    if let Some(wanted) = wanted {
        return Language::from_tag(wanted).ok_or_else(|| {
            let message = format!("lang={wanted} is not possible; en and zh are");
            Failure::new(Code::WhyLanguage, message)
        });
    }
    let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    let tags = accepted.unwrap_or_default().split(',');
    let known = |part: &str| Language::from_tag(part.split(';').next().unwrap_or(part).trim());
    Ok(tags.filter_map(known).next().unwrap_or_default())
}

/// Names of devices and relays.
struct Names<'a> {
    devices: &'a HashMap<DeviceId, String>,
    relays: &'a [Relay],
}

impl Names<'_> {
    fn device(&self, id: DeviceId) -> api::Named {
        let name = self.devices.get(&id).cloned().unwrap_or_default();
        api::Named { id: id.to_string(), name }
    }

    fn path(&self, word: &Connection) -> body::Path {
        let (mut remote, mut relay, mut rung) = (None, None, None);
        match word.way {
            Way::Direct(to) => remote = Some(to.to_string()),
            Way::Relay { relay: number, rung: by } => {
                let known = self.relays.iter().find(|one| one.number == number);
                relay = Some(known.map_or_else(|| number.to_string(), |one| one.is.name.clone()));
                rung = by.map(|rung| rung.as_str().to_owned());
            }
            Way::Idle | Way::Nowhere => {}
        }
        let (kind, since) = (way_word(word.way).to_owned(), word.since.to_string());
        body::Path { kind, remote, relay, rung, since }
    }

    fn connection(&self, word: &Connection) -> body::Connection {
        body::Connection {
            device: self.device(word.device),
            peer: self.device(word.peer),
            path: self.path(word),
            rtt_us: rtt(word),
            reported_at: word.at.to_string(),
            attempt: word.attempt.as_ref().map(|one| self.attempt(word.device, one)),
            next_try_at: word.next.map(|at| at.to_string()),
        }
    }

    fn attempt(&self, by: DeviceId, attempt: &Attempt) -> body::Attempt {
        body::Attempt {
            by: self.device(by),
            at: attempt.at.to_string(),
            method: "burst".to_owned(),
            tried: attempt.tried,
            answered: attempt.answered,
            sent: attempt.sent,
            outcome: attempt.end.map(|end| end.as_str().to_owned()),
            took_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
            failed_in_a_row: attempt.failed,
            own_mapping: mapping(attempt.own).0,
            peer_mapping: mapping(attempt.peer).0,
        }
    }
}

fn rtt(word: &Connection) -> Option<u64> {
    word.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX))
}

/// Word, step and window of a mapping.
fn mapping(mapping: Mapping) -> (Option<String>, Option<i16>, Option<u16>) {
    let word = |word: &str| Some(word.to_owned());
    match mapping {
        Mapping::Unknown => (None, None, None),
        Mapping::EndpointIndependent => (word("endpoint_independent"), None, None),
        Mapping::Sequential(step) => (word("sequential"), Some(step), None),
        Mapping::Window(ports) => (word("window"), None, Some(ports)),
        Mapping::Random => (word("random"), None, None),
        Mapping::Blocked => (word("blocked"), None, None),
    }
}

fn list(listed: &Listed) -> body::Connections {
    let names = Names { devices: &listed.names, relays: &listed.relays };
    body::Connections { items: listed.words.iter().map(|word| names.connection(word)).collect() }
}

fn evidence(end: &End, names: &Names<'_>) -> body::Evidence {
    let word = end.newest_word();
    let nat = end.nat.as_ref();
    let (mapping, step, window) = nat.map_or((None, None, None), |nat| mapping(nat.mapping));
    let agent = end.device.agent();
    let newest = end.newest.unwrap_or(end.network.revision.0);
    body::Evidence {
        seen: nat.map_or_else(Vec::new, |nat| nat.seen.iter().map(ToString::to_string).collect()),
        mapping,
        step,
        window,
        lifetime_s: nat.and_then(|nat| nat.lifetime).map(|span| span.as_secs()),
        tested_at: nat.and_then(|nat| nat.mapped).map(|at| at.to_string()),
        reported_at: nat.map(|nat| nat.at.to_string()),
        path: word.map(|word| names.path(word)),
        rtt_us: word.and_then(rtt),
        online: end.heard.is_some_and(|(online, _)| online),
        map: api::MapState { revision: newest, applied: agent.map(|agent| agent.applied.0) },
    }
}

fn params(judged: &Judged, language: Language) -> BTreeMap<String, Value> {
    let value = |(name, param): (&&str, &Param)| {
        let millis = |span: core::time::Duration| json!(span.as_millis() as u64);
        match param {
            Param::Text(text) => ((*name).to_owned(), json!(text)),
            Param::Words(en, zh) => {
                let words = if language == Language::En { en } else { zh };
                ((*name).to_owned(), json!(words))
            }
            Param::Count(number) => ((*name).to_owned(), json!(number)),
            // The unit is the name already where the sentence calls it so.
            Param::Span(span) if *name == "ms" => ("ms".to_owned(), millis(*span)),
            Param::Span(span) | Param::Ago(span) => (format!("{name}_ms"), millis(*span)),
            Param::Unknown => ((*name).to_owned(), Value::Null),
        }
    };
    judged.params.iter().map(value).collect()
}

fn explain(explained: &Explained, language: Language) -> body::Why {
    let Explained { ends: [a, b], traffic, allowed, judged, relays } = explained;
    let devices = [a, b].map(|end| (end.device.id, end.device.name.clone())).into();
    let names = Names { devices: &devices, relays };
    let words = || a.words.iter().chain(&b.words);
    let mut attempts: Vec<_> =
        words().filter_map(|w| Some((w.device, w.attempt.as_ref()?))).collect();
    attempts.sort_by_key(|(_, attempt)| core::cmp::Reverse(attempt.at));
    attempts.dedup_by(|(by, one), (other, two)| by == other && one.at == two.at);
    let next = [a, b].into_iter().filter_map(|end| end.newest_word()?.next).min();
    let advice = judged.advice(language).into_iter().map(|(advice, text, command)| body::Advice {
        code: advice.code().to_owned(),
        text,
        command,
    });
    body::Why {
        from: names.device(a.device.id),
        to: names.device(b.device.id),
        traffic: traffic.clone(),
        verdict: body::Verdict {
            code: judged.verdict.code().to_owned(),
            number: judged.verdict.number(),
            good: judged.verdict.is_good(),
            params: params(judged, language),
            sentence: judged.sentence(language),
            advice: advice.collect(),
        },
        evidence: body::BothEnds {
            a: evidence(a, &names),
            b: evidence(b, &names),
            policy: allowed.as_ref().map(|allowed| body::RuleMatch {
                rule: allowed.place,
                name: allowed.name.clone(),
                allow: allowed.allow.clone(),
            }),
        },
        attempts: attempts.iter().map(|(by, attempt)| names.attempt(*by, attempt)).collect(),
        next_try_at: next.map(|at| at.to_string()),
    }
}
