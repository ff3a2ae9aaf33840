//! Relays that the configuration names: told to every map at the start.

use core::net::SocketAddr;

use crate::config::relays::RelaySettings;
use crate::domain::audit::Actor;
use crate::domain::relay::{NewRelay, Relay};
use crate::domain::time::UnixMs;
use crate::service::clock::Clock as _;
use crate::store::{By, SharedStore, StoreError};

use super::clock::SystemClock;

/// Puts the configured relays into every map.
///
/// # Errors
///
/// The store's.
pub(super) async fn announce(
    store: &SharedStore,
    settings: &[RelaySettings],
) -> Result<Vec<Relay>, StoreError> {
    let by = By { actor: Actor::coordinator(), at: UnixMs(SystemClock.unix_ms()) };
    let relays = settings.iter().map(|one| one.relay.clone()).collect();
    store.set_relays(relays, by).await
}

/// Where the configured relays answer STUN, in their order.
pub(super) fn stun(settings: &[RelaySettings]) -> Vec<SocketAddr> {
    settings.iter().map(|one| &one.relay).flat_map(NewRelay::stun).collect()
}
