//! Weft's daemon and command line for Linux.

mod cli;
mod config;
mod control;
mod daemon;
mod failure;
mod ipc;
mod log;
#[expect(unsafe_code, reason = "sockets, TUN and netlink are system calls")]
mod net;
#[expect(unsafe_code, reason = "clocks, signals and rights are system calls")]
mod os;
mod output;
mod store;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::run())
}
