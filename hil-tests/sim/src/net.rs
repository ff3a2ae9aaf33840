//! Hosts, links, and what stands between a site and the world.
//!
//! Addresses live in *areas*: the public one, and one behind each gateway. A
//! datagram climbs through the gateways of its sender's site (each may rewrite
//! or drop it), crosses the outermost area it needs, and goes down through the
//! gateways of the receiver's site when it gets there. So a NAT that opens a
//! hole 1 ms too late drops what a real one drops, carrier-grade NAT is a gateway
//! behind a gateway, and hairpinning is whatever the middlebox makes of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use weft_agent_core::time::{Duration, Instant};

use crate::rng::Rng;

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its source, as seen where it is.
    pub source: SocketAddr,
    /// Its destination, as seen where it is.
    pub destination: SocketAddr,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// A host's access to the network. Both ends' links count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Time over this link.
    pub latency: Duration,
    /// Up to this much more, at random per datagram; more than the distance of
    /// two datagrams reorders them.
    pub jitter: Duration,
    /// Lost, in a million.
    pub loss_ppm: u32,
    /// Doubled, in a million.
    pub duplicate_ppm: u32,
    /// Held back by up to a second, in a million.
    pub reorder_ppm: u32,
    /// One bit flipped, in a million. (UDP's checksum would catch most; who
    /// alters datagrams on purpose mends it.)
    pub corrupt_ppm: u32,
    /// Longer payloads are lost.
    pub mtu: usize,
    /// Nothing passes while it is down.
    pub up: bool,
}

impl Link {
    /// Fast and without faults.
    pub const IDEAL: Self = Self {
        latency: Duration::ZERO,
        jitter: Duration::ZERO,
        loss_ppm: 0,
        duplicate_ppm: 0,
        reorder_ppm: 0,
        corrupt_ppm: 0,
        mtu: 65_507,
        up: true,
    };

    /// Without faults, with a latency.
    pub const fn with_latency(latency: Duration) -> Self {
        Self { latency, ..Self::IDEAL }
    }
}

/// Stands between a site and the world: a NAT, a firewall.
pub trait Middlebox {
    /// A datagram leaves the site. `None` drops it; the source may be rewritten.
    fn outbound(&mut self, datagram: Datagram, now: Instant) -> Option<Datagram>;

    /// A datagram for one of the gateway's outer addresses arrives. `None` drops
    /// it; the destination may be rewritten.
    fn inbound(&mut self, datagram: Datagram, now: Instant) -> Option<Datagram>;

    /// The gateway's outer addresses: at the start, and when they change.
    fn set_addresses(&mut self, _outer: &[IpAddr]) {}

    /// Power off and on: what is not on paper is forgotten.
    fn reboot(&mut self) {}
}

/// A host of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostId(usize);

/// A gateway of a [`Network`], which is also the area behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GatewayId(usize);

/// `None` is the public area.
type Area = Option<GatewayId>;

struct Host {
    addresses: Vec<IpAddr>,
    area: Area,
    link: Link,
}

struct Gateway {
    addresses: Vec<IpAddr>,
    area: Area,
    middlebox: Box<dyn Middlebox>,
}

/// Where a datagram is.
enum Stage {
    /// In the area where its destination is looked for.
    Core(Area, Link),
    /// Before its receiver.
    Host(HostId),
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Handed in.
    pub sent: u64,
    /// Handed out, duplicates included.
    pub delivered: u64,
    /// Lost on a link, or too long for it.
    pub lost: u64,
    /// Dropped by a middlebox, or without an owner of the address.
    pub refused: u64,
    /// Doubled.
    pub doubled: u64,
}

/// Hosts, gateways, and datagrams between them.
pub struct Network {
    rng: Rng,
    hosts: Vec<Host>,
    gateways: Vec<Gateway>,
    /// By time, then by order of sending.
    queue: BTreeMap<(Instant, u64), (Stage, Datagram)>,
    sequence: u64,
    totals: Totals,
    /// Nothing passes between these outer addresses.
    forbidden: Vec<[IpAddr; 2]>,
}

impl Network {
    /// An empty network.
    pub const fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            hosts: Vec::new(),
            gateways: Vec::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            totals: Totals { sent: 0, delivered: 0, lost: 0, refused: 0, doubled: 0 },
            forbidden: Vec::new(),
        }
    }

    /// Adds a host with its addresses, in the public area or behind a gateway.
    pub fn add_host(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        behind: Option<GatewayId>,
        link: Link,
    ) -> HostId {
        let addresses = addresses.into_iter().collect();
        self.hosts.push(Host { addresses, area: behind, link });
        HostId(self.hosts.len() - 1)
    }

    /// Adds a gateway with its outer addresses, in the public area or behind
    /// another gateway.
    pub fn add_gateway(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        behind: Option<GatewayId>,
        mut middlebox: Box<dyn Middlebox>,
    ) -> GatewayId {
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        middlebox.set_addresses(&addresses);
        self.gateways.push(Gateway { addresses, area: behind, middlebox });
        GatewayId(self.gateways.len() - 1)
    }

    /// A host's link.
    pub fn link(&self, host: HostId) -> &Link {
        &self.hosts[host.0].link
    }

    /// A host's link, to be changed.
    pub fn link_mut(&mut self, host: HostId) -> &mut Link {
        &mut self.hosts[host.0].link
    }

    /// Moves a host to another place: roaming.
    pub fn move_host(
        &mut self,
        host: HostId,
        addresses: impl IntoIterator<Item = IpAddr>,
        behind: Option<GatewayId>,
    ) {
        self.hosts[host.0].addresses = addresses.into_iter().collect();
        self.hosts[host.0].area = behind;
    }

    /// Restarts what stands at a gateway.
    pub fn reboot(&mut self, gateway: GatewayId) {
        self.gateways[gateway.0].middlebox.reboot();
    }

    /// Gives a gateway other outer addresses, as a provider does overnight.
    pub fn move_gateway(
        &mut self,
        gateway: GatewayId,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) {
        let gateway = &mut self.gateways[gateway.0];
        gateway.addresses = addresses.into_iter().collect();
        gateway.middlebox.set_addresses(&gateway.addresses);
    }

    /// What became of datagrams so far.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Cuts the way between two public addresses, in both directions.
    pub fn forbid(&mut self, one: IpAddr, other: IpAddr) {
        self.forbidden.push([one, other]);
    }

    /// Heals every cut.
    pub fn allow_all(&mut self) {
        self.forbidden.clear();
    }

    /// A host sends a datagram.
    pub fn send(&mut self, host: HostId, datagram: Datagram, now: Instant) {
        self.totals.sent += 1;
        let Host { link, mut area, .. } = self.hosts[host.0];
        if !link.up || datagram.bytes.len() > link.mtu || self.rng.chance(link.loss_ppm) {
            self.totals.lost += 1;
            return;
        }
        let mut datagram = datagram;
        while let Some(gateway) = area {
            let inside = self.owner(area, datagram.destination.ip());
            if inside.is_some() {
                break;
            }
            let Gateway { middlebox, area: outer, .. } = &mut self.gateways[gateway.0];
            area = *outer;
            let Some(translated) = middlebox.outbound(datagram, now) else {
                self.totals.refused += 1;
                return;
            };
            datagram = translated;
        }
        let ends = [datagram.source.ip(), datagram.destination.ip()];
        let is_cut = |cut: &[IpAddr; 2]| *cut == ends || [cut[1], cut[0]] == ends;
        if self.forbidden.iter().any(is_cut) {
            self.totals.lost += 1;
            return;
        }
        let at = now + self.time_over(&link);
        self.push(at, Stage::Core(area, link), datagram);
    }

    fn push(&mut self, at: Instant, stage: Stage, datagram: Datagram) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (stage, datagram));
    }

    fn time_over(&mut self, link: &Link) -> Duration {
        let held = if self.rng.chance(link.reorder_ppm) {
            self.rng.up_to(Duration::from_secs(1))
        } else {
            Duration::ZERO
        };
        link.latency + self.rng.up_to(link.jitter) + held
    }

    /// Who has an address in an area.
    fn owner(&self, area: Area, address: IpAddr) -> Option<Owner> {
        let host = self
            .hosts
            .iter()
            .position(|host| host.area == area && host.addresses.contains(&address))
            .map(|host| Owner::Host(HostId(host)));
        host.or_else(|| {
            self.gateways
                .iter()
                .position(|gateway| gateway.area == area && gateway.addresses.contains(&address))
                .map(|gateway| Owner::Gateway(GatewayId(gateway)))
        })
    }

    /// Looks for the receiver from an area inwards.
    fn descend(&mut self, mut area: Area, datagram: Datagram, sent_over: Link, now: Instant) {
        let mut datagram = datagram;
        let host = loop {
            match self.owner(area, datagram.destination.ip()) {
                Some(Owner::Host(host)) => break host,
                Some(Owner::Gateway(gateway)) => {
                    let middlebox = &mut self.gateways[gateway.0].middlebox;
                    let Some(translated) = middlebox.inbound(datagram, now) else {
                        self.totals.refused += 1;
                        return;
                    };
                    datagram = translated;
                    area = Some(gateway);
                }
                None => {
                    self.totals.refused += 1;
                    return;
                }
            }
        };
        let link = self.hosts[host.0].link;
        if !link.up || datagram.bytes.len() > link.mtu || self.rng.chance(link.loss_ppm) {
            self.totals.lost += 1;
            return;
        }
        for link in [sent_over, link] {
            if self.rng.chance(link.corrupt_ppm) && !datagram.bytes.is_empty() {
                let bit = self.rng.below(datagram.bytes.len() as u64 * 8) as usize;
                datagram.bytes[bit / 8] ^= 1 << (bit % 8);
            }
            if self.rng.chance(link.duplicate_ppm) {
                self.totals.doubled += 1;
                let at = now + self.time_over(&link) + self.rng.up_to(Duration::from_millis(50));
                self.push(at, Stage::Host(host), datagram.clone());
            }
        }
        let at = now + self.time_over(&link);
        self.push(at, Stage::Host(host), datagram);
    }

    /// When [`Network::poll`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next datagram that arrives at or before `now`.
    #[must_use]
    pub fn poll(&mut self, now: Instant) -> Option<(HostId, Datagram)> {
        while self.poll_timeout().is_some_and(|at| at <= now) {
            let ((at, _), (stage, datagram)) = self.queue.pop_first()?;
            match stage {
                Stage::Core(area, link) => self.descend(area, datagram, link, at),
                Stage::Host(host) => {
                    self.totals.delivered += 1;
                    return Some((host, datagram));
                }
            }
        }
        None
    }

    /// Loses everything that is on its way.
    pub fn clear(&mut self) {
        self.totals.lost += self.queue.len() as u64;
        self.queue.clear();
    }
}

enum Owner {
    Host(HostId),
    Gateway(GatewayId),
}
