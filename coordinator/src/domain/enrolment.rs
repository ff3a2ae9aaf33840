//! Taking a device in: what it asks, what it gets, why it is refused.

use weft_wire::id::{DeviceId, Inbox, KeyId, NetworkId, PublicKey, is_name};

use super::device::{Abilities, Device};
use super::key::EnrolmentKey;
use super::network::Network;
use super::time::UnixMs;

/// A device that asks to be taken in. Its identity was proved by the sealed
/// channel's handshake, and so was its knowledge of the key's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// The enrolment key it came with.
    pub key: KeyId,
    /// Its control-channel key.
    pub identity: PublicKey,
    /// Its WireGuard key.
    pub wg_key: PublicKey,
    /// Salted hash of machine id, board serial or eFuse MAC.
    pub fingerprint: [u8; 32],
    /// The name it would like.
    pub name: String,
    /// Host number it held before (restored database), or 0.
    pub host_hint: u32,
    /// Network and build.
    pub abilities: Abilities,
    /// A random inbox, used if the device is new.
    pub inbox: Inbox,
    /// Version of the master that its own PSK is derived from, if it is new.
    pub master: u8,
    /// From where it came, as the carrier saw it.
    pub from: Option<String>,
}

impl Enrolment {
    /// Whether name and abilities are possible at all.
    ///
    /// # Errors
    ///
    /// [`Refused::Malformed`].
    pub fn check(&self) -> Result<(), Refused> {
        // Both are shown on terminals.
        let shown = [&self.abilities.agent, &self.abilities.platform];
        let possible = is_name(&self.name)
            && !shown.iter().any(|text| text.chars().any(char::is_control))
            && (1_280..=9_000).contains(&self.abilities.mtu)
            // Without a rule nobody reaches it and it reaches nobody.
            && self.abilities.rules > 0
            && self.wg_key != PublicKey::ZERO
            && self.wg_key != self.identity;
        if possible { Ok(()) } else { Err(Refused::Malformed) }
    }

    /// Whether it brings another WireGuard key or other abilities than this
    /// device, its own, is known with.
    pub fn differs(&self, known: &Device) -> bool {
        known.wg_key != self.wg_key
            || known.agent().is_some_and(|agent| agent.abilities != self.abilities)
    }
}

/// A device that was taken in, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The device; its standing says whether it is a member already.
    pub device: Device,
    /// Its network.
    pub network: Network,
    /// The key it came with, this use counted.
    pub key: EnrolmentKey,
    /// Whether it is new; `false` = the same answer again.
    pub new: bool,
}

/// A device that a restored backup does not know. Its handshake proved that this
/// coordinator took it in once: its PSK can come from nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// What it says about itself. It came with no enrolment key: that one is of
    /// no meaning.
    pub enrolment: Enrolment,
    /// The id it had.
    pub device: DeviceId,
    /// The network it was in.
    pub network: NetworkId,
}

/// A device that was taken back, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The device: it waits for an operator.
    pub device: Device,
    /// Its network.
    pub network: Network,
    /// Whether it was taken back now; `false` = the same answer again.
    pub new: bool,
}

/// Why a device is not taken in. Only ever told inside the sealed channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such enrolment key.
    KeyUnknown,
    /// The key's time is over.
    KeyExpired {
        /// Its name.
        key: String,
        /// Since when.
        at: UnixMs,
    },
    /// All uses of the key are used.
    KeyUsedUp {
        /// Its name.
        key: String,
        /// Uses so far.
        uses: u32,
        /// The most uses.
        max_uses: u32,
    },
    /// An operator ended the key.
    KeyRevoked {
        /// Its name.
        key: String,
        /// When.
        at: UnixMs,
    },
    /// An operator said no to this device.
    Rejected {
        /// The operator's sentence, or empty.
        reason: String,
    },
    /// An operator blocked this device.
    Blocked {
        /// Since when.
        at: UnixMs,
        /// The operator's sentence, or empty.
        reason: String,
    },
    /// No free address.
    NetworkFull {
        /// The network's name.
        network: String,
        /// Addresses in use or resting.
        used: u32,
        /// Addresses in all.
        capacity: u32,
    },
    /// The device was deleted and not forgotten yet.
    Tombstoned {
        /// When it was deleted.
        at: UnixMs,
    },
    /// Name or abilities are not possible.
    Malformed,
    /// It holds fewer filter rules than the policy gives it.
    TooManyRules {
        /// Rules that it holds.
        holds: u32,
        /// Rules that it would need.
        needs: u32,
    },
    /// The WireGuard key belongs to another device.
    KeyInUse,
    /// Two machines used this identity, and the other one is the device.
    Cloned,
    /// The restored backup does not know its network either.
    NetworkGone,
}
