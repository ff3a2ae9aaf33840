//! `weft logs`: what the daemon wrote since it started, as far as it keeps it.

use clap::Args;

use crate::cli::Context;
use crate::failure::Result;
use crate::ipc::client::{Client, unexpected};
use crate::ipc::protocol::{Answer, Request};

#[derive(Args)]
pub(super) struct Arguments {
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let mut client = Client::connect(&context.config.socket, "logs")?;
    let follow = arguments.follow;
    client.send(Request::Logs { follow })?;
    loop {
        match client.receive(None)? {
            Some(Answer::Lines(lines)) => {
                for line in lines {
                    context.ui.answer(&line);
                }
            }
            _ => return Err(unexpected()),
        }
        if !follow {
            return Ok(0);
        }
    }
}
