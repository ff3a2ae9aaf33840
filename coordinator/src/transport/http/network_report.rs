//! A device's network as REST says it.

use weft_wire::network::{MappedBy, NatFiltering, NatMapping, NetworkReport, RelayRung};

use crate::api;

/// Writes it.
pub(super) fn document(report: &NetworkReport) -> api::Netcheck {
    let (mapping, step, window) = match report.mapping {
        NatMapping::Unknown => (None, None, None),
        NatMapping::NoNat => (Some("none"), None, None),
        NatMapping::EndpointIndependent => (Some("endpoint_independent"), None, None),
        NatMapping::Address => (Some("address"), None, None),
        NatMapping::AddressAndPort => (Some("address_and_port"), None, None),
        NatMapping::Sequential(step) => (Some("sequential"), Some(step), None),
        NatMapping::Window(window) => (Some("window"), None, Some(window)),
        NatMapping::Random => (Some("random"), None, None),
    };
    let filtering = match report.filtering {
        NatFiltering::Unknown => None,
        NatFiltering::EndpointIndependent => Some("endpoint_independent"),
        NatFiltering::Address => Some("address"),
        NatFiltering::AddressAndPort => Some("address_and_port"),
    };
    let port_mapping = report.mapped.map(|(by, external)| api::PortMapping {
        protocol: match by {
            MappedBy::Pcp => "pcp",
            MappedBy::NatPmp => "nat_pmp",
            MappedBy::Upnp => "upnp",
        }
        .to_owned(),
        external: external.to_string(),
    });
    let relays = report.relays.iter().map(|reached| api::RelayReached {
        number: reached.relay,
        rung: reached.answered.map(|(rung, _)| self::rung(rung).to_owned()),
        rtt_us: reached.answered.map(|(_, rtt_us)| rtt_us),
    });
    api::Netcheck {
        ipv4: report.v4.map(|ip| ip.to_string()),
        ipv6: report.v6.map(|ip| ip.to_string()),
        mapping: mapping.map(str::to_owned),
        step,
        window,
        filtering: filtering.map(str::to_owned),
        hairpin: report.hairpin,
        port_mapping,
        metered: report.metered,
        relays: relays.collect(),
    }
}

const fn rung(rung: RelayRung) -> &'static str {
    match rung {
        RelayRung::Udp => "udp",
        RelayRung::Tcp => "tcp",
        RelayRung::Tls => "tls",
    }
}
