//! Which relays a device may use, and with which credentials.
//!
//! The list changes rarely and is part of the map; credentials change with
//! time and are asked for, so that a device that never needs a relay causes
//! nothing.

use core::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize as De, Serialize as Ser};
use zeroize::Zeroize as _;

use crate::id::Name;
use crate::item::{RequestId, item};

/// The most relays in a map.
pub const RELAYS: usize = 4;

/// The longest user name of a relay, in bytes: `EXPIRY:DEVICE@ORGANISATION` with an
/// expiry of up to 14 digits fits.
pub const RELAY_USER_LEN: usize = 48;

/// A TURN server (RFC 8656). It has an address of one family at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Ser, De)]
pub struct Relay {
    /// Names it in [`RelayGrant`] and in reports; unique in the network.
    pub number: u16,
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

crate::body!(struct Relay { number, v4, v6, udp, tcp, tls });

item!(
    /// Op: the complete list of relays.
    48 Relays {
        /// Those that the coordinator would try first come first.
        relays: heapless::Vec<Relay, RELAYS>,
    }
);

/// What people call a relay.
#[derive(Clone, Debug, PartialEq, Eq, Ser, De)]
pub struct RelayName {
    /// [`Relay::number`].
    pub relay: u16,
    /// A lower-case RFC 1123 label.
    pub name: Name,
}

crate::body!(struct RelayName { relay, name });

item!(
    /// Op: the names of the relays of [`Relays`]. A device that holds its peers on
    /// demand is not told them: nobody asks it.
    50 RelayNames {
        /// Their complete list.
        names: heapless::Vec<RelayName, RELAYS>,
    }
);

item!(
    /// Request: credentials for the relays of the map. Answered by
    /// [`RelayGrant`].
    30 RelayAsk {
        /// Id of this request.
        request: RequestId,
    }
);

/// What a password at a relay is made of: the MAC that shared-secret relays
/// compute of the user name (HMAC-SHA1). Written in Base64 it is the password.
/// Erased when dropped; no `Debug`, no `Clone`, no comparison.
#[derive(Ser, De)]
pub struct RelayMac(pub [u8; 20]);

crate::body!(struct RelayMac { 0 });

impl RelayMac {
    /// A second copy, named so that every place that makes one is found.
    pub const fn duplicate(&self) -> Self {
        Self(self.0)
    }
}

impl Drop for RelayMac {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The credential at one relay.
#[derive(Ser, De)]
pub struct RelayLogin {
    /// [`Relay::number`].
    pub relay: u16,
    /// Its password's MAC.
    pub mac: RelayMac,
}

crate::body!(struct RelayLogin { relay, mac });

item!(
    /// Answer: credentials as relays with a shared secret take them, ours and
    /// coturn's.
    31 RelayGrant {
        /// Of the request.
        request: RequestId,
        /// The user name at every relay; begins with the Unix time at which it
        /// expires.
        user: heapless::String<RELAY_USER_LEN>,
        /// Seconds until then. New ones are asked for at half.
        lifetime_s: u32,
        /// One per relay that this device may use; none = it may use none.
        logins: heapless::Vec<RelayLogin, RELAYS>,
    }
);

impl RelayGrant {
    /// The Unix time in seconds at which they end, which the user's name begins
    /// with; `None` = it does not.
    pub fn expiry_s(&self) -> Option<u64> {
        self.user.split_once(':')?.0.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_name_says_when_credentials_end() {
        let expiry_s = |user: &str| {
            let user = heapless::String::try_from(user).unwrap();
            let logins = heapless::Vec::new();
            RelayGrant { request: 1, user, lifetime_s: 60, logins }.expiry_s()
        };
        assert_eq!(expiry_s("1800604800:dev_2j7m5ctnuzov"), Some(1_800_604_800));
        for user in ["dev_2j7m5ctnuzov", ":1030", "-5:x", "1030", ""] {
            assert_eq!(expiry_s(user), None, "{user}");
        }
    }
}
