//! `weft peers`: the table alone, all columns.

use std::os::fd::AsFd;

use clap::Args;
use serde::Serialize;

use crate::cli::{Context, peer, status, why};
use crate::failure::{Failure, Result};
use crate::ipc::protocol::Status;
use crate::os::clock;
use crate::os::poll::{Interest, wait_one};
use crate::os::signal::Signals;

#[derive(Args)]
pub(super) struct Arguments {
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
    /// Draw the table anew each second, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Between two tables, in microseconds.
const EVERY_US: u64 = 1_000_000;

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    peers: Vec<status::PeerDocument>,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let mut client = peer::connect(&context.config, "peers")?;
    let signals = Signals::block().map_err(Failure::internal)?;
    loop {
        let status = client.status()?;
        if arguments.watch {
            context.ui.clear();
        }
        if arguments.json {
            let verdicts = why::verdicts(&mut client, &status)?;
            context.ui.document(&Document {
                schema: "weft.peers/1",
                peers: status::peer_documents(&status, &verdicts, clock::unix_millis()),
            });
            return Ok(0);
        }
        show(context, &status);
        if !arguments.watch {
            return Ok(0);
        }
        let stopped = wait_one(signals.as_fd(), Interest::READ, Some(EVERY_US));
        if stopped.map_err(Failure::internal)? {
            // Here stopping is the normal end.
            return Ok(0);
        }
    }
}

fn show(context: &mut Context, current: &Status) {
    let (symbols, width) = (context.ui.symbols, context.ui.width());
    for line in status::peers(current, symbols, width, status::Depth::All) {
        context.ui.answer(&line);
    }
}
