//! `weft leave`: tell the coordinator, then erase the identity.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use clap::Args;

use crate::cli::{Context, down, peer, start};
use crate::daemon::texts;
use crate::failure::{Code, Failure, Result};
use crate::ipc::client::{Client, unexpected};
use crate::ipc::protocol::{Answer, Request, Status};
use crate::store;
use crate::store::folder::Folder;

/// How long the daemon may take to tell the coordinator; it gives up itself.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Args)]
pub(super) struct Arguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Erase everything here without telling the coordinator
    #[arg(long)]
    forget: bool,
}

pub(super) fn run(context: &mut Context, arguments: &Arguments) -> Result<u8> {
    let connected = Client::connect(&context.config.socket, "leave");
    if arguments.forget {
        return forget(context, connected.ok(), arguments.yes);
    }
    let mut client = match connected {
        Ok(client) => client,
        Err(failure) if failure.is(Code::CliSocketDenied) => return Err(failure),
        Err(failure) => {
            let joined = peer::has_identity(&Folder::new(&context.config.state), "leave")?;
            return Err(match joined {
                true => failure.try_command("weft leave --forget"),
                false => peer::not_joined(),
            });
        }
    };
    let status = client.status()?;
    if !confirm(context, &status, arguments.yes)? {
        context.ui.note("nothing was changed");
        return Ok(1);
    }
    match client.end(Request::Leave, PATIENCE)? {
        Some(Answer::Stopped(stopped)) => {
            start::disable(context);
            let network = status.device.map_or_else(String::new, |device| device.network);
            let removed = down::removed(stopped);
            context.ui.answer(&format!("left {network}: {removed}, keys erased"));
            Ok(0)
        }
        Some(_) => Err(unexpected()),
        None => Err(Failure::new(Code::LeaveUnconfirmed, "the daemon did not answer in 20 s")),
    }
}

/// Says what is lost and asks for the name.
fn confirm(context: &mut Context, status: &Status, yes: bool) -> Result<bool> {
    let (name, place) = status.device.as_ref().map_or_else(
        || ("join".to_owned(), "the network it is joining".to_owned()),
        |device| (device.name.clone(), format!("{} as {}", device.network, device.name)),
    );
    ask(
        context,
        &name,
        &format!("leaves {place}: its address is free for others, its keys are erased"),
        yes,
    )
}

fn ask(context: &mut Context, name: &str, effect: &str, yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        let message = "leaving needs a yes, and there is nobody to ask";
        return Err(Failure::new(Code::CliUsage, message).try_command("weft leave --yes"));
    }
    context.ui.note(effect);
    context.ui.note(&format!("type the name to go on: {name}"));
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    Ok(read.is_ok() && line.trim() == name)
}

fn forget(context: &mut Context, client: Option<Client>, yes: bool) -> Result<u8> {
    let folder = Folder::new(&context.config.state);
    if !peer::has_identity(&folder, "leave --forget")? {
        return Err(peer::not_joined());
    }
    let effect = "erases this device's keys here; the coordinator is not told and keeps its row";
    if !ask(context, "forget", effect, yes)? {
        context.ui.note("nothing was changed");
        return Ok(1);
    }
    if let Some(mut client) = client {
        client.end(Request::Down, down::PATIENCE)?;
    }
    let _lock = texts::lock_state(&folder, "leave --forget")?;
    store::erase(&mut folder.clone()).map_err(|error| texts::state_erase(&folder, &error))?;
    start::disable(context);
    context.ui.answer("forgotten: keys erased here; the coordinator was not told");
    Ok(0)
}
