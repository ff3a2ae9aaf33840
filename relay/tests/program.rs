//! The program's words: what it refuses, and what it says when it is asked.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use weft_wire::id::{KeyId, PublicKey, Secret, ShortSecret};
use weft_wire::join::{Address, Carrier, EnrolToken, JoinString, Joins, MAX_TEXT};

/// A folder of its own, removed with the value.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("weft-relay-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-relay"));
        command.args(words).stdin(Stdio::null());
        command.arg("--state").arg(self.0.join("state"));
        command.arg("--socket").arg(self.0.join("socket"));
        // The machine's own settings are nobody's business here.
        std::fs::write(self.0.join("relay.toml"), "").unwrap();
        command.arg("--config").arg(self.0.join("relay.toml"));
        command
    }

    /// What it says that must end so.
    fn ends(&self, words: &[&str], status: i32, code: &str) -> String {
        let output = self.command(words).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
        assert!(said.contains(&format!("error[relay.{code}]: ")), "{words:?}: {said}");
        said
    }

    fn done(&self, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(words).output().unwrap();
        assert!(status.success(), "{words:?}: {}", text(&stderr));
        text(&stdout)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left is left in a folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn string(joins: Joins, authority: &str) -> String {
    let authority = heapless::String::try_from(authority).unwrap();
    let join = JoinString {
        coordinator: PublicKey([9; 32]),
        key: KeyId::from_random([7; 8]),
        psk: Secret([8; 32]),
        token: EnrolToken { expiry: 0, mac: ShortSecret([0; 16]) },
        addresses: [Address { carrier: Carrier::Https, authority }].into_iter().collect(),
        spki: None,
        account: None,
    };
    let mut out = [0; MAX_TEXT];
    let len = join.emit_for(joins, &mut out).unwrap();
    text(&out[..len])
}

#[test]
fn what_cannot_be_joined_with_is_said() {
    let place = Place::new("join");
    place.ends(&["join", "mesh.example.net"], 2, "join-string");
    let devices = string(Joins::Device, "127.0.0.1:1");
    let said = place.ends(&["join", &devices], 2, "join-string");
    assert!(said.contains("lets in a device") && said.contains("relay add"), "{said}");
    let mut typo = string(Joins::Relay, "127.0.0.1:1");
    typo.replace_range(40..41, if &typo[40..41] == "A" { "B" } else { "A" });
    let said = place.ends(&["join", &typo], 2, "join-string");
    assert!(said.contains("copied wrongly"), "{said}");
    assert!(!said.contains(&typo), "it is a secret");
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let relays = string(Joins::Relay, &port.to_string());
    let said = place.ends(&["join", &relays], 3, "unreachable");
    assert!(said.contains(&port.to_string()), "{said}");
    assert!(!place.0.join("state").exists(), "nothing was made");
    std::fs::create_dir(place.0.join("state")).unwrap();
    std::fs::write(place.0.join("state/identity.toml"), "name = \"x\"\n").unwrap();
    let said = place.ends(&["join", &relays], 2, "state");
    assert!(said.contains("missing field"), "{said}");
}

/// A running relay, ended with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_relay_is_asked_over_its_socket() {
    let place = Place::new("ask");
    let said = place.ends(&["status"], 3, "not-running");
    assert!(said.contains("systemctl status weft-relay"), "{said}");
    let mut serve = place.command(&["--listen", "127.0.0.1:0"]);
    let mut child = serve.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let _running = Running(child);
    let mut line = String::new();
    assert!(stderr.read_line(&mut line).unwrap() > 0);
    assert!(line.starts_with("stun    127.0.0.1:"), "{line}");
    // The socket comes after the first line.
    let socket = place.0.join("socket");
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::yield_now();
    }
    let status = place.done(&["status"]);
    assert!(status.starts_with("relaying     takes new clients\n"), "{status}");
    assert!(status.contains("coordinator  none: it did not join"), "{status}");
    assert!(place.done(&["drain"]).starts_with("drains: it takes no new clients"));
    let document: serde_json::Value =
        serde_json::from_str(&place.done(&["status", "--json"])).unwrap();
    assert_eq!((&document["draining"], &document["allocations"]), (&true.into(), &0.into()));
    assert_eq!(document["schema"], "weft.relay-status/1");
    assert_eq!(place.done(&["drain", "--off"]), "it takes new clients again\n");
    let second = place.ends(&["--listen", "127.0.0.1:0"], 6, "socket");
    assert!(second.contains("a relay answers on it"), "{second}");
}

#[test]
fn a_relay_goes_on_when_nobody_reads_what_it_says() {
    let place = Place::new("unheard");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut serve = place.command(&["--listen", "127.0.0.1:0"]);
    let mut running = Running(serve.stderr(writer).spawn().unwrap());
    let socket = place.0.join("socket");
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        let ended = running.0.try_wait().unwrap();
        assert!(ended.is_none(), "it ended: {ended:?}");
        std::thread::yield_now();
    }
    assert!(place.done(&["status"]).starts_with("relaying     takes new clients\n"));
}

#[test]
fn settings_are_checked_and_completions_are_printed() {
    let place = Place::new("check");
    place.done(&["--check"]);
    place.ends(&["--check", "--relay-address", "203.0.113.10"], 2, "config.half");
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.done(&["completions", shell]).contains("weft-relay complete"), "{shell}");
    }
}
