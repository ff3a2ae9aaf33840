//! What an operator decides, as far as `proto` is concerned.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::ops::RangeInclusive;

use zeroize::Zeroizing;

use super::policy::Policy;

/// A secret that the passwords of time-limited users are made with.
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl SharedSecret {
    /// The secret of these bytes, at least one.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Settings of the relay. [`Settings::default`] relays nothing: it has neither
/// secret nor address.
pub struct Settings {
    /// The realm of the credentials.
    pub realm: String,
    /// Secrets of time-limited users; more than one while they change.
    pub secrets: Vec<SharedSecret>,
    /// The address of IPv4 allocations as peers see it.
    pub relay_v4: Option<Ipv4Addr>,
    /// The address of IPv6 allocations as peers see it.
    pub relay_v6: Option<Ipv6Addr>,
    /// Ports of allocations.
    pub ports: RangeInclusive<u16>,
    /// Addresses of the UDP sockets, as bound.
    pub listeners: Vec<SocketAddr>,
    /// For each UDP socket those with the other address, the other port, and
    /// both (RFC 5780).
    pub alternates: Vec<Alternates>,
    /// Own addresses: nothing is relayed to them unless [`Policy`] names them.
    pub own: Vec<IpAddr>,
    /// Where may be relayed to.
    pub policy: Policy,
    /// Most allocations.
    pub max_allocations: u32,
    /// Most allocations of one user.
    pub max_per_user: u32,
    /// Most allocations of users with the same part behind `@`.
    pub max_per_organisation: u32,
    /// Most permissions of one allocation.
    pub max_permissions: u16,
    /// Most channels of one allocation.
    pub max_channels: u16,
    /// Longest lifetime in seconds.
    pub max_lifetime_s: u32,
    /// Bytes per second of one allocation, both directions together; 0 for any.
    pub bytes_per_s: u64,
    /// Seconds after which a nonce is stale.
    pub nonce_s: u32,
    /// Who takes new allocations while this one drains.
    pub alternate: Option<SocketAddr>,
}

/// The other sockets of one (RFC 5780 section 6), by their place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alternates {
    /// Same address, other port.
    pub port: Option<u8>,
    /// Other address, same port.
    pub address: Option<u8>,
    /// Other address, other port.
    pub both: Option<u8>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            realm: "weft".to_owned(),
            secrets: Vec::new(),
            relay_v4: None,
            relay_v6: None,
            ports: 49_152..=65_535,
            listeners: Vec::new(),
            alternates: Vec::new(),
            own: Vec::new(),
            policy: Policy::default(),
            max_allocations: 10_000,
            max_per_user: 16,
            max_per_organisation: 4_096,
            max_permissions: 128,
            max_channels: 128,
            max_lifetime_s: 3_600,
            bytes_per_s: 0,
            nonce_s: 600,
            alternate: None,
        }
    }
}
