use std::path::Path;

use super::*;
use crate::output;

fn parse(text: &str) -> core::result::Result<Config, String> {
    Config::parse(Path::new("/etc/weft/weft.toml"), text.as_bytes()).map_err(|failures| {
        let texts = failures.iter().map(|failure| {
            assert_eq!(failure.exit(), 2);
            anstream::adapter::strip_str(&output::describe(failure, None)).to_string()
        });
        texts.collect::<Vec<_>>().join("\n")
    })
}

fn error(text: &str) -> String {
    parse(text).err().unwrap()
}

#[test]
fn every_key_is_read() {
    let config = parse(
        "[network]\ninterface = \"weft1\"\nlisten_port = 41_641\n\
         metered = true\ndata_budget = \"1.5 MB\"\nport_mapping = false\nport_search = false\nkeep_warm = [\"plc-9\"]\nendpoints = [\"203.0.113.22:41641\", \"[2001:db8::7]:41641\"]\n\
         [tunnel]\nrekey_after_s = 10\n[state]\ndirectory = \"/tmp/w\"\n\
         [socket]\npath = \"/tmp/w.sock\"\ngroup = \"staff\"\n\
         [log]\nlevel = \"debug\"\nformat = \"json\"\naddresses = \"info\"\n",
    )
    .unwrap();
    assert_eq!(config.interface, "weft1");
    let port = config.listen_port.unwrap();
    assert_eq!((port.port, port.source.as_str()), (41_641, "weft.toml:3"));
    assert_eq!(config.endpoints.len(), 2);
    assert!(config.metered && !config.port_mapping && !config.port_search);
    assert_eq!(config.data_budget, Some(1_500_000));
    assert_eq!(config.keep_warm, ["plc-9"]);
    assert_eq!(config.rekey_after_s, Some(10));
    assert_eq!(config.state, Path::new("/tmp/w"));
    assert_eq!(config.socket, Path::new("/tmp/w.sock"));
    assert_eq!(config.socket_group, "staff");
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.log_format, LogFormat::Json);
    assert!(config.log_addresses && config.socket_group_wanted);
}

#[test]
fn an_unknown_key_shows_its_place_and_the_nearest_name() {
    assert_eq!(
        error("\n\n# x\n\n\n[network]\nlisen_port = 41641\n"),
        "error[config.unknown-key]: unknown key \"lisen_port\" in [network]; there is \"listen_port\"\n  \
         --> /etc/weft/weft.toml:7:1\n   |\n 7 | lisen_port = 41641\n   | ^^^^^^^^^^"
    );
    assert!(
        error("[network]\ncolour = 1\n")
            .starts_with("error[config.unknown-key]: unknown key \"colour\" in [network]\n  --> ")
    );
    assert!(error("port = 1\n").contains("unknown key \"port\" outside of a section"));
}

#[test]
fn yes_and_no_stand_without_quotes() {
    let config = parse("[network]\nmetered = false\n").unwrap();
    assert!(!config.metered && config.port_mapping && config.port_search);
    assert!(error("[network]\nmetered = \"true\"\n").starts_with(
        "error[config.type]: metered is true or false, found the string \"true\"; write it \
         without quotes\n"
    ));
    assert!(
        error("[network]\nport_search = 0\n")
            .starts_with("error[config.type]: port_search is true or false, found the number 0\n")
    );
    assert!(error("[network]\nport_serch = false\n").contains("there is \"port_search\"\n"));
}

#[test]
fn sizes_are_numbers_with_a_unit() {
    for (text, bytes) in [
        ("0B", 0),
        ("750 B", 750),
        ("93kB", 93_000),
        ("1MB", 1_000_000),
        ("0.25GB", 250_000_000),
        ("1.000001MB", 1_000_001),
    ] {
        assert_eq!(reader::size(text), Some(bytes), "{text}");
    }
    for text in [
        "",
        "1",
        "MB",
        "1 meg",
        "1mb",
        "1KB",
        "-1MB",
        "1,5MB",
        ".5MB",
        "1.MB",
        "1.0000001MB",
        "1.5B",
    ] {
        assert_eq!(reader::size(text), None, "{text}");
    }
    assert_eq!(reader::size("99999999999GB"), None, "more than there is");
    assert!(error("[network]\ndata_budget = \"1 meg\"\n").starts_with(
        "error[config.size]: data_budget \"1 meg\": write a number and B, kB, MB or GB, for \
         example \"1MB\"\n  --> /etc/weft/weft.toml:2:15\n"
    ));
    assert!(error("[network]\ndata_budget = 7\n").starts_with("error[config.type]"));
}

#[test]
fn a_translator_is_found_named_or_left_alone() {
    let network = |value: &str| format!("[network]\nnat64 = \"{value}\"\n");
    assert_eq!(parse("").unwrap().translator, Translator::Find);
    assert_eq!(parse(&network("off")).unwrap().translator, Translator::Off);
    let prefix = Prefix::new("2001:db8:64::".parse().unwrap(), 96).unwrap();
    let named = parse(&network("2001:db8:64::/96")).unwrap().translator;
    assert_eq!(named, Translator::Prefix(prefix));
    for wrong in ["on", "2001:db8:64::", "2001:db8:64::/95", "203.0.113.0/24"] {
        assert!(error(&network(wrong)).contains("a prefix of 32, 40"), "{wrong}");
    }
}

#[test]
fn an_unknown_section_is_told_from_a_key() {
    assert_eq!(
        error("[netwrok]\ninterface = \"weft0\"\n"),
        "error[config.unknown-section]: unknown section [netwrok]; there is [network]\n  \
         --> /etc/weft/weft.toml:1:2\n   |\n 1 | [netwrok]\n   |  ^^^^^^^"
    );
}

#[test]
fn all_mistakes_come_in_one_run_and_at_most_ten() {
    let text = error("[network]\nlisten_port = \"1420\"\nx = 1\n[tunnel]\nrekey_after_s = 9\n");
    assert!(text.contains(
        "error[config.type]: listen_port is a number, found the string \"1420\"; write it without quotes"
    ));
    assert!(text.contains("error[config.unknown-key]: unknown key \"x\""));
    assert!(text.contains("error[config.range]: rekey_after_s is 9; 10 to 120 is possible"));
    let mut many = "[network]\n".to_owned();
    for number in 0..30 {
        many.push_str(&format!("key{number} = 1\n"));
    }
    assert_eq!(error(&many).matches("error[").count(), 10);
}

#[test]
fn a_key_set_twice_names_both_lines() {
    let text = error("[tunnel]\nrekey_after_s = 10\n\nrekey_after_s = 20\n");
    assert!(
        text.starts_with(
            "error[config.duplicate]: \"rekey_after_s\" is set twice, first in line 2\n  \
             --> /etc/weft/weft.toml:4:1"
        ),
        "{text}"
    );
}

#[test]
fn wrong_values_say_what_is_possible() {
    for (text, expected) in [
        (
            "[network]\ninterface = 3\n",
            "interface is a text, found the number 3; write it in quotes",
        ),
        ("[network]\ninterface = \"a b\"\n", "interface \"a b\" is not a name for an interface"),
        ("[network]\nlisten_port = 0\n", "listen_port is 0; 1 to 65535 is possible"),
        ("[network]\nlisten_port = 99999999999999999999\n", "1 to 65535 is possible"),
        (
            "[network]\nendpoints = \"8883\"\n",
            "endpoints \"8883\": an address and a port are needed",
        ),
        ("[network]\nendpoints = [1]\n", "endpoints is a list of texts, found the number 1"),
        (
            "[log]\nlevel = \"loud\"\n",
            "level is \"loud\"; \"error\", \"warn\", \"info\", \"debug\", \"trace\" are possible",
        ),
        ("network = 1\n", "network is a section, found the number 1; write [network]"),
    ] {
        let found = error(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn broken_text_is_shown_where_it_breaks() {
    let text = error("[network]\nmtu\n");
    assert!(text.starts_with("error[config.syntax]: "), "{text}");
    assert!(text.contains("weft.toml:2:"), "{text}");
    let failures = Config::parse(Path::new("w.toml"), b"[log]\n# caf\xE9\n").unwrap_err();
    assert_eq!(failures[0].message(), "not UTF-8: byte 0xE9 at column 6");
    assert_eq!(failures[0].drawn(), Some("  --> w.toml:2:6"));
}

#[test]
fn flags_beat_environment_and_environment_beats_the_file() {
    let path = std::env::temp_dir().join(format!("weft-config-{}.toml", std::process::id()));
    std::fs::write(
        &path,
        "[network]\ninterface = \"file0\"\nlisten_port = 7\n[state]\ndirectory = \"/file\"\n",
    )
    .unwrap();
    let environment = |name: &str| match name {
        "WEFT_CONFIG" => Some(path.to_string_lossy().into_owned()),
        "WEFT_STATE" => Some("/environment".to_owned()),
        "WEFT_INTERFACE" => Some("env0".to_owned()),
        _ => None,
    };
    let mut flags = Flags::default();
    let config = Config::load_from(&flags, environment).unwrap();
    assert_eq!(config.state, Path::new("/environment"));
    assert_eq!(config.interface, "env0");
    assert_eq!(config.listen_port.map(|port| port.port), Some(7));
    assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    flags.state = Some("/flag".into());
    flags.interface = Some("flag0".to_owned());
    assert!(!config.metered);
    flags.metered = true;
    let config = Config::load_from(&flags, environment).unwrap();
    assert!(config.metered && config.is_overridden);
    assert_eq!(config.state, Path::new("/flag"));
    assert_eq!(config.interface, "flag0");
    std::fs::remove_file(&path).unwrap();
    let gone = Config::load_from(&flags, environment).err().unwrap();
    assert_eq!(gone[0].message(), format!("no file {} (from WEFT_CONFIG)", path.display()));
}

#[test]
fn a_bad_environment_names_its_variable() {
    let environment = |name: &str| match name {
        "WEFT_LISTEN_PORT" => Some("abc".to_owned()),
        "WEFT_CONFIG" => Some("/dev/null".to_owned()),
        _ => None,
    };
    let failures = Config::load_from(&Flags::default(), environment).err().unwrap();
    assert_eq!(
        failures[0].message(),
        "WEFT_LISTEN_PORT is \"abc\", a port number was expected (environment)"
    );
}
