//! What a relay of ours and the coordinator say to each other.
//!
//! Frames are those of the sealed control channel, one in each post to [`PATH`],
//! laid down as in [`crate::http`]. HELLO carries [`HelloInfo`] and WELCOME
//! [`WelcomeInfo`], as a device's do; what WELCOME says of inboxes and passwords
//! is empty, since a relay comes over HTTP alone.
//!
//! A session made with an enrolment string's PSK takes [`RelayRegister`] and
//! nothing else. In a registered relay's session every record is a
//! [`RelayReport`]. Its answer holds what the report shows to be missing
//! ([`RelaySettings`], [`RelayDenials`]) and ends with [`RelayHeard`]; with
//! nothing to say it waits as long as the report allows. So a post that waits is
//! always there, and what is new is there at once.
//!
//! [`HelloInfo`]: crate::item::HelloInfo
//! [`WelcomeInfo`]: crate::item::WelcomeInfo

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize as De, Serialize as Ser};

use crate::id::{DeviceId, Epoch, Name, OrganisationId, PublicKey, Secret};
use crate::item::{RequestId, item};

/// Where relays post.
pub const PATH: &str = "/api/v1/relay/session";
/// The longest that a report may let its answer wait, in seconds.
pub const MAX_WAIT_S: u8 = 50;
/// The longest version of a program, in bytes.
pub const VERSION_LEN: usize = 32;
/// The most denials in one answer.
pub const DENIALS: usize = 256;

/// Where clients find a relay, as it says itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Ser, De)]
pub struct RelayPlace {
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// UDP ports, the usual one first; 0 = none.
    pub udp: [u16; 2],
    /// Port of TURN over TCP; 0 = none.
    pub tcp: u16,
    /// Port of TURN over TLS; 0 = none.
    pub tls: u16,
}

crate::body!(struct RelayPlace { v4, v6, udp, tcp, tls });

item!(
    /// Request: to be taken in as a relay. Answered by [`RelayRegistered`] or
    /// [`crate::item::Refused`].
    100 RelayRegister {
        /// Id of this request.
        request: RequestId,
        /// The program's version.
        version: heapless::String<VERSION_LEN>,
    }
);

item!(
    /// Answer: this is a relay now.
    101 RelayRegistered {
        /// Of the request.
        request: RequestId,
        /// The relay's own PSK for HELLO with kind "device".
        psk: Secret,
        /// Version of the master that the PSK is derived from.
        master: u8,
        /// Its name.
        name: Name,
        /// What users' passwords at this relay and no other are made with; in
        /// Base64 it is the shared secret of TURN's REST scheme.
        secret: Secret,
        /// The address that the coordinator sees the relay at, if it knows.
        seen: Option<IpAddr>,
    }
);

item!(
    /// Request: how this relay is, and what it knows already.
    102 RelayReport {
        /// Seconds that the answer may wait for something new.
        wait_s: u8,
        /// The program's version.
        version: heapless::String<VERSION_LEN>,
        /// Where clients find it.
        place: RelayPlace,
        /// Allocations at this moment.
        allocations: u32,
        /// The most allocations that it makes.
        max_allocations: u32,
        /// Users who have some.
        users: u32,
        /// Whether it refuses new allocations because somebody at the machine
        /// wants it.
        draining: bool,
        /// [`RelaySettings::print`] of the settings in force; 0 = none.
        settings: u32,
        /// The life of the list of denials that it holds; 0 = none.
        epoch: Epoch,
        /// The revision of it that it has reached.
        denials: u64,
    }
);

item!(
    /// What the coordinator wants of the relay.
    103 RelaySettings {
        /// Tells these settings from others; never 0.
        print: u32,
        /// Its name.
        name: Name,
        /// As in [`RelayRegistered`].
        secret: Secret,
        /// Refuse new allocations.
        draining: bool,
        /// The key that the coordinator will have after this one, if that was
        /// announced.
        next_pin: Option<PublicKey>,
    }
);

/// A device that may or may not use relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub struct RelayDenial {
    /// Which device.
    pub device: DeviceId,
    /// Whose it is or was.
    pub organisation: OrganisationId,
    /// Whether it is denied; `false` = it was, and is no more.
    pub denied: bool,
}

crate::body!(struct RelayDenial { device, organisation, denied });

item!(
    /// Who is denied, from one revision to another.
    104 RelayDenials {
        /// The life of the list.
        epoch: Epoch,
        /// Where this begins; 0 = the list is whole, and who is not on it is not
        /// denied.
        from: u64,
        /// Where it ends.
        to: u64,
        /// Whether there is nothing behind it.
        last: bool,
        /// In the order in which it was decided.
        denials: heapless::Vec<RelayDenial, DENIALS>,
    }
);

item!(
    /// Answer: the report was taken.
    105 RelayHeard {
        /// Unix time in milliseconds; 0 = the coordinator's clock is not set.
        time_ms: u64,
    }
);

item!(
    /// Answer to whoever holds a PSK of this coordinator and is no relay any
    /// more: take no new clients.
    106 RelayUnknown {}
);
