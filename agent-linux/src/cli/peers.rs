//! `weft peers`: the table alone, all columns.

use clap::Args;
use serde::Serialize;

use crate::cli::{Context, status};
use crate::failure::Result;
use crate::ipc::client::Client;
use crate::os::clock;

#[derive(Args)]
pub(super) struct Arguments {
    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    peers: Vec<status::PeerDocument>,
}

pub(super) fn run(context: &mut Context) -> Result<u8> {
    let current = Client::connect(&context.config.socket, "peers")?.status()?;
    if context.ui.json {
        context.ui.document(&Document {
            schema: "weft.peers/1",
            peers: status::peer_documents(&current, clock::unix_millis()),
        });
        return Ok(0);
    }
    let (symbols, width) = (context.ui.symbols, context.ui.width());
    for line in status::peers(&current, symbols, width, status::Depth::All) {
        context.ui.answer(&line);
    }
    Ok(0)
}
