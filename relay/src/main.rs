//! The relay as a program.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program's word")]

mod commands;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft_relay::config::Flags;

/// Tells devices which address the internet sees (STUN), and relays between
/// those that cannot reach one another (TURN). One that joined a coordinator
/// needs no settings; any other needs an address to relay from and a secret that
/// users' passwords are made with.
#[derive(Parser)]
#[command(name = "weft-relay", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  sudo weft-relay join WEFT1…      with what `weft-coordinator relay add` printed
  weft-relay --relay-address 203.0.113.10 --secret-file /etc/weft/relay.secret")]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where things are.
#[derive(clap::Args)]
struct Place {
    /// Settings; /etc/weft/relay.toml is read if it is there
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where a relay that joined keeps who it is [default: /var/lib/weft-relay]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Socket of the running relay [default: /run/weft-relay/socket]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// How to relay.
#[derive(clap::Args)]
struct Serve {
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

/// What else to do.
#[derive(Subcommand)]
enum Command {
    /// Join a coordinator: its devices are told of this relay
    Join(commands::join::Join),
    /// Show how the running relay is
    Status(commands::ask::Status),
    /// Let the running relay take no new clients
    Drain(commands::ask::Drain),
    /// Print a script that completes commands
    Completions(commands::completions::Completions),
    /// What may stand where the last word stands
    #[command(hide = true)]
    Complete(commands::completions::Words),
}

fn main() -> ExitCode {
    let Arguments { place, serve, command } = Arguments::parse();
    let flags = Flags {
        config: place.config,
        listen: serve.listen,
        listen_tcp: serve.listen_tcp,
        listen_tls: serve.listen_tls,
        relay: serve.relay_address,
        secret_files: serve.secret_file,
        metrics: serve.metrics,
        state: place.state,
        socket: place.socket,
    };
    let done = match command {
        None => commands::serve::run(&flags, serve.check),
        Some(Command::Join(join)) => commands::join::run(&flags, &join),
        Some(Command::Status(status)) => commands::ask::status(&flags, &status),
        Some(Command::Drain(drain)) => commands::ask::drain(&flags, &drain),
        Some(Command::Completions(shell)) => {
            commands::completions::script(&shell);
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Complete(words)) => {
            commands::completions::complete(&words);
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|failure| failure.show())
}
