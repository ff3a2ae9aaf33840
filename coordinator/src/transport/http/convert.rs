//! Domain to API.

use weft_noise::mac;
use weft_wire::base64;
use weft_wire::id::PublicKey;
use weft_wire::map::SecondKind;

use crate::api;
use crate::domain::audit::AuditRow;
use crate::domain::device::Kind;
use crate::domain::key::{EnrolmentKey, KeyState};
use crate::domain::key_change::KeyChange;
use crate::domain::network::{Network, capacity};
use crate::domain::policy::{Rule, parse_traffic};
use crate::domain::quarantine::Quarantine;
use crate::domain::relay::Relay;
use crate::domain::rotation::{Rotation, SecondKey};
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure};
use crate::service::devices::{Outcomes, Seen};
use crate::service::rotation::Rotated;
use crate::service::seams::{RelayLive, Report};

use super::usage;

pub(super) fn key(key: &EnrolmentKey, now: UnixMs) -> api::EnrolmentKey {
    let state = match key.state(now) {
        KeyState::Active => "active",
        KeyState::UsedUp => "used_up",
        KeyState::Expired => "expired",
        KeyState::Revoked => "revoked",
        KeyState::Outdated => "outdated",
    };
    api::EnrolmentKey {
        id: key.id.to_string(),
        name: key.name.clone(),
        uses: key.uses,
        max_uses: key.max_uses,
        expires_at: key.expires.map(|at| at.to_string()),
        tags: key.tags.texts().collect(),
        needs_approval: key.needs_approval,
        state: state.to_owned(),
        created_at: key.created.to_string(),
    }
}

/// A relay, and what is known of it now.
pub(super) fn relay((relay, live): &(Relay, RelayLive), now: UnixMs) -> api::Relay {
    let Relay { number, is, told, registration } = relay;
    let registration = registration.as_ref();
    let joined = registration.and_then(|one| one.joined.as_ref());
    let load = live.load.as_ref();
    let drains = registration.is_some_and(|one| one.draining)
        || registration.is_some() && load.is_some_and(|load| load.is_draining);
    let state = match (&live.health.answered, registration) {
        _ if live.is_inside => "inside",
        (_, Some(_)) if joined.is_none() => "waiting",
        _ if drains => "draining",
        _ if live.health.is_silent() => "silent",
        (Some(_), _) => "healthy",
        (None, _) => "unchecked",
    };
    let port = |port: u16| (port != 0).then_some(port);
    let text = |at: Option<UnixMs>| at.map(|at| at.to_string());
    let expires = registration.filter(|one| one.joined.is_none()).and_then(|one| one.key_expires);
    api::Relay {
        name: is.name.clone(),
        number: *number,
        region: is.region.clone(),
        kind: if registration.is_some() { "registered" } else { "configured" }.to_owned(),
        state: if state == "waiting" && expires.is_some_and(|at| at <= now) {
            "expired".to_owned()
        } else {
            state.to_owned()
        },
        told: *told,
        addresses: is.addresses().map(|address| address.to_string()).collect(),
        udp: is.udp.into_iter().filter_map(port).collect(),
        tcp: port(is.tcp),
        tls: port(is.tls),
        checked_at: text(live.checked),
        answered_at: text(live.health.answered),
        rtt_us: live.health.rtt.and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
        connected: live.is_connected,
        seen_from: live.seen.map(|seen| seen.to_string()),
        reported_at: text(live.reported),
        allocations: load.map(|load| load.allocations),
        max_allocations: load.map(|load| load.max_allocations),
        users: load.map(|load| load.users),
        version: joined.map(|joined| joined.version.clone()),
        joined_at: joined.map(|joined| joined.at.to_string()),
        join_expires_at: expires.map(|at| at.to_string()),
    }
}

pub(super) fn coordinator_key(change: &KeyChange, next: &PublicKey) -> api::CoordinatorKey {
    api::CoordinatorKey {
        generation: change.generation,
        current: mac::fingerprint(&change.current).to_string(),
        next: mac::fingerprint(next).to_string(),
        announced_at: change.announced.map(|at| at.to_string()),
        heard: change.heard,
        unheard: change.unheard.active,
        unheard_names: change.unheard.listed(),
        unheard_others: change.unheard.others,
    }
}

pub(super) fn device(seen: &Seen) -> api::Device {
    let device = &seen.device;
    let agent = device.agent();
    let abilities = agent.map(|agent| &agent.abilities);
    let report = seen.presence.as_ref().and_then(|presence| presence.report.as_ref());
    let path_summary = report.map(|report| {
        let (active, direct) = (usize::from(report.active_peers), usize::from(report.direct_peers));
        let relay = active.saturating_sub(direct);
        api::PathSummary { direct, relay, idle: seen.reach.peers.saturating_sub(active) }
    });
    let endpoint = match &device.kind {
        Kind::WireGuard { endpoint, .. } => endpoint.map(|endpoint| endpoint.to_string()),
        Kind::Agent(_) => None,
    };
    let reason = device.standing_reason.clone();
    api::Device {
        id: device.id.to_string(),
        name: device.name.clone(),
        network: named(&seen.network),
        kind: device.kind.to_string(),
        revision: device.version,
        status: seen.status().map(str::to_owned),
        standing_since: device.standing_since.to_string(),
        standing_reason: (!reason.is_empty()).then_some(reason),
        addresses: seen.addresses().iter().map(ToString::to_string).collect(),
        tags: device.tags.texts().collect(),
        wg_public_key: base64::encode(&device.wg_key.0).as_str().to_owned(),
        key_since: device.rotation.since.to_string(),
        key_state: key_state(&device.rotation).to_owned(),
        fingerprint: agent.map(|agent| mac::fingerprint(&agent.identity).to_string()),
        platform: abilities.map(|abilities| abilities.platform.clone()),
        agent_version: abilities.map(|abilities| abilities.agent.clone()),
        endpoint,
        last_seen: seen.presence.as_ref().map(|presence| presence.last_seen.to_string()),
        uptime_s: report.map(|report| report.uptime_s),
        path_summary,
        telemetry: report.map(telemetry),
        policy: api::PolicyReach {
            peers: seen.reach.peers,
            may_reach: seen.reach.out,
            reachable_from: seen.reach.back,
        },
        map: api::MapState {
            revision: seen.network.revision.0,
            applied: agent.map(|agent| agent.applied.0).filter(|applied| *applied != 0),
        },
        lease_s: seen.network.lease_s,
        enrolled_by: agent
            .filter(|agent| !agent.key.1.is_empty())
            .map(|agent| api::Named { id: agent.key.0.to_string(), name: agent.key.1.clone() }),
        enrolled_from: agent.and_then(|agent| agent.enrolled_from.clone()),
        created_at: device.created.to_string(),
        copy: seen.copy.as_ref().map(copy),
        data_budget_bytes: agent.and_then(|agent| agent.data_budget),
        data_today: seen.usage.as_ref().map(usage::day),
    }
}

fn copy(copy: &Quarantine) -> api::DeviceCopy {
    api::DeviceCopy {
        since: copy.since.to_string(),
        quarantined_at: copy.told.map(|at| at.to_string()),
        last_seen: copy.heard.to_string(),
        address: copy.address.map(|address| address.to_string()),
    }
}

const fn key_state(rotation: &Rotation) -> &'static str {
    match (rotation.wanted, &rotation.second) {
        (Some(_), _) => "asked",
        (None, Some(SecondKey { kind: SecondKind::Next, .. })) => "announced",
        (None, Some(_)) => "overlapping",
        (None, None) => "settled",
    }
}

pub(super) fn rotation(rotated: &Rotated, online: bool) -> api::KeyRotation {
    let Rotated { device, confirmations, took } = rotated;
    let until = device.rotation.previous().and_then(|previous| previous.until);
    api::KeyRotation {
        subject: device.id.to_string(),
        name: device.name.clone(),
        state: key_state(&device.rotation).to_owned(),
        online,
        confirmed: confirmations.confirmed,
        total: confirmations.total,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        previous_until: until.map(|until| until.to_string()),
    }
}

fn telemetry(report: &Report) -> api::Telemetry {
    api::Telemetry {
        reported_at: report.at.to_string(),
        boot_count: report.boot_count,
        tx_bytes: report.tx_bytes,
        rx_bytes: report.rx_bytes,
        tx_packets: report.tx_packets,
        rx_packets: report.rx_packets,
        handshakes: report.handshakes,
        handshake_failures: report.handshake_failures,
        drops: report.drops.clone(),
    }
}

fn named(network: &Network) -> api::Named {
    api::Named { id: network.id.to_string(), name: network.name.clone() }
}

pub(super) fn action(word: &str, outcomes: &Outcomes) -> api::Action {
    let device = outcomes.device();
    api::Action {
        action: word.to_owned(),
        subject: device.id.to_string(),
        name: device.name.clone(),
        addresses: outcomes.addresses().iter().map(ToString::to_string).collect(),
        confirmed: outcomes.confirmed,
        total: outcomes.decided.affected.len(),
        took_ms: u64::try_from(outcomes.took.as_millis()).unwrap_or(u64::MAX),
        bound_at: outcomes.bound_at.to_string(),
    }
}

pub(super) fn network(network: &Network, members: u32) -> api::Network {
    let overlay = &network.overlay;
    let (ipv6, ipv6_len) = overlay.prefix_v6();
    api::Network {
        id: network.id.to_string(),
        name: network.name.clone(),
        ipv4: format!("{}/{}", overlay.ipv4, overlay.ipv4_len),
        ipv6: format!("{ipv6}/{ipv6_len}"),
        mtu: network.mtu,
        lease_s: network.lease_s,
        map_revision: network.revision.0,
        members,
        capacity: capacity(overlay),
        created_at: network.created.to_string(),
    }
}

pub(super) fn rule(rule: &Rule) -> api::Rule {
    api::Rule {
        name: rule.name.clone(),
        from: rule.from.iter().map(ToString::to_string).collect(),
        to: rule.to.iter().map(ToString::to_string).collect(),
        allow: rule.allow_texts(),
    }
}

/// Reads a rule; the message names the rule's place from 1.
pub(super) fn rule_from(place: usize, rule: &api::Rule) -> Result<Rule, Failure> {
    let wrong = |what: String| Failure::new(Code::PolicyRule, format!("rule {place}: {what}"));
    let selectors = |texts: &[String]| {
        let read = texts.iter().map(|text| {
            text.parse().map_err(|error: crate::domain::tags::TagError| wrong(error.to_string()))
        });
        let read: Vec<_> = read.collect::<Result<_, _>>()?;
        if read.is_empty() { Err(wrong("a side is empty".to_owned())) } else { Ok(read) }
    };
    let mut allow = Vec::new();
    for text in &rule.allow {
        allow.extend(parse_traffic(text).map_err(|error| wrong(error.to_string()))?);
    }
    if allow.is_empty() {
        return Err(wrong("it lets nothing pass".to_owned()));
    }
    if rule.name.len() > 64 || rule.name.chars().any(char::is_control) {
        return Err(wrong("its name has more than 64 bytes or control characters".to_owned()));
    }
    allow.sort();
    allow.dedup();
    Ok(Rule {
        name: rule.name.clone(),
        from: selectors(&rule.from)?,
        to: selectors(&rule.to)?,
        allow,
    })
}

pub(super) fn audit(row: &AuditRow) -> api::AuditEvent {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    api::AuditEvent {
        seq: row.seq,
        at: row.at.to_string(),
        actor: row.actor.clone(),
        via: row.via.clone(),
        action: row.action.clone(),
        subject: row.subject.clone(),
        detail: row.detail.iter().cloned().collect(),
        prev_hash: hex(&row.prev_hash),
        hash: hex(&row.hash),
    }
}
