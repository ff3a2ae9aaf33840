//! Relays: TURN servers, ours or of others, that devices may use.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_wire::relay;

/// A relay as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRelay {
    /// Its name, a lower-case RFC 1123 label.
    pub name: String,
    /// Where it stands, or empty.
    pub region: String,
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

impl NewRelay {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Where it answers STUN.
    pub fn stun(&self) -> impl Iterator<Item = SocketAddr> {
        let port = self.udp.into_iter().find(|port| *port != 0);
        self.addresses().filter_map(move |address| Some((address, port?).into()))
    }
}

/// `fra1 203.0.113.10 2001:db8::10 3478/udp 443/tcp`.
impl fmt::Display for NewRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.addresses().try_for_each(|address| write!(f, " {address}"))?;
        let udp = self.udp.map(|port| (port, "udp"));
        for (port, protocol) in udp.into_iter().chain([(self.tcp, "tcp"), (self.tls, "tls")]) {
            if port != 0 {
                write!(f, " {port}/{protocol}")?;
            }
        }
        Ok(())
    }
}

/// A relay with the number by which devices know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Unique, and the same as long as its name is configured.
    pub number: u16,
    /// What it is.
    pub is: NewRelay,
}

impl Relay {
    /// What devices are told of it.
    pub const fn to_wire(&self) -> relay::Relay {
        let NewRelay { v4, v6, udp, tcp, tls, .. } = self.is;
        relay::Relay { number: self.number, v4, v6, udp, tcp, tls }
    }
}

/// Numbers relays: one that has a name which is known keeps its number.
pub fn numbered(known: &[Relay], wanted: Vec<NewRelay>) -> Vec<Relay> {
    let mut last = known.iter().map(|relay| relay.number).max().unwrap_or(0);
    let number = |relay: NewRelay| {
        let old = known.iter().find(|one| one.is.name == relay.name).map(|one| one.number);
        let number = old.unwrap_or_else(|| {
            last = last.saturating_add(1);
            last
        });
        Relay { number, is: relay }
    };
    wanted.into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(name: &str) -> NewRelay {
        NewRelay {
            name: name.to_owned(),
            region: String::new(),
            v4: Some([203, 0, 113, 10].into()),
            v6: Some("2001:db8::10".parse().unwrap()),
            udp: [3_478, 443],
            tcp: 443,
            tls: 0,
        }
    }

    #[test]
    fn a_name_keeps_its_number() {
        let numbers = |relays: &[Relay]| relays.iter().map(|one| one.number).collect::<Vec<_>>();
        let first = numbered(&[], vec![relay("fra1"), relay("sgp1")]);
        assert_eq!(numbers(&first), [1, 2]);
        let moved = NewRelay { v6: None, ..relay("sgp1") };
        let second = numbered(&first, vec![relay("nyc1"), moved.clone()]);
        assert_eq!(numbers(&second), [3, 2]);
        assert_eq!(second[1].is, moved);
    }

    #[test]
    fn says_where_it_is() {
        let fra1 = relay("fra1");
        assert_eq!(fra1.to_string(), "fra1 203.0.113.10 2001:db8::10 3478/udp 443/udp 443/tcp");
        let stun: Vec<_> = fra1.stun().map(|address| address.to_string()).collect();
        assert_eq!(stun, ["203.0.113.10:3478", "[2001:db8::10]:3478"]);
        let no_udp = NewRelay { udp: [0; 2], ..fra1 };
        assert_eq!(no_udp.stun().count(), 0);
    }
}
