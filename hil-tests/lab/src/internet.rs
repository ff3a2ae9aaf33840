//! The simulated internet: hosts with public addresses, sites behind NAT boxes,
//! one wire between them.
//!
//! Each host is a namespace with `eth0`; the other end of its link lies in the
//! namespace `core`, where the wire picks frames up. Neighbours are known to
//! each other from the start: on the internet nobody asks for MAC addresses,
//! and a question would cost a round trip that no real path has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::failure::{During, Failure, Result};
use crate::net::namespace::Namespace;
use crate::net::wire::Wire;
use crate::run::{Run, ip_batch};
use crate::site::{Site, SitePlan};

/// One way; a round trip takes twice as long.
pub(crate) const ONE_WAY: Duration = Duration::from_millis(10);

/// A place on the simulated internet, or behind a box on it.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) ipv4: IpAddr,
    pub(crate) ipv6: IpAddr,
    pub(crate) namespace: Namespace,
}

impl Host {
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The address that others use.
    pub(crate) fn address(&self, families: Families) -> IpAddr {
        match families {
            Families::Both | Families::Ipv4 => self.ipv4(),
            Families::Ipv6 => self.ipv6(),
        }
    }

    /// 203.0.113.0/24 is for documentation (RFC 5737).
    pub(crate) const fn ipv4(&self) -> IpAddr {
        self.ipv4
    }

    /// 2001:db8::/32 is for documentation (RFC 3849).
    pub(crate) const fn ipv6(&self) -> IpAddr {
        self.ipv6
    }
}

/// Which addresses the internet has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    Ipv4,
    Ipv6,
}

impl Families {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Both => "IPv4 and IPv6, 20 ms apart",
            Self::Ipv4 => "IPv4 alone, 20 ms apart",
            Self::Ipv6 => "IPv6 alone, 20 ms apart",
        }
    }
}

/// The whole of it.
pub(crate) struct Internet {
    core: Namespace,
    hosts: Vec<Host>,
    sites: Vec<Site>,
    /// Whose end each link of the wire is.
    ends: Vec<String>,
    wire: Wire,
}

/// A machine that is not a namespace: it hangs on a TAP device in `core`.
pub(crate) struct Attached {
    /// Name of the TAP device, and of the machine.
    pub(crate) name: &'static str,
    pub(crate) number: u8,
}

/// What an internet consists of.
pub(crate) struct Plan<'a> {
    pub(crate) core: &'a str,
    /// Names with the last number of their addresses.
    pub(crate) hosts: &'a [(&'a str, u8)],
    /// Further addresses of hosts and of sites, by name.
    pub(crate) further: &'a [(&'a str, u8)],
    /// Machines that get a TAP device.
    pub(crate) attached: &'a [Attached],
    pub(crate) sites: &'a [SitePlan],
    pub(crate) families: Families,
    /// For what is left to chance on the wire.
    pub(crate) seed: u64,
}

impl<'a> Plan<'a> {
    /// Nobody on it yet.
    pub(crate) const fn new(core: &'a str, families: Families) -> Self {
        Self { core, hosts: &[], further: &[], attached: &[], sites: &[], families, seed: 1 }
    }

    /// The number of a host's link and each of its addresses: who is a neighbour.
    fn neighbours(&self) -> Vec<(u8, u8)> {
        let link = |name: &str| {
            let host = self.hosts.iter().find(|(host, _)| *host == name);
            let site = self.sites.iter().find(|site| site.name == name);
            host.map(|(_, number)| *number).or_else(|| site.map(|site| site.number))
        };
        let hosts = self.hosts.iter().map(|(_, number)| (*number, *number));
        let further = self.further.iter().filter_map(|(name, number)| Some((*number, link(name)?)));
        let attached = self.attached.iter().map(|machine| (machine.number, machine.number));
        let sites = self.sites.iter().map(|site| (site.number, site.number));
        // The first of an end's addresses is the one that it sends from.
        hosts.chain(sites).chain(attached).chain(further).collect()
    }
}

impl Internet {
    /// Makes namespaces, links and the wire. `hosts` are names with the last
    /// number of their addresses; `attached` machines get a TAP device.
    pub(crate) fn build(
        run: &mut Run,
        core: &str,
        hosts: &[(&str, u8)],
        attached: &[Attached],
        families: Families,
    ) -> Result<Self> {
        let plan = Plan { hosts, attached, ..Plan::new(core, families) };
        Self::of(run, &plan)
    }

    /// The same, of a whole plan.
    pub(crate) fn of(run: &mut Run, plan: &Plan<'_>) -> Result<Self> {
        let core = run.namespace(plan.core)?;
        let hosts: Vec<Host> = plan
            .hosts
            .iter()
            .map(|(name, number)| {
                Ok(Host {
                    name: (*name).to_owned(),
                    ipv4: ipv4(*number).into(),
                    ipv6: ipv6(*number).into(),
                    namespace: run.namespace(name)?,
                })
            })
            .collect::<Result<_>>()?;
        let mut sites: Vec<Site> =
            plan.sites.iter().map(|site| Site::prepare(run, site)).collect::<Result<_>>()?;
        let links = core_commands(plan, &hosts, &sites);
        ip_batch(Some(&core), &links).during("make the links of the simulated internet")?;
        run.count_links(hosts.len() + plan.attached.len() + sites.len());
        quiet(&core).during("set up the namespace core")?;
        let everybody = plan.neighbours();
        let routes: Vec<String> = plan.sites.iter().filter_map(SitePlan::route).collect();
        for (host, (_, number)) in hosts.iter().zip(plan.hosts) {
            let mut commands = end_commands("eth0", *number, &everybody, plan.families);
            commands.extend(routes.iter().cloned());
            ip_batch(Some(&host.namespace), &commands)
                .during(&format!("set up the host {}", host.name))?;
        }
        for site in &mut sites {
            site.build(run, &everybody, &routes)?;
        }
        let ends: Vec<String> = hosts
            .iter()
            .map(|host| host.name.clone())
            .chain(plan.attached.iter().map(|machine| machine.name.to_owned()))
            .chain(sites.iter().map(|site| site.plan.name.clone()))
            .collect();
        let names: Vec<&str> = ends.iter().map(String::as_str).collect();
        let wire = Wire::start(&core, &names, ONE_WAY, plan.seed).during("start the wire")?;
        Ok(Self { core, hosts, sites, ends, wire })
    }

    /// The host of that name.
    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .ok_or_else(|| Failure::new("lab.scenario", format!("there is no host {name}")))
    }

    /// The site of that name.
    pub(crate) fn site(&self, name: &str) -> Result<&Site> {
        self.sites
            .iter()
            .find(|site| site.plan.name == name)
            .ok_or_else(|| Failure::new("lab.scenario", format!("there is no site {name}")))
    }

    pub(crate) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Frames from and to a host or a site come up to this much later.
    pub(crate) fn set_jitter(&self, name: &str, jitter: Duration) -> Result<()> {
        self.wire.set_jitter(self.end(name)?, jitter);
        Ok(())
    }

    /// So many in a million frames from and to a host or a site are lost.
    pub(crate) fn set_loss(&self, name: &str, ppm: u32) -> Result<()> {
        self.wire.set_loss(self.end(name)?, ppm);
        Ok(())
    }

    /// Cuts a host or a site off from everybody, or mends that.
    pub(crate) fn set_cut(&self, name: &str, cut: bool) -> Result<()> {
        self.wire.set_cut(self.end(name)?, 0..self.ends.len(), cut);
        Ok(())
    }

    /// Cuts two off from each other and from nobody else, or mends that.
    pub(crate) fn set_cut_between(&self, names: [&str; 2], cut: bool) -> Result<()> {
        let [one, other] = names.map(|name| self.end(name));
        self.wire.set_cut(one?, std::iter::once(other?), cut);
        Ok(())
    }

    /// When the first frame went from one to the other, since
    /// [`Internet::forget_first_frames`].
    pub(crate) fn first_frame(&self, [from, to]: [&str; 2]) -> Result<Option<Instant>> {
        Ok(self.wire.first_frame(self.end(from)?, self.end(to)?))
    }

    /// From now on the next frames are the first.
    pub(crate) fn forget_first_frames(&self) {
        self.wire.forget_first_frames();
    }

    fn end(&self, name: &str) -> Result<usize> {
        self.ends
            .iter()
            .position(|end| end == name)
            .ok_or_else(|| Failure::new("lab.scenario", format!("no link leads to {name}")))
    }

    /// Where the wire runs.
    pub(crate) fn core(&self) -> &Namespace {
        &self.core
    }

    /// Frames delivered and lost so far.
    pub(crate) fn counters(&self) -> (u64, u64) {
        self.wire.counters()
    }
}

pub(crate) fn ipv4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, number)
}

/// Ends with the same digits as the IPv4 address.
pub(crate) fn ipv6(number: u8) -> Ipv6Addr {
    let digit = |place: u8| u16::from(number / place % 10);
    let last = digit(100) << 8 | digit(10) << 4 | digit(1);
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

/// Locally administered, and the same in every run.
pub(crate) fn mac(number: u8) -> String {
    format!("02:00:00:00:00:{number:02x}")
}

fn core_commands(plan: &Plan<'_>, hosts: &[Host], sites: &[Site]) -> Vec<String> {
    let link = |name: &str, end: &str, number: u8, namespace: &Namespace| {
        let (mac, inside) = (mac(number), namespace.name());
        [
            format!("link add name {name} type veth peer name {end} address {mac} netns {inside}"),
            format!("link set dev {name} up"),
        ]
    };
    let mut commands = Vec::new();
    for (host, (_, number)) in hosts.iter().zip(plan.hosts) {
        commands.extend(link(&host.name, "eth0", *number, &host.namespace));
    }
    for machine in plan.attached {
        commands.push(format!("tuntap add dev {} mode tap", machine.name));
        commands.push(format!("link set dev {} up", machine.name));
    }
    for site in sites {
        commands.extend(link(&site.plan.name, "wan", site.plan.number, site.outermost()));
    }
    commands
}

/// What an end of the wire needs to reach everybody: its addresses, and each
/// neighbour's address with the number of its link.
pub(crate) fn end_commands(
    interface: &str,
    own: u8,
    everybody: &[(u8, u8)],
    families: Families,
) -> Vec<String> {
    let addresses = |number: u8| -> Vec<IpAddr> {
        match families {
            Families::Both => vec![ipv4(number).into(), ipv6(number).into()],
            Families::Ipv4 => vec![ipv4(number).into()],
            Families::Ipv6 => vec![ipv6(number).into()],
        }
    };
    let (own, others): (Vec<_>, Vec<_>) = everybody.iter().partition(|(_, link)| *link == own);
    let mut commands = vec!["link set lo up".to_owned()];
    for address in own.iter().flat_map(|(number, _)| addresses(*number)) {
        let (length, nodad) = if address.is_ipv4() { (24, "") } else { (64, " nodad") };
        commands.push(format!("address add {address}/{length} dev {interface}{nodad}"));
    }
    commands.push(format!("link set {interface} up"));
    for (number, link) in others {
        for address in addresses(number) {
            let mac = mac(link);
            commands.push(format!(
                "neigh replace {address} lladdr {mac} dev {interface} nud permanent"
            ));
        }
    }
    commands
}

/// No host lives in `core`: its kernel must not speak on the links.
fn quiet(core: &Namespace) -> std::io::Result<()> {
    core.within(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))?.or_else(
        |error| match error.kind() {
            // Without IPv6 there is nothing to silence.
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_end_alike() {
        for number in [1, 22, 210] {
            assert_eq!(ipv4(number).to_string(), format!("203.0.113.{number}"));
            assert_eq!(ipv6(number).to_string(), format!("2001:db8::{number}"));
        }
    }
}
