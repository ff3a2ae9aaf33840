//! Why two devices reach each other as they do: both ends' evidence joined to one
//! verdict of the catalogue.
//!
//! The order is that of the catalogue: stop at the first that is proved. Who may
//! talk comes before who is there, and that before how packets go.

use core::time::Duration;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use weft_wire::verdict::{Advice, Language, Value, Verdict, fill};

use super::device::{Device, Kind, Standing};
use super::network::Network;
use super::paths::{Connection, NatState};
use super::policy::{Compiled, Traffic};
use super::relay::Relay;
use super::time::UnixMs;

mod path;
#[cfg(test)]
mod tests;

/// A parameter of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// A name, an address, a moment.
    Text(String),
    /// Words of the language: English, Chinese.
    Words(String, String),
    /// How many.
    Count(u64),
    /// How long.
    Span(Duration),
    /// How long ago.
    Ago(Duration),
    /// Not known.
    Unknown,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Param {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn words(en: &str, zh: &str) -> Self {
        Self::Words(en.to_owned(), zh.to_owned())
    }

    /// How it is written in a sentence.
    pub fn value(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::Text(text),
            Self::Words(en, zh) => Value::Words(en, zh),
            Self::Count(number) => Value::Count(*number),
            Self::Span(span) => Value::Span(millis(*span)),
            Self::Ago(span) => Value::Ago(millis(*span)),
            Self::Unknown => Value::Unknown,
        }
    }
}

fn filled<'v>(template: &str, language: Language, value: impl Fn(&str) -> Value<'v>) -> String {
    let mut out = String::new();
    // A String takes everything.
    let _ = fill(template, language, value, &mut out);
    out
}

/// The parameters that a template names.
fn names(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).map(|rest| rest.split_once('}').map_or(rest, |(name, _)| name))
}

/// Parameters by name.
pub type Params = BTreeMap<&'static str, Param>;

/// A verdict with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Which.
    pub verdict: Verdict,
    /// Values of the sentence and of its advice.
    pub params: Params,
    /// Values that one advice speaks of otherwise than the sentence.
    hints: Vec<(Advice, &'static str, Param)>,
}

impl Judged {
    fn new<const N: usize>(verdict: Verdict, params: [(&'static str, Param); N]) -> Self {
        Self { verdict, params: Params::from(params), hints: Vec::new() }
    }

    /// Adds values that are not there yet.
    fn with(mut self, more: Params) -> Self {
        for (name, value) in more {
            self.params.entry(name).or_insert(value);
        }
        self
    }

    fn hint(mut self, advice: Advice, name: &'static str, value: Param) -> Self {
        self.hints.push((advice, name, value));
        self
    }

    /// The sentence.
    pub fn sentence(&self, language: Language) -> String {
        let value = |name: &str| self.params.get(name).map_or(Value::Unknown, Param::value);
        filled(self.verdict.template(language), language, value)
    }

    /// What follows the first colon of the sentence, without its full stop: the
    /// reason alone, to stand in another sentence.
    fn reason(&self) -> Param {
        let clause = |language, colon: &str, stop: char| {
            let sentence = self.sentence(language);
            let clause = sentence.split_once(colon).map_or(&*sentence, |(_, clause)| clause);
            clause.trim_end_matches(stop).to_owned()
        };
        Param::Words(clause(Language::En, ": ", '.'), clause(Language::Zh, ":", '。'))
    }

    /// What would help: code, text, and a command if there is one. What speaks of
    /// something that is not known here is left out.
    pub fn advice(&self, language: Language) -> Vec<(Advice, String, Option<String>)> {
        let write = |advice: Advice, template: &str| {
            let hint = |name: &str| {
                let own =
                    self.hints.iter().find(|(whose, which, _)| *whose == advice && *which == name);
                own.map(|(.., value)| value).or_else(|| self.params.get(name))
            };
            let value = |name: &str| hint(name).map_or(Value::Unknown, Param::value);
            names(template)
                .all(|name| hint(name).is_some_and(|value| *value != Param::Unknown))
                .then(|| filled(template, language, value))
        };
        let all = self.verdict.advice().iter();
        all.filter_map(|&advice| {
            let text = write(advice, advice.template(language))?;
            let command = Some(advice.command()).filter(|command| !command.is_empty());
            Some((advice, text, command.and_then(|command| write(advice, command))))
        })
        .collect()
    }

    /// The sentence and its code, as the first line of an answer.
    pub fn headline(&self, language: Language) -> String {
        let mut line = self.sentence(language);
        let _ = write!(line, "  [{}]", self.verdict.code());
        line
    }
}

/// One end of a pair.
pub struct Side<'a> {
    /// The device.
    pub device: &'a Device,
    /// Its network.
    pub network: &'a Network,
    /// Whether it holds a session, and when it was last heard, if it was since
    /// this coordinator started.
    pub heard: Option<(bool, UnixMs)>,
    /// What it last said of its network.
    pub nat: Option<&'a NatState>,
    /// Its words on the other, newest first.
    pub words: &'a [Connection],
    /// Bytes cost money where it is, and those of today are used up.
    pub used_up: bool,
    /// Bytes cost money where it is, as far as it said.
    pub metered: bool,
}

impl<'a> Side<'a> {
    fn name(&self) -> Param {
        Param::text(&self.device.name)
    }

    /// Its newest word, if it is of the run of its agent that reported last.
    pub fn newest(&self) -> Option<&'a Connection> {
        let started = self.nat.map_or(UnixMs(0), |nat| nat.started);
        // Both moments are rounded to seconds.
        self.words.first().filter(|word| word.at.after(Duration::from_secs(2)) >= started)
    }

    fn is_agent(&self) -> bool {
        matches!(self.device.kind, Kind::Agent(_))
    }
}

/// Everything that is known of a pair.
pub struct Evidence<'a> {
    /// Who asks.
    pub a: Side<'a>,
    /// Who answers.
    pub b: Side<'a>,
    /// The policy of the first one's network.
    pub policy: &'a Compiled,
    /// What is asked for; `None` = anything.
    pub traffic: Option<Traffic>,
    /// Relays; devices may use those that they are told of.
    pub relays: &'a [Relay],
    /// Now.
    pub now: UnixMs,
}

/// The rule that lets the pair talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Its place in the policy, from 1.
    pub place: usize,
    /// Its name, or empty.
    pub name: String,
    /// What it allows.
    pub allow: Vec<String>,
}

impl Allowed {
    /// `3 "ops to plc"`.
    pub fn title(&self) -> String {
        if self.name.is_empty() {
            self.place.to_string()
        } else {
            format!("{} \"{}\"", self.place, self.name)
        }
    }
}

/// How people write it: both families of ICMP are one to them.
fn text(traffic: Traffic) -> String {
    match traffic.to_string() {
        icmp if icmp == "icmp4" => "icmp".to_owned(),
        other => other,
    }
}

impl Evidence<'_> {
    /// Rules by which `from` may send to `to`, in the order of the policy.
    fn rules(&self, from: &Side<'_>, to: &Side<'_>) -> Vec<usize> {
        let sends = self.policy.profile(&from.device.tags);
        let receives = self.policy.profile(&to.device.tags);
        let receives: Vec<usize> = receives.receives().collect();
        sends.sends().filter(|at| receives.contains(at)).collect()
    }

    /// The first rule that lets A reach B with what is asked for, or at all.
    pub fn allowed(&self) -> Option<Allowed> {
        let rules = self.rules(&self.a, &self.b);
        let all = &self.policy.policy().rules;
        let fits = |at: &usize| {
            self.traffic.is_none_or(|wanted| all[*at].allow.iter().any(|one| one.holds(wanted)))
        };
        rules.iter().copied().find(fits).map(|at| Allowed {
            place: at + 1,
            name: all[at].name.clone(),
            allow: all[at].allow_texts(),
        })
    }

    fn names(&self) -> [(&'static str, Param); 2] {
        [("a", self.a.name()), ("b", self.b.name())]
    }

    /// What stands in sentences and advice of any verdict.
    fn common(&self) -> Params {
        let proto = self.traffic.map_or_else(
            || Param::words("what it needs", "所需协议"),
            |traffic| Param::text(text(traffic)),
        );
        let mut params = Params::from(self.names());
        params.insert("proto", proto);
        params
    }

    /// The verdict.
    pub fn judge(&self) -> Judged {
        let judged = self.denied().or_else(|| self.out()).or_else(|| self.offline());
        judged.unwrap_or_else(|| self.path()).with(self.common())
    }

    /// 2: who may talk.
    fn denied(&self) -> Option<Judged> {
        let (a, b) = (&self.a, &self.b);
        if a.device.network != b.device.network {
            let nets = [("net_a", a), ("net_b", b)];
            let nets = nets.map(|(name, side)| (name, Param::text(&side.network.name)));
            return Some(Judged::new(Verdict::DeniedNetwork, nets));
        }
        if self.allowed().is_some() {
            return None;
        }
        let there = self.rules(a, b);
        let Some(&rule) = there.first() else {
            let back = !self.rules(b, a).is_empty();
            let verdict = if back { Verdict::DeniedDirection } else { Verdict::DeniedNoRule };
            return Some(Judged::new(verdict, []));
        };
        let name = &self.policy.policy().rules[rule].name;
        let allow = self.policy.policy().rules[rule].allow_texts();
        let allowed = Allowed { place: rule + 1, name: name.clone(), allow };
        let title = Param::Text(allowed.title());
        let list = |and: &str| match &allowed.allow[..] {
            [] => String::new(),
            [one] => one.clone(),
            [first @ .., last] => format!("{}{and}{last}", first.join(", ")),
        };
        let allow = Param::Words(list(" and "), list(" 和 "));
        Some(Judged::new(Verdict::DeniedPort, [("rule", title), ("allowed", allow)]))
    }

    /// 3: who is no member; the sentence speaks of that one.
    fn out(&self) -> Option<Judged> {
        [&self.b, &self.a].into_iter().find_map(|side| {
            let device = side.device;
            let verdict = match device.standing {
                Standing::Active => return None,
                Standing::Pending => Verdict::PeerPending,
                Standing::Blocked | Standing::Rejected => Verdict::PeerBlocked,
                Standing::Quarantined => Verdict::PeerQuarantined,
            };
            let reason = match device.standing_reason.as_str() {
                "" => Param::words("no reason was given", "未说明原因"),
                reason => Param::Text(format!("\"{reason}\"")),
            };
            let since = Param::Ago(self.now.since(device.standing_since));
            let who = Param::words("an operator", "管理员");
            let params = [("b", side.name()), ("ago", since), ("who", who), ("reason", reason)];
            Some(Judged::new(verdict, params))
        })
    }

    /// 4: who is not there. Of a device that speaks plain WireGuard nothing is
    /// known.
    fn offline(&self) -> Option<Judged> {
        let away = |side: &&Side<'_>| side.is_agent() && !side.heard.is_some_and(|(on, _)| on);
        let side = [&self.b, &self.a].into_iter().find(away)?;
        let ago = side.heard.map_or(Param::Unknown, |(_, at)| Param::Ago(self.now.since(at)));
        let what = Param::words("its line to the coordinator", "与协调器的连接中断");
        Some(Judged::new(Verdict::PeerOffline, [("b", side.name()), ("ago", ago), ("what", what)]))
    }
}
