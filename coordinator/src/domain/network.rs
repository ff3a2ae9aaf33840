//! Networks: one address range, one policy, one lease.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use weft_wire::id::{NetworkId, OrganisationId, PublicKey, Revision};
use weft_wire::map::Overlay;

use super::time::UnixMs;

/// Seconds that a map holds without word from the coordinator, by default.
pub const DEFAULT_LEASE_S: u32 = 7 * 86_400;
/// MTU of mesh interfaces by default, in bytes (the least that IPv6 allows).
pub const DEFAULT_MTU: u16 = 1_280;
/// How long the address of a deleted device rests beyond the lease.
pub const ADDRESS_REST: Duration = Duration::from_hours(24);

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// Its name, unique in the organisation.
    pub name: String,
    /// Its addresses.
    pub overlay: Overlay,
    /// MTU of mesh interfaces, in bytes.
    pub mtu: u16,
    /// Seconds of powered-on time that a map holds without word from here.
    pub lease_s: u32,
    /// Newest revision of its map.
    pub revision: Revision,
    /// Generation of the pairs' PSKs; a higher one makes new PSKs.
    pub psk_generation: u32,
    /// The coordinator's next key while a change is announced.
    pub next_pin: Option<PublicKey>,
    /// When it was made.
    pub created: UnixMs,
}

impl Network {
    /// Until when the address of a device that goes now is not given again.
    pub fn address_rests_until(&self, now: UnixMs) -> UnixMs {
        now.after(Duration::from_secs(u64::from(self.lease_s)) + ADDRESS_REST)
    }
}

/// What is needed to make a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name: a lower-case RFC 1123 label.
    pub name: String,
    /// Its addresses.
    pub overlay: Overlay,
    /// MTU of mesh interfaces, in bytes.
    pub mtu: u16,
    /// Seconds that a map holds without word from here.
    pub lease_s: u32,
}

/// Draws an overlay from random bytes: a /16 out of 100.80.0.0-100.127.255.255
/// (never 100.64.0.0/16, which carriers give to modems) and a ULA /48 with a
/// random 40-bit id (RFC 4193 section 3.2).
pub fn random_overlay(random: [u8; 6]) -> Overlay {
    let [second, id @ ..] = random;
    let mut ipv6 = [0xfd; 6];
    ipv6[1..].copy_from_slice(&id);
    // 48 of 256 do not divide evenly; the skew is of no use to anybody.
    Overlay { ipv4: Ipv4Addr::new(100, 80 + second % 48, 0, 0), ipv4_len: 16, ipv6 }
}

/// Ranges that a mesh may take its addresses from: the private ones of RFC 1918,
/// and of the carriers' shared one (RFC 6598) the part that they do not give to
/// modems. First address and prefix length.
const MESH_RANGES: [(Ipv4Addr, u8); 5] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(100, 80, 0, 0), 12),
    (Ipv4Addr::new(100, 96, 0, 0), 11),
];

/// Whether a mesh may take its addresses from this prefix.
pub fn is_mesh_range(first: Ipv4Addr, len: u8) -> bool {
    MESH_RANGES.iter().any(|(range, range_len)| {
        let mask = u32::MAX << (32 - u32::from(*range_len));
        len >= *range_len && first.to_bits() & mask == range.to_bits()
    })
}

/// The host number behind an address of the overlay, if it is one.
pub fn host_of(overlay: &Overlay, address: IpAddr) -> Option<u32> {
    let host = match address {
        IpAddr::V4(v4) => v4.to_bits() ^ overlay.ipv4.to_bits(),
        IpAddr::V6(v6) => u32::from_be_bytes(*v6.octets().last_chunk::<4>()?),
    };
    let known = overlay.hosts().contains(&host)
        && match address {
            IpAddr::V4(v4) => overlay.address_v4(host) == v4,
            IpAddr::V6(v6) => overlay.address_v6(host) == v6,
        };
    known.then_some(host)
}

/// How many devices an overlay has room for.
pub const fn capacity(overlay: &Overlay) -> u32 {
    let hosts = overlay.hosts();
    *hosts.end() + 1 - *hosts.start()
}

/// Both addresses of a host as people read them, IPv4 first.
pub fn addresses(overlay: &Overlay, host: u32) -> [IpAddr; 2] {
    [overlay.address_v4(host).into(), overlay.address_v6(host).into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_keep_out_of_the_carriers_range() {
        for second in 0..=255 {
            let overlay = random_overlay([second, 1, 2, 3, 4, 5]);
            let [a, b, c, d] = overlay.ipv4.octets();
            assert_eq!((a, c, d), (100, 0, 0));
            assert!((80..=127).contains(&b), "{b}");
            assert_eq!(overlay.ipv6, [0xfd, 1, 2, 3, 4, 5]);
        }
    }

    #[test]
    fn a_mesh_takes_nobodys_addresses() {
        let is = |text: &str| {
            let (first, len) = text.split_once('/').unwrap();
            is_mesh_range(first.parse().unwrap(), len.parse().unwrap())
        };
        for range in ["10.0.0.0/8", "10.77.0.0/16", "172.16.0.0/12", "192.168.7.0/24"] {
            assert!(is(range), "{range}");
        }
        for range in ["100.80.0.0/16", "100.127.0.0/16", "100.96.0.0/11"] {
            assert!(is(range), "{range}");
        }
        for range in ["100.64.0.0/16", "100.64.0.0/10", "100.79.0.0/16", "169.254.0.0/16"] {
            assert!(!is(range), "{range}");
        }
        for range in ["8.0.0.0/8", "203.0.113.0/24", "172.0.0.0/8", "192.168.0.0/15"] {
            assert!(!is(range), "{range}");
        }
    }

    #[test]
    fn addresses_and_hosts_are_one() {
        let overlay = random_overlay([13, 1, 2, 3, 4, 5]);
        assert_eq!(capacity(&overlay), 65_533);
        for host in [2, 3, 256, 65_534] {
            for address in addresses(&overlay, host) {
                assert_eq!(host_of(&overlay, address), Some(host));
            }
        }
        for foreign in ["100.93.0.1", "100.93.255.255", "100.94.0.2", "fd01:203:405::1", "::2"] {
            assert_eq!(host_of(&overlay, foreign.parse().unwrap()), None, "{foreign}");
        }
    }
}
