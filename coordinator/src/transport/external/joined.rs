//! Our own endpoint and a foreign broker as one way to devices.
//!
//! A device is served where it was heard last: one that posts, or that found
//! its way to our own port, is in the hub; everybody else is at the broker.

use std::sync::Arc;

use bytes::Bytes;
use weft_wire::id::Inbox;

use super::External;
use crate::service::bus::{Bus, Delivery};
use crate::transport::mqtt::Embedded;
use crate::transport::mqtt::hub::Hub;

/// The bus of a coordinator with a foreign broker.
pub struct Joined {
    own: Embedded,
    foreign: External,
}

impl Joined {
    /// Frames go through the hub to who is there, and to the broker otherwise.
    pub const fn new(hub: Arc<Hub>, foreign: External) -> Self {
        Self { own: Embedded::new(hub), foreign }
    }
}

impl Bus for Joined {
    fn send(&self, inbox: Inbox, frame: Bytes) -> Delivery {
        // A handle, not the bytes.
        match self.own.send(inbox, frame.clone()) {
            Delivery::Absent => self.foreign.send(inbox, frame),
            delivery => delivery,
        }
    }

    fn disconnect(&self, inbox: Inbox) {
        self.own.disconnect(inbox);
        self.foreign.disconnect(inbox);
    }

    fn reachable(&self, inbox: Inbox) -> bool {
        self.own.reachable(inbox) || self.foreign.reachable(inbox)
    }
}
