//! Who may not use relays, as relays are told.

use weft_wire::id::{DeviceId, Epoch, OrganisationId};

/// A device that is denied, or is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Which.
    pub device: DeviceId,
    /// Whose it is or was.
    pub organisation: OrganisationId,
    /// `false` = it was denied before.
    pub denied: bool,
}

/// A part of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denials {
    /// The life of the database.
    pub epoch: Epoch,
    /// Where the part begins; 0 = with it begins the whole list.
    pub from: u64,
    /// Where it ends.
    pub to: u64,
    /// Whether there is nothing behind it.
    pub last: bool,
    /// In the order in which it was decided.
    pub list: Vec<Denial>,
}
