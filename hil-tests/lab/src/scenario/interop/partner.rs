//! The other side of a cell: its file, its start, its part in the test.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::KERNEL;
use super::cell::{Cell, Found, Kind};
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::guest::Guest;
use crate::internet::Host;
use crate::measure::Pings;
use crate::mesh::Gateway;
use crate::net::echo::Pinger;
use crate::net::namespace::Namespace;
use crate::net::signal;
use crate::process::Process;
use crate::run::Run;
use crate::wireguard::{KeyPair, Peer, Tunnel, add_to_guest, latest_handshake, start_wireguard_go};

/// Our agents' first choice of a UDP port.
const WEFT_PORT: u16 = 51_871;
/// For one echo request; a handshake and a lost first packet fit.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two requests.
const EVERY: Duration = Duration::from_millis(500);
/// One handshake lives 10 s on our side, 120 s on the other (`REKEY_AFTER_TIME`).
const OUR_REKEY: Duration = Duration::from_secs(10);
const THEIR_REKEY: Duration = Duration::from_secs(120);

/// What `device add-wireguard` printed, with the private key that it never saw.
pub(super) struct File {
    keys: KeyPair,
    addresses: Vec<IpAddr>,
    mtu: u16,
    peer: Peer,
}

impl File {
    /// Reads a wg-quick file with one peer.
    pub(super) fn parse(text: &str, keys: KeyPair) -> Result<Self> {
        let value = |wanted: &str| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == wanted).then(|| value.trim().to_owned())
            })
        };
        let missing =
            |what: &str| Failure::expectation(format!("the wg-quick file has no {what}:\n{text}"));
        let list = |what: &str| -> Result<Vec<IpAddr>> {
            let value = value(what).ok_or_else(|| missing(what))?;
            let ips = value.split(',').map(|part| {
                let ip = part.trim().split('/').next().unwrap_or_default();
                ip.parse().map_err(|_| missing(what))
            });
            ips.collect()
        };
        let public = value("PublicKey").ok_or_else(|| missing("PublicKey"))?;
        let mtu = value("MTU").and_then(|mtu| mtu.parse().ok()).ok_or_else(|| missing("MTU"))?;
        Ok(Self {
            keys,
            addresses: list("Address")?,
            mtu,
            peer: Peer {
                public,
                preshared: value("PresharedKey"),
                endpoint: None,
                addresses: list("AllowedIPs")?,
            },
        })
    }
}

/// A partner that is set up.
pub(super) struct Partner {
    tunnel: Tunnel,
    /// wireguard-go's process and namespace.
    go: Option<(Process, Namespace)>,
}

impl Partner {
    pub(super) fn start(
        run: &Run,
        cell: &Cell,
        host: Option<&Host>,
        gw_a: &Host,
        file: File,
        guest: &Mutex<Option<Guest>>,
    ) -> Result<Self> {
        if cell.preshared != file.peer.preshared.is_some() {
            return Err(Failure::expectation(format!("{}: PresharedKey is wrong", cell.name())));
        }
        let ip = if cell.ipv6 { gw_a.ipv6() } else { gw_a.ipv4() };
        let ours = SocketAddr::new(ip, WEFT_PORT);
        // Who knows no endpoint cannot begin.
        let endpoint = (!cell.we_initiate).then_some(ours);
        let interface = match cell.kind {
            Kind::Go => format!("weft{}g{}", run.id(), cell.index),
            Kind::Kernel => format!("wg{}", cell.index),
        };
        let tunnel = Tunnel {
            interface,
            private: file.keys.private,
            port: cell.port(),
            addresses: file.addresses,
            mtu: file.mtu,
            peer: Peer { endpoint, ..file.peer },
        };
        let go = match host {
            Some(host) => {
                let namespace = Namespace::open(host.namespace().name())
                    .during("open a partner's namespace")?;
                let process = start_wireguard_go(&cell.name(), &namespace, run.logs(), &tunnel)?;
                Some((process, namespace))
            }
            None => {
                let table = 100 + u32::from(cell.index);
                with(guest, |guest| add_to_guest(guest, &tunnel, table))?;
                None
            }
        };
        Ok(Self { tunnel, go })
    }

    /// Pings until there were enough handshakes; the side that begins pings.
    pub(super) fn run(
        &self,
        cell: &Cell,
        gateway: &Gateway,
        guest: &Mutex<Option<Guest>>,
        rekeys: usize,
    ) -> Result<Found> {
        let each = if cell.we_initiate { OUR_REKEY } else { THEIR_REKEY };
        let limit = each * rekeys as u32 + Duration::from_secs(20);
        let until = clock::now() + limit;
        let ours = if cell.ipv6 { gateway.addresses.ipv6 } else { gateway.addresses.ipv4 };
        let theirs = self.address(cell)?;
        let mut seen = Seen { partner: self, guest, moments: BTreeSet::new(), wanted: rekeys + 1 };
        let pings = match (&self.go, cell.we_initiate) {
            (_, true) => ping_until(gateway.namespace(), theirs, until, &mut seen)?,
            (Some((_, namespace)), false) => ping_until(namespace, ours, until, &mut seen)?,
            (None, false) => guest_pings(theirs, ours, until, &mut seen)?,
        };
        let handshakes = seen.moments.len();
        let wrong = self.judge(cell, &pings, handshakes, rekeys + 1);
        Ok(Found { pings, handshakes, wrong })
    }

    fn judge(
        &self,
        cell: &Cell,
        pings: &Pings,
        handshakes: usize,
        wanted: usize,
    ) -> Option<String> {
        if pings.received() == 0 {
            return Some("no answer".to_owned());
        }
        if pings.lost() > 0 {
            return Some(format!("{} answers missing", pings.lost()));
        }
        if handshakes < wanted {
            return Some(format!("{handshakes} handshakes, expected {wanted}"));
        }
        // wireguard-go's own word about who began.
        let (process, _) = self.go.as_ref()?;
        let began = process.has_said("Sending handshake initiation");
        (began == cell.we_initiate).then(|| "the handshake began on the wrong side".to_owned())
    }

    fn address(&self, cell: &Cell) -> Result<IpAddr> {
        let own = self.tunnel.addresses.iter().find(|ip| ip.is_ipv6() == cell.ipv6);
        own.copied().ok_or_else(|| {
            Failure::expectation(format!("{} has no address of that family", cell.name()))
        })
    }

    pub(super) fn into_process(self) -> Option<Process> {
        self.go.map(|(process, _)| process)
    }
}

/// The moments of handshakes, as the partner tells them.
struct Seen<'a> {
    partner: &'a Partner,
    guest: &'a Mutex<Option<Guest>>,
    moments: BTreeSet<u64>,
    wanted: usize,
}

impl Seen<'_> {
    /// Looks once; whether it were enough by now.
    fn look(&mut self) -> Result<bool> {
        let interface = &self.partner.tunnel.interface;
        let moment = match &self.partner.go {
            Some(_) => latest_handshake(&crate::wireguard::show(interface)?),
            None => with(self.guest, |guest| {
                let said = guest.command(&format!("wg show {interface} latest-handshakes"))?;
                Ok(latest_handshake(&said))
            })?,
        };
        self.moments.extend(moment);
        Ok(self.moments.len() >= self.wanted)
    }
}

fn ping_until(
    namespace: &Namespace,
    target: IpAddr,
    until: Instant,
    seen: &mut Seen<'_>,
) -> Result<Pings> {
    let mut pinger = Pinger::open(namespace, target).during("open a socket")?;
    let mut pings = Pings::default();
    // A few more behind the last handshake: the new keys must carry data.
    let mut more = 5;
    while clock::now() < until && more > 0 {
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        let began = clock::now();
        pings.add(pinger.ping(ANSWER).unwrap_or(None));
        if seen.look()? {
            more -= 1;
        }
        signal::rest(EVERY.saturating_sub(began.elapsed()));
    }
    Ok(pings)
}

/// The emulated machine pings by itself, in the background of its one shell.
fn guest_pings(own: IpAddr, target: IpAddr, until: Instant, seen: &mut Seen<'_>) -> Result<Pings> {
    let file = format!("/run/{}.ping", seen.partner.tunnel.interface);
    let family = if target.is_ipv4() { "-4" } else { "-6" };
    with(seen.guest, |guest| {
        guest.command(&format!(
            "ping {family} -I {own} {target} > {file} 2>&1 & echo $! > {file}.pid"
        ))
    })?;
    let mut more = 5;
    while clock::now() < until && more > 0 {
        if signal::asked_to_stop() {
            return Err(Failure::stopped());
        }
        if seen.look()? {
            more -= 1;
        }
        signal::rest(Duration::from_secs(1));
    }
    let text = with(seen.guest, |guest| {
        guest.command(&format!("kill -INT $(cat {file}.pid)"))?;
        guest.command(&format!("wait $(cat {file}.pid); cat {file}"))
    })?;
    Ok(summary(&text))
}

/// What ping(8) of busybox says at its end. The last request may be on its way
/// when it is stopped.
fn summary(text: &str) -> Pings {
    let number = |word: &str| -> u32 {
        text.split(", ")
            .find_map(|part| part.trim().split_once(word))
            .and_then(|(before, _)| before.split_whitespace().last()?.parse().ok())
            .unwrap_or(0)
    };
    let times: Vec<Duration> = text
        .lines()
        .filter_map(|line| {
            let (_, time) = line.split_once("time=")?;
            let millis: f64 = time.split_whitespace().next()?.parse().ok()?;
            Some(Duration::from_secs_f64(millis / 1e3))
        })
        .collect();
    let sent = number(" packets transmitted");
    // Only the last one may still be on its way: an answer that is missing
    // before it was lost.
    let last_answered = text.lines().rev().find_map(|line| {
        let (_, number) = line.split_once("seq=")?;
        number.split_whitespace().next()?.parse::<u32>().ok()
    });
    let under_way = u32::from(last_answered.is_some_and(|last| last + 2 == sent));
    Pings { sent: sent - under_way, times }
}

fn with<T>(guest: &Mutex<Option<Guest>>, work: impl FnOnce(&mut Guest) -> Result<T>) -> Result<T> {
    let mut guest: MutexGuard<'_, Option<Guest>> =
        guest.lock().unwrap_or_else(PoisonError::into_inner);
    match guest.as_mut() {
        Some(guest) => work(guest),
        None => Err(Failure::new("lab.internal", format!("{} is not running", KERNEL.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[Interface]\n# PrivateKey = yours\nAddress = 100.93.0.4/32, fd5c::4/128\n\
        MTU = 1280\n\n[Peer]\n# gw-a\nPublicKey = AAA=\nPresharedKey = BBB=\n\
        AllowedIPs = 100.93.0.2/32, fd5c::2/128\n";

    fn keys() -> KeyPair {
        KeyPair { private: String::new(), public: String::new() }
    }

    #[test]
    fn a_wg_quick_file_is_read() {
        let file = File::parse(TEXT, keys()).unwrap();
        assert_eq!(file.addresses[1].to_string(), "fd5c::4");
        assert_eq!(file.peer.public, "AAA=");
        assert_eq!(file.peer.preshared.as_deref(), Some("BBB="));
        assert_eq!(file.peer.addresses.len(), 2);
        assert!(File::parse("[Interface]\n", keys()).is_err());
    }

    #[test]
    fn the_summary_of_busybox_is_read() {
        let text = "PING 100.93.0.2 (100.93.0.2) from 100.93.0.4: 56 data bytes\n\
            64 bytes from 100.93.0.2: seq=0 ttl=64 time=43.099 ms\n\
            64 bytes from 100.93.0.2: seq=1 ttl=64 time=22.206 ms\n\n\
            --- 100.93.0.2 ping statistics ---\n\
            3 packets transmitted, 2 packets received, 33% packet loss\n";
        let pings = summary(text);
        assert_eq!((pings.sent, pings.received(), pings.lost()), (2, 2, 0));
        let lost = text.replace("3 packets", "4 packets");
        assert_eq!(summary(&lost).lost(), 2);
        // One in the middle is missing, and the last one came.
        let hole = text.replace("seq=1", "seq=2");
        assert_eq!(summary(&hole).lost(), 1);
        assert_eq!(summary("nothing").sent, 0);
    }
}
