//! Commands that the running server does.

use crate::config::Config;
use crate::failure::Failure;

use super::client::Client;
use super::{
    Args, Command, completions, coordinator_key, devices, keys, network, policy, relays, sessions,
    why,
};

/// What commands know beside their own flags.
pub(crate) struct Context<'a> {
    pub(crate) client: Client<'a>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    /// Unix milliseconds.
    pub(crate) now: u64,
}

/// Runs a command and gives its exit status.
///
/// # Errors
///
/// What the server or the command line says.
pub(crate) async fn run(args: &Args, config: &Config, now: u64) -> Result<u8, Vec<Failure>> {
    let client = Client::new(&config.socket);
    let context = Context { client, json: args.common.json, quiet: args.common.quiet, now };
    let done = match &args.command {
        Command::Key(command) => keys::run(&context, command).await,
        Command::CoordinatorKey(command) => coordinator_key::run(&context, command).await,
        Command::Device(command) => devices::run(&context, command).await,
        Command::Policy(command) => return policy::run(&context, command).await,
        Command::Relay(command) => relays::run(&context, command).await,
        Command::Network(command) => network::run(&context, command).await,
        Command::Sessions(command) => sessions::run(&context, command).await,
        Command::Why(command) => why::run(&context, command).await,
        Command::WhyNot(command) => network::why_not(&context, command).await,
        Command::Audit(command) => network::audit(&context, command).await,
        Command::Metrics => network::metrics(&context).await,
        Command::Complete(words) => {
            completions::complete(&context, words).await;
            Ok(0)
        }
        Command::Init(_)
        | Command::Serve(_)
        | Command::Recover(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Config(_)
        | Command::Completions(_) => Ok(0),
    };
    done.map_err(|failure| vec![failure])
}
