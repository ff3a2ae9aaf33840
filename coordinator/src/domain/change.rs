//! What a committed transaction changed, for those who tell devices.

use weft_wire::id::{DeviceId, Inbox, NetworkId, Revision};

use super::device::Standing;

/// Sent to every subscriber after each commit that changed a map or a standing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Maps that grew: for each network its newest revision and the devices
    /// (with an agent) whose map the change touches.
    pub maps: Vec<MapChange>,
    /// Devices whose standing changed, in order.
    pub standings: Vec<StandingChange>,
    /// Devices that are gone: end their sessions.
    pub gone: Vec<Gone>,
    /// Devices whose copies are copies no more: end the copies' sessions.
    pub released: Vec<Released>,
}

impl Change {
    /// Whether there is nothing to tell.
    pub const fn is_empty(&self) -> bool {
        self.maps.is_empty()
            && self.standings.is_empty()
            && self.gone.is_empty()
            && self.released.is_empty()
    }

    /// Whether a device may have become a member, or stopped to be one.
    pub const fn moves_members(&self) -> bool {
        !self.standings.is_empty() || !self.gone.is_empty()
    }
}

/// A network's map grew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapChange {
    /// Which network.
    pub network: NetworkId,
    /// Its newest revision.
    pub revision: Revision,
    /// Devices whose own map changed.
    pub devices: Vec<DeviceId>,
}

/// A device's standing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingChange {
    /// Which device.
    pub device: DeviceId,
    /// How it stands now.
    pub standing: Standing,
}

/// A device was deleted or left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Which device.
    pub device: DeviceId,
    /// Where it received, if it ran an agent.
    pub inbox: Option<Inbox>,
    /// An operator deleted it: it does not know yet.
    pub deleted: bool,
}

/// A device's quarantine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Which device.
    pub device: DeviceId,
    /// Where its copies received.
    pub inboxes: Vec<Inbox>,
}
