//! The coordinator's secrets, and everything that is derived from them when it
//! is needed. None of it is in the database.

use weft_noise::key::StaticSecret;
use weft_noise::{mac, seed};
use weft_wire::frame::PskKind;
use weft_wire::id::{DeviceId, Inbox, KeyId, NetworkId, PublicKey, Secret, ShortSecret};
use zeroize::Zeroizing;

/// Versions of the PSK master that fit the high half of HELLO's kind byte.
pub const MASTERS: usize = 16;

/// What the key file holds. No `Debug`, no `Clone`; erased when dropped.
pub struct Secrets {
    /// Counts the coordinator's key changes, from 0.
    pub generation: u32,
    /// The static key that devices pin.
    pub current: StaticSecret,
    /// The one that comes after it.
    pub next: StaticSecret,
    /// Masters of enrolment and device PSKs by version; the last is for new
    /// keys and devices.
    pub masters: Vec<(u8, Secret)>,
    /// Master of the WireGuard PSKs between devices.
    pub pair_master: Secret,
    /// Behind every MQTT password.
    pub broker: Secret,
}

impl Secrets {
    /// Derives all of a new installation from its seed.
    pub fn from_seed(seed: &Secret) -> Self {
        Self {
            generation: 0,
            current: seed::static_key(seed, 0),
            next: seed::static_key(seed, 1),
            masters: vec![(0, seed::psk_master(seed, 0))],
            pair_master: seed::pair_master(seed),
            broker: seed::broker_secret(seed),
        }
    }

    /// The public key that devices pin.
    pub fn public(&self) -> PublicKey {
        self.current.public()
    }

    /// Version of the master for new keys and devices.
    pub fn master_version(&self) -> u8 {
        self.masters.last().map_or(0, |(version, _)| *version)
    }

    fn master(&self, version: u8) -> Option<&Secret> {
        self.masters.iter().find(|(known, _)| *known == version).map(|(_, master)| master)
    }

    /// The PSK of an enrolment key; `None` = its master is gone.
    pub fn enrolment_psk(&self, key: KeyId, version: u8) -> Option<Secret> {
        let master = self.master(version)?;
        Some(mac::psk(master, version, PskKind::Enrolment, &key.to_bytes()))
    }

    /// The control PSK of a device; `None` = its master is gone.
    pub fn device_psk(&self, identity: &PublicKey, version: u8) -> Option<Secret> {
        let master = self.master(version)?;
        Some(mac::psk(master, version, PskKind::Device, &identity.0))
    }

    /// The secret of two devices, of which their WireGuard PSKs are made.
    pub fn pair_secret(
        &self,
        network: NetworkId,
        a: DeviceId,
        b: DeviceId,
        generation: u32,
    ) -> Secret {
        mac::pair_secret(&self.pair_master, network, a, b, generation)
    }

    /// The MQTT password of an enrolled device; `expiry` in Unix seconds.
    pub fn broker_password(&self, inbox: &Inbox, expiry: u32) -> ShortSecret {
        mac::broker_password(&self.broker, inbox, expiry)
    }

    /// The MQTT password of an enrolling device; `expiry` in Unix seconds.
    pub fn enrol_password(&self, key: KeyId, expiry: u32) -> ShortSecret {
        mac::enrol_password(&self.broker, key, expiry)
    }

    /// The key file's body: everything above in one order, integers
    /// little-endian.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Large enough that it never moves and leaves a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(BODY_MAX));
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.current.to_secret().0);
        bytes.extend_from_slice(&self.next.to_secret().0);
        bytes.extend_from_slice(&self.pair_master.0);
        bytes.extend_from_slice(&self.broker.0);
        bytes.push(u8::try_from(self.masters.len()).unwrap_or(u8::MAX));
        for (version, master) in &self.masters {
            bytes.push(*version);
            bytes.extend_from_slice(&master.0);
        }
        bytes
    }

    /// Reads what [`Secrets::to_bytes`] writes; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let generation = u32::from_le_bytes(*take(&mut rest)?);
        let current = StaticSecret::from_bytes(*take(&mut rest)?);
        let next = StaticSecret::from_bytes(*take(&mut rest)?);
        let pair_master = Secret(*take(&mut rest)?);
        let broker = Secret(*take(&mut rest)?);
        let [count] = *take::<1>(&mut rest)?;
        let mut masters = Vec::with_capacity(MASTERS);
        for _ in 0..count {
            let [version] = *take::<1>(&mut rest)?;
            masters.push((version, Secret(*take(&mut rest)?)));
        }
        let sound = rest.is_empty() && (1..=MASTERS).contains(&masters.len());
        sound.then_some(Self { generation, current, next, masters, pair_master, broker })
    }
}

const BODY_MAX: usize = 4 + 4 * 32 + 1 + MASTERS * 33;

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip() {
        let secrets = Secrets::from_seed(&Secret([7; 32]));
        let bytes = secrets.to_bytes();
        let back = Secrets::from_bytes(&bytes).unwrap();
        assert_eq!(*back.to_bytes(), *bytes);
        assert_eq!(back.public(), secrets.public());
        for cut in 0..bytes.len() {
            assert!(Secrets::from_bytes(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Secrets::from_bytes(&longer).is_none());
    }

    #[test]
    fn installations_share_no_secret() {
        let (a, b) = (Secret([1; 32]), Secret([2; 32]));
        let (a, b) = (Secrets::from_seed(&a), Secrets::from_seed(&b));
        let key = KeyId::from_random([3; 8]);
        assert_ne!(a.public(), b.public());
        assert_ne!(a.public(), a.next.public());
        assert_ne!(a.enrolment_psk(key, 0).unwrap().0, b.enrolment_psk(key, 0).unwrap().0);
        assert_ne!(a.enrol_password(key, 9).0, b.enrol_password(key, 9).0);
        assert!(a.enrolment_psk(key, 1).is_none(), "no such master");
    }
}
