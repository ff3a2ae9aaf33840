//! NAT boxes out of the kernel: what each kind is called, and its rule set.
//!
//! Every rule set was seen from inside to behave as named (`weft-lab run nats`
//! looks again). Five traps are behind their form:
//!
//! - Frames of a bridge run through the IP hooks of NAT unless
//!   `bridge-nf-call-iptables` is 0, and hairpinning silently dies.
//! - nft wants a line's end before `}`, and `fwd` and `mark` are its words.
//! - `numgen` and `jhash` give a number in the machine's order while a port is
//!   big-endian: a step of 1 is a map.
//! - Without a drop in the input hook, a datagram that nobody asked for becomes a
//!   flow of the box itself, and a later mapping towards its sender must make
//!   room. That is the kind `nofw`; every other one has the drop.
//! - A filter chain that learns mappings runs after conntrack and sees every
//!   packet; a nat chain sees the first one of a flow only.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A kind of box, or of boxes behind each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Everything that arrives goes to one host.
    Open,
    FullCone,
    AdCone,
    /// Port-restricted cone with a firewall: a home router.
    Prc,
    /// The same without a firewall.
    NoFw,
    SymSeq,
    SymWin,
    SymRand,
    /// Symmetric; whatever comes to a mapping is let in.
    SymEif,
    /// A home router behind a carrier's block of ports.
    Cgnat,
    Blocked,
    /// A sequence with a step of 2.
    SymSeq2,
    /// UDP to ports 53 and 443 only.
    Udp443,
    /// Endpoint-independent, and another port than the host's.
    Moved,
    /// A mapping per far address.
    AdMap,
    /// A carrier's block of ports alone.
    Block,
    ConeHairpin,
    PrcHairpin,
    /// A home router behind a home router.
    Double,
    /// IPv6 alone inside.
    Nat64,
    /// Public IPv6 without a firewall, and no UDP over IPv4.
    SixOpen,
    /// The same with a firewall.
    SixFw,
    /// Flows live for [`SHORT_LIFE`].
    Short,
    /// No more than [`SMALL_TABLE`] flows.
    Small,
}

/// Life of a flow without a stream behind a [`Kind::Short`].
pub(crate) const SHORT_LIFE: Duration = Duration::from_secs(3);
/// Flows of a [`Kind::Small`].
pub(crate) const SMALL_TABLE: usize = 512;
/// A carrier's block: aligned, as carriers cut them.
const BLOCK: &str = "20480-20991";
/// Ports of a sequence before it begins anew.
const SEQUENCE: u16 = 4_096;

impl Kind {
    /// Those of the path matrix.
    pub(crate) const MATRIX: [Self; 11] = [
        Self::Open,
        Self::FullCone,
        Self::AdCone,
        Self::Prc,
        Self::NoFw,
        Self::SymSeq,
        Self::SymWin,
        Self::SymRand,
        Self::SymEif,
        Self::Cgnat,
        Self::Blocked,
    ];

    /// The others.
    pub(crate) const FURTHER: [Self; 11] = [
        Self::SymSeq2,
        Self::Udp443,
        Self::Moved,
        Self::AdMap,
        Self::Block,
        Self::ConeHairpin,
        Self::PrcHairpin,
        Self::Double,
        Self::Nat64,
        Self::Short,
        Self::Small,
    ];

    /// Those of the path matrix with IPv6.
    pub(crate) const SIX: [Self; 3] = [Self::SixOpen, Self::SixFw, Self::Nat64];

    /// Whether its hosts need an internet with IPv6.
    pub(crate) const fn wants_ipv6(self) -> bool {
        matches!(self, Self::SixOpen | Self::SixFw)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "fullcone",
            Self::AdCone => "adcone",
            Self::Prc => "prc",
            Self::NoFw => "nofw",
            Self::SymSeq => "symseq",
            Self::SymWin => "symwin",
            Self::SymRand => "symrand",
            Self::SymEif => "symeif",
            Self::Cgnat => "cgnat",
            Self::Blocked => "blocked",
            Self::SymSeq2 => "symseq2",
            Self::Udp443 => "udp443",
            Self::Moved => "moved",
            Self::AdMap => "admap",
            Self::Block => "block",
            Self::ConeHairpin => "cone-hairpin",
            Self::PrcHairpin => "prc-hairpin",
            Self::Double => "double",
            Self::Nat64 => "nat64",
            Self::SixOpen => "six-open",
            Self::SixFw => "six-fw",
            Self::Short => "short",
            Self::Small => "small",
        }
    }

    /// The box at the provider, for a site that has one.
    pub(crate) const fn carrier(self) -> Option<Self> {
        match self {
            Self::Cgnat => Some(Self::Block),
            Self::Double => Some(Self::Prc),
            _ => None,
        }
    }

    /// The program, or its package, without which there is no such site.
    pub(crate) const fn needs(self) -> &'static str {
        match self {
            Self::Nat64 => "tayga",
            _ => "nft",
        }
    }

    /// What `nft -f -` reads in a box with the outer address `wan`, in front of
    /// `host`.
    pub(crate) fn rules(self, wan: Ipv4Addr, host: Ipv4Addr) -> String {
        let mut text = String::new();
        if !matches!(self, Self::Open | Self::NoFw) {
            text.push_str(FIREWALL);
        }
        text.push_str(&self.limits());
        let _infallible = write!(
            text,
            "table ip nat {{\n{}  chain post {{\n    type nat hook postrouting priority 100;\n",
            self.inwards(wan, host)
        );
        if self.hairpin() {
            let _infallible = writeln!(
                text,
                "    iifname \"lan\" oifname \"lan\" ct status dnat meta l4proto udp snat to {wan};"
            );
        }
        if let Some(source) = self.source(wan, host) {
            // Other protocols must not use up what UDP is seen by.
            let _infallible = writeln!(text, "    oifname \"wan\" meta l4proto udp {source};");
        }
        text.push_str("    oifname \"wan\" masquerade;\n  }\n}\n");
        text
    }

    /// Whether it keeps a map of mappings besides conntrack's table.
    pub(crate) const fn learns(self) -> bool {
        matches!(
            self,
            Self::FullCone | Self::AdCone | Self::SymEif | Self::ConeHairpin | Self::PrcHairpin
        )
    }

    const fn hairpin(self) -> bool {
        matches!(self, Self::ConeHairpin | Self::PrcHairpin)
    }

    /// How UDP gets its public port, where that is not the host's own.
    fn source(self, wan: Ipv4Addr, host: Ipv4Addr) -> Option<String> {
        let hashed = "mod 20000 offset 30000";
        Some(match self {
            Self::SymSeq => format!("snat to {wan} : {}", sequence(1)),
            Self::SymSeq2 => format!("snat to {wan} : {}", sequence(2)),
            Self::SymWin => format!("snat to {wan} : {BLOCK} fully-random"),
            Self::SymRand | Self::SymEif => "masquerade fully-random".to_owned(),
            Self::Block => format!("ip saddr {host} snat to {wan} : {BLOCK}"),
            Self::Moved => format!("snat to {wan} : jhash ip saddr . udp sport {hashed}"),
            Self::AdMap => {
                format!("snat to {wan} : jhash ip saddr . udp sport . ip daddr {hashed}")
            }
            _ => return None,
        })
    }

    /// Chains that let strangers in.
    fn inwards(self, wan: Ipv4Addr, host: Ipv4Addr) -> String {
        match self {
            Self::Open => prerouting(&format!("iifname \"wan\" meta l4proto udp dnat to {host}")),
            Self::FullCone | Self::SymEif => {
                learnt(false, &format!("iifname \"wan\" ip daddr {wan}"), false)
            }
            Self::AdCone => learnt(true, &format!("iifname \"wan\" ip daddr {wan}"), false),
            Self::ConeHairpin => learnt(false, &format!("ip daddr {wan}"), true),
            Self::PrcHairpin => learnt(false, &format!("iifname \"lan\" ip daddr {wan}"), true),
            _ => String::new(),
        }
    }

    /// Chains that let less out.
    fn limits(self) -> String {
        let rule = match self {
            Self::Blocked | Self::SixOpen | Self::SixFw => "meta l4proto udp drop",
            Self::Udp443 => {
                "meta l4proto udp udp dport != { 53, 443 } udp sport != { 53, 443 } drop"
            }
            // The kernel's own limit is one for all namespaces.
            Self::Small => &format!("ct state new ct count over {SMALL_TABLE} drop"),
            _ => return String::new(),
        };
        format!(
            "table ip limits {{\n  chain only {{\n    type filter hook forward priority -1;\n    \
             {rule};\n  }}\n}}\n"
        )
    }
}

/// Drops what nobody inside has asked for, and keeps it from becoming a flow.
const FIREWALL: &str = "\
table ip firewall {
  chain own {
    type filter hook input priority 0;
    iifname \"wan\" meta l4proto udp ct state new drop;
  }
  chain through {
    type filter hook forward priority 0;
    iifname \"wan\" ct state new ct status dnat accept;
    iifname \"wan\" ct state new drop;
  }
}
";

/// For a site whose hosts have public IPv6 addresses: no NAT, a firewall.
pub(crate) const FIREWALL_IPV6: &str = "\
table ip6 firewall {
  chain through {
    type filter hook forward priority 0;
    iifname \"wan\" meta l4proto ipv6-icmp accept;
    iifname \"wan\" ct state new drop;
  }
}
";

fn prerouting(rule: &str) -> String {
    format!("  chain pre {{\n    type nat hook prerouting priority -100;\n    {rule};\n  }}\n")
}

/// Mappings learnt from every packet on its way out, and given to whoever comes:
/// to anybody, or to those `by_address` only that were sent to.
fn learnt(by_address: bool, arriving: &str, hairpin: bool) -> String {
    let (key, out, back, look_up) = if by_address {
        (
            "ipv4_addr . inet_service",
            "ip daddr . ct reply proto-dst",
            "ip daddr . ct original proto-dst",
            "ip saddr . udp dport",
        )
    } else {
        ("inet_service", "ct reply proto-dst", "ct original proto-dst", "udp dport")
    };
    // Outwards the host is the source of a flow that it began, and the
    // destination of one that a stranger began.
    let began = format!("update @known {{ {out} : ct original ip saddr . ct original proto-src }}");
    let taken = format!("update @known {{ {back} : ct reply ip saddr . ct reply proto-src }}");
    let mut learn = format!(
        "    oifname \"wan\" meta l4proto udp ct direction original {began};\n    oifname \"wan\" \
         meta l4proto udp ct direction reply {taken};\n"
    );
    if hairpin {
        let _infallible = writeln!(
            learn,
            "    iifname \"lan\" oifname \"lan\" meta l4proto udp ct status dnat ct direction \
             original {began};"
        );
    }
    // As long as conntrack keeps a flow that is no stream.
    format!(
        "  map known {{\n    type {key} : ipv4_addr . inet_service;\n    flags dynamic,timeout;\n    \
         timeout 30s;\n    size 65535;\n  }}\n  chain learn {{\n    type filter hook postrouting \
         priority 300;\n{learn}  }}\n{}",
        prerouting(&format!("{arriving} meta l4proto udp dnat ip to {look_up} map @known"))
    )
}

fn sequence(step: u16) -> String {
    let mut text = format!("numgen inc mod {SEQUENCE} map {{ ");
    for number in 0..SEQUENCE {
        let comma = if number == 0 { "" } else { ", " };
        let _infallible = write!(text, "{comma}{number} : {}", 30_000 + step * number);
    }
    text.push_str(" }");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_that_fits_an_interface() {
        let mut names: Vec<_> =
            Kind::MATRIX.into_iter().chain(Kind::FURTHER).map(Kind::name).collect();
        assert!(names.iter().all(|name| name.len() <= 15), "IFNAMSIZ");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::MATRIX.len() + Kind::FURTHER.len());
    }

    #[test]
    fn a_sequence_stays_within_the_ports() {
        assert!(sequence(2).ends_with("4095 : 38190 }"));
    }
}
