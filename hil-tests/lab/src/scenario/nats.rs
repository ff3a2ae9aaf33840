//! Every NAT box of the laboratory, seen from behind it: it is what its name says.

mod probe;

use std::net::Ipv4Addr;
use std::thread;

use serde_json::{Value, json};

use super::Stage;
use crate::failure::{Failure, Result};
use crate::internet::{Families, Internet, Plan};
use crate::nat::{Kind, SMALL_TABLE};
use crate::process::find_program;
use crate::site::{Site, SitePlan};
use probe::{Prober, Seen};

/// The server, with two addresses.
const SERVER: &str = "server";
pub(super) const SERVERS: [u8; 2] = [10, 11];
/// Sites have the numbers from here on.
const FIRST_SITE: u8 = 30;
/// Sites whose hosts have public IPv6 addresses besides.
const WITH_IPV6: [Kind; 2] = [Kind::Prc, Kind::Cgnat];

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    if find_program("nft").is_none() {
        return Err(
            Failure::skipped("the program nft is missing").line("try", "apt-get install nftables")
        );
    }
    let mut skipped = Vec::new();
    let mut plans = Vec::new();
    for (kind, number) in Kind::MATRIX.into_iter().chain(Kind::FURTHER).zip(FIRST_SITE..) {
        if find_program(kind.needs()).is_none() {
            let reason = format!("the program {} is missing", kind.needs());
            stage.story.skipped(kind.name(), &reason);
            skipped.push(json!({"name": kind.name(), "reason": reason}));
            continue;
        }
        let ipv6 = WITH_IPV6.contains(&kind);
        plans.push(SitePlan { hosts: 2, ipv6, ..SitePlan::new(kind, number) });
    }
    let plan = Plan {
        hosts: &[(SERVER, SERVERS[0])],
        further: &[(SERVER, SERVERS[1])],
        sites: &plans,
        seed: stage.options.seed.unwrap_or(1),
        ..Plan::new("core", Families::Both)
    };
    let internet = Internet::of(stage.run, &plan)?;
    stage.story.done("internet", &format!("a server and {} sites", plans.len()), None);
    let all = look(&internet)?;
    let document = tell(stage, &internet, &all)?;
    restart(stage, &internet, &mut skipped)?;
    let passed = all.len() + 1 - usize::from(skipped.iter().any(|one| one["name"] == RESTART));
    Ok(json!({"passed": passed, "failed": 0, "skipped": skipped, "types": document}))
}

/// Looks at all sites at once.
fn look(internet: &Internet) -> Result<Vec<(Kind, Result<Seen>)>> {
    let server = internet.host(SERVER)?.namespace();
    thread::scope(|scope| {
        let looks: Vec<_> = internet
            .sites()
            .iter()
            .map(|site| {
                let look = move || Prober::open(server, site)?.look();
                (site.plan.kind, scope.spawn(look))
            })
            .collect();
        let panicked = |_| Err(Failure::new("lab.internal", "a prober panicked"));
        let join = |(kind, look): (_, thread::ScopedJoinHandle<'_, _>)| {
            (kind, look.join().unwrap_or_else(panicked))
        };
        Ok(looks.into_iter().map(join).collect())
    })
}

fn tell(
    stage: &mut Stage<'_>,
    internet: &Internet,
    all: &[(Kind, Result<Seen>)],
) -> Result<Vec<Value>> {
    let mut wrong = Vec::new();
    let mut document = Vec::new();
    stage.story.line(&row("type", &Seen::TITLES.map(str::to_owned)));
    for (kind, seen) in all {
        let seen = match seen {
            Ok(seen) => seen,
            Err(failure) if failure.is_stop() => return Err(Failure::stopped()),
            Err(failure) => {
                stage.story.failed(kind.name(), failure.message());
                wrong.push(format!("{}: {}", kind.name(), failure.message()));
                continue;
            }
        };
        stage.story.line(&row(kind.name(), &seen.words()));
        let expected = expected(*kind, internet.site(kind.name())?);
        if *seen != expected {
            let [seen, expected] = [seen, &expected].map(|seen| seen.words().join(", "));
            wrong.push(format!("{} is {seen}, not {expected}", kind.name()));
        }
        let mut entry = seen.json();
        entry["type"] = kind.name().into();
        document.push(entry);
    }
    if wrong.is_empty() {
        return Ok(document);
    }
    Err(Failure::expectation(wrong.join("; ")))
}

fn row(name: &str, words: &[String; 5]) -> String {
    let [mapping, ports, filtering, hairpin, more] = words;
    let line =
        format!("  {name:<13} {mapping:<12} {ports:<13} {filtering:<13} {hairpin:<8} {more}");
    line.trim_end().to_owned()
}

/// Kinds behind their names.
fn expected(kind: Kind, site: &Site) -> Seen {
    const ANY: &str = "endpoint";
    const BY_ADDRESS: &str = "address";
    const BY_BOTH: &str = "address+port";
    let (mapping, ports, filtering) = match kind {
        Kind::Open | Kind::FullCone | Kind::ConeHairpin => (ANY, "kept", ANY),
        Kind::AdCone => (ANY, "kept", BY_ADDRESS),
        Kind::SymSeq => (BY_BOTH, "step 1", BY_BOTH),
        Kind::SymSeq2 => (BY_BOTH, "step 2", BY_BOTH),
        Kind::SymWin => (BY_BOTH, "block of 512", BY_BOTH),
        Kind::SymRand => (BY_BOTH, "random", BY_BOTH),
        Kind::SymEif => (BY_BOTH, "random", ANY),
        Kind::Cgnat | Kind::Block => (ANY, "block of 512", BY_BOTH),
        Kind::Moved => (ANY, "moved", BY_BOTH),
        Kind::AdMap => (BY_ADDRESS, "moved", BY_BOTH),
        Kind::Blocked | Kind::SixOpen | Kind::SixFw => {
            return Seen { more: vec!["TCP passes".to_owned()], ..Seen::NOTHING };
        }
        Kind::Prc
        | Kind::NoFw
        | Kind::Udp443
        | Kind::PrcHairpin
        | Kind::Double
        | Kind::Nat64
        | Kind::Short
        | Kind::Small => (ANY, "kept", BY_BOTH),
    };
    let mut more = Vec::new();
    match kind {
        Kind::NoFw => more.push("spoiled by who comes first".to_owned()),
        Kind::Udp443 => more.push("ports 53 and 443 only".to_owned()),
        Kind::Short => more.push("lives 2 s, not 4 s".to_owned()),
        Kind::Small => more.push(format!("{SMALL_TABLE} flows at most")),
        _ => {}
    }
    if site.plan.ipv6 {
        more.push("IPv6 firewalled".to_owned());
    }
    let hairpin = Some(matches!(kind, Kind::ConeHairpin | Kind::PrcHairpin));
    Seen { mapping, ports, filtering, hairpin, more }
}

/// The name of what [`restart`] shows.
const RESTART: &str = "restart";

/// A box that restarts has forgotten its mappings.
fn restart(stage: &mut Stage<'_>, internet: &Internet, skipped: &mut Vec<Value>) -> Result<()> {
    if find_program("conntrack").is_none() {
        let reason = "the program conntrack is missing";
        stage.story.skipped(RESTART, reason);
        skipped.push(json!({"name": RESTART, "reason": reason}));
        return Ok(());
    }
    let site = internet.site(Kind::Prc.name())?;
    let prober = Prober::open(internet.host(SERVER)?.namespace(), site)?;
    prober.forgets(|| site.forget(stage.run))?;
    stage.story.done(RESTART, "prc forgets its mappings", None);
    Ok(())
}

/// An address of the server.
pub(super) fn server(address: usize) -> Ipv4Addr {
    crate::internet::ipv4(SERVERS[address])
}
