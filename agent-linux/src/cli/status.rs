//! `weft status`: this machine, its coordinator, its lease, its peers.

pub(super) mod data;

use clap::Args;
use serde::Serialize;

use crate::cli::why::{self, VerdictDocument, Verdicts};
use crate::cli::{Context, key, peer};
use crate::failure::Result;
use crate::ipc::protocol::{
    Coordinator, Device, KeyState, OtherMachine, Path, Peer, Relay, Status, VERSION,
};
use crate::os::clock;
use crate::output::table::{self, ALWAYS, Cell, Column};
use crate::output::{Symbols, paint, style, units, visible_len};

/// Above this many peers the table shows the ones last active.
const MANY: usize = 30;
const SHOWN_OF_MANY: usize = 20;
/// Longer than a coordinator that has just started lets a device wait, in seconds.
const UNPROVEN_S: u64 = 300;
/// Heard within this time, the coordinator is well.
const HEARD_WELL_MS: u64 = 1_800_000;

#[derive(Args)]
pub(super) struct Arguments {
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Status 1 unless coordinator and lease are good
    #[arg(long)]
    check: bool,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let mut client = peer::connect(&context.config, "status")?;
    let status = client.status()?;
    if arguments.json {
        let verdicts = why::verdicts(&mut client, &status)?;
        context.ui.document(&document(&status, &verdicts, clock::unix_millis()));
    } else {
        let symbols = context.ui.symbols;
        for line in describe(&status, symbols, context.ui.width()) {
            context.ui.answer(&line);
        }
    }
    Ok(u8::from(arguments.check && !is_good(&status)))
}

fn is_good(status: &Status) -> bool {
    let active = status.device.as_ref().is_some_and(|device| device.standing == "active");
    let lease = status.lease_s.is_some_and(|left| left > 0);
    let heard = status.coordinator.heard_ms.is_some_and(|age| age < HEARD_WELL_MS);
    active && lease && (status.coordinator.online || heard)
}

/// The text, line by line.
fn describe(status: &Status, symbols: Symbols, width: Option<usize>) -> Vec<String> {
    let mut lines = head(status, symbols, width);
    lines.push(coordinator(status, symbols));
    // Who is out has no map, and will have none as long as that lasts.
    if !is_out(status) {
        lines.push(lease(status, symbols));
        lines.extend(
            key::describe(status.key).map(|text| labelled("key", symbols.ok, style::GOOD, text)),
        );
    }
    lines.push(data::line(&status.data, symbols));
    if let Some(device) = &status.device
        && let Some(text) = standing(device)
    {
        lines.push(labelled("standing", symbols.warn, style::WARN, text));
    }
    lines.push(String::new());
    if status.peers.is_empty() {
        lines.push(paint(style::DIM, "no peers"));
    } else {
        lines.extend(peers(status, symbols, width, Depth::Status));
    }
    if let Some(device) = status.device.as_ref().filter(|device| device.standing == "active")
        && let Some(other) = &device.other
    {
        lines.push(format!(
            "note: another machine used this identity ({}); it is quarantined, this one is kept",
            place(other)
        ));
    }
    lines.extend(reason(status));
    lines.extend(unproven(status));
    if let Some((interface, range)) = &status.overlap {
        lines.push(format!(
            "note: {range} of {interface} has addresses of the mesh; packets for peers may leave there"
        ));
    }
    if status.refused_peers > 0 {
        let peers = units::count(status.refused_peers as usize, "peer");
        lines.push(format!("note: {peers} of the map found no place here"));
    }
    lines
}

/// Where a relayed peer, or one without a way, is explained.
fn reason(status: &Status) -> Option<String> {
    let one = |wanted: fn(&Path) -> bool| status.peers.iter().find(|peer| wanted(&peer.path));
    let lost = one(|path| matches!(path, Path::Nowhere)).map(|peer| (peer, "cannot be reached"));
    let relayed =
        || one(|path| matches!(path, Path::Relay { .. })).map(|peer| (peer, "is relayed"));
    let (peer, what) = lost.or_else(relayed)?;
    let name = &peer.name;
    Some(format!("note: {name} {what}; the reason:  weft why {name}"))
}

/// The coordinator's line stands and nobody proves to hold the key that this
/// machine pins: whoever is there cannot say why in a way that could be believed.
fn unproven(status: &Status) -> Option<String> {
    let span = status.coordinator.unproven_s.filter(|span| *span >= UNPROVEN_S)?;
    if is_out(status) || status.device.is_none() {
        return None;
    }
    let Coordinator { host, fingerprint, .. } = &status.coordinator;
    Some(format!(
        "note: {host} lets this machine in and has not proved for {} to be {fingerprint}: its key \
         changed while this machine was away, or this device was deleted; if so, a new join \
         string takes it in:  weft join --replace WEFT1…",
        units::span_s(span)
    ))
}

fn labelled(label: &str, symbol: &str, colour: anstyle::Style, text: impl AsRef<str>) -> String {
    format!("{label:<11} {} {}", paint(colour, symbol), text.as_ref())
}

fn head(status: &Status, symbols: Symbols, width: Option<usize>) -> Vec<String> {
    let up = format!("up {}, weft {VERSION}", units::span_s(status.up_s));
    let Some(device) = &status.device else {
        return vec![format!("{:<12}{up}", "joining")];
    };
    let name = format!("{}.{}", device.name, device.network);
    let mut line = paint(style::BOLD, &name);
    line.extend(core::iter::repeat_n(' ', 12usize.saturating_sub(name.len() + 2)));
    let Some((v4, v6)) = device.addresses else {
        return vec![format!("{line}  {}  {up}", symbols.none)];
    };
    let v4 = format!("  {:<11}", v4.to_string());
    let v6 = format!("  {:<25}", v6.to_string());
    let all = visible_len(&line) + v4.len() + v6.len() + up.len();
    line.push_str(&v4);
    if width.is_none_or(|width| all <= width) {
        line.push_str(&v6);
    } else {
        line.push_str("  ");
    }
    line.push_str(&paint(style::DIM, up));
    vec![line]
}

fn coordinator(status: &Status, symbols: Symbols) -> String {
    let coordinator = &status.coordinator;
    let host = &coordinator.host;
    let map = coordinator.map.as_ref();
    let map = map.map_or_else(String::new, |(_, revision)| format!(", map {revision}"));
    let because = coordinator.cause.as_ref();
    let because = because.map_or_else(String::new, |cause| format!(" ({cause})"));
    match (coordinator.online, coordinator.heard_ms) {
        (true, heard) => {
            let heard =
                heard.map_or_else(String::new, |age| format!(", heard {}", units::age_ms(age)));
            let text = format!("{host}{}{heard}{map}", by_carrier(&coordinator.address));
            labelled("coordinator", symbols.ok, style::GOOD, text)
        }
        // Who is out does not stay on the line.
        (false, Some(age)) if is_out(status) => {
            let heard = units::age_ms(age);
            let text = format!("{host}, heard {heard}; asked every 5 min whether that has ended");
            labelled("coordinator", symbols.warn, style::WARN, text)
        }
        (false, Some(age)) => {
            let span = units::span_s(age / 1_000);
            let left = status.lease_s.filter(|left| *left > 0);
            let lease = left.map_or_else(String::new, |left| {
                format!("; tunnels go on, lease ends in {}", units::span_s(left))
            });
            let line = if coordinator.relay_line { ", peers call over a relay" } else { "" };
            let text = format!("not heard for {span}{because}{lease}{line}");
            labelled("coordinator", symbols.warn, style::WARN, text)
        }
        (false, None) => {
            let text = format!("{host} not heard since the start{because}");
            labelled("coordinator", symbols.warn, style::WARN, text)
        }
    }
}

/// By which carrier, where it is not the usual one: ` by https`.
fn by_carrier(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, _)) if scheme != "mqtt" => format!(" by {scheme}"),
        _ => String::new(),
    }
}

/// Whether an operator put this machine out.
fn is_out(status: &Status) -> bool {
    let standing = status.device.as_ref().map(|device| device.standing.as_str());
    matches!(standing, Some("blocked" | "rejected"))
}

fn lease(status: &Status, symbols: Symbols) -> String {
    match status.lease_s {
        Some(0) => labelled(
            "lease",
            symbols.fail,
            style::BAD,
            "ended: peers refuse this machine until the coordinator answers",
        ),
        Some(left) => {
            let text = format!("works {} without the coordinator", units::span_s(left));
            labelled("lease", symbols.ok, style::GOOD, text)
        }
        None => labelled("lease", symbols.skip, style::DIM, "none yet: there is no map"),
    }
}

/// Why this device is no member, in one sentence.
fn standing(device: &Device) -> Option<String> {
    let because = |reason: &str| {
        if reason.is_empty() { String::new() } else { format!(": \"{reason}\"") }
    };
    let since = device.since_ms.map(units::moment);
    let since = since.map_or_else(String::new, |since| format!(" since {since}"));
    let because = because(&device.reason);
    Some(match device.standing.as_str() {
        "active" => return None,
        "pending" => {
            let name = &device.name;
            format!("waits for approval as {name}, fingerprint {}{because}", device.fingerprint)
        }
        "blocked" => format!("blocked by an operator{since}{because}; no peers"),
        "quarantined" => format!(
            "quarantined{since}: another machine uses this identity{}; no peers until an operator \
             decides",
            device.other.as_ref().map(|other| format!(" ({})", place(other))).unwrap_or_default()
        ),
        _ => format!("rejected by an operator{since}{because}"),
    })
}

/// `from 203.0.113.21, heard 10 s ago`.
fn place(other: &OtherMachine) -> String {
    let from = other.address.as_ref().map(|address| format!("from {address}"));
    let heard = other.heard_ms.map(|age| format!("heard {}", units::age_ms(age)));
    from.into_iter().chain(heard).collect::<Vec<_>>().join(", ")
}

/// How much of the peers is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The most important columns, fewer rows when there are many.
    Status,
    /// Everything.
    All,
}

const COLUMNS: [Column; 9] = [
    Column { title: "PEER", rank: ALWAYS },
    Column { title: "ADDRESS", rank: ALWAYS },
    Column { title: "PATH", rank: ALWAYS },
    Column { title: "RTT", rank: 8 },
    Column { title: "LAST DATA", rank: 7 },
    Column { title: "RX", rank: 6 },
    Column { title: "TX", rank: 5 },
    Column { title: "HANDSHAKE", rank: 4 },
    Column { title: "IPV6", rank: 1 },
];

/// The table of peers.
pub(super) fn peers(
    status: &Status,
    symbols: Symbols,
    width: Option<usize>,
    depth: Depth,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut shown = peer::sorted(&status.peers);
    if depth == Depth::Status && shown.len() > MANY {
        lines.push(counts(&status.peers));
        shown.sort_by_key(|peer| peer.data_ms.unwrap_or(u64::MAX));
        shown.truncate(SHOWN_OF_MANY);
    }
    let unknown = || symbols.none.to_owned();
    let rows: Vec<Vec<Cell>> = shown
        .iter()
        .map(|peer| {
            let (kind, detail) = peer::path(peer);
            let age = |ms: Option<u64>| ms.map_or_else(unknown, units::age_ms);
            let (v4, v6) = peer.addresses;
            vec![
                Cell::new(style::BOLD, peer.name.clone()),
                Cell::plain(v4.to_string()),
                Cell::new(peer::path_style(peer), format!("{kind:<6} {detail}")),
                Cell::plain(peer.rtt_us.map_or_else(unknown, |us| rtt(us, peer.rtt_ms_ago))),
                Cell::plain(age(peer.data_ms)),
                Cell::plain(units::traffic(peer.rx_bytes)),
                Cell::plain(units::traffic(peer.tx_bytes)),
                Cell::plain(age(peer.handshake_ms)),
                Cell::plain(v6.to_string()),
            ]
        })
        .collect();
    lines.extend(table::draw(&COLUMNS, &rows, width));
    if shown.len() < status.peers.len() {
        let all = units::count(status.peers.len(), "peer");
        lines.push(format!("the {SHOWN_OF_MANY} last active of {all}:  weft peers"));
    }
    lines
}

/// Older than this a round trip says so.
const RTT_FRESH_MS: u64 = 60_000;

/// `20.4 ms`, and how old that is.
fn rtt(us: u64, ago_ms: Option<u64>) -> String {
    let age = ago_ms.filter(|ago| *ago >= RTT_FRESH_MS);
    let age = age.map_or_else(String::new, |ago| format!(" ({})", units::age_ms(ago)));
    format!("{}{age}", units::span_us(us))
}

fn counts(peers: &[Peer]) -> String {
    let count = |kind: fn(&Path) -> bool| peers.iter().filter(|peer| kind(&peer.path)).count();
    let direct = count(|path| matches!(path, Path::Direct { .. }));
    let relayed = count(|path| matches!(path, Path::Relay { .. }));
    let lost = count(|path| matches!(path, Path::Nowhere));
    let idle = peers.len() - direct - relayed - lost;
    let relayed = if relayed > 0 { format!("{relayed} over a relay, ") } else { String::new() };
    let lost = if lost > 0 { format!("{lost} without a way, ") } else { String::new() };
    format!("{}: {direct} direct, {relayed}{lost}{idle} idle", units::count(peers.len(), "peer"))
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    device: Option<DeviceDocument>,
    up_s: u64,
    clock: &'static str,
    coordinator: CoordinatorDocument,
    internet: Option<()>,
    lease: LeaseDocument,
    data_today: data::DataDocument,
    interface: Option<String>,
    mtu: Option<u16>,
    listen_port: u16,
    peers: Vec<PeerDocument>,
    refused_peers: u32,
    key: KeyDocument,
    relays: Vec<RelayDocument>,
    drops: std::collections::BTreeMap<String, u64>,
    notes: Vec<NoteDocument>,
}

#[derive(Serialize)]
struct DeviceDocument {
    id: String,
    name: String,
    network: String,
    addresses: Vec<String>,
    standing: String,
    version: &'static str,
    standing_since: Option<String>,
    standing_reason: Option<String>,
    other_machine: Option<OtherDocument>,
    fingerprint: String,
}

/// Another machine that uses this device's identity.
#[derive(Serialize)]
struct OtherDocument {
    address: Option<String>,
    last_heard: Option<String>,
}

#[derive(Serialize)]
struct CoordinatorDocument {
    host: String,
    fingerprint: String,
    state: &'static str,
    carrier: String,
    last_heard: Option<String>,
    relay_line: bool,
    epoch: Option<String>,
    revision: Option<u64>,
    verdict: Option<()>,
}

#[derive(Serialize)]
struct LeaseDocument {
    ends_at: Option<String>,
    remaining_s: Option<u64>,
}

#[derive(Serialize)]
struct KeyDocument {
    state: KeyState,
    changed_at: Option<String>,
}

/// A relay of the map. What this device logs in with is not told.
#[derive(Serialize)]
struct RelayDocument {
    number: u16,
    ipv4: Option<String>,
    ipv6: Option<String>,
    udp: Vec<u16>,
    tcp: Option<u16>,
    tls: Option<u16>,
    credentials_until: Option<String>,
    name: Option<String>,
    rtt_ms: Option<u16>,
}

/// A peer in `weft status --json` and `weft peers --json`.
#[derive(Serialize)]
pub(super) struct PeerDocument {
    id: String,
    name: String,
    addresses: Vec<String>,
    routes: Vec<String>,
    path: PathDocument,
    rtt_us: Option<u64>,
    rtt_at: Option<String>,
    loss_ppm: Option<u64>,
    rx_bytes: u64,
    tx_bytes: u64,
    last_data: Option<String>,
    last_handshake: Option<String>,
    psk_mark: Option<String>,
    /// That of `weft why`.
    verdict: Option<VerdictDocument>,
}

/// The way of a peer's data.
#[derive(Default, Serialize)]
pub(super) struct PathDocument {
    kind: &'static str,
    remote: Option<String>,
    /// The relay's number in the map, its name, and how this machine reaches it.
    relay: Option<u16>,
    relay_name: Option<String>,
    rung: Option<String>,
    since: Option<String>,
}

#[derive(Serialize)]
struct NoteDocument {
    code: &'static str,
    interface: String,
    range: String,
}

/// The document; ages become moments of a clock that says `now_ms`.
fn document(status: &Status, verdicts: &Verdicts, now_ms: u64) -> impl Serialize {
    let coordinator = &status.coordinator;
    let ago = |ms: u64| units::rfc3339(now_ms.saturating_sub(ms));
    let (scheme, _) = coordinator.address.split_once("://").unwrap_or(("", ""));
    Document {
        schema: "weft.status/1",
        device: status.device.as_ref().map(|device| device_document(device, now_ms)),
        up_s: status.up_s,
        clock: if status.time_told { "coordinator" } else { "system" },
        coordinator: CoordinatorDocument {
            host: coordinator.host.clone(),
            fingerprint: coordinator.fingerprint.clone(),
            state: match (coordinator.online, coordinator.connected) {
                (true, _) => "connected",
                (false, true) => "connecting",
                (false, false) => "disconnected",
            },
            carrier: scheme.to_owned(),
            last_heard: coordinator.heard_ms.map(ago),
            relay_line: coordinator.relay_line,
            epoch: coordinator.map.as_ref().map(|(epoch, _)| epoch.clone()),
            revision: coordinator.map.as_ref().map(|(_, revision)| *revision),
            verdict: None,
        },
        internet: None,
        lease: LeaseDocument {
            ends_at: status.lease_s.map(|s| units::rfc3339(now_ms + s * 1_000)),
            remaining_s: status.lease_s,
        },
        data_today: data::document(&status.data),
        interface: status.interface.clone(),
        mtu: status.mtu,
        listen_port: status.port,
        peers: peer_documents(status, verdicts, now_ms),
        refused_peers: status.refused_peers,
        key: KeyDocument { state: status.key.state, changed_at: status.key.changed_ms.map(ago) },
        relays: status.relays.iter().map(relay_document).collect(),
        drops: status.drops.iter().cloned().collect(),
        notes: status
            .overlap
            .iter()
            .map(|(interface, range)| NoteDocument {
                code: "self.range-overlap",
                interface: interface.clone(),
                range: range.clone(),
            })
            .collect(),
    }
}

fn relay_document(relay: &Relay) -> RelayDocument {
    let (v4, v6) = relay.addresses;
    RelayDocument {
        number: relay.number,
        ipv4: v4.map(|address| address.to_string()),
        ipv6: v6.map(|address| address.to_string()),
        udp: relay.udp.clone(),
        tcp: relay.tcp,
        tls: relay.tls,
        credentials_until: relay.until_s.map(|s| units::rfc3339(s.saturating_mul(1_000))),
        name: relay.name.clone(),
        rtt_ms: relay.rtt_ms,
    }
}

fn device_document(device: &Device, now_ms: u64) -> DeviceDocument {
    let addresses = device.addresses.iter();
    let reason = &device.reason;
    DeviceDocument {
        id: device.id.clone(),
        name: device.name.clone(),
        network: device.network.clone(),
        addresses: addresses.flat_map(|(v4, v6)| [v4.to_string(), v6.to_string()]).collect(),
        standing: device.standing.clone(),
        version: VERSION,
        standing_since: device.since_ms.map(units::rfc3339),
        standing_reason: (!reason.is_empty()).then(|| reason.clone()),
        fingerprint: device.fingerprint.clone(),
        other_machine: device.other.as_ref().map(|other| OtherDocument {
            address: other.address.clone(),
            last_heard: other.heard_ms.map(|ago| units::rfc3339(now_ms.saturating_sub(ago))),
        }),
    }
}

/// The way of a peer's data as programs read it.
pub(super) fn path_document(peer: &Peer, now_ms: u64) -> PathDocument {
    let since = peer.since_ms.map(|ms| units::rfc3339(now_ms.saturating_sub(ms)));
    let none = PathDocument { kind: peer::path(peer).0, since, ..PathDocument::default() };
    match &peer.path {
        Path::Direct { remote } => PathDocument { remote: Some(remote.clone()), ..none },
        Path::Relay { remote, name, number, rung } => PathDocument {
            remote: Some(remote.clone()),
            relay: Some(*number).filter(|number| *number > 0),
            relay_name: name.clone(),
            rung: rung.clone(),
            ..none
        },
        Path::Idle | Path::Connecting | Path::Nowhere => none,
    }
}

/// All peers as programs read them.
pub(super) fn peer_documents(
    status: &Status,
    verdicts: &Verdicts,
    now_ms: u64,
) -> Vec<PeerDocument> {
    let ago = |ms: Option<u64>| ms.map(|ms| units::rfc3339(now_ms.saturating_sub(ms)));
    let document = |peer: &&Peer| PeerDocument {
        id: peer.id.clone(),
        name: peer.name.clone(),
        addresses: vec![peer.addresses.0.to_string(), peer.addresses.1.to_string()],
        routes: peer.routes.clone(),
        path: path_document(peer, now_ms),
        rtt_us: peer.rtt_us,
        rtt_at: ago(peer.rtt_ms_ago),
        loss_ppm: None,
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        last_data: ago(peer.data_ms),
        last_handshake: ago(peer.handshake_ms),
        psk_mark: peer.psk_mark.clone(),
        verdict: verdicts.get(&peer.id).cloned(),
    };
    peer::sorted(&status.peers).iter().map(document).collect()
}

#[cfg(test)]
pub(super) mod tests;
