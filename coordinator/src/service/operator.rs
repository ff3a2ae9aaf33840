//! What operators do, whichever way they came. One file per noun adds its use
//! cases to [`Operator`].

use std::sync::Arc;

use weft_wire::id::NetworkId;
use weft_wire::join::Address;
use zeroize::Zeroizing;

use crate::domain::audit::Actor;
use crate::domain::network::Network;
use crate::domain::time::UnixMs;
use crate::failure::{Code, Failure, nearest};
use crate::store::{By, SharedStore, StoreError};

use super::clock::Clock;
use super::random::Random;
use super::seams::{Commands, PresenceView, Refusals, RelayView};
use super::secrets::Secrets;

/// Everything that operators' use cases stand on.
pub struct Operator {
    /// The state.
    pub store: SharedStore,
    /// The secrets.
    pub secrets: Arc<Secrets>,
    /// Who is there.
    pub presence: Arc<dyn PresenceView>,
    /// The way to devices.
    pub commands: Arc<dyn Commands>,
    /// Refused registrations.
    pub refusals: Arc<Refusals>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The ways to this coordinator, best first, as join strings name them.
    pub addresses: Vec<Address>,
    /// SHA-256 of the key that TLS must show there, if join strings pin it.
    pub spki: Option<[u8; 32]>,
    /// The account that devices share at a broker that is not ours, if there is
    /// one.
    pub account: Option<SharedAccount>,
    /// Relays at this moment.
    pub relays: Arc<dyn RelayView>,
    /// Where relays that join post, best first.
    pub posts: Vec<Address>,
    /// Randomness.
    pub random: Random,
}

/// What all devices log in with at a broker that is not ours.
pub struct SharedAccount {
    /// User name.
    pub user: String,
    /// Password. A secret.
    pub password: Zeroizing<String>,
}

impl Operator {
    /// The time of day.
    pub fn now(&self) -> UnixMs {
        UnixMs(self.clock.unix_ms())
    }

    /// Who does something now.
    pub fn by(&self, actor: Actor) -> By {
        By { actor, at: self.now() }
    }

    /// The network that `wanted` names (by name or id); without a name the only
    /// one.
    ///
    /// # Errors
    ///
    /// `network.not-found`.
    pub async fn network(&self, wanted: Option<&str>) -> Result<Network, Failure> {
        let networks = self.store.networks().await.map_err(fault)?;
        let found = match wanted {
            Some(wanted) => {
                let id = wanted.parse::<NetworkId>().ok();
                networks.iter().find(|one| one.name == wanted || Some(one.id) == id)
            }
            None if networks.len() == 1 => networks.first(),
            None => None,
        };
        if let Some(network) = found {
            return Ok(network.clone());
        }
        let names = networks.iter().map(|one| one.name.as_str());
        let message = match wanted {
            None => format!("there are {} networks; name one", networks.len()),
            Some(wanted) => not_found("network", wanted, nearest(wanted, names)),
        };
        Err(Failure::new(Code::NetworkNotFound, message).attempt("weft-coordinator network"))
    }

    /// Members of a network, counted.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn members(&self, network: NetworkId) -> Result<u32, Failure> {
        let members = self.store.members_by_tags(network).await.map_err(fault)?;
        Ok(members.iter().map(|(_, count)| count).sum())
    }

    /// All networks.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn networks(&self) -> Result<Vec<Network>, Failure> {
        self.store.networks().await.map_err(fault)
    }
}

/// `there is no device "gw-x"; there is "gw-a"`.
pub(super) fn not_found(what: &str, wanted: &str, near: Option<&str>) -> String {
    let mut message = format!("there is no {what} \"{}\"", printable(wanted));
    if let Some(near) = near {
        message.push_str(&format!("; there is \"{near}\""));
    }
    message
}

/// What somebody typed, fit to be shown: without control characters, and not
/// without end.
pub(super) fn printable(text: &str) -> String {
    let short: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

/// A store's error that has nothing to do with what was asked.
pub(super) fn fault(error: StoreError) -> Failure {
    match error {
        StoreError::Unavailable(cause) => {
            Failure::new(Code::StoreUnavailable, "nothing can be written now; tunnels go on")
                .with(crate::failure::Label::Cause, cause)
        }
        other => Failure::new(Code::InternalFault, other.to_string()),
    }
}
