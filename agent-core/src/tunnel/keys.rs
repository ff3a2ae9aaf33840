//! Keys of both sides while either of them rotates: never more than two.

use weft_noise::key::{StaticSecret, WeakKey};
use weft_noise::wg::{HandshakeError, LocalKey, Mac1Checked, RemoteKey};
use weft_wire::id::{PublicKey, Secret};

use crate::time::{Duration, Instant};

/// Which key of a rotation the second one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRole {
    /// Accepted now, and used once the coordinator says so.
    Next,
    /// Still accepted.
    Previous,
}

/// A peer's second key. Erased when dropped.
pub struct SecondPeerKey {
    /// The key. Equal to the first one when only the PSK changes, as it does
    /// while *our* key rotates.
    pub key: PublicKey,
    /// The PSK of the pair with this key; all zero for none.
    pub psk: Secret,
    /// Next or previous.
    pub role: KeyRole,
    /// Erased at this time, if not told before.
    pub until: Option<Instant>,
}

/// What the tunnel must know of a peer.
pub struct PeerKeys {
    /// The peer's active static key.
    pub key: PublicKey,
    /// The PSK of the active pair; all zero for none.
    pub psk: Secret,
    /// A second key while it rotates.
    pub second: Option<SecondPeerKey>,
    /// Persistent keepalive, for peers that speak WireGuard only. Agents keep
    /// paths warm by other means.
    pub keepalive_after: Option<Duration>,
}

impl PeerKeys {
    /// The usual peer: one key, no persistent keepalive.
    pub const fn new(key: PublicKey, psk: Secret) -> Self {
        Self { key, psk, second: None, keepalive_after: None }
    }

    /// Which public keys are this peer's.
    pub(super) fn has(&self, key: &PublicKey) -> bool {
        self.key == *key || self.second.as_ref().is_some_and(|second| second.key == *key)
    }

    /// The PSK of a handshake that the owner of `theirs` started towards an own
    /// key, `newer` when that is the newer of two own keys, `None` when there
    /// is one.
    pub(super) fn psk_for(&self, theirs: &PublicKey, newer: Option<bool>) -> &Secret {
        match &self.second {
            Some(second) if second.key == *theirs && self.key != *theirs => &second.psk,
            Some(second) if second.key == *theirs => {
                // Only the PSK differs: it belongs to one of our own two keys.
                let newest = match second.role {
                    KeyRole::Next => &second.psk,
                    KeyRole::Previous => &self.psk,
                };
                let oldest = match second.role {
                    KeyRole::Next => &self.psk,
                    KeyRole::Previous => &second.psk,
                };
                match newer {
                    Some(true) => newest,
                    Some(false) => oldest,
                    None => &self.psk,
                }
            }
            _ => &self.psk,
        }
    }

    /// The PSKs that an answer to our initiation may be made with: the active
    /// pair's, and while only the PSK changes the other one.
    pub(super) fn psks(&self) -> [&Secret; 2] {
        match &self.second {
            Some(second) if second.key == self.key => [&self.psk, &second.psk],
            _ => [&self.psk, &self.psk],
        }
    }
}

/// Our own static keys.
pub(super) struct OwnKeys {
    active: LocalKey,
    second: Option<(LocalKey, KeyRole)>,
}

/// One of our own keys.
#[derive(Clone, Copy)]
pub(super) struct OwnKey<'a> {
    pub(super) key: &'a LocalKey,
    pub(super) is_active: bool,
    /// Whether it is the newer of two; `None` when there is one.
    pub(super) newer: Option<bool>,
}

impl OwnKeys {
    pub(super) fn new(active: StaticSecret) -> Self {
        Self { active: LocalKey::new(active), second: None }
    }

    pub(super) const fn active(&self) -> &LocalKey {
        &self.active
    }

    pub(super) fn set_second(&mut self, second: Option<(StaticSecret, KeyRole)>) {
        self.second = second.map(|(secret, role)| (LocalKey::new(secret), role));
    }

    /// Makes the second key the active one; `false` when there is none.
    pub(super) fn swap(&mut self) -> bool {
        let Some((key, role)) = &mut self.second else {
            return false;
        };
        core::mem::swap(&mut self.active, key);
        *role = match role {
            KeyRole::Next => KeyRole::Previous,
            KeyRole::Previous => KeyRole::Next,
        };
        true
    }

    pub(super) fn is_own(&self, key: &PublicKey) -> bool {
        let second = self.second.as_ref().map(|(second, _)| second.public());
        self.active.public() == key || second == Some(key)
    }

    /// Which own key a handshake message is for, by its mac1.
    pub(super) fn check_mac1<'a>(
        &self,
        message: &'a [u8],
    ) -> Result<(OwnKey<'_>, Mac1Checked<'a>), HandshakeError> {
        let role = self.second.as_ref().map(|(_, role)| *role);
        let first = self.active.check_mac1(message);
        match (first, &self.second) {
            (Ok(checked), _) => Ok((
                OwnKey {
                    key: &self.active,
                    is_active: true,
                    newer: role.map(|role| role == KeyRole::Previous),
                },
                checked,
            )),
            (Err(HandshakeError::Mac1), Some((key, role))) => Ok((
                OwnKey { key, is_active: false, newer: Some(*role == KeyRole::Next) },
                key.check_mac1(message)?,
            )),
            (Err(error), _) => Err(error),
        }
    }

    /// A peer's key as the active own key sees it: one X25519.
    pub(super) fn remote(&self, key: &PublicKey) -> Result<RemoteKey, WeakKey> {
        self.active.remote(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(key: u8, psk: u8, role: KeyRole) -> Option<SecondPeerKey> {
        Some(SecondPeerKey { key: PublicKey([key; 32]), psk: Secret([psk; 32]), role, until: None })
    }

    fn chosen(keys: &PeerKeys, theirs: u8, newer: Option<bool>) -> u8 {
        keys.psk_for(&PublicKey([theirs; 32]), newer).0[0]
    }

    #[test]
    fn the_psk_follows_the_peers_key() {
        let mut keys = PeerKeys::new(PublicKey([1; 32]), Secret([10; 32]));
        assert_eq!(chosen(&keys, 1, None), 10);
        keys.second = second(2, 20, KeyRole::Next);
        assert_eq!(chosen(&keys, 1, None), 10);
        assert_eq!(chosen(&keys, 2, None), 20);
        assert_eq!(keys.psks().map(|psk| psk.0[0]), [10, 10]);
    }

    #[test]
    fn while_our_key_rotates_the_psk_follows_our_key() {
        let mut keys = PeerKeys::new(PublicKey([1; 32]), Secret([10; 32]));
        keys.second = second(1, 20, KeyRole::Next);
        assert_eq!(chosen(&keys, 1, Some(false)), 10);
        assert_eq!(chosen(&keys, 1, Some(true)), 20);
        assert_eq!(chosen(&keys, 1, None), 10);
        keys.second = second(1, 20, KeyRole::Previous);
        assert_eq!(chosen(&keys, 1, Some(false)), 20);
        assert_eq!(chosen(&keys, 1, Some(true)), 10);
        assert_eq!(keys.psks().map(|psk| psk.0[0]), [10, 20]);
    }
}
