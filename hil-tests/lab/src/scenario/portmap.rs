//! A home router that lets packets in for whom it is asked to, miniupnpd, by each
//! of the three protocols: a gateway behind it is reached directly from behind a
//! NAT that is random, and when its daemon ends nothing stays on the router.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Internet, Plan, ipv4};
use crate::measure::wait_until;
use crate::mesh::{Coordinator, Gateway};
use crate::nat::Kind;
use crate::net::signal;
use crate::process::{Process, find_program, finish};
use crate::run::{Run, ip_output};
use crate::site::{Site, SitePlan};

const COORD: (&str, u8) = ("coord", 10);
/// The router that is asked, and the other gateway's NAT.
const HOME: u8 = 30;
const FAR: u8 = 31;
/// The router's other public address: miniupnpd gives nothing away at one that is
/// for documentation, as all others here are.
const OUTER: &str = "44.0.0.30";
/// For a mapping by the last of three protocols, and for what is slower.
const LIMIT: Duration = Duration::from_secs(20);

/// What miniupnpd wants to find.
const TABLES: &str = "\
table inet upnp {
  chain forward {
    type filter hook forward priority 10;
    jump miniupnpd;
  }
  chain prerouting {
    type nat hook prerouting priority -100;
    jump prerouting_miniupnpd;
  }
  chain postrouting {
    type nat hook postrouting priority 90;
    jump postrouting_miniupnpd;
  }
  chain miniupnpd {
  }
  chain prerouting_miniupnpd {
  }
  chain postrouting_miniupnpd {
  }
}
";
/// A router of before there was PCP: what PCP asks does not arrive.
const WITHOUT_PCP: &str = "\
table inet old {
  chain own {
    type filter hook input priority 0;
    udp dport 5351 @th,64,8 2 drop;
  }
}
";

/// What a round is called, whether the router speaks NAT-PMP and PCP, or UPnP, and
/// what its rules are told first.
const ROUNDS: [(&str, bool, &str); 3] =
    [("pcp", true, ""), ("nat_pmp", true, WITHOUT_PCP), ("upnp", false, "delete table inet old\n")];

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    for (program, package) in [("nft", "nftables"), ("miniupnpd", "miniupnpd-nftables")] {
        if find_program(program).is_none() {
            let message = format!("the program {program} is missing");
            let install = format!("apt-get install {package}");
            return Err(Failure::skipped(message).line("try", install));
        }
    }
    let site = |kind, name: &str, number| {
        let name = name.to_owned();
        SitePlan { name, ..SitePlan::new(kind, number) }
    };
    let sites = [site(Kind::Prc, "home", HOME), site(Kind::SymRand, "far", FAR)];
    let plan = Plan {
        hosts: &[COORD],
        sites: &sites,
        seed: stage.options.seed.unwrap_or(1),
        ..Plan::new("core", Families::Ipv4)
    };
    let internet = Internet::of(stage.run, &plan)?;
    let (home, far) = (internet.site("home")?, internet.site("far")?);
    let outer = format!("{OUTER}/32");
    ip_output(home.outermost(), &["address", "add", &outer, "dev", "wan"])
        .during("give the router its other address")?;
    let via = ipv4(HOME).to_string();
    ip_output(far.outermost(), &["route", "add", &outer, "via", &via])
        .during("tell the way to the router's other address")?;
    home.rules(stage.run, "upnp", TABLES)?;
    let host = internet.host(COORD.0)?;
    let coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    stage.story.done("coordinator", &coordinator.fingerprint, None);
    let key = coordinator.join_string("portmap", 2)?;
    stage.processes.push(coordinator.process);
    let peer = Gateway::join(stage.run, far.host(), &key, "")?;
    let mut gateway: Option<Gateway> = None;
    let mut rounds = Vec::new();
    for round in &ROUNDS {
        let router = router(stage, home, round)?;
        let began = clock::now();
        match &mut gateway {
            Some(gateway) => gateway.up()?,
            None => gateway = Some(Gateway::join(stage.run, home.host(), &key, "")?),
        }
        let Some(gateway) = &mut gateway else { continue };
        let external = mapped(gateway, round.0)?;
        let took = began.elapsed();
        let rtt = direct(&peer, gateway, &external)?;
        let words = format!("{external}, direct in {:.1} ms", rtt.as_secs_f64() * 1e3);
        stage.story.done(round.0, &words, Some(took));
        signal::end(gateway.process.pid(), false).during("end a gateway")?;
        gateway.process.wait_for_end(LIMIT)?;
        wait_until(LIMIT, "the router forgets it", || Ok(!forwards(stage.run, home)?))?;
        drop(router);
        rounds.push(json!({"protocol": round.0, "mapped_ms": took.as_millis() as u64,
            "rtt_us": rtt.as_micros() as u64}));
    }
    stage.story.done("router", "nothing of it stays", None);
    stage.processes.push(peer.process);
    Ok(json!({"passed": ROUNDS.len(), "failed": 0, "skipped": [], "rounds": rounds}))
}

/// Starts miniupnpd on the router.
fn router(stage: &Stage<'_>, site: &Site, round: &(&str, bool, &str)) -> Result<Process> {
    let (name, nat_pmp, rules) = round;
    if !rules.is_empty() {
        site.rules(stage.run, name, rules)?;
    }
    let word = |on: bool| if on { "yes" } else { "no" };
    let folder = stage.run.folder();
    let (settings, pid) = (folder.join("miniupnpd.conf"), folder.join("miniupnpd.pid"));
    let text = format!(
        "ext_ifname=wan\next_ip={OUTER}\nlistening_ip=lan\nhttp_port=0\nipv6_disable=yes\n\
         enable_natpmp={}\nenable_upnp={}\nsecure_mode=yes\n\
         min_lifetime=120\nmax_lifetime=86400\nupnp_table_name=upnp\nupnp_nat_table_name=upnp\n\
         upnp_forward_chain=miniupnpd\nupnp_nat_chain=prerouting_miniupnpd\n\
         upnp_nat_postrouting_chain=postrouting_miniupnpd\n\
         uuid=00000000-0000-4000-8000-000000000000\nallow 1024-65535 10.0.0.0/8 1024-65535\n\
         deny 0-65535 0.0.0.0/0 0-65535\n",
        word(*nat_pmp),
        word(!nat_pmp)
    );
    fs::write(&settings, text).during("write the router's settings")?;
    let program = find_program("miniupnpd")
        .ok_or_else(|| Failure::skipped("the program miniupnpd is missing"))?;
    let mut command = Command::new(program);
    command.arg("-d").arg("-f").arg(&settings).arg("-P").arg(&pid);
    let process = Process::start("router", site.outermost(), stage.run.logs(), &mut command)?;
    let ready = if *nat_pmp { "Listening for NAT-PMP" } else { "HTTP listening" };
    process.wait_for(0, LIMIT, "that it listens", |line| line.contains(ready).then_some(()))?;
    Ok(process)
}

/// Waits for a mapping by this protocol; its outer address.
fn mapped(gateway: &Gateway, protocol: &str) -> Result<String> {
    let mut external = String::new();
    wait_until(LIMIT, &format!("a mapping by {protocol}"), || {
        let document = gateway.netcheck()?;
        let mapping = &document["port_mapping"];
        external = mapping["external"].as_str().unwrap_or_default().to_owned();
        let is_open = document["verdict"]["code"] == "nat.open";
        Ok(mapping["protocol"] == protocol && mapping["public"] == true && is_open)
    })?;
    if external.starts_with(&format!("{OUTER}:")) {
        return Ok(external);
    }
    Err(Failure::expectation(format!("the mapping is at {external}")))
}

/// The other gateway's packets go to the mapping.
fn direct(peer: &Gateway, gateway: &Gateway, external: &str) -> Result<Duration> {
    let mut rtt = Duration::ZERO;
    wait_until(LIMIT, "the other gateway goes over the mapping", || {
        // Who has just started knows that there is no session.
        gateway.ping(peer.name())?;
        let Ok(answered) = peer.ping(gateway.name()) else { return Ok(false) };
        rtt = answered;
        let path = &peer.peer(gateway.name())?["path"];
        Ok(path["kind"] == "direct" && path["remote"] == external)
    })?;
    Ok(rtt)
}

/// Whether the router has a rule of miniupnpd's.
fn forwards(run: &Run, site: &Site) -> Result<bool> {
    let program =
        find_program("nft").ok_or_else(|| Failure::skipped("the program nft is missing"))?;
    let mut command = Command::new(program);
    command.args(["list", "chain", "inet", "upnp", "prerouting_miniupnpd"]);
    let finished = finish("nft-list", site.outermost(), run.logs(), &mut command, LIMIT)?;
    if finished.success() {
        return Ok(finished.stdout.contains("dnat"));
    }
    Err(Failure::expectation(format!("nft list: {}", finished.stderr.trim())))
}
