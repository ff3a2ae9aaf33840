//! `weft.netcheck/1`: what scripts read.

use serde::Serialize;
use weft_agent_core::stun::discovery::{FilteringBehaviour, MappingBehaviour};

use super::verdict::{self, Verdict};
use super::{Family, PortMapping, Report, Way};
use crate::netcheck::RelayReport;

/// What is known of the machine beside its network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Here {
    /// Whether bytes cost money.
    pub(crate) metered: bool,
    /// The interface that leads into the world.
    pub(crate) interface: Option<String>,
    /// Whether lives of bindings were to be measured.
    pub(crate) lives: bool,
}

/// The whole document.
#[derive(Serialize)]
pub(crate) struct Document {
    schema: &'static str,
    udp: bool,
    ipv4: Option<FamilyDocument>,
    ipv6: Option<FamilyDocument>,
    mapping: Option<&'static str>,
    /// Whether nothing else can look like it.
    mapping_exact: Option<bool>,
    filtering: Option<&'static str>,
    filtering_exact: Option<bool>,
    step: Option<i16>,
    window: Option<u16>,
    lifetime_s: Option<u16>,
    /// A binding did not live this long.
    lifetime_below_s: Option<u16>,
    port_mapping: Option<MappedDocument>,
    hairpin: Option<bool>,
    metered: bool,
    relays: Vec<RelayDocument>,
    verdict: Verdict,
}

#[derive(Serialize)]
struct FamilyDocument {
    public: String,
    ports: Vec<u16>,
}

#[derive(Serialize)]
struct MappedDocument {
    protocol: String,
    external: String,
    lease_s: u32,
    public: bool,
}

fn mapped(mapping: &PortMapping) -> Option<MappedDocument> {
    match mapping {
        PortMapping::Mapped { protocol, external, lease_s, public, .. } => Some(MappedDocument {
            protocol: protocol.clone(),
            external: external.to_string(),
            lease_s: *lease_s,
            public: *public,
        }),
        _ => None,
    }
}

#[derive(Serialize)]
struct RelayDocument {
    number: u16,
    name: Option<String>,
    rtt_us: Option<u64>,
    rung: Option<&'static str>,
    error: Option<String>,
    ways: Vec<WayDocument>,
}

#[derive(Serialize)]
struct WayDocument {
    rung: &'static str,
    address: String,
    rtt_us: Option<u64>,
    error: Option<String>,
}

pub(super) const fn mapping_name(behaviour: MappingBehaviour) -> &'static str {
    match behaviour {
        MappingBehaviour::EndpointIndependent => "endpoint_independent",
        MappingBehaviour::Address => "address",
        MappingBehaviour::AddressAndPort => "address_and_port",
        MappingBehaviour::Sequential(_) => "sequential",
        MappingBehaviour::Window(_) => "window",
        MappingBehaviour::Random => "random",
    }
}

const fn filtering_name(behaviour: FilteringBehaviour) -> &'static str {
    match behaviour {
        FilteringBehaviour::EndpointIndependent => "endpoint_independent",
        FilteringBehaviour::Address => "address",
        FilteringBehaviour::AddressAndPort => "address_and_port",
    }
}

fn family(family: &Family) -> Option<FamilyDocument> {
    match family {
        Family::Seen { public, ports, .. } => {
            Some(FamilyDocument { public: public.to_string(), ports: ports.clone() })
        }
        _ => None,
    }
}

fn way(way: &Way) -> WayDocument {
    WayDocument {
        rung: way.rung.name(),
        address: way.address.to_string(),
        rtt_us: way.outcome.as_ref().ok().map(|rtt| rtt.as_micros() as u64),
        error: way.outcome.as_ref().err().cloned(),
    }
}

fn relay(relay: &RelayReport) -> RelayDocument {
    let answered = relay.answered();
    RelayDocument {
        number: relay.number,
        name: relay.name.clone(),
        rtt_us: answered.map(|(_, rtt)| rtt.as_micros() as u64),
        rung: answered.map(|(way, _)| way.rung.name()),
        error: answered.is_none().then(|| "no answer".to_owned()),
        ways: relay.ways.iter().map(way).collect(),
    }
}

/// Writes it.
pub(crate) fn document(report: &Report, here: &Here) -> Document {
    let mapping = report.mapping;
    let (step, window) = match mapping.map(|mapping| mapping.behaviour) {
        Some(MappingBehaviour::Sequential(step)) => (Some(step), None),
        Some(MappingBehaviour::Window(window)) => (None, Some(window)),
        _ => (None, None),
    };
    Document {
        schema: "weft.netcheck/1",
        udp: report.udp(),
        ipv4: family(&report.v4),
        ipv6: family(&report.v6),
        mapping: mapping.map(|judged| mapping_name(judged.behaviour)),
        mapping_exact: mapping.map(|judged| judged.exact),
        filtering: report.filtering.map(|judged| filtering_name(judged.behaviour)),
        filtering_exact: report.filtering.map(|judged| judged.exact),
        step,
        window,
        lifetime_s: report.lifetime.map(|lifetime| lifetime.alive_s),
        lifetime_below_s: report.lifetime.and_then(|lifetime| lifetime.dead_s),
        port_mapping: mapped(&report.port_mapping),
        hairpin: report.hairpin,
        metered: here.metered,
        relays: report.relays.iter().map(relay).collect(),
        verdict: verdict::judge(report),
    }
}
