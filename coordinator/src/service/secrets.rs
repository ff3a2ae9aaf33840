//! The coordinator's secrets, and everything that is derived from them when it
//! is needed. None of it is in the database.

use weft_noise::key::StaticSecret;
use weft_noise::{mac, seed};
use weft_wire::base64;
use weft_wire::frame::PskKind;
use weft_wire::id::{DeviceId, Inbox, KeyId, NetworkId, PublicKey, Secret, ShortSecret};
use zeroize::Zeroizing;

use crate::domain::key_change::GENERATIONS;

/// Versions of the PSK master that fit the high half of HELLO's kind byte.
pub const MASTERS: usize = 16;
/// Keys before the current one that are remembered, newest first.
pub const RETIRED: usize = 32;

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
    /// Public keys that were current before, newest first: a database that knows
    /// one of them belongs to this key file. Their secrets are gone.
    pub retired: Vec<PublicKey>,
}

/// How a key file and a database stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Of one generation.
    Same,
    /// The database knows a key from before: a switch was cut short, or an older
    /// backup was put back.
    Behind,
    /// The database knows the next key as its own: the file is an older copy.
    Ahead,
    /// They are of two installations.
    Foreign,
}

/// Why the key cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSwitched {
    /// The seed is that of another installation.
    OtherSeed,
    /// There is no generation after this one.
    LastGeneration,
}

impl Secrets {
    /// Derives all of a new installation from its seed.
    pub fn from_seed(seed: &Secret) -> Self {
        Self::at_generation(seed, 0)
    }

    /// Derives all of an installation whose key was changed so often. The same
    /// bytes as of the file that the changes led to: what a change leaves behind
    /// hangs on the seed and the number alone.
    pub fn at_generation(seed: &Secret, generation: u32) -> Self {
        let before = (0..generation).rev().take(RETIRED);
        Self {
            generation,
            current: seed::static_key(seed, generation),
            next: seed::static_key(seed, generation.saturating_add(1)),
            masters: vec![(0, seed::psk_master(seed, 0))],
            pair_master: seed::pair_master(seed),
            broker: seed::broker_secret(seed),
            retired: before.map(|number| seed::static_key(seed, number).public()).collect(),
        }
    }

    /// The generation in which a key of this seed is the current one.
    pub fn generation_of(seed: &Secret, key: &PublicKey) -> Option<u32> {
        (0..=GENERATIONS).find(|number| seed::static_key(seed, *number).public() == *key)
    }

    /// What the key file holds once the next key is the current one. The seed,
    /// which is in no file, gives the key after it; masters stay as they are.
    ///
    /// # Errors
    ///
    /// [`NotSwitched`].
    pub fn switched(&self, seed: &Secret) -> Result<Self, NotSwitched> {
        let generation = self.generation + 1;
        if generation > GENERATIONS {
            return Err(NotSwitched::LastGeneration);
        }
        let after = Self::at_generation(seed, generation);
        let known = seed::static_key(seed, self.generation).public() == self.public()
            && after.public() == self.next.public();
        if !known {
            return Err(NotSwitched::OtherSeed);
        }
        let masters = self.masters.iter().map(|(version, master)| (*version, master.duplicate()));
        Ok(Self {
            masters: masters.collect(),
            pair_master: self.pair_master.duplicate(),
            broker: self.broker.duplicate(),
            ..after
        })
    }

    /// How the database of this owner stands to this key file.
    pub fn fit(&self, owner: &PublicKey) -> Fit {
        if *owner == self.public() {
            Fit::Same
        } else if self.retired.contains(owner) {
            Fit::Behind
        } else if *owner == self.next.public() {
            Fit::Ahead
        } else {
            Fit::Foreign
        }
    }

    /// The public key that devices pin.
    pub fn public(&self) -> PublicKey {
        self.current.public()
    }

    /// The public key of this generation or, for any other number, of the next.
    pub fn pinned(&self, generation: u32) -> PublicKey {
        if generation == self.generation { self.public() } else { self.next.public() }
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

    /// The MQTT password of an enrolling device whose join string pins the key
    /// of this generation; `expiry` in Unix seconds.
    pub fn enrol_password(&self, key: KeyId, generation: u32, expiry: u32) -> ShortSecret {
        mac::enrol_password(&mac::enrol_secret(&self.broker, generation), key, expiry)
    }

    /// Whether `mac` is such a password of a key that is answered: the current
    /// or the next one. Compares in constant time.
    pub fn is_enrol_password(&self, key: KeyId, expiry: u32, mac: &[u8; 16]) -> bool {
        [self.generation, self.generation.saturating_add(1)]
            .into_iter()
            .any(|number| mac::verify(&self.enrol_password(key, number, expiry).0, mac))
    }

    /// The PSK of a relay's join string; `None` = its master is gone.
    pub fn relay_enrolment_psk(&self, key: KeyId, version: u8) -> Option<Secret> {
        Some(mac::relay_enrolment_psk(self.master(version)?, version, key))
    }

    /// The control PSK of a relay; `None` = its master is gone.
    pub fn relay_psk(&self, identity: &PublicKey, version: u8) -> Option<Secret> {
        Some(mac::relay_psk(self.master(version)?, version, identity))
    }

    /// What one relay makes its users' passwords with; `None` = its master is
    /// gone.
    pub fn secret_of_relay(&self, identity: &PublicKey, version: u8) -> Option<Secret> {
        Some(mac::relay_secret(self.master(version)?, version, identity))
    }

    /// What the relay inside the coordinator shares with it, in Base64.
    pub fn relay_secret(&self) -> Zeroizing<String> {
        let master = self.masters.last().map_or(&self.broker, |(_, master)| master);
        let secret = Zeroizing::new(mac::keyed_hash(&master.0, &[b"weft relay v1"]));
        Zeroizing::new(base64::encode(&secret).to_string())
    }

    /// The key file's format. Before the first change it is the one that older
    /// versions of this program read too.
    pub const fn format(&self) -> u8 {
        if self.retired.is_empty() { 1 } else { 2 }
    }

    /// The key file's body: everything above in one order, integers
    /// little-endian. Format 1 ends before the retired keys.
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
        if !self.retired.is_empty() {
            bytes.push(u8::try_from(self.retired.len()).unwrap_or(u8::MAX));
            self.retired.iter().for_each(|key| bytes.extend_from_slice(&key.0));
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
        let retired = if rest.is_empty() { Vec::new() } else { take_retired(&mut rest)? };
        let sound = rest.is_empty()
            && (1..=MASTERS).contains(&masters.len())
            && generation <= GENERATIONS
            && retired.len() == RETIRED.min(usize::try_from(generation).unwrap_or(usize::MAX));
        sound.then_some(Self { generation, current, next, masters, pair_master, broker, retired })
    }
}

const BODY_MAX: usize = 4 + 4 * 32 + 1 + MASTERS * 33 + 1 + RETIRED * 32;

fn take_retired(rest: &mut &[u8]) -> Option<Vec<PublicKey>> {
    let [count] = *take::<1>(rest)?;
    if count == 0 {
        // Without any it is format 1, which has no count.
        return None;
    }
    (0..count).map(|_| take(rest).copied().map(PublicKey)).collect()
}

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
        survives(&Secrets::from_seed(&Secret([7; 32])));
        // Cut before the retired keys it looks like format 1, of a generation
        // that it cannot have.
        survives(&Secrets::at_generation(&Secret([7; 32]), 3));
    }

    fn survives(secrets: &Secrets) {
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

    /// What `recover` rebuilds must open what a switch wrote years before.
    #[test]
    fn a_seed_gives_the_same_file_in_every_version() {
        let seed = Secret(core::array::from_fn(|at| u8::try_from(at).unwrap()));
        let prints = [0, 1, 2, 40].map(|generation| {
            let secrets = Secrets::at_generation(&seed, generation);
            let print = mac::hash(&[&secrets.to_bytes()[..]]);
            let hex: String = print[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{generation} {} {hex}", mac::fingerprint(&secrets.public()))
        });
        assert_eq!(
            prints,
            [
                "0 DB2A-DU2K-FVSX-6AET f97c87ad55f03278",
                "1 KHKZ-A7XD-MNSK-YPV3 642b36c64a710018",
                "2 ZS7I-E5FJ-DJSF-JDPS 3c65dbe1b4a31af7",
                "40 JJOY-KMPP-7POO-BD37 a7684c915ca13d6d",
            ]
        );
    }

    #[test]
    fn a_switch_leads_where_recovery_leads() {
        let seed = Secret([7; 32]);
        let mut secrets = Secrets::from_seed(&seed);
        assert_eq!(secrets.format(), 1);
        for generation in 1..=u32::try_from(RETIRED + 2).unwrap() {
            let after = secrets.switched(&seed).unwrap();
            assert_eq!((after.generation, after.format()), (generation, 2));
            assert_eq!(after.public(), secrets.next.public());
            assert_eq!(*after.to_bytes(), *Secrets::at_generation(&seed, generation).to_bytes());
            assert_eq!(
                *Secrets::from_bytes(&after.to_bytes()).unwrap().to_bytes(),
                *after.to_bytes()
            );
            assert_eq!(after.fit(&after.public()), Fit::Same);
            assert_eq!(after.fit(&secrets.public()), Fit::Behind);
            assert_eq!(secrets.fit(&after.public()), Fit::Ahead);
            assert_eq!(after.fit(&PublicKey([9; 32])), Fit::Foreign);
            assert_eq!(Secrets::generation_of(&seed, &after.public()), Some(generation));
            assert_eq!(secrets.switched(&Secret([8; 32])).err(), Some(NotSwitched::OtherSeed));
            secrets = after;
        }
        assert_eq!(secrets.retired.len(), RETIRED, "the file does not grow without end");
        let last = Secrets { generation: GENERATIONS, ..secrets };
        assert_eq!(last.switched(&seed).err(), Some(NotSwitched::LastGeneration));
    }

    #[test]
    fn masters_outlast_a_switch() {
        let seed = Secret([7; 32]);
        let mut secrets = Secrets::from_seed(&seed);
        secrets.masters.push((1, Secret([8; 32])));
        let after = secrets.switched(&seed).unwrap();
        assert_eq!(after.master_version(), 1);
        let key = KeyId::from_random([3; 8]);
        for version in 0..2 {
            let psk = |secrets: &Secrets| secrets.enrolment_psk(key, version).unwrap().0;
            assert_eq!(psk(&after), psk(&secrets));
        }
        let inbox = Inbox([1; 16]);
        assert_eq!(after.broker_password(&inbox, 9).0, secrets.broker_password(&inbox, 9).0);
        assert_eq!(after.pair_master.0, secrets.pair_master.0);
    }

    #[test]
    fn a_join_string_lets_in_until_its_key_is_given_up() {
        let seed = Secret([7; 32]);
        let key = KeyId::from_random([3; 8]);
        let made = Secrets::from_seed(&seed);
        let [now, announced, later] = [0, 1, 2].map(|number| made.enrol_password(key, number, 9).0);
        let let_in = |generation| {
            let secrets = Secrets::at_generation(&seed, generation);
            [now, announced, later].map(|mac| secrets.is_enrol_password(key, 9, &mac))
        };
        assert_eq!(let_in(0), [true, true, false]);
        assert_eq!(let_in(1), [false, true, true]);
        assert!(!made.is_enrol_password(key, 8, &now), "another expiry");
    }

    #[test]
    fn installations_share_no_secret() {
        let (a, b) = (Secret([1; 32]), Secret([2; 32]));
        let (a, b) = (Secrets::from_seed(&a), Secrets::from_seed(&b));
        let key = KeyId::from_random([3; 8]);
        assert_ne!(a.public(), b.public());
        assert_ne!(a.public(), a.next.public());
        assert_ne!(a.enrolment_psk(key, 0).unwrap().0, b.enrolment_psk(key, 0).unwrap().0);
        assert_ne!(a.enrol_password(key, 0, 9).0, b.enrol_password(key, 0, 9).0);
        assert!(a.enrolment_psk(key, 1).is_none(), "no such master");
    }
}
