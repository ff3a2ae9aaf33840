//! Other people's WireGuard: wireguard-go in a namespace, the kernel's in the
//! emulated machine; both set up with Debian's `wg`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::failure::{During, Failure, Result};
use crate::guest::Guest;
use crate::net::namespace::Namespace;
use crate::process::{Process, find_program, finish};
use crate::run::ip_batch;

/// The first program of a namespace's WireGuard that is not installed.
pub(crate) fn missing_program() -> Option<&'static str> {
    ["wireguard-go", "wg"].into_iter().find(|name| find_program(name).is_none())
}

/// A key pair in base64, made by `wg`.
pub(crate) struct KeyPair {
    pub(crate) private: String,
    pub(crate) public: String,
}

impl KeyPair {
    pub(crate) fn generate() -> Result<Self> {
        let private = wg(&["genkey"], "")?;
        let public = wg(&["pubkey"], &private)?;
        Ok(Self { private, public })
    }
}

/// A preshared key in base64, made by `wg`.
pub(crate) fn preshared_key() -> Result<String> {
    wg(&["genpsk"], "")
}

fn wg(arguments: &[&str], input: &str) -> Result<String> {
    let what = format!("run wg {}", arguments.join(" "));
    let mut child = Command::new("wg")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .during(&what)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).during(&what)?;
    }
    let output = child.wait_with_output().during(&what)?;
    if !output.status.success() {
        return Err(Failure::new("lab.wg", format!("cannot {what}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// One side of a tunnel.
#[derive(Clone)]
pub(crate) struct Tunnel {
    /// Interface name; unique on the machine, since wireguard-go's sockets lie
    /// in one folder for all namespaces.
    pub(crate) interface: String,
    pub(crate) private: String,
    pub(crate) port: u16,
    /// Own addresses inside the tunnel.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mtu: u16,
    pub(crate) peer: Peer,
}

/// The other side.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) public: String,
    pub(crate) preshared: Option<String>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Tunnel {
    /// What `wg setconf` reads.
    fn configuration(&self) -> String {
        let list = |addresses: &[IpAddr]| {
            let all: Vec<String> = addresses.iter().map(|ip| host_prefix(*ip)).collect();
            all.join(", ")
        };
        let mut text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {}\n\n[Peer]\nPublicKey = {}\nAllowedIPs = {}\n",
            self.private,
            self.port,
            self.peer.public,
            list(&self.peer.addresses),
        );
        if let Some(key) = &self.peer.preshared {
            text.push_str(&format!("PresharedKey = {key}\n"));
        }
        if let Some(endpoint) = self.peer.endpoint {
            text.push_str(&format!("Endpoint = {endpoint}\n"));
        }
        text
    }

    /// Addresses, MTU and routes; in the guest several tunnels lead to the
    /// same peer, so each has a routing table of its own, chosen by the
    /// packet's source.
    fn commands(&self, table: Option<u32>) -> Vec<String> {
        let interface = &self.interface;
        let mut commands = Vec::new();
        for ip in &self.addresses {
            commands.push(format!("address add {} dev {interface}", host_prefix(*ip)));
        }
        commands.push(format!("link set dev {interface} mtu {} up", self.mtu));
        for ip in &self.peer.addresses {
            let family = if ip.is_ipv4() { "-4" } else { "-6" };
            let own = self.addresses.iter().find(|own| own.is_ipv4() == ip.is_ipv4());
            let route = format!("route add {} dev {interface}", host_prefix(*ip));
            match (table, own) {
                (Some(table), Some(own)) => {
                    commands.push(format!("{family} {route} table {table}"));
                    commands.push(format!("{family} rule add from {own} lookup {table}"));
                }
                _ => commands.push(route),
            }
        }
        commands
    }
}

fn host_prefix(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

/// Starts wireguard-go in a namespace and sets it up.
pub(crate) fn start_wireguard_go(
    name: &str,
    namespace: &Namespace,
    logs: &Path,
    tunnel: &Tunnel,
) -> Result<Process> {
    let mut command = Command::new("wireguard-go");
    command.args(["-f", &tunnel.interface]).env("LOG_LEVEL", "verbose");
    let process = Process::start(name, namespace, logs, &mut command)?;
    process.wait_for(0, Duration::from_secs(10), "that it listens", |line| {
        line.contains("UAPI listener started").then_some(())
    })?;
    let path = logs.join(format!("{name}.conf"));
    std::fs::write(&path, tunnel.configuration()).during("write a configuration")?;
    let mut command = Command::new("wg");
    command.arg("setconf").arg(&tunnel.interface).arg(&path);
    let set =
        finish(&format!("{name}-wg"), namespace, logs, &mut command, Duration::from_secs(10))?;
    // Holds a private key.
    std::fs::remove_file(&path).during("remove a configuration")?;
    if !set.success() {
        return Err(Failure::new("lab.wg", format!("wg setconf failed: {}", set.stderr.trim())));
    }
    ip_batch(Some(namespace), &tunnel.commands(None)).during(&format!("set up {name}"))?;
    Ok(process)
}

/// What `wg show INTERFACE latest-handshakes` says here.
pub(crate) fn show(interface: &str) -> Result<String> {
    wg(&["show", interface, "latest-handshakes"], "")
}

/// The second of the one peer's last handshake, if there was any.
pub(crate) fn latest_handshake(said: &str) -> Option<u64> {
    let moment = said.split_whitespace().last()?.parse().ok()?;
    (moment != 0).then_some(moment)
}

/// Makes one interface of the kernel's WireGuard in the emulated machine.
pub(crate) fn add_to_guest(guest: &mut Guest, tunnel: &Tunnel, table: u32) -> Result<()> {
    let interface = &tunnel.interface;
    guest.command(&format!("ip link add {interface} type wireguard"))?;
    let file = format!("/run/{interface}.conf");
    guest.command(&format!("cat > {file} <<'END'\n{}END", tunnel.configuration()))?;
    guest.command(&format!("wg setconf {interface} {file}"))?;
    for command in tunnel.commands(Some(table)) {
        guest.command(&format!("ip {command}"))?;
    }
    Ok(())
}
