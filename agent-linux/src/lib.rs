//! Weft's daemon and command line for Linux. The program is [`main`]; nothing
//! else of it is for others, but for [`border`], which the fuzzer calls.

pub mod border;

mod cli;
mod config;
mod control;
mod daemon;
mod failure;
mod ipc;
mod log;
#[expect(unsafe_code, reason = "sockets, TUN and netlink are system calls")]
mod net;
mod netcheck;
#[expect(unsafe_code, reason = "clocks, signals and rights are system calls")]
mod os;
mod output;
mod portmap;
mod relay;
mod store;

use std::panic::PanicHookInfo;
use std::process::ExitCode;

use failure::{Code, Failure};

/// Runs the program with this process's arguments; its exit status.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report));
    // Unwinding takes back what was changed on this machine.
    let status = std::panic::catch_unwind(cli::run);
    ExitCode::from(status.unwrap_or_else(|_| Code::CliInternal.exit()))
}

/// A bug of ours, said like every other failure.
fn report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(String::new, |place| format!(" ({place})"));
    let what = panic.payload_as_str().unwrap_or("no message");
    output::report(&Failure::internal(format_args!("{what}{place}")));
}
