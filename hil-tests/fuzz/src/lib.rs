//! Fuzz targets: one for every decoder and one for every border of a state
//! machine.
//!
//! A target is a function of bytes that panics when something promised does not
//! hold. That no input makes it panic is the first promise; the others stand
//! with each target: what decodes is written back to something equal, what was
//! changed by one bit never authenticates, what one client sends never reaches
//! another. The bytes come from libFuzzer ([`Target::run`] is all it needs) or,
//! in an ordinary test, from the files in `corpus/`.

pub mod script;

mod agent;
mod channel;
mod coordinator;
mod discovery;
mod gateway;
mod keys;
mod noise;
mod packet;
mod relay;
mod session;
mod stun;
mod tunnel;
mod turn_client;
mod wire;

pub use keys::{OUR_SECRET, PEER_SECRET, PSK};

/// What the targets take for genuine, for whoever writes seeds.
pub mod genuine {
    pub use crate::agent::{identity, items};
    pub use crate::channel::register;
    pub use crate::gateway::INBOX;
    pub use crate::noise::{End, hello, welcome};
    pub use crate::session::connect;
}

/// A function of bytes that panics when a promise is broken.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// What it reads.
    pub about: &'static str,
    /// The function.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, about: &'static str, run: fn(&[u8])) -> Target {
    Target { name, about, run }
}

/// Every target.
pub const ALL: &[Target] = &[
    target("wire-items", "items of a sealed record, all bodies", wire::items),
    target("wire-map", "a map page and the ops in it", wire::map),
    target("wire-signal", "calls between devices and heartbeats", wire::signal),
    target("wire-frame", "headers of the sealed channel's frames", wire::frame),
    target("wire-join", "the join string", wire::join),
    target("wire-topic", "MQTT topics, ids, passwords, base32 and base64", wire::topic),
    target("wire-probe", "probes between agents", wire::probe),
    target("wire-stun", "STUN messages, and the relay's answer", wire::stun),
    target("stun-types", "STUN and ChannelData, compared with the crate stun-types", stun::run),
    target("wire-http", "frames in the body of an answered post", wire::http),
    target("noise-wireguard", "WireGuard's four messages", noise::wireguard),
    target("noise-sealed", "frames of the sealed channel, both sides", noise::sealed),
    target("noise-changed", "messages changed by one bit never authenticate", noise::changed),
    target("packet", "IP packets, the filter, answers by ICMP", packet::packet),
    target("linux-identity", "the gateway's identity file", gateway::identity),
    target(
        "linux-cache",
        "the gateway's cache file, and the agent that restores it",
        gateway::cache,
    ),
    target("linux-stamp", "the gateway's stamp file", gateway::stamp),
    target("linux-ways", "the gateway's file of ways that stood", gateway::ways),
    target("linux-ipc", "lines between daemon and command line", gateway::ipc),
    target("linux-config", "weft.toml", gateway::configuration),
    target("linux-http", "an HTTP answer, as posts read it", gateway::http),
    target("linux-websocket", "frames of a WebSocket server", gateway::websocket),
    target("linux-portmap", "a router's words on PCP, NAT-PMP and UPnP", gateway::port_mapping),
    target("linux-broker", "a broker's packets, as a device reads them", gateway::broker),
    target("coordinator-mqtt", "MQTT packets of clients", coordinator::mqtt),
    target("coordinator-post", "HTTP posts of devices", coordinator::post),
    target("coordinator-policy", "the policy file", coordinator::policy),
    target("coordinator-config", "coordinator.toml", coordinator::configuration),
    target("coordinator-key", "the coordinator's key file", coordinator::key_file),
    target("coordinator-words", "tags, selectors, searches, public addresses", coordinator::words),
    target("agent", "an agent between a hostile coordinator and hostile peers", agent::run),
    target("tunnel", "two tunnels over a hostile network", tunnel::run),
    target("relay", "the relay between hostile clients and hostile peers", relay::run),
    target("turn-client", "the TURN client of a hostile relay", turn_client::run),
    target("discovery", "the look at a NAT between hostile servers", discovery::run),
    target("session", "an MQTT connection beside that of a victim", session::run),
    target("channel", "the coordinator and an enrolled hostile device", channel::run),
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}
