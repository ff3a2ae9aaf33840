//! The audit chain.

use rusqlite::{Connection, Row, params};
use weft_wire::id::OrganisationId;

use crate::domain::audit::{Action, AuditRow};
use crate::store::{Answer, Audits, By, StoreError};

use super::SqliteStore;
use super::row::{all, bytes, damaged, get, number, one, run, signed, time};

const AUDIT: &str = "
    SELECT organisation, seq, at, actor, via, action, subject, detail, prev_hash, hash
    FROM audit ";

fn read(row: &Row<'_>) -> Result<AuditRow, StoreError> {
    let detail: String = get(row, "detail")?;
    Ok(AuditRow {
        organisation: OrganisationId(number(row, "organisation")?),
        seq: number(row, "seq")?,
        at: time(row, "at")?,
        actor: get(row, "actor")?,
        via: get(row, "via")?,
        action: get(row, "action")?,
        subject: get(row, "subject")?,
        detail: serde_json::from_str(&detail).map_err(|error| damaged("detail", error))?,
        prev_hash: bytes(row, "prev_hash")?,
        hash: bytes(row, "hash")?,
    })
}

/// Appends a row to the organisation's chain, inside the action's transaction.
pub(super) fn append(
    conn: &Connection,
    organisation: OrganisationId,
    action: &Action,
    by: &By,
) -> Result<(), StoreError> {
    let last = one(
        conn,
        "SELECT seq, hash FROM audit WHERE organisation = ?1 ORDER BY seq DESC LIMIT 1",
        [organisation.0],
        |row| Ok((number::<u64>(row, "seq")?, bytes::<32>(row, "hash")?)),
    )?;
    let (seq, prev_hash) = last.unwrap_or((0, [0; 32]));
    let detail = action.detail.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let mut row = AuditRow {
        organisation,
        seq: seq + 1,
        at: by.at,
        actor: by.actor.who.clone(),
        via: by.actor.via.to_owned(),
        action: action.action.to_owned(),
        subject: action.subject.clone(),
        detail: detail.collect(),
        prev_hash,
        hash: [0; 32],
    };
    row.hash = row.expected_hash();
    let detail = serde_json::to_string(&row.detail).map_err(|error| damaged("detail", error))?;
    run(
        conn,
        "INSERT INTO audit (organisation, seq, at, actor, via, action, subject, detail, prev_hash,
            hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            row.organisation.0,
            signed(row.seq),
            signed(row.at.0),
            row.actor,
            row.via,
            row.action,
            row.subject,
            detail,
            row.prev_hash,
            row.hash,
        ],
    )?;
    Ok(())
}

impl Audits for SqliteStore {
    fn audit(
        &self,
        organisation: OrganisationId,
        after: u64,
        limit: u32,
    ) -> Answer<'_, Vec<AuditRow>> {
        self.read(move |conn, _| {
            all(
                conn,
                &format!("{AUDIT} WHERE organisation = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"),
                params![organisation.0, signed(after), limit],
                read,
            )
        })
    }

    fn record(&self, organisation: OrganisationId, action: Action, by: By) -> Answer<'_, ()> {
        Box::pin(self.write(move |unit| append(unit.conn, organisation, &action, &by)))
    }
}
