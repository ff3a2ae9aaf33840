//! Credentials at relays: made when a device asks, kept nowhere.
//!
//! A relay that shares a secret with us takes `EXPIRY:NAME` as a user and a MAC of
//! it as the password, ours and coturn (`use-auth-secret`) alike. NAME is the
//! device, and behind an `@` its organisation: a relay can hold quotas of both,
//! and refuse one device.

use core::fmt::Write as _;

use weft_noise::legacy::hmac_sha1;
use weft_wire::id::{DeviceId, Epoch, OrganisationId};
use weft_wire::item::RequestId;
use weft_wire::relay::{RELAY_USER_LEN, RELAYS, RelayGrant, RelayLogin, RelayMac};
use weft_wire::relay_link::{DENIALS, RelayDenial, RelayDenials};
use zeroize::Zeroizing;

use crate::domain::denial::Denial;
use crate::domain::time::UnixMs;
use crate::store::{SharedStore, StoreError, What};

/// The secrets that relays share with us. No `Debug`; erased when dropped.
#[derive(Default)]
pub struct RelaySecrets(Vec<(u16, Zeroizing<String>)>);

impl RelaySecrets {
    /// Those of the relays with these numbers.
    pub fn new(secrets: impl IntoIterator<Item = (u16, Zeroizing<String>)>) -> Self {
        Self(secrets.into_iter().take(RELAYS).collect())
    }

    fn logins(&self, user: &str) -> heapless::Vec<RelayLogin, RELAYS> {
        let login = |(relay, secret): &(u16, Zeroizing<String>)| RelayLogin {
            relay: *relay,
            mac: RelayMac(hmac_sha1(secret.as_bytes(), &[user.as_bytes()])),
        };
        self.0.iter().map(login).collect()
    }
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
    secrets: RelaySecrets,
}

impl Relays {
    /// Gives credentials for the relays with these secrets.
    pub const fn new(store: SharedStore, secrets: RelaySecrets) -> Self {
        Self { store, secrets }
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
        let logins = self.secrets.logins(&user);
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
        let secret = |text: &str| Zeroizing::new(text.to_owned());
        let secrets = RelaySecrets::new([(7, secret("north")), (9, secret("south"))]);
        let logins = secrets.logins("1800604800:dev_2j7m5ctnuzov");
        assert_eq!(logins.iter().map(|login| login.relay).collect::<Vec<_>>(), [7, 9]);
        let hex: String = logins[0].mac.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "4f4bf5fb5b74a89bb5aef9e7218e741d4adfa503");
        assert_ne!(logins[0].mac.0, logins[1].mac.0);
    }
}
