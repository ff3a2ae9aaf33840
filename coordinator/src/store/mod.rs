//! Where the coordinator's state lives: traits per aggregate, and backends.
//!
//! Every writing call is one transaction: checks are repeated inside it, the
//! audit row is written in it, and the answer comes after its commit. SQL is in
//! the backends and nowhere else.

use core::fmt;
use core::future::Future;
use core::net::{IpAddr, SocketAddr};
use core::pin::Pin;
use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::broadcast;
use weft_noise::mac::Fingerprint;
use weft_wire::id::{
    CommandId, DeviceId, Epoch, Inbox, KeyId, NetworkId, OrganisationId, PublicKey, Revision,
};

use crate::domain::audit::{Action, Actor, AuditRow};
use crate::domain::change::Change;
use crate::domain::denial;
use crate::domain::device::{Decision, Device, NewWireGuard, Standing, Tombstone};
use crate::domain::enrolment::{Adopted, Adoption, Enrolled, Enrolment, Refused};
use crate::domain::key::{EnrolmentKey, NewKey};
use crate::domain::key_change::KeyChange;
use crate::domain::netmap::{MapDelta, Newest, PeerEntry};
use crate::domain::network::{Network, NewNetwork};
use crate::domain::paths::{Connection, NatState, Reported};
use crate::domain::policy::{Compiled, Policy};
use crate::domain::quarantine::{Heard, Heeded, Quarantine};
use crate::domain::relay::{Joining, NewRegistration, NewRelay, Relay};
use crate::domain::rotation::Step;
use crate::domain::tags::TagSet;
use crate::domain::time::UnixMs;
use crate::domain::usage::{DayUsage, Growth};
use crate::domain::warm::WarmPair;

pub mod keyfile;
pub mod sqlite;

/// The answer of a store, some time later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A thing that calls name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A device.
    Device,
    /// An enrolment key.
    Key,
    /// A network.
    Network,
    /// A relay.
    Relay,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Key => "key",
            Self::Network => "network",
            Self::Relay => "relay",
        })
    }
}

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// There is none.
    NotFound(What),
    /// The name is another's.
    NameTaken {
        /// Whose kind.
        what: What,
        /// The name.
        name: String,
    },
    /// The WireGuard key is another device's, or a deleted one's.
    KeyInUse,
    /// The device's standing does not allow it.
    Standing(Standing),
    /// No copy of the device is quarantined.
    NotQuarantined,
    /// Somebody changed it since it was read; holds the version now.
    Changed(u64),
    /// The device's key is being rotated (`true`), or is not.
    Rotating(bool),
    /// No free address; holds the addresses that are not free, and all.
    NetworkFull(u32, u32),
    /// A device holds fewer rules than the policy gives it.
    TooManyRules {
        /// The device.
        device: String,
        /// Rules that it holds.
        holds: u32,
        /// Rules that the policy gives it.
        needs: u32,
    },
    /// Nothing can be written now: disk full, read-only, closed.
    Unavailable(String),
    /// The database does not hold what it must.
    Fault(String),
}

/// What is said of a full disk.
const DISK_FULL: &str = "no space left on the disk: nothing new is accepted, tunnels go on";

impl StoreError {
    /// Nothing can be written because the disk is full.
    pub fn disk_full() -> Self {
        Self::Unavailable(DISK_FULL.to_owned())
    }

    /// Nothing can be written because the disk is read-only or broken.
    pub fn disk_failed(cause: &dyn fmt::Display) -> Self {
        Self::Unavailable(format!(
            "the disk takes no writes ({cause}): nothing new is accepted, tunnels go on; \
             the kernel's log says why"
        ))
    }

    /// Whether nothing can be written because the disk is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Unavailable(cause) if cause == DISK_FULL)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(what) => write!(f, "there is no such {what}"),
            Self::NameTaken { what, name } => write!(f, "there is a {what} named {name} already"),
            Self::KeyInUse => f.write_str("the WireGuard key belongs to another device"),
            Self::Standing(standing) => {
                write!(f, "the device is {}", crate::domain::device::standing_word(*standing))
            }
            Self::NotQuarantined => f.write_str("no copy of the device is quarantined"),
            Self::Changed(version) => write!(f, "it was changed meanwhile, to version {version}"),
            Self::Rotating(true) => f.write_str("the device's key is being rotated"),
            Self::Rotating(false) => f.write_str("the device's key is not being rotated"),
            Self::NetworkFull(used, all) => {
                write!(f, "no free address: {used} of {all} used or resting")
            }
            Self::TooManyRules { device, holds, needs } => {
                write!(f, "{device} holds {holds} rules, the policy gives it {needs}")
            }
            Self::Unavailable(cause) => write!(f, "nothing can be written now: {cause}"),
            Self::Fault(cause) => write!(f, "the database is damaged: {cause}"),
        }
    }
}

impl core::error::Error for StoreError {}

/// Who does it, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Who.
    pub actor: Actor,
    /// When.
    pub at: UnixMs,
}

/// What a database belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The database's life.
    pub epoch: Epoch,
    /// The coordinator's public key.
    pub coordinator: PublicKey,
    /// Counts changes of that key.
    pub generation: u32,
    /// When the next key was announced; `None` = it was not.
    pub announced: Option<UnixMs>,
}

/// What a decision on a device did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The device before.
    pub before: Device,
    /// The device after; `None` = it is gone.
    pub after: Option<Device>,
    /// Newest revision of its network's map.
    pub revision: Revision,
    /// Agents whose map changed by it, the device itself not counted.
    pub affected: Vec<DeviceId>,
}

/// What the revocation of a key did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRevoked {
    /// The key.
    pub key: EnrolmentKey,
    /// Its devices; if that was asked for, those that were blocked by it.
    pub devices: Vec<DeviceId>,
}

/// A policy in force.
#[derive(Clone, Debug)]
pub struct PolicyInForce {
    /// Counts policies of the network.
    pub version: u64,
    /// When it was set.
    pub since: UnixMs,
    /// The policy.
    pub compiled: Arc<Compiled>,
}

/// What a new policy did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySet {
    /// Its version; the old one when nothing differs.
    pub version: u64,
    /// Newest revision of the network's map.
    pub revision: Revision,
    /// Agents whose map changed by it.
    pub affected: Vec<DeviceId>,
}

/// A device that a fingerprint belongs to, or belonged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is here.
    Device(Box<Device>),
    /// It was deleted.
    Tombstone(Tombstone),
}

/// Networks and the installation.
pub trait Networks: Send + Sync {
    /// What this database belongs to.
    fn installation(&self) -> Answer<'_, Installation>;
    /// All networks, by name.
    fn networks(&self) -> Answer<'_, Vec<Network>>;
    /// One network.
    fn network(&self, id: NetworkId) -> Answer<'_, Option<Network>>;
    /// Makes a network in an organisation, with the default policy.
    fn create_network(
        &self,
        organisation: OrganisationId,
        new: NewNetwork,
        by: By,
    ) -> Answer<'_, Network>;
    /// Sets the coordinator's own STUN servers, best first, which all maps name before
    /// those at relays; nothing happens when they are the same.
    fn set_servers(&self, stun: Vec<SocketAddr>, by: By) -> Answer<'_, ()>;
    /// A member holds a newer revision than this database knows: draws another
    /// epoch, at most once a day. `None` = not so, or it was done lately.
    fn renew_epoch(&self, device: DeviceId, held: Revision, by: By) -> Answer<'_, Option<Epoch>>;
}

/// Relays that devices may use.
pub trait Relays: Send + Sync {
    /// All of them, in the order in which devices try them: those of the
    /// configuration, then those that joined.
    fn relays(&self) -> Answer<'_, Vec<Relay>>;
    /// Sets those of the configuration and gives them their numbers; nothing
    /// happens when they are the same.
    fn set_relays(&self, relays: Vec<NewRelay>, by: By) -> Answer<'_, Vec<Relay>>;
    /// Makes an entry that a relay can join by.
    fn add_relay(&self, new: NewRegistration, by: By) -> Answer<'_, Relay>;
    /// Takes a relay in, or says why not. Idempotent by its identity key. Devices
    /// are not told of it yet.
    fn join_relay(&self, joining: Joining, now: UnixMs) -> Answer<'_, Result<Relay, Refused>>;
    /// A relay said where it is and what it runs. Writes only what is new.
    fn place_relay(&self, number: u16, place: NewRelay, version: String, by: By) -> Answer<'_, ()>;
    /// Tells devices of a relay from now on, or no more; `why` is for the audit.
    fn tell_relay(&self, number: u16, told: bool, why: &'static str, by: By) -> Answer<'_, ()>;
    /// An operator wants a relay to take no new clients, or to take them again.
    fn drain_relay(&self, number: u16, draining: bool, by: By) -> Answer<'_, Relay>;
    /// Removes a relay that joined, or may join.
    fn remove_relay(&self, number: u16, by: By) -> Answer<'_, Relay>;
}

/// Who may not use relays.
pub trait Denials: Send + Sync {
    /// What was decided since a life and revision of the list, at most `limit`
    /// decisions; from the beginning, if it is none of this database.
    fn denials(&self, held: (Epoch, u64), limit: u32) -> Answer<'_, denial::Denials>;
}

/// The coordinator's own key.
pub trait KeyChanges: Send + Sync {
    /// How far its change has come.
    fn key_change(&self) -> Answer<'_, KeyChange>;
    /// Tells every device the next key with its map; nothing happens when that
    /// was done.
    fn announce_key(&self, next: PublicKey, by: By) -> Answer<'_, KeyChange>;
    /// The key file holds this key now: the database belongs to it, and nothing
    /// is announced any more. Nothing happens when that was done.
    fn key_switched(&self, key: PublicKey, generation: u32, by: By) -> Answer<'_, ()>;
}

/// Enrolment keys.
pub trait Keys: Send + Sync {
    /// Makes a key.
    fn create_key(&self, new: NewKey, by: By) -> Answer<'_, EnrolmentKey>;
    /// All keys, newest first.
    fn keys(&self) -> Answer<'_, Vec<EnrolmentKey>>;
    /// One key.
    fn key(&self, id: KeyId) -> Answer<'_, Option<EnrolmentKey>>;
    /// Ends a key; with `and_devices` blocks the members it let in.
    fn revoke_key(&self, id: KeyId, and_devices: bool, by: By) -> Answer<'_, KeyRevoked>;
    /// The ids of devices that a key let in.
    fn devices_of_key(&self, id: KeyId) -> Answer<'_, Vec<DeviceId>>;
}

/// Devices.
pub trait Devices: Send + Sync {
    /// Takes a device in, or says why not. Idempotent by its identity key: the
    /// same device again gets the same answer and counts no use.
    fn enrol(&self, enrolment: Enrolment, now: UnixMs) -> Answer<'_, Result<Enrolled, Refused>>;
    /// Takes a device back that a restored backup does not know, or says why not.
    /// It waits for an operator. Idempotent by its identity key.
    fn adopt(&self, adoption: Adoption, now: UnixMs) -> Answer<'_, Result<Adopted, Refused>>;
    /// Adds a peer without an agent.
    fn add_wireguard(&self, new: NewWireGuard, by: By) -> Answer<'_, Device>;
    /// Does what was decided. With `if_version` only while the device has that
    /// version.
    fn decide(
        &self,
        id: DeviceId,
        decision: Decision,
        if_version: Option<u64>,
        by: By,
    ) -> Answer<'_, Decided>;
    /// One device.
    fn device(&self, id: DeviceId) -> Answer<'_, Option<Device>>;
    /// The device with this control-channel key.
    fn device_by_identity(&self, identity: PublicKey) -> Answer<'_, Option<Device>>;
    /// Devices of this name, in all networks.
    fn devices_by_name(&self, name: String) -> Answer<'_, Vec<Device>>;
    /// The device with this host number.
    fn device_by_host(&self, network: NetworkId, host: u32) -> Answer<'_, Option<Device>>;
    /// How many devices with an agent there are, whatever their standing.
    fn agents(&self) -> Answer<'_, u64>;
    /// All devices, by name.
    fn devices(&self) -> Answer<'_, Vec<Device>>;
    /// Who a fingerprint belongs to.
    fn known(&self, fingerprint: Fingerprint) -> Answer<'_, Option<Known>>;
    /// Deleted devices whose keys do not come back, by name.
    fn tombstones(&self) -> Answer<'_, Vec<Tombstone>>;
    /// Clears a deleted device's tombstone.
    fn forget(&self, id: DeviceId, by: By) -> Answer<'_, Tombstone>;
    /// A record confirmed a session of a process: says what that process is, and
    /// remembers it. Writes only what is new.
    fn hear(&self, id: DeviceId, heard: Heard) -> Answer<'_, Heeded>;
    /// A copy confirmed a session at an inbox: the copy, and whether it hears
    /// for the first time that it is one. `None` = it is none any more.
    fn hear_copy(
        &self,
        id: DeviceId,
        inbox: Inbox,
        address: Option<IpAddr>,
        at: UnixMs,
    ) -> Answer<'_, Option<(Quarantine, bool)>>;
    /// Copies of a device, or of all.
    fn quarantines(&self, device: Option<DeviceId>) -> Answer<'_, Vec<Quarantine>>;
    /// The device said that it has applied this revision.
    fn set_applied(&self, id: DeviceId, revision: Revision) -> Answer<'_, ()>;
    /// Draws a command's id and writes its audit row.
    fn new_command(&self, id: DeviceId, word: &'static str, by: By) -> Answer<'_, CommandId>;
}

/// Rotations of WireGuard keys.
pub trait Rotations: Send + Sync {
    /// Takes a step; `None` when it is stale and nothing changed.
    fn rotate(&self, id: DeviceId, step: Step, by: By) -> Answer<'_, Option<Device>>;
    /// Devices that are asked for a key or have a second one.
    fn rotating(&self) -> Answer<'_, Vec<Device>>;
    /// Agents that a device's keys concern, itself included, with the revision
    /// that each said it has applied.
    fn key_listeners(&self, id: DeviceId) -> Answer<'_, Vec<(DeviceId, Revision)>>;
    /// Members that speak plain WireGuard only.
    fn members_without_agent(&self, network: NetworkId) -> Answer<'_, Vec<DeviceId>>;
    /// Members whose key came into use before and is not being rotated, oldest
    /// first.
    fn keys_older_than(&self, before: UnixMs, limit: u32) -> Answer<'_, Vec<DeviceId>>;
}

/// Policies.
pub trait Policies: Send + Sync {
    /// The policy in force.
    fn policy(&self, network: NetworkId) -> Answer<'_, PolicyInForce>;
    /// What [`Policies::set_policy`] would do; changes nothing.
    fn preview_policy(&self, network: NetworkId, policy: Policy) -> Answer<'_, PolicySet>;
    /// Puts a policy in force. With `if_version` only while that one is.
    fn set_policy(
        &self,
        network: NetworkId,
        policy: Policy,
        if_version: Option<u64>,
        by: By,
    ) -> Answer<'_, PolicySet>;
}

/// A device, and how new its map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The device.
    pub device: Device,
    /// `None` = it is no member: there is no map for it.
    pub newest: Option<Newest>,
}

/// Maps, as each device sees them.
pub trait Maps: Send + Sync {
    /// A device, with how new its map is.
    fn holder(&self, device: DeviceId) -> Answer<'_, Option<Holder>>;
    /// The same for the device with this control-channel key.
    fn holder_by_identity(&self, identity: PublicKey) -> Answer<'_, Option<Holder>>;
    /// What brings a device from a revision to the newest; a snapshot when
    /// `from` is 0, too old or of another life. `None` = no such agent.
    fn map_since(&self, device: DeviceId, from: Revision) -> Answer<'_, Option<MapDelta>>;
    /// What `viewer` is told of `subject`; `None` = no edge joins them.
    fn peer_entry(&self, viewer: DeviceId, subject: DeviceId) -> Answer<'_, Option<PeerEntry>>;
    /// Members of a network, counted by their tags.
    fn members_by_tags(&self, network: NetworkId) -> Answer<'_, Vec<(TagSet, u32)>>;
    /// The same of those alone that a rule of `policy` joins to devices with one
    /// of these sets of tags: it costs their edges, and not the network.
    fn members_joined(
        &self,
        network: NetworkId,
        policy: Arc<Compiled>,
        own: BTreeSet<TagSet>,
    ) -> Answer<'_, Vec<(TagSet, u32)>>;
    /// Whether any rule joins two members.
    fn edge(&self, a: DeviceId, b: DeviceId) -> Answer<'_, bool>;
}

/// How devices reach each other, as they report it.
pub trait Paths: Send + Sync {
    /// Keeps what a device said of its network and of peers in it, bounded:
    /// [`crate::domain::paths`] says how much. Words on others are left out.
    fn report_paths(&self, reported: Reported) -> Answer<'_, ()>;
    /// What a device said last of its network.
    fn nat_state(&self, device: DeviceId) -> Answer<'_, Option<NatState>>;
    /// What two devices said of each other, newest first.
    fn words_between(&self, a: DeviceId, b: DeviceId) -> Answer<'_, Vec<Connection>>;
    /// The newest word of each device on each peer, newest first: those of one
    /// device and on it, or all.
    fn newest_words(&self, device: Option<DeviceId>, limit: u32) -> Answer<'_, Vec<Connection>>;
}

/// Ways that are kept open.
pub trait Warmth: Send + Sync {
    /// Two devices of one network, both with an agent, keep the way to each other
    /// open, or need not. Whether that is otherwise than before.
    fn keep_warm(&self, a: DeviceId, b: DeviceId, is_wanted: bool, by: By) -> Answer<'_, bool>;
    /// All such pairs.
    fn warm_pairs(&self) -> Answer<'_, Vec<WarmPair>>;
}

/// What devices' bytes were for, as they report it.
pub trait Usages: Send + Sync {
    /// Keeps a device's day, and [`crate::domain::usage::KEPT_DAYS`] of them; gives
    /// what is new of it, and of a device that is gone nothing.
    fn report_usage(&self, usage: DayUsage) -> Answer<'_, Growth>;
    /// The days of one device that are kept, newest first.
    fn usage_of(&self, device: DeviceId) -> Answer<'_, Vec<DayUsage>>;
    /// One day of all devices.
    fn usage_on(&self, day: u32) -> Answer<'_, Vec<DayUsage>>;
    /// How many devices have used up their budget of a day.
    fn used_up_on(&self, day: u32) -> Answer<'_, u64>;
}

/// The audit chain.
pub trait Audits: Send + Sync {
    /// Rows after `seq`, in rising order, at most `limit`.
    fn audit(
        &self,
        organisation: OrganisationId,
        after: u64,
        limit: u32,
    ) -> Answer<'_, Vec<AuditRow>>;
    /// Writes a row for an action that changes nothing else here.
    fn record(&self, organisation: OrganisationId, action: Action, by: By) -> Answer<'_, ()>;
}

/// What was committed.
pub trait Changes: Send + Sync {
    /// Every change from now on, after its commit. A slow reader loses the
    /// oldest and is told so; it then has to look at everything once.
    fn changes(&self) -> broadcast::Receiver<Arc<Change>>;
    /// Every revision that a device applied, from now on.
    fn applied(&self) -> broadcast::Receiver<(DeviceId, Revision)>;
}

/// Everything that a backend does.
pub trait Store:
    Networks
    + Relays
    + Denials
    + KeyChanges
    + Keys
    + Devices
    + Rotations
    + Policies
    + Maps
    + Paths
    + Usages
    + Warmth
    + Audits
    + Changes
{
}

impl<T> Store for T where
    T: Networks
        + Relays
        + Denials
        + KeyChanges
        + Keys
        + Devices
        + Rotations
        + Policies
        + Maps
        + Paths
        + Usages
        + Warmth
        + Audits
        + Changes
{
}

/// A store that services share.
pub type SharedStore = Arc<dyn Store>;
