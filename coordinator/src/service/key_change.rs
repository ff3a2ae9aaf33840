//! The planned change of the coordinator's own key, as operators see it. The
//! change itself is made while nothing runs: see `switch` on the command line.

use weft_wire::id::PublicKey;

use crate::domain::audit::Actor;
use crate::domain::key_change::KeyChange;
use crate::failure::Failure;

use super::operator::{Operator, fault};

impl Operator {
    /// How far the change has come, and the key that comes next.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn key_change(&self) -> Result<(KeyChange, PublicKey), Failure> {
        let change = self.store.key_change().await.map_err(fault)?;
        Ok((change, self.secrets.next.public()))
    }

    /// Tells every device the next key with its map.
    ///
    /// # Errors
    ///
    /// `store.unavailable`, `internal.fault`.
    pub async fn announce_key(&self, actor: Actor) -> Result<(KeyChange, PublicKey), Failure> {
        let next = self.secrets.next.public();
        let change = self.store.announce_key(next, self.by(actor)).await.map_err(fault)?;
        Ok((change, next))
    }
}
