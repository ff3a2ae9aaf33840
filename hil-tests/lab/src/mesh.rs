//! Our own programs on the simulated internet: one coordinator, gateways.
//!
//! They are the binaries that lie beside this one, driven by their command
//! lines as a person would, with a state directory and a socket of their own.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::Host;
use crate::net::namespace::Namespace;
use crate::net::signal;
use crate::process::{Finished, Process, finish};
use crate::run::Run;

/// Everything of the coordinator, TCP and UDP.
pub(crate) const PORT: u16 = 7420;
/// For a start, or for a command that asks a running program.
const LIMIT: Duration = Duration::from_secs(30);

/// The path of a program beside this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().during("find this program")?;
    let path = own.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(Failure::new("lab.no-program", format!("{} is missing", path.display()))
        .line("try", "cargo build --release"))
}

/// A text in a document, by path: `/device/name`.
pub(crate) fn text(document: &Value, pointer: &str) -> Result<String> {
    document.pointer(pointer).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        Failure::expectation(format!("the document has no text at {pointer}: {document}"))
    })
}

fn parse(what: &str, finished: &Finished) -> Result<Value> {
    if !finished.success() {
        return Err(Failure::expectation(format!(
            "{what} ended with {}: {}",
            finished.status,
            finished.stderr.trim()
        )));
    }
    parse_any(what, finished)
}

/// The document of a program that ends with 1 where the answer is bad.
fn parse_any(what: &str, finished: &Finished) -> Result<Value> {
    serde_json::from_str(&finished.stdout).map_err(|error| {
        Failure::expectation(format!("{what} printed no document: {error}: {}", finished.stdout))
    })
}

/// A coordinator that serves.
pub(crate) struct Coordinator {
    program: PathBuf,
    namespace: Namespace,
    folder: PathBuf,
    logs: PathBuf,
    /// `BKDL-AME4-GXHL-EGZ3`.
    pub(crate) fingerprint: String,
    /// What `init` shows once. A secret.
    pub(crate) recovery: String,
    /// Settings in its environment.
    variables: Variables,
    pub(crate) process: Process,
}

impl Coordinator {
    /// Initialises and starts one that devices reach at `public`.
    pub(crate) fn start(run: &Run, host: &Host, public: IpAddr) -> Result<Self> {
        Self::start_in(run, host, public, Variables::new())
    }

    /// The same, with settings in its environment.
    pub(crate) fn start_in(
        run: &Run,
        host: &Host,
        public: IpAddr,
        variables: Variables,
    ) -> Result<Self> {
        Self::start_with(run, host, public, variables, "")
    }

    /// The same, with sections behind those that `init` wrote into its settings.
    pub(crate) fn start_with(
        run: &Run,
        host: &Host,
        public: IpAddr,
        variables: Variables,
        sections: &str,
    ) -> Result<Self> {
        let program = program("weft-coordinator")?;
        let folder = run.folder().join(&host.name);
        fs::create_dir_all(&folder).during("make the coordinator's folder")?;
        let public = std::net::SocketAddr::new(public, PORT).to_string();
        let mut init = Command::new(&program);
        init.args(["init", "--json", "--public", &public]).arg("--data").arg(&folder);
        let told = finish("coordinator-init", host.namespace(), run.logs(), &mut init, LIMIT)?;
        let document = parse("weft-coordinator init", &told)?;
        // Holds the recovery key.
        fs::remove_file(run.logs().join("coordinator-init.out")).during("remove a key")?;
        let settings = folder.join("coordinator.toml");
        fs::OpenOptions::new()
            .append(true)
            .open(&settings)
            .and_then(|mut file| file.write_all(sections.as_bytes()))
            .during(&format!("write {}", settings.display()))?;
        let namespace =
            Namespace::open(host.namespace().name()).during("open the coordinator's namespace")?;
        let process = serve(&program, &folder, &namespace, run.logs(), &variables)?;
        Ok(Self {
            program,
            namespace,
            folder,
            logs: run.logs().to_path_buf(),
            fingerprint: text(&document, "/fingerprint")?,
            recovery: text(&document, "/recovery_key")?,
            variables,
            process,
        })
    }

    /// Starts it again after its end, with other settings in its environment.
    pub(crate) fn restart_in(&mut self, variables: Variables) -> Result<()> {
        self.variables = variables;
        self.restart()
    }

    /// Starts it again after its end, with the data that it left.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let (namespace, variables) = (&self.namespace, &self.variables);
        self.process = serve(&self.program, &self.folder, namespace, &self.logs, variables)?;
        Ok(())
    }

    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Ends it as a service manager does.
    pub(crate) fn end(&mut self) -> Result<()> {
        signal::end(self.process.pid(), false).during("end the coordinator")?;
        self.process.wait_for_end(LIMIT).map(drop)
    }

    /// Starts it where it cannot run: how long until it had said why and ended.
    pub(crate) fn start_in_vain(&self, text: &str) -> Result<Duration> {
        let began = clock::now();
        let mut serve = Command::new(&self.program);
        serve.arg("serve").arg("--data").arg(&self.folder);
        serve.arg("--socket").arg(self.folder.join("socket"));
        let name = "coordinator-in-vain";
        let finished = finish(name, &self.namespace, &self.logs, &mut serve, LIMIT)?;
        if !finished.success() && finished.stderr.contains(text) {
            return Ok(began.elapsed());
        }
        let said = finished.stderr.trim();
        Err(Failure::expectation(format!("the coordinator did not say {text}: {said}")))
    }

    /// Runs one of its commands on its data, however it ends.
    pub(crate) fn try_on_data(&self, name: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data").arg(&self.folder);
        let name = format!("coordinator-{name}");
        finish(&name, &self.namespace, &self.logs, &mut command, LIMIT)
    }

    /// Runs one of its commands on its data.
    pub(crate) fn on_data(&self, name: &str, arguments: &[&str]) -> Result<Finished> {
        let finished = self.try_on_data(name, arguments)?;
        if finished.success() {
            return Ok(finished);
        }
        // Arguments may be secrets.
        let said = finished.stderr.trim();
        Err(Failure::expectation(format!("weft-coordinator {}: {said}", arguments[0])))
    }

    /// Runs one of its commands against the running server, however it ends.
    pub(crate) fn attempt(&self, name: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--socket").arg(self.folder.join("socket"));
        let name = format!("coordinator-{name}");
        finish(&name, &self.namespace, &self.logs, &mut command, LIMIT)
    }

    /// Runs one of its commands against the running server.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Result<Finished> {
        let finished = self.attempt(name, arguments)?;
        if finished.success() {
            return Ok(finished);
        }
        Err(Failure::expectation(format!(
            "weft-coordinator {} ended with {}: {}",
            arguments.join(" "),
            finished.status,
            finished.stderr.trim()
        )))
    }

    /// `weft-coordinator why A B [tcp/22] --json`, whatever the verdict.
    pub(crate) fn why(&self, asked: &[&str]) -> Result<Value> {
        let finished = self.attempt("why", &[&["why"], asked, &["--json"]].concat())?;
        parse_any("weft-coordinator why", &finished)
    }

    /// What it has counted, `weft-coordinator metrics --json`.
    pub(crate) fn metrics(&self) -> Result<Value> {
        let finished = self.command("metrics", &["metrics", "--json"])?;
        Ok(parse("weft-coordinator metrics", &finished)?["samples"].clone())
    }

    /// Memory of the server that is not on disk or swapped, in KiB.
    pub(crate) fn rss_kib(&self) -> Result<u64> {
        rss_kib(&self.process)
    }

    /// Asks for an enrolment key of that name, which may be refused.
    pub(crate) fn try_key(&self, name: &str) -> Result<Finished> {
        let finished = self.attempt("key", &["key", "create", "--name", name, "-q"])?;
        // A secret has no place among the logs.
        fs::remove_file(self.logs.join("coordinator-key.out")).during("remove a key")?;
        Ok(finished)
    }

    /// Makes an enrolment key and returns its join string.
    pub(crate) fn join_string(&self, name: &str, uses: u32) -> Result<String> {
        self.join_string_for(name, uses, "7d")
    }

    /// One that lives for a time of the command line's form, `1h`.
    pub(crate) fn join_string_for(&self, name: &str, uses: u32, expires: &str) -> Result<String> {
        let uses = uses.to_string();
        self.join_string_with(name, &["--uses", &uses, "--expires", expires])
    }

    /// One for a device with a tag, `role=a`.
    pub(crate) fn tagged_join_string(&self, name: &str, tag: &str) -> Result<String> {
        self.join_string_with(name, &["--tag", tag])
    }

    /// The same, and an operator has to let it in.
    pub(crate) fn approving_join_string(&self, name: &str, tag: &str) -> Result<String> {
        self.join_string_with(name, &["--needs-approval", "--tag", tag])
    }

    /// One with flags of `key create`.
    pub(crate) fn join_string_with(&self, name: &str, flags: &[&str]) -> Result<String> {
        let arguments = [&["key", "create", "--name", name, "-q"], flags].concat();
        let finished = self.command("key", &arguments)?;
        // A secret has no place among the logs.
        fs::remove_file(self.logs.join("coordinator-key.out")).during("remove a key")?;
        Ok(finished.stdout.trim().to_owned())
    }
}

/// A coordinator on the data in `folder`, once it can be used.
fn serve(
    program: &Path,
    folder: &Path,
    namespace: &Namespace,
    logs: &Path,
    variables: &Variables,
) -> Result<Process> {
    let mut serve = Command::new(program);
    serve.envs(variables.iter().map(|(name, value)| (name, value)));
    serve.arg("serve").arg("--data").arg(folder).arg("--socket").arg(folder.join("socket"));
    let process = Process::start("coordinator", namespace, logs, &mut serve)?;
    process.wait_for(0, LIMIT, "ready", |line| line.starts_with("ready").then_some(()))?;
    Ok(process)
}

/// `WEFT1AEF…RNDY`: enough to recognise, nothing to use.
pub(crate) fn shortened(join_string: &str) -> String {
    let head: String = join_string.chars().take(8).collect();
    let tail = join_string.len().saturating_sub(4);
    format!("{head}…{}", join_string.get(tail..).unwrap_or_default())
}

/// A gateway: one `weft` daemon in its host's namespace.
pub(crate) struct Gateway {
    name: String,
    program: PathBuf,
    folder: PathBuf,
    logs: PathBuf,
    namespace: Namespace,
    /// What its daemon finds in its environment besides.
    variables: Variables,
    pub(crate) process: Process,
    pub(crate) addresses: Addresses,
}

/// Names and values of environment variables.
pub(crate) type Variables = Vec<(&'static str, OsString)>;

/// A device's addresses in the overlay.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) ipv4: IpAddr,
    pub(crate) ipv6: IpAddr,
}

impl Gateway {
    /// Runs `weft join` in the foreground and waits for its last line.
    pub(crate) fn join(run: &Run, host: &Host, join_string: &str, toml: &str) -> Result<Self> {
        let starting = Starting::join(run, host, join_string, toml)?;
        starting.ready()
    }
}

/// A gateway whose `weft join` was started and may not be done.
pub(crate) struct Starting {
    gateway: Unaddressed,
}

struct Unaddressed {
    name: String,
    program: PathBuf,
    folder: PathBuf,
    logs: PathBuf,
    namespace: Namespace,
    variables: Variables,
    process: Process,
}

impl Starting {
    /// Starts `weft join` and returns at once.
    pub(crate) fn join(run: &Run, host: &Host, join_string: &str, toml: &str) -> Result<Self> {
        Self::join_in(run, host, join_string, toml, Variables::new())
    }

    /// The same, with `variables` in the daemon's environment.
    pub(crate) fn join_in(
        run: &Run,
        host: &Host,
        join_string: &str,
        toml: &str,
        variables: Variables,
    ) -> Result<Self> {
        Self::join_asking(run, host, join_string, toml, variables, None)
    }

    /// The same, with another name server than this machine's.
    pub(crate) fn join_asking(
        run: &Run,
        host: &Host,
        join_string: &str,
        toml: &str,
        variables: Variables,
        resolver: Option<IpAddr>,
    ) -> Result<Self> {
        let program = program("weft")?;
        let folder = run.folder().join(&host.name);
        fs::create_dir_all(&folder).during("make a gateway's folder")?;
        let config = folder.join("weft.toml");
        fs::write(&config, toml).during("write a gateway's settings")?;
        let mut command = match resolver {
            None => Command::new(&program),
            Some(address) => asking(address, &folder, &program)?,
        };
        command.args(["join", "--foreground", "--name", &host.name]).arg(join_string);
        environment(&mut command, &folder);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let process = Process::start(&host.name, host.namespace(), run.logs(), &mut command)?;
        Ok(Self {
            gateway: Unaddressed {
                name: host.name.clone(),
                program,
                folder,
                logs: run.logs().to_path_buf(),
                namespace: Namespace::open(host.namespace().name())
                    .during("open a gateway's namespace")?,
                variables,
                process,
            },
        })
    }

    /// Where it keeps its keys.
    pub(crate) fn state(&self) -> PathBuf {
        self.gateway.folder.join("state")
    }

    /// Waits until it says this text: how long that took.
    pub(crate) fn says(&self, limit: Duration, text: &str) -> Result<Duration> {
        let began = clock::now();
        let find = |line: &str| line.contains(text).then_some(());
        self.gateway.process.wait_for(0, limit, text, find)?;
        Ok(began.elapsed())
    }

    /// Its process, which may never be done.
    pub(crate) fn process(self) -> Process {
        self.gateway.process
    }

    /// It cannot join: waits until it has said this text and ended.
    pub(crate) fn fails(mut self, text: &str) -> Result<()> {
        let status = self.gateway.process.wait_for_end(LIMIT)?;
        if !status.success() && self.gateway.process.has_said(text) {
            return Ok(());
        }
        let name = &self.gateway.name;
        Err(Failure::expectation(format!("{name} ended with {status} and did not say {text}")))
    }

    /// Waits until it is a member.
    pub(crate) fn ready(self) -> Result<Gateway> {
        let Unaddressed { name, program, folder, logs, namespace, variables, process } =
            self.gateway;
        process.wait_for(0, LIMIT, "ok", |line| line.starts_with("ok: ").then_some(()))?;
        let mut gateway = Gateway {
            name,
            program,
            folder,
            logs,
            namespace,
            variables,
            process,
            addresses: Addresses { ipv4: [0, 0, 0, 0].into(), ipv6: [0_u16; 8].into() },
        };
        gateway.addresses = addresses(&gateway.status()?)?;
        Ok(gateway)
    }
}

fn addresses(status: &Value) -> Result<Addresses> {
    let address = |index: u8| -> Result<IpAddr> {
        let text = text(status, &format!("/device/addresses/{index}"))?;
        text.parse().map_err(|_| Failure::expectation(format!("{text} is not an address")))
    };
    Ok(Addresses { ipv4: address(0)?, ipv6: address(1)? })
}

/// A program that asks this name server, whatever the others ask: it has mounts of its
/// own.
fn asking(server: IpAddr, folder: &Path, program: &Path) -> Result<Command> {
    let settings = folder.join("resolv.conf");
    fs::write(&settings, format!("nameserver {server}\n")).during("write a resolver's settings")?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"");
    command.arg(settings).arg(program);
    Ok(command)
}

fn environment(command: &mut Command, folder: &Path) {
    command
        // As below any unit of systemd; it must mean nothing to the daemon.
        .env("INVOCATION_ID", "f00d")
        .env("WEFT_STATE", folder.join("state"))
        .env("WEFT_SOCKET", folder.join("socket"))
        .env("WEFT_CONFIG", folder.join("weft.toml"));
}

impl Gateway {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// For a person who wants to look inside.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// `weft status --json`.
    pub(crate) fn status(&self) -> Result<Value> {
        self.document("status")
    }

    /// `weft why NAME [tcp/22] --json`, whatever the verdict.
    pub(crate) fn why(&self, asked: &[&str]) -> Result<Value> {
        let finished = self.run(&[&["why"], asked, &["--json"]].concat())?;
        parse_any(&format!("weft why {}", asked.join(" ")), &finished)
    }

    /// `weft netcheck --json`, which asks whom its map names.
    pub(crate) fn netcheck(&self) -> Result<Value> {
        self.document("netcheck")
    }

    /// `weft peers --json`: the entry of one peer.
    pub(crate) fn peer(&self, name: &str) -> Result<Value> {
        self.known_peer(name)?
            .ok_or_else(|| Failure::expectation(format!("{} knows no peer {name}", self.name)))
    }

    /// The same, or that there is no such peer.
    pub(crate) fn known_peer(&self, name: &str) -> Result<Option<Value>> {
        let document = self.document("peers")?;
        let peers = document["peers"].as_array().cloned().unwrap_or_default();
        Ok(peers.into_iter().find(|peer| peer["name"] == name))
    }

    /// `weft ping NAME -c 1 --json`: the round trip, or a failure. A packet is held for
    /// two seconds and given back; whoever talks sends another one.
    pub(crate) fn ping(&self, name: &str) -> Result<Duration> {
        self.ping_once(name).or_else(|_| self.ping_once(name))
    }

    fn ping_once(&self, name: &str) -> Result<Duration> {
        let finished = self.run(&["ping", name, "-c", "1", "--json"])?;
        let document = parse(&format!("weft ping {name}"), &finished)?;
        document["rtt_us"]["p50"].as_u64().map(Duration::from_micros).ok_or_else(|| {
            Failure::expectation(format!("weft ping {name} has no round trip: {document}"))
        })
    }

    /// Runs a command that must end well.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> Result<()> {
        let finished = self.run(arguments)?;
        if finished.success() {
            return Ok(());
        }
        Err(Failure::expectation(format!(
            "{}: weft {} ended with {}: {}",
            self.name,
            arguments.join(" "),
            finished.status,
            finished.stderr.trim()
        )))
    }

    /// The same member on another host, as a copied disk makes it; its daemon
    /// was just started.
    pub(crate) fn copy(&self, run: &Run, host: &Host) -> Result<Self> {
        let folder = run.folder().join(&host.name);
        let state = folder.join("state");
        fs::create_dir_all(&state).during("make a copy's folder")?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).during("close a folder")?;
        fs::copy(self.folder.join("weft.toml"), folder.join("weft.toml"))
            .during("copy a gateway's settings")?;
        for name in ["identity", "stamp", "cache"] {
            fs::copy(self.folder.join("state").join(name), state.join(name))
                .during(&format!("copy a gateway's {name}"))?;
        }
        let mut command = up(&self.program, &folder, &self.variables);
        Ok(Self {
            name: host.name.clone(),
            program: self.program.clone(),
            folder,
            logs: self.logs.clone(),
            namespace: Namespace::open(host.namespace().name())
                .during("open a gateway's namespace")?,
            variables: self.variables.clone(),
            process: Process::start(&host.name, host.namespace(), &self.logs, &mut command)?,
            addresses: self.addresses,
        })
    }

    /// What a command says to a person.
    pub(crate) fn say(&self, command: &str) -> Result<String> {
        Ok(self.run(&[command])?.stdout)
    }

    /// Writes other settings, for its next start.
    pub(crate) fn set(&self, toml: &str) -> Result<()> {
        fs::write(self.folder.join("weft.toml"), toml).during("write a gateway's settings")
    }

    /// Starts its daemon again after that one's end; returns at once.
    pub(crate) fn up(&mut self) -> Result<()> {
        let mut command = up(&self.program, &self.folder, &self.variables);
        self.process = Process::start(&self.name, &self.namespace, &self.logs, &mut command)?;
        Ok(())
    }

    /// Runs a `weft join` that must not succeed, with the keys that lie in
    /// `state`; its words.
    pub(crate) fn refused_join(&self, state: &Path, join_string: &str) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(["join", "--foreground", "--name", &self.name]).arg(join_string);
        environment(&mut command, &self.folder);
        command.env("WEFT_STATE", state);
        let name = format!("{}-refused", self.name);
        let finished = finish(&name, &self.namespace, &self.logs, &mut command, LIMIT)?;
        if finished.success() {
            return Err(Failure::expectation(format!("{} was taken in again", self.name)));
        }
        Ok(finished)
    }

    /// Whether there is a file of that name in its folder.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.folder.join(name).exists()
    }

    /// `weft leave --yes`, and waits for the daemon's end.
    pub(crate) fn leave(mut self) -> Result<()> {
        self.succeed(&["leave", "--yes"])?;
        self.process.wait_for_end(LIMIT)?;
        fs::remove_dir_all(&self.folder).during("remove a gateway's folder")
    }

    /// Memory of the daemon that is not on disk or swapped, in KiB.
    pub(crate) fn rss_kib(&self) -> Result<u64> {
        rss_kib(&self.process)
    }

    fn document(&self, command: &str) -> Result<Value> {
        parse(&format!("weft {command}"), &self.run(&[command, "--json"])?)
    }

    fn run(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        environment(&mut command, &self.folder);
        let name = format!("{}-{}", self.name, arguments.first().unwrap_or(&""));
        finish(&name, &self.namespace, &self.logs, &mut command, LIMIT)
    }
}

/// A daemon on the state in `folder`.
fn up(program: &Path, folder: &Path, variables: &Variables) -> Command {
    let mut command = Command::new(program);
    command.args(["up", "--foreground"]);
    environment(&mut command, folder);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command
}

/// `VmRSS` of a running program.
pub(crate) fn rss_kib(process: &Process) -> Result<u64> {
    let path = format!("/proc/{}/status", process.pid());
    let status = fs::read_to_string(&path).during(&format!("read {path}"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Failure::new("lab.system", format!("{path} has no VmRSS")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_join_string_is_never_shown_whole() {
        assert_eq!(shortened("WEFT1AEFINMBQTQ245RNDY"), "WEFT1AEF…RNDY");
    }

    #[test]
    fn documents_are_read_by_path() {
        let document = json!({"device": {"addresses": ["100.93.0.2", "fd5c::2"]}});
        let addresses = addresses(&document).unwrap();
        assert_eq!(addresses.ipv6.to_string(), "fd5c::2");
        assert!(text(&document, "/device/name").is_err());
    }
}
