//! Policies: every version is kept, since a device's delta may start under an
//! old one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Row, params};
use weft_wire::id::{DeviceId, NetworkId, Revision};

use crate::domain::audit::Action;
use crate::domain::network::Network;
use crate::domain::policy::{Compiled, Numbering, Policy, PolicyError, Rule, parse_traffic};
use crate::domain::tags::{Selector, TagSet};
use crate::domain::time::UnixMs;
use crate::store::{Answer, By, Policies, PolicyInForce, PolicySet, StoreError};

use super::row::{all, damaged, get, number, one, run, signed, tags, text, time, to_words};
use super::writer::{Touch, Unit, affected};
use super::{Cache, SqliteStore, audit, maps, networks};

/// Compiled policies kept in memory.
const CACHED: usize = 32;

/// Committed policies by network and version; a committed version never changes.
#[derive(Default)]
pub(super) struct PolicyCache(Mutex<HashMap<(NetworkId, u64), PolicyInForce>>);

impl PolicyCache {
    fn get(&self, network: NetworkId, version: u64) -> Option<PolicyInForce> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(network, version)).cloned()
    }

    fn put(&self, network: NetworkId, policy: &PolicyInForce) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CACHED {
            known.clear();
        }
        known.insert((network, policy.version), policy.clone());
    }
}

fn version_at(
    conn: &Connection,
    network: NetworkId,
    at: Option<Revision>,
) -> Result<u64, StoreError> {
    let at = at.map_or(i64::MAX, |revision| signed(revision.0));
    let version = one(
        conn,
        "SELECT version FROM policy WHERE network = ?1 AND revision <= ?2
         ORDER BY version DESC LIMIT 1",
        params![network.0, at],
        |row| number(row, "version"),
    )?;
    version.ok_or_else(|| damaged("policy", "no version"))
}

/// The policy in force now, out of the cache if it is there. Only for what is
/// committed.
pub(super) fn current(
    conn: &Connection,
    cache: &Cache,
    network: NetworkId,
) -> Result<PolicyInForce, StoreError> {
    cached(conn, cache, network, version_at(conn, network, None)?)
}

/// The policy that was in force at a revision.
pub(super) fn at(
    conn: &Connection,
    cache: &Cache,
    network: NetworkId,
    revision: Revision,
) -> Result<PolicyInForce, StoreError> {
    cached(conn, cache, network, version_at(conn, network, Some(revision))?)
}

fn cached(
    conn: &Connection,
    cache: &Cache,
    network: NetworkId,
    version: u64,
) -> Result<PolicyInForce, StoreError> {
    if let Some(known) = cache.policies.get(network, version) {
        return Ok(known);
    }
    let policy = load(conn, network, Some(version))?;
    cache.policies.put(network, &policy);
    Ok(policy)
}

/// Reads a policy; `None` = the newest.
pub(super) fn load(
    conn: &Connection,
    network: NetworkId,
    version: Option<u64>,
) -> Result<PolicyInForce, StoreError> {
    let version = version.map_or_else(|| version_at(conn, network, None), Ok)?;
    let key = params![network.0, signed(version)];
    let (numbering, since): (Numbering, UnixMs) = one(
        conn,
        "SELECT numbering, created FROM policy WHERE network = ?1 AND version = ?2",
        key,
        |row| Ok((text(row, "numbering")?, time(row, "created")?)),
    )?
    .ok_or_else(|| damaged("policy", version))?;
    let rules = all(
        conn,
        "SELECT name, senders, receivers, allow FROM policy_rule
         WHERE network = ?1 AND version = ?2 ORDER BY position",
        key,
        read_rule,
    )?;
    let compiled =
        Compiled::new(Policy { rules }, numbering).map_err(|error| damaged("policy", error))?;
    Ok(PolicyInForce { version, since, compiled: Arc::new(compiled) })
}

fn read_rule(row: &Row<'_>) -> Result<Rule, StoreError> {
    let selectors = |name: &str| {
        let lines: String = get(row, name)?;
        lines
            .lines()
            .map(|line| line.parse::<Selector>().map_err(|_| damaged(name, line)))
            .collect::<Result<Vec<_>, _>>()
    };
    let allow: String = get(row, "allow")?;
    let mut kinds = Vec::new();
    for word in allow.split_whitespace() {
        kinds.extend(parse_traffic(word).map_err(|_| damaged("allow", word))?);
    }
    Ok(Rule {
        name: get(row, "name")?,
        from: selectors("senders")?,
        to: selectors("receivers")?,
        allow: kinds,
    })
}

/// Writes the first policy of a network.
pub(super) fn insert(
    conn: &Connection,
    network: NetworkId,
    policy: &Policy,
    revision: Revision,
    now: UnixMs,
) -> Result<(), StoreError> {
    let numbering =
        Numbering::default().renumber(policy).map_err(|error| damaged("policy", error))?;
    write(conn, network, 1, policy, &numbering, revision, now)
}

fn write(
    conn: &Connection,
    network: NetworkId,
    version: u64,
    policy: &Policy,
    numbering: &Numbering,
    revision: Revision,
    now: UnixMs,
) -> Result<(), StoreError> {
    run(
        conn,
        "INSERT INTO policy (network, version, revision, numbering, created)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            network.0,
            signed(version),
            signed(revision.0),
            numbering.to_string(),
            signed(now.0)
        ],
    )?;
    let lines = |selectors: &[Selector]| {
        selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    for (position, rule) in (0i64..).zip(&policy.rules) {
        run(
            conn,
            "INSERT INTO policy_rule (network, version, position, name, senders, receivers, allow)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                network.0,
                signed(version),
                position,
                rule.name,
                lines(&rule.from),
                lines(&rule.to),
                to_words(&rule.allow),
            ],
        )?;
    }
    Ok(())
}

/// No member gets more rules than it holds. Who is none yet is looked at when it
/// becomes one.
fn check_capacity(
    conn: &Connection,
    network: NetworkId,
    compiled: &Compiled,
) -> Result<(), StoreError> {
    let least = all(
        conn,
        "SELECT d.tags, d.name, min(a.rules) AS rules FROM device d JOIN agent a ON a.device = d.id
         WHERE d.network = ?1 AND d.standing = 'active' GROUP BY d.tags",
        [network.0],
        |row| {
            let set: String = get(row, "tags")?;
            Ok((tags(&set)?, get::<String>(row, "name")?, number::<u32>(row, "rules")?))
        },
    )?;
    for (set, device, holds) in least {
        let needs = needs(compiled, &set);
        if needs > holds {
            return Err(StoreError::TooManyRules { device, holds, needs });
        }
    }
    Ok(())
}

/// How many rules a device with these tags is given.
pub(super) fn needs(compiled: &Compiled, tags: &TagSet) -> u32 {
    let needs = compiled.rules(&compiled.profile(tags)).len();
    u32::try_from(needs).unwrap_or(u32::MAX)
}

/// A policy that is ready to be written, and whom it concerns.
struct Prepared {
    home: Network,
    before: PolicyInForce,
    /// `None` = nothing differs.
    after: Option<Arc<Compiled>>,
    affected: Vec<DeviceId>,
}

/// `base` is the newest revision that is committed where `conn` stands.
fn prepare(
    conn: &Connection,
    cache: &Cache,
    network: NetworkId,
    base: Revision,
    policy: Policy,
) -> Result<Prepared, StoreError> {
    let home = networks::load(conn, network)?;
    let before = load(conn, network, None)?;
    if policy == *before.compiled.policy() {
        return Ok(Prepared { home, before, after: None, affected: Vec::new() });
    }
    let fault = |error: PolicyError| StoreError::Fault(error.to_string());
    let numbering = before.compiled.numbering().renumber(&policy).map_err(fault)?;
    let after = Arc::new(Compiled::new(policy, numbering).map_err(fault)?);
    check_capacity(conn, network, &after)?;
    let touch = Touch::Policy { network, before: Arc::clone(&before.compiled) };
    let affected = affected(conn, cache, (network, base), &after, &[touch])?;
    Ok(Prepared { home, before, after: Some(after), affected })
}

fn set(
    unit: &mut Unit<'_>,
    network: NetworkId,
    policy: Policy,
    if_version: Option<u64>,
    by: &By,
) -> Result<PolicySet, StoreError> {
    let base = unit.base(network)?;
    let Prepared { home, before, after, affected } =
        prepare(unit.conn, unit.cache, network, base, policy)?;
    if if_version.is_some_and(|wanted| wanted != before.version) {
        return Err(StoreError::Changed(before.version));
    }
    let Some(after) = after else {
        return Ok(PolicySet { version: before.version, revision: home.revision, affected });
    };
    let version = before.version + 1;
    let revision = maps::log_policy(unit, network)?;
    write(unit.conn, network, version, after.policy(), after.numbering(), revision, by.at)?;
    unit.touch(Touch::Policy { network, before: before.compiled });
    let facts = vec![
        ("before", before.version.to_string()),
        ("after", version.to_string()),
        ("rules", after.policy().rules.len().to_string()),
        ("devices", affected.len().to_string()),
    ];
    let action = Action { action: "policy.set", subject: network.to_string(), detail: facts };
    audit::append(unit.conn, home.organisation, &action, by)?;
    Ok(PolicySet { version, revision, affected })
}

impl Policies for SqliteStore {
    fn policy(&self, network: NetworkId) -> Answer<'_, PolicyInForce> {
        self.read(move |conn, cache| {
            networks::load(conn, network)?;
            current(conn, cache, network)
        })
    }

    fn preview_policy(&self, network: NetworkId, policy: Policy) -> Answer<'_, PolicySet> {
        self.read(move |conn, cache| {
            let base = maps::revision(conn, network)?;
            let Prepared { home, before, after, affected } =
                prepare(conn, cache, network, base, policy)?;
            let version = before.version + u64::from(after.is_some());
            Ok(PolicySet { version, revision: home.revision, affected })
        })
    }

    fn set_policy(
        &self,
        network: NetworkId,
        policy: Policy,
        if_version: Option<u64>,
        by: By,
    ) -> Answer<'_, PolicySet> {
        Box::pin(self.write(move |unit| set(unit, network, policy, if_version, &by)))
    }
}
