//! A report as the coordinator is told it.

use std::net::IpAddr;

use weft_agent_core::stun::discovery::{FilteringBehaviour, MappingBehaviour};
use weft_wire::network::{
    MappedBy, NatFiltering, NatMapping, NetworkReport, RelayReached, RelayRung,
};

use super::{Family, PortMapping, RelayReport, Report, Rung};

/// Converts it.
pub(crate) fn report(report: &Report, metered: bool) -> NetworkReport {
    let v4 = match report.v4 {
        Family::Seen { public: IpAddr::V4(ip), .. } => Some(ip),
        _ => None,
    };
    let v6 = match report.v6 {
        Family::Seen { public: IpAddr::V6(ip), .. } => Some(ip),
        _ => None,
    };
    let mapped = match &report.port_mapping {
        PortMapping::Mapped { protocol, external, public: true, .. } => {
            let by = match protocol.as_str() {
                "pcp" => MappedBy::Pcp,
                "nat_pmp" => MappedBy::NatPmp,
                _ => MappedBy::Upnp,
            };
            Some((by, *external))
        }
        _ => None,
    };
    NetworkReport {
        v4,
        v6,
        mapping: mapping(report),
        filtering: report.filtering.map_or(NatFiltering::Unknown, |judged| {
            match (judged.behaviour, judged.exact) {
                (FilteringBehaviour::EndpointIndependent, _) => NatFiltering::EndpointIndependent,
                (FilteringBehaviour::Address, true) => NatFiltering::Address,
                // It may let everybody in.
                (FilteringBehaviour::Address, false) => NatFiltering::Unknown,
                (FilteringBehaviour::AddressAndPort, _) => NatFiltering::AddressAndPort,
            }
        }),
        hairpin: report.hairpin,
        mapped,
        metered,
        relays: report.relays.iter().map(relay).take(weft_wire::relay::RELAYS).collect(),
    }
}

fn mapping(report: &Report) -> NatMapping {
    if report.has_no_nat() {
        return NatMapping::NoNat;
    }
    report.mapping.map_or(NatMapping::Unknown, |judged| match judged.behaviour {
        MappingBehaviour::EndpointIndependent => NatMapping::EndpointIndependent,
        MappingBehaviour::Address => NatMapping::Address,
        MappingBehaviour::AddressAndPort => NatMapping::AddressAndPort,
        MappingBehaviour::Sequential(step) => NatMapping::Sequential(step),
        MappingBehaviour::Window(block) => NatMapping::Window(block),
        MappingBehaviour::Random => NatMapping::Random,
    })
}

fn relay(relay: &RelayReport) -> RelayReached {
    let answered = relay.answered().map(|(way, rtt)| {
        let rung = match way.rung {
            Rung::Udp => RelayRung::Udp,
            Rung::Tcp => RelayRung::Tcp,
            Rung::Tls => RelayRung::Tls,
        };
        (rung, u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX))
    });
    RelayReached { relay: relay.number, answered }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_agent_core::stun::discovery::Judged;

    #[test]
    fn what_is_not_shown_is_not_told() {
        let seen = |own| Family::Seen { public: [198, 51, 100, 7].into(), ports: vec![9], own };
        let sample = |own, exact, public| Report {
            v4: seen(own),
            v6: Family::NoRoute,
            mapping: Some(Judged { behaviour: MappingBehaviour::Window(512), exact: true }),
            filtering: Some(Judged { behaviour: FilteringBehaviour::Address, exact }),
            hairpin: None,
            lifetime: None,
            relays: vec![RelayReport { number: 3, name: None, ways: Vec::new() }],
            port_mapping: PortMapping::Mapped {
                protocol: "nat_pmp".to_owned(),
                name: "NAT-PMP".to_owned(),
                router: [192, 168, 1, 1].into(),
                external: "198.51.100.7:9".parse().unwrap(),
                lease_s: 60,
                public,
            },
        };
        let told = report(&sample(false, true, true), true);
        assert_eq!((told.v4, told.v6), (Some([198, 51, 100, 7].into()), None));
        assert_eq!(
            (told.mapping, told.filtering),
            (NatMapping::Window(512), NatFiltering::Address)
        );
        assert_eq!(told.mapped.map(|(by, _)| by), Some(MappedBy::NatPmp));
        assert_eq!(told.relays[0], RelayReached { relay: 3, answered: None });
        assert!(told.metered);
        let told = report(&sample(true, false, false), false);
        assert_eq!((told.mapping, told.filtering), (NatMapping::NoNat, NatFiltering::Unknown));
        assert_eq!(told.mapped, None);
    }
}
