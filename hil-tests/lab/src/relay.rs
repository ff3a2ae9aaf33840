//! A relay on the simulated internet: ours, or Debian's coturn.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{During, Failure, Result};
use crate::internet::Host;
use crate::mesh::program;
use crate::net::namespace::Namespace;
use crate::process::{Process, find_program};
use crate::run::Run;

/// STUN and TURN by UDP and TCP, and TURN in TLS.
pub(crate) const PORT: u16 = 3_478;
/// A second one for UDP, where three samples of a NAT are wanted.
pub(crate) const ASIDE: u16 = 3_479;
const TLS_PORT: u16 = 443;
/// For a start.
const LIMIT: Duration = Duration::from_secs(30);

/// A relay that runs.
pub(crate) struct Relay {
    name: String,
    /// The first of its addresses.
    pub(crate) address: IpAddr,
    secret: PathBuf,
    command: Command,
    namespace: Namespace,
    logs: PathBuf,
    ready: &'static str,
    pub(crate) process: Process,
    /// What the coordinator's settings say of it.
    pub(crate) section: String,
}

impl Relay {
    /// `weft-relay` on a host, at some of its addresses, by UDP, TCP and TLS.
    pub(crate) fn start(run: &Run, host: &Host, addresses: &[IpAddr]) -> Result<Self> {
        Self::start_at(run, host, addresses, &[PORT])
    }

    /// The same with these ports for UDP.
    pub(crate) fn start_at(
        run: &Run,
        host: &Host,
        addresses: &[IpAddr],
        udp: &[u16],
    ) -> Result<Self> {
        let name = format!("relay-{}", host.name);
        let secret = secret(run, &name)?;
        let mut command = Command::new(program("weft-relay")?);
        command.arg("--secret-file").arg(&secret);
        command.arg("--socket").arg(run.folder().join(format!("{}.socket", host.name)));
        for address in addresses {
            let listen = SocketAddr::new(*address, PORT).to_string();
            let tls = SocketAddr::new(*address, TLS_PORT).to_string();
            command.args(["--listen-tcp", &listen, "--listen-tls", &tls]);
            for port in udp {
                command.args(["--listen", &SocketAddr::new(*address, *port).to_string()]);
            }
            command.arg("--relay-address").arg(address.to_string());
        }
        let listed: Vec<String> = addresses.iter().map(|ip| format!("\"{ip}\"")).collect();
        let section = format!(
            "\n[[relays]]\nname = \"{}\"\naddress = [{}]\nudp = {udp:?}\ntcp = {PORT}\ntls = \
             {TLS_PORT}\nsecret_file = \"{}\"\n",
            host.name,
            listed.join(", "),
            secret.display()
        );
        Self::of(run, host, (command, secret), "turn", section)
    }

    /// Debian's coturn on a host, by UDP and TCP; `ways` is what devices are told.
    pub(crate) fn coturn(run: &Run, host: &Host, ways: &str) -> Result<Self> {
        let secret = secret(run, &host.name)?;
        let folder = run.folder().join(format!("coturn-{}", host.name));
        fs::create_dir_all(&folder).during("make coturn's folder")?;
        let said = fs::read_to_string(&secret).during("read a secret")?;
        let ip = host.ipv4().to_string();
        let program = find_program("turnserver").ok_or_else(|| {
            Failure::skipped("the program turnserver is missing").line("try", "cross/setup test")
        })?;
        let mut command = Command::new(program);
        command.current_dir(&folder);
        command.args(["-n", "--no-tls", "--no-dtls", "--no-cli", "--realm", "weft"]);
        command.args(["--listening-ip", &ip, "--relay-ip", &ip]);
        command.args(["--listening-port", &PORT.to_string()]);
        command.args(["--use-auth-secret", "--static-auth-secret", said.trim()]);
        command.args(["--log-file", "stdout", "--simple-log", "--verbose"]);
        command.args(["--pidfile", "coturn.pid", "--userdb", "coturn.db"]);
        let section = format!(
            "\n[[relays]]\nname = \"{}\"\naddress = [\"{ip}\"]\n{ways}\nsecret_file = \"{}\"\n",
            host.name,
            secret.display()
        );
        Self::of(run, host, (command, secret), "Total General servers", section)
    }

    fn of(
        run: &Run,
        host: &Host,
        (mut command, secret): (Command, PathBuf),
        ready: &'static str,
        section: String,
    ) -> Result<Self> {
        let name = format!("relay-{}", host.name);
        let namespace =
            Namespace::open(host.namespace().name()).during("open a relay's namespace")?;
        let logs = run.logs().to_path_buf();
        let process = begin(&name, &namespace, &logs, &mut command, ready)?;
        let address = host.ipv4();
        Ok(Self { name, address, secret, command, namespace, logs, ready, process, section })
    }

    /// From its next start on it has another secret than the coordinator, which has
    /// read it.
    pub(crate) fn change_secret(&self) -> Result<()> {
        fs::write(&self.secret, "nobody knows this one\n").during("write a secret")
    }

    /// Starts it again after its end; nothing of before is known to it.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let command = &mut self.command;
        self.process = begin(&self.name, &self.namespace, &self.logs, command, self.ready)?;
        Ok(())
    }
}

fn begin(
    name: &str,
    namespace: &Namespace,
    logs: &Path,
    command: &mut Command,
    ready: &str,
) -> Result<Process> {
    let process = Process::start(name, namespace, logs, command)?;
    process.wait_for(0, LIMIT, "that it relays", |line| line.contains(ready).then_some(()))?;
    Ok(process)
}

/// What it shares with the coordinator. Nobody but the run's namespaces reaches it.
fn secret(run: &Run, name: &str) -> Result<PathBuf> {
    let path = run.folder().join(format!("{name}.secret"));
    fs::write(&path, format!("the laboratory of run {}\n", run.id())).during("write a secret")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).during("close a secret")?;
    Ok(path)
}
