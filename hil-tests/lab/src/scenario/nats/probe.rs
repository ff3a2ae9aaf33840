//! What RFC 5780 finds out, without its protocol: the laboratory holds both ends,
//! so a server's socket tells by itself whom it hears, and answers from any other.
//!
//! Nothing waits for what must not come. The wire keeps the order of a link's
//! frames, so behind every such datagram goes one that is let through: when that
//! has arrived and the other has not, the box dropped it.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::server;
use crate::failure::{During, Failure, Result};
use crate::nat::Kind;
use crate::net::namespace::Namespace;
use crate::net::signal;
use crate::site::Site;

/// For what must come: a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sockets whose public ports are compared.
const SOCKETS: usize = 4;
/// Sockets that fill a table of 512, with four flows each.
const MANY: usize = 150;

/// Datagrams are told apart by their numbers.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// What a box looks like from behind it.
#[derive(PartialEq, Eq)]
pub(super) struct Seen {
    /// What a public port stands for.
    pub(super) mapping: &'static str,
    /// How it is chosen.
    pub(super) ports: &'static str,
    /// Who may answer.
    pub(super) filtering: &'static str,
    /// Hosts reach each other by their public addresses.
    pub(super) hairpin: Option<bool>,
    pub(super) more: Vec<String>,
}

impl Seen {
    pub(super) const TITLES: [&'static str; 5] = ["mapping", "ports", "filtering", "hairpin", ""];
    /// No UDP at all.
    pub(super) const NOTHING: Self =
        Self { mapping: "–", ports: "–", filtering: "–", hairpin: None, more: Vec::new() };

    pub(super) fn words(&self) -> [String; 5] {
        let hairpin = self.hairpin.map_or("–", |hairpin| if hairpin { "yes" } else { "no" });
        let [mapping, ports, filtering] = [self.mapping, self.ports, self.filtering];
        let more = self.more.join(", ");
        [mapping.into(), ports.into(), filtering.into(), hairpin.into(), more]
    }

    pub(super) fn json(&self) -> Value {
        let word = |word: &str| if word == "–" { Value::Null } else { word.into() };
        json!({
            "mapping": word(self.mapping),
            "ports": word(self.ports),
            "filtering": word(self.filtering),
            "hairpin": self.hairpin,
            "more": self.more,
        })
    }
}

/// Four sockets of the server, two addresses with two ports each, and the way to
/// make some behind the box.
pub(super) struct Prober<'a> {
    site: &'a Site,
    server: &'a Namespace,
    servers: Vec<UdpSocket>,
    /// Sent to a server from a new socket, or to another one.
    flows: Cell<usize>,
}

/// The server's sockets by number: addresses, then ports.
const OTHER_PORT: usize = 1;
const OTHER_ADDRESS: usize = 2;
const OTHER_BOTH: usize = 3;

impl<'a> Prober<'a> {
    pub(super) fn open(server: &'a Namespace, site: &'a Site) -> Result<Self> {
        // Sites do not share sockets; only here the numbers of ports matter.
        let ports = if site.plan.kind == Kind::Udp443 { [443, 53] } else { [0, 0] };
        let mut servers = Vec::new();
        for address in 0..2 {
            for port in ports {
                servers.push(bind(server, self::server(address).into(), port)?);
            }
        }
        Ok(Self { site, server, servers, flows: Cell::new(0) })
    }

    /// Everything about it.
    pub(super) fn look(&self) -> Result<Seen> {
        let kind = self.site.plan.kind;
        if kind == Kind::Blocked {
            self.blocked()?;
            return Ok(Seen { more: vec!["TCP passes".to_owned()], ..Seen::NOTHING });
        }
        let mut more = Vec::new();
        match kind {
            Kind::NoFw => more.push(self.spoiled()?.to_owned()),
            Kind::Udp443 => more.push(self.others_dropped()?.to_owned()),
            Kind::Short => more.push(self.lives()?),
            _ => {}
        }
        if self.site.plan.ipv6 {
            more.push(self.ipv6()?.to_owned());
        }
        let (mapping, ports) = self.mapping(SOCKETS)?;
        let filtering = self.filtering()?;
        let hairpin = Some(self.hairpin()?);
        if kind == Kind::Small {
            // Last: from then on nothing new passes.
            more.push(self.fills()?);
        }
        Ok(Seen { mapping, ports, filtering, hairpin, more })
    }

    /// A socket of a host behind the box.
    fn socket(&self, host: usize) -> Result<UdpSocket> {
        let host = &self.site.hosts[host];
        let own = if self.site.plan.kind == Kind::Nat64 { host.ipv6() } else { host.ipv4() };
        bind(host.namespace(), own, 0)
    }

    /// An address as a host behind the box knows it.
    fn known(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.site.plan.kind == Kind::Nat64 => {
                SocketAddr::new(self.site.plan.nat64(ip).into(), address.port())
            }
            _ => address,
        }
    }

    fn address(&self, server: usize) -> Result<SocketAddr> {
        self.servers[server].local_addr().during("name a socket")
    }

    /// Sends to a server; what that takes for the sender's address.
    fn out(&self, from: &UdpSocket, to: usize) -> Result<SocketAddr> {
        self.flows.set(self.flows.get() + 1);
        let number = send(from, self.known(self.address(to)?))?;
        let heard = receive(&self.servers[to], PATIENCE, number)?;
        heard.ok_or_else(|| {
            let what = "nothing reached the server";
            Failure::expectation(what)
        })
    }

    /// Whether what one server sends to a public address arrives; behind it goes
    /// something from another, who may.
    fn arrives(&self, from: usize, to: SocketAddr, at: &UdpSocket, allowed: usize) -> Result<bool> {
        let asked = send(&self.servers[from], to)?;
        let fence = send(&self.servers[allowed], to)?;
        let mut arrived = false;
        loop {
            match next(at, PATIENCE)? {
                Some((number, _)) if number == fence => return Ok(arrived),
                Some((number, _)) => arrived |= number == asked,
                None => {
                    let what = "no answer came back";
                    return Err(Failure::expectation(what));
                }
            }
        }
    }

    /// A round trip of another socket: what was sent before it has arrived.
    fn fence(&self, host: usize) -> Result<()> {
        let socket = self.socket(host)?;
        let seen = self.out(&socket, 0)?;
        self.arrives(0, seen, &socket, 0).map(drop)
    }

    fn mapping(&self, sockets: usize) -> Result<(&'static str, &'static str)> {
        let mut ports = Vec::new();
        let (mut by_port, mut by_address, mut kept) = (false, false, true);
        let mut all = Vec::new();
        for _ in 0..sockets {
            let socket = self.socket(0)?;
            let own = socket.local_addr().during("name a socket")?.port();
            let seen = (0..4).map(|to| self.out(&socket, to)).collect::<Result<Vec<_>>>()?;
            if seen.iter().any(|seen| seen.ip() != IpAddr::from(self.site.public())) {
                let what = format!("seen as {seen:?}");
                return Err(Failure::expectation(what));
            }
            by_port |= seen[0] != seen[OTHER_PORT];
            by_address |= seen[0] != seen[OTHER_ADDRESS];
            kept &= seen.iter().all(|seen| seen.port() == own);
            ports.extend(seen.iter().map(SocketAddr::port));
            // It keeps its mapping until all have theirs.
            all.push(socket);
        }
        let mapping = match (by_port, by_address) {
            (true, _) => "address+port",
            (false, true) => "address",
            (false, false) => "endpoint",
        };
        Ok((mapping, if kept { "kept" } else { choice(&ports, by_port) }))
    }

    fn filtering(&self) -> Result<&'static str> {
        let socket = self.socket(0)?;
        let seen = self.out(&socket, 0)?;
        Ok(if self.arrives(OTHER_BOTH, seen, &socket, 0)? {
            "endpoint"
        } else if self.arrives(OTHER_PORT, seen, &socket, 0)? {
            "address"
        } else {
            "address+port"
        })
    }

    /// Whether the second host reaches the first one by its public address; that
    /// one must see a public address too.
    fn hairpin(&self) -> Result<bool> {
        let (near, far) = (self.socket(0)?, self.socket(1)?);
        let seen = self.out(&near, 0)?;
        let number = send(&far, self.known(seen))?;
        self.fence(1)?;
        let Some(from) = receive(&near, Duration::from_millis(20), number)? else {
            return Ok(false);
        };
        if from.ip() == IpAddr::from(self.site.public()) {
            return Ok(true);
        }
        let what = format!("hairpinned from {from}");
        Err(Failure::expectation(what))
    }

    /// Who comes before he is called gets another port than those who were called
    /// before. (The kernel gives that port to later ones too: it looks for the
    /// host's youngest mapping.)
    fn spoiled(&self) -> Result<&'static str> {
        let socket = self.socket(0)?;
        let (own, other) = (self.out(&socket, 0)?, self.out(&socket, OTHER_PORT)?);
        if self.arrives(OTHER_BOTH, own, &socket, 0)? {
            return Err(Failure::expectation("it let a stranger in"));
        }
        let (spoiled, again) = (self.out(&socket, OTHER_BOTH)?, self.out(&socket, OTHER_PORT)?);
        if spoiled.port() == own.port() || other != own || again != own {
            let what = format!("{own} and {other}, then {spoiled} and {again}");
            return Err(Failure::expectation(what));
        }
        Ok("spoiled by who comes first")
    }

    fn others_dropped(&self) -> Result<&'static str> {
        let other = bind(self.server, server(0).into(), 0)?;
        let socket = self.socket(0)?;
        let number = send(&socket, other.local_addr().during("name a socket")?)?;
        self.out(&socket, 0)?;
        match receive(&other, Duration::from_millis(20), number)? {
            None => Ok("ports 53 and 443 only"),
            Some(_) => Err(Failure::expectation("it let another port through")),
        }
    }

    fn blocked(&self) -> Result<()> {
        let socket = self.socket(0)?;
        let sent = (0..4).map(|to| send(&socket, self.address(to)?)).collect::<Result<Vec<_>>>()?;
        // TCP goes the same way, and is behind them.
        let listen = || TcpListener::bind((server(0), 0));
        let listener = self.server.within(listen).during("listen")?.during("listen")?;
        let to = listener.local_addr().during("name a socket")?;
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let host = self.site.host().namespace();
        host.within(connect).during("enter a host")?.during("connect past a box")?;
        for (server, number) in self.servers.iter().zip(sent) {
            if receive(server, Duration::from_millis(5), number)?.is_some() {
                return Err(Failure::expectation("it let UDP through"));
            }
        }
        Ok(())
    }

    /// One binding is looked at while it should live and another when it should
    /// not: a look prolongs.
    fn lives(&self) -> Result<String> {
        let [young, old] = [self.socket(0)?, self.socket(0)?];
        let [seen_young, seen_old] = [self.out(&young, 0)?, self.out(&old, 0)?];
        let look = Duration::from_secs(2);
        signal::rest(look);
        let number = send(&self.servers[0], seen_young)?;
        let alive = receive(&young, PATIENCE, number)?.is_some();
        signal::rest(look);
        let number = send(&self.servers[0], seen_old)?;
        self.fence(0)?;
        let dead = receive(&old, Duration::from_millis(20), number)?.is_none();
        let word = |holds: bool, word: &str| if holds { word.to_owned() } else { "?".to_owned() };
        Ok(format!("lives {} s, not {} s", word(alive, "2"), word(dead, "4")))
    }

    /// How many flows there may be, of which there were some already.
    fn fills(&self) -> Result<String> {
        // Answered, these are new no more and pass also when it is full.
        let fence = self.socket(0)?;
        for to in 0..self.servers.len() {
            let seen = self.out(&fence, to)?;
            self.arrives(to, seen, &fence, to)?;
        }
        let mut passed = self.flows.get();
        let sockets = (0..MANY).map(|_| self.socket(0)).collect::<Result<Vec<_>>>()?;
        for socket in &sockets {
            for to in 0..self.servers.len() {
                send(socket, self.address(to)?)?;
            }
        }
        for (to, server) in self.servers.iter().enumerate() {
            let last = send(&fence, self.address(to)?)?;
            loop {
                match next(server, PATIENCE)? {
                    Some((number, _)) if number == last => break,
                    Some(_) => passed += 1,
                    None => return Err(Failure::expectation("it stopped a flow that it had")),
                }
            }
        }
        Ok(format!("{passed} flows at most"))
    }

    /// No NAT, and a firewall.
    fn ipv6(&self) -> Result<&'static str> {
        let host = self.site.host();
        let socket = bind(host.namespace(), host.ipv6(), 0)?;
        let own = socket.local_addr().during("name a socket")?;
        let servers = super::SERVERS.map(crate::internet::ipv6);
        let [server, other] = servers.map(|ip: Ipv6Addr| bind(self.server, ip.into(), 0));
        let (server, other) = (server?, other?);
        let number = send(&socket, server.local_addr().during("name a socket")?)?;
        let seen = receive(&server, PATIENCE, number)?;
        if seen != Some(own) {
            let what = format!("{own} is seen as {seen:?}");
            return Err(Failure::expectation(what));
        }
        let unasked = send(&other, own)?;
        let fence = send(&server, own)?;
        match next(&socket, PATIENCE)? {
            Some((number, _)) if number == fence => Ok("IPv6 firewalled"),
            Some((number, _)) if number == unasked => {
                let what = "IPv6 lets strangers in";
                Err(Failure::expectation(what))
            }
            _ => Err(Failure::expectation("no answer came back by IPv6")),
        }
    }

    /// A binding is gone once the box has done what it is asked to.
    pub(super) fn forgets(&self, restart: impl FnOnce() -> Result<()>) -> Result<()> {
        let socket = self.socket(0)?;
        let seen = self.out(&socket, 0)?;
        if !self.arrives(0, seen, &socket, 0)? {
            return Err(Failure::expectation("an answer did not arrive"));
        }
        restart()?;
        let number = send(&self.servers[0], seen)?;
        self.fence(0)?;
        match receive(&socket, Duration::from_millis(20), number)? {
            None => Ok(()),
            Some(_) => Err(Failure::expectation("a mapping outlived its box")),
        }
    }
}

/// What a row of public ports has in common.
fn choice(ports: &[u16], each_its_own: bool) -> &'static str {
    let steps: Vec<u16> = ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let same = |step: u16| steps.iter().all(|found| *found == step);
    if each_its_own && same(1) {
        "step 1"
    } else if each_its_own && same(2) {
        "step 2"
    } else if ports.iter().all(|port| port / 512 == ports[0] / 512) {
        "block of 512"
    } else if each_its_own {
        "random"
    } else {
        "moved"
    }
}

fn bind(namespace: &Namespace, ip: IpAddr, port: u16) -> Result<UdpSocket> {
    let what = format!("open a socket at {ip}");
    namespace.within(|| UdpSocket::bind((ip, port))).during(&what)?.during(&what)
}

/// Sends a number and gives it.
fn send(from: &UdpSocket, to: SocketAddr) -> Result<u64> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    from.send_to(&number.to_be_bytes(), to).during(&format!("send to {to}"))?;
    Ok(number)
}

/// The next number, and whom it comes from.
fn next(at: &UdpSocket, limit: Duration) -> Result<Option<(u64, SocketAddr)>> {
    at.set_read_timeout(Some(limit)).during("set a time limit")?;
    let mut buffer = [0; 8];
    match at.recv_from(&mut buffer) {
        Ok((_, from)) => Ok(Some((u64::from_be_bytes(buffer), from))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).during("receive"),
    }
}

/// Waits for one number; others are passed over.
fn receive(at: &UdpSocket, limit: Duration, number: u64) -> Result<Option<SocketAddr>> {
    loop {
        match next(at, limit)? {
            Some((found, from)) if found == number => return Ok(Some(from)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_ports_tells_how_they_are_chosen() {
        for (ports, each, expected) in [
            (&[30_000, 30_001, 30_002][..], true, "step 1"),
            (&[30_000, 30_002, 30_004], true, "step 2"),
            (&[20_490, 20_480, 20_991], true, "block of 512"),
            (&[20_490, 20_490, 20_600], false, "block of 512"),
            (&[1_024, 60_000, 30_000], true, "random"),
            (&[1_024, 1_024, 30_000], false, "moved"),
        ] {
            assert_eq!(choice(ports, each), expected, "{ports:?}");
        }
    }
}
