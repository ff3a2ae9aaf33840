//! Credentials at relays: made when a device asks, kept nowhere.
//!
//! A relay that shares a secret with us takes `EXPIRY:NAME` as a user and a MAC of
//! it as the password, ours and coturn (`use-auth-secret`) alike. NAME is the
//! device, and behind an `@` its organisation: a relay can hold quotas of both,
//! and refuse one device.

use core::fmt::Write as _;
use std::sync::Arc;

use weft_noise::legacy::hmac_sha1;
use weft_wire::base64;
use weft_wire::id::{DeviceId, Epoch, OrganisationId, Secret};
use weft_wire::item::RequestId;
use weft_wire::relay::{RELAY_USER_LEN, RELAYS, RelayGrant, RelayLogin, RelayMac};
use weft_wire::relay_link::{DENIALS, RelayDenial, RelayDenials};
use zeroize::Zeroizing;

use crate::domain::denial::Denial;
use crate::domain::relay::{Relay, told_to};
use crate::domain::tags::TagSet;
use crate::domain::time::UnixMs;
use crate::store::{SharedStore, StoreError, What};

use super::secrets::Secrets;

/// The secrets that relays share with us. No `Debug`; erased when dropped.
#[derive(Default)]
pub struct RelaySecrets(Vec<(u16, Zeroizing<String>)>);

impl RelaySecrets {
    /// Those of the relays with these numbers.
    pub fn new(secrets: impl IntoIterator<Item = (u16, Zeroizing<String>)>) -> Self {
        Self(secrets.into_iter().take(RELAYS).collect())
    }

    fn of(&self, number: u16) -> Option<Zeroizing<String>> {
        let found = self.0.iter().find(|(known, _)| *known == number);
        found.map(|(_, secret)| secret.clone())
    }
}

/// The secret of a relay as TURN's REST scheme has it: a text.
pub fn secret_text(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(base64::encode(&secret.0).to_string())
}

fn login(relay: u16, secret: &str, user: &str) -> RelayLogin {
    RelayLogin { relay, mac: RelayMac(hmac_sha1(secret.as_bytes(), &[user.as_bytes()])) }
}

/// The name of a device at every relay, behind its user's expiry.
pub fn user_name(device: DeviceId, organisation: OrganisationId) -> String {
    format!("{device}@{organisation}")
}

/// The user of a device at every relay until a Unix time in seconds; `None` = a
/// clock says so wild a time that the name does not fit.
fn user(
    expiry_s: u64,
    device: DeviceId,
    organisation: OrganisationId,
) -> Option<heapless::String<RELAY_USER_LEN>> {
    let mut user = heapless::String::new();
    write!(user, "{expiry_s}:{}", user_name(device, organisation)).ok()?;
    Some(user)
}

/// What is said to a device that may use no relay.
pub const fn none(request: RequestId, lifetime_s: u32) -> RelayGrant {
    RelayGrant { request, user: heapless::String::new(), lifetime_s, logins: heapless::Vec::new() }
}

/// What a relay is told that holds this part of the list of denials.
///
/// # Errors
///
/// The store's.
pub async fn denials(store: &SharedStore, held: (Epoch, u64)) -> Result<RelayDenials, StoreError> {
    let found = store.denials(held, u32::try_from(DENIALS).unwrap_or(u32::MAX)).await?;
    let wire = |one: &Denial| {
        let Denial { device, organisation, denied } = *one;
        RelayDenial { device, organisation, denied }
    };
    Ok(RelayDenials {
        epoch: found.epoch,
        from: found.from,
        to: found.to,
        last: found.last,
        denials: found.list.iter().take(DENIALS).map(wire).collect(),
    })
}

/// The use case.
pub struct Relays {
    store: SharedStore,
    /// Of the relays that the configuration names.
    configured: RelaySecrets,
    /// Those of relays that joined are derived.
    secrets: Arc<Secrets>,
}

impl Relays {
    /// Gives credentials for the relays with these secrets, and those that joined.
    pub const fn new(store: SharedStore, configured: RelaySecrets, secrets: Arc<Secrets>) -> Self {
        Self { store, configured, secrets }
    }

    /// At every relay that a device with these tags is told of.
    fn logins(
        &self,
        relays: Vec<Relay>,
        tags: &TagSet,
        user: &str,
    ) -> heapless::Vec<RelayLogin, RELAYS> {
        let login = |relay: &Relay| {
            let secret = match relay.identity() {
                Some((identity, master)) => {
                    secret_text(&self.secrets.secret_of_relay(&identity, master)?)
                }
                None => self.configured.of(relay.number)?,
            };
            Some(login(relay.number, &secret, user))
        };
        told_to(relays, tags).iter().filter_map(login).collect()
    }

    /// The credentials of a device, as long as the lease of its map; none for one
    /// that is no active member. `None` = they cannot be made while there is no
    /// time of day.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn grant(
        &self,
        device: DeviceId,
        request: RequestId,
        now: UnixMs,
    ) -> Result<Option<RelayGrant>, StoreError> {
        let found = self.store.device(device).await?.ok_or(StoreError::NotFound(What::Device))?;
        let network =
            self.store.network(found.network).await?.ok_or(StoreError::NotFound(What::Network))?;
        let lifetime_s = network.lease_s;
        if !found.is_active() {
            return Ok(Some(none(request, lifetime_s)));
        }
        if now.0 == 0 {
            return Ok(None);
        }
        let expiry_s = now.0 / 1_000 + u64::from(lifetime_s);
        let Some(user) = user(expiry_s, device, found.organisation) else { return Ok(None) };
        let relays = self.store.relays().await?;
        let logins = self.logins(relays, &found.tags, &user);
        Ok(Some(RelayGrant { request, user, lifetime_s, logins }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_whole_or_none() {
        let user = |expiry_s| user(expiry_s, DeviceId(u32::MAX), OrganisationId(u32::MAX));
        let (longest, too_long) = (99_999_999_999_999, 100_000_000_000_000);
        let whole = user(longest).unwrap();
        let (expiry, name) = whole.split_once(':').unwrap();
        assert_eq!(expiry, longest.to_string());
        let (device, organisation) = name.split_once('@').unwrap();
        assert_eq!(device.parse(), Ok(DeviceId(u32::MAX)));
        assert_eq!(organisation.parse(), Ok(OrganisationId(u32::MAX)));
        assert_eq!(user(too_long), None);
    }

    /// `printf %s 1800604800:dev_2j7m5ctnuzov | openssl sha1 -hmac north -binary`
    #[test]
    fn a_password_is_what_coturn_makes_of_secret_and_user() {
        let [north, south] =
            ["north", "south"].map(|secret| login(7, secret, "1800604800:dev_2j7m5ctnuzov"));
        let hex: String = north.mac.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((north.relay, &*hex), (7, "4f4bf5fb5b74a89bb5aef9e7218e741d4adfa503"));
        assert_ne!(north.mac.0, south.mac.0);
    }
}
