//! Enrolment keys: made, listed, ended; and the join string, shown once.

use core::time::Duration;

use weft_wire::id::{DeviceId, KeyId, is_name};
use weft_wire::join::{ADDRESSES, BrokerAccount, EnrolToken, JoinString, MAX_TEXT};
use zeroize::{Zeroize, Zeroizing};

use crate::domain::audit::Actor;
use crate::domain::key::{EnrolmentKey, NewKey};
use crate::domain::tags::TagSet;
use crate::failure::{Code, Failure, nearest};
use crate::store::{KeyRevoked, StoreError};

use super::operator::{Operator, SharedAccount, fault, not_found, printable};

/// The longest life of a key.
const LONGEST: Duration = Duration::from_hours(24 * 3_660);

/// The broker knows a key so much longer than it lasts, in seconds.
const GRACE_S: u32 = 30 * 86_400;

/// What somebody wants of a new key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRequest {
    /// Its name; `None` = one is made.
    pub name: Option<String>,
    /// Into which network; `None` = the only one.
    pub network: Option<String>,
    /// The most enrolments; `None` = no limit.
    pub max_uses: Option<u32>,
    /// When it ends; `None` = never.
    pub expires_after: Option<Duration>,
    /// Tags for its devices, `key=value`.
    pub tags: Vec<String>,
    /// Whether an operator has to approve each device.
    pub needs_approval: bool,
}

/// A new key with the only copy of its join string.
pub struct CreatedKey {
    /// The key.
    pub key: EnrolmentKey,
    /// The join string; a secret.
    pub join: Zeroizing<String>,
}

impl Operator {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// `key.bad-…`, `key.name-taken`, `network.not-found`.
    pub async fn create_key(
        &self,
        request: KeyRequest,
        actor: Actor,
    ) -> Result<CreatedKey, Failure> {
        let network = self.network(request.network.as_deref()).await?;
        let tags = TagSet::parse(request.tags.iter().map(String::as_str))
            .map_err(|error| Failure::new(Code::KeyBadTags, error.to_string()))?;
        check(&request)?;
        let by = self.by(actor);
        if by.at.0 == 0 && request.expires_after.is_some() {
            let message = "this machine's clock is not set, so a key cannot end after a time";
            return Err(Failure::new(Code::KeyBadExpiry, message)
                .attempt("timedatectl set-ntp true")
                .attempt("weft-coordinator key create --expires never"));
        }
        // While a change is announced a string pins the key that will stay.
        let announced = self.store.installation().await.map_err(fault)?.announced.is_some();
        let new = NewKey {
            id: KeyId::from_random(self.random.bytes()),
            network: network.id,
            name: request.name,
            master: self.secrets.master_version(),
            max_uses: request.max_uses,
            expires: request.expires_after.map(|span| by.at.after(span)),
            tags,
            needs_approval: request.needs_approval,
            generation: self.secrets.generation + u32::from(announced),
        };
        let generation = new.generation;
        let key = self.store.create_key(new, by).await.map_err(|error| match error {
            StoreError::NameTaken { name, .. } => {
                Failure::new(Code::KeyNameTaken, format!("there is a key named \"{name}\" already"))
                    .param("key", &name)
                    .attempt(format!("weft-coordinator key revoke {name}"))
            }
            other => fault(other),
        })?;
        let join = self.join_string(&key, generation)?;
        Ok(CreatedKey { key, join })
    }

    fn join_string(
        &self,
        key: &EnrolmentKey,
        generation: u32,
    ) -> Result<Zeroizing<String>, Failure> {
        let bug = |what: &str| Failure::new(Code::InternalFault, what.to_owned());
        let psk = self.secrets.enrolment_psk(key.id, key.master);
        let psk = psk.ok_or_else(|| bug("the key's master is not in the key file"))?;
        // The broker lets the key in a little longer than the key lasts, so that
        // who comes late is told why, in a sealed session.
        let expiry = key.expires.map_or(u32::MAX, |at| at.seconds().saturating_add(GRACE_S));
        let mac = self.secrets.enrol_password(key.id, generation, expiry);
        let join = JoinString {
            coordinator: self.secrets.pinned(generation),
            key: key.id,
            psk,
            token: EnrolToken { expiry, mac },
            addresses: self.addresses.iter().take(ADDRESSES).cloned().collect(),
            spki: self.spki,
            account: self.account.as_ref().map(broker_account).transpose()?,
        };
        let mut text = [0; MAX_TEXT];
        let written = join.emit(&mut text).map_err(|_| bug("server.public is not set"));
        let line = written.and_then(|len| {
            let line = core::str::from_utf8(&text[..len]).map_err(|_| bug("not a text"))?;
            Ok(Zeroizing::new(line.to_owned()))
        });
        text.zeroize();
        line
    }

    /// All keys, newest first.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn keys(&self) -> Result<Vec<EnrolmentKey>, Failure> {
        self.store.keys().await.map_err(fault)
    }

    /// The key that `wanted` names: its name, its id, or 4 and more characters
    /// of its id.
    ///
    /// # Errors
    ///
    /// `key.not-found`, `key.ambiguous`.
    pub async fn find_key(&self, wanted: &str) -> Result<EnrolmentKey, Failure> {
        let keys = self.keys().await?;
        let named = keys.iter().filter(|key| key.name == wanted);
        // Of several with one name at most one is not revoked.
        if let Some(key) =
            named.min_by_key(|key| (key.revoked.is_some(), core::cmp::Reverse(key.created)))
        {
            return Ok(key.clone());
        }
        let is_prefix = wanted.len() >= "key_".len() + 4 && wanted.starts_with("key_");
        let by_id: Vec<_> =
            keys.iter().filter(|key| is_prefix && key.id.to_string().starts_with(wanted)).collect();
        match by_id[..] {
            [key] => Ok(key.clone()),
            [] => {
                let near = nearest(wanted, keys.iter().map(|key| key.name.as_str()));
                let message = not_found("key", wanted, near);
                Err(Failure::new(Code::KeyNotFound, message).attempt("weft-coordinator key list"))
            }
            _ => {
                let message = format!("\"{}\" could be {} keys", printable(wanted), by_id.len());
                Err(Failure::new(Code::KeyAmbiguous, message))
            }
        }
    }

    /// Ids of the devices that a key let in.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn devices_of_key(&self, key: KeyId) -> Result<Vec<DeviceId>, Failure> {
        self.store.devices_of_key(key).await.map_err(fault)
    }

    /// Ends a key.
    ///
    /// # Errors
    ///
    /// As [`Operator::find_key`].
    pub async fn revoke_key(
        &self,
        wanted: &str,
        and_devices: bool,
        actor: Actor,
    ) -> Result<KeyRevoked, Failure> {
        let key = self.find_key(wanted).await?;
        self.store.revoke_key(key.id, and_devices, self.by(actor)).await.map_err(fault)
    }
}

fn check(request: &KeyRequest) -> Result<(), Failure> {
    if let Some(name) = request.name.as_deref().filter(|name| !is_name(name)) {
        let name = printable(name);
        let message = format!("'{name}' is no name; 1 to 32 of a-z 0-9 and - are possible");
        return Err(Failure::new(Code::KeyBadName, message));
    }
    if request.max_uses == Some(0) {
        return Err(Failure::new(Code::KeyBadUses, "a key with 0 uses lets nobody in"));
    }
    match request.expires_after {
        Some(Duration::ZERO) => {
            Err(Failure::new(Code::KeyBadExpiry, "a key that ends now lets nobody in"))
        }
        Some(span) if span > LONGEST => {
            Err(Failure::new(Code::KeyBadExpiry, "a key ends within 10 years, or never"))
        }
        _ => Ok(()),
    }
}

/// The account that devices share at a broker, as a join string holds it.
fn broker_account(account: &SharedAccount) -> Result<BrokerAccount, Failure> {
    let text = |text: &str| {
        heapless::String::try_from(text).map_err(|_| {
            let message = "the devices' account at the broker does not fit into a join string";
            Failure::new(Code::InternalFault, message)
        })
    };
    Ok(BrokerAccount { user: text(&account.user)?, password: text(&account.password)? })
}
