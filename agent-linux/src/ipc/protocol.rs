//! What daemon and commands say to each other. Both are one program, so these
//! shapes may change with it; the version in every line finds the case of a new
//! command beside an old daemon. What scripts see is made from it elsewhere.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use weft_wire::signal::Mapping;

use crate::failure::Failure;
use crate::netcheck::Known;

/// This program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The longest line of a command, in bytes.
pub(crate) const REQUEST_LEN: usize = 1_024;

/// A command's line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) version: String,
    pub(crate) request: Request,
}

/// What a command wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// One [`Answer::Status`].
    Status,
    /// An [`Answer::Progress`] now and at every change, until the command ends.
    Progress,
    /// One [`Answer::Servers`].
    Servers,
    /// One [`Answer::Why`] on the peer with this id.
    Why { peer: String },
    /// One [`Answer::Echo`], when the reply came or did not.
    Echo { to: IpAddr, sequence: u16, bytes: u16, wait_ms: u32 },
    /// A command measured this round trip to a peer through the host's own stack.
    /// One [`Answer::Status`] with it.
    Measured { peer: IpAddr, rtt_us: u64 },
    /// [`Answer::Lines`] from the first kept line that is no older than `since_s`
    /// seconds; with `follow` also what comes.
    Logs { follow: bool, since_s: Option<u64> },
    /// Take everything back and end. [`Answer::Stopped`].
    Down,
    /// Tell the coordinator, erase the identity, end. [`Answer::Stopped`].
    Leave,
    /// End and erase an identity that never became a member. [`Answer::Stopped`].
    Abandon,
}

impl Request {
    /// Whether only root and the daemon's own user may ask for it.
    pub(crate) const fn changes(&self) -> bool {
        matches!(self, Self::Down | Self::Leave | Self::Abandon)
    }
}

/// A daemon's line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) version: String,
    pub(crate) outcome: Outcome,
}

/// Answer or refusal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Answer(Answer),
    Failure(Failure),
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Status(Box<Status>),
    Progress(Box<Progress>),
    /// `None`: there is no such peer any more.
    Why(Option<Box<Evidence>>),
    /// Who was asked, and microseconds to the reply; `None`: none came in time.
    Echo(IpAddr, Option<u64>),
    Lines(Vec<String>),
    /// Whom `weft netcheck` asks.
    Servers(Known),
    Stopped(Stopped),
}

/// What was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stopped {
    pub(crate) interface: bool,
    pub(crate) routes: usize,
}

/// Who this machine is in its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    /// `dev_2j7m5ctnuzov`.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) network: String,
    /// Of its identity: what an operator compares before letting it in.
    pub(crate) fingerprint: String,
    /// `None` until the device has addresses (waiting for approval).
    pub(crate) addresses: Option<(Ipv4Addr, Ipv6Addr)>,
    /// Length of the IPv4 range that all devices are in.
    pub(crate) range: Option<(Ipv4Addr, u8)>,
    /// `active`, `pending`, `blocked`, `quarantined`, `rejected`.
    pub(crate) standing: String,
    /// An operator's sentence on that, or empty.
    pub(crate) reason: String,
    /// Since when, Unix time in milliseconds, if it is out.
    pub(crate) since_ms: Option<u64>,
    /// Another machine that uses this identity.
    pub(crate) other: Option<OtherMachine>,
}

/// Another machine with this one's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OtherMachine {
    /// From where it was heard, if the carrier knows.
    pub(crate) address: Option<String>,
    /// Milliseconds since it was heard; `None` without the coordinator's time.
    pub(crate) heard_ms: Option<u64>,
}

/// The line to the coordinator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Coordinator {
    /// `mesh.example.net`.
    pub(crate) host: String,
    /// `mqtt://mesh.example.net:7420`, the address in use or tried last.
    pub(crate) address: String,
    /// Of the coordinator's key.
    pub(crate) fingerprint: String,
    /// A sealed session stands.
    pub(crate) online: bool,
    /// The MQTT line stands.
    pub(crate) connected: bool,
    /// Seconds that the line stands on which it has not proved itself.
    #[serde(default)]
    pub(crate) unproven_s: Option<u64>,
    /// Milliseconds since it was heard authentically; `None`: not since start.
    pub(crate) heard_ms: Option<u64>,
    /// While it is away: whether a relay keeps a line that peers can call over.
    #[serde(default)]
    pub(crate) relay_line: bool,
    /// Why the line is down.
    pub(crate) cause: Option<String>,
    /// Epoch and revision of the map in force.
    pub(crate) map: Option<(String, u64)>,
}

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Path {
    /// From address to address.
    Direct { remote: String },
    /// Over a relay: its address, what people call it, and how this machine reaches
    /// it; `None` = the peer does.
    Relay {
        remote: String,
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        number: u16,
        #[serde(default)]
        rung: Option<String>,
    },
    /// No tunnel now; the first packet makes one.
    Idle,
    /// It was wanted last, and no way to it was found.
    Nowhere,
    /// A tunnel is being made.
    Connecting,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) addresses: (Ipv4Addr, Ipv6Addr),
    /// Ranges behind it, `192.168.7.0/24`.
    pub(crate) routes: Vec<String>,
    pub(crate) path: Path,
    /// Milliseconds since its data takes that way.
    #[serde(default)]
    pub(crate) since_ms: Option<u64>,
    pub(crate) rtt_us: Option<u64>,
    /// Milliseconds since that was measured.
    #[serde(default)]
    pub(crate) rtt_ms_ago: Option<u64>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    /// Milliseconds since the last data packet, either way.
    pub(crate) data_ms: Option<u64>,
    /// Milliseconds since the last handshake.
    pub(crate) handshake_ms: Option<u64>,
    /// What tells the PSK in use from others, `9f3a01c2`; `None` = there is none.
    #[serde(default)]
    pub(crate) psk_mark: Option<String>,
}

/// An attempt at a direct way to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tried {
    /// Of [`weft_wire::verdict::AttemptEnd`].
    pub(crate) end: u16,
    /// Milliseconds since it ended.
    pub(crate) ago_ms: u64,
    /// From the call to the end.
    pub(crate) took_ms: u16,
    /// Addresses that were tried, and how many answered.
    pub(crate) tried: u8,
    pub(crate) answered: u8,
    /// Probes sent to them, or initiations.
    pub(crate) sent: u16,
}

/// A relay that gave nothing when one was last asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RelayFailure {
    /// Its number in the map.
    pub(crate) relay: u16,
    /// Of [`weft_agent_core::relay::Why`].
    pub(crate) why: String,
    /// It was there and said no.
    pub(crate) refused: bool,
}

/// What this machine knows of how a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Evidence {
    /// Where servers see this machine from.
    pub(crate) seen: Vec<String>,
    /// One of these is an address of its own.
    pub(crate) open: Option<String>,
    /// How its NAT chooses ports, and milliseconds since that was found out.
    pub(crate) mapping: Mapping,
    pub(crate) mapped_ms: Option<u64>,
    /// What the peer said of its own.
    pub(crate) peer_mapping: Mapping,
    /// Newest first.
    pub(crate) attempts: Vec<Tried>,
    /// Attempts in a row that found nothing.
    pub(crate) failed: u16,
    /// Milliseconds since an attempt is under way.
    pub(crate) trying_ms: Option<u64>,
    /// Milliseconds until the next one; `None` = with a packet.
    pub(crate) next_ms: Option<u64>,
    /// What the router opened: the protocol's name and the outer port.
    #[serde(default)]
    pub(crate) mapped: Option<(String, u16)>,
    #[serde(default)]
    pub(crate) relay_failure: Option<RelayFailure>,
    /// Relays that the map named last, if it names none any more.
    #[serde(default)]
    pub(crate) withdrawn: Vec<String>,
    /// What the rules let the peer send to this machine, and this one to the peer:
    /// `tcp/22`.
    #[serde(default)]
    pub(crate) allowed: [Vec<String>; 2],
}

/// How far a change of this device's WireGuard key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyState {
    /// The next key is made; peers do not use it yet.
    Announced,
    /// Peers use a new key; the one before is still accepted.
    Overlapping,
    /// There is one key.
    Settled,
}

/// This device's WireGuard key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) state: KeyState,
    /// Milliseconds since the key in use came into use, if that was since the
    /// start of the daemon.
    pub(crate) changed_ms: Option<u64>,
}

/// A relay of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relay {
    pub(crate) number: u16,
    /// `None`: the coordinator has not told it.
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) addresses: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    pub(crate) udp: Vec<u16>,
    pub(crate) tcp: Option<u16>,
    pub(crate) tls: Option<u16>,
    /// When this device's credentials there end, Unix time in seconds.
    pub(crate) until_s: Option<u64>,
    /// The round trip as it was measured in this network.
    #[serde(default)]
    pub(crate) rtt_ms: Option<u16>,
}

impl Relay {
    /// What people call it: its name, or where it is as long as that is not known.
    pub(crate) fn title(&self) -> String {
        match (&self.name, self.addresses) {
            (Some(name), _) => name.clone(),
            (None, (Some(v4), _)) => v4.to_string(),
            (None, (None, v6)) => v6.map_or_else(String::new, |v6| v6.to_string()),
        }
    }
}

/// Everything `weft status` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) pid: u32,
    pub(crate) up_s: u64,
    /// `None`: enrolling.
    pub(crate) device: Option<Device>,
    pub(crate) interface: Option<String>,
    pub(crate) mtu: Option<u16>,
    pub(crate) port: u16,
    pub(crate) coordinator: Coordinator,
    /// Seconds of the lease that are left.
    pub(crate) lease_s: Option<u64>,
    /// Whether the coordinator has told the time.
    pub(crate) time_told: bool,
    pub(crate) peers: Vec<Peer>,
    /// Peers of the map that found no place here.
    pub(crate) refused_peers: u32,
    /// Packets and datagrams dropped, by reason.
    pub(crate) drops: Vec<(String, u64)>,
    /// Another network that has addresses of the overlay: interface and range.
    pub(crate) overlap: Option<(String, String)>,
    pub(crate) key: Key,
    pub(crate) relays: Vec<Relay>,
    #[serde(default)]
    pub(crate) data: Data,
}

/// What the day's bytes were for, as `weft_agent_core::meter` counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data {
    /// Days since 1970-01-01; `None`: the time is not known, and this is since the
    /// start.
    pub(crate) day: Option<u32>,
    pub(crate) control: u64,
    pub(crate) keepalive: u64,
    pub(crate) probe: u64,
    pub(crate) relay_overhead: u64,
    pub(crate) payload: u64,
    pub(crate) budget: Option<u64>,
    /// The budget binds.
    pub(crate) metered: bool,
    /// Nothing is sent any more that only might help.
    pub(crate) used_up: bool,
}

impl Data {
    /// All but payload: what a budget is for.
    pub(crate) const fn overhead(&self) -> u64 {
        self.control + self.keepalive + self.probe + self.relay_overhead
    }
}

/// What enrolment said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) device: Device,
    pub(crate) wanted_name: String,
    pub(crate) key: String,
    pub(crate) uses: u32,
    /// 0 = no limit.
    pub(crate) max_uses: u32,
    pub(crate) key_name: String,
}

/// How far the daemon is, for `weft join` and `weft up`. Moments are
/// microseconds since boot, so that the command can count from its own start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) pid: u32,
    /// The line stands: its address and since when.
    pub(crate) connected: Option<(String, u64)>,
    /// The line stood for the first time: the coordinator was asked.
    pub(crate) asked_at: Option<u64>,
    /// The coordinator proved itself.
    pub(crate) online_at: Option<u64>,
    /// What enrolment said, and when.
    pub(crate) enrolled: Option<(Enrolled, u64)>,
    /// The interface is up: name, addresses, MTU, since when.
    pub(crate) interface: Option<(String, Ipv4Addr, Ipv6Addr, u16, u64)>,
    /// The map is complete, since when.
    pub(crate) map_at: Option<u64>,
    /// How the device stands, as in [`Device::standing`].
    pub(crate) standing: Option<String>,
    /// As in [`Status`].
    pub(crate) peers: Vec<Peer>,
    /// Tries to open the line that failed in a row, and the last one's failure.
    pub(crate) line: Option<(u32, Failure)>,
    /// The end: this cannot go on.
    pub(crate) failed: Option<Failure>,
}
