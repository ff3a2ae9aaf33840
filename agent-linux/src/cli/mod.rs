//! The command line: what can be typed, and who does it.

mod completions;
mod down;
mod join;
mod key;
mod leave;
mod logs;
mod netcheck;
mod overview;
mod peer;
mod peers;
mod ping;
mod progress;
mod start;
mod status;
mod story;
mod typo;
mod up;
mod why;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

pub(crate) use start::READY;

use crate::config::{self, Config, Flags};
use crate::failure::{Code, Failure, Result};
use crate::output::{Colour, Settings, Ui};

/// `0.1.0 (b1946ac 2026-11-23, linux-aarch64-musl, protocol 1, map format 1)`.
const LONG_VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("WEFT_BUILD"), ", protocol 1, map format 1)");
const _: () = assert!(weft_wire::PROTOCOL == 1 && weft_wire::MAP_FORMAT == 1);

/// People look at examples first, so they stand before the options.
const EXAMPLES_FIRST: &str =
    "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}";

/// A WireGuard mesh for microcontrollers and Linux gateways.
#[derive(Parser)]
#[command(name = "weft", version = LONG_VERSION, max_term_width = 100, disable_help_subcommand = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Global {
    /// Folder of this device's state [default: /var/lib/weft, WEFT_STATE]
    #[arg(long, value_name = "DIR", global = true, hide_short_help = true)]
    state: Option<PathBuf>,
    /// The daemon's socket [default: /run/weft.sock, WEFT_SOCKET]
    #[arg(long, value_name = "PATH", global = true, hide_short_help = true)]
    socket: Option<PathBuf>,
    /// Configuration [default: /etc/weft/weft.toml, WEFT_CONFIG]
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    config: Option<PathBuf>,
    /// When to colour
    #[arg(long, value_enum, default_value_t, global = true, hide_short_help = true)]
    color: Colour,
    /// Letters instead of symbols
    #[arg(long, global = true, hide_short_help = true)]
    ascii: bool,
    /// Only errors on the error stream
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Debug lines of the daemon that this command starts or is; -vv for all
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Make this machine a member of a network
    #[command(
        before_help = "Examples:\n  sudo weft join WEFT1…\n  sudo weft join - < key.txt",
        help_template = EXAMPLES_FIRST
    )]
    Join(join::Arguments),
    /// Start the daemon
    Up(up::Arguments),
    /// Stop the daemon and take everything back; still a member
    Down,
    /// Leave the network for good and erase this device's keys
    Leave(leave::Arguments),
    /// This machine, its coordinator and its peers
    Status(status::Arguments),
    /// The peers, all columns
    Peers(peers::Arguments),
    /// Ask a peer through the tunnel, and say which path was used
    #[command(
        before_help = "Examples:\n  weft ping gw-b\n  weft ping -c 0 100.93.0.3",
        help_template = EXAMPLES_FIRST
    )]
    Ping(ping::Arguments),
    /// What this network does to UDP, and how relays are reached
    #[command(
        before_help = "Examples:\n  weft netcheck\n  weft netcheck --lifetime\n  weft netcheck --server stun.example.net:3478",
        help_template = EXAMPLES_FIRST
    )]
    Netcheck(netcheck::Arguments),
    /// Why a peer is reached as it is
    #[command(
        before_help = "Examples:\n  weft why gw-b\n  weft why gw-b --lang zh",
        help_template = EXAMPLES_FIRST
    )]
    Why(why::Arguments),
    /// What the daemon wrote
    Logs(logs::Arguments),
    /// A shell's completion script, on standard output
    Completions(completions::Arguments),
    /// Words that may come next; called by the completion scripts
    #[command(hide = true)]
    Complete(completions::Words),
}

/// What every command gets.
struct Context {
    ui: Ui,
    config: Config,
}

/// Runs the program and returns its exit status.
pub(crate) fn run() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let command = cli.command;
    let json = matches!(&command, Some(command) if command.wants_json());
    let mut ui = Ui::new(&Settings {
        json,
        quiet: cli.global.quiet,
        ascii: cli.global.ascii,
        colour: cli.global.color,
    });
    let Some(command) = command else {
        overview::print(&mut ui);
        return 2;
    };
    let flags = Flags {
        state: cli.global.state,
        socket: cli.global.socket,
        config: cli.global.config,
        interface: command.interface(),
        data_budget: command.data_budget(),
        metered: command.is_metered(),
        verbose: cli.global.verbose,
    };
    let loaded = config::load(&flags, |failure| ui.failure_line(failure));
    let done = loaded.and_then(|config| {
        let context = Context {
            ui: Ui::new(&Settings {
                json,
                quiet: cli.global.quiet,
                ascii: cli.global.ascii,
                colour: cli.global.color,
            }),
            config,
        };
        command.run(context)
    });
    match done {
        Ok(status) => status,
        Err(failure) => {
            ui.failure(&failure);
            failure.exit()
        }
    }
}

impl Command {
    const fn wants_json(&self) -> bool {
        match self {
            Self::Join(arguments) => arguments.json,
            Self::Status(arguments) => arguments.json,
            Self::Peers(arguments) => arguments.json,
            Self::Ping(arguments) => arguments.json,
            Self::Why(arguments) => arguments.json,
            Self::Netcheck(arguments) => arguments.json,
            _ => false,
        }
    }

    const fn is_metered(&self) -> bool {
        match self {
            Self::Join(arguments) => arguments.metered,
            Self::Up(arguments) => arguments.metered,
            Self::Netcheck(arguments) => arguments.metered,
            _ => false,
        }
    }

    fn interface(&self) -> Option<String> {
        match self {
            Self::Join(arguments) => arguments.interface.clone(),
            Self::Up(arguments) => arguments.interface.clone(),
            _ => None,
        }
    }

    fn data_budget(&self) -> Option<String> {
        match self {
            Self::Join(arguments) => arguments.data_budget.clone(),
            Self::Up(arguments) => arguments.data_budget.clone(),
            _ => None,
        }
    }

    fn run(self, mut context: Context) -> Result<u8> {
        match self {
            Self::Join(arguments) => join::run(&mut context, &arguments),
            Self::Up(arguments) => up::run(&mut context, &arguments),
            Self::Down => down::run(&mut context),
            Self::Leave(arguments) => leave::run(&mut context, &arguments),
            Self::Status(arguments) => status::run(&mut context, &arguments),
            Self::Peers(arguments) => peers::run(&mut context, &arguments),
            Self::Ping(arguments) => ping::run(&mut context, &arguments),
            Self::Why(arguments) => why::run(&mut context, &arguments),
            Self::Netcheck(arguments) => netcheck::run(&mut context, &arguments),
            Self::Logs(arguments) => logs::run(&mut context, &arguments),
            Self::Completions(arguments) => completions::run(&mut context, &arguments),
            Self::Complete(words) => completions::complete(&mut context, &words),
        }
    }
}

/// Help and version go out as they are; a wrong command line becomes a failure.
fn usage(error: &clap::Error) -> u8 {
    let mut ui = Ui::new(&Settings::default());
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            ui.answer(error.render().ansi().to_string().trim_end());
            0
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            // Arguments that are missing stand one a line below the sentence.
            let mut lines = text.lines();
            let mut first = lines.next().unwrap_or_default().to_owned();
            for argument in lines.map_while(|line| line.strip_prefix("  ")) {
                first.push(' ');
                first.push_str(argument);
            }
            // "a similar subcommand exists: 'status'"
            let tips = text.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
            let similar = tips.filter(|tip| tip.contains(" similar "));
            if let Some((_, names)) = similar.filter_map(|tip| tip.split_once(": ")).next() {
                first.push_str("; there is ");
                first.push_str(names);
            }
            let failure = Failure::new(Code::CliUsage, first);
            let known = Cli::command();
            let command = std::env::args().skip(1).find(|word| {
                let mut commands = known.get_subcommands();
                commands.any(|command| command.get_name() == word && !command.is_hide_set())
            });
            let help = command.map_or_else(
                || "weft --help".to_owned(),
                |command| format!("weft {command} --help"),
            );
            ui.failure(&failure.try_command(help));
            2
        }
    }
}
