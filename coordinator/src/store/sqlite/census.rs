//! Each network's census in memory, brought up to date from the map's log by
//! whoever asks next.
//!
//! A committed row of the log never changes, so a reader in an older snapshot
//! and the writer inside a transaction use the same census: each names the
//! revision that is committed where it stands, and rows behind that are neither
//! taken up nor seen.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, params};
use weft_wire::id::{DeviceId, NetworkId, Revision};

use crate::domain::census::{Census, Noted};
use crate::domain::tags::TagSet;
use crate::store::StoreError;

use super::maps::{LOG_CUT, LOG_LEN};
use super::row::{all, get, number, one, signed, tags};
use super::{Cache, policies};

/// With more rows than the log itself keeps, a census is taken anew: sets of
/// tags that nobody has any more go with the rows that named them.
const ROWS: u64 = LOG_LEN + 2 * LOG_CUT;
/// Changes of the policy that are compared; those before are taken to concern
/// everybody.
const POLICIES: usize = 16;

/// All networks' censuses.
#[derive(Default)]
pub(super) struct Censuses(Mutex<HashMap<NetworkId, Census>>);

/// Lets `work` look at the census of a network as of `to`, the newest revision
/// that is committed in the state that `conn` sees.
pub(super) fn with<T>(
    conn: &Connection,
    cache: &Cache,
    network: NetworkId,
    to: Revision,
    work: impl FnOnce(&mut Census) -> T,
) -> Result<T, StoreError> {
    let mut known = cache.censuses.0.lock().unwrap_or_else(PoisonError::into_inner);
    let census = match known.remove(&network) {
        Some(census) if census.rows() as u64 <= ROWS => census,
        _ => take(conn, cache, network, to)?,
    };
    let census = known.entry(network).or_insert(census);
    if census.upto() < to {
        let now = |device| member_tags(conn, network, device);
        // Read whole before the first is noted: what fails here is asked again.
        let rows = rows(conn, cache, network, (census.upto(), to), now)?;
        rows.into_iter().for_each(|(revision, noted)| census.note(revision, noted));
        census.set_upto(to);
    }
    Ok(work(census))
}

/// Counts everybody.
fn take(
    conn: &Connection,
    cache: &Cache,
    network: NetworkId,
    to: Revision,
) -> Result<Census, StoreError> {
    let floor = one(conn, "SELECT log_floor FROM network WHERE id = ?1", [network.0], |row| {
        number(row, "log_floor").map(Revision)
    })?;
    let floor = floor.unwrap_or_default();
    let members: HashMap<DeviceId, (String, TagSet)> = all(
        conn,
        "SELECT id, tags FROM device WHERE network = ?1 AND standing = 'active'",
        [network.0],
        |row| {
            let text: String = get(row, "tags")?;
            let set = tags(&text)?;
            Ok((DeviceId(number(row, "id")?), (text, set)))
        },
    )?
    .into_iter()
    .collect();
    let now = |device| Ok(members.get(&device).map(|(_, tags)| tags.clone()));
    let rows = rows(conn, cache, network, (floor, to), now)?;
    let mut census = Census::new(floor);
    for (text, tags) in members.values() {
        census.learn(text, tags);
    }
    for (_, noted) in &rows {
        if let Noted::Device { before, after, .. } = noted {
            for tags in [before, after].into_iter().flatten() {
                census.learn(&tags.to_string(), tags);
            }
        }
    }
    rows.into_iter().for_each(|(revision, noted)| census.note(revision, noted));
    census.set_upto(to);
    Ok(census)
}

/// A member's tags, as `conn` sees them.
pub(super) fn member_tags(
    conn: &Connection,
    network: NetworkId,
    device: DeviceId,
) -> Result<Option<TagSet>, StoreError> {
    let sql = "SELECT tags FROM device WHERE id = ?1 AND network = ?2 AND standing = 'active'";
    let text = one(conn, sql, params![device.0, network.0], |row| get::<String>(row, "tags"))?;
    text.as_deref().map(tags).transpose()
}

/// A row as it stands in the log.
struct Raw {
    revision: Revision,
    kind: String,
    subject: DeviceId,
    before: Option<TagSet>,
}

/// The rows of the log behind `from` up to `to`. What a device became by a row
/// is what its next row says that it was; behind its last one it is as `now`
/// says. Rows behind `to` are this transaction's own.
fn rows(
    conn: &Connection,
    cache: &Cache,
    network: NetworkId,
    (from, to): (Revision, Revision),
    now: impl Fn(DeviceId) -> Result<Option<TagSet>, StoreError>,
) -> Result<Vec<(Revision, Noted)>, StoreError> {
    let raw = all(
        conn,
        "SELECT revision, kind, subject, before FROM map_log
         WHERE network = ?1 AND revision > ?2 ORDER BY revision",
        params![network.0, signed(from.0)],
        |row| {
            let before: Option<String> = get(row, "before")?;
            Ok(Raw {
                revision: Revision(number(row, "revision")?),
                kind: get(row, "kind")?,
                subject: DeviceId(number(row, "subject")?),
                before: before.as_deref().map(tags).transpose()?,
            })
        },
    )?;
    let mut next: HashMap<DeviceId, Option<TagSet>> = HashMap::new();
    let mut policies_left = POLICIES;
    let mut rows = Vec::with_capacity(raw.len());
    for Raw { revision, kind, subject, before } in raw.into_iter().rev() {
        let noted = match kind.as_str() {
            "device" => {
                let after = match next.insert(subject, before.clone()) {
                    Some(after) => after,
                    None => now(subject)?,
                };
                Noted::Device { device: subject, before, after }
            }
            "policy" if revision > to => continue,
            "policy" => match policies_left.checked_sub(1) {
                Some(left) => {
                    policies_left = left;
                    let was = Revision(revision.0.saturating_sub(1));
                    Noted::Policy {
                        before: policies::at(conn, cache, network, was)?.compiled,
                        after: policies::at(conn, cache, network, revision)?.compiled,
                    }
                }
                None => Noted::SomePolicy,
            },
            _ => Noted::Network,
        };
        if revision <= to {
            rows.push((revision, noted));
        }
    }
    rows.reverse();
    Ok(rows)
}
