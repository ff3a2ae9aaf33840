//! Two relays that join by their strings: told as soon as they answer, one that is
//! killed is told no more, a device that is blocked is cut off, and what is relayed
//! does not ask whether the coordinator lives.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_wire::id::OrganisationId;

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, program, text};
use crate::net::namespace::Namespace;
use crate::process::{Process, finish};
use crate::turn::{Client, User};
use crate::ui;

/// From the start of a relay to a device that knows it.
const TOLD: Duration = Duration::from_secs(10);
/// From the death of a relay to a device that does not know it any more: three
/// silent checks.
const SILENT: Duration = Duration::from_secs(12);
/// From exec of `device block` to an allocation that is gone.
const DENIED: Duration = Duration::from_secs(2);
/// For what takes a moment.
const SOON: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(30);
const DEVICE: &str = "gw-a";
/// STUN and TURN.
const PORT: u16 = 3_478;

/// A relay of its own on a host of its own.
struct Relay {
    name: String,
    folder: PathBuf,
    logs: PathBuf,
    namespace: Namespace,
    address: SocketAddr,
    process: Process,
}

impl Relay {
    /// Takes a string and starts with what it gives, and with nothing else.
    fn join(stage: &Stage<'_>, host: &Host, string: &str) -> Result<Self> {
        let folder = stage.run.folder().join(&host.name);
        let logs = stage.run.logs().to_path_buf();
        let namespace =
            Namespace::open(host.namespace().name()).during("open a relay's namespace")?;
        let mut join = Command::new(program("weft-relay")?);
        join.args(["join", string, "--state"]).arg(folder.join("state"));
        let name = format!("{}-join", host.name);
        let joined = finish(&name, &namespace, &logs, &mut join, LIMIT)?;
        if !joined.success() {
            let said = joined.stderr.trim();
            return Err(Failure::expectation(format!("{} did not join: {said}", host.name)));
        }
        let process = serve(&host.name, &folder, &namespace, &logs)?;
        let address = SocketAddr::new(host.ipv4(), PORT);
        Ok(Self { name: host.name.clone(), folder, logs, namespace, address, process })
    }

    /// Starts it again with what it kept.
    fn restart(&mut self) -> Result<()> {
        self.process = serve(&self.name, &self.folder, &self.namespace, &self.logs)?;
        Ok(())
    }

    /// The secret that users' passwords at it are made with. It stays in here.
    fn secret(&self) -> Result<String> {
        let path = self.folder.join("state/identity.toml");
        let kept = fs::read_to_string(&path).during("read a relay's state")?;
        let found =
            kept.lines().find_map(|line| line.strip_prefix("secret = \"")?.strip_suffix('"'));
        found.map(str::to_owned).ok_or_else(|| Failure::expectation("a relay keeps no secret"))
    }

    /// Whether a device gets an allocation.
    fn allocate(&self, device: &Gateway, user: &User) -> Result<(Client, Option<u16>)> {
        Client::allocate(device.namespace(), self.address, user, &self.secret()?)
    }

    /// `weft-relay status --json`.
    fn status(&self) -> Result<Value> {
        let mut status = Command::new(program("weft-relay")?);
        status.args(["status", "--json", "--socket"]).arg(self.folder.join("socket"));
        let name = format!("{}-status", self.name);
        let said = finish(&name, &self.namespace, &self.logs, &mut status, LIMIT)?;
        serde_json::from_str(&said.stdout)
            .map_err(|_| Failure::expectation(format!("{}: {}", self.name, said.stderr.trim())))
    }
}

fn serve(
    name: &str,
    folder: &std::path::Path,
    namespace: &Namespace,
    logs: &std::path::Path,
) -> Result<Process> {
    let mut serve = Command::new(program("weft-relay")?);
    serve.arg("--state").arg(folder.join("state")).arg("--socket").arg(folder.join("socket"));
    let process = Process::start(name, namespace, logs, &mut serve)?;
    process.wait_for(0, LIMIT, "that it relays", |line| line.starts_with("turn ").then_some(()))?;
    Ok(process)
}

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), ("fra1", 11), ("sgp1", 12), (DEVICE, 21)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, fra1, sgp1, gw-a", None);
    let host = internet.host("coord")?;
    let mut coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("relays", 1)?;
    let device = Gateway::join(stage.run, internet.host(DEVICE)?, &key, "")?;
    let began = clock::now();
    let mut relays = Vec::new();
    for name in ["fra1", "sgp1"] {
        let string = string(stage, &coordinator, name)?;
        relays.push(Relay::join(stage, internet.host(name)?, &string)?);
    }
    let [fra1, sgp1]: [Relay; 2] =
        relays.try_into().map_err(|_| Failure::new("lab.internal", "two relays"))?;
    let mut played = Played { coordinator: &mut coordinator, fra1, sgp1, device };
    let told = played.told(&["fra1", "sgp1"], TOLD);
    let document = told.and_then(|()| {
        stage.story.done("joined", "both, and gw-a is told of them", Some(began.elapsed()));
        played.play(stage)
    });
    let Played { fra1, sgp1, device, .. } = played;
    stage.processes.extend([coordinator.process, fra1.process, sgp1.process, device.process]);
    document
}

/// Lets a relay join; what nobody else may see.
fn string(stage: &Stage<'_>, coordinator: &Coordinator, name: &str) -> Result<String> {
    let added = coordinator.command("relay", &["relay", "add", name, "--region", "lab", "-q"])?;
    // A secret has no place among the logs.
    fs::remove_file(stage.run.logs().join("coordinator-relay.out")).during("remove a string")?;
    Ok(added.stdout.trim().to_owned())
}

struct Played<'a> {
    coordinator: &'a mut Coordinator,
    fra1: Relay,
    sgp1: Relay,
    device: Gateway,
}

impl Played<'_> {
    /// What the coordinator knows of a relay.
    fn relay(&self, name: &str) -> Result<Value> {
        let shown = self.coordinator.command("relay-show", &["relay", "show", name, "--json"])?;
        serde_json::from_str(&shown.stdout)
            .map_err(|error| Failure::expectation(format!("relay show {name}: {error}")))
    }

    /// Waits until the device knows these relays and no other.
    fn told(&self, names: &[&str], limit: Duration) -> Result<()> {
        let mut wanted: Vec<(String, IpAddr)> = [&self.fra1, &self.sgp1]
            .into_iter()
            .filter(|relay| names.contains(&relay.name.as_str()))
            .map(|relay| (relay.name.clone(), relay.address.ip()))
            .collect();
        wanted.sort();
        let what = format!("gw-a knows {}", names.join(" and "));
        wait_until(limit, &what, || Ok(known(&self.device.status()?) == wanted)).map(drop)
    }

    fn play(&mut self, stage: &mut Stage<'_>) -> Result<Value> {
        let device = text(&self.device.status()?, "/device/id")?;
        let user = User::new(&device, &OrganisationId(1).to_string());
        let mut at_fra1 = given(self.fra1.allocate(&self.device, &user)?)?;
        given(self.sgp1.allocate(&self.device, &user)?)?;
        // Each has a secret of its own.
        let (_, refused) = Client::allocate(
            self.device.namespace(),
            self.fra1.address,
            &user,
            &self.sgp1.secret()?,
        )?;
        expect(refused == Some(401), "fra1 takes no password that was made for sgp1")?;
        stage.story.done("allocations", "one at each relay", None);

        self.sgp1.process.kill()?;
        let began = clock::now();
        self.told(&["fra1"], SILENT)?;
        let silent = began.elapsed();
        let seen = self.relay("sgp1")?;
        expect(seen["state"] == "silent", &format!("sgp1 is silent: {seen}"))?;
        stage.story.done("killed", "sgp1: gw-a is told of it no more", Some(silent));

        let away = self.without(&mut at_fra1)?;
        stage.story.done("restarted", "the coordinator; the allocation went on", Some(away));

        let denied = self.block(&mut at_fra1)?;
        let (_, again) = self.fra1.allocate(&self.device, &user)?;
        expect(again == Some(403), &format!("gw-a gets no other allocation, but {again:?}"))?;
        stage.story.done("blocked", "gw-a: its allocation is gone", Some(denied));

        // It was away when that was decided.
        self.sgp1.restart()?;
        let began = clock::now();
        wait_until(SOON, "sgp1 denies gw-a too", || {
            Ok(self.sgp1.allocate(&self.device, &user)?.1 == Some(403))
        })?;
        stage.story.done("back", "sgp1 has learnt what it missed", Some(began.elapsed()));
        wait_until(SOON, "sgp1 is listed again", || Ok(self.relay("sgp1")?["told"] == true))?;
        let status = self.sgp1.status()?;
        expect(status["coordinator"]["denied"] == 1, &format!("one is denied: {status}"))?;
        if denied > DENIED {
            let (took, goal) = (ui::span(denied), ui::span(DENIED));
            return Err(Failure::expectation(format!(
                "a blocked device kept its allocation for {took}, the goal is {goal}"
            )));
        }
        let millis = |time: Duration| time.as_millis() as u64;
        Ok(json!({
            "unlisted_ms": millis(silent),
            "denied_ms": millis(denied),
            "restart_ms": millis(away),
        }))
    }

    /// The coordinator is killed and started: what is relayed does not notice.
    fn without(&mut self, allocation: &mut Client) -> Result<Duration> {
        self.coordinator.process.kill()?;
        let began = clock::now();
        let trouble = || Ok(self.fra1.status()?["coordinator"]["connected"] == false);
        wait_until(SOON, "fra1 notices that its coordinator is gone", trouble)?;
        expect(allocation.lives()?, "the allocation goes on without the coordinator")?;
        self.coordinator.restart()?;
        let connected = || Ok(self.relay("fra1")?["connected"] == true);
        wait_until(LIMIT, "fra1 is back at its coordinator", connected)?;
        let took = began.elapsed();
        expect(allocation.lives()?, "the allocation went on")?;
        Ok(took)
    }

    /// From exec of the command to the allocation's end.
    fn block(&self, allocation: &mut Client) -> Result<Duration> {
        let began = clock::now();
        let command = ["device", "block", DEVICE, "--reason", "stolen", "--yes"];
        self.coordinator.command("block", &command)?;
        let what = "the allocation of gw-a ends";
        wait_until(SOON, what, || Ok(!allocation.lives()?))?;
        Ok(began.elapsed())
    }
}

/// The relays that a device knows, by name and address.
fn known(status: &Value) -> Vec<(String, IpAddr)> {
    let relays = status["relays"].as_array().cloned().unwrap_or_default();
    let one = |relay: &Value| {
        Some((relay["name"].as_str()?.to_owned(), relay["ipv4"].as_str()?.parse().ok()?))
    };
    let mut all: Vec<_> = relays.iter().filter_map(one).collect();
    all.sort();
    all
}

fn given((client, refused): (Client, Option<u16>)) -> Result<Client> {
    match refused {
        None => Ok(client),
        Some(code) => Err(Failure::expectation(format!("a member is refused with {code}"))),
    }
}

fn expect(is_so: bool, what: &str) -> Result<()> {
    if is_so { Ok(()) } else { Err(Failure::expectation(format!("not so: {what}"))) }
}
