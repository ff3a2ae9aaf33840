//! The mesh interface on this host: made at the start, given its addresses and
//! routes when the network says so, put right when something else changed them,
//! taken away at the end.

use std::io;
use std::net::IpAddr;

use weft_agent_core::agent::InterfaceConfig;
use weft_wire::map::Prefix;

use crate::failure::{Code, Failure, Result};
use crate::ipc::protocol::Stopped;
use crate::net::host::{HostView, Overlap};
use crate::net::link::{self, HostNetwork, Network};
use crate::net::netlink::Netlink;
use crate::net::tun::Tun;

use super::texts;

/// The interface and what was set for it.
pub(super) struct Mesh {
    name: String,
    tun: Option<Tun>,
    host: HostNetwork,
    netlink: Netlink,
    wanted: Option<InterfaceConfig>,
    /// Ranges behind peers.
    behind: Vec<Network>,
    /// Is up with the addresses that are wanted.
    is_up: bool,
    /// Another network that has addresses of ours.
    pub(super) overlap: Option<Overlap>,
}

/// What [`Mesh::apply`] found or could not do; none of it ends the daemon.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Is up now and was not before.
    pub(super) came_up: bool,
    /// Each thing that failed, with its cause.
    pub(super) failed: Vec<(String, io::Error)>,
    /// Ranges that another network of this host has already.
    pub(super) clashes: Vec<Network>,
    /// An overlap that was not there before.
    pub(super) new_overlap: bool,
}

/// A prefix of the map as the kernel's modules know it.
pub(super) const fn network(prefix: Prefix) -> Network {
    match prefix {
        Prefix::V4(address, len) => Network { address: IpAddr::V4(address), len },
        Prefix::V6(address, len) => Network { address: IpAddr::V6(address), len },
    }
}

/// Both ranges of the overlay.
pub(super) fn ranges(config: &InterfaceConfig) -> [Network; 2] {
    let (v6, len) = config.overlay.prefix_v6();
    [
        Network { address: IpAddr::V4(config.overlay.ipv4), len: config.overlay.ipv4_len },
        Network { address: IpAddr::V6(v6), len },
    ]
}

fn create(name: &str, netlink: &mut Netlink) -> Result<Tun> {
    if link::index_of(name).is_some() {
        let view = HostView::read(netlink).unwrap_or_default();
        let kind = view.by_name(name).map_or_else(String::new, |link| link.kind.clone());
        return Err(texts::interface_taken(name, &kind));
    }
    Tun::create(name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => texts::no_tun(),
        io::ErrorKind::PermissionDenied => texts::no_net_admin().cause(error),
        io::ErrorKind::ResourceBusy => texts::interface_taken(name, "tun"),
        _ => Failure::new(Code::UpStart, format!("cannot make the interface {name}")).cause(error),
    })
}

impl Mesh {
    /// Makes the interface, without addresses.
    ///
    /// # Errors
    ///
    /// `up.interface-taken`, `up.caps`, and what is missing on this machine.
    pub(super) fn create(name: &str) -> Result<Self> {
        let failed = |error: io::Error| {
            Failure::new(Code::UpStart, "cannot talk to the kernel's routing tables").cause(error)
        };
        let mut netlink = Netlink::open().map_err(failed)?;
        let host = HostNetwork::open().map_err(failed)?;
        let tun = create(name, &mut netlink)?;
        Ok(Self {
            name: name.to_owned(),
            tun: Some(tun),
            host,
            netlink,
            wanted: None,
            behind: Vec::new(),
            is_up: false,
            overlap: None,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The device to wait on, once packets can come.
    pub(super) fn tun(&self) -> Option<&Tun> {
        self.tun.as_ref().filter(|_| self.is_up)
    }

    pub(super) fn tun_mut(&mut self) -> Option<&mut Tun> {
        self.tun.as_mut().filter(|_| self.is_up)
    }

    /// What the network wants, if it is in force.
    pub(super) fn config(&self) -> Option<&InterfaceConfig> {
        self.wanted.as_ref().filter(|_| self.is_up)
    }

    /// What the network wants, in force or not.
    pub(super) const fn wanted(&self) -> Option<&InterfaceConfig> {
        self.wanted.as_ref()
    }

    /// The device is gone: somebody deleted it.
    pub(super) fn lose(&mut self) {
        self.tun = None;
        self.is_up = false;
        self.host.restore();
    }

    /// The network wants other addresses, or another MTU.
    pub(super) fn set_config(&mut self, config: InterfaceConfig) {
        if self.wanted.as_ref() != Some(&config) {
            self.host.restore();
            self.is_up = false;
            self.wanted = Some(config);
        }
    }

    /// The ranges behind peers are these now.
    pub(super) fn set_behind(&mut self, behind: Vec<Network>) {
        self.behind = behind;
    }

    /// How this host's network looks.
    pub(super) fn view(&mut self) -> io::Result<HostView> {
        HostView::read(&mut self.netlink)
    }

    /// Makes the host as it is wanted, whatever it is now.
    pub(super) fn apply(&mut self, view: &HostView) -> Applied {
        let mut applied = Applied::default();
        let Some(config) = self.wanted.clone() else {
            return applied;
        };
        let overlap = view.overlap(&ranges(&config), &self.name);
        applied.new_overlap = overlap.is_some() && overlap != self.overlap;
        self.overlap = overlap;
        if self.overlap.is_some() && !self.is_up {
            // Packets would leave through the wrong door: not before it is gone.
            return applied;
        }
        let was_up = self.is_up;
        if let Err((what, error)) = self.apply_link(&config, view, &mut applied) {
            applied.failed.push((what, error));
            return applied;
        }
        self.apply_routes(&config, view, &mut applied);
        self.is_up = true;
        applied.came_up = !was_up;
        applied
    }

    /// The device, up, with its addresses. A host whose IPv6 is switched off goes
    /// on with IPv4 alone.
    fn apply_link(
        &mut self,
        config: &InterfaceConfig,
        view: &HostView,
        applied: &mut Applied,
    ) -> core::result::Result<(), (String, io::Error)> {
        if self.tun.is_none() {
            let again = Tun::create(&self.name);
            self.tun = Some(again.map_err(|error| (self.name.clone(), error))?);
        }
        let missing = || (self.name.clone(), io::Error::from(io::ErrorKind::NotFound));
        let index = link::index_of(&self.name).ok_or_else(missing)?;
        let up = view
            .interfaces
            .get(&index)
            .is_some_and(|link| self.is_up && link.flags & libc::IFF_UP as u32 != 0);
        if !up {
            let result = self.host.bring_up(index, config.mtu.into());
            result.map_err(|error| (self.name.clone(), error))?;
        }
        let v4 = IpAddr::V4(config.overlay.address_v4(config.host));
        let v6 = IpAddr::V6(config.overlay.address_v6(config.host));
        for address in [v4, v6] {
            let mut there = view.addresses.iter().filter(|found| found.index == index);
            if there.any(|found| found.network.address == address) {
                continue;
            }
            match self.host.add_address(index, address) {
                Ok(()) => {}
                Err(error) if address.is_ipv4() => return Err((address.to_string(), error)),
                Err(error) => applied.failed.push((address.to_string(), error)),
            }
        }
        Ok(())
    }

    fn apply_routes(&mut self, config: &InterfaceConfig, view: &HostView, applied: &mut Applied) {
        let Some(index) = link::index_of(&self.name) else {
            return;
        };
        let overlay = ranges(config);
        let v4 = IpAddr::V4(config.overlay.address_v4(config.host));
        let v6 = IpAddr::V6(config.overlay.address_v6(config.host));
        let mut wanted: Vec<(Network, IpAddr)> = vec![(overlay[0], v4), (overlay[1], v6)];
        for range in &self.behind {
            let source = if range.address.is_ipv4() { v4 } else { v6 };
            wanted.push((*range, source));
        }
        for (range, source) in &wanted {
            let leads_to = |mine: bool| {
                let mut same = view.routes.iter().filter(|route| route.network == *range);
                same.any(|route| route.index != 0 && (route.index == index) == mine)
            };
            if leads_to(true) {
                continue;
            }
            if leads_to(false) {
                applied.clashes.push(*range);
                continue;
            }
            match self.host.add_route(index, *range, Some(*source)) {
                Ok(()) => {}
                // The kernel's view is newer than ours: somebody was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => applied.failed.push((range.to_string(), error)),
            }
        }
        let is_wanted = |range: &Network| wanted.iter().any(|(wanted, _)| wanted == range);
        let unwanted: Vec<Network> = self.host.routes().filter(|range| !is_wanted(range)).collect();
        for range in unwanted {
            // Gone already, with whatever it led to.
            drop(self.host.remove_route(index, range));
        }
    }

    /// Takes everything away.
    pub(super) fn remove(&mut self) -> Stopped {
        let interface = self.is_up;
        let restored = self.host.restore();
        self.is_up = false;
        self.tun = None;
        Stopped { interface, routes: restored.routes }
    }
}
