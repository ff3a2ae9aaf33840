//! Debian's Mosquitto with the configuration and the access list that we ship.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::common::TempDir;
use super::world::Login;

const CONFIGURATION: &str = include_str!("../../packaging/mosquitto/weft.conf");
const ACCESS: &str = include_str!("../../packaging/mosquitto/weft.acl");

/// A command that Debian keeps where only root looks.
fn command(name: &str) -> Command {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"];
    let path = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    Command::new(path.unwrap_or_else(|| panic!("{name} is missing: cross/setup test installs it")))
}

pub fn own() -> Login {
    Login::new("weft-coordinator", "own secret")
}

pub fn devices() -> Login {
    Login::new("weft-device", "shared secret")
}

/// An account that the access list gives nothing.
pub fn nobody() -> Login {
    Login::new("nobody", "nothing")
}

pub struct Mosquitto {
    folder: TempDir,
    pub address: SocketAddr,
    child: Child,
}

impl Mosquitto {
    /// Starts one on a port of its own.
    pub fn start() -> Self {
        let folder = TempDir::new();
        let passwords = folder.path().join("weft.passwd");
        fs::write(&passwords, "").unwrap();
        for Login { user, password } in [own(), devices(), nobody()] {
            let made = command("mosquitto_passwd")
                .arg("-b")
                .args([passwords.as_os_str(), user.as_ref(), password.as_ref()])
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        fs::write(folder.path().join("weft.acl"), ACCESS).unwrap();
        // A port that is free now may be another's a moment later.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            if let Some(child) = run(folder.path(), free) {
                return Self { folder, address: free, child };
            }
        }
        panic!("mosquitto does not start");
    }

    /// As a power failure would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same address.
    pub fn start_again(&mut self) {
        self.child = run(self.folder.path(), self.address).expect("the port is free again");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The shipped file with a port and a folder of the test's.
fn configuration(folder: &Path, address: SocketAddr) -> String {
    let folder = format!("{}/", folder.display());
    let listener = format!("listener {} {}", address.port(), address.ip());
    let text = CONFIGURATION.replace("listener 1883", &listener);
    assert!(text.contains(&listener), "the shipped file listens on 1883");
    // As root it would change to a user that may not read the folder.
    format!("{}\nuser root\n", text.replace("/etc/mosquitto/", &folder))
}

/// Starts it and waits until it says that it runs; `None` = it ended.
fn run(folder: &Path, address: SocketAddr) -> Option<Child> {
    let file = folder.join("mosquitto.conf");
    fs::write(&file, configuration(folder, address)).unwrap();
    let mut child = command("mosquitto")
        .arg("-v")
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let runs = lines.any(|line| line.ends_with("running"));
    if !runs {
        child.wait().unwrap();
        return None;
    }
    // A pipe that nobody empties would stop it.
    std::thread::spawn(move || lines.for_each(drop));
    Some(child)
}
