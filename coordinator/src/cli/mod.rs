//! The command line. Commands that need the running server are its REST API's
//! clients; the others go to `app`.

use core::time::Duration;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::config::Overrides;
use crate::domain::key_change::GENERATIONS;

mod approve;
pub(crate) mod client;
pub(crate) mod completions;
pub(crate) mod confirm;
pub(crate) mod coordinator_key;
mod devices;
pub(crate) mod format;
mod keys;
mod network;
mod network_report;
mod policy;
mod qr;
mod relays;
pub(crate) mod remote;
mod sessions;
mod tombstones;
pub(crate) mod ui;
mod why;

/// Variables that the configuration reads.
const ENVIRONMENT: &str = "WEFT_COORDINATOR_";

/// `0.1.0 (b1946ac 2026-11-23, linux-aarch64-musl, protocol 1, map format 1)`.
const LONG_VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("WEFT_BUILD"), ", protocol 1, map format 1)");
const _: () = assert!(weft_wire::PROTOCOL == 1 && weft_wire::MAP_FORMAT == 1);

/// The coordinator of a Weft mesh: enrols devices, hands out addresses, decides
/// who may talk.
#[derive(Debug, Parser)]
#[command(name = "weft-coordinator", version = LONG_VERSION, max_term_width = 100)]
#[command(after_help = "\
Examples:
  weft-coordinator init --public mesh.example.net
  weft-coordinator key create --name lab --uses 10 --expires 7d")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Common {
    /// Configuration file [default: DIR/coordinator.toml, else
    /// /etc/weft/coordinator.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of the key file and the database [default: /var/lib/weft]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Socket of the running coordinator [default: /run/weft-coordinator.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print the bare answer only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Colours
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub(crate) color: Color,
}

/// When colours are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal that shows them.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new coordinator: key file, database, settings
    Init(Init),
    /// Run the coordinator
    Serve(Serve),
    /// Write a lost key file anew from the recovery key
    Recover(Recover),
    /// Copy the database into one file; the server may run
    Backup(Backup),
    /// Put a backup in the place of the database
    Restore(Restore),
    /// Enrolment keys: what lets devices in
    #[command(subcommand)]
    Key(keys::Command),
    /// The key that devices know this coordinator by, and its planned change
    #[command(subcommand)]
    CoordinatorKey(coordinator_key::Command),
    /// Devices
    #[command(subcommand)]
    Device(devices::Command),
    /// Who may talk to whom
    #[command(subcommand)]
    Policy(policy::Command),
    /// Relays: where devices meet that find no direct path
    #[command(subcommand)]
    Relay(relays::Command),
    /// Networks
    Network(network::Network),
    /// How devices reach each other, as they reported it last
    Sessions(sessions::Sessions),
    /// Why one device reaches another as it does
    #[command(after_help = "\
Examples:
  weft-coordinator why gw-a plc-9
  weft-coordinator why gw-a plc-9 tcp/22")]
    Why(why::Why),
    /// Why a device does not get in, by its fingerprint
    WhyNot(network::WhyNot),
    /// What operators and devices did
    Audit(network::Audit),
    /// Everything that is counted, in Prometheus' text format
    Metrics,
    /// Settings
    #[command(subcommand)]
    Config(Config),
    /// Print a script that completes commands and names
    Completions(completions::Completions),
    /// What may stand where the last word stands
    #[command(hide = true)]
    Complete(completions::Words),
}

/// Flags of `init`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Init {
    /// Name or address that devices will use, with a port if it is not 7420
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) public: Option<String>,
    /// Name of the first network
    #[arg(long, value_name = "NAME", default_value = "home")]
    pub(crate) network: String,
    /// Addresses of the first network [default: a random /16 out of 100.80.0.0
    /// to 100.127.255.255]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) ipv4: Option<String>,
    /// All devices are inside one private network
    #[arg(long)]
    pub(crate) allow_private: bool,
}

/// Flags of `serve`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Serve {
    /// Address for devices; may be repeated [default: [::]:7420]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<String>,
    /// Name or address that devices use
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) public: Option<String>,
    /// Relay too, for demonstrations: on the UDP port of the first address, and on
    /// PORT. A restart cuts what is relayed; a relay of its own is not cut
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) with_relay: Option<Option<u16>>,
}

/// Flags of `recover`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Recover {
    /// The recovery key that init printed; `-` reads it from standard input
    #[arg(long, value_name = "WREC1-…")]
    pub(crate) recovery_key: String,
    /// How often the coordinator's key was changed, where the database is lost or
    /// is a backup from before a change [default: what the database says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(GENERATIONS)))]
    pub(crate) generation: Option<u32>,
}

/// Flags of `backup`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The key file is never in it. Keep that file, or the recovery key that init
printed, apart from backups: together they are the whole coordinator.")]
pub(crate) struct Backup {
    /// Where to write it
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Put it in the place of a file that is there
    #[arg(long)]
    pub(crate) replace: bool,
}

/// Flags of `restore`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The server must not run. The database that is replaced is kept beside it. Every
enrolment key that could still let devices in is ended: how often it was used
since the backup is not known, nor whether it was revoked.")]
pub(crate) struct Restore {
    /// What `backup` wrote
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only look whether it is sound and fits
    #[arg(long)]
    pub(crate) check: bool,
    /// Leave enrolment keys as the backup knows them
    #[arg(long)]
    pub(crate) keep_keys: bool,
}

/// What to do with settings.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check the settings and show where each value comes from
    Check,
}

impl Args {
    /// What flags and environment say about settings.
    pub(crate) fn overrides(&self) -> Overrides {
        let mut flags = Vec::new();
        let text = |path: &PathBuf| path.display().to_string();
        let mut flag = |name: &'static str, value: Option<String>| {
            flags.extend(value.map(|value| (name, value)));
        };
        flag("data", self.common.data.as_ref().map(text));
        flag("socket", self.common.socket.as_ref().map(text));
        match &self.command {
            Command::Init(init) => flag("public", init.public.clone()),
            Command::Serve(serve) => {
                flag("public", serve.public.clone());
                flag("listen", (!serve.listen.is_empty()).then(|| serve.listen.join(",")));
            }
            _ => {}
        }
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(ENVIRONMENT))?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        Overrides { file: self.common.config.clone(), flags, environment: variables.collect() }
    }
}

/// How long an action waits for devices to confirm.
const CONFIRM_WAIT: Duration = Duration::from_secs(2);

fn parse_span(text: &str) -> Result<Duration, String> {
    format::parse_span(text)
}
