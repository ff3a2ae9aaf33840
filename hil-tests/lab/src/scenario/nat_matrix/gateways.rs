//! The internet of the matrix: a coordinator, a relay, and a gateway at each site.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Stage;
use crate::clock;
use crate::dns64::NameServer;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet, Plan};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway, PORT, Starting};
use crate::nat::Kind;
use crate::net::signal;
use crate::process::Process;
use crate::relay::{self, Relay};
use crate::run::Run;
use crate::sight::{Cause, Known};
use crate::site::{Site, SitePlan, UPLINK};
use crate::watch::Watch;

const COORD: (&str, u8) = ("coord", 10);
const RELAY: (&str, u8) = ("relay", 11);
/// Sites of the first and of the second gateway have numbers from here on.
const FIRST: [u8; 2] = [30, 60];
/// Every gateway is a member for so long before the first run.
pub(super) const JOINED: Duration = Duration::from_secs(30);
/// For a new policy to be everywhere.
const TOLD: Duration = Duration::from_secs(30);

/// Nobody may talk, or everybody.
const NOTHING: &str = "";
const EVERYTHING: &str = "[[rule]]\nfrom = \"any\"\nto = \"any\"\nallow = \"any\"\n";

pub(in crate::scenario) struct Gateways {
    internet: Internet,
    coordinator: Coordinator,
    all: Vec<Watched>,
    /// Of sites without IPv4.
    _name_servers: Vec<NameServer>,
}

/// A gateway with its uplink.
type Watched = (Gateway, Watch);

/// One side of a cell.
pub(in crate::scenario) struct Side<'a> {
    pub(in crate::scenario) gateway: &'a Gateway,
    /// What passes its uplink.
    watch: &'a Watch,
    /// Where its packets come from for the other side, if nobody carries them.
    addresses: [IpAddr; 2],
}

impl Side<'_> {
    /// From now on everything is the first.
    pub(super) fn forget(&self) {
        self.watch.forget();
    }

    /// When a packet of the overlay came straight from there: the first, and the last.
    pub(super) fn direct_from(&self, other: &Self) -> Option<[Instant; 2]> {
        let from = |far: &IpAddr| other.addresses.contains(far);
        let tally = self
            .watch
            .tally(|(cause, far, leaves)| *cause == Cause::Payload && from(far) && !*leaves)?;
        Some([tally.first, tally.last])
    }

    /// When a relay brought something last.
    pub(super) fn relayed(&self) -> Option<Instant> {
        let tally = self.watch.tally(|(cause, _, leaves)| *cause == Cause::Relay && !*leaves);
        tally.map(|tally| tally.last)
    }
}

/// The site, and the gateway, of a kind on one side.
fn name(kind: Kind, side: usize) -> String {
    let suffix = ["", "-b"][side];
    format!("{}{suffix}", kind.name())
}

impl Gateways {
    /// Starts everything that the pairs need, and lets the members `rest`. The
    /// relay's process is apart.
    pub(in crate::scenario) fn start(
        stage: &mut Stage<'_>,
        pairs: &[[Kind; 2]],
        rest: Duration,
    ) -> Result<(Self, Vec<Process>)> {
        let mut plans = Vec::new();
        for side in 0..2 {
            for (kind, number) in Kind::MATRIX.into_iter().chain(Kind::SIX).zip(FIRST[side]..) {
                if pairs.iter().any(|pair| pair[side] == kind) {
                    let name = name(kind, side);
                    let ipv6 = stage.options.ipv6 && kind != Kind::Nat64;
                    plans.push(SitePlan { name, ipv6, ..SitePlan::new(kind, number) });
                }
            }
        }
        let families = if stage.options.ipv6 { Families::Both } else { Families::Ipv4 };
        let plan = Plan {
            hosts: &[COORD, RELAY],
            sites: &plans,
            seed: stage.options.seed.unwrap_or(1),
            ..Plan::new("core", families)
        };
        let internet = Internet::of(stage.run, &plan)?;
        let text = format!("{}, {} sites", families.words(), plans.len());
        stage.story.done("internet", &text, None);
        let host = internet.host(COORD.0)?;
        let at = internet.host(RELAY.0)?;
        let mut relays = vec![at.ipv4()];
        if stage.options.ipv6 {
            relays.push(at.ipv6());
        }
        let Relay { process: relay, section, .. } =
            Relay::start_at(stage.run, at, &relays, &[relay::PORT, relay::ASIDE])?;
        let coordinator =
            Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), &section)?;
        let known = Known { coordinator: vec![(host.ipv4(), PORT).into()], relays };
        stage.story.done("coordinator", &coordinator.fingerprint, None);
        let began = clock::now();
        let (all, name_servers) = join(stage.run, &internet, &coordinator, &known)?;
        let gateways = Self { internet, coordinator, all, _name_servers: name_servers };
        let told = gateways.policy(stage.run, NOTHING, |peers| peers == 0);
        stage.story.done("gateways", &format!("{} joined", plans.len()), Some(began.elapsed()));
        if let Err(failure) = told {
            stage.processes.push(relay);
            stage.processes.extend(gateways.end());
            return Err(failure);
        }
        let joined = clock::now();
        while joined.elapsed() < rest && !signal::asked_to_stop() {
            signal::rest(rest.saturating_sub(joined.elapsed()));
        }
        Ok((gateways, vec![relay]))
    }

    pub(super) const fn internet(&self) -> &Internet {
        &self.internet
    }

    /// The two sides of a cell.
    pub(in crate::scenario) fn of(&self, kinds: [Kind; 2]) -> Result<[Side<'_>; 2]> {
        let find = |side: usize| {
            let name = name(kinds[side], side);
            let found = self.all.iter().find(|(gateway, _)| gateway.name() == name);
            let (gateway, watch) =
                found.ok_or_else(|| Failure::new("lab.internal", format!("no gateway {name}")))?;
            let site = self.internet.site(&name)?;
            let other = self.internet.site(&self::name(kinds[1 - side], 1 - side))?;
            let addresses = [other.sees(site.public().into()), site.host().ipv6()];
            Ok(Side { gateway, watch, addresses })
        };
        Ok([find(0)?, find(1)?])
    }

    /// When the first frame went from one site of a cell to the other, and back.
    pub(super) fn first_frames(&self, kinds: [Kind; 2]) -> Result<[Option<Instant>; 2]> {
        let [a, b] = [name(kinds[0], 0), name(kinds[1], 1)];
        Ok([self.internet.first_frame([&a, &b])?, self.internet.first_frame([&b, &a])?])
    }

    /// Takes every tunnel down, lets the boxes of each cell forget the other site, and
    /// brings the peers back.
    pub(super) fn settle(&self, run: &Run, cells: &[[Kind; 2]]) -> Result<()> {
        self.policy(run, NOTHING, |peers| peers == 0)?;
        for kinds in cells {
            let [one, other] = [name(kinds[0], 0), name(kinds[1], 1)];
            let (one, other) = (self.internet.site(&one)?, self.internet.site(&other)?);
            for (site, kind, far) in [(one, kinds[0], other), (other, kinds[1], one)] {
                match kind {
                    // After half a minute of rest it has forgotten servers too, and
                    // it is from there that the ports are counted. A box without a
                    // firewall keeps several ports after a search, and another pair's
                    // decide from which of them the next flow leaves.
                    Kind::SymSeq | Kind::SymWin | Kind::SymRand | Kind::NoFw => {
                        site.forget_all(run)?;
                    }
                    _ => site.forget_other(run, far)?,
                }
            }
        }
        self.policy(run, EVERYTHING, |peers| peers + 1 == self.all.len())?;
        for kinds in cells {
            let [a, b] = self.of(*kinds)?.map(|side| side.gateway);
            for (one, other) in [(a, b), (b, a)] {
                let path = &one.peer(other.name())?["path"]["kind"];
                if path != "idle" {
                    let what = format!("{} calls its path to {} {path}", one.name(), other.name());
                    return Err(Failure::expectation(format!("{what}, and nothing was sent")));
                }
            }
        }
        Ok(())
    }

    /// Brings all peers to everybody.
    pub(in crate::scenario) fn allow(&self, run: &Run) -> Result<()> {
        self.policy(run, EVERYTHING, |peers| peers + 1 == self.all.len())
    }

    /// `weft-coordinator why A B --json`, whatever the verdict.
    pub(in crate::scenario) fn why(&self, a: &str, b: &str) -> Result<Value> {
        self.coordinator.why(&[a, b])
    }

    /// Sets a policy and waits until every gateway has as many peers as it gives.
    fn policy(&self, run: &Run, text: &str, holds: impl Fn(usize) -> bool) -> Result<()> {
        let file = run.folder().join("policy.toml");
        fs::write(&file, text).during("write a policy")?;
        self.coordinator.command("policy", &["policy", "set", &file.display().to_string()])?;
        for (gateway, _) in &self.all {
            let what = format!("{} holds the new policy", gateway.name());
            wait_until(TOLD, &what, || {
                let peers = gateway.status()?["peers"].as_array().map_or(0, Vec::len);
                Ok(holds(peers))
            })?;
        }
        Ok(())
    }

    /// What runs until the laboratory ends it.
    pub(in crate::scenario) fn end(self) -> Vec<Process> {
        let gateways = self.all.into_iter().map(|(gateway, _)| gateway.process);
        gateways.chain([self.coordinator.process]).collect()
    }
}

/// All at once: none waits for the others' first words.
fn join(
    run: &Run,
    internet: &Internet,
    coordinator: &Coordinator,
    known: &Known,
) -> Result<(Vec<Watched>, Vec<NameServer>)> {
    let sites = internet.sites();
    let key = coordinator.join_string("matrix", sites.len() as u32)?;
    let mut name_servers = Vec::new();
    let mut starting = Vec::new();
    for site in sites {
        let mut resolver = None;
        if site.plan.kind == Kind::Nat64 {
            let (server, address) = site.name_server()?;
            name_servers.push(server);
            resolver = Some(address);
        }
        let host = site.host();
        starting.push(Starting::join_asking(run, host, &key, "", Vec::new(), resolver)?);
    }
    let watched = |(starting, site): (Starting, &Site)| {
        let gateway = starting.ready()?;
        let sees = |far: &SocketAddr| SocketAddr::new(site.sees(far.ip()), far.port());
        let known = Known {
            coordinator: known.coordinator.iter().map(sees).collect(),
            relays: known.relays.iter().map(|ip| site.sees(*ip)).collect(),
        };
        let watch = Watch::start(gateway.namespace(), &[UPLINK], &known)?;
        Ok((gateway, watch))
    };
    let all = starting.into_iter().zip(sites).map(watched).collect::<Result<_>>()?;
    Ok((all, name_servers))
}
