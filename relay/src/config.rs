//! What an operator decides: flags, then `relay.toml`, then defaults.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::proto::turn::{AddressPrefix, Policy, Settings, SharedSecret};
use crate::state::Membership;
use crate::{Certificate, Config, RelayAddress};

/// The file that is read when nobody names one; it may be missing.
pub const DEFAULT_FILE: &str = "/etc/weft/relay.toml";
/// Where a relay that joined keeps who it is.
pub const DEFAULT_STATE: &str = "/var/lib/weft-relay";
/// Where commands of this machine are heard.
pub const DEFAULT_SOCKET: &str = "/run/weft-relay/socket";
/// The shortest secret, in characters.
const MIN_SECRET: usize = 16;

/// Why there is no configuration.
#[derive(Debug)]
pub struct ConfigError {
    /// `config.value`, `config.file`, `config.secret`.
    pub code: &'static str,
    /// One sentence.
    pub message: String,
    /// Where, and what the reader said.
    pub cause: Option<String>,
    /// What to do.
    pub attempt: String,
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The file.
    pub config: Option<PathBuf>,
    /// UDP addresses, instead of the file's.
    pub listen: Vec<SocketAddr>,
    /// TCP addresses, instead of the file's.
    pub listen_tcp: Vec<SocketAddr>,
    /// TLS addresses, instead of the file's.
    pub listen_tls: Vec<SocketAddr>,
    /// Addresses of allocations, instead of the file's.
    pub relay: Vec<String>,
    /// Files with a secret each, instead of the file's.
    pub secret_files: Vec<PathBuf>,
    /// Address of metrics, instead of the file's.
    pub metrics: Option<SocketAddr>,
    /// Folder of a relay that joined, instead of the file's.
    pub state: Option<PathBuf>,
    /// Socket for commands, instead of the file's.
    pub socket: Option<PathBuf>,
}

/// A text that is read by its `FromStr`.
struct Text<T>(T);

trait Example {
    const EXAMPLE: &'static str;
}

impl Example for SocketAddr {
    const EXAMPLE: &'static str =
        "an address and a port, as \"203.0.113.10:3478\" or \"[::]:3478\"";
}

impl Example for IpAddr {
    const EXAMPLE: &'static str = "an address, as \"203.0.113.11\"";
}

impl Example for AddressPrefix {
    const EXAMPLE: &'static str = "an address or a range, as \"10.0.0.0/8\"";
}

impl Example for RelayText {
    const EXAMPLE: &'static str = "an address, as \"203.0.113.10\", or the public one and the own behind a NAT, \
         as \"203.0.113.10/10.0.0.5\"";
}

impl Example for PortsText {
    const EXAMPLE: &'static str = "two ports above 1023, as \"49152-65535\"";
}

impl<'de, T: FromStr + Example> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |_| D::Error::custom(format!("\"{text}\": expected {}", T::EXAMPLE));
        text.parse().map(Self).map_err(wrong)
    }
}

struct RelayText(RelayAddress);

impl FromStr for RelayText {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (public, bind) = text.split_once('/').unwrap_or((text, text));
        let (public, bind): (IpAddr, IpAddr) =
            (public.parse().map_err(|_| ())?, bind.parse().map_err(|_| ())?);
        let fits = public.is_ipv4() == bind.is_ipv4() && !public.is_unspecified();
        if fits { Ok(Self(RelayAddress { bind, public })) } else { Err(()) }
    }
}

struct PortsText(u16, u16);

impl FromStr for PortsText {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (low, high) = text.split_once('-').ok_or(())?;
        let (low, high) = (low.parse().map_err(|_| ())?, high.parse().map_err(|_| ())?);
        if low >= 1_024 && low < high { Ok(Self(low, high)) } else { Err(()) }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    listen: Option<Vec<Text<SocketAddr>>>,
    listen_tcp: Vec<Text<SocketAddr>>,
    listen_tls: Vec<Text<SocketAddr>>,
    tls: TlsSection,
    relay: RelaySection,
    auth: AuthSection,
    discovery: DiscoverySection,
    limits: LimitsSection,
    peers: PeersSection,
    drain: DrainSection,
    metrics: MetricsSection,
    coordinator: CoordinatorSection,
    control: ControlSection,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RelaySection {
    addresses: Vec<Text<RelayText>>,
    ports: Option<Text<PortsText>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsSection {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AuthSection {
    realm: Option<String>,
    secret_files: Vec<PathBuf>,
    nonce_s: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DiscoverySection {
    other_port: Option<u16>,
    other_address: Option<Text<IpAddr>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsSection {
    allocations: Option<u32>,
    allocations_per_user: Option<u32>,
    allocations_per_organisation: Option<u32>,
    permissions: Option<u16>,
    channels: Option<u16>,
    lifetime_s: Option<u32>,
    bytes_per_s: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PeersSection {
    allow: Vec<Text<AddressPrefix>>,
    deny: Vec<Text<AddressPrefix>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DrainSection {
    alternate: Option<Text<SocketAddr>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MetricsSection {
    listen: Option<Text<SocketAddr>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CoordinatorSection {
    join_file: Option<PathBuf>,
    state: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ControlSection {
    socket: Option<PathBuf>,
}

/// Flags and file, read and not yet put together.
pub struct Loaded<'a> {
    path: PathBuf,
    document: Document,
    flags: &'a Flags,
}

/// Reads flags and file.
///
/// # Errors
///
/// [`ConfigError`] for a file that cannot be read or does not say what can be.
pub fn load(flags: &Flags) -> Result<Loaded<'_>, ConfigError> {
    let path = flags.config.as_deref().unwrap_or_else(|| Path::new(DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && flags.config.is_none() => {
            String::new()
        }
        Err(error) => return Err(unreadable(path, "config.file", &error)),
    };
    parse(path, &text, flags)
}

fn unreadable(path: &Path, code: &'static str, error: &dyn Display) -> ConfigError {
    ConfigError {
        code,
        message: format!("{} cannot be read", path.display()),
        cause: Some(error.to_string()),
        attempt: format!("ls -l {}", path.display()),
    }
}

/// Reads the file's text.
fn parse<'a>(path: &Path, text: &str, flags: &'a Flags) -> Result<Loaded<'a>, ConfigError> {
    let document: Document = toml::from_str(text).map_err(|error| ConfigError {
        code: "config.value",
        message: format!("{} does not say what can be", path.display()),
        cause: Some(error.to_string().trim_end().to_owned()),
        attempt: format!("weft-relay --config {} --check", path.display()),
    })?;
    Ok(Loaded { path: path.to_owned(), document, flags })
}

impl Loaded<'_> {
    /// Where a relay that joined keeps who it is.
    pub fn state(&self) -> PathBuf {
        let file = self.document.coordinator.state.as_ref();
        self.flags.state.as_ref().or(file).cloned().unwrap_or_else(|| DEFAULT_STATE.into())
    }

    /// The file that holds a join string, for a relay that did not join yet.
    pub fn join_file(&self) -> Option<&Path> {
        self.document.coordinator.join_file.as_deref()
    }

    /// Where commands of this machine are heard, and whether somebody said so.
    pub fn socket(&self) -> (PathBuf, bool) {
        let said = self.flags.socket.as_ref().or(self.document.control.socket.as_ref());
        (said.cloned().unwrap_or_else(|| DEFAULT_SOCKET.into()), said.is_some())
    }

    /// What the relay starts with. One that joined needs neither a secret nor an
    /// address: the coordinator gave the one and saw the other.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for secrets that are none, and for what does not fit
    /// together.
    pub fn config(self, joined: Option<&Membership>) -> Result<Config, ConfigError> {
        let Self { path, document, flags } = self;
        merge(&path, document, flags, joined)
    }
}

fn merge(
    path: &Path,
    document: Document,
    flags: &Flags,
    joined: Option<&Membership>,
) -> Result<Config, ConfigError> {
    let mut turn = settings(&document);
    let files = if flags.secret_files.is_empty() {
        &document.auth.secret_files
    } else {
        &flags.secret_files
    };
    turn.secrets = files.iter().map(|file| secret(file)).collect::<Result<_, _>>()?;
    turn.secrets.extend(joined.map(Membership::shared_secret));
    let mut relay = relay_addresses(&document, flags)?;
    if relay.is_empty()
        && let Some(seen) = joined.and_then(|joined| joined.seen)
    {
        relay.push(RelayAddress::seen(seen));
    }
    // Whoever only looks at settings does not join.
    let will_join = joined.is_none() && document.coordinator.join_file.is_some();
    if !will_join && relay.is_empty() != turn.secrets.is_empty() {
        let (has, lacks, add) = if relay.is_empty() {
            ("a secret", "an address to relay from", "--relay-address 203.0.113.10")
        } else {
            ("an address to relay from", "a secret", "--secret-file /etc/weft/relay.secret")
        };
        return Err(ConfigError {
            code: "config.half",
            message: format!("there is {has} and not {lacks}: TURN needs both, STUN neither"),
            cause: None,
            attempt: format!("weft-relay {add}"),
        });
    }
    let certificate = match (document.tls.certificate, document.tls.key) {
        (Some(chain), Some(key)) => Some(Certificate { chain, key }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(ConfigError {
                code: "config.half",
                message: "tls.certificate and tls.key belong together: both, or neither".to_owned(),
                cause: None,
                attempt: format!("weft-relay --config {} --check", path.display()),
            });
        }
    };
    let chosen = |flags: &[SocketAddr], texts: Vec<Text<SocketAddr>>| match flags {
        [] => texts.into_iter().map(|text| text.0).collect(),
        flags => flags.to_vec(),
    };
    let listen = document.listen.map(|list| list.into_iter().map(|text| text.0).collect());
    let default = || vec![SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 3_478))];
    Ok(Config {
        listen: if flags.listen.is_empty() {
            listen.unwrap_or_else(default)
        } else {
            flags.listen.clone()
        },
        tcp: chosen(&flags.listen_tcp, document.listen_tcp),
        tls: chosen(&flags.listen_tls, document.listen_tls),
        certificate,
        other_port: document.discovery.other_port,
        other_address: document.discovery.other_address.map(|text| text.0),
        relay,
        metrics: flags.metrics.or_else(|| document.metrics.listen.map(|text| text.0)),
        turn,
    })
}

fn settings(document: &Document) -> Settings {
    let limits = &document.limits;
    let usual = Settings::default();
    let list = |texts: &[Text<AddressPrefix>]| texts.iter().map(|text| text.0).collect();
    let ports = document.relay.ports.as_ref();
    Settings {
        realm: document.auth.realm.clone().unwrap_or(usual.realm),
        nonce_s: document.auth.nonce_s.unwrap_or(usual.nonce_s),
        ports: ports.map_or(usual.ports, |Text(PortsText(low, high))| *low..=*high),
        policy: Policy { allow: list(&document.peers.allow), deny: list(&document.peers.deny) },
        max_allocations: limits.allocations.unwrap_or(usual.max_allocations),
        max_per_user: limits.allocations_per_user.unwrap_or(usual.max_per_user),
        max_per_organisation: limits
            .allocations_per_organisation
            .unwrap_or(usual.max_per_organisation),
        max_permissions: limits.permissions.unwrap_or(usual.max_permissions),
        max_channels: limits.channels.unwrap_or(usual.max_channels),
        max_lifetime_s: limits.lifetime_s.unwrap_or(usual.max_lifetime_s),
        bytes_per_s: limits.bytes_per_s.unwrap_or(usual.bytes_per_s),
        alternate: document.drain.alternate.as_ref().map(|text| text.0),
        ..Settings::default()
    }
}

fn relay_addresses(document: &Document, flags: &Flags) -> Result<Vec<RelayAddress>, ConfigError> {
    let wrong = |message: String| ConfigError {
        code: "config.value",
        message,
        cause: None,
        attempt: "weft-relay --relay-address 203.0.113.10".to_owned(),
    };
    let mut found = Vec::new();
    for text in &flags.relay {
        let read = text.parse::<RelayText>().map_err(|()| {
            wrong(format!("--relay-address \"{text}\": expected {}", RelayText::EXAMPLE))
        })?;
        found.push(read.0);
    }
    if flags.relay.is_empty() {
        found.extend(document.relay.addresses.iter().map(|text| text.0.0));
    }
    for v4 in [true, false] {
        if found.iter().filter(|address| address.public.is_ipv4() == v4).count() > 1 {
            return Err(wrong(
                "allocations have one address of each family, more are given".to_owned(),
            ));
        }
    }
    Ok(found)
}

/// A file with a secret is its first line.
fn secret(path: &Path) -> Result<SharedSecret, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map(zeroize::Zeroizing::new)
        .map_err(|error| unreadable(path, "config.secret", &error))?;
    let line = text.lines().next().unwrap_or_default().trim();
    if line.len() < MIN_SECRET {
        return Err(ConfigError {
            code: "config.secret",
            message: format!(
                "the secret in {} has {} characters, at least {MIN_SECRET} are needed",
                path.display(),
                line.len()
            ),
            cause: None,
            attempt: format!("openssl rand -hex 32 > {}", path.display()),
        });
    }
    Ok(SharedSecret::new(line.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        parse(Path::new("relay.toml"), text, &Flags::default())?.config(None)
    }

    #[test]
    fn a_whole_file_is_read_and_flags_win() {
        let file = std::env::temp_dir().join(format!("weft-relay-secret-{}", std::process::id()));
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let text = format!(
            "listen = [\"127.0.0.1:1\"]\n[relay]\naddresses = [\"203.0.113.10/10.0.0.5\"]\n\
             ports = \"50000-50100\"\n[auth]\nrealm = \"r\"\nsecret_files = [{file:?}]\n\
             [discovery]\nother_port = 3479\n[limits]\nallocations_per_user = 2\n\
             [peers]\nallow = [\"10.0.0.0/8\"]\n[metrics]\nlisten = \"127.0.0.1:9\"\n"
        );
        let config = read(&text).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(config.relay[0].bind.to_string(), "10.0.0.5");
        assert_eq!(config.turn.ports, 50_000..=50_100);
        assert_eq!((config.turn.max_per_user, config.turn.secrets.len()), (2, 1));
        let listen: Vec<SocketAddr> = vec!["127.0.0.1:2".parse().unwrap()];
        let flags = Flags { listen: listen.clone(), ..Flags::default() };
        let loaded = parse(Path::new("relay.toml"), &text, &flags).unwrap();
        assert_eq!(loaded.config(None).unwrap().listen, listen);
        std::fs::write(&file, "short\n").unwrap();
        assert_eq!(read(&text).err().unwrap().code, "config.secret");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read(&text).err().unwrap().code, "config.secret");
    }

    #[test]
    fn one_that_joined_needs_no_settings() {
        let joined = Membership {
            name: "fra1".to_owned(),
            addresses: Vec::new(),
            spki: None,
            pin: weft_wire::id::PublicKey([1; 32]),
            next_pin: None,
            identity: weft_wire::id::Secret([2; 32]),
            psk: weft_wire::id::Secret([3; 32]),
            master: 0,
            secret: weft_wire::id::Secret([4; 32]),
            seen: Some([127, 0, 0, 1].into()),
        };
        let config = |text: &str| {
            let flags = Flags::default();
            parse(Path::new("relay.toml"), text, &flags).unwrap().config(Some(&joined)).unwrap()
        };
        let own = config("");
        assert_eq!((own.turn.secrets.len(), own.relay[0].public), (1, [127, 0, 0, 1].into()));
        assert_eq!(own.relay[0].bind, own.relay[0].public, "it is this machine's");
        // Behind a NAT it is another machine's.
        let elsewhere = RelayAddress::seen([192, 0, 2, 1].into());
        assert!(elsewhere.bind.is_unspecified());
        let told = config("[relay]\naddresses = [\"203.0.113.10\"]\n");
        assert_eq!(told.relay[0].public.to_string(), "203.0.113.10");
        let flags = Flags { state: Some("/a".into()), ..Flags::default() };
        let text =
            "[coordinator]\nstate = \"/b\"\njoin_file = \"/c\"\n[control]\nsocket = \"/d\"\n";
        let loaded = parse(Path::new("relay.toml"), text, &flags).unwrap();
        assert_eq!((loaded.state(), loaded.socket()), ("/a".into(), ("/d".into(), true)));
        assert_eq!(loaded.join_file(), Some(Path::new("/c")));
    }

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        for (text, place, word) in [
            ("lisen = []\n", "line 1", "unknown field `lisen`"),
            ("\nlisten = [\"1.2.3.4\"]\n", "line 2", "expected an address and a port"),
            ("[relay]\nports = \"9-8\"\n", "line 2", "two ports above 1023"),
            ("[peers]\nallow = [\"10.0.0.0/40\"]\n", "line 2", "an address or a range"),
            ("[limits]\nallocations = -1\n", "line 2", "u32"),
        ] {
            let error = read(text).err().unwrap();
            let cause = error.cause.unwrap();
            assert!(cause.contains(place) && cause.contains(word), "{cause}");
        }
        let half = read("[relay]\naddresses = [\"203.0.113.10\"]\n").err().unwrap();
        assert_eq!(half.code, "config.half");
        let two =
            read("[relay]\naddresses = [\"203.0.113.10\", \"203.0.113.11\"]\n").err().unwrap();
        assert!(two.message.contains("one address of each family"));
    }
}
