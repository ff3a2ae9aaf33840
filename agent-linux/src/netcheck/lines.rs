//! A report as a person reads it.

use weft_agent_core::stun::discovery::{FilteringBehaviour, Judged, Lifetime, MappingBehaviour};

use super::document::Here;
use super::{Family, PortMapping, RelayReport, Report, verdict};
use crate::output::{Symbols, paint, style, units};

/// Columns of the labels.
const LABEL: usize = 17;

/// The text, line by line.
pub(crate) fn describe(report: &Report, here: &Here, symbols: Symbols) -> Vec<String> {
    let line = |label: &str, text: String| format!("{label:<LABEL$}{text}");
    let udp = if report.udp() {
        format!("{} works", paint(style::GOOD, symbols.ok))
    } else {
        format!("{} no answer", paint(style::BAD, symbols.fail))
    };
    let mut lines = vec![
        line("udp", udp),
        line("public address", addresses(report, symbols)),
        line("nat mapping", mapping(report, symbols)),
        line("nat filtering", filtering(report.filtering, here, symbols)),
        line("binding life", life(report.lifetime, here, symbols)),
        line("port mapping", port_mapping(&report.port_mapping, symbols)),
        line("hairpin", word(report.hairpin, symbols)),
        line("metered", metered(here)),
    ];
    lines.push(line("relays", relays(&report.relays, symbols)));
    let tried = report.relays.iter().filter(|relay| relay.ways.len() > 1);
    lines.extend(tried.map(|relay| line("", ways(relay))));
    let judged = verdict::judge(report);
    let code = paint(style::DIM, format_args!("[{}]", judged.code));
    lines.push(line("verdict", format!("{}  {code}", paint(style::BOLD, judged.sentence))));
    lines
}

fn addresses(report: &Report, symbols: Symbols) -> String {
    let family = |family: &Family, name: &str| match family {
        Family::Seen { public, .. } => format!("{public} ({name})"),
        Family::Unasked => format!("{} ({name}: no server)", symbols.none),
        Family::NoRoute => format!("{} ({name}: no route)", symbols.none),
        Family::Silent => format!("{} ({name}: no answer)", symbols.none),
    };
    format!("{}, {}", family(&report.v4, "IPv4"), family(&report.v6, "IPv6"))
}

fn mapping(report: &Report, symbols: Symbols) -> String {
    if report.has_no_nat() {
        return "none: the public address is this machine's own".to_owned();
    }
    let Some(Judged { behaviour, exact }) = report.mapping else {
        return format!("{} (fewer than two servers answered)", symbols.none);
    };
    let another = "another port for every destination";
    match behaviour {
        MappingBehaviour::EndpointIndependent if exact => {
            "same port for every destination (endpoint independent)".to_owned()
        }
        MappingBehaviour::EndpointIndependent => {
            "same port for every port of one server (endpoint independent, or by address)"
                .to_owned()
        }
        MappingBehaviour::Address => "another port for every address (by address)".to_owned(),
        MappingBehaviour::AddressAndPort => format!("{another} (by address and port)"),
        MappingBehaviour::Sequential(step) => format!("{another}, in steps of {step} (sequential)"),
        MappingBehaviour::Window(block) => {
            let block = units::thousands(block.into());
            format!("{another}, in a block of {block} (window)")
        }
        MappingBehaviour::Random => format!("{another}, without a pattern (random)"),
    }
}

fn filtering(
    filtering: Option<Judged<FilteringBehaviour>>,
    here: &Here,
    symbols: Symbols,
) -> String {
    let Some(Judged { behaviour, exact }) = filtering else {
        let why = if here.metered { "not tested, metered" } else { "no server here can show it" };
        return format!("{} ({why})", symbols.none);
    };
    match behaviour {
        FilteringBehaviour::EndpointIndependent => "answers from everybody get in",
        FilteringBehaviour::Address if exact => "only answers from the same address get in",
        FilteringBehaviour::Address => {
            "answers from another port get in (from another address: no server here can show it)"
        }
        FilteringBehaviour::AddressAndPort => "only answers from the exact address and port get in",
    }
    .to_owned()
}

fn life(lifetime: Option<Lifetime>, here: &Here, symbols: Symbols) -> String {
    match lifetime {
        None if here.lives => format!("{} (no server here can show it)", symbols.none),
        None => "not measured (3 min:  weft netcheck --lifetime)".to_owned(),
        Some(Lifetime { alive_s, dead_s: None }) => format!("{alive_s} s or more (measured)"),
        Some(Lifetime { alive_s: 0, dead_s: Some(dead) }) => {
            format!("less than {dead} s (measured)")
        }
        Some(Lifetime { alive_s, dead_s: Some(dead) }) => {
            format!("{alive_s} s to {dead} s (measured)")
        }
    }
}

fn port_mapping(mapping: &PortMapping, symbols: Symbols) -> String {
    match mapping {
        PortMapping::Untold => format!("{} (the daemon asks for one)", symbols.none),
        PortMapping::Off(setting) => format!("{} (off by {setting} in weft.toml)", symbols.none),
        PortMapping::Nothing => format!("{} (no router gave one)", symbols.none),
        PortMapping::Mapped { name, router, external, lease_s, public, .. } => {
            let (mark, place) = if *public {
                (paint(style::GOOD, symbols.ok), String::new())
            } else {
                let place = format!(", which is behind another NAT ({})", external.ip());
                (paint(style::WARN, symbols.warn), place)
            };
            let life = match lease_s {
                0 => "without an end".to_owned(),
                seconds => format!("for {} s", units::thousands(u64::from(*seconds))),
            };
            format!("{mark} {name} on {router}{place}, UDP {} {life}", external.port())
        }
    }
}

fn word(yes: Option<bool>, symbols: Symbols) -> String {
    match yes {
        Some(true) => "yes",
        Some(false) => "no",
        None => symbols.none,
    }
    .to_owned()
}

fn metered(here: &Here) -> String {
    let word = if here.metered { "yes" } else { "no" };
    here.interface.as_ref().map_or_else(|| word.to_owned(), |name| format!("{word} ({name})"))
}

/// A relay's name, or where it is as long as nobody has told that.
fn name(relay: &RelayReport) -> String {
    let place = || relay.ways.first().map(|way| way.address.ip().to_string());
    relay.name.clone().or_else(place).unwrap_or_else(|| relay.number.to_string())
}

fn relays(relays: &[RelayReport], symbols: Symbols) -> String {
    let one = |relay: &RelayReport| {
        let name = name(relay);
        match relay.answered() {
            Some((way, rtt)) => {
                format!("{name}  {} {}", units::span_us(rtt.as_micros() as u64), way.rung.name())
            }
            None => format!("{name}  {}", paint(style::BAD, "no answer")),
        }
    };
    let all: Vec<String> = relays.iter().map(one).collect();
    if all.is_empty() { format!("{} (none known)", symbols.none) } else { all.join("   ") }
}

/// Every way to a relay.
fn ways(relay: &RelayReport) -> String {
    let one = |way: &super::Way| {
        let outcome = match &way.outcome {
            Ok(rtt) => units::span_us(rtt.as_micros() as u64),
            Err(words) => words.clone(),
        };
        let family = if way.address.is_ipv6() { " IPv6" } else { "" };
        format!("{} {}{family} {outcome}", way.rung.name(), way.address.port())
    };
    let ways: Vec<String> = relay.ways.iter().map(one).collect();
    paint(style::DIM, format_args!("{}: {}", name(relay), ways.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netcheck::document::document;
    use crate::netcheck::{Rung, Way};
    use crate::output::{Settings, Ui};
    use std::time::Duration;

    fn sample() -> (Report, Here) {
        let way =
            |rung, port, outcome| Way { rung, address: ([203, 0, 113, 11], port).into(), outcome };
        let report = Report {
            v4: Family::Seen {
                public: [198, 51, 100, 7].into(),
                ports: vec![41_641, 41_641],
                own: false,
            },
            v6: Family::NoRoute,
            mapping: Some(Judged { behaviour: MappingBehaviour::EndpointIndependent, exact: true }),
            filtering: Some(Judged { behaviour: FilteringBehaviour::AddressAndPort, exact: true }),
            hairpin: Some(false),
            lifetime: Some(Lifetime { alive_s: 120, dead_s: Some(180) }),
            port_mapping: PortMapping::Mapped {
                protocol: "nat_pmp".to_owned(),
                name: "NAT-PMP".to_owned(),
                router: [192, 168, 1, 1].into(),
                external: "198.51.100.7:41641".parse().unwrap(),
                lease_s: 7_200,
                public: false,
            },
            relays: vec![RelayReport {
                number: 1,
                name: Some("fra1".to_owned()),
                ways: vec![
                    way(Rung::Udp, 3_478, Ok(Duration::from_micros(23_100))),
                    way(Rung::Tls, 443, Err("refused".to_owned())),
                ],
            }],
        };
        let interface = Some("eth0".to_owned());
        (report, Here { metered: false, interface, lives: true })
    }

    fn text(report: &Report, here: &Here) -> String {
        let symbols = Ui::new(&Settings::default()).symbols;
        let lines = describe(report, here, symbols).join("\n");
        anstream::adapter::strip_str(&lines).to_string()
    }

    #[test]
    fn a_person_reads_every_finding_in_its_line() {
        let (report, here) = sample();
        assert_eq!(
            text(&report, &here),
            "udp              ✓ works\n\
             public address   198.51.100.7 (IPv4), – (IPv6: no route)\n\
             nat mapping      same port for every destination (endpoint independent)\n\
             nat filtering    only answers from the exact address and port get in\n\
             binding life     120 s to 180 s (measured)\n\
             port mapping     ! NAT-PMP on 192.168.1.1, which is behind another NAT \
             (198.51.100.7), UDP 41641 for 7,200 s\n\
             hairpin          no\n\
             metered          no (eth0)\n\
             relays           fra1  23.1 ms udp\n                 \
             fra1: udp 3478 23.1 ms, tls 443 refused\n\
             verdict          direct with every NAT except one that picks a new port for every \
             destination  [nat.easy]"
        );
    }

    #[test]
    fn what_was_not_found_out_is_said_so() {
        let nothing = Report {
            v4: Family::Silent,
            v6: Family::Unasked,
            mapping: None,
            filtering: None,
            hairpin: None,
            lifetime: None,
            relays: Vec::new(),
            port_mapping: PortMapping::Off("metered".to_owned()),
        };
        let text = text(&nothing, &Here { metered: true, ..Here::default() });
        let unnamed = RelayReport { number: 7, name: None, ways: Vec::new() };
        assert_eq!(name(&unnamed), "7");
        for line in [
            "udp              ✗ no answer",
            "public address   – (IPv4: no answer), – (IPv6: no server)",
            "nat mapping      – (fewer than two servers answered)",
            "nat filtering    – (not tested, metered)",
            "binding life     not measured (3 min:  weft netcheck --lifetime)",
            "port mapping     – (off by metered in weft.toml)",
            "metered          yes",
            "relays           – (none known)",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} in\n{text}");
        }
    }

    #[test]
    fn a_script_reads_the_same() {
        let (mut report, here) = sample();
        let json = serde_json::to_string(&document(&report, &here)).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"schema":"weft.netcheck/1","udp":true,"#,
                r#""ipv4":{"public":"198.51.100.7","ports":[41641,41641]},"ipv6":null,"#,
                r#""mapping":"endpoint_independent","mapping_exact":true,"#,
                r#""filtering":"address_and_port","filtering_exact":true,"#,
                r#""step":null,"window":null,"lifetime_s":120,"lifetime_below_s":180,"#,
                r#""port_mapping":{"protocol":"nat_pmp","external":"198.51.100.7:41641","#,
                r#""lease_s":7200,"public":false},"hairpin":false,"metered":false,"#,
                r#""relays":[{"number":1,"name":"fra1","rtt_us":23100,"rung":"udp","error":null,"ways":["#,
                r#"{"rung":"udp","address":"203.0.113.11:3478","rtt_us":23100,"error":null},"#,
                r#"{"rung":"tls","address":"203.0.113.11:443","rtt_us":null,"error":"refused"}]}],"#,
                r#""verdict":{"code":"nat.easy","sentence":"direct with every NAT except one "#,
                r#"that picks a new port for every destination"}}"#
            )
        );
        report.mapping = Some(Judged { behaviour: MappingBehaviour::Window(512), exact: true });
        let json = serde_json::to_string(&document(&report, &here)).unwrap();
        assert!(json.contains(r#""mapping":"window""#), "{json}");
        assert!(json.contains(r#""step":null,"window":512"#), "{json}");
    }
}
