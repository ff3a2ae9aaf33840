//! What of the map is not a peer, and the part of the cache that is ours.
//!
//! The cache is a sequence of items like a record, in the order in which they
//! are to be taken back: [`CacheHead`], then ops of the map.

use core::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weft_wire::id::{Epoch, Revision};
use weft_wire::item::{Item, ItemError, ItemWriter};
use weft_wire::map::{
    DataBudget, Lease as LeaseOp, Overlay, OwnKeys, Rule, Rules, Servers, Settings,
};
use weft_wire::relay::{Relay, Relays};

use super::command::DoneCommands;
use super::relays::copy_relays;

/// First item of the cache. Local: it never travels.
#[derive(Serialize, Deserialize)]
pub struct CacheHead {
    /// Epoch of the committed map.
    pub epoch: Epoch,
    /// Its revision.
    pub revision: Revision,
    /// Seconds of the lease that count as used up at the next start.
    pub lease_used_s: u32,
    /// Commands that are not to be done again.
    pub done: DoneCommands,
}

weft_wire::body!(struct CacheHead { epoch, revision, lease_used_s, done });

impl Item for CacheHead {
    // Far above every tag of weft-wire: the two are never in one sequence by
    // mistake and told apart if they are.
    const TAG: u32 = 1 << 16;
}

/// What the map says beside peers. About 1,100 bytes.
#[derive(Default)]
pub struct MapSettings {
    settings: Option<Settings>,
    rules: Option<Rules>,
    servers: Option<Servers>,
    relays: Option<Relays>,
    lease_s: Option<u32>,
    own_keys: Option<OwnKeys>,
    budget: Option<DataBudget>,
}

pub(super) fn copy_settings(from: &Settings) -> Settings {
    Settings {
        overlay: from.overlay,
        host: from.host,
        name: from.name.clone(),
        mtu: from.mtu,
        next_pin: from.next_pin,
    }
}

pub(super) fn copy_rules(from: &Rules) -> Rules {
    Rules { rules: from.rules.clone() }
}

pub(super) fn copy_servers(from: &Servers) -> Servers {
    Servers { stun: from.stun.clone() }
}

impl MapSettings {
    /// Addresses, host number, name and MTU; `None` before the first map.
    pub const fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// The network's addresses; `None` before the first map.
    pub fn overlay(&self) -> Option<Overlay> {
        self.settings.as_ref().map(|settings| settings.overlay)
    }

    /// Length of the lease in seconds; `None` without a map.
    pub const fn lease_s(&self) -> Option<u32> {
        self.lease_s
    }

    /// Relays, those to be tried first come first.
    pub fn relays(&self) -> &[Relay] {
        self.relays.as_ref().map_or(&[], |relays| &relays.relays)
    }

    /// What may pass, by the numbers of which peers have masks.
    pub fn rules(&self) -> &[Rule] {
        self.rules.as_ref().map_or(&[], |rules| &rules.rules)
    }

    /// STUN servers, best first.
    pub fn stun_servers(&self) -> &[SocketAddr] {
        self.servers.as_ref().map_or(&[], |servers| &servers.stun)
    }

    /// Whether the map, or the cache, has said which relays there are.
    pub(super) const fn has_relays(&self) -> bool {
        self.relays.is_some()
    }

    /// Whether the map, or the cache, has said how many bytes may be spent.
    pub(super) const fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    pub(super) fn set_settings(&mut self, settings: &Settings) {
        self.settings = Some(copy_settings(settings));
    }

    pub(super) fn set_rules(&mut self, rules: &Rules) {
        self.rules = Some(copy_rules(rules));
    }

    pub(super) fn set_servers(&mut self, servers: &Servers) {
        self.servers = Some(copy_servers(servers));
    }

    pub(super) fn set_relays(&mut self, relays: &Relays) {
        self.relays = Some(copy_relays(relays));
    }

    pub(super) const fn set_lease(&mut self, lease_s: u32) {
        self.lease_s = Some(lease_s);
    }

    pub(super) const fn set_budget(&mut self, budget: DataBudget) {
        self.budget = Some(budget);
    }

    pub(super) const fn set_own_keys(&mut self, own_keys: OwnKeys) {
        self.own_keys = Some(own_keys);
    }

    /// The map is gone; the device's own address and name stay.
    pub(super) fn forget_peers(&mut self) {
        self.rules = None;
        self.servers = None;
        self.relays = None;
        self.lease_s = None;
        self.own_keys = None;
    }

    pub(super) fn write(&self, writer: &mut ItemWriter<'_>) -> Result<(), ItemError> {
        if let Some(settings) = &self.settings {
            writer.put(settings)?;
        }
        if let Some(rules) = &self.rules {
            writer.put(rules)?;
        }
        if let Some(servers) = &self.servers {
            writer.put(servers)?;
        }
        if let Some(relays) = &self.relays {
            writer.put(relays)?;
        }
        if let Some(lease_s) = self.lease_s {
            writer.put(&LeaseOp { lease_s })?;
        }
        if let Some(own_keys) = &self.own_keys {
            writer.put(own_keys)?;
        }
        if let Some(budget) = &self.budget {
            writer.put(budget)?;
        }
        Ok(())
    }
}
