//! What waits for the shell. Each thing has one place, so a shell that drains
//! late hears the newest and never too much.

use weft_wire::id::{DeviceId, Name, NetworkId, OrganisationId};
use weft_wire::item::{Duplicate, Refused, Registered, Standing, State};
use weft_wire::map::Overlay;

use crate::control::{Held, MapDropped};
use crate::peers::PeerChange;

/// What is to be written to storage, and confirmed by
/// [`handle_persisted`](super::Agent::handle_persisted) once it is safe there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// [`Agent::identity`](super::Agent::identity).
    Identity,
    /// The floor of handshake stamps: before the next handshake, so at once.
    Stamp(u64),
    /// [`Agent::write_cache`](super::Agent::write_cache): the map up to this
    /// revision, and a running number. At once if
    /// [`Agent::is_cache_urgent`](super::Agent::is_cache_urgent); otherwise it may
    /// be confirmed hours later, or never.
    Cache(Held, u32),
}

/// What enrolment gave, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The device's id.
    pub device: DeviceId,
    /// Its network.
    pub network: NetworkId,
    /// Its organisation.
    pub organisation: OrganisationId,
    /// Its name, made unique.
    pub name: Name,
    /// The network's name.
    pub network_name: Name,
    /// Member already, or waiting.
    pub standing: Standing,
    /// Host number; 0 while pending.
    pub host: u32,
    /// The overlay.
    pub overlay: Overlay,
    /// Name of the enrolment key.
    pub key_name: Name,
    /// Uses of the key, this one counted.
    pub key_uses: u32,
    /// Most uses of the key; 0 = no limit.
    pub key_max_uses: u32,
}

impl From<Registered> for Enrolled {
    fn from(answer: Registered) -> Self {
        Self {
            device: answer.device,
            network: answer.network,
            organisation: answer.organisation,
            name: answer.name,
            network_name: answer.network_name,
            standing: answer.standing,
            host: answer.host,
            overlay: answer.overlay,
            key_name: answer.key_name,
            key_uses: answer.key_uses,
            key_max_uses: answer.key_max_uses,
        }
    }
}

/// How the mesh interface is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The network's ranges: all of both is routed to the interface.
    pub overlay: Overlay,
    /// This device's host number: both its addresses follow.
    pub host: u32,
    /// This device's name.
    pub name: Name,
    /// MTU, in bytes.
    pub mtu: u16,
}

/// What a shell has to do or may show.
pub enum AgentEvent {
    /// Write this, then confirm it.
    Persist(Persist),
    /// The device was taken in (or waits for an operator).
    Enrolled(Enrolled),
    /// The device was not taken in; for [`weft_wire::verdict::Refusal`] see its
    /// code. Unless that is "unavailable", this agent is done.
    Refused(Refused),
    /// How the device stands has changed.
    Standing(State),
    /// Another machine uses this device's identity.
    Duplicate(Duplicate),
    /// The mesh interface is to be so.
    Interface(InterfaceConfig),
    /// [`Agent::routes`](super::Agent::routes) changed: ranges behind peers.
    Routes,
    /// A session with the coordinator is up (`true`) or its line was lost.
    Online(bool),
    /// All peers were dropped.
    MapDropped(MapDropped),
    /// A peer stands elsewhere than before.
    Peer(PeerChange),
    /// Peers use another WireGuard key of this device from now on.
    KeyRotated,
    /// The day's budget is used up (`true`), so that nothing is sent any more that
    /// only might help; or that goes on.
    Budget(bool),
    /// An operator wants this agent restarted.
    Restart,
    /// An operator wants the network looked at: then
    /// [`Agent::handle_network_report`](super::Agent::handle_network_report).
    Netcheck,
    /// The device has left its network: erase everything.
    Left,
}

/// See the module.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) identity: bool,
    pub(super) stamp: Option<u64>,
    pub(super) cache: bool,
    /// Not all that changed since the last one that was stored may wait.
    pub(super) is_cache_urgent: bool,
    /// Number of the last cache that the shell was asked to write.
    pub(super) cache_number: u32,
    pub(super) enrolled: Option<Enrolled>,
    pub(super) refused: Option<Refused>,
    pub(super) standing: Option<State>,
    pub(super) duplicate: Option<Duplicate>,
    pub(super) interface: bool,
    pub(super) routes: bool,
    pub(super) online: Option<bool>,
    pub(super) dropped: Option<MapDropped>,
    pub(super) key_rotated: bool,
    pub(super) budget: Option<bool>,
    pub(super) restart: bool,
    pub(super) netcheck: bool,
    pub(super) left: bool,
}

impl Outbox {
    /// The next event; storage first, so that nothing is shown or sent that a
    /// power cut would undo. `held` and `interface` are as they are now.
    pub(super) fn poll(
        &mut self,
        held: Held,
        interface: impl Fn() -> Option<InterfaceConfig>,
    ) -> Option<AgentEvent> {
        let take = core::mem::take::<bool>;
        if let Some(floor) = self.stamp.take() {
            return Some(AgentEvent::Persist(Persist::Stamp(floor)));
        }
        if take(&mut self.identity) {
            return Some(AgentEvent::Persist(Persist::Identity));
        }
        if take(&mut self.cache) {
            self.cache_number = self.cache_number.wrapping_add(1);
            return Some(AgentEvent::Persist(Persist::Cache(held, self.cache_number)));
        }
        if let Some(dropped) = self.dropped.take() {
            return Some(AgentEvent::MapDropped(dropped));
        }
        if let Some(enrolled) = self.enrolled.take() {
            return Some(AgentEvent::Enrolled(enrolled));
        }
        if let Some(refused) = self.refused.take() {
            return Some(AgentEvent::Refused(refused));
        }
        if let Some(other) = self.duplicate.take() {
            return Some(AgentEvent::Duplicate(other));
        }
        if let Some(state) = self.standing.take() {
            return Some(AgentEvent::Standing(state));
        }
        if take(&mut self.interface)
            && let Some(interface) = interface()
        {
            return Some(AgentEvent::Interface(interface));
        }
        if take(&mut self.routes) {
            return Some(AgentEvent::Routes);
        }
        if let Some(online) = self.online.take() {
            return Some(AgentEvent::Online(online));
        }
        if take(&mut self.key_rotated) {
            return Some(AgentEvent::KeyRotated);
        }
        if let Some(is_used_up) = self.budget.take() {
            return Some(AgentEvent::Budget(is_used_up));
        }
        if take(&mut self.restart) {
            return Some(AgentEvent::Restart);
        }
        if take(&mut self.netcheck) {
            return Some(AgentEvent::Netcheck);
        }
        take(&mut self.left).then_some(AgentEvent::Left)
    }
}
