//! Our relay, and coturn's own clients: `turnutils_uclient` in each of its ways
//! with nothing lost, `turnutils_natdiscovery`, and a user that is turned away.
//!
//! Cells need no time of ours: each is one program that ends by itself, and says
//! how many packets it sent and got back.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::failure::{During, Failure, Result};
use crate::internet::{Families, Host, Internet};
use crate::mesh::program;
use crate::process::{Finished, Process, finish};
use crate::run::ip_output;

/// For a start, and for a client that sends a few hundred packets.
const LIMIT: Duration = Duration::from_secs(60);
const SECRET: &str = "the laboratory's secret";
/// Clients of a cell, packets of each.
const CLIENTS: usize = 4;
const PACKETS: usize = 100;

/// One way to use the relay.
struct Cell {
    name: &'static str,
    /// Beside those of every cell.
    arguments: &'static [&'static str],
    /// Whether the packets are echoed by a peer that speaks no TURN.
    with_peer: bool,
}

const CELLS: &[Cell] = &[
    Cell { name: "udp-channel-peer", arguments: &[], with_peer: true },
    Cell { name: "udp-send-peer", arguments: &["-s"], with_peer: true },
    Cell { name: "udp-channel-pair", arguments: &["-y"], with_peer: false },
    Cell { name: "udp-send-pair", arguments: &["-y", "-s"], with_peer: false },
    Cell { name: "tcp-channel-peer", arguments: &["-t"], with_peer: true },
    Cell { name: "tcp-send-pair", arguments: &["-t", "-y", "-s"], with_peer: false },
    Cell { name: "tls-channel-peer", arguments: &["-t", "-S", "-p", "443"], with_peer: true },
    Cell {
        name: "tls-channel-pair",
        arguments: &["-t", "-S", "-p", "443", "-y"],
        with_peer: false,
    },
];

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    for tool in ["turnutils_uclient", "turnutils_peer", "turnutils_natdiscovery"] {
        if Command::new(tool).arg("-h").output().is_err() {
            return Err(Failure::skipped(format!("the program {tool} is missing"))
                .line("try", "cross/setup test"));
        }
    }
    let hosts = [("relay", 10), ("client", 21), ("peer", 22)];
    let internet = Internet::build(stage.run, "core", &hosts, &[], Families::Both)?;
    let relay = internet.host("relay")?;
    ip_output(relay.namespace(), &["address", "add", "203.0.113.11/24", "dev", "eth0"])
        .during("give the relay a second address")?;
    let server = start(stage, relay)?;
    let mut command = Command::new("turnutils_peer");
    command.args(["-p", "3480", "-L"]).arg(internet.host("peer")?.ipv4().to_string());
    let echo =
        Process::start("peer", internet.host("peer")?.namespace(), stage.run.logs(), &mut command)?;
    stage.story.done("relay", "listens, on two addresses and two ports", None);
    let client = internet.host("client")?;
    let mut cells = Vec::new();
    for cell in CELLS {
        cells.push(relayed(stage, &internet, cell)?);
    }
    cells.push(discovered(stage, client, relay)?);
    cells.push(turned_away(stage, client, relay)?);
    stage.processes.extend([server, echo]);
    Ok(json!({"passed": cells.len(), "failed": 0, "skipped": [], "cells": cells}))
}

fn start(stage: &Stage<'_>, host: &Host) -> Result<Process> {
    let folder = stage.run.folder();
    let (secret, settings) = (folder.join("relay.secret"), folder.join("relay.toml"));
    let ip = host.ipv4();
    let text = format!(
        "listen = [\"{ip}:3478\"]\nlisten_tcp = [\"{ip}:3478\"]\nlisten_tls = [\"{ip}:443\"]\n[relay]\naddresses = [\"{ip}\"]\n\
         [auth]\nsecret_files = [\"{}\"]\n\
         [discovery]\nother_port = 3479\nother_address = \"203.0.113.11\"\n",
        secret.display()
    );
    fs::write(&secret, SECRET).during("write the relay's secret")?;
    fs::write(&settings, text).during("write the relay's settings")?;
    let mut command = Command::new(program("weft-relay")?);
    command.arg("--config").arg(&settings);
    let server = Process::start("relay", host.namespace(), stage.run.logs(), &mut command)?;
    let ready = |line: &str| line.starts_with("turn ").then_some(());
    server.wait_for(0, LIMIT, "that it relays", ready)?;
    Ok(server)
}

fn uclient(
    stage: &Stage<'_>,
    host: &Host,
    name: &str,
    secret: &str,
    arguments: &[String],
) -> Result<Finished> {
    let mut command = Command::new("turnutils_uclient");
    command.args(["-u", "device@org", "-W", secret, "-l", "200", "-z", "5"]).args(arguments);
    finish(name, host.namespace(), stage.run.logs(), &mut command, LIMIT)
}

fn relayed(stage: &mut Stage<'_>, internet: &Internet, cell: &Cell) -> Result<Value> {
    let relay = internet.host("relay")?.ipv4().to_string();
    let (clients, packets) = (CLIENTS.to_string(), PACKETS.to_string());
    let mut arguments: Vec<String> =
        ["-m", &clients, "-n", &packets].iter().map(|text| (*text).to_owned()).collect();
    arguments.extend(cell.arguments.iter().map(|text| (*text).to_owned()));
    if cell.with_peer {
        let peer = internet.host("peer")?.ipv4().to_string();
        arguments.extend(["-e".to_owned(), peer, "-r".to_owned(), "3480".to_owned()]);
    }
    arguments.push(relay);
    let finished = uclient(stage, internet.host("client")?, cell.name, SECRET, &arguments)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    let count = |word: &str| {
        let text = said.rsplit_once(word)?.1;
        text.split(|letter: char| !letter.is_ascii_digit()).next()?.parse::<usize>().ok()
    };
    let (sent, back) = (count("tot_send_msgs="), count("tot_recv_msgs="));
    let all = Some(CLIENTS * PACKETS);
    if !finished.success() || sent != all || back != all {
        return Err(Failure::expectation(format!(
            "{}: {sent:?} sent and {back:?} back, {} were expected",
            cell.name,
            CLIENTS * PACKETS
        )));
    }
    stage.story.done(
        cell.name,
        &format!("{} of {} came back", CLIENTS * PACKETS, CLIENTS * PACKETS),
        None,
    );
    Ok(json!({"name": cell.name, "sent": sent, "received": back}))
}

/// RFC 5780's questions, to a server that has all four answers.
fn discovered(stage: &mut Stage<'_>, client: &Host, relay: &Host) -> Result<Value> {
    let mut command = Command::new("turnutils_natdiscovery");
    command.args(["-m", "-f"]).arg(relay.ipv4().to_string());
    let (namespace, logs) = (client.namespace(), stage.run.logs());
    let finished = finish("natdiscovery", namespace, logs, &mut command, LIMIT)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for expected in
        ["No NAT detected|Endpoint Independent Mapping", "Endpoint Independent Filtering"]
    {
        if !expected.split('|').any(|text| said.contains(text)) {
            return Err(Failure::expectation(format!("natdiscovery did not say: {expected}")));
        }
    }
    stage.story.done("natdiscovery", "mapping and filtering are found", None);
    Ok(json!({"name": "natdiscovery"}))
}

/// Somebody with another secret is not relayed.
fn turned_away(stage: &mut Stage<'_>, client: &Host, relay: &Host) -> Result<Value> {
    let arguments = ["-y", "-n", "1", &relay.ipv4().to_string()].map(str::to_owned);
    let finished = uclient(stage, client, "wrong-secret", "some other secret", &arguments)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    if finished.success() || !said.contains("Cannot complete Allocation") {
        return Err(Failure::expectation("a user with a wrong password was relayed"));
    }
    stage.story.done("wrong-secret", "is turned away", None);
    Ok(json!({"name": "wrong-secret"}))
}
