//! The program as people type it: texts, streams, exit statuses.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it cannot go on")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use weft_wire::id::{KeyId, PublicKey, Secret};
use weft_wire::join::{Address, Carrier, EnrolToken, JoinString, MAX_TEXT};

/// A folder that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-cli-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn weft(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        for name in ["NO_COLOR", "CLICOLOR_FORCE", "WEFT_INTERFACE", "WEFT_LISTEN_PORT"] {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("WEFT_STATE", self.0.join("state"))
            .env("WEFT_SOCKET", self.0.join("weft.sock"))
            .env("WEFT_CONFIG", "/dev/null")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.weft(arguments).output().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn join_string(carrier: Carrier, authority: &str) -> String {
    let address = Address { carrier, authority: heapless::String::try_from(authority).unwrap() };
    let join = JoinString {
        coordinator: PublicKey([0x5A; 32]),
        key: KeyId::from_random([0x31; 8]),
        psk: Secret([0x77; 32]),
        token: EnrolToken { expiry: 1_900_000_000, mac: weft_wire::id::ShortSecret([0xC4; 16]) },
        addresses: heapless::Vec::from_slice(&[address]).unwrap(),
        spki: None,
        account: None,
    };
    let mut out = [0; MAX_TEXT];
    let len = join.emit(&mut out).unwrap();
    String::from_utf8(out[..len].to_vec()).unwrap()
}

#[test]
fn weft_alone_lists_the_commands_in_groups() {
    let scratch = Scratch::new("alone");
    let output = scratch.run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stdout),
        "start\n  \
         join    Make this machine a member of a network\n  \
         up      Start the daemon\n  \
         down    Stop the daemon and take everything back; still a member\n  \
         leave   Leave the network for good and erase this device's keys\n\
         look\n  \
         status  This machine, its coordinator and its peers\n  \
         peers   The peers, all columns\n  \
         ping    Ask a peer through the tunnel, and say which path was used\n  \
         why     Why a peer is reached as it is\n\
         mend\n  \
         logs    What the daemon wrote\n\
         \n  \
         sudo weft join WEFT1…    the line that weft-coordinator key create printed\n  \
         weft ping gw-b           weft COMMAND --help says more\n"
    );
    assert!(output.stderr.is_empty());
}

#[test]
fn a_wrong_command_line_is_status_two_and_names_the_help() {
    let scratch = Scratch::new("usage");
    let output = scratch.run(&["staus"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error[cli.usage]: unrecognized subcommand 'staus'; there is 'status'\n  \
         try:  weft --help\n"
    );
    let output = scratch.run(&["ping"]);
    assert_eq!(
        text(&output.stderr),
        "error[cli.usage]: the following required arguments were not provided: <PEER>\n  \
         try:  weft ping --help\n"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn examples_stand_before_the_options() {
    let scratch = Scratch::new("examples");
    for command in ["join", "ping"] {
        let output = scratch.run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        let help = text(&output.stdout);
        let at = |what: &str| help.find(what).unwrap_or_else(|| panic!("no {what} in {help}"));
        assert!(at("Usage:") < at("Examples:") && at("Examples:") < at("Options:"), "{help}");
    }
}

#[test]
fn version_names_target_and_protocol() {
    let output = Scratch::new("version").run(&["--version"]);
    let line = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    assert!(line.starts_with("weft 0.1.0 ("), "{line}");
    assert!(line.ends_with(", protocol 1, map format 1)\n"), "{line}");
}

#[test]
fn without_a_daemon_every_question_says_so() {
    let scratch = Scratch::new("none");
    let socket = scratch.0.join("weft.sock");
    for command in ["status", "peers", "logs", "down"] {
        let output = scratch.run(&[command]);
        assert_eq!(output.status.code(), Some(3), "{command}");
        let first = text(&output.stderr).lines().next().unwrap();
        assert_eq!(
            first,
            format!(
                "error[cli.no-daemon]: the daemon is not running ({}: no such file)",
                socket.display()
            )
        );
        assert!(output.stdout.is_empty());
        // Starting it would not help: this machine never joined.
        let rest = text(&output.stderr).split_once('\n').unwrap().1;
        assert_eq!(
            rest,
            "  cause:  this machine is in no network\n  try:    sudo weft join WEFT1…\n"
        );
    }
    // A member's daemon only has to be started; nor is it said of a machine
    // whose state cannot be looked into that it never joined.
    std::fs::create_dir_all(scratch.0.join("state")).unwrap();
    std::fs::write(scratch.0.join("state/identity"), "of whatever kind").unwrap();
    let file = scratch.0.join("state/identity/state");
    for state in [scratch.0.join("state"), file] {
        let output = scratch.weft(&["status"]).env("WEFT_STATE", state).output().unwrap();
        let rest = text(&output.stderr).split_once('\n').unwrap().1;
        assert!(rest.starts_with("  try:  sudo "), "{rest}");
        assert!(!rest.contains("weft join"), "{rest}");
    }
}

#[test]
fn json_failures_are_one_document_on_one_line() {
    let output = Scratch::new("json").run(&["status", "--json"]);
    let stdout = text(&output.stdout);
    assert_eq!(stdout.matches('\n').count(), 1);
    let document: serde_json::Value = serde_json::from_str(stdout).unwrap();
    assert_eq!(document["error"]["code"], "cli.no-daemon");
    assert_eq!(document["error"]["exit"], 3);
    assert!(text(&output.stderr).starts_with("error[cli.no-daemon]: "));
}

#[test]
fn colour_is_for_terminals_unless_somebody_says_otherwise() {
    let scratch = Scratch::new("colour");
    let escapes = |output: &Output| text(&output.stderr).contains('\u{1b}');
    assert!(!escapes(&scratch.run(&["status"])));
    assert!(escapes(&scratch.run(&["--color", "always", "status"])));
    let forced = scratch.weft(&["status"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(escapes(&forced));
    let mut never = scratch.weft(&["--color", "never", "status"]);
    assert!(!escapes(&never.env("CLICOLOR_FORCE", "1").output().unwrap()));
}

#[test]
fn up_without_an_identity_says_how_to_get_one() {
    let output = Scratch::new("up").run(&["up"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error[up.not-joined]: this machine is in no network\n  try:  weft join …\n"
    );
}

/// As root there is nothing that may not be read; a folder below a file is the
/// nearest thing that cannot be looked into.
#[test]
fn a_folder_that_cannot_be_looked_into_is_not_called_empty() {
    let scratch = Scratch::new("denied");
    std::fs::write(scratch.0.join("file"), "").unwrap();
    for command in [&["up"][..], &["leave", "--forget", "--yes"]] {
        let mut weft = scratch.weft(command);
        let output = weft.env("WEFT_STATE", scratch.0.join("file/state")).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).starts_with("error[up.state-read]: "), "{output:?}");
    }
}

#[test]
fn a_mistyped_join_string_names_the_place_and_writes_nothing() {
    let scratch = Scratch::new("typo");
    let mut line = join_string(Carrier::Mqtt, "mesh.example.net:7420").into_bytes();
    let meant = char::from(line[28]);
    line[28] = if meant == 'X' { b'Q' } else { b'X' };
    let typed = char::from(line[28]);
    let line = String::from_utf8(line).unwrap();
    let output = scratch.run(&["join", &line]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        format!(
            "error[join.typo]: the join string has a typo at character 29: \
             '{typed}' should probably be '{meant}'\n  \
             try:  copy it again, or scan the QR code\n"
        )
    );
    assert!(!scratch.0.join("state").exists());
}

#[test]
fn a_join_string_comes_from_a_file_or_the_standard_input_too() {
    let scratch = Scratch::new("sources");
    let file = scratch.0.join("key.txt");
    std::fs::write(&file, "mesh.example.net\n").unwrap();
    let expected = "error[join.not-a-string]: 'mesh.example.net' is not a join string; \
                    those start with WEFT1";
    let from_file = scratch.run(&["join", "--file", file.to_str().unwrap()]);
    assert!(text(&from_file.stderr).starts_with(expected));
    let input = std::fs::File::open(&file).unwrap();
    let from_input = scratch.weft(&["join", "-"]).stdin(input).output().unwrap();
    assert!(text(&from_input.stderr).starts_with(expected));
    let missing = scratch.run(&["join", "--file", "/nonexistent/key"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).starts_with("error[join.read]: /nonexistent/key cannot be read"));
}

#[test]
fn a_configuration_error_shows_file_line_and_caret() {
    let scratch = Scratch::new("config");
    let file = scratch.0.join("weft.toml");
    std::fs::write(&file, "[network]\nlisen_port = 41641\n").unwrap();
    let output = scratch.run(&["status", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        format!(
            "error[config.unknown-key]: unknown key \"lisen_port\" in [network]; \
             there is \"listen_port\"\n  --> {}:2:1\n   |\n 2 | lisen_port = 41641\n   | ^^^^^^^^^^\n",
            file.display()
        )
    );
}

#[test]
fn completion_scripts_ask_the_program() {
    let scratch = Scratch::new("complete");
    for shell in ["bash", "zsh", "fish"] {
        let output = scratch.run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("weft complete -- "));
    }
    let output = scratch.run(&["complete", "--", "pe"]);
    assert_eq!(text(&output.stdout), "peers\n");
    let names = scratch.run(&["complete", "--", "ping", "g"]);
    assert_eq!((names.status.code(), text(&names.stderr)), (Some(0), ""));
}

/// A message may only name a command that exists.
#[test]
fn every_command_that_a_message_names_has_help() {
    let scratch = Scratch::new("named");
    let mut named = std::collections::BTreeSet::new();
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for after in source.split("try_command(").skip(1) {
                let argument = after.split(')').next().unwrap_or_default();
                for command in argument.split("weft ").skip(1) {
                    let word = command.split(|c: char| !c.is_ascii_lowercase()).next();
                    named.extend(word.filter(|word| !word.is_empty()).map(str::to_owned));
                }
            }
        }
    }
    assert!(named.contains("join") && named.contains("status"), "{named:?}");
    // "update weft on this machine" is no command.
    named.remove("on");
    for command in named {
        let output = scratch.run(&[&command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "weft {command}");
    }
}
