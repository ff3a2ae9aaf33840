//! What the host's network looks like: interfaces, addresses, routes. Read by
//! netlink, judged here: which addresses a peer could reach this machine at, and
//! what overlaps the overlay.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::link::Network;
use crate::net::netlink::{Attributes, Netlink, Request};

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// `eth0`.
    pub(crate) name: String,
    /// The driver's kind (`tun`, `bridge`, `veth`), empty for hardware.
    pub(crate) kind: String,
    /// `IFF_*`.
    pub(crate) flags: u32,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    /// Index of the interface.
    pub(crate) index: u32,
    /// The address and the length of its network.
    pub(crate) network: Network,
    /// `IFA_F_*`.
    pub(crate) flags: u32,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Index of the interface, 0 when it has none (blackhole).
    pub(crate) index: u32,
    /// Where to.
    pub(crate) network: Network,
    /// Over whom, if not directly.
    pub(crate) via: Option<IpAddr>,
    /// Of two for the same place the lower one counts.
    pub(crate) metric: u32,
}

/// The host's network at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostView {
    /// By index.
    pub(crate) interfaces: BTreeMap<u32, Interface>,
    /// In the kernel's order.
    pub(crate) addresses: Vec<InterfaceAddress>,
    /// In the kernel's order.
    pub(crate) routes: Vec<Route>,
}

/// The part of another network that the overlay shares addresses with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// Name of the other interface.
    pub(crate) interface: String,
    /// Its address or its route.
    pub(crate) network: Network,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets))),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets))),
        _ => None,
    }
}

fn interface(payload_attributes: Attributes<'_>, flags: u32) -> Interface {
    const IFLA_INFO_KIND: u16 = 1;
    let mut found = Interface { flags, ..Interface::default() };
    for (kind, value) in payload_attributes {
        if kind == libc::IFLA_IFNAME {
            found.name = text(value);
        } else if kind == libc::IFLA_LINKINFO {
            found.kind = Attributes::nested(value)
                .find(|&(kind, _)| kind == IFLA_INFO_KIND)
                .map(|(_, value)| text(value))
                .unwrap_or_default();
        }
    }
    found
}

impl HostView {
    /// A number for the network that this host is on: the same whenever it comes
    /// back to it. Addresses are cut to their networks, because many networks
    /// give another one each time; what the mesh made itself does not count.
    pub(crate) fn fingerprint(&self, mesh: &str) -> u64 {
        let mut seen: Vec<String> = self
            .addresses
            .iter()
            .filter_map(|address| {
                let interface = self.interfaces.get(&address.index)?;
                let up = interface.flags & libc::IFF_UP as u32 != 0;
                let loopback = interface.flags & libc::IFF_LOOPBACK as u32 != 0;
                let counts = up && !loopback && interface.name != mesh;
                counts.then(|| format!("{} {}", interface.name, address.network.network()))
            })
            .collect();
        seen.sort();
        seen.dedup();
        // FNV-1a: nobody gains anything by a collision, and it is the same after
        // a restart.
        seen.join("\n").bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    /// Reads the tables.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub(crate) fn read(netlink: &mut Netlink) -> io::Result<Self> {
        let mut view = Self::default();
        view.read_interfaces(netlink)?;
        view.read_addresses(netlink)?;
        view.read_routes(netlink)?;
        Ok(view)
    }

    fn read_interfaces(&mut self, netlink: &mut Netlink) -> io::Result<()> {
        let request = Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16]);
        netlink.dump(request, |reply| {
            let index = u32_at(reply.payload, 4);
            let flags = u32_at(reply.payload, 8);
            self.interfaces.insert(index, interface(reply.attributes(16), flags));
        })
    }

    fn read_addresses(&mut self, netlink: &mut Netlink) -> io::Result<()> {
        let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; 8]);
        netlink.dump(request, |reply| {
            let Some(&[_, len, short_flags, _]) = reply.payload.first_chunk() else {
                return;
            };
            // IFA_LOCAL is the own address on point-to-point links, where
            // IFA_ADDRESS is the other end; IPv6 has IFA_ADDRESS alone.
            let (mut own, mut any) = (None, None);
            let mut flags = u32::from(short_flags);
            for (kind, value) in reply.attributes(8) {
                match kind {
                    libc::IFA_LOCAL => own = address(value),
                    libc::IFA_ADDRESS => any = address(value),
                    libc::IFA_FLAGS => flags = u32_at(value, 0),
                    _ => {}
                }
            }
            if let Some(address) = own.or(any) {
                self.addresses.push(InterfaceAddress {
                    index: u32_at(reply.payload, 4),
                    network: Network { address, len },
                    flags,
                });
            }
        })
    }

    fn read_routes(&mut self, netlink: &mut Netlink) -> io::Result<()> {
        let request = Request::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &[0; 12]);
        netlink.dump(request, |reply| {
            let Some(head) = reply.payload.first_chunk::<12>() else {
                return;
            };
            if head[4] != libc::RT_TABLE_MAIN || head[7] != libc::RTN_UNICAST {
                return;
            }
            let any = if head[0] == libc::AF_INET as u8 {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            };
            let network = Network { address: any, len: head[1] };
            let mut route = Route { index: 0, network, via: None, metric: 0 };
            for (kind, value) in reply.attributes(12) {
                match kind {
                    libc::RTA_DST => route.network.address = address(value).unwrap_or(any),
                    libc::RTA_OIF => route.index = u32_at(value, 0),
                    libc::RTA_GATEWAY => route.via = address(value),
                    libc::RTA_PRIORITY => route.metric = u32_at(value, 0),
                    _ => {}
                }
            }
            self.routes.push(route);
        })
    }

    /// The interface of this name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Interface> {
        self.interfaces.values().find(|link| link.name == name)
    }

    fn name(&self, index: u32) -> &str {
        self.interfaces.get(&index).map_or("", |link| &link.name)
    }

    /// The way into the world beside the mesh.
    fn default_route(&self, v4: bool, mesh: &str) -> Option<&Route> {
        let fits = |route: &&Route| {
            route.network.len == 0
                && route.network.address.is_ipv4() == v4
                && self.name(route.index) != mesh
        };
        self.routes.iter().filter(fits).min_by_key(|route| route.metric)
    }

    /// The interface that leads into the world, over IPv4 if that does.
    pub(crate) fn way_out(&self, mesh: &str) -> Option<&str> {
        let route = self.default_route(true, mesh).or_else(|| self.default_route(false, mesh));
        route.map(|route| self.name(route.index)).filter(|name| !name.is_empty())
    }

    /// The router that leads into the world over IPv4.
    pub(crate) fn router(&self, mesh: &str) -> Option<Ipv4Addr> {
        match self.default_route(true, mesh)?.via? {
            IpAddr::V4(router) => Some(router),
            IpAddr::V6(_) => None,
        }
    }

    /// Addresses at which a peer may reach this machine, IPv4 and IPv6 in turns and
    /// each in the kernel's order, so that many of one hide none of the other from
    /// whoever takes the first few: of interfaces that are up, without loopback,
    /// link-local, temporary and tentative ones, the mesh interface, and the bridges
    /// of container engines (their addresses are the same on every host).
    pub(crate) fn candidates(&self, mesh: &str) -> Vec<IpAddr> {
        let usable = |link: &Interface| {
            let up = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
            link.flags & up == up
                && link.flags & libc::IFF_LOOPBACK as u32 == 0
                && link.name != mesh
                && !is_container_bridge(link)
        };
        let lasts = |found: &&InterfaceAddress| {
            // Of IPv4 the same bit says "one of several".
            let temporary = if found.network.address.is_ipv6() { libc::IFA_F_TEMPORARY } else { 0 };
            let passing = libc::IFA_F_TENTATIVE | libc::IFA_F_DEPRECATED | temporary;
            found.flags & passing == 0
        };
        let found = self
            .addresses
            .iter()
            .filter(|found| self.interfaces.get(&found.index).is_some_and(usable))
            .filter(lasts)
            .map(|found| found.network.address)
            .filter(is_reachable);
        let (v6, v4): (Vec<_>, Vec<_>) = found.partition(IpAddr::is_ipv6);
        let turns = v6.len().max(v4.len());
        let turn = |turn: usize| [v4.get(turn).copied(), v6.get(turn).copied()];
        (0..turns).flat_map(turn).flatten().collect()
    }

    /// What shares addresses with the mesh's own ranges on another interface.
    /// A default route shares nothing: the overlay's route is more specific.
    pub(crate) fn overlap(&self, overlay: &[Network], mesh: &str) -> Option<Overlap> {
        let inside = |network: &Network| overlay.iter().any(|r| r.contains(network.address));
        let addresses = self
            .addresses
            .iter()
            .filter(|found| inside(&found.network))
            .map(|found| (found.index, found.network));
        // Only a route at least as long as the overlay's takes packets away
        // from it; a shorter one (10.0.0.0/8 of a company) loses to it.
        let routes = self
            .routes
            .iter()
            .filter(|found| {
                let wins = |range: &&Network| range.len <= found.network.len;
                let mut ranges = overlay.iter().filter(wins);
                ranges.any(|range| range.overlaps(&found.network))
            })
            .map(|found| (found.index, found.network));
        addresses
            .chain(routes)
            .find(|&(index, _)| self.name(index) != mesh)
            .map(|(index, network)| Overlap { interface: self.name(index).to_owned(), network })
    }
}

/// [`HostView::way_out`] of this moment; `None` also where the kernel does not say.
pub(crate) fn way_out(mesh: &str) -> Option<String> {
    let view = HostView::read(&mut Netlink::open().ok()?).ok()?;
    view.way_out(mesh).map(str::to_owned)
}

/// Bridges that container engines make: a `bridge` with one of their names.
fn is_container_bridge(link: &Interface) -> bool {
    const PREFIXES: [&str; 6] = ["docker", "br-", "cni", "podman", "virbr", "lxcbr"];
    link.kind == "bridge" && PREFIXES.iter().any(|prefix| link.name.starts_with(prefix))
}

/// Whether a peer could be on the way to this address at all.
fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback() || address.is_link_local() || address.is_unspecified())
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.to_ipv4_mapped().is_some())
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn view() -> HostView {
        let up = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
        let mut view = HostView::default();
        for (index, name, kind, flags) in [
            (1, "lo", "", up | libc::IFF_LOOPBACK as u32),
            (2, "eth0", "", up),
            (3, "docker0", "bridge", up),
            (4, "weft0", "tun", up),
            (5, "wwan0", "", libc::IFF_UP as u32),
        ] {
            view.interfaces
                .insert(index, Interface { name: name.to_owned(), kind: kind.to_owned(), flags });
        }
        for (index, address, len, flags) in [
            (1, "127.0.0.1", 8, 0),
            (2, "192.168.1.20", 24, 0),
            (2, "fe80::1", 64, 0),
            (2, "2001:db8::7", 64, 0),
            (2, "2001:db8::8", 64, libc::IFA_F_TENTATIVE),
            (3, "172.17.0.1", 16, 0),
            (4, "100.93.0.2", 32, 0),
            (5, "100.93.12.7", 16, 0),
        ] {
            view.addresses.push(InterfaceAddress {
                index,
                network: Network { address: address.parse().unwrap(), len },
                flags,
            });
        }
        view
    }

    fn route(index: u32, network: &str, len: u8) -> Route {
        let network = Network { address: network.parse().unwrap(), len };
        Route { index, network, via: None, metric: 0 }
    }

    #[test]
    fn candidates_leave_out_what_no_peer_can_reach() {
        let found: Vec<String> =
            view().candidates("weft0").iter().map(ToString::to_string).collect();
        // wwan0 is up without a carrier.
        assert_eq!(found, ["192.168.1.20", "2001:db8::7"]);
    }

    #[test]
    fn many_addresses_of_one_family_hide_none_of_the_other() {
        let mut view = view();
        let mut add = |address: &str, len, flags| {
            let network = Network { address: address.parse().unwrap(), len };
            view.addresses.push(InterfaceAddress { index: 2, network, flags });
        };
        for last in 21..40 {
            add(&format!("192.168.1.{last}"), 24, libc::IFA_F_SECONDARY);
        }
        add("2001:db8::71", 64, libc::IFA_F_TEMPORARY);
        add("fd00::7", 64, 0);
        let found = view.candidates("weft0");
        let first: Vec<String> = found.iter().take(6).map(ToString::to_string).collect();
        let turns = ["192.168.1.20", "2001:db8::7", "192.168.1.21", "fd00::7"];
        assert_eq!(first[..4], turns);
        assert_eq!(first[4..], ["192.168.1.22", "192.168.1.23"]);
        assert_eq!(found.len(), 22, "what is one of several is no worse");
    }

    #[test]
    fn the_way_out_is_the_default_route_with_the_lowest_metric_beside_the_mesh() {
        let mut view = view();
        assert_eq!(view.way_out("weft0"), None);
        let mut add = |index, network: &str, len, via: &str, metric| {
            let via = via.parse().ok();
            view.routes.push(Route { via, metric, ..route(index, network, len) });
            let router = view.router("weft0").map(|router| router.to_string());
            format!("{} {}", view.way_out("weft0").unwrap(), router.unwrap_or_default())
        };
        assert_eq!(add(5, "::", 0, "fe80::1", 1), "wwan0 ");
        assert_eq!(add(4, "0.0.0.0", 0, "100.93.0.1", 0), "wwan0 ");
        assert_eq!(add(2, "192.168.1.0", 24, "", 0), "wwan0 ");
        assert_eq!(add(5, "0.0.0.0", 0, "", 700), "wwan0 ");
        assert_eq!(add(2, "0.0.0.0", 0, "192.168.1.1", 100), "eth0 192.168.1.1");
        assert_eq!(add(3, "0.0.0.0", 0, "172.17.0.1", 100), "eth0 192.168.1.1");
    }

    #[test]
    fn an_overlap_names_interface_and_address() {
        let overlay = [Network { address: "100.93.0.0".parse().unwrap(), len: 16 }];
        let found = view().overlap(&overlay, "weft0").unwrap();
        assert_eq!(found.interface, "wwan0");
        assert_eq!(found.network.to_string(), "100.93.12.7/16");
        let mut without = view();
        without.addresses.pop();
        assert_eq!(without.overlap(&overlay, "weft0"), None);
        without.routes.push(route(2, "0.0.0.0", 0));
        assert_eq!(without.overlap(&overlay, "weft0"), None);
        without.routes.push(route(2, "100.64.0.0", 10));
        assert_eq!(without.overlap(&overlay, "weft0"), None);
        without.routes.push(route(2, "100.93.8.0", 24));
        let found = without.overlap(&overlay, "weft0").unwrap();
        assert_eq!(found.network.to_string(), "100.93.8.0/24");
    }
}
