//! What firmware says of itself, and where the coordinator is.

use core::fmt;

use heapless::String;
use weft_agent_core::control::Credentials;
use weft_wire::join::{ADDRESS_LEN, BrokerAccount, Carrier, JoinError, JoinString};

/// The usual UDP port of the tunnel.
pub const PORT: u16 = weft_wire::WIREGUARD_PORT;

/// What is compiled into firmware, or read from where it was provisioned.
#[derive(Clone, Copy)]
pub struct Settings<'a> {
    /// The join string, as `weft-coordinator key create` prints it: `WEFT1…`. The one
    /// secret of these; it is used until the device is a member, and its addresses
    /// afterwards.
    pub join: &'a str,
    /// The name that the device would like on the mesh, a lower-case RFC 1123 label; the
    /// coordinator makes it unique.
    pub name: &'a str,
    /// What tells this chip from others of its kind, for example the eFuse MAC; it never
    /// travels as it is.
    pub serial: &'a [u8],
    /// Chip and board, as people are shown it: `esp32c3`.
    pub platform: &'a str,
    /// UDP port of the tunnel on the local network: [`PORT`] for most. The same one after a
    /// reboot is where peers still send to, and what NAT boxes on the way still let in.
    pub port: u16,
}

/// Why an agent could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartError<S> {
    /// The join string cannot be read.
    Join(JoinError),
    /// The join string has no `mqtt://` address: a chip speaks no TLS.
    NoMqttAddress,
    /// The name is longer than 32 bytes, or no label.
    Name,
    /// The coordinator's key in the join string, or in storage, is no key.
    WeakKey,
    /// Storage cannot be read or written.
    Storage(S),
    /// Storage holds no whole identity although it was written: see
    /// [`crate::storage::Storage::erase`].
    Identity,
}

impl<S: fmt::Debug> fmt::Display for StartError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join(JoinError::NotAJoinString) => {
                f.write_str("this is no join string: it begins with WEFT1; copy it again")
            }
            Self::Join(error) => write!(f, "the join string is damaged ({error:?}): copy it again"),
            Self::NoMqttAddress => f.write_str(
                "the join string has no mqtt:// address: let the coordinator announce one, a \
                 chip speaks no TLS",
            ),
            Self::Name => f.write_str("the name must be a label: a to z, 0 to 9 and -, 32 at most"),
            Self::WeakKey => f.write_str("the coordinator's key is no key: get a new join string"),
            Self::Storage(error) => write!(f, "the flash range does not answer: {error:?}"),
            Self::Identity => f.write_str(
                "the stored identity is damaged, or was kept under another key: erase the flash \
                 range, and the device joins anew",
            ),
        }
    }
}

/// Where the coordinator's broker is, and whose account is used there.
pub(crate) struct Place {
    pub(crate) host: String<ADDRESS_LEN>,
    pub(crate) port: u16,
    /// At a broker that is not the coordinator's.
    account: Option<BrokerAccount>,
}

impl Place {
    /// The first address that is spoken to without TLS.
    pub(crate) fn of(join: &mut JoinString) -> Option<Self> {
        let plain = join.addresses.iter().find(|address| address.carrier == Carrier::Mqtt)?;
        let (host, port) = plain.authority.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = String::try_from(bare.unwrap_or(host)).ok()?;
        Some(Self { host, port: port.parse().ok()?, account: join.account.take() })
    }

    pub(crate) fn user<'a>(&'a self, own: &'a Credentials) -> &'a str {
        self.account.as_ref().map_or(own.user.as_str(), |account| account.user.as_str())
    }

    pub(crate) fn password<'a>(&'a self, own: &'a Credentials) -> &'a [u8] {
        let foreign = self.account.as_ref().map(|account| account.password.as_str());
        foreign.unwrap_or_else(|| own.password.as_str()).as_bytes()
    }
}
