//! The program as people run it: what it refuses, and that it leaves nothing
//! behind. A shell script stands for the coordinator.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use weft_noise::key::StaticSecret;
use weft_wire::id::{KeyId, Secret, ShortSecret};
use weft_wire::join::{Address, Carrier, EnrolToken, JoinString, MAX_TEXT};

const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-fleet");

/// A folder of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("weft-fleet-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A program that does this at `serve`, and nothing at `init`. It leaves its
    /// process id in the file `pid`. A link and not a file of its own: what this
    /// process has just written cannot be run while another test forks.
    fn coordinator(&self, serve: &str) -> PathBuf {
        let path = self.0.join("coordinator");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/coordinator.sh");
        fs::write(self.0.join("serve"), serve).unwrap();
        symlink(script, &path).unwrap();
        path
    }

    /// Runs the fleet with its temporary folder in this one.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM).env("TMPDIR", &self.0).args(arguments).output().unwrap()
    }

    /// Whether the coordinator and its folder are gone.
    fn is_clean(&self) -> bool {
        let pid = fs::read_to_string(self.0.join("pid")).unwrap();
        let folders = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
        let left = folders.filter(|name| name.to_str().unwrap().starts_with("weft-fleet-")).count();
        left == 0 && !Path::new("/proc").join(pid.trim()).exists()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What remains of a failed test does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn join(authority: &str) -> String {
    let address = Address { carrier: Carrier::Mqtt, authority: authority.try_into().unwrap() };
    let join = JoinString {
        coordinator: StaticSecret::from_bytes([7; 32]).public(),
        key: KeyId::from_random([1; 8]),
        psk: Secret([2; 32]),
        token: EnrolToken { expiry: u32::MAX, mac: ShortSecret([3; 16]) },
        addresses: [address].into_iter().collect(),
        spki: None,
        account: None,
    };
    let mut text = [0; MAX_TEXT];
    let len = join.emit(&mut text).unwrap();
    String::from_utf8(text[..len].to_vec()).unwrap()
}

#[test]
fn other_machines_are_refused() {
    for authority in ["203.0.113.10:7420", "mesh.example.net:7420", "192.168.1.4:7420"] {
        let output =
            Command::new(PROGRAM).args(["--join", &join(authority), "--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
        assert!(errors(&output).starts_with("error[fleet.not-loopback]: "), "{}", errors(&output));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["error"]["code"], "fleet.not-loopback");
        assert_eq!(document["failed"], 1);
    }
}

#[test]
fn nobody_there_is_said_at_once() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let join = join(&address.to_string());
    let output = Command::new(PROGRAM).args(["--join", &join]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    assert!(errors(&output).starts_with("error[fleet.unreachable]: "), "{}", errors(&output));
}

#[test]
fn counts_are_bounded() {
    for wrong in [["--devices", "0"], ["--devices", "12001"], ["--storms", "4"], ["--pid", "1"]] {
        let output = Command::new(PROGRAM).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_coordinator_that_does_not_start_is_said() {
    let folder = Folder::new("start");
    let program = folder.coordinator("echo 'error[serve.port-in-use]: taken' >&2\nexit 6");
    let output = folder.run(&["--coordinator", program.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert!(errors(&output).contains("serve.port-in-use"), "{}", errors(&output));
    assert!(folder.is_clean());
    let output = folder.run(&["--coordinator", "/nowhere/weft-coordinator"]);
    assert!(errors(&output).contains("cannot run /nowhere/"), "{}", errors(&output));
    assert!(folder.is_clean());
}

#[test]
fn a_coordinator_that_is_of_no_use_is_ended() {
    let folder = Folder::new("use");
    let program = folder.coordinator("echo 'ready in 1 ms' >&2\nexec sleep 600");
    let output = folder.run(&["--coordinator", program.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert!(errors(&output).contains("cannot connect to "), "{}", errors(&output));
    assert!(folder.is_clean());
}

#[test]
fn a_signal_ends_it_and_what_it_started() {
    for signal in ["INT", "TERM"] {
        let folder = Folder::new(signal);
        let program = folder.coordinator(&format!("kill -{signal} $PPID\nexec sleep 600"));
        let output = folder.run(&["--coordinator", program.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(130), "{}", errors(&output));
        assert_eq!(errors(&output), "stopped; nothing left behind\n");
        assert!(folder.is_clean(), "{signal}");
    }
}

#[test]
fn the_limit_ends_it() {
    let folder = Folder::new("limit");
    let program = folder.coordinator("exec sleep 600");
    let output =
        folder.run(&["--coordinator", program.to_str().unwrap(), "--limit", "1", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert!(errors(&output).contains("did not end within 1 s"), "{}", errors(&output));
    assert!(folder.is_clean());
}

#[test]
#[ignore = "12 s; make test-full runs it"]
fn a_coordinator_that_does_not_end_is_killed() {
    let folder = Folder::new("hangs");
    let program = folder.coordinator("trap '' TERM\nexec sleep 600");
    let output = folder.run(&["--coordinator", program.to_str().unwrap(), "--limit", "1"]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    assert!(folder.is_clean());
}
