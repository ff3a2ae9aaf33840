//! The device's own WireGuard keys: never more than two.
//!
//! ```text
//! OwnKeys{wanted} ► make the next key ► storage ► KeyReport ► OwnKeys{second: Next}
//!                 ► OwnKeys{active: the next, second: Previous} ► OwnKeys{second: None}
//! ```
//!
//! The coordinator says what peers know, as state in the map, and the device
//! brings what it holds into line with that. So a page that is lost, doubled or
//! skipped over changes nothing, and a start at any point goes on from the
//! cache or asks again. A key is reported only when storage holds it: peers
//! never hear of a key that a power cut could take.

use weft_noise::key::StaticSecret;
use weft_wire::id::PublicKey;
use weft_wire::map::{KeyReport, OwnKeys, SecondKind};

use super::Control;
use super::identity::{Identity, SecondWireguard};
use super::inbound::Notice;
use super::request::Ask;
use crate::entropy::Entropy;

/// What is to be done about own keys.
#[derive(Debug, Default)]
pub(super) struct KeyWork {
    /// The rotation that a next key is to be made for, or 0.
    make: u32,
    /// What is to be reported: rotation and key.
    report: Option<(u32, PublicKey)>,
    /// Changes of the identity: made, handed to storage, and stored.
    changes: u32,
    asked: u32,
    stored: u32,
}

impl KeyWork {
    const fn is_stored(&self) -> bool {
        self.stored == self.changes
    }
}

/// The public key of a private one that is kept as bytes.
pub(super) fn public(secret: &weft_wire::id::Secret) -> PublicKey {
    StaticSecret::from_bytes(secret.0).public()
}

/// What [`align`] found.
#[derive(Debug, PartialEq, Eq)]
enum Aligned {
    /// All of it holds. What of a wanted rotation is still to be done: the key
    /// to report, or `None` to make one.
    Well(Option<PublicKey>),
    /// The device holds no key that it would need; only this one.
    Lost(PublicKey),
}

/// Brings an identity into line with what the coordinator says. The second
/// value: whether it changed.
fn align(identity: &mut Identity, told: &OwnKeys) -> (Aligned, bool) {
    let mut ours = public(&identity.wireguard_key);
    let mut second = identity.second_wireguard.as_ref().map(|own| (public(&own.key), own.kind));
    let before = (ours, second);
    if second.is_some_and(|(key, _)| key == told.active) {
        if let Some(own) = &mut identity.second_wireguard {
            core::mem::swap(&mut own.key, &mut identity.wireguard_key);
        }
        second = Some((core::mem::replace(&mut ours, told.active), SecondKind::Previous));
    }
    let needs = told.second.filter(|told| told.kind == SecondKind::Next).map(|told| told.key);
    let lost = ours != told.active
        || needs.is_some_and(|key| second.is_none_or(|(second, _)| second != key));
    let fresh = second.filter(|&(_, kind)| kind == SecondKind::Next && told.wanted > 0);
    second = match (told.second, second) {
        _ if lost => None,
        (Some(told), Some((key, _))) if told.key == key => Some((key, told.kind)),
        // One that was made and not reported yet.
        _ => fresh,
    };
    match (second, &mut identity.second_wireguard) {
        (Some((_, kind)), Some(own)) => own.kind = kind,
        (_, place) => *place = None,
    }
    let fresh = second.and_then(|(key, kind)| (kind == SecondKind::Next).then_some(key));
    let found = if lost { Aligned::Lost(ours) } else { Aligned::Well(fresh) };
    (found, before != (ours, second))
}

impl<const FRAME: usize> Control<FRAME> {
    /// The coordinator says what peers know of our keys.
    pub(super) fn apply_own_keys(&mut self, told: &OwnKeys) {
        if told.active == PublicKey::ZERO {
            return;
        }
        let (aligned, changed) = align(&mut self.identity, told);
        let work = &mut self.keys;
        (work.make, work.report) = match aligned {
            Aligned::Lost(only) => (0, Some((0, only))),
            Aligned::Well(Some(key)) if told.wanted > 0 => (0, Some((told.wanted, key))),
            Aligned::Well(_) => (told.wanted, None),
        };
        // An older request says something else.
        self.requests.abandon(Ask::Key);
        if changed {
            self.identity_changed();
            self.notify(Notice::OwnKeys);
        }
    }

    /// The identity is to be stored.
    pub(super) fn identity_changed(&mut self) {
        self.keys.changes = self.keys.changes.wrapping_add(1);
        self.notify(Notice::IdentityChanged);
    }

    /// The owner is about to store the identity as it is now.
    pub const fn handle_identity_asked(&mut self) {
        self.keys.asked = self.keys.changes;
    }

    /// Storage holds the identity, at least as it was when the owner was asked
    /// to store it.
    pub const fn handle_identity_stored(&mut self) {
        self.keys.stored = self.keys.asked;
    }

    /// Whether [`Control::work_on_keys`] has something to do.
    pub(super) fn has_key_work(&self) -> bool {
        let reports =
            self.keys.report.is_some() && self.keys.is_stored() && !self.requests.is_open(Ask::Key);
        self.keys.make > 0 || reports
    }

    /// Makes the next key, or reports it once storage holds it.
    pub(super) fn work_on_keys(&mut self, entropy: &mut dyn Entropy) {
        let rotation = core::mem::take(&mut self.keys.make);
        if rotation > 0 {
            let next = StaticSecret::generate(entropy);
            self.keys.report = Some((rotation, next.public()));
            // The one before the active one goes for it.
            self.identity.second_wireguard =
                Some(SecondWireguard { key: next.to_secret(), kind: SecondKind::Next });
            self.identity_changed();
            self.notify(Notice::OwnKeys);
        }
        if self.has_key_work() {
            self.requests.open(Ask::Key, entropy);
        }
    }

    /// The request that is due.
    pub(super) fn key_report(&self, request: u32) -> Option<KeyReport> {
        let (rotation, key) = self.keys.report?;
        Some(KeyReport { request, rotation, key })
    }

    /// The coordinator has the report, or does not want it.
    pub(super) const fn end_key_report(&mut self) {
        self.keys.report = None;
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::id::Secret;
    use weft_wire::map::OwnSecond;

    use super::*;
    use crate::control::Membership;

    fn key(n: u8) -> PublicKey {
        public(&Secret([n; 32]))
    }

    /// An identity with these private keys.
    fn holds(active: u8, second: Option<(u8, SecondKind)>) -> Identity {
        Identity {
            identity_key: Secret([77; 32]),
            wireguard_key: Secret([active; 32]),
            coordinator: PublicKey([78; 32]),
            next_coordinator: None,
            membership: Membership::Enrolling(crate::control::Enrolment {
                key: weft_wire::id::KeyId::from_random([1; 8]),
                psk: Secret([2; 32]),
                token_expiry: 0,
                token: weft_wire::id::ShortSecret([3; 16]),
                host: 0,
            }),
            second_wireguard: second
                .map(|(n, kind)| SecondWireguard { key: Secret([n; 32]), kind }),
        }
    }

    fn told(active: u8, second: Option<(u8, SecondKind)>, wanted: u32) -> OwnKeys {
        let second = second.map(|(n, kind)| OwnSecond { key: key(n), kind });
        OwnKeys { active: key(active), second, wanted }
    }

    type Keys = (u8, Option<(u8, SecondKind)>);

    fn keys_of(identity: &Identity) -> Keys {
        let second = identity.second_wireguard.as_ref();
        (identity.wireguard_key.0[0], second.map(|own| (own.key.0[0], own.kind)))
    }

    #[test]
    fn holds_what_peers_know() {
        use SecondKind::{Next, Previous};
        let cases: &[(Keys, OwnKeys, Keys, Aligned)] = &[
            // Nothing to do.
            ((1, None), told(1, None, 0), (1, None), Aligned::Well(None)),
            // Wanted: nothing made yet; made; made for an earlier wish.
            ((1, None), told(1, None, 5), (1, None), Aligned::Well(None)),
            (
                (1, Some((2, Next))),
                told(1, None, 5),
                (1, Some((2, Next))),
                Aligned::Well(Some(key(2))),
            ),
            // The one before is dropped when another rotation starts.
            (
                (2, Some((1, Previous))),
                told(2, Some((1, Previous)), 5),
                (2, Some((1, Previous))),
                Aligned::Well(None),
            ),
            (
                (2, Some((3, Next))),
                told(2, Some((1, Previous)), 5),
                (2, Some((3, Next))),
                Aligned::Well(Some(key(3))),
            ),
            // Withdrawn.
            ((1, Some((2, Next))), told(1, None, 0), (1, None), Aligned::Well(None)),
            ((2, Some((3, Next))), told(2, Some((1, Previous)), 0), (2, None), Aligned::Well(None)),
            // Announced, active, over; also when a step was slept through.
            (
                (1, Some((2, Next))),
                told(1, Some((2, Next)), 0),
                (1, Some((2, Next))),
                Aligned::Well(Some(key(2))),
            ),
            (
                (1, Some((2, Next))),
                told(2, Some((1, Previous)), 0),
                (2, Some((1, Previous))),
                Aligned::Well(None),
            ),
            ((1, Some((2, Next))), told(2, None, 0), (2, None), Aligned::Well(None)),
            ((2, Some((1, Previous))), told(2, None, 0), (2, None), Aligned::Well(None)),
            ((1, Some((2, Next))), told(2, None, 6), (2, None), Aligned::Well(None)),
            // A disk that went back in time.
            ((1, None), told(1, Some((2, Next)), 0), (1, None), Aligned::Lost(key(1))),
            ((1, None), told(2, Some((1, Previous)), 0), (1, None), Aligned::Lost(key(1))),
            (
                (1, Some((2, Next))),
                told(4, Some((3, Previous)), 7),
                (1, None),
                Aligned::Lost(key(1)),
            ),
        ];
        for (number, (before, told, after, found)) in cases.iter().enumerate() {
            let mut identity = holds(before.0, before.1);
            let (aligned, changed) = align(&mut identity, told);
            assert_eq!((keys_of(&identity), &aligned), (*after, found), "case {number}");
            assert_eq!(changed, before != after, "case {number}");
            let (again, changed) = align(&mut identity, told);
            assert_eq!(
                (keys_of(&identity), &again, changed),
                (*after, found, false),
                "case {number}"
            );
        }
    }
}
