//! Which addresses may be relayed to.
//!
//! A relay inside a network is a door into it, so everything that is not the
//! internet is closed unless an operator opens it. Addresses that hold others
//! (IPv4-mapped, NAT64, 6to4) are judged by what they hold: coturn's
//! CVE-2020-26262 and CVE-2026-27624 were holes of that kind.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// A range of addresses, `10.0.0.0/8` or `2001:db8::/32` or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    ip: IpAddr,
    len: u8,
}

impl Prefix {
    /// Whether the address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differ = own.to_bits() ^ ip.to_bits();
                differ.checked_shr(32 - u32::from(self.len)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differ = own.to_bits() ^ ip.to_bits();
                differ.checked_shr(128 - u32::from(self.len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Why a text is no [`Prefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPrefix;

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let (ip, len) = match text.split_once('/') {
            Some((ip, len)) => (ip, Some(len)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| NotAPrefix)?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let len = match len {
            Some(text) => text.parse().map_err(|_| NotAPrefix)?,
            None => most,
        };
        if len > most { Err(NotAPrefix) } else { Ok(Self { ip, len }) }
    }
}

/// What an operator opens and closes beyond the rules of the house. Closed wins
/// over opened, opened over the rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Opened.
    pub allow: Vec<Prefix>,
    /// Closed.
    pub deny: Vec<Prefix>,
}

/// What may be done with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Relay to it.
    Open,
    /// Only to allocations of this server that have it.
    Allocations,
    /// Nothing.
    Closed,
}

impl Policy {
    /// Judges a peer's address; `relays` are those of allocations, `own` all
    /// others of this machine.
    pub(super) fn judge(&self, ip: IpAddr, relays: [Option<IpAddr>; 2], own: &[IpAddr]) -> Verdict {
        let inner = held(ip);
        let any = |list: &[Prefix]| {
            list.iter()
                .any(|prefix| prefix.contains(ip) || inner.is_some_and(|ip| prefix.contains(ip)))
        };
        if any(&self.deny) {
            return Verdict::Closed;
        }
        if any(&self.allow) {
            return Verdict::Open;
        }
        if relays.contains(&Some(ip)) {
            return Verdict::Allocations;
        }
        let is_own = |ip: IpAddr| own.contains(&ip) || relays.contains(&Some(ip));
        let closed =
            is_own(ip) || is_special(ip) || inner.is_some_and(|ip| is_own(ip) || is_special(ip));
        if closed { Verdict::Closed } else { Verdict::Open }
    }
}

/// The IPv4 address inside an IPv6 address.
fn held(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    let segments = ip.segments();
    let bits = ip.to_bits();
    let low = Ipv4Addr::from_bits(bits as u32);
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xFFFF, ..] | [0x64, 0xFF9B, ..] => Some(low.into()),
        [0x2002, ..] => Some(Ipv4Addr::from_bits((bits >> 80) as u32).into()),
        // ISATAP, in any network.
        [_, _, _, _, 0 | 0x200, 0x5EFE, ..] => Some(low.into()),
        _ => None,
    }
}

/// Whether an address is not one host on the internet (RFC 6890).
fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_special_v4(ip),
        IpAddr::V6(ip) => is_special_v6(ip),
    }
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (b & 0xC0) == 64;
    let protocols = a == 192 && b == 0 && c == 0;
    let benchmarks = a == 198 && (b & 0xFE) == 18;
    a == 0
        || a >= 240
        || shared
        || protocols
        || benchmarks
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
}

fn is_special_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    let teredo = first == 0x2001 && second == 0;
    let site_local = first & 0xFFC0 == 0xFEC0;
    let local_nat64 = first == 0x64 && second == 0xFF9B && ip.segments()[2] == 1;
    teredo
        || site_local
        || local_nat64
        || ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_multicast()
        || ip.is_unicast_link_local()
        || ip.is_unique_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(policy: &Policy, text: &str) -> Verdict {
        let relays = [Some("203.0.113.10".parse().unwrap()), Some("2001:db8::10".parse().unwrap())];
        policy.judge(text.parse().unwrap(), relays, &["203.0.113.11".parse().unwrap()])
    }

    #[test]
    fn every_way_to_write_an_inner_address_is_closed() {
        for closed in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.93.0.2",
            "169.254.169.254",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "203.0.113.11",
            "::",
            "::1",
            "::2",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:203.0.113.11",
            "::ffff:203.0.113.10",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "2001::1",
            "2001:0:53aa:64c::1",
            "2001:db8::5efe:10.0.0.1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd5c:7e0a:91b3::1",
            "ff02::1",
        ] {
            assert_eq!(judge(&Policy::default(), closed), Verdict::Closed, "{closed}");
        }
        for open in
            ["1.1.1.1", "203.0.113.12", "2001:db8::11", "2606:4700::1111", "64:ff9b::101:101"]
        {
            assert_eq!(judge(&Policy::default(), open), Verdict::Open, "{open}");
        }
        for relay in ["203.0.113.10", "2001:db8::10"] {
            assert_eq!(judge(&Policy::default(), relay), Verdict::Allocations);
        }
    }

    #[test]
    fn an_operator_opens_and_closes() {
        let list = |text: &str| vec![text.parse().unwrap()];
        let policy = Policy { allow: list("10.0.0.0/8"), deny: list("10.1.0.0/16") };
        assert_eq!(judge(&policy, "10.2.0.1"), Verdict::Open);
        assert_eq!(judge(&policy, "::ffff:10.2.0.1"), Verdict::Open);
        assert_eq!(judge(&policy, "10.1.0.1"), Verdict::Closed);
        assert_eq!(judge(&policy, "64:ff9b::a01:1"), Verdict::Closed);
        assert_eq!(judge(&policy, "127.0.0.1"), Verdict::Closed);
        let all = Policy { allow: list("0.0.0.0/0"), deny: Vec::new() };
        assert_eq!(judge(&all, "127.0.0.1"), Verdict::Open);
        assert_eq!(judge(&all, "::1"), Verdict::Open, "it holds 0.0.0.1");
        assert_eq!(judge(&all, "fe80::1"), Verdict::Closed);
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "a/8", "10.0.0.0/", "1.1.1.1/-1"] {
            assert_eq!(wrong.parse::<Prefix>(), Err(NotAPrefix), "{wrong}");
        }
    }
}
