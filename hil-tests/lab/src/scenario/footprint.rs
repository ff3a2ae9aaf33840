//! Memory of a gateway that talks to two peers.

use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::failure::{Failure, Result};
use crate::internet::{Families, Internet};
use crate::measure::pings;
use crate::mesh::{Coordinator, Gateway, rss_kib};

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let hosts = [("coord", 10), ("gw-a", 21), ("gw-b", 22), ("gw-c", 23)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    stage.story.done("internet", "core, coord, gw-a, gw-b, gw-c", None);
    let host = internet.host("coord")?;
    let coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("footprint", 3)?;
    let mut gateways = Vec::new();
    for name in ["gw-a", "gw-b", "gw-c"] {
        gateways.push(Gateway::join(stage.run, internet.host(name)?, &key, "")?);
    }
    let measured = measure(stage, &gateways);
    let memory = rss_kib(&coordinator.process);
    stage.processes.push(coordinator.process);
    stage.processes.extend(gateways.into_iter().map(|gateway| gateway.process));
    let rss = measured?;
    Ok(json!({"rss_kib": rss, "coordinator_rss_kib": memory?}))
}

fn measure(stage: &mut Stage<'_>, gateways: &[Gateway]) -> Result<u64> {
    let Some((first, others)) = gateways.split_first() else {
        return Err(Failure::new("lab.internal", "three gateways joined"));
    };
    for other in others {
        for target in [other.addresses.ipv4, other.addresses.ipv6] {
            let answers = pings(first.namespace(), target, 50, Duration::from_secs(5))?;
            let text = format!("{target}, {} of {}", answers.received(), answers.sent);
            stage.story.done("ping", &text, answers.median());
            if answers.lost() > 0 {
                return Err(Failure::expectation(format!("{} did not answer", other.name())));
            }
        }
    }
    let rss = first.rss_kib()?;
    stage.story.done("memory", &format!("{} with two peers: {rss} KiB", first.name()), None);
    Ok(rss)
}
