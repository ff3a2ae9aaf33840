//! Settings and policy files: who wins, and what is said about mistakes.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::path::PathBuf;

use weft_coordinator::config::document::Document;
use weft_coordinator::config::{self, Overrides, Source, policy_file};
use weft_coordinator::domain::policy::Policy;
use weft_coordinator::failure::Failure;

mod common;

use common::TempDir;

struct Case {
    dir: TempDir,
    overrides: Overrides,
}

impl Case {
    fn new(text: &str) -> Self {
        let dir = TempDir::new();
        let file = dir.path().join("coordinator.toml");
        std::fs::write(&file, text).unwrap();
        Self { dir, overrides: Overrides { file: Some(file), ..Overrides::default() } }
    }

    /// All messages, with the temporary folder taken out.
    fn failures(&self) -> Vec<String> {
        let failures = config::load(&self.overrides).unwrap_err();
        let folder = format!("{}/", self.dir.path().display());
        failures.iter().map(|failure| failure.to_string().replace(&folder, "")).collect()
    }
}

fn complaint(text: &str) -> String {
    let failures = Case::new(text).failures();
    assert_eq!(failures.len(), 1, "{failures:#?}");
    failures[0].lines().next().unwrap().to_owned()
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let text = "[server]\npublic = \"file.example\"\nthreads = 4\nlisten = [\"127.0.0.1:1\", \"[::1]:2\"]\n";
    let mut case = Case::new(text);
    case.overrides.environment = vec![
        ("WEFT_COORDINATOR_PUBLIC".to_owned(), "environment.example".to_owned()),
        ("WEFT_COORDINATOR_THREADS".to_owned(), "8".to_owned()),
    ];
    case.overrides.flags = vec![("public", "flag.example:443".to_owned())];
    let config = config::load(&case.overrides).unwrap();
    assert_eq!(config.public.as_ref().unwrap().authority(), "flag.example:443");
    assert_eq!(config.threads, 8);
    assert_eq!(config.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!(config.socket, PathBuf::from("/run/weft-coordinator.sock"));
    let sources: Vec<_> =
        config.resolved.iter().map(|one| (one.name.as_str(), one.source.clone())).collect();
    let file = case.overrides.file.as_ref().unwrap().display().to_string();
    assert_eq!(sources[0], ("server.public", Source::Flag("public")));
    assert_eq!(sources[1], ("server.data", Source::Default));
    assert_eq!(sources[2], ("server.listen", Source::File(file, 4)));
    assert_eq!(sources[4], ("server.threads", Source::Environment("WEFT_COORDINATOR_THREADS")));
}

#[test]
fn the_place_is_shown_with_a_caret() {
    let failures = Case::new("[server]\n  lisen = [\"0.0.0.0:7420\"]\n").failures();
    let expected = r#"error[config.unknown-key]: unknown key "lisen" in [server]; there is "listen"
  --> coordinator.toml:2:3
   |
 2 |   lisen = ["0.0.0.0:7420"]
   |   ^^^^^"#;
    assert_eq!(failures, [expected]);
}

#[test]
fn each_mistake_has_its_sentence() {
    for (text, expected) in [
        (
            "[sever]\n",
            r#"error[config.unknown-section]: unknown section [sever]; there is [server]"#,
        ),
        ("[other]\n", r#"error[config.unknown-section]: unknown section [other]"#),
        (
            "public = \"a\"\n",
            r#"error[config.unknown-key]: unknown key "public"; "public" belongs to [server]"#,
        ),
        (
            "[server]\nlevel = \"info\"\n",
            r#"error[config.unknown-key]: unknown key "level" in [server]; "level" belongs to [log]"#,
        ),
        (
            "[server]\nthreads = 2\nthreads = 3\n",
            r#"error[config.duplicate]: "threads" is set twice, first in line 2"#,
        ),
        (
            "[server]\nthreads = \"2\"\n",
            r#"error[config.type]: threads is a number, found the string "2"; write it without quotes"#,
        ),
        (
            "[server]\nthreads = true\n",
            "error[config.type]: threads is a number, found true or false",
        ),
        ("[server]\ndata = 5\n", "error[config.type]: data is a string, found a number"),
        (
            "[server]\nlisten = [5]\n",
            "error[config.type]: listen is a list of addresses, found a number",
        ),
        ("[server]\nthreads = 65\n", "error[config.range]: threads is 65; 1 to 64 is possible"),
        (
            "[server]\nlisten = \"8883\"\n",
            r#"error[config.address]: listen "8883": an address and a port are needed, for example "0.0.0.0:8883""#,
        ),
        ("[server]\nlisten = []\n", "error[config.value]: listen is empty"),
        (
            "[server]\npublic = \"http://x\"\n",
            r#"error[config.address]: public "http://x": a name or an address is needed, with a port if it is not 7420"#,
        ),
        (
            "[log]\nlevel = \"loud\"\n",
            r#"error[config.value]: level is "loud"; error, warn, info, debug, trace are possible"#,
        ),
    ] {
        assert_eq!(complaint(text), expected, "{text}");
    }
    assert!(complaint("[server]\nthreads 5\n").starts_with("error[config.syntax]: "));
}

#[test]
fn all_mistakes_come_in_one_run_in_order_at_most_ten() {
    let failures = Case::new("[server]\nlisen = 1\nthreads = 0\n[lok]\n").failures();
    let lines: Vec<_> = failures.iter().map(|one| one.lines().nth(1).unwrap()).collect();
    assert_eq!(
        lines,
        ["  --> coordinator.toml:2:1", "  --> coordinator.toml:3:11", "  --> coordinator.toml:4:2"]
    );
    let many: String = (0..20).map(|n| format!("[server{n}x]\n")).collect();
    assert_eq!(Case::new(&many).failures().len(), 10);
}

#[test]
fn the_environment_is_named() {
    let mut case = Case::new("");
    case.overrides.environment = vec![("WEFT_COORDINATOR_THREADS".to_owned(), "abc".to_owned())];
    let expected = r#"error[config.env]: WEFT_COORDINATOR_THREADS: threads is "abc", a number was expected (environment)"#;
    assert_eq!(case.failures(), [expected]);
}

#[test]
fn a_named_file_must_be_there_and_the_default_need_not() {
    let mut case = Case::new("");
    case.overrides.file = Some(case.dir.path().join("x.toml"));
    assert_eq!(case.failures(), ["error[config.not-found]: no file x.toml (from --config)"]);
    case.overrides.file = None;
    case.overrides.flags = vec![("data", case.dir.path().join("data").display().to_string())];
    assert!(config::load(&case.overrides).is_ok());
}

/// Whoever keeps the state elsewhere keeps its configuration there too.
#[test]
fn the_configuration_lies_beside_the_data() {
    let case = Case::new("[server]\nthreads = 7\n");
    let folder = case.dir.path().display().to_string();
    let overrides = Overrides { flags: vec![("data", folder)], ..Overrides::default() };
    assert_eq!(config::load(&overrides).unwrap().threads, 7);
}

/// A whole `[broker]` with one line changed.
fn broker(change: impl Fn(&'static str) -> Option<&'static str>) -> String {
    let lines = [
        "address = \"broker.lan\"",
        "user = \"weft-coordinator\"",
        "password_file = \"/etc/weft/broker.password\"",
        "device_address = \"mqtt.example.net:8883\"",
        "device_user = \"weft-device\"",
        "device_password_file = \"/etc/weft/device.password\"",
    ];
    let lines: Vec<_> = lines.iter().filter_map(|line| change(line)).collect();
    format!("[broker]\n{}\n", lines.join("\n"))
}

#[test]
fn a_broker_of_others_is_named_with_both_accounts() {
    let load = |text: &str| config::load(&Case::new(text).overrides).unwrap();
    assert_eq!(load("").broker, None);
    let whole = load(&broker(Some)).broker.unwrap();
    assert_eq!(whole.address.authority(), "broker.lan:1883");
    assert_eq!(whole.device_address.authority(), "mqtt.example.net:8883");
    assert_eq!(whole.own.password_file, PathBuf::from("/etc/weft/broker.password"));
    let near = load(&broker(|line| (!line.starts_with("device_address")).then_some(line)));
    assert_eq!(near.broker.unwrap().device_address.authority(), "broker.lan:1883");
    for (key, expected) in [
        ("address", "broker.user is set and broker.address is not"),
        ("user", "broker.user is needed: the coordinator has an account of its own at the broker"),
        (
            "device_password_file",
            "broker.device_password_file is needed: devices share an account at the broker",
        ),
    ] {
        let text = broker(|line| (!line.starts_with(&format!("{key} "))).then_some(line));
        assert_eq!(complaint(&text), format!("error[config.missing]: {expected}"));
    }
    let one = broker(|line| {
        Some(if line.starts_with("device_user") {
            "device_user = \"weft-coordinator\""
        } else {
            line
        })
    });
    assert!(complaint(&one).contains("both \"weft-coordinator\""));
    assert_eq!(
        complaint("[broker]\naddress = \"mqtt://x\"\n"),
        r#"error[config.address]: address "mqtt://x": a name or an address is needed, with a port if it is not 1883"#,
    );
}

/// A whole `[[relays]]` with one line changed.
fn relay(change: impl Fn(&'static str) -> Option<&'static str>) -> String {
    let lines = [
        "name = \"fra1\"",
        "address = [\"203.0.113.10\", \"2001:db8::10\"]",
        "udp = [3478, 443]",
        "tcp = 443",
        "tls = 5349",
        "secret_file = \"/etc/weft/fra1.secret\"",
        "region = \"eu-central\"",
    ];
    let lines: Vec<_> = lines.iter().filter_map(|line| change(line)).collect();
    format!("[[relays]]\n{}\n", lines.join("\n"))
}

#[test]
fn relays_are_read_and_shown_with_their_lines() {
    let text = relay(Some) + "[[relays]]\nname = \"b\"\naddress = \"::1\"\nsecret_file = \"s\"\n";
    let case = Case::new(&text);
    let config = config::load(&case.overrides).unwrap();
    let [fra1, b] = &config.relays[..] else { panic!("{:?}", config.relays) };
    let shown = "fra1 203.0.113.10 2001:db8::10 3478/udp 443/udp 443/tcp 5349/tls";
    assert_eq!(fra1.relay.to_string(), shown);
    assert_eq!((fra1.relay.udp, fra1.relay.region.as_str()), ([3_478, 443], "eu-central"));
    assert_eq!(fra1.secret_file, PathBuf::from("/etc/weft/fra1.secret"));
    assert_eq!(b.relay.to_string(), "b ::1 3478/udp");
    let file = case.overrides.file.as_ref().unwrap().display().to_string();
    let of = |name: &str| {
        let one = config.resolved.iter().find(|one| one.name == name).unwrap();
        (one.value.clone(), one.source.clone())
    };
    assert_eq!(of("relays.fra1.udp"), ("3478,443".to_owned(), Source::File(file.clone(), 4)));
    let address = "203.0.113.10,2001:db8::10".to_owned();
    assert_eq!(of("relays.fra1.address"), (address, Source::File(file, 3)));
    assert_eq!(of("relays.b.udp"), ("3478".to_owned(), Source::Default));
    assert_eq!(of("relays.b.tls"), (String::new(), Source::Default));
}

#[test]
fn each_mistake_about_a_relay_has_its_sentence() {
    for (key, instead, expected) in [
        ("name", None, r#"config.missing]: "name" is missing in this [[relays]]"#),
        ("address", None, r#"config.missing]: "address" is missing in this [[relays]]"#),
        ("secret_file", None, r#"config.missing]: "secret_file" is missing in this [[relays]]"#),
        (
            "name",
            Some("name = \"Fra 1\""),
            r#"config.value]: name "Fra 1": 1 to 32 of a-z, 0-9 and - are possible"#,
        ),
        ("name", Some("name = 5"), "config.type]: name is a string, found a number"),
        (
            "address",
            Some("address = \"203.0.113.10:3478\""),
            r#"config.address]: address "203.0.113.10:3478": an address without a port is needed, for example "203.0.113.10""#,
        ),
        (
            "address",
            Some("address = [\"192.0.2.1\", \"192.0.2.2\"]"),
            r#"config.value]: address "192.0.2.2": one of each family is possible"#,
        ),
        (
            "address",
            Some("address = \"0.0.0.0\""),
            r#"config.address]: address "0.0.0.0" is no machine's"#,
        ),
        ("address", Some("address = []"), "config.value]: address is empty"),
        ("udp", Some("udp = [1, 2, 3]"), "config.range]: udp holds 3 ports; 2 are possible"),
        ("udp", Some("udp = 70_000"), "config.range]: udp is 70000; 1 to 65535 is possible"),
        ("tcp", Some("tcp = \"443\""), "config.type]: tcp is a port's number, found a string"),
        ("tls", Some("tls = 0"), "config.range]: tls is 0; 1 to 65535 is possible"),
        ("secret_file", Some("secret_file = \"\""), "config.value]: secret_file is empty"),
        (
            "region",
            Some("regoin = \"fra\""),
            r#"config.unknown-key]: unknown key "regoin" in [[relays]]; there is "region""#,
        ),
    ] {
        let text = relay(|line| if line.starts_with(key) { instead } else { Some(line) });
        assert_eq!(complaint(&text), format!("error[{expected}"), "{text}");
    }
    let none = relay(|line| match line.split(' ').next() {
        Some("udp") => Some("udp = []"),
        Some("tcp" | "tls") => None,
        _ => Some(line),
    });
    assert!(complaint(&none).ends_with("this relay has no port: name one of udp, tcp and tls"));
    let many: String = (0..5)
        .map(|n| format!("[[relays]]\nname = \"r{n}\"\naddress = \"::1\"\nsecret_file = \"s\"\n"))
        .collect();
    assert!(complaint(&many).ends_with("5 relays; 4 are possible"));
    let twice = relay(Some) + &relay(Some);
    assert!(complaint(&twice).ends_with(r#"two relays are called "fra1""#));
    for (text, expected) in [
        ("[relays]\nname = \"a\"\n", "relays is a list of sections; write [[relays]]"),
        ("[[relay]]\nname = \"a\"\n", r#"unknown key "relay"; there is [[relays]]"#),
        ("[relay]\nname = \"a\"\n", "unknown section [relay]; there is [[relays]]"),
    ] {
        assert!(complaint(text).ends_with(expected), "{}", complaint(text));
    }
}

#[test]
fn the_example_of_a_relay_is_sound() {
    let text = config::template(&[]);
    let at = text.find("#[[relays]]").unwrap();
    let example: String =
        text[at..].lines().map(|line| line.strip_prefix('#').unwrap().to_owned() + "\n").collect();
    let config = config::load(&Case::new(&example).overrides).unwrap();
    assert_eq!(config.relays[0].relay.name, "fra1");
}

#[test]
fn what_init_writes_is_read_back() {
    let chosen = [("public", "mesh.example.net".to_owned())];
    let text = config::template(&chosen);
    assert!(text.contains("\npublic = \"mesh.example.net\"\n"));
    assert!(text.contains("\n# listen = [\"[::]:7420\"]\n"));
    let case = Case::new(&text);
    let with_file = config::load(&case.overrides).unwrap();
    assert_eq!(with_file.public.unwrap().to_string(), "mesh.example.net");
    // Every comment is the default that it claims to be.
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    let defaults =
        config::load(&Case::new("[server]\npublic = \"mesh.example.net\"\n").overrides).unwrap();
    let explicit = config::load(&Case::new(&uncommented).overrides).unwrap();
    let values = |config: &config::Config| {
        config.resolved.iter().map(|one| one.value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(values(&explicit), values(&defaults));
}

fn policy(text: &str) -> Result<Policy, Vec<Failure>> {
    policy_file::parse(&Document::from_bytes("p.toml".to_owned(), text.into()).unwrap())
}

const POLICY: &str = r#"[[rule]]
name  = "ops to plc"
from  = "role=ops"
to    = ["line=7", "line=8 site"]
allow = ["icmp", "tcp/22", "udp/5000-5010"]

[[rule]]
from  = "any"
to    = "any"
allow = "ip/47"
"#;

#[test]
fn policies_survive_the_round_trip() {
    let read = policy(POLICY).unwrap();
    assert_eq!(policy_file::write(&read), POLICY);
    assert_eq!(read.rules[0].allow.len(), 4, "icmp is two protocols");
    assert_eq!(policy(&policy_file::write(&Policy::default())).unwrap(), Policy::default());
    assert_eq!(policy("").unwrap(), Policy { rules: Vec::new() });
}

#[test]
fn policy_mistakes_have_places() {
    let failures = policy(
        "[[rule]]\nform = \"any\"\nto = \"A B\"\nallow = [\"tcp/0\", 5]\n[[rule]]\nfrom = []\nto = \"any\"\nallow = \"any\"\n[[rules]]\n",
    )
    .unwrap_err();
    let shown: Vec<_> = failures
        .iter()
        .map(|failure| {
            let place = failure.place.as_ref().unwrap();
            format!("{}:{} {} {}", place.line, place.column, failure.code.text(), failure.message)
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"1:1 config.missing "from" is missing in this [[rule]]"#,
            r#"2:1 config.unknown-key unknown key "form" in [[rule]]; there is "from""#,
            "3:6 policy.rule 'A' is not a tag; write key=value in a-z 0-9 . _ - (value also : /)",
            "4:10 policy.rule 'tcp/0' names no traffic; write any, icmp, tcp, tcp/22, udp/5000-5010 or ip/47",
            "4:19 config.type allow is a string or a list of strings, found a number",
            "6:8 config.value from is empty: such a rule lets nothing pass",
            r#"9:3 config.unknown-key unknown key "rules"; there is [[rule]]"#,
        ]
    );
}
