//! Changes to the host's network: the mesh interface's settings, addresses and
//! routes. Every change is undone in reverse order; its undo is noted before it
//! is made, so a change that was cut half-way is undone as well.

use std::ffi::CString;
use std::io;
use std::net::IpAddr;

use crate::net::netlink::{Netlink, Request};

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) len: u8,
}

impl Network {
    /// One address alone.
    pub(crate) const fn host(address: IpAddr) -> Self {
        let len = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self { address, len }
    }

    /// The range without the bits of the host that was named in it.
    pub(crate) fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        Self { address, len: self.len }
    }

    /// Whether the two ranges share an address.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let shared = self.len.min(other.len);
        match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differ = a.to_bits() ^ b.to_bits();
                differ.checked_shr(32 - u32::from(shared)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differ = a.to_bits() ^ b.to_bits();
                differ.checked_shr(128 - u32::from(shared)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether the address lies in the range.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.overlaps(&Self::host(address)) && self.len <= Self::host(address).len
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// One thing that was changed on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Address(u32, Network),
    Route(u32, Network),
}

/// What [`HostNetwork::restore`] took back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Addresses removed.
    pub(crate) addresses: usize,
    /// Routes removed.
    pub(crate) routes: usize,
}

/// Makes changes and remembers how to take them back.
pub(crate) struct HostNetwork {
    netlink: Netlink,
    undo: Vec<Change>,
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// `ifinfomsg` that names an interface.
fn link_payload(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut payload = [0; 16];
    payload[4..8].copy_from_slice(&index.to_ne_bytes());
    payload[8..12].copy_from_slice(&flags.to_ne_bytes());
    payload[12..16].copy_from_slice(&change.to_ne_bytes());
    payload
}

fn address_request(kind: u16, flags: libc::c_int, index: u32, network: Network) -> Request {
    // ifaddrmsg: family, prefix length, flags, scope, index.
    let mut payload = [0; 8];
    payload[0] = family(network.address);
    payload[1] = network.len;
    payload[4..8].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(network.address);
    // No duplicate address detection: nobody else is on this interface. No
    // route by itself: the overlay's routes are set (and undone) one by one.
    let flags_wanted = libc::IFA_F_NODAD | libc::IFA_F_NOPREFIXROUTE | libc::IFA_F_PERMANENT;
    Request::new(kind, flags, &payload)
        .attribute(libc::IFA_LOCAL, &bytes)
        .attribute(libc::IFA_ADDRESS, &bytes)
        .attribute(libc::IFA_FLAGS, &flags_wanted.to_ne_bytes())
}

fn route_request(
    kind: u16,
    flags: libc::c_int,
    index: u32,
    network: Network,
    source: Option<IpAddr>,
) -> Request {
    // rtmsg: family, dst len, src len, tos, table, protocol, scope, type, flags.
    let mut payload = [0; 12];
    payload[0] = family(network.address);
    payload[1] = network.len;
    payload[4] = libc::RT_TABLE_MAIN;
    payload[5] = libc::RTPROT_STATIC;
    payload[6] = match network.address {
        IpAddr::V4(_) => libc::RT_SCOPE_LINK,
        IpAddr::V6(_) => libc::RT_SCOPE_UNIVERSE,
    };
    payload[7] = libc::RTN_UNICAST;
    let request = Request::new(kind, flags, &payload)
        .attribute(libc::RTA_DST, &octets(network.address))
        .attribute(libc::RTA_OIF, &index.to_ne_bytes());
    match source {
        Some(source) => request.attribute(libc::RTA_PREFSRC, &octets(source)),
        None => request,
    }
}

/// The index of an interface, or `None` when there is none of that name.
pub(crate) fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index > 0).then_some(index)
}

impl HostNetwork {
    /// # Errors
    ///
    /// What opening a netlink socket reports.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, undo: Vec::new() })
    }

    /// Sets the interface up with this MTU, without a link-local address of the
    /// kernel's making. Undone by deleting the interface.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub(crate) fn bring_up(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        let no_link_local = Request::new(libc::RTM_SETLINK, 0, &link_payload(index, 0, 0)).nested(
            libc::IFLA_AF_SPEC,
            |inner| {
                inner.nested(libc::AF_INET6 as u16, |inner| {
                    inner.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
                })
            },
        );
        match self.netlink.execute(no_link_local) {
            // A host without IPv6 has no such setting and needs none.
            Err(error) if error.raw_os_error() != Some(libc::EAFNOSUPPORT) => return Err(error),
            _ => {}
        }
        let up = libc::IFF_UP as u32;
        let request = Request::new(libc::RTM_NEWLINK, 0, &link_payload(index, up, up))
            .attribute(libc::IFLA_MTU, &mtu.to_ne_bytes())
            .attribute(libc::IFLA_TXQLEN, &1000u32.to_ne_bytes());
        self.netlink.execute(request)
    }

    fn execute_undoable(&mut self, change: Change, request: Request) -> io::Result<()> {
        if !self.undo.contains(&change) {
            self.undo.push(change);
        }
        let result = self.netlink.execute(request);
        if result.is_err() {
            self.undo.retain(|noted| *noted != change);
        }
        result
    }

    /// Adds an address to the interface.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub(crate) fn add_address(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let network = Network::host(address);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.execute_undoable(
            Change::Address(index, network),
            address_request(libc::RTM_NEWADDR, flags, index, network),
        )
    }

    /// Routes a range to the interface; packets of this host get `source`.
    ///
    /// # Errors
    ///
    /// What the kernel answers; `AlreadyExists` when another program routes
    /// exactly this range.
    pub(crate) fn add_route(
        &mut self,
        index: u32,
        network: Network,
        source: Option<IpAddr>,
    ) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.execute_undoable(
            Change::Route(index, network),
            route_request(libc::RTM_NEWROUTE, flags, index, network, source),
        )
    }

    /// Takes one route back that [`Self::add_route`] made.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub(crate) fn remove_route(&mut self, index: u32, network: Network) -> io::Result<()> {
        self.undo.retain(|noted| *noted != Change::Route(index, network));
        self.netlink.execute(route_request(libc::RTM_DELROUTE, 0, index, network, None))
    }

    /// The routes in force.
    pub(crate) fn routes(&self) -> impl Iterator<Item = Network> {
        self.undo.iter().filter_map(|change| match change {
            Change::Route(_, network) => Some(*network),
            Change::Address(..) => None,
        })
    }

    /// Takes everything back, last change first. What is gone already (somebody
    /// deleted the interface) counts as taken back.
    pub(crate) fn restore(&mut self) -> Restored {
        let mut restored = Restored::default();
        while let Some(change) = self.undo.pop() {
            // Nothing can be done about a refusal here; deleting the interface
            // takes the rest with it.
            match change {
                Change::Address(index, network) => {
                    let request = address_request(libc::RTM_DELADDR, 0, index, network);
                    drop(self.netlink.execute(request));
                    restored.addresses += 1;
                }
                Change::Route(index, network) => {
                    let request = route_request(libc::RTM_DELROUTE, 0, index, network, None);
                    drop(self.netlink.execute(request));
                    restored.routes += 1;
                }
            }
        }
        restored
    }
}

impl Drop for HostNetwork {
    fn drop(&mut self) {
        self.restore();
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn network(text: &str) -> Network {
        let (address, len) = text.split_once('/').unwrap();
        Network { address: address.parse().unwrap(), len: len.parse().unwrap() }
    }

    #[test]
    fn a_network_is_what_its_hosts_share() {
        for (host, expected) in [
            ("192.168.7.2/24", "192.168.7.0/24"),
            ("203.0.113.7/32", "203.0.113.7/32"),
            ("203.0.113.7/0", "0.0.0.0/0"),
            ("2001:db8:1:2::9/64", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(network(host).network().to_string(), expected);
        }
    }

    #[test]
    fn ranges_overlap_by_their_shorter_prefix() {
        for (a, b, expected) in [
            ("100.93.0.0/16", "100.93.12.7/16", true),
            ("100.93.0.0/16", "100.94.0.0/16", false),
            ("100.93.0.0/16", "0.0.0.0/0", true),
            ("100.93.0.0/16", "100.93.4.4/32", true),
            ("fd5c:7e0a:91b3::/48", "fd5c:7e0a:91b3:1::/64", true),
            ("fd5c:7e0a:91b3::/48", "fd5c:7e0a:91b4::/48", false),
            ("100.93.0.0/16", "::/0", false),
        ] {
            assert_eq!(network(a).overlaps(&network(b)), expected, "{a} {b}");
            assert_eq!(network(b).overlaps(&network(a)), expected, "{b} {a}");
        }
        assert!(network("10.0.0.0/8").contains("10.1.2.3".parse().unwrap()));
        assert!(!network("10.0.0.0/8").contains("11.1.2.3".parse().unwrap()));
    }
}
