//! `sessions`: how devices reach each other.

use clap::Args as ClapArgs;

use crate::api::connections::{Attempt, Connection, Connections, Path};
use crate::failure::Failure;

use super::client::segment;
use super::format::{Column, NOTHING, age, count, millis, print_table, span};
use super::remote::Context;
use super::ui;

/// Flags of `sessions`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Sessions {
    /// Those of one device and with it; nothing = all
    device: Option<String>,
}

pub(super) async fn run(context: &Context<'_>, wanted: &Sessions) -> Result<u8, Failure> {
    let path = match &wanted.device {
        Some(device) => format!("/api/v1/devices/{}/connections", segment(device)),
        None => "/api/v1/connections".to_owned(),
    };
    let listed: Connections = context.client.get(&path).await?;
    if context.json {
        ui::json("weft.connections/1", &listed);
        return Ok(0);
    }
    let columns = [
        Column { head: "DEVICE", rank: 0 },
        Column { head: "PEER", rank: 0 },
        Column { head: "PATH", rank: 0 },
        Column { head: "SINCE", rank: 1 },
        Column { head: "RTT", rank: 2 },
        Column { head: "LAST TRY", rank: 3 },
        Column { head: "REPORTED", rank: 4 },
    ];
    let rows: Vec<_> = listed.items.iter().map(|item| row(item, context.now)).collect();
    print_table(&columns, &rows);
    Ok(0)
}

fn row(item: &Connection, now: u64) -> Vec<String> {
    let tried = item.attempt.as_ref().map_or_else(|| NOTHING.to_owned(), |one| tried(one, now));
    vec![
        item.device.name.clone(),
        item.peer.name.clone(),
        path(&item.path),
        ago(&item.path.since, now),
        item.rtt_us.map_or_else(|| NOTHING.to_owned(), rtt),
        tried,
        ago(&item.reported_at, now),
    ]
}

/// `direct 203.0.113.22:51871`, `relay fra1 udp`, `idle`, `none`.
pub(super) fn path(path: &Path) -> String {
    let detail = [&path.remote, &path.relay, &path.rung].into_iter().flatten();
    detail.fold(path.kind.clone(), |text, detail| format!("{text} {detail}"))
}

pub(super) fn rtt(us: u64) -> String {
    span(core::time::Duration::from_micros(us))
}

pub(super) fn ago(at: &str, now: u64) -> String {
    millis(at).map_or_else(|| NOTHING.to_owned(), |at| age(now, at))
}

/// `0 of 4 answered, 4 min ago`.
fn tried(attempt: &Attempt, now: u64) -> String {
    format!("{}, {}", outcome(attempt), ago(&attempt.at, now))
}

/// What came of an attempt.
pub(super) fn outcome(attempt: &Attempt) -> String {
    match attempt.outcome.as_deref() {
        Some("found") if attempt.took_ms == 0 => "found".to_owned(),
        Some("found") => {
            let took = span(core::time::Duration::from_millis(attempt.took_ms));
            format!("found in {took}")
        }
        Some("predicted") => format!("found at the predicted port, guess {}", attempt.sent),
        Some("searched") => format!("found by a search of {}", count(attempt.sent.into(), "probe")),
        Some("refused") => "nothing answered, and relays refuse this device".to_owned(),
        Some("no_answer" | "not_searched") => {
            let addresses = if attempt.tried == 1 { "address" } else { "addresses" };
            let (answered, tried, sent) = (attempt.answered, attempt.tried, attempt.sent);
            format!("{answered} of {tried} {addresses} answered ({sent} sent)")
        }
        Some("no_ack") => "the call was not answered".to_owned(),
        Some("offline") => "the peer was offline".to_owned(),
        Some("denied") => "no rule allowed the call".to_owned(),
        Some("no_candidate") => "the peer named no address".to_owned(),
        Some("no_handshake") => {
            let sent = count(usize::from(attempt.sent), "initiation");
            format!("the handshake was not answered ({sent})")
        }
        Some("lost") => "the direct way stopped answering".to_owned(),
        Some(other) => other.to_owned(),
        None => NOTHING.to_owned(),
    }
}
