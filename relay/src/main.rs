//! The STUN server as a program.
#![allow(clippy::print_stderr, reason = "a program's word about its state")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::mpsc;

use clap::Parser;
use weft_relay::io::Server;

/// Answers STUN Binding requests (RFC 8489).
#[derive(Parser)]
#[command(name = "weft-relay", version)]
struct Arguments {
    /// Address and UDP port; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:3478")]
    listen: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    let (failed, failures) = mpsc::channel();
    let mut servers = Vec::new();
    for address in Arguments::parse().listen {
        let failed = failed.clone();
        // Nobody listens once the program ends, and then there is nothing to say.
        let tell = move |address: SocketAddr| {
            let _ = failed.send(address);
        };
        match Server::start_watched(address, tell) {
            Ok(server) => {
                eprintln!("stun    {}", server.address());
                servers.push(server);
            }
            Err(error) => {
                eprintln!("error[relay.listen]: cannot listen on UDP {address}");
                eprintln!("  cause:  {error}");
                eprintln!("  try:    {}", attempt(&error, address));
                return status(&error);
            }
        }
    }
    drop(failed);
    // The first that fails ends all: whoever restarts the program mends it.
    if let Ok(address) = failures.recv() {
        eprintln!("error[relay.socket]: the socket of UDP {address} failed");
        eprintln!("  try:    weft-relay --listen {address}");
    }
    ExitCode::FAILURE
}

fn attempt(error: &std::io::Error, address: SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!("ss -ulnp sport = :{port}"),
        std::io::ErrorKind::PermissionDenied => {
            format!("sudo setcap cap_net_bind_service=+ep weft-relay, or a port above {port}")
        }
        _ => "weft-relay --listen 0.0.0.0:3478".to_owned(),
    }
}

fn status(error: &std::io::Error) -> ExitCode {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => ExitCode::from(6),
        std::io::ErrorKind::PermissionDenied => ExitCode::from(4),
        _ => ExitCode::FAILURE,
    }
}
