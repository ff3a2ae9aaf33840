//! The STUN server as a program.
#![allow(clippy::print_stderr, reason = "a program's word about its state")]

use std::net::SocketAddr;
use std::process::ExitCode;

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
    let mut servers = Vec::new();
    for address in Arguments::parse().listen {
        match Server::start(address) {
            Ok(server) => {
                eprintln!("stun    {}", server.address());
                servers.push(server);
            }
            Err(error) => {
                eprintln!("error[relay.listen]: cannot listen on UDP {address}");
                eprintln!("  cause:  {error}");
                return status(&error);
            }
        }
    }
    servers.into_iter().for_each(Server::join);
    eprintln!("error[relay.socket]: the socket failed");
    ExitCode::FAILURE
}

fn status(error: &std::io::Error) -> ExitCode {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => ExitCode::from(6),
        std::io::ErrorKind::PermissionDenied => ExitCode::from(4),
        _ => ExitCode::FAILURE,
    }
}
