//! Deleted devices, until an operator forgets them.

use weft_noise::mac;
use weft_wire::id::DeviceId;

use crate::domain::audit::Actor;
use crate::domain::device::Tombstone;
use crate::failure::{Code, Failure, nearest};
use crate::store::StoreError;

use super::operator::{Operator, fault, not_found, printable};

impl Operator {
    /// Deleted devices whose keys do not come back, by name, each with the name
    /// of the network that it was in.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn tombstones(&self) -> Result<Vec<(Tombstone, String)>, Failure> {
        let networks = self.networks().await?;
        let stones = self.store.tombstones().await.map_err(fault)?;
        let name = |stone: &Tombstone| {
            let network = networks.iter().find(|network| network.id == stone.network);
            network.map_or_else(|| stone.network.to_string(), |network| network.name.clone())
        };
        Ok(stones
            .into_iter()
            .map(|stone| {
                let network = name(&stone);
                (stone, network)
            })
            .collect())
    }

    /// Clears the tombstone that `wanted` names: name, `name.network`, id, 4 and
    /// more characters of the id, or the fingerprint that the device shows.
    ///
    /// # Errors
    ///
    /// `device.not-found`, `device.ambiguous`, `device.not-deleted`.
    pub async fn forget_device(
        &self,
        wanted: &str,
        actor: Actor,
    ) -> Result<(Tombstone, String), Failure> {
        let stones = self.tombstones().await?;
        let mut found: Vec<_> = stones.iter().filter(|stone| is_named(stone, wanted)).collect();
        if found.len() > 1 {
            let ids: Vec<_> =
                found.iter().map(|(s, _)| format!("{} ({})", s.device, s.at)).collect();
            let (wanted, count, ids) = (printable(wanted), found.len(), ids.join(", "));
            let message = format!("\"{wanted}\" could be {count} deleted devices: {ids}");
            return Err(Failure::new(Code::DeviceAmbiguous, message)
                .attempt("weft-coordinator device forget dev_…"));
        }
        let Some((stone, network)) = found.pop() else {
            return Err(self.not_deleted(wanted, &stones).await);
        };
        let forgotten = self.store.forget(stone.device, self.by(actor)).await;
        let forgotten = forgotten.map_err(|error| match error {
            StoreError::NotFound(_) => no_tombstone(wanted, &stones),
            other => fault(other),
        })?;
        Ok((forgotten, network.clone()))
    }

    async fn not_deleted(&self, wanted: &str, stones: &[(Tombstone, String)]) -> Failure {
        match self.find_device(wanted).await {
            Ok(device) => {
                let name = device.name;
                let message = format!("{name} is not deleted: there is nothing to forget");
                Failure::new(Code::DeviceNotDeleted, message)
                    .attempt(format!("weft-coordinator device show {name}"))
            }
            Err(_) => no_tombstone(wanted, stones),
        }
    }

    /// A device that is not here because it was deleted.
    pub(super) async fn deleted(&self, wanted: &str) -> Result<Option<Failure>, Failure> {
        let stones = self.tombstones().await?;
        let newest = stones.iter().filter(|stone| is_named(stone, wanted)).max_by_key(|s| s.0.at);
        Ok(newest.map(|(stone, _)| {
            let Tombstone { device, name, at, .. } = stone;
            let message = format!("{name} was deleted on {at}; its identity does not come back");
            Failure::new(Code::DeviceDeleted, message)
                .param("device", device)
                .attempt(format!("weft-coordinator device forget {name}"))
        }))
    }
}

fn no_tombstone(wanted: &str, stones: &[(Tombstone, String)]) -> Failure {
    let names = stones.iter().map(|(stone, _)| stone.name.as_str());
    let message = not_found("deleted device", wanted, nearest(wanted, names));
    Failure::new(Code::DeviceNotFound, message).attempt("weft-coordinator device list --deleted")
}

fn is_named((stone, network): &(Tombstone, String), wanted: &str) -> bool {
    let id = stone.device.to_string();
    let is_prefix = wanted.len() >= "dev_".len() + 4 && id.starts_with(wanted);
    let is_name = match wanted.split_once('.') {
        Some((name, home)) => stone.name == name && network == home,
        None => stone.name == wanted,
    };
    let print = stone.identity.map(|identity| mac::fingerprint(&identity).to_string());
    is_name
        || is_prefix
        || wanted.parse::<DeviceId>().ok() == Some(stone.device)
        || print.is_some_and(|print| print.eq_ignore_ascii_case(wanted))
}
