//! How devices reach each other, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Named;

/// The way that a peer's data takes.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Path {
    /// `direct`, `relay`, `idle`, `none`.
    pub kind: String,
    /// Of a direct one: where to.
    pub remote: Option<String>,
    /// Of a relayed one: the relay's name, or its number if it is none of ours any
    /// more.
    pub relay: Option<String>,
    /// How the reporter reaches the relay: `udp`, `udp, second port`, `tcp`, `tls`;
    /// `null` = the peer does.
    pub rung: Option<String>,
    /// Since when.
    pub since: String,
}

/// An attempt at a direct way.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Attempt {
    /// Whose.
    pub by: Named,
    /// When it ended.
    pub at: String,
    /// `burst`.
    pub method: String,
    /// Addresses that were tried.
    pub tried: u8,
    /// Addresses that answered.
    pub answered: u8,
    /// Probes sent.
    pub sent: u16,
    /// `found`, `no_answer`, `no_ack`, `offline`, `denied`, `no_candidate`,
    /// `no_handshake`, `lost`; `null` = in a way that a newer device knows.
    pub outcome: Option<String>,
    /// From the call to the end.
    pub took_ms: u64,
    /// Attempts in a row that found nothing, this one counted.
    pub failed_in_a_row: u16,
    /// How the reporter's NAT chose ports; `null` = not known.
    pub own_mapping: Option<String>,
    /// What the peer said of its own.
    pub peer_mapping: Option<String>,
}

/// One device's word on one peer.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Connection {
    /// Whose word.
    pub device: Named,
    /// On whom.
    pub peer: Named,
    /// The way.
    pub path: Path,
    /// Round trip on it.
    pub rtt_us: Option<u64>,
    /// When it said so.
    pub reported_at: String,
    /// The last attempt at a direct way; `null` = there was none.
    pub attempt: Option<Attempt>,
    /// When the next one comes; `null` = with a packet or another network.
    pub next_try_at: Option<String>,
}

/// The newest word of each device on each peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connections {
    /// Newest first.
    pub items: Vec<Connection>,
}

/// What would help.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Advice {
    /// `open-udp`.
    pub code: String,
    /// One clause.
    pub text: String,
    /// A command, if there is one.
    pub command: Option<String>,
}

/// Why a pair is reached as it is.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Verdict {
    /// `relay.both-random`.
    pub code: String,
    /// Its number.
    pub number: u16,
    /// Whether packets pass, or would.
    pub good: bool,
    /// Values of the sentence. Spans end in `_ms`.
    pub params: BTreeMap<String, Value>,
    /// The sentence.
    pub sentence: String,
    /// What would help, best first.
    pub advice: Vec<Advice>,
}

/// What one end brings.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Evidence {
    /// Where servers see it from.
    pub seen: Vec<String>,
    /// `endpoint_independent`, `sequential`, `window`, `random`, `blocked`; `null`
    /// = not known.
    pub mapping: Option<String>,
    /// Of `sequential`.
    pub step: Option<i16>,
    /// Of `window`: ports.
    pub window: Option<u16>,
    /// How long an idle binding lives; `null` = not measured.
    pub lifetime_s: Option<u64>,
    /// When the NAT was looked at.
    pub tested_at: Option<String>,
    /// When the device reported last; `null` = never.
    pub reported_at: Option<String>,
    /// The way it sends to the other.
    pub path: Option<Path>,
    /// Round trip on it.
    pub rtt_us: Option<u64>,
    /// Whether it is there.
    pub online: bool,
    /// The map's revision that it applied, and the newest of its own map.
    pub map: super::MapState,
}

/// Which rule lets the pair talk.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct RuleMatch {
    /// Its place in the policy, from 1.
    pub rule: usize,
    /// Its name, or empty.
    pub name: String,
    /// What it allows.
    pub allow: Vec<String>,
}

/// Both ends' evidence.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct BothEnds {
    /// Of who asks.
    pub a: Evidence,
    /// Of who answers.
    pub b: Evidence,
    /// The rule that lets them; `null` = none does.
    pub policy: Option<RuleMatch>,
}

/// The answer to "why".
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Why {
    /// Who asks.
    pub from: Named,
    /// Who answers.
    pub to: Named,
    /// What was asked for: `tcp/22`; `null` = anything.
    pub traffic: Option<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// What it stands on.
    pub evidence: BothEnds,
    /// Attempts at a direct way, newest first.
    pub attempts: Vec<Attempt>,
    /// When the next one comes; `null` = with a packet or another network.
    pub next_try_at: Option<String>,
}
