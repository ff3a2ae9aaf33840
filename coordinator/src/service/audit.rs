//! The audit trail: read, and checked.

use weft_wire::id::OrganisationId;

use crate::domain::audit::{AuditRow, verify};
use crate::failure::Failure;

use super::operator::{Operator, fault};

/// Rows read at once while the chain is checked.
const CHECK_PAGE: u32 = 1_000;

/// What a check of the chain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainCheck {
    /// Rows that hold, from the first on.
    pub rows: u64,
    /// The row at which the chain is broken.
    pub broken_at: Option<u64>,
}

impl Operator {
    /// Rows after a place, in rising order.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRow>, Failure> {
        self.store.audit(ORGANISATION, after, limit).await.map_err(fault)
    }

    /// Checks the whole chain.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn check_audit(&self) -> Result<ChainCheck, Failure> {
        let mut last = (0, [0; 32]);
        loop {
            let rows = self.audit(last.0, CHECK_PAGE).await?;
            if rows.is_empty() {
                return Ok(ChainCheck { rows: last.0, broken_at: None });
            }
            match verify(last, &rows) {
                Ok(end) => last = end,
                Err(seq) => {
                    let rows = rows.iter().map(|row| row.seq).take_while(|one| *one < seq).last();
                    return Ok(ChainCheck { rows: rows.unwrap_or(last.0), broken_at: Some(seq) });
                }
            }
        }
    }
}

/// The one organisation of an installation without sign-in.
const ORGANISATION: OrganisationId = OrganisationId(1);
