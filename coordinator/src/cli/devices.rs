//! `device …`.

mod data;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use zeroize::Zeroizing;

use crate::api;
use crate::failure::{Code, Failure, Label};

use super::approve::{self, Approve};
use super::client::segment;
use super::confirm::{Effect, confirm};
use super::format::{
    Column, NOTHING, age, count, millis, moment, moment_exact, print_table, span, traffic,
};
use super::remote::Context;
use super::{CONFIRM_WAIT, keys, network_report, tombstones, ui};

const PATH: &str = "/api/v1/devices";
/// How long the command line waits for a new key to be in use: a device writes
/// a map down at most once a second, and confirms two of them.
const ROTATE_WAIT: core::time::Duration = core::time::Duration::from_secs(10);

/// What to do with devices.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show devices that a search fits
    List {
        /// Like `status:online -tag:site=lab gw`; nothing = all
        #[arg(allow_hyphen_values = true, value_name = "SEARCH")]
        search: Vec<String>,
        /// Those whose identities do not come back
        #[arg(long, conflicts_with = "search")]
        deleted: bool,
    },
    /// Show everything about one
    Show(Name),
    /// Let waiting devices in
    Approve(Approve),
    /// Tell a waiting device no
    Reject(Reasoned),
    /// Give another name
    Rename {
        /// Name, address or id
        device: String,
        /// The new name
        name: String,
    },
    /// Set what an operator may set of one
    Set(Set),
    /// Shut a device out until it is unblocked
    Block(Reasoned),
    /// Let a blocked device in again
    Unblock(Name),
    /// End the quarantine of a device's copy
    Release(Name),
    /// Take a device out for good
    Delete(Confirmed),
    /// Let a deleted device's identity enrol again
    Forget {
        /// The name or id that it had, or its fingerprint
        device: String,
    },
    /// Give a device another WireGuard key, while its tunnels go on
    RotateKey(RotateKey),
    /// Tell a device to do something
    #[command(name = "command")]
    Tell {
        /// Name, address or id
        device: String,
        /// What to do
        command: DeviceCommand,
    },
    /// Add a peer without an agent: phones, routers, stock WireGuard
    AddWireguard(AddWireGuard),
}

/// What a device can be told.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DeviceCommand {
    /// Restart the agent
    Restart,
    /// Look at its network, and say what it found
    Netcheck,
}

/// A device.
#[derive(Debug, ClapArgs)]
pub(crate) struct Name {
    /// Name, address or id
    device: String,
}

/// A device, and how it is to be.
#[derive(Debug, ClapArgs)]
pub(crate) struct Set {
    /// Name, address or id
    device: String,
    /// Bytes a day for all but payload, where they cost money, as 1MB; `none` ends it
    #[arg(long, value_name = "SIZE", required = true, value_parser = data::budget)]
    data_budget: data::Budget,
}

/// A device and a sentence.
#[derive(Debug, ClapArgs)]
pub(crate) struct Reasoned {
    /// Name, address or id
    device: String,
    /// A sentence that the device is told
    #[arg(long, default_value = "")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// A device, and whether to ask.
#[derive(Debug, ClapArgs)]
pub(crate) struct Confirmed {
    /// Name, address or id
    device: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// A device, and whether its key change is to be given up.
#[derive(Debug, ClapArgs)]
pub(crate) struct RotateKey {
    /// Name, address or id
    device: String,
    /// Give up the key change that is under way
    #[arg(long)]
    withdraw: bool,
}

/// Flags of `device add-wireguard`.
#[derive(Debug, ClapArgs)]
pub(crate) struct AddWireGuard {
    /// Its name
    name: String,
    /// Its public key, as wg pubkey prints it
    #[arg(long, value_name = "KEY")]
    public_key: String,
    /// Where it listens, if it has a fixed place
    #[arg(long, value_name = "ADDR:PORT")]
    endpoint: Option<String>,
    /// Use no preshared keys
    #[arg(long)]
    no_psk: bool,
    /// A tag; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<String>,
    /// Its network
    #[arg(long)]
    network: Option<String>,
}

pub(super) async fn run(context: &Context<'_>, command: &Command) -> Result<u8, Failure> {
    match command {
        Command::List { deleted: true, .. } => tombstones::list(context).await,
        Command::List { search, .. } => list(context, &search.join(" ")).await,
        Command::Show(name) => show(context, &name.device).await,
        Command::Approve(wanted) => approve::run(context, wanted).await,
        Command::Unblock(name) => {
            let action = act(context, &name.device, "unblock", "", CONFIRM_WAIT).await?;
            report(context, &action, &unblocked(&action));
            Ok(0)
        }
        Command::Reject(reject) => {
            let action =
                act(context, &reject.device, "reject", &reject.reason, CONFIRM_WAIT).await?;
            report(context, &action, &format!("{} rejected", action.name));
            Ok(0)
        }
        Command::Release(name) => {
            let action = act(context, &name.device, "release", "", CONFIRM_WAIT).await?;
            let sentence = format!(
                "{} released: its copy may be the device again; if both go on, the later is \
                 quarantined anew",
                action.name
            );
            report(context, &action, &sentence);
            Ok(0)
        }
        Command::Forget { device } => tombstones::forget(context, device).await,
        Command::Block(reasoned) => block(context, reasoned).await,
        Command::Rename { device, name } => rename(context, device, name).await,
        Command::Set(set) => data::set(context, &set.device, set.data_budget).await,
        Command::Delete(confirmed) => delete(context, confirmed).await,
        Command::RotateKey(rotate) => rotate_key(context, rotate).await,
        Command::Tell { device, command } => self::command(context, device, *command).await,
        Command::AddWireguard(add) => add_wireguard(context, add).await,
    }
}

fn path_of(device: &str) -> String {
    format!("{PATH}/{}", segment(device))
}

async fn find(context: &Context<'_>, device: &str) -> Result<api::Device, Failure> {
    context.client.get(&path_of(device)).await
}

/// All devices that a search fits, page by page.
pub(super) async fn every(
    context: &Context<'_>,
    search: &str,
) -> Result<api::Page<api::Device>, Failure> {
    let mut all: Option<api::Page<api::Device>> = None;
    loop {
        let cursor = all.as_ref().and_then(|page| page.next_cursor.clone());
        let mut path = format!("{PATH}?limit=500&q={}", segment(search));
        if let Some(cursor) = &cursor {
            path.push_str(&format!("&cursor={}", segment(cursor)));
        }
        let mut page: api::Page<api::Device> = context.client.get(&path).await?;
        if let Some(before) = all {
            page.items.splice(0..0, before.items);
        }
        let more = page.next_cursor.is_some();
        all = Some(page);
        if !more {
            break;
        }
    }
    all.ok_or_else(|| Failure::new(Code::InternalFault, "the list was lost"))
}

async fn list(context: &Context<'_>, search: &str) -> Result<u8, Failure> {
    let page = every(context, search).await?;
    if context.json {
        ui::json("weft.devices/1", &page);
        return Ok(0);
    }
    let columns = [
        Column { head: "NAME", rank: 0 },
        Column { head: "ADDRESS", rank: 0 },
        Column { head: "STATUS", rank: 0 },
        Column { head: "D/R/I", rank: 3 },
        Column { head: "VERSION", rank: 4 },
        Column { head: "SEEN", rank: 1 },
        Column { head: "TAGS", rank: 2 },
    ];
    let rows: Vec<_> = page.items.iter().map(|device| row(device, context.now)).collect();
    print_table(&columns, &rows);
    let word = if page.total == 1 { "device" } else { "devices" };
    ui::note(format!("{} of {} {word}", page.matched, page.total));
    Ok(0)
}

fn or_nothing(value: Option<String>) -> String {
    value.filter(|value| !value.is_empty()).unwrap_or_else(|| NOTHING.to_owned())
}

/// `online`, or `online, cloned` where another machine uses its identity.
fn status(device: &api::Device) -> String {
    let status = device.status.clone().unwrap_or_else(|| device.kind.clone());
    if device.copy.is_some() { format!("{status}, cloned") } else { status }
}

fn row(device: &api::Device, now: u64) -> Vec<String> {
    let seen = device.last_seen.as_deref().and_then(millis).map(|then| age(now, then));
    let paths =
        device.path_summary.map(|paths| format!("{}/{}/{}", paths.direct, paths.relay, paths.idle));
    vec![
        device.name.clone(),
        or_nothing(device.addresses.first().cloned()),
        or_nothing(Some(status(device))),
        or_nothing(paths),
        or_nothing(device.agent_version.clone()),
        or_nothing(seen),
        or_nothing(Some(device.tags.join(" "))),
    ]
}

/// One device with its schema.
#[derive(serde::Serialize)]
struct One<'a> {
    device: &'a api::Device,
}

async fn show(context: &Context<'_>, device: &str) -> Result<u8, Failure> {
    let device = find(context, device).await?;
    if context.json {
        ui::json("weft.device/1", &One { device: &device });
        return Ok(0);
    }
    let days: api::DataDays = context.client.get(&format!("{}/data", path_of(&device.id))).await?;
    ui::out(head(&device, context.now));
    let mut facts = facts(&device, context.now);
    facts.extend(data::facts(&device, &days.items));
    for (label, value) in facts {
        ui::out(format!("{label:13} {value}"));
    }
    Ok(0)
}

/// `bench-sensor.home   dev_oofhjqyhw2lx   online, heard 3 s ago`
fn head(device: &api::Device, now: u64) -> String {
    let status = device.status.clone().unwrap_or_else(|| "plain WireGuard".to_owned());
    let heard = device.last_seen.as_deref().and_then(millis);
    let heard = heard.map_or_else(String::new, |then| format!(", heard {}", age(now, then)));
    format!("{}.{}   {}   {status}{heard}", device.name, device.network.name, device.id)
}

fn facts(device: &api::Device, now: u64) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut fact = |label, value: Option<String>| {
        facts.extend(value.filter(|value| !value.is_empty()).map(|value| (label, value)));
    };
    fact("addresses", Some(device.addresses.join("  ")));
    fact(
        "platform",
        device.platform.clone().map(|platform| {
            let version = device.agent_version.clone().unwrap_or_default();
            format!("{platform}, agent {version}")
        }),
    );
    fact("endpoint", device.endpoint.clone());
    let since = moment_exact(&device.created_at);
    fact(
        "enrolled",
        device
            .enrolled_by
            .as_ref()
            .map(|key| {
                let from = device
                    .enrolled_from
                    .as_ref()
                    .map_or_else(String::new, |from| format!(", from {from}"));
                format!("{since} with key \"{}\"{from}", key.name)
            })
            .or_else(|| Some(format!("{since} by an operator"))),
    );
    fact("standing", standing(device));
    fact("copy", device.copy.as_ref().map(|copy| self::copy(&device.name, copy, now)));
    fact("identity", device.fingerprint.clone());
    fact("wireguard", Some(wireguard(device)));
    fact("tags", Some(device.tags.join(" ")));
    let policy = device.policy;
    let map = match device.map.applied {
        Some(applied) => format!("; map {} here, {applied} there", device.map.revision),
        None => String::new(),
    };
    fact(
        "policy",
        Some(format!(
            "may reach {}, reachable from {}{map}",
            policy.may_reach, policy.reachable_from
        )),
    );
    if let Some(paths) = device.path_summary {
        fact(
            "paths",
            Some(format!(
                "{} direct, {} over a relay, {} idle",
                paths.direct, paths.relay, paths.idle
            )),
        );
    }
    fact("reported", device.telemetry.as_ref().map(|telemetry| reported(telemetry, now)));
    let lease = span(core::time::Duration::from_secs(u64::from(device.lease_s)));
    fact(
        "if stolen",
        Some(format!("out in 2 s where the coordinator reaches, else in {lease} (lease)")),
    );
    facts
}

/// Why it is no member, since when, and what ends that.
fn standing(device: &api::Device) -> Option<String> {
    let name = &device.name;
    let (what, action) = match device.status.as_deref()? {
        "pending" => ("waits for approval", "approve"),
        "blocked" => ("blocked", "unblock"),
        "rejected" => ("rejected", "approve"),
        _ => return None,
    };
    let because = device.standing_reason.as_ref();
    let because = because.map_or_else(String::new, |reason| format!(": \"{reason}\""));
    let since = moment_exact(&device.standing_since);
    Some(format!("{what} since {since}{because}; weft-coordinator device {action} {name}"))
}

/// `another machine at 198.51.100.9 uses its identity, heard 12 s ago, quarantined
/// since …`, and what ends that.
fn copy(name: &str, copy: &api::DeviceCopy, now: u64) -> String {
    let from = copy.address.as_ref().map_or_else(String::new, |from| format!(" at {from}"));
    let heard = millis(&copy.last_seen).map_or_else(|| NOTHING.to_owned(), |at| age(now, at));
    let state = match &copy.quarantined_at {
        Some(at) => format!("quarantined since {}", moment_exact(at)),
        None => "not told yet that it is quarantined".to_owned(),
    };
    format!(
        "another machine{from} uses its identity, heard {heard}, {state}; once it is gone: \
         weft-coordinator device release {name}"
    )
}

/// The key, since when, and what is changing.
fn wireguard(device: &api::Device) -> String {
    let key = &device.wg_public_key;
    let since = moment(&device.key_since);
    match device.key_state.as_str() {
        "asked" => format!("{key} since {since}, asked for another"),
        "announced" => format!("{key} since {since}, the next is announced"),
        "overlapping" => format!("{key} since {since}, the one before is still accepted"),
        _ => format!("{key} since {since}"),
    }
}

/// `now: 310 kB sent, 1.2 MB received, 5 handshakes, 1 failed, 3 drops`
fn reported(telemetry: &api::Telemetry, now: u64) -> String {
    let when = millis(&telemetry.reported_at).map_or_else(|| NOTHING.to_owned(), |at| age(now, at));
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let failed = match telemetry.handshake_failures {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    let drops = telemetry.drops.iter().fold(0_u32, |all, one| all.saturating_add(*one));
    format!(
        "{when}: {} sent, {} received, {}{failed}, {}",
        traffic(telemetry.tx_bytes),
        traffic(telemetry.rx_bytes),
        count(number(telemetry.handshakes), "handshake"),
        count(number(drops), "drop"),
    )
}

pub(super) async fn act(
    context: &Context<'_>,
    device: &str,
    action: &str,
    reason: &str,
    wait: core::time::Duration,
) -> Result<api::Action, Failure> {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let body = api::DeviceAction { reason: reason.to_owned(), wait_ms };
    context.client.post(&format!("{}/{action}", path_of(device)), &body).await
}

pub(super) fn report(context: &Context<'_>, action: &api::Action, sentence: &str) {
    if context.json {
        ui::json("weft.action/1", action);
    } else {
        ui::out(sentence);
    }
}

fn took(action: &api::Action) -> String {
    span(core::time::Duration::from_millis(action.took_ms))
}

fn told(action: &api::Action) -> String {
    match action.total {
        0 => "no device to tell".to_owned(),
        total if total == action.confirmed => {
            format!("told {} in {}", count(total, "device"), took(action))
        }
        total => {
            format!("told {} of {} in {}", action.confirmed, count(total, "device"), took(action))
        }
    }
}

/// `plc-9 approved: 100.93.0.11, told 3 devices in 41 ms`
pub(super) fn approved(action: &api::Action) -> String {
    let address = action.addresses.first().map_or(NOTHING, String::as_str);
    format!("{} approved: {address}, {}", action.name, told(action))
}

/// `plc-9 unblocked, told 3 devices in 41 ms; it comes back within 7 min`: a
/// device that is out asks every 5 min and a quarter.
fn unblocked(action: &api::Action) -> String {
    format!("{} unblocked, {}; it comes back within 7 min", action.name, told(action))
}

/// `blocks bench-sensor (100.93.0.4): 3 devices lose it, 1 open tunnel closes`
fn loss(word: &str, device: &api::Device) -> String {
    let address =
        device.addresses.first().map_or_else(String::new, |address| format!(" ({address})"));
    let lose = match device.policy.peers {
        1 => "1 device loses it".to_owned(),
        peers => format!("{} lose it", count(peers, "device")),
    };
    let open = device.path_summary.map(|paths| paths.direct + paths.relay).filter(|open| *open > 0);
    let close = open.map_or_else(String::new, |open| {
        let verb = if open == 1 { "closes" } else { "close" };
        format!(", {} {verb}", count(open, "open tunnel"))
    });
    format!("{word} {}{address}: {lose}{close}", device.name)
}

/// `3 of 3 devices confirmed in 0.4 s`, and until when the others know it.
fn gone(word: &str, action: &api::Action) -> String {
    if action.total == 0 {
        return format!("{word}: no device knew it");
    }
    let confirmed = format!(
        "{word}: {} of {} confirmed in {}",
        action.confirmed,
        count(action.total, "device"),
        took(action)
    );
    format!("{confirmed}; the unreachable ones forget it by {} (lease)", moment(&action.bound_at))
}

async fn block(context: &Context<'_>, wanted: &Reasoned) -> Result<u8, Failure> {
    let device = find(context, &wanted.device).await?;
    let undo = format!("weft-coordinator device unblock {}", device.name);
    let sentence = loss("blocks", &device);
    let doors = keys::still_open(context, &device).await?;
    confirm(&Effect { sentence, undo: Some(&undo), name: &device.name }, wanted.yes)?;
    // By id, so that it is the device that was shown.
    let action = act(context, &device.id, "block", &wanted.reason, CONFIRM_WAIT).await?;
    report(context, &action, &gone("blocked", &action));
    doors.iter().for_each(ui::note);
    Ok(0)
}

async fn delete(context: &Context<'_>, wanted: &Confirmed) -> Result<u8, Failure> {
    let device = find(context, &wanted.device).await?;
    let sentence = format!("{}; its keys never come back", loss("deletes", &device));
    let doors = keys::still_open(context, &device).await?;
    confirm(&Effect { sentence, undo: None, name: &device.name }, wanted.yes)?;
    let path = format!("{}?wait_ms={}", path_of(&device.id), CONFIRM_WAIT.as_millis());
    let action: api::Action = context.client.delete(&path, Some(device.revision)).await?;
    let name = &action.name;
    let sentence = format!(
        "{}\na tombstone stays: its identity cannot enrol again until \
         weft-coordinator device forget {name}",
        gone("deleted", &action)
    );
    report(context, &action, &sentence);
    doors.iter().for_each(ui::note);
    Ok(0)
}

async fn rename(context: &Context<'_>, device: &str, name: &str) -> Result<u8, Failure> {
    let device = find(context, device).await?;
    let body = api::PatchDevice { name: name.to_owned() };
    let path = path_of(&device.id);
    let action: api::Action = context.client.patch(&path, device.revision, &body).await?;
    report(context, &action, &format!("{} is now {}", device.name, action.name));
    Ok(0)
}

async fn rotate_key(context: &Context<'_>, rotate: &RotateKey) -> Result<u8, Failure> {
    let wait_ms = u32::try_from(ROTATE_WAIT.as_millis()).unwrap_or(u32::MAX);
    let body = api::RotateKey { withdraw: rotate.withdraw, wait_ms };
    let path = format!("{}/rotate-key", path_of(&rotate.device));
    let done: api::KeyRotation = context.client.post(&path, &body).await?;
    if context.json {
        ui::json("weft.rotation/1", &done);
    } else {
        ui::out(rotation(&done, rotate.withdraw));
    }
    Ok(0)
}

/// `gw-a has a new key: 3 of 3 devices confirmed in 0.4 s; …`
fn rotation(done: &api::KeyRotation, withdrawn: bool) -> String {
    let name = &done.name;
    let confirmed = format!("{} of {} confirmed", done.confirmed, count(done.total, "device"));
    match done.state.as_str() {
        _ if withdrawn => format!("{name} keeps its key"),
        "asked" if done.online => format!("{name} is asked for a new key and has made none yet"),
        "asked" => format!("{name} is offline: it makes a new key when it is back"),
        "announced" => format!(
            "{name} has made a new key, {confirmed} it so far; it comes into use when all have, \
             or after 24 h"
        ),
        _ => {
            let took = span(core::time::Duration::from_millis(done.took_ms));
            let until = done.previous_until.as_deref().map_or_else(String::new, |until| {
                format!("; the one before is accepted until {}", moment(until))
            });
            format!("{name} has a new key, {confirmed} it in {took}{until}")
        }
    }
}

async fn command(
    context: &Context<'_>,
    device: &str,
    command: DeviceCommand,
) -> Result<u8, Failure> {
    let word = match command {
        DeviceCommand::Restart => "restart",
        DeviceCommand::Netcheck => "netcheck",
    };
    let device = find(context, device).await?;
    let body = api::NewCommand { command: word.to_owned() };
    let path = format!("{}/commands", path_of(&device.id));
    let done: api::DoneCommand = context.client.post(&path, &body).await?;
    if context.json {
        ui::json("weft.command/1", &done);
    } else if let Some(netcheck) = &done.netcheck {
        network_report::describe(netcheck).iter().for_each(ui::out);
    } else {
        ui::out(format!("{} does \"{}\"", device.name, done.command));
    }
    Ok(0)
}

async fn add_wireguard(context: &Context<'_>, add: &AddWireGuard) -> Result<u8, Failure> {
    let new = api::NewWireGuard {
        name: add.name.clone(),
        network: add.network.clone(),
        public_key: add.public_key.clone(),
        endpoint: add.endpoint.clone(),
        no_psk: add.no_psk,
        tags: add.tags.clone(),
    };
    let mut created: api::CreatedWireGuard = context.client.post(PATH, &new).await?;
    if context.json {
        ui::json_once("weft.wireguard/1", &created)
            .map_err(|error| unseen(&created.device.name, &error))?;
        return Ok(0);
    }
    let config = Zeroizing::new(core::mem::take(&mut created.config));
    let device = &created.device;
    if !context.quiet {
        let address = device.addresses.first().map_or(NOTHING, String::as_str);
        ui::note(format!("added {} {address}; its file for wg-quick, shown once:", device.name));
    }
    ui::out_once(config.trim_end_matches('\n')).map_err(|error| unseen(&device.name, &error))?;
    // It is the one that has to open the tunnel then, and has nowhere to send.
    if add.endpoint.is_none() && config.contains("\n[Peer]") && !config.contains("\nEndpoint = ") {
        ui::warning(
            "device.no-endpoint",
            &format!("no peer has named an endpoint, so {} reaches none of them", device.name),
            "set Endpoint of a peer in the file by hand, or add it with --endpoint",
        );
    }
    if !context.quiet {
        ui::note("put its private key into the file; peers that come later are not in it");
    }
    Ok(0)
}

/// The file reached nobody.
fn unseen(name: &str, error: &std::io::Error) -> Failure {
    let message = format!("standard output takes no file; {name} was added and has none");
    Failure::new(Code::OutputLost, message)
        .with(Label::Cause, error.to_string())
        .attempt(format!("weft-coordinator device delete {name} --yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn device(more: serde_json::Value) -> api::Device {
        let mut device = json!({
            "id": "dev_2j7m5ctnuzov", "name": "gw-a", "kind": "agent", "revision": 3,
            "network": {"id": "net_x", "name": "home"}, "status": "online",
            "standing_since": "2026-11-20T17:00:00.000Z", "addresses": [], "tags": [],
            "wg_public_key": "", "created_at": "2026-11-20T17:00:00.000Z", "lease_s": 3600,
            "policy": {"peers": 0, "may_reach": 0, "reachable_from": 0},
            "map": {"revision": 1, "applied": null},
        });
        for (field, value) in more.as_object().unwrap() {
            device[field] = value.clone();
        }
        serde_json::from_value(device).unwrap()
    }

    #[test]
    fn who_is_no_member_is_said_with_what_ends_it() {
        assert_eq!(standing(&device(json!({}))), None);
        let said = |status: &str, reason: serde_json::Value| {
            standing(&device(json!({"status": status, "standing_reason": reason}))).unwrap()
        };
        let pending = said("pending", json!(null));
        assert!(pending.starts_with("waits for approval since 2026-11-"), "{pending}");
        assert!(pending.ends_with("; weft-coordinator device approve gw-a"), "{pending}");
        let blocked = said("blocked", json!("stolen"));
        assert!(blocked.starts_with("blocked since "), "{blocked}");
        let end = ": \"stolen\"; weft-coordinator device unblock gw-a";
        assert!(blocked.ends_with(end), "{blocked}");
        assert!(said("rejected", json!("no")).ends_with("device approve gw-a"));
    }

    #[test]
    fn a_copy_is_named_in_the_list_and_told_of() {
        assert_eq!(status(&device(json!({}))), "online");
        let since = "2026-11-20T17:00:00.000Z";
        let copy = json!({"since": since, "quarantined_at": since, "last_seen": since,
            "address": "198.51.100.9"});
        let cloned = device(json!({"copy": copy}));
        assert_eq!(status(&cloned), "online, cloned");
        let now = millis(since).unwrap() + 12_000;
        let said = self::copy("gw-a", cloned.copy.as_ref().unwrap(), now);
        let start = "another machine at 198.51.100.9 uses its identity, heard 12 s ago, \
                     quarantined since 2026-11-";
        assert!(said.starts_with(start), "{said}");
        assert!(said.ends_with("once it is gone: weft-coordinator device release gw-a"), "{said}");
    }
}
