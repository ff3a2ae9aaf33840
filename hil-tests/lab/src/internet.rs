//! The simulated internet: hosts with public addresses, one wire between them.
//!
//! Each host is a namespace with `eth0`; the other end of its link lies in the
//! namespace `core`, where the wire picks frames up. Neighbours are known to
//! each other from the start: on the internet nobody asks for MAC addresses,
//! and a question would cost a round trip that no real path has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::failure::{During, Failure, Result};
use crate::net::namespace::Namespace;
use crate::net::wire::Wire;
use crate::run::{Run, ip_batch};

/// One way; a round trip takes twice as long.
pub(crate) const ONE_WAY: Duration = Duration::from_millis(10);

/// A place on the simulated internet.
pub(crate) struct Host {
    pub(crate) name: String,
    /// Last number of both addresses.
    number: u8,
    namespace: Namespace,
}

impl Host {
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The address that others use.
    pub(crate) fn address(&self, families: Families) -> IpAddr {
        match families {
            Families::Both => self.ipv4(),
            Families::Ipv6 => self.ipv6(),
        }
    }

    /// 203.0.113.0/24 is for documentation (RFC 5737).
    pub(crate) fn ipv4(&self) -> IpAddr {
        ipv4(self.number).into()
    }

    /// 2001:db8::/32 is for documentation (RFC 3849).
    pub(crate) fn ipv6(&self) -> IpAddr {
        ipv6(self.number).into()
    }
}

/// Which addresses the internet has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    Ipv6,
}

impl Families {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Both => "IPv4 and IPv6, 20 ms apart",
            Self::Ipv6 => "IPv6 alone, 20 ms apart",
        }
    }
}

/// The whole of it.
pub(crate) struct Internet {
    core: Namespace,
    hosts: Vec<Host>,
    wire: Wire,
}

/// A machine that is not a namespace: it hangs on a TAP device in `core`.
pub(crate) struct Attached {
    /// Name of the TAP device, and of the machine.
    pub(crate) name: &'static str,
    pub(crate) number: u8,
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
        let core = run.namespace(core)?;
        let hosts: Vec<Host> = hosts
            .iter()
            .map(|(name, number)| {
                Ok(Host {
                    name: (*name).to_owned(),
                    number: *number,
                    namespace: run.namespace(name)?,
                })
            })
            .collect::<Result<_>>()?;
        let links = core_commands(&hosts, attached);
        ip_batch(Some(&core), &links).during("make the links of the simulated internet")?;
        run.count_links(hosts.len() + attached.len());
        quiet(&core).during("set up the namespace core")?;
        let everybody: Vec<u8> = hosts
            .iter()
            .map(|host| host.number)
            .chain(attached.iter().map(|machine| machine.number))
            .collect();
        for host in &hosts {
            let commands = host_commands(host.number, &everybody, families);
            ip_batch(Some(&host.namespace), &commands)
                .during(&format!("set up the host {}", host.name))?;
        }
        let ends: Vec<&str> = hosts
            .iter()
            .map(|host| host.name.as_str())
            .chain(attached.iter().map(|machine| machine.name))
            .collect();
        let wire = Wire::start(&core, &ends, ONE_WAY).during("start the wire")?;
        Ok(Self { core, hosts, wire })
    }

    /// The host of that name.
    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .ok_or_else(|| Failure::new("lab.scenario", format!("there is no host {name}")))
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

fn core_commands(hosts: &[Host], attached: &[Attached]) -> Vec<String> {
    let mut commands = Vec::new();
    for host in hosts {
        commands.push(format!(
            "link add name {} type veth peer name eth0 address {} netns {}",
            host.name,
            mac(host.number),
            host.namespace.name()
        ));
        commands.push(format!("link set dev {} up", host.name));
    }
    for machine in attached {
        commands.push(format!("tuntap add dev {} mode tap", machine.name));
        commands.push(format!("link set dev {} up", machine.name));
    }
    commands
}

fn host_commands(number: u8, everybody: &[u8], families: Families) -> Vec<String> {
    let addresses = |number: u8| -> Vec<IpAddr> {
        match families {
            Families::Both => vec![ipv4(number).into(), ipv6(number).into()],
            Families::Ipv6 => vec![ipv6(number).into()],
        }
    };
    let mut commands = vec!["link set lo up".to_owned()];
    for address in addresses(number) {
        let range = if address.is_ipv4() { "24 dev eth0" } else { "64 dev eth0 nodad" };
        commands.push(format!("address add {address}/{range}"));
    }
    commands.push("link set eth0 up".to_owned());
    for other in everybody.iter().filter(|other| **other != number) {
        for address in addresses(*other) {
            commands.push(format!(
                "neigh replace {address} lladdr {} dev eth0 nud permanent",
                mac(*other)
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
