//! Our real daemon against other people's WireGuard: wireguard-go in
//! namespaces and the kernel's in an emulated machine.
//!
//! One gateway, one peer without agent per cell, made by `weft-coordinator
//! device add-wireguard`. All cells run at once, since those where the other
//! side keeps the time need its 120 s twice.

mod cell;
mod partner;

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::Stage;
use crate::clock;
use crate::failure::{Failure, Result};
use crate::guest::{Guest, Parts};
use crate::internet::{Attached, Families, Host, Internet};
use crate::mesh::{Coordinator, Gateway};
use crate::net::signal;
use crate::{ui, wireguard};

use cell::{Cell, Found, Kind};
use partner::Partner;

/// The emulated machine.
const KERNEL: Attached = Attached { name: "kernel", number: 60 };
/// Our side starts a new handshake so soon, instead of after 120 s.
const SETTINGS: &str = "[tunnel]\nrekey_after_s = 10\n";
/// Until the gateway has heard of all peers.
const TOLD: Duration = Duration::from_secs(20);

pub(super) fn play(stage: &mut Stage<'_>) -> Result<Value> {
    let short = stage.options.short;
    let parts = Parts::find();
    let missing = wireguard::missing_program();
    let go = missing.is_none();
    let mut skipped = Vec::new();
    if let Err(reason) = &parts {
        skipped.push(json!({"name": "kernel-wireguard", "reason": reason.message()}));
    }
    if let Some(program) = missing {
        let reason = format!("the program {program} is missing");
        skipped.push(json!({"name": "wireguard-go", "reason": reason}));
    }
    for skip in &skipped {
        let text = |field: &str| skip[field].as_str().unwrap_or_default().to_owned();
        stage.story.skipped(&text("name"), &text("reason"));
    }
    let cells: Vec<Cell> = Cell::all(short)
        .into_iter()
        .filter(|cell| if cell.kind == Kind::Kernel { parts.is_ok() } else { go })
        .collect();
    if cells.is_empty() {
        return Err(Failure::skipped("neither wireguard-go nor a kernel to emulate is here"));
    }
    let found = on_stage(stage, &cells, parts.ok().as_ref())?;
    report(stage, &cells, &found, skipped)
}

fn on_stage(stage: &mut Stage<'_>, cells: &[Cell], parts: Option<&Parts>) -> Result<Vec<Found>> {
    let mut hosts = vec![("coord".to_owned(), 10), ("gw-a".to_owned(), 21)];
    hosts.extend(cells.iter().filter_map(Cell::host));
    let hosts: Vec<(&str, u8)> = hosts.iter().map(|(name, number)| (&**name, *number)).collect();
    let attached: &[Attached] = if parts.is_some() { &[KERNEL] } else { &[] };
    let internet = Internet::build(stage.run, "core", &hosts, attached, Families::Both)?;
    let text = format!("{}, IPv4 and IPv6, 20 ms apart", ui::count(hosts.len(), "host"));
    stage.story.done("internet", &text, None);
    let began = clock::now();
    let mut guest = match parts {
        Some(parts) => Some(Guest::start(stage.run, &internet, parts, &KERNEL)?),
        None => None,
    };
    let host = internet.host("coord")?;
    let coordinator = Coordinator::start(stage.run, host, host.ipv4())?;
    let key = coordinator.join_string("interop", 1)?;
    let gw_a = internet.host("gw-a")?;
    let gateway = Gateway::join(stage.run, gw_a, &key, SETTINGS)?;
    stage.story.done("gw-a joined", &gateway.addresses.ipv4.to_string(), None);
    if let Some(guest) = &mut guest {
        guest.ready(&KERNEL)?;
        stage.story.done("kernel", "booted in QEMU", Some(began.elapsed()));
    }
    let guest = Mutex::new(guest);
    let world = World { internet: &internet, coordinator: &coordinator, gateway: &gateway, gw_a };
    let found = world.run(stage, cells, &guest);
    if let Some(guest) = guest.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        stage.processes.push(guest.into_process());
    }
    stage.processes.extend([coordinator.process, gateway.process]);
    found
}

/// What all cells share.
struct World<'a> {
    internet: &'a Internet,
    coordinator: &'a Coordinator,
    gateway: &'a Gateway,
    gw_a: &'a Host,
}

impl World<'_> {
    fn run(
        &self,
        stage: &mut Stage<'_>,
        cells: &[Cell],
        guest: &Mutex<Option<Guest>>,
    ) -> Result<Vec<Found>> {
        let mut partners = Vec::new();
        for cell in cells {
            let host = cell.host().map(|(name, _)| name);
            let host = host.map(|name| self.internet.host(&name)).transpose()?;
            let file = self.add_device(cell, host)?;
            let partner = Partner::start(stage.run, cell, host, self.gw_a, file, guest)?;
            partners.push(partner);
        }
        self.wait_until_told(cells)?;
        let text = format!("{}, all known to gw-a", ui::count(cells.len(), "peer"));
        stage.story.done("peers", &text, None);
        let rekeys = if stage.options.short { 0 } else { 2 };
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = cells
                .iter()
                .zip(&partners)
                .map(|(cell, partner)| {
                    scope.spawn(move || partner.run(cell, self.gateway, guest, rekeys))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect::<Vec<Result<Found>>>()
        });
        stage.processes.extend(partners.into_iter().filter_map(Partner::into_process));
        found.into_iter().collect()
    }

    /// Makes the peer at the coordinator; its wg-quick file.
    fn add_device(&self, cell: &Cell, host: Option<&Host>) -> Result<partner::File> {
        let keys = wireguard::KeyPair::generate()?;
        let name = cell.name();
        let endpoint = cell.endpoint(host).to_string();
        let mut arguments = vec!["device", "add-wireguard", &name, "--public-key", &keys.public];
        if cell.we_initiate {
            arguments.extend(["--endpoint", &endpoint]);
        }
        if !cell.preshared {
            arguments.push("--no-psk");
        }
        let told = self.coordinator.command(&format!("add-{name}"), &arguments)?;
        partner::File::parse(&told.stdout, keys)
    }

    fn wait_until_told(&self, cells: &[Cell]) -> Result<()> {
        let until = clock::now() + TOLD;
        loop {
            let missing = cells.iter().find(|cell| self.gateway.peer(&cell.name()).is_err());
            let Some(missing) = missing else {
                return Ok(());
            };
            if signal::asked_to_stop() {
                return Err(Failure::stopped());
            }
            if clock::now() > until {
                let name = missing.name();
                return Err(Failure::expectation(format!("gw-a was not told of {name}")));
            }
            signal::rest(Duration::from_millis(100));
        }
    }
}

fn report(
    stage: &mut Stage<'_>,
    cells: &[Cell],
    found: &[Found],
    skipped: Vec<Value>,
) -> Result<Value> {
    let mut documents = Vec::new();
    let mut failed = Vec::new();
    for (cell, found) in cells.iter().zip(found) {
        let text = format!(
            "{} of {}, {}",
            found.pings.received(),
            found.pings.sent,
            ui::count(found.handshakes, "handshake")
        );
        match &found.wrong {
            None => stage.story.done(&cell.name(), &text, found.pings.median()),
            Some(wrong) => {
                stage.story.failed(&cell.name(), &format!("{text}: {wrong}"));
                failed.push(format!("{}: {wrong}", cell.name()));
            }
        }
        documents.push(found.json(cell));
    }
    if let Some(first) = failed.first() {
        let count = ui::count(failed.len(), "cell");
        return Err(Failure::expectation(format!("{count} failed, the first {first}")));
    }
    Ok(json!({
        "passed": documents.len(), "failed": 0, "skipped": skipped, "cells": documents,
    }))
}
