//! Sites: hosts behind NAT boxes, built of namespaces.
//!
//! A box has `wan` and `lan`; the lan is a bridge with a leg per host, or, at a
//! carrier, the one link to the home router behind it. As on the rest of the
//! simulated internet, neighbours are known to each other from the start.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::dns64::NameServer;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, end_commands, ipv4, ipv6};
use crate::measure::wait_until;
use crate::nat::{FIREWALL_IPV6, Kind, SHORT_LIFE};
use crate::net::namespace::Namespace;
use crate::process::{Process, find_program, finish};
use crate::run::{Run, ip_batch, ip_output};

/// For a program that only sets something up.
const LIMIT: Duration = Duration::from_secs(10);

/// Interfaces of a host: at home, and at another site.
pub(crate) const UPLINK: &str = "eth0";
pub(crate) const SECOND_UPLINK: &str = "eth1";
/// Number of a guest at a site.
const GUEST: u8 = 9;

/// What a machine is given by DHCP.
#[derive(Clone, Copy)]
pub(crate) struct Lease {
    /// The address of the host with this number, from 1 on.
    pub(crate) host: u8,
    /// It asks again after this, if not after half of twelve hours.
    pub(crate) renewed: Option<Duration>,
}

impl Lease {
    /// As a router at home gives it.
    pub(crate) const USUAL: Self = Self { host: 1, renewed: None };
}

/// A site to be built.
#[derive(Clone)]
pub(crate) struct SitePlan {
    pub(crate) kind: Kind,
    /// Names its link and, with a number from the second on, its hosts.
    pub(crate) name: String,
    /// Last number of the box's public address, and second of the hosts'.
    pub(crate) number: u8,
    pub(crate) hosts: u8,
    /// Hosts have public IPv6 addresses besides, behind a firewall.
    pub(crate) ipv6: bool,
    /// Life of a flow of UDP, if not the kernel's.
    pub(crate) binding: Option<Duration>,
}

impl SitePlan {
    /// One host, IPv4 alone; named after its kind.
    pub(crate) fn new(kind: Kind, number: u8) -> Self {
        Self { kind, name: kind.name().to_owned(), number, hosts: 1, ipv6: false, binding: None }
    }

    fn host_ipv4(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, 1 + host)
    }

    /// Number 0 is the box itself.
    fn host_ipv6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.number.into(), 0, 0, 0, 0, 1 + u16::from(host))
    }

    /// Where IPv4 addresses lie for a host that has none.
    pub(crate) fn nat64(&self, address: Ipv4Addr) -> Ipv6Addr {
        let [a, b, c, d] = address.octets().map(u16::from);
        Ipv6Addr::new(0x2001, 0xdb8, self.number.into(), 0x64, 0, 0, a << 8 | b, c << 8 | d)
    }

    /// The route that everybody else needs to its hosts.
    pub(crate) fn route(&self) -> Option<String> {
        let network = self.host_ipv6(0);
        self.ipv6.then(|| format!("route add {network}/64 via {}", ipv6(self.number)))
    }
}

/// Hosts behind a box.
pub(crate) struct Site {
    pub(crate) plan: SitePlan,
    /// The home router.
    home: Namespace,
    /// The box at the provider, if there is one.
    carrier: Option<Namespace>,
    pub(crate) hosts: Vec<Host>,
    /// What translates, where the kernel does not.
    _translator: Option<Process>,
}

impl Site {
    /// Makes the namespaces alone.
    pub(crate) fn prepare(run: &mut Run, plan: &SitePlan) -> Result<Self> {
        let name = &plan.name;
        let carrier = match plan.kind.carrier() {
            Some(_) => Some(run.namespace(&format!("isp-{name}"))?),
            None => None,
        };
        let hosts = (1..=plan.hosts)
            .map(|number| {
                let name = if number == 1 { name.clone() } else { format!("{name}-{number}") };
                Ok(Host {
                    namespace: run.namespace(&name)?,
                    name,
                    ipv4: plan.host_ipv4(number).into(),
                    ipv6: plan.host_ipv6(number).into(),
                })
            })
            .collect::<Result<_>>()?;
        let home = run.namespace(&format!("nat-{name}"))?;
        run.count_links(usize::from(plan.hosts) + usize::from(carrier.is_some()));
        let site = Self { plan: plan.clone(), home, carrier, hosts, _translator: None };
        // Before there is an interface: it takes what is set by then.
        if !site.has_ipv6() {
            // Nobody would answer, and the packets would be counted as the programs'.
            for host in &site.hosts {
                host.namespace
                    .within(|| {
                        fs::write("/proc/sys/net/ipv6/conf/default/router_solicitations", "0")
                    })
                    .and_then(|written| written.or_else(without_ipv6))
                    .during(&format!("set up {}", host.name))?;
            }
        }
        for namespace in site.boxes() {
            site.settings(namespace).during(&format!("set up {}", namespace.name()))?;
        }
        Ok(site)
    }

    /// The namespace that the internet's link ends in.
    pub(crate) fn outermost(&self) -> &Namespace {
        self.carrier.as_ref().unwrap_or(&self.home)
    }

    /// The first host.
    pub(crate) fn host(&self) -> &Host {
        &self.hosts[0]
    }

    /// Its public address.
    pub(crate) fn public(&self) -> Ipv4Addr {
        ipv4(self.plan.number)
    }

    /// What tells hosts that have IPv6 alone how they are translated.
    pub(crate) fn name_server(&self) -> Result<(NameServer, IpAddr)> {
        let (plan, address) = (self.plan.clone(), IpAddr::from(self.plan.host_ipv6(0)));
        let server = NameServer::start(&self.home, address, move |ip| plan.nat64(ip))?;
        Ok((server, address))
    }

    /// Where its hosts see an address of others.
    pub(crate) fn sees(&self, address: IpAddr) -> IpAddr {
        match (self.plan.kind, address) {
            (Kind::Nat64, IpAddr::V4(ip)) => self.plan.nat64(ip).into(),
            _ => address,
        }
    }

    /// Gives the outermost box further rules.
    pub(crate) fn rules(&self, run: &Run, name: &str, text: &str) -> Result<()> {
        nft(run, self.outermost(), name, text)
    }

    /// Addresses, routes, neighbours and rules; the link `wan` is there.
    pub(crate) fn build(
        &mut self,
        run: &Run,
        everybody: &[(u8, u8)],
        routes: &[String],
    ) -> Result<()> {
        let SitePlan { kind, number, ipv6, .. } = self.plan;
        let during = format!("set up the site {}", self.plan.name);
        let families = if ipv6 { Families::Both } else { Families::Ipv4 };
        let mut outer = end_commands("wan", number, everybody, families);
        if let Some(own) = self.plan.route() {
            outer.extend(routes.iter().filter(|route| **route != own).cloned());
        }
        ip_batch(Some(self.outermost()), &outer).during(&during)?;
        let mut wan = ipv4(number);
        if let (Some(carrier), Some(box_)) = (&self.carrier, kind.carrier()) {
            let (near, far) = (Ipv4Addr::new(100, 64, 0, 1), Ipv4Addr::new(100, 64, 0, 2));
            ip_batch(Some(carrier), &self.carrier_commands(near, far)).during(&during)?;
            ip_batch(Some(&self.home), &self.home_commands(near, far)).during(&during)?;
            nft(run, carrier, "rules", &box_.rules(wan, far))?;
            wan = far;
        }
        ip_batch(Some(&self.home), &self.lan_commands()).during(&during)?;
        for (number, host) in (1..).zip(&self.hosts) {
            let mut commands = vec!["link set lo up".to_owned()];
            commands.extend(self.host_commands(number, UPLINK));
            ip_batch(Some(&host.namespace), &commands).during(&during)?;
        }
        let mut rules = kind.rules(wan, self.plan.host_ipv4(1));
        if ipv6 && kind != Kind::SixOpen {
            rules.push_str(FIREWALL_IPV6);
        }
        nft(run, &self.home, "rules", &rules)?;
        if kind == Kind::Nat64 {
            self._translator = Some(self.translate(run)?);
        }
        Ok(())
    }

    /// What a router sets in its kernel.
    fn settings(&self, namespace: &Namespace) -> io::Result<()> {
        let six = self.plan.ipv6 || self.plan.kind == Kind::Nat64;
        let short = (self.plan.kind == Kind::Short).then_some(SHORT_LIFE);
        let life = self.plan.binding.or(short).map(|life| life.as_secs().to_string());
        let mut all = vec![
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            // Of two public addresses the one that stays is that of the box.
            ("ipv4/conf/all/promote_secondaries", "1"),
            ("ipv6/conf/all/forwarding", if six { "1" } else { "0" }),
            ("ipv6/conf/all/disable_ipv6", if six { "0" } else { "1" }),
            ("ipv6/conf/default/disable_ipv6", if six { "0" } else { "1" }),
            ("bridge/bridge-nf-call-iptables", "0"),
            ("bridge/bridge-nf-call-ip6tables", "0"),
        ];
        if let Some(life) = &life {
            all.push(("netfilter/nf_conntrack_udp_timeout", life));
            all.push(("netfilter/nf_conntrack_udp_timeout_stream", life));
        }
        namespace.within(|| {
            all.iter().try_for_each(|(name, value)| {
                match fs::write(Path::new("/proc/sys/net").join(name), value) {
                    // Without that part of the kernel there is nothing to set.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    written => written,
                }
            })
        })?
    }

    fn carrier_commands(&self, near: Ipv4Addr, far: Ipv4Addr) -> Vec<String> {
        let (number, home) = (self.plan.number, self.home.name());
        let (inner, outer) = (link_mac(1, number), link_mac(2, number));
        let mut commands = vec![
            format!(
                "link add lan address {inner} type veth peer name wan address {outer} netns {home}"
            ),
            format!("address add {near}/24 dev lan"),
            "link set lan up".to_owned(),
            format!("neigh replace {far} lladdr {outer} dev lan nud permanent"),
        ];
        if self.plan.ipv6 {
            let prefix = self.plan.host_ipv6(0);
            commands.extend([
                "address add fd64::1/64 dev lan nodad".to_owned(),
                format!("neigh replace fd64::2 lladdr {outer} dev lan nud permanent"),
                format!("route add {prefix}/64 via fd64::2"),
            ]);
        }
        commands
    }

    fn home_commands(&self, near: Ipv4Addr, far: Ipv4Addr) -> Vec<String> {
        let inner = link_mac(1, self.plan.number);
        let mut commands = vec![
            "link set lo up".to_owned(),
            format!("address add {far}/24 dev wan"),
            "link set wan up".to_owned(),
            format!("neigh replace {near} lladdr {inner} dev wan nud permanent"),
            format!("route add default via {near}"),
        ];
        if self.plan.ipv6 {
            commands.extend([
                "address add fd64::2/64 dev wan nodad".to_owned(),
                format!("neigh replace fd64::1 lladdr {inner} dev wan nud permanent"),
                "route add default via fd64::1".to_owned(),
            ]);
        }
        commands
    }

    /// Whether a host has addresses of that family.
    const fn has(&self, four: bool) -> bool {
        if four { !matches!(self.plan.kind, Kind::Nat64) } else { self.has_ipv6() }
    }

    const fn has_ipv6(&self) -> bool {
        self.plan.ipv6 || matches!(self.plan.kind, Kind::Nat64)
    }

    /// Addresses of a host, or of the box at 0, with the length of the network.
    fn addresses(&self, host: u8) -> Vec<(IpAddr, &'static str)> {
        let four = self.has(true).then(|| (self.plan.host_ipv4(host).into(), "24"));
        let six = self.has(false).then(|| (self.plan.host_ipv6(host).into(), "64"));
        four.into_iter().chain(six).collect()
    }

    fn lan_commands(&self) -> Vec<String> {
        let mut commands = vec![
            "link set lo up".to_owned(),
            format!("link add lan address {} type bridge", self.lan_mac(0)),
        ];
        for (address, length) in self.addresses(0) {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            commands.push(format!("address add {address}/{length} dev lan{nodad}"));
        }
        commands.push("link set lan up".to_owned());
        for (host, number) in self.hosts.iter().zip(1..) {
            commands.extend(self.leg(number, host, UPLINK));
        }
        commands
    }

    /// A cable from the box to a host.
    fn leg(&self, number: u8, host: &Host, interface: &str) -> Vec<String> {
        let (mac, namespace) = (self.lan_mac(number), host.namespace.name());
        let mut commands = vec![
            format!(
                "link add h{number} type veth peer name {interface} address {mac} netns {namespace}"
            ),
            format!("link set h{number} master lan up"),
        ];
        commands.extend(self.neighbour(number, "lan"));
        commands
    }

    /// A host of another site gets a second uplink, to here; it is down.
    pub(crate) fn take_guest(&self, run: &mut Run, host: &Host) -> Result<()> {
        run.count_links(1);
        let leg = self.leg(GUEST, host, SECOND_UPLINK);
        ip_batch(Some(&self.home), &leg).during(&format!("lead a cable to {}", host.name))
    }

    /// The address of the host with this number, from 1 on.
    pub(crate) fn address(&self, host: u8) -> Ipv4Addr {
        self.plan.host_ipv4(host)
    }

    /// A socket in the LAN for a machine that asks for its address: the end of this cable
    /// is in the namespace that is returned.
    pub(crate) fn socket(&self, run: &mut Run, cable: &str) -> Result<&Namespace> {
        run.count_links(1);
        let commands =
            [format!("tuntap add dev {cable} mode tap"), format!("link set {cable} master lan up")];
        ip_batch(Some(&self.home), &commands).during("lead a cable to a machine")?;
        Ok(&self.home)
    }

    /// What gives the machine with this MAC address the address of a host of the site, by
    /// DHCP, while the process runs. The first host is the one that kinds let strangers
    /// in to.
    pub(crate) fn lease(&self, run: &Run, mac: &str, lease: Lease) -> Result<Process> {
        let name = format!("dhcp-{}", self.plan.name);
        let [network, address] = [0, lease.host].map(|host| self.plan.host_ipv4(host));
        let file = run.folder().join(&name);
        // What another process before it had given away is not known any more.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).during("forget leases");
            }
            _ => {}
        }
        let mut command = Command::new(found("dnsmasq")?);
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"])
            .args(["--interface=lan", "--bind-interfaces", "--no-ping", "--log-facility=-"])
            .args(["--dhcp-authoritative", "--dhcp-rapid-commit"])
            .arg(format!("--dhcp-range={network},static,12h"))
            .arg(format!("--dhcp-host={mac},{address}"))
            .arg(format!("--dhcp-leasefile={}", file.display()));
        if let Some(renewed) = lease.renewed {
            let (first, then) = (renewed.as_secs(), 2 * renewed.as_secs());
            command.arg(format!("--dhcp-option-force=option:T1,{first}"));
            command.arg(format!("--dhcp-option-force=option:T2,{then}"));
        }
        let process = Process::start(&name, &self.home, run.logs(), &mut command)?;
        process.wait_for(0, LIMIT, "that it gives addresses away", |line| {
            line.contains("static leases").then_some(())
        })?;
        Ok(process)
    }

    /// Its own host, or a guest, is here from now on and nowhere else.
    pub(crate) fn arrive(&self, host: &Host) -> Result<()> {
        let own = self.hosts.iter().position(|own| own.name == host.name);
        let (left, taken, number) = match own {
            Some(index) => (SECOND_UPLINK, UPLINK, 1 + index as u8),
            None => (UPLINK, SECOND_UPLINK, GUEST),
        };
        let mut commands =
            vec![format!("link set {left} down"), format!("address flush dev {left}")];
        commands.extend(self.host_commands(number, taken));
        ip_batch(Some(&host.namespace), &commands).during(&format!("move {}", host.name))
    }

    /// What a host sets to be here.
    fn host_commands(&self, own: u8, interface: &str) -> Vec<String> {
        let mut commands = Vec::new();
        for (address, length) in self.addresses(own) {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            commands.push(format!("address add {address}/{length} dev {interface}{nodad}"));
        }
        commands.push(format!("link set {interface} up"));
        for other in (0..=self.plan.hosts).filter(|other| *other != own) {
            commands.extend(self.neighbour(other, interface));
        }
        for (gateway, _) in self.addresses(0) {
            commands.push(format!("route add default via {gateway}"));
        }
        commands
    }

    fn neighbour(&self, host: u8, interface: &str) -> Vec<String> {
        let mac = self.lan_mac(host);
        let line = |(address, _): (IpAddr, _)| {
            format!("neigh replace {address} lladdr {mac} dev {interface} nud permanent")
        };
        self.addresses(host).into_iter().map(line).collect()
    }

    fn lan_mac(&self, host: u8) -> String {
        link_mac(3 + host, self.plan.number)
    }

    /// IPv6 of the hosts to IPv4 and back, by a program on a TUN device.
    fn translate(&self, run: &Run) -> Result<Process> {
        let name = format!("tayga-{}", self.plan.name);
        let folder = run.folder().join(&name);
        fs::create_dir_all(&folder).during("make the translator's folder")?;
        let prefix = self.plan.nat64(Ipv4Addr::UNSPECIFIED);
        let settings = format!(
            "tun-device nat64\nipv4-addr 192.168.255.1\nprefix {prefix}/96\n\
             dynamic-pool 192.168.255.0/24\ndata-dir {}\n",
            folder.display()
        );
        let path = folder.join("tayga.conf");
        fs::write(&path, settings).during("write the translator's settings")?;
        let commands = [
            "tuntap add dev nat64 mode tun".to_owned(),
            "link set nat64 up".to_owned(),
            "route add 192.168.255.0/24 dev nat64".to_owned(),
            format!("route add {prefix}/96 dev nat64"),
        ];
        ip_batch(Some(&self.home), &commands).during("make the translator's device")?;
        let mut command = Command::new(found("tayga")?);
        command.arg("-d").arg("--config").arg(&path);
        let process = Process::start(&name, &self.home, run.logs(), &mut command)?;
        // It says so on a stream that it flushes at its end.
        wait_until(LIMIT, "tayga translates", || {
            let device = ip_output(&self.home, &["link", "show", "nat64"]);
            Ok(device.during("look at the translator's device")?.contains("LOWER_UP"))
        })?;
        Ok(process)
    }

    /// Loses every mapping of UDP, as a restart of the boxes does. TCP is spared:
    /// a box that forgets it resets what comes next, and the gateways' lines to
    /// the coordinator are not what is looked at.
    pub(crate) fn forget(&self, run: &Run) -> Result<()> {
        self.delete(run, &["-f", "ipv4"])?;
        if self.plan.ipv6 {
            self.delete(run, &["-f", "ipv6"])?;
        }
        if self.plan.kind.learns() {
            return nft(run, &self.home, "flush", "flush map ip nat known\n");
        }
        Ok(())
    }

    /// The box starts anew, knows no flow any more, and has another public address.
    pub(crate) fn restart(&self, run: &Run, [from, to]: [u8; 2]) -> Result<()> {
        let [from, to] = [from, to].map(ipv4);
        let commands =
            [format!("address replace {to}/24 dev wan"), format!("address del {from}/24 dev wan")];
        ip_batch(Some(self.outermost()), &commands).during("change a public address")?;
        for namespace in self.boxes() {
            let mut command = Command::new(found("conntrack")?);
            command.arg("-F");
            let name = format!("conntrack-{}", namespace.name());
            let finished = finish(&name, namespace, run.logs(), &mut command, LIMIT)?;
            if !finished.success() {
                let said = format!("conntrack -F: {}", finished.stderr.trim());
                return Err(Failure::new("lab.conntrack", said));
            }
        }
        Ok(())
    }

    fn boxes(&self) -> impl Iterator<Item = &Namespace> {
        [Some(&self.home), self.carrier.as_ref()].into_iter().flatten()
    }

    /// Loses what there was between its hosts and another site. What they were
    /// told of themselves by others stays true.
    pub(crate) fn forget_other(&self, run: &Run, other: &Self) -> Result<()> {
        self.forget_address(run, other.public())?;
        if self.plan.ipv6 {
            // Nobody's address is translated.
            self.delete(run, &["-f", "ipv6"])?;
        }
        Ok(())
    }

    /// Loses every flow of UDP.
    pub(crate) fn forget_all(&self, run: &Run) -> Result<()> {
        self.delete(run, &[])
    }

    /// Loses what there was between its hosts and an address.
    pub(crate) fn forget_address(&self, run: &Run, address: Ipv4Addr) -> Result<()> {
        let address = address.to_string();
        // Begun here, and begun there.
        self.delete(run, &["--orig-dst", &address])?;
        self.delete(run, &["--orig-src", &address])
    }

    /// Deletes flows of UDP in every box of the site.
    fn delete(&self, run: &Run, which: &[&str]) -> Result<()> {
        for namespace in self.boxes() {
            let mut command = Command::new(found("conntrack")?);
            command.args(["-D", "-p", "udp"]).args(which);
            let name = format!("conntrack-{}", namespace.name());
            let finished = finish(&name, namespace, run.logs(), &mut command, LIMIT)?;
            // Nothing to forget is its status 1 as well.
            if !finished.success() && !finished.stderr.contains(" 0 flow entries") {
                let said = format!("conntrack -D: {}", finished.stderr.trim());
                return Err(Failure::new("lab.conntrack", said));
            }
        }
        Ok(())
    }
}

/// A kernel without IPv6 has nothing to set.
fn without_ipv6(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn link_mac(link: u8, number: u8) -> String {
    format!("02:00:00:00:{link:02x}:{number:02x}")
}

fn found(program: &str) -> Result<PathBuf> {
    find_program(program).ok_or_else(|| {
        Failure::skipped(format!("the program {program} is missing"))
            .line("try", "cross/setup test")
    })
}

/// What `nft -f` makes of a text, which stays among the logs.
fn nft(run: &Run, namespace: &Namespace, name: &str, text: &str) -> Result<()> {
    let name = format!("nft-{name}-{}", namespace.name());
    let path = run.logs().join(format!("{name}.nft"));
    fs::write(&path, text).during("write rules")?;
    let mut command = Command::new(found("nft")?);
    command.arg("-f").arg(&path);
    let finished = finish(&name, namespace, run.logs(), &mut command, LIMIT)?;
    if finished.success() {
        return Ok(());
    }
    Err(Failure::new("lab.nft", format!("nft -f {}: {}", path.display(), finished.stderr.trim())))
}
