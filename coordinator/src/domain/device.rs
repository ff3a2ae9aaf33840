//! Devices: registered agents, and WireGuard peers without an agent.

use core::fmt;
use core::net::SocketAddr;

use weft_wire::id::{
    DeviceId, Inbox, Instance, KeyId, NAME_LEN, NetworkId, OrganisationId, PublicKey, Revision,
};
pub use weft_wire::item::Standing;

use super::rotation::Rotation;
use super::tags::TagSet;
use super::time::UnixMs;

/// What moves a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Weft's own tunnel in user space.
    User,
    /// The kernel's WireGuard.
    Kernel,
    /// A microcontroller's network stack.
    Chip,
}

/// What a device's network and build can do, as it said when it registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Bits of [`weft_wire::item::family`].
    pub families: u8,
    /// Bit `n - 1` for carrier `n` of [`weft_wire::join::Carrier`].
    pub carriers: u8,
    /// Largest packet of the mesh interface, in bytes.
    pub mtu: u16,
    /// What moves packets.
    pub backend: Backend,
    /// Peers it can hold at once.
    pub peer_slots: u16,
    /// Routes it can hold per peer.
    pub peer_routes: u8,
    /// Filter rules it can hold.
    pub rules: u8,
    /// The agent's version.
    pub agent: String,
    /// Target and board.
    pub platform: String,
    /// Local addresses of its WireGuard socket.
    pub endpoints: Vec<SocketAddr>,
}

/// What kind of device it is, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs our agent.
    Agent(Box<Agent>),
    /// Speaks plain WireGuard only.
    WireGuard {
        /// Where it listens, if it has a fixed place.
        endpoint: Option<SocketAddr>,
        /// Whether pairs with it use a PSK.
        psk: bool,
    },
}

/// What only a device with our agent has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its control-channel key, for life.
    pub identity: PublicKey,
    /// Salted hash of machine id, board serial or eFuse MAC.
    pub fingerprint: [u8; 32],
    /// Where it receives.
    pub inbox: Inbox,
    /// Network and build.
    pub abilities: Abilities,
    /// Which key let it in; its name even when the key is gone.
    pub key: (KeyId, String),
    /// Version of the master that its own PSK is derived from.
    pub master: u8,
    /// From where it registered, as the carrier saw it.
    pub enrolled_from: Option<String>,
    /// Newest revision of the map that it said it has applied.
    pub applied: Revision,
    /// The process that speaks for it, once one was heard.
    pub instance: Option<Instance>,
    /// How often its identity changed hands between machines.
    pub duplicates: u32,
    /// Whether copies of it are quarantined.
    pub has_copies: bool,
    /// Bytes a day that it may spend on all but payload where they cost money;
    /// `None` = as it likes.
    pub data_budget: Option<u64>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// Its network.
    pub network: NetworkId,
    /// Its name, unique in the network.
    pub name: String,
    /// Its WireGuard key, the one that peers use.
    pub wg_key: PublicKey,
    /// How that one changes.
    pub rotation: Rotation,
    /// Host number: both addresses follow from it. `None` before approval.
    pub host: Option<u32>,
    /// Member, pending, blocked…
    pub standing: Standing,
    /// Since when.
    pub standing_since: UnixMs,
    /// An operator's sentence on the standing, or empty.
    pub standing_reason: String,
    /// Its tags.
    pub tags: TagSet,
    /// When it came.
    pub created: UnixMs,
    /// Counts every change of this row, for ETags.
    pub version: u64,
    /// What only its kind has.
    pub kind: Kind,
}

impl Device {
    /// Whether peers may know it: an active member.
    pub fn is_active(&self) -> bool {
        self.standing == Standing::Active
    }

    /// The agent's part, if it runs one.
    pub const fn agent(&self) -> Option<&Agent> {
        match &self.kind {
            Kind::Agent(agent) => Some(agent),
            Kind::WireGuard { .. } => None,
        }
    }
}

/// What an operator (or, for `Leave`, the device itself) decides on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A pending device becomes a member.
    Approve,
    /// A pending device is told no.
    Reject {
        /// The sentence it is told.
        reason: String,
    },
    /// A member is out until unblocked.
    Block {
        /// The sentence it is told.
        reason: String,
    },
    /// A blocked device is a member again.
    Unblock,
    /// Its copies are copies no more: what two machines did is forgotten.
    Release {
        /// The device is there now, and so is still the first of the two.
        is_there: bool,
    },
    /// Another name.
    Rename {
        /// A lower-case RFC 1123 label.
        name: String,
    },
    /// Another budget of bytes a day; its own may be tighter.
    Budget {
        /// For all but payload, where bytes cost money; `None` = none.
        bytes: Option<u64>,
    },
    /// Out for good; a tombstone stays.
    Delete,
    /// The device itself leaves; no tombstone, it may enrol again. Only a member
    /// or one that waits for approval can.
    Leave,
}

impl Decision {
    /// The word in audit rows and JSON.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject { .. } => "reject",
            Self::Block { .. } => "block",
            Self::Unblock => "unblock",
            Self::Release { .. } => "release",
            Self::Rename { .. } => "rename",
            Self::Budget { .. } => "budget",
            Self::Delete => "delete",
            Self::Leave => "leave",
        }
    }

    /// The standing after this decision, where it changes one.
    ///
    /// # Errors
    ///
    /// The standing that does not allow it.
    pub fn standing_after(&self, standing: Standing) -> Result<Option<Standing>, Standing> {
        use Standing::{Active, Blocked, Pending, Rejected};
        match (self, standing) {
            (Self::Approve, Pending | Rejected) | (Self::Unblock, Blocked) => Ok(Some(Active)),
            (Self::Reject { .. }, Pending) => Ok(Some(Rejected)),
            (Self::Block { .. }, Active) => Ok(Some(Blocked)),
            // Who is out stays on record: leaving would end the block.
            (Self::Leave, Active | Pending)
            | (
                Self::Rename { .. } | Self::Budget { .. } | Self::Delete | Self::Release { .. },
                _,
            ) => Ok(None),
            (_, standing) => Err(standing),
        }
    }
}

/// The word for a standing in lists and JSON.
pub const fn standing_word(standing: Standing) -> &'static str {
    match standing {
        Standing::Active => "active",
        Standing::Pending => "pending",
        Standing::Blocked => "blocked",
        Standing::Quarantined => "quarantined",
        Standing::Rejected => "rejected",
    }
}

/// Reads what [`standing_word`] writes.
pub fn standing_from_word(word: &str) -> Option<Standing> {
    Some(match word {
        "active" => Standing::Active,
        "pending" => Standing::Pending,
        "blocked" => Standing::Blocked,
        "quarantined" => Standing::Quarantined,
        "rejected" => Standing::Rejected,
        _ => return None,
    })
}

/// A peer without an agent, to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWireGuard {
    /// Its network.
    pub network: NetworkId,
    /// Its name; taken = an error, the operator chose it.
    pub name: String,
    /// Its WireGuard key.
    pub wg_key: PublicKey,
    /// Where it listens, if it has a fixed place.
    pub endpoint: Option<SocketAddr>,
    /// Whether pairs with it use a PSK.
    pub psk: bool,
    /// Its tags.
    pub tags: TagSet,
}

/// A deleted device: its keys do not come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The id it had.
    pub device: DeviceId,
    /// The network it was in.
    pub network: NetworkId,
    /// The name it had.
    pub name: String,
    /// Its control-channel key, if it ran an agent.
    pub identity: Option<PublicKey>,
    /// When it was deleted.
    pub at: UnixMs,
}

/// The `n`-th attempt at a unique name: `gw-b`, `gw-b-2`, `gw-b-3` …, cut so
/// that it stays a label of at most 32 characters.
pub fn numbered_name(wanted: &str, n: u32) -> String {
    if n <= 1 {
        return wanted.to_owned();
    }
    let suffix = format!("-{n}");
    let keep = wanted.len().min(NAME_LEN.saturating_sub(suffix.len()));
    let base = wanted.get(..keep).unwrap_or(wanted).trim_end_matches('-');
    format!("{base}{suffix}")
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent(_) => "agent",
            Self::WireGuard { .. } => "wireguard",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::id::is_name;

    #[test]
    fn numbered_names_stay_labels() {
        assert_eq!(numbered_name("gw-b", 1), "gw-b");
        assert_eq!(numbered_name("gw-b", 2), "gw-b-2");
        let long = "a".repeat(NAME_LEN);
        for n in [2, 10, 99_999] {
            let name = numbered_name(&long, n);
            assert!(is_name(&name) && name.ends_with(&format!("-{n}")), "{name}");
        }
        assert_eq!(
            numbered_name(&format!("{}-b", "a".repeat(29)), 12),
            format!("{}-12", "a".repeat(29))
        );
    }

    #[test]
    fn decisions_need_the_right_standing() {
        let reason = String::new;
        assert_eq!(Decision::Approve.standing_after(Standing::Pending), Ok(Some(Standing::Active)));
        assert_eq!(Decision::Approve.standing_after(Standing::Blocked), Err(Standing::Blocked));
        let block = Decision::Block { reason: reason() };
        assert_eq!(block.standing_after(Standing::Active), Ok(Some(Standing::Blocked)));
        assert_eq!(block.standing_after(Standing::Pending), Err(Standing::Pending));
        let reject = Decision::Reject { reason: reason() };
        assert_eq!(reject.standing_after(Standing::Active), Err(Standing::Active));
        assert_eq!(Decision::Delete.standing_after(Standing::Rejected), Ok(None));
        for standing in [Standing::Active, Standing::Pending] {
            assert_eq!(Decision::Leave.standing_after(standing), Ok(None));
        }
        for standing in [Standing::Blocked, Standing::Rejected, Standing::Quarantined] {
            assert_eq!(Decision::Leave.standing_after(standing), Err(standing));
        }
    }

    #[test]
    fn standings_have_words() {
        for standing in [
            Standing::Active,
            Standing::Pending,
            Standing::Blocked,
            Standing::Quarantined,
            Standing::Rejected,
        ] {
            assert_eq!(standing_from_word(standing_word(standing)), Some(standing));
        }
        assert_eq!(standing_from_word("lost"), None);
    }
}
