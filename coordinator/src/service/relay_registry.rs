//! Relays as operators see them: added, listed, drained, removed.

use core::time::Duration;

use weft_wire::id::ShortSecret;
use weft_wire::id::{KeyId, is_name};
use weft_wire::join::{ADDRESSES, EnrolToken, JoinString, Joins, MAX_TEXT};
use zeroize::{Zeroize as _, Zeroizing};

use crate::domain::audit::Actor;
use crate::domain::relay::{NewRegistration, Relay};
use crate::failure::{Code, Failure, nearest};
use crate::store::{StoreError, What};

use super::operator::{Operator, fault, not_found, printable};
use super::seams::RelayLive;

/// The longest life of a relay's string.
const LONGEST: Duration = Duration::from_hours(24 * 366);

/// What somebody wants of a new relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayRequest {
    /// Its name.
    pub name: String,
    /// Where it stands, or empty.
    pub region: String,
    /// When its string ends; `None` = never.
    pub expires_after: Option<Duration>,
}

/// A new relay with the only copy of its join string.
pub struct AddedRelay {
    /// The relay.
    pub relay: Relay,
    /// The join string; a secret.
    pub join: Zeroizing<String>,
}

impl Operator {
    /// All relays, with what is known of each now.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn relays(&self) -> Result<Vec<(Relay, RelayLive)>, Failure> {
        let relays = self.store.relays().await.map_err(fault)?;
        let live = |relay: Relay| {
            let live = self.relays.live(&relay);
            (relay, live)
        };
        Ok(relays.into_iter().map(live).collect())
    }

    /// The relay of this name.
    ///
    /// # Errors
    ///
    /// `relay.not-found`.
    pub async fn find_relay(&self, wanted: &str) -> Result<(Relay, RelayLive), Failure> {
        let relays = self.relays().await?;
        if let Some(found) = relays.iter().find(|(relay, _)| relay.is.name == wanted) {
            return Ok(found.clone());
        }
        let near = nearest(wanted, relays.iter().map(|(relay, _)| relay.is.name.as_str()));
        let message = not_found("relay", wanted, near);
        Err(Failure::new(Code::RelayNotFound, message).attempt("weft-coordinator relay list"))
    }

    /// Makes an entry that one relay can join by, once.
    ///
    /// # Errors
    ///
    /// `relay.bad-…`, `relay.name-taken`.
    pub async fn add_relay(
        &self,
        request: RelayRequest,
        actor: Actor,
    ) -> Result<AddedRelay, Failure> {
        check(&request)?;
        let by = self.by(actor);
        if by.at.0 == 0 && request.expires_after.is_some() {
            let message = "this machine's clock is not set, so a string cannot end after a time";
            return Err(Failure::new(Code::RelayBadExpiry, message)
                .attempt("timedatectl set-ntp true")
                .attempt("weft-coordinator relay add NAME --expires never"));
        }
        let new = NewRegistration {
            name: request.name,
            region: request.region,
            key: KeyId::from_random(self.random.bytes()),
            key_expires: request.expires_after.map(|span| by.at.after(span)),
            master: self.secrets.master_version(),
        };
        let (key, master) = (new.key, new.master);
        let relay = self.store.add_relay(new, by).await.map_err(|error| match error {
            StoreError::NameTaken { name, .. } => {
                let message = format!("there is a relay named \"{name}\" already");
                Failure::new(Code::RelayNameTaken, message)
                    .param("relay", &name)
                    .attempt(format!("weft-coordinator relay remove {name}"))
            }
            other => fault(other),
        })?;
        let join = self.relay_string(key, master).await?;
        Ok(AddedRelay { relay, join })
    }

    async fn relay_string(&self, key: KeyId, master: u8) -> Result<Zeroizing<String>, Failure> {
        let bug = |what: &str| Failure::new(Code::InternalFault, what.to_owned());
        let psk = self.secrets.relay_enrolment_psk(key, master);
        let psk = psk.ok_or_else(|| bug("the string's master is not in the key file"))?;
        // While a change is announced a string pins the key that will stay.
        let announced = self.store.installation().await.map_err(fault)?.announced.is_some();
        let join = JoinString {
            coordinator: self.secrets.pinned(self.secrets.generation + u32::from(announced)),
            key,
            psk,
            // A relay comes over HTTP and knows no broker.
            token: EnrolToken { expiry: 0, mac: ShortSecret([0; 16]) },
            addresses: self.posts.iter().take(ADDRESSES).cloned().collect(),
            spki: self.spki,
            account: None,
        };
        let mut text = [0; MAX_TEXT];
        let written =
            join.emit_for(Joins::Relay, &mut text).map_err(|_| bug("server.public is not set"));
        let line = written.and_then(|len| {
            let line = core::str::from_utf8(&text[..len]).map_err(|_| bug("not a text"))?;
            Ok(Zeroizing::new(line.to_owned()))
        });
        text.zeroize();
        line
    }

    /// A relay is to take no new clients, or to take them again.
    ///
    /// # Errors
    ///
    /// As [`Operator::find_relay`]; `relay.configured`.
    pub async fn drain_relay(
        &self,
        wanted: &str,
        draining: bool,
        actor: Actor,
    ) -> Result<(Relay, RelayLive), Failure> {
        let (relay, _) = self.registered(wanted, "drained").await?;
        let drained = self.store.drain_relay(relay.number, draining, self.by(actor)).await;
        drained.map_err(|error| gone(wanted, error))?;
        self.relays.changed(relay.number).await;
        self.find_relay(wanted).await
    }

    /// Removes a relay: devices forget it, and it takes no new clients.
    ///
    /// # Errors
    ///
    /// As [`Operator::find_relay`]; `relay.configured`.
    pub async fn remove_relay(&self, wanted: &str, actor: Actor) -> Result<Relay, Failure> {
        let (relay, _) = self.registered(wanted, "removed").await?;
        let removed = self.store.remove_relay(relay.number, self.by(actor)).await;
        let removed = removed.map_err(|error| gone(wanted, error))?;
        self.relays.changed(relay.number).await;
        Ok(removed)
    }

    /// A relay that this coordinator can do something about.
    async fn registered(&self, wanted: &str, what: &str) -> Result<(Relay, RelayLive), Failure> {
        let found = self.find_relay(wanted).await?;
        if found.0.registration.is_some() {
            return Ok(found);
        }
        let message =
            format!("{wanted} is a relay of the settings, and cannot be {what} from here");
        Err(Failure::new(Code::RelayConfigured, message)
            .attempt("remove its [[relays]] and restart the coordinator"))
    }
}

fn gone(wanted: &str, error: StoreError) -> Failure {
    match error {
        StoreError::NotFound(What::Relay) => {
            Failure::new(Code::RelayNotFound, not_found("relay", wanted, None))
        }
        other => fault(other),
    }
}

fn check(request: &RelayRequest) -> Result<(), Failure> {
    let RelayRequest { name, region, expires_after } = request;
    if !is_name(name) {
        let message =
            format!("'{}' is no name; 1 to 32 of a-z 0-9 and - are possible", printable(name));
        return Err(Failure::new(Code::RelayBadName, message));
    }
    if !region.is_empty() && !is_name(region) {
        let region = printable(region);
        let message = format!("'{region}' is no region; 1 to 32 of a-z 0-9 and - are possible");
        return Err(Failure::new(Code::RelayBadRegion, message));
    }
    match expires_after {
        Some(Duration::ZERO) => {
            Err(Failure::new(Code::RelayBadExpiry, "a string that ends now lets nobody in"))
        }
        Some(span) if *span > LONGEST => {
            Err(Failure::new(Code::RelayBadExpiry, "a string ends within a year, or never"))
        }
        _ => Ok(()),
    }
}
