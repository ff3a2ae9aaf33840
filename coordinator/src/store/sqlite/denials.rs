//! Who may not use relays.

use rusqlite::{Connection, params};
use weft_wire::id::{DeviceId, Epoch, OrganisationId};

use crate::domain::denial::{Denial, Denials};
use crate::domain::device::Device;
use crate::domain::time::UnixMs;
use crate::store::{self, Answer, StoreError};

use super::SqliteStore;
use super::row::{all, damaged, get, number, one, run, signed};

/// A denial of a device that is gone stays so much longer than any credentials
/// live.
const MARGIN_S: i64 = 86_400;

/// What becomes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Allowed,
    Denied,
    /// Denied, and forgotten when no credentials of it can be left.
    Gone,
}

/// Decides it, inside the action's transaction.
pub(super) fn set(
    conn: &Connection,
    device: &Device,
    access: Access,
    at: UnixMs,
) -> Result<(), StoreError> {
    let known = "SELECT denied FROM relay_denial WHERE device = ?1";
    let known = one(conn, known, [device.id.0], |row| get::<bool>(row, "denied"))?;
    if access == Access::Allowed && known != Some(true) {
        return Ok(());
    }
    run(
        conn,
        "DELETE FROM relay_denial WHERE gone AND at < ?1 - 1000 * (?2 +
            (SELECT max(lease_s) FROM network))",
        params![signed(at.0), MARGIN_S],
    )?;
    run(conn, "UPDATE installation SET denial = denial + 1", [])?;
    run(
        conn,
        "INSERT INTO relay_denial (device, organisation, revision, denied, gone, at)
         VALUES (?1, ?2, (SELECT denial FROM installation), ?3, ?4, ?5)
         ON CONFLICT (device) DO UPDATE SET revision = excluded.revision,
            denied = excluded.denied, gone = excluded.gone, at = excluded.at",
        params![
            device.id.0,
            device.organisation.0,
            access != Access::Allowed,
            access == Access::Gone,
            signed(at.0),
        ],
    )?;
    Ok(())
}

fn since(conn: &Connection, held: (Epoch, u64), limit: u32) -> Result<Denials, StoreError> {
    let newest = one(conn, "SELECT epoch, denial FROM installation", [], |row| {
        Ok((Epoch(number(row, "epoch")?), number::<u64>(row, "denial")?))
    })?;
    let (epoch, newest) = newest.ok_or_else(|| damaged("installation", "no row"))?;
    // Of another life, or of a database that was put back by hand.
    let from = if held.0 == epoch && held.1 <= newest { held.1 } else { 0 };
    let rows = all(
        conn,
        "SELECT device, organisation, denied, revision FROM relay_denial
         WHERE revision > ?1 AND (denied OR ?1 > 0) ORDER BY revision LIMIT ?2",
        params![signed(from), limit],
        |row| {
            let denial = Denial {
                device: DeviceId(number(row, "device")?),
                organisation: OrganisationId(number(row, "organisation")?),
                denied: get(row, "denied")?,
            };
            Ok((denial, number::<u64>(row, "revision")?))
        },
    )?;
    let full = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let reached = rows.last().filter(|_| full).map(|(_, revision)| *revision);
    let to = reached.unwrap_or(newest);
    let list = rows.into_iter().map(|(denial, _)| denial).collect();
    Ok(Denials { epoch, from, to, last: to == newest, list })
}

impl store::Denials for SqliteStore {
    fn denials(&self, held: (Epoch, u64), limit: u32) -> Answer<'_, Denials> {
        self.read(move |conn, _| since(conn, held, limit))
    }
}
