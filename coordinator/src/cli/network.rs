//! `network`, `why-not`, `audit`, `metrics`.

use std::collections::BTreeMap;

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::api;
use crate::failure::Failure;

use super::client::segment;
use super::format::{Column, print_table, span};
use super::remote::Context;
use super::ui;

/// Flags of `network`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Network {
    /// Show one; nothing = list all
    name: Option<String>,
}

/// Flags of `why-not`.
#[derive(Debug, ClapArgs)]
pub(crate) struct WhyNot {
    /// Like XMUG-3JSC-LGSF-7XZL, as weft join shows it
    fingerprint: String,
}

/// Flags of `audit`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Audit {
    /// Show rows after this place
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// Check the chain instead
    #[arg(long)]
    verify: bool,
}

#[derive(serde::Serialize)]
struct Items<T> {
    items: Vec<T>,
}

pub(super) async fn run(context: &Context<'_>, wanted: &Network) -> Result<u8, Failure> {
    let items: Vec<api::Network> = match &wanted.name {
        Some(name) => {
            vec![context.client.get(&format!("/api/v1/networks/{}", segment(name))).await?]
        }
        None => context.client.get("/api/v1/networks").await?,
    };
    if context.json {
        ui::json("weft.networks/1", &Items { items });
        return Ok(0);
    }
    let columns = [
        Column { head: "NAME", rank: 0 },
        Column { head: "IPV4", rank: 0 },
        Column { head: "IPV6", rank: 0 },
        Column { head: "DEVICES", rank: 0 },
        Column { head: "LEASE", rank: 2 },
        Column { head: "MTU", rank: 3 },
        Column { head: "MAP", rank: 4 },
    ];
    let rows: Vec<_> = items
        .iter()
        .map(|network| {
            let lease = span(core::time::Duration::from_secs(u64::from(network.lease_s)));
            vec![
                network.name.clone(),
                network.ipv4.clone(),
                network.ipv6.clone(),
                format!("{} of {}", network.members, network.capacity),
                lease,
                network.mtu.to_string(),
                network.map_revision.to_string(),
            ]
        })
        .collect();
    print_table(&columns, &rows);
    Ok(0)
}

pub(super) async fn why_not(context: &Context<'_>, wanted: &WhyNot) -> Result<u8, Failure> {
    let path = format!("/api/v1/fingerprints/{}", segment(&wanted.fingerprint));
    let answer: api::WhyNot = context.client.get(&path).await?;
    if context.json {
        ui::json("weft.why-not/1", &answer);
    } else {
        ui::out(&answer.sentence);
        if let Some(attempt) = &answer.attempt {
            ui::out(format!("  try:  {attempt}"));
        }
    }
    Ok(u8::from(!answer.member))
}

#[derive(Serialize)]
struct Samples {
    samples: BTreeMap<String, u64>,
}

pub(super) async fn metrics(context: &Context<'_>) -> Result<u8, Failure> {
    let page = context.client.get_text("/metrics").await?;
    if !context.json {
        ui::out_raw(&page);
        return Ok(0);
    }
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    ui::json("weft.metrics/1", &Samples { samples: lines.filter_map(sample).collect() });
    Ok(0)
}

pub(super) async fn audit(context: &Context<'_>, wanted: &Audit) -> Result<u8, Failure> {
    if wanted.verify {
        let check: api::AuditCheck = context.client.get("/api/v1/audit-events/verify").await?;
        let sentence = match check.broken_at {
            None => format!("the chain holds: {} rows", check.rows),
            Some(seq) => {
                format!("the chain is broken at row {seq}; {} rows before it hold", check.rows)
            }
        };
        if context.json {
            ui::json("weft.audit-check/1", &check);
        } else {
            ui::out(sentence);
        }
        return Ok(u8::from(check.broken_at.is_some()));
    }
    let mut items: Vec<api::AuditEvent> = Vec::new();
    loop {
        let after = items.last().map_or(wanted.after, |row| row.seq);
        let path = format!("/api/v1/audit-events?limit=500&after={after}");
        let mut page: Vec<api::AuditEvent> = context.client.get(&path).await?;
        if page.is_empty() {
            break;
        }
        items.append(&mut page);
    }
    if context.json {
        ui::json("weft.audit/1", &Items { items });
        return Ok(0);
    }
    let columns = [
        Column { head: "SEQ", rank: 0 },
        Column { head: "AT", rank: 0 },
        Column { head: "WHO", rank: 1 },
        Column { head: "ACTION", rank: 0 },
        Column { head: "SUBJECT", rank: 2 },
        Column { head: "FACTS", rank: 3 },
    ];
    let rows: Vec<_> = items
        .iter()
        .map(|row| {
            let facts = row.detail.iter().map(|(name, value)| format!("{name}={value}"));
            let facts = facts.collect::<Vec<_>>().join(" ");
            vec![
                row.seq.to_string(),
                row.at.clone(),
                row.actor.clone(),
                row.action.clone(),
                row.subject.clone(),
                facts,
            ]
        })
        .collect();
    print_table(&columns, &rows);
    Ok(0)
}
