//! Who we are at relays, and what they ask us to repeat.

use heapless::{String, Vec};
use weft_noise::legacy::{LongTermKey, SharedPassword};
use weft_wire::relay::{RELAY_USER_LEN, RELAYS, RelayLogin, RelayMac};
use weft_wire::stun::{Algorithm, Message, MessageWriter, NONCE, REALM, StunError, USERNAME};

use crate::time::{Duration, Instant};

/// The longest realm that is taken: a host name, mostly.
pub const REALM_LEN: usize = 64;
/// The longest nonce that is taken.
pub const NONCE_LEN: usize = 64;

/// What the coordinator granted.
pub(super) struct Grant {
    user: String<RELAY_USER_LEN>,
    logins: Vec<RelayLogin, RELAYS>,
    /// When another one is asked for.
    pub(super) renew_at: Instant,
    expires_at: Instant,
}

impl Grant {
    pub(super) fn new(
        user: &str,
        lifetime: Duration,
        logins: &[RelayLogin],
        now: Instant,
    ) -> Option<Self> {
        let logins = logins
            .iter()
            .take(RELAYS)
            .map(|login| RelayLogin { relay: login.relay, mac: login.mac.duplicate() })
            .collect();
        let user = String::try_from(user).ok()?;
        let (renew_at, expires_at) = (now + lifetime / 2, now + lifetime);
        Some(Self { user, logins, renew_at, expires_at })
    }

    pub(super) fn is_good(&self, now: Instant) -> bool {
        now < self.expires_at
    }

    pub(super) fn admits(&self, relay: u16) -> bool {
        self.mac(relay).is_some()
    }

    fn mac(&self, relay: u16) -> Option<&RelayMac> {
        self.logins.iter().find(|login| login.relay == relay).map(|login| &login.mac)
    }

    fn key(&self, challenge: &Challenge) -> Option<LongTermKey> {
        let password = SharedPassword::from_mac(&self.mac(challenge.relay)?.0);
        Some(password.key(self.user.as_bytes(), &challenge.realm))
    }

    /// Appends user, realm, nonce and MAC.
    pub(super) fn sign(
        &self,
        challenge: &Challenge,
        writer: &mut MessageWriter<'_>,
    ) -> Result<(), StunError> {
        let Some(key) = self.key(challenge) else { return Ok(()) };
        writer.attribute(USERNAME, self.user.as_bytes())?;
        writer.attribute(REALM, &challenge.realm)?;
        writer.attribute(NONCE, &challenge.nonce)?;
        key.sign(Algorithm::Sha1, writer)
    }

    /// Whether the message was signed for these credentials; `None` if it bears
    /// no MAC.
    pub(super) fn verify(&self, challenge: &Challenge, message: &Message<'_>) -> Option<bool> {
        let integrity = message.integrity(Algorithm::Sha1)?;
        let key = self.key(challenge)?;
        Some(key.verify(Algorithm::Sha1, &integrity))
    }
}

/// The realm of a relay, and its newest nonce.
pub(super) struct Challenge {
    /// Whose.
    pub(super) relay: u16,
    realm: Vec<u8, REALM_LEN>,
    nonce: Vec<u8, NONCE_LEN>,
}

impl Challenge {
    /// Of a 401 or a 438.
    pub(super) fn read(relay: u16, message: &Message<'_>) -> Option<Self> {
        let realm = Vec::from_slice(message.get(REALM)?).ok()?;
        let nonce = Vec::from_slice(message.get(NONCE)?).ok()?;
        Some(Self { relay, realm, nonce })
    }
}
