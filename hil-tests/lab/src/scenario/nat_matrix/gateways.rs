//! The internet of the matrix: a coordinator, a relay, and a gateway at each site.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet, Plan, ipv4, ipv6};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, Starting, program};
use crate::nat::Kind;
use crate::net::signal;
use crate::process::Process;
use crate::run::Run;
use crate::site::SitePlan;

/// The coordinator's host, and its two addresses.
const COORD: (&str, u8) = ("coord", 10);
const RELAY: u8 = 11;
/// STUN and TURN.
const RELAY_PORT: u16 = 3_478;
/// Sites of the first and of the second gateway have numbers from here on.
const FIRST: [u8; 2] = [30, 60];
/// Every gateway is a member for so long before the first run.
const JOINED: Duration = Duration::from_secs(30);
/// For a new policy to be everywhere.
const TOLD: Duration = Duration::from_secs(30);

/// Nobody may talk, or everybody.
const NOTHING: &str = "";
const EVERYTHING: &str = "[[rule]]\nfrom = \"any\"\nto = \"any\"\nallow = \"any\"\n";

pub(super) struct Gateways {
    internet: Internet,
    coordinator: Coordinator,
    all: Vec<Gateway>,
}

/// The site, and the gateway, of a kind on one side.
fn name(kind: Kind, side: usize) -> String {
    let suffix = ["", "-b"][side];
    format!("{}{suffix}", kind.name())
}

impl Gateways {
    /// Starts everything that the pairs need. The relay's process is apart.
    pub(super) fn start(
        stage: &mut Stage<'_>,
        pairs: &[[Kind; 2]],
    ) -> Result<(Self, Vec<Process>)> {
        let mut plans = Vec::new();
        for side in 0..2 {
            for (kind, number) in Kind::MATRIX.into_iter().zip(FIRST[side]..) {
                if pairs.iter().any(|pair| pair[side] == kind) {
                    let (name, ipv6) = (name(kind, side), stage.options.ipv6);
                    plans.push(SitePlan { name, ipv6, ..SitePlan::new(kind, number) });
                }
            }
        }
        let families = if stage.options.ipv6 { Families::Both } else { Families::Ipv4 };
        let plan = Plan {
            hosts: &[COORD],
            further: &[(COORD.0, RELAY)],
            sites: &plans,
            seed: stage.options.seed.unwrap_or(1),
            ..Plan::new("core", families)
        };
        let internet = Internet::of(stage.run, &plan)?;
        let text = format!("{}, {} sites", families.words(), plans.len());
        stage.story.done("internet", &text, None);
        let host = internet.host(COORD.0)?;
        let (relay, section) = relay(stage.run, &internet, families)?;
        let coordinator =
            Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), &section)?;
        stage.story.done("coordinator", &coordinator.fingerprint, None);
        let began = clock::now();
        let all = join(stage.run, &internet, &coordinator)?;
        let gateways = Self { internet, coordinator, all };
        let told = gateways.policy(stage.run, NOTHING, |peers| peers == 0);
        stage.story.done("gateways", &format!("{} joined", plans.len()), Some(began.elapsed()));
        if let Err(failure) = told {
            stage.processes.push(relay);
            stage.processes.extend(gateways.end());
            return Err(failure);
        }
        let joined = clock::now();
        while joined.elapsed() < JOINED && !signal::asked_to_stop() {
            signal::rest(JOINED.saturating_sub(joined.elapsed()));
        }
        Ok((gateways, vec![relay]))
    }

    pub(super) const fn internet(&self) -> &Internet {
        &self.internet
    }

    /// The two gateways of a cell.
    pub(super) fn of(&self, kinds: [Kind; 2]) -> Result<[&Gateway; 2]> {
        let find = |side: usize| {
            let name = name(kinds[side], side);
            let found = self.all.iter().find(|gateway| gateway.name() == name);
            found.ok_or_else(|| Failure::new("lab.internal", format!("no gateway {name}")))
        };
        Ok([find(0)?, find(1)?])
    }

    /// When the first frame went from one site of a cell to the other, and back.
    pub(super) fn first_frames(&self, kinds: [Kind; 2]) -> Result<[Option<Instant>; 2]> {
        let [a, b] = [name(kinds[0], 0), name(kinds[1], 1)];
        Ok([self.internet.first_frame([&a, &b])?, self.internet.first_frame([&b, &a])?])
    }

    /// Takes every tunnel down, lets both boxes forget the other site, and brings the
    /// peers back.
    pub(super) fn settle(&self, run: &Run, kinds: [Kind; 2]) -> Result<()> {
        self.policy(run, NOTHING, |peers| peers == 0)?;
        let [one, other] = [name(kinds[0], 0), name(kinds[1], 1)];
        let (one, other) = (self.internet.site(&one)?, self.internet.site(&other)?);
        one.forget_other(run, other)?;
        other.forget_other(run, one)?;
        self.policy(run, EVERYTHING, |peers| peers + 1 == self.all.len())?;
        let [a, b] = self.of(kinds)?;
        for (one, other) in [(a, b), (b, a)] {
            let path = &one.peer(other.name())?["path"]["kind"];
            if path != "idle" {
                let what = format!("{} calls its path to {} {path}", one.name(), other.name());
                return Err(Failure::expectation(format!("{what}, and nothing was sent")));
            }
        }
        Ok(())
    }

    /// Sets a policy and waits until every gateway has as many peers as it gives.
    fn policy(&self, run: &Run, text: &str, holds: impl Fn(usize) -> bool) -> Result<()> {
        let file = run.folder().join("policy.toml");
        fs::write(&file, text).during("write a policy")?;
        self.coordinator.command("policy", &["policy", "set", &file.display().to_string()])?;
        for gateway in &self.all {
            let what = format!("{} holds the new policy", gateway.name());
            wait_until(TOLD, &what, || {
                let peers = gateway.status()?["peers"].as_array().map_or(0, Vec::len);
                Ok(holds(peers))
            })?;
        }
        Ok(())
    }

    /// What runs until the laboratory ends it.
    pub(super) fn end(self) -> Vec<Process> {
        let gateways = self.all.into_iter().map(|gateway| gateway.process);
        gateways.chain([self.coordinator.process]).collect()
    }
}

/// A relay at the second address of the coordinator's host, and how the
/// coordinator is told of it.
fn relay(run: &Run, internet: &Internet, families: Families) -> Result<(Process, String)> {
    let addresses: Vec<IpAddr> = match families {
        Families::Ipv4 => vec![ipv4(RELAY).into()],
        Families::Ipv6 => vec![ipv6(RELAY).into()],
        Families::Both => vec![ipv4(RELAY).into(), ipv6(RELAY).into()],
    };
    let secret = run.folder().join("relay.secret");
    // Nobody but the run's namespaces reaches it.
    fs::write(&secret, format!("the laboratory of run {}\n", run.id())).during("write a secret")?;
    let only_ours = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&secret, only_ours).during("close a secret")?;
    let mut command = Command::new(program("weft-relay")?);
    command.arg("--secret-file").arg(&secret);
    for address in &addresses {
        let listen = SocketAddr::new(*address, RELAY_PORT).to_string();
        command.arg("--listen").arg(listen).arg("--relay-address").arg(address.to_string());
    }
    let host = internet.host(COORD.0)?;
    let process = Process::start("relay", host.namespace(), run.logs(), &mut command)?;
    process.wait_for(0, TOLD, "that it relays", |line| line.starts_with("turn").then_some(()))?;
    let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let section = format!(
        "\n[[relays]]\nname = \"lab\"\naddress = [{}]\nudp = [{RELAY_PORT}]\nsecret_file = \"{}\"\n",
        addresses.join(", "),
        secret.display()
    );
    Ok((process, section))
}

/// All at once: none waits for the others' first words.
fn join(run: &Run, internet: &Internet, coordinator: &Coordinator) -> Result<Vec<Gateway>> {
    let sites = internet.sites();
    let key = coordinator.join_string("matrix", sites.len() as u32)?;
    let starting: Vec<Starting> = sites
        .iter()
        .map(|site| Starting::join(run, site.host(), &key, ""))
        .collect::<Result<_>>()?;
    starting.into_iter().map(Starting::ready).collect()
}
