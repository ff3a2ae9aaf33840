//! The coordinator that the fleet talks to: one of its own in a temporary
//! folder, or one that runs already, named by a join string. On loopback, ever.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::oneshot;
use weft_wire::join::{Address, Carrier, JoinString};

use crate::failure::{During, Failure, Result, status};

/// How long it may take until it is ready.
const READY: Duration = Duration::from_secs(20);
/// How long its orderly end may take: it gives its own connections 5 s twice.
const GRACE: Duration = Duration::from_secs(12);
/// Lines of its log that are shown when it does not get ready.
const SHOWN: usize = 5;

/// A folder of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("weft-fleet-{}", std::process::id()));
        fs::create_dir(&path).during(&format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed does no harm, and nobody is left to be told.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where a coordinator lives: its folder, and where it is found.
pub(crate) struct Site {
    program: PathBuf,
    address: SocketAddr,
    socket: PathBuf,
    folder: Folder,
}

impl Site {
    /// `init` by a program.
    pub(crate) fn init(program: &Path) -> Result<Self> {
        let folder = Folder::new()?;
        let socket = folder.0.join("socket");
        let site = Self { program: program.to_owned(), address: free_address()?, socket, folder };
        let authority = site.address.to_string();
        let init = site
            .command(&["init", "--public", &authority, "--allow-private", "--quiet"])
            .output()
            .map_err(|error| not_there(program, &error))?;
        if !init.status.success() {
            let said = String::from_utf8_lossy(&init.stderr).trim().to_owned();
            return Err(Failure::new("fleet.coordinator", "init failed").line("cause", said));
        }
        Ok(site)
    }

    /// Starts `serve`, which is not ready yet.
    pub(crate) fn serve(&self) -> Result<(Serving, Said)> {
        // A group of its own: Ctrl-C on the terminal is for the fleet, which
        // ends its coordinator last.
        let mut serve = self.command(&["serve", "--listen", &self.address.to_string()]);
        serve.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = serve.spawn().map_err(|error| not_there(&self.program, &error))?;
        let stderr = child.stderr.take();
        let serving = Serving(Some(child));
        match stderr {
            Some(stderr) => Ok((serving, listen(stderr, &self.folder.0.join("log"))?)),
            None => Err(Failure::new("fleet.coordinator", "it has no standard error")),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().stdin(Stdio::null()).args(words);
        command.arg("--data").arg(self.folder.0.join("data")).arg("--socket").arg(&self.socket);
        command
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The database, for when it does not run.
    pub(crate) fn database(&self) -> PathBuf {
        self.folder.0.join("data").join("weft.db")
    }
}

/// A coordinator's process; ended in order with the value.
pub(crate) struct Serving(Option<Child>);

impl Serving {
    /// `kill -9`. The status of one that had ended by itself.
    pub(crate) fn kill(mut self) -> Result<Option<ExitStatus>> {
        let Some(mut child) = self.0.take() else { return Ok(None) };
        if let Some(status) = child.try_wait().during("look at the coordinator")? {
            return Ok(Some(status));
        }
        child.kill().during("kill the coordinator")?;
        child.wait().during("wait for the coordinator's end")?;
        Ok(None)
    }

    /// Asks it to end in good order, as a service manager does, and returns when
    /// it has. It stays uncollected, so its id stays its own.
    async fn ended(&self) -> Result<()> {
        let Some(child) = &self.0 else { return Ok(()) };
        let pid = Pid::from_child(child);
        kill_process(pid, Signal::TERM).map_err(io::Error::from).during("end the coordinator")?;
        let ended = tokio::task::spawn_blocking(move || {
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        });
        let ended = tokio::time::timeout(GRACE, ended).await;
        ended
            .map_err(|_| Failure::new("fleet.coordinator", "the coordinator did not end"))?
            .map_err(io::Error::other)
            .and_then(|ended| ended.map_err(io::Error::from))
            .during("wait for the coordinator's end")?;
        Ok(())
    }

    fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        let pid = Pid::from_child(&child);
        // An orderly end closes the database. One that is gone already is
        // collected all the same.
        let asked = kill_process(pid, Signal::TERM);
        let (ended, waited) = mpsc::channel::<()>();
        // Its id is its own until it is collected, and then `ended` is dropped.
        let kill = move || {
            let hangs = waited.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout);
            hangs.then(|| kill_process(pid, Signal::KILL))
        };
        let killer = std::thread::Builder::new().name("coordinator-end".to_owned()).spawn(kill);
        if asked.is_err() || killer.is_err() {
            let _ = child.kill();
        }
        let _ = child.wait();
        drop(ended);
        // Ends now.
        let _ = killer.map(std::thread::JoinHandle::join);
    }
}

/// A coordinator that this process started; ended with the value.
pub(crate) struct Started {
    // The folder goes after the process has ended: fields are dropped in order.
    serving: Serving,
    site: Site,
}

impl Started {
    /// `init` and `serve` by the program beside this one.
    pub(crate) async fn new(program: &Path) -> Result<Self> {
        let site = Site::init(program)?;
        let (serving, said) = site.serve()?;
        said.ready().await?;
        Ok(Self { serving, site })
    }

    /// Ends it in good order and starts it again on the same data. Returns when
    /// it is ready.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.serving.ended().await?;
        let (serving, said) = self.site.serve()?;
        // The one before is collected here.
        self.serving = serving;
        said.ready().await
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.site.address()
    }

    pub(crate) fn socket(&self) -> &Path {
        self.site.socket()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.serving.pid()
    }
}

fn not_there(program: &Path, error: &io::Error) -> Failure {
    Failure::new("fleet.coordinator", format!("cannot run {}", program.display()))
        .line("cause", error.to_string())
        .line("try", "cargo build --release -p weft-coordinator")
}

/// What a coordinator says while it starts.
pub(crate) struct Said(oneshot::Receiver<std::result::Result<(), String>>);

impl Said {
    /// Returns when it says that it is ready.
    pub(crate) async fn ready(self) -> Result<()> {
        let failed = |why: &str| {
            Failure::new("fleet.coordinator", "the coordinator did not get ready")
                .line("cause", why)
        };
        match tokio::time::timeout(READY, self.0).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(said))) => Err(failed(&said)),
            Ok(Err(_)) => Err(failed("lost sight of it")),
            Err(_) => Err(failed("nothing in 20 s")),
        }
    }
}

/// Reads what it says into a file, and tells when it is ready.
fn listen(stderr: ChildStderr, log: &Path) -> Result<Said> {
    let file = fs::OpenOptions::new().create(true).append(true).open(log);
    let mut file = file.during(&format!("make {}", log.display()))?;
    let (sender, said) = oneshot::channel();
    let listen = move || {
        let mut sender = Some(sender);
        let mut last = Vec::new();
        for line in BufReader::new(stderr).lines().map_while(|line| line.ok()) {
            if line.starts_with("ready in ")
                && let Some(sender) = sender.take()
            {
                // Nobody waits any more who has given up.
                let _ = sender.send(Ok(()));
            }
            // A full disk must not stop the program that writes.
            let _ = writeln!(file, "{line}");
            if sender.is_some() {
                last.push(line);
            }
        }
        if let Some(sender) = sender.take() {
            let from = last.len().saturating_sub(SHOWN);
            let _ = sender.send(Err(last[from..].join(" / ")));
        }
    };
    std::thread::Builder::new()
        .name("coordinator-log".to_owned())
        .spawn(listen)
        .during("start a thread")?;
    Ok(Said(said))
}

/// A port of loopback that nobody holds, for TCP and UDP.
fn free_address() -> Result<SocketAddr> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for _ in 0..16 {
        let tcp = TcpListener::bind(loopback(0)).during("listen on 127.0.0.1")?;
        let address = tcp.local_addr().during("name the listening socket")?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(Failure::new("fleet.coordinator", "no port is free for both TCP and UDP"))
}

/// The first address of a join string that the fleet may talk to.
///
/// # Errors
///
/// When one of its addresses is not loopback: a fleet is a load that nobody may
/// put on a machine that is not his own.
pub(crate) fn loopback(addresses: &[Address]) -> Result<SocketAddr> {
    let mut first = None;
    for address in addresses {
        let authority = address.authority.as_str();
        let local = authority.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let parsed = local.as_deref().unwrap_or(authority).parse::<SocketAddr>().ok();
        let parsed = parsed.filter(|parsed| parsed.ip().to_canonical().is_loopback());
        let Some(parsed) = parsed else {
            let sentence =
                format!("the join string names {authority}, and a fleet talks to loopback only");
            return Err(Failure::new("fleet.not-loopback", sentence)
                .line("try", "weft-fleet  (it starts a coordinator of its own)")
                .line("or", "weft-coordinator init --public 127.0.0.1:PORT --allow-private")
                .exit(status::USAGE));
        };
        if address.carrier == Carrier::Mqtt {
            first.get_or_insert(parsed);
        }
    }
    first.ok_or_else(|| {
        Failure::new("fleet.no-mqtt", "the join string has no address for MQTT over TCP")
            .exit(status::USAGE)
    })
}

/// Reads a join string.
pub(crate) fn parse_join(text: &str) -> Result<JoinString> {
    let join = JoinString::parse(text).map_err(|error| {
        Failure::new("fleet.join", "that is no join string")
            .line("cause", format!("{error:?}"))
            .exit(status::USAGE)
    })?;
    let identity = weft_noise::key::StaticSecret::generate(&mut crate::entropy::Kernel);
    weft_noise::sealed::device::Initiator::new(identity, &join.coordinator).map_err(|_| {
        Failure::new("fleet.join", "the coordinator's key in the join string is a weak one")
            .exit(status::USAGE)
    })?;
    Ok(join)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(carrier: Carrier, authority: &str) -> Address {
        Address { carrier, authority: authority.try_into().unwrap() }
    }

    #[test]
    fn only_loopback_is_talked_to() {
        for (authority, wanted) in [
            ("127.0.0.1:7420", "127.0.0.1:7420"),
            ("127.8.9.10:1", "127.8.9.10:1"),
            ("localhost:7420", "127.0.0.1:7420"),
            ("[::1]:7420", "[::1]:7420"),
            ("[::ffff:127.0.0.1]:7420", "[::ffff:127.0.0.1]:7420"),
        ] {
            let found = loopback(&[at(Carrier::Mqtt, authority)]).unwrap();
            assert_eq!(found, wanted.parse().unwrap());
        }
        for authority in [
            "mesh.example.net:7420",
            "localhost.example.net:7420",
            "0.0.0.0:7420",
            "10.0.0.4:7420",
            "203.0.113.10:7420",
            "[::]:7420",
            "[::ffff:10.0.0.4]:7420",
            "[2001:db8::7]:7420",
        ] {
            // One address elsewhere is one too many, whatever stands beside it.
            let addresses = [at(Carrier::Mqtt, "127.0.0.1:7420"), at(Carrier::Https, authority)];
            let failure = loopback(&addresses).unwrap_err();
            assert_eq!(failure.status(), status::USAGE);
            assert!(failure.to_string().starts_with("error[fleet.not-loopback]: "), "{failure}");
            assert!(failure.to_string().contains(authority), "{failure}");
        }
    }

    #[test]
    fn a_carrier_that_is_not_mqtt_is_of_no_use() {
        let failure = loopback(&[at(Carrier::Mqtts, "127.0.0.1:7420")]).unwrap_err();
        assert!(failure.to_string().starts_with("error[fleet.no-mqtt]: "), "{failure}");
        assert!(loopback(&[]).is_err());
    }

    #[test]
    fn what_is_no_join_string_is_said() {
        let failure = parse_join("WEFT1AAAA").err().map(|failure| failure.to_string());
        assert!(failure.unwrap().starts_with("error[fleet.join]: "));
    }

    #[test]
    fn a_free_port_can_be_listened_on() {
        let address = free_address().unwrap();
        assert!(address.ip().is_loopback() && address.port() > 0);
    }
}
