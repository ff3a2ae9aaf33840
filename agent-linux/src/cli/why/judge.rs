//! From this machine's evidence to a verdict of the catalogue: its own side is
//! whole first, then who may talk, then how packets go. What the coordinator alone
//! knows is left to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value as Json, json};
use weft_wire::signal::Mapping;
use weft_wire::traffic::{self, Traffic};
use weft_wire::verdict::nat::{self, Nats};
use weft_wire::verdict::{Advice, AttemptEnd, Language, Value, Verdict, WARM_KB, fill};

use crate::cli::status::data::MIDNIGHT;

use super::{Evidence, Path, Peer, Status, own_name};

/// A parameter of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Param {
    Text(String),
    Words(String, String),
    Count(u64),
    /// Milliseconds.
    Span(u64),
    Ago(u64),
    Unknown,
}

impl Param {
    fn words(en: &str, zh: &str) -> Self {
        Self::Words(en.to_owned(), zh.to_owned())
    }

    fn value(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::Text(text),
            Self::Words(en, zh) => Value::Words(en, zh),
            Self::Count(number) => Value::Count(*number),
            Self::Span(ms) => Value::Span(*ms),
            Self::Ago(ms) => Value::Ago(*ms),
            Self::Unknown => Value::Unknown,
        }
    }
}

/// A verdict with its values.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    params: BTreeMap<&'static str, Param>,
}

fn filled(template: &str, language: Language, params: &BTreeMap<&'static str, Param>) -> String {
    let mut out = String::new();
    let value = |name: &str| params.get(name).map_or(Value::Unknown, Param::value);
    // A String takes everything.
    let _ = fill(template, language, value, &mut out);
    out
}

impl Judged {
    fn new<const N: usize>(verdict: Verdict, params: [(&'static str, Param); N]) -> Self {
        Self { verdict, params: params.into() }
    }

    fn with(mut self, name: &'static str, value: Param) -> Self {
        self.params.entry(name).or_insert(value);
        self
    }

    pub(super) fn sentence(&self, language: Language) -> String {
        filled(self.verdict.template(language), language, &self.params)
    }

    /// What follows the first colon, without the full stop: to stand in another
    /// sentence.
    fn reason(&self) -> Param {
        let clause = |language, colon: &str, stop| {
            let sentence = self.sentence(language);
            let clause = sentence.split_once(colon).map_or(&*sentence, |(_, clause)| clause);
            clause.trim_end_matches(stop).to_owned()
        };
        Param::Words(clause(Language::En, ": ", '.'), clause(Language::Zh, ":", '。'))
    }

    /// What would help, as far as everything that it speaks of is known.
    pub(super) fn advice(&self, language: Language) -> Vec<(Advice, String, Option<String>)> {
        let write = |template: &str| {
            let mut names = template
                .split('{')
                .skip(1)
                .map(|rest| rest.split_once('}').map_or(rest, |(name, _)| name));
            let known = |name| self.params.get(name).is_some_and(|value| *value != Param::Unknown);
            names.all(known).then(|| filled(template, language, &self.params))
        };
        let all = self.verdict.advice().iter();
        all.filter_map(|&advice| {
            let command = Some(advice.command()).filter(|command| !command.is_empty());
            Some((advice, write(advice.template(language))?, command.and_then(write)))
        })
        .collect()
    }

    /// As programs read them; spans end in `_ms`.
    pub(super) fn params(&self, language: Language) -> Map<String, Json> {
        let value = |(name, param): (&&str, &Param)| {
            let name = (*name).to_owned();
            match param {
                Param::Text(text) => (name, json!(text)),
                Param::Words(en, zh) => {
                    (name, json!(if language == Language::En { en } else { zh }))
                }
                Param::Count(number) => (name, json!(number)),
                Param::Span(ms) if name == "ms" => (name, json!(ms)),
                Param::Span(ms) | Param::Ago(ms) => (format!("{name}_ms"), json!(ms)),
                Param::Unknown => (name, Json::Null),
            }
        };
        self.params.iter().map(value).collect()
    }
}

/// `wanted`: what is to pass, if not just anything.
pub(super) fn judge(
    status: &Status,
    peer: &Peer,
    evidence: &Evidence,
    wanted: Option<Traffic>,
) -> Judged {
    let case = Case { status, peer, evidence, wanted };
    let next = evidence.next_ms.map_or_else(
        || Param::words("with the next packet", "下一个数据包"),
        |ms| Param::Words(format!("in {} s", ms / 1_000), format!("{} 秒后", ms / 1_000)),
    );
    let [a, b] = case.names();
    let judged = case.own().or_else(|| case.denied()).unwrap_or_else(|| case.path());
    let proto = wanted
        .map_or_else(|| Param::words("what it needs", "所需协议"), |one| Param::Text(words(one)));
    judged.with("a", a).with("b", b).with("at", next).with("proto", proto)
}

/// Both families of ICMP are one to people.
fn words(traffic: Traffic) -> String {
    let icmp = Traffic::ICMP.contains(&traffic);
    if icmp { "icmp".to_owned() } else { traffic.to_string() }
}

struct Case<'a> {
    status: &'a Status,
    peer: &'a Peer,
    evidence: &'a Evidence,
    wanted: Option<Traffic>,
}

impl Case<'_> {
    fn names(&self) -> [Param; 2] {
        [own_name(self.status), &self.peer.name].map(|name| Param::Text(name.to_owned()))
    }

    /// 1: this machine is whole.
    fn own(&self) -> Option<Judged> {
        let [own, _] = self.names();
        let device = self.status.device.as_ref()?;
        if device.standing == "quarantined" {
            return Some(Judged::new(Verdict::PeerQuarantined, [("b", own)]));
        }
        if self.status.lease_s == Some(0) {
            return Some(Judged::new(Verdict::SelfLeaseEnded, [("x", own)]));
        }
        let (interface, range) = self.status.overlap.as_ref()?;
        let mesh = device
            .range
            .map_or(Param::Unknown, |(first, len)| Param::Text(format!("{first}/{len}")));
        let address = Param::Text(range.clone());
        let interface = Param::Text(interface.clone());
        let params = [("x", own), ("range", mesh), ("interface", interface), ("address", address)];
        Some(Judged::new(Verdict::SelfRangeOverlap, params))
    }

    /// 2: who may talk, by this machine's own rules. They have no names here.
    fn denied(&self) -> Option<Judged> {
        let [receives, sends] = &self.evidence.allowed;
        if sends.is_empty() {
            let verdict =
                if receives.is_empty() { Verdict::DeniedNoRule } else { Verdict::DeniedDirection };
            return Some(Judged::new(verdict, []));
        }
        let wanted = self.wanted?;
        let kinds: Vec<Traffic> =
            sends.iter().filter_map(|text| Some(traffic::parse(text).ok()?.0)).collect();
        if kinds.iter().any(|kind| kind.holds(wanted)) {
            return None;
        }
        let mut texts: Vec<String> = kinds.into_iter().map(words).collect();
        texts.dedup();
        let list = |and: &str| match &texts[..] {
            [] => String::new(),
            [one] => one.clone(),
            [first @ .., last] => format!("{}{and}{last}", first.join(", ")),
        };
        let allowed = Param::Words(list(" and "), list(" 和 "));
        let rule = Param::words("in its map", "(网络视图)");
        Some(Judged::new(Verdict::DeniedPort, [("rule", rule), ("allowed", allowed)]))
    }

    fn last(&self) -> Option<AttemptEnd> {
        AttemptEnd::from_code(self.evidence.attempts.first()?.end)
    }

    /// 6: how packets go, and why.
    fn path(&self) -> Judged {
        match &self.peer.path {
            Path::Direct { remote } => self.direct(remote),
            Path::Relay { rung, .. } => self.relayed(rung.as_deref()),
            Path::Nowhere | Path::Connecting => self.nowhere(),
            Path::Idle if self.evidence.attempts.is_empty() && self.peer.data_ms.is_none() => {
                Judged::new(Verdict::IdleNever, [])
            }
            Path::Idle => {
                let found = |one: &&super::Tried| {
                    AttemptEnd::from_code(one.end).is_some_and(AttemptEnd::is_found)
                };
                let took = self.evidence.attempts.iter().find(found).filter(|one| one.took_ms > 0);
                let ms = took.map_or(Param::Unknown, |one| Param::Span(one.took_ms.into()));
                Judged::new(Verdict::IdleDoorbell, [("ms", ms), ("n", Param::Count(WARM_KB))])
            }
        }
    }

    fn direct(&self, remote: &str) -> Judged {
        let [own, peer] = self.names();
        let ip = remote.parse::<SocketAddr>().map(|remote| remote.ip()).ok();
        let seen = self.evidence.seen.iter().filter_map(|seen| seen.parse::<SocketAddr>().ok());
        match ip {
            Some(ip) if seen.map(|seen| seen.ip()).any(|seen| seen == ip) => {
                return Judged::new(Verdict::DirectHairpin, []);
            }
            Some(ip) if is_private(ip) => return Judged::new(Verdict::DirectLan, []),
            Some(IpAddr::V6(_)) => return Judged::new(Verdict::DirectIpv6, []),
            _ => {}
        }
        if let Some(open) = &self.evidence.open {
            let endpoint = Param::Text(open.clone());
            return Judged::new(Verdict::DirectOpen, [("x", own), ("endpoint", endpoint)]);
        }
        if let Some((protocol, port)) = &self.evidence.mapped {
            let (port, protocol) = (Param::Text(port.to_string()), Param::Text(protocol.clone()));
            let params = [("x", own), ("port", port), ("protocol", protocol)];
            return Judged::new(Verdict::DirectMapped, params);
        }
        if let Some(judged) = self.guessed() {
            return judged;
        }
        let (mapping, theirs) = (self.evidence.mapping, self.evidence.peer_mapping);
        for (side, mapping) in [(own, mapping), (peer.clone(), theirs)] {
            if nat::is_hard(mapping) {
                return Judged::new(Verdict::DirectOneHard, [("x", side)]);
            }
        }
        if mapping == Mapping::Unknown {
            // What is sure: data comes from there.
            let endpoint = Param::Text(remote.to_owned());
            return Judged::new(Verdict::DirectOpen, [("x", peer), ("endpoint", endpoint)]);
        }
        let found = self
            .evidence
            .attempts
            .first()
            .filter(|_| self.last().is_some_and(AttemptEnd::is_found));
        let found = found.filter(|one| one.took_ms > 0);
        let ms = found.map_or(Param::Unknown, |one| Param::Span(one.took_ms.into()));
        let ago = self.peer.since_ms.map_or(Param::Unknown, Param::Ago);
        Judged::new(Verdict::DirectPunched, [("ms", ms), ("ago", ago)])
    }

    /// This side guessed a port of the peer's, or the peer one of this side's.
    fn guessed(&self) -> Option<Judged> {
        let [own, peer] = self.names();
        let n = Param::Count(self.evidence.attempts.first()?.sent.into());
        match (self.last()?, self.evidence.peer_mapping) {
            (AttemptEnd::Predicted, Mapping::Sequential(step)) => {
                let params = [("x", peer), ("step", Param::Text(step.to_string())), ("n", n)];
                Some(Judged::new(Verdict::DirectPredicted, params))
            }
            (AttemptEnd::Searched, mapping) => {
                let x = if nat::is_hard(mapping) { peer } else { own };
                Some(Judged::new(Verdict::DirectSearched, [("x", x), ("n", n)]))
            }
            _ => None,
        }
    }

    fn relayed(&self, rung: Option<&str>) -> Judged {
        let [own, peer] = self.names();
        let evidence = self.evidence;
        if let Some(rung) = rung
            .filter(|rung| matches!(*rung, "tcp" | "tls") || evidence.mapping == Mapping::Blocked)
        {
            let rung = Param::Text(rung.to_uppercase());
            return Judged::new(Verdict::RelayUdpBlocked, [("rung", rung), ("x", own)]);
        }
        if self.status.data.used_up {
            let params = [("x", own), ("at", Param::Text(MIDNIGHT.to_owned()))];
            return Judged::new(Verdict::RelayBudget, params);
        }
        let Some(attempt) = evidence.attempts.first() else {
            let ms = evidence.trying_ms.or(self.peer.since_ms);
            let ms = ms.map_or(Param::Unknown, Param::Span);
            return Judged::new(Verdict::RelayStarting, [("ms", ms)]);
        };
        if self.last() == Some(AttemptEnd::Lost) {
            let ago = self.peer.since_ms.map_or(Param::Unknown, Param::Ago);
            return Judged::new(Verdict::RelayLostDirect, [("ago", ago)]);
        }
        if evidence.peer_mapping == Mapping::Unknown {
            return Judged::new(Verdict::RelayPeerSilent, [("x", peer)]);
        }
        if self.last().is_some_and(AttemptEnd::is_unanswered) {
            let unsearched = self.last() == Some(AttemptEnd::NotSearched);
            match nat::explain(evidence.mapping, evidence.peer_mapping) {
                Nats::BothHard => return Judged::new(Verdict::RelayBothRandom, []),
                Nats::Hard { ports, .. } if unsearched => {
                    return self.search_off(nat::searches(ports));
                }
                Nats::Counting { .. } if unsearched => return self.search_off(nat::COUNTED),
                Nats::Counting { first } => {
                    let x = if first { own } else { peer };
                    let n = Param::Count(evidence.failed.into());
                    return Judged::new(Verdict::RelayPredictionMissed, [("x", x), ("n", n)]);
                }
                Nats::Hard { first, ports } => {
                    let n = Param::Count(nat::guesses(ports).into());
                    let x = if first { own } else { peer };
                    return Judged::new(Verdict::RelayRandomRestricted, [("x", x), ("n", n)]);
                }
                Nats::BothEasy if attempt.answered == 0 => {
                    let (a, b) = (own_name(self.status), &self.peer.name);
                    let x = Param::Words(format!("{a} or {b}"), format!("{a} 或 {b}"));
                    let n = Param::Count(attempt.sent.into());
                    let port = Param::Text(self.status.port.to_string());
                    let params = [("x", x), ("n", n), ("port", port)];
                    return Judged::new(Verdict::RelayFiltered, params);
                }
                Nats::BothEasy | Nats::Unclear => {}
            }
        }
        let n = Param::Count(evidence.failed.into());
        Judged::new(Verdict::RelayWaiting, [("n", n), ("ago", Param::Ago(attempt.ago_ms))])
    }

    fn nowhere(&self) -> Judged {
        let attempt = self.evidence.attempts.first();
        match (self.last(), attempt) {
            (Some(AttemptEnd::Offline), _) => {
                let what = Param::words("its line to the coordinator", "与协调器的连接中断");
                return Judged::new(Verdict::PeerOffline, [("what", what)]);
            }
            (Some(AttemptEnd::Denied), _) => return Judged::new(Verdict::DeniedNoRule, []),
            (Some(AttemptEnd::NoHandshake), Some(one)) => {
                let n = Param::Count(one.sent.into());
                let s = Param::Count(u64::from(one.took_ms) / 1_000);
                return Judged::new(Verdict::TunnelNoAnswer, [("n", n), ("s", s)]);
            }
            _ => {}
        }
        let refusal = self.evidence.relay_failure.as_ref().filter(|failure| failure.refused);
        if let Some(failure) = refusal {
            let [own, _] = self.names();
            let relay = self.status.relays.iter().find(|relay| relay.number == failure.relay);
            let relay = relay.map_or(Param::Unknown, |relay| Param::Text(relay.title()));
            let cause = match failure.why.as_str() {
                "denied" => Param::words("it denies this device", "它拒绝本设备"),
                "quota" => Param::words("too many allocations", "分配数量已达上限"),
                _ => Param::words("its credentials do not hold there", "其凭据在该处无效"),
            };
            let params = [("relay", relay), ("x", own), ("cause", cause)];
            return Judged::new(Verdict::PathRelayRefused, params);
        }
        if self.status.relays.is_empty() && self.evidence.withdrawn.is_empty() {
            let [a, b] = self.names();
            let next = Param::words("with the next packet", "下一个数据包");
            let reason = self.relayed(None).with("a", a).with("b", b).with("at", next).reason();
            return Judged::new(Verdict::PathNoRelay, [("reason", reason)]);
        }
        // The coordinator takes a relay that is silent out of the map.
        let named = self.status.relays.iter().map(super::Relay::title);
        let relays: Vec<_> = named.chain(self.evidence.withdrawn.iter().cloned()).collect();
        let relay = Param::Text(relays.join(", "));
        let ago = attempt.map_or(Param::Unknown, |one| Param::Ago(one.ago_ms));
        Judged::new(Verdict::PathRelayDown, [("relay", relay), ("ago", ago)])
    }

    /// The search of so many packets is not made by this machine.
    fn search_off(&self, packets: u32) -> Judged {
        let [own, _] = self.names();
        let why = if self.status.data.metered {
            Param::words("its network is metered", "按流量计费")
        } else {
            Param::words("[network] port_search is false", "[network] port_search 为 false")
        };
        let params = [("x", own), ("why", why), ("n", Param::Count(packets.into()))];
        Judged::new(Verdict::RelaySearchOff, params)
    }
}

/// Addresses of no public network (RFC 1918, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
