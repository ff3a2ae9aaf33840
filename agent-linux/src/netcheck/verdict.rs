//! What a network means for paths, in one sentence with a code.
//!
//! The sentences say what an agent of today does: it predicts no ports.

use serde::Serialize;
use weft_agent_core::stun::discovery::{FilteringBehaviour, MappingBehaviour};

use super::{PortMapping, Report, Rung};

/// The one sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) code: &'static str,
    pub(crate) sentence: &'static str,
}

const fn verdict(code: &'static str, sentence: &'static str) -> Verdict {
    Verdict { code, sentence }
}

const OPEN: Verdict = verdict("nat.open", "direct with every NAT");
const EASY: Verdict = verdict(
    "nat.easy",
    "direct with every NAT except one that picks a new port for every destination",
);
const HARD: Verdict = verdict(
    "nat.hard",
    "direct with peers that let everybody in, or the same address; with others over a relay",
);
const UNTOLD: Verdict =
    verdict("nat.untold", "UDP works; how the NAT chooses ports could not be told");
const BLOCKED: Verdict = verdict("nat.blocked", "no UDP gets out: every path goes over a relay");
const SHUT: Verdict =
    verdict("nat.shut", "no UDP gets out and no relay answers: no peer can be reached");

/// Judges a report.
pub(crate) fn judge(report: &Report) -> Verdict {
    if !report.udp() {
        let stream = |rung| matches!(rung, Rung::Tcp | Rung::Tls);
        let mut relays = report.relays.iter().filter_map(super::RelayReport::answered);
        return if relays.any(|(way, _)| stream(way.rung)) { BLOCKED } else { SHUT };
    }
    let everybody =
        report.filtering.is_some_and(|f| f.behaviour == FilteringBehaviour::EndpointIndependent);
    let is_mapped = matches!(report.port_mapping, PortMapping::Mapped { public: true, .. });
    if everybody || is_mapped {
        return OPEN;
    }
    match report.mapping.map(|mapping| mapping.behaviour) {
        Some(MappingBehaviour::EndpointIndependent) => EASY,
        Some(_) => HARD,
        None => UNTOLD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netcheck::{Family, RelayReport, Way};
    use weft_agent_core::stun::discovery::Judged;

    #[test]
    fn a_network_is_judged_by_what_its_box_does() {
        use FilteringBehaviour as F;
        use MappingBehaviour as M;
        let seen = Family::Seen { public: [198, 51, 100, 7].into(), ports: vec![9], own: false };
        let report = |mapping: Option<M>, filtering: Option<F>| Report {
            v4: seen.clone(),
            v6: Family::Unasked,
            mapping: mapping.map(|behaviour| Judged { behaviour, exact: true }),
            filtering: filtering.map(|behaviour| Judged { behaviour, exact: true }),
            hairpin: None,
            lifetime: None,
            relays: Vec::new(),
            port_mapping: PortMapping::Untold,
        };
        let shut = Some(F::AddressAndPort);
        for (mapping, filtering, mapped, expected) in [
            (Some(M::EndpointIndependent), Some(F::EndpointIndependent), None, OPEN),
            (Some(M::Random), Some(F::EndpointIndependent), None, OPEN),
            (Some(M::Random), shut, Some(true), OPEN),
            (Some(M::Random), shut, Some(false), HARD),
            (Some(M::EndpointIndependent), shut, None, EASY),
            (Some(M::EndpointIndependent), None, None, EASY),
            (Some(M::Sequential(1)), shut, None, HARD),
            (Some(M::Address), Some(F::Address), None, HARD),
            (None, None, None, UNTOLD),
        ] {
            let mut report = report(mapping, filtering);
            if let Some(public) = mapped {
                report.port_mapping = PortMapping::Mapped {
                    protocol: "pcp".to_owned(),
                    name: "PCP".to_owned(),
                    router: [192, 168, 1, 1].into(),
                    external: "203.0.113.50:9".parse().unwrap(),
                    lease_s: 7_200,
                    public,
                };
            }
            assert_eq!(judge(&report), expected, "{mapping:?} {filtering:?} {mapped:?}");
        }
        let way = |rung| Way {
            rung,
            address: ([203, 0, 113, 11], 443).into(),
            outcome: Ok(std::time::Duration::ZERO),
        };
        let relays = |rung| vec![RelayReport { number: 1, name: None, ways: vec![way(rung)] }];
        let silent = Report { v4: Family::Silent, ..report(None, None) };
        assert_eq!(judge(&silent), SHUT);
        assert_eq!(judge(&Report { relays: relays(Rung::Tls), ..silent }), BLOCKED);
    }
}
