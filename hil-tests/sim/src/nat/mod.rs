//! NAT boxes, by behaviour (RFC 4787's words) and by the laboratory's names.
//!
//! A box is made of [`Rules`], which anybody may combine; [`Kind`] names the
//! combinations that the laboratory builds out of the kernel, so that what is
//! tried here in a thousand seeds can be tried there on real packets. Lives of
//! flows are those of Linux: 30 s until an answer has come *and* a packet passed
//! more than 2 s after the first, 120 s from then on.
//!
//! Where this is simpler than a kernel: a public port belongs to one mapping at
//! a time, while conntrack lends it to flows that differ in the far end only. A
//! block of 512 ports therefore holds 512 mappings here and more there.

mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_agent_core::time::{Duration, Instant};

use crate::net::{Datagram, GatewayId, Middlebox, Network};
use crate::rng::Rng;
use table::{Refused, Table};

/// What a public port stands for (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// An inner address and port, whoever it sends to.
    EndpointIndependent,
    /// The same towards one far address.
    AddressDependent,
    /// The same towards one far address and port.
    AddressAndPortDependent,
}

/// Who may answer through a mapping (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Anybody.
    EndpointIndependent,
    /// Addresses that were sent to, from any port.
    AddressDependent,
    /// Addresses and ports that were sent to.
    AddressAndPortDependent,
}

/// How the public port of a mapping is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// The inner one, and another if it is taken.
    Kept,
    /// One of 30,000 to 49,999 that follows from what is mapped: the same again
    /// when the mapping has died and comes back.
    Hashed,
    /// Any of 1,024 to 65,535.
    Random,
    /// One `step` behind the other, 4,096 of them, over and over.
    Sequential {
        /// The first one.
        first: u16,
        /// From one to the next.
        step: u16,
    },
    /// One of a block, as carriers give to a customer.
    Block {
        /// The first one.
        first: u16,
        /// How many.
        size: u16,
        /// Any of them, or that which follows from what is mapped.
        random: bool,
    },
}

/// What is let through at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Everything.
    All,
    /// No UDP.
    Nothing,
    /// UDP to these ports, and its answers.
    Ports(&'static [u16]),
}

/// How a box behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What a public port stands for.
    pub mapping: Mapping,
    /// Which port that is.
    pub ports: Ports,
    /// Who may answer.
    pub filtering: Filtering,
    /// Drops what nobody asked for. Without it such a packet becomes a flow of
    /// the box itself, and a later mapping towards its sender has to make room:
    /// it gets another port than all see who were sent to before. Who is sent to
    /// later sees that one too: the kernel takes a host's youngest mapping.
    pub firewall: bool,
    /// Lets its own hosts reach each other by their public addresses; the
    /// receiver sees the sender's.
    pub hairpin: bool,
    /// What is let through at all.
    pub pass: Pass,
    /// Gets everything that no mapping is for: a DMZ.
    pub dmz: Option<IpAddr>,
    /// Hosts have IPv6 alone and reach an IPv4 address behind these 96 bits
    /// (RFC 6052). The box has no other way for IPv6.
    pub nat64: Option<Ipv6Addr>,
    /// Life of a flow that had no answer, or none but at once.
    pub unreplied: Duration,
    /// Life of a flow that goes on.
    pub stream: Duration,
    /// Flows at once; a new one beyond it is dropped.
    pub flows: usize,
}

impl Rules {
    /// A home router with a firewall, as most are: endpoint-independent mapping
    /// that keeps the port, address-and-port-dependent filtering.
    pub const HOME: Self = Self {
        mapping: Mapping::EndpointIndependent,
        ports: Ports::Kept,
        filtering: Filtering::AddressAndPortDependent,
        firewall: true,
        hairpin: false,
        pass: Pass::All,
        dmz: None,
        nat64: None,
        unreplied: Duration::from_secs(30),
        stream: Duration::from_secs(120),
        flows: 65_536,
    };

    /// Each destination has a mapping, and only it may answer.
    const fn symmetric(ports: Ports) -> Self {
        Self { mapping: Mapping::AddressAndPortDependent, ports, ..Self::HOME }
    }
}

/// A NAT box; a [`Middlebox`] of a [`Network`].
#[derive(Debug)]
pub struct Nat {
    rules: Rules,
    outer: Vec<IpAddr>,
    table: Table,
}

impl Nat {
    /// A box of one's own design.
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self { rules, outer: Vec::new(), table: Table::new(Rng::new(seed)) }
    }

    /// Everything that arrives goes to one host (1:1, DMZ).
    pub fn open(host: IpAddr, seed: u64) -> Self {
        let filtering = Filtering::EndpointIndependent;
        Self::new(Rules { filtering, dmz: Some(host), ..Rules::HOME }, seed)
    }

    /// Whatever comes to a mapping is let in.
    pub fn fullcone(seed: u64) -> Self {
        Self::new(Rules { filtering: Filtering::EndpointIndependent, ..Rules::HOME }, seed)
    }

    /// Address-restricted cone.
    pub fn adcone(seed: u64) -> Self {
        Self::new(Rules { filtering: Filtering::AddressDependent, ..Rules::HOME }, seed)
    }

    /// Port-restricted cone: a home router.
    pub fn prc(seed: u64) -> Self {
        Self::new(Rules::HOME, seed)
    }

    /// The same without a firewall: who comes too early spoils the mapping
    /// towards himself.
    pub fn nofw(seed: u64) -> Self {
        Self::new(Rules { firewall: false, ..Rules::HOME }, seed)
    }

    /// Symmetric, one port after the other.
    pub fn symseq(step: u16, seed: u64) -> Self {
        Self::new(Rules::symmetric(Ports::Sequential { first: 30_000, step }), seed)
    }

    /// Symmetric inside a block of 512 ports.
    pub fn symwin(seed: u64) -> Self {
        let ports = Ports::Block { first: 20_480, size: 512, random: true };
        Self::new(Rules::symmetric(ports), seed)
    }

    /// Symmetric, any port.
    pub fn symrand(seed: u64) -> Self {
        Self::new(Rules::symmetric(Ports::Random), seed)
    }

    /// Symmetric, but whatever comes to a mapping is let in.
    pub fn symeif(seed: u64) -> Self {
        let filtering = Filtering::EndpointIndependent;
        Self::new(Rules { filtering, ..Rules::symmetric(Ports::Random) }, seed)
    }

    /// A carrier's: a block of 512 ports, endpoint-independent inside it.
    pub fn cgnat(seed: u64) -> Self {
        let ports = Ports::Block { first: 20_480, size: 512, random: false };
        Self::new(Rules { ports, ..Rules::HOME }, seed)
    }

    /// No UDP at all.
    pub fn blocked(seed: u64) -> Self {
        Self::new(Rules { pass: Pass::Nothing, ..Rules::HOME }, seed)
    }

    /// UDP to ports 53 and 443 only.
    pub fn udp443(seed: u64) -> Self {
        Self::new(Rules { pass: Pass::Ports(&[53, 443]), ..Rules::HOME }, seed)
    }

    /// IPv6 alone inside; an IPv4 address is reached behind `prefix`.
    pub fn nat64(prefix: Ipv6Addr, seed: u64) -> Self {
        Self::new(Rules { nat64: Some(prefix), ..Rules::HOME }, seed)
    }

    /// Its rules.
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Its rules, to be changed.
    pub const fn rules_mut(&mut self) -> &mut Rules {
        &mut self.rules
    }

    /// Its public address of a family.
    fn outer(&self, like: IpAddr) -> Option<IpAddr> {
        self.outer.iter().copied().find(|outer| outer.is_ipv4() == like.is_ipv4())
    }

    /// The far end as the public area knows it.
    fn far_outside(&self, inside: SocketAddr) -> Option<SocketAddr> {
        let Some(prefix) = self.rules.nat64 else {
            return Some(inside);
        };
        let IpAddr::V6(address) = inside.ip() else {
            return None;
        };
        let (network, host) = address.octets().split_first_chunk::<12>().map(split)?;
        let known = prefix.octets().first_chunk::<12>() == Some(&network);
        known.then(|| SocketAddr::new(Ipv4Addr::from(host).into(), inside.port()))
    }

    /// The far end as the site knows it.
    fn far_inside(&self, outside: SocketAddr) -> SocketAddr {
        let (Some(prefix), IpAddr::V4(address)) = (self.rules.nat64, outside.ip()) else {
            return outside;
        };
        let mut octets = prefix.octets();
        octets[12..].copy_from_slice(&address.octets());
        SocketAddr::new(Ipv6Addr::from(octets).into(), outside.port())
    }

    fn passes(&self, port: u16) -> bool {
        match self.rules.pass {
            Pass::All => true,
            Pass::Nothing => false,
            Pass::Ports(ports) => ports.contains(&port),
        }
    }
}

fn split((network, host): (&[u8; 12], &[u8])) -> ([u8; 12], [u8; 4]) {
    (*network, host.first_chunk().copied().unwrap_or_default())
}

impl Middlebox for Nat {
    fn outbound(&mut self, mut datagram: Datagram, now: Instant) -> Option<Datagram> {
        let far = self.far_outside(datagram.destination)?;
        let outer = self.outer(far.ip())?;
        if !self.passes(far.port()) {
            return None;
        }
        let port = self.table.outbound(&self.rules, datagram.source, far, now).ok()?;
        datagram.source = SocketAddr::new(outer, port);
        datagram.destination = far;
        Some(datagram)
    }

    fn inbound(&mut self, mut datagram: Datagram, now: Instant) -> Option<Datagram> {
        let (far, port) = (datagram.source, datagram.destination.port());
        let own = self.outer.contains(&far.ip());
        if own && !self.rules.hairpin || !own && !self.passes(far.port()) {
            return None;
        }
        let inside = match self.table.inbound(&self.rules, port, far, own, now) {
            Ok(inside) => inside,
            Err(Refused::Unasked) => {
                let host = SocketAddr::new(self.rules.dmz?, port);
                self.table.exposed(&self.rules, host, far, now).ok()?
            }
            Err(Refused::Full) => return None,
        };
        datagram.source = self.far_inside(far);
        datagram.destination = inside;
        Some(datagram)
    }

    fn set_addresses(&mut self, outer: &[IpAddr]) {
        if self.outer != outer {
            self.table.clear();
        }
        self.outer = outer.to_vec();
    }

    fn reboot(&mut self) {
        self.table.clear();
    }
}

/// The boxes of the path matrix, by the laboratory's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is described where Nat makes it")]
pub enum Kind {
    Open,
    FullCone,
    AdCone,
    Prc,
    NoFw,
    SymSeq,
    SymWin,
    SymRand,
    SymEif,
    Cgnat,
    Blocked,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 11] = [
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

    /// As the laboratory calls it.
    pub const fn name(self) -> &'static str {
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
        }
    }

    /// Adds such a site at a public address and gives the area where its hosts
    /// are to be added; `host` is that of an open site. Behind a carrier stands
    /// a home router in 100.64.0.0/24, as in life.
    pub fn site(self, network: &mut Network, outer: IpAddr, host: IpAddr, seed: u64) -> GatewayId {
        let nat = self.nat(host, seed);
        let gateway = network.add_gateway([outer], None, Box::new(nat));
        if self != Self::Cgnat {
            return gateway;
        }
        let home = Box::new(Nat::prc(seed.wrapping_add(1)));
        network.add_gateway([Ipv4Addr::new(100, 64, 0, 2).into()], Some(gateway), home)
    }

    /// The box that stands at the public address.
    pub fn nat(self, host: IpAddr, seed: u64) -> Nat {
        match self {
            Self::Open => Nat::open(host, seed),
            Self::FullCone => Nat::fullcone(seed),
            Self::AdCone => Nat::adcone(seed),
            Self::Prc => Nat::prc(seed),
            Self::NoFw => Nat::nofw(seed),
            Self::SymSeq => Nat::symseq(1, seed),
            Self::SymWin => Nat::symwin(seed),
            Self::SymRand => Nat::symrand(seed),
            Self::SymEif => Nat::symeif(seed),
            Self::Cgnat => Nat::cgnat(seed),
            Self::Blocked => Nat::blocked(seed),
        }
    }
}
