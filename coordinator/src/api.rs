//! Bodies of the REST API: what the server writes and the command line reads.
//! Times are RFC 3339 UTC, spans are integers with the unit in the name, what
//! is not known is `null`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod connections;

/// The media type of a [`Problem`].
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// RFC 9457, with what the command line needs to show it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Problem {
    /// `/problems/device.not-found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The sentence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The path asked for.
    pub instance: String,
    /// Tells this request in the log.
    pub request_id: String,
    /// `device.not-found`.
    pub code: String,
    /// Exit status of a command that ends with it.
    pub exit: u8,
    /// Labelled lines: `try`, `cause` …
    pub labels: Vec<(String, String)>,
    /// Named values of the sentence.
    pub params: BTreeMap<String, String>,
    /// The permission that is missing (401 and 403).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub required_permission: Option<String>,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// Its items.
    pub items: Vec<T>,
    /// Items without any filter.
    pub total: usize,
    /// Items that fit the filter.
    pub matched: usize,
    /// Where the next page starts; `null` = this was the last.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that nobody can filter, on one page.
    pub const fn whole(items: Vec<T>) -> Self {
        let total = items.len();
        Self { items, total, matched: total, next_cursor: None }
    }
}

/// An id with its name.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Named {
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
}

/// Peers by path.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PathSummary {
    /// Peers with a session on a direct path.
    pub direct: usize,
    /// Peers with a session over a relay.
    pub relay: usize,
    /// Peers without a session.
    pub idle: usize,
}

/// A device's last heartbeat. What is counted, is counted since the one before.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Telemetry {
    /// When it came.
    pub reported_at: String,
    /// Starts of the device since it was made.
    pub boot_count: u32,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// Inner packets sent.
    pub tx_packets: u32,
    /// Inner packets received.
    pub rx_packets: u32,
    /// Handshakes completed.
    pub handshakes: u32,
    /// Handshake attempts that ended without an answer.
    pub handshake_failures: u32,
    /// Packets and datagrams dropped, in the order of the agent's reasons.
    pub drops: Vec<u32>,
}

/// Whom policy lets it reach.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PolicyReach {
    /// Members joined to it by any rule: they know it.
    pub peers: usize,
    /// Members that it may send to first.
    pub may_reach: usize,
    /// Members that may send to it first.
    pub reachable_from: usize,
}

/// How far its map is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct MapState {
    /// Newest revision here.
    pub revision: u64,
    /// Revision that it said it has applied.
    pub applied: Option<u64>,
}

/// A device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// `dev_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: Named,
    /// `agent` or `wireguard`.
    pub kind: String,
    /// Counts changes; the ETag.
    pub revision: u64,
    /// `online`, `offline`, `pending`, `blocked`, `rejected`;
    /// `null` for a WireGuard-only member.
    pub status: Option<String>,
    /// Since when it is a member, pending, blocked …
    pub standing_since: String,
    /// An operator's sentence on that.
    pub standing_reason: Option<String>,
    /// IPv4 and IPv6; empty before approval.
    pub addresses: Vec<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// 44 characters.
    pub wg_public_key: String,
    /// When that came into use.
    #[serde(default)]
    pub key_since: String,
    /// `settled`, `asked`, `announced`, `overlapping`.
    #[serde(default)]
    pub key_state: String,
    /// What people compare; `null` without an agent.
    pub fingerprint: Option<String>,
    /// Target and board.
    pub platform: Option<String>,
    /// The agent's version.
    pub agent_version: Option<String>,
    /// Fixed endpoint of a WireGuard-only peer.
    pub endpoint: Option<String>,
    /// When it was last heard; `null` = not since this coordinator started.
    pub last_seen: Option<String>,
    /// Seconds since its agent started, as of its last heartbeat.
    pub uptime_s: Option<u32>,
    /// Peers by path; `null` before its first heartbeat.
    pub path_summary: Option<PathSummary>,
    /// The rest of its last heartbeat; `null` before the first.
    #[serde(default)]
    pub telemetry: Option<Telemetry>,
    /// Whom policy lets it reach.
    pub policy: PolicyReach,
    /// How far its map is.
    pub map: MapState,
    /// Seconds without the coordinator after which its peers forget it.
    pub lease_s: u32,
    /// The key that let it in.
    pub enrolled_by: Option<Named>,
    /// From where it registered.
    pub enrolled_from: Option<String>,
    /// When it came.
    pub created_at: String,
    /// Another machine that uses its identity; `null` = there is none.
    #[serde(default)]
    pub copy: Option<DeviceCopy>,
    /// Bytes a day that it may spend on all but payload where they cost money, as
    /// an operator set it here; its own setting may be tighter.
    #[serde(default)]
    pub data_budget_bytes: Option<u64>,
    /// What its bytes are for today, in UTC; `null` = it has not said.
    #[serde(default)]
    pub data_today: Option<DataDay>,
}

/// A device's bytes of one day: IP packets of both directions.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct DataDay {
    /// `2026-11-27`, in UTC.
    pub day: String,
    /// When the device said so last.
    pub reported_at: String,
    /// Its budget of the day for all but payload.
    pub budget_bytes: Option<u64>,
    /// Bytes cost money where it is, so that the budget binds.
    pub metered: bool,
    /// The budget was used up.
    pub used_up: bool,
    /// All but payload.
    pub bytes: u64,
    /// The same by cause.
    pub by_cause: DataCauses,
    /// Tunnels.
    pub payload_bytes: u64,
}

/// Bytes by cause.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct DataCauses {
    /// The line to the coordinator.
    pub control: u64,
    /// Ways that are kept open while nobody talks.
    pub keepalive: u64,
    /// Looking for ways, asking whether they stand.
    pub probe: u64,
    /// What relays are asked, and put around packets.
    pub relay_overhead: u64,
}

/// Asks for another budget.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataBudget {
    /// Bytes a day for all but payload; `null` = none.
    pub bytes: Option<u64>,
}

/// Two devices that keep the way to each other open while nobody talks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WarmPair {
    /// One of them.
    pub a: Named,
    /// The other one.
    pub b: Named,
    /// Since when.
    pub since: String,
}

/// All such pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WarmPairs {
    /// By id.
    pub items: Vec<WarmPair>,
}

/// What became of a wish for such a pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Warmed {
    /// One of them.
    pub a: Named,
    /// The other one.
    pub b: Named,
    /// Whether it is kept open.
    pub warm: bool,
    /// It was not so before.
    pub changed: bool,
}

/// A device's days.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct DataDays {
    /// Newest first; 35 are kept.
    pub items: Vec<DataDay>,
}

/// A machine that uses a device's identity beside it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct DeviceCopy {
    /// Since when both are known to live.
    pub since: String,
    /// When the copy was told that it is quarantined; `null` = not yet.
    pub quarantined_at: Option<String>,
    /// When the copy was last heard.
    pub last_seen: String,
    /// From where; `null` = the carrier does not know.
    pub address: Option<String>,
}

/// A deleted device: its identity does not come back until it is forgotten.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Tombstone {
    /// The id it had, `dev_…`.
    pub id: String,
    /// The name it had.
    pub name: String,
    /// The network it was in.
    pub network: Named,
    /// What people compare; `null` without an agent.
    pub fingerprint: Option<String>,
    /// When it was deleted.
    pub deleted_at: String,
}

/// Clears a tombstone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {}

/// An enrolment key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolmentKey {
    /// `key_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Enrolments so far.
    pub uses: u32,
    /// The most enrolments; `null` = no limit.
    pub max_uses: Option<u32>,
    /// When it ends; `null` = never.
    pub expires_at: Option<String>,
    /// Tags for its devices.
    pub tags: Vec<String>,
    /// Whether an operator has to approve each device.
    pub needs_approval: bool,
    /// `active`, `used_up`, `expired`, `revoked`.
    pub state: String,
    /// When it was made.
    pub created_at: String,
}

/// A new enrolment key, with the only copy of its join string.
#[derive(Serialize, Deserialize)]
pub struct CreatedKey {
    /// The key.
    #[serde(flatten)]
    pub key: EnrolmentKey,
    /// The join string; a secret.
    pub join_string: String,
}

/// Asks for an enrolment key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// Its name; absent = one is made.
    #[serde(default)]
    pub name: Option<String>,
    /// Its network; absent = the only one.
    #[serde(default)]
    pub network: Option<String>,
    /// The most enrolments; `null` = no limit, absent = 1.
    #[serde(default = "one")]
    pub max_uses: Option<u32>,
    /// Seconds until it ends; `null` = never, absent = 24 hours.
    #[serde(default = "one_day")]
    pub expires_after_s: Option<u64>,
    /// Tags for its devices.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whether an operator has to approve each device.
    #[serde(default)]
    pub needs_approval: bool,
}

const fn one() -> Option<u32> {
    Some(1)
}

const fn one_day() -> Option<u64> {
    Some(86_400)
}

/// Asks for an entry that a relay can join by.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRelay {
    /// Its name.
    pub name: String,
    /// Where it stands; absent = nowhere in particular.
    #[serde(default)]
    pub region: String,
    /// Seconds until its join string ends; `null` = never, absent = 24 hours.
    #[serde(default = "one_day")]
    pub expires_after_s: Option<u64>,
}

/// A relay that may join, with the only copy of its join string.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddedRelay {
    /// The relay.
    #[serde(flatten)]
    pub relay: Relay,
    /// A secret.
    pub join_string: String,
}

/// Asks a relay to take no new clients, or to take them again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRelay {
    /// Whether it is to take none.
    pub draining: bool,
}

/// A relay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Relay {
    /// Its name.
    pub name: String,
    /// Names it to devices.
    pub number: u16,
    /// Where it stands, or empty.
    pub region: String,
    /// `registered` or `configured`.
    pub kind: String,
    /// `waiting`, `expired`, `unchecked`, `healthy`, `silent`, `draining`, `inside`.
    pub state: String,
    /// Whether devices are told of it.
    pub told: bool,
    /// Where clients find it.
    pub addresses: Vec<String>,
    /// Its UDP ports.
    pub udp: Vec<u16>,
    /// Its port for TURN over TCP.
    pub tcp: Option<u16>,
    /// Its port for TURN over TLS.
    pub tls: Option<u16>,
    /// When it was last asked.
    pub checked_at: Option<String>,
    /// When it last answered.
    pub answered_at: Option<String>,
    /// How long that took.
    pub rtt_us: Option<u64>,
    /// Whether it waits for news from here.
    pub connected: bool,
    /// The address that it comes from.
    pub seen_from: Option<String>,
    /// When it last said how it is.
    pub reported_at: Option<String>,
    /// Allocations then.
    pub allocations: Option<u32>,
    /// The most that it makes.
    pub max_allocations: Option<u32>,
    /// Users who had some.
    pub users: Option<u32>,
    /// Its program's version.
    pub version: Option<String>,
    /// When it joined.
    pub joined_at: Option<String>,
    /// When its join string ends, while nobody came with it.
    pub join_expires_at: Option<String>,
}

/// Asks for the end of an enrolment key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeKey {
    /// Block its devices too.
    #[serde(default)]
    pub and_devices: bool,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

/// What the end of a key did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevokedKey {
    /// The key.
    pub key: EnrolmentKey,
    /// Devices that it let in.
    pub devices: usize,
}

/// Asks for a peer without an agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWireGuard {
    /// Its name.
    pub name: String,
    /// Its network; absent = the only one.
    #[serde(default)]
    pub network: Option<String>,
    /// Its public key, 44 characters.
    pub public_key: String,
    /// Where it listens.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Pairs with it use no PSK.
    #[serde(default)]
    pub no_psk: bool,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// A new peer without an agent, with the only copy of its file.
#[derive(Serialize, Deserialize)]
pub struct CreatedWireGuard {
    /// The device.
    pub device: Device,
    /// For `wg-quick`; holds PSKs.
    pub config: String,
}

/// Asks for an action on a device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceAction {
    /// A sentence that the device is told.
    #[serde(default)]
    pub reason: String,
    /// Milliseconds to wait for devices that are connected to confirm.
    #[serde(default)]
    pub wait_ms: u32,
}

/// Asks for another WireGuard key, or withdraws that.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// Give the key change up that is under way.
    #[serde(default)]
    pub withdraw: bool,
    /// Milliseconds to wait until the new key is in use.
    #[serde(default)]
    pub wait_ms: u32,
}

/// How far a key change is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRotation {
    /// The device's id.
    pub subject: String,
    /// Its name.
    pub name: String,
    /// `asked`, `announced`, `overlapping` (the new key is in use, the one before
    /// accepted) or `settled`.
    pub state: String,
    /// Whether the device is there.
    pub online: bool,
    /// Devices that confirmed, itself included.
    pub confirmed: usize,
    /// Devices that it concerns and that are there.
    pub total: usize,
    /// How long it took.
    pub took_ms: u64,
    /// Until when the key before is accepted.
    pub previous_until: Option<String>,
}

/// Asks for another name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchDevice {
    /// A lower-case label of at most 32 characters.
    pub name: String,
}

/// What an action did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Action {
    /// `block`, `approve` …
    pub action: String,
    /// The id of what it was done to.
    pub subject: String,
    /// Its name afterwards, or before it went.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Devices that confirmed.
    pub confirmed: usize,
    /// Devices that it concerns.
    pub total: usize,
    /// How long it took.
    pub took_ms: u64,
    /// When those out of reach forget the device by themselves.
    pub bound_at: String,
}

/// Asks a device to do something.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCommand {
    /// `restart`, `netcheck`.
    pub command: String,
}

/// A command that was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DoneCommand {
    /// As in [`NewCommand`].
    pub command: String,
    /// What `netcheck` found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netcheck: Option<Netcheck>,
}

/// A device's network, by its own look. Words as in `weft netcheck --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Netcheck {
    /// Where servers see it by IPv4.
    pub ipv4: Option<String>,
    /// Where servers see it by IPv6.
    pub ipv6: Option<String>,
    /// `none`, `endpoint_independent`, `address`, `address_and_port`, `sequential`,
    /// `window`, `random`; none = not to be told.
    pub mapping: Option<String>,
    /// Of a sequence.
    pub step: Option<i16>,
    /// Ports of a window.
    pub window: Option<u16>,
    /// `endpoint_independent`, `address`, `address_and_port`.
    pub filtering: Option<String>,
    /// Whether hosts behind the NAT reach each other by its public address.
    pub hairpin: Option<bool>,
    /// What a router lets in.
    pub port_mapping: Option<PortMapping>,
    /// Whether bytes cost money there.
    pub metered: bool,
    /// The relays of its map.
    pub relays: Vec<RelayReached>,
}

/// A mapping that a router gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortMapping {
    /// `pcp`, `nat_pmp`, `upnp`.
    pub protocol: String,
    /// The router's address and port.
    pub external: String,
}

/// How a relay answered a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayReached {
    /// Its number in the map.
    pub number: u16,
    /// `udp`, `tcp`, `tls`; none = it did not answer.
    pub rung: Option<String>,
    /// The round trip.
    pub rtt_us: Option<u32>,
}

/// A rule.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Senders: selectors, one match suffices.
    pub from: Vec<String>,
    /// Receivers.
    pub to: Vec<String>,
    /// `tcp/22`, `icmp`, `any` …
    pub allow: Vec<String>,
}

/// A policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Its network.
    pub network: Named,
    /// Counts policies of the network; the ETag.
    pub revision: u64,
    /// Since when it is in force.
    pub since: String,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Asks for a policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPolicy {
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// What a new policy did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicySet {
    /// Its version.
    pub revision: u64,
    /// Devices whose map changed.
    pub devices_affected: usize,
}

/// A network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Network {
    /// `net_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `100.93.0.0/16`.
    pub ipv4: String,
    /// `fd5c:7e0a:91b3::/48`.
    pub ipv6: String,
    /// MTU of mesh interfaces, in bytes.
    pub mtu: u16,
    /// Seconds without the coordinator after which a map ends.
    pub lease_s: u32,
    /// Newest revision of its map.
    pub map_revision: u64,
    /// Members.
    pub members: u32,
    /// Members that it has room for.
    pub capacity: u32,
    /// When it was made.
    pub created_at: String,
}

/// A row of the audit trail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Its place in the chain.
    pub seq: u64,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// By which way.
    pub via: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// Named facts.
    pub detail: BTreeMap<String, String>,
    /// Hash of the row before, in hexadecimal.
    pub prev_hash: String,
    /// Hash of this row, in hexadecimal.
    pub hash: String,
}

/// What a check of the audit chain found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditCheck {
    /// Rows that hold, from the first on.
    pub rows: u64,
    /// The row at which the chain is broken.
    pub broken_at: Option<u64>,
}

/// Why a device is not in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhyNot {
    /// Whether it is a member.
    pub member: bool,
    /// One sentence.
    pub sentence: String,
    /// A command that would help.
    #[serde(rename = "try")]
    pub attempt: Option<String>,
}

/// What this coordinator is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Coordinator {
    /// What people compare.
    pub fingerprint: String,
    /// Its version.
    pub version: String,
    /// Where devices find it.
    pub addresses: Vec<String>,
}

/// The coordinator's own key, and how far its change has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CoordinatorKey {
    /// Counts changes.
    pub generation: u32,
    /// Fingerprint of the key that devices pin.
    pub current: String,
    /// Fingerprint of the one that comes after it.
    pub next: String,
    /// When devices were told the next one; `None` = they were not.
    pub announced_at: Option<String>,
    /// Members that have heard it.
    pub heard: u32,
    /// Members that have not.
    pub unheard: u32,
    /// Names of the first of these.
    pub unheard_names: String,
    /// Devices that wait or are put out, and have not.
    pub unheard_others: u32,
}
