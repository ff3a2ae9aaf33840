//! Kinds of traffic as people write and read them: `any`, `icmp`, `tcp/22`,
//! `udp/5000-5010`, `ip/47`.

use core::fmt;

use crate::map::Rule;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Packets of one protocol to a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Traffic {
    /// IANA's number; 0 = any.
    pub protocol: u8,
    /// First destination port.
    pub first_port: u16,
    /// Last destination port.
    pub last_port: u16,
}

impl Traffic {
    /// Everything.
    pub const ANY: Self = Self { protocol: 0, first_port: 0, last_port: u16::MAX };
    /// ICMP of both families: one to people.
    pub const ICMP: [Self; 2] = [Self::whole(ICMP), Self::whole(ICMPV6)];

    /// A protocol with all of its ports.
    pub const fn whole(protocol: u8) -> Self {
        Self { protocol, ..Self::ANY }
    }

    const fn has_ports(self) -> bool {
        !(self.first_port == 0 && self.last_port == u16::MAX)
    }

    /// Whether all of `inner` is of this kind.
    pub const fn holds(self, inner: Self) -> bool {
        let protocol = self.protocol == 0 || self.protocol == inner.protocol;
        protocol && self.first_port <= inner.first_port && inner.last_port <= self.last_port
    }
}

impl From<Rule> for Traffic {
    fn from(rule: Rule) -> Self {
        let Rule { protocol, first_port, last_port, .. } = rule;
        Self { protocol, first_port, last_port }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            0 => f.write_str("any")?,
            ICMP => f.write_str("icmp4")?,
            ICMPV6 => f.write_str("icmp6")?,
            TCP => f.write_str("tcp")?,
            UDP => f.write_str("udp")?,
            other => write!(f, "ip/{other}")?,
        }
        match (self.has_ports(), self.first_port == self.last_port) {
            (false, _) => Ok(()),
            (true, true) => write!(f, "/{}", self.first_port),
            (true, false) => write!(f, "/{}-{}", self.first_port, self.last_port),
        }
    }
}

/// A text that names no traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTraffic;

/// What people may write.
pub const EXAMPLES: &str = "any, icmp, tcp, tcp/22, udp/5000-5010 or ip/47";

/// Reads `tcp/22`, `icmp` (both families), `any` … to one kind, or to two.
///
/// # Errors
///
/// [`NoTraffic`].
pub fn parse(text: &str) -> Result<(Traffic, Option<Traffic>), NoTraffic> {
    let (name, ports) = match text.split_once('/') {
        None => (text, None),
        Some((name, ports)) => (name, Some(ports)),
    };
    let one = match (name, ports) {
        ("icmp", None) => return Ok((Traffic::ICMP[0], Some(Traffic::ICMP[1]))),
        ("any", None) => Traffic::ANY,
        ("icmp4", None) => Traffic::whole(ICMP),
        ("icmp6", None) => Traffic::whole(ICMPV6),
        ("tcp", None) => Traffic::whole(TCP),
        ("udp", None) => Traffic::whole(UDP),
        ("tcp" | "udp", Some(ports)) => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let port = |text: &str| text.parse::<u16>().map_err(|_| NoTraffic);
            let (first_port, last_port) = (port(first)?, port(last)?);
            if first_port == 0 || last_port < first_port {
                return Err(NoTraffic);
            }
            let protocol = if name == "tcp" { TCP } else { UDP };
            Traffic { protocol, first_port, last_port }
        }
        ("ip", Some(number)) => match number.parse() {
            Ok(protocol @ 1..) => Traffic::whole(protocol),
            _ => return Err(NoTraffic),
        },
        _ => return Err(NoTraffic),
    };
    Ok((one, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["any", "icmp4", "icmp6", "tcp", "udp/53", "tcp/8000-8080", "ip/47"] {
            let (one, two) = parse(text).unwrap();
            assert_eq!((one.to_string().as_str(), two), (text, None));
        }
        assert_eq!(parse("icmp"), Ok((Traffic::ICMP[0], Some(Traffic::ICMP[1]))));
        for wrong in ["", "ssh", "tcp/", "tcp/0", "tcp/9-8", "tcp/65536", "ip/0", "any/1", "icmp/8"]
        {
            assert_eq!(parse(wrong), Err(NoTraffic), "{wrong}");
        }
    }

    #[test]
    fn a_kind_holds_another_with_all_of_its_ports() {
        let kind = |text| parse(text).unwrap().0;
        assert!(kind("tcp").holds(kind("tcp/22")) && kind("any").holds(kind("udp/53")));
        assert!(kind("tcp/20-30").holds(kind("tcp/22-30")));
        assert!(!kind("tcp/22").holds(kind("tcp")) && !kind("udp").holds(kind("tcp/22")));
        assert!(!kind("tcp/20-30").holds(kind("tcp/22-31")));
    }
}
