//! Devices: found, listed, decided on.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use weft_wire::id::{DeviceId, NetworkId, Revision, is_name};
use weft_wire::item::Outcome;
use weft_wire::network::NetworkReport;

use crate::domain::audit::Actor;
use crate::domain::device::{Decision, Device, Kind, Standing, standing_word};
use crate::domain::network::{Network, addresses, host_of};
use crate::domain::quarantine::Quarantine;
use crate::domain::query::Query;
use crate::domain::reach::{Reach, reach};
use crate::domain::tags::TagSet;
use crate::domain::time::UnixMs;
use crate::domain::usage::DayUsage;
use crate::failure::{Code, Failure, nearest};
use crate::store::{Decided, StoreError};

use super::operator::{Operator, fault, not_found, printable};
use super::seams::{CommandResult, Presence, Task};

/// The longest sentence that goes with a decision, in bytes
/// ([`weft_wire::item::State`]).
const REASON_LEN: usize = 96;
/// How long a command waits for the device's word.
const COMMAND_WAIT: Duration = Duration::from_secs(10);
/// A look at a network takes some seconds itself.
const NETCHECK_WAIT: Duration = Duration::from_secs(20);

/// A device with everything known of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The device.
    pub device: Device,
    /// Its network.
    pub network: Arc<Network>,
    /// Whether and when it was heard; `None` = not since this start.
    pub presence: Option<Presence>,
    /// Its peers, counted.
    pub reach: Reach,
    /// Its newest copy that is quarantined.
    pub copy: Option<Quarantine>,
    /// What it has said of today's bytes.
    pub usage: Option<DayUsage>,
}

impl Seen {
    /// One word: `online`, `offline`, or why it is no member; `None` for a
    /// member of which nothing can be known (plain WireGuard).
    pub fn status(&self) -> Option<&'static str> {
        match (self.device.standing, &self.device.kind) {
            (Standing::Active, Kind::WireGuard { .. }) => None,
            (Standing::Active, Kind::Agent(_)) => {
                let online = self.presence.as_ref().is_some_and(|presence| presence.online);
                Some(if online { "online" } else { "offline" })
            }
            (standing, _) => Some(standing_word(standing)),
        }
    }

    /// Its addresses, IPv4 first; none before approval.
    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses_of(&self.device, &self.network)
    }

    fn holds(&self, field: Option<&str>, value: &str) -> bool {
        let device = &self.device;
        let is_address =
            || self.addresses().iter().any(|address| address.to_string().starts_with(value));
        let agent = device.agent();
        match field {
            None => device.name.contains(value) || is_address() || device.id.to_string() == value,
            Some("name") => device.name.contains(value),
            Some("ip") => is_address(),
            Some("status") => {
                self.status() == Some(value) || (value == "cloned" && self.copy.is_some())
            }
            Some("network") => self.network.name == value,
            Some("kind") => device.kind.to_string() == value,
            Some("key") => {
                agent.is_some_and(|agent| agent.key.1 == value || agent.key.0.to_string() == value)
            }
            Some("platform") => agent.is_some_and(|agent| agent.abilities.platform.contains(value)),
            Some("v") => agent.is_some_and(|agent| agent.abilities.agent.starts_with(value)),
            Some("tag") => device.tags.texts().any(|tag| {
                tag == value || tag.split_once('=').is_some_and(|(key, _)| key == value)
            }),
            Some(_) => false,
        }
    }
}

/// A part of the fleet.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Devices that fit, by name.
    pub items: Vec<Seen>,
    /// Devices in all.
    pub total: usize,
}

/// What a decision did, once those it concerns said so or time was up.
#[derive(Clone, Debug)]
pub struct Outcomes {
    /// What was done.
    pub decided: Decided,
    /// The device's network.
    pub network: Network,
    /// Devices that confirmed the new map.
    pub confirmed: usize,
    /// How long it took.
    pub took: Duration,
    /// When those that cannot be reached forget the device by themselves.
    pub bound_at: UnixMs,
}

impl Outcomes {
    /// The device as it is, or was before it was deleted.
    pub fn device(&self) -> &Device {
        self.decided.after.as_ref().unwrap_or(&self.decided.before)
    }

    /// Its addresses, IPv4 first; none before approval.
    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses_of(self.device(), &self.network)
    }
}

fn addresses_of(device: &Device, network: &Network) -> Vec<IpAddr> {
    device.host.map_or_else(Vec::new, |host| addresses(&network.overlay, host).to_vec())
}

impl Operator {
    /// The device that `wanted` names: name, `name.network`, address, id, or 4
    /// and more characters of its id.
    ///
    /// # Errors
    ///
    /// `device.not-found`, `device.ambiguous`.
    pub async fn find_device(&self, wanted: &str) -> Result<Device, Failure> {
        if let Ok(id) = wanted.parse::<DeviceId>() {
            return match self.store.device(id).await.map_err(fault)? {
                Some(device) => Ok(device),
                None => Err(self.deleted(wanted).await?.unwrap_or_else(|| no_device(wanted, None))),
            };
        }
        let networks = self.networks().await?;
        if let Ok(address) = wanted.parse::<IpAddr>() {
            for network in networks {
                let Some(host) = host_of(&network.overlay, address) else { continue };
                let device = self.store.device_by_host(network.id, host).await.map_err(fault)?;
                return device.ok_or_else(|| no_device(wanted, None));
            }
            return Err(no_device(wanted, None));
        }
        let (name, network) = match wanted.split_once('.') {
            Some((name, network)) => (name, Some(network)),
            None => (wanted, None),
        };
        let home = networks.iter().find(|one| Some(one.name.as_str()) == network).map(|one| one.id);
        let mut found = self.store.devices_by_name(name.to_owned()).await.map_err(fault)?;
        found.retain(|device| network.is_none() || Some(device.network) == home);
        if found.is_empty() {
            found = self.store.devices().await.map_err(fault)?;
            if !wanted.starts_with("dev_") || wanted.len() < "dev_".len() + 4 {
                let names = found.iter().map(|device| device.name.as_str());
                let deleted = self.deleted(wanted).await?;
                return Err(deleted.unwrap_or_else(|| no_device(wanted, nearest(name, names))));
            }
            found.retain(|device| device.id.to_string().starts_with(wanted));
        }
        match found.len() {
            0 => Err(no_device(wanted, None)),
            1 => Ok(found.remove(0)),
            many => {
                let message = format!("\"{}\" could be {many} devices", printable(wanted));
                Err(Failure::new(Code::DeviceAmbiguous, message))
            }
        }
    }

    /// Devices that a search fits, by name.
    ///
    /// # Errors
    ///
    /// `device.query`.
    pub async fn list_devices(&self, query: &str) -> Result<Listing, Failure> {
        let query: Query = query.parse().map_err(|error: crate::domain::query::QueryError| {
            Failure::new(Code::DeviceQuery, error.to_string())
        })?;
        let devices = self.store.devices().await.map_err(fault)?;
        let total = devices.len();
        let mut items = self.see(devices).await?;
        items.retain(|seen| query.fits(|field, value| seen.holds(field, value)));
        Ok(Listing { items, total })
    }

    /// One device with everything known of it.
    ///
    /// # Errors
    ///
    /// As [`Operator::find_device`].
    pub async fn show_device(&self, wanted: &str) -> Result<Seen, Failure> {
        let device = self.find_device(wanted).await?;
        self.see_one(device).await
    }

    /// Adds what is known of a device.
    ///
    /// # Errors
    ///
    /// `internal.fault`.
    pub async fn see_one(&self, device: Device) -> Result<Seen, Failure> {
        let mut seen = self.see(vec![device]).await?;
        seen.pop().ok_or_else(|| Failure::new(Code::InternalFault, "a device was lost"))
    }

    async fn see(&self, devices: Vec<Device>) -> Result<Vec<Seen>, Failure> {
        let networks = self.networks().await?.into_iter().map(|one| (one.id, Arc::new(one)));
        let networks: HashMap<NetworkId, Arc<Network>> = networks.collect();
        let wanted: BTreeSet<NetworkId> = devices.iter().map(|device| device.network).collect();
        let mut counts = HashMap::new();
        for network in wanted {
            counts.insert(network, self.count(network, &devices).await?);
        }
        let mut copies = self.copies(&devices).await?;
        let mut usages = self.usages_of_today(&devices).await?;
        let lost = || Failure::new(Code::InternalFault, "a device's network was lost");
        devices
            .into_iter()
            .map(|device| {
                let network = Arc::clone(networks.get(&device.network).ok_or_else(lost)?);
                let reach = counts.get(&device.network).and_then(|known| known.get(&device.tags));
                let reach = reach.copied().filter(|_| device.is_active()).unwrap_or_default();
                let presence = self.presence.presence(device.id);
                let copy = copies.remove(&device.id);
                let usage = usages.remove(&device.id);
                Ok(Seen { network, presence, reach, copy, usage, device })
            })
            .collect()
    }

    /// The newest copy of each of these devices.
    async fn copies(&self, devices: &[Device]) -> Result<HashMap<DeviceId, Quarantine>, Failure> {
        let has_copies = |device: &Device| device.agent().is_some_and(|agent| agent.has_copies);
        let wanted = match devices {
            [device] if has_copies(device) => Some(device.id),
            _ if devices.iter().any(has_copies) => None,
            _ => return Ok(HashMap::new()),
        };
        let mut known = self.store.quarantines(wanted).await.map_err(fault)?;
        known.sort_by_key(|one| one.since);
        // Of two of a device the later stays.
        Ok(known.into_iter().map(|one| (one.device, one)).collect())
    }

    async fn usages_of_today(
        &self,
        devices: &[Device],
    ) -> Result<HashMap<DeviceId, DayUsage>, Failure> {
        let today = self.now().day();
        let usages = match devices {
            [device] => self.store.usage_of(device.id).await,
            _ => self.store.usage_on(today).await,
        };
        let usages = usages.map_err(fault)?.into_iter().filter(|usage| usage.day == today);
        Ok(usages.map(|usage| (usage.device, usage)).collect())
    }

    /// What a device's bytes were for, day by day, the newest first.
    ///
    /// # Errors
    ///
    /// As [`Operator::find_device`].
    pub async fn usage(&self, wanted: &str) -> Result<Vec<DayUsage>, Failure> {
        let device = self.find_device(wanted).await?;
        self.store.usage_of(device.id).await.map_err(fault)
    }

    /// Peers of a member, by its tags.
    async fn count(
        &self,
        network: NetworkId,
        shown: &[Device],
    ) -> Result<HashMap<TagSet, Reach>, Failure> {
        let policy = self.store.policy(network).await.map_err(fault)?.compiled;
        let shown = shown.iter().filter(|device| device.network == network && device.is_active());
        let own: BTreeSet<TagSet> = shown.map(|device| device.tags.clone()).collect();
        let members = self.store.members_joined(network, Arc::clone(&policy), own.clone());
        Ok(reach(&policy, &own, &members.await.map_err(fault)?))
    }

    /// Does what was decided, then waits for the devices that are connected to
    /// confirm it, at most `wait`.
    ///
    /// # Errors
    ///
    /// `device.…`.
    pub async fn decide(
        &self,
        device: &Device,
        decision: Decision,
        if_version: Option<u64>,
        wait: Duration,
        actor: Actor,
    ) -> Result<Outcomes, Failure> {
        check(&decision)?;
        let network = self.store.network(device.network).await.map_err(fault)?;
        let lost = || Failure::new(Code::InternalFault, "the device's network was lost");
        let network = network.ok_or_else(lost)?;
        let by = self.by(actor);
        let started = by.at;
        let mut applied = self.store.applied();
        let word = decision.word();
        let decided = self.store.decide(device.id, decision, if_version, by).await;
        let decided = decided.map_err(|error| refused(device, word, error))?;
        let confirmed = self.confirmed(&decided, &mut applied, wait).await;
        let lease = Duration::from_secs(u64::from(network.lease_s));
        let took = self.now().since(started);
        Ok(Outcomes { decided, network, confirmed, took, bound_at: started.after(lease) })
    }

    async fn confirmed(
        &self,
        decided: &Decided,
        applied: &mut tokio::sync::broadcast::Receiver<(DeviceId, Revision)>,
        wait: Duration,
    ) -> usize {
        let is_online = |id: &DeviceId| self.presence.presence(*id).is_some_and(|one| one.online);
        let mut waiting: BTreeSet<DeviceId> =
            decided.affected.iter().copied().filter(is_online).collect();
        let all = waiting.len();
        let everyone = async {
            while !waiting.is_empty() {
                match applied.recv().await {
                    Ok((device, revision)) if revision >= decided.revision => {
                        waiting.remove(&device);
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                }
            }
        };
        // Time being up is an answer too: those who are missing are counted.
        let _ = tokio::time::timeout(wait, everyone).await;
        all - waiting.len()
    }

    /// Tells a device to do something and waits for its word, and for what it found.
    ///
    /// # Errors
    ///
    /// `command.…`, `device.no-agent`.
    pub async fn command(
        &self,
        device: &Device,
        task: Task,
        actor: Actor,
    ) -> Result<Option<Box<NetworkReport>>, Failure> {
        let name = &device.name;
        let (word, wait) = match task {
            Task::Restart => ("restart", COMMAND_WAIT),
            Task::Netcheck => ("netcheck", NETCHECK_WAIT),
        };
        if device.agent().is_none() {
            let message = format!("{name} runs no agent: nobody there takes commands");
            return Err(Failure::new(Code::DeviceNoAgent, message));
        }
        let by = self.by(actor);
        let expires = by.at.after(wait);
        let id = self.store.new_command(device.id, word, by).await.map_err(fault)?;
        let (code, message) = match self.commands.deliver(device.id, id, task, expires).await {
            CommandResult::Answered(Outcome::Accepted) => return Ok(None),
            CommandResult::Looked(report) => return Ok(Some(report)),
            CommandResult::Answered(Outcome::Expired) => {
                (Code::CommandExpired, format!("{name} got \"{word}\" too late and did not do it"))
            }
            CommandResult::Answered(Outcome::Unsupported) => {
                (Code::CommandUnsupported, format!("{name} cannot do \"{word}\""))
            }
            CommandResult::Absent => (Code::CommandAbsent, format!("{name} is not connected")),
            CommandResult::Unanswered => {
                let span = wait.as_secs();
                (
                    Code::CommandUnanswered,
                    format!("{name} did not answer \"{word}\" within {span} s"),
                )
            }
        };
        Err(Failure::new(code, message).param("device", device.id))
    }
}

fn check(decision: &Decision) -> Result<(), Failure> {
    match decision {
        Decision::Reject { reason } | Decision::Block { reason } => {
            if reason.len() > REASON_LEN || reason.chars().any(char::is_control) {
                let message =
                    format!("a reason has at most {REASON_LEN} bytes and no control characters");
                return Err(Failure::new(Code::DeviceBadReason, message));
            }
            Ok(())
        }
        Decision::Rename { name } => check_name(name),
        Decision::Approve
        | Decision::Unblock
        | Decision::Budget { .. }
        | Decision::Release { .. }
        | Decision::Delete
        | Decision::Leave => Ok(()),
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    if is_name(name) {
        return Ok(());
    }
    let name = printable(name);
    let message = format!("'{name}' is no name; 1 to 32 of a-z 0-9 and - are possible");
    Err(Failure::new(Code::DeviceBadName, message))
}

fn no_device(wanted: &str, near: Option<&str>) -> Failure {
    Failure::new(Code::DeviceNotFound, not_found("device", wanted, near))
        .attempt("weft-coordinator device list")
}

pub(super) fn refused(device: &Device, word: &str, error: StoreError) -> Failure {
    let name = &device.name;
    match error {
        StoreError::NotFound(_) => no_device(name, None),
        StoreError::NameTaken { name, .. } => name_taken(&name),
        StoreError::Standing(standing) => {
            let message =
                format!("{name} is {}: there is nothing to {word}", standing_word(standing));
            Failure::new(Code::DeviceStanding, message).param("standing", standing_word(standing))
        }
        StoreError::NotQuarantined => {
            let message = format!("no copy of {name} is quarantined: there is nothing to {word}");
            Failure::new(Code::DeviceNotQuarantined, message)
        }
        StoreError::Changed(version) => {
            let message = format!("{name} was changed meanwhile, to version {version}");
            Failure::new(Code::DeviceChanged, message).param("version", version)
        }
        StoreError::NetworkFull(used, all) => {
            let message = format!("no free address for {name}: {used} of {all} used or resting");
            Failure::new(Code::NetworkFull, message).param("used", used).param("capacity", all)
        }
        StoreError::TooManyRules { device, holds, needs } => {
            let message = format!("{device} holds {holds} rules, the policy gives it {needs}");
            Failure::new(Code::PolicyTooManyRules, message)
                .param("device", device)
                .param("holds", holds)
                .param("needs", needs)
        }
        other => fault(other),
    }
}

pub(super) fn name_taken(name: &str) -> Failure {
    Failure::new(Code::DeviceNameTaken, format!("there is a device named {name} already"))
        .param("name", name)
}
