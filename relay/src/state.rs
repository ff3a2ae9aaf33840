//! What a relay that joined keeps: who it is, and who is denied. Both files are
//! their owner's alone and are replaced as a whole.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_wire::base64;
use weft_wire::id::{DeviceId, Epoch, OrganisationId, PublicKey, Secret};
use zeroize::{Zeroize as _, Zeroizing};

use crate::proto::denied::Denied;
use crate::proto::turn::SharedSecret;

/// The file of who it is.
const IDENTITY: &str = "identity.toml";
/// The file of who is denied.
const DENIED: &str = "denied";
/// What stands above the identity.
const HEAD: &str = "# Made by weft-relay join. Whoever reads this can be this relay.\n";

/// Who a relay is, to its coordinator.
pub struct Membership {
    /// Its name.
    pub name: String,
    /// Where the coordinator takes posts: `host:port`, best first.
    pub addresses: Vec<String>,
    /// SHA-256 of the key that TLS must show there, if that is pinned.
    pub spki: Option<[u8; 32]>,
    /// The coordinator's key.
    pub pin: PublicKey,
    /// The one that it will have after that, if it was announced.
    pub next_pin: Option<PublicKey>,
    /// The private half of its control-channel key.
    pub identity: Secret,
    /// Its PSK.
    pub psk: Secret,
    /// Version of the master that the PSK is derived from.
    pub master: u8,
    /// What users' passwords are made with.
    pub secret: Secret,
    /// Where the coordinator saw it.
    pub seen: Option<IpAddr>,
}

/// The file. Its texts of secrets are erased by [`Drop`].
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: String,
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spki: Option<String>,
    pin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_pin: Option<String>,
    identity: String,
    psk: String,
    master: u8,
    secret: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<IpAddr>,
}

impl Drop for Document {
    fn drop(&mut self) {
        self.identity.zeroize();
        self.psk.zeroize();
        self.secret.zeroize();
    }
}

fn bytes(text: &str) -> io::Result<[u8; 32]> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a key in it is none");
    base64::decode(text).ok_or_else(wrong)
}

impl Membership {
    /// Reads it; `None` = nobody joined with this folder.
    ///
    /// # Errors
    ///
    /// What the system says, or what is wrong with the file.
    pub fn load(folder: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(folder.join(IDENTITY)) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let document: Document = toml::from_str(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.message()))?;
        let key = |text: &Option<String>| text.as_deref().map(bytes).transpose();
        Ok(Some(Self {
            name: document.name.clone(),
            addresses: document.addresses.clone(),
            spki: key(&document.spki)?,
            pin: PublicKey(bytes(&document.pin)?),
            next_pin: key(&document.next_pin)?.map(PublicKey),
            identity: Secret(bytes(&document.identity)?),
            psk: Secret(bytes(&document.psk)?),
            master: document.master,
            secret: Secret(bytes(&document.secret)?),
            seen: document.seen,
        }))
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        let text = |bytes: &[u8; 32]| base64::encode(bytes).to_string();
        let document = Document {
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            spki: self.spki.as_ref().map(text),
            pin: text(&self.pin.0),
            next_pin: self.next_pin.as_ref().map(|pin| text(&pin.0)),
            identity: text(&self.identity.0),
            psk: text(&self.psk.0),
            master: self.master,
            secret: text(&self.secret.0),
            seen: self.seen,
        };
        let body = Zeroizing::new(toml::to_string(&document).map_err(io::Error::other)?);
        replace(folder, IDENTITY, Zeroizing::new(format!("{HEAD}{}", &*body)).as_bytes())
    }

    /// The secret as TURN's REST scheme has it: a text.
    pub fn shared_secret(&self) -> SharedSecret {
        SharedSecret::new(Zeroizing::new(base64::encode(&self.secret.0).to_string()).as_bytes())
    }

    /// The keys that the coordinator may have, the likeliest first.
    pub fn pins(&self) -> Vec<PublicKey> {
        [Some(self.pin), self.next_pin].into_iter().flatten().collect()
    }
}

/// Reads who is denied; an empty list if there is none, or none that can be read:
/// the coordinator tells it anew.
pub fn load_denied(folder: &Path) -> Denied {
    fs::read_to_string(folder.join(DENIED)).ok().and_then(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &str) -> Option<Denied> {
    let mut lines = text.lines();
    let (epoch, revision) = lines.next()?.split_once(' ')?;
    let keys = lines.map(|line| {
        let (device, organisation) = line.split_once(' ')?;
        Some((DeviceId(device.parse().ok()?), OrganisationId(organisation.parse().ok()?)))
    });
    let keys: Option<Vec<_>> = keys.collect();
    Some(Denied::restored(Epoch(epoch.parse().ok()?), revision.parse().ok()?, keys?))
}

/// Writes who is denied.
///
/// # Errors
///
/// What the system says.
pub fn save_denied(folder: &Path, denied: &Denied) -> io::Result<()> {
    let (epoch, revision) = denied.held();
    let mut text = format!("{} {revision}\n", epoch.0);
    for (device, organisation) in denied.keys() {
        // Writing into a string does not fail.
        let _ = writeln!(text, "{} {}", device.0, organisation.0);
    }
    replace(folder, DENIED, text.as_bytes())
}

/// Puts a file in the place of the one that is there, or leaves that.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let hidden: PathBuf = folder.join(format!(".{name}.new"));
    // One that a crash left behind may have another mode.
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&hidden, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_kept_is_its_owners_and_comes_back() {
        let folder = std::env::temp_dir().join(format!("weft-relay-state-{}", std::process::id()));
        assert!(Membership::load(&folder).unwrap().is_none());
        let membership = Membership {
            name: "fra1".to_owned(),
            addresses: vec!["mesh.example.net:7420".to_owned()],
            spki: Some([1; 32]),
            pin: PublicKey([2; 32]),
            next_pin: None,
            identity: Secret([3; 32]),
            psk: Secret([4; 32]),
            master: 5,
            secret: Secret([6; 32]),
            seen: Some([203, 0, 113, 10].into()),
        };
        membership.save(&folder).unwrap();
        let back = Membership::load(&folder).unwrap().unwrap();
        assert_eq!((back.name.as_str(), back.master, back.seen), ("fra1", 5, membership.seen));
        assert_eq!((back.pins(), back.spki), (vec![membership.pin], membership.spki));
        assert_eq!((back.identity.0, back.psk.0, back.secret.0), ([3; 32], [4; 32], [6; 32]));
        let mode = |name| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(IDENTITY), 0o600);

        assert_eq!(load_denied(&folder).held(), (Epoch(0), 0));
        let keys = [(DeviceId(7), OrganisationId(1)), (DeviceId(8), OrganisationId(1))];
        save_denied(&folder, &Denied::restored(Epoch(9), 44, keys)).unwrap();
        let back = load_denied(&folder);
        assert_eq!((back.held(), back.keys().collect::<Vec<_>>()), ((Epoch(9), 44), keys.to_vec()));
        fs::write(folder.join(DENIED), "9 44\n7 one\n").unwrap();
        assert_eq!(load_denied(&folder).held(), (Epoch(0), 0), "damaged is none");
        fs::write(folder.join(IDENTITY), "name = 7\n").unwrap();
        assert_eq!(Membership::load(&folder).err().unwrap().kind(), io::ErrorKind::InvalidData);
        fs::remove_dir_all(&folder).unwrap();
    }
}
