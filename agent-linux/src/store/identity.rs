//! The file `identity`: who this device is, and where its coordinator is.

use std::io;

use serde::{Deserialize, Serialize};
use weft_agent_core::control::{Identity, Membership};
use weft_wire::id::{PublicKey, Secret};
use weft_wire::join::{Address, Carrier, JoinString};
use zeroize::Zeroizing;

use crate::control::way::Way;
use crate::store::Disk;
use crate::store::envelope::{self, Kind, ReadError};
use crate::store::folder::Folder;

/// The file.
pub(crate) const KIND: Kind = Kind { name: "identity", magic: b"WEFTIDEN", format: 2 };

/// The file of a device whose key is not being rotated: as programs from before
/// there was a rotation read and write it, so that one may go back to them.
const FIRST: Kind = Kind { format: 1, ..KIND };

/// Room for the longest content: the identity, four addresses, an account.
const LONGEST: usize = 2_048;

/// How to reach the coordinator: the part of the join string that is no secret
/// of the device, and a foreign broker's account.
#[derive(Serialize, Deserialize)]
pub(crate) struct Home {
    addresses: Vec<(u8, String)>,
    /// SHA-256 of the key that TLS must show, if pinned.
    pub(crate) spki: Option<[u8; 32]>,
    account: Option<(String, String)>,
    /// The enrolment key's id, `key_mfrggzdf2kqw`.
    pub(crate) key: String,
    /// The name that was asked for when joining.
    pub(crate) wanted_name: String,
    /// Unix time in milliseconds of joining, as this machine believed it.
    pub(crate) since_ms: u64,
}

impl Drop for Home {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        if let Some((_, password)) = &mut self.account {
            password.zeroize();
        }
    }
}

impl Home {
    /// What a join string says.
    pub(crate) fn new(join: &JoinString, wanted_name: &str, since_ms: u64) -> Self {
        let address = |address: &Address| (address.carrier as u8, address.authority.to_string());
        let account = join.account.as_ref();
        Self {
            addresses: join.addresses.iter().map(address).collect(),
            spki: join.spki,
            account: account.map(|a| (a.user.to_string(), a.password.to_string())),
            key: join.key.to_string(),
            wanted_name: wanted_name.to_owned(),
            since_ms,
        }
    }

    /// The ways to the coordinator, best first.
    pub(crate) fn ways(&self) -> Vec<Way> {
        let way = |(carrier, authority): &(u8, String)| {
            Some(Way { carrier: Carrier::from_byte(*carrier)?, authority: authority.clone() })
        };
        self.addresses.iter().filter_map(way).collect()
    }

    /// The coordinator's host, as people know it.
    pub(crate) fn host(&self) -> &str {
        self.addresses.first().map_or("", |(_, authority)| {
            let (host, _) = authority.rsplit_once(':').unwrap_or((authority, ""));
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            bare.unwrap_or(host)
        })
    }

    /// User and password at a foreign broker.
    pub(crate) fn account(&self) -> Option<(&str, &str)> {
        self.account.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }
}

/// Why there is no identity.
#[derive(Debug)]
pub(crate) enum IdentityError {
    /// Others may read the file: its mode.
    Open(u32),
    /// The file gave no content.
    Read(ReadError),
}

/// Whether there is an identity at all.
///
/// # Errors
///
/// `PermissionDenied` where this user may not know.
pub(crate) fn exists(folder: &Folder) -> io::Result<bool> {
    Ok(folder.mode_of(KIND.name)?.is_some())
}

/// Writes the file.
///
/// # Errors
///
/// As the file system says; the old file is then untouched.
pub(crate) fn write(disk: &mut impl Disk, identity: &Identity, home: &Home) -> io::Result<()> {
    let mut buffer = Zeroizing::new([0; LONGEST]);
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    if identity.second_wireguard.is_some() {
        let content = postcard::to_slice(&(identity, home), &mut *buffer).map_err(invalid)?;
        return envelope::write(disk, KIND, content);
    }
    let Identity { identity_key, wireguard_key, coordinator, next_coordinator, membership, .. } =
        identity;
    let first = (identity_key, wireguard_key, coordinator, next_coordinator, membership, home);
    let content = postcard::to_slice(&first, &mut *buffer).map_err(invalid)?;
    envelope::write(disk, FIRST, content)
}

/// Reads the file, unless others may read it too.
///
/// # Errors
///
/// [`IdentityError`].
pub(crate) fn read(folder: &Folder) -> Result<(Identity, Home), IdentityError> {
    let mode = folder.mode_of(KIND.name);
    let mode = mode.map_err(|error| IdentityError::Read(ReadError::Io(error)))?;
    if let Some(mode) = mode.filter(|mode| mode & 0o077 != 0) {
        return Err(IdentityError::Open(mode));
    }
    parse(folder).map_err(IdentityError::Read)
}

pub(crate) fn parse(disk: &impl Disk) -> Result<(Identity, Home), ReadError> {
    let (format, content) = envelope::read(disk, KIND)?;
    let decoded = if format == FIRST.format { first(&content) } else { whole(&content) };
    // The checksum was right, so other bytes are not ours.
    decoded.ok_or(ReadError::Corrupt { found: content.len(), expected: content.len() })
}

fn first(content: &[u8]) -> Option<(Identity, Home)> {
    type First = (Secret, Secret, PublicKey, Option<PublicKey>, Membership, Home);
    let (identity_key, wireguard_key, coordinator, next_coordinator, membership, home): First =
        whole(content)?;
    let identity = Identity {
        identity_key,
        wireguard_key,
        coordinator,
        next_coordinator,
        membership,
        second_wireguard: None,
    };
    Some((identity, home))
}

fn whole<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(content) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use weft_agent_core::control::SecondWireguard;
    use weft_noise::entropy::Entropy;
    use weft_wire::id::KeyId;
    use weft_wire::join::{BrokerAccount, EnrolToken};
    use weft_wire::map::SecondKind;

    use super::*;

    struct Counting(u8);

    impl Entropy for Counting {
        fn fill(&mut self, out: &mut [u8]) {
            for byte in out {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
        }
    }

    fn join() -> JoinString {
        let text = |text: &str| heapless::String::try_from(text).unwrap();
        let address = |carrier, authority: &str| Address {
            carrier,
            authority: heapless::String::try_from(authority).unwrap(),
        };
        JoinString {
            coordinator: PublicKey([9; 32]),
            key: KeyId::from_random([1; 8]),
            psk: Secret([2; 32]),
            token: EnrolToken { expiry: 3, mac: weft_wire::id::ShortSecret([4; 16]) },
            addresses: heapless::Vec::from_slice(&[
                address(Carrier::Https, "mesh.example.net:443"),
                address(Carrier::Mqtt, "[2001:db8::1]:7420"),
            ])
            .unwrap(),
            spki: Some([5; 32]),
            account: Some(BrokerAccount { user: text("fleet"), password: text("pass word") }),
        }
    }

    #[test]
    fn an_identity_survives_and_is_refused_once_others_may_read_it() {
        let path = std::env::temp_dir().join(format!("weft-identity-{}", std::process::id()));
        let mut folder = Folder::new(&path);
        folder.create().unwrap();
        assert!(!exists(&folder).unwrap());
        assert!(matches!(read(&folder), Err(IdentityError::Read(ReadError::Missing))));
        let identity = Identity::generate(&join(), &mut Counting(0));
        write(&mut folder, &identity, &Home::new(&join(), "gw-a", 77)).unwrap();
        assert!(exists(&folder).unwrap());
        let (back, home) = read(&folder).ok().unwrap();
        assert_eq!(back.identity_key.0, identity.identity_key.0);
        assert_eq!(back.wireguard_key.0, identity.wireguard_key.0);
        assert_eq!(back.coordinator, identity.coordinator);
        assert!(back.second_wireguard.is_none());
        let ways: Vec<_> = home.ways().iter().map(ToString::to_string).collect();
        assert_eq!(ways, ["https://mesh.example.net:443", "mqtt://[2001:db8::1]:7420"]);
        assert_eq!(home.host(), "mesh.example.net");
        assert_eq!(home.account(), Some(("fleet", "pass word")));
        assert_eq!((home.spki, home.since_ms), (Some([5; 32]), 77));
        let file = folder.path_of(KIND.name);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read(&folder), Err(IdentityError::Open(0o644))));
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn only_a_rotation_needs_the_newer_format() {
        let path = std::env::temp_dir().join(format!("weft-formats-{}", std::process::id()));
        let mut folder = Folder::new(&path);
        folder.create().unwrap();
        let format = |folder: &Folder| envelope::read(folder, KIND).unwrap().0;
        let mut identity = Identity::generate(&join(), &mut Counting(0));
        for key in [None, Some(7), Some(8), None] {
            let second = |n| SecondWireguard { key: Secret([n; 32]), kind: SecondKind::Previous };
            identity.second_wireguard = key.map(second);
            write(&mut folder, &identity, &Home::new(&join(), "gw-a", 77)).unwrap();
            assert_eq!(format(&folder), if key.is_some() { 2 } else { 1 });
            let (back, home) = read(&folder).ok().unwrap();
            assert_eq!(back.wireguard_key.0, identity.wireguard_key.0);
            let second = back.second_wireguard.as_ref();
            assert_eq!(second.map(|second| second.key.0[0]), key);
            assert!(second.is_none_or(|second| second.kind == SecondKind::Previous));
            assert_eq!(home.since_ms, 77);
        }
        std::fs::remove_dir_all(&path).unwrap();
    }
}
