//! `cargo xtask bench relay`: packets per CPU second of weft-relay and of
//! Debian's coturn, and memory per allocation.
//!
//! Both serve RFC 8656 on loopback: one side sends ChannelData on an allocation,
//! the other is a plain UDP peer, 1,200 bytes, both directions. The load is the
//! same program for both (`relay/examples/relay-load.rs`): bursts of 16, 4 and 1
//! packets, each sent in one call, four under way each way. A figure is packets
//! that arrived, counted by who received them, divided by the CPU time of all of
//! the server's threads; the servers take turns, [`ROUNDS`] times, and the ratio
//! is that of the medians. Loopback carries bursts whole: on a network card
//! without UDP segmentation they gain less.
//!
//! `bytes_per_allocation`: growth of weft-relay's resident memory over 1,000
//! allocations with one channel each. What the kernel keeps for their sockets is
//! not in it, for either server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};

use serde_json::json;

use crate::out;
use crate::source::target;

const ROUNDS: usize = 5;
const SECONDS: &str = "2";
const BURSTS: [(&str, u16, f64); 3] =
    [("ratio_burst16", 16, 5.0), ("ratio_burst4", 4, 2.0), ("ratio_single", 1, 0.7)];
const HELD: u64 = 1_000;
const BYTES_GOAL: u64 = 2_048;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Builds, measures, and fails beyond the goals.
pub(crate) fn run(root: &Path, json: bool) -> ExitCode {
    let measured = build(root).and_then(|()| measure(root, json));
    match measured {
        Ok(missed) => {
            missed.iter().for_each(|sentence| out::error(sentence));
            if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let document = json!({"error": {"code": "bench.relay", "message": error, "exit": 1}});
            out::line(&if json { document.to_string() } else { format!("error: {error}") });
            ExitCode::FAILURE
        }
    }
}

fn build(root: &Path) -> Result<(), String> {
    if Command::new("turnserver").arg("--version").output().is_err() {
        return Err("the program turnserver is missing; cross/setup test installs it".to_owned());
    }
    for arguments in [
        &["build", "--release", "-p", "weft-relay"][..],
        &[
            "build",
            "--release",
            "-p",
            "weft-relay",
            "--features",
            "load",
            "--example",
            "relay-load",
        ],
    ] {
        let status = Command::new("cargo")
            .args(arguments)
            .current_dir(root)
            .status()
            .map_err(|error| format!("cargo: {error}"))?;
        if !status.success() {
            return Err(format!("cargo {}: {status}", arguments.join(" ")));
        }
    }
    Ok(())
}

/// A server that ends with its owner.
struct Server {
    child: Child,
    /// What it says; a program whose listener is gone may end.
    said: Option<BufReader<ChildStderr>>,
    address: String,
    folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> Result<u16, String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    socket.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

fn start(name: &str, folder: &Path, command: &mut Command, port: u16) -> Result<Server, String> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let address = format!("127.0.0.1:{port}");
    Ok(Server { child, said: None, address, folder: folder.to_owned() })
}

fn ours(root: &Path) -> Result<Server, String> {
    let port = free_port()?;
    let folder = std::env::temp_dir().join(format!("weft-bench-relay-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let (secret, settings) = (folder.join("secret"), folder.join("relay.toml"));
    let text = format!(
        "listen = [\"127.0.0.1:{port}\"]\n[relay]\naddresses = [\"127.0.0.1\"]\n\
         [auth]\nsecret_files = [{secret:?}]\n[limits]\nallocations_per_user = 5000\n\
         [peers]\nallow = [\"127.0.0.0/8\"]\n"
    );
    fs::write(&secret, SECRET).map_err(|error| error.to_string())?;
    fs::write(&settings, text).map_err(|error| error.to_string())?;
    let mut command = Command::new(target(root).join("release/weft-relay"));
    command.arg("--config").arg(&settings).arg("--socket").arg(folder.join("socket"));
    let mut server = start("weft-relay", &folder, &mut command, port)?;
    server.said = server.child.stderr.take().map(BufReader::new);
    let ready = server.said.as_mut().is_some_and(|said| {
        said.lines().map_while(Result::ok).any(|line| line.starts_with("turn "))
    });
    if ready { Ok(server) } else { Err("weft-relay did not start".to_owned()) }
}

fn coturn() -> Result<Server, String> {
    let port = free_port()?;
    let folder = std::env::temp_dir().join(format!("weft-bench-coturn-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let mut command = Command::new("turnserver");
    command
        .args(["-n", "-m", "1", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "--no-stdout-log"])
        .args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--allow-loopback-peers"])
        .args(["--listening-port", &port.to_string(), "--realm", "weft"])
        .args(["--use-auth-secret", "--static-auth-secret", SECRET])
        .arg("--pidfile")
        .arg(folder.join("pid"))
        .arg("--userdb")
        .arg(folder.join("users"))
        .current_dir(&folder);
    start("turnserver", &folder, &mut command, port)
}

fn load(root: &Path, what: &str, server: &Server, rest: &[&str]) -> Result<Vec<u64>, String> {
    let output = Command::new(target(root).join("release/examples/relay-load"))
        .args([what, &server.address, SECRET, &server.child.id().to_string()])
        .args(rest)
        .output()
        .map_err(|error| format!("relay-load: {error}"))?;
    if !output.status.success() {
        return Err(format!("relay-load: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .map(|word| word.parse().map_err(|_| format!("not a number: {word}")))
        .collect()
}

/// Packets per microsecond of the server's CPU, which is Mpps per core.
fn rate(root: &Path, server: &Server, burst: u16) -> Result<f64, String> {
    let figures = load(root, "flow", server, &[&burst.to_string(), SECONDS])?;
    match figures[..] {
        [up, down, cpu_ns] if up > 0 && down > 0 && cpu_ns > 0 => {
            Ok((up + down) as f64 * 1e3 / cpu_ns as f64)
        }
        _ => Err(format!("{}: nothing arrived in one direction", server.address)),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn measure(root: &Path, json: bool) -> Result<Vec<String>, String> {
    let mut document = json!({});
    let mut missed = Vec::new();
    let mut lines = vec![
        "            weft-relay     coturn   ratio    goal   packets per µs of CPU".to_owned(),
    ];
    {
        let (ours, theirs) = (ours(root)?, coturn()?);
        for (name, burst, goal) in BURSTS {
            let (mut own, mut other) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                own.push(rate(root, &ours, burst)?);
                other.push(rate(root, &theirs, burst)?);
            }
            let (own, other) = (median(own), median(other));
            let ratio = own / other.max(1e-9);
            document[name] = ((ratio * 100.0).round() / 100.0).into();
            lines.push(format!(
                "bursts of {burst:>2} {own:>10.3} {other:>10.3} {ratio:>7.2} {goal:>7.2}"
            ));
            if ratio < goal {
                missed.push(format!("bursts of {burst}: {ratio:.2} times coturn, at least {goal}"));
            }
        }
    }
    // A server that has relayed nothing yet.
    let fresh = ours(root)?;
    let grown = load(root, "hold", &fresh, &[&HELD.to_string()])?;
    let bytes = grown.first().copied().unwrap_or(u64::MAX) / HELD;
    document["bytes_per_allocation"] = bytes.into();
    lines.push(format!("memory      {bytes:>10} bytes per allocation, at most {BYTES_GOAL}"));
    if bytes > BYTES_GOAL {
        missed.push(format!("{bytes} bytes per allocation, at most {BYTES_GOAL}"));
    }
    if json {
        out::line(&document.to_string());
    } else {
        lines.iter().for_each(|line| out::line(line));
    }
    Ok(missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![5.0, 1.0, 3.0, 2.0, 4.0]), 3.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
