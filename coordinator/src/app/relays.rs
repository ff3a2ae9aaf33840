//! Relays that the configuration names: told to every map at the start, and their
//! secrets read.

use zeroize::Zeroizing;

use crate::config::relays::RelaySettings;
use crate::domain::audit::Actor;
use crate::domain::relay::NewRelay;
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure};
use crate::service::clock::Clock as _;
use crate::service::relays::RelaySecrets;
use crate::store::{By, SharedStore, StoreError};

use super::clock::SystemClock;
use super::secret_file::{self, Kind};

const SECRET: Kind = Kind {
    word: "secret",
    longest: 256,
    unreadable: Code::RelaySecret,
    denied: Code::RelaySecretDenied,
    open: Code::RelaySecretOpen,
};

/// A relay, and the secret that it shares with us.
pub(super) struct Shared {
    pub(super) relay: NewRelay,
    pub(super) secret: Zeroizing<String>,
}

/// The configured relays with their secrets.
///
/// # Errors
///
/// `relay.secret…`.
pub(super) fn read(settings: &[RelaySettings]) -> Result<Vec<Shared>, Failure> {
    let read = |one: &RelaySettings| {
        let setting = format!("relays.{}.secret_file", one.relay.name);
        let secret = secret_file::line(&SECRET, &setting, &one.secret_file)?;
        Ok(Shared { relay: one.relay.clone(), secret })
    };
    settings.iter().map(read).collect()
}

/// Puts the relays into every map and gives what credentials are made with.
///
/// # Errors
///
/// `config.duplicate` when a relay that joined has the name of one, else what
/// `unreadable` makes of the store's.
pub(super) async fn announce(
    store: &SharedStore,
    relays: Vec<Shared>,
    unreadable: impl FnOnce(&StoreError) -> Failure,
) -> Result<RelaySecrets, Failure> {
    let by = By { actor: Actor::coordinator(), at: UnixMs(SystemClock.unix_ms()) };
    let (relays, secrets): (_, Vec<_>) =
        relays.into_iter().map(|Shared { relay, secret }| (relay, secret)).unzip();
    let numbered = store.set_relays(relays, by).await.map_err(|error| match error {
        StoreError::NameTaken { name, .. } => {
            let message = format!("a relay that joined is called \"{name}\" too");
            Failure::new(Code::ConfigDuplicate, message)
                .attempt(format!("give the one in the settings another name than {name}"))
        }
        other => unreadable(&other),
    })?;
    Ok(RelaySecrets::new(numbered.iter().map(|relay| relay.number).zip(secrets)))
}
