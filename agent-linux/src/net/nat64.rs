//! IPv4 addresses for a host that has IPv6 alone: the network's translator (NAT64,
//! RFC 6146) reaches them under a prefix of its own (RFC 6052), which its name server
//! gives away by answering for a name that has IPv4 addresses only (RFC 7050).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The name that is asked for, and its addresses.
pub(crate) const NAME: &str = "ipv4only.arpa:0";
const KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// Lengths that a prefix may have, in bits. The longest is by far the usual one.
const LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];

/// Under which IPv4 addresses lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// The bits behind its length are zero.
    address: Ipv6Addr,
    len: u8,
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// Places of an IPv4 address's bytes in an IPv6 address: bits 64 to 71 are left out.
fn places(len: u8) -> impl Iterator<Item = usize> {
    (usize::from(len / 8)..).filter(|place| *place != 8).take(4)
}

impl Prefix {
    /// A prefix of one of the six lengths.
    pub(crate) fn new(address: Ipv6Addr, len: u8) -> Option<Self> {
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let address = Ipv6Addr::from_bits(address.to_bits() & mask);
        LENGTHS.contains(&len).then_some(Self { address, len })
    }

    /// What the answer for [`NAME`] tells; `None` = there is no translator.
    pub(crate) fn found(answer: &[SocketAddr]) -> Option<Self> {
        let six = answer.iter().filter_map(|one| match one {
            SocketAddr::V6(one) => Some(*one.ip()),
            SocketAddr::V4(_) => None,
        });
        // An address may look like several lengths: the usual one counts.
        six.flat_map(|address| LENGTHS.map(|len| (address, len))).find_map(|(address, len)| {
            let prefix = Self::new(address, len)?;
            prefix.extract(address).filter(|ip| KNOWN.contains(ip)).map(|_| prefix)
        })
    }

    /// Where an IPv4 address lies.
    pub(crate) fn embed(self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.address.octets();
        for (place, octet) in places(self.len).zip(address.octets()) {
            octets[place] = octet;
        }
        octets.into()
    }

    /// The IPv4 address that lies there.
    pub(crate) fn extract(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = address.octets();
        let mut four = [0; 4];
        for (octet, place) in four.iter_mut().zip(places(self.len)) {
            *octet = octets[place];
        }
        let four = Ipv4Addr::from(four);
        (self.embed(four) == address).then_some(four)
    }

    /// Where a socket for IPv6 sends what is for there.
    pub(crate) fn outwards(self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(four) => (self.embed(*four.ip()), four.port()).into(),
            SocketAddr::V6(_) => to,
        }
    }

    /// Who it is that a socket for IPv6 hears from there.
    pub(crate) fn inwards(self, from: SocketAddr) -> SocketAddr {
        let SocketAddr::V6(six) = from else { return from };
        self.extract(*six.ip()).map_or(from, |ip| (ip, six.port()).into())
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn addresses_lie_where_rfc_6052_says() {
        // Section 2.4.
        for (prefix, len, text) in [
            ("2001:db8::", 32, "2001:db8:c000:221::"),
            ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
            ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
        ] {
            let prefix = Prefix::new(prefix.parse().unwrap(), len).unwrap();
            let there: Ipv6Addr = text.parse().unwrap();
            let four = Ipv4Addr::new(192, 0, 2, 33);
            assert_eq!((prefix.embed(four), prefix.extract(there)), (there, Some(four)), "{len}");
            let to = SocketAddr::from((four, 3_478));
            assert_eq!(prefix.inwards(prefix.outwards(to)), to);
        }
        assert_eq!(Prefix::new(Ipv6Addr::LOCALHOST, 72), None);
        let prefix = Prefix::new("2001:db8:64::".parse().unwrap(), 96).unwrap();
        let other: SocketAddr = "[2001:db8::7]:51871".parse().unwrap();
        assert_eq!((prefix.inwards(other), prefix.outwards(other)), (other, other));
    }

    #[test]
    fn the_answer_for_the_known_name_tells_the_prefix() {
        let answer = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| (text.parse::<std::net::IpAddr>().unwrap(), 0).into()).collect()
        };
        let plain = answer(&["192.0.0.170", "192.0.0.171"]);
        assert_eq!(Prefix::found(&plain), None, "nobody translates");
        assert_eq!(Prefix::found(&answer(&["2001:db8::1"])), None);
        for (first, len) in [("64:ff9b::", 96), ("2001:db8:1:64::", 96), ("2001:db8:122::", 48)] {
            let prefix = Prefix::new(first.parse().unwrap(), len).unwrap();
            let known = KNOWN.map(|ip| SocketAddr::from((prefix.embed(ip), 0)));
            assert_eq!(Prefix::found(&[plain[0], known[1]]), Some(prefix));
        }
    }
}
