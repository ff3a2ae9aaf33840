//! `weft up`: start the daemon; with `--foreground`, be the daemon.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use clap::Args;

use crate::cli::{Context, peer, progress, start};
use crate::daemon::{self, Ended, Mode};
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::Client;
use crate::os::{clock, process};
use crate::output::units;
use crate::store::folder::Folder;

#[derive(Args)]
pub(super) struct Arguments {
    /// Stay here and write the log to the error stream (containers, systemd)
    #[arg(long)]
    foreground: bool,
    /// Say on standard output how the start went, then nothing more
    #[arg(long, hide = true, requires = "foreground")]
    detached: bool,
    /// Number of the open socket of the daemon before this one
    #[arg(long, hide = true, requires = "foreground", value_parser = clap::value_parser!(i32).range(3..))]
    listener: Option<i32>,
    /// Name of the mesh interface [default: weft0]
    #[arg(long, value_name = "NAME")]
    pub(super) interface: Option<String>,
    /// Bytes per day for all but payload, where they cost money, as 1MB
    #[arg(long, value_name = "SIZE")]
    pub(super) data_budget: Option<String>,
    /// Bytes of this uplink cost money: send nothing that only might help
    #[arg(long)]
    pub(super) metered: bool,
}

/// How long the interface may take before `weft up` goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let listener = arguments.listener.map(process::inherited).transpose();
    let listener = listener.map_err(Failure::internal)?;
    if arguments.detached {
        return detached(context, listener);
    }
    if listener.is_some() {
        return daemon::run(&context.config, Mode::Foreground, listener).map(Ended::exit);
    }
    // The socket first: whoever may ask the daemon need not read its folder.
    if let Ok(mut client) = Client::connect(&context.config.socket, "up") {
        match client.status() {
            Ok(status) => return Err(running(&status)),
            // A daemon that was just ending; one that hangs still has its lock.
            Err(failure) if failure.is(Code::CliNoDaemon) => {}
            Err(failure) => return Err(failure),
        }
    }
    if !peer::has_identity(&Folder::new(&context.config.state), "up")? {
        return Err(not_joined(context));
    }
    if arguments.foreground {
        return daemon::run(&context.config, Mode::Foreground, None).map(Ended::exit);
    }
    let started = clock::boot_micros();
    start::start(context, false)?;
    let up = progress::until_interface(&context.config.socket, started, PATIENCE)?;
    let status = Client::connect(&context.config.socket, "up")?.status()?;
    let peers = units::count(status.peers.len(), "peer");
    context.ui.answer(&match up {
        Some((name, address)) => format!("up: {name} {address}, {peers}"),
        None => "up: the daemon runs and waits for the coordinator".to_owned(),
    });
    Ok(0)
}

/// The daemon that `weft join` or `weft up` started: its parent reads one word
/// or one failure.
fn detached(context: &Context, listener: Option<UnixListener>) -> Result<u8> {
    let result = daemon::run(&context.config, Mode::Background, listener);
    if let Err(failure) = &result
        && let Ok(text) = serde_json::to_string(failure)
    {
        daemon::say_to_parent(&text);
    }
    // Too late for an error to close the pipe with: the process ends.
    drop(process::close_stdout());
    result.map(Ended::exit)
}

fn not_joined(context: &Context) -> Failure {
    let state = context.config.state.display().to_string();
    Failure::new(Code::UpNotJoined, "this machine is in no network")
        .param("state", state)
        .try_command("weft join …")
}

fn running(status: &crate::ipc::protocol::Status) -> Failure {
    let message =
        format!("the daemon is running (pid {}, up {})", status.pid, units::span_s(status.up_s));
    Failure::new(Code::UpRunning, message).try_command("weft status")
}
