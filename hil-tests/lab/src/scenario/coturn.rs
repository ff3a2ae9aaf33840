//! Gateways whose only relay is Debian's coturn: by UDP where only the way between the
//! two sites is cut, by TCP where nothing but that leaves either site.

use std::time::Duration;

use serde_json::{Value, json};

use super::{RELAY, Stage, is_relayed};
use crate::failure::{Failure, Result};
use crate::internet::{Families, Internet, Plan};
use crate::measure::{pings, wait_until};
use crate::mesh::{Coordinator, Gateway, PORT};
use crate::nat::Kind;
use crate::process::find_program;
use crate::relay::Relay;
use crate::sight::{Cause, Known};
use crate::site::{SitePlan, UPLINK};
use crate::watch::Watch;

/// The pairs, and the kind of box that both of one are behind.
const PAIRS: [(&str, [&str; 2], Kind); 2] =
    [("udp", ["udp-a", "udp-b"], Kind::Prc), ("tcp", ["tcp-a", "tcp-b"], Kind::Blocked)];
const PINGS: u32 = 100;
const LIMIT: Duration = Duration::from_secs(1);
/// For the first one.
const KNOWN: Duration = Duration::from_secs(60);

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    for program in ["nft", "turnserver"] {
        if find_program(program).is_none() {
            return Err(Failure::skipped(format!("the program {program} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let names = PAIRS.iter().flat_map(|(_, names, kind)| names.map(|name| (name, *kind)));
    let site = |((name, kind), number): ((&str, Kind), u8)| SitePlan {
        name: name.to_owned(),
        ..SitePlan::new(kind, number)
    };
    let sites: Vec<SitePlan> = names.zip(30..).map(site).collect();
    let plan =
        Plan { hosts: &[("coord", 10), RELAY], sites: &sites, ..Plan::new("core", Families::Ipv4) };
    let internet = Internet::of(stage.run, &plan)?;
    for (_, pair, _) in PAIRS {
        internet.set_cut_between(pair, true)?;
    }
    stage.story.done("internet", "four sites, no way between those of a pair", None);
    let relay = Relay::coturn(stage.run, internet.host(RELAY.0)?, "udp = [3478]\ntcp = 3478")?;
    let host = internet.host("coord")?;
    let coordinator =
        Coordinator::start_with(stage.run, host, host.ipv4(), Vec::new(), &relay.section)?;
    let key = coordinator.join_string("coturn", sites.len() as u32)?;
    let known = Known {
        coordinator: vec![(host.ipv4(), PORT).into()],
        relays: vec![internet.host(RELAY.0)?.ipv4()],
    };
    let mut document = json!({});
    for (way, pair, _) in PAIRS {
        let join = |name: &str| {
            let host = internet.site(name)?.host();
            Gateway::join(stage.run, host, &key, "")
        };
        let (a, b) = (join(pair[0])?, join(pair[1])?);
        let told = talk(stage, &a, &b, &known, way);
        stage.processes.extend([a.process, b.process]);
        match told {
            Ok(told) => document[way] = told,
            Err(failure) => {
                stage.processes.extend([relay.process, coordinator.process]);
                return Err(failure);
            }
        }
    }
    stage.processes.extend([relay.process, coordinator.process]);
    document["passed"] = PAIRS.len().into();
    Ok(document)
}

fn talk(
    stage: &mut Stage<'_>,
    a: &Gateway,
    b: &Gateway,
    known: &Known,
    way: &str,
) -> Result<Value> {
    let watch = Watch::start(a.namespace(), &[UPLINK], known)?;
    // That no UDP leaves a network is known some seconds after the start, and until then
    // one side does not use what the other's relay keeps for it.
    let took = wait_until(KNOWN, "the first ping is answered", || Ok(a.ping(b.name()).is_ok()))?;
    is_relayed(a, b)?;
    let answers = pings(a.namespace(), b.addresses.ipv4, PINGS, LIMIT)?;
    let carried = watch.tally(|(cause, _, _)| *cause == Cause::Relay);
    let straight = watch.tally(|(cause, _, leaves)| *cause == Cause::Payload && !*leaves);
    watch.end()?;
    let (carried, straight) =
        (carried.map_or(0, |all| all.packets), straight.map_or(0, |all| all.packets));
    let words = format!("{} of {PINGS} answered, by {way}", answers.received());
    stage.story.done(way, &words, answers.median());
    if answers.lost() > 0 || straight > 0 || carried < u64::from(PINGS) {
        return Err(Failure::expectation(format!(
            "by {way}: {} of {PINGS} answered, {carried} packets with coturn, {straight} straight",
            answers.received()
        )));
    }
    is_relayed(a, b)?;
    Ok(json!({
        "first_ms": took.as_millis() as u64,
        "sent": answers.sent,
        "answered": answers.received(),
        "rtt_us": answers.median().map(|time| time.as_micros() as u64),
        "packets_with_relay": carried,
    }))
}
