//! The relay as a program.
#![allow(clippy::print_stderr, reason = "a program's word about its state")]

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use weft_relay::config::{self, ConfigError, Flags};
use weft_relay::{Server, StartError};

/// Tells devices which address the internet sees (STUN), and relays between
/// those that cannot reach one another (TURN). Relaying needs an address to
/// relay from and a secret that users' passwords are made with.
#[derive(Parser)]
#[command(name = "weft-relay", version)]
struct Arguments {
    /// Settings; /etc/weft/relay.toml is read if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and UDP port for clients; may be given several times [default: [::]:3478]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Address and port for clients over TCP; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_tcp: Vec<SocketAddr>,
    /// Address and port for clients over TLS; may be given several times
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_tls: Vec<SocketAddr>,
    /// Address to relay from, one of each family; PUBLIC/OWN behind a NAT
    #[arg(long, value_name = "ADDRESS")]
    relay_address: Vec<String>,
    /// File whose first line is a secret; several while they are changed
    #[arg(long, value_name = "FILE")]
    secret_file: Vec<PathBuf>,
    /// Address and TCP port for /metrics and /healthz
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Reads the settings and ends
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let flags = Flags {
        config: arguments.config,
        listen: arguments.listen,
        listen_tcp: arguments.listen_tcp,
        listen_tls: arguments.listen_tls,
        relay: arguments.relay_address,
        secret_files: arguments.secret_file,
        metrics: arguments.metrics,
    };
    let config = match config::load(&flags) {
        Ok(config) => config,
        Err(error) => return wrong(&error),
    };
    if arguments.check {
        eprintln!("ok      the settings can be used");
        return ExitCode::SUCCESS;
    }
    let relayed: Vec<String> =
        config.relay.iter().map(|address| address.public.to_string()).collect();
    let (tcp, most) = (config.tcp.len(), config.turn.max_allocations);
    raise_files(u64::from(most));
    match Server::start(config) {
        Ok(server) => {
            for address in server.addresses() {
                eprintln!("stun    {address}");
            }
            for (index, address) in server.stream_addresses().iter().enumerate() {
                eprintln!("{:<7} {address}", if index < tcp { "tcp" } else { "tls" });
            }
            for address in relayed {
                eprintln!("turn    relays from {address}");
            }
            if let Some(address) = server.metrics() {
                eprintln!("metrics http://{address}/metrics");
            }
            run(&server)
        }
        Err(error) => failed(&error),
    }
}

/// Every allocation is a descriptor, and the usual limit is far below the most
/// allocations.
fn raise_files(allocations: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    // Dual allocations have two, connections and listeners come on top.
    let wanted = 2 * allocations + 8_192;
    let most = limit.maximum.unwrap_or(wanted);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    limit.current = Some(wanted.min(most));
    if setrlimit(Resource::Nofile, limit).is_err() || most < allocations {
        eprintln!(
            "warning[relay.files]: {most} files may be open, {wanted} are needed for all allocations"
        );
        eprintln!("  try:    LimitNOFILE={wanted} in the unit, or fewer [limits] allocations");
    }
}

/// Waits for SIGTERM or SIGINT, which end the program at once, or for the end of
/// the relay's thread: whoever restarts the program mends that.
fn run(server: &Server) -> ExitCode {
    server.wait();
    eprintln!("error[relay.failed]: the relay's thread ended by itself");
    eprintln!("  try:    weft-relay, once more; and tell us what it said before");
    ExitCode::from(70)
}

fn wrong(error: &ConfigError) -> ExitCode {
    eprintln!("error[relay.{}]: {}", error.code, error.message);
    if let Some(cause) = &error.cause {
        let cause = cause.replace('\n', "\n          ");
        eprintln!("  cause:  {cause}");
    }
    eprintln!("  try:    {}", error.attempt);
    ExitCode::from(2)
}

fn failed(error: &StartError) -> ExitCode {
    let address = error.address.map(|address| format!(" {address}")).unwrap_or_default();
    eprintln!("error[relay.start]: cannot {}{address}", error.what);
    eprintln!("  cause:  {}", error.cause);
    eprintln!("  try:    {}", attempt(error));
    match error.cause.kind() {
        io::ErrorKind::AddrInUse => ExitCode::from(6),
        io::ErrorKind::PermissionDenied => ExitCode::from(4),
        _ => ExitCode::FAILURE,
    }
}

fn attempt(error: &StartError) -> String {
    let port = error.address.map_or(3_478, |address| address.port());
    match error.cause.kind() {
        io::ErrorKind::AddrInUse => format!("ss -lnp sport = :{port}"),
        io::ErrorKind::PermissionDenied => {
            format!("sudo setcap cap_net_bind_service=+ep weft-relay, or a port above {port}")
        }
        io::ErrorKind::AddrNotAvailable => "ip address, for the addresses that are here".to_owned(),
        _ => "weft-relay --listen 0.0.0.0:3478".to_owned(),
    }
}
