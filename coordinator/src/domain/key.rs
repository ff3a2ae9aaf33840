//! Enrolment keys: what lets a device in, how often, how long.

use weft_wire::id::{KeyId, NetworkId, OrganisationId};

use super::enrolment::Refused;
use super::tags::TagSet;
use super::time::UnixMs;

/// An enrolment key. Its secret is derived when needed and stored nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentKey {
    /// Its public reference.
    pub id: KeyId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// Into which network it lets.
    pub network: NetworkId,
    /// Its name, unique among keys of the organisation that are not revoked.
    pub name: String,
    /// Version of the master that its PSK is derived from.
    pub master: u8,
    /// Enrolments so far.
    pub uses: u32,
    /// The most enrolments; `None` = no limit.
    pub max_uses: Option<u32>,
    /// When it ends; `None` = never.
    pub expires: Option<UnixMs>,
    /// Tags given to every device it lets in.
    pub tags: TagSet,
    /// Whether an operator has to approve each device.
    pub needs_approval: bool,
    /// When it was made.
    pub created: UnixMs,
    /// When it was revoked.
    pub revoked: Option<UnixMs>,
    /// Its join string pins a key that the coordinator has given up.
    pub outdated: bool,
}

/// How a key stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Lets devices in.
    Active,
    /// All its uses are used.
    UsedUp,
    /// Its time is over.
    Expired,
    /// An operator ended it.
    Revoked,
    /// Its join string is from before the coordinator's key changed.
    Outdated,
}

impl EnrolmentKey {
    /// How it stands; the strongest reason first. While the clock is not set
    /// (`now` is 0) a key that ends one day counts as ended: nobody knows
    /// whether it has.
    pub fn state(&self, now: UnixMs) -> KeyState {
        if self.revoked.is_some() {
            KeyState::Revoked
        } else if self.expires.is_some_and(|at| at <= now || now.0 == 0) {
            KeyState::Expired
        } else if self.max_uses.is_some_and(|most| self.uses >= most) {
            KeyState::UsedUp
        } else if self.outdated {
            KeyState::Outdated
        } else {
            KeyState::Active
        }
    }

    /// Whether one more device may come in now.
    ///
    /// # Errors
    ///
    /// [`Refused`] with what the device is told.
    pub fn admits(&self, now: UnixMs) -> Result<(), Refused> {
        let key = self.name.clone();
        match self.state(now) {
            // Who asks this has proved that it knows the key of today.
            KeyState::Active | KeyState::Outdated => Ok(()),
            KeyState::UsedUp => Err(Refused::KeyUsedUp {
                key,
                uses: self.uses,
                max_uses: self.max_uses.unwrap_or(self.uses),
            }),
            KeyState::Expired => {
                Err(Refused::KeyExpired { key, at: self.expires.unwrap_or_default() })
            }
            KeyState::Revoked => {
                Err(Refused::KeyRevoked { key, at: self.revoked.unwrap_or_default() })
            }
        }
    }
}

/// What is needed to make an enrolment key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// 60 random bits.
    pub id: KeyId,
    /// Into which network.
    pub network: NetworkId,
    /// Its name: a lower-case RFC 1123 label; `None` = a free one is made.
    pub name: Option<String>,
    /// Version of the master that its PSK is derived from.
    pub master: u8,
    /// The most enrolments; `None` = no limit.
    pub max_uses: Option<u32>,
    /// When it ends; `None` = never.
    pub expires: Option<UnixMs>,
    /// Tags for its devices.
    pub tags: TagSet,
    /// Whether an operator has to approve each device.
    pub needs_approval: bool,
    /// The generation whose key its join string pins.
    pub generation: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EnrolmentKey {
        EnrolmentKey {
            id: KeyId::from_random([1; 8]),
            organisation: OrganisationId(1),
            network: NetworkId(1),
            name: "lab".to_owned(),
            master: 1,
            uses: 0,
            max_uses: Some(1),
            expires: Some(UnixMs(100)),
            tags: TagSet::default(),
            needs_approval: false,
            created: UnixMs(0),
            revoked: None,
            outdated: false,
        }
    }

    #[test]
    fn each_limit_refuses_with_its_reason() {
        let name = || "lab".to_owned();
        assert_eq!(key().admits(UnixMs(99)), Ok(()));
        let at = UnixMs(100);
        assert_eq!(key().admits(at), Err(Refused::KeyExpired { key: name(), at }));
        let unset = Err(Refused::KeyExpired { key: name(), at });
        assert_eq!(key().admits(UnixMs(0)), unset, "the clock is not set");
        let used = EnrolmentKey { uses: 1, ..key() };
        let refused = Refused::KeyUsedUp { key: name(), uses: 1, max_uses: 1 };
        assert_eq!(used.admits(UnixMs(1)), Err(refused));
        let revoked = EnrolmentKey { revoked: Some(UnixMs(5)), ..used };
        let refused = Refused::KeyRevoked { key: name(), at: UnixMs(5) };
        assert_eq!(revoked.admits(UnixMs(0)), Err(refused));
        let free = EnrolmentKey { max_uses: None, expires: None, uses: u32::MAX, ..key() };
        assert_eq!(free.admits(UnixMs(u64::MAX)), Ok(()));
    }
}
