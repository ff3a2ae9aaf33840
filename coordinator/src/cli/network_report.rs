//! What a device found out about its network, as a person reads it.

use crate::api::{Netcheck, RelayReached};

use super::format::NOTHING;

/// Columns of the labels.
const LABEL: usize = 17;

/// The text, line by line.
pub(super) fn describe(report: &Netcheck) -> Vec<String> {
    let line = |label: &str, text: String| format!("{label:<LABEL$}{text}");
    let address = |ip: &Option<String>| ip.clone().unwrap_or_else(|| NOTHING.to_owned());
    let (v4, v6) = (address(&report.ipv4), address(&report.ipv6));
    let port_mapping = report.port_mapping.as_ref().map_or_else(
        || NOTHING.to_owned(),
        |mapping| format!("{}, {}", mapping.protocol, mapping.external),
    );
    let hairpin = report.hairpin.map_or(NOTHING, |yes| if yes { "yes" } else { "no" });
    let relays: Vec<String> = report.relays.iter().map(relay).collect();
    let relays = if relays.is_empty() { NOTHING.to_owned() } else { relays.join("   ") };
    vec![
        line("public address", format!("{v4} (IPv4), {v6} (IPv6)")),
        line("nat mapping", mapping(report)),
        line("nat filtering", filtering(report).to_owned()),
        line("port mapping", port_mapping),
        line("hairpin", hairpin.to_owned()),
        line("metered", if report.metered { "yes" } else { "no" }.to_owned()),
        line("relays", relays),
    ]
}

fn mapping(report: &Netcheck) -> String {
    let another = "another port for every destination";
    match (report.mapping.as_deref(), report.step, report.window) {
        (Some("none"), ..) => "none: the public address is its own".to_owned(),
        (Some("endpoint_independent"), ..) => "same port for every destination".to_owned(),
        (Some("address"), ..) => "another port for every address".to_owned(),
        (Some("sequential"), Some(step), _) => format!("{another}, in steps of {step}"),
        (Some("window"), _, Some(window)) => format!("{another}, in a block of {window}"),
        (Some("random"), ..) => format!("{another}, without a pattern"),
        (Some(_), ..) => another.to_owned(),
        (None, ..) => NOTHING.to_owned(),
    }
}

fn filtering(report: &Netcheck) -> &'static str {
    match report.filtering.as_deref() {
        Some("endpoint_independent") => "answers from everybody get in",
        Some("address") => "only answers from the same address get in",
        Some(_) => "only answers from the exact address and port get in",
        None => NOTHING,
    }
}

/// By its number: the map gives it no name.
fn relay(reached: &RelayReached) -> String {
    let number = reached.number;
    match (&reached.rung, reached.rtt_us) {
        (Some(rung), Some(rtt_us)) => {
            format!("{number}  {:.1} ms {rung}", f64::from(rtt_us) / 1_000.0)
        }
        _ => format!("{number}  no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::PortMapping;

    #[test]
    fn every_finding_has_its_line() {
        let relay = |number, answered: Option<(&str, u32)>| RelayReached {
            number,
            rung: answered.map(|(rung, _)| rung.to_owned()),
            rtt_us: answered.map(|(_, rtt_us)| rtt_us),
        };
        let report = Netcheck {
            ipv4: Some("203.0.113.50".to_owned()),
            ipv6: None,
            mapping: Some("window".to_owned()),
            step: None,
            window: Some(512),
            filtering: Some("address_and_port".to_owned()),
            hairpin: Some(false),
            port_mapping: Some(PortMapping {
                protocol: "nat_pmp".to_owned(),
                external: "203.0.113.50:51871".to_owned(),
            }),
            metered: true,
            relays: vec![relay(1, Some(("tls", 23_100))), relay(2, None)],
        };
        assert_eq!(
            describe(&report),
            [
                "public address   203.0.113.50 (IPv4), – (IPv6)",
                "nat mapping      another port for every destination, in a block of 512",
                "nat filtering    only answers from the exact address and port get in",
                "port mapping     nat_pmp, 203.0.113.50:51871",
                "hairpin          no",
                "metered          yes",
                "relays           1  23.1 ms tls   2  no answer",
            ]
        );
    }
}
