//! How a device's WireGuard key changes while its tunnels go on.
//!
//! ```text
//! Ask ► the device makes a key ► Report ► peers accept both ► Activate
//!     ► peers use the new one, accept the one before ► Forget
//! ```
//!
//! Never more than two keys: what is reported takes the place of the one before.

use core::time::Duration;

use weft_wire::id::{PublicKey, Revision};
use weft_wire::map::SecondKind;

use super::network::ADDRESS_REST;
use super::time::UnixMs;

/// The next key comes into use after this, whoever has not confirmed it.
pub const PATIENCE: Duration = Duration::from_hours(24);

/// A key that is accepted beside the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondKey {
    /// The key.
    pub key: PublicKey,
    /// Next or previous.
    pub kind: SecondKind,
    /// Since when.
    pub since: UnixMs,
    /// When it is forgotten; of the previous one.
    pub until: Option<UnixMs>,
}

/// Where a device's rotation stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// When the active key came into use.
    pub since: UnixMs,
    /// Counts rotations that were asked for.
    pub number: u32,
    /// Since when the device is to make its next key.
    pub wanted: Option<UnixMs>,
    /// The second key.
    pub second: Option<SecondKey>,
    /// Revision of the map that tells the last step.
    pub revision: Revision,
}

impl Rotation {
    /// Whether one is under way: asked for, or announced and not active yet.
    pub fn is_open(&self) -> bool {
        self.wanted.is_some() || self.next().is_some()
    }

    /// The next key, once it is announced.
    pub fn next(&self) -> Option<&SecondKey> {
        self.second.as_ref().filter(|second| second.kind == SecondKind::Next)
    }

    /// The key before, while it is still accepted.
    pub fn previous(&self) -> Option<&SecondKey> {
        self.second.as_ref().filter(|second| second.kind == SecondKind::Previous)
    }

    /// The number that the device is told, 0 = nothing is asked for.
    pub fn asked(&self) -> u32 {
        self.wanted.map_or(0, |_| self.number)
    }
}

/// One step of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An operator, or the key's age, asks for another key.
    Ask,
    /// The device holds a new key, for the rotation of this number; 0 = it holds
    /// this key and no other.
    Report(u32, PublicKey),
    /// Peers use the next key from now on.
    Activate,
    /// Things stay as they are: the next key is given up.
    Withdraw,
    /// The key before is accepted no more.
    Forget,
}

impl Step {
    /// The action in audit rows.
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Ask => "device.rotate-key",
            Self::Report(..) => "device.key-reported",
            Self::Activate => "device.key-active",
            Self::Withdraw => "device.key-withdrawn",
            Self::Forget => "device.key-forgotten",
        }
    }

    /// Whether peers are told of it; else the device alone.
    pub const fn concerns_peers(&self) -> bool {
        !matches!(self, Self::Ask | Self::Forget)
    }
}

/// Why a step is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// A rotation is under way.
    Open,
    /// No rotation is under way.
    Closed,
    /// It was taken before, or is of a rotation that is over.
    Stale,
}

/// The active key and the rotation after a step; `lease` is the network's.
///
/// # Errors
///
/// [`NotTaken`].
pub fn after(
    (active, rotation): (PublicKey, Rotation),
    step: Step,
    lease: Duration,
    now: UnixMs,
) -> Result<(PublicKey, Rotation), NotTaken> {
    let mut next = rotation;
    match step {
        Step::Ask if rotation.is_open() => return Err(NotTaken::Open),
        Step::Ask => {
            next.number += 1;
            next.wanted = Some(now);
        }
        Step::Report(0, key) => {
            let known = key == active && rotation.second.is_none();
            if known {
                return Err(NotTaken::Stale);
            }
            next.second = None;
            if key != active {
                next.since = now;
            }
            return Ok((key, next));
        }
        Step::Report(number, key) => {
            if rotation.asked() != number || key == active {
                return Err(NotTaken::Stale);
            }
            next.wanted = None;
            next.second = Some(SecondKey { key, kind: SecondKind::Next, since: now, until: None });
        }
        Step::Activate => {
            let key = rotation.next().ok_or(NotTaken::Closed)?.key;
            let until = now.after(lease + ADDRESS_REST);
            next.since = now;
            next.second = Some(SecondKey {
                key: active,
                kind: SecondKind::Previous,
                since: now,
                until: Some(until),
            });
            return Ok((key, next));
        }
        Step::Withdraw if !rotation.is_open() => return Err(NotTaken::Closed),
        Step::Withdraw => {
            next.wanted = None;
            next.second = rotation.previous().copied();
        }
        Step::Forget => {
            rotation.previous().ok_or(NotTaken::Stale)?;
            next.second = None;
        }
    }
    Ok((active, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_hours(168);
    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);
    const C: PublicKey = PublicKey([3; 32]);

    struct Device((PublicKey, Rotation));

    impl Device {
        fn take(&mut self, step: Step, now: u64) -> Result<(), NotTaken> {
            self.0 = after(self.0, step, LEASE, UnixMs(now))?;
            Ok(())
        }

        fn keys(&self) -> (PublicKey, Option<(PublicKey, SecondKind)>) {
            let (active, rotation) = self.0;
            (active, rotation.second.map(|second| (second.key, second.kind)))
        }
    }

    #[test]
    fn a_rotation_goes_its_way_and_another_follows() {
        let mut device = Device((A, Rotation::default()));
        assert_eq!(device.take(Step::Activate, 1), Err(NotTaken::Closed));
        device.take(Step::Ask, 1).unwrap();
        assert_eq!(device.take(Step::Ask, 2), Err(NotTaken::Open));
        assert_eq!(device.take(Step::Report(2, B), 3), Err(NotTaken::Stale));
        assert_eq!(device.take(Step::Report(1, A), 3), Err(NotTaken::Stale));
        device.take(Step::Report(1, B), 3).unwrap();
        assert_eq!(device.keys(), (A, Some((B, SecondKind::Next))));
        assert_eq!(device.take(Step::Report(1, B), 4), Err(NotTaken::Stale), "told twice");
        assert_eq!(device.take(Step::Ask, 4), Err(NotTaken::Open));
        device.take(Step::Activate, 5).unwrap();
        assert_eq!(device.keys(), (B, Some((A, SecondKind::Previous))));
        let until = UnixMs(5).after(Duration::from_hours(192));
        assert_eq!(device.0.1.second.unwrap().until, Some(until));
        assert_eq!(device.0.1.since, UnixMs(5));
        // The next one takes the place of the one before when it is reported.
        device.take(Step::Ask, 6).unwrap();
        assert_eq!(device.keys(), (B, Some((A, SecondKind::Previous))));
        device.take(Step::Report(2, C), 7).unwrap();
        assert_eq!(device.keys(), (B, Some((C, SecondKind::Next))));
        device.take(Step::Activate, 8).unwrap();
        device.take(Step::Forget, 9).unwrap();
        assert_eq!(device.keys(), (C, None));
        assert_eq!(device.take(Step::Forget, 9), Err(NotTaken::Stale));
    }

    #[test]
    fn what_is_withdrawn_leaves_what_was() {
        let mut device = Device((A, Rotation::default()));
        assert_eq!(device.take(Step::Withdraw, 1), Err(NotTaken::Closed));
        device.take(Step::Ask, 1).unwrap();
        device.take(Step::Withdraw, 2).unwrap();
        // A report that was on its way comes too late.
        assert_eq!(device.take(Step::Report(1, B), 3), Err(NotTaken::Stale));
        device.take(Step::Ask, 4).unwrap();
        device.take(Step::Report(2, B), 5).unwrap();
        device.take(Step::Withdraw, 6).unwrap();
        assert_eq!(device.keys(), (A, None));
        assert!(!device.0.1.is_open());
    }

    #[test]
    fn a_device_that_lost_a_key_is_believed() {
        let mut device = Device((A, Rotation::default()));
        assert_eq!(device.take(Step::Report(0, A), 1), Err(NotTaken::Stale));
        device.take(Step::Ask, 1).unwrap();
        device.take(Step::Report(1, B), 2).unwrap();
        device.take(Step::Report(0, A), 3).unwrap();
        assert_eq!(device.keys(), (A, None));
        device.take(Step::Report(0, C), 4).unwrap();
        assert_eq!(device.keys(), (C, None));
        assert_eq!(device.0.1.since, UnixMs(4));
    }
}
