//! Keys of both sides while either of them rotates: never more than two.

use weft_noise::key::{StaticSecret, WeakKey};
use weft_noise::wg::{HandshakeError, LocalKey, Mac1Checked, RemoteKey, bind_psk};
use weft_wire::id::{PublicKey, Secret};

use crate::config::implementation::KEEPALIVE_LEAST;
use crate::time::{Duration, Instant};

/// What tells one of a peer's two keys from the other, and both from any that it had before:
/// the first four bytes. Whoever makes a key that shares them with one of its own older
/// keys keeps the sessions of that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyMark([u8; 4]);

impl KeyMark {
    pub(super) fn of(key: &PublicKey) -> Self {
        let [a, b, c, d, ..] = key.0;
        Self([a, b, c, d])
    }
}

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
    /// The key. Equal to the first one when only the PSK changes.
    pub key: PublicKey,
    /// See [`PeerKeys::psk`].
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
    /// The PSK; all zero for none.
    pub psk: Secret,
    /// `psk` is a secret of the two devices, from which the PSK of one of the
    /// peer's keys and one of ours follows ([`bind_psk`]). So either side may
    /// rotate, or both at once, and the PSK is never in question.
    pub bound: bool,
    /// A second key while it rotates.
    pub second: Option<SecondPeerKey>,
    /// Persistent keepalive in seconds, for peers that speak WireGuard only. Agents keep
    /// paths warm by other means.
    pub keepalive_after: Option<u16>,
}

impl PeerKeys {
    /// One key, this PSK itself, no persistent keepalive.
    pub const fn new(key: PublicKey, psk: Secret) -> Self {
        Self { key, psk, bound: false, second: None, keepalive_after: None }
    }

    /// Persistent keepalive, no shorter than may be.
    pub(super) fn keepalive(&self) -> Option<Duration> {
        let every = self.keepalive_after?;
        Some(Duration::from_secs(every.into()).max(KEEPALIVE_LEAST))
    }

    /// Which public keys are this peer's.
    pub(super) fn has(&self, key: &PublicKey) -> bool {
        self.key == *key || self.second.as_ref().is_some_and(|second| second.key == *key)
    }

    /// The key of this mark, if it is this peer's.
    pub(super) fn marked(&self, mark: KeyMark) -> Option<&PublicKey> {
        let second = self.second.as_ref().map(|second| &second.key);
        [Some(&self.key), second].into_iter().flatten().find(|key| KeyMark::of(key) == mark)
    }

    /// Whether a key of the one is a key of the other: the same peer, some steps
    /// of its rotation later.
    pub(super) fn continues(&self, before: &Self) -> bool {
        let second = before.second.as_ref().map(|second| second.key);
        self.has(&before.key) || second.is_some_and(|key| self.has(&key))
    }

    fn bind(&self, psk: &Secret, theirs: &PublicKey, ours: &PublicKey) -> Secret {
        if self.bound { bind_psk(psk, theirs, ours) } else { psk.duplicate() }
    }

    /// The PSK of a handshake that the owner of `theirs` started towards our key
    /// `ours`. While only the PSK changes nothing in the message tells which one
    /// is meant: the active one, and the initiator tries both.
    pub(super) fn psk_for(&self, theirs: &PublicKey, ours: &PublicKey) -> Secret {
        let psk = match &self.second {
            Some(second) if second.key == *theirs && self.key != *theirs => &second.psk,
            _ => &self.psk,
        };
        self.bind(psk, theirs, ours)
    }

    /// The PSKs that an answer to our initiation may be made with: the active
    /// pair's, and while only the PSK changes the other one.
    pub(super) fn psks(&self, ours: &PublicKey) -> [Secret; 2] {
        let other = match &self.second {
            Some(second) if second.key == self.key => &second.psk,
            _ => &self.psk,
        };
        [&self.psk, other].map(|psk| self.bind(psk, &self.key, ours))
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
}

impl OwnKeys {
    pub(super) fn new(active: StaticSecret) -> Self {
        Self { active: LocalKey::new(active), second: None }
    }

    pub(super) const fn active(&self) -> &LocalKey {
        &self.active
    }

    /// Takes both keys as they are from now on. Whether the active one changed.
    pub(super) fn set(
        &mut self,
        active: StaticSecret,
        second: Option<(StaticSecret, KeyRole)>,
    ) -> bool {
        let active = LocalKey::new(active);
        let changed = active.public() != self.active.public();
        self.active = active;
        self.second = second.map(|(secret, role)| (LocalKey::new(secret), role));
        changed
    }

    /// The key that was active before, while it is still accepted.
    pub(super) fn previous(&self) -> Option<&LocalKey> {
        let previous = self.second.as_ref().filter(|(_, role)| *role == KeyRole::Previous);
        previous.map(|(key, _)| key)
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
        match (self.active.check_mac1(message), &self.second) {
            (Ok(checked), _) => Ok((OwnKey { key: &self.active, is_active: true }, checked)),
            (Err(HandshakeError::Mac1), Some((key, _))) => {
                Ok((OwnKey { key, is_active: false }, key.check_mac1(message)?))
            }
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

    const OURS: PublicKey = PublicKey([9; 32]);

    fn second(key: u8, psk: u8, role: KeyRole) -> Option<SecondPeerKey> {
        Some(SecondPeerKey { key: PublicKey([key; 32]), psk: Secret([psk; 32]), role, until: None })
    }

    fn chosen(keys: &PeerKeys, theirs: u8) -> u8 {
        keys.psk_for(&PublicKey([theirs; 32]), &OURS).0[0]
    }

    #[test]
    fn the_psk_follows_the_peers_key() {
        let mut keys = PeerKeys::new(PublicKey([1; 32]), Secret([10; 32]));
        assert_eq!(chosen(&keys, 1), 10);
        keys.second = second(2, 20, KeyRole::Next);
        assert_eq!((chosen(&keys, 1), chosen(&keys, 2)), (10, 20));
        assert_eq!(keys.psks(&OURS).map(|psk| psk.0[0]), [10, 10]);
    }

    #[test]
    fn while_only_the_psk_changes_the_initiator_tries_both() {
        let mut keys = PeerKeys::new(PublicKey([1; 32]), Secret([10; 32]));
        for role in [KeyRole::Next, KeyRole::Previous] {
            keys.second = second(1, 20, role);
            assert_eq!(chosen(&keys, 1), 10);
            assert_eq!(keys.psks(&OURS).map(|psk| psk.0[0]), [10, 20]);
        }
    }

    #[test]
    fn a_bound_psk_is_of_two_keys_and_the_same_on_both_sides() {
        let keys = |key: u8| {
            let secret = Secret([10; 32]);
            PeerKeys { bound: true, ..PeerKeys::new(PublicKey([key; 32]), secret) }
        };
        let mut seen = std::collections::BTreeSet::new();
        for (theirs, ours) in [(1, 9), (2, 9), (1, 8), (2, 8)] {
            let (here, there) = (PublicKey([ours; 32]), PublicKey([theirs; 32]));
            let mine = keys(theirs).psk_for(&there, &here);
            assert!(mine.0 == keys(ours).psk_for(&here, &there).0);
            assert!(mine.0 == keys(theirs).psks(&here)[0].0);
            assert!(seen.insert(weft_noise::wg::psk_mark(&mine)), "each pair has its own");
        }
    }
}
